//! The switch's words and times as values.

use ecss_switch::{
    command::Role,
    dialect::{CallApiDialect, TimeFormat, Words, canonical},
    event::{Cause, Direction, LegState, ParticipantStatus, Recording},
};
use jiff::{Timestamp, civil, tz::Offset};

pub(super) fn leg_state(words: &Words, text: &str) -> Option<LegState> {
    Some(match canonical(&words.leg_state, text)? {
        "initiated" => LegState::Initiated,
        "alerting" => LegState::Alerting,
        "queued" => LegState::Queued,
        "connected" => LegState::Connected,
        "held" => LegState::Held,
        "failed" => LegState::Failed,
        "released" => LegState::Released,
        _ => return None,
    })
}

pub(super) fn direction(words: &Words, text: &str) -> Option<Direction> {
    match canonical(&words.direction, text)? {
        "originating" => Some(Direction::Originating),
        "terminating" => Some(Direction::Terminating),
        _ => None,
    }
}

/// A cause that the dialect does not know is still a cause.
pub(super) fn cause(words: &Words, text: &str) -> Option<Cause> {
    if text.trim().is_empty() {
        return None;
    }
    Some(match canonical(&words.cause, text) {
        Some("normal") => Cause::Normal,
        Some("busy") => Cause::Busy,
        Some("no_answer") => Cause::NoAnswer,
        Some("rejected") => Cause::Rejected,
        Some("caller_gave_up") => Cause::CallerGaveUp,
        Some("answered_elsewhere") => Cause::AnsweredElsewhere,
        Some("unobtainable") => Cause::Unobtainable,
        Some("redirected") => Cause::Redirected,
        Some("transfer") => Cause::Transfer,
        Some("conference") => Cause::Conference,
        Some("no_resources") => Cause::NoResources,
        _ => Cause::Other,
    })
}

pub(super) fn participant_status(words: &Words, text: &str) -> Option<ParticipantStatus> {
    Some(match canonical(&words.participant_status, text)? {
        "pending" => ParticipantStatus::Pending,
        "dialing_out" => ParticipantStatus::DialingOut,
        "dialing_in" => ParticipantStatus::DialingIn,
        "alerting" => ParticipantStatus::Alerting,
        "on_hold" => ParticipantStatus::OnHold,
        "connected" => ParticipantStatus::Connected,
        "disconnecting" => ParticipantStatus::Disconnecting,
        "disconnected" => ParticipantStatus::Disconnected,
        _ => return None,
    })
}

pub(super) fn role(words: &Words, text: &str) -> Option<Role> {
    match canonical(&words.role, text)? {
        "participant" => Some(Role::Participant),
        "presenter" => Some(Role::Presenter),
        _ => None,
    }
}

pub(super) fn recording(words: &Words, text: &str) -> Option<Recording> {
    match canonical(&words.recording, text)? {
        "off" => Some(Recording::Off),
        "on" => Some(Recording::On),
        "paused" => Some(Recording::Paused),
        _ => None,
    }
}

pub(super) fn boolean(words: &Words, text: &str) -> Option<bool> {
    match canonical(&words.boolean, text)? {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// A time as the Call API writes it.
pub(super) fn time(dialect: &CallApiDialect, text: &str) -> Option<Timestamp> {
    let text = text.trim();
    let (year, month, day) = match dialect.time_format {
        TimeFormat::UnixMs => return Timestamp::from_millisecond(text.parse().ok()?).ok(),
        TimeFormat::YmdSlash => (0..4, 5..7, 8..10),
        TimeFormat::DmyDot => (6..10, 3..5, 0..2),
    };
    let separator = if dialect.time_format == TimeFormat::YmdSlash { (4, 7, b'/') } else { (2, 5, b'.') };
    let bytes = text.as_bytes();
    let has = |at: usize, byte: u8| bytes.get(at) == Some(&byte);
    let formed = has(separator.0, separator.2) && has(separator.1, separator.2) && has(10, b' ') && has(13, b':') && has(16, b':');
    if bytes.len() != 19 || !formed {
        return None;
    }
    let number = |range: std::ops::Range<usize>| {
        let digits = bytes.get(range)?;
        digits.iter().try_fold(0i16, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + i16::from(digit - b'0')))
    };
    let small = |range| i8::try_from(number(range)?).ok();
    let date = civil::Date::new(number(year)?, small(month)?, small(day)?).ok()?;
    let at = date.to_datetime(civil::Time::new(small(11..13)?, small(14..16)?, small(17..19)?, 0).ok()?);
    Offset::from_seconds(dialect.utc_offset_minutes.checked_mul(60)?).ok()?.to_timestamp(at).ok()
}

#[cfg(test)]
mod tests {
    use ecss_switch::Dialect;

    use super::*;

    #[test]
    fn times_are_read_in_each_format_and_anything_else_is_none() {
        let mut dialect = Dialect::built_in("sim").unwrap().call_api;
        let expected = Some("2026-11-24T07:05:09Z".parse().unwrap());
        assert_eq!(dialect.utc_offset_minutes, 180);
        assert_eq!(time(&dialect, "2026/11/24 10:05:09"), expected);
        dialect.time_format = TimeFormat::DmyDot;
        assert_eq!(time(&dialect, " 24.11.2026 10:05:09"), expected);
        for bad in [
            "",
            "2026/11/24 10:05:09",
            "24.11.2026 10:05",
            "32.11.2026 10:05:09",
            "24.11.20x6 10:05:09",
            "24.11.2026 10:05:0é",
            "éééééééééé",
        ] {
            assert_eq!(time(&dialect, bad), None, "{bad}");
        }
        dialect.time_format = TimeFormat::UnixMs;
        assert_eq!(time(&dialect, "1795503909000"), expected);
        assert_eq!(time(&dialect, "99999999999999999999"), None);
    }

    #[test]
    fn every_word_of_both_dialects_has_a_value() {
        for name in ["sim", "documented"] {
            let words = Dialect::built_in(name).unwrap().words;
            let all =
                |vocabulary: &std::collections::BTreeMap<String, Vec<String>>| vocabulary.values().flatten().cloned().collect::<Vec<_>>();
            assert!(all(&words.leg_state).iter().all(|word| leg_state(&words, word).is_some()));
            assert!(all(&words.direction).iter().all(|word| direction(&words, word).is_some()));
            assert!(all(&words.participant_status).iter().all(|word| participant_status(&words, &word.to_uppercase()).is_some()));
            assert!(all(&words.role).iter().all(|word| role(&words, word).is_some()));
            assert!(all(&words.recording).iter().all(|word| recording(&words, word).is_some()));
            assert!(all(&words.boolean).iter().all(|word| boolean(&words, word).is_some()));
            let other = all(&words.cause).iter().filter(|word| cause(&words, word) == Some(Cause::Other)).count();
            assert_eq!(other, 1);
        }
    }
}
