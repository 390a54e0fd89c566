//! The files of the log. `NNNNNNNNNN.log` may hold waiting pushes; once nothing in it and before it waits it becomes `.kept`, for the
//! history only, until there are too many. A file is filled with zeros before it is written: syncing then moves data and nothing else.
//!
//! File: `ELPHPUSH`, version (2), length of the header (2), number (4), creation in milliseconds (8); little-endian; then records.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    index::Place,
    life::Job,
    options::{Options, span},
    outbox::Batch,
    record::{self, Frame, Record, STORED},
};

const MAGIC: &[u8; 8] = b"ELPHPUSH";
const VERSION: u16 = 1;
const HEADER: usize = 24;
/// A file is not written to for longer, so that its age can be told.
const LONGEST_OPEN: Duration = Duration::from_secs(86_400);
/// Records with no more between them are read with one call.
const GAP: u32 = 16 * 1024;
/// Most octets read with one call.
const SPAN: u32 = 512 * 1024;

/// Why the queue cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process uses the directory.
    #[error("the queue's directory {} is in use by another process", directory.display())]
    InUse {
        /// The directory.
        directory: PathBuf,
    },
    /// A file was written by a later version.
    #[error("{} was written by a later version of this program; install that one, or move the file away", file.display())]
    Later {
        /// The file.
        file: PathBuf,
    },
    /// The directory or a file in it cannot be used.
    #[error("cannot use the queue's directory {}", directory.display())]
    Io {
        /// The directory.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It was opened outside of a runtime.
    #[error("the queue needs a tokio runtime")]
    NoRuntime,
}

/// The files, one of them open for writing.
#[derive(Debug)]
pub(crate) struct Log {
    directory: PathBuf,
    segment_bytes: u64,
    kept_bytes: u64,
    kept_age: u64,
    current: Option<Current>,
    files: BTreeMap<u32, Kept>,
    /// A file of zeros waits under `spare`.
    pub(crate) spare: bool,
    lock: Arc<File>,
}

#[derive(Debug)]
struct Current {
    file: File,
    number: u32,
    length: u64,
    created: u64,
}

/// A file of the log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kept {
    bytes: u64,
    created: u64,
    /// Nothing in it waits.
    pub(crate) done: bool,
}

/// Where a batch was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) segment: u32,
    pub(crate) base: u64,
    /// A new file was begun for it.
    pub(crate) begun: bool,
    pub(crate) took: Duration,
}

// === impl Log ===

