//! Archives that mean harm, through the public door: each is refused by a typed error before it costs much, in little
//! memory, and the store is what it was.
//!
//! Every attack runs in a process of its own, whose memory is measured. What is large is generated while it is read.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Cursor, Read};
use std::process::Command;

use common::image::{Compression, Layout, gzip, image, pack};
use common::tar::{Tar, header, pax_record, seal, tar};
use common::tree::{Tree, is_directory, snapshot};
use plywood::changeset::ChangesetError;
use plywood::codec::CodecError;
use plywood::digest::{DiffId, Digest};
use plywood::fs::{Dir, Durability};
use plywood::layer::{Abilities, UnpackError, UnpackOptions, Unpacked, unpack_layer};
use plywood::{GcOptions, Limits, LoadOptions, Store, StoreError};

/// What one attack may cost in memory, our side of it included.
const MEMORY: u64 = 128 << 20;
/// Set in the process that an attack runs in.
const ALONE: &str = "PLYWOOD_TEST_ALONE";

/// Runs the test that calls this in a process of its own, and measures that.
fn alone(attack: impl FnOnce()) {
    let test = std::thread::current().name().unwrap().to_owned();
    if std::env::var_os(ALONE).is_none() {
        let mut command = Command::new(std::env::current_exe().unwrap());
        common::run_command(command.args(["--exact", &test, "--nocapture"]).env(ALONE, "1"));
        return;
    }
    attack();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let most: u64 = line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10;
    eprintln!("{test}: {} MiB", most >> 20);
    assert!(most < MEMORY, "it took {} MiB of memory", most >> 20);
}

type Stream = Box<dyn Read + Send>;

/// The same bytes again and again.
struct Endless {
    unit: Vec<u8>,
    at: usize,
}

fn endless(unit: impl Into<Vec<u8>>) -> Endless {
    Endless { unit: unit.into(), at: 0 }
}

impl Read for Endless {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = (self.unit.len() - self.at).min(out.len());
        out[..count].copy_from_slice(&self.unit[self.at..][..count]);
        self.at = (self.at + count) % self.unit.len();
        Ok(count)
    }
}

fn bytes(bytes: impl Into<Vec<u8>>) -> Stream {
    Box::new(Cursor::new(bytes.into()))
}

fn all(parts: Vec<Stream>) -> Stream {
    parts.into_iter().fold(bytes([]), |front, part| Box::new(front.chain(part)))
}

/// A member of a tar: its header, this much of `body`, and padding.
fn member(name: &str, size: u64, body: impl Read + Send + 'static) -> Stream {
    let padding = vec![0; (size.next_multiple_of(512) - size) as usize];
    all(vec![bytes(header(name.as_bytes(), b'0', size)), Box::new(body.take(size)), bytes(padding)])
}

/// `unit` between `first` and `last`, so often that there are about `size` bytes.
fn filled(first: &str, unit: &str, last: &str, size: u64) -> (u64, Stream) {
    let middle = (size / unit.len() as u64) * unit.len() as u64;
    let length = first.len() as u64 + middle + last.len() as u64;
    (length, all(vec![bytes(first), Box::new(endless(unit).take(middle)), bytes(last)]))
}

fn end() -> Stream {
    bytes(vec![0; 1024])
}

/// A store with an image in it.
struct Home {
    scratch: tempfile::TempDir,
    store: Store,
    before: BTreeMap<&'static str, Tree>,
}

