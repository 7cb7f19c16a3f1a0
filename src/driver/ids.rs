//! [`IdMap`]: owners of an image as other owners of the host, so that one unpacked layer serves many ranges of ids.
//!
//! Nothing on disk is changed: each layer, and the private directory, is stacked through a mount that translates. What
//! is written through the root lies on disk with the ids of the image, ready to be read as a layer.

use std::io;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use crate::fs::{Dir, sys};
use crate::stack::owner::HOST_ROOT;

/// Which ids of the host stand for which of the image.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "Ranges", into = "Ranges")]
pub struct IdMap {
    uids: Vec<IdRange>,
    gids: Vec<IdRange>,
}

/// Neighbouring ids.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct IdRange {
    /// The first of them in the image.
    pub image: u32,
    /// The first of them on the host.
    pub host: u32,
    /// How many they are.
    pub count: u32,
}

impl IdRange {
    fn contains(self, id: u32) -> bool {
        id.checked_sub(self.image).is_some_and(|offset| offset < self.count)
    }

    fn overlaps(self, other: Self) -> bool {
        let meet = |one: u32, two: u32| {
            let end = |first: u32, count: u32| u64::from(first) + u64::from(count);
            u64::from(one) < end(two, other.count) && u64::from(two) < end(one, self.count)
        };
        meet(self.image, other.image) || meet(self.host, other.host)
    }
}

/// Ranges that are no map.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidIdMap {
    /// There is none.
    #[error("a map of ids needs at least one range of users and one of groups")]
    Empty,
    /// The kernel takes no more.
    #[error("a map of ids has {0} ranges, the limit is {MOST_RANGES}")]
    TooMany(usize),
    /// It has no id, or one that is none.
    #[error("{count} ids from {image} in the image and {host} on the host: these are no ids", image = .0.image, host = .0.host, count = .0.count)]
    Range(IdRange),
    /// An id would be two.
    #[error("the ranges of ids that begin with {} and {} in the image overlap there or on the host", .0.image, .1.image)]
    Overlap(IdRange, IdRange),
}

/// The kernel's limit, less the one that is added for the host's root.
const MOST_RANGES: usize = 339;

impl IdMap {
    /// The map of these ranges of users and groups.
    ///
    /// # Errors
    ///
    /// [`InvalidIdMap`] if it is none.
    pub fn new(uids: Vec<IdRange>, gids: Vec<IdRange>) -> Result<Self, InvalidIdMap> {
        for ranges in [&uids, &gids] {
            if ranges.is_empty() {
                return Err(InvalidIdMap::Empty);
            }
            if ranges.len() > MOST_RANGES {
                return Err(InvalidIdMap::TooMany(ranges.len()));
            }
            for (number, range) in ranges.iter().enumerate() {
                // The last id means "none", the ones before it are what the kernel shows for ids that it cannot.
                let ends = |first: u32| u64::from(first) + u64::from(range.count) <= u64::from(HOST_ROOT);
                if range.count == 0 || !ends(range.image) || !ends(range.host) {
                    return Err(InvalidIdMap::Range(*range));
                }
                if let Some(other) = ranges[..number].iter().find(|other| range.overlaps(**other)) {
                    return Err(InvalidIdMap::Overlap(*other, *range));
                }
            }
        }
        Ok(Self { uids, gids })
    }

    /// Users and groups from 0 on in the image stand for as many from `host` on.
    ///
    /// # Errors
    ///
    /// [`InvalidIdMap`] if there are none, or fewer ids than that above `host`.
    pub fn range(host: u32, count: u32) -> Result<Self, InvalidIdMap> {
        let ranges = vec![IdRange { image: 0, host, count }];
        Self::new(ranges.clone(), ranges)
    }

    /// The ranges of users.
    pub fn uids(&self) -> &[IdRange] {
        &self.uids
    }

    /// The ranges of groups.
    pub fn gids(&self) -> &[IdRange] {
        &self.gids
    }

