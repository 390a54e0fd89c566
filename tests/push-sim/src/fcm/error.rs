//! Google's errors: `google.rpc.Status` as JSON, with FCM's own code and the violated fields in its details.

use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};

use super::{CHALLENGE, CHALLENGE_NAME, json_answer};

/// An error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: u16,
    /// FCM's `errorCode`.
    code: Option<String>,
    message: String,
    details: Vec<Value>,
}

/// The canonical name of a status.
fn canonical(status: u16) -> &'static str {
    match status {
        400 => "INVALID_ARGUMENT",
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        409 => "ABORTED",
        429 => "RESOURCE_EXHAUSTED",
        500 => "INTERNAL",
        503 => "UNAVAILABLE",
        504 => "DEADLINE_EXCEEDED",
        _ => "UNKNOWN",
    }
}

/// The error with FCM's code and the text that goes with it.
pub(crate) fn refusal(status: u16, code: &str) -> ApiError {
    let message = match code {
        "UNREGISTERED" => "Requested entity was not found.",
        "SENDER_ID_MISMATCH" => "SenderId mismatch",
        "QUOTA_EXCEEDED" => "Quota exceeded for quota metric 'Messages sent' and limit 'Messages per minute per device'.",
        "THIRD_PARTY_AUTH_ERROR" => "Auth error from APNS or Web Push Service",
        "UNAVAILABLE" => "The service is currently unavailable.",
        "INTERNAL" => "Internal error encountered.",
        "INVALID_ARGUMENT" => "Request contains an invalid argument.",
        _ => "The request failed.",
    };
    ApiError::new(status, (!code.is_empty()).then_some(code), message.to_owned())
}

// === impl ApiError ===

impl ApiError {
    pub(crate) fn new(status: u16, code: Option<&str>, message: String) -> Self {
        Self { status, code: code.map(ToOwned::to_owned), message, details: Vec::new() }
    }

    /// Fields that are wrong, each with what is wrong with it.
    pub(crate) fn invalid(fields: &[(String, String)]) -> Self {
        let first = fields.first().map(|(_, what)| what.clone()).unwrap_or_default();
        let mut error = Self::new(400, Some("INVALID_ARGUMENT"), first);
        let violations: Vec<Value> = fields.iter().map(|(field, what)| json!({ "field": field, "description": what })).collect();
        error.details.push(json!({ "@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": violations }));
        error
    }

    pub(crate) fn unauthenticated(reason: &str) -> Self {
        let message = "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid \
                       authentication credential.";
        let mut error = Self::new(401, None, message.to_owned());
        error.details.push(json!({
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": reason,
            "domain": "googleapis.com",
            "metadata": { "service": "fcm.googleapis.com", "method": "google.firebase.fcm.v1.FcmService.SendMessage" },
        }));
        error
    }

    /// FCM's code, else the status's name.
    pub(crate) fn name(&self) -> &str {
        self.code.as_deref().unwrap_or_else(|| canonical(self.status))
    }

    pub(crate) fn answer(&self) -> Response<Bytes> {
        let mut details = Vec::new();
        if let Some(code) = &self.code {
            details.push(json!({ "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code }));
        }
        details.extend(self.details.iter().cloned());
        let mut error = json!({ "code": self.status, "message": self.message, "status": canonical(self.status) });
        if let (Some(members), false) = (error.as_object_mut(), details.is_empty()) {
            members.insert("details".to_owned(), Value::Array(details));
        }
        let mut response = json_answer(self.status, &json!({ "error": error }));
        if self.status == 401 && self.code.is_none() {
            response.headers_mut().insert(CHALLENGE_NAME, CHALLENGE);
        }
        response
    }
}
