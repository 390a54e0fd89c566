//! A service in memory: HTTP/2 over pipes, in the test's own time. It answers what the test says and remembers what it was asked.

use std::{fmt, io, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use h2::server::{self, SendResponse};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, request::Parts};
use parking_lot::Mutex;
use push_core::connect::{Connect, Connected, Connecting, HostPort};
use tokio::{io::DuplexStream, sync::watch, time::Instant};

/// One request.
#[derive(Debug, Clone)]
pub struct Got {
    /// Which host was connected to.
    pub to: HostPort,
    /// The number of the connection, from 1.
    pub connection: usize,
    /// Its head.
    pub head: Parts,
    /// Its body.
    pub body: Bytes,
    /// When it came.
    pub at: Instant,
}

/// What is done with a request.
#[derive(Debug, Clone)]
pub enum Reply {
    /// It is answered.
    Answer {
        /// The status.
        status: u16,
        /// Header fields.
        headers: Vec<(&'static str, String)>,
        /// The body.
        body: Bytes,
        /// After this time.
        after: Duration,
    },
    /// Its stream is refused.
    Refuse,
    /// It is never answered.
    Silence,
}

/// The service. Clones are the same.
#[derive(Clone)]
pub struct Double {
    shared: Arc<Shared>,
}

type Handler = dyn Fn(&Got) -> Reply + Send + Sync;

struct Shared {
    handler: Box<Handler>,
    state: Mutex<State>,
    orders: watch::Sender<Orders>,
    requests: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    connections: Vec<(HostPort, Instant)>,
    got: Vec<Got>,
    unreachable: Option<io::ErrorKind>,
    unresponsive: bool,
    max_streams: Option<u32>,
    most_at_once: usize,
    at_once: usize,
}

/// Counters: whatever is greater than when the connection was opened is done to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Orders {
    go_away: u64,
    cut: u64,
    freeze: u64,
}

// === impl Reply ===

impl Reply {
    /// Answered at once.
    pub fn answer(status: u16, body: impl Into<Bytes>) -> Self {
        Self::Answer { status, headers: Vec::new(), body: body.into(), after: Duration::ZERO }
    }

    /// The same, later.
    #[must_use]
    pub fn later(mut self, wait: Duration) -> Self {
        if let Self::Answer { after, .. } = &mut self {
            *after = wait;
        }
        self
    }

    /// The same with a header field more.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Self::Answer { headers, .. } = &mut self {
            headers.push((name, value.to_owned()));
        }
        self
    }
}

// === impl Double ===

