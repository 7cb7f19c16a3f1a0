//! [`Grant`]: what a registry is shown so that it allows something, and how that is had.
//!
//! Nothing is shown to a registry that does not ask. One that does names its authorization server or wants the password itself:
//! oci-client sees to both. What it cannot do, to exchange an identity token, is done here.

use std::sync::PoisonError;

use oci_client::RegistryOperation;
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use oci_client::token_cache::{RegistryToken, RegistryTokenType};
use reqwest::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use reqwest::{RequestBuilder, Url};
use serde::Deserialize;

use super::host::{Answer, Complaint, send};
use super::{Credentials, RegistryError, Repository};

/// What is shown with each request.
#[derive(Clone, PartialEq, Eq, Default)]
pub(super) enum Grant {
    #[default]
    Nothing,
    Password(String, String),
    Token(String),
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nothing => "Nothing",
            Self::Password(..) => "Password(..)",
            Self::Token(_) => "Token(..)",
        })
    }
}

impl Grant {
    pub(super) fn show(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::Nothing => request,
            Self::Password(user, password) => request.basic_auth(user, Some(password)),
            Self::Token(token) => request.bearer_auth(token),
        }
    }
}

/// An authorization server, as a registry names it.
#[derive(PartialEq, Eq, Debug)]
struct Challenge {
    realm: String,
    service: Option<String>,
}

#[derive(Deserialize)]
struct Exchanged {
    access_token: String,
}

