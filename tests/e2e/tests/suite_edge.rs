//! The one port of the suite: TLS with both versions of HTTP, certificates that change, clients that are slow, too many, or up to no good.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use e2e::{
    PATIENCE, Stack, StackOptions, eventually,
    guard::{Authority, Signed},
    suite::Suite,
};
use elph_kit_testing::TestDatabase;
use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const NAME: &str = "suite.example";
const OPEN: &str = "/elph_status/openapi.json";

fn database(place: &TestDatabase) -> String {
    format!("[database]\nurl = \"{}\"\n", place.settings.url)
}

/// A client that trusts one authority and keeps its connections.
fn client(suite: &Suite, authority: &Authority, only_one: bool) -> anyhow::Result<reqwest::Client> {
    let trusted = reqwest::Certificate::from_pem(authority.pem.as_bytes())?;
    let builder = reqwest::Client::builder().tls_certs_only([trusted]).resolve(NAME, suite.public()).timeout(PATIENCE);
    Ok(if only_one { builder.http1_only() } else { builder }.build()?)
}

fn address(suite: &Suite) -> String {
    format!("https://{NAME}:{}{OPEN}", suite.public().port())
}

#[tokio::test]
async fn one_port_speaks_both_versions_of_http_over_tls_and_a_new_certificate_disturbs_nobody() -> anyhow::Result<()> {
    let stack = Stack::start(StackOptions::default()).await?;
    let (place, files) = (TestDatabase::sqlite()?, tempfile::tempdir()?);
    let (certificate, key) = (files.path().join("cert.pem"), files.path().join("key.pem"));
    let write = |signed: &Signed| -> anyhow::Result<()> {
        std::fs::write(&certificate, &signed.certificate)?;
        Ok(std::fs::write(&key, &signed.key)?)
    };
    let (first, second) = (Authority::new()?, Authority::new()?);
    write(&first.sign(NAME)?)?;
    let tls = format!("[http]\ncertificate_file = \"{}\"\nkey_file = \"{}\"\n", certificate.display(), key.display());
    let suite = Suite::start(&stack, &[stack.domain()], &format!("{}{tls}", database(&place))).await?;
    let old = client(&suite, &first, false)?;
    let response = old.get(address(&suite)).send().await?;
    ensure!((response.version(), response.status().as_u16()) == (reqwest::Version::HTTP_2, 200), "{response:?}");
    ensure!(response.headers().contains_key("x-request-id") && response.headers()["x-content-type-options"] == "nosniff", "{response:?}");
    response.bytes().await?;
    let response = client(&suite, &first, true)?.get(address(&suite)).send().await?;
    ensure!((response.version(), response.status().as_u16()) == (reqwest::Version::HTTP_11, 200), "{response:?}");

    write(&second.sign(NAME)?)?;
    suite.signal(Signal::SIGHUP)?;
    let renewed = async || {
        let new = client(&suite, &second, false).ok()?;
        new.get(address(&suite)).send().await.ok()
    };
    eventually("new connections see the new certificate", renewed).await?;
    ensure!(client(&suite, &first, false)?.get(address(&suite)).send().await.is_err(), "and no longer the old one");
    ensure!(old.get(address(&suite)).send().await?.status() == 200, "who was connected stays so");
    // One that cannot be read changes nothing.
    std::fs::write(&certificate, "no certificate")?;
    suite.signal(Signal::SIGHUP)?;
    eventually("it is refused", async || suite.log().contains("the new certificate is refused").then_some(())).await?;
    ensure!(renewed().await.is_some());
    stack.stop().await
}

