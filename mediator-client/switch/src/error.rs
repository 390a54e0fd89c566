//! How a command ends when it does not succeed. Whether it may be sent again is in the type, not in the text.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::command::Operation;

/// Why the switch said no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RefusalReason {
    /// No such subscriber or number.
    UnknownAlias,
    /// No such call or leg: it never was, or is over.
    UnknownCall,
    /// No such conference, room or template: it never was, or is over.
    UnknownConference,
    /// No such member: never was, or has left.
    UnknownParticipant,
    /// The conference has all the participants it may have.
    ConferenceFull,
    /// The conference is locked.
    ConferenceLocked,
    /// The subscriber or session lacks the right.
    MissingRight,
    /// Every licence of the kind is in use.
    LicenceExhausted,
    /// The licence has run out.
    LicenceExpired,
    /// A limit of the domain or switch is reached.
    LimitReached,
    /// The called party is busy or out of reach.
    Busy,
    /// The call or conference is in a state that does not allow it.
    WrongState,
    /// It exists already.
    AlreadyExists,
    /// An object of the switch is locked by another session.
    Locked,
    /// The switch does not offer it.
    NotSupported,
    /// A reason the dialect does not name; its text is kept.
    Other,
}

/// How a command to the switch failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The dialect in use does not know the switch's command for it.
    #[error("the switch's command for {operation:?} is not known to this dialect")]
    Unnamed {
        /// The operation without a name.
        operation: Operation,
    },
    /// It surely was not executed: nothing was sent, or the switch said so. May be sent again.
    #[error("the command was not sent: {cause}")]
    NotSent {
        /// What was in the way (no secrets).
        cause: String,
    },
    /// The switch refused it.
    #[error("the switch refused: {text}")]
    Refused {
        /// Why, in our words.
        reason: RefusalReason,
        /// Why, in the switch's words.
        text: String,
    },
    /// The switch asks for a confirmation that the dialect does not know how to give, or that was not allowed.
    #[error("the switch asks for confirmation: {question}")]
    ConfirmationRequired {
        /// The question, in the switch's words.
        question: String,
    },
    /// It was sent and no answer came: it may or may not have been executed. Look at the state; do not send it again.
    #[error("the command was sent but its outcome is unknown: {cause}")]
    OutcomeUnknown {
        /// What happened to the answer (no secrets).
        cause: String,
    },
    /// The answer cannot be understood. Treated like an unknown outcome by callers that change something.
    #[error("the switch's answer cannot be understood: {cause}")]
    BadAnswer {
        /// What is wrong with it (no secrets, shortened).
        cause: String,
    },
}

impl CommandError {
    /// Whether sending the command again cannot do it twice.
    pub fn surely_not_executed(&self) -> bool {
        matches!(self, Self::Unnamed { .. } | Self::NotSent { .. } | Self::Refused { .. } | Self::ConfirmationRequired { .. })
    }

    /// Shorthand for drivers.
    pub fn not_sent(cause: impl Into<String>) -> Self {
        Self::NotSent { cause: cause.into() }
    }

    /// Shorthand for drivers.
    pub fn unknown(cause: impl Into<String>) -> Self {
        Self::OutcomeUnknown { cause: cause.into() }
    }
}
