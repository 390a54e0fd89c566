//! What can go wrong, how it is told to people (a line, the fields, what to do) and to programs (one JSON object), and the exit codes.

use std::{collections::HashMap, io, process::ExitCode};

use elph_proto::reason::{ERROR_DOMAIN, Reason, code_name};
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::change::Change;

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The command line or the settings are wrong; nothing was sent.
    #[error("{0}")]
    Usage(String),
    /// What was named by the beginning of its id does not exist.
    #[error("{0}")]
    NotFound(String),
    /// No connection.
    #[error("cannot reach the agent at {target}: {cause}")]
    Unreachable {
        /// Socket or address.
        target: String,
        /// Why, in one line.
        cause: String,
        /// What to do.
        hint: &'static str,
    },
    /// The agent answered with an error.
    #[error("{}", headline(.status))]
    Answer {
        /// The error.
        status: Box<Status>,
        /// The change that it answers.
        change: Option<Box<Change>>,
    },
    /// The connection was lost, or no answer came in time, after a change was sent.
    #[error("{cause}: the command may or may not have been executed")]
    Unknown {
        /// What happened.
        cause: String,
        /// The change.
        change: Box<Change>,
    },
    /// No answer in time to a question.
    #[error("{0}")]
    Unavailable(String),
    /// Part of what was asked was refused; the output shows which.
    #[error("{0}")]
    Refused(String),
    /// A file or the output could not be read or written.
    #[error("{0}")]
    Local(String),
    /// The reader of our output went away; that is no error.
    #[error("output closed")]
    Closed,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::Closed } else { Self::Local(format!("cannot write the output: {error}")) }
    }
}

/// The exit code of an error status.
pub(crate) fn exit_of(status: &Status) -> u8 {
    match Reason::of(status) {
        Some(reason) => exit_of_reason(reason),
        None => exit_of_code(status.code()),
    }
}

/// The exit code of a reason.
pub(crate) fn exit_of_reason(reason: Reason) -> u8 {
    match reason {
        Reason::TooManyAttempts | Reason::TooManyCommands | Reason::TooManySubscribers => 3,
        Reason::OutcomeUnknown => 4,
        _ => exit_of_code(reason.code()),
    }
}

fn exit_of_code(code: Code) -> u8 {
    match code {
        Code::Ok => 0,
        Code::InvalidArgument | Code::OutOfRange => 2,
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => 3,
        Code::Unauthenticated | Code::PermissionDenied => 5,
        Code::NotFound => 6,
        Code::Aborted => 7,
        _ => 1,
    }
}

fn reason_text(status: &Status) -> Option<String> {
    status.get_details_error_info().filter(|info| info.domain == ERROR_DOMAIN).map(|info| info.reason)
}

fn headline(status: &Status) -> String {
    let Some(reason) = Reason::of(status) else {
        let name = reason_text(status).unwrap_or_else(|| code_name(status.code()).to_owned());
        let message = if status.message().is_empty() { status.code().description() } else { status.message() };
        return format!("{name}: {message}");
    };
    format!("{}: {}", reason.as_str(), reason.meaning())
}

