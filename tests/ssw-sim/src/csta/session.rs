//! One application's connection: its session (ECMA-354), its requests, its events, and the faults that are put in their way.
//! Everything that is to be written goes through one bounded buffer; an application that does not read is cut.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::BytesMut;
use ssw_core::{CoreEvent, EventKind, RefusalCause};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::broadcast::{self, error::RecvError, error::TryRecvError},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    context::ServerContext,
    csta::{
        SLOW_APPLICATIONS, answer,
        element::Element,
        event::Monitors,
        frame::{EVENT_ID, Frame, Framing, InvokeId, KEEPALIVE_ID},
        outbox::{Outbox, Sent},
        request::{BadRequest, Request},
        service::Services,
        style::{SESSION, Style},
    },
    faults::{CommandFault, CutPoint, Link},
    sessions::SessionHandle,
};

/// Longest session that is granted.
const LONGEST: Duration = Duration::from_secs(3600);
/// Time of a session whose start asks for none.
const USUAL: Duration = Duration::from_secs(180);
/// How long a connection may stay without a session.
const WITHOUT_SESSION: Duration = Duration::from_secs(30);
/// Unsuccessful starts before the connection is closed.
const MOST_STARTS: u32 = 5;
/// Octets waiting to be written above which no further request is read.
const READ_PAUSE: usize = 1 << 20;
/// Octets waiting to be written above which the application counts as stuck.
const STUCK: usize = 8 << 20;
/// How long octets may wait without any being taken.
const STALLED: Duration = Duration::from_secs(30);
/// How long the end of a connection may take.
const GOODBYE: Duration = Duration::from_secs(1);
/// Events taken between two looks at the socket.
const EVENT_BATCH: usize = 256;
/// Least time between two keep-alives that answer the application's, so that two polite ends do not answer each other for ever.
const KEEPALIVE_PAUSE: Duration = Duration::from_secs(1);

/// How a connection goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// As before.
    On,
    /// Writes what waits, then closes.
    Flush,
    /// Closes at once.
    Cut,
}

/// An application's session.
struct Session {
    handle: SessionHandle,
    id: String,
    domain: Arc<str>,
    ends: Instant,
    monitors: Monitors,
    events: broadcast::Receiver<Arc<CoreEvent>>,
}

struct Connection {
    ctx: ServerContext,
    cut: CancellationToken,
    framing: Framing,
    outbox: Outbox,
    style: Style,
    session: Option<Session>,
    since: Instant,
    starts: u32,
    keepalive_sent: Instant,
    progress: Instant,
    flow: Flow,
}

/// Serves a connection until it ends.
pub(super) async fn run<S: AsyncRead + AsyncWrite + Send>(stream: S, ctx: ServerContext, cut: CancellationToken) {
    let now = Instant::now();
    let framing = Framing { counts_header: ctx.dialect.csta.length_whole };
    let mut connection = Connection {
        framing,
        outbox: Outbox::new(framing),
        style: Style::of_seed(ctx.dialect.seed),
        ctx,
        cut,
        session: None,
        since: now,
        starts: 0,
        keepalive_sent: now,
        progress: now,
        flow: Flow::On,
    };
    connection.serve(stream).await;
    if let Some(session) = connection.session.take() {
        connection.ctx.sessions.close(session.handle.id);
    }
}

/// What woke the connection.
enum Woke {
    Written(std::io::Result<usize>),
    Flushed(std::io::Result<()>),
    Read(std::io::Result<usize>),
    Event(Result<Arc<CoreEvent>, RecvError>),
    Expired,
    Time,
    More,
    End,
}

// === impl Connection ===

