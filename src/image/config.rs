//! [`Config`]: what an image is made of and how it wants to be run.
//!
//! The digest of a config's bytes is the image id, so a config that was not changed is stored as it came;
//! this type keeps no bytes. One that was changed loses nothing: unknown fields are kept, texts stay as they
//! were written. Layers and history are extended together ([`Config::push_layer`]), so that they stay in
//! step.

use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::digest::DiffId;
use crate::limits::Limits;

use super::json::{self, Extra, Fields, FromJson, Place, deserialize_from_json};
use super::{Descriptor, ImageError, Platform, RuntimeConfig, document};

/// An image config, as [the spec](https://github.com/opencontainers/image-spec/blob/main/config.md) has it,
/// docker's additions included.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Config {
    /// When the image was made, as written; [`time::parse`](super::time::parse) reads it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Processor, `amd64` for one. Empty in some old images.
    pub architecture: String,
    /// Operating system, `linux` for one. Empty in some old images.
    pub os: String,
    /// Version of the operating system; used for Windows.
    #[serde(rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// What the operating system must be able to do; used for Windows.
    #[serde(rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// Variant of the processor, `v7` for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// How to run it.
    #[serde(skip_serializing_if = "RuntimeConfig::is_empty")]
    pub config: RuntimeConfig,
    /// The layers.
    pub rootfs: RootFs,
    /// How it came to be, oldest step first. May be absent or incomplete.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
    /// Fields without a meaning here.
    #[serde(flatten)]
    pub extra: Extra,
}

/// The layers of an image by their diff ids.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct RootFs {
    /// Digests of the uncompressed layers, bottom first.
    pub diff_ids: Vec<DiffId>,
    /// Fields without a meaning here.
    pub extra: Extra,
}

/// One step in an image's history.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct History {
    /// When, as written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// Who.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// A note.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether the step changed the config only and made no layer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
    /// Fields without a meaning here.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Something about a config that is odd but harms nobody.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigWarning {
    /// More steps claim a layer than there are layers.
    #[error("the history tells of {steps} layers, the image has {layers}")]
    HistoryTooLong {
        /// Steps that claim a layer.
        steps: usize,
        /// Layers that there are.
        layers: usize,
    },
}

deserialize_from_json!(Config, RootFs, History);

impl FromJson for Config {
    fn from_json(value: Value, place: &Place<'_>) -> Result<Self, ImageError> {
        let mut fields = Fields::of(value, place)?;
        Ok(Self {
            created: fields.optional("created")?,
            author: fields.optional("author")?,
            architecture: fields.or_default("architecture")?,
            os: fields.or_default("os")?,
            os_version: fields.optional("os.version")?,
            os_features: fields.or_default("os.features")?,
            variant: fields.optional("variant")?,
            config: fields.or_default("config")?,
            rootfs: fields.required("rootfs")?,
            history: fields.or_default("history")?,
            extra: fields.rest()?,
        })
    }
}

impl FromJson for RootFs {
    fn from_json(value: Value, place: &Place<'_>) -> Result<Self, ImageError> {
        let mut fields = Fields::of(value, place)?;
        let found: String = fields.or_default("type")?;
        if found != "layers" {
            return Err(ImageError::RootFsType { found });
        }
        // Docker leaves the list out where it is empty.
        Ok(Self { diff_ids: fields.or_default("diff_ids")?, extra: fields.rest()? })
    }
}

impl Serialize for RootFs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Written<'a> {
            r#type: &'static str,
            diff_ids: &'a [DiffId],
            #[serde(flatten)]
            extra: &'a Extra,
        }
        Written { r#type: "layers", diff_ids: &self.diff_ids, extra: &self.extra }.serialize(serializer)
    }
}

impl FromJson for History {
    fn from_json(value: Value, place: &Place<'_>) -> Result<Self, ImageError> {
        let mut fields = Fields::of(value, place)?;
        Ok(Self {
            created: fields.optional("created")?,
            created_by: fields.optional("created_by")?,
            author: fields.optional("author")?,
            comment: fields.optional("comment")?,
            empty_layer: fields.or_default("empty_layer")?,
            extra: fields.rest()?,
        })
    }
}

impl Config {
    /// A config without layers.
    pub fn new(platform: &Platform) -> Self {
        Self {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            os_version: platform.os_version.clone(),
            os_features: platform.os_features.clone(),
            variant: platform.variant.clone(),
            ..Self::default()
        }
    }

    /// Reads a config.
    ///
    /// # Errors
    ///
    /// [`ImageError`], with the place, for everything that is not one, is ambiguous or goes beyond `limits`.
    pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Self, ImageError> {
        let config: Self = json::parse("config", bytes, limits)?;
        document::few("config.rootfs.diff_ids", config.rootfs.diff_ids.len(), limits.layers)?;
        Ok(config)
    }

