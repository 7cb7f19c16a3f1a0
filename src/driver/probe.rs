//! [`Probe`]: what this process can do in the store's own directory, found out by doing it.
//!
//! Success of a mount proves little: in a user namespace an overlay with the wrong attributes mounts and then fails to
//! delete a directory. So the [`trial`]s work in the mount as a container would.

mod circumstances;
mod trial;

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::error::DriverError;
use super::fuse::Program;
use super::{CopyDriver, Driver, DriverKind, FuseDriver, OverlayDriver};
use crate::fs::Dir;
use crate::stack::marks;
use crate::whiteout::Namespace;

pub use circumstances::Circumstances;

/// Why a driver is not used: everything that an error had to say, in one line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Refusal(pub String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Refusal {
    /// Of an error that says by itself that it is one.
    fn plain(error: DriverError) -> Self {
        match error {
            DriverError::Refused { reason, .. } => Self(reason),
            other => Self(other.to_string()),
        }
    }

    /// `scratch` is where it was tried; nobody is helped by its name, which is gone by then.
    fn from_error(error: &(dyn std::error::Error + 'static), scratch: &Dir) -> Self {
        let mut text = match error.downcast_ref() {
            // Who refuses is said anyway.
            Some(DriverError::Refused { reason, .. }) => reason.clone(),
            _ => error.to_string(),
        };
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

/// What is tried, and with what.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct ProbeOptions {
    /// The program fuse-overlayfs. Default: the one that is installed in one of the usual places; the environment has no
    /// say in it.
    pub fuse_overlayfs: Option<PathBuf>,
    /// Tries the userspace file system also where overlayfs works. That takes longer, because a program is started.
    pub fuse_in_any_case: bool,
}

/// What was found out. Prints as one line that explains the choice.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Probe {
    /// Whether overlayfs works here, with everything that a container does.
    pub overlay: Result<(), Refusal>,
    /// Whether a userspace union file system works here, and which program makes it. `None` if that was not tried: it is
    /// of use only where overlayfs does not work, or where it is asked for.
    pub fuse: Option<Result<String, Refusal>>,
    /// Whether extended attributes can hold the marks of layers.
    pub attributes: Result<(), Refusal>,
    /// The family of marks that its mounts obey.
    pub family: Namespace,
    /// Whether this process is above permission checks on its own files.
    pub privileged: bool,
    /// Whether a copy of a file can share its blocks.
    pub reflink: bool,
    /// The best driver that works.
    pub chosen: DriverKind,
    /// The program that was named for the userspace file system.
    program: Option<PathBuf>,
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Err(refusal) = &self.attributes {
            write!(f, "attributes: refused, {refusal}; ")?;
        }
        match &self.overlay {
            Ok(()) => f.write_str("overlay: a trial mount did all that a container does; ")?,
            Err(refusal) => write!(f, "overlay: refused, {refusal}; ")?,
        }
        match &self.fuse {
            Some(Ok(program)) => {
                write!(f, "fuse: a trial mount by {program} did all that a container does; ")?
            }
            Some(Err(refusal)) => write!(f, "fuse: refused, {refusal}; ")?,
            None => {}
        }
        write!(f, "using {}", self.chosen)?;
        match (self.chosen, self.family) {
            (DriverKind::Overlay, Namespace::User) => f.write_str(" with userxattr"),
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
        Self::run_with(scratch, &ProbeOptions::default())
    }

    /// The same with options.
    ///
    /// # Errors
    ///
    /// As [`Probe::run`].
    pub fn run_with(scratch: &Dir, options: &ProbeOptions) -> Result<Self, DriverError> {
        let name = format!("probe-{}", crate::fs::unique_name()?);
        scratch.create_private_dir(&name)?;
        let probe =
            scratch.open_dir(&name).map_err(DriverError::from).and_then(|dir| Self::run_in(&dir, options));
        let removed = scratch.remove_all(&name);
        let probe = probe?;
        removed?;
        Ok(probe)
    }

    fn run_in(dir: &Dir, options: &ProbeOptions) -> Result<Self, DriverError> {
        let privileged = trial::is_privileged(dir)?;
        let reflink = trial::can_reflink(dir)?;
        let (family, attributes) = trial::attributes(dir)?;
        let needed = || Refusal("extended attributes are needed".to_owned());
        let overlay = match &attributes {
            Ok(()) => trial::overlay(dir, family, privileged),
            Err(_) => Err(needed()),
        };
        let program = options.fuse_overlayfs.clone();
        let fuse = (overlay.is_err() || options.fuse_in_any_case).then(|| {
            attributes.as_ref().map_err(|_| needed())?;
            let found = Program::find(program.as_deref()).map_err(Refusal::plain)?;
            let driver = FuseDriver::new(family, privileged, program.clone());
            trial::fuse(dir, family, &driver)?;
            Ok(found.version())
        });
        let chosen = match (&overlay, &fuse) {
            (Ok(()), _) => DriverKind::Overlay,
            (_, Some(Ok(_))) => DriverKind::Fuse,
            _ => DriverKind::Copy,
        };
        Ok(Self { overlay, fuse, attributes, family, privileged, reflink, chosen, program })
    }

    /// The driver `kind`, or the chosen one.
    ///
    /// # Errors
    ///
    /// [`DriverError::Refused`] with the reason if it does not work here.
    pub fn driver(&self, kind: Option<DriverKind>) -> Result<Box<dyn Driver>, DriverError> {
        let kind = kind.unwrap_or(self.chosen);
        let outcome = match kind {
            DriverKind::Overlay => self.overlay.as_ref().err(),
            DriverKind::Fuse => match &self.fuse {
                Some(outcome) => outcome.as_ref().err(),
                None => Some(&Refusal("it was not tried".to_owned())),
            },
            DriverKind::Copy => None,
        };
        match outcome {
            None => Ok(self.driver_anyway(kind)),
            Some(refusal) => Err(DriverError::Refused { kind, reason: refusal.0.clone() }),
        }
    }

    /// The driver `kind`, whether or not it can mount here: for what needs no mount, such as reading what changed in a
    /// root or removing one that was made elsewhere.
    pub fn driver_anyway(&self, kind: DriverKind) -> Box<dyn Driver> {
        driver(kind, self.family, self.privileged, self.program.clone())
    }
}

/// The driver `kind` for a process that only reads what is in roots, where nothing can be tried.
pub fn reader(kind: DriverKind) -> Box<dyn Driver> {
    let family = if marks::sees_trusted() { Namespace::Trusted } else { Namespace::User };
    driver(kind, family, false, None)
}

fn driver(
    kind: DriverKind,
    family: Namespace,
    privileged: bool,
    program: Option<PathBuf>,
) -> Box<dyn Driver> {
    match kind {
        DriverKind::Overlay => Box::new(OverlayDriver::new(family, privileged)),
        DriverKind::Fuse => Box::new(FuseDriver::new(family, privileged, program)),
        DriverKind::Copy => Box::new(CopyDriver::new(privileged)),
    }
}
