//! `cp`: files and directories in and out of a container, by docker's rules.
//!
//! Both ends are resolved alike: here from the root of this machine, there inside the root of the container. What moves
//! between them is a tar, and it is put in place only after all of it has come.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, PipeReader, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use plywood::container::{Copied, CopyError, CopyInOptions, CopyOutOptions, Located, copy_out, resolve};
use plywood::fs::{Dir, Kind};
use plywood::path::LayerPath;
use plywood::{Container, Store, StoreError};
use serde_json::json;

use crate::args::CpArgs;
use crate::containers;
use crate::errors::Failure;
use crate::files::Input;
use crate::global::Context;
use crate::progress::Meter;
use crate::save::write_archive;
use crate::signals::Interrupt;

/// One end of a copy, as it was said.
enum End<'a> {
    Stream,
    Local(&'a Path),
    Container(&'a str, PathBuf),
}

impl<'a> End<'a> {
    fn parse(said: &'a OsStr) -> Result<Self, Failure> {
        let bytes = said.as_bytes();
        if bytes.is_empty() {
            return Err(Failure::Usage("a path cannot be empty".to_owned()));
        }
        if bytes == b"-" {
            return Ok(Self::Stream);
        }
        let colon = bytes.iter().position(|&byte| byte == b':');
        let Some(colon) = colon.filter(|_| !bytes.starts_with(b"/") && !bytes.starts_with(b".")) else {
            return Ok(Self::Local(Path::new(said)));
        };
        let local =
            || format!("a file of this machine with a colon in its name is written \"./{}\"", said.display());
        match (str::from_utf8(&bytes[..colon]), &bytes[colon + 1..]) {
            (Ok("") | Err(_), _) => {
                Err(Failure::Usage(format!("no container is before the colon; {}", local())))
            }
            (Ok(container), b"") => Err(Failure::Usage(format!(
                "what of container {container}? Write {container}:PATH, such as {container}:/; {}",
                local()
            ))),
            (Ok(container), path) => Ok(Self::Container(container, PathBuf::from(OsStr::from_bytes(path)))),
        }
    }
}

/// `plywood cp`
pub(crate) fn copy(context: &Context, args: &CpArgs) -> Result<(), Failure> {
    let ends = (End::parse(&args.source)?, End::parse(&args.dest)?);
    if matches!(ends, (End::Container(..), End::Container(..))) {
        let message = "both ends are in containers: use `plywood cp ONE:PATH - | plywood cp - OTHER:DIR`";
        return Err(Failure::Usage(message.to_owned()));
    }
    let store = context.open()?;
    let interrupt = Interrupt::watch()?;
    let copying = Copying { context, args, store: &store, interrupt: &interrupt };
    let done = match ends {
        (End::Container(container, path), End::Local(dest)) => copying.fetch(container, &path, dest),
        (End::Container(container, path), End::Stream) => copying.fetch_tar(container, &path),
        (End::Local(source), End::Container(container, path)) => copying.bring(source, container, &path),
        (End::Stream, End::Container(container, path)) => copying.bring_tar(container, &path),
        _ => Err(Failure::Usage("one end must be in a container: write it CONTAINER:PATH".to_owned())),
    };
    done.map_err(|failure| interrupt.explain(failure).hinted(|error| next_step(error, args)))
}

/// What to do about a failure.
fn next_step(error: &StoreError, args: &CpArgs) -> Option<String> {
    let StoreError::Copy(error) = error else { return None };
    let step = match error {
        CopyError::NotFound { path } => match (End::parse(&args.source), End::parse(&args.dest)) {
            (Ok(End::Container(container, source)), _) if source == *path => {
                return Some(format!("`plywood cp {container}:/ - | tar -t` lists what is in the container"));
            }
            (Ok(End::Local(source)), _) if source == *path => return None,
            (Ok(End::Stream), _) => "a tar goes into a directory that is there",
            _ => "the directory that the copy is to be in must be there",
        },
        CopyError::NotADirectory { .. } => "name a directory, or leave the slash at the end away",
        CopyError::Replace { .. } => "remove it first, or choose another destination",
        CopyError::Special { .. } => {
            "to write to a stream, name `-` as the destination, which gives a tar, and redirect the output"
        }
        CopyError::Disturbed { .. } => {
            "stop what changes the destination, or copy to another place and move it"
        }
        _ => return None,
    };
    Some(step.to_owned())
}

struct Copying<'a> {
    context: &'a Context,
    args: &'a CpArgs,
    store: &'a Store,
    interrupt: &'a Interrupt,
}