impl Double {
    /// A service that answers as `handler` says.
    pub fn new(handler: impl Fn(&Got) -> Reply + Send + Sync + 'static) -> Self {
        let shared = Shared {
            handler: Box::new(handler),
            state: Mutex::default(),
            orders: watch::Sender::default(),
            requests: watch::Sender::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// What was asked so far.
    pub fn got(&self) -> Vec<Got> {
        self.shared.state.lock().got.clone()
    }

    /// Waits until so many requests came.
    pub async fn wait_for(&self, requests: usize) {
        let mut count = self.shared.requests.subscribe();
        drop(count.wait_for(|count| *count >= requests).await);
    }

    /// Connections so far: where to, and when.
    pub fn connections(&self) -> Vec<(HostPort, Instant)> {
        self.shared.state.lock().connections.clone()
    }

    /// Most requests that were under way at the same time.
    pub fn most_at_once(&self) -> usize {
        self.shared.state.lock().most_at_once
    }

    /// From now on connecting fails so; `None`: it works.
    pub fn unreachable(&self, kind: Option<io::ErrorKind>) {
        self.shared.state.lock().unreachable = kind;
    }

    /// From now on connecting never ends.
    pub fn unresponsive(&self, unresponsive: bool) {
        self.shared.state.lock().unresponsive = unresponsive;
    }

    /// SETTINGS_MAX_CONCURRENT_STREAMS of new connections.
    pub fn max_streams(&self, most: u32) {
        self.shared.state.lock().max_streams = Some(most);
    }

    /// Open connections are drained: GOAWAY, and what is under way is answered.
    pub fn go_away(&self) {
        self.shared.orders.send_modify(|orders| orders.go_away += 1);
    }

    /// Open connections end now.
    pub fn cut(&self) {
        self.shared.orders.send_modify(|orders| orders.cut += 1);
    }

    /// Open connections stay open, but nothing comes back any more.
    pub fn freeze(&self) {
        self.shared.orders.send_modify(|orders| orders.freeze += 1);
    }

    async fn open(&self, to: HostPort) -> io::Result<Connected> {
        let (number, most) = {
            let mut state = self.shared.state.lock();
            state.connections.push((to.clone(), Instant::now()));
            if let Some(kind) = state.unreachable {
                return Err(kind.into());
            }
            (state.connections.len(), state.max_streams)
        };
        if self.shared.state.lock().unresponsive {
            std::future::pending::<()>().await;
        }
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        tokio::spawn(self.clone().serve(theirs, to, number, most));
        Ok(Connected { io: Box::new(ours), alpn: b"h2".to_vec() })
    }

    async fn serve(self, io: DuplexStream, to: HostPort, number: usize, most: Option<u32>) {
        let mut builder = server::Builder::new();
        if let Some(most) = most {
            builder.max_concurrent_streams(most);
        }
        let mut orders = self.shared.orders.subscribe();
        let mut seen = *orders.borrow_and_update();
        let Ok(mut connection) = builder.handshake::<_, Bytes>(io).await else { return };
        loop {
            let accepted = tokio::select! {
                accepted = connection.accept() => accepted,
                _ = orders.changed() => {
                    let now = *orders.borrow_and_update();
                    if now.cut > seen.cut {
                        return;
                    }
                    if now.freeze > seen.freeze {
                        std::future::pending::<()>().await;
                    }
                    if now.go_away > seen.go_away {
                        connection.graceful_shutdown();
                    }
                    seen = now;
                    continue;
                }
            };
            let Some(Ok((request, respond))) = accepted else { return };
            tokio::spawn(self.clone().one(request, respond, to.clone(), number));
        }
    }

    async fn one(self, request: Request<h2::RecvStream>, mut respond: SendResponse<Bytes>, to: HostPort, connection: usize) {
        let (head, mut stream) = request.into_parts();
        let mut body = BytesMut::new();
        while let Some(Ok(chunk)) = stream.data().await {
            let _released = stream.flow_control().release_capacity(chunk.len());
            body.extend_from_slice(&chunk);
        }
        let got = Got { to, connection, head, body: body.freeze(), at: Instant::now() };
        {
            let mut state = self.shared.state.lock();
            state.got.push(got.clone());
            state.at_once += 1;
            state.most_at_once = state.most_at_once.max(state.at_once);
        }
        self.shared.requests.send_modify(|count| *count += 1);
        match (self.shared.handler)(&got) {
            Reply::Answer { status, headers, body, after } => {
                if !after.is_zero() {
                    tokio::time::sleep(after).await;
                }
                let mut response = Response::new(());
                *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
                for (name, value) in headers {
                    if let Ok(value) = HeaderValue::from_str(&value) {
                        response.headers_mut().insert(HeaderName::from_static(name), value);
                    }
                }
                self.shared.state.lock().at_once -= 1;
                if let Ok(mut sending) = respond.send_response(response, false) {
                    let _gone = sending.send_data(body, true);
                }
            }
            Reply::Refuse => {
                self.shared.state.lock().at_once -= 1;
                respond.send_reset(h2::Reason::REFUSED_STREAM);
            }
            Reply::Silence => std::future::pending().await,
        }
    }
}

impl Connect for Double {
    fn connect<'a>(&'a self, to: &'a HostPort) -> Connecting<'a> {
        Box::pin(self.open(to.clone()))
    }
}

impl fmt::Debug for Double {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Double").finish_non_exhaustive()
    }
}
