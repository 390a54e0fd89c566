//! How many events a second reach all of 1, 10 and 100 subscribers when the next one is made as soon as the slowest lets it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ecss_switch::{
    Alias, Domain, Observation, SwitchConferenceId, SwitchEvent, SwitchParticipantId,
    command::Role,
    event::{ConferenceObservation, ParticipantObservation, ParticipantStatus},
};
use elph_model::{Core, CoreOptions, Filter, Origin, Start};
use tokio::sync::broadcast;

use crate::{
    feed::{Keep, slowest},
    report::{Better, Table, median, progress},
    runs::{Contender, Ring, saturate, saturated},
};

const RUNS: usize = 3;
const TIME: Duration = Duration::from_secs(2);
const SUBSCRIBERS: [usize; 3] = [1, 10, 100];
const MEMBERS: usize = 100;

pub(crate) async fn run() -> anyhow::Result<Table> {
    let mut table = Table::new("fanout");
    let ring = Ring::start().await?;
    for subscribers in SUBSCRIBERS {
        progress(&format!("fanout, {subscribers} subscriber(s)"));
        let mut rates: Vec<(Contender, f64)> = Vec::new();
        for _ in 0..RUNS {
            for who in Contender::ALL {
                let mut subscribed = ring.subscribe(who, subscribers, 0, Keep::Nothing).await?;
                rates.push((who, saturated(&mut subscribed, TIME).await? * as_f64(subscribers)));
                subscribed.finish().await?;
            }
        }
        let of = |who| median(rates.iter().filter(|(it, _)| *it == who).map(|(_, rate)| *rate).collect());
        let row = table.row(case("fan-out", subscribers), "deliveries/s", Better::Higher, of(Contender::Ours));
        row.beside(Contender::Bare.name(), of(Contender::Bare)).beside(Contender::Nats.name(), of(Contender::Nats));
    }
    let octets = ring.octets();
    ring.stack.stop().await?;

    for subscribers in SUBSCRIBERS {
        progress(&format!("fanout, model alone, {subscribers} subscriber(s)"));
        let (mut ours, mut floor) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            ours.push(model(subscribers).await? * as_f64(subscribers));
            floor.push(channel(subscribers, octets).await? * as_f64(subscribers));
        }
        let row = table.row(case("model and journal in one process", subscribers), "deliveries/s", Better::Higher, median(ours));
        row.beside("tokio broadcast", median(floor));
    }
    table.note(format!("medians of {RUNS} runs of {TIME:?}, at most 1000 events on their way; payload {octets} octets on average"));
    table.note("ours is fed by the simulated switch over CSTA and Call API, whose work is part of it; rivals are handed finished messages");
    table.note(
        "the model alone is fed observations from one thread; beside it, the same number of octets through tokio's broadcast channel",
    );
    Ok(table)
}

fn case(what: &str, subscribers: usize) -> String {
    format!("{what}, {subscribers} subscriber{}", if subscribers == 1 { "" } else { "s" })
}

#[expect(clippy::cast_precision_loss, reason = "at most 100")]
fn as_f64(count: usize) -> f64 {
    count as f64
}

/// The model and its journal in memory, fed from one thread.
async fn model(subscribers: usize) -> anyhow::Result<f64> {
    let core = Arc::new(Core::open(CoreOptions::default())?);
    let domain = Domain::parse("bench.local")?;
    let conference = SwitchConferenceId::parse("c1")?;
    let whole = ConferenceObservation { conference: Some(conference.clone()), ..Default::default() };
    core.observe(&SwitchEvent { domain: domain.clone(), at: None, observation: Observation::Conference(whole) }, Origin::default());
    let mut events = Vec::new();
    for talking in [true, false] {
        for number in 0..MEMBERS {
            let participant = ParticipantObservation {
                number: Some(Alias::parse(&(1000 + number).to_string())?),
                name: Some(format!("Member {number}")),
                role: Some(Role::Participant),
                status: Some(ParticipantStatus::Connected),
                voice: Some(true),
                floor_requested: Some(false),
                talking: Some(talking),
                ..ParticipantObservation::of(conference.clone(), SwitchParticipantId::parse(&number.to_string())?)
            };
            events.push(SwitchEvent { domain: domain.clone(), at: None, observation: Observation::Participant(participant) });
        }
    }
    let mut counts = Vec::new();
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..subscribers {
        let count = Arc::new(AtomicU64::new(0));
        counts.push(count.clone());
        let mut subscription = core.subscribe(Filter::default(), Start::Now);
        subscription.next(Duration::from_secs(1)).await;
        readers.spawn(async move {
            loop {
                let frames = subscription.next(Duration::from_secs(60)).await;
                count.fetch_add(frames.len() as u64, Ordering::Release);
            }
        });
    }
    let rate = tokio::task::spawn_blocking(move || {
        let mut events = events.iter().cycle();
        let emit = |_| {
            if let Some(event) = events.next() {
                core.observe(event, Origin::default());
            }
            Ok(())
        };
        saturate(TIME, || slowest(&counts), emit)
    });
    let rate = rate.await??;
    readers.shutdown().await;
    Ok(rate)
}

/// The same through tokio's broadcast channel: nothing is made, ordered or kept.
async fn channel(subscribers: usize, octets: usize) -> anyhow::Result<f64> {
    let (sender, _) = broadcast::channel::<bytes::Bytes>(16_384);
    let mut counts = Vec::new();
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..subscribers {
        let count = Arc::new(AtomicU64::new(0));
        counts.push(count.clone());
        let mut receiver = sender.subscribe();
        readers.spawn(async move {
            while receiver.recv().await.is_ok() {
                count.fetch_add(1, Ordering::Release);
            }
        });
    }
    let frame = bytes::Bytes::from(vec![0; octets]);
    let emit = move |_| {
        // Nobody left is no error.
        let _ = sender.send(frame.clone());
        Ok(())
    };
    let rate = tokio::task::spawn_blocking(move || saturate(TIME, || slowest(&counts), emit)).await??;
    readers.shutdown().await;
    Ok(rate)
}