impl Connection {
    async fn serve<S: AsyncRead + AsyncWrite + Send>(&mut self, stream: S) {
        let (reader, writer) = tokio::io::split(stream);
        tokio::pin!(reader, writer);
        let mut input = BytesMut::with_capacity(16 << 10);
        let (mut unflushed, mut more) = (false, false);
        loop {
            match self.flow {
                Flow::Cut => return,
                Flow::Flush if self.outbox.octets.is_empty() && !unflushed => {
                    // The end is said properly, so that what was written last is not lost to a reset.
                    let _ = timeout(GOODBYE, writer.shutdown()).await;
                    return;
                }
                _ => {}
            }
            let going_on = self.flow == Flow::On;
            let (cut, shutdown) = (self.cut.clone(), self.ctx.shutdown.clone());
            let expired = self.session.as_ref().map(|session| session.handle.expired.clone());
            let due = self.next_due();
            let reads = going_on && self.outbox.octets.len() < READ_PAUSE;
            let waiting = !self.outbox.octets.is_empty();
            let (out, events) = (&mut self.outbox.octets, self.session.as_mut().map(|session| &mut session.events));
            let woke = tokio::select! {
                biased;
                () = cut.cancelled() => Woke::End,
                () = shutdown.cancelled() => Woke::End,
                () = maybe(expired.as_ref().map(CancellationToken::cancelled)), if going_on => Woke::Expired,
                pushed = push(&mut writer, out), if waiting || unflushed => pushed,
                () = sleep_until(due) => Woke::Time,
                () = std::future::ready(()), if more && reads => Woke::More,
                result = reader.read_buf(&mut input), if reads => Woke::Read(result),
                event = maybe(events.map(broadcast::Receiver::recv)), if going_on => Woke::Event(event),
            };
            match woke {
                Woke::End => return,
                Woke::Written(Ok(1..)) => (self.progress, unflushed) = (Instant::now(), true),
                Woke::Written(_) => return,
                Woke::Flushed(result) => {
                    if result.is_err() {
                        return;
                    }
                    unflushed = false;
                }
                Woke::Read(Ok(1..)) | Woke::More => more = self.read_requests(&mut input).await,
                Woke::Read(_) => return,
                Woke::Event(event) => self.read_events(event).await,
                Woke::Expired => self.terminate("sessionTimerExpired"),
                Woke::Time => self.on_time(),
            }
            if !waiting && !self.outbox.octets.is_empty() {
                self.progress = Instant::now();
            }
            if self.outbox.octets.len() > STUCK {
                self.cut_slow("its buffer is full");
            }
        }
    }

    /// Waits while the link is frozen, then for its delay. The answer tells whether the message may go on and whether it was delayed.
    async fn gate(&self) -> (bool, bool) {
        let began = Instant::now();
        let passed = tokio::select! {
            biased;
            () = self.cut.cancelled() => false,
            () = self.ctx.shutdown.cancelled() => false,
            () = self.ctx.faults.gate(Link::Csta, self.ctx.node) => true,
        };
        (passed, began.elapsed() >= Duration::from_millis(1))
    }

    /// Handles the whole messages in `input`; true if some are left for the next round, because each is delayed.
    async fn read_requests(&mut self, input: &mut BytesMut) -> bool {
        while self.flow == Flow::On && self.outbox.octets.len() < READ_PAUSE {
            let frame = match self.framing.decode(input) {
                Ok(Some(frame)) => frame,
                Ok(None) => return false,
                Err(error) => {
                    tracing::warn!(%error, "a csta application sent what is no message");
                    self.flow = Flow::Flush;
                    return false;
                }
            };
            let (passed, delayed) = self.gate().await;
            if !passed {
                self.flow = Flow::Cut;
                return false;
            }
            self.request(&frame);
            if delayed {
                return true;
            }
        }
        true
    }

