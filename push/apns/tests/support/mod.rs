//! A provider in the same process: HTTP/2 (RFC 9113) written by hand over in-memory streams, so that each frame is the test's to choose
//! and nothing is shared with the client under test. Answers use HPACK's static table only; requests are known by their bodies.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "what fails in a helper fails the test")]
#![expect(unreachable_pub, reason = "each test file uses a part of it")]

use std::{
    collections::{BTreeSet, VecDeque},
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use push_apns::{Apns, Auth, Clock, ProviderTokens, Settings};
use push_core::{
    ApnsPayload, ApnsPushType, Class, Environment, Outcome, Payload, Priority, Provider, PushId, Request, Sender, Target, Token,
    connect::{Connect, Connected, Connecting, HostPort},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf},
    sync::{Mutex, mpsc},
    task::JoinHandle,
    time::{Instant, timeout},
};

/// Time of day that passes with the test's time.
pub struct VirtualClock {
    began: Instant,
}

impl VirtualClock {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { began: Instant::now() })
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        let began: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        began.checked_add(SignedDuration::try_from(self.began.elapsed()).unwrap()).unwrap()
    }
}

pub fn tokens(clock: Arc<dyn Clock>) -> Arc<ProviderTokens> {
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    ProviderTokens::new(key.as_bytes(), "KEY4567890", "TEAM567890", clock).unwrap()
}

pub fn settings(clock: &Arc<VirtualClock>) -> Settings {
    let mut settings = Settings::new(Environment::Production, "com.example.phone", Auth::Token(tokens(clock.clone())));
    settings.clock = clock.clone();
    settings
}

/// Push number `number`; its body is the number.
pub fn push(number: usize, class: Class) -> Request {
    Request {
        id: PushId::of(&number.to_string()),
        target: Target::Device(Token::parse(Provider::Apns, &"0123456789abcdef".repeat(4)).unwrap()),
        class,
        priority: Priority::High,
        deadline: None,
        store: true,
        collapse: None,
        payload: Payload::Apns(ApnsPayload { push_type: ApnsPushType::Alert, body: Bytes::from(number.to_string()) }),
    }
}

pub type Answer = JoinHandle<Outcome>;

/// Starts to send push `number`.
pub fn start(apns: &Arc<Apns>, number: usize) -> Answer {
    start_as(apns, number, Class::Interactive)
}

pub fn start_as(apns: &Arc<Apns>, number: usize, class: Class) -> Answer {
    tokio::spawn(apns.send(push(number, class)))
}

pub fn is_accepted(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Accepted { .. })
}

/// A network that ends at the test.
pub struct Net {
    accepted: Mutex<mpsc::Receiver<DuplexStream>>,
    accept: mpsc::Sender<DuplexStream>,
    pub connects: AtomicUsize,
    pub refuses: AtomicBool,
    pub hangs: AtomicBool,
}

impl Net {
    pub fn new() -> Arc<Self> {
        let (accept, accepted) = mpsc::channel(64);
        Arc::new(Self {
            accepted: Mutex::new(accepted),
            accept,
            connects: AtomicUsize::new(0),
            refuses: AtomicBool::new(false),
            hangs: AtomicBool::new(false),
        })
    }

    /// How often a connection was asked for: each time the name is looked up.
    pub fn connects(&self) -> usize {
        self.connects.load(Ordering::SeqCst)
    }

    /// The provider's end of the next connection.
    pub async fn accept(&self) -> DuplexStream {
        timeout(Duration::from_secs(60), self.accepted.lock().await.recv()).await.expect("nobody connects").unwrap()
    }

    /// The same, however long it takes.
    pub async fn accept_patiently(&self) -> DuplexStream {
        self.accepted.lock().await.recv().await.unwrap()
    }

    /// The next connection, up, with this many streams allowed.
    pub async fn peer(&self, streams: u32) -> Peer {
        Peer::new(self.accept().await, streams).await
    }
}

