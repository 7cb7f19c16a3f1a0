//! [`Grant`]: what a registry is shown so that it allows something, and how that is had.
//!
//! Nothing is shown to a registry that does not ask. One that does names its authorization server, which gives tokens, or wants the
//! password itself ([tokens](https://distribution.github.io/distribution/spec/auth/token/), [identity
//! tokens](https://distribution.github.io/distribution/spec/auth/oauth/)).
//!
//! A secret goes to an authorization server over https. If the registry itself is reached in plain http, it also goes to
//! this machine and to the registry's host in plain http. No redirect is followed with it.

use std::sync::PoisonError;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, RequestBuilder, Url};
use serde::Deserialize;

use super::challenge::Challenge;
use super::http::{Answer, Call, Complaint, Fault, body, call, is_loopback, within};
use super::{Credentials, RegistryError, Repository};
use crate::text::quotation;

/// What is shown with each request.
#[derive(Clone, PartialEq, Eq, Default)]
pub(super) enum Grant {
    #[default]
    Nothing,
    Password(String, String),
    /// Of an authorization server, which gives another when it has expired.
    Token(String),
    /// Of the caller.
    GivenToken(String),
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nothing => "Nothing",
            Self::Password(..) => "Password(..)",
            Self::Token(_) => "Token(..)",
            Self::GivenToken(_) => "GivenToken(..)",
        })
    }
}

impl Grant {
    pub(super) fn show(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::Nothing => request,
            Self::Password(user, password) => request.basic_auth(user, Some(password)),
            Self::Token(token) | Self::GivenToken(token) => request.bearer_auth(token),
        }
    }
}

