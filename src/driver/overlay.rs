//! [`OverlayDriver`]: roots by the kernel's overlayfs.
//!
//! As root the marks are in `trusted.overlay.*`; elsewhere (a user namespace) the mount is made with `userxattr` and
//! obeys `user.overlay.*`. A writable directory keeps the family that it was prepared with: read with the other one,
//! deleted files would come back.

use std::os::fd::OwnedFd;

use super::error::DriverError;
use super::mount_api::{self, MOST_LOWERS};
use super::mounts::Points;
use super::plan::{Changes, Lower, OverlayPlan};
use super::private::{self, BOTTOM, MERGED, TOP, UPPER, WORK};
use super::record::{self, Record, Settings};
use super::{
    Access, Driver, DriverKind, MountPlan, MountPoint, Prepared, Root, RootSpec, Unmount, Usage, Writable,
    ids, in_use, plan, usage,
};
use crate::fs::{Dir, Optional};
use crate::stack::Tree;
use crate::stack::marks::Marks;
use crate::stack::object::Style;
use crate::whiteout::Namespace;

/// Roots by the kernel's overlayfs.
#[derive(Clone, Copy, Debug)]
pub struct OverlayDriver {
    style: Style,
}

impl OverlayDriver {
    /// For a process whose marks are of `family`, and that is or is not above permission checks. A [`super::Probe`] finds
    /// out.
    pub fn new(family: Namespace, privileged: bool) -> Self {
        Self { style: Style { family: Some(family), privileged } }
    }

    /// The family that mounts by this process obey if no layer has the other.
    fn own_family(&self) -> Namespace {
        self.style.family.unwrap_or(Namespace::User)
    }

    /// The family of the layers' marks; `None` if any serves. Layers with different ones cannot be stacked: a mount obeys
    /// one, and what the others hide would come back.
    fn family_of_layers(&self, spec: &RootSpec<'_>) -> Result<Option<Namespace>, DriverError> {
        let mut obeyed = None;
        for tree in spec.layers.trees() {
            let Marks::Overlay(recorded) = tree.marks else { continue };
            let obeyed = *obeyed.get_or_insert(recorded);
            let is_visible = (recorded, self.own_family()) != (Namespace::Trusted, Namespace::User);
            if recorded != obeyed || !is_visible {
                let obeyed = if is_visible { obeyed } else { self.own_family() };
                return Err(DriverError::ForeignMarks { path: tree.dir.path_of(""), recorded, obeyed });
            }
        }
        Ok(obeyed)
    }

    /// What all mounts of this root have in common.
    fn settings(&self, spec: &RootSpec<'_>) -> Result<Settings, DriverError> {
        match spec.options.access {
            Access::Writable => {
                let record = Record::read(spec.dir, DriverKind::Overlay)?;
                Ok(record.settings().clone().with(&spec.options))
            }
            Access::ReadOnly => Ok(Settings::of(&spec.options)),
        }
    }

    /// Refuses what needs more than this process has.
    fn check(&self, settings: &Settings) -> Result<(), DriverError> {
        if self.own_family() == Namespace::Trusted {
            return Ok(());
        }
        let asked = [
            (settings.redirect_dir, "redirect_dir"),
            (settings.metacopy, "metacopy"),
            (settings.ids.is_some(), "a translation of owners"),
        ];
        match asked.iter().find(|(asked, _)| *asked) {
            None => Ok(()),
            Some((_, what)) => refuse(format!(
                "{what} is for root in the initial user namespace; leave it out, or work as root"
            )),
        }
    }

