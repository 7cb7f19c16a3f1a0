//! What can be done to a store, by the library in this process or by the tool in another.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use plywood::image::Reference;
use plywood::store::{
    ArchiveFormat, CheckOptions, CommitOptions, ContainerState, CreateOptions, GcOptions, LoadOptions,
    RemoveContainer, RemoveImage, SaveOptions, Store, StoreError,
};
use serde_json::Value;

use crate::common::privilege;
use crate::shop::Files;

/// Why something was not done.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub kind: String,
    pub text: String,
}

pub type Done<T> = Result<T, Refusal>;

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        let kind = error.kind().to_owned();
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        Self { kind, text }
    }
}

/// Who works.
#[derive(Clone)]
pub enum Hands {
    /// This process.
    Library(Store),
    /// A process for each thing that is done, in a mount namespace of its own if so wished.
    Tool { store: PathBuf, apart: bool },
}

impl Hands {
    fn words(&self, words: &[&str]) -> Command {
        let Self::Tool { store, apart } = self else { unreachable!("the library has no words") };
        let tool = privilege::plywood().expect("the feature is on, so it was built");
        let mut command = match apart {
            true => Command::new("unshare"),
            false => Command::new(tool.get_program()),
        };
        if *apart {
            command.args(["--mount", "--propagation", "private", "--"]).arg(tool.get_program());
        }
        command.arg("--root").arg(store).args(words);
        for variable in ["SOURCE_DATE_EPOCH", "PLYWOOD_ROOT", "PLYWOOD_DRIVER"] {
            command.env_remove(variable);
        }
        command.stdin(Stdio::null());
        command
    }

