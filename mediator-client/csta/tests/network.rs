//! The production driver over a simulated network: outages, half-open links, failover and fail-back, each in simulated time.

#![expect(clippy::panic, clippy::print_stderr, reason = "a failed helper is a failed test, and seeds are printed")]

mod support;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use ecss_csta::{Csta, CstaConfig};
use ecss_switch::{
    CallCommand, CommandError, LinkEvent,
    connect::{BoxedIo, Connect, Connecting, Endpoint},
    link::LinkState,
};
use support::{Events, Push, Switch, alias, aliases, config, dialect, link_is};
use tokio::{task::JoinHandle, time::Instant};
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

async fn serve(switch: Switch) -> turmoil::Result {
    let listener = turmoil::net::TcpListener::bind(("0.0.0.0", 4721)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let switch = switch.clone();
        tokio::spawn(async move { switch.serve(stream).await });
    }
}

fn start(config: CstaConfig) -> (Csta, JoinHandle<()>, Events, CancellationToken) {
    let (sink, events) = Events::new(10_000);
    let shutdown = CancellationToken::new();
    let (csta, task) = Csta::start(config, dialect(), Arc::new(Simulated), sink, None, shutdown.clone());
    (csta, task, events, shutdown)
}

/// What the test asks of the world outside of the simulated hosts.
const NOTHING: u8 = 0;
const CRASH_A: u8 = 1;
const BOUNCE_A: u8 = 2;

/// Runs a client against switches `a` and `b`, under three seeds.
fn simulate<F>(client: impl Fn(Switch, Switch, Arc<AtomicU8>) -> F)
where
    F: Future<Output = turmoil::Result> + 'static,
{
    for seed in [1, 20_261_124, rand::random::<u64>()] {
        eprintln!("seed {seed}");
        let (a, b) = (Switch::default(), Switch::default());
        let wish = Arc::new(AtomicU8::new(NOTHING));
        let mut sim = turmoil::Builder::new()
            .simulation_duration(Duration::from_secs(600))
            .tick_duration(Duration::from_millis(5))
            .rng_seed(seed)
            .build();
        for (name, switch) in [("a", &a), ("b", &b)] {
            let switch = switch.clone();
            sim.host(name, move || serve(switch.clone()));
        }
        sim.client("agent", client(a, b, Arc::clone(&wish)));
        while !sim.step().unwrap_or_else(|error| panic!("seed {seed}: {error}")) {
            match wish.swap(NOTHING, Ordering::SeqCst) {
                CRASH_A => sim.crash("a"),
                BOUNCE_A => sim.bounce("a"),
                _ => {}
            }
        }
    }
}

async fn end(task: JoinHandle<()>, shutdown: CancellationToken) -> turmoil::Result {
    shutdown.cancel();
    task.await.map_err(|error| io::Error::other(error.to_string()).into())
}

fn make() -> CallCommand {
    CallCommand::Make { from: alias(1001), to: alias(1002) }
}

#[test]
fn trial_2_and_3_a_restarted_switch_is_found_again_with_all_monitors_and_the_consumer_is_told() {
    simulate(|a, _, wish| async move {
        let (csta, task, mut events, shutdown) = start(config(&["a:4721"]));
        csta.watch_devices(aliases(1000..1500)).await;
        events.up().await;
        for round in 2..5 {
            wish.store(CRASH_A, Ordering::SeqCst);
            events.down().await;
            let refused = csta.execute(make()).await.unwrap_err();
            assert!(matches!(refused, CommandError::NotSent { .. }), "{refused:?}");
            wish.store(BOUNCE_A, Ordering::SeqCst);
            events.up().await;
            assert_eq!(a.counts(), (round, 500));
            assert_eq!(csta.monitored().borrow().started, 500);
            assert!(csta.execute(make()).await.is_ok());
        }
        end(task, shutdown).await
    });
}

