//! What it costs to understand one message of each protocol, on one core. The messages are the simulator's, recorded off the wire.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bytes::BytesMut;
use ecss_call_api::{
    CallApi, CallApiConfig,
    frame::{Frame, Framing as CallApiFraming},
    session::{Session, SessionConfig},
};
use ecss_csta::{
    Csta, CstaConfig,
    frame::{Framing as CstaFraming, InvokeId},
    message::Incoming,
    observe::Observer,
};
use ecss_switch::{
    Dialect, Domain,
    connect::{Connect, Endpoint, TcpConnect},
    event::EventSink,
    link::{LinkCounters, LinkKind, LinkState, LinkStatus, Tap, Way},
};
use ecss_terminal::{CallsQuery, Terminal, TerminalConfig};
use secrecy::SecretString;
use ssw_sim::{Sim, SimOptions};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    busy::{self, Busy, Size},
    feed::{Clock, PATIENCE},
    report::{Better, Table, median, progress},
};

const RUNS: usize = 5;
const TIME: Duration = Duration::from_millis(300);
const SIZE: Size = Size { aliases: 1000, calls: 50, conferences: 5, members: 20 };
/// Records in the call history.
const HISTORY: usize = 1000;

/// Messages off the wire.
struct Recording {
    dialect: Arc<Dialect>,
    domain: Domain,
    alias_list: String,
    calls_history: String,
    call_api: Vec<String>,
    csta: Vec<String>,
}

pub(crate) async fn run() -> anyhow::Result<Table> {
    progress("codecs, recording");
    let recording = record().await?;
    progress("codecs, measuring");
    tokio::task::spawn_blocking(move || measured(&recording)).await?
}

fn measured(recording: &Recording) -> anyhow::Result<Table> {
    let mut table = Table::new("codecs");
    let documents = [("alias_list of 1,000", &recording.alias_list), ("calls_history of 1,000", &recording.calls_history)];
    for (name, document) in documents {
        let ours = speed(1, || {
            drop(std::hint::black_box(ecss_terminal::xml::parse(document.as_bytes())?));
            Ok(())
        })?;
        let reader = speed(1, || quick_xml_events(document))?;
        rows(&mut table, &format!("terminal, {name} ({} KiB)", document.len() / 1024), &ours, "quick-xml reader", &reader);
    }

    let settings = SessionConfig { domain: recording.domain.clone(), window: 64, half_open_after: Duration::from_secs(15) };
    let mut session = Session::<()>::new(settings, recording.dialect.clone(), Arc::<LinkCounters>::default());
    let now = Instant::now();
    session.opened(now);
    let frames = &recording.call_api;
    let ours = speed(frames.len(), || {
        for frame in frames {
            if std::hint::black_box(session.received(frame, now)).events.is_empty() {
                bail!("a frame held no event");
            }
        }
        Ok(())
    })?;
    let framing = CallApiFraming::of(&recording.dialect.call_api);
    let mut bodies = Vec::new();
    for frame in frames {
        let decoded = framing.decode(frame).map_err(|bad| bad.error)?;
        if let Frame::Event { body, .. } = decoded.frame {
            bodies.push(body.into_owned());
        }
    }
    let values = speed(bodies.len(), || {
        for body in &bodies {
            drop(std::hint::black_box(serde_json::from_str::<serde_json::Value>(body)?));
        }
        Ok(())
    })?;
    let average = frames.iter().map(String::len).sum::<usize>() / frames.len().max(1);
    rows(&mut table, &format!("Call API, event frame to observation ({average} octets)"), &ours, "serde_json Value", &values);

    let framing = CstaFraming::new(recording.dialect.csta.length);
    let mut wire = BytesMut::new();
    for body in &recording.csta {
        framing.encode(InvokeId::EVENT, body, &mut wire)?;
    }
    let mut observer = Observer::new(&recording.dialect, &recording.domain);
    let ours = speed(recording.csta.len(), || {
        let mut inbox = BytesMut::from(&wire[..]);
        while let Some(frame) = framing.decode(&mut inbox)? {
            let Incoming::Event(event) = Incoming::read(&frame.body)? else { bail!("a message is no event") };
            std::hint::black_box(observer.observe(&event, None)?);
        }
        Ok(())
    })?;
    let reader = speed(recording.csta.len(), || recording.csta.iter().try_for_each(|body| quick_xml_events(body)))?;
    let average = wire.len() / recording.csta.len().max(1);
    rows(&mut table, &format!("CSTA, event frame to observation ({average} octets)"), &ours, "quick-xml reader", &reader);

    table.note(format!("medians of {RUNS} runs of {TIME:?} on one thread; messages recorded from the simulator (seed 0)"));
    table.note("quick-xml reader: its events alone over the same text; serde_json Value: the JSON alone, no frame and no meaning");
    Ok(table)
}

