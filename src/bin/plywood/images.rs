//! Commands about images that are in the store.

use std::collections::BTreeSet;
use std::time::SystemTime;

use plywood::digest::Digest;
use plywood::image::{Descriptor, Reference, time};
use plywood::{Image, ImageSummary, Images, Platform, RemoveImage, Store, StoreError};
use serde::Serialize;
use serde_json::json;

use crate::args::{
    HistoryArgs, ImageMountArgs, ImageUmountArgs, ImagesArgs, ReferrersArgs, RmiArgs, TagArgs, UntagArgs,
};
use crate::errors::{Failure, chain, each};
use crate::global::Context;
use crate::human;
use crate::output::Table;
use crate::select::Wanted;

/// Finds an image by what a person typed.
pub(crate) fn find(store: &Store, name: &str) -> Result<Image, Failure> {
    store.image(name).map_err(|error| Failure::from(error).hinted(|error| hint(store, error)))
}

/// The same for this platform, if one was said.
pub(crate) fn find_for(store: &Store, name: &str, platform: Option<&Platform>) -> Result<Image, Failure> {
    let image = find(store, name)?;
    match platform {
        Some(platform) => Ok(store.image_for(&image, platform)?),
        None => Ok(image),
    }
}

/// The next step where an image is damaged.
const MEND: &str = "load the image again, or remove it with `plywood rmi --force`";

/// The next step where a foreign layer is absent.
pub(crate) const BRING: &str = "load an archive of the image that has the layer, with `plywood load`";

/// The next step after an error about an image.
pub(crate) fn hint(store: &Store, error: &StoreError) -> Option<String> {
    match error {
        StoreError::NotFound { name, .. } => {
            // What cannot be listed cannot be suggested; the error itself is what matters.
            let names = store.image_names().unwrap_or_default();
            let wanted =
                Reference::parse_familiar(name).map_or_else(|_| name.clone(), |name| name.familiar());
            let names = names.iter().map(Reference::familiar);
            // The name itself is no better than it was.
            let names: Vec<String> = names.filter(|known| *known != wanted).collect();
            Some(match human::similar_image(&wanted, &names) {
                Some(name) => format!("did you mean {name}?"),
                None => "`plywood images` lists what there is".to_owned(),
            })
        }
        StoreError::ImageInUse { containers, .. } => {
            Some(format!("remove them with `plywood rm {}`, or use -f", containers.join(" ")))
        }
        StoreError::ImageMounted { .. } => Some("use `plywood image umount` first, or -f".to_owned()),
        StoreError::Lent { store, .. } => {
            Some(format!("`plywood --root {}` is where it can be changed", store.display()))
        }
        StoreError::SeveralNames { .. } => {
            Some("say one of the names, the whole id, or use -f for all".to_owned())
        }
        StoreError::Blob(_) | StoreError::Image { .. } => Some(MEND.to_owned()),
        StoreError::ForeignLayer { .. } => Some(BRING.to_owned()),
        _ => None,
    }
}

/// Names as people say them.
pub(crate) fn names(image: &Image) -> Vec<String> {
    image.names().iter().map(Reference::familiar).collect()
}

/// Returns the name of `image` that a person typed. Of `name:tag@digest` that is the tag, if the image has it, and otherwise
/// the name by digest.
pub(crate) fn said_name<'i>(image: &'i Image, said: &str) -> Option<&'i Reference> {
    let said = Reference::parse_familiar(said).ok()?;
    let tag = said.tag().map(|_| said.without_digest());
    let digest = said.digest().map(|digest| said.at_digest(*digest));
    let forms = [tag, digest, Some(said)];
    forms.iter().flatten().find_map(|form| image.names().iter().find(|name| *name == form))
}

/// One image of `images --json`.
#[derive(Serialize)]
struct Listed {
    id: String,
    digest: String,
    names: Vec<String>,
    repo_digests: Vec<String>,
    size: u64,
    created: Option<String>,
    platform: Option<String>,
    /// What kind of artifact it is; null for an image.
    artifact_type: Option<String>,
    /// The store that lends it.
    lent_by: Option<String>,
}

