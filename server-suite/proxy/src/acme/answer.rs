//! TLS-ALPN-01 (RFC 8737): while an order runs, the authority's connections are led to a socket, and are shown a certificate that holds
//! the answer. Nothing is said beyond the handshake.

use std::{collections::BTreeMap, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rustls::{
    ServerConfig,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::PrivateKeyDer;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::AcmeError;

/// How long one connection may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// Connections at the same time.
const AT_ONCE: usize = 32;
/// The longest first line that nginx sends before what the client says (PROXY protocol, version 1).
const LONGEST_LINE: usize = 108;

/// The answers by name.
#[derive(Default)]
struct Shown(Mutex<BTreeMap<String, Arc<CertifiedKey>>>);

/// Answers as long as it is kept.
pub(crate) struct Answers {
    shown: Arc<Shown>,
    _until: DropGuard,
}

// === impl Answers ===

impl Answers {
    /// Begins to listen.
    pub(crate) fn listen(socket: &Path) -> Result<Self, AcmeError> {
        let failed = |error: &dyn std::fmt::Display| AcmeError::File(format!("{} cannot be opened: {error}", socket.display()));
        // One of a killed proxy may be left.
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).map_err(|error| failed(&error))?;
        // nginx's workers may be of another user.
        std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o666)).map_err(|error| failed(&error))?;
        let shown = Arc::new(Shown::default());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(|error| failed(&error))?.with_no_client_auth();
        let mut config = config.with_cert_resolver(shown.clone());
        config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
        let stop = CancellationToken::new();
        let serving = serve(listener, TlsAcceptor::from(Arc::new(config)));
        let (child, socket) = (stop.child_token(), socket.to_owned());
        tokio::spawn(async move {
            child.run_until_cancelled(serving).await;
            let _ = std::fs::remove_file(socket);
        });
        Ok(Self { shown, _until: stop.drop_guard() })
    }

    /// Shows this answer when asked for this name.
    pub(crate) fn show(&self, name: &str, digest: &[u8]) -> Result<(), AcmeError> {
        let mut parameters = rcgen::CertificateParams::new(vec![name.to_owned()])?;
        parameters.custom_extensions = vec![rcgen::CustomExtension::new_acme_identifier(digest)];
        let key = rcgen::KeyPair::generate()?;
        let certificate = parameters.self_signed(&key)?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let der = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let signer = provider.key_provider.load_private_key(der).map_err(|_| AcmeError::Unusable("the answer's key".to_owned()))?;
        let shown = CertifiedKey::new(vec![certificate.der().clone()], signer);
        self.shown.0.lock().insert(name.to_ascii_lowercase(), Arc::new(shown));
        Ok(())
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.lock().get(&hello.server_name()?.to_ascii_lowercase()).cloned()
    }
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.lock().keys()).finish()
    }
}

async fn serve(listener: UnixListener, acceptor: TlsAcceptor) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let _ = timeout(DEADLINE, answer(stream, acceptor)).await;
            drop(place);
        });
    }
}

async fn answer(mut stream: UnixStream, acceptor: TlsAcceptor) -> std::io::Result<()> {
    let mut line = Vec::with_capacity(LONGEST_LINE);
    while !line.ends_with(b"\r\n") {
        if line.len() >= LONGEST_LINE {
            return Ok(());
        }
        line.push(stream.read_u8().await?);
    }
    acceptor.accept(stream).await?.shutdown().await
}
