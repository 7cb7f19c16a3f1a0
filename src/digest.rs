//! Names made of hashes: [`Digest`] for stored bytes, [`DiffId`] for a layer's tar, [`ChainId`] for a stack of layers.
//!
//! The three are separate types and trade places nowhere by accident: the blob of a gzip layer and the tar inside
//! it have different digests, and a function that wants one cannot be given the other. A value of these types is
//! well-formed (known algorithm, right length, lower-case hex); whether some bytes *have* that digest is checked by
//! [`HashingReader`] and by the writers of the blob store.

use std::cmp::Ordering;
use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::text::quotation;

/// A registered hash algorithm of the [image spec](https://github.com/opencontainers/image-spec/blob/main/descriptor.md#registered-algorithms).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Algorithm {
    /// SHA-256, what practically every image uses.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// Every algorithm this crate reads and writes.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    /// The name as it stands before the colon of a digest and as a directory under `blobs/`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Length of the hash in bytes.
    const fn len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

/// Digest of some bytes as they are stored, `algorithm:hex`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    bytes: [u8; 64],
}

impl Digest {
    /// SHA-256 of `bytes`.
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        Self::of_with(Algorithm::Sha256, bytes)
    }

    /// The `algorithm` digest of `bytes`.
    pub fn of_with(algorithm: Algorithm, bytes: impl AsRef<[u8]>) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes.as_ref());
        hasher.finish()
    }

    /// The algorithm it was made with.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hash in lower-case hex, without the algorithm: a blob's file name.
    pub fn hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut hex = vec![0; 2 * self.algorithm.len()];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(self.bytes) {
            pair.copy_from_slice(&[byte >> 4, byte & 0xf].map(|digit| DIGITS[usize::from(digit)]));
        }
        String::from_utf8(hex).expect("digits are ASCII")
    }

    /// Reads the hash from its two parts, as the directory and the file name of a blob give them.
    ///
    /// # Errors
    ///
    /// [`DigestError`] if the algorithm is unknown or the hex is not exactly as long as it must be, in lower case.
    pub fn from_parts(algorithm: &str, hex: &str) -> Result<Self, DigestError> {
        let fault = |reason| DigestError { text: quotation(&format!("{algorithm}:{hex}")), reason };
        let algorithm = Algorithm::ALL
            .into_iter()
            .find(|known| known.name() == algorithm)
            .ok_or_else(|| fault("only sha256 and sha512 are known"))?;
        if hex.len() != 2 * algorithm.len() {
            return Err(fault("the hash has the wrong length"));
        }
        Self::from_hex(algorithm, hex).ok_or_else(|| fault("the hash is not lower-case hexadecimal"))
    }

    /// Reads the digest that `text` begins with; returns what is behind it.
    pub(crate) fn split_from(text: &str) -> Option<(Self, &str)> {
        Algorithm::ALL.into_iter().find_map(|algorithm| {
            let rest = text.strip_prefix(algorithm.name())?.strip_prefix(':')?;
            let (hex, rest) = rest.split_at_checked(2 * algorithm.len())?;
            Some((Self::from_hex(algorithm, hex)?, rest))
        })
    }

    /// Reads as many digits as a hash of this algorithm has. Upper case is not a digest by the spec's grammar.
    fn from_hex(algorithm: Algorithm, hex: &str) -> Option<Self> {
        // Digits are as good as random, so a branch on each would be guessed wrong every other time: a list of ten
        // thousand images reads more than a million.
        let (mut values, mut is_hex) = ([0; 128], true);
        for (value, digit) in values.iter_mut().zip(hex.bytes()) {
            let (number, letter) = (digit.wrapping_sub(b'0'), digit.wrapping_sub(b'a'));
            is_hex &= (number < 10) | (letter < 6);
            *value = if number < 10 { number } else { letter.wrapping_add(10) };
        }
        let mut bytes = [0; 64];
        for (byte, pair) in bytes.iter_mut().zip(values.chunks_exact(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
        is_hex.then_some(Self { algorithm, bytes })
    }

    /// Whether the hash begins with these digits, and with nothing else than lower-case ones.
    pub(crate) fn begins_with(&self, digits: &str) -> bool {
        digits.len() <= 2 * self.algorithm.len() && {
            let nibble = |at: usize| self.bytes[at / 2] >> (4 * (1 - at % 2)) & 0xf;
            let digit = |at| char::from_digit(nibble(at).into(), 16);
            digits.chars().enumerate().all(|(at, wanted)| digit(at) == Some(wanted))
        }
    }
}

/// A text that is not a digest.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text:?} is not a digest: {reason}")]
pub struct DigestError {
    text: String,
    reason: &'static str,
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        match text.split_once(':') {
            Some((algorithm, hex)) => Self::from_parts(algorithm, hex),
            None => Err(DigestError { text: quotation(text), reason: "expected algorithm:hex" }),
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl Ord for Digest {
    /// The order of their texts.
    fn cmp(&self, other: &Self) -> Ordering {
        // The first bytes decide practically always, and cost no call.
        let first = |digest: &Self| digest.bytes.first_chunk().copied().map(u64::from_be_bytes);
        let by_algorithm = self.algorithm.cmp(&other.algorithm);
        by_algorithm.then(first(self).cmp(&first(other))).then_with(|| self.bytes.cmp(&other.bytes))
    }
}

impl PartialOrd for Digest {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Digest of a layer's *uncompressed* tar stream, as listed in `rootfs.diff_ids` of the image config.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiffId(Digest); // no From<Digest>: stored bytes and tar bytes never trade places

impl DiffId {
    /// The diff id of the uncompressed tar whose digest is `tar`.
    pub fn of_tar(tar: Digest) -> Self {
        Self(tar)
    }

    /// The digest of the uncompressed tar.
    pub fn as_digest(&self) -> &Digest {
        &self.0
    }
}

/// Names a stack of layers, bottom first, as the [image spec](https://github.com/opencontainers/image-spec/blob/main/config.md#layer-chainid) does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChainId(Digest);

impl ChainId {
    /// Names a stack of one layer.
    pub fn base(bottom: DiffId) -> Self {
        Self(bottom.0)
    }

    /// Names this stack with one more layer on top.
    #[must_use]
    pub fn with(self, top: DiffId) -> Self {
        Self(Digest::of(format!("{self} {top}").as_bytes()))
    }

    /// Names the stack of `layers`, bottom first; `None` if there are none.
    pub fn of(layers: impl IntoIterator<Item = DiffId>) -> Option<Self> {
        layers.into_iter().fold(None, |below, top| {
            Some(match below {
                None => Self::base(top),
                Some(below) => below.with(top),
            })
        })
    }

    /// The hash itself.
    pub fn as_digest(&self) -> &Digest {
        &self.0
    }
}

macro_rules! shown_as_digest {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
        impl FromStr for $name {
            type Err = DigestError;
            fn from_str(text: &str) -> Result<Self, DigestError> {
                text.parse().map(Self)
            }
        }
    )*};
}
shown_as_digest!(DiffId, ChainId);

/// A digest in the making.
#[derive(Clone, Debug)]
pub struct Hasher(State);

#[derive(Clone, Debug)]
enum State {
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
}

impl Hasher {
    /// Starts a digest of no bytes.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => State::Sha512(sha2::Sha512::new()),
        })
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
    }

    /// The digest of everything taken.
    pub fn finish(self) -> Digest {
        let mut bytes = [0; 64];
        let algorithm = match self.0 {
            State::Sha256(state) => {
                bytes[..32].copy_from_slice(&state.finalize());
                Algorithm::Sha256
            }
            State::Sha512(state) => {
                bytes.copy_from_slice(&state.finalize());
                Algorithm::Sha512
            }
        };
        Digest { algorithm, bytes }
    }
}

