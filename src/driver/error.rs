//! [`DriverError`]: why a root cannot be made, mounted or unmounted.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::DriverKind;
use super::holders::Holder;
use super::mounts::Elsewhere;
use crate::fs;
use crate::whiteout::Namespace;

/// Why a root cannot be made, mounted or unmounted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// This driver cannot do that, here or at all.
    #[error("the {kind} driver cannot do this: {reason}")]
    Refused {
        /// The driver.
        kind: DriverKind,
        /// What is in the way, and what to do instead.
        reason: String,
    },
    /// More layers than can be stacked.
    #[error("{layers} directories cannot be stacked, the limit is {limit}")]
    TooManyLayers {
        /// Directories, the root's own included.
        layers: usize,
        /// What the kernel takes.
        limit: usize,
    },
    /// The root is mounted, or something else is mounted in the place that was named.
    #[error("{source_name} is mounted at {path:?}")]
    Mounted {
        /// What is mounted there.
        source_name: String,
        /// Where.
        path: PathBuf,
    },
    /// The root is mounted where this process does not see it: in another mount namespace, or as a handle that somebody
    /// holds.
    #[error("{path:?} is mounted{}: end that mount first", elsewhere(.found))]
    InUse {
        /// The private directory.
        path: PathBuf,
        /// Where, as far as that can be found out.
        found: Vec<Elsewhere>,
    },
    /// What was to be unmounted is not there.
    #[error("{source_name} is not mounted at {path:?}{}", found_instead(.found))]
    NotMounted {
        /// What was expected.
        source_name: String,
        /// Where.
        path: PathBuf,
        /// What is mounted there instead.
        found: Option<String>,
    },
    /// Somebody works in it.
    #[error("{path:?} is in use{}", by(.holders))]
    Busy {
        /// The mount.
        path: PathBuf,
        /// Those who could be found out.
        holders: Vec<Holder>,
    },
    /// The program that serves a root in userspace does not, or not any more.
    #[error("the server of {path:?} {what}{}", list(", it says: ", .said))]
    Server {
        /// The root.
        path: PathBuf,
        /// What became of the program.
        what: String,
        /// Its last words, where it had any.
        said: Vec<String>,
    },
    /// The root was mounted `volatile`, and the kernel does not take it a second time: nobody knows what of it reached
    /// the disk.
    #[error(
        "{path:?} was mounted volatile before, and nobody knows what of it reached the disk: it can still be read, but to write, make another"
    )]
    Volatile {
        /// The private directory.
        path: PathBuf,
    },
    /// A directory has its marks in attributes that a mount would not obey, or that this process cannot read: deleted files
    /// would come back.
    #[error(
        "{path:?} has its marks in {}*, but the mount would obey {}*; work as the user that made it, or export the container and import it here",
        .recorded.prefix(), .obeyed.prefix()
    )]
    ForeignMarks {
        /// The private directory or layer.
        path: PathBuf,
        /// The family that it was made with.
        recorded: Namespace,
        /// The family that a mount by this process obeys.
        obeyed: Namespace,
    },
    /// The driver's record of a root is missing, damaged, newer than this version or another driver's.
    #[error("the record {path:?} cannot be used: {reason}")]
    Record {
        /// The record.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A table of the kernel's is not as documented.
    #[error("line {line} of {path:?} is not a mount: {text:?}")]
    MountTable {
        /// The table.
        path: PathBuf,
        /// Which line.
        line: usize,
        /// What it says.
        text: String,
    },
    /// The kernel refused a step of mounting or unmounting.
    #[error("cannot {step} {path:?}{}", kernel_says(.log))]
    Kernel {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's own words, where it has any.
        log: Vec<String>,
        /// Its error number.
        source: io::Error,
    },
    /// The file system refused one step.
    #[error(transparent)]
    Io(#[from] fs::Error),
}

impl DriverError {
    /// The error number, where it was the kernel that refused.
    pub fn errno(&self) -> Option<rustix::io::Errno> {
        match self {
            Self::Kernel { source, .. } => rustix::io::Errno::from_io_error(source),
            Self::Io(error) => error.errno(),
            _ => None,
        }
    }
}

fn elsewhere(found: &[Elsewhere]) -> String {
    let place =
        |one: &Elsewhere| format!("at {:?} in the mount namespace of process {}", one.mount.point, one.pid);
    let places: Vec<_> = found.iter().map(place).collect();
    match &places[..] {
        [] => " in another mount namespace, or as a handle".to_owned(),
        places => format!(" {}", places.join(" and ")),
    }
}

fn found_instead(found: &Option<String>) -> String {
    found.as_ref().map_or_else(String::new, |found| format!(", but {found} is"))
}

fn by(holders: &[Holder]) -> String {
    list(" by ", holders)
}

fn kernel_says(log: &[String]) -> String {
    list(", the kernel says: ", log)
}

fn list(lead: &str, items: &[impl fmt::Display]) -> String {
    let items: Vec<_> = items.iter().map(ToString::to_string).collect();
    if items.is_empty() { String::new() } else { format!("{lead}{}", items.join(", ")) }
}
