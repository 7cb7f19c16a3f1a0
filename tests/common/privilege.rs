//! The same test under several privileges.
//!
//! [`under`] runs a closure in copies of the test binary, each started for this one test with fewer rights and in a
//! mount namespace of its own (so that no test leaves a mount behind):
//!
//! ```ignore
//! #[test]
//! fn a_file_can_be_deleted() {
//!     privilege::under(ALL, |privilege| { … });
//! }
//! ```
//!
//! Real root can lower itself to all of them. Anyone else runs what is left, and says loudly what is not.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{is_real_root, skip};

/// What a test may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Privilege {
    /// Root in the initial user namespace.
    Root,
    /// Root in a user namespace that maps 65,536 ids, as `podman unshare` has it.
    IdRange,
    /// Root in a user namespace that maps nobody else, as `unshare -Ur` has it.
    SingleId,
    /// Nobody in particular, who may not mount.
    Plain,
}

/// Every privilege there is.
pub const ALL: &[Privilege] = &[Privilege::Root, Privilege::IdRange, Privilege::SingleId, Privilege::Plain];

/// Those that may mount an overlay.
pub const MOUNTING: &[Privilege] = &[Privilege::Root, Privilege::IdRange, Privilege::SingleId];

/// Tells a copy of the test binary what it was started as.
const VARIABLE: &str = "PLYWOOD_TEST_PRIVILEGE";

/// Tells it whether it may rely on what [`under_with_fuse`] says.
const FUSE: &str = "PLYWOOD_TEST_WITH_FUSE";

/// Tells it where the command line tool is.
const TOOL: &str = "PLYWOOD_TEST_TOOL";

/// A user id that nobody on the machine has, and the range that it may hand out.
const UID: u32 = 61_234;
const RANGE: (u32, u32) = (200_000, 65_535);

/// Runs `body` once under each of these privileges.
///
/// # Panics
///
/// If it fails under one of them, with everything that it printed.
#[track_caller]
pub fn under<F: Fn(Privilege)>(privileges: &[Privilege], body: F) {
    run(privileges, false, body);
}

/// The same where anybody may use FUSE, as on most machines: with a `/dev/fuse` for all, and a name for the user, without
/// which fusermount3 does nothing. The machine's own are hidden for the test alone.
///
/// # Panics
///
/// As [`under`].
#[track_caller]
pub fn under_with_fuse<F: Fn(Privilege)>(privileges: &[Privilege], body: F) {
    run(privileges, true, body);
}

/// Whether this is the body of [`under_with_fuse`].
pub fn with_fuse() -> bool {
    std::env::var_os(FUSE).is_some_and(|value| value == "yes")
}

#[track_caller]
fn run<F: Fn(Privilege)>(privileges: &[Privilege], fuse: bool, body: F) {
    if let Ok(name) = std::env::var(VARIABLE) {
        let privilege = ALL.iter().find(|privilege| format!("{privilege:?}") == name);
        return body(*privilege.expect("the variable was set by this function"));
    }
    let test = test_name::<F>();
    for &privilege in privileges {
        start(privilege, fuse, &test);
    }
}

/// The test that a closure stands in: its type is named `binary::module::test::{{closure}}`.
fn test_name<F>() -> String {
    let name = std::any::type_name::<F>();
    let (_, name) = name.split_once("::").expect("a closure in a test");
    name.split("::{{closure}}").next().expect("split gives at least one").to_owned()
}

