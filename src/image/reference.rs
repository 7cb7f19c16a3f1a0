//! [`Reference`]: the name a person gives a manifest, such as `debian:12`.
//!
//! The grammar is docker's ([distribution/reference](https://pkg.go.dev/github.com/distribution/reference)):
//! a name means here what it means there. One oddity is not followed: `a_b.c/x`, whose domain is none, is a
//! path without a domain to docker, and refused here. A value always has a domain and a path, and a tag or a
//! digest or both; [`Reference::canonical`] is what gets stored and [`Reference::familiar`] what gets shown,
//! and either reads back as the same value.
//!
//! A name never reads as an image id or a digest: `sha256:…`, with or without `docker.io/library/` in front, and a
//! repository that consists of the digits of a digest are refused. Docker's grammar accepts the first, but `docker tag`
//! refuses it for the same reason: a command would have to guess which of two images is meant.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::text::quotation;

/// Docker Hub, whose images need no domain.
const DEFAULT_DOMAIN: &str = "docker.io";
/// Its old name, which is folded into the new one.
const LEGACY_DOMAIN: &str = "index.docker.io";
/// Where Docker Hub keeps the images that need no owner.
const OFFICIAL: &str = "library/";
const DEFAULT_TAG: &str = "latest";
/// Names that stand before the digits of a digest, of all algorithms that the OCI specification and docker register.
const ALGORITHMS: [&str; 3] = ["sha256", "sha384", "sha512"];
/// The number of digits that those digests have.
const DIGITS: [usize; 3] = [64, 96, 128];
/// Why a name that reads as an id is refused.
const IS_AN_ID: &str = "it reads as an image id or a digest, which a name must not";
/// Bytes of a path.
const PATH_MAX: usize = 255;
/// Bytes of a tag.
const TAG_MAX: usize = 128;

/// Annotation by which containerd names an image in an index, in full.
pub const CONTAINERD_IMAGE_NAME: &str = "io.containerd.image.name";
/// Annotation by which OCI names an image in an index; often only the tag.
pub const OCI_REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The name of an image: `domain/path:tag@digest`.
///
/// ```
/// use plywood::image::Reference;
///
/// let name = Reference::parse_familiar("debian")?;
/// assert_eq!(name.canonical(), "docker.io/library/debian:latest");
/// assert_eq!(name.familiar(), "debian:latest");
/// # Ok::<(), plywood::image::ReferenceError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Ord for Reference {
    /// Compares domain, path, tag and digest. Of one repository, names without a tag come last.
    fn cmp(&self, other: &Self) -> Ordering {
        fn key(name: &Reference) -> impl Ord + '_ {
            let Reference { domain, path, tag, digest } = name;
            (domain, path, tag.is_none(), tag, digest)
        }
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for Reference {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A text that names no image.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text:?} is not an image name: {reason}")]
pub struct ReferenceError {
    text: String,
    reason: String,
    reads_as_id: bool,
}

impl ReferenceError {
    fn new(text: &str, reason: impl Into<String>) -> Self {
        Self { text: quotation(text), reason: reason.into(), reads_as_id: false }
    }

    fn id(text: &str, reason: &str) -> Self {
        Self { reads_as_id: true, ..Self::new(text, reason) }
    }

    /// Returns true if the text was refused because it reads as an image id or a digest.
    pub fn reads_as_id(&self) -> bool {
        self.reads_as_id
    }
}

impl Reference {
    /// Reads a name as people type it. Domain, `library/` and tag may be left out; the tag is then `latest`,
    /// unless there is a digest.
    ///
    /// # Errors
    ///
    /// [`ReferenceError`] if docker would not take it, or if it reads as an image id or a digest (see
    /// [`ReferenceError::reads_as_id`]): `sha256:…` and 64 hexadecimal digits, also with a tag or with
    /// `docker.io/library/` in front.
    pub fn parse_familiar(text: &str) -> Result<Self, ReferenceError> {
        let mut reference = Self::parse(text)?;
        if reference.tag.is_none() && reference.digest.is_none() {
            reference.tag = Some(DEFAULT_TAG.to_owned());
        }
        Ok(reference)
    }

