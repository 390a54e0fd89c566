//! Who is shown as what, and who watches. Each change of what is shown gets the next number; a watcher remembers which of its people have
//! changed, not each change: one who is slow skips what is no longer true, and the memory of a watcher is bounded by whom it watches.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Weak},
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    service::{Chosen, Devices, Person, Status},
    store::Store,
};

/// The longest sleep between looks at what is over; the clock may have been set.
const LOOK: Duration = Duration::from_secs(30);

/// A subscriber.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The tenant.
    pub domain: Arc<str>,
    /// The number in it.
    pub alias: Arc<str>,
}

/// All people.
pub struct Board {
    inner: Mutex<Inner>,
    /// Something is over earlier than was thought.
    sooner: Notify,
}

struct Inner {
    /// People of whom others' copies have told something that is to be written down.
    unwritten: BTreeSet<Key>,
    /// Numbers of another start mean nothing.
    epoch: String,
    number: u64,
    people: HashMap<Key, Entry>,
    due: BTreeSet<(Timestamp, Key)>,
}

#[derive(Default)]
struct Entry {
    person: Person,
    /// As it was last told.
    told: Option<Told>,
    watchers: HashMap<usize, Weak<Changed>>,
    due: Option<Timestamp>,
}

#[derive(Clone)]
struct Told {
    number: u64,
    status: Status,
    text: Arc<str>,
}

/// Whom of its people a watcher must be told about.
#[derive(Default)]
struct Changed {
    keys: Mutex<HashSet<Key>>,
    notify: Notify,
}

/// Somebody who watches people of one domain.
pub struct Watcher {
    board: Arc<Board>,
    domain: Arc<str>,
    watched: HashSet<Arc<str>>,
    changed: Arc<Changed>,
}

/// What a watcher is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// Where to go on after.
    pub cursor: String,
    /// Statuses in JSON.
    pub statuses: Vec<Arc<str>>,
}

// === impl Board ===

impl Board {
    /// People as the database has them.
    pub fn new(people: Vec<(Key, Person)>) -> Self {
        let mut inner = Inner {
            unwritten: BTreeSet::new(),
            epoch: Uuid::now_v7().simple().to_string(),
            number: 0,
            people: HashMap::new(),
            due: BTreeSet::new(),
        };
        let now = Timestamp::now();
        for (key, person) in people {
            inner.update(&key, now, |kept| *kept = person);
        }
        Self { inner: Mutex::new(inner), sooner: Notify::new() }
    }

    /// Changes what is known of a person. What `change` returns is handed on.
    pub fn update<T>(&self, key: &Key, change: impl FnOnce(&mut Person) -> T) -> T {
        let mut inner = self.inner.lock();
        let first = inner.due.first().map(|(due, _)| *due);
        let result = inner.update(key, Timestamp::now(), change);
        let sooner = inner.due.first().map(|(due, _)| *due) != first;
        drop(inner);
        if sooner {
            self.sooner.notify_one();
        }
        result
    }

    /// Takes on what is written down of people.
    pub fn take(&self, people: impl IntoIterator<Item = (Key, Chosen)>) {
        for (key, chosen) in people {
            self.update(&key, |person| person.take(chosen));
        }
    }

    /// A device that was connected to this copy has left. Whether it was, and whether it was the person's last one anywhere.
    pub fn remove_own(&self, key: &Key, device: &str, at: Timestamp) -> (bool, bool) {
        self.update(key, |person| {
            let was = person.devices.remove(device).is_some();
            (was, was && person.leave(at))
        })
    }

    /// When a person was last seen is to be written down soon.
    pub fn write_down(&self, key: &Key) {
        self.inner.lock().unwritten.insert(key.clone());
        self.sooner.notify_one();
    }

    /// Devices of one domain that are connected to this copy of the server.
    pub fn own_devices(&self, domain: &str) -> Vec<(Arc<str>, Devices)> {
        let inner = self.inner.lock();
        let own = inner.people.iter().filter(|(key, entry)| &*key.domain == domain && !entry.person.devices.is_empty());
        own.map(|(key, entry)| (key.alias.clone(), entry.person.devices.clone())).collect()
    }

