//! The switch's times and words, as its dialect spells them (ecss10-interfaces §1).

use ecss_switch::{
    command::Role,
    dialect::{Words, canonical},
    event::{Cause, ParticipantStatus, Recording},
};
use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};

/// Reads `DD.MM.YYYY HH:MM:SS` of a clock ahead of UTC, or seconds since 1970.
pub(crate) fn time(text: &str, ahead_minutes: i32) -> Option<Timestamp> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit()) {
        return Timestamp::from_second(text.parse().ok()?).ok();
    }
    let civil = DateTime::strptime("%d.%m.%Y %H:%M:%S", text).ok()?;
    let there = TimeZone::UTC.to_timestamp(civil).ok()?;
    there.checked_sub(SignedDuration::from_mins(i64::from(ahead_minutes))).ok()
}

/// Writes `DD.MM.YYYY HH:MM:SS` of a clock ahead of UTC.
pub(crate) fn written_time(time: Timestamp, ahead_minutes: i32) -> Option<String> {
    let there = time.checked_add(SignedDuration::from_mins(i64::from(ahead_minutes))).ok()?;
    Some(TimeZone::UTC.to_datetime(there).strftime("%d.%m.%Y %H:%M:%S").to_string())
}

pub(crate) fn boolean(words: &Words, text: &str) -> Option<bool> {
    match canonical(&words.boolean, text)? {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

pub(crate) fn cause(words: &Words, text: &str) -> Option<Cause> {
    if text.is_empty() {
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

pub(crate) fn recording(words: &Words, text: &str) -> Option<Recording> {
    match canonical(&words.recording, text)? {
        "off" => Some(Recording::Off),
        "on" => Some(Recording::On),
        "paused" => Some(Recording::Paused),
        _ => None,
    }
}

pub(crate) fn participant_status(words: &Words, text: &str) -> Option<ParticipantStatus> {
    match canonical(&words.participant_status, text)? {
        "pending" => Some(ParticipantStatus::Pending),
        "dialing_out" => Some(ParticipantStatus::DialingOut),
        "dialing_in" => Some(ParticipantStatus::DialingIn),
        "alerting" => Some(ParticipantStatus::Alerting),
        "on_hold" => Some(ParticipantStatus::OnHold),
        "connected" => Some(ParticipantStatus::Connected),
        "disconnecting" => Some(ParticipantStatus::Disconnecting),
        "disconnected" => Some(ParticipantStatus::Disconnected),
        _ => None,
    }
}

pub(crate) fn role(master: bool) -> Role {
    if master { Role::Presenter } else { Role::Participant }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_by_the_clock_of_the_switch() {
        let utc: Timestamp = "2026-11-24T07:05:09Z".parse().unwrap();
        assert_eq!(time("24.11.2026 10:05:09", 180), Some(utc));
        assert_eq!(written_time(utc, 180).as_deref(), Some("24.11.2026 10:05:09"));
        assert_eq!(time("1795503909", 180), Some(utc));
        for bad in ["", "24.11.2026", "32.11.2026 10:05:09", "2026/11/24 10:05:09", "99999999999999999999"] {
            assert_eq!(time(bad, 0), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_reads_the_same(seconds in 0_i64..4_000_000_000, ahead in -720_i32..840) {
            let at = Timestamp::from_second(seconds).unwrap();
            proptest::prop_assert_eq!(time(&written_time(at, ahead).unwrap(), ahead), Some(at));
        }
    }
}
