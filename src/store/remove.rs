//! Removing images: names first, content later.
//!
//! Removing takes names out of `index.json` and nothing else, so it costs the same for an image of any size; [`Store::gc`]
//! then collects what no name, container or operation needs. A container whose image is removed keeps everything that
//! it needs.

use super::Store;
use super::error::StoreError;
use super::image::Image;
use crate::digest::Digest;
use crate::image::Reference;

/// What to do about an image that is needed, or that has more names than the one that was said.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RemoveImage {
    /// Refuse.
    #[default]
    Refuse,
    /// Remove it with all its names, even if it is damaged and cannot be read. Containers keep what they need of it; its
    /// view is unmounted.
    Force,
}

/// What was removed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Removed {
    /// Names that point at nothing now.
    pub untagged: Vec<Reference>,
    /// The id of the image, if it is gone with that and was not too damaged to have one.
    pub deleted: Option<Digest>,
}

impl Store {
    /// Removes an image as docker does: by name, that name, and the image with its last name; by id, the image with all
    /// its names.
    ///
    /// # Errors
    ///
    /// [`StoreError::ImageInUse`] if a container uses it, [`StoreError::ImageMounted`] if its view is mounted, [`StoreError::SeveralNames`] if it was named by id and has
    /// several names, both unless forced; [`StoreError::Lent`] if it belongs to another store; [`StoreError::NotFound`]. Nothing is removed then.
    pub fn remove_image(&self, name: &str, how: RemoveImage) -> Result<Removed, StoreError> {
        let (image, known_as) = match self.find_image(name) {
            Err(error) if how == RemoveImage::Force => return self.remove_damaged(name, error),
            found => found?,
        };
        Self::refuse_lent(&image)?;
        if let Some(name) = known_as.filter(|_| image.names().len() > 1) {
            // One of several names: no container loses anything.
            self.untag(&name)?;
            return Ok(Removed { untagged: vec![name], deleted: None });
        }
        if how == RemoveImage::Refuse {
            self.refuse_if_used(&image)?;
            if image.names().len() > 1 {
                let names = image.names().iter().map(Reference::familiar).collect();
                return Err(StoreError::SeveralNames { image: image.id(), names });
            }
        }
        if how == RemoveImage::Force {
            self.unmount_image(&image)?;
        }
        let digest = image.digest();
        let untagged = self.inner.update_names(|names| Ok(names.forget(&digest)))?;
        Ok(Removed { untagged, deleted: Some(image.id()) })
    }

    /// Removes an image that cannot be read; if there is none, the search ends with `error`.
    fn remove_damaged(&self, name: &str, error: StoreError) -> Result<Removed, StoreError> {
        let Some((image, known_as)) = self.find_damaged(name)? else { return Err(error) };
        if let Some(name) = known_as.filter(|_| image.names.len() > 1) {
            self.untag(&name)?;
            return Ok(Removed { untagged: vec![name], deleted: None });
        }
        let untagged = self.inner.update_names(|names| Ok(names.forget(&image.target.digest)))?;
        Ok(Removed { untagged, deleted: None })
    }

    fn refuse_if_used(&self, image: &Image) -> Result<(), StoreError> {
        let mut containers = Vec::new();
        for container in self.containers()? {
            // By manifest: two images may share a config, and only one of them made the container.
            if container.manifest_digest() == image.manifest_digest() {
                containers.push(container.name().to_owned());
            }
        }
        if !containers.is_empty() {
            return Err(StoreError::ImageInUse { image: image.id(), containers });
        }
        match self.image_mounted(image)? {
            None => Ok(()),
            Some(path) => Err(StoreError::ImageMounted { image: image.id(), path }),
        }
    }
}
