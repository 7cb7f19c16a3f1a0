//! Quotes, escapes and variables, as docker treats them in the words of an instruction.
//!
//! Two steps, as there: [`words`] splits and keeps every quote, [`expand`] takes the quotes away and puts
//! values in. Between the two lies time: an instruction is read before the config is known whose environment
//! it uses.

use std::iter::Peekable;
use std::str::Chars;

use super::ChangeError;

/// Substitutions inside substitutions; nobody writes more than two.
const DEPTH: usize = 32;

/// Splits at white space outside quotes. Quotes and escapes stay in the words.
pub(super) fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match quote {
            None if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ => {}
        }
        // Nothing escapes inside single quotes. An escape before the end is dropped.
        if c == '\\' && quote != Some('\'') {
            if let Some(escaped) = chars.next() {
                word.extend([c, escaped]);
            }
        } else {
            word.push(c);
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// What a word of a Dockerfile means: takes quotes and escapes away and puts in the values of variables (`$NAME`, `${NAME}`,
/// `${NAME:-word}` and the like), which are empty where `value_of` knows none.
///
/// ```
/// let value_of = |name: &str| (name == "VERSION").then_some("1.2");
/// let path = plywood::image::expand_variables(r#"/opt/"app $VERSION"/${DIR:-bin}"#, value_of)?;
/// assert_eq!(path, "/opt/app 1.2/bin");
/// # Ok::<(), plywood::image::ChangeError>(())
/// ```
///
/// # Errors
///
/// [`ChangeError`] for a quote or a bracket that is not closed, a form that is not known, or a `?` that strikes.
pub fn expand_variables<'v>(
    text: &str,
    value_of: impl Fn(&str) -> Option<&'v str>,
) -> Result<String, ChangeError> {
    expand(text, value_of).map_err(|reason| ChangeError::new(text.to_owned(), reason))
}

/// Takes quotes and escapes away and replaces `$NAME`, `${NAME}` and the forms `:-` `-` `:+` `+` `:?` `?` `#`
/// `##` `%` `%%` `/` `//` by what `value_of` knows. What it does not know is empty.
///
/// # Errors
///
/// A sentence, for a quote or a bracket that is not closed, a form that is not known, or a `?` that strikes.
pub(super) fn expand<'v>(text: &str, value_of: impl Fn(&str) -> Option<&'v str>) -> Result<String, String> {
    let mut expander = Expander { left: text.chars().peekable(), value_of, depth: 0 };
    expander.until(None, false)
}

struct Expander<'t, F> {
    left: Peekable<Chars<'t>>,
    value_of: F,
    depth: usize,
}