impl Log {
    /// Locks the directory and finds the files.
    pub(crate) fn open(directory: &Path, options: &Options) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Io { directory: directory.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(directory.join("lock")).map_err(failed)?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => OpenError::InUse { directory: directory.to_owned() },
            fs::TryLockError::Error(source) => failed(source),
        })?;
        remove(&directory.join("spare")).map_err(failed)?;
        remove(&directory.join("spare.part")).map_err(failed)?;
        let mut files = BTreeMap::new();
        for (number, path, done) in list(directory).map_err(failed)? {
            let bytes = fs::metadata(&path).map_err(failed)?.len();
            files.insert(number, Kept { bytes, created: created(&path).map_err(failed)?, done });
        }
        Ok(Self {
            directory: directory.to_owned(),
            segment_bytes: options.segment_bytes.clamp(4096, 1 << 30),
            kept_bytes: options.kept_bytes,
            kept_age: span(options.kept_age),
            current: None,
            files,
            spare: false,
            lock: Arc::new(lock),
        })
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// As long as somebody has it, the directory is nobody else's.
    pub(crate) fn lock(&self) -> Arc<File> {
        self.lock.clone()
    }

    /// Octets of a file when it is full.
    pub(crate) fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// The files, oldest first.
    pub(crate) fn files(&self) -> impl Iterator<Item = (u32, &Kept)> {
        self.files.iter().map(|(number, kept)| (*number, kept))
    }

    /// Octets of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.values().map(|kept| kept.bytes).sum()
    }

    /// Octets from this file on.
    pub(crate) fn bytes_from(&self, number: u32) -> u64 {
        self.files.range(number..).map(|(_, kept)| kept.bytes).sum()
    }

    /// The file that is written to.
    pub(crate) fn current(&self) -> Option<u32> {
        self.current.as_ref().map(|current| current.number)
    }

    /// Writes a batch, stored pushes first: their steps follow them. After an error the file is given up and the next write begins another.
    pub(crate) fn write(&mut self, batch: &Batch, sync: bool, now: u64) -> io::Result<Placed> {
        let result = self.try_write(batch, sync, now);
        if result.is_err()
            && let Some(Current { file, length, .. }) = self.current.take()
        {
            // What is half written is not to be found after a restart. It may be impossible, and then it is told as possible.
            if file.set_len(length).and_then(|()| file.sync_all()).is_err() {
                tracing::warn!("cannot take back what was half written to the push queue");
            }
        }
        result
    }

    fn try_write(&mut self, batch: &Batch, sync: bool, now: u64) -> io::Result<Placed> {
        let started = Instant::now();
        let bytes = (batch.stores.len() + batch.life.len()) as u64;
        let full = |current: &Current| {
            let old = now.saturating_sub(current.created) > span(LONGEST_OPEN);
            current.length > HEADER as u64 && (current.length + bytes > self.segment_bytes || old)
        };
        let begun = self.current.as_ref().is_none_or(full);
        if begun {
            self.begin(now)?;
        }
        let Some(Current { file, number, length, .. }) = &mut self.current else {
            return Err(io::Error::other("no file is open"));
        };
        let base = *length;
        file.write_all_at(&batch.stores, base)?;
        file.write_all_at(&batch.life, base + batch.stores.len() as u64)?;
        if sync {
            file.sync_data()?;
        }
        *length += bytes;
        if let Some(kept) = self.files.get_mut(number) {
            kept.bytes = *length;
        }
        Ok(Placed { segment: *number, base, begun, took: started.elapsed() })
    }

    /// Begins the first file, filled with zeros like those that follow.
    pub(crate) fn begin_first(&mut self, now: u64) -> io::Result<()> {
        prepare_spare(&self.directory, self.segment_bytes)?;
        self.spare = true;
        self.begin(now)
    }

    /// Begins a new file.
    fn begin(&mut self, now: u64) -> io::Result<()> {
        if let Some(Current { file, length, .. }) = self.current.take() {
            file.set_len(length)?;
            file.sync_all()?;
        }
        // Somebody may have cleared the directory away.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let number = self.files.last_key_value().map_or(1, |(number, _)| number.saturating_add(1));
        let path = self.directory.join(format!("{number:010}.log"));
        if std::mem::take(&mut self.spare) {
            fs::rename(self.directory.join("spare"), &path)?;
        }
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path)?;
        let mut header = Vec::with_capacity(HEADER);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&(HEADER as u16).to_le_bytes());
        header.extend_from_slice(&number.to_le_bytes());
        header.extend_from_slice(&now.to_le_bytes());
        file.write_all_at(&header, 0)?;
        file.sync_all()?;
        File::open(&self.directory)?.sync_all()?;
        self.current = Some(Current { file, number, length: HEADER as u64, created: now });
        self.files.insert(number, Kept { bytes: HEADER as u64, created: now, done: false });
        Ok(())
    }

    /// Nothing before `oldest` waits any more: those files are for the history, the oldest of them go.
    pub(crate) fn retire(&mut self, oldest: u32, now: u64) -> io::Result<()> {
        for (number, kept) in self.files.range_mut(..oldest).filter(|(_, kept)| !kept.done) {
            let name = |kind| self.directory.join(format!("{number:010}.{kind}"));
            fs::rename(name("log"), name("kept"))?;
            kept.done = true;
        }
        let mut bytes: u64 = self.files.values().filter(|kept| kept.done).map(|kept| kept.bytes).sum();
        while let Some((number, kept)) = self.files.first_key_value().filter(|(_, kept)| kept.done) {
            if bytes <= self.kept_bytes && now.saturating_sub(kept.created) <= self.kept_age {
                break;
            }
            let (number, size) = (*number, kept.bytes);
            remove(&self.directory.join(format!("{number:010}.kept")))?;
            self.files.remove(&number);
            bytes -= size;
        }
        Ok(())
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Fills a file with zeros for the next segment.
pub(crate) fn prepare_spare(directory: &Path, bytes: u64) -> io::Result<()> {
    let part = directory.join("spare.part");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&part)?;
    let zeros = [0; 64 * 1024];
    let mut left = usize::try_from(bytes).unwrap_or(0);
    while left > 0 {
        let some = zeros.get(..left.min(zeros.len())).unwrap_or_default();
        file.write_all(some)?;
        left -= some.len();
    }
    file.sync_all()?;
    fs::rename(part, directory.join("spare"))
}