    /// Reads an entry of `RepoTags` in an archive's `manifest.json`: a name with a tag and without a digest.
    ///
    /// # Errors
    ///
    /// [`ReferenceError`] for anything else.
    pub fn parse_repo_tag(text: &str) -> Result<Self, ReferenceError> {
        let reference = Self::parse(text)?;
        if reference.tag.is_none() {
            return Err(ReferenceError::new(text, "the tag is missing"));
        }
        if reference.digest.is_some() {
            return Err(ReferenceError::new(text, "a digest does not belong here"));
        }
        Ok(reference)
    }

    /// The name that the annotations of a descriptor in an index give, if they give one.
    ///
    /// containerd's annotation holds a full name. OCI's is a name if it has a `/` or a `:`; otherwise it is a tag, of the
    /// repository in containerd's, else of `repository`. Where the two say different things OCI's counts: umoci, which
    /// knows no other, copies the annotations of an image that it tags and leaves containerd's as it was. OCI allows texts
    /// that are no image names, so what cannot be read is no error.
    pub fn from_annotations(
        annotations: &BTreeMap<String, String>,
        repository: Option<&Reference>,
    ) -> Option<Self> {
        let full = |text: &String| Self::parse_familiar(text).ok();
        let by_containerd = annotations.get(CONTAINERD_IMAGE_NAME).and_then(full);
        let repository = by_containerd.as_ref().or(repository);
        let by_oci = annotations.get(OCI_REF_NAME).and_then(|name| match name.contains(['/', ':']) {
            // Of a name with a digest containerd repeats here what stands behind the repository.
            true if name.contains('@') && by_containerd.is_some() => None,
            true => full(name),
            false => repository?.tagged(name).ok(),
        });
        match by_containerd {
            Some(name) if by_oci.as_ref().is_none_or(|other| *other == name.without_digest()) => Some(name),
            _ => by_oci,
        }
    }

    /// Reads a name that may lack both tag and digest.
    fn parse(text: &str) -> Result<Self, ReferenceError> {
        let fault = |reason: &str| ReferenceError::new(text, reason);
        if text.is_empty() {
            return Err(fault("it is empty"));
        }
        let (domain, rest) = split_domain(text);
        let (path, rest) = rest.split_at(rest.find([':', '@']).unwrap_or(rest.len()));
        let (tag, digest) = match rest.split_once('@') {
            Some((tag, digest)) => (tag, Some(digest)),
            None => (rest, None),
        };
        check_domain(domain).map_err(fault)?;
        let path = if domain == DEFAULT_DOMAIN && !path.contains('/') {
            format!("{OFFICIAL}{path}")
        } else {
            path.to_owned()
        };
        check_path(&path).map_err(fault)?;
        if reads_as_id(domain, &path) {
            return Err(ReferenceError::id(text, IS_AN_ID));
        }
        // The path ends only at `:`, `@` or the end, so what has no colon is empty.
        let tag = tag.strip_prefix(':').map(str::to_owned);
        if let Some(tag) = &tag {
            check_tag(tag).map_err(fault)?;
        }
        let digest = digest
            .map(|digest| digest.parse().map_err(|error| ReferenceError::new(text, format!("{error}"))))
            .transpose()?;
        Ok(Self { domain: domain.to_owned(), path, tag, digest })
    }

