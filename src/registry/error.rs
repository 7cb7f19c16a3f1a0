//! [`RegistryError`]: what can go wrong between here and a registry.
//!
//! Messages name the registry, the repository and what was wanted, and repeat what the registry said. None holds a secret.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::digest::Digest;
use crate::image::ImageError;
use crate::text::quotation;

/// Something could not be had from a registry, or not be given to it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// It wants credentials, or others, or does not allow it with them.
    #[error("{registry} does not allow to {action} ({status}{said})", said = then(said))]
    Denied {
        /// The registry.
        registry: String,
        /// What was wanted.
        action: String,
        /// The HTTP status.
        status: u16,
        /// The registry's own words.
        said: String,
        /// Whether credentials were given.
        with_credentials: bool,
    },
    /// It does not have that.
    #[error("{registry} has no {what}{said}", said = then(said))]
    NotFound {
        /// The registry.
        registry: String,
        /// What was wanted.
        what: String,
        /// The registry's own words.
        said: String,
    },
    /// It answered with an error.
    #[error("{registry} refused to {action} ({status}{said})", said = then(said))]
    Refused {
        /// The registry.
        registry: String,
        /// What was wanted.
        action: String,
        /// The HTTP status.
        status: u16,
        /// The registry's own words.
        said: String,
        /// After what time it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// Another server answered with an error, to which the registry led by a redirect or a location for an upload. No
    /// credentials for the registry can help.
    #[error("{server}, to which {registry} leads, refused to {action} ({status}{said})", said = then(said))]
    OtherServer {
        /// The registry.
        registry: String,
        /// The other server, as `host:port`.
        server: String,
        /// The refused action.
        action: String,
        /// The HTTP status.
        status: u16,
        /// The server's own words.
        said: String,
        /// The time after which the server allows another request.
        retry_after: Option<Duration>,
    },
    /// It was never reached: there is no such host, nobody answers there, or it is not who it should be.
    #[error("cannot reach {registry}")]
    Unreachable {
        /// The registry.
        registry: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The connection broke, more often than it was worth to try again.
    #[error("cannot {action}: the connection to {registry} broke")]
    Broken {
        /// The registry.
        registry: String,
        /// What was wanted.
        action: String,
        /// How.
        source: Box<dyn Error + Send + Sync>,
    },
    /// What it gave is not what was asked for.
    #[error("{registry} gave something else for {expected}: {actual}")]
    Mismatch {
        /// The registry.
        registry: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// What is pushed is not what the name says: its digest is another there.
    #[error("what is pushed to {registry} is {actual}, not {expected}")]
    NotTheDigest {
        /// The registry.
        registry: String,
        /// The digest in the name.
        expected: Digest,
        /// The digest of what is pushed.
        actual: Digest,
    },
    /// What it gave is no manifest and no index.
    #[error("{registry} gave no manifest for {what}")]
    Document {
        /// The registry.
        registry: String,
        /// What was asked for.
        what: String,
        /// What is wrong with it.
        source: ImageError,
    },
    /// An answer is none that a registry gives.
    #[error("cannot {action}: {registry} answered {answer}")]
    Protocol {
        /// The registry.
        registry: String,
        /// What was wanted.
        action: String,
        /// What it answered.
        answer: String,
    },
    /// A file with credentials cannot be used.
    #[error("cannot use the credentials in {path:?}: {reason}")]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A program that keeps credentials failed.
    #[error("{program} gives no credentials for {registry}: {reason}")]
    Helper {
        /// The program.
        program: String,
        /// The registry.
        registry: String,
        /// What it said.
        reason: String,
    },
    /// What is to be sent cannot be read.
    #[error("cannot read {digest} to send it")]
    Source {
        /// The content.
        digest: Digest,
        /// Why.
        source: io::Error,
    },
    /// The client cannot be made.
    #[error("cannot make a client for registries")]
    Client(#[source] Box<dyn Error + Send + Sync>),
    /// The caller wished to stop.
    #[error("it was cancelled")]
    Cancelled,
}

impl RegistryError {
    /// A short stable word for what went wrong, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Denied { .. } => "access-denied",
            Self::NotFound { .. } => "not-found",
            Self::Refused { .. } | Self::OtherServer { .. } | Self::Protocol { .. } => "registry",
            Self::Unreachable { .. } | Self::Broken { .. } => "unreachable",
            Self::Mismatch { .. } | Self::NotTheDigest { .. } => "digest-mismatch",
            Self::Document { .. } => "invalid-image",
            Self::Credentials { .. } | Self::Helper { .. } => "invalid-credentials",
            Self::Source { .. } | Self::Client(_) => "io",
            Self::Cancelled => "cancelled",
        }
    }

    /// What the message names, each by itself.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let mut facts = Vec::new();
        match self {
            Self::Denied { registry, status, said, .. } | Self::Refused { registry, status, said, .. } => {
                facts.push(("registry", registry.clone()));
                facts.push(("status", status.to_string()));
                facts.push(("said", said.clone()));
            }
            Self::OtherServer { registry, server, status, said, .. } => {
                facts.push(("registry", registry.clone()));
                facts.push(("server", server.clone()));
                facts.push(("status", status.to_string()));
                facts.push(("said", said.clone()));
            }
            Self::NotFound { registry, what, .. } | Self::Document { registry, what, .. } => {
                facts.push(("registry", registry.clone()));
                facts.push(("what", what.clone()));
            }
            Self::Mismatch { registry, expected, actual }
            | Self::NotTheDigest { registry, expected, actual } => {
                facts.push(("registry", registry.clone()));
                facts.push(("expected", expected.to_string()));
                facts.push(("actual", actual.to_string()));
            }
            Self::Unreachable { registry, .. }
            | Self::Broken { registry, .. }
            | Self::Protocol { registry, .. }
            | Self::Helper { registry, .. } => facts.push(("registry", registry.clone())),
            Self::Credentials { path, .. } => facts.push(("path", path.display().to_string())),
            Self::Source { digest, .. } => facts.push(("digest", digest.to_string())),
            Self::Client(_) | Self::Cancelled => {}
        }
        facts
    }

    /// The one in `error` or below it, which may have come through `Read` or another part.
    pub fn of<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e Self> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(found) = error.downcast_ref::<Self>() {
                return Some(found);
            }
            // What an io::Error holds is its source only if that has a source of its own.
            let held = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            if let Some(found) = held.and_then(|held| held.downcast_ref::<Self>()) {
                return Some(found);
            }
            cause = held.map_or_else(|| error.source(), |held| Some(held));
        }
        None
    }

    /// Whether another attempt may go better.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Refused { status, .. } | Self::OtherServer { status, .. } => {
                matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
            }
            Self::Broken { .. } => true,
            // Nobody is there, or somebody else: that does not change while one waits.
            _ => false,
        }
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } | Self::OtherServer { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

impl From<RegistryError> for io::Error {
    fn from(error: RegistryError) -> Self {
        Self::other(error)
    }
}

fn then(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": {said}") }
}

