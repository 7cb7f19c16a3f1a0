//! The tool with a store of its own, and an image to try it on.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::common::image::{ImageSpec, Layout, image};
use crate::common::privilege::{self};
use crate::common::tar::tar;
use serde_json::Value;

/// The tool with a store of its own.
pub struct Tool {
    pub home: tempfile::TempDir,
    pub driver: &'static str,
}

impl Tool {
    pub fn new() -> Self {
        Self::with("auto")
    }

    pub fn with(driver: &'static str) -> Self {
        Self { home: crate::common::scratch(), driver }
    }

    pub fn root(&self) -> PathBuf {
        self.home.path().join("store")
    }

    /// A file beside the store.
    pub fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    pub fn path(&self, name: &str) -> String {
        self.home.path().join(name).to_str().unwrap().to_owned()
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = privilege::plywood().expect("the feature is on, so it was built");
        command.arg("--root").arg(self.root()).args(["--driver", self.driver]).args(words);
        for variable in ["SOURCE_DATE_EPOCH", "PLYWOOD_ROOT", "PLYWOOD_DRIVER", "PLYWOOD_ADDITIONAL_STORES"] {
            command.env_remove(variable);
        }
        command.stdin(Stdio::null());
        command
    }

    pub fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// What a command prints that succeeds and has nothing to complain of.
    #[track_caller]
    pub fn text(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{words:?}: {}\n{errors}", output.status);
        assert_eq!(errors, "", "{words:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same without the end of its only line.
    #[track_caller]
    pub fn word(&self, words: &[&str]) -> String {
        let text = self.text(words);
        let word = text.strip_suffix('\n').unwrap();
        assert!(!word.contains('\n'), "{words:?}: {text}");
        word.to_owned()
    }

    /// The one JSON value of a command that succeeds.
    #[track_caller]
    pub fn json(&self, words: &[&str]) -> Value {
        let output = self.run(&[words, &["--json"]].concat());
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{words:?}: {}\n{errors}", output.status);
        assert_eq!(errors, "", "{words:?}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// The one line of a command that fails, and the object it is with `--json`.
    #[track_caller]
    pub fn error(&self, words: &[&str]) -> (String, Value) {
        let output = self.run(words);
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{words:?}: {line}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "", "{words:?}");
        assert_eq!(line.lines().count(), 1, "{words:?}: {line}");
        let message = line.strip_prefix("plywood: ").unwrap_or_else(|| panic!("{words:?}: {line}"));
        let output = self.run(&[words, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "", "{words:?}");
        let object: Value = serde_json::from_slice(&output.stderr).unwrap();
        assert!(message.starts_with(object["error"].as_str().unwrap()), "{message} is not {object}");
        assert!(object["kind"].is_string(), "{object}");
        (message.trim_end().to_owned(), object)
    }

    /// What is said about a mistake in the command line, as text and as JSON.
    #[track_caller]
    pub fn usage(&self, words: &[&str]) -> (String, Value) {
        let output = self.run(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "", "{words:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        let output = self.run(&[words, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "", "{words:?}");
        let object: Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(object["kind"], "usage");
        (text, object)
    }

    /// Loads [`base`], and gives its id.
    pub fn load_base(&self) -> String {
        let archive = self.file("base.tar", Layout::of(&base()).docker_archive());
        self.word(&["load", "-q", "-i", &archive])
    }
}

/// A small image named `base:1`, of two layers.
pub fn base() -> ImageSpec {
    image()
        .layer(tar().dir("etc").file("etc/hosts", "old").file("etc/gone", "x").dir("srv").finish())
        .layer(tar().dir("etc").file("etc/issue", "two").finish())
        .name("docker.io/library/base:1")
}

/// The store of the present user and what the copy driver gives everybody.
pub const DRIVERS: &[&str] = &["auto", "copy"];
