//! How fast the queue is by itself: a sender that accepts at once (or after a delay) stands for the provider. Run with --release; arguments
//! choose among `backlog`, `accept` and `calls`, and `--directory` says where the files go.

#![expect(clippy::print_stdout, reason = "it is a program that reports")]
#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made ends")]

use std::{
    collections::HashMap,
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use jiff::Timestamp;
use parking_lot::Mutex;
use push_core::{AppName, Capacity, Class, Outcome, Payload, Priority, Provider, PushId, Reason, Request, Sender, Sending, Target, Token};
use push_queue::{Gone, Job, Options, Pushes, Senders, State, Telling, TokenGone, Verdict};

/// Accepts everything, and notes when calls come.
struct Quick {
    delay: Duration,
    concurrent: usize,
    down: AtomicBool,
    taken: AtomicU64,
    calls: Mutex<HashMap<PushId, Instant>>,
}

struct Nobody;

impl TokenGone for Nobody {
    fn token_gone(&self, _: Gone) -> Telling {
        Box::pin(std::future::ready(Verdict::Gone))
    }
}

impl Sender for Quick {
    fn provider(&self) -> Provider {
        Provider::Stub
    }

    fn send(&self, request: Request) -> Sending {
        if request.class == Class::Call {
            self.calls.lock().insert(request.id, Instant::now());
        }
        if self.down.load(Ordering::Relaxed) {
            return Box::pin(std::future::ready(Outcome::NotSent { reason: Reason::known("down") }));
        }
        self.taken.fetch_add(1, Ordering::Relaxed);
        let accepted = Outcome::Accepted { provider_id: None };
        if self.delay.is_zero() {
            return Box::pin(std::future::ready(accepted));
        }
        let sleep = tokio::time::sleep(self.delay);
        Box::pin(async move {
            sleep.await;
            accepted
        })
    }

    fn capacity(&self) -> Capacity {
        Capacity { concurrent: self.concurrent, connected: !self.down.load(Ordering::Relaxed) }
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }
}

fn quick(delay: Duration, concurrent: usize, down: bool) -> Arc<Quick> {
    Arc::new(Quick { delay, concurrent, down: AtomicBool::new(down), taken: AtomicU64::new(0), calls: Mutex::default() })
}

fn app() -> AppName {
    AppName::parse("bench").unwrap()
}

fn senders(sender: &Arc<Quick>) -> Senders {
    HashMap::from([(app(), sender.clone() as Arc<dyn Sender>)])
}

fn job(number: u64, class: Class, body: &[u8]) -> Job {
    let request = Request {
        id: PushId::new(),
        target: Target::Device(Token::parse(Provider::Stub, &format!("{number:064x}")).unwrap()),
        class,
        priority: Priority::High,
        deadline: None,
        store: true,
        collapse: None,
        payload: Payload::Stub(body.to_vec().into()),
    };
    Job { app: app(), user: None, device: None, request, received_at: Timestamp::now() }
}

fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<f64>().unwrap() / 1024.0
}

fn cpu() -> Duration {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
    let time = |it: nix::sys::time::TimeVal| Duration::from_micros((it.tv_sec() * 1_000_000 + it.tv_usec()) as u64);
    time(usage.user_time()) + time(usage.system_time())
}

async fn until(what: impl Fn() -> bool) {
    let started = Instant::now();
    while !what() {
        assert!(started.elapsed() < Duration::from_secs(120), "nothing happens");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Callers that each accept one push (or a few at once) after the other.
async fn accept(directory: &Path, callers: u64, at_once: u64) {
    let sender = quick(Duration::ZERO, 1000, false);
    let (pushes, _) =
        Pushes::open(&directory.join(format!("accept-{callers}-{at_once}")), Options::default(), senders(&sender), Arc::new(Nobody))
            .unwrap();
    let (started, cpu_before) = (Instant::now(), cpu());
    let end = started + Duration::from_secs(3);
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let pushes = pushes.clone();
            tokio::spawn(async move {
                let body = [b'x'; 500];
                let mut count = 0;
                while Instant::now() < end {
                    let jobs = (0..at_once).map(|number| job((caller << 32) + count + number, Class::Background, &body)).collect();
                    pushes.accept(jobs).await.unwrap();
                    count += at_once;
                }
                count
            })
        })
        .collect();
    let mut accepted = 0;
    for task in tasks {
        accepted += task.await.unwrap();
    }
    until(|| sender.taken.load(Ordering::Relaxed) >= accepted).await;
    let took = started.elapsed().as_secs_f64();
    let spent = (cpu() - cpu_before).as_secs_f64();
    let syncs = pushes.snapshot().sync;
    println!(
        "accept: {callers:4} callers x {at_once:3}: {:8.0} pushes/s, {:5.2} us CPU per push, {:5.0} syncs/s of {:.2} ms, longest {:.1} ms",
        accepted as f64 / took,
        spent * 1e6 / accepted as f64,
        syncs.count() as f64 / took,
        syncs.sum().as_secs_f64() * 1e3 / syncs.count() as f64,
        syncs.longest().as_secs_f64() * 1e3
    );
    pushes.close(Duration::from_secs(5)).await;
}