impl<'v, F: Fn(&str) -> Option<&'v str>> Expander<'_, F> {
    /// Expands up to `stop`, which is taken, or up to the end.
    fn until(&mut self, stop: Option<char>, keep_escapes: bool) -> Result<String, String> {
        let mut result = String::new();
        while let Some(&c) = self.left.peek() {
            if Some(c) == stop {
                self.left.next();
                return Ok(result);
            }
            match c {
                '$' => result.push_str(&self.variable()?),
                '\'' => result.push_str(&self.single_quoted()?),
                '"' => result.push_str(&self.double_quoted(keep_escapes)?),
                _ => {
                    self.left.next();
                    if c != '\\' {
                        result.push(c);
                        continue;
                    }
                    if keep_escapes {
                        result.push(c);
                    }
                    result.extend(self.left.next());
                }
            }
        }
        match stop {
            None => Ok(result),
            Some(stop) => Err(format!("a {stop:?} is missing")),
        }
    }

    fn single_quoted(&mut self) -> Result<String, String> {
        self.left.next();
        let mut result = String::new();
        loop {
            match self.left.next() {
                Some('\'') => return Ok(result),
                Some(c) => result.push(c),
                None => return Err("a single quote is not closed".to_owned()),
            }
        }
    }

    fn double_quoted(&mut self, keep_escapes: bool) -> Result<String, String> {
        self.left.next();
        let mut result = String::new();
        while let Some(&c) = self.left.peek() {
            if c == '$' {
                result.push_str(&self.variable()?);
                continue;
            }
            self.left.next();
            match c {
                '"' => return Ok(result),
                '\\' => {
                    if keep_escapes {
                        result.push('\\');
                    }
                    // Only these three can be escaped here; before any other the backslash stands for itself.
                    match self.left.peek() {
                        Some('"' | '$' | '\\') => result.extend(self.left.next()),
                        Some(_) => result.push('\\'),
                        None => {}
                    }
                }
                c => result.push(c),
            }
        }
        Err("a double quote is not closed".to_owned())
    }

    fn variable(&mut self) -> Result<String, String> {
        self.left.next();
        if self.left.next_if_eq(&'{').is_none() {
            let name = self.name();
            return Ok(match name.as_str() {
                "" => "$".to_owned(),
                name => (self.value_of)(name).unwrap_or_default().to_owned(),
            });
        }
        if self.depth == DEPTH {
            return Err(format!("substitutions nest deeper than {DEPTH} levels"));
        }
        self.depth += 1;
        let name = self.name();
        let value =
            if name.is_empty() { Err("a substitution has no name".to_owned()) } else { self.braced(&name) };
        self.depth -= 1;
        value
    }

    /// What follows the name in `${NAME…}`.
    fn braced(&mut self, name: &str) -> Result<String, String> {
        let value = (self.value_of)(name);
        let mut form = self.left.next().ok_or("a '}' is missing")?;
        let mut empty_counts = true;
        if form == ':' {
            empty_counts = false;
            form = self.left.next().ok_or("a '}' is missing")?;
            if !matches!(form, '-' | '+' | '?') {
                return Err(format!("\":{form}\" is no known substitution"));
            }
        }
        let there = value.filter(|value| empty_counts || !value.is_empty());
        let value = value.unwrap_or_default();
        match form {
            '}' => Ok(value.to_owned()),
            '-' => {
                let word = self.until(Some('}'), false)?;
                Ok(there.map_or(word, str::to_owned))
            }
            '+' => {
                let word = self.until(Some('}'), false)?;
                Ok(if there.is_some() { word } else { String::new() })
            }
            '?' => {
                let word = self.until(Some('}'), false)?;
                match there {
                    Some(value) => Ok(value.to_owned()),
                    None if word.is_empty() => Err(format!("the variable {name} has no value")),
                    None => Err(format!("{name}: {word}")),
                }
            }
            '#' | '%' => {
                let word = self.until(Some('}'), true)?;
                let (longest, pattern) = match word.strip_prefix(form) {
                    Some(pattern) => (true, pattern),
                    None => (false, word.as_str()),
                };
                Ok(Pattern::parse(pattern)?.cut(value, form == '#', longest).to_owned())
            }
            '/' => {
                let all = self.left.next_if_eq(&'/').is_some();
                let pattern = Pattern::parse(&self.until(Some('/'), true)?)?;
                let replacement = self.until(Some('}'), false)?;
                Ok(pattern.replace(value, &replacement, all))
            }
            other => Err(format!("{other:?} is no known substitution")),
        }
    }

    /// A name of letters, digits and `_`; a number; or one of the shell's special signs, which have no value
    /// here.
    fn name(&mut self) -> String {
        let mut name = String::new();
        let number = self.left.peek().is_some_and(char::is_ascii_digit);
        if let Some(sign) = self.left.next_if(|c| "@*#?-$!".contains(*c)) {
            return sign.into();
        }
        while let Some(c) =
            self.left.next_if(|&c| if number { c.is_ascii_digit() } else { c.is_alphanumeric() || c == '_' })
        {
            name.push(c);
        }
        name
    }
}

/// A shell pattern without brackets.
struct Pattern(Vec<Part>);

#[derive(PartialEq)]
enum Part {
    Char(char),
    AnyChar,
    AnyText,
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            parts.push(match c {
                '*' => Part::AnyText,
                '?' => Part::AnyChar,
                '\\' => match chars.next() {
                    Some(c @ ('*' | '?' | '\\' | '}' | '/')) => Part::Char(c),
                    _ => return Err(format!("the pattern {text:?} escapes what needs no escape")),
                },
                c => Part::Char(c),
            });
        }
        Ok(Self(parts))
    }

    fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        let (mut at, mut part) = (0, 0);
        // Where to go on if what follows the last `*` fits nowhere so far.
        let mut retry = None;
        loop {
            match self.0.get(part) {
                Some(Part::AnyText) => {
                    retry = Some((at, part));
                    part += 1;
                    continue;
                }
                Some(Part::AnyChar) if at < text.len() => {}
                Some(Part::Char(c)) if text.get(at) == Some(c) => {}
                None if at == text.len() => return true,
                _ => match retry {
                    Some((from, star)) if from < text.len() => {
                        retry = Some((from + 1, star));
                        (at, part) = (from + 1, star + 1);
                        continue;
                    }
                    _ => return false,
                },
            }
            at += 1;
            part += 1;
        }
    }

    /// `value` without what matches at its front or at its end.
    fn cut<'v>(&self, value: &'v str, front: bool, longest: bool) -> &'v str {
        let mut places: Vec<usize> = boundaries(value).collect();
        if front == longest {
            places.reverse();
        }
        let matching = |&place: &usize| {
            let (head, tail) = value.split_at(place);
            self.matches(if front { head } else { tail })
        };
        match places.into_iter().find(matching) {
            Some(place) if front => &value[place..],
            Some(place) => &value[..place],
            None => value,
        }
    }

    fn replace(&self, value: &str, replacement: &str, all: bool) -> String {
        let mut result = String::new();
        let mut left = value;
        while let Some(c) = left.chars().next() {
            let ends: Vec<usize> = boundaries(left).filter(|&end| end > 0).collect();
            match ends.into_iter().rev().find(|&end| self.matches(&left[..end])) {
                Some(end) => {
                    result.push_str(replacement);
                    left = &left[end..];
                    if !all {
                        break;
                    }
                }
                None => {
                    result.push(c);
                    left = &left[c.len_utf8()..];
                }
            }
        }
        result + left
    }
}