    /// A person's devices at another copy of the server. Whether that is newer than what we have, so that ours have left to there.
    pub fn set_elsewhere(&self, key: &Key, copy: &str, own: &str, devices: Devices, at: Timestamp) -> bool {
        let change = |person: &mut Person| {
            let before = person.devices.len();
            person.devices.retain(|id, ours| devices.get(id).is_none_or(|theirs| (ours.since, own) > (theirs.since, copy)));
            let left = person.elsewhere.get(copy).is_some_and(|old| old.keys().any(|id| !devices.contains_key(id)));
            if devices.is_empty() {
                person.elsewhere.remove(copy);
            } else {
                person.elsewhere.insert(copy.to_owned(), devices);
            }
            (before != person.devices.len(), left && person.leave(at))
        };
        let (moved, last) = self.update(key, change);
        if last {
            self.write_down(key);
        }
        moved
    }

    /// All devices of one domain at another copy of the server: those who are not named have none there. Whose have left to there.
    pub fn set_all_elsewhere(&self, domain: &str, copy: &str, own: &str, mut all: HashMap<Arc<str>, Devices>, at: Timestamp) -> Vec<Key> {
        for (key, entry) in &self.inner.lock().people {
            if &*key.domain == domain && entry.person.elsewhere.contains_key(copy) {
                all.entry(key.alias.clone()).or_default();
            }
        }
        let keys = all.into_iter().map(|(alias, devices)| (Key { domain: domain.into(), alias }, devices));
        keys.filter_map(|(key, devices)| self.set_elsewhere(&key, copy, own, devices, at).then_some(key)).collect()
    }

    /// What is known of a person.
    pub fn person(&self, key: &Key) -> Person {
        self.inner.lock().people.get(key).map(|entry| entry.person.clone()).unwrap_or_default()
    }

    /// What is shown of people, in the order asked for.
    pub fn statuses(&self, keys: impl IntoIterator<Item = Key>) -> Vec<Status> {
        let (inner, now) = (self.inner.lock(), Timestamp::now());
        let nobody = Person::default();
        let status = |key: Key| inner.people.get(&key).map_or(&nobody, |entry| &entry.person).status(&key.alias, now);
        keys.into_iter().map(status).collect()
    }

    /// Keys of people of whom something is known, for a follower that lists anew who is in calls.
    pub fn busy(&self, domains: &BTreeSet<String>) -> Vec<Key> {
        let inner = self.inner.lock();
        let busy = inner
            .people
            .iter()
            .filter(|(key, entry)| (entry.person.calls > 0 || entry.person.conferences > 0) && domains.contains(&*key.domain));
        busy.map(|(key, _)| key.clone()).collect()
    }

    /// A watcher of nobody yet.
    pub fn watch(self: &Arc<Self>, domain: &str) -> Watcher {
        Watcher { board: self.clone(), domain: domain.into(), watched: HashSet::new(), changed: Arc::default() }
    }

    /// Ends what is over; who must be written down.
    fn expire(&self, now: Timestamp) -> Vec<Key> {
        let mut inner = self.inner.lock();
        let mut changed: Vec<Key> = std::mem::take(&mut inner.unwritten).into_iter().collect();
        while let Some((_, key)) = inner.due.first().filter(|(due, _)| *due <= now).cloned() {
            if inner.update(&key, now, |person| person.expire(now)) {
                changed.push(key);
            }
        }
        changed
    }

    fn next_due(&self) -> Option<Timestamp> {
        self.inner.lock().due.first().map(|(due, _)| *due)
    }
}

/// Ends notes, choices and devices in time, until `stop`.
pub(crate) async fn expire(board: Arc<Board>, store: Store, stop: CancellationToken) {
    loop {
        for key in board.expire(Timestamp::now()) {
            let seen = board.person(&key).last_seen;
            // Other copies do the same: whoever comes second finds nothing to change.
            let over = |person: &mut Person| {
                person.expire(Timestamp::now());
                person.last_seen = person.last_seen.max(seen);
            };
            match store.change(&key, over).await {
                Ok(chosen) => board.take([(key, chosen)]),
                Err(error) => tracing::warn!(%error, "what has ended could not be written down"),
            }
        }
        let left = board.next_due().map(|due| due.duration_since(Timestamp::now()));
        let wait = left.and_then(|left| Duration::try_from(left).ok()).unwrap_or(LOOK).min(LOOK);
        tokio::select! {
            () = stop.cancelled() => return,
            () = board.sooner.notified() => {}
            () = tokio::time::sleep(wait.max(Duration::from_millis(10))) => {}
        }
    }
}

