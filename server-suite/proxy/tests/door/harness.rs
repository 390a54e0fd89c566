//! A door to knock at: the real elph-proxy with the real nginx, copies of a service behind it, and clients.

use std::{
    net::{SocketAddr, TcpListener as Std},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, ws::WebSocketUpgrade},
    response::IntoResponse,
    routing::get,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use parking_lot::Mutex;
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// The door, and what it was opened with.
pub(crate) struct Door {
    pub(crate) child: Child,
    pub(crate) directory: Arc<tempfile::TempDir>,
    pub(crate) address: SocketAddr,
    pub(crate) metrics: SocketAddr,
}

/// A service: answers what it was asked, line by line.
pub(crate) struct Copy {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<AtomicU64>,
    /// What it was asked for, in order.
    pub(crate) paths: Arc<Mutex<Vec<String>>>,
    pub(crate) task: JoinHandle<()>,
}

/// How a client does TLS.
#[derive(Clone)]
pub(crate) struct Tls {
    pub(crate) name: &'static str,
    pub(crate) protocols: Vec<&'static str>,
    pub(crate) versions: Vec<&'static rustls::SupportedProtocolVersion>,
    /// Takes any certificate.
    pub(crate) trusting: bool,
}

/// Whether a program is there; it must be where tests require their tools.
pub(crate) fn there(program: &str) -> bool {
    let there = Path::new(program).exists();
    assert!(there || std::env::var_os("ELPH_TEST_TOOLS").is_none_or(|tools| tools != "required"), "{program} is required here");
    if !there {
        eprintln!("skipped: {program} is not installed");
    }
    there
}

pub(crate) fn nginx() -> bool {
    there("/usr/sbin/nginx")
}

