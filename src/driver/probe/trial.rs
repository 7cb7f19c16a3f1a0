//! The trials: what a container does, done in a scratch directory.

use std::io::{Read, Write};
use std::path::Path;

use rustix::io::Errno;

use super::super::error::DriverError;
use super::super::{
    Driver, DriverKind, FuseDriver, OverlayDriver, RootOptions, RootSpec, Unmount, Writable, mount_api,
};
use super::Refusal;
use crate::fs::{Context, Dir, Durability, Error, Optional};
use crate::stack::marks::Marks;
use crate::stack::{Stack, Tree};
use crate::whiteout::Namespace;

/// Whether a file that nobody may open can be opened.
pub(super) fn is_privileged(dir: &Dir) -> Result<bool, DriverError> {
    dir.make_file("locked", 0o600)?;
    dir.set_mode("locked", 0)?;
    match dir.open_file("locked") {
        Ok(_) => Ok(true),
        Err(error) if error.errno() == Some(Errno::ACCESS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn can_reflink(dir: &Dir) -> Result<bool, DriverError> {
    let mut from = dir.make_file("shared", 0o600)?;
    from.write_all(&[1; 4096]).at_path("write", || dir.path_of("shared"))?;
    let to = dir.make_file("clone", 0o600)?;
    Ok(rustix::fs::ioctl_ficlone(&to, &from).is_ok())
}

/// Which marks can be written, and read back.
pub(super) fn attributes(dir: &Dir) -> Result<(Namespace, Result<(), Refusal>), DriverError> {
    dir.create_private_dir("marked")?;
    let write = |family: Namespace| {
        let path = Path::new("marked");
        family.mark_opaque(dir, path)?;
        match dir.xattr(path, family.key("opaque"))?.as_deref() {
            Some(b"y") => Ok(()),
            _ => Err(Error::new("read back attributes of", dir.path_of(path), Errno::IO)),
        }
    };
    if write(Namespace::Trusted).is_ok() {
        return Ok((Namespace::Trusted, Ok(())));
    }
    Ok((Namespace::User, write(Namespace::User).map_err(|error| Refusal::from_error(&error, dir))))
}

/// Mounts two layers and does in the mount what containers do.
pub(super) fn overlay(dir: &Dir, family: Namespace, privileged: bool) -> Result<(), Refusal> {
    // The end of a mount waits for everything that the whole machine wrote to this file system, unless it is volatile.
    // Kernels before 5.10 cannot do that and are tried without.
    let trial = |volatile| {
        let name = if volatile { "volatile" } else { "plain" };
        mount_and_use(&dir.ensure_dir(name, 0o755)?, family, privileged, volatile)
    };
    trial(true).or_else(|_| trial(false)).map_err(|error| Refusal::from_error(&error, dir))
}

fn mount_and_use(dir: &Dir, family: Namespace, privileged: bool, volatile: bool) -> Result<(), DriverError> {
    let (trees, own) = (layers(dir, family)?, dir.ensure_dir("own", 0o700)?);
    let layers = Stack::new(&trees);
    let options = RootOptions { volatile, durability: Durability::Relaxed, ..RootOptions::default() };
    let spec = RootSpec::new(&layers, &own, "plywood:probe").with(options);
    let driver = OverlayDriver::new(family, privileged);
    driver.prepare(&spec)?;
    // Never attached, so that nothing stays mounted, however the process ends.
    use_root(&mount_api::open_root(&driver.mount_detached(&spec)?)?)
}

/// Has `driver` serve two layers and does in the mount what containers do.
pub(super) fn fuse(dir: &Dir, family: Namespace, driver: &FuseDriver) -> Result<(), Refusal> {
    let try_it = || {
        let dir = dir.ensure_dir("fuse", 0o755)?;
        let (trees, own) = (layers(&dir, family)?, dir.ensure_dir("own", 0o700)?);
        let layers = Stack::new(&trees);
        let options = RootOptions { durability: Durability::Relaxed, ..RootOptions::default() };
        let spec = RootSpec::new(&layers, &own, "plywood:probe").with(options);
        driver.prepare(&spec)?;
        let root = driver.mount(&spec, None)?;
        let used = use_root(&root.dir);
        drop(root.dir);
        let ended = match root.point {
            Some(point) => driver.unmount(spec.source, &point, Unmount::Clean),
            None => Ok(()),
        };
        used.and(ended)?;
        check_what_is_left(&layers, &driver.writable(&own)?)
    };
    try_it().map_err(|error: DriverError| Refusal::from_error(&error, dir))
}

/// A server may show one thing and write another, which comes out when it is started again.
fn check_what_is_left(layers: &Stack<'_>, writable: &Writable) -> Result<(), DriverError> {
    let Writable::Upper(upper) = writable else { return Ok(()) };
    let whole = Stack::new([upper].into_iter().chain(layers.trees().iter().copied()));
    let mut names = Vec::new();
    whole.walk::<Error>(&mut |path, _| {
        names.push(path.to_string());
        Ok(())
    })?;
    let expected = ["/created", "/directory", "/kept", "/opaque", "/opaque/above"];
    match names == expected {
        true => Ok(()),
        false => Err(unexpected(format!("afterwards there is {names:?} instead of {expected:?}"))),
    }
}

/// Two layers with everything that a mount can get wrong.
fn layers(dir: &Dir, family: Namespace) -> Result<[Tree; 2], DriverError> {
    let at = Path::new;
    let (bottom, top) = (dir.ensure_dir("bottom", 0o755)?, dir.ensure_dir("top", 0o755)?);
    for name in ["directory", "opaque"] {
        bottom.make_dir(name, 0o755)?;
        top.make_dir(name, 0o755)?;
        write(&bottom, &format!("{name}/below"), b"below")?;
        write(&top, &format!("{name}/above"), b"above")?;
    }
    for name in ["kept", "deleted", "removed"] {
        write(&bottom, name, name.as_bytes())?;
    }
    family.whiteout(&top, at("."), at("deleted"))?;
    family.mark_opaque(&top, at("opaque"))?;
    if family == Namespace::Trusted {
        // An attribute of an image, which must not act.
        top.set_xattr("directory", Namespace::User.key("opaque"), b"y")?;
        family.shield(&top, at("directory"))?;
    }
    Ok([top, bottom].map(|dir| Tree { dir, marks: Marks::Overlay(family), declares_root: true }))
}

fn use_root(root: &Dir) -> Result<(), DriverError> {
    expect_names(root, ".", &["directory", "kept", "opaque", "removed"])?;
    expect_names(root, "directory", &["above", "below"])?;
    expect_names(root, "opaque", &["above"])?;
    expect_content(root, "kept", b"kept")?;
    write(root, "created", b"created")?;
    root.set_mode("kept", 0o640)?;
    expect_content(root, "kept", b"kept")?;
    expect_content(root, "created", b"created")?;
    root.remove_file("removed")?;
    for name in ["above", "below"] {
        root.remove_file(format!("directory/{name}"))?;
    }
    // This is where an overlay with the wrong attributes fails.
    root.remove_dir("directory")?;
    root.create_dir("directory", 0o755)?;
    expect_names(root, "directory", &[])?;
    expect_names(root, ".", &["created", "directory", "kept", "opaque"])
}

fn write(dir: &Dir, path: &str, content: &[u8]) -> Result<(), Error> {
    dir.make_file(path, 0o644)?.write_all(content).at_path("write", || dir.path_of(path))
}

fn expect_content(dir: &Dir, path: &str, expected: &[u8]) -> Result<(), DriverError> {
    let mut content = Vec::new();
    dir.open_file(path)?.read_to_end(&mut content).at_path("read", || dir.path_of(path))?;
    if content == expected { Ok(()) } else { Err(unexpected(format!("{path} has the wrong content"))) }
}

fn expect_names(dir: &Dir, path: &str, expected: &[&str]) -> Result<(), DriverError> {
    let names = dir.open_dir(path)?.names()?;
    let names: Vec<_> = names.iter().map(|entry| String::from_utf8_lossy(&entry.name)).collect();
    if names != expected {
        return Err(unexpected(format!("{path} holds {names:?} instead of {expected:?}")));
    }
    for name in names {
        if dir.stat(Path::new(path).join(&*name)).optional()?.is_none() {
            return Err(unexpected(format!("{path} lists {name}, which is not there")));
        }
    }
    Ok(())
}

fn unexpected(what: String) -> DriverError {
    DriverError::Refused { kind: DriverKind::Overlay, reason: format!("in the trial mount {what}") }
}
