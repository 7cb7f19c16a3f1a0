//! [`LayerKey`]: what a layer is called in the store.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::{ChainId, DiffId, Digest, DigestError};

/// Names an unpacked layer. As text it is the layer's directory: `sha256-<hex>`, `chain-sha256-<hex>` or
/// `merged-sha256-<hex>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum LayerKey {
    /// The layer is the same on every base that agrees with what it assumes, and shared by its diff id.
    Free(DiffId),
    /// The layer depends on what is below it, and is shared only as the top of this chain.
    Bound(ChainId),
    /// What several layers show together. The digest is that of their keys, each on a line, lowest first.
    Merged(Digest),
}

const CHAIN: &str = "chain-";
const MERGED: &str = "merged-";

impl LayerKey {
    /// Every key that the layers of an image (bottom first) can have. Which ones they do have is known once they are
    /// unpacked; who relies on them before that relies on all of these.
    pub fn candidates(layers: impl IntoIterator<Item = DiffId>) -> Vec<Self> {
        let mut chain: Option<ChainId> = None;
        let mut keys = Vec::new();
        for layer in layers {
            let top = chain.map_or_else(|| ChainId::base(layer), |below| below.with(layer));
            chain = Some(top);
            keys.extend([Self::Free(layer), Self::Bound(top)]);
        }
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// The key of what `layers`, lowest first, are merged into.
    pub fn merged(layers: &[Self]) -> Self {
        Self::Merged(merged_digest(layers))
    }
}

/// The digest that names what `layers`, lowest first, are merged into.
pub(super) fn merged_digest(layers: &[LayerKey]) -> Digest {
    let lines: String = layers.iter().map(|key| format!("{key}\n")).collect();
    Digest::of(lines.as_bytes())
}

impl fmt::Display for LayerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (prefix, digest) = match self {
            Self::Free(diff) => ("", diff.as_digest()),
            Self::Bound(chain) => (CHAIN, chain.as_digest()),
            Self::Merged(digest) => (MERGED, digest),
        };
        write!(f, "{prefix}{}-{}", digest.algorithm().name(), digest.hex())
    }
}

/// A text that is no layer's name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text:?} is not the key of a layer")]
pub struct LayerKeyError {
    text: String,
    source: Option<DigestError>,
}

impl FromStr for LayerKey {
    type Err = LayerKeyError;

    fn from_str(text: &str) -> Result<Self, LayerKeyError> {
        let fault = |source| LayerKeyError { text: text.to_owned(), source };
        let prefix = [CHAIN, MERGED].into_iter().find(|prefix| text.starts_with(prefix)).unwrap_or_default();
        let digest = &text[prefix.len()..];
        let (algorithm, hex) = digest.split_once('-').ok_or_else(|| fault(None))?;
        let digest = Digest::from_parts(algorithm, hex).map_err(|error| fault(Some(error)))?;
        match prefix {
            CHAIN => Ok(Self::Bound(digest.to_string().parse().map_err(|error| fault(Some(error)))?)),
            MERGED => Ok(Self::Merged(digest)),
            _ => Ok(Self::Free(DiffId::of_tar(digest))),
        }
    }
}

impl Serialize for LayerKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LayerKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_as_it_prints_and_nothing_else_is_one() {
        let diff = DiffId::of_tar(Digest::of(b"layer"));
        let mut keys = LayerKey::candidates([diff, diff]);
        assert_eq!(keys.len(), 3);
        keys.push(LayerKey::merged(&keys));
        for key in keys {
            assert_eq!(key.to_string().parse(), Ok(key));
            assert_eq!(serde_json::from_str::<LayerKey>(&serde_json::to_string(&key).unwrap()).unwrap(), key);
        }
        let hex = diff.as_digest().hex();
        for text in
            ["", "sha256", "chain-", "merged-", "x", &format!("sha256:{hex}"), &format!("md5-{hex}"), &hex]
        {
            assert!(text.parse::<LayerKey>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_bottom_of_a_chain_has_two_names_that_differ() {
        let diff = DiffId::of_tar(Digest::of(b"layer"));
        assert_ne!(LayerKey::Free(diff).to_string(), LayerKey::Bound(ChainId::base(diff)).to_string());
    }
}
