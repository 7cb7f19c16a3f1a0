//! Copies into a directory of another user, who renames, replaces and links in it between any two steps of the tool.
//!
//! He gets no file of his own with an owner, a mode or an attribute from the copy, and nothing of root's becomes his. The
//! tool is stopped before each step that it makes in the directory, and he acts then: not one of these windows is missed.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir};
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::common::image::{Layout, image};
use crate::common::privilege::{self, Privilege};
use crate::common::tar::tar;
use crate::common::{run_command, scratch};
use crate::tracer::{self, Run};

/// A user who may write to one directory.
const USER: u32 = 61_235;

/// What is in every file of his.
const MINE: &[u8] = b"#!mine\n";

/// What he puts in place of a name that is not his.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Attack {
    /// A file.
    File,
    /// A directory with a file in it.
    Directory,
    /// A link to a directory of root's.
    Symlink,
    /// A private directory of root's that lies in his, which he may rename and not read.
    Loot,
}

const ATTACKS: [Attack; 4] = [Attack::File, Attack::Directory, Attack::Symlink, Attack::Loot];

/// A store with a container, a directory of the user, and what is root's.
struct Scene {
    scratch: tempfile::TempDir,
}

impl Scene {
    fn open() -> Self {
        let temp = scratch();
        run_command(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(temp.path()));
        let scene = Self { scratch: temp };
        let store = plywood::StoreOptions::default()
            .driver(plywood::DriverChoice::Only(plywood::driver::DriverKind::Copy))
            .create(scene.path("store"))
            .unwrap();
        let layer = tar()
            .dir("pkg")
            .dir("pkg/bin")
            .file("pkg/bin/suid", vec![b's'; 5000])
            .mode(0o4755)
            .xattr("user.note", b"root's")
            .link("pkg/bin/zz-linked", "pkg/bin/suid")
            .dir("pkg/private")
            .mode(0o2770)
            .owner(5, 6)
            .symlink("pkg/way", "bin")
            .owner(5, 6)
            .fifo("pkg/pipe")
            .dir("home")
            .finish();
        let spec = image().layer(layer).name("docker.io/library/one:1");
        let loaded = store.load(&Layout::of(&spec).oci_archive()[..], &Default::default()).unwrap();
        store.create_container(&loaded[0].image, &plywood::CreateOptions::named("one")).unwrap();
        run_command(scene.tool(&["cp", "-a", "one:/pkg", "."]).current_dir(scene.scratch.path()));
        drop(store.info().unwrap());
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn tool(&self, words: &[&str]) -> Command {
        let tool = privilege::plywood().expect("the feature is on, so it was built");
        let mut command = Command::new(tool.get_program());
        command.arg("--root").arg(self.path("store")).args(words).env("PLYWOOD_DRIVER", "copy");
        command.env_remove("PLYWOOD_ROOT");
        command
    }

    /// The root of the container.
    fn root(&self) -> PathBuf {
        let containers = self.path("store/containers");
        fs::read_dir(containers).unwrap().next().unwrap().unwrap().path().join("root")
    }

    /// Makes the user's directory anew, with `pkg/bin` of his in it where that is `there` before the copy.
    fn prepare(&self, dir: &Path, there: bool) {
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
            _ => {}
        }
        fs::create_dir(dir).unwrap();
        let loot = dir.join("kept-loot");
        fs::create_dir(&loot).unwrap();
        fs::write(loot.join("secret"), "secret").unwrap();
        fs::set_permissions(loot.join("secret"), fs::Permissions::from_mode(0o604)).unwrap();
        fs::set_permissions(loot, fs::Permissions::from_mode(0o700)).unwrap();
        let mut his = vec![dir.to_owned()];
        if there {
            for name in ["pkg", "pkg/bin"] {
                fs::create_dir(dir.join(name)).unwrap();
                his.push(dir.join(name));
            }
        }
        his.iter().for_each(|path| chown(path, Some(USER), Some(USER)).unwrap());
    }

    /// Runs the tool; before each step that it makes in `dir`, the user may act.
    fn run(&self, words: &[&str], dir: &Path, act: &mut dyn FnMut(usize)) -> Run {
        let mut command = self.tool(words);
        command.env("PLYWOOD_THREADS", "1");
        tracer::interrupt(&command, dir, self.scratch.path(), act)
    }

    fn try_all(&self, words: &[&str], dir: &Path, there: bool) {
        let victim = self.path("victim");
        if !victim.exists() {
            fs::create_dir(&victim).unwrap();
            fs::write(victim.join("secret"), "secret").unwrap();
        }
        let before = facts(&victim);
        self.prepare(dir, there);
        let run = self.run(words, dir, &mut |_| {});
        assert_eq!(run.code, Some(0), "{}", run.errors);
        let steps = run.steps.len();
        assert!(steps > 10, "{:?}", run.steps);
        for attack in ATTACKS {
            // Once before each step, and before every step.
            for chosen in (0..steps).map(Some).chain([None]) {
                self.prepare(dir, there);
                let user = Self::user(dir);
                let run = self.run(words, dir, &mut |step| {
                    if chosen.is_none_or(|chosen| chosen == step) {
                        act(&user, attack, step);
                    }
                });
                let what = format!(
                    "{words:?}, {attack:?} before {}: {}",
                    chosen.map_or("every step".to_owned(), |step| run
                        .steps
                        .get(step)
                        .map_or("?".to_owned(), |step| step.what.clone())),
                    run.errors
                );
                assert!(run.code.is_some(), "{what}");
                assert_eq!(facts(&victim), before, "{what}");
                inspect(dir, &what);
            }
        }
    }

    /// A handle to his directory, to which a process of his need not find the way.
    fn user(dir: &Path) -> OwnedFd {
        rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        run_command(Command::new("umount").arg("--lazy").arg(self.scratch.path()));
    }
}