    /// Runs the tool and gives what it prints.
    fn tool(&self, words: &[&str]) -> Done<String> {
        let output = self.words(words).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            return Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned());
        }
        let last = errors.lines().last().unwrap_or_default();
        let kind = serde_json::from_str::<Value>(last)
            .ok()
            .and_then(|error| Some(error["kind"].as_str()?.to_owned()));
        Err(Refusal {
            kind: kind.unwrap_or_default(),
            text: format!("{words:?}: {}\n{errors}", output.status),
        })
    }

    fn json(&self, words: &[&str]) -> Done<Value> {
        let text = self.tool(&[words, &["--json"]].concat())?;
        Ok(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words:?}: {error}: {text}")))
    }

    /// Loads an archive of one image.
    pub fn load(&self, archive: &Path) -> Done<()> {
        match self {
            Self::Library(store) => {
                store.load(fs::File::open(archive).unwrap(), &LoadOptions::default())?;
            }
            Self::Tool { .. } => drop(self.json(&["load", "-i", archive.to_str().unwrap()])?),
        }
        Ok(())
    }

    /// The id of the image of this name.
    pub fn find(&self, name: &str) -> Done<String> {
        match self {
            Self::Library(store) => Ok(store.image(name)?.id().to_string()),
            Self::Tool { .. } => Ok(self.json(&["inspect", name])?[0]["Id"].as_str().unwrap().to_owned()),
        }
    }

    pub fn tag(&self, image: &str, name: &str) -> Done<()> {
        match self {
            Self::Library(store) => drop(store.tag(&store.image(image)?, &reference(name))?),
            Self::Tool { .. } => drop(self.tool(&["tag", image, name, "--json"])?),
        }
        Ok(())
    }

    pub fn untag(&self, name: &str) -> Done<()> {
        match self {
            Self::Library(store) => drop(store.untag(&reference(name))?),
            Self::Tool { .. } => drop(self.tool(&["untag", name, "--json"])?),
        }
        Ok(())
    }

    /// Removes an image, by a name or an id.
    pub fn remove(&self, image: &str) -> Done<()> {
        match self {
            Self::Library(store) => drop(store.remove_image(image, RemoveImage::Refuse)?),
            Self::Tool { .. } => drop(self.tool(&["rmi", image, "--json"])?),
        }
        Ok(())
    }

    pub fn create(&self, image: &str, name: &str) -> Done<()> {
        match self {
            Self::Library(store) => {
                store.create_container(&store.image(image)?, &CreateOptions::named(name))?;
            }
            Self::Tool { .. } => drop(self.tool(&["create", "--name", name, image, "--json"])?),
        }
        Ok(())
    }

    /// Does what a copy of a mount can be in the way of, in the mount namespace of a process that began while it was there.
    fn mounting<T>(mut mount: impl FnMut() -> Done<T>) -> Done<T> {
        loop {
            match mount() {
                Err(Refusal { kind, .. }) if kind == "in-use" => std::thread::sleep(Duration::from_millis(5)),
                done => return done,
            }
        }
    }

    /// Mounts the root of a container, does something with it, and unmounts.
    fn visit<T>(&self, container: &str, act: impl FnOnce(&Path) -> T) -> Done<T> {
        match self {
            Self::Library(store) => {
                let mounted = Self::mounting(|| Ok(store.container(container)?.mount()?))?;
                let done = act(mounted.path());
                mounted.unmount().map_err(|error| Refusal::from(*error.source))?;
                Ok(done)
            }
            // What is mounted apart is gone with who mounted it.
            Self::Tool { store, .. } => {
                let tool = Self::Tool { store: store.clone(), apart: false };
                let place = Self::mounting(|| tool.json(&["mount", container]))?;
                let done = act(Path::new(place["path"].as_str().unwrap_or_else(|| panic!("{place}"))));
                tool.tool(&["umount", container, "--json"])?;
                Ok(done)
            }
        }
    }

    /// Writes a file in the root of a container.
    pub fn edit(&self, container: &str, path: &str, content: &str) -> Done<()> {
        self.visit(container, |root| fs::write(root.join(path), content).unwrap())
    }

    /// What the root of a container has at these paths.
    pub fn read(&self, container: &str, paths: &Files) -> Done<Files> {
        let read = |root: &Path, path: &String| fs::read_to_string(root.join(path)).unwrap_or_default();
        self.visit(container, |root| paths.keys().map(|path| (path.clone(), read(root, path))).collect())
    }

    /// The id of the new image.
    pub fn commit(&self, container: &str, name: &str) -> Done<String> {
        match self {
            Self::Library(store) => {
                let options = CommitOptions::named(reference(name));
                Ok(store.container(container)?.commit(&options)?.id().to_string())
            }
            Self::Tool { .. } => {
                Ok(self.json(&["commit", container, name])?["id"].as_str().unwrap().to_owned())
            }
        }
    }

    pub fn delete(&self, container: &str) -> Done<()> {
        match self {
            Self::Library(store) => store.container(container)?.remove(RemoveContainer::Refuse)?,
            Self::Tool { .. } => drop(self.tool(&["rm", container, "--json"])?),
        }
        Ok(())
    }

    pub fn rename(&self, container: &str, name: &str) -> Done<()> {
        match self {
            Self::Library(store) => store.container(container)?.rename(name)?,
            Self::Tool { .. } => drop(self.tool(&["rename", container, name, "--json"])?),
        }
        Ok(())
    }

    pub fn save(&self, image: &str) -> Done<()> {
        match self {
            Self::Library(store) => {
                let images = [store.image(image)?];
                store.save(&images, ArchiveFormat::OciArchive, std::io::sink(), &SaveOptions::default())?;
            }
            Self::Tool { .. } => drop(self.tool(&["save", "-o", "/dev/null", image, "--json"])?),
        }
        Ok(())
    }

    pub fn collect(&self) -> Done<()> {
        match self {
            Self::Library(store) => drop(store.gc(&GcOptions::default())?),
            Self::Tool { .. } => drop(self.tool(&["gc", "--json"])?),
        }
        Ok(())
    }

    /// What is wrong in the store.
    pub fn check(&self, deep: bool) -> Done<String> {
        match self {
            Self::Library(store) => {
                let mut options = CheckOptions::default();
                options.deep = deep;
                let damages = store.check(&options)?.damages;
                Ok(damages.iter().map(|damage| format!("{damage}\n")).collect())
            }
            Self::Tool { .. } => match self.tool(if deep { &["check", "--deep"] } else { &["check"] }) {
                Ok(_) => Ok(String::new()),
                Err(refusal) => Ok(refusal.text),
            },
        }
    }

    /// The id of every name.
    pub fn names(&self) -> Done<BTreeMap<String, String>> {
        let mut names = BTreeMap::new();
        match self {
            Self::Library(store) => {
                for image in &store.images()? {
                    names.extend(image.names().iter().map(|name| (name.familiar(), image.id().to_string())));
                }
            }
            Self::Tool { .. } => {
                for image in self.json(&["images"])?.as_array().unwrap() {
                    for name in image["names"].as_array().unwrap() {
                        let id = image["id"].as_str().unwrap().to_owned();
                        names.insert(name.as_str().unwrap().to_owned(), id);
                    }
                }
            }
        }
        Ok(names)
    }

    /// The names of all containers.
    pub fn containers(&self) -> Done<BTreeSet<String>> {
        match self {
            Self::Library(store) => {
                Ok(store.containers()?.iter().map(|container| container.name().to_owned()).collect())
            }
            Self::Tool { .. } => {
                let listed = self.json(&["ps"])?;
                let name = |container: &Value| container["name"].as_str().unwrap().to_owned();
                Ok(listed.as_array().unwrap().iter().map(name).collect())
            }
        }
    }

    /// Removes all containers and images, and collects.
    pub fn clear(&self) {
        let Self::Library(store) = self else { unreachable!("one store is cleared by one") };
        for container in store.containers().unwrap() {
            assert_eq!(container.state().unwrap(), ContainerState::Created, "{}", container.name());
            container.remove(RemoveContainer::Refuse).unwrap();
        }
        for image in store.images().unwrap() {
            store.remove_image(&image.digest().to_string(), RemoveImage::Force).unwrap();
        }
        store.gc(&GcOptions::default()).unwrap();
    }
}

pub fn reference(name: &str) -> Reference {
    Reference::from_str(&format!("docker.io/library/{name}")).unwrap()
}