    /// Whether `uid` of the image stands for somebody on the host.
    pub fn has_user(&self, uid: u32) -> bool {
        self.uids.iter().any(|range| range.contains(uid))
    }

    /// Whether `gid` of the image stands for some group on the host.
    pub fn has_group(&self, gid: u32) -> bool {
        self.gids.iter().any(|range| range.contains(gid))
    }

    /// A user namespace with these maps, for mounts to translate by.
    pub(super) fn namespace(&self) -> io::Result<OwnedFd> {
        sys::user_namespace(|pid| {
            for (name, ranges) in [("uid_map", &self.uids), ("gid_map", &self.gids)] {
                std::fs::write(format!("/proc/{pid}/{name}"), lines(ranges))?;
            }
            Ok(())
        })
    }
}

/// The ranges as the kernel reads them.
fn lines(ranges: &[IdRange]) -> String {
    let line = |IdRange { image, host, count }: &IdRange| format!("{image} {host} {count}\n");
    let mut lines: String = ranges.iter().map(line).collect();
    // The kernel makes files of its own in the work directory, and the engine puts some into the root, both as the
    // host's root. Without an id for that on disk neither could.
    if !ranges.iter().any(|range| range.host == 0) {
        lines += &line(&IdRange { image: HOST_ROOT, host: 0, count: 1 });
    }
    lines
}

/// A view of `dir`, which lasts as long as the handle, in which `namespace` translates owners.
pub(super) fn translated(dir: &Dir, namespace: &OwnedFd) -> rustix::io::Result<Dir> {
    let mount = super::mount_api::bind(dir)?;
    sys::translate_ids(&mount, namespace)?;
    Ok(Dir::from(mount))
}

/// A map as it stands in a record.
#[derive(Serialize, Deserialize)]
struct Ranges {
    uids: Vec<IdRange>,
    gids: Vec<IdRange>,
}

impl From<IdMap> for Ranges {
    fn from(IdMap { uids, gids }: IdMap) -> Self {
        Self { uids, gids }
    }
}

impl TryFrom<Ranges> for IdMap {
    type Error = InvalidIdMap;

    fn try_from(Ranges { uids, gids }: Ranges) -> Result<Self, InvalidIdMap> {
        Self::new(uids, gids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_one_to_one_and_its_ids_are_ids() {
        let range = |image, host, count| IdRange { image, host, count };
        let map = |ranges: &[IdRange]| IdMap::new(ranges.to_vec(), ranges.to_vec());
        for good in [&[range(0, 100_000, 65_536)][..], &[range(0, 1000, 1), range(1, 100_000, 5)]] {
            let map = map(good).unwrap();
            let json = serde_json::to_string(&map).unwrap();
            assert_eq!(serde_json::from_str::<IdMap>(&json).unwrap(), map);
        }
        assert_eq!(map(&[]), Err(InvalidIdMap::Empty));
        for wrong in [range(0, 1, 0), range(0, u32::MAX, 1), range(u32::MAX - 5, 0, 5), range(0, 9, u32::MAX)]
        {
            assert_eq!(map(&[wrong]), Err(InvalidIdMap::Range(wrong)));
        }
        for (one, two) in [(range(0, 10, 5), range(4, 100, 1)), (range(0, 10, 5), range(5, 14, 1))] {
            assert_eq!(map(&[one, two]), Err(InvalidIdMap::Overlap(one, two)));
        }
        assert!(serde_json::from_str::<IdMap>(r#"{"uids":[],"gids":[]}"#).is_err());
    }

    #[test]
    fn the_hosts_root_has_an_id_in_every_map() {
        let range = |image, host, count| IdRange { image, host, count };
        assert_eq!(lines(&[range(0, 100_000, 65_536)]), "0 100000 65536\n4294967293 0 1\n");
        assert_eq!(lines(&[range(0, 1000, 1), range(1, 0, 5)]), "0 1000 1\n1 0 5\n");
    }
}
