//! The session under random interleavings of answers, failures, expiries, wrong ids, progress, questions and time.
#![expect(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use ecss_switch::{CommandError, Dialect, link::LinkCounters};
use ecss_terminal::{
    session::{Answer, Command, Content, Effect, Failure, Purpose, Request, Session, SessionConfig, Ticket},
    xml::Element,
};
use proptest::prelude::*;
use secrecy::{ExposeSecret, SecretString};

const PARALLEL: usize = 3;

fn session() -> Session {
    let config = SessionConfig {
        login: "admin".into(),
        password: SecretString::from("password".to_owned()),
        max_parallel: PARALLEL,
        max_waiting: 256,
        command_timeout: Duration::from_secs(10),
        keepalive_after: Duration::from_secs(5),
        keepalive_timeout: Duration::from_secs(5),
    };
    Session::new(config, Arc::new(Dialect::built_in("sim").unwrap()), Arc::<LinkCounters>::default(), 7)
}

/// The switch's side and the driver's bookkeeping.
struct World {
    session: Session,
    now: Instant,
    logins: u32,
    valid: Option<String>,
    under_way: Vec<Request>,
    /// How often a command may have been executed.
    executed: HashMap<Ticket, u32>,
    changes: HashSet<Ticket>,
    submitted: HashSet<Ticket>,
    done: HashMap<Ticket, Result<(), CommandError>>,
    ids: HashSet<String>,
}

impl World {
    fn new() -> Self {
        let mut session = session();
        session.begin();
        Self {
            session,
            now: Instant::now(),
            logins: 0,
            valid: None,
            under_way: Vec::new(),
            executed: HashMap::new(),
            changes: HashSet::new(),
            submitted: HashSet::new(),
            done: HashMap::new(),
            ids: HashSet::new(),
        }
    }

    fn submit(&mut self, read_only: bool, confirm: bool) {
        let request = Element::new("request");
        let command = if read_only { Command::read("alias_list", request) } else { Command::change("cocon_add_user", request) };
        let ticket = self.session.submit(Command { confirm, ..command }, self.now);
        self.submitted.insert(ticket);
        if !read_only {
            self.changes.insert(ticket);
        }
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(effect) = self.session.next_effect() {
            match effect {
                Effect::Done(ticket, result) => {
                    let executed = self.executed.get(&ticket).copied().unwrap_or(0);
                    if let (Err(error), true) = (&result, self.changes.contains(&ticket)) {
                        assert!(!matches!(error, CommandError::NotSent { .. }) || executed == 0, "{error} though it was executed");
                    }
                    assert!(self.done.insert(ticket, result.map(drop)).is_none(), "one result for each command");
                }
                Effect::Lost { .. } => {
                    for request in std::mem::take(&mut self.under_way) {
                        // What was under way may have been executed.
                        self.execute(&request);
                        let failure = Failure { written: true, timeout: false, bad: false, cause: "lost".into() };
                        self.session.on_failure(request.serial, &failure, self.now);
                    }
                    self.session.link_down();
                    self.session.begin();
                }
                Effect::LoggedIn { .. } | Effect::Expired | Effect::DropConnections => {}
            }
        }
    }

    fn execute(&mut self, request: &Request) {
        if let Purpose::Command(ticket) = request.purpose {
            let times = self.executed.entry(ticket).or_default();
            *times += 1;
            assert!(*times == 1 || !self.changes.contains(&ticket), "a change was executed twice");
        }
    }

    fn pump(&mut self) {
        while let Some(request) = self.session.next_request(self.now) {
            assert!(self.ids.insert(request.id.clone()), "every id is used once");
            match request.purpose {
                Purpose::Login => assert!(request.cookie.is_none()),
                _ => assert!(request.cookie.is_some(), "nothing goes without a session"),
            }
            self.under_way.push(request);
            let commands = self.under_way.iter().filter(|r| matches!(r.purpose, Purpose::Command(_) | Purpose::Progress(_))).count();
            assert!(commands <= PARALLEL);
        }
        self.settle();
    }

    /// Ends one request; `how` chooses what the switch or the network does with it.
    fn end(&mut self, index: usize, how: u8) {
        if self.under_way.is_empty() {
            return;
        }
        let request = self.under_way.swap_remove(index % self.under_way.len());
        let out = Element::new("out");
        let mut answer = Answer {
            status: 200,
            request_ids: vec![request.id.clone()],
            set_cookies: Vec::new(),
            content: Content::Document(out.clone().child(Element::new("ok"))),
        };
        let cookie = request.cookie.as_ref().map(|cookie| cookie.expose_secret().to_owned());
        let in_session = cookie.is_some() && cookie == self.valid;
        let failure = |written, timeout| Failure { written, timeout, bad: false, cause: "cut".into() };
        match (request.purpose, how) {
            (_, 0) => return self.fail(&request, failure(false, false)),
            (_, 1) => {
                if in_session {
                    self.execute(&request);
                }
                return self.fail(&request, failure(true, how == 1));
            }
            (Purpose::Login, 2) => {
                answer.status = 404;
                answer.content = Content::Empty;
            }
            (Purpose::Login, _) => {
                self.logins += 1;
                self.valid = Some(format!("ECSSSESSION={}", self.logins));
                answer.set_cookies = vec![SecretString::from(format!("ECSSSESSION={}; path=/", self.logins))];
                answer.content = Content::Document(out.child(Element::new("settings").with("version", "3.18")));
            }
            (_, 2) => {
                // The switch ends the session and says so.
                self.valid = None;
                answer.status = 401;
                answer.content = Content::Empty;
            }
            _ if !in_session => {
                answer.status = 401;
                answer.content = Content::Empty;
            }
            (Purpose::Command(_), 3) => {
                self.execute(&request);
                answer.request_ids = vec!["another".into()];
            }
            (Purpose::Command(_), 4) => {
                answer.status = 300;
            }
            (Purpose::Command(_), 5) => {
                self.execute(&request);
                answer.status = 206;
            }
            (Purpose::Progress(_), 5) => answer.status = 206,
            _ => self.execute(&request),
        }
        self.session.on_answer(request.serial, answer, self.now);
        self.settle();
    }

