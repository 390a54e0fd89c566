//! What is told of every request, whichever service it goes to: it is counted by method and status code, streams at their end; it has
//! an id that its log lines carry; and it keeps the caller's deadline. Nothing of its content is looked at.

use std::{
    collections::HashMap,
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Frame, SizeHint};
use prost::Message;
use prost_types::FileDescriptorSet;
use tokio::time::{Instant, Sleep};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};
use tracing::{Instrument, Span};

use crate::telemetry::metrics::{Metrics, label};
use elph_proto::reason::{Reason, code_name};
use tonic_types::FieldViolation;

/// Metadata with the caller's id of the request, for its log and ours; without it the agent makes one. The answer carries it.
const REQUEST_ID: &str = "x-request-id";

/// The longest id that is taken over.
const ID_LONGEST: usize = 128;

/// A method outside the described services is counted under this name, so that callers cannot make up labels.
const OTHER: &str = "other";

/// The caller's deadline is kept this much earlier here: the transport's own watch answers `CANCELLED`, which it is not.
const EARLIER: Duration = Duration::from_millis(5);

/// A method as metrics and the log name it.
#[derive(Debug)]
struct Method {
    name: String,
    streams: bool,
}

/// The layer around all services.
#[derive(Clone)]
pub(super) struct Observe {
    metrics: Arc<Metrics>,
    methods: Arc<HashMap<String, Arc<Method>>>,
    other: Arc<Method>,
}

/// A service whose requests are told of.
#[derive(Clone)]
pub(super) struct Observed<S> {
    inner: S,
    observe: Observe,
}

/// A request that goes on: how it ended is told once, even if the caller goes away in the middle.
struct Running {
    metrics: Arc<Metrics>,
    method: Arc<Method>,
    span: Span,
    began: Instant,
    deadline: Option<Instant>,
    told: bool,
}

/// A body that is watched to its end.
struct Watched {
    inner: Body,
    running: Running,
    /// Fires at the caller's deadline.
    timer: Option<Pin<Box<Sleep>>>,
    ended: bool,
}

// === impl Observe ===

impl Observe {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        let described = [elph_proto::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET];
        let methods = described.into_iter().flat_map(methods).collect();
        Self { metrics, methods: Arc::new(methods), other: Arc::new(Method { name: OTHER.to_owned(), streams: true }) }
    }
}

impl<S> Layer<S> for Observe {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Observed<S> {
        Observed { inner, observe: self.clone() }
    }
}

/// The methods of described services, by path.
fn methods(descriptors: &[u8]) -> Vec<(String, Arc<Method>)> {
    let files = FileDescriptorSet::decode(descriptors).map(|set| set.file).unwrap_or_default();
    let mut methods = Vec::new();
    for file in files {
        for service in &file.service {
            for method in &service.method {
                let name = format!("{}/{}", service.name(), method.name());
                let path = format!("/{}.{name}", file.package());
                methods.push((path, Arc::new(Method { name, streams: method.server_streaming() })));
            }
        }
    }
    methods
}

// === impl Observed ===

impl<S> Service<Request<Body>> for Observed<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = self.observe.methods.get(request.uri().path()).unwrap_or(&self.observe.other).clone();
        let id = request_id(request.headers());
        let span = tracing::info_span!("request", method = method.name, request_id = id);
        let began = Instant::now();
        let deadline = timeout(request.headers()).map(|timeout| began + timeout.saturating_sub(EARLIER));
        let mut running = Running { metrics: self.observe.metrics.clone(), method, span: span.clone(), began, deadline, told: false };
        // The clone has not been asked whether it is ready; the original has.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        let answer = async move {
            let answering = inner.call(request);
            let answered = match deadline {
                Some(deadline) => tokio::time::timeout_at(deadline, answering).await.ok(),
                None => Some(answering.await),
            };
            let mut response = match answered {
                Some(response) => running.answered(response?),
                None => {
                    running.tell(Code::DeadlineExceeded);
                    too_late().into_http()
                }
            };
            if let Ok(id) = HeaderValue::from_str(&id) {
                response.headers_mut().insert(REQUEST_ID, id);
            }
            Ok(response)
        };
        Box::pin(answer.instrument(span))
    }
}

