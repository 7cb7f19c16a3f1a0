//! `squash`: an image in another form.

use plywood::digest::DiffId;
use plywood::{Image, SquashFrom, SquashOptions, Store};

use crate::args::SquashArgs;
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
