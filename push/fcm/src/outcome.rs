//! What FCM answered, as an outcome. Codes are those of Google's `ErrorCode` reference; `error.details` carries them in an `FcmError`,
//! `error.status` has the general one.

use std::time::Duration;

use jiff::Timestamp;
use push_core::{Outcome, Reason, Target};
use push_http::{Answer, retry_after};
use rand::Rng;
use serde::Deserialize;
use serde_json::Value;

/// What an answer means for the push, and whether the token is to blame.
pub(crate) enum Read {
    Outcome(Outcome),
    /// Our OAuth2 token was not accepted.
    Unauthenticated(Reason),
}

/// The wait after a quota error that names none: a minute, says Google.
const QUOTA_WAIT: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
struct Sent<'a> {
    #[serde(borrow)]
    name: Option<&'a str>,
}

/// What can be learnt from an error's body; everything is empty when it is HTML.
#[derive(Default)]
struct Told {
    /// Of `FcmError`.
    code: String,
    status: String,
    message: String,
    /// Fields of `BadRequest`, with what is said about them.
    fields: Vec<(String, String)>,
    /// Of `QuotaFailure`.
    quotas: String,
}

pub(crate) fn read(answer: &Answer, target: &Target, now: Timestamp) -> Read {
    if answer.status.is_success() {
        // An escaped name is none that Google writes; the push is accepted all the same.
        let name = serde_json::from_slice::<Sent<'_>>(&answer.body).ok().and_then(|sent| sent.name.map(str::to_owned));
        return Read::Outcome(Outcome::Accepted { provider_id: name });
    }
    let told = Told::of(&answer.body);
    let status = answer.status.as_u16();
    let word = if told.code.is_empty() { told.status.as_str() } else { told.code.as_str() };
    let after = retry_after(&answer.headers, now);
    let device = matches!(target, Target::Device(_));
    let reason = || told.reason(status);
    Read::Outcome(match word {
        "UNREGISTERED" if device => Outcome::TokenGone { since: None, reason: Reason::known("UNREGISTERED") },
        "SENDER_ID_MISMATCH" => Outcome::Fatal { reason: reason() },
        "THIRD_PARTY_AUTH_ERROR" => Outcome::Fatal { reason: reason() },
        "UNAUTHENTICATED" => return Read::Unauthenticated(reason()),
        "PERMISSION_DENIED" => Outcome::CredentialsExpired { reason: reason() },
        "QUOTA_EXCEEDED" | "RESOURCE_EXHAUSTED" => throttled(after, told.is_of_one_target(), reason()),
        "UNAVAILABLE" | "INTERNAL" | "ABORTED" | "DEADLINE_EXCEEDED" => Outcome::RetryAfter { after, reason: reason() },
        "INVALID_ARGUMENT" if device && told.blames_token() => Outcome::TokenGone { since: None, reason: reason() },
        "INVALID_ARGUMENT" => Outcome::BadPayload { reason: reason() },
        _ => match status {
            400 | 413 => Outcome::BadPayload { reason: reason() },
            401 => return Read::Unauthenticated(reason()),
            403 => Outcome::CredentialsExpired { reason: reason() },
            429 => throttled(after, false, reason()),
            408 | 500..=599 => Outcome::RetryAfter { after, reason: reason() },
            // 404 without UNREGISTERED: no such project, or nobody's endpoint. The token is not to blame.
            _ => Outcome::Fatal { reason: reason() },
        },
    })
}

fn throttled(after: Option<Duration>, device_only: bool, reason: Reason) -> Outcome {
    let default = || QUOTA_WAIT.mul_f64(rand::rng().random_range(1.0..1.5));
    Outcome::Throttled { after: Some(after.unwrap_or_else(default)), device_only, reason }
}

