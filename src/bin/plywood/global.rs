//! What the global options mean on this machine: which directory the store is, and opening it.

use std::env;
use std::fs;
use std::path::PathBuf;

use plywood::driver::DriverKind;
use plywood::{
    DriverChoice, LenderState, Limits, RepairOptions, RepairReport, Store, StoreError, StoreOptions,
};

use crate::args::{Driver, Durability, Global};
use crate::errors::Failure;
use crate::output::Output;

/// What every command works with.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) output: Output,
    global: Global,
    /// Whether what this machine can do is tried again.
    fresh: bool,
}

impl Context {
    pub(crate) fn new(global: Global) -> Self {
        Self { output: Output { json: global.json, quiet: global.quiet }, global, fresh: false }
    }

    /// What to wait for before something is reported as done.
    pub(crate) fn durability(&self) -> plywood::fs::Durability {
        match self.global.durability {
            Durability::Full => plywood::fs::Durability::Full,
            Durability::Relaxed => plywood::fs::Durability::Relaxed,
        }
    }

    /// Whether what is reported as done has to be on disk.
    pub(crate) fn is_durable(&self) -> bool {
        self.global.durability == Durability::Full
    }

    /// Opens the store, which must exist, unless others lend images: those can then be used at once.
    pub(crate) fn open(&self) -> Result<Store, Failure> {
        if !self.additional_stores().is_empty() {
            return self.open_or_make();
        }
        self.open_existing()
    }

    fn open_existing(&self) -> Result<Store, Failure> {
        let store = self.options().open(self.root()?).map_err(|error| {
            let hint =
                |error: &StoreError| is_absent(error).then(|| "`plywood load` makes a store".to_owned());
            Failure::from(error).hinted(hint).hinted(elsewhere)
        })?;
        self.warn_of_lenders(&store);
        Ok(store)
    }

    /// Says which other stores are named for nothing.
    fn warn_of_lenders(&self, store: &Store) {
        for lender in store.lenders() {
            if let LenderState::Unusable { reason } = lender.state {
                self.output.warn(&format!("nothing of the store in {:?} can be used: {reason}", lender.path));
            }
        }
    }

    /// The same without what earlier commands found out about this machine.
    pub(crate) fn without_memory(&self) -> Self {
        Self { output: self.output, global: self.global.clone(), fresh: true }
    }

    /// Opens the store; makes it first if nothing is there.
    pub(crate) fn ensure(&self) -> Result<Store, Failure> {
        let store =
            self.options().ensure(self.root()?).map_err(|error| Failure::from(error).hinted(elsewhere))?;
        self.warn_of_lenders(&store);
        Ok(store)
    }

    /// Opens the store as it is, even if it is read-only; makes it if there is none.
    pub(crate) fn open_or_make(&self) -> Result<Store, Failure> {
        match self.open_existing() {
            Err(Failure::Store { error, .. }) if is_absent(&error) => self.ensure(),
            other => other,
        }
    }

    /// Opens the store; `None`, with a warning, if there is none yet. For commands that list: without a store there is
    /// nothing, and nothing is made only to say so.
    pub(crate) fn open_if_there(&self) -> Result<Option<Store>, Failure> {
        match self.open() {
            Err(Failure::Store { error, .. }) if is_absent(&error) => {
                self.output
                    .warn(&format!("there is no store in {:?} yet; `plywood load` makes one", self.root()?));
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    /// Repairs the store, also one that cannot be opened; without a store there is nothing to repair.
    pub(crate) fn repair_if_there(&self, how: &RepairOptions<'_>) -> Result<RepairReport, Failure> {
        let root = self.root()?;
        match self.options().repair(&root, how) {
            Err(error) if is_absent(&error) => {
                self.output.warn(&format!("there is no store in {root:?} yet; `plywood load` makes one"));
                Ok(RepairReport::default())
            }
            done => Ok(done?),
        }
    }

    fn options(&self) -> StoreOptions {
        let driver = match self.global.driver {
            Driver::Auto => DriverChoice::Auto,
            Driver::Overlay => DriverChoice::Only(DriverKind::Overlay),
            Driver::Copy => DriverChoice::Only(DriverKind::Copy),
            Driver::Fuse => DriverChoice::Only(DriverKind::Fuse),
        };
        let mut limits = Limits::default();
        if self.global.no_expansion_limit {
            limits.expansion = u64::MAX;
            limits.empty_parts = u64::MAX;
            limits.idle_bytes = u64::MAX;
        }
        let mut options = Store::options().driver(driver).durability(self.durability()).limits(limits);
        options.fresh_probe = self.fresh;
        options.shared = self.global.shared;
        options.additional = self.additional_stores();
        options.fuse_overlayfs =
            self.global.fuse_overlayfs.clone().filter(|path| !path.as_os_str().is_empty());
        options
    }

    /// Other stores that lend their images.
    fn additional_stores(&self) -> Vec<PathBuf> {
        let named = &self.global.additional_stores;
        if !named.is_empty() {
            return named.clone();
        }
        let variable = env::var_os("PLYWOOD_ADDITIONAL_STORES").unwrap_or_default();
        env::split_paths(&variable).filter(|path| !path.as_os_str().is_empty()).collect()
    }

    /// The directory of the store.
    fn root(&self) -> Result<PathBuf, Failure> {
        // A variable that is set to nothing is not set.
        if let Some(root) = self.global.root.as_ref().filter(|root| !root.as_os_str().is_empty()) {
            return Ok(root.clone());
        }
        if is_real_root() {
            return Ok(PathBuf::from("/var/lib/plywood"));
        }
        let absolute = |variable| env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
        let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")));
        data.map(|data| data.join("plywood")).ok_or_else(|| {
            Failure::Usage("where is the store? HOME is not set: use --root DIR or PLYWOOD_ROOT".to_owned())
        })
    }
}

/// The next step where the store cannot be used because of whose it is or what is there.
fn elsewhere(error: &StoreError) -> Option<String> {
    let next = match error {
        StoreError::Closed { .. } => {
            "--root or PLYWOOD_ROOT names a store of your own, --additional-store a shared one"
        }
        error if error.kind() == "permission" => {
            "it may belong to another user; --root or PLYWOOD_ROOT names a store of your own, \
             --additional-store a shared one whose images you want to use"
        }
        StoreError::NotAStore { .. } | StoreError::Occupied { .. } => {
            "--root or PLYWOOD_ROOT says which directory is the store"
        }
        _ => return None,
    };
    Some(next.to_owned())
}

/// Whether the error is only that there is no store yet.
fn is_absent(error: &StoreError) -> bool {
    matches!(error, StoreError::NotAStore { is_blank: true, .. })
}

/// Whether this process is root of the machine, and not only of a user namespace.
fn is_real_root() -> bool {
    let whole = fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]));
    whole && rustix::process::geteuid().is_root()
}
