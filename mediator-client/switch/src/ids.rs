//! Identifiers as the switch knows them. All are opaque text: never numbers, never parsed beyond the checks made here.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// Why a text is no identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be 1 to {max} characters without white space or control characters")]
pub struct InvalidId {
    what: &'static str,
    max: usize,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses the text once, at the edge.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                let printable = |c: char| !c.is_control() && !c.is_whitespace();
                if text.is_empty() || text.len() > $max || !text.chars().all(printable) {
                    return Err(InvalidId { what: $what, max: $max });
                }
                Ok(Self(text.into()))
            }

            /// The text as the switch wrote it.
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

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                Self::parse(&text)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = InvalidId;
            fn try_from(text: &str) -> Result<Self, InvalidId> {
                Self::parse(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.as_ref().to_owned()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

id!(/** A virtual PBX of the switch (`biysk.local`); a tenant of ours. */ Domain, "a domain", 255);
id!(/** A subscriber's number or name inside one domain. */ Alias, "an alias", 128);
id!(/** The switch's own id of a call, one for all legs (CSTA `callID`, Call API `call_id`). */ SwitchCallId, "a call id", 128);
id!(/** The switch's own id of one leg (CSTA: the connection's `deviceID`; Call API: the leg's `id`). */ SwitchLegId, "a leg id", 128);
id!(/** The switch's own id of a conference or meeting. */ SwitchConferenceId, "a conference id", 128);
id!(/** The switch's own id of a conference member. */ SwitchParticipantId, "a participant id", 128);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_opaque_text_of_bounded_length() {
        for good in ["0_99f261b4", "-12", "100|101", "biysk.local", "абонент"] {
            assert_eq!(SwitchCallId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a\n", "\u{0}", &"x".repeat(129)] {
            assert!(SwitchCallId::parse(bad).is_err(), "{bad:?}");
        }
    }
}
