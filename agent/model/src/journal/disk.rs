//! Segment files. Each begins with a checkpoint (the whole state), then events follow; the newest segment alone restores the state, the
//! older ones only let cursors reach further back. A thread writes them; if it cannot keep up, events are left out of the files
//! (never of memory), counted, and a new checkpoint follows.
//!
//! File: `ELPHJRN1`, epoch (36 characters), then records of kind (1), sequence (8), length (4), CRC-32 (4), payload; big-endian.

use std::{
    fs::{self, File, OpenOptions},
    future::Future,
    io::{self, BufReader, BufWriter, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use elph_proto::{v1, view::View};
use prost::Message;
use tokio::sync::oneshot;

use super::ring::{Entry, Ring};

const MAGIC: &[u8; 8] = b"ELPHJRN1";
const EPOCH_LENGTH: usize = 36;
const CHECKPOINT: u8 = 1;
const EVENT: u8 = 2;
/// A checkpoint after a start: the positions since the last record were left out by the leap, no event is missing.
const LEAP: u8 = 3;

/// Records that wait for the writer at most.
const QUEUE: usize = 16_384;

/// After a refusal by the disk the next attempt is made so much later.
const RETRY: Duration = Duration::from_secs(10);

/// A record longer than this is damage.
const MAX_RECORD: u32 = 512 << 20;

/// Why the journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another agent uses the directory.
    #[error("the journal directory {} is in use by another agent", directory.display())]
    InUse {
        /// The directory.
        directory: PathBuf,
    },
    /// The directory or a file cannot be used.
    #[error("cannot use the journal directory {}", directory.display())]
    Io {
        /// The directory.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
}

enum Record {
    Event { sequence: u64, frame: Bytes },
    Checkpoint { kind: u8, sequence: u64, snapshot: Vec<u8> },
    Close(oneshot::Sender<()>),
}

/// The journal's files, open for writing.
#[derive(Debug)]
pub struct Journal {
    queue: SyncSender<Record>,
    segment_bytes: u64,
    written: u64,
    started: bool,
    /// Events were left out: nothing goes to the writer before the next checkpoint.
    broken: bool,
    state: Arc<WriterState>,
    /// When a checkpoint was last begun because the disk had refused something.
    retried: Option<Instant>,
    _lock: File,
}

/// What the writer tells.
#[derive(Debug, Default)]
struct WriterState {
    /// Records that wait for it.
    waiting: AtomicUsize,
    /// It has no file that it can write to.
    failed: AtomicBool,
    /// Events that are not on disk.
    skipped: AtomicU64,
}

impl Journal {
    /// Reads what is there into `ring` and `view`, and begins to write. Call [`Journal::checkpoint`] next.
    pub fn open(directory: &Path, disk_bytes: u64, segment_bytes: u64, ring: &mut Ring, view: &mut View) -> Result<Self, JournalError> {
        let failed = |source| JournalError::Io { directory: directory.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(directory.join("lock")).map_err(failed)?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => JournalError::InUse { directory: directory.to_owned() },
            fs::TryLockError::Error(source) => failed(source),
        })?;
        let segments = segments(directory).map_err(failed)?;
        read_segments(&segments, ring, view);
        let state = Arc::new(WriterState::default());
        let (queue, records) = sync_channel(QUEUE);
        let writer =
            Writer { directory: directory.to_owned(), epoch: ring.epoch().to_owned(), disk_bytes, file: None, state: state.clone() };
        std::thread::Builder::new().name("journal".to_owned()).spawn(move || writer.run(&records)).map_err(failed)?;
        Ok(Self { queue, segment_bytes, written: 0, started: false, broken: false, state, retried: None, _lock: lock })
    }

    /// Hands an event to the writer; true: a checkpoint is due. One costs the encoding of the whole state, so it is not due before the
    /// writer has caught up, nor at every event that the disk refuses.
    pub(crate) fn append(&mut self, entry: &Entry) -> bool {
        if self.broken || !self.send(Record::Event { sequence: entry.sequence, frame: entry.frame.clone() }) {
            self.broken = true;
            self.state.skipped.fetch_add(1, Ordering::Relaxed);
            return self.state.waiting.load(Ordering::Relaxed) <= QUEUE / 2;
        }
        self.written += entry.frame.len() as u64;
        if self.state.failed.load(Ordering::Relaxed) && self.retried.is_none_or(|at| at.elapsed() >= RETRY) {
            self.retried = Some(Instant::now());
            return true;
        }
        self.written > self.segment_bytes
    }

    /// Begins a new segment.
    pub(crate) fn checkpoint(&mut self, sequence: u64, snapshot: &v1::Snapshot) {
        let kind = if self.started { CHECKPOINT } else { LEAP };
        self.broken = !self.send(Record::Checkpoint { kind, sequence, snapshot: snapshot.encode_to_vec() });
        self.started |= !self.broken;
        self.written = 0;
    }

    fn send(&self, record: Record) -> bool {
        self.state.waiting.fetch_add(1, Ordering::Relaxed);
        let sent = self.queue.try_send(record).is_ok();
        if !sent {
            self.state.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        sent
    }

    /// Events that are not on disk because the writer could not keep up or the disk refused them.
    pub fn skipped(&self) -> u64 {
        self.state.skipped.load(Ordering::Relaxed)
    }

    /// Writes what waits, within ten seconds, and ends the writer.
    pub fn close(self) -> impl Future<Output = ()> {
        let (done, closed) = oneshot::channel();
        let sent = self.send(Record::Close(done));
        async move {
            if sent {
                // Either the writer says so, or it has died, or it hangs on the disk: the agent ends in each case.
                let _ = tokio::time::timeout(Duration::from_secs(10), closed).await;
            }
            drop(self);
        }
    }
}

fn segments(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "journal") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

// --- reading

fn read_segments(segments: &[PathBuf], ring: &mut Ring, view: &mut View) {
    let mut epoch = None;
    let mut whole = true;
    for path in newest(segments, ring.max_bytes()) {
        let read = read_segment(path, whole, &mut epoch, ring, view);
        whole = read.is_ok();
        if let Err(error) = read {
            tracing::warn!(segment = %path.display(), %error, "journal segment is damaged, what follows in it is left out");
        }
    }
    if epoch.is_some() {
        ring.leap();
    }
}

/// The newest segments that fill the memory, and one more, should the newest be damaged: reading all would only delay the start.
fn newest(segments: &[PathBuf], bytes: usize) -> &[PathBuf] {
    let mut read = 0;
    let enough = |path: &PathBuf| {
        read += fs::metadata(path).map_or(0, |file| file.len());
        read >= bytes as u64
    };
    let filling = segments.iter().rev().position(enough).map_or(segments.len(), |place| place + 1);
    segments.get(segments.len().saturating_sub(filling.max(1) + 1)..).unwrap_or_default()
}

fn read_segment(path: &Path, continues: bool, epoch: &mut Option<String>, ring: &mut Ring, view: &mut View) -> io::Result<()> {
    let mut file = BufReader::new(File::open(path)?);
    let mut head = [0_u8; MAGIC.len() + EPOCH_LENGTH];
    file.read_exact(&mut head)?;
    let (magic, name) = head.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a journal segment"));
    }
    let name = String::from_utf8(name.to_vec()).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the epoch is no text"))?;
    while let Some((kind, sequence, payload)) = read_record(&mut file)? {
        if kind != EVENT {
            // After damage, events left out, or in another epoch, older cursors cannot be served.
            let continues = continues && epoch.as_ref() == Some(&name) && sequence >= ring.newest();
            if continues && kind == LEAP {
                ring.leap_to(sequence);
            } else if !continues || sequence != ring.newest() {
                ring.resume(name.clone(), sequence);
                *epoch = Some(name.clone());
            }
            *view = View::default();
            let snapshot = v1::Snapshot::decode(payload.as_slice()).map_err(io::Error::other)?;
            view.apply(v1::SubscribeResponse { cursor: None, message: Some(v1::subscribe_response::Message::Snapshot(snapshot)) });
        } else if epoch.is_some() {
            let frame = Bytes::from(payload);
            let response = v1::SubscribeResponse::decode(frame.clone()).map_err(io::Error::other)?;
            ring.restore(sequence, &response, frame);
            view.apply(response);
        }
    }
    Ok(())
}

/// The next record; `None`: the end, or a record that was being written when the agent died.
fn read_record(file: &mut impl Read) -> io::Result<Option<(u8, u64, Vec<u8>)>> {
    let mut head = [0_u8; 17];
    match file.read_exact(&mut head) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let [kind, s0, s1, s2, s3, s4, s5, s6, s7, l0, l1, l2, l3, c0, c1, c2, c3] = head;
    let sequence = u64::from_be_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
    let length = u32::from_be_bytes([l0, l1, l2, l3]);
    if length > MAX_RECORD || !matches!(kind, CHECKPOINT | EVENT | LEAP) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a record"));
    }
    let mut payload = Vec::new();
    file.take(u64::from(length)).read_to_end(&mut payload)?;
    if payload.len() != length as usize {
        return Ok(None);
    }
    if crc(kind, sequence, &payload) != u32::from_be_bytes([c0, c1, c2, c3]) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a record's checksum is wrong"));
    }
    Ok(Some((kind, sequence, payload)))
}

