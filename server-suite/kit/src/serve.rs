//! The HTTP server: HTTP/1.1 and HTTP/2, with or without TLS, with bounds on everything a stranger can stretch: connections, handshakes,
//! header fields, bodies, time. Certificates are replaced without touching open connections.

use std::{
    io::{self, IoSlice},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::ArcSwap;
use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, DefaultBodyLimit, MatchedPath, Request},
    http::{HeaderName, HeaderValue, StatusCode, Version, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use elph_shell::{
    config::{Problem as Wrong, Size, Span},
    tls,
};
use futures_util::StreamExt;
use hyper::server::conn::{http1, http2};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpListener,
    sync::Semaphore,
    time::{Instant, Sleep, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::Instrument;
use uuid::Uuid;

use crate::{
    Kit, Service,
    metrics::{self, Metrics},
    problem::{Code, Problem},
};

/// Names a request in the log and to whoever asked.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest id that a proxy may give.
const REQUEST_ID_LONGEST: usize = 64;
/// What a proxy says that the client's address is.
const REAL_ADDRESS: HeaderName = HeaderName::from_static("x-real-ip");
/// What one connection may ask at the same time.
const STREAMS: u32 = 128;
/// Of a body that is too long so many times as much as is taken, and for so long.
const READ_AWAY: usize = 8;
const READ_AWAY_FOR: Duration = Duration::from_secs(5);
/// What an HTTP/2 client says first (RFC 9113, 3.4).
const PREFACE: usize = 24;
/// A request's header fields together.
const HEADERS: u32 = 32 * 1024;

/// `[http]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpSettings {
    /// Where all services are served under their prefixes.
    pub listen: SocketAddr,
    /// Addresses of elph-proxy, or of another proxy that writes `X-Real-IP`: what comes from them is said to come from there.
    pub trusted_proxies: Vec<IpAddr>,
    /// PEM file with the certificate and those between it and the authority. Without it nothing is encrypted: only behind elph-proxy.
    pub certificate_file: Option<PathBuf>,
    /// PEM file with its key.
    pub key_file: Option<PathBuf>,
    /// Connections at most.
    pub max_connections: usize,
    /// A body's most bytes, where a service does not say otherwise.
    pub max_body: Size,
    /// How long a client may take to send the header fields, and for the handshake.
    pub header_timeout: Span,
    /// How long a request may take.
    pub request_timeout: Span,
    /// Where metrics and health are served; never reachable through the port above.
    pub internal_listen: SocketAddr,
}

/// The certificate that new connections see.
pub struct Certificate {
    current: ArcSwap<rustls::ServerConfig>,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8443)),
            trusted_proxies: Vec::new(),
            certificate_file: None,
            key_file: None,
            max_connections: 20_000,
            max_body: Size(1 << 20),
            header_timeout: Span::seconds(10),
            request_timeout: Span::seconds(30),
            internal_listen: SocketAddr::from(([127, 0, 0, 1], 9100)),
        }
    }
}

impl HttpSettings {
    /// What their types cannot say.
    pub fn check(&self, problems: &mut Vec<Wrong>) {
        let mut say = |key: &str, what: &str| problems.push(Wrong::new(format!("http.{key}"), what));
        if self.certificate_file.is_some() != self.key_file.is_some() {
            say("certificate_file", "and key_file belong together: set both or neither");
        }
        if self.max_connections == 0 {
            say("max_connections", "is 0; nobody could connect");
        }
        for (key, span, most) in [("header_timeout", self.header_timeout, 60), ("request_timeout", self.request_timeout, 600)] {
            if span < Span::seconds(1) || span > Span::seconds(most) {
                say(key, &format!("is out of range; must be from 1s to {most}s"));
            }
        }
    }
}

// === impl Certificate ===

impl Certificate {
    /// Reads the files; none: no TLS.
    pub fn read(settings: &HttpSettings) -> Result<Option<Self>, (&'static str, String)> {
        Ok(config(settings)?.map(|config| Self { current: ArcSwap::from_pointee(config) }))
    }

    /// Reads the files again. What is wrong changes nothing.
    pub fn reload(&self, settings: &HttpSettings) -> Result<(), (&'static str, String)> {
        if let Some(config) = config(settings)? {
            self.current.store(Arc::new(config));
        }
        Ok(())
    }
}