    fn overlay_plan<'a>(&self, spec: &RootSpec<'a>) -> Result<OverlayPlan<'a>, DriverError> {
        let settings = self.settings(spec)?;
        self.check(&settings)?;
        let namespace = settings.ids.as_ref().map(|ids| ids.namespace()).transpose();
        let namespace = namespace.map_err(|source| DriverError::Kernel {
            step: "make a user namespace for",
            path: spec.dir.path_of(""),
            log: Vec::new(),
            source,
        })?;
        let translate = |dir: &Dir| {
            match &namespace {
            None => Ok(None),
            Some(namespace) => ids::translated(dir, namespace).map(Some).or_else(|errno| {
                refuse(format!(
                    "owners of {:?} cannot be translated: {errno}; this takes Linux 5.19 and a file system that can, or leave the map of ids out",
                    dir.path_of("")
                ))
            }),
        }
        };
        // Both writable directories have to be seen through one mount.
        let translated = translate(spec.dir)?;
        let private = translated.as_ref().unwrap_or(spec.dir);
        let of_layers = self.family_of_layers(spec)?;
        let mut obeyed = of_layers.unwrap_or(self.own_family());
        // The kernel does not ask whether the root of a lower layer is opaque; what it would hide is left out instead.
        let root = spec.layers.root()?;
        let shown = |position: &usize| root.as_ref().is_some_and(|root| root.includes(*position));
        let trees = spec.layers.trees();
        let mut lowers = Vec::with_capacity(trees.len());
        for tree in (0..trees.len()).filter(shown).map(|position| trees[position]) {
            lowers.push(translate(&tree.dir)?.map_or(Lower::Layer(&tree.dir), Lower::Own));
        }
        let changes = match spec.options.access {
            Access::Writable => {
                let recorded = Record::read(spec.dir, DriverKind::Overlay)?.marks(spec.dir)?;
                if recorded != obeyed && (of_layers.is_some() || recorded == Namespace::Trusted) {
                    return Err(DriverError::ForeignMarks {
                        path: spec.dir.path_of(UPPER),
                        recorded,
                        obeyed,
                    });
                }
                obeyed = recorded;
                refuse_volatile(spec.dir)?;
                if lowers.is_empty() {
                    lowers.push(Lower::Own(private.open_dir(BOTTOM)?));
                }
                Some(Changes::new(private.open_dir(UPPER)?, private.open_dir(WORK)?))
            }
            Access::ReadOnly => {
                lowers.insert(0, Lower::Own(private.open_dir(TOP)?));
                // A mount without a writable directory needs two others.
                if lowers.len() == 1 {
                    lowers.push(Lower::Own(private.open_dir(BOTTOM)?));
                }
                None
            }
        };
        if lowers.len() > MOST_LOWERS {
            return Err(DriverError::TooManyLayers { layers: lowers.len(), limit: MOST_LOWERS });
        }
        let mut options = Vec::new();
        if obeyed == Namespace::User {
            options.push(("userxattr", None));
        }
        // Said outright, because a kernel can be built or set to the opposite. No layer has an attribute that could send
        // a lookup elsewhere, but what is not asked for need not work. An index would refuse a writable directory that
        // was moved or restored.
        let value = |value: &'static str| Some(value.into());
        let writable = changes.is_some();
        // Without it the kernel refuses the other.
        let redirect =
            if (settings.redirect_dir || settings.metacopy) && writable { "on" } else { "nofollow" };
        options.push(("redirect_dir", value(redirect)));
        options.push(("metacopy", value(if settings.metacopy && writable { "on" } else { "off" })));
        if writable {
            options.push(("index", value("off")));
        }
        if settings.volatile && writable {
            options.push(("volatile", None));
        }
        if let Some(label) = settings.label {
            options.push((plan::LABEL, Some(label.into())));
        }
        let Settings { nosuid, nodev, .. } = settings;
        Ok(OverlayPlan { source: spec.source, lowers, changes, options, nosuid, nodev, translated })
    }

    /// The plan, for a root that is mounted nowhere and a place where nothing is.
    fn free_plan<'a>(&self, spec: &RootSpec<'a>, at: &MountPoint) -> Result<OverlayPlan<'a>, DriverError> {
        let seen = Points::read()?;
        // The kernel does not object to a second mount of one writable directory, and both then corrupt it.
        if let Some(path) = seen.named(spec.source).next() {
            return Err(DriverError::Mounted { source_name: spec.source.to_owned(), path: path.to_owned() });
        }
        let path = at.path();
        if let Some(source) = seen.at(&path)? {
            return Err(DriverError::Mounted { source_name: source.to_string_lossy().into_owned(), path });
        }
        if spec.options.access == Access::Writable {
            in_use::refuse(spec.dir, UPPER, spec.source)?;
        }
        self.overlay_plan(spec)
    }
}

fn refuse<T>(reason: String) -> Result<T, DriverError> {
    Err(DriverError::Refused { kind: DriverKind::Overlay, reason })
}

/// What a `volatile` mount leaves behind unless it is unmounted in order.
fn refuse_volatile(dir: &Dir) -> Result<(), DriverError> {
    match dir.stat("work/work/incompat/volatile").optional()? {
        Some(_) => Err(DriverError::Volatile { path: dir.path_of("") }),
        None => Ok(()),
    }
}

