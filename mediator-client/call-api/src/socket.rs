//! A session over its WebSocket: moves messages between the socket and the session. A frame counts as handed over only when the
//! socket has taken all before it, so that what waits behind a blocked one is known not to have been sent.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use ecss_switch::{
    connect::{BoxedIo, Connect, Endpoint},
    link::{LinkCounters, LinkKind, Tap, Way},
    nodes::Nodes,
};
use futures_util::{Sink, Stream, StreamExt};
use http::header;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{self, Message, client::IntoClientRequest, protocol::WebSocketConfig},
};

use crate::{
    client::CallApiConfig,
    driver::{Driver, End, Probe, now, until},
    frame::MAX_MESSAGE,
    http::{Cookie, open, path},
    session::{Received, Session, Transmit, Verdict},
};

/// How many messages are read before the other business has its turn.
const BATCH: usize = 64;
/// How long the closing of a WebSocket may take.
const CLOSE: Duration = Duration::from_secs(1);
/// How often a move back to the preferred node is tried while commands are under way.
const QUIET_CHECK: Duration = Duration::from_millis(200);

/// An open WebSocket.
pub(crate) struct Socket {
    stream: WebSocketStream<BoxedIo>,
    /// A message has been handed over and is not yet written.
    flushing: bool,
    inbox: Vec<Message>,
}

/// What the socket did.
enum Step {
    /// The inbox has messages.
    Read,
    /// A message was handed over or written.
    Wrote,
    /// It is over; the inbox may have messages.
    Failed(String),
    /// So it is, because of what the switch sent.
    Bad(String),
}

/// Upgrades to the WebSocket of the session.
pub(crate) async fn upgrade(
    config: &CallApiConfig,
    template: &str,
    connect: &dyn Connect,
    endpoint: &Endpoint,
    cookie: &Cookie,
    tap: Option<&dyn Tap>,
) -> Result<Socket, String> {
    let path = path(template, &[("{domain}", config.domain.as_str())]);
    let mut request = format!("ws://{endpoint}{path}")
        .into_client_request()
        .map_err(|error| format!("the WebSocket path '{path}' makes no request: {error}"))?;
    request.headers_mut().insert(header::COOKIE, cookie.header()?);
    if let Some(tap) = tap {
        tap.message(LinkKind::CallApi, Way::Sent, &format!("GET {path} (upgrade)"), "");
    }
    let io = open(connect, endpoint, config.connect_timeout).await?;
    let limits = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
        .read_buffer_size(16 * 1024)
        .write_buffer_size(16 * 1024)
        .max_write_buffer_size(2 * MAX_MESSAGE);
    let handshake = timeout(config.connect_timeout, client_async_with_config(request, io, Some(limits)));
    match handshake.await {
        Ok(Ok((stream, response))) => {
            if let Some(tap) = tap {
                tap.message(LinkKind::CallApi, Way::Received, &format!("{} {path}", response.status()), "");
            }
            Ok(Socket { stream, flushing: false, inbox: Vec::with_capacity(BATCH) })
        }
        Ok(Err(error)) => Err(format!("WebSocket upgrade: {}", describe(&error))),
        Err(_) => Err(format!("the WebSocket upgrade took longer than {:?}", config.connect_timeout)),
    }
}

fn describe(error: &tungstenite::Error) -> String {
    match error {
        tungstenite::Error::Http(response) => format!("the switch answered {}", response.status()),
        other => other.to_string(),
    }
}

/// Whether it is the message that is wrong (too long, no text, against the protocol), and not the connection that broke.
fn is_bad_input(error: &tungstenite::Error) -> bool {
    use tungstenite::error::ProtocolError;
    match error {
        tungstenite::Error::Protocol(error) => !matches!(error, ProtocolError::ResetWithoutClosingHandshake),
        tungstenite::Error::Capacity(_) | tungstenite::Error::Utf8(_) => true,
        _ => false,
    }
}

// === impl Socket ===

impl Socket {
    /// Writes what the session has to say while the socket takes it, then reads what there is.
    fn poll_step<W>(&mut self, cx: &mut Context<'_>, session: &mut Session<W>, mut sent: impl FnMut(&str)) -> Poll<Step> {
        let mut wrote = false;
        loop {
            if self.flushing {
                match Pin::new(&mut self.stream).poll_flush(cx) {
                    Poll::Ready(Ok(())) => self.flushing = false,
                    Poll::Ready(Err(error)) => return Poll::Ready(Step::Failed(describe(&error))),
                    Poll::Pending => break,
                }
            }
            let Some(transmit) = session.poll_transmit(now()) else { break };
            let message = match transmit {
                Transmit::Text(text) => {
                    sent(&text);
                    Message::text(text)
                }
                Transmit::Ping => Message::Ping(tungstenite::Bytes::new()),
            };
            self.flushing = true;
            wrote = true;
            if let Err(error) = Pin::new(&mut self.stream).start_send(message) {
                return Poll::Ready(Step::Failed(describe(&error)));
            }
        }
        while self.inbox.len() < BATCH {
            match Pin::new(&mut self.stream).poll_next(cx) {
                Poll::Ready(Some(Ok(message))) => self.inbox.push(message),
                Poll::Ready(Some(Err(error))) if is_bad_input(&error) => return Poll::Ready(Step::Bad(describe(&error))),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Step::Failed(describe(&error))),
                Poll::Ready(None) => return Poll::Ready(Step::Failed("the switch closed the connection".to_owned())),
                Poll::Pending => break,
            }
        }
        match (self.inbox.is_empty(), wrote) {
            (false, _) => Poll::Ready(Step::Read),
            (true, true) => Poll::Ready(Step::Wrote),
            (true, false) => Poll::Pending,
        }
    }

    /// The closing handshake, within bounds.
    async fn close(mut self) {
        let handshake = async {
            if self.stream.close(None).await.is_ok() {
                while let Some(Ok(_)) = self.stream.next().await {}
            }
        };
        // a peer that does not answer has nothing to lose by a connection that is just dropped
        let _ = timeout(CLOSE, handshake).await;
    }
}

