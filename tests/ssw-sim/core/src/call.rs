//! Calls and their legs, as they are seen from outside. States are the connection states of ECMA-269.

use jiff::Timestamp;
use serde::Serialize;

/// A leg's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LegState {
    /// The device is prompted (click to call) or dials.
    Initiated,
    /// It rings.
    Alerting,
    /// It waits in a queue.
    Queued,
    /// It talks.
    Connected,
    /// It has put the call on hold.
    Held,
    /// The attempt failed; not yet cleared.
    Failed,
    /// It is gone. Final.
    Released,
}

impl LegState {
    /// The canonical word, also the dialect's key.
    pub fn word(self) -> &'static str {
        match self {
            Self::Initiated => "initiated",
            Self::Alerting => "alerting",
            Self::Queued => "queued",
            Self::Connected => "connected",
            Self::Held => "held",
            Self::Failed => "failed",
            Self::Released => "released",
        }
    }
}

/// Which end of its call a leg is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Its device started the call.
    Originating,
    /// The call came to it.
    Terminating,
}

impl Direction {
    /// The canonical word, also the dialect's key.
    pub fn word(self) -> &'static str {
        match self {
            Self::Originating => "originating",
            Self::Terminating => "terminating",
        }
    }
}

/// Why a leg, call or membership ended or moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Hung up in the ordinary way.
    Normal,
    /// The called party is busy.
    Busy,
    /// Nobody answered in time.
    NoAnswer,
    /// The called party refused.
    Rejected,
    /// The caller gave up while it rang.
    CallerGaveUp,
    /// Another device or member answered.
    AnsweredElsewhere,
    /// The number does not exist or is out of order.
    Unobtainable,
    /// Sent on to another number.
    Redirected,
    /// Went over into another call by transfer.
    Transfer,
    /// Went over into a three-way.
    Conference,
    /// The switch had no means (also: it restarted).
    NoResources,
    /// Anything else.
    Other,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 12] = [
        Self::Normal,
        Self::Busy,
        Self::NoAnswer,
        Self::Rejected,
        Self::CallerGaveUp,
        Self::AnsweredElsewhere,
        Self::Unobtainable,
        Self::Redirected,
        Self::Transfer,
        Self::Conference,
        Self::NoResources,
        Self::Other,
    ];

    /// The canonical word, also the dialect's key.
    pub fn word(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Busy => "busy",
            Self::NoAnswer => "no_answer",
            Self::Rejected => "rejected",
            Self::CallerGaveUp => "caller_gave_up",
            Self::AnsweredElsewhere => "answered_elsewhere",
            Self::Unobtainable => "unobtainable",
            Self::Redirected => "redirected",
            Self::Transfer => "transfer",
            Self::Conference => "conference",
            Self::NoResources => "no_resources",
            Self::Other => "other",
        }
    }
}

/// What sort of call it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CallKind {
    /// Dialled at a phone.
    Dialled,
    /// Made for a subscriber by an application.
    ClickToCall,
    /// To a queue.
    Queue,
    /// Started to consult somebody while another call is held.
    Consultation,
}

/// A leg.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LegView {
    /// Its id, unique inside its call: the alias, with `|2`, `|3`… for further devices of the same alias. CSTA's `deviceID`.
    pub id: String,
    /// The call it is on.
    pub call: String,
    /// The alias whose leg it is.
    pub device: String,
    /// The other party as this leg sees it; empty if there is none yet.
    pub remote: String,
    /// Which end it is.
    pub direction: Direction,
    /// Its state.
    pub state: LegState,
    /// Why it ended.
    pub cause: Option<Cause>,
    /// The same on both legs of a direct call, different on each leg of a queue call.
    pub call_ref: String,
    /// When it came to be.
    pub started_at: Timestamp,
    /// When it began to talk.
    pub answered_at: Option<Timestamp>,
    /// When it was released.
    pub ended_at: Option<Timestamp>,
}

/// A call, going on or finished. Released legs stay in the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CallView {
    /// Its id, the same in every protocol.
    pub id: String,
    /// Its domain.
    pub domain: String,
    /// What sort it is.
    pub kind: CallKind,
    /// The caller.
    pub calling: String,
    /// The number that was called.
    pub called: String,
    /// Start.
    pub started_at: Timestamp,
    /// When the called side answered.
    pub answered_at: Option<Timestamp>,
    /// Who really answered.
    pub answered_by: Option<String>,
    /// End; `None` = going on.
    pub ended_at: Option<Timestamp>,
    /// Why it ended.
    pub cause: Option<Cause>,
    /// Its legs.
    pub legs: Vec<LegView>,
}

impl CallView {
    /// Seconds of talk until the end, or until `now` while it goes on.
    pub fn talk_seconds(&self, now: Timestamp) -> i64 {
        self.answered_at.map_or(0, |from| (self.ended_at.unwrap_or(now).as_second() - from.as_second()).max(0))
    }

    /// Legs that are not released.
    pub fn live_legs(&self) -> impl Iterator<Item = &LegView> {
        self.legs.iter().filter(|leg| leg.state != LegState::Released)
    }
}

/// What a call command brought into being: the new or resulting call and the commanding device's leg in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The call.
    pub call: String,
    /// The commanding device's leg in it; for a transfer, which leaves the device out, a remaining leg.
    pub leg: String,
}

/// Which calls `history` lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HistoryKind {
    /// Those going on.
    Active,
    /// Those finished.
    Finished,
    /// Both.
    #[default]
    All,
}

/// Filter of the call history. Newest calls come first.
#[derive(Debug, Clone, Default)]
pub struct HistoryFilter {
    /// Which.
    pub kind: HistoryKind,
    /// At most so many; 0 = no limit.
    pub limit: usize,
    /// Started at or after.
    pub from: Option<Timestamp>,
    /// Started at or before.
    pub to: Option<Timestamp>,
    /// Patterns of a party's number, any of which must fit: text with an optional `%` at either end. Empty = any number.
    pub addresses: Vec<String>,
}
