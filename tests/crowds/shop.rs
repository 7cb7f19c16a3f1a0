//! Images to load, and what roots made of them show.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::image::{Compression, Layout, image};
use crate::common::tar::{Tar, tar};

/// Some files of a root by their paths.
pub type Files = BTreeMap<String, String>;

/// An image in a file.
pub struct Archive {
    pub path: PathBuf,
    /// The name that it comes with.
    pub name: String,
    /// The id that it has, wherever it is loaded.
    pub id: String,
    pub files: Files,
}

/// Images that share their base. One of them has a layer that leans on it, in two ways.
pub fn archives(dir: &Path) -> Vec<Archive> {
    (0..4).map(|number| archive(dir, number)).collect()
}

fn base() -> Tar {
    let files = (0..60).fold(tar().dir("base"), |tar, number| {
        tar.file(format!("base/{number}"), format!("{number} ").repeat(40 * number))
    });
    files.file("base/large", vec![7; 200_000])
}

fn archive(dir: &Path, number: usize) -> Archive {
    let own = format!("of {number}");
    let top = match number {
        3 => tar().link("base/second-name", "base/1").file("undeclared/file", &own),
        _ => tar().dir("own").file("own/file", &own).whiteout(format!("base/{number}")),
    };
    let name = format!("app-{number}:1");
    let spec = image()
        .compressed(base().finish(), Compression::Gzip)
        .compressed(top.finish(), if number == 1 { Compression::None } else { Compression::Zstd })
        .name(&format!("docker.io/library/{name}"));
    let layout = Layout::of(&spec);
    let path = dir.join(format!("{number}.tar"));
    fs::write(&path, layout.oci_archive()).unwrap();
    let shown = if number == 3 { "undeclared/file" } else { "own/file" };
    let files = [(shown.to_owned(), own), ("base/5".to_owned(), "5 ".repeat(200))].into();
    Archive { path, name, id: layout.images[0].config.clone(), files }
}
