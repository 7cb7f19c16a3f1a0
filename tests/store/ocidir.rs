//! The crate ocidir as a judge: what it reads of our layout, and of what we save, is what we say is there.
//!
//! Its `fsck` fails on images for several platforms and believes manifests whatever their digests are, so it is asked about
//! manifests one by one, and for the digest of each.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use ::ocidir::cap_std::{ambient_authority, fs::Dir};
use ::ocidir::oci_spec::image::{
    Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType, Platform,
};
use ::ocidir::{OciArchive, OciDir, OciRead};
use plywood::driver::DriverKind;
use plywood::image::Reference;
use plywood::store::{
    ArchiveFormat, CommitOptions, CreateOptions, Image, LayerCompression, LoadOptions, RemoveContainer,
    SaveOptions,
};
use plywood::{ConfigChange, GcOptions, Limits};
use serde_json::json;

use crate::common::image::{Layout, image};
use crate::common::tar::tar;
use crate::world::*;

/// A store that holds one image for two platforms and one of three layers, compressed in three ways.
fn stocked() -> World {
    let world = World::driver(DriverKind::Copy);
    world.load(two_platforms().oci_archive());
    world.load_image(&sample());
    world
}

/// `both:1`, for this machine and for another.
fn two_platforms() -> Layout {
    let spec = |content: &str| image().layer(tar().file("content", content).finish());
    let mut foreign = spec("foreign");
    foreign.config["architecture"] = json!("s390x");
    let mut layout = Layout::of(&foreign);
    layout.add(&spec("own"));
    let manifests: Vec<_> = layout
        .images
        .iter()
        .map(|added| {
            let config: serde_json::Value = serde_json::from_slice(&layout.blobs[&added.config]).unwrap();
            json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": added.manifest,
                "size": layout.blobs[&added.manifest].len(),
                "platform": {"architecture": config["architecture"], "os": "linux"},
            })
        })
        .collect();
    let media_type = "application/vnd.oci.image.index.v1+json";
    let document = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests});
    let mut index = layout.document(media_type, &document);
    index["annotations"] = json!({"org.opencontainers.image.ref.name": "both:1"});
    layout.index["manifests"] = json!([index]);
    layout
}

fn reference(name: &str) -> Reference {
    name.parse().unwrap()
}

fn open(path: &Path) -> OciDir {
    OciDir::open(Dir::open_ambient_dir(path, ambient_authority()).unwrap()).unwrap()
}

/// Holds what the judge reads against what the store says of these images: every name, every platform, every byte.
#[track_caller]
fn judge(reader: &impl OciRead, images: &[Image], step: &str) {
    let index = reader.read_index().unwrap();
    let named = |descriptor: &Descriptor| descriptor.annotations().as_ref()?.get(REF_NAME).cloned();
    let listed: BTreeMap<_, _> = index
        .manifests()
        .iter()
        .filter_map(|found| Some((named(found)?, found.digest().to_string())))
        .collect();
    let expected: BTreeMap<_, _> = images
        .iter()
        .flat_map(|image| image.names().iter().map(|name| (name.familiar(), image.digest().to_string())))
        .collect();
    assert_eq!(listed, expected, "{step}: the names");
    let mut unnamed: Vec<_> = index.manifests().iter().filter(|found| named(found).is_none()).collect();
    unnamed.sort_by_key(|found| found.digest().to_string());
    let mut nameless: Vec<_> = images.iter().filter(|image| image.names().is_empty()).collect();
    nameless.sort_by_key(|image| image.digest().to_string());
    let digests = |found: &Descriptor| found.digest().to_string();
    let unnamed: Vec<_> = unnamed.into_iter().map(digests).collect();
    assert_eq!(
        unnamed,
        nameless.iter().map(|image| image.digest().to_string()).collect::<Vec<_>>(),
        "{step}"
    );

    for entry in index.manifests() {
        let manifests = match entry.media_type() {
            MediaType::ImageManifest => vec![entry.clone()],
            MediaType::ImageIndex => {
                reader.verify_blob_digest(entry).unwrap();
                reader.read_json_blob::<ImageIndex>(entry).unwrap().manifests().clone()
            }
            other => panic!("{step}: {other}"),
        };
        for manifest in manifests {
            reader.verify_blob_digest(&manifest).unwrap_or_else(|error| panic!("{step}: {error:?}"));
            let read = reader.read_json_blob(&manifest).unwrap();
            reader.fsck_one_manifest(&read, &mut HashSet::new()).unwrap();
        }
    }
    for image in images {
        for name in image.names() {
            let found = reader.open_image_this_platform(Some(&name.familiar())).unwrap();
            let (manifest, digest) = (found.manifest, found.manifest_descriptor.digest().to_string());
            assert_eq!(digest, image.manifest_digest().to_string(), "{step}: {name}");
            same_manifest(&manifest, image);
            let config: ImageConfiguration = reader.read_json_blob(manifest.config()).unwrap();
            same_config(&config, image);
            if let Some((_, index)) = found.source_index {
                assert_eq!(index.digest().to_string(), image.digest().to_string(), "{step}: {name}");
            }
        }
    }
}

