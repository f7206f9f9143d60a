//! The two macros that declare the schema. One line of `section!` is one key: its type, default value and
//! range checks; reading, writing, comparing and the list of valid keys all follow from it.

/// Declares a section of the configuration: a struct with public fields whose [`Default`] holds the default
/// values, and its [`Field`](super::field::Field) implementation.
///
/// `name as "Key": Type = default, check, …;` — `as "Key"` where the YAML key differs from the field's name;
/// a check is a `fn(&Type) -> Result<(), String>`, and its error is reported with the key's line.
macro_rules! section {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $( $(#[$field_meta:meta])* $field:ident $(as $key:literal)? : $ty:ty = $default:expr $(, $check:expr)* ; )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $( $(#[$field_meta])* pub $field: $ty, )*
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
                                    $( entry.node.check($check(&section.$field))?; )*
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
            $( $(#[$variant_meta:meta])* $variant:ident = $first:literal $(| $alias:literal)* ; )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $( $(#[$variant_meta])* $variant, )*
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
        }
    };
}
