//! A subscriber's side, the same for all: it notes the position and the time of every message and looks no further into it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bytes::{Buf, BufMut, Bytes};
use elph_proto::v1;
use futures_util::{Stream, StreamExt};
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::{net::UnixStream, sync::watch, task::JoinHandle};
use tonic::{
    Request, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint, Uri},
};

/// The method, of the agent and of the bare server.
pub(crate) const SUBSCRIBE: &str = "/elph.agent.v1.EventService/Subscribe";

/// How long anything may take before the bench gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Time since the bench began: one clock for senders and subscribers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

/// One message as it came.
#[derive(Debug)]
pub(crate) struct Receipt {
    pub(crate) sequence: u64,
    pub(crate) at: u64,
    /// The message itself, if the reader was to keep it.
    pub(crate) frame: Option<Bytes>,
}

/// A subscriber that reads until it is stopped.
pub(crate) struct Reader {
    /// Messages so far.
    pub(crate) count: Arc<AtomicU64>,
    ready: Arc<AtomicBool>,
    task: JoinHandle<anyhow::Result<Vec<Receipt>>>,
}

/// What readers do with messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Count them.
    Nothing,
    /// Note position and time.
    Times,
    /// Keep the message as well.
    Frames,
}

/// Messages as they are on the wire.
pub(crate) struct RawClient;

// === impl Clock ===

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds.
    pub(crate) fn now(self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

// === impl Reader ===

impl Reader {
    /// Reads a stream of encoded `SubscribeResponse`s.
    pub(crate) fn start<S>(stream: S, keep: Keep, clock: Clock, stop: watch::Receiver<bool>) -> Self
    where
        S: Stream<Item = anyhow::Result<Bytes>> + Send + Unpin + 'static,
    {
        let (count, ready) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let task = tokio::spawn(read(stream, keep, clock, stop, count.clone(), ready.clone()));
        Self { count, ready, task }
    }

    /// Everything it has read.
    pub(crate) async fn finish(self) -> anyhow::Result<Vec<Receipt>> {
        tokio::time::timeout(PATIENCE, self.task).await.context("a subscriber did not end")??
    }
}

async fn read<S>(
    mut stream: S,
    keep: Keep,
    clock: Clock,
    mut stop: watch::Receiver<bool>,
    count: Arc<AtomicU64>,
    ready: Arc<AtomicBool>,
) -> anyhow::Result<Vec<Receipt>>
where
    S: Stream<Item = anyhow::Result<Bytes>> + Unpin,
{
    let mut receipts = Vec::new();
    loop {
        let next = tokio::select! {
            biased;
            next = stream.next() => next,
            _ = stop.wait_for(|stop| *stop) => return Ok(receipts),
        };
        let frame = next.context("a subscriber's stream has ended")??;
        let at = clock.now();
        match position(&frame).context("a message without a position")? {
            // A heartbeat, or the message that rivals send until every subscriber is there.
            (_, false) | (0, true) => ready.store(true, Ordering::Release),
            (sequence, true) => {
                count.fetch_add(1, Ordering::Release);
                match keep {
                    Keep::Nothing => {}
                    Keep::Times => receipts.push(Receipt { sequence, at, frame: None }),
                    Keep::Frames => receipts.push(Receipt { sequence, at, frame: Some(frame) }),
                }
            }
        }
    }
}

/// Waits until every reader's stream is known to be open; `nudge` is called meanwhile.
pub(crate) async fn all_ready(readers: &[Reader], mut nudge: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let began = Instant::now();
    while !readers.iter().all(|reader| reader.ready.load(Ordering::Acquire)) {
        if began.elapsed() > PATIENCE {
            bail!("not every subscriber was there in time");
        }
        nudge()?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Sleeps on a thread of its own: tokio's timer is too coarse for 2,000 messages a second.
#[expect(clippy::disallowed_methods, reason = "called from blocking threads alone")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// The messages that the slowest has read.
pub(crate) fn slowest(counts: &[Arc<AtomicU64>]) -> u64 {
    counts.iter().map(|count| count.load(Ordering::Acquire)).min().unwrap_or(0)
}

/// The cursor's sequence, and whether it is an event: read by hand, so that looking costs next to nothing.
fn position(mut frame: &[u8]) -> Option<(u64, bool)> {
    const CURSOR: u64 = 0x0a;
    const EVENT: u8 = 0x12;
    const SEQUENCE: u64 = 0x10;
    if prost::encoding::decode_varint(&mut frame).ok()? != CURSOR {
        return None;
    }
    let length = usize::try_from(prost::encoding::decode_varint(&mut frame).ok()?).ok()?;
    let (mut cursor, rest) = frame.split_at_checked(length)?;
    let mut sequence = 0;
    while !cursor.is_empty() {
        match prost::encoding::decode_varint(&mut cursor).ok()? {
            SEQUENCE => sequence = prost::encoding::decode_varint(&mut cursor).ok()?,
            _ => {
                let length = usize::try_from(prost::encoding::decode_varint(&mut cursor).ok()?).ok()?;
                cursor = cursor.get(length..)?;
            }
        }
    }
    Some((sequence, rest.first() == Some(&EVENT)))
}

// === gRPC ===

/// A connection of its own over a Unix socket.
pub(crate) fn channel(socket: &std::path::Path) -> Channel {
    let socket = socket.to_owned();
    Endpoint::from_static("http://bench.local").connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    }))
}

/// Subscribes to new events.
pub(crate) async fn subscribe(channel: Channel) -> anyhow::Result<tonic::Streaming<Bytes>> {
    let start = v1::subscribe_request::Start::Now(v1::StartNow {});
    let heartbeat_interval = Some(prost_types::Duration { seconds: 5, nanos: 0 });
    let request = v1::SubscribeRequest { start: Some(start), heartbeat_interval, ..Default::default() };
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.context("the server cannot be reached")?;
    let streaming = grpc.server_streaming(Request::new(request), PathAndQuery::from_static(SUBSCRIBE), RawClient).await;
    Ok(streaming.context("subscribe")?.into_inner())
}

impl Codec for RawClient {
    type Encode = v1::SubscribeRequest;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawClient {
    type Item = v1::SubscribeRequest;
    type Error = Status;

    fn encode(&mut self, request: v1::SubscribeRequest, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&request.encode_to_vec());
        Ok(())
    }
}

impl Decoder for RawClient {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