fn config(settings: &HttpSettings) -> Result<Option<rustls::ServerConfig>, (&'static str, String)> {
    let (Some(certificate), Some(key)) = (&settings.certificate_file, &settings.key_file) else { return Ok(None) };
    let chain = tls::certificates(certificate).map_err(|what| ("http.certificate_file", what))?;
    let key = tls::private_key(key).map_err(|what| ("http.key_file", what))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ("http.certificate_file", error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| ("http.key_file", format!("does not fit http.certificate_file: {error}")))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Some(config))
}

// === routes ===

/// Every service under its prefix, and nothing else.
pub fn public(kit: &Kit, settings: &HttpSettings, services: Vec<Service>) -> Router {
    let mut router = Router::new();
    for Service { name, prefix, routes, document } in services {
        let (metrics, limit) = (kit.metrics.clone(), settings.max_body.as_usize());
        let document = axum::Json(document);
        let routes = routes
            .route("/openapi.json", get(async move || document.clone()))
            .fallback(async || Problem::not_found())
            .method_not_allowed_fallback(async || Problem::new(Code::MethodNotAllowed, "this address takes other methods"))
            .layer(DefaultBodyLimit::max(limit))
            .layer(middleware::from_fn(move |request, next| bounded(limit, request, next)))
            .layer(middleware::from_fn(move |request, next| counted(name, metrics.clone(), request, next)));
        router = router.nest(prefix, routes);
    }
    let (kit, patience, proxies) = (kit.clone(), settings.request_timeout.0, settings.trusted_proxies.clone());
    router
        .fallback(async || Problem::not_found())
        .layer(middleware::from_fn(move |request, next| around(kit.clone(), patience, request, next)))
        .layer(middleware::map_request(move |request| std::future::ready(from_client(&proxies, request))))
}

/// Behind a proxy the connection is the proxy's: the client's address and the request's id are what it says.
fn from_client(proxies: &[IpAddr], mut request: Request) -> Request {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip().to_canonical());
    if peer.is_none_or(|peer| !proxies.contains(&peer)) {
        request.headers_mut().remove(REQUEST_ID);
        return request;
    }
    let said = request.headers().get(REAL_ADDRESS).and_then(|field| field.to_str().ok()?.parse::<IpAddr>().ok());
    if let Some(client) = said {
        request.extensions_mut().insert(ConnectInfo(SocketAddr::new(client, 0)));
    }
    request
}

/// Metrics and health, for the inside.
pub fn internal(kit: &Kit) -> Router {
    let (metrics, database, stop) = (kit.metrics.clone(), kit.database.clone(), kit.stop.clone());
    let (switches, bus) = (kit.switches.clone(), kit.bus.clone());
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route(
            "/readyz",
            get(async move || {
                let mut reasons = switches.reasons();
                reasons.extend(bus.reasons());
                if let Err(error) = database.answers().await {
                    reasons.push(format!("database: {}", elph_shell::told(&error)));
                }
                if stop.is_cancelled() {
                    reasons.push("draining".to_owned());
                }
                let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                (status, axum::Json(serde_json::json!({ "ready": reasons.is_empty(), "reasons": reasons })))
            }),
        )
        .route("/metrics", get(async move || text(&metrics)))
}

fn text(metrics: &Metrics) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
    metrics.encode().map_or_else(|error| Problem::internal(&error).into_response(), |text| (kind, text).into_response())
}

/// Around every request from outside: an id, a span, limits, a deadline, and fields that browsers heed.
async fn around(kit: Kit, patience: Duration, mut request: Request, next: Next) -> Response {
    // One that a proxy has given goes on; others were removed.
    let given = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(|id| id.len() <= REQUEST_ID_LONGEST);
    let id = given.map_or_else(|| Uuid::now_v7().to_string(), str::to_owned);
    let span = tracing::info_span!("request", request_id = %id, method = %request.method(), path = request.uri().path());
    let address = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(address)| address.ip());
    let upgrade = request.headers().contains_key(header::UPGRADE);
    let one = request.version() <= Version::HTTP_11;
    request.extensions_mut().insert(kit.verifier.clone());
    request.extensions_mut().insert(kit.limits.clone());
    let answer = async {
        if let Some(Err(problem)) = address.map(|address| kit.limits.address(address)) {
            return problem.into_response();
        }
        match timeout(patience, next.run(request)).await {
            Ok(response) => response,
            Err(_) => Problem::new(Code::Unavailable, format!("no answer within {} s; try again", patience.as_secs())).into_response(),
        }
    };
    let mut response = answer.instrument(span).await;
    let too_large = response.status() == StatusCode::PAYLOAD_TOO_LARGE;
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, id);
    }
    if one && too_large {
        // The rest of the body is not read: nothing else can come over this connection.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if !upgrade {
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        let nothing = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
        headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(nothing);
    }
    response
}

