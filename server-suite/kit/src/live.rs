//! Live updates over WebSocket (RFC 6455): one socket with a deadline on every wait. Who does not read is closed, who does not answer
//! pings is closed, and nobody stays longer than the access token is valid. Clients come back with their cursor.

use std::time::Duration;

use axum::{
    extract::{
        FromRequestParts,
        ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade},
    },
    http::request::Parts,
    response::Response,
};
use jiff::Timestamp;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until, timeout};

use crate::{
    caller::{Caller, PROTOCOL},
    problem::Problem,
};

/// Between pings.
const PING: Duration = Duration::from_secs(25);
/// A peer that is silent for longer is gone: two pings.
const SILENT: Duration = Duration::from_secs(60);
/// How long a message may take to be sent.
const SEND: Duration = Duration::from_secs(10);
/// Kept for each socket, for reading and for writing: most messages fit, and there are many sockets.
const BUFFER: usize = 2048;
/// A message from a client.
const LONGEST: usize = 64 * 1024;

/// Why we close (RFC 6455, 7.4.1, and IANA's registry).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// The server ends: come back, elsewhere or later.
    Restart,
    /// The token has ended: come back with another.
    TokenExpired,
    /// A message was not understood.
    Invalid,
}

/// An open socket.
pub struct Live {
    socket: WebSocket,
    pings: Interval,
    heard: Instant,
    until: Instant,
}

/// A request to become a WebSocket.
#[derive(Debug)]
pub struct Upgrade(WebSocketUpgrade);

impl<S: Send + Sync> FromRequestParts<S> for Upgrade {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Ok(Self(WebSocketUpgrade::from_request_parts(parts, state).await?))
    }
}

/// Upgrades, in our subprotocol if the client offers it, and runs `session` on the socket.
pub fn upgrade<F>(Upgrade(upgrade): Upgrade, caller: &Caller, session: impl FnOnce(Live) -> F + Send + 'static) -> Response
where
    F: Future<Output = ()> + Send + 'static,
{
    let left = i64::try_from(caller.expires_at).unwrap_or(i64::MAX).saturating_sub(Timestamp::now().as_second());
    let until = Instant::now() + Duration::from_secs(u64::try_from(left).unwrap_or(0).min(24 * 3600));
    upgrade
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER)
        .max_message_size(LONGEST)
        .max_frame_size(LONGEST)
        .protocols([PROTOCOL])
        .on_upgrade(move |socket| {
            let mut pings = interval(PING);
            pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
            session(Live { socket, pings, heard: Instant::now(), until })
        })
}

// === impl Live ===

impl Live {
    /// The next text of the client; none: it is gone, or has been closed. Nothing is lost if this is dropped before it ends.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            tokio::select! {
                message = self.socket.recv() => {
                    self.heard = Instant::now();
                    match message?.ok()? {
                        Message::Text(text) => return Some(text.as_str().to_owned()),
                        Message::Ping(_) | Message::Pong(_) => {}
                        Message::Binary(_) => {
                            self.close(Close::Invalid, "send text").await;
                            return None;
                        }
                        Message::Close(_) => return None,
                    }
                }
                _ = self.pings.tick() => {
                    if self.heard.elapsed() > SILENT {
                        return None;
                    }
                    let sent = timeout(SEND, self.socket.send(Message::Ping(Default::default()))).await;
                    if !matches!(sent, Ok(Ok(()))) {
                        return None;
                    }
                }
                () = sleep_until(self.until) => {
                    self.close(Close::TokenExpired, "the access token has ended").await;
                    return None;
                }
            }
        }
    }

    /// Sends a text; false: the client is gone, or reads too slowly to be kept.
    pub async fn send(&mut self, text: impl Into<Utf8Bytes>) -> bool {
        matches!(timeout(SEND, self.socket.send(Message::Text(text.into()))).await, Ok(Ok(())))
    }

    /// Says why, and ends.
    pub async fn close(&mut self, close: Close, why: &'static str) {
        let code = match close {
            Close::Restart => 1012,
            Close::TokenExpired => 3000,
            Close::Invalid => 1003,
        };
        // It may be gone already.
        let _gone = timeout(SEND, self.socket.send(Message::Close(Some(CloseFrame { code, reason: why.into() })))).await;
    }
}
