//! [`Instruction`]: a line of a Dockerfile, as `docker commit --change` takes it.
//!
//! Reading checks the form; variables are put in when the instruction is applied, for their values are those
//! of the config at that moment. Both follow docker, oddities included: a JSON array that is not quite one is a
//! line for the shell.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde_json::Value;

use super::change::{ChangeError, CommandLine, ConfigChange, Protocol};
use super::expand::{expand, words};
use super::{Healthcheck, RuntimeConfig};

/// One of `CMD`, `ENTRYPOINT`, `ENV`, `EXPOSE`, `HEALTHCHECK`, `LABEL`, `ONBUILD`, `SHELL`, `STOPSIGNAL`,
/// `USER`, `VOLUME`, `WORKDIR`, with variables still in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Instruction {
    text: String,
    form: Form,
}

/// What the words are, quotes and variables still in them.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Form {
    /// Nothing in it is expanded.
    Literal(Box<ConfigChange>),
    Env(Vec<(String, String)>),
    Label(Vec<(String, String)>),
    Expose(Vec<String>),
    Volume(Vec<String>),
    User(String),
    WorkingDir(String),
    StopSignal(String),
}

impl Instruction {
    /// Reads any number of instructions, one on each line; a `\` at the end continues a line, a `#` begins a
    /// comment.
    ///
    /// # Errors
    ///
    /// [`ChangeError`], which quotes the instruction, if one is unknown or malformed.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, ChangeError> {
        let mut instructions = Vec::new();
        let mut joined: Option<String> = None;
        for line in text.lines() {
            let blank = line.trim().is_empty() || line.trim_start().starts_with('#');
            if blank {
                continue;
            }
            let end = line.trim_end_matches([' ', '\t']);
            let continued = end.strip_suffix('\\').filter(|rest| !rest.ends_with('\\'));
            let mut whole = joined.take().unwrap_or_default();
            whole.push_str(continued.unwrap_or(line));
            if continued.is_some() {
                joined = Some(whole);
            } else {
                instructions.push(Self::parse_line(&whole)?);
            }
        }
        if let Some(whole) = joined {
            instructions.push(Self::parse_line(&whole)?);
        }
        Ok(instructions)
    }

    fn parse_line(line: &str) -> Result<Self, ChangeError> {
        let text = line.trim().to_owned();
        let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((&text, ""));
        match Form::parse(&name.to_ascii_uppercase(), rest.trim()) {
            Ok(form) => Ok(Self { text, form }),
            Err(reason) => Err(ChangeError::new(text, reason)),
        }
    }

    /// The changes that this means for a container that is run as `config` says: its environment is the
    /// source of variables.
    ///
    /// # Errors
    ///
    /// [`ChangeError`], which quotes the instruction, if a variable is malformed or missing where it must not
    /// be, or a value is none after all.
    pub fn resolve(&self, config: &RuntimeConfig) -> Result<Vec<ConfigChange>, ChangeError> {
        self.form.resolve(config).map_err(|reason| ChangeError::new(self.text.clone(), reason))
    }
}

impl FromStr for Instruction {
    type Err = ChangeError;

    fn from_str(text: &str) -> Result<Self, ChangeError> {
        let mut all = Self::parse_all(text)?;
        match (all.pop(), all.is_empty()) {
            (Some(only), true) => Ok(only),
            (None, _) => Err(ChangeError::new(text.to_owned(), "there is no instruction")),
            (Some(_), false) => Err(ChangeError::new(text.to_owned(), "there is more than one instruction")),
        }
    }
}