impl Inner {
    fn update<T>(&mut self, key: &Key, now: Timestamp, change: impl FnOnce(&mut Person) -> T) -> T {
        let entry = self.people.entry(key.clone()).or_default();
        let result = change(&mut entry.person);
        let due = entry.person.due();
        if due != entry.due {
            entry.due.take().map(|due| self.due.remove(&(due, key.clone())));
            entry.due = due;
            due.map(|due| self.due.insert((due, key.clone())));
        }
        let status = entry.person.status(&key.alias, now);
        if entry.told.as_ref().is_none_or(|told| told.status != status) {
            self.number += 1;
            let text = serde_json::to_string(&status).unwrap_or_default().into();
            entry.told = Some(Told { number: self.number, status, text });
            entry.watchers.retain(|_, watcher| match watcher.upgrade() {
                Some(watcher) => {
                    watcher.keys.lock().insert(key.clone());
                    watcher.notify.notify_one();
                    true
                }
                None => false,
            });
        }
        if entry.person.is_nobody() && entry.watchers.is_empty() {
            self.people.remove(key);
        }
        result
    }

    fn cursor(&self) -> String {
        format!("{}.{}", self.epoch, self.number)
    }

    /// The number of a cursor, if it is of this start.
    fn number_of(&self, cursor: &str) -> Option<u64> {
        let (epoch, number) = cursor.split_once('.')?;
        number.parse().ok().filter(|number| epoch == self.epoch && *number <= self.number)
    }

    fn told(&mut self, key: &Key, now: Timestamp) -> Told {
        let entry = self.people.entry(key.clone()).or_default();
        if entry.told.is_none() {
            let status = entry.person.status(&key.alias, now);
            let text = serde_json::to_string(&status).unwrap_or_default().into();
            // It has been so all along.
            entry.told = Some(Told { number: 0, status, text });
        }
        entry.told.clone().unwrap_or_else(|| Told { number: 0, status: Person::default().status(&key.alias, now), text: "{}".into() })
    }
}

// === impl Watcher ===

impl Watcher {
    /// Watches these people and no others from now on. What is known of them, or, with a cursor of this start, what has changed after
    /// it; those who were watched already are told of as before.
    pub fn set(&mut self, aliases: impl IntoIterator<Item = Arc<str>>, after: Option<&str>) -> News {
        let wanted: HashSet<Arc<str>> = aliases.into_iter().collect();
        let id = self.id();
        let board = self.board.clone();
        let (mut inner, now) = (board.inner.lock(), Timestamp::now());
        for gone in self.watched.difference(&wanted) {
            inner.unwatch(&self.key(gone), id);
        }
        let after = after.and_then(|cursor| inner.number_of(cursor));
        let mut statuses = Vec::new();
        for alias in wanted.difference(&self.watched) {
            let key = self.key(alias);
            let told = inner.told(&key, now);
            if let Some(entry) = inner.people.get_mut(&key) {
                entry.watchers.insert(id, Arc::downgrade(&self.changed));
            }
            if after.is_none_or(|after| told.number > after) {
                statuses.push(told.text);
            }
        }
        self.watched = wanted;
        News { cursor: inner.cursor(), statuses }
    }

    /// Waits until somebody has changed. Nothing is lost if this is dropped before it ends.
    pub async fn changed(&self) {
        loop {
            let notified = self.changed.notify.notified();
            if !self.changed.keys.lock().is_empty() {
                return;
            }
            notified.await;
        }
    }

    /// What is shown of those who have changed, as it is now.
    pub fn take(&self) -> News {
        let mut inner = self.board.inner.lock();
        let keys = std::mem::take(&mut *self.changed.keys.lock());
        let now = Timestamp::now();
        let watched = keys.into_iter().filter(|key| self.watched.contains(&key.alias));
        let statuses = watched.map(|key| inner.told(&key, now).text).collect();
        News { cursor: inner.cursor(), statuses }
    }

    fn key(&self, alias: &Arc<str>) -> Key {
        Key { domain: self.domain.clone(), alias: alias.clone() }
    }

    /// Of the watcher among those of a person: where it lies in memory, which is its own as long as it lives.
    fn id(&self) -> usize {
        Arc::as_ptr(&self.changed).addr()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let (id, board) = (self.id(), self.board.clone());
        let mut inner = board.inner.lock();
        for alias in &self.watched {
            inner.unwatch(&self.key(alias), id);
        }
    }
}

impl Inner {
    fn unwatch(&mut self, key: &Key, id: usize) {
        let Some(entry) = self.people.get_mut(key) else { return };
        entry.watchers.remove(&id);
        if entry.person.is_nobody() && entry.watchers.is_empty() {
            self.people.remove(key);
        }
    }
}

impl Key {
    /// From its parts.
    pub fn new(domain: &str, alias: &str) -> Self {
        Self { domain: domain.into(), alias: alias.into() }
    }
}
