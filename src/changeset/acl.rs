//! Text ACLs (`SCHILY.acl.*` of star, GNU tar and libarchive) as the kernel's binary attribute.
//!
//! Only numeric ids are translated. A name means something only to the machine that wrote it; an ACL with one is left
//! out, as every other engine leaves out all of them.

/// The kernel's `posix_acl_xattr_header.a_version`.
const VERSION: u32 = 2;
/// The id of entries that have none.
const NO_ID: u32 = u32::MAX;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// The value of `system.posix_acl_access` or `system.posix_acl_default` for this text; `None` if it says nothing that
/// the mode does not say, names someone without a number, or is not an ACL.
pub(super) fn to_xattr(text: &[u8], default: bool) -> Option<Vec<u8>> {
    let mut entries = text
        .split(|&byte| byte == b',' || byte == b'\n')
        .map(|entry| entry.split(|&byte| byte == b'#').next().unwrap_or_default().trim_ascii())
        .filter(|entry| !entry.is_empty())
        .map(|entry| parse_entry(entry, default))
        .collect::<Option<Vec<_>>>()?;
    // The kernel wants them by tag, and is glad to have them by id.
    entries.sort_unstable();
    entries.dedup();
    let count = |tag| entries.iter().filter(|entry| entry.0 == tag).count();
    let named = count(USER) + count(GROUP) > 0;
    if [USER_OBJ, GROUP_OBJ, OTHER].iter().any(|&tag| count(tag) != 1) || count(MASK) > 1 {
        return None;
    }
    if named && count(MASK) == 0 || !default && entries.len() == 3 {
        return None;
    }
    let mut value = VERSION.to_le_bytes().to_vec();
    for (tag, id, permissions) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    Some(value)
}

/// One `tag:qualifier:permissions[:id]`: its tag, id and permission bits.
fn parse_entry(entry: &[u8], default: bool) -> Option<(u16, u32, u16)> {
    let entry = if default { entry.strip_prefix(b"default:").unwrap_or(entry) } else { entry };
    let mut fields = entry.split(|&byte| byte == b':').map(<[u8]>::trim_ascii);
    let tag = fields.next()?;
    let mut qualifier = fields.next()?;
    let mut permissions = fields.next();
    if matches!(tag, b"mask" | b"m" | b"other" | b"o") && permissions.is_none() {
        // The short form "other:r-x".
        permissions = Some(std::mem::take(&mut qualifier));
    }
    let permissions = permissions?;
    let id = match (qualifier, fields.next()) {
        ([], _) => NO_ID,
        (_, Some(id)) if !id.is_empty() => decimal(id)?,
        (name, _) => decimal(name)?,
    };
    let tag = match (tag, id) {
        (b"user" | b"u", NO_ID) => USER_OBJ,
        (b"user" | b"u", _) => USER,
        (b"group" | b"g", NO_ID) => GROUP_OBJ,
        (b"group" | b"g", _) => GROUP,
        (b"mask" | b"m", NO_ID) => MASK,
        (b"other" | b"o", NO_ID) => OTHER,
        _ => return None,
    };
    let bits = permissions.iter().try_fold(0, |bits, permission| match permission {
        b'r' => Some(bits | 4),
        b'w' => Some(bits | 2),
        b'x' => Some(bits | 1),
        b'-' => Some(bits),
        _ => None,
    })?;
    Some((tag, id, bits))
}

fn decimal(digits: &[u8]) -> Option<u32> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let number = plain.then(|| std::str::from_utf8(digits).ok()?.parse().ok()).flatten()?;
    (number != NO_ID).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numeric_ids_are_translated_in_both_spellings() {
        let expected = Some(
            [
                &b"\x02\0\0\0"[..],
                b"\x01\0\x06\0\xff\xff\xff\xff",
                b"\x02\0\x05\0\xf6\x01\0\0",
                b"\x04\0\x04\0\xff\xff\xff\xff",
                b"\x10\0\x05\0\xff\xff\xff\xff",
                b"\x20\0\x00\0\xff\xff\xff\xff",
            ]
            .concat(),
        );
        assert_eq!(
            to_xattr(b"user::rw-\nuser:502:r-x\ngroup::r--\nmask::r-x\nother::---\n", false),
            expected
        );
        assert_eq!(to_xattr(b"user::rw-,group::r--,other::---,user:lisa:r-x:502,mask::r-x", false), expected);
        assert_eq!(to_xattr(b"u::rw-,u:502:r-x,g::r--,m:r-x,o:---", false), expected);
    }

    #[test]
    fn names_without_a_number_and_nonsense_are_left_out() {
        for text in [
            &b"user::rw-,user:lisa:r-x,group::r--,mask::r-x,other::---"[..],
            b"user::rw-,group::r--,other::r--",
            b"user::rw-,user:1:r--,group::r--,other::---",
            b"user::rw-",
            b"user::rw-,group::r--,other::q--,mask::---",
            b"",
        ] {
            assert_eq!(to_xattr(text, false), None, "{}", text.escape_ascii());
        }
        assert!(to_xattr(b"user::rwx,group::r-x,other::r-x", true).is_some());
    }
}
