//! What the file system takes for the same, by the fewest calls: no lock, no digest, no JSON.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::Result;

/// The files of a store, and a directory of our own beside it.
pub(crate) struct Floor {
    store: PathBuf,
    scratch: PathBuf,
    /// Waits for the disk as the product does.
    sync: bool,
}

impl Floor {
    pub(crate) fn new(store: &Path, scratch: &Path, sync: bool) -> Result<Self> {
        let scratch = scratch.join("floor");
        fs::create_dir_all(scratch.join("containers"))?;
        fs::create_dir_all(scratch.join("names"))?;
        Ok(Self { store: store.to_owned(), scratch, sync })
    }

    pub(crate) fn index(&self) -> Result<Vec<u8>> {
        Ok(fs::read(self.store.join("oci/index.json"))?)
    }

    /// Replaces a file of the size of `index.json`.
    pub(crate) fn replace(&self, content: &[u8]) -> Result<()> {
        self.put(content, &self.scratch.join("index.json"))
    }

    /// A file with this content, in one step.
    fn put(&self, content: &[u8], path: &Path) -> Result<()> {
        let staged = self.scratch.join("staged");
        let mut file = File::create(&staged)?;
        file.write_all(content)?;
        if self.sync {
            file.sync_all()?;
        }
        fs::rename(staged, path)?;
        self.settle(path.parent().ok_or("no directory")?)
    }

    fn settle(&self, directory: &Path) -> Result<()> {
        if self.sync {
            File::open(directory)?.sync_all()?;
        }
        Ok(())
    }

    /// A directory with a record and the three directories of a root, and a file that leads there.
    pub(crate) fn create(&self, number: usize) -> Result<()> {
        let (staged, name) = (self.scratch.join("staging"), number.to_string());
        fs::create_dir(&staged)?;
        for directory in ["upper", "work", "merged"] {
            fs::create_dir(staged.join(directory))?;
        }
        let mut record = File::create(staged.join("container.json"))?;
        record.write_all(&[b' '; 1000])?;
        if self.sync {
            record.sync_all()?;
        }
        self.settle(&staged)?;
        self.put(b"id", &self.scratch.join("names").join(&name))?;
        fs::rename(staged, self.scratch.join("containers").join(name))?;
        self.settle(&self.scratch.join("containers"))
    }

    /// Takes away what `create` made.
    pub(crate) fn remove(&self, number: usize) -> Result<()> {
        let rubbish = self.scratch.join("rubbish");
        fs::rename(self.scratch.join("containers").join(number.to_string()), &rubbish)?;
        self.settle(&self.scratch.join("containers"))?;
        fs::remove_file(self.scratch.join("names").join(number.to_string()))?;
        Ok(fs::remove_dir_all(rubbish)?)
    }

    /// Reads the record of every container.
    pub(crate) fn records(&self) -> Result<usize> {
        let mut bytes = 0;
        for entry in fs::read_dir(self.store.join("containers"))? {
            bytes += fs::read(entry?.path().join("container.json"))?.len();
        }
        Ok(bytes)
    }

    /// Looks how long every blob is.
    pub(crate) fn blobs(&self) -> Result<u64> {
        let mut bytes = 0;
        for entry in fs::read_dir(self.store.join("oci/blobs/sha256"))? {
            bytes += entry?.metadata()?.len();
        }
        Ok(bytes)
    }
}