impl Home {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Limits)) -> Self {
        let scratch = common::scratch();
        let mut limits = Limits::default();
        change(&mut limits);
        let options = Store::options().durability(Durability::Relaxed).limits(limits);
        let store = options.create(scratch.path().join("store")).unwrap();
        fs::write(scratch.path().join("victim"), "host").unwrap();
        let good = image()
            .layer(tar().dir("etc").file("etc/motd", "hello").finish())
            .name("docker.io/library/good:1");
        store.load(&Layout::of(&good).oci_archive()[..], &LoadOptions::default()).unwrap();
        store.gc(&GcOptions::default()).unwrap(); // it writes down what it finds settled
        let mut home = Self { scratch, store, before: BTreeMap::new() };
        home.before = home.look();
        home
    }

    fn look(&self) -> BTreeMap<&'static str, Tree> {
        let path = self.scratch.path().join("store");
        ["oci", "layers", "containers", "names", "cache"]
            .into_iter()
            .filter(|part| path.join(part).exists())
            .map(|part| (part, snapshot(path.join(part)).without_mtimes(is_directory)))
            .collect()
    }

    /// Loads what must be refused, and looks whether all is as it was.
    #[track_caller]
    fn refuse(&self, archive: impl Read + Send) -> StoreError {
        let error = self.store.load(archive, &LoadOptions::default()).map(drop).expect_err("this is refused");
        // What was verified before, a blob or a layer, is rubbish that no name leads to.
        self.store.gc(&GcOptions::default()).unwrap();
        let after = self.look();
        for (part, tree) in &after {
            tree.assert_same(&self.before[part], part);
        }
        assert_eq!(after.keys().collect::<Vec<_>>(), self.before.keys().collect::<Vec<_>>());
        assert_eq!(self.store.images().unwrap().len(), 1);
        let staging = fs::read_dir(self.scratch.path().join("store/staging")).unwrap();
        assert_eq!(staging.count(), 0, "something is left in staging");
        assert_eq!(fs::read(self.scratch.path().join("victim")).unwrap(), b"host");
        error
    }

    #[track_caller]
    fn refuse_as(&self, kind: &str, archive: impl Read + Send) {
        let error = self.refuse(archive);
        assert_eq!(error.kind(), kind, "{}", chain(&error));
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

/// A docker-archive around one layer, whose digest is not known before it has been read.
fn around(layer: Vec<u8>) -> Vec<u8> {
    let config = format!(
        r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":["sha256:{}"]}}}}"#,
        "0".repeat(64)
    );
    let manifest = r#"[{"Config":"c.json","RepoTags":["bad:1"],"Layers":["layer.tar"]}]"#;
    tar().file("layer.tar", layer).file("c.json", config).file("manifest.json", manifest).finish()
}

fn compressed(stream: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = flate2::read::GzEncoder::new(stream, flate2::Compression::best());
    encoder.read_to_end(&mut bytes).unwrap();
    bytes
}

fn unpack_with(limits: Limits, layer: impl Read + Send) -> Result<Unpacked, UnpackError> {
    let scratch = common::scratch();
    fs::write(scratch.path().join("victim"), "host").unwrap();
    let into = Dir::ensure_ambient(scratch.path().join("layer")).unwrap();
    let abilities = Abilities::probe(&Dir::ensure_ambient(scratch.path().join("probe")).unwrap()).unwrap();
    let mut options = UnpackOptions::default();
    options.limits = limits;
    let nobody = DiffId::of_tar(Digest::of(b""));
    let unpacked = unpack_layer(layer, nobody, &into, None, abilities, &options);
    assert_eq!(fs::read(scratch.path().join("victim")).unwrap(), b"host");
    let names: Vec<_> =
        fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    unpacked
}

fn unpack(layer: impl Read + Send) -> Result<Unpacked, UnpackError> {
    unpack_with(Limits::default(), layer)
}

/// The limit of a tar that was exceeded.
#[track_caller]
fn limit_of(result: Result<Unpacked, UnpackError>) -> &'static str {
    match result {
        Err(error) => match &error {
            UnpackError::Tar(ChangesetError::Limit { limit, .. }) => {
                let limit = *limit;
                assert_eq!(plywood::Error::from(error).kind(), "limit");
                limit
            }
            other => panic!("{}", chain(other)),
        },
        Ok(unpacked) => panic!("{unpacked:?}"),
    }
}

