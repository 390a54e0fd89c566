//! The simulator's own certificate authority: a server certificate for loopback and the providers' names, and client certificates as
//! Apple issues them, with the app in the subject's UID and all topics in an extension.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The user id of a subject, where Apple writes the app's bundle id.
const UID: &[u64] = &[0, 9, 2342, 19_200_300, 100, 1, 1];
/// Apple's extension that lists the topics of a certificate.
const TOPICS: &[u64] = &[1, 2, 840, 113_635, 100, 6, 3, 6];
const TOPICS_DOTTED: &str = "1.2.840.113635.100.6.3.6";
/// Names that the server's certificate is good for: loopback, and the providers' own for clients whose resolver is bent.
const NAMES: [&str; 7] =
    ["localhost", "127.0.0.1", "::1", "api.push.apple.com", "api.sandbox.push.apple.com", "fcm.googleapis.com", "oauth2.googleapis.com"];

/// A client certificate and its key.
#[derive(Clone)]
pub struct ClientCertificate {
    /// The certificate (PEM).
    pub certificate_pem: String,
    /// Its private key (PKCS #8, PEM).
    pub key_pem: String,
}

/// The authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pub(crate) pem: String,
}

impl std::fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientCertificate").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

// === impl Authority ===

impl Authority {
    pub(crate) fn make() -> anyhow::Result<Self> {
        let key = KeyPair::generate().context("make the authority's key")?;
        let mut params = CertificateParams::new(Vec::<String>::new()).context("describe the authority")?;
        params.distinguished_name.push(DnType::CommonName, "push-sim test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).context("sign the authority")?;
        let (der, pem) = (CertificateDer::from(certificate.der().to_vec()), certificate.pem());
        Ok(Self { issuer: Issuer::new(params, key), certificate: der, pem })
    }

    /// TLS of a server that speaks these protocols; with client certificates of this authority where `clients` says so.
    pub(crate) fn server(&self, alpn: &[&str], clients: bool) -> anyhow::Result<Arc<ServerConfig>> {
        let key = KeyPair::generate().context("make the server's key")?;
        let mut params = CertificateParams::new(NAMES.map(ToOwned::to_owned)).context("name the server")?;
        params.distinguished_name.push(DnType::CommonName, "push-sim");
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer).context("sign the server's certificate")?;
        let chain = vec![CertificateDer::from(certificate.der().to_vec())];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().context("choose tls versions")?;
        let builder = if clients {
            let mut roots = RootCertStore::empty();
            roots.add(self.certificate.clone()).context("trust the own authority")?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .context("verify client certificates")?;
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_single_cert(chain, key).context("take the server's certificate")?;
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(Arc::new(config))
    }

    /// A client certificate for topics, the first of which is the app's bundle id. A `valid_for` of zero makes one that has expired.
    pub(crate) fn client(&self, topics: &[&str], valid_for: Duration) -> anyhow::Result<ClientCertificate> {
        let bundle = topics.first().context("a client certificate has at least one topic")?;
        let key = KeyPair::generate().context("make the client's key")?;
        let mut params = CertificateParams::new(Vec::<String>::new()).context("describe the client")?;
        params.distinguished_name.push(DnType::CommonName, format!("Apple Push Services: {bundle}"));
        params.distinguished_name.push(DnType::CustomDnType(UID.to_vec()), *bundle);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.custom_extensions = vec![CustomExtension::from_oid_content(TOPICS, topics_der(topics))];
        let now = SystemTime::now();
        params.not_before = (now - Duration::from_secs(86_400)).into();
        params.not_after = if valid_for.is_zero() { now - Duration::from_secs(3600) } else { now + valid_for }.into();
        let certificate = params.signed_by(&key, &self.issuer).context("sign the client's certificate")?;
        Ok(ClientCertificate { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

// === the extension: SEQUENCE { topic UTF8String, SEQUENCE { kind UTF8String }, … } ===

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes() {
        [0, short] if short < 0x80 => out.push(short),
        [0, byte] => out.extend([0x81, byte]),
        [high, low] => out.extend([0x82, high, low]),
    }
    out.extend_from_slice(content);
    out
}

fn topics_der(topics: &[&str]) -> Vec<u8> {
    let mut content = Vec::new();
    for topic in topics {
        content.extend(der(0x0c, topic.as_bytes()));
        let kind = topic.rsplit('.').next().filter(|last| matches!(*last, "voip" | "complication")).unwrap_or("app");
        content.extend(der(0x30, &der(0x0c, kind.as_bytes())));
    }
    der(0x30, &content)
}

/// Tag, content and what follows.
fn take(input: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = input.split_first_chunk::<2>()?;
    let (length, rest) = match (first, rest) {
        (0x81, [length, rest @ ..]) => (usize::from(*length), rest),
        (0x82, [high, low, rest @ ..]) => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        (short, rest) if short < 0x80 => (usize::from(short), rest),
        _ => return None,
    };
    let (content, after) = rest.split_at_checked(length)?;
    Some((tag, content, after))
}

/// The topics of a verified client certificate, its bundle id first.
pub(crate) fn topics_of(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let mut topics: Vec<String> = Vec::new();
    let subject = parsed.subject().iter_attributes().filter(|part| part.attr_type().to_id_string() == "0.9.2342.19200300.100.1.1");
    topics.extend(subject.filter_map(|part| part.as_str().ok()).map(ToOwned::to_owned));
    let extension = parsed.extensions().iter().find(|extension| extension.oid.to_id_string() == TOPICS_DOTTED);
    let mut rest = extension.and_then(|extension| take(extension.value)).map(|(_, content, _)| content).unwrap_or_default();
    while let Some((tag, content, after)) = take(rest) {
        if tag == 0x0c
            && let Ok(topic) = std::str::from_utf8(content)
            && !topics.iter().any(|known| known == topic)
        {
            topics.push(topic.to_owned());
        }
        rest = after;
    }
    topics
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::pem::PemObject;

    use super::*;

    #[test]
    fn a_client_certificate_names_its_topics() {
        let authority = Authority::make().unwrap();
        let topics = ["org.elph.phone", "org.elph.phone.voip", "org.elph.phone.complication"];
        let pair = authority.client(&topics, Duration::from_secs(60)).unwrap();
        let certificate = CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes()).unwrap();
        assert_eq!(topics_of(&certificate), topics);
        assert!(!format!("{pair:?}").contains("PRIVATE"));
    }
}
