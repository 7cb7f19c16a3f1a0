//! One of a crowd: it changes what is its own and what is everybody's, and knows what it may rely on.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

use crate::hands::{Done, Hands, Refusal};
use crate::ledger::{Register, Span};
use crate::shop::{Archive, Files};
use crate::watchdog::Watchdog;

/// Names that everybody gives and takes, beside those that archives come with.
pub const SHARED: [&str; 2] = ["shared-0:1", "shared-1:1"];

/// The name of a container that everybody wants.
pub const COVETED: &str = "coveted";

/// What all members have in common.
pub struct World {
    pub archives: Vec<Archive>,
    pub registers: BTreeMap<String, Register>,
    /// How often the coveted name was given, less how often it was taken.
    pub coveted: AtomicI64,
    /// What roots made of images show, by id.
    pub files: Mutex<BTreeMap<String, Files>>,
    pub watchdog: Watchdog,
    pub done: AtomicU64,
    pub refused: AtomicU64,
}

impl World {
    pub fn new(archives: Vec<Archive>, watchdog: Watchdog) -> Self {
        let names = archives.iter().map(|archive| archive.name.clone());
        let registers =
            names.chain(SHARED.map(str::to_owned)).map(|name| (name, Register::default())).collect();
        let files = archives.iter().map(|archive| (archive.id.clone(), archive.files.clone())).collect();
        Self {
            archives,
            registers,
            coveted: AtomicI64::new(0),
            files: Mutex::new(files),
            watchdog,
            done: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }
}

/// The same sequence on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.roll(from.len())]
    }
}

/// What nobody else touches.
#[derive(Default)]
struct Own {
    /// Ids by name.
    tags: BTreeMap<String, String>,
    containers: BTreeMap<String, Files>,
    /// Images that only this one made, and has no name for any more.
    forgotten: Vec<String>,
}

pub struct Member<'w> {
    pub number: usize,
    pub hands: Hands,
    world: &'w World,
    dice: Dice,
    own: Own,
    made: u64,
}

impl<'w> Member<'w> {
    pub fn new(number: usize, hands: Hands, world: &'w World) -> Self {
        let dice = Dice(1000 + number as u64);
        Self { number, hands, world, dice, own: Own::default(), made: 0 }
    }

    /// Does something and notes from when to when.
    fn act<T>(&self, what: String, act: impl FnOnce(&Hands) -> Done<T>) -> (Span, Done<T>) {
        self.world.watchdog.begins(self.number, what.clone());
        let begin = Instant::now();
        let done = act(&self.hands);
        let span = Span { begin, end: Instant::now() };
        self.world.watchdog.ends(self.number);
        match &done {
            Ok(_) => self.world.done.fetch_add(1, Ordering::Relaxed),
            Err(_) => self.world.refused.fetch_add(1, Ordering::Relaxed),
        };
        (span, done)
    }

    /// Does what nothing that others do may be in the way of.
    fn must<T>(&self, what: String, act: impl FnOnce(&Hands) -> Done<T>) -> (Span, T) {
        let (span, done) = self.act(what.clone(), act);
        let done = done.unwrap_or_else(|Refusal { kind, text }| {
            panic!("member {}: {what}: {kind}: {text}", self.number);
        });
        (span, done)
    }

    /// Does what others may be in the way of, if they are in one of these ways.
    fn may<T>(
        &self,
        what: String,
        refusals: &[&str],
        act: impl FnOnce(&Hands) -> Done<T>,
    ) -> (Span, Result<T, String>) {
        let (span, done) = self.act(what.clone(), act);
        let done = done.map_err(|Refusal { kind, text }| {
            assert!(refusals.contains(&&*kind), "member {}: {what}: {kind}: {text}", self.number);
            kind
        });
        (span, done)
    }

    fn fresh(&mut self, what: &str) -> String {
        self.made += 1;
        format!("{what}-{}-{}", self.number, self.made)
    }

    fn own_tag(&mut self) -> Option<(String, String)> {
        let tags: Vec<_> = self.own.tags.clone().into_iter().collect();
        (!tags.is_empty()).then(|| self.dice.pick(&tags).clone())
    }

    fn own_container(&mut self) -> Option<String> {
        let containers: Vec<_> = self.own.containers.keys().cloned().collect();
        (!containers.is_empty()).then(|| self.dice.pick(&containers).clone())
    }

    /// One of the names that everybody gives and takes.
    fn shared(&mut self) -> (String, &'w Register) {
        let at = self.dice.roll(self.world.registers.len());
        let (name, register) = self.world.registers.iter().nth(at).unwrap();
        (name.clone(), register)
    }

