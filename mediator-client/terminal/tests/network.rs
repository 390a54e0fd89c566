//! The production driver in a simulated network: reconnect, failover, fail-back, half-open links and expiry under load. Each
//! simulation is run for several seeds, which are printed.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout, reason = "a failed helper is a failed test")]

#[expect(dead_code, reason = "each test file uses a part of it")]
mod common;

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use common::{Fault, Mediator, config, sink, until};
use ecss_switch::{
    CommandError, Dialect, Domain,
    connect::{BoxedIo, Connect, Connecting, Endpoint},
    event::LinkEvent,
    link::LinkState,
};
use ecss_terminal::{Command, Terminal, TerminalConfig, xml::Element};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

struct Simulated;

impl Connect for Simulated {
    fn connect<'a>(&'a self, endpoint: &'a Endpoint) -> Connecting<'a> {
        Box::pin(async move {
            let stream = turmoil::net::TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
            Ok(Box::new(stream) as BoxedIo)
        })
    }
}

/// A simulation with a mediator on each of the hosts; a host that restarts has forgotten its sessions.
fn simulation(seed: u64, mediators: &[(&'static str, Mediator)]) -> turmoil::Sim<'static> {
    println!("seed {seed}");
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .simulation_duration(Duration::from_secs(900))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(20))
        .tick_duration(Duration::from_millis(5))
        .build();
    for (host, mediator) in mediators {
        let mediator = mediator.clone();
        sim.host(*host, move || {
            let mediator = mediator.clone();
            async move {
                mediator.expire_sessions();
                let listener = turmoil::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 9999)).await?;
                loop {
                    let (stream, _) = listener.accept().await?;
                    tokio::spawn(mediator.clone().serve(stream));
                }
            }
        });
    }
    sim
}

