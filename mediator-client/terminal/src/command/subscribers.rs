//! Subscribers: card, declaration, password check, packages of supplementary services.

use std::fmt;

use ecss_switch::{Alias, CommandError, Domain, dialect::RequestField, error::RefusalReason};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};

use super::{address, number, of_domain, owned, refusal, refused, request_by, request_of, warnings};
use crate::{
    client::Terminal,
    session::{Command, Errors},
    time,
    xml::Element,
};

/// What `get_extended_subscriber_card` says about a subscriber.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubscriberCard {
    /// Where the subscriber is registered.
    pub registrations: Vec<Registration>,
    /// The calls going on.
    pub calls: Vec<ActiveCall>,
    /// The service regime.
    pub regime: Option<Regime>,
}

/// A SIP registration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registration {
    /// Access point.
    pub access_point: Option<String>,
    /// When it was renewed, as the switch writes it.
    pub reregister_date: Option<String>,
    /// Time to live in seconds.
    pub ttl_s: Option<u32>,
    /// Expiry, as the switch writes it.
    pub expires: Option<String>,
    /// Expiry, where it is written as a date.
    pub expires_at: Option<Timestamp>,
    /// Contact address.
    pub uri: Option<String>,
    /// Host of the first Via.
    pub first_via_host: Option<String>,
}

/// A call of a subscriber.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveCall {
    /// Caller.
    pub from: String,
    /// Called.
    pub to: String,
    /// Seconds so far.
    pub duration_s: Option<u32>,
}

/// A service regime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Regime {
    /// Its name.
    pub name: String,
    /// Whether private calls may come in.
    pub private_in: Option<bool>,
    /// Whether private calls may go out.
    pub private_out: Option<bool>,
}

/// The result of a password check. The portal session that the switch opens for it is not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication {
    /// The password is right.
    Accepted {
        /// The subscriber's number, where the switch names it.
        alias: Option<Alias>,
    },
    /// Login or password is wrong; the switch's reason is not passed on.
    Rejected,
}

/// A SIP subscriber to be declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SipUser {
    /// Its domain.
    pub domain: Domain,
    /// Its number.
    pub address: Alias,
    /// Its interface.
    pub interface: String,
    /// Whether it is in service at once.
    pub active: bool,
}

/// Supplementary services that an alias has.
#[derive(Clone, PartialEq, Eq)]
pub struct SsPackages {
    /// The alias.
    pub address: Alias,
    /// Its packages.
    pub packages: Vec<SsPackage>,
}

impl fmt::Debug for SsPackages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {:?}", self.address, self.packages)
    }
}

/// A package of supplementary services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SsPackage {
    /// Its name.
    pub name: String,
    /// When it was allocated, as the switch writes it.
    pub allocate_time: Option<String>,
    /// Whether it is active.
    pub active: Option<bool>,
    /// Whether it has priority.
    pub priority: Option<bool>,
    /// Free text.
    pub description: Option<String>,
    /// Its services, as the switch lists them.
    pub services: Option<String>,
}

impl Terminal {
    /// `get_extended_subscriber_card`.
    pub async fn subscriber_card(&self, domain: &Domain, alias: &Alias) -> Result<SubscriberCard, CommandError> {
        let request = request_by(&self.dialect().terminal.requests.get_extended_subscriber_card, |field| match field {
            RequestField::Domain => Some(domain.to_string()),
            RequestField::Address => Some(alias.to_string()),
            _ => None,
        });
        let reply = self.run(Command::read("get_extended_subscriber_card", request)).await?;
        let words = &self.dialect().words;
        let mut card = SubscriberCard::default();
        // Attributes are documented, element names are not: each kind is told by what only it has.
        for element in reply.document.walk() {
            if element.get("access_point").is_some() || element.get("uri").is_some() {
                card.registrations.push(registration(element, self.dialect().terminal.utc_offset_minutes));
            } else if let (Some(from), Some(to)) = (owned(element, "from"), owned(element, "to")) {
                card.calls.push(ActiveCall { from, to, duration_s: number(element, "duration") });
            } else if element.get("private_in").is_some() || element.get("private_out").is_some() {
                let flag = |name| element.get(name).and_then(|text| words.boolean(text));
                let name = owned(element, "name").unwrap_or_default();
                card.regime = Some(Regime { name, private_in: flag("private_in"), private_out: flag("private_out") });
            }
        }
        Ok(card)
    }

