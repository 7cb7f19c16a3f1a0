//! [`RuntimeConfig`]: how an image wants to be run, the `config` inside the config.
//!
//! An empty text or list is the same as an absent one, for that is how docker writes and reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::ImageError;
use super::json::{Extra, Fields, FromJson, Place, deserialize_from_json, wrong_type};

/// Defaults for a container of the image.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct RuntimeConfig {
    /// User and group of the process, `user[:group]` by name or number.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Ports that it listens on, as `80/tcp`.
    #[serde(skip_serializing_if = "BTreeSet::is_empty", serialize_with = "as_keys")]
    pub exposed_ports: BTreeSet<String>,
    /// Environment, as `NAME=value`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// The command's first words, which stay when a user gives a command.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// The command, or its arguments if there is an entrypoint.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// Directories whose content is not the image's business.
    #[serde(skip_serializing_if = "BTreeSet::is_empty", serialize_with = "as_keys")]
    pub volumes: BTreeSet<String>,
    /// Directory that the process starts in.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Notes by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Signal that asks the process to end, by name or number.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Whether the command is one line that needs no quoting; used for Windows.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub args_escaped: bool,
    /// How to find out whether the container is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Build instructions for images that are made from this one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// The shell that a command in shell form is given to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shell: Vec<String>,
    /// Fields without a meaning here.
    #[serde(flatten)]
    pub extra: Extra,
}

/// How to find out whether a container is well. A duration or a number that is absent is for the engine to
/// choose.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]`, `["CMD-SHELL", "…"]`, or nothing to inherit it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Time between two checks.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_nanoseconds")]
    pub interval: Option<Duration>,
    /// Time after which a check has failed.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_nanoseconds")]
    pub timeout: Option<Duration>,
    /// Time in which a failure does not count yet.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_nanoseconds")]
    pub start_period: Option<Duration>,
    /// Time between two checks in the start period.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_nanoseconds")]
    pub start_interval: Option<Duration>,
    /// Failures in a row that make it unwell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// Fields without a meaning here.
    #[serde(flatten)]
    pub extra: Extra,
}

deserialize_from_json!(RuntimeConfig, Healthcheck);

/// A set, as Go has it: an object whose values say nothing.
fn as_keys<S: Serializer>(keys: &BTreeSet<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(keys.iter().map(|key| (key, Map::new())))
}

fn as_nanoseconds<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    // 292 years; what was read is shorter, and nobody means more.
    let nanoseconds = |duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
    duration.map(nanoseconds).serialize(serializer)
}

impl FromJson for RuntimeConfig {
    fn from_json(value: Value, place: &Place<'_>) -> Result<Self, ImageError> {
        let mut fields = Fields::of(value, place)?;
        let Keys(exposed_ports) = fields.or_default("ExposedPorts")?;
        let Keys(volumes) = fields.or_default("Volumes")?;
        let [Words(entrypoint), Words(cmd), Words(shell)] =
            [fields.or_default("Entrypoint")?, fields.or_default("Cmd")?, fields.or_default("Shell")?];
        Ok(Self {
            user: fields.or_default("User")?,
            exposed_ports,
            env: fields.or_default("Env")?,
            entrypoint,
            cmd,
            volumes,
            working_dir: fields.or_default("WorkingDir")?,
            labels: fields.or_default("Labels")?,
            stop_signal: fields.or_default("StopSignal")?,
            args_escaped: fields.or_default("ArgsEscaped")?,
            healthcheck: fields.optional("Healthcheck")?,
            on_build: fields.or_default("OnBuild")?,
            shell,
            extra: fields.rest()?,
        })
    }
}

impl FromJson for Healthcheck {
    fn from_json(value: Value, place: &Place<'_>) -> Result<Self, ImageError> {
        let mut fields = Fields::of(value, place)?;
        let mut duration = |key| {
            let read = fields.optional::<Nanoseconds>(key)?;
            Ok(read.map(|Nanoseconds(duration)| duration).filter(|duration| !duration.is_zero()))
        };
        Ok(Self {
            interval: duration("Interval")?,
            timeout: duration("Timeout")?,
            start_period: duration("StartPeriod")?,
            start_interval: duration("StartInterval")?,
            test: fields.or_default("Test")?,
            retries: fields.optional::<Retries>("Retries")?.map(|Retries(n)| n).filter(|&n| n != 0),
            extra: fields.rest()?,
        })
    }
}

/// The keys of an object whose values say nothing.
#[derive(Default)]
struct Keys(BTreeSet<String>);

impl FromJson for Keys {
    fn from_json(value: Value, place: &Place<'_>) -> Result<Self, ImageError> {
        let map: BTreeMap<String, Value> = FromJson::from_json(value, place)?;
        for (key, value) in &map {
            if !value.is_object() && !value.is_null() {
                return Err(wrong_type(&place.key(key), "an empty object", value));
            }
        }
        Ok(Self(map.into_keys().collect()))
    }
}

