//! [`Fetch`]: content that is brought from elsewhere, and how far bringing it has come.

mod growing;
mod remote;

use std::fmt;
use std::io::{self, Read};

use crate::digest::Digest;
use crate::image::Descriptor;

pub(super) use growing::{Growing, GrowingReader};
pub(super) use remote::{Coming, Remote};

/// A place that content is brought from: a registry, somebody else's layout.
///
/// Whoever implements it tries again where that helps. What it gives is verified by the caller.
pub trait Fetch: fmt::Debug + Sync {
    /// Opens what `descriptor` names, from byte `offset` on; `None` if the place does not have it.
    ///
    /// # Errors
    ///
    /// Whatever keeps the content from being had, with a text that names the place. The same holds for the reader's.
    fn fetch(&self, descriptor: &Descriptor, offset: u64) -> io::Result<Option<Box<dyn Read + Send + '_>>>;

    /// Returns true if the place has what `descriptor` names. Asked only for layers of a kind that places may not
    /// pass on, which are often absent.
    ///
    /// # Errors
    ///
    /// As [`Fetch::fetch`], which answers it where there is no shorter way.
    fn has(&self, descriptor: &Descriptor) -> io::Result<bool> {
        Ok(self.fetch(descriptor, 0)?.is_some())
    }
}

/// What happens to one piece of content on its way, here or away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Transfer {
    /// There was no need to move it.
    Present {
        /// The content.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// It is begun.
    Started {
        /// The content.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// More of it was moved.
    Moved {
        /// The content.
        digest: Digest,
        /// Bytes of it that are there by now, those of an earlier attempt included.
        bytes: u64,
    },
    /// All of it is there, verified.
    Finished {
        /// The content.
        digest: Digest,
    },
}
