//! `plywood system df`: who takes how much of the disk.

use plywood::StoreUsage;
use plywood::UsageOptions;
use plywood::image::Reference;
use plywood::store::Bytes;
use serde_json::{Value, json};

use crate::args::DfArgs;
use crate::errors::Failure;
use crate::global::Context;
use crate::human;
use crate::output::Table;

/// `plywood system df`
pub(crate) fn df(context: &Context, args: &DfArgs) -> Result<(), Failure> {
    let usage = match context.open_if_there()? {
        None => StoreUsage::default(),
        Some(store) => store.usage(&UsageOptions::with_containers())?,
    };
    let output = context.output;
    if output.json {
        return output.json(&to_json(&usage));
    }
    summary(&usage).print(output)?;
    if args.verbose {
        for (title, table) in
            [("Images", images(&usage)), ("Layers", layers(&usage)), ("Containers", containers(&usage))]
        {
            output.line(format!("\n{title}:\n"))?;
            table.print(output)?;
        }
    }
    Ok(())
}

fn summary(usage: &StoreUsage) -> Table {
    let mut table = Table::new(&["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]);
    let mut row = |kind: &str, total: usize, active: usize, bytes: u64, reclaimable: u64| {
        let percent = (u128::from(reclaimable) * 100).checked_div(bytes.into()).unwrap_or(0);
        table.row([
            kind.to_owned(),
            total.to_string(),
            active.to_string(),
            human::size(bytes),
            format!("{} ({percent}%)", human::size(reclaimable)),
        ]);
    };
    let Active { images, containers } = active(usage);
    let layers = usage.layers.iter().filter(|layer| layer.containers > 0).count();
    row("Images", usage.images.len(), images, usage.total.blobs, usage.reclaimable.blobs);
    row("Layers", usage.layers.len(), layers, usage.total.layers, usage.reclaimable.layers);
    let steps = usage.steps as usize;
    row("Build cache", steps, 0, usage.build_cache.total(), usage.build_cache.total());
    if usage.downloads > 0 {
        row("Downloads", 0, 0, usage.downloads, usage.downloads);
    }
    row("Containers", usage.containers.len(), containers, usage.writable, usage.writable_reclaimable);
    table
}

/// How many images have containers, and how many containers are mounted.
struct Active {
    images: usize,
    containers: usize,
}

fn active(usage: &StoreUsage) -> Active {
    Active {
        images: usage.images.iter().filter(|image| image.containers > 0).count(),
        containers: usage.containers.iter().filter(|container| container.mounted).count(),
    }
}

fn images(usage: &StoreUsage) -> Table {
    let mut table =
        Table::new(&["NAME", "IMAGE ID", "SIZE", "SHARED SIZE", "UNIQUE SIZE", "RECLAIMABLE", "CONTAINERS"]);
    for one in &usage.images {
        let name = one.image.names.first().map_or_else(|| "<none>".to_owned(), Reference::familiar);
        let sizes = [one.shared.total() + one.unique.total(), one.shared.total(), one.unique.total()];
        let sizes = sizes.into_iter().chain([one.reclaimable.total()]).map(human::size);
        let id = human::short(&one.image.id.to_string()).to_owned();
        table.row([name, id].into_iter().chain(sizes).chain([one.containers.to_string()]));
    }
    table
}

fn layers(usage: &StoreUsage) -> Table {
    let mut table = Table::new(&["LAYER", "SIZE", "IMAGES", "CONTAINERS"]);
    for layer in &usage.layers {
        let [images, containers] = [layer.images, layer.containers].map(|count| count.to_string());
        table.row([layer.key.to_string(), human::size(layer.bytes), images, containers]);
    }
    table
}

fn containers(usage: &StoreUsage) -> Table {
    let mut table = Table::new(&["CONTAINER ID", "NAME", "IMAGE ID", "SIZE", "SHARED SIZE", "MOUNTED"]);
    for one in &usage.containers {
        table.row([
            human::short(&one.id).to_owned(),
            one.name.clone(),
            human::short(&one.image.to_string()).to_owned(),
            human::size(one.own.map_or(0, |own| own.allocated)),
            human::size(one.shared),
            if one.mounted { "yes" } else { "no" }.to_owned(),
        ]);
    }
    table
}

fn bytes(bytes: Bytes) -> Value {
    json!({"blobs": bytes.blobs, "layers": bytes.layers})
}

fn to_json(usage: &StoreUsage) -> Value {
    let images = usage.images.iter().map(|one| {
        json!({
            "id": one.image.id.to_string(),
            "digest": one.image.manifest_digest.to_string(),
            "names": one.image.names.iter().map(Reference::familiar).collect::<Vec<_>>(),
            "shared": bytes(one.shared),
            "unique": bytes(one.unique),
            "reclaimable": bytes(one.reclaimable),
            "containers": one.containers,
        })
    });
    let layers = usage.layers.iter().map(|layer| {
        json!({
            "key": layer.key.to_string(),
            "size": layer.bytes,
            "images": layer.images,
            "containers": layer.containers,
        })
    });
    let containers = usage.containers.iter().map(|one| {
        json!({
            "id": one.id,
            "name": one.name,
            "image_id": one.image.to_string(),
            "mounted": one.mounted,
            "shared": one.shared,
            "size": one.own.map(|own| own.allocated),
            "inodes": one.own.map(|own| own.inodes),
        })
    });
    let Active { images: active_images, containers: mounted } = active(usage);
    json!({
        "total": bytes(usage.total),
        "unused": bytes(usage.unused),
        "build_cache": bytes(usage.build_cache),
        "steps": usage.steps,
        "reclaimable": bytes(usage.reclaimable),
        "blobs": usage.blobs,
        "active_images": active_images,
        "mounted_containers": mounted,
        "downloads": usage.downloads,
        "writable": usage.writable,
        "writable_reclaimable": usage.writable_reclaimable,
        "images": images.collect::<Vec<_>>(),
        "layers": layers.collect::<Vec<_>>(),
        "containers": containers.collect::<Vec<_>>(),
    })
}