const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Each of the two reads what the other one writes, and finds in it what it would have written itself.
fn same_manifest(theirs: &ImageManifest, image: &Image) {
    let ours = image.manifest();
    assert_eq!(*theirs, ImageManifest::from_reader(&ours.to_json()[..]).unwrap());
    let bytes = serde_json::to_vec(theirs).unwrap();
    assert_eq!(plywood::image::Manifest::parse(&bytes, &Limits::default()).unwrap(), *ours);
}

fn same_config(theirs: &ImageConfiguration, image: &Image) {
    let ours = image.config().unwrap();
    assert_eq!(*theirs, ImageConfiguration::from_reader(&ours.to_json()[..]).unwrap());
    let bytes = serde_json::to_vec(theirs).unwrap();
    assert_eq!(plywood::image::Config::parse(&bytes, &Limits::default()).unwrap(), *ours);
}

/// What is in the store, and every form that it can be saved in.
#[track_caller]
fn judge_all(world: &World, step: &str) {
    let images: Vec<Image> = world.store.images().unwrap().into_iter().collect();
    judge(&world.store.oci_dir().unwrap(), &images, step);
    if images.is_empty() {
        return;
    }
    for format in [ArchiveFormat::DockerArchive, ArchiveFormat::OciArchive] {
        let path = world.beside("saved.tar");
        let file = File::create(&path).unwrap();
        world.store.save(&images, format, file, &SaveOptions::default()).unwrap();
        judge(&OciArchive::open(&path).unwrap(), &images, &format!("{step}, {format:?}"));
    }
    let path = world.beside("layout");
    world.store.save_directory(&images, &path, &SaveOptions::default()).unwrap();
    judge(&open(&path), &images, &format!("{step}, a directory"));
    std::fs::remove_dir_all(path).unwrap();
}

#[test]
fn what_the_store_says_ocidir_reads_after_every_operation() {
    let world = stocked();
    judge_all(&world, "load");
    let find = |name: &str| world.store.image(name).unwrap();
    world.store.tag(&find("sample:1"), &reference("localhost:5000/deep/er:v1")).unwrap();
    world.store.tag(&find("both:1"), &reference("both")).unwrap();
    judge_all(&world, "tag");
    world.store.tag(&find("both:1"), &reference("localhost:5000/deep/er:v1")).unwrap();
    judge_all(&world, "a tag moved");

    let container = world.store.create_container(&find("sample:1"), &CreateOptions::named("web")).unwrap();
    let mounted = container.mount().unwrap();
    edit(mounted.path());
    let container = mounted.unmount().unwrap();
    let change: ConfigChange = r#"CMD ["/bin/sh"]"#.parse().unwrap();
    container.commit(&CommitOptions::named(reference("me/web:2")).change(change).message("edited")).unwrap();
    judge_all(&world, "commit");
    container.remove(RemoveContainer::Refuse).unwrap();

    world.store.untag(&reference("sample:1")).unwrap();
    judge_all(&world, "untag");
    world.store.remove_image("both:1", Default::default()).unwrap();
    judge_all(&world, "a name removed");
    world.store.gc(&GcOptions::default()).unwrap();
    judge_all(&world, "a collection");
    for image in world.store.images().unwrap() {
        world.store.remove_image(&image.id().to_string(), plywood::RemoveImage::Force).unwrap();
    }
    world.store.gc(&GcOptions::default()).unwrap();
    judge_all(&world, "everything removed");
    assert_eq!(world.store.oci_dir().unwrap().fsck().unwrap(), 0);
}

#[test]
fn ocidirs_own_check_agrees_where_it_understands() {
    let world = World::driver(DriverKind::Copy);
    let image = world.load_image(&sample());
    // A manifest, a config and three layers; and nothing twice.
    assert_eq!(world.store.oci_dir().unwrap().fsck().unwrap(), 5);
    let path = world.beside("saved.tar");
    let mut options = SaveOptions::default();
    options.compression = "zstd:1".parse::<LayerCompression>().unwrap();
    world.store.save(&[image], ArchiveFormat::OciArchive, File::create(&path).unwrap(), &options).unwrap();
    assert_eq!(OciArchive::open(&path).unwrap().fsck().unwrap(), 5);
}