    fn fail(&mut self, request: &Request, failure: Failure) {
        self.session.on_failure(request.serial, &failure, self.now);
        self.settle();
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        let over: Vec<Request> = {
            let now = self.now;
            self.under_way.extract_if(.., |request| request.deadline <= now).collect()
        };
        for request in over {
            self.execute(&request);
            self.fail(&request, Failure { written: true, timeout: true, bad: false, cause: "deadline".into() });
        }
        self.session.expire(self.now);
        self.settle();
    }
}

#[derive(Debug, Clone)]
enum Step {
    Submit { read_only: bool, confirm: bool },
    Pump,
    End { index: usize, how: u8 },
    Pass(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (any::<bool>(), any::<bool>()).prop_map(|(read_only, confirm)| Step::Submit { read_only, confirm }),
        4 => Just(Step::Pump),
        6 => (0_usize..8, 0_u8..12).prop_map(|(index, how)| Step::End { index, how }),
        1 => (0_u16..4000).prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    /// Proptest prints the failing steps and keeps their seed.
    #[test]
    fn every_command_ends_once_and_no_change_is_made_twice(steps in prop::collection::vec(step(), 1..150)) {
        let mut world = World::new();
        for step in steps {
            match step {
                Step::Submit { read_only, confirm } => world.submit(read_only, confirm),
                Step::Pump => world.pump(),
                Step::End { index, how } => world.end(index, how),
                Step::Pass(ms) => world.pass(Duration::from_millis(u64::from(ms))),
            }
        }
        // A switch that behaves brings everything to its end.
        for _ in 0..2000 {
            world.pump();
            if world.under_way.is_empty() {
                world.pass(Duration::from_millis(50));
            }
            world.end(0, 11);
            if world.done.len() == world.submitted.len() {
                break;
            }
        }
        prop_assert_eq!(world.done.len(), world.submitted.len());
        prop_assert!(world.session.is_quiet());
    }
}

#[test]
fn a_command_that_met_an_expired_session_is_sent_once_more_after_the_login() {
    let mut world = World::new();
    world.pump();
    world.end(0, 11);
    world.submit(false, false);
    world.pump();
    world.end(0, 2);
    world.pump();
    assert_eq!(world.under_way[0].purpose, Purpose::Login);
    world.end(0, 11);
    world.pump();
    world.end(0, 11);
    assert!(world.done.values().all(Result::is_ok) && world.done.len() == 1);
}

#[test]
fn a_second_expiry_ends_the_command_as_not_sent() {
    let mut world = World::new();
    world.pump();
    world.end(0, 11);
    world.submit(false, false);
    for _ in 0..2 {
        world.pump();
        world.end(0, 2);
        world.pump();
        world.end(0, 11);
    }
    assert!(matches!(world.done.values().next(), Some(Err(CommandError::NotSent { .. }))), "{:?}", world.done);
}

#[test]
fn sessions_that_expire_at_once_make_the_node_fail_instead_of_a_login_storm() {
    let mut world = World::new();
    let mut logins = 0;
    world.session.submit(Command::read("alias_list", Element::new("request")), world.now);
    for _ in 0..50 {
        while let Some(request) = world.session.next_request(world.now) {
            if request.purpose == Purpose::Login {
                logins += 1;
            }
            world.under_way.push(request);
        }
        if let Some(Effect::Lost { cause }) = std::iter::from_fn(|| world.session.next_effect()).find(|e| matches!(e, Effect::Lost { .. }))
        {
            assert!(cause.contains("expires at once") && logins == 3, "{cause} {logins}");
            return;
        }
        let Some(request) = world.under_way.pop() else {
            world.now += Duration::from_secs(5); // until the keep-alive
            continue;
        };
        let login = request.purpose == Purpose::Login;
        let answer = Answer {
            status: if login { 200 } else { 401 },
            request_ids: Vec::new(),
            set_cookies: vec![SecretString::from("ECSSSESSION=1".to_owned())],
            content: if login { Content::Document(Element::new("out").child(Element::new("settings"))) } else { Content::Empty },
        };
        world.session.on_answer(request.serial, answer, world.now);
    }
    panic!("never lost");
}

#[test]
fn the_queue_is_bounded() {
    let mut world = World::new();
    for _ in 0..300 {
        world.submit(true, false);
    }
    assert_eq!(world.done.len(), 300 - 256);
}

#[test]
fn neither_requests_nor_effects_show_a_secret() {
    let mut world = World::new();
    let login = world.session.next_request(world.now).unwrap();
    assert!(login.document.as_ref().unwrap().to_document().contains("password=\"password\""));
    assert!(format!("{login:?}").contains("password=\"***\""));
    world.under_way.push(login);
    world.end(0, 11);
    world.submit(true, false);
    let request = world.session.next_request(world.now).unwrap();
    assert!(!format!("{request:?}").contains("ECSSSESSION=1"));
}
