//! The client against a service in memory, in virtual time.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{io::ErrorKind, sync::Arc, time::Duration};

use bytes::Bytes;
use http::Request;
use push_core::{Class, connect::HostPort};
use push_http::{
    Answer, Failure, Limits, Message, Origin, Pool,
    double::{Double, Reply},
};
use tokio::time::Instant;

fn origin() -> Origin {
    Origin { secure: true, at: HostPort { host: "service.example".to_owned(), port: 443 } }
}

fn pool(double: &Double, limits: Limits) -> Pool {
    Pool::new(origin(), Arc::new(double.clone()), limits)
}

fn message(path: &str) -> Option<Message> {
    let request = Request::post(format!("https://service.example/{path}")).body(()).unwrap();
    Some((request, Bytes::from_static(b"{}")))
}

async fn send(pool: &Pool, class: Class, path: &'static str) -> Result<Answer, Failure> {
    pool.ask(class).send(|| message(path)).await
}

fn echo() -> Double {
    Double::new(|_| Reply::answer(200, "fine"))
}

#[tokio::test(start_paused = true)]
async fn a_request_is_answered_and_the_connection_is_used_again() {
    let double = echo();
    let pool = pool(&double, Limits::default());
    for _ in 0..3 {
        let answer = send(&pool, Class::Call, "x").await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.body.as_ref()), (200, b"fine".as_slice()));
    }
    assert_eq!(double.connections().len(), 1);
    assert_eq!(pool.load(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn no_more_requests_are_under_way_than_the_peers_settings_allow_and_calls_go_first() {
    let double = Double::new(|_| Reply::answer(200, "").later(Duration::from_millis(40)));
    double.max_streams(2);
    let pool = pool(&double, Limits { connections: 1, ..Limits::default() });
    let mut sends = Vec::new();
    for path in ["bg1", "bg2", "bg3", "bg4"] {
        sends.push(tokio::spawn(pool.ask(Class::Background).send(move || message(path))));
    }
    double.wait_for(2).await;
    sends.push(tokio::spawn(pool.ask(Class::Interactive).send(|| message("chat"))));
    sends.push(tokio::spawn(pool.ask(Class::Call).send(|| message("call"))));
    for send in sends {
        assert!(send.await.unwrap().is_ok());
    }
    let order: Vec<_> = double.got().iter().map(|got| got.head.uri.path().to_owned()).collect();
    assert_eq!(order.get(2..4).unwrap(), ["/call", "/chat"], "{order:?}");
    assert_eq!((double.most_at_once(), double.connections().len(), pool.capacity().concurrent), (2, 1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_full_connection_gets_help_from_others_up_to_the_bound_and_they_are_closed_when_idle() {
    let double = Double::new(|_| Reply::answer(200, "").later(Duration::from_millis(40)));
    double.max_streams(2);
    let pool = pool(&double, Limits { connections: 3, ..Limits::default() });
    let sends: Vec<_> = (0..20).map(|_| tokio::spawn(pool.ask(Class::Background).send(|| message("x")))).collect();
    for send in sends {
        assert!(send.await.unwrap().is_ok());
    }
    assert_eq!((double.connections().len(), double.most_at_once()), (3, 6));
    assert_eq!(pool.capacity().concurrent, 6);
    tokio::time::sleep(Duration::from_secs(400)).await;
    assert_eq!(double.connections().len(), 3);
    assert!(send(&pool, Class::Call, "x").await.is_ok());
    assert_eq!(double.connections().len(), 3, "one of them was kept");
}

#[tokio::test(start_paused = true)]
async fn trial_11_after_two_hours_of_silence_a_request_goes_through_at_once() {
    let double = echo();
    let pool = pool(&double, Limits::default());
    assert!(send(&pool, Class::Call, "x").await.is_ok());
    tokio::time::sleep(Duration::from_secs(7200)).await;
    let began = Instant::now();
    assert!(send(&pool, Class::Call, "x").await.is_ok());
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(double.connections().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn trial_11_a_connection_that_died_silently_is_found_by_its_ping_and_replaced_while_nobody_waits() {
    let double = echo();
    let pool = pool(&double, Limits::default());
    assert!(send(&pool, Class::Call, "x").await.is_ok());
    double.freeze();
    tokio::time::sleep(Duration::from_secs(70)).await;
    assert_eq!(double.connections().len(), 2);
    let began = Instant::now();
    assert!(send(&pool, Class::Call, "x").await.is_ok());
    assert_eq!((began.elapsed(), double.got().last().unwrap().connection), (Duration::ZERO, 2));
}

#[tokio::test(start_paused = true)]
async fn a_request_on_a_connection_that_dies_silently_ends_unknown_long_before_its_deadline() {
    let double = Double::new(|_| Reply::Silence);
    let pool = pool(&double, Limits::default());
    let began = Instant::now();
    let asked = tokio::spawn(pool.ask(Class::Call).send(|| message("x")));
    double.wait_for(1).await;
    double.freeze();
    assert!(matches!(asked.await.unwrap(), Err(Failure::Unknown(_))));
    assert!(began.elapsed() <= Duration::from_secs(11), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_service_that_never_answers_but_lives_costs_the_request_and_not_the_connection() {
    let double = Double::new(|got| if got.head.uri.path() == "/never" { Reply::Silence } else { Reply::answer(200, "") });
    let pool = pool(&double, Limits::default());
    let began = Instant::now();
    let never = send(&pool, Class::Call, "never").await;
    assert!(matches!(&never, Err(Failure::Unknown(reason)) if reason.as_str().contains("no answer within 20 s")), "{never:?}");
    assert_eq!(began.elapsed(), Duration::from_secs(20));
    assert!(send(&pool, Class::Call, "x").await.is_ok());
    assert_eq!(double.connections().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn trial_10_a_connection_that_got_goaway_is_left_drained_and_replaced_with_a_new_look_up() {
    let double = Double::new(|got| match got.head.uri.path() {
        "/slow" => Reply::answer(200, "slow").later(Duration::from_secs(3)),
        _ => Reply::answer(200, ""),
    });
    let pool = pool(&double, Limits::default());
    let slow = tokio::spawn(pool.ask(Class::Call).send(|| message("slow")));
    double.wait_for(1).await;
    double.go_away();
    // The next request must not go to the old connection, although that still lives; it need not wait for a new one either.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!((double.connections().len(), pool.capacity().connected), (2, true));
    assert!(send(&pool, Class::Call, "x").await.is_ok());
    assert_eq!(double.got().last().unwrap().connection, 2);
    assert_eq!(slow.await.unwrap().unwrap().body, "slow");
    tokio::time::sleep(Duration::from_secs(6 * 3600)).await;
    assert!(send(&pool, Class::Call, "x").await.is_ok());
    assert_eq!(double.connections().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_connection_cut_in_the_middle_leaves_its_requests_unknown_and_the_next_gets_a_new_one() {
    let double = Double::new(|got| if got.connection == 1 { Reply::Silence } else { Reply::answer(200, "") });
    let pool = pool(&double, Limits::default());
    let asked = tokio::spawn(pool.ask(Class::Call).send(|| message("x")));
    double.wait_for(1).await;
    double.cut();
    assert!(matches!(asked.await.unwrap(), Err(Failure::Unknown(_))));
    assert!(send(&pool, Class::Call, "x").await.is_ok());
    assert_eq!(double.got().len(), 2, "what may have been processed is not repeated");
}

#[tokio::test(start_paused = true)]
async fn a_refused_stream_is_repeated_but_not_for_ever() {
    let double = Double::new(|_| Reply::Refuse);
    let pool = pool(&double, Limits::default());
    assert!(matches!(send(&pool, Class::Call, "x").await, Err(Failure::NotSent(_))));
    assert_eq!(double.got().len(), 3);
    let once = std::sync::atomic::AtomicBool::new(true);
    let double =
        Double::new(move |_| if once.swap(false, std::sync::atomic::Ordering::Relaxed) { Reply::Refuse } else { Reply::answer(200, "") });
    let pool = self::pool(&double, Limits::default());
    assert!(send(&pool, Class::Call, "x").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_service_that_cannot_be_reached_is_told_at_once_and_tried_again_with_growing_waits() {
    let double = echo();
    double.unreachable(Some(ErrorKind::ConnectionRefused));
    let pool = pool(&double, Limits { warm: false, ..Limits::default() });
    let began = Instant::now();
    let failed = send(&pool, Class::Call, "x").await;
    assert!(matches!(&failed, Err(Failure::NotSent(reason)) if reason.as_str().contains("service.example")), "{failed:?}");
    assert_eq!(began.elapsed(), Duration::ZERO);
    for _ in 0..20 {
        assert!(send(&pool, Class::Call, "x").await.is_err());
    }
    let waits: Vec<_> = double.connections().windows(2).map(|pair| pair[1].1 - pair[0].1).collect();
    assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(10)) && waits.last().unwrap() >= &Duration::from_secs(5), "{waits:?}");
    double.unreachable(None);
    assert!(send(&pool, Class::Call, "x").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn connecting_and_waiting_for_room_have_their_deadlines() {
    let double = echo();
    double.unresponsive(true);
    let pool = pool(&double, Limits::default());
    let began = Instant::now();
    assert!(matches!(send(&pool, Class::Call, "x").await, Err(Failure::NotSent(_))));
    assert_eq!(began.elapsed(), Duration::from_secs(10));

    let stuck = Double::new(|_| Reply::Silence);
    stuck.max_streams(1);
    let limits = Limits { connections: 1, answer: Duration::from_secs(60), waiting: 1, ..Limits::default() };
    let pool = self::pool(&stuck, limits);
    let first = tokio::spawn(pool.ask(Class::Call).send(|| message("x")));
    stuck.wait_for(1).await;
    let began = Instant::now();
    let second = pool.ask(Class::Call).send(|| message("x"));
    let third = pool.ask(Class::Call).send(|| message("x"));
    assert!(matches!(third.await, Err(Failure::NotSent(reason)) if reason.as_str().contains("too many")));
    assert!(matches!(second.await, Err(Failure::NotSent(reason)) if reason.as_str().contains("no room")));
    assert_eq!((began.elapsed(), pool.load()), (Duration::from_secs(15), (1, 0)));
    first.abort();
}

#[tokio::test(start_paused = true)]
async fn a_body_without_end_is_read_up_to_the_bound() {
    let double = Double::new(|_| Reply::answer(502, vec![b'x'; 1 << 20]));
    let pool = pool(&double, Limits::default());
    let answer = send(&pool, Class::Call, "x").await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.body.len()), (502, 64 * 1024));
    for _ in 0..40 {
        assert!(send(&pool, Class::Call, "x").await.is_ok());
    }
    assert_eq!(double.connections().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_may_be_withdrawn_when_there_is_room_for_it() {
    let double = echo();
    let pool = pool(&double, Limits::default());
    assert_eq!(pool.ask(Class::Call).send(|| None).await.unwrap_err(), Failure::Withdrawn);
    assert_eq!((double.got().len(), pool.load()), (0, (0, 0)));
}

#[tokio::test(start_paused = true)]
async fn closing_answers_what_is_under_way_and_refuses_the_rest() {
    let double = Double::new(|_| Reply::answer(200, "").later(Duration::from_secs(5)));
    double.max_streams(1);
    let pool = pool(&double, Limits { connections: 1, ..Limits::default() });
    let under_way = tokio::spawn(pool.ask(Class::Background).send(|| message("x")));
    double.wait_for(1).await;
    let waiting = tokio::spawn(pool.ask(Class::Call).send(|| message("x")));
    tokio::task::yield_now().await;
    let began = Instant::now();
    pool.close().await;
    assert_eq!(began.elapsed(), Duration::from_secs(5));
    assert!(under_way.await.unwrap().is_ok());
    assert!(matches!(waiting.await.unwrap(), Err(Failure::NotSent(_))));
    assert!(matches!(send(&pool, Class::Call, "x").await, Err(Failure::NotSent(_))));
    assert_eq!(double.connections().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn dropping_requests_gives_their_room_back() {
    let double = Double::new(|got| if got.head.uri.path() == "/never" { Reply::Silence } else { Reply::answer(200, "") });
    double.max_streams(1);
    let pool = pool(&double, Limits { connections: 1, ..Limits::default() });
    let under_way = tokio::spawn(pool.ask(Class::Background).send(|| message("never")));
    double.wait_for(1).await;
    let waiting = pool.ask(Class::Background);
    drop(waiting);
    under_way.abort();
    assert!(send(&pool, Class::Call, "x").await.is_ok());
    assert_eq!(pool.load(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_closes_every_connection_at_once_is_not_hammered() {
    let double = echo();
    let pool = pool(&double, Limits::default());
    assert!(send(&pool, Class::Call, "x").await.is_ok());
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(600) {
        double.cut();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let connections = double.connections().len();
    assert!((5..60).contains(&connections), "{connections}");
}
