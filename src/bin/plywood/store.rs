//! Commands about the store as a whole, and about the tool.

use clap::CommandFactory as _;
use plywood::{GcOptions, GcReport, Info, LenderInfo, LenderState};
use serde_json::{Value, json};

use crate::args::{Cli, CompletionsArgs, GcArgs, InfoArgs};
use crate::errors::Failure;
use crate::global::Context;
use crate::human;
use crate::output::path_json;
use crate::progress::Meter;
use crate::signals::Interrupt;

/// `plywood gc`
pub(crate) fn gc(context: &Context, args: &GcArgs) -> Result<(), Failure> {
    let output = context.output;
    let report = match context.open_if_there()? {
        None => GcReport::default(),
        Some(store) => {
            let _meter = Meter::new("collecting", output);
            let interrupt = Interrupt::watch()?;
            let mut options = GcOptions::default();
            options.dry_run = args.dry_run;
            options.cancel = Some(interrupt.flag());
            let hinted = |error| Failure::from(error).hinted(|error| crate::images::hint(&store, error));
            store.gc(&options).map_err(|error| interrupt.explain(hinted(error)))?
        }
    };
    if output.json {
        let blobs: Vec<_> = report.blobs.iter().map(ToString::to_string).collect();
        return output.json(&json!({
            "blobs": blobs,
            "layers": report.layers,
            "leftovers": report.leftovers,
            "bytes": report.bytes,
            "strangers": report.strangers.iter().map(|path| path.to_string_lossy()).collect::<Vec<_>>(),
            "dry_run": args.dry_run,
        }));
    }
    for path in &report.strangers {
        output.warn(&format!("{path:?} does not belong into a store, and stays"));
    }
    if output.quiet {
        return Ok(());
    }
    let kinds = [
        (report.blobs.len() as u64, "blob"),
        (report.layers.len() as u64, "layer"),
        (report.leftovers, "leftover"),
    ];
    output.line(human::removed(&kinds, report.bytes, args.dry_run))
}

/// `plywood info`
pub(crate) fn info(context: &Context, args: &InfoArgs) -> Result<(), Failure> {
    let info = match args.fresh {
        true => context.without_memory().open_or_make()?.info()?,
        false => context.open_or_make()?.info()?,
    };
    if context.output.json {
        let mut object = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "format": info.version,
            "read_only": info.read_only,
            "driver": info.driver.map(|driver| driver.to_string()),
            "reasons": info.reasons,
            "images": info.images,
            "containers": info.containers,
            "layers": info.layers,
            "unsettled_layers": info.unsettled_layers,
            "blob_bytes": info.blob_bytes,
            "layer_bytes": info.layer_bytes,
            "lenders": info.lenders.iter().map(lender_json).collect::<Vec<_>>(),
        });
        for (key, value) in path_json(&info.path).as_object().into_iter().flatten() {
            object[key.replace("path", "root")] = value.clone();
        }
        return context.output.json(&object);
    }
    context.output.lines(text(&info))
}

fn text(info: &Info) -> Vec<String> {
    let access = if info.read_only { ", read-only" } else { "" };
    let unsettled = match info.unsettled_layers {
        0 => String::new(),
        number => format!(", {number} not known to be on disk yet"),
    };
    let path = human::printable(&info.path.to_string_lossy());
    let mut rows = vec![
        ("Store", format!("{path} (format {}{access})", info.version)),
        ("Driver", info.driver.map_or_else(|| "none".to_owned(), |driver| driver.to_string())),
        ("Because", human::printable(&info.reasons)),
        ("Images", format!("{}, {} in blobs", info.images, human::size(info.blob_bytes))),
        ("Layers", format!("{} unpacked, {}{unsettled}", info.layers, human::size(info.layer_bytes))),
        ("Containers", info.containers.to_string()),
    ];
    for lender in &info.lenders {
        let path = human::printable(&lender.path.to_string_lossy());
        let (_, limits) = lender_state(&lender.state);
        rows.push(("Borrows", limits.map_or(path.clone(), |limits| format!("{path} ({limits})"))));
    }
    rows.push(("Version", env!("CARGO_PKG_VERSION").to_owned()));
    rows.into_iter().map(|(key, value)| format!("{key:<11} {value}")).collect()
}

/// What can be used of another store in one word, and what to say of one of which not everything can.
fn lender_state(state: &LenderState) -> (&'static str, Option<String>) {
    match state {
        LenderState::Usable => ("usable", None),
        LenderState::BlobsOnly { reason } => (
            "blobs-only",
            Some(format!("images only, layers are unpacked here: {}", human::printable(reason))),
        ),
        LenderState::Unusable { reason } => {
            ("unusable", Some(format!("cannot be used: {}", human::printable(reason))))
        }
        _ => ("unknown", None),
    }
}

fn lender_json(lender: &LenderInfo) -> Value {
    let mut object = path_json(&lender.path);
    object["state"] = json!(lender_state(&lender.state).0);
    if let LenderState::BlobsOnly { reason } | LenderState::Unusable { reason } = &lender.state {
        object["reason"] = json!(reason);
    }
    object
}

/// `plywood completions`
pub(crate) fn completions(context: &Context, args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "plywood", &mut script);
    match context.output.json {
        true => context.output.json(&String::from_utf8_lossy(&script)),
        false => context.output.write(&script),
    }
}

/// `plywood version`
pub(crate) fn version(context: &Context) -> Result<(), Failure> {
    match context.output.json {
        true => context.output.json(&json!({"version": env!("CARGO_PKG_VERSION")})),
        false => context.output.line(concat!("plywood ", env!("CARGO_PKG_VERSION"))),
    }
}