fn rows(table: &mut Table, case: &str, ours: &Speed, rival: &'static str, theirs: &Speed) {
    table.row(case, "messages/s", Better::Higher, ours.per_second).beside(rival, theirs.per_second);
    table.row(case, "ns/message", Better::Lower, 1e9 / ours.per_second).beside(rival, 1e9 / theirs.per_second);
    table.row(case, "allocations/message", Better::Lower, ours.allocations).beside(rival, theirs.allocations);
}

struct Speed {
    per_second: f64,
    allocations: f64,
}

/// How fast `work` deals with its messages.
#[expect(clippy::cast_precision_loss, reason = "counts of a moment's work")]
fn speed(messages: usize, mut work: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Speed> {
    if messages == 0 {
        bail!("nothing was recorded");
    }
    let mut rates = Vec::new();
    for _ in 0..RUNS {
        let began = Instant::now();
        let mut done = 0_usize;
        while began.elapsed() < TIME {
            work()?;
            done += messages;
        }
        rates.push(done as f64 / began.elapsed().as_secs_f64());
    }
    let mut outcome = Ok(());
    let counted = allocation_counter::measure(|| outcome = work());
    outcome?;
    Ok(Speed { per_second: median(rates), allocations: counted.count_total as f64 / messages as f64 })
}

fn quick_xml_events(document: &str) -> anyhow::Result<()> {
    let mut reader = quick_xml::Reader::from_str(document);
    while !matches!(std::hint::black_box(reader.read_event()?), quick_xml::events::Event::Eof) {}
    Ok(())
}

// === recording ===

#[derive(Default)]
struct Recorder(Mutex<Vec<(LinkKind, String)>>);

impl Tap for Recorder {
    fn message(&self, link: LinkKind, way: Way, head: &str, body: &str) {
        if way == Way::Received {
            // The head of a Call API frame is a part of its text.
            let text = if link == LinkKind::CallApi { format!("{head}{body}") } else { body.to_owned() };
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push((link, text));
        }
    }
}

impl Recorder {
    fn take(&self, link: LinkKind) -> Vec<String> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = all.iter().filter(|(kind, _)| *kind == link).map(|(_, text)| text.clone()).collect();
        all.retain(|(kind, _)| *kind != link);
        taken
    }

    fn longest(&self, link: LinkKind) -> anyhow::Result<String> {
        self.take(link).into_iter().max_by_key(String::len).context("no message was recorded")
    }
}

