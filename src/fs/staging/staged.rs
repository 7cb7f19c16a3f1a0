//! What lies in a workspace on its way to a name: [`StagedFile`], [`ParkedFile`] while it is not open, [`StagedDir`].
//!
//! Whatever is not published goes with its workspace.

use std::fs::File;
use std::path::Path;

use super::{Durability, Workspace};
use crate::fs::dir::Dir;
use crate::fs::error::{Context, Result};

/// A file in a workspace on its way to a name.
#[derive(Debug)]
pub struct StagedFile<'a> {
    pub(super) file: File,
    pub(super) workspace: &'a Workspace,
    pub(super) name: String,
}

impl<'a> StagedFile<'a> {
    /// The open file.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Where it lies until then, for messages.
    pub fn path(&self) -> std::path::PathBuf {
        self.workspace.dir.path_of(&self.name)
    }

    /// Gives it its name, replacing what had it. The caller syncs `into` once all its names are in place.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::fs::Error) if the file system refuses; nothing is visible then.
    pub fn publish(self, into: &Dir, name: impl AsRef<Path>, durability: Durability) -> Result<()> {
        if durability == Durability::Full {
            self.file.sync_all().at_path("sync", || self.path())?;
        }
        self.workspace.dir.rename(&self.name, into, name)
    }

    /// Gives it its name if that is free; otherwise it is returned. The caller syncs `into`.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::fs::Error) if the file system refuses; nothing is visible then.
    pub fn publish_new(
        self,
        into: &Dir,
        name: impl AsRef<Path>,
        durability: Durability,
    ) -> Result<Option<Self>> {
        if durability == Durability::Full {
            self.file.sync_all().at_path("sync", || self.path())?;
        }
        match self.workspace.dir.rename_new(&self.name, into, name) {
            Err(error) if error.is_exists() => Ok(Some(self)),
            done => done.map(|()| None),
        }
    }

    /// Closes the file and keeps it: an operation may stage more files than a process may have open.
    pub fn park(self) -> ParkedFile<'a> {
        ParkedFile { workspace: self.workspace, name: self.name }
    }

    /// Removes it before its workspace goes.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::fs::Error) if it cannot be removed.
    pub fn discard(self) -> Result<()> {
        self.workspace.dir.remove_file(&self.name)
    }
}

/// A file in a workspace that is not open at present.
#[derive(Debug)]
pub struct ParkedFile<'a> {
    workspace: &'a Workspace,
    name: String,
}

impl<'a> ParkedFile<'a> {
    /// Opens it again, for reading and for giving it its name.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::fs::Error) if it cannot be opened.
    pub fn reopen(self) -> Result<StagedFile<'a>> {
        Ok(StagedFile { file: self.open()?, workspace: self.workspace, name: self.name })
    }

    /// Opens it for reading from its start.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::fs::Error) if it cannot be opened.
    pub fn open(&self) -> Result<File> {
        self.workspace.dir.open_file(&self.name)
    }

    /// Where it lies, for messages.
    pub fn path(&self) -> std::path::PathBuf {
        self.workspace.dir.path_of(&self.name)
    }
}

/// A directory in a workspace on its way to a name.
#[derive(Debug)]
pub struct StagedDir<'a> {
    pub(super) dir: Dir,
    pub(super) workspace: &'a Workspace,
    pub(super) name: String,
}

impl StagedDir<'_> {
    /// The open directory.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Gives it its name, which must be free. What is in it is not synced; the caller has done that, or means not to.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::fs::Error) with [`Error::is_exists`](crate::fs::Error::is_exists) if the name is taken, otherwise if the file system refuses. The directory
    /// then stays in the workspace.
    pub fn publish(self, into: &Dir, name: impl AsRef<Path>) -> Result<Dir> {
        self.workspace.dir.rename_new(&self.name, into, name)?;
        Ok(self.dir)
    }

    /// Closes it and keeps it in its workspace, to be given a name later.
    pub fn park(self) -> ParkedDir {
        ParkedDir { name: self.name }
    }

    /// Removes it before its workspace goes.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::fs::Error) if something cannot be removed.
    pub fn discard(self) -> Result<()> {
        self.workspace.dir.remove_all(&self.name)
    }
}

/// A directory in a workspace that is not open at present.
#[derive(Debug)]
pub struct ParkedDir {
    name: String,
}

impl ParkedDir {
    /// Opens it again in `workspace`, which is the one that it is in.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::fs::Error) if it cannot be opened.
    pub fn reopen(self, workspace: &Workspace) -> Result<StagedDir<'_>> {
        Ok(StagedDir { dir: workspace.dir.open_dir(&self.name)?, workspace, name: self.name })
    }
}
