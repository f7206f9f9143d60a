//! What can be said about a key without reading a file: the kind of its values, its default, its range, its meaning.

use super::range::Bounds;

/// A key of the configuration.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its path: `Training.Losses.l1_weight`.
    pub path: String,
    /// What its values are.
    pub kind: Kind,
    /// The default, as YAML.
    pub default: String,
    /// Rules that values keep, beside their kind.
    pub(crate) bounds: Vec<Bounds>,
    /// What it does.
    pub meaning: String,
    /// Whether opensr-srgan does not have it.
    pub is_ours: bool,
}

/// A section of the configuration.
#[derive(Clone, Debug)]
pub struct Section {
    /// Its path: `Training.Losses`; empty for the whole.
    pub path: String,
    /// What it is about.
    pub meaning: String,
}

/// Sections, and behind each its keys.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    Section(Section),
    Key(Key),
}

/// What a declaration says about a key or a section beside its type.
#[derive(Clone, Debug)]
pub(crate) struct About {
    pub path: String,
    /// The lines of its doc comment.
    pub doc: &'static [&'static str],
    pub bounds: Vec<Bounds>,
}

/// The kind of a key's values.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// `true` or `false`.
    Switch,
    /// A whole number.
    Whole,
    /// A number.
    Number,
    /// A text.
    Text,
    /// A path of a file or folder.
    Path,
    /// One of these names.
    Names(Vec<Name>),
    /// A list, of a fixed length if one is stated.
    List(Box<Kind>, Option<usize>),
    /// Either of these.
    Either(Vec<Kind>),
    /// `null`, or this.
    Optional(Box<Kind>),
}

/// One of the values of a key that takes names.
#[derive(Clone, Debug, PartialEq)]
pub struct Name {
    /// The name that is written.
    pub name: &'static str,
    /// Other names that are understood.
    pub aliases: Vec<&'static str>,
    /// What it stands for.
    pub meaning: String,
}

/// The text of a doc comment in the words of YAML, without the mark of our own keys.
pub(crate) fn text_of(doc: &[&str]) -> (String, bool) {
    let text = doc.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    let text = text.replace("`None`", "`null`");
    match text.strip_prefix("(ours) ") {
        Some(rest) => (rest.to_owned(), true),
        None => (text, false),
    }
}

impl About {
    /// The key that this is about.
    pub fn key(self, kind: Kind, default: String) -> Item {
        let (meaning, is_ours) = text_of(self.doc);
        Item::Key(Key { path: self.path, kind, default, bounds: self.bounds, meaning, is_ours })
    }
}

impl Kind {
    /// Values without meaning beside their name.
    pub(crate) fn names(names: impl IntoIterator<Item = &'static str>) -> Kind {
        let name = |name| Name { name, aliases: vec![], meaning: String::new() };
        Kind::Names(names.into_iter().map(name).collect())
    }

    /// In words.
    pub fn describe(&self) -> String {
        match self {
            Kind::Switch => "true or false".into(),
            Kind::Whole => "whole number".into(),
            Kind::Number => "number".into(),
            Kind::Text => "text".into(),
            Kind::Path => "path".into(),
            Kind::Names(names) => names.iter().map(|n| n.name).collect::<Vec<_>>().join(", "),
            Kind::List(of, None) => format!("list of {}", of.plural()),
            Kind::List(of, Some(len)) => format!("list of {len} {}", of.plural()),
            Kind::Either(kinds) => kinds.iter().map(Kind::describe).collect::<Vec<_>>().join(", or "),
            Kind::Optional(of) => format!("{}, or null", of.describe()),
        }
    }

    /// Several of them, in words.
    fn plural(&self) -> String {
        match self {
            Kind::List(of, _) => format!("lists of {}", of.plural()),
            Kind::Either(kinds) => kinds.iter().map(Kind::plural).collect::<Vec<_>>().join(" or "),
            Kind::Switch | Kind::Names(_) | Kind::Optional(_) => self.describe(),
            Kind::Whole | Kind::Number | Kind::Text | Kind::Path => format!("{}s", self.describe()),
        }
    }
}

impl Key {
    /// The range in words; empty if every value of the kind is allowed.
    pub fn range(&self) -> String {
        self.bounds.iter().map(|b| b.words.as_str()).filter(|words| !words.is_empty()).collect::<Vec<_>>().join(", ")
    }

    /// The last name of its path.
    pub fn name(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or_default()
    }
}
