//! The names that an archive gives its images.

use std::collections::BTreeMap;
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
}

/// What the annotations of an entry call it.
pub(super) fn of_annotations(
    annotations: &BTreeMap<String, String>,
    repository: Option<&Reference>,
) -> Option<Given> {
    if let Some(name) = Reference::from_annotations(annotations, repository) {
        return Some(Given::Name(name));
    }
    let text = annotations.get(OCI_REF_NAME).or_else(|| annotations.get(CONTAINERD_IMAGE_NAME))?;
    let any = Reference::parse_familiar("any").ok()?;
    Some(match any.tagged(text) {
        Ok(_) => Given::Tag(text.clone()),
        Err(_) => Given::Text(text.clone()),
    })
}

/// Gives `image` some more names.
pub(super) fn add(image: &mut Loaded, names: impl IntoIterator<Item = Reference>) {
    for name in names {
        if !image.names.contains(&name) {
            image.names.push(name);
        }
    }
}

/// Leaves every name to one image: the last that it is given to.
pub(super) fn settle(images: &mut [Loaded]) {
    let mut owners = BTreeMap::new();
    for (place, image) in images.iter().enumerate() {
        for name in &image.names {
            owners.insert(name.clone(), (place, image.target.digest));
        }
    }
    for (place, image) in images.iter_mut().enumerate() {
        let Loaded { names, warnings, .. } = image;
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
