//! Names of images, and the other words that people type.
//!
//! The laws: what can be read is shown in forms that read back as the same value, and a shown form is shown the same
//! again; names made from a name are names; what is refused is refused in few words.

#![no_main]

use std::collections::BTreeMap;
use std::fmt::{Debug, Display};
use std::str::FromStr;

use libfuzzer_sys::fuzz_target;
use plywood::archive::repository_for;
use plywood::digest::Digest;
use plywood::image::{CONTAINERD_IMAGE_NAME, OCI_REF_NAME, Platform, Reference};
use plywood::path::LayerPath;

/// Longer than this no message should be, whatever was said.
const MESSAGE: usize = 4096;

fn read_back(name: &Reference) {
    for shown in [name.canonical(), name.familiar(), name.to_string()] {
        let again = Reference::parse_familiar(&shown).expect("what is shown can be read");
        assert_eq!(again, *name, "{shown}");
        assert_eq!((again.canonical(), again.familiar()), (name.canonical(), name.familiar()));
    }
    assert!(name.canonical().starts_with(&name.repository()));
    assert!(name.tag().is_some() || name.digest().is_some());

    let annotated = |key: &str, value: String| {
        let annotations = BTreeMap::from([(key.to_owned(), value)]);
        Reference::from_annotations(&annotations, None)
    };
    assert_eq!(annotated(CONTAINERD_IMAGE_NAME, name.canonical()).as_ref(), Some(name));
    assert_eq!(annotated(OCI_REF_NAME, name.familiar()).as_ref(), Some(name));

    let listed = Reference::parse_repo_tag(&name.familiar());
    match (name.tag(), name.digest()) {
        (Some(_), None) => assert_eq!(listed.as_ref(), Ok(name)),
        _ => assert!(listed.is_err()),
    }
}

fn show_and_read<T: FromStr<Err: Display> + Display + Eq + Debug>(text: &str) {
    match text.parse::<T>() {
        Ok(value) => {
            let shown = value.to_string();
            let again = shown.parse::<T>().ok().expect("what is shown can be read");
            assert_eq!((&again, again.to_string()), (&value, shown));
        }
        Err(error) => assert!(error.to_string().len() <= MESSAGE),
    }
}

fuzz_target!(|input: &[u8]| {
    if let Ok(path) = LayerPath::parse(input) {
        assert!(path.components().all(|name| !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/')));
        assert_eq!(LayerPath::parse(path.as_bytes()).as_ref(), Ok(&path));
    }
    let Ok(text) = std::str::from_utf8(input) else { return };
    show_and_read::<Digest>(text);
    show_and_read::<Platform>(text);
    if let Some(name) = repository_for(text) {
        read_back(&name.without_digest());
    }
    match Reference::parse_familiar(text) {
        Ok(name) => {
            read_back(&name);
            read_back(&name.without_digest());
            read_back(&name.with_digest(Digest::of(input)));
            let tagged = name.tagged("a").expect("that is a tag");
            read_back(&tagged);
            assert_eq!(tagged.repository(), name.repository());
        }
        Err(error) => assert!(error.to_string().len() <= MESSAGE),
    }
});
