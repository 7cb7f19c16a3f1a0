//! What programs do to a root, by name. Each runs on a mounted root and on a plain directory with the same content.

use std::fs::{self, File, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;

use crate::common::privilege::Privilege;
use crate::common::{have, run_command};

/// What is done, and whether a process with this privilege may.
pub struct Edit {
    pub name: &'static str,
    pub done: fn(&Path),
    pub allowed: fn(Privilege) -> bool,
}

const fn edit(name: &'static str, done: fn(&Path)) -> Edit {
    Edit { name, done, allowed: |_| true }
}

/// Those that fuse-overlayfs refuses: it neither makes sockets nor copies pipes and devices up,
/// and keeps four bytes of each name for itself.
pub const REFUSED_BY_FUSE: &[&str] = &[
    "a socket is made, and a pipe from below is changed",
    "devices are made and changed",
    "a name is as long as names can be",
    "times of everything are set",
];

/// Every edit.
pub const EDITS: &[Edit] = &[
    edit("nothing", |_| {}),
    edit("a file is opened for writing and left alone", |root| {
        drop(File::options().write(true).open(root.join("etc/passwd")).unwrap());
    }),
    edit("a file is written from its start", |root| {
        let mut file = File::options().read(true).write(true).open(root.join("usr/lib/libc.so")).unwrap();
        file.write_all(b"changed").unwrap();
        file.rewind().unwrap();
        let mut content = Vec::new();
        file.read_to_end(&mut content).unwrap();
        assert_eq!((content.len(), &content[..8]), (70_000, &b"changed\x07"[..]));
    }),
    edit("a file is appended to", |root| {
        File::options().append(true).open(root.join("etc/passwd")).unwrap().write_all(b"more\n").unwrap();
    }),
    edit("a file is truncated", |root| {
        File::create(root.join("etc/passwd")).unwrap();
        File::options().write(true).open(root.join("usr/lib/libc.so")).unwrap().set_len(100).unwrap();
    }),
    edit("a file is made longer", |root| {
        File::options().write(true).open(root.join("etc/passwd")).unwrap().set_len(1 << 20).unwrap();
    }),
    edit("a file is replaced by rename, as editors do", |root| {
        fs::write(root.join("etc/.passwd.new"), "replaced\n").unwrap();
        fs::rename(root.join("etc/.passwd.new"), root.join("etc/passwd")).unwrap();
    }),
    edit("an open file shows what others write to it", |root| {
        let reader = {
            // Once it is in the upper layer. A handle from before sees the lower file, as the kernel documents.
            File::options().append(true).open(root.join("etc/passwd")).unwrap();
            File::open(root.join("etc/passwd")).unwrap()
        };
        let writer = File::options().write(true).open(root.join("etc/passwd")).unwrap();
        writer.write_all_at(b"seen", 0).unwrap();
        let mut content = [0; 4];
        reader.read_exact_at(&mut content, 0).unwrap();
        assert_eq!(&content, b"seen");
    }),
    edit("modes of files and directories are changed", |root| {
        for (path, mode) in [("etc/passwd", 0o4711), ("usr/lib", 0o2700), ("tmp", 0o755), ("bin/sh", 0o600)] {
            fs::set_permissions(root.join(path), Permissions::from_mode(mode)).unwrap();
        }
    }),
    Edit {
        name: "owners of files, directories and links are changed",
        done: |root| {
            for (number, path) in ["etc/passwd", "usr/lib", "lib"].into_iter().enumerate() {
                let (uid, gid) = (2000 + number as u32, 3000 + number as u32);
                let nofollow = AtFlags::SYMLINK_NOFOLLOW;
                let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
                rustix::fs::chownat(CWD, root.join(path), Some(uid), Some(gid), nofollow).unwrap();
            }
        },
        allowed: |privilege| matches!(privilege, Privilege::Root | Privilege::IdRange),
    },
    edit("attributes are set, changed and removed", |root| {
        let set = |path: &str, name: &str, value: &[u8]| {
            rustix::fs::lsetxattr(root.join(path), name, value, XattrFlags::empty()).unwrap();
        };
        set("home/user/note", "user.note", b"another");
        set("etc/passwd", "user.new", b"\0\n=");
        set("usr", "user.directory", b"");
        rustix::fs::lremovexattr(root.join("data-too"), "user.empty").unwrap();
    }),
    Edit {
        name: "a file gets a capability",
        done: |root| {
            // Version 2: CAP_NET_RAW, permitted and effective.
            let mut value = [0_u8; 20];
            value[..8].copy_from_slice(&[1, 0, 0, 2, 0, 0x20, 0, 0]);
            let path = root.join("bin/sh");
            rustix::fs::lsetxattr(path, "security.capability", &value, XattrFlags::empty()).unwrap();
        },
        allowed: |privilege| privilege == Privilege::Root,
    },
    edit("access control lists are set and inherited", |root| {
        if have(&["setfacl"]) {
            let id = rustix::process::geteuid().as_raw();
            let set = |arguments: &[&str], path: &str| {
                run_command(Command::new("setfacl").args(arguments).arg(root.join(path)));
            };
            set(&["-m", &format!("u:{id}:rwx,m::rx")], "etc/passwd");
            set(&["-d", "-m", &format!("g::rx,u:{id}:rw")], "usr/lib");
            fs::write(root.join("usr/lib/heir"), "inherits").unwrap();
            fs::create_dir(root.join("usr/lib/heirs")).unwrap();
        }
    }),
    edit("files are renamed, also over others", |root| {
        fs::rename(root.join("home/user/note"), root.join("moved")).unwrap();
        fs::rename(root.join("etc/passwd"), root.join("etc/shadow")).unwrap();
        fs::rename(root.join("lib"), root.join("usr/lib/link")).unwrap();
    }),
    edit("directories from below are renamed, as mv does", |root| {
        run_command(Command::new("mv").arg("-T").arg(root.join("usr")).arg(root.join("resources")));
        run_command(Command::new("mv").arg("-T").arg(root.join("home/user")).arg(root.join("user")));
        fs::write(root.join("resources/share/new"), "changed after it moved").unwrap();
    }),
    edit("a new directory takes the place of an empty one", |root| {
        fs::create_dir(root.join("fresh")).unwrap();
        fs::write(root.join("fresh/file"), "fresh").unwrap();
        fs::rename(root.join("fresh"), root.join("empty")).unwrap();
    }),
    edit("files from below get more names", |root| {
        fs::hard_link(root.join("usr/lib/libc.so"), root.join("libc-too")).unwrap();
        fs::hard_link(root.join("libc-too"), root.join("etc/libc-three")).unwrap();
        File::options().append(true).open(root.join("libc-too")).unwrap().write_all(b"for all").unwrap();
    }),
    edit("files are deleted and made again", |root| {
        fs::remove_file(root.join("etc/passwd")).unwrap();
        fs::write(root.join("etc/passwd"), "again").unwrap();
        fs::remove_file(root.join("usr/share/new")).unwrap();
        fs::remove_file(root.join("lib")).unwrap();
        symlink("usr/lib", root.join("lib")).unwrap();
    }),
    edit("directories are deleted and made again", |root| {
        fs::remove_dir_all(root.join("usr/share")).unwrap();
        fs::create_dir(root.join("usr/share")).unwrap();
        fs::remove_dir_all(root.join("etc")).unwrap();
        fs::create_dir_all(root.join("etc/deep/deeper")).unwrap();
        fs::write(root.join("etc/shadow"), "same name, nothing from below").unwrap();
        fs::remove_dir_all(root.join("home")).unwrap();
    }),
    edit("everything changes its type", |root| {
        let remove = |path: &str| fs::remove_dir_all(root.join(path)).unwrap();
        fs::remove_file(root.join("etc/passwd")).unwrap();
        fs::create_dir(root.join("etc/passwd")).unwrap();
        fs::write(root.join("etc/passwd/inside"), "file to directory").unwrap();
        remove("usr/share");
        fs::write(root.join("usr/share"), "directory to file").unwrap();
        remove("home");
        symlink("tmp", root.join("home")).unwrap();
        fs::remove_file(root.join("lib")).unwrap();
        fs::create_dir(root.join("lib")).unwrap();
        fs::remove_file(root.join("data")).unwrap();
        symlink("lib", root.join("data")).unwrap();
        fs::remove_file(root.join("run/pipe")).unwrap();
        fs::write(root.join("run/pipe"), "pipe to file").unwrap();
    }),
    edit("a file is changed through a mapping", |root| {
        if have(&["xfs_io"]) {
            let steps = ["-c", "mmap -rw 0 70000", "-c", "mwrite -S 0x61 4090 20", "-c", "msync -s"];
            run_command(Command::new("xfs_io").args(steps).arg(root.join("usr/lib/libc.so")));
        }
    }),
    edit("files with holes are written and changed", |root| {
        let file = File::create(root.join("hole")).unwrap();
        file.set_len(8 << 20).unwrap();
        file.write_all_at(b"island", 4 << 20).unwrap();
        let below = File::options().write(true).open(root.join("var/log/lastlog")).unwrap();
        below.write_all_at(&[3; 4096], 768 << 10).unwrap();
        let mut end = &below;
        assert_eq!(end.seek(SeekFrom::End(0)).unwrap(), 1 << 20);
    }),
    edit("a file without a name gets one", |root| {
        let flags = OFlags::TMPFILE | OFlags::RDWR;
        let mode = Mode::from_raw_mode(0o640);
        let named = root.join("usr/named");
        match rustix::fs::open(root.join("tmp"), flags, mode).map(File::from) {
            Ok(mut file) => {
                file.write_all(b"made without a name").unwrap();
                let own = format!("/proc/self/fd/{}", file.as_raw_fd());
                rustix::fs::linkat(CWD, own, CWD, named, AtFlags::SYMLINK_FOLLOW).unwrap();
            }
            // Where there is no such thing, programs do without.
            Err(Errno::OPNOTSUPP) => {
                fs::write(&named, "made without a name").unwrap();
                fs::set_permissions(named, Permissions::from_mode(0o640)).unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    }),
    edit("open files live on without a name", |root| {
        let path = root.join("usr/lib/libc.so");
        let below = File::options().read(true).write(true).open(&path).unwrap();
        let mut own =
            File::options().read(true).write(true).create_new(true).open(root.join("gone")).unwrap();
        fs::remove_file(&path).unwrap();
        fs::remove_file(root.join("gone")).unwrap();
        below.write_all_at(b"still", 69_998).unwrap();
        own.write_all(b"still").unwrap();
        assert_eq!(below.metadata().unwrap().len(), 70_003);
        assert_eq!(own.metadata().unwrap().len(), 5);
    }),
    edit("a pipe is made", |root| {
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(CWD, root.join("run/fresh"), FileType::Fifo, mode, 0).unwrap();
    }),
    edit("a socket is made, and a pipe from below is changed", |root| {
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(CWD, root.join("run/socket"), FileType::Socket, mode, 0).unwrap();
        fs::set_permissions(root.join("run/pipe"), Permissions::from_mode(0o666)).unwrap();
    }),
    Edit {
        name: "devices are made and changed",
        done: |root| {
            let (mode, zero) = (Mode::from_raw_mode(0o600), rustix::fs::makedev(1, 5));
            rustix::fs::mknodat(CWD, root.join("dev/zero"), FileType::CharacterDevice, mode, zero).unwrap();
            fs::set_permissions(root.join("dev/null"), Permissions::from_mode(0o600)).unwrap();
            fs::remove_file(root.join("dev/loop0")).unwrap();
        },
        allowed: |privilege| privilege == Privilege::Root,
    },
    edit("names are as strange as names can be", |root| {
        use std::os::unix::ffi::OsStrExt;
        for name in [&b"\xff\xfe"[..], b"new\nline", b" ", b"-rf", b"\\", b"a:b,c"] {
            fs::write(root.join("tmp").join(std::ffi::OsStr::from_bytes(name)), name).unwrap();
        }
    }),
    edit("a name is as long as names can be", |root| {
        fs::write(root.join("tmp").join("n".repeat(255)), "long").unwrap();
    }),
    edit("many write at once", |root| {
        std::thread::scope(|scope| {
            for writer in 0..4 {
                scope.spawn(move || {
                    for round in 0..50 {
                        let mut log = File::options().append(true).open(root.join("etc/passwd")).unwrap();
                        log.write_all(b"one line of all\n").unwrap();
                        let own = root.join(format!("tmp/{writer}-{round}"));
                        fs::write(&own, format!("{writer} {round}")).unwrap();
                        if round % 2 == 0 {
                            fs::remove_file(&own).unwrap();
                        }
                    }
                });
            }
        });
    }),
    edit("times of files and directories are set", |root| {
        for (path, seconds) in [("etc/passwd", -5), ("usr/lib", 0), ("bin/sh", 4_000_000_000)] {
            crate::world::touch(&root.join(path), seconds, 999_999_999);
        }
    }),
    edit("times of everything are set", |root| {
        for (path, seconds) in [("etc/passwd", -5), ("usr/lib", 0), ("lib", 4_000_000_000), ("run/pipe", 7)] {
            crate::world::touch(&root.join(path), seconds, 999_999_999);
        }
    }),
];

/// What leaves marks in an upper directory where those are allowed.
pub const MARKING: &[Edit] = &[
    edit("a directory is renamed where it is", |root| mv(root, "usr/lib", "usr/lib64")),
    edit("a directory is moved into another and edited there", |root| {
        mv(root, "home/user", "var/mover");
        fs::write(root.join("var/mover/added"), "added").unwrap();
        fs::remove_file(root.join("var/mover/note")).unwrap();
        fs::set_permissions(root.join("var/mover/more"), Permissions::from_mode(0o640)).unwrap();
    }),
    edit("a directory is moved and another takes its name", |root| {
        mv(root, "usr/lib", "lib-of-old");
        fs::create_dir(root.join("usr/lib")).unwrap();
        fs::write(root.join("usr/lib/libc.so"), "another").unwrap();
    }),
    edit("directories change names", |root| {
        mv(root, "etc", "between");
        mv(root, "bin", "etc");
        mv(root, "between", "bin");
        fs::write(root.join("bin/passwd"), "moved twice").unwrap();
    }),
    edit("a directory is moved and moved back", |root| {
        mv(root, "usr/lib", "away");
        fs::write(root.join("away/more"), "more").unwrap();
        mv(root, "away", "usr/lib");
    }),
    edit("a moved directory is moved inside a moved one, and taken out of it", |root| {
        mv(root, "usr/share", "home/user/share");
        mv(root, "home", "homes");
        mv(root, "homes/user", "user-of-old");
        mv(root, "user-of-old/share", "share");
        fs::write(root.join("share/new"), "edited").unwrap();
    }),
    edit("a directory is moved over an empty one", |root| {
        mv(root, "usr/lib", "empty-to-be");
        fs::remove_dir(root.join("empty")).unwrap();
        mv(root, "empty-to-be", "empty");
    }),
    edit("a moved directory is removed", |root| {
        mv(root, "usr/lib", "away");
        fs::remove_dir_all(root.join("away")).unwrap();
    }),
    edit("a file's metadata changes, and then its name", |root| {
        fs::set_permissions(root.join("usr/lib/libc.so"), Permissions::from_mode(0o711)).unwrap();
        fs::rename(root.join("usr/lib/libc.so"), root.join("usr/lib/libc.so.1")).unwrap();
        fs::rename(root.join("usr/lib/libc.so.1"), root.join("libc")).unwrap();
        std::os::unix::fs::chown(root.join("etc/passwd"), Some(5), Some(6)).unwrap();
    }),
    edit("a file's metadata changes in a directory that is moved before and after", |root| {
        mv(root, "usr/lib", "lib-one");
        fs::set_permissions(root.join("lib-one/libc.so"), Permissions::from_mode(0o700)).unwrap();
        mv(root, "lib-one", "home/lib-two");
        fs::rename(root.join("home/lib-two/libc.so"), root.join("home/lib-two/same")).unwrap();
    }),
    edit("a file's metadata changes and gets a second name", |root| {
        fs::set_permissions(root.join("usr/lib/libc.so"), Permissions::from_mode(0o500)).unwrap();
        fs::hard_link(root.join("usr/lib/libc.so"), root.join("etc/linked")).unwrap();
        fs::rename(root.join("usr/lib/libc.so"), root.join("usr/one")).unwrap();
    }),
    edit("a file's metadata changes, and its content after a move", |root| {
        fs::set_permissions(root.join("usr/lib/libc.so"), Permissions::from_mode(0o500)).unwrap();
        fs::rename(root.join("usr/lib/libc.so"), root.join("etc/libc.so")).unwrap();
        File::options().append(true).open(root.join("etc/libc.so")).unwrap().write_all(b"more").unwrap();
    }),
    edit("an attribute is given to a file, and taken", |root| {
        let (path, flags) = (root.join("data-too"), XattrFlags::empty());
        rustix::fs::lsetxattr(&path, "user.given", b"value", flags).unwrap();
        rustix::fs::lremovexattr(&path, "user.empty").unwrap();
    }),
];

/// As a person would: where the kernel does not rename a directory, it is copied.
pub fn mv(root: &Path, from: &str, to: &str) {
    run_command(Command::new("mv").arg("-T").arg(root.join(from)).arg(root.join(to)));
}
