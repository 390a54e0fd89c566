//! Names and ids, parsed once at the edge.

use std::{fmt, sync::Arc};

use uuid::Uuid;

/// One push, for its whole life and every attempt: APNs gets it as `apns-id`, and clients may drop duplicates by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PushId(Uuid);

impl PushId {
    /// A new id; later ones are greater.
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// The id of what `name` names: the same on every agent and for every repetition.
    pub fn of(name: &str) -> Self {
        Self(Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()))
    }

    /// Its bytes.
    pub fn as_uuid(&self) -> Uuid {
        self.0
    }
}

impl Default for PushId {
    fn default() -> Self {
        Self::new()
    }
}

impl From<Uuid> for PushId {
    fn from(id: Uuid) -> Self {
        Self(id)
    }
}

impl fmt::Display for PushId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be 1 to {most} characters from A-Z a-z 0-9 . _ -")]
pub struct InvalidName {
    what: &'static str,
    most: usize,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $most:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks the text.
            pub fn parse(text: &str) -> Result<Self, InvalidName> {
                let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
                if text.is_empty() || text.len() > $most || !text.chars().all(fits) {
                    return Err(InvalidName { what: $what, most: $most });
                }
                Ok(Self(text.into()))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

name!(/** A configured application: one provider, one set of credentials, one topic. */ AppName, "an application", 64);
name!(/** A registered device. Ours, made at registration. */ DeviceId, "a device id", 64);