impl Listed {
    fn new(image: &ImageSummary) -> Self {
        Self {
            id: image.id.to_string(),
            digest: image.manifest_digest.to_string(),
            names: image.names.iter().map(Reference::familiar).collect(),
            repo_digests: image.repo_digests().iter().map(Reference::familiar).collect(),
            size: image.size,
            created: image.created.clone(),
            platform: image.platform.as_ref().map(ToString::to_string),
            artifact_type: image.artifact_type.clone(),
            lent_by: image.lent_by.as_ref().map(|store| store.to_string_lossy().into_owned()),
        }
    }
}

/// Returns how long ago something written as RFC 3339 was.
pub(crate) fn age(written: Option<&str>) -> String {
    let then = written.and_then(|written| time::parse(written).ok());
    let now = time::from_system(SystemTime::now());
    then.map_or_else(|| human::NO_TIME.to_owned(), |then| human::age(then, now))
}

/// `plywood images`
pub(crate) fn list(context: &Context, args: &ImagesArgs) -> Result<(), Failure> {
    let output = context.output;
    let store = context.open_if_there()?;
    let images = store.as_ref().map_or_else(|| Ok(Images::default()), Store::list_images)?;
    for damaged in images.damaged() {
        let names: Vec<_> = damaged.names.iter().map(Reference::familiar).collect();
        let (names, digest, error) = (names.join(", "), damaged.digest, chain(&damaged.error));
        output.warn(&format!("image {digest} ({names}) is damaged: {error}; {MEND}"));
    }
    let wanted = Wanted::new(args);
    let mut listed = Vec::with_capacity(images.len());
    for (store, image) in store.iter().flat_map(|store| images.iter().map(move |image| (store, image))) {
        if wanted.has(store, image)? {
            listed.push(Listed::new(image));
        }
    }
    let images = listed;
    if output.json {
        return output.json(&images);
    }
    if output.quiet {
        // Two manifests may make one image, compressed or not.
        let mut seen = BTreeSet::new();
        return output.lines(images.iter().map(|image| &image.id).filter(|id| seen.insert(*id)));
    }
    let some_are_lent = images.iter().any(|image| image.lent_by.is_some());
    let mut headers = vec!["REPOSITORY", "TAG"];
    headers.extend(args.digests.then_some("DIGEST"));
    headers.extend(["IMAGE ID", "CREATED", "SIZE"]);
    let some_are_artifacts = images.iter().any(|image| image.artifact_type.is_some());
    headers.extend(some_are_artifacts.then_some("ARTIFACT"));
    headers.extend(some_are_lent.then_some("LENT BY"));
    let mut table = Table::new(&headers);
    for image in &images {
        let unnamed = ["<none>:<none>".to_owned()];
        let names = image.names.iter().filter(|name| wanted.has_name(name));
        for name in names.chain(unnamed.iter().filter(|_| image.names.is_empty())) {
            let (name, by_digest) = match name.split_once('@') {
                Some((name, digest)) => (name, Some(digest)),
                None => (&**name, None),
            };
            let (repository, tag) = split_tag(name);
            let lender = || image.lent_by.as_deref().map_or_else(|| "-".to_owned(), human::printable);
            let mut row = vec![repository.to_owned(), tag.to_owned()];
            row.extend(args.digests.then(|| by_digest.unwrap_or(&image.digest).to_owned()));
            row.extend([
                if args.no_trunc { image.id.clone() } else { human::short(&image.id).to_owned() },
                age(image.created.as_deref()),
                human::size(image.size),
            ]);
            let artifact = || image.artifact_type.clone().unwrap_or_else(|| "-".to_owned());
            row.extend(some_are_artifacts.then(artifact));
            row.extend(some_are_lent.then(lender));
            table.row(row);
        }
    }
    table.print(output)
}

