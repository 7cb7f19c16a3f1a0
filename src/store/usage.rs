//! [`Store::usage`]: who takes how much of the disk, and what would be free without them.
//!
//! Everything is known from records: no tree is walked, but for what containers changed if that is asked for. Two kinds of
//! bytes are counted, since images are held in two forms:
//!
//! - of *blobs*, the length of each file: what `du --apparent-size` says of `oci/blobs`, directories not counted;
//! - of *layers*, the blocks of 4 KiB that their files and directories take: what `du` says of `layers/<key>/tree`, where the
//!   file system has such blocks and keeps attributes and symbolic links in the inode. A hard link counts once in its layer;
//!   a layer that was made of another by linking its files counts them as well.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Store;
use super::error::StoreError;
use super::summary::ImageSummary;
use super::survey::{Layers, STACKS};
use crate::container::{ContainerRecord, source_of};
use crate::digest::Digest;
use crate::driver::{self, mounts::Points};
use crate::image::{Descriptor, MediaKind};
use crate::layer::{LayerKey, Stacking};

/// What to count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct UsageOptions {
    /// Also what containers changed, which is walked through.
    pub containers: bool,
}

impl UsageOptions {
    /// Also what containers changed.
    #[must_use]
    pub fn with_containers() -> Self {
        Self { containers: true }
    }
}

/// Bytes in both forms that images have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Bytes {
    /// In blobs: as long as the files are.
    pub blobs: u64,
    /// In unpacked layers: as many as they take on disk.
    pub layers: u64,
}

impl Bytes {
    /// Both.
    pub fn total(&self) -> u64 {
        self.blobs + self.layers
    }
}

/// What the disk is used for, by a store.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct StoreUsage {
    /// Each image, by name.
    pub images: Vec<ImageUsage>,
    /// Each unpacked layer, by key.
    pub layers: Vec<LayerUsage>,
    /// Each container, by name.
    pub containers: Vec<ContainerUsage>,
    /// All blobs and unpacked layers, whoever needs them.
    pub total: Bytes,
    /// Of these, what only steps of builds need: what is freed when they are pruned.
    pub build_cache: Bytes,
    /// Of these, what no image, no container and no step of a build needs: what a collection frees now.
    pub unused: Bytes,
    /// Of these, what no container needs: what a collection frees when every image without a container is removed, and every
    /// step of a build.
    pub reclaimable: Bytes,
    /// Blobs.
    pub blobs: u64,
    /// Steps of builds.
    pub steps: u64,
    /// Bytes of blobs that are being fetched, or did not come whole: a collection frees the latter.
    pub downloads: u64,
    /// Bytes on disk that containers have of their own; 0 if that was not asked for.
    pub writable: u64,
    /// Of these, in containers that are not mounted.
    pub writable_reclaimable: u64,
}

/// What an image takes.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ImageUsage {
    /// The image.
    pub image: ImageSummary,
    /// What other images need as well.
    pub shared: Bytes,
    /// What no other image needs.
    pub unique: Bytes,
    /// What removing it frees, with a collection after that: what neither another image nor a container needs.
    pub reclaimable: Bytes,
    /// Containers made from it.
    pub containers: u64,
}

/// What an unpacked layer takes.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct LayerUsage {
    /// Its key.
    pub key: LayerKey,
    /// Bytes on disk.
    pub bytes: u64,
    /// Images that need it. It is shared if these are several, and reclaimed by a collection if neither they nor containers
    /// are.
    pub images: u64,
    /// Containers that need it.
    pub containers: u64,
}

/// What a container takes.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ContainerUsage {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The id of its image.
    pub image: Digest,
    /// Whether it is mounted.
    pub mounted: bool,
    /// Bytes on disk of the layers that it stands on, which it shares with its image.
    pub shared: u64,
    /// What it has of its own, if that was asked for: what removing it frees.
    pub own: Option<driver::Usage>,
}

/// Who needs one blob or layer.
#[derive(Clone, Copy, Debug, Default)]
struct Users {
    bytes: u64,
    images: u64,
    containers: u64,
    steps: u64,
}

