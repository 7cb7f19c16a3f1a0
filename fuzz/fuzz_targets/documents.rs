//! Manifests, indexes and configs; and, after a `!`, lines that change a config.
//!
//! The laws: what can be read is written in bytes that read back as the same value and are written the same again; the
//! same document is the same thing by every way of reading it; the limits hold.

#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use plywood::image::{
    Config, ConfigChange, Descriptor, ImageError, Index, Instruction, Manifest, ManifestDocument, MediaType,
    Platform,
};
use plywood::limits::Limits;

/// Reads, writes, reads again.
fn settle<T: PartialEq + Debug>(
    bytes: &[u8],
    parse: impl Fn(&[u8], &Limits) -> Result<T, ImageError>,
    write: impl Fn(&T) -> Vec<u8>,
) -> Option<T> {
    let limits = Limits::default();
    let value = match parse(bytes, &limits) {
        Ok(value) => value,
        Err(error) => {
            // Its place is as long as the keys that lead there.
            assert!(error.to_string().len() <= 4096 + 8 * bytes.len());
            return None;
        }
    };
    let written = write(&value);
    let again = parse(&written, &limits).expect("what was written can be read");
    assert_eq!(value, again);
    assert!(write(&again) == written, "equal values gave different bytes");

    let mut short = limits.clone();
    short.json_bytes = bytes.len() as u64 - 1;
    assert!(matches!(parse(bytes, &short), Err(ImageError::TooLarge { .. })));
    let mut few = limits;
    few.layers = 1;
    few.images = 1;
    few.json_depth = 3;
    drop(parse(bytes, &few));
    Some(value)
}

fn read(bytes: &[u8]) {
    let manifest = settle(bytes, Manifest::parse, Manifest::to_json);
    let index = settle(bytes, Index::parse, Index::to_json);
    let config = settle(bytes, Config::parse, Config::to_json);
    let either = ManifestDocument::parse(bytes, &Limits::default());
    match either {
        Ok(ManifestDocument::Image(found)) => {
            assert!(found.is_image());
            assert_eq!(Some(&found), manifest.as_ref());
        }
        Ok(ManifestDocument::Artifact(found)) => {
            assert!(!found.is_image());
            assert_eq!(Some(&found), manifest.as_ref());
        }
        Ok(ManifestDocument::Index(found)) => assert_eq!(Some(&found), index.as_ref()),
        _ => {}
    }
    assert!(manifest.is_none() || index.is_none(), "a document is two things");
    for media_type in [MediaType::OCI_MANIFEST, MediaType::OCI_INDEX, MediaType::DOCKER_MANIFEST] {
        let descriptor = Descriptor::of(media_type, bytes);
        let described = ManifestDocument::parse_described(&descriptor, bytes, &Limits::default());
        assert!(described.is_err() || manifest.is_some() || index.is_some());
    }

    if let Some(manifest) = manifest {
        for form in [manifest.to_oci(), manifest.to_docker()] {
            settle(&form.to_json(), Manifest::parse, Manifest::to_json).expect("a manifest in other words");
        }
        assert_eq!(manifest.to_oci().to_oci(), manifest.to_oci());
        assert_eq!(manifest.to_docker().to_docker(), manifest.to_docker());
    }
    if let Some(index) = index {
        let host = Platform::host();
        assert!(index.select(&host).is_none_or(|chosen| index.manifests.contains(chosen)));
    }
    if let Some(config) = config {
        assert!(config.history_with_layers().count() == config.history.len());
        drop((config.warnings(), config.platform()));
    }
}

fn change(text: &str) {
    let mut config = Config::new(&Platform::host());
    for line in text.lines() {
        let Ok(change) = line.parse::<ConfigChange>() else { continue };
        let again = change.to_string().parse::<ConfigChange>().expect("what is shown can be read");
        assert_eq!(again.to_string(), change.to_string());
        let before = config.clone();
        if config.apply(std::slice::from_ref(&change)).is_err() {
            assert_eq!(config, before, "a refused change changed something");
        }
    }
    settle(&config.to_json(), Config::parse, Config::to_json).expect("a config of our own");
    if let Ok(instructions) = Instruction::parse_all(text) {
        for instruction in instructions {
            let shown = instruction.to_string();
            assert_eq!(shown.parse::<Instruction>().as_ref(), Ok(&instruction), "{shown}");
        }
    }
}

fuzz_target!(|input: &[u8]| match input {
    [b'!', text @ ..] => drop(std::str::from_utf8(text).map(change)),
    _ => read(input),
});
