//! TLS of the gRPC listener: certificates are read from files, replaced by SIGHUP without touching open connections, and their
//! expiry is known before a client notices it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use elph_shell::tls::{authorities, certificates, expiry, private_key};
use rustls::{ServerConfig, server::WebPkiClientVerifier};

use crate::config::Grpc;

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
    let key = private_key(key_file).map_err(|what| ("key_file", what))?;
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
