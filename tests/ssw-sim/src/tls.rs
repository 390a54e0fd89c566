//! A certificate authority of the simulator's own, made anew at each start, and a server certificate for loopback names.

use std::sync::Arc;

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

/// The acceptor of every listener, and the authority's certificate in PEM.
pub(crate) fn make() -> anyhow::Result<(TlsAcceptor, String)> {
    let ca_key = KeyPair::generate().context("make the authority's key")?;
    let mut ca = CertificateParams::new(Vec::<String>::new()).context("describe the authority")?;
    ca.distinguished_name.push(DnType::CommonName, "ssw-sim test authority");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_certificate = ca.self_signed(&ca_key).context("sign the authority")?;
    let issuer = Issuer::new(ca, ca_key);

    let key = KeyPair::generate().context("make the server's key")?;
    let mut server =
        CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()]).context("name the server")?;
    server.distinguished_name.push(DnType::CommonName, "ssw-sim");
    let certificate = server.signed_by(&key, &issuer).context("sign the server's certificate")?;

    let chain = vec![CertificateDer::from(certificate.der().to_vec())];
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("choose tls versions")?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("take the server's certificate")?;
    Ok((TlsAcceptor::from(Arc::new(config)), ca_certificate.pem()))
}
