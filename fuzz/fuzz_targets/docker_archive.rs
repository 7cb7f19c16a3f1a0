//! Image archives.
//!
//! Digests cannot be found by trying, so they are filled in: 62 zeros and two hexadecimal digits stand for the digest of
//! the member of that number, 62 ones for that of its content without compression. A member can name those before it
//! and itself.
//!
//! The laws: what is visible has the digest that it is called by and was pinned before; an archive that is refused
//! leaves no blob; how it is cut changes nothing; loading it again changes nothing.

#![no_main]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::Read;

use libfuzzer_sys::fuzz_target;
use plywood::archive::{Destination, LoadOptions, Loaded, load};
use plywood::blob::Blobs;
use plywood::codec::{Compression, Decoder, sniff};
use plywood::digest::Digest;
use plywood::fs::Durability;
use plywood::image::{Config, Manifest, Reference};
use plywood::limits::Limits;
use plywood_fuzz::{Pieces, Sandbox, repair_checksums, tree};

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.file_bytes = 1 << 20;
    limits.header_bytes = 16 << 10;
    limits.archive_members = 100;
    limits.json_bytes = 64 << 10;
    limits
}

/// Puts digests where they are asked for, and checksums where they belong.
fn fill_in(archive: &mut [u8]) {
    let mut digests = Vec::new();
    let mut at = 0;
    while let Some(header) = archive.get(at..at + 512) {
        let digits = header[124..135].iter().take_while(|byte| byte.is_ascii_digit());
        let size = digits.fold(0, |size, digit| size * 8 + usize::from(digit & 7));
        let end = (at + 512).saturating_add(size).min(archive.len());
        let body = &mut archive[at + 512..end];
        replace(body, &digests);
        let mut content = Vec::new();
        let decoder = Decoder::new(&*body, &limits());
        let plain = decoder.is_ok_and(|decoder| decoder.take(1 << 20).read_to_end(&mut content).is_ok());
        let stored = Digest::of(body);
        digests.push((stored, if plain { Digest::of(&content) } else { stored }));
        replace(&mut archive[at..at + 512], &digests);
        at = (end + 511) & !511;
    }
    repair_checksums(archive);
}

fn replace(bytes: &mut [u8], digests: &[(Digest, Digest)]) {
    for at in 0..bytes.len().saturating_sub(63) {
        let place = &mut bytes[at..at + 64];
        let sign = place[0];
        if !matches!(sign, b'0' | b'1') || place[..62].iter().any(|byte| *byte != sign) {
            continue;
        }
        let number =
            std::str::from_utf8(&place[62..]).ok().and_then(|digits| usize::from_str_radix(digits, 16).ok());
        if let Some((stored, plain)) = number.and_then(|number| digests.get(number)) {
            let digest = if sign == b'0' { stored } else { plain };
            place.copy_from_slice(digest.hex().as_bytes());
        }
    }
}

/// A layout, and what it was told to keep.
struct Shop {
    blobs: Blobs,
    pinned: RefCell<BTreeSet<Digest>>,
}

impl Shop {
    fn new(sandbox: &Sandbox, name: &str) -> Self {
        let workspace = sandbox.staging().workspace().expect("there is room for a directory");
        let blobs = Blobs::create(sandbox.dir(name), &workspace, Durability::Relaxed);
        workspace.close().expect("what is ours can be removed");
        Self { blobs: blobs.expect("there is room for a layout"), pinned: RefCell::default() }
    }

    fn load(&self, sandbox: &Sandbox, archive: impl Read) -> Result<Vec<Loaded>, String> {
        let workspace = sandbox.staging().workspace().expect("there is room for a directory");
        let pin = |digests: &[Digest]| {
            self.pinned.borrow_mut().extend(digests);
            Ok(())
        };
        let mut options = LoadOptions::default();
        options.limits = limits();
        options.durability = Durability::Relaxed;
        options.repository = Reference::parse_familiar("named").ok();
        let into = Destination { blobs: &self.blobs, workspace: &workspace, lent: None, pin: &pin };
        let loaded = load(archive, &into, &options).map_err(|error| error.to_string());
        workspace.close().expect("what is ours can be removed");
        loaded
    }

    fn list(&self) -> Vec<Digest> {
        let blobs = self.blobs.list().expect("a layout of ours can be listed");
        blobs.into_iter().map(|(digest, _)| digest).collect()
    }

    /// Every blob is what it is called, and what was promised is there.
    fn check(&self, images: &[Loaded]) {
        let pinned = self.pinned.borrow();
        for digest in self.list() {
            let content = self.blobs.read(&digest, 4 << 20).expect("a blob can be read");
            assert!(Digest::of_with(digest.algorithm(), &content) == digest, "{digest} is something else");
            assert!(pinned.contains(&digest), "{digest} was not pinned");
        }
        for image in images {
            assert!(pinned.contains(&image.target.digest));
            for part in &image.manifests {
                let read = |digest| self.blobs.read(digest, 4 << 20).expect("it was promised");
                let (manifest, config) = (read(&part.descriptor.digest), read(&part.manifest.config.digest));
                assert_eq!(Manifest::parse(&manifest, &limits()).as_ref(), Ok(&part.manifest));
                assert_eq!(Config::parse(&config, &limits()).as_ref(), Ok(&part.config));
                assert_eq!(part.manifest.check_config(&part.config), Ok(()));
                for layer in part.manifest.layers.iter().filter(|layer| layer.urls.is_empty()) {
                    assert_eq!(read(&layer.digest).len() as u64, layer.size);
                }
            }
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let mut archive = input.to_vec();
    fill_in(&mut archive);
    let sandbox = Sandbox::new();
    let shop = Shop::new(&sandbox, "one");
    let loaded = shop.load(&sandbox, &archive[..]);
    let other = Shop::new(&sandbox, "two");
    let in_pieces = other.load(&sandbox, Pieces(&archive, 300));
    let place = |text: String| match sniff(&archive) {
        Compression::None => text.replace("/one", "").replace("/two", ""),
        // Damage may be noticed before or after what is wrong with the content.
        _ => String::new(),
    };
    assert_eq!(loaded.clone().map_err(place), in_pieces.map_err(place));
    match loaded {
        Err(error) => {
            assert_eq!(shop.list(), [], "{error}");
            assert_eq!(other.list(), [], "{error}");
        }
        Ok(images) => {
            assert!(!images.is_empty());
            shop.check(&images);
            assert_eq!(shop.list(), other.list());
            let before = tree(shop.blobs.layout());
            assert_eq!(shop.load(&sandbox, &archive[..]).as_ref(), Ok(&images));
            assert!(tree(shop.blobs.layout()) == before, "loading it again changed something");
        }
    }
    sandbox.check(&["one", "two"]);
});
