//! Text made of what strangers wrote: bytes in a JSON string, and quotations short enough for a message.
//!
//! File names and attributes are bytes, and a record must give back exactly those: printable ASCII stands for itself,
//! except the backslash; every other byte is `\xNN`. One spelling for each value.

use std::fmt::Write as _;

/// Longest quotation in a message, in characters.
const QUOTATION: usize = 300;

/// The beginning of `text`: a stranger's word may be as long as the document that it stands in.
pub(crate) fn quotation(text: &str) -> String {
    match text.char_indices().nth(QUOTATION) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The text for `bytes`.
pub(crate) fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b' '..=b'~' if byte != b'\\' => text.push(char::from(byte)),
            _ => write!(text, "\\x{byte:02x}").expect("a String takes every write"),
        }
    }
    text
}

/// The bytes that [`escape`] made `text` of; `None` if it did not.
pub(crate) fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        bytes.push(match first {
            b'\\' => {
                let code = tail.strip_prefix(b"x")?.get(..2)?;
                rest = &tail[3..];
                let digits = code.iter().all(u8::is_ascii_hexdigit).then_some(code)?;
                u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?
            }
            b' '..=b'~' => *first,
            _ => return None,
        });
    }
    Some(bytes)
}

/// The value of the field `name` in what is left of a JSON object, if it is whole there and of this type.
pub(crate) fn salvage<T: serde::de::DeserializeOwned>(json: &[u8], name: &str) -> Option<T> {
    let label = format!("\"{name}\":");
    let places = json.windows(label.len()).enumerate().filter(|(_, text)| *text == label.as_bytes());
    places.map(|(at, _)| &json[at + label.len()..]).find_map(|rest| {
        serde_json::Deserializer::from_slice(rest).into_iter::<T>().next().and_then(Result::ok)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_an_object_gives_whole_values_only() {
        let json = br#"{"name":"web","labels":{"stack":"no","a\"b":"c"},"stack":[1,2],"crea"#;
        assert_eq!(salvage::<String>(json, "name").as_deref(), Some("web"));
        assert_eq!(salvage::<Vec<u8>>(json, "stack"), Some(vec![1, 2]));
        assert_eq!(salvage::<Vec<u8>>(&json[..json.len() - 9], "stack"), None);
        assert_eq!(salvage::<String>(json, "created"), None);
    }

    #[test]
    fn a_quotation_is_the_word_itself_unless_it_is_long() {
        let word = "ä".repeat(QUOTATION);
        assert_eq!(quotation(&word), word);
        assert_eq!(quotation(&format!("{word}b")), format!("{word}…"));
    }

    #[test]
    fn every_byte_comes_back() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(unescape(&escape(&all)), Some(all));
        assert_eq!(escape("usr/lib/ä\\".as_bytes()), r"usr/lib/\xc3\xa4\x5c");
        for wrong in ["\\", "\\x", "\\x1", "\\n", "\\xzz", "ä", "\\x+1"] {
            assert_eq!(unescape(wrong), None, "{wrong}");
        }
    }
}
