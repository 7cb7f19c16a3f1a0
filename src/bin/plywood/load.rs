//! `load`: archives and directories become images of the store.

use std::path::Path;

use plywood::archive::LoadError;
use plywood::image::Reference;
use plywood::{LoadOptions, LoadedImage, StoreError, Unpack};
use serde::Serialize;

use crate::args::LoadArgs;
use crate::errors::Failure;
use crate::files::Input;
use crate::global::Context;
use crate::human;
use crate::output::Output;
use crate::progress::Meter;
use crate::signals::Interrupt;

/// How many warnings about one image a person reads.
const WARNINGS: usize = 10;

/// One image of `load --json`.
#[derive(Serialize)]
struct Loaded {
    id: String,
    digest: String,
    names: Vec<String>,
    /// Diff ids, bottom first.
    layers: Vec<String>,
    /// Names that another image had until now.
    moved: Vec<Moved>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Moved {
    name: String,
    /// The digest of the manifest that it pointed at.
    from: String,
}

impl Loaded {
    fn new(loaded: &LoadedImage) -> Self {
        let image = &loaded.image;
        let moved =
            |moved: &plywood::Moved| Moved { name: moved.name.familiar(), from: moved.from.to_string() };
        Self {
            id: image.id().to_string(),
            digest: image.manifest_digest().to_string(),
            names: loaded.names.iter().map(Reference::familiar).collect(),
            layers: image.diff_ids().iter().map(ToString::to_string).collect(),
            moved: loaded.moved.iter().map(moved).collect(),
            warnings: loaded.warnings.clone(),
        }
    }
}

/// The next step after an archive was refused.
fn hint(error: &StoreError, source: Option<&Path>) -> Option<String> {
    match error {
        StoreError::Load(LoadError::MissingLayers { .. }) => {
            Some("load the image that it was saved for first, or save it again without --base".to_owned())
        }
        StoreError::Load(LoadError::NotAnArchive { found }) => {
            let is_root = |dir: &Path| ["etc", "usr", "bin"].iter().any(|name| dir.join(name).exists());
            let may_be = found.contains("root file system") || source.is_some_and(is_root);
            let path = source.map_or_else(|| "-".into(), Path::to_string_lossy);
            may_be.then(|| format!("`plywood import {path} NAME` makes an image of it"))
        }
        _ => None,
    }
}

/// `plywood load`
pub(crate) fn load(context: &Context, args: &LoadArgs) -> Result<(), Failure> {
    let output = context.output;
    let interrupt = Interrupt::watch()?;
    let source = args.input.as_deref().or(args.path.as_deref()).filter(|path| *path != Path::new("-"));
    let directory = source.filter(|path| path.is_dir());
    // What cannot be read makes no store.
    let input = match source {
        None => Some(Input::stdin(&interrupt)?),
        Some(path) if directory.is_none() => Some(Input::open(path, &interrupt)?),
        Some(_) => None,
    };
    let store = context.ensure()?;

    let meter = Meter::new("loading", output);
    let length = input.as_ref().and_then(Input::len);
    if let Some(bytes) = length {
        meter.expect(bytes);
    }
    let progress = |bytes| match Some(bytes) == length {
        false => meter.set(bytes),
        true => meter.next("unpacking"),
    };
    let mut options = LoadOptions::default();
    options.unpack = if args.on_demand { Unpack::OnDemand } else { Unpack::Now };
    options.platforms = (!args.platforms.is_empty()).then(|| args.platforms.clone());
    options.progress = Some(&progress);
    options.cancel = Some(interrupt.flag());
    // skopeo and umoci call an image `latest` and nothing else; the name of the file is the only other word there is.
    options.repository =
        args.repository.clone().or_else(|| source.and_then(plywood::archive::repository_for));
    let loaded = match (input, directory) {
        (Some(input), _) => store.load(input, &options),
        (None, Some(path)) => store.load_directory(path, &options),
        (None, None) => unreachable!("what is not opened is a directory"),
    };
    let loaded = loaded.map_err(|error| {
        let is_archive = matches!(error, StoreError::Load(_));
        let failure = interrupt.explain(Failure::from(error).hinted(|error| hint(error, source)));
        let what = source.map_or_else(|| "standard input".to_owned(), |path| format!("{path:?}"));
        if is_archive { failure.about(what) } else { failure }
    });
    drop(meter);
    report(output, "Loaded", &loaded?)
}

/// Says what came in: `done` is what was done to it.
pub(crate) fn report(output: Output, done: &str, loaded: &[LoadedImage]) -> Result<(), Failure> {
    let loaded: Vec<Loaded> = loaded.iter().map(Loaded::new).collect();
    if output.json {
        return output.json(&loaded);
    }
    for image in &loaded {
        for Moved { name, from } in &image.moved {
            output.warn(&format!("{name} pointed at {from} until now, which is kept"));
        }
        let name = image.names.first().unwrap_or(&image.id);
        for warning in image.warnings.iter().take(WARNINGS) {
            output.warn(&format!("{name}: {warning}"));
        }
        if let Some(more @ 1..) = image.warnings.len().checked_sub(WARNINGS) {
            output.warn(&format!("{name}: and {} more, see --json", human::count(more as u64, "warning")));
        }
    }
    output.lines(loaded.iter().flat_map(|image| match &image.names[..] {
        _ if output.quiet => vec![image.id.clone()],
        [] => vec![format!("{done} image ID: {}", image.id)],
        names => names.iter().map(|name| format!("{done} image: {name}")).collect(),
    }))
}