/// Runs one test in a new process.
fn start(privilege: Privilege, fuse: bool, test: &str) {
    let mut words = Vec::new();
    if is_real_root() {
        if privilege != Privilege::Root {
            let id = UID.to_string();
            let own = [format!("--reuid={id}"), format!("--regid={id}"), "--clear-groups".into()];
            words.extend(["setpriv".into()].into_iter().chain(own));
        }
    } else if privilege == Privilege::Root {
        return skip("not root in the initial user namespace");
    } else if privilege == Privilege::Plain && rustix::process::geteuid().is_root() {
        return skip("root of a user namespace is nobody else");
    }
    match privilege {
        Privilege::Root => words.extend(["unshare", "--mount"].map(String::from)),
        Privilege::SingleId => {
            words.extend(["unshare", "--user", "--map-root-user", "--mount"].map(String::from))
        }
        Privilege::IdRange if is_real_root() => {
            // Its maps are written from here: /etc/subuid has no say in it.
            let wait = "echo ready; read -r _; exec \"$@\"";
            words.extend(["unshare", "--user", "--mount", "sh", "-c", wait, "sh"].map(String::from));
        }
        Privilege::IdRange => {
            let unshare = ["unshare", "--user", "--map-root-user", "--map-auto", "--mount"].map(String::from);
            let works = Command::new(&unshare[0]).args(&unshare[1..]).arg("true").output();
            if !works.is_ok_and(|output| output.status.success()) {
                return skip("this user has no range of ids (/etc/subuid, newuidmap)");
            }
            words.extend(unshare);
        }
        Privilege::Plain => {}
    }
    if privilege == Privilege::SingleId {
        let works = Command::new("unshare").args(["--user", "--map-root-user", "true"]).output();
        if !works.is_ok_and(|output| output.status.success()) {
            return skip("no user namespaces for this user");
        }
    }
    // A home of its own: the store's default place, and whatever the programs it starts want to write.
    let home = super::scratch();
    words.push(reachable(&std::env::current_exe().unwrap(), home.path()).to_str().unwrap().to_owned());
    words.extend(["--exact", test, "--nocapture", "--test-threads=1"].map(String::from));
    if is_real_root() && privilege != Privilege::Root {
        std::os::unix::fs::chown(home.path(), Some(UID), Some(UID)).unwrap();
    }
    if let Some(files) = fuse_for_all(privilege, home.path()).filter(|_| fuse) {
        let bind = "mount --bind \"$0\" /dev/fuse && mount --bind \"$1\" /etc/passwd && shift && exec \"$@\"";
        let outer = ["unshare", "--mount", "sh", "-c", bind].map(String::from).into_iter();
        let files = files.iter().map(|file| file.to_str().unwrap().to_owned());
        words = outer.chain(files).chain(words).collect();
    }
    let mut command = Command::new(&words[0]);
    if let Some(tool) = built_tool() {
        command.env(TOOL, reachable(tool, home.path()));
    }
    let mut child = command
        .args(&words[1..])
        .env(VARIABLE, format!("{privilege:?}"))
        .env(FUSE, if fuse { "yes" } else { "no" })
        .env("HOME", home.path())
        .env("TMPDIR", home.path())
        .env_remove("XDG_DATA_HOME")
        .env_remove("XDG_RUNTIME_DIR")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{words:?}: {error}"));
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut stdin = child.stdin.take().unwrap();
    let mut output = String::new();
    if privilege == Privilege::IdRange && is_real_root() {
        stdout.read_line(&mut output).unwrap();
        if output == "ready\n" {
            let (first, count) = RANGE;
            let map = format!("0 {UID} 1\n1 {first} {count}\n");
            fs::write(format!("/proc/{}/uid_map", child.id()), &map).unwrap();
            fs::write(format!("/proc/{}/gid_map", child.id()), &map).unwrap();
        }
    }
    // The shell may have died; what it said is in its output.
    stdin.write_all(b"\n").ok();
    drop(stdin);
    let mut stderr = child.stderr.take().unwrap();
    let errors = std::thread::spawn(move || {
        let mut text = Vec::new();
        stderr.read_to_end(&mut text).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    });
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    output += &String::from_utf8_lossy(&rest);
    let (status, errors) = (child.wait().unwrap(), errors.join().unwrap());
    for line in errors.lines().filter(|line| line.starts_with("SKIPPED: ")) {
        super::shout(&format!("{line} ({privilege:?})"));
    }
    assert!(
        status.success() && output.contains("test result: ok. 1 passed"),
        "{test} as {privilege:?}: {status}\n{words:?}\n{output}{errors}"
    );
}

/// What lets anybody use FUSE, to be put over `/dev/fuse` and `/etc/passwd`.
fn fuse_for_all(privilege: Privilege, home: &Path) -> Option<[PathBuf; 2]> {
    if !is_real_root() || privilege == Privilege::Root || !Path::new("/dev/fuse").exists() {
        return None;
    }
    let (node, users) = (home.join("fuse"), home.join("passwd"));
    let (kind, mode) = (rustix::fs::FileType::CharacterDevice, rustix::fs::Mode::from_raw_mode(0o666));
    rustix::fs::mknodat(rustix::fs::CWD, &node, kind, mode, rustix::fs::makedev(10, 229)).unwrap();
    fs::set_permissions(&node, fs::Permissions::from_mode(0o666)).unwrap();
    let known = fs::read_to_string("/etc/passwd").unwrap();
    fs::write(&users, format!("{known}plywood-test:x:{UID}:{UID}::/:/bin/sh\n")).unwrap();
    fs::set_permissions(&users, fs::Permissions::from_mode(0o644)).unwrap();
    Some([node, users])
}

/// The command line tool, ready to get arguments; `None` where it was not built (feature `cli`).
pub fn plywood() -> Option<Command> {
    std::env::var_os(TOOL).or_else(|| built_tool().map(OsString::from)).map(Command::new)
}

/// Cargo names the tool also where it did not build it.
fn built_tool() -> Option<&'static Path> {
    option_env!("CARGO_BIN_EXE_plywood").map(Path::new).filter(|tool| tool.is_file())
}

/// `program`, or a copy of it in `home` if others cannot reach it: a build directory may be private.
fn reachable(program: &Path, home: &Path) -> PathBuf {
    let public = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o001 != 0;
    if !is_real_root() || program.ancestors().all(public) {
        return program.to_owned();
    }
    let copy = home.join(program.file_name().unwrap());
    fs::copy(program, &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    copy
}
