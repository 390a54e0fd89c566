//! The sessions of every protocol in one bounded register, so that those left behind can be seen and expired.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::faults::Link;

/// Sessions in one register. Beyond the bound a login is refused.
pub const MOST_SESSIONS: usize = 1024;

/// A session as the control API shows it.
#[derive(Debug, Clone, Serialize)]
pub struct SessionView {
    /// Its number.
    pub id: u64,
    /// Its protocol.
    pub link: Link,
    /// Its node.
    pub node: usize,
    /// Its domain or user.
    pub who: String,
    /// When it began.
    pub since: Timestamp,
    /// When it was last used.
    pub last_seen: Timestamp,
}

struct Session {
    view: SessionView,
    key: String,
    expired: CancellationToken,
}

#[derive(Default)]
struct Register {
    next: u64,
    by_id: BTreeMap<u64, Session>,
}

/// The register. Cheap to clone.
#[derive(Clone, Default)]
pub struct Sessions(Arc<Mutex<Register>>);

/// A session was found or made.
#[derive(Debug, Clone)]
pub struct SessionHandle {
    /// Its number.
    pub id: u64,
    /// Cancelled when the session is expired or ended; a connection that belongs to it should then behave as the dialect says.
    pub expired: CancellationToken,
}

impl Sessions {
    /// Opens a session. `key` is what proves it later (a cookie's value), unique per link and node; `None` when all places are taken.
    pub fn open(&self, link: Link, node: usize, who: &str, key: &str) -> Option<SessionHandle> {
        let mut register = self.0.lock();
        if register.by_id.len() >= MOST_SESSIONS {
            return None;
        }
        register.next += 1;
        let (id, now, expired) = (register.next, Timestamp::now(), CancellationToken::new());
        let view = SessionView { id, link, node, who: who.to_owned(), since: now, last_seen: now };
        register.by_id.insert(id, Session { view, key: key.to_owned(), expired: expired.clone() });
        Some(SessionHandle { id, expired })
    }

    /// Finds the session that a key proves, and notes its use.
    pub fn find(&self, link: Link, node: usize, key: &str) -> Option<SessionHandle> {
        let mut register = self.0.lock();
        let session = register.by_id.values_mut().find(|s| s.view.link == link && s.view.node == node && s.key == key)?;
        session.view.last_seen = Timestamp::now();
        Some(SessionHandle { id: session.view.id, expired: session.expired.clone() })
    }

    /// Notes a session's use; false if it is gone.
    pub fn touch(&self, id: u64) -> bool {
        let mut register = self.0.lock();
        let found = register.by_id.get_mut(&id);
        found.map(|session| session.view.last_seen = Timestamp::now()).is_some()
    }

    /// Ends a session.
    pub fn close(&self, id: u64) {
        if let Some(session) = self.0.lock().by_id.remove(&id) {
            session.expired.cancel();
        }
    }

    /// Expires every session of a link (`None`: all) on a node (`None`: all); how many.
    pub fn expire(&self, link: Option<Link>, node: Option<usize>) -> usize {
        self.expire_where(|view| link.is_none_or(|link| link == view.link) && node.is_none_or(|node| node == view.node))
    }

    /// Expires sessions of a link that were not used for `seconds`.
    pub fn expire_idle(&self, link: Link, seconds: i64) -> usize {
        let now = Timestamp::now().as_second();
        self.expire_where(|view| view.link == link && now - view.last_seen.as_second() > seconds)
    }

    fn expire_where(&self, gone: impl Fn(&SessionView) -> bool) -> usize {
        let mut register = self.0.lock();
        let before = register.by_id.len();
        register.by_id.retain(|_, session| {
            let keep = !gone(&session.view);
            if !keep {
                session.expired.cancel();
            }
            keep
        });
        before - register.by_id.len()
    }

    /// Every session.
    pub fn list(&self) -> Vec<SessionView> {
        self.0.lock().by_id.values().map(|session| session.view.clone()).collect()
    }
}