#[test]
fn extended_headers_of_a_gibibyte_are_refused() {
    alone(|| {
        let home = Home::new();
        for flag in [b'x', b'g', b'L', b'K'] {
            let long =
                || all(vec![bytes(header(b"long", flag, 1 << 30)), Box::new(endless(*b"13 comment=ab\n"))]);
            home.refuse_as("limit", long());
            assert_eq!(limit_of(unpack(long())), "header_bytes");
        }
        let flood = || {
            let record = pax_record(b"comment", &[b'x'; 900]);
            let mut one = header(b"x", b'g', record.len() as u64).to_vec();
            one.extend(&record);
            one.resize(one.len().next_multiple_of(512), 0);
            let mut many = header(b"x", b'x', record.len() as u64).to_vec();
            many.extend(&one[512..]);
            endless(many)
        };
        home.refuse(flood());
        assert!(unpack(flood()).is_err());
    });
}

#[test]
fn a_file_of_sixteen_exbibytes_of_nothing_is_refused() {
    alone(|| {
        let home = Home::new();
        for size in [u64::MAX, i64::MAX as u64, 1 << 60] {
            let records = [
                pax_record(b"GNU.sparse.major", b"1"),
                pax_record(b"GNU.sparse.minor", b"0"),
                pax_record(b"GNU.sparse.name", b"holes"),
                pax_record(b"GNU.sparse.realsize", size.to_string().as_bytes()),
            ]
            .concat();
            let mut sparse = header(b"x", b'x', records.len() as u64).to_vec();
            sparse.extend(records);
            sparse.resize(sparse.len().next_multiple_of(512), 0);
            sparse.extend(header(b"GNUSparseFile.0/holes", b'0', 512));
            sparse.extend(format!("1\n{size}\n0\n").bytes());
            sparse.resize(sparse.len().next_multiple_of(512) + 1024, 0);
            let error = home.refuse(&sparse[..]);
            assert!(matches!(error.kind(), "limit" | "invalid-archive"), "{}", chain(&error));
            let error = home.refuse(&around(compressed(&sparse[..]))[..]);
            assert!(matches!(error.kind(), "limit" | "invalid-layer"), "{}", chain(&error));
        }
        // The oldest form, a size in base 256.
        let mut block = header(b"large", b'0', 0);
        block[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        block[128..136].copy_from_slice(&(1_u64 << 62).to_be_bytes());
        seal(&mut block);
        assert_eq!(limit_of(unpack(all(vec![bytes(block), Box::new(endless([0]))]))), "file_bytes");
    });
}

#[test]
fn a_stream_that_unpacks_to_far_more_than_it_is_ends_soon() {
    alone(|| {
        let home = Home::with(|limits| {
            limits.expansion_free = 64 << 20;
            limits.expansion_zeros = 64 << 20;
        });
        let zeros = || member("zeros", 1 << 28, endless([0; 4096]));
        let ones = || member("ones", 1 << 28, endless([1; 4096]));
        let refused = |blob: Vec<u8>, words: &str| {
            let error = home.refuse(&around(blob)[..]);
            assert_eq!(error.kind(), "limit");
            assert!(chain(&error).contains(words), "{}", chain(&error));
        };
        let expansion = |error: &StoreError| {
            let text = chain(error);
            error.kind() == "limit" && text.contains("times as much")
        };
        // Around the archive, where zeros would be written to disk, and around a layer, where they would not.
        let error = home.refuse(&compressed(zeros())[..]);
        assert!(expansion(&error), "{}", chain(&error));
        refused(compressed(ones()), "more than 200 times as much");
        refused(compressed(zeros()), "more than 67108864 bytes of zeros");

        // Zstandard needs less than a ten thousandth.
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        io::copy(&mut zeros(), &mut encoder).unwrap();
        let packed = encoder.finish().unwrap();
        let mut limits = Limits::default();
        (limits.expansion_free, limits.expansion_zeros) = (64 << 20, 64 << 20);
        let unpacked = unpack_with(limits, &packed[..]);
        let Err(UnpackError::Blob(error)) = &unpacked else { panic!("{unpacked:?}") };
        assert!(matches!(CodecError::of(error), Some(CodecError::Zeros { .. })), "{error}");
        let error = home.refuse(&packed[..]);
        assert!(expansion(&error), "{}", chain(&error));
        refused(packed, "more than 67108864 bytes of zeros");
    });
}

#[test]
fn millions_of_entries_are_counted() {
    alone(|| {
        assert_eq!(Limits::default().entries, 5_000_000);
        // Ten million, of which as many are read as are allowed: fewer than by default, to be quick unoptimised.
        let ten_million = |unit: &[u8]| endless(unit).take(10_000_000 * unit.len() as u64);
        let mut limits = Limits::default();
        limits.entries = 200_000;
        assert_eq!(limit_of(unpack_with(limits.clone(), ten_million(&header(b"./", b'5', 0)))), "entries");
        assert_eq!(limit_of(unpack_with(limits, ten_million(&header(b".wh.a", b'0', 0)))), "entries");
        let home = Home::with(|limits| limits.archive_members = 200_000);
        home.refuse_as("limit", ten_million(&header(b"a/", b'5', 0)));
        home.refuse_as("limit", ten_million(&header(b"a", b'0', 0)));
    });
}

#[test]
fn a_million_members_of_an_archive_are_too_many() {
    alone(|| {
        let numbered =
            (0..1_100_000).map(|number| header(format!("{number:090}").as_bytes(), b'0', 0).to_vec());
        Home::new().refuse_as("limit", parts(numbered));
    });
}

/// Parts of a stream that are made when they are read.
struct Parts<I> {
    parts: I,
    part: Cursor<Vec<u8>>,
}

fn parts<I: Iterator<Item = Vec<u8>>>(parts: I) -> Parts<I> {
    Parts { parts, part: Cursor::default() }
}

impl<I: Iterator<Item = Vec<u8>>> Read for Parts<I> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.part.position() == self.part.get_ref().len() as u64 {
            match self.parts.next() {
                Some(part) => self.part = Cursor::new(part),
                None => return Ok(0),
            }
        }
        self.part.read(out)
    }
}

