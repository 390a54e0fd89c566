//! A session's WebSocket: commands in, answers and the domain's events out. An application that does not read is cut.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use futures_util::{FutureExt, SinkExt, StreamExt};
use ssw_core::{CoreEvent, EventKind};
use tokio::{
    sync::broadcast::{
        self,
        error::{RecvError, TryRecvError},
    },
    time::{Instant, sleep_until, timeout},
};

use crate::{
    call_api::{
        SLOW_APPLICATIONS, Server,
        command::{self, Answer},
        event,
        frame::{Command, Framing},
        listener::Peer,
        tree::Tree,
    },
    dialect::EventFrame,
    faults::{Action, CommandFault, CutPoint, Link},
    sessions::SessionHandle,
};

/// Messages taken from either side between two flushes.
const BATCH: usize = 256;
/// How long the application may take nothing of what is written.
const STALLED: Duration = Duration::from_secs(30);
/// Most events that may gather while the application takes nothing.
const MOST_BEHIND: usize = 8192;
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How long a message that is kept for a swap waits for the next one.
const SWAP: Duration = Duration::from_millis(200);
/// Least time without any frame from the application after which it is taken for dead.
const SILENCE: Duration = Duration::from_secs(60);
/// Characters of an oversized frame.
const OVERSIZE: usize = 17 << 20;

/// Why the connection ends.
enum End {
    /// By the application, an error or a fault: there is nothing to say.
    Gone,
    /// The session is over.
    Expired,
    /// It does not read.
    Slow(&'static str),
}

struct Connection {
    server: Server,
    peer: Peer,
    session: SessionHandle,
    domain: String,
    socket: WebSocket,
    framing: Framing,
    events: broadcast::Receiver<Arc<CoreEvent>>,
    held_back: Option<(Instant, Message)>,
    last_heard: Instant,
}

/// Serves a WebSocket until it ends.
pub(super) async fn run(socket: WebSocket, server: Server, peer: Peer, session: SessionHandle, domain: String) {
    let api = &server.ctx.dialect.call_api;
    let framing = Framing { pad: api.pad, counts_bytes: api.length_in_bytes };
    let events = server.ctx.switch.subscribe();
    let last_heard = Instant::now();
    let mut connection = Connection { server, peer, session, domain, socket, framing, events, held_back: None, last_heard };
    let Err(end) = connection.serve().await;
    match end {
        End::Gone => {}
        End::Expired => {
            let close = CloseFrame { code: close_code::POLICY, reason: "session_expired".into() };
            // It may be gone already.
            let _ = timeout(Duration::from_secs(1), connection.socket.send(Message::Close(Some(close)))).await;
        }
        End::Slow(why) => {
            SLOW_APPLICATIONS.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(why, "a call api application does not read and is cut");
        }
    }
    connection.peer.cut.cancel();
}

// === impl Connection ===

impl Connection {
    async fn serve(&mut self) -> Result<std::convert::Infallible, End> {
        let interval = u64::from(self.server.ctx.dialect.call_api.keepalive_interval_s);
        let silence = SILENCE.max(Duration::from_secs(interval.saturating_mul(4)));
        loop {
            let (cut, expired) = (self.peer.cut.clone(), self.session.expired.clone());
            let dead = self.last_heard + silence;
            let due = self.held_back.as_ref().map_or(dead, |(since, _)| dead.min(*since + SWAP));
            tokio::select! {
                () = cut.cancelled() => return Err(End::Gone),
                () = expired.cancelled() => return Err(End::Expired),
                message = self.socket.recv() => self.receive(message).await?,
                event = self.events.recv() => self.write_events(event).await?,
                () = sleep_until(due) => {
                    if Instant::now() >= dead {
                        return Err(End::Gone);
                    }
                    self.release_held_back().await?;
                }
            }
            patiently(self.socket.flush(), &self.events).await?;
        }
    }

    /// Waits while the link is frozen, then for its delay; true if there was any.
    async fn gate(&mut self) -> Result<bool, End> {
        let began = Instant::now();
        let ctx = &self.server.ctx;
        tokio::select! {
            biased;
            () = self.peer.cut.cancelled() => Err(End::Gone),
            () = ctx.shutdown.cancelled() => Err(End::Gone),
            () = ctx.faults.gate(Link::CallApi, ctx.node) => Ok(began.elapsed() >= Duration::from_millis(1)),
        }
    }

