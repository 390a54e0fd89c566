//! Recordings of what is exchanged with the switch, for `elph-agent record` and for tests that replay them: JSON lines in a file that
//! only its owner may read. The drivers have replaced passwords, cookies and session ids before a message comes here.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use ecss_switch::link::{LinkKind, Tap, Way};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// The longest line that is read back.
const LINE_LONGEST: usize = 4 << 20;

/// One recorded message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recorded {
    /// When.
    pub time: Timestamp,
    /// Over which link: `terminal`, `call_api`, `csta`.
    pub link: String,
    /// `sent` or `received`.
    pub way: String,
    /// Request line, status line or frame header.
    pub head: String,
    /// XML or JSON.
    pub body: String,
}

/// Writes messages down until the file has reached its bound.
pub struct Recorder {
    state: Mutex<State>,
}

struct State {
    file: File,
    left: u64,
    outcome: Outcome,
}

/// What a recording holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Messages written.
    pub written: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Messages that no longer fitted.
    pub left_out: u64,
    /// Why writing ended before its time.
    pub failed: Option<String>,
}

/// A recording, read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recording {
    /// Its messages, in order.
    pub messages: Vec<Recorded>,
}

/// Why a recording cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error("the recording cannot be read")]
    Io(#[from] io::Error),
    /// A line is no message.
    #[error("line {line} of the recording is no message: {what}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
}

// === impl Recorder ===

impl Recorder {
    /// Begins a file, mode 0600. An existing file is not touched.
    pub fn create(path: &Path, most_bytes: u64) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Self { state: Mutex::new(State { file, left: most_bytes, outcome: Outcome::default() }) })
    }

    /// What has been recorded so far.
    pub fn outcome(&self) -> Outcome {
        self.state.lock().outcome.clone()
    }

    /// Makes sure that it is on disk.
    pub fn finish(&self) -> io::Result<Outcome> {
        let state = self.state.lock();
        state.file.sync_all()?;
        Ok(state.outcome.clone())
    }
}

impl Tap for Recorder {
    fn message(&self, link: LinkKind, way: Way, head: &str, body: &str) {
        let way = match way {
            Way::Sent => "sent",
            Way::Received => "received",
        };
        let recorded =
            Recorded { time: Timestamp::now(), link: link.to_string(), way: way.to_owned(), head: head.to_owned(), body: body.to_owned() };
        let Ok(mut line) = serde_json::to_vec(&recorded) else { return };
        line.push(b'\n');
        let mut state = self.state.lock();
        let length = line.len() as u64;
        // A line that is left out ends the recording: a gap would make the replay lie.
        if length > state.left || state.outcome.left_out > 0 || state.outcome.failed.is_some() {
            state.outcome.left_out += 1;
            return;
        }
        match state.file.write_all(&line) {
            Ok(()) => {
                state.left -= length;
                state.outcome.written += 1;
                state.outcome.bytes += length;
            }
            Err(error) => state.outcome.failed = Some(error.to_string()),
        }
    }
}

// === impl Recording ===

impl Recording {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, ReadError> {
        Self::from_reader(BufReader::new(File::open(path)?))
    }

    /// Reads lines. The last one may have been cut off by a crash; any other must be whole.
    pub fn from_reader(mut reader: impl BufRead) -> Result<Self, ReadError> {
        let mut messages = Vec::new();
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let mut bounded = io::Read::take(&mut reader, LINE_LONGEST as u64);
            if bounded.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            let whole = line.last() == Some(&b'\n');
            match serde_json::from_slice(&line) {
                Ok(message) => messages.push(message),
                Err(_) if !whole && line.len() < LINE_LONGEST => break,
                Err(error) => return Err(ReadError::Line { line: number, what: error.to_string() }),
            }
        }
        Ok(Self { messages })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_recording_reads_back_as_written_is_private_and_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("switch.jsonl");
        let recorder = Recorder::create(&path, 400).unwrap();
        recorder.message(LinkKind::Terminal, Way::Sent, "POST /system/login HTTP/1.1", "<in><login user=\"ssw\" password=\"***\"/></in>");
        recorder.message(LinkKind::Csta, Way::Received, "9999", "<DeliveredEvent>\n\u{0}абв</DeliveredEvent>");
        recorder.message(LinkKind::Csta, Way::Received, "9999", &"x".repeat(400));
        recorder.message(LinkKind::Csta, Way::Received, "9999", "short, but after a gap");
        let bytes = std::fs::metadata(&path).unwrap().len();
        assert_eq!(recorder.finish().unwrap(), Outcome { written: 2, bytes, left_out: 2, failed: None });
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(Recorder::create(&path, 1).is_err(), "an existing recording is not overwritten");
        let read = Recording::read(&path).unwrap();
        assert_eq!(read.messages.len(), 2);
        assert_eq!(read.messages[1].body, "<DeliveredEvent>\n\u{0}абв</DeliveredEvent>");
        assert_eq!((read.messages[0].link.as_str(), read.messages[0].way.as_str()), ("terminal", "sent"));
    }

    #[test]
    fn a_cut_off_last_line_is_dropped_and_a_broken_one_inside_is_refused() {
        let good = r#"{"time":"2026-11-24T10:00:00Z","link":"csta","way":"sent","head":"0001","body":"<a/>"}"#;
        let read = |text: String| Recording::from_reader(text.as_bytes());
        assert_eq!(read(format!("{good}\n{}", &good[..40])).unwrap().messages.len(), 1);
        assert!(matches!(read(format!("{good}\nnonsense\n{good}\n")), Err(ReadError::Line { line: 2, .. })));
    }
}
