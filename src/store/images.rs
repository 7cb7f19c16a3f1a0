//! [`Images`]: all images that there are, the damaged ones apart; and finding one by what a person types.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;

use super::error::StoreError;
use super::image::Image;
use super::names::{Named, Names};
use super::survey::IMAGES;
use super::{Inner, Store};
use crate::digest::Digest;
use crate::image::{Descriptor, MediaKind, Platform, Reference};

/// The images of a store, in the order of their names; those without a name last. Reads as a slice.
#[derive(Debug)]
pub struct Images<T = Image> {
    list: Vec<T>,
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

/// What has a place in a list of images.
pub(super) trait Listed {
    /// Sorts by name; images without one come last.
    fn in_list(&self) -> (bool, Option<&Reference>, Digest);
}

/// The order of a list.
pub(super) fn by_name<T: Listed>(one: &T, other: &T) -> Ordering {
    one.in_list().cmp(&other.in_list())
}

impl Listed for Image {
    fn in_list(&self) -> (bool, Option<&Reference>, Digest) {
        (self.names.is_empty(), self.names.first(), self.digest())
    }
}

impl Listed for Named {
    fn in_list(&self) -> (bool, Option<&Reference>, Digest) {
        (self.names.is_empty(), self.names.first(), self.target.digest)
    }
}

impl DamagedImage {
    pub(super) fn new(named: &Named, error: StoreError) -> Self {
        Self { names: named.names.clone(), digest: named.target.digest, error }
    }
}

impl<T> Images<T> {
    /// What was found, in order. What was removed between two looks is not damaged.
    pub(super) fn new(
        inner: &Inner,
        list: Vec<T>,
        mut damaged: Vec<DamagedImage>,
    ) -> Result<Self, StoreError> {
        if !damaged.is_empty() {
            let now = inner.names()?;
            damaged.retain(|damaged| now.has(&damaged.digest));
        }
        Ok(Self { list, damaged })
    }

    /// Those that cannot be read. They are in the way of no other, but for [`Store::gc`], which cannot know what they need.
    pub fn damaged(&self) -> &[DamagedImage] {
        &self.damaged
    }
}

impl<T> Default for Images<T> {
    fn default() -> Self {
        Self { list: Vec::new(), damaged: Vec::new() }
    }
}

impl<T> Deref for Images<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.list
    }
}

impl<T> IntoIterator for Images<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a Images<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.iter()
    }
}

impl Store {
    /// All images, with their documents. For a list, [`Store::list_images`] costs a tenth.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the names cannot be read, or something of an image for another reason than that it is damaged.
    pub fn images(&self) -> Result<Images, StoreError> {
        let (mut list, mut damaged) = (Vec::new(), Vec::new());
        for named in self.inner.names()?.images() {
            match self.inner.image(named.clone()) {
                Ok(image) => list.push(image),
                Err(error) if error.is_damage() => damaged.push(DamagedImage::new(&named, error)),
                Err(error) => return Err(error),
            }
        }
        list.extend(self.inner.lent_images()?);
        list.sort_by(by_name);
        Images::new(&self.inner, list, damaged)
    }