#[test]
fn names_that_are_deep_and_many_are_bounded() {
    alone(|| {
        // A kilobyte names a few hundred directories. Less memory than by default, to be quick unoptimised.
        let deep =
            (0..100).fold(tar(), |tar, number| tar.file(format!("{number}/{}f", "aaa/".repeat(250)), ""));
        let layer = deep.finish();
        let mut less = Limits::default();
        less.layer_memory = 8 << 20;
        assert_eq!(limit_of(unpack_with(less.clone(), &layer[..])), "layer_memory");
        Home::with(|limits| limits.clone_from(&less)).refuse_as("limit", &around(gzip(&layer))[..]);

        let deleted =
            (0..1_000_000).map(|number| header(format!(".wh.{number:090}").as_bytes(), b'0', 0).to_vec());
        assert_eq!(limit_of(unpack_with(less, parts(deleted))), "layer_memory");

        // Directories get their attributes at the end.
        let attributed = (0..1000).map(|number| {
            let value = [b'x'; 60_000];
            let names = ["user.a", "user.b", "user.c", "user.d"];
            names
                .into_iter()
                .fold(tar().dir(format!("{number}")), |tar, name| tar.xattr(name, value))
                .unfinished()
        });
        assert_eq!(limit_of(unpack(parts(attributed))), "layer_memory");
        for name in ["a/".repeat(2048), "a/".repeat(3000), "a".repeat(250) + &"/a".repeat(1923)] {
            let deeper = tar().file(name + "a", "").finish();
            assert_eq!(limit_of(unpack(&deeper[..])), "path_bytes");
        }
        let mut shallow = Limits::default();
        shallow.path_depth = 256;
        let deeper = tar().file("a/".repeat(300), "").finish();
        assert_eq!(limit_of(unpack_with(shallow, &deeper[..])), "path_depth");
    });
}

