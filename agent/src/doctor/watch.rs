//! What passes over one of the doctor's sessions, kept for a look: the latest messages, long bodies cut.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use mediator_client::switch::link::{LinkKind, LinkState, LinkStatus, Tap, Way};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout_at},
};

/// Messages that are kept, and octets of all of them.
const MOST: usize = 256;
const MOST_OCTETS: usize = 8 << 20;
/// Octets of a body that are kept.
const BODY: usize = 1 << 20;

/// One message.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) way: Way,
    pub(super) head: String,
    /// Cut at `BODY` octets.
    pub(super) body: String,
    /// Of head and body as they came.
    pub(super) octets: usize,
    /// Likewise.
    pub(super) characters: usize,
}

impl Seen {
    pub(super) fn received(&self) -> bool {
        self.way == Way::Received
    }

    /// The names of the cookies that it set.
    pub(super) fn cookies(&self) -> impl Iterator<Item = &str> {
        self.head.lines().filter_map(|line| line.strip_prefix("Set-Cookie: ")?.strip_suffix("=***"))
    }
}

/// Looks at a session.
#[derive(Default)]
pub(super) struct Watcher {
    seen: Mutex<VecDeque<Seen>>,
    news: Notify,
}

impl Watcher {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(super) fn all(&self) -> Vec<Seen> {
        self.seen.lock().iter().cloned().collect()
    }

    /// The last message that fits.
    pub(super) fn last(&self, fits: impl Fn(&Seen) -> bool) -> Option<Seen> {
        self.seen.lock().iter().rev().find(|seen| fits(seen)).cloned()
    }

    /// Waits for a message that fits.
    pub(super) async fn wait(&self, within: Duration, fits: impl Fn(&Seen) -> bool) -> Option<Seen> {
        let until = Instant::now() + within;
        loop {
            let news = self.news.notified();
            if let Some(seen) = self.last(&fits) {
                return Some(seen);
            }
            timeout_at(until, news).await.ok()?;
        }
    }
}

impl Tap for Watcher {
    fn message(&self, _: LinkKind, way: Way, head: &str, body: &str) {
        let kept = body.get(..body.floor_char_boundary(BODY)).unwrap_or_default().to_owned();
        let (octets, characters) = (head.len() + body.len(), head.chars().count() + body.chars().count());
        let mut seen = self.seen.lock();
        let mut held: usize = seen.iter().map(|seen| seen.body.len()).sum();
        while seen.len() >= MOST || held + kept.len() > MOST_OCTETS {
            let Some(oldest) = seen.pop_front() else { break };
            held -= oldest.body.len();
        }
        seen.push_back(Seen { way, head: head.to_owned(), body: kept, octets, characters });
        drop(seen);
        self.news.notify_one();
    }
}

/// Waits until a session is open; the error is the link's own.
pub(super) async fn open(mut status: watch::Receiver<LinkStatus>, within: Duration) -> Result<(), String> {
    let until = Instant::now() + within;
    loop {
        let now = status.borrow_and_update().clone();
        match (now.state, now.last_error) {
            (LinkState::Up, _) => return Ok(()),
            (LinkState::Down, Some(error)) => return Err(error),
            _ => {}
        }
        match timeout_at(until, status.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err("the link has ended".to_owned()),
            Err(_) => return Err(format!("no session within {within:?}")),
        }
    }
}
