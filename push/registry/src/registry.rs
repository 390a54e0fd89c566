//! What others use: a handle that is cheap to clone.

use std::{io, path::Path, sync::Arc, time::Duration};

use jiff::Timestamp;
use push_core::{AppName, Device, DeviceId, Token, UserId};
use redb::ReadTransaction;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

use crate::{
    check::{self, Report},
    device::{Counts, Cursor, Domains, Gone, Imported, NewDevice, Page, Registered},
    error::{Error, Fault, OpenError},
    reader::{self, Read},
    rules::{Batch, Limits},
    store::{Place, Store},
    tables::{self, DEVICES, TOKENS, USERS},
    writer::{self, Change, Message},
};

/// A disk that has not taken a change after this long is no disk to wait for.
const WRITE_WAIT: Duration = Duration::from_secs(30);
const READ_WAIT: Duration = Duration::from_secs(10);
/// Checking reads everything.
const CHECK_WAIT: Duration = Duration::from_secs(600);
/// Users asked for, and devices listed, at once.
const MOST_AT_ONCE: usize = 1000;
/// Devices imported at once.
const MOST_IMPORTED: usize = 50_000;

/// Bounds.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Memory for pages of the file, in bytes. The process grows by up to three times as much: three threads have pages.
    pub cache_bytes: usize,
    /// Devices of one user.
    pub max_per_user: usize,
    /// Devices of all.
    pub max_devices: u64,
    /// Files up to this many bytes are read whole when they are opened, and compared with their checksums; larger ones only if they were not
    /// closed properly. That takes about a second per GiB that the system has in memory.
    pub check_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { cache_bytes: 16 << 20, max_per_user: 20, max_devices: 2_000_000, check_bytes: 256 << 20 }
    }
}

/// The registry of devices.
#[derive(Clone)]
pub struct Registry {
    store: Arc<Store>,
    queue: mpsc::Sender<Message>,
    reads: mpsc::Sender<Read>,
    long_reads: Arc<Semaphore>,
    imports: Arc<Semaphore>,
}

// === impl Registry ===

impl Registry {
    /// Opens the registry in a directory of its own, makes it if there is none, brings an older format up to date, and gives room back when
    /// most of the file is unused. Blocks while it reads the file.
    pub fn open(directory: &Path, options: Options) -> Result<Self, OpenError> {
        Self::open_at(Place::new(directory, options.cache_bytes, options.check_bytes), options)
    }

    pub(crate) fn open_at(place: Place, options: Options) -> Result<Self, OpenError> {
        let store = Arc::new(Store::open(place)?);
        let limits = Limits { per_user: options.max_per_user, total: options.max_devices };
        let of = |source: io::Error| OpenError::Storage { file: store.file(), source: Box::new(source) };
        let reads = reader::start().map_err(of)?;
        let queue = writer::start(Arc::clone(&store), limits).map_err(of)?;
        Ok(Self { store, queue, reads, long_reads: Arc::new(Semaphore::new(1)), imports: Arc::new(Semaphore::new(1)) })
    }

    /// Commits what waits and closes the file; other handles are answered `Closed` from then on. Without it the file is closed soon after the
    /// last handle is dropped.
    pub async fn close(self) {
        let (closed, is_closed) = oneshot::channel();
        let asked = timeout(WRITE_WAIT, self.queue.send(Message::Close(closed))).await;
        if matches!(asked, Ok(Ok(()))) {
            let _closed_or_too_late = timeout(WRITE_WAIT, is_closed).await;
        }
    }

    // --- changes: on disk when they are answered

    /// Registers or refreshes a device.
    pub async fn register(&self, new: NewDevice) -> Result<Registered, Error> {
        new.check()?;
        self.change(move |batch| batch.register(new)).await
    }

    /// Registers up to 50,000 devices by the same rules, in one commit; other changes wait for it. For migrations.
    pub async fn import(&self, list: Vec<NewDevice>) -> Result<Imported, Error> {
        if list.len() > MOST_IMPORTED {
            return Err(Error::Invalid { field: "the list", must: "have at most 50000 devices" });
        }
        // One list is much memory.
        let _only = timeout(WRITE_WAIT, self.imports.acquire()).await.map_err(|_| Error::Busy)?.map_err(|_| Error::Closed)?;
        self.change(move |batch| batch.import(list).map(Ok)).await
    }

