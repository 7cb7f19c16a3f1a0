//! [`IndexFile`]: the text of `index.json`, and where in it each name stands.
//!
//! We write one descriptor to a line, those with a name first, sorted by it, then the others by their digest. To other
//! tools that is an index like any other. To us it makes a lookup one pass over the text and a change one line, instead
//! of a tree of values of all that a store has: a tenth of the time with ten thousand names.
//!
//! The form is never trusted, only recognised: each line must be, letter by letter, what we would write, and stand where
//! we would write it. One that is not, of whatever tool or editor, and the whole file is read as the JSON document that it
//! is. So both ways of reading give the same names.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::digest::Digest;
use crate::image::{
    CONTAINERD_IMAGE_NAME, Descriptor, ImageError, Index, MediaType, OCI_REF_NAME, Reference, familiar,
    is_canonical_tag, json,
};
use crate::limits::Limits;

/// What stands before the first descriptor.
const OPEN: &str = r#""manifests":["#;

/// What most descriptors are of.
const USUAL: [MediaType; 4] =
    [MediaType::OCI_MANIFEST, MediaType::DOCKER_MANIFEST, MediaType::OCI_INDEX, MediaType::DOCKER_INDEX];

/// An `index.json` that was read.
#[derive(Debug)]
pub(super) struct IndexFile {
    /// The file as it was read, and after that the lines that were added. Lines that were taken away stay as well.
    text: String,
    /// The document without what it lists, split where that stands.
    head: String,
    tail: String,
    /// Sorted by name, each name once.
    named: Vec<Line>,
    /// Sorted by digest, each digest once.
    unnamed: Vec<Line>,
}

/// One descriptor in the text.
#[derive(Debug)]
pub(super) struct Line {
    /// What it points at.
    pub(super) digest: Digest,
    /// Its canonical name, empty if it has none.
    name: Range<usize>,
    whole: Range<usize>,
    target: Target,
}

/// A descriptor without names.
#[derive(Debug)]
enum Target {
    /// It says nothing but what every descriptor does, and its digest is that of its line.
    Plain {
        media_type: MediaType,
        size: u64,
    },
    Rich(Box<Descriptor>),
}

impl IndexFile {
    /// Reads the content of an `index.json`.
    pub(super) fn read(content: Vec<u8>, limits: &Limits) -> Result<Self, ImageError> {
        let text = match String::from_utf8(content) {
            Ok(text) => text,
            Err(error) => return Index::parse(error.as_bytes(), limits).map(Self::of),
        };
        match Self::recognise(&text, limits) {
            Some(file) => Ok(Self { text, ..file }),
            None => Index::parse(text.as_bytes(), limits).map(Self::of),
        }
    }

    /// What `index` lists, whoever wrote it. Of two descriptors of one name the last counts.
    pub(super) fn of(mut index: Index) -> Self {
        let (mut named, mut unnamed) = (BTreeMap::new(), BTreeMap::new());
        for mut target in std::mem::take(&mut index.manifests) {
            match take_name(&mut target) {
                Some(name) => drop(named.insert(name.canonical(), (name, target))),
                None => drop(unnamed.insert(target.digest, target)),
            }
        }
        let bare = String::from_utf8(index.to_json()).expect("JSON is UTF-8");
        let split = bare.find(OPEN).expect("an index lists something, be it nothing") + OPEN.len();
        let (head, tail) = bare.split_at(split);
        let mut file = Self {
            text: String::new(),
            head: head.to_owned(),
            tail: tail.to_owned(),
            named: Vec::new(),
            unnamed: Vec::new(),
        };
        for (name, target) in named.values() {
            file.set(name, target);
        }
        for target in unnamed.values() {
            file.keep(target);
        }
        file
    }

