//! `container.json`: what a container is, as opposed to what is in it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::driver::DriverKind;
use crate::image::Descriptor;
use crate::layer::LayerKey;

/// The version of the record that this crate writes and reads.
const VERSION: u32 = 1;

/// The record of a container. Replaced as a whole; who reads it needs no lock.
#[derive(Clone, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct ContainerRecord {
    version: Version,
    /// 64 hexadecimal digits.
    pub id: String,
    /// What people call it; unique in its store.
    pub name: String,
    /// What it was made from.
    pub image: ImageRecord,
    /// Its layers, bottom first.
    pub stack: Vec<LayerKey>,
    /// Who makes its root.
    pub driver: DriverKind,
    /// Notes by name.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What an engine keeps with it, by name. Nothing of it means anything here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// When it was made, RFC 3339, if whoever made it said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
}

/// The image of a container. It is kept while the container is, named or not.
#[derive(Clone, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct ImageRecord {
    /// The manifest.
    pub target: Descriptor,
    /// The digest of the config: the image id.
    pub id: Digest,
    /// What the image was called then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// The one version, checked when read.
#[derive(Clone, Copy, Debug)]
struct Version;

impl Serialize for Version {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(VERSION)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u32::deserialize(deserializer)? {
            VERSION => Ok(Self),
            other => Err(serde::de::Error::custom(format!("version {other} is not known, only {VERSION}"))),
        }
    }
}

impl ContainerRecord {
    /// The record of a new container without labels.
    pub fn new(
        id: String,
        name: String,
        image: ImageRecord,
        stack: Vec<LayerKey>,
        driver: DriverKind,
    ) -> Self {
        let (labels, metadata) = (BTreeMap::new(), BTreeMap::new());
        Self { version: Version, id, name, image, stack, driver, labels, metadata, created: None }
    }
}
