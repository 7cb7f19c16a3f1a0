//! `plywood check`

use plywood::{CheckOptions, CheckReport, Damage};
use serde_json::json;

use crate::args::CheckArgs;
use crate::errors::Failure;
use crate::global::Context;
use crate::human;
use crate::progress::Meter;

/// `plywood check`
pub(crate) fn check(context: &Context, args: &CheckArgs) -> Result<(), Failure> {
    let output = context.output;
    let report = match context.open_if_there()? {
        None => CheckReport::default(),
        Some(store) => {
            let meter = Meter::new("checking", output);
            let progress = |done, all| {
                meter.expect(all);
                meter.set(done);
            };
            let mut options = CheckOptions::default();
            options.deep = args.deep;
            options.progress = Some(&progress);
            store.check(&options)?
        }
    };
    if output.json {
        let damages: Vec<_> = report.damages.iter().map(describe).collect();
        output.json(&json!({
            "damages": damages,
            "images": report.images,
            "blobs": report.blobs,
            "layers": report.layers,
            "layers_compared": report.compared,
            "containers": report.containers,
            "deep": args.deep,
        }))?;
    } else {
        output.lines(report.damages.iter().map(ToString::to_string))?;
        if !output.quiet {
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

fn describe(damage: &Damage) -> serde_json::Value {
    json!({
        "kind": damage.kind(),
        "subject": damage.subject(),
        "needed_by": damage.needed_by(),
        "message": damage.to_string(),
    })
}