impl Told {
    fn of(body: &[u8]) -> Self {
        let Ok(body) = serde_json::from_slice::<Value>(body) else { return Self::default() };
        // Streaming front ends wrap an error in a list.
        let body = body.get(0).unwrap_or(&body);
        let error = body.get("error").unwrap_or(&Value::Null);
        let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut told = Self { status: text(error, "status"), message: text(error, "message"), ..Self::default() };
        for detail in error.get("details").and_then(Value::as_array).into_iter().flatten() {
            let kind = text(detail, "@type");
            if kind.ends_with(".FcmError") {
                told.code = text(detail, "errorCode");
            }
            for violation in detail.get("fieldViolations").and_then(Value::as_array).into_iter().flatten() {
                told.fields.push((text(violation, "field"), text(violation, "description")));
            }
            for violation in detail.get("violations").and_then(Value::as_array).into_iter().flatten() {
                told.quotas.push_str(&text(violation, "subject"));
                told.quotas.push_str(&text(violation, "description"));
            }
        }
        told
    }

    /// The general code is the same for a bad token and a bad payload.
    fn blames_token(&self) -> bool {
        if self.fields.is_empty() {
            return self.message.to_lowercase().contains("registration token");
        }
        self.fields.iter().all(|(field, _)| field == "message.token")
    }

    /// Quotas are of the project, of a device or of a topic; there is no code for which.
    fn is_of_one_target(&self) -> bool {
        let text = format!("{} {}", self.message, self.quotas).to_lowercase();
        ["device", "target", "topic"].iter().any(|word| text.contains(word))
    }

    fn reason(&self, status: u16) -> Reason {
        let word = match (self.code.as_str(), self.status.as_str()) {
            ("", "") => return Reason::told(&format!("HTTP {status}")),
            ("", word) | (word, _) => word,
        };
        let field = self.fields.first().map_or_else(String::new, |(field, description)| format!(" ({field}: {description})"));
        let message = if self.message.is_empty() { String::new() } else { format!(": {}", self.message) };
        Reason::told(&format!("{word}{message}{field}"))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode, header::RETRY_AFTER};
    use push_core::{Provider, Token};
    use serde_json::json;

    use super::*;

    fn device() -> Target {
        Target::Device(Token::parse(Provider::Fcm, &"t".repeat(40)).unwrap())
    }

    fn answer(status: u16, body: impl Into<Bytes>, retry: Option<&str>) -> Answer {
        let mut headers = HeaderMap::new();
        if let Some(retry) = retry {
            headers.insert(RETRY_AFTER, retry.parse().unwrap());
        }
        Answer { status: StatusCode::from_u16(status).unwrap(), headers, body: body.into() }
    }

    fn outcome(status: u16, body: impl Into<Bytes>, retry: Option<&str>) -> Outcome {
        match read(&answer(status, body, retry), &device(), "2026-11-24T12:00:00Z".parse().unwrap()) {
            Read::Outcome(outcome) => outcome,
            Read::Unauthenticated(reason) => panic!("{reason}"),
        }
    }

