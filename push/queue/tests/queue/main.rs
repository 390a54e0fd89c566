//! The queue as its callers see it, with the predictable sender behind it.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what fails in a helper fails the test")]

mod kill;
mod lanes;
mod life;
mod model;

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use jiff::Timestamp;
use parking_lot::Mutex;
use push_core::{AppName, Class, CollapseKey, DeviceId, Payload, Priority, Provider, PushId, Request, Sender, Target, Token, UserId};
use push_queue::{Clock, Gone, Job, OpenError, Options, Pushes, Recovered, Senders, Telling, TokenGone, Verdict};
use push_stub::Stub;

/// A registry that says what it is told to, and remembers what it was told.
#[derive(Default)]
struct Registry {
    later: Mutex<bool>,
    told: Mutex<Vec<Gone>>,
}

impl TokenGone for Registry {
    fn token_gone(&self, gone: Gone) -> Telling {
        self.told.lock().push(gone);
        let verdict = if *self.later.lock() { Verdict::RegisteredLater } else { Verdict::Gone };
        Box::pin(std::future::ready(verdict))
    }
}

fn app(name: &str) -> AppName {
    AppName::parse(name).unwrap()
}

fn senders<const N: usize>(of: [(&str, &Stub); N]) -> Senders {
    HashMap::from(of.map(|(name, stub)| (app(name), Arc::new(stub.clone()) as Arc<dyn Sender>)))
}

/// Small files, and a clock that tests can pause.
fn options() -> Options {
    Options { segment_bytes: 64 * 1024, clock: Clock::with_tokio(Timestamp::now()), ..Options::default() }
}

fn open(directory: &Path, options: Options, senders: Senders) -> (Pushes, Recovered) {
    Pushes::open(directory, options, senders, Arc::new(Registry::default())).unwrap()
}

/// Opens it as soon as the one before has let go of it.
async fn reopen(directory: &Path, options: Options, senders: Senders) -> (Pushes, Recovered) {
    for _ in 0..2000 {
        match Pushes::open(directory, options.clone(), senders.clone(), Arc::new(Registry::default())) {
            Err(OpenError::InUse { .. }) => tokio::task::spawn_blocking(std::thread::yield_now).await.unwrap(),
            opened => return opened.unwrap(),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the queue is never let go of");
}

fn job(app_name: &str, token: &str, class: Class) -> Job {
    let request = Request {
        id: PushId::new(),
        target: Target::Device(Token::parse(Provider::Stub, token).unwrap()),
        class,
        priority: Priority::High,
        deadline: None,
        store: true,
        collapse: None,
        payload: Payload::Stub(format!("to {token}").into()),
    };
    let user = UserId { domain: "example.org".into(), alias: "101".into() };
    Job { app: app(app_name), user: Some(user), device: Some(DeviceId::parse(token).unwrap()), request, received_at: Timestamp::now() }
}

impl Clocked for Job {
    fn with_deadline(mut self, options: &Options, after: Duration) -> Self {
        self.received_at = options.clock.now();
        self.request.deadline = Some(options.clock.now() + after);
        self
    }

    fn with_collapse(mut self, key: &str) -> Self {
        self.request.collapse = CollapseKey::parse(key);
        self
    }
}

trait Clocked {
    fn with_deadline(self, options: &Options, after: Duration) -> Self;
    fn with_collapse(self, key: &str) -> Self;
}

fn token_of(request: &Request) -> String {
    let Target::Device(token) = &request.target else { panic!("no device") };
    token.expose().to_owned()
}

/// The tokens that a sender was given, in order.
fn given(stub: &Stub) -> Vec<String> {
    stub.given().iter().map(|given| token_of(&given.request)).collect()
}

/// Waits for a condition, by the wall clock: the disk does not obey a paused one.
async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let started = std::time::Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(20), "never: {what}");
        // A blocking task keeps a paused clock from jumping ahead.
        tokio::task::spawn_blocking(std::thread::yield_now).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
