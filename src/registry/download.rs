//! [`Download`]: the bytes of one blob, over as many connections as it takes.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use reqwest::header::CONTENT_RANGE;
use reqwest::{Method, Response, StatusCode};

use super::engine::Pending;
use super::http::{Speed, refuse_coding};
use super::repository::{Found, Request, path_of};
use super::retry::Attempts;
use super::{RegistryError, Repository};
use crate::image::Descriptor;

/// What comes next, and the rest.
type Next = (Response, reqwest::Result<Option<Bytes>>);

/// Reads one blob. When the connection breaks, asks for the rest.
#[derive(Debug)]
pub(super) struct Download<'r> {
    repository: &'r Repository<'r>,
    path: String,
    action: String,
    /// Bytes of the blob.
    size: u64,
    /// The byte that is read next.
    at: u64,
    /// What came and is not read yet.
    buffer: Bytes,
    /// Fetched ahead while the buffer is read. `None` where a new connection is needed.
    coming: Option<Pending<Next>>,
    /// Bytes to be passed over, because the server sends what nobody asked for.
    skip: u64,
    attempts: Attempts,
    /// What came since an attempt was last counted.
    progress: u64,
    speed: Speed,
}

/// So much progress makes up for the attempts that were made before it.
const ENOUGH: u64 = 16 << 10;

impl<'r> Download<'r> {
    /// Begins to read at `at`. `None` if the registry does not have it.
    pub(super) fn open(
        repository: &'r Repository<'r>,
        descriptor: &Descriptor,
        at: u64,
    ) -> Result<Option<Self>, RegistryError> {
        let mut download = Self {
            repository,
            path: path_of(descriptor),
            action: format!("read {} of {}", descriptor.digest, repository.name.path()),
            size: descriptor.size,
            at,
            buffer: Bytes::new(),
            coming: None,
            skip: 0,
            attempts: repository.attempts(),
            progress: 0,
            speed: Speed::new(repository.host.pace),
        };
        // There is no range behind the end.
        if at > 0 && at >= descriptor.size {
            return Ok(Some(download));
        }
        Ok(match download.connect()? {
            None => Some(download),
            Some(_) => None,
        })
    }

    /// Asks for the rest. Gives the registry's words if it has nothing of that name.
    fn connect(&mut self) -> Result<Option<String>, RegistryError> {
        let Self { path, action, at, .. } = self;
        let request = Request { offset: *at, ..Request::new(Method::GET, path, action) };
        let found = match self.repository.ask(&request, &mut self.attempts) {
            // The server gives no parts of this blob: the whole of it is asked for, and its beginning is skipped.
            Err(
                RegistryError::Refused { status: 416, .. } | RegistryError::OtherServer { status: 416, .. },
            ) if request.offset > 0 => {
                self.repository.ask(&Request { offset: 0, ..request }, &mut self.attempts)?
            }
            found => found?,
        };
        let response = match found {
            Found::It(response) => response,
            Found::Nothing(said) => return Ok(Some(said)),
        };
        // Stores of objects call a compressed layer encoded: of the right length, it is the layer itself.
        if response.content_length() != Some(self.size.saturating_sub(self.at)) {
            refuse_coding(&response).map_err(|fault| self.repository.host.fault(&self.action, fault))?;
        }
        let begin = begin(&response);
        self.skip = match begin.and_then(|begin| self.at.checked_sub(begin)) {
            Some(skip) => skip,
            None => {
                let answer = format!("{} with another range than was asked for", response.status());
                let (registry, action) = (self.repository.host.name.clone(), self.action.clone());
                return Err(RegistryError::Protocol { registry, action, answer });
            }
        };
        self.coming = Some(self.fetch_next(response));
        (self.progress, self.speed) = (0, Speed::new(self.repository.host.pace));
        Ok(None)
    }

    fn fetch_next(&self, mut response: Response) -> Pending<Next> {
        self.repository.client.engine.spawn(async move {
            let next = response.chunk().await;
            (response, next)
        })
    }

    /// Fills the buffer, and is done when nothing comes any more.
    fn fill(&mut self) -> Result<(), RegistryError> {
        let repository = self.repository;
        while self.buffer.is_empty() && self.at < self.size {
            let Some(coming) = self.coming.take() else {
                if let Some(said) = self.connect()? {
                    let what = self.action.trim_start_matches("read ").to_owned();
                    return Err(RegistryError::NotFound {
                        registry: repository.host.name.clone(),
                        what,
                        said,
                    });
                }
                continue;
            };
            let (response, next) = match coming.wait(repository.cancel) {
                Ok(next) => next,
                Err(why) => return Err(repository.host.no_result(&self.action, why)),
            };
            let error = match next {
                Ok(Some(mut bytes)) => {
                    let slow = self.speed.count(bytes.len() as u64).err();
                    if slow.is_none() {
                        self.coming = Some(self.fetch_next(response));
                    }
                    let skip = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
                    bytes.advance(skip);
                    self.skip -= skip as u64;
                    // More than it should be is for the receiver to refuse, at the first byte.
                    self.progress += bytes.len() as u64;
                    if self.progress >= ENOUGH {
                        self.attempts.forget();
                    }
                    self.buffer = bytes;
                    match slow {
                        None => continue,
                        Some(fault) => repository.host.fault(&self.action, fault),
                    }
                }
                Ok(None) => self.cut_short(),
                Err(error) => repository.host.no_answer(&self.action, error),
            };
            self.attempts.next(error, repository.cancel)?;
        }
        Ok(())
    }

    fn cut_short(&self) -> RegistryError {
        RegistryError::Broken {
            registry: self.repository.host.name.clone(),
            action: self.action.clone(),
            source: format!("it ended after {} of {} bytes", self.at, self.size).into(),
        }
    }
}

/// Where the content of an answer begins; `None` if that cannot be told.
fn begin(response: &Response) -> Option<u64> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Some(0);
    }
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    let (begin, _) = range.trim().strip_prefix("bytes")?.trim_start().split_once('-')?;
    begin.parse().ok()
}

impl Read for Download<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        self.fill()?;
        let count = self.buffer.len().min(buffer.len());
        self.buffer.copy_to_slice(&mut buffer[..count]);
        self.at += count as u64;
        Ok(count)
    }
}
