//! OmegaConf's interpolation: `${Section.key}` and `${.sibling}` are the value of another key, `${oc.env:VAR,default}` that
//! of an environment variable, `${oc.select:key,default}` that of a key or else a default. A value that is nothing but an
//! interpolation takes over what it names, a list or a section too; within a text it is replaced by text. `\${` is a plain
//! `${`.

use std::borrow::Cow;

use super::choice::closest;
use super::tree::{Content, Node, Wrong, shortened};
use super::yaml::{MAX_NODES, MAX_TEXT, size};
use crate::Result;

/// The value of an environment variable.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Interpolations within each other at most.
const MAX_DEPTH: usize = 32;

/// The resolvers that are known here.
const RESOLVERS: [&str; 3] = ["oc.env", "oc.select", "oc.decode"];

/// Replaces every interpolation of a tree by what it stands for.
///
/// # Errors
/// At the value's line: a key or variable that is not there, values that refer to each other, what cannot be resolved here.
pub(crate) fn resolve(root: &mut Node, env: Environment) -> Result<()> {
    if has_interpolation(root) {
        let source = root.clone();
        let mut resolver = Resolver { root: &source, env, open: Vec::new(), depth: 0, nodes: 0, text: 0 };
        *root = resolver.resolved(&source)?;
    }
    Ok(())
}

fn has_interpolation(node: &Node) -> bool {
    match &node.content {
        Content::Scalar { text, .. } => text.contains("${"),
        Content::List(items) => items.iter().any(has_interpolation),
        Content::Map(entries) => entries.iter().any(|entry| has_interpolation(&entry.node)),
    }
}

struct Resolver<'a> {
    root: &'a Node,
    env: Environment<'a>,
    /// Keys whose values are being found out.
    open: Vec<String>,
    /// Interpolations within each other, those of other keys included.
    depth: usize,
    /// Nodes and bytes of text made so far.
    nodes: usize,
    text: usize,
}