struct Link {
    terminal: Terminal,
    events: mpsc::Receiver<LinkEvent>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Link {
    fn start(change: impl FnOnce(&mut TerminalConfig)) -> Self {
        let mut config = config(&["ecss1:9999", "ecss2:9999"]);
        change(&mut config);
        let (sink, events) = sink();
        let shutdown = CancellationToken::new();
        let dialect = Arc::new(Dialect::built_in("sim").unwrap());
        let (terminal, task) = Terminal::start(config, dialect, Arc::new(Simulated), sink, None, shutdown.clone());
        Self { terminal, events, shutdown, task }
    }

    async fn until(&self, state: LinkState, node: &str) {
        until(&mut self.terminal.status(), state, node).await;
    }

    async fn change(&self) -> Result<(), CommandError> {
        self.terminal.run(Command::change("some_change", Element::new("request"))).await.map(drop)
    }

    async fn end(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

const SEEDS: [u64; 4] = [1, 2, 3, 20261124];

fn two_nodes() -> (Mediator, Mediator, [(&'static str, Mediator); 2]) {
    let (first, second) = (Mediator::default(), Mediator::default());
    (first.clone(), second.clone(), [("ecss1", first), ("ecss2", second)])
}

#[test]
fn a_node_that_crashes_is_followed_by_the_other_and_moved_back_to_after_a_minute() {
    for seed in SEEDS {
        let (_, second, nodes) = two_nodes();
        let mut sim = simulation(seed, &nodes);
        let (crash, mut crashed) = mpsc::channel::<bool>(1);
        sim.client("agent", async move {
            let mut link = Link::start(|_| {});
            link.until(LinkState::Up, "ecss1").await;
            link.change().await.unwrap();
            crash.send(true).await?;
            link.until(LinkState::Up, "ecss2").await;
            link.change().await.unwrap();
            let back = Instant::now();
            crash.send(false).await?;
            link.until(LinkState::Up, "ecss1").await;
            let took = back.elapsed();
            assert!((Duration::from_secs(60)..Duration::from_secs(75)).contains(&took), "moved back after {took:?}");
            assert_eq!(second.sessions(), 0, "the session on the other node is closed");
            link.change().await.unwrap();
            let mut events = Vec::new();
            while let Ok(event) = link.events.try_recv() {
                events.push(event);
            }
            assert_eq!(events, [LinkEvent::Up, LinkEvent::Down, LinkEvent::Up, LinkEvent::Down, LinkEvent::Up]);
            link.end().await;
            Ok(())
        });
        loop {
            match crashed.try_recv() {
                Ok(true) => sim.crash("ecss1"),
                Ok(false) => sim.bounce("ecss1"),
                Err(_) => {}
            }
            if sim.step().unwrap() {
                break;
            }
        }
    }
}

#[test]
fn a_single_node_that_restarts_is_reconnected_and_waiting_changes_are_made_once() {
    for seed in SEEDS {
        let node = Mediator::default();
        let mut sim = simulation(seed, &[("ecss1", node.clone())]);
        let (restart, mut restarts) = mpsc::channel::<()>(1);
        sim.client("agent", async move {
            let link = Link::start(|config| config.nodes.truncate(1));
            link.until(LinkState::Up, "ecss1").await;
            for round in 1..=5 {
                restart.send(()).await?;
                let before = node.executed("some_change");
                let result = link.change().await;
                let made = node.executed("some_change") - before;
                match result {
                    Ok(()) => assert_eq!(made, 1),
                    Err(CommandError::NotSent { .. }) => assert_eq!(made, 0),
                    Err(CommandError::OutcomeUnknown { .. }) => assert!(made <= 1),
                    Err(error) => panic!("{error}"),
                }
                let mut status = link.terminal.status();
                status.wait_for(|status| status.state == LinkState::Up && status.sessions > round).await?;
            }
            link.end().await;
            Ok(())
        });
        loop {
            if restarts.try_recv().is_ok() {
                sim.bounce("ecss1");
            }
            if sim.step().unwrap() {
                break;
            }
        }
    }
}

#[test]
fn a_link_that_goes_silent_is_noticed_within_fifteen_seconds() {
    for (seed, hold) in SEEDS.into_iter().zip([true, false, true, false]) {
        let (_, _, nodes) = two_nodes();
        let mut sim = simulation(seed, &nodes);
        sim.client("agent", async move {
            let link = Link::start(|_| {});
            link.until(LinkState::Up, "ecss1").await;
            tokio::time::sleep(Duration::from_millis(1700 * (seed % 7))).await;
            let silent = Instant::now();
            if hold {
                turmoil::hold("agent", "ecss1")
            } else {
                turmoil::partition("agent", "ecss1")
            }
            let mut status = link.terminal.status();
            status.wait_for(|status| status.state != LinkState::Up).await?;
            let took = silent.elapsed();
            assert!(took <= Duration::from_secs(15), "noticed after {took:?}");
            link.until(LinkState::Up, "ecss2").await;
            link.change().await.unwrap();
            link.end().await;
            Ok(())
        });
        sim.run().unwrap();
    }
}

#[test]
fn a_change_on_a_link_that_goes_silent_is_unknown_and_a_question_is_answered_by_the_other_node() {
    for seed in SEEDS {
        let (first, second, nodes) = two_nodes();
        let mut sim = simulation(seed, &nodes);
        sim.client("agent", async move {
            let link = Link::start(|config| config.command_timeout = Duration::from_secs(40));
            link.until(LinkState::Up, "ecss1").await;
            first.fault(Fault::Silence);
            first.fault(Fault::Silence);
            let domain = Domain::parse("d.local").unwrap();
            let silence = async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                turmoil::partition("agent", "ecss1");
            };
            let (change, rooms, ()) = tokio::join!(link.change(), link.terminal.rooms(&domain), silence);
            assert!(matches!(change, Err(CommandError::OutcomeUnknown { .. })), "{change:?}");
            assert_eq!(rooms.unwrap().len(), 1);
            assert_eq!((first.executed("some_change"), second.executed("some_change")), (1, 0));
            link.end().await;
            Ok(())
        });
        sim.run().unwrap();
    }
}

#[test]
fn sessions_that_expire_under_parallel_changes_lose_and_double_none() {
    for seed in SEEDS {
        let node = Mediator::slow(Duration::from_millis(7));
        let mut sim = simulation(seed, &[("ecss1", node.clone())]);
        sim.client("agent", async move {
            let link = Arc::new(Link::start(|config| config.nodes.truncate(1)));
            link.until(LinkState::Up, "ecss1").await;
            let mut changes = tokio::task::JoinSet::new();
            for _ in 0..40 {
                let link = link.clone();
                changes.spawn(async move { link.change().await });
            }
            let expiries = async {
                for _ in 0..3 {
                    tokio::time::sleep(Duration::from_millis(60)).await;
                    node.expire_sessions();
                }
            };
            let (results, ()) = tokio::join!(changes.join_all(), expiries);
            let made = results.iter().filter(|result| result.is_ok()).count();
            // One that met three expiries in a row says that it was not sent; none is lost or doubled.
            assert!(results.iter().all(|result| matches!(result, Ok(()) | Err(CommandError::NotSent { .. }))), "{results:?}");
            assert_eq!(node.executed("some_change"), made);
            assert!(made >= 30, "{made}");
            Ok(())
        });
        sim.run().unwrap();
    }
}

#[test]
fn a_preferred_node_that_accepts_connections_but_no_logins_does_not_keep_the_session_hopping() {
    let (first, second, nodes) = two_nodes();
    first.refuse_logins(true);
    let mut sim = simulation(7, &nodes);
    sim.client("agent", async move {
        let link = Link::start(|_| {});
        link.until(LinkState::Up, "ecss2").await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert!(second.logins() <= 5, "{} logins in ten minutes", second.logins());
        link.until(LinkState::Up, "ecss2").await;
        link.end().await;
        Ok(())
    });
    sim.run().unwrap();
}
