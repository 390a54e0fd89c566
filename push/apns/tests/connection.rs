//! How connections are used, watched, left and replaced, against a provider whose every frame is the test's choice, in virtual time.
#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use push_apns::{Apns, Auth, Settings};
use push_core::{Class, Outcome, Sender};
use tokio::time::{Instant, sleep, timeout};

#[expect(dead_code, reason = "each test file uses a part of it")]
mod support;
use support::{CANCEL, Event, Net, REFUSED_STREAM, VirtualClock, is_accepted, push, settings, start, start_as};

fn sender(change: impl FnOnce(&mut Settings)) -> (Arc<Apns>, Arc<Net>) {
    let mut settings = settings(&VirtualClock::new());
    change(&mut settings);
    let net = Net::new();
    (Arc::new(Apns::new(settings, net.clone()).unwrap()), net)
}

/// A sender whose one connection the provider has come to trust.
async fn proven(change: impl FnOnce(&mut Settings), streams: u32) -> (Arc<Apns>, Arc<Net>, support::Peer) {
    let (apns, net) = sender(change);
    let first = start(&apns, 0);
    let mut peer = net.peer(streams).await;
    let (stream, _) = peer.request().await;
    peer.accept(stream).await;
    assert!(is_accepted(&first.await.unwrap()));
    (apns, net, peer)
}

#[tokio::test(start_paused = true)]
async fn trial_10_after_goaway_the_name_is_looked_up_again_and_the_unprocessed_are_resent_and_no_others() {
    let (apns, net, mut old) = proven(|_| (), 100).await;
    let answers: Vec<_> = (1..=10).map(|number| start(&apns, number)).collect();
    let mut streams = Vec::new();
    for _ in 0..10 {
        streams.push(old.request().await);
    }
    // The first four were processed, the rest was not.
    old.go_away(streams[3].0).await;
    let mut new = net.peer(100).await;
    assert_eq!(net.connects(), 2, "DNS is asked for each connection");
    let (stream, number) = new.request().await;
    assert_eq!(new.requests_now().await, [], "a new connection proves itself with one request");
    new.accept(stream).await;
    let mut resent = vec![number];
    for _ in 0..5 {
        let (stream, number) = new.request().await;
        resent.push(number);
        new.accept(stream).await;
    }
    resent.sort_unstable();
    let unprocessed: Vec<_> = streams[4..].iter().map(|(_, number)| *number).collect();
    assert_eq!(resent, unprocessed);
    // The old connection lives until its last answer.
    for (stream, _) in &streams[..4] {
        old.accept(*stream).await;
    }
    for answer in answers {
        assert!(is_accepted(&answer.await.unwrap()));
    }
    old.closed().await;
    assert_eq!(new.requests_now().await, []);
    let statistics = apns.statistics();
    assert_eq!((statistics.goaways, statistics.resent, statistics.opened, statistics.connections), (1, 6, 2, 1));
}

#[tokio::test(start_paused = true)]
async fn trial_10_an_idle_connection_that_received_goaway_is_replaced_before_anything_is_to_be_sent() {
    let (apns, net, old) = proven(|_| (), 100).await;
    old.go_away(1).await;
    let began = Instant::now();
    let new = net.peer(100).await;
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
    let served = new.serve();
    assert!(is_accepted(&start(&apns, 7).await.unwrap()));
    drop(apns);
    assert_eq!(served.await.unwrap(), [7]);
}

#[tokio::test(start_paused = true)]
async fn trial_10_a_provider_that_says_goaway_to_every_connection_is_not_hammered() {
    let (apns, net) = sender(|_| ());
    apns.start();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(600) {
        let peer = net.peer(100).await;
        peer.go_away(0).await;
    }
    assert!(net.connects() < 200, "{} connections in ten minutes", net.connects());
}

