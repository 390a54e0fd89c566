//! Formats, and a disk that fails.

use std::{ops::Bound, sync::atomic::AtomicUsize};

use push_core::{Environment, Provider, Token, UserId};
use redb::{BackendError, StorageBackend};
use tempfile::TempDir;

use super::*;
use crate::{NewDevice, Options, Registry};

fn device(number: u64) -> NewDevice {
    NewDevice {
        user: UserId { domain: "a.example".into(), alias: format!("{number}").into() },
        app: AppName::parse("android").unwrap(),
        provider: Provider::Fcm,
        token: Token::parse(Provider::Fcm, &format!("token-{number}")).unwrap(),
        environment: Environment::Production,
        web_keys: None,
        platform: String::new(),
        locale: String::new(),
        label: String::new(),
        wants_calls: true,
        wants_messages: true,
        now: jiff::Timestamp::UNIX_EPOCH,
    }
}

fn place() -> (TempDir, Place) {
    let directory = tempfile::tempdir().unwrap();
    let place = Place::new(directory.path(), 1 << 20, u64::MAX);
    (directory, place)
}

#[test]
fn an_older_format_is_brought_up_to_date_step_by_step_and_a_newer_one_is_refused() {
    let (_directory, place) = place();
    Store::open_with(place.clone(), &[]).unwrap().close();

    let first: Step = |txn| {
        txn.open_table(COUNTS)?.insert(("android", 2), 7)?;
        Ok(())
    };
    let second: Step = |txn| {
        let mut counts = txn.open_table(COUNTS)?;
        let seven = counts.remove(("android", 2))?.map(|count| count.value());
        assert_eq!(seven, Some(7), "the first step was not taken before the second");
        Ok(())
    };
    let store = Store::open_with(place.clone(), &[first, second]).unwrap();
    store
        .with("read", |database| {
            assert_eq!(format(database)?, Some(3));
            Ok(())
        })
        .unwrap();
    store.close();

    let never: Step = |_| panic!("a step was taken twice");
    Store::open_with(place.clone(), &[never, never]).unwrap().close();
    let refused = Store::open_with(place, &[]).map(|_| ()).unwrap_err();
    assert!(matches!(refused, OpenError::Newer { found: 3, known: 1, .. }) && refused.to_string().contains("devices.redb"), "{refused}");
}

#[test]
fn a_step_that_fails_leaves_the_file_as_it_was() {
    let (_directory, place) = place();
    Store::open_with(place.clone(), &[]).unwrap().close();
    let fails: Step = |txn| {
        txn.open_table(COUNTS)?.insert(("android", 2), 7)?;
        Err(Fault::Io(io::Error::other("no room")))
    };
    assert!(matches!(Store::open_with(place.clone(), &[fails]).map(|_| ()), Err(OpenError::Storage { .. })));
    let store = Store::open_with(place, &[]).unwrap();
    assert_eq!(store.counts().total(), 0);
}

#[test]
fn indexes_that_do_not_fit_the_devices_are_damage() {
    let (_directory, place) = place();
    let store = Store::open(place.clone()).unwrap();
    store
        .with("write", |database| {
            let txn = database.begin_write()?;
            txn.open_table(TOKENS)?.insert(1, 2)?;
            Ok(txn.commit()?)
        })
        .unwrap();
    store.close();
    let refused = Store::open(place).map(|_| ()).unwrap_err();
    assert!(matches!(refused, OpenError::Damaged { .. }), "{refused}");
}

#[tokio::test]
async fn room_that_devices_left_is_given_back_at_opening() {
    let (_directory, mut place) = place();
    let registry = Registry::open_at(place.clone(), Options::default()).unwrap();
    registry.import((0..6000).map(|number| NewDevice { label: "x".repeat(255), ..device(number) }).collect()).await.unwrap();
    // Those that stay lie everywhere in the file.
    let mut removals = tokio::task::JoinSet::new();
    for number in (0..6000).filter(|number| number % 60 != 0) {
        let registry = registry.clone();
        removals.spawn(async move { registry.unregister_user(&device(number).user).await.unwrap().len() });
    }
    assert_eq!(removals.join_all().await.into_iter().sum::<usize>(), 5900);
    registry.close().await;

    // Little room is not worth the work.
    Registry::open_at(place.clone(), Options::default()).unwrap().close().await;
    let before = length(&place.file());
    place.roomy = 1 << 18;
    let registry = Registry::open_at(place.clone(), Options::default()).unwrap();
    let after = length(&place.file());
    println!("{before} bytes became {after}");
    assert!(after < before / 2, "{before} bytes became {after}");
    let report = registry.check().await.unwrap();
    assert_eq!((report.devices, report.problems), (100, 0));
    registry.close().await;
}

/// Passes everything on, but writes nothing while it is full.
#[derive(Debug)]
struct Disk {
    file: FileBackend,
    full: Arc<AtomicBool>,
}

impl Disk {
    fn room(&self) -> io::Result<()> {
        if self.full.load(Ordering::SeqCst) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.room()?;
        self.file.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.room()?;
        self.file.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.room()?;
        self.file.write(offset, data)
    }
    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }
    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }
    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }
    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }
    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }
    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

#[tokio::test]
async fn a_full_disk_refuses_changes_and_is_used_again_when_it_has_room() {
    let (_directory, mut place) = place();
    let (full, opened) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (disk, openings) = (Arc::clone(&full), Arc::clone(&opened));
    place.opener = Arc::new(move |builder, file| {
        openings.fetch_add(1, Ordering::SeqCst);
        builder.create_with_backend(Disk { file: FileBackend::new(file)?, full: Arc::clone(&disk) })
    });
    let registry = Registry::open_at(place, Options::default()).unwrap();
    for number in 0..50 {
        registry.register(device(number)).await.unwrap();
    }

    full.store(true, Ordering::SeqCst);
    for number in 50..60 {
        let refused = registry.register(device(number)).await.unwrap_err();
        assert!(matches!(refused, Error::Store { doing: "write", .. }), "{refused:?}");
    }
    full.store(false, Ordering::SeqCst);

    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(error) = registry.register(device(60)).await {
        assert!(Instant::now() < deadline, "{error:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(opened.load(Ordering::SeqCst) > 1);
    assert_eq!(registry.counts().total(), 51);
    for number in 0..61 {
        let found = registry.devices(&device(number).user).await.unwrap();
        assert_eq!(found.len(), usize::from(!(50..60).contains(&number)), "{number}");
    }
    assert_eq!(registry.check().await.unwrap().problems, 0);
    registry.close().await;
}
