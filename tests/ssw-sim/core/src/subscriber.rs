//! Domains and their subscribers. A domain of 100,000 aliases costs next to nothing: only what differs from the default is stored.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What a subscriber's phone does when it rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "answer")]
pub enum Answer {
    /// Answers by itself.
    After {
        /// Milliseconds of ringing.
        ms: u32,
    },
    /// Rings until someone acts.
    Never,
    /// Refuses at once.
    Reject,
    /// Is busy.
    Busy,
}

/// A SIP registration of a subscriber (`get_extended_subscriber_card`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The interface it came in on.
    pub access_point: String,
    /// The registered contact.
    pub uri: String,
    /// Host of the first Via.
    pub first_via_host: String,
    /// Seconds it was granted for.
    pub ttl: u32,
    /// When it was last renewed.
    pub reregistered_at: Timestamp,
    /// When it runs out.
    pub expires_at: Timestamp,
}

/// A subscriber's regime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Regime {
    /// Its name.
    pub name: String,
    /// Private for incoming calls.
    pub private_in: bool,
    /// Private for outgoing calls.
    pub private_out: bool,
}

/// A subscriber.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SubscriberView {
    /// Its number.
    pub alias: String,
    /// Shown name.
    pub name: String,
    /// Interface of the alias.
    pub interface: String,
    /// Its devices.
    pub registrations: Vec<Registration>,
    /// Its regime.
    pub regime: Regime,
    /// What its phone does.
    pub answer: Answer,
    /// Whether it may create and moderate conferences (`teleconference\role manager`).
    pub manager: bool,
}

/// How a group number is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupKind {
    /// Every member's phone rings; the first to answer has it.
    Ring,
    /// Callers wait in a queue and are given to free members one after the other.
    Queue,
}

/// What a domain starts with.
#[derive(Debug, Clone)]
pub struct DomainOptions {
    /// Its name (`biysk.local`).
    pub name: String,
    /// Number of aliases, 0 to 100,000: 1001… for up to 8,999, 100001… for more.
    pub aliases: u32,
    /// What phones do unless told otherwise.
    pub answer: Answer,
    /// Most calls at a time; `None` = without limit.
    pub call_limit: Option<u32>,
}

impl DomainOptions {
    /// A domain whose phones ring until someone acts.
    pub fn new(name: impl Into<String>, aliases: u32) -> Self {
        Self { name: name.into(), aliases, answer: Answer::Never, call_limit: None }
    }
}