pub(crate) fn free() -> SocketAddr {
    Std::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub(crate) async fn copy_at(address: SocketAddr) -> Copy {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, paths) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Vec::new())));
    let (counted, noted) = (seen.clone(), paths.clone());
    let told = move |request: Request| {
        counted.fetch_add(1, Ordering::Relaxed);
        noted.lock().push(request.uri().to_string());
        async move {
            let (head, body) = request.into_parts();
            let body = axum::body::to_bytes(body, 1 << 22).await.unwrap_or_default();
            let mut text = format!("{} {}\n", head.method, head.uri);
            for (name, value) in &head.headers {
                text.push_str(&format!("{name}: {}\n", value.to_str().unwrap_or("?")));
            }
            text.push_str(&format!("body of {}\n", body.len()));
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
    // More than all buffers on the way hold.
    let large = async || Body::from(vec![b'x'; 64 << 20]);
    let router = Router::new()
        .route("/readyz", get(async || "ok"))
        .route("/elph_chat/ws", get(websocket))
        .route("/elph_chat/large", get(large))
        .fallback(told);
    let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    Copy { address, seen, paths, task }
}

pub(crate) async fn copy() -> Copy {
    copy_at(SocketAddr::from(([127, 0, 0, 1], 0))).await
}

pub(crate) fn certificate(directory: &Path) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(directory.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(directory.join("cert.pem"), made.cert.pem()).unwrap();
}

pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let until = Instant::now() + DEADLINE;
    while !condition().await {
        assert!(Instant::now() < until, "never: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// The value of a header.
pub(crate) fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let head = answer.split("\r\n\r\n").next()?;
    head.lines().find_map(|line| line.split_once(": ").filter(|(held, _)| held.eq_ignore_ascii_case(name)).map(|(_, value)| value))
}

// === impl Copy ===

impl Copy {
    /// What it was asked for since the last time.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.paths.lock())
    }
}

// === impl Tls ===

impl Default for Tls {
    fn default() -> Self {
        Self { name: "localhost", protocols: Vec::new(), versions: rustls::ALL_VERSIONS.to_vec(), trusting: false }
    }
}

// === impl Door ===

impl Door {
    pub(crate) async fn open(copies: &[&Copy], more: &str) -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        certificate(directory.path());
        Self::open_in(directory, copies, "", more).await
    }

    /// With more keys in `[listen]`, and what is in the directory already.
    pub(crate) async fn open_in(directory: Arc<tempfile::TempDir>, copies: &[&Copy], listen: &str, more: &str) -> Self {
        Self::open_at(directory, free(), copies, listen, more).await
    }

    pub(crate) async fn open_at(
        directory: Arc<tempfile::TempDir>,
        address: SocketAddr,
        copies: &[&Copy],
        listen: &str,
        more: &str,
    ) -> Self {
        let metrics = free();
        let door_toml = Self::toml(directory.path(), address, metrics, copies, listen, more);
        std::fs::write(directory.path().join("proxy.toml"), door_toml).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_elph-proxy"))
            .args(["run", "--config"])
            .arg(directory.path().join("proxy.toml"))
            .stderr(Stdio::from(std::fs::OpenOptions::new().create(true).append(true).open(directory.path().join("log")).unwrap()))
            .spawn()
            .unwrap();
        let mut door = Self { child, directory, address, metrics };
        let until = Instant::now() + DEADLINE;
        while !door.own("/readyz").await.starts_with("HTTP/1.1 200") {
            assert!(door.child.try_wait().unwrap().is_none() && Instant::now() < until, "never ready: {}", door.log());
            sleep(Duration::from_millis(20)).await;
        }
        door
    }

    pub(crate) fn toml(directory: &Path, address: SocketAddr, metrics: SocketAddr, copies: &[&Copy], listen: &str, more: &str) -> String {
        let upstreams: Vec<String> = copies.iter().map(|copy| format!("\"{}\"", copy.address)).collect();
        let at = directory.display();
        format!(
            "[listen]\naddresses = [\"{address}\"]\ncertificate_file = \"{at}/cert.pem\"\nkey_file = \"{at}/key.pem\"\n\
             certificate_check = \"1s\"\n{listen}\n[access_log]\nfile = \"{at}/access.log\"\nbuffer = 0\n[metrics]\nlisten = \"{metrics}\"\n\
             [nginx]\ndirectory = \"{at}/run\"\nworkers = 2\nconnections = 512\nuser = \"root\"\n\
             [checks]\ninterval = \"200ms\"\ntimeout = \"200ms\"\nsettle = \"200ms\"\n{more}\n\
             [[services]]\nname = \"chat\"\nupstreams = [{}]\n",
            upstreams.join(", ")
        )
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn access_log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("access.log")).unwrap_or_default()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Ends it, and waits for that.
    pub(crate) fn close(mut self) -> Arc<tempfile::TempDir> {
        self.signal(Signal::SIGTERM);
        assert!(self.child.wait().unwrap().success(), "{}", self.log());
        self.directory.clone()
    }

    pub(crate) async fn own(&self, path: &str) -> String {
        let asked = async {
            let mut stream = TcpStream::connect(self.metrics).await.ok()?;
            stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await.ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            Some(answer)
        };
        asked.await.unwrap_or_default()
    }

    /// Waits for a line of the metrics.
    pub(crate) async fn measures(&self, line: &str) {
        let line = format!("{line}\n");
        let until = Instant::now() + DEADLINE;
        loop {
            let metrics = self.own("/metrics").await;
            if metrics.contains(&line) {
                return;
            }
            assert!(Instant::now() < until, "never: {line}{metrics}\n{}", self.log());
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn connect(&self) -> std::io::Result<TlsStream<TcpStream>> {
        self.connect_as(&Tls::default()).await
    }

    pub(crate) async fn connect_as(&self, tls: &Tls) -> std::io::Result<TlsStream<TcpStream>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(&tls.versions).unwrap();
        let mut config = if tls.trusting {
            config.dangerous().with_custom_certificate_verifier(Arc::new(Trusting(provider))).with_no_client_auth()
        } else {
            let pem = std::fs::read(self.directory.path().join("cert.pem")).unwrap();
            let mut roots = rustls::RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
            config.with_root_certificates(roots).with_no_client_auth()
        };
        config.alpn_protocols = tls.protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(self.address).await?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(tls.name).unwrap(), stream).await
    }

    /// Sends bytes, and gives everything that comes until the connection is closed.
    pub(crate) async fn raw(&self, bytes: &str) -> std::io::Result<String> {
        self.raw_as(&Tls::default(), bytes).await
    }

    pub(crate) async fn raw_as(&self, tls: &Tls, bytes: &str) -> std::io::Result<String> {
        let mut stream = self.connect_as(tls).await?;
        stream.write_all(bytes.as_bytes()).await?;
        let mut answer = Vec::new();
        // nginx closes without a TLS goodbye when it resets.
        let _ = timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("the connection is closed in time");
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    pub(crate) async fn get(&self, path: &str) -> String {
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

/// Takes any certificate: what is in it is looked at afterwards.
#[derive(Debug)]
struct Trusting(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