/// Splits a name without a digest into repository and tag; the colon of a port stays.
pub(crate) fn split_tag(name: &str) -> (&str, &str) {
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (name, "<none>"),
    }
}

/// `plywood history`
pub(crate) fn history(context: &Context, args: &HistoryArgs) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Step {
        created: Option<String>,
        created_by: Option<String>,
        author: Option<String>,
        comment: Option<String>,
        /// Diff id.
        layer: Option<String>,
        size: u64,
    }
    let output = context.output;
    let image = find(&context.open()?, &args.image)?;
    let steps = image.history().into_iter().rev().map(|step| Step {
        created: step.entry.created,
        created_by: step.entry.created_by,
        author: step.entry.author,
        comment: step.entry.comment,
        layer: step.layer.map(|layer| layer.to_string()),
        size: step.size,
    });
    let steps: Vec<Step> = steps.collect();
    if output.json {
        return output.json(&steps);
    }
    if output.quiet {
        return output.lines(steps.iter().filter_map(|step| step.layer.as_ref()));
    }
    let mut table = Table::new(&["LAYER", "CREATED", "CREATED BY", "SIZE", "COMMENT"]);
    for step in steps {
        let layer = step.layer.as_deref().unwrap_or("-");
        let by = step.created_by.unwrap_or_default();
        table.row([
            if args.no_trunc { layer } else { human::short(layer) }.to_owned(),
            age(step.created.as_deref()),
            if args.no_trunc { by } else { human::abridged(&by, 45) },
            human::size(step.size),
            step.comment.unwrap_or_default(),
        ]);
    }
    table.print(output)
}

/// `plywood referrers`
pub(crate) fn referrers(context: &Context, args: &ReferrersArgs) -> Result<(), Failure> {
    let store = context.open()?;
    let subjects = match (find(&store, &args.subject), args.subject.parse::<Digest>()) {
        (Ok(image), _) => vec![image.digest(), image.manifest_digest()],
        (Err(_), Ok(digest)) => vec![digest],
        (Err(failure), Err(_)) => return Err(failure),
    };
    let mut found: Vec<Descriptor> = Vec::new();
    for subject in BTreeSet::from_iter(subjects) {
        found.extend(store.referrers(&subject, args.kind.as_deref())?);
    }
    if context.output.json {
        return context.output.json(&found);
    }
    if context.output.quiet {
        return context.output.lines(found.iter().map(|referrer| referrer.digest.to_string()));
    }
    let mut table = Table::new(&["DIGEST", "TYPE", "SIZE", "ANNOTATIONS"]);
    for referrer in found {
        let notes: Vec<_> =
            referrer.annotations.iter().map(|(key, value)| format!("{key}={value}")).collect();
        table.row([
            referrer.digest.to_string(),
            referrer.artifact_type.unwrap_or_else(|| "-".to_owned()),
            human::size(referrer.size),
            notes.join(" "),
        ]);
    }
    table.print(context.output)
}

/// `plywood tag`
pub(crate) fn tag(context: &Context, args: &TagArgs) -> Result<(), Failure> {
    let store = context.open()?;
    let image = find(&store, &args.source)?;
    let name =
        Reference::parse_familiar(&args.target).map_err(|error| Failure::Invalid(error.to_string()))?;
    let moved = store.tag(&image, &name)?;
    let name = said_name(&find(&store, &image.digest().to_string())?, &args.target).cloned().unwrap_or(name);
    if let Some(moved) = &moved {
        let (name, from) = (moved.name.familiar(), moved.from);
        context.output.warn(&format!("{name} pointed at {from} until now, which is kept"));
    }
    if context.output.json {
        let moved = moved.map(|moved| moved.from.to_string());
        return context.output.json(&json!({
            "id": image.id().to_string(),
            "digest": image.manifest_digest().to_string(),
            "name": name.familiar(),
            "moved_from": moved,
        }));
    }
    Ok(())
}

