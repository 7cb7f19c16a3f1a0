//! Saves with plain layers: decompressed while they are written, without a copy in the store, to the same bytes.

use std::cell::Cell;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use plywood::archive::LayerCompression;
use plywood::driver::DriverKind;
use plywood::store::{Image, LoadOptions, Store, StoreError, Unpack};
use plywood::{ArchiveFormat, SaveOptions};

use crate::common::image::{Compression, Layout, image};
use crate::common::tar::tar;
use crate::world::{World, chain, load, noise};

const FORMATS: [ArchiveFormat; 3] =
    [ArchiveFormat::DockerArchive, ArchiveFormat::OciArchive, ArchiveFormat::ClassicDockerArchive];

/// An image with a gzip layer, a zstd layer and a plain one.
fn packed() -> Layout {
    let tars = [
        tar().dir("etc").file("etc/one", noise(400_000)),
        tar().file("etc/two", noise(300_000)),
        tar().file("etc/three", "three"),
    ];
    let [one, two, three] = tars.map(|tar| tar.finish());
    let image = image().compressed(one, Compression::Gzip).compressed(two, Compression::Zstd).layer(three);
    Layout::of(&image.name("web:1"))
}

fn save_to(store: &Store, image: &Image, format: ArchiveFormat, out: impl Write) -> Result<(), StoreError> {
    let mut options = SaveOptions::default();
    options.compression = "none".parse::<LayerCompression>().unwrap();
    store.save(std::slice::from_ref(image), format, out, &options).map(drop)
}

fn save(store: &Store, image: &Image, format: ArchiveFormat) -> Vec<u8> {
    let mut archive = Vec::new();
    save_to(store, image, format, &mut archive).unwrap_or_else(|error| panic!("{}", chain(&error)));
    archive
}

/// The size of the largest file below `dir`.
fn largest(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let sizes = entries.map(|entry| match entry.file_type().unwrap().is_dir() {
        true => largest(&entry.path()),
        false => entry.metadata().unwrap().len(),
    });
    sizes.max().unwrap_or(0)
}

/// Looks into `staging/` at every write.
struct Observer<'c> {
    staging: PathBuf,
    largest: &'c Cell<u64>,
}

impl Write for Observer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.largest.set(self.largest.get().max(largest(&self.staging)));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_plain_save_gives_the_same_archive_whether_its_layers_are_unpacked_or_not() {
    let unpacked = World::driver(DriverKind::Copy);
    let image = unpacked.load(packed().oci_archive());
    let bare = World::driver(DriverKind::Copy);
    let mut options = LoadOptions::default();
    options.unpack = Unpack::OnDemand;
    let loaded = bare.store.load(&packed().oci_archive()[..], &options).unwrap().remove(0).image;
    for format in FORMATS {
        let archive = save(&unpacked.store, &image, format);
        assert!(archive == save(&bare.store, &loaded, format), "{format:?}");
        let again = load(&World::driver(DriverKind::Copy).store, archive);
        assert_eq!((again.id(), again.diff_ids()), (image.id(), image.diff_ids()), "{format:?}");
    }
}

#[test]
fn a_plain_save_of_unpacked_layers_puts_no_layer_into_staging() {
    let world = World::driver(DriverKind::Copy);
    let image = world.load(packed().oci_archive());
    for format in FORMATS {
        let seen = Cell::new(0);
        let out = Observer { staging: world.path().join("staging"), largest: &seen };
        save_to(&world.store, &image, format, out).unwrap();
        assert!(seen.get() < 100_000, "{format:?}: a file of {} bytes was in staging", seen.get());
    }
}

#[test]
fn a_plain_save_fails_on_a_blob_that_is_damaged_and_on_a_record_with_a_false_length() {
    let world = World::driver(DriverKind::Copy);
    let image = world.load(packed().oci_archive());
    let layer = &image.manifest().layers[0].digest;
    let blob = world.path().join("oci/blobs/sha256").join(layer.hex());
    let content = fs::read(&blob).unwrap();
    let mut damaged = content.clone();
    damaged[content.len() / 2] ^= 1;
    fs::write(&blob, damaged).unwrap();
    for format in FORMATS {
        let error = save_to(&world.store, &image, format, io::sink()).unwrap_err();
        assert!(chain(&error).contains(&layer.hex()), "{}", chain(&error));
    }
    fs::write(&blob, content).unwrap();
    save(&world.store, &image, ArchiveFormat::OciArchive);

    let diff_id = image.diff_ids()[0].to_string();
    let record = world.path().join("layers").join(diff_id.replace(':', "-")).join("layer.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    let length = json["tarBytes"].as_u64().unwrap();
    for wrong in [length - 512, length + 512] {
        json["tarBytes"] = wrong.into();
        fs::remove_file(&record).unwrap(); // a new file, so that the store reads it again
        fs::write(&record, serde_json::to_vec(&json).unwrap()).unwrap();
        for format in FORMATS {
            let error = save_to(&world.again(), &image, format, io::sink()).unwrap_err();
            let text = chain(&error);
            assert!(text.contains(&diff_id) && text.contains(&wrong.to_string()), "{text}");
        }
    }
}
