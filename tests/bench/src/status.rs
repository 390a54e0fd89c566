//! The Status Service: one change to 10,000 watchers, until the last has it, beside the time that the same octets take to 10,000 bare sockets;
//! and what a watcher costs in memory.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use anyhow::{Context, bail};
use e2e::{Stack, StackOptions, suite::Suite};
use futures_util::{StreamExt, TryStreamExt};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

use crate::{
    feed::PATIENCE,
    push_rivals::scratch,
    report::{Better, Table, median, progress},
};

const WATCHERS: usize = 10_000;
const CHANGES: usize = 21;
/// Opened side by side.
const AT_ONCE: usize = 64;
/// As long as a message of the service with one status, its frame included.
const OCTETS: usize = 160;
const WATCHED: &str = "1001";

/// Counts what has arrived, and wakes when it is all.
#[derive(Default)]
struct Arrived {
    count: AtomicUsize,
    all: Notify,
}

pub(crate) async fn run() -> anyhow::Result<Table> {
    let (_, most) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, most, most)?;
    let stack = Stack::start(StackOptions::default()).await?;
    let place = scratch()?;
    let limits = "[limits]\nper_address = 100000\nper_address_burst = 100000\nper_user = 1000\nper_user_burst = 1000\n";
    let database = format!("[database]\nurl = \"sqlite:{}\"\n", place.path().join("status.db").display());
    let suite = Arc::new(Suite::start(&stack, &[stack.domain()], &format!("{database}{limits}")).await?);
    let before = suite.resident()?;
    let arrived = Arc::new(Arrived::default());
    progress(&format!("status, {WATCHERS} watchers come"));
    let began = Instant::now();
    let domain = stack.domain().to_owned();
    let opened = futures_util::stream::iter(0..WATCHERS).map(|number| {
        let (suite, arrived, domain) = (suite.clone(), arrived.clone(), domain.clone());
        async move {
            let token =
                suite.token(&domain, &format!("{}", 20_000 + number), &json!({ "exp": jiff::Timestamp::now().as_second() + 3000 }))?;
            let mut live = suite.live("/elph_status/v1/watch", &token).await?;
            live.say(&json!({ "type": "watch", "aliases": [WATCHED] })).await?;
            live.hear().await?;
            tokio::spawn(async move {
                while live.hear().await.is_ok() {
                    arrived.one_more();
                }
            });
            anyhow::Ok(())
        }
    });
    opened.buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
    #[expect(clippy::cast_precision_loss, reason = "a count of watchers")]
    let (per_second, watchers) = (WATCHERS as f64 / began.elapsed().as_secs_f64(), WATCHERS as f64);
    let memory = (suite.resident()? - before) / watchers;
    let bare = Bare::open().await?;

    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for change in 0..CHANGES {
        let began = Instant::now();
        let body = json!({ "text": format!("{change}") });
        let (status, answer) = suite.ask((&domain, WATCHED), "PUT", "/elph_status/v1/me/note", Some(body)).await?;
        if status != 200 {
            bail!("{status}: {answer}");
        }
        arrived.everybody(began).await?;
        ours.push(began.elapsed().as_secs_f64() * 1e3);
        floor.push(bare.round().await?);
    }
    // The first goes to sockets that have not been used yet.
    ours.remove(0);
    floor.remove(0);
    let mut table = Table::new("status");
    let row = table.row(format!("one change until the last of {WATCHERS} watchers has it"), "ms", Better::Lower, median(ours));
    row.beside("bare sockets", median(floor));
    table.row("memory for each watcher", "KiB", Better::Lower, memory);
    table.row("watchers that come, token and handshake included", "1/s", Better::Higher, per_second);
    table.note(
        "from the HTTP request that changes a note, over SQLite, to the last WebSocket; 20 ms of it are waited on purpose, so that a busy",
    );
    table.note(
        "moment is one message. bare sockets: the same octets written to as many TCP sockets by one task. Clients share the two cores.",
    );
    stack.stop().await?;
    Ok(table)
}

impl Arrived {
    fn one_more(&self) {
        if self.count.fetch_add(1, Ordering::Relaxed) + 1 == WATCHERS {
            self.all.notify_one();
        }
    }

    /// Waits until everybody has it, and begins anew.
    async fn everybody(&self, began: Instant) -> anyhow::Result<()> {
        let waited = tokio::time::timeout(PATIENCE, self.all.notified()).await;
        waited.with_context(|| format!("{} of {WATCHERS} after {:?}", self.count.load(Ordering::Relaxed), began.elapsed()))?;
        self.count.store(0, Ordering::Relaxed);
        Ok(())
    }
}

/// Sockets without anything on top.
struct Bare {
    writers: tokio::sync::Mutex<Vec<TcpStream>>,
    arrived: Arc<Arrived>,
}

impl Bare {
    async fn open() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (at, arrived) = (listener.local_addr()?, Arc::new(Arrived::default()));
        let mut writers = Vec::with_capacity(WATCHERS / 4);
        // A quarter, four times as much each: file descriptors are counted.
        for _ in 0..WATCHERS / 4 {
            let mut reader = TcpStream::connect(at).await?;
            let (writer, _) = listener.accept().await?;
            writer.set_nodelay(true)?;
            writers.push(writer);
            let arrived = arrived.clone();
            tokio::spawn(async move {
                let mut buffer = [0_u8; OCTETS];
                while reader.read_exact(&mut buffer).await.is_ok() {
                    arrived.one_more();
                }
            });
        }
        Ok(Self { writers: tokio::sync::Mutex::new(writers), arrived })
    }

    /// Milliseconds.
    async fn round(&self) -> anyhow::Result<f64> {
        let began = Instant::now();
        for _ in 0..4 {
            for writer in self.writers.lock().await.iter_mut() {
                writer.write_all(&[b'x'; OCTETS]).await?;
            }
        }
        self.arrived.everybody(began).await?;
        Ok(began.elapsed().as_secs_f64() * 1e3)
    }
}
