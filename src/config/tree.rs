//! A parsed YAML document before it has types: nodes that remember their full key and where they came from.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::{Error, Result};

/// Where a value was written.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// A line, counted from 1, of a file (or of a text without a name).
    Line { file: Option<Arc<Path>>, line: usize },
    /// An override of the command line, in full.
    Override(Arc<str>),
}

/// A value with its full key (`Training.Losses.l1_weight`) and its origin.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub key: String,
    pub origin: Origin,
    pub content: Content,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// A scalar as written; `plain` if it was not quoted and so may mean more than its text.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key of a mapping.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub name: String,
    pub node: Node,
}

/// What is wrong with a value, before its place is added.
#[derive(Debug)]
pub(crate) struct Wrong {
    message: String,
    hint: Option<String>,
}

impl Wrong {
    pub fn new(message: impl Into<String>) -> Self {
        Wrong { message: message.into(), hint: None }
    }

    /// The value is of another type than `expected`.
    pub fn type_of(node: &Node, expected: &str) -> Self {
        Wrong::new(format!("expected {expected}, found {}", node.describe()))
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// An error about a key that is not written anywhere.
    pub fn without_line(self, key: &str, file: Option<&Path>) -> Error {
        let Wrong { message, hint } = self;
        Error::Config { file: file.map(Into::into), line: None, key: key.to_owned(), message, hint }
    }
}

/// What a plain scalar means in YAML 1.1 as OmegaConf reads it (`1e-4` is a number, `no` is false).
#[derive(Debug, PartialEq)]
pub(crate) enum Plain {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text,
}

impl Plain {
    pub fn of(text: &str) -> Plain {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => Plain::Null,
            "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Plain::Bool(true),
            "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Plain::Bool(false),
            ".nan" | ".NaN" | ".NAN" => Plain::Float(f64::NAN),
            ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Plain::Float(f64::INFINITY),
            "-.inf" | "-.Inf" | "-.INF" => Plain::Float(f64::NEG_INFINITY),
            _ => Plain::number(text),
        }
    }

    fn number(text: &str) -> Plain {
        let digits: String = text.chars().filter(|c| *c != '_').collect();
        let unsigned = digits.trim_start_matches(['+', '-']);
        if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') || text.starts_with('_') {
            return Plain::Text;
        }
        let is_octal = unsigned.len() > 1 && unsigned.starts_with('0') && unsigned.bytes().all(|b| b.is_ascii_digit());
        if is_octal {
            return Plain::Text; // 010 is 8 in YAML 1.1 and 10 in YAML 1.2: neither is safe to assume
        }
        if let Ok(value) = digits.parse() {
            return Plain::Int(value);
        }
        digits.parse().map_or(Plain::Text, Plain::Float)
    }
}

impl Node {
    /// An empty mapping.
    pub fn empty_map(key: impl Into<String>, origin: Origin) -> Node {
        Node { key: key.into(), origin, content: Content::Map(Vec::new()) }
    }

    /// What a plain scalar means; `None` for quoted text, lists and mappings.
    pub fn plain(&self) -> Option<Plain> {
        match &self.content {
            Content::Scalar { text, plain: true } => Some(Plain::of(text)),
            _ => None,
        }
    }

    pub fn is_null(&self) -> bool {
        self.plain() == Some(Plain::Null)
    }

    /// The text of a scalar, quoted or not.
    pub fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The entries of a mapping; null is an empty one. Errors: anything else.
    pub fn entries(&self, expected: &str) -> Result<&[Entry]> {
        match &self.content {
            Content::Map(entries) => Ok(entries),
            _ if self.is_null() => Ok(&[]),
            _ => Err(self.error(Wrong::type_of(self, expected))),
        }
    }

    /// The node at a dotted key below this one, unless it is absent or null.
    pub fn get(&self, key: &str) -> Option<&Node> {
        let node = key.split('.').try_fold(self, |node, name| match &node.content {
            Content::Map(entries) => entries.iter().find(|e| e.name == name).map(|e| &e.node),
            _ => None,
        })?;
        (!node.is_null()).then_some(node)
    }

    /// Takes the entry at a dotted key out of the tree.
    pub fn take(&mut self, key: &str) -> Option<Node> {
        let (name, rest) = split(key);
        let Content::Map(entries) = &mut self.content else { return None };
        let at = entries.iter().position(|e| e.name == name)?;
        match rest {
            Some(rest) => entries[at].node.take(rest),
            None => Some(entries.remove(at).node),
        }
    }

