//! Requests by service and class of status, counted from the access log as nginx writes it. The log is followed by its name; one that was
//! renamed is read to its end, one that was cut is read from its beginning. Who is too far behind jumps, and says how far.

use std::{
    collections::BTreeSet,
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{sync::watch, time::sleep};

use crate::{
    config::Service,
    metrics::{Metrics, labels},
};

/// How often the log is looked at; nginx writes it at least once a second.
const LOOK: Duration = Duration::from_millis(500);
/// What is read at a time.
const BLOCK: usize = 256 << 10;
/// Most that is read between two looks.
const MOST: u64 = 64 << 20;

/// The file that is read.
struct Log {
    path: PathBuf,
    file: std::fs::File,
    inode: u64,
    read: u64,
    /// A line that nginx has not written to its end.
    begun: Vec<u8>,
}

/// Counts until it is dropped.
pub(crate) async fn follow(services: Arc<ArcSwap<Vec<Service>>>, mut path: watch::Receiver<Option<PathBuf>>, metrics: Arc<Metrics>) {
    let mut log: Option<Log> = None;
    let mut known = false;
    loop {
        let wanted = path.borrow_and_update().clone();
        if log.as_ref().map(|log| &log.path) != wanted.as_ref() {
            log = None;
        }
        if log.is_none() {
            // What was there before we were is not counted.
            log = wanted.as_deref().and_then(|path| Log::open(path, !known));
            known = true;
        }
        if let Some(mut following) = log.take() {
            let names: BTreeSet<String> = services.load().iter().map(|service| service.name.clone()).collect();
            let counting = metrics.clone();
            // Files are read in a place where waiting is allowed.
            let read = tokio::task::spawn_blocking(move || {
                let on = following.read_on(&names, &counting);
                on.then_some(following)
            });
            log = read.await.unwrap_or_default();
        }
        if log.is_some() || wanted.is_none() {
            sleep(LOOK).await;
        } else {
            // Another file, or none yet.
            sleep(LOOK / 5).await;
        }
    }
}

// === impl Log ===

impl Log {
    fn open(path: &Path, at_end: bool) -> Option<Self> {
        let mut file = std::fs::File::open(path).ok()?;
        let read = if at_end { file.seek(SeekFrom::End(0)).ok()? } else { 0 };
        let inode = file.metadata().ok()?.ino();
        Some(Self { path: path.to_owned(), file, inode, read, begun: Vec::new() })
    }

    /// Reads what is new. False: there is another file now, and this one has been read to its end.
    fn read_on(&mut self, names: &BTreeSet<String>, metrics: &Metrics) -> bool {
        let Ok(there) = self.file.metadata() else { return false };
        // Looked at first: what comes into this file until it is read is read, too.
        let replaced = std::fs::metadata(&self.path).map_or(true, |named| named.ino() != self.inode);
        if there.len() < self.read {
            self.begun.clear();
            self.read = self.file.seek(SeekFrom::Start(0)).unwrap_or_default();
        }
        let behind = there.len().saturating_sub(self.read);
        if behind > MOST {
            self.begun.clear();
            metrics.unread.inc_by(behind - MOST);
            self.read = self.file.seek(SeekFrom::Start(there.len() - MOST)).unwrap_or(self.read);
        }
        let mut block = vec![0; BLOCK];
        let mut left = MOST;
        while let Ok(count) = self.file.read(&mut block) {
            if count == 0 {
                return !replaced;
            }
            self.read += count as u64;
            self.take(block.get(..count).unwrap_or_default(), names, metrics);
            left = left.saturating_sub(count as u64);
            if left == 0 {
                return true;
            }
        }
        false
    }

    fn take(&mut self, bytes: &[u8], names: &BTreeSet<String>, metrics: &Metrics) {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = rest.split_at(end);
            if self.begun.is_empty() {
                count(line, names, metrics);
            } else {
                self.begun.extend_from_slice(line);
                count(&self.begun, names, metrics);
                self.begun.clear();
            }
            rest = after.get(1..).unwrap_or_default();
        }
        // Lines are bounded by the header's limits; what is longer is no line of ours.
        if self.begun.len() + rest.len() <= BLOCK {
            self.begun.extend_from_slice(rest);
        } else {
            self.begun.clear();
        }
    }
}

