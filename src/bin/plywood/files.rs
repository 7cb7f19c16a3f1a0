//! What is read from and written to outside the store: archives in files and pipes.
//!
//! Invariant: what `-o` names is whole or untouched. It is written beside its place and renamed; only what is no regular
//! file (`/dev/null`, a pipe) is written directly, for there is nothing to replace.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal as _, Read, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::errors::Failure;
use crate::progress::Meter;
use crate::signals::Interrupt;

/// Bytes collected before they are written.
const BUFFER: usize = 256 << 10;

/// A stream of bytes to read, given up when the user interrupts.
#[derive(Debug)]
pub(crate) struct Input<'a> {
    file: File,
    /// A read of these can wait for ever, and a signal must end the waiting.
    can_wait: bool,
    length: Option<u64>,
    interrupt: &'a Interrupt,
}

impl<'a> Input<'a> {
    /// Opens standard input.
    ///
    /// It is a mistake to let people type an archive.
    pub(crate) fn stdin(interrupt: &'a Interrupt) -> Result<Self, Failure> {
        if io::stdin().is_terminal() {
            let message = "nothing to read: name a file or a directory, or pipe an archive in";
            return Err(Failure::Usage(message.to_owned()));
        }
        let file = io::stdin().as_fd().try_clone_to_owned().map(File::from);
        Self::new(file.map_err(|source| Failure::io("read standard input", source))?, interrupt)
    }

    /// Opens a file, or something else that can be read like one.
    pub(crate) fn open(path: &Path, interrupt: &'a Interrupt) -> Result<Self, Failure> {
        let file = File::open(path).map_err(|source| Failure::io(format!("open {path:?}"), source))?;
        Self::new(file, interrupt)
    }

    fn new(file: File, interrupt: &'a Interrupt) -> Result<Self, Failure> {
        let metadata = file.metadata().map_err(|source| Failure::io("ask about the input", source))?;
        let length = metadata.is_file().then_some(metadata.len());
        Ok(Self { file, can_wait: length.is_none(), length, interrupt })
    }

    /// How many bytes there are, if that is known.
    pub(crate) fn len(&self) -> Option<u64> {
        self.length
    }
}

impl Read for Input<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.interrupt.check()?;
        if self.can_wait {
            wait_for(&self.file, PollFlags::IN, self.interrupt)?;
        }
        self.file.read(buffer)
    }
}

/// A file to write to, given up when the user interrupts, also while it waits for whoever reads it.
#[derive(Debug)]
struct Patient<'a> {
    file: File,
    /// A write to these can wait for ever.
    can_wait: bool,
    interrupt: &'a Interrupt,
}

impl<'a> Patient<'a> {
    /// What a pipe takes without waiting once it says that it takes something (`PIPE_BUF`).
    const PIECE: usize = 4096;

    fn new(file: File, interrupt: &'a Interrupt) -> Result<Self, Failure> {
        let metadata = file.metadata().map_err(|source| Failure::io("ask about the output", source))?;
        let can_wait = metadata.file_type().is_fifo() || metadata.file_type().is_socket();
        Ok(Self { file, can_wait, interrupt })
    }
}

