//! One APNs connection: reads all there is, judges it, answers in one write, and does what the faults and commands say.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};
use tokio_rustls::server::TlsStream;

use super::{
    Command, FirstToken, GoAway, Inbox, LastStream, TokenUpdates, When,
    judge::{self, Sender},
    reply::{self, ApnsId, Refusal, new_apns_id},
};
use crate::{
    apple::ProviderToken,
    arrival::{Arrival, Record},
    authority,
    connections::Connected,
    device::Provider,
    fault::{self, Effect},
    gate::GatedStream,
    http2::{Request, Server, ServerOptions},
    state::Core,
};

/// One read; several are taken before an answer is written.
const READ: usize = 64 * 1024;
const READS_PER_TURN: usize = 4;
/// While more than this waits to be written, nothing is read.
const MAX_UNWRITTEN: usize = 1 << 20;

/// A provider token that this connection has verified, with its text, so that the next request costs a comparison.
struct Known {
    text: Vec<u8>,
    token: ProviderToken,
    seen_s: i64,
    generation: u64,
}

/// How a request ends.
enum Ending {
    Accepted,
    Refused(Box<Refusal>),
    /// Delivered, and the connection ends in the middle of the answer.
    CutMidAnswer,
}

/// An answer that waits for its time.
struct Due {
    at: Instant,
    order: u64,
    stream: u32,
    /// Of the arrivals' list; 0 = not in it.
    arrival: u64,
    id: ApnsId,
    ending: Ending,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

struct Connection {
    core: Arc<Core>,
    number: u64,
    stream: TlsStream<GatedStream>,
    server: Server,
    inbox: Arc<Inbox>,
    buffer: Vec<u8>,
    written: usize,
    /// The topics of the client's certificate, if it showed one.
    certificate: Option<Vec<String>>,
    known: Option<Known>,
    /// Token-authenticated and no valid token yet, with Apple's rule in force.
    first_token_pending: bool,
    due: BinaryHeap<Reverse<Due>>,
    order: u64,
    sleep: Pin<Box<Sleep>>,
    goaway: Option<(u64, GoAway)>,
    /// After a GOAWAY: end when every open stream is answered.
    ends_when_idle: bool,
    /// End when everything is written.
    ending: bool,
    cut_now: bool,
    mute: bool,
    random: SmallRng,
    block: Vec<u8>,
    requests: Vec<(u32, Request)>,
}

/// Serves a connection to its end.
pub(crate) async fn serve(connected: Connected, core: Arc<Core>) {
    let number = connected.number;
    let inbox = core.apns.open(number);
    // also when the connection is cut and this future just dropped
    let _open = Open { core: core.clone(), number };
    let mut connection = Connection::new(connected, core, inbox);
    let result = std::future::poll_fn(|cx| connection.poll(cx)).await;
    connection.count();
    if let Err(error) = result {
        tracing::debug!(%error, number, "apns connection ended");
    }
}

struct Open {
    core: Arc<Core>,
    number: u64,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.core.apns.closed(self.number);
    }
}

// === impl Connection ===