/// Ends the mount named `source` at `at`, and nothing else that may be mounted there.
fn end_seen(seen: &Points, source: &str, at: &MountPoint, how: Unmount) -> Result<(), DriverError> {
    let path = at.path();
    match seen.at(&path)? {
        Some(found) if found == source => at.detach(how),
        other => Err(DriverError::NotMounted {
            source_name: source.to_owned(),
            path,
            found: other.map(|found| found.to_string_lossy().into_owned()),
        }),
    }
}

impl Driver for OverlayDriver {
    fn kind(&self) -> DriverKind {
        DriverKind::Overlay
    }

    fn prepare(&self, spec: &RootSpec<'_>) -> Result<Prepared, DriverError> {
        let settings = Settings::of(&spec.options);
        self.check(&settings)?;
        let record = match spec.options.access {
            Access::Writable => {
                let family = self.family_of_layers(spec)?.unwrap_or(self.own_family());
                let single_family = spec.layers.trees().iter().all(|tree| tree.marks != Marks::Both);
                Some(Record::overlay(family, single_family, settings))
            }
            Access::ReadOnly => None,
        };
        private::fill(spec, self.style, record.as_ref())
    }

    fn duplicate(&self, spec: &RootSpec<'_>, from: &Dir, source: &str) -> Result<(), DriverError> {
        let record = Record::read(from, DriverKind::Overlay)?;
        in_use::refuse(from, UPPER, source)?;
        refuse_volatile(from)?;
        private::fill_from(spec, from, &record)
    }

    fn plan<'a>(&self, spec: &RootSpec<'a>) -> Result<MountPlan<'a>, DriverError> {
        self.overlay_plan(spec).map(MountPlan::Overlay)
    }

    fn mount(&self, spec: &RootSpec<'_>, at: Option<&MountPoint>) -> Result<Root, DriverError> {
        let default;
        let at = match at {
            Some(at) => at,
            None => {
                default = MountPoint::inside(spec.dir, MERGED)?;
                &default
            }
        };
        let plan = self.free_plan(spec, at)?;
        let dir = mount_api::attached(&plan, spec.options.route, at)?;
        Ok(Root { path: at.path(), dir, point: Some(at.try_clone()?) })
    }

    fn mount_detached(&self, spec: &RootSpec<'_>) -> Result<OwnedFd, DriverError> {
        let scratch = MountPoint::inside(spec.dir, MERGED)?;
        let plan = self.free_plan(spec, &scratch)?;
        mount_api::detached(&plan, spec.options.route, &scratch)
    }

    fn unmount(&self, source: &str, at: &MountPoint, how: Unmount) -> Result<(), DriverError> {
        end_seen(&Points::read()?, source, at, how)
    }

    fn end(
        &self,
        seen: &Points,
        dir: &Dir,
        source: &str,
        at: &MountPoint,
        how: Unmount,
    ) -> Result<(), DriverError> {
        let watch = in_use::Watch::on(at);
        end_seen(seen, source, at, how)?;
        if watch.has_ended() {
            in_use::forget(dir);
        }
        Ok(())
    }

    fn writable(&self, dir: &Dir) -> Result<Writable, DriverError> {
        let record = Record::read(dir, DriverKind::Overlay)?;
        let recorded = record.marks(dir)?;
        let obeyed = self.own_family();
        if (recorded, obeyed) == (Namespace::Trusted, Namespace::User) {
            return Err(DriverError::ForeignMarks { path: dir.path_of(UPPER), recorded, obeyed });
        }
        let dir = dir.open_dir(UPPER)?;
        let settings = record.settings();
        let (follows, translates) = (settings.redirect_dir || settings.metacopy, settings.ids.is_some());
        let copied_marks = record.has_copied_marks();
        let marks = Marks::Upper { family: recorded, follows, copied_marks, translates };
        Ok(Writable::Upper(Tree { dir, marks, declares_root: true }))
    }

    fn usage(&self, dir: &Dir) -> Result<Usage, DriverError> {
        match dir.open_dir(UPPER).optional()? {
            Some(upper) => Ok(usage::of(upper)?),
            None => Ok(Usage::default()),
        }
    }

    fn remove(&self, dir: &Dir) -> Result<(), DriverError> {
        super::refuse_mounted(dir, MERGED)?;
        // Never by removing what is in it first: if something is mounted there after all, that is not ours to empty.
        match dir.remove_dir(MERGED).optional() {
            Err(error) if error.is_exists() => dir.remove_all(MERGED)?,
            done => drop(done?),
        }
        for name in [UPPER, WORK, TOP, BOTTOM, record::NAME] {
            dir.remove_all(name)?;
        }
        Ok(())
    }
}