#[test]
fn every_platform_of_an_image_is_found_by_ocidir() {
    let world = stocked();
    let reader = world.store.oci_dir().unwrap();
    let entry = reader.find_manifest_descriptor_with_tag("both:1").unwrap().unwrap();
    for added in &two_platforms().images {
        let index: ImageIndex = reader.read_json_blob(&entry).unwrap();
        let listed = index.manifests().iter().find(|found| found.digest().to_string() == added.manifest);
        let platform: Platform = listed.unwrap().platform().clone().unwrap();
        let found =
            reader.resolve_manifest_list(index, entry.clone(), &platform, &mut Vec::new()).unwrap().unwrap();
        assert_eq!(found.manifest_descriptor.digest().to_string(), added.manifest);
        assert_eq!(found.manifest.config().digest().to_string(), added.config);
    }
}

#[test]
fn an_image_is_added_to_a_layout_that_ocidir_has_made() {
    let world = stocked();
    let path = world.beside("theirs");
    std::fs::create_dir(&path).unwrap();
    let theirs = OciDir::ensure(Dir::open_ambient_dir(&path, ambient_authority()).unwrap()).unwrap();
    // What it holds already.
    let manifest = theirs.new_empty_manifest().unwrap().build().unwrap();
    let kept = theirs.insert_manifest(manifest, Some("kept"), Platform::default()).unwrap();

    let images: Vec<Image> = world.store.images().unwrap().into_iter().collect();
    world.store.save_oci_dir(&images, &theirs, &SaveOptions::default()).unwrap();
    let found = theirs.find_manifest_descriptor_with_tag("kept").unwrap().unwrap();
    assert_eq!(found.digest(), kept.digest());
    let saved = open(&path);
    for image in &images {
        let name = image.names()[0].familiar();
        let found = saved.open_image_this_platform(Some(&name)).unwrap();
        same_manifest(&found.manifest, image);
    }
    // Once more changes nothing, and a name goes over to what has it now.
    let before = std::fs::read(path.join("index.json")).unwrap();
    world.store.save_oci_dir(&images, &theirs, &SaveOptions::default()).unwrap();
    let listed = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
    assert_eq!(listed(&before), listed(&std::fs::read(path.join("index.json")).unwrap()));
    let renamed = images[1].clone().with_names(vec![reference("both:1")]);
    world.store.save_oci_dir(&[renamed], &theirs, &SaveOptions::default()).unwrap();
    let found = theirs.find_manifest_descriptor_with_tag("both:1").unwrap().unwrap();
    assert_eq!(found.digest().to_string(), images[1].digest().to_string());
}

#[test]
fn what_ocidir_reads_is_loaded_as_if_it_were_read_from_disk() {
    let from = stocked();
    let images: Vec<Image> = from.store.images().unwrap().into_iter().collect();
    let (archive, layout) = (from.beside("saved.tar"), from.beside("layout"));
    let nameless = images[0].clone().with_names(Vec::new());
    for images in [&images[..], &[nameless]] {
        let file = File::create(&archive).unwrap();
        from.store.save(images, ArchiveFormat::OciArchive, file, &SaveOptions::default()).unwrap();
        from.store.save_directory(images, &layout, &SaveOptions::default()).unwrap();
        let expected = World::driver(DriverKind::Copy);
        let expected_images = expected.store.load_directory(&layout, &LoadOptions::default()).unwrap();
        for world in [World::driver(DriverKind::Copy), World::driver(DriverKind::Copy)] {
            let told = std::sync::atomic::AtomicU64::new(0);
            let progress = |bytes| told.store(bytes, std::sync::atomic::Ordering::Relaxed);
            let mut options = LoadOptions::default();
            options.progress = Some(&progress);
            let loaded = world.store.load_oci(&open(&layout), &options).unwrap();
            let facts = |loaded: &[plywood::LoadedImage]| {
                let fact = |one: &plywood::LoadedImage| {
                    (one.image.digest(), one.image.id(), one.names.clone(), one.warnings.clone())
                };
                loaded.iter().map(fact).collect::<Vec<_>>()
            };
            assert_eq!(facts(&loaded), facts(&expected_images));
            assert!(told.into_inner() > 0);
            // Once more, from the other form: nothing is read but documents, and nothing changes.
            let index = std::fs::read(world.path().join("oci/index.json")).unwrap();
            world.store.load_oci(&OciArchive::open(&archive).unwrap(), &LoadOptions::default()).unwrap();
            assert_eq!(std::fs::read(world.path().join("oci/index.json")).unwrap(), index);
            assert!(world.store.check(&plywood::CheckOptions::default()).unwrap().damages.is_empty());
        }
        std::fs::remove_dir_all(&layout).unwrap();
    }
    // From store to store, in one step.
    let other = World::driver(DriverKind::Copy);
    other.store.load_oci(&from.store.oci_dir().unwrap(), &LoadOptions::default()).unwrap();
    let names = |store: &plywood::Store| store.image_names().unwrap();
    assert_eq!(names(&other.store), names(&from.store));
}

