//! How typed values are read from the tree and written as text.

use super::choice::closest;
use super::kind::{About, Item, Kind};
use super::schema::Config;
use super::tree::{Node, Wrong, join};
use crate::{Error, Result};

/// A key's value or a whole section.
pub(crate) trait Field: Sized {
    /// Reads it from a node that is not null. Errors: wrong type, value or key, with its place.
    fn read(node: &Node) -> Result<Self>;

    /// Appends every key at or below `key` with its value as YAML, in the order of the declaration.
    fn flatten(&self, key: &str, out: &mut Vec<(String, String)>);

    /// Appends what there is to say about the key or section, and about all below it; `self` holds the defaults.
    fn describe(&self, about: About, out: &mut Vec<Item>);
}

/// A value that is written in one line.
pub(crate) trait Scalar: Sized {
    /// Reads it from a node that is not null.
    fn parse(node: &Node) -> Result<Self, Wrong>;

    /// The value as YAML; `parse` reads it back to an equal one.
    fn emit(&self) -> String;

    /// What values there are.
    fn kind() -> Kind;

    /// Whether the node says "none" in a way of this type's own, beside null.
    fn says_none(_node: &Node) -> bool {
        false
    }
}

impl<T: Scalar> Field for T {
    fn read(node: &Node) -> Result<Self> {
        T::parse(node).map_err(|wrong| node.error(wrong))
    }

    fn flatten(&self, key: &str, out: &mut Vec<(String, String)>) {
        out.push((key.to_owned(), self.emit()));
    }

    fn describe(&self, about: About, out: &mut Vec<Item>) {
        out.push(about.key(T::kind(), self.emit()));
    }
}

/// The error for a key that does not exist, with the key that was probably meant.
pub(crate) fn unknown_key(node: &Node, name: &str) -> Error {
    let section = node.key.strip_suffix(name).unwrap_or_default().trim_end_matches('.');
    let mut flat = Vec::new();
    Config::default().flatten("", &mut flat);
    let keys: Vec<String> = flat.into_iter().map(|(key, _)| key).collect();
    let mut siblings: Vec<&str> = keys.iter().filter_map(|key| below(key, section)).collect();
    siblings.dedup();
    let last = |key: &String| key.rsplit('.').next().unwrap_or_default().to_owned();
    let names: Vec<String> = keys.iter().map(last).collect();

    let elsewhere = |wanted: &str| keys.iter().find(|key| *key == wanted || last(key) == wanted).cloned();
    let meant = elsewhere(name)
        .or_else(|| closest(name, siblings.iter().copied()).map(|sibling| join(section, sibling)))
        .or_else(|| closest(name, names.iter().map(String::as_str)).and_then(elsewhere));
    let hint = match meant {
        Some(key) => format!("did you mean `{key}`?"),
        None => format!("valid here: {}", siblings.join(", ")),
    };
    node.error(Wrong::new("unknown key").hint(hint))
}

/// The name right below `section` that leads to `key`.
fn below<'a>(key: &'a str, section: &str) -> Option<&'a str> {
    let rest = if section.is_empty() { key } else { key.strip_prefix(section)?.strip_prefix('.')? };
    rest.split('.').next()
}