    /// The registry, with its port if there is one: `docker.io`, `localhost:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within the registry: `library/debian`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Domain and path: `docker.io/library/debian`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The tag, if there is one. Beside a digest it is for people: the digest decides.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest, if the name has one.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The name `tag` in the same repository, without a digest.
    ///
    /// # Errors
    ///
    /// [`ReferenceError`] if `tag` is none.
    pub fn tagged(&self, tag: &str) -> Result<Self, ReferenceError> {
        check_tag(tag).map_err(|reason| ReferenceError::new(tag, reason))?;
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// The same name, tag kept, bound to `digest`.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }

    /// Returns the reference to `digest` in the same repository, without a tag: what docker and podman call a
    /// repository digest.
    #[must_use]
    pub fn at_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// Returns true if both names are of the same repository.
    pub fn is_beside(&self, other: &Self) -> bool {
        self.domain == other.domain && self.path == other.path
    }

    /// The same name without its digest; it gets the tag `latest` if it had none.
    #[must_use]
    pub fn without_digest(&self) -> Self {
        let tag = self.tag.clone().unwrap_or_else(|| DEFAULT_TAG.to_owned());
        Self { tag: Some(tag), digest: None, ..self.clone() }
    }

    /// The name in full, as it is stored: `docker.io/library/debian:12`.
    pub fn canonical(&self) -> String {
        self.to_string()
    }

    /// The name as people know it: `debian:12`. The tag is always shown, so that a later default cannot
    /// change what it means.
    ///
    /// Unlike docker's, this form always reads back as the same value: `docker.io` stays where the path alone
    /// would be taken for another registry (`docker.io/my.org/x`).
    pub fn familiar(&self) -> String {
        familiar(&self.canonical()).to_owned()
    }
}

/// What people say for a canonical name, which is the end of that or all of it.
pub(crate) fn familiar(canonical: &str) -> &str {
    let Some((DEFAULT_DOMAIN, rest)) = domain_of(canonical) else { return canonical };
    match rest.strip_prefix(OFFICIAL) {
        Some(short) if !short.contains('/') => short,
        _ if has_domain(rest) => canonical,
        _ => rest,
    }
}

/// Whether `text` is the canonical form of a name with a tag and no digest, as those are that a store gives. Costs less
/// than to read it.
pub(crate) fn is_canonical_tag(text: &str) -> bool {
    let Some((domain, rest)) = domain_of(text) else { return false };
    let (path, tag) = rest.split_once(':').unwrap_or((rest, ""));
    let is_full = match domain {
        DEFAULT_DOMAIN => path.contains('/'),
        LEGACY_DOMAIN => false,
        _ => true,
    };
    is_full
        && check_domain(domain).is_ok()
        && check_path(path).is_ok()
        && !reads_as_id(domain, path)
        && check_tag(tag).is_ok()
}

/// Returns true if people would say an id or the beginning of a digest for this repository.
fn reads_as_id(domain: &str, path: &str) -> bool {
    let Some(name) = path.strip_prefix(OFFICIAL).filter(|_| domain == DEFAULT_DOMAIN) else { return false };
    let is_digit = |digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    ALGORITHMS.contains(&name) || (DIGITS.contains(&name.len()) && name.bytes().all(is_digit))
}

/// The text before the first `/` if that is a domain.
fn domain_of(text: &str) -> Option<(&str, &str)> {
    let (first, rest) = text.split_at(text.bytes().position(|byte| byte == b'/')?);
    let is_domain =
        first == "localhost" || first.chars().any(|sign| matches!(sign, '.' | ':') || sign.is_uppercase());
    is_domain.then_some((first, &rest[1..]))
}

fn has_domain(text: &str) -> bool {
    domain_of(text).is_some()
}

fn split_domain(text: &str) -> (&str, &str) {
    match domain_of(text) {
        Some((LEGACY_DOMAIN, rest)) => (DEFAULT_DOMAIN, rest),
        Some(split) => split,
        None => (DEFAULT_DOMAIN, text),
    }
}

fn check_domain(domain: &str) -> Result<(), &'static str> {
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => {
            let (address, port) =
                rest.split_once(']').ok_or("the bracket of its IPv6 address is not closed")?;
            if address.is_empty() || !address.bytes().all(|c| c.is_ascii_hexdigit() || c == b':') {
                return Err("its IPv6 address has other characters than hexadecimal digits and colons");
            }
            ("v6", port)
        }
        None => domain.split_at(domain.find(':').unwrap_or(domain.len())),
    };
    let alphanumeric = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
    let label = |label: &str| {
        let bytes = label.as_bytes();
        alphanumeric(bytes.first())
            && alphanumeric(bytes.last())
            && bytes.iter().all(|&c| c.is_ascii_alphanumeric() || c == b'-')
    };
    if !host.split('.').all(label) {
        return Err("its domain is malformed");
    }
    match port.strip_prefix(':') {
        None if port.is_empty() => Ok(()),
        Some(digits) if !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit()) => Ok(()),
        _ => Err("the port of its domain is not a number"),
    }
}

