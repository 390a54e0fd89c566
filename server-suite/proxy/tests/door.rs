//! The real elph-proxy with the real nginx: routes, bad requests, reloads, fail-over. Skipped where nginx is not installed, unless
//! `ELPH_TEST_TOOLS=required`.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "tests: a failed one is a failed test")]

use std::{
    net::{SocketAddr, TcpListener as Std},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::{Request, ws::WebSocketUpgrade},
    response::IntoResponse,
    routing::get,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

const DEADLINE: Duration = Duration::from_secs(30);

struct Door {
    child: Child,
    directory: tempfile::TempDir,
    address: SocketAddr,
    metrics: SocketAddr,
}

/// A service: answers what it was asked, line by line.
struct Copy {
    address: SocketAddr,
    seen: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

fn nginx() -> bool {
    let there = Path::new("/usr/sbin/nginx").exists();
    assert!(there || std::env::var_os("ELPH_TEST_TOOLS").is_none_or(|tools| tools != "required"), "nginx is required here");
    if !there {
        eprintln!("skipped: nginx is not installed");
    }
    there
}

fn free() -> SocketAddr {
    Std::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn copy_at(address: SocketAddr) -> Copy {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(AtomicU64::new(0));
    let counted = seen.clone();
    let told = move |request: Request| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move {
            let mut text = format!("{} {}\n", request.method(), request.uri());
            for (name, value) in request.headers() {
                text.push_str(&format!("{name}: {}\n", value.to_str().unwrap_or("?")));
            }
            text
        }
    };
    let websocket = async |upgrade: WebSocketUpgrade| {
        upgrade
            .on_upgrade(async |mut socket| {
                while let Some(Ok(message)) = socket.recv().await {
                    if socket.send(message).await.is_err() {
                        break;
                    }
                }
            })
            .into_response()
    };
    let router = Router::new().route("/readyz", get(async || "ok")).route("/elph_chat/ws", get(websocket)).fallback(told);
    let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    Copy { address, seen, task }
}

async fn copy() -> Copy {
    copy_at(SocketAddr::from(([127, 0, 0, 1], 0))).await
}

fn certificate(directory: &Path) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(directory.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(directory.join("cert.pem"), made.cert.pem()).unwrap();
}

async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let until = Instant::now() + DEADLINE;
    while !condition().await {
        assert!(Instant::now() < until, "never: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

impl Door {
    async fn open(copies: &[&Copy], more: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        certificate(directory.path());
        let (address, metrics) = (free(), free());
        let door_toml = Self::toml(directory.path(), address, metrics, copies, more);
        std::fs::write(directory.path().join("proxy.toml"), door_toml).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_elph-proxy"))
            .args(["run", "--config"])
            .arg(directory.path().join("proxy.toml"))
            .stderr(Stdio::from(std::fs::File::create(directory.path().join("log")).unwrap()))
            .spawn()
            .unwrap();
        let door = Self { child, directory, address, metrics };
        eventually("ready", async || door.own("/readyz").await.starts_with("HTTP/1.1 200")).await;
        door
    }

    fn toml(directory: &Path, address: SocketAddr, metrics: SocketAddr, copies: &[&Copy], more: &str) -> String {
        let upstreams: Vec<String> = copies.iter().map(|copy| format!("\"{}\"", copy.address)).collect();
        let at = directory.display();
        format!(
            "[listen]\naddresses = [\"{address}\"]\ncertificate_file = \"{at}/cert.pem\"\nkey_file = \"{at}/key.pem\"\n\
             certificate_check = \"1s\"\n[access_log]\nfile = \"{at}/access.log\"\nbuffer = 0\n[metrics]\nlisten = \"{metrics}\"\n\
             [nginx]\ndirectory = \"{at}/run\"\nworkers = 2\nconnections = 512\nuser = \"root\"\n\
             [checks]\ninterval = \"200ms\"\ntimeout = \"200ms\"\nsettle = \"200ms\"\n{more}\n\
             [[services]]\nname = \"chat\"\nupstreams = [{}]\n",
            upstreams.join(", ")
        )
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    async fn own(&self, path: &str) -> String {
        let asked = async {
            let mut stream = TcpStream::connect(self.metrics).await.ok()?;
            stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await.ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            Some(answer)
        };
        asked.await.unwrap_or_default()
    }

    async fn connect(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let pem = std::fs::read(self.directory.path().join("cert.pem")).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let stream = TcpStream::connect(self.address).await?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await
    }

    /// Sends bytes, and gives everything that comes until the connection is closed.
    async fn raw(&self, bytes: &str) -> std::io::Result<String> {
        let mut stream = self.connect().await?;
        stream.write_all(bytes.as_bytes()).await?;
        let mut answer = Vec::new();
        // nginx closes without a TLS goodbye when it resets.
        let _ = timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("the connection is closed in time");
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    async fn get(&self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        self.raw(&request).await.unwrap_or_else(|error| error.to_string())
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

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
        assert_eq!(copy.seen.load(Ordering::Relaxed), 0, "{name}: nothing reaches the service");
    }
    // Absolute form: the host of the line counts, the path is judged like any other.
    let absolute = door.raw("GET http://localhost/metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    assert_eq!(status(&absolute), 404);
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
        std::fs::write(&path, Door::toml(door.directory.path(), door.address, door.metrics, &[&copy], &more)).unwrap();
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
