//! Subscriptions.

use super::*;

#[tokio::test]
async fn a_filter_by_number_gives_its_calls_and_the_whole_of_its_conferences() {
    let core = core();
    let filter = Filter { aliases: ["1002".to_owned()].into(), ..Default::default() };
    let mut subscription = core.subscribe(filter, Start::Snapshot);
    let mut view = View::default();
    core.legs(&[out("1", "1001", LegState::Connected), inn("1", "1002", LegState::Alerting), inn("2", "1003", LegState::Alerting)]);
    core.member("c", "a", |it| {
        it.status = Some(ParticipantStatus::Connected);
        it.number = Some(Alias::parse("1009").unwrap());
    });
    drain(&mut subscription, &mut view).await;
    assert_eq!(view.calls.len(), 1);
    assert!(view.conferences.is_empty());
    core.member("c", "b", |it| {
        it.status = Some(ParticipantStatus::Connected);
        it.number = Some(Alias::parse("1002").unwrap());
    });
    core.member("c", "a", |it| it.voice = Some(false));
    drain(&mut subscription, &mut view).await;
    assert_same(
        &View { calls: view.calls.clone(), ..truth(&core) },
        &View { calls: view.calls.clone(), conferences: view.conferences.clone(), ..View::default() },
    );
}

#[tokio::test]
async fn a_domain_that_is_not_granted_is_never_seen() {
    let core = core();
    let filter = Filter { domains: Some(["other.local".to_owned()].into()), ..Default::default() };
    let mut subscription = core.subscribe(filter, Start::Snapshot);
    core.legs(&[inn("1", "1002", LegState::Alerting)]);
    core.member("c", "a", |it| it.status = Some(ParticipantStatus::Connected));
    let mut view = View::default();
    drain(&mut subscription, &mut view).await;
    assert!(view.calls.is_empty() && view.conferences.is_empty() && view.complete);
}

#[tokio::test]
async fn links_of_another_domain_are_not_shown_neither_in_the_snapshot_nor_later() {
    let core = core();
    let change = |sessions| {
        for name in ["terminal", "csta/biysk.local", "csta/other.local"] {
            core.link_changed(v1::Link { name: name.to_owned(), sessions, ..Default::default() });
        }
    };
    let filter = Filter { domains: Some(["other.local".to_owned()].into()), ..Default::default() };
    change(1);
    let mut subscription = core.subscribe(filter, Start::Snapshot);
    let mut view = View::default();
    drain(&mut subscription, &mut view).await;
    assert_eq!(view.links.keys().collect::<Vec<_>>(), ["csta/other.local", "terminal"]);
    change(2);
    drain(&mut subscription, &mut view).await;
    assert_eq!(
        view.links.values().map(|it| (it.name.as_str(), it.sessions)).collect::<Vec<_>>(),
        [("csta/other.local", 2), ("terminal", 2)]
    );
}

#[tokio::test]
async fn a_stream_of_one_number_that_resumes_knows_its_conferences_as_they_are() {
    let core = core();
    let number = |number: &str| Some(Alias::parse(number).unwrap());
    let filter = || Filter { aliases: ["1002".to_owned()].into(), ..Default::default() };
    for (member, alias) in [("a", "1001"), ("b", "1002"), ("c", "1003")] {
        core.member("c", member, |it| {
            it.status = Some(ParticipantStatus::Connected);
            it.number = number(alias);
        });
    }
    let mut view = View::default();
    drain(&mut core.subscribe(filter(), Start::Snapshot), &mut view).await;
    assert_eq!(view.conferences.len(), 1);
    // While the stream is away, others come and go, and nothing is about 1002 itself.
    core.member("c", "a", |it| it.status = Some(ParticipantStatus::Disconnected));
    core.member("c", "d", |it| {
        it.status = Some(ParticipantStatus::Connected);
        it.number = number("1004");
    });
    let mut resumed = core.subscribe(filter(), Start::After(view.cursor.clone().unwrap()));
    drain(&mut resumed, &mut view).await;
    assert_same(&view, &truth(&core));
    core.member("c", "c", |it| it.voice = Some(false));
    drain(&mut resumed, &mut view).await;
    assert_same(&view, &truth(&core));
    assert_eq!(view.resyncs, 0);
}

#[tokio::test]
async fn a_subscriber_that_falls_behind_is_told_how_many_events_it_missed_and_alone_pays() {
    let core = Arc::new(Core::open(CoreOptions { max_events: 16, ..Default::default() }).unwrap());
    let mut stuck = core.subscribe(Filter::default(), Start::Snapshot);
    let mut prompt = core.subscribe(Filter::default(), Start::Snapshot);
    let (mut stuck_view, mut view) = (View::default(), View::default());
    drain(&mut stuck, &mut stuck_view).await;
    drain(&mut prompt, &mut view).await;
    for call in 0..100 {
        core.legs(&[inn(&call.to_string(), "1002", LegState::Alerting)]);
        drain(&mut prompt, &mut view).await;
    }
    assert_eq!(view.resyncs, 0);
    let first = SubscribeResponse::decode(stuck.next(Duration::ZERO).await.remove(0)).unwrap();
    let Some(v1::subscribe_response::Message::Resync(resync)) = first.message else { panic!("{first:?}") };
    assert_eq!((resync.reason(), resync.skipped), (v1::resync::Reason::TooSlow, 100));
    assert_eq!(core.counters().resyncs_sent, [0, 0, 1]);
    drain(&mut stuck, &mut stuck_view).await;
    assert_same(&view, &truth(&core));
}

#[tokio::test]
async fn another_tenants_links_are_not_told() {
    let core = core();
    let link = |name: &str| v1::Link { name: name.to_owned(), ..Default::default() };
    core.link_changed(link("csta/before.local"));
    let filter = Filter { domains: Some(["biysk.local".to_owned()].into()), ..Default::default() };
    let mut subscription = core.subscribe(filter, Start::Snapshot);
    let mut view = View::default();
    drain(&mut subscription, &mut view).await;
    for name in ["terminal", "csta/biysk.local", "csta/other.local"] {
        core.link_changed(link(name));
    }
    drain(&mut subscription, &mut view).await;
    assert_eq!(view.links.keys().collect::<Vec<_>>(), ["csta/biysk.local", "terminal"]);
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_comes_after_a_whole_silence_however_much_came_before_it() {
    const HEARTBEAT: Duration = Duration::from_secs(10);
    let core = core();
    let mut subscription = core.subscribe(Filter::default(), Start::Now);
    subscription.next(HEARTBEAT).await;
    for call in 0..5 {
        tokio::time::sleep(HEARTBEAT - Duration::from_secs(1)).await;
        core.legs(&[inn(&call.to_string(), "1002", LegState::Alerting)]);
        let began = tokio::time::Instant::now();
        let event = SubscribeResponse::decode(subscription.next(HEARTBEAT).await.remove(0)).unwrap();
        assert!(matches!(event.message, Some(v1::subscribe_response::Message::Event(_))));
        assert!(began.elapsed() < Duration::from_secs(1));
    }
    for _ in 0..3 {
        let began = tokio::time::Instant::now();
        let beat = SubscribeResponse::decode(subscription.next(HEARTBEAT).await.remove(0)).unwrap();
        assert!(matches!(beat.message, Some(v1::subscribe_response::Message::Heartbeat(_))));
        assert!((HEARTBEAT..HEARTBEAT + Duration::from_secs(1)).contains(&began.elapsed()), "{:?}", began.elapsed());
    }
}
