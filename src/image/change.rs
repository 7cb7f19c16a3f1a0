//! [`ConfigChange`]: one thing to change about how an image is run.
//!
//! Either typed, for programs, or an [`Instruction`], for people. A list of changes is applied whole or not
//! at all, and in order: an instruction sees the environment that the changes before it made.

use std::fmt;
use std::str::FromStr;

use super::{Config, Healthcheck, Instruction, RuntimeConfig};

/// A change to a [`Config`], applied by [`Config::apply`].
///
/// ```
/// use plywood::image::{CommandLine, Config, ConfigChange};
///
/// let mut config = Config::default();
/// config.apply(&[
///     ConfigChange::Entrypoint(CommandLine::exec(["/srv/web"])),
///     "ENV PORT=80 ROOT=/srv".parse()?,
///     "EXPOSE $PORT".parse()?,
/// ])?;
/// assert!(config.config.exposed_ports.contains("80/tcp"));
/// # Ok::<(), plywood::image::ChangeError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ConfigChange {
    /// Sets the command.
    Cmd(CommandLine),
    /// Sets the entrypoint. The command goes, unless the same list set it before: it was meant for another
    /// entrypoint.
    Entrypoint(CommandLine),
    /// Sets an environment variable.
    Env {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
    },
    /// Adds a port that the image listens on.
    Expose {
        /// The port.
        port: u16,
        /// Of which protocol.
        protocol: Protocol,
    },
    /// Sets a label.
    Label {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
    },
    /// Adds an instruction for images that are built from this one.
    OnBuild(String),
    /// Sets the user, `user[:group]`.
    User(String),
    /// Adds a volume.
    Volume(String),
    /// Sets the working directory; a relative one is below the present one.
    WorkingDir(String),
    /// Sets the signal that asks the process to end, by name or number.
    StopSignal(String),
    /// Sets the health check.
    Healthcheck(Healthcheck),
    /// Sets the shell that commands in shell form are given to, from here on.
    Shell(Vec<String>),
    /// Whatever a line of a Dockerfile says.
    Instruction(Instruction),
}

/// A command, as words or as a line for the shell.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum CommandLine {
    /// Words that are executed as they are. No words: no command.
    Exec(Vec<String>),
    /// A line for the image's shell, `/bin/sh -c` if it names none.
    Shell(String),
}

impl CommandLine {
    /// A command as words.
    pub fn exec(words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::Exec(words.into_iter().map(Into::into).collect())
    }
}

/// Protocol of a port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// A change that cannot be applied.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("cannot apply {change:?}: {reason}")]
pub struct ChangeError {
    change: String,
    reason: String,
}

impl ChangeError {
    pub(super) fn new(change: String, reason: impl Into<String>) -> Self {
        Self { change, reason: reason.into() }
    }
}

impl Config {
    /// Applies `changes` in order, all or none.
    ///
    /// # Errors
    ///
    /// [`ChangeError`], which quotes the change; the config is then as it was.
    pub fn apply(&mut self, changes: &[ConfigChange]) -> Result<(), ChangeError> {
        let shell = if self.os == "windows" { ["cmd", "/S", "/C"].as_slice() } else { &["/bin/sh", "-c"] };
        let mut editor = Editor { config: self.config.clone(), default_shell: shell, command_set: false };
        for change in changes {
            match change {
                ConfigChange::Instruction(instruction) => {
                    for change in instruction.resolve(&editor.config)? {
                        let quoted = |reason| ChangeError::new(instruction.to_string(), reason);
                        editor.apply(&change).map_err(quoted)?;
                    }
                }
                typed => editor.apply(typed).map_err(|reason| ChangeError::new(typed.to_string(), reason))?,
            }
        }
        self.config = editor.config;
        Ok(())
    }
}

struct Editor {
    config: RuntimeConfig,
    default_shell: &'static [&'static str],
    command_set: bool,
}