    /// One thing after another, so that all kinds come up.
    pub fn step(&mut self) {
        match self.dice.roll(24) {
            0..=3 => self.load(),
            4 | 5 => self.tag_own(),
            6 => self.untag_own(),
            7 => self.remove_own(),
            8 | 9 => self.share(),
            10 => self.unshare(),
            11 => self.remove_shared(),
            12 | 13 => self.look(),
            14 | 15 => self.create(),
            16 => self.edit(),
            17 => self.commit(),
            18 => self.delete(),
            19 => self.covet(),
            20 => self.rename(),
            21 => self.save(),
            _ => self.collect(),
        }
    }

    fn load(&mut self) {
        let archive = self.dice.pick(&self.world.archives);
        let (span, ()) = self.must(format!("load {}", archive.name), |hands| hands.load(&archive.path));
        self.world.registers[&archive.name].wrote(span, Some(archive.id.clone()));
    }

    /// Takes a name of its own for what one of everybody's names leads to.
    fn tag_own(&mut self) {
        if self.own.tags.len() > 6 {
            return self.remove_own();
        }
        let (from, _) = self.shared();
        let to = format!("{}:1", self.fresh("own"));
        let (_, tagged) = self.may(format!("tag {from} {to}"), &["not-found"], |hands| hands.tag(&from, &to));
        if tagged.is_ok() {
            // Only now nobody can take the image away.
            let (_, id) = self.must(format!("find {to}"), |hands| hands.find(&to));
            assert!(self.world.files.lock().unwrap().contains_key(&id), "{to} is {id}");
            self.own.tags.insert(to, id);
        }
    }

    fn untag_own(&mut self) {
        if self.own.tags.len() > 1
            && let Some((name, id)) = self.own_tag()
        {
            self.must(format!("untag {name}"), |hands| hands.untag(&name));
            self.lost(&name, id);
        }
    }

    fn remove_own(&mut self) {
        let Some((name, id)) = self.own_tag() else { return };
        let what = format!("rmi {name}");
        let (_, removed) = self.may(what, &["image-in-use"], |hands| hands.remove(&name));
        if removed.is_ok() {
            self.lost(&name, id);
        }
    }

    fn lost(&mut self, name: &str, id: String) {
        self.own.tags.remove(name);
        let is_loaded = self.world.archives.iter().any(|archive| archive.id == id);
        if !is_loaded && !self.own.tags.values().any(|other| *other == id) {
            self.own.forgotten.push(id);
        }
    }

    fn share(&mut self) {
        // Only what somebody else loads, too, so that who removes it is not asked for more.
        let known = |id: &String| self.world.archives.iter().any(|archive| archive.id == *id);
        let own: Vec<_> = self.own.tags.iter().filter(|(_, id)| known(id)).collect();
        if own.is_empty() {
            return self.load();
        }
        let (from, id) = own[self.made as usize % own.len()];
        let (from, id) = (from.clone(), id.clone());
        let to = *self.dice.pick(&SHARED);
        let (span, ()) = self.must(format!("tag {from} {to}"), |hands| hands.tag(&from, to));
        self.world.registers[to].wrote(span, Some(id));
    }

    fn unshare(&mut self) {
        let (name, register) = self.shared();
        let (span, done) = self.may(format!("untag {name}"), &["not-found"], |hands| hands.untag(&name));
        match done {
            Ok(()) => register.wrote(span, None),
            Err(_) => register.read(span, None),
        }
    }

    fn remove_shared(&mut self) {
        let (name, register) = self.shared();
        let refusals = ["not-found", "image-in-use"];
        let (span, done) = self.may(format!("rmi {name}"), &refusals, |hands| hands.remove(&name));
        match done {
            Ok(()) => register.wrote(span, None),
            Err(kind) if kind == "not-found" => register.read(span, None),
            Err(_) => {}
        }
    }

    /// Looks what everybody's names lead to, and whether what is its own is as it left it.
    fn look(&mut self) {
        let (span, names) = self.must("images".to_owned(), Hands::names);
        for (name, register) in &self.world.registers {
            register.read(span, names.get(name).cloned());
        }
        let prefix = format!("own-{}-", self.number);
        let own: BTreeMap<_, _> = names.into_iter().filter(|(name, _)| name.starts_with(&prefix)).collect();
        assert_eq!(own, self.own.tags, "member {}", self.number);
        let (_, containers) = self.must("ps".to_owned(), Hands::containers);
        let prefix = format!("mine-{}-", self.number);
        let mine = containers.iter().filter(|name| name.starts_with(&prefix));
        assert!(mine.eq(self.own.containers.keys()), "member {}: {containers:?}", self.number);
    }

