//! What is to be told to a user.

use jiff::Timestamp;

/// Names of what a notice is about, for its payload: `call_id`, `caller`, …
pub type Fields = Vec<(&'static str, String)>;

/// What is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A call rings.
    Call,
    /// A call rings no more.
    CallCancel,
    /// A call was missed.
    MissedCall,
    /// An invitation into a conference.
    Invitation,
    /// The invitation is void.
    InvitationCancel,
    /// Whatever the suite has to say.
    Message,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 6] = [Self::Call, Self::CallCancel, Self::MissedCall, Self::Invitation, Self::InvitationCancel, Self::Message];

    /// As payloads (`event`) and the configuration write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::CallCancel => "cancel",
            Self::MissedCall => "missed_call",
            Self::Invitation => "invitation",
            Self::InvitationCancel => "invitation_cancel",
            Self::Message => "message",
        }
    }
}

/// Why a call rings no more, or an invitation is void.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    /// The user, or another whom the call rang, answered on some device; or the invited is in the conference.
    AnsweredElsewhere,
    /// The user refused on some device.
    Declined,
    /// The caller hung up.
    CallerGaveUp,
    /// It rang for as long as it may.
    NoAnswer,
    /// It went to somebody else, failed, or is simply gone.
    Ended,
}

impl Why {
    /// As payloads write it (`reason`).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AnsweredElsewhere => "answered_elsewhere",
            Self::Declined => "declined",
            Self::CallerGaveUp => "caller_gave_up",
            Self::NoAnswer => "no_answer",
            Self::Ended => "ended",
        }
    }
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Tell it, until then.
    Tell {
        /// What.
        kind: Kind,
        /// Worth nothing after this.
        until: Timestamp,
    },
    /// Take back what was told under the same subject: what is unsent is dropped, what is sent is followed by a push of this kind.
    TakeBack {
        /// What was told.
        told: Kind,
        /// What is told now to devices that had it.
        kind: Kind,
        /// Why.
        why: Why,
    },
}

/// Something for all devices of one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The tenant.
    pub domain: String,
    /// The user in it.
    pub alias: String,
    /// Our id of the call or conference. Ids of pushes derive from it, so that both agents of a cluster make the same.
    pub subject: String,
    /// What to do.
    pub step: Step,
    /// For the payload.
    pub fields: Fields,
}
