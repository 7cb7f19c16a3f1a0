//! Commands about containers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use plywood::driver::{Processes, RootOptions};
use plywood::fs::Timestamp;
use plywood::image::time;
use plywood::layer::ChangeKind;
use plywood::{
    CommitOptions, Container, ContainerState, Containers, CreateOptions, Image, Platform, RemoveContainer,
    Store, StoreError,
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::args::{
    ChangesArgs, CommitArgs, CreateArgs, MountArgs, PsArgs, RenameArgs, RmArgs, RootArgs, UmountArgs,
};
use crate::errors::{Failure, chain, each};
use crate::global::Context;
use crate::human;
use crate::images;
use crate::output::Table;
use crate::progress::Meter;
use crate::select;
use crate::signals::Interrupt;

/// Finds a container by what a person typed.
pub(crate) fn find(store: &Store, name: &str) -> Result<Container, Failure> {
    store.container(name).map_err(|error| hinted(store, error))
}

/// The next step where a container is damaged.
const MEND: &str = "try `plywood repair`, or remove it with `plywood rm --force`";

/// An error about a container, with the next step.
fn hinted(store: &Store, error: StoreError) -> Failure {
    Failure::from(error).hinted(|error| match error {
        StoreError::NotFound { name, .. } => {
            // What cannot be listed cannot be suggested; the error itself is what matters.
            let containers = store.containers().unwrap_or_default();
            // The name itself is no better than it was.
            let others = containers.iter().map(Container::name).filter(|known| known != name);
            Some(match human::similar(name, others) {
                Some(name) => format!("did you mean {name}?"),
                None => "`plywood ps` lists what there is".to_owned(),
            })
        }
        StoreError::Mounted { container, .. } => {
            Some(format!("use `plywood umount {container}` first, or -f"))
        }
        StoreError::InUse { .. } => Some("end what works in it first, or use -f".to_owned()),
        StoreError::NameInUse { name, .. } => {
            Some(format!("choose another, or remove that container with `plywood rm {name}`"))
        }
        StoreError::Record { .. } | StoreError::RecordMissing { .. } | StoreError::ForeignRecord { .. } => {
            Some(MEND.to_owned())
        }
        _ => None,
    })
}

/// The image of a container as people call it.
pub(crate) fn image_of(container: &Container) -> String {
    container.image_name().map_or_else(|| container.image_id().to_string(), str::to_owned)
}

pub(crate) fn now() -> Timestamp {
    time::from_system(SystemTime::now())
}

/// `plywood create`
pub(crate) fn create(context: &Context, args: &CreateArgs) -> Result<(), Failure> {
    let store = context.open()?;
    let mut options = CreateOptions::default();
    options.name.clone_from(&args.name);
    options.labels.extend(args.labels.iter().cloned());
    options.created = Some(now());
    options.root = root_options(&args.root);
    let interrupt = Interrupt::watch()?;
    options.cancel = Some(interrupt.flag());
    let meter = Meter::new("creating", context.output);
    let interrupted = |failure| interrupt.explain(failure);
    let container = match (&args.from_container, &args.image) {
        (Some(name), _) => {
            find(&store, name)?.clone_as(&options).map_err(|error| interrupted(hinted(&store, error)))?
        }
        (None, Some(name)) => {
            let image = images::find_for(&store, name, args.platform.as_ref())?;
            warn_of_platform(context, &image);
            store.create_container(&image, &options).map_err(|error| interrupted(hinted(&store, error)))?
        }
        (None, None) => unreachable!("the command line asks for one of them"),
    };
    drop(meter);
    match context.output.json {
        true => context.output.json(&json!({
            "id": container.id(), "name": container.name(), "image": image_of(&container),
        })),
        false => context.output.line(container.id()),
    }
}

/// Says if what is in an image cannot run on this machine.
fn warn_of_platform(context: &Context, image: &Image) {
    let host = Platform::host();
    if let Some(platform) = image.platform().filter(|platform| !host.accepts(platform)) {
        context.output.warn(&format!("{} is for {platform}, and this machine is {host}", image.label()));
    }
}

fn root_options(args: &RootArgs) -> RootOptions {
    let mut options = RootOptions::default();
    options.ids.clone_from(&args.id_map);
    options.label.clone_from(&args.mount_label);
    options.volatile = args.volatile;
    options.metacopy = args.metacopy;
    options.redirect_dir = args.redirect_dir;
    options.nosuid = args.nosuid;
    options.nodev = args.nodev;
    options
}

/// `plywood ps`
pub(crate) fn list(context: &Context, args: &PsArgs) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Listed<'c> {
        id: &'c str,
        name: &'c str,
        image: String,
        image_id: String,
        state: &'static str,
        /// Whether it is mounted, or a process uses it.
        in_use: bool,
        /// Bytes of its own; counted only where they are shown.
        size: Option<u64>,
        /// Files and directories of its own.
        inodes: Option<u64>,
        /// Where its root is mounted.
        #[serde(flatten)]
        path: Value,
        created: Option<&'c str>,
        driver: String,
        labels: &'c BTreeMap<String, String>,
    }
    let output = context.output;
    let containers =
        context.open_if_there()?.map_or_else(|| Ok(Containers::default()), |store| store.containers())?;
    for damaged in containers.damaged() {
        let (id, name) = (&damaged.id, damaged.name.as_deref().unwrap_or("no name"));
        output.warn(&format!("container {id} ({name}) is damaged: {}; {MEND}", chain(&damaged.error)));
    }
    let mut wanted = Vec::with_capacity(containers.len());
    for container in &containers {
        if select::shows(args, container)? {
            wanted.push(container);
        }
    }
    if output.quiet && !output.json {
        return output.lines(wanted.into_iter().map(Container::id));
    }
    let processes = Processes::read();
    let mut listed = Vec::with_capacity(wanted.len());
    for container in wanted {
        let (state, path) = describe(container.state()?);
        let usage = match (args.size || output.json).then(|| container.usage()).transpose() {
            // It was removed since they were listed.
            Err(StoreError::NotFound { .. }) => continue,
            usage => usage?,
        };
        listed.push(Listed {
            id: container.id(),
            name: container.name(),
            image: image_of(container),
            image_id: container.image_id().to_string(),
            state,
            in_use: container.is_in_use(&processes)?,
            size: usage.map(|usage| usage.allocated),
            inodes: usage.map(|usage| usage.inodes),
            path: path.unwrap_or_else(|| json!({"path": null})),
            created: container.created(),
            driver: container.driver().to_string(),
            labels: container.labels(),
        });
    }
    if output.json {
        return output.json(&listed);
    }
    let headers = ["CONTAINER ID", "IMAGE", "CREATED", "STATE", "NAME", "SIZE"];
    let mut table = Table::new(if args.size { &headers } else { &headers[..5] });
    for container in listed {
        let short = human::short(container.id);
        let row = [
            if args.no_trunc { container.id } else { short }.to_owned(),
            if container.image.starts_with("sha256:") && !args.no_trunc {
                human::short(&container.image).to_owned()
            } else {
                container.image
            },
            images::age(container.created),
            if container.in_use && container.state == "created" { "in use" } else { container.state }
                .to_owned(),
            container.name.to_owned(),
        ];
        table.row(row.into_iter().chain(container.size.map(human::size)));
    }
    table.print(output)
}