/// What to do about a reason.
fn hint(reason: Reason) -> &'static str {
    match reason {
        Reason::UnknownDomain | Reason::DomainNotGranted => "'elphctl directory domains' lists those you may see",
        Reason::UnknownAlias => "'elphctl directory subscribers' lists the aliases of a domain",
        Reason::UnknownCall => "'elphctl calls list --all' lists the calls the agent remembers",
        Reason::UnknownLeg => "'elphctl calls get' shows the legs of a call",
        Reason::UnknownConference => "'elphctl conf list' lists conferences, 'elphctl directory rooms' the rooms",
        Reason::UnknownParticipant | Reason::ParticipantLeft => "'elphctl conf get' shows who is in the conference",
        Reason::ConferenceLocked => "'elphctl conf unlock' lets people in again",
        Reason::UnknownApp => "'elphctl push apps' lists the configured applications",
        Reason::PushNotConfigured => "applications are configured in [[push.apps]] of the agent's configuration",
        Reason::UnknownDevice => "'elphctl push devices' lists the devices of a domain or a user",
        Reason::UnknownPush => "'elphctl push deliveries' lists the pushes of a device",
        Reason::VersionChanged => "look at the conference again and give its version with --if-version, or leave that out",
        Reason::WrongState => "look at its state with 'calls get' or 'conf get'",
        Reason::SwitchObjectLocked | Reason::TooManyCommands | Reason::TooManySubscribers => "try again in a moment",
        Reason::SwitchCommandUnknown => "'elphctl info' lists the operations that the dialect cannot name",
        Reason::SwitchUnavailable => "'elphctl links' shows what is wrong with the links",
        Reason::RequestIdReused => "leave --request-id out, or repeat exactly the command it was used for",
        Reason::TooManyAttempts => "wait before the next attempt",
        Reason::CallerUnknown | Reason::MissingScope => "the agent's configuration grants scopes and domains to a user or a certificate",
        Reason::ModeratorTokenRequired => "give a moderator's access token with --token-file or in ELPHCTL_TOKEN",
        Reason::ModeratorOfOtherDomain => "the token's owner moderates other domains",
        Reason::IssuerUnavailable => "try again when the issuer of tokens can be reached",
        Reason::ModeratorTokenInvalid => "get a fresh access token; this one has run out or is for someone or something else",
        Reason::MissingRight => "the right is given on the switch",
        Reason::LicenceExhausted | Reason::LicenceExpired | Reason::SwitchLimitReached => "the switch's administrator can tell more",
        Reason::SwitchAnswerBad => "the agent's log shows the answer; 'elph-agent doctor' compares the switch with the dialect",
        Reason::ShuttingDown => "try again when the agent is up",
        _ => "",
    }
}

impl Failure {
    /// The exit code.
    pub(crate) fn exit(&self) -> u8 {
        match self {
            Self::Closed => 0,
            Self::Refused(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable { .. } | Self::Unavailable(_) => 3,
            Self::Unknown { .. } => 4,
            Self::NotFound(_) => 6,
            Self::Local(_) => 8,
            Self::Answer { status, .. } => exit_of(status),
        }
    }

    /// The exit code for the shell.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit())
    }

    fn status(&self) -> Option<&Status> {
        match self {
            Self::Answer { status, .. } => Some(status),
            _ => None,
        }
    }

    /// The change, if what became of it has to be looked at or it can be repeated as it was.
    fn repeatable(&self) -> Option<&Change> {
        match self {
            Self::Unknown { change, .. } => Some(change),
            Self::Answer { change: Some(change), .. } if matches!(self.exit(), 3 | 4) => Some(change),
            _ => None,
        }
    }

    fn violations(&self) -> Vec<(String, String)> {
        let details = self.status().and_then(|status| status.get_details_bad_request());
        details.map(|bad| bad.field_violations.into_iter().map(|field| (field.field, field.description)).collect()).unwrap_or_default()
    }

    fn metadata(&self) -> HashMap<String, String> {
        self.status().and_then(|status| status.get_details_error_info()).map(|info| info.metadata).unwrap_or_default()
    }

    fn retry_seconds(&self) -> Option<f64> {
        self.status()?.get_details_retry_info()?.retry_delay.map(|delay| delay.as_secs_f64())
    }

