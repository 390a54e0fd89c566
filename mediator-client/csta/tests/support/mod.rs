//! A small CSTA switch for tests, written from ecss10-interfaces §3 with plain text search instead of a parser, so that it shares
//! no reading with the client. Speaks over any byte stream.

#![expect(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "a failed helper is a failed test")]
#![expect(dead_code, reason = "each test binary uses its own part of it")]

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use ecss_csta::CstaConfig;
use ecss_switch::{
    Alias, Dialect, Domain, LinkEvent,
    connect::Endpoint,
    event::{EventSink, Observation},
    link::{LinkState, LinkStatus},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{Notify, mpsc, watch},
    time::timeout,
};

/// The longest that any condition is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(crate) struct State {
    pub(crate) sessions: usize,
    pub(crate) connections: usize,
    pub(crate) monitors: BTreeMap<String, String>,
    pub(crate) received: Vec<(String, String)>,
    /// Devices whose monitor is refused.
    pub(crate) refused: HashSet<String>,
    /// Requests by root name that get no answer.
    pub(crate) unanswered: HashSet<&'static str>,
    /// Every answer is sent twice.
    pub(crate) doubled: bool,
    /// Answers are kept back and sent in reverse once there are so many.
    pub(crate) reversed: usize,
    /// The session is refused.
    pub(crate) closed_door: bool,
    held_back: Vec<Vec<u8>>,
    push: VecDeque<Push>,
}

pub(crate) enum Push {
    /// These octets as they are.
    Octets(Vec<u8>),
    /// Close the connection.
    Cut,
}

#[derive(Default, Clone)]
pub(crate) struct Switch {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
    pushed: Arc<Notify>,
}

pub(crate) fn frame(id: &str, body: &str) -> Vec<u8> {
    let length = u16::try_from(body.len() + 8).unwrap();
    [&[0, 0], &length.to_be_bytes()[..], id.as_bytes(), body.as_bytes()].concat()
}

pub(crate) fn inside<'t>(text: &'t str, element: &str) -> &'t str {
    let Some((_, rest)) = text.split_once(&format!("<{element}")) else { return "" };
    let Some((_, rest)) = rest.split_once('>') else { return "" };
    rest.split_once(&format!("</{element}>")).map_or("", |(inside, _)| inside)
}

