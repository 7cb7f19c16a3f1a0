//! Which boot of the machine this is: what a process wrote and did not sync is there in the same boot, and perhaps in no
//! other.

use std::path::Path;

use super::dir::Dir;
use super::error::{Error, Result};

/// The kernel's name for the present boot, a random UUID.
///
/// # Errors
///
/// [`Error`] if the kernel does not tell, for want of `/proc` perhaps.
pub fn boot_id() -> Result<String> {
    let (dir, name) = ("/proc/sys/kernel/random", "boot_id");
    let bytes = Dir::open_ambient(dir)?.read(name, 256)?;
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    if text.is_empty() {
        let path = Path::new(dir).join(name);
        return Err(Error::new("read", path, std::io::Error::other("it is empty")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_keeps_its_name() {
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
    }
}
