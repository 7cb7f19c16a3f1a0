//! Documents that other tools wrote: what we read in them is what `oci-spec` reads, and what we write loses nothing.

use oci_spec::image as oci;
use plywood::image::{Config, Descriptor, Index, Manifest, ManifestDocument, MediaKind};
use plywood::limits::Limits;
use serde_json::Value;

macro_rules! documents {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_bytes!(concat!("documents/", $name, ".json")).as_slice())),*]
    };
}

/// Written by buildah 1.28, docker 20.10 and umoci 0.4.7.
const CONFIGS: [(&str, &[u8]); 4] =
    documents!["buildah-config", "buildah-docker-config", "docker-config", "umoci-config"];
const MANIFESTS: [(&str, &[u8]); 3] =
    documents!["buildah-manifest", "buildah-docker-manifest", "umoci-manifest"];
/// The second is in the form that BuildKit writes, with an attestation.
const INDEXES: [(&str, &[u8]); 2] = documents!["buildah-index", "buildkit-index"];

/// The value without fields that are `null`, empty or false, which mean the same as absent ones.
fn meaning(value: Value) -> Value {
    let says_nothing = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Number(_) | Value::Bool(true) => false,
    };
    match value {
        // The keys of these are what counts, their values are empty.
        Value::Object(map) => map
            .into_iter()
            .map(|(key, value)| match key.as_str() {
                "ExposedPorts" | "Volumes" => (key, value),
                _ => (key, meaning(value)),
            })
            .filter(|(_, value)| !says_nothing(value))
            .collect(),
        Value::Array(values) => values.into_iter().map(meaning).collect(),
        scalar => scalar,
    }
}

fn assert_same_meaning(name: &str, theirs: &[u8], ours: &[u8]) {
    let read = |bytes| meaning(serde_json::from_slice(bytes).expect("a JSON document"));
    assert_eq!(read(ours), read(theirs), "{name}");
}

#[test]
fn configs_are_read_as_oci_spec_reads_them_and_lose_nothing() {
    for (name, bytes) in CONFIGS {
        let ours = Config::parse(bytes, &Limits::default()).unwrap();
        assert_same_meaning(name, bytes, &ours.to_json());
        assert_eq!(Config::parse(&ours.to_json(), &Limits::default()).unwrap(), ours, "{name}");

        let theirs = oci::ImageConfiguration::from_reader(bytes).unwrap();
        assert_eq!(ours.created, *theirs.created(), "{name}");
        assert_eq!(ours.author, *theirs.author(), "{name}");
        assert_eq!(ours.architecture, theirs.architecture().to_string(), "{name}");
        assert_eq!(ours.os, theirs.os().to_string(), "{name}");
        let diff_ids: Vec<String> = ours.rootfs.diff_ids.iter().map(ToString::to_string).collect();
        assert_eq!(diff_ids, *theirs.rootfs().diff_ids(), "{name}");

        let (run, their_run) = (&ours.config, theirs.config().clone().unwrap_or_default());
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        let set = |list: &Option<Vec<String>>| list.iter().flatten().cloned().collect();
        assert_eq!(run.user, text(their_run.user()), "{name}");
        assert_eq!(run.working_dir, text(their_run.working_dir()), "{name}");
        assert_eq!(run.stop_signal, text(their_run.stop_signal()), "{name}");
        assert_eq!(run.env, list(their_run.env()), "{name}");
        assert_eq!(run.cmd, list(their_run.cmd()), "{name}");
        assert_eq!(run.entrypoint, list(their_run.entrypoint()), "{name}");
        assert_eq!(run.exposed_ports, set(their_run.exposed_ports()), "{name}");
        assert_eq!(run.volumes, set(their_run.volumes()), "{name}");
        let labels = their_run.labels().clone().unwrap_or_default();
        assert_eq!(run.labels, labels.into_iter().collect(), "{name}");

        let their_history = theirs.history().clone().unwrap_or_default();
        assert_eq!(ours.history.len(), their_history.len(), "{name}");
        for (step, their_step) in ours.history.iter().zip(&their_history) {
            assert_eq!(step.created, *their_step.created(), "{name}");
            assert_eq!(step.created_by, *their_step.created_by(), "{name}");
            assert_eq!(step.author, *their_step.author(), "{name}");
            assert_eq!(step.comment, *their_step.comment(), "{name}");
            assert_eq!(step.empty_layer, their_step.empty_layer().unwrap_or(false), "{name}");
        }
        assert_eq!(ours.warnings(), [], "{name}");
    }
}

