//! The two macros that declare the schema. One line of `section!` is one key: its type, default value and
//! rules; reading, writing, comparing, the list of valid keys and their documentation all follow from it.

/// Declares a section of the configuration: a struct with public fields whose [`Default`] holds the default
/// values, and its [`Field`](super::field::Field) implementation.
///
/// `name as "Key": Type = default, rule, …;` — `as "Key"` where the YAML key differs from the field's name;
/// a rule is a [`Rule`](super::range::Rule), and what it says against a value is reported with the key's line. Doc comments are
/// what users read about a key.
macro_rules! section {
    (
        $(#[doc = $doc:literal])*
        pub struct $name:ident {
            $( $(#[doc = $field_doc:literal])* $field:ident $(as $key:literal)? : $ty:ty = $default:expr $(, $rule:expr)* ; )*
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $( $(#[doc = $field_doc])* pub $field: $ty, )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default, )* }
            }
        }

        impl $crate::config::field::Field for $name {
            fn read(node: &$crate::config::tree::Node) -> $crate::Result<Self> {
                let mut section = Self::default();
                for entry in node.entries("a section (a mapping of keys to values)")? {
                    match entry.name.as_str() {
                        $(
                            key_name!($field $($key)?) => {
                                if !entry.node.is_null() {
                                    section.$field = $crate::config::field::Field::read(&entry.node)?;
                                    $( entry.node.check($rule.check(&section.$field))?; )*
                                }
                            }
                        )*
                        _ => return Err($crate::config::field::unknown_key(&entry.node, &entry.name)),
                    }
                }
                Ok(section)
            }

            fn flatten(&self, key: &str, out: &mut Vec<(String, String)>) {
                $( self.$field.flatten(&$crate::config::tree::join(key, key_name!($field $($key)?)), out); )*
            }

            fn describe(&self, about: $crate::config::kind::About, out: &mut Vec<$crate::config::kind::Item>) {
                use $crate::config::kind::{About, Item, Section, text_of};
                let path = about.path;
                out.push(Item::Section(Section { path: path.clone(), meaning: text_of(&[$($doc),*]).0 }));
                $( self.$field.describe(
                    About {
                        path: $crate::config::tree::join(&path, key_name!($field $($key)?)),
                        doc: &[$($field_doc),*],
                        bounds: vec![$($crate::config::range::bounds_of(&$rule, &self.$field)),*],
                    },
                    out,
                ); )*
            }
        }
    };
}

/// The YAML key of a field of `section!`.
macro_rules! key_name {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $key:literal) => {
        $key
    };
}

/// Declares an enum that is written in YAML as one of a few names: `Variant = "name" | "alias" …`. The first
/// name is the one written; case, spaces and hyphens do not matter.
macro_rules! choice {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $( $(#[doc = $doc:literal])* $variant:ident = $first:literal $(| $alias:literal)* ; )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $( $(#[doc = $doc])* $variant, )*
        }

        impl $name {
            /// Every value, in the order of the declaration.
            pub const ALL: &[Self] = &[$( Self::$variant, )*];

            /// The name used in YAML.
            pub fn name(self) -> &'static str {
                match self {
                    $( Self::$variant => $first, )*
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl $crate::config::choice::Choice for $name {
            const NAMES: &'static [(Self, &'static [&'static str])] =
                &[$( (Self::$variant, &[$first $(, $alias)*]), )*];
            const DOCS: &'static [&'static [&'static str]] = &[$( &[$($doc),*], )*];
        }
    };
}