    fn hint(&self) -> &'static str {
        match self {
            Self::Unreachable { hint, .. } => hint,
            Self::Answer { status, .. } => Reason::of(status).map(hint).unwrap_or_default(),
            _ => "",
        }
    }

    /// The lines for people. Text from elsewhere is cleaned of control characters by the writer.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("elphctl: {self}")];
        let violations = self.violations();
        if let Some(status) = self.status() {
            let told = reason_text(status).is_none() || Reason::of(status).is_none() || !violations.is_empty();
            if !told && !status.message().is_empty() {
                lines.push(format!("  agent: {}", status.message()));
            }
        }
        lines.extend(violations.iter().map(|(field, text)| format!("  {field}: {text}")));
        let mut metadata: Vec<_> = self.metadata().into_iter().collect();
        metadata.sort();
        lines.extend(metadata.iter().map(|(key, text)| format!("  {}: {text}", key.replace('_', " "))));
        if let Some(seconds) = self.retry_seconds() {
            lines.push(format!("  try again in {} s", seconds.ceil()));
        }
        if !self.hint().is_empty() {
            lines.push(format!("  hint: {}", self.hint()));
        }
        if let Some(change) = self.repeatable() {
            if self.exit() == 4 {
                lines.push(format!("  look:   {}", change.look_line()));
            }
            lines.push(format!("  repeat: {}", change.repeat_line()));
            lines.push("          (safe with this request id: it is not done twice)".to_owned());
        }
        lines
    }

    /// The object for programs.
    pub(crate) fn to_json(&self) -> Value {
        let mut error = json!({ "exitCode": self.exit(), "message": self.to_string() });
        let Some(object) = error.as_object_mut() else { return error };
        if let Some(status) = self.status() {
            object.insert("code".into(), code_name(status.code()).into());
            object.insert("message".into(), status.message().into());
            if let Some(reason) = reason_text(status) {
                object.insert("reason".into(), reason.into());
            }
            if let Some(reason) = Reason::of(status) {
                object.insert("meaning".into(), reason.meaning().into());
            }
        }
        if matches!(self, Self::Unknown { .. }) {
            object.insert("reason".into(), Reason::OutcomeUnknown.as_str().into());
            object.insert("meaning".into(), Reason::OutcomeUnknown.meaning().into());
        }
        let violations: Vec<Value> =
            self.violations().into_iter().map(|(field, text)| json!({ "field": field, "description": text })).collect();
        if !violations.is_empty() {
            object.insert("fieldViolations".into(), violations.into());
        }
        let metadata = self.metadata();
        if !metadata.is_empty() {
            object.insert("metadata".into(), json!(metadata));
        }
        if let Some(seconds) = self.retry_seconds() {
            object.insert("retryAfterSeconds".into(), json!(seconds));
        }
        if let Some(change) = self.repeatable() {
            object.insert("requestId".into(), change.request_id().into());
            object.insert("look".into(), change.look_line().into());
            object.insert("repeat".into(), change.repeat_line().into());
        }
        json!({ "error": error })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::EXIT_CODES;

    #[test]
    fn every_reason_has_a_documented_exit_code_that_is_not_success() {
        for reason in Reason::ALL {
            let code = exit_of_reason(*reason);
            assert!(code != 0 && EXIT_CODES.iter().any(|(documented, _)| *documented == code), "{}", reason.as_str());
            assert_eq!(exit_of(&reason.status("x")), code);
        }
    }

    #[test]
    fn an_error_says_reason_meaning_the_agents_words_and_what_to_do() {
        let status = Reason::ConferenceLocked.status("conference 7 is locked");
        let failure = Failure::Answer { status: Box::new(status), change: None };
        assert_eq!(
            failure.lines(),
            [
                "elphctl: CONFERENCE_LOCKED: The conference is locked.",
                "  agent: conference 7 is locked",
                "  hint: 'elphctl conf unlock' lets people in again",
            ]
        );
    }

    #[test]
    fn a_reason_of_a_newer_agent_is_shown_by_its_code() {
        let details = tonic_types::ErrorDetails::with_error_info("NEW_REASON", ERROR_DOMAIN, HashMap::new());
        let status = Status::with_error_details(Code::NotFound, "no such thing", details);
        let failure = Failure::Answer { status: Box::new(status), change: None };
        assert_eq!((failure.exit(), failure.lines()), (6, vec!["elphctl: NEW_REASON: no such thing".to_owned()]));
    }
}