    /// Finds the lines of a text of our own form; the text is left out. `None` if it is of another.
    fn recognise(text: &str, limits: &Limits) -> Option<Self> {
        let start = text.find(OPEN)? + OPEN.len();
        let listed = text[start..].strip_prefix('\n')?;
        let (lines, _) = listed.rsplit_once("\n]")?;
        let head = &text[..start];
        let tail = &text[start + 1 + lines.len() + 1..];
        // What is around the list is written as we write it, so that this is the list.
        let bare = [head, tail].concat();
        let index = Index::parse(bare.as_bytes(), limits).ok()?;
        if !index.manifests.is_empty() || index.to_json() != bare.as_bytes() {
            return None;
        }
        let (head, tail) = (head.to_owned(), tail.to_owned());
        let mut file = Self { text: String::new(), head, tail, named: Vec::new(), unnamed: Vec::new() };
        let mut at = start + 1;
        let end = at + lines.len();
        for piece in lines.split('\n') {
            let is_last = at + piece.len() == end;
            let line = if is_last { piece } else { piece.strip_suffix(',')? };
            file.append(text, Line::read(line, at, limits)?)?;
            at += piece.len() + 1;
        }
        Some(file)
    }

    /// Adds a line of `text`, if this is where we would write it.
    fn append(&mut self, text: &str, line: Line) -> Option<()> {
        let (lines, is_in_order) = if line.name.is_empty() {
            let last = self.unnamed.last();
            let is_in_order = last.is_none_or(|last| last.digest < line.digest);
            (&mut self.unnamed, is_in_order)
        } else {
            let last = self.named.last();
            let is_in_order = last.is_none_or(|last| text[last.name.clone()] < text[line.name.clone()]);
            (&mut self.named, is_in_order && self.unnamed.is_empty())
        };
        is_in_order.then(|| lines.push(line))
    }

    /// The content to write.
    pub(super) fn to_json(&self) -> Vec<u8> {
        let mut json = Vec::with_capacity(self.text.len() + self.head.len() + self.tail.len() + 2);
        json.extend_from_slice(self.head.as_bytes());
        for (number, line) in self.lines().enumerate() {
            json.extend_from_slice(if number == 0 { b"\n" } else { b",\n" });
            json.extend_from_slice(self.text[line.whole.clone()].as_bytes());
        }
        if self.lines().next().is_some() {
            json.push(b'\n');
        }
        json.extend_from_slice(self.tail.as_bytes());
        json
    }

    /// Returns the length of the content to write.
    pub(super) fn bytes(&self) -> u64 {
        // A comma and a line feed for each line; in place of the last comma, the line feed before the first line.
        let lines: usize = self.lines().map(|line| line.whole.len() + 2).sum();
        (self.head.len() + lines + self.tail.len()) as u64
    }

    /// Every line, those with a name first.
    pub(super) fn lines(&self) -> impl Iterator<Item = &Line> {
        self.named.iter().chain(&self.unnamed)
    }

    /// The lines of names that begin with `prefix`.
    pub(super) fn named_from<'f>(&'f self, prefix: &'f str) -> impl Iterator<Item = &'f Line> {
        let first = self.named.partition_point(|line| self.name_text(line) < prefix);
        self.named[first..].iter().take_while(move |line| self.name_text(line).starts_with(prefix))
    }

    /// The line of a name.
    pub(super) fn find(&self, name: &Reference) -> Option<&Line> {
        self.position(&name.canonical()).ok().map(|index| &self.named[index])
    }

    /// The canonical name of a line, or nothing.
    pub(super) fn name_text(&self, line: &Line) -> &str {
        &self.text[line.name.clone()]
    }

    /// The name of a line.
    pub(super) fn name(&self, line: &Line) -> Option<Reference> {
        let text = self.name_text(line);
        (!text.is_empty())
            .then(|| Reference::parse_familiar(text).expect("it was read, or written, as a name"))
    }

    /// What a line points at, without names.
    pub(super) fn target(&self, line: &Line) -> Descriptor {
        match &line.target {
            Target::Plain { media_type, size } => Descriptor::new(media_type.clone(), line.digest, *size),
            Target::Rich(descriptor) => (**descriptor).clone(),
        }
    }

