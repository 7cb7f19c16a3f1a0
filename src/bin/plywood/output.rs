//! Standard output: lines, tables, or exactly one JSON value.
//!
//! Whatever cannot be written is an error, a full disk behind a redirection as much as anything; a reader that went away
//! is one too ([`Failure::StdoutClosed`]), and the tool then ends as a program in a pipe should.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;
use serde_json::{Value, json};

use crate::errors::Failure;
use crate::human;

/// How this run prints.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) json: bool,
    pub(crate) quiet: bool,
}

impl Output {
    /// The one JSON value of this run.
    pub(crate) fn json(self, value: &impl Serialize) -> Result<(), Failure> {
        let text = if io::stdout().is_terminal() {
            serde_json::to_string_pretty(value)
        } else {
            serde_json::to_string(value)
        };
        self.write(format!("{}\n", text.map_err(json_failure)?).as_bytes())
    }

    /// A JSON value for people, whether `--json` was given or not.
    pub(crate) fn pretty(self, value: &impl Serialize) -> Result<(), Failure> {
        self.write(format!("{}\n", serde_json::to_string_pretty(value).map_err(json_failure)?).as_bytes())
    }

    /// Lines of text.
    pub(crate) fn lines<L: AsRef<str>>(self, lines: impl IntoIterator<Item = L>) -> Result<(), Failure> {
        let mut text = String::new();
        for line in lines {
            text.push_str(line.as_ref());
            text.push('\n');
        }
        self.write(text.as_bytes())
    }

    /// One line of text.
    pub(crate) fn line(self, line: impl AsRef<str>) -> Result<(), Failure> {
        self.lines([line])
    }

    /// Bytes as they are.
    pub(crate) fn write(self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(Failure::stdout)
    }

    /// The path of something, alone on its line byte for byte, or as JSON.
    pub(crate) fn path(self, path: &Path) -> Result<(), Failure> {
        match self.json {
            true => self.json(&path_json(path)),
            false => self.write(&[path.as_os_str().as_bytes(), b"\n"].concat()),
        }
    }

    /// The path of something that may be nowhere, as JSON.
    pub(crate) fn maybe_path(self, path: Option<&Path>) -> Result<(), Failure> {
        self.json(&path.map_or_else(|| json!({"path": null}), path_json))
    }

    /// What `changes` found: a letter and a path each.
    pub(crate) fn changes(
        self,
        changes: impl Iterator<Item = (&'static str, Vec<u8>)>,
    ) -> Result<(), Failure> {
        if self.json {
            let change = |(kind, path): (&str, Vec<u8>)| {
                let mut object = path_json(Path::new(OsStr::from_bytes(&path)));
                object["kind"] = json!(kind);
                object
            };
            return self.json(&changes.map(change).collect::<Vec<_>>());
        }
        // A script gets the bytes; a terminal must not be led astray by them.
        let is_terminal = io::stdout().is_terminal();
        let mut text = Vec::new();
        for (kind, path) in changes {
            text.extend_from_slice(kind.as_bytes());
            text.push(b' ');
            match is_terminal {
                true => text.extend_from_slice(human::printable_bytes(&path).as_bytes()),
                false => text.extend_from_slice(&path),
            }
            text.push(b'\n');
        }
        self.write(&text)
    }

    /// Something that went otherwise than one would think, and was not an error. On standard error.
    pub(crate) fn warn(self, message: &str) {
        if self.quiet {
            return;
        }
        // Nobody can be told that standard error does not work.
        writeln!(io::stderr().lock(), "plywood: warning: {}", human::printable(message)).unwrap_or_default();
    }
}

/// A path as JSON has it: what is no UTF-8 is exact in a second field.
pub(crate) fn path_json(path: &Path) -> Value {
    match path.to_str() {
        Some(path) => json!({"path": path}),
        None => json!({
            "path": path.to_string_lossy(),
            "path_bytes": BASE64.encode(path.as_os_str().as_bytes()),
        }),
    }
}

fn json_failure(error: serde_json::Error) -> Failure {
    Failure::io("write JSON", error.into())
}

/// Columns of text, as wide as they need to be.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(headers: &[&str]) -> Self {
        Self { rows: vec![headers.iter().map(|&header| header.to_owned()).collect()] }
    }

    /// Adds a row; cells are made printable.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| human::printable(&cell)).collect());
    }

    pub(crate) fn print(&self, output: Output) -> Result<(), Failure> {
        output.write(self.to_text().as_bytes())
    }

    fn to_text(&self) -> String {
        let mut widths: Vec<usize> = Vec::new();
        for row in &self.rows {
            widths.resize(widths.len().max(row.len()), 0);
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                write!(line, "{cell:width$}   ").unwrap_or_default(); // to a String: cannot fail
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_do_not_end_in_spaces() {
        let mut table = Table::new(&["NAME", "ID", "NOTE"]);
        table.row(["a-long-name", "1", ""].map(str::to_owned));
        table.row(["x", "22", "evil\nline"].map(str::to_owned));
        assert_eq!(
            table.to_text(),
            "NAME          ID   NOTE\na-long-name   1\nx             22   evil\\nline\n"
        );
    }
}