/// Reads through, hashing and counting what passes.
#[derive(Debug)]
pub struct HashingReader<R> {
    inner: R,
    hasher: Hasher,
    bytes: u64,
}

impl<R: Read> HashingReader<R> {
    /// Starts at the present position of `inner`.
    pub fn new(algorithm: Algorithm, inner: R) -> Self {
        Self { inner, hasher: Hasher::new(algorithm), bytes: 0 }
    }

    /// The reader, the digest of what passed and the number of bytes.
    pub fn finish(self) -> (R, Digest, u64) {
        (self.inner, self.hasher.finish(), self.bytes)
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}

/// Writes through, hashing and counting what `inner` accepted.
#[derive(Debug)]
pub struct HashingWriter<W> {
    inner: W,
    hasher: Hasher,
    bytes: u64,
}

impl<W: Write> HashingWriter<W> {
    /// Starts with nothing written.
    pub fn new(algorithm: Algorithm, inner: W) -> Self {
        Self { inner, hasher: Hasher::new(algorithm), bytes: 0 }
    }

    /// The writer, the digest of what passed and the number of bytes. Does not flush.
    pub fn finish(self) -> (W, Digest, u64) {
        (self.inner, self.hasher.finish(), self.bytes)
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hasher.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_digest_reads_back_as_it_prints() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse(), Ok(Digest::of(b"")));
        let long = Digest::of_with(Algorithm::Sha512, b"x");
        assert_eq!(long.to_string().parse(), Ok(long));
        for digest in [Digest::of(b""), long] {
            assert_eq!(Digest::split_from(&format!("{digest}0 and more")), Some((digest, "0 and more")));
            assert_eq!(Digest::split_from(&digest.to_string()[..70]), None);
        }
    }

