//! [`Member`]: an entry of a tar that is no layer but holds layers.
//!
//! Image archives are tars as well, in all the same dialects, but a name in them means nothing more than itself: no
//! whiteouts, no directories to make, no owners. Whoever reads one asks for members instead of entries.

use std::io::Read;

use super::{Header, Reader, Result, State};
use crate::changeset::error::{ChangesetError, printable};
use crate::path::LayerPath;

/// One member, without its data.
#[derive(Debug)]
pub(crate) struct Member {
    /// Its name.
    pub(crate) path: LayerPath,
    /// What it is.
    pub(crate) kind: MemberKind,
}

/// What a member is.
#[derive(Debug)]
pub(crate) enum MemberKind {
    /// A regular file; its data follows.
    File {
        /// Its size in bytes, holes included.
        size: u64,
        /// How many of them are in the tar.
        stored: u64,
    },
    /// A symbolic link with its target as written.
    Symlink(Vec<u8>),
    /// A second name of the member that is named so, from the root of the archive.
    HardLink(Vec<u8>),
    /// A directory or something that holds nothing.
    Other,
}

/// Whether `bytes` begin with the header of a tar.
pub(crate) fn begins_like_tar(bytes: &[u8]) -> bool {
    bytes.first_chunk().is_some_and(|block| Header::parse(*block).is_ok())
}

impl<R: Read> Reader<R> {
    /// Goes on to the next member as [`next_entry`](Self::next_entry) does to the next entry, and with the same errors.
    pub(crate) fn next_member(&mut self) -> Result<Option<Member>> {
        match self.state {
            State::Reading => {}
            State::Ended => return Ok(None),
            State::Failed => return Err(ChangesetError::FailedBefore),
        }
        let member = self.advance_member();
        match &member {
            Ok(Some(_)) => {}
            Ok(None) => self.state = State::Ended,
            Err(_) => self.state = State::Failed,
        }
        member
    }

    fn advance_member(&mut self) -> Result<Option<Member>> {
        self.skip_body()?;
        let Some(mut headers) = self.next_headers()? else {
            self.drain()?;
            return Ok(None);
        };
        let index = headers.index;
        let typeflag = headers.header.typeflag();
        let is_file = matches!(typeflag, b'0' | 0 | b'7' | b'S');
        let raw = headers.take_name(is_file);
        self.check_name(index, &raw)?;
        let path = LayerPath::parse(&raw);
        let path = path.map_err(|source| ChangesetError::Path { index, name: printable(&raw), source })?;
        let kind = match typeflag {
            b'1' => {
                self.skip_link_body(&headers, &raw)?;
                MemberKind::HardLink(headers.take_link(self.limits.link_bytes, &path)?)
            }
            b'2' => MemberKind::Symlink(headers.take_link(self.limits.link_bytes, &path)?),
            b'3'..=b'6' => MemberKind::Other,
            _ if is_file => {
                self.begin_file(&mut headers, &raw)?;
                let (size, stored) = (self.body.size, self.body.left);
                if raw.ends_with(b"/") { MemberKind::Other } else { MemberKind::File { size, stored } }
            }
            _ => {
                let (name, typeflag) = (printable(&raw), char::from(typeflag));
                return Err(ChangesetError::Type { index, name, typeflag });
            }
        };
        self.body.name = raw;
        Ok(Some(Member { path, kind }))
    }
}
