//! The names that an archive gives its images.
//!
//! An archive may say anything. A name that reads as an image id, or whose digest is not the image's, is left out with a
//! warning: it would make a command find, or vouch for, another image than the one that it says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::Warning;
use super::load::Loaded;
use crate::image::{CONTAINERD_IMAGE_NAME, OCI_REF_NAME, Reference};

/// What an entry of `index.json` is called.
pub(super) enum Given {
    /// A name.
    Name(Reference),
    /// A tag that could belong to any repository.
    Tag(String),
    /// Something that is no name.
    Text(String),
    /// Something that reads as an image id or a digest.
    Id(String),
}

/// Returns what the annotations of an entry call it: a name, and whatever is left out.
pub(super) fn of_annotations(
    annotations: &BTreeMap<String, String>,
    repository: Option<&Reference>,
) -> Vec<Given> {
    let texts = || [OCI_REF_NAME, CONTAINERD_IMAGE_NAME].into_iter().filter_map(|key| annotations.get(key));
    let mut given: Vec<Given> = Vec::new();
    for text in texts().filter(|text| reads_as_id(text)) {
        if !given.iter().any(|given| matches!(given, Given::Id(known) if known == text)) {
            given.push(Given::Id(text.clone()));
        }
    }
    if let Some(name) = Reference::from_annotations(annotations, repository) {
        given.push(Given::Name(name));
    } else if let Some(text) = texts().find(|text| !reads_as_id(text)) {
        let is_tag = Reference::parse_familiar("any").is_ok_and(|any| any.tagged(text).is_ok());
        given.push(if is_tag { Given::Tag(text.clone()) } else { Given::Text(text.clone()) });
    }
    given
}

/// Returns true if `text` is refused as a name because it reads as an id. A text without a colon or a slash is a tag.
fn reads_as_id(text: &str) -> bool {
    text.contains([':', '/']) && Reference::parse_familiar(text).is_err_and(|error| error.reads_as_id())
}

/// Gives `image` some more names, for [`settle`] to sort out. A name with a digest must have that of the image.
pub(super) fn add(image: &mut Loaded, names: impl IntoIterator<Item = Reference>) {
    for name in names {
        let digest = image.target.digest;
        if name.digest().is_some_and(|said| *said != digest) {
            image.warnings.push(Warning::FalseDigest { name, digest });
        } else {
            image.names.push(name);
        }
    }
}

/// Leaves every name to one image, once: the last that it is given to.
pub(super) fn settle(images: &mut [Loaded]) {
    let mut owners = BTreeMap::new();
    for (place, image) in images.iter().enumerate() {
        for name in &image.names {
            owners.insert(name.clone(), (place, image.target.digest));
        }
    }
    for (place, image) in images.iter_mut().enumerate() {
        let Loaded { names, warnings, .. } = image;
        let mut seen = BTreeSet::new();
        names.retain(|name| seen.insert(name.clone()));
        names.retain(|name| match owners.get(name) {
            Some((owner, winner)) if *owner != place => {
                warnings.push(Warning::NameTaken { name: name.clone(), winner: *winner });
                false
            }
            _ => true,
        });
        if !names.is_empty() {
            warnings.retain(|warning| !matches!(warning, Warning::OnlyTag { .. }));
        }
    }
}

/// The repository for images that have only a tag, made of the name of the file or directory that they come from:
/// `images/Debian-12.oci.tar.gz` gives `debian-12`.
///
/// skopeo and umoci write layouts whose images are called `latest` and nothing else (`oci:debian:latest`); the name of
/// the directory is then the only other word there is. Podman makes `localhost/images/debian:latest` of it and forgets
/// the tag. `None` if nothing is left that could be a name.
pub fn repository_for(path: impl AsRef<Path>) -> Option<Reference> {
    let mut stem = path.as_ref().file_name()?.to_str()?.to_lowercase();
    for suffix in
        [".gz", ".zst", ".xz", ".bz2", ".tgz", ".tar", ".oci", ".docker", ".oci-archive", ".docker-archive"]
    {
        if let Some(short) = stem.strip_suffix(suffix) {
            stem = short.to_owned();
        }
    }
    // A separator stands between words, alone, and is one of three.
    let mut name = String::new();
    let mut between = String::new();
    for c in stem.chars() {
        if !c.is_ascii_alphanumeric() {
            between.push(c);
            continue;
        }
        match between.as_str() {
            _ if name.is_empty() => {}
            "" => {}
            "." | "_" => name.push_str(&between),
            _ => name.push('-'),
        }
        between.clear();
        name.push(c);
    }
    Reference::parse_familiar(&name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_file_makes_a_repository() {
        for (path, repository) in [
            ("debian.tar", "debian"),
            ("/images/Debian-12.oci.tar.gz", "debian-12"),
            ("images/web_1.2.tgz", "web_1.2"),
            ("-a--b__c..d e- ", "a-b-c-d-e"),
            ("dir/", "dir"),
            ("\u{e4}\u{f6}x.tar", "x"),
        ] {
            let found = repository_for(path).map(|name| name.repository());
            assert_eq!(found.as_deref(), Some(&*format!("docker.io/library/{repository}")), "{path}");
        }
        for path in ["/", "..", ".tar", "---", ""] {
            assert_eq!(repository_for(path), None, "{path}");
        }
    }
}