/// What a registry says in the body of an error: the messages of its JSON, or the text.
pub(super) fn said(body: &[u8]) -> String {
    let document: Option<Value> = serde_json::from_slice(body).ok();
    let errors = document.as_ref().and_then(|document| document.get("errors")?.as_array());
    let word = |error: &Value, key: &str| Some(error.get(key)?.as_str()?.trim().to_owned());
    let message = |error: &Value| word(error, "message").filter(|m| !m.is_empty()).or(word(error, "code"));
    if let Some(errors) = errors {
        return quotation(&errors.iter().filter_map(message).collect::<Vec<_>>().join("; "));
    }
    for key in ["details", "message", "error_description", "error"] {
        if let Some(text) = document.as_ref().and_then(|document| word(document, key)) {
            return quotation(&text);
        }
    }
    let text = std::str::from_utf8(body).unwrap_or_default().trim();
    // The page of a server with TLS that got plain http.
    for words in ["plain HTTP request was sent to HTTPS port", "speaking plain HTTP to an SSL-enabled server"]
    {
        if text.contains(words) {
            return words.to_owned();
        }
    }
    // A page of a proxy says nothing in one line.
    if text.starts_with('<') || document.is_some() { String::new() } else { quotation(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_quoted_whatever_form_its_words_have() {
        for (body, expected) in [
            (r#"{"errors":[{"code":"DENIED","message":"no"},{"code":"X","message":""}]}"#, "no; X"),
            (r#"{"details":"incorrect username or password"}"#, "incorrect username or password"),
            (r#"{"error":"invalid_grant","error_description":"expired"}"#, "expired"),
            ("<html>bad gateway</html>", ""),
            ("slow down\n", "slow down"),
            ("{}", ""),
            ("", ""),
        ] {
            assert_eq!(said(body.as_bytes()), expected);
        }
    }

    #[test]
    fn an_error_of_a_registry_is_found_below_others() {
        let error: io::Error = RegistryError::Cancelled.into();
        let outer = crate::fs::Error { step: "read", path: "/x".into(), source: error };
        assert!(matches!(RegistryError::of(&outer), Some(RegistryError::Cancelled)));
        assert!(RegistryError::of(&io::Error::other("x")).is_none());
    }
}
