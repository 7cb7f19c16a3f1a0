//! Referrers: manifests and indexes that say something about another one, which they name as their subject. Signatures and
//! bills of materials do so.
//!
//! A referrer is listed in `index.json` like any image, mostly without a name, and stays for as long as it is. Pruning leaves
//! it alone while its subject is kept; after that it is an image without a name like any other.

use std::collections::{BTreeMap, BTreeSet};

use super::error::StoreError;
use super::image::Document;
use super::names::Named;
use super::prune::PrunedImage;
use super::{Inner, Store};
use crate::digest::Digest;
use crate::image::{Descriptor, MediaKind};

impl Document {
    /// What it says something about.
    fn subject(&self) -> Option<&Descriptor> {
        match self {
            Self::Manifest(manifest) => manifest.subject.as_ref(),
            Self::Index(index) => index.subject.as_ref(),
        }
    }

    /// What the distribution specification lists it as, if `descriptor` names it.
    fn as_referrer(&self, descriptor: &Descriptor) -> Descriptor {
        let &Descriptor { digest, size, .. } = descriptor;
        let mut listed = Descriptor::new(descriptor.media_type.clone(), digest, size);
        (listed.artifact_type, listed.annotations) = match self {
            Self::Manifest(manifest) => (Some(manifest.kind_of_artifact()), manifest.annotations.clone()),
            Self::Index(index) => (index.artifact_type.clone(), index.annotations.clone()),
        };
        listed
    }
}

impl Store {
    /// What says something about the manifest or index `subject`, as a registry lists it: with the type of the artifact and
    /// the annotations of its manifest, sorted by digest. The subject need not be here. Reads the documents of all images,
    /// those that are lent with them; what is damaged is passed over.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the names cannot be read, or a document for another reason than that it is damaged.
    pub fn referrers(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, StoreError> {
        let inner = &self.inner;
        let mut found = BTreeMap::new();
        let lent = inner.lent_names()?.into_iter().map(|(_, named)| named.target);
        for target in inner.names()?.targets().into_iter().chain(lent) {
            let look = |descriptor: &Descriptor, document: Option<&Document>| {
                if let Some(document) = document
                    && document.subject().is_some_and(|named| named.digest == *subject)
                {
                    found.insert(descriptor.digest, document.as_referrer(descriptor));
                }
                Ok(())
            };
            match inner.walk_documents(&target, look) {
                Err(error) if error.is_damage() => {
                    tracing::warn!(image = %target.digest, %error, "what it says of others is not known");
                }
                done => done?,
            }
        }
        let is_meant = |listed: &Descriptor| {
            artifact_type.is_none_or(|wanted| listed.artifact_type.as_deref() == Some(wanted))
        };
        Ok(found.into_values().filter(is_meant).collect())
    }
}

impl Inner {
    /// Leaves alone what says something about an image that stays. `all` are the images that there are.
    pub(super) fn spare_referrers(
        &self,
        mut prunable: Vec<PrunedImage>,
        all: &[Named],
    ) -> Result<Vec<PrunedImage>, StoreError> {
        let mut subjects: BTreeMap<Digest, Digest> = BTreeMap::new();
        for image in &prunable {
            let target = all.iter().find(|named| named.target.digest == image.digest);
            if let Some(Named { target, .. }) = target
                && let MediaKind::Manifest | MediaKind::Index = target.media_type.kind()
                && let Some(subject) = self.document(target)?.subject()
            {
                subjects.insert(image.digest, subject.digest);
            }
        }
        // One may be about another.
        while !subjects.is_empty() {
            let going: BTreeSet<Digest> = prunable.iter().map(|image| image.digest).collect();
            let mut kept = BTreeSet::new();
            for named in all.iter().filter(|named| !going.contains(&named.target.digest)) {
                match self.walk_documents(&named.target, |descriptor, _| {
                    kept.insert(descriptor.digest);
                    Ok(())
                }) {
                    Err(error) if error.is_damage() => {}
                    done => done?,
                }
            }
            let stays = |digest: &Digest| subjects.get(digest).is_some_and(|subject| kept.contains(subject));
            let before = prunable.len();
            prunable.retain(|image| !stays(&image.digest));
            if prunable.len() == before {
                break;
            }
        }
        Ok(prunable)
    }
}