/// What an image or a container leads to.
#[derive(Clone, Default)]
struct Content {
    blobs: Vec<Digest>,
    layers: Vec<LayerKey>,
}

impl Store {
    /// Says what takes how much of the disk. It takes no lock: what changes meanwhile counts as before or after. What other
    /// stores lend takes nothing here. A damaged image counts with what nobody needs.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if names, blobs, layers or containers cannot be listed, or a container cannot be walked through.
    pub fn usage(&self, options: &UsageOptions) -> Result<StoreUsage, StoreError> {
        let images: Vec<_> =
            self.list_images()?.into_iter().filter(|image| image.lent_by.is_none()).collect();
        let containers = self.containers()?;
        let mut count = Count::new(self)?;
        let targets: Vec<_> = images.iter().map(|image| image.target.clone()).collect();
        let of_images = self.contents(&targets)?;
        for content in &of_images {
            count.add(content, |users| users.images += 1);
        }
        let steps: Vec<_> = self.inner.steps()?.into_iter().filter_map(|step| step.target).collect();
        for content in self.contents(&steps)? {
            count.add(&content, |users| users.steps += 1);
        }
        // Many containers, few images: each is asked for once.
        let made_from: BTreeMap<Digest, Descriptor> =
            containers.iter().map(|one| (one.manifest_digest(), one.record.image.target.clone())).collect();
        let manifests: Vec<_> = made_from.values().cloned().collect();
        let contents = self.contents(&manifests)?;
        let processes = driver::Processes::read();
        let contents: HashMap<Digest, Content> = made_from.into_keys().zip(contents).collect();
        let (blobs, steps) = (count.blobs.len() as u64, steps.len() as u64);
        let mut usage = StoreUsage { blobs, steps, ..StoreUsage::default() };
        let points = Points::read()?;
        let mounts = points.by_name();
        let mut made: HashMap<Digest, u64> = HashMap::new();
        for container in &*containers {
            let record = &container.record;
            let mut content = contents[&record.image.target.digest].clone();
            content.layers = stacked(record);
            count.add(&content, |users| users.containers += 1);
            *made.entry(record.image.target.digest).or_default() += 1;
            let own = if options.containers { Some(container.usage()?) } else { None };
            let mounted = match mounts.contains(std::ffi::OsStr::new(&source_of(&record.id))) {
                true => true,
                // A server gives its mount a name of its own.
                false if record.driver == driver::DriverKind::Fuse => {
                    !matches!(container.state()?, super::ContainerState::Created)
                }
                false => false,
            } || container.is_held(&processes)?;
            let bytes = own.map_or(0, |own| own.allocated);
            usage.writable += bytes;
            usage.writable_reclaimable += if mounted { 0 } else { bytes };
            usage.containers.push(ContainerUsage {
                id: record.id.clone(),
                name: record.name.clone(),
                image: record.image.id,
                mounted,
                shared: count.layers(&content.layers).map(|users| users.bytes).sum(),
                own,
            });
        }
        for (image, content) in images.into_iter().zip(of_images) {
            let containers = made.get(&image.manifest_digest).copied().unwrap_or(0);
            let shared = count.of(&content, |users| users.images > 1);
            let unique = count.of(&content, |users| users.images == 1);
            let reclaimable = count.of(&content, |users| users.images == 1 && users.containers == 0);
            usage.images.push(ImageUsage { image, shared, unique, reclaimable, containers });
        }
        usage.downloads = self.inner.downloaded()?;
        usage.total = count.all(|_| true);
        let is_no_images = |users: &Users| users.images == 0 && users.containers == 0;
        usage.build_cache = count.all(|users| is_no_images(users) && users.steps > 0);
        usage.unused = count.all(|users| is_no_images(users) && users.steps == 0);
        usage.reclaimable = count.all(|users| users.containers == 0);
        usage.layers = count.layers.into_iter().map(|(key, users)| LayerUsage::new(key, users)).collect();
        Ok(usage)
    }

