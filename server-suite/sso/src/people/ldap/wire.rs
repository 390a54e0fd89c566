//! One connection to an LDAP server (RFC 4511) with a bound on every message: connect, StartTLS, bind, search. Whoever uses it sets
//! the deadline around it. References to other servers are not followed.

use std::{io, sync::Arc};

use bytes::{Buf, BytesMut};
use rasn_ldap::{
    AuthenticationChoice, BindRequest, ExtendedRequest, LdapMessage, ProtocolOp, ResultCode, SearchRequest, SearchRequestDerefAliases,
    SearchRequestScope, SearchResultEntry,
};
use rustls::{ClientConfig, pki_types::ServerName};
use secrecy::{ExposeSecret, SecretString};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::filter::Filter;

/// The largest message that is read: a person with all that we ask for is some kilobytes.
const LARGEST: usize = 256 << 10;
/// How many references of one search are skipped.
const REFERENCES: usize = 100;
/// StartTLS (RFC 4511, 4.14).
const START_TLS: &str = "1.3.6.1.4.1.1466.20037";
/// BER tags of what a server may say: bindResponse, searchResEntry, searchResDone, searchResRef, extendedResp, intermediateResponse.
const ANSWERS: [u8; 6] = [0x61, 0x64, 0x65, 0x73, 0x78, 0x79];

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
    StartTls(ResultCode),
    /// The connection broke.
    #[error("the connection failed")]
    Broken(#[source] io::Error),
    /// What came is no LDAP, or too long.
    #[error("speaks no LDAP: {0}")]
    NoLdap(&'static str),
    /// It answered something else.
    #[error("answered something that was not asked for")]
    Unexpected,
    /// It refused.
    #[error("{what} was refused: {} {}", outcome.code, outcome.words)]
    Refused {
        /// What was asked.
        what: &'static str,
        /// The answer.
        outcome: Outcome,
    },
}

/// A result code as it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Code(pub(super) ResultCode);

/// How something ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) code: Code,
    /// The server's own words, fit for a log.
    words: String,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    read: BytesMut,
    last: u32,
}

/// A search.
pub(super) struct Search<'a> {
    pub(super) base: &'a str,
    pub(super) whole: bool,
    pub(super) filter: Filter,
    pub(super) attributes: &'a [&'a str],
    pub(super) most: usize,
}

