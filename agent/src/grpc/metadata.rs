//! The bound on a request's metadata. HTTP/2 answers too much of it with status 431 (RFC 6585), which to a gRPC client is `UNKNOWN`, the
//! code of commands that may have been executed. So what is too much is answered here, as gRPC and with a reason; far more never gets
//! this far.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll},
};

use elph_proto::reason::Reason;
use futures_util::future::Either;
use http::{HeaderMap, Request, Response};
use tonic::body::Body;
use tower::{Layer, Service};

/// Most bytes of metadata: room for a moderator's token with many roles.
const MOST: usize = 16 * 1024;

/// Beyond this HTTP/2 refuses by itself, and ends the connection if it is far beyond.
pub(super) const BEFORE_IT_IS_READ: u32 = 64 * 1024;

/// What an entry counts beside its text (RFC 9113, section 6.5.2).
const ENTRY: usize = 32;

/// The layer around all services.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounded;

/// A service that is spared requests with too much metadata.
#[derive(Debug, Clone)]
pub(super) struct Sparing<S>(S);

/// How much metadata there is, as HTTP/2 counts it.
fn size(metadata: &HeaderMap) -> usize {
    metadata.iter().map(|(name, value)| name.as_str().len() + value.len() + ENTRY).sum()
}

// === impl Bounded ===

impl<S> Layer<S> for Bounded {
    type Service = Sparing<S>;

    fn layer(&self, inner: S) -> Sparing<S> {
        Sparing(inner)
    }
}

// === impl Sparing ===

impl<S> Service<Request<Body>> for Sparing<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<Ready<Result<Response<Body>, Infallible>>, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let size = size(request.headers());
        if size <= MOST {
            return Either::Right(self.0.call(request));
        }
        let text = format!("the metadata has {size} bytes, 32 for each entry included; at most {MOST} are taken");
        Either::Left(ready(Ok(Reason::MetadataTooLarge.status(text).into_http())))
    }
}
