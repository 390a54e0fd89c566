//! The model's changes, through the policy, to the devices. Whatever a slow disk holds up here, the switch's links and the subscribers
//! do not notice: this is one more subscriber, which is resynchronised when it falls behind.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use elph_model::{Core, Filter, Start};
use elph_policy::{Notice, Policy};
use elph_proto::v1::{self, event::Change, subscribe_response::Message};
use jiff::Timestamp;
use parking_lot::Mutex;
use prost::Message as _;
use push_core::UserId;
use tokio::sync::mpsc;

use super::Pusher;
use crate::lifecycle::Shared;

/// Nothing comes for so long: look whether the rules have changed.
const QUIET: Duration = Duration::from_secs(5);

/// Deliveries side by side. Those of one user and subject stay in order.
const LANES: u64 = 16;

/// Notices that wait in a lane; more hold the reader up, which then is resynchronised.
const LANE: usize = 256;

/// How long an address is taken to be here, or not to be.
const LOOK: Duration = Duration::from_secs(1);

/// Whether this agent acts by itself. In a cluster only the one at the shared address does.
pub(super) struct Acting {
    address: Option<IpAddr>,
    seen: Mutex<Seen>,
}

struct Seen {
    at: Option<Instant>,
    here: bool,
    /// Since when it has been here.
    since: Instant,
}

impl Acting {
    pub(super) fn new(address: Option<IpAddr>) -> Self {
        Self { address, seen: Mutex::new(Seen { at: None, here: false, since: Instant::now() }) }
    }

    /// Whether it can be another agent that acts.
    pub(super) fn is_shared(&self) -> bool {
        self.address.is_some()
    }

    /// Since when this agent acts; none: another does.
    pub(super) fn since(&self) -> Option<Instant> {
        let mut seen = self.seen.lock();
        let Some(address) = self.address else { return Some(seen.since) };
        if seen.at.is_none_or(|at| at.elapsed() > LOOK) {
            let here = has_address(address);
            if here != seen.here {
                tracing::info!(%address, acting = here, "the address that decides who pushes has moved");
                seen.since = Instant::now();
            }
            (seen.at, seen.here) = (Some(Instant::now()), here);
        }
        seen.here.then_some(seen.since)
    }
}

/// If nobody can say, it is: a phone that rings twice is better than one that does not ring.
fn has_address(wanted: IpAddr) -> bool {
    let addresses = match nix::ifaddrs::getifaddrs() {
        Ok(addresses) => addresses,
        Err(error) => {
            tracing::warn!(%error, "this host's addresses cannot be read; push.acting_address is taken to be here");
            return true;
        }
    };
    addresses.into_iter().filter_map(|interface| interface.address).any(|address| {
        let v4 = address.as_sockaddr_in().map(|it| IpAddr::from(it.ip()));
        let v6 = address.as_sockaddr_in6().map(|it| IpAddr::from(it.ip()));
        v4.or(v6) == Some(wanted)
    })
}

/// Runs until the drain. `joined`: whose devices are new.
pub(super) async fn follow(shared: Arc<Shared>, core: Arc<Core>, pusher: Arc<Pusher>, mut joined: mpsc::Receiver<UserId>) {
    let lanes: Vec<mpsc::Sender<Notice>> = (0..LANES).map(|_| lane(&shared, pusher.clone())).collect();
    let kinds = vec![v1::EventKind::Call, v1::EventKind::Conference];
    let mut subscription = core.subscribe(Filter { kinds, ..Filter::default() }, Start::Snapshot);
    let mut config = shared.config.load_full();
    let mut policy = Policy::new(super::rules(&config));
    let mut snapshot = v1::Snapshot::default();
    loop {
        let (frames, user) = tokio::select! {
            biased;
            () = shared.shutdown.soft.cancelled() => return,
            user = joined.recv() => (Vec::new(), user),
            frames = subscription.next(QUIET) => (frames, None),
        };
        let current = shared.config.load_full();
        if !Arc::ptr_eq(&current, &config) {
            policy.set_rules(super::rules(&current));
            config = current;
        }
        let mut told = user.map(|user| policy.open_of(&user.domain, &user.alias)).unwrap_or_default();
        for frame in frames {
            // The model wrote it itself.
            let Ok(response) = v1::SubscribeResponse::decode(frame) else { continue };
            told.extend(notices(&mut policy, &mut snapshot, response));
        }
        for notice in told {
            if let Some(lane) = lanes.get(place(&notice)) {
                // A lane ends only with the agent.
                let _ended = lane.send(notice).await;
            }
        }
    }
}

fn lane(shared: &Arc<Shared>, pusher: Arc<Pusher>) -> mpsc::Sender<Notice> {
    let (sender, mut notices) = mpsc::channel(LANE);
    shared.tasks.spawn(async move {
        while let Some(notice) = notices.recv().await {
            pusher.notify(notice).await;
        }
    });
    sender
}

fn place(notice: &Notice) -> usize {
    let mut hasher = DefaultHasher::new();
    (&notice.domain, &notice.alias, &notice.subject).hash(&mut hasher);
    usize::try_from(hasher.finish() % LANES).unwrap_or(0)
}

fn notices(policy: &mut Policy, snapshot: &mut v1::Snapshot, response: v1::SubscribeResponse) -> Vec<Notice> {
    let now = Timestamp::now();
    match response.message {
        Some(Message::Event(event)) => match &event.change {
            Some(Change::Call(call)) => policy.call(call, now),
            Some(Change::Conference(conference)) => policy.conference(conference, now),
            Some(Change::Participant(change)) => policy.participant(&event.domain, change, now),
            Some(Change::Link(_)) | None => Vec::new(),
        },
        Some(Message::Snapshot(part)) => {
            snapshot.calls.extend(part.calls);
            snapshot.conferences.extend(part.conferences);
            if !part.complete {
                return Vec::new();
            }
            let whole = std::mem::take(snapshot);
            policy.snapshot(&whole.calls, &whole.conferences, now)
        }
        Some(Message::Resync(_)) => {
            *snapshot = v1::Snapshot::default();
            Vec::new()
        }
        Some(Message::Heartbeat(_)) | None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_acts_where_the_address_is() {
        assert!(Acting::new(None).since().is_some());
        assert!(Acting::new(Some("127.0.0.1".parse().unwrap())).since().is_some());
        assert!(Acting::new(Some("192.0.2.77".parse().unwrap())).since().is_none());
    }
}
