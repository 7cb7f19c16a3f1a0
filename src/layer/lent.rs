//! [`LentLayers`]: the layers of another store, to be used and never changed.
//!
//! Nothing is written there and no lock is taken, so the other store may lie where nothing can be written. Its owner may
//! change it at any time: a layer that is gone is looked for elsewhere and in the end made from its blob.
//!
//! A layer is taken only where it means here what it means there. It has to be known to be on disk or of this boot, as
//! our own (invariant 4). And it has to have been unpacked by whoever is root to this process too: owners on disk are
//! the image's as seen by the user who unpacked it, and under another map of ids they would be somebody else's.

use crate::fs::{self, Dir};
use crate::whiteout::Namespace;

use super::key::LayerKey;
use super::store::{Layer, LayerError, LayerStore, State};

/// The layers of another store.
#[derive(Debug)]
pub struct LentLayers(LayerStore);

impl LentLayers {
    /// Uses the directory `layers` of another store.
    ///
    /// # Errors
    ///
    /// [`fs::Error`] if the directory cannot be held or listed by this process.
    pub fn open(layers: Dir) -> fs::Result<Self> {
        layers.names()?;
        // Locks tell a store only how far the clock of its file system is; the directory of the layers tells it, too.
        let clock = layers.try_clone()?;
        Ok(Self(LayerStore::new(layers, clock)))
    }

    /// The layer `key`, if it is there and can be read here, preferably with the marks of `family`. One that cannot be read is
    /// not there: whoever wants it has other ways to get it.
    pub fn find(&self, key: LayerKey, family: Namespace) -> Option<Layer> {
        match self.look(key, family) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(layer = %key, %error, "a layer of another store cannot be used");
                None
            }
        }
    }

    fn look(&self, key: LayerKey, family: Namespace) -> Result<Option<Layer>, LayerError> {
        let (State::Good(layer) | State::Other(layer)) = self.0.look_for(key, family)? else {
            return Ok(None);
        };
        // Whoever unpacks a layer makes its directory.
        let Some(made) = self.0.layers.find(&layer.directory)? else { return Ok(None) };
        if made.uid != rustix::process::geteuid().as_raw() {
            tracing::debug!(layer = %key, owner = made.uid, "a layer that another user unpacked is not used");
            return Ok(None);
        }
        Ok(Some(Layer { lent: true, ..*layer }))
    }

    /// The keys of all layers that are there.
    ///
    /// # Errors
    ///
    /// [`LayerError`] if the directory cannot be read.
    pub fn list(&self) -> Result<Vec<LayerKey>, LayerError> {
        self.0.list()
    }
}