impl Repository<'_> {
    /// What is shown at present.
    pub(super) fn grant(&self, push: bool) -> Grant {
        let grants = self.host.grants.lock().unwrap_or_else(PoisonError::into_inner);
        grants.get(&(self.name.path().to_owned(), push)).cloned().unwrap_or_default()
    }

    /// Gets a new grant, because the registry did not like `shown`.
    pub(super) fn authenticate(&self, push: bool, shown: &Grant) -> Result<Grant, RegistryError> {
        // The lock is held until there is one: the others who need it wait and find it.
        let mut grants = self.host.grants.lock().unwrap_or_else(PoisonError::into_inner);
        let grant = grants.entry((self.name.path().to_owned(), push)).or_default();
        if grant != shown {
            return Ok(grant.clone());
        }
        *grant = self.new_grant(push, self.client.credentials(&self.name)?)?;
        Ok(grant.clone())
    }

    /// What the registry's complaint means.
    pub(super) fn complains(&self, action: &str, complaint: Complaint) -> RegistryError {
        let (registry, action) = (self.host.name.clone(), action.to_owned());
        let Complaint { status, said, retry_after } = complaint;
        if !matches!(status, 401 | 403) {
            return RegistryError::Refused { registry, action, status, said, retry_after };
        }
        let with_credentials = self.client.credentials(&self.name).is_ok_and(|found| found.is_some());
        RegistryError::Denied { registry, action, status, said, with_credentials }
    }

    fn new_grant(&self, push: bool, credentials: Option<Credentials>) -> Result<Grant, RegistryError> {
        let action = format!("log in to {}", self.host.name);
        let (auth, otherwise) = match credentials {
            None => (RegistryAuth::Anonymous, Grant::Nothing),
            Some(Credentials::Password { user, password }) => {
                (RegistryAuth::Basic(user.clone(), password.clone()), Grant::Password(user, password))
            }
            Some(Credentials::RegistryToken(token)) => (RegistryAuth::Bearer(token), Grant::Nothing),
            Some(Credentials::IdentityToken(token)) => match self.exchange(&token, push)? {
                Some(token) => (RegistryAuth::Bearer(token), Grant::Nothing),
                None => (RegistryAuth::Anonymous, Grant::Nothing),
            },
        };
        let operation = if push { RegistryOperation::Push } else { RegistryOperation::Pull };
        let (oci, name) = (self.host.oci.0.clone(), self.oci_reference());
        let asked = self.client.engine.spawn(async move {
            let token = oci.auth(&name, &auth, operation).await?;
            if let (RegistryAuth::Bearer(_), Some(token)) = (auth, &token) {
                // It keeps the first that it got, which may be out of date.
                let token = RegistryTokenType::Bearer(RegistryToken::Token { token: token.clone() });
                oci.tokens.insert(&name, operation, token).await;
            }
            Ok(token)
        });
        let token: Result<_, OciDistributionError> =
            asked.wait(self.cancel).map_err(|why| self.host.no_result(&action, why))?;
        match token {
            Ok(Some(token)) => Ok(Grant::Token(token)),
            Ok(None) => Ok(otherwise),
            Err(error) => Err(self.failed(&action, error)),
        }
    }

    /// Gets a token for an identity token. `None` if the registry has no server for that.
    fn exchange(&self, identity: &str, push: bool) -> Result<Option<String>, RegistryError> {
        let action = format!("log in to {}", self.host.name);
        let http = &self.host.http;
        let ask = http.get(format!("{}/v2/", self.host.base));
        let asked = self.client.engine.spawn(async move {
            let response = ask.send().await?;
            let all = response.headers().get_all(WWW_AUTHENTICATE);
            Ok(all.iter().filter_map(|header| challenge(header.to_str().ok()?)).next())
        });
        let asked = asked.wait(self.cancel).map_err(|why| self.host.no_result(&action, why))?;
        let asked = asked.map_err(|error| self.host.no_answer(&action, error))?;
        let Some(Challenge { realm, service }) = asked else { return Ok(None) };
        let odd = |answer: &str| RegistryError::Protocol {
            registry: self.host.name.clone(),
            action: action.clone(),
            answer: answer.to_owned(),
        };
        let server = Url::parse(&realm).map_err(|_| odd("with no URL for its authorization server"))?;
        // What is secret does not leave in the clear because a registry says so.
        if self.host.base.starts_with("https:") && server.scheme() != "https" {
            return Err(odd("with an authorization server that cannot keep a secret"));
        }
        let rights = if push { "pull,push" } else { "pull" };
        let mut form = Url::parse("form:").expect("it is an URL");
        form.query_pairs_mut()
            .append_pair("grant_type", "refresh_token")
            .append_pair("service", service.as_deref().unwrap_or_default())
            .append_pair("client_id", "plywood")
            .append_pair("scope", &format!("repository:{}:{rights}", self.name.path()))
            .append_pair("refresh_token", identity);
        let body = form.query().unwrap_or_default().to_owned();
        let request = http.post(server).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body);
        let asked = self.client.engine.spawn(async move {
            Ok(match send(request).await? {
                Answer::Good(response) => Ok(response.bytes().await?),
                Answer::Bad(complaint) => Err(complaint),
            })
        });
        let answer: reqwest::Result<Result<_, Complaint>> =
            asked.wait(self.cancel).map_err(|why| self.host.no_result(&action, why))?;
        let answer = answer.map_err(|error| self.host.no_answer(&action, error))?;
        let answer = answer.map_err(|complaint| match complaint.status {
            // What is wrong with a token is a bad request to that protocol.
            400 => self.complains(&action, Complaint { status: 401, ..complaint }),
            _ => self.complains(&action, complaint),
        })?;
        let token = serde_json::from_slice::<Exchanged>(&answer);
        Ok(Some(token.map_err(|_| odd("without a token"))?.access_token))
    }

    /// An error of oci-client, as one of ours. Its URLs may hold what is nobody's business.
    pub(super) fn failed(&self, action: &str, error: OciDistributionError) -> RegistryError {
        use super::error::said;
        let complaint = |status, said| Complaint { status, said, retry_after: None };
        match error {
            OciDistributionError::AuthenticationFailure(text) => {
                self.complains(action, complaint(401, said(text.as_bytes())))
            }
            OciDistributionError::UnauthorizedError { .. } => {
                self.complains(action, complaint(401, "Unauthorized".to_owned()))
            }
            OciDistributionError::ServerError { code, message, .. } => {
                self.complains(action, complaint(code, said(message.as_bytes())))
            }
            OciDistributionError::RequestError(error) => self.host.no_answer(action, error),
            OciDistributionError::SpecViolationError(answer)
            | OciDistributionError::RegistryTokenDecodeError(answer) => RegistryError::Protocol {
                registry: self.host.name.clone(),
                action: action.to_owned(),
                answer,
            },
            other => RegistryError::Protocol {
                registry: self.host.name.clone(),
                action: action.to_owned(),
                answer: other.to_string(),
            },
        }
    }
}

/// Reads `Bearer realm="…",service="…"`.
fn challenge(header: &str) -> Option<Challenge> {
    let (scheme, mut rest) = header.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service) = (None, None);
    while let Some((key, after)) = rest.split_once('=') {
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').map_or((after, ""), |(value, rest)| (value, rest)),
        };
        match key.trim().to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value.to_owned()),
            "service" => service = Some(value.to_owned()),
            _ => {}
        }
        rest = after.trim_start().trim_start_matches(',').trim_start();
    }
    Some(Challenge { realm: realm?, service })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authorization_server_is_read_from_the_header_that_names_it() {
        let header = r#"Bearer realm="https://a.io/token",service="r.io",scope="repository:x:pull,push""#;
        let expected = |service: Option<&str>| {
            Some(Challenge { realm: "https://a.io/token".to_owned(), service: service.map(str::to_owned) })
        };
        assert_eq!(challenge(header), expected(Some("r.io")));
        assert_eq!(challenge(r#"bearer service=r.io, realm="https://a.io/token""#), expected(Some("r.io")));
        assert_eq!(challenge(r#"Bearer realm="https://a.io/token""#), expected(None));
        assert_eq!(challenge(r#"Basic realm="x""#), None);
        assert_eq!(challenge(r#"Bearer realm="x"#), None);
        assert_eq!(challenge("Bearer"), None);
    }
}