impl Copying<'_> {
    fn fetch(&self, container: &str, source: &Path, dest: &Path) -> Result<(), Failure> {
        let container = containers::find(self.store, container)?;
        let meter = Meter::new("copying", self.context.output);
        let copied = container.with_root(|mounted| {
            let found = mounted.resolve(source, self.args.follow_link)?;
            refuse_special(dest)?;
            let target = Target::of(dest, source, &found, |path| on_this_machine(path, true))?;
            self.transfer(&found, source, &target, &self.options())
        })?;
        drop(meter);
        self.report(&container, &copied)
    }

    fn bring(&self, source: &Path, container: &str, dest: &Path) -> Result<(), Failure> {
        let container = containers::find(self.store, container)?;
        let found = on_this_machine(source, self.args.follow_link)?;
        let meter = Meter::new("copying", self.context.output);
        let copied = container.with_root(|mounted| {
            let target = Target::of(dest, source, &found, |path| Ok(mounted.resolve(path, true)?))?;
            let copied = self.transfer(&found, source, &target, &self.options().devices())?;
            if self.context.is_durable() {
                target.dir.sync_file_system().map_err(StoreError::from)?;
            }
            Ok::<_, Failure>(copied)
        })?;
        drop(meter);
        self.report(&container, &copied)
    }

    fn fetch_tar(&self, container: &str, source: &Path) -> Result<(), Failure> {
        let container = containers::find(self.store, container)?;
        let meter = Meter::new("copying", self.context.output);
        write_archive(self.context, None, self.interrupt, Some(&meter), |sink| {
            let mut options = CopyOutOptions::default();
            options.follow = self.args.follow_link;
            Ok(container.copy_out(source, sink, &options)?)
        })?;
        Ok(())
    }

    fn bring_tar(&self, container: &str, dest: &Path) -> Result<(), Failure> {
        let container = containers::find(self.store, container)?;
        let tar = Input::stdin(self.interrupt)?;
        let meter = Meter::new("copying", self.context.output);
        let copied = container.copy_in(dest, tar, &self.options())?;
        drop(meter);
        self.report(&container, &copied)
    }

    fn options(&self) -> CopyInOptions<'_> {
        let mut options = CopyInOptions::default();
        options.archive = self.args.archive;
        options.cancel = Some(self.interrupt.flag());
        options
    }

    /// Moves what was found at `source` to its target.
    fn transfer(
        &self,
        found: &Located,
        source: &Path,
        target: &Target,
        options: &CopyInOptions<'_>,
    ) -> Result<Copied, Failure> {
        let (reader, writer) = io::pipe().map_err(|error| Failure::io("make a pipe", error))?;
        let mut packing = CopyOutOptions::default();
        packing.name.clone_from(&target.name);
        thread::scope(|scope| {
            let (done, outcome) = channel();
            // Nobody is there to be told once the other side has failed.
            scope.spawn(move || done.send(copy_out(found, source, writer, &packing)).unwrap_or_default());
            let mut tar = Piped { reader, outcome, ended: false, failure: None };
            let copied = self.store.unpack_into(&target.dir, &mut tar, options);
            match tar.failure.take() {
                Some(cause) => Err(StoreError::from(cause).into()),
                None => Ok(copied?),
            }
        })
    }

    fn report(&self, container: &Container, copied: &Copied) -> Result<(), Failure> {
        let output = self.context.output;
        if !output.json {
            copied.warnings.iter().for_each(|warning| output.warn(warning));
            if copied.devices_left_out > 0 {
                output.warn(&left_out(copied));
            }
            return Ok(());
        }
        output.json(&json!({
            "id": container.id(),
            "entries": copied.entries,
            "size": copied.bytes,
            "warnings": copied.warnings,
            "devicesLeftOut": copied.devices_left_out,
        }))
    }
}

/// Says which devices were not copied.
fn left_out(copied: &Copied) -> String {
    let names: Vec<_> = copied.left_out.iter().take(3).map(ToString::to_string).collect();
    let more = copied.devices_left_out - names.len() as u64;
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}: devices are copied with -a only, and were left out", names.join(", "))
}

/// Refuses a destination that leads to a device, a pipe or a socket, also by links that only the kernel can follow
/// (`/dev/stdout`).
fn refuse_special(dest: &Path) -> Result<(), Failure> {
    // What cannot be asked about is looked at once more, and then the reason is said.
    let Ok(found) = std::fs::metadata(dest).map(|found| found.file_type()) else { return Ok(()) };
    let found = match () {
        () if found.is_char_device() => "character device",
        () if found.is_block_device() => "block device",
        () if found.is_fifo() => "named pipe",
        () if found.is_socket() => "socket",
        () => return Ok(()),
    };
    Err(StoreError::from(CopyError::Special { path: dest.to_owned(), found }).into())
}

