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
    if !can_start_containers() {
        return;
    }
    for who in [ROOT, SINGLE_ID] {
        let home = common::scratch();
        let (Some(store), Some(run)) = (store_of_this_machine(who, home.path()), example("run", home.path()))
        else {
            return;
        };
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

#[test]
fn a_dockerfile_is_built_and_a_second_time_by_the_cache() {
    if !can_start_containers() {
        return;
    }
    for who in [ROOT, SINGLE_ID] {
        let home = common::scratch();
        let (Some(store), Some(build)) =
            (store_of_this_machine(who, home.path()), example("build", home.path()))
        else {
            return;
        };
        let context = home.path().join("context");
        std::fs::create_dir_all(context.join("source/kept")).unwrap();
        for (name, content) in [
            ("Dockerfile", DOCKERFILE),
            (".dockerignore", "source/*\n!source/kept\n"),
            ("source/secret", "not for a build"),
            ("source/kept/note", "a note"),
            ("one.txt", "1"),
            ("two.txt", "2"),
        ] {
            std::fs::write(context.join(name), content).unwrap();
        }
        let words = [store.to_str().unwrap(), context.to_str().unwrap(), "-t", "built:1"];
        let run = |more: &[&str]| run_as(who, &build, &[&words[..], more].concat(), home.path());
        let steps = |output: &Output| {
            assert!(output.status.success(), "{who:?}: {}", printed(output));
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            errors.lines().filter(|line| line.ends_with("(cached)")).count()
        };
        let first = run(&[]);
        assert_eq!(steps(&first), 0, "{}", printed(&first));
        let again = run(&[]);
        assert_eq!(steps(&again), 9, "{}", printed(&again));
        assert_eq!(again.stdout, first.stdout);
        // What changed is done again, and what stands on it.
        std::fs::write(context.join("two.txt"), "3").unwrap();
        assert_eq!(steps(&run(&[])), 2);
        let other = run(&["--build-arg", "WHO=you"]);
        assert_eq!(steps(&other), 3, "{}", printed(&other));

        let words = [store.to_str().unwrap(), "built:1", "--", "cat", "/out/greeting", "/out/note", "/out/2"];
        let Some(start) = example("run", home.path()) else { return };
        let output = run_as(who, &start, &words, home.path());
        assert_eq!(String::from_utf8_lossy(&output.stdout), "hello you\na note3", "{}", printed(&output));

        // A step that fails leaves what the name led to, and no container.
        std::fs::write(context.join("Dockerfile"), "FROM this-machine:1\nRUN [\"sh\", \"-c\", \"exit 3\"]\n")
            .unwrap();
        let failed = run(&[]);
        assert_eq!(failed.status.code(), Some(1));
        assert!(printed(&failed).contains(": it ended with status 3"), "{}", printed(&failed));
        for (wrong, reason) in [
            ("RUN true", "the first instruction is FROM"),
            ("FROM this-machine:1\nRUN --mount=type=cache true", "--mount is not understood"),
            ("FROM this-machine:1\nCOPY source/secret /", "is in .dockerignore"),
            ("FROM this-machine:1\nCOPY missing /", "there is no"),
            ("FROM this-machine:1\nFROB x", "FROB"),
            ("FROM no-such-image", "no image"),
        ] {
            std::fs::write(context.join("Dockerfile"), wrong).unwrap();
            let refused = run(&[]);
            assert_eq!(refused.status.code(), Some(1), "{wrong}");
            assert!(printed(&refused).contains(reason), "{wrong}: {}", printed(&refused));
        }
        assert_eq!(store.join("containers").read_dir().unwrap().count(), 0);
    }
}

/// Two stages; what comes before `WHO` is used does not depend on it.
const DOCKERFILE: &str = r#"
FROM this-machine:1 AS first
SHELL ["sh", "-c"]
COPY source /out/
COPY *.txt /txt/
ARG WHO=world
ENV GREETING="hello $WHO"
WORKDIR /out
RUN echo "$GREETING" > greeting && \
    cat /txt/two.txt > 2
RUN cat kept/note > note

FROM this-machine:1
COPY --from=first /out /out/
CMD ["cat", "/out/greeting"]
"#;

/// Whether containers can be started, and by others, too; says so if not.
fn can_start_containers() -> bool {
    if !is_real_root() {
        skip("needs root, to start containers and to become somebody else");
        return false;
    }
    if !["crun", "runc"].iter().any(|runtime| installed(runtime)) {
        skip("no OCI runtime is installed: crun or runc");
        return false;
    }
    true
}

/// A store in `home` with an image of this machine.
#[track_caller]
fn store_of_this_machine(who: &[&str], home: &Path) -> Option<PathBuf> {
    let quickstart = example("quickstart", home)?;
    let store = home.join("store");
    let kept = run_as(who, &quickstart, &["--keep", "--store", store.to_str().unwrap()], home);
    assert!(kept.status.success(), "{who:?}: {}", printed(&kept));
    Some(store)
}

fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}
