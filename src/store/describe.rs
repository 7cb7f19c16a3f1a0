//! Errors for programs: [`StoreError::kind`] is one stable word for what went wrong, [`StoreError::facts`] are the things
//! that the message names, each by itself.
//!
//! The word says what a caller would do differently, so it is that of the innermost cause that is known: a layer whose
//! blob is cut short is `truncated`, wherever that was noticed.

use std::io;

use rustix::io::Errno;

use super::cancel::Unwanted;
use super::error::StoreError;
use crate::archive::{LoadError, MissingLayer, SaveError};
use crate::blob::BlobError;
use crate::changeset::ChangesetError;
use crate::codec::CodecError;
use crate::container::{ContainerError, CopyError};
use crate::driver::DriverError;
use crate::fs;
use crate::image::ImageError;
use crate::layer::{DiffError, LayerError, PackError, UnpackError};
use crate::open_files::{self, OpenFiles};

/// A word and what goes with it.
type Described = (&'static str, Facts);
type Facts = Vec<(&'static str, String)>;

macro_rules! facts {
    ($($name:ident),* $(,)?) => { vec![$((stringify!($name), $name.to_string())),*] };
}

impl StoreError {
    /// A short stable word for what went wrong, for programs: `not-found`, `digest-mismatch`, `no-space`, ….
    pub fn kind(&self) -> &'static str {
        self.described().0
    }

    /// What the message names, each by itself: `("expected", "sha256:…")`, `("path", "/…")`, ….
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        self.described().1
    }

    fn described(&self) -> Described {
        let (kind, mut facts) = self.described_alone();
        match OpenFiles::of(self) {
            Some(open_files) => {
                facts.extend(open_files.facts());
                (open_files::KIND, facts)
            }
            None => (kind, facts),
        }
    }

    fn described_alone(&self) -> Described {
        match self {
            Self::NotAStore { path, reason, .. } => ("not-a-store", with_path(path, facts![reason])),
            Self::Occupied { path, reason } => ("occupied", with_path(path, facts![reason])),
            Self::UnknownFormat { path, found } => {
                let expected = format!("version {}", super::layout::VERSION);
                ("unknown-format", with_path(path, facts![expected, found]))
            }
            Self::ReadOnly { path } => ("read-only", with_path(path, facts![])),
            Self::Closed { path, .. } => ("permission", with_path(path, facts![])),
            Self::InUse { container, holders } => {
                let holders = holders.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                ("container-in-use", facts![container, holders])
            }
            Self::Lender { path, reason } => ("not-a-lender", with_path(path, facts![reason])),
            Self::Lent { image, store } => {
                let store = store.display();
                ("lent", facts![image, store])
            }
            Self::Unavailable { container, what, searched, .. } => {
                let searched = searched.join(" ");
                ("unavailable", facts![container, what, searched])
            }
            Self::Index { path, source } => ("damaged", with_path(path, image(source).1)),
            Self::TooManyNames { path, found, limit, maximum } => {
                ("limit", with_path(path, facts![found, limit, maximum]))
            }
            Self::Record { path, .. } => ("damaged", with_path(path, facts![])),
            Self::RecordMissing { path } => ("damaged", with_path(path, facts![])),
            Self::ForeignRecord { path, found } => ("damaged", with_path(path, facts![found])),
            Self::NotFound { what, name } => ("not-found", facts![what, name]),
            Self::Ambiguous { what, name, candidates } => {
                let candidates = candidates.join(" ");
                ("ambiguous", facts![what, name, candidates])
            }
            Self::NameInUse { name, id } => ("name-in-use", facts![name, id]),
            Self::InvalidName { name, reason } => ("invalid-name", facts![name, reason]),
            Self::ImageInUse { image, containers } => {
                let containers = containers.join(" ");
                ("image-in-use", facts![image, containers])
            }
            Self::ImageMounted { image, path } => ("image-mounted", with_path(path, facts![image])),
            Self::SeveralNames { image, names } => {
                let names = names.join(" ");
                ("several-names", facts![image, names])
            }
            Self::FalseDigest { name, digest } => ("invalid-name", facts![name, digest]),
            Self::Mounted { container, path } => ("container-mounted", with_path(path, facts![container])),
            Self::NotABase { image, base } => ("not-a-base", facts![image, base]),
            Self::NoPlatform { image, wanted, .. } => ("no-platform", facts![image, wanted]),
            Self::NotAnImage { name, reason } => ("not-an-image", facts![name, reason]),
            Self::Image { image: digest, source } => {
                let (kind, mut found) = image(source);
                found.push(("image", digest.to_string()));
                (kind, found)
            }
            Self::Time(_) => ("invalid-time", facts![]),
            Self::Change(_) => ("invalid-change", facts![]),
            Self::LayerMissing { key } => ("missing-layer", facts![key]),
            Self::ForeignLayer { digest, media_type, urls } => {
                let mut found = facts![digest, media_type];
                found.push(("urls", urls.join(" ")));
                ("missing-blob", found)
            }
            #[cfg(feature = "registry")]
            Self::Registry(error) => (error.kind(), error.facts()),
            Self::Load(error) => load(error),
            Self::Save(error) => save(error),
            Self::Blob(error) => blob(error),
            Self::Layer(error) => layer(error),
            Self::Container(ContainerError::Driver(error)) | Self::Driver(error) => driver(error),
            Self::Container(ContainerError::Diff(error)) => diff(error),
            Self::Container(ContainerError::Pack(error)) => pack(error),
            Self::Copy(error) => copy(error),
            Self::Cancelled => ("cancelled", facts![]),
            Self::Io(error) => file(error),
        }
    }
}

