//! One connection: how it is opened, what its task watches for, how it ends. The task drives HTTP/2 and looks, whenever something was
//! received, at what may have changed: the peer's limit, its GOAWAY, its sign of life.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, task::AtomicWaker};
use h2::{
    Ping, PingPong,
    client::{Connection, SendRequest},
};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};

use crate::{pool::Load, sender::Shared, settings::Cause, wire::Wire};

/// Streams that we reset are remembered this long and this many, so that late answers to them do not look like errors.
const RESET_REMEMBERED: (Duration, usize) = (Duration::from_secs(30), 4096);
/// A header list of an answer is not longer.
const HEADER_LIST: u32 = 16 * 1024;
/// A connection without an answer yet gets company when the first takes this many of the intervals after which pings are sent.
const UNPROVEN: u32 = 2;
/// Until the peer's settings are there, one request at a time is taken.
const BEFORE_SETTINGS: usize = 1;

/// The shared side of a connection.
pub(crate) struct Link {
    pub(crate) number: u64,
    pub(crate) began: Instant,
    pub(crate) load: Load,
    /// `None`: it takes no more requests.
    pub(crate) requests: Mutex<Option<SendRequest<Bytes>>>,
    /// Milliseconds since it began.
    heard_at: AtomicU64,
    asked: AtomicBool,
    abandoned: AtomicBool,
    task: AtomicWaker,
}

/// Why a connection ended.
enum End {
    /// Both sides were done.
    Closed,
    Broken(h2::Error),
    PingLost,
    Abandoned,
}

/// The task's side.
struct Driver {
    shared: Arc<Shared>,
    link: Arc<Link>,
    connection: Connection<Wire, Bytes>,
    /// Tells of GOAWAY; kept only until then, for the connection does not close while it is there.
    probe: Option<SendRequest<Bytes>>,
    ping: PingPong,
    /// Our ping is with the peer, however long already.
    ping_out: bool,
    /// Since when a sign of life is awaited.
    asked_at: Option<Instant>,
    doubted: bool,
    heard: Arc<AtomicBool>,
    heard_at: Instant,
    limit: usize,
    /// When it was last found to be needed although idle.
    kept_at: Instant,
    timer: Pin<Box<Sleep>>,
}

// === impl Link ===

impl Link {
    /// How long nothing was received.
    pub(crate) fn silent_for(&self) -> Duration {
        self.began.elapsed().saturating_sub(Duration::from_millis(self.heard_at.load(Ordering::Relaxed)))
    }

    /// Lets the task ask the peer for a sign of life.
    pub(crate) fn ask(&self) {
        self.asked.store(true, Ordering::Release);
        self.task.wake();
    }

    /// Takes no more requests; it closes when those on their way are answered.
    pub(crate) fn retire(&self) {
        drop(self.requests.lock().take());
        self.task.wake();
    }

    /// Closes now.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
        self.retire();
    }
}

/// Opens a connection in a task of its own, waits between attempts, and drives it to its end. The pool has noted that one is being opened.
pub(crate) fn spawn(shared: &Arc<Shared>) {
    drop(shared.runtime().spawn(run(shared.clone())));
}

async fn run(shared: Arc<Shared>) {
    let driver = loop {
        let Some(wait) = shared.pool.lock().attempt() else { return };
        sleep(wait).await;
        let attempt = timeout(shared.settings.connect_deadline, open(&shared)).await;
        match attempt.unwrap_or_else(|_| Err(format!("no connection within {:?}", shared.settings.connect_deadline))) {
            Ok(driver) => break driver,
            Err(why) => {
                tracing::warn!(at = %shared.settings.at, error = why, "connection to apns failed");
                shared.counters.failed.add();
                shared.pool.lock().failed(format!("no connection to {}: {why}", shared.settings.at));
            }
        }
    };
    let link = driver.link.clone();
    let seated = shared.pool.lock().seat(&link, driver.limit);
    let Some(todo) = seated else { return };
    shared.counters.opened.add();
    shared.alive.fetch_add(1, Ordering::AcqRel);
    tracing::debug!(at = %shared.settings.at, connection = link.number, "connected to apns");
    shared.settle(todo);
    let end = driver.drive().await;
    link.retire();
    let why = match &end {
        End::Closed => "the connection was closed".to_owned(),
        End::Broken(error) => format!("the connection broke: {}", Cause::new(error)),
        End::PingLost => {
            shared.counters.pings_missed.add();
            format!("no sign of life within {:?}", shared.settings.ping_deadline)
        }
        End::Abandoned => "the sender was closed".to_owned(),
    };
    tracing::debug!(at = %shared.settings.at, connection = link.number, reason = why, "connection to apns ended");
    let (_, todo) = shared.pool.lock().unseat(&link, &why);
    shared.settle(todo);
    shared.alive.fetch_sub(1, Ordering::AcqRel);
    shared.ended.notify_waiters();
}