    fn error(status: u16, general: &str, code: &str, message: &str) -> String {
        let fcm = json!({"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code});
        json!({"error": {"code": status, "message": message, "status": general, "details": [fcm]}}).to_string()
    }

    #[test]
    fn trial_20_an_unregistered_token_is_gone_but_a_missing_project_is_not_the_tokens_fault() {
        let gone = outcome(404, error(404, "NOT_FOUND", "UNREGISTERED", "Requested entity was not found."), None);
        assert_eq!(gone, Outcome::TokenGone { since: None, reason: Reason::known("UNREGISTERED") });
        let project = r#"{"error":{"code":404,"message":"Requested entity was not found.","status":"NOT_FOUND"}}"#;
        for body in [project, "<html>404</html>", ""] {
            assert_eq!(outcome(404, body, None).name(), "fatal", "{body}");
        }
        let topic = read(&answer(404, error(404, "NOT_FOUND", "UNREGISTERED", ""), None), &Target::Topic("t".into()), Timestamp::now());
        assert!(matches!(topic, Read::Outcome(Outcome::Fatal { .. })));
    }

    #[test]
    fn an_invalid_argument_blames_the_token_only_if_it_is_the_token() {
        let violation = |field: &str| {
            json!({"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "Request contains an invalid argument.", "details": [
                {"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": "INVALID_ARGUMENT"},
                {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [{"field": field, "description": "why"}]},
            ]}})
            .to_string()
        };
        assert_eq!(outcome(400, violation("message.token"), None).name(), "token_gone");
        let payload = outcome(400, violation("message.data[0].value"), None);
        assert_eq!(payload.name(), "bad_payload");
        assert!(payload.reason().unwrap().as_str().contains("message.data[0].value: why"));
        let text = "The registration token is not a valid FCM registration token";
        assert_eq!(outcome(400, error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", text), None).name(), "token_gone");
        assert_eq!(outcome(400, error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", "message too big"), None).name(), "bad_payload");
        assert_eq!(outcome(413, "", None).name(), "bad_payload");
    }

    #[test]
    fn trial_14_html_answers_and_strange_retry_times_are_read_for_what_they_are() {
        let html = "<!DOCTYPE html><title>Error 502 (Server Error)!!1</title>";
        assert_eq!(outcome(502, html, None), Outcome::RetryAfter { after: None, reason: Reason::told("HTTP 502") });
        for (retry, wanted) in [("17", 17), ("0", 1), ("4000000000", 3600), ("Tue, 24 Nov 2026 12:00:40 GMT", 40)] {
            let wanted = Some(Duration::from_secs(wanted));
            match outcome(429, error(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", ""), Some(retry)) {
                Outcome::Throttled { after, device_only: false, .. } => assert_eq!(after, wanted, "{retry}"),
                other => panic!("{other:?}"),
            }
            let down = outcome(503, error(503, "UNAVAILABLE", "UNAVAILABLE", "later"), Some(retry));
            assert_eq!(down, Outcome::RetryAfter { after: wanted, reason: Reason::told("UNAVAILABLE: later") });
        }
        match outcome(429, html, None) {
            Outcome::Throttled { after: Some(after), .. } => assert!((60..90).contains(&after.as_secs())),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_quota_of_one_device_throttles_only_it() {
        let quota = json!({"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": [
            {"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": "QUOTA_EXCEEDED"},
            {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"subject": "Device message rate", "description": ""}]},
        ]}});
        assert!(matches!(outcome(429, quota.to_string(), None), Outcome::Throttled { device_only: true, .. }));
    }

    #[test]
    fn trial_19_what_needs_an_operator_is_told_in_the_providers_words() {
        for (status, general, code, wanted) in [
            (403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH", "fatal"),
            (401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR", "fatal"),
            (403, "PERMISSION_DENIED", "", "credentials_expired"),
            (418, "", "NEW_CODE", "fatal"),
            (500, "", "NEW_CODE", "retry_after"),
        ] {
            let outcome = outcome(status, error(status, general, code, "some words"), None);
            assert_eq!(outcome.name(), wanted, "{code}");
            let word = if code.is_empty() { general } else { code };
            assert_eq!(outcome.reason().unwrap().as_str(), format!("{word}: some words"));
        }
        let expired = read(&answer(401, error(401, "UNAUTHENTICATED", "", "expired"), None), &device(), Timestamp::now());
        assert!(matches!(expired, Read::Unauthenticated(_)));
    }

    #[test]
    fn an_accepted_push_has_the_name_of_the_message() {
        let sent = outcome(200, r#"{"name":"projects/p/messages/0:1"}"#, None);
        assert_eq!(sent, Outcome::Accepted { provider_id: Some("projects/p/messages/0:1".to_owned()) });
        assert_eq!(outcome(200, "", None), Outcome::Accepted { provider_id: None });
    }

    proptest::proptest! {
        #[test]
        fn no_answer_panics(
            status in 100_u16..1000,
            body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400),
            retry in proptest::option::of("[ -~]{0,30}"),
        ) {
            let _read = read(&answer(status, body, retry.as_deref()), &device(), Timestamp::now());
        }

        #[test]
        fn no_json_answer_panics(status in 100_u16..1000, code in "\\PC{0,20}", field in "\\PC{0,20}", odd in proptest::bool::ANY) {
            let details = if odd { json!({"errorCode": code}) } else { json!([{"fieldViolations": [{"field": field}, 1], "errorCode": 1}]) };
            let body = json!({"error": {"status": code, "message": field, "details": details}}).to_string();
            let _read = read(&answer(status, body, None), &device(), Timestamp::now());
        }
    }
}