fn count(line: &[u8], names: &BTreeSet<String>, metrics: &Metrics) {
    let Some((service, class)) = parts(line) else { return };
    let service = match service {
        "" => "none",
        "redirect" => "redirect",
        known if names.contains(known) => known,
        _ => "other",
    };
    metrics.served.get_or_create(&labels([("service", service), ("class", class)])).inc();
}

/// Service and class of `{"time":"…","service":"chat","status":200,…`. The client decides about nothing that comes before them.
fn parts(line: &[u8]) -> Option<(&str, &'static str)> {
    let head = line.get(..line.len().min(160))?;
    let head = std::str::from_utf8(head)
        .unwrap_or_else(|error| std::str::from_utf8(head.get(..error.valid_up_to()).unwrap_or_default()).unwrap_or_default());
    let (_, rest) = head.split_once(r#""service":""#)?;
    let (service, rest) = rest.split_once(r#"","status":"#)?;
    let class = match rest.bytes().next()? {
        b'1' => "1xx",
        b'2' => "2xx",
        b'3' => "3xx",
        b'4' => "4xx",
        b'5' => "5xx",
        _ => "none",
    };
    Some((service, class))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn line(service: &str, status: u16) -> String {
        format!(
            "{{\"time\":\"2026-11-24T20:00:00+00:00\",\"service\":\"{service}\",\"status\":{status},\"method\":\"GET\",\"path\":\"/\\u0000\"}}\n"
        )
    }

    #[test]
    fn every_line_is_counted_once_also_over_rotation_cutting_and_halves() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        std::fs::write(&path, line("chat", 200)).unwrap();
        let (metrics, names) = (Metrics::new(), BTreeSet::from(["chat".to_owned()]));
        let counted = |service: &str, class: &str| metrics.served.get_or_create(&labels([("service", service), ("class", class)])).get();
        let mut log = Log::open(&path, true).unwrap();
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        let text = line("chat", 404);
        let (half, rest) = text.split_at(30);
        file.write_all(half.as_bytes()).unwrap();
        assert!(log.read_on(&names, &metrics));
        assert_eq!(counted("chat", "4xx"), 0);
        file.write_all(format!("{rest}{}{}", line("", 404), line("evil", 200)).as_bytes()).unwrap();
        assert!(log.read_on(&names, &metrics));
        assert_eq!((counted("chat", "4xx"), counted("none", "4xx"), counted("other", "2xx"), counted("chat", "2xx")), (1, 1, 1, 0));
        // Renamed: nginx goes on writing into it for a moment.
        std::fs::rename(&path, directory.path().join("access.log.1")).unwrap();
        file.write_all(line("chat", 500).as_bytes()).unwrap();
        assert!(!log.read_on(&names, &metrics), "read to its end");
        assert_eq!(counted("chat", "5xx"), 1);
        std::fs::write(&path, line("chat", 502)).unwrap();
        let mut log = Log::open(&path, false).unwrap();
        assert!(log.read_on(&names, &metrics));
        assert_eq!(counted("chat", "5xx"), 2);
        // Cut by something that copies it.
        std::fs::write(&path, "").unwrap();
        assert!(log.read_on(&names, &metrics));
        std::fs::write(&path, line("chat", 101)).unwrap();
        assert!(log.read_on(&names, &metrics));
        assert_eq!(counted("chat", "1xx"), 1);
        assert_eq!(metrics.unread.get(), 0);
        for nonsense in ["", "{}", "\"service\":\"chat\",\"status\":", "\u{fffd}"] {
            assert_eq!(parts(nonsense.as_bytes()), None, "{nonsense}");
        }
    }
}
