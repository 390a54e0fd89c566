//! What comes from outside: bad paths, bad requests, lies, slow and greedy clients.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout},
};

use crate::harness::{DEADLINE, Door, copy, eventually, header, nginx, status};

#[tokio::test(flavor = "multi_thread")]
async fn paths_with_two_readings_and_what_is_inside_never_reach_a_service() {
    if !nginx() {
        return;
    }
    let copy = copy().await;
    let door = Door::open(&[&copy], "").await;
    for (path, expected) in [
        ("/elph_chat/rooms?a=/../b", 200),
        ("/elph_chat/.well-known/x", 200),
        ("/", 404),
        ("/elph_chatter/", 404),
        ("/metrics", 404),
        ("/status", 404),
        ("/generation", 404),
        ("/elph_chat/metrics", 404),
        ("/elph_chat/Metrics/", 404),
        ("/elph_chat/healthz?x", 404),
        ("/elph_chat/readyz/deep", 404),
        ("/elph_chat/%6detrics", 404),
        ("/elph_chat/../metrics", 400),
        ("/elph_chat/x/..", 400),
        ("/elph_chat/./x", 400),
        ("/elph_chat/%2e%2e/x", 400),
        ("/elph_chat/.%2E/x", 400),
        ("/elph_chat/..%2fx", 400),
        ("/elph_chat/..;/x", 400),
        ("/elph_chat/%252e%252e/x", 400),
        ("/elph_chat//x", 400),
        ("//elph_chat/x", 400),
        ("/elph_chat\\..\\x", 400),
        ("/elph_chat/%5c..", 400),
        ("/elph_chat/a%00b", 400),
        ("/elph_chat/%00", 400),
        ("/elph_chat/a%0d%0ab", 400),
        ("/elph_chat/a%09b", 400),
        ("/elph_chat/..%00/", 400),
        ("/elph_chat/%2E", 400),
        ("/elph_chat/..", 400),
        ("/elph_chat/.;/x", 400),
        ("/elph_chat/x;/../y", 400),
        ("/elph_chat/%3b..%3b/x", 400),
        ("/elph_chat/%c0%ae%c0%ae/x", 400),
        ("/elph_chat/%uff0e%uff0e/x", 400),
        ("/elph_chat%2fx", 400),
        ("/%65lph_chat/x", 200),
        ("/elph_admin/", 404),
        ("/internal/", 404),
        ("/.elph/problem/502", 404),
        ("/.well-known/acme-challenge/x", 404),
    ] {
        let before = copy.seen.load(Ordering::Relaxed);
        let answer = door.get(path).await;
        assert_eq!(status(&answer), expected, "{path}\n{answer}");
        let reached = copy.seen.load(Ordering::Relaxed) - before;
        assert_eq!(reached, u64::from(expected == 200), "{path}");
        if expected != 200 {
            assert!(answer.contains("application/problem+json") && answer.contains("\"request_id\":\""), "{path}\n{answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_and_smuggled_requests_are_refused_and_what_follows_them_is_not_executed() {
    if !nginx() {
        return;
    }
    let copy = copy().await;
    let door = Door::open(&[&copy], "").await;
    let inner = "GET /elph_chat/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let post = "POST /elph_chat/x HTTP/1.1\r\nHost: localhost\r\n";
    let long = "a".repeat(9000);
    for (name, request, expected) in [
        ("both lengths", format!("{post}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"), 400),
        ("two lengths", format!("{post}Content-Length: 0\r\nContent-Length: 60\r\n\r\n{inner}"), 400),
        ("a length with a sign", format!("{post}Content-Length: +5\r\n\r\n{inner}"), 400),
        ("an unknown coding", format!("{post}Transfer-Encoding: xchunked\r\n\r\n{inner}"), 501),
        ("two codings", format!("{post}Transfer-Encoding: chunked, identity\r\n\r\n{inner}"), 501),
        ("a coding in HTTP/1.0", format!("POST /elph_chat/x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"), 400),
        ("a space before the colon", format!("{post}Content-Length : 5\r\n\r\n{inner}"), 400),
        ("a bad chunk", format!("{post}Transfer-Encoding: chunked\r\n\r\nZZ\r\n{inner}"), 400),
        ("two hosts", "GET /elph_chat/x HTTP/1.1\r\nHost: localhost\r\nHost: other\r\n\r\n".to_owned(), 400),
        ("no host", "GET /elph_chat/x HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("a tunnel", "CONNECT localhost:22 HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 400),
        ("a trace", "TRACE /elph_chat/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_owned(), 405),
        ("a long line", format!("GET /elph_chat/{long} HTTP/1.1\r\nHost: localhost\r\n\r\n"), 414),
        ("a long header", format!("GET /elph_chat/x HTTP/1.1\r\nHost: localhost\r\nx: {long}\r\n\r\n"), 431),
        ("a large body", format!("{post}Content-Length: 2000000\r\nConnection: close\r\n\r\n"), 413),
        ("nonsense", "\r\n\r\nnonsense\r\n\r\n".to_owned(), 400),
    ] {
        let answer = door.raw(&request).await.unwrap();
        assert_eq!(status(&answer), expected, "{name}\n{answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{name}: one answer and no second\n{answer}");
        assert!(answer.contains("application/problem+json") || answer.starts_with("HTTP/1.1 405"), "{name}\n{answer}");
        assert_eq!(copy.seen.load(Ordering::Relaxed), 0, "{name}: nothing reaches the service");
    }
    // What can be read in one way alone is passed on in nginx's own words, and whatever stands in it stays inside it.
    for (name, request) in [
        ("lines that end with a line feed alone", format!("GET /elph_chat/one HTTP/1.1\nHost: localhost\nConnection: close\n\n{inner}")),
        (
            "a chunk with an extension",
            format!("{post}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n3;x=\"y\"\r\nabc\r\n0\r\n\r\n{inner}"),
        ),
        ("a chunked body that holds a request", {
            let body = format!("{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len());
            format!("{post}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n{body}")
        }),
        ("a coding in capitals", format!("{post}Connection: close\r\nTransfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n{inner}")),
        ("a trailer that would be a header", {
            format!("{post}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n{inner}")
        }),
        (
            "a folded line",
            format!("GET /elph_chat/one HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: a\r\n Content-Length: 60\r\n\r\n{inner}"),
        ),
        ("a tab before the coding", format!("{post}Connection: close\r\nTransfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n{inner}")),
        (
            "a coding behind a broken name",
            format!("{post}Connection: close\r\nContent-Length: 0\r\nTransfer_Encoding: chunked\r\n\r\n{inner}"),
        ),
        (
            "a body in a GET",
            format!(
                "GET /elph_chat/one HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{inner}",
                inner.len()
            ),
        ),
    ] {
        let answer = door.raw(&request).await.unwrap();
        assert!([200, 400, 501].contains(&status(&answer)), "{name}\n{answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{name}: one answer and no second\n{answer}");
        assert!(!answer.contains("6.6.6.6"), "{name}\n{answer}");
        let asked = copy.asked();
        assert!(asked.len() <= 1 && asked.iter().all(|path| !path.contains("smuggled")), "{name}: {asked:?}");
    }
    // What was passed on leaves the connection to the service clean: the next request gets its own answer.
    for number in 0..20 {
        let answer = door.get(&format!("/elph_chat/next{number}")).await;
        assert!(answer.contains(&format!("GET /elph_chat/next{number}\n")), "{answer}");
    }
    // Absolute form: the host of the line counts, the path is judged like any other.
    let absolute = door.raw("GET http://localhost/metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    assert_eq!(status(&absolute), 404);
    let absolute =
        door.raw("GET http://other/elph_chat/../metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    assert_eq!(status(&absolute), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_sees_what_is_known_of_the_client_and_not_what_it_claims_and_the_log_holds_no_token() {
    if !nginx() {
        return;
    }
    let copy = copy().await;
    let door = Door::open(&[&copy], "").await;
    let answer = door
        .raw(
            "GET /elph_chat/x?token=s3cret HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n\
             X-Real-IP: 6.6.6.6\r\nX-Original-URL: /elph_admin/\r\nX-Request-Id: mine\r\nX_Forwarded_For: 6.6.6.6\r\n\
             Upgrade: h2c\r\nHTTP2-Settings: x\r\nAuthorization: Bearer s3cret\r\nCookie: s=s3cret\r\n\
             Referer: https://a/?s3cret\r\nConnection: close, X-Forwarded-For\r\n\r\n",
        )
        .await
        .unwrap();
    assert_eq!(status(&answer), 200, "{answer}");
    assert!(answer.contains("x-forwarded-for: 127.0.0.1") && answer.contains("x-forwarded-proto: https"), "{answer}");
    assert!(answer.contains("authorization: Bearer s3cret"), "the service gets its token\n{answer}");
    let lower = answer.to_lowercase();
    for gone in ["6.6.6.6", "x-original-url", "mine", "\nupgrade:", "h2c", "http2-settings"] {
        assert!(!lower.contains(gone), "{gone}\n{answer}");
    }
    for header in ["Strict-Transport-Security:", "X-Content-Type-Options: nosniff", "X-Frame-Options:", "Referrer-Policy:", "X-Request-Id:"]
    {
        assert!(answer.contains(header), "{header}\n{answer}");
    }
    copy.task.abort();
    let _ = door.get("/elph_chat/y?token=s3cret").await;
    let log = door.directory.path().join("access.log");
    eventually("two lines", async || std::fs::read_to_string(&log).unwrap_or_default().lines().count() >= 2).await;
    let text = std::fs::read_to_string(&log).unwrap();
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["service"], "chat");
    }
    assert!(!text.contains("s3cret") && !door.log().contains("s3cret"), "{text}\n{}", door.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_its_header_slowly_is_cut_off() {
    if !nginx() {
        return;
    }
    let copy = copy().await;
    let door = Door::open(&[&copy], "[limits]\nheader_timeout = \"1s\"").await;
    let mut stream = door.connect().await.unwrap();
    let begun = Instant::now();
    let mut byte = [0; 1];
    loop {
        if stream.write_all(b"G").await.is_err() {
            break;
        }
        match timeout(Duration::from_millis(100), stream.read(&mut byte)).await {
            Ok(Ok(0) | Err(_)) => break,
            _ => assert!(begun.elapsed() < Duration::from_secs(10), "still open"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_its_body_slowly_or_takes_nothing_is_cut_off() {
    if !nginx() {
        return;
    }
    let copy = copy().await;
    let door = Door::open(&[&copy], "[limits]\nbody_timeout = \"1s\"\nsend_timeout = \"1s\"").await;
    let mut stream = door.connect().await.unwrap();
    stream.write_all(b"POST /elph_chat/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc").await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("the slow sender is cut off");
    assert!(copy.asked().is_empty(), "nothing of it reaches the service");
    // Takes the beginning of a large answer, and no more.
    let mut stream = door.connect().await.unwrap();
    stream.write_all(b"GET /elph_chat/large HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    stream.read_exact(&mut [0; 1000]).await.unwrap();
    eventually("cut off", async || {
        let log = door.access_log();
        log.lines().any(|line| line.contains("/elph_chat/large"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_gets_its_rate_and_is_told_when_to_come_back_and_exempt_ones_get_more() {
    if !nginx() {
        return;
    }
    let copy = copy().await;
    let door = Door::open(&[&copy], "[limits]\nrate = { per_second = 1, burst = 5 }").await;
    let mut told = 0;
    for _ in 0..12 {
        let answer = door.get("/elph_chat/x").await;
        match status(&answer) {
            200 => {}
            429 => {
                assert_eq!(header(&answer, "retry-after"), Some("1"), "{answer}");
                assert!(answer.contains("application/problem+json") && answer.contains("\"status\":429"), "{answer}");
                told += 1;
            }
            other => panic!("{other}\n{answer}"),
        }
    }
    assert!(told >= 3, "{told}");
    assert_eq!(copy.asked().len(), 12 - told);
    drop(door);
    let exempt = "[limits]\nrate = { per_second = 1, burst = 5 }\nexempt = [\"127.0.0.0/8\"]";
    let door = Door::open(&[&copy], exempt).await;
    for _ in 0..12 {
        assert_eq!(status(&door.get("/elph_chat/x").await), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_one_id_at_the_door_at_the_service_and_in_the_log_and_is_counted_by_service_and_class() {
    if !nginx() {
        return;
    }
    let copy = copy().await;
    let door = Door::open(&[&copy], "").await;
    let answer = door.get("/elph_chat/x?code=s3cret").await;
    let id = header(&answer, "x-request-id").unwrap();
    assert!(id.len() == 32 && answer.contains(&format!("x-request-id: {id}\n")), "{answer}");
    eventually("logged", async || door.access_log().contains(&format!("\"request_id\":\"{id}\""))).await;
    assert_eq!(status(&door.get("/nothing").await), 404);
    assert_eq!(status(&door.get("/elph_chat//x").await), 400);
    door.measures("elph_proxy_service_requests_total{service=\"chat\",class=\"2xx\"} 1").await;
    door.measures("elph_proxy_service_requests_total{service=\"none\",class=\"4xx\"} 2").await;
    let metrics = door.own("/metrics").await;
    for name in [
        "elph_proxy_connections{state=\"active\"}",
        "elph_proxy_upstream_up{",
        "elph_proxy_certificate_expiry_seconds ",
        "elph_proxy_nginx_up 1",
    ] {
        assert!(metrics.contains(name), "{name}\n{metrics}");
    }
    assert!(!metrics.contains("s3cret") && !door.access_log().contains("s3cret") && !door.log().contains("s3cret"));
    // The log is renamed, as logrotate does it: counting goes on in the new one.
    std::fs::rename(door.directory.path().join("access.log"), door.directory.path().join("access.log.1")).unwrap();
    door.signal(nix::sys::signal::Signal::SIGUSR1);
    eventually("a new log", async || door.directory.path().join("access.log").exists()).await;
    assert_eq!(status(&door.get("/elph_chat/y").await), 200);
    door.measures("elph_proxy_service_requests_total{service=\"chat\",class=\"2xx\"} 2").await;
}
