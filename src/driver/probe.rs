//! [`Probe`]: what this process can do in the store's own directory, found out by doing it.
//!
//! Success of a mount proves little: in a user namespace an overlay with the wrong attributes mounts and then fails to
//! delete a directory. So the trial works in the mount as a container would. It is made without ever being attached,
//! so that nothing stays mounted, however the process ends.

use std::fmt;
use std::io::{Read, Write};
use std::path::Path;

use rustix::io::Errno;

use super::error::DriverError;
use super::{
    CopyDriver, Driver, DriverKind, FuseDriver, OverlayDriver, RootOptions, RootSpec, fuse, mount_api,
};
use crate::fs::{Context, Dir, Durability, Error, Optional};
use crate::stack::marks::{Families, Marks};
use crate::stack::{Stack, Tree};

/// Why a driver is not used: everything that an error had to say, in one line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal(pub String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Refusal {
    /// `scratch` is where it was tried; nobody is helped by its name, which is gone by then.
    fn from_error(error: &dyn std::error::Error, scratch: &Dir) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        let scratch = scratch.path_of("").display().to_string();
        Self(text.replace(&format!("{scratch:?}"), "in the store").replace(&format!("{scratch}/"), ""))
    }
}

/// What was found out. Prints as one line that explains the choice.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Probe {
    /// Whether overlayfs works here, with everything that a container does.
    pub overlay: Result<(), Refusal>,
    /// Whether a userspace union file system works here.
    pub fuse: Result<(), Refusal>,
    /// Whether extended attributes can hold the marks of layers.
    pub attributes: Result<(), Refusal>,
    /// The families of marks that this process can write.
    pub families: Families,
    /// Whether this process is above permission checks on its own files.
    pub privileged: bool,
    /// Whether a copy of a file can share its blocks.
    pub reflink: bool,
    /// The best driver that works.
    pub chosen: DriverKind,
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Err(refusal) = &self.attributes {
            write!(f, "attributes: refused, {refusal}; ")?;
        }
        for (kind, outcome) in [(DriverKind::Overlay, &self.overlay), (DriverKind::Fuse, &self.fuse)] {
            if self.chosen == kind {
                write!(f, "{kind}: a trial mount did all that a container does; ")?;
                break;
            }
            if let Err(refusal) = outcome {
                write!(f, "{kind}: refused, {refusal}; ")?;
            }
        }
        write!(f, "using {}", self.chosen)?;
        match (self.chosen, self.families) {
            (DriverKind::Overlay, Families::User) => f.write_str(" with userxattr"),
            (DriverKind::Copy, _) if self.reflink => f.write_str(" with reflinks"),
            _ => Ok(()),
        }
    }
}

impl Probe {
    /// Tries everything in `scratch`, a directory of the file system in question, and removes what it made there.
    ///
    /// # Errors
    ///
    /// [`DriverError`] if `scratch` cannot be worked in at all; what is merely not possible is part of the result.
    pub fn run(scratch: &Dir) -> Result<Self, DriverError> {
        let name = format!("probe-{}", crate::fs::unique_name()?);
        scratch.create_dir(&name, 0o700)?;
        let probe = scratch.open_dir(&name).map_err(DriverError::from).and_then(|dir| Self::run_in(&dir));
        let removed = scratch.remove_all(&name);
        let probe = probe?;
        removed?;
        Ok(probe)
    }

    fn run_in(dir: &Dir) -> Result<Self, DriverError> {
        let privileged = is_privileged(dir)?;
        let reflink = can_reflink(dir)?;
        let (families, attributes) = attributes(dir)?;
        let overlay = match &attributes {
            Ok(()) => overlay_trial(dir, families, privileged),
            Err(_) => Err(Refusal("extended attributes are needed".to_owned())),
        };
        let fuse = Err(Refusal(fuse::REASON.to_owned()));
        let chosen = if overlay.is_ok() { DriverKind::Overlay } else { DriverKind::Copy };
        Ok(Self { overlay, fuse, attributes, families, privileged, reflink, chosen })
    }

    /// The driver `kind`, or the chosen one.
    ///
    /// # Errors
    ///
    /// [`DriverError::Refused`] with the reason if it does not work here.
    pub fn driver(&self, kind: Option<DriverKind>) -> Result<Box<dyn Driver>, DriverError> {
        let kind = kind.unwrap_or(self.chosen);
        let outcome = match kind {
            DriverKind::Overlay => &self.overlay,
            DriverKind::Fuse => &self.fuse,
            DriverKind::Copy => &Ok(()),
        };
        match outcome {
            Ok(()) => Ok(self.driver_anyway(kind)),
            Err(refusal) => Err(DriverError::Refused { kind, reason: refusal.0.clone() }),
        }
    }

    /// The driver `kind`, whether or not it can mount here: for what needs no mount, such as reading what changed in a
    /// root or removing one that was made elsewhere.
    pub fn driver_anyway(&self, kind: DriverKind) -> Box<dyn Driver> {
        driver(kind, self.families, self.privileged)
    }
}

/// The driver `kind` for a process that only reads what is in roots, where nothing can be tried.
pub fn reader(kind: DriverKind) -> Box<dyn Driver> {
    driver(kind, Families::User, false)
}

fn driver(kind: DriverKind, families: Families, privileged: bool) -> Box<dyn Driver> {
    match kind {
        DriverKind::Overlay => Box::new(OverlayDriver::new(families, privileged)),
        DriverKind::Fuse => Box::new(FuseDriver),
        DriverKind::Copy => Box::new(CopyDriver::new(privileged)),
    }
}

