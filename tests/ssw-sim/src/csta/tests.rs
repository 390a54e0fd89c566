//! The server on real sockets, spoken to by a small client of its own that knows only octets and text.

use std::{sync::Arc, time::Duration};

use ssw_core::{DomainOptions, LicenceKind, Switch, SwitchOptions};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    context::ServerContext,
    credentials::Credentials,
    csta,
    dialect::SimDialect,
    faults::{CutPoint, Faults, Link, MessageFault},
    sessions::Sessions,
};

const SOON: Duration = Duration::from_secs(10);
const DOMAIN: &str = "p.city";

struct Fixture {
    ctx: ServerContext,
    address: std::net::SocketAddr,
    _end: DropGuard,
}

impl Fixture {
    async fn start(seed: u64, aliases: u32) -> Self {
        println!("dialect seed {seed}");
        Self::with(SimDialect::from_seed(seed), aliases).await
    }

    async fn with(dialect: SimDialect, aliases: u32) -> Self {
        let seed = dialect.seed;
        let switch = Switch::new(SwitchOptions { seed, dial_time: Duration::ZERO, ..SwitchOptions::default() });
        switch.add_domain(DomainOptions::new(DOMAIN, aliases)).unwrap();
        switch.add_domain(DomainOptions::new("other", 10)).unwrap();
        let shutdown = CancellationToken::new();
        let ctx = ServerContext {
            switch,
            dialect: Arc::new(dialect),
            faults: Faults::default(),
            sessions: Sessions::default(),
            credentials: Arc::new(Credentials::default()),
            node: 0,
            tls: None,
            shutdown: shutdown.clone(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(csta::serve(listener, ctx.clone()));
        Self { ctx, address, _end: shutdown.drop_guard() }
    }

    async fn connect(&self) -> App {
        let stream = TcpStream::connect(self.address).await.unwrap();
        App { stream, whole: self.ctx.dialect.csta.length_whole, device: self.ctx.dialect.csta.device.clone(), last: 0, events: Vec::new() }
    }

    async fn app(&self) -> App {
        let mut app = self.connect().await;
        let answer = app.start_session(DOMAIN, "1234", 300).await;
        assert!(answer.contains("StartApplicationSessionPosResponse"), "{answer}");
        app
    }
}

struct App {
    stream: TcpStream,
    whole: bool,
    device: String,
    last: u16,
    events: Vec<String>,
}

impl App {
    fn frame(&self, id: &str, xml: &str) -> Vec<u8> {
        let length = u16::try_from(xml.len() + if self.whole { 8 } else { 0 }).unwrap();
        [&[0, 0], &length.to_be_bytes()[..], id.as_bytes(), xml.as_bytes()].concat()
    }

    async fn send(&mut self, xml: &str) -> String {
        self.last = self.last % 9000 + 1;
        let id = format!("{:04}", self.last);
        let frame = self.frame(&id, xml);
        self.stream.write_all(&frame).await.unwrap();
        id
    }

    /// The next message, or `None` at the end of the connection.
    async fn read(&mut self) -> Option<(String, String)> {
        let mut header = [0; 8];
        timeout(SOON, self.stream.read_exact(&mut header)).await.expect("no message in time").ok()?;
        assert_eq!(&header[..2], &[0, 0], "two zero octets");
        let length = usize::from(u16::from_be_bytes([header[2], header[3]])) - if self.whole { 8 } else { 0 };
        let mut text = vec![0; length];
        timeout(SOON, self.stream.read_exact(&mut text)).await.expect("no text in time").ok()?;
        let id = String::from_utf8(header[4..].to_vec()).unwrap();
        Some((id, plain(&String::from_utf8_lossy(&text))))
    }

    async fn answer(&mut self, id: &str) -> String {
        loop {
            let (got, text) = self.read().await.expect("the connection ended before the answer");
            match got.as_str() {
                "9999" => self.events.push(text),
                "0000" => {}
                _ => {
                    assert_eq!(got, id);
                    return text;
                }
            }
        }
    }

    async fn ask(&mut self, xml: &str) -> String {
        let id = self.send(xml).await;
        self.answer(&id).await
    }

    async fn start_session(&mut self, domain: &str, password: &str, seconds: u32) -> String {
        self.ask(&format!(
            r#"<?xml version="1.0" encoding="UTF-8" standalone="yes"?>
<StartApplicationSession xmlns="http://www.ecma-international.org/standards/ecma-354/appl_session" xmlns:ns1="http://www.eltex.org/csta">
<applicationInfo><applicationID>test</applicationID><applicationSpecificInfo><ns1:SessionLoginInfo><ns1:userName>{domain}</ns1:userName>
<ns1:password>{password}</ns1:password></ns1:SessionLoginInfo></applicationSpecificInfo></applicationInfo>
<requestedProtocolVersions><protocolVersion>http://www.ecma-international.org/standards/ecma-323/csta/ed3</protocolVersion></requestedProtocolVersions>
<requestedSessionDuration>{seconds}</requestedSessionDuration></StartApplicationSession>"#
        ))
        .await
    }

    /// The next event of this name; others are dropped.
    async fn event(&mut self, name: &str) -> String {
        loop {
            if let Some(at) = self.events.iter().position(|event| event.contains(&format!("<{name}"))) {
                return self.events.drain(..=at).next_back().unwrap();
            }
            let (id, text) = self.read().await.unwrap_or_else(|| panic!("the connection ended before {name}"));
            if id == "9999" {
                self.events.push(text);
            }
        }
    }

    fn device(&self, alias: &str) -> String {
        self.device.replace("{alias}", alias).replace("{domain}", DOMAIN)
    }

    async fn monitor(&mut self, alias: &str) -> String {
        let device = self.device(alias);
        let request =
            format!("<MonitorStart xmlns='x'><monitorObject><deviceObject>{device}</deviceObject></monitorObject></MonitorStart>");
        value(&self.ask(&request).await, "monitorCrossRefID")
    }

    async fn make_call(&mut self, from: &str, to: &str, auto_originate: &str) -> String {
        let (from, to) = (self.device(from), self.device(to));
        self.ask(&format!(
            "<MakeCall xmlns='x'><callingDevice>{from}</callingDevice><calledDirectoryNumber>{to}</calledDirectoryNumber>\
             <autoOriginate>{auto_originate}</autoOriginate></MakeCall>"
        ))
        .await
    }

    async fn on(&mut self, service: &str, child: &str, call: &str, device: &str) -> String {
        self.ask(&format!("<{service}><{child}><callID>{call}</callID><deviceID>{device}</deviceID></{child}></{service}>")).await
    }
}

/// The text without the prefixes that this switch may put before names.
fn plain(text: &str) -> String {
    text.replace("csta:", "").replace("ns3:", "")
}

fn value(text: &str, name: &str) -> String {
    let start = text.find(&format!("<{name}>")).unwrap_or_else(|| panic!("no {name} in {text}")) + name.len() + 2;
    text[start..].split('<').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_session_starts_with_the_right_password_only_and_services_need_one() {
    let fixture = Fixture::start(0, 10).await;
    let mut app = fixture.connect().await;
    let answer = app.ask("<SnapshotDevice><snapshotObject>1001</snapshotObject></SnapshotDevice>").await;
    assert!(answer.contains("<security>securityViolation</security>"), "{answer}");
    for (domain, password) in [(DOMAIN, "4321"), ("nowhere", "1234")] {
        let answer = app.start_session(domain, password, 300).await;
        assert!(answer.contains("<StartApplicationSessionNegResponse"), "{answer}");
        assert_eq!(value(&answer, "definedError"), "invalidApplicationInfo");
    }
    let answer = app.start_session(DOMAIN, "1234", 300).await;
    assert!(answer.contains("<StartApplicationSessionPosResponse"), "{answer}");
    assert_eq!(value(&answer, "actualSessionDuration"), "300");
    assert_eq!(fixture.ctx.sessions.list().len(), 1);
    let id = value(&answer, "sessionID");
    let stop = |id: &str| format!("<StopApplicationSession xmlns='x'><sessionID>{id}</sessionID></StopApplicationSession>");
    assert!(app.ask(&stop("0")).await.contains("StopApplicationSessionNegResponse"));
    assert!(app.ask(&stop(&id)).await.contains("StopApplicationSessionPosResponse"));
    assert_eq!(fixture.ctx.sessions.list().len(), 0);
}

#[tokio::test]
async fn a_session_that_is_not_renewed_is_terminated_and_a_renewed_one_is_not() {
    let fixture = Fixture::start(0, 10).await;
    let (mut left, mut renewed) = (fixture.connect().await, fixture.connect().await);
    let began = Instant::now();
    left.start_session(DOMAIN, "1234", 1).await;
    let id = value(&renewed.start_session(DOMAIN, "1234", 1).await, "sessionID");
    let reset = format!(
        "<ResetApplicationSessionTimer><sessionID>{id}</sessionID><requestedSessionDuration>200</requestedSessionDuration></ResetApplicationSessionTimer>"
    );
    assert_eq!(value(&renewed.ask(&reset).await, "actualSessionDuration"), "200");
    let terminated = left.event("ApplicationSessionTerminated").await;
    assert_eq!(value(&terminated, "definedTermReason"), "sessionTimerExpired");
    assert!(began.elapsed() >= Duration::from_millis(900));
    assert_eq!(left.read().await, None);
    assert!(renewed.ask(&reset).await.contains("PosResponse"));
    assert_eq!(fixture.ctx.sessions.expire(Some(Link::Csta), None), 1);
    renewed.event("ApplicationSessionTerminated").await;
    assert_eq!(renewed.read().await, None);
}

#[tokio::test]
async fn a_call_is_made_answered_held_consulted_transferred_and_cleared() {
    for seed in 0..3 {
        let fixture = Fixture::start(seed, 10).await;
        let mut app = fixture.app().await;
        for alias in ["1001", "1002", "1003"] {
            app.monitor(alias).await;
        }
        let prompt = fixture.ctx.dialect.csta.auto_originate.clone();
        let made = app.make_call("1001", "1002", &prompt).await;
        let call = value(&made, "callID");
        assert_eq!(value(&made, "deviceID"), "1001");
        let event = app.event("ServiceInitiatedEvent").await;
        assert_eq!(value(&event, "callID"), call);
        assert!(app.on("AnswerCall", "callToBeAnswered", &call, "1001").await.contains("AnswerCallResponse"));
        app.event("OriginatedEvent").await;
        let event = app.event("DeliveredEvent").await;
        assert_eq!(value(&event, "deviceID"), "1002");
        if seed == 0 {
            let names: Vec<_> = event.match_indices('<').map(|(at, _)| event[at + 1..].split(['>', ' ', '/']).next().unwrap()).collect();
            let names: Vec<_> = names.into_iter().filter(|name| !name.is_empty() && !name.starts_with('?')).collect();
            assert_eq!(
                names,
                [
                    "DeliveredEvent",
                    "monitorCrossRefID",
                    "connection",
                    "callID",
                    "deviceID",
                    "alertingDevice",
                    "deviceIdentifier",
                    "callingDevice",
                    "deviceIdentifier",
                    "calledDevice",
                    "deviceIdentifier",
                    "lastRedirectionDevice",
                    "notRequired",
                    "localConnectionInfo",
                    "cause",
                ]
            );
        }
        app.on("AnswerCall", "callToBeAnswered", &call, "1002").await;
        app.event("EstablishedEvent").await;
        app.on("HoldCall", "callToBeHeld", &call, "1001").await;
        app.event("HeldEvent").await;
        app.on("RetrieveCall", "callToBeRetrieved", &call, "1001").await;
        app.event("RetrievedEvent").await;
        let third = app.device("1003");
        let consulted = app
            .ask(&format!(
                "<ConsultationCall><existingCall><deviceID>1001</deviceID><callID>{call}</callID></existingCall>\
                 <consultedDevice>{third}</consultedDevice></ConsultationCall>"
            ))
            .await;
        assert!(consulted.contains("<initiatedCall"), "{consulted}");
        let (second, leg) = (value(&consulted, "callID"), value(&consulted, "deviceID"));
        let delivered = app.event("DeliveredEvent").await;
        assert_eq!(value(&delivered, "callID"), second);
        app.on("AnswerCall", "callToBeAnswered", &second, &value(&delivered, "deviceID")).await;
        app.event("EstablishedEvent").await;
        let snapshot = app.ask(&format!("<SnapshotDevice><snapshotObject>{}</snapshotObject></SnapshotDevice>", app.device("1001"))).await;
        assert_eq!(snapshot.matches("<snapshotDeviceResponseInfo").count(), 2, "{snapshot}");
        assert!(snapshot.contains(">hold<") && snapshot.contains(">connected<"), "{snapshot}");
        let moved = app
            .ask(&format!(
                "<TransferCall><heldCall><callID>{call}</callID><deviceID>1001</deviceID></heldCall>\
                 <activeCall><callID>{second}</callID><deviceID>{leg}</deviceID></activeCall></TransferCall>"
            ))
            .await;
        let result = value(&moved, "callID");
        let event = app.event("TransferedEvent").await;
        assert_eq!(event.matches("<connectionListItem").count(), 2, "{event}");
        let snapshot = app.ask(&format!("<SnapshotCall><snapshotObject><callID>{result}</callID></snapshotObject></SnapshotCall>")).await;
        assert_eq!(snapshot.matches("<snapshotCallResponseInfo").count(), 2, "{snapshot}");
        app.on("ClearCall", "callToBeCleared", &result, "").await;
        app.event("ConnectionClearedEvent").await;
        let answer = app.on("ClearCall", "callToBeCleared", &result, "").await;
        assert_eq!(value(&answer, "operation"), "invalidConnectionID");
    }
}

#[tokio::test]
async fn three_way_deflection_rejection_alternation_blind_transfer_and_digits_work() {
    let fixture = Fixture::start(0, 10).await;
    let mut app = fixture.app().await;
    for alias in ["1001", "1002", "1003", "1004"] {
        app.monitor(alias).await;
    }
    // A call that no application started is visible too.
    let call = fixture.ctx.switch.dial(DOMAIN, "1001", "1002").unwrap().call;
    app.event("DeliveredEvent").await;
    let answer = app
        .ask(&format!("<DeflectCall><callToBeDiverted><callID>{call}</callID><deviceID>1002</deviceID></callToBeDiverted><newDestination>1003</newDestination></DeflectCall>"))
        .await;
    assert!(answer.contains("<DeflectCallResponse"), "{answer}");
    assert!(app.event("DivertedEvent").await.contains("<newDestination><deviceIdentifier typeOfNumber=\"dialingNumber\">1003<"));
    assert!(app.event("DeliveredEvent").await.contains("<numberDialed>1002</numberDialed>"));
    app.on("AnswerCall", "callToBeAnswered", "", "1003").await;
    app.event("EstablishedEvent").await;
    assert!(app.ask(&format!("<GenerateDigits><connectionToSendDigits><callID>{call}</callID><deviceID>1001</deviceID></connectionToSendDigits><charactersToSend>12#</charactersToSend></GenerateDigits>")).await.contains("GenerateDigitsResponse"));
    let consulted = app
        .ask(&format!("<ConsultationCall><existingCall><callID>{call}</callID><deviceID>1001</deviceID></existingCall><consultedDevice>1004</consultedDevice></ConsultationCall>"))
        .await;
    let second = value(&consulted, "callID");
    app.on("AnswerCall", "callToBeAnswered", &second, "1004").await;
    let pair = |held: &str, active: &str| {
        format!(
            "<heldCall><callID>{held}</callID><deviceID>1001</deviceID></heldCall><activeCall><callID>{active}</callID><deviceID>1001</deviceID></activeCall>"
        )
    };
    let answer = app.ask(&format!("<AlternateCall>{}</AlternateCall>", pair(&call, &second))).await;
    assert!(answer.contains("AlternateCallResponse"), "{answer}");
    let answer = app.ask(&format!("<ConferenceCall>{}</ConferenceCall>", pair(&second, &call))).await;
    assert!(answer.contains("<conferenceCall"), "{answer}");
    let event = app.event("ConferencedEvent").await;
    assert_eq!(event.matches("<connectionListItem").count(), 3, "{event}");
    app.on("ClearCall", "callToBeCleared", &value(&answer, "callID"), "").await;
    // Clearing a connection that rings refuses the call.
    let call = fixture.ctx.switch.dial(DOMAIN, "1001", "1002").unwrap().call;
    app.on("ClearConnection", "connectionToBeCleared", &call, "1002").await;
    let mut causes = Vec::new();
    while causes.last().is_none_or(|cause| cause != "doNotDisturb") {
        causes.push(value(&app.event("ConnectionClearedEvent").await, "cause"));
    }
    let call = fixture.ctx.switch.dial(DOMAIN, "1001", "1002").unwrap().call;
    app.on("AnswerCall", "callToBeAnswered", &call, "1002").await;
    let answer = app
        .ask(&format!("<SingleStepTransferCall><activeCall><callID>{call}</callID><deviceID>1001</deviceID></activeCall><transferredTo>1003</transferredTo></SingleStepTransferCall>"))
        .await;
    assert!(answer.contains("<transferredCall"), "{answer}");
    assert!(app.event("TransferedEvent").await.contains("<cause>singleStepTransfer<"));
}

#[tokio::test]
async fn refusals_have_the_standards_codes_and_the_vendors_word() {
    let fixture = Fixture::start(0, 10).await;
    let mut app = fixture.app().await;
    let answer = app.make_call("9", "1002", "prompt").await;
    assert_eq!(value(&answer, "operation"), "invalidCallingDeviceID");
    let answer = app.make_call("1001", "9", "prompt").await;
    assert_eq!(value(&answer, "operation"), "invalidCalledDeviceID");
    assert_eq!(value(&answer, "private"), "no_such_subscriber");
    let answer = app.on("HoldCall", "callToBeHeld", "nocall", "1001").await;
    assert_eq!(value(&answer, "operation"), "invalidConnectionID");
    let call = value(&app.make_call("1001", "1002", "prompt").await, "callID");
    let answer = app.on("RetrieveCall", "callToBeRetrieved", &call, "1001").await;
    assert_eq!((value(&answer, "stateIncompatibility"), value(&answer, "private")), ("invalidObjectState".into(), "bad_state".into()));
    fixture.ctx.switch.set_licence(LicenceKind::Calls, Some(1), None);
    let answer = app.make_call("1003", "1004", "prompt").await;
    assert_eq!(value(&answer, "subscribedResourceAvailability"), "resourceLimitExceeded");
    assert_eq!(value(&answer, "private"), "licence_limit");
    assert_eq!(value(&app.ask("<ParkCall/>").await, "operation"), "serviceNotSupported");
    assert_eq!(
        value(&app.ask("<MonitorStop><monitorCrossRefID>7</monitorCrossRefID></MonitorStop>").await, "operation"),
        "invalidMonitorCrossRefID"
    );
    assert!(app.ask("<HoldCall/>").await.contains("atLeastOneConditionalParameterNotProvided"));
    assert!(app.ask("<HoldCall").await.contains("CSTAErrorCode"));
}

#[tokio::test]
async fn events_come_only_for_monitored_devices_of_the_sessions_domain() {
    let fixture = Fixture::start(0, 10).await;
    let mut app = fixture.app().await;
    let monitor = app.monitor("1001").await;
    fixture.ctx.switch.dial("other", "1001", "1002").unwrap();
    fixture.ctx.switch.dial(DOMAIN, "1003", "1004").unwrap();
    let call = fixture.ctx.switch.dial(DOMAIN, "1005", "1001").unwrap().call;
    let (_, first) = app.read().await.unwrap();
    assert!(first.contains("<DeliveredEvent"), "{first}");
    assert_eq!((value(&first, "callID"), value(&first, "monitorCrossRefID")), (call.clone(), monitor.clone()));
    assert!(
        app.ask(&format!("<MonitorStop><monitorCrossRefID>{monitor}</monitorCrossRefID></MonitorStop>"))
            .await
            .contains("MonitorStopResponse")
    );
    fixture.ctx.switch.release_call(DOMAIN, &call).unwrap();
    app.ask("<SnapshotDevice><snapshotObject>1001</snapshotObject></SnapshotDevice>").await;
    assert!(app.events.is_empty(), "{:?}", app.events);
}

#[tokio::test]
async fn monitors_and_snapshots_are_pipelined() {
    for count in [1_000u32, 10_000] {
        let fixture = Fixture::start(0, 20_000).await;
        let app = fixture.app().await;
        let aliases = fixture.ctx.switch.aliases(DOMAIN, 0, count as usize).unwrap();
        let began = Instant::now();
        let mut requests = Vec::new();
        for (index, alias) in aliases.iter().enumerate() {
            let id = format!("{:04}", index % 9000 + 1);
            requests.extend(
                app.frame(
                    &id,
                    &format!("<MonitorStart><monitorObject><deviceObject>{alias}</deviceObject></monitorObject></MonitorStart>"),
                ),
            );
        }
        let (reader, mut writer) = app.stream.into_split();
        let writing = tokio::spawn(async move { writer.write_all(&requests).await.map(|()| writer).unwrap() });
        let mut reader = tokio::io::BufReader::new(reader);
        for index in 0..aliases.len() {
            let mut header = [0; 8];
            timeout(SOON, reader.read_exact(&mut header)).await.unwrap().unwrap();
            let mut text = vec![0; usize::from(u16::from_be_bytes([header[2], header[3]])) - 8];
            reader.read_exact(&mut text).await.unwrap();
            assert_eq!(header[4..], *format!("{:04}", index % 9000 + 1).as_bytes(), "answers come in the order of the requests");
            assert!(String::from_utf8_lossy(&text).contains("<monitorCrossRefID>"));
        }
        drop(writing.await.unwrap());
        println!("{count} monitors in {:?}: {:.0} requests/s", began.elapsed(), f64::from(count) / began.elapsed().as_secs_f64());
    }
}

#[tokio::test]
async fn a_burst_of_events_arrives_whole() {
    const CALLS: usize = 1500;
    let fixture = Fixture::start(0, 10).await;
    let mut app = fixture.app().await;
    app.monitor("1001").await;
    app.monitor("1002").await;
    let began = Instant::now();
    let switch = fixture.ctx.switch.clone();
    let work = tokio::task::spawn_blocking(move || {
        for _ in 0..CALLS {
            let call = switch.dial(DOMAIN, "1001", "1002").unwrap().call;
            switch.answer(DOMAIN, &call, "1002").unwrap();
            switch.release_call(DOMAIN, &call).unwrap();
        }
    });
    let mut events = 0;
    for _ in 0..CALLS * 2 {
        app.event("ConnectionClearedEvent").await;
        events += 5;
    }
    work.await.unwrap();
    println!("about {:.0} events/s", f64::from(events) / began.elapsed().as_secs_f64());
}

#[tokio::test]
async fn faults_duplicate_swap_damage_and_swallow_messages() {
    let fixture = Fixture::start(0, 10).await;
    let faults = &fixture.ctx.faults;
    let ask = "<SnapshotDevice><snapshotObject>1001</snapshotObject></SnapshotDevice>";
    let mut app = fixture.app().await;

    faults.next_messages(Link::Csta, 0, MessageFault::Duplicate, 1);
    let id = app.send(ask).await;
    for _ in 0..2 {
        assert_eq!(app.read().await.unwrap().0, id);
    }
    faults.next_messages(Link::Csta, 0, MessageFault::Reorder, 1);
    let (first, second) = (app.send(ask).await, app.send(ask).await);
    assert_eq!(app.read().await.unwrap().0, second);
    assert_eq!(app.read().await.unwrap().0, first);
    faults.next_messages(Link::Csta, 0, MessageFault::Reorder, 1);
    let id = app.send(ask).await;
    assert_eq!(app.read().await.unwrap().0, id, "alone it comes a little later");
    faults.next_messages(Link::Csta, 0, MessageFault::Oversize, 1);
    let id = app.send(ask).await;
    assert!(app.read().await.unwrap().1.len() > 65_000);
    assert_eq!(app.read().await.unwrap().0, id);
    faults.swallow_answer("SnapshotDevice", CutPoint::Never, 1);
    app.send(ask).await;
    assert!(app.ask("<ParkCall/>").await.contains("serviceNotSupported"), "the answer before it was swallowed");
    faults.refuse_in_200("SnapshotDevice", 1);
    assert!(app.ask(ask).await.contains("CSTAErrorCode"));
    faults.next_messages(Link::Csta, 0, MessageFault::Truncate, 1);
    app.send(ask).await;
    assert_eq!(app.read().await, None, "half a message, then the end");

    for (point, executed) in [(CutPoint::Before, false), (CutPoint::During, true), (CutPoint::After, true)] {
        let mut app = fixture.app().await;
        faults.swallow_answer("MakeCall", point, 1);
        let before = fixture.ctx.switch.calls(Some(DOMAIN)).len();
        app.send("<MakeCall><callingDevice>1001</callingDevice><calledDirectoryNumber>1002</calledDirectoryNumber></MakeCall>").await;
        assert_eq!(app.read().await, None, "{point:?}");
        assert_eq!(fixture.ctx.switch.calls(Some(DOMAIN)).len() > before, executed, "{point:?}");
    }
    let mut app = fixture.app().await;
    faults.next_messages(Link::Csta, 0, MessageFault::WrongPad, 1);
    app.send(ask).await;
    let mut header = [0; 8];
    app.stream.read_exact(&mut header).await.unwrap();
    let mut rest = vec![0; 4096];
    let got = app.stream.read(&mut rest).await.unwrap();
    assert_ne!(usize::from(u16::from_be_bytes([header[2], header[3]])), got + 8, "the length is wrong");
}

#[tokio::test]
async fn a_cut_a_frozen_and_a_restarted_link_show() {
    let fixture = Fixture::start(0, 10).await;
    let ask = "<SnapshotDevice><snapshotObject>1001</snapshotObject></SnapshotDevice>";
    let mut app = fixture.app().await;
    fixture.ctx.faults.set_half_open(Link::Csta, 0, true);
    let id = app.send(ask).await;
    assert!(timeout(Duration::from_millis(200), app.stream.peek(&mut [0])).await.is_err(), "nothing comes while it is frozen");
    fixture.ctx.faults.set_half_open(Link::Csta, 0, false);
    app.answer(&id).await;
    fixture.ctx.faults.drop_now(Link::Csta, 0);
    assert_eq!(app.read().await, None);
    let mut app = fixture.app().await;
    fixture.ctx.switch.restart(true);
    assert_eq!(app.read().await, None);
    fixture.ctx.faults.set_node(0, false);
    let mut app = fixture.connect().await;
    assert_eq!(app.read().await, None, "a node that is down closes what it accepts");
}

#[tokio::test]
async fn tls_is_spoken_where_the_listener_has_it() {
    let mut fixture = Fixture::start(0, 10).await;
    let (acceptor, ca) = crate::tls::make().unwrap();
    fixture.ctx.tls = Some(acceptor);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(csta::serve(listener, fixture.ctx.clone()));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls_pki_types::pem::PemObject::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    stream.write_all(b"\0\0\0\x130001<ParkCall/>").await.unwrap();
    let mut header = [0; 8];
    timeout(SOON, stream.read_exact(&mut header)).await.unwrap().unwrap();
    assert_eq!(&header[4..], b"0001");
}

#[tokio::test]
async fn keepalives_come_and_are_answered() {
    let mut dialect = SimDialect::from_seed(0);
    dialect.csta.keepalive_interval_s = 2;
    let fixture = Fixture::with(dialect, 10).await;
    let mut app = fixture.app().await;
    let frame = app.frame("0000", "<keepalive />");
    assert_eq!(frame.len(), 21);
    for _ in 0..2 {
        let (id, text) = app.read().await.unwrap();
        assert_eq!((id.as_str(), text.as_str()), ("0000", "<keepalive />"));
        app.stream.write_all(&frame).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_does_not_read_is_cut_and_counted() {
    let fixture = Fixture::start(0, 10).await;
    let mut app = fixture.app().await;
    for _ in 0..20 {
        app.monitor("1001").await;
    }
    let before = csta::slow_applications_cut();
    let began = Instant::now();
    while csta::slow_applications_cut() == before {
        assert!(began.elapsed() < Duration::from_secs(60), "not cut in time");
        for _ in 0..100 {
            let call = fixture.ctx.switch.dial(DOMAIN, "1001", "1002").unwrap().call;
            fixture.ctx.switch.release_call(DOMAIN, &call).unwrap();
        }
        tokio::task::yield_now().await;
    }
    assert!(fixture.app().await.ask("<ParkCall/>").await.contains("CSTAErrorCode"), "others are served");
}
