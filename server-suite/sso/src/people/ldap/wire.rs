//! One connection to an LDAP server (RFC 4511) with a bound on every message: connect, StartTLS, bind, search. Whoever uses it sets
//! the deadline around it. References to other servers are not followed.

use std::{io, sync::Arc};

use bytes::BytesMut;
use ldap3_proto::{
    LdapCodec,
    proto::{
        LdapBindCred, LdapBindRequest, LdapDerefAliases, LdapExtendedRequest, LdapFilter, LdapMsg, LdapOp, LdapResult, LdapResultCode,
        LdapSearchRequest, LdapSearchResultEntry, LdapSearchScope,
    },
};
use rustls::{ClientConfig, pki_types::ServerName};
use secrecy::{ExposeSecret, SecretString};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tokio_util::codec::{Decoder, Encoder};

/// The largest message that is read: a person with all that we ask for is some kilobytes.
const LARGEST: usize = 256 << 10;
/// How deep a message may be nested.
const DEEPEST: usize = 16;
/// StartTLS (RFC 4511, 4.14).
const START_TLS: &str = "1.3.6.1.4.1.1466.20037";

/// A server, as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    host: String,
    port: u16,
    security: Security,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Security {
    Tls,
    StartTls,
    Plain,
}

/// Why a server is of no use now. Shown in the log; holds no login and no password.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    /// No connection.
    #[error("cannot be reached")]
    Connect(#[source] io::Error),
    /// No encryption.
    #[error("TLS failed")]
    Tls(#[source] io::Error),
    /// StartTLS is not had.
    #[error("refuses StartTLS ({0:?})")]
    StartTls(LdapResultCode),
    /// The connection broke, or what came is no LDAP.
    #[error("the connection failed")]
    Broken(#[source] io::Error),
    /// It answered something else.
    #[error("answered something that was not asked for")]
    Unexpected,
    /// It refused.
    #[error("{what} was refused: {code:?} {message}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// The result.
        code: LdapResultCode,
        /// The server's words.
        message: String,
    },
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    codec: LdapCodec,
    read: BytesMut,
    last: i32,
}

/// A search.
pub(super) struct Search<'a> {
    pub(super) base: &'a str,
    pub(super) whole: bool,
    pub(super) filter: LdapFilter,
    pub(super) attributes: &'a [&'a str],
    pub(super) most: usize,
}

/// What a search found.
pub(super) struct Found {
    pub(super) entries: Vec<LdapSearchResultEntry>,
    /// There are more than were asked for.
    pub(super) more: bool,
}

// === impl Server ===

impl Server {
    /// Reads `ldaps://host`, `ldap://host:port` or `ldap://[address]:port`.
    pub(crate) fn parse(text: &str, start_tls: bool) -> Result<Self, String> {
        let wrong = || "must begin with ldaps:// or ldap:// and name a host: ldaps://dc1.example.org".to_owned();
        let (security, rest, port) = match (text.strip_prefix("ldaps://"), text.strip_prefix("ldap://")) {
            (Some(rest), _) => (Security::Tls, rest, 636),
            (_, Some(rest)) => (if start_tls { Security::StartTls } else { Security::Plain }, rest, 389),
            _ => return Err(wrong()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, tail) = match rest.strip_prefix('[') {
            Some(inner) => inner.split_once(']').ok_or_else(wrong)?,
            None => rest.split_at(rest.find(':').unwrap_or(rest.len())),
        };
        let port = match tail.strip_prefix(':') {
            Some(digits) => digits.parse().map_err(|_| "has no port after the colon".to_owned())?,
            None if tail.is_empty() => port,
            None => return Err(wrong()),
        };
        if ServerName::try_from(host).is_err() {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), port, security })
    }

    pub(crate) fn is_plain(&self) -> bool {
        self.security == Security::Plain
    }

    pub(crate) fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

// === impl Connection ===

impl Connection {
    /// Connects and encrypts.
    pub(super) async fn open(server: &Server, tls: &Arc<ClientConfig>) -> Result<Self, WireError> {
        let stream = TcpStream::connect((server.host.as_str(), server.port)).await.map_err(WireError::Connect)?;
        stream.set_nodelay(true).map_err(WireError::Connect)?;
        match server.security {
            Security::Plain => Ok(Self::over(stream)),
            Security::Tls => Ok(Self::over(encrypt(stream, server, tls).await?)),
            Security::StartTls => {
                let mut plain = Self::over(stream);
                plain.start_tls().await?;
                // What came before the encryption could be anybody's.
                if !plain.read.is_empty() {
                    return Err(WireError::Unexpected);
                }
                Ok(Self::over(encrypt(plain.stream, server, tls).await?))
            }
        }
    }