#[test]
fn nothing_leads_out_of_a_layer() {
    alone(|| {
        let up = "../".repeat(12);
        let victim = |home: &Home| home.scratch.path().join("victim").to_str().unwrap().to_owned();
        let home = Home::new();
        let absolute = victim(&home);
        let parent = home.scratch.path().to_str().unwrap().to_owned();
        let inside = absolute.trim_start_matches('/').to_owned();
        let attacks: Vec<(&str, Tar)> = vec![
            ("..", tar().file("../victim", "guest")),
            ("many ..", tar().file(format!("{up}{inside}"), "guest")),
            (".. in the middle", tar().dir("a").file(format!("a/{up}{inside}"), "guest")),
            ("a link up", tar().symlink("door", "../../..").file("door/victim", "guest")),
            ("a link to the host", tar().symlink("door", &parent).file("door/victim", "guest")),
            ("a link to the file", tar().symlink("door", &absolute).file("door", "guest")),
            (
                "links that lead to links",
                tar().symlink("a", "b").symlink("b", &parent).file("a/victim", "guest"),
            ),
            (
                "a directory that becomes a link",
                tar().dir("a").symlink("a", &parent).file("a/victim", "guest"),
            ),
            ("an absolute name", tar().file(&absolute, "guest")),
            ("an absolute hard link", tar().link("a", &absolute).file("a", "guest")),
            ("a hard link up", tar().link("a", format!("{up}{inside}")).file("a", "guest")),
            (
                "a hard link through a link",
                tar().symlink("d", &parent).link("a", "d/victim").file("a", "guest"),
            ),
            ("a whiteout up", tar().file("../.wh.victim", "")),
            ("a whiteout through a link", tar().symlink("d", &parent).file("d/.wh.victim", "")),
            ("an opaque marker through a link", tar().symlink("d", &parent).file("d/.wh..wh..opq", "")),
            ("a whiteout of ..", tar().file(".wh...", "")),
            ("attributes of a link", tar().symlink("d", &absolute).mode(0o777).xattr("trusted.a", "b")),
        ];
        let before = snapshot(&absolute);
        for (what, attack) in attacks {
            let layer = attack.finish();
            let spec = image().layer(layer).name("docker.io/library/bad:1");
            // Refused or contained: the host is untouched.
            let loaded = home.store.load(&Layout::of(&spec).oci_archive()[..], &LoadOptions::default());
            if let Err(error) = loaded {
                assert!(matches!(error.kind(), "invalid-layer"), "{what}: {}", chain(&error));
            }
            snapshot(&absolute).assert_same(&before, what);
            let names: Vec<_> =
                fs::read_dir(home.scratch.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(names.len(), 2, "{what}: {names:?}");
        }
    });
}

#[test]
fn link_targets_without_end_are_refused() {
    alone(|| {
        let long = "x".repeat(5000);
        for layer in [tar().symlink("a", &long).finish(), tar().link("a", &long).finish()] {
            assert_eq!(limit_of(unpack(&layer[..])), "link_bytes");
            Home::new().refuse_as("limit", &around(gzip(&layer))[..]);
        }
        // Every link doubles what has to be followed.
        let mut layer = tar().symlink("0", ".");
        for number in 1..60 {
            let below = number - 1;
            layer = layer.symlink(format!("{number}"), format!("{below}/{below}"));
        }
        let result = unpack(&layer.file("59/f", "").finish()[..]);
        assert!(matches!(result, Err(UnpackError::Place { .. })), "{result:?}");
    });
}

#[test]
fn documents_that_mean_harm_are_refused() {
    alone(|| {
        let home = Home::new();
        // Lists of images may be longer than other documents.
        let large = 54 << 20;
        for (kind, first, unit, last, size) in [
            ("limit", "[", "[", "", 1 << 20),
            ("limit", "", "{\"a\":", "", 1 << 20),
            ("limit", "", " ", "[]", 57 << 20),
            ("limit", "[", "{\"\":0},", "0]", large),
            ("limit", "[", "0,", "0]", large),
            ("limit", "[", "[[]],", "0]", large),
            ("limit", "[", "\"\",", "0]", large),
            ("limit", "[{\"Config\":\"c\",\"Layers\":[", "\"x\",", "\"x\"]}]", large),
            ("invalid-image", "[", "{\"a\":1,\"a\":2},", "0]", 15 << 20),
        ] {
            for name in ["manifest.json", "index.json", "oci-layout"] {
                let (size, document) = filled(first, unit, last, size);
                let other: Stream = match name {
                    "index.json" => {
                        member("oci-layout", 30, Cursor::new(br#"{"imageLayoutVersion":"1.0.0"}"#))
                    }
                    "oci-layout" => member("index.json", 2, Cursor::new(b"{}")),
                    _ => bytes([]),
                };
                home.refuse_as(kind, all(vec![other, member(name, size, document), end()]));
            }
        }
    });
}

#[test]
fn an_image_of_a_hundred_thousand_layers_is_refused() {
    alone(|| {
        let home = Home::new();
        for (layers, kind) in [(5_000, "limit"), (100_000, "limit")] {
            let mut layout = Layout::of(&image().layer(tar().finish()).name("docker.io/library/bad:1"));
            let digest = layout.images[0].manifest.clone();
            let mut manifest: serde_json::Value = serde_json::from_slice(&layout.blobs[&digest]).unwrap();
            let layer = manifest["layers"][0].to_string();
            drop(manifest["layers"].take());
            let text = manifest
                .to_string()
                .replace("\"layers\":null", &format!("\"layers\":[{}]", vec![layer; layers].join(",")));
            let size = text.len();
            let digest = layout.blob(text);
            layout.index["manifests"][0]["digest"] = digest.into();
            layout.index["manifests"][0]["size"] = size.into();
            let archive = layout.oci_archive();
            drop(layout);
            home.refuse_as(kind, &archive[..]);
        }
        let config = format!(r#"{{"rootfs":{{"type":"layers","diff_ids":["sha256:{}"]}}}}"#, "0".repeat(64));
        let list = vec!["\"x\""; 100_000].join(",");
        let manifest = format!(r#"[{{"Config":"c.json","RepoTags":["bad:1"],"Layers":[{list}]}}]"#);
        let archive = tar().file("x", "").file("c.json", config).file("manifest.json", manifest).finish();
        let error = home.refuse(&archive[..]);
        assert_eq!(error.kind(), "invalid-image", "{}", chain(&error));
    });
}

#[test]
fn one_large_document_asked_for_by_many_counts_for_each() {
    alone(|| {
        let home = Home::with(|limits| limits.documents_memory = 16 << 20);
        let mut spec = image().layer(tar().finish());
        spec.config["x"] = "x".repeat(1 << 20).into();
        let mut layout = Layout::of(&spec);
        let digest = layout.images[0].manifest.clone();
        let manifest: serde_json::Value = serde_json::from_slice(&layout.blobs[&digest]).unwrap();
        let mut entries = Vec::new();
        for number in 0..100 {
            let mut manifest = manifest.clone();
            manifest["annotations"] = serde_json::json!({"number": number.to_string()});
            entries.push(layout.document("application/vnd.oci.image.manifest.v1+json", &manifest));
        }
        layout.index["manifests"] = entries.into();
        home.refuse_as("limit", &layout.oci_archive()[..]);
        let nested = {
            let one = layout.index["manifests"][0].clone();
            let index = serde_json::json!({"schemaVersion": 2, "manifests": vec![one; 100]});
            layout.document("application/vnd.oci.image.index.v1+json", &index)
        };
        layout.index["manifests"] = vec![nested].into();
        home.refuse_as("limit", &layout.oci_archive()[..]);
    });
}

#[test]
fn an_archive_that_was_refused_does_no_harm_to_the_next() {
    let home = Home::new();
    let spec =
        image().compressed(tar().file("a", "b").finish(), Compression::Gzip).name("docker.io/library/next:1");
    let mut files = Layout::of(&spec).files();
    let blob = files.keys().rfind(|path| path.starts_with("blobs/")).unwrap().clone();
    let whole = files[&blob].clone();
    files.get_mut(&blob).unwrap()[0] ^= 1;
    home.refuse_as("digest-mismatch", &pack(&files)[..]);
    files.insert(blob, whole);
    home.store.load(&pack(&files)[..], &LoadOptions::default()).unwrap();
    assert_eq!(home.store.images().unwrap().len(), 2);
}
