//! Apple's rules and the faults, seen by a raw client that may break every rule itself.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    Arrival, ClientCertificate, Device, DeviceState, Effect, Environment, Fault, FirstToken, GoAway, LastStream, Options, Provider,
    PushSim, TeamKey, TokenUpdates, When,
    http2::{
        frame::{self, Head},
        hpack::Decoder,
    },
    jwt::sign,
};

/// How long a test waits for what must come; what must not come is not waited for.
const PATIENCE: Duration = Duration::from_secs(10);
const TOKEN: &str = "aa11bb22cc33dd44aa11bb22cc33dd44aa11bb22cc33dd44aa11bb22cc33dd44";
const APP: &str = "org.elph.phone";

async fn sim(options: Options) -> PushSim {
    let sim = PushSim::start(options).await.unwrap();
    sim.add_device(Device::apns(TOKEN));
    sim
}

fn bearer(team: &TeamKey, issued_ago_s: i64) -> String {
    let claims = json!({ "iss": team.team_id, "iat": jiff::Timestamp::now().as_second() - issued_ago_s });
    format!("bearer {}", sign::es256(&team.p8, json!({ "alg": "ES256", "kid": team.key_id }), claims))
}

// === a raw client ===

struct Raw {
    tls: TlsStream<TcpStream>,
    input: Vec<u8>,
    decoder: Decoder,
    next: u32,
    answers: VecDeque<(u32, Answer)>,
    partial: Vec<(u32, Answer)>,
    events: VecDeque<Event>,
    acknowledges: bool,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Answer {
    status: u16,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq)]
enum Event {
    MaxStreams(u32),
    GoAway { last: u32, code: u32, debug: String },
    Reset { stream: u32, code: u32 },
    Pong(Vec<u8>),
    End,
}

