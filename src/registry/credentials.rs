//! [`Credentials`] and the files that `docker login` and `podman login` keep them in.
//!
//! The files are read as [containers-auth.json(5)](https://github.com/containers/image/blob/main/docs/containers-auth.json.5.md)
//! and docker's `config.json` have it: `auths` by registry or by repository, the longest key first; a helper program for one registry
//! (`credHelpers`); and one for all (`credsStore`), asked last, because `auths` then has empty entries. No secret is in
//! an error or in what `Debug` prints.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::Value;

use super::{RegistryError, helper};
use crate::image::Reference;

/// What a registry knows somebody by.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credentials {
    /// A name and a password, or what a registry takes for one.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// A token for which the registry's authorization server gives others.
    IdentityToken(String),
    /// A token that is shown to the registry as it is.
    RegistryToken(String),
}

impl Credentials {
    /// A name and a password.
    pub fn password(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self::Password { user: user.into(), password: password.into() }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { user, .. } => {
                f.debug_struct("Password").field("user", user).finish_non_exhaustive()
            }
            Self::IdentityToken(_) => f.write_str("IdentityToken(..)"),
            Self::RegistryToken(_) => f.write_str("RegistryToken(..)"),
        }
    }
}

/// The key of Docker Hub in these files.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// A file with credentials may have so many bytes.
const MOST_BYTES: u64 = 4 << 20;

/// A file with credentials, as far as it matters here. A member that is null is absent, and an entry is read only when it is
/// needed: one of another registry may have any form.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct AuthFile {
    auths: Option<BTreeMap<String, Value>>,
    cred_helpers: Option<BTreeMap<String, Value>>,
    creds_store: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

/// What the file has for the repository of `name`. Without the file there is nothing.
///
/// # Errors
///
/// [`RegistryError::Credentials`] if the file cannot be read, [`RegistryError::Helper`].
pub(super) fn find(
    path: &Path,
    name: &Reference,
    run_helpers: bool,
) -> Result<Option<Credentials>, RegistryError> {
    let refused = |reason: String| RegistryError::Credentials { path: path.to_owned(), reason };
    let mut content = Vec::new();
    match fs::File::open(path).and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut content)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refused(error.to_string())),
    }
    if content.len() as u64 > MOST_BYTES {
        return Err(refused(format!("it has more than {MOST_BYTES} bytes")));
    }
    // `touch` makes such a file, and so do tools that were interrupted.
    if content.trim_ascii().is_empty() {
        return Ok(None);
    }
    // The parser's own message may quote what is in the file.
    let place = |error: serde_json::Error| refused(format!("it is damaged in line {}", error.line()));
    let file: AuthFile = serde_json::from_slice(&content).map_err(place)?;
    let ask = |program: &str| match run_helpers {
        true => helper::get(program, server(name.domain())),
        false => Ok(None),
    };
    let helpers = file.cred_helpers.iter();
    let helper =
        spellings(name.domain()).find_map(|key| helpers.clone().find_map(|all| all.get_key_value(key)));
    let found = match helper {
        None | Some((_, Value::Null)) => None,
        Some((_, Value::String(program))) if program.is_empty() => None,
        Some((_, Value::String(program))) => ask(program)?,
        Some((key, _)) => return Err(refused(format!("the helper of {key:?} is no name of a program"))),
    };
    if found.is_some() {
        return Ok(found);
    }
    if let Some((key, entry)) = file.entry(name) {
        let refused = |reason: &str| refused(format!("the entry of {key:?} {reason}"));
        // The parser's own message may quote it.
        let entry = Entry::deserialize(entry).map_err(|_| refused("is not what such an entry is"))?;
        if let Some(found) = entry.credentials().map_err(refused)? {
            return Ok(Some(found));
        }
    }
    file.creds_store.as_deref().filter(|program| !program.is_empty()).map_or(Ok(None), ask)
}