/// Returns whether a header can hold the token. The tokens of RFC 6750 are visible ASCII.
fn is_sendable(token: &str) -> bool {
    token.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The answer of an authorization server.
#[derive(Deserialize)]
struct Issued {
    token: Option<String>,
    access_token: Option<String>,
}

impl Repository<'_> {
    /// Returns what is shown at present.
    pub(super) fn grant(&self, push: bool) -> Grant {
        let grants = self.host.grants.lock().unwrap_or_else(PoisonError::into_inner);
        grants.get(&(self.name.path().to_owned(), push)).cloned().unwrap_or_default()
    }

    /// Asks once, and again with a new grant where the registry wants one. A token that is new and refused is replaced once more:
    /// registries of several servers learn of it at different times.
    pub(super) fn with_grant<T>(
        &self,
        push: bool,
        action: &str,
        ask: impl Fn(&Grant) -> Result<Result<T, Complaint>, RegistryError>,
    ) -> Result<Result<T, Complaint>, RegistryError> {
        let mut grant = self.grant(push);
        let mut fresh = 0;
        loop {
            let answer = ask(&grant)?;
            self.host.is_reached(&self.host.base);
            match answer {
                Err(complaint) if complaint.status == 401 && complaint.other.is_none() && fresh < 2 => {
                    let new = self.authenticate(push, action, &grant, &complaint)?;
                    if new == grant && !(matches!(grant, Grant::Token(_)) && fresh == 1) {
                        return Ok(Err(complaint));
                    }
                    (grant, fresh) = (new, fresh + 1);
                }
                answer => return Ok(answer),
            }
        }
    }

    /// Gets a new grant, because the registry refused `shown`.
    fn authenticate(
        &self,
        push: bool,
        action: &str,
        shown: &Grant,
        complaint: &Complaint,
    ) -> Result<Grant, RegistryError> {
        // The lock is held until there is one: the others that need it wait and find it.
        let mut grants = self.host.grants.lock().unwrap_or_else(PoisonError::into_inner);
        let grant = grants.entry((self.name.path().to_owned(), push)).or_default();
        if grant != shown {
            return Ok(grant.clone());
        }
        let asked;
        let challenges = match complaint.challenges.is_empty() {
            false => &complaint.challenges,
            // Some say it at the root of the interface only.
            true => {
                asked = self.challenges_of_root(action)?;
                &asked
            }
        };
        *grant = self.new_grant(push, challenges, self.client.credentials(&self.name)?)?;
        Ok(grant.clone())
    }

    fn challenges_of_root(&self, action: &str) -> Result<Vec<Challenge>, RegistryError> {
        let url = self.host.base.join("v2/").expect("it is a path");
        match self.answer(action, self.call(Method::GET, url, &Grant::Nothing))? {
            Answer::Good(_) => Ok(Vec::new()),
            Answer::Bad(complaint) => Ok(complaint.challenges),
        }
    }

    /// Describes what the registry's complaint means.
    pub(super) fn complains(&self, action: &str, complaint: Complaint) -> RegistryError {
        let (registry, action) = (self.host.name.clone(), action.to_owned());
        let Complaint { status, said, retry_after, other, .. } = complaint;
        if let Some(server) = other {
            return RegistryError::OtherServer { registry, server, action, status, said, retry_after };
        }
        if !matches!(status, 401 | 403) {
            return RegistryError::Refused { registry, action, status, said, retry_after };
        }
        let with_credentials = self.client.credentials(&self.name).is_ok_and(|found| found.is_some());
        RegistryError::Denied { registry, action, status, said, with_credentials }
    }

    fn new_grant(
        &self,
        push: bool,
        challenges: &[Challenge],
        credentials: Option<Credentials>,
    ) -> Result<Grant, RegistryError> {
        let bearer = challenges.iter().find(|found| found.is("bearer") && found.get("realm").is_some());
        let basic = challenges.iter().find(|found| found.is("basic"));
        if let (None, None, Some(first)) = (bearer, basic, challenges.first()) {
            let scheme = quotation(&first.scheme);
            return Err(self.odd(format!("401 with a challenge that plywood does not know ({scheme:?})")));
        }
        let is_first = |one: &Challenge, other: Option<&Challenge>| {
            let at = |challenge: &Challenge| challenges.iter().position(|found| found == challenge);
            other.is_none_or(|other| at(one) <= at(other))
        };
        match (credentials, bearer) {
            (Some(Credentials::RegistryToken(token)), _) if is_sendable(&token) => {
                Ok(Grant::GivenToken(token))
            }
            (Some(Credentials::RegistryToken(_)), _) => {
                let registry = &self.host.name;
                let reason = format!("the token for {registry} has characters that no request can hold");
                Err(RegistryError::Client(reason.into()))
            }
            (Some(Credentials::IdentityToken(token)), Some(bearer)) => {
                self.exchange(bearer, &token, push).map(Grant::Token)
            }
            (Some(Credentials::Password { user, password }), Some(bearer)) if is_first(bearer, basic) => {
                self.token(bearer, Some((&user, &password)), push).map(Grant::Token)
            }
            (Some(Credentials::Password { user, password }), _) => Ok(Grant::Password(user, password)),
            (None, Some(bearer)) => self.token(bearer, None, push).map(Grant::Token),
            (Some(Credentials::IdentityToken(_)) | None, _) => Ok(Grant::Nothing),
        }
    }

    /// Returns the address of the authorization server, if what is sent may be sent there.
    fn server(&self, challenge: &Challenge, with_secret: bool) -> Result<Url, RegistryError> {
        let realm = challenge.get("realm").unwrap_or_default();
        let server =
            Url::parse(realm).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let Some(server) = server else {
            return Err(self.odd("401 with no URL for its authorization server".to_owned()));
        };
        let host = server.host_str().unwrap_or_default();
        let (is_tls, is_here) = (server.scheme() == "https", is_loopback(host));
        let own = Some(host) == self.host.base.host_str();
        // A registry that is spoken to by TLS gets no secret in plain http, not even on this machine.
        let is_allowed = match with_secret {
            true => is_tls || self.host.is_plain && (is_here || own),
            false => is_tls || self.host.is_plain || is_here,
        };
        if !is_allowed {
            let host = quotation(host);
            return Err(self.odd(format!(
                "401 with an authorization server in plain http ({host}), which gets no secret"
            )));
        }
        Ok(server)
    }

    /// Gets a token with a password or without one.
    fn token(
        &self,
        challenge: &Challenge,
        password: Option<(&str, &str)>,
        push: bool,
    ) -> Result<String, RegistryError> {
        let mut url = self.server(challenge, password.is_some())?;
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = challenge.get("service") {
                query.append_pair("service", service);
            }
            query.append_pair("scope", &self.scope(push));
            if let Some((user, _)) = password {
                query.append_pair("account", user);
            }
        }
        let grant = match password {
            Some((user, password)) => Grant::Password(user.to_owned(), password.to_owned()),
            None => Grant::Nothing,
        };
        let is_secret = password.is_some();
        let call = Call { base: url.clone(), is_secret, ..self.call(Method::GET, url, &grant) };
        self.issued(call, |complaint| complaint)
    }

    /// Gets a token for an identity token.
    fn exchange(&self, challenge: &Challenge, identity: &str, push: bool) -> Result<String, RegistryError> {
        let server = self.server(challenge, true)?;
        let mut form = Url::parse("form:").expect("it is a URL");
        form.query_pairs_mut()
            .append_pair("grant_type", "refresh_token")
            .append_pair("service", challenge.get("service").unwrap_or_default())
            .append_pair("client_id", "plywood")
            .append_pair("scope", &self.scope(push))
            .append_pair("refresh_token", identity);
        let base = server.clone();
        let mut call = Call { base, ..self.call(Method::POST, server, &Grant::Nothing) };
        call.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        call.body = Some(Bytes::from(form.query().unwrap_or_default().to_owned()));
        call.is_secret = true;
        // A wrong token is a bad request in that protocol.
        self.issued(call, |complaint| match complaint.status {
            400 => Complaint { status: 401, ..complaint },
            _ => complaint,
        })
    }

    fn scope(&self, push: bool) -> String {
        format!("repository:{}:{}", self.name.path(), if push { "pull,push" } else { "pull" })
    }

    /// Asks an authorization server.
    fn issued(&self, asked: Call, meant: impl Fn(Complaint) -> Complaint) -> Result<String, RegistryError> {
        let action = format!("log in to {}", self.host.name);
        let (pace, limit) = (asked.pace, self.client.options.limits.token_bytes);
        let answer = self.client.engine.spawn(async move {
            match call(asked).await? {
                Answer::Good(response) => Ok(Ok(within(pace.patience, body(response, limit, pace)).await??)),
                Answer::Bad(complaint) => Ok(Err(complaint)),
            }
        });
        let answer: Result<Result<Vec<u8>, Complaint>, Fault> =
            answer.wait(self.cancel).map_err(|why| self.host.no_result(&action, why))?;
        let answer = match answer {
            Err(Fault::TooLong) => {
                return Err(self.odd(format!("with a token of more than {limit} bytes")));
            }
            answer => answer.map_err(|fault| self.host.fault(&action, fault))?,
        };
        let answer = answer.map_err(|complaint| self.complains(&action, meant(complaint)))?;
        // An error of the parser could quote the token.
        let issued: Option<Issued> = serde_json::from_slice(&answer).ok();
        let tokens = issued.into_iter().flat_map(|issued| [issued.token, issued.access_token]).flatten();
        match tokens.into_iter().find(|token| !token.is_empty()) {
            Some(token) if is_sendable(&token) => Ok(token),
            Some(_) => Err(self.odd("with a token that no request can hold".to_owned())),
            None => Err(self.odd("without a token".to_owned())),
        }
    }

    /// Describes an answer to a login that is against the rules.
    fn odd(&self, answer: String) -> RegistryError {
        let registry = self.host.name.clone();
        RegistryError::Protocol { action: format!("log in to {registry}"), registry, answer }
    }

    /// Makes a request without headers and body.
    pub(super) fn call(&self, method: Method, url: Url, grant: &Grant) -> Call {
        Call {
            client: self.host.http.clone(),
            method,
            url,
            headers: HeaderMap::new(),
            body: None,
            grant: grant.clone(),
            base: self.host.base.clone(),
            is_secret: false,
            pace: self.host.pace,
        }
    }

    /// Sends a request and waits for the answer.
    pub(super) fn answer(&self, action: &str, asked: Call) -> Result<Answer, RegistryError> {
        let asked = self.client.engine.spawn(call(asked));
        let answer = asked.wait(self.cancel).map_err(|why| self.host.no_result(action, why))?;
        let answer = answer.map_err(|fault| self.host.fault(action, fault))?;
        if let Answer::Good(response) = &answer {
            self.host.is_reached(response.url());
        }
        Ok(answer)
    }
}
