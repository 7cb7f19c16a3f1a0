//! [`XattrPolicy`]: which extended attributes belong to an image and which to the machine it is on.
//!
//! One table for both directions: an attribute that does not enter a layer when it is unpacked does not leave with it
//! when it is packed. Attributes that overlayfs keeps for itself never come this far; `stack` hides or escapes them.

use std::collections::BTreeSet;

use crate::fs::Xattrs;

/// Names that mean something to this machine only and that a caller may nevertheless want to carry:
/// labels and hashes that the host's policy gives, and attributes of one file system.
const BY_DEFAULT: &[&str] =
    &["security.selinux", "security.ima", "security.evm", "system.nfs4_acl", "btrfs.*"];

/// Names under which a file's real owner and type are recorded where the process may not set them. `stack` translates
/// them when it reads; as attributes of an image they could claim an owner that the image's headers do not show.
const ALWAYS: &[&str] = &["user.containers.override_stat", "user.fuseoverlayfs.*", "user.rootlesscontainers"];

/// Decides which extended attributes are part of a layer. The default keeps all but those that mean something to one
/// machine only: `security.selinux`, `security.ima`, `security.evm`, `system.nfs4_acl` and `btrfs.*`. Attributes in which
/// rootless tools record an owner (`user.containers.override_stat`, `user.fuseoverlayfs.*`, `user.rootlesscontainers`)
/// are never part of one: they could claim what no header shows.
///
/// ```
/// use plywood::layer::XattrPolicy;
///
/// let policy = XattrPolicy::default();
/// assert!(policy.keeps(b"security.capability") && !policy.keeps(b"security.selinux"));
/// let labels = policy.keep("security.selinux").leave_out("user.cache.*");
/// assert!(labels.keeps(b"security.selinux") && !labels.keeps(b"user.cache.key"));
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct XattrPolicy {
    left_out: BTreeSet<Vec<u8>>,
}

impl Default for XattrPolicy {
    fn default() -> Self {
        Self { left_out: BY_DEFAULT.iter().map(|name| name.as_bytes().to_vec()).collect() }
    }
}

impl XattrPolicy {
    /// Leaves these attributes out too; a name that ends in `*` stands for all that begin with what is before it.
    #[must_use]
    pub fn leave_out(mut self, name: impl AsRef<[u8]>) -> Self {
        self.left_out.insert(name.as_ref().to_vec());
        self
    }

    /// Keeps these attributes, which were left out under this very name.
    #[must_use]
    pub fn keep(mut self, name: impl AsRef<[u8]>) -> Self {
        self.left_out.remove(name.as_ref());
        self
    }

    /// Whether an attribute of this name is part of a layer.
    pub fn keeps(&self, name: &[u8]) -> bool {
        let always = ALWAYS.iter().map(|pattern| pattern.as_bytes());
        !always.chain(self.left_out.iter().map(Vec::as_slice)).any(|pattern| matches(pattern, name))
    }

    /// Takes away what is no part of a layer.
    pub fn apply(&self, xattrs: &mut Xattrs) {
        xattrs.retain(|name, _| self.keeps(name));
    }
}

fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.strip_suffix(b"*") {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_the_machine_stays_on_it() {
        let policy = XattrPolicy::default();
        for name in
            ["security.selinux", "security.ima", "security.evm", "system.nfs4_acl", "btrfs.compression"]
        {
            assert!(!policy.keeps(name.as_bytes()), "{name}");
        }
        for name in ["security.capability", "system.posix_acl_access", "user.mime_type", "trusted.x", "btrfs"]
        {
            assert!(policy.keeps(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn no_policy_lets_a_recorded_owner_pass_as_an_attribute() {
        let policy =
            XattrPolicy::default().keep("user.fuseoverlayfs.*").keep("user.containers.override_stat");
        let names =
            ["user.containers.override_stat", "user.fuseoverlayfs.override_stat", "user.rootlesscontainers"];
        let mut xattrs: Xattrs = names.iter().map(|name| (name.as_bytes().to_vec(), vec![])).collect();
        policy.apply(&mut xattrs);
        assert!(xattrs.is_empty());
    }
}