/// A part of a text.
enum Part<'t> {
    Text(&'t str),
    /// What stands between `${` and its `}`.
    Inside(&'t str),
}

impl<'a> Resolver<'a> {
    fn resolved(&mut self, node: &Node) -> Result<Node> {
        let content = match &node.content {
            Content::Scalar { text, .. } if text.contains("${") => self.scalar(node, text)?,
            Content::Scalar { .. } => node.content.clone(),
            Content::List(items) => {
                Content::List(items.iter().map(|item| self.resolved(item)).collect::<Result<Vec<Node>>>()?)
            }
            Content::Map(entries) => {
                let mut entries = entries.clone();
                entries.iter_mut().try_for_each(|entry| {
                    entry.node = self.resolved(&entry.node)?;
                    Ok::<_, crate::Error>(())
                })?;
                Content::Map(entries)
            }
        };
        Ok(Node { content, ..node.clone() })
    }

    /// What a text with interpolations stands for.
    fn scalar(&mut self, at: &Node, text: &str) -> Result<Content> {
        let parts = parts(text).map_err(|message| at.error(Wrong::new(message)))?;
        if let [Part::Inside(inside)] = parts.as_slice() {
            return self.value(at, inside);
        }
        let text = self.joined(at, &parts)?;
        Ok(Content::Scalar { text, plain: false })
    }

    fn joined(&mut self, at: &Node, parts: &[Part]) -> Result<String> {
        let mut joined = String::new();
        for part in parts {
            match part {
                Part::Text(text) => joined.push_str(&text.replace("\\${", "${")),
                Part::Inside(inside) => match self.value(at, inside)? {
                    Content::Scalar { text, .. } => joined.push_str(&text),
                    _ => {
                        let message =
                            format!("`${{{}}}` is not a single value, and stands within a text", shortened(inside));
                        return Err(at.error(Wrong::new(message)));
                    }
                },
            }
            self.grow(at, 0, joined.len())?;
        }
        Ok(joined)
    }

    /// The value of `${inside}`.
    fn value(&mut self, at: &Node, inside: &str) -> Result<Content> {
        if self.depth == MAX_DEPTH {
            return Err(at.error(Wrong::new("interpolation is nested too deeply")));
        }
        self.depth += 1;
        let value = self.value_within(at, inside);
        self.depth -= 1;
        value
    }

    fn value_within(&mut self, at: &Node, inside: &str) -> Result<Content> {
        let name = inside.split_once(':').filter(|(name, _)| is_name(name));
        let Some((resolver, arguments)) = name else {
            let key = self.text_of(at, inside)?;
            return match self.key(at, key.trim())? {
                Some(content) => Ok(content),
                None => Err(self.no_such_key(at, key.trim())),
            };
        };
        let arguments = arguments_of(arguments);
        let (first, default) = (arguments[0], arguments.get(1));
        match resolver.trim() {
            "oc.env" => {
                let name = self.text_of(at, first)?;
                match ((self.env)(name.trim()), default) {
                    (Some(text), _) => Ok(Content::Scalar { text, plain: true }),
                    (None, Some(default)) => self.default(at, default),
                    (None, None) => {
                        let wrong =
                            Wrong::new(format!("the environment variable `{}` is not set", shortened(name.trim())));
                        Err(at.error(
                            wrong.hint(format!("set it, or give a default: ${{oc.env:{},default}}", name.trim())),
                        ))
                    }
                }
            }
            "oc.select" => {
                let key = self.text_of(at, first)?;
                match (self.key(at, key.trim())?, default) {
                    (Some(content), _) => Ok(content),
                    (None, Some(default)) => self.default(at, default),
                    (None, None) => Ok(Content::Scalar { text: "null".into(), plain: true }),
                }
            }
            "oc.decode" => {
                Ok(Content::Scalar { text: self.text_of(at, unquoted(first).unwrap_or(first))?, plain: true })
            }
            other => Err(at.error(unknown_resolver(other))),
        }
    }

    /// The text of an argument, whose own interpolations are resolved.
    fn text_of(&mut self, at: &Node, text: &str) -> Result<String> {
        let parts = parts(text).map_err(|message| at.error(Wrong::new(message)))?;
        self.joined(at, &parts)
    }

    /// A default: quoted or plain text, or an interpolation.
    fn default(&mut self, at: &Node, text: &str) -> Result<Content> {
        let text = text.trim();
        if let Some(inner) = unquoted(text) {
            return Ok(Content::Scalar { text: self.text_of(at, inner)?, plain: false });
        }
        if text.contains("${") { self.scalar(at, text) } else { Ok(Content::Scalar { text: text.into(), plain: true }) }
    }

    /// The value of another key, by its path from the root or, behind dots, from this value's section.
    fn key(&mut self, at: &Node, path: &str) -> Result<Option<Content>> {
        let full = absolute(&at.key, path);
        let Some(target) = self.find(&full)? else { return Ok(None) };
        if self.open.contains(&target.key) || at.key == target.key {
            let wrong = Wrong::new(format!("`${{{}}}` leads back to itself", shortened(path)));
            return Err(at.error(wrong));
        }
        self.open.push(target.key.clone());
        let mut resolved = self.resolved(&target)?;
        self.open.pop();
        let (nodes, text) = size(&resolved);
        self.grow(at, nodes, text + nodes * at.key.len())?;
        resolved.rekey(&at.key);
        Ok(Some(resolved.content))
    }

    /// The node at a dotted path, in which numbers and `[number]` are places in lists. What lies behind a value that is
    /// itself an interpolation is looked for in what that stands for.
    fn find(&mut self, path: &str) -> Result<Option<Cow<'a, Node>>> {
        let mut node = Cow::Borrowed(self.root);
        for name in path.split(['.', '[']).map(|name| name.trim_end_matches(']')) {
            if let Content::Scalar { text, .. } = &node.content
                && text.contains("${")
            {
                let content = self.scalar(&node, text)?;
                node = Cow::Owned(Node { content, ..node.into_owned() });
            }
            let next = match &node {
                Cow::Borrowed(node) => below(node, name).map(Cow::Borrowed),
                Cow::Owned(node) => below(node, name).cloned().map(Cow::Owned),
            };
            match next {
                Some(next) => node = next,
                None => return Ok(None),
            }
        }
        Ok(Some(node))
    }

    fn no_such_key(&self, at: &Node, path: &str) -> crate::Error {
        let full = absolute(&at.key, path);
        let mut keys = Vec::new();
        all_keys(self.root, &mut keys);
        let wrong = Wrong::new(format!("`${{{}}}` names no key that is set", shortened(path)));
        at.error(match closest(&full, keys.iter().copied()) {
            Some(key) => wrong.hint(format!("did you mean `${{{key}}}`?")),
            None => {
                wrong.hint("keys are named by their path from the top, as ${Model.in_bands}; defaults are no values")
            }
        })
    }

    fn grow(&mut self, at: &Node, nodes: usize, text: usize) -> Result<()> {
        self.nodes += nodes;
        self.text += text;
        if self.nodes > MAX_NODES || self.text > MAX_TEXT {
            return Err(at.error(Wrong::new("interpolation makes this configuration too large")));
        }
        Ok(())
    }
}

