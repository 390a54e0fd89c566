//! From the switch's failures to the API's stable reasons.

use std::collections::HashMap;

use elph_proto::reason::Reason;
use mediator_client::switch::{CommandError, RefusalReason};
use tonic::Status;

/// How much of the switch's words is passed on.
const WORDS: usize = 200;

/// A command may or may not have been executed.
pub fn unknown_outcome(what: &str) -> Status {
    Reason::OutcomeUnknown.status(format!("{what}: it may or may not have been executed; look at the state before sending it again"))
}

/// Why a command to the switch failed. `full`: what `LimitReached` means here.
pub fn refused(error: &CommandError) -> Status {
    let with = |reason: Reason, key: &str, text: &str| {
        let words: String = text.chars().filter(|c| !c.is_control()).take(WORDS).collect();
        reason.status_with(format!("the switch says: {words}"), HashMap::from([(key.to_owned(), words)]))
    };
    match error {
        CommandError::Unnamed { operation } => Reason::SwitchCommandUnknown.status_with(
            "the switch's command for this is not known to the dialect in use; `elph-agent doctor` says which field to set",
            HashMap::from([(
                "operation".to_owned(),
                serde_json::to_value(operation).ok().and_then(|it| it.as_str().map(str::to_owned)).unwrap_or_default(),
            )]),
        ),
        CommandError::NotSent { cause } => Reason::SwitchUnavailable.status(format!("the command was not sent to the switch: {cause}")),
        CommandError::Refused { reason, text } => with(reason_of(*reason), "switch_text", text),
        CommandError::ConfirmationRequired { question } => with(Reason::ConfirmationRequired, "question", question),
        CommandError::OutcomeUnknown { cause } => unknown_outcome(cause),
        CommandError::BadAnswer { cause } => Reason::SwitchAnswerBad.status(format!("the switch's answer cannot be understood: {cause}")),
    }
}

fn reason_of(refusal: RefusalReason) -> Reason {
    match refusal {
        RefusalReason::UnknownAlias => Reason::UnknownAlias,
        RefusalReason::UnknownCall => Reason::UnknownCall,
        RefusalReason::UnknownConference => Reason::UnknownConference,
        RefusalReason::UnknownParticipant => Reason::UnknownParticipant,
        RefusalReason::ConferenceFull => Reason::ConferenceFull,
        RefusalReason::ConferenceLocked => Reason::ConferenceLocked,
        RefusalReason::MissingRight => Reason::MissingRight,
        RefusalReason::LicenceExhausted => Reason::LicenceExhausted,
        RefusalReason::LicenceExpired => Reason::LicenceExpired,
        RefusalReason::LimitReached => Reason::SwitchLimitReached,
        RefusalReason::Busy => Reason::PartyBusy,
        RefusalReason::WrongState => Reason::WrongState,
        RefusalReason::AlreadyExists => Reason::AlreadyExists,
        RefusalReason::Locked => Reason::SwitchObjectLocked,
        RefusalReason::NotSupported => Reason::SwitchNotSupported,
        RefusalReason::Other => Reason::SwitchRefused,
    }
}