#[tokio::test]
async fn slow_clients_are_closed_and_hold_up_nobody() -> anyhow::Result<()> {
    let stack = Stack::start(StackOptions::default()).await?;
    let place = TestDatabase::sqlite()?;
    let http = "[http]\nheader_timeout = \"1s\"\nmax_connections = 40\n";
    let suite = Suite::start(&stack, &[stack.domain()], &format!("{}{http}", database(&place))).await?;
    let began = Instant::now();
    let mut slow = Vec::new();
    for number in 0..30 {
        let mut stream = TcpStream::connect(suite.public()).await?;
        // Some say nothing at all.
        let said = if number % 3 == 0 { "" } else { "GET /elph_status/openapi.json HTTP/1.1\r\nHost: x\r\nX-A: " };
        stream.write_all(said.as_bytes()).await?;
        slow.push(stream);
    }
    ensure!(suite.request("GET", OPEN, None)?.send().await?.status() == 200, "others are served meanwhile");
    for mut stream in slow {
        let mut answer = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut answer)).await.context("a slow client is not closed")?.ok();
        ensure!(!answer.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&answer));
    }
    ensure!(began.elapsed() >= Duration::from_millis(900), "nobody is closed before the time is over");
    // More than there are places for.
    let mut many = Vec::new();
    for _ in 0..60 {
        many.push(TcpStream::connect(suite.public()).await?);
    }
    let refused = async || {
        let (_, metrics) = suite.inside("/metrics").await.ok()?;
        let count = metrics.lines().find_map(|line| line.strip_prefix("elph_server_connections_refused_total "))?;
        count.parse::<u64>().ok().filter(|count| *count >= 19)
    };
    eventually("those beyond the limit are refused and counted", refused).await?;
    drop(many);
    let served = async || suite.request("GET", OPEN, None).ok()?.send().await.ok().filter(|response| response.status() == 200);
    eventually("afterwards there is room again", served).await?;
    stack.stop().await
}

