//! The file: opening it, its format, and what is done when the disk fails. The store gives up after an I/O error, a full disk included;
//! it is opened anew then, so that the registry lives again as soon as the disk does.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::{Mutex, RwLock};
use push_core::{AppName, Backoff};
use redb::{
    Builder, Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableError,
    WriteTransaction, backends::FileBackend,
};

use crate::{
    device::Counts,
    error::{Error, Fault, OpenError},
    tables::{self, COUNTS, DEVICES, FORMAT_KEY, META, TOKENS, USERS},
};

/// The format that this version writes.
pub(crate) const FORMAT: u64 = 1;

/// What brings a file from one format to the next. A step runs in the transaction that also notes the new format.
pub(crate) type Step = fn(&WriteTransaction) -> Result<(), Fault>;

/// The step at place n brings a file of format n + 1 to n + 2: one is added with each new format.
const STEPS: &[Step] = &[];
const _: () = assert!(STEPS.len() as u64 == FORMAT - 1);

/// Files below this are not compacted, nor are those that use no more than this per device: about four times what is needed.
const ROOMY: u64 = 64 << 20;
const ROOMY_PER_DEVICE: u64 = 2 << 10;

/// How the database is made of the file: tests put a failing disk in its place.
pub(crate) type Opener = Arc<dyn Fn(&Builder, File) -> Result<Database, DatabaseError> + Send + Sync>;

/// Where and how.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) directory: PathBuf,
    pub(crate) cache_bytes: usize,
    pub(crate) check_bytes: u64,
    /// Files below this many bytes are not compacted.
    pub(crate) roomy: u64,
    pub(crate) opener: Opener,
}

enum State {
    Open(Database),
    /// It could not be opened again.
    Broken(String),
    Closed,
}

/// The open file.
pub(crate) struct Store {
    place: Place,
    state: RwLock<State>,
    counts: RwLock<Arc<Counts>>,
    /// The disk has failed since the file was opened.
    failed: AtomicBool,
    next_try: Mutex<(Backoff, Instant)>,
}

// === impl Place ===

impl Place {
    pub(crate) fn new(directory: &Path, cache_bytes: usize, check_bytes: u64) -> Self {
        let opener = |builder: &Builder, file: File| builder.create_with_backend(FileBackend::new(file)?);
        Self { directory: directory.to_owned(), cache_bytes, check_bytes, roomy: ROOMY, opener: Arc::new(opener) }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.directory.join("devices.redb")
    }

    fn open(&self) -> Result<Database, OpenError> {
        let unusable = |source: io::Error| OpenError::Directory { directory: self.directory.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory).map_err(unusable)?;
        let path = self.file();
        // Whoever reads the file can send to every device.
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(unusable)?;
        let len = file.metadata().map_err(unusable)?.len();
        let unclean = self.mark().exists();
        let mut builder = Builder::new();
        builder.set_cache_size(self.cache_bytes).set_check_integrity_on_open(len > 0 && (unclean || len <= self.check_bytes));
        let database = (self.opener)(&builder, file).map_err(|error| OpenError::of(path, error.into()))?;
        File::create(self.mark()).map_err(unusable)?;
        // The file's name is durable before anything is answered.
        File::open(&self.directory).and_then(|directory| directory.sync_all()).map_err(unusable)?;
        Ok(database)
    }

    /// Lies beside the file while it is open. The store trusts what it reads, so a damaged page can end the process; then the next start
    /// must find the damage instead of meeting it again.
    fn mark(&self) -> PathBuf {
        self.directory.join("devices.open")
    }
}

// === impl Store ===

impl Store {
    pub(crate) fn open(place: Place) -> Result<Self, OpenError> {
        Self::open_with(place, STEPS)
    }

    fn open_with(place: Place, steps: &[Step]) -> Result<Self, OpenError> {
        let mut database = place.open()?;
        let of = |fault| OpenError::of(place.file(), fault);
        let known = steps.len() as u64 + 1;
        match format(&database).map_err(of)? {
            Some(found) if found > known => return Err(OpenError::Newer { file: place.file(), found, known }),
            Some(found) => upgrade(&database, found, steps).map_err(of)?,
            None => create(&database, known).map_err(of)?,
        }
        let (counts, devices) = counts(&database).map_err(of)?;
        compact(&mut database, &place, devices);
        let backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        Ok(Self {
            place,
            state: RwLock::new(State::Open(database)),
            counts: RwLock::new(Arc::new(counts)),
            failed: AtomicBool::new(false),
            next_try: Mutex::new((backoff, Instant::now())),
        })
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.place.file()
    }

