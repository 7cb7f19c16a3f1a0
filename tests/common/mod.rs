//! What the integration tests share: they know plywood only by its public door, and this module does not know it at all.
//!
//! | file | what it makes |
//! | --- | --- |
//! | [`tar`] | layer tars, byte for byte, in any dialect and any order |
//! | [`untar`] | the entries of a tar that somebody else wrote |
//! | [`tree`] | what is on disk, as a [`tree::Tree`] that can be compared |
//! | [`model`] | what layers mean, by a slow and obvious interpreter over a map |
//! | [`kernel`] | what GNU tar and the kernel's overlayfs make of layers |
//! | [`image`] | OCI layouts, OCI archives and docker-archives around layer tars |
//! | [`peers`] | podman, buildah, docker and containerd, each on its own |
//! | [`privilege`] | the same test as root, in user namespaces and as a plain user |
//! | [`random`] | layers that nobody thought of |
//! | [`edit`] | what processes do to roots |
//!
//! Nothing here uses the crate's own tar code, JSON types or digests: a mistake made on both sides would be invisible.

// Each test binary compiles its own copy and uses a part of it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

pub mod edit;
pub mod image;
pub mod kernel;
pub mod model;
pub mod peers;
pub mod privilege;
pub mod process;
pub mod random;
pub mod tar;
pub mod tree;
pub mod untar;

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Set where everything a test may need is installed: then a test that would skip fails instead.
pub const REQUIRE_ALL: &str = "PLYWOOD_TEST_REQUIRE_ALL";

/// Says loudly that a test, or a part of one, did not run; return from the test after it.
///
/// # Panics
///
/// If [`REQUIRE_ALL`] is set.
pub fn skip(reason: impl AsRef<str>) {
    let reason = reason.as_ref();
    assert!(std::env::var_os(REQUIRE_ALL).is_none(), "cannot run here, and {REQUIRE_ALL} is set: {reason}");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    shout(&format!("SKIPPED: {test}: {reason}"));
}

/// Set where `/dev/fuse` cannot be used and nothing can be done about it: tests then do without, whatever else is set.
pub const NO_FUSE: &str = "PLYWOOD_TEST_NO_FUSE";

/// The fuse-overlayfs programs to test with: those in `PLYWOOD_TEST_FUSE_OVERLAYFS`, separated by colons, for example one
/// of each version, else the installed one. None where FUSE cannot be used, which is said loudly.
pub fn fuse_overlayfs() -> Vec<PathBuf> {
    if std::env::var_os(NO_FUSE).is_some() {
        shout(&format!("SKIPPED: everything with FUSE: {NO_FUSE} is set"));
        return Vec::new();
    }
    if let Err(error) = std::fs::File::options().read(true).write(true).open("/dev/fuse") {
        skip(format!("/dev/fuse cannot be used: {error}"));
        return Vec::new();
    }
    let programs: Vec<_> = match std::env::var_os("PLYWOOD_TEST_FUSE_OVERLAYFS") {
        Some(named) => std::env::split_paths(&named).collect(),
        None => vec![PathBuf::from("/usr/bin/fuse-overlayfs")],
    };
    let (there, missing): (Vec<_>, Vec<_>) = programs.into_iter().partition(|program| program.is_file());
    if !missing.is_empty() {
        skip(format!("not installed: {missing:?}"));
    }
    there
}

/// Prints a line that is also seen where tests pass: the harness keeps what `eprintln!` prints to itself.
fn shout(line: &str) {
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// Whether every one of these programs is installed; says so loudly where one is not.
pub fn have(programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |program: &&&str| std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    let missing: Vec<_> = programs.iter().filter(|program| !found(program)).copied().collect();
    if !missing.is_empty() {
        skip(format!("not installed: {}", missing.join(", ")));
    }
    missing.is_empty()
}

/// An empty directory that goes away with the value. Set `TMPDIR` to choose the file system.
pub fn scratch() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("plywood-test-").tempdir().unwrap();
    // Other users come in too: tests look at what they may do.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), mode).unwrap();
    dir
}

/// Runs a program to its end and gives its standard output.
///
/// # Panics
///
/// If it cannot be started or fails, with all it printed.
pub fn run<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> Vec<u8> {
    run_command(Command::new(program).args(arguments)).stdout
}

/// Runs a prepared command to its end; see [`run`].
pub fn run_command(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// What `command` makes of `input`.
pub fn through(command: &mut Command, input: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input).unwrap());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{command:?}");
        output.stdout
    })
}

/// The SHA-256 of some bytes in lower-case hex.
pub fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether this process may do everything on this machine, in the initial user namespace.
pub fn is_real_root() -> bool {
    let whole = std::fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]));
    whole && rustix::process::geteuid().is_root()
}

/// The file system type that `path` is on, as `stat -f` names it.
pub fn file_system(path: &Path) -> String {
    let name = run("stat", ["-f".as_ref(), "-c".as_ref(), "%T".as_ref(), path.as_os_str()]);
    String::from_utf8(name).unwrap().trim().to_owned()
}
