//! [`Kept`]: a file in `cache/` of facts that never change, by name, so that they are not found out each time.
//!
//! ```text
//! <crc32 of the rest> <name> <fact>     one line each
//! ```
//!
//! The name says all that a fact depends on, the digest of a document for example, so no fact can be out of date, only
//! superfluous. A line that is cut or damaged is none; what is missing is found out again. So nothing depends on the file
//! being there, nobody locks it, and it is added to without waiting for the disk. A store that can only be read is not
//! written to.

use std::collections::HashMap;
use std::io::Write;

use zlib_rs::crc32::crc32;

use super::Inner;
use super::error::StoreError;
use super::layout::Access;
use crate::fs::{Context, Durability, Kind, Optional, Workspace};

/// Bytes of such a file at most; a longer one is begun anew.
const LONGEST: u64 = 1 << 30;

/// Superfluous facts that are not worth writing all others for.
const FEW: usize = 1000;

/// The content of a file of facts.
#[derive(Debug, Default)]
pub(super) struct Kept {
    text: String,
}

impl Kept {
    /// The facts by name. Of two that are whole the first counts, which says the same.
    pub(super) fn facts(&self) -> HashMap<&str, &str> {
        let mut facts = HashMap::with_capacity(self.text.len() / 256);
        for line in self.text.split('\n') {
            if let Some((name, fact)) = read_line(line) {
                facts.entry(name).or_insert(fact);
            }
        }
        facts
    }
}

fn read_line(line: &str) -> Option<(&str, &str)> {
    let (sum, rest) = line.split_once(' ')?;
    let sum = u32::from_str_radix(sum, 16).ok()?;
    (crc32(0, rest.as_bytes()) == sum).then(|| rest.split_once(' '))?
}

/// A line of the file.
fn line(name: &str, fact: &str) -> String {
    let rest = format!("{name} {fact}");
    format!("{:08x} {rest}\n", crc32(0, rest.as_bytes()))
}

impl Inner {
    /// Reads the facts in `file`, as far as there are any.
    pub(super) fn kept(&self, file: &str) -> Kept {
        let read = || self.cache()?.read(file, LONGEST);
        match read().optional() {
            Ok(None) => Kept::default(),
            Ok(Some(bytes)) => {
                let text = String::from_utf8(bytes);
                Kept { text: text.unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into()) }
            }
            Err(error) => {
                tracing::debug!(%error, file, "what was found out before cannot be read");
                Kept::default()
            }
        }
    }

    /// Adds new facts to `file`. That they cannot be kept is no error.
    pub(super) fn keep_facts(&self, file: &str, new: &[(String, String)]) {
        if new.is_empty() || self.layout.access == Access::ReadOnly {
            return;
        }
        let text: String = new.iter().map(|(name, fact)| line(name, fact)).collect();
        // Behind a line that was cut, so that only that one is lost.
        let text = format!("\n{text}");
        let add = || {
            let cache = self.cache()?;
            let mut file_of = cache.append_file(file, 0o600)?;
            // In one step: another process may do the same.
            file_of.write_all(text.as_bytes()).at_path("write", || cache.path_of(file))
        };
        if let Err(error) = add() {
            tracing::debug!(%error, file, "what was found out is not kept");
        }
    }

    /// Takes the facts out of `file` that are not `needed`, if there are many; all, if none is. For who collects.
    pub(super) fn forget_facts(
        &self,
        file: &str,
        workspace: &Workspace,
        needed: impl Fn(&str) -> bool,
    ) -> Result<(), StoreError> {
        let kept = self.kept(file);
        let facts = kept.facts();
        let mut left: Vec<_> = facts.iter().filter(|(name, _)| needed(name)).collect();
        let superfluous = facts.len() - left.len();
        if left.is_empty() {
            if self.cache()?.find(file)?.is_none_or(|there| there.kind != Kind::File) {
                return Ok(());
            }
            return Ok(workspace.discard(&self.cache()?, file).optional().map(drop)?);
        }
        if superfluous > FEW.max(left.len()) {
            left.sort_unstable();
            let text: String = left.iter().map(|(name, fact)| line(name, fact)).collect();
            workspace.replace_at_any_price(text.as_bytes(), &self.cache()?, file, Durability::Relaxed)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_cut_or_changed_is_none() {
        let text = line("sha256:1", "a fact") + &line("sha256:2", "b");
        let facts = |text: &str| Kept { text: text.to_owned() }.facts().len();
        assert_eq!(facts(&text), 2);
        assert_eq!(facts(&format!("\n\n{text}\n{text}")), 2);
        for at in 0..text.len() {
            assert!(facts(&text[..at]) < 2 || at == text.len() - 1, "cut at {at}");
            let mut changed = text.clone().into_bytes();
            changed[at] ^= 1;
            assert!(facts(&String::from_utf8(changed).unwrap()) < 2, "changed at {at}");
        }
        assert_eq!(facts(&"\0".repeat(4096)), 0);
    }
}
