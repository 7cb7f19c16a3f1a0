//! docs/json.md says what `--json` prints: its commands are run in their order, and print what it says.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::tool::*;

const DOCUMENT: &str = include_str!("../../docs/json.md");

/// A command of the document, the status it should end with, and what it should print.
struct Example {
    line: usize,
    words: Vec<&'static str>,
    status: i32,
    printed: Value,
}

fn examples() -> Vec<Example> {
    let mut examples = Vec::new();
    let mut lines = DOCUMENT.lines().enumerate();
    while let Some((line, text)) = lines.next() {
        let Some(command) = text.strip_prefix("$ plywood ") else { continue };
        // Those that need a registry are run beside one.
        if command.starts_with("pull ") || command.starts_with("push ") {
            continue;
        }
        let (command, note) = command.split_once('#').unwrap_or((command, ""));
        let status = note.trim().strip_prefix("status ").map_or(0, |status| status.parse().unwrap());
        assert_eq!(lines.next().unwrap().1, "```");
        assert_eq!(lines.next().unwrap().1, "```json", "behind line {}", line + 1);
        let json: Vec<_> = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
        let printed = serde_json::from_str(&json.join("\n")).unwrap();
        examples.push(Example {
            line: line + 1,
            words: command.split_whitespace().collect(),
            status,
            printed,
        });
    }
    examples
}

/// Holds what was printed against what the document has: the same fields of the same types. Something may be null in one of
/// them, and of lists that are not empty in both the first elements are compared.
#[track_caller]
fn same_form(printed: &Value, documented: &Value, place: &str) {
    match (printed, documented) {
        (Value::Object(printed), Value::Object(documented)) => {
            // Keys that are data: labels, what runs in a container, platforms of several kinds.
            if place.ends_with("/Labels") || place.ends_with("/labels") || place.ends_with("/Metadata") {
                return;
            }
            let keys =
                |object: &serde_json::Map<String, Value>| object.keys().cloned().collect::<BTreeSet<_>>();
            assert_eq!(keys(printed), keys(documented), "{place}");
            for (key, value) in printed {
                same_form(value, &documented[key], &format!("{place}/{key}"));
            }
        }
        (Value::Array(printed), Value::Array(documented)) => {
            if let (Some(printed), Some(documented)) = (printed.first(), documented.first()) {
                same_form(printed, documented, &format!("{place}/0"));
            }
        }
        (Value::Null, _) | (_, Value::Null) => {}
        _ => {
            let kind = |value: &Value| std::mem::discriminant(value);
            assert_eq!(kind(printed), kind(documented), "{place}: {printed} and {documented}");
        }
    }
}

#[test]
fn every_command_prints_the_json_that_the_document_shows() {
    let tool = Tool::with("copy");
    fs::create_dir_all(tool.home.path().join("root/etc")).unwrap();
    tool.file("root/etc/hosts", "127.0.0.1 localhost\n");
    tool.file("page", "hello\n");
    for Example { line, words, status, printed } in examples() {
        let output = tool.command(&words).current_dir(tool.home.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "docs/json.md:{line}: {said}");
        let bytes = if status == 0 { &output.stdout } else { &output.stderr };
        let value = serde_json::from_slice(bytes).unwrap();
        same_form(&value, &printed, &format!("docs/json.md:{line}"));
    }
}

#[test]
fn the_document_has_every_command() {
    let help = Tool::new().text(&["-h"]);
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let commands = commands.lines().take_while(|line| !line.is_empty());
    let commands = commands.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    for command in commands.map(|line| line.split_whitespace().next().unwrap()) {
        // Groups, of which each command is there.
        if ["image", "container", "builder", "system", "help"].contains(&command) {
            continue;
        }
        assert!(DOCUMENT.contains(&format!("`{command}`")), "docs/json.md lacks {command}");
    }
}
