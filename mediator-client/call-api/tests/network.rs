//! The driver on a simulated network: reconnect, failover and fail-back, half-open links, commands cut at every point.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a failed test is a failed test, and its seed is printed")]

mod support;

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use ecss_switch::{CommandError, LinkEvent, connect::Endpoint, link::LinkState};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use support::*;
use tokio::time::Instant;

const PORT: u16 = 8086;
const SEED: u64 = 20_261_124;

/// Runs a client against these nodes.
fn simulate<F: Future<Output = ()> + 'static>(nodes: &[&Node], client: F) {
    println!("turmoil seed {SEED}");
    let mut network = turmoil::Builder::new();
    let mut network = network
        .rng_seed(SEED)
        .simulation_duration(Duration::from_secs(600))
        .tick_duration(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(5))
        .build();
    for node in nodes {
        let node = (*node).clone();
        network.host(node.name, move || {
            let node = node.clone();
            async move {
                let listener = turmoil::net::TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, PORT)).await?;
                loop {
                    let (stream, _) = listener.accept().await?;
                    tokio::spawn(node.clone().serve(stream));
                }
            }
        });
    }
    network.client("agent", async move {
        client.await;
        Ok(())
    });
    network.run().unwrap();
}

fn endpoints(names: &[&str]) -> Vec<Endpoint> {
    names.iter().map(|name| Endpoint { host: (*name).into(), port: PORT }).collect()
}

#[test]
fn a_lost_connection_is_opened_again_and_the_agent_is_told() {
    let node = Node::new("a");
    simulate(&[&node.clone()], async move {
        let mut client = Client::start(config(endpoints(&["a"])), sim(), Simulated);
        client.up().await;
        for round in 2..=4 {
            node.push(Push::Drop);
            assert_eq!(client.event().await, LinkEvent::Down);
            assert_eq!(client.event().await, LinkEvent::Up);
            client.api.execute_call(make()).await.unwrap();
            assert_eq!((node.script(|script| script.logins), client.api.status().borrow().sessions), (round, u64::from(round)));
        }
        assert_eq!(client.api.counters().sessions_lost.load(Relaxed), 3);
        client.end().await;
    });
}

#[test]
fn a_failover_logs_in_at_the_other_node_and_a_fail_back_moves_home_when_it_is_quiet() {
    let (a, b) = (Node::new("a"), Node::new("b"));
    simulate(&[&a.clone(), &b.clone()], async move {
        let mut client = Client::start(config(endpoints(&["a", "b"])), sim(), Simulated);
        client.up().await;
        assert_eq!(client.api.status().borrow().node, "a:8086");
        turmoil::partition("agent", "a");
        let cut = Instant::now();
        client.down().await;
        assert!(cut.elapsed() <= Duration::from_secs(16), "{:?}", cut.elapsed());
        client.up().await;
        assert_eq!(client.api.status().borrow().node, "b:8086");
        assert_eq!((b.script(|script| script.logins), client.api.counters().failovers.load(Relaxed)), (1, 1));
        client.api.execute_call(make()).await.unwrap();
        assert_eq!(b.executed(), 1);
        turmoil::repair("agent", "a");
        client.down().await;
        client.up().await;
        assert_eq!(client.api.status().borrow().node, "a:8086");
        assert_eq!((a.script(|script| script.logins), b.script(|script| script.closed_properly)), (2, 1));
        client.end().await;
    });
}

#[test]
fn a_half_open_link_is_noticed_within_the_stated_time_and_its_commands_are_classified() {
    let node = Node::new("a");
    simulate(&[&node.clone()], async move {
        let mut config = config(endpoints(&["a"]));
        config.command_timeout = Duration::from_secs(30);
        let mut client = Client::start(config, sim(), Simulated);
        client.up().await;
        // quiet for long: the pings keep it up
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(client.api.status().borrow().state, LinkState::Up);
        turmoil::partition("agent", "a");
        let cut = Instant::now();
        let error = client.api.execute_call(make()).await.unwrap_err();
        assert!(matches!(error, CommandError::OutcomeUnknown { .. }), "{error:?}");
        assert!(cut.elapsed() <= Duration::from_secs(15), "{:?}", cut.elapsed());
        client.down().await;
        let error = client.api.execute_call(make()).await.unwrap_err();
        assert!(matches!(error, CommandError::NotSent { .. }), "before the write: {error:?}");
        turmoil::repair("agent", "a");
        client.up().await;
        client.api.execute_call(make()).await.unwrap();
        assert_eq!(node.executed(), 1);
        client.end().await;
    });
}

#[test]
fn a_command_cut_after_its_write_is_unknown_and_never_sent_again() {
    let node = Node::new("a");
    simulate(&[&node.clone()], async move {
        let mut client = Client::start(config(endpoints(&["a"])), sim(), Simulated);
        client.up().await;
        node.set(Behaviour::Cut);
        let error = client.api.execute_call(make()).await.unwrap_err();
        assert!(matches!(error, CommandError::OutcomeUnknown { .. }), "{error:?}");
        client.down().await;
        client.up().await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(node.executed(), 1);
        client.end().await;
    });
}

