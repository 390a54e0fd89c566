//! The way to a node: its name, its port, its certificate. A certificate that is refused is looked at a second time, without trust,
//! to say what is wrong with it.

use std::{sync::Arc, time::Duration};

use ecss_switch::connect::{Endpoint, client_tls};
use jiff::Timestamp;
use parking_lot::Mutex;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::{net::TcpStream, time::timeout};
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

use super::{
    local,
    report::{Place, Setting},
};

/// For a name, a connection, a handshake: each.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a link's configuration says about TLS.
pub(super) struct Security<'a> {
    /// `switch.terminal`, …
    pub(super) key: String,
    pub(super) tls: bool,
    pub(super) ca_file: Option<&'a std::path::Path>,
}

/// Whether the node can be spoken to.
pub(super) async fn examine(place: &mut Place, node: &Endpoint, security: &Security<'_>) -> bool {
    let nodes = || vec![Setting::key(format!("{}.nodes", security.key))];
    match timeout(PATIENCE, tokio::net::lookup_host((node.host.as_str(), node.port))).await {
        Ok(Ok(addresses)) => {
            if addresses.count() == 0 {
                place.wrong("name", format!("{} has no address", node.host), nodes());
                return false;
            }
        }
        Ok(Err(error)) => {
            place.wrong("name", format!("{} is not found: {error}", node.host), nodes());
            return false;
        }
        Err(_) => {
            place.wrong("name", format!("no answer about {} within {PATIENCE:?}", node.host), nodes());
            return false;
        }
    }
    match timeout(PATIENCE, TcpStream::connect((node.host.as_str(), node.port))).await {
        Ok(Ok(_)) => place.well("connect", "the port is open"),
        Ok(Err(error)) => {
            place.wrong("connect", format!("unreachable: {error}"), nodes());
            return false;
        }
        Err(_) => {
            place.wrong("connect", format!("unreachable: nothing within {PATIENCE:?}"), nodes());
            return false;
        }
    }
    if security.tls { tls(place, node, security).await } else { true }
}

/// Whether the node speaks TLS, whatever its certificate.
pub(super) async fn speaks_tls(node: &Endpoint) -> bool {
    match look(&Arc::default()) {
        Ok(config) => handshake(node, Arc::new(config)).await.is_ok(),
        Err(_) => false,
    }
}

async fn tls(place: &mut Place, node: &Endpoint, security: &Security<'_>) -> bool {
    let ca_file = || vec![Setting::key(format!("{}.ca_file", security.key))];
    let pem = match security.ca_file.map(|path| crate::config::read_bounded(path, 1 << 20)).transpose() {
        Ok(pem) => pem,
        Err(what) => {
            place.wrong("TLS", what, ca_file());
            return false;
        }
    };
    let config = match client_tls(pem.as_deref()) {
        Ok(config) => config,
        Err(what) => {
            place.wrong("TLS", what, ca_file());
            return false;
        }
    };
    let refused = handshake(node, config).await.err();
    let leaf = Arc::default();
    let looked = match look(&leaf) {
        Ok(config) => handshake(node, Arc::new(config)).await,
        Err(error) => Err(error),
    };
    let seen = leaf.lock().take().and_then(|leaf| describe(&leaf));
    match (refused, seen) {
        (None, Some((said, left))) if local::expires_soon(left) => {
            place.advice("TLS", format!("{said}: the switch's certificate is to be renewed"), Vec::new());
            true
        }
        (None, seen) => {
            place.well("TLS", seen.map_or_else(|| "the handshake is done".to_owned(), |(said, _)| said));
            true
        }
        (Some(error), Some((said, _))) => {
            let mut set = ca_file();
            if error.contains("NotValidForName") || error.contains("not valid for") {
                set = vec![Setting::key(format!("{}.nodes", security.key))];
            }
            place.wrong("TLS", format!("{error}; the certificate: {said}"), set);
            false
        }
        (Some(error), None) => {
            let what = looked.err().unwrap_or(error);
            let set = vec![Setting::value(format!("{}.tls", security.key), false)];
            place.wrong("TLS", format!("no TLS is spoken there: {what}"), set);
            false
        }
    }
}

async fn handshake(node: &Endpoint, config: Arc<ClientConfig>) -> Result<(), String> {
    let name = ServerName::try_from(node.host.clone()).map_err(|_| "the host is no valid TLS server name".to_owned())?;
    let connect = async {
        let stream = TcpStream::connect((node.host.as_str(), node.port)).await?;
        tokio_rustls::TlsConnector::from(config).connect(name, stream).await
    };
    match timeout(PATIENCE, connect).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no handshake within {PATIENCE:?}")),
    }
}

/// Names, issuer and validity, and the seconds that are left.
fn describe(leaf: &CertificateDer<'_>) -> Option<(String, i64)> {
    let (_, certificate) = parse_x509_certificate(leaf.as_ref()).ok()?;
    let left = certificate.validity().not_after.timestamp() - Timestamp::now().as_second();
    let names: Vec<String> = certificate
        .subject_alternative_name()
        .ok()
        .flatten()
        .map(|names| &names.value.general_names)
        .into_iter()
        .flatten()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(octets) => match octets {
                [a, b, c, d] => Some(format!("{a}.{b}.{c}.{d}")),
                octets => Some(std::net::Ipv6Addr::from(<[u8; 16]>::try_from(*octets).ok()?).to_string()),
            },
            _ => None,
        })
        .take(8)
        .collect();
    let names = if names.is_empty() { "no names".to_owned() } else { names.join(", ") };
    Some((format!("names {names}; issued by {}; {}", certificate.issuer(), local::expiry(left)), left))
}

/// Settings that take any certificate and keep it, to be looked at. Nothing is ever said over such a connection.
fn look(leaf: &Arc<Mutex<Option<CertificateDer<'static>>>>) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Looker { leaf: leaf.clone(), provider: provider.clone() };
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
}

#[derive(Debug)]
struct Looker {
    leaf: Arc<Mutex<Option<CertificateDer<'static>>>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Looker {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        *self.leaf.lock() = Some(end_entity.clone().into_owned());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
