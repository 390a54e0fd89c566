//! From the switch's vocabulary to the API's.

use ecss_switch::{
    command::Role,
    event::{Cause, Direction, LegState, ParticipantStatus, Recording},
};
use elph_proto::v1;
use jiff::Timestamp;

/// A protobuf timestamp.
pub fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() }
}

/// The time between two timestamps, not below zero.
pub(crate) fn between(from: &prost_types::Timestamp, to: &prost_types::Timestamp) -> prost_types::Duration {
    let nanos = i128::from(to.seconds - from.seconds) * 1_000_000_000 + i128::from(to.nanos - from.nanos);
    let nanos = nanos.max(0);
    prost_types::Duration {
        seconds: i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX),
        nanos: i32::try_from(nanos % 1_000_000_000).unwrap_or(0),
    }
}

/// A leg's state.
pub fn leg_state(state: LegState) -> v1::LegState {
    match state {
        LegState::Initiated => v1::LegState::Initiated,
        LegState::Alerting => v1::LegState::Alerting,
        LegState::Queued => v1::LegState::Queued,
        LegState::Connected => v1::LegState::Connected,
        LegState::Held => v1::LegState::Held,
        LegState::Failed => v1::LegState::Failed,
        LegState::Released => v1::LegState::Released,
    }
}

/// Why something ended.
pub fn end_cause(cause: Cause) -> v1::EndCause {
    match cause {
        Cause::Normal => v1::EndCause::Normal,
        Cause::Busy => v1::EndCause::Busy,
        Cause::NoAnswer => v1::EndCause::NoAnswer,
        Cause::Rejected => v1::EndCause::Rejected,
        Cause::CallerGaveUp => v1::EndCause::CallerGaveUp,
        Cause::AnsweredElsewhere => v1::EndCause::AnsweredElsewhere,
        Cause::Unobtainable => v1::EndCause::Unobtainable,
        Cause::Redirected => v1::EndCause::Redirected,
        Cause::Transfer => v1::EndCause::Transferred,
        Cause::Conference => v1::EndCause::Conferenced,
        Cause::NoResources => v1::EndCause::NoResources,
        Cause::Other => v1::EndCause::Other,
    }
}

pub(crate) fn direction(direction: Direction) -> v1::LegDirection {
    match direction {
        Direction::Originating => v1::LegDirection::Originating,
        Direction::Terminating => v1::LegDirection::Terminating,
    }
}

pub(crate) fn role(role: Role) -> v1::ParticipantRole {
    match role {
        Role::Participant => v1::ParticipantRole::Participant,
        Role::Presenter => v1::ParticipantRole::Presenter,
    }
}

pub(crate) fn recording(recording: Recording) -> v1::RecordingState {
    match recording {
        Recording::Off => v1::RecordingState::Off,
        Recording::On => v1::RecordingState::On,
        Recording::Paused => v1::RecordingState::Paused,
    }
}

pub(crate) fn participant_status(status: ParticipantStatus) -> v1::ParticipantStatus {
    match status {
        ParticipantStatus::Pending => v1::ParticipantStatus::Pending,
        ParticipantStatus::DialingOut => v1::ParticipantStatus::DialingOut,
        ParticipantStatus::DialingIn => v1::ParticipantStatus::DialingIn,
        ParticipantStatus::Alerting => v1::ParticipantStatus::Alerting,
        ParticipantStatus::OnHold => v1::ParticipantStatus::OnHold,
        ParticipantStatus::Connected => v1::ParticipantStatus::Connected,
        ParticipantStatus::Disconnecting => v1::ParticipantStatus::Disconnecting,
        ParticipantStatus::Disconnected => v1::ParticipantStatus::Disconnected,
    }
}
