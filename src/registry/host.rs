//! [`Host`]: one registry, and how it is reached.
//!
//! There are two clients of HTTP for each. oci-client authenticates and uploads. What is read goes past it: it keeps no
//! headers of an answer (`Retry-After`, `Content-Range`) and takes documents of any size into memory.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{NoProxy, Proxy, RequestBuilder, Response, StatusCode};

use super::access::Grant;
use super::engine::NoResult;
use super::error::said;
use super::{ClientOptions, RegistryError, Transport};

/// Whom a registry sees.
const USER_AGENT: &str = concat!("plywood/", env!("CARGO_PKG_VERSION"));
/// What keeps a proxy from being used at all: every name, every address.
const NO_HOST: &str = "*,0.0.0.0/0,::/0";
/// As much of an error's body is read.
const WORDS: usize = 16 << 10;

/// One registry.
#[derive(Debug)]
pub(super) struct Host {
    /// As in a reference.
    pub(super) name: String,
    /// Scheme and address.
    pub(super) base: String,
    pub(super) oci: Oci,
    pub(super) http: reqwest::Client,
    /// By repository, and whether to push there.
    pub(super) grants: Mutex<BTreeMap<(String, bool), Grant>>,
    /// Whether it has ever answered.
    reached: AtomicBool,
}

/// oci-client's client, which has no `Debug`.
pub(super) struct Oci(pub(super) oci_client::Client);

impl std::fmt::Debug for Oci {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("oci_client::Client")
    }
}

/// What a registry answered.
pub(super) enum Answer {
    Good(Response),
    Bad(Complaint),
}

/// That it did not do what it was asked to.
pub(super) struct Complaint {
    pub(super) status: u16,
    pub(super) said: String,
    pub(super) retry_after: Option<Duration>,
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
        let mut builder = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(options.connect_timeout)
            .read_timeout(options.read_timeout)
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
        for pem in &options.certificates {
            let certificates = reqwest::Certificate::from_pem_bundle(pem).map_err(client)?;
            if certificates.is_empty() {
                return Err(RegistryError::Client(
                    "there is no certificate in what should be trusted".into(),
                ));
            }
            builder = builder.tls_certs_merge(certificates);
        }
        let oci = oci_client::Client::try_from(oci_config(options, plain, local));
        let oci = Oci(oci.map_err(|error| RegistryError::Client(error.into()))?);
        // Where oci-client looks for it, too.
        let address = if name == "docker.io" { "index.docker.io" } else { name };
        let scheme = if plain { "http" } else { "https" };
        Ok(Self {
            name: name.to_owned(),
            base: format!("{scheme}://{address}"),
            oci,
            http: builder.build().map_err(client)?,
            grants: Mutex::default(),
            reached: AtomicBool::new(false),
        })
    }

    /// Notes that it answered.
    pub(super) fn is_reached(&self) {
        self.reached.store(true, Ordering::Relaxed);
    }

    /// Why there was no answer.
    pub(super) fn no_answer(&self, action: &str, error: reqwest::Error) -> RegistryError {
        let (registry, action) = (self.name.clone(), action.to_owned());
        // An URL may hold what is nobody's business.
        let (is_connect, source) = (error.is_connect(), error.without_url().into());
        match is_connect && !self.reached.load(Ordering::Relaxed) {
            true => RegistryError::Unreachable { registry, source },
            false => RegistryError::Broken { registry, action, source },
        }
    }

    /// Why there was no result.
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

fn oci_config(options: &ClientOptions, plain: bool, local: bool) -> ClientConfig {
    let certificate = |pem: &Vec<u8>| Certificate { encoding: CertificateEncoding::Pem, data: pem.clone() };
    let proxied = !local && (options.https_proxy.is_some() || options.http_proxy.is_some());
    let (https_proxy, no_proxy) = match proxied {
        true => (options.https_proxy.clone(), options.no_proxy.clone()),
        // Without any proxy it reads the environment; one for no host at all keeps it from that.
        false => (Some("http://127.0.0.1:9".to_owned()), Some(NO_HOST.to_owned())),
    };
    ClientConfig {
        protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
        // One request for each blob, whose body is read from the disk.
        use_monolithic_push: true,
        extra_root_certificates: options.certificates.iter().map(certificate).collect(),
        connect_timeout: Some(options.connect_timeout),
        read_timeout: Some(options.read_timeout),
        user_agent: USER_AGENT,
        https_proxy,
        http_proxy: options.http_proxy.clone().filter(|_| proxied),
        no_proxy,
        ..ClientConfig::default()
    }
}

/// Sends a request, and reads what the registry says if it refuses.
pub(super) async fn send(request: RequestBuilder) -> reqwest::Result<Answer> {
    let mut response = request.send().await?;
    if response.status().is_success() {
        return Ok(Answer::Good(response));
    }
    let mut words = Vec::new();
    // Its words are not worth an error.
    while let Ok(Some(more)) = response.chunk().await {
        words.extend_from_slice(&more);
        if words.len() >= WORDS {
            break;
        }
    }
    words.truncate(WORDS);
    let retry_after = retry_after(response.headers());
    Ok(Answer::Bad(Complaint {
        status: response.status().as_u16(),
        said: explain(response.status(), &words),
        retry_after,
    }))
}

/// The registry's words, or those of the standard.
pub(super) fn explain(status: StatusCode, body: &[u8]) -> String {
    match said(body) {
        said if said.is_empty() => status.canonical_reason().unwrap_or_default().to_owned(),
        said => said,
    }
}

/// In seconds; a date is for who has a clock.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Whether a registry is on this machine.
fn is_local(domain: &str) -> bool {
    let host = match domain.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => domain.split(':').next().unwrap_or(domain),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
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
