//! [`Platform`]: the machine that an image is for, and the choice among those that an index offers.
//!
//! What a document says is kept as it says it; comparing goes by the normal form ([`Platform::normalized`]),
//! whose rules are containerd's: `aarch64` is `arm64`, `arm64/v8` is `arm64`, `armhf` is `arm/v7`.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use serde_json::Value;

use super::ImageError;
use super::json::{Extra, Fields, FromJson, Place, deserialize_from_json};
use crate::text::quotation;

/// Operating system and processor, in Go's words.
///
/// Written and read as `linux/arm/v7`, or `windows(10.0.17763)/amd64` where the version matters.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Platform {
    /// Processor: `amd64`, `arm64`, …
    pub architecture: String,
    /// Operating system: `linux`, …
    pub os: String,
    /// Version of the operating system; used for Windows.
    #[serde(rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// What the operating system must be able to do; used for Windows.
    #[serde(rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// Variant of the processor: `v7`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Fields without a meaning here.
    #[serde(flatten)]
    pub extra: Extra,
}

deserialize_from_json!(Platform);

impl FromJson for Platform {
    fn from_json(value: Value, place: &Place<'_>) -> Result<Self, ImageError> {
        let mut fields = Fields::of(value, place)?;
        Ok(Self {
            architecture: fields.required("architecture")?,
            os: fields.required("os")?,
            os_version: fields.optional("os.version")?,
            os_features: fields.or_default("os.features")?,
            variant: fields.optional("variant")?,
            extra: fields.rest()?,
        })
    }
}

impl Platform {
    /// A platform without a variant.
    pub fn new(os: impl Into<String>, architecture: impl Into<String>) -> Self {
        Self { os: os.into(), architecture: architecture.into(), ..Self::default() }
    }

    /// The platform this program was compiled for.
    pub fn host() -> Self {
        let little = cfg!(target_endian = "little");
        let architecture = match std::env::consts::ARCH {
            "x86" => "386",
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "loongarch64" => "loong64",
            "powerpc" => "ppc",
            "powerpc64" if little => "ppc64le",
            "powerpc64" => "ppc64",
            "mips" if little => "mipsle",
            "mips64" if little => "mips64le",
            same => same,
        };
        Self::new(std::env::consts::OS, architecture).normalized()
    }

    /// Whether this marks an attestation, which describes an image and is none.
    pub fn is_unknown(&self) -> bool {
        self.os == "unknown" && self.architecture == "unknown"
    }

    /// The form in which equal platforms are equal: known names for the processor, lower case, no variant
    /// where it is the one that is meant without, features in order. Nothing else is dropped.
    #[must_use]
    pub fn normalized(&self) -> Self {
        let mut os = self.os.to_ascii_lowercase();
        if os == "macos" {
            os = "darwin".to_owned();
        }
        let variant = self.variant.as_deref().unwrap_or_default().to_ascii_lowercase();
        let architecture = self.architecture.to_ascii_lowercase();
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("i386", _) => ("386", ""),
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
            ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
            ("armel", _) | ("arm", "6") => ("arm", "v6"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "8") => ("arm", "v8"),
            (architecture, variant) => (architecture, variant),
        };
        let (architecture, variant) = (architecture.to_owned(), variant.to_owned());
        let mut os_features = self.os_features.clone();
        os_features.sort();
        os_features.dedup();
        Self {
            architecture,
            os,
            os_version: self.os_version.clone(),
            os_features,
            variant: (!variant.is_empty()).then_some(variant),
            extra: self.extra.clone(),
        }
    }

    /// Whether what is made for `offered` runs on this platform.
    pub fn accepts(&self, offered: &Self) -> bool {
        self.preference(offered).is_some()
    }

    /// How far `offered` is from this platform: 0 is the same, `None` cannot run.
    ///
    /// A newer variant of a processor runs what was made for an older one, `amd64` runs `386`, `arm64` runs
    /// `arm`; the nearest is to be preferred. Version and features of the operating system count on Windows
    /// only, where the first three numbers of the version must agree.
    pub fn preference(&self, offered: &Self) -> Option<u32> {
        let (wanted, offered) = (self.normalized(), offered.normalized());
        if wanted.os != offered.os || (wanted.os == "windows" && !wanted.windows_runs(&offered)) {
            return None;
        }
        if (&wanted.architecture, &wanted.variant) == (&offered.architecture, &offered.variant) {
            return Some(0);
        }
        let (wanted_generation, offered_generation) = (wanted.generation(), offered.generation());
        match (wanted.architecture.as_str(), offered.architecture.as_str()) {
            ("amd64", "amd64") | ("arm", "arm") => wanted_generation?.0.checked_sub(offered_generation?.0),
            ("arm64", "arm64") => match (wanted_generation?, offered_generation?) {
                // v9.0 grew out of v8.5.
                ((9, wanted), (8, offered)) => (wanted + 5).checked_sub(offered).map(|far| wanted + 1 + far),
                ((wanted, minor), (offered, offered_minor)) if wanted == offered => {
                    minor.checked_sub(offered_minor)
                }
                _ => None,
            },
            ("amd64", "386") => Some(FOREIGN),
            ("arm64", "arm") => 8u32.checked_sub(offered_generation?.0).map(|far| FOREIGN + far),
            _ => None,
        }
    }

    /// The best of what is offered, the first of equals.
    pub fn choose<'a>(&self, offered: impl IntoIterator<Item = &'a Self>) -> Option<&'a Self> {
        let ranked = offered.into_iter().filter_map(|offered| Some((self.preference(offered)?, offered)));
        ranked.min_by_key(|(far, _)| *far).map(|(_, offered)| offered)
    }

    /// Major and minor number of the processor's variant, for those whose variants are ordered.
    fn generation(&self) -> Option<(u32, u32)> {
        let Some(variant) = &self.variant else {
            return match self.architecture.as_str() {
                "amd64" => Some((1, 0)),
                "arm64" => Some((8, 0)),
                _ => None,
            };
        };
        let number_of = variant.strip_prefix('v')?;
        let (major, minor) = number_of.split_once('.').unwrap_or((number_of, "0"));
        let number = |text: &str| (text.len() <= 2).then(|| text.parse().ok()).flatten();
        Some((number(major)?, number(minor)?))
    }

    fn windows_runs(&self, offered: &Self) -> bool {
        let build = |version: &str| version.split('.').take(3).map(str::to_owned).collect::<Vec<_>>();
        let same_build = match (&self.os_version, &offered.os_version) {
            (Some(wanted), Some(offered)) => build(wanted) == build(offered),
            _ => true,
        };
        same_build && offered.os_features.iter().all(|feature| self.os_features.contains(feature))
    }
}

