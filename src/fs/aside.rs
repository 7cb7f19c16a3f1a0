//! What stands where something of ours belongs and is of another kind: it is somebody else's, and put aside, never removed.

use std::path::Path;

use super::dir::Dir;
use super::error::{Optional, Result};
use super::staging::unique_name;
use super::stat::Kind;

impl Dir {
    /// Gives what is called `name` and is not of the kind that belongs there another name, `<name>.aside-<unique>`, in
    /// the same directory. Whether there was something to put aside.
    ///
    /// # Errors
    ///
    /// [`Error`](super::Error) if the file system refuses; it then has its name still.
    pub fn put_aside(&self, name: impl AsRef<Path>, belongs: Kind) -> Result<bool> {
        let name = name.as_ref();
        if self.find(name)?.is_none_or(|there| there.kind == belongs) {
            return Ok(false);
        }
        let aside = format!("{}.aside-{}", name.display(), unique_name()?);
        self.rename_new(name, self, &aside).optional()?;
        // Somebody else may have done so, and put there what belongs there.
        if self.find(&aside)?.is_some_and(|moved| moved.kind == belongs) {
            return self.rename_new(&aside, self, name).map(|()| false);
        }
        tracing::warn!(path = ?self.path_of(name), aside, "what stood in the way is none of ours, and was put aside");
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_of_another_kind_is_put_aside_and_nothing_is_lost() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(temp.path()).unwrap();
        assert!(!dir.put_aside("name", Kind::File).unwrap());
        std::fs::write(temp.path().join("name"), "content").unwrap();
        assert!(!dir.put_aside("name", Kind::File).unwrap());
        assert!(dir.put_aside("name", Kind::Directory).unwrap());
        let names = dir.names().unwrap();
        let [aside] = &names[..] else { panic!("{names:?}") };
        let aside = String::from_utf8(aside.name.clone()).unwrap();
        assert!(aside.starts_with("name.aside-"), "{aside}");
        assert_eq!(dir.read(aside, 100).unwrap(), b"content");
    }
}