fn unknown_resolver(name: &str) -> Wrong {
    let name = shortened(name);
    let wrong = Wrong::new(format!("`${{{name}:…}}` cannot be resolved here; {} can", RESOLVERS.join(", ")));
    match name.as_ref() {
        "now" | "hydra" => wrong.hint("this is Hydra's own: give the value itself"),
        _ => wrong.hint("give the value itself"),
    }
}

/// Whether a text can be a resolver's name.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'))
}

/// What stands between the quotes of an argument that has some.
fn unquoted(argument: &str) -> Option<&str> {
    let text = argument.trim();
    ['\'', '"'].iter().find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote))
}

/// Cuts a text into plain text and interpolations.
fn parts(text: &str) -> Result<Vec<Part<'_>>, String> {
    let mut parts = Vec::new();
    let (mut from, mut at) = (0, 0);
    while let Some(found) = text[at..].find("${").map(|found| at + found) {
        if text[..found].ends_with('\\') {
            at = found + 2;
            continue;
        }
        if found > from {
            parts.push(Part::Text(&text[from..found]));
        }
        let end = closing(&text[found + 2..]).ok_or_else(|| format!("`{}` has no closing brace", shortened(text)))?;
        parts.push(Part::Inside(&text[found + 2..found + 2 + end]));
        from = found + 2 + end + 1;
        at = from;
    }
    if from < text.len() || parts.is_empty() {
        parts.push(Part::Text(&text[from..]));
    }
    Ok(parts)
}

/// Where the brace stands that closes what begins before `text`.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    text.char_indices().find_map(|(at, c)| match c {
        '{' => {
            depth += 1;
            None
        }
        '}' if depth == 0 => Some(at),
        '}' => {
            depth -= 1;
            None
        }
        _ => None,
    })
}

/// Arguments between commas outside of braces and quotes, at least one.
fn arguments_of(text: &str) -> Vec<&str> {
    let (mut depth, mut quote, mut from) = (0usize, None, 0);
    let mut arguments = Vec::new();
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), _) if open == c => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '{') => depth += 1,
            (None, '}') => depth = depth.saturating_sub(1),
            (None, ',') if depth == 0 => {
                arguments.push(&text[from..at]);
                from = at + 1;
            }
            (None, _) => {}
        }
    }
    arguments.push(&text[from..]);
    arguments
}

/// A path from the root: `.a` is a sibling of the value at `key`, `..a` one of its section's.
fn absolute(key: &str, path: &str) -> String {
    let rest = path.trim_start_matches('.');
    let up = path.len() - rest.len();
    if up == 0 {
        return path.to_owned();
    }
    let mut section: Vec<&str> = key.split(['.', '[']).collect();
    section.truncate(section.len().saturating_sub(up));
    section.into_iter().chain([rest]).collect::<Vec<_>>().join(".")
}

/// The node called `name` below another: of a list, its place.
fn below<'n>(node: &'n Node, name: &str) -> Option<&'n Node> {
    match &node.content {
        Content::Map(entries) => entries.iter().find(|e| e.name == name).map(|e| &e.node),
        Content::List(items) => items.get(name.parse::<usize>().ok()?),
        Content::Scalar { .. } => None,
    }
}

fn all_keys<'n>(node: &'n Node, keys: &mut Vec<&'n str>) {
    if let Content::Map(entries) = &node.content {
        for entry in entries {
            keys.push(&entry.node.key);
            all_keys(&entry.node, keys);
        }
    }
}