    /// Everything that each of `targets` leads to; nothing, of one that is damaged.
    fn contents(&self, targets: &[Descriptor]) -> Result<Vec<Content>, StoreError> {
        let inner = &self.inner;
        let mut contents = Vec::with_capacity(targets.len());
        inner.survey(STACKS, targets, |number, known| {
            let target = &targets[number];
            let layers = known.as_ref().ok().and_then(|known| known.read::<Layers>());
            let content = match (known, layers) {
                (Ok(known), Some(layers)) if target.media_type.kind() != MediaKind::Index => {
                    let documents = [target.digest, known.id];
                    let blobs = layers.blobs.iter().map(|(digest, _)| *digest);
                    Ok(Content {
                        blobs: documents.into_iter().chain(blobs).collect(),
                        layers: LayerKey::candidates(layers.diff_ids.iter().copied()),
                    })
                }
                // The images for other machines belong to it as well.
                (Ok(_), _) => {
                    inner.closure_and_layers(target).map(|(blobs, layers)| Content { blobs, layers })
                }
                (Err(error), _) => Err(error),
            };
            contents.push(match content {
                Err(error) if error.is_damage() => Content::default(),
                content => content?,
            });
            Ok(())
        })?;
        Ok(contents)
    }
}

/// The keys of everything that a container stands on.
fn stacked(record: &ContainerRecord) -> Vec<LayerKey> {
    record.stack.iter().copied().chain(Stacking::of(&record.stack).merged_keys()).collect()
}

impl LayerUsage {
    fn new(key: LayerKey, users: Users) -> Self {
        let Users { bytes, images, containers, .. } = users;
        Self { key, bytes, images, containers }
    }
}

/// Every blob and layer that there is.
struct Count {
    blobs: HashMap<Digest, Users>,
    layers: BTreeMap<LayerKey, Users>,
}

impl Count {
    fn new(store: &Store) -> Result<Self, StoreError> {
        let inner = &store.inner;
        let users = |bytes| Users { bytes, ..Users::default() };
        let blobs = inner.layout.blobs.list()?.into_iter().map(|(digest, size)| (digest, users(size)));
        let mut layers = BTreeMap::new();
        for key in inner.layers.list()? {
            // What cannot be trusted is made again, and nobody knows how large it is.
            let bytes = inner.layers.get_any(key)?.map_or(0, |layer| layer.record.disk_bytes());
            layers.insert(key, users(bytes));
        }
        Ok(Self { blobs: blobs.collect(), layers })
    }

    /// Notes one who needs `content`; who needs something twice counts once.
    fn add(&mut self, content: &Content, note: impl Fn(&mut Users)) {
        for digest in content.blobs.iter().collect::<BTreeSet<_>>() {
            self.blobs.get_mut(digest).into_iter().for_each(&note);
        }
        for key in content.layers.iter().collect::<BTreeSet<_>>() {
            self.layers.get_mut(key).into_iter().for_each(&note);
        }
    }

    fn layers<'c>(&'c self, keys: &'c [LayerKey]) -> impl Iterator<Item = &'c Users> {
        keys.iter().collect::<BTreeSet<_>>().into_iter().filter_map(|key| self.layers.get(key))
    }

    /// The bytes of those parts of `content` whose users are such.
    fn of(&self, content: &Content, is_such: impl Fn(&Users) -> bool) -> Bytes {
        let blobs = content.blobs.iter().collect::<BTreeSet<_>>();
        let blobs = blobs.into_iter().filter_map(|digest| self.blobs.get(digest));
        let sum = |users: &mut dyn Iterator<Item = &Users>| {
            users.filter(|users| is_such(users)).map(|users| users.bytes).sum()
        };
        Bytes { blobs: sum(&mut { blobs }), layers: sum(&mut self.layers(&content.layers)) }
    }

    /// The bytes of everything whose users are such.
    fn all(&self, is_such: impl Fn(&Users) -> bool) -> Bytes {
        let sum = |users: &mut dyn Iterator<Item = &Users>| {
            users.filter(|users| is_such(users)).map(|users| users.bytes).sum()
        };
        Bytes { blobs: sum(&mut self.blobs.values()), layers: sum(&mut self.layers.values()) }
    }
}
