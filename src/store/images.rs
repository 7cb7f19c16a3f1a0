//! [`Images`]: all images that there are, the damaged ones apart; and finding one by what a person types.

use std::ops::Deref;

use super::Store;
use super::error::StoreError;
use super::image::Image;
use super::names::Named;
use crate::digest::Digest;
use crate::image::Reference;

/// The images of a store, in the order of their names; those without a name last. Reads as a slice.
#[derive(Debug, Default)]
pub struct Images {
    list: Vec<Image>,
    damaged: Vec<DamagedImage>,
}

/// An image of which a document is missing or wrong, so that nothing more is known of it. Loading it again mends it.
#[derive(Debug)]
#[non_exhaustive]
pub struct DamagedImage {
    /// Its names, sorted.
    pub names: Vec<Reference>,
    /// The digest of what they point at.
    pub digest: Digest,
    /// What is wrong.
    pub error: StoreError,
}

impl Images {
    /// Those that cannot be read. They are in the way of no other, but for [`Store::gc`], which cannot know what they need.
    pub fn damaged(&self) -> &[DamagedImage] {
        &self.damaged
    }
}

impl Deref for Images {
    type Target = [Image];

    fn deref(&self) -> &[Image] {
        &self.list
    }
}

impl IntoIterator for Images {
    type Item = Image;
    type IntoIter = std::vec::IntoIter<Image>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.into_iter()
    }
}

impl<'a> IntoIterator for &'a Images {
    type Item = &'a Image;
    type IntoIter = std::slice::Iter<'a, Image>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.iter()
    }
}

impl Store {
    /// All images.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the names cannot be read, or something of an image for another reason than that it is damaged.
    pub fn images(&self) -> Result<Images, StoreError> {
        let mut images = Images::default();
        for named in self.inner.names()?.images() {
            match self.inner.image(named.clone()) {
                Ok(image) => images.list.push(image),
                Err(error) if error.is_damage() => {
                    images.damaged.push(DamagedImage {
                        names: named.names,
                        digest: named.target.digest,
                        error,
                    });
                }
                Err(error) => return Err(error),
            }
        }
        if !images.damaged.is_empty() {
            // What was removed between two looks is not damaged.
            let now = self.inner.names()?.images();
            images.damaged.retain(|damaged| now.iter().any(|named| named.target.digest == damaged.digest));
        }
        images.list.extend(self.inner.lent_images()?);
        images.list.sort_by(|one, other| {
            let key = |image: &Image| (image.names.is_empty(), image.names.first().cloned(), image.digest());
            key(one).cmp(&key(other))
        });
        Ok(images)
    }

    /// What `name` names, an image that cannot be read: by one of its names, its digest or the beginning of that.
    pub(super) fn find_damaged(&self, name: &str) -> Result<Option<(Named, Option<Reference>)>, StoreError> {
        let reference = Reference::parse_familiar(name).ok();
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        let mut found = None;
        for named in self.inner.names()?.images() {
            let known_as = reference.clone().filter(|reference| named.names.contains(reference));
            let is_meant =
                known_as.is_some() || (!hex.is_empty() && named.target.digest.hex().starts_with(hex));
            if is_meant && self.inner.image(named.clone()).is_err_and(|error| error.is_damage()) {
                match known_as.is_some() || found.is_none() {
                    true => found = Some((named, known_as)),
                    false => return Ok(None),
                }
            }
        }
        Ok(found)
    }

    /// Finds an image by a name (`debian`, `debian:12`, `localhost:5000/x@sha256:…`), by its id or digest, or by the
    /// beginning of its id.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`], or [`StoreError::Ambiguous`] with everything that the beginning of an id may mean.
    pub fn image(&self, name: &str) -> Result<Image, StoreError> {
        Ok(self.find_image(name)?.0)
    }

    /// Finds an image of this store, and the name it was found by, if it was a name.
    pub(super) fn find_own_image(&self, name: &str) -> Result<(Image, Option<Reference>), StoreError> {
        let names = self.inner.names()?;
        if let Ok(reference) = Reference::parse_familiar(name) {
            for named in names.images() {
                let Some(digest) = reference.digest() else {
                    match named.names.contains(&reference) {
                        true => return Ok((self.inner.image(named)?, Some(reference))),
                        false => continue,
                    }
                };
                // The digest decides, be it of an index or of its manifest; the name has to be of the repository.
                if named.names.iter().any(|known| known.repository() == reference.repository()) {
                    let image = self.inner.image(named)?;
                    if [image.digest(), image.manifest_digest()].contains(digest) {
                        return Ok((image, None));
                    }
                }
            }
        }
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        let is_prefix =
            !hex.is_empty() && hex.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        let not_found = || StoreError::NotFound { what: "image", name: name.to_owned() };
        if !is_prefix && name.parse::<Digest>().is_err() {
            return Err(not_found());
        }
        let mut found: Vec<Image> = Vec::new();
        for image in self.images()?.list.into_iter().filter(|image| image.lent_by().is_none()) {
            let ids = [image.id(), image.digest(), image.manifest_digest()];
            if ids.iter().any(|id| id.to_string() == name || id.hex() == hex) {
                return Ok((image, None));
            }
            // One image may be there in several forms, compressed and not; the one with a name comes first.
            let is_new = || found.iter().all(|known| known.id() != image.id());
            if is_prefix && ids.iter().any(|id| id.hex().starts_with(hex)) && is_new() {
                found.push(image);
            }
        }
        match found.len() {
            0 => Err(not_found()),
            1 => Ok((found.remove(0), None)),
            _ => {
                let candidates =
                    found.iter().map(|image| format!("{} ({})", image.id(), image.label())).collect();
                Err(StoreError::Ambiguous { what: "image", name: name.to_owned(), candidates })
            }
        }
    }
}
