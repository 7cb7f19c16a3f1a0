//! [`Failure`]: how a command ends when it does not succeed, what that prints and which status it exits with.
//!
//! One line on standard error, beginning with `plywood:` and naming the cause; with `--json` one JSON object there. The
//! next step is added where it is obvious.

use std::error::Error;
use std::io::{self, Write as _};

use clap::error::{ContextKind, ContextValue};
use plywood::StoreError;
use plywood::codec::CodecError;
use plywood::open_files::OpenFiles;
use serde_json::{Map, Value, json};

use crate::human;
use crate::output::Output;
use crate::template::Template;

/// Exit statuses. What clap refuses exits with 2, too.
pub(crate) const FAILED: u8 = 1;
pub(crate) const USAGE: u8 = 2;
/// A check could not be made, which says nothing about damage.
pub(crate) const UNCHECKED: u8 = 3;

/// Why a command did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The library refused, and what to do about it.
    Store { error: Box<StoreError>, hint: Option<String> },
    /// Something of the tool's own could not be read or written.
    Io { doing: String, source: io::Error },
    /// Said in a way that cannot be meant, and clap could not know.
    Usage(String),
    /// A text that is no name.
    Invalid(String),
    /// Whoever read standard output does not any more.
    StdoutClosed,
    /// A signal ended it, and everything was put away.
    Interrupted(i32),
    /// Some of several things failed, each of which was reported.
    Reported,
    /// A check could not be made or finished.
    Unchecked(Box<Self>),
    /// It has to do with something that the message does not name.
    About { what: String, failure: Box<Self> },
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let hint = is_expansion(&error)
            .then(|| "--no-expansion-limit lifts it, for images that you trust".to_owned());
        Self::Store { error: Box::new(error), hint }
    }
}

/// The next step where the store has no room. An archive is written elsewhere.
fn room(error: &StoreError) -> Option<&'static str> {
    let is_full = matches!(error.kind(), "no-space" | "quota") && !matches!(error, StoreError::Save(_));
    is_full.then_some(
        "`plywood system df` tells what takes the room, `plywood gc` and `plywood system prune` make some",
    )
}

/// The next step where there are too many open files.
fn more_files(files: &OpenFiles) -> String {
    let needed = files.needed;
    if files.of_system {
        return format!("{files}: raise the sysctl fs.file-max, or end processes that have many open");
    }
    let as_root = match files.hard_limit {
        Some(hard) if hard < needed => ", which only root may set above the hard limit",
        _ => "",
    };
    format!("{files}: `ulimit -n {needed}`, or LimitNOFILE={needed} for a service{as_root}")
}

/// Whether something would unpack to too much.
fn is_expansion(error: &StoreError) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref().and_then(CodecError::of) {
            return matches!(
                error,
                CodecError::Expansion { .. }
                    | CodecError::Zeros { .. }
                    | CodecError::EmptyParts { .. }
                    | CodecError::Idle { .. }
            );
        }
        cause = error.source();
    }
    false
}

impl Failure {
    /// Something of the tool's own that the system refused.
    pub(crate) fn io(doing: impl Into<String>, source: io::Error) -> Self {
        Self::Io { doing: doing.into(), source }
    }

    /// A failure to write to standard output.
    pub(crate) fn stdout(source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::BrokenPipe => Self::StdoutClosed,
            _ => Self::Io { doing: "write to standard output".to_owned(), source },
        }
    }

    /// Adds the next step, if there is none yet.
    pub(crate) fn hinted(self, next: impl FnOnce(&StoreError) -> Option<String>) -> Self {
        match self {
            Self::Store { error, hint: None } => {
                let hint = next(&error);
                Self::Store { error, hint }
            }
            other => other,
        }
    }

    /// Tells a check that could not be made from damage that it found: what says that the store itself is damaged is
    /// damage, wherever that was noticed.
    pub(crate) fn unchecked(self) -> Self {
        match self {
            Self::Store { ref error, .. }
                if matches!(error.kind(), "damaged" | "not-a-store" | "unknown-format" | "not-found") =>
            {
                self
            }
            Self::Store { .. } | Self::Io { .. } => Self::Unchecked(Box::new(self)),
            other => other,
        }
    }

    /// Says what the failure has to do with, unless there is nothing to say.
    pub(crate) fn about(self, what: impl Into<String>) -> Self {
        match self {
            Self::StdoutClosed | Self::Interrupted(_) | Self::Reported => self,
            failure => Self::About { what: what.into(), failure: Box::new(failure) },
        }
    }

    /// The exit status; for what a signal did, as a shell has it.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Usage(_) => USAGE,
            Self::About { failure, .. } => failure.status(),
            Self::Unchecked(_) => UNCHECKED,
            Self::Interrupted(signal) => 128 + u8::try_from(*signal).unwrap_or(0),
            _ => FAILED,
        }
    }

    /// Prints it, if there is something to say.
    pub(crate) fn report(&self, json: bool) {
        let failure = match self {
            Self::Unchecked(failure) => failure,
            failure => failure,
        };
        let (about, failure) = match failure {
            Self::About { what, failure } => (format!("{what}: "), failure.as_ref()),
            failure => (String::new(), failure),
        };
        let (message, kind, facts, hint) = match failure {
            Self::Store { error, hint } => {
                let next = OpenFiles::of(error.as_ref()).map(|files| more_files(&files));
                let next = next.or_else(|| hint.clone()).or_else(|| room(error).map(str::to_owned));
                (chain(error.as_ref()), error.kind(), error.facts(), next)
            }
            Self::Io { doing, source } => {
                let files = OpenFiles::of(source);
                let kind = if files.is_some() { "too-many-files" } else { io_kind(source) };
                let next = files.map(|files| more_files(&files));
                (format!("cannot {doing}: {}", chain(source)), kind, Vec::new(), next)
            }
            Self::Usage(message) => (message.clone(), "usage", Vec::new(), None),
            Self::Invalid(message) => (message.clone(), "invalid-name", Vec::new(), None),
            Self::Interrupted(_) => {
                let hint = "`plywood gc` frees what it may have left";
                ("interrupted".to_owned(), "cancelled", Vec::new(), Some(hint.to_owned()))
            }
            Self::StdoutClosed | Self::Reported | Self::About { .. } | Self::Unchecked(_) => return,
        };
        let message = format!("{about}{message}");
        let hint = hint.as_deref();
        print(&if json { object(&message, kind, facts, hint) } else { line(&message, hint) });
    }
}

