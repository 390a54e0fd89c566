//! `elph-agent record`: follows every configured link in sessions of its own and writes the exchange to a file, without secrets and,
//! where asked for, without real numbers.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use ecss_switch::{
    event::EventSink,
    link::{LinkKind, Tap, Way},
};
use mediator_client::{
    call_api::CallApi,
    csta::Csta,
    terminal::{CallsKind, CallsQuery, Terminal},
};
use rand::Rng;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::{Config, Problem},
    link::Connectors,
    own,
    record::{Outcome, Recorder},
};

/// Events that wait; the recording is made before them.
const QUEUE: usize = 16;
/// How long the sessions may take to be left.
const LEAVING: Duration = Duration::from_secs(5);
/// How often it is said how far the recording is.
const PROGRESS: Duration = Duration::from_secs(5);
/// How often the lists are read.
const LISTS: Duration = Duration::from_secs(10);
/// Calls in each reading of the history.
const CALLS: u32 = 200;
/// Digits from which on a number is taken for somebody's.
const NUMBER: usize = 3;

/// What to record.
#[derive(Debug, Clone)]
pub struct Options {
    /// The file; it must not exist.
    pub output: PathBuf,
    /// How long.
    pub time: Duration,
    /// Most bytes.
    pub most_bytes: u64,
    /// Whether numbers are replaced.
    pub pseudonymise: bool,
}

/// Why nothing was recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file cannot be begun or finished.
    #[error("{path}: {source}")]
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A link cannot be opened with this configuration.
    #[error("{0}")]
    Config(String),
}

/// Records until the time is over, the file is full or `stop` is cancelled. `told` is called from time to time.
pub async fn run(config: &Config, options: &Options, stop: CancellationToken, told: impl Fn(&Outcome)) -> Result<Outcome, RecordError> {
    let file = |source| RecordError::File { path: options.output.clone(), source };
    let refused = |problem: Problem| RecordError::Config(format!("{}: {}", problem.key, problem.what));
    let dialect = Arc::new(config.switch.dialect().map_err(refused)?);
    let connectors = Connectors::from_config(config).map_err(|error| RecordError::Config(error.to_string()))?;
    let recorder = Arc::new(Recorder::create(&options.output, options.most_bytes).map_err(file)?);
    let tap: Arc<dyn Tap> = match options.pseudonymise {
        true => Arc::new(Pseudonymiser::new(recorder.clone())),
        false => recorder.clone(),
    };
    let (leave, tasks) = (CancellationToken::new(), TaskTracker::new());
    let sink = || EventSink::new(QUEUE).0;
    let mut terminal = None;
    if let Some(link) = &config.switch.terminal
        && let Some(settings) = own::terminal(config, link.nodes.clone())
    {
        let settings = settings.map_err(refused)?;
        let (handle, task) =
            Terminal::start(settings, dialect.clone(), connectors.terminal.clone(), sink(), Some(tap.clone()), leave.clone());
        tasks.spawn(task);
        terminal = Some(handle);
    }
    let mut devices = Vec::new();
    for domain in &config.switch.domains {
        if let Some(link) = &config.switch.call_api
            && let Some(settings) = own::call_api(config, domain, link.nodes.clone())
        {
            let settings = settings.map_err(refused)?;
            let (_, task) =
                CallApi::start(settings, dialect.clone(), connectors.call_api.clone(), sink(), Some(tap.clone()), leave.clone());
            tasks.spawn(task);
        }
        if let Some(link) = &config.switch.csta
            && let Some(settings) = own::csta(config, domain, link.nodes.clone())
        {
            let settings = settings.map_err(refused)?;
            let (csta, task) = Csta::start(settings, dialect.clone(), connectors.csta.clone(), sink(), Some(tap.clone()), leave.clone());
            tasks.spawn(task);
            csta.watch_devices(config.calls.monitored.clone()).await;
            devices.push((domain.name.clone(), csta));
        }
    }
    let until = Instant::now() + options.time;
    let mut ticks = interval_at(Instant::now() + PROGRESS, PROGRESS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let full = || {
        let outcome = recorder.outcome();
        outcome.left_out > 0 || outcome.failed.is_some()
    };
    let lists = lists(config, terminal, devices);
    let mut lists = std::pin::pin!(lists);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep_until(until) => break,
            () = &mut lists => {}
            _ = ticks.tick() => {
                told(&recorder.outcome());
                if full() {
                    break;
                }
            }
        }
    }
    leave.cancel();
    tasks.close();
    // What has not ended by then is dropped with the runtime.
    let _ = timeout(LEAVING, tasks.wait()).await;
    recorder.finish().map_err(file)
}

