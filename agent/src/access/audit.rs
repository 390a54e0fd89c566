//! The audit log: one record for each command that changes something – who, in whose name, what, and how it went. Commands never
//! wait for it: records go through a bounded queue to a thread of its own, and what does not fit is counted and said.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use ecss_switch::Domain;
use elph_shell::{journald::Told, logs::FIELD_PREFIX};
use http::Extensions;
use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use tonic::metadata::MetadataMap;
use tracing::Dispatch;
use tracing_subscriber::layer::SubscriberExt;

use super::{Access, Denied, Peer, Principal, claimed};
use crate::{
    config::{self, AuditTarget},
    telemetry::metrics::Metrics,
};
use elph_proto::reason::code_name;

/// Records that wait to be written.
const QUEUE: usize = 4096;

/// Journald's identifier of audit records.
pub const IDENTIFIER: &str = "elph-agent-audit";

/// What a command was about and how it went.
#[derive(Debug, Clone)]
pub struct Command<'a> {
    /// The gRPC method: `ConferenceService/Lock`.
    pub method: &'a str,
    /// The domain, where there is one.
    pub domain: Option<&'a Domain>,
    /// What it was about, by field name.
    pub objects: Vec<Object<'a>>,
    /// The caller's request id.
    pub request_id: &'a str,
    /// `OK`, or the gRPC code's name.
    pub outcome: &'a str,
    /// The stable reason of a refusal.
    pub reason: Option<&'a str>,
}

/// One thing that a command was about.
#[derive(Debug, Clone, Copy)]
pub struct Object<'a> {
    /// The request field's name.
    pub field: &'a str,
    /// Its value.
    pub value: &'a str,
    /// Whether the field is marked sensitive: then the value is shortened.
    pub sensitive: bool,
}

/// A record as it is written.
#[derive(Debug, Serialize)]
struct Record {
    time: Timestamp,
    caller: String,
    peer: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<WrittenActor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    claimed_actor: Option<String>,
    method: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<String>,
    objects: serde_json::Map<String, serde_json::Value>,
    request_id: String,
    outcome: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct WrittenActor {
    subject: String,
    issuer: String,
}

enum Message {
    Write(Box<Record>),
    Reopen,
    Finish(oneshot::Sender<()>),
}

/// Takes records; cheap to clone.
#[derive(Clone)]
pub struct Audit {
    queue: mpsc::Sender<Message>,
    written: Counter,
    dropped: Counter,
}

enum Target {
    File { path: PathBuf, file: File },
    Journald(Dispatch),
    Log,
}

// === impl Audit ===

impl Audit {
    /// Opens the target and starts the writing thread.
    pub fn start(config: &config::Audit, journald: bool, metrics: &Metrics) -> io::Result<Self> {
        let target = Target::open(config, journald)?;
        let (queue, receiver) = mpsc::channel(QUEUE);
        let failed = metrics.audit_dropped.clone();
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || write_all(receiver, target, &failed))?;
        Ok(Self { queue, written: metrics.audit_records.clone(), dropped: metrics.audit_dropped.clone() })
    }

    /// Writes down a command that was allowed, without waiting.
    pub fn record(&self, principal: &Principal, command: &Command<'_>) {
        let actor = principal.actor.as_ref();
        self.put(command, |record| {
            record.caller.clone_from(&principal.grant.name);
            record.peer = principal.peer.to_string();
            record.actor = actor.map(|actor| WrittenActor { subject: actor.subject.clone(), issuer: actor.issuer.clone() });
            record.claimed_actor.clone_from(&principal.claimed_actor);
        });
    }

    /// Writes down a command that [`Access`] has refused, without waiting. Outcome and reason of `command` are replaced.
    pub fn record_denied(&self, access: &Access, metadata: &MetadataMap, extensions: &Extensions, denied: &Denied, command: &Command<'_>) {
        let peer = Peer::of(extensions);
        let command = Command { outcome: code_name(denied.code()), reason: Some(denied.reason()), ..command.clone() };
        self.put(&command, |record| {
            record.caller = peer.as_ref().and_then(|peer| access.caller(peer)).unwrap_or_else(|| "unknown".to_owned());
            record.peer = peer.as_ref().map_or_else(|| "unknown".to_owned(), ToString::to_string);
            record.claimed_actor = claimed(metadata);
        });
    }