async fn record() -> anyhow::Result<Recording> {
    let sim = Sim::start(SimOptions { aliases: SIZE.aliases, ..SimOptions::default() }).await?;
    let domain = Domain::parse("elph.local")?;
    let dialect = Arc::new(Dialect::with_overrides("sim", &sim.dialect_toml().parse()?)?);
    let (recorder, stop) = (Arc::new(Recorder::default()), CancellationToken::new());
    let tap: Arc<dyn Tap> = recorder.clone();
    let connect: Arc<dyn Connect> = Arc::new(TcpConnect::plain(Duration::from_secs(15)));
    let node = |address: std::net::SocketAddr| Endpoint::parse(&address.to_string()).context("an address is no endpoint");
    let secret = |text: &str| SecretString::from(text.to_owned());
    let (credentials, at) = (sim.credentials().clone(), sim.addresses());
    let (sink, _events) = EventSink::new(16_384);
    let (five, minute) = (Duration::from_secs(5), Duration::from_secs(60));

    let config = TerminalConfig {
        nodes: vec![node(at.terminal)?],
        login: credentials.user.clone(),
        password: secret(&credentials.password),
        half_open_after: minute,
        connect_timeout: five,
        command_timeout: minute,
        max_parallel: 8,
        fail_back_after: minute,
        seed: None,
    };
    let (terminal, terminal_task) =
        Terminal::start(config, dialect.clone(), connect.clone(), sink.clone(), Some(tap.clone()), stop.clone());
    let config = CallApiConfig {
        nodes: vec![node(at.call_api)?],
        domain: domain.clone(),
        login: credentials.user.clone(),
        password: secret(&credentials.password),
        half_open_after: minute,
        connect_timeout: five,
        command_timeout: minute,
        fail_back_after: minute,
        window: 64,
        seed: None,
    };
    let (call_api, call_api_task) = CallApi::start(config, dialect.clone(), connect.clone(), sink.clone(), Some(tap.clone()), stop.clone());
    let config = CstaConfig {
        nodes: vec![node(at.csta)?],
        domain: domain.clone(),
        password: secret(&credentials.csta_password),
        session_duration: minute * 5,
        half_open_after: minute,
        connect_timeout: five,
        command_timeout: minute,
        fail_back_after: minute,
        window: 256,
        seed: None,
    };
    let (csta, csta_task) = Csta::start(config, dialect.clone(), connect, sink, Some(tap), stop.clone());
    for status in [terminal.status(), call_api.status(), csta.status()] {
        up(status).await?;
    }

    let switch = sim.switch();
    let aliases = switch.aliases(domain.as_str(), 0, SIZE.aliases as usize)?;
    for pair in aliases.chunks_exact(2).cycle().take(HISTORY) {
        if let [from, to] = pair {
            let call = busy::talk(switch, domain.as_str(), from, to)?;
            switch.release_call(domain.as_str(), &call)?;
        }
    }
    recorder.take(LinkKind::Terminal);
    terminal.alias_list(&domain, None).await?;
    let alias_list = recorder.longest(LinkKind::Terminal)?;
    terminal.calls_history(&CallsQuery { limit: Some(u32::try_from(HISTORY)?), ..CallsQuery::of(domain.clone()) }).await?;
    let calls_history = recorder.longest(LinkKind::Terminal)?;

    busy::furnish(switch, domain.as_str(), SIZE)?;
    let devices = aliases.iter().take(2 * SIZE.calls).map(|alias| ecss_switch::Alias::parse(alias)).collect::<Result<Vec<_>, _>>()?;
    csta.watch_devices(devices).await;
    let mut monitored = csta.monitored();
    let all = monitored.wait_for(|progress| progress.wanted > 0 && progress.started >= progress.wanted);
    tokio::time::timeout(PATIENCE, all).await.context("monitors were not set in time")??;
    recorder.take(LinkKind::CallApi);
    recorder.take(LinkKind::Csta);
    let changes = Busy::of(switch, domain.as_str());
    for _ in 0..changes.round() {
        changes.change(Clock::start())?;
    }
    // Two monitors see each change of a leg.
    let (legs, members) = (2 * SIZE.calls, 2 * SIZE.conferences * SIZE.members);
    let (mut call_api_frames, mut csta_bodies) = (Vec::new(), Vec::new());
    let began = Instant::now();
    while call_api_frames.len() < members || csta_bodies.len() < 2 * legs {
        if began.elapsed() > PATIENCE {
            bail!("{} Call API frames and {} CSTA messages were recorded", call_api_frames.len(), csta_bodies.len());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        call_api_frames.extend(recorder.take(LinkKind::CallApi).into_iter().filter(|frame| frame.contains("_content")));
        csta_bodies.extend(recorder.take(LinkKind::Csta).into_iter().filter(|body| body.contains("Event")));
    }
    stop.cancel();
    for task in [terminal_task, call_api_task, csta_task] {
        tokio::time::timeout(PATIENCE, task).await.context("a link did not end")??;
    }
    sim.shutdown().await;
    Ok(Recording { dialect, domain, alias_list, calls_history, call_api: call_api_frames, csta: csta_bodies })
}

async fn up(mut status: watch::Receiver<LinkStatus>) -> anyhow::Result<()> {
    let waited = tokio::time::timeout(PATIENCE, status.wait_for(|status| status.state == LinkState::Up)).await;
    waited.context("a link did not come up in time")??;
    Ok(())
}