fn check_path(path: &str) -> Result<(), &'static str> {
    if path.len() > PATH_MAX {
        return Err("its path is longer than 255 bytes");
    }
    if is_path(path.as_bytes()) {
        Ok(())
    } else if path.chars().any(char::is_uppercase) {
        Err("its path must be lower case")
    } else {
        Err("its path must be of lower-case letters and digits, separated by one of . _ __ - or /")
    }
}

/// Whether it begins and ends with a letter or a digit, and has one separator at a time between them.
fn is_path(path: &[u8]) -> bool {
    let is_separator = |signs: &[u8]| {
        matches!(signs, b"" | b"/" | b"." | b"_" | b"__") || signs.iter().all(|&sign| sign == b'-')
    };
    // Where what is not a letter or a digit began.
    let mut from = 0;
    for (at, sign) in path.iter().enumerate() {
        if matches!(sign, b'a'..=b'z' | b'0'..=b'9') {
            if from < at && (from == 0 || !is_separator(&path[from..at])) {
                return false;
            }
            from = at + 1;
        }
    }
    from == path.len() && from > 0
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    if tag.len() > TAG_MAX {
        return Err("its tag is longer than 128 bytes");
    }
    match tag.as_bytes() {
        [first, rest @ ..] if word(*first) && rest.iter().all(|&c| word(c) || c == b'.' || c == b'-') => {
            Ok(())
        }
        _ => Err("its tag must be of letters, digits, _ . and -, and begin with none of the last two"),
    }
}

/// Tag and digest with the signs before them.
struct Suffix<'a>(&'a Reference);

impl fmt::Display for Suffix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(tag) = &self.0.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.0.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Reference {
    /// The canonical form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.domain, self.path, Suffix(self))
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reference({self})")
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    /// As [`Reference::parse_familiar`].
    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse_familiar(text)
    }
}