    fn put(&self, command: &Command<'_>, who: impl FnOnce(&mut Record)) {
        let mut record = Record {
            time: Timestamp::now(),
            caller: String::new(),
            peer: String::new(),
            actor: None,
            claimed_actor: None,
            method: command.method.to_owned(),
            domain: command.domain.map(ToString::to_string),
            objects: command.objects.iter().map(|object| (object.field.to_owned(), object.shown().into())).collect(),
            request_id: command.request_id.to_owned(),
            outcome: command.outcome.to_owned(),
            reason: command.reason.map(str::to_owned),
        };
        who(&mut record);
        if self.queue.try_send(Message::Write(Box::new(record))).is_ok() {
            self.written.inc();
        } else {
            self.dropped.inc();
            tracing::error!(method = command.method, request_id = command.request_id, "audit record dropped: the queue is full");
        }
    }

    /// Opens a file anew, after it was rotated.
    pub fn reopen(&self) {
        if self.queue.try_send(Message::Reopen).is_err() {
            tracing::warn!("audit file could not be opened anew: the queue is full");
        }
    }

    /// Waits until everything so far is written, but not for ever.
    pub async fn finish(&self, deadline: Duration) {
        let (sender, receiver) = oneshot::channel();
        let written = async {
            if self.queue.send(Message::Finish(sender)).await.is_ok() {
                // An error means that the thread has ended: nothing is left to be written.
                let _ = receiver.await;
            }
        };
        if tokio::time::timeout(deadline, written).await.is_err() {
            tracing::error!("audit records may be missing: they could not be written in time");
        }
    }
}

// === impl Object ===

impl Object<'_> {
    fn shown(&self) -> String {
        if self.sensitive { shortened(self.value) } else { self.value.to_owned() }
    }
}

/// A number or name of which only enough is left to recognise it by.
pub fn shortened(text: &str) -> String {
    let length = text.chars().count();
    let kept = if length >= 7 { 2 } else { usize::from(length >= 3) };
    let head: String = text.chars().take(kept).collect();
    let tail: String = text.chars().skip(length - kept).collect();
    format!("{head}…{tail}")
}

// === writing ===

impl Target {
    fn open(config: &config::Audit, journald: bool) -> io::Result<Self> {
        match (config.target, &config.file) {
            (AuditTarget::File, Some(path)) => Ok(Self::File { path: path.clone(), file: open(path)? }),
            (AuditTarget::Journald, _) => Self::journald(),
            (AuditTarget::Auto, _) if journald => Self::journald(),
            _ => Ok(Self::Log),
        }
    }

    /// A journald connection of its own, so that the log's filter cannot silence the audit.
    fn journald() -> io::Result<Self> {
        let layer = Told::connect(IDENTIFIER, FIELD_PREFIX)?;
        let subscriber = tracing_subscriber::registry().with(tracing_subscriber::filter::LevelFilter::INFO).with(layer);
        Ok(Self::Journald(Dispatch::new(subscriber)))
    }

    fn write(&mut self, record: &Record) -> io::Result<()> {
        match self {
            Self::File { file, .. } => {
                let mut line = serde_json::to_vec(record)?;
                line.push(b'\n');
                file.write_all(&line)
            }
            Self::Journald(dispatch) => {
                tracing::dispatcher::with_default(dispatch, || emit(record));
                Ok(())
            }
            Self::Log => {
                emit(record);
                Ok(())
            }
        }
    }
}

fn emit(record: &Record) {
    tracing::info!(
        target: "audit",
        caller = record.caller,
        peer = record.peer,
        actor = record.actor.as_ref().map(|actor| actor.subject.as_str()),
        issuer = record.actor.as_ref().map(|actor| actor.issuer.as_str()),
        claimed_actor = record.claimed_actor.as_deref(),
        method = record.method,
        domain = record.domain.as_deref(),
        objects = %serde_json::Value::Object(record.objects.clone()),
        request_id = record.request_id,
        outcome = record.outcome,
        reason = record.reason.as_deref(),
        "command"
    );
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

fn write_all(mut queue: mpsc::Receiver<Message>, mut target: Target, failed: &Counter) {
    while let Some(message) = queue.blocking_recv() {
        match message {
            Message::Write(record) => {
                if let Err(error) = target.write(&record) {
                    failed.inc();
                    tracing::error!(%error, method = record.method, request_id = record.request_id, "audit record could not be written");
                }
            }
            Message::Reopen => {
                if let Target::File { path, file } = &mut target {
                    match open(path) {
                        Ok(fresh) => *file = fresh,
                        Err(error) => tracing::error!(%error, path = %path.display(), "audit file could not be opened anew"),
                    }
                }
            }
            Message::Finish(done) => {
                // Nobody waits any more: the deadline has passed.
                let _ = done.send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sensitive_number_is_shortened_and_a_short_one_vanishes() {
        assert_eq!(shortened("79131234567"), "79…67");
        assert_eq!(shortened("1001"), "1…1");
        assert_eq!(shortened("12"), "…");
        assert_eq!(shortened("абонент"), "аб…нт");
    }
}
