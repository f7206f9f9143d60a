//! How numbers, switches, texts, paths, options and lists are read and written.

use std::path::PathBuf;

use super::field::Scalar;
use super::kind::Kind;
use super::tree::{Content, Node, Plain, Wrong};

impl Scalar for f64 {
    fn parse(node: &Node) -> Result<Self, Wrong> {
        match node.plain() {
            Some(Plain::Float(value)) if value.is_finite() => Ok(value),
            Some(Plain::Float(_)) => Err(Wrong::type_of(node, "a finite number")),
            Some(Plain::Int(value)) => Ok(value as f64),
            _ => Err(Wrong::type_of(node, "a number")),
        }
    }

    fn kind() -> Kind {
        Kind::Number
    }

    /// With a point and a signed exponent, so that YAML 1.1 readers take it for a number too.
    fn emit(&self) -> String {
        let text = format!("{self:?}");
        match text.split_once('e') {
            None => text,
            Some((mantissa, exponent)) => {
                let point = if mantissa.contains('.') { "" } else { ".0" };
                let sign = if exponent.starts_with('-') { "" } else { "+" };
                format!("{mantissa}{point}e{sign}{exponent}")
            }
        }
    }
}

/// A whole number; one written with a point (`8.0`) counts, as it does in Python's `int()`.
fn whole(node: &Node) -> Result<i128, Wrong> {
    match node.plain() {
        Some(Plain::Int(value)) => Ok(value),
        Some(Plain::Float(value)) if value.fract() == 0.0 && value.abs() < 1e15 => Ok(value as i128),
        _ => Err(Wrong::type_of(node, "a whole number")),
    }
}

macro_rules! whole_number {
    ($($ty:ty),*) => {$(
        impl Scalar for $ty {
            fn parse(node: &Node) -> Result<Self, Wrong> {
                let value = whole(node)?;
                let rule = if value < 0 { format!("must be {} or more", <$ty>::MIN) } else { "is too large".to_owned() };
                <$ty>::try_from(value).map_err(|_| Wrong::new(format!("{rule}, found {value}")))
            }

            fn kind() -> Kind {
                Kind::Whole
            }

            fn emit(&self) -> String {
                self.to_string()
            }
        }
    )*};
}
whole_number!(usize, u64, i64);

impl Scalar for bool {
    fn parse(node: &Node) -> Result<Self, Wrong> {
        match node.plain() {
            Some(Plain::Bool(value)) => Ok(value),
            _ => Err(Wrong::type_of(node, "true or false")),
        }
    }

    fn kind() -> Kind {
        Kind::Switch
    }

    fn emit(&self) -> String {
        self.to_string()
    }
}

impl Scalar for String {
    fn parse(node: &Node) -> Result<Self, Wrong> {
        node.text().map(str::to_owned).ok_or_else(|| Wrong::type_of(node, "a text"))
    }

    fn kind() -> Kind {
        Kind::Text
    }

    fn emit(&self) -> String {
        let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-');
        let starts_safe = self.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '_'));
        if starts_safe && self.chars().all(safe) && Plain::of(self) == Plain::Text {
            self.clone()
        } else {
            // JSON's quoted text is YAML's; what looks like an interpolation is none.
            serde_json::Value::from(self.replace("${", "\\${")).to_string()
        }
    }
}

impl Scalar for PathBuf {
    fn parse(node: &Node) -> Result<Self, Wrong> {
        let is_switch = matches!(node.plain(), Some(Plain::Bool(_)));
        match node.text() {
            Some(text) if !is_switch && !text.trim().is_empty() => Ok(PathBuf::from(text)),
            _ => Err(Wrong::type_of(node, "a path")),
        }
    }

    fn kind() -> Kind {
        Kind::Path
    }

    fn emit(&self) -> String {
        self.to_string_lossy().into_owned().emit()
    }

    /// `False` and an empty text mean "no path".
    fn says_none(node: &Node) -> bool {
        node.plain() == Some(Plain::Bool(false)) || node.text().is_some_and(|text| text.trim().is_empty())
    }
}

impl<T: Scalar> Scalar for Option<T> {
    fn parse(node: &Node) -> Result<Self, Wrong> {
        if T::says_none(node) {
            return Ok(None);
        }
        T::parse(node).map(Some).map_err(|wrong| match node.text() {
            Some("None" | "none") => wrong.hint("YAML's word for nothing is `null`"),
            _ => wrong,
        })
    }

    fn kind() -> Kind {
        Kind::Optional(Box::new(T::kind()))
    }

    fn emit(&self) -> String {
        self.as_ref().map_or_else(|| "null".into(), T::emit)
    }
}

/// A single value is a list of one.
impl<T: Scalar> Scalar for Vec<T> {
    fn parse(node: &Node) -> Result<Self, Wrong> {
        match &node.content {
            Content::List(items) => items.iter().map(T::parse).collect(),
            Content::Scalar { .. } => Ok(vec![T::parse(node)?]),
            Content::Map(_) => Err(Wrong::type_of(node, "a list")),
        }
    }

    fn kind() -> Kind {
        Kind::List(Box::new(T::kind()), None)
    }

    fn emit(&self) -> String {
        format!("[{}]", self.iter().map(T::emit).collect::<Vec<_>>().join(", "))
    }
}

impl<T: Scalar, const N: usize> Scalar for [T; N] {
    fn parse(node: &Node) -> Result<Self, Wrong> {
        let wrong = || Wrong::type_of(node, &format!("a list of {N} values"));
        match &node.content {
            Content::List(_) => Vec::parse(node)?.try_into().map_err(|_| wrong()),
            _ => Err(wrong()),
        }
    }

    fn kind() -> Kind {
        Kind::List(Box::new(T::kind()), Some(N))
    }

    fn emit(&self) -> String {
        format!("[{}]", self.iter().map(T::emit).collect::<Vec<_>>().join(", "))
    }
}
