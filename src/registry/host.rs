//! [`Host`]: one registry, and how it is reached.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use reqwest::redirect::Policy;
use reqwest::{NoProxy, Proxy, Url};

use super::access::Grant;
use super::engine::NoResult;
use super::http::{Fault, Pace, authority, is_certificate, is_final, is_loopback};
use super::{ClientOptions, RegistryError, Transport, tls};

/// The name under which registries see this crate.
const USER_AGENT: &str = concat!("plywood/", env!("CARGO_PKG_VERSION"));

/// One registry.
#[derive(Debug)]
pub(super) struct Host {
    /// As in a reference.
    pub(super) name: String,
    /// Scheme and address, with a path of `/`.
    pub(super) base: Url,
    /// For requests whose answer has to begin soon.
    pub(super) http: reqwest::Client,
    /// For uploads, whose answer begins when all was sent.
    pub(super) uploads: reqwest::Client,
    /// Whether it is reached in plain http because it is on this machine or the caller said so.
    pub(super) is_plain: bool,
    pub(super) pace: Pace,
    /// By repository, and whether to push there.
    pub(super) grants: Mutex<BTreeMap<(String, bool), Grant>>,
    /// Servers that have ever answered: this one and those that it led to, as `host:port`.
    reached: Mutex<BTreeSet<String>>,
}

impl Host {
    pub(super) fn new(name: &str, options: &ClientOptions) -> Result<Self, RegistryError> {
        let local = is_local(name);
        let plain = match options.transport {
            Transport::Auto => local,
            Transport::Tls => false,
            Transport::PlainHttp => true,
        };
        let client = |error: reqwest::Error| RegistryError::Client(error.without_url().into());
        let tls =
            tls::config(&options.certificates).map_err(|reason| RegistryError::Client(reason.into()))?;
        let builder = || {
            let mut builder = reqwest::Client::builder()
                .user_agent(USER_AGENT)
                .connect_timeout(options.connect_timeout)
                .tls_backend_preconfigured(tls.clone())
                // Which are followed is decided in `http`.
                .redirect(Policy::none())
                // Otherwise it reads the environment.
                .no_proxy();
            for (url, make) in [
                (&options.https_proxy, Proxy::https as fn(String) -> reqwest::Result<Proxy>),
                (&options.http_proxy, Proxy::http),
            ] {
                if let Some(url) = url.clone().filter(|_| !local) {
                    let but = options.no_proxy.as_deref().and_then(NoProxy::from_string);
                    builder = builder.proxy(make(url).map_err(client)?.no_proxy(but));
                }
            }
            Ok(builder)
        };
        let address = if name == "docker.io" { "index.docker.io" } else { name };
        let scheme = if plain { "http" } else { "https" };
        let base = Url::parse(&format!("{scheme}://{address}/"));
        let base = base.map_err(|error| RegistryError::Client(format!("{address}: {error}").into()))?;
        Ok(Self {
            name: name.to_owned(),
            base,
            http: builder()?.read_timeout(options.read_timeout).build().map_err(client)?,
            uploads: builder()?.build().map_err(client)?,
            is_plain: plain,
            pace: Pace {
                patience: options.read_timeout,
                window: options.slow_window,
                bytes: options.slow_bytes,
            },
            grants: Mutex::default(),
            reached: Mutex::default(),
        })
    }

    /// Notes that the server of `url` answered.
    pub(super) fn is_reached(&self, url: &Url) {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner).insert(authority(url));
    }

    /// Describes why there is no answer.
    pub(super) fn fault(&self, action: &str, fault: Fault) -> RegistryError {
        let (registry, action) = (self.name.clone(), action.to_owned());
        match fault {
            Fault::Http(error) => self.no_answer(&action, error),
            Fault::Answer(answer) => RegistryError::Protocol { registry, action, answer },
            Fault::TooLong => {
                let answer = "with more than such an answer may have".to_owned();
                RegistryError::Protocol { registry, action, answer }
            }
            Fault::Slow(what) => {
                RegistryError::Broken { registry, action, source: format!("it is too slow: {what}").into() }
            }
        }
    }

    /// Describes why the connection failed.
    pub(super) fn no_answer(&self, action: &str, error: reqwest::Error) -> RegistryError {
        let (registry, action) = (self.name.clone(), action.to_owned());
        let at = error.url().unwrap_or(&self.base);
        let was_reached =
            self.reached.lock().unwrap_or_else(PoisonError::into_inner).contains(&authority(at));
        // Authorization servers and stores of blobs have addresses of their own.
        let server = if at.origin() == self.base.origin() { registry.clone() } else { authority(at) };
        let (is_connect, is_final, is_certificate) =
            (error.is_connect(), is_final(&error), is_certificate(&error));
        // A URL may hold a secret.
        let error = error.without_url();
        if is_certificate || (is_connect && !was_reached) {
            return RegistryError::Unreachable { registry: server, source: error.into() };
        }
        if is_final {
            let mut answer = "with something that is not HTTP".to_owned();
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                answer = format!("{answer}: {error}");
                cause = error.source();
            }
            return RegistryError::Protocol { registry, action, answer };
        }
        RegistryError::Broken { registry, action, source: error.into() }
    }

    /// Describes why there is no result.
    pub(super) fn no_result(&self, action: &str, why: NoResult) -> RegistryError {
        match why {
            NoResult::Cancelled => RegistryError::Cancelled,
            NoResult::Lost => {
                let (registry, action) = (self.name.clone(), action.to_owned());
                let source = "the thread of the client ended".into();
                RegistryError::Broken { registry, action, source }
            }
        }
    }
}

/// Returns whether a registry is on this machine.
fn is_local(domain: &str) -> bool {
    let host = match domain.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => domain.split(':').next().unwrap_or(domain),
    };
    is_loopback(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_on_this_machine_are_told_from_others() {
        for local in ["localhost", "localhost:5000", "127.0.0.1:1", "127.9.9.9", "[::1]:5000", "[::1]"] {
            assert!(is_local(local), "{local}");
        }
        for other in ["docker.io", "localhost.example", "10.0.0.1:5000", "[fe80::1]:5000", "128.0.0.1"] {
            assert!(!is_local(other), "{other}");
        }
    }
}
