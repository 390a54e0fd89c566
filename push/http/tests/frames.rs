//! What only a peer that writes its own frames can do: GOAWAY with a chosen last stream, settings changed in flight, HTTP/1.1.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::Request;
use push_core::{
    Class,
    connect::{Connect, Connected, Connecting, HostPort},
};
use push_http::{Failure, Limits, Message, Origin, Pool, Protocol};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::mpsc,
};

/// Hands its end of every pipe to the test.
struct Pipes {
    opened: mpsc::Sender<DuplexStream>,
    alpn: &'static [u8],
}

impl Connect for Pipes {
    fn connect<'a>(&'a self, _to: &'a HostPort) -> Connecting<'a> {
        Box::pin(async move {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            self.opened.send(theirs).await.map_err(std::io::Error::other)?;
            Ok(Connected { io: Box::new(ours), alpn: self.alpn.to_vec() })
        })
    }
}

fn pipes(alpn: &'static [u8], limits: Limits) -> (Pool, mpsc::Receiver<DuplexStream>) {
    let (opened, pipes) = mpsc::channel(4);
    let origin = Origin { secure: true, at: HostPort { host: "service.example".to_owned(), port: 443 } };
    (Pool::new(origin, Arc::new(Pipes { opened, alpn }), limits), pipes)
}

fn message() -> Option<Message> {
    Some((Request::post("https://service.example/x?y=1").body(()).unwrap(), Bytes::from_static(b"{}")))
}

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

struct Peer {
    io: DuplexStream,
}

impl Peer {
    async fn begin(mut io: DuplexStream, streams: u32) -> Self {
        let mut preface = [0; 24];
        io.read_exact(&mut preface).await.unwrap();
        let mut peer = Self { io };
        peer.settings(streams).await;
        peer
    }

    async fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.io.write_all(&frame).await.unwrap();
    }

    async fn settings(&mut self, streams: u32) {
        let mut payload = 3_u16.to_be_bytes().to_vec();
        payload.extend(streams.to_be_bytes());
        self.write(SETTINGS, 0, 0, &payload).await;
    }

    async fn go_away(&mut self, last: u32) {
        let mut payload = last.to_be_bytes().to_vec();
        payload.extend(0_u32.to_be_bytes());
        self.write(GOAWAY, 0, 0, &payload).await;
    }

    async fn answer(&mut self, stream: u32) {
        // `:status: 200` of the static table; END_STREAM and END_HEADERS.
        self.write(HEADERS, 5, stream, &[0x88]).await;
    }

    /// The next frame; pings are answered, settings acknowledged.
    async fn frame(&mut self) -> Option<(u8, u32)> {
        loop {
            let mut head = [0; 9];
            self.io.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            self.io.read_exact(&mut payload).await.ok()?;
            match (head[3], head[4]) {
                (PING, 0) => self.write(PING, 1, 0, &payload).await,
                (SETTINGS, 0) => self.write(SETTINGS, 1, 0, &[]).await,
                (kind, _) => return Some((kind, u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]))),
            }
        }
    }

    /// The streams of the next requests.
    async fn requests(&mut self, count: usize) -> Vec<u32> {
        let mut streams = Vec::new();
        while streams.len() < count {
            if let (HEADERS, stream) = self.frame().await.unwrap() {
                streams.push(stream);
            }
        }
        streams
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_goaway_says_was_not_processed_is_sent_again_and_nothing_else() {
    let (pool, mut opened) = pipes(b"h2", Limits::default());
    let sends: Vec<_> = (0..3).map(|_| tokio::spawn(pool.ask(Class::Call).send(message))).collect();
    let mut old = Peer::begin(opened.recv().await.unwrap(), 100).await;
    assert_eq!(old.requests(3).await, [1, 3, 5]);
    old.go_away(3).await;
    let mut new = Peer::begin(opened.recv().await.unwrap(), 100).await;
    assert_eq!(new.requests(1).await, [1]);
    new.answer(1).await;
    // The first is answered on the drained connection, the second is lost with it.
    old.answer(1).await;
    while old.io.read(&mut [0; 64]).await.is_ok_and(|read| read > 0 && pool.load().0 > 1) {}
    drop(old);
    let mut outcomes = Vec::new();
    for send in sends {
        outcomes.push(send.await.unwrap());
    }
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok(), "{outcomes:?}");
    assert!(matches!(outcomes[1], Err(Failure::Unknown(_))), "{outcomes:?}");
}