impl Connection {
    fn new(connected: Connected, core: Arc<Core>, inbox: Arc<Inbox>) -> Self {
        let apns = &core.apns;
        let certificate = connected.stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).map(authority::topics_of);
        let rule = apns.rules.first_token;
        let first_token_pending = certificate.is_none() && rule != FirstToken::Off;
        let max_streams = if first_token_pending { 1 } else { apns.max_streams.load(Ordering::Relaxed) };
        let refuse_streams = !(first_token_pending && rule == FirstToken::Count);
        Self {
            number: connected.number,
            stream: connected.stream,
            server: Server::new(ServerOptions { max_streams, refuse_streams, max_body: judge::MAX_BODY }),
            inbox,
            buffer: vec![0; READ],
            written: 0,
            certificate,
            known: None,
            first_token_pending,
            due: BinaryHeap::new(),
            order: 0,
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
            goaway: None,
            ends_when_idle: false,
            ending: false,
            cut_now: false,
            mute: connected.mute || apns.mute.load(Ordering::Relaxed),
            random: SmallRng::seed_from_u64(apns.rules.seed ^ connected.number),
            block: Vec::with_capacity(256),
            requests: Vec::new(),
            core,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inbox.waker.register(cx.waker());
        loop {
            for command in self.inbox.take() {
                self.obey(command);
            }
            self.answer_due();
            let read_more = match self.poll_read(cx) {
                Ok(Some(more)) => more,
                Ok(None) => return Poll::Ready(Ok(())),
                Err(error) => return Poll::Ready(Err(error)),
            };
            if self.cut_now {
                return Poll::Ready(Ok(()));
            }
            let wrote_all = match self.poll_write(cx) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => false,
            };
            let idle = self.ends_when_idle && self.server.open_streams() == 0;
            if wrote_all && !self.mute && (self.ending || idle) {
                // a polite end: what was written arrives before the end does
                return Pin::new(&mut self.stream).poll_shutdown(cx);
            }
            let timer = match self.due.peek() {
                Some(Reverse(due)) => {
                    if self.sleep.deadline() != due.at {
                        self.sleep.as_mut().reset(due.at);
                    }
                    self.sleep.as_mut().poll(cx).is_ready()
                }
                None => false,
            };
            if !read_more && !timer {
                return Poll::Pending;
            }
        }
    }

    /// Reads and handles what has come. `Some(true)`: there may be more; `None`: the client has ended.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> io::Result<Option<bool>> {
        for _ in 0..READS_PER_TURN {
            if self.ending || self.server.out.len() - self.written > MAX_UNWRITTEN {
                return Ok(Some(false));
            }
            let mut buffer = std::mem::take(&mut self.buffer);
            let mut read = ReadBuf::new(&mut buffer);
            let polled = Pin::new(&mut self.stream).poll_read(cx, &mut read);
            let length = read.filled().len();
            let go_on = match polled {
                Poll::Pending => Ok(Some(false)),
                Poll::Ready(Err(error)) => Err(error),
                Poll::Ready(Ok(())) if length == 0 => Ok(None),
                Poll::Ready(Ok(())) => {
                    self.handle(buffer.get(..length).unwrap_or_default());
                    Ok(Some(true))
                }
            };
            self.buffer = buffer;
            if !matches!(go_on, Ok(Some(true))) || self.cut_now {
                return go_on;
            }
        }
        Ok(Some(true))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.mute {
            self.server.out.clear();
            self.written = 0;
            return Poll::Ready(Ok(()));
        }
        while let Some(rest) = self.server.out.get(self.written..).filter(|rest| !rest.is_empty()) {
            match Pin::new(&mut self.stream).poll_write(cx, rest) {
                Poll::Ready(Ok(length)) => self.written += length,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        self.server.out.clear();
        self.written = 0;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn handle(&mut self, bytes: &[u8]) {
        if self.mute {
            return;
        }
        if let Err(error) = self.server.receive(bytes) {
            tracing::debug!(%error, number = self.number, "apns client breaks the protocol");
            self.core.meters.apns_clients.lock().protocol_errors += 1;
            self.ending = true;
        }
        self.count();
        std::mem::swap(&mut self.requests, &mut self.server.ready);
        let mut requests = std::mem::take(&mut self.requests);
        for (stream, request) in requests.drain(..) {
            // a GOAWAY in between may have dropped it
            let processed = !self.cut_now && self.server.last_stream().is_none_or(|last| stream <= last);
            if processed {
                self.request(stream, &request);
            }
            self.server.recycle(request);
            if processed {
                self.count_down();
            }
        }
        self.requests = requests;
    }

    /// Adds up what the state machine has seen.
    fn count(&mut self) {
        let tally = std::mem::take(&mut self.server.tally);
        self.server.given_up.clear();
        if self.first_token_pending && tally.above_sent_limit > 0 {
            self.core.meters.apns_clients.lock().streams_before_first_token += tally.above_sent_limit;
        }
        self.core.meters.add(tally);
    }

    // === Commands ===

    fn obey(&mut self, command: Command) {
        match command {
            Command::MaxStreams(_) if self.first_token_pending => {}
            Command::MaxStreams(streams) => self.server.set_max_streams(streams, true),
            Command::Mute => self.mute = true,
            Command::GoAway(goaway) => match goaway.when {
                When::Now | When::AfterRequests(0) => self.go_away(&goaway),
                When::AfterRequests(requests) => self.goaway = Some((requests, goaway)),
            },
        }
    }

    /// One more request is handled: a GOAWAY may be due.
    fn count_down(&mut self) {
        if let Some((left, goaway)) = self.goaway.take() {
            match left {
                1 => self.go_away(&goaway),
                _ => self.goaway = Some((left - 1, goaway)),
            }
        }
    }

    fn go_away(&mut self, goaway: &GoAway) {
        let highest = self.server.highest_stream();
        let last = match goaway.last_stream {
            LastStream::Highest => highest,
            LastStream::Before(streams) => highest.saturating_sub(streams.saturating_mul(2)),
            LastStream::Exactly(stream) => stream,
        };
        let debug = goaway.reason.as_ref().map(|reason| serde_json::json!({ "reason": reason }).to_string()).unwrap_or_default();
        let dropped = self.server.goaway(last, goaway.code, debug.as_bytes());
        self.due.retain(|Reverse(due)| {
            let gone = dropped.contains(&due.stream);
            if gone && due.arrival != 0 {
                self.core.arrivals.amend(due.arrival, 0, "not processed");
            }
            !gone
        });
        self.ends_when_idle = goaway.close;
    }

    // === Requests ===

    fn request(&mut self, stream: u32, request: &Request) {
        let core = self.core.clone();
        let id = judge::id(request);
        let device = judge::device(request);
        let answer_id = match id {
            Ok(Some(id)) => id,
            _ => new_apns_id(self.random.random()),
        };
        let token = device.as_ref().copied().unwrap_or_default();
        let allowed = match (&device, &id) {
            (Err(refusal), _) => Err(refusal.clone()),
            (Ok(_), id) => self.authenticate(request).and_then(|()| id.as_ref().map(|_| ()).map_err(Clone::clone)),
        };
        let (verdict, struck) = self.verdict(allowed, request, token);
        let ending = match struck.effect {
            Some(Effect::Silence) => {
                self.record(stream, request, token, &answer_id, 0, "unanswered");
                core.meters.apns.request(Some("unanswered"));
                return;
            }
            Some(Effect::Reset { code }) => return self.server.reset(stream, code),
            Some(Effect::Cut) => {
                self.cut_now = true;
                return;
            }
            Some(Effect::CutMidAnswer) => Ending::CutMidAnswer,
            Some(effect) => Ending::Refused(Box::new(refusal_of(effect, core.clock.now()))),
            None => match verdict {
                Ok(()) => Ending::Accepted,
                Err(refusal) => Ending::Refused(Box::new(refusal)),
            },
        };
        let (status, reason) = match &ending {
            Ending::Accepted | Ending::CutMidAnswer => (200, ""),
            Ending::Refused(refusal) => (refusal.status, refusal.reason.as_str()),
        };
        let arrival = self.record(stream, request, token, &answer_id, status, reason);
        let delay = core.apns.delay() + struck.delay.unwrap_or_default();
        let due = |at| Due { at, order: self.order, stream, arrival, id: answer_id, ending };
        if delay.is_zero() {
            let due = due(self.sleep.deadline());
            self.finish(due);
        } else {
            let due = due(Instant::now() + delay);
            self.order += 1;
            self.due.push(Reverse(due));
        }
    }

    /// What is to be said to a request that is allowed, and the fault that strikes it instead.
    fn verdict(&self, allowed: Result<(), Refusal>, request: &Request, token: &str) -> (Result<(), Refusal>, fault::Struck) {
        let sender = match (&self.known, &self.certificate) {
            (Some(known), _) if request.field(b"authorization").is_some() => Sender::Team(&known.token.topics),
            (_, Some(topics)) => Sender::Certificate(topics),
            _ => Sender::Team(&[]),
        };
        let topic = match allowed.and_then(|()| judge::fields(request, sender)) {
            Ok(topic) => topic,
            Err(refusal) => return (Err(refusal), fault::Struck::default()),
        };
        let struck = self.core.faults.strike(Provider::Apns, token);
        let verdict = if struck.effect.is_some() {
            Ok(())
        } else if judge::is_device_token(token) {
            self.core.devices.with_apns(token, |device| judge::known_device(device, topic, &self.core.apns.rules))
        } else {
            Err(Refusal::new(400, "BadDeviceToken"))
        };
        (verdict, struck)
    }

    /// Finds out who sends: a provider token, else the client's certificate.
    fn authenticate(&mut self, request: &Request) -> Result<(), Refusal> {
        let Some(text) = request.field(b"authorization") else {
            return if self.certificate.is_some() { Ok(()) } else { Err(Refusal::new(403, "MissingProviderToken")) };
        };
        let apns = &self.core.apns;
        let now_s = self.core.clock.now_s();
        let generation = self.core.teams.generation();
        if let Some(known) = self.known.as_ref().filter(|known| known.text == text && known.generation == generation) {
            let expired = known.token.is_expired(now_s, apns.rules.token_lifetime);
            return if expired { Err(Refusal::new(403, "ExpiredProviderToken")) } else { Ok(()) };
        }
        let token = text
            .split_at_checked(7)
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "))
            .map(|(_, token)| token)
            .ok_or_else(|| Refusal::new(403, "InvalidProviderToken"))?;
        let token = self
            .core
            .teams
            .verify(token, now_s, apns.rules.token_lifetime, apns.rules.environment)
            .map_err(|refusal| Refusal::new(403, refusal.reason()))?;
        if let Some(known) = self.known.as_ref().filter(|known| known.text != text) {
            // one team per connection
            if known.token.team_id != token.team_id {
                return Err(Refusal::new(403, "InvalidProviderToken"));
            }
        }
        let early = match apns.rules.token_updates {
            TokenUpdates::Off => false,
            TokenUpdates::PerKey => apns.is_early_for_key(&token, now_s),
            TokenUpdates::PerConnection => self
                .known
                .as_ref()
                .is_some_and(|known| known.text != text && known.token.key_id == token.key_id && apns.is_early(known.seen_s, now_s)),
        };
        if early {
            self.core.meters.apns_clients.lock().early_token_updates += 1;
            return Err(Refusal::new(429, "TooManyProviderTokenUpdates"));
        }
        self.known = Some(Known { text: text.to_vec(), token, seen_s: now_s, generation });
        if self.first_token_pending {
            self.first_token_pending = false;
            self.server.set_max_streams(apns.max_streams.load(Ordering::Relaxed), true);
        }
        Ok(())
    }

    /// Writes it down if anything is written down; answers its number, or 0.
    fn record(&mut self, stream: u32, request: &Request, device: &str, id: &ApnsId, status: u16, reason: &str) -> u64 {
        if self.core.arrivals.record != Record::All {
            return 0;
        }
        let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let kept = |name: &&[u8]| !name.starts_with(b":") && *name != b"authorization";
        let headers = request.fields().filter(|(name, _)| kept(name)).map(|(name, value)| (lossy(name), lossy(value))).collect();
        let sender = match (&self.known, &self.certificate) {
            (Some(known), _) if request.field(b"authorization").is_some() => {
                format!("token {}/{}", known.token.team_id, known.token.key_id)
            }
            (_, Some(topics)) => format!("certificate {}", topics.first().map(String::as_str).unwrap_or_default()),
            _ => String::new(),
        };
        self.core.arrivals.add(Arrival {
            number: 0,
            at: jiff::Timestamp::now(),
            instant: std::time::Instant::now(),
            provider: Provider::Apns,
            connection: self.number,
            stream,
            device: device.to_ascii_lowercase(),
            id: lossy(id),
            sender,
            headers,
            body: Bytes::copy_from_slice(&request.body),
            status,
            reason: reason.to_owned(),
        })
    }

    fn answer_due(&mut self) {
        if self.due.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some(Reverse(first)) = self.due.peek()
            && first.at <= now
        {
            if let Some(Reverse(due)) = self.due.pop() {
                self.finish(due);
            }
        }
    }

    fn finish(&mut self, due: Due) {
        let meter = self.core.arrivals.record != Record::None;
        match due.ending {
            Ending::Accepted => {
                if meter {
                    self.core.meters.apns.request(None);
                }
                reply::block(&mut self.block, 200, &due.id, None);
                self.server.answer(due.stream, &self.block, b"");
            }
            Ending::Refused(refusal) => {
                if meter {
                    self.core.meters.apns.request(Some(&refusal.reason));
                }
                reply::block(&mut self.block, refusal.status, &due.id, Some(&refusal));
                self.server.answer(due.stream, &self.block, refusal.text().as_bytes());
            }
            Ending::CutMidAnswer => {
                if meter {
                    self.core.meters.apns.request(None);
                }
                reply::block(&mut self.block, 200, &due.id, None);
                self.server.answer_partly(due.stream, &self.block, b"{\"rea");
                self.ending = true;
            }
        }
    }
}

/// The answer that a fault gives.
fn refusal_of(effect: Effect, now: jiff::Timestamp) -> Refusal {
    match effect {
        Effect::Answer { status, reason, retry_after, retry_date_s, timestamp_ms, body } => {
            let retry_after = fault::retry_after(retry_after.as_deref(), retry_date_s, now);
            Refusal { status, reason, timestamp_ms, retry_after, body }
        }
        _ => Refusal { body: Some(fault::BAD_GATEWAY_PAGE.to_owned()), ..Refusal::new(502, "BadGateway") },
    }
}
