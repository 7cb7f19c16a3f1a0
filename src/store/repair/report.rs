//! [`RepairReport`]: what a repair did, and what it could not do.

use super::Repair;
use crate::store::check::CheckReport;

/// What came of something that was wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// It is whole again.
    Mended,
    /// It cannot be saved. What was left of it is gone, if it was in the way of having it again: load the image once more.
    Lost,
    /// It cannot be mended, and was left as it is: it holds what a container wrote, or somebody is using it.
    Kept,
}

impl Outcome {
    /// A short stable word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mended => "mended",
            Self::Lost => "lost",
            Self::Kept => "kept",
        }
    }
}

/// One thing that was wrong, and what came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Repaired {
    /// What came of it.
    pub outcome: Outcome,
    /// What it is, in a short stable word: `format`, `layout`, `directory`, `index`, `image`, `blob`, `layer`, `container`,
    /// `root`, `name`, `view`, `lock`.
    pub kind: &'static str,
    /// Which one: a digest, a key, an id, a name or a path.
    pub subject: String,
    /// What was done, and why.
    pub message: String,
    /// The images and containers that need it.
    pub needed_by: Vec<String>,
}

impl std::fmt::Display for Repaired {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { outcome, kind, subject, message, needed_by } = self;
        write!(f, "{}: {kind} {subject} {message}", outcome.as_str())?;
        match &needed_by[..] {
            [] => Ok(()),
            needed_by => write!(f, "; needed by {}", needed_by.join(", ")),
        }
    }
}

/// What a repair did, or would do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct RepairReport {
    /// Everything that was wrong.
    pub repaired: Vec<Repaired>,
    /// Layers that were replaced and stay on disk until nothing is mounted that looks into them.
    pub kept: u64,
    /// Images that were looked at, those that only containers use included.
    pub images: u64,
    /// Blobs.
    pub blobs: u64,
    /// Layers that were unpacked.
    pub layers: u64,
    /// Containers.
    pub containers: u64,
}

impl RepairReport {
    /// Whether all that was wrong is, or would be, whole again.
    pub fn is_whole(&self) -> bool {
        self.repaired.iter().all(|one| one.outcome == Outcome::Mended)
    }
}

impl Repair<'_> {
    pub(super) fn say(
        &mut self,
        outcome: Outcome,
        kind: &'static str,
        subject: String,
        message: impl Into<String>,
        needed_by: Vec<String>,
    ) {
        let message = message.into();
        self.report.repaired.push(Repaired { outcome, kind, subject, message, needed_by });
    }

    pub(super) fn count(&mut self, seen: &CheckReport) {
        let CheckReport { images, blobs, layers, containers, .. } = *seen;
        (self.report.images, self.report.blobs) = (images, blobs);
        (self.report.layers, self.report.containers) = (layers, containers);
    }
}
