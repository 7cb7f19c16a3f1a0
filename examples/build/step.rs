//! One instruction after the other: what it does to a container, and how it is known again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;

use plywood::changeset::{Entry, EntryKind};
use plywood::container::CopyInOptions;
use plywood::fs::{Dir, Metadata};
use plywood::image::{Instruction, RuntimeConfig, expand_variables};
use plywood::path::LayerPath;
use plywood::{
    CommitOptions, ConfigChange, Container, CreateOptions, Image, Mounted, RemoveContainer, StepKey, Store,
};

use super::dockerfile::{Dockerfile, Line};
use super::files::{Become, Collected, Ignored, Source, clean, fits};
use super::{Result, base_name, bundle, runtime, user};

/// The build of one stage, as far as it has come.
pub(crate) struct Build<'b> {
    pub(crate) store: &'b Store,
    pub(crate) context: &'b Dir,
    pub(crate) ignored: &'b Ignored,
    pub(crate) file: &'b Dockerfile,
    /// The stages that are done.
    pub(crate) built: &'b [Option<Image>],
    /// Values of what is declared before the first stage.
    pub(crate) global: &'b BTreeMap<String, String>,
    /// Values that the command line gives.
    pub(crate) given: &'b BTreeMap<String, String>,
    pub(crate) no_cache: bool,
    /// Values of what this stage declares.
    pub(crate) arguments: BTreeMap<String, String>,
    pub(crate) image: Image,
}

/// What COPY and ADD are told.
struct Copy {
    sources: Vec<String>,
    destination: String,
    owner: Option<String>,
    mode: Option<u32>,
    /// The image to copy from.
    from: Option<Image>,
    unpacks: bool,
}

