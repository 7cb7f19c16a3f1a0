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
    /// Remove it with all its names if it was named by its id or digest; refuse if a container or a view needs it.
    AllNames,
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
    /// its names. Works on a disk that is full.
    ///
    /// `name@digest` takes the name with that digest away, if the image has one, and stands for the id otherwise. With the
    /// last tag of a repository its names by digest go, too; and an image whose only tag and names by digest are of one
    /// repository counts as having one name.
    ///
    /// # Errors
    ///
    /// [`StoreError::ImageInUse`] if a container uses it, [`StoreError::ImageMounted`] if its view is mounted, [`StoreError::SeveralNames`] if it was named by id and has
    /// several names, both unless forced; [`StoreError::Lent`] if it belongs to another store; [`StoreError::NotFound`]. Nothing is removed then.
    pub fn remove_image(&self, name: &str, how: RemoveImage) -> Result<Removed, StoreError> {
        loop {
            let removed = match self.find_image(name) {
                Err(error) if how == RemoveImage::Force => self.remove_damaged(name, error)?,
                found => self.remove_found(found?, how)?,
            };
            // What is done depends on the names that the image has, and they are others by now.
            if let Some(removed) = removed {
                return Ok(removed);
            }
        }
    }

    /// Removes an image that was found by `known_as`, if that is a name; `None` if its names changed meanwhile.
    fn remove_found(
        &self,
        (image, known_as): (Image, Option<Reference>),
        how: RemoveImage,
    ) -> Result<Option<Removed>, StoreError> {
        Self::refuse_lent(&image)?;
        let named_by_id = known_as.is_none();
        let gone = known_as.map_or_else(|| image.names().to_vec(), |name| gone_with(&name, image.names()));
        // By one of several names: no container loses anything.
        if gone.len() < image.names().len() {
            return self.forget(&image.digest(), image.names(), Some(gone));
        }
        if how != RemoveImage::Force {
            self.refuse_if_used(&image)?;
            if how == RemoveImage::Refuse && named_by_id && !is_one_name(image.names()) {
                let names = image.names().iter().map(Reference::familiar).collect();
                return Err(StoreError::SeveralNames { image: image.id(), names });
            }
        }
        if how == RemoveImage::Force {
            self.unmount_image(&image)?;
        }
        let removed = self.forget(&image.digest(), image.names(), None)?;
        Ok(removed.map(|removed| Removed { deleted: Some(image.id()), ..removed }))
    }

    /// Removes an image that cannot be read; if there is none, the search ends with `error`.
    fn remove_damaged(&self, name: &str, error: StoreError) -> Result<Option<Removed>, StoreError> {
        let Some((image, known_as)) = self.find_damaged(name)? else { return Err(error) };
        let gone = known_as.map(|name| gone_with(&name, &image.names));
        let some = gone.filter(|gone| gone.len() < image.names.len());
        self.forget(&image.target.digest, &image.names, some)
    }

    /// Takes some names of an image away, or all and the image with them; `None` if it does not have the names that it was
    /// seen with.
    fn forget(
        &self,
        digest: &Digest,
        seen: &[Reference],
        some: Option<Vec<Reference>>,
    ) -> Result<Option<Removed>, StoreError> {
        self.inner.update_names(|names| {
            if names.with_digest(digest).is_none_or(|now| now.names != seen) {
                return Ok(None);
            }
            let untagged = match some {
                Some(gone) => {
                    gone.iter().for_each(|name| drop(names.unset(name)));
                    gone
                }
                None => names.forget(digest),
            };
            Ok(Some(Removed { untagged, deleted: None }))
        })
    }

    fn refuse_if_used(&self, image: &Image) -> Result<(), StoreError> {
        // By manifest: two images may share a config, and only one of them made the container.
        let containers = self.inner.containers_of(&image.manifest_digest())?;
        if !containers.is_empty() {
            let containers = containers.into_iter().map(|container| container.name).collect();
            return Err(StoreError::ImageInUse { image: image.id(), containers });
        }
        match self.image_mounted(image)? {
            None => Ok(()),
            Some(path) => Err(StoreError::ImageMounted { image: image.id(), path }),
        }
    }
}

/// Returns the names that go with `name`: with the last tag of a repository, its names by digest.
fn gone_with(name: &Reference, names: &[Reference]) -> Vec<Reference> {
    let beside = || names.iter().filter(|other| *other != name && other.is_beside(name));
    let takes_digests = name.digest().is_none() && beside().all(|other| other.digest().is_some());
    [name].into_iter().chain(beside().filter(|_| takes_digests)).cloned().collect()
}

/// Returns true if an image with these names counts as having one: a tag and names by digest, of one repository.
fn is_one_name(names: &[Reference]) -> bool {
    let tags = names.iter().filter(|name| name.digest().is_none()).count();
    tags <= 1 && names.iter().all(|name| name.is_beside(&names[0]))
}