/// A state in one word, and where the root is as JSON has it.
pub(crate) fn describe(state: ContainerState) -> (&'static str, Option<Value>) {
    match state {
        ContainerState::Created => ("created", None),
        ContainerState::Mounted(path) => ("mounted", Some(crate::output::path_json(&path))),
        ContainerState::Dead(path) => ("dead", Some(crate::output::path_json(&path))),
        _ => ("unknown", None),
    }
}

/// `plywood rename`
pub(crate) fn rename(context: &Context, args: &RenameArgs) -> Result<(), Failure> {
    let store = context.open()?;
    let mut container = find(&store, &args.container)?;
    container.rename(&args.name).map_err(|error| hinted(&store, error))?;
    match context.output.json {
        true => context.output.json(&json!({"id": container.id(), "name": container.name()})),
        false => Ok(()),
    }
}

/// `plywood rm`
pub(crate) fn remove(context: &Context, args: &RmArgs) -> Result<(), Failure> {
    let store = context.open()?;
    let output = context.output;
    let how = if args.force { RemoveContainer::Force } else { RemoveContainer::Refuse };
    each(output, &args.containers, |name| {
        let removed = match find(&store, name) {
            Ok(container) => {
                let removed = json!({"id": container.id(), "name": container.name()});
                container.remove(how).map_err(|error| hinted(&store, error))?;
                removed
            }
            // It may be one that nobody can read.
            Err(failure) if args.force => match store.remove_damaged_container(name, how) {
                Ok(()) => json!({"id": name}),
                Err(StoreError::NotFound { .. }) => return Err(failure),
                Err(error) => return Err(hinted(&store, error)),
            },
            Err(failure) => return Err(failure),
        };
        if !output.json && !output.quiet {
            output.line(name)?;
        }
        Ok(removed)
    })
}

