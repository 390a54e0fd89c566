//! One run of the same job by each contender: so many subscribers with a connection each, and messages at a rate or as fast as the
//! slowest of them takes them.

use std::{
    any::Any,
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bytes::Bytes;
use e2e::Stack;
use elph_proto::v1;
use futures_util::StreamExt;
use prost::Message as _;
use tokio::sync::watch;

use crate::{
    bare::BareTonic,
    busy::Busy,
    feed::{self, Clock, Keep, PATIENCE, Reader, Receipt, all_ready, slowest, subscribe},
    nats::Nats,
};

/// Messages on their way at saturation: no contender's queues overflow, and all have the same to work with.
const WINDOW: u64 = 1000;

/// Who does the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    Ours,
    Bare,
    Nats,
}

/// Puts the n-th message in.
pub(crate) type Emit = Box<dyn FnMut(u64) -> anyhow::Result<()> + Send>;

/// The agent beside its switch, and the rivals.
pub(crate) struct Ring {
    pub(crate) clock: Clock,
    pub(crate) stack: Stack,
    pub(crate) busy: Busy,
    bare: BareTonic,
    nats: Nats,
    /// What the agent sent, for the rivals to send.
    frames: Arc<Vec<Bytes>>,
    made: Arc<Mutex<Vec<u64>>>,
}

/// Open subscriptions.
pub(crate) struct Subscribed {
    readers: Vec<Reader>,
    pub(crate) counts: Vec<Arc<AtomicU64>>,
    stop: watch::Sender<bool>,
    emit: Option<Emit>,
    /// What must stay open.
    kept: Vec<Box<dyn Any + Send>>,
}

impl Contender {
    pub(crate) const ALL: [Self; 3] = [Self::Ours, Self::Bare, Self::Nats];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Bare => "bare tonic",
            Self::Nats => "nats-server",
        }
    }
}

impl Ring {
    /// Starts all three, has the agent tell of every change once, and keeps what it sent.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let size = crate::busy::Size { aliases: 400, calls: 50, conferences: 5, members: 20 };
        let stack = crate::busy::stack(size.aliases).await?;
        crate::busy::furnish(stack.sim.switch(), stack.domain(), size)?;
        let busy = Busy::of(stack.sim.switch(), stack.domain());
        let (bare, nats) = (BareTonic::start().await?, Nats::start().await?);
        let mut ring = Self { clock: Clock::start(), stack, busy, bare, nats, frames: Arc::default(), made: Arc::default() };
        ring.settle(size).await?;
        Ok(ring)
    }

    /// Every change must become exactly one event before anything is measured: monitors are set, comparisons are through.
    async fn settle(&mut self, size: crate::busy::Size) -> anyhow::Result<()> {
        let mut watch = self.stack.watch().await?;
        let all = |view: &elph_proto::view::View| {
            let members: usize = view.conferences.values().map(|conference| conference.connected_count as usize).sum();
            (view.calls.len() == size.calls && members == size.conferences * size.members).then_some(())
        };
        watch.until("every call and conference", all).await?;
        drop(watch);
        let mut last = (0, 0);
        for _ in 0..10 {
            let mut subscribed = self.subscribe(Contender::Ours, 1, 0, Keep::Frames).await?;
            let round = self.busy.round();
            let sent = paced(&mut subscribed, 1000, round).await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let receipts = subscribed.finish().await?.pop().unwrap_or_default();
            let made = self.busy.made(&receipts)?.len();
            self.busy.forget_times();
            last = (receipts.len(), made);
            if last == (round, round) && sent == round as u64 {
                self.frames = Arc::new(receipts.into_iter().filter_map(|receipt| receipt.frame).collect());
                return Ok(());
            }
        }
        bail!("{} changes became {} events, {} of which tell of them", self.busy.round(), last.0, last.1)
    }

    /// Average octets of a message.
    pub(crate) fn octets(&self) -> usize {
        self.frames.iter().map(Bytes::len).sum::<usize>() / self.frames.len().max(1)
    }

    /// Opens so many subscriptions, some of which never read. The first keeps what it reads if `keep` says so; the others need not.
    pub(crate) async fn subscribe(&self, who: Contender, reading: usize, stuck: usize, keep: Keep) -> anyhow::Result<Subscribed> {
        let (stop, stopped) = watch::channel(false);
        let mut subscribed = Subscribed { readers: Vec::new(), counts: Vec::new(), stop, emit: None, kept: Vec::new() };
        let socket = match who {
            Contender::Bare => self.bare.socket(),
            _ => self.stack.directory.join("grpc.sock"),
        };
        let others = if keep == Keep::Frames { Keep::Times } else { keep };
        for number in 0..reading {
            let keep = if number == 0 && who == Contender::Ours { keep } else { others };
            let reader = if who == Contender::Nats {
                Reader::start(self.nats.subscribe().await?, keep, self.clock, stopped.clone())
            } else {
                let stream = subscribe(feed::channel(&socket)).await?;
                let stream = stream.map(|frame| frame.context("a subscriber's stream failed"));
                Reader::start(stream, keep, self.clock, stopped.clone())
            };
            subscribed.counts.push(reader.count.clone());
            subscribed.readers.push(reader);
        }
        for _ in 0..stuck {
            let kept: Box<dyn Any + Send> = match who {
                Contender::Nats => Box::new(self.nats.stuck()?),
                _ => Box::new(subscribe(feed::channel(&socket)).await?),
            };
            subscribed.kept.push(kept);
        }
        self.ready(who, &mut subscribed).await?;
        Ok(subscribed)
    }

    async fn ready(&self, who: Contender, subscribed: &mut Subscribed) -> anyhow::Result<()> {
        let (clock, made) = (self.clock, self.made.clone());
        made.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let hello = self.frames.first().map(|frame| placed(frame, 0)).transpose()?.unwrap_or_default();
        let stamped = move || made.lock().unwrap_or_else(PoisonError::into_inner).push(clock.now());
        let emit: Emit = match who {
            Contender::Ours => {
                all_ready(&subscribed.readers, || Ok(())).await?;
                let busy = self.busy.clone();
                Box::new(move |_| busy.change(clock))
            }
            Contender::Bare => {
                let mut publisher = self.bare.publisher()?;
                all_ready(&subscribed.readers, || publisher.send(&hello)).await?;
                let frames = self.placed()?;
                Box::new(move |number| {
                    stamped();
                    publisher.send(nth(&frames, number))
                })
            }
            Contender::Nats => {
                let mut publisher = self.nats.publisher()?;
                all_ready(&subscribed.readers, || publisher.send(&hello)).await?;
                let frames = self.placed()?;
                Box::new(move |number| {
                    stamped();
                    publisher.send(nth(&frames, number))
                })
            }
        };
        subscribed.emit = Some(emit);
        Ok(())
    }

    /// The agent's messages with positions from 1, so many that a measured run does not repeat one.
    fn placed(&self) -> anyhow::Result<Vec<Bytes>> {
        let mut placed_frames = Vec::with_capacity(MOST);
        for (frame, position) in self.frames.iter().cycle().zip(1..=MOST as u64) {
            placed_frames.push(placed(frame, position)?);
        }
        Ok(placed_frames)
    }

    /// When each position's message was put in, after a run.
    pub(crate) fn made(&mut self, who: Contender, receipts: &[Vec<Receipt>]) -> anyhow::Result<HashMap<u64, u64>> {
        if who == Contender::Ours {
            let made = self.busy.made(receipts.first().map(Vec::as_slice).unwrap_or_default())?;
            self.busy.forget_times();
            return Ok(made);
        }
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((1..).zip(made.iter().copied()).collect())
    }
}