impl Build<'_> {
    /// Refuses what is not understood, before anything is done.
    pub(crate) fn check(&self, line: &Line) -> Result<()> {
        let known: &[&str] = match &*line.keyword {
            "COPY" => &["from", "chown", "chmod"],
            "ADD" => &["chown", "chmod"],
            "ARG" | "RUN" => &[],
            _ => return line.text().parse::<Instruction>().map(drop).map_err(|error| line.refuse(error)),
        };
        match line.flags.iter().find(|(name, _)| !known.contains(&&**name)) {
            Some((name, _)) => Err(line.refuse(format!("--{name} is not understood here"))),
            None => line.words().map(drop),
        }
    }

    /// Does one instruction.
    pub(crate) fn line(&mut self, line: &Line) -> Result<()> {
        let done = match &*line.keyword {
            "ARG" => self.declare(line),
            "RUN" => self.run(line),
            "COPY" | "ADD" => self.copy(line),
            _ => self.configure(line),
        };
        done.map_err(|error| format!("line {}, {line}: {}", line.number, chain(&*error)).into())
    }

    fn config(&self) -> Result<&RuntimeConfig> {
        Ok(&self.image.config().ok_or("an artifact has no config")?.config)
    }

    /// Values of variables at this point: arguments, and over them the environment.
    fn variables(&self) -> Result<BTreeMap<String, String>> {
        let mut variables = self.arguments.clone();
        let environment = self.config()?.env.iter().filter_map(|variable| variable.split_once('='));
        variables.extend(environment.map(|(name, value)| (name.to_owned(), value.to_owned())));
        Ok(variables)
    }

    fn expand(&self, text: &str) -> Result<String> {
        let variables = self.variables()?;
        Ok(expand_variables(text, |name| variables.get(name).map(String::as_str))?)
    }

    fn declare(&mut self, line: &Line) -> Result<()> {
        for declared in line.words()? {
            let (name, default) =
                declared.split_once('=').map_or((&*declared, None), |(name, value)| (name, Some(value)));
            let outer = self.given.get(name).or_else(|| self.global.get(name).filter(|_| default.is_none()));
            let value = match (outer, default) {
                (Some(value), _) => value.clone(),
                (None, Some(default)) => self.expand(default)?,
                (None, None) => continue,
            };
            self.arguments.insert(name.to_owned(), value);
        }
        Ok(())
    }

    /// An instruction that changes the config. WORKDIR also makes its directory.
    fn configure(&mut self, line: &Line) -> Result<()> {
        let instruction: Instruction = line.text().parse()?;
        let mut known = self.config()?.clone();
        known.env = self.variables()?.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        let changes = instruction.resolve(&known)?;
        let made = (line.keyword == "WORKDIR").then(|| self.expand(&line.rest)).transpose()?;
        let made = made.map(|path| self.inside(&path)).transpose()?;
        let recipe = format!("{}\n{changes:?}", line.keyword);
        self.step(line, &recipe, changes, |container| match &made {
            Some(path) => container.with_root(|root| make_directories(root, path)),
            None => Ok(()),
        })
    }

    fn run(&mut self, line: &Line) -> Result<()> {
        let mut config = self.config()?.clone();
        let arguments = line.exec_form().unwrap_or_else(|| {
            let shell = match &config.shell[..] {
                [] => vec!["/bin/sh".to_owned(), "-c".to_owned()],
                shell => shell.to_vec(),
            };
            [shell, vec![line.rest.clone()]].concat()
        });
        let arguments_given = self.arguments.iter().map(|(name, value)| format!("{name}={value}"));
        // What the environment says comes last, and wins.
        config.env = arguments_given.chain(config.env).collect();
        let recipe = format!("RUN\n{arguments:?}\n{:?}", self.arguments);
        self.step(line, &recipe, Vec::new(), |container| {
            let mounted = container.mount()?;
            let user = user::look_up(mounted.root(), &config.user)?;
            let bundle = tempfile::Builder::new().prefix("plywood-build-").tempdir()?;
            let process = bundle::Process { arguments, user };
            let spec = bundle::spec(&config, &process, mounted.path(), container.name());
            serde_json::to_writer(File::create(bundle.path().join("config.json"))?, &spec)?;
            let status = runtime::start(&runtime::installed()?, bundle.path(), container.id())?;
            mounted.unmount()?;
            match status {
                0 => Ok(()),
                status => Err(format!("it ended with status {status}").into()),
            }
        })
    }

    fn copy(&mut self, line: &Line) -> Result<()> {
        let copy = self.read_copy(line)?;
        let mut recipe =
            format!("{}\n{}\n{:?}\n{:?}\n", line.keyword, copy.destination, copy.owner, copy.mode);
        match &copy.from {
            // What is in an image is known by its id.
            Some(image) => writeln!(recipe, "{} {:?}", image.id(), copy.sources)?,
            None => {
                let context = Source::Context(self.context, self.ignored);
                let become_ = Become { mode: copy.mode, ..Become::default() };
                for source in &copy.sources {
                    let Collected { digest, .. } = context.collect(source, "file", become_)?;
                    writeln!(recipe, "{} {digest}", base_name(source))?;
                }
            }
        }
        let (context, ignored, store) = (self.context, self.ignored, self.store);
        self.step(line, &recipe, Vec::new(), |container| {
            container.with_root(|root| match &copy.from {
                None => copy.put(&Source::Context(context, ignored), root),
                Some(image) => {
                    let from = store.create_container(image, &CreateOptions::default())?;
                    let done = from.with_root(|other| copy.put(&Source::Root(other), root));
                    from.remove(RemoveContainer::Refuse)?;
                    done
                }
            })
        })
    }

    fn read_copy(&self, line: &Line) -> Result<Copy> {
        let words = line.words()?.iter().map(|word| self.expand(word)).collect::<Result<Vec<_>>>()?;
        let Some((destination, sources @ [_, ..])) = words.split_last() else {
            return Err("it needs a source and a destination".into());
        };
        let flag = |name: &str| line.flags.iter().find(|(flag, _)| flag == name).map(|(_, value)| value);
        let mode = flag("chmod").map(|mode| u32::from_str_radix(mode, 8)).transpose()?;
        let owner = flag("chown").map(|owner| self.expand(owner)).transpose()?;
        let from = match flag("from") {
            None => None,
            Some(name) => Some(match self.file.stage(name).and_then(|stage| self.built[stage].clone()) {
                Some(image) => image,
                None => self.store.image(name)?,
            }),
        };
        let mut found = Vec::new();
        for source in sources {
            if line.keyword == "ADD" && source.contains("://") {
                return Err("nothing is fetched from the network here".into());
            }
            match from {
                None => found.extend(self.matching(source)?),
                Some(_) => found.push(source.clone()),
            }
        }
        let ends_in_slash = destination.ends_with('/') || found.len() > 1;
        let mut destination = self.inside(destination)?;
        if ends_in_slash && !destination.ends_with('/') {
            destination.push('/');
        }
        Ok(Copy { sources: found, destination, owner, mode, from, unpacks: line.keyword == "ADD" })
    }

    /// The files of the context that a pattern means.
    fn matching(&self, pattern: &str) -> Result<Vec<String>> {
        let wanted = clean(pattern);
        if !pattern.contains(['*', '?']) {
            return Ok(vec![if wanted.is_empty() { ".".to_owned() } else { wanted }]);
        }
        let (above, last) = wanted.rsplit_once('/').unwrap_or((".", &wanted));
        if above.contains(['*', '?']) {
            return Err(format!("{pattern:?}: only the last part of a path can be a pattern here").into());
        }
        let names = self.context.open_dir(above)?.names()?;
        let names = names.iter().filter_map(|entry| std::str::from_utf8(&entry.name).ok());
        let paths = names.filter(|name| fits(last, name)).map(|name| clean(&format!("{above}/{name}")));
        let mut found: Vec<_> = paths.filter(|path| !self.ignored.has(path)).collect();
        found.sort_unstable();
        match found.is_empty() {
            true => Err(format!("nothing fits {pattern:?}").into()),
            false => Ok(found),
        }
    }

    /// An absolute path in the root; a relative one is below the working directory.
    fn inside(&self, path: &str) -> Result<String> {
        let directory = match &*self.config()?.working_dir {
            "" => "/",
            directory => directory,
        };
        let joined = Path::new(directory).join(path);
        Ok(joined.to_str().ok_or("that is no path")?.to_owned())
    }

    /// Does what `act` does to a container and commits it, unless the cache knows what comes of it.
    fn step(
        &mut self,
        line: &Line,
        recipe: &str,
        changes: Vec<ConfigChange>,
        act: impl FnOnce(&Container) -> Result<()>,
    ) -> Result<()> {
        let key = StepKey::new(Some(&self.image.id()), recipe.as_bytes());
        if !self.no_cache
            && let Some(image) = self.store.build_cache().find(&key)?
        {
            eprintln!("{line} (cached)");
            self.image = image;
            return Ok(());
        }
        eprintln!("{line}");
        let container = self.store.create_container(&self.image, &CreateOptions::default())?;
        let mut options = CommitOptions::default().step(key);
        options.image.changes = changes;
        options.image.created_by = Some(line.to_string());
        let outcome = act(&container).and_then(|()| Ok(container.commit(&options)?));
        container.remove(RemoveContainer::Force)?;
        self.image = outcome?;
        Ok(())
    }
}

