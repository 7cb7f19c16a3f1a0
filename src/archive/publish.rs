//! The last step of loading: verified blobs get their names.

use super::LoadError;
use super::content::Content;
use super::load::{Destination, LoadOptions};
use super::walk::Needed;
use crate::fs::{Context, Durability};

/// Gives everything in `needed`, all of which is pinned, its name, layers first and manifests last, unless it is there.
///
/// # Errors
///
/// [`LoadError`]. Whatever is visible then is whole, refers only to what is visible too, and is collected like anything
/// that no name leads to.
pub(super) fn publish<'w>(
    content: &mut impl Content<'w>,
    needed: &Needed,
    into: &Destination<'w>,
    options: &LoadOptions<'_>,
) -> Result<(), LoadError> {
    let full = options.durability == Durability::Full;
    let mut staged = Vec::new();
    for (digest, size) in needed.bottom_up() {
        if into.blobs.size(&digest)? == Some(size) {
            // Whoever stored it may have been content with less.
            if full {
                into.blobs.open_blob(&digest)?.sync_all().at("sync", into.blobs.path(&digest))?;
            }
            continue;
        }
        if options.is_cancelled() {
            return Err(LoadError::Cancelled);
        }
        let blob = content.stage(&digest, size)?;
        // All bytes before the first name: a disk that is full shows here, when nothing is visible yet.
        staged.push(if full {
            let mut open = blob.reopen()?;
            open.sync()?;
            open.park()
        } else {
            blob
        });
    }
    for blob in staged {
        into.blobs.publish(blob.reopen()?, Durability::Relaxed)?; // synced above
    }
    if full {
        into.blobs.sync()?;
    }
    Ok(())
}