#[tokio::test]
async fn malformed_and_smuggled_requests_are_refused_and_what_follows_them_is_not_served() -> anyhow::Result<()> {
    let stack = Stack::start(StackOptions::default()).await?;
    let place = TestDatabase::sqlite()?;
    let suite = Suite::start(&stack, &[stack.domain()], &database(&place)).await?;
    let inner = "GET /elph_status/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n";
    let post = |fields: &str, body: &str| format!("POST /elph_status/v1/users/lookup HTTP/1.1\r\nHost: x\r\n{fields}\r\n{body}");
    let huge = format!("GET {OPEN} HTTP/1.1\r\nHost: x\r\nX-A: {}\r\n\r\n", "a".repeat(1 << 20));
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(1 << 17));
    let many = format!("GET {OPEN} HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(1000));
    for (what, request) in [
        ("both lengths", post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", &format!("0\r\n\r\n{inner}"))),
        ("two lengths", post("Content-Length: 3\r\nContent-Length: 60\r\n", &format!("abc{inner}"))),
        ("a length with a sign", post("Content-Length: +3\r\n", &format!("abc{inner}"))),
        ("a length in a list", post("Content-Length: 3, 4\r\n", &format!("abc{inner}"))),
        ("a coding that is none", post("Transfer-Encoding: xchunked\r\n", &format!("0\r\n\r\n{inner}"))),
        ("a coding twice", post("Transfer-Encoding: chunked, identity\r\n", &format!("0\r\n\r\n{inner}"))),
        ("a blank before the colon", post("Content-Length : 3\r\n", &format!("abc{inner}"))),
        ("a folded field", post("X-A: b\r\n Content-Length: 3\r\n", inner)),
        ("a chunk that is none", post("Transfer-Encoding: chunked\r\n", &format!("zz\r\nabc\r\n0\r\n\r\n{inner}"))),
        ("a control character", "GET /elph\x01 HTTP/1.1\r\nHost: x\r\n\r\n".to_owned()),
        ("no version", "GET /elph_status/openapi.json\r\nHost: x\r\n\r\n".to_owned()),
        ("another protocol", "\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03".to_owned()),
        ("a field of a mebibyte", huge),
        ("an address of 128 KiB", long),
        ("a thousand fields", many),
    ] {
        let mut stream = TcpStream::connect(suite.public()).await?;
        // It may be closed while we write.
        let _closed = stream.write_all(request.as_bytes()).await;
        let _closed = stream.shutdown().await;
        let mut answer = Vec::new();
        let _reset = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.with_context(|| format!("{what}: not closed"))?;
        let text = String::from_utf8_lossy(&answer);
        ensure!(!text.contains("HTTP/1.1 2") && !text.contains("\"openapi\""), "{what}: {text}");
    }
    ensure!(suite.request("GET", OPEN, None)?.send().await?.status() == 200);
    stack.stop().await
}

/// Everything that comes back for these octets.
async fn raw(suite: &Suite, request: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(suite.public()).await?;
    // It may be closed while we write.
    let _closed = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _reset = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.with_context(|| format!("not closed: {request}"))?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test]
async fn no_way_of_writing_a_path_leads_inside_or_past_a_prefix_and_what_stands_in_a_body_stays_there() -> anyhow::Result<()> {
    let stack = Stack::start(StackOptions::default()).await?;
    let place = TestDatabase::sqlite()?;
    let suite = Suite::start(&stack, &[stack.domain()], &database(&place)).await?;
    for path in [
        "/metrics",
        "/healthz",
        "/readyz",
        "/elph_status/metrics",
        "/elph_status/../metrics",
        "/elph_status/./../metrics",
        "/elph_status/%2e%2e/metrics",
        "/elph_status/..%2fmetrics",
        "/elph_status/%252e%252e/metrics",
        "/elph_status/..;/metrics",
        "/elph_status/\\..\\metrics",
        "/elph_status/%5c../metrics",
        "/%6detrics",
        "//metrics",
        "/elph_status//openapi.json",
        "//elph_status/openapi.json",
        "/elph_status%2fopenapi.json",
        "/elph_statusx/openapi.json",
        "/ELPH_STATUS/openapi.json",
        "/elph_status/openapi.json%00",
        "/elph_status/openapi.json;x",
        "/internal/",
        "http://x/metrics",
        "http://x/elph_status/../metrics",
        "http://127.0.0.1:9100/metrics",
    ] {
        let answer = raw(&suite, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await?;
        ensure!(answer.starts_with("HTTP/1.1 4"), "{path}: {answer}");
        ensure!(!answer.contains("elph_server_") && !answer.contains("\"openapi\""), "{path}: {answer}");
    }
    let inner = format!("GET {OPEN} HTTP/1.1\r\nHost: x\r\n\r\n");
    let post = "POST /elph_status/v1/users/lookup HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
    let held = format!("{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len());
    for (what, request) in [
        ("a chunk with an extension", format!("{post}Transfer-Encoding: chunked\r\n\r\n3;x=\"y\"\r\nabc\r\n0\r\n\r\n{inner}")),
        ("a chunked body that holds a request", format!("{post}Transfer-Encoding: chunked\r\n\r\n{held}")),
        ("a length that covers a request", format!("{post}Content-Length: {}\r\n\r\n{inner}", inner.len())),
        ("lines that end with a line feed alone", format!("{}\n{inner}", post.replace("\r\n", "\n"))),
        ("a trailer", format!("{post}Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 60\r\n\r\n{inner}")),
        ("a coding in capitals", format!("{post}Transfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n{inner}")),
        ("a broken name of the coding", format!("{post}Content-Length: 0\r\nTransfer_Encoding: chunked\r\n\r\n{inner}")),
    ] {
        let answer = raw(&suite, &request).await?;
        ensure!(answer.matches("HTTP/1.1 ").count() == 1 && !answer.contains("\"openapi\""), "{what}: {answer}");
    }
    let claimed = format!("GET {OPEN} HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine\r\nConnection: close\r\n\r\n");
    let answer = raw(&suite, &claimed).await?;
    ensure!(answer.starts_with("HTTP/1.1 200") && !answer.contains("x-request-id: mine\r\n"), "{answer}");
    stack.stop().await
}