impl fmt::Display for Instruction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Form {
    fn parse(name: &str, rest: &str) -> Result<Self, String> {
        let needed = || if rest.is_empty() { Err("it needs an argument") } else { Ok(rest.to_owned()) };
        if name != "HEALTHCHECK" && rest.starts_with("--") {
            return Err("it takes no flags".to_owned());
        }
        let literal = match name {
            "CMD" => ConfigChange::Cmd(command(rest)?),
            "ENTRYPOINT" => ConfigChange::Entrypoint(command(rest)?),
            "HEALTHCHECK" => ConfigChange::Healthcheck(healthcheck(rest)?),
            "ONBUILD" => ConfigChange::OnBuild(needed()?),
            "SHELL" => match command(rest)? {
                CommandLine::Exec(words) if !words.is_empty() => ConfigChange::Shell(words),
                _ => return Err("it needs a JSON array of at least one word".to_owned()),
            },
            "ENV" => return Ok(Self::Env(pairs(rest)?)),
            "LABEL" => return Ok(Self::Label(pairs(rest)?)),
            "EXPOSE" => return Ok(Self::Expose(needed()?.split_whitespace().map(str::to_owned).collect())),
            "VOLUME" => {
                let paths = match command(&needed()?)? {
                    CommandLine::Exec(paths) => paths,
                    CommandLine::Shell(paths) => paths.split_whitespace().map(str::to_owned).collect(),
                };
                if paths.is_empty() {
                    return Err("it needs an argument".to_owned());
                }
                return Ok(Self::Volume(paths));
            }
            "USER" => return Ok(Self::User(needed()?)),
            "WORKDIR" => return Ok(Self::WorkingDir(needed()?)),
            "STOPSIGNAL" => return Ok(Self::StopSignal(needed()?)),
            "ADD" | "ARG" | "COPY" | "FROM" | "MAINTAINER" | "RUN" => {
                return Err("it builds and changes no config".to_owned());
            }
            _ => return Err("there is no such instruction".to_owned()),
        };
        Ok(Self::Literal(Box::new(literal)))
    }

    fn resolve(&self, config: &RuntimeConfig) -> Result<Vec<ConfigChange>, String> {
        let expand = |word: &String| expand(word, |name| config.env_value(name));
        let each = |pairs: &[(String, String)], change: fn(String, String) -> ConfigChange| {
            pairs.iter().map(|(name, value)| Ok(change(expand(name)?, expand(value)?))).collect()
        };
        Ok(match self {
            Self::Literal(change) => vec![ConfigChange::clone(change)],
            Self::Env(pairs) => return each(pairs, |name, value| ConfigChange::Env { name, value }),
            Self::Label(pairs) => return each(pairs, |name, value| ConfigChange::Label { name, value }),
            Self::Expose(ports) => {
                let mut changes = Vec::new();
                for port in ports {
                    // One variable may hold several ports.
                    for port in expand(port)?.split_whitespace() {
                        changes.extend(expose(port)?);
                    }
                }
                changes
            }
            Self::Volume(paths) => {
                let volume = |path| Ok(ConfigChange::Volume(expand(path)?.trim().to_owned()));
                return paths.iter().map(volume).collect();
            }
            Self::User(user) => vec![ConfigChange::User(expand(user)?)],
            Self::WorkingDir(path) => vec![ConfigChange::WorkingDir(expand(path)?)],
            Self::StopSignal(signal) => vec![ConfigChange::StopSignal(expand(signal)?)],
        })
    }
}

/// A command in exec form, which is a JSON array of strings, or else in shell form.
fn command(text: &str) -> Result<CommandLine, String> {
    if text.is_empty() {
        return Ok(CommandLine::Exec(Vec::new()));
    }
    let array = if text.starts_with('[') { serde_json::from_str(text) } else { Ok(Value::Null) };
    let Ok(Value::Array(words)) = array else {
        return Ok(CommandLine::Shell(text.to_owned()));
    };
    let word = |word| match word {
        Value::String(word) => Ok(word),
        other => Err(format!("its array holds {other}, which is no string")),
    };
    words.into_iter().map(word).collect::<Result<_, _>>().map(CommandLine::Exec)
}

/// `name=value …`, or `name value` with the value reaching to the end.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let words = words(text);
    let first = words.first().ok_or("it needs an argument")?;
    if !first.contains('=') {
        let (name, value) = text.split_once(char::is_whitespace).ok_or("it needs a name and a value")?;
        return Ok(vec![(name.to_owned(), value.trim_start().to_owned())]);
    }
    let pair = |word: &String| match word.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err(format!("{word:?} is not of the form name=value")),
    };
    words.iter().map(pair).collect()
}

