//! What a push service answered, as an outcome: RFC 8030 §5 and §7 give the statuses; Apple and Mozilla add JSON with their own words.

use std::time::Duration;

use http::header::LOCATION;
use jiff::Timestamp;
use push_core::{Backoff, Outcome, Reason};
use push_http::{Answer, retry_after};
use serde_json::Value;

/// The wait after a 429 that names none.
const WAIT: Duration = Duration::from_secs(60);

/// The services' words for a subscription that was made with another key than ours.
const OTHERS_KEY: [&str; 4] = ["mismatch", "do not correspond", "pkhash", "unauthorizedregistration"];

pub(crate) fn read(answer: &Answer, now: Timestamp) -> Outcome {
    let status = answer.status.as_u16();
    if answer.status.is_success() {
        let location = answer.headers.get(LOCATION).and_then(|location| location.to_str().ok());
        return Outcome::Accepted { provider_id: location.map(|it| it.chars().take(Reason::LONGEST).collect()) };
    }
    let told = told(&answer.body);
    let reason = Reason::told(&if told.is_empty() { format!("HTTP {status}") } else { format!("HTTP {status}: {told}") });
    let after = retry_after(&answer.headers, now);
    let told = told.to_lowercase();
    let others_key = OTHERS_KEY.iter().any(|word| told.contains(word));
    match status {
        404 | 410 => Outcome::TokenGone { since: None, reason },
        401 | 403 if others_key => Outcome::Fatal { reason },
        401 => Outcome::CredentialsExpired { reason },
        403 if told.contains("jwt") || told.contains("vapid") => Outcome::CredentialsExpired { reason },
        400 | 413 => Outcome::BadPayload { reason },
        // One browser's rate is its own; services do not say when they mean us.
        429 => Outcome::Throttled { after: Some(after.unwrap_or_else(default_wait)), device_only: true, reason },
        408 | 500..=599 => Outcome::RetryAfter { after, reason },
        _ => Outcome::Fatal { reason },
    }
}

/// With jitter upwards.
fn default_wait() -> Duration {
    WAIT + Backoff::new(WAIT / 2, WAIT / 2).next_wait()
}

/// The service's words; nothing if it is a page for people.
fn told(body: &[u8]) -> String {
    if let Ok(Value::Object(object)) = serde_json::from_slice::<Value>(body) {
        let text = ["reason", "message", "error"].iter().find_map(|name| object.get(*name).and_then(Value::as_str));
        return text.unwrap_or_default().to_owned();
    }
    let text = String::from_utf8_lossy(body.get(..300).unwrap_or(body));
    if text.contains('<') { String::new() } else { text.trim().to_owned() }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode, header::RETRY_AFTER};

    use super::*;

    fn outcome(status: u16, body: impl Into<Bytes>, retry: Option<&str>) -> Outcome {
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, "https://push.example/m/1".parse().unwrap());
        if let Some(retry) = retry {
            headers.insert(RETRY_AFTER, retry.parse().unwrap());
        }
        let answer = Answer { status: StatusCode::from_u16(status).unwrap(), headers, body: body.into() };
        read(&answer, "2026-11-24T12:00:00Z".parse().unwrap())
    }

    #[test]
    fn statuses_mean_what_the_rfc_and_the_services_say() {
        for (status, body, wanted) in [
            (201, "", "accepted"),
            (202, "", "accepted"),
            (404, "", "token_gone"),
            (410, r#"{"code":410,"errno":106,"error":"Gone"}"#, "token_gone"),
            (400, "invalid TTL", "bad_payload"),
            (413, r#"{"errno":104,"message":"too large"}"#, "bad_payload"),
            (401, "jwt expired", "credentials_expired"),
            (401, r#"{"message":"VAPID public key mismatch"}"#, "fatal"),
            (403, r#"{"reason":"BadJwtToken"}"#, "credentials_expired"),
            (403, r#"{"reason":"VapidPkHashMismatch"}"#, "fatal"),
            (403, "the VAPID credentials do not correspond to the credentials used to create the subscription", "fatal"),
            (403, "", "fatal"),
            (301, "", "fatal"),
            (418, "", "fatal"),
            (500, "", "retry_after"),
            (503, "", "retry_after"),
        ] {
            assert_eq!(outcome(status, body, None).name(), wanted, "{status} {body}");
        }
        assert_eq!(outcome(201, "", None), Outcome::Accepted { provider_id: Some("https://push.example/m/1".to_owned()) });
    }

    #[test]
    fn trial_14_html_answers_and_strange_retry_times_are_read_for_what_they_are() {
        let html = outcome(502, "<html><h1>502</h1></html>", None);
        assert_eq!(html, Outcome::RetryAfter { after: None, reason: Reason::told("HTTP 502") });
        for (retry, wanted) in [("7", 7), ("999999999", 3600), ("Tue, 24 Nov 2026 12:00:40 GMT", 40)] {
            match outcome(429, "", Some(retry)) {
                Outcome::Throttled { after, device_only: true, .. } => assert_eq!(after, Some(Duration::from_secs(wanted))),
                other => panic!("{other:?}"),
            }
        }
        match outcome(429, "", Some("-1")) {
            Outcome::Throttled { after: Some(after), .. } => assert!(after >= WAIT && after <= WAIT * 2),
            other => panic!("{other:?}"),
        }
    }

    proptest::proptest! {
        #[test]
        fn no_answer_panics(
            status in 100_u16..1000,
            body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400),
            retry in proptest::option::of("[ -~]{0,30}"),
        ) {
            let _read = outcome(status, body, retry.as_deref());
        }
    }
}