impl Connect for Net {
    fn connect<'a>(&'a self, _: &'a HostPort) -> Connecting<'a> {
        Box::pin(async {
            self.connects.fetch_add(1, Ordering::SeqCst);
            if self.hangs.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            if self.refuses.load(Ordering::SeqCst) {
                return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "refused"));
            }
            let (ours, theirs) = tokio::io::duplex(256 * 1024);
            self.accept.send(theirs).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(Connected { io: Box::new(ours), alpn: b"h2".to_vec() })
        })
    }
}

/// What the client did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A whole request: its stream and the push's number.
    Request(u32, usize),
    /// A stream was reset.
    Reset(u32),
    /// The client says good-bye.
    GoAway,
    /// The client took our settings.
    SettingsTaken,
    Closed,
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;

/// The provider's end of a connection.
pub struct Peer {
    writer: Arc<Mutex<WriteHalf<DuplexStream>>>,
    events: mpsc::Receiver<Event>,
    pub silent: Arc<AtomicBool>,
    pub pings: Arc<AtomicUsize>,
    /// Streams that were opened beyond what the client had agreed to.
    pub excess: Arc<AtomicUsize>,
    open: Arc<std::sync::Mutex<BTreeSet<u32>>>,
    /// Limits that the client has not taken yet.
    limits: Arc<std::sync::Mutex<VecDeque<u32>>>,
    reader: JoinHandle<()>,
}

impl Peer {
    pub async fn new(io: DuplexStream, streams: u32) -> Self {
        let (mut reader, writer) = tokio::io::split(io);
        let mut preface = [0; 24];
        reader.read_exact(&mut preface).await.unwrap();
        assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let (event, events) = mpsc::channel(10_000);
        let writer = Arc::new(Mutex::new(writer));
        let silent = Arc::new(AtomicBool::new(false));
        let pings = Arc::new(AtomicUsize::new(0));
        let excess = Arc::new(AtomicUsize::new(0));
        let open = Arc::new(std::sync::Mutex::new(BTreeSet::new()));
        let limits = Arc::new(std::sync::Mutex::new(VecDeque::new()));
        let reading = Reading {
            writer: writer.clone(),
            silent: silent.clone(),
            pings: pings.clone(),
            excess: excess.clone(),
            open: open.clone(),
            limits: limits.clone(),
            limit: 1,
            event,
        };
        let reader = tokio::spawn(async move {
            let event = reading.event.clone();
            drop(reading.read(reader).await);
            drop(event.send(Event::Closed).await);
        });
        let peer = Self { writer, events, silent, pings, excess, open, limits, reader };
        peer.settings(streams).await;
        peer
    }

    pub async fn event(&mut self) -> Event {
        timeout(Duration::from_secs(3 * 3600), self.events.recv()).await.expect("nothing happens").unwrap_or(Event::Closed)
    }

    /// The next request, whatever else happens before: stream and push.
    pub async fn request(&mut self) -> (u32, usize) {
        loop {
            match self.event().await {
                Event::Request(stream, number) => return (stream, number),
                Event::Closed => panic!("the connection was closed"),
                _ => {}
            }
        }
    }

    /// What came until now, without waiting for more than a moment.
    pub async fn requests_now(&mut self) -> Vec<(u32, usize)> {
        let mut requests = Vec::new();
        while let Ok(Some(event)) = timeout(Duration::from_millis(1), self.events.recv()).await {
            if let Event::Request(stream, number) = event {
                requests.push((stream, number));
            }
        }
        requests
    }

    pub async fn closed(&mut self) {
        while self.event().await != Event::Closed {}
    }

    pub async fn frame(&self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        write(&self.writer, kind, flags, stream, payload).await;
    }

    pub async fn settings(&self, streams: u32) {
        let mut payload = 3_u16.to_be_bytes().to_vec();
        payload.extend(streams.to_be_bytes());
        self.limits.lock().unwrap().push_back(streams);
        self.frame(SETTINGS, 0, 0, &payload).await;
    }

    /// 200.
    pub async fn accept(&self, stream: u32) {
        self.forget(stream);
        self.frame(HEADERS, END_STREAM | END_HEADERS, stream, &[0x88]).await;
    }

    /// Another status, with a document.
    pub async fn refuse(&self, stream: u32, status: u16, document: &str) {
        self.head(stream, status).await;
        self.forget(stream);
        self.frame(DATA, END_STREAM, stream, document.as_bytes()).await;
    }

