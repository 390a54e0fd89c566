//! A push's life: its states, what is told about it, and what a caller hands in and gets back.

use std::{fmt, sync::Arc};

use jiff::Timestamp;
use push_core::{AppName, Class, DeviceId, PushId, Reason, Request, UserId};

/// A push as it is handed to the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// The application whose sender sends it.
    pub app: AppName,
    /// Whose device it goes to; `None` for topics.
    pub user: Option<UserId>,
    /// The registered device; `None` for topics and for tokens that are not registered.
    pub device: Option<DeviceId>,
    /// The push.
    pub request: Request,
    /// When it was asked for; its age counts from here.
    pub received_at: Timestamp,
}

/// Where a push is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// It was handed in.
    Received,
    /// It is on disk: it survives a crash from now on.
    Stored,
    /// An attempt began.
    Sent,
    /// An attempt failed and another one follows.
    Retried,
    /// The provider has it. Final.
    Accepted,
    /// Its deadline, or the longest age, passed first. Final.
    Expired,
    /// It was cancelled, replaced or refused by the disk. Final.
    Dropped,
    /// The provider said that the token is gone. Final.
    TokenGone,
    /// It can never be sent, or every attempt failed. Final.
    Failed,
}

/// One step of a push's life, told to watchers.
#[derive(Clone, PartialEq, Eq)]
pub struct Life {
    /// The push.
    pub id: PushId,
    /// Its application.
    pub app: AppName,
    /// Its class.
    pub class: Class,
    /// Its user; `None` also if the push ended without having been read back from disk: the history knows.
    pub user: Option<UserId>,
    /// Its device, likewise.
    pub device: Option<DeviceId>,
    /// What it is now.
    pub state: State,
    /// Since when.
    pub at: Timestamp,
    /// Attempts begun so far.
    pub attempt: u16,
    /// Why, when an attempt or the push did not succeed.
    pub reason: Option<Reason>,
    /// The provider's id of an accepted push.
    pub provider_id: Option<String>,
    /// When the next attempt is due.
    pub retry_at: Option<Timestamp>,
}

/// What watchers get.
#[derive(Debug, Clone)]
pub enum Watched {
    /// The next step of some push.
    Life(Arc<Life>),
    /// The watcher was too slow: so many steps were left out.
    Missed(u64),
}

/// The queue has the push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Which.
    pub id: PushId,
    /// The state in which a push of the same id was found; that one stays, this one was not taken.
    pub duplicate: Option<State>,
}

/// Why pushes are not taken. None of the call's pushes is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The queue is full.
    #[error("{waiting} pushes with {bytes} octets wait already, which is all that the queue takes of this class")]
    Full {
        /// Pushes that wait.
        waiting: usize,
        /// Their octets on disk.
        bytes: u64,
    },
    /// The deadline has passed.
    #[error("the deadline of push {0} has passed")]
    TooLate(PushId),
    /// Nobody sends for the application.
    #[error("push {id} is for the application {app}, which is not configured")]
    UnknownApp {
        /// The push.
        id: PushId,
        /// Its application.
        app: AppName,
    },
    /// It is larger than any provider takes.
    #[error("push {id} has {bytes} octets, more than any provider takes")]
    TooLarge {
        /// The push.
        id: PushId,
        /// Its octets.
        bytes: usize,
    },
    /// It is not on disk. Should only the disk's answer have been lost, it may still be sent: repeat it with the same id.
    #[error("it cannot be put on disk: {0}")]
    Disk(String),
    /// The queue was closed.
    #[error("the queue is closed")]
    Closed,
}

/// What a cancellation found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// It waited; it will never be sent.
    Dropped,
    /// The provider has it or may have it; it is not tried again.
    Sent,
    /// It had ended otherwise.
    Finished(State),
    /// No such push is remembered.
    Unknown,
}

/// What is known of a push, read from the log.
#[derive(Clone, PartialEq, Eq)]
pub struct History {
    /// The push.
    pub id: PushId,
    /// Its application.
    pub app: AppName,
    /// Its class.
    pub class: Class,
    /// Its user.
    pub user: Option<UserId>,
    /// Its device.
    pub device: Option<DeviceId>,
    /// When it was asked for.
    pub received_at: Timestamp,
    /// When it is too late.
    pub deadline: Option<Timestamp>,
    /// What happened, oldest first.
    pub moments: Vec<Moment>,
}

/// One line of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// What it became.
    pub state: State,
    /// When.
    pub at: Timestamp,
    /// Attempts begun by then.
    pub attempt: u16,
    /// Why.
    pub reason: Option<Reason>,
    /// The provider's id.
    pub provider_id: Option<String>,
    /// When the next attempt was due.
    pub retry_at: Option<Timestamp>,
}

// === impl State ===

impl State {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Received,
        Self::Stored,
        Self::Sent,
        Self::Retried,
        Self::Accepted,
        Self::Expired,
        Self::Dropped,
        Self::TokenGone,
        Self::Failed,
    ];

    /// Whether nothing follows.
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Received | Self::Stored | Self::Sent | Self::Retried => false,
            Self::Accepted | Self::Expired | Self::Dropped | Self::TokenGone | Self::Failed => true,
        }
    }

    /// For labels and people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Stored => "stored",
            Self::Sent => "sent",
            Self::Retried => "retried",
            Self::Accepted => "accepted",
            Self::Expired => "expired",
            Self::Dropped => "dropped",
            Self::TokenGone => "token_gone",
            Self::Failed => "failed",
        }
    }

    /// Its number in records: never changes.
    pub(crate) fn code(self) -> u64 {
        match self {
            Self::Received => 1,
            Self::Stored => 2,
            Self::Sent => 3,
            Self::Retried => 4,
            Self::Accepted => 5,
            Self::Expired => 6,
            Self::Dropped => 7,
            Self::TokenGone => 8,
            Self::Failed => 9,
        }
    }

    pub(crate) fn of_code(code: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.code() == code)
    }
}

// === impl History ===

impl History {
    /// What it is now.
    pub fn state(&self) -> State {
        self.moments.last().map_or(State::Stored, |moment| moment.state)
    }
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("History").field("id", &self.id).field("app", &self.app).field("moments", &self.moments).finish_non_exhaustive()
    }
}

impl fmt::Debug for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Life({} of {}: {} at {}, attempt {}, {:?})", self.id, self.app, self.state.as_str(), self.at, self.attempt, self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_states_are_read_back() {
        for state in State::ALL {
            assert_eq!(State::of_code(state.code()), Some(state));
        }
        assert_eq!(State::of_code(0), None);
    }
}
