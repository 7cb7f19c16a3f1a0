//! [`OciSource`]: whatever the crate [`ocidir`](::ocidir) can read, as a place that content is brought from.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};

use ::ocidir::OciRead;
use ::ocidir::oci_spec::image as spec;

use super::fetch::Fetch;
use crate::digest::Digest;
use crate::image::Descriptor;

/// A layout, an archive or anything else that implements [`OciRead`], to fetch content from.
///
/// It is believed nothing: who fetches verifies.
#[derive(Clone, Copy)]
pub struct OciSource<'a, R: ?Sized>(&'a R);

impl<'a, R: OciRead + ?Sized> OciSource<'a, R> {
    /// The same, to fetch from.
    pub fn new(reader: &'a R) -> Self {
        Self(reader)
    }
}

impl<R: ?Sized> fmt::Debug for OciSource<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OciSource").field(&std::any::type_name::<R>()).finish()
    }
}

impl<R: OciRead + Sync + ?Sized> Fetch for OciSource<'_, R> {
    fn fetch(&self, descriptor: &Descriptor, offset: u64) -> io::Result<Option<Box<dyn Read + Send + '_>>> {
        let digest = descriptor.digest;
        let fault = |source| io::Error::other(NotRead { digest, source });
        let asked = described(descriptor).map_err(fault)?;
        if !self.0.has_blob(&asked).map_err(fault)? {
            return Ok(None);
        }
        let mut blob = self.0.read_blob(&asked).map_err(fault)?;
        blob.seek(SeekFrom::Start(offset))?;
        Ok(Some(Box::new(blob)))
    }
}

/// The same reference in that crate's words.
fn described(descriptor: &Descriptor) -> Result<spec::Descriptor, ::ocidir::Error> {
    let digest: spec::Digest = descriptor.digest.to_string().parse()?;
    let media_type = spec::MediaType::from(descriptor.media_type.as_str());
    Ok(spec::Descriptor::new(media_type, descriptor.size, digest))
}

/// A blob was not handed out.
#[derive(Debug, thiserror::Error)]
#[error("the OCI layout does not give blob {digest}")]
struct NotRead {
    digest: Digest,
    source: ::ocidir::Error,
}
