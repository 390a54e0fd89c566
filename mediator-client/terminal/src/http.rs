//! One HTTP exchange with a node: hyper's pooled HTTP/1.1 client over our own `Connect`, bounded answers, and exact knowledge of
//! whether a request may have reached the switch.

use std::{
    convert::Infallible,
    error::Error,
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use ecss_switch::{
    connect::{BoxedIo, Connect, Endpoint},
    link::{LinkKind, Tap, Way},
};
use http::{HeaderValue, Uri, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Frame, SizeHint};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connected, Connection},
    },
    rt::{TokioIo, TokioTimer},
};
use secrecy::{ExposeSecret, SecretString};
use tokio_util::sync::CancellationToken;

use crate::{
    session::{Answer, Content, Failure, Purpose, Request},
    xml::{self, Element, Limits},
};

/// The header that pairs answers with requests.
const REQUEST_ID: &str = "p-request-id";
/// Longest unreadable body that a recording keeps.
const TAPPED: usize = 64 * 1024;

/// The connections to one node.
#[derive(Clone)]
pub(crate) struct Http {
    client: Client<Connector, Tracked>,
    connector: Connector,
    closed: CancellationToken,
    limits: Limits,
    tap: Option<Arc<dyn Tap>>,
    max_idle: usize,
}

impl Http {
    /// No connection yet.
    pub(crate) fn new(
        connect: Arc<dyn Connect>,
        endpoint: Endpoint,
        connect_timeout: Duration,
        max_idle: usize,
        limits: Limits,
        tap: Option<Arc<dyn Tap>>,
    ) -> Self {
        let connector = Connector { connect, endpoint, timeout: connect_timeout };
        let closed = CancellationToken::new();
        Self { client: client(&connector, &closed, max_idle), connector, closed, limits, tap, max_idle }
    }

    /// Further requests go over new connections; those on their way finish.
    pub(crate) fn drop_connections(&mut self) {
        self.client = client(&self.connector, &self.closed, self.max_idle);
    }

    /// Closes every connection at once, whatever is on its way.
    pub(crate) fn close(&self) {
        self.closed.cancel();
    }

    /// Sends the request and reads its answer. `written` is set before any octet of the request can leave.
    pub(crate) async fn exchange(self, request: Request, written: Arc<AtomicBool>) -> Result<Answer, Failure> {
        let failure = |timeout, Broken { bad, cause }| Failure { written: written.load(Ordering::Acquire), timeout, bad, cause };
        let deadline = tokio::time::Instant::from_std(request.deadline);
        let to_send = self.prepare(&request, &written).map_err(|cause| failure(false, Broken { bad: false, cause }))?;
        match tokio::time::timeout_at(deadline, self.send(to_send, &request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(broken)) => Err(failure(false, broken)),
            Err(_) => Err(failure(true, Broken { bad: false, cause: "no answer within the deadline".to_owned() })),
        }
    }

    fn prepare(&self, request: &Request, written: &Arc<AtomicBool>) -> Result<http::Request<Tracked>, String> {
        let body = match &request.document {
            Some(document) => document.to_document(),
            None => request.body.clone(),
        };
        let uri = format!("http://{}{}", self.connector.endpoint, request.path);
        let mut head = http::Request::builder().method(request.method.as_str()).uri(uri).header(REQUEST_ID, &request.id);
        if !body.is_empty() {
            head = head.header(header::CONTENT_TYPE, "text/xml; charset=utf-8");
        }
        if let Some(cookie) = &request.cookie {
            let mut value = HeaderValue::from_str(cookie.expose_secret()).map_err(|_| "the session cookie is no header value")?;
            value.set_sensitive(true);
            head = head.header(header::COOKIE, value);
        }
        if let Some((name, value)) = &request.header {
            head = head.header(name, value);
        }
        if let Some(tap) = &self.tap {
            let shown = request.document.as_ref().map_or_else(|| request.body.clone(), |document| shown(document, request));
            let head = format!("{} {} HTTP/1.1\nP-Request-Id: {}", request.method, request.path, request.id);
            tap.message(LinkKind::Terminal, Way::Sent, &head, &shown);
        }
        let body = Tracked { octets: Some(Bytes::from(body)).filter(|octets| !octets.is_empty()), written: written.clone() };
        head.body(body).map_err(|error| format!("the request cannot be built: {error}"))
    }

