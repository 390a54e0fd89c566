//! A small cluster for the simulated network: two nodes over one state, each with an HTTP terminal and a CSTA adapter. Written from
//! ecss10-interfaces.md §1 and §3 with plain text search, so that it shares no reading with the agent's own codecs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
};

use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{mpsc, watch},
};

pub(crate) const DOMAIN: &str = "biysk.local";

/// The cluster's subscribers.
pub(crate) const DEVICES: std::ops::Range<u32> = 1000..1012;

/// Where a leg is, as CSTA's `localConnectionInfo` says it.
pub(crate) type Leg = &'static str;

#[derive(Default)]
pub(crate) struct State {
    /// Devices and their states, by call.
    pub(crate) calls: BTreeMap<String, BTreeMap<String, Leg>>,
    /// Members and whether they have a microphone, by conference.
    pub(crate) conferences: BTreeMap<String, BTreeMap<String, bool>>,
    count: u32,
    /// Each node's HTTP sessions.
    sessions: BTreeSet<u64>,
    logins: u64,
    /// The CSTA connections: what goes out, and what they monitor.
    adapters: Vec<(mpsc::Sender<Vec<u8>>, BTreeSet<String>)>,
}

/// The protocols that the cluster speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Terminal,
    Csta,
}

/// The cluster; cheap to clone.
#[derive(Clone)]
pub(crate) struct World {
    state: Arc<Mutex<State>>,
    /// The protocol that is out of order on both nodes.
    broken: Arc<watch::Sender<Option<Protocol>>>,
}

impl Default for World {
    fn default() -> Self {
        Self { state: Arc::default(), broken: Arc::new(watch::channel(None).0) }
    }
}

fn inside<'t>(text: &'t str, element: &str) -> &'t str {
    let Some((_, rest)) = text.split_once(&format!("<{element}")) else { return "" };
    let Some((_, rest)) = rest.split_once('>') else { return "" };
    rest.split_once(&format!("</{element}>")).map_or("", |(inside, _)| inside)
}

fn frame(id: &str, body: &str) -> Vec<u8> {
    let length = u16::try_from(body.len() + 8).unwrap();
    [&[0, 0], &length.to_be_bytes()[..], id.as_bytes(), body.as_bytes()].concat()
}

impl World {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Closes every connection of a protocol, and new ones at once, until it is mended.
    pub(crate) fn break_down(&self, protocol: Option<Protocol>) {
        self.broken.send_replace(protocol);
    }

    /// Serves a connection for as long as its protocol is in order.
    pub(crate) async fn serve(self, protocol: Protocol, io: impl AsyncRead + AsyncWrite + Unpin) {
        let mut broken = self.broken.subscribe();
        let serving = async {
            match protocol {
                Protocol::Terminal => self.clone().serve_terminal(io).await,
                Protocol::Csta => self.clone().serve_csta(io).await,
            }
        };
        tokio::select! {
            () = serving => {}
            _ = broken.wait_for(|broken| *broken == Some(protocol)) => {}
        }
        self.state().adapters.retain(|(out, _)| !out.is_closed());
    }

    // --- what people do

    /// Something that happens by chance.
    pub(crate) fn live(&self, rng: &mut SmallRng) {
        let mut state = self.state();
        let call = state.calls.keys().cloned().collect::<Vec<_>>().choose(rng).cloned();
        match (rng.random_range(0..10), call) {
            (0..=3, _) => state.ring(rng),
            (4..=5, Some(call)) => state.answer(&call),
            (6, Some(call)) => state.hold(&call),
            (7..=8, Some(call)) => state.hang_up(&call),
            _ => state.meet(rng),
        }
    }

    /// Everybody hangs up but these many.
    pub(crate) fn quieten(&self, most: usize) {
        let mut state = self.state();
        while let Some(call) = state.calls.keys().nth(most).cloned() {
            state.hang_up(&call);
        }
    }
}

