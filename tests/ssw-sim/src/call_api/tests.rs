//! The server on real sockets, spoken to by a small HTTP and WebSocket client of its own that knows only octets and text.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ssw_core::{ConferenceRequest, DomainOptions, Switch, SwitchOptions};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    call_api,
    context::ServerContext,
    credentials::Credentials,
    dialect::{EventFrame, SimDialect},
    faults::{CutPoint, Faults, Link, MessageFault},
    sessions::Sessions,
};

const SOON: Duration = Duration::from_secs(10);
const DOMAIN: &str = "biysk.local";

struct Fixture {
    ctx: ServerContext,
    address: std::net::SocketAddr,
    _end: DropGuard,
}

impl Fixture {
    async fn start(seed: u64) -> Self {
        println!("dialect seed {seed}");
        let switch = Switch::new(SwitchOptions { seed, dial_time: Duration::ZERO, ..SwitchOptions::default() });
        switch.add_domain(DomainOptions::new(DOMAIN, 20)).unwrap();
        switch.add_domain(DomainOptions::new("other", 10)).unwrap();
        let shutdown = CancellationToken::new();
        let ctx = ServerContext {
            switch,
            dialect: Arc::new(SimDialect::from_seed(seed)),
            faults: Faults::default(),
            sessions: Sessions::default(),
            credentials: Arc::new(Credentials::default()),
            node: 0,
            tls: None,
            shutdown: shutdown.clone(),
        };
        Self { address: serve(ctx.clone()).await, ctx, _end: shutdown.drop_guard() }
    }

    async fn post(&self, path: &str, cookie: &str, body: &str) -> Option<(u16, String, String)> {
        post(self.address, path, cookie, body).await
    }

    async fn login(&self) -> String {
        let (status, head, body) = self.post(&self.login_path(), "", &self.login_body("password")).await.unwrap();
        assert_eq!(status, 200, "{body}");
        let line = head.lines().find(|line| line.to_lowercase().starts_with("set-cookie:")).unwrap();
        line.split_once(':').unwrap().1.split(';').next().unwrap().trim().to_owned()
    }

    fn login_path(&self) -> String {
        self.ctx.dialect.call_api.login_path.replace("{domain}", DOMAIN)
    }

    fn login_body(&self, password: &str) -> String {
        let attributes = self.ctx.dialect.call_api.login_attributes.iter();
        let attributes: Vec<_> = attributes
            .map(|(name, form)| format!("{name}=\"{}\"", form.replace("{login}", "admin").replace("{password}", password)))
            .collect();
        format!("<in><request {}/></in>", attributes.join(" "))
    }

    fn command_path(&self, service: &str, command: &str) -> String {
        let template = &self.ctx.dialect.call_api.command_path;
        template.replace("{domain}", DOMAIN).replace("{service}", service).replace("{command}", command)
    }

    /// An operation's path and body over HTTP.
    async fn operate(&self, cookie: &str, operation: &str, fields: &[(&str, &str)]) -> Option<(u16, String, String)> {
        let shape = &self.ctx.dialect.operations[operation];
        let attributes: Vec<_> =
            self.attributes(operation, fields).into_iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        self.post(&self.command_path(&shape.service, &shape.name), cookie, &format!("<in><request {}/></in>", attributes.join(" "))).await
    }

    fn attributes(&self, operation: &str, fields: &[(&str, &str)]) -> BTreeMap<String, String> {
        let shape = &self.ctx.dialect.operations[operation];
        let mut attributes = shape.fixed.clone();
        attributes.extend(fields.iter().map(|(field, value)| (shape.fields[*field].clone(), (*value).to_owned())));
        attributes
    }

    async fn socket(&self, cookie: &str) -> Socket<'_> {
        let path = self.ctx.dialect.call_api.websocket_path.replace("{domain}", DOMAIN);
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nCookie: {cookie}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let head = read_head(&mut stream).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "the key of RFC 6455 is answered as there");
        Socket { fixture: self, stream, last: 0, events: Vec::new() }
    }
}

async fn serve(ctx: ServerContext) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(call_api::serve(listener, ctx));
    address
}

/// Status, head and body; `None` if the connection ends before the answer is whole.
async fn post(address: std::net::SocketAddr, path: &str, cookie: &str, body: &str) -> Option<(u16, String, String)> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request =
        format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nCookie: {cookie}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = read_head(&mut stream).await?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length =
        head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length:").map(|text| text.trim().parse::<usize>().unwrap()));
    let mut octets = vec![0; length?];
    timeout(SOON, stream.read_exact(&mut octets)).await.unwrap().ok()?;
    Some((status, head, String::from_utf8_lossy(&octets).into_owned()))
}

