//! OCI directories with many small images and one with many layers, or with one image of many files.

use std::path::Path;

use super::Result;
use super::layout::{Layout, layer};

/// A file of the image that [`write_large`] makes.
pub(crate) const FIRST: &str = "dir0000/file0000";

/// Writes `images` images of one layer each, all different: `bench/image-<n>:1`; and `bench/tall:1`, of `layers` layers.
pub(crate) fn write(directory: &Path, images: usize, layers: usize) -> Result<()> {
    let mut layout = Layout::begin(directory)?;
    for number in 0..images {
        let layer = layer(&format!("image{number}"), 1, 2)?;
        layout.image(&format!("docker.io/bench/image-{number}:1"), "", &[layer])?;
    }
    let layers =
        (0..layers).map(|number| layer(&format!("layer{number}"), 1, 2)).collect::<Result<Vec<_>>>()?;
    layout.image("docker.io/bench/tall:1", "", &layers)?;
    layout.finish()
}

/// Writes one image of `files` files in one layer, up to a thousand in a directory.
pub(crate) fn write_large(directory: &Path, files: usize) -> Result<()> {
    let mut layout = Layout::begin(directory)?;
    let layer = layer("dir", files.div_ceil(1000), files.min(1000))?;
    layout.image("docker.io/bench/large:1", "", &[layer])?;
    layout.finish()
}
