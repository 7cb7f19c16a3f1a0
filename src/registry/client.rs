//! [`Client`]: what speaks to registries, and how it does.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::credentials;
use super::engine::Engine;
use super::host::Host;
use super::{Credentials, RegistryError, Repository};
use crate::image::Reference;
use crate::limits::Limits;

/// How registries are spoken to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Transport {
    /// In plain http to registries on this machine, by TLS to all others.
    #[default]
    Auto,
    /// By TLS in any case.
    Tls,
    /// In plain http in any case, credentials included.
    PlainHttp,
}

/// How to speak to registries.
#[derive(Clone)]
#[non_exhaustive]
pub struct ClientOptions {
    /// Who to be, at every registry; shown only to one that asks. Goes before what is in `auth_files`.
    pub credentials: Option<Credentials>,
    /// Files that `docker login` and `podman login` write; the first that has something counts. One that is not there has
    /// nothing.
    pub auth_files: Vec<PathBuf>,
    /// Whether programs that these files name are run (`docker-credential-NAME`). Default: they are not.
    pub run_helpers: bool,
    /// TLS or plain http.
    pub transport: Transport,
    /// Certificates in PEM that are trusted besides those of the system: of authorities, or of registries themselves.
    pub certificates: Vec<Vec<u8>>,
    /// The URL of a proxy for TLS. Not used for registries on this machine.
    pub https_proxy: Option<String>,
    /// The URL of a proxy for plain http. Not used for registries on this machine.
    pub http_proxy: Option<String>,
    /// Hosts that are not reached by a proxy, with commas between, as in the variable `NO_PROXY`.
    pub no_proxy: Option<String>,
    /// How often something is tried again. What went on meanwhile starts the count anew. Default: 5 times.
    pub retries: u32,
    /// The time before the first of them; it doubles each time. Default: half a second.
    pub back_off: Duration,
    /// The time to wait for a connection. Default: 15 seconds.
    pub connect_timeout: Duration,
    /// The time after which a connection that says nothing is taken for broken. Default: a minute.
    pub read_timeout: Duration,
    /// The time in which a transfer has to bring [`slow_bytes`](Self::slow_bytes), or it is taken for broken. Default: two minutes.
    pub slow_window: Duration,
    /// The bytes that a transfer has to bring in [`slow_window`](Self::slow_window). Default: 16 KiB.
    pub slow_bytes: u64,
    /// How much a registry may ask of us: the size of documents.
    pub limits: Limits,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            credentials: None,
            auth_files: Vec::new(),
            run_helpers: false,
            transport: Transport::default(),
            certificates: Vec::new(),
            https_proxy: None,
            http_proxy: None,
            no_proxy: None,
            retries: 5,
            back_off: Duration::from_millis(500),
            connect_timeout: Duration::from_secs(15),
            read_timeout: Duration::from_secs(60),
            slow_window: Duration::from_secs(120),
            slow_bytes: 16 << 10,
            limits: Limits::default(),
        }
    }
}

impl fmt::Debug for ClientOptions {
    // The URL of a proxy may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientOptions")
            .field("credentials", &self.credentials)
            .field("auth_files", &self.auth_files)
            .field("run_helpers", &self.run_helpers)
            .field("transport", &self.transport)
            .field("retries", &self.retries)
            .field("back_off", &self.back_off)
            .finish_non_exhaustive()
    }
}

/// Speaks to registries. Threads may share one; what it learns of a registry (tokens, connections) it keeps while it lives.
///
/// Dropping it ends its thread, and waits for that.
#[derive(Debug)]
pub struct Client {
    pub(super) engine: Engine,
    pub(super) options: ClientOptions,
    hosts: Mutex<BTreeMap<String, Arc<Host>>>,
}

impl Client {
    /// Makes a client; nothing is connected yet, and no file read.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Client`] if no thread can be had.
    pub fn new(options: ClientOptions) -> Result<Self, RegistryError> {
        let engine = Engine::start().map_err(|error| RegistryError::Client(error.into()))?;
        Ok(Self { engine, options, hosts: Mutex::default() })
    }

    /// The repository that `name` is in. Nothing is asked yet.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Client`] if a certificate or a proxy of the options cannot be used.
    pub fn repository(&self, name: &Reference) -> Result<Repository<'_>, RegistryError> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let host = match hosts.get(name.domain()) {
            Some(host) => Arc::clone(host),
            None => {
                let host = Arc::new(Host::new(name.domain(), &self.options)?);
                hosts.insert(name.domain().to_owned(), Arc::clone(&host));
                host
            }
        };
        Ok(Repository::new(self, host, name.clone()))
    }

    /// Who to be in the repository of `name`.
    pub(super) fn credentials(&self, name: &Reference) -> Result<Option<Credentials>, RegistryError> {
        if let Some(given) = &self.options.credentials {
            return Ok(Some(given.clone()));
        }
        for path in &self.options.auth_files {
            if let Some(found) = credentials::find(path, name, self.options.run_helpers)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}