impl Copy {
    /// Puts everything where it belongs.
    fn put(&self, from: &Source<'_>, root: &Mounted) -> Result<()> {
        let mut become_ = Become { mode: self.mode, ..Become::default() };
        if let Some(owner) = &self.owner {
            let user = user::look_up(root.root(), owner)?;
            // Without a group it is that of the same number, as with docker.
            let gid = if owner.contains(':') { user.gid } else { user.uid };
            become_.owner = (user.uid, gid);
        }
        for source in &self.sources {
            let options = CopyInOptions::default().archive();
            let target = self.destination.trim_end_matches('/');
            if from.is_directory(source)? {
                make_directories(root, target)?;
                let tar = from.collect(source, ".", become_)?.tar;
                root.copy_in(directory(target), tar, &options)?;
                continue;
            }
            let is_in = self.destination.ends_with('/')
                || root.resolve(directory(target), true).is_ok_and(|found| found.is_directory());
            let (parent, name) = match target.rsplit_once('/') {
                _ if is_in => (target, base_name(source)),
                Some((parent, name)) => (parent, name),
                None => ("", target),
            };
            make_directories(root, parent)?;
            let tar = from.collect(source, name, become_)?.tar;
            if self.unpacks
                && let Source::Context(context, _) = from
                && is_archive(context, source)?
            {
                make_directories(root, target)?;
                root.copy_in(directory(target), context.open_file(source)?, &options)?;
                continue;
            }
            root.copy_in(directory(parent), tar, &options)?;
        }
        Ok(())
    }
}

/// Whether ADD unpacks a file: whether it is a tar, compressed or not.
fn is_archive(context: &Dir, path: &str) -> Result<bool> {
    let limits = plywood::Limits::default();
    let decoder = plywood::codec::Decoder::new(context.open_file(path)?, &limits)?;
    let mut reader = plywood::changeset::Reader::new(decoder, &limits).allow_reserved_names();
    Ok(reader.next_entry().is_ok_and(|first| first.is_some()))
}

/// Makes a directory and what is missing above it, by links that stay inside the root.
fn make_directories(root: &Mounted, path: &str) -> Result<()> {
    let mut above = String::new();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        above = format!("{above}/{part}");
        let found = root.resolve(&above, true)?;
        if let (None, Some(name)) = (found.kind, &found.name) {
            found.dir.create_dir(name, 0o755)?;
        }
    }
    Ok(())
}

fn directory(path: &str) -> &str {
    if path.is_empty() { "/" } else { path }
}

/// A file of a tar, like those that this example writes by hand.
pub(crate) fn file(name: &str, size: u64) -> Result<Entry> {
    let metadata = Metadata { mode: 0o644, ..Metadata::default() };
    Ok(Entry::new(LayerPath::parse(name)?, EntryKind::File { size }, metadata))
}

fn chain(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {}", chain(source)))
}

impl Line {
    /// As the library reads it.
    fn text(&self) -> String {
        format!("{} {}", self.keyword, self.rest)
    }
}
