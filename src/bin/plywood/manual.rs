//! `man`: manual pages, made of what `--help` says, with what a manual has besides.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;
use serde_json::json;

use crate::args::{Cli, ManArgs};
use crate::errors::Failure;
use crate::global::Context;
use crate::output::path_json;

/// What stands at the end of the page of the tool itself. A line that begins with a dot is a request to the typesetter.
const ABOUT_ALL: &str = r"
.SH EXIT STATUS
.TP
.B 0
Success.
.TP
.B 1
A failure, said on standard error; or something was found wrong by
.BR plywood\-check (1)
or
.BR plywood\-repair (1).
Of several things, one failed and the others were done.
.TP
.B 2
Wrong usage. Nothing was done.
.TP
.B 128+N
Ended by signal N: 130 after an interruption, 143 after a termination. What was begun was put away.
.SH ENVIRONMENT
.TP
.B PLYWOOD_ROOT
Directory of the store, as
.BR \-\-root .
.TP
.B PLYWOOD_DRIVER
How roots are made, as
.BR \-\-driver .
.TP
.B PLYWOOD_ADDITIONAL_STORES
Directories of stores that lend their images, separated by colons, as
.BR \-\-additional\-store .
.TP
.B PLYWOOD_SHARED
Whether other users may read the images of a store that is made, as
.BR \-\-shared ;
anything but nothing, 0, no, false and off says yes.
.TP
.B PLYWOOD_FUSE_OVERLAYFS
Program for the fuse driver, as
.BR \-\-fuse\-overlayfs .
.TP
.B SOURCE_DATE_EPOCH
Seconds since 1970 that stand for now where an image is made.
.TP
.B XDG_DATA_HOME
Where the store of anyone but root is, in
.IR plywood .
.SH FILES
.TP
.I /var/lib/plywood
The store of root.
.TP
.I ~/.local/share/plywood
The store of anybody else.
.TP
.I oci/
In a store: an OCI image layout with all images, which other tools may read at any time, and must not write. Tools of
other users can read it if the store was made with
.BR \-\-shared .
";

/// What stands at the end of every other page.
const ABOUT_ONE: &str = r"
.SH EXIT STATUS
0 for success, 1 for a failure, 2 for wrong usage, 128 and the number of the signal for an interruption. A check exits with 1
if it found damage, and with 3 if it could not be made or finished.
.SH SEE ALSO
.BR plywood (1)
";

/// `plywood man`
pub(crate) fn manual(context: &Context, args: &ManArgs) -> Result<(), Failure> {
    let output = context.output;
    let mut command = with_all_help(Cli::command()).disable_help_subcommand(true);
    command.build();
    let Some(dir) = &args.dir else {
        let page = page(&command, ABOUT_ALL).expect("a Vec takes every write");
        return match output.json {
            true => output.json(&String::from_utf8_lossy(&page)),
            false => output.write(&page),
        };
    };
    let write = |command: &Command, about| -> io::Result<()> {
        let path = dir.join(Man::new(command.clone()).get_filename());
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(path)?;
        file.write_all(&page(command, about)?)
    };
    let written = write(&command, ABOUT_ALL)
        .and_then(|()| below(&command).into_iter().try_for_each(|command| write(command, ABOUT_ONE)));
    written.map_err(|source| Failure::Io { doing: format!("write manual pages into {dir:?}"), source })?;
    match output.json {
        true => output.json(&json!({"dir": path_json(dir)})),
        false => Ok(()),
    }
}

/// Short help passes over options that are seldom needed; a manual does not.
fn with_all_help(command: Command) -> Command {
    command.mut_args(|arg| arg.hide_short_help(false)).mut_subcommands(with_all_help)
}

/// All commands below one.
fn below(command: &Command) -> Vec<&Command> {
    let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
    shown.flat_map(|command| [command].into_iter().chain(below(command))).collect()
}

fn page(command: &Command, about: &str) -> io::Result<Vec<u8>> {
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.get_subcommands().any(|command| !command.is_hide_set()) {
        man.render_subcommands_section(&mut page)?;
    }
    if let Some(more) = command.get_after_help() {
        page.write_all(&preformatted(&more.to_string()))?;
    }
    page.write_all(about.trim_start().as_bytes())?;
    Ok(page)
}

/// Text with lines of its own: examples, as they were written.
fn preformatted(text: &str) -> Vec<u8> {
    let mut page = b".SH NOTES\n.nf\n".to_vec();
    for line in text.lines() {
        // A dot or an apostrophe in front would be a request; a backslash is an escape, and a hyphen is broken and dashed.
        let line = line.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
        page.extend_from_slice(if line.starts_with('.') { b"\\&" } else { b"" });
        page.extend_from_slice(line.as_bytes());
        page.push(b'\n');
    }
    page.extend_from_slice(b".fi\n");
    page
}