/// `port[-port][/protocol]`
fn expose(text: &str) -> Result<Vec<ConfigChange>, String> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, ""));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "" | "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return Err(format!("{protocol:?} is none of the protocols tcp, udp and sctp")),
    };
    if ports.contains(':') {
        return Err(format!("{ports:?} maps a port of the host, which is not the image's to say"));
    }
    let number = |port: &str| match port.parse::<u16>() {
        Ok(number) if port.bytes().all(|c| c.is_ascii_digit()) => Ok(number),
        _ => Err(format!("{port:?} is not a port from 0 to 65535")),
    };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(format!("the range {ports:?} is empty"));
    }
    Ok((first..=last).map(|port| ConfigChange::Expose { port, protocol }).collect())
}

/// `NONE`, or `[--flag=value …] CMD command`.
fn healthcheck(mut text: &str) -> Result<Healthcheck, String> {
    let mut check = Healthcheck::default();
    let next = |text: &mut &str| {
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        *text = rest.trim_start();
        word.to_owned()
    };
    let mut flags = false;
    while text.starts_with("--") {
        flags = true;
        let flag = next(&mut text);
        let (name, value) = flag.split_once('=').ok_or_else(|| format!("{flag} has no value"))?;
        let field = match name {
            "--interval" => &mut check.interval,
            "--timeout" => &mut check.timeout,
            "--start-period" => &mut check.start_period,
            "--start-interval" => &mut check.start_interval,
            "--retries" => {
                let retries =
                    value.parse::<u32>().map_err(|_| format!("{flag} is not a number, not below zero"))?;
                check.retries = (retries != 0).then_some(retries);
                continue;
            }
            _ => return Err(format!("there is no flag {name}")),
        };
        let duration = duration(value).ok_or_else(|| format!("{flag} is not a duration like 1m30s"))?;
        if duration < Duration::from_millis(1) && !duration.is_zero() {
            return Err(format!("{flag} is less than 1ms"));
        }
        *field = Some(duration).filter(|duration| !duration.is_zero());
    }
    match next(&mut text).to_ascii_uppercase().as_str() {
        "NONE" if flags || !text.is_empty() => Err("NONE takes no flags and no arguments".to_owned()),
        "NONE" => Ok(Healthcheck { test: vec!["NONE".to_owned()], ..check }),
        "CMD" => {
            check.test = match command(text)? {
                CommandLine::Exec(words) if words.is_empty() => return Err("CMD needs a command".to_owned()),
                CommandLine::Exec(words) => [vec!["CMD".to_owned()], words].concat(),
                CommandLine::Shell(line) => vec!["CMD-SHELL".to_owned(), line],
            };
            Ok(check)
        }
        _ => Err("it needs NONE or CMD".to_owned()),
    }
}

