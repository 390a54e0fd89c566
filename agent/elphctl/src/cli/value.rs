//! Values of the command line that need parsing.

use std::{str::FromStr, time::Duration};

use elph_proto::v1::Cursor;

/// `90`, `90s`, `10m`, `1h30m`: a time above zero, bare numbers are seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let parsed = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => jiff::SignedDuration::from_str(text)
            .ok()
            .and_then(|signed| Duration::try_from(signed).ok())
            .ok_or("must be a time such as 90s, 10m or 1h30m")?,
    };
    if parsed.is_zero() || parsed > Duration::from_secs(366 * 86_400) {
        return Err("must be above zero and below a year".into());
    }
    Ok(parsed)
}

/// 1 to 64 printable ASCII characters.
pub(crate) fn request_id(text: &str) -> Result<String, String> {
    let fits = (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(text.to_owned()) } else { Err("must be 1 to 64 printable ASCII characters without spaces".into()) }
}

/// `KEY=VALUE`; the value may hold further equals signs.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    pair.map(|(key, value)| (key.to_owned(), value.to_owned())).ok_or_else(|| "must be KEY=VALUE".into())
}

/// Where a stream of events starts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Start {
    /// With new events.
    Now,
    /// With everything as it is.
    Snapshot,
    /// After a cursor.
    After(Cursor),
}

/// `now`, `snapshot` or `EPOCH:SEQUENCE`.
pub(crate) fn start(text: &str) -> Result<Start, String> {
    match text {
        "now" => Ok(Start::Now),
        "snapshot" => Ok(Start::Snapshot),
        _ => cursor(text).map(Start::After).ok_or_else(|| "must be now, snapshot or EPOCH:SEQUENCE".into()),
    }
}

/// `EPOCH:SEQUENCE`; the epoch is opaque and may hold colons itself.
pub(crate) fn cursor(text: &str) -> Option<Cursor> {
    let (epoch, sequence) = text.trim().rsplit_once(':')?;
    let sequence = sequence.parse().ok()?;
    if epoch.is_empty() { None } else { Some(Cursor { epoch: epoch.to_owned(), sequence }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for bad in ["", "0", "-5s", "soon", "1000000000000"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_cursor_is_read_back_as_it_is_printed() {
        assert_eq!(start("a:b:17"), Ok(Start::After(Cursor { epoch: "a:b".into(), sequence: 17 })));
        assert_eq!(start("now"), Ok(Start::Now));
        for bad in ["", ":1", "e:", "e:x", "later"] {
            assert!(start(bad).is_err(), "{bad}");
        }
    }
}