async fn open(shared: &Arc<Shared>) -> Result<Driver, String> {
    let connected = shared.connect.connect(&shared.settings.at).await.map_err(|error| Cause::new(error).to_string())?;
    if !connected.alpn.is_empty() && connected.alpn != b"h2" {
        return Err("the peer does not speak HTTP/2".to_owned());
    }
    let heard = Arc::new(AtomicBool::new(false));
    let wire = Wire::new(connected.io, heard.clone());
    let (requests, mut connection) = h2::client::Builder::new()
        .enable_push(false)
        .initial_max_send_streams(BEFORE_SETTINGS)
        .max_header_list_size(HEADER_LIST)
        .reset_stream_duration(RESET_REMEMBERED.0)
        .max_concurrent_reset_streams(RESET_REMEMBERED.1)
        .handshake(wire)
        .await
        .map_err(|error| Cause::new(error).to_string())?;
    let ping = connection.ping_pong().ok_or("HTTP/2 has no pings")?;
    let began = Instant::now();
    let link = Link {
        number: shared.next_number(),
        began,
        load: Load::default(),
        requests: Mutex::new(Some(requests.clone())),
        heard_at: AtomicU64::new(0),
        asked: AtomicBool::new(false),
        abandoned: AtomicBool::new(false),
        task: AtomicWaker::new(),
    };
    Ok(Driver {
        shared: shared.clone(),
        link: Arc::new(link),
        connection,
        probe: Some(requests),
        ping,
        ping_out: false,
        asked_at: None,
        doubted: false,
        heard,
        heard_at: began,
        limit: BEFORE_SETTINGS,
        kept_at: began,
        timer: Box::pin(sleep_until(began + shared.settings.ping_waiting)),
    })
}

// === impl Driver ===

impl Driver {
    async fn drive(mut self) -> End {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.link.task.register(cx.waker());
        if self.link.abandoned.load(Ordering::Acquire) {
            return Poll::Ready(End::Abandoned);
        }
        let ended = self.connection.poll_unpin(cx);
        if self.heard.swap(false, Ordering::Relaxed) {
            self.received(cx);
        }
        if self.probe.is_some() && self.link.requests.lock().is_none() {
            self.probe = None;
            // It may be that nothing else is awaited: let HTTP/2 see that it can close.
            cx.waker().wake_by_ref();
        }
        if let Poll::Ready(ended) = ended {
            return Poll::Ready(ended.map_or_else(End::Broken, |()| End::Closed));
        }
        if self.link.asked.load(Ordering::Acquire) && self.asked_at.is_none() {
            self.send_ping(Instant::now());
        }
        self.poll_timer(cx)
    }

    /// Something was received: what is different now?
    fn received(&mut self, cx: &mut Context<'_>) {
        self.heard_at = Instant::now();
        let millis = self.heard_at.duration_since(self.link.began).as_millis();
        self.link.heard_at.store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Relaxed);
        if self.ping_out && self.ping.poll_pong(cx).is_ready() {
            self.ping_out = false;
        }
        if self.asked_at.take().is_some() {
            self.doubted &= !self.link.load.proven();
            self.link.asked.store(false, Ordering::Release);
            let todo = self.shared.pool.lock().heard(&self.link);
            self.shared.settle(todo);
        }
        let limit = self.connection.max_concurrent_send_streams();
        if limit != self.limit {
            self.limit = limit;
            let todo = self.shared.pool.lock().limited(&self.link, limit);
            self.shared.settle(todo);
        }
        if let Some(Poll::Ready(Err(error))) = self.probe.as_mut().map(|probe| probe.poll_ready(cx)) {
            self.shared.retire(&self.link, &error);
            self.probe = None;
            cx.waker().wake_by_ref();
        }
    }

    fn send_ping(&mut self, now: Instant) {
        self.asked_at = Some(now);
        // The last one may still be out, although other frames came since; its answer will do.
        if !self.ping_out && self.ping.send_ping(Ping::opaque()).is_ok() {
            self.ping_out = true;
        }
    }

    /// When there is something to do next.
    fn due(&self) -> Instant {
        let settings = &self.shared.settings;
        if let Some(asked_at) = self.asked_at {
            let lost = asked_at + settings.ping_deadline;
            let others_wait = self.link.asked.load(Ordering::Acquire) && !self.doubted;
            return if others_wait { lost.min(asked_at + settings.doubted_after) } else { lost };
        }
        let since = self.link.load.since(self.link.began);
        if self.link.load.in_flight() > 0 {
            let ping = self.heard_at.max(since) + settings.ping_waiting;
            return if self.doubted || self.link.load.proven() { ping } else { ping.min(since + UNPROVEN * settings.ping_waiting) };
        }
        (self.heard_at + settings.ping_idle).min(since.max(self.kept_at) + settings.idle_extra)
    }

    /// Does what is due.
    fn act(&mut self, now: Instant) -> Poll<End> {
        let settings = &self.shared.settings;
        if let Some(asked_at) = self.asked_at {
            if now >= asked_at + settings.ping_deadline {
                return Poll::Ready(End::PingLost);
            }
            self.doubt();
        } else if self.link.load.in_flight() > 0 && now < self.heard_at.max(self.link.load.since(self.link.began)) + settings.ping_waiting {
            // It lives, but its first answer does not come, and all others wait for it.
            self.doubt();
        } else if self.link.load.in_flight() > 0 || now >= self.heard_at + settings.ping_idle {
            self.send_ping(now);
        } else {
            self.kept_at = now;
            let extra = self.shared.pool.lock().unseat_extra(&self.link);
            if extra {
                self.link.retire();
            }
        }
        Poll::Pending
    }

    fn doubt(&mut self) {
        self.doubted = true;
        let todo = self.shared.pool.lock().doubt(&self.link);
        self.shared.settle(todo);
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let (now, due) = (Instant::now(), self.due());
            if due <= now {
                if let Poll::Ready(end) = self.act(now) {
                    return Poll::Ready(end);
                }
                continue;
            }
            // One that is set for earlier is left alone: what is due is then found to have moved.
            if self.timer.is_elapsed() || self.timer.deadline() > due {
                self.timer.as_mut().reset(due);
            }
            if self.timer.poll_unpin(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}
