//! What comes with a request, with our own errors in place of the framework's.

use axum::{
    extract::FromRequestParts,
    response::{IntoResponse, Response},
};

use crate::problem::{Member, Problem};

/// A body in JSON, of a request or an answer.
#[derive(Debug, Clone, Copy, Default, axum::extract::FromRequest)]
#[from_request(via(axum::Json), rejection(Problem))]
pub struct Json<T>(pub T);

impl<T: serde::Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

/// Parameters of the address.
#[derive(Debug, Clone, Copy, Default, FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Problem))]
pub struct Query<T>(pub T);

/// Parts of the path.
#[derive(Debug, Clone, Copy, Default, FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Problem))]
pub struct Path<T>(pub T);

/// Collects everything that is wrong with a request, so that a caller need not find it piece by piece.
#[derive(Debug, Default)]
pub struct Check(Vec<Member>);

impl Check {
    /// Notes it.
    pub fn say(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        self.0.push(Member { pointer: pointer.into(), detail: detail.into() });
    }

    /// A text of at most so many characters, without control characters.
    pub fn text(&mut self, pointer: &str, text: &str, most: usize) {
        let long = text.chars().count();
        if long > most {
            self.say(pointer, format!("has {long} characters; at most {most} are taken"));
        }
        if text.chars().any(|c| c.is_control() && c != '\n') {
            self.say(pointer, "has control characters");
        }
    }

    /// A subscriber's number.
    pub fn alias(&mut self, pointer: &str, alias: &str) {
        let fits = |c: char| c.is_ascii_alphanumeric() || "+*#._-".contains(c);
        if alias.is_empty() || alias.len() > 64 || !alias.chars().all(fits) {
            self.say(pointer, "is no alias: 1 to 64 letters, digits and + * # . _ -");
        }
    }

    /// Fine, or everything that was noted.
    pub fn done(self) -> Result<(), Problem> {
        if self.0.is_empty() { Ok(()) } else { Err(Problem::invalid(self.0)) }
    }
}
