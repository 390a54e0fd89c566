//! The terminal's times (ecss10-interfaces §1).

use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};

/// Reads `DD.MM.YYYY HH:MM:SS` of a clock ahead of UTC, or seconds since 1970.
pub(crate) fn read(text: &str, ahead_minutes: i32) -> Option<Timestamp> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit()) {
        return Timestamp::from_second(text.parse().ok()?).ok();
    }
    let civil = DateTime::strptime("%d.%m.%Y %H:%M:%S", text).ok()?;
    let there = TimeZone::UTC.to_timestamp(civil).ok()?;
    there.checked_sub(SignedDuration::from_mins(i64::from(ahead_minutes))).ok()
}

/// Writes `DD.MM.YYYY HH:MM:SS` of a clock ahead of UTC.
pub(crate) fn written(time: Timestamp, ahead_minutes: i32) -> Option<String> {
    let there = time.checked_add(SignedDuration::from_mins(i64::from(ahead_minutes))).ok()?;
    Some(TimeZone::UTC.to_datetime(there).strftime("%d.%m.%Y %H:%M:%S").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_by_the_clock_of_the_switch() {
        let utc: Timestamp = "2026-11-24T07:05:09Z".parse().unwrap();
        assert_eq!(read("24.11.2026 10:05:09", 180), Some(utc));
        assert_eq!(written(utc, 180).as_deref(), Some("24.11.2026 10:05:09"));
        assert_eq!(read("1795503909", 180), Some(utc));
        for bad in ["", "24.11.2026", "32.11.2026 10:05:09", "2026/11/24 10:05:09", "99999999999999999999"] {
            assert_eq!(read(bad, 0), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_reads_the_same(seconds in 0_i64..4_000_000_000, ahead in -720_i32..840) {
            let at = Timestamp::from_second(seconds).unwrap();
            proptest::prop_assert_eq!(read(&written(at, ahead).unwrap(), ahead), Some(at));
        }
    }
}
