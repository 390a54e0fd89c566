//! The Call API's times, in the dialect's format.

use ecss_switch::dialect::{CallApiDialect, TimeFormat};
use jiff::{Timestamp, civil, tz::Offset};

/// A time as the Call API writes it.
pub(super) fn read(dialect: &CallApiDialect, text: &str) -> Option<Timestamp> {
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
        assert_eq!(read(&dialect, "2026/11/24 10:05:09"), expected);
        dialect.time_format = TimeFormat::DmyDot;
        assert_eq!(read(&dialect, " 24.11.2026 10:05:09"), expected);
        for bad in [
            "",
            "2026/11/24 10:05:09",
            "24.11.2026 10:05",
            "32.11.2026 10:05:09",
            "24.11.20x6 10:05:09",
            "24.11.2026 10:05:0é",
            "éééééééééé",
        ] {
            assert_eq!(read(&dialect, bad), None, "{bad}");
        }
        dialect.time_format = TimeFormat::UnixMs;
        assert_eq!(read(&dialect, "1795503909000"), expected);
        assert_eq!(read(&dialect, "99999999999999999999"), None);
    }
}
