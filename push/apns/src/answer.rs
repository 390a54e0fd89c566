//! From an answer of APNs to an outcome. The reasons are those of Apple's table; what is not in it is kept as text and judged by its
//! status.
//!
//! `BadDeviceToken` does not make a token gone: Apple says it also of every good token when production and development are mixed up,
//! and a registry emptied by one wrong setting is worse than a dead token kept. A device that is really gone answers 410.

use std::time::Duration;

use jiff::{Timestamp, fmt::rfc2822};
use push_core::{Environment, Outcome, Reason};
use serde::Deserialize;

/// No `Retry-After` makes a push wait longer, whatever it says.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// Nor shorter.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
/// Apple's time between two tokens, when it does not say how long to wait.
const TOKEN_UPDATES: Duration = Duration::from_secs(20 * 60);

/// The body of a refusal.
#[derive(Debug, Default, Deserialize)]
struct Refusal {
    #[serde(default)]
    reason: Option<String>,
    /// Milliseconds since the epoch: with 410, when the token stopped being valid.
    #[serde(default)]
    timestamp: Option<i64>,
}

/// The outcome, for a status other than 200.
pub(crate) fn refused(status: u16, retry_after: Option<&[u8]>, body: &[u8], environment: Environment, now: Timestamp) -> Outcome {
    let refusal: Refusal = serde_json::from_slice(body).unwrap_or_default();
    let word = refusal.reason.as_deref().unwrap_or_default();
    let reason = word_of(word).map_or_else(|| unknown(status, word), Reason::known);
    let after = wait(retry_after, now);
    match (status, word) {
        (400, "BadDeviceToken") => Outcome::Fatal { reason: Reason::known(bad_device_token(environment)) },
        (
            400,
            "BadCollapseId" | "BadExpirationDate" | "BadMessageId" | "BadPriority" | "InvalidPushType" | "PayloadEmpty" | "PayloadTooLarge",
        )
        | (413, _) => Outcome::BadPayload { reason },
        (400, "IdleTimeout") => Outcome::RetryAfter { after, reason },
        (403, _) => Outcome::CredentialsExpired { reason },
        (410, _) => {
            let since = refusal.timestamp.and_then(|at| Timestamp::from_millisecond(at).ok());
            Outcome::TokenGone { since, reason }
        }
        (429, "TooManyProviderTokenUpdates") => {
            Outcome::Throttled { after: Some(after.unwrap_or(TOKEN_UPDATES)), device_only: false, reason }
        }
        (429, word) => Outcome::Throttled { after, device_only: word == "TooManyRequests", reason },
        // Topic, path or method: it is the configuration that is wrong, or a reason that nobody knows.
        (400..=499, _) => Outcome::Fatal { reason },
        _ => Outcome::RetryAfter { after, reason },
    }
}

/// The provider token was called expired and could not be replaced yet, or another refusal of who we are.
pub(crate) fn is_expired_token(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::CredentialsExpired { reason } if reason.as_str() == "ExpiredProviderToken")
}

/// Whether the provider is about to close the connection that this came on.
pub(crate) fn is_farewell(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::RetryAfter { reason, .. } if matches!(reason.as_str(), "Shutdown" | "IdleTimeout"))
}

fn bad_device_token(environment: Environment) -> &'static str {
    match environment {
        Environment::Production => {
            "BadDeviceToken: no token of the production environment; if all devices answer so, check the environment"
        }
        Environment::Development => {
            "BadDeviceToken: no token of the development environment; if all devices answer so, check the environment"
        }
    }
}

fn unknown(status: u16, word: &str) -> Reason {
    if word.is_empty() { Reason::told(&format!("status {status}")) } else { Reason::told(word) }
}

/// Apple's word, if it is one of the table.
fn word_of(word: &str) -> Option<&'static str> {
    const WORDS: [&str; 36] = [
        "BadCollapseId",
        "BadDeviceToken",
        "BadExpirationDate",
        "BadMessageId",
        "BadPriority",
        "BadTopic",
        "DeviceTokenNotForTopic",
        "DuplicateHeaders",
        "IdleTimeout",
        "InvalidPushType",
        "MissingDeviceToken",
        "MissingTopic",
        "PayloadEmpty",
        "TopicDisallowed",
        "BadCertificate",
        "BadCertificateEnvironment",
        "BadEnvironmentKeyIdInToken",
        "ExpiredProviderToken",
        "Forbidden",
        "InvalidProviderToken",
        "MissingProviderToken",
        "UnrelatedKeyIdInToken",
        "BadPath",
        "MethodNotAllowed",
        "ExpiredToken",
        "Unregistered",
        "PayloadTooLarge",
        "TooManyProviderTokenUpdates",
        "TooManyRequests",
        "InternalServerError",
        "ServiceUnavailable",
        "Shutdown",
        "BadChannelId",
        "ChannelNotRegistered",
        "MissingChannelId",
        "CannotCreateChannelConfig",
    ];
    WORDS.iter().find(|it| **it == word).copied()
}