impl Switch {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Sessions so far, and monitors of the present one.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let state = self.state();
        (state.sessions, state.monitors.len())
    }

    pub(crate) fn push(&self, push: Push) {
        self.state().push.push_back(push);
        self.pushed.notify_one();
    }

    pub(crate) fn event(&self, body: &str) {
        self.push(Push::Octets(frame("9999", body)));
    }

    /// Waits until something holds of the switch's state.
    pub(crate) async fn until(&self, what: &str, mut holds: impl FnMut(&State) -> bool) {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                if holds(&self.state()) {
                    return;
                }
                changed.await;
            }
        };
        if timeout(PATIENCE, wait).await.is_err() {
            panic!("the switch never saw: {what}; it got {:?}", self.state().received.iter().map(|(root, _)| root).collect::<Vec<_>>());
        }
    }

    /// Serves one connection.
    pub(crate) async fn serve(&self, mut io: impl AsyncRead + AsyncWrite + Unpin) {
        {
            let mut state = self.state();
            state.connections += 1;
            state.monitors.clear();
            state.push.clear();
        }
        let mut inbox = Vec::new();
        let mut chunk = vec![0; 65536];
        loop {
            while let Some(push) = { self.state().push.pop_front() } {
                match push {
                    Push::Octets(octets) => {
                        if io.write_all(&octets).await.is_err() {
                            return;
                        }
                    }
                    Push::Cut => return,
                }
            }
            tokio::select! {
                () = self.pushed.notified() => {}
                read = io.read(&mut chunk) => {
                    let Ok(octets @ 1..) = read else { break };
                    inbox.extend_from_slice(&chunk[..octets]);
                    let mut answers = Vec::new();
                    while inbox.len() >= 8 {
                        let length = usize::from(u16::from_be_bytes([inbox[2], inbox[3]]));
                        if inbox.len() < length {
                            break;
                        }
                        let message: Vec<u8> = inbox.drain(..length).collect();
                        let id = String::from_utf8(message[4..8].to_vec()).unwrap();
                        let body = String::from_utf8(message[8..].to_vec()).unwrap();
                        self.answer(&id, &body, &mut answers);
                    }
                    self.changed.notify_waiters();
                    if io.write_all(&answers).await.is_err() {
                        break;
                    }
                }
            }
        }
        self.changed.notify_waiters();
    }

    fn answer(&self, id: &str, body: &str, out: &mut Vec<u8>) {
        let mut state = self.state();
        let after_declaration = body.split_once("?>").map_or(body, |(_, rest)| rest);
        let root = after_declaration.trim_start_matches('<').split([' ', '>', '/']).next().unwrap().to_owned();
        state.received.push((root.clone(), body.to_owned()));
        let answer = match root.as_str() {
            "keepalive" => "<keepalive />".to_owned(),
            "StartApplicationSession" if state.closed_door => {
                "<StartApplicationSessionNegResponse><errorCode><definedError>invalidApplicationInfo</definedError></errorCode>\
                 </StartApplicationSessionNegResponse>"
                    .to_owned()
            }
            "StartApplicationSession" => {
                assert_eq!((inside(body, "ns1:userName"), inside(body, "ns1:password")), ("biysk.local", "s3cret"));
                state.sessions += 1;
                "<StartApplicationSessionPosResponse><sessionID>sess77</sessionID><actualSessionDuration>300</actualSessionDuration>\
                 </StartApplicationSessionPosResponse>"
                    .to_owned()
            }
            "ResetApplicationSessionTimer" | "StopApplicationSession" => format!("<{root}PosResponse/>"),
            "MonitorStart" => {
                let device = inside(body, "deviceObject").to_owned();
                if state.refused.contains(&device) {
                    "<CSTAErrorCode><operation>invalidDeviceID</operation></CSTAErrorCode>".to_owned()
                } else {
                    let cross_ref = format!("m{device}");
                    state.monitors.insert(device, cross_ref.clone());
                    format!("<MonitorStartResponse><monitorCrossRefID>{cross_ref}</monitorCrossRefID></MonitorStartResponse>")
                }
            }
            "MonitorStop" => {
                let cross_ref = inside(body, "monitorCrossRefID").to_owned();
                state.monitors.retain(|_, started| *started != cross_ref);
                "<MonitorStopResponse/>".to_owned()
            }
            "MakeCall" if inside(body, "calledDirectoryNumber") == "404" => {
                "<CSTAErrorCode><operation>invalidCalledDeviceID</operation></CSTAErrorCode>".to_owned()
            }
            "MakeCall" => {
                let caller = inside(body, "callingDevice");
                format!(
                    "<MakeCallResponse><callingDevice><callID>c1</callID><deviceID>{caller}</deviceID></callingDevice></MakeCallResponse>"
                )
            }
            "ConsultationCall" => "<ConsultationCallResponse><initiatedCall><deviceID>1001</deviceID><callID>c2</callID></initiatedCall>\
                                   </ConsultationCallResponse>"
                .to_owned(),
            "ConferenceCall" => "<ConferenceCallResponse><conferenceCall><callID>c3</callID><deviceID>1001</deviceID></conferenceCall>\
                                 </ConferenceCallResponse>"
                .to_owned(),
            "TransferCall" => {
                "<TransferCallResponse><transferredCall><callID>c2</callID></transferredCall></TransferCallResponse>".to_owned()
            }
            "RetrieveCall" if inside(body, "deviceID") == "bad" => {
                "<CSTAErrorCode><stateIncompatibility>invalidObjectState</stateIncompatibility></CSTAErrorCode>".to_owned()
            }
            "SnapshotCall" if inside(body, "callID") == "gone" => {
                "<CSTAErrorCode><operation>invalidConnectionID</operation></CSTAErrorCode>".to_owned()
            }
            "SnapshotCall" => "<SnapshotCallResponse><crossRefIDorSnapshotData><snapshotData>\
                 <snapshotCallResponseInfo><deviceOnCall><deviceIdentifier>1001</deviceIdentifier></deviceOnCall>\
                 <callIdentifier><callID>c1</callID><deviceID>a</deviceID></callIdentifier>\
                 <localConnectionInfo>connected</localConnectionInfo></snapshotCallResponseInfo>\
                 <snapshotCallResponseInfo><deviceOnCall><deviceIdentifier>N&lt;1002>Ivan Petrov;noa=nk</deviceIdentifier></deviceOnCall>\
                 <callIdentifier><callID>c1</callID><deviceID>b</deviceID></callIdentifier>\
                 <localConnectionInfo>alerting</localConnectionInfo></snapshotCallResponseInfo>\
                 </snapshotData></crossRefIDorSnapshotData><callingDevice><deviceIdentifier>1001</deviceIdentifier></callingDevice>\
                 </SnapshotCallResponse>"
                .to_owned(),
            "SnapshotDevice" => "<SnapshotDeviceResponse><snapshotData/></SnapshotDeviceResponse>".to_owned(),
            _ => format!("<{root}Response/>"),
        };
        if state.unanswered.contains(root.as_str()) {
            return;
        }
        let answer = frame(id, &answer);
        if state.doubled {
            out.extend_from_slice(&answer);
        }
        if state.reversed > 0 && !root.contains("ApplicationSession") {
            state.held_back.push(answer);
            if state.held_back.len() >= state.reversed {
                for answer in state.held_back.drain(..).rev() {
                    out.extend_from_slice(&answer);
                }
            }
        } else {
            out.extend_from_slice(&answer);
        }
    }
}