    /// Reads the config that `descriptor` names.
    ///
    /// # Errors
    ///
    /// As [`Config::parse`]; also if `bytes` have another size or digest than the descriptor says.
    pub fn parse_described(
        descriptor: &Descriptor,
        bytes: &[u8],
        limits: &Limits,
    ) -> Result<Self, ImageError> {
        descriptor.verify(bytes)?;
        Self::parse(bytes, limits)
    }

    /// The bytes to store: compact, in a fixed order. A config that was not changed must be kept as it came
    /// instead.
    pub fn to_json(&self) -> Vec<u8> {
        json::to_bytes(self)
    }

    /// The platform that the image is for, as the config says. What an old image does not say is taken from
    /// the host, as docker does.
    pub fn platform(&self) -> Platform {
        let host = Platform::host();
        let or = |said: &String, host: String| if said.is_empty() { host } else { said.clone() };
        let mut platform = Platform::new(or(&self.os, host.os), or(&self.architecture, host.architecture));
        platform.os_version.clone_from(&self.os_version);
        platform.os_features.clone_from(&self.os_features);
        platform.variant = self.variant.clone().filter(|variant| !variant.is_empty());
        platform
    }

    /// Each step of the history with the layer that it made; `None` where it made none, or where the history
    /// tells of more layers than there are.
    pub fn history_with_layers(&self) -> impl Iterator<Item = (&History, Option<&DiffId>)> {
        let mut layers = self.rootfs.diff_ids.iter();
        self.history.iter().map(move |step| (step, if step.empty_layer { None } else { layers.next() }))
    }

    /// What is odd about it.
    pub fn warnings(&self) -> Vec<ConfigWarning> {
        let (steps, layers) = (self.steps_with_layer(), self.rootfs.diff_ids.len());
        let too_long = (steps > layers).then_some(ConfigWarning::HistoryTooLong { steps, layers });
        too_long.into_iter().collect()
    }

    /// Puts a layer on top, made by `step`.
    ///
    /// The image then has the step's time of creation, if it has one, and its author. Where the history does
    /// not tell of all layers below, steps that say nothing are put in for them, or this step would be taken
    /// for that of another layer.
    pub fn push_layer(&mut self, diff_id: DiffId, step: History) {
        let untold = self.rootfs.diff_ids.len().saturating_sub(self.steps_with_layer());
        self.history.extend(std::iter::repeat_n(History::default(), untold));
        self.rootfs.diff_ids.push(diff_id);
        self.push(History { empty_layer: false, ..step });
    }

    /// Notes a `step` that made no layer. Creation time and author are taken from it as in
    /// [`Config::push_layer`].
    pub fn push_empty_layer(&mut self, step: History) {
        self.push(History { empty_layer: true, ..step });
    }

    fn push(&mut self, step: History) {
        for (ours, new) in [(&mut self.created, &step.created), (&mut self.author, &step.author)] {
            if new.is_some() {
                ours.clone_from(new);
            }
        }
        self.history.push(step);
    }

