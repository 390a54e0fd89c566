//! Apple's push service: HTTP/2 over TLS, provider tokens or client certificates, one request per push.
//! Facts: Apple, "Sending notification requests to APNs" and "Handling notification responses from APNs".

mod connection;
mod judge;
mod reply;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{
    apple::{Environment, ProviderToken},
    connections::Line,
    device::Provider,
};

pub(crate) use connection::serve;

/// What a token-authenticated connection may do before its first valid provider token. Apple allows one stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FirstToken {
    /// SETTINGS_MAX_CONCURRENT_STREAMS is 1 until then; a second stream is refused and counted.
    #[default]
    Refuse,
    /// The same setting; a second stream is counted and served.
    Count,
    /// The usual number of streams from the start.
    Off,
}

/// Where provider tokens that are renewed too early are refused (429 `TooManyProviderTokenUpdates`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenUpdates {
    /// Within a connection: a sender that starts anew may bring a new token.
    #[default]
    PerConnection,
    /// Over all connections of a key.
    PerKey,
    /// Nowhere.
    Off,
}

/// When a GOAWAY is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// At once.
    #[default]
    Now,
    /// When a connection has read so many more whole requests.
    AfterRequests(u64),
}

/// Which stream a GOAWAY names as its last; never one below a stream that is answered already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LastStream {
    /// The highest that came.
    #[default]
    Highest,
    /// So many streams before the highest that came: the last ones are not processed.
    Before(u32),
    /// This one.
    Exactly(u32),
}

/// A GOAWAY. The default one is what Apple sends before it closes a connection of its own accord.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GoAway {
    /// When.
    pub when: When,
    /// Which streams are processed.
    pub last_stream: LastStream,
    /// Error code of RFC 9113 §7; 0 = none.
    pub code: u32,
    /// Apple's reason, sent as JSON in the debug data; `None` = no debug data.
    pub reason: Option<String>,
    /// The connection ends when the open streams are answered. If not, it stays and nothing more is answered on it.
    pub close: bool,
}

impl Default for GoAway {
    fn default() -> Self {
        let reason = Some("Shutdown".to_owned());
        Self { when: When::Now, last_stream: LastStream::Highest, code: 0, reason, close: true }
    }
}

/// What an open connection is told.
#[derive(Debug, Clone)]
pub(crate) enum Command {
    MaxStreams(u32),
    GoAway(GoAway),
    Mute,
}

/// A connection's commands that it has not yet seen.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    any: AtomicBool,
    commands: Mutex<Vec<Command>>,
    waker: AtomicWaker,
}

/// What does not change while the simulator runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) environment: Environment,
    pub(crate) accept_unknown: bool,
    pub(crate) first_token: FirstToken,
    pub(crate) token_updates: TokenUpdates,
    pub(crate) token_lifetime: Duration,
    pub(crate) token_refresh: Duration,
    pub(crate) seed: u64,
}

/// The service.
#[derive(Debug)]
pub(crate) struct Apns {
    pub(crate) line: Arc<Line>,
    pub(crate) rules: Rules,
    max_streams: AtomicU32,
    delay_ms: AtomicU64,
    mute: AtomicBool,
    inboxes: Mutex<HashMap<u64, Arc<Inbox>>>,
    /// The newest token of each key and when it was first seen, for `TokenUpdates::PerKey`.
    newest: Mutex<HashMap<String, (ProviderToken, i64)>>,
}

// === impl Inbox ===

impl Inbox {
    fn put(&self, command: Command) {
        self.commands.lock().push(command);
        self.any.store(true, Ordering::Release);
        self.waker.wake();
    }

    fn take(&self) -> Vec<Command> {
        if self.any.swap(false, Ordering::AcqRel) { std::mem::take(&mut *self.commands.lock()) } else { Vec::new() }
    }
}

// === impl Apns ===

impl Apns {
    pub(crate) fn new(rules: Rules, max_streams: u32, delay: Duration) -> Self {
        Self {
            line: Arc::new(Line::new(Provider::Apns)),
            rules,
            max_streams: AtomicU32::new(max_streams),
            delay_ms: AtomicU64::new(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)),
            mute: AtomicBool::new(false),
            inboxes: Mutex::default(),
            newest: Mutex::default(),
        }
    }

    pub(crate) fn set_delay(&self, delay: Duration) {
        self.delay_ms.store(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn delay(&self) -> Duration {
        Duration::from_millis(self.delay_ms.load(Ordering::Relaxed))
    }

    pub(crate) fn set_max_streams(&self, max_streams: u32) {
        self.max_streams.store(max_streams, Ordering::Relaxed);
        self.tell(&Command::MaxStreams(max_streams));
    }

    pub(crate) fn goaway(&self, goaway: &GoAway) {
        self.tell(&Command::GoAway(goaway.clone()));
    }

    /// Whether new connections are mute; making them so tells the open ones too.
    pub(crate) fn set_mute(&self, mute: bool) {
        self.mute.store(mute, Ordering::Relaxed);
        if mute {
            self.tell(&Command::Mute);
        }
    }

    fn tell(&self, command: &Command) {
        for inbox in self.inboxes.lock().values() {
            inbox.put(command.clone());
        }
    }

    fn open(&self, number: u64) -> Arc<Inbox> {
        let inbox = Arc::<Inbox>::default();
        self.inboxes.lock().insert(number, inbox.clone());
        inbox
    }

    fn closed(&self, number: u64) {
        self.inboxes.lock().remove(&number);
    }

    /// Whether a key's new token comes too early after the one before; remembers it if not.
    fn is_early_for_key(&self, token: &ProviderToken, now_s: i64) -> bool {
        let mut newest = self.newest.lock();
        match newest.get(&token.key_id) {
            Some((known, _)) if known == token => false,
            Some((_, seen_s)) if self.is_early(*seen_s, now_s) => true,
            _ => {
                newest.insert(token.key_id.clone(), (token.clone(), now_s));
                false
            }
        }
    }

    fn is_early(&self, seen_s: i64, now_s: i64) -> bool {
        now_s - seen_s < i64::try_from(self.rules.token_refresh.as_secs()).unwrap_or(i64::MAX)
    }
}
