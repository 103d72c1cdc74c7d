//! Enums whose values are words of the configuration, the CLI and the API.
//!
//! `words!` keeps the one list of each: the parser, the error that names the
//! nearest spelling, `Display` and the JSON of the API all come from it.

/// Declares an enum together with the words that spell its values.
macro_rules! words {
    (
        $(#[$meta:meta])*
        pub enum $name:ident { $( $(#[$value_meta:meta])* $value:ident = $word:literal ),+ $(,)? }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name { $( $(#[$value_meta])* #[serde(rename = $word)] $value ),+ }

        impl $name {
            /// Every value, in the order of the documentation.
            pub const ALL: &'static [Self] = &[ $( Self::$value ),+ ];

            /// The word that spells this value everywhere.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $( Self::$value => $word ),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.pad(self.word())
            }
        }

        impl crate::config::word::Word for $name {
            const ALL: &'static [Self] = $name::ALL;

            fn word(self) -> &'static str {
                $name::word(self)
            }
        }
    };
}

pub(crate) use words;

/// A type that `words!` declared.
pub(crate) trait Word: Copy + 'static {
    /// Every value.
    const ALL: &'static [Self];

    /// The word that spells this value.
    fn word(self) -> &'static str;
}