    /// Puts `value` at a dotted key below this mapping, replacing what is there; mappings are merged key by
    /// key, missing mappings on the way are made. Errors: the way leads through a value that is no mapping.
    pub fn put(&mut self, key: &str, value: Node) -> Result<()> {
        if self.is_null() {
            self.content = Content::Map(Vec::new());
        }
        let (parent, (name, rest)) = (self.key.clone(), split(key));
        let Content::Map(entries) = &mut self.content else {
            let wrong = Wrong::new(format!("`{parent}` is not a section, so it has no key `{key}`"));
            return Err(value.error(wrong));
        };
        let at = entries.iter().position(|e| e.name == name).unwrap_or_else(|| {
            let node = Node::empty_map(join(&parent, name), value.origin.clone());
            entries.push(Entry { name: name.into(), node });
            entries.len() - 1
        });
        let slot = &mut entries[at].node;
        match (rest, value.content) {
            (Some(rest), content) => slot.put(rest, Node { content, ..value }),
            (None, Content::Map(inner)) if matches!(slot.content, Content::Map(_)) => {
                inner.into_iter().try_for_each(|entry| slot.put(&entry.name, entry.node))
            }
            (None, content) => {
                *slot = Node { content, ..value };
                Ok(())
            }
        }
    }

    /// Gives this node and all below it the keys they have at a new place.
    pub fn rekey(&mut self, key: &str) {
        self.key = key.to_owned();
        match &mut self.content {
            Content::Scalar { .. } => {}
            Content::List(items) => items.iter_mut().enumerate().for_each(|(i, n)| n.rekey(&format!("{key}[{i}]"))),
            Content::Map(entries) => entries.iter_mut().for_each(|e| e.node.rekey(&join(key, &e.name))),
        }
    }

    /// The value in a few words, for messages.
    pub fn describe(&self) -> String {
        match (&self.content, self.plain()) {
            (_, Some(Plain::Null)) => "nothing (null)".into(),
            (Content::Scalar { text, .. }, Some(Plain::Bool(_))) => format!("`{text}` (true or false)"),
            (Content::Scalar { text, .. }, Some(Plain::Int(_) | Plain::Float(_))) => {
                format!("the number {}", shortened(text))
            }
            (Content::Scalar { text, .. }, _) => format!("the text `{}`", shortened(text)),
            (Content::List(items), _) => format!("a list of {} values", items.len()),
            (Content::Map(_), _) => "a mapping of keys to values".into(),
        }
    }

    /// What the node holds; keys without a value are left out.
    pub fn to_json(&self) -> Value {
        match (&self.content, self.plain()) {
            (Content::Map(entries), _) => {
                let present = entries.iter().filter(|entry| !entry.node.is_null());
                Value::Object(present.map(|entry| (entry.name.clone(), entry.node.to_json())).collect())
            }
            (Content::List(items), _) => items.iter().map(Node::to_json).collect(),
            (_, Some(Plain::Null)) => Value::Null,
            (_, Some(Plain::Bool(value))) => value.into(),
            (_, Some(Plain::Int(value))) if i64::try_from(value).is_ok() => (value as i64).into(),
            (_, Some(Plain::Int(value))) => (value as f64).into(),
            (_, Some(Plain::Float(value))) => value.into(),
            (Content::Scalar { text, .. }, _) => text.as_str().into(),
        }
    }

    /// Turns a failed check into an error about this value.
    pub fn check(&self, outcome: Result<(), String>) -> Result<()> {
        outcome.map_err(|message| self.error(Wrong::new(message)))
    }

    /// An error about this value, with file and line or with the override that it came from.
    pub fn error(&self, wrong: Wrong) -> Error {
        let key = if self.key.is_empty() { "configuration".into() } else { shortened(&self.key).into_owned() };
        let Wrong { message, hint } = wrong;
        match &self.origin {
            Origin::Line { file, line } => {
                Error::Config { file: file.as_deref().map(Into::into), line: Some(*line), key, message, hint }
            }
            Origin::Override(text) => Error::Config {
                file: None,
                line: None,
                key,
                message: format!("{message} (in the override `{}`)", shortened(text)),
                hint,
            },
        }
    }
}

/// The start of a text, for messages.
pub(crate) fn shortened(text: &str) -> Cow<'_, str> {
    const LONGEST: usize = 200;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

/// `section` and `name` as a dotted key.
pub(crate) fn join(section: &str, name: &str) -> String {
    if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") }
}

/// The first name of a dotted key, and the rest.
fn split(key: &str) -> (&str, Option<&str>) {
    key.split_once('.').map_or((key, None), |(name, rest)| (name, Some(rest)))
}