/// A body that says that it is too long is read away for a while: who is still sending when the connection closes would not see why.
async fn bounded(most: usize, request: Request, next: Next) -> Response {
    let said = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if said.is_none_or(|said| said <= most) {
        return next.run(request).await;
    }
    let mut body = request.into_body().into_data_stream();
    let away = async {
        let mut left = READ_AWAY * most;
        while let Some(Ok(chunk)) = body.next().await {
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                break;
            }
        }
    };
    let _late = timeout(READ_AWAY_FOR, away).await;
    Problem::new(Code::TooLarge, format!("the body is longer than the {most} bytes that are taken here")).into_response()
}

async fn counted(service: &'static str, metrics: Arc<Metrics>, request: Request, next: Next) -> Response {
    let (began, method) = (Instant::now(), request.method().as_str().to_owned());
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned()).unwrap_or_default();
    let response = next.run(request).await;
    let by = metrics::Request { service: service.to_owned(), method, route, status: response.status().as_u16() };
    metrics.requests.get_or_create(&by).inc();
    let of = metrics::Service { service: service.to_owned() };
    metrics.request_seconds.get_or_create(&of).observe(began.elapsed().as_secs_f64());
    response
}

// === connections ===

/// Serves until `kit.stop`, then lets what runs end, but not longer than `drain`.
pub async fn serve(
    listener: TcpListener,
    certificate: Option<Arc<Certificate>>,
    router: Router,
    settings: &HttpSettings,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    drain: Duration,
) {
    let places = Arc::new(Semaphore::new(settings.max_connections));
    let patience = settings.header_timeout.0;
    let connections = tokio_util::task::TaskTracker::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of files, most likely: whoever has some open will close them.
                tracing::warn!(%error, "a connection could not be taken");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            metrics.refused.inc();
            continue;
        };
        let (certificate, router, stop) = (certificate.clone(), router.clone(), stop.clone());
        connections.spawn(async move {
            drop(stream.set_nodelay(true));
            let served = match certificate {
                None => run(stream, false, address, router, patience, stop).await.map_err(|error| error.to_string()),
                Some(certificate) => {
                    let acceptor = tokio_rustls::TlsAcceptor::from(certificate.current.load_full());
                    match timeout(patience, acceptor.accept(stream)).await {
                        Ok(Ok(stream)) => {
                            let second = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                            run(stream, second, address, router, patience, stop).await.map_err(|error| error.to_string())
                        }
                        Ok(Err(error)) => Err(error.to_string()),
                        Err(_) => Err("the handshake took too long".to_owned()),
                    }
                }
            };
            if let Err(error) = served {
                tracing::debug!(%address, error, "a connection ended");
            }
            drop(place);
        });
    }
    connections.close();
    if timeout(drain, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "not every connection ended in time");
    }
}

/// HTTP/2 where TLS has agreed on it, HTTP/1.1 otherwise.
async fn run(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    second: bool,
    address: SocketAddr,
    router: Router,
    patience: Duration,
    stop: CancellationToken,
) -> Result<(), hyper::Error> {
    let service = router.map_request(move |mut request: http::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(ConnectInfo(address));
        request.map(Body::new)
    });
    let service = TowerToHyperService::new(service);
    if second {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEADERS)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20));
        let stream = TokioIo::new(Prompt { stream, owed: PREFACE, late: Box::pin(sleep(patience)) });
        let mut connection = pin!(builder.serve_connection(stream, service));
        tokio::select! {
            done = connection.as_mut() => return done,
            () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        return connection.await;
    }
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(patience).max_buf_size(HEADERS as usize);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
    tokio::select! {
        done = connection.as_mut() => return done,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

/// A stream whose first octets must come in time; hyper waits for HTTP/2's preface for ever.
struct Prompt<S> {
    stream: S,
    /// Octets that have not come yet.
    owed: usize,
    late: Pin<Box<Sleep>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Prompt<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.owed = self.owed.saturating_sub(buffer.filled().len() - before);
        if read.is_pending() && self.owed > 0 && self.late.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prompt<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, octets)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, octets: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, octets)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