/// `Retry-After`: seconds or a date (RFC 9110 §10.2.3).
fn wait(text: Option<&[u8]>, now: Timestamp) -> Option<Duration> {
    let text = std::str::from_utf8(text?).ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => LONGEST_WAIT,
        Err(_) => {
            let date = rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
            Duration::from_secs(u64::try_from(date.as_second() - now.as_second()).unwrap_or(0))
        }
    };
    Some(wait.clamp(SHORTEST_WAIT, LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn answer(status: u16, body: &str) -> Outcome {
        refused(status, None, body.as_bytes(), Environment::Production, now())
    }

    fn told(status: u16, reason: &str) -> (&'static str, String) {
        let outcome = answer(status, &format!(r#"{{"reason":"{reason}"}}"#));
        (outcome.name(), outcome.reason().unwrap().to_string())
    }

    #[test]
    fn every_documented_reason_has_its_outcome() {
        let table: &[(u16, &str, &[&str])] = &[
            (400, "bad_payload", &["BadCollapseId", "BadExpirationDate", "BadMessageId", "BadPriority", "InvalidPushType", "PayloadEmpty"]),
            (
                400,
                "fatal",
                &["BadTopic", "DeviceTokenNotForTopic", "DuplicateHeaders", "MissingDeviceToken", "MissingTopic", "TopicDisallowed"],
            ),
            (400, "retry_after", &["IdleTimeout"]),
            (
                403,
                "credentials_expired",
                &[
                    "BadCertificate",
                    "BadCertificateEnvironment",
                    "BadEnvironmentKeyIdInToken",
                    "ExpiredProviderToken",
                    "Forbidden",
                    "InvalidProviderToken",
                    "MissingProviderToken",
                    "UnrelatedKeyIdInToken",
                ],
            ),
            (404, "fatal", &["BadPath"]),
            (405, "fatal", &["MethodNotAllowed"]),
            (410, "token_gone", &["ExpiredToken", "Unregistered"]),
            (413, "bad_payload", &["PayloadTooLarge"]),
            (429, "throttled", &["TooManyProviderTokenUpdates", "TooManyRequests"]),
            (500, "retry_after", &["InternalServerError"]),
            (503, "retry_after", &["ServiceUnavailable", "Shutdown"]),
        ];
        for (status, name, reasons) in table {
            for reason in *reasons {
                assert_eq!(told(*status, reason), (*name, (*reason).to_owned()), "{status} {reason}");
                assert!(word_of(reason).is_some(), "{reason}");
            }
        }
    }

    #[test]
    fn trial_20_a_token_is_gone_since_the_time_that_apple_states_in_milliseconds() {
        let gone = answer(410, r#"{"reason":"Unregistered","timestamp":1767225600123}"#);
        let since = Some("2026-01-01T00:00:00.123Z".parse().unwrap());
        assert_eq!(gone, Outcome::TokenGone { since, reason: Reason::known("Unregistered") });
        for absurd in ["", ",\"timestamp\":99999999999999999", ",\"timestamp\":null"] {
            let gone = answer(410, &format!(r#"{{"reason":"ExpiredToken"{absurd}}}"#));
            assert_eq!(gone, Outcome::TokenGone { since: None, reason: Reason::known("ExpiredToken") }, "{absurd}");
        }
    }

    #[test]
    fn a_bad_token_may_be_one_of_the_other_environment_so_it_is_kept() {
        let Outcome::Fatal { reason } = answer(400, r#"{"reason":"BadDeviceToken"}"#) else { panic!("a token is lost by a wrong setting") };
        assert!(reason.as_str().contains("check the environment"), "{reason}");
    }

    #[test]
    fn too_many_for_one_device_concerns_no_other() {
        assert!(matches!(answer(429, r#"{"reason":"TooManyRequests"}"#), Outcome::Throttled { device_only: true, after: None, .. }));
        let updates = answer(429, r#"{"reason":"TooManyProviderTokenUpdates"}"#);
        assert!(matches!(updates, Outcome::Throttled { device_only: false, after: Some(TOKEN_UPDATES), .. }));
    }

    #[test]
    fn reasons_and_bodies_that_nobody_knows_are_kept_and_judged_by_the_status() {
        assert_eq!(told(400, "SomethingNew"), ("fatal", "SomethingNew".to_owned()));
        assert_eq!(told(403, "SomethingNew"), ("credentials_expired", "SomethingNew".to_owned()));
        assert_eq!(told(503, "SomethingNew"), ("retry_after", "SomethingNew".to_owned()));
        for (status, name) in [(400, "fatal"), (418, "fatal"), (500, "retry_after"), (502, "retry_after"), (302, "retry_after")] {
            for body in ["", "<html>", "{\"reason\":7}", "[]", "null"] {
                let outcome = answer(status, body);
                assert_eq!((outcome.name(), outcome.reason().unwrap().as_str()), (name, &*format!("status {status}")), "{body}");
            }
        }
    }

    #[test]
    fn a_wait_is_seconds_or_a_date_and_absurd_ones_are_clamped() {
        let wait = |text: &str| wait(Some(text.as_bytes()), now());
        assert_eq!(wait("30"), Some(Duration::from_secs(30)));
        assert_eq!(wait("0"), Some(SHORTEST_WAIT));
        assert_eq!(wait("99999999999999999999999"), Some(LONGEST_WAIT));
        assert_eq!(wait("Thu, 01 Jan 2026 00:01:00 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(wait("Wed, 31 Dec 2025 00:01:00 GMT"), Some(SHORTEST_WAIT));
        assert_eq!(wait("Fri, 01 Jan 2100 00:00:00 GMT"), Some(LONGEST_WAIT));
        assert_eq!(wait("soon"), None);
        assert_eq!(wait("-5"), None);
    }
}
