//! Request ids and what became of them, in memory and in a file, so that a command that comes again is not executed again, restarts of
//! the agent included. Bounded by count, age and bytes; the oldest go first.
//!
//! File: one JSON object a line: a command that began (`digest`), and later how it ended (`ok` or `status`).

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tonic::{Code, Status};

/// Bytes of remembered answers in memory.
const MAX_BYTES: usize = 8 << 20;

/// The file is written anew when it has grown to this many bytes beyond twice what it needs.
const SLACK: u64 = 4 << 20;

/// A line longer than this is damage.
const LONGEST_LINE: u64 = 1 << 20;

/// The caller and its request id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Key {
    pub(super) caller: String,
    pub(super) id: String,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The encoded answer.
    Answer(Vec<u8>),
    /// The error.
    Error { code: i32, message: String, details: Vec<u8> },
    /// It had begun when the agent died.
    Unknown,
}

/// What is known about a request id.
pub(super) enum Known {
    /// Nothing: it may begin, and does now.
    New,
    /// It is under way; the receiver gets the outcome.
    Running(watch::Receiver<Option<Outcome>>),
    /// It has ended.
    Ended(Outcome),
    /// It was another command.
    OtherCommand,
}

#[derive(Debug)]
struct Entry {
    digest: String,
    at: i64,
    /// Its place in the order.
    place: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Running(watch::Sender<Option<Outcome>>),
    Ended(Outcome),
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    #[serde(flatten)]
    key: Key,
    at: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ok: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<(i32, String, String)>,
    /// It surely was not executed and may be sent again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    forgotten: bool,
}

/// The ledger.
#[derive(Debug)]
pub(super) struct Ledger {
    entries: HashMap<Key, Entry>,
    /// The ids in the order they came, each once.
    order: BTreeMap<u64, Key>,
    bytes: usize,
    max_count: usize,
    retention: i64,
    path: PathBuf,
    file: Option<File>,
    file_bytes: u64,
    /// Writing failed and was said.
    failing: bool,
    /// The file may end in the middle of a line.
    torn: bool,
}

impl Ledger {
    pub(super) fn open(path: &Path, max_count: usize, retention: Duration) -> io::Result<Self> {
        let mut ledger = Self {
            entries: HashMap::new(),
            order: BTreeMap::new(),
            bytes: 0,
            max_count,
            retention: i64::try_from(retention.as_secs()).unwrap_or(i64::MAX),
            path: path.to_owned(),
            file: None,
            file_bytes: 0,
            failing: false,
            torn: false,
        };
        match File::open(path) {
            Ok(file) => ledger.read(file)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        ledger.rewrite()?;
        Ok(ledger)
    }

    fn read(&mut self, file: File) -> io::Result<()> {
        let mut reader = BufReader::new(file);
        let mut buffer = Vec::new();
        loop {
            buffer.clear();
            if io::Read::take(&mut reader, LONGEST_LINE).read_until(b'\n', &mut buffer)? == 0 {
                break;
            }
            // The last line may be half written, and its command is then one that had begun.
            let Ok(line) = serde_json::from_slice::<Line>(&buffer) else { continue };
            self.replay(line);
        }
        for entry in self.entries.values_mut() {
            if matches!(entry.state, State::Running(_)) {
                entry.state = State::Ended(Outcome::Unknown);
            }
        }
        Ok(())
    }

    fn replay(&mut self, line: Line) {
        if line.forgotten {
            self.remove(&line.key);
        } else if let Some(digest) = line.digest {
            self.insert(line.key, digest, line.at);
        } else if self.entries.contains_key(&line.key) {
            let outcome = match (line.ok, line.status) {
                (Some(ok), _) => unhex(&ok).map(Outcome::Answer),
                (None, Some((code, message, details))) => unhex(&details).map(|details| Outcome::Error { code, message, details }),
                (None, None) => None,
            };
            self.settle(&line.key, outcome.unwrap_or(Outcome::Unknown));
        }
    }

    /// What is known about the id. If it is new, it begins now, and is on its way to the disk.
    pub(super) fn begin(&mut self, key: &Key, digest: &str) -> Known {
        self.forget();
        match self.entries.get(key) {
            Some(entry) if entry.digest != digest => Known::OtherCommand,
            Some(Entry { state: State::Running(outcome), .. }) => Known::Running(outcome.subscribe()),
            Some(Entry { state: State::Ended(outcome), .. }) => Known::Ended(outcome.clone()),
            None => {
                let at = Timestamp::now().as_second();
                self.insert(key.clone(), digest.to_owned(), at);
                self.write(&Line { key: key.clone(), at, digest: Some(digest.to_owned()), ok: None, status: None, forgotten: false });
                Known::New
            }
        }
    }

    /// How the command ended, if it is known and has.
    pub(super) fn ended(&self, key: &Key, digest: &str) -> Option<Outcome> {
        match self.entries.get(key) {
            Some(Entry { digest: known, state: State::Ended(outcome), .. }) if known == digest => Some(outcome.clone()),
            _ => None,
        }
    }

    /// The command has ended; whoever waits for it is told.
    pub(super) fn end(&mut self, key: &Key, outcome: Outcome) {
        self.write(&ended_line(key, &outcome));
        if let Some(State::Running(waiting)) = self.settle(key, outcome.clone()) {
            waiting.send_replace(Some(outcome));
        }
    }

    /// Notes how it ended; gives what was known before.
    fn settle(&mut self, key: &Key, outcome: Outcome) -> Option<State> {
        let entry = self.entries.get_mut(key)?;
        self.bytes += weight(&outcome);
        let before = std::mem::replace(&mut entry.state, State::Ended(outcome));
        if let State::Ended(before) = &before {
            self.bytes = self.bytes.saturating_sub(weight(before));
        }
        Some(before)
    }

    /// The command surely was not executed: the id may be used again for it. Whoever waits is told the error.
    pub(super) fn take_back(&mut self, key: &Key, outcome: Outcome) {
        let at = Timestamp::now().as_second();
        self.write(&Line { key: key.clone(), at, digest: None, ok: None, status: None, forgotten: true });
        if let Some(State::Running(waiting)) = self.remove(key).map(|entry| entry.state) {
            waiting.send_replace(Some(outcome));
        }
    }

    /// A command begins; what the id meant before is forgotten.
    fn insert(&mut self, key: Key, digest: String, at: i64) {
        self.remove(&key);
        let place = self.order.last_key_value().map_or(0, |(last, _)| last + 1);
        self.order.insert(place, key.clone());
        self.bytes += key_weight(&key);
        self.entries.insert(key, Entry { digest, at, place, state: State::Running(watch::channel(None).0) });
    }

    fn remove(&mut self, key: &Key) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.order.remove(&entry.place);
        self.bytes = self.bytes.saturating_sub(key_weight(key));
        if let State::Ended(outcome) = &entry.state {
            self.bytes = self.bytes.saturating_sub(weight(outcome));
        }
        Some(entry)
    }