async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(SOON, stream.read_u8()).await.expect("no answer in time").ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

struct Socket<'f> {
    fixture: &'f Fixture,
    stream: TcpStream,
    last: u16,
    events: Vec<String>,
}

impl Socket<'_> {
    async fn send_text(&mut self, text: &str) {
        let mut frame = vec![0x81];
        match text.len() {
            length @ 0..126 => frame.push(0x80 | u8::try_from(length).unwrap()),
            length => frame.extend([&[0x80 | 126][..], &u16::try_from(length).unwrap().to_be_bytes()].concat()),
        }
        // A mask of zeros changes nothing.
        frame.extend([0; 4]);
        frame.extend(text.as_bytes());
        self.stream.write_all(&frame).await.unwrap();
    }

    /// The next text frame, or `None` at the end.
    async fn read(&mut self) -> Option<String> {
        loop {
            let first = timeout(SOON, self.stream.read_u8()).await.expect("no frame in time").ok()?;
            let length = match self.stream.read_u8().await.ok()? {
                126 => usize::from(self.stream.read_u16().await.ok()?),
                127 => usize::try_from(self.stream.read_u64().await.ok()?).unwrap(),
                length => usize::from(length),
            };
            let mut octets = vec![0; length];
            self.stream.read_exact(&mut octets).await.ok()?;
            match first & 0x0f {
                1 => return Some(String::from_utf8(octets).unwrap()),
                8 => return None,
                _ => {}
            }
        }
    }

    fn count(&self, text: &str) -> usize {
        if self.fixture.ctx.dialect.call_api.length_in_bytes { text.len() } else { text.chars().count() }
    }

    /// The frame of an operation.
    fn frame(&mut self, operation: &str, fields: &[(&str, &str)]) -> (String, String) {
        let dialect = &self.fixture.ctx.dialect;
        let shape = &dialect.operations[operation];
        let attributes = serde_json::to_string(&self.fixture.attributes(operation, fields)).unwrap();
        let json = format!(r#"[{{"_name":"in","_content":[{{"_name":"request","_attributes":{attributes}}}]}}]"#);
        let name = format!("{}{}", dialect.call_api.name_prefix.replace("{service}", &shape.service), shape.name);
        let mut name: String = name.chars().take(32).collect();
        while name.chars().count() < 32 {
            name.push(dialect.call_api.pad);
        }
        self.last += 1;
        let id = format!("{:04}", self.last);
        (id.clone(), format!("01{:010}{id}{name}{json}", 16 + self.count(&name) + self.count(&json)))
    }

    fn is_event(&self, text: &str) -> bool {
        match &self.fixture.ctx.dialect.call_api.event_frame {
            EventFrame::Status(status) => text[16..].starts_with(status.as_str()),
            EventFrame::RequestId(id) => &text[12..16] == id,
        }
    }

    /// Status and JSON of an operation's answer.
    async fn ask(&mut self, operation: &str, fields: &[(&str, &str)]) -> (String, String) {
        let (id, frame) = self.frame(operation, fields);
        self.send_text(&frame).await;
        self.answer(&id).await
    }

    async fn answer(&mut self, id: &str) -> (String, String) {
        loop {
            let text = self.read().await.expect("the connection ended before the answer");
            assert_eq!(text[2..12].parse::<usize>().unwrap(), self.count(&text));
            if self.is_event(&text) {
                self.events.push(text);
                continue;
            }
            assert_eq!(&text[12..16], id);
            return (text[16..19].to_owned(), text[19..].to_owned());
        }
    }

    /// The next event of a kind; others are dropped.
    async fn event(&mut self, kind: &str) -> String {
        let wanted = format!("[{{\"_name\":\"{}\"", self.fixture.ctx.dialect.events[kind].name);
        loop {
            if let Some(at) = self.events.iter().position(|event| event.contains(&wanted)) {
                return self.events.drain(..=at).next_back().unwrap();
            }
            let text = self.read().await.unwrap_or_else(|| panic!("the connection ended before {kind}"));
            assert_eq!(text[2..12].parse::<usize>().unwrap(), self.count(&text));
            if self.is_event(&text) {
                self.events.push(text);
            }
        }
    }

    /// The next event of a kind that has this field.
    async fn event_with(&mut self, kind: &str, field: &str, value: &str) -> String {
        let wanted = format!("\"{}\":\"{value}\"", self.fixture.ctx.dialect.events[kind].fields[field]);
        loop {
            let event = self.event(kind).await;
            if event.contains(&wanted) {
                return event;
            }
        }
    }
}