#[test]
fn an_unanswered_command_is_unknown_at_its_deadline_and_the_link_lives_on() {
    let node = Node::new("a");
    simulate(&[&node.clone()], async move {
        let mut client = Client::start(config(endpoints(&["a"])), sim(), Simulated);
        client.up().await;
        node.set(Behaviour::Silent);
        let start = Instant::now();
        let error = client.api.execute_call(make()).await.unwrap_err();
        assert!(matches!(error, CommandError::OutcomeUnknown { .. }), "{error:?}");
        assert!(start.elapsed() <= Duration::from_millis(10_100), "{:?}", start.elapsed());
        node.set(Behaviour::Answer);
        client.api.execute_call(make()).await.unwrap();
        assert_eq!(client.api.status().borrow().sessions, 1);
        client.end().await;
    });
}

#[test]
fn duplicated_answers_are_counted_and_do_no_harm() {
    let node = Node::new("a");
    simulate(&[&node.clone()], async move {
        let mut client = Client::start(config(endpoints(&["a"])), sim(), Simulated);
        client.up().await;
        for _ in 0..3 {
            node.set(Behaviour::AnswerTwice);
            client.api.execute_call(make()).await.unwrap();
        }
        client.api.execute_call(make()).await.unwrap();
        assert_eq!(client.api.counters().answers_unexpected.load(Relaxed), 3);
        client.end().await;
    });
}

#[test]
fn an_orderly_close_is_followed_by_a_new_login_at_the_same_node() {
    let (a, b) = (Node::new("a"), Node::new("b"));
    simulate(&[&a.clone(), &b.clone()], async move {
        let mut client = Client::start(config(endpoints(&["a", "b"])), sim(), Simulated);
        client.up().await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        a.set(Behaviour::Close);
        let error = client.api.execute_call(make()).await.unwrap_err();
        assert!(matches!(error, CommandError::OutcomeUnknown { .. }), "{error:?}");
        client.down().await;
        client.up().await;
        assert_eq!(client.api.status().borrow().node, "a:8086");
        assert_eq!((a.script(|script| script.logins), b.script(|script| script.logins)), (2, 0));
        client.end().await;
    });
}

/// Whatever happens to the link: what is reported as done was executed, what is reported as not sent was not, and nothing was
/// executed twice.
#[test]
fn no_command_is_lost_or_done_twice_under_random_disturbances() {
    for seed in [1, 2, 3] {
        println!("seed of the disturbances {seed}");
        let (a, b) = (Node::new("a"), Node::new("b"));
        simulate(&[&a.clone(), &b.clone()], async move {
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut config = config(endpoints(&["a", "b"]));
            config.command_timeout = Duration::from_secs(3);
            config.half_open_after = Duration::from_secs(2);
            config.fail_back_after = Duration::from_secs(8);
            let mut client = Client::start(config, sim(), Simulated);
            client.up().await;
            let (mut done, mut unknown, mut not_sent) = (0, 0, 0);
            for _ in 0..80 {
                let node = if rng.random_bool(0.7) { &a } else { &b };
                node.set(Behaviour::Answer);
                match rng.random_range(0..10) {
                    0 => node.push(Push::Drop),
                    1 => turmoil::partition("agent", node.name),
                    2 => node.set(Behaviour::Cut),
                    3 => node.set(Behaviour::Expire),
                    4 => node.set(Behaviour::Close),
                    5 => node.set(Behaviour::AnswerTwice),
                    6 => node.set(Behaviour::Silent),
                    _ => turmoil::repair("agent", node.name),
                }
                let commands = (0..rng.random_range(1..6)).map(|_| client.api.execute_call(make()));
                for result in futures_util::future::join_all(commands).await {
                    match result {
                        Ok(_) => done += 1,
                        Err(CommandError::OutcomeUnknown { .. }) => unknown += 1,
                        Err(CommandError::NotSent { .. }) => not_sent += 1,
                        Err(other) => panic!("{other:?}"),
                    }
                }
                tokio::time::sleep(Duration::from_millis(rng.random_range(0..1500))).await;
            }
            let executed = a.executed() + b.executed();
            println!("done {done}, unknown {unknown}, not sent {not_sent}, executed {executed}");
            assert!(done > 0);
            assert!((done..=done + unknown).contains(&executed));
            for node in [&a, &b] {
                node.set(Behaviour::Answer);
                turmoil::repair("agent", node.name);
            }
            let mut status = client.api.status();
            let up = status.wait_for(|status| status.state == LinkState::Up);
            tokio::time::timeout(Duration::from_secs(60), up).await.unwrap().unwrap();
            client.end().await;
        });
    }
}
