//! Checks of requests: every wrong field is told at once, with what is allowed.

use elph_proto::reason::Reason;
use mediator_client::switch::{Alias, Domain};
use tonic::Status;
use tonic_types::FieldViolation;

/// The largest page.
pub(super) const MAX_PAGE: usize = 1000;

/// Numbers in one request at most.
pub(super) const MAX_NUMBERS: usize = 500;

/// Violations in one answer at most.
const MAX_TOLD: usize = 20;

/// Values of a repeated enum field at most.
const MAX_ENUMS: usize = 64;

/// Collects what is wrong with a request.
#[derive(Debug, Default)]
pub(super) struct Check {
    violations: Vec<FieldViolation>,
    wrong: bool,
}

impl Check {
    /// Violations travel in the answer's trailers, which have little room: what is beyond the first ones is not told.
    pub(super) fn say(&mut self, field: &str, what: impl Into<String>) {
        self.wrong = true;
        if self.violations.len() >= MAX_TOLD {
            return;
        }
        self.violations.push(FieldViolation::new(field, what));
    }

    /// The values, or everything that is wrong.
    pub(super) fn done<T>(self, value: Option<T>) -> Result<T, Status> {
        match value {
            Some(value) if !self.wrong => Ok(value),
            _ => Err(Reason::invalid(self.violations)),
        }
    }

    pub(super) fn domain(&mut self, field: &str, text: &str) -> Option<Domain> {
        Domain::parse(text).map_err(|error| self.say(field, error.to_string())).ok()
    }

    pub(super) fn alias(&mut self, field: &str, text: &str) -> Option<Alias> {
        Alias::parse(text).map_err(|error| self.say(field, error.to_string())).ok()
    }

    pub(super) fn number(&mut self, field: &str, text: &str) -> Option<Alias> {
        let dialable = |c: char| c.is_alphanumeric() || "+*#._-@:%".contains(c);
        if text.is_empty() || text.len() > 64 || !text.chars().all(dialable) {
            self.say(field, "must be a number or name of 1 to 64 characters out of letters, digits and +*#._-@:%");
            return None;
        }
        self.alias(field, text)
    }

    pub(super) fn numbers(&mut self, field: &str, texts: &[String], at_least: usize) -> Option<Vec<Alias>> {
        if texts.len() < at_least || texts.len() > MAX_NUMBERS {
            self.say(field, format!("must be {at_least} to {MAX_NUMBERS} numbers"));
            return None;
        }
        let parsed: Vec<Option<Alias>> =
            texts.iter().enumerate().map(|(index, text)| self.number(&format!("{field}[{index}]"), text)).collect();
        parsed.into_iter().collect()
    }

    pub(super) fn request_id(&mut self, text: &str) {
        if text.is_empty() || text.len() > 64 || !text.chars().all(|c| c.is_ascii_graphic()) {
            self.say("request_id", "must be 1 to 64 printable ASCII characters, unique for each command (a UUID is good)");
        }
    }

    pub(super) fn id(&mut self, field: &str, text: &str) {
        if text.is_empty() || text.len() > 128 || text.chars().any(char::is_control) {
            self.say(field, "must be 1 to 128 characters");
        }
    }

    /// For requests that hold nothing but an id.
    pub(super) fn only_id(field: &str, text: &str) -> Result<(), Status> {
        let mut check = Self::default();
        check.id(field, text);
        check.done(Some(()))
    }

    /// Values of a repeated enum field. One that is not known is refused: left out, the rest would mean something else.
    pub(super) fn enums(&mut self, field: &str, values: &[i32], allowed: impl Fn(i32) -> bool) {
        if values.len() > MAX_ENUMS || !values.iter().all(|value| allowed(*value)) {
            self.say(field, format!("must hold at most {MAX_ENUMS} values, all of them known"));
        }
    }

    pub(super) fn optional_text(&mut self, field: &str, text: &str, most: usize) {
        if text.chars().count() > most || text.chars().any(char::is_control) {
            self.say(field, format!("must be at most {most} characters without control characters"));
        }
    }

    pub(super) fn page_size(&mut self, size: i32) -> usize {
        match usize::try_from(size) {
            Ok(0) => 100,
            Ok(size) if size <= MAX_PAGE => size,
            _ => {
                self.say("page_size", format!("must be 0 (for 100) to {MAX_PAGE}"));
                0
            }
        }
    }

    pub(super) fn page_token(&mut self, token: &str) -> Option<(i64, String)> {
        super::parse_page_token(token).unwrap_or_else(|| {
            self.say("page_token", "must be next_page_token of the answer before, or empty");
            None
        })
    }

    pub(super) fn digits(&mut self, text: &str) {
        let allowed = |c: char| c.is_ascii_digit() || ('A'..='D').contains(&c) || c == '*' || c == '#';
        if text.is_empty() || text.len() > 32 || !text.chars().all(allowed) {
            self.say("digits", "must be 1 to 32 of 0-9, A-D, * and #");
        }
    }
}