    /// Whether an image has a line without a name.
    pub(super) fn is_unnamed(&self, digest: &Digest) -> bool {
        self.unnamed.binary_search_by(|line| line.digest.cmp(digest)).is_ok()
    }

    /// Points `name` at `target`.
    pub(super) fn set(&mut self, name: &Reference, target: &Descriptor) {
        let line = self.write(Some(name), target);
        match self.position(&name.canonical()) {
            Ok(index) => self.named[index] = line,
            Err(index) => self.named.insert(index, line),
        }
    }

    /// Adds a line for `target` without a name.
    pub(super) fn keep(&mut self, target: &Descriptor) {
        let line = self.write(None, target);
        match self.unnamed.binary_search_by(|other| other.digest.cmp(&target.digest)) {
            Ok(index) => self.unnamed[index] = line,
            Err(index) => self.unnamed.insert(index, line),
        }
    }

    /// Takes the line of `name` away.
    pub(super) fn unset(&mut self, name: &Reference) {
        if let Ok(index) = self.position(&name.canonical()) {
            self.named.remove(index);
        }
    }

    /// Takes the line of `digest` without a name away.
    pub(super) fn drop_unnamed(&mut self, digest: &Digest) {
        self.unnamed.retain(|line| line.digest != *digest);
    }

    /// Takes every line of `digest` away.
    pub(super) fn forget(&mut self, digest: &Digest) {
        self.drop_unnamed(digest);
        self.named.retain(|line| line.digest != *digest);
    }

    fn position(&self, canonical: &str) -> Result<usize, usize> {
        self.named.binary_search_by(|line| self.name_text(line).cmp(canonical))
    }

    /// Writes a line behind the text.
    fn write(&mut self, name: Option<&Reference>, target: &Descriptor) -> Line {
        let start = self.text.len();
        self.text.push_str(&to_line(target, name));
        let line = &self.text[start..];
        Line::read_plain(line, start).unwrap_or_else(|| Line::rich(line, start, target.clone(), name))
    }
}

impl Line {
    /// Reads a line that stands at `start`, if it is one that we would write.
    fn read(line: &str, start: usize, limits: &Limits) -> Option<Self> {
        let plain = Self::read_plain(line, start);
        plain.or_else(|| {
            let mut target: Descriptor = json::parse("index", line.as_bytes(), limits).ok()?;
            let name = take_name(&mut target);
            (to_line(&target, name.as_ref()) == line).then(|| Self::rich(line, start, target, name.as_ref()))
        })
    }

