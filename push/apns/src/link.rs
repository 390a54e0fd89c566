//! One connection: how it is opened, what its task watches for, how it ends. The task moves octets between socket and HTTP/2, many
//! requests at a time, and looks, whenever something was received, at what has changed: the peer's limit, its GOAWAY, its sign of life.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use futures_util::{FutureExt, task::AtomicWaker};
use parking_lot::Mutex;
use push_core::connect::BoxedIo;
use push_wire::{Broken, Refused, Request};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep, sleep_until, timeout},
};

use crate::{
    exchange::{BEFORE_SETTINGS, Exchange, News, Reply, Slot},
    pool::Load,
    sender::Shared,
    settings::Cause,
};

/// What is read at a time: more than the largest frame.
const INPUT: usize = 64 * 1024;
/// After so many times something is written.
const READS: usize = 16;
/// A buffer that grew beyond this is not kept.
const OUTPUT: usize = 256 * 1024;
/// A connection without an answer yet gets company when the first takes this many of the intervals after which pings are sent.
const UNPROVEN: u32 = 2;

/// The shared side of a connection.
pub(crate) struct Link {
    pub(crate) number: u64,
    pub(crate) began: Instant,
    pub(crate) load: Load,
    exchange: Mutex<Exchange>,
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
    /// The peer closed it in the middle.
    Lost,
    Failed(io::Error),
    Broken(Broken),
    PingLost,
    Abandoned,
}

/// An answer that is awaited. Dropped before it is there, it is not wanted any more.
pub(crate) struct Answering<'a> {
    link: &'a Link,
    slot: Option<Slot>,
}

/// The task's side.
struct Driver {
    shared: Arc<Shared>,
    link: Arc<Link>,
    io: BoxedIo,
    input: Box<[u8]>,
    /// Octets at its beginning that are there.
    filled: usize,
    output: Vec<u8>,
    written: usize,
    /// Something was written that the stream under it may still hold back.
    unflushed: bool,
    woken: Vec<Waker>,
    /// Since when a sign of life is awaited.
    asked_at: Option<Instant>,
    doubted: bool,
    heard_at: Instant,
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

