//! The examples do what they say, under every privilege that they claim to work with.

#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{is_real_root, skip};

/// A user id that nobody on the machine has.
const UID: u32 = 61_235;

/// Everything before the program: who runs it.
const ROOT: &[&str] = &["unshare", "--mount"];
const SINGLE_ID: &[&str] =
    &["setpriv", "--reuid=61235", "--regid=61235", "--clear-groups", "unshare", "-Urm"];
const PLAIN: &[&str] = &["setpriv", "--reuid=61235", "--regid=61235", "--clear-groups"];

/// An example that cargo built along with this test, where everybody can reach it.
fn example(name: &str, home: &Path) -> Option<PathBuf> {
    let test = std::env::current_exe().unwrap();
    let built = test.parent().and_then(Path::parent).unwrap().join("examples").join(name);
    if !built.is_file() {
        skip(format!("{built:?} was not built: run all tests, or cargo build --examples"));
        return None;
    }
    let copy = home.join(name);
    std::fs::copy(built, &copy).unwrap();
    std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o755)).unwrap();
    Some(copy)
}

/// Runs a program as somebody, with `home` for whatever it writes.
fn run_as(who: &[&str], program: &Path, arguments: &[&str], home: &Path) -> Output {
    if who != ROOT {
        chown(home, Some(UID), Some(UID)).unwrap();
    }
    let mut words = who.iter().map(Path::new).chain([program]).chain(arguments.iter().map(Path::new));
    Command::new(words.next().unwrap())
        .args(words)
        .env("TMPDIR", home)
        .env("HOME", home)
        .current_dir(home)
        .output()
        .unwrap()
}

fn printed(output: &Output) -> String {
    let [out, errors] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{}\n{out}{errors}", output.status)
}

#[track_caller]
fn quickstart_goes_through(who: &[&str], driver: &str) {
    if !is_real_root() {
        return skip("needs root, to become somebody else");
    }
    let home = common::scratch();
    let Some(quickstart) = example("quickstart", home.path()) else { return };
    let output = run_as(who, &quickstart, &["--driver", driver], home.path());
    let printed = printed(&output);
    assert!(output.status.success() && printed.contains("\ndone in "), "{who:?}: {printed}");
    for line in ["D /etc/motd", "C /etc/passwd", "A /quickstart/greeting"] {
        assert!(printed.contains(line), "{who:?} lacks {line:?}: {printed}");
    }
    let left: Vec<_> = home.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["quickstart"], "it leaves nothing behind");
}

#[test]
fn quickstart_works_as_root() {
    quickstart_goes_through(ROOT, "overlay");
}

#[test]
fn quickstart_works_in_a_user_namespace() {
    quickstart_goes_through(SINGLE_ID, "overlay");
}

#[test]
fn quickstart_works_as_a_plain_user() {
    quickstart_goes_through(PLAIN, "copy");
}

#[test]
fn quickstart_says_what_it_does_not_understand() {
    let home = common::scratch();
    let Some(quickstart) = example("quickstart", home.path()) else { return };
    for wrong in [&["--nonsense"][..], &["--driver", "zfs"], &["a", "b"], &["/no/such/archive"]] {
        let output = Command::new(&quickstart).args(wrong).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{wrong:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1, "{wrong:?}");
    }
}

#[test]
fn a_process_runs_in_the_root_of_a_container() {
    if !is_real_root() {
        return skip("needs root, to start containers and to become somebody else");
    }
    if !["crun", "runc"].iter().any(|runtime| installed(runtime)) {
        return skip("no OCI runtime is installed: crun or runc");
    }
    for who in [ROOT, SINGLE_ID] {
        let home = common::scratch();
        let (Some(quickstart), Some(run)) = (example("quickstart", home.path()), example("run", home.path()))
        else {
            return;
        };
        let store = home.path().join("store");
        let kept = run_as(who, &quickstart, &["--keep", "--store", store.to_str().unwrap()], home.path());
        assert!(kept.status.success(), "{who:?}: {}", printed(&kept));
        let script = "id -u; echo hi > /srv/greeting; rm /etc/motd; cat /srv/greeting; exit 7";
        let arguments = [store.to_str().unwrap(), "this-machine:1", "--", "sh", "-c", script];
        let output = run_as(who, &run, &arguments, home.path());
        assert_eq!(output.status.code(), Some(7), "{who:?}: {}", printed(&output));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "0\nhi\n", "{who:?}: {}", printed(&output));
        let changes = String::from_utf8_lossy(&output.stderr).into_owned();
        for change in ["D /etc/motd", "A /srv/greeting"] {
            assert!(changes.lines().any(|line| line == change), "{who:?}: {changes}");
        }
        let containers = store.join("containers").read_dir().unwrap().count();
        assert_eq!(containers, 0, "the container is gone");
    }
}

fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}