    /// Reads a line with nothing but what every line has, without taking it apart as JSON. The few texts that this accepts
    /// have one meaning, and none has an escape.
    fn read_plain(line: &str, start: usize) -> Option<Self> {
        let rest = line.strip_prefix(r#"{"mediaType":""#)?;
        let (media_type, rest) = USUAL
            .into_iter()
            .find_map(|usual| rest.strip_prefix(usual.as_str()).map(|rest| (usual, rest)))?;
        let (digest, rest) = Digest::split_from(rest.strip_prefix(r#"","digest":""#)?)?;
        let rest = rest.strip_prefix(r#"","size":"#)?;
        let (digits, rest) = rest.split_at(rest.bytes().take_while(u8::is_ascii_digit).count());
        let size = digits.parse().ok().filter(|&size: &u64| i64::try_from(size).is_ok())?;
        if digits.len() > 1 && digits.starts_with('0') {
            return None;
        }
        let mut name = start..start;
        if rest != "}" {
            let rest = rest.strip_prefix(r#","annotations":{""#)?.strip_prefix(CONTAINERD_IMAGE_NAME)?;
            let rest = rest.strip_prefix(r#"":""#)?;
            let at = start + line.len() - rest.len();
            let (canonical, rest) = rest.split_at(rest.bytes().position(|byte| byte == b'"')?);
            let rest = rest.strip_prefix(r#"",""#)?.strip_prefix(OCI_REF_NAME)?.strip_prefix(r#"":""#)?;
            let rest = rest.strip_prefix(familiar(canonical))?;
            if rest != r#""}}"# || !is_canonical_tag(canonical) {
                return None;
            }
            name = at..at + canonical.len();
        }
        let target = Target::Plain { media_type, size };
        Some(Self { digest, name, whole: start..start + line.len(), target })
    }

    fn rich(line: &str, start: usize, target: Descriptor, name: Option<&Reference>) -> Self {
        let (name, whole) = (name_in(line, name, start), start..start + line.len());
        Self { digest: target.digest, name, whole, target: Target::Rich(Box::new(target)) }
    }
}

/// Where `name` stands in `line`, which stands at `start`.
fn name_in(line: &str, name: Option<&Reference>, start: usize) -> Range<usize> {
    let Some(name) = name.map(Reference::canonical) else { return start..start };
    let at = start + line.find(&name).expect("a line has its name in full, which needs no escapes");
    at..at + name.len()
}

/// Takes the name out of the annotations of a descriptor. Another tool, or an older version, may have written anything
/// there: a name that reads as an id or has another digest than the target is ignored. The target is kept in any case.
fn take_name(target: &mut Descriptor) -> Option<Reference> {
    let name = Reference::from_annotations(&target.annotations, None);
    let name = name.filter(|name| name.digest().is_none_or(|digest| *digest == target.digest));
    target.annotations.remove(OCI_REF_NAME);
    target.annotations.remove(CONTAINERD_IMAGE_NAME);
    name
}

fn to_line(target: &Descriptor, name: Option<&Reference>) -> String {
    let mut entry = target.clone();
    if let Some(name) = name {
        entry.annotations.insert(OCI_REF_NAME.to_owned(), name.familiar());
        entry.annotations.insert(CONTAINERD_IMAGE_NAME.to_owned(), name.canonical());
    }
    String::from_utf8(json::to_bytes(&entry)).expect("JSON is UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(content: &[u8]) -> Descriptor {
        Descriptor::of(MediaType::OCI_MANIFEST, content)
    }

    fn name(text: &str) -> Reference {
        Reference::parse_familiar(text).unwrap()
    }

    /// What a file says: names with their targets, targets without a name, and the rest.
    type Said = (BTreeMap<String, Descriptor>, Vec<Descriptor>, (String, String));

    fn said(file: &IndexFile) -> Said {
        let named = file.named.iter().map(|line| (file.name(line).unwrap().canonical(), file.target(line)));
        let unnamed = file.unnamed.iter().map(|line| file.target(line)).collect();
        (named.collect(), unnamed, (file.head.clone(), file.tail.clone()))
    }

    fn read(text: &[u8]) -> Result<Said, ImageError> {
        IndexFile::read(text.to_vec(), &Limits::default()).map(|file| said(&file))
    }

    /// Reads as a stranger's document, whatever the form.
    fn read_in_full(text: &[u8]) -> Result<Said, ImageError> {
        Index::parse(text, &Limits::default()).map(|index| said(&IndexFile::of(index)))
    }

    fn is_recognised(text: &[u8]) -> bool {
        IndexFile::recognise(std::str::from_utf8(text).unwrap(), &Limits::default()).is_some()
    }

    fn example() -> IndexFile {
        let mut index = Index::default();
        index.artifact_type = Some(r#"a"manifests":[b"#.to_owned());
        index.annotations.insert("a".to_owned(), "\n]".to_owned());
        index.extra.insert("later".to_owned(), serde_json::json!({"manifests": [{"x": 1}]}));
        let mut file = IndexFile::of(index);
        file.set(&name("debian:12"), &target(b"one"));
        file.set(&name("localhost:5000/x"), &target(b"one"));
        file.set(&name("docker.io/my.org/x:1"), &target(b"three"));
        let mut rich = target(b"rich");
        rich.platform = Some("linux/arm64".parse().unwrap());
        rich.annotations.insert("note".to_owned(), "\"\n\\".to_owned());
        file.set(&name("a/b:c"), &rich);
        file.keep(&target(b"two"));
        file.keep(&Descriptor { artifact_type: Some("x/y".to_owned()), ..target(b"four") });
        file
    }

    #[test]
    fn what_was_written_is_recognised_and_says_the_same() {
        let file = example();
        let text = file.to_json();
        assert!(is_recognised(&text));
        assert_eq!(file.bytes(), text.len() as u64);
        assert_eq!(read(&text).unwrap(), said(&file));
        assert_eq!(read_in_full(&text).unwrap(), said(&file));
        assert_eq!(IndexFile::read(text.clone(), &Limits::default()).unwrap().to_json(), text);
        assert_eq!(text.iter().filter(|&&byte| byte == b'\n').count(), 7, "one line each");
        let empty = IndexFile::of(Index::default());
        assert_eq!(empty.to_json(), crate::store::names::EMPTY_INDEX);
    }

    #[test]
    fn a_document_of_another_form_says_the_same() {
        let ours = example().to_json();
        let value: serde_json::Value = serde_json::from_slice(&ours).unwrap();
        let mut turned = Index::parse(&ours, &Limits::default()).unwrap();
        turned.manifests.reverse();
        let others = [
            serde_json::to_vec(&value).unwrap(),
            serde_json::to_vec_pretty(&value).unwrap(),
            turned.to_json(),
        ];
        for other in others {
            assert!(!is_recognised(&other));
            assert_eq!(read(&other).unwrap().0, said(&example()).0);
            let again = IndexFile::read(other, &Limits::default()).unwrap().to_json();
            assert!(is_recognised(&again));
        }
    }

    #[test]
    fn a_byte_changed_anywhere_is_read_as_the_whole_document_is() {
        let text = example().to_json();
        for at in 0..text.len() {
            for byte in [b'\n', b'"', b'0', b'\\', text[at] ^ 1] {
                let mut changed = text.clone();
                changed[at] = byte;
                assert_eq!(read(&changed), read_in_full(&changed), "{byte} at {at}");
            }
            let cut = &text[..at];
            assert_eq!(read(cut), read_in_full(cut), "cut at {at}");
        }
    }

    #[test]
    fn lines_changed_by_an_editor_are_read_as_the_whole_document_is() {
        let text = String::from_utf8(example().to_json()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for one in 0..lines.len() {
            for other in 0..lines.len() {
                let mut swapped = lines.clone();
                swapped.swap(one, other);
                let mut doubled = lines.clone();
                doubled.insert(one, lines[other]);
                let mut without = lines.clone();
                without.remove(one);
                for changed in [swapped, doubled, without] {
                    let changed = changed.join("\n").into_bytes();
                    assert_eq!(read(&changed), read_in_full(&changed), "{one} {other}");
                }
            }
        }
    }

    #[test]
    fn of_two_lines_of_one_name_the_last_counts_in_whatever_spelling() {
        let line = |text: &str, content: &[u8]| {
            let annotations =
                format!(r#"{{"{CONTAINERD_IMAGE_NAME}":"{text}","{OCI_REF_NAME}":"debian:12"}}"#);
            let (digest, size) = (Digest::of(content), content.len());
            let media_type = MediaType::OCI_MANIFEST;
            let media_type = media_type.as_str();
            format!(
                r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size},"annotations":{annotations}}}"#
            )
        };
        let full = "docker.io/library/debian:12";
        for other in [full, "debian:12", "docker.io/debian:12", r"docker.io\/library\/debian:12"] {
            for pair in [[line(full, b"one"), line(other, b"two")], [line(other, b"one"), line(full, b"two")]]
            {
                let text = format!("{{\"schemaVersion\":2,\"manifests\":[\n{}\n]}}", pair.join(",\n"));
                let (named, ..) = read(text.as_bytes()).unwrap();
                assert_eq!(named.len(), 1, "{text}");
                assert_eq!(named[full].digest, Digest::of(b"two"), "{text}");
            }
        }
    }
}