    async fn send(&self, to_send: http::Request<Tracked>, request: &Request) -> Result<Answer, Broken> {
        let broken = |error: hyper_util::client::legacy::Error| Broken { bad: is_no_http(&error), cause: causes(&error) };
        let answer = self.client.request(to_send).await.map_err(broken)?;
        let (head, body) = answer.into_parts();
        let texts = |name: &str| head.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let request_ids: Vec<String> = texts(REQUEST_ID).collect();
        let set_cookies: Vec<SecretString> = texts("set-cookie").map(SecretString::from).collect();
        let cookie_names: String = texts("set-cookie").filter_map(|line| cookie_shown(&line)).collect();
        let status = head.status.as_u16();
        let body = match Limited::new(body, self.limits.bytes).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                let content = Content::Unreadable(format!("the body is longer than {} octets", self.limits.bytes));
                return Ok(Answer { status, request_ids, set_cookies, content });
            }
            Err(error) => {
                return Err(Broken { bad: !self.closed.is_cancelled(), cause: format!("the answer broke off: {}", causes(&*error)) });
            }
        };
        let content = if body.trim_ascii().is_empty() {
            Content::Empty
        } else {
            match xml::parse_within(&body, &self.limits) {
                Ok(document) => Content::Document(document),
                Err(error) => Content::Unreadable(error.to_string()),
            }
        };
        if let Some(tap) = &self.tap {
            let shown = match &content {
                Content::Document(document) => shown(document, request),
                // What cannot be read cannot be redacted: only where no secret can be in it, it is kept.
                Content::Unreadable(_) if matches!(request.purpose, Purpose::Keepalive | Purpose::Logout) => {
                    String::from_utf8_lossy(body.get(..TAPPED).unwrap_or(&body)).into_owned()
                }
                Content::Unreadable(cause) => format!("*** {} octets: {cause}", body.len()),
                Content::Empty => String::new(),
            };
            let head = format!("HTTP/1.1 {status}\nP-Request-Id: {}{cookie_names}", request_ids.join(", "));
            tap.message(LinkKind::Terminal, Way::Received, &head, &shown);
        }
        Ok(Answer { status, request_ids, set_cookies, content })
    }
}

/// A cookie as a recording may hold it: its name.
fn cookie_shown(line: &str) -> Option<String> {
    let (name, _) = line.split(';').next()?.split_once('=')?;
    Some(format!("\nSet-Cookie: {}=***", name.trim()))
}

/// A document as a recording may hold it.
fn shown(document: &Element, request: &Request) -> String {
    let cookies = request.cookie.iter().flat_map(|cookie| cookie.expose_secret().split("; ")).filter_map(|pair| pair.split_once('='));
    // A cookie's value is hidden too, unless it is so short that it would be found everywhere.
    let cookies = cookies.map(|(_, value)| value).filter(|value| value.len() >= 8);
    let secrets: Vec<&str> = request.secrets.iter().map(ExposeSecret::expose_secret).chain(cookies).collect();
    document.redacted_of(&secrets).to_document()
}

fn client(connector: &Connector, closed: &CancellationToken, max_idle: usize) -> Client<Connector, Tracked> {
    Client::builder(UntilClosed(closed.clone()))
        .pool_timer(TokioTimer::new())
        // Short, so that a change rarely meets a connection that the switch is just closing: its outcome would be unknown.
        .pool_idle_timeout(Duration::from_secs(10))
        .pool_max_idle_per_host(max_idle)
        // Whether a request goes again is the session's decision.
        .retry_canceled_requests(false)
        .build(connector.clone())
}

/// Why an exchange has no answer.
struct Broken {
    /// Something came, and it is no whole HTTP answer.
    bad: bool,
    cause: String,
}

/// Whether the switch's octets are at fault, and not the connection.
fn is_no_http(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
            return true;
        }
        next = error.source();
    }
    false
}

/// An error and its sources, without repeating one that quotes the next.
fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

/// Runs hyper's connections until the node is given up.
#[derive(Clone)]
struct UntilClosed(CancellationToken);

impl<F> hyper::rt::Executor<F> for UntilClosed
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        let closed = self.0.clone();
        tokio::spawn(async move {
            closed.run_until_cancelled(task).await;
        });
    }
}

/// A request's body that notes when it is taken. HTTP/1.1 takes it in the same step in which it buffers the head, so that a body
/// that was never taken belongs to a request of which nothing has left.
struct Tracked {
    octets: Option<Bytes>,
    written: Arc<AtomicBool>,
}

impl Body for Tracked {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.written.store(true, Ordering::Release);
        Poll::Ready(self.octets.take().map(|octets| Ok(Frame::data(octets))))
    }

    fn is_end_stream(&self) -> bool {
        self.octets.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.octets.as_ref().map_or(0, |octets| octets.len() as u64))
    }
}

/// Opens connections to one node; what the URI says does not matter.
#[derive(Clone)]
struct Connector {
    connect: Arc<dyn Connect>,
    endpoint: Endpoint,
    timeout: Duration,
}

impl tower_service::Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { connect, endpoint, timeout } = self.clone();
        Box::pin(async move {
            match tokio::time::timeout(timeout, connect.connect(&endpoint)).await {
                Ok(stream) => Ok(Stream(TokioIo::new(stream?))),
                Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {timeout:?}"))),
            }
        })
    }
}

/// A connection in hyper's terms.
struct Stream(TokioIo<BoxedIo>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: hyper::rt::ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, octets)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
