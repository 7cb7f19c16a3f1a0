//! Reading a stranger's JSON, and writing our own.
//!
//! Reading goes in two steps. First the whole document is walked: its size, its depth, what it will take in memory,
//! one value and nothing behind it, and no key twice in any object, known or unknown. Then [`Fields`] takes the known fields out of
//! each object, one by one and each checked, so that an error names its place; what is left over is kept, so
//! that it survives a change.
//!
//! Derived deserialisation would do less: of two equal keys that nobody knows it takes the last, and below a
//! flattened struct it loses the place of an error.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::digest::{DiffId, Digest};
use crate::limits::Limits;

use super::ImageError;

/// Fields that this crate gives no meaning to, kept so that changing a document does not lose them.
///
/// A key that is a field of the struct must not be put in here: the document would have it twice.
pub type Extra = BTreeMap<String, Value>;

/// Where in a document we are.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    above: Option<&'a Place<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root(&'static str),
    Key(&'a str),
    Index(usize),
}

impl<'a> Place<'a> {
    pub(crate) fn root(document: &'static str) -> Self {
        Self { above: None, step: Step::Root(document) }
    }

    pub(crate) fn key(&'a self, key: &'a str) -> Self {
        Self { above: Some(self), step: Step::Key(key) }
    }

    pub(super) fn index(&'a self, index: usize) -> Self {
        Self { above: Some(self), step: Step::Index(index) }
    }

    /// The name of the whole document.
    pub(super) fn document(&self) -> &'static str {
        match (self.step, self.above) {
            (Step::Root(document), _) => document,
            (_, Some(above)) => above.document(),
            (_, None) => "document",
        }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(above) = self.above {
            above.fmt(f)?;
        }
        match self.step {
            Step::Root(document) => f.write_str(document),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => {
                let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
                if !key.is_empty() && key.chars().all(plain) {
                    write!(f, ".{key}")
                } else {
                    write!(f, "[{key:?}]")
                }
            }
        }
    }
}

/// Reads the one value that `bytes` must be, having checked it as a whole.
pub(crate) fn parse<T: FromJson>(
    document: &'static str,
    bytes: &[u8],
    limits: &Limits,
) -> Result<T, ImageError> {
    if bytes.len() as u64 > limits.json_bytes {
        let (bytes, limit) = (bytes.len() as u64, limits.json_bytes);
        return Err(ImageError::TooLarge { document, bytes, limit });
    }
    walk(document, bytes, limits)?;
    let value = serde_json::from_slice(bytes).map_err(|error| not_json(document, &error))?;
    T::from_json(value, &Place::root(document))
}

/// How much memory a document that was parsed takes at most, by estimate.
pub(crate) fn memory(bytes: &[u8]) -> u64 {
    let limits = Limits { json_memory: u64::MAX, ..Limits::default() };
    walk("document", bytes, &limits).unwrap_or(0)
}

/// Checks a document as a whole, and says how much memory it takes.
fn walk(document: &'static str, bytes: &[u8], limits: &Limits) -> Result<u64, ImageError> {
    let place = Place::root(document);
    let (fault, memory) = (Cell::new(None), Cell::new(0));
    let walk = Walk { place: &place, depth: 0, limits, memory: &memory, fault: &fault };
    let mut input = serde_json::Deserializer::from_slice(bytes);
    let walked = walk.deserialize(&mut input).and_then(|()| input.end());
    match fault.take() {
        Some(fault) => Err(fault),
        None => walked.map(|()| memory.get()).map_err(|error| not_json(document, &error)),
    }
}

fn not_json(document: &'static str, error: &serde_json::Error) -> ImageError {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    // The position has fields of its own.
    let reason = text.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&text).to_owned();
    ImageError::NotJson { document, reason, line, column }
}

/// Writes `value` compactly, fields in the order of the struct and maps in the order of their keys.
pub(crate) fn to_bytes(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value)
        .expect("our types have string keys and no fallible serialisers, and a Vec takes every write")
}