impl AuthFile {
    /// The entry that is meant for `name`: by repository, by what it is in, by registry; at last by an URL, as docker once
    /// wrote it.
    fn entry(&self, name: &Reference) -> Option<(&str, &Value)> {
        let auths = self.auths.as_ref()?;
        let found = |key: &str| {
            let (key, entry) = auths.get_key_value(key)?;
            (!entry.is_null()).then_some((key.as_str(), entry))
        };
        let mut path = name.path();
        loop {
            if let Some(exact) = spellings(name.domain()).find_map(|host| found(&format!("{host}/{path}"))) {
                return Some(exact);
            }
            match path.rsplit_once('/') {
                Some((parent, _)) => path = parent,
                None => break,
            }
        }
        let by_host = || spellings(name.domain()).find_map(found);
        let by_url = || {
            let hosts = || spellings(name.domain());
            let key =
                auths.keys().find(|key| host_of_url(key).is_some_and(|host| hosts().any(|h| h == host)));
            found(key?)
        };
        by_host().or_else(by_url)
    }
}

/// What a registry is called in these files.
fn spellings(domain: &str) -> impl Iterator<Item = &str> {
    let hub: &[&str] =
        if domain == "docker.io" { &["index.docker.io", DOCKER_HUB, "registry-1.docker.io"] } else { &[] };
    std::iter::once(domain).chain(hub.iter().copied())
}

/// What a helper is asked for.
fn server(domain: &str) -> &str {
    if domain == "docker.io" { DOCKER_HUB } else { domain }
}

/// The host of a key that is an URL.
fn host_of_url(key: &str) -> Option<&str> {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"))?;
    Some(rest.split('/').next().unwrap_or(rest))
}

