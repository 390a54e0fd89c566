//! Conferences and their members, as they are seen from outside. States are those of RFC 4575.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::call::Cause;

/// A member's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the words are RFC 4575 section 5.7.2's")]
pub enum ParticipantStatus {
    Pending,
    DialingOut,
    DialingIn,
    Alerting,
    OnHold,
    Connected,
    Disconnecting,
    Disconnected,
}

impl ParticipantStatus {
    /// The canonical word, also the dialect's key.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::DialingOut => "dialing_out",
            Self::DialingIn => "dialing_in",
            Self::Alerting => "alerting",
            Self::OnHold => "on_hold",
            Self::Connected => "connected",
            Self::Disconnecting => "disconnecting",
            Self::Disconnected => "disconnected",
        }
    }
}

/// A member's role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// An ordinary one.
    Participant,
    /// Presenter (host, master).
    Presenter,
}

impl Role {
    /// The canonical word, also the dialect's key.
    pub fn word(self) -> &'static str {
        match self {
            Self::Participant => "participant",
            Self::Presenter => "presenter",
        }
    }
}

/// State of the recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Recording {
    /// None.
    Off,
    /// Running.
    On,
    /// Paused.
    Paused,
}

impl Recording {
    /// The canonical word, also the dialect's key.
    pub fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Paused => "paused",
        }
    }
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ParticipantView {
    /// Its id, unique in the switch, never used twice.
    pub id: String,
    /// Its conference.
    pub conference: String,
    /// Its number.
    pub number: String,
    /// Shown name.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// Its connection.
    pub status: ParticipantStatus,
    /// Whether it has a microphone.
    pub voice: bool,
    /// Whether it asks for the floor.
    pub floor: bool,
    /// Whether it talks now.
    pub talking: bool,
    /// Whether it took its microphone away itself: then nobody gives it back but itself.
    pub muted_itself: bool,
    /// Whether it was asked to unmute and has not yet.
    pub asked_to_unmute: bool,
    /// When it connected.
    pub joined_at: Option<Timestamp>,
    /// Why it left or was not reached.
    pub cause: Option<Cause>,
}

/// A conference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConferenceView {
    /// Its id, the same in every protocol.
    pub id: String,
    /// Its domain.
    pub domain: String,
    /// Shown name.
    pub name: String,
    /// Free text.
    pub description: String,
    /// The room it runs in; empty = none.
    pub room: String,
    /// The template it came from; empty = none.
    pub template: String,
    /// The alias that masters it; empty = none.
    pub initiator: String,
    /// Start.
    pub started_at: Timestamp,
    /// Planned end.
    pub ends_at: Option<Timestamp>,
    /// When it ended; `None` = going on.
    pub ended_at: Option<Timestamp>,
    /// Why it ended.
    pub cause: Option<Cause>,
    /// Most members.
    pub limit: u32,
    /// Whether it is locked.
    pub locked: bool,
    /// Recording.
    pub recording: Recording,
    /// Whether the muted may unmute themselves.
    pub may_unmute: bool,
    /// Whether it ends when the last member has left (`destroy_mode`).
    pub ends_when_empty: bool,
    /// Members that have not left; empty in events and once it has ended.
    pub members: Vec<ParticipantView>,
}

/// What a conference is created from. Empty texts mean "none".
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConferenceRequest {
    /// Shown name.
    pub name: String,
    /// The alias that masters it; called first, as a presenter.
    pub initiator: String,
    /// A room of the domain.
    pub room: String,
    /// A template of the domain.
    pub template: String,
    /// Numeric groups whose members are called.
    pub groups: Vec<String>,
    /// Numbers that are called.
    pub members: Vec<String>,
    /// Most members; 0 = the template's or the switch's limit.
    pub limit: u32,
    /// Seconds until it ends by itself; 0 = the template's, or never.
    pub seconds: u32,
    /// Whether it ends when the last member has left.
    pub ends_when_empty: bool,
}

/// A teleconference room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Room {
    /// Its number.
    pub name: String,
    /// Free text.
    pub description: String,
}

/// A selector meeting's template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    /// Its name.
    pub name: String,
    /// Free text.
    pub description: String,
    /// Numeric groups whose members are called.
    pub groups: Vec<String>,
    /// Declared presenters.
    pub presenters: Vec<String>,
    /// Declared participants.
    pub participants: Vec<String>,
    /// Whether participants have a microphone on joining.
    pub voice: bool,
    /// Most members; 0 = the switch's limit.
    pub limit: u32,
    /// Seconds until it ends by itself; 0 = never.
    pub seconds: u32,
}
