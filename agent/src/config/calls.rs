//! `[calls]`, `[conferences]` and `[poll]`: where the state of calls and conferences comes from.

use ecss_switch::Alias;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Problem, Span, Switch};

/// Calls.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Calls {
    /// What controls calls and tells of them. "csta" is documented; "call_api" needs command names in the dialect; "poll" reads the
    /// call history of the HTTP terminal and controls nothing.
    pub backend: CallBackend,
    /// The aliases whose calls are watched, in every served domain; empty for all.
    #[schemars(with = "Vec<String>")]
    pub monitored: Vec<Alias>,
}

/// What controls calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CallBackend {
    /// CSTA: needs `[switch.csta]`.
    Csta,
    /// The Call API: needs `[switch.call_api]`.
    CallApi,
    /// The HTTP terminal's lists only.
    Poll,
}

/// Conferences.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Conferences {
    /// What controls conferences and tells of them. "poll" reads the conference lists of the HTTP terminal and controls nothing;
    /// "call_api" needs command names in the dialect.
    pub backend: ConferenceBackend,
}

/// What controls conferences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConferenceBackend {
    /// The Call API: needs `[switch.call_api]`.
    CallApi,
    /// The HTTP terminal's lists only.
    Poll,
}

/// How often the HTTP terminal's lists are read.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Poll {
    /// Calls, when they are polled.
    pub calls: Span,
    /// Conferences, when they are polled.
    pub conferences: Span,
    /// Subscribers and their registrations.
    pub subscribers: Span,
}

impl Default for Calls {
    fn default() -> Self {
        Self { backend: CallBackend::Csta, monitored: Vec::new() }
    }
}

impl Default for Conferences {
    fn default() -> Self {
        Self { backend: ConferenceBackend::Poll }
    }
}

impl Default for Poll {
    fn default() -> Self {
        Self { calls: Span::seconds(2), conferences: Span::seconds(2), subscribers: Span::seconds(600) }
    }
}

pub(super) fn check(calls: &Calls, conferences: &Conferences, poll: &Poll, switch: &Switch, problems: &mut Vec<Problem>) {
    let mut say = |key: &str, what: &str| problems.push(Problem::new(key, what));
    match calls.backend {
        CallBackend::Csta if switch.csta.is_none() => {
            say("calls.backend", "is \"csta\" (the default), but there is no [switch.csta]; add it, or choose \"call_api\" or \"poll\"");
        }
        CallBackend::CallApi if switch.call_api.is_none() => {
            say("calls.backend", "is \"call_api\", but there is no [switch.call_api]; add it, or choose \"csta\" or \"poll\"");
        }
        _ => {}
    }
    if conferences.backend == ConferenceBackend::CallApi && switch.call_api.is_none() {
        say("conferences.backend", "is \"call_api\", but there is no [switch.call_api]; add it, or choose \"poll\"");
    }
    for (key, value) in [("poll.calls", poll.calls), ("poll.conferences", poll.conferences), ("poll.subscribers", poll.subscribers)] {
        if value.0.as_millis() < 200 || value > Span::seconds(86_400) {
            say(key, "is out of range; must be from 200ms to 1d");
        }
    }
}
