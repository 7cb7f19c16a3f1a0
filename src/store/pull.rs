//! Pull: an image of a registry becomes one of the store.

use super::Store;
use super::cancel;
use super::error::StoreError;
use super::fetch::FetchOptions;
use super::load::LoadedImage;
use crate::archive::LoadError;
use crate::image::Reference;
use crate::registry::{Client, RegistryError};

impl Store {
    /// Pulls the image that `name` stands for in its registry: asks for what that is, and [fetches](Store::fetch) it from there.
    ///
    /// A digest in the name decides, and the image then gets the tag beside it; with a digest alone it gets no name.
    ///
    /// # Errors
    ///
    /// [`StoreError::Registry`] if the registry does not have it, does not give it, or cannot be reached; otherwise as
    /// [`Store::fetch`], and as little is left: the bytes that came, for the next attempt.
    pub fn pull(
        &self,
        name: &Reference,
        client: &Client,
        options: &FetchOptions<'_>,
    ) -> Result<LoadedImage, StoreError> {
        self.inner.require_writable()?;
        let repository = client.repository(name)?.until(options.cancel);
        let names = Vec::from_iter(name.tag().map(|_| name.without_digest()));
        let pulled = match repository.resolve() {
            Ok(target) => self.fetch(target, &names, &repository, options).map_err(of_registry),
            Err(error) => Err(error.into()),
        };
        cancel::told(pulled)
    }
}

/// What the registry said, if it is that.
fn of_registry(error: StoreError) -> StoreError {
    match error {
        StoreError::Load(LoadError::Fetch { digest, source }) => match source.downcast::<RegistryError>() {
            Ok(error) => error.into(),
            Err(source) => LoadError::Fetch { digest, source }.into(),
        },
        other => other,
    }
}
