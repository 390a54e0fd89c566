//! A link's state, as `AgentService`, readiness and `elphctl links` show it.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;

/// Which protocol a link speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LinkKind {
    /// The mediator's HTTP terminal (9999).
    Terminal,
    /// The Call API (8086).
    CallApi,
    /// CSTA (4721, 4722).
    Csta,
}

impl fmt::Display for LinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terminal => "terminal",
            Self::CallApi => "call_api",
            Self::Csta => "csta",
        })
    }
}

/// Where a link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// A connection or login is under way.
    Connecting,
    /// Logged in and alive.
    Up,
    /// No session; waiting for the next attempt.
    Down,
}

/// A link's state, kept in a `watch` channel by its driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkStatus {
    /// Where it is.
    pub state: LinkState,
    /// Since when.
    pub since: Timestamp,
    /// The node it is, or was last, connected to: `host:port`.
    pub node: String,
    /// The last error, kept while the link is up again (no secrets).
    pub last_error: Option<String>,
    /// The switch's version, where the protocol tells.
    pub switch_version: Option<String>,
    /// How many sessions have been opened since the start.
    pub sessions: u64,
}

impl LinkStatus {
    /// A link that has not connected yet.
    pub fn new(node: String) -> Self {
        Self { state: LinkState::Down, since: Timestamp::now(), node, last_error: None, switch_version: None, sessions: 0 }
    }
}

/// What a driver counts; the agent exports it as metrics.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "the names say it; all are totals since the start")]
pub struct LinkCounters {
    pub messages_received: AtomicU64,
    pub messages_sent: AtomicU64,
    /// Messages that could not be understood: malformed, oversized, truncated, wrongly padded.
    pub messages_bad: AtomicU64,
    /// Answers nobody waits for: duplicated, or after the deadline.
    pub answers_unexpected: AtomicU64,
    pub timeouts: AtomicU64,
    pub sessions_opened: AtomicU64,
    pub sessions_lost: AtomicU64,
    /// Sessions that the switch had expired and that were opened again without losing a command.
    pub relogins: AtomicU64,
    pub failovers: AtomicU64,
}

impl LinkCounters {
    /// Adds one.
    pub fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Logs each kind of bad input once a minute, however much of it comes.
#[derive(Debug, Default)]
pub struct OncePerMinute {
    last: Mutex<HashMap<&'static str, Instant>>,
}

impl OncePerMinute {
    /// Whether this kind may be logged now.
    pub fn may_log(&self, kind: &'static str) -> bool {
        let now = Instant::now();
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match last.get(kind) {
            Some(at) if now.duration_since(*at) < Duration::from_secs(60) => false,
            _ => last.insert(kind, now).is_none_or(|_| true),
        }
    }
}

/// Which way a message went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the switch.
    Sent,
    /// From the switch.
    Received,
}

/// Sees every message of a link, for `elph-agent record`. The driver has replaced passwords, cookies and session ids by `***`.
pub trait Tap: Send + Sync + 'static {
    /// One message: `head` is the request line, status line or frame header, `body` the XML or JSON.
    fn message(&self, link: LinkKind, way: Way, head: &str, body: &str);
}
