//! How a sender gets its byte stream: DNS, TCP, perhaps an HTTP proxy (`CONNECT`), TLS. Names are looked up anew for every connection.
//! Tests put their own network here and run the same senders.

use std::{fmt, future::Future, io, pin::Pin, sync::Arc, time::Duration};

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// A host and a port.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') { write!(f, "[{}]:{}", self.host, self.port) } else { write!(f, "{}:{}", self.host, self.port) }
    }
}

impl fmt::Debug for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A connected byte stream.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A connected byte stream of any kind.
pub type BoxedIo = Box<dyn Io>;

/// A connection and what was agreed on it.
pub struct Connected {
    /// The stream.
    pub io: BoxedIo,
    /// The protocol that ALPN chose: `h2`, `http/1.1`; empty: none.
    pub alpn: Vec<u8>,
}

/// A connection attempt.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Connected>> + Send + 'a>>;

/// Opens connections. The caller sets the deadline.
pub trait Connect: Send + Sync + 'static {
    /// Connects to the host, TLS handshake included.
    fn connect<'a>(&'a self, to: &'a HostPort) -> Connecting<'a>;
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No certificate in the text.
    #[error("no certificate could be read from it")]
    NoCertificate,
    /// No private key in the text.
    #[error("no private key could be read from it")]
    NoKey,
    /// The system has no roots.
    #[error("the system has no certificate authorities; install ca-certificates or configure a CA")]
    NoRoots,
    /// They do not fit each other.
    #[error("certificate and key cannot be used")]
    Unusable(#[source] rustls::Error),
}

/// Certificate and key that the client shows.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Reads PEM: the chain, leaf first, and the key, from one text or from two.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain).filter_map(Result::ok).collect();
        if chain.is_empty() {
            return Err(TlsError::NoCertificate);
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsError::NoKey)?;
        Ok(Self { chain, key })
    }

    /// The leaf, DER.
    pub fn leaf(&self) -> &[u8] {
        self.chain.first().map(AsRef::as_ref).unwrap_or_default()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(…)")
    }
}

/// A TLS configuration: own roots or the system's, perhaps a client certificate, the protocols offered by ALPN.
pub fn tls(roots_pem: Option<&[u8]>, identity: Option<Identity>, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    match roots_pem {
        Some(pem) => {
            let certificates = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok);
            if roots.add_parsable_certificates(certificates).0 == 0 {
                return Err(TlsError::NoCertificate);
            }
        }
        None => {
            if roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs).0 == 0 {
                return Err(TlsError::NoRoots);
            }
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(TlsError::Unusable)?;
    let builder = builder.with_root_certificates(roots);
    let mut config = match identity {
        Some(Identity { chain, key }) => builder.with_client_auth_cert(chain, key).map_err(TlsError::Unusable)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// Real sockets.
pub struct TcpTls {
    tls: Arc<ClientConfig>,
    proxy: Option<HostPort>,
    unacknowledged: Duration,
}

impl TcpTls {
    /// Connects with this TLS configuration, through this proxy if there is one. A peer that acknowledges nothing that was sent for
    /// `unacknowledged` is given up by the kernel.
    pub fn new(tls: Arc<ClientConfig>, proxy: Option<HostPort>, unacknowledged: Duration) -> Self {
        Self { tls, proxy, unacknowledged }
    }

    async fn open(&self, to: &HostPort) -> io::Result<Connected> {
        let first = self.proxy.as_ref().unwrap_or(to);
        let mut tcp = TcpStream::connect((first.host.as_str(), first.port)).await?;
        tcp.set_nodelay(true)?;
        socket2::SockRef::from(&tcp).set_tcp_user_timeout(Some(self.unacknowledged))?;
        if self.proxy.is_some() {
            through_proxy(&mut tcp, to).await?;
        }
        let name = ServerName::try_from(to.host.clone()).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let stream = TlsConnector::from(self.tls.clone()).connect(name, tcp).await?;
        let alpn = stream.get_ref().1.alpn_protocol().unwrap_or_default().to_vec();
        Ok(Connected { io: Box::new(stream), alpn })
    }
}

impl Connect for TcpTls {
    fn connect<'a>(&'a self, to: &'a HostPort) -> Connecting<'a> {
        Box::pin(self.open(to))
    }
}

impl fmt::Debug for TcpTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpTls").field("proxy", &self.proxy).finish_non_exhaustive()
    }
}

/// Real sockets without TLS, for simulators on the loopback interface.
#[derive(Debug)]
pub struct Tcp {
    unacknowledged: Duration,
}

impl Tcp {
    /// Connects without TLS; `unacknowledged` as for [`TcpTls::new`].
    pub fn new(unacknowledged: Duration) -> Self {
        Self { unacknowledged }
    }
}

impl Connect for Tcp {
    fn connect<'a>(&'a self, to: &'a HostPort) -> Connecting<'a> {
        Box::pin(async move {
            let tcp = TcpStream::connect((to.host.as_str(), to.port)).await?;
            tcp.set_nodelay(true)?;
            socket2::SockRef::from(&tcp).set_tcp_user_timeout(Some(self.unacknowledged))?;
            Ok(Connected { io: Box::new(tcp), alpn: Vec::new() })
        })
    }
}

/// Most octets of a proxy's answer.
const PROXY_ANSWER: usize = 8192;

/// Asks the proxy for a tunnel (RFC 9110 §9.3.6).
async fn through_proxy(tcp: &mut TcpStream, to: &HostPort) -> io::Result<()> {
    tcp.write_all(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= PROXY_ANSWER {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the proxy's answer is too long"));
        }
        answer.push(tcp.read_u8().await?);
    }
    let line = answer.split(|byte| *byte == b'\r').next().map(String::from_utf8_lossy).unwrap_or_default();
    let accepted = line.split(' ').nth(1).is_some_and(|code| code.len() == 3 && code.starts_with('2'));
    if accepted { Ok(()) } else { Err(io::Error::new(io::ErrorKind::ConnectionRefused, format!("the proxy answered: {line}"))) }
}