fn crc(kind: u8, sequence: u64, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[kind]);
    hasher.update(&sequence.to_be_bytes());
    hasher.update(payload);
    hasher.finalize()
}

// --- writing

struct Writer {
    directory: PathBuf,
    epoch: String,
    disk_bytes: u64,
    file: Option<BufWriter<File>>,
    state: Arc<WriterState>,
}

impl Writer {
    fn run(mut self, records: &Receiver<Record>) {
        loop {
            // What is written is flushed as soon as nothing more waits.
            let record = match records.try_recv() {
                Ok(record) => record,
                Err(_) => {
                    self.flush();
                    match records.recv_timeout(Duration::from_secs(3600)) {
                        Ok(record) => record,
                        Err(RecvTimeoutError::Timeout) => continue,
                        Err(RecvTimeoutError::Disconnected) => return,
                    }
                }
            };
            self.state.waiting.fetch_sub(1, Ordering::Relaxed);
            match record {
                Record::Event { sequence, frame } => self.event(sequence, &frame),
                Record::Checkpoint { kind, sequence, snapshot } => {
                    if let Err(error) = self.begin(kind, sequence, &snapshot) {
                        self.give_up(&error);
                    }
                }
                Record::Close(done) => {
                    self.flush();
                    if let Some(file) = self.file.take()
                        && let Err(error) = file.get_ref().sync_all()
                    {
                        tracing::warn!(%error, "cannot sync the journal");
                    }
                    // The agent may have stopped waiting.
                    let _ = done.send(());
                    return;
                }
            }
        }
    }

