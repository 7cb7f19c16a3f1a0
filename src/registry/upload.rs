//! Blobs for a repository, streamed from their source.
//!
//! One request opens an upload, a second sends the whole blob to the location that the registry names. Its body comes from a
//! channel that a thread of the caller fills, so no blob is in memory as a whole, and the disk never keeps the other uploads
//! waiting. Credentials go to that location only if it has the registry's own origin.

use std::io::{self, Read};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use reqwest::{Body, Method, Url};
use tokio::sync::mpsc::{self, Receiver};

use super::access::Grant;
use super::engine::Pending;
use super::http::{Answer, Complaint, Fault, Speed, is_same_origin, judge, resolve};
use super::{RegistryError, Repository};
use crate::archive::OpenContent;
use crate::image::{Descriptor, Reference};

/// How much is read at once.
const PIECE: usize = 128 << 10;
/// Pieces that are on their way from the disk to the connection.
const AHEAD: usize = 4;
/// So many times the usual patience may pass between the last byte of a blob and the answer: the registry hashes and stores it.
const PATIENCE: u32 = 10;

/// The body of an upload.
struct Pieces(Receiver<io::Result<Bytes>>);

impl Stream for Pieces {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}

impl Repository<'_> {
    /// Mounts a blob of another repository of the same registry, without moving it. Returns whether the registry did that.
    ///
    /// # Errors
    ///
    /// Those of the connection.
    pub fn mount(&self, descriptor: &Descriptor, from: &Reference) -> Result<bool, RegistryError> {
        if from.domain() != self.name.domain() || from.path() == self.name.path() {
            return Ok(false);
        }
        let digest = descriptor.digest.to_string();
        let action = format!("mount {digest} of {} in {}", from.path(), self.name.path());
        let mut url = self.url("blobs/uploads/")?;
        url.query_pairs_mut().append_pair("mount", &digest).append_pair("from", from.path());
        let mut attempts = self.attempts();
        loop {
            match self.open_upload(&url, &action) {
                // Any other success opens an upload: the registry would rather have it sent.
                Ok(opened) => return Ok(opened.status == 201),
                // It does not know what that is, or that there is such a blob; or what may be read there may not be written here.
                Err(RegistryError::Refused { status: 400..500, .. } | RegistryError::Denied { .. }) => {
                    return Ok(false);
                }
                Err(error) => attempts.next(error, self.cancel)?,
            }
        }
    }

    /// Sends a blob. `open` opens its content, for each attempt; `moved` is told how many bytes of it are sent.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Source`] if the content cannot be read, [`RegistryError::Denied`], and those of the connection. The
    /// repository does not have the blob then.
    pub fn send(
        &self,
        descriptor: &Descriptor,
        open: OpenContent<'_>,
        moved: &(dyn Fn(u64) + Sync),
    ) -> Result<(), RegistryError> {
        let action = format!("send {} to {}", descriptor.digest, self.name.path());
        let at = self.url("blobs/uploads/")?;
        let mut attempts = self.attempts();
        loop {
            let sent = self
                .open_upload(&at, &action)
                .and_then(|opened| self.send_to(&opened, descriptor, open, moved, &action));
            match sent {
                Ok(Ok(())) => return Ok(()),
                // The grant expired while the blob was sent: another upload gets a new one.
                Ok(Err(complaint)) => {
                    let error = self.complains(&action, complaint);
                    match &error {
                        RegistryError::Denied { status: 401, .. } => attempts.count(error)?,
                        _ => attempts.next(error, self.cancel)?,
                    }
                }
                Err(error) => attempts.next(error, self.cancel)?,
            }
        }
    }

    /// Asks for an upload, with a grant.
    fn open_upload(&self, at: &Url, action: &str) -> Result<Opened, RegistryError> {
        let asked = self.with_grant(true, action, |grant| {
            let mut call = self.call(Method::POST, at.clone(), grant);
            call.body = Some(Bytes::new());
            match self.answer(action, call)? {
                Answer::Bad(complaint) => Ok(Err(complaint)),
                Answer::Good(response) => {
                    let location = match response.headers().get(LOCATION) {
                        Some(location) => {
                            let resolved = resolve(response.url(), location);
                            Some(resolved.map_err(|fault| self.host.fault(action, fault))?)
                        }
                        None => None,
                    };
                    Ok(Ok(Opened { status: response.status().as_u16(), location, grant: grant.clone() }))
                }
            }
        });
        asked?.map_err(|complaint| self.complains(action, complaint))
    }

    fn send_to(
        &self,
        opened: &Opened,
        descriptor: &Descriptor,
        open: OpenContent<'_>,
        moved: &(dyn Fn(u64) + Sync),
        action: &str,
    ) -> Result<Result<(), Complaint>, RegistryError> {
        let Some(mut url) = opened.location.clone() else {
            return Err(self.host.fault(action, Fault::Answer("without a location for the blob".to_owned())));
        };
        let unreadable = |source| RegistryError::Source { digest: descriptor.digest, source };
        let mut content = open().map_err(unreadable)?;
        let (sender, receiver) = mpsc::channel(AHEAD);
        let is_own = is_same_origin(&url, &self.host.base);
        url.query_pairs_mut().append_pair("digest", &descriptor.digest.to_string());
        let request = self
            .host
            .uploads
            .put(url)
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, descriptor.size)
            .body(Body::wrap_stream(Pieces(receiver)));
        let request = if is_own { opened.grant.show(request) } else { request };
        let base = self.host.base.clone();
        let sent = self.client.engine.spawn(async move {
            Ok(match judge(request.send().await?, &base).await {
                Answer::Good(_) => Ok(()),
                Answer::Bad(complaint) => Err(complaint),
            })
        });
        let taken = AtomicU64::new(0);
        // A thread of its own may wait, also where the caller is inside a runtime.
        let (sent, read) = std::thread::scope(|scope| {
            let taken = &taken;
            let feed = std::thread::Builder::new().name("upload".to_owned()).spawn_scoped(scope, move || {
                let mut sent = 0;
                loop {
                    let mut piece = Vec::new();
                    match (&mut content).take(PIECE as u64).read_to_end(&mut piece) {
                        Ok(0) => return Ok(()),
                        Ok(count) => sent += count as u64,
                        Err(error) => {
                            let told = io::Error::new(error.kind(), "the content cannot be read");
                            sender.blocking_send(Err(told)).unwrap_or_default();
                            return Err(error);
                        }
                    }
                    // The receiver has an answer already, or was told to stop.
                    if sender.blocking_send(Ok(piece.into())).is_err() {
                        return Ok(());
                    }
                    taken.store(sent, Ordering::Relaxed);
                    moved(sent);
                }
            });
            let sent = self.wait_for_upload(sent, taken, descriptor.size, action);
            let read = match feed {
                Ok(feed) => feed.join().unwrap_or_else(|_| Err(io::Error::other("its thread ended"))),
                Err(error) => Err(error),
            };
            (sent, read)
        });
        read.map_err(unreadable)?;
        sent
    }

    /// Waits for the end of an upload, unless it is slower than it may be.
    fn wait_for_upload(
        &self,
        sent: Pending<reqwest::Result<Result<(), Complaint>>>,
        taken: &AtomicU64,
        size: u64,
        action: &str,
    ) -> Result<Result<(), Complaint>, RegistryError> {
        let pace = self.host.pace;
        let (mut speed, mut before) = (Speed::new(pace), 0);
        let longest = pace.patience.saturating_mul(PATIENCE);
        let mut last = None;
        let mut slow = None;
        let goes_on = || {
            let now = taken.load(Ordering::Relaxed);
            let found = match now < size {
                true => speed.count(now - before),
                false => {
                    let last = last.get_or_insert_with(std::time::Instant::now);
                    match last.elapsed() < longest {
                        true => Ok(()),
                        false => Err(Fault::Slow("no answer after the last byte".to_owned())),
                    }
                }
            };
            before = now;
            slow = found.err();
            slow.is_none()
        };
        let waited = sent.wait_while(self.cancel, goes_on);
        match (waited, slow) {
            (_, Some(fault)) => Err(self.host.fault(action, fault)),
            (Err(why), None) => Err(self.host.no_result(action, why)),
            (Ok(sent), None) => sent.map_err(|error| self.host.no_answer(action, error)),
        }
    }
}

/// An upload that the registry is ready for.
struct Opened {
    status: u16,
    /// Where it is sent to. None if the blob was mounted.
    location: Option<Url>,
    grant: Grant,
}
