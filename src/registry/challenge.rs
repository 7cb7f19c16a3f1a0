//! [`Challenge`]: how a registry wants its clients to authenticate, read from all `WWW-Authenticate` lines of an answer
//! ([RFC 9110, 11.6.1](https://www.rfc-editor.org/rfc/rfc9110#section-11.6.1)).
//!
//! Several lines mean the same as one line with commas. A comma separates challenges as well as the parameters of one, so a word
//! begins a new challenge unless a `=` follows it.

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// A scheme of authentication and its parameters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Challenge {
    pub(super) scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// Returns whether it is of this scheme, in any case of letters.
    pub(super) fn is(&self, scheme: &str) -> bool {
        self.scheme.eq_ignore_ascii_case(scheme)
    }

    /// Returns the parameter `name`, which is in lower case.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// Reads all challenges of an answer, in their order. A part that is none is passed over.
pub(super) fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    for header in headers.get_all(WWW_AUTHENTICATE) {
        read(&String::from_utf8_lossy(header.as_bytes()), &mut challenges);
    }
    challenges
}

fn read(header: &str, challenges: &mut Vec<Challenge>) {
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=', '"']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let value = after.trim_start_matches([' ', '\t']).strip_prefix('=');
        rest = match (word, value, challenges.last_mut()) {
            ("", ..) if after.is_empty() => return,
            // Something that no challenge has.
            ("", ..) => skip(after),
            (word, None, _) => {
                challenges.push(Challenge { scheme: word.to_owned(), parameters: Vec::new() });
                after
            }
            (_, Some(value), None) => quoted(value).1,
            (word, Some(value), Some(challenge)) => {
                let (value, rest) = quoted(value);
                challenge.parameters.push((word.to_owned(), value));
                rest
            }
        };
    }
}

/// Passes over one character.
fn skip(text: &str) -> &str {
    let mut letters = text.chars();
    letters.next();
    letters.as_str()
}

/// Reads a value, in quotation marks or up to a comma or a blank, and returns it with the text behind it.
fn quoted(text: &str) -> (String, &str) {
    let text = text.trim_start_matches([' ', '\t']);
    let Some(inner) = text.strip_prefix('"') else {
        let (value, rest) = text.split_at(text.find([' ', '\t', ',']).unwrap_or(text.len()));
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut letters = inner.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => break,
            '\\' => value.extend(letters.next()),
            letter => value.push(letter),
        }
    }
    (value, letters.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(lines: &[&str]) -> Vec<(String, Vec<(String, String)>)> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(WWW_AUTHENTICATE, line.parse().unwrap());
        }
        challenges(&headers).into_iter().map(|found| (found.scheme, found.parameters)).collect()
    }

    fn of(scheme: &str, parameters: &[(&str, &str)]) -> (String, Vec<(String, String)>) {
        let text = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        (scheme.to_owned(), parameters.iter().map(text).collect())
    }

    #[test]
    fn several_lines_and_one_line_with_commas_are_the_same_challenges() {
        let bearer = r#"Bearer realm="https://a.io/token",service="r.io",scope="repository:x:pull,push""#;
        let parameters =
            [("realm", "https://a.io/token"), ("service", "r.io"), ("scope", "repository:x:pull,push")];
        let expected = [of("Negotiate", &[]), of("Bearer", &parameters), of("Basic", &[("realm", "x")])];
        assert_eq!(all(&["Negotiate", bearer, r#"Basic realm="x""#]), expected);
        assert_eq!(all(&[&format!(r#"Negotiate, {bearer}, Basic realm="x""#)]), expected);
        assert_eq!(all(&[&format!(r#" Negotiate ,{bearer}"#), "Basic realm=x"]), expected);
    }

    #[test]
    fn values_may_be_quoted_with_escapes_or_not_and_blanks_may_stand_around_them() {
        let expected = [of("bearer", &[("service", "r.io"), ("realm", r#"a "b" c, d"#)])];
        assert_eq!(all(&[r#"bearer service = r.io , realm="a \"b\" c, d""#]), expected);
    }

    #[test]
    fn a_header_of_another_form_is_no_fault() {
        for odd in
            ["", ",", "=", "=,=", "Bearer realm=\"x", "\"", "a=b", "Bearer =\"x\"", "NTLM TlRMTVNTUAAB=="]
        {
            all(&[odd]);
        }
        assert_eq!(
            all(&["NTLM TlRMTVNTUAAB==", "Basic realm=x"]).last(),
            Some(&of("Basic", &[("realm", "x")]))
        );
    }
}