    /// What `name` names, an image that cannot be read: by one of its names, its digest or the beginning of that.
    pub(super) fn find_damaged(&self, name: &str) -> Result<Option<(Named, Option<Reference>)>, StoreError> {
        let reference = Reference::parse_familiar(name).ok();
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        let mut found = None;
        for named in self.inner.names()?.images() {
            let known_as = reference.as_ref().and_then(|reference| named.known_as(reference));
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
    /// A complete id or digest, and whatever begins with `sha256:`, is never a name ([`Reference`]). Other beginnings of
    /// ids may be names, and a name then goes first, as with docker and podman: `cafe` is the image of that name if there
    /// is one. In `name@digest` and `name:tag@digest` the digest decides: it is that of an image with a name in this
    /// repository, of its index, or of a manifest that the index lists; the tag is ignored.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`], or [`StoreError::Ambiguous`] with everything that the beginning of an id may mean.
    pub fn image(&self, name: &str) -> Result<Image, StoreError> {
        Ok(self.find_image(name)?.0)
    }

    /// The same image for the platform that `platform` is best served with, of those that are here. Of an index it is that one
    /// that containers, views and all else are then made of; a single image is for its own platform only.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoPlatform`] with those that there are; [`StoreError::NotAnImage`] if there is none, and other errors if a
    /// document is damaged.
    pub fn image_for(&self, image: &Image, platform: &Platform) -> Result<Image, StoreError> {
        let inner = &self.inner;
        let mut offered: Vec<(Descriptor, Platform)> = Vec::new();
        inner.walk(image.target(), |descriptor, manifest| {
            if let Some(manifest) = manifest.filter(|manifest| manifest.is_image())
                && !descriptor.is_attestation()
            {
                let said = descriptor.platform.clone();
                let platform =
                    said.map_or_else(|| Ok(inner.config(manifest)?.platform()), Ok::<_, StoreError>)?;
                offered.push((descriptor.clone(), platform));
            }
            Ok(())
        })?;
        if offered.is_empty() {
            image.require_config()?;
        }
        // Of equals the first as the index lists them, which is walked from its end.
        offered.reverse();
        let wanted = offered.iter().filter_map(|(found, offer)| Some((platform.preference(offer)?, found)));
        match wanted.min_by_key(|(far, _)| *far) {
            Some((_, found)) => inner.image_of(image, found.clone()),
            None => Err(StoreError::NoPlatform {
                image: image.label(),
                wanted: platform.clone(),
                found: offered.into_iter().map(|(_, platform)| platform).collect(),
            }),
        }
    }

    /// Finds an image of this store, and the name it was found by, if it was a name.
    pub(super) fn find_own_image(&self, name: &str) -> Result<(Image, Option<Reference>), StoreError> {
        loop {
            if let Some(found) = self.look_for(name)? {
                return Ok(found);
            }
        }
    }

    /// Looks for an image once; `None` if what was found was removed meanwhile.
    fn look_for(&self, name: &str) -> Result<Option<(Image, Option<Reference>)>, StoreError> {
        let reference = Reference::parse_familiar(name).ok();
        let wanted = WantedId::new(name);
        let not_found = || StoreError::NotFound { what: "image", name: name.to_owned() };
        if reference.is_none() && wanted.is_none() {
            return Err(not_found());
        }
        let names = self.inner.names()?;
        if let Some(reference) = reference {
            match reference.digest() {
                None => {
                    if let Some(named) = names.find(&reference) {
                        let image = self.inner.present_image(named)?;
                        return Ok(image.map(|image| (image, Some(reference))));
                    }
                }
                // The digest decides, be it of an index or of its manifest; the name has to be of the repository.
                Some(digest) => {
                    let named = names.in_repository(&reference);
                    if let Some(named) = named.iter().find(|named| named.target.digest == *digest) {
                        let known_as = named.known_as(&reference);
                        let image = self.inner.present_image(named.clone())?;
                        return Ok(image.map(|image| (image, known_as)));
                    }
                    for named in named.into_iter().filter(|named| named.is_index()) {
                        if let Some(image) = self.inner.listed_image(&named, digest)? {
                            return Ok(Some((image, None)));
                        }
                    }
                }
            }
        }
        let image = self.find_by_id(&wanted.ok_or_else(not_found)?, &names)?;
        Ok(image.map(|image| (image, None)))
    }

    /// Finds an image of `names` by its id, its digest, or the beginning of one of them; `None` if it was removed
    /// meanwhile.
    fn find_by_id(&self, wanted: &WantedId<'_>, names: &Names) -> Result<Option<Image>, StoreError> {
        let inner = &self.inner;
        if let Some(named) = wanted.whole.and_then(|digest| names.with_digest(&digest)) {
            return inner.present_image(named);
        }
        let name = wanted.name.to_owned();
        let targets = names.targets();
        let mut found: BTreeMap<Fit, Vec<(Digest, Digest, Named)>> = BTreeMap::new();
        inner.survey(IMAGES, &targets, |number, known| {
            let known = match known {
                Err(error) if error.is_damage() => return Ok(()),
                known => known?,
            };
            let target = &targets[number].digest;
            let ids = [&known.id, &known.manifest.digest, target];
            if let Some((fit, by)) =
                ids.into_iter().filter_map(|id| Some((wanted.fit(id)?, id))).min_by_key(|it| it.0)
            {
                let named = names.with_digest(target).expect("it was listed a moment ago");
                found.entry(fit).or_default().push((known.id, *by, named));
            }
            Ok(())
        })?;
        let Some((_, mut found)) = found.pop_first() else {
            return Err(StoreError::NotFound { what: "image", name });
        };
        // One image may be there in several forms, compressed and not; the one with a name comes first.
        found.sort_by(|(_, _, one), (_, _, other)| by_name(one, other));
        let mut seen = BTreeSet::new();
        found.retain(|(id, ..)| seen.insert(*id));
        if let [(_, _, named)] = &found[..] {
            return inner.present_image(named.clone());
        }
        // Each by what begins with what was asked for, which may be its manifest's digest.
        let label = |(id, by, named): (Digest, Digest, Named)| match (named.names.first(), by == id) {
            (Some(name), true) => format!("{by} ({})", name.familiar()),
            (Some(name), false) => format!("{by} (manifest of {})", name.familiar()),
            (None, true) => by.to_string(),
            (None, false) => format!("{by} (manifest of {id})"),
        };
        let candidates = found.into_iter().map(label).collect();
        Err(StoreError::Ambiguous { what: "image", name, candidates })
    }
}

impl Named {
    /// Returns the name of the image that `reference` stands for: that name, or, where the digest decides, a name of the
    /// same repository with that digest.
    fn known_as(&self, reference: &Reference) -> Option<Reference> {
        let is_meant = |name: &&Reference| match reference.digest() {
            None => *name == reference,
            digest => name.digest() == digest && name.is_beside(reference),
        };
        let exact = self.names.iter().find(|name| *name == reference);
        exact.or_else(|| self.names.iter().find(is_meant)).cloned()
    }

    fn is_index(&self) -> bool {
        self.target.media_type.kind() == MediaKind::Index
    }
}

impl Inner {
    /// Returns the image of the manifest `digest` that the index behind `named` lists; `None` if it does not list it, or
    /// is damaged.
    pub(super) fn listed_image(&self, named: &Named, digest: &Digest) -> Result<Option<Image>, StoreError> {
        let mut found = None;
        let walked = self.walk(&named.target, |descriptor, manifest| {
            if manifest.is_some() && descriptor.digest == *digest {
                found = Some(descriptor.clone());
            }
            Ok(())
        });
        let image = walked.and_then(|()| self.image(named.clone()));
        match (found, image) {
            (Some(found), Ok(image)) => self.image_of(&image, found).map(Some),
            (None, Ok(_)) => Ok(None),
            // An image that is damaged is in the way of no other.
            (_, Err(error)) if error.is_damage() => Ok(None),
            (_, Err(error)) => Err(error),
        }
    }

    /// Reads an image that was listed a moment ago; `None` if it was removed meanwhile, and perhaps collected.
    fn present_image(&self, named: Named) -> Result<Option<Image>, StoreError> {
        let digest = named.target.digest;
        match self.image(named) {
            Err(error) if error.is_damage() && !self.names()?.has(&digest) => Ok(None),
            image => image.map(Some),
        }
    }
}

/// A digest, or the beginning of one without its algorithm.
struct WantedId<'n> {
    name: &'n str,
    /// The digest that is meant, if that can be only one.
    whole: Option<Digest>,
    /// Lower-case digits that it may begin with.
    digits: Option<&'n str>,
}

/// How a digest fits, the better first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Whole,
    Begins,
}

impl<'n> WantedId<'n> {
    fn new(name: &'n str) -> Option<Self> {
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        let is_digit = |digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
        let digits = (!hex.is_empty() && hex.bytes().all(is_digit)).then_some(hex);
        let whole = name.parse().or_else(|_| Digest::from_parts("sha256", hex)).ok();
        (digits.is_some() || whole.is_some()).then_some(Self { name, whole, digits })
    }

    fn fit(&self, id: &Digest) -> Option<Fit> {
        let begins = || self.digits.is_some_and(|digits| id.begins_with(digits));
        match self.whole.as_ref() == Some(id) {
            true => Some(Fit::Whole),
            false => begins().then_some(Fit::Begins),
        }
    }
}
