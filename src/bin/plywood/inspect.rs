//! `inspect`: everything about images and containers, with docker's names for what docker has.
//!
//! Always JSON and always an array, one object for each name that was said.

use plywood::image::Reference;
use plywood::{Container, Image, Platform, Store, StoreError};
use serde_json::{Map, Value, json};

use crate::args::{Document, ImageInspectArgs, InspectArgs, Kind};
use crate::containers;
use crate::errors::{Failure, each_shown};
use crate::global::Context;
use crate::images as image_commands;
use crate::output::path_json;

/// `plywood inspect`
pub(crate) fn any(context: &Context, args: &InspectArgs) -> Result<(), Failure> {
    let store = context.open()?;
    if let Some(document) = args.raw {
        return raw(context, &store, &args.names, (document, args.platform.as_ref()));
    }
    let platform = args.platform.as_ref();
    each_shown(context.output, args.format.as_ref(), &args.names, |name| match args.kind {
        Some(Kind::Image) => image(&store, &image_commands::find_for(&store, name, platform)?),
        Some(Kind::Container) => container(&containers::find(&store, name)?),
        None => either(&store, name, platform),
    })
}

/// `plywood image inspect`
pub(crate) fn images(context: &Context, args: &ImageInspectArgs) -> Result<(), Failure> {
    let store = context.open()?;
    if let Some(document) = args.raw {
        return raw(context, &store, &args.images, (document, args.platform.as_ref()));
    }
    let platform = args.platform.as_ref();
    each_shown(context.output, args.format.as_ref(), &args.images, |name| {
        image(&store, &image_commands::find_for(&store, name, platform)?)
    })
}

/// A document as it is stored.
fn raw(
    context: &Context,
    store: &Store,
    names: &[String],
    (document, platform): (Document, Option<&Platform>),
) -> Result<(), Failure> {
    let [name] = names else {
        return Err(Failure::Usage("--raw prints a document of one image".to_owned()));
    };
    let image = image_commands::find_for(store, name, platform)?;
    let bytes = match document {
        Document::Target => store.target_bytes(&image)?,
        Document::Manifest => store.manifest_bytes(&image)?,
        Document::Config => store.config_bytes(&image)?,
    };
    context.output.write(&bytes)
}

/// The container of this name, or else the image.
fn either(store: &Store, name: &str, platform: Option<&Platform>) -> Result<Value, Failure> {
    let ambiguous = match store.container(name) {
        Ok(found) => return container(&found),
        Err(StoreError::NotFound { .. }) => None,
        // An image may have exactly the name that begins the ids of several containers.
        Err(error @ StoreError::Ambiguous { .. }) => Some(error),
        Err(error) => return Err(error.into()),
    };
    match (image_commands::find_for(store, name, platform), ambiguous) {
        (Ok(found), _) => image(store, &found),
        (Err(Failure::Store { .. }), Some(ambiguous)) => Err(ambiguous.into()),
        (Err(Failure::Store { error, hint }), None) => match *error {
            StoreError::NotFound { name, .. } => {
                let error = StoreError::NotFound { what: "image or container", name };
                Err(Failure::Store { error: Box::new(error), hint })
            }
            error => Err(Failure::Store { error: Box::new(error), hint }),
        },
        (Err(failure), _) => Err(failure),
    }
}

fn image(store: &Store, image: &Image) -> Result<Value, Failure> {
    let familiar = |names: &[&Reference]| names.iter().map(|name| name.familiar()).collect::<Vec<_>>();
    let tags: Vec<_> = image.names().iter().filter(|name| name.digest().is_none()).collect();
    let digests = image.repo_digests();
    let layers: Vec<_> = image.diff_ids().iter().map(ToString::to_string).collect();
    let config = image.config();
    let platform = image.platform();
    let last = config.and_then(|config| config.history.last());
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
    put("Id", json!(image.id().to_string()));
    put("RepoTags", json!(familiar(&tags)));
    put("RepoDigests", json!(familiar(&digests.iter().collect::<Vec<_>>())));
    put("Descriptor", json!(image.target()));
    put("ManifestDigest", json!(image.manifest_digest().to_string()));
    put("Created", json!(config.and_then(|config| config.created.as_ref())));
    put("Author", json!(config.and_then(|config| config.author.as_deref()).unwrap_or_default()));
    put("Comment", json!(last.and_then(|step| step.comment.as_deref()).unwrap_or_default()));
    put("Architecture", json!(platform.as_ref().map(|platform| &platform.architecture)));
    put(
        "Variant",
        json!(platform.as_ref().and_then(|platform| platform.variant.as_deref()).unwrap_or_default()),
    );
    put("Os", json!(platform.as_ref().map(|platform| &platform.os)));
    if let Some(kind) = image.artifact_type() {
        put("ArtifactType", json!(kind));
    }
    put("Annotations", json!(image.manifest().annotations));
    if let Some(subject) = &image.manifest().subject {
        put("Subject", json!(subject));
    }
    put("Size", json!(image.size()));
    put("Config", json!(config.map(|config| &config.config)));
    put("RootFS", json!({"Type": "layers", "Layers": layers}));
    if let Some(store) = image.lent_by() {
        put("LentBy", path_json(store)["path"].clone());
    }
    if let Some(path) = store.image_mounted(image)? {
        put("Mountpoint", path_json(&path)["path"].clone());
    }
    Ok(Value::Object(object))
}

fn container(container: &Container) -> Result<Value, Failure> {
    let (status, path) = crate::containers::describe(container.state()?);
    let mut state = json!({"Status": status});
    if let Some(path) = path {
        state["Path"] = path["path"].clone();
    }
    let usage = container.usage()?;
    Ok(json!({
        "Id": container.id(),
        "Name": container.name(),
        "Created": container.created(),
        "Image": container.image_id().to_string(),
        "ManifestDigest": container.manifest_digest().to_string(),
        "Driver": container.driver().to_string(),
        "State": state,
        "SizeRw": usage.allocated,
        "InodesRw": usage.inodes,
        "Config": {"Image": container.image_name(), "Labels": container.labels()},
        "Metadata": container.metadata(),
    }))
}