/// Messages of a measured run at most.
const MOST: usize = 32_768;

fn nth(frames: &[Bytes], number: u64) -> &[u8] {
    let at = usize::try_from(number).unwrap_or(0) % frames.len().max(1);
    frames.get(at).map(Bytes::as_ref).unwrap_or_default()
}

fn placed(frame: &Bytes, position: u64) -> anyhow::Result<Bytes> {
    let mut response = v1::SubscribeResponse::decode(frame.clone())?;
    response.cursor.get_or_insert_default().sequence = position;
    Ok(response.encode_to_vec().into())
}

impl Subscribed {
    /// Stops reading. Everything that was read, by subscriber.
    pub(crate) async fn finish(self) -> anyhow::Result<Vec<Vec<Receipt>>> {
        self.stop.send_replace(true);
        let mut all = Vec::new();
        for reader in self.readers {
            all.push(reader.finish().await?);
        }
        drop(self.kept);
        Ok(all)
    }

    async fn drive<T: Send + 'static>(&mut self, drive: impl FnOnce(&mut Emit) -> anyhow::Result<T> + Send + 'static) -> anyhow::Result<T> {
        let mut emit = self.emit.take().context("one run at a time")?;
        let (driven, emit) = tokio::task::spawn_blocking(move || (drive(&mut emit), emit)).await?;
        self.emit = Some(emit);
        driven
    }
}

/// So many messages at a rate, then waits until every subscriber has them. How many were sent.
pub(crate) async fn paced(subscribed: &mut Subscribed, per_second: u32, messages: usize) -> anyhow::Result<u64> {
    let between = Duration::from_secs(1) / per_second;
    let drive = move |emit: &mut Emit| {
        let mut due = Instant::now();
        for number in 0..messages as u64 {
            due += between;
            feed::pause(due.saturating_duration_since(Instant::now()));
            emit(number)?;
        }
        Ok(())
    };
    subscribed.drive(drive).await?;
    let began = Instant::now();
    while slowest(&subscribed.counts) < messages as u64 && began.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // A comparison of the agent with its switch may have added an event: the last one still comes.
    let mut before = 0;
    while before != slowest(&subscribed.counts) {
        before = slowest(&subscribed.counts);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(before.min(messages as u64))
}

/// Messages as fast as the slowest takes them. Messages per second until each has the last.
pub(crate) async fn saturated(subscribed: &mut Subscribed, time: Duration) -> anyhow::Result<f64> {
    let counts = subscribed.counts.clone();
    subscribed.drive(move |emit| saturate(time, || slowest(&counts), emit)).await
}

/// Keeps a window of messages on their way.
pub(crate) fn saturate(time: Duration, taken: impl Fn() -> u64, mut emit: impl FnMut(u64) -> anyhow::Result<()>) -> anyhow::Result<f64> {
    const AT_ONCE: u64 = 16;
    let began = Instant::now();
    let mut sent = 0;
    while began.elapsed() < time {
        if sent + AT_ONCE > taken() + WINDOW {
            feed::pause(Duration::from_micros(20));
            continue;
        }
        for _ in 0..AT_ONCE {
            emit(sent)?;
            sent += 1;
        }
    }
    while taken() < sent {
        if began.elapsed() > time + PATIENCE {
            bail!("{} of {sent} messages did not reach every subscriber", sent - taken());
        }
        feed::pause(Duration::from_micros(20));
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    Ok(sent as f64 / began.elapsed().as_secs_f64())
}
