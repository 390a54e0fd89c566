//! The agent's links and model in a simulated network (turmoil): outages, half-open links, failover and slow subscribers while people
//! go on calling. In the end the model, and every subscriber's view of it, is what the switch says. Seeds are printed.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stderr, clippy::panic, reason = "a failed helper is a failed test")]

mod world;

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use ecss_switch::connect::{BoxedIo, Connect, Connecting, Endpoint};
use elph_agent::{
    config::Config,
    lifecycle::{Shared, Shutdown},
    link::{Connectors, Switch},
};
use elph_model::{Core, CoreOptions, Filter, Start, Subscription};
use elph_proto::{
    v1::{self, SubscribeResponse},
    view::View,
};
use elph_shell::logs::LogHandle;
use prost::Message;
use rand::Rng;
use tokio::sync::watch;
use world::{DOMAIN, Protocol, World};

const SEEDS: [u64; 4] = [1, 2, 20_261_124, 77];

struct Simulated;

impl Connect for Simulated {
    fn connect<'a>(&'a self, endpoint: &'a Endpoint) -> Connecting<'a> {
        Box::pin(async move {
            let stream = turmoil::net::TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
            Ok(Box::new(stream) as BoxedIo)
        })
    }
}

/// What the test asks of the world outside of the simulated hosts.
#[derive(Clone, Default)]
struct Wish(Arc<AtomicU8>);

const CRASH: u8 = 1;
const BOUNCE: u8 = 2;

impl Wish {
    fn crash(&self) {
        self.0.store(CRASH, Ordering::SeqCst);
    }

    fn bounce(&self) {
        self.0.store(BOUNCE, Ordering::SeqCst);
    }
}

/// Runs what people do and what the agent's side does against a cluster of two nodes, for each seed.
fn simulate<P, A>(people: impl Fn(u64, World, Wish, watch::Sender<bool>) -> P, agent: impl Fn(World, watch::Receiver<bool>) -> A)
where
    P: Future<Output = ()> + 'static,
    A: Future<Output = ()> + 'static,
{
    for seed in SEEDS {
        eprintln!("seed {seed}");
        let mut sim = turmoil::Builder::new()
            .rng_seed(seed)
            .simulation_duration(Duration::from_secs(900))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(20))
            .tick_duration(Duration::from_millis(5))
            .build();
        let world = World::default();
        for node in ["ecss1", "ecss2"] {
            let world = world.clone();
            sim.host(node, move || serve(world.clone()));
        }
        let wish = Wish::default();
        let (over, ended) = watch::channel(false);
        let (acting, watching) = (people(seed, world.clone(), wish.clone(), over), agent(world, ended));
        sim.client("people", async move {
            acting.await;
            Ok(())
        });
        sim.client("agent", async move {
            watching.await;
            Ok(())
        });
        while !sim.step().unwrap_or_else(|error| panic!("seed {seed}: {error}")) {
            match wish.0.swap(0, Ordering::SeqCst) {
                CRASH => sim.crash("ecss1"),
                BOUNCE => sim.bounce("ecss1"),
                _ => {}
            }
        }
    }
}

async fn serve(world: World) -> turmoil::Result {
    world.forget_sessions();
    let terminal = turmoil::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 9999)).await?;
    let csta = turmoil::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 4721)).await?;
    loop {
        tokio::select! {
            accepted = terminal.accept() => drop(tokio::spawn(world.clone().serve(Protocol::Terminal, accepted?.0))),
            accepted = csta.accept() => drop(tokio::spawn(world.clone().serve(Protocol::Csta, accepted?.0))),
        }
    }
}

/// The agent's side: links and model, as the assembly makes them.
struct Agent {
    core: Arc<Core>,
    switch: Arc<Switch>,
    _directory: tempfile::TempDir,
}

impl Agent {
    fn start(options: CoreOptions) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.toml");
        let text = format!(
            r#"
            calls.backend = "csta"
            conferences.backend = "poll"
            poll.conferences = "1s"
            journal.directory = "{}"
            [switch]
            dialect = "sim"
            fail_back_after = "20s"
            [[switch.domains]]
            name = "{DOMAIN}"
            csta = {{ password = "secret" }}
            [switch.terminal]
            nodes = ["ecss1:9999", "ecss2:9999"]
            login = "admin"
            password = "secret"
            [switch.csta]
            nodes = ["ecss1:4721", "ecss2:4721"]
            "#,
            directory.path().display()
        );
        std::fs::write(&path, text).unwrap();
        let loaded = Config::load_with(&path, []).unwrap_or_else(|refused| panic!("{refused}"));
        let shared = Arc::new(Shared::new(loaded, LogHandle::detached(), Shutdown::default()).unwrap());
        let core = Arc::new(Core::open(options).unwrap());
        let connect: Arc<dyn Connect> = Arc::new(Simulated);
        let connectors = Connectors { terminal: connect.clone(), call_api: connect.clone(), csta: connect };
        let switch = Switch::start(&shared, core.clone(), connectors, None).unwrap();
        Self { core, switch, _directory: directory }
    }

    /// Waits until the model shows what the switch has, for at most this long.
    async fn equals(&self, world: &World, within: Duration) {
        let same = |core: &Core| (model(core) == truth(world)).then_some(());
        if self.core.wait(within, same).await.is_none() {
            panic!("the model has {:#?}, the switch {:#?}", model(&self.core), truth(world));
        }
    }
}