/// The files of a directory, oldest first: number, path, whether nothing in it waits.
pub(crate) fn list(directory: &Path) -> io::Result<Vec<(u32, PathBuf, bool)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let done = match path.extension().and_then(|kind| kind.to_str()) {
            Some("log") => false,
            Some("kept") => true,
            _ => continue,
        };
        if let Some(number) = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok()) {
            found.push((number, path, done));
        }
    }
    found.sort();
    Ok(found)
}

/// A file's content, whole; it may be renamed meanwhile.
pub(crate) fn read_file(directory: &Path, number: u32) -> io::Result<Vec<u8>> {
    let name = |kind| directory.join(format!("{number:010}.{kind}"));
    match fs::read(name("log")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::read(name("kept")),
        read => read,
    }
}

/// Where the records begin; `None`: the file was being created, and holds nothing.
pub(crate) fn records_begin(file: &[u8]) -> Result<Option<usize>, Later> {
    let header = file.first_chunk::<HEADER>().filter(|header| header.starts_with(MAGIC));
    let Some([_, _, _, _, _, _, _, _, v0, v1, l0, l1, ..]) = header else { return Ok(None) };
    if u16::from_le_bytes([*v0, *v1]) > VERSION {
        return Err(Later);
    }
    Ok(Some(usize::from(u16::from_le_bytes([*l0, *l1]))))
}

/// The file was written by a later version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Later;

fn created(path: &Path) -> io::Result<u64> {
    let mut header = [0; HEADER];
    let read = File::open(path)?.read_at(&mut header, 0)?;
    let time = header.last_chunk::<8>().filter(|_| read == HEADER);
    Ok(time.map_or(0, |time| u64::from_le_bytes(*time)))
}

// --- reading back

/// Reads waiting pushes, in the order of `places`; `None` where that is impossible.
pub(crate) fn load(directory: &Path, places: &[Place]) -> Vec<Option<Box<Job>>> {
    let mut jobs: Vec<Option<Box<Job>>> = places.iter().map(|_| None).collect();
    read_places(directory, places, |index, record| {
        if let Some(job) = jobs.get_mut(index) {
            *job = record.job().ok().map(Box::new);
        }
    });
    jobs
}

/// Hands out the stored records at the places, with their index.
pub(crate) fn read_places(directory: &Path, places: &[Place], mut each: impl FnMut(usize, Record<'_>)) {
    let mut sorted: Vec<(Place, usize)> = places.iter().copied().zip(0..).collect();
    sorted.sort_unstable();
    let mut open: Option<(u32, File)> = None;
    let mut buffer = Vec::new();
    let near = |(one, _): &(Place, usize), (other, _): &(Place, usize)| {
        one.segment == other.segment && other.offset.saturating_sub(one.offset.saturating_add(one.length)) <= GAP
    };
    for run in sorted.chunk_by(near) {
        let mut rest = run;
        while let Some((first, _)) = rest.first() {
            let fits = |(place, _): &(Place, usize)| place.offset.saturating_add(place.length).saturating_sub(first.offset) <= SPAN;
            let count = rest.iter().take_while(|place| fits(place)).count().max(1);
            let (part, later) = rest.split_at_checked(count).unwrap_or((rest, &[]));
            rest = later;
            if open.as_ref().is_none_or(|(segment, _)| *segment != first.segment) {
                open = open_file(directory, first.segment).ok().map(|file| (first.segment, file));
            }
            let Some((_, file)) = &open else { continue };
            let end = part.last().map_or(0, |(place, _)| place.offset.saturating_add(place.length));
            buffer.resize(end.saturating_sub(first.offset) as usize, 0);
            if file.read_exact_at(&mut buffer, first.offset.into()).is_err() {
                continue;
            }
            for (place, index) in part {
                if let Frame::Whole { record, .. } = record::read(&buffer, (place.offset - first.offset) as usize)
                    && matches!(record.kind, STORED | record::CARRIED)
                {
                    each(*index, record);
                }
            }
        }
    }
}

fn open_file(directory: &Path, number: u32) -> io::Result<File> {
    let name = |kind| directory.join(format!("{number:010}.{kind}"));
    File::open(name("log")).or_else(|_| File::open(name("kept")))
}