    pub(crate) fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts.read())
    }

    pub(crate) fn publish(&self, counts: Counts) {
        *self.counts.write() = Arc::new(counts);
    }

    /// Works on the database. The lock is only taken exclusively to open or close it.
    pub(crate) fn with<T>(&self, doing: &'static str, work: impl FnOnce(&Database) -> Result<T, Fault>) -> Result<T, Error> {
        match &*self.state.read() {
            State::Open(database) => work(database).map_err(|fault| {
                // Damage does not go away by opening the file again, and the rest of it is still good.
                self.failed.fetch_or(!matches!(fault, Fault::Corrupted(_)), Ordering::Relaxed);
                Error::store(doing, fault)
            }),
            State::Broken(reason) => Err(Error::store(doing, io::Error::other(reason.clone()))),
            State::Closed => Err(Error::Closed),
        }
    }

    pub(crate) fn read<T>(&self, doing: &'static str, work: impl FnOnce(&ReadTransaction) -> Result<T, Fault>) -> Result<T, Error> {
        self.with(doing, |database| work(&database.begin_read()?))
    }

    /// Opens the file anew after a failure, unless that was tried a moment ago. Waits for reads under way.
    pub(crate) fn mend(&self) {
        let mut next_try = self.next_try.lock();
        let (backoff, due) = &mut *next_try;
        if Instant::now() < *due || !self.failed.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.state.write();
        if matches!(*state, State::Closed) {
            return;
        }
        // It holds the file's lock.
        drop(std::mem::replace(&mut *state, State::Broken("it is being opened anew".to_owned())));
        let opened = self.place.open().and_then(|database| {
            let (counts, _) = counts(&database).map_err(|fault| OpenError::of(self.file(), fault))?;
            Ok((database, counts))
        });
        *state = match opened {
            Ok((database, counts)) => {
                self.publish(counts);
                self.failed.store(false, Ordering::Relaxed);
                *backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
                tracing::info!(file = %self.file().display(), "the registry of devices was opened anew");
                State::Open(database)
            }
            Err(error) => {
                let reason = match std::error::Error::source(&error) {
                    Some(source) => format!("{error}: {source}"),
                    None => error.to_string(),
                };
                tracing::error!(%reason, "the registry of devices cannot be opened anew");
                State::Broken(reason)
            }
        };
        *due = Instant::now() + backoff.next_wait();
    }

    pub(crate) fn close(&self) {
        let mut state = self.state.write();
        if let State::Open(database) = std::mem::replace(&mut *state, State::Closed) {
            // A mark that stays only makes the next start check the file.
            let closed = database.close().map_err(io::Error::other).and_then(|()| fs::remove_file(self.place.mark()));
            if let Err(error) = closed {
                tracing::warn!(%error, file = %self.file().display(), "the registry of devices was not closed properly");
            }
        }
    }
}

/// `None`: the file is new.
fn format(database: &Database) -> Result<Option<u64>, Fault> {
    let txn = database.begin_read()?;
    match txn.open_table(META) {
        Ok(meta) => Ok(meta.get(FORMAT_KEY)?.map(|format| format.value())),
        Err(TableError::TableDoesNotExist(_)) if txn.list_tables()?.next().is_none() => Ok(None),
        Err(TableError::TableDoesNotExist(_)) => Err(Fault::Corrupted("it holds something else".to_owned())),
        Err(other) => Err(other.into()),
    }
}

fn create(database: &Database, format: u64) -> Result<(), Fault> {
    let mut txn = database.begin_write()?;
    txn.set_quick_repair(true);
    let _created = (txn.open_table(DEVICES)?, txn.open_table(USERS)?, txn.open_table(TOKENS)?, txn.open_table(COUNTS)?);
    drop(_created);
    txn.open_table(META)?.insert(FORMAT_KEY, format)?;
    Ok(txn.commit()?)
}

fn upgrade(database: &Database, found: u64, steps: &[Step]) -> Result<(), Fault> {
    for (from, step) in (1..).zip(steps).filter(|(from, _)| *from >= found) {
        let mut txn = database.begin_write()?;
        txn.set_quick_repair(true);
        step(&txn)?;
        txn.open_table(META)?.insert(FORMAT_KEY, from + 1)?;
        txn.commit()?;
        tracing::info!(from, to = from + 1, "the registry of devices has a new format");
    }
    Ok(())
}

/// Reads the counts, and compares what costs nothing to compare: the tables' lengths.
fn counts(database: &Database) -> Result<(Counts, u64), Fault> {
    let txn = database.begin_read()?;
    let mut counts = Counts::default();
    for entry in txn.open_table(COUNTS)?.iter()? {
        let (key, count) = entry?;
        let (app, provider) = key.value();
        let provider = tables::provider(provider.into()).ok_or_else(|| Fault::Corrupted("a count has an unknown provider".to_owned()))?;
        let app = AppName::parse(app).map_err(|_| Fault::Corrupted("a count has no valid application".to_owned()))?;
        counts.of.insert((app, provider), count.value());
    }
    let devices = txn.open_table(DEVICES)?.len()?;
    let lengths = [txn.open_table(USERS)?.len()?, txn.open_table(TOKENS)?.len()?, counts.total()];
    if lengths.iter().any(|length| *length != devices) {
        return Err(Fault::Corrupted(format!("{devices} devices, but {lengths:?} by user, by token and counted")));
    }
    Ok((counts, devices))
}

/// Gives room back that most devices have left. That is a matter of taste, so a failure stops nothing.
fn compact(database: &mut Database, place: &Place, devices: u64) {
    let file = &place.file();
    let before = length(file);
    if before <= place.roomy.max(devices.saturating_mul(ROOMY_PER_DEVICE)) {
        return;
    }
    match database.compact() {
        Ok(_) => tracing::info!(before, after = length(file), devices, "the registry of devices was compacted"),
        Err(error) => tracing::warn!(%error, "the registry of devices cannot be compacted"),
    }
}

fn length(file: &Path) -> u64 {
    file.metadata().map_or(0, |metadata| metadata.len())
}

#[cfg(test)]
mod tests;
