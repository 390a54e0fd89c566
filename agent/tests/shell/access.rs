//! Who is calling and what they may do, over a real Unix socket and real mutual TLS.

use std::{sync::Arc, time::Duration};

use ecss_switch::Domain;
use elph_agent::{
    access::{
        Access, Denied, ERROR_DOMAIN, Need, Peer,
        audit::{Audit, Command, Object},
    },
    config::{Config, Scope},
    health::Links,
    listen,
    telemetry::metrics::Metrics,
    tls::{self, ServerTls},
};
use http::Extensions;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
};
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, metadata::MetadataMap, transport::server::Connected};
use tonic_types::StatusExt;

use crate::support::{DEADLINE, Files, WHOLE, load};

fn domain(name: &str) -> Domain {
    Domain::parse(name).unwrap()
}

fn four() -> listen::Connections {
    listen::Connections::new(4, prometheus_client::metrics::gauge::Gauge::default())
}

/// A certificate authority and what it signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn sign(&self, dns: &[&str], uri: Option<&str>, common_name: &str) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(dns.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names.extend(uri.map(|uri| SanType::URI(uri.try_into().unwrap())));
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }
}

/// Grants added to the whole configuration.
fn with_grants(grants: &str) -> Config {
    load(&WHOLE.replace("[log]", &format!("{grants}\n[log]")))
}

fn grant(name: &str, who: &str, domains: &str, scopes: &str) -> String {
    format!("[[grants]]\nname = \"{name}\"\nwho = [{who}]\ndomains = {domains}\nscopes = {scopes}\n")
}

fn need<'a>(scope: Scope, mutating: bool, domain: Option<&'a Domain>) -> Need<'a> {
    Need { scope, mutating, domain }
}

/// What the server knows about a client that has connected to its Unix socket.
async fn over_unix() -> Extensions {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("grpc.sock");
    let listener = listen::bind_unix(&path, 0o660).await.unwrap();
    let stop = CancellationToken::new();
    let mut incoming = listen::unix(listener, four(), stop.clone());
    let _client = UnixStream::connect(&path).await.unwrap();
    let accepted = incoming.next().await.unwrap().unwrap();
    stop.cancel();
    let mut extensions = Extensions::new();
    extensions.insert(accepted.connect_info());
    extensions
}

#[tokio::test]
async fn a_process_is_known_by_its_peer_credentials_and_a_stranger_is_refused() {
    let extensions = over_unix().await;
    let uid = nix::unistd::getuid().as_raw();
    assert!(matches!(Peer::of(&extensions), Some(Peer::Process { uid: found, pid: Some(_), .. }) if found == uid));
    let none = MetadataMap::new();
    let known = Access::new(&with_grants(&grant("operator", &format!("{{ uid = {uid} }}"), "[\"*\"]", "[\"calls\"]"))).unwrap();
    let principal = known.authorize(&none, &extensions, need(Scope::Calls, true, None)).await.unwrap();
    assert_eq!(principal.caller(), "operator");
    let other = format!("{{ uid = {} }}, {{ gid = 64999 }}, {{ user = \"no-such-user\" }}", uid + 1);
    let unknown = Access::new(&with_grants(&grant("other", &other, "[\"*\"]", "[\"calls\"]"))).unwrap();
    let denied = unknown.authorize(&none, &extensions, need(Scope::Calls, false, None)).await.unwrap_err();
    assert_eq!(denied, Denied::CallerUnknown);
    let denied = known.authorize(&none, &Extensions::new(), need(Scope::Calls, false, None)).await.unwrap_err();
    assert_eq!(denied, Denied::CallerUnknown, "a connection that says nothing about its peer");
}

