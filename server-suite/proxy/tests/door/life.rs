//! Reloads, certificates that change, copies and nginxes that die: what goes on must go on.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::harness::{DEADLINE, Door, certificate, copy, copy_at, eventually, header, nginx, status};

#[tokio::test(flavor = "multi_thread")]
async fn fifty_reloads_under_load_fail_no_request_and_end_no_websocket_and_a_refused_configuration_changes_nothing() {
    if !nginx() {
        return;
    }
    let copy = copy().await;
    let door = Arc::new(Door::open(&[&copy], "").await);
    let stream = door.connect().await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async("wss://localhost/elph_chat/ws", stream).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let load = |_| {
        let (door, done) = (door.clone(), done.clone());
        tokio::spawn(async move {
            let (mut served, mut failed) = (0_u32, Vec::new());
            while !done.load(Ordering::Relaxed) {
                let answer = door.get("/elph_chat/x").await;
                if status(&answer) == 200 { served += 1 } else { failed.push(answer) }
            }
            (served, failed)
        })
    };
    let tasks: Vec<_> = (0..4).map(load).collect();
    let path = door.directory.path().join("proxy.toml");
    let applied = "elph_proxy_reloads_total{cause=\"configuration\",outcome=\"applied\"}";
    for turn in 1..=50 {
        let more = format!("[limits]\nbody = {}\n[limits.rate]\nper_second = 0\nburst = 0", 100_000 + turn);
        std::fs::write(&path, Door::toml(door.directory.path(), door.address, door.metrics, &[&copy], "", &more)).unwrap();
        door.signal(Signal::SIGHUP);
        let line = format!("{applied} {turn}\n");
        eventually(&line, async || door.own("/metrics").await.contains(&line)).await;
    }
    std::fs::write(&path, "[listen]\naddresses = 5\n").unwrap();
    door.signal(Signal::SIGHUP);
    eventually("refused", async || door.own("/metrics").await.contains("outcome=\"refused\"} 1\n")).await;
    done.store(true, Ordering::Relaxed);
    for task in tasks {
        let (served, failed) = task.await.unwrap();
        assert!(failed.is_empty() && served > 0, "{served} served, failed: {failed:?}\n{}", door.log());
    }
    use futures_util::{SinkExt, StreamExt};
    socket.send(tokio_tungstenite::tungstenite::Message::text("still there")).await.unwrap();
    let echoed = timeout(DEADLINE, socket.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(echoed.into_text().unwrap().as_str(), "still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_certificate_is_seen_by_new_connections() {
    if !nginx() {
        return;
    }
    let copy = copy().await;
    let door = Door::open(&[&copy], "").await;
    certificate(door.directory.path());
    // The client trusts the new certificate alone.
    eventually("the new certificate", async || status(&door.get("/elph_chat/x").await) == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_copy_dies_no_idempotent_request_fails_and_it_is_taken_out_and_comes_back() {
    if !nginx() {
        return;
    }
    let (one, two) = (copy().await, copy().await);
    let door = Door::open(&[&one, &two], "").await;
    let up = |value: u8| format!("copy=\"{}\"}} {value}\n", two.address);
    for _ in 0..20 {
        assert_eq!(status(&door.get("/elph_chat/x").await), 200);
    }
    two.task.abort();
    let gone = up(0);
    let until = Instant::now() + DEADLINE;
    while !door.own("/metrics").await.contains(&gone) {
        assert!(Instant::now() < until);
        let answer = door.get("/elph_chat/x").await;
        assert_eq!(status(&answer), 200, "{answer}");
    }
    let written = door.directory.path().join("run/nginx.conf");
    let dead = format!("# {} of", two.address);
    eventually("taken out", async || std::fs::read_to_string(&written).unwrap_or_default().contains(&dead)).await;
    let back = copy_at(two.address).await;
    eventually("taken in", async || !std::fs::read_to_string(&written).unwrap_or_default().contains(&dead)).await;
    eventually("served by it", async || {
        let answer = door.get("/elph_chat/x").await;
        assert_eq!(status(&answer), 200, "{answer}");
        back.seen.load(Ordering::Relaxed) > 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_nginx_is_started_again_and_sigterm_ends_both() {
    if !nginx() {
        return;
    }
    let copy = copy().await;
    let mut door = Door::open(&[&copy], "").await;
    let pid: i32 = std::fs::read_to_string(door.directory.path().join("run/nginx.pid")).unwrap().trim().parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    eventually("started again", async || door.own("/metrics").await.contains("elph_proxy_nginx_restarts_total 1\n")).await;
    eventually("served", async || status(&door.get("/elph_chat/x").await) == 200).await;
    door.signal(Signal::SIGTERM);
    let ended = door.child.wait().unwrap();
    assert!(ended.success(), "{}", door.log());
    assert!(TcpStream::connect(door.address).await.is_err(), "nobody listens");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_every_copy_is_dead_the_answer_is_503_with_a_time_to_come_back_and_the_first_one_back_is_found() {
    if !nginx() {
        return;
    }
    let (one, two) = (copy().await, copy().await);
    let door = Door::open(&[&one, &two], "").await;
    assert_eq!(status(&door.get("/elph_chat/x").await), 200);
    one.task.abort();
    two.task.abort();
    eventually("nobody listens", async || TcpStream::connect(one.address).await.is_err() && TcpStream::connect(two.address).await.is_err())
        .await;
    // Before the checks have noticed and after.
    let until = Instant::now() + DEADLINE;
    loop {
        let noticed = door.own("/readyz").await.contains("\"services_down\":[\"chat\"]");
        for method in ["GET", "POST"] {
            let request = format!("{method} /elph_chat/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let answer = door.raw(&request).await.unwrap();
            assert_eq!(status(&answer), 503, "{method} {noticed}\n{answer}");
            assert_eq!(header(&answer, "retry-after"), Some("5"), "{answer}");
            assert!(answer.contains("application/problem+json") && answer.contains("\"status\":503"), "{answer}");
        }
        if noticed {
            break;
        }
        assert!(Instant::now() < until, "never noticed");
    }
    let upgrade = "GET /elph_chat/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n\r\n";
    let answer = timeout(DEADLINE, door.raw(upgrade)).await.unwrap().unwrap();
    assert_eq!(status(&answer), 503, "{answer}");
    let _back = copy_at(two.address).await;
    eventually("served again", async || status(&door.get("/elph_chat/x").await) == 200).await;
}
