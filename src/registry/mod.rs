//! Registries: images pulled from and pushed to them, as the [distribution
//! specification](https://github.com/opencontainers/distribution-spec/blob/main/spec.md) has it. Feature `registry`.
//!
//! A [`Client`] speaks to any number of registries; a [`Repository`] is one of the places there that a
//! [`Reference`](crate::image::Reference) names, and is what a store fetches from ([`Store::pull`](crate::Store::pull)) and delivers to
//! ([`Store::push`](crate::Store::push)). Nothing here knows a store. What comes from a registry is verified by whoever receives
//! it; documents keep every byte.
//!
//! # Threads and environment
//!
//! The interface blocks. The async runtime behind it runs on one thread, which ends with the client, and nothing of it shows: a
//! caller may be inside a runtime of its own. No environment is read: files with credentials and proxies are named
//! in [`ClientOptions`].
//!
//! # What may go wrong on the way
//!
//! An answer that may be another one next time (408, 429, 500, 502, 503, 504) and a connection that breaks are tried again, after a
//! time that doubles and varies, or that the registry names (`Retry-After`). A transfer that hardly moves counts as broken
//! ([`ClientOptions::slow_bytes`]). A download that broke resumes where it was; where a server ignores the range or refuses it (416),
//! the beginning is skipped. Not tried again: a server that was never reached, and an answer against the rules, such as
//! a redirect loop or a content coding that was not asked for. 401, 403 and 404 are final, once credentials were shown;
//! a fresh token that is refused is replaced once. A server of another origin, to which the registry led, gets no credentials, so
//! its 401 and 403 are final at once ([`RegistryError::OtherServer`]).
//!
//! # Secrets
//!
//! Credentials are shown to a registry that asks for them, and to its own origin only: scheme, host and port. A password or
//! an identity token goes to the authorization server over https. Only if the registry is reached in plain http, it also goes in
//! plain http to this machine or to the registry's host. Such a request follows no redirect, and no request is led from
//! https to http.
//!
//! # Plain http
//!
//! Registries on this machine (`localhost`, `127.0.0.0/8`, `[::1]`) are spoken to in plain http, all others by TLS, unless
//! [`ClientOptions::transport`] says otherwise. Docker tries TLS first on this machine and does not verify it; a registry with a
//! certificate there needs [`Transport::Tls`] here.
//!
//! ```no_run
//! use plywood::registry::{Client, ClientOptions};
//! use plywood::{FetchOptions, PushOptions, Reference, Store};
//!
//! let mut options = ClientOptions::default();
//! options.auth_files.push("/run/user/1000/containers/auth.json".into());
//! let client = Client::new(options)?;
//! let store = Store::ensure("/var/lib/plywood")?;
//! let name: Reference = "quay.io/me/web:1".parse()?;
//! let pulled = store.pull(&name, &client, &FetchOptions::default())?;
//! let copy: Reference = "registry.example/copies/web:1".parse()?;
//! store.push(&pulled.image, &copy, &client, &PushOptions::default())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod access;
mod challenge;
mod client;
mod credentials;
mod download;
mod engine;
mod error;
mod helper;
mod host;
mod http;
mod repository;
mod retry;
mod tls;
mod upload;

pub use client::{Client, ClientOptions, Transport};
pub use credentials::Credentials;
pub use error::RegistryError;
pub use repository::Repository;