    /// `sip_user_declare`. Warnings do not make it fail. `confirm`: a question of the switch may be answered with yes.
    pub async fn sip_user_declare(&self, user: &SipUser, confirm: bool) -> Result<Vec<String>, CommandError> {
        let dialect = self.dialect();
        let request = request_by(&dialect.terminal.requests.sip_user_declare, |field| match field {
            RequestField::Domain => Some(user.domain.to_string()),
            RequestField::Address => Some(user.address.to_string()),
            RequestField::Interface => Some(user.interface.clone()),
            RequestField::Active => Some(dialect.words.boolean_word(user.active).to_owned()),
            _ => None,
        });
        let command = Command { confirm, ..Command::change("sip_user_declare", request) };
        let reply = self.run(command).await?;
        let warnings = warnings(&reply);
        // A warning without the alias it is about says that nothing was declared.
        match warnings.first() {
            Some(warning) if reply.document.all("alias").all(|alias| address(alias).is_none()) => {
                Err(refused(self.dialect().refusal(warning), warning))
            }
            _ => Ok(warnings),
        }
    }

    /// `sp_login`: checks a subscriber's password. Not sent again when the outcome is unknown: attempts may be counted.
    pub async fn authenticate(&self, domain: &Domain, login: &str, password: &SecretString) -> Result<Authentication, CommandError> {
        let request = request_of(domain).with("login", login).with("password", password.expose_secret());
        let command = Command { errors: Errors::Keep, secrets: vec![password.clone()], ..Command::change("sp_login", request) };
        let document = self.run(command).await?.document;
        if let Some(ok) = document.all("ok").next() {
            return Ok(Authentication::Accepted { alias: ok.get("alias_address").and_then(|text| Alias::parse(text).ok()) });
        }
        match refusal(self.dialect(), &document) {
            Some(CommandError::Refused { reason, .. }) if !about_the_subscriber(reason) => {
                Err(refused(reason, "the switch cannot check passwords now"))
            }
            Some(_) => Ok(Authentication::Rejected),
            None => Err(CommandError::BadAnswer { cause: "neither ok nor error".to_owned() }),
        }
    }

    /// `ss_package_list`: packages of supplementary services by alias.
    pub async fn ss_packages(&self, domain: &Domain) -> Result<Vec<SsPackages>, CommandError> {
        let reply =
            self.run(Command::read("ss_package_list", of_domain(&self.dialect().terminal.requests.ss_package_list, domain))).await?;
        let words = &self.dialect().words;
        let package = |element: &Element| {
            let flag = |name| element.get(name).and_then(|text| words.boolean(text));
            Some(SsPackage {
                name: owned(element, "package_name")?,
                allocate_time: owned(element, "allocate_time"),
                active: flag("is_active"),
                priority: flag("is_priority"),
                description: owned(element, "description"),
                services: owned(element, "ss_list"),
            })
        };
        let alias = |element: &Element| {
            let packages = self.readable(element.all("package_info").map(package));
            Some(SsPackages { address: address(element)?, packages })
        };
        Ok(self.readable(reply.document.all("alias_info").map(alias)))
    }
}

fn registration(element: &Element, ahead_minutes: i32) -> Registration {
    Registration {
        // A small number is a duration.
        expires_at: element.get("expires").and_then(|text| time::read(text, ahead_minutes)).filter(|at| at.as_second() > 1_000_000_000),
        access_point: owned(element, "access_point"),
        reregister_date: owned(element, "reregister_date"),
        ttl_s: number(element, "ttl"),
        expires: owned(element, "expires"),
        uri: owned(element, "uri"),
        first_via_host: owned(element, "first_via_host"),
    }
}

/// Whether a refusal of `sp_login` is about who logs in, and not about the switch's own troubles.
fn about_the_subscriber(reason: RefusalReason) -> bool {
    use RefusalReason::{Busy, LicenceExhausted, LicenceExpired, LimitReached, Locked, NotSupported};
    !matches!(reason, Busy | LicenceExhausted | LicenceExpired | LimitReached | Locked | NotSupported)
}