fn with_path(path: &std::path::Path, mut facts: Facts) -> Facts {
    facts.push(("path", path.display().to_string()));
    facts
}

fn file(error: &fs::Error) -> Described {
    let step = error.step;
    let (kind, _) = system(&error.source);
    (kind, with_path(&error.path, facts![step]))
}

/// An error of the system, or one of ours that had to pass through `Read` or `Write`.
fn system(error: &io::Error) -> Described {
    if let Some(inner) = error.get_ref() {
        if let Some(error) = inner.downcast_ref::<CodecError>() {
            return codec(error);
        }
        if let Some(error) = inner.downcast_ref::<BlobError>() {
            return blob(error);
        }
        if let Some(error) = inner.downcast_ref::<fs::Error>() {
            return file(error);
        }
        #[cfg(feature = "registry")]
        if let Some(error) = inner.downcast_ref::<crate::registry::RegistryError>() {
            return (error.kind(), error.facts());
        }
        if inner.is::<Unwanted>() {
            return ("cancelled", facts![]);
        }
        if inner.is::<fs::NoInodes>() {
            return ("no-inodes", facts![]);
        }
        if let Some(error) = inner.source().and_then(|source| source.downcast_ref::<io::Error>()) {
            return system(error);
        }
    }
    let kind = match Errno::from_io_error(error) {
        Some(Errno::ACCESS | Errno::PERM) => "permission",
        Some(Errno::NOSPC) => "no-space",
        Some(Errno::DQUOT) => "quota",
        Some(Errno::ROFS) => "read-only",
        Some(Errno::NOENT) => "not-found",
        Some(Errno::NOMEM) => "no-memory",
        _ => "io",
    };
    (kind, facts![])
}

fn blob(error: &BlobError) -> Described {
    match error {
        BlobError::Missing { digest } => ("missing-blob", facts![digest]),
        BlobError::DigestMismatch { expected, actual } => ("digest-mismatch", facts![expected, actual]),
        BlobError::SizeMismatch { digest, expected, actual } => {
            ("size-mismatch", facts![digest, expected, actual])
        }
        BlobError::TooLarge { digest, limit } => ("limit", facts![digest, limit]),
        BlobError::NotALayout { path, reason } => ("not-a-layout", with_path(path, facts![reason])),
        BlobError::Source(error) => system(error),
        BlobError::Io(error) => file(error),
    }
}