impl Driver {
    /// Runs the session until it ends.
    pub(crate) async fn drive_socket(&mut self, mut socket: Box<Socket>, nodes: &mut Nodes) -> End {
        self.session.opened(now());
        let mut probe = Probe::default();
        let end = loop {
            self.settle();
            self.report_gap();
            match self.session.timers(now()) {
                Verdict::Alive => {}
                Verdict::Lost(cause) => return End::Lost(cause.to_owned()),
                Verdict::Relogin => break End::Relogin,
            }
            probe.start(nodes, self);
            let back = nodes.fail_back_due(now()).is_some();
            if back && self.session.is_idle() && self.commands.is_empty() {
                break End::FailBack;
            }
            let wakeup = [
                self.session.next_wakeup(!socket.flushing).map(Instant::from_std),
                nodes.probe_at().map(Instant::from_std),
                self.gap_due,
                back.then(|| Instant::now() + QUIET_CHECK),
            ];
            let wakeup = wakeup.into_iter().flatten().min();
            let tap = self.tap.clone();
            let mut sent = |text: &str| {
                LinkCounters::add(&self.counters.messages_sent);
                record(tap.as_deref(), Way::Sent, text);
            };
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => break End::Shutdown,
                step = std::future::poll_fn(|cx| socket.poll_step(cx, &mut self.session, &mut sent)) => {
                    let closed = self.read(&mut socket);
                    match (closed, step) {
                        (Some(cause), _) => break End::Closed(cause),
                        (None, Step::Failed(cause)) => return End::Lost(cause),
                        (None, Step::Bad(cause)) => {
                            LinkCounters::add(&self.counters.messages_bad);
                            self.deliver(Received { complaint: Some(("message", cause.clone())), ..Received::default() });
                            return End::Lost(cause);
                        }
                        (None, Step::Read | Step::Wrote) => {}
                    }
                }
                Some(command) = self.commands.recv(), if self.session.has_room() => self.session.submit(command),
                (endpoint, reachable) = probe.result() => nodes.probe_result(&endpoint, reachable, now()),
                () = until(wakeup) => {}
            }
            while self.session.has_room() {
                let Ok(command) = self.commands.try_recv() else { break };
                self.session.submit(command);
            }
        };
        if matches!(end, End::Shutdown) {
            self.session.lost("the link is shut down");
            self.settle();
        }
        socket.close().await;
        end
    }

    /// Reads the inbox; says why if the switch closes the WebSocket.
    fn read(&mut self, socket: &mut Socket) -> Option<String> {
        let mut closed = None;
        for message in socket.inbox.drain(..) {
            match message {
                Message::Text(text) => {
                    record(self.tap.as_deref(), Way::Received, &text);
                    let received = self.session.received(&text, now());
                    self.deliver(received);
                }
                Message::Binary(octets) => match std::str::from_utf8(&octets) {
                    Ok(text) => {
                        record(self.tap.as_deref(), Way::Received, text);
                        let mut received = self.session.received(text, now());
                        if received.complaint.is_none() {
                            LinkCounters::add(&self.counters.messages_bad);
                            received.complaint = Some(("binary", "a frame came as a binary message".to_owned()));
                        }
                        self.deliver(received);
                    }
                    Err(_) => {
                        self.session.heard(now());
                        LinkCounters::add(&self.counters.messages_received);
                        LinkCounters::add(&self.counters.messages_bad);
                        let complaint = Some(("binary", "a binary message is no text".to_owned()));
                        self.deliver(Received { complaint, gap: true, ..Received::default() });
                    }
                },
                Message::Close(frame) => {
                    let code = frame.map_or_else(|| "without a code".to_owned(), |frame| format!("with code {}", u16::from(frame.code)));
                    closed = Some(format!("the switch closed the WebSocket {code}"));
                }
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => self.session.heard(now()),
            }
        }
        closed
    }
}

/// Shows a frame to the recorder: header and field, and the JSON.
fn record(tap: Option<&dyn Tap>, way: Way, text: &str) {
    if let Some(tap) = tap {
        let at = text.find(['[', '{']).unwrap_or(text.len());
        let (head, body) = text.split_at_checked(at).unwrap_or((text, ""));
        tap.message(LinkKind::CallApi, way, head, body);
    }
}