    fn forget(&mut self) {
        let oldest = Timestamp::now().as_second().saturating_sub(self.retention);
        while let Some(key) = self.order.first_key_value().map(|(_, key)| key.clone()) {
            let Some(entry) = self.entries.get(&key) else { break };
            let due = self.entries.len() >= self.max_count || self.bytes > MAX_BYTES || entry.at < oldest;
            // One that runs is never forgotten: commands have deadlines, so it ends soon.
            if !due || matches!(entry.state, State::Running(_)) {
                break;
            }
            self.remove(&key);
        }
    }

    fn write(&mut self, line: &Line) {
        if self.file_bytes > SLACK + 2 * (self.bytes as u64) {
            let outcome = self.rewrite();
            self.said(outcome);
        }
        let outcome = self.append(line);
        self.said(outcome);
    }

    fn append(&mut self, line: &Line) -> io::Result<()> {
        // What a full disk has cut off stands on a line of its own: the next command is not lost with it.
        let mut text = if self.torn { vec![b'\n'] } else { Vec::new() };
        serde_json::to_writer(&mut text, line)?;
        text.push(b'\n');
        let Some(file) = &mut self.file else { return Err(io::Error::other("the file is not open")) };
        self.torn = true;
        file.write_all(&text)?;
        self.torn = false;
        self.file_bytes += text.len() as u64;
        Ok(())
    }

    /// A full disk must not stop call control: the ids then live in memory only.
    fn said(&mut self, outcome: io::Result<()>) {
        match outcome {
            Ok(()) => self.failing = false,
            Err(error) if !self.failing => {
                self.failing = true;
                tracing::error!(%error, path = %self.path.display(), "request ids cannot be written and will not survive a restart");
            }
            Err(_) => {}
        }
    }

    /// Writes the file anew with what is still known.
    fn rewrite(&mut self) -> io::Result<()> {
        self.forget();
        let fresh = self.path.with_extension("new");
        let mut file = io::BufWriter::new(OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&fresh)?);
        let mut bytes = 0;
        for key in self.order.values() {
            let Some(entry) = self.entries.get(key) else { continue };
            let begun =
                Line { key: key.clone(), at: entry.at, digest: Some(entry.digest.clone()), ok: None, status: None, forgotten: false };
            let ended = match &entry.state {
                State::Ended(outcome) => Some(ended_line(key, outcome)),
                State::Running(_) => None,
            };
            for line in [Some(begun), ended].into_iter().flatten() {
                let mut text = serde_json::to_vec(&line)?;
                text.push(b'\n');
                bytes += text.len() as u64;
                file.write_all(&text)?;
            }
        }
        file.flush()?;
        fs::rename(&fresh, &self.path)?;
        self.file = Some(OpenOptions::new().append(true).open(&self.path)?);
        self.file_bytes = bytes;
        self.torn = false;
        Ok(())
    }
}

fn ended_line(key: &Key, outcome: &Outcome) -> Line {
    let at = Timestamp::now().as_second();
    let mut line = Line { key: key.clone(), at, digest: None, ok: None, status: None, forgotten: false };
    match outcome {
        Outcome::Answer(bytes) => line.ok = Some(hex(bytes)),
        Outcome::Error { code, message, details } => line.status = Some((*code, message.clone(), hex(details))),
        Outcome::Unknown => {}
    }
    line
}

