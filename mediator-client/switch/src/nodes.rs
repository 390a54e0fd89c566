//! Which node of the switch to speak to: nodes in order of preference, failover to the next one, jittered back-off once all have
//! failed, and fail-back to a preferred node that has been reachable again for a while. Policy only: no I/O and no clock.
//! Two nodes with VRRP addresses are what integrators see in the field (ecss10-interfaces §6).
//!
//! Times are [`Instant`]s of the caller; a tokio driver passes `tokio::time::Instant::now().into_std()`, so that paused and
//! simulated clocks work.

use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng, rngs::SmallRng};

use crate::{backoff::Backoff, connect::Endpoint};

/// How patient the policy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodesPolicy {
    /// Bound of the first wait after all nodes have failed.
    pub first_wait: Duration,
    /// Bound of the longest wait.
    pub most_wait: Duration,
    /// A session that held this long was good: its loss begins a new round without the waits of the old one.
    pub stable_after: Duration,
    /// How long a preferred node must have been reachable before sessions move back to it.
    pub fail_back_after: Duration,
    /// What the jitter is drawn from; `None`: the operating system. The same seed makes the same waits, for tests that can be repeated.
    pub seed: Option<u64>,
}

impl Default for NodesPolicy {
    fn default() -> Self {
        Self {
            first_wait: Duration::from_millis(250),
            most_wait: Duration::from_secs(15),
            stable_after: Duration::from_secs(10),
            fail_back_after: Duration::from_secs(60),
            seed: None,
        }
    }
}

/// Two or more nodes (or one, which then has nothing to fail over to).
#[derive(Debug)]
pub struct Nodes {
    nodes: Vec<Node>,
    policy: NodesPolicy,
    backoff: Backoff,
    /// The wait before the next attempt; taken by `next`.
    wait: Duration,
    /// The node that has the session, and since when.
    current: Option<(usize, Instant)>,
    /// The node that had the last session.
    last: Option<usize>,
    probe_at: Option<Instant>,
    probing: Option<usize>,
    rng: SmallRng,
}

#[derive(Debug)]
struct Node {
    endpoint: Endpoint,
    /// Failed in this round: not tried again before all others.
    failed: bool,
    /// Every probe since then has succeeded.
    reachable_since: Option<Instant>,
    /// How often a fail-back to it ended in a failure: it must be reachable for longer each time.
    disappointments: u32,
}

/// There is no node to speak to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("at least one node of the switch is needed")]
pub struct NoNodes;

impl Nodes {
    /// The nodes, the preferred one first.
    pub fn new(endpoints: Vec<Endpoint>, policy: NodesPolicy) -> Result<Self, NoNodes> {
        Self::seeded(endpoints, policy, policy.seed.unwrap_or_else(|| rand::rng().random()))
    }

    /// The same waits for the same seed.
    pub fn seeded(endpoints: Vec<Endpoint>, policy: NodesPolicy, seed: u64) -> Result<Self, NoNodes> {
        if endpoints.is_empty() {
            return Err(NoNodes);
        }
        let node = |endpoint| Node { endpoint, failed: false, reachable_since: None, disappointments: 0 };
        Ok(Self {
            nodes: endpoints.into_iter().map(node).collect(),
            policy,
            backoff: Backoff::seeded(policy.first_wait, policy.most_wait, seed),
            wait: Duration::ZERO,
            current: None,
            last: None,
            probe_at: None,
            probing: None,
            rng: SmallRng::seed_from_u64(seed),
        })
    }

    /// The node to try next and how long to wait before. The wait is handed out once: a second call says zero.
    #[expect(clippy::should_implement_trait, reason = "there is always a next node; an iterator could end")]
    pub fn next(&mut self) -> (Endpoint, Duration) {
        let wait = std::mem::take(&mut self.wait);
        // `failed` never leaves all nodes failed, so the first one is only a formality.
        let node = self.nodes.iter().find(|node| !node.failed).or_else(|| self.nodes.first());
        let endpoint = node.map_or_else(|| Endpoint { host: String::new(), port: 0 }, |node| node.endpoint.clone());
        (endpoint, wait)
    }

