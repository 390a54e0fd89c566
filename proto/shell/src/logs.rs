//! Logs: structured, to journald by its native protocol under systemd, JSON or text on standard error elsewhere. A request's id is a
//! field of its span (`journalctl ELPH_REQUEST_ID=…`).

use std::io::IsTerminal;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing_subscriber::{EnvFilter, Registry, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt};

use crate::{config::Problem, journald::Told};

/// What journald's fields of ours begin with.
pub const FIELD_PREFIX: &str = "ELPH";

/// The log.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// "auto" writes to journald when systemd has connected the agent to it, and text otherwise.
    pub format: LogFormat,
    /// What is logged: a level, or targets with levels: "info,elph_agent=debug".
    pub filter: String,
}

/// The log's form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Journald under systemd, text elsewhere.
    Auto,
    /// Journald's native protocol, each field by name.
    Journald,
    /// One JSON object a line on standard error.
    Json,
    /// Text for people on standard error.
    Text,
}

/// The log in use.
pub struct LogHandle {
    /// None when somebody else has set up the process's log.
    filter: Option<reload::Handle<EnvFilter, Registry>>,
    /// Whether it goes to journald.
    pub journald: bool,
}

/// Why the log cannot be begun.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `log.format = "journald"` without a journald.
    #[error("journald cannot be reached")]
    Journald(#[source] std::io::Error),
    /// Another log is in use in this process.
    #[error("the process has a log already")]
    Twice,
    /// The filter cannot be understood, or the log has gone.
    #[error("the log's filter cannot be set")]
    Filter,
}

/// Begins to log, in journald under this identifier.
pub fn init(identifier: &str, log: &Log) -> Result<LogHandle, LogError> {
    let filter = EnvFilter::builder().parse(&log.filter).map_err(|_| LogError::Filter)?;
    let (filter, handle) = reload::Layer::new(filter);
    let format = match log.format {
        LogFormat::Auto if connected_to_journald() => LogFormat::Journald,
        LogFormat::Auto => LogFormat::Text,
        chosen => chosen,
    };
    let journald = match format {
        LogFormat::Journald => Some(Told::connect(identifier, FIELD_PREFIX).map_err(LogError::Journald)?),
        _ => None,
    };
    let json = (format == LogFormat::Json).then(|| fmt::layer().json().flatten_event(true).with_writer(std::io::stderr));
    let text = (format == LogFormat::Text).then(|| fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr));
    let to_journald = journald.is_some();
    let subscriber = Registry::default().with(filter).with(journald).with(json).with(text);
    subscriber.try_init().map_err(|_| LogError::Twice)?;
    Ok(LogHandle { filter: Some(handle), journald: to_journald })
}

// === impl Log ===

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Auto, filter: "info".to_owned() }
    }
}

impl Log {
    /// What its type cannot say.
    pub fn check(&self, problems: &mut Vec<Problem>) {
        if let Err(error) = EnvFilter::builder().parse(&self.filter) {
            let what =
                format!("is no filter ({error}); must be a level (error, warn, info, debug, trace) or target=level, with commas between");
            problems.push(Problem::new("log.filter", what));
        }
    }
}

// === impl LogHandle ===

impl LogHandle {
    /// For programs inside a process whose log is not theirs: tests and the demo.
    pub fn detached() -> Self {
        Self { filter: None, journald: false }
    }

    /// Changes what is logged.
    pub fn set_filter(&self, filter: &str) -> Result<(), LogError> {
        let filter = EnvFilter::builder().parse(filter).map_err(|_| LogError::Filter)?;
        self.filter.as_ref().map_or(Ok(()), |handle| handle.reload(filter)).map_err(|_| LogError::Filter)
    }
}

/// The span of one request: everything logged inside carries its id.
pub fn request_span(method: &str, request_id: &str) -> tracing::Span {
    tracing::info_span!("request", method, request_id)
}

/// Whether standard error is the stream that systemd has connected to journald (`$JOURNAL_STREAM`, systemd.exec(5)).
fn connected_to_journald() -> bool {
    let Some(stream) = std::env::var_os("JOURNAL_STREAM").and_then(|text| text.into_string().ok()) else { return false };
    let Ok(found) = nix::sys::stat::fstat(std::io::stderr()) else { return false };
    stream_is(&stream, found.st_dev, found.st_ino)
}

fn stream_is(stream: &str, device: u64, inode: u64) -> bool {
    stream.split_once(':').is_some_and(|(dev, ino)| dev.parse() == Ok(device) && ino.parse() == Ok(inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journald_is_recognised_by_device_and_inode() {
        assert!(stream_is("9:33021", 9, 33021));
        for other in ["9:33022", "8:33021", "", "9", "a:b"] {
            assert!(!stream_is(other, 9, 33021), "{other}");
        }
    }
}
