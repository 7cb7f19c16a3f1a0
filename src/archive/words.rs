//! [`MediaTypes`]: whose words documents speak, OCI's or docker's, and what is lost from one to the other.
//!
//! Docker's documents have no annotations, no subjects and no artifacts, and layers in Zstandard have a name there that next
//! to nobody knows. Such things are refused, or left out if that is wished; they never vanish unasked.

use std::collections::BTreeMap;

use super::SaveError;
use crate::digest::Digest;
use crate::image::{CompressionHint, Descriptor, Index, Manifest, MediaKind, MediaType};

/// Whose media types the documents of an image have: docker's schema 2 and manifest lists are OCI's manifests and indexes
/// under other names, and with fewer fields. Configs, and with them image ids, stay as they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum MediaTypes {
    /// Those that they have.
    #[default]
    Keep,
    /// OCI's.
    Oci,
    /// Docker's. What has no place there is refused.
    Docker,
    /// Docker's. Annotations, subjects, attestations and other artifacts, which have no place there, are left out.
    DockerLossy,
}

/// What else documents shall say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recast {
    pub(crate) media_types: MediaTypes,
    /// Notes for the document that a name points at.
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Recast {
    /// The manifest `digest` in other words.
    pub(super) fn manifest(&self, digest: Digest, manifest: Manifest) -> Result<Manifest, SaveError> {
        match self.media_types {
            MediaTypes::Keep => Ok(manifest),
            MediaTypes::Oci => {
                let named = manifest.media_type.is_some();
                let mut manifest = manifest.to_oci();
                // OCI lets it be absent.
                manifest.media_type.take_if(|_| !named);
                Ok(manifest)
            }
            MediaTypes::Docker | MediaTypes::DockerLossy => {
                let mut manifest = manifest.to_docker();
                for layer in &manifest.layers {
                    refuse_in_docker(digest, &layer.media_type)?;
                }
                let Manifest { config, layers, annotations, subject, artifact_type, .. } = &mut manifest;
                self.lose(digest, "annotations", !annotations.is_empty())?;
                self.lose(digest, "a subject", subject.is_some())?;
                self.lose(digest, "an artifact type", artifact_type.is_some())?;
                (*subject, *artifact_type) = (None, None);
                annotations.clear();
                layers.iter_mut().chain([config]).try_for_each(|part| self.strip(digest, part))?;
                Ok(manifest)
            }
        }
    }

    /// The index `digest` in other words, its entries converted by now. `is_there` says whether there is an entry.
    pub(super) fn index(
        &self,
        digest: Digest,
        mut index: Index,
        is_there: impl Fn(&Digest) -> Result<bool, SaveError>,
    ) -> Result<Index, SaveError> {
        match self.media_types {
            MediaTypes::Keep => {}
            MediaTypes::Oci => index.media_type = index.media_type.map(|named| named.to_oci()),
            MediaTypes::Docker | MediaTypes::DockerLossy => {
                index.media_type = Some(index.media_type().to_docker());
                self.lose(digest, "annotations", !index.annotations.is_empty())?;
                self.lose(digest, "a subject", index.subject.is_some())?;
                self.lose(digest, "an artifact type", index.artifact_type.is_some())?;
                (index.subject, index.artifact_type) = (None, None);
                index.annotations.clear();
                let mut entries = Vec::with_capacity(index.manifests.len());
                for mut entry in index.manifests {
                    // What is not there could not be converted, and is what it was to who has it.
                    let is_image = entry.media_type.to_oci() != entry.media_type || !is_there(&entry.digest)?;
                    self.lose(digest, "an attestation or another artifact", !is_image)?;
                    if is_image {
                        self.strip(digest, &mut entry)?;
                        entries.push(entry);
                    }
                }
                index.manifests = entries;
            }
        }
        Ok(index)
    }

    /// Adds the notes to those of the document that a name points at.
    pub(super) fn annotate(
        &self,
        digest: Digest,
        annotations: &mut BTreeMap<String, String>,
    ) -> Result<(), SaveError> {
        // These were asked for a moment ago, so they are not left out.
        if matches!(self.media_types, MediaTypes::Docker | MediaTypes::DockerLossy)
            && !self.annotations.is_empty()
        {
            return Err(SaveError::NotInDocker { document: digest, what: "annotations".to_owned() });
        }
        annotations.extend(self.annotations.clone());
        Ok(())
    }

    /// Takes from a descriptor what docker's have not.
    fn strip(&self, document: Digest, descriptor: &mut Descriptor) -> Result<(), SaveError> {
        self.lose(document, "annotations", !descriptor.annotations.is_empty())?;
        self.lose(document, "an artifact type", descriptor.artifact_type.is_some())?;
        descriptor.annotations.clear();
        // The data is that of the blob, which stays.
        (descriptor.artifact_type, descriptor.data) = (None, None);
        Ok(())
    }

    /// Refuses to lose something that is there, unless that is wished.
    fn lose(&self, document: Digest, what: &str, is_there: bool) -> Result<(), SaveError> {
        match is_there && self.media_types != MediaTypes::DockerLossy {
            true => Err(SaveError::NotInDocker { document, what: what.to_owned() }),
            false => Ok(()),
        }
    }
}

/// Refuses layers that docker has no name for, or one that is not understood.
fn refuse_in_docker(document: Digest, layer: &MediaType) -> Result<(), SaveError> {
    let what = match layer.kind() {
        MediaKind::Layer { compression: CompressionHint::Zstd, .. } => {
            "layers compressed with zstd".to_owned()
        }
        _ if layer.to_oci() == *layer => format!("layers of type {layer}"),
        _ => return Ok(()),
    };
    Err(SaveError::NotInDocker { document, what })
}
