//! [`Repository`]: one place in a registry, and what is asked of it.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, Response, Url};

use super::access::Grant;
use super::download::Download;
use super::host::Host;
use super::http::{Answer, Call, Fault, body};
use super::retry::Attempts;
use super::{Client, RegistryError};
use crate::archive::Fetch;
use crate::digest::{Algorithm, Digest};
use crate::image::{Descriptor, ImageError, ManifestDocument, Reference};

/// The documents that are understood.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// A repository of a registry, by a client. What it gives is verified by who receives it.
#[derive(Debug)]
pub struct Repository<'c> {
    pub(super) client: &'c Client,
    pub(super) host: Arc<Host>,
    pub(super) name: Reference,
    pub(super) cancel: Option<&'c AtomicBool>,
    /// Documents that were read to find out what a name means.
    read: Mutex<BTreeMap<Digest, Arc<[u8]>>>,
}

/// One request, as often as it takes.
pub(super) struct Request<'r> {
    pub(super) method: Method,
    /// Below the repository.
    pub(super) path: &'r str,
    /// The first byte that is wanted.
    pub(super) offset: u64,
    /// What is sent, and what that is.
    pub(super) body: Option<(Bytes, &'r str)>,
    /// What it is good for, for messages.
    pub(super) action: &'r str,
}

impl<'r> Request<'r> {
    pub(super) fn new(method: Method, path: &'r str, action: &'r str) -> Self {
        Self { method, path, offset: 0, body: None, action }
    }
}

/// What came of it.
pub(super) enum Found {
    It(Response),
    /// There is no such thing; the registry's words.
    Nothing(String),
}

impl<'c> Repository<'c> {
    pub(super) fn new(client: &'c Client, host: Arc<Host>, name: Reference) -> Self {
        Self { client, host, name, cancel: None, read: Mutex::default() }
    }

    /// Gives up what is in progress soon after `cancel` is set.
    pub fn until(self, cancel: Option<&'c AtomicBool>) -> Self {
        Self { cancel, ..self }
    }

