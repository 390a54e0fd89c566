//! Errors as callers see them: `application/problem+json` (RFC 9457). Programs go by `code`, which is stable; people read `detail`.

use axum::{
    extract::{
        rejection::{JsonRejection, PathRejection, QueryRejection},
        ws::rejection::WebSocketUpgradeRejection,
    },
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr, Schema,
        schema::{ObjectBuilder, SchemaType, Type},
    },
};

use crate::bus::PublishError;

/// Why a request was not served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Problem {
    /// `urn:elph:problem:` and the code.
    #[serde(rename = "type")]
    kind: String,
    /// The status code's meaning, for people.
    title: &'static str,
    /// The status code.
    status: u16,
    /// For programs.
    code: Code,
    /// What was wrong with this request and what to do.
    detail: String,
    /// Which members were wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Member>,
    #[serde(skip)]
    retry_after: Option<u64>,
}

/// A member that was wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Member {
    /// Where: a JSON pointer (RFC 6901) into the body, or a parameter's name.
    pub pointer: String,
    /// What.
    pub detail: String,
}

macro_rules! codes {
    ($($name:ident $word:literal $status:ident $meaning:literal,)*) => {
        /// Every code. None is ever renamed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
        pub enum Code {
            $(#[doc = $meaning] #[serde(rename = $word)] $name,)*
        }

        impl Code {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// As it is written.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }

            /// What it means.
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => $meaning,)*
                }
            }

            /// Its status code.
            pub fn status(self) -> StatusCode {
                match self {
                    $(Self::$name => StatusCode::$status,)*
                }
            }
        }
    };
}

codes! {
    InvalidRequest "invalid_request" BAD_REQUEST "The request cannot be understood; `errors` says which members are wrong.",
    Unauthenticated "unauthenticated" UNAUTHORIZED "An access token is needed, or the one that was sent is not accepted.",
    Forbidden "forbidden" FORBIDDEN "The caller may not do this.",
    NotFound "not_found" NOT_FOUND "It does not exist, or not for this caller.",
    MethodNotAllowed "method_not_allowed" METHOD_NOT_ALLOWED "The address exists, but not with this method.",
    Conflict "conflict" CONFLICT "It was changed meanwhile; read it again.",
    TooLarge "too_large" PAYLOAD_TOO_LARGE "The body is longer than is taken.",
    UnsupportedMediaType "unsupported_media_type" UNSUPPORTED_MEDIA_TYPE "The body must be JSON.",
    UpgradeRequired "upgrade_required" UPGRADE_REQUIRED "This address speaks WebSocket only.",
    TooManyRequests "too_many_requests" TOO_MANY_REQUESTS "Too many requests; `Retry-After` says how long to wait.",
    Internal "internal" INTERNAL_SERVER_ERROR "A fault of ours. The log has it under the request's id.",
    Unavailable "unavailable" SERVICE_UNAVAILABLE "Something that is needed cannot be reached at the moment; try again.",
}

// Written by hand: the derived one does not see names that come through a macro.
impl PartialSchema for Code {
    fn schema() -> RefOr<Schema> {
        let meanings = Self::ALL.iter().map(|code| format!("{}: {}", code.as_str(), code.meaning()));
        let object = ObjectBuilder::new().schema_type(SchemaType::Type(Type::String));
        let object = object.enum_values(Some(Self::ALL.iter().map(|code| code.as_str())));
        object.description(Some(meanings.collect::<Vec<_>>().join("\n"))).into()
    }
}

impl ToSchema for Code {}

// === impl Problem ===

impl Problem {
    /// A problem with its explanation.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let status = code.status();
        Self {
            kind: format!("urn:elph:problem:{}", code.as_str()),
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            code,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after: None,
        }
    }

    /// Members that are wrong.
    pub fn invalid(errors: Vec<Member>) -> Self {
        let detail = errors.iter().map(|error| format!("{}: {}", error.pointer, error.detail)).collect::<Vec<_>>().join("; ");
        Self { errors, ..Self::new(Code::InvalidRequest, detail) }
    }

    /// It does not exist, or may not be seen: both look the same.
    pub fn not_found() -> Self {
        Self::new(Code::NotFound, "there is nothing here that you may see")
    }

    /// Asked too often.
    pub fn too_many(retry_after: std::time::Duration) -> Self {
        let seconds = retry_after.as_secs().saturating_add(1);
        Self { retry_after: Some(seconds), ..Self::new(Code::TooManyRequests, format!("too many requests; try again in {seconds} s")) }
    }

    /// A fault of ours: the cause goes to the log, not to the caller.
    pub fn internal(error: &dyn std::error::Error) -> Self {
        tracing::error!(error = elph_shell::told(error), "a request failed");
        Self::new(Code::Internal, "this is a fault of the server; its log has the cause under the request's id")
    }

    /// What was wrong, for people.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// What kind of problem it is.
    pub fn code(&self) -> Code {
        self.code
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.code == Code::UpgradeRequired {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        }
        if self.code == Code::Unauthenticated {
            // RFC 6750, 3: what is wrong is in the body.
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Self::new(Code::TooLarge, "the body is longer than is taken here"),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::new(Code::UnsupportedMediaType, "send JSON with content-type: application/json"),
            _ => Self::new(Code::InvalidRequest, rejection.body_text()),
        }
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(Code::InvalidRequest, rejection.body_text())
    }
}

impl From<PathRejection> for Problem {
    fn from(_: PathRejection) -> Self {
        Self::not_found()
    }
}

impl From<WebSocketUpgradeRejection> for Problem {
    fn from(rejection: WebSocketUpgradeRejection) -> Self {
        Self::new(Code::UpgradeRequired, format!("open a WebSocket (RFC 6455) here: {}", rejection.body_text()))
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::RowNotFound => Self::not_found(),
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
                tracing::warn!(error = elph_shell::told(&error), "the database cannot be reached");
                Self::new(Code::Unavailable, "the database cannot be reached at the moment; try again")
            }
            other => Self::internal(&other),
        }
    }
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Database(error) => error.into(),
            unfit @ PublishError::Unfit(_) => Self::internal(&unfit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_what_it_is_to_programs_and_to_people() {
        let problem = Problem::invalid(vec![Member { pointer: "/state".to_owned(), detail: "is not known".to_owned() }]);
        let json = serde_json::to_value(&problem).unwrap();
        assert_eq!(
            (&json["type"], &json["status"], &json["code"]),
            (&"urn:elph:problem:invalid_request".into(), &400.into(), &"invalid_request".into())
        );
        assert_eq!((&json["detail"], &json["errors"][0]["pointer"]), (&"/state: is not known".into(), &"/state".into()));
        assert_eq!(Problem::too_many(std::time::Duration::from_millis(200)).into_response().headers()["retry-after"], "1");
    }
}
