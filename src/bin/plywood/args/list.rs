//! Filters of the commands that list, with docker's words.

use plywood::{LabelFilter, Timestamp};

use super::prune::{label, truth, until};
use crate::containers::now;

/// One filter of `images`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ImageFilter {
    Dangling(bool),
    Reference(String),
    Label(LabelFilter),
    Until(Timestamp),
}

/// One filter of `ps`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ContainerFilter {
    Name(String),
    Id(String),
    Ancestor(String),
    State(String),
    Label(LabelFilter),
}

pub(super) fn image_filter(text: &str) -> Result<ImageFilter, String> {
    const KNOWN: &str = "dangling=, reference=, label= and until=";
    match split(text, KNOWN)? {
        ("dangling", value) => truth(value).map(ImageFilter::Dangling),
        ("reference", value) => Ok(ImageFilter::Reference(value.to_owned())),
        ("label", value) => label(value).map(ImageFilter::Label),
        ("until", value) => until(value, now()).map(ImageFilter::Until),
        _ => Err(unknown(text, KNOWN)),
    }
}

pub(super) fn container_filter(text: &str) -> Result<ContainerFilter, String> {
    const KNOWN: &str = "name=, id=, ancestor=, state= and label=";
    match split(text, KNOWN)? {
        ("name", value) => Ok(ContainerFilter::Name(value.to_owned())),
        ("id", value) => Ok(ContainerFilter::Id(value.to_owned())),
        ("ancestor", value) => Ok(ContainerFilter::Ancestor(value.to_owned())),
        ("state" | "status", value @ ("created" | "mounted" | "dead")) => {
            Ok(ContainerFilter::State(value.to_owned()))
        }
        ("state" | "status", value) => Err(format!("{value:?} is none of created, mounted and dead")),
        ("label", value) => label(value).map(ContainerFilter::Label),
        _ => Err(unknown(text, KNOWN)),
    }
}

fn split<'t>(text: &'t str, known: &str) -> Result<(&'t str, &'t str), String> {
    text.split_once('=').ok_or_else(|| unknown(text, known))
}

fn unknown(text: &str, known: &str) -> String {
    format!("{text:?} is no filter, only {known} are")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_of_a_list_says_what_it_asks_for() {
        assert_eq!(image_filter("dangling=true"), Ok(ImageFilter::Dangling(true)));
        assert_eq!(image_filter("reference=a=b"), Ok(ImageFilter::Reference("a=b".to_owned())));
        assert_eq!(container_filter("status=dead"), Ok(ContainerFilter::State("dead".to_owned())));
        for wrong in ["", "dangling", "dangling=perhaps", "name=x", "label=", "until=never"] {
            assert!(image_filter(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "status=exited", "dangling=true", "label="] {
            assert!(container_filter(wrong).is_err(), "{wrong}");
        }
    }
}
