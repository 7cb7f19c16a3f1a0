//! `plywood check`

use plywood::{CheckOptions, CheckReport, CheckStage, Damage};
use serde_json::json;

use crate::args::CheckArgs;
use crate::errors::Failure;
use crate::global::Context;
use crate::human;
use crate::output;
use crate::progress::Meter;
use crate::signals::Interrupt;

/// `plywood check`
pub(crate) fn check(context: &Context, args: &CheckArgs) -> Result<(), Failure> {
    let output = context.output;
    let report = match context.open_if_there().map_err(Failure::unchecked)? {
        None => CheckReport::default(),
        Some(store) => {
            let meter = Meter::new("checking", output);
            let interrupt = Interrupt::watch()?;
            let progress = |stage, done, all| show(&meter, stage, done, all);
            let mut options = CheckOptions::default();
            options.deep = args.deep;
            options.progress = Some(&progress);
            options.cancel = Some(interrupt.flag());
            store.check(&options).map_err(|error| interrupt.explain(error.into()).unchecked())?
        }
    };
    for skipped in &report.skipped {
        output.warn(skipped);
    }
    if output.json {
        let damages: Vec<_> = report.damages.iter().map(describe).collect();
        output.json(&json!({
            "damages": damages,
            "images": report.images,
            "blobs": report.blobs,
            "layers": report.layers,
            "layers_compared": report.compared,
            "containers": report.containers,
            "leftovers": report.leftovers.iter().map(|path| output::path_json(path)).collect::<Vec<_>>(),
            "skipped": report.skipped,
            "deep": args.deep,
        }))?;
    } else {
        output.lines(report.damages.iter().map(ToString::to_string))?;
        if !output.quiet {
            if !report.leftovers.is_empty() {
                let left = human::count(report.leftovers.len() as u64, "leftover");
                output.line(format!("{left} for `plywood gc` to take away"))?;
            }
            output.line(format!(
                "{}, {}, {} and {}: {}",
                human::count(report.images, "image"),
                human::count(report.blobs, "blob"),
                human::count(report.layers, "layer"),
                human::count(report.containers, "container"),
                match report.damages.len() {
                    0 => "all is well".to_owned(),
                    found => format!("{} wrong", human::count(found as u64, "thing")),
                },
            ))?;
        }
    }
    if report.damages.is_empty() { Ok(()) } else { Err(Failure::Reported) }
}

/// Shows how far a stage is.
pub(crate) fn show(meter: &Meter, stage: CheckStage, done: u64, all: u64) {
    // Documents are counted and not measured.
    if stage != CheckStage::Documents {
        meter.expect(all);
        meter.set(done);
    }
}

fn describe(damage: &Damage) -> serde_json::Value {
    json!({
        "kind": damage.kind(),
        "subject": damage.subject(),
        "needed_by": damage.needed_by(),
        "message": damage.to_string(),
    })
}
