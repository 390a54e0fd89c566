//! Devices and pushes for people. Ids are whole: those of devices begin with the time of their registration, and pushes cannot be listed
//! to find one by its beginning.

use elph_proto::v1::{
    AcceptedPush, Device, GetPushResponse, PushApp, PushClass, PushEnvironment, PushEvent, PushProvider, PushState, TestDeviceResponse,
};

use super::{Cell, Grid, Tone, clean, facts, full_time, left, short_time, since, stream_time, word};
use crate::output::Look;

/// Days before the end of a key or certificate from which it is to be noticed.
const SOON: i64 = 30;

/// The name of a provider.
pub(crate) fn provider(provider: PushProvider) -> &'static str {
    match provider {
        PushProvider::Apns => "APNs",
        PushProvider::Fcm => "FCM",
        PushProvider::Webpush => "web push",
        PushProvider::Unspecified => "",
    }
}

/// The word for a push's state.
pub(crate) fn state(state: PushState) -> String {
    word(state.as_str_name(), "PUSH_STATE_")
}

fn tone(state: PushState) -> Tone {
    match state {
        PushState::Accepted => Tone::Good,
        PushState::Retried | PushState::Expired | PushState::Dropped => Tone::Warn,
        PushState::TokenGone | PushState::Failed => Tone::Bad,
        _ => Tone::Plain,
    }
}

fn class(class: PushClass) -> String {
    word(class.as_str_name(), "PUSH_CLASS_")
}

/// A time to the millisecond, as `41 ms`, `1.2 s`.
pub(crate) fn took(duration: Option<prost_types::Duration>) -> String {
    let Some(duration) = duration else { return String::new() };
    let (seconds, milliseconds) = (duration.seconds.max(0), i64::from(duration.nanos / 1_000_000));
    if seconds == 0 { format!("{milliseconds} ms") } else { format!("{seconds}.{} s", milliseconds / 100) }
}

/// The configured applications.
pub(crate) fn apps(apps: &[PushApp], look: &Look) -> Grid {
    let mut grid =
        Grid::new(&[("APP", 0), ("PROVIDER", 0), ("CONNECTED", 0), ("DEVICES>", 0), ("WAITING>", 0), ("OLDEST>", 1), ("KEY ENDS", 2)]);
    for app in apps {
        let connected = match (app.connected, app.waiting) {
            (true, _) => Cell::toned("yes", Tone::Good),
            // Connections are made when there is something to send.
            (false, 0) => Cell::toned("no", Tone::Dim),
            (false, _) => Cell::toned("no", Tone::Bad),
        };
        let ends = app.expire_time.map(|time| (time.seconds - look.now.as_second()) / 86_400);
        let ends = match ends {
            Some(days) if days < 0 => Cell::toned(format!("ended {}", short_time(app.expire_time, look)), Tone::Bad),
            Some(days) if days < SOON => Cell::toned(format!("in {}", left(app.expire_time, look)), Tone::Warn),
            _ => short_time(app.expire_time, look).into(),
        };
        grid.row(vec![
            app.name.as_str().into(),
            provider(app.provider()).into(),
            connected,
            app.devices.to_string().into(),
            app.waiting.to_string().into(),
            since(app.oldest_waiting_time, look).into(),
            ends,
        ]);
    }
    grid
}

fn wants(device: &Device) -> &'static str {
    match (device.wants_calls, device.wants_messages) {
        (true, true) => "calls, messages",
        (true, false) => "calls",
        (false, true) => "messages",
        (false, false) => "nothing",
    }
}

fn environment(device: &Device) -> String {
    word(device.environment().as_str_name(), "PUSH_ENVIRONMENT_")
}

/// Devices. Several domains have a column.
pub(crate) fn devices(devices: &[Device], look: &Look) -> Grid {
    let several = devices.iter().any(|device| Some(&device.domain) != devices.first().map(|first| &first.domain));
    let mut grid = Grid::new(&[
        ("DEVICE", 0),
        ("DOMAIN", 2),
        ("ALIAS", 0),
        ("APP", 0),
        ("TOKEN", 1),
        ("WANTS", 3),
        ("LABEL", 4),
        ("ENVIRONMENT", 6),
        ("PLATFORM", 7),
        ("LOCALE", 8),
        ("REGISTERED", 5),
    ]);
    for device in devices {
        // What goes without saying is left out.
        let unusual = device.environment() == PushEnvironment::Development || look.wide;
        grid.row(vec![
            device.id.as_str().into(),
            if several || look.wide { device.domain.as_str() } else { "" }.into(),
            device.alias.as_str().into(),
            device.app.as_str().into(),
            device.token_end.as_str().into(),
            wants(device).into(),
            device.label.as_str().into(),
            if unusual { environment(device) } else { String::new() }.into(),
            device.platform.as_str().into(),
            device.locale.as_str().into(),
            short_time(device.register_time, look).into(),
        ]);
    }
    grid
}