    #[test]
    fn digests_stand_in_the_order_of_their_texts() {
        let mut digests: Vec<_> = (0..50_u8)
            .flat_map(|number| Algorithm::ALL.map(|algorithm| Digest::of_with(algorithm, [number])))
            .collect();
        let alike = (0..16).map(|last| format!("{}{last:x}", &EMPTY[..70]).parse::<Digest>().unwrap());
        digests.extend(alike);
        let mut texts: Vec<_> = digests.iter().map(Digest::to_string).collect();
        digests.sort();
        texts.sort();
        assert_eq!(digests.iter().map(Digest::to_string).collect::<Vec<_>>(), texts);
    }

    #[test]
    fn a_digest_begins_with_each_beginning_of_its_digits_and_with_no_other() {
        let digest = Digest::of(b"");
        let hex = digest.hex();
        for end in 0..=hex.len() {
            assert!(digest.begins_with(&hex[..end]));
            assert!(!digest.begins_with(&format!("{}g", &hex[..end])));
        }
        for other in [&hex.to_uppercase(), &hex[1..], &format!("{hex}0"), &format!("{}0", &hex[..9]), "é"] {
            assert!(!digest.begins_with(other), "{other}");
        }
    }

    #[test]
    fn what_is_not_exactly_a_digest_is_refused() {
        for text in [
            "",
            "sha256:",
            &EMPTY[7..],
            &EMPTY.to_uppercase(),
            &EMPTY.replace("sha256", "sha512"),
            &EMPTY.replace("sha256", "md5"),
            &format!("{EMPTY}00"),
            &EMPTY.replace('e', "g"),
            &EMPTY.replace('e', "/"),
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_chain_id_is_the_hash_of_the_text_that_the_spec_gives() {
        let [a, b, c] = [b"a", b"b", b"c"].map(|tar| DiffId::of_tar(Digest::of(tar)));
        let two = Digest::of(format!("{a} {b}"));
        let three = Digest::of(format!("{two} {c}"));
        assert_eq!(ChainId::of([a]), Some(ChainId::base(a)));
        assert_eq!(ChainId::of([a]).unwrap().as_digest(), a.as_digest());
        assert_eq!(ChainId::of([a, b, c]).unwrap().as_digest(), &three);
        assert_eq!(ChainId::of([]), None);
    }
}
