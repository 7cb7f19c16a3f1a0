//! Who waits for whom, where nothing goes on any more.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

/// Nothing that a crowd does takes a hundredth of this by itself.
const PATIENCE: Duration = Duration::from_secs(150);

/// What each of a crowd is doing, and since when.
pub struct Watchdog {
    store: PathBuf,
    doing: Vec<Mutex<Option<(Instant, String)>>>,
    over: (Mutex<bool>, Condvar),
}

impl Watchdog {
    pub fn over(store: &Path, members: usize) -> Self {
        let doing = (0..members).map(|_| Mutex::new(None)).collect();
        Self { store: store.to_owned(), doing, over: Default::default() }
    }

    pub fn begins(&self, member: usize, what: String) {
        *self.doing[member].lock().unwrap() = Some((Instant::now(), what));
    }

    pub fn ends(&self, member: usize) {
        *self.doing[member].lock().unwrap() = None;
    }

    /// Watches until [`Watchdog::release`]. If one does not get on, prints all that can be known and ends the process: its
    /// threads cannot be ended otherwise.
    pub fn watch(&self) {
        let mut over = self.over.0.lock().unwrap();
        while !*over {
            over = self.over.1.wait_timeout(over, Duration::from_secs(2)).unwrap().0;
            let is_stuck = |doing: &Mutex<Option<(Instant, String)>>| {
                doing.lock().unwrap().as_ref().is_some_and(|(since, _)| since.elapsed() > PATIENCE)
            };
            if self.doing.iter().any(is_stuck) {
                eprintln!("nobody gets on:\n{}", self.describe());
                std::process::exit(101);
            }
        }
    }

    pub fn release(&self) {
        *self.over.0.lock().unwrap() = true;
        self.over.1.notify_all();
    }

    fn describe(&self) -> String {
        let mut text = String::new();
        for (member, doing) in self.doing.iter().enumerate() {
            if let Some((since, what)) = &*doing.lock().unwrap() {
                writeln!(text, "member {member}: {what} for {:?}", since.elapsed()).unwrap();
            }
        }
        text += &locks(&self.store);
        text += &threads(std::process::id());
        for child in children(std::process::id()) {
            text += &threads(child);
        }
        text
    }
}

/// The kernel's list of locks on files of the store, with their names. A line with `->` waits for the one above it.
pub fn locks(store: &Path) -> String {
    let mut names = BTreeMap::new();
    let workspaces = fs::read_dir(store.join("staging")).into_iter().flatten().flatten();
    for dir in workspaces.map(|entry| entry.path()).chain([store.join("locks")]) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if let Ok(metadata) = entry.metadata() {
                names.insert(metadata.ino().to_string(), entry.path());
            }
        }
    }
    let mut text = String::new();
    for line in fs::read_to_string("/proc/locks").unwrap_or_default().lines() {
        let inode = line.split_whitespace().find_map(|word| word.split(':').nth(2));
        if let Some(path) = inode.and_then(|inode| names.get(inode)) {
            writeln!(text, "{line}  {}", path.display()).unwrap();
        }
    }
    text
}

/// Where the threads of a process are in the kernel.
fn threads(process: u32) -> String {
    let mut text = String::new();
    for thread in fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten() {
        let read = |name: &str| fs::read_to_string(thread.path().join(name)).unwrap_or_default();
        let words = fs::read_to_string(format!("/proc/{process}/cmdline")).unwrap_or_default();
        let (name, at) = (read("comm"), read("wchan"));
        let (name, words) = (name.trim(), words.replace('\0', " "));
        writeln!(text, "{}: {name} ({words}): {at}\n{}", thread.path().display(), read("stack")).unwrap();
    }
    text
}

/// The processes that this one started, and those that they started.
fn children(process: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for thread in fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten() {
        let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
            found.push(child);
            found.append(&mut self::children(child));
        }
    }
    found
}