#[tokio::test(start_paused = true)]
async fn settings_changed_in_flight_are_obeyed_at_once() {
    let (pool, mut opened) = pipes(b"h2", Limits { connections: 1, ..Limits::default() });
    let sends: Vec<_> = (0..8).map(|_| tokio::spawn(pool.ask(Class::Call).send(message))).collect();
    let mut peer = Peer::begin(opened.recv().await.unwrap(), 2).await;
    assert_eq!(peer.requests(2).await, [1, 3]);
    peer.settings(4).await;
    assert_eq!(peer.requests(2).await, [5, 7]);
    peer.settings(1).await;
    for stream in [1, 3, 5] {
        peer.answer(stream).await;
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(pool.load(), (1, 4), "none begins while one is more than allowed");
    peer.answer(7).await;
    assert_eq!(peer.requests(1).await, [9]);
    peer.settings(100).await;
    assert_eq!(peer.requests(3).await, [11, 13, 15]);
    for stream in [9, 11, 13, 15] {
        peer.answer(stream).await;
    }
    for send in sends {
        assert!(send.await.unwrap().is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_before_the_peer_said_how_much_it_takes() {
    let (pool, mut opened) = pipes(b"h2", Limits::default());
    let asked = tokio::spawn(pool.ask(Class::Call).send(message));
    let mut io = opened.recv().await.unwrap();
    let mut preface = [0; 24];
    io.read_exact(&mut preface).await.unwrap();
    let mut peer = Peer { io };
    let early = tokio::time::timeout(Duration::from_secs(1), peer.requests(1)).await;
    assert!(early.is_err(), "{early:?}");
    assert!(matches!(asked.await.unwrap(), Err(Failure::NotSent(_))), "the settings have a deadline");
}

#[tokio::test(start_paused = true)]
async fn a_server_without_http_2_is_refused_or_spoken_to_in_http_1_1_as_configured() {
    let (pool, mut opened) = pipes(b"http/1.1", Limits::default());
    let asked = tokio::spawn(pool.ask(Class::Call).send(message));
    drop(opened.recv().await);
    assert!(matches!(asked.await.unwrap(), Err(Failure::NotSent(reason)) if reason.as_str().contains("HTTP/2")));

    let limits = Limits { protocol: Protocol::Any, connections: 1, ..Limits::default() };
    let (pool, mut opened) = pipes(b"http/1.1", limits);
    let sends: Vec<_> = (0..2).map(|_| tokio::spawn(pool.ask(Class::Call).send(message))).collect();
    let mut io = opened.recv().await.unwrap();
    for _ in 0..2 {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n{}") {
            request.push(io.read_u8().await.unwrap());
        }
        let text = String::from_utf8(request).unwrap().to_lowercase();
        assert!(text.starts_with("post /x?y=1 http/1.1\r\n") && text.contains("host: service.example\r\n"), "{text}");
        io.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\nfine").await.unwrap();
    }
    for send in sends {
        assert_eq!(send.await.unwrap().unwrap().body, "fine");
    }
    // A kept connection that was closed meanwhile costs nothing.
    drop(io);
    let asked = tokio::spawn(pool.ask(Class::Call).send(message));
    let mut io = opened.recv().await.unwrap();
    io.write_all(b"HTTP/1.1 500 No\r\nConnection: close\r\n\r\nbroken").await.unwrap();
    drop(io);
    let answer = asked.await.unwrap().unwrap();
    assert_eq!((answer.status.as_u16(), answer.body.as_ref()), (500, b"broken".as_slice()));
}

#[tokio::test(start_paused = true)]
async fn noise_in_place_of_http_is_an_error_and_no_panic() {
    for noise in [b"HTTP/1.1 400 Bad Request\r\n\r\n".as_slice(), &[0xff; 64], &[0; 9]] {
        let (pool, mut opened) = pipes(b"h2", Limits { warm: false, ..Limits::default() });
        let asked = tokio::spawn(pool.ask(Class::Call).send(message));
        let mut io = opened.recv().await.unwrap();
        io.write_all(noise).await.unwrap();
        drop(io);
        assert!(matches!(asked.await.unwrap(), Err(Failure::NotSent(_))));
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_takes_connections_and_drops_them_is_not_hammered_by_those_who_wait() {
    let (pool, mut opened) = pipes(b"h2", Limits::default());
    let service = tokio::spawn(async move {
        let mut count = 0;
        while let Ok(Some(io)) = tokio::time::timeout(Duration::from_secs(60), opened.recv()).await {
            drop(Peer::begin(io, 100).await);
            count += 1;
        }
        count
    });
    let began = tokio::time::Instant::now();
    while began.elapsed() < Duration::from_secs(300) {
        assert!(pool.ask(Class::Call).send(message).await.is_err());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(pool);
    let count = service.await.unwrap();
    assert!((10..200).contains(&count), "{count}");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_a_peer_writes_a_request_ends(noise in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200), kind in 0_u8..10, stream in 0_u32..4) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (pool, mut opened) = pipes(b"h2", Limits { warm: false, ..Limits::default() });
            let asked = tokio::spawn(pool.ask(Class::Call).send(message));
            let mut peer = Peer::begin(opened.recv().await.unwrap(), 100).await;
            peer.requests(1).await;
            // A frame with a sound head around it, then nothing but noise.
            let length = u32::try_from(noise.len()).unwrap().to_be_bytes();
            let mut frame = length[1..].to_vec();
            frame.extend([kind, noise.first().copied().unwrap_or(0)]);
            frame.extend(stream.to_be_bytes());
            frame.extend(&noise);
            frame.extend(&noise);
            let _refused = peer.io.write_all(&frame).await;
            // The double's end is kept open: only the client's own deadlines may end it.
            let outcome = tokio::time::timeout(Duration::from_secs(120), asked).await;
            assert!(outcome.is_ok_and(|ended| ended.is_ok()));
        });
    }
}
