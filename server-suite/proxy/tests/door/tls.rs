//! TLS: who is let in with which name and version, HTTP/2, and the authority's word on the certificate.

use std::{path::Path, process::Command, sync::Arc};

use axum::{Router, http::Uri};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::net::TcpListener;

use crate::harness::{Copy, DEADLINE, Door, Tls, copy, header, nginx, status, there};

const OPENSSL: &str = "/usr/bin/openssl";

fn openssl(directory: &Path, arguments: &str) {
    let done = Command::new(OPENSSL).args(arguments.split(' ')).current_dir(directory).output().unwrap();
    assert!(done.status.success(), "{arguments}\n{}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_authority_s_word_on_the_certificate_is_stapled_and_nobody_waits_for_it() {
    if !nginx() || !there(OPENSSL) {
        return;
    }
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let place = directory.path().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let extensions = format!("subjectAltName=DNS:localhost\nauthorityInfoAccess=OCSP;URI:http://{}\n", listener.local_addr().unwrap());
    std::fs::write(place.join("extensions"), extensions).unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&place, &format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=authority -days 30"));
    openssl(&place, &format!("req {key} -keyout key.pem -out leaf.csr -subj /CN=localhost"));
    openssl(&place, "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -set_serial 0x1001 -days 20 -extfile extensions -out leaf.pem");
    let read = |name: &str| std::fs::read_to_string(place.join(name)).unwrap();
    std::fs::write(place.join("cert.pem"), format!("{}{}", read("leaf.pem"), read("ca.pem"))).unwrap();
    std::fs::write(place.join("index.txt"), "V\t361231000000Z\t\t1001\tunknown\t/CN=localhost\n").unwrap();

    let copy = copy().await;
    let listen = format!("ocsp_stapling = true\nocsp_ca_file = \"{}\"", place.join("ca.pem").display());
    let door = Door::open_in(directory.clone(), &[&copy], &listen, "").await;
    let said = || {
        let connected = Command::new(OPENSSL)
            .args(["s_client", "-connect", &door.address.to_string(), "-servername", "localhost", "-status", "-CAfile", "ca.pem"])
            .current_dir(&place)
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        String::from_utf8_lossy(&connected.stdout).into_owned()
    };
    // The authority does not answer yet: a handshake goes on without its word.
    let without = said();
    assert!(without.contains("OCSP response: no response sent") && without.contains("Verify return code: 0 (ok)"), "{without}");
    let at = place.clone();
    // nginx asks with GET (RFC 6960, A.1).
    let respond = async move |uri: Uri| {
        let encoded = uri.path().trim_start_matches('/').replace("%2B", "+").replace("%2F", "/").replace("%3D", "=");
        std::fs::write(at.join("request.der"), STANDARD.decode(encoded).unwrap()).unwrap();
        openssl(&at, "ocsp -index index.txt -CA ca.pem -rsigner ca.pem -rkey ca.key -ndays 1 -reqin request.der -respout response.der");
        ([("content-type", "application/ocsp-response")], std::fs::read(at.join("response.der")).unwrap())
    };
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(respond)).await.unwrap() });
    // nginx asks again a while after a failure; a reload asks at once.
    let body = |size: u32| format!("[limits]\nbody = {size}");
    let toml = Door::toml(&place, door.address, door.metrics, &[&copy], &listen, &body(200_000));
    std::fs::write(place.join("proxy.toml"), toml).unwrap();
    door.signal(nix::sys::signal::Signal::SIGHUP);
    door.measures("elph_proxy_reloads_total{cause=\"configuration\",outcome=\"applied\"} 1").await;
    let until = tokio::time::Instant::now() + DEADLINE;
    loop {
        let said = said();
        if said.contains("OCSP Response Status: successful") && said.contains("Cert Status: good") {
            break;
        }
        assert!(tokio::time::Instant::now() < until, "never stapled: {said}\n{}", door.log());
    }

    let metrics = door.own("/metrics").await;
    let expiry = metrics.lines().find_map(|line| line.strip_prefix("elph_proxy_certificate_expiry_seconds ")).unwrap();
    let left = expiry.parse::<i64>().unwrap() - jiff::Timestamp::now().as_second();
    assert!((19 * 86_400..=20 * 86_400).contains(&left), "{left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_names_that_are_listed_are_served() {
    if !nginx() {
        return;
    }
    let copy = copy().await;
    let directory = Arc::new(tempfile::tempdir().unwrap());
    crate::harness::certificate(directory.path());
    let door = Door::open_in(directory, &[&copy], "hosts = [\"localhost\"]", "").await;
    assert_eq!(status(&door.get("/elph_chat/x").await), 200);
    let other = Tls { name: "other.example", trusting: true, ..Tls::default() };
    assert!(door.connect_as(&other).await.is_err(), "no handshake for another name");
    let unnamed = Tls { name: "127.0.0.1", trusting: true, ..Tls::default() };
    assert!(door.connect_as(&unnamed).await.is_err(), "nor for none");
    for host in ["other.example", "localhost.other.example", "127.0.0.1"] {
        let answer = door.raw(&format!("GET /elph_chat/x HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await.unwrap();
        assert!([421, 400].contains(&status(&answer)) && answer.contains("application/problem+json"), "{host}\n{answer}");
    }
    assert_eq!(copy.asked(), ["/elph_chat/x"]);
}

async fn strictly(copy: &Copy) -> Door {
    let directory = Arc::new(tempfile::tempdir().unwrap());
    crate::harness::certificate(directory.path());
    Door::open_in(directory, &[copy], "profile = \"strict\"", "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_strict_profile_speaks_tls_1_3_alone_and_the_intermediate_one_also_1_2() {
    if !nginx() {
        return;
    }
    let copy = copy().await;
    let old = Tls { versions: vec![&rustls::version::TLS12], ..Tls::default() };
    let new = Tls { versions: vec![&rustls::version::TLS13], ..Tls::default() };
    let door = strictly(&copy).await;
    assert!(door.connect_as(&old).await.is_err());
    assert!(door.connect_as(&new).await.is_ok());
    drop(door);
    let door = Door::open(&[&copy], "").await;
    assert!(door.connect_as(&old).await.is_ok() && door.connect_as(&new).await.is_ok());
    if there(OPENSSL) {
        for version in ["-tls1", "-tls1_1"] {
            let tried = Command::new(OPENSSL)
                .args(["s_client", "-connect", &door.address.to_string(), version, "-cipher", "ALL:@SECLEVEL=0"])
                .stdin(std::process::Stdio::null())
                .output()
                .unwrap();
            assert!(!tried.status.success(), "{version}: {}", String::from_utf8_lossy(&tried.stdout));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_is_served_under_the_same_rules() {
    if !nginx() {
        return;
    }
    let copy = copy().await;
    let door = Door::open(&[&copy], "").await;
    let two = Tls { protocols: vec!["h2"], ..Tls::default() };
    let stream = door.connect_as(&two).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    // More than 8 KiB also as HPACK writes it.
    let long = "a".repeat(40_000);
    // Both sides of a literal `..` are the client's: it is sent as it is.
    for (path, name, value, expected) in [
        ("/elph_chat/x", "x-plain", "1", 200),
        ("/elph_chat/%2e%2e/x", "x-plain", "1", 400),
        ("/elph_chat//x", "x-plain", "1", 400),
        ("/metrics", "x-plain", "1", 404),
        ("/elph_chat/metrics", "x-plain", "1", 404),
        ("/elph_chat/y", "content-length", "4000000", 413),
        ("/elph_chat/x", "x-forwarded-for", "6.6.6.6", 200),
    ] {
        let request = http::Request::get(format!("https://localhost{path}")).header(name, value).body(()).unwrap();
        let (answer, mut body) = sender.send_request(request, expected != 413 || name != "content-length").unwrap();
        let answer = tokio::time::timeout(DEADLINE, answer).await.unwrap().unwrap();
        assert_eq!(answer.status().as_u16(), expected, "{path} {name}");
        assert!(answer.headers().contains_key("x-request-id") && answer.headers().contains_key("strict-transport-security"));
        let mut stream = answer.into_body();
        let mut text = Vec::new();
        while let Some(Ok(data)) = stream.data().await {
            let _ = stream.flow_control().release_capacity(data.len());
            text.extend_from_slice(&data);
        }
        body.send_reset(h2::Reason::NO_ERROR);
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(!text.contains("6.6.6.6"), "{text}");
        if expected != 200 {
            assert!(text.contains(&format!("\"status\":{expected}")), "{text}");
        }
    }
    assert_eq!(copy.asked(), ["/elph_chat/x", "/elph_chat/x"]);
    // A header that is too long ends the request or the connection, and nothing of it is passed on.
    let request = http::Request::get("https://localhost/elph_chat/x").header("x-long", &long).body(()).unwrap();
    if let Ok((answer, _)) = sender.send_request(request, true)
        && let Ok(Ok(answer)) = tokio::time::timeout(DEADLINE, answer).await
    {
        assert!([400, 431].contains(&answer.status().as_u16()), "{answer:?}");
    }
    assert_eq!(copy.asked(), [""; 0]);
    // Who knows HTTP/1.1 alone gets it.
    let one = Tls { protocols: vec!["http/1.1"], ..Tls::default() };
    let answer = door.raw_as(&one, "GET /elph_chat/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    assert!(status(&answer) == 200 && header(&answer, "x-request-id").is_some());
}