fn image(error: &ImageError) -> Described {
    match error {
        ImageError::SizeMismatch { digest, expected, actual } => {
            ("size-mismatch", facts![digest, expected, actual])
        }
        ImageError::DigestMismatch { expected, actual } => ("digest-mismatch", facts![expected, actual]),
        ImageError::LayerCount { layers, diff_ids } => ("invalid-image", facts![layers, diff_ids]),
        ImageError::TooLarge { .. }
        | ImageError::TooDeep { .. }
        | ImageError::TooMuchMemory { .. }
        | ImageError::TooMany { .. } => ("limit", facts![]),
        _ => ("invalid-image", facts![]),
    }
}

fn load(error: &LoadError) -> Described {
    match error {
        LoadError::NotAnArchive { found } => ("not-an-archive", facts![found]),
        LoadError::Unsupported { format } => ("unsupported", facts![format]),
        LoadError::Truncated { member, missing } => ("truncated", facts![member, missing]),
        LoadError::Codec(error) => codec(error),
        LoadError::Tar(error) => as_archive(changeset(error)),
        LoadError::Read(error) => system(error),
        LoadError::ImageArchive { member } => ("image-archive", facts![member]),
        LoadError::NotATar { found } => ("not-an-archive", facts![found]),
        LoadError::Write(source) => system(source),
        LoadError::MissingLayers { layers } => {
            let list = |of: fn(&MissingLayer) -> String| layers.iter().map(of).collect::<Vec<_>>().join(" ");
            let members = list(|layer| layer.member.clone());
            let diff_ids = list(|layer| layer.diff_id.to_string());
            ("missing-layers", facts![members, diff_ids])
        }
        LoadError::MissingMember { member, wanted_by } => ("missing-member", facts![member, wanted_by]),
        LoadError::DuplicateManifest { member } => ("invalid-archive", facts![member]),
        LoadError::Link { member, target, reason } => ("invalid-archive", facts![member, target, reason]),
        LoadError::DigestMismatch { member, expected, actual } => {
            ("digest-mismatch", facts![member, expected, actual])
        }
        LoadError::SizeMismatch { member, expected, actual } => {
            ("size-mismatch", facts![member, expected, actual])
        }
        LoadError::DiffIdMismatch { member, expected, actual } => {
            ("diff-id-mismatch", facts![member, expected, actual])
        }
        LoadError::InvalidTag { member, tag, .. } => ("invalid-name", facts![member, tag]),
        LoadError::Image { member, source } => {
            let (kind, mut found) = image(source);
            found.push(("member", member.clone()));
            (kind, found)
        }
        LoadError::NoPlatform { member, wanted, .. } => ("no-platform", facts![member, wanted]),
        LoadError::Fetch { digest, source } => {
            let (kind, mut found) = system(source);
            found.push(("digest", digest.to_string()));
            (kind, found)
        }
        LoadError::Layout { reason } => ("not-a-layout", facts![reason]),
        LoadError::NoImage { member } => ("no-image", facts![member]),
        LoadError::Limit { member, limit, maximum } => ("limit", facts![member, limit, maximum]),
        LoadError::Cancelled => ("cancelled", facts![]),
        LoadError::Blob(error) => blob(error),
        LoadError::Io(error) => file(error),
    }
}