/// The caller's id of the request, if it is one that may be logged, or a new one.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
    let fit = |id: &&str| !id.is_empty() && id.len() <= ID_LONGEST && id.chars().all(|c| c.is_ascii_graphic());
    given.filter(fit).map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned)
}

/// `grpc-timeout`: at most eight digits and a unit.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (value, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let value: u64 = value.parse().ok().filter(|_| value.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

fn too_late() -> Status {
    Status::deadline_exceeded("the caller's deadline has passed; a command goes on: ask with the same request id how it ended")
}

/// What the transport refused before a service saw it, as every other refusal: with a reason. Services answer `INTERNAL` with one and
/// never answer `OUT_OF_RANGE`, so that these without details are the transport's words on a message that is too large or undecodable.
fn refused_by_transport(headers: &HeaderMap) -> Option<Status> {
    Status::from_header_map(headers).as_ref().and_then(with_reason)
}

/// The same for what a stream of requests breaks off with.
pub(super) fn with_reason(status: &Status) -> Option<Status> {
    match status.code() {
        _ if !status.details().is_empty() => None,
        Code::OutOfRange => Some(Reason::MessageTooLarge.status(status.message())),
        Code::Internal => Some(undecodable(&status.message())),
        _ => None,
    }
}

/// The request's message is no message of its type.
pub(super) fn undecodable(error: &impl std::fmt::Display) -> Status {
    Reason::invalid(vec![FieldViolation::new("", format!("the message cannot be decoded: {error}"))])
}

/// The code in headers or trailers.
fn code(headers: &HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()))
}

// === impl Running ===

impl Running {
    /// The answer's head is there; its end comes with the body, unless there is none.
    fn answered(mut self, mut response: Response<Body>) -> Response<Body> {
        if let Some(refused) = refused_by_transport(response.headers()) {
            response = refused.into_http();
        }
        if let Some(code) = code(response.headers()) {
            self.tell(code);
            return response;
        }
        let timer = self.deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline)));
        response.map(|inner| Body::new(Watched { inner, running: self, timer, ended: false }))
    }

    fn tell(&mut self, code: Code) {
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        let took = self.began.elapsed();
        let labels = [("method", self.method.name.clone()), ("code", code_name(code).to_owned())];
        self.metrics.grpc_requests.get_or_create(&labels).inc();
        if !self.method.streams {
            self.metrics.grpc_request_duration.get_or_create(&label("method", self.method.name.as_str())).observe(took.as_secs_f64());
        }
        tracing::debug!(parent: &self.span, code = code_name(code), ?took, "request has ended");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let late = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        self.tell(if late { Code::DeadlineExceeded } else { Code::Cancelled });
    }
}

