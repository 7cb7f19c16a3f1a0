//! A Dockerfile, read as far as this example understands it: lines into instructions, instructions into stages.

use std::fmt;

use super::Result;

/// One instruction, as it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Line {
    pub(crate) number: usize,
    /// In capitals.
    pub(crate) keyword: String,
    /// `--name=value`, before everything else.
    pub(crate) flags: Vec<(String, String)>,
    pub(crate) rest: String,
}

/// From one `FROM` to the next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Stage {
    pub(crate) base: String,
    pub(crate) name: Option<String>,
    pub(crate) lines: Vec<Line>,
}

/// What there is to build.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Dockerfile {
    /// Before the first `FROM`: `NAME` or `NAME=default`.
    pub(crate) arguments: Vec<String>,
    pub(crate) stages: Vec<Stage>,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.keyword)?;
        for (name, value) in &self.flags {
            write!(f, " --{name}={value}")?;
        }
        write!(f, " {}", self.rest)
    }
}

impl Line {
    fn parse(number: usize, text: &str) -> Result<Self> {
        let (keyword, mut rest) = split(text);
        let mut flags = Vec::new();
        let keyword = keyword.to_ascii_uppercase();
        // Those of HEALTHCHECK are the library's.
        while keyword != "HEALTHCHECK"
            && let Some(flag) = rest.strip_prefix("--")
        {
            let (flag, behind) = split(flag);
            let (name, value) = flag.split_once('=').unwrap_or((flag, "true"));
            flags.push((name.to_owned(), value.to_owned()));
            rest = behind;
        }
        if rest.contains("<<") && matches!(&*keyword, "RUN" | "COPY" | "ADD") {
            return Err(format!("line {number}: here-documents are not understood here").into());
        }
        Ok(Self { number, keyword, flags, rest: rest.to_owned() })
    }

    /// The words behind the flags, of either form.
    pub(crate) fn words(&self) -> Result<Vec<String>> {
        match self.exec_form() {
            Some(words) => Ok(words),
            None if self.rest.is_empty() => Err(self.refuse("something has to follow")),
            None => Ok(self.rest.split_whitespace().map(str::to_owned).collect()),
        }
    }

    /// The words of a JSON array, if it is one.
    pub(crate) fn exec_form(&self) -> Option<Vec<String>> {
        self.rest.starts_with('[').then(|| serde_json::from_str(&self.rest).ok())?
    }

    pub(crate) fn refuse(&self, reason: impl fmt::Display) -> Box<dyn std::error::Error> {
        format!("line {}, {self}: {reason}", self.number).into()
    }
}

impl Dockerfile {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut file = Self::default();
        for line in lines(text)? {
            match (&*line.keyword, file.stages.last_mut()) {
                ("FROM", _) => {
                    let words = line.words()?;
                    let (base, name) = match &words[..] {
                        [base] => (base, None),
                        [base, r#as, name] if r#as.eq_ignore_ascii_case("as") => {
                            (base, Some(name.to_lowercase()))
                        }
                        _ => return Err(line.refuse("it is `FROM IMAGE` or `FROM IMAGE AS NAME`")),
                    };
                    file.stages.push(Stage { base: base.clone(), name, lines: Vec::new() });
                }
                ("ARG", None) => file.arguments.extend(line.words()?),
                (_, None) => return Err(line.refuse("the first instruction is FROM")),
                (_, Some(stage)) => stage.lines.push(line),
            }
        }
        match file.stages.is_empty() {
            true => Err("there is no FROM in it".into()),
            false => Ok(file),
        }
    }

    /// The stage that somebody calls by its name or number; the last, if it has none.
    pub(crate) fn stage(&self, called: &str) -> Option<usize> {
        let named =
            self.stages.iter().rposition(|stage| stage.name.as_deref() == Some(&*called.to_lowercase()));
        named.or_else(|| called.parse().ok().filter(|number| *number < self.stages.len()))
    }
}

/// Joins lines that are continued, and leaves out comments.
fn lines(text: &str) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (first, mut whole) = open.take().unwrap_or((number, String::new()));
        match line.strip_suffix('\\') {
            Some(begun) => {
                whole.push_str(begun);
                open = Some((first, whole));
            }
            None => lines.push(Line::parse(first, &(whole + line))?),
        }
    }
    match open {
        Some((number, whole)) => Err(format!("line {number}, {whole}: it ends with a backslash").into()),
        None => Ok(lines),
    }
}

fn split(text: &str) -> (&str, &str) {
    let (first, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    (first, rest.trim_start())
}
