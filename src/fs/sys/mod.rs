//! System calls that rustix has no safe form of. The only place with `unsafe`: one file for each, a safe signature, and
//! a reason for every block.

mod detached;
mod idmap;
mod mounted;
mod user_namespace;

pub(crate) use detached::spawn_detached;
pub(crate) use idmap::translate_ids;
pub(crate) use mounted::sysfs_name;
pub(crate) use user_namespace::user_namespace;

/// The error of the last call of this thread.
fn last_error() -> rustix::io::Errno {
    rustix::io::Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(rustix::io::Errno::INVAL)
}