    fn event(&mut self, sequence: u64, frame: &[u8]) {
        let Some(file) = &mut self.file else {
            self.state.skipped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        if let Err(error) = write_record(file, EVENT, sequence, frame) {
            self.state.skipped.fetch_add(1, Ordering::Relaxed);
            self.give_up(&error);
        }
    }

    /// Writes no more to this file: what follows a gap would not fit what went before.
    fn give_up(&mut self, error: &io::Error) {
        self.file = None;
        if !self.state.failed.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, directory = %self.directory.display(), "cannot write the journal, cursors will not survive a restart");
        }
    }

    fn begin(&mut self, kind: u8, sequence: u64, snapshot: &[u8]) -> io::Result<()> {
        self.flush();
        // Somebody may have cleared the directory away.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let path = self.directory.join(format!("{sequence:020}.journal"));
        let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&path)?;
        let mut file = BufWriter::new(file);
        file.write_all(MAGIC)?;
        file.write_all(self.epoch.as_bytes())?;
        write_record(&mut file, kind, sequence, snapshot)?;
        file.flush()?;
        self.file = Some(file);
        if self.state.failed.swap(false, Ordering::Relaxed) {
            tracing::info!(directory = %self.directory.display(), "the journal is written again");
        }
        if let Err(error) = self.remove_old(&path) {
            tracing::warn!(%error, directory = %self.directory.display(), "cannot remove old journal segments");
        }
        Ok(())
    }

    fn remove_old(&self, newest: &Path) -> io::Result<()> {
        let segments = segments(&self.directory)?;
        let mut bytes = 0;
        for path in segments.iter().rev() {
            bytes += fs::metadata(path)?.len();
            if bytes > self.disk_bytes && path != newest {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) {
        if let Some(file) = &mut self.file
            && let Err(error) = file.flush()
        {
            self.give_up(&error);
        }
    }
}

fn write_record(file: &mut impl Write, kind: u8, sequence: u64, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    file.write_all(&[kind])?;
    file.write_all(&sequence.to_be_bytes())?;
    file.write_all(&length.to_be_bytes())?;
    file.write_all(&crc(kind, sequence, payload).to_be_bytes())?;
    file.write_all(payload)
}
