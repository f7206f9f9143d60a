//! The reference of all keys, made from their declarations: for a terminal, as a page of the book, as a JSON Schema.

mod page;
mod schema;
#[cfg(test)]
mod tests;

use super::choice::closest;
use super::field::Field;
use super::kind::{About, Item, Key, Kind, Section};
use super::schema::Config;
use crate::{Error, Result};

pub use page::markdown;
pub use schema::json_schema;

/// Columns of a terminal that text is wrapped to.
const COLUMNS: usize = 100;

/// Sections in the order of their declaration, each followed by its keys.
fn items() -> Vec<Item> {
    let mut items = Vec::new();
    Config::default().describe(About { path: String::new(), doc: &[], bounds: vec![] }, &mut items);
    items
}

/// Every key, in the order of the declaration.
pub fn keys() -> Vec<Key> {
    let key = |item| if let Item::Key(key) = item { Some(key) } else { None };
    items().into_iter().filter_map(key).collect()
}

/// Every section but the whole, in the order of the declaration.
fn sections() -> Vec<Section> {
    let section = |item| if let Item::Section(section) = item { Some(section) } else { None };
    items().into_iter().filter_map(section).filter(|section| !section.path.is_empty()).collect()
}

/// Every key at or below `section` (all of them without one) with type, default, range and meaning, for a terminal.
///
/// # Errors
/// [`Error::Usage`] if there is no such section or key.
pub fn describe(section: Option<&str>) -> Result<String> {
    let wanted = section.unwrap_or_default();
    let is_below = |path: &str| {
        let rest =
            path.get(..wanted.len()).filter(|start| start.eq_ignore_ascii_case(wanted)).map(|_| &path[wanted.len()..]);
        wanted.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let found: Vec<String> = keys().iter().filter(|key| is_below(&key.path)).map(block).collect();
    if !found.is_empty() {
        return Ok(found.join("\n\n"));
    }
    let all: Vec<String> = sections().into_iter().map(|s| s.path).chain(keys().into_iter().map(|k| k.path)).collect();
    let error = Error::usage(format!("the configuration has no section or key `{wanted}`"));
    Err(match closest(wanted, all.iter().map(String::as_str)) {
        Some(path) => error.with_hint(format!("did you mean `{path}`?")),
        None => error.with_hint("srgan config --keys lists them all"),
    })
}

/// A key for a terminal.
fn block(key: &Key) -> String {
    let range = Some(key.range()).filter(|range| !range.is_empty()).map(|range| format!("; {range}"));
    let kind = format!("{}{}  [default: {}]", key.kind.describe(), range.unwrap_or_default(), key.default);
    let ours = if key.is_ours { " (not in opensr-srgan)" } else { "" };
    let mut lines = vec![key.path.clone()];
    lines.extend(indented(&kind, "    "));
    lines.extend(indented(&format!("{}{ours}", key.meaning), "    "));
    for name in names(&key.kind).iter().filter(|name| !name.meaning.is_empty()) {
        lines.extend(indented(&format!("- {}: {}", name.name, name.meaning), "      "));
    }
    lines.join("\n")
}

/// The names that a key takes, if any.
fn names(kind: &Kind) -> &[super::kind::Name] {
    match kind {
        Kind::Names(names) => names,
        Kind::Optional(of) => names(of),
        _ => &[],
    }
}

/// The text behind `indent` in lines of at most [`COLUMNS`]; longer words stand alone.
fn indented(text: &str, indent: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut().filter(|line| line.chars().count() + 1 + word.chars().count() <= COLUMNS) {
            Some(line) => *line = format!("{line} {word}"),
            None => lines.push(format!("{indent}{word}")),
        }
    }
    lines
}
