//! Restarts, crashes, damage, and a second process.

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use push_core::Device;
use push_registry::{Domains, OpenError, Options, Registry};
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};

use crate::support::{at, device, fresh, small, user};

const DIRECTORY: &str = "ELPH_TEST_REGISTRY";
const TASKS: u64 = 12;
const ROUNDS: usize = 12;

#[tokio::test]
async fn what_was_registered_and_removed_is_so_after_a_restart() {
    let (directory, registry) = fresh(small());
    let alice = user("a.example", "1001");
    let kept = registry.register(device(&alice, "one", "phone", 0)).await.unwrap().device;
    let removed = registry.register(device(&alice, "two", "tablet", 0)).await.unwrap().device;
    registry.unregister(&alice, &removed.id).await.unwrap();
    let counts = registry.counts();
    registry.close().await;

    let registry = Registry::open(directory.path(), small()).unwrap();
    assert_eq!(registry.devices(&alice).await.unwrap(), [kept]);
    assert_eq!(registry.get(&removed.id).await.unwrap(), None);
    assert_eq!(registry.counts(), counts);
    assert_eq!(registry.check().await.unwrap().problems, 0);
}

#[tokio::test]
async fn a_closed_registry_says_so() {
    let (_directory, registry) = fresh(small());
    let other = registry.clone();
    registry.close().await;
    let alice = user("a.example", "1001");
    assert!(matches!(other.register(device(&alice, "one", "phone", 0)).await, Err(push_registry::Error::Closed)));
    assert!(matches!(other.devices(&alice).await, Err(push_registry::Error::Closed)));
}

#[tokio::test]
async fn a_second_opening_is_refused_with_the_files_name() {
    let (directory, registry) = fresh(small());
    let refused = Registry::open(directory.path(), small()).unwrap_err();
    assert!(matches!(refused, OpenError::InUse { .. }), "{refused:?}");
    assert!(refused.to_string().contains("devices.redb' is in use"), "{refused}");
    // It has done the first no harm.
    registry.register(device(&user("a.example", "1001"), "one", "phone", 0)).await.unwrap();
    registry.close().await;
    Registry::open(directory.path(), small()).unwrap();
}

#[tokio::test]
async fn only_the_agents_user_can_read_the_tokens() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("push/devices");
    let _registry = Registry::open(&directory, small()).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&directory), mode(&directory.join("devices.redb"))), (0o700, 0o600));
}

#[test]
fn a_directory_that_cannot_be_used_is_named() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    fs::write(&file, "").unwrap();
    let refused = Registry::open(&file.join("devices"), small()).unwrap_err();
    assert!(matches!(refused, OpenError::Directory { .. }) && refused.to_string().contains("file/devices"), "{refused:?}");
}

#[test]
fn a_file_that_is_something_else_or_cut_short_is_called_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("devices.redb");
    drop(Registry::open(directory.path(), small()));
    await_closed(directory.path());
    let whole = fs::read(&file).unwrap();
    for content in [b"[configuration]\nkey = 1\n".repeat(400), whole[..whole.len() / 2].to_vec(), whole[..100].to_vec(), vec![0; 100_000]] {
        fs::write(&file, &content).unwrap();
        let refused = Registry::open(directory.path(), small()).unwrap_err();
        assert!(matches!(refused, OpenError::Damaged { .. }), "{} bytes: {refused:?}", content.len());
        let text = refused.to_string();
        assert!(text.contains("devices.redb") && text.contains("move it away"), "{text}");
    }
}

/// Every damage is either found when the file is opened, or did not concern what is in it.
#[tokio::test]
async fn flipped_bytes_are_found_at_opening_or_lose_nothing() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let (directory, registry) = fresh(small());
    let list = (0..300).map(|n| device(&user("a.example", &format!("{}", n / 2)), &format!("token{n:0100}"), "", n)).collect();
    registry.import(list).await.unwrap();
    let expected = registry.page(Domains::All, None, 1000).await.unwrap().devices;
    registry.close().await;
    let whole = fs::read(directory.path().join("devices.redb")).unwrap();

    let mut found = 0;
    for round in 0..150 {
        let directory = tempfile::tempdir().unwrap();
        let mut content = whole.clone();
        let place = rng.random_range(0..content.len());
        content[place] ^= 1_u8 << rng.random_range(0..8);
        fs::write(directory.path().join("devices.redb"), content).unwrap();
        match Registry::open(directory.path(), small()) {
            Err(OpenError::Damaged { .. }) => found += 1,
            Err(other) => panic!("round {round}, byte {place}: {other:?}"),
            Ok(registry) => {
                assert_eq!(registry.page(Domains::All, None, 1000).await.unwrap().devices, expected, "round {round}, byte {place}");
                assert_eq!(registry.check().await.unwrap().problems, 0);
                registry.close().await;
            }
        }
    }
    println!("{found} of 150 were found");
    assert!(found > 0);
}