impl State {
    fn ring(&mut self, rng: &mut SmallRng) {
        let busy: BTreeSet<&String> = self.calls.values().flat_map(BTreeMap::keys).collect();
        let mut free: Vec<String> = DEVICES.map(|device| device.to_string()).filter(|device| !busy.contains(device)).collect();
        if free.len() < 2 {
            return;
        }
        let to = free.swap_remove(rng.random_range(0..free.len()));
        let from = free.swap_remove(rng.random_range(0..free.len()));
        self.count += 1;
        let call = format!("c{}", self.count);
        self.calls.insert(call.clone(), [(from.clone(), "connected"), (to.clone(), "alerting")].into());
        let parties = parties(&from, &to);
        let originated = connection("originatedConnection", &call, &from);
        self.tell(&[&from, &to], "OriginatedEvent", &format!("{originated}{parties}"));
        self.tell(
            &[&from, &to],
            "DeliveredEvent",
            &format!("{}<alertingDevice>{}</alertingDevice>{parties}", connection("connection", &call, &to), device(&to)),
        );
    }

    fn answer(&mut self, call: &str) {
        let Some(legs) = self.calls.get_mut(call) else { return };
        let Some(to) = legs.iter().find(|(_, state)| **state == "alerting").map(|(device, _)| device.clone()) else { return };
        legs.insert(to.clone(), "connected");
        let from = legs.keys().find(|device| **device != to).cloned().unwrap_or_default();
        let body = format!(
            "{}<answeringDevice>{}</answeringDevice>{}",
            connection("establishedConnection", call, &to),
            device(&to),
            parties(&from, &to)
        );
        self.tell(&[&from, &to], "EstablishedEvent", &body);
    }

    fn hold(&mut self, call: &str) {
        let Some(legs) = self.calls.get_mut(call) else { return };
        let devices: Vec<String> = legs.keys().cloned().collect();
        let Some((holder, state)) = legs.iter_mut().find(|(_, state)| **state != "alerting") else { return };
        let (event, part, who) = match *state {
            "hold" => ("RetrievedEvent", "retrievedConnection", "retrievingDevice"),
            _ => ("HeldEvent", "heldConnection", "holdingDevice"),
        };
        *state = if *state == "hold" { "connected" } else { "hold" };
        let body = format!("{}<{who}>{}</{who}>", connection(part, call, holder), device(holder));
        let devices: Vec<&str> = devices.iter().map(String::as_str).collect();
        self.tell(&devices, event, &body);
    }

    fn hang_up(&mut self, call: &str) {
        let Some(legs) = self.calls.remove(call) else { return };
        let devices: Vec<&str> = legs.keys().map(String::as_str).collect();
        for gone in &devices {
            let body = format!(
                "{}<releasingDevice>{}</releasingDevice><localConnectionInfo>null</localConnectionInfo><cause>normalClearing</cause>",
                connection("droppedConnection", call, gone),
                device(gone)
            );
            self.tell(&devices, "ConnectionClearedEvent", &body);
        }
    }

    fn meet(&mut self, rng: &mut SmallRng) {
        let name = format!("room{}", rng.random_range(0..3));
        let number = rng.random_range(DEVICES).to_string();
        let members = self.conferences.entry(name.clone()).or_default();
        match members.remove(&number) {
            Some(true) => drop(members.insert(number, false)),
            Some(false) => {}
            None => drop(members.insert(number, true)),
        }
        if members.is_empty() {
            self.conferences.remove(&name);
        }
    }

    /// An event goes to whoever monitors one of the devices, once for each monitor.
    fn tell(&mut self, devices: &[&str], event: &str, body: &str) {
        for (out, monitors) in &self.adapters {
            for device in devices.iter().filter(|device| monitors.contains(**device)) {
                let text = format!("<{event}><monitorCrossRefID>m{device}</monitorCrossRefID>{body}</{event}>");
                // A connection that takes no more loses events, as a real one does.
                let _ = out.try_send(frame("9999", &text));
            }
        }
    }
}

fn connection(element: &str, call: &str, device: &str) -> String {
    format!("<{element}><callID>{call}</callID><deviceID>{device}</deviceID></{element}>")
}

fn device(number: &str) -> String {
    format!("<deviceIdentifier>{number}</deviceIdentifier>")
}

fn parties(from: &str, to: &str) -> String {
    format!("<callingDevice>{}</callingDevice><calledDevice>{}</calledDevice>", device(from), device(to))
}

// --- CSTA

