//! How a driver gets its byte stream. Production uses TCP or TLS with `TCP_USER_TIMEOUT`; tests put their own network here and
//! run the same drivers.

use std::{fmt, future::Future, io, pin::Pin, sync::Arc, time::Duration};

use rustls_pki_types::ServerName;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

/// A node's address: `host:port`, `[v6]:port`.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Endpoint {
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Why a text is no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no address: write host:port, for example ecss1:9999 or [2001:db8::1]:9999")]
pub struct InvalidEndpoint(String);

impl Endpoint {
    /// Parses `host:port`.
    pub fn parse(text: &str) -> Result<Self, InvalidEndpoint> {
        let invalid = || InvalidEndpoint(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
        let port = port.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(invalid)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = bracketed.unwrap_or(host);
        if host.is_empty() || host.contains(char::is_whitespace) || (bracketed.is_none() && host.contains(':')) {
            return Err(invalid());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') { write!(f, "[{}]:{}", self.host, self.port) } else { write!(f, "{}:{}", self.host, self.port) }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Endpoint {
    type Error = InvalidEndpoint;
    fn try_from(text: String) -> Result<Self, InvalidEndpoint> {
        Self::parse(&text)
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

/// A connected byte stream.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A connected byte stream of any kind.
pub type BoxedIo = Box<dyn Io>;

/// The future of a connection attempt.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<BoxedIo>> + Send + 'a>>;

/// Opens connections to a node. The caller sets the deadline.
pub trait Connect: Send + Sync + 'static {
    /// Connects, TLS handshake included where there is one.
    fn connect<'a>(&'a self, endpoint: &'a Endpoint) -> Connecting<'a>;
}

/// TCP, or TLS over it, with a bound on how long written data may stay unacknowledged.
#[derive(Clone)]
pub struct TcpConnect {
    tls: Option<Arc<rustls::ClientConfig>>,
    user_timeout: Duration,
}

impl TcpConnect {
    /// Plain TCP. `user_timeout` is how long unacknowledged data may stand before the connection is given up.
    pub fn plain(user_timeout: Duration) -> Self {
        Self { tls: None, user_timeout }
    }

    /// TLS that trusts the configured certificate authorities.
    pub fn tls(config: Arc<rustls::ClientConfig>, user_timeout: Duration) -> Self {
        Self { tls: Some(config), user_timeout }
    }

    async fn open(&self, endpoint: &Endpoint) -> io::Result<BoxedIo> {
        let stream = tokio::net::TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
        stream.set_nodelay(true)?;
        let socket = socket2::SockRef::from(&stream);
        socket.set_tcp_user_timeout(Some(self.user_timeout))?;
        let Some(config) = &self.tls else {
            return Ok(Box::new(stream));
        };
        let name = ServerName::try_from(endpoint.host.clone())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the host is no valid TLS server name"))?;
        Ok(Box::new(tokio_rustls::TlsConnector::from(config.clone()).connect(name, stream).await?))
    }
}

impl Connect for TcpConnect {
    fn connect<'a>(&'a self, endpoint: &'a Endpoint) -> Connecting<'a> {
        Box::pin(self.open(endpoint))
    }
}

/// Client TLS that trusts `ca` (PEM certificates), or the system's authorities when there is none.
pub fn client_tls(ca: Option<&[u8]>) -> Result<Arc<rustls::ClientConfig>, String> {
    use rustls_pki_types::{CertificateDer, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    match ca {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|error| format!("not a PEM certificate: {error}"))?;
                roots.add(certificate).map_err(|error| format!("not usable as a certificate authority: {error}"))?;
            }
            if roots.is_empty() {
                return Err("holds no PEM certificate".to_owned());
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_host_and_port() {
        for good in ["ecss1:9999", "127.0.0.1:8086", "[::1]:4721"] {
            assert_eq!(Endpoint::parse(good).unwrap().to_string(), good);
        }
        for bad in ["", "ecss1", "ecss1:0", "ecss1:99999", ":9999", "::1:9999", "a b:1", "https://ecss1:9999"] {
            assert!(Endpoint::parse(bad).is_err(), "{bad}");
        }
    }
}
