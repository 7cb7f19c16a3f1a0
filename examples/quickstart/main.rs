//! The whole life of an image: packed, loaded, mounted, changed, committed, saved, loaded elsewhere, removed, collected.
//!
//! ```console
//! $ cargo run --release --example quickstart                      # an image of this machine's own programs
//! $ cargo run --release --example quickstart -- debian.tar        # any archive, or an OCI directory
//! $ cargo run --release --example quickstart -- --keep            # leaves the stores where they are
//! $ cargo run --release --example quickstart -- --store DIR       # in a place of your choice, empty or missing
//! ```
//!
//! Works as root, in a user namespace (`unshare -Ur`), and as a plain user, who gets copies instead of mounts. Nothing is
//! fetched. Everything happens in a temporary directory (`TMPDIR`) unless you name one.

// An example talks.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod machine;

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use plywood::image::time;
use plywood::{
    ArchiveFormat, CommitOptions, Container, CreateOptions, Digest, DriverChoice, DriverKind, ExportOptions,
    GcOptions, Image, LoadOptions, Mounted, Reference, RemoveContainer, RemoveImage, SaveOptions, Store,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What was said on the command line.
#[derive(Default)]
struct Arguments {
    source: Option<PathBuf>,
    place: Option<PathBuf>,
    driver: DriverChoice,
    keep: bool,
}

fn main() -> ExitCode {
    let result = arguments().and_then(|arguments| run(&arguments));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("quickstart: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprint!(": {error}");
                cause = error.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Result<Arguments> {
    let mut arguments = Arguments::default();
    let mut words = std::env::args_os().skip(1);
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("--keep") => arguments.keep = true,
            Some("--store") => {
                arguments.place = Some(words.next().ok_or("--store needs a directory")?.into())
            }
            Some("--driver") => {
                arguments.driver = match words.next().as_ref().and_then(|word| word.to_str()) {
                    Some("overlay") => DriverChoice::Only(DriverKind::Overlay),
                    Some("copy") => DriverChoice::Only(DriverKind::Copy),
                    _ => return Err("--driver needs overlay or copy".into()),
                };
            }
            Some(option) if option.starts_with('-') => {
                let usage = "[--keep] [--store DIR] [--driver overlay|copy] [ARCHIVE|OCI-DIRECTORY]";
                return Err(format!("unknown option {option}; usage: quickstart {usage}").into());
            }
            _ if arguments.source.is_none() => arguments.source = Some(word.into()),
            _ => return Err("one archive is enough".into()),
        }
    }
    Ok(arguments)
}

fn run(arguments: &Arguments) -> Result<()> {
    let mut temporary = tempfile::Builder::new().prefix("plywood-quickstart-").tempdir()?;
    if arguments.keep {
        temporary.disable_cleanup(true);
    }
    let place = arguments.place.clone().unwrap_or_else(|| temporary.path().join("store"));
    let begin = Instant::now();
    let images = live(arguments, &place, temporary.path())?;
    println!("\ndone in {:.2} s", begin.elapsed().as_secs_f64());
    if arguments.keep {
        println!("the store is in {}; an engine could start something there:", place.display());
        println!("  cargo run --example run -- {} {images} -- ls -l /", place.display());
    }
    Ok(())
}

/// Goes through everything, and says what the image is called.
fn live(arguments: &Arguments, place: &Path, scratch: &Path) -> Result<String> {
    // A store is a directory. What this machine can do in it is found out by trying.
    let step = Step::begin("store");
    let store = Store::options().driver(arguments.driver).create(place)?;
    let info = store.info()?;
    step.end(format_args!("{}", place.display()));
    note(format_args!("{}", info.reasons));

    let archive = match &arguments.source {
        Some(source) => source.clone(),
        None => {
            let step = Step::begin("pack");
            let archive = scratch.join("this-machine.tar");
            let packed = machine::pack(&archive)?;
            let machine::Packed { programs, entries, bytes } = packed;
            step.end(format_args!(
                "{programs} programs with their libraries: {entries} entries, {}",
                size(bytes)
            ));
            archive
        }
    };

    // Every blob is verified, and its layers are unpacked: all of this or nothing is in the store afterwards.
    let step = Step::begin("load");
    let image = load(&store, &archive)?;
    let name = image.label();
    step.end(format_args!("{name}: {} layers, {} stored", image.diff_ids().len(), size(image.size())));
    note(format_args!("image id {}", image.id()));
    let step = Step::begin("load again");
    load(&store, &archive)?;
    step.end(format_args!("nothing to do"));

    let step = Step::begin("create");
    let container = store.create_container(&image, &CreateOptions::named("quickstart"))?;
    step.end(format_args!("container {} ({})", container.name(), container.driver()));

    let step = Step::begin("mount");
    let mounted = container.mount()?;
    step.end(format_args!("{}", mounted.path().display()));

    let step = Step::begin("change");
    let did = change(&mounted)?;
    step.end(format_args!("{did}"));

    // Asked while the root is in use; an engine does not have to stop its processes for this.
    let step = Step::begin("changes");
    let changes = container.changes()?;
    step.end(format_args!("{} since the image", changes.len()));
    for change in changes.iter().take(12) {
        note(format_args!("{change}"));
    }
    let container = mounted.unmount()?;

    let step = Step::begin("commit");
    let changed: Reference = "quickstart/changed:1".parse()?;
    let options = CommitOptions::named(changed)
        .message("changed by the quickstart example")
        .change("LABEL quickstart=yes".parse()?)
        .created(time::from_system(SystemTime::now()));
    let committed = container.commit(&options)?;
    step.end(format_args!("{}: one layer more, {} in all", committed.label(), size(committed.size())));
    for step in committed.history().iter().rev().take(4) {
        let by = step.entry.created_by.as_deref().unwrap_or("-");
        let short: String = by.chars().take(60).collect();
        note(format_args!("{:>9}  {short}", size(step.size)));
    }

    let step = Step::begin("save");
    let saved = scratch.join("saved.tar");
    let format = ArchiveFormat::DockerArchive;
    store.save(
        &[image.clone(), committed.clone()],
        format,
        File::create(&saved)?,
        &SaveOptions::default(),
    )?;
    let bytes = std::fs::metadata(&saved)?.len();
    step.end(format_args!("both images in one archive of {} for docker, podman and others", size(bytes)));

    let step = Step::begin("load it");
    let elsewhere = Store::options().driver(arguments.driver).create(scratch.join("elsewhere"))?;
    load(&elsewhere, &saved)?;
    let again = elsewhere.image("quickstart/changed:1")?;
    same("image ids", image_ids(&committed), image_ids(&again))?;
    step.end(format_args!("into another store: same id, same manifest digest"));

    let step = Step::begin("export");
    let other = elsewhere.create_container(&again, &CreateOptions::default())?;
    let exports = [digest_of(&container)?, digest_of(&other)?];
    same("roots", exports[0], exports[1])?;
    step.end(format_args!("the root as one tar is the same there, byte for byte"));

    let step = Step::begin("remove");
    container.remove(RemoveContainer::Refuse)?;
    other.remove(RemoveContainer::Refuse)?;
    store.remove_image("quickstart/changed:1", RemoveImage::Refuse)?;
    if !arguments.keep {
        let images = store.images()?;
        for image in &images {
            store.remove_image(&image.id().to_string(), RemoveImage::Force)?;
        }
    }
    step.end(format_args!(
        "{}",
        if arguments.keep { "the containers" } else { "the containers and the images" }
    ));

    let step = Step::begin("gc");
    let report = store.gc(&GcOptions::default())?;
    let (blobs, layers) = (report.blobs.len(), report.layers.len());
    step.end(format_args!("{blobs} blobs and {layers} layers, {}", size(report.bytes)));
    Ok(name)
}

/// Loads what is at `path` and returns its image, or the first that can be run if there are several.
fn load(store: &Store, path: &Path) -> Result<Image> {
    let loaded = match path.is_dir() {
        true => store.load_directory(path, &LoadOptions::default())?,
        false => store.load(File::open(path)?, &LoadOptions::default())?,
    };
    for loaded in &loaded {
        for warning in loaded.warnings.iter().take(5) {
            note(format_args!("warning: {warning}"));
        }
    }
    let image = loaded.into_iter().map(|loaded| loaded.image).find(|image| image.config().is_some());
    image.ok_or_else(|| format!("{path:?} has no image with a root file system").into())
}

/// Does what programs in a container do. Whatever the image holds, nothing outside its root is reached: paths are below a
/// handle, and no symbolic link is followed.
fn change(mounted: &Mounted) -> Result<String> {
    let root = mounted.root();
    root.create_dir("quickstart", 0o755)?;
    root.create_file("quickstart/greeting", 0o644)?.write_all(b"hello from a container\n")?;
    root.create_symlink(b"greeting", "quickstart/link")?;
    let mut did = "made a directory with a file and a link".to_owned();
    if root.stat("etc/passwd").is_ok() {
        root.set_mode("etc/passwd", 0o600)?;
        did += ", closed /etc/passwd";
    }
    for victim in ["etc/motd", "etc/issue", "etc/hostname", "etc/os-release"] {
        if root.stat(victim).is_ok() {
            root.remove_file(victim)?;
            did += &format!(", deleted /{victim}");
            break;
        }
    }
    Ok(did)
}

/// The digest of a container's root as a tar.
fn digest_of(container: &Container) -> Result<Digest> {
    let hasher = plywood::HashingWriter::new(plywood::Algorithm::Sha256, std::io::sink());
    let mut out = BufWriter::new(hasher);
    container.export(&mut out, &ExportOptions::default())?;
    let hasher = out.into_inner().map_err(|error| error.into_error())?;
    Ok(hasher.finish().1)
}

fn image_ids(image: &Image) -> (Digest, Digest) {
    (image.id(), image.manifest_digest())
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, one: T, other: T) -> Result<()> {
    match one == other {
        true => Ok(()),
        false => Err(format!("{what} differ: {one:?} and {other:?}").into()),
    }
}

/// One line of output: what is done, how long it takes, what came of it.
struct Step {
    name: &'static str,
    begin: Instant,
}

impl Step {
    fn begin(name: &'static str) -> Self {
        Self { name, begin: Instant::now() }
    }

    fn end(self, said: std::fmt::Arguments<'_>) {
        let milliseconds = self.begin.elapsed().as_secs_f64() * 1000.0;
        println!("{:<11}{milliseconds:>9.1} ms  {said}", self.name);
    }
}

fn note(said: std::fmt::Arguments<'_>) {
    println!("{:25}{said}", "");
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}
