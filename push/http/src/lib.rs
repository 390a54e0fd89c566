//! A client of one origin: a few connections, HTTP/2 (RFC 9113) or one request at a time over HTTP/1.1, that are opened when they are
//! needed, watched by pings, left on GOAWAY and replaced. A request is repeated only if the peer surely has not processed it.
//! It knows nothing of pushes but their classes: a greater class gets room first.

mod answer;
mod connection;
#[cfg(feature = "double")]
pub mod double;
mod exchange;
mod origin;
mod pool;
mod watched;

use std::time::Duration;

pub use answer::{Answer, retry_after};
pub use exchange::{Failure, Message};
pub use origin::{BadOrigin, Origin};
pub use pool::{Asked, Pool};

/// Which protocol is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2 only; without TLS by prior knowledge.
    Two,
    /// What ALPN chooses; without TLS HTTP/1.1.
    Any,
}

/// Bounds of a client. Every wait has its deadline here.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Which protocol.
    pub protocol: Protocol,
    /// Most connections at the same time.
    pub connections: usize,
    /// Most requests at the same time on one connection, if the peer allows more.
    pub streams: usize,
    /// Most requests that wait for room; more are refused.
    pub waiting: usize,
    /// From the look-up of the name to the peer's settings.
    pub connect: Duration,
    /// How long a request waits for room.
    pub wait: Duration,
    /// From sending a request to the end of the answer.
    pub answer: Duration,
    /// A connection that was silent for so long is pinged, if nothing is asked on it …
    pub ping_idle: Duration,
    /// … and if an answer is awaited.
    pub ping_busy: Duration,
    /// Without any sign of life for so long after a ping the connection is given up.
    pub ping_answer: Duration,
    /// An unused connection is closed after this; the last one is kept when `warm`.
    pub idle: Duration,
    /// Once used, one connection is kept open and reopened when it breaks.
    pub warm: bool,
    /// Most octets of an answer's body; the rest is not read.
    pub body: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            protocol: Protocol::Two,
            connections: 4,
            streams: 1000,
            waiting: 10_000,
            connect: Duration::from_secs(10),
            wait: Duration::from_secs(15),
            answer: Duration::from_secs(20),
            ping_idle: Duration::from_secs(60),
            ping_busy: Duration::from_secs(5),
            ping_answer: Duration::from_secs(5),
            idle: Duration::from_secs(120),
            warm: true,
            body: 64 * 1024,
        }
    }
}
