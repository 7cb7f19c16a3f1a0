//! Blobs for a repository, streamed from where they are.
//!
//! oci-client does it: one request for each blob, whose body comes from a channel that a thread of the caller fills. So no
//! blob is in memory as a whole, and the disk never keeps the other uploads waiting.

use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;
use oci_client::errors::OciDistributionError;
use tokio::sync::mpsc::{self, Receiver};

use super::{RegistryError, Repository};
use crate::archive::OpenContent;
use crate::image::{Descriptor, Reference};

/// How much is read at once.
const PIECE: usize = 128 << 10;
/// Pieces that are on their way from the disk to the connection.
const AHEAD: usize = 4;

/// The body of an upload.
struct Body(Receiver<io::Result<Bytes>>);

impl Stream for Body {
    type Item = Result<Bytes, OciDistributionError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map_err(Into::into)))
    }
}

impl Repository<'_> {
    /// Gives the repository a blob that another of the same registry has, without moving it; whether the registry did that.
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
        let from = oci_client::Reference::with_tag(
            from.domain().to_owned(),
            from.path().to_owned(),
            "latest".to_owned(),
        );
        let done = self.retried(&action, || {
            let (oci, name, from, digest) =
                (self.host.oci.0.clone(), self.oci_reference(), from.clone(), digest.clone());
            let asked = self.client.engine.spawn(async move { oci.mount_blob(&name, &from, &digest).await });
            asked.wait(self.cancel).map_err(|why| self.host.no_result(&action, why))
        });
        match done {
            Ok(()) => Ok(true),
            // It would rather have it sent; or it does not know what that is, or that there is such a blob.
            Err(RegistryError::Protocol { .. } | RegistryError::Refused { status: 400..500, .. }) => {
                Ok(false)
            }
            // What may be read there is not what may be written here.
            Err(RegistryError::Denied { .. }) => Ok(false),
            Err(error) => Err(error),
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
        self.retried(&action, || self.send_once(descriptor, open, moved, &action))
    }

    fn send_once(
        &self,
        descriptor: &Descriptor,
        open: OpenContent<'_>,
        moved: &(dyn Fn(u64) + Sync),
        action: &str,
    ) -> Result<Result<(), OciDistributionError>, RegistryError> {
        let unreadable = |source| RegistryError::Source { digest: descriptor.digest, source };
        let mut content = open().map_err(unreadable)?;
        let (sender, receiver) = mpsc::channel(AHEAD);
        let (oci, name, size) = (self.host.oci.0.clone(), self.oci_reference(), descriptor.size);
        let digest = descriptor.digest.to_string();
        let sent = self.client.engine.spawn(async move {
            oci.push_blob_stream(&name, Body(receiver), &digest, Some(size)).await.map(drop)
        });
        // A thread of its own may wait, also where the caller is inside a runtime.
        let read = std::thread::scope(|scope| {
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
                    // Who receives has heard enough, or was told to stop.
                    if sender.blocking_send(Ok(piece.into())).is_err() {
                        return Ok(());
                    }
                    moved(sent);
                }
            });
            let sent = sent.wait(self.cancel).map_err(|why| self.host.no_result(action, why));
            let read = match feed {
                Ok(feed) => feed.join().unwrap_or_else(|_| Err(io::Error::other("its thread ended"))),
                Err(error) => Err(error),
            };
            (sent, read)
        });
        match read {
            (Err(error), _) => Err(error),
            (_, Err(error)) => Err(unreadable(error)),
            (Ok(sent), Ok(())) => Ok(sent),
        }
    }

    /// Does something by oci-client: again with a new grant if the registry wants one, and again where that may help.
    fn retried(
        &self,
        action: &str,
        act: impl Fn() -> Result<Result<(), OciDistributionError>, RegistryError>,
    ) -> Result<(), RegistryError> {
        let mut attempts = self.attempts();
        let mut last = false;
        loop {
            let grant = self.grant(true);
            let error = match act()? {
                Ok(()) => {
                    self.host.is_reached();
                    return Ok(());
                }
                Err(error) => self.failed(action, error),
            };
            match error {
                RegistryError::Denied { status: 401, .. } if !last => {
                    last = true;
                    if self.authenticate(true, &grant)? == grant {
                        return Err(error);
                    }
                }
                error => attempts.next(error, self.cancel)?,
            }
        }
    }
}
