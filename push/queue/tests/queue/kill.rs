//! Kill -9 under load, again and again: a child process accepts and sends, and writes what it was promised and what it sent.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    io::{Read, Write},
    pin::Pin,
    process::{Command, Stdio},
};

use push_core::{Capacity, Outcome, Sending};
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::*;

const CHILD: &str = "PUSH_QUEUE_TEST_CHILD";
const ROUNDS: usize = 12;

/// Writes the ids of what it is given to a file.
struct Writer(Mutex<std::fs::File>);

impl Sender for Writer {
    fn provider(&self) -> Provider {
        Provider::Stub
    }

    fn send(&self, request: Request) -> Sending {
        writeln!(self.0.lock(), "{}", request.id).unwrap();
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(2)).await;
            Outcome::Accepted { provider_id: None }
        })
    }

    fn capacity(&self) -> Capacity {
        Capacity { concurrent: 50, connected: true }
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }
}

fn append(path: &Path) -> std::fs::File {
    std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap()
}

fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    // A line that was being written when the child was killed has no end.
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(str::to_owned).collect()
}

fn queue(directory: &Path) -> (Pushes, Recovered) {
    let sender: Arc<dyn Sender> = Arc::new(Writer(Mutex::new(append(&directory.join("sent")))));
    let options = Options { segment_bytes: 64 * 1024, clock: Clock::system(), ..Options::default() };
    open(&directory.join("queue"), options, HashMap::from([(app("app"), sender)]))
}

/// The child: run by the test below, and only by it.
#[test]
fn child_that_is_killed() {
    let Some(directory) = std::env::var_os(CHILD) else { return };
    let directory = Path::new(&directory);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (pushes, recovered) = queue(directory);
        writeln!(append(&directory.join("duplicates")), "{}", recovered.possible_duplicates).unwrap();
        let promised = Arc::new(Mutex::new(append(&directory.join("promised"))));
        print!("ready");
        std::io::stdout().flush().unwrap();
        for caller in 0..8 {
            let (pushes, promised) = (pushes.clone(), promised.clone());
            tokio::spawn(async move {
                loop {
                    let jobs: Vec<_> = (0..5).map(|number| job("app", &format!("t{caller}-{number}"), Class::Background)).collect();
                    let receipts = pushes.accept(jobs).await.unwrap();
                    let text: String = receipts.iter().map(|receipt| format!("{}\n", receipt.id)).collect();
                    promised.lock().write_all(text.as_bytes()).unwrap();
                }
            });
        }
        // The parent kills it; should the parent die, it ends.
        tokio::time::sleep(Duration::from_secs(20)).await;
    });
}

#[test]
fn trial_12_killed_again_and_again_under_load_every_accepted_push_is_sent() {
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let directory = tempfile::tempdir().unwrap();
    for _ in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::child_that_is_killed", "--nocapture"])
            .env(CHILD, directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut out = child.stdout.take().unwrap();
        let mut text = Vec::new();
        let mut octet = [0];
        while !text.ends_with(b"ready") {
            assert_eq!(out.read(&mut octet).unwrap(), 1, "the child ended: {}", String::from_utf8_lossy(&text));
            text.push(octet[0]);
        }
        // Not a wait for anything: the moment of the kill is random.
        let pause = Duration::from_micros(rng.random_range(0..150_000));
        let started = std::time::Instant::now();
        while started.elapsed() < pause {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let last = runtime.block_on(async {
        let (pushes, recovered) = queue(directory.path());
        eventually("all is sent", || pushes.snapshot().waiting() == 0).await;
        pushes.close(Duration::from_secs(5)).await;
        recovered
    });
    let (promised, sent) = (lines(&directory.path().join("promised")), lines(&directory.path().join("sent")));
    let distinct: HashSet<_> = sent.iter().collect();
    let lost = promised.iter().filter(|id| !distinct.contains(id)).count();
    let told: usize = lines(&directory.path().join("duplicates")).iter().map(|line| line.parse::<usize>().unwrap()).sum();
    println!(
        "{} promised, {} sent, {} of them twice, {} counted as possible duplicates",
        promised.len(),
        sent.len(),
        sent.len() - distinct.len(),
        told + last.possible_duplicates
    );
    assert_eq!(lost, 0, "seed {seed}");
    assert!(!promised.is_empty());
}