    fn create(&mut self) {
        if self.own.containers.len() > 3 {
            return self.delete();
        }
        let Some((image, id)) = self.own_tag() else { return self.load() };
        let name = self.fresh("mine");
        self.must(format!("create {name} on {image}"), |hands| hands.create(&image, &name));
        let files = self.world.files.lock().unwrap()[&id].clone();
        self.own.containers.insert(name, files);
    }

    fn edit(&mut self) {
        let Some(name) = self.own_container() else { return self.create() };
        self.change(name);
    }

    /// Writes what nobody else writes.
    fn change(&mut self, name: String) {
        let path = format!("base/{}", self.dice.roll(5) + 10);
        let content = self.fresh("written");
        self.must(format!("edit {name}"), |hands| hands.edit(&name, &path, &content));
        self.own.containers.get_mut(&name).unwrap().insert(path, content);
    }

    fn commit(&mut self) {
        let Some(container) = self.own_container() else { return self.create() };
        // Equal images are one image, and then it would not be for one to say when nobody needs it any more.
        self.change(container.clone());
        let name = format!("{}:1", self.fresh("own"));
        let (_, id) =
            self.must(format!("commit {container} {name}"), |hands| hands.commit(&container, &name));
        let files = self.own.containers[&container].clone();
        self.world.files.lock().unwrap().insert(id.clone(), files);
        self.own.tags.insert(name, id);
    }

    fn delete(&mut self) {
        let Some(name) = self.own_container() else { return };
        self.compare(&name);
        self.must(format!("rm {name}"), |hands| hands.delete(&name));
        self.own.containers.remove(&name);
        // What nobody can know but this one goes when nothing is left that needs it.
        for id in std::mem::take(&mut self.own.forgotten) {
            let refusals = ["image-in-use", "several-names", "not-found"];
            let (_, removed) = self.may(format!("rmi {id}"), &refusals, |hands| hands.remove(&id));
            if removed.is_err() && self.own.forgotten.len() < 10 {
                self.own.forgotten.push(id);
            }
        }
    }

    /// Whether a root shows what it has to show.
    fn compare(&self, name: &str) {
        let files = &self.own.containers[name];
        let (_, shown) = self.must(format!("read {name}"), |hands| hands.read(name, files));
        assert_eq!(shown, *files, "member {}: {name}", self.number);
    }

    /// Wants a name that all others want, or gives it up.
    fn covet(&mut self) {
        let Some((image, _)) = self.own_tag() else { return self.load() };
        match self.dice.roll(3) {
            0 => {
                let what = format!("create {COVETED} on {image}");
                let (_, done) = self.may(what, &["name-in-use"], |hands| hands.create(&image, COVETED));
                self.world.coveted.fetch_add(i64::from(done.is_ok()), Ordering::SeqCst);
            }
            1 if !self.own.containers.is_empty() => {
                let name = self.own_container().unwrap();
                let what = format!("rename {name} {COVETED}");
                let (_, done) = self.may(what, &["name-in-use"], |hands| hands.rename(&name, COVETED));
                if done.is_ok() {
                    self.own.containers.remove(&name);
                    self.world.coveted.fetch_add(1, Ordering::SeqCst);
                }
            }
            _ => {
                let what = format!("rm {COVETED}");
                let (_, done) = self.may(what, &["not-found"], |hands| hands.delete(COVETED));
                self.world.coveted.fetch_sub(i64::from(done.is_ok()), Ordering::SeqCst);
            }
        }
    }

    fn rename(&mut self) {
        let Some(old) = self.own_container() else { return self.create() };
        let new = self.fresh("mine");
        self.must(format!("rename {old} {new}"), |hands| hands.rename(&old, &new));
        let files = self.own.containers.remove(&old).unwrap();
        self.own.containers.insert(new, files);
    }

    fn save(&mut self) {
        let Some((name, _)) = self.own_tag() else { return self.load() };
        self.must(format!("save {name}"), |hands| hands.save(&name));
    }

    fn collect(&mut self) {
        self.must("gc".to_owned(), Hands::collect);
    }

    /// Looks at all that is its own, at the end.
    pub fn look_at_all(&mut self) {
        self.look();
        for name in self.own.containers.keys() {
            self.compare(name);
        }
        for (name, id) in &self.own.tags {
            let container = format!("last-{}", self.number);
            self.must(format!("create {container} on {name}"), |hands| hands.create(name, &container));
            let files = self.world.files.lock().unwrap()[id].clone();
            let (_, shown) = self.must(format!("read {container}"), |hands| hands.read(&container, &files));
            assert_eq!(shown, files, "{name}");
            self.must(format!("rm {container}"), |hands| hands.delete(&container));
        }
    }
}