/// Does something to each of several things. What fails is reported and the rest goes on; with `--json`, what was done
/// is one array.
pub(crate) fn each(
    output: Output,
    things: &[String],
    act: impl FnMut(&str) -> Result<Value, Failure>,
) -> Result<(), Failure> {
    let (done, all) = attempt(output, things, act)?;
    if output.json && (all || !done.is_empty()) {
        output.json(&done)?;
    }
    if all { Ok(()) } else { Err(Failure::Reported) }
}

/// As [`each`], for commands whose result is JSON unless something else is asked for.
pub(crate) fn each_shown(
    output: Output,
    template: Option<&Template>,
    things: &[String],
    show: impl FnMut(&str) -> Result<Value, Failure>,
) -> Result<(), Failure> {
    let (shown, all) = attempt(output, things, show)?;
    if let Some(template) = template {
        let filled = shown.iter().map(|object| template.fill(object).map_err(Failure::Usage));
        output.lines(filled.collect::<Result<Vec<_>, _>>()?)?;
    } else if all || !shown.is_empty() {
        if output.json { output.json(&shown)? } else { output.pretty(&shown)? }
    }
    if all { Ok(()) } else { Err(Failure::Reported) }
}

fn attempt(
    output: Output,
    things: &[String],
    mut act: impl FnMut(&str) -> Result<Value, Failure>,
) -> Result<(Vec<Value>, bool), Failure> {
    let mut done = Vec::new();
    let mut all = true;
    for thing in things {
        match act(thing) {
            Ok(value) => done.push(value),
            Err(end @ (Failure::StdoutClosed | Failure::Interrupted(_))) => return Err(end),
            Err(failure) => {
                failure.report(output.json);
                all = false;
            }
        }
    }
    Ok((done, all))
}

/// Reports what clap refused, as JSON.
pub(crate) fn report_usage(error: &clap::Error) {
    let text = error.render().to_string();
    let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    let message = lines.collect::<Vec<_>>().join(" ");
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    let hint = match error.get(ContextKind::Suggested) {
        Some(ContextValue::StyledStrs(tips)) => tips.first().map(ToString::to_string),
        _ => None,
    };
    print(&object(message, "usage", Vec::new(), hint.as_deref()));
}

fn print(line: &str) {
    // Nobody can be told that standard error does not work.
    writeln!(io::stderr().lock(), "{line}").unwrap_or_default();
}

fn line(message: &str, hint: Option<&str>) -> String {
    let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
    human::printable(&format!("plywood: {message}{hint}"))
}

fn object(message: &str, kind: &str, facts: Vec<(&'static str, String)>, hint: Option<&str>) -> String {
    let mut object = Map::new();
    object.insert("error".to_owned(), json!(message));
    object.insert("kind".to_owned(), json!(kind));
    for (key, value) in facts {
        object.entry(key).or_insert(Value::String(value));
    }
    if let Some(hint) = hint {
        object.insert("hint".to_owned(), json!(hint));
    }
    Value::Object(object).to_string()
}

/// An error and its causes. A message that already ends in that of its cause says it once.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.ends_with(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
}

fn io_kind(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "permission",
        io::ErrorKind::StorageFull => "no-space",
        io::ErrorKind::QuotaExceeded => "quota",
        io::ErrorKind::ReadOnlyFilesystem => "read-only",
        io::ErrorKind::NotFound => "not-found",
        _ => "io",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open \"a\nb\"")]
    struct Outer(#[source] io::Error);

    #[test]
    fn an_error_is_one_line_with_its_causes() {
        let error = Outer(io::Error::from_raw_os_error(2));
        let message = chain(&error);
        assert_eq!(
            line(&message, Some("look there")),
            "plywood: cannot open \"a\\nb\": No such file or directory (os error 2); look there"
        );
    }

    #[test]
    fn facts_never_hide_the_error() {
        let text =
            object("message", "kind", vec![("error", "fact".to_owned()), ("path", "/x".to_owned())], None);
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value, json!({"error": "message", "kind": "kind", "path": "/x"}));
    }
}
