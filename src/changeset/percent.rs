//! Percent escapes, as libarchive uses them in the keywords of `LIBARCHIVE.xattr.*` records.

/// Replaces what would end a PAX keyword or is not plain text by `%XX`.
pub(super) fn encode(name: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(name.len());
    for &byte in name {
        match byte {
            b'%' | b'=' | ..=b' ' | 0x7f.. => text.extend(format!("%{byte:02X}").bytes()),
            _ => text.push(byte),
        }
    }
    text
}

/// The reverse; a percent sign that begins no escape stands for itself, as in libarchive.
pub(super) fn decode(text: &[u8]) -> Vec<u8> {
    let hex = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    let mut name = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        rest = after;
        let escaped = match (first, after) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)),
            _ => None,
        };
        match escaped {
            Some((high, low)) => {
                name.push(high << 4 | low);
                rest = &after[2..];
            }
            None => name.push(*first),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_escapes_come_back() {
        let all: Vec<u8> = (1..=255).collect();
        assert_eq!(decode(&encode(&all)), all);
        assert_eq!(encode(b"user.a=b"), b"user.a%3Db");
        assert_eq!(decode(b"100%"), b"100%");
        assert_eq!(decode(b"%zz%4"), b"%zz%4");
    }
}
