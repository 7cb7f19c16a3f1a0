//! What of a list was asked for: names with wildcards, and filters.

use plywood::image::{Reference, time};
use plywood::{Container, ImageSummary, Store};

use crate::args::{ContainerFilter, ImageFilter, ImagesArgs, PsArgs};
use crate::containers::{self, image_of};
use crate::errors::Failure;
use crate::images::split_tag;

/// Which images a list shows.
pub(crate) struct Wanted<'a> {
    args: &'a ImagesArgs,
}

impl<'a> Wanted<'a> {
    pub(crate) fn new(args: &'a ImagesArgs) -> Self {
        Self { args }
    }

    /// Whether a list has an image in it.
    pub(crate) fn has(&self, store: &Store, image: &ImageSummary) -> Result<bool, Failure> {
        if self.says_names() && !image.names.iter().any(|name| self.has_name(&name.familiar())) {
            return Ok(false);
        }
        for filter in &self.args.filters {
            let passes = match filter {
                ImageFilter::Reference(_) => true,
                ImageFilter::Dangling(dangling) => image.names.is_empty() == *dangling,
                ImageFilter::Until(until) => {
                    let created = image.created.as_deref().and_then(|created| time::parse(created).ok());
                    created.is_some_and(|created| created < *until)
                }
                ImageFilter::Label(label) => {
                    let image = store.image(&image.target.digest.to_string())?;
                    image.config().is_some_and(|config| label.is_met_by(&config.config.labels))
                }
            };
            if !passes {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether an image that is listed is listed by this name, too.
    pub(crate) fn has_name(&self, familiar: &str) -> bool {
        self.patterns().all(|pattern| is_called(familiar, pattern))
    }

    fn says_names(&self) -> bool {
        self.patterns().next().is_some()
    }

    fn patterns(&self) -> impl Iterator<Item = &str> {
        let references = self.args.filters.iter().filter_map(|filter| match filter {
            ImageFilter::Reference(pattern) => Some(pattern.as_str()),
            _ => None,
        });
        references.chain(self.args.name.as_deref())
    }
}

/// Whether a list shows a container.
pub(crate) fn shows(args: &PsArgs, container: &Container) -> Result<bool, Failure> {
    for filter in &args.filters {
        let passes = match filter {
            ContainerFilter::Name(part) => container.name().contains(part.as_str()),
            ContainerFilter::Id(beginning) => container.id().starts_with(beginning.as_str()),
            ContainerFilter::State(wanted) => containers::describe(container.state()?).0 == wanted,
            ContainerFilter::Label(label) => label.is_met_by(container.labels()),
            ContainerFilter::Ancestor(image) => {
                let wanted = Reference::parse_familiar(image).map(|name| name.familiar());
                let id = container.image_id().to_string();
                let begins =
                    id.starts_with(image.as_str()) || id["sha256:".len()..].starts_with(image.as_str());
                begins || wanted.is_ok_and(|wanted| image_of(container) == wanted)
            }
        };
        if !passes {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether an image has the name that `pattern` stands for, with or without its tag.
fn is_called(familiar: &str, pattern: &str) -> bool {
    let (name, _) = familiar.split_once('@').unwrap_or((familiar, ""));
    let (repository, _) = split_tag(name);
    // People may say the whole name, too.
    let said = Reference::parse_familiar(pattern).map(|name| name.familiar());
    fits(familiar, pattern) || fits(repository, pattern) || said.is_ok_and(|said| said == familiar)
}

/// Whether `text` is what `pattern` says, in which `*` stands for any letters and `?` for one.
fn fits(text: &str, pattern: &str) -> bool {
    let (text, pattern): (Vec<char>, Vec<char>) = (text.chars().collect(), pattern.chars().collect());
    let (mut at, mut in_pattern) = (0, 0);
    // Where the last star was, and up to where it stands for letters.
    let mut star: Option<(usize, usize)> = None;
    while at < text.len() {
        match (pattern.get(in_pattern), star) {
            (Some('*'), _) => {
                star = Some((in_pattern, at));
                in_pattern += 1;
            }
            (Some(&c), _) if c == '?' || c == text[at] => (at, in_pattern) = (at + 1, in_pattern + 1),
            (_, Some((place, upto))) => {
                star = Some((place, upto + 1));
                (at, in_pattern) = (upto + 1, place + 1);
            }
            (_, None) => return false,
        }
    }
    pattern[in_pattern..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_said_with_or_without_its_tag_and_with_wildcards() {
        for pattern in
            ["debian:12", "debian", "deb*", "*", "d?bian", "*:12", "docker.io/library/debian:12", "*b*n"]
        {
            assert!(is_called("debian:12", pattern), "{pattern}");
        }
        for pattern in ["deb", "debian:1", "debian:13", "?", "ubuntu*", "", "library/debian/x"] {
            assert!(!is_called("debian:12", pattern), "{pattern}");
        }
        assert!(is_called("localhost:5000/x:1", "localhost:5000/*"));
        assert!(is_called("localhost:5000/x:1", "localhost:5000/x"));
        assert!(fits("aaab", "a*ab") && !fits("aaab", "a*aa"));
    }
}
