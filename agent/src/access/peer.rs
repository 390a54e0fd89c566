//! What a connection says about its other end: the kernel's peer credentials, or a verified client certificate.

use std::{fmt, sync::Arc};

use http::Extensions;
use sha2::{Digest, Sha256};
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo, UdsConnectInfo};
use x509_parser::extensions::GeneralName;

use crate::config::{Fingerprint, Who};

/// The other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A process on this host.
    Process {
        /// Its effective user.
        uid: u32,
        /// Its effective group; supplementary groups are not told by the kernel.
        gid: u32,
        /// Its process id, where known.
        pid: Option<i32>,
    },
    /// The holder of a client certificate that the listener's authorities have signed.
    Certificate(Arc<CertificateNames>),
}

/// The names in a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateNames {
    /// SHA-256 over the DER form.
    pub fingerprint: Fingerprint,
    /// The subject's common name.
    pub common_name: Option<String>,
    /// DNS names in subjectAltName.
    pub dns: Vec<String>,
    /// URIs in subjectAltName.
    pub uris: Vec<String>,
}

// === impl Peer ===

impl Peer {
    /// From what tonic knows about the connection.
    pub fn of(extensions: &Extensions) -> Option<Self> {
        if let Some(info) = extensions.get::<UdsConnectInfo>() {
            let credentials = info.peer_cred?;
            return Some(Self::Process { uid: credentials.uid(), gid: credentials.gid(), pid: credentials.pid() });
        }
        let certificates = extensions.get::<TlsConnectInfo<TcpConnectInfo>>()?.peer_certs()?;
        let names = CertificateNames::read(certificates.first()?.as_ref())?;
        Some(Self::Certificate(Arc::new(names)))
    }

    /// Whether a grant's `who` means this peer.
    pub fn is(&self, who: &Who) -> bool {
        match (self, who) {
            (Self::Process { uid, .. }, Who::Uid(wanted)) => uid == wanted,
            (Self::Process { gid, .. }, Who::Gid(wanted)) => gid == wanted,
            (Self::Certificate(names), Who::Dns(wanted)) => names.dns.iter().any(|name| name.eq_ignore_ascii_case(wanted)),
            (Self::Certificate(names), Who::Uri(wanted)) => names.uris.contains(wanted),
            (Self::Certificate(names), Who::CommonName(wanted)) => names.common_name.as_ref() == Some(wanted),
            (Self::Certificate(names), Who::Fingerprint(wanted)) => names.fingerprint == *wanted,
            _ => false,
        }
    }
}

/// As the audit log writes it: `uid=990 pid=41` or `certificate=suite.example (sha256 …)`.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { uid, pid: Some(pid), .. } => write!(f, "uid={uid} pid={pid}"),
            Self::Process { uid, .. } => write!(f, "uid={uid}"),
            Self::Certificate(names) => {
                let name = names.dns.first().or(names.uris.first()).or(names.common_name.as_ref());
                write!(f, "certificate={} (sha256 {})", name.map_or("unnamed", String::as_str), names.fingerprint)
            }
        }
    }
}

// === impl CertificateNames ===

impl CertificateNames {
    /// Reads a certificate in DER form.
    pub fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let common_name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok()).map(str::to_owned);
        let (mut dns, mut uris) = (Vec::new(), Vec::new());
        if let Ok(Some(names)) = certificate.subject_alternative_name() {
            for name in &names.value.general_names {
                match name {
                    GeneralName::DNSName(text) => dns.push((*text).to_owned()),
                    GeneralName::URI(text) => uris.push((*text).to_owned()),
                    _ => {}
                }
            }
        }
        Some(Self { fingerprint: Fingerprint(Sha256::digest(der).into()), common_name, dns, uris })
    }
}
