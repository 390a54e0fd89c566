//! TLS of the gRPC listener: certificates are read from files, replaced by SIGHUP without touching open connections, and their
//! expiry is known before a client notices it.

use std::{path::Path, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::config::{Grpc, read_bounded};

/// Most bytes of a PEM file.
const LONGEST: u64 = 1 << 20;

/// The listener's certificates as they are now.
pub struct ServerTls {
    current: ArcSwap<Material>,
}

/// A listener's TLS settings, read from files.
#[derive(Debug)]
pub struct Material {
    /// For new connections.
    pub config: Arc<ServerConfig>,
    /// When the first certificate of the listener's chain expires, in seconds since 1970.
    pub expires_at: i64,
}

/// Which key of `[grpc]` is at fault, and why.
pub type Fault = (&'static str, String);

// === impl ServerTls ===

impl ServerTls {
    /// Takes over what has been read.
    pub fn new(material: Material) -> Self {
        Self { current: ArcSwap::from_pointee(material) }
    }

    /// What new connections use.
    pub fn current(&self) -> Arc<Material> {
        self.current.load_full()
    }

    /// Lets new connections use other certificates.
    pub fn replace(&self, material: Material) {
        self.current.store(Arc::new(material));
    }
}

/// Reads the listener's files; nothing when there is no listener.
pub fn server_config(grpc: &Grpc) -> Result<Option<Material>, Fault> {
    let (Some(certificate_file), Some(key_file), Some(client_ca_file)) = (&grpc.certificate_file, &grpc.key_file, &grpc.client_ca_file)
    else {
        return Ok(None);
    };
    let chain = certificates(certificate_file).map_err(|what| ("certificate_file", what))?;
    let expires_at = chain
        .first()
        .and_then(|certificate| expiry(certificate))
        .ok_or_else(|| ("certificate_file", format!("{}: the first certificate cannot be understood", certificate_file.display())))?;
    let pem = read_bounded(key_file, LONGEST).map_err(|what| ("key_file", what))?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| ("key_file", format!("{} holds no PEM private key", key_file.display())))?;
    let roots = authorities(client_ca_file).map_err(|what| ("client_ca_file", what))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| ("client_ca_file", format!("{}: {error}", client_ca_file.display())))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ("certificate_file", error.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| ("key_file", format!("does not fit grpc.certificate_file: {error}")))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Some(Material { config: Arc::new(config), expires_at }))
}

/// The certificate authorities in a PEM file.
pub fn authorities(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| format!("{}: not usable as a certificate authority: {error}", path.display()))?;
    }
    Ok(roots)
}

/// The certificates in a PEM file, at least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read_bounded(path, LONGEST)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = read.map_err(|error| format!("{} is no PEM file of certificates: {error}", path.display()))?;
    if chain.is_empty() { Err(format!("{} holds no PEM certificate", path.display())) } else { Ok(chain) }
}

/// When a certificate expires, in seconds since 1970.
fn expiry(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate.as_ref()).ok()?;
    Some(parsed.validity().not_after.timestamp())
}