/// Farther than any variant of the same processor.
const FOREIGN: u32 = 1000;

/// A text that names no platform.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text:?} is not a platform like linux/arm64/v8: {reason}")]
pub struct PlatformError {
    text: String,
    reason: &'static str,
}

impl FromStr for Platform {
    type Err = PlatformError;

    /// Reads `os/architecture[/variant]`, or one of the two alone: a known system is completed by the host's
    /// architecture, a known architecture by `linux`. The result is in normal form.
    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let fault = |reason| PlatformError { text: quotation(text), reason };
        let word = |word: &str| {
            let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-');
            if word.is_empty() || !word.bytes().all(plain) {
                return Err(fault("a part is empty or has other characters than letters, digits, _ . and -"));
            }
            Ok(word.to_owned())
        };
        let mut parts = text.split('/');
        let first = parts.next().unwrap_or_default();
        let (os, options) = match first.split_once('(') {
            None => (first, ""),
            Some((os, options)) => {
                (os, options.strip_suffix(')').ok_or_else(|| fault("a bracket is not closed"))?)
            }
        };
        let mut platform = Self { os: word(os)?, ..Self::default() };
        let mut options = options.split('+');
        platform.os_version = options.next().filter(|version| !version.is_empty()).map(word).transpose()?;
        platform.os_features = options.map(word).collect::<Result<_, _>>()?;
        match (parts.next(), parts.next(), parts.next()) {
            (None, ..) => {
                let alone = platform.normalized();
                if OPERATING_SYSTEMS.contains(&alone.os.as_str()) {
                    let host = Self::host();
                    return Ok(Self { architecture: host.architecture, variant: host.variant, ..alone });
                }
                let alone = Self::new("linux", os).normalized();
                if first != os || !ARCHITECTURES.contains(&alone.architecture.as_str()) {
                    return Err(fault("it is neither a known operating system nor a known architecture"));
                }
                return Ok(alone);
            }
            (Some(architecture), variant, None) => {
                platform.architecture = word(architecture)?;
                platform.variant = variant.map(word).transpose()?;
            }
            _ => return Err(fault("it has more than three parts")),
        }
        Ok(platform.normalized())
    }
}

const OPERATING_SYSTEMS: [&str; 16] = [
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "wasip1",
    "windows",
];