#[tokio::test]
async fn a_grant_gives_its_scopes_in_its_domains_and_nothing_else() {
    let extensions = over_unix().await;
    let who = format!("{{ uid = {} }}", nix::unistd::getuid().as_raw());
    let access = Access::new(&with_grants(&grant("biysk", &who, "[\"biysk.local\"]", "[\"calls\", \"events:read\"]"))).unwrap();
    let none = MetadataMap::new();
    let (own, foreign) = (domain("biysk.local"), domain("barnaul.local"));
    let principal = access.authorize(&none, &extensions, need(Scope::Calls, true, Some(&own))).await.unwrap();

    let refused: [(Need<'_>, Code, &str); 4] = [
        (need(Scope::Calls, false, Some(&foreign)), Code::PermissionDenied, "DOMAIN_NOT_GRANTED"),
        (need(Scope::Events, true, Some(&own)), Code::PermissionDenied, "MISSING_SCOPE"),
        (need(Scope::Conferences, false, Some(&own)), Code::PermissionDenied, "MISSING_SCOPE"),
        (need(Scope::Admin, false, None), Code::PermissionDenied, "MISSING_SCOPE"),
    ];
    for (need, code, reason) in refused {
        let status = Status::from(access.authorize(&none, &extensions, need).await.unwrap_err());
        let info = status.get_details_error_info().unwrap();
        assert_eq!((status.code(), info.reason.as_str(), info.domain.as_str()), (code, reason, ERROR_DOMAIN), "{need:?}");
    }
    assert!(access.authorize(&none, &extensions, need(Scope::Events, false, Some(&own))).await.is_ok());

    // Two tenants never see each other: lists and streams go through the filter.
    let filter = principal.domains();
    assert!(filter.contains(&own) && !filter.contains(&foreign));
    assert_eq!(filter.narrowed("biysk", &[]).unwrap(), *filter);
    assert!(matches!(filter.narrowed("biysk", &[own.clone(), foreign]), Err(Denied::DomainNotGranted { .. })));
    assert!(!filter.contains(&domain("unserved.local")));
}

#[tokio::test]
async fn reloaded_grants_hold_for_the_next_request() {
    let extensions = over_unix().await;
    let who = format!("{{ uid = {} }}", nix::unistd::getuid().as_raw());
    let access = Access::new(&with_grants(&grant("x", &who, "[\"*\"]", "[\"calls\"]"))).unwrap();
    let none = MetadataMap::new();
    assert!(access.authorize(&none, &extensions, need(Scope::Calls, true, None)).await.is_ok());
    access.reload(&with_grants(&grant("x", &who, "[\"*\"]", "[\"calls:read\"]"))).unwrap();
    assert!(access.authorize(&none, &extensions, need(Scope::Calls, true, None)).await.is_err());
    assert!(access.authorize(&none, &extensions, need(Scope::Calls, false, None)).await.is_ok());
}

/// A mutual-TLS listener with its files.
struct Server {
    files: Files,
    authority: Authority,
    tls: Arc<ServerTls>,
    incoming: listen::Incoming<tokio_rustls::server::TlsStream<TcpStream>>,
    address: std::net::SocketAddr,
    _stop: tokio_util::sync::DropGuard,
}

impl Server {
    async fn new() -> Self {
        let authority = Authority::new();
        let files = Files::new("");
        let (certificate, key) = authority.sign(&["agent.example"], None, "agent");
        files.write("server.pem", certificate.pem());
        files.write("server.key", key.serialize_pem());
        files.write("clients.pem", &authority.pem);
        let tls = Arc::new(ServerTls::new(Self::read(&files)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let incoming = listen::tls(listener, tls.clone(), Duration::from_millis(500), four(), stop.clone());
        Self { files, authority, tls, incoming, address, _stop: stop.drop_guard() }
    }

    fn read(files: &Files) -> tls::Material {
        let path = |name| files.directory.path().join(name);
        let text = format!(
            "listen = \"127.0.0.1:1\"\ncertificate_file = {:?}\nkey_file = {:?}\nclient_ca_file = {:?}\n[http]",
            path("server.pem"),
            path("server.key"),
            path("clients.pem")
        );
        tls::server_config(&load(&WHOLE.replace("[http]", &text)).grpc).unwrap().unwrap()
    }

    /// Connects with a certificate and shows what the server then knows, and the certificate that the server showed.
    async fn connect(&mut self, client: Option<&(rcgen::Certificate, KeyPair)>) -> Option<(Extensions, CertificateDer<'static>)> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates([pem(&self.authority.pem)]);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        let config = match client {
            Some((certificate, key)) => {
                let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
                builder.with_client_auth_cert(vec![certificate.der().clone()], key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("agent.example").unwrap();
        let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        // The server's refusal of a certificate comes with the first read.
        stream.write_all(b"x").await.ok()?;
        tokio::select! {
            accepted = self.incoming.next() => {
                let mut extensions = Extensions::new();
                extensions.insert(accepted?.unwrap().connect_info());
                let shown = stream.get_ref().1.peer_certificates()?.first()?.clone().into_owned();
                Some((extensions, shown))
            }
            read = stream.read_u8() => { assert!(read.is_err()); None }
        }
    }
}

fn pem(text: &str) -> CertificateDer<'static> {
    use rustls_pki_types::pem::PemObject;
    CertificateDer::from_pem_slice(text.as_bytes()).unwrap()
}

#[tokio::test]
async fn a_client_certificate_is_known_by_dns_uri_common_name_or_fingerprint() {
    let mut server = Server::new().await;
    let uri = "spiffe://elph/suite";
    let suite = server.authority.sign(&["suite.example"], Some(uri), "Suite 1");
    let (extensions, _) = server.connect(Some(&suite)).await.unwrap();
    let Some(Peer::Certificate(names)) = Peer::of(&extensions) else { panic!("no certificate") };
    let whos = [
        "{ dns = \"SUITE.example\" }".to_owned(),
        format!("{{ uri = \"{uri}\" }}"),
        "{ common_name = \"Suite 1\" }".to_owned(),
        format!("{{ fingerprint = \"{}\" }}", names.fingerprint),
    ];
    let none = MetadataMap::new();
    for who in whos {
        let access = Access::new(&with_grants(&grant("suite", &who, "[\"*\"]", "[\"calls\"]"))).unwrap();
        let principal = access.authorize(&none, &extensions, need(Scope::Calls, true, None)).await.unwrap();
        assert_eq!(principal.caller(), "suite", "{who}");
        assert!(principal.peer.to_string().starts_with("certificate=suite.example (sha256 "));
    }
    for who in ["{ uid = 0 }", "{ dns = \"example\" }", "{ common_name = \"suite.example\" }", "{ uri = \"spiffe://elph\" }"] {
        let access = Access::new(&with_grants(&grant("suite", who, "[\"*\"]", "[\"calls\"]"))).unwrap();
        assert!(access.authorize(&none, &extensions, need(Scope::Calls, true, None)).await.is_err(), "{who}");
    }
}

#[tokio::test]
async fn no_certificate_a_foreign_one_and_a_silent_peer_do_not_get_in_and_hold_nobody_up() {
    let mut server = Server::new().await;
    // As many as half the connections allowed say nothing.
    let _silent = [TcpStream::connect(server.address).await.unwrap(), TcpStream::connect(server.address).await.unwrap()];
    assert!(server.connect(None).await.is_none());
    let foreign = Authority::new().sign(&["suite.example"], None, "suite");
    assert!(server.connect(Some(&foreign)).await.is_none());
    let good = server.authority.sign(&["suite.example"], None, "suite");
    assert!(tokio::time::timeout(DEADLINE, server.connect(Some(&good))).await.unwrap().is_some());
}

#[tokio::test]
async fn replaced_certificate_files_serve_new_connections_and_bad_ones_are_refused() {
    let mut server = Server::new().await;
    let client = server.authority.sign(&["suite.example"], None, "suite");
    let (_, before) = server.connect(Some(&client)).await.unwrap();
    let (certificate, key) = server.authority.sign(&["agent.example"], None, "agent");
    server.files.write("server.pem", certificate.pem());
    let fault = tls::server_config(&{
        let path = |name: &str| server.files.directory.path().join(name);
        let mut grpc = load(WHOLE).grpc;
        (grpc.certificate_file, grpc.key_file) = (Some(path("server.pem")), Some(path("server.key")));
        grpc.client_ca_file = Some(path("clients.pem"));
        grpc
    });
    assert!(matches!(fault, Err(("key_file", what)) if what.contains("does not fit grpc.certificate_file")));
    server.files.write("server.key", key.serialize_pem());
    server.tls.replace(Server::read(&server.files));
    let (_, after) = server.connect(Some(&client)).await.unwrap();
    assert_ne!(before, after);
    assert_eq!(after, *certificate.der());
    assert!(server.tls.current().expires_at > 0);
}

#[tokio::test]
async fn a_socket_left_by_a_dead_process_is_replaced_and_a_live_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("grpc.sock");
    drop(listen::bind_unix(&path, 0o600).await.unwrap());
    let live = listen::bind_unix(&path, 0o660).await.unwrap();
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    assert_eq!(listen::bind_unix(&path, 0o660).await.unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    drop(live);
}

#[tokio::test]
async fn each_command_leaves_one_private_audit_line_with_numbers_shortened_and_rotation_is_followed() {
    use std::os::unix::fs::PermissionsExt;
    let files = Files::new("");
    let path = files.directory.path().join("audit.jsonl");
    let config = load(&format!("{WHOLE}\n[audit]\ntarget = \"file\"\nfile = {path:?}\n"));
    let metrics = Metrics::new(Arc::new(Links::default()));
    let audit = Audit::start(&config.audit, false, &metrics).unwrap();

    let extensions = over_unix().await;
    let uid = nix::unistd::getuid().as_raw();
    let access = Access::new(&with_grants(&grant("operator", &format!("{{ uid = {uid} }}"), "[\"*\"]", "[\"calls\"]"))).unwrap();
    let mut metadata = MetadataMap::new();
    metadata.insert("elph-actor", "boss".parse().unwrap());
    let own = domain("biysk.local");
    let principal = access.authorize(&metadata, &extensions, need(Scope::Calls, true, Some(&own))).await.unwrap();
    assert_eq!(principal.actor, None, "metadata alone proves nothing");
    let command = Command {
        method: "CallService/Make",
        domain: Some(&own),
        objects: vec![
            Object { field: "call_id", value: "c-1", sensitive: false },
            Object { field: "to", value: "79131234567", sensitive: true },
        ],
        request_id: "r-1",
        outcome: "PERMISSION_DENIED",
        reason: Some("MISSING_SCOPE"),
    };
    audit.record(&principal, &command);
    audit.finish(DEADLINE).await;
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("79131234567"), "{text}");
    let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
    assert_eq!(line["caller"], "operator");
    assert!(line["peer"].as_str().unwrap().starts_with(&format!("uid={uid} pid=")));
    assert_eq!((&line["claimed_actor"], &line["actor"]), (&"boss".into(), &serde_json::Value::Null));
    assert_eq!(line["objects"], serde_json::json!({ "call_id": "c-1", "to": "79…67" }));
    assert_eq!(
        (&line["request_id"], &line["outcome"], &line["reason"]),
        (&"r-1".into(), &"PERMISSION_DENIED".into(), &"MISSING_SCOPE".into())
    );
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    std::fs::rename(&path, files.directory.path().join("audit.1")).unwrap();
    audit.reopen();
    // A refused command is written down, too: who tried, and why not.
    let denied = access.authorize(&metadata, &extensions, need(Scope::Push, true, Some(&own))).await.unwrap_err();
    audit.record_denied(&access, &metadata, &extensions, &denied, &command);
    audit.finish(DEADLINE).await;
    let text = std::fs::read_to_string(&path).unwrap();
    let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
    assert_eq!((&line["caller"], &line["outcome"]), (&"operator".into(), &"PERMISSION_DENIED".into()));
    assert_eq!((metrics.audit_records.get(), metrics.audit_dropped.get()), (2, 0));
}

#[tokio::test]
async fn a_stuck_audit_target_costs_records_that_are_counted_but_never_time() {
    let files = Files::new("");
    let path = files.directory.path().join("audit.fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    // A reader that reads nothing: the pipe fills.
    use std::os::unix::fs::OpenOptionsExt;
    let reader = std::fs::OpenOptions::new().read(true).custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits()).open(&path).unwrap();
    let config = load(&format!("{WHOLE}\n[audit]\ntarget = \"file\"\nfile = {path:?}\n"));
    let metrics = Metrics::new(Arc::new(Links::default()));
    let audit = Audit::start(&config.audit, false, &metrics).unwrap();
    let extensions = over_unix().await;
    let who = format!("{{ uid = {} }}", nix::unistd::getuid().as_raw());
    let access = Access::new(&with_grants(&grant("operator", &who, "[\"*\"]", "[\"calls\"]"))).unwrap();
    let principal = access.authorize(&MetadataMap::new(), &extensions, need(Scope::Calls, true, None)).await.unwrap();
    let long = "x".repeat(1000);
    let command = Command { method: &long, domain: None, objects: vec![], request_id: "r", outcome: "OK", reason: None };
    let begun = std::time::Instant::now();
    for _ in 0..6000 {
        audit.record(&principal, &command);
    }
    assert!(begun.elapsed() < DEADLINE);
    assert!(metrics.audit_dropped.get() > 0);
    assert_eq!(metrics.audit_dropped.get() + metrics.audit_records.get(), 6000);
    drop(reader);
}