impl Serialize for Reference {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHA: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn name(text: &str) -> Reference {
        Reference::parse_familiar(text).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn names_mean_what_docker_means_by_them() {
        for (text, canonical, familiar) in [
            ("debian", "docker.io/library/debian:latest", "debian:latest"),
            ("debian:12", "docker.io/library/debian:12", "debian:12"),
            ("library/debian", "docker.io/library/debian:latest", "debian:latest"),
            ("docker.io/debian:12", "docker.io/library/debian:12", "debian:12"),
            ("docker.io/library/debian", "docker.io/library/debian:latest", "debian:latest"),
            ("index.docker.io/debian", "docker.io/library/debian:latest", "debian:latest"),
            ("index.docker.io/me/x", "docker.io/me/x:latest", "me/x:latest"),
            ("me/x", "docker.io/me/x:latest", "me/x:latest"),
            ("a/b/c:v1", "docker.io/a/b/c:v1", "a/b/c:v1"),
            ("library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
            ("quay.io/me/x:v1", "quay.io/me/x:v1", "quay.io/me/x:v1"),
            ("quay.io/x", "quay.io/x:latest", "quay.io/x:latest"),
            ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
            ("localhost:12", "docker.io/library/localhost:12", "localhost:12"),
            ("localhost:5000/x", "localhost:5000/x:latest", "localhost:5000/x:latest"),
            ("host:80/x:y", "host:80/x:y", "host:80/x:y"),
            ("127.0.0.1:5000/x", "127.0.0.1:5000/x:latest", "127.0.0.1:5000/x:latest"),
            ("[::1]:5000/x/y", "[::1]:5000/x/y:latest", "[::1]:5000/x/y:latest"),
            ("[fc00:0:0::1]/x", "[fc00:0:0::1]/x:latest", "[fc00:0:0::1]/x:latest"),
            ("Registry/x", "Registry/x:latest", "Registry/x:latest"),
            ("Example.COM/x", "Example.COM/x:latest", "Example.COM/x:latest"),
            ("xn--n3h.com/x", "xn--n3h.com/x:latest", "xn--n3h.com/x:latest"),
            ("a-b.c/x", "a-b.c/x:latest", "a-b.c/x:latest"),
            ("a__b/c---d/e.f/g_h", "docker.io/a__b/c---d/e.f/g_h:latest", "a__b/c---d/e.f/g_h:latest"),
            ("x:_T.a-G", "docker.io/library/x:_T.a-G", "x:_T.a-G"),
            ("docker.io/my.org/x", "docker.io/my.org/x:latest", "docker.io/my.org/x:latest"),
            ("docker.io/localhost/x", "docker.io/localhost/x:latest", "docker.io/localhost/x:latest"),
        ] {
            let name = name(text);
            assert_eq!(
                (name.canonical(), name.familiar()),
                (canonical.to_owned(), familiar.to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn a_tag_and_a_digest_are_both_kept() {
        let both = name(&format!("debian:12@{SHA}"));
        assert_eq!((both.tag(), both.digest()), (Some("12"), Some(&SHA.parse().unwrap())));
        assert_eq!(both.familiar(), format!("debian:12@{SHA}"));
        let digest = name(&format!("quay.io/x@{SHA}"));
        assert_eq!((digest.tag(), digest.canonical()), (None, format!("quay.io/x@{SHA}")));
        assert_eq!(digest.without_digest().canonical(), "quay.io/x:latest");
        assert_eq!(name("x:1").with_digest(SHA.parse().unwrap()), name(&format!("x:1@{SHA}")));
    }

    #[test]
    fn the_parts_are_what_they_are_called() {
        let name = name("localhost:5000/a/b:c");
        assert_eq!((name.domain(), name.path(), name.tag()), ("localhost:5000", "a/b", Some("c")));
        assert_eq!(name.repository(), "localhost:5000/a/b");
        assert_eq!(name.tagged("d").unwrap().canonical(), "localhost:5000/a/b:d");
        assert!(name.tagged("-d").is_err());
    }

    #[test]
    fn what_docker_refuses_is_refused() {
        let long_path = format!("a/{}", "a".repeat(254));
        let long_tag = format!("a:{}", "a".repeat(129));
        let short_digest = format!("a@{}", &SHA[..SHA.len() - 1]);
        for text in [
            "",
            ":tag",
            "/x",
            "x/",
            "a//b",
            "Debian",
            "me/Debian",
            "quay.io/Debian",
            "quay.io/",
            "https://quay.io/x",
            "x:",
            "x:-a",
            "x:.a",
            "x:a b",
            "x:a/b",
            "x@",
            "x@sha256",
            "x@md5:d41d8cd98f00b204e9800998ecf8427e",
            "x:a@",
            "-x",
            "x-",
            "_x",
            "x..y",
            "x._y",
            "x___y",
            "x_-y",
            "x y",
            " x",
            "x\n",
            "aa/asdf$$^/aa",
            "host:port/x",
            "host:/x",
            "-host.com/x",
            "host-.com/x",
            "host..com/x",
            "a_b.c/x",
            "[::1/x",
            "[::1]x/y",
            "[]/x.y",
            "[fe80::1%eth0]/x",
            "[::1%25eth0]:80/x",
            "dockér.io/x",
            "é",
            "<none>:<none>",
            &SHA[7..],
            &long_path,
            &long_tag,
            &short_digest,
        ] {
            assert!(Reference::parse_familiar(text).is_err(), "{text:?} gives {:?}", name(text));
        }
    }

    #[test]
    fn the_limits_of_length_are_inclusive() {
        name(&format!("a/{}:{}", "a".repeat(253), "a".repeat(128)));
        // `library/` counts, as it does for docker.
        assert!(Reference::parse_familiar(&"a".repeat(248)).is_err());
        name(&"a".repeat(247));
    }

    #[test]
    fn some_strange_names_are_names_to_docker_and_so_to_us() {
        for text in ["sha1:abc", "md5", "sha", "localhost/sha256:abc", "me/sha256:abc", "deadbeef"] {
            name(text);
        }
        assert_eq!(name(&format!("quay.io/{}:x", &SHA[7..])).path(), &SHA[7..]);
        assert_eq!(name(&SHA[8..]).path(), format!("library/{}", &SHA[8..]));
    }

    #[test]
    fn a_name_never_reads_as_an_id_or_a_digest() {
        let long = format!("sha512:{}", "ab".repeat(64));
        let names = [SHA, &SHA[7..], &long, &long[7..], "sha256", "sha256:x", "sha256:deadbeef", "sha384:00"];
        for text in names {
            for prefix in ["", "library/", "docker.io/", "docker.io/library/", "index.docker.io/"] {
                for suffix in [String::new(), ":1".to_owned(), format!("@{SHA}")] {
                    let text = format!("{prefix}{text}{suffix}");
                    let found = Reference::parse_familiar(&text);
                    assert!(found.is_err(), "{text}");
                    if suffix.is_empty() {
                        assert!(found.unwrap_err().reads_as_id(), "{text}");
                    }
                    assert!(!is_canonical_tag(&text), "{text}");
                    assert!(serde_json::from_value::<Reference>(text.clone().into()).is_err(), "{text}");
                }
            }
        }
        assert!(!Reference::parse_familiar("Debian").unwrap_err().reads_as_id());
        assert!(Reference::parse_repo_tag(SHA).unwrap_err().reads_as_id());
    }

    #[test]
    fn a_reference_by_digest_alone_has_no_tag() {
        let digest: Digest = SHA.parse().unwrap();
        assert_eq!(name("x:1").at_digest(digest), name(&format!("x@{SHA}")));
        assert!(name("x:1").is_beside(&name("docker.io/library/x:2")));
        assert!(!name("x:1").is_beside(&name("quay.io/x:1")) && !name("x").is_beside(&name("y")));
    }

    #[test]
    fn an_error_quotes_the_name_and_says_what_is_wrong() {
        let error = Reference::parse_familiar("me/Debian").unwrap_err();
        assert_eq!(error.to_string(), r#""me/Debian" is not an image name: its path must be lower case"#);
    }

    #[test]
    fn a_repo_tag_has_a_tag_and_no_digest() {
        assert_eq!(Reference::parse_repo_tag("debian:12"), Ok(name("debian:12")));
        assert_eq!(Reference::parse_repo_tag("docker.io/library/debian:12"), Ok(name("debian:12")));
        for text in ["debian", &format!("debian@{SHA}"), &format!("debian:12@{SHA}"), "<none>:<none>"] {
            assert!(Reference::parse_repo_tag(text).is_err(), "{text}");
        }
    }

    #[test]
    fn annotations_name_an_image_in_full_or_by_its_tag() {
        let given = |pairs: &[(&str, &str)], repository: Option<&str>| {
            let annotations = pairs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
            let repository = repository.map(name);
            Reference::from_annotations(&annotations, repository.as_ref()).map(|name| name.familiar())
        };
        let both = [(CONTAINERD_IMAGE_NAME, "quay.io/x:1"), (OCI_REF_NAME, "y:2")];
        assert_eq!(given(&both, None).as_deref(), Some("y:2"), "umoci changed its own only");
        for (theirs, expected) in [("1", "quay.io/x:1"), ("2", "quay.io/x:2"), ("Not/A/Name", "quay.io/x:1")]
        {
            assert_eq!(given(&[both[0], (OCI_REF_NAME, theirs)], Some("z")).as_deref(), Some(expected));
        }
        let digest = format!("sha256:{}", "0".repeat(64));
        for (containerd, oci) in [
            (format!("quay.io/x@{digest}"), format!("@{digest}")),
            (format!("quay.io/x:1@{digest}"), format!("1@{digest}")),
            (format!("quay.io/x:1@{digest}"), "1".to_owned()),
        ] {
            let found = given(&[(CONTAINERD_IMAGE_NAME, &containerd), (OCI_REF_NAME, &oci)], None);
            assert_eq!(found, Some(containerd));
        }
        assert_eq!(given(&both[1..], None).as_deref(), Some("y:2"));
        assert_eq!(given(&[(OCI_REF_NAME, "quay.io/y")], None).as_deref(), Some("quay.io/y:latest"));
        assert_eq!(given(&[(OCI_REF_NAME, "latest")], None), None);
        assert_eq!(given(&[(OCI_REF_NAME, "2")], Some("x:1")).as_deref(), Some("x:2"));
        assert_eq!(given(&[(OCI_REF_NAME, "Not/A/Name")], Some("x")), None);
        assert_eq!(given(&[(CONTAINERD_IMAGE_NAME, "??"), both[1]], None).as_deref(), Some("y:2"));
        assert_eq!(given(&[], Some("x")), None);
    }

    fn reference() -> impl Strategy<Value = String> {
        let domain = "(|docker\\.io/[a-z]\\.[a-z]/|([a-zA-Z0-9]([a-z0-9-]{0,3}[A-Z0-9])?\\.[a-z]{1,3}|localhost|\\[:[0-9a-f:]{0,6}\\])(:[0-9]{1,4})?/)";
        let path = "([a-z0-9]{1,4}(_|__|-{1,3})){0,2}[a-z0-9]{1,4}(/[a-z]{1,3}([._]|__)[0-9]){0,2}";
        let tag = "(|:[A-Za-z0-9_][A-Za-z0-9_.-]{0,8})";
        (domain, path, tag, any::<bool>()).prop_map(|(domain, path, tag, digest)| {
            format!("{domain}{path}{tag}{}", if digest { format!("@{SHA}") } else { String::new() })
        })
    }

    proptest! {
        #[test]
        fn both_forms_read_back_as_the_same_name(text in reference()) {
            let name = Reference::parse_familiar(&text).unwrap();
            prop_assert_eq!(Reference::parse_familiar(&name.canonical()), Ok(name.clone()));
            prop_assert_eq!(Reference::parse_familiar(&name.familiar()), Ok(name.clone()));
            let json = serde_json::to_string(&name).unwrap();
            prop_assert_eq!(serde_json::from_str::<Reference>(&json).unwrap(), name);
        }

        #[test]
        fn a_stored_name_is_told_without_reading_it(text in reference()) {
            let is_canonical_tag = |text: &str| {
                let name = Reference::parse_familiar(text).ok();
                name.is_some_and(|name| name.canonical() == text && name.digest.is_none())
            };
            let tag = Reference::parse_familiar(&text).unwrap().without_digest();
            prop_assert!(super::is_canonical_tag(&tag.canonical()));
            prop_assert_eq!(super::is_canonical_tag(&text), is_canonical_tag(&text));
        }

        #[test]
        fn whatever_is_accepted_reads_back(text in "[aA0./:@_\\[\\]-]{0,12}") {
            let read = Reference::parse_familiar(&text).ok();
            let is_own = read.as_ref().is_some_and(|name| name.canonical() == text && name.digest.is_none());
            prop_assert_eq!(is_canonical_tag(&text), is_own);
            if let Some(name) = read {
                prop_assert_eq!(Reference::parse_familiar(&name.canonical()), Ok(name.clone()));
                prop_assert_eq!(Reference::parse_familiar(&name.familiar()), Ok(name));
            }
        }
    }
}