    /// Writes a request whose answer is worth something until then.
    pub(crate) fn send(&self, request: &Request<'_>, by: Instant) -> Result<Answering<'_>, Refused> {
        let (slot, wake) = self.exchange.lock().send(request, by)?;
        if wake {
            self.task.wake();
        }
        Ok(Answering { link: self, slot: Some(slot) })
    }

    /// Takes no more requests; it closes when those on their way are answered.
    pub(crate) fn retire(&self) {
        self.exchange.lock().retire();
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
    let seated = shared.pool.lock().seat(&link, BEFORE_SETTINGS);
    let Some(todo) = seated else { return };
    shared.counters.opened.add();
    shared.alive.fetch_add(1, Ordering::AcqRel);
    tracing::debug!(at = %shared.settings.at, connection = link.number, "connected to apns");
    shared.settle(todo);
    let end = driver.drive().await;
    let why = match &end {
        End::Closed => "the connection was closed".to_owned(),
        End::Lost => "the provider closed the connection".to_owned(),
        End::Failed(error) => format!("the connection broke: {}", Cause::new(error)),
        End::Broken(broken) => broken.to_string(),
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
    let began = Instant::now();
    let link = Link {
        number: shared.next_number(),
        began,
        load: Load::default(),
        exchange: Mutex::new(Exchange::new()),
        heard_at: AtomicU64::new(0),
        asked: AtomicBool::new(false),
        abandoned: AtomicBool::new(false),
        task: AtomicWaker::new(),
    };
    Ok(Driver {
        shared: shared.clone(),
        link: Arc::new(link),
        io: connected.io,
        input: vec![0; INPUT].into_boxed_slice(),
        filled: 0,
        output: Vec::new(),
        written: 0,
        unflushed: false,
        woken: Vec::new(),
        asked_at: None,
        doubted: false,
        heard_at: began,
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
        let read = self.poll_read(cx);
        if read.is_pending() {
            if self.link.asked.load(Ordering::Acquire) && self.asked_at.is_none() {
                self.send_ping(Instant::now());
            }
            if let Poll::Ready(end) = self.poll_timer(cx) {
                return Poll::Ready(end);
            }
        }
        // What timers and answers made goes out with the requests.
        let done = self.link.exchange.lock().is_done();
        let written = self.poll_write(cx);
        match (read, written) {
            (Poll::Ready(end), _) => Poll::Ready(end),
            (Poll::Pending, Poll::Ready(Err(error))) => Poll::Ready(End::Failed(error)),
            // Whatever the peer says to that, it is over.
            (Poll::Pending, Poll::Ready(Ok(()))) if done => Pin::new(&mut self.io).poll_shutdown(cx).map(|_| End::Closed),
            (Poll::Pending, _) => Poll::Pending,
        }
    }

    /// Reads what there is; ready: the connection has ended.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        for _ in 0..READS {
            let mut buffer = ReadBuf::new(self.input.get_mut(self.filled..).unwrap_or_default());
            if let Err(error) = ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer)) {
                return Poll::Ready(End::Failed(error));
            }
            let length = buffer.filled().len();
            if length == 0 {
                return Poll::Ready(End::Lost);
            }
            self.filled += length;
            if let Err(broken) = self.received() {
                return Poll::Ready(End::Broken(broken));
            }
        }
        // There is more, but what was asked is to be answered meanwhile.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Something was received: what is different now?
    fn received(&mut self) -> Result<(), Broken> {
        let mut news = News::default();
        let input = self.input.get(..self.filled).unwrap_or_default();
        let result = self.link.exchange.lock().receive(input, &mut news, &mut self.woken);
        if let Ok(read) = result {
            self.input.copy_within(read..self.filled, 0);
            self.filled -= read;
        }
        self.heard_at = Instant::now();
        let millis = self.heard_at.duration_since(self.link.began).as_millis();
        self.link.heard_at.store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Relaxed);
        if self.asked_at.take().is_some() {
            self.doubted &= !self.link.load.proven();
            self.link.asked.store(false, Ordering::Release);
            let todo = self.shared.pool.lock().heard(&self.link);
            self.shared.settle(todo);
        }
        if let Some(limit) = news.limit {
            let todo = self.shared.pool.lock().limited(&self.link, limit);
            self.shared.settle(todo);
        }
        // Before those are called whose requests were not processed: they must not come back to it.
        if let Some(farewell) = news.farewell {
            self.shared.farewell(&self.link, &farewell);
        }
        self.woken.drain(..).for_each(Waker::wake);
        result.map(|_| ())
    }

    /// Writes all there is, in pieces as large as can be.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while let Some(rest) = self.output.get(self.written..).filter(|rest| !rest.is_empty()) {
                match ready!(Pin::new(&mut self.io).poll_write(cx, rest))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    written => self.written += written,
                }
                self.unflushed = true;
            }
            self.output.clear();
            self.output.shrink_to(OUTPUT);
            self.written = 0;
            if !self.link.exchange.lock().swap_output(&mut self.output) {
                break;
            }
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn send_ping(&mut self, now: Instant) {
        self.asked_at = Some(now);
        // The last one may still be out, although other frames came since; its answer will do.
        self.link.exchange.lock().ping();
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
            let late = self.link.exchange.lock().expire(now, &mut self.woken);
            self.woken.drain(..).for_each(Waker::wake);
            let due = late.map_or(due, |late| late.min(due));
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

/// Whatever ended the task: nothing more is answered.
impl Drop for Driver {
    fn drop(&mut self) {
        self.link.exchange.lock().end(&mut self.woken);
        self.woken.drain(..).for_each(Waker::wake);
    }
}

// === impl Answering ===

impl Future for Answering<'_> {
    type Output = Reply;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Reply> {
        let Some(slot) = self.slot else { return Poll::Pending };
        let reply = ready!(self.link.exchange.lock().poll(slot, cx));
        self.slot = None;
        Poll::Ready(reply)
    }
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            let waker = self.link.exchange.lock().forget(slot);
            drop(waker);
            self.link.task.wake();
        }
    }
}