impl Editor {
    fn apply(&mut self, change: &ConfigChange) -> Result<(), &'static str> {
        match change {
            ConfigChange::Cmd(command) => {
                self.config.cmd = self.words(command);
                self.command_set = !self.config.cmd.is_empty();
            }
            ConfigChange::Entrypoint(command) => {
                self.config.entrypoint = self.words(command);
                if !self.command_set {
                    self.config.cmd.clear();
                }
            }
            ConfigChange::Env { name, value } => {
                if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                    return Err("the name is empty or has a '=', or there is a NUL");
                }
                self.config.set_env(name, value);
            }
            ConfigChange::Expose { port, protocol } => {
                self.config.exposed_ports.insert(format!("{port}/{protocol}"));
            }
            ConfigChange::Label { name, value } => {
                if name.is_empty() {
                    return Err("the name is empty");
                }
                self.config.labels.insert(name.clone(), value.clone());
            }
            ConfigChange::OnBuild(trigger) => {
                let name = trigger.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
                if ["", "ONBUILD", "FROM", "MAINTAINER"].contains(&name.as_str()) {
                    return Err("this instruction cannot be left for later");
                }
                self.config.on_build.push(trigger.clone());
            }
            ConfigChange::User(user) => self.config.user.clone_from(user),
            ConfigChange::Volume(path) => {
                if path.is_empty() {
                    return Err("the path is empty");
                }
                self.config.volumes.insert(path.clone());
            }
            ConfigChange::WorkingDir(path) => {
                if path.is_empty() {
                    return Err("the path is empty");
                }
                self.config.working_dir = joined(&self.config.working_dir, path);
            }
            ConfigChange::StopSignal(signal) => {
                if !is_signal(signal) {
                    return Err("there is no such signal");
                }
                self.config.stop_signal.clone_from(signal);
            }
            ConfigChange::Healthcheck(check) => self.config.healthcheck = Some(check.clone()),
            ConfigChange::Shell(words) => {
                if words.is_empty() {
                    return Err("a shell has at least one word");
                }
                self.config.shell.clone_from(words);
            }
            ConfigChange::Instruction(_) => return Err("an instruction does not resolve to another"),
        }
        Ok(())
    }

    fn words(&self, command: &CommandLine) -> Vec<String> {
        match command {
            CommandLine::Exec(words) => words.clone(),
            CommandLine::Shell(line) => {
                let mut words = self.config.shell.clone();
                if words.is_empty() {
                    words.extend(self.default_shell.iter().map(|&word| word.to_owned()));
                }
                words.push(line.clone());
                words
            }
        }
    }
}

/// `path` as it is, or if it is relative, below `base` and without `.` and `..`.
fn joined(base: &str, path: &str) -> String {
    if path.starts_with('/') {
        return path.to_owned();
    }
    let mut names = Vec::new();
    for name in base.split('/').chain(path.split('/')) {
        match name {
            "" | "." => {}
            ".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    format!("/{}", names.join("/"))
}

/// Whether Linux knows a signal of this name, with or without `SIG`, or number.
fn is_signal(text: &str) -> bool {
    const NAMES: [&str; 34] = [
        "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
        "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
        "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
    ];
    if text.bytes().all(|c| c.is_ascii_digit()) {
        return text.parse().is_ok_and(|number: u8| (1..=64).contains(&number));
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let real_time = |offset: &str, sign: char, most: u8| match offset.strip_prefix(sign) {
        None => offset.is_empty(),
        Some(n) => {
            n.len() <= 2 && n.parse().is_ok_and(|n: u8| (1..=most).contains(&n)) && !n.starts_with('+')
        }
    };
    NAMES.contains(&name)
        || name.strip_prefix("RTMIN").is_some_and(|offset| real_time(offset, '+', 15))
        || name.strip_prefix("RTMAX").is_some_and(|offset| real_time(offset, '-', 14))
}

impl ConfigChange {
    /// Sets an environment variable.
    pub fn env(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self::Env { name: name.into(), value: value.into() }
    }

    /// Sets a label.
    pub fn label(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self::Label { name: name.into(), value: value.into() }
    }
}

impl FromStr for ConfigChange {
    type Err = ChangeError;

    /// Reads a line of a Dockerfile.
    fn from_str(text: &str) -> Result<Self, ChangeError> {
        text.parse().map(Self::Instruction)
    }
}

impl From<Instruction> for ConfigChange {
    fn from(instruction: Instruction) -> Self {
        Self::Instruction(instruction)
    }
}

/// An instruction that means the same, as a history tells it. One with line breaks in its texts does not read
/// back.
impl fmt::Display for ConfigChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cmd(command) => write!(f, "CMD {command}"),
            Self::Entrypoint(command) => write!(f, "ENTRYPOINT {command}"),
            Self::Env { name, value } => write!(f, "ENV {}={}", Quoted(name), Quoted(value)),
            Self::Expose { port, protocol } => write!(f, "EXPOSE {port}/{protocol}"),
            Self::Label { name, value } => write!(f, "LABEL {}={}", Quoted(name), Quoted(value)),
            Self::OnBuild(trigger) => write!(f, "ONBUILD {trigger}"),
            Self::User(user) => write!(f, "USER {}", Quoted(user)),
            Self::Volume(path) => write!(f, "VOLUME {}", Words(&[Quoted(path).to_string()])),
            Self::WorkingDir(path) => write!(f, "WORKDIR {}", Quoted(path)),
            Self::StopSignal(signal) => write!(f, "STOPSIGNAL {}", Quoted(signal)),
            Self::Healthcheck(check) => write_healthcheck(check, f),
            Self::Shell(words) => write!(f, "SHELL {}", Words(words)),
            Self::Instruction(instruction) => instruction.fmt(f),
        }
    }
}