/// Calls by the switch's id with their legs, and conferences with their members and whether they are muted.
type Picture = (BTreeMap<String, BTreeMap<String, &'static str>>, BTreeMap<String, BTreeMap<String, bool>>);

fn truth(world: &World) -> Picture {
    let state = world.state();
    (state.calls.clone(), state.conferences.clone())
}

fn picture<'a>(calls: impl Iterator<Item = &'a v1::Call>, conferences: impl Iterator<Item = &'a v1::Conference>) -> Picture {
    let leg = |leg: &v1::Leg| {
        let state = match leg.state() {
            v1::LegState::Alerting => "alerting",
            v1::LegState::Connected => "connected",
            v1::LegState::Held => "hold",
            _ => return None,
        };
        Some((leg.device.clone(), state))
    };
    let calls = calls.map(|call| (call.switch_call_id.clone(), call.legs.iter().filter_map(leg).collect()));
    let members = |it: &v1::Conference| it.participants.iter().map(|member| (member.number.clone(), !member.muted)).collect();
    (calls.collect(), conferences.map(|it| (it.switch_conference_id.clone(), members(it))).collect())
}

fn model(core: &Core) -> Picture {
    let calls = core.calls(None, usize::MAX, |call| call.state() != v1::CallState::Ended).items;
    let conferences = core.conferences(None, usize::MAX, true, |it| it.state() != v1::ConferenceState::Ended).items;
    picture(calls.iter(), conferences.iter())
}

/// Everything that a subscriber can get without waiting.
async fn read(subscription: &mut Subscription, view: &mut View) {
    loop {
        for frame in subscription.next(Duration::ZERO).await {
            let response = SubscribeResponse::decode(frame).unwrap();
            let heartbeat = matches!(response.message, Some(v1::subscribe_response::Message::Heartbeat(_)));
            view.apply(response);
            if heartbeat {
                return;
            }
        }
    }
}

fn seen(view: &View) -> Picture {
    picture(view.calls.values(), view.conferences.values())
}

/// People call, answer and hang up for a while.
async fn live(world: &World, rng: &mut rand::rngs::SmallRng, times: u32) {
    for _ in 0..times {
        world.live(rng);
        tokio::time::sleep(Duration::from_millis(rng.random_range(5..120))).await;
    }
}

#[test]
fn trial_2_after_any_outage_the_model_and_every_view_of_it_equal_the_switch() {
    let people = |seed, world: World, wish: Wish, over: watch::Sender<bool>| async move {
        let mut rng = world::rng(seed);
        for _ in 0..8 {
            live(&world, &mut rng, 60).await;
            match rng.random_range(0..4) {
                // Half open: nobody hears anything, and no connection is closed.
                0 => {
                    turmoil::partition("agent", "ecss1");
                    live(&world, &mut rng, 400).await;
                    turmoil::repair("agent", "ecss1");
                }
                1 => {
                    wish.crash();
                    live(&world, &mut rng, 100).await;
                    wish.bounce();
                }
                // A restart of which nobody but the sessions knows.
                2 => wish.bounce(),
                // A short stutter that drops what is on its way.
                _ => {
                    turmoil::partition("agent", "ecss1");
                    live(&world, &mut rng, 3).await;
                    turmoil::repair("agent", "ecss1");
                }
            }
        }
        live(&world, &mut rng, 20).await;
        world.quieten(4);
        over.send_replace(true);
    };
    let agent = |world: World, mut over: watch::Receiver<bool>| async move {
        let agent = Agent::start(CoreOptions { max_events: 64, ..CoreOptions::default() });
        let mut prompt = agent.core.subscribe(Filter::default(), Start::Snapshot);
        let mut stuck = agent.core.subscribe(Filter::default(), Start::Snapshot);
        let (mut prompt_view, mut stuck_view) = (View::default(), View::default());
        read(&mut stuck, &mut stuck_view).await;
        // One reads all the time, the other nothing until the end.
        while !*over.borrow_and_update() {
            read(&mut prompt, &mut prompt_view).await;
            let _ = tokio::time::timeout(Duration::from_millis(50), over.changed()).await;
        }
        agent.equals(&world, Duration::from_secs(50)).await;
        read(&mut prompt, &mut prompt_view).await;
        read(&mut stuck, &mut stuck_view).await;
        assert_eq!(seen(&prompt_view), truth(&world));
        assert_eq!(seen(&stuck_view), truth(&world));
        assert_eq!((prompt_view.resyncs, stuck_view.resyncs), (0, 1), "the stuck one alone is resynchronised");
        assert!(agent.core.counters().resyncs_sent[2] == 1);
        for conference in agent.core.conferences(None, usize::MAX, true, |_| true).items {
            assert_eq!(
                (conference.connected_count, conference.pending_count),
                elph_proto::view::counts(&conference.participants),
                "trial 4"
            );
        }
        agent.switch.stop().await;
    };
    simulate(people, agent);
}

