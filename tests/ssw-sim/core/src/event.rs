//! What the switch tells whoever listens: rich enough for CSTA's events and for the Call API's.
//!
//! Every event carries the state right after it, so that a reader needs no second look at the switch.

use std::sync::Arc;

use jiff::Timestamp;

use crate::{
    call::{Cause, LegView},
    conference::{ConferenceView, ParticipantView},
};

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct CoreEvent {
    /// Numbers without gaps, from 1.
    pub seq: u64,
    /// When it happened.
    pub at: Timestamp,
    /// Domain it is about; empty for `Restarted`.
    pub domain: Arc<str>,
    /// What happened.
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum EventKind {
    /// A leg changed.
    Call(CallEvent),
    /// Calls went over into another (transfer, three-way). The calls that ended by it get no `CallReleased`; their released legs no
    /// `ConnectionCleared`.
    Merged(Merge),
    /// A call is over; all its legs are released.
    CallReleased {
        /// The call.
        call: String,
        /// Why.
        cause: Cause,
    },
    /// DTMF digits were played into a leg.
    Digits {
        /// The call.
        call: String,
        /// The leg.
        leg: String,
        /// The digits.
        digits: String,
    },
    /// A conference began or something about it as a whole changed. Its `members` are left empty.
    Conference(ConferenceView),
    /// A conference is over; its members have left without an event of their own each.
    ConferenceEnded {
        /// The conference.
        conference: String,
        /// Why.
        cause: Cause,
    },
    /// A member appeared or changed.
    Participant(ParticipantView),
    /// A member has left; its last state.
    ParticipantLeft(ParticipantView),
    /// The switch restarted: sessions and monitors are gone. Without its state all calls and conferences are gone too, without
    /// further events.
    Restarted {
        /// Whether calls and conferences survived.
        keep_state: bool,
    },
}

/// A leg's change.
#[derive(Debug, Clone, PartialEq)]
pub struct CallEvent {
    /// The call.
    pub call: String,
    /// What happened to which leg.
    pub change: CallChange,
    /// The leg that changed, after it.
    pub leg: LegView,
    /// Every leg of the call that is not released, and the changed one, after it (`localConnectionInfo` of any monitored device).
    pub legs: Vec<LegView>,
    /// The caller.
    pub calling: String,
    /// The called number.
    pub called: String,
    /// The number that was dialled before a diversion; empty = none.
    pub last_redirection: String,
    /// Why.
    pub cause: Option<Cause>,
}

/// Named after the CSTA events; the connection is `CallEvent::leg`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallChange {
    /// The device is prompted or off-hook.
    ServiceInitiated,
    /// The call was started from the device.
    Originated,
    /// It waits in a queue.
    Queued,
    /// It rings at the leg's device.
    Delivered,
    /// The leg's device answered.
    Established,
    /// The leg's device put it on hold.
    Held,
    /// The leg's device took it back.
    Retrieved,
    /// The ringing leg was sent on; the leg is released.
    Diverted {
        /// Where to.
        to: String,
    },
    /// The leg could not be reached; it is in state failed.
    Failed,
    /// The leg is released; its device is the releasing one.
    ConnectionCleared,
}

/// Calls that became one.
#[derive(Debug, Clone, PartialEq)]
pub struct Merge {
    /// The held call (of a blind transfer: the only one).
    pub primary: String,
    /// The consultation call.
    pub secondary: Option<String>,
    /// The resulting call.
    pub into: String,
    /// `Cause::Transfer` (CSTA: Transferred) or `Cause::Conference` (CSTA: Conferenced).
    pub cause: Cause,
    /// The device that transfers or joins.
    pub device: String,
    /// For a blind transfer: where to.
    pub transferred_to: String,
    /// Legs of the resulting call.
    pub legs: Vec<LegView>,
    /// Where each leg came from: (old call, old leg id, new leg id). The legs in `dropped` are not in it.
    pub moved: Vec<(String, String, String)>,
    /// The device's own old connections that end, as (old call, old leg id): all of a transferring device's; of a joining device the
    /// one that is not on the resulting call already (of two that are not, the active one).
    pub dropped: Vec<(String, String)>,
    /// The caller of the resulting call.
    pub calling: String,
    /// The called number of the resulting call.
    pub called: String,
}