    /// Removes a device of the user. `None`: the user has no such device.
    pub async fn unregister(&self, user: &UserId, device: &DeviceId) -> Result<Option<Device>, Error> {
        let (user, device) = (user.clone(), device.clone());
        self.change(move |batch| batch.unregister(&user, &device).map(Ok)).await
    }

    /// Removes the device that has the token.
    pub async fn unregister_token(&self, app: &AppName, token: &Token) -> Result<Option<Device>, Error> {
        let (app, token) = (app.clone(), token.clone());
        self.change(move |batch| batch.unregister_token(&app, &token).map(Ok)).await
    }

    /// Removes all devices of the user.
    pub async fn unregister_user(&self, user: &UserId) -> Result<Vec<Device>, Error> {
        let user = user.clone();
        self.change(move |batch| batch.unregister_user(&user).map(Ok)).await
    }

    /// A provider answered a push of `sent_at` that the token is gone, `since` then if it said so. Removes it, unless it was registered later
    /// than either.
    pub async fn gone(&self, app: &AppName, token: &Token, since: Option<Timestamp>, sent_at: Timestamp) -> Result<Gone, Error> {
        let (app, token) = (app.clone(), token.clone());
        self.change(move |batch| batch.gone(&app, &token, since, sent_at).map(Ok)).await
    }

    // --- reads: they see every change that was answered

    /// The user's devices, the oldest first.
    pub async fn devices(&self, user: &UserId) -> Result<Vec<Device>, Error> {
        let user = user.clone();
        self.read(move |txn| tables::of_user(&txn.open_table(USERS)?, &txn.open_table(DEVICES)?, &user)).await
    }

    /// The devices of up to 1000 users, in the users' order. Cheaper than asking for each.
    pub async fn devices_of(&self, list: Vec<UserId>) -> Result<Vec<Vec<Device>>, Error> {
        if list.len() > MOST_AT_ONCE {
            return Err(Error::Invalid { field: "the list", must: "have at most 1000 users" });
        }
        self.long_read(READ_WAIT, move |txn| {
            let (users, devices) = (txn.open_table(USERS)?, txn.open_table(DEVICES)?);
            list.iter().map(|user| tables::of_user(&users, &devices, user)).collect()
        })
        .await
    }

    /// The device of this id, whosever it is: the caller checks the domain.
    pub async fn get(&self, device: &DeviceId) -> Result<Option<Device>, Error> {
        let Some(number) = tables::number(device) else { return Ok(None) };
        self.read(move |txn| tables::device(&txn.open_table(DEVICES)?, number)).await
    }

    /// The device that has the token.
    pub async fn by_token(&self, app: &AppName, token: &Token) -> Result<Option<Device>, Error> {
        let (app, token) = (app.clone(), token.clone());
        self.read(move |txn| tables::by_token(&txn.open_table(TOKENS)?, &txn.open_table(DEVICES)?, &app, &token)).await
    }

    /// Up to `limit` devices (1 to 1000) of the domains, behind the cursor.
    pub async fn page(&self, domains: Domains, after: Option<Cursor>, limit: usize) -> Result<Page, Error> {
        let limit = limit.clamp(1, MOST_AT_ONCE);
        self.long_read(READ_WAIT, move |txn| page(txn, &domains, after, limit)).await
    }

    /// How many devices there are, by application and provider. Costs nothing.
    pub fn counts(&self) -> Arc<Counts> {
        self.store.counts()
    }

    /// Reads everything and says whether it fits together.
    pub async fn check(&self) -> Result<Report, Error> {
        self.long_read(CHECK_WAIT, check::check).await
    }

    async fn change<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut Batch<'_>) -> Result<Result<T, Error>, Fault> + Send + 'static,
    {
        let (job, answer) = Change::of(work);
        match timeout(WRITE_WAIT, self.queue.send(Message::Change(job))).await {
            Err(_) => return Err(Error::Busy),
            Ok(Err(_)) => return Err(Error::Closed),
            Ok(Ok(())) => {}
        }
        match timeout(WRITE_WAIT, answer).await {
            Err(_) => Err(Error::Unconfirmed),
            Ok(Err(_)) => Err(Error::Closed),
            Ok(Ok(answer)) => answer,
        }
    }