#[test]
fn trial_8_the_second_node_takes_over_and_consumers_see_the_links_move() {
    let people = |seed, world: World, wish: Wish, over: watch::Sender<bool>| async move {
        let mut rng = world::rng(seed);
        live(&world, &mut rng, 60).await;
        wish.crash();
        // Longer than the time after which a dead link is noticed, shorter than the next comparison that nobody asked for.
        live(&world, &mut rng, 500).await;
        world.quieten(4);
        over.send_replace(true);
    };
    let agent = |world: World, mut over: watch::Receiver<bool>| async move {
        let agent = Agent::start(CoreOptions::default());
        let mut subscription = agent.core.subscribe(Filter::default(), Start::Snapshot);
        over.wait_for(|over| *over).await.unwrap();
        agent.equals(&world, Duration::from_secs(20)).await;
        let mut view = View::default();
        read(&mut subscription, &mut view).await;
        assert_eq!(view.links.keys().collect::<Vec<_>>(), [&format!("csta/{DOMAIN}"), "terminal"]);
        for link in view.links.values() {
            assert!(link.node.starts_with("ecss2:") && link.sessions >= 2, "{link:?}");
        }
        assert_eq!(seen(&view), truth(&world));
        agent.switch.stop().await;
    };
    simulate(people, agent);
}

#[test]
fn what_happened_while_the_whole_switch_was_out_of_reach_is_reconstructed_and_marked() {
    let people = |seed, world: World, _: Wish, over: watch::Sender<bool>| async move {
        let mut rng = world::rng(seed);
        live(&world, &mut rng, 100).await;
        // Both nodes' ways are cut for longer than a link lives, then opened again, twice.
        for _ in 0..2 {
            for node in ["ecss1", "ecss2"] {
                turmoil::partition("agent", node);
            }
            live(&world, &mut rng, 600).await;
            for node in ["ecss1", "ecss2"] {
                turmoil::repair("agent", node);
            }
            live(&world, &mut rng, 100).await;
        }
        world.quieten(3);
        over.send_replace(true);
    };
    let agent = |world: World, mut over: watch::Receiver<bool>| async move {
        let agent = Agent::start(CoreOptions::default());
        over.wait_for(|over| *over).await.unwrap();
        agent.equals(&world, Duration::from_secs(50)).await;
        let ended = agent.core.calls(None, usize::MAX, |call| call.state() == v1::CallState::Ended).items;
        assert!(ended.iter().any(|call| call.reconstructed), "what happened meanwhile is marked");
        assert!(ended.iter().all(|call| call.end_time.is_some() && call.talk_duration.is_some()));
        agent.switch.stop().await;
    };
    simulate(people, agent);
}

#[test]
fn with_one_link_down_the_other_goes_on_and_nothing_is_taken_away() {
    let people = |seed, world: World, _: Wish, over: watch::Sender<bool>| async move {
        let mut rng = world::rng(seed);
        live(&world, &mut rng, 100).await;
        for protocol in [Protocol::Terminal, Protocol::Csta] {
            world.break_down(Some(protocol));
            live(&world, &mut rng, 400).await;
            world.break_down(None);
            live(&world, &mut rng, 200).await;
        }
        world.break_down(Some(Protocol::Terminal));
        live(&world, &mut rng, 200).await;
        world.quieten(4);
        over.send_replace(true);
    };
    let agent = |world: World, mut over: watch::Receiver<bool>| async move {
        let agent = Agent::start(CoreOptions::default());
        over.wait_for(|over| *over).await.unwrap();
        // The terminal is still down: calls are right all the same, by CSTA's events and snapshots alone.
        let calls = |core: &Core| (model(core).0 == truth(&world).0).then_some(());
        if agent.core.wait(Duration::from_secs(50), calls).await.is_none() {
            panic!("the model has {:#?}, the switch {:#?}", model(&agent.core).0, truth(&world).0);
        }
        world.break_down(None);
        agent.equals(&world, Duration::from_secs(50)).await;
        agent.switch.stop().await;
    };
    simulate(people, agent);
}
