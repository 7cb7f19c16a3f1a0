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
    /// A digest in the name decides. The image then gets the name by digest (`repository@sha256:…`), which keeps it as a tag
    /// does, and the tag beside it if there is one; [`LoadedImage::names`] then lists the tag.
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
        let tag = name.tag().map(|_| name.without_digest());
        let digest = name.digest().map(|digest| name.at_digest(*digest));
        let names: Vec<_> = tag.into_iter().chain(digest).collect();
        let mut pulled = match repository.resolve() {
            Ok(target) => self.fetch(target, &names, &repository, options).map_err(of_registry),
            Err(error) => Err(error.into()),
        };
        if let (Ok(pulled), true) = (&mut pulled, name.tag().is_some()) {
            pulled.names.retain(|name| name.digest().is_none());
        }
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
