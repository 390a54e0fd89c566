//! HTTPS (HTTP/1.1 and HTTP/2) for the services that need no hands on frames: reads a request whole, asks a handler, does what faults say.

use std::{
    convert::Infallible,
    future::{Future, pending},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    connections::Connected,
    fault::{self, BAD_GATEWAY_PAGE, Effect, Struck},
    state::Core,
};

/// The largest body that is read.
pub(crate) const MAX_BODY: usize = 128 * 1024;
/// How long a request may take to come.
const READ: Duration = Duration::from_secs(30);
/// Between half an answer and the end of its connection, so that the half arrives.
const BEFORE_THE_CUT: Duration = Duration::from_millis(20);
/// Streams of one connection.
const MAX_STREAMS: u32 = 1000;

/// A request that was read whole.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    /// `None`: longer than `MAX_BODY`, or broken off.
    pub(crate) body: Option<Bytes>,
    pub(crate) connection: u64,
}

/// What becomes of it.
#[derive(Debug)]
pub(crate) struct Handled {
    pub(crate) delay: Duration,
    pub(crate) end: End,
}

#[derive(Debug)]
pub(crate) enum End {
    Answer(Response<Bytes>),
    Never,
    Reset(u32),
    Cut,
    CutMidAnswer(Response<Bytes>),
}

/// A whole body, or the first half of one.
#[derive(Debug)]
struct Body {
    rest: Bytes,
    cut: Option<(CancellationToken, Option<Pin<Box<Sleep>>>)>,
}

// === impl Asked ===

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// What arrivals show of the header.
    pub(crate) fn shown_headers(&self) -> Vec<(String, String)> {
        let shown = self.headers.iter().filter(|(name, _)| *name != header::AUTHORIZATION);
        shown.map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())).collect()
    }
}

// === impl Handled ===

impl Handled {
    pub(crate) fn answer(answer: Response<Bytes>) -> Self {
        Self { delay: Duration::ZERO, end: End::Answer(answer) }
    }

    /// The usual answer, as a fault wants it. `refusal` makes the provider's body of status and reason.
    pub(crate) fn struck(
        struck: Struck,
        usual: Duration,
        answer: impl FnOnce() -> Response<Bytes>,
        refusal: impl FnOnce(u16, &str) -> Response<Bytes>,
        now: jiff::Timestamp,
    ) -> Self {
        let delay = usual + struck.delay.unwrap_or_default();
        let end = match struck.effect {
            None => End::Answer(answer()),
            Some(Effect::Silence) => End::Never,
            Some(Effect::Reset { code }) => End::Reset(code),
            Some(Effect::Cut) => End::Cut,
            Some(Effect::CutMidAnswer) => End::CutMidAnswer(answer()),
            Some(Effect::Answer { status, reason, retry_after, retry_date_s, body, .. }) => {
                let mut response = match body {
                    Some(body) => {
                        let kind = if body.starts_with('<') { "text/html; charset=utf-8" } else { "application/json" };
                        self::answer(status, kind, body)
                    }
                    None => refusal(status, &reason),
                };
                let retry_after = fault::retry_after(retry_after.as_deref(), retry_date_s, now);
                if let Some(value) = retry_after.and_then(|text| HeaderValue::try_from(text).ok()) {
                    response.headers_mut().insert(header::RETRY_AFTER, value);
                }
                End::Answer(response)
            }
            Some(_) => End::Answer(self::answer(502, "text/html; charset=utf-8", BAD_GATEWAY_PAGE)),
        };
        Self { delay, end }
    }
}

/// An answer.
pub(crate) fn answer(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Serves a connection to its end.
pub(crate) async fn serve<H, F>(connected: Connected, core: Arc<Core>, handle: H)
where
    H: Fn(Arc<Core>, Asked) -> F + Clone + Send + 'static,
    F: Future<Output = Handled> + Send + 'static,
{
    let Connected { stream, number, cut, .. } = connected;
    // of this connection alone
    let cut = cut.child_token();
    let service = {
        let cut = cut.clone();
        service_fn(move |request: http::Request<Incoming>| {
            let (core, handle, cut) = (core.clone(), handle.clone(), cut.clone());
            async move { one(core, handle, cut, request, number).await }
        })
    };
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS);
    let served = builder.serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        result = served => if let Err(error) = result { tracing::debug!(%error, number, "https connection ended") },
        () = cut.cancelled() => {}
    }
}

async fn one<H, F>(
    core: Arc<Core>,
    handle: H,
    cut: CancellationToken,
    request: http::Request<Incoming>,
    connection: u64,
) -> Result<Response<Body>, h2::Error>
where
    H: Fn(Arc<Core>, Asked) -> F,
    F: Future<Output = Handled>,
{
    let (parts, body) = request.into_parts();
    let body = tokio::time::timeout(READ, Limited::new(body, MAX_BODY).collect()).await;
    let body = body.ok().and_then(Result::ok).map(|whole| whole.to_bytes());
    let path = parts.uri.path().to_owned();
    let handled = handle(core, Asked { method: parts.method, path, headers: parts.headers, body, connection }).await;
    if !handled.delay.is_zero() {
        tokio::time::sleep(handled.delay).await;
    }
    match handled.end {
        End::Answer(answer) => Ok(answer.map(|rest| Body { rest, cut: None })),
        End::CutMidAnswer(answer) => {
            let (mut parts, body) = answer.into_parts();
            parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len().max(2)));
            Ok(Response::from_parts(parts, Body { rest: body.slice(..body.len() / 2), cut: Some((cut, None)) }))
        }
        End::Never => pending().await,
        End::Reset(code) => Err(h2::Error::from(h2::Reason::from(code))),
        End::Cut => {
            cut.cancel();
            pending().await
        }
    }
}

// === impl Body ===

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.rest)))));
        }
        let Some((cut, sleep)) = &mut self.cut else { return Poll::Ready(None) };
        ready!(sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(BEFORE_THE_CUT))).as_mut().poll(cx));
        cut.cancel();
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.cut.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.cut.is_some() { SizeHint::default() } else { SizeHint::with_exact(u64::try_from(self.rest.len()).unwrap_or_default()) }
    }
}