fn save(error: &SaveError) -> Described {
    match error {
        SaveError::NoImage => ("no-image", facts![]),
        SaveError::Image { image, source } => {
            let (kind, mut found) = load(source);
            found.push(("image", image.to_string()));
            (kind, found)
        }
        SaveError::NoPlatform { image, wanted, .. } => ("no-platform", facts![image, wanted]),
        SaveError::NotForDocker { target } => ("not-an-image", facts![target]),
        SaveError::NotInDocker { document, what } => ("not-in-docker", facts![document, what]),
        SaveError::ClosedLayer { layer, media_type } => ("unsupported", facts![layer, media_type]),
        SaveError::Layer { layer, source } => {
            let (kind, mut found) = load(source);
            found.push(("layer", layer.to_string()));
            (kind, found)
        }
        SaveError::NoWorkspace => ("read-only", facts![]),
        SaveError::Blob(error) => blob(error),
        SaveError::Write(error) => changeset(error),
        SaveError::NotALayout { path } => ("not-a-layout", with_path(path, facts![])),
        #[cfg(feature = "ocidir")]
        SaveError::ExternalBlobs { path, blobs } => {
            let blobs = blobs.display();
            ("not-a-layout", with_path(path, facts![blobs]))
        }
        SaveError::Index { path, source } => {
            let (kind, found) = image(source);
            (kind, with_path(path, found))
        }
        SaveError::TooManyNames { document, limit, .. } => ("limit", facts![document, limit]),
        SaveError::AbsentPlatforms { image, absent } => {
            let absent = absent.join(" ");
            ("absent-platforms", facts![image, absent])
        }
        SaveError::Deliver { digest, source } => {
            let (kind, mut found) = system(source);
            found.push(("digest", digest.to_string()));
            (kind, found)
        }
        SaveError::Cancelled => ("cancelled", facts![]),
        SaveError::Io(error) => file(error),
    }
}

fn layer(error: &LayerError) -> Described {
    match error {
        LayerError::Open { diff_id, blob, source } => (system(source).0, facts![diff_id, blob]),
        LayerError::Unpack { diff_id, source } => {
            let (kind, mut found) = unpack(source);
            found.push(("layer", diff_id.to_string()));
            (kind, found)
        }
        LayerError::Gone { key } => ("missing-layer", facts![key]),
        LayerError::Record { path, .. } => ("damaged", with_path(path, facts![])),
        LayerError::Io(error) => file(error),
        LayerError::Cancelled => ("cancelled", facts![]),
    }
}

fn unpack(error: &UnpackError) -> Described {
    match error {
        UnpackError::DiffIdMismatch { expected, actual, bytes } => {
            ("diff-id-mismatch", facts![expected, actual, bytes])
        }
        UnpackError::Blob(error) => system(error),
        UnpackError::Tar(error) => changeset(error),
        UnpackError::Link { path, target, reason, .. } => ("invalid-layer", facts![path, target, reason]),
        UnpackError::WhiteoutDevice { path, .. } | UnpackError::Device { path, .. } => {
            ("invalid-layer", facts![path])
        }
        UnpackError::Place { path, reason, .. } => ("invalid-layer", facts![path, reason]),
        UnpackError::Io(error) => file(error),
        UnpackError::Cancelled => ("cancelled", facts![]),
    }
}

fn changeset(error: &ChangesetError) -> Described {
    match error {
        ChangesetError::Truncated { name, missing, .. } => ("truncated", facts![name, missing]),
        ChangesetError::Limit { name, limit, maximum, .. } => ("limit", facts![name, limit, maximum]),
        ChangesetError::ReservedName { path } => ("reserved-name", facts![path]),
        ChangesetError::Read { source, .. } | ChangesetError::Write { source, .. } => system(source),
        _ => ("invalid-layer", facts![]),
    }
}

fn codec(error: &CodecError) -> Described {
    match error {
        CodecError::Truncated { position, .. } => ("truncated", facts![position]),
        CodecError::Expansion { compressed, limit, .. }
        | CodecError::Zeros { compressed, limit, .. }
        | CodecError::EmptyParts { compressed, limit, .. }
        | CodecError::Idle { compressed, limit, .. } => ("limit", facts![compressed, limit]),
        CodecError::Level { level, .. } => ("unsupported", facts![level]),
        _ => ("corrupt", facts![]),
    }
}