    async fn read<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&ReadTransaction) -> Result<T, Fault> + Send + 'static,
    {
        timeout(READ_WAIT, self.read_now(work)).await.map_err(|_| Error::Busy)?
    }

    async fn read_now<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&ReadTransaction) -> Result<T, Fault> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let store = Arc::clone(&self.store);
        let read = Box::new(move || {
            // Whoever gave up need not be read for.
            if !answer.is_closed() {
                let _given_up = answer.send(store.read("read", work));
            }
        });
        self.reads.send(read).await.map_err(|_| Error::Closed)?;
        let read = answered.await.map_err(|_| Error::Closed)?;
        if matches!(read, Err(Error::Store { .. })) {
            // If the queue is full, its changes will find out.
            let _told = self.queue.try_send(Message::Mend);
        }
        read
    }

    async fn long_read<T, F>(&self, wait: Duration, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&ReadTransaction) -> Result<T, Fault> + Send + 'static,
    {
        let read = async {
            // It goes with the read, not with whoever waits: that may give up.
            let only = Arc::clone(&self.long_reads).acquire_owned().await.map_err(|_| Error::Closed)?;
            self.read_now(move |txn| {
                let _until_read = only;
                work(txn)
            })
            .await
        };
        timeout(wait, read).await.map_err(|_| Error::Busy)?
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Registry({})", self.store.file().display())
    }
}

fn page(txn: &ReadTransaction, domains: &Domains, after: Option<Cursor>, limit: usize) -> Result<Page, Fault> {
    let (users, devices) = (txn.open_table(USERS)?, txn.open_table(DEVICES)?);
    let mut listed = Vec::new();
    let mut list = |from: (&str, &str, u128), only: Option<&str>| -> Result<bool, Fault> {
        for entry in users.range(from..)? {
            let key = entry?.0;
            let (domain, _, number) = key.value();
            if only.is_some_and(|only| only != domain) {
                break;
            }
            listed.push(tables::indexed(&devices, number)?);
            // One more than asked for shows that there is more.
            if listed.len() > limit {
                return Ok(false);
            }
        }
        Ok(true)
    };
    let behind = after.as_ref().map(|after| (&*after.user.domain, &*after.user.alias, after.device.saturating_add(1)));
    match domains {
        Domains::All => {
            list(behind.unwrap_or(("", "", 0)), None)?;
        }
        Domains::Only(domains) => {
            for domain in domains {
                let from = match behind {
                    Some((behind, ..)) if &**domain < behind => continue,
                    Some(behind) if &**domain == behind.0 => behind,
                    _ => (&**domain, "", 0),
                };
                if !list(from, Some(domain))? {
                    break;
                }
            }
        }
    }
    let more = listed.len() > limit;
    listed.truncate(limit);
    let next = listed.last().filter(|_| more).and_then(|last| Some(Cursor { user: last.user.clone(), device: tables::number(&last.id)? }));
    Ok(Page { devices: listed, next })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[tokio::test]
    async fn lookups_do_not_wait_for_a_long_read_and_a_second_long_one_is_told_that_it_is_busy() {
        let directory = tempfile::tempdir().unwrap();
        let registry = Registry::open(directory.path(), Options::default()).unwrap();
        let (began, has_begun) = oneshot::channel();
        let (end, is_to_end) = sync_channel::<()>(0);
        let long = tokio::spawn({
            let registry = registry.clone();
            async move {
                let work = move |_: &ReadTransaction| {
                    began.send(()).unwrap();
                    Ok(is_to_end.recv().is_err())
                };
                registry.long_read(CHECK_WAIT, work).await
            }
        });
        has_begun.await.unwrap();
        let nobody = UserId { domain: "a.example".into(), alias: "1001".into() };
        for _ in 0..100 {
            assert_eq!(registry.devices(&nobody).await.unwrap(), []);
        }
        let second = registry.long_read(Duration::from_millis(50), |_| Ok(())).await;
        assert!(matches!(second, Err(Error::Busy)), "{second:?}");
        // Nor do changes wait for it.
        assert_eq!(registry.unregister_user(&nobody).await.unwrap(), []);
        drop(end);
        assert!(long.await.unwrap().unwrap());
        registry.page(Domains::All, None, 1).await.unwrap();
        registry.close().await;
    }
}
