//! One connection and the task that drives it: it notices GOAWAY, follows the peer's live settings, pings, and says goodbye.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use h2::{Ping, PingPong, client::SendRequest};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use push_core::connect::Connect;
use tokio::time::{Instant, Sleep};

use crate::{
    Limits, Origin, Protocol,
    pool::Inner,
    watched::{Heard, Watched},
};

/// What requests need of a connection.
pub(crate) struct Connection {
    pub(crate) id: u64,
    pub(crate) kind: Kind,
    pub(crate) gauge: Arc<Gauge>,
}

pub(crate) enum Kind {
    Two(SendRequest<Bytes>),
    /// Empty while a request is under way.
    One(Mutex<Option<http1::SendRequest<Full<Bytes>>>>),
}

/// What requests and the driving task tell each other.
pub(crate) struct Gauge {
    pub(crate) in_flight: AtomicUsize,
    pub(crate) limit: AtomicUsize,
    /// A request was answered on it.
    pub(crate) proved: AtomicBool,
    leaving: AtomicBool,
    driver: AtomicWaker,
}

/// Drives one connection to its end.
pub(crate) struct Driver {
    id: u64,
    wire: Wire,
    gauge: Arc<Gauge>,
    limits: Limits,
    heard: Heard,
    opened: Instant,
    pinged: Option<Instant>,
    idle_since: Option<Instant>,
    left: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

enum Wire {
    Two { connection: Box<h2::client::Connection<Watched>>, probe: Option<SendRequest<Bytes>>, pings: Option<PingPong> },
    One { connection: Box<http1::Connection<TokioIo<Watched>, Full<Bytes>>> },
}

/// How long a connection without requests may take to close.
pub(crate) const GOODBYE: Duration = Duration::from_secs(2);

/// Answers are short; nobody shall wait for a window.
const WINDOW: u32 = 1 << 20;

/// Opens a connection. The caller sets the deadline.
pub(crate) async fn open(connect: &dyn Connect, origin: &Origin, limits: Limits, id: u64) -> io::Result<(Arc<Connection>, Driver)> {
    let connected = connect.connect(&origin.at).await?;
    let two = match (connected.alpn.as_slice(), limits.protocol) {
        (b"h2", _) => true,
        (_, Protocol::Two) if !origin.secure => true,
        (_, Protocol::Two) => return Err(io::Error::new(io::ErrorKind::Unsupported, "the server does not speak HTTP/2")),
        (_, Protocol::Any) => false,
    };
    let (io, heard) = Watched::new(connected.io);
    let (kind, wire, limit) = if two {
        let (sender, connection) = h2::client::Builder::new()
            .enable_push(false)
            .initial_connection_window_size(WINDOW)
            // None before the peer's settings: they say how many it takes.
            .initial_max_send_streams(0)
            .max_header_list_size(16 * 1024)
            .handshake(io)
            .await
            .map_err(io_error)?;
        let mut connection = Box::new(connection);
        let limit = settled(&mut connection).await?.min(limits.streams);
        let pings = connection.ping_pong();
        (Kind::Two(sender.clone()), Wire::Two { connection, probe: Some(sender), pings }, limit)
    } else {
        let (sender, connection) =
            http1::Builder::new().max_buf_size(64 * 1024).handshake(TokioIo::new(io)).await.map_err(io::Error::other)?;
        (Kind::One(Mutex::new(Some(sender))), Wire::One { connection: Box::new(connection) }, 1)
    };
    let gauge = Arc::new(Gauge {
        in_flight: AtomicUsize::new(0),
        limit: AtomicUsize::new(limit),
        proved: AtomicBool::new(false),
        leaving: AtomicBool::new(false),
        driver: AtomicWaker::new(),
    });
    let now = Instant::now();
    let driver = Driver {
        id,
        wire,
        gauge: gauge.clone(),
        limits,
        heard,
        opened: now,
        pinged: None,
        idle_since: None,
        left: None,
        timer: Box::pin(tokio::time::sleep_until(now)),
    };
    Ok((Arc::new(Connection { id, kind, gauge }), driver))
}

/// Waits for the peer's first settings.
async fn settled(connection: &mut h2::client::Connection<Watched>) -> io::Result<usize> {
    poll_fn(|cx| {
        let polled = Pin::new(&mut *connection).poll(cx);
        let streams = connection.max_concurrent_send_streams();
        match polled {
            Poll::Ready(ended) => {
                let closed = || io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection");
                Poll::Ready(Err(ended.map_or_else(io_error, |()| closed())))
            }
            Poll::Pending if streams > 0 => Poll::Ready(Ok(streams)),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

fn io_error(error: h2::Error) -> io::Error {
    io::Error::other(error)
}

// === impl Connection ===

impl Connection {
    /// It takes no more requests, and closes when the last one is answered.
    pub(crate) fn leave(&self) {
        self.gauge.leave();
    }

    /// One request is over.
    pub(crate) fn give_back(&self) {
        if let Kind::One(sender) = &self.kind
            && sender.lock().is_none()
        {
            // It was dropped in the middle of a request.
            self.leave();
        }
        // In one order with `leave`: either the driver sees that nothing is under way, or we see that it must be woken.
        let before = self.gauge.in_flight.fetch_sub(1, Ordering::SeqCst);
        if before == 1 && self.gauge.leaving() {
            self.gauge.driver.wake();
        }
    }
}

// === impl Gauge ===

impl Gauge {
    pub(crate) fn leaving(&self) -> bool {
        self.leaving.load(Ordering::SeqCst)
    }

    pub(crate) fn has_room(&self) -> bool {
        !self.leaving() && self.in_flight.load(Ordering::Relaxed) < self.limit.load(Ordering::Relaxed)
    }

    fn leave(&self) {
        if !self.leaving.swap(true, Ordering::SeqCst) {
            self.driver.wake();
        }
    }
}

// === impl Driver ===

impl Driver {
    /// Runs until the connection has ended.
    pub(crate) async fn serve(&mut self, pool: &Weak<Inner>) {
        poll_fn(|cx| self.poll(cx, pool)).await;
    }

    /// Its number, whether it answered anything, and how long it lived.
    pub(crate) fn obituary(&self) -> (u64, bool, Duration) {
        (self.id, self.gauge.proved.load(Ordering::Relaxed), self.opened.elapsed())
    }

    fn poll(&mut self, cx: &mut Context<'_>, pool: &Weak<Inner>) -> Poll<()> {
        self.gauge.driver.register(cx.waker());
        loop {
            if self.wire.poll(cx).is_ready() {
                self.gauge.leave();
                return Poll::Ready(());
            }
            self.follow(cx, pool);
            if self.gauge.leaving() {
                self.goodbye(pool);
            }
            let Some(wake_at) = self.look_after(cx, pool) else {
                self.gauge.leave();
                return Poll::Ready(());
            };
            // Fired too early is cheap, moved with every frame is not.
            if wake_at < self.timer.deadline() || self.timer.is_elapsed() {
                self.timer.as_mut().reset(wake_at);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// GOAWAY and the live settings.
    fn follow(&mut self, cx: &mut Context<'_>, pool: &Weak<Inner>) {
        let Wire::Two { connection, probe: Some(probe), .. } = &mut self.wire else { return };
        if let Poll::Ready(Err(_)) = probe.poll_ready(cx) {
            self.gauge.leave();
        }
        let limit = connection.max_concurrent_send_streams().min(self.limits.streams);
        if self.gauge.limit.swap(limit, Ordering::Relaxed) < limit
            && let Some(pool) = pool.upgrade()
        {
            pool.hand_out();
        }
    }

    /// Leaves the pool at once, and closes when nothing is under way.
    fn goodbye(&mut self, pool: &Weak<Inner>) {
        if self.left.is_none() && self.gauge.in_flight.load(Ordering::SeqCst) == 0 {
            self.left = Some(Instant::now());
            // The last sender closes the connection; the pool's goes below.
            if let Wire::Two { probe, .. } = &mut self.wire {
                *probe = None;
            }
        }
        if let Some(pool) = pool.upgrade() {
            pool.leave(self.id);
        }
    }

    /// Pings and idleness. When to look again; `None`: the connection is dead or has had its time.
    fn look_after(&mut self, cx: &mut Context<'_>, pool: &Weak<Inner>) -> Option<Instant> {
        let now = Instant::now();
        if let Some(left) = self.left {
            return (now < left + GOODBYE).then_some(left + GOODBYE);
        }
        let busy = self.gauge.in_flight.load(Ordering::Relaxed) > 0;
        let mut wake_at = now + self.limits.idle;
        if busy {
            self.idle_since = None;
        } else {
            let idle_since = *self.idle_since.get_or_insert(now);
            if now >= idle_since + self.limits.idle {
                self.idle_since = Some(now);
                if pool.upgrade().is_none_or(|pool| pool.is_superfluous()) {
                    self.gauge.leave();
                    cx.waker().wake_by_ref();
                }
            } else {
                wake_at = idle_since + self.limits.idle;
            }
        }
        let Wire::Two { pings: Some(pings), .. } = &mut self.wire else { return Some(wake_at) };
        let pong = pings.poll_pong(cx).is_ready();
        let heard = self.heard.at().max(self.opened);
        if let Some(pinged) = self.pinged {
            if pong || heard > pinged {
                self.pinged = None;
            } else if now >= pinged + self.limits.ping_answer {
                return None;
            }
        }
        let silence = if busy { self.limits.ping_busy } else { self.limits.ping_idle };
        if self.pinged.is_none() && now >= heard + silence {
            // It fails only while a ping is under way, and then that one counts.
            let _under_way = pings.send_ping(Ping::opaque());
            self.pinged = Some(now);
        }
        let ping_at = self.pinged.map_or(heard + silence, |pinged| pinged + self.limits.ping_answer);
        Some(wake_at.min(ping_at))
    }
}

impl Wire {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Two { connection, .. } => Pin::new(connection).poll(cx).map(|_| ()),
            Self::One { connection } => Pin::new(connection).poll(cx).map(|_| ()),
        }
    }
}
