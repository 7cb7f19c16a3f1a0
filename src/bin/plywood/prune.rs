//! `image prune`, `container prune`, `builder prune`, `system prune`; and `builder ls`.

use std::time::SystemTime;

use plywood::image::time;
use plywood::{CachedStep, PruneImages, PruneOptions, PruneReport, Reference};
use serde_json::{Value, json};

use crate::args::{BuilderPruneArgs, ContainerPruneArgs, Filter, ImagePruneArgs, PruneArgs, SystemPruneArgs};
use crate::errors::Failure;
use crate::global::Context;
use crate::human;
use crate::output::Table;
use crate::progress::Meter;
use crate::signals::Interrupt;

/// `plywood image prune`
pub(crate) fn images(context: &Context, args: &ImagePruneArgs) -> Result<(), Failure> {
    prune(context, PruneOptions::images(which(args.all)), &args.common)
}

/// `plywood container prune`
pub(crate) fn containers(context: &Context, args: &ContainerPruneArgs) -> Result<(), Failure> {
    prune(context, PruneOptions::containers(), &args.common)
}

/// `plywood builder prune`
pub(crate) fn steps(context: &Context, args: &BuilderPruneArgs) -> Result<(), Failure> {
    prune(context, PruneOptions::build_cache(), &args.common)
}

/// `plywood builder ls`
pub(crate) fn list_steps(context: &Context) -> Result<(), Failure> {
    let steps = match context.open_if_there()? {
        None => Vec::new(),
        Some(store) => store.build_cache().steps()?,
    };
    let output = context.output;
    if output.json {
        return output.json(&steps.iter().map(step).collect::<Vec<_>>());
    }
    if output.quiet {
        return output.lines(steps.iter().map(|step| step.key.to_string()));
    }
    let now = time::from_system(SystemTime::now());
    let mut table = Table::new(&["STEP", "LAST USED", "MANIFEST", "NOTE"]);
    for step in &steps {
        table.row([
            human::short(&step.key.to_string()).to_owned(),
            human::age(step.last_used, now),
            human::short(&step.manifest_digest.to_string()).to_owned(),
            step.note.clone().unwrap_or_default(),
        ]);
    }
    table.print(output)
}

fn step(step: &CachedStep) -> Value {
    json!({
        "key": step.key.to_string(),
        "digest": step.manifest_digest.to_string(),
        "note": step.note,
        "last_used": time::format(step.last_used).ok(),
    })
}

/// `plywood system prune`
pub(crate) fn system(context: &Context, args: &SystemPruneArgs) -> Result<(), Failure> {
    let mut options = PruneOptions::images(which(args.all));
    options.containers = true;
    options.build_cache = true;
    prune(context, options, &args.common)
}

fn which(all: bool) -> PruneImages {
    if all { PruneImages::All } else { PruneImages::Dangling }
}

fn prune(context: &Context, mut options: PruneOptions<'_>, args: &PruneArgs) -> Result<(), Failure> {
    options.dry_run = args.dry_run;
    for filter in &args.filters {
        match filter.clone() {
            // The earliest of several is what all of them let through.
            Filter::Until(time) => options.until = Some(options.until.map_or(time, |until| until.min(time))),
            Filter::Label(label) => options.labels.push(label),
            Filter::WithoutLabel(label) => options.without_labels.push(label),
            Filter::Dangling(_) if options.images == PruneImages::None => {
                return Err(Failure::Usage("dangling= is a filter for images".to_owned()));
            }
            Filter::Dangling(dangling) => options.images = which(!dangling),
        }
    }
    let report = match context.open_if_there()? {
        None => PruneReport::default(),
        Some(store) => {
            let _meter = Meter::new("pruning", context.output);
            let interrupt = Interrupt::watch()?;
            let mut options = options;
            options.cancel = Some(interrupt.flag());
            let hinted = |error| Failure::from(error).hinted(|error| crate::images::hint(&store, error));
            store.prune(&options).map_err(|error| interrupt.explain(hinted(error)))?
        }
    };
    tell(context, &report, args.dry_run)
}

fn tell(context: &Context, report: &PruneReport, dry_run: bool) -> Result<(), Failure> {
    let output = context.output;
    let names = |names: &[Reference]| names.iter().map(Reference::familiar).collect::<Vec<_>>();
    if output.json {
        let containers = report
            .containers
            .iter()
            .map(|container| json!({"id": container.id, "name": container.name, "size": container.bytes}));
        let images = report.images.iter().map(|image| {
            json!({
                "id": image.id.to_string(),
                "digest": image.digest.to_string(),
                "names": names(&image.names),
            })
        });
        return output.json(&json!({
            "containers": containers.collect::<Vec<_>>(),
            "images": images.collect::<Vec<_>>(),
            "steps": report.steps.iter().map(step).collect::<Vec<_>>(),
            "blobs": report.collected.blobs.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "layers": report.collected.layers,
            "leftovers": report.collected.leftovers,
            "bytes": report.bytes(),
            "dry_run": dry_run,
        }));
    }
    if output.quiet {
        let images = report.images.iter().map(|image| image.id.to_string());
        let containers = report.containers.iter().map(|container| container.id.clone());
        let steps = report.steps.iter().map(|step| step.key.to_string());
        return output.lines(containers.chain(images).chain(steps));
    }
    output.lines(report.containers.iter().map(|container| format!("Container: {}", container.name)))?;
    output.lines(report.images.iter().map(|image| match names(&image.names).join(", ") {
        names if names.is_empty() => format!("Image: {}", image.id),
        names => format!("Image: {} ({names})", image.id),
    }))?;
    output.lines(report.steps.iter().map(|step| {
        let note = step.note.as_ref().map_or_else(String::new, |note| format!(" ({note})"));
        format!("Step: {}{note}", step.key)
    }))?;
    let kinds = [
        (report.containers.len() as u64, "container"),
        (report.images.len() as u64, "image"),
        (report.steps.len() as u64, "step"),
        (report.collected.blobs.len() as u64, "blob"),
        (report.collected.layers.len() as u64, "layer"),
        (report.collected.leftovers, "leftover"),
    ];
    output.line(human::removed(&kinds, report.bytes(), dry_run))
}