/// A large file is not read whole every time, but after a crash it is: damage may have been its cause.
#[tokio::test]
async fn after_a_crash_even_a_large_file_is_compared_with_its_checksums() {
    let options = Options { check_bytes: 0, ..small() };
    let (directory, registry) = fresh(options);
    let list = (0..500).map(|n| device(&user("a.example", &format!("{n}")), &format!("token{n:0100}"), "", n)).collect();
    registry.import(list).await.unwrap();
    registry.close().await;
    let file = directory.path().join("devices.redb");
    let mut content = fs::read(&file).unwrap();
    // A token's text in a record.
    let place = content.windows(9).rposition(|window| window == b"token0000").unwrap();
    content[place] ^= 1;
    fs::write(&file, &content).unwrap();

    assert!(!directory.path().join("devices.open").exists());
    Registry::open(directory.path(), options).unwrap().close().await;
    fs::write(directory.path().join("devices.open"), "").unwrap();
    assert!(matches!(Registry::open(directory.path(), options).unwrap_err(), OpenError::Damaged { .. }));
}

/// Registers as many devices as it can, and says on standard output what was answered. The test below runs it and kills it.
#[test]
#[ignore = "is the child of registrations_that_were_answered_survive_kill_9"]
fn registers_until_it_is_killed() {
    let Some(directory) = env::var_os(DIRECTORY) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let registry = Registry::open(Path::new(&directory), small()).unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..TASKS {
            let registry = registry.clone();
            tasks.spawn(async move {
                let refreshed = user("a.example", &format!("refreshed-{task}"));
                let known = registry.devices(&refreshed).await.unwrap();
                let first = known.first().map_or(0, |device| number(device) + 1);
                // Ends by itself if the parent does not end it.
                for n in first..first + 20_000 {
                    registry.register(device(&refreshed, &format!("refreshed-{task}-{n}"), "phone", 0)).await.unwrap();
                    let new = user("b.example", &format!("new-{task}-{n}"));
                    registry.register(device(&new, &format!("new-{task}-{n}"), "", 0)).await.unwrap();
                    let line = format!("answered {task} {n}\n");
                    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
                }
            });
        }
        tasks.join_all().await;
    });
}

/// At the end of its token.
fn number(device: &Device) -> u64 {
    device.token.expose().rsplit('-').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn registrations_that_were_answered_survive_kill_9() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let directory = tempfile::tempdir().unwrap();
    let mut last = vec![None::<u64>; usize::try_from(TASKS).unwrap()];
    let (mut answered, mut slowest) = (Vec::new(), Duration::ZERO);
    for round in 0..ROUNDS {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "durability::registers_until_it_is_killed", "--ignored", "--nocapture", "--test-threads=1"])
            .env(DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let target = *[1, 5, 40, 200, 500].choose(&mut rng).unwrap() + rng.random_range(0..10);
        let mut of_round = 0;
        let mut line = String::new();
        // What it had written when it was killed counts, too; half a line does not.
        while lines.read_line(&mut line).unwrap() > 0 {
            if let Some(rest) = line.strip_suffix('\n').and_then(|line| line.split_once("answered ")).map(|(_, rest)| rest.to_owned()) {
                let (task, n) = rest.split_once(' ').unwrap();
                last[task.parse::<usize>().unwrap()] = Some(n.parse().unwrap());
                answered.push(user("b.example", &format!("new-{task}-{n}")));
                of_round += 1;
                if of_round == target {
                    child.kill().unwrap();
                }
            }
            line.clear();
        }
        child.wait().unwrap();
        assert!(of_round >= target, "round {round}: the child ended after {of_round} of {target}");

        let started = Instant::now();
        let registry = Registry::open(directory.path(), small()).unwrap();
        slowest = slowest.max(started.elapsed());
        for (task, last) in last.iter_mut().enumerate() {
            let devices = registry.devices(&user("a.example", &format!("refreshed-{task}"))).await.unwrap();
            let n = devices.first().map(number);
            // The one after the last may have been committed before its answer could be given.
            let next = last.map_or(0, |last| last + 1);
            assert!(devices.len() <= 1 && (n == *last || n == Some(next)), "round {round}, task {task}: {n:?} after {last:?}");
            *last = n;
        }
        for users in answered.chunks(1000) {
            let lost = registry.devices_of(users.to_vec()).await.unwrap().iter().position(|devices| devices.len() != 1);
            assert_eq!(lost.map(|lost| &users[lost]), None, "round {round}");
        }
        let report = registry.check().await.unwrap();
        assert_eq!((report.problems, report.first), (0, None), "round {round}");
        registry.close().await;
    }
    println!("{} pairs of registrations answered before {ROUNDS} kills; opening took at most {slowest:.1?}", answered.len());
}

#[tokio::test]
async fn many_callers_at_once_are_committed_together() {
    let (_directory, registry) = fresh(small());
    let started = Instant::now();
    registry.register(device(&user("a.example", "0"), "alone", "", 0)).await.unwrap();
    let alone = started.elapsed();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..500 {
        let registry = registry.clone();
        tasks.spawn(async move { registry.register(device(&user("a.example", &format!("{n}")), &format!("t{n}"), "", n)).await.unwrap() });
    }
    assert_eq!(tasks.join_all().await.len(), 500);
    println!("one alone {alone:.1?}, 501 in {:.1?}", started.elapsed());
    assert_eq!(registry.counts().total(), 501);
    let latest = registry.devices(&user("a.example", "499")).await.unwrap();
    assert_eq!(latest[0].registered_at, at(499));
}

/// Waits until the thread of a dropped registry has closed the file.
fn await_closed(directory: &Path) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while directory.join("devices.open").exists() {
        assert!(Instant::now() < deadline, "the file is still open");
        std::thread::yield_now();
    }
}