    /// An attempt failed (connection, handshake or login), or the session was lost.
    pub fn failed(&mut self, endpoint: &Endpoint, now: Instant) {
        let Some(index) = self.position(endpoint) else { return };
        if let Some((current, since)) = self.current
            && current == index
        {
            self.current = None;
            self.stop_probing();
            if now.saturating_duration_since(since) >= self.policy.stable_after {
                self.backoff.reset();
                self.begin_round();
                self.forgive(index);
            }
        }
        if let Some(node) = self.nodes.get_mut(index) {
            node.failed = true;
            // It answered probes and yet there is no session to be had.
            if node.reachable_since.take().is_some() {
                node.disappointments = node.disappointments.saturating_add(1);
            }
        }
        if self.nodes.iter().all(|node| node.failed) {
            self.begin_round();
            self.wait = self.backoff.next_wait();
        }
    }

    /// The session is up on this node. Says whether it is another node than the session before: a failover or fail-back.
    pub fn connected(&mut self, endpoint: &Endpoint, now: Instant) -> bool {
        let Some(index) = self.position(endpoint) else { return false };
        let moved = self.last.is_some_and(|last| last != index);
        self.current = Some((index, now));
        self.last = Some(index);
        self.wait = Duration::ZERO;
        self.stop_probing();
        // What the others answered while another node had the session is stale.
        self.nodes.iter_mut().enumerate().filter(|(other, _)| *other != index).for_each(|(_, node)| node.reachable_since = None);
        if index > 0 {
            self.schedule_probe(now);
        }
        moved
    }

    /// The node that has the session.
    pub fn current(&self) -> Option<&Endpoint> {
        self.current.and_then(|(index, _)| self.nodes.get(index)).map(|node| &node.endpoint)
    }

    /// When `should_probe` will next have something to say; for a driver's timer.
    pub fn probe_at(&self) -> Option<Instant> {
        self.probe_at
    }

    /// The preferred node to probe now, by a connection that is closed at once. Every answer is to be followed by one
    /// `probe_result`; until then there is no further one.
    pub fn should_probe(&mut self, now: Instant) -> Option<Endpoint> {
        let (current, _) = self.current?;
        if self.probing.is_some() || self.probe_at.is_none_or(|at| now < at) {
            return None;
        }
        // One that is already on its way back is watched; otherwise the better ones take turns, so that none is forgotten.
        let better = || self.nodes.iter().enumerate().take(current);
        let watched = better().find(|(_, node)| node.reachable_since.is_some()).map(|(index, _)| index);
        let index = watched.unwrap_or_else(|| self.rng.random_range(0..current.max(1)));
        self.probe_at = None;
        self.probing = Some(index);
        self.nodes.get(index).map(|node| node.endpoint.clone())
    }

    /// How a probe ended.
    pub fn probe_result(&mut self, endpoint: &Endpoint, reachable: bool, now: Instant) {
        let Some(index) = self.position(endpoint) else { return };
        if self.probing != Some(index) {
            return; // the session has moved meanwhile
        }
        self.probing = None;
        if let Some(node) = self.nodes.get_mut(index) {
            node.reachable_since = if reachable { node.reachable_since.or(Some(now)) } else { None };
        }
        self.schedule_probe(now);
    }

    /// The preferred node to move the session to, at the next quiet moment.
    pub fn fail_back_due(&self, now: Instant) -> Option<&Endpoint> {
        let (current, _) = self.current?;
        let due = |node: &&Node| {
            let needed = self.policy.fail_back_after.saturating_mul(1 << node.disappointments.min(6));
            node.reachable_since.is_some_and(|since| now.saturating_duration_since(since) >= needed)
        };
        self.nodes.iter().take(current).find(due).map(|node| &node.endpoint)
    }

    /// The driver gives the present session up in order to move back: `next` says where to, without a wait.
    pub fn fail_back(&mut self, now: Instant) {
        let Some(target) = self.fail_back_due(now).and_then(|endpoint| self.position(endpoint)) else { return };
        self.current = None;
        self.stop_probing();
        self.wait = Duration::ZERO;
        for (index, node) in self.nodes.iter_mut().enumerate() {
            node.failed = index < target;
        }
    }