/// What a search found.
pub(super) struct Found {
    pub(super) entries: Vec<SearchResultEntry>,
    /// There are more than were asked for.
    pub(super) more: bool,
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0)
    }
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
        Self { stream: Box::new(stream), read: BytesMut::new(), last: 0 }
    }

    async fn start_tls(&mut self) -> Result<(), WireError> {
        self.send(ProtocolOp::ExtendedReq(ExtendedRequest { request_name: START_TLS.as_bytes().into(), request_value: None })).await?;
        match self.receive().await? {
            ProtocolOp::ExtendedResp(answer) if answer.result_code == ResultCode::Success => Ok(()),
            ProtocolOp::ExtendedResp(answer) => Err(WireError::StartTls(answer.result_code)),
            _ => Err(WireError::Unexpected),
        }
    }

    /// Proves who is asking. The outcome is the server's.
    pub(super) async fn bind(&mut self, name: &str, password: Option<&SecretString>) -> Result<Outcome, WireError> {
        let password = password.map_or("", |password| password.expose_secret()).as_bytes().to_vec();
        self.send(ProtocolOp::BindRequest(BindRequest::new(3, name.into(), AuthenticationChoice::Simple(password.into())))).await?;
        match self.receive().await? {
            ProtocolOp::BindResponse(answer) => Ok(Outcome::new(answer.result_code, &answer.diagnostic_message)),
            _ => Err(WireError::Unexpected),
        }
    }

    /// Searches.
    pub(super) async fn search(&mut self, search: Search<'_>) -> Result<Result<Found, Outcome>, WireError> {
        self.send(ProtocolOp::SearchRequest(SearchRequest::new(
            search.base.into(),
            if search.whole { SearchRequestScope::WholeSubtree } else { SearchRequestScope::BaseObject },
            SearchRequestDerefAliases::NeverDerefAliases,
            u32::try_from(search.most).unwrap_or(u32::MAX),
            0,
            false,
            search.filter.wire(),
            search.attributes.iter().map(|name| (*name).into()).collect(),
        )))
        .await?;
        let mut entries = Vec::new();
        let mut references = 0;
        loop {
            match self.receive().await? {
                // More than was asked for is no answer of a server that can be trusted.
                ProtocolOp::SearchResEntry(_) if entries.len() >= search.most => return Err(WireError::Unexpected),
                ProtocolOp::SearchResEntry(entry) => entries.push(entry),
                ProtocolOp::SearchResRef(_) | ProtocolOp::IntermediateResponse(_) if references < REFERENCES => references += 1,
                ProtocolOp::SearchResDone(done) => match done.0.result_code {
                    ResultCode::Success => return Ok(Ok(Found { entries, more: false })),
                    ResultCode::SizeLimitExceeded => return Ok(Ok(Found { entries, more: true })),
                    code => return Ok(Err(Outcome::new(code, &done.0.diagnostic_message))),
                },
                _ => return Err(WireError::Unexpected),
            }
        }
    }

    /// Says goodbye; whether it is heard does not matter.
    pub(super) async fn close(mut self) {
        let id = u8::try_from(self.last).unwrap_or(0x7e).saturating_add(1).min(0x7f);
        // unbindRequest ::= [APPLICATION 2] NULL
        if self.stream.write_all(&[0x30, 0x05, 0x02, 0x01, id, 0x42, 0x00]).await.is_ok() {
            let _closed = self.stream.shutdown().await;
        }
    }

    async fn send(&mut self, op: ProtocolOp) -> Result<(), WireError> {
        self.last += 1;
        let bytes = rasn::ber::encode(&LdapMessage::new(self.last, op)).map_err(|_| WireError::NoLdap("the request cannot be written"))?;
        self.stream.write_all(&bytes).await.map_err(WireError::Broken)?;
        self.stream.flush().await.map_err(WireError::Broken)
    }

    /// The next message about what was asked last.
    async fn receive(&mut self) -> Result<ProtocolOp, WireError> {
        loop {
            if let Some(message) = next(&mut self.read).map_err(WireError::NoLdap)? {
                return match (message.message_id, message.protocol_op) {
                    (id, op) if id == self.last => Ok(op),
                    // Notice of disconnection (RFC 4511, 4.4.1).
                    (0, ProtocolOp::ExtendedResp(notice)) => Err(WireError::Refused {
                        what: "the connection",
                        outcome: Outcome::new(notice.result_code, &notice.diagnostic_message),
                    }),
                    _ => Err(WireError::Unexpected),
                };
            }
            if self.stream.read_buf(&mut self.read).await.map_err(WireError::Broken)? == 0 {
                return Err(WireError::Broken(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

/// Takes one message of a server out of what was read; none: it is not whole yet.
fn next(read: &mut BytesMut) -> Result<Option<LdapMessage>, &'static str> {
    let Some((header, whole)) = length(read)? else { return Ok(None) };
    let Some(bytes) = read.get(..whole) else { return Ok(None) };
    // Only what a server may say is decoded: the filters of a request, for one, would be nested without end.
    let answer = match bytes.get(header..) {
        Some([0x02, id @ 1..=4, rest @ ..]) => rest.get(usize::from(*id)).is_some_and(|tag| ANSWERS.contains(tag)),
        _ => false,
    };
    if !answer {
        return Err("a message that is no answer");
    }
    let message = rasn::ber::decode(bytes).map_err(|_| "a message that cannot be read");
    read.advance(whole);
    message.map(Some)
}

/// The length of the first message's header, and of all of it: a SEQUENCE of definite length.
fn length(read: &[u8]) -> Result<Option<(usize, usize)>, &'static str> {
    let [tag, first, rest @ ..] = read else {
        return if read.first().is_some_and(|tag| *tag != 0x30) { Err("no message") } else { Ok(None) };
    };
    if *tag != 0x30 || *first == 0x80 {
        return Err("no message");
    }
    let (content, header) = match first & 0x7f {
        short if first & 0x80 == 0 => (usize::from(short), 2),
        bytes @ 1..=4 => {
            let bytes = usize::from(bytes);
            let Some(digits) = rest.get(..bytes) else { return Ok(None) };
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), 2 + bytes)
        }
        _ => return Err("a message without end"),
    };
    if content > LARGEST { Err("a message that is too long") } else { Ok(Some((header, content + header))) }
}

async fn encrypt(stream: impl Stream + 'static, server: &Server, tls: &Arc<ClientConfig>) -> Result<impl Stream + 'static, WireError> {
    let name = ServerName::try_from(server.host.clone()).map_err(|error| WireError::Tls(io::Error::other(error)))?;
    TlsConnector::from(tls.clone()).connect(name, stream).await.map_err(WireError::Tls)
}

// === impl Outcome ===

impl Outcome {
    pub(super) fn new(code: ResultCode, message: &str) -> Self {
        let words = message.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect();
        Self { code: Code(code), words }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
        assert_eq!(Outcome::new(ResultCode::Other, "a\nb\u{1b}[31m").words, "a b [31m");
        assert_eq!(Outcome::new(ResultCode::Other, &"x".repeat(1000)).words.len(), 200);
    }

    #[test]
    fn a_message_is_taken_when_it_is_whole() {
        // A bindResponse of OpenLDAP and the beginning of another message.
        let bytes = [0x30, 0x0c, 0x02, 0x01, 0x01, 0x61, 0x07, 0x0a, 0x01, 0x31, 0x04, 0x00, 0x04, 0x00, 0x30];
        for cut in 0..14 {
            let mut read = BytesMut::from(&bytes[..cut]);
            assert_eq!((next(&mut read), read.len()), (Ok(None), cut));
        }
        let mut read = BytesMut::from(&bytes[..]);
        let message = next(&mut read).unwrap().unwrap();
        let ProtocolOp::BindResponse(bound) = message.protocol_op else { panic!() };
        assert_eq!((message.message_id, bound.result_code, read.len()), (1, ResultCode::InvalidCredentials, 1));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_a_panic(
            op in prop::sample::select(ANSWERS.to_vec()),
            mut bytes in prop::collection::vec(any::<u8>(), 0..100),
            raw in any::<bool>(),
        ) {
            if !raw {
                let content = u8::try_from(bytes.len()).unwrap();
                bytes = [vec![0x30, content + 5, 0x02, 0x01, 0x01, op, content], bytes].concat();
            }
            let mut read = BytesMut::from(&bytes[..]);
            let _ = next(&mut read);
        }
    }
}