    /// The head of an answer that goes on.
    pub async fn head(&self, stream: u32, status: u16) {
        let mut block = vec![0x08, 3];
        block.extend(status.to_string().into_bytes());
        self.frame(HEADERS, END_HEADERS, stream, &block).await;
    }

    pub async fn reset(&self, stream: u32, code: u32) {
        self.forget(stream);
        self.frame(RST_STREAM, 0, stream, &code.to_be_bytes()).await;
    }

    pub async fn go_away(&self, last: u32) {
        let mut payload = last.to_be_bytes().to_vec();
        payload.extend(0_u32.to_be_bytes());
        self.frame(GOAWAY, 0, 0, &payload).await;
    }

    /// Nothing comes from here any more, but nothing is closed.
    pub fn fall_silent(&self) {
        self.silent.store(true, Ordering::SeqCst);
    }

    /// Accepts whatever comes, for as long as the connection is there.
    pub fn serve(mut self) -> JoinHandle<Vec<usize>> {
        tokio::spawn(async move {
            let mut served = Vec::new();
            loop {
                match self.event().await {
                    Event::Request(stream, number) => {
                        served.push(number);
                        self.accept(stream).await;
                    }
                    Event::Closed => return served,
                    _ => {}
                }
            }
        })
    }

    fn forget(&self, stream: u32) {
        self.open.lock().unwrap().remove(&stream);
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn write(writer: &Mutex<WriteHalf<DuplexStream>>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    // The client may be gone; that is for the test to notice elsewhere.
    drop(writer.lock().await.write_all(&frame).await);
}

struct Reading {
    writer: Arc<Mutex<WriteHalf<DuplexStream>>>,
    silent: Arc<AtomicBool>,
    pings: Arc<AtomicUsize>,
    excess: Arc<AtomicUsize>,
    open: Arc<std::sync::Mutex<BTreeSet<u32>>>,
    limits: Arc<std::sync::Mutex<VecDeque<u32>>>,
    /// The client agreed to it; before that it may only try one.
    limit: u32,
    event: mpsc::Sender<Event>,
}

impl Reading {
    async fn read(mut self, mut reader: ReadHalf<DuplexStream>) -> io::Result<()> {
        loop {
            let mut head = [0; 9];
            reader.read_exact(&mut head).await?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let mut payload = vec![0; length as usize];
            reader.read_exact(&mut payload).await?;
            if self.silent.load(Ordering::SeqCst) {
                continue;
            }
            let event = match (head[3], head[4]) {
                (HEADERS, flags) => {
                    assert_ne!(flags & END_HEADERS, 0, "a request's head fits into one frame");
                    let mut open = self.open.lock().unwrap();
                    open.insert(stream);
                    if open.len() > self.limit as usize {
                        self.excess.fetch_add(1, Ordering::SeqCst);
                    }
                    continue;
                }
                (DATA, flags) => {
                    if !payload.is_empty() {
                        write(&self.writer, WINDOW_UPDATE, 0, 0, &length.to_be_bytes()).await;
                    }
                    assert_ne!(flags & END_STREAM, 0, "a body fits into one frame");
                    Event::Request(stream, std::str::from_utf8(&payload).unwrap().parse().unwrap())
                }
                (RST_STREAM, _) => {
                    self.open.lock().unwrap().remove(&stream);
                    Event::Reset(stream)
                }
                (SETTINGS, ACK) => {
                    self.limit = self.limits.lock().unwrap().pop_front().unwrap();
                    Event::SettingsTaken
                }
                (SETTINGS, _) => {
                    write(&self.writer, SETTINGS, ACK, 0, &[]).await;
                    continue;
                }
                (PING, 0) => {
                    self.pings.fetch_add(1, Ordering::SeqCst);
                    write(&self.writer, PING, ACK, 0, &payload).await;
                    continue;
                }
                (GOAWAY, _) => Event::GoAway,
                _ => continue,
            };
            if self.event.send(event).await.is_err() {
                return Ok(());
            }
        }
    }
}
