//! From YAML text to the tree. Works on the parser's events, so that duplicate keys are reported by their full
//! key and neither nesting nor anchors can exhaust memory.
//!
//! Our own tree over the parser's events, as serde-based readers lose the line and column that every message names.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput};

use super::tree::{Content, Entry, Node, Origin, Wrong, join, shortened};
use crate::{Error, Result};

/// Deepest nesting accepted; the schema's deepest value is at 4.
const MAX_DEPTH: usize = 32;
/// Most nodes accepted in one document, copies made by anchors included.
pub(crate) const MAX_NODES: usize = 10_000;
/// Most bytes of values and keys accepted in one document, copies made by anchors included.
pub(crate) const MAX_TEXT: usize = 4 << 20;

/// Parses a file's text to a mapping; an empty text is an empty mapping. Errors: with file and line.
pub(crate) fn parse_file(text: &str, file: Option<&Path>) -> Result<Node> {
    let file: Option<Arc<Path>> = file.map(Arc::from);
    let origin = |line| Origin::Line { file: file.clone(), line };
    let root = parse(text.trim_start_matches('\u{feff}'), "", &origin)?;
    root.entries("the sections Data, Model, Training, …")?;
    Ok(root)
}

/// What a single YAML value holds; `None` if it is not YAML or null.
pub(crate) fn value_of(text: &str) -> Option<serde_json::Value> {
    let value = parse(text, "", &|line| Origin::Line { file: None, line }).ok()?.to_json();
    (!value.is_null()).then_some(value)
}

/// Applies an override `Section.key=value`, the value being YAML, to the tree. Errors: name the override.
pub(crate) fn apply_override(root: &mut Node, text: &str) -> Result<()> {
    let form = "overrides have the form Section.key=value, as Generator.n_blocks=8";
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| Error::usage(format!("`{}` is not an override", shortened(text))).with_hint(form))?;
    let key = key.trim();
    if key.is_empty() || key.split('.').any(|name| name.trim().is_empty()) {
        return Err(Error::usage(format!("the override `{}` does not name a key", shortened(text))).with_hint(form));
    }
    let shared: Arc<str> = text.into();
    let node = parse(value, key, &|_| Origin::Override(shared.clone()))?;
    if value.trim().is_empty() {
        let wrong = Wrong::new("there is no value behind the `=`");
        return Err(node.error(wrong.hint("`null` stands for the default or for nothing")));
    }
    root.put(key, node)
}

fn parse(text: &str, key: &str, origin: &dyn Fn(usize) -> Origin) -> Result<Node> {
    let parser = Parser::new_from_str(text);
    let mut builder = Builder { parser, origin, anchors: HashMap::new(), nodes: 0, text: 0 };
    builder.document(key)
}

struct Builder<'a> {
    parser: Parser<'a, StrInput<'a>>,
    origin: &'a dyn Fn(usize) -> Origin,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    text: usize,
}

impl<'a> Builder<'a> {
    fn document(&mut self, key: &str) -> Result<Node> {
        let null = Content::Scalar { text: String::new(), plain: true };
        let mut root = Node { key: key.to_owned(), origin: (self.origin)(1), content: null };
        let mut documents = 0;
        loop {
            let (event, span) = self.next(key)?;
            match event {
                Event::StreamEnd => return Ok(root),
                Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
                _ if documents > 0 => {
                    return Err(self
                        .node(key, &span, Content::List(vec![]))
                        .error(Wrong::new("a second YAML document")));
                }
                event => {
                    documents += 1;
                    root = self.value(event, span, key, 0)?;
                }
            }
        }
    }

    /// The next event. Errors: the text is not YAML.
    fn next(&mut self, key: &str) -> Result<(Event<'a>, Span)> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(self.scan_error(key, &error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn scan_error(&self, key: &str, error: &ScanError) -> Error {
        let origin = (self.origin)(error.marker().line());
        let node = Node { key: key.to_owned(), origin, content: Content::List(vec![]) };
        let column = error.marker().col() + 1;
        node.error(Wrong::new(format!("this is not valid YAML: {} (column {column})", error.info())))
    }

    fn node(&self, key: &str, span: &Span, content: Content) -> Node {
        Node { key: key.to_owned(), origin: (self.origin)(span.start.line()), content }
    }