/// A duration as Go writes it: `1h2m3.5s`, `100ms`, or `0`.
fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut nanoseconds = 0u128;
    let mut left = text;
    while !left.is_empty() {
        let number = &left[..left.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(left.len())];
        left = &left[number.len()..];
        let unit = &left[..left.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(left.len())];
        left = &left[unit.len()..];
        let unit = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000u128,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || number.len() > 18 {
            return None;
        }
        let digits = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<u128>().ok() };
        let scale = 10u128.pow(u32::try_from(fraction.len()).ok()?);
        nanoseconds += digits(whole)? * unit + digits(fraction)? * unit / scale;
    }
    // What a config can hold.
    let nanoseconds = u64::try_from(i64::try_from(nanoseconds).ok()?).ok()?;
    (!text.is_empty()).then(|| Duration::from_nanos(nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(text: &str, env: &[&str]) -> Vec<ConfigChange> {
        let config = RuntimeConfig {
            env: env.iter().map(|&entry| entry.to_owned()).collect(),
            ..RuntimeConfig::default()
        };
        let instruction: Instruction = text.parse().unwrap_or_else(|error| panic!("{error}"));
        instruction.resolve(&config).unwrap_or_else(|error| panic!("{error}"))
    }

    fn refusal(text: &str) -> String {
        let read = text.parse::<Instruction>().and_then(|read| read.resolve(&RuntimeConfig::default()));
        read.expect_err(text).to_string()
    }

    fn owned(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn commands_have_an_exec_form_and_a_shell_form() {
        let exec = |words: &[&str]| vec![ConfigChange::Cmd(CommandLine::Exec(owned(words)))];
        let shell = |line: &str| vec![ConfigChange::Cmd(CommandLine::Shell(line.to_owned()))];
        assert_eq!(resolved(r#"CMD ["/bin/sh", "-c", "a b"]"#, &[]), exec(&["/bin/sh", "-c", "a b"]));
        assert_eq!(resolved(r#"cmd  [ "é\u0041\n" ] "#, &[]), exec(&["éA\n"]));
        assert_eq!(resolved("CMD []", &[]), exec(&[]));
        assert_eq!(resolved("CMD", &[]), exec(&[]));
        assert_eq!(resolved("CMD echo \"$A\"  'b'", &["A=x"]), shell("echo \"$A\"  'b'"));
        // What is no JSON goes to the shell, as it does with docker.
        assert_eq!(resolved("CMD ['a']", &[]), shell("['a']"));
        assert_eq!(resolved(r#"CMD ["a"] b"#, &[]), shell(r#"["a"] b"#));
        assert_eq!(resolved("CMD [ -f x ]", &[]), shell("[ -f x ]"));
        assert_eq!(
            resolved("ENTRYPOINT [\"a\"]", &[]),
            [ConfigChange::Entrypoint(CommandLine::Exec(owned(&["a"])))]
        );
        assert_eq!(
            resolved(r#"SHELL ["/bin/bash","-c"]"#, &[]),
            [ConfigChange::Shell(owned(&["/bin/bash", "-c"]))]
        );
    }

    #[test]
    fn names_get_values_in_both_forms_and_from_the_environment_before() {
        let env = |pairs: &[(&str, &str)]| -> Vec<_> {
            pairs.iter().map(|&(name, value)| ConfigChange::env(name, value)).collect()
        };
        assert_eq!(
            resolved("ENV a=b c=\"d e\" f='g' h=i\\ j k=", &[]),
            env(&[("a", "b"), ("c", "d e"), ("f", "g"), ("h", "i j"), ("k", "")])
        );
        assert_eq!(resolved("ENV a  b  \"c\"", &[]), env(&[("a", "b  c")]));
        assert_eq!(resolved("ENV PATH=/x:$PATH", &["PATH=/bin"]), env(&[("PATH", "/x:/bin")]));
        assert_eq!(resolved("ENV a=bye b=$a", &["a=hello"]), env(&[("a", "bye"), ("b", "hello")]));
        assert_eq!(resolved("ENV a=b=c", &[]), env(&[("a", "b=c")]));
    }

    #[test]
    fn ports_are_numbers_ranges_and_variables() {
        let ports = |text, env: &[&str]| -> Vec<_> {
            resolved(text, env).iter().map(|change| change.to_string()).collect()
        };
        assert_eq!(
            ports("EXPOSE 80 443/TCP 53/udp 9/sctp", &[]),
            ["EXPOSE 80/tcp", "EXPOSE 443/tcp", "EXPOSE 53/udp", "EXPOSE 9/sctp"]
        );
        assert_eq!(ports("EXPOSE 7000-7001/udp", &[]), ["EXPOSE 7000/udp", "EXPOSE 7001/udp"]);
        assert_eq!(ports("EXPOSE $P", &["P=1 2/udp"]), ["EXPOSE 1/tcp", "EXPOSE 2/udp"]);
    }

    #[test]
    fn the_rest_takes_words_with_variables() {
        assert_eq!(resolved("USER $U:staff", &["U=me"]), [ConfigChange::User("me:staff".to_owned())]);
        assert_eq!(resolved("WORKDIR \"/a b\"", &[]), [ConfigChange::WorkingDir("/a b".to_owned())]);
        assert_eq!(resolved("STOPSIGNAL SIGINT", &[]), [ConfigChange::StopSignal("SIGINT".to_owned())]);
        let volumes = ["/a", "/b"].map(|path| ConfigChange::Volume(path.to_owned()));
        assert_eq!(resolved("VOLUME /a $B", &["B=/b"]), volumes);
        assert_eq!(resolved("VOLUME [\"/a\", \"$B\"]", &["B=/b"]), volumes);
        assert_eq!(resolved("ONBUILD run  $x", &["x=y"]), [ConfigChange::OnBuild("run  $x".to_owned())]);
        let label = ConfigChange::Label { name: "a.b".to_owned(), value: "c".to_owned() };
        assert_eq!(resolved("LABEL \"a.b\"=c", &[]), [label]);
    }

    #[test]
    fn a_healthcheck_has_flags_and_a_command() {
        let check = |text: &str| match resolved(text, &[]).as_slice() {
            [ConfigChange::Healthcheck(check)] => check.clone(),
            other => panic!("{other:?}"),
        };
        let full = check(
            "HEALTHCHECK --interval=1m30s --timeout=1.5s --start-period=2h --start-interval=0 --retries=3 CMD a b",
        );
        assert_eq!(full.test, ["CMD-SHELL", "a b"]);
        assert_eq!(full.interval, Some(Duration::from_secs(90)));
        assert_eq!(full.timeout, Some(Duration::from_millis(1500)));
        assert_eq!(full.start_period, Some(Duration::from_secs(7200)));
        assert_eq!((full.start_interval, full.retries), (None, Some(3)));
        assert_eq!(check("HEALTHCHECK cmd [\"a\",\"b\"]").test, ["CMD", "a", "b"]);
        assert_eq!(check("HEALTHCHECK none").test, ["NONE"]);
    }

    #[test]
    fn durations_are_gos() {
        let nanoseconds = |text| duration(text).map(|duration| duration.as_nanos());
        for (text, expected) in [
            ("1ns", 1),
            ("2us", 2_000),
            ("2µs", 2_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("1h1m1s1ms", 3_661_001_000_000),
            ("0", 0),
        ] {
            assert_eq!(nanoseconds(text), Some(expected), "{text}");
        }
        for text in ["", "1", "s", ".s", "1d", "-1s", "1 s", "1..5s", "99999999999999999999s", "3000000h"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn lines_are_joined_and_comments_skipped() {
        let text = "# first\nENV a=b \\\n  # between\n\n  c=d\n\n  CMD x\\\\\nUSER me \\";
        let all = Instruction::parse_all(text).unwrap();
        let all: Vec<_> = all.iter().map(Instruction::to_string).collect();
        assert_eq!(all, ["ENV a=b   c=d", "CMD x\\\\", "USER me"]);
        assert!("CMD a\nCMD b".parse::<Instruction>().is_err());
        assert!("# nothing".parse::<Instruction>().is_err());
    }

    #[test]
    fn what_cannot_be_applied_is_refused_and_quoted() {
        for (text, reason) in [
            ("RUN x", "it builds and changes no config"),
            ("FORM x", "there is no such instruction"),
            ("CMD [1]", "its array holds 1, which is no string"),
            ("CMD --x", "it takes no flags"),
            ("SHELL /bin/sh", "it needs a JSON array of at least one word"),
            ("SHELL []", "it needs a JSON array of at least one word"),
            ("ENV", "it needs an argument"),
            ("ENV a", "it needs a name and a value"),
            ("ENV a=b c", "\"c\" is not of the form name=value"),
            ("LABEL a=\"b", "a double quote is not closed"),
            ("EXPOSE", "it needs an argument"),
            ("EXPOSE 80/icmp", "\"icmp\" is none of the protocols tcp, udp and sctp"),
            ("EXPOSE 65536", "\"65536\" is not a port from 0 to 65535"),
            ("EXPOSE +1", "\"+1\" is not a port from 0 to 65535"),
            ("EXPOSE 2-1", "the range \"2-1\" is empty"),
            ("EXPOSE 80:80", "\"80:80\" maps a port of the host, which is not the image's to say"),
            ("VOLUME []", "it needs an argument"),
            ("HEALTHCHECK", "it needs NONE or CMD"),
            ("HEALTHCHECK CMD", "CMD needs a command"),
            ("HEALTHCHECK NONE x", "NONE takes no flags and no arguments"),
            ("HEALTHCHECK --interval=1 CMD x", "--interval=1 is not a duration like 1m30s"),
            ("HEALTHCHECK --interval=1us CMD x", "--interval=1us is less than 1ms"),
            ("HEALTHCHECK --retries=-1 CMD x", "--retries=-1 is not a number, not below zero"),
            ("HEALTHCHECK --often CMD x", "--often has no value"),
            ("HEALTHCHECK --often=1 CMD x", "there is no flag --often"),
        ] {
            assert_eq!(refusal(text), format!("cannot apply {text:?}: {reason}"));
        }
    }
}