    fn steps_with_layer(&self) -> usize {
        self.history.iter().filter(|step| !step.empty_layer).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn parse(text: &str) -> Result<Config, ImageError> {
        Config::parse(text.as_bytes(), &Limits::default())
    }

    fn layer(content: &str) -> DiffId {
        DiffId::of_tar(Digest::of(content))
    }

    fn step(created_by: &str) -> History {
        History { created_by: Some(created_by.to_owned()), ..History::default() }
    }

    fn config(layers: &[&str], steps: &[(&str, bool)]) -> Config {
        Config {
            architecture: "amd64".to_owned(),
            os: "linux".to_owned(),
            rootfs: RootFs { diff_ids: layers.iter().map(|name| layer(name)).collect(), extra: Extra::new() },
            history: steps.iter().map(|&(name, empty_layer)| History { empty_layer, ..step(name) }).collect(),
            ..Config::default()
        }
    }

    #[test]
    fn a_config_reads_and_writes_back_with_fields_nobody_knows() {
        let text = format!(
            concat!(
                r#"{{"created":"2024-02-29T12:00:00.5Z","author":"me","architecture":"arm","os":"linux","os.version":"1","#,
                r#""os.features":["a"],"variant":"v7","config":{{"Cmd":["sh"]}},"rootfs":{{"type":"layers","#,
                r#""diff_ids":["{id}"],"later":1}},"history":[{{"created":"2024-02-29T12:00:00Z","created_by":"ADD x","#,
                r#""author":"me","comment":"c","later":[]}},{{"created_by":"CMD","empty_layer":true}}],"#,
                r#""container":"abc","docker_version":"20.10"}}"#
            ),
            id = layer("a")
        );
        let read = parse(&text).unwrap();
        assert_eq!(String::from_utf8(read.to_json()).unwrap(), text);
        assert_eq!(read.platform().to_string(), "linux(1+a)/arm/v7");
    }

    #[test]
    fn an_image_without_layers_may_say_so_in_every_way_there_is() {
        for rootfs in [
            r#"{"type":"layers"}"#,
            r#"{"type":"layers","diff_ids":null}"#,
            r#"{"type":"layers","diff_ids":[]}"#,
        ] {
            let read = parse(&format!(r#"{{"rootfs":{rootfs},"history":null,"config":null}}"#)).unwrap();
            assert_eq!(read, Config::default());
        }
    }

    #[test]
    fn another_root_than_one_of_layers_is_refused() {
        for (rootfs, found) in [(r#"{"type":"layers+base"}"#, "layers+base"), ("{}", "")] {
            let error = parse(&format!(r#"{{"rootfs":{rootfs}}}"#)).unwrap_err();
            assert_eq!(error, ImageError::RootFsType { found: found.to_owned() });
        }
        assert_eq!(parse("{}").unwrap_err().to_string(), "config.rootfs is missing");
    }

    #[test]
    fn more_layers_than_the_limit_are_refused() {
        let limits = Limits { layers: 1, ..Limits::default() };
        let bytes = config(&["a", "b"], &[]).to_json();
        assert!(matches!(
            Config::parse(&bytes, &limits),
            Err(ImageError::TooMany { found: 2, limit: 1, .. })
        ));
    }

    #[test]
    fn a_manifest_with_another_number_of_layers_does_not_fit() {
        let manifest = crate::image::Manifest::new(
            Descriptor::of(crate::image::MediaType::OCI_CONFIG, b""),
            vec![Descriptor::of(crate::image::MediaType::OCI_LAYER, b"")],
        );
        assert_eq!(manifest.check_config(&config(&["a"], &[])), Ok(()));
        let error = manifest.check_config(&config(&["a", "b"], &[])).unwrap_err();
        assert_eq!(error.to_string(), "the manifest lists 1 layers and the config 2 diff ids");
    }

    #[test]
    fn history_is_told_with_the_layer_of_each_step() {
        let told = |config: &Config| -> Vec<_> {
            config.history_with_layers().map(|(_, layer)| layer.copied()).collect()
        };
        let usual = config(&["a", "b"], &[("x", false), ("ENV", true), ("y", false), ("CMD", true)]);
        assert_eq!(told(&usual), [Some(layer("a")), None, Some(layer("b")), None]);
        assert_eq!(usual.warnings(), []);
        let short = config(&["a", "b"], &[("x", false)]);
        assert_eq!((told(&short), short.warnings()), (vec![Some(layer("a"))], vec![]));
        let long = config(&["a"], &[("x", false), ("y", false)]);
        assert_eq!(told(&long), [Some(layer("a")), None]);
        assert_eq!(long.warnings(), [ConfigWarning::HistoryTooLong { steps: 2, layers: 1 }]);
    }

    #[test]
    fn a_new_layer_is_told_by_its_own_step_whatever_the_history_lacked() {
        for steps in [&[][..], &[("x", false)], &[("x", false), ("y", false)], &[("ENV", true)]] {
            let mut config = config(&["a", "b"], steps);
            let before = config.history.clone();
            let created = Some("2024-01-01T00:00:00Z".to_owned());
            config.push_layer(
                layer("c"),
                History { created: created.clone(), empty_layer: true, ..step("new") },
            );
            assert_eq!(config.history[..before.len()], before);
            let (last, diff_id) = config.history_with_layers().last().unwrap();
            assert_eq!((last.created_by.as_deref(), diff_id), (Some("new"), Some(&layer("c"))));
            assert_eq!(config.created, created);
            assert_eq!(config.warnings(), []);
        }
    }

    #[test]
    fn a_step_without_a_layer_leaves_the_layers_alone() {
        let mut config = config(&["a"], &[("x", false)]);
        config.author = Some("first".to_owned());
        config.push_empty_layer(step("CMD"));
        assert_eq!(config.author.as_deref(), Some("first"));
        config.push_empty_layer(History { author: Some("second".to_owned()), ..step("CMD") });
        assert_eq!(config.author.as_deref(), Some("second"));
        assert_eq!(config.rootfs.diff_ids, [layer("a")]);
        assert_eq!(config.history_with_layers().filter(|(_, layer)| layer.is_some()).count(), 1);
    }

    #[test]
    fn what_an_old_image_does_not_say_is_the_host() {
        assert_eq!(Config::default().platform(), Platform::host());
        assert_eq!(Config::new(&Platform::new("linux", "s390x")).platform(), Platform::new("linux", "s390x"));
    }
}
