//! Measures the registry with a million devices: `cargo run --release -p push-registry --example million [devices] [cache MiB] [directory]`.
//! Memory is that of this process, from `/proc/self/status`.
#![expect(clippy::print_stdout, reason = "it is a program that prints")]

use std::{
    error::Error,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use jiff::Timestamp;
use push_core::{AppName, Environment, Provider, Token, UserId};
use push_registry::{Domains, NewDevice, Options, Registry};
use rand::{Rng, SeedableRng, rngs::SmallRng};

const BATCH: u64 = 25_000;
const LOOKUPS: u32 = 200_000;

type Failure = Box<dyn Error>;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let devices: u64 = arguments.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let cache: usize = arguments.next().map_or(Ok(16), |text| text.parse())?;
    let directory = arguments.next().map_or_else(|| std::env::temp_dir().join(format!("million-{}", std::process::id())), PathBuf::from);
    let options = Options { cache_bytes: cache << 20, ..Options::default() };
    println!("{devices} devices, FCM tokens of 160 characters, cache {cache} MiB, in {}", directory.display());

    let registry = Registry::open(&directory, options)?;
    memory("open and empty")?;
    import(&registry, devices).await?;
    println!("file {} MiB", fs::metadata(directory.join("devices.redb"))?.len() >> 20);
    lookups(&registry, devices).await?;
    lists(&registry).await?;
    changes(&registry, devices).await?;
    registry.close().await;

    for (name, check_bytes) in [("unchecked", 0), ("checked whole", u64::MAX)] {
        let started = Instant::now();
        let registry = Registry::open(&directory, Options { check_bytes, ..options })?;
        println!("opened again, {name}: {:.2?}, {} devices", started.elapsed(), registry.counts().total());
        memory(name)?;
        if check_bytes == 0 {
            lookups(&registry, devices).await?;
        }
        registry.close().await;
    }
    fs::remove_dir_all(&directory)?;
    Ok(())
}

/// A token like FCM's, different for each number.
fn token(number: u64) -> Result<Token, &'static str> {
    let mut text = format!("{number:08x}:APA91b");
    let mut rng = SmallRng::seed_from_u64(number);
    text.extend((0..160 - text.len()).map(|_| char::from(rng.sample(rand::distr::Alphanumeric))));
    Token::parse(Provider::Fcm, &text)
}

/// Users register in no order.
fn user(number: u64) -> UserId {
    let shuffled = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24;
    UserId { domain: format!("tenant{}.example", shuffled % 20).into(), alias: format!("{shuffled:010}").into() }
}

fn device(number: u64) -> Result<NewDevice, Failure> {
    Ok(NewDevice {
        user: user(number),
        app: AppName::parse("elph-android")?,
        provider: Provider::Fcm,
        token: token(number)?,
        environment: Environment::Production,
        web_keys: None,
        platform: "android".to_owned(),
        locale: "ru-RU".to_owned(),
        label: format!("Pixel {number}"),
        wants_calls: true,
        wants_messages: true,
        now: Timestamp::now(),
    })
}

async fn import(registry: &Registry, devices: u64) -> Result<(), Failure> {
    let started = Instant::now();
    let mut slowest = Duration::ZERO;
    for first in (0..devices).step_by(usize::try_from(BATCH)?) {
        let list = (first..(first + BATCH).min(devices)).map(device).collect::<Result<Vec<_>, _>>()?;
        let batch = Instant::now();
        registry.import(list).await?;
        slowest = slowest.max(batch.elapsed());
    }
    println!("imported in batches of {BATCH}: {:.1?}, the slowest batch {slowest:.2?}", started.elapsed());
    memory("after the import")
}