/// What a value takes: a [`Value`], and a little for those that are behind a pointer.
const VALUE: usize = size_of::<Value>();
/// What the allocator adds to a text.
const TEXT: usize = 32;
/// What an object with one key takes: maps are made of nodes with room for eleven.
const OBJECT: usize = 640;
/// What another key takes in the long run, when nodes are about half full.
const KEY: usize = 110;

/// Walks over one value, keeping nothing of it.
#[derive(Clone, Copy)]
struct Walk<'a> {
    place: &'a Place<'a>,
    depth: usize,
    limits: &'a Limits,
    /// What the values so far take.
    memory: &'a Cell<u64>,
    /// What was found. serde's own errors are text; ours have facts.
    fault: &'a Cell<Option<ImageError>>,
}

impl<'a> Walk<'a> {
    fn refuse<T, E: serde::de::Error>(self, fault: ImageError) -> Result<T, E> {
        let error = E::custom(&fault);
        self.fault.set(Some(fault));
        Err(error)
    }

    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        let limit = self.limits.json_depth;
        if self.depth == limit {
            return self.refuse(ImageError::TooDeep { place: self.place.to_string(), limit });
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }

    fn take<E: serde::de::Error>(self, bytes: usize) -> Result<(), E> {
        self.memory.set(self.memory.get() + bytes as u64);
        let limit = self.limits.json_memory;
        if self.memory.get() > limit {
            return self.refuse(ImageError::TooMuchMemory { place: self.place.to_string(), limit });
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.take(VALUE)
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<(), E> {
        self.take(VALUE)
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<(), E> {
        self.take(VALUE)
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<(), E> {
        self.take(VALUE)
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<(), E> {
        self.take(VALUE)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        self.take(VALUE + TEXT + text.len())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        let inside = self.deeper()?;
        self.take(VALUE)?;
        for index in 0.. {
            let place = self.place.index(index);
            if values.next_element_seed(Walk { place: &place, ..inside })?.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let inside = self.deeper()?;
        self.take(VALUE)?;
        let mut keys = BTreeSet::new();
        while let Some(key) = entries.next_key::<String>()? {
            self.take(TEXT + key.len() + if keys.is_empty() { OBJECT } else { KEY })?;
            let place = self.place.key(&key);
            if keys.contains(&key) {
                return self.refuse(ImageError::DuplicateKey { place: place.to_string() });
            }
            entries.next_value_seed(Walk { place: &place, ..inside })?;
            keys.insert(key);
        }
        Ok(())
    }
}

/// A type that can be read out of a JSON value that was already walked.
pub(crate) trait FromJson: Sized {
    fn from_json(value: Value, place: &Place<'_>) -> Result<Self, ImageError>;
}

/// The fields of one object, taken out one by one.
pub(crate) struct Fields<'a> {
    place: &'a Place<'a>,
    left: Map<String, Value>,
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    pub(crate) fn of(value: Value, place: &'a Place<'a>) -> Result<Self, ImageError> {
        match value {
            Value::Object(left) => Ok(Self { place, left, known: Vec::new() }),
            other => Err(wrong_type(place, "an object", &other)),
        }
    }

    /// Takes a field that the caller only wants to know of: whether it is there and not `null`.
    pub(crate) fn has(&mut self, key: &'static str) -> bool {
        self.known.push(key);
        self.left.remove(key).is_some_and(|value| !value.is_null())
    }

    /// Takes a field that may be absent; `null` is the same as absent.
    pub(crate) fn optional<T: FromJson>(&mut self, key: &'static str) -> Result<Option<T>, ImageError> {
        self.known.push(key);
        match self.left.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => T::from_json(value, &self.place.key(key)).map(Some),
        }
    }

    /// Takes a field whose absence means the default.
    pub(crate) fn or_default<T: FromJson + Default>(&mut self, key: &'static str) -> Result<T, ImageError> {
        self.optional(key).map(Option::unwrap_or_default)
    }

    /// Takes a field that must be there.
    pub(crate) fn required<T: FromJson>(&mut self, key: &'static str) -> Result<T, ImageError> {
        let missing = || ImageError::Missing { place: self.place.key(key).to_string() };
        match self.optional(key)? {
            Some(value) => Ok(value),
            None => Err(missing()),
        }
    }

    /// Takes a list that must be there but may be `null`, which is how Go writes a list without entries.
    pub(crate) fn list<T: FromJson>(&mut self, key: &'static str) -> Result<Vec<T>, ImageError> {
        if !self.left.contains_key(key) {
            return Err(ImageError::Missing { place: self.place.key(key).to_string() });
        }
        self.or_default(key)
    }

    /// What nobody took.
    pub(crate) fn rest(self) -> Result<Extra, ImageError> {
        for key in self.left.keys() {
            if let Some(&meant) = self.known.iter().find(|known| folds_to(key, known)) {
                let place = self.place.key(key).to_string();
                return Err(ImageError::AmbiguousKey { place, meant });
            }
        }
        Ok(self.left.into_iter().map(|(key, value)| (key, sorted(value))).collect())
    }
}

/// Whether Go's `encoding/json` takes `key` for the field `known`. Its case folding knows two letters outside
/// ASCII that fold into it: the long s and the Kelvin sign.
fn folds_to(key: &str, known: &str) -> bool {
    let fold = |c: char| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    };
    key.chars().map(fold).eq(known.chars().map(fold))
}

/// Puts the keys of every object in order. They are already, unless some crate in the build turned on
/// serde_json's `preserve_order`, and the bytes we write must not depend on that.
fn sorted(value: Value) -> Value {
    match value {
        Value::Array(values) => values.into_iter().map(sorted).collect(),
        Value::Object(map) => {
            let map: BTreeMap<_, _> = map.into_iter().collect();
            map.into_iter().map(|(key, value)| (key, sorted(value))).collect()
        }
        scalar => scalar,
    }
}

pub(super) fn wrong_type(place: &Place<'_>, expected: &'static str, found: &Value) -> ImageError {
    let found = match found {
        Value::Null => "null".to_owned(),
        Value::Bool(found) => found.to_string(),
        Value::Number(found) => found.to_string(),
        Value::String(found) => {
            let short: String = found.chars().take(40).collect();
            format!("{short:?}{}", if short.len() < found.len() { "…" } else { "" })
        }
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    };
    ImageError::WrongType { place: place.to_string(), expected, found }
}

impl FromJson for Value {
    fn from_json(value: Value, _: &Place<'_>) -> Result<Self, ImageError> {
        Ok(value)
    }
}

impl FromJson for String {
    fn from_json(value: Value, place: &Place<'_>) -> Result<Self, ImageError> {
        match value {
            Value::String(text) => Ok(text),
            other => Err(wrong_type(place, "a string", &other)),
        }
    }
}

impl FromJson for bool {
    fn from_json(value: Value, place: &Place<'_>) -> Result<Self, ImageError> {
        value.as_bool().ok_or_else(|| wrong_type(place, "true or false", &value))
    }
}

impl FromJson for i64 {
    fn from_json(value: Value, place: &Place<'_>) -> Result<Self, ImageError> {
        value.as_i64().ok_or_else(|| wrong_type(place, "an integer of 64 bits", &value))
    }
}

impl FromJson for Digest {
    fn from_json(value: Value, place: &Place<'_>) -> Result<Self, ImageError> {
        let text = String::from_json(value, place)?;
        text.parse().map_err(|source| ImageError::BadDigest { place: place.to_string(), source })
    }
}

impl FromJson for DiffId {
    fn from_json(value: Value, place: &Place<'_>) -> Result<Self, ImageError> {
        Digest::from_json(value, place).map(DiffId::of_tar)
    }
}

impl<T: FromJson> FromJson for Vec<T> {
    fn from_json(value: Value, place: &Place<'_>) -> Result<Self, ImageError> {
        match value {
            Value::Array(values) => values
                .into_iter()
                .enumerate()
                .map(|(index, value)| T::from_json(value, &place.index(index)))
                .collect(),
            other => Err(wrong_type(place, "an array", &other)),
        }
    }
}

impl<T: FromJson> FromJson for BTreeMap<String, T> {
    fn from_json(value: Value, place: &Place<'_>) -> Result<Self, ImageError> {
        match value {
            Value::Object(map) => map
                .into_iter()
                .map(|(key, value)| {
                    let value = T::from_json(value, &place.key(&key))?;
                    Ok((key, value))
                })
                .collect(),
            other => Err(wrong_type(place, "an object", &other)),
        }
    }
}

/// `Deserialize` for types that know [`FromJson`], for records of ours that hold them. A stranger's document
/// goes through [`parse`], which alone sees duplicate keys.
macro_rules! deserialize_from_json {
    ($($name:ident),* $(,)?) => {$(
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let value = serde_json::Value::deserialize(deserializer)?;
                let place = $crate::image::json::Place::root(stringify!($name));
                $crate::image::json::FromJson::from_json(value, &place).map_err(serde::de::Error::custom)
            }
        }
    )*};
}
pub(super) use deserialize_from_json;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::image::{Config, Index, Manifest};

    /// JSON as text, keys possibly twice, and whether they are.
    fn document() -> impl Strategy<Value = (String, bool)> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            any::<bool>().prop_map(|value| value.to_string()),
            any::<i64>().prop_map(|value| value.to_string()),
            any::<f64>()
                .prop_filter("JSON has no others", |value| value.is_finite())
                .prop_map(|v| format!("{v:e}")),
            any::<String>().prop_map(|text| Value::String(text).to_string()),
        ];
        leaf.prop_map(|text| (text, false)).prop_recursive(4, 32, 6, |inside| {
            prop_oneof![
                prop::collection::vec(inside.clone(), 0..6).prop_map(|values| {
                    let twice = values.iter().any(|(_, twice)| *twice);
                    let texts: Vec<_> = values.into_iter().map(|(text, _)| text).collect();
                    (format!("[{}]", texts.join(",")), twice)
                }),
                prop::collection::vec(("[a-zé]{0,2}", any::<bool>(), inside), 0..6).prop_map(|entries| {
                    let keys: BTreeSet<_> = entries.iter().map(|(key, ..)| key).collect();
                    let twice = keys.len() < entries.len() || entries.iter().any(|(.., (_, twice))| *twice);
                    let entry = |(key, escaped, (value, _)): &(String, bool, (String, bool))| {
                        // The same key may be spelled with escapes.
                        let spell =
                            |c: char| if *escaped { format!("\\u{:04x}", c as u32) } else { c.to_string() };
                        format!("\"{}\" : {value}", key.chars().map(spell).collect::<String>())
                    };
                    (format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(",\n")), twice)
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_document_is_refused_exactly_if_a_key_is_there_twice((text, twice) in document()) {
            match parse::<Value>("document", text.as_bytes(), &Limits::default()) {
                Ok(value) => {
                    prop_assert!(!twice);
                    prop_assert_eq!(value, serde_json::from_str::<Value>(&text).unwrap());
                }
                Err(ImageError::DuplicateKey { .. }) => prop_assert!(twice),
                Err(other) => prop_assert!(false, "{}", other),
            }
        }

        #[test]
        fn what_nobody_knows_survives_a_change((text, twice) in document(), user in "[ -~]{1,8}") {
            prop_assume!(!twice);
            let unknown: Value = serde_json::from_str(&text).unwrap();
            let document = format!(
                r#"{{"rootfs":{{"type":"layers","x":{text}}},"config":{{"x":{text}}},"history":[{{"x":{text}}}],"x":{text}}}"#
            );
            let mut config = Config::parse(document.as_bytes(), &Limits::default()).unwrap();
            config.config.user = user;
            let bytes = config.to_json();
            prop_assert_eq!(&bytes, &config.to_json());
            let again = Config::parse(&bytes, &Limits::default()).unwrap();
            for extra in [&again.extra, &again.config.extra, &again.rootfs.extra, &again.history[0].extra] {
                prop_assert_eq!(&extra["x"], &unknown);
            }
            prop_assert_eq!(again, config);
        }

        #[test]
        fn no_bytes_make_it_panic(text in "[{}\\[\\]\":,a-z0-9. -]{0,64}") {
            let limits = Limits::default();
            for refused in [
                Manifest::parse(text.as_bytes(), &limits).is_err(),
                Index::parse(text.as_bytes(), &limits).is_err(),
                Config::parse(text.as_bytes(), &limits).is_err(),
            ] {
                prop_assert!(refused);
            }
        }
    }
}