#[test]
fn trial_3_a_half_open_link_is_noticed_within_the_configured_time() {
    simulate(|a, _, _| async move {
        let config = config(&["a:4721"]);
        let bound = config.half_open_after;
        let (csta, task, mut events, shutdown) = start(config);
        csta.watch_devices(aliases(1000..1010)).await;
        events.up().await;
        turmoil::partition("agent", "a");
        let cut = Instant::now();
        let command = tokio::spawn({
            let csta = csta.clone();
            async move { csta.execute(make()).await }
        });
        events.down().await;
        assert!(cut.elapsed() <= bound, "{:?}", cut.elapsed());
        let unknown = command.await?.unwrap_err();
        assert!(matches!(unknown, CommandError::OutcomeUnknown { .. }), "{unknown:?}");
        turmoil::repair("agent", "a");
        events.up().await;
        assert_eq!(a.state().monitors.len(), 10);
        end(task, shutdown).await
    });
}

#[test]
fn trial_8_session_and_monitors_move_to_the_second_node_and_back_again() {
    simulate(|a, b, wish| async move {
        let (csta, task, mut events, shutdown) = start(config(&["a:4721", "b:4721"]));
        csta.watch_devices(aliases(1000..1100)).await;
        events.up().await;
        wish.store(CRASH_A, Ordering::SeqCst);
        let crashed = Instant::now();
        events.down().await;
        events.up().await;
        assert!(crashed.elapsed() <= Duration::from_secs(18), "{:?}", crashed.elapsed());
        assert_eq!(b.counts(), (1, 100));
        assert!(csta.status().borrow().node.starts_with("b:"));
        assert_eq!(csta.counters().failovers.load(Ordering::Relaxed), 1);
        assert!(csta.execute(make()).await.is_ok());
        // The preferred node is back: after it has been reachable for a while, so is the session.
        wish.store(BOUNCE_A, Ordering::SeqCst);
        events.down().await;
        assert_eq!(b.state().received.last().unwrap().0, "StopApplicationSession", "no session stays behind");
        events.up().await;
        assert_eq!(a.state().monitors.len(), 100);
        assert!(csta.status().borrow().node.starts_with("a:"));
        assert_eq!(csta.counters().failovers.load(Ordering::Relaxed), 2);
        assert_eq!(csta.counters().sessions_lost.load(Ordering::Relaxed), 1);
        end(task, shutdown).await
    });
}

#[test]
fn an_idle_link_stays_up_through_its_renewals() {
    simulate(|a, _, _| async move {
        let mut config = config(&["a:4721"]);
        config.session_duration = Duration::from_secs(300);
        let (csta, task, mut events, shutdown) = start(config);
        events.up().await;
        tokio::time::sleep(Duration::from_secs(500)).await;
        assert!(events.is_empty());
        assert_eq!(a.state().sessions, 1);
        link_is(&mut csta.status(), LinkState::Up).await;
        end(task, shutdown).await
    });
}

#[test]
fn trial_1_a_stuck_consumer_stops_nobody_and_is_told_what_it_lost() {
    simulate(|a, _, _| async move {
        let (sink, mut events) = Events::new(8);
        let shutdown = CancellationToken::new();
        let (csta, task) = Csta::start(config(&["a:4721"]), dialect(), Arc::new(Simulated), sink, None, shutdown.clone());
        events.up().await;
        for call in 0..500 {
            a.event(&format!("<HeldEvent><heldConnection><callID>c{call}</callID><deviceID>1001</deviceID></heldConnection></HeldEvent>"));
        }
        let counters = csta.counters();
        while counters.messages_received.load(Ordering::Relaxed) < 500 {
            assert!(csta.execute(make()).await.is_ok(), "commands go on");
        }
        assert!(csta.execute(make()).await.is_ok());
        for _ in 0..8 {
            assert!(matches!(events.next().await, LinkEvent::Seen(_)));
        }
        a.event("<HeldEvent><heldConnection><callID>last</callID><deviceID>1001</deviceID></heldConnection></HeldEvent>");
        assert!(matches!(events.next().await, LinkEvent::Gap { .. }));
        a.push(Push::Cut);
        events.down().await;
        end(task, shutdown).await
    });
}
