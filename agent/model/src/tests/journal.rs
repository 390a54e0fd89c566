//! The journal across restarts, and on disks that misbehave.

use elph_proto::view::counts;

use super::*;

fn on_disk(directory: &std::path::Path) -> Arc<Core> {
    Arc::new(Core::open(CoreOptions { directory: Some(directory.to_owned()), ..Default::default() }).unwrap())
}

#[tokio::test]
async fn a_cursor_survives_a_restart_and_no_position_is_given_out_twice() {
    let directory = tempfile::tempdir().unwrap();
    let core = on_disk(directory.path());
    core.legs(&[inn("1", "1002", LegState::Alerting)]);
    core.member("c", "a", |it| it.status = Some(ParticipantStatus::Connected));
    let mut view = View::default();
    drain(&mut core.subscribe(Filter::default(), Start::Snapshot), &mut view).await;
    let cursor = view.cursor.clone().unwrap();
    core.member("c", "b", |it| it.status = Some(ParticipantStatus::Connected));
    let newest = core.journal_range().2;
    core.close().await;
    drop(core);

    let core = on_disk(directory.path());
    assert_eq!(core.journal_range().0, cursor.epoch);
    assert_eq!(core.the_conference("c").connected_count, 2);
    core.legs(&[inn("1", "1002", LegState::Connected)]);
    assert!(core.journal_range().2 > newest + 1);
    let mut resumed = core.subscribe(Filter::default(), Start::After(cursor));
    drain(&mut resumed, &mut view).await;
    assert_eq!(view.resyncs, 0, "resumed, not resynchronised");
    assert_same(&view, &truth(&core));
    // A position that may have been given out and was never written cannot be resumed after.
    let lost = v1::Cursor { epoch: core.journal_range().0, sequence: newest + 1 };
    drain(&mut core.subscribe(Filter::default(), Start::After(lost)), &mut view).await;
    assert_eq!(view.resyncs, 1);
    assert_same(&view, &truth(&core));
    let foreign = v1::Cursor { epoch: "other".into(), sequence: newest };
    drain(&mut core.subscribe(Filter::default(), Start::After(foreign)), &mut view).await;
    assert_eq!(view.resyncs, 2);
    core.close().await;
    drop(core);
    let core = on_disk(directory.path());
    let mut again = View::default();
    drain(&mut core.subscribe(Filter::default(), Start::After(v1::Cursor { epoch: core.journal_range().0, sequence: newest })), &mut again)
        .await;
    assert_eq!(again.resyncs, 0, "a cursor reaches back over two starts");
}

#[tokio::test]
async fn a_journal_cut_off_anywhere_opens_and_gives_a_consistent_state() {
    let directory = tempfile::tempdir().unwrap();
    let core = on_disk(directory.path());
    for step in 0..6 {
        core.member("c", &format!("p{step}"), |it| it.status = Some(ParticipantStatus::Connected));
    }
    core.close().await;
    drop(core);
    let mut segments: Vec<_> =
        std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some()).collect();
    segments.sort();
    let first = std::fs::read(&segments[0]).unwrap();
    for (number, cut) in (0..first.len()).step_by(7).enumerate() {
        let directory = tempfile::tempdir().unwrap();
        let mut bytes = first[..cut].to_vec();
        if number % 3 == 2 && cut > 60 {
            bytes[cut - 1] ^= 0x55;
        }
        std::fs::write(directory.path().join("00000000000000000001.journal"), bytes).unwrap();
        let core = on_disk(directory.path());
        for conference in core.conferences(None, 10, true, |_| true).items {
            assert_eq!((conference.connected_count, conference.pending_count), counts(&conference.participants));
        }
        core.close().await;
    }
}

#[test]
fn a_journal_directory_serves_one_agent() {
    let directory = tempfile::tempdir().unwrap();
    let _first = on_disk(directory.path());
    let second = Core::open(CoreOptions { directory: Some(directory.path().to_owned()), ..Default::default() });
    assert!(matches!(second, Err(crate::journal::JournalError::InUse { .. })));
}

#[tokio::test]
async fn the_files_stay_within_their_bound_and_still_restore_the_state() {
    let directory = tempfile::tempdir().unwrap();
    let options =
        CoreOptions { directory: Some(directory.path().to_owned()), disk_bytes: 64 << 10, segment_bytes: 8 << 10, ..Default::default() };
    let core = Arc::new(Core::open(options.clone()).unwrap());
    for round in 0..3000 {
        core.member("c", "a", |it| {
            it.status = Some(ParticipantStatus::Connected);
            it.voice = Some(round % 2 == 0);
        });
    }
    core.close().await;
    let bytes: u64 = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes < 100 << 10, "{bytes}");
    let before = core.the_conference("c");
    drop(core);
    let core = Core::open(options).unwrap();
    assert_eq!(v1::Conference { duration: None, ..core.the_conference("c") }, v1::Conference { duration: None, ..before });
}

/// Calls enough for several segments.
fn busy(core: &Core, from: usize) {
    for call in from..from + 200 {
        core.legs(&[inn(&call.to_string(), "1002", LegState::Alerting)]);
    }
}

fn small(directory: &std::path::Path) -> CoreOptions {
    CoreOptions { directory: Some(directory.to_owned()), segment_bytes: 4 << 10, ..Default::default() }
}

#[tokio::test]
async fn a_directory_that_was_cleared_away_is_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let core = Core::open(small(&path)).unwrap();
    busy(&core, 0);
    clear_away(&path);
    busy(&core, 1000);
    core.close().await;
    drop(core);
    let core = Core::open(small(&path)).unwrap();
    assert_eq!(core.counters().active_calls, 400);
}

#[tokio::test]
async fn a_disk_that_refuses_costs_the_cursors_and_nothing_else_and_is_used_again_when_it_takes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let core = Arc::new(Core::open(small(&path)).unwrap());
    busy(&core, 0);
    let cursor = v1::Cursor { epoch: core.journal_range().0, sequence: core.journal_range().2 };
    // The writer makes the directory anew whenever it finds it gone: again, until the file stands there.
    while std::fs::write(&path, "in the way").is_err() {
        clear_away(&path);
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    let mut calls = 1000;
    while core.counters().disk_events_skipped == 0 {
        assert!(std::time::Instant::now() < deadline, "no event was refused");
        busy(&core, calls);
        calls += 200;
        tokio::task::yield_now().await;
    }
    let mut view = View::default();
    drain(&mut core.subscribe(Filter::default(), Start::Snapshot), &mut view).await;
    assert_same(&view, &truth(&core));
    std::fs::remove_file(&path).unwrap();
    while !path.is_dir() {
        assert!(std::time::Instant::now() < deadline, "the journal is not written again");
        busy(&core, calls);
        calls += 200;
        tokio::task::yield_now().await;
    }
    busy(&core, calls);
    let active = core.counters().active_calls;
    core.close().await;
    drop(core);
    let core = Arc::new(Core::open(small(&path)).unwrap());
    assert_eq!(core.counters().active_calls, active);
    // What is missing in the files cannot be resumed over.
    let mut view = View::default();
    drain(&mut core.subscribe(Filter::default(), Start::After(cursor)), &mut view).await;
    assert_eq!(view.resyncs, 1);
}

/// Removes a directory into which the journal's writer may be writing just now.
fn clear_away(path: &std::path::Path) {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while let Err(error) = std::fs::remove_dir_all(path) {
        if error.kind() == std::io::ErrorKind::NotFound {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{error}");
    }
}