    // --- commands

    /// Handles a message and those that have come behind it.
    async fn receive(&mut self, first: Option<Result<Message, axum::Error>>) -> Result<(), End> {
        let mut next = first;
        for taken in 1.. {
            let Some(Ok(message)) = next else { return Err(End::Gone) };
            self.last_heard = Instant::now();
            let delayed = self.gate().await?;
            match message {
                Message::Text(text) => self.command(&text).await?,
                Message::Close(_) => return Err(End::Gone),
                Message::Binary(_) => tracing::debug!("a call api application sent a binary frame"),
                // Pongs are written by the protocol itself.
                Message::Ping(_) | Message::Pong(_) => {
                    self.server.ctx.sessions.touch(self.session.id);
                }
            }
            if delayed || taken >= BATCH {
                return Ok(());
            }
            match self.socket.next().now_or_never() {
                Some(message) => next = message,
                None => return Ok(()),
            }
        }
        Ok(())
    }

    async fn command(&mut self, text: &str) -> Result<(), End> {
        let server = self.server.clone();
        let ctx = &server.ctx;
        let Command { request_id, name: field, json } = match self.framing.decode(text) {
            Ok(command) => command,
            Err(error) => {
                tracing::debug!(%error, "a call api application sent a malformed frame");
                // Its request id, if it has one, is where it always is.
                let request_id = text.get(12..16).unwrap_or("0000").to_owned();
                let answer = Answer::refused("frame", "bad_frame");
                return self.write(self.framing.answer(&request_id, "400", &answer.tree().to_json())).await;
            }
        };
        ctx.sessions.touch(self.session.id);
        let keepalive = ctx.dialect.call_api.keepalive_command.as_deref();
        if keepalive.is_some_and(|name| field.ends_with(name)) {
            return self.write(self.framing.answer(request_id, "200", &Answer::ok(field).tree().to_json())).await;
        }
        let found = server.catalogue.find(field);
        let name = found.map_or(field, |(_, name)| name);
        let fault = ctx.faults.on_command(name);
        if fault == CommandFault::Cut(CutPoint::Before) {
            return Err(End::Gone);
        }
        let answer = match (&fault, found, Tree::from_json(json)) {
            (CommandFault::RefuseIn200, _, _) => command::refuse_by_fault(ctx, name),
            (_, Some((service, name)), Ok(tree)) => command::execute(ctx, &self.domain, service, name, &tree),
            _ => Answer::cannot(name),
        };
        let status = if matches!(answer, Answer::Done(_)) || fault == CommandFault::RefuseIn200 { "200" } else { "403" };
        let text = self.framing.answer(request_id, status, &answer.tree().to_json());
        match fault {
            CommandFault::Cut(CutPoint::Never) => Ok(()),
            CommandFault::Cut(CutPoint::During) => self.write_half(&text).await,
            CommandFault::Cut(CutPoint::After | CutPoint::Before) => {
                self.flush_before_end().await;
                Err(End::Gone)
            }
            CommandFault::None | CommandFault::RefuseIn200 => self.write(text).await,
        }
    }

    // --- events

    /// Writes an event and those that wait behind it.
    async fn write_events(&mut self, first: Result<Arc<CoreEvent>, RecvError>) -> Result<(), End> {
        let dialect = Arc::clone(&self.server.ctx.dialect);
        let mut trees = Vec::new();
        let mut next = first;
        for taken in 1.. {
            match next {
                Ok(event) if matches!(event.kind, EventKind::Restarted { .. }) => return Err(End::Gone),
                Ok(event) if *event.domain == *self.domain => trees.extend(event::trees(&dialect, &event)),
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => return Err(End::Slow("it is too far behind the switch's events")),
                Err(RecvError::Closed) => return Err(End::Gone),
            }
            if taken >= BATCH {
                break;
            }
            next = match self.events.try_recv() {
                Ok(event) => Ok(event),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Lagged(count)) => Err(RecvError::Lagged(count)),
                Err(TryRecvError::Closed) => Err(RecvError::Closed),
            };
        }
        if dialect.seed != 0 {
            trees = event::join(trees);
        }
        for tree in trees {
            if self.gate().await? {
                // Each message of a slow link leaves on its own.
                patiently(self.socket.flush(), &self.events).await?;
            }
            let json = tree.to_json();
            let text = match &dialect.call_api.event_frame {
                EventFrame::Status(status) => self.framing.answer("0000", status, &json),
                EventFrame::RequestId(id) => self.framing.named(id, &tree.name, &json),
            };
            self.write(text).await?;
        }
        Ok(())
    }

