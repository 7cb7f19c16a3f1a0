//! `squash` and `convert`: an image in another form.

use plywood::archive::SaveError;
use plywood::digest::DiffId;
use plywood::{ConvertOptions, Image, MediaTypes, SquashFrom, SquashOptions, Store, StoreError};
use serde_json::json;

use crate::args::{ConvertArgs, Documents, SquashArgs};
use crate::containers::now;
use crate::errors::Failure;
use crate::global::Context;
use crate::images;
use crate::progress::Meter;
use crate::signals::Interrupt;

/// `plywood squash`
pub(crate) fn squash(context: &Context, args: &SquashArgs) -> Result<(), Failure> {
    let name = args.name.as_deref().map(images::reference).transpose()?;
    let store = context.open()?;
    let image = images::find(&store, &args.image)?;
    let interrupt = Interrupt::watch()?;
    let mut options = SquashOptions::default();
    options.image = args.made.image(name, now);
    options.from = from(&store, &image, args)?;
    options.cancel = Some(interrupt.flag());
    let meter = Meter::new("squashing", context.output);
    let image = store.squash(&image, &options).map_err(|error| interrupt.explain(error.into()))?;
    drop(meter);
    images::tell_made(context, &image)
}

/// `plywood convert`
pub(crate) fn convert(context: &Context, args: &ConvertArgs) -> Result<(), Failure> {
    let name = args.name.as_deref().map(images::reference).transpose()?;
    let store = context.open()?;
    let image = images::find(&store, &args.image)?;
    let interrupt = Interrupt::watch()?;
    let meter = Meter::new("converting", context.output);
    let progress = |done, all| {
        meter.expect(all);
        meter.set(done);
    };
    let mut options = ConvertOptions::default();
    options.name = name;
    options.media_types = match (args.format, args.lossy) {
        (None, false) => MediaTypes::Keep,
        (Some(Documents::Oci), false) => MediaTypes::Oci,
        (Some(Documents::Docker), false) => MediaTypes::Docker,
        (Some(Documents::Docker), true) => MediaTypes::DockerLossy,
        (_, true) => return Err(Failure::Usage("--lossy is for --format docker".to_owned())),
    };
    options.compression = args.compression.unwrap_or_default();
    options.platform.clone_from(&args.platform);
    options.annotations = args.annotations.iter().cloned().collect();
    options.progress = Some(&progress);
    options.cancel = Some(interrupt.flag());
    let converted = store.convert(&image, &options);
    let converted = converted.map_err(|error| interrupt.explain(Failure::from(error).hinted(hint)))?;
    drop(meter);
    for warning in &converted.warnings {
        context.output.warn(&warning.to_string());
    }
    let image = &converted.image;
    if context.output.json {
        return context.output.json(&json!({
            "id": image.id().to_string(),
            "digest": image.digest().to_string(),
            "names": images::names(image),
            "warnings": converted.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        }));
    }
    // The id is that of the old one.
    context.output.line(image.digest().to_string())
}

/// The next step where an image cannot be converted.
fn hint(error: &StoreError) -> Option<String> {
    match error {
        StoreError::Save(SaveError::NotInDocker { what, .. }) if what.starts_with("layers compressed") => {
            Some("--compression gzip makes layers that docker reads".to_owned())
        }
        StoreError::Save(SaveError::NotInDocker { what, .. }) if !what.starts_with("layers") => {
            Some("--lossy leaves it out".to_owned())
        }
        _ => None,
    }
}

/// Which layers were said.
fn from(store: &Store, image: &Image, args: &SquashArgs) -> Result<SquashFrom, Failure> {
    Ok(match (&args.from, args.keep, &args.base) {
        (Some(layer), ..) => SquashFrom::Layer(layer_of(image, layer)?),
        (_, Some(count), _) => SquashFrom::Kept(count),
        (.., Some(base)) => SquashFrom::Base(Box::new(images::find(store, base)?)),
        (None, None, None) => SquashFrom::Bottom,
    })
}

/// The layer whose diff id begins like this.
fn layer_of(image: &Image, text: &str) -> Result<DiffId, Failure> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    let mut found: Vec<DiffId> = image.diff_ids().to_vec();
    found.retain(|layer| !hex.is_empty() && layer.as_digest().hex().starts_with(hex));
    found.dedup();
    let list = |layers: &[DiffId]| layers.iter().map(DiffId::to_string).collect::<Vec<_>>().join(", ");
    match found[..] {
        [layer] => Ok(layer),
        [] => {
            let layers = list(image.diff_ids());
            Err(Failure::Invalid(format!("{} has no layer {text}, but {layers}", image.label())))
        }
        _ => Err(Failure::Invalid(format!("{text} may be any of the layers {}", list(&found)))),
    }
}