fn attribute(text: &str, name: &str) -> String {
    let pattern = if text.contains("{\"") { format!("\"{name}\":\"") } else { format!(" {name}=\"") };
    let start = text.find(&pattern).unwrap_or_else(|| panic!("no {name} in {text}")) + pattern.len();
    text[start..].split('"').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_login_gives_a_session_and_commands_need_one() {
    let fixture = Fixture::start(0).await;
    let (status, _, body) = fixture.post(&fixture.login_path(), "", &fixture.login_body("wrong")).await.unwrap();
    assert_eq!((status, body.contains("<error")), (403, true));
    let (status, _, _) = fixture.operate("", "call_make", &[("from", "1001"), ("to", "1002")]).await.unwrap();
    assert_eq!(status, 401);
    let cookie = fixture.login().await;
    let (status, _, body) = fixture.operate(&cookie, "call_make", &[("from", "1001"), ("to", "1002")]).await.unwrap();
    assert_eq!(status, 200, "{body}");
    let call = attribute(&body, "call_id");
    let (status, _, body) = fixture.operate(&cookie, "call_hold", &[("call", &call), ("leg", "1001")]).await.unwrap();
    assert_eq!((status, attribute(&body, "cause")), (403, "bad_state".into()));
    fixture.ctx.faults.refuse_in_200("call_release", 1);
    let (status, _, body) = fixture.operate(&cookie, "call_release", &[("call", &call)]).await.unwrap();
    assert_eq!((status, body.contains("<error")), (200, true));
    assert_eq!(fixture.operate(&cookie, "call_release", &[("call", &call)]).await.unwrap().0, 200);
    let (status, _, body) = fixture.post(&fixture.command_path("call", "no_such"), &cookie, "<in><request/></in>").await.unwrap();
    assert_eq!((status, attribute(&body, "cause")), (403, "cannot_perform_cmd".into()));
    assert_eq!(fixture.ctx.sessions.expire(Some(Link::CallApi), None), 1);
    assert_eq!(fixture.operate(&cookie, "call_list", &[]).await.unwrap().0, 401);
}

#[tokio::test]
async fn a_logout_ends_the_session_and_its_websocket_in_every_dialect() {
    for seed in 0..6 {
        let fixture = Fixture::start(seed).await;
        let api = &fixture.ctx.dialect.call_api;
        let cookie = fixture.login().await;
        let mut socket = fixture.socket(&cookie).await;
        let request = format!(
            "{} {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nCookie: {cookie}\r\nContent-Length: 0\r\n\r\n",
            api.logout.method,
            api.logout.path.replace("{domain}", DOMAIN)
        );
        for expected in [200, api.expired_status] {
            let mut stream = TcpStream::connect(fixture.address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let head = read_head(&mut stream).await.unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {expected} ")), "seed {seed}: {head}");
        }
        assert_eq!(socket.read().await, None);
        assert!(fixture.ctx.sessions.list().is_empty());
    }
}

#[tokio::test]
async fn a_session_is_known_on_its_own_node_only_and_dies_with_a_restart() {
    let fixture = Fixture::start(0).await;
    let cookie = fixture.login().await;
    let other = serve(ServerContext { node: 1, ..fixture.ctx.clone() }).await;
    let path = fixture.command_path("call", "calls_list");
    assert_eq!(post(other, &path, &cookie, "<in><request/></in>").await.unwrap().0, 401);
    assert_eq!(fixture.post(&path, &cookie, "<in><request/></in>").await.unwrap().0, 200);
    let mut socket = fixture.socket(&cookie).await;
    fixture.ctx.switch.restart(false);
    assert_eq!(socket.read().await, None);
}

#[tokio::test]
async fn a_call_is_controlled_and_seen_over_the_websocket_in_every_dialect() {
    for seed in 0..3 {
        let fixture = Fixture::start(seed).await;
        let dialect = Arc::clone(&fixture.ctx.dialect);
        let cookie = fixture.login().await;
        let mut socket = fixture.socket(&cookie).await;
        let (status, json) = socket.ask("call_make", &[("from", "1001"), ("to", "1002")]).await;
        assert_eq!(status, "200", "{json}");
        let result = &dialect.operations["call_make"].result;
        let (call, leg) = (attribute(&json, &result["call"]), attribute(&json, &result["leg"]));
        let state = |word: &'static str| dialect.word("leg_state", word).to_owned();
        socket.event_with("leg", "leg_state", &state("initiated")).await;
        assert_eq!(socket.ask("call_answer", &[("call", &call), ("leg", &leg)]).await.0, "200");
        let event = socket.event_with("leg", "leg_state", &state("alerting")).await;
        let ringing = attribute(&event, &dialect.events["leg"].fields["leg"]);
        socket.ask("call_answer", &[("call", &call), ("leg", "1002")]).await;
        socket.event_with("leg", "device", "1002").await;
        assert!(!ringing.is_empty());
        socket.ask("call_hold", &[("call", &call), ("leg", &leg)]).await;
        socket.event_with("leg", "leg_state", &state("held")).await;
        let (_, json) = socket.ask("call_consult", &[("call", &call), ("leg", &leg), ("to", "1003")]).await;
        let result = &dialect.operations["call_consult"].result;
        let (second, second_leg) = (attribute(&json, &result["call"]), attribute(&json, &result["leg"]));
        socket.ask("call_answer", &[("call", &second), ("leg", "1003")]).await;
        let fields = [("call", call.as_str()), ("leg", &leg), ("other_call", &second), ("other_leg", &second_leg)];
        let (status, json) = socket.ask("call_transfer_complete", &fields).await;
        assert_eq!(status, "200", "{json}");
        socket.event_with("merged", "other_call", &second).await;
        let into = fixture.ctx.switch.calls(Some(DOMAIN))[0].id.clone();
        let (_, json) = socket.ask("call_list", &[]).await;
        let record = dialect.operations["call_list"].record.clone().unwrap();
        assert_eq!(json.matches(&format!("\"_name\":\"{record}\"")).count(), 2, "{json}");
        socket.ask("call_release", &[("call", &into)]).await;
        socket.event_with("call_released", "call", &into).await;
        let (status, json) = socket.ask("call_release", &[("call", &into)]).await;
        assert_eq!(status, "403");
        assert!(json.contains(dialect.refusal(ssw_core::RefusalCause::NoSuchCall)), "{json}");
    }
}

#[tokio::test]
async fn a_conference_is_moderated_and_seen_and_other_domains_are_not() {
    let fixture = Fixture::start(1).await;
    let dialect = Arc::clone(&fixture.ctx.dialect);
    let cookie = fixture.login().await;
    let mut socket = fixture.socket(&cookie).await;
    fixture.ctx.switch.create_conference("other", ConferenceRequest { name: "elsewhere".into(), ..Default::default() }).unwrap();
    let (status, json) = socket.ask("conference_create", &[("name", "Планёрка"), ("members", "1002")]).await;
    assert_eq!(status, "200", "{json}");
    let id = attribute(&json, &dialect.operations["conference_create"].result["conference"]);
    let event = socket.event("conference").await;
    assert!(event.contains("Планёрка") && !event.contains("elsewhere"), "{event}");
    let (_, json) = socket.ask("conference_invite", &[("conference", &id), ("to", "1003")]).await;
    let member = attribute(&json, &dialect.operations["conference_invite"].result["participant"]);
    socket.event_with("participant", "participant", &member).await;
    if dialect.operations["conference_lock"].service == "terminal" {
        fixture.ctx.switch.set_locked(DOMAIN, &id, true).unwrap();
    } else {
        assert_eq!(socket.ask("conference_lock", &[("conference", &id)]).await.0, "200");
    }
    socket.event_with("conference", "locked", dialect.boolean(true)).await;
    socket.ask("conference_cancel_invitation", &[("conference", &id), ("participant", &member)]).await;
    socket.event_with("participant_left", "participant", &member).await;
    socket.ask("conference_end", &[("conference", &id)]).await;
    socket.event_with("conference_ended", "conference", &id).await;
}

#[tokio::test]
async fn documented_contact_centre_commands_work_where_they_make_sense() {
    let fixture = Fixture::start(0).await;
    let cookie = fixture.login().await;
    let call = fixture.ctx.switch.dial(DOMAIN, "1001", "1002").unwrap().call;
    fixture.ctx.switch.answer(DOMAIN, &call, "1002").unwrap();
    let conference = fixture.ctx.switch.create_conference(DOMAIN, ConferenceRequest::default()).unwrap();
    let request = |attributes: String| format!("<in><request {attributes}/></in>");
    let hold = request(format!("operator_id=\"1002\" conversation_id=\"{call}\""));
    for (name, body, status) in [
        ("call_hold", hold.clone(), 200),
        ("call_hold", hold.clone(), 403),
        ("call_unhold", hold, 200),
        ("unblock_operator", request("agent_id=\"102\"".into()), 403),
        (
            "add_participant",
            format!(
                "<in><request><participants conference_id=\"{conference}\"><participant number=\"1003\"/></participants></request></in>"
            ),
            200,
        ),
        (
            "add_participant",
            format!(
                "<in><request><participants conference_id=\"{conference}\"><participant conversation_id=\"{call}\"/></participants></request></in>"
            ),
            403,
        ),
    ] {
        let (got, _, answer) = fixture.post(&fixture.command_path("cc/arm", name), &cookie, &body).await.unwrap();
        assert_eq!(got, status, "{name}: {answer}");
    }
    let member = fixture.ctx.switch.conference(DOMAIN, &conference).unwrap().members[0].id.clone();
    let body = request(format!("conference_id=\"{conference}\" participant_id=\"{member}\""));
    assert_eq!(fixture.post(&fixture.command_path("cc/arm", "remove_participant"), &cookie, &body).await.unwrap().0, 200);
    // The documented sample has the bare name in its frame.
    let mut socket = fixture.socket(&cookie).await;
    let json = r#"[{"_name":"in","_content":[{"_name":"request","_attributes":{"agent_id":"102"}}]}]"#;
    socket.send_text(&format!("0100000001300014{:32}{json}", "unblock_operator")).await;
    let (status, json) = socket.answer("0014").await;
    assert_eq!(status, "403");
    assert!(json.contains("cannot_perform_cmd") && json.contains("unblock_operator.xsd"), "{json}");
}

#[tokio::test]
async fn a_bad_frame_is_refused_and_the_link_lives() {
    let fixture = Fixture::start(0).await;
    let cookie = fixture.login().await;
    let mut socket = fixture.socket(&cookie).await;
    for bad in ["", "01", "0100000000990001call", "what"] {
        socket.send_text(bad).await;
        assert_eq!(&socket.read().await.unwrap()[16..19], "400");
    }
    let (id, frame) = socket.frame("call_list", &[]);
    socket.send_text(&frame.replace("  ", "\0\0")).await;
    assert_eq!(socket.answer(&id).await.0, "400");
    assert_eq!(socket.ask("call_list", &[]).await.0, "200");
}

#[tokio::test]
async fn faults_duplicate_swap_damage_and_swallow_frames() {
    let fixture = Fixture::start(0).await;
    let faults = fixture.ctx.faults.clone();
    let cookie = fixture.login().await;
    let mut socket = fixture.socket(&cookie).await;
    faults.next_messages(Link::CallApi, 0, MessageFault::Duplicate, 1);
    let (id, frame) = socket.frame("call_list", &[]);
    socket.send_text(&frame).await;
    socket.answer(&id).await;
    socket.answer(&id).await;
    faults.next_messages(Link::CallApi, 0, MessageFault::Reorder, 1);
    let ((first, frame_1), (second, frame_2)) = (socket.frame("call_list", &[]), socket.frame("call_list", &[]));
    socket.send_text(&frame_1).await;
    socket.send_text(&frame_2).await;
    socket.answer(&second).await;
    socket.answer(&first).await;
    faults.next_messages(Link::CallApi, 0, MessageFault::WrongPad, 2);
    fixture.ctx.switch.create_conference(DOMAIN, ConferenceRequest::default()).unwrap();
    assert!(socket.read().await.unwrap().contains("conference_event\0"));
    socket.send_text(&frame_1).await;
    let text = socket.read().await.unwrap();
    assert_ne!(text[2..12].parse::<usize>().unwrap(), text.len());
    faults.swallow_answer("calls_list", CutPoint::Never, 1);
    socket.send_text(&frame_1).await;
    assert_eq!(socket.ask("call_answer", &[]).await.0, "403", "the answer before it was swallowed");
    faults.refuse_in_200("calls_list", 1);
    let (status, json) = socket.ask("call_list", &[]).await;
    assert!(status == "200" && json.contains("\"error\""), "{json}");
    faults.next_messages(Link::CallApi, 0, MessageFault::Oversize, 1);
    let (_, frame) = socket.frame("call_list", &[]);
    socket.send_text(&frame).await;
    assert!(socket.read().await.unwrap().len() > 16 << 20);
    socket.read().await.unwrap();
    faults.next_messages(Link::CallApi, 0, MessageFault::Truncate, 1);
    socket.send_text(&frame).await;
    assert!(socket.read().await.unwrap().len() < 200);
    assert_eq!(socket.read().await, None);

    for (point, executed) in [(CutPoint::Before, false), (CutPoint::During, true), (CutPoint::After, true)] {
        let mut socket = fixture.socket(&cookie).await;
        for over_http in [false, true] {
            faults.swallow_answer("call_make", point, 1);
            let before = fixture.ctx.switch.calls(Some(DOMAIN)).len();
            if over_http {
                assert!(fixture.operate(&cookie, "call_make", &[("from", "1004"), ("to", "1005")]).await.is_none(), "{point:?}");
            } else {
                let (_, frame) = socket.frame("call_make", &[("from", "1001"), ("to", "1002")]);
                socket.send_text(&frame).await;
                while socket.read().await.is_some() {}
            }
            assert_eq!(fixture.ctx.switch.calls(Some(DOMAIN)).len() > before, executed, "{point:?}");
        }
    }
}

#[tokio::test]
async fn a_cut_a_frozen_and_an_expired_link_show() {
    let fixture = Fixture::start(0).await;
    let cookie = fixture.login().await;
    let mut socket = fixture.socket(&cookie).await;
    fixture.ctx.faults.set_half_open(Link::CallApi, 0, true);
    let (id, frame) = socket.frame("call_list", &[]);
    socket.send_text(&frame).await;
    assert!(timeout(Duration::from_millis(200), socket.stream.peek(&mut [0])).await.is_err(), "nothing comes while it is frozen");
    fixture.ctx.faults.set_half_open(Link::CallApi, 0, false);
    socket.answer(&id).await;
    fixture.ctx.faults.drop_now(Link::CallApi, 0);
    assert_eq!(socket.read().await, None);
    let mut socket = fixture.socket(&cookie).await;
    fixture.ctx.sessions.expire(Some(Link::CallApi), None);
    assert_eq!(socket.read().await, None);
}

#[tokio::test]
async fn tls_is_spoken_where_the_listener_has_it() {
    let mut fixture = Fixture::start(0).await;
    let (acceptor, ca) = crate::tls::make().unwrap();
    fixture.ctx.tls = Some(acceptor);
    let address = serve(fixture.ctx.clone()).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls_pki_types::pem::PemObject::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    // A client that does not speak TLS holds nobody up.
    let _silent = TcpStream::connect(address).await.unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    timeout(SOON, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 404");
}

#[tokio::test]
async fn commands_are_pipelined() {
    const COUNT: usize = 5000;
    let fixture = Fixture::start(0).await;
    let cookie = fixture.login().await;
    let mut socket = fixture.socket(&cookie).await;
    let call = fixture.ctx.switch.dial(DOMAIN, "1001", "1002").unwrap();
    fixture.ctx.switch.answer(DOMAIN, &call.call, "1002").unwrap();
    let began = Instant::now();
    let mut answered = 0;
    while answered < COUNT {
        for _ in 0..100 {
            let (_, frame) = socket.frame("call_dtmf", &[("call", &call.call), ("leg", &call.leg), ("digits", "1")]);
            socket.send_text(&frame).await;
        }
        for _ in 0..100 {
            let text = loop {
                let text = socket.read().await.unwrap();
                if !socket.is_event(&text) {
                    break text;
                }
            };
            assert_eq!(&text[16..19], "200");
            answered += 1;
        }
    }
    println!("{COUNT} commands: {:.0} commands/s", f64::from(u32::try_from(COUNT).unwrap()) / began.elapsed().as_secs_f64());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_does_not_read_is_cut_and_counted() {
    let fixture = Fixture::start(0).await;
    let cookie = fixture.login().await;
    let _stuck = fixture.socket(&cookie).await;
    let before = call_api::slow_applications_cut();
    let began = Instant::now();
    while call_api::slow_applications_cut() == before {
        assert!(began.elapsed() < Duration::from_secs(60), "not cut in time");
        for _ in 0..100 {
            let call = fixture.ctx.switch.dial(DOMAIN, "1001", "1002").unwrap().call;
            fixture.ctx.switch.release_call(DOMAIN, &call).unwrap();
        }
        tokio::task::yield_now().await;
    }
    let mut other = fixture.socket(&cookie).await;
    assert_eq!(other.ask("call_list", &[]).await.0, "200", "others are served");
}