/// Reads the lists again and again; of each domain's aliases once, for CSTA to monitor them. Never ends.
async fn lists(config: &Config, terminal: Option<Terminal>, devices: Vec<(ecss_switch::Domain, Csta)>) {
    let mut monitored = !config.calls.monitored.is_empty();
    let Some(terminal) = terminal else { return std::future::pending().await };
    let mut ticks = tokio::time::interval(LISTS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for domain in config.switch.domains.iter().map(|domain| &domain.name) {
            // A refusal is part of the recording, as everything is.
            let aliases = if monitored { None } else { terminal.alias_list(domain, None).await.ok() };
            if let (Some(aliases), Some((_, csta))) = (aliases, devices.iter().find(|(name, _)| name == domain)) {
                csta.watch_devices(aliases.into_iter().map(|record| record.address).collect()).await;
            }
            for kind in [CallsKind::Active, CallsKind::All] {
                let _ = terminal.calls_history(&CallsQuery { kind, limit: Some(CALLS), ..CallsQuery::of(domain.clone()) }).await;
            }
            let _ = terminal.conference_list(domain).await;
            let _ = terminal.meetings(domain, None).await;
            let _ = terminal.rooms(domain).await;
        }
        monitored = true;
    }
}

/// Replaces numbers on their way into a recording: the same number always by the same other one, in this recording only.
struct Pseudonymiser {
    to: Arc<Recorder>,
    key: [u8; 32],
}

impl Pseudonymiser {
    fn new(to: Arc<Recorder>) -> Self {
        Self { to, key: rand::rng().random() }
    }
}

impl Tap for Pseudonymiser {
    fn message(&self, link: LinkKind, way: Way, head: &str, body: &str) {
        self.to.message(link, way, head, &pseudonymised(&self.key, body));
    }
}

/// The text with every number of `NUMBER` digits and more replaced by another of the same length. Times, addresses of name spaces and
/// words that have digits in them stay.
fn pseudonymised(key: &[u8; 32], text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut before = ' ';
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit() || c == 'h') {
        let (plain, tail) = rest.split_at_checked(at).unwrap_or((rest, ""));
        out.push_str(plain);
        before = plain.chars().next_back().unwrap_or(before);
        let length = match tail.starts_with("http://") || tail.starts_with("https://") {
            true => tail.find(['"', '\'', '<', ' ']).unwrap_or(tail.len()),
            false if tail.starts_with('h') => 1,
            false => tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len()),
        };
        let (token, behind) = tail.split_at_checked(length).unwrap_or((tail, ""));
        let after = behind.chars().next().unwrap_or(' ');
        if token.starts_with('h') || token.len() < NUMBER || is_part(before, after, behind, token) {
            out.push_str(token);
        } else {
            out.push_str(&other_number(key, token));
        }
        before = token.chars().next_back().unwrap_or(before);
        rest = behind;
    }
    out.push_str(rest);
    out
}

/// Whether these digits belong to a word, a date or a time.
fn is_part(before: char, after: char, behind: &str, token: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let digit_next = behind.chars().nth(1).is_some_and(|c| c.is_ascii_digit());
    let year = token.len() == 4 && (before == '.' || (matches!(after, '/' | '-') && digit_next));
    // Seconds or milliseconds since 1970, in this century's first half.
    let epoch = matches!(token.len(), 10 | 13) && (token.starts_with("16") || token.starts_with("17") || token.starts_with("18"));
    word(before) || word(after) || year || epoch || (before == '.' && token.len() <= 6)
}

fn other_number(key: &[u8; 32], number: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(key);
    hash.update(number.as_bytes());
    let hash = hash.finalize();
    let digits = hash.iter().cycle().take(number.len()).map(|octet| char::from(b'0' + octet % 10));
    // No leading zero where there was none: some switches take it for a prefix.
    digits.enumerate().map(|(at, digit)| if at == 0 && digit == '0' && !number.starts_with('0') { '1' } else { digit }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_replaced_the_same_way_each_time_and_times_stay() {
        let key = [7; 32];
        let text = r#"<call xmlns="http://x.org/2001/a" from="1001" to="+79131234567" start="24.11.2026 10:05:09" at="2026/11/24 10:05:09" epoch="1795503909" n="N&lt;1001&gt;" id="c1001" sip="sip:1001@biysk.local"/>"#;
        let replaced = pseudonymised(&key, text);
        assert_eq!(replaced.len(), text.len());
        assert!(!replaced.contains("\"1001\"") && !replaced.contains("79131234567") && !replaced.contains(":1001@"), "{replaced}");
        for kept in ["http://x.org/2001/a", "24.11.2026 10:05:09", "2026/11/24 10:05:09", "1795503909", "c1001"] {
            assert!(replaced.contains(kept), "{kept} in {replaced}");
        }
        let other = other_number(&key, "1001");
        assert_eq!(replaced.matches(&other).count(), 3);
        assert_ne!(other_number(&[8; 32], "1001"), other);
    }
}
