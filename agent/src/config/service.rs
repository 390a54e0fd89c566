//! The small sections: `[journal]`, `[requests]`, `[limits]`, `[http]` and `[shutdown]`.

use std::{net::SocketAddr, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Problem, Size, Span};

/// The event journal, which lets subscribers resume after a cursor.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Journal {
    /// Where its segments are kept.
    pub directory: PathBuf,
    /// Most events kept in memory.
    pub max_events: u64,
    /// Most bytes of all segments on disk; the oldest segment goes first.
    pub max_bytes: Size,
    /// Bytes of one segment.
    pub segment_bytes: Size,
}

/// Request ids of mutating commands: a command that comes again with the same id is not executed again.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Requests {
    /// How long an id is remembered, restarts included.
    pub retention: Span,
    /// Most ids remembered; the oldest go first.
    pub max_count: u32,
}

/// Limits on what can be guessed at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Attempts a minute of `AuthenticateSubscriber` for one alias.
    pub authenticate_alias_per_minute: u32,
    /// Attempts a minute of `AuthenticateSubscriber` by one caller, all aliases together.
    pub authenticate_caller_per_minute: u32,
}

/// Metrics and health.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// The address of `/metrics`, `/healthz` and `/readyz`.
    pub listen: SocketAddr,
}

/// How the agent stops.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Shutdown {
    /// How long running requests may take after SIGTERM before they are cut off.
    pub drain: Span,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("/var/lib/elph-agent/journal"),
            max_events: 16_384,
            max_bytes: Size(64 << 20),
            segment_bytes: Size(4 << 20),
        }
    }
}

impl Default for Requests {
    fn default() -> Self {
        Self { retention: Span::seconds(86_400), max_count: 100_000 }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { authenticate_alias_per_minute: 5, authenticate_caller_per_minute: 600 }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9464)) }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { drain: Span::seconds(10) }
    }
}

pub(super) fn check(journal: &Journal, requests: &Requests, limits: &Limits, shutdown: &Shutdown, problems: &mut Vec<Problem>) {
    let mut say = |key: &str, what: &str| problems.push(Problem::new(key, what));
    if !journal.directory.is_absolute() {
        say("journal.directory", "is no absolute path; must begin with '/'");
    }
    if journal.max_events < 64 || journal.max_events > 10_000_000 {
        say("journal.max_events", "is out of range; must be from 64 to 10000000");
    }
    if journal.segment_bytes < Size(64 << 10) {
        say("journal.segment_bytes", "is out of range; must be at least 64KiB");
    }
    if journal.max_bytes.0 < journal.segment_bytes.0.saturating_mul(2) {
        say("journal.max_bytes", "is too small; must be at least twice journal.segment_bytes");
    }
    if requests.retention < Span::seconds(60) || requests.max_count == 0 {
        say("requests", "would forget ids while clients still retry; retention must be at least 1m and max_count at least 1");
    }
    if limits.authenticate_alias_per_minute == 0 || limits.authenticate_caller_per_minute == 0 {
        say("limits", "must be at least 1 each; without the scope \"directory\" nobody can authenticate subscribers");
    }
    if shutdown.drain > Span::seconds(600) {
        say("shutdown.drain", "is out of range; must be at most 10m");
    }
}