/// A layout of which one blob is other than it should be.
struct Liar {
    truth: OciDir,
    digest: String,
    lie: Option<Vec<u8>>,
}

impl OciRead for Liar {
    type BlobReader = std::io::Cursor<Vec<u8>>;

    fn read_blob(&self, descriptor: &Descriptor) -> ocidir::Result<Self::BlobReader> {
        let mut bytes = Vec::new();
        match &self.lie {
            Some(lie) if descriptor.digest().to_string() == self.digest => bytes.clone_from(lie),
            _ => drop(self.truth.read_blob(descriptor)?.read_to_end(&mut bytes)?),
        }
        Ok(std::io::Cursor::new(bytes))
    }

    fn read_index(&self) -> ocidir::Result<ImageIndex> {
        self.truth.read_index()
    }

    fn has_blob(&self, descriptor: &Descriptor) -> ocidir::Result<bool> {
        let is_told = self.lie.is_some() || descriptor.digest().to_string() != self.digest;
        Ok(is_told && self.truth.has_blob(descriptor)?)
    }
}

#[test]
fn a_reader_is_believed_nothing() {
    let source = world_with_layout();
    let (layout, added) = (&source.1, &source.2);
    let world = World::driver(DriverKind::Copy);
    for digest in [&added.manifest, &added.config, &added.layers[0], &added.layers[2]] {
        let blob = std::fs::read(layout.join(crate::common::image::blob_path(digest))).unwrap();
        let mut flipped = blob.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for lie in [Some(flipped), Some(blob[1..].to_vec()), Some(Vec::new()), None] {
            let liar = Liar { truth: open(layout), digest: digest.clone(), lie };
            // What came right in an attempt before this one would not be asked for.
            world.store.gc(&GcOptions::default()).unwrap();
            let error = world.refuse(|store| store.load_oci(&liar, &LoadOptions::default()));
            assert!(chain(&error).contains(&digest[7..]), "{digest}: {}", chain(&error));
        }
    }
    // What was wrong is not kept, and the truth is loaded as ever.
    let truth = Liar { truth: open(layout), digest: String::new(), lie: None };
    world.store.load_oci(&truth, &LoadOptions::default()).unwrap();
    judge(&world.store.oci_dir().unwrap(), &[world.store.image("sample:1").unwrap()], "the truth");
}

/// A layout on disk with [`sample`] in it, and what is in that.
fn world_with_layout() -> (tempfile::TempDir, std::path::PathBuf, crate::common::image::Added) {
    let temp = crate::common::scratch();
    let path = temp.path().join("layout");
    let mut layout = Layout::default();
    let added = layout.add(&sample());
    std::fs::create_dir(&path).unwrap();
    layout.write(&path);
    (temp, path, added)
}

#[test]
fn a_layout_with_blobs_elsewhere_is_not_written_to() {
    let world = stocked();
    let dirs = ["layout", "blobs"].map(|name| world.beside(name));
    let [layout, blobs] = dirs.each_ref().map(|path| {
        std::fs::create_dir(path).unwrap();
        Dir::open_ambient_dir(path, ambient_authority()).unwrap()
    });
    let theirs = OciDir::open_with_external_blobs(layout, blobs).unwrap();
    let images = [world.store.image("sample:1").unwrap()];
    let error = world.store.save_oci_dir(&images, &theirs, &SaveOptions::default()).unwrap_err();
    assert!(chain(&error).contains("elsewhere"), "{}", chain(&error));
    assert!(dirs.iter().all(|path| names_in(path).is_empty()));
}

#[test]
fn a_reader_of_the_layout_may_be_shared_and_gives_up_what_it_holds() {
    fn shared<T: OciRead + Send + Sync>(reader: T) -> T {
        reader
    }
    let world = stocked();
    let reader = shared(world.store.oci_dir().unwrap());
    assert!(reader.into_inner().find_manifest_with_tag("sample:1").unwrap().is_some());
}