    fn over(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::new(stream), codec: LdapCodec::new(Some(LARGEST), Some(DEEPEST)), read: BytesMut::new(), last: 0 }
    }

    async fn start_tls(&mut self) -> Result<(), WireError> {
        self.send(LdapOp::ExtendedRequest(LdapExtendedRequest { name: START_TLS.to_owned(), value: None })).await?;
        match self.receive().await? {
            LdapOp::ExtendedResponse(answer) if answer.res.code == LdapResultCode::Success => Ok(()),
            LdapOp::ExtendedResponse(answer) => Err(WireError::StartTls(answer.res.code)),
            _ => Err(WireError::Unexpected),
        }
    }

    /// Proves who is asking. The result is the server's.
    pub(super) async fn bind(&mut self, name: &str, password: Option<&SecretString>) -> Result<LdapResult, WireError> {
        let password = password.map_or("", |password| password.expose_secret());
        let request = LdapBindRequest { version: 3, dn: name.to_owned(), cred: LdapBindCred::Simple(password.to_owned()) };
        self.send(LdapOp::BindRequest(request)).await?;
        match self.receive().await? {
            LdapOp::BindResponse(answer) => Ok(answer.res),
            _ => Err(WireError::Unexpected),
        }
    }

    /// Searches.
    pub(super) async fn search(&mut self, search: Search<'_>) -> Result<Result<Found, LdapResult>, WireError> {
        let most = i32::try_from(search.most).unwrap_or(i32::MAX);
        self.send(LdapOp::SearchRequest(LdapSearchRequest {
            base: search.base.to_owned(),
            scope: if search.whole { LdapSearchScope::Subtree } else { LdapSearchScope::Base },
            aliases: LdapDerefAliases::Never,
            sizelimit: most,
            timelimit: 0,
            typesonly: false,
            filter: search.filter,
            attrs: search.attributes.iter().map(|name| (*name).to_owned()).collect(),
        }))
        .await?;
        let mut entries = Vec::new();
        let mut references = 0_u32;
        loop {
            match self.receive().await? {
                // More than was asked for is no answer of a server that can be trusted.
                LdapOp::SearchResultEntry(_) if entries.len() >= search.most => return Err(WireError::Unexpected),
                LdapOp::SearchResultEntry(entry) => entries.push(entry),
                LdapOp::SearchResultReference(_) | LdapOp::IntermediateResponse(_) if references >= 100 => {
                    return Err(WireError::Unexpected);
                }
                LdapOp::SearchResultReference(_) | LdapOp::IntermediateResponse(_) => references += 1,
                LdapOp::SearchResultDone(result) => match result.code {
                    LdapResultCode::Success => return Ok(Ok(Found { entries, more: false })),
                    LdapResultCode::SizeLimitExceeded => return Ok(Ok(Found { entries, more: true })),
                    _ => return Ok(Err(result)),
                },
                _ => return Err(WireError::Unexpected),
            }
        }
    }

    /// Says goodbye; whether it is heard does not matter.
    pub(super) async fn close(mut self) {
        if self.send(LdapOp::UnbindRequest).await.is_ok() {
            let _closed = self.stream.shutdown().await;
        }
    }

    async fn send(&mut self, op: LdapOp) -> Result<(), WireError> {
        self.last = self.last.wrapping_add(1).max(1);
        let mut bytes = BytesMut::new();
        self.codec.encode(LdapMsg::new(self.last, op), &mut bytes).map_err(WireError::Broken)?;
        self.stream.write_all(&bytes).await.map_err(WireError::Broken)?;
        self.stream.flush().await.map_err(WireError::Broken)
    }

    /// The next message about what was asked last.
    async fn receive(&mut self) -> Result<LdapOp, WireError> {
        loop {
            if let Some(message) = self.codec.decode(&mut self.read).map_err(WireError::Broken)? {
                return match (message.msgid, message.op) {
                    (id, op) if id == self.last => Ok(op),
                    // Notice of disconnection (RFC 4511, 4.4.1).
                    (0, LdapOp::ExtendedResponse(notice)) => {
                        Err(WireError::Refused { what: "the connection", code: notice.res.code, message: words(&notice.res.message) })
                    }
                    _ => Err(WireError::Unexpected),
                };
            }
            if self.stream.read_buf(&mut self.read).await.map_err(WireError::Broken)? == 0 {
                return Err(WireError::Broken(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

async fn encrypt(stream: impl Stream + 'static, server: &Server, tls: &Arc<ClientConfig>) -> Result<impl Stream + 'static, WireError> {
    let name = ServerName::try_from(server.host.clone()).map_err(|error| WireError::Tls(io::Error::other(error)))?;
    TlsConnector::from(tls.clone()).connect(name, stream).await.map_err(WireError::Tls)
}

/// A server's words, fit for a log.
pub(super) fn words(message: &str) -> String {
    message.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_with_and_without_ports() {
        let server = |text: &str| Server::parse(text, true).map(|server| (server.to_string(), server.security));
        assert_eq!(server("ldaps://dc1.example.org"), Ok(("dc1.example.org:636".to_owned(), Security::Tls)));
        assert_eq!(server("ldap://dc1.example.org:3268/"), Ok(("dc1.example.org:3268".to_owned(), Security::StartTls)));
        assert_eq!(server("ldap://[::1]:3389"), Ok(("::1:3389".to_owned(), Security::StartTls)));
        for bad in ["dc1", "ldap://", "ldap://a:b", "ldap://a/dc=x", "ldap://[::1", "ldap://user@host", "ldapi:///x", "ldap://a:1:2"] {
            assert!(server(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_servers_words_stay_on_their_line() {
        assert_eq!(words("a\nb\u{1b}[31m"), "a b [31m");
        assert_eq!(words(&"x".repeat(1000)).len(), 200);
    }
}
