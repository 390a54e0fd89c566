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
    /// Which time it is that the user is told of the subject: a call comes back, somebody is invited again.
    pub occasion: Occasion,
    /// What to do.
    pub step: Step,
    /// For the payload.
    pub fields: Fields,
}

/// Tells the times apart that a user is told of one subject; the same in both agents of a cluster, and after a restart while it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Occasion(pub u64);

/// What this process has seen of a subject when it tells it for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It goes on in the first list that was read: whoever was here before may have told it already.
    Listed,
    /// It began before that, and what has happened to it is not known.
    Older,
    /// Since it began.
    Whole,
}

impl Occasion {
    pub(crate) fn first(seen: Seen, now: Timestamp) -> Self {
        match seen {
            Seen::Listed | Seen::Whole => Self(0),
            // Another one than was used before, if one was.
            Seen::Older => Self(now.as_second().unsigned_abs()),
        }
    }

    pub(crate) fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}
