//! Why the switch says no: one stable word per reason, which each protocol writes in its own way.

use serde::Serialize;

/// The switch's stable words. How they are spelt on the wire is the dialect's business.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCause {
    /// No such subscriber, number or domain.
    NoSuchSubscriber,
    /// No such call or leg, or it is over.
    NoSuchCall,
    /// No such conference, room or template, or it is over.
    NoSuchConference,
    /// No such member, or it has left.
    NoSuchParticipant,
    /// The conference has all the members it may have.
    ConferenceFull,
    /// The conference is locked.
    ConferenceLocked,
    /// The one who asks may not.
    NoRight,
    /// Every licence of the kind is in use.
    LicenceLimit,
    /// The licence has run out.
    LicenceExpired,
    /// A limit of the domain is reached.
    DomainLimit,
    /// The party is busy or out of reach.
    Busy,
    /// The state does not allow it.
    BadState,
    /// It exists already.
    AlreadyExists,
    /// Another session holds the object.
    ObjectLocked,
    /// The switch does not offer it.
    NotSupported,
}

impl RefusalCause {
    /// Every cause.
    pub const ALL: [Self; 15] = [
        Self::NoSuchSubscriber,
        Self::NoSuchCall,
        Self::NoSuchConference,
        Self::NoSuchParticipant,
        Self::ConferenceFull,
        Self::ConferenceLocked,
        Self::NoRight,
        Self::LicenceLimit,
        Self::LicenceExpired,
        Self::DomainLimit,
        Self::Busy,
        Self::BadState,
        Self::AlreadyExists,
        Self::ObjectLocked,
        Self::NotSupported,
    ];

    /// The stable word (`no_such_call`).
    pub fn word(self) -> &'static str {
        match self {
            Self::NoSuchSubscriber => "no_such_subscriber",
            Self::NoSuchCall => "no_such_call",
            Self::NoSuchConference => "no_such_conference",
            Self::NoSuchParticipant => "no_such_participant",
            Self::ConferenceFull => "conference_full",
            Self::ConferenceLocked => "conference_locked",
            Self::NoRight => "no_right",
            Self::LicenceLimit => "licence_limit",
            Self::LicenceExpired => "licence_expired",
            Self::DomainLimit => "domain_limit",
            Self::Busy => "busy",
            Self::BadState => "bad_state",
            Self::AlreadyExists => "already_exists",
            Self::ObjectLocked => "object_locked",
            Self::NotSupported => "not_supported",
        }
    }

    /// The cause of a stable word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.word() == word)
    }
}

/// A refusal with a text for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {text}", cause.word())]
pub struct Refusal {
    /// Why.
    pub cause: RefusalCause,
    /// Why, in words.
    pub text: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(cause: RefusalCause, text: impl Into<String>) -> Self {
        Self { cause, text: text.into() }
    }
}
