//! [`Headers`]: one entry's header together with everything that stood in front of it, and what they say together.

use std::ops::Range;

use super::error::{ChangesetError, invalid, limit};
use super::header::{self, Header};
use super::pax::Pax;
use crate::fs::{DeviceNumber, Metadata, Timestamp};
use crate::limits::Limits;
use crate::path::LayerPath;

type Result<T> = std::result::Result<T, ChangesetError>;

/// One entry's header with everything that stood in front of it.
pub(super) struct Headers {
    pub(super) index: u64,
    pub(super) header: Header,
    pub(super) pax: Pax,
    pub(super) long_name: Option<Vec<u8>>,
    pub(super) long_link: Option<Vec<u8>>,
    /// How many bytes of headers are still allowed.
    pub(super) budget: u64,
}

impl Headers {
    /// The name, from the place that counts most.
    pub(super) fn take_name(&mut self, is_file: bool) -> Vec<u8> {
        let sparse = self.pax.sparse.name.take().filter(|_| is_file);
        sparse
            .or_else(|| self.long_name.take())
            .or_else(|| self.pax.path.take())
            .unwrap_or_else(|| self.header.name())
    }

    pub(super) fn take_link(&mut self, link_bytes: usize, path: &LayerPath) -> Result<Vec<u8>> {
        let target = self.long_link.take().or_else(|| self.pax.link.take());
        let target = target.unwrap_or_else(|| self.header.text(header::LINK).to_vec());
        if target.len() > link_bytes {
            return Err(limit(self.index, &path.to_string(), "link_bytes", link_bytes as u64));
        }
        Ok(target)
    }

    pub(super) fn device(&self) -> Result<DeviceNumber> {
        let number = |record: Option<u64>, keyword, field, name| match record {
            Some(number) => {
                u32::try_from(number).map_err(|_| invalid(self.index, keyword, number.to_string().as_bytes()))
            }
            None => self.field(field, name),
        };
        Ok(DeviceNumber {
            major: number(self.pax.dev_major, "SCHILY.devmajor", header::DEV_MAJOR, "device major number")?,
            minor: number(self.pax.dev_minor, "SCHILY.devminor", header::DEV_MINOR, "device minor number")?,
        })
    }

    pub(super) fn metadata(&mut self, limits: &Limits, path: &LayerPath) -> Result<Metadata> {
        let mtime = match self.pax.mtime {
            Some(mtime) => mtime,
            None => Timestamp::from_seconds(self.field(header::MTIME, "modification time")?),
        };
        let xattrs = self.pax.take_xattrs();
        if xattrs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > limits.xattr_bytes {
            return Err(limit(self.index, &path.to_string(), "xattr_bytes", limits.xattr_bytes as u64));
        }
        // Old writers put the type of the file in front of its permissions.
        let mode = self.field::<i64>(header::MODE, "mode")? as u32 & 0o7777;
        let uid = self.id(self.pax.uid, "uid", header::UID)?;
        let gid = self.id(self.pax.gid, "gid", header::GID)?;
        Ok(Metadata { mode, uid, gid, mtime, xattrs })
    }

    /// An owner or group. 2^32-1 is what the kernel takes for "none".
    fn id(&self, record: Option<u64>, name: &str, field: Range<usize>) -> Result<u32> {
        let id = match record {
            Some(id) => id,
            None => self.field(field, name)?,
        };
        let valid = u32::try_from(id).ok().filter(|&id| id != u32::MAX);
        valid.ok_or_else(|| invalid(self.index, name, id.to_string().as_bytes()))
    }

    fn field<T: TryFrom<i128>>(&self, field: Range<usize>, name: &str) -> Result<T> {
        let number = self.header.number(field.clone()).and_then(|number| T::try_from(number).ok());
        number.ok_or_else(|| invalid(self.index, name, self.header.bytes(field)))
    }
}

/// The size field of a header.
pub(super) fn stored_size(header: &Header, index: u64) -> Result<u64> {
    let size = header.number(header::SIZE).and_then(|size| u64::try_from(size).ok());
    size.ok_or_else(|| invalid(index, "size", header.bytes(header::SIZE)))
}