impl Entry {
    /// What it holds; nothing where a helper holds it. The error says what is wrong with it.
    fn credentials(&self) -> Result<Option<Credentials>, &'static str> {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        if !text(&self.registrytoken).is_empty() {
            return Ok(Some(Credentials::RegistryToken(text(&self.registrytoken))));
        }
        if !text(&self.identitytoken).is_empty() {
            return Ok(Some(Credentials::IdentityToken(text(&self.identitytoken))));
        }
        let auth = text(&self.auth);
        if auth.is_empty() {
            let (user, password) = (text(&self.username), text(&self.password));
            return Ok((!user.is_empty()).then_some(Credentials::Password { user, password }));
        }
        let decoded = BASE64.decode(auth.trim()).map_err(|_| "is not in base64")?;
        let text = String::from_utf8(decoded).map_err(|_| "is not a text in base64")?;
        let (user, password) = text.split_once(':').ok_or("has no colon between name and password")?;
        // Old versions of docker padded it.
        let (user, password) = (user.to_owned(), password.trim_matches('\0').to_owned());
        Ok(Some(Credentials::Password { user, password }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find_in(content: &str, name: &str) -> Result<Option<Credentials>, RegistryError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        fs::write(&path, content).unwrap();
        find(&path, &Reference::parse_familiar(name).unwrap(), true)
    }

    fn user(content: &str, name: &str) -> Option<String> {
        match find_in(content, name).unwrap()? {
            Credentials::Password { user, password } => {
                assert_eq!(password, "secret");
                Some(user)
            }
            other => Some(format!("{other:?}")),
        }
    }

    fn entry(key: &str, user: &str) -> String {
        format!("{key:?}: {{\"auth\": {:?}}}", BASE64.encode(format!("{user}:secret")))
    }

    #[test]
    fn the_longest_key_that_fits_counts() {
        let keys =
            [("quay.io", "all"), ("quay.io/me", "mine"), ("quay.io/me/web", "web"), ("quay.io/m", "no")];
        let entries: Vec<String> = keys.iter().map(|(key, user)| entry(key, user)).collect();
        let file = format!("{{\"auths\": {{{}}}}}", entries.join(","));
        for (name, expected) in [
            ("quay.io/me/web:1", Some("web")),
            ("quay.io/me/web/deep", Some("web")),
            ("quay.io/me/other", Some("mine")),
            ("quay.io/you/web", Some("all")),
            ("quay.io:5000/me/web", None),
            ("debian", None),
        ] {
            assert_eq!(user(&file, name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn docker_hub_has_many_names_and_registries_may_be_urls() {
        for key in ["docker.io", "index.docker.io", "https://index.docker.io/v1/", "docker.io/library"] {
            let file = format!("{{\"auths\": {{{}}}}}", entry(key, "hub"));
            assert_eq!(user(&file, "debian").as_deref(), Some("hub"), "{key}");
        }
        for key in ["https://quay.io/v2/", "http://quay.io", "https://quay.io/"] {
            let file = format!("{{\"auths\": {{{}}}}}", entry(key, "url"));
            assert_eq!(user(&file, "quay.io/x").as_deref(), Some("url"), "{key}");
        }
    }

    #[test]
    fn tokens_are_told_from_passwords_and_nothing_from_something() {
        let with = |entry: &str| user(&format!("{{\"auths\": {{\"q.io\": {entry}}}}}"), "q.io/x");
        assert_eq!(with(r#"{"identitytoken":"secret"}"#).as_deref(), Some("IdentityToken(..)"));
        assert_eq!(with(r#"{"registrytoken":"secret"}"#).as_deref(), Some("RegistryToken(..)"));
        assert_eq!(with(r#"{"username":"u","password":"secret"}"#).as_deref(), Some("u"));
        assert_eq!(with("{}"), None);
        assert_eq!(with("null"), None);
        assert_eq!(user("{}", "q.io/x"), None);
    }

    #[test]
    fn no_secret_is_in_an_error_or_in_what_debug_prints() {
        for file in [
            r#"{"auths": {"q.io": {"auth": "c2VjcmV0"}}}"#,
            r#"{"auths": {"q.io": {"auth": "secret!"}}}"#,
            r#"{"auths": {"q.io": {"auth": ["secret"]}}}"#,
            r#"{"auths": {"q.io": "secret"}}"#,
            r#"{"auths": {"secret"#,
        ] {
            let error = find_in(file, "q.io/x").unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(!text.contains("secret") && !text.contains("c2VjcmV0"), "{text}");
        }
        let (user, password) = ("me".to_owned(), "secret".to_owned());
        assert!(!format!("{:?}", Credentials::Password { user, password }).contains("secret"));
    }

    #[test]
    fn null_is_absent_and_what_is_odd_about_another_registry_is_no_fault() {
        let mine = entry("q.io", "me");
        for file in [
            format!(
                r#"{{"auths": {{{mine}, "other.io": null, "odd.io": 7}}, "credHelpers": null, "credsStore": null}}"#
            ),
            format!(
                r#"{{"auths": {{{mine}, "odd.io": {{"auth": ["x"]}}}}, "credHelpers": {{"odd.io": [], "q.io": null}}}}"#
            ),
            format!(r#"{{"auths": {{{mine}, "odd.io": "x"}}, "HttpHeaders": null, "credsStore": ""}}"#),
        ] {
            assert_eq!(user(&file, "q.io/x").as_deref(), Some("me"), "{file}");
        }
        for nothing in ["", " \n", "{}", r#"{"auths": null}"#, r#"{"auths": {"q.io": {"auth": null}}}"#] {
            assert_eq!(user(nothing, "q.io/x"), None, "{nothing}");
        }
        let error = find_in(r#"{"auths": {"q.io": 7}}"#, "q.io/x").unwrap_err().to_string();
        assert!(error.contains("q.io"), "{error}");
    }

    #[test]
    fn a_file_that_is_not_there_has_nothing() {
        let name = Reference::parse_familiar("x").unwrap();
        assert_eq!(find(Path::new("/nowhere/auth.json"), &name, true).unwrap(), None);
    }
}
