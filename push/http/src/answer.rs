//! What a service answered, and the one header that all providers share: `Retry-After` (RFC 9110 §10.2.3).

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header::RETRY_AFTER};
use jiff::{Timestamp, fmt::rfc2822::DateTimeParser};

/// An answer. Its body may be cut: at the bound, or where the connection broke – the status was said before.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The header fields.
    pub headers: HeaderMap,
    /// As much of the body as was read.
    pub body: Bytes,
}

/// The shortest wait that is believed.
const SHORTEST: Duration = Duration::from_secs(1);

/// The longest wait that is believed.
const LONGEST: Duration = Duration::from_secs(3600);

/// How long the service wants to be left alone: seconds or a date, between a second and an hour. `None`: it did not say, or not so
/// that it could be understood.
pub fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if text.is_empty() {
        return None;
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a number has: longer than the longest.
        let seconds = text.parse().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds).clamp(SHORTEST, LONGEST));
    }
    let at = DateTimeParser::new().parse_timestamp(text).ok()?;
    let wait = Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO);
    Some(wait.clamp(SHORTEST, LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trial_14_retry_after_may_be_absent_absurd_or_a_date() {
        let now: Timestamp = "2026-11-24T12:00:00Z".parse().unwrap();
        for (text, wanted) in [
            (Some("30"), Some(30)),
            (Some(" 30 "), Some(30)),
            (Some("0"), Some(1)),
            (Some("86400"), Some(3600)),
            (Some("99999999999999999999999999"), Some(3600)),
            (Some("Tue, 24 Nov 2026 12:02:00 GMT"), Some(120)),
            (Some("Tue, 24 Nov 2026 11:00:00 GMT"), Some(1)),
            (Some("Wed, 24 Nov 2027 12:00:00 GMT"), Some(3600)),
            (Some("-5"), None),
            (Some("soon"), None),
            (Some(""), None),
            (None, None),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(text) = text {
                headers.insert(RETRY_AFTER, text.parse().unwrap());
            }
            assert_eq!(retry_after(&headers, now), wanted.map(Duration::from_secs), "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,80}") {
            let mut headers = HeaderMap::new();
            if let Ok(value) = text.parse() {
                headers.insert(RETRY_AFTER, value);
            }
            if let Some(wait) = retry_after(&headers, Timestamp::UNIX_EPOCH) {
                assert!(wait >= SHORTEST && wait <= LONGEST);
            }
        }
    }
}