impl World {
    async fn serve_csta(self, io: impl AsyncRead + AsyncWrite + Unpin) {
        let (mut input, mut output) = tokio::io::split(io);
        let (out, mut answers) = mpsc::channel::<Vec<u8>>(256);
        self.state().adapters.push((out.clone(), BTreeSet::new()));
        let mut inbox = Vec::new();
        loop {
            tokio::select! {
                answer = answers.recv() => {
                    let Some(octets) = answer else { break };
                    if output.write_all(&octets).await.is_err() {
                        break;
                    }
                }
                read = input.read_buf(&mut inbox) => {
                    if !matches!(read, Ok(1..)) {
                        break;
                    }
                    while inbox.len() >= 8 {
                        let length = usize::from(u16::from_be_bytes([inbox[2], inbox[3]]));
                        if inbox.len() < length {
                            break;
                        }
                        let message: Vec<u8> = inbox.drain(..length).collect();
                        let (id, body) = (std::str::from_utf8(&message[4..8]).unwrap(), std::str::from_utf8(&message[8..]).unwrap());
                        let answer = self.csta(body, &out);
                        if output.write_all(&frame(id, &answer)).await.is_err() {
                            return self.leave(&out);
                        }
                    }
                }
            }
        }
        self.leave(&out);
    }

    fn leave(&self, out: &mpsc::Sender<Vec<u8>>) {
        self.state().adapters.retain(|(known, _)| !known.same_channel(out));
    }

    fn csta(&self, body: &str, out: &mpsc::Sender<Vec<u8>>) -> String {
        let mut state = self.state();
        let after_declaration = body.split_once("?>").map_or(body, |(_, rest)| rest);
        let root = after_declaration.trim_start_matches('<').split([' ', '>', '/']).next().unwrap();
        match root {
            "keepalive" => "<keepalive />".to_owned(),
            "StartApplicationSession" => "<StartApplicationSessionPosResponse><sessionID>s</sessionID>\
                 <actualSessionDuration>300</actualSessionDuration></StartApplicationSessionPosResponse>"
                .to_owned(),
            "ResetApplicationSessionTimer" | "StopApplicationSession" => format!("<{root}PosResponse/>"),
            "MonitorStart" => {
                let device = inside(body, "deviceObject").to_owned();
                let answer = format!("<MonitorStartResponse><monitorCrossRefID>m{device}</monitorCrossRefID></MonitorStartResponse>");
                for (_, monitors) in state.adapters.iter_mut().filter(|(known, _)| known.same_channel(out)) {
                    monitors.insert(device.clone());
                }
                answer
            }
            "SnapshotDevice" => {
                let device = inside(body, "snapshotObject");
                let device = if device.contains('<') { inside(device, "deviceIdentifier") } else { device };
                let of_device = |(call, legs): (&String, &BTreeMap<String, Leg>)| {
                    let state = legs.get(device)?;
                    Some(format!(
                        "<snapshotDeviceResponseInfo>{}<localCallState><compoundCallState><localConnectionState>{state}</localConnectionState>\
                         </compoundCallState></localCallState></snapshotDeviceResponseInfo>",
                        connection("connectionIdentifier", call, device)
                    ))
                };
                let found: String = state.calls.iter().filter_map(of_device).collect();
                format!(
                    "<SnapshotDeviceResponse><crossRefIDorSnapshotData><snapshotData>{found}</snapshotData></crossRefIDorSnapshotData></SnapshotDeviceResponse>"
                )
            }
            "SnapshotCall" => {
                let call = inside(body, "callID");
                let Some(legs) = state.calls.get(call) else {
                    return "<CSTAErrorCode><operation>invalidCallID</operation></CSTAErrorCode>".to_owned();
                };
                let leg = |(number, state): (&String, &Leg)| {
                    format!(
                        "<snapshotCallResponseInfo><deviceOnCall>{}</deviceOnCall>{}<localConnectionInfo>{state}</localConnectionInfo>\
                         </snapshotCallResponseInfo>",
                        device(number),
                        connection("callIdentifier", call, number)
                    )
                };
                let legs: String = legs.iter().map(leg).collect();
                format!(
                    "<SnapshotCallResponse><crossRefIDorSnapshotData><snapshotData>{legs}</snapshotData></crossRefIDorSnapshotData></SnapshotCallResponse>"
                )
            }
            _ => format!("<{root}Response/>"),
        }
    }
}

