//! `EventService`. The journal holds every event encoded once; here the bytes go out as they are, so that a subscriber costs a copy and
//! not an encoding.

use std::{
    collections::{HashSet, VecDeque},
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes};
use elph_model::{Filter, Frame, Start, Subscription};
use elph_proto::{
    reason::Reason,
    v1::{self, subscribe_request},
};
use futures_util::Stream;
use mediator_client::switch::Domain;
use prost::Message;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::{Body, BoxFuture, Service, StdError, http},
    server::{Grpc, NamedService, ServerStreamingService},
};

use super::{Api, check::Check, observe::undecodable};
use crate::config::Scope;

/// Filters in one request at most.
const MAX_FILTERS: usize = 1000;

const SUBSCRIBE: &str = "/elph.agent.v1.EventService/Subscribe";

/// The service, over encoded messages.
#[derive(Clone)]
pub(super) struct EventServer(pub(super) Api);

impl NamedService for EventServer {
    const NAME: &'static str = "elph.agent.v1.EventService";
}

impl<B> Service<http::Request<B>> for EventServer
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let api = self.0.clone();
        Box::pin(async move {
            if request.uri().path() != SUBSCRIBE {
                return Ok(Status::unimplemented("EventService has no such method").into_http());
            }
            let most = usize::try_from(api.shared.config.load().grpc.max_message_bytes.0).unwrap_or(usize::MAX);
            let mut grpc = Grpc::new(FrameCodec).max_decoding_message_size(most);
            Ok(grpc.server_streaming(Subscribe(api), request).await)
        })
    }
}

struct Subscribe(Api);

type Frames = Pin<Box<dyn Stream<Item = Result<Frame, Status>> + Send>>;

impl ServerStreamingService<v1::SubscribeRequest> for Subscribe {
    type Response = Frame;
    type ResponseStream = Frames;
    type Future = BoxFuture<Response<Frames>, Status>;

    fn call(&mut self, request: Request<v1::SubscribeRequest>) -> Self::Future {
        let api = self.0.clone();
        Box::pin(async move { api.subscribe(request).await })
    }
}

impl Api {
    async fn subscribe(&self, request: Request<v1::SubscribeRequest>) -> Result<Response<Frames>, Status> {
        let asked = request.get_ref();
        let mut check = Check::default();
        for (field, count) in
            [("domains", asked.domains.len()), ("aliases", asked.aliases.len()), ("conference_ids", asked.conference_ids.len())]
        {
            if count > MAX_FILTERS {
                check.say(field, format!("must hold at most {MAX_FILTERS}"));
            }
        }
        check.enums("kinds", &asked.kinds, |kind| v1::EventKind::try_from(kind).is_ok());
        for (index, alias) in asked.aliases.iter().enumerate().take(MAX_FILTERS) {
            check.alias(&format!("aliases[{index}]"), alias);
        }
        for (index, id) in asked.conference_ids.iter().enumerate().take(MAX_FILTERS) {
            check.id(&format!("conference_ids[{index}]"), id);
        }
        let domains: Vec<Domain> = asked
            .domains
            .iter()
            .take(MAX_FILTERS)
            .enumerate()
            .filter_map(|(index, name)| check.domain(&format!("domains[{index}]"), name))
            .collect();
        let heartbeat = match &asked.heartbeat_interval {
            None => Some(self.shared.config.load().grpc.heartbeat.0),
            Some(interval) => Duration::try_from(*interval).ok().filter(|it| (1..=300).contains(&it.as_secs())),
        };
        if heartbeat.is_none() {
            check.say("heartbeat_interval", "must be from 1 s to 5 min");
        }
        let heartbeat = check.done(heartbeat)?;
        let principal = self.authorize(&request, Scope::Events, false, None).await?;
        let visible = principal.domains().narrowed(principal.caller(), &domains);
        let visible = visible.map_err(|denied| self.denied(&request, denied, domains.first(), None))?;
        let filter = Filter {
            kinds: asked.kinds().collect(),
            domains: Some(visible.iter().map(ToString::to_string).collect::<HashSet<_>>()),
            aliases: asked.aliases.iter().cloned().collect(),
            conferences: asked.conference_ids.iter().cloned().collect(),
        };
        let start = match &asked.start {
            None | Some(subscribe_request::Start::Now(_)) => Start::Now,
            Some(subscribe_request::Start::Snapshot(_)) => Start::Snapshot,
            Some(subscribe_request::Start::After(cursor)) => Start::After(cursor.clone()),
        };
        let permit = self.subscriber()?;
        let open = self.shared.metrics.event_subscribers.clone();
        open.inc();
        let state = State {
            subscription: self.core().subscribe(filter, start),
            ready: VecDeque::new(),
            heartbeat,
            stop: self.shared.shutdown.soft.clone(),
            ended: false,
            _open: Open { permit, open },
        };
        Ok(Response::new(Box::pin(futures_util::stream::unfold(state, State::next))))
    }
}

/// A stream that is open, for as long as it is.
struct Open {
    #[expect(dead_code, reason = "held, not read")]
    permit: OwnedSemaphorePermit,
    open: prometheus_client::metrics::gauge::Gauge,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.open.dec();
    }
}

struct State {
    subscription: Subscription,
    ready: VecDeque<Frame>,
    heartbeat: Duration,
    stop: CancellationToken,
    ended: bool,
    _open: Open,
}

impl State {
    async fn next(mut self) -> Option<(Result<Frame, Status>, Self)> {
        if self.ended {
            return None;
        }
        if self.ready.is_empty() {
            match self.stop.clone().run_until_cancelled(self.subscription.next(self.heartbeat)).await {
                Some(frames) => self.ready.extend(frames),
                None => {
                    self.ended = true;
                    return Some((Err(Reason::ShuttingDown.status("the agent is shutting down; resume after the last cursor")), self));
                }
            }
        }
        let frame = self.ready.pop_front()?;
        Some((Ok(frame), self))
    }
}

/// Requests decoded, answers already encoded.
struct FrameCodec;

impl Codec for FrameCodec {
    type Encode = Bytes;
    type Decode = v1::SubscribeRequest;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for FrameCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, frame: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(frame);
        Ok(())
    }
}

impl Decoder for FrameCodec {
    type Item = v1::SubscribeRequest;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<v1::SubscribeRequest>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        v1::SubscribeRequest::decode(bytes).map(Some).map_err(|error| undecodable(&error))
    }
}
