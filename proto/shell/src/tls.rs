//! Certificates and keys in PEM files.

use std::path::Path;

use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::config::read_bounded;

/// Most bytes of a PEM file.
const LONGEST: u64 = 1 << 20;

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
pub fn expiry(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate.as_ref()).ok()?;
    Some(parsed.validity().not_after.timestamp())
}

/// The private key in a PEM file.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let pem = read_bounded(path, LONGEST)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| format!("{} holds no PEM private key", path.display()))
}
