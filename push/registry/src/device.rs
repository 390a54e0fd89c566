//! What is asked and answered.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
    sync::Arc,
};

use jiff::Timestamp;
use push_core::{AppName, Device, Environment, Provider, Token, UserId, WebKeys};
use uuid::Uuid;

use crate::error::Error;

/// What a client registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDevice {
    /// Whose it is.
    pub user: UserId,
    /// The configured application.
    pub app: AppName,
    /// Who delivers.
    pub provider: Provider,
    /// Where to.
    pub token: Token,
    /// Only APNs has two.
    pub environment: Environment,
    /// Needed for a browser.
    pub web_keys: Option<WebKeys>,
    /// `ios`, `android`, `web`; empty: unknown.
    pub platform: String,
    /// BCP 47; empty: unknown.
    pub locale: String,
    /// The client's own name of the device; empty: it is known by its token alone.
    pub label: String,
    /// Whether calls are pushed to it.
    pub wants_calls: bool,
    /// Whether messages and notices are.
    pub wants_messages: bool,
    /// The time of the registration.
    pub now: Timestamp,
}

/// How a registration ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// The device as it is now.
    pub device: Device,
    /// True: it was not known before. False: it was refreshed.
    pub created: bool,
    /// Devices that are gone for it: the token's former one, if it was another user's or had another label, and those above the user's limit.
    pub replaced: Vec<Device>,
}

/// How an import ended.
#[derive(Debug, Clone, Default)]
pub struct Imported {
    /// New devices.
    pub created: u64,
    /// Devices that were known.
    pub refreshed: u64,
    /// Devices that are gone for others.
    pub replaced: u64,
    /// Which of the list were refused, and why.
    pub refused: Vec<(usize, Error)>,
}

/// What became of a token that a provider called gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gone {
    /// It is removed; this was its device.
    Removed(Box<Device>),
    /// It was registered later and stays.
    RegisteredLater,
    /// Nobody has it.
    Unknown,
}

/// Whose devices are listed: a caller sees those of its domains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Domains {
    /// Everybody's.
    All,
    /// Those of these tenants.
    Only(BTreeSet<Arc<str>>),
}

/// A part of a list, ordered by domain, alias and the device's age.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The devices.
    pub devices: Vec<Device>,
    /// Where to go on. `None`: that was all.
    pub next: Option<Cursor>,
}

/// A place in the list. It stays valid whatever is registered and removed meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    pub(crate) user: UserId,
    pub(crate) device: u128,
}

// === impl Cursor ===

/// For page tokens: the id, the octets of the domain, and both names.
impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let UserId { domain, alias } = &self.user;
        write!(f, "{}.{}.{domain}{alias}", Uuid::from_u128(self.device).simple(), domain.len())
    }
}

impl FromStr for Cursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let read = || {
            let (id, rest) = text.split_once('.')?;
            let (octets, names) = rest.split_once('.')?;
            let (domain, alias) = names.split_at_checked(octets.parse().ok()?)?;
            let device = Uuid::try_parse(id).ok()?.as_u128();
            Some(Self { user: UserId { domain: domain.into(), alias: alias.into() }, device })
        };
        read().ok_or(Error::Invalid { field: "the page token", must: "be one that this list has given" })
    }
}

/// How many devices there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    pub(crate) of: BTreeMap<(AppName, Provider), u64>,
}

// === impl Counts ===

impl Counts {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.of.values().sum()
    }

    /// By application and provider; none of them is zero.
    pub fn iter(&self) -> impl Iterator<Item = (&AppName, Provider, u64)> {
        self.of.iter().map(|((app, provider), count)| (app, *provider, *count))
    }
}

// === impl NewDevice ===

impl NewDevice {
    /// Bounds what is stored. Names and tokens have their types.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let name = "be 1 to 255 octets";
        for (field, value, least, most, must) in [
            ("the domain", &*self.user.domain, 1, 255, name),
            ("the alias", &*self.user.alias, 1, 255, name),
            ("the label", &*self.label, 0, 255, "be at most 255 octets"),
            ("the platform", &*self.platform, 0, 64, "be at most 64 octets"),
            ("the locale", &*self.locale, 0, 64, "be at most 64 octets"),
        ] {
            if !(least..=most).contains(&value.len()) {
                return Err(Error::Invalid { field, must });
            }
        }
        match &self.web_keys {
            None if self.provider == Provider::Web => {
                Err(Error::Invalid { field: "the subscription's keys", must: "be given for a browser" })
            }
            Some(keys) if keys.p256dh.len() > 128 || keys.auth.len() > 128 => {
                Err(Error::Invalid { field: "the subscription's keys", must: "be at most 128 characters each" })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn a_cursor_is_read_as_it_was_written(domain in ".{1,40}", alias in ".{1,40}", device: u128) {
            let cursor = Cursor { user: UserId { domain: domain.into(), alias: alias.into() }, device };
            proptest::prop_assert_eq!(cursor.to_string().parse::<Cursor>().unwrap(), cursor);
        }

        #[test]
        fn no_text_read_as_a_cursor_panics(text in ".{0,80}") {
            let _read = text.parse::<Cursor>();
        }
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        for wrong in ["", "1.2", "00.3.abc", "0190163d8694739baea5966c26f8ad91.9.abc", "0190163d8694739baea5966c26f8ad91.-1.abc"] {
            assert!(wrong.parse::<Cursor>().is_err(), "{wrong}");
        }
    }
}
