//! A changeset as a directory: what a layer is between its tar and the stack it becomes a part of.

mod abilities;
mod base;
mod bind;
mod check;
mod crew;
mod diff;
mod early;
mod ensure;
mod flatten;
mod key;
mod known;
mod lent;
mod measure;
mod merge;
mod pack;
mod record;
mod replaced;
mod store;
mod unpack;
mod verify;
mod xattrs;

pub use abilities::Abilities;
pub use base::agree;
pub use check::{Condition, Verdict, blob_differences, merged_differences};
pub use diff::{
    Change, ChangeKind, CopyRecord, Diff, DiffEntry, DiffError, DiffEvent, EntryChange, Selection,
};
pub use early::{Begin, Coming, Early};
pub use ensure::{EnsureOptions, Ensured, LayerSource, Made, OpenBlob, Progress};
pub use flatten::{flatten, flatten_part};
pub use key::{LayerKey, LayerKeyError};
pub use lent::LentLayers;
pub use measure::Measure;
pub use merge::{MOST_STACKED, Stacking};
pub use pack::{PackError, PackOptions, Packed, SparseFiles, pack, pack_directory};
pub use record::{Assumed, Families, Form, HighestIds, LostItem, LostItems, Record, RecordError};
pub use replaced::Replaced;
pub use store::{Layer, LayerError, LayerStore};
pub use unpack::{Below, BelowLink, Losses, UnpackError, UnpackOptions, Unpacked, unpack, unpack_layer};
pub use verify::{Difference, differences, layer_differences};
pub use xattrs::XattrPolicy;