    /// Writes an event and those that wait behind it, one only if each message is delayed.
    async fn read_events(&mut self, first: Result<Arc<CoreEvent>, RecvError>) {
        let mut next = first;
        for _ in 0..EVENT_BATCH {
            match next {
                Ok(event) => {
                    if self.event(&event).await || self.flow != Flow::On {
                        return;
                    }
                }
                Err(RecvError::Lagged(_)) => return self.cut_slow("it is too far behind the switch's events"),
                Err(RecvError::Closed) => {
                    self.flow = Flow::Flush;
                    return;
                }
            }
            let Some(session) = &mut self.session else { return };
            next = match session.events.try_recv() {
                Ok(event) => Ok(event),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Lagged(count)) => Err(RecvError::Lagged(count)),
                Err(TryRecvError::Closed) => Err(RecvError::Closed),
            };
        }
        // The batch is full; the one taken beyond it is written with it.
        if let Ok(event) = next {
            self.event(&event).await;
        }
    }

    /// Queues the messages that an event becomes; true if they were delayed.
    async fn event(&mut self, event: &CoreEvent) -> bool {
        if matches!(event.kind, EventKind::Restarted { .. }) {
            self.flow = Flow::Cut;
            return false;
        }
        let Some(session) = self.session.as_ref().filter(|session| session.domain == event.domain) else { return false };
        let mut delayed_any = false;
        for message in session.monitors.messages(&event.kind) {
            let (passed, delayed) = self.gate().await;
            if !passed {
                self.flow = Flow::Cut;
                return false;
            }
            delayed_any |= delayed;
            let text = self.style.event(message);
            self.send(EVENT_ID, &text);
        }
        delayed_any
    }

    fn cut_slow(&mut self, why: &'static str) {
        SLOW_APPLICATIONS.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(why, "a csta application does not read and is cut");
        self.flow = Flow::Cut;
    }

    // --- requests

    fn request(&mut self, frame: &Frame) {
        let root = match Element::parse(&frame.xml) {
            Ok(root) => root,
            Err(error) => {
                tracing::debug!(%error, "a csta application sent a malformed message");
                let text = self.style.answer(answer::error(answer::BAD_VALUE, None));
                return self.send(frame.id, &text);
            }
        };
        if frame.id == KEEPALIVE_ID && self.is_keepalive(&root) {
            return self.answer_keepalive();
        }
        let fault = self.ctx.faults.on_command(&root.name);
        if fault == CommandFault::Cut(CutPoint::Before) {
            self.flow = Flow::Flush;
            return;
        }
        let text = if fault == CommandFault::RefuseIn200 {
            let word = self.ctx.dialect.refusal(RefusalCause::BadState).to_owned();
            Some(self.style.answer(answer::error(("stateIncompatibility", "invalidObjectState"), Some(&word))))
        } else {
            self.perform(&root)
        };
        let Some(text) = text else { return };
        match fault {
            CommandFault::Cut(CutPoint::During) => {
                self.outbox.send_half(frame.id, &text);
                self.flow = Flow::Flush;
            }
            CommandFault::Cut(CutPoint::After) => self.flow = Flow::Flush,
            CommandFault::Cut(CutPoint::Never) => {}
            _ => self.send(frame.id, &text),
        }
    }

    /// Carries out a request; `None` if it has no answer.
    fn perform(&mut self, root: &Element) -> Option<String> {
        let request = match Request::read(root) {
            Ok(request) => request,
            Err(BadRequest::Unknown) => return Some(self.style.answer(answer::error(answer::NOT_SUPPORTED, None))),
            Err(BadRequest::Missing(child)) => {
                tracing::debug!(child, "a csta request lacks a child");
                return Some(self.style.answer(answer::error(answer::NOT_PROVIDED, None)));
            }
        };
        match request {
            Request::StartApplicationSession { user, password, versions, seconds } => {
                let answer = self.start(&user, &password, &versions, seconds);
                Some(self.style.session(&answer))
            }
            Request::ResetApplicationSessionTimer { session, seconds } => {
                let answer = self.reset(&session, seconds);
                Some(self.style.session(&answer))
            }
            Request::StopApplicationSession { session } => {
                let answer = self.stop(&session);
                Some(self.style.session(&answer))
            }
            Request::Keepalive => None,
            service => {
                let Some(session) = &mut self.session else {
                    return Some(self.style.answer(answer::error(answer::NO_SESSION, None)));
                };
                let mut services = Services { ctx: &self.ctx, domain: &session.domain, monitors: &mut session.monitors };
                let answer = services.perform(&service);
                Some(self.style.answer(answer))
            }
        }
    }

    fn start(&mut self, user: &str, password: &str, versions: &[String], seconds: Option<u32>) -> Element {
        const NAME: &str = "StartApplicationSessionNegResponse";
        self.starts += 1;
        if self.starts > MOST_STARTS {
            self.flow = Flow::Flush;
        }
        if self.session.is_some() {
            return answer::session_refused(NAME, "sessionAlreadyStarted");
        }
        if !self.ctx.switch.has_domain(user) || password != self.ctx.credentials.csta_password {
            return answer::session_refused(NAME, "invalidApplicationInfo");
        }
        let version = versions.iter().find(|version| version.contains("/csta/ed"));
        if version.is_none() && !versions.is_empty() {
            return answer::session_refused(NAME, "requestedProtocolVersionNotSupported");
        }
        let id = format!("{:016x}", rand::random::<u64>());
        let Some(handle) = self.ctx.sessions.open(Link::Csta, self.ctx.node, user, &id) else {
            return answer::session_refused(NAME, "serverResourcesBusy");
        };
        let time = granted(seconds);
        let answer = answer::session_started(&id, version.map_or(crate::csta::style::ED3, String::as_str), time.as_secs());
        let events = self.ctx.switch.subscribe();
        let (domain, ends) = (user.into(), Instant::now() + time);
        self.session = Some(Session { handle, id, domain, ends, monitors: Monitors::default(), events });
        self.starts = 0;
        answer
    }

    fn reset(&mut self, id: &str, seconds: Option<u32>) -> Element {
        match &mut self.session {
            Some(session) if session.id == id && self.ctx.sessions.touch(session.handle.id) => {
                let time = granted(seconds);
                session.ends = Instant::now() + time;
                answer::timer_reset(time.as_secs())
            }
            _ => answer::session_refused("ResetApplicationSessionTimerNegResponse", "invalidSessionID"),
        }
    }

    fn stop(&mut self, id: &str) -> Element {
        match self.session.take() {
            Some(session) if session.id == id => {
                self.ctx.sessions.close(session.handle.id);
                self.since = Instant::now();
                Element::new("StopApplicationSessionPosResponse")
            }
            other => {
                self.session = other;
                answer::session_refused("StopApplicationSessionNegResponse", "invalidSessionID")
            }
        }
    }

    fn terminate(&mut self, reason: &'static str) {
        if let Some(session) = self.session.take() {
            self.ctx.sessions.close(session.handle.id);
            let mut text = String::new();
            answer::session_terminated(&session.id, reason).write_root("", false, SESSION, &mut text);
            self.send(EVENT_ID, &text);
        }
        self.flow = Flow::Flush;
    }

    // --- keep-alives and time

    fn is_keepalive(&self, root: &Element) -> bool {
        let text = &self.ctx.dialect.csta.keepalive;
        !text.is_empty() && Element::parse(text.as_bytes()).is_ok_and(|own| own.name == root.name)
    }

    fn answer_keepalive(&mut self) {
        if let Some(session) = &self.session {
            self.ctx.sessions.touch(session.handle.id);
        }
        if self.keepalive_sent.elapsed() >= KEEPALIVE_PAUSE {
            self.send_keepalive();
        }
    }

    fn send_keepalive(&mut self) {
        self.keepalive_sent = Instant::now();
        let text = self.ctx.dialect.csta.keepalive.clone();
        self.send(KEEPALIVE_ID, &text);
    }

    fn keepalive_due(&self) -> Option<Instant> {
        let csta = &self.ctx.dialect.csta;
        let sends = !csta.keepalive.is_empty() && csta.keepalive_interval_s > 0 && self.session.is_some();
        sends.then(|| self.keepalive_sent + Duration::from_secs(csta.keepalive_interval_s.into()))
    }

    fn next_due(&self) -> Instant {
        if self.flow != Flow::On {
            return self.progress + STALLED;
        }
        let session = self.session.as_ref().map_or(self.since + WITHOUT_SESSION, |session| session.ends);
        let swap = self.outbox.swap_due();
        let stalled = (!self.outbox.octets.is_empty()).then(|| self.progress + STALLED);
        [Some(session), swap, stalled, self.keepalive_due()].into_iter().flatten().min().unwrap_or(session)
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        if !self.outbox.octets.is_empty() && now >= self.progress + STALLED {
            self.cut_slow("it has taken nothing for too long");
            return;
        }
        if self.flow != Flow::On {
            if now >= self.progress + STALLED {
                self.flow = Flow::Cut;
            }
            return;
        }
        match &self.session {
            Some(session) if now >= session.ends => return self.terminate("sessionTimerExpired"),
            None if now >= self.since + WITHOUT_SESSION => self.flow = Flow::Flush,
            _ => {}
        }
        if self.outbox.swap_due().is_some_and(|due| now >= due) {
            self.outbox.release();
        }
        // A frozen link writes nothing, keep-alives least of all.
        if self.keepalive_due().is_some_and(|due| now >= due) {
            if self.ctx.faults.is_half_open(Link::Csta, self.ctx.node) {
                self.keepalive_sent = now;
            } else {
                self.send_keepalive();
            }
        }
    }

    /// Queues a message, or what a fault makes of it.
    fn send(&mut self, id: InvokeId, text: &str) {
        let action = self.ctx.faults.on_write(Link::Csta, self.ctx.node);
        if self.outbox.send(action, id, text) == Sent::Last {
            self.flow = Flow::Flush;
        }
    }
}

fn granted(seconds: Option<u32>) -> Duration {
    seconds.map_or(USUAL, |seconds| Duration::from_secs(u64::from(seconds).max(1)).min(LONGEST))
}

/// Writes what waits, or flushes when nothing does. Being dropped half-way loses nothing.
async fn push<W: AsyncWrite>(writer: &mut Pin<&mut W>, out: &mut BytesMut) -> Woke {
    if out.is_empty() { Woke::Flushed(writer.flush().await) } else { Woke::Written(writer.write_buf(out).await) }
}

/// Waits for a future if there is one, else for ever.
async fn maybe<F: Future>(future: Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
