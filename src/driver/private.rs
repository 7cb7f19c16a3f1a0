//! What the drivers that stack directories keep in the private directory of a root, and how it is filled.
//!
//! ```text
//! <dir>/
//!     root.json           see `record.rs`
//!     upper/ work/        what was changed, and scratch space of whoever stacks; of a writable root
//!     top/                an empty directory with the root's metadata; of a read-only root
//!     bottom/             stands for the layers where there are none
//!     merged/             where the root is mounted unless another place is named
//! ```

use std::path::Path;

use super::error::DriverError;
use super::record::Record;
use super::{Access, Prepared, RootSpec};
use crate::fs::{Dir, Durability, FileType, duplicate};
use crate::path::LayerPath;
use crate::stack::object::{self, Style};

pub(super) const UPPER: &str = "upper";
pub(super) const WORK: &str = "work";
pub(super) const MERGED: &str = "merged";
pub(super) const TOP: &str = "top";
pub(super) const BOTTOM: &str = "bottom";

/// Fills the private directory of a new root.
pub(super) fn fill(
    spec: &RootSpec<'_>,
    style: Style,
    record: Option<&Record>,
) -> Result<Prepared, DriverError> {
    let mut prepared = Prepared::default();
    match spec.options.access {
        Access::Writable => {
            make_root(spec, UPPER, style, &mut prepared)?;
            spec.dir.create_private_dir(WORK)?;
        }
        Access::ReadOnly => make_root(spec, TOP, style, &mut prepared)?,
    }
    if let Some(record) = record {
        record.write(spec.dir, spec.options.durability)?;
    }
    if spec.layers.is_empty() {
        spec.dir.make_dir(BOTTOM, 0o755)?;
    }
    spec.dir.create_private_dir(MERGED)?;
    if spec.options.durability == Durability::Full {
        if spec.options.access == Access::Writable {
            spec.dir.open_dir(UPPER)?.sync()?;
        }
        spec.dir.sync()?;
    }
    Ok(prepared)
}

/// Fills the private directory of a new root with what was changed in the one in `from`, which nobody uses.
pub(super) fn fill_from(spec: &RootSpec<'_>, from: &Dir, record: &Record) -> Result<(), DriverError> {
    spec.dir.create_private_dir(UPPER)?;
    let upper = spec.dir.open_dir(UPPER)?;
    duplicate::<DriverError>(&from.open_dir(UPPER)?, &upper, &mut |_| Ok(()))?;
    for (name, mode) in [(WORK, 0o700), (MERGED, 0o700), (BOTTOM, 0o755)] {
        if name != BOTTOM || spec.layers.is_empty() {
            spec.dir.make_dir(name, mode)?;
        }
    }
    record.write(spec.dir, spec.options.durability)?;
    if spec.options.durability == Durability::Full {
        // One sync of everything is far cheaper than one for each file.
        spec.dir.sync_file_system()?;
    }
    Ok(())
}

/// Makes the directory `name` look like the root of the stack.
fn make_root(
    spec: &RootSpec<'_>,
    name: &str,
    style: Style,
    prepared: &mut Prepared,
) -> Result<(), DriverError> {
    let (path, kind) = (Path::new(name), FileType::Directory);
    let metadata = spec.layers.root_metadata()?;
    let mut lose = |loss| prepared.losses.push(loss);
    object::create(spec.dir, path, &kind)?;
    object::set_metadata(spec.dir, path, &kind, &metadata, style, &mut lose, &LayerPath::ROOT)?;
    Ok(())
}
