//! [`StoreError`]: everything that an operation on a store can fail with.

use std::path::PathBuf;

use crate::archive::{LoadError, SaveError};
use crate::blob::BlobError;
use crate::container::{ContainerError, CopyError};
use crate::digest::Digest;
use crate::driver::{DriverError, Holder};
use crate::fs;
use crate::image::time::TimeError;
use crate::image::{ChangeError, ImageError, MediaType, Platform, Reference};
use crate::layer::{LayerError, LayerKey};
use crate::text::quotation;

/// An operation on a store failed. Nothing half-made is visible after any of these.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The directory is not a store.
    #[error("{path:?} is not a store: {reason}")]
    NotAStore {
        /// The directory.
        path: PathBuf,
        /// What is missing or wrong.
        reason: String,
        /// Whether there is nothing, or nothing but what somebody has who is just making a store, so that one can be made.
        is_blank: bool,
    },
    /// A new store was wanted where something is.
    #[error("cannot make a store in {path:?}: {reason}")]
    Occupied {
        /// The directory.
        path: PathBuf,
        /// What is there.
        reason: &'static str,
    },
    /// The store was made by a newer version of this crate, or by something else.
    #[error("the store in {path:?} has {found}, which this version does not know (it knows version {known})", known = super::layout::VERSION)]
    UnknownFormat {
        /// The directory.
        path: PathBuf,
        /// The version or feature that is not known.
        found: String,
    },
    /// The store is read-only.
    #[error("the store in {path:?} is read-only")]
    ReadOnly {
        /// The directory.
        path: PathBuf,
    },
    /// The store belongs to another user, who has not opened it to others.
    #[error(
        "the store in {path:?} is closed to this user: its owner has not shared it \
         (plywood --shared, StoreOptions::shared, or chmod 755 on the directory)"
    )]
    Closed {
        /// The directory of the store.
        path: PathBuf,
        /// The directory or file that cannot be opened, and the reason.
        source: fs::Error,
    },
    /// A store that was to lend its images must not.
    #[error("the store in {path:?} cannot lend its images: {reason}")]
    Lender {
        /// The directory that was named.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// The image belongs to another store, which lends it. It can be used, and not changed.
    #[error("image {image} belongs to the store in {store:?}, which only lends it")]
    Lent {
        /// The image's name or id.
        image: String,
        /// The store that it belongs to.
        store: PathBuf,
    },
    /// Something that a container needs is in none of the stores: most likely another store lent it that is not named
    /// now, or gave it up.
    #[error("container {container} needs {what}, which is in none of {}", searched.join(", "))]
    Unavailable {
        /// The container's name.
        container: String,
        /// The layer or the blob.
        what: String,
        /// The stores, with the reason where nothing of one can be used.
        searched: Vec<String>,
        /// What was tried last.
        source: Box<StoreError>,
    },
    /// `index.json` is damaged.
    #[error("cannot read the names in {path:?}")]
    Index {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ImageError,
    },
    /// The list of names would become longer than a limit allows. Nothing was changed.
    #[error(
        "{path:?} would have {found} {}, and the limit `{limit}` is {maximum}: take away names or images first \
         (plywood untag, plywood rmi, plywood image prune), or open the store with a higher limit",
        if *limit == "images" { "names and images without a name" } else { "bytes" }
    )]
    TooManyNames {
        /// The `index.json` of the store.
        path: PathBuf,
        /// The entries or bytes that it would have.
        found: u64,
        /// The limit: `images` or `list_bytes` of [`Limits`](crate::limits::Limits).
        limit: &'static str,
        /// Its value.
        maximum: u64,
    },
    /// A record of this store is damaged.
    #[error("cannot read the record {path:?}")]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A container has no record.
    #[error("the record {path:?} is missing")]
    RecordMissing {
        /// The file.
        path: PathBuf,
    },
    /// A container has the record of another.
    #[error("the record {path:?} is that of container {found}")]
    ForeignRecord {
        /// The file.
        path: PathBuf,
        /// The id in it.
        found: String,
    },
    /// There is no such image or container.
    #[error("there is no {what} {name:?}")]
    NotFound {
        /// `image` or `container`.
        what: &'static str,
        /// What was asked for.
        name: String,
    },
    /// A prefix of an id begins more than one.
    #[error("{name:?} is the beginning of more than one {what}: {}", candidates.join(", "))]
    Ambiguous {
        /// `image` or `container`.
        what: &'static str,
        /// What was asked for.
        name: String,
        /// Everything that it may mean.
        candidates: Vec<String>,
    },
    /// A container of that name exists.
    #[error("the name {name:?} is used by container {id}")]
    NameInUse {
        /// The name.
        name: String,
        /// The container that has it.
        id: String,
    },
    /// That is no name for a container.
    #[error("{name:?} cannot be the name of a container: {reason}")]
    InvalidName {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The image cannot be removed, because containers use it.
    #[error("image {image} is used by {}", containers.join(", "))]
    ImageInUse {
        /// The image's id.
        image: Digest,
        /// Names of the containers.
        containers: Vec<String>,
    },
    /// The image cannot be removed, because somebody looks at it.
    #[error("image {image} is mounted at {path:?}")]
    ImageMounted {
        /// The image's id.
        image: Digest,
        /// Where its view is.
        path: PathBuf,
    },
    /// The image has several names and was not named by one of them.
    #[error("image {image} has several names: {}", names.join(", "))]
    SeveralNames {
        /// The image's id.
        image: Digest,
        /// The names.
        names: Vec<String>,
    },
    /// A name has another digest than the image that is to get it.
    #[error("{} cannot be a name of the image with the digest {digest}", name.familiar())]
    FalseDigest {
        /// The name.
        name: Reference,
        /// The digest of the image: of its manifest, or of the index that lists it.
        digest: Digest,
    },
    /// The container is mounted and must not be for this.
    #[error("container {container} is mounted at {path:?}")]
    Mounted {
        /// The container's name or id.
        container: String,
        /// Where.
        path: PathBuf,
    },
    /// A process uses the container, which is not mounted.
    #[error("container {container} is in use{}", used_by(holders))]
    InUse {
        /// The container's name or id.
        container: String,
        /// The processes, as far as they can be found.
        holders: Vec<Holder>,
    },
    /// What the name points at is no image that could be run.
    #[error("{name} is not an image with a root file system: {reason}")]
    NotAnImage {
        /// The name or digest.
        name: String,
        /// What it is.
        reason: String,
    },
    /// The image is not made on the other one: the layers of that are not its lowest.
    #[error("image {image} is not made on {base}, whose layers it should begin with")]
    NotABase {
        /// The image's name or id.
        image: String,
        /// The name or id of what should be its base.
        base: String,
    },
    /// The image is for other platforms.
    #[error("image {image} is not here for {wanted}, but for {}", found.iter().map(Platform::to_string).collect::<Vec<_>>().join(", "))]
    NoPlatform {
        /// The image's name or id.
        image: String,
        /// The platform that was asked for.
        wanted: Platform,
        /// Those that it is here for.
        found: Vec<Platform>,
    },
    /// A document of an image is damaged or missing a part.
    #[error("image {image} cannot be used")]
    Image {
        /// The digest that was asked for.
        image: Digest,
        /// What is wrong.
        source: ImageError,
    },
    /// A time cannot be recorded.
    #[error("the time cannot be recorded")]
    Time(#[source] TimeError),
    /// The config cannot be changed like that.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// An image cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// An image cannot be saved.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// A registry does not give or take something.
    #[cfg(feature = "registry")]
    #[error(transparent)]
    Registry(#[from] crate::registry::RegistryError),
    /// A blob is missing, damaged or cannot be written.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// A layer cannot be unpacked.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// What a container changed cannot be told, or its content not be written.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// Something cannot be copied in or out of a container.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// A layer that is needed is not there and cannot be made again.
    #[error("layer {key} is missing")]
    LayerMissing {
        /// The layer.
        key: LayerKey,
    },
    /// An image has a layer of a type that must not be passed on (nondistributable, or foreign), and neither the store nor
    /// the source of the image has that layer.
    #[error(
        "layer {digest} is not here, and the source of the image does not have it: its type {media_type} must not be \
         passed on, and {}",
        places(urls)
    )]
    ForeignLayer {
        /// The blob of the layer.
        digest: Digest,
        /// The type of the layer.
        media_type: MediaType,
        /// The places from which the image says that the layer can be downloaded.
        urls: Vec<String>,
    },
    /// A root cannot be made, mounted or unmounted.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The caller wished to stop.
    #[error("it was cancelled")]
    Cancelled,
    /// The file system refused one step.
    #[error(transparent)]
    Io(#[from] fs::Error),
}

/// Says from where a layer can be downloaded. The manifest's author wrote the URLs.
fn places(urls: &[String]) -> String {
    const MOST: usize = 5;
    if urls.is_empty() {
        return "the image names no other place for it".to_owned();
    }
    let quoted = |url: &String| format!("{:?}", quotation(url));
    let shown = urls.iter().take(MOST).map(quoted).collect::<Vec<_>>().join(", ");
    match urls.len().saturating_sub(MOST) {
        0 => format!("it can be downloaded from {shown}"),
        more => format!("it can be downloaded from {shown}, and {more} more places"),
    }
}

/// Says which processes use something.
fn used_by(holders: &[Holder]) -> String {
    match holders {
        [] => " by a process that this user cannot see".to_owned(),
        _ => format!(" by {}", holders.iter().map(Holder::to_string).collect::<Vec<_>>().join(", ")),
    }
}

impl StoreError {
    /// Whether there is no room on the disk.
    pub(super) fn is_no_space(&self) -> bool {
        matches!(self.kind(), "no-space" | "no-inodes" | "quota")
    }

    /// Whether this says that the content of an image is not what it should be, and not that this process cannot get at
    /// it.
    pub(super) fn is_damage(&self) -> bool {
        use BlobError::{DigestMismatch, Missing, SizeMismatch, TooLarge};
        match self {
            Self::Image { .. } | Self::NotAnImage { .. } => true,
            Self::Blob(blob) => {
                matches!(blob, Missing { .. } | DigestMismatch { .. } | SizeMismatch { .. } | TooLarge { .. })
            }
            _ => false,
        }
    }

    /// Whether this says that something in the store is damaged: also that the disk cannot read it, but not that this
    /// process may not, or lacks memory, open files or room.
    pub(super) fn says_damage(&self) -> bool {
        if self.is_damage() {
            return true;
        }
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        let mut is_ours = false;
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<fs::Error>() {
                return error.is_damage() || error.is_other_kind();
            }
            if let Some(error) = error.downcast_ref::<std::io::Error>()
                && let Some(errno) = error.raw_os_error()
            {
                return fs::is_damage(rustix::io::Errno::from_raw_os_error(errno));
            }
            is_ours |= error.is::<crate::layer::UnpackError>();
            cause = error.source();
        }
        // A layer that cannot be read though the system reads every byte.
        is_ours
    }

    /// Whether this says of one record that it cannot be used, and not that nothing can be read at present.
    pub(super) fn is_damaged_record(&self) -> bool {
        use rustix::io::Errno;
        match self {
            Self::Record { .. } | Self::RecordMissing { .. } | Self::ForeignRecord { .. } => true,
            Self::Io(error) => !matches!(error.errno(), Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM)),
            _ => false,
        }
    }
}