fn boundaries(text: &str) -> impl Iterator<Item = usize> {
    text.char_indices().map(|(index, _)| index).chain([text.len()])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn env(name: &str) -> Option<&'static str> {
        Some(match name {
            "A" => "a value",
            "EMPTY" => "",
            "FILE" => "dir/name.tar.gz",
            "ÄB" => "umlaut",
            _ => return None,
        })
    }

    #[test]
    fn words_keep_their_quotes_until_they_are_expanded() {
        for (text, expected) in [
            ("", &[][..]),
            ("  a  b ", &["a", "b"]),
            ("a=b c=\"d e\"", &["a=b", "c=\"d e\""]),
            ("a='b c'd\\ e f", &["a='b c'd\\ e", "f"]),
            ("\"a \\\" b\" '\\' c", &["\"a \\\" b\"", "'\\'", "c"]),
            ("\"\" a", &["\"\"", "a"]),
            ("a\\", &["a"]),
            ("\"open a", &["\"open a"]),
        ] {
            assert_eq!(words(text), expected, "{text}");
        }
    }

    #[test]
    fn quotes_escapes_and_variables_expand_as_docker_does_it() {
        for (text, expected) in [
            ("plain", "plain"),
            ("\"d e\"f'g h'", "d efg h"),
            ("'$A \\n'", "$A \\n"),
            ("\"$A\"", "a value"),
            ("\"\\$A \\\" \\\\ \\n\"", "$A \" \\ \\n"),
            ("\\$A \\a\\\\\\", "$A a\\"),
            ("$A.$B.${A}", "a value..a value"),
            ("$ÄB", "umlaut"),
            ("$ $", "$ $"),
            ("$1A$@A", "AA"),
            ("${B:-x $A}", "x a value"),
            ("${EMPTY:-x}${EMPTY-y}", "x"),
            ("${A:+x}${EMPTY:+y}${EMPTY+z}${B+w}", "xz"),
            ("${A:?no}${EMPTY?no}", "a value"),
            ("${B:-${C:-\"deep }\"}}", "deep }"),
            ("${FILE#*.}", "tar.gz"),
            ("${FILE##*.}", "gz"),
            ("${FILE%.*}", "dir/name.tar"),
            ("${FILE%%.*}", "dir/name"),
            ("${FILE#dir\\/}", "name.tar.gz"),
            ("${FILE%none}", "dir/name.tar.gz"),
            ("${FILE/a?/-}", "dir/n-e.tar.gz"),
            ("${FILE//a/<$A>}", "dir/n<a value>me.t<a value>r.gz"),
            ("${FILE/\\//:}", "dir:name.tar.gz"),
            ("${FILE/*/all}", "all"),
        ] {
            assert_eq!(expand(text, env).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_not_closed_or_not_known_is_an_error() {
        for text in [
            "'",
            "\"",
            "\"\\\"",
            "${",
            "${A",
            "${}",
            "${:-x}",
            "${A:",
            "${A:}",
            "${A:#x}",
            "${A-x",
            "${A!x}",
            "${B?}",
            "${B:?say}",
            "${EMPTY:?}",
            "${A/x}",
            "${A#\\a}",
            "${A/x/y",
        ] {
            assert!(expand(text, env).is_err(), "{text} gives {:?}", expand(text, env));
        }
        assert_eq!(expand("${B:?say so}", env), Err("B: say so".to_owned()));
        let bomb = "${B:-".repeat(100_000);
        assert!(expand(&bomb, env).unwrap_err().contains("nest deeper"));
    }

    proptest! {
        #[test]
        fn a_quoted_text_is_one_word_and_expands_to_itself(text in "[^\\\\$\"]*") {
            let quoted = format!("\"{text}\"");
            prop_assert_eq!(words(&quoted), [quoted.clone()]);
            prop_assert_eq!(expand(&quoted, env), Ok(text));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[A${}:#%/\"'\\\\ ?*-]{0,24}") {
            words(&text);
            expand(&text, env).ok();
        }
    }
}