fn assert_same_descriptor(name: &str, ours: &Descriptor, theirs: &oci::Descriptor) {
    // oci-spec takes some of docker's names for OCI's, so compare what it makes of ours.
    assert_eq!(&oci::MediaType::from(ours.media_type.as_str()), theirs.media_type(), "{name}");
    assert_eq!(ours.digest.to_string(), theirs.digest().to_string(), "{name}");
    assert_eq!(ours.size, theirs.size(), "{name}");
    let annotations = theirs.annotations().clone().unwrap_or_default();
    assert_eq!(ours.annotations, annotations.into_iter().collect(), "{name}");
    match (&ours.platform, theirs.platform()) {
        (None, None) => {}
        (Some(ours), Some(theirs)) => {
            assert_eq!(ours.architecture, theirs.architecture().to_string(), "{name}");
            assert_eq!(ours.os, theirs.os().to_string(), "{name}");
            assert_eq!(ours.variant, *theirs.variant(), "{name}");
        }
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn manifests_are_read_as_oci_spec_reads_them_and_lose_nothing() {
    for (name, bytes) in MANIFESTS {
        let ours = Manifest::parse(bytes, &Limits::default()).unwrap();
        assert_same_meaning(name, bytes, &ours.to_json());
        assert!(ours.is_image(), "{name}");
        assert!(matches!(
            ManifestDocument::parse(bytes, &Limits::default()),
            Ok(ManifestDocument::Image(manifest)) if manifest == ours
        ));
        assert_eq!(ours.media_type().kind(), MediaKind::Manifest, "{name}");

        let theirs = oci::ImageManifest::from_reader(bytes).unwrap();
        assert_same_descriptor(name, &ours.config, theirs.config());
        assert_eq!(ours.layers.len(), theirs.layers().len(), "{name}");
        for (layer, their_layer) in ours.layers.iter().zip(theirs.layers()) {
            assert_same_descriptor(name, layer, their_layer);
        }
        let annotations = theirs.annotations().clone().unwrap_or_default();
        assert_eq!(ours.annotations, annotations.into_iter().collect(), "{name}");
    }
}

#[test]
fn indexes_are_read_as_oci_spec_reads_them_and_lose_nothing() {
    for (name, bytes) in INDEXES {
        let ours = Index::parse(bytes, &Limits::default()).unwrap();
        assert_same_meaning(name, bytes, &ours.to_json());
        let theirs = oci::ImageIndex::from_reader(bytes).unwrap();
        assert_eq!(ours.manifests.len(), theirs.manifests().len(), "{name}");
        for (entry, their_entry) in ours.manifests.iter().zip(theirs.manifests()) {
            assert_same_descriptor(name, entry, their_entry);
        }
    }
}

#[test]
fn a_manifest_and_its_config_written_by_one_tool_fit_together() {
    let bytes =
        |list: &[(&str, &'static [u8])], name| list.iter().find(|(found, _)| *found == name).unwrap().1;
    for (manifest, config) in [
        ("buildah-manifest", "buildah-config"),
        ("buildah-docker-manifest", "buildah-docker-config"),
        ("umoci-manifest", "umoci-config"),
    ] {
        let manifest = Manifest::parse(bytes(&MANIFESTS, manifest), &Limits::default()).unwrap();
        let config = Config::parse_described(&manifest.config, bytes(&CONFIGS, config), &Limits::default());
        assert_eq!(manifest.check_config(&config.unwrap()), Ok(()));
    }
}