/// A command. In the first years of docker one word could stand without its list.
#[derive(Default)]
struct Words(Vec<String>);

impl FromJson for Words {
    fn from_json(value: Value, place: &Place<'_>) -> Result<Self, ImageError> {
        match value {
            Value::String(word) => Ok(Self(vec![word])),
            list => FromJson::from_json(list, place).map(Self),
        }
    }
}

struct Nanoseconds(Duration);

impl FromJson for Nanoseconds {
    fn from_json(value: Value, place: &Place<'_>) -> Result<Self, ImageError> {
        let read = i64::from_json(value, place)?;
        let negative = |_| wrong_type(place, "nanoseconds, none below zero", &read.into());
        u64::try_from(read).map(Duration::from_nanos).map(Self).map_err(negative)
    }
}

struct Retries(u32);

impl FromJson for Retries {
    fn from_json(value: Value, place: &Place<'_>) -> Result<Self, ImageError> {
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        number.map(Self).ok_or_else(|| wrong_type(place, "a number of 32 bits, not below zero", &value))
    }
}

impl RuntimeConfig {
    /// Whether it says nothing at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The value of an environment variable; of several, the last counts.
    pub fn env_value(&self, name: &str) -> Option<&str> {
        self.env.iter().rev().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
    }

    /// Sets an environment variable: in its place if it is there, else at the end.
    pub fn set_env(&mut self, name: &str, value: &str) {
        let new = format!("{name}={value}");
        let named = |entry: &String| entry.split('=').next() == Some(name);
        match self.env.iter().position(named) {
            None => self.env.push(new),
            Some(first) => {
                self.env[first] = new;
                let mut index = 0;
                self.env.retain(|entry| {
                    index += 1;
                    index <= first + 1 || !named(entry)
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> RuntimeConfig {
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn every_field_reads_and_writes_back() {
        let text = concat!(
            r#"{"User":"1000:10","ExposedPorts":{"53/udp":{},"80/tcp":{}},"Env":["B=1","A=2"],"Entrypoint":["/e"],"#,
            r#""Cmd":["-c","x"],"Volumes":{"/v":{}},"WorkingDir":"/w","Labels":{"a":"1","b":""},"StopSignal":"SIGTERM","#,
            r#""ArgsEscaped":true,"Healthcheck":{"Test":["CMD-SHELL","true"],"Interval":30000000000,"Timeout":1,"#,
            r#""StartPeriod":2,"StartInterval":3,"Retries":4},"OnBuild":["RUN x"],"Shell":["/bin/bash","-c"],"#,
            r#""AttachStdin":false,"Hostname":"h"}"#
        );
        let config = read(text);
        assert_eq!(serde_json::to_string(&config).unwrap(), text);
        assert_eq!(config.healthcheck.unwrap().interval, Some(Duration::from_secs(30)));
    }

    #[test]
    fn null_and_empty_are_the_same_as_absent() {
        let nulls = concat!(
            r#"{"User":"","ExposedPorts":null,"Env":null,"Entrypoint":null,"Cmd":[],"Volumes":null,"WorkingDir":"","#,
            r#""Labels":null,"StopSignal":null,"ArgsEscaped":false,"Healthcheck":null,"OnBuild":null,"Shell":null}"#
        );
        assert!(read(nulls).is_empty());
        assert_eq!(
            read(r#"{"Healthcheck":{"Interval":0,"Retries":0}}"#).healthcheck,
            Some(Healthcheck::default())
        );
    }

    #[test]
    fn a_command_of_one_word_may_stand_without_its_list() {
        assert_eq!(read(r#"{"Cmd":"top","Entrypoint":"/init"}"#).cmd, ["top"]);
    }

    #[test]
    fn values_that_mean_nothing_are_refused() {
        for text in [
            r#"{"Env":"A=1"}"#,
            r#"{"Env":[1]}"#,
            r#"{"ExposedPorts":["80"]}"#,
            r#"{"ExposedPorts":{"80":"tcp"}}"#,
            r#"{"Labels":{"a":1}}"#,
            r#"{"Labels":{"a":null}}"#,
            r#"{"Healthcheck":{"Interval":-1}}"#,
            r#"{"Healthcheck":{"Retries":-1}}"#,
            r#"{"env":["A=1"]}"#,
        ] {
            assert!(serde_json::from_str::<RuntimeConfig>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_variable_is_set_in_its_place_and_once() {
        let mut config = read(r#"{"Env":["A=1","B=2","A=3","AB=4"]}"#);
        assert_eq!(config.env_value("A"), Some("3"));
        assert_eq!(config.env_value("C"), None);
        config.set_env("A", "x=y");
        config.set_env("C", "");
        assert_eq!(config.env, ["A=x=y", "B=2", "AB=4", "C="]);
        assert_eq!((config.env_value("A"), config.env_value("C")), (Some("x=y"), Some("")));
    }
}