fn key_weight(key: &Key) -> usize {
    2 * (key.caller.len() + key.id.len()) + 256
}

fn weight(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Answer(bytes) => bytes.len(),
        Outcome::Error { message, details, .. } => message.len() + details.len(),
        Outcome::Unknown => 0,
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    text.as_bytes().chunks(2).map(|pair| Some(digit(pair.first()?)? << 4 | digit(pair.get(1)?)?)).collect()
}

// === impl Outcome ===

impl Outcome {
    pub(super) fn of(status: &Status) -> Self {
        Self::Error { code: i32::from(status.code()), message: status.message().to_owned(), details: status.details().to_vec() }
    }

    /// The error that this outcome is, if it is one.
    pub(super) fn status(code: i32, message: &str, details: &[u8]) -> Status {
        Status::with_details(Code::from(code), message, details.to_vec().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> Key {
        Key { caller: "suite".into(), id: id.into() }
    }

    fn open(directory: &Path) -> Ledger {
        Ledger::open(&directory.join("requests"), 100, Duration::from_secs(3600)).unwrap()
    }

    #[test]
    fn an_id_survives_a_restart_with_its_answer_and_one_under_way_is_unknown() {
        let directory = tempfile::tempdir().unwrap();
        let mut ledger = open(directory.path());
        for id in ["done", "refused", "running", "taken back"] {
            assert!(matches!(ledger.begin(&key(id), "d"), Known::New));
        }
        ledger.end(&key("done"), Outcome::Answer(vec![1, 2, 255]));
        ledger.end(&key("refused"), Outcome::of(&Status::not_found("no")));
        ledger.take_back(&key("taken back"), Outcome::Unknown);
        let mut ledger = open(directory.path());
        assert!(matches!(ledger.begin(&key("done"), "d"), Known::Ended(Outcome::Answer(bytes)) if bytes == [1, 2, 255]));
        assert!(matches!(ledger.begin(&key("refused"), "d"), Known::Ended(Outcome::Error { code: 5, .. })));
        assert!(matches!(ledger.begin(&key("running"), "d"), Known::Ended(Outcome::Unknown)));
        assert!(matches!(ledger.begin(&key("taken back"), "d"), Known::New));
        assert!(matches!(ledger.begin(&key("done"), "other"), Known::OtherCommand));
    }

    #[test]
    fn a_half_written_file_opens() {
        let directory = tempfile::tempdir().unwrap();
        let mut ledger = open(directory.path());
        ledger.begin(&key("a"), "d");
        ledger.end(&key("a"), Outcome::Answer(vec![7]));
        let path = directory.path().join("requests");
        let whole = fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let mut ledger = open(directory.path());
            assert!(!matches!(ledger.begin(&key("a"), "d"), Known::Running(_)), "cut at {cut}");
        }
    }

    #[test]
    fn the_oldest_are_forgotten_first_and_the_file_stays_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(&directory.path().join("requests"), 10, Duration::from_secs(3600)).unwrap();
        for number in 0..5000 {
            let key = key(&number.to_string());
            ledger.begin(&key, "d");
            ledger.end(&key, Outcome::Answer(vec![0; 1000]));
        }
        assert!(ledger.entries.len() <= 10 && ledger.bytes < 20_000);
        assert!(matches!(ledger.begin(&key("4999"), "d"), Known::Ended(_)));
        assert!(fs::metadata(directory.path().join("requests")).unwrap().len() < 6 << 20);
    }

    #[test]
    fn an_id_that_is_tried_again_through_a_long_outage_costs_one_place() {
        let directory = tempfile::tempdir().unwrap();
        let mut ledger = open(directory.path());
        ledger.begin(&key("first"), "d");
        ledger.end(&key("first"), Outcome::Unknown);
        let size = ledger.bytes;
        for _ in 0..1000 {
            assert!(matches!(ledger.begin(&key("again"), "d"), Known::New));
            ledger.take_back(&key("again"), Outcome::Unknown);
        }
        assert_eq!((ledger.order.len(), ledger.bytes), (1, size));
        ledger.begin(&key("again"), "d");
        ledger.end(&key("again"), Outcome::Answer(vec![1]));
        let ledger = open(directory.path());
        assert_eq!((ledger.order.len(), ledger.entries.len()), (2, 2));
    }

    #[test]
    fn a_line_that_a_full_disk_cut_off_does_not_take_the_next_command_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut ledger = open(directory.path());
        ledger.begin(&key("a"), "d");
        // As a write that stopped half way leaves it.
        ledger.file.as_mut().unwrap().write_all(b"{\"caller\":\"suite\",\"id").unwrap();
        ledger.torn = true;
        ledger.begin(&key("b"), "d");
        drop(ledger);
        let mut ledger = open(directory.path());
        for id in ["a", "b"] {
            assert!(matches!(ledger.begin(&key(id), "d"), Known::Ended(Outcome::Unknown)), "{id} had begun");
        }
    }
}
