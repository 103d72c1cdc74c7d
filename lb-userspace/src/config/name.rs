//! Names of pools, services and servers.
//!
//! Cheap to clone (one shared allocation), and of different types, so that a
//! server's name can never stand where a pool's is meant. The parser only lets
//! well-formed names in; the types themselves accept any text, because names
//! also come back over the API.

use std::sync::Arc;

/// The longest name, in bytes: it has to fit a column of a table.
pub const NAME_LENGTH_MAX: usize = 63;

/// Whether `text` may be a name: letters, digits, `-`, `_` and `.`, starting
/// with a letter or a digit, at most [`NAME_LENGTH_MAX`] bytes.
#[must_use]
pub fn well_formed(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    text.len() <= NAME_LENGTH_MAX
        && text.bytes().all(allowed)
        && text
            .as_bytes()
            .first()
            .is_some_and(u8::is_ascii_alphanumeric)
}

macro_rules! name {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().to_owned()
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.pad(&self.0)
            }
        }
    };
}

name!(
    /// The name of a pool: `kv` in `[pool.kv]`.
    PoolName
);
name!(
    /// The name of a service: `kv-write` in `[service.kv-write]`.
    ServiceName
);
name!(
    /// The name of a server, unique within its pool.
    ServerName
);