// --- HTTP terminal

impl World {
    async fn serve_terminal(self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut buffer = Vec::new();
        while let Some((head, body)) = read_request(&mut stream, &mut buffer).await {
            let Some(answer) = self.terminal(&head, &body) else { return };
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    fn terminal(&self, head: &str, body: &str) -> Option<String> {
        let path = head.lines().next()?.split(' ').nth(1)?;
        let header = |name: &str| {
            let found = head.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.trim().to_owned())
        };
        let id = header("p-request-id")?;
        let mut state = self.state();
        if path == "/system/login" {
            state.logins += 1;
            let session = state.logins;
            state.sessions.insert(session);
            let out = r#"<out><settings md="md1" ds="ds1" version="3.10.0.36"/></out>"#;
            return Some(answer(200, &id, out, &format!("Set-Cookie: ECSSSESSION={session}; Path=/\r\n")));
        }
        let cookie = header("cookie").unwrap_or_default();
        let session = cookie.split("; ").find_map(|pair| pair.strip_prefix("ECSSSESSION=")?.parse().ok());
        if !session.is_some_and(|session| state.sessions.contains(&session)) {
            return Some(answer(401, &id, "", ""));
        }
        let out = match path.rsplit('/').next()? {
            "logout" => return Some(answer(204, &id, "", "")),
            "alias_list" => {
                let aliases: String = DEVICES.map(|device| format!(r#"<alias domain="{DOMAIN}" address="{device}"/>"#)).collect();
                format!("<out><aliases>{aliases}</aliases></out>")
            }
            "calls_history" if body.contains(r#"type="active""#) => {
                let one = |(call, legs): (&String, &BTreeMap<String, Leg>)| {
                    let mut devices = legs.keys();
                    let (from, to) = (devices.next().map_or("", String::as_str), devices.next().map_or("", String::as_str));
                    format!(r#"<call call_id="{call}" from="{from}" to="{to}"/>"#)
                };
                format!("<out><history>{}</history></out>", state.calls.iter().map(one).collect::<String>())
            }
            "conference_list" => {
                let one = |(name, members): (&String, &BTreeMap<String, bool>)| {
                    format!(r#"<conference space="{name}" room="{name}" legs_count="{}"/>"#, members.len())
                };
                format!("<out><conferences>{}</conferences></out>", state.conferences.iter().map(one).collect::<String>())
            }
            "tc_meetings_active_info" => {
                let member = |(number, voice): (&String, &bool)| {
                    format!(r#"<member id="{number}" number="{number}" state="connected" voice="{voice}"/>"#)
                };
                let one = |(name, members): (&String, &BTreeMap<String, bool>)| {
                    format!(r#"<meeting id="{name}" name="{name}">{}</meeting>"#, members.iter().map(member).collect::<String>())
                };
                format!("<out><meetings>{}</meetings></out>", state.conferences.iter().map(one).collect::<String>())
            }
            _ => "<out><success/></out>".to_owned(),
        };
        Some(answer(200, &id, &out, ""))
    }

    /// A node that restarts has forgotten its sessions.
    pub(crate) fn forget_sessions(&self) {
        self.state().sessions.clear();
    }
}

fn answer(status: u16, id: &str, body: &str, headers: &str) -> String {
    let length = if status == 204 { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    format!("HTTP/1.1 {status} Whatever\r\nP-Request-Id: {id}\r\n{headers}{length}\r\n{body}")
}

async fn read_request(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> Option<(String, String)> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(buffer[..end].to_vec()).ok()?;
            let length = head.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.eq_ignore_ascii_case("content-length"));
            let length = length.map_or(0, |(_, value)| value.trim().parse::<usize>().unwrap());
            if buffer.len() >= end + 4 + length {
                let body = String::from_utf8(buffer[end + 4..end + 4 + length].to_vec()).ok()?;
                buffer.drain(..end + 4 + length);
                return Some((head, body));
            }
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

pub(crate) fn rng(seed: u64) -> SmallRng {
    SmallRng::seed_from_u64(seed)
}