    /// The node that `event` starts, read to its end.
    fn value(&mut self, event: Event<'a>, span: Span, key: &str, depth: usize) -> Result<Node> {
        let mut node = self.node(key, &span, Content::List(vec![]));
        self.grow(&node, depth, (1, key.len()))?;
        let anchor = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let is_text = tag.is_some_and(|tag| tag.suffix == "str");
                node.content =
                    Content::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain && !is_text };
                refuse_missing(&node)?;
                anchor
            }
            Event::SequenceStart(anchor, _) => {
                node.content = Content::List(self.list(key, depth)?);
                anchor
            }
            Event::MappingStart(anchor, _) => {
                node.content = Content::Map(self.map(key, depth)?);
                anchor
            }
            Event::Alias(anchor) => {
                let shared = self.anchors.get(&anchor);
                let shared = shared.ok_or_else(|| node.error(Wrong::new("this refers to a value that contains it")))?;
                // Before it is copied; the copy's keys begin with this one.
                let (nodes, text) = size(shared);
                self.grow(&node, depth, (nodes, text + nodes * key.len()))?;
                node.content = self.anchors[&anchor].content.clone();
                node.rekey(key);
                0
            }
            _ => return Err(node.error(Wrong::new("this is not valid YAML: a value is missing"))),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    /// Counts nodes and bytes of text that `node` adds.
    fn grow(&mut self, node: &Node, depth: usize, (nodes, text): (usize, usize)) -> Result<()> {
        self.nodes += nodes;
        self.text += text;
        if depth > MAX_DEPTH || self.nodes > MAX_NODES || self.text > MAX_TEXT {
            return Err(node.error(Wrong::new("this YAML is nested too deeply or is too large for a configuration")));
        }
        Ok(())
    }

    fn list(&mut self, key: &str, depth: usize) -> Result<Vec<Node>> {
        let mut items = Vec::new();
        loop {
            match self.next(key)? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, span) => items.push(self.value(event, span, &format!("{key}[{}]", items.len()), depth + 1)?),
            }
        }
    }

    fn map(&mut self, key: &str, depth: usize) -> Result<Vec<Entry>> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = self.next(key)?;
            let name = match event {
                Event::MappingEnd => break,
                Event::Scalar(name, ..) => name.into_owned(),
                _ => {
                    return Err(self.node(key, &span, Content::List(vec![])).error(Wrong::new("a key must be a name")));
                }
            };
            let full = join(key, &name);
            let (event, value_span) = self.next(&full)?;
            let mut node = self.value(event, value_span, &full, depth + 1)?;
            node.origin = (self.origin)(span.start.line());
            if name == "<<" {
                merged.push(node);
            } else if let Some(first) = entries.iter().find(|entry| entry.name == name) {
                let first = match first.node.origin {
                    Origin::Line { line, .. } => format!(" (first on line {line})"),
                    Origin::Override(_) => String::new(),
                };
                return Err(node.error(Wrong::new(format!("this key appears twice{first}"))));
            } else {
                entries.push(Entry { name, node });
            }
        }
        merged.into_iter().try_for_each(|node| merge(&mut entries, node, key))?;
        Ok(entries)
    }
}

/// YAML's merge key: adds the entries of a mapping, or of a list of mappings, that are not there yet.
fn merge(entries: &mut Vec<Entry>, node: Node, key: &str) -> Result<()> {
    match node.content {
        Content::Map(others) => {
            for mut other in others {
                if entries.iter().all(|entry| entry.name != other.name) {
                    other.node.rekey(&join(key, &other.name));
                    entries.push(other);
                }
            }
            Ok(())
        }
        Content::List(nodes) => nodes.into_iter().try_for_each(|node| merge(entries, node, key)),
        Content::Scalar { .. } => Err(node.error(Wrong::type_of(&node, "a mapping to merge"))),
    }
}

/// OmegaConf's mark for missing values has no meaning here.
fn refuse_missing(node: &Node) -> Result<()> {
    match node.text() {
        Some("???") => Err(node.error(Wrong::new("the value is missing (`???`)"))),
        _ => Ok(()),
    }
}

/// Nodes of a tree, and bytes of their values and keys.
pub(crate) fn size(node: &Node) -> (usize, usize) {
    let sum = |a: (usize, usize), b: (usize, usize)| (a.0 + b.0, a.1 + b.1);
    let own = (1, node.key.len());
    match &node.content {
        Content::Scalar { text, .. } => sum(own, (0, text.len())),
        Content::List(items) => items.iter().map(size).fold(own, sum),
        Content::Map(entries) => entries.iter().map(|entry| size(&entry.node)).fold(own, sum),
    }
}
