//! The way to the authority: HTTPS with one connection for each request, a deadline, and a bounded answer. A request is rare here.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use super::AcmeError;
use crate::config::Acme;

/// How long one request may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// Most bytes of an answer.
const LONGEST: usize = 1 << 20;

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// An [`HttpClient`] with the authorities of `acme.ca_file`, or the system's.
#[derive(Clone)]
pub(crate) struct Client(TlsConnector);

// === impl Client ===

impl Client {
    pub(crate) fn new(acme: &Acme) -> Result<Self, AcmeError> {
        let roots = match &acme.ca_file {
            Some(path) => elph_shell::tls::authorities(path).map_err(AcmeError::File)?,
            None => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                roots
            }
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(|error| AcmeError::File(format!("TLS cannot be set up: {error}")))?;
        Ok(Self(TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))))
    }

    async fn ask(self, request: Request<BodyWrapper<Bytes>>) -> Result<Response<Full<Bytes>>, Failed> {
        let (mut parts, body) = request.into_parts();
        let host = parts.uri.host().ok_or("the address has no host")?.to_owned();
        let port = parts.uri.port_u16().unwrap_or(443);
        if parts.uri.scheme_str() != Some("https") {
            return Err("the address is not https".into());
        }
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((bare, port)).await?;
        let stream = self.0.connect(ServerName::try_from(bare.to_owned())?, stream).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let told = if port == 443 { host.clone() } else { format!("{host}:{port}") };
        parts.headers.insert(http::header::HOST, told.parse()?);
        parts.headers.insert(http::header::USER_AGENT, concat!("elph-proxy/", env!("CARGO_PKG_VERSION")).parse()?);
        parts.uri = parts.uri.path_and_query().map_or("/", |path| path.as_str()).parse()?;
        let asked = async move {
            let (head, body) = sender.send_request(Request::from_parts(parts, body)).await?.into_parts();
            let body = Limited::new(body, LONGEST).collect().await?.to_bytes();
            Ok::<_, Failed>(Response::from_parts(head, Full::new(body)))
        };
        // The sender goes with its answer, and the connection with the sender; an answer may also be the connection's end.
        let (answer, _) = tokio::join!(asked, connection);
        answer
    }
}

impl HttpClient for Client {
    fn request(&self, request: Request<BodyWrapper<Bytes>>) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.clone();
        Box::pin(async move {
            let late = |_| -> Result<_, Failed> { Err(format!("no answer within {}s", DEADLINE.as_secs()).into()) };
            let answer = timeout(DEADLINE, client.ask(request)).await.unwrap_or_else(late);
            answer.map(BytesResponse::from).map_err(Error::Other)
        })
    }
}

/// Whether the authority's directory can be had.
pub(crate) async fn reach(acme: &Acme) -> Result<(), AcmeError> {
    let client = Client::new(acme)?;
    let what = "the authority's directory cannot be had";
    let request = Request::get(&acme.directory).body(BodyWrapper::default()).map_err(Error::Http);
    let request = request.map_err(|source| AcmeError::Authority { what, source })?;
    let answer = client.request(request).await.map_err(|source| AcmeError::Authority { what, source })?;
    if answer.parts.status.is_success() {
        Ok(())
    } else {
        Err(AcmeError::Unusable(format!("its directory answers {}", answer.parts.status)))
    }
}