/// Whether a file that nobody may open can be opened.
fn is_privileged(dir: &Dir) -> Result<bool, DriverError> {
    dir.create_file("locked", 0o600)?;
    dir.set_mode("locked", 0)?;
    match dir.open_file("locked") {
        Ok(_) => Ok(true),
        Err(error) if error.errno() == Some(Errno::ACCESS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn can_reflink(dir: &Dir) -> Result<bool, DriverError> {
    let mut from = dir.create_file("shared", 0o600)?;
    from.write_all(&[1; 4096]).at_path("write", || dir.path_of("shared"))?;
    let to = dir.create_file("clone", 0o600)?;
    Ok(rustix::fs::ioctl_ficlone(&to, &from).is_ok())
}

/// Which marks can be written, and read back.
fn attributes(dir: &Dir) -> Result<(Families, Result<(), Refusal>), DriverError> {
    dir.create_dir("marked", 0o700)?;
    let write = |families: Families| {
        let path = Path::new("marked");
        families.mark_opaque(dir, path)?;
        match dir.xattr(path, families.own().key("opaque"))?.as_deref() {
            Some(b"y") => Ok(()),
            _ => Err(Error::new("read back attributes of", dir.path_of(path), Errno::IO)),
        }
    };
    if write(Families::Both).is_ok() {
        return Ok((Families::Both, Ok(())));
    }
    Ok((Families::User, write(Families::User).map_err(|error| Refusal::from_error(&error, dir))))
}

/// Mounts two layers and does in the mount what containers do.
fn overlay_trial(dir: &Dir, families: Families, privileged: bool) -> Result<(), Refusal> {
    // The end of a mount waits for everything that the whole machine wrote to this file system, unless it is volatile.
    // Kernels before 5.10 cannot do that and are tried without.
    let trial = |volatile| {
        let name = if volatile { "volatile" } else { "plain" };
        mount_and_use(&dir.ensure_dir(name, 0o755)?, families, privileged, volatile)
    };
    trial(true).or_else(|_| trial(false)).map_err(|error| Refusal::from_error(&error, dir))
}

fn mount_and_use(dir: &Dir, families: Families, privileged: bool, volatile: bool) -> Result<(), DriverError> {
    let at = Path::new;
    let (bottom, top) = (dir.ensure_dir("bottom", 0o755)?, dir.ensure_dir("top", 0o755)?);
    for name in ["directory", "opaque"] {
        bottom.create_dir(name, 0o755)?;
        top.create_dir(name, 0o755)?;
        write(&bottom, &format!("{name}/below"), b"below")?;
        write(&top, &format!("{name}/above"), b"above")?;
    }
    for name in ["kept", "deleted", "removed"] {
        write(&bottom, name, name.as_bytes())?;
    }
    families.whiteout(&top, at("."), at("deleted"))?;
    families.mark_opaque(&top, at("opaque"))?;
    let trees =
        [top, bottom].map(|dir| Tree { dir, marks: Marks::Overlay(families.own()), declares_root: true });
    let (layers, own) = (Stack::new(&trees), dir.ensure_dir("own", 0o700)?);
    let options = RootOptions { volatile, durability: Durability::Relaxed, ..RootOptions::default() };
    let spec = RootSpec::new(&layers, &own, "plywood:probe").with(options);
    let driver = OverlayDriver::new(families, privileged);
    driver.prepare(&spec)?;
    use_root(&mount_api::open_root(&driver.mount_detached(&spec)?)?)
}

fn use_root(root: &Dir) -> Result<(), DriverError> {
    expect_names(root, ".", &["directory", "kept", "opaque", "removed"])?;
    expect_names(root, "directory", &["above", "below"])?;
    expect_names(root, "opaque", &["above"])?;
    expect_content(root, "kept", b"kept")?;
    write(root, "created", b"created")?;
    root.set_mode("kept", 0o640)?;
    expect_content(root, "kept", b"kept")?;
    expect_content(root, "created", b"created")?;
    root.remove_file("removed")?;
    for name in ["above", "below"] {
        root.remove_file(format!("directory/{name}"))?;
    }
    // This is where an overlay with the wrong attributes fails.
    root.remove_dir("directory")?;
    root.create_dir("directory", 0o755)?;
    expect_names(root, "directory", &[])?;
    expect_names(root, ".", &["created", "directory", "kept", "opaque"])
}

fn write(dir: &Dir, path: &str, content: &[u8]) -> Result<(), Error> {
    dir.create_file(path, 0o644)?.write_all(content).at_path("write", || dir.path_of(path))
}

fn expect_content(dir: &Dir, path: &str, expected: &[u8]) -> Result<(), DriverError> {
    let mut content = Vec::new();
    dir.open_file(path)?.read_to_end(&mut content).at_path("read", || dir.path_of(path))?;
    if content == expected { Ok(()) } else { Err(unexpected(format!("{path} has the wrong content"))) }
}

fn expect_names(dir: &Dir, path: &str, expected: &[&str]) -> Result<(), DriverError> {
    let names = dir.open_dir(path)?.names()?;
    let names: Vec<_> = names.iter().map(|entry| String::from_utf8_lossy(&entry.name)).collect();
    if names != expected {
        return Err(unexpected(format!("{path} holds {names:?} instead of {expected:?}")));
    }
    for name in names {
        if dir.stat(Path::new(path).join(&*name)).optional()?.is_none() {
            return Err(unexpected(format!("{path} lists {name}, which is not there")));
        }
    }
    Ok(())
}

fn unexpected(what: String) -> DriverError {
    DriverError::Refused { kind: DriverKind::Overlay, reason: format!("in the trial mount {what}") }
}