/// Says which image was made.
pub(crate) fn tell_made(context: &Context, image: &Image) -> Result<(), Failure> {
    match context.output.json {
        true => context.output.json(&json!({
            "id": image.id().to_string(),
            "digest": image.manifest_digest().to_string(),
            "names": names(image),
        })),
        false => context.output.line(image.id().to_string()),
    }
}

/// The name for an image that a person typed.
pub(crate) fn reference(text: &str) -> Result<Reference, Failure> {
    let name = Reference::parse_familiar(text).map_err(|error| Failure::Invalid(error.to_string()))?;
    match name.digest() {
        None => Ok(name),
        Some(_) => Err(Failure::Invalid(format!(
            "{text:?} has a digest, and the digest of a new image is not known before: leave it out"
        ))),
    }
}

/// `plywood untag`
pub(crate) fn untag(context: &Context, args: &UntagArgs) -> Result<(), Failure> {
    let store = context.open()?;
    let output = context.output;
    each(output, &args.names, |name| {
        let name = Reference::parse_familiar(name).map_err(|error| Failure::Invalid(error.to_string()))?;
        let digest =
            store.untag(&name).map_err(|error| Failure::from(error).hinted(|error| hint(&store, error)))?;
        if !output.json && !output.quiet {
            output.line(format!("Untagged: {}", name.familiar()))?;
        }
        Ok(json!({"name": name.familiar(), "digest": digest.to_string()}))
    })
}

/// `plywood rmi`
pub(crate) fn remove(context: &Context, args: &RmiArgs) -> Result<(), Failure> {
    let store = context.open()?;
    let output = context.output;
    each(output, &args.images, |name| {
        // A whole id, as `images -q` prints it, is nobody's slip of the hand: it stands for all names, of all forms.
        let whole = name.parse().or_else(|_| Digest::from_parts("sha256", name)).ok();
        let how = match (args.force, whole) {
            (true, _) => RemoveImage::Force,
            (false, Some(_)) => RemoveImage::AllNames,
            (false, None) => RemoveImage::Refuse,
        };
        let remove = || {
            let removed = store.remove_image(name, how);
            removed.map_err(|error| Failure::from(error).hinted(|error| hint(&store, error)))
        };
        let removed = remove()?;
        let mut untagged: Vec<String> = removed.untagged.iter().map(Reference::familiar).collect();
        let deleted = removed.deleted.map(|id| id.to_string());
        // An image may be there in several forms, compressed and not.
        while whole.is_some()
            && whole == removed.deleted
            && store.image(name).is_ok_and(|image| image.lent_by().is_none())
        {
            untagged.extend(remove()?.untagged.iter().map(Reference::familiar));
        }
        if !output.json && !output.quiet {
            let untagged = untagged.iter().map(|name| format!("Untagged: {name}"));
            output.lines(untagged.chain(deleted.iter().map(|id| format!("Deleted: {id}"))))?;
        }
        Ok(json!({"image": name, "untagged": untagged, "deleted": deleted}))
    })
}

/// `plywood image mount`
pub(crate) fn mount(context: &Context, args: &ImageMountArgs) -> Result<(), Failure> {
    let store = context.open()?;
    let image = find_for(&store, &args.image, args.platform.as_ref())?;
    let path = store.mount_image(&image)?;
    context.output.path(&path)
}

/// `plywood image umount`
pub(crate) fn umount(context: &Context, args: &ImageUmountArgs) -> Result<(), Failure> {
    let store = context.open()?;
    let image = find_for(&store, &args.image, args.platform.as_ref())?;
    let path = store.image_mounted(&image)?;
    store.unmount_image(&image)?;
    match context.output.json {
        true => context.output.maybe_path(path.as_deref()),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::split_tag;

    #[test]
    fn the_port_of_a_registry_is_no_tag() {
        assert_eq!(split_tag("debian:12"), ("debian", "12"));
        assert_eq!(split_tag("localhost:5000/x:1"), ("localhost:5000/x", "1"));
        assert_eq!(split_tag("localhost:5000/x"), ("localhost:5000/x", "<none>"));
    }
}
