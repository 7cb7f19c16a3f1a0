//! `save` and `export`: what leaves the store, as an archive or a directory.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

use plywood::archive::Warning;
use plywood::fs::{Dir, Staging, Workspace};
use plywood::{ArchiveFormat, ExportOptions, Image, Known, SaveOptions, Store, StoreError};
use serde_json::{Value, json};

use crate::args::{ExportArgs, Format, SaveArgs};
use crate::containers;
use crate::errors::Failure;
use crate::files::{Sink, Staged};
use crate::global::Context;
use crate::images;
use crate::output::path_json;
use crate::progress::Meter;
use crate::signals::Interrupt;

/// `plywood save`
pub(crate) fn save(context: &Context, args: &SaveArgs) -> Result<(), Failure> {
    let store = context.open()?;
    let images = wanted(&store, &args.images)?;
    let target = args.output.as_deref().filter(|path| *path != Path::new("-"));
    let interrupt = Interrupt::watch()?;
    let meter = Meter::new("saving", context.output);
    let progress = |done, all| {
        meter.expect(all);
        meter.set(done);
    };
    let mut options = SaveOptions::default();
    options.platform.clone_from(&args.platform);
    options.compression = args.compression;
    options.known = known(&store, args)?;
    options.progress = Some(&progress);
    options.cancel = Some(interrupt.flag());
    options.durability = context.durability();
    let room = Room::beside(&store)?;
    options.workspace = room.as_ref().map(|room| &room.workspace);
    let mut warnings = Vec::new();
    let mut archive = |format| {
        write_archive(context, target, &interrupt, None, |sink| {
            warnings = store.save(&images, format, sink, &options)?;
            Ok(())
        })
    };
    let bytes = match archive_format(args.format) {
        Some(format) => Some(archive(format)?),
        None => {
            let Some(path) = target else {
                return Err(Failure::Usage("a directory needs a name: use -o DIR".to_owned()));
            };
            let saved = save_directory(context, &store, &images, path, &options);
            warnings = saved.map_err(|failure| interrupt.explain(failure))?;
            None
        }
    };
    drop(meter);
    for warning in &warnings {
        context.output.warn(&warning.to_string());
    }
    if context.output.json {
        let ids: Vec<_> = images.iter().map(|image| image.id().to_string()).collect();
        let warnings: Vec<_> = warnings.iter().map(ToString::to_string).collect();
        let mut object = json!({"images": ids, "size": bytes, "warnings": warnings});
        add_path(&mut object, target);
        return context.output.json(&object);
    }
    Ok(())
}

/// Room for layers that are compressed anew, among the temporary files.
struct Room {
    workspace: Workspace,
    /// Goes last, with what is in it.
    _directory: Staged,
}

impl Room {
    /// For a read-only store, which has none itself.
    fn beside(store: &Store) -> Result<Option<Self>, Failure> {
        if !store.is_read_only() {
            return Ok(None);
        }
        let directory = Staged::directory(&std::env::temp_dir().join("plywood-save"))?;
        let workspace = Dir::open_ambient(directory.path()).and_then(|dir| Staging::new(dir).workspace());
        Ok(Some(Self { workspace: workspace.map_err(StoreError::from)?, _directory: directory }))
    }
}

/// The form of an archive; `None` for a directory.
fn archive_format(format: Format) -> Option<ArchiveFormat> {
    match format {
        Format::DockerArchive => Some(ArchiveFormat::DockerArchive),
        Format::ClassicDockerArchive => Some(ArchiveFormat::ClassicDockerArchive),
        Format::OciArchive => Some(ArchiveFormat::OciArchive),
        Format::OciDir => None,
    }
}

/// What the receiver has.
fn known(store: &Store, args: &SaveArgs) -> Result<Known, Failure> {
    let mut known = Known::default();
    let format = archive_format(args.format).unwrap_or(ArchiveFormat::OciArchive);
    for base in &args.base {
        known.add(store.known(&images::find(store, base)?, format)?);
    }
    for path in &args.exclude_known {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|source| Failure::io(format!("read {path:?}"), source))?;
        if known.add_text(&text) == 0 {
            return Err(Failure::Invalid(format!("{path:?} names no digest of a layer (sha256:…)")));
        }
    }
    Ok(known)
}

/// The images that were said. Said by one of its names, an image goes under that name only; said by id, under all.
fn wanted(store: &Store, said: &[String]) -> Result<Vec<Image>, Failure> {
    let mut wanted: Vec<Image> = Vec::new();
    for said in said {
        let image = images::find(store, said)?;
        let names = match images::said_name(&image, said) {
            Some(name) => vec![name.clone()],
            None => image.names().to_vec(),
        };
        match wanted.iter_mut().find(|known| known.digest() == image.digest()) {
            None => wanted.push(image.with_names(names)),
            Some(known) => {
                let both: BTreeSet<_> = known.names().iter().cloned().chain(names).collect();
                *known = known.clone().with_names(both.into_iter().collect());
            }
        }
    }
    Ok(wanted)
}

/// Writes a layout beside its place and gives it its name when it is whole. To a layout that is there, the images are
/// added.
fn save_directory(
    context: &Context,
    store: &Store,
    images: &[Image],
    path: &Path,
    options: &SaveOptions<'_>,
) -> Result<Vec<Warning>, Failure> {
    if path.join("oci-layout").exists() {
        return Ok(store.save_directory(images, path, options)?);
    }
    let staged = Staged::directory(path)?;
    let warnings = store.save_directory(images, staged.path(), options)?;
    let directory = File::open(staged.path());
    let directory = directory.map_err(|source| Failure::io(format!("open {:?}", staged.path()), source))?;
    staged.publish(&directory, context.is_durable())?;
    Ok(warnings)
}

/// Says in `object` where something was written to.
pub(crate) fn add_path(object: &mut Value, target: Option<&Path>) {
    for (key, value) in target.map(path_json).iter().filter_map(Value::as_object).flatten() {
        object[key] = value.clone();
    }
}

/// `plywood export`
pub(crate) fn export(context: &Context, args: &ExportArgs) -> Result<(), Failure> {
    let store = context.open()?;
    let container = containers::find(&store, &args.container)?;
    let target = args.output.as_deref().filter(|path| *path != Path::new("-"));
    let interrupt = Interrupt::watch()?;
    let meter = Meter::new("exporting", context.output);
    let bytes = write_archive(context, target, &interrupt, Some(&meter), |sink| {
        let mut options = ExportOptions::default();
        options.config = args.config;
        options.cancel = Some(interrupt.flag());
        Ok(container.export(sink, &options)?)
    })?;
    drop(meter);
    if context.output.json {
        let mut object = json!({"id": container.id(), "size": bytes});
        add_path(&mut object, target);
        return context.output.json(&object);
    }
    Ok(())
}

/// Runs `write` on what `-o` says, and makes that visible if it succeeds.
pub(crate) fn write_archive(
    context: &Context,
    target: Option<&Path>,
    interrupt: &Interrupt,
    meter: Option<&Meter>,
    write: impl FnOnce(&mut Sink<'_>) -> Result<(), Failure>,
) -> Result<u64, Failure> {
    if context.output.json && target.is_none() {
        let message = "the archive and the JSON cannot both go to standard output: use -o FILE";
        return Err(Failure::Usage(message.to_owned()));
    }
    let mut sink = Sink::open(target, interrupt, meter)?;
    match write(&mut sink) {
        Ok(()) => sink.finish(context.is_durable()),
        Err(failure) => Err(sink.explain(failure)),
    }
}
