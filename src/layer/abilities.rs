//! [`Abilities`]: what this process can put on this file system, learned by trying.

use rustix::io::Errno;

use crate::fs::{Dir, Error, Result};
use crate::stack::object::Style;
use crate::whiteout::Namespace;

/// What this process may do where layers are unpacked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Abilities {
    /// The family of marks that its layers get: `trusted.overlay.*` where it may write that, as root in the initial user
    /// namespace may.
    pub family: Namespace,
    /// Whether it passes permission checks on its own files (`CAP_DAC_OVERRIDE`).
    pub privileged: bool,
}

impl Abilities {
    /// Tries it out in `scratch`, a directory of the file system in question. What is made there is removed again.
    ///
    /// # Errors
    ///
    /// [`Error`] if the file system refuses what any process may do.
    pub fn probe(scratch: &Dir) -> Result<Self> {
        let name = format!(".probe-{}", crate::fs::unique_name()?);
        drop(scratch.create_file(&name, 0o000)?);
        let privileged = match scratch.open_file(&name) {
            Ok(_) => Ok(true),
            Err(error) if error.errno() == Some(Errno::ACCESS) => Ok(false),
            Err(error) => Err(error),
        };
        let trusted = match scratch.set_xattr(&name, Namespace::Trusted.key("probe"), b"") {
            Ok(()) => Ok(Namespace::Trusted),
            Err(error) if may_be_forbidden(&error) => Ok(Namespace::User),
            Err(error) => Err(error),
        };
        scratch.remove_file(&name)?;
        Ok(Self { family: trusted?, privileged: privileged? })
    }

    /// How objects of a layer are written with these.
    pub(crate) fn style(self) -> Style {
        Style { family: Some(self.family), privileged: self.privileged }
    }
}

fn may_be_forbidden(error: &Error) -> bool {
    matches!(error.errno(), Some(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probing_leaves_nothing_behind() {
        let temp = tempfile::tempdir_in(".").unwrap();
        let dir = Dir::open_ambient(temp.path()).unwrap();
        let found = Abilities::probe(&dir).unwrap();
        assert_eq!(found, Abilities::probe(&dir).unwrap());
        assert!(dir.names().unwrap().is_empty());
    }
}