    /// What the reference names at present: the manifest or index, verified. With a digest in it, that decides.
    ///
    /// # Errors
    ///
    /// [`RegistryError::NotFound`], [`RegistryError::Denied`], [`RegistryError::Mismatch`] if it gives something else for the
    /// digest, [`RegistryError::Document`] if that is no manifest, and those of the connection.
    pub fn resolve(&self) -> Result<Descriptor, RegistryError> {
        let tag = self.name.tag().unwrap_or_default();
        let wanted = self.name.digest().map_or_else(|| tag.to_owned(), ToString::to_string);
        let what = format!("{wanted} in {}", self.name.path());
        let action = format!("read {what}");
        let path = format!("manifests/{wanted}");
        let request = Request::new(Method::GET, &path, &action);
        let mut attempts = self.attempts();
        let bytes = loop {
            let response = match self.ask(&request, &mut attempts)? {
                Found::It(response) => response,
                Found::Nothing(said) => {
                    return Err(RegistryError::NotFound { registry: self.host.name.clone(), what, said });
                }
            };
            match self.whole(response, &what, &action) {
                Err(error) => attempts.next(error, self.cancel)?,
                Ok(bytes) => break bytes,
            }
        };
        let algorithm = self.name.digest().map_or(Algorithm::Sha256, Digest::algorithm);
        let digest = Digest::of_with(algorithm, &bytes);
        if let Some(&expected) = self.name.digest().filter(|expected| **expected != digest) {
            return Err(RegistryError::Mismatch {
                registry: self.host.name.clone(),
                expected,
                actual: digest,
            });
        }
        let document = ManifestDocument::parse(&bytes, &self.client.options.limits)
            .map_err(|source| RegistryError::Document { registry: self.host.name.clone(), what, source })?;
        let descriptor = Descriptor::new(document.media_type(), digest, bytes.len() as u64);
        self.read.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, bytes.into());
        Ok(descriptor)
    }

    /// Whether the content is there already.
    ///
    /// # Errors
    ///
    /// Those of the connection.
    pub fn has(&self, descriptor: &Descriptor) -> Result<bool, RegistryError> {
        let action = format!("look for {} in {}", descriptor.digest, self.name.path());
        let path = path_of(descriptor);
        let request = Request::new(Method::HEAD, &path, &action);
        Ok(matches!(self.ask(&request, &mut self.attempts())?, Found::It(_)))
    }

    /// Gives the repository a manifest or an index, byte for byte, under `tag`, or without one under its digest.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Refused`] if the registry lacks what the document refers to, [`RegistryError::Denied`], and those of the
    /// connection. A tag points then where it did.
    pub fn put_document(
        &self,
        descriptor: &Descriptor,
        bytes: &[u8],
        tag: Option<&str>,
    ) -> Result<(), RegistryError> {
        let at = tag.map_or_else(|| descriptor.digest.to_string(), str::to_owned);
        let action = format!("write {at} in {}", self.name.path());
        let path = format!("manifests/{at}");
        let mut request = Request::new(Method::PUT, &path, &action);
        request.body = Some((Bytes::copy_from_slice(bytes), descriptor.media_type.as_str()));
        match self.ask(&request, &mut self.attempts())? {
            Found::It(_) => Ok(()),
            Found::Nothing(said) => {
                let (registry, what) = (self.host.name.clone(), format!("repository {}", self.name.path()));
                Err(RegistryError::NotFound { registry, what, said })
            }
        }
    }

    /// Reads a whole document, which must not be larger than is allowed.
    fn whole(&self, response: Response, what: &str, action: &str) -> Result<Vec<u8>, RegistryError> {
        let (limit, pace) = (self.client.options.limits.json_bytes, self.host.pace);
        let read = self.client.engine.spawn(body(response, limit, pace));
        let read = read.wait(self.cancel).map_err(|why| self.host.no_result(action, why))?;
        read.map_err(|fault| match fault {
            Fault::TooLong => {
                let source = ImageError::TooLarge { document: "document", bytes: limit + 1, limit };
                let (registry, what) = (self.host.name.clone(), what.to_owned());
                RegistryError::Document { registry, what, source }
            }
            fault => self.host.fault(action, fault),
        })
    }

    pub(super) fn attempts(&self) -> Attempts {
        Attempts::new(self.client.options.retries, self.client.options.back_off)
    }

    /// Asks until there is an answer.
    pub(super) fn ask(&self, request: &Request<'_>, attempts: &mut Attempts) -> Result<Found, RegistryError> {
        loop {
            match self.ask_once(request) {
                Err(error) => attempts.next(error, self.cancel)?,
                found => return found,
            }
        }
    }

    fn ask_once(&self, request: &Request<'_>) -> Result<Found, RegistryError> {
        let action = request.action;
        let asked = self.with_grant(request.body.is_some(), action, |grant| {
            match self.answer(action, self.build(request, grant)?)? {
                Answer::Good(response) => Ok(Ok(response)),
                Answer::Bad(complaint) => Ok(Err(complaint)),
            }
        });
        match asked? {
            Ok(response) => Ok(Found::It(response)),
            Err(complaint) if complaint.status == 404 => Ok(Found::Nothing(complaint.said)),
            Err(complaint) => Err(self.complains(action, complaint)),
        }
    }

    /// Returns the URL of something below the repository.
    pub(super) fn url(&self, path: &str) -> Result<Url, RegistryError> {
        let url = self.host.base.join(&format!("v2/{}/{path}", self.name.path()));
        url.map_err(|error| RegistryError::Client(error.into()))
    }

    fn build(&self, request: &Request<'_>, grant: &Grant) -> Result<Call, RegistryError> {
        let mut headers = HeaderMap::new();
        let value =
            |text: &str| HeaderValue::from_str(text).map_err(|error| RegistryError::Client(error.into()));
        if request.path.starts_with("manifests/") {
            headers.insert(ACCEPT, HeaderValue::from_static(ACCEPTED));
        }
        if request.offset > 0 {
            headers.insert(RANGE, value(&format!("bytes={}-", request.offset))?);
        }
        let mut body = None;
        if let Some((bytes, media_type)) = &request.body {
            headers.insert(CONTENT_TYPE, value(media_type)?);
            body = Some(bytes.clone());
        }
        let call = self.call(request.method.clone(), self.url(request.path)?, grant);
        Ok(Call { headers, body, ..call })
    }
}

/// Where a registry keeps what `descriptor` names.
pub(super) fn path_of(descriptor: &Descriptor) -> String {
    let kind = if descriptor.media_type.is_document() { "manifests" } else { "blobs" };
    format!("{kind}/{}", descriptor.digest)
}

impl Fetch for Repository<'_> {
    fn has(&self, descriptor: &Descriptor) -> io::Result<bool> {
        Ok(Repository::has(self, descriptor)?)
    }

    fn fetch(&self, descriptor: &Descriptor, offset: u64) -> io::Result<Option<Box<dyn Read + Send + '_>>> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = read.get(&descriptor.digest) {
            let mut bytes = io::Cursor::new(Arc::clone(bytes));
            bytes.set_position(offset);
            return Ok(Some(Box::new(bytes)));
        }
        drop(read);
        let opened = Download::open(self, descriptor, offset)?;
        Ok(opened.map(|download| Box::new(download) as _))
    }
}