    // --- writing

    async fn feed(&mut self, message: Message) -> Result<(), End> {
        patiently(self.socket.feed(message), &self.events).await
    }

    async fn release_held_back(&mut self) -> Result<(), End> {
        match self.held_back.take() {
            Some((_, message)) => self.feed(message).await,
            None => Ok(()),
        }
    }

    /// Half of a frame, then the end of the connection.
    async fn write_half(&mut self, text: &str) -> Result<(), End> {
        let half: String = text.chars().take(text.chars().count() / 2).collect();
        self.feed(Message::Text(half.into())).await?;
        self.flush_before_end().await;
        Err(End::Gone)
    }

    async fn flush_before_end(&mut self) {
        // What cannot be written within a moment is lost with the connection.
        let _ = timeout(Duration::from_secs(1), self.socket.flush()).await;
    }

    /// Queues a frame, or what a fault makes of it.
    async fn write(&mut self, text: String) -> Result<(), End> {
        let ctx = &self.server.ctx;
        match ctx.faults.on_write(Link::CallApi, ctx.node) {
            Action::Pass => self.feed(Message::Text(text.into())).await?,
            Action::Duplicate => {
                self.feed(Message::Text(text.clone().into())).await?;
                self.feed(Message::Text(text.into())).await?;
            }
            Action::HoldBack => {
                self.release_held_back().await?;
                self.held_back = Some((Instant::now(), Message::Text(text.into())));
                return Ok(());
            }
            Action::Truncate => return self.write_half(&text).await,
            Action::Garbage => self.feed(Message::Text("\u{fffd}{garbage".into())).await?,
            Action::Oversize => {
                self.feed(Message::Text("x".repeat(OVERSIZE).into())).await?;
                self.feed(Message::Text(text.into())).await?;
            }
            Action::WrongPad => self.feed(Message::Text(wrong_pad(self.framing, &text).into())).await?,
        }
        self.release_held_back().await
    }
}

/// Waits for a write, but neither too long nor while too many events gather behind it.
async fn patiently(write: impl Future<Output = Result<(), axum::Error>>, events: &broadcast::Receiver<Arc<CoreEvent>>) -> Result<(), End> {
    let began = Instant::now();
    tokio::pin!(write);
    loop {
        match timeout(LOOK, &mut write).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(_)) => return Err(End::Gone),
            Err(_) if events.len() > MOST_BEHIND => return Err(End::Slow("it is too far behind the switch's events")),
            Err(_) if began.elapsed() >= STALLED => return Err(End::Slow("it has taken nothing for too long")),
            Err(_) => {}
        }
    }
}

/// The frame with the other pad character; one without padding gets a wrong length.
fn wrong_pad(framing: Framing, text: &str) -> String {
    let other = if framing.pad == ' ' { '\0' } else { ' ' };
    let (head, body) = text.split_at_checked(16).unwrap_or((text, ""));
    let field_end = body.find(['[', '{']).unwrap_or(body.len());
    let (field, json) = body.split_at_checked(field_end).unwrap_or((body, ""));
    if field.contains(framing.pad) {
        return format!("{head}{}{json}", field.replace(framing.pad, &other.to_string()));
    }
    match head.get(2..12).and_then(|digits| digits.parse::<u64>().ok()) {
        Some(length) => format!("01{:010}{}{body}", length + 7, head.get(12..).unwrap_or_default()),
        None => text.to_owned(),
    }
}