    /// The nodes, the preferred one first.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.nodes.iter().map(|node| &node.endpoint)
    }

    fn position(&self, endpoint: &Endpoint) -> Option<usize> {
        self.nodes.iter().position(|node| node.endpoint == *endpoint)
    }

    fn begin_round(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.failed = false);
    }

    fn forgive(&mut self, index: usize) {
        if let Some(node) = self.nodes.get_mut(index) {
            node.disappointments = 0;
            node.reachable_since = None;
        }
    }

    fn stop_probing(&mut self) {
        self.probe_at = None;
        self.probing = None;
    }

    /// At least four probes within the time a node must have been reachable, and one every five seconds.
    fn schedule_probe(&mut self, now: Instant) {
        let longest = (self.policy.fail_back_after / 4).min(Duration::from_secs(5));
        self.probe_at = Some(now + longest.mul_f64(self.rng.random_range(0.75..=1.0)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn endpoint(n: usize) -> Endpoint {
        Endpoint { host: format!("node{n}"), port: 9999 }
    }

    fn nodes(n: usize) -> Nodes {
        Nodes::seeded((0..n).map(endpoint).collect(), NodesPolicy::default(), 7).unwrap()
    }

    #[test]
    fn without_nodes_there_is_no_policy() {
        assert_eq!(Nodes::new(Vec::new(), NodesPolicy::default()).unwrap_err(), NoNodes);
    }

    #[test]
    fn a_seeded_policy_waits_the_same_each_time() {
        let waits = |seed| {
            let mut nodes = Nodes::new(vec![endpoint(0)], NodesPolicy { seed, ..NodesPolicy::default() }).unwrap();
            let wait = |_| {
                nodes.failed(&endpoint(0), Instant::now());
                nodes.next().1
            };
            (0..8).map(wait).collect::<Vec<_>>()
        };
        assert_eq!(waits(Some(7)), waits(Some(7)));
        assert_ne!(waits(Some(7)), waits(Some(8)));
    }

    #[test]
    fn each_node_is_tried_once_at_once_and_then_all_again_after_a_growing_wait() {
        let mut nodes = nodes(2);
        let now = Instant::now();
        let mut waits = Vec::new();
        for round in 0..6 {
            let (first, wait) = nodes.next();
            assert_eq!(first, endpoint(0));
            assert_eq!(wait.is_zero(), round == 0);
            waits.push(wait);
            nodes.failed(&first, now);
            assert_eq!(nodes.next(), (endpoint(1), Duration::ZERO));
            nodes.failed(&endpoint(1), now);
        }
        assert!(waits[5] > waits[1] && waits[5] <= NodesPolicy::default().most_wait, "{waits:?}");
    }

    #[test]
    fn a_lost_session_fails_over_at_once_and_a_flapping_one_is_slowed_down() {
        let mut nodes = nodes(2);
        let start = Instant::now();
        assert!(!nodes.connected(&endpoint(0), start));
        nodes.failed(&endpoint(0), start + Duration::from_secs(100));
        assert_eq!(nodes.next(), (endpoint(1), Duration::ZERO));
        assert!(nodes.connected(&endpoint(1), start + Duration::from_secs(101)));
        nodes.failed(&endpoint(1), start + Duration::from_secs(102));
        let (node, wait) = nodes.next();
        assert_eq!(node, endpoint(0));
        assert!(!wait.is_zero(), "both have failed within a short time");
    }

    /// Probes every second, all of them successful, and says when fail-back was due.
    fn probe_until_due(nodes: &mut Nodes, from: Instant) -> Option<u64> {
        for second in 0..10_000 {
            let now = from + Duration::from_secs(second);
            if let Some(node) = nodes.should_probe(now) {
                assert!(nodes.should_probe(now).is_none(), "one probe at a time");
                nodes.probe_result(&node, true, now);
            }
            if nodes.fail_back_due(now).is_some() {
                return Some(second);
            }
        }
        None
    }

    #[test]
    fn the_session_moves_back_once_the_preferred_node_was_reachable_long_enough() {
        let mut nodes = nodes(2);
        let start = Instant::now();
        nodes.failed(&endpoint(0), start);
        nodes.connected(&endpoint(1), start);
        let due = probe_until_due(&mut nodes, start).unwrap();
        assert!((60..=70).contains(&due), "{due}");
        let later = start + Duration::from_secs(due);
        nodes.fail_back(later);
        assert_eq!(nodes.next(), (endpoint(0), Duration::ZERO));
        assert!(nodes.connected(&endpoint(0), later));
        assert_eq!(nodes.probe_at(), None, "there is nothing better than the preferred node");
    }

    #[test]
    fn a_failed_probe_starts_the_time_anew_and_a_failed_move_doubles_it() {
        let mut nodes = nodes(2);
        let start = Instant::now();
        nodes.connected(&endpoint(1), start);
        let at = start + Duration::from_secs(50);
        assert_eq!(nodes.should_probe(at), Some(endpoint(0)));
        nodes.probe_result(&endpoint(0), true, at);
        let at = start + Duration::from_secs(60);
        assert_eq!(nodes.should_probe(at), Some(endpoint(0)));
        nodes.probe_result(&endpoint(0), false, at);
        assert_eq!(nodes.fail_back_due(start + Duration::from_secs(119)), None);
        let due = probe_until_due(&mut nodes, at).unwrap();
        let later = at + Duration::from_secs(due);
        nodes.fail_back(later);
        nodes.failed(&endpoint(0), later);
        assert_eq!(nodes.next().0, endpoint(1));
        nodes.connected(&endpoint(1), later);
        let due = probe_until_due(&mut nodes, later).unwrap();
        assert!((120..=130).contains(&due), "{due}");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Attempt { succeeds: bool },
        Lose,
        Probe { reachable: bool },
        FailBack,
        Pass(u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            any::<bool>().prop_map(|succeeds| Step::Attempt { succeeds }),
            Just(Step::Lose),
            any::<bool>().prop_map(|reachable| Step::Probe { reachable }),
            Just(Step::FailBack),
            (0_u16..40).prop_map(Step::Pass),
        ]
    }

    proptest! {
        /// However attempts, losses, probes and time interleave: never more than one round without a wait, waits are bounded,
        /// a better node is due only after unbroken reachability, and only one node has the session.
        #[test]
        fn the_policy_never_spins_and_never_moves_back_early(
            count in 1_usize..5, seed in any::<u64>(), steps in prop::collection::vec(step(), 1..200)
        ) {
            let policy = NodesPolicy::default();
            let mut nodes = Nodes::seeded((0..count).map(endpoint).collect(), policy, seed).unwrap();
            let mut now = Instant::now();
            let mut failures_without_wait = 0;
            let mut session: Option<(Endpoint, Instant)> = None;
            let mut reachable: std::collections::HashMap<Endpoint, Instant> = std::collections::HashMap::new();
            for step in steps {
                match step {
                    Step::Attempt { succeeds } if session.is_none() => {
                        let (node, wait) = nodes.next();
                        prop_assert!(wait <= policy.most_wait);
                        if !wait.is_zero() {
                            failures_without_wait = 0;
                        }
                        now += wait;
                        if succeeds {
                            nodes.connected(&node, now);
                            session = Some((node, now));
                        } else {
                            nodes.failed(&node, now);
                            reachable.remove(&node);
                            failures_without_wait += 1;
                        }
                    }
                    Step::Lose => {
                        if let Some((node, since)) = session.take() {
                            nodes.failed(&node, now);
                            reachable.remove(&node);
                            if now - since >= policy.stable_after {
                                failures_without_wait = 0;
                            }
                            failures_without_wait += 1;
                        }
                    }
                    Step::Probe { reachable: ok } => {
                        if let Some(node) = nodes.should_probe(now) {
                            nodes.probe_result(&node, ok, now);
                            if ok { reachable.entry(node).or_insert(now); } else { reachable.remove(&node); }
                        }
                    }
                    Step::FailBack => {
                        if let Some(node) = nodes.fail_back_due(now).cloned() {
                            prop_assert!(now - reachable[&node] >= policy.fail_back_after);
                            nodes.fail_back(now);
                            session = None;
                            let (next, wait) = nodes.next();
                            prop_assert_eq!((next, wait), (node, Duration::ZERO));
                            failures_without_wait = 0;
                        }
                    }
                    Step::Pass(seconds) => now += Duration::from_secs(u64::from(seconds)),
                    Step::Attempt { .. } => {}
                }
                prop_assert!(failures_without_wait <= count, "seed {}", seed);
                prop_assert_eq!(nodes.current(), session.as_ref().map(|(node, _)| node));
            }
        }
    }
}