#[tokio::test(start_paused = true)]
async fn trial_11_after_two_hours_of_idling_one_push_goes_through_at_once() {
    let (apns, net, peer) = proven(|_| (), 100).await;
    let pings = peer.pings.clone();
    let served = peer.serve();
    sleep(Duration::from_secs(2 * 3600)).await;
    let began = Instant::now();
    assert!(is_accepted(&apns.send(push(7, Class::Call)).await));
    assert!(began.elapsed() < Duration::from_millis(10), "{:?}", began.elapsed());
    assert_eq!(net.connects(), 1);
    let pinged = pings.load(Ordering::SeqCst);
    assert!((110..=125).contains(&pinged), "about one ping a minute, not {pinged}");
    drop(apns);
    served.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn trial_11_a_connection_that_died_while_idling_was_replaced_long_before_the_push() {
    let (apns, net, peer) = proven(|_| (), 100).await;
    sleep(Duration::from_secs(3600)).await;
    peer.fall_silent();
    let served = net.peer(100).await.serve();
    sleep(Duration::from_secs(3600)).await;
    let began = Instant::now();
    assert!(is_accepted(&apns.send(push(7, Class::Call)).await));
    assert!(began.elapsed() < Duration::from_millis(10), "{:?}", began.elapsed());
    assert_eq!((net.connects(), apns.statistics().pings_missed), (2, 1));
    drop(apns);
    served.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn trial_11_a_connection_that_died_unnoticed_costs_a_second_and_no_push() {
    let (apns, net, mut peer) = proven(|_| (), 100).await;
    sleep(Duration::from_secs(50)).await;
    peer.fall_silent();
    let began = Instant::now();
    let answer = start_as(&apns, 7, Class::Call);
    let served = net.peer(100).await.serve();
    assert!(is_accepted(&answer.await.unwrap()), "it was not sent into the void");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(peer.requests_now().await, []);
    sleep(Duration::from_secs(10)).await;
    let statistics = apns.statistics();
    assert_eq!((statistics.connections, statistics.pings_missed), (1, 1));
    drop(apns);
    served.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn trial_18_a_new_connection_carries_one_request_until_the_token_was_accepted() {
    let (apns, net) = sender(|_| ());
    let answers: Vec<_> = (0..20).map(|number| start(&apns, number)).collect();
    let mut peer = net.peer(100).await;
    let (stream, _) = peer.request().await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(peer.requests_now().await, []);
    // Not the token that was wrong: the others may come.
    peer.refuse(stream, 400, r#"{"reason":"BadTopic"}"#).await;
    let mut came = 0;
    while came < 19 {
        let (stream, _) = peer.request().await;
        came += 1;
        if came == 1 {
            came += peer.requests_now().await.len();
            assert_eq!(came, 19);
        }
        peer.accept(stream).await;
    }
    assert_eq!(net.connects(), 1, "one connection is enough");
    drop(apns);
    drop(peer);
    for answer in answers {
        answer.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_finds_a_place_where_nothing_else_does_and_need_not_wait_for_a_new_connection_to_prove_itself() {
    let (apns, net, mut full) = proven(|_| (), 32).await;
    let answers: Vec<_> = (1..=60).map(|number| start(&apns, number)).collect();
    let mut streams = Vec::new();
    for _ in 0..30 {
        streams.push(full.request().await.0);
    }
    assert_eq!(full.requests_now().await, [], "two of 32 places are kept for calls");
    // Another connection is opened, and its first request is one that takes its time.
    let mut new = net.peer(32).await;
    let (slow, _) = new.request().await;
    let began = Instant::now();
    let call = start_as(&apns, 61, Class::Call);
    let (stream, number) = full.request().await;
    assert_eq!((number, began.elapsed()), (61, Duration::ZERO));
    full.accept(stream).await;
    assert!(is_accepted(&call.await.unwrap()));
    for stream in streams {
        full.accept(stream).await;
    }
    new.accept(slow).await;
    let served = [full.serve(), new.serve()];
    for answer in answers {
        assert!(is_accepted(&answer.await.unwrap()));
    }
    drop((apns, served));
}

#[tokio::test(start_paused = true)]
async fn a_first_request_that_is_not_answered_does_not_hold_up_a_call() {
    let (apns, net) = sender(|_| ());
    let first = start(&apns, 0);
    let mut peer = net.peer(100).await;
    let (stream, _) = peer.request().await;
    let began = Instant::now();
    let call = start_as(&apns, 1, Class::Call);
    let served = net.peer(100).await.serve();
    assert!(is_accepted(&call.await.unwrap()));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    peer.accept(stream).await;
    assert!(is_accepted(&first.await.unwrap()));
    peer.closed().await;
    assert_eq!((net.connects(), apns.statistics().connections), (2, 1), "one of them was sent home");
    drop(apns);
    served.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn trial_18_while_the_token_is_refused_it_stays_at_one_request() {
    let (apns, net) = sender(|_| ());
    let answers: Vec<_> = (0..5).map(|number| start(&apns, number)).collect();
    let mut peer = net.peer(100).await;
    for _ in 0..4 {
        let (stream, _) = peer.request().await;
        assert_eq!(peer.requests_now().await, []);
        peer.refuse(stream, 403, r#"{"reason":"InvalidProviderToken"}"#).await;
    }
    let (stream, _) = peer.request().await;
    peer.accept(stream).await;
    let mut names: Vec<_> = Vec::new();
    for answer in answers {
        names.push(answer.await.unwrap().name());
    }
    names.sort_unstable();
    assert_eq!(names, ["accepted", "credentials_expired", "credentials_expired", "credentials_expired", "credentials_expired"]);
    assert_eq!(apns.statistics().tokens_renewed, 0);
}

#[tokio::test(start_paused = true)]
async fn trial_18_an_expired_token_is_renewed_once_for_all_senders_and_the_pushes_are_sent_again() {
    let clock = VirtualClock::new();
    let settings = settings(&clock);
    let net = Net::new();
    let other_net = Net::new();
    let apns = Arc::new(Apns::new(settings.clone(), net.clone()).unwrap());
    let other = Arc::new(Apns::new(settings, other_net.clone()).unwrap());
    let first = start(&apns, 0);
    let mut peer = net.peer(100).await;
    let (stream, _) = peer.request().await;
    peer.accept(stream).await;
    assert!(is_accepted(&first.await.unwrap()));
    sleep(Duration::from_secs(21 * 60)).await;
    let answers: Vec<_> = (1..=5).map(|number| start(&apns, number)).collect();
    let mut streams = Vec::new();
    for _ in 0..5 {
        streams.push(peer.request().await.0);
    }
    for stream in streams {
        peer.refuse(stream, 403, r#"{"reason":"ExpiredProviderToken"}"#).await;
    }
    for _ in 0..5 {
        let (stream, _) = peer.request().await;
        peer.accept(stream).await;
    }
    for answer in answers {
        assert!(is_accepted(&answer.await.unwrap()));
    }
    assert_eq!((apns.statistics().tokens_renewed, other.statistics().tokens_renewed), (1, 1));
    // The new token is refused, too: it is not the token's age, and it is not renewed again.
    let answer = start(&apns, 6);
    let (stream, _) = peer.request().await;
    peer.refuse(stream, 403, r#"{"reason":"ExpiredProviderToken"}"#).await;
    let outcome = answer.await.unwrap();
    assert!(matches!(&outcome, Outcome::CredentialsExpired { reason } if reason.as_str().contains("clock")), "{outcome:?}");
    assert_eq!(apns.statistics().tokens_renewed, 1);
    // The other sender uses the same token; nothing is renewed for it.
    let answer = start(&other, 1);
    let mut peer = other_net.peer(100).await;
    let (stream, _) = peer.request().await;
    peer.accept(stream).await;
    assert!(is_accepted(&answer.await.unwrap()));
    assert_eq!(other.statistics().tokens_renewed, 1);
}

#[tokio::test(start_paused = true)]
async fn trial_20_a_token_that_is_gone_is_told_with_its_time() {
    let (apns, _, mut peer) = proven(|_| (), 100).await;
    let answer = start(&apns, 1);
    let (stream, _) = peer.request().await;
    peer.refuse(stream, 410, r#"{"reason":"Unregistered","timestamp":1767225600123}"#).await;
    let Outcome::TokenGone { since: Some(since), reason } = answer.await.unwrap() else { unreachable!("it is gone") };
    assert_eq!((since.to_string(), reason.as_str()), ("2026-01-01T00:00:00.123Z".to_owned(), "Unregistered"));
}

#[tokio::test(start_paused = true)]
async fn settings_are_obeyed_when_they_are_lowered_and_raised_in_flight() {
    let (apns, net, mut peer) = proven(|settings| settings.max_connections = 1, 10).await;
    let answers: Vec<_> = (1..=40).map(|number| start(&apns, number)).collect();
    let mut streams: Vec<_> = Vec::new();
    while streams.len() < 10 {
        streams.push(peer.request().await.0);
    }
    assert_eq!(peer.requests_now().await, []);
    peer.settings(3).await;
    assert_eq!(peer.event().await, Event::SettingsTaken);
    // Eight answers later two are left, which leaves room for one.
    for stream in streams.drain(..8) {
        peer.accept(stream).await;
    }
    streams.push(peer.request().await.0);
    assert_eq!(peer.requests_now().await, []);
    assert_eq!(apns.capacity().concurrent, 3);
    // None at all.
    peer.settings(0).await;
    assert_eq!(peer.event().await, Event::SettingsTaken);
    for stream in streams.drain(..) {
        peer.accept(stream).await;
    }
    assert_eq!(peer.requests_now().await, []);
    peer.settings(100).await;
    for _ in 0..29 {
        let (stream, _) = peer.request().await;
        peer.accept(stream).await;
    }
    for answer in answers {
        assert!(is_accepted(&answer.await.unwrap()));
    }
    assert_eq!((net.connects(), apns.statistics().resent), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_call_goes_before_all_that_waits() {
    let (apns, _net, mut peer) = proven(|settings| settings.max_connections = 1, 1).await;
    let mut answers = vec![start_as(&apns, 1, Class::Background)];
    let (stream, _) = peer.request().await;
    for (number, class) in [(2, Class::Background), (3, Class::Interactive), (4, Class::Background), (5, Class::Call), (6, Class::Call)] {
        answers.push(start_as(&apns, number, class));
        tokio::task::yield_now().await;
    }
    peer.accept(stream).await;
    let mut order = Vec::new();
    for _ in 0..5 {
        let (stream, number) = peer.request().await;
        order.push(number);
        peer.accept(stream).await;
    }
    assert_eq!(order, [5, 6, 3, 2, 4]);
    for answer in answers {
        assert!(is_accepted(&answer.await.unwrap()));
    }
}

#[tokio::test(start_paused = true)]
async fn full_connections_get_company_and_idle_company_is_sent_home() {
    let (apns, net, mut first) = proven(|settings| settings.max_connections = 3, 4).await;
    let answers: Vec<_> = (1..=30).map(|number| start(&apns, number)).collect();
    let mut others = Vec::new();
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut other = net.peer(4).await;
        let (stream, _) = other.request().await;
        other.accept(stream).await;
        for _ in 0..4 {
            streams.push((others.len(), other.request().await.0));
        }
        others.push(other);
    }
    sleep(Duration::from_secs(2)).await;
    assert_eq!((net.connects(), apns.statistics().connections, apns.statistics().in_flight), (3, 3, 12));
    for (other, stream) in streams {
        others[other].accept(stream).await;
    }
    let served: Vec<_> = others.into_iter().map(support::Peer::serve).collect();
    while let Ok((stream, _)) = timeout(Duration::from_millis(100), first.request()).await {
        first.accept(stream).await;
    }
    for answer in answers {
        assert!(is_accepted(&answer.await.unwrap()));
    }
    let first = first.serve();
    for served in served {
        served.await.unwrap();
    }
    assert_eq!((net.connects(), apns.statistics().connections), (3, 1));
    assert!(!first.is_finished());
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_request_at_its_deadline_and_not_the_connection() {
    let (apns, net, mut peer) = proven(|_| (), 100).await;
    let began = Instant::now();
    let answer = start(&apns, 1);
    let (stream, _) = peer.request().await;
    let outcome = answer.await.unwrap();
    assert!(matches!(outcome, Outcome::Unknown { .. }), "{outcome:?}");
    assert_eq!(began.elapsed().as_secs(), 15);
    assert_eq!(peer.event().await, Event::Reset(stream));
    assert!(peer.pings.load(Ordering::SeqCst) > 5, "it was asked whether it lives");
    // The answer comes too late and hurts nobody.
    peer.accept(stream).await;
    let answer = start(&apns, 2);
    let (stream, _) = peer.request().await;
    peer.accept(stream).await;
    assert!(is_accepted(&answer.await.unwrap()));
    assert_eq!(net.connects(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_half_open_connection_is_noticed_within_the_pings_deadline() {
    let (apns, net, mut peer) = proven(|_| (), 100).await;
    let began = Instant::now();
    let answer = start(&apns, 1);
    peer.request().await;
    peer.fall_silent();
    let outcome = answer.await.unwrap();
    assert!(matches!(outcome, Outcome::Unknown { .. }), "it may have been processed: {outcome:?}");
    assert!(began.elapsed() <= Duration::from_millis(5100), "{:?}", began.elapsed());
    let served = net.peer(100).await.serve();
    assert!(is_accepted(&start(&apns, 2).await.unwrap()));
    assert_eq!((net.connects(), apns.statistics().pings_missed), (2, 1));
    drop(apns);
    served.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_refused_stream_is_sent_again_and_another_reset_is_not() {
    let (apns, _net, mut peer) = proven(|_| (), 100).await;
    let answer = start(&apns, 1);
    for _ in 0..3 {
        let (stream, number) = peer.request().await;
        assert_eq!(number, 1);
        peer.reset(stream, REFUSED_STREAM).await;
    }
    let (stream, _) = peer.request().await;
    peer.accept(stream).await;
    assert!(is_accepted(&answer.await.unwrap()));
    let answer = start(&apns, 2);
    let (stream, _) = peer.request().await;
    peer.reset(stream, CANCEL).await;
    assert!(matches!(answer.await.unwrap(), Outcome::Unknown { .. }));
    assert_eq!(peer.requests_now().await, []);
    assert_eq!(apns.statistics().resent, 3);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_cut_in_the_middle_is_judged_by_its_status() {
    let (apns, net, mut peer) = proven(|_| (), 100).await;
    let answer = start(&apns, 1);
    let (stream, _) = peer.request().await;
    peer.head(stream, 413).await;
    peer.reset(stream, CANCEL).await;
    let outcome = answer.await.unwrap();
    assert!(matches!(&outcome, Outcome::BadPayload { reason } if reason.as_str() == "status 413"), "{outcome:?}");
    let answer = start(&apns, 2);
    let (stream, _) = peer.request().await;
    peer.head(stream, 200).await;
    drop(peer);
    assert!(is_accepted(&answer.await.unwrap()), "the provider said yes");
    net.peer(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_announces_its_shutdown_is_left() {
    let (apns, net, mut peer) = proven(|_| (), 100).await;
    let answer = start(&apns, 1);
    let (stream, _) = peer.request().await;
    peer.refuse(stream, 503, r#"{"reason":"Shutdown"}"#).await;
    assert!(matches!(answer.await.unwrap(), Outcome::RetryAfter { .. }));
    peer.closed().await;
    let served = net.peer(100).await.serve();
    assert!(is_accepted(&start(&apns, 2).await.unwrap()));
    drop(apns);
    served.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_a_connection_a_push_is_not_sent_and_says_why() {
    for hangs in [false, true] {
        let (apns, net) = sender(|settings| settings.connect_deadline = Duration::from_secs(3));
        let fault = if hangs { &net.hangs } else { &net.refuses };
        fault.store(true, Ordering::SeqCst);
        let began = Instant::now();
        let outcome = apns.send(push(1, Class::Call)).await;
        let Outcome::NotSent { reason } = &outcome else { unreachable!("it cannot have been sent: {outcome:?}") };
        assert!(reason.as_str().contains(if hangs { "within 3s" } else { "refused" }), "{reason}");
        assert_eq!(began.elapsed().as_secs(), 15);
        assert!(net.connects() < 20, "{} attempts in fifteen seconds", net.connects());
        assert!(!apns.capacity().connected);
        fault.store(false, Ordering::SeqCst);
        let answer = start(&apns, 2);
        let served = net.peer(100).await.serve();
        assert!(is_accepted(&answer.await.unwrap()));
        drop(apns);
        served.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_became_worthless_while_it_waited_is_not_sent() {
    let (apns, _net, mut peer) = proven(|settings| settings.max_connections = 1, 1).await;
    let first = start(&apns, 1);
    let (stream, _) = peer.request().await;
    let mut call = push(2, Class::Call);
    call.deadline = Some("2026-01-01T00:00:05Z".parse().unwrap());
    let call = tokio::spawn(apns.send(call));
    sleep(Duration::from_secs(6)).await;
    peer.accept(stream).await;
    assert!(is_accepted(&first.await.unwrap()));
    let outcome = call.await.unwrap();
    assert!(matches!(&outcome, Outcome::NotSent { reason } if reason.as_str().contains("deadline")), "{outcome:?}");
    assert_eq!(peer.requests_now().await, []);
}

#[tokio::test(start_paused = true)]
async fn pushes_that_are_given_up_leave_no_trace() {
    let (apns, _net, mut peer) = proven(|settings| (settings.max_connections, settings.max_waiting) = (1, 5), 2).await;
    let mut answers: Vec<_> = (1..=7).map(|number| start(&apns, number)).collect();
    let (first, _) = peer.request().await;
    peer.request().await;
    let outcome = start(&apns, 8).await.unwrap();
    assert!(matches!(&outcome, Outcome::NotSent { reason } if reason.as_str().contains("too many")), "{outcome:?}");
    let statistics = apns.statistics();
    assert_eq!((statistics.in_flight, statistics.waiting, statistics.limit), (2, 5, 2));
    for answer in answers.drain(1..).rev() {
        answer.abort();
        assert!(answer.await.is_err());
    }
    let statistics = apns.statistics();
    assert_eq!((statistics.in_flight, statistics.waiting), (1, 0));
    peer.accept(first).await;
    assert!(is_accepted(&answers.remove(0).await.unwrap()));
    assert_eq!(apns.statistics().in_flight, 0);
    assert_eq!(peer.requests_now().await, []);
}

#[tokio::test(start_paused = true)]
async fn closing_waits_for_answers_and_takes_nothing_new() {
    let (apns, net, mut peer) = proven(|settings| settings.max_connections = 1, 1).await;
    let answers = [start(&apns, 1), start(&apns, 2)];
    let (stream, _) = peer.request().await;
    let closing = tokio::spawn({
        let apns = apns.clone();
        async move { apns.close().await }
    });
    sleep(Duration::from_secs(1)).await;
    let outcome = start(&apns, 3).await.unwrap();
    assert!(matches!(&outcome, Outcome::NotSent { reason } if reason.as_str().contains("closed")), "{outcome:?}");
    assert!(!closing.is_finished());
    peer.accept(stream).await;
    let (stream, number) = peer.request().await;
    assert_eq!(number, 2, "what waited is sent");
    peer.accept(stream).await;
    for answer in answers {
        assert!(is_accepted(&answer.await.unwrap()));
    }
    assert_eq!(peer.event().await, Event::GoAway, "it says good-bye");
    drop(peer);
    closing.await.unwrap();
    sleep(Duration::from_secs(60)).await;
    assert_eq!((net.connects(), apns.statistics().connections), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_sender_ends_its_connections_and_those_who_wait() {
    let (apns, _net, mut peer) = proven(|settings| settings.max_connections = 1, 1).await;
    let on_its_way = start(&apns, 1);
    let waits = start(&apns, 2);
    peer.request().await;
    drop(apns);
    assert!(matches!(waits.await.unwrap(), Outcome::NotSent { .. }));
    assert!(matches!(on_its_way.await.unwrap(), Outcome::Unknown { .. }));
    peer.closed().await;
}

#[tokio::test(start_paused = true)]
async fn certificates_need_no_proof() {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec![]).unwrap().self_signed(&key).unwrap();
    let certificate = push_apns::Certificate::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap();
    let (apns, net) = sender(|settings| settings.auth = Auth::Certificate(Arc::new(certificate)));
    let answers: Vec<_> = (0..20).map(|number| start(&apns, number)).collect();
    let mut peer = net.peer(100).await;
    peer.request().await;
    sleep(Duration::from_millis(100)).await;
    assert_eq!(peer.requests_now().await.len(), 19);
    drop(apns);
    for answer in answers {
        answer.await.unwrap();
    }
}