/// `plywood mount`
pub(crate) fn mount(context: &Context, args: &MountArgs) -> Result<(), Failure> {
    let Some(name) = &args.container else { return list_mounted(context) };
    let store = context.open()?;
    let container = find(&store, name)?;
    let meter = Meter::new("mounting", context.output);
    let path = match container.mount() {
        Ok(mounted) => mounted.keep(),
        // Whoever mounted it, there it is.
        Err(StoreError::Mounted { path, .. }) => path,
        Err(error) => return Err(error.into()),
    };
    drop(meter);
    context.output.path(&path)
}

/// `plywood mount` of nothing: what is mounted, and where.
fn list_mounted(context: &Context) -> Result<(), Failure> {
    let output = context.output;
    let containers =
        context.open_if_there()?.map_or_else(|| Ok(Containers::default()), |store| store.containers())?;
    let mut mounted = Vec::new();
    for container in &containers {
        if let ContainerState::Mounted(path) = container.state()? {
            mounted.push((container, path));
        }
    }
    if output.json {
        let object = |(container, path): (&Container, PathBuf)| {
            let mut object = crate::output::path_json(&path);
            object["id"] = json!(container.id());
            object["name"] = json!(container.name());
            object
        };
        return output.json(&mounted.into_iter().map(object).collect::<Vec<_>>());
    }
    let mut table = Table::new(&["NAME", "PATH"]);
    for (container, path) in mounted {
        table.row([container.name().to_owned(), path.to_string_lossy().into_owned()]);
    }
    table.print(output)
}

/// `plywood umount`
pub(crate) fn umount(context: &Context, args: &UmountArgs) -> Result<(), Failure> {
    let store = context.open()?;
    let container = find(&store, &args.container)?;
    let state = container.state()?;
    container.unmount()?;
    let path = match &state {
        ContainerState::Mounted(path) | ContainerState::Dead(path) => Some(path.as_path()),
        _ => None,
    };
    match context.output.json {
        true => context.output.maybe_path(path),
        false => Ok(()),
    }
}

/// `plywood changes`
pub(crate) fn changes(context: &Context, args: &ChangesArgs) -> Result<(), Failure> {
    let store = context.open()?;
    let container = find(&store, &args.container)?;
    let meter = Meter::new("comparing", context.output);
    let changes = container.changes()?;
    drop(meter);
    let letter = |kind| match kind {
        ChangeKind::Added => "A",
        ChangeKind::Changed => "C",
        ChangeKind::Deleted => "D",
    };
    context
        .output
        .changes(changes.iter().map(|change| (letter(change.kind), absolute(change.path.as_bytes()))))
}

/// A path in a layer as a container sees it.
fn absolute(path: &[u8]) -> Vec<u8> {
    [b"/", path].concat()
}

/// `plywood commit`
pub(crate) fn commit(context: &Context, args: &CommitArgs) -> Result<(), Failure> {
    let name = args.name.as_deref().map(images::reference).transpose()?;
    let store = context.open()?;
    let container = find(&store, &args.container)?;
    let mut options = CommitOptions::default();
    options.image = args.made.image(name, now);
    let interrupt = Interrupt::watch()?;
    options.cancel = Some(interrupt.flag());
    let meter = Meter::new("committing", context.output);
    let image = container.commit(&options).map_err(|error| interrupt.explain(error.into()))?;
    drop(meter);
    images::tell_made(context, &image)
}