/// One device.
pub(crate) fn device(device: &Device, look: &Look) -> Vec<String> {
    facts(&[
        ("Device", device.id.clone()),
        ("User", format!("{}@{}", device.alias, device.domain)),
        ("App", device.app.clone()),
        ("Provider", provider(device.provider()).to_owned()),
        ("Token", device.token_end.clone()),
        ("Environment", environment(device)),
        ("Platform", device.platform.clone()),
        ("Locale", device.locale.clone()),
        ("Label", device.label.clone()),
        ("Wants", wants(device).to_owned()),
        ("Registered", full_time(device.register_time, look)),
    ])
}

/// Pushes that were taken on.
pub(crate) fn accepted(pushes: &[AcceptedPush]) -> Grid {
    let mut grid = Grid::new(&[("PUSH", 0), ("DEVICE", 0)]);
    for push in pushes {
        grid.row(vec![push.push_id.as_str().into(), push.device_id.as_str().into()]);
    }
    grid
}

/// What a provider answered: a line, and then what it means.
pub(crate) fn test(answer: &TestDeviceResponse) -> (String, Tone) {
    let took = took(answer.duration);
    let said = if answer.reason.is_empty() { String::new() } else { format!(": {}", clean(&answer.reason)) };
    let line = match answer.state() {
        PushState::Accepted => format!("accepted in {took}"),
        PushState::Failed => format!("refused in {took}{said}"),
        PushState::TokenGone => format!("the token is gone{said} (answered in {took})"),
        PushState::Expired => format!("not delivered in {took}{said}"),
        PushState::Dropped => format!("dropped after {took}{said}"),
        _ => format!("no answer in {took}{said}"),
    };
    (line, tone(answer.state()))
}

/// What a push is, from its life.
pub(crate) fn push(answer: &GetPushResponse) -> Vec<String> {
    let first = answer.events.first().cloned().unwrap_or_default();
    let id = |event: &PushEvent| event.provider_id.clone();
    let provider_id = answer.events.iter().rev().map(id).find(|id| !id.is_empty()).unwrap_or_default();
    facts(&[
        ("Push", first.push_id.clone()),
        ("Domain", first.domain.clone()),
        ("Device", first.device_id.clone()),
        ("App", first.app.clone()),
        ("Class", class(first.push_class())),
        ("Provider's id", provider_id),
    ])
}

fn attempt(event: &PushEvent) -> String {
    if event.attempt == 0 { String::new() } else { event.attempt.to_string() }
}

/// The life of a push.
pub(crate) fn life(events: &[PushEvent], look: &Look) -> Grid {
    let mut grid = Grid::new(&[("TIME", 0), ("STATE", 0), ("ATTEMPT>", 1), ("PROVIDER SAYS", 0), ("NEXT", 1)]);
    for event in events {
        grid.row(vec![
            stream_time(event.time, look).into(),
            Cell::toned(state(event.state()), tone(event.state())),
            attempt(event).into(),
            event.reason.as_str().into(),
            short_time(event.retry_time, look).into(),
        ]);
    }
    grid
}

/// What became of a device's pushes.
pub(crate) fn deliveries(events: &[PushEvent], look: &Look) -> Grid {
    let mut grid = Grid::new(&[("TIME", 0), ("PUSH", 0), ("CLASS", 2), ("STATE", 0), ("ATTEMPT>", 3), ("PROVIDER SAYS", 1)]);
    for event in events {
        grid.row(vec![
            short_time(event.time, look).into(),
            event.push_id.as_str().into(),
            class(event.push_class()).into(),
            Cell::toned(state(event.state()), tone(event.state())),
            attempt(event).into(),
            event.reason.as_str().into(),
        ]);
    }
    grid
}

/// A step as a line of a stream.
pub(crate) fn line(event: &PushEvent, look: &Look) -> String {
    let time = Tone::Dim.paint(&format!("{:<12}", stream_time(event.time, look)), look.colour);
    let shown = tone(event.state()).paint(&format!("{:<10}", state(event.state())), look.colour);
    let mut parts = vec![clean(&event.app), class(event.push_class())];
    parts.push(if event.device_id.is_empty() { "topic".to_owned() } else { format!("device {}", clean(&event.device_id)) });
    if event.attempt > 1 {
        parts.push(format!("attempt {}", event.attempt));
    }
    if !event.reason.is_empty() {
        parts.push(clean(&event.reason));
    }
    if event.retry_time.is_some() {
        parts.push(format!("next at {}", stream_time(event.retry_time, look)));
    }
    parts.retain(|part| !part.is_empty());
    format!("{time}  {:<36}  {shown}  {}", clean(&event.push_id), parts.join(", "))
}

/// Steps that were missed, as a line of a stream.
pub(crate) fn missed(count: u64, look: &Look) -> String {
    let text = format!("{:<12}  {count} steps were missed: this reader was too slow; 'elphctl push log' tells them", "-");
    Tone::Warn.paint(&text, look.colour)
}
