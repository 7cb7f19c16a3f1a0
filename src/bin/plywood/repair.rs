//! `plywood repair`

use plywood::{Outcome, RepairOptions, RepairReport, Repaired};
use serde_json::json;

use crate::args::RepairArgs;
use crate::check::show;
use crate::errors::Failure;
use crate::global::Context;
use crate::human;
use crate::output::Table;
use crate::progress::Meter;
use crate::signals::Interrupt;

/// `plywood repair`
pub(crate) fn repair(context: &Context, args: &RepairArgs) -> Result<(), Failure> {
    let output = context.output;
    let report = {
        let meter = Meter::new("repairing", output);
        let interrupt = Interrupt::watch()?;
        let progress = |stage, done, all| show(&meter, stage, done, all);
        let mut options = RepairOptions::default();
        options.dry_run = args.dry_run;
        options.quick = args.quick;
        options.progress = Some(&progress);
        options.cancel = Some(interrupt.flag());
        context.repair_if_there(&options).map_err(|failure| interrupt.explain(failure))?
    };
    if output.json {
        let repaired: Vec<_> = report.repaired.iter().map(describe).collect();
        output.json(&json!({
            "repaired": repaired,
            "replaced_layers_kept": report.kept,
            "images": report.images,
            "blobs": report.blobs,
            "layers": report.layers,
            "containers": report.containers,
            "dry_run": args.dry_run,
            "whole": report.is_whole(),
        }))?;
    } else {
        print(context, args, &report)?;
    }
    if report.is_whole() { Ok(()) } else { Err(Failure::Reported) }
}

fn print(context: &Context, args: &RepairArgs, report: &RepairReport) -> Result<(), Failure> {
    let output = context.output;
    if !report.repaired.is_empty() {
        let mut table = Table::new(&["OUTCOME", "WHAT", "WHICH", "WHY", "NEEDED BY"]);
        for one in &report.repaired {
            table.row([
                one.outcome.as_str().to_owned(),
                one.kind.to_owned(),
                if args.no_trunc { one.subject.clone() } else { short(&one.subject) },
                one.message.clone(),
                one.needed_by.join(", "),
            ]);
        }
        table.print(output)?;
    }
    if output.quiet {
        return Ok(());
    }
    if report.kept > 0 {
        let kept = human::count(report.kept, "layer");
        output.line(format!(
            "{kept} replaced; the old form stays until nothing is mounted that looks into it"
        ))?;
    }
    let mended = report.repaired.iter().filter(|one| one.outcome == Outcome::Mended).count();
    let left = report.repaired.len() - mended;
    output.line(match (mended, left, args.dry_run) {
        (0, 0, _) => "all is well".to_owned(),
        (_, 0, false) => format!("{} mended, all is well", human::count(mended as u64, "thing")),
        (_, _, false) => format!("{} mended, {left} could not be", human::count(mended as u64, "thing")),
        (_, _, true) => {
            format!("{} would be mended, {left} could not be", human::count(mended as u64, "thing"))
        }
    })
}

/// Digests and ids are told by their beginning, all else as it is.
fn short(subject: &str) -> String {
    let is_hex = |text: &str| text.len() == 64 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    match subject.rsplit_once([':', '-']) {
        Some((what, hex)) if is_hex(hex) && what.starts_with("sha256") => human::short(hex).to_owned(),
        Some((what, hex)) if is_hex(hex) => format!("{what}-{}", human::short(hex)),
        None if is_hex(subject) => human::short(subject).to_owned(),
        _ => subject.to_owned(),
    }
}

fn describe(one: &Repaired) -> serde_json::Value {
    json!({
        "outcome": one.outcome.as_str(),
        "kind": one.kind,
        "subject": one.subject,
        "message": one.message,
        "needed_by": one.needed_by,
    })
}
