//! Builds an image from a Dockerfile, as a build tool would on this crate: each step is a commit that the build cache
//! remembers, so that a second build of the same files does nothing.
//!
//! ```console
//! $ cargo run --example build -- STORE CONTEXT [-f FILE] [-t NAME] [--target STAGE] [--build-arg NAME=VALUE]... [--no-cache]
//! $ cargo run --example build -- /tmp/store . -t app:1
//! ```
//!
//! `STORE` is a store's directory that has the images which `FROM` names; nothing is pulled. `CONTEXT` is the directory that
//! `COPY` and `ADD` take files from, but for those in its `.dockerignore`. Prints the id of the image.
//!
//! Understood are FROM (also `scratch`), several stages, ARG, RUN, COPY (`--from`, `--chown`, `--chmod`), ADD of files and of
//! archives, WORKDIR, and every instruction that only changes the config. RUN needs crun or runc, and has no network. What is
//! not understood (here-documents, `RUN --mount`, ADD from the network) is refused by name, before anything is done.

// An example talks.
#![allow(clippy::print_stderr, clippy::print_stdout)]

#[path = "../run/bundle.rs"]
mod bundle;
mod dockerfile;
mod files;
#[path = "../run/runtime.rs"]
mod runtime;
mod step;
#[path = "../run/user.rs"]
mod user;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use dockerfile::Dockerfile;
use files::Ignored;
use plywood::changeset::Writer;
use plywood::fs::Dir;
use plywood::image::{Config, Descriptor, Index, Manifest, MediaType, expand_variables};
use plywood::{Image, LoadOptions, Platform, Reference, RemoveImage, StepKey, Store};
use step::Build;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    match run() {
        Ok(id) => {
            println!("{id}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprint!("build: {error}");
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

/// What the command line says.
#[derive(Default)]
struct Options {
    store: PathBuf,
    context: PathBuf,
    file: Option<PathBuf>,
    name: Option<Reference>,
    target: Option<String>,
    arguments: BTreeMap<String, String>,
    no_cache: bool,
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self::default();
        let mut places = Vec::new();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match &*word {
                "-f" => options.file = Some(value()?.into()),
                "-t" => options.name = Some(value()?.parse()?),
                "--target" => options.target = Some(value()?),
                "--build-arg" => {
                    let value = value()?;
                    let (name, value) = value.split_once('=').ok_or("--build-arg takes NAME=VALUE")?;
                    options.arguments.insert(name.to_owned(), value.to_owned());
                }
                "--no-cache" => options.no_cache = true,
                _ if word.starts_with('-') => return Err(format!("there is no option {word}").into()),
                _ => places.push(PathBuf::from(word)),
            }
        }
        let Ok([store, context]) = <[PathBuf; 2]>::try_from(places) else {
            return Err("usage: build STORE CONTEXT [-f FILE] [-t NAME] [--target STAGE] [--build-arg NAME=VALUE]... [--no-cache]".into());
        };
        Ok(Self { store, context, ..options })
    }
}

fn run() -> Result<String> {
    let options = Options::parse(std::env::args().skip(1))?;
    let path = options.file.clone().unwrap_or_else(|| options.context.join("Dockerfile"));
    let text = std::fs::read_to_string(&path).map_err(|error| format!("cannot read {path:?}: {error}"))?;
    let file = Dockerfile::parse(&text)?;
    let last = match &options.target {
        None => file.stages.len() - 1,
        Some(target) => file.stage(target).ok_or_else(|| format!("there is no stage {target:?}"))?,
    };
    let ignored = match std::fs::read_to_string(options.context.join(".dockerignore")) {
        Ok(text) => Ignored::parse(&text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ignored::default(),
        Err(error) => return Err(error.into()),
    };
    let store = Store::ensure(&options.store)?;
    let context = Dir::open_ambient(&options.context)?;
    let global = global_arguments(&file, &options.arguments)?;

    let mut built: Vec<Option<Image>> = vec![None; file.stages.len()];
    for number in needed(&file, last) {
        let stage = &file.stages[number];
        let base = expand_variables(&stage.base, |name| global.get(name).map(String::as_str))?;
        // A stage stands only on those before it.
        let earlier = file.stage(&base).filter(|earlier| *earlier < number);
        let image = match earlier.and_then(|earlier| built[earlier].clone()) {
            Some(image) => image,
            None if base == "scratch" => scratch(&store)?,
            None => store.image(&base)?,
        };
        eprintln!("FROM {base}");
        let mut build = Build {
            store: &store,
            context: &context,
            ignored: &ignored,
            file: &file,
            built: &built,
            global: &global,
            given: &options.arguments,
            no_cache: options.no_cache,
            arguments: BTreeMap::new(),
            image,
        };
        stage.lines.iter().try_for_each(|line| build.check(line))?;
        stage.lines.iter().try_for_each(|line| build.line(line))?;
        let image = build.image;
        built[number] = Some(image);
    }
    let image = built[last].take().ok_or("the last stage was not built")?;
    if let Some(name) = &options.name {
        store.tag(&image, name)?;
    }
    Ok(image.id().to_string())
}

/// The stages that `last` stands on or copies from, itself included, in their order.
fn needed(file: &Dockerfile, last: usize) -> Vec<usize> {
    let mut needed = vec![last];
    let mut at = 0;
    while let Some(&number) = needed.get(at) {
        let stage = &file.stages[number];
        let copied = stage.lines.iter().flat_map(|line| &line.flags);
        let names = copied.filter(|(name, _)| name == "from").map(|(_, value)| value).chain([&stage.base]);
        let stages = names.filter_map(|name| file.stage(name)).filter(|earlier| *earlier < number);
        needed.extend(stages.collect::<Vec<_>>());
        at += 1;
    }
    needed.sort_unstable();
    needed.dedup();
    needed
}

/// The values of what is declared before the first stage.
fn global_arguments(file: &Dockerfile, given: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
    let mut global = BTreeMap::new();
    for declared in &file.arguments {
        let (name, default) =
            declared.split_once('=').map_or((&**declared, None), |(name, value)| (name, Some(value)));
        let default =
            default.map(|default| expand_variables(default, |name| global.get(name).map(String::as_str)));
        if let Some(value) = given.get(name).cloned().map(Ok).or(default).transpose()? {
            global.insert(name.to_owned(), value);
        }
    }
    Ok(global)
}

/// The image of nothing, which `FROM scratch` means. Only the cache keeps it.
fn scratch(store: &Store) -> Result<Image> {
    let key = StepKey::new(None, b"FROM scratch");
    if let Some(image) = store.build_cache().find(&key)? {
        return Ok(image);
    }
    let config = Config::new(&Platform::host()).to_json();
    let manifest = Manifest::new(Descriptor::of(MediaType::OCI_CONFIG, &config), Vec::new()).to_json();
    let index = Index::new(vec![Descriptor::of(MediaType::OCI_MANIFEST, &manifest)]).to_json();
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", plywood::Digest::of(bytes).hex());
    let mut tar = Writer::new(Vec::new());
    for (name, content) in [
        ("oci-layout".to_owned(), &br#"{"imageLayoutVersion":"1.0.0"}"#[..]),
        ("index.json".to_owned(), &index),
        (blob(&config), &config),
        (blob(&manifest), &manifest),
    ] {
        tar.file(&step::file(&name, content.len() as u64)?, content)?;
    }
    let loaded = store.load(&tar.finish()?[..], &LoadOptions::default())?;
    let image = loaded.into_iter().next().ok_or("an archive of one image has none")?.image;
    store.build_cache().record(&key, &image, Some("FROM scratch"))?;
    store.remove_image(&image.id().to_string(), RemoveImage::Refuse)?;
    Ok(image)
}

/// The part of a path behind the last slash.
pub(crate) fn base_name(path: &str) -> &str {
    Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or(".")
}