pub(crate) fn config(nodes: &[&str]) -> CstaConfig {
    CstaConfig {
        nodes: nodes.iter().map(|node| Endpoint::parse(node).unwrap()).collect(),
        domain: Domain::parse("biysk.local").unwrap(),
        password: "s3cret".into(),
        session_duration: Duration::from_secs(300),
        half_open_after: Duration::from_secs(15),
        connect_timeout: Duration::from_secs(2),
        command_timeout: Duration::from_secs(5),
        fail_back_after: Duration::from_secs(20),
        window: 256,
        seed: Some(7),
    }
}

pub(crate) fn dialect() -> Arc<Dialect> {
    Arc::new(Dialect::built_in("sim").unwrap())
}

pub(crate) fn alias(number: impl ToString) -> Alias {
    Alias::parse(&number.to_string()).unwrap()
}

pub(crate) fn aliases(numbers: impl IntoIterator<Item = u32>) -> Vec<Alias> {
    numbers.into_iter().map(alias).collect()
}

/// What the sink got, waited for with a deadline.
pub(crate) struct Events(mpsc::Receiver<LinkEvent>);

impl Events {
    pub(crate) fn new(bound: usize) -> (EventSink, Self) {
        let (sink, reader) = EventSink::new(bound);
        (sink, Self(reader))
    }

    pub(crate) async fn next(&mut self) -> LinkEvent {
        timeout(PATIENCE, self.0.recv()).await.expect("an event in time").expect("the link goes on")
    }

    /// Passes over events until one is this.
    pub(crate) async fn until(&mut self, what: &str, mut wanted: impl FnMut(&LinkEvent) -> bool) -> LinkEvent {
        let mut seen = Vec::new();
        loop {
            let Ok(event) = timeout(PATIENCE, self.0.recv()).await else { panic!("never saw {what}, but {seen:?}") };
            let event = event.expect("the link goes on");
            if wanted(&event) {
                return event;
            }
            seen.push(event);
        }
    }

    pub(crate) async fn up(&mut self) {
        self.until("Up", |event| *event == LinkEvent::Up).await;
    }

    pub(crate) async fn down(&mut self) {
        self.until("Down", |event| *event == LinkEvent::Down).await;
    }

    pub(crate) async fn observation(&mut self) -> Observation {
        match self.until("an observation", |event| matches!(event, LinkEvent::Seen(_))).await {
            LinkEvent::Seen(seen) => seen.observation,
            _ => unreachable!(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

pub(crate) async fn link_is(status: &mut watch::Receiver<LinkStatus>, state: LinkState) {
    timeout(PATIENCE, status.wait_for(|status| status.state == state)).await.expect("the state in time").expect("the link goes on");
}
