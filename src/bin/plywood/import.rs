//! `import` and `layer`: a root file system becomes an image, and one layer of an image a tar.

use std::path::Path;

use plywood::archive::LoadError;
use plywood::digest::DiffId;
use plywood::{Image, ImportOptions, Store, StoreError};
use serde_json::json;

use crate::args::{ImportArgs, LayerArgs};
use crate::containers::now;
use crate::errors::Failure;
use crate::files::Input;
use crate::global::Context;
use crate::images;
use crate::progress::Meter;
use crate::save::{add_path, write_archive};
use crate::signals::Interrupt;

/// `plywood import`
pub(crate) fn import(context: &Context, args: &ImportArgs) -> Result<(), Failure> {
    let name = args.name.as_deref().map(images::reference).transpose();
    // Docker's words are in this order, and other tools have another.
    let swapped = args.name.as_deref().is_some_and(|name| Path::new(name).exists() && !args.source.exists());
    let name = name.map_err(|failure| match failure {
        Failure::Invalid(why) if swapped => {
            Failure::Invalid(format!("{why}; the tar or directory comes first: `plywood import SOURCE NAME`"))
        }
        failure => failure,
    })?;
    let interrupt = Interrupt::watch()?;
    let source = Some(&*args.source).filter(|path| *path != Path::new("-"));
    let directory = source.filter(|path| path.is_dir());
    // What cannot be read makes no store.
    let input = match source {
        None => Some(Input::stdin(&interrupt)?),
        Some(path) if directory.is_none() => Some(Input::open(path, &interrupt)?),
        Some(_) => None,
    };
    let store = context.ensure()?;
    let meter = Meter::new("importing", context.output);
    if let Some(bytes) = input.as_ref().and_then(Input::len) {
        meter.expect(bytes);
    }
    let progress = |bytes| meter.set(bytes);
    let mut options = ImportOptions::default();
    options.image = args.made.image(name, now);
    options.platform.clone_from(&args.platform);
    options.take_archives = args.force;
    options.progress = Some(&progress);
    options.cancel = Some(interrupt.flag());
    let image = match (input, directory) {
        (Some(input), _) => store.import(input, &options),
        (None, Some(path)) => store.import_directory(path, &options),
        (None, None) => unreachable!("what is not opened is a directory"),
    };
    let image = image.map_err(|error| interrupt.explain(Failure::from(error).hinted(hint)))?;
    drop(meter);
    images::tell_made(context, &image)
}

/// The next step where something cannot be imported.
fn hint(error: &StoreError) -> Option<String> {
    match error {
        StoreError::Load(LoadError::ImageArchive { .. }) => {
            Some("`plywood load` reads it; --force imports its files as they are".to_owned())
        }
        _ => None,
    }
}

/// `plywood layer`
pub(crate) fn layer(context: &Context, args: &LayerArgs) -> Result<(), Failure> {
    let store = context.open()?;
    let (image, place) = wanted(&store, args)?;
    let target = args.output.as_deref().filter(|path| *path != Path::new("-"));
    let interrupt = Interrupt::watch()?;
    let bytes = write_archive(context, target, &interrupt, None, |sink| {
        store.write_layer(&image, place, sink, Some(interrupt.flag()))?;
        Ok(())
    })?;
    if context.output.json {
        let diff_id = image.diff_ids()[place].to_string();
        let mut object = json!({"diff_id": diff_id, "size": bytes});
        add_path(&mut object, target);
        return context.output.json(&object);
    }
    Ok(())
}

/// The layer that was said: of an image the one with that number, else the top one; or one by its diff id.
fn wanted(store: &Store, args: &LayerArgs) -> Result<(Image, usize), Failure> {
    let found = images::find(store, &args.layer);
    if let (Err(_), Ok(digest), None) = (&found, args.layer.parse(), args.number)
        && let Some(layer) = store.image_with_layer(&DiffId::of_tar(digest))?
    {
        return Ok(layer);
    }
    let image = found?;
    let count = image.diff_ids().len();
    match args.number.unwrap_or(count).checked_sub(1) {
        Some(place) if place < count => Ok((image, place)),
        _ if count == 0 => Err(Failure::Invalid(format!("{} has no layers", image.label()))),
        _ => Err(Failure::Invalid(format!("{} has the layers 1 to {count}", image.label()))),
    }
}