#[derive(Clone)]
struct Push {
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Push {
    /// A good alert.
    fn new(token: &str, authorization: Option<&str>) -> Self {
        let mut push = Self { fields: Vec::new(), body: br#"{"aps":{"alert":"hello"}}"#.to_vec() };
        let path = format!("/3/device/{token}");
        let usual = [(":method", "POST"), (":scheme", "https"), (":path", &path), ("apns-topic", APP), ("apns-push-type", "alert")];
        for (name, value) in usual {
            push = push.with(name, value);
        }
        match authorization {
            Some(text) => push.with("authorization", text),
            None => push,
        }
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.fields.retain(|(known, _)| known != name);
        self.and(name, value)
    }

    fn and(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.fields.retain(|(known, _)| known != name);
        self
    }

    fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    fn block(&self) -> Vec<u8> {
        let mut block = Vec::new();
        for (name, value) in &self.fields {
            block.push(0);
            for text in [name, value] {
                match text.len() {
                    short @ 0..127 => block.push(short as u8),
                    long => {
                        block.push(127);
                        let mut rest = long - 127;
                        while rest >= 128 {
                            block.push((rest % 128) as u8 | 0x80);
                            rest /= 128;
                        }
                        block.push(rest as u8);
                    }
                }
                block.extend_from_slice(text.as_bytes());
            }
        }
        block
    }
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    fn reason(&self) -> String {
        self.json().get("reason").and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl Raw {
    async fn connect(sim: &PushSim, certificate: Option<&ClientCertificate>) -> std::io::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(sim.ca_pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        let mut config = match certificate {
            Some(pair) => {
                let chain = vec![CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes()).unwrap()];
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).unwrap()).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let socket = TcpStream::connect(sim.addresses().apns).await?;
        let name = ServerName::try_from("api.push.apple.com").unwrap();
        let mut tls = TlsConnector::from(Arc::new(config)).connect(name, socket).await?;
        let mut hello = frame::PREFACE.to_vec();
        frame::settings(&mut hello, &[]);
        tls.write_all(&hello).await?;
        Ok(Self {
            tls,
            input: Vec::new(),
            decoder: Decoder::default(),
            next: 1,
            answers: VecDeque::new(),
            partial: Vec::new(),
            events: VecDeque::new(),
            acknowledges: true,
        })
    }

    fn frames(&mut self, out: &mut Vec<u8>, push: &Push) -> u32 {
        let stream = self.next;
        self.next += 2;
        let block = push.block();
        let end = if push.body.is_empty() { frame::END_STREAM } else { 0 };
        let pieces: Vec<&[u8]> = block.chunks(frame::MAX_FRAME).collect();
        for (at, piece) in pieces.iter().enumerate() {
            let last = if at + 1 == pieces.len() { frame::END_HEADERS } else { 0 };
            let (kind, flags) = if at == 0 { (frame::HEADERS, last | end) } else { (frame::CONTINUATION, last) };
            frame::head(out, piece.len(), kind, flags, stream);
            out.extend_from_slice(piece);
        }
        if !push.body.is_empty() {
            frame::head(out, push.body.len(), frame::DATA, frame::END_STREAM, stream);
            out.extend_from_slice(&push.body);
        }
        stream
    }

    async fn send(&mut self, push: &Push) -> u32 {
        self.send_all(std::slice::from_ref(push)).await[0]
    }

    /// All in one write.
    async fn send_all(&mut self, pushes: &[Push]) -> Vec<u32> {
        let mut out = Vec::new();
        let streams = pushes.iter().map(|push| self.frames(&mut out, push)).collect();
        self.write(&out).await;
        streams
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.tls.write_all(bytes).await.unwrap();
        self.tls.flush().await.unwrap();
    }

    /// Reads one more frame.
    async fn step(&mut self) {
        loop {
            if let Some(head) = Head::parse(&self.input)
                && self.input.len() >= frame::HEADER + head.length
            {
                let payload = self.input[frame::HEADER..frame::HEADER + head.length].to_vec();
                self.input.drain(..frame::HEADER + head.length);
                return self.frame(head, &payload).await;
            }
            let mut buffer = vec![0; 16 * 1024];
            match tokio::time::timeout(PATIENCE, self.tls.read(&mut buffer)).await.expect("the simulator says nothing") {
                Ok(0) | Err(_) => return self.events.push_back(Event::End),
                Ok(length) => self.input.extend_from_slice(&buffer[..length]),
            }
        }
    }

    async fn frame(&mut self, head: Head, payload: &[u8]) {
        let word = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        match head.kind {
            frame::SETTINGS if !head.has(frame::ACK) => {
                for setting in payload.chunks(6) {
                    if setting[1] == 3 {
                        self.events.push_back(Event::MaxStreams(u32::from_be_bytes(setting[2..].try_into().unwrap())));
                    }
                }
                if self.acknowledges {
                    self.acknowledge().await;
                }
            }
            frame::HEADERS => {
                let mut answer = Answer::default();
                let mut fields = Vec::new();
                self.decoder
                    .decode(payload, |name, value| {
                        fields.push((String::from_utf8(name.to_vec()).unwrap(), String::from_utf8(value.to_vec()).unwrap()));
                    })
                    .unwrap();
                answer.status = fields.iter().find(|(name, _)| name == ":status").unwrap().1.parse().unwrap();
                answer.fields = fields;
                self.partial.push((head.stream, answer));
            }
            frame::DATA => {
                let (_, answer) = self.partial.iter_mut().find(|(stream, _)| *stream == head.stream).unwrap();
                answer.body.extend_from_slice(payload);
            }
            frame::RST_STREAM => self.events.push_back(Event::Reset { stream: head.stream, code: word(0) }),
            frame::GOAWAY => {
                let debug = String::from_utf8(payload[8..].to_vec()).unwrap();
                self.events.push_back(Event::GoAway { last: word(0), code: word(4), debug });
            }
            frame::PING => self.events.push_back(Event::Pong(payload.to_vec())),
            _ => {}
        }
        if matches!(head.kind, frame::HEADERS | frame::DATA) && head.has(frame::END_STREAM) {
            let at = self.partial.iter().position(|(stream, _)| *stream == head.stream).unwrap();
            let answer = self.partial.remove(at);
            self.answers.push_back(answer);
        }
    }

    async fn acknowledge(&mut self) {
        let mut ack = Vec::new();
        frame::head(&mut ack, 0, frame::SETTINGS, frame::ACK, 0);
        // the other end may have gone already
        _ = self.tls.write_all(&ack).await;
        _ = self.tls.flush().await;
    }

    async fn answer(&mut self, stream: u32) -> Answer {
        loop {
            if let Some(at) = self.answers.iter().position(|(known, _)| *known == stream) {
                return self.answers.remove(at).unwrap().1;
            }
            assert!(!self.events.contains(&Event::End), "the connection ended before the answer on stream {stream}");
            self.step().await;
        }
    }

    async fn ask(&mut self, push: &Push) -> Answer {
        let stream = self.send(push).await;
        self.answer(stream).await
    }

    /// The next event that fits.
    async fn event(&mut self, fits: impl Fn(&Event) -> bool) -> Event {
        loop {
            if let Some(at) = self.events.iter().position(&fits) {
                return self.events.remove(at).unwrap();
            }
            assert!(!self.events.contains(&Event::End), "the connection ended before the event");
            self.step().await;
        }
    }

    async fn end(&mut self) {
        self.event(|event| *event == Event::End).await;
    }

    /// Everything written so far has been read and handled by the other end.
    async fn ping(&mut self) {
        let mut ping = Vec::new();
        frame::head(&mut ping, 8, frame::PING, 0, 0);
        ping.extend_from_slice(b"pushsim!");
        self.write(&ping).await;
        self.event(|event| *event == Event::Pong(b"pushsim!".to_vec())).await;
    }

    /// A connection with its first token through.
    async fn warm(sim: &PushSim) -> (Self, Push) {
        let mut raw = Self::connect(sim, None).await.unwrap();
        let push = Push::new(TOKEN, Some(&bearer(sim.team(), 0)));
        assert_eq!(raw.ask(&push).await.status, 200);
        (raw, push)
    }
}

fn statuses(arrived: &[Arrival]) -> Vec<u16> {
    arrived.iter().map(|one| one.status).collect()
}

// === the rules ===

#[tokio::test]
async fn a_push_arrives_with_all_that_it_says() {
    let sim = sim(Options::default()).await;
    let mut raw = Raw::connect(&sim, None).await.unwrap();
    let id = "01234567-89ab-cdef-0123-456789abcdef";
    let push = Push::new(TOKEN, Some(&bearer(sim.team(), 0)))
        .with("apns-id", id)
        .with("apns-priority", "10")
        .with("apns-expiration", "0")
        .with("apns-collapse-id", &"c".repeat(64));
    let answer = raw.ask(&push).await;
    assert_eq!((answer.status, answer.field("apns-id"), answer.body.len()), (200, Some(id), 0));
    let made = raw.ask(&push.clone().without("apns-id").with(":path", &format!("/3/device/{}", TOKEN.to_uppercase()))).await;
    assert_eq!(made.field("apns-id").map(str::len), Some(36));
    let arrived = sim.arrived();
    let [first, second] = arrived.as_slice() else { panic!("{arrived:?}") };
    assert_eq!((first.number, first.connection, first.stream, second.stream), (1, 1, 1, 3));
    assert_eq!((first.device.as_str(), first.id.as_str(), first.is_accepted()), (TOKEN, id, true));
    assert_eq!(first.sender, format!("token {}/{}", sim.team().team_id, sim.team().key_id));
    assert_eq!((first.header("apns-topic"), first.header("authorization")), (Some(APP), None));
    assert_eq!(first.json(), json!({ "aps": { "alert": "hello" } }));
    assert_eq!(Some(second.id.as_str()), made.field("apns-id"));
    assert_eq!(second.device, TOKEN);
    let counters = sim.counters().apns;
    assert_eq!((counters.connections, counters.open_connections, counters.requests, counters.accepted), (1, 1, 2, 2));
    sim.shutdown().await;
}

#[tokio::test]
async fn every_documented_refusal_is_given_for_what_causes_it() {
    let sim = sim(Options::default()).await;
    for (token, device) in [
        ("01", Device::apns("01".repeat(32)).topic("org.elph.phone.voip")),
        ("02", Device::apns("02".repeat(32)).environment(Environment::Sandbox)),
        ("03", Device::apns("03".repeat(32)).state(DeviceState::Unregistered { since_ms: 1_700_000_000_123 })),
        ("04", Device::apns("04".repeat(32)).state(DeviceState::Expired { since_ms: 1_700_000_000_456 })),
    ] {
        assert_eq!(device.token, token.repeat(32));
        sim.add_device(device);
    }
    let stranger = PushSim::start(Options { seed: Some(7), ..Options::default() }).await.unwrap();
    let (mut raw, first) = Raw::warm(&sim).await;
    let push = || first.clone();
    let voip = || push().with("apns-topic", "org.elph.phone.voip").with("apns-push-type", "voip");
    let json = |length: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(length - 8));
    let at = |path: &str| push().with(":path", path);
    let cases: Vec<(Push, u16, &str)> = vec![
        (push().with(":method", "GET"), 405, "MethodNotAllowed"),
        (at("/4/device/aa"), 404, "BadPath"),
        (at("/3/device/aa/bb"), 404, "BadPath"),
        (at("/3/device/"), 400, "MissingDeviceToken"),
        (at("/3/device/zz"), 400, "BadDeviceToken"),
        (at("/3/device/aabb"), 400, "BadDeviceToken"),
        (at(&format!("/3/device/{}", "ef".repeat(32))), 400, "BadDeviceToken"),
        (at(&format!("/3/device/{}", "02".repeat(32))), 400, "BadDeviceToken"),
        (at(&format!("/3/device/{}", "01".repeat(32))), 400, "DeviceTokenNotForTopic"),
        (at(&format!("/3/device/{}", "03".repeat(32))), 410, "Unregistered"),
        (at(&format!("/3/device/{}", "04".repeat(32))), 410, "ExpiredToken"),
        (push().without("authorization"), 403, "MissingProviderToken"),
        (push().with("authorization", "basic abc"), 403, "InvalidProviderToken"),
        (push().with("authorization", &bearer(stranger.team(), 0)), 403, "InvalidProviderToken"),
        (push().with("authorization", &bearer(sim.team(), 3700)), 403, "ExpiredProviderToken"),
        (push().with("apns-id", "not-a-uuid"), 400, "BadMessageId"),
        (push().with("apns-expiration", "soon"), 400, "BadExpirationDate"),
        (push().with("apns-expiration", "-1"), 400, "BadExpirationDate"),
        (push().with("apns-push-type", "shout"), 400, "InvalidPushType"),
        (push().with("apns-priority", "7"), 400, "BadPriority"),
        (push().with("apns-push-type", "background").with("apns-priority", "10"), 400, "BadPriority"),
        (push().with("apns-collapse-id", &"c".repeat(65)), 400, "BadCollapseId"),
        (push().without("apns-topic"), 400, "MissingTopic"),
        (push().with("apns-topic", "org elph"), 400, "BadTopic"),
        (push().with("apns-topic", "com.example.other"), 400, "TopicDisallowed"),
        (push().with("apns-push-type", "voip"), 400, "BadTopic"),
        (push().with("apns-topic", "org.elph.phone.voip"), 400, "InvalidPushType"),
        (push().and("apns-topic", APP), 400, "DuplicateHeaders"),
        (push().with("x-large", &"x".repeat(15_000)).and("y-large", &"y".repeat(2_000)), 431, "RequestHeaderFieldsTooLarge"),
        (push().body(""), 400, "PayloadEmpty"),
        (push().body("{\"aps\":"), 400, "BadRequest"),
        (push().body("[1]"), 400, "BadRequest"),
        (push().body(json(4097)), 413, "PayloadTooLarge"),
        (voip().body(json(5121)), 413, "PayloadTooLarge"),
        (push().body(json(16_000)), 413, "PayloadTooLarge"),
        // and what is good
        (push().body(json(4096)), 200, ""),
        (voip().body(json(5120)), 200, ""),
        (at(&format!("/3/device/{}", "01".repeat(32))).with("apns-topic", "org.elph.phone.voip").with("apns-push-type", "voip"), 200, ""),
        (push().with("apns-push-type", "background").with("apns-priority", "5"), 200, ""),
        (push().without("apns-push-type").with("apns-priority", "1").with("apns-expiration", "1700000000"), 200, ""),
    ];
    for (number, (push, status, reason)) in cases.iter().enumerate() {
        let answer = raw.ask(push).await;
        assert_eq!((answer.status, answer.reason().as_str()), (*status, *reason), "case {number}");
        assert_eq!(answer.field("apns-id").map(str::len), Some(36), "every answer has an apns-id");
        let timestamp = answer.json().get("timestamp").and_then(Value::as_i64);
        match *reason {
            "Unregistered" => assert_eq!(timestamp, Some(1_700_000_000_123)),
            "ExpiredToken" => assert_eq!(timestamp, Some(1_700_000_000_456)),
            _ => assert_eq!(timestamp, None),
        }
    }
    let refused: u64 = sim.counters().apns.refused.values().sum();
    assert_eq!(refused, cases.iter().filter(|(_, status, _)| *status != 200).count() as u64);
    let arrived = sim.arrived();
    assert_eq!(arrived.len(), cases.len() + 1);
    assert_eq!(statuses(&arrived)[1..], cases.iter().map(|(_, status, _)| *status).collect::<Vec<_>>());
    sim.shutdown().await;
}

#[tokio::test]
async fn a_client_certificate_sends_to_its_topics_without_a_token() {
    let sim = sim(Options::default()).await;
    let many = sim.client_certificate(&[APP, "org.elph.phone.voip"], Duration::from_secs(60)).unwrap();
    let mut raw = Raw::connect(&sim, Some(&many)).await.unwrap();
    assert_eq!(raw.event(|event| matches!(event, Event::MaxStreams(_))).await, Event::MaxStreams(1000));
    let push = Push::new(TOKEN, None);
    assert_eq!(raw.ask(&push).await.status, 200);
    assert_eq!(raw.ask(&push.clone().without("apns-topic")).await.reason(), "MissingTopic");
    assert_eq!(raw.ask(&push.clone().with("apns-topic", "org.elph.phone.complication")).await.reason(), "TopicDisallowed");
    assert_eq!(sim.arrived()[0].sender, "certificate org.elph.phone");

    let one = sim.client_certificate(&[APP], Duration::from_secs(60)).unwrap();
    let mut raw = Raw::connect(&sim, Some(&one)).await.unwrap();
    assert_eq!(raw.ask(&push.without("apns-topic")).await.status, 200, "the only topic is the default");
    sim.shutdown().await;
}

#[tokio::test]
async fn an_expired_or_foreign_client_certificate_ends_the_handshake() {
    let sim = sim(Options::default()).await;
    let other = PushSim::start(Options::default()).await.unwrap();
    let expired = sim.client_certificate(&[APP], Duration::ZERO).unwrap();
    let foreign = other.client_certificate(&[APP], Duration::from_secs(60)).unwrap();
    for certificate in [expired, foreign] {
        // with TLS 1.3 the client learns of it after its own handshake
        if let Ok(mut raw) = Raw::connect(&sim, Some(&certificate)).await {
            raw.end().await;
        }
    }
    assert_eq!(sim.counters().apns.failed_handshakes, 2);
    sim.shutdown().await;
}

// === provider tokens ===

#[tokio::test]
async fn before_the_first_valid_token_there_is_one_stream() {
    let sim = sim(Options::default()).await;
    let mut raw = Raw::connect(&sim, None).await.unwrap();
    let is_setting = |event: &Event| matches!(event, Event::MaxStreams(_));
    assert_eq!(raw.event(is_setting).await, Event::MaxStreams(1));
    let good = Push::new(TOKEN, Some(&bearer(sim.team(), 0)));
    let bad = Push::new(TOKEN, Some("bearer a.b.c"));
    assert_eq!(raw.ask(&bad).await.reason(), "InvalidProviderToken");
    let streams = raw.send_all(&[good.clone(), good.clone(), good.clone()]).await;
    assert_eq!(raw.answer(streams[0]).await.status, 200);
    for stream in &streams[1..] {
        raw.event(|event| *event == Event::Reset { stream: *stream, code: frame::REFUSED_STREAM }).await;
    }
    assert_eq!(raw.event(is_setting).await, Event::MaxStreams(1000));
    let streams = raw.send_all(&vec![good; 50]).await;
    for stream in streams {
        assert_eq!(raw.answer(stream).await.status, 200);
    }
    let clients = sim.counters().apns_clients;
    assert_eq!((clients.streams_before_first_token, clients.streams_refused), (2, 2));
    assert_eq!(sim.arrived().len(), 52);
    sim.shutdown().await;
}

#[tokio::test]
async fn the_rule_of_one_stream_can_count_only_or_be_off() {
    for (rule, limit, counted) in [(FirstToken::Count, 1, 2), (FirstToken::Off, 1000, 0)] {
        let sim = sim(Options { first_token: rule, ..Options::default() }).await;
        let mut raw = Raw::connect(&sim, None).await.unwrap();
        assert_eq!(raw.event(|event| matches!(event, Event::MaxStreams(_))).await, Event::MaxStreams(limit));
        let push = Push::new(TOKEN, Some(&bearer(sim.team(), 0)));
        for stream in raw.send_all(&vec![push; 3]).await {
            assert_eq!(raw.answer(stream).await.status, 200);
        }
        let clients = sim.counters().apns_clients;
        assert_eq!((clients.streams_before_first_token, clients.streams_refused), (counted, 0), "{rule:?}");
        sim.shutdown().await;
    }
}

#[tokio::test]
async fn a_provider_token_may_be_renewed_after_20_minutes_and_must_be_after_60() {
    let sim = sim(Options::default()).await;
    let (mut raw, first) = Raw::warm(&sim).await;
    // a token of the same key, issued a second before, that this connection has not seen
    let second = first.clone().with("authorization", &bearer(sim.team(), 1));
    assert_eq!(raw.ask(&second).await.reason(), "TooManyProviderTokenUpdates");
    assert_eq!(raw.ask(&first).await.status, 200);
    sim.advance(Duration::from_secs(20 * 60));
    assert_eq!(raw.ask(&second).await.status, 200);
    sim.advance(Duration::from_secs(40 * 60));
    assert_eq!(raw.ask(&second).await.reason(), "ExpiredProviderToken");
    assert_eq!(sim.counters().apns_clients.early_token_updates, 1);
    sim.shutdown().await;
}

#[tokio::test]
async fn early_renewals_can_be_refused_over_all_connections_of_a_key() {
    let sim = sim(Options { token_updates: TokenUpdates::PerKey, ..Options::default() }).await;
    let (_open, first) = Raw::warm(&sim).await;
    let mut raw = Raw::connect(&sim, None).await.unwrap();
    let second = first.clone().with("authorization", &bearer(sim.team(), 1));
    assert_eq!(raw.ask(&second).await.reason(), "TooManyProviderTokenUpdates");
    assert_eq!(raw.ask(&first).await.status, 200);
    sim.shutdown().await;
}

#[tokio::test]
async fn a_revoked_key_and_another_team_on_the_same_connection_are_refused() {
    let sim = sim(Options::default()).await;
    let other = sim.add_team("TEAM000009", "KEY0000009", &[]).unwrap();
    let (mut raw, push) = Raw::warm(&sim).await;
    assert_eq!(raw.ask(&push.clone().with("authorization", &bearer(&other, 0))).await.reason(), "InvalidProviderToken");
    assert!(sim.revoke_team_key(&sim.team().key_id.clone()));
    assert_eq!(raw.ask(&push).await.reason(), "InvalidProviderToken");
    let mut raw = Raw::connect(&sim, None).await.unwrap();
    let any_topic = push.with("authorization", &bearer(&other, 0)).with("apns-topic", "com.example.any");
    assert_eq!(raw.ask(&any_topic).await.status, 200, "a team without topics may send to any");
    sim.shutdown().await;
}

// === streams ===

#[tokio::test]
async fn a_lower_limit_of_streams_refuses_at_once_and_blames_only_a_client_that_knows_it() {
    let sim = sim(Options::default()).await;
    let (mut raw, push) = Raw::warm(&sim).await;
    raw.event(|event| *event == Event::MaxStreams(1000)).await;
    raw.ping().await;
    sim.fault(Fault::new(Provider::Apns, Effect::Silence).times(2));
    raw.send_all(&[push.clone(), push.clone()]).await;
    raw.ping().await;

    raw.acknowledges = false;
    sim.set_max_streams(2);
    raw.event(|event| *event == Event::MaxStreams(2)).await;
    let stream = raw.send(&push).await;
    raw.event(|event| *event == Event::Reset { stream, code: frame::REFUSED_STREAM }).await;
    let clients = sim.counters().apns_clients;
    assert_eq!((clients.streams_refused, clients.streams_above_limit), (1, 0), "it may not have known");

    raw.acknowledge().await;
    let stream = raw.send(&push).await;
    raw.event(|event| *event == Event::Reset { stream, code: frame::REFUSED_STREAM }).await;
    let clients = sim.counters().apns_clients;
    assert_eq!((clients.streams_refused, clients.streams_above_limit), (2, 1));

    sim.set_max_streams(3);
    raw.event(|event| *event == Event::MaxStreams(3)).await;
    assert_eq!(raw.ask(&push).await.status, 200);
    sim.shutdown().await;
}

#[tokio::test]
async fn a_goaway_drops_the_streams_above_its_last_and_names_apple_s_reason() {
    let sim = sim(Options { delay: Duration::from_secs(3600), ..Options::default() }).await;
    let pair = sim.client_certificate(&[APP], Duration::from_secs(60)).unwrap();
    let mut raw = Raw::connect(&sim, Some(&pair)).await.unwrap();
    let push = Push::new(TOKEN, None);
    let streams = raw.send_all(&vec![push.clone(); 5]).await;
    raw.ping().await;
    sim.goaway(&GoAway { last_stream: LastStream::Before(2), ..GoAway::default() });
    let goaway = raw.event(|event| matches!(event, Event::GoAway { .. })).await;
    assert_eq!(goaway, Event::GoAway { last: streams[2], code: 0, debug: r#"{"reason":"Shutdown"}"#.to_owned() });
    raw.send(&push).await;
    raw.ping().await;
    let arrived = sim.arrived();
    assert_eq!(statuses(&arrived), [200, 200, 200, 0, 0]);
    assert_eq!(arrived[4].reason, "not processed");
    assert_eq!(sim.counters().apns_clients.streams_after_goaway, 1);
    sim.shutdown().await;
}

#[tokio::test]
async fn a_goaway_after_some_requests_answers_those_and_ends_the_connection() {
    let sim = sim(Options::default()).await;
    let (mut raw, push) = Raw::warm(&sim).await;
    sim.goaway(&GoAway { when: When::AfterRequests(2), reason: None, code: frame::ENHANCE_YOUR_CALM, ..GoAway::default() });
    let streams = raw.send_all(&vec![push.clone(); 2]).await;
    for stream in &streams {
        assert_eq!(raw.answer(*stream).await.status, 200);
    }
    let goaway = raw.event(|event| matches!(event, Event::GoAway { .. })).await;
    assert_eq!(goaway, Event::GoAway { last: streams[1], code: frame::ENHANCE_YOUR_CALM, debug: String::new() });
    raw.end().await;
    assert_eq!(sim.arrived().len(), 3);
    sim.shutdown().await;
}

#[tokio::test]
async fn a_connection_can_stay_after_its_goaway_and_answer_nothing_more() {
    let sim = sim(Options::default()).await;
    let (mut raw, push) = Raw::warm(&sim).await;
    sim.goaway(&GoAway { close: false, ..GoAway::default() });
    raw.event(|event| matches!(event, Event::GoAway { last: 1, .. })).await;
    raw.send(&push).await;
    raw.ping().await;
    assert!(raw.answers.is_empty());
    assert_eq!((sim.arrived().len(), sim.counters().apns_clients.streams_after_goaway), (1, 1));
    sim.shutdown().await;
}

#[tokio::test]
async fn what_breaks_http_2_ends_the_connection_with_a_word_why() {
    let sim = sim(Options::default()).await;
    let mut even = Vec::new();
    frame::head(&mut even, 1, frame::HEADERS, frame::END_HEADERS, 2);
    even.push(0x82);
    let mut long = Vec::new();
    frame::head(&mut long, frame::MAX_FRAME + 1, frame::DATA, 0, 1);
    let mut garbled = Vec::new();
    frame::head(&mut garbled, 1, frame::HEADERS, frame::END_HEADERS, 1);
    garbled.push(0xff);
    let mut alone = Vec::new();
    frame::head(&mut alone, 0, frame::CONTINUATION, 0, 1);
    for (bytes, expected) in [
        (even, frame::PROTOCOL_ERROR),
        (long, frame::FRAME_SIZE_ERROR),
        (garbled, frame::COMPRESSION_ERROR),
        (alone, frame::PROTOCOL_ERROR),
    ] {
        let mut raw = Raw::connect(&sim, None).await.unwrap();
        raw.write(&bytes).await;
        let Event::GoAway { code, .. } = raw.event(|event| matches!(event, Event::GoAway { .. })).await else { unreachable!() };
        assert_eq!(code, expected);
        raw.end().await;
    }
    assert_eq!(sim.counters().apns_clients.protocol_errors, 4);
    sim.shutdown().await;
}

#[tokio::test]
async fn headers_in_pieces_padding_and_small_windows_are_understood() {
    let sim = sim(Options::default()).await;
    let mut raw = Raw::connect(&sim, None).await.unwrap();
    let push = Push::new(TOKEN, Some(&bearer(sim.team(), 0)));
    let mut out = Vec::new();
    let block = push.block();
    let (first, rest) = block.split_at(10);
    let (second, third) = rest.split_at(20);
    frame::head(&mut out, first.len() + 5, frame::HEADERS, frame::WITH_PRIORITY, 1);
    out.extend_from_slice(&[0, 0, 0, 0, 15]);
    out.extend_from_slice(first);
    frame::head(&mut out, second.len(), frame::CONTINUATION, 0, 1);
    out.extend_from_slice(second);
    frame::head(&mut out, third.len(), frame::CONTINUATION, frame::END_HEADERS, 1);
    out.extend_from_slice(third);
    frame::head(&mut out, push.body.len() + 8, frame::DATA, frame::PADDED | frame::END_STREAM, 1);
    out.push(7);
    out.extend_from_slice(&push.body);
    out.extend_from_slice(&[0; 7]);
    // byte by byte, so that every frame comes in pieces
    for byte in out {
        raw.write(&[byte]).await;
    }
    assert_eq!(raw.answer(1).await.status, 200);
    raw.next = 3;

    // a client that takes four bytes at a time
    let mut small = Vec::new();
    frame::settings(&mut small, &[(frame::SETTING_INITIAL_WINDOW_SIZE, 4)]);
    raw.write(&small).await;
    let stream = raw.send(&push.clone().with("apns-priority", "7")).await;
    while raw.partial.iter().all(|(_, answer)| answer.body.len() < 4) {
        raw.step().await;
    }
    raw.ping().await;
    assert_eq!(raw.partial[0].1.body.len(), 4);
    let mut more = Vec::new();
    frame::window_update(&mut more, stream, 1000);
    raw.write(&more).await;
    assert_eq!(raw.answer(stream).await.reason(), "BadPriority");
    sim.shutdown().await;
}

// === faults ===

#[tokio::test]
async fn answers_come_as_a_fault_says_for_its_device_alone() {
    let sim = sim(Options::default()).await;
    let other = "0e".repeat(32);
    sim.add_device(Device::apns(&other));
    let (mut raw, push) = Raw::warm(&sim).await;
    let retry = Effect::answer_retry_after(503, "ServiceUnavailable", "17");
    sim.fault(Fault::new(Provider::Apns, retry).device(TOKEN).times(1));
    sim.fault(Fault::new(Provider::Apns, Effect::HtmlBadGateway).device(TOKEN).times(1));
    sim.fault(Fault::new(Provider::Apns, Effect::Reset { code: frame::REFUSED_STREAM }).device(TOKEN).times(1));
    let elsewhere = push.clone().with(":path", &format!("/3/device/{other}"));
    assert_eq!(raw.ask(&elsewhere).await.status, 200);
    let answer = raw.ask(&push).await;
    assert_eq!((answer.status, answer.reason().as_str(), answer.field("retry-after")), (503, "ServiceUnavailable", Some("17")));
    let answer = raw.ask(&push).await;
    assert_eq!((answer.status, answer.field("content-type")), (502, Some("text/html; charset=utf-8")));
    assert!(answer.body.starts_with(b"<!DOCTYPE html>"));
    let stream = raw.send(&push).await;
    raw.event(|event| *event == Event::Reset { stream, code: frame::REFUSED_STREAM }).await;
    assert_eq!(raw.ask(&push).await.status, 200);
    assert!(sim.faults().is_empty());
    sim.shutdown().await;
}

#[tokio::test]
async fn a_silent_push_is_delivered_and_never_answered_while_others_are() {
    let sim = sim(Options::default()).await;
    let (mut raw, push) = Raw::warm(&sim).await;
    sim.fault(Fault::new(Provider::Apns, Effect::Silence).times(1));
    raw.send(&push).await;
    assert_eq!(raw.ask(&push).await.status, 200);
    raw.ping().await;
    assert!(raw.answers.is_empty());
    assert_eq!(statuses(&sim.arrived()), [200, 0, 200]);
    sim.shutdown().await;
}

#[tokio::test]
async fn a_mute_connection_answers_nothing_not_even_a_ping_and_new_ones_neither() {
    let sim = sim(Options::default()).await;
    let (mut raw, push) = Raw::warm(&sim).await;
    sim.fault(Fault::new(Provider::Apns, Effect::Mute));
    let mut ping = Vec::new();
    frame::head(&mut ping, 8, frame::PING, 0, 0);
    ping.extend_from_slice(b"hello?!?");
    raw.write(&ping).await;
    raw.send(&push).await;
    let mut new = Raw::connect(&sim, None).await.unwrap();
    new.send(&push).await;
    sim.clear_faults();
    // a connection after the fault is as good as ever; by its answer the mute ones have had their time
    Raw::warm(&sim).await.0.ping().await;
    sim.cut(Provider::Apns);
    raw.end().await;
    new.end().await;
    assert!(raw.answers.is_empty() && new.answers.is_empty());
    assert!(!raw.events.iter().chain(&new.events).any(|event| matches!(event, Event::Pong(_))));
    sim.shutdown().await;
}

#[tokio::test]
async fn a_half_open_connection_goes_on_where_it_stopped() {
    let sim = sim(Options::default()).await;
    let (mut raw, push) = Raw::warm(&sim).await;
    sim.fault(Fault::new(Provider::Apns, Effect::HalfOpen));
    let stream = raw.send(&push).await;
    // nobody else gets in either
    let waits = tokio::time::timeout(Duration::from_millis(50), Raw::connect(&sim, None)).await;
    assert!(waits.is_err());
    assert_eq!(sim.arrived().len(), 1);
    sim.clear_faults();
    assert_eq!(raw.answer(stream).await.status, 200);
    sim.shutdown().await;
}

#[tokio::test]
async fn connections_are_cut_refused_or_end_in_the_middle_of_an_answer() {
    let sim = sim(Options::default()).await;
    let (mut raw, push) = Raw::warm(&sim).await;
    sim.fault(Fault::new(Provider::Apns, Effect::CutMidAnswer).times(1));
    raw.send(&push).await;
    raw.end().await;
    assert_eq!(raw.partial.len(), 1, "an answer has begun");
    assert_eq!(sim.arrived().len(), 2);

    let (mut raw, push) = Raw::warm(&sim).await;
    sim.fault(Fault::new(Provider::Apns, Effect::Cut).times(1));
    raw.send(&push).await;
    raw.end().await;
    assert_eq!(sim.arrived().len(), 3, "a push that is cut off has not arrived");

    sim.fault(Fault::new(Provider::Apns, Effect::RefuseConnections));
    assert!(Raw::connect(&sim, None).await.is_err());
    sim.clear_faults();
    let (mut raw, _) = Raw::warm(&sim).await;
    sim.cut(Provider::Apns);
    raw.end().await;
    sim.shutdown().await;
}

#[tokio::test]
async fn a_slow_reader_lets_a_burst_through_only_bit_by_bit() {
    let sim = sim(Options::default()).await;
    let (mut raw, push) = Raw::warm(&sim).await;
    sim.fault(Fault::new(Provider::Apns, Effect::SlowReading { bytes_per_second: 20_000 }));
    let large = push.body(format!("{{\"a\":\"{}\"}}", "x".repeat(4000)));
    let began = std::time::Instant::now();
    for stream in raw.send_all(&vec![large; 3]).await {
        assert_eq!(raw.answer(stream).await.status, 200);
    }
    // 12 kB at 20 kB/s, the first slice at once
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    sim.shutdown().await;
}

#[tokio::test]
async fn answers_take_as_long_as_they_shall_and_do_not_wait_for_each_other() {
    let sim = sim(Options::default()).await;
    let (mut raw, push) = Raw::warm(&sim).await;
    sim.set_delay(Duration::from_millis(40));
    sim.fault(Fault::new(Provider::Apns, Effect::Delay { ms: 100 }).times(1));
    let began = std::time::Instant::now();
    let streams = raw.send_all(&vec![push; 100]).await;
    for stream in &streams[1..] {
        raw.answer(*stream).await;
    }
    assert!(began.elapsed() >= Duration::from_millis(40));
    assert!(raw.answers.is_empty(), "the slow one comes last");
    raw.answer(streams[0]).await;
    assert!(began.elapsed() >= Duration::from_millis(140));
    sim.shutdown().await;
}