async fn lookups(registry: &Registry, devices: u64) -> Result<(), Failure> {
    let mut rng = SmallRng::seed_from_u64(1);
    for (name, among) in [("all users", devices), ("10,000 users, warm", devices.min(10_000))] {
        if among < devices {
            for number in 0..among {
                registry.devices(&user(number)).await?;
            }
        }
        let mut taken = Histogram::<u64>::new(3)?;
        let started = Instant::now();
        for _ in 0..LOOKUPS {
            let user = user(rng.random_range(0..among));
            let began = Instant::now();
            let found = registry.devices(&user).await?;
            taken.record(u64::try_from(began.elapsed().as_nanos())?)?;
            if found.is_empty() {
                return Err("a user has no device".into());
            }
        }
        latency(&format!("lookup by user, among {name}"), &taken, started.elapsed());
    }
    let started = Instant::now();
    let mut asked = 0;
    while asked < LOOKUPS {
        let list: Vec<UserId> = (0..500).map(|_| user(rng.random_range(0..devices))).collect();
        asked += 500;
        registry.devices_of(list).await?;
    }
    println!("lookup by 500 users at once: {:.1} µs a user", started.elapsed().as_secs_f64() * 1e6 / f64::from(asked));
    let mut taken = Histogram::<u64>::new(3)?;
    let (app, started) = (AppName::parse("elph-android")?, Instant::now());
    for _ in 0..LOOKUPS / 4 {
        let token = token(rng.random_range(0..devices))?;
        let began = Instant::now();
        registry.by_token(&app, &token).await?.ok_or("a token has no device")?;
        taken.record(u64::try_from(began.elapsed().as_nanos())?)?;
    }
    latency("lookup by token", &taken, started.elapsed());
    memory("after the lookups")
}

async fn lists(registry: &Registry) -> Result<(), Failure> {
    let (mut listed, mut after, started) = (0, None, Instant::now());
    loop {
        let page = registry.page(Domains::All, after, 1000).await?;
        listed += page.devices.len();
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    println!("listed {listed} devices in pages of 1000: {:.1?}", started.elapsed());
    let started = Instant::now();
    println!("checked: {:?} in {:.1?}", registry.check().await?, started.elapsed());
    memory("after listing and checking")
}

/// One after the other, and a hundred at once.
async fn changes(registry: &Registry, devices: u64) -> Result<(), Failure> {
    let mut rng = SmallRng::seed_from_u64(2);
    let mut taken = Histogram::<u64>::new(3)?;
    let started = Instant::now();
    for _ in 0..500 {
        let device = device(rng.random_range(0..devices))?;
        let began = Instant::now();
        registry.register(device).await?;
        taken.record(u64::try_from(began.elapsed().as_nanos())?)?;
    }
    latency("refresh, one at a time", &taken, started.elapsed());
    let started = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..100_u64 {
        let registry = registry.clone();
        let list = (0..200).map(|n| device(devices + task * 200 + n)).collect::<Result<Vec<_>, _>>()?;
        tasks.spawn(async move {
            for device in list {
                registry.register(device).await?;
            }
            Ok::<_, push_registry::Error>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    println!("registered 20000 new devices, 100 at once: {:.0} a second", 20_000.0 / started.elapsed().as_secs_f64());
    memory("after the changes")
}

fn latency(what: &str, taken: &Histogram<u64>, total: Duration) {
    let micros = |quantile| taken.value_at_quantile(quantile) as f64 / 1e3;
    println!(
        "{what}: p50 {:.1} µs, p99 {:.1} µs, p99.9 {:.1} µs, most {:.0} µs ({:.0} a second)",
        micros(0.5),
        micros(0.99),
        micros(0.999),
        taken.max() as f64 / 1e3,
        taken.len() as f64 / total.as_secs_f64()
    );
}

fn memory(when: &str) -> Result<(), Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let of = |name: &str| -> Option<f64> {
        let kib: f64 = status.lines().find_map(|line| line.strip_prefix(name))?.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kib / 1024.0)
    };
    let (now, peak) = (of("VmRSS:").ok_or("no VmRSS")?, of("VmHWM:").ok_or("no VmHWM")?);
    println!("  RSS {when}: {now:.1} MiB, at most so far {peak:.1} MiB");
    Ok(())
}