/// Does it as the user, in a thread: credentials are a thread's.
fn act(dir: &OwnedFd, attack: Attack, number: usize) {
    let as_user = || {
        let (uid, gid) = (Uid::from_raw(USER), Gid::from_raw(USER));
        set_thread_groups(&[]).unwrap();
        set_thread_res_gid(gid, gid, gid).unwrap();
        set_thread_res_uid(uid, uid, uid).unwrap();
        attack_in(dir, attack, number);
    };
    std::thread::scope(|scope| scope.spawn(as_user).join().unwrap());
}

fn attack_in(dir: &OwnedFd, attack: Attack, number: usize) {
    let mut names = Vec::new();
    let mut buffer = Vec::with_capacity(8192);
    let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        names.push(entry.unwrap().file_name().to_owned());
    }
    for (index, name) in names.iter().enumerate() {
        let bytes = name.to_bytes();
        if bytes == b"." || bytes == b".." || bytes.starts_with(b"kept") || bytes.starts_with(b"mine") {
            continue;
        }
        let Ok(stat) = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if stat.st_uid == USER {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            if is_directory && let Ok(inner) = rustix::fs::openat(dir, name, flags, Mode::empty()) {
                attack_in(&inner, attack, number);
            }
            continue;
        }
        let mine = format!("mine-{number}-{index}");
        // A second name for later, where the kernel allows it.
        let linked = format!("kept-link-{number}-{index}");
        rustix::fs::linkat(dir, name, dir, linked, AtFlags::empty()).unwrap_or_default();
        if rustix::fs::renameat(dir, name, dir, format!("kept-{number}-{index}")).is_err() {
            continue;
        }
        match attack {
            Attack::File => {
                write(dir, &mine);
                rustix::fs::renameat(dir, &mine, dir, name).unwrap();
            }
            Attack::Directory => {
                rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o755)).unwrap();
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                let inner = rustix::fs::openat(dir, name, flags, Mode::empty()).unwrap();
                ["suid", "pkg", "bin"].iter().for_each(|name| write(&inner, name));
            }
            Attack::Symlink => rustix::fs::symlinkat("../victim", dir, name).unwrap(),
            // There is one only.
            Attack::Loot => rustix::fs::renameat(dir, "kept-loot", dir, name).unwrap_or_default(),
        }
    }
}

fn write(dir: &OwnedFd, name: &str) {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let file = rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o755)).unwrap();
    assert_eq!(rustix::io::write(&file, MINE).unwrap(), MINE.len());
}

/// What is his is his still, and what was root's alone is root's alone.
fn inspect(dir: &Path, what: &str) {
    let mut directories = vec![dir.to_owned()];
    let mut loot = 0;
    while let Some(path) = directories.pop() {
        for entry in fs::read_dir(&path).unwrap() {
            let path = entry.unwrap().path();
            let found = fs::symlink_metadata(&path).unwrap();
            if found.is_dir() {
                directories.push(path);
            } else if found.is_file() {
                let content = fs::read(&path).unwrap();
                if content == MINE {
                    assert_eq!((found.uid(), found.mode() & 0o7777), (USER, 0o755), "{path:?}, {what}");
                } else if content == b"secret" {
                    loot += 1;
                    assert_eq!((found.uid(), found.mode() & 0o7777), (0, 0o604), "{path:?}, {what}");
                    let above = fs::metadata(path.parent().unwrap()).unwrap();
                    assert_eq!((above.uid(), above.mode() & 0o7777), (0, 0o700), "{path:?}, {what}");
                }
            }
        }
    }
    assert_eq!(loot, 1, "{what}");
}

/// What is in a directory of root's, and what it is like.
fn facts(dir: &Path) -> Vec<(PathBuf, u32, u32, i64)> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut facts: Vec<_> = names
        .chain([dir.to_owned()])
        .map(|path| {
            let found = fs::symlink_metadata(&path).unwrap();
            (path, found.uid(), found.mode(), found.mtime_nsec())
        })
        .collect();
    facts.sort();
    facts
}

#[test]
fn a_copy_to_a_directory_of_another_user_gives_him_nothing_of_roots() {
    privilege::under(&[Privilege::Root], |_| {
        let scene = Scene::open();
        let dir = scene.path("user");
        let target = dir.to_str().unwrap();
        scene.try_all(&["cp", "-a", "one:/pkg/bin/suid", target], &dir, false);
        scene.try_all(&["cp", "-a", "one:/pkg", target], &dir, false);
        scene.try_all(&["cp", "-a", "one:/pkg", target], &dir, true);
    });
}

#[test]
fn a_copy_into_a_container_gives_its_users_nothing_of_roots() {
    privilege::under(&[Privilege::Root], |_| {
        let scene = Scene::open();
        let (from, dir) = (scene.path("pkg"), scene.root().join("home/user"));
        let words = ["cp", "-a", from.to_str().unwrap(), "one:/home/user"];
        scene.try_all(&words, &dir, false);
        scene.try_all(&words, &dir, true);
    });
}

#[test]
fn a_link_in_the_directory_does_not_lead_the_copy_away() {
    privilege::under(&[Privilege::Root], |_| {
        let scene = Scene::open();
        let dir = scene.path("user");
        scene.prepare(&dir, false);
        let victim = scene.path("victim");
        fs::create_dir_all(victim.join("bin")).unwrap();
        symlink(&victim, dir.join("pkg")).unwrap();
        let before = facts(&victim);
        let run = scene.run(&["cp", "-a", "one:/pkg", dir.to_str().unwrap()], &dir, &mut |_| {});
        assert_eq!(run.code, Some(1), "{}", run.errors);
        assert_eq!(facts(&victim), before);
    });
}