fn write_healthcheck(check: &Healthcheck, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("HEALTHCHECK ")?;
    for (flag, duration) in [
        ("interval", check.interval),
        ("timeout", check.timeout),
        ("start-period", check.start_period),
        ("start-interval", check.start_interval),
    ] {
        if let Some(duration) = duration {
            write!(f, "--{flag}={}ns ", duration.as_nanos())?;
        }
    }
    if let Some(retries) = check.retries {
        write!(f, "--retries={retries} ")?;
    }
    match check.test.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] | ["NONE"] => f.write_str("NONE"),
        ["CMD-SHELL", line] => write!(f, "CMD {line}"),
        [_, words @ ..] => write!(f, "CMD {}", Words(words)),
    }
}

impl fmt::Display for CommandLine {
    /// As an instruction has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exec(words) => Words(words).fmt(f),
            Self::Shell(line) => f.write_str(line),
        }
    }
}

/// A JSON array of strings.
struct Words<'a, T>(&'a [T]);

impl<T: AsRef<str>> fmt::Display for Words<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: serde_json::Value = self.0.iter().map(AsRef::as_ref).collect();
        words.fmt(f)
    }
}

/// A word that expands to the text, in quotes where it must be.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |c: char| c.is_alphanumeric() || "_-./:,+@%".contains(c);
        if !self.0.is_empty() && self.0.chars().all(plain) && !self.0.starts_with("--") {
            return f.write_str(self.0);
        }
        let escaped = self.0.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "\\$");
        write!(f, "\"{escaped}\"")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn changed(lines: &[&str]) -> Config {
        let mut config = Config::default();
        config.config.env = vec!["PATH=/bin".to_owned()];
        config.config.cmd = vec!["old".to_owned()];
        apply(&mut config, lines).unwrap_or_else(|error| panic!("{error}"));
        config
    }

    fn apply(config: &mut Config, lines: &[&str]) -> Result<(), ChangeError> {
        let changes: Vec<ConfigChange> = lines.iter().map(|line| line.parse().unwrap()).collect();
        config.apply(&changes)
    }

    #[test]
    fn an_entrypoint_drops_a_command_that_the_same_list_did_not_set() {
        assert_eq!(changed(&["ENTRYPOINT [\"e\"]"]).config.cmd, [""; 0]);
        assert_eq!(changed(&["ENTRYPOINT [\"e\"]", "CMD [\"c\"]"]).config.cmd, ["c"]);
        assert_eq!(changed(&["CMD [\"c\"]", "ENTRYPOINT [\"e\"]"]).config.cmd, ["c"]);
        assert_eq!(changed(&["CMD []", "ENTRYPOINT [\"e\"]"]).config.cmd, [""; 0]);
    }

    #[test]
    fn the_shell_form_uses_the_shell_of_that_moment() {
        let config = changed(&["CMD a b", "SHELL [\"/bin/bash\", \"-ec\"]", "ENTRYPOINT c"]).config;
        assert_eq!(config.cmd, ["/bin/sh", "-c", "a b"]);
        assert_eq!(config.entrypoint, ["/bin/bash", "-ec", "c"]);
        let mut windows = Config { os: "windows".to_owned(), ..Config::default() };
        apply(&mut windows, &["CMD dir"]).unwrap();
        assert_eq!(windows.config.cmd, ["cmd", "/S", "/C", "dir"]);
    }

    #[test]
    fn each_instruction_sees_what_the_ones_before_it_made() {
        let config = changed(&[
            "ENV A=1 PATH=/x:$PATH",
            "ENV B=${A}2",
            "EXPOSE $B",
            "WORKDIR /$A",
            "WORKDIR ../b/./c/",
        ]);
        assert_eq!(config.config.env, ["PATH=/x:/bin", "A=1", "B=12"]);
        assert!(config.config.exposed_ports.contains("12/tcp"));
        assert_eq!(config.config.working_dir, "/b/c");
    }

    #[test]
    fn ports_volumes_labels_and_triggers_add_up() {
        let config = changed(&[
            "EXPOSE 80",
            "EXPOSE 80 53/udp",
            "VOLUME /a",
            "VOLUME /b",
            "LABEL a=1",
            "LABEL a=2 b=",
            "ONBUILD RUN x",
        ]);
        let config = config.config;
        assert_eq!(config.exposed_ports.iter().collect::<Vec<_>>(), ["53/udp", "80/tcp"]);
        assert_eq!(config.volumes.iter().collect::<Vec<_>>(), ["/a", "/b"]);
        assert_eq!(config.labels.iter().map(|(a, b)| format!("{a}={b}")).collect::<Vec<_>>(), ["a=2", "b="]);
        assert_eq!(config.on_build, ["RUN x"]);
    }

    #[test]
    fn a_list_with_an_error_changes_nothing() {
        for (line, reason) in [
            ("ENV =x", "the name is empty or has a '=', or there is a NUL"),
            ("LABEL \"\"=x", "the name is empty"),
            ("WORKDIR $UNSET", "the path is empty"),
            ("VOLUME [\"\"]", "the path is empty"),
            ("STOPSIGNAL SIGFOO", "there is no such signal"),
            ("ONBUILD ONBUILD RUN x", "this instruction cannot be left for later"),
            ("ONBUILD from x", "this instruction cannot be left for later"),
            ("USER ${U:?who}", "U: who"),
        ] {
            let mut config = changed(&[]);
            let before = config.clone();
            let error = apply(&mut config, &["ENV A=1", line]).unwrap_err();
            assert_eq!(error.to_string(), format!("cannot apply {line:?}: {reason}"));
            assert_eq!(config, before);
        }
    }

    #[test]
    fn signals_are_known_by_name_and_number() {
        for signal in ["SIGTERM", "term", "9", "64", "SIGRTMIN+3", "RTMAX-14", "RTMIN", "SIGRTMAX"] {
            assert!(is_signal(signal), "{signal}");
        }
        for signal in
            ["", "0", "65", "SIG", "SIGSIGTERM", "RTMIN+16", "RTMIN-1", "RTMAX+1", "RTMIN++1", "-9", "999999"]
        {
            assert!(!is_signal(signal), "{signal}");
        }
    }

    #[test]
    fn a_relative_working_directory_is_joined_and_stays_below_the_root() {
        assert_eq!(joined("/a", "../../../b"), "/b");
        assert_eq!(joined("", "x"), "/x");
        assert_eq!(joined("/a", "."), "/a");
        // An absolute one is docker's to the letter: which directory `..` leads to is for the container to
        // find out.
        assert_eq!(joined("/a", "/b/../c/"), "/b/../c/");
        assert_eq!(joined("a/b", "c"), "/a/b/c");
    }

    fn typed_change() -> impl Strategy<Value = ConfigChange> {
        let text = "[ -~é]{0,12}";
        let words = prop::collection::vec(text, 0..3);
        prop_oneof![
            words.clone().prop_map(|words| ConfigChange::Cmd(CommandLine::Exec(words))),
            "[a-z]( ?[a-z$\"'])*".prop_map(|line| ConfigChange::Entrypoint(CommandLine::Shell(line))),
            ("[a-zA-Z_ $\"']{1,6}", text).prop_map(|(name, value)| ConfigChange::env(name, value)),
            ("[a-z.]{1,6}", text).prop_map(|(name, value)| ConfigChange::label(name, value)),
            any::<u16>().prop_map(|port| ConfigChange::Expose { port, protocol: Protocol::Udp }),
            text.prop_map(ConfigChange::User),
            "/[ -~é]{0,12}[!-~]".prop_map(ConfigChange::Volume),
            "/[ -~é]{0,12}".prop_map(ConfigChange::WorkingDir),
            words.prop_filter("not empty", |words| !words.is_empty()).prop_map(ConfigChange::Shell),
            (any::<u32>(), 1u64..1_000_000).prop_map(|(retries, ms)| {
                let interval = Some(std::time::Duration::from_millis(ms));
                let retries = Some(retries).filter(|&n| n != 0);
                let test = vec!["CMD".to_owned(), "x y".to_owned()];
                ConfigChange::Healthcheck(Healthcheck { test, interval, retries, ..Healthcheck::default() })
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_typed_change_and_its_text_do_the_same(change in typed_change()) {
            let (mut by_type, mut by_text) = (changed(&[]), changed(&[]));
            by_type.apply(std::slice::from_ref(&change)).unwrap();
            let text = change.to_string();
            by_text.apply(&[text.parse().unwrap()]).unwrap();
            prop_assert_eq!(by_type, by_text, "{}", text);
        }
    }
}