/// Fills the queue while the provider is down.
async fn fill(pushes: &Pushes, count: u64) {
    let body = [b'x'; 500];
    for start in (0..count).step_by(500) {
        let jobs = (start..start + 500).map(|number| job(number, Class::Background, &body)).collect();
        pushes.accept(jobs).await.unwrap();
    }
}

async fn backlog(directory: &Path) {
    const COUNT: u64 = 100_000;
    let directory = directory.join("backlog");
    let sender = quick(Duration::ZERO, 1000, true);
    let before = resident();
    let (pushes, _) = Pushes::open(&directory, Options::default(), senders(&sender), Arc::new(Nobody)).unwrap();
    fill(&pushes, COUNT).await;
    let snapshot = pushes.snapshot();
    println!(
        "backlog: {} waiting, {:.1} MiB on disk, RSS {:.1} MiB more than {before:.1} before",
        snapshot.waiting(),
        snapshot.waiting_bytes as f64 / 1048576.0,
        resident() - before
    );
    // As in a crash.
    drop(pushes);
    let before = resident();
    let started = Instant::now();
    let (pushes, recovered) = loop {
        match Pushes::open(&directory, Options::default(), senders(&sender), Arc::new(Nobody)) {
            Ok(open) => break open,
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    };
    println!(
        "recovery: {} waiting, read in {:.3} s, open in {:.3} s, RSS {:+.1} MiB on {before:.1}",
        recovered.waiting,
        recovered.took.as_secs_f64(),
        started.elapsed().as_secs_f64(),
        resident() - before
    );
    let (started, cpu_before) = (Instant::now(), cpu());
    sender.down.store(false, Ordering::Relaxed);
    pushes.set_senders(&HashMap::new());
    pushes.set_senders(&senders(&sender));
    until(|| pushes.snapshot().count("bench", Class::Background, State::Accepted) == COUNT).await;
    let (took, spent) = (started.elapsed().as_secs_f64(), (cpu() - cpu_before).as_secs_f64());
    println!("drain, read back from disk: {:.0} pushes/s, {:.2} us CPU per push", COUNT as f64 / took, spent * 1e6 / COUNT as f64);
    pushes.close(Duration::from_secs(5)).await;
}

/// From the hand-in of a call to the sender, with so many others waiting.
async fn calls(directory: &Path, background: u64) {
    let sender = quick(Duration::from_millis(40), 1000, true);
    let (pushes, _) =
        Pushes::open(&directory.join(format!("calls-{background}")), Options::default(), senders(&sender), Arc::new(Nobody)).unwrap();
    fill(&pushes, background).await;
    sender.down.store(false, Ordering::Relaxed);
    pushes.set_senders(&HashMap::new());
    pushes.set_senders(&senders(&sender));
    let mut latency = Histogram::<u64>::new(3).unwrap();
    for number in 0..400 {
        let call = job((1 << 40) + number, Class::Call, &[b'x'; 500]);
        let id = call.request.id;
        let handed_in = Instant::now();
        pushes.accept(vec![call]).await.unwrap();
        until(|| sender.calls.lock().contains_key(&id)).await;
        let sent = sender.calls.lock().remove(&id).unwrap();
        latency.record(sent.duration_since(handed_in).as_micros() as u64).unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let left = pushes.snapshot().waiting();
    let of = |quantile| latency.value_at_quantile(quantile) as f64 / 1e3;
    println!(
        "calls: {background:6} others queued ({left} left at the end): p50 {:.2} ms, p99 {:.2} ms, longest {:.2} ms",
        of(0.5),
        of(0.99),
        latency.max() as f64 / 1e3
    );
    pushes.close(Duration::from_secs(5)).await;
}

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let place = arguments.iter().position(|argument| argument == "--directory");
    let parent = match place {
        Some(place) => PathBuf::from(arguments.drain(place..=place + 1).nth(1).unwrap()),
        None => std::env::temp_dir(),
    };
    let directory = tempfile::tempdir_in(parent).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let wanted = |what: &str| arguments.is_empty() || arguments.iter().any(|argument| argument == what);
    runtime.block_on(async {
        if wanted("backlog") {
            backlog(directory.path()).await;
        }
        if wanted("accept") {
            for (callers, at_once) in [(1, 1), (10, 1), (100, 1), (1000, 1), (10, 100)] {
                accept(directory.path(), callers, at_once).await;
            }
        }
        if wanted("calls") {
            calls(directory.path(), 0).await;
            calls(directory.path(), 100_000).await;
        }
    });
}
