//! [`Kept`]: a file in `cache/` of facts that never change, by name, so that they are not found out each time.
//!
//! ```text
//! <crc32 of the rest> <name> <fact>     one line each
//! ```
//!
//! The name says all that a fact depends on, the digest of a document for example, so no fact can be out of date, only
//! superfluous. A line that is cut or damaged is none; what is missing is found out again. So nothing depends on the file
//! being there, nobody locks it, and it is added to without waiting for the disk. A read-only store is not
//! written to.

use std::fmt::Display;
use std::io::Write;

use zlib_rs::crc32::crc32;

use super::Inner;
use super::error::StoreError;
use super::layout::Access;
use crate::digest::Digest;
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

/// What a fact is about.
pub(super) trait FactName: Copy + Ord + Display {
    /// Reads the name that `text` begins with; returns what is behind it.
    fn split_from(text: &str) -> Option<(Self, &str)>;
}

impl FactName for Digest {
    fn split_from(text: &str) -> Option<(Self, &str)> {
        Digest::split_from(text)
    }
}

/// Facts in the order of their names.
#[derive(Debug)]
pub(super) struct Facts<'k, N> {
    list: Vec<(N, &'k str)>,
    /// Where the fact stands that is asked for next if they are asked for in order.
    next: usize,
}

impl Kept {
    /// The facts by name. Of two that are whole the first counts, which says the same.
    pub(super) fn facts<N: FactName>(&self) -> Facts<'_, N> {
        let mut list: Vec<_> = self.text.split('\n').filter_map(read_line).collect();
        // Most were written in order.
        list.sort_by_key(|(name, _)| *name);
        list.dedup_by(|(later, _), (first, _)| later == first);
        Facts { list, next: 0 }
    }
}

impl<'k, N: FactName> Facts<'k, N> {
    /// The fact of this name.
    pub(super) fn find(&mut self, name: &N) -> Option<&'k str> {
        let is_next = self.list.get(self.next).is_some_and(|(next, _)| next == name);
        if !is_next {
            self.next = self.list.binary_search_by(|(other, _)| other.cmp(name)).ok()?;
        }
        let (_, fact) = self.list[self.next];
        self.next += 1;
        Some(fact)
    }
}

fn read_line<N: FactName>(line: &str) -> Option<(N, &str)> {
    let (sum, rest) = line.split_at_checked(8)?;
    let sum = u32::from_str_radix(sum, 16).ok()?;
    let rest = rest.strip_prefix(' ')?;
    if crc32(0, rest.as_bytes()) != sum {
        return None;
    }
    let (name, fact) = N::split_from(rest)?;
    Some((name, fact.strip_prefix(' ')?))
}

/// A line of the file.
fn line(name: &impl FactName, fact: &str) -> String {
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
    pub(super) fn keep_facts(&self, file: &str, new: &[(impl FactName, String)]) {
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
    pub(super) fn forget_facts<N: FactName>(
        &self,
        file: &str,
        workspace: &Workspace,
        needed: impl Fn(&N) -> bool,
    ) -> Result<(), StoreError> {
        let kept = self.kept(file);
        let facts = kept.facts::<N>().list;
        let left: Vec<_> = facts.iter().filter(|(name, _)| needed(name)).collect();
        let superfluous = facts.len() - left.len();
        if left.is_empty() {
            if self.cache()?.find(file)?.is_none_or(|there| there.kind != Kind::File) {
                return Ok(());
            }
            return Ok(workspace.discard(&self.cache()?, file).optional().map(drop)?);
        }
        if superfluous > FEW.max(left.len()) {
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
        let text = line(&Digest::of("1"), "a fact") + &line(&Digest::of("2"), "b");
        let facts = |text: &str| Kept { text: text.to_owned() }.facts::<Digest>().list.len();
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

    #[test]
    fn a_fact_is_found_in_whatever_order_it_is_asked_for() {
        let names: Vec<_> = (0..100_u8).map(|number| Digest::of([number])).collect();
        let text: String = names.iter().map(|name| line(name, &name.hex())).collect();
        let text = format!("{text}\n{}", line(&names[3], "said again"));
        let kept = Kept { text };
        let mut sorted = names.clone();
        sorted.sort();
        for asked in [names.clone(), sorted.clone(), sorted.into_iter().rev().collect()] {
            let mut facts = kept.facts();
            for name in asked {
                assert_eq!(facts.find(&name), Some(&*name.hex()));
                assert_eq!(facts.find(&Digest::of("another")), None);
                assert_eq!(facts.find(&name), Some(&*name.hex()));
            }
        }
    }
}