/// What a path means on this machine.
fn on_this_machine(path: &Path, follow: bool) -> Result<Located, Failure> {
    let here = env::current_dir().map_err(|error| Failure::io("find the current directory", error))?;
    let root = Dir::open_ambient("/").map_err(StoreError::from)?;
    let found = resolve(&root, here.join(path), follow).map_err(|error| match error {
        // As it was said.
        CopyError::NotFound { .. } => CopyError::NotFound { path: path.to_owned() },
        CopyError::NotADirectory { .. } => CopyError::NotADirectory { path: path.to_owned() },
        other => other,
    });
    Ok(found.map_err(StoreError::from)?)
}

/// Where something goes.
struct Target {
    dir: Dir,
    /// What it is called there; `None` for its own name.
    name: Option<LayerPath>,
}

impl Target {
    /// Where what was `found` at `source` goes if `dest` is said: into a directory that is there, else under that name.
    fn of(
        dest: &Path,
        source: &Path,
        found: &Located,
        resolve: impl Fn(&Path) -> Result<Located, Failure>,
    ) -> Result<Self, Failure> {
        let refuse = |error: CopyError| Err(StoreError::from(error).into());
        if found.kind.is_none() {
            return refuse(CopyError::NotFound { path: source.to_owned() });
        }
        let said = dest.as_os_str().as_bytes();
        let end = said.iter().rposition(|&byte| byte != b'/').map_or(1, |last| last + 1);
        let there = resolve(Path::new(OsStr::from_bytes(&said[..end])))?;
        let Some(name) = there.name else { return Ok(Self { dir: there.dir, name: None }) };
        let (as_directory, dest) = (end < said.len(), dest.to_owned());
        match there.kind {
            // A file for which a directory was said to be there.
            None if as_directory && !found.is_directory() => refuse(CopyError::NotFound { path: dest }),
            Some(_) if as_directory => refuse(CopyError::NotADirectory { path: dest }),
            Some(kind) if !matches!(kind, Kind::File | Kind::Symlink | Kind::Directory) => {
                let found = match kind {
                    Kind::CharDevice => "character device",
                    Kind::BlockDevice => "block device",
                    Kind::Fifo => "named pipe",
                    _ => "socket",
                };
                refuse(CopyError::Special { path: dest, found })
            }
            Some(_) if found.is_directory() => {
                refuse(CopyError::Replace { path: dest, found: "file", wanted: "directory" })
            }
            _ => Ok(Self { dir: there.dir, name: Some(name_in_tar(&name)?) }),
        }
    }
}

fn name_in_tar(name: &OsString) -> Result<LayerPath, Failure> {
    LayerPath::parse(name.as_bytes()).map_err(|error| {
        let path = PathBuf::from(name);
        StoreError::from(CopyError::Name { path, source: error }).into()
    })
}

/// The reading end of a pipe whose writer may fail. An end that comes of that is an error and not the end of a tar.
struct Piped {
    reader: PipeReader,
    outcome: Receiver<Result<(), CopyError>>,
    ended: bool,
    failure: Option<CopyError>,
}

impl Read for Piped {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        if count > 0 || buffer.is_empty() || self.ended {
            return Ok(count);
        }
        match self.outcome.recv() {
            Ok(Ok(())) => {
                self.ended = true;
                Ok(0)
            }
            Ok(Err(cause)) => {
                self.failure = Some(cause);
                Err(io::Error::other("the source cannot be read"))
            }
            Err(_) => Err(io::Error::other("the source was not read to its end")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_makes_a_container_unless_the_word_begins_like_a_path() {
        let told = |said: &str| match End::parse(OsStr::new(said)) {
            Ok(End::Stream) => "stream".to_owned(),
            Ok(End::Local(path)) => format!("local {}", path.display()),
            Ok(End::Container(container, path)) => format!("{container} {}", path.display()),
            Err(_) => "refused".to_owned(),
        };
        for (said, expected) in [
            ("-", "stream"),
            ("a", "local a"),
            ("web:/etc", "web /etc"),
            ("web:a:b", "web a:b"),
            ("./a:b", "local ./a:b"),
            ("../a:b", "local ../a:b"),
            ("/a:b", "local /a:b"),
            (":a", "refused"),
            ("web:", "refused"),
            ("", "refused"),
        ] {
            assert_eq!(told(said), expected, "{said}");
        }
    }
}