const ARCHITECTURES: [&str; 18] = [
    "386", "amd64", "arm", "armbe", "arm64", "arm64be", "loong64", "mips", "mipsle", "mips64", "mips64le",
    "ppc", "ppc64", "ppc64le", "riscv64", "s390x", "sparc64", "wasm",
];

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.os)?;
        if self.os_version.is_some() || !self.os_features.is_empty() {
            write!(f, "({}", self.os_version.as_deref().unwrap_or_default())?;
            for feature in &self.os_features {
                write!(f, "+{feature}")?;
            }
            f.write_str(")")?;
        }
        write!(f, "/{}", self.architecture)?;
        if let Some(variant) = &self.variant {
            write!(f, "/{variant}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn every_spelling_of_a_platform_has_one_normal_form() {
        for (text, normal) in [
            ("linux/amd64", "linux/amd64"),
            ("Linux/x86_64", "linux/amd64"),
            ("linux/x86-64/v3", "linux/amd64/v3"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm64/8", "linux/arm64"),
            ("linux/arm64/v9.0", "linux/arm64/v9"),
            ("linux/arm64/v8.2", "linux/arm64/v8.2"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/arm/5", "linux/arm/v5"),
            ("linux/i386", "linux/386"),
            ("macOS/arm64", "darwin/arm64"),
            ("arm64", "linux/arm64"),
            ("riscv64", "linux/riscv64"),
            ("windows(10.0.17763.1)/amd64", "windows(10.0.17763.1)/amd64"),
            ("windows(10.0+win32k+a)/amd64", "windows(10.0+a+win32k)/amd64"),
            ("linux(+erofs)/amd64", "linux(+erofs)/amd64"),
        ] {
            assert_eq!(platform(text).to_string(), normal, "{text}");
        }
        assert_eq!(platform("linux"), Platform::new("linux", Platform::host().architecture).normalized());
    }

    #[test]
    fn what_is_no_platform_is_refused() {
        for text in [
            "",
            "/",
            "linux/",
            "/amd64",
            "linux//v7",
            "linux/arm/v7/x",
            "linux/arm/",
            "linux/*",
            "beos",
            "li nux/arm",
            "linux(1/arm",
            "windows(1 0)/amd64",
            "linux(1+)/arm",
            "amd64(1)",
        ] {
            assert!(text.parse::<Platform>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_nearest_platform_that_runs_is_chosen() {
        for (wanted, offered, chosen) in [
            ("linux/amd64", "linux/arm64 linux/amd64 linux/386", "linux/amd64"),
            ("linux/amd64", "linux/386 linux/arm64", "linux/386"),
            ("linux/amd64", "linux/amd64/v2 linux/386", "linux/386"),
            ("linux/amd64/v3", "linux/amd64 linux/amd64/v2 linux/amd64/v4", "linux/amd64/v2"),
            ("linux/arm/v7", "linux/arm/v5 linux/arm/v6 linux/arm/v8", "linux/arm/v6"),
            ("linux/arm/v6", "linux/arm/v7", ""),
            ("linux/arm64", "linux/arm/v6 linux/arm/v7", "linux/arm/v7"),
            ("linux/arm64", "linux/arm/v7 linux/arm64/v8", "linux/arm64"),
            ("linux/arm64", "linux/arm64/v9", ""),
            ("linux/arm64/v9", "linux/arm64 linux/arm64/v8.5 linux/arm64/v8.6", "linux/arm64/v8.5"),
            ("linux/arm64/v9.2", "linux/arm64/v8.7 linux/arm64/v9.1 linux/arm64/v9", "linux/arm64/v9.1"),
            ("linux/arm64/v8.2", "linux/arm64 linux/arm64/v8.1", "linux/arm64/v8.1"),
            ("linux/386", "linux/amd64", ""),
            ("linux/ppc64le", "linux/ppc64le/power9", ""),
            ("linux/amd64", "windows/amd64 unknown/unknown", ""),
            ("linux(1)/amd64", "linux(2+x)/amd64", "linux(2+x)/amd64"),
            (
                "windows(10.0.1.5)/amd64",
                "windows(10.0.2.5)/amd64 windows(10.0.1.9)/amd64",
                "windows(10.0.1.9)/amd64",
            ),
            ("windows/amd64", "windows(+win32k)/amd64", ""),
        ] {
            let offers: Vec<_> = offered.split(' ').map(platform).collect();
            let answer = platform(wanted).choose(&offers).map(Platform::to_string).unwrap_or_default();
            assert_eq!(answer, chosen, "{wanted} of {offered}");
        }
    }

    #[test]
    fn of_equals_the_first_is_chosen() {
        let offers = [
            platform("linux/amd64"),
            Platform { os_version: Some("1".to_owned()), ..platform("linux/amd64") },
        ];
        assert_eq!(platform("linux/amd64").choose(&offers), Some(&offers[0]));
        assert_eq!(platform("linux/amd64").choose(offers.iter().rev()), Some(&offers[1]));
    }

    #[test]
    fn the_host_runs_what_was_made_for_it() {
        assert!(Platform::host().accepts(&Platform::host()));
        assert_eq!(Platform::host().os, "linux");
    }

    #[test]
    fn fields_keep_their_words_and_their_strangers() {
        let text = r#"{"architecture":"aarch64","os":"linux","os.version":"1","os.features":["b","a"],"variant":"v8","features":["sse"]}"#;
        let platform: Platform = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&platform).unwrap(), text);
        assert!(serde_json::from_str::<Platform>(r#"{"os":"linux"}"#).is_err());
    }

    proptest! {
        #[test]
        fn a_platform_reads_back_as_it_prints(
            text in "[a-z]{1,5}(\\([0-9.]{0,4}(\\+[a-z]{1,3}){0,2}\\))?/(arm|arm64|amd64|[a-z]{1,4})(/[a-z0-9.]{1,3})?",
        ) {
            let platform: Platform = text.parse().unwrap();
            prop_assert_eq!(platform.to_string().parse(), Ok(platform.clone()));
            prop_assert_eq!(platform.normalized(), platform.clone());
            prop_assert_eq!(platform.preference(&platform), Some(0));
        }
    }
}