// === impl Watched ===

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(context) {
            match &frame {
                Some(Ok(frame)) => {
                    if let Some(trailers) = frame.trailers_ref() {
                        this.running.tell(code(trailers).unwrap_or(Code::Unknown));
                    }
                }
                Some(Err(status)) => this.running.tell(status.code()),
                None => this.running.tell(Code::Unknown),
            }
            return Poll::Ready(frame);
        }
        if this.timer.as_mut().is_some_and(|timer| timer.as_mut().poll(context).is_ready()) {
            this.ended = true;
            this.running.tell(Code::DeadlineExceeded);
            let mut trailers = HeaderMap::new();
            // A fixed text: it is a header.
            let _written = too_late().add_header(&mut trailers);
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;

    use super::*;
    use crate::health::Links;

    /// Gives its one answer at once, and none after it.
    #[derive(Clone)]
    struct Once(Arc<parking_lot::Mutex<Option<Body>>>);

    impl Service<Request<Body>> for Once {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            match self.0.lock().take() {
                Some(body) => Box::pin(std::future::ready(Ok(Response::new(body)))),
                None => Box::pin(std::future::pending()),
            }
        }
    }

    fn answering(answer: Body) -> (Arc<Metrics>, Observed<Once>) {
        let metrics = Arc::new(Metrics::new(Arc::new(Links::default())));
        let once = Once(Arc::new(parking_lot::Mutex::new(Some(answer))));
        (metrics.clone(), Observe::new(metrics).layer(once))
    }

    fn count(metrics: &Metrics, method: &str, code: &str) -> u64 {
        metrics.grpc_requests.get_or_create(&[("method", method.to_owned()), ("code", code.to_owned())]).get()
    }

    fn request(path: &str, headers: &[(&str, &str)]) -> Request<Body> {
        let request = headers.iter().fold(Request::builder().uri(path), |request, (name, value)| request.header(*name, *value));
        request.body(Body::empty()).unwrap()
    }

    /// Frames that come and then no more.
    struct Endless(u32);

    impl http_body::Body for Endless {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            if self.0 == 0 {
                return Poll::Pending;
            }
            self.0 -= 1;
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
        }
    }

    async fn next(body: &mut Body) -> Option<Result<Frame<Bytes>, Status>> {
        std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await
    }

    const WATCH: &str = "/elph.agent.v1.CallService/WatchCall";

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_counted_at_its_end_and_ends_at_the_callers_deadline() {
        let (metrics, mut service) = answering(Body::new(Endless(2)));
        let mut body = service.call(request(WATCH, &[("grpc-timeout", "3S")])).await.unwrap().into_body();
        assert!(next(&mut body).await.unwrap().unwrap().is_data());
        assert!(next(&mut body).await.unwrap().unwrap().is_data());
        assert_eq!(count(&metrics, "CallService/WatchCall", "DEADLINE_EXCEEDED"), 0);
        let began = Instant::now();
        let trailers = next(&mut body).await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!((trailers["grpc-status"].to_str().unwrap(), began.elapsed().as_secs()), ("4", 2));
        assert!(next(&mut body).await.is_none());
        drop(body);
        assert_eq!(count(&metrics, "CallService/WatchCall", "DEADLINE_EXCEEDED"), 1);
        assert_eq!(count(&metrics, "CallService/WatchCall", "CANCELLED"), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_goes_away_and_one_that_is_out_of_time_are_told_apart_and_labels_cannot_be_made_up() {
        let (metrics, mut service) = answering(Body::new(Endless(1)));
        drop(service.call(request(WATCH, &[])).await.unwrap());
        assert_eq!(count(&metrics, "CallService/WatchCall", "CANCELLED"), 1);
        let late = service.call(request("/elph.agent.v1.CallService/GetCall", &[("grpc-timeout", "100m")])).await.unwrap();
        assert_eq!(late.headers()["grpc-status"].to_str().unwrap(), "4");
        assert_eq!(count(&metrics, "CallService/GetCall", "DEADLINE_EXCEEDED"), 1);
        drop(service.call(request("/made.up/Name", &[("grpc-timeout", "1m")])).await.unwrap());
        assert_eq!(count(&metrics, OTHER, "DEADLINE_EXCEEDED"), 1);
    }

    #[tokio::test]
    async fn the_answer_carries_the_callers_request_id_or_a_new_one() {
        for (given, kept) in [("abc-1", true), ("with space", false), ("", false)] {
            let (_, mut service) = answering(Body::empty());
            let response = service.call(request(WATCH, &[(REQUEST_ID, given)])).await.unwrap();
            let id = response.headers()[REQUEST_ID].to_str().unwrap().to_owned();
            assert_eq!(id == given, kept, "{given}: {id}");
            assert!(!id.is_empty());
        }
    }

    #[test]
    fn deadlines_are_read_as_grpc_writes_them() {
        let read = |text: &str| timeout(request("/", &[("grpc-timeout", text)]).headers());
        assert_eq!(read("2S"), Some(Duration::from_secs(2)));
        assert_eq!(read("1500m"), Some(Duration::from_millis(1500)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for wrong in ["", "S", "123456789S", "1x", "-1S"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
