//! The stable reasons of errors (`google.rpc.ErrorInfo.reason`), each with its gRPC status. Callers decide by these, never by texts.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

/// `google.rpc.ErrorInfo.domain` of every error.
pub const ERROR_DOMAIN: &str = "elph.agent.v1";

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal, $code:ident;)+) => {
        /// Why a call of the API failed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $($(#[doc = $doc])+ $name,)+ }

        impl Reason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The stable text.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// The gRPC status it comes with.
            pub fn code(self) -> Code {
                match self { $(Self::$name => Code::$code,)+ }
            }

            /// What it means, for people.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

reasons! {
    /// A field of the request is wrong; the field violations say which and why.
    InvalidRequest = "INVALID_REQUEST", InvalidArgument;
    /// There is no such domain, or the caller may not see it.
    UnknownDomain = "UNKNOWN_DOMAIN", NotFound;
    /// There is no such alias or number on the switch.
    UnknownAlias = "UNKNOWN_ALIAS", NotFound;
    /// There is no such call, or the caller may not see it.
    UnknownCall = "UNKNOWN_CALL", NotFound;
    /// The call has no such leg.
    UnknownLeg = "UNKNOWN_LEG", NotFound;
    /// The call is over.
    CallEnded = "CALL_ENDED", FailedPrecondition;
    /// There is no such conference, room or template, or the caller may not see it.
    UnknownConference = "UNKNOWN_CONFERENCE", NotFound;
    /// The conference is over.
    ConferenceEnded = "CONFERENCE_ENDED", FailedPrecondition;
    /// The conference has no such participant.
    UnknownParticipant = "UNKNOWN_PARTICIPANT", NotFound;
    /// The participant has left.
    ParticipantLeft = "PARTICIPANT_LEFT", FailedPrecondition;
    /// The conference has all the participants it may have.
    ConferenceFull = "CONFERENCE_FULL", ResourceExhausted;
    /// The conference is locked.
    ConferenceLocked = "CONFERENCE_LOCKED", FailedPrecondition;
    /// The conference changed after the version that the command was decided on.
    VersionChanged = "VERSION_CHANGED", Aborted;
    /// The subscriber or the agent's session lacks the right on the switch.
    MissingRight = "MISSING_RIGHT", PermissionDenied;
    /// Every licence of the kind is in use.
    LicenceExhausted = "LICENCE_EXHAUSTED", ResourceExhausted;
    /// The switch's licence has run out.
    LicenceExpired = "LICENCE_EXPIRED", FailedPrecondition;
    /// A limit of the domain or of the switch is reached.
    SwitchLimitReached = "SWITCH_LIMIT_REACHED", ResourceExhausted;
    /// The called party is busy or cannot be reached.
    PartyBusy = "PARTY_BUSY", FailedPrecondition;
    /// The call or conference is in a state that does not allow the command.
    WrongState = "WRONG_STATE", FailedPrecondition;
    /// It exists already.
    AlreadyExists = "ALREADY_EXISTS", AlreadyExists;
    /// The object is locked by another session of the switch.
    SwitchObjectLocked = "SWITCH_OBJECT_LOCKED", Aborted;
    /// The switch does not offer it.
    SwitchNotSupported = "SWITCH_NOT_SUPPORTED", Unimplemented;
    /// The switch refused with a reason that the dialect does not name; its words are in the metadata `switch_text`.
    SwitchRefused = "SWITCH_REFUSED", FailedPrecondition;
    /// The switch's command for this operation is not known to the dialect in use.
    SwitchCommandUnknown = "SWITCH_COMMAND_UNKNOWN", Unimplemented;
    /// The switch asks for a confirmation; the question is in the metadata `question`.
    ConfirmationRequired = "CONFIRMATION_REQUIRED", FailedPrecondition;
    /// The link to the switch is down; the command was not executed.
    SwitchUnavailable = "SWITCH_UNAVAILABLE", Unavailable;
    /// The command was sent and no answer came: it may or may not have been executed. Look at the state before sending it again.
    OutcomeUnknown = "OUTCOME_UNKNOWN", Unknown;
    /// The switch answered something that cannot be understood.
    SwitchAnswerBad = "SWITCH_ANSWER_BAD", Internal;
    /// The command's time was over before it came to this part of it: for it, nothing was sent to the switch.
    NotAttempted = "NOT_ATTEMPTED", DeadlineExceeded;
    /// The request id was used for another command.
    RequestIdReused = "REQUEST_ID_REUSED", AlreadyExists;
    /// Too many commands are under way.
    TooManyCommands = "TOO_MANY_COMMANDS", ResourceExhausted;
    /// Too many subscribers of events.
    TooManySubscribers = "TOO_MANY_SUBSCRIBERS", ResourceExhausted;
    /// Wrong login or wrong password: which of them is not said.
    CredentialsRejected = "CREDENTIALS_REJECTED", Unauthenticated;
    /// Too many attempts for this alias or by this caller; the delay is in the retry info.
    TooManyAttempts = "TOO_MANY_ATTEMPTS", ResourceExhausted;
    /// The caller cannot be identified or has no grant.
    CallerUnknown = "CALLER_UNKNOWN", Unauthenticated;
    /// The caller's grant lacks the scope.
    MissingScope = "MISSING_SCOPE", PermissionDenied;
    /// The caller's grant lacks the domain.
    DomainNotGranted = "DOMAIN_NOT_GRANTED", PermissionDenied;
    /// The command needs a moderator's access token in the metadata `authorization`.
    ModeratorTokenRequired = "MODERATOR_TOKEN_REQUIRED", Unauthenticated;
    /// The moderator's access token is not valid for this command.
    ModeratorTokenInvalid = "MODERATOR_TOKEN_INVALID", Unauthenticated;
    /// The moderator's access token is good, but for another domain.
    ModeratorOfOtherDomain = "MODERATOR_OF_OTHER_DOMAIN", PermissionDenied;
    /// The keys of the moderator's issuer cannot be had now.
    IssuerUnavailable = "ISSUER_UNAVAILABLE", Unavailable;
    /// A moderator's command must name its domain.
    DomainNeeded = "DOMAIN_NEEDED", InvalidArgument;
    /// No application for pushes is configured.
    PushNotConfigured = "PUSH_NOT_CONFIGURED", FailedPrecondition;
    /// There is no such application, or not for this domain.
    UnknownApp = "UNKNOWN_APP", NotFound;
    /// There is no such device, or the caller may not see it.
    UnknownDevice = "UNKNOWN_DEVICE", NotFound;
    /// There is no such push, the log no longer reaches back to it, or the caller may not see it.
    UnknownPush = "UNKNOWN_PUSH", NotFound;
    /// As many pushes wait, or as many devices are registered, as may be.
    PushLimitReached = "PUSH_LIMIT_REACHED", ResourceExhausted;
    /// The push's time is over.
    PushTooLate = "PUSH_TOO_LATE", FailedPrecondition;
    /// The disk does not take it: see the agent's log.
    PushStoreFailed = "PUSH_STORE_FAILED", Unavailable;
    /// A message is larger than the agent takes (`grpc.max_message_bytes`).
    MessageTooLarge = "MESSAGE_TOO_LARGE", ResourceExhausted;
    /// A request has more metadata than the agent takes (16 KiB).
    MetadataTooLarge = "METADATA_TOO_LARGE", ResourceExhausted;
    /// A defect of the agent: please report it.
    Internal = "INTERNAL", Internal;
    /// The agent is shutting down.
    ShuttingDown = "SHUTTING_DOWN", Unavailable;
}

impl Reason {
    /// A status with this reason.
    pub fn status(self, message: impl Into<String>) -> Status {
        self.status_with(message, HashMap::new())
    }

    /// A status with this reason and metadata (no secrets).
    pub fn status_with(self, message: impl Into<String>, metadata: HashMap<String, String>) -> Status {
        let details = ErrorDetails::with_error_info(self.as_str(), ERROR_DOMAIN, metadata);
        Status::with_error_details(self.code(), message, details)
    }

    /// INVALID_ARGUMENT with the violations of single fields.
    pub fn invalid(violations: Vec<FieldViolation>) -> Status {
        let first = violations.first().map(|violation| match violation.field.as_str() {
            "" => violation.description.clone(),
            field => format!("{field}: {}", violation.description),
        });
        let first = first.unwrap_or_default();
        let mut details = ErrorDetails::with_error_info(Self::InvalidRequest.as_str(), ERROR_DOMAIN, HashMap::new());
        details.set_bad_request(violations);
        Status::with_error_details(Self::InvalidRequest.code(), first, details)
    }

    /// The reason of a status that the agent answered.
    pub fn of(status: &Status) -> Option<Self> {
        let info = status.get_details_error_info()?;
        Self::ALL.iter().copied().find(|reason| info.domain == ERROR_DOMAIN && reason.as_str() == info.reason)
    }
}

/// A status code as gRPC's documentation writes it.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_carries_its_reason_and_fields() {
        for reason in Reason::ALL {
            let status = reason.status("text");
            assert_eq!(Reason::of(&status), Some(*reason));
            assert_eq!(status.code(), reason.code());
            assert!(!reason.meaning().is_empty());
        }
        let status = Reason::invalid(vec![FieldViolation::new("digits", "must be 1 to 32 of 0-9A-D*#")]);
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "digits");
    }
}
