//! The Call API of one domain at one node: login, cookies, WebSocket, frames. Where a read-only command fails, the dialect's other ways
//! to write a frame are tried, each in a session of its own.

use std::{sync::Arc, time::Duration};

use ecss_switch::{
    Dialect, Operation,
    connect::Endpoint,
    dialect::{Field, LengthUnit, Pad, TimeFormat, WebSocketKeepalive},
    event::EventSink,
};
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use mediator_client::call_api::{CallApi, CallApiConfig, frame::Framing, shape::EventTable, tree};
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Doctor, LEAVING, QUEUE,
    reach::speaks_tls,
    records::likeness,
    report::{Place, Setting},
    watch::{Seen, Watcher, open},
};
use crate::{config::SwitchDomain, own};

/// For an attempt in another way.
const ATTEMPT: Duration = Duration::from_secs(3);
/// Characters of a frame's header.
const HEADER: usize = 16;

struct Session {
    api: CallApi,
    watcher: Arc<Watcher>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Session {
    fn start(doctor: &Doctor, config: CallApiConfig, dialect: Arc<Dialect>) -> Self {
        let (watcher, stop) = (Watcher::new(), CancellationToken::new());
        let (sink, _) = EventSink::new(QUEUE);
        let (api, task) = CallApi::start(config, dialect, doctor.connectors.call_api.clone(), sink, Some(watcher.clone()), stop.clone());
        Self { api, watcher, stop, task }
    }

    async fn end(self) {
        self.stop.cancel();
        let _ = timeout(LEAVING, self.task).await;
    }
}

pub(super) async fn examine(doctor: &Doctor, node: &Endpoint, domain: &SwitchDomain, place: &mut Place) {
    let config = match own::call_api(&doctor.config, domain, vec![node.clone()]) {
        Some(Ok(config)) => config,
        Some(Err(problem)) => return place.wrong("password", problem.what, vec![Setting::key(problem.key)]),
        None => return place.skipped("login", "the domain has no Call API account"),
    };
    let dialect = doctor.dialect.clone();
    let session = Session::start(doctor, config.clone(), dialect.clone());
    if let Err(cause) = open(session.api.status(), config.connect_timeout * 2 + config.command_timeout).await {
        no_session(doctor, node, domain, &session.watcher, &cause, place).await;
        return session.end().await;
    }
    let cookies = session.watcher.last(|seen| seen.cookies().next().is_some());
    let names: Vec<&str> = cookies.iter().flat_map(Seen::cookies).collect();
    place.well("login", format!("cookies: {}", if names.is_empty() { "none".to_owned() } else { names.join(", ") }));
    match &dialect.call_api.websocket_path {
        Some(path) => place.well("WebSocket", format!("{path} is upgraded")),
        None => {
            let said = "the dialect knows no path: commands go over HTTP, and what happens is polled";
            place.advice("WebSocket", said, vec![Setting::unknown("call_api.websocket_path")]);
        }
    }
    commands(doctor, &config, &session, place).await;
    if dialect.call_api.websocket_path.is_some() {
        keepalive(&dialect, &session, place).await;
        frames(&dialect, domain, &session.watcher.all(), place);
    }
    session.end().await;
}

async fn no_session(doctor: &Doctor, node: &Endpoint, domain: &SwitchDomain, watcher: &Watcher, cause: &str, place: &mut Place) {
    let Some(answer) = watcher.last(Seen::received) else {
        let tls = doctor.config.switch.call_api.as_ref().is_some_and(|link| link.tls);
        let set = if !tls && speaks_tls(node).await { vec![Setting::value("switch.call_api.tls", true)] } else { Vec::new() };
        return place.wrong("login", format!("no answer: {cause}"), set);
    };
    let cookies: Vec<&str> = answer.cookies().collect();
    let wanted = doctor.dialect.call_api.session_cookie.as_deref();
    if cause.contains("set no cookie") && !cookies.is_empty() {
        let said = format!("the dialect waits for a cookie '{}'; the switch sets: {}", wanted.unwrap_or_default(), cookies.join(", "));
        let best = cookies.iter().max_by_key(|name| likeness("session", name) + likeness("api", name)).copied().unwrap_or_default();
        return place.wrong("cookies", said, vec![Setting::dialect("call_api.session_cookie", best)]);
    }
    if cause.contains("WebSocket") {
        return place.wrong("WebSocket", cause, vec![Setting::unknown("call_api.websocket_path")]);
    }
    if answer.head.starts_with("404") {
        let said = format!("{cause}: the path may be another one, or login and password are wrong");
        return place.wrong("login", said, vec![Setting::unknown("call_api.login_path"), Setting::unknown("call_api.login_attributes")]);
    }
    let key = format!("switch.domains (name = \"{}\").call_api", domain.name);
    let set = vec![
        Setting::key(format!("{key}.login")),
        Setting::key(format!("{key}.password_file")),
        Setting::unknown("call_api.login_attributes"),
    ];
    place.wrong("login", cause, set);
}

/// A read-only command, if the dialect has one, and the other ways to write its frame if it fails.
async fn commands(doctor: &Doctor, config: &CallApiConfig, session: &Session, place: &mut Place) {
    let dialect = &doctor.dialect;
    if dialect.operations.get(&Operation::CallList).is_none_or(|shape| shape.service == "terminal") {
        return place.skipped("commands", "the dialect names no command that only reads (operations.call_list)");
    }
    let Some(error) = session.api.list_calls().await.map(|legs| place.well("call_list", format!("{} legs", legs.len()))).err() else {
        return;
    };
    if dialect.call_api.websocket_path.is_some() {
        let (pad, unit) = (dialect.call_api.pad, dialect.call_api.length_unit);
        for (new_pad, new_unit) in [(other_pad(pad), unit), (pad, other_unit(unit)), (other_pad(pad), other_unit(unit))] {
            let mut other = (**dialect).clone();
            (other.call_api.pad, other.call_api.length_unit) = (new_pad, new_unit);
            let attempt = Session::start(doctor, CallApiConfig { command_timeout: ATTEMPT, ..config.clone() }, Arc::new(other));
            let works = match open(attempt.api.status(), config.connect_timeout + ATTEMPT).await {
                Ok(()) => attempt.api.list_calls().await.is_ok(),
                Err(_) => false,
            };
            attempt.end().await;
            if works {
                let mut set = Vec::new();
                if new_pad != pad {
                    set.push(pad_setting(new_pad));
                }
                if new_unit != unit {
                    set.push(unit_setting(new_unit));
                }
                return place.wrong("call_list", format!("{error}; it is answered when the frame is written in another way"), set);
            }
        }
    }
    let set = vec![Setting::unknown("operations.call_list"), Setting::unknown("call_api.name_prefix")];
    place.wrong("call_list", error.to_string(), set);
}

fn other_pad(pad: Pad) -> Pad {
    if pad == Pad::Nul { Pad::Space } else { Pad::Nul }
}

fn other_unit(unit: LengthUnit) -> LengthUnit {
    if unit == LengthUnit::Bytes { LengthUnit::Characters } else { LengthUnit::Bytes }
}

fn pad_setting(pad: Pad) -> Setting {
    Setting::dialect("call_api.pad", if pad == Pad::Nul { "nul" } else { "space" })
}

fn unit_setting(unit: LengthUnit) -> Setting {
    Setting::dialect("call_api.length_unit", if unit == LengthUnit::Bytes { "bytes" } else { "characters" })
}

async fn keepalive(dialect: &Dialect, session: &Session, place: &mut Place) {
    let patience = Duration::from_secs(u64::from(dialect.call_api.keepalive_interval_s) + 2);
    match &dialect.call_api.keepalive {
        WebSocketKeepalive::Ping => {
            let mut status = session.api.status();
            let lost = timeout(patience, status.wait_for(|now| now.state != ecss_switch::link::LinkState::Up)).await.is_ok();
            if lost {
                place.wrong("keep-alive", "the link did not survive it", vec![Setting::unknown("call_api.keepalive")]);
            } else {
                place.well("keep-alive", "the link lives with WebSocket pings");
            }
        }
        WebSocketKeepalive::Command { name } => {
            let id = session.watcher.wait(patience, |seen| !seen.received() && seen.head.contains(name.as_str())).await;
            let id = id.as_ref().and_then(|seen| seen.head.get(12..HEADER)).map(str::to_owned);
            let fits = |seen: &Seen| seen.received() && id.is_some() && seen.head.get(12..HEADER) == id.as_deref();
            match session.watcher.wait(Duration::from_secs(3), fits).await {
                Some(answer) if answer.head.get(HEADER..).is_some_and(|status| status.starts_with('2')) => {
                    place.well("keep-alive", format!("{name} is answered"));
                }
                Some(_) => place.wrong("keep-alive", format!("{name} is refused"), vec![Setting::unknown("call_api.keepalive")]),
                None => place.wrong("keep-alive", format!("{name} has no answer"), vec![Setting::unknown("call_api.keepalive")]),
            }
        }
    }
}

/// What the frames that came say about the dialect.
fn frames(dialect: &Dialect, domain: &SwitchDomain, seen: &[Seen], place: &mut Place) {
    let api = &dialect.call_api;
    let frames: Vec<&Seen> = seen.iter().filter(|seen| seen.received() && length(seen).is_some()).collect();
    if frames.is_empty() {
        return place.advice("frames", "none came; make a call and run this again", Vec::new());
    }
    let telling = frames.iter().filter(|frame| frame.octets != frame.characters);
    let units: Vec<Option<LengthUnit>> = telling
        .map(|frame| match length(frame) {
            Some(length) if length == frame.octets => Some(LengthUnit::Bytes),
            Some(length) if length == frame.characters => Some(LengthUnit::Characters),
            _ => None,
        })
        .collect();
    let of_plain = frames.iter().filter(|frame| frame.octets == frame.characters && length(frame) != Some(frame.octets)).count();
    match units.as_slice() {
        _ if of_plain > 0 => place.wrong("length", format!("{of_plain} frames have a length that is not theirs"), Vec::new()),
        [] => place.advice("length", "frames had only ASCII: whether bytes or characters are counted cannot be told", Vec::new()),
        units => match units.iter().flatten().find(|unit| **unit != api.length_unit) {
            Some(other) => place.wrong("length", "the length counts something else than the dialect says", vec![unit_setting(*other)]),
            None => place.well("length", "the length counts what the dialect says"),
        },
    }
    let sent: Vec<&str> = seen.iter().filter(|seen| !seen.received()).filter_map(|seen| seen.head.get(12..HEADER)).collect();
    let framing = Framing::of(api);
    let table = EventTable::new(Arc::new(dialect.clone()), domain.name.clone());
    let (mut events, mut unknown, mut lost) = (0, Vec::new(), 0);
    for frame in frames {
        let (Some(id), Some(rest)) = (frame.head.get(12..HEADER), frame.head.get(HEADER..)) else { continue };
        let field = rest.chars().count();
        if field == 3 && sent.contains(&id) && rest.bytes().all(|octet| octet.is_ascii_digit()) {
            continue;
        }
        events += 1;
        let text = format!("{}{}", frame.head, frame.body);
        let decoded = framing.decode(&text);
        let read = match decoded.as_ref().map(|decoded| &decoded.frame) {
            Ok(mediator_client::call_api::frame::Frame::Event { name, body }) => Some((name.as_deref(), body)),
            _ => None,
        };
        let Some((name, body)) = read else {
            let set = match field {
                3 => vec![event_frame("status", rest)],
                32 => vec![event_frame("request_id", id)],
                _ => vec![Setting::unknown("call_api.event_frame")],
            };
            return place.wrong("events", "an event comes in another frame than the dialect says", set);
        };
        if field == 32 && decoded.as_ref().is_ok_and(|decoded| decoded.flaws.padding) {
            let pad = if rest.ends_with('\0') { Pad::Nul } else { Pad::Space };
            return place.wrong("events", "the name field is filled with another character than the dialect says", vec![pad_setting(pad)]);
        }
        let Ok(roots) = tree::from_json(body) else { continue };
        if let Some(problem) = time(dialect, &roots) {
            return place.wrong("event times", problem.0, problem.1);
        }
        let reading = table.read(name, &roots);
        lost += reading.lost;
        if reading.unknown {
            let name = name.map(str::to_owned).or_else(|| roots.first().map(|root| root.local_name().to_owned()));
            unknown.extend(name.filter(|name| !unknown.contains(name)));
        }
    }
    if lost > 0 {
        let set = vec![Setting::unknown("events"), Setting::unknown("words")];
        place.wrong("events", format!("{lost} records of events are not understood"), set);
    }
    if !unknown.is_empty() {
        let said = format!("events that the dialect does not name: {}", unknown.join(", "));
        place.advice("events", said, vec![Setting::unknown("events")]);
    }
    if events == 0 {
        place.advice("events", "none came; make a call meanwhile and run this again", Vec::new());
    } else if lost == 0 && unknown.is_empty() {
        place.well("events", format!("{events} events came in the dialect's frame"));
    }
}

fn event_frame(kind: &str, text: &str) -> Setting {
    let table: toml::Table = [("kind".to_owned(), kind.into()), (kind.to_owned(), text.into())].into_iter().collect();
    Setting::dialect("call_api.event_frame", table)
}

/// The length in a frame's header; `None` where the message is no frame.
fn length(seen: &Seen) -> Option<usize> {
    let digits = seen.head.strip_prefix("01")?.get(..10)?;
    digits.parse().ok().filter(|_| digits.bytes().all(|octet| octet.is_ascii_digit()))
}

/// An event tells when it happened, and that is now: its format and offset show.
fn time(dialect: &Dialect, roots: &[tree::Element<'_>]) -> Option<(String, Vec<Setting>)> {
    let attributes = dialect.events.values().filter_map(|event| event.fields.get(&Field::At));
    let text = attributes.into_iter().find_map(|name| roots.iter().find_map(|root| root.find_attribute(name)))?.trim().to_owned();
    let (format, word, civil) = format_of(&text)?;
    if format != dialect.call_api.time_format {
        let mut set = vec![Setting::dialect("call_api.time_format", word)];
        set.extend(civil.and_then(offset).map(|minutes| Setting::dialect("call_api.utc_offset_minutes", minutes)));
        return Some(("times come in another format than the dialect says".to_owned(), set));
    }
    let minutes = civil.and_then(offset)?;
    let configured = i64::from(dialect.call_api.utc_offset_minutes);
    (minutes != configured).then(|| {
        let said = format!("an event of now is told with an offset of {minutes} minutes, not of {configured}");
        (said, vec![Setting::dialect("call_api.utc_offset_minutes", minutes)])
    })
}

fn format_of(text: &str) -> Option<(TimeFormat, &'static str, Option<DateTime>)> {
    if let Ok(at) = DateTime::strptime("%Y/%m/%d %H:%M:%S", text) {
        return Some((TimeFormat::YmdSlash, "ymd_slash", Some(at)));
    }
    if let Some(at) = super::records::civil(text) {
        return Some((TimeFormat::DmyDot, "dmy_dot", Some(at)));
    }
    (text.len() == 13 && text.bytes().all(|octet| octet.is_ascii_digit())).then_some((TimeFormat::UnixMs, "unix_ms", None))
}

/// Minutes that a clock which shows this now is ahead of UTC, to the quarter of an hour.
fn offset(there: DateTime) -> Option<i64> {
    let there = TimeZone::UTC.to_timestamp(there).ok()?.as_second();
    Some((there - Timestamp::now().as_second() + 450).div_euclid(900) * 15)
}