impl Write for Patient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.can_wait {
            return self.file.write(bytes);
        }
        wait_for(&self.file, PollFlags::OUT, self.interrupt)?;
        self.file.write(&bytes[..bytes.len().min(Self::PIECE)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Waits until something can be done with `file`.
fn wait_for(file: &File, what: PollFlags, interrupt: &Interrupt) -> io::Result<()> {
    // Another thread may get the signal, and this one would sleep on: hence the timeout.
    let timeout = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
    loop {
        match poll(&mut [PollFd::new(file, what)], Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => interrupt.check()?,
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Where a command writes an archive.
#[derive(Debug)]
pub(crate) struct Sink<'a> {
    file: BufWriter<Patient<'a>>,
    place: Place,
    written: u64,
    /// Why writing failed, if it did. The library wraps its error, and knows no name of what it writes to.
    failed: Option<io::Error>,
    interrupt: &'a Interrupt,
    meter: Option<&'a Meter>,
}

#[derive(Debug)]
enum Place {
    Stdout,
    Direct(PathBuf),
    Staged(Staged),
}

impl<'a> Sink<'a> {
    /// Opens what `-o` says; without it, or for `-`, standard output.
    pub(crate) fn open(
        output: Option<&Path>,
        interrupt: &'a Interrupt,
        meter: Option<&'a Meter>,
    ) -> Result<Self, Failure> {
        let (file, place) = match output {
            Some(path) if path != Path::new("-") => open_target(path)?,
            _ => {
                let file = io::stdout().as_fd().try_clone_to_owned().map(File::from);
                (file.map_err(Failure::stdout)?, Place::Stdout)
            }
        };
        if file.is_terminal() {
            let message = "an archive is nothing for a terminal: use -o FILE, or redirect the output";
            return Err(Failure::Usage(message.to_owned()));
        }
        let file = BufWriter::with_capacity(BUFFER, Patient::new(file, interrupt)?);
        Ok(Self { file, place, written: 0, failed: None, interrupt, meter })
    }

    /// Makes what was written visible; with `sync`, when it is on disk. Returns the number of bytes.
    pub(crate) fn finish(mut self, sync: bool) -> Result<u64, Failure> {
        let flushed = self.file.flush();
        if let Err(source) = flushed {
            return Err(self.failure(source));
        }
        if let Place::Staged(staged) = self.place {
            staged.publish(&self.file.get_ref().file, sync)?;
        }
        Ok(self.written)
    }

    /// `result`, after a look whether it is an error.
    fn noticing<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        if let Some(number) = result.as_ref().err().and_then(io::Error::raw_os_error) {
            self.failed = Some(io::Error::from_raw_os_error(number));
        }
        result
    }

    fn failure(&self, source: io::Error) -> Failure {
        match &self.place {
            Place::Stdout => Failure::stdout(source),
            Place::Direct(path) => Failure::io(format!("write {path:?}"), source),
            Place::Staged(staged) => Failure::io(format!("write {:?}", staged.target), source),
        }
    }

    /// `failure`, which came of writing to this, as it is to be reported.
    pub(crate) fn explain(mut self, failure: Failure) -> Failure {
        match self.failed.take() {
            Some(source) => self.failure(source),
            None => self.interrupt.explain(failure),
        }
    }
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.interrupt.check()?;
        let written = self.file.write(bytes);
        let count = self.noticing(written)?;
        self.written += count as u64;
        if let Some(meter) = self.meter {
            meter.add(count as u64);
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.file.flush();
        self.noticing(flushed)
    }
}

fn open_target(path: &Path) -> Result<(File, Place), Failure> {
    let failure = |source| Failure::io(format!("write {path:?}"), source);
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Err(failure(io::ErrorKind::IsADirectory.into())),
        Ok(metadata) if !metadata.is_file() => {
            let file = OpenOptions::new().write(true).open(path).map_err(failure)?;
            Ok((file, Place::Direct(path.to_owned())))
        }
        found => {
            // A symbolic link stays one: what it points at is replaced.
            let target =
                if found.is_ok() { fs::canonicalize(path).map_err(failure)? } else { path.to_owned() };
            let (staged, file) = Staged::file(target)?;
            Ok((file, Place::Staged(staged)))
        }
    }
}

/// Something that is written beside its place, and removed unless it is published.
#[derive(Debug)]
pub(crate) struct Staged {
    temporary: PathBuf,
    target: PathBuf,
    published: bool,
}

impl Staged {
    fn file(target: PathBuf) -> Result<(Self, File), Failure> {
        Self::make(target, |path| OpenOptions::new().write(true).create_new(true).mode(0o644).open(path))
    }

    /// A directory beside `target`, which must not exist or be empty.
    pub(crate) fn directory(target: &Path) -> Result<Self, Failure> {
        let failure = |source| Failure::io(format!("write {target:?}"), source);
        // A slash at the end would put the temporary name inside.
        let target: PathBuf = target.components().collect();
        match fs::read_dir(&target) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    return Err(failure(io::ErrorKind::DirectoryNotEmpty.into()));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failure(error)),
        }
        Ok(Self::make(target, |path| fs::DirBuilder::new().mode(0o755).create(path))?.0)
    }

    fn make<T>(target: PathBuf, create: impl Fn(&Path) -> io::Result<T>) -> Result<(Self, T), Failure> {
        let failure = |source| Failure::io(format!("write {target:?}"), source);
        let Some(name) = target.file_name() else {
            return Err(failure(io::ErrorKind::InvalidFilename.into()));
        };
        for attempt in 0.. {
            let mut hidden = OsString::from(".");
            hidden.push(name);
            hidden.push(format!(".{}-{attempt}.partial", std::process::id()));
            let temporary = target.with_file_name(hidden);
            match create(&temporary) {
                Ok(made) => return Ok((Self { temporary, target, published: false }, made)),
                // Left by a dead process that had our number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < 1000 => {}
                Err(error) => return Err(failure(error)),
            }
        }
        unreachable!("the loop returns")
    }

    /// Where to write.
    pub(crate) fn path(&self) -> &Path {
        &self.temporary
    }

    /// Gives it its name.
    pub(crate) fn publish(mut self, file: &File, sync: bool) -> Result<(), Failure> {
        let failure = |source| Failure::io(format!("write {:?}", self.target), source);
        if sync {
            file.sync_all().map_err(failure)?;
        }
        fs::rename(&self.temporary, &self.target).map_err(failure)?;
        self.published = true;
        if sync {
            let parent = self.target.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new("."));
            let synced = File::open(parent).and_then(|parent| parent.sync_all());
            synced.map_err(|source| Failure::io(format!("sync {parent:?}"), source))?;
        }
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.published {
            // The command has failed already and says why.
            let removed = match fs::symlink_metadata(&self.temporary) {
                Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&self.temporary),
                _ => fs::remove_file(&self.temporary),
            };
            removed.unwrap_or_default();
        }
    }
}