fn driver(error: &DriverError) -> Described {
    match error {
        DriverError::Refused { kind: driver, reason } => ("driver-refused", facts![driver, reason]),
        DriverError::TooManyLayers { layers, limit } => ("too-many-layers", facts![layers, limit]),
        DriverError::Mounted { source_name, path } => ("mounted", with_path(path, facts![source_name])),
        DriverError::InUse { path, .. } => ("in-use", with_path(path, facts![])),
        DriverError::NotMounted { source_name, path, .. } => {
            ("not-mounted", with_path(path, facts![source_name]))
        }
        DriverError::Busy { path, .. } => ("busy", with_path(path, facts![])),
        DriverError::Server { path, what, .. } => ("server", with_path(path, facts![what])),
        DriverError::Volatile { path } => ("volatile", with_path(path, facts![])),
        DriverError::ForeignMarks { path, .. } => ("foreign-marks", with_path(path, facts![])),
        DriverError::Record { path, reason } => ("damaged", with_path(path, facts![reason])),
        DriverError::MountTable { path, line, .. } => ("io", with_path(path, facts![line])),
        DriverError::Kernel { step, path, source, .. } => (system(source).0, with_path(path, facts![step])),
        DriverError::Io(error) => file(error),
    }
}

fn diff(error: &DiffError) -> Described {
    match error {
        DiffError::Mark { path, mark } => ("foreign-marks", facts![path, mark]),
        DiffError::Io(error) => file(error),
    }
}

fn copy(error: &CopyError) -> Described {
    match error {
        CopyError::NotFound { path } => ("not-found", with_path(path, facts![])),
        CopyError::NotADirectory { path } => ("not-a-directory", with_path(path, facts![])),
        CopyError::TooManyLinks { path } => ("too-many-links", with_path(path, facts![])),
        CopyError::Replace { path, found, wanted } => ("other-kind", with_path(path, facts![found, wanted])),
        CopyError::Special { path, found } => ("other-kind", with_path(path, facts![found])),
        CopyError::Disturbed { path } => ("disturbed", with_path(path, facts![])),
        CopyError::Changed { path, reason } => ("changed-while-read", with_path(path, facts![reason])),
        CopyError::Name { path, .. } => ("invalid-path", with_path(path, facts![])),
        CopyError::Read(error) => system(error),
        CopyError::Tar(error) => as_archive(changeset(error)),
        CopyError::Unpack(error) => as_archive(unpack(error)),
        CopyError::Pack(error) => pack(error),
        CopyError::Io(error) => file(error),
    }
}

/// What is wrong with a tar that is no layer.
fn as_archive((kind, facts): Described) -> Described {
    (if kind == "invalid-layer" { "invalid-archive" } else { kind }, facts)
}

fn pack(error: &PackError) -> Described {
    match error {
        PackError::Diff(error) => diff(error),
        PackError::Changeset(error) => changeset(error),
        PackError::SizeChanged { path, expected, found } => {
            ("changed-while-read", facts![path, expected, found])
        }
        PackError::Replaced { path } => ("changed-while-read", facts![path]),
        PackError::WhiteoutDevice { path } => ("invalid-layer", facts![path]),
        PackError::Io(error) => file(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{DiffId, Digest};

    #[test]
    fn the_word_is_that_of_the_innermost_cause() {
        let [one, two] = [b"1", b"2"].map(Digest::of);
        let inside = io::Error::other(CodecError::Truncated {
            compression: crate::codec::Compression::Gzip,
            position: 7,
            inside: "a header",
        });
        let source = UnpackError::Blob(inside);
        let error = StoreError::Layer(LayerError::Unpack { diff_id: DiffId::of_tar(one), source });
        assert_eq!(error.kind(), "truncated");
        assert!(error.facts().contains(&("layer", one.to_string())));
        let error =
            StoreError::from(LoadError::from(BlobError::DigestMismatch { expected: one, actual: two }));
        assert_eq!(error.kind(), "digest-mismatch");
        assert_eq!(error.facts(), [("expected", one.to_string()), ("actual", two.to_string())]);
        let full = fs::Error::new("write", "/x", Errno::NOSPC);
        assert_eq!(StoreError::from(LoadError::from(full)).kind(), "no-space");
    }
}
