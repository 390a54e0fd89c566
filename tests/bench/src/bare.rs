//! The floor: a tonic server that does nothing but pass the same encoded messages on, in a process of its own. They come over one Unix
//! socket, as the agent's come from the switch, and go out over another.

use std::{
    convert::Infallible,
    io::Write as _,
    path::Path,
    pin::Pin,
    process::Stdio,
    task::{Context as TaskContext, Poll},
    time::Instant,
};

use anyhow::{Context, bail};
use bytes::{Buf, BufMut, Bytes};
use elph_proto::v1;
use futures_util::{Stream, StreamExt};
use prost::Message;
use tokio::{
    io::{AsyncReadExt, BufReader},
    net::UnixListener,
    process::{Child, Command},
    sync::broadcast,
};
use tokio_stream::wrappers::{BroadcastStream, UnixListenerStream};
use tonic::{
    Request, Response, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::{Body, BoxFuture, Service, StdError, http},
    server::{Grpc, NamedService, ServerStreamingService},
};

use crate::feed::PATIENCE;

/// Messages that wait for a slow subscriber at most, as many as the agent's journal holds.
const BOUND: usize = 16_384;
const FEED: &str = "feed.sock";
const GRPC: &str = "grpc.sock";

/// The server as a process.
pub(crate) struct BareTonic {
    _child: Child,
    directory: tempfile::TempDir,
}

/// Where messages are put in.
pub(crate) struct Publisher {
    stream: std::os::unix::net::UnixStream,
    scratch: Vec<u8>,
}

impl BareTonic {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--bare-tonic").arg(directory.path()).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        let child = command.spawn().context("start the bare tonic server")?;
        let began = Instant::now();
        while !directory.path().join(GRPC).exists() {
            if began.elapsed() > PATIENCE {
                bail!("the bare tonic server did not start");
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        Ok(Self { _child: child, directory })
    }

    pub(crate) fn socket(&self) -> std::path::PathBuf {
        self.directory.path().join(GRPC)
    }

    pub(crate) fn publisher(&self) -> anyhow::Result<Publisher> {
        Ok(Publisher { stream: std::os::unix::net::UnixStream::connect(self.directory.path().join(FEED))?, scratch: Vec::new() })
    }
}

impl Publisher {
    pub(crate) fn send(&mut self, frame: &[u8]) -> anyhow::Result<()> {
        self.scratch.clear();
        self.scratch.extend_from_slice(&u32::try_from(frame.len())?.to_be_bytes());
        self.scratch.extend_from_slice(frame);
        self.stream.write_all(&self.scratch).context("the bare tonic server takes no messages")
    }
}

/// Runs the server until it is killed.
pub(crate) async fn serve(directory: &Path) -> anyhow::Result<()> {
    let (messages, _) = broadcast::channel(BOUND);
    let feed = UnixListener::bind(directory.join(FEED))?;
    tokio::spawn(accept(feed, messages.clone()));
    let incoming = UnixListenerStream::new(UnixListener::bind(directory.join(GRPC))?);
    let server = tonic::transport::Server::builder().add_service(Events(messages));
    Ok(server.serve_with_incoming(incoming).await?)
}

async fn accept(feed: UnixListener, messages: broadcast::Sender<Bytes>) {
    while let Ok((stream, _)) = feed.accept().await {
        let messages = messages.clone();
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            while let Ok(length) = stream.read_u32().await {
                let mut frame = vec![0; length as usize];
                if stream.read_exact(&mut frame).await.is_err() {
                    return;
                }
                // Nobody subscribed is no error.
                let _ = messages.send(frame.into());
            }
        });
    }
}

#[derive(Clone)]
struct Events(broadcast::Sender<Bytes>);

impl NamedService for Events {
    const NAME: &'static str = "elph.agent.v1.EventService";
}

impl<B> Service<http::Request<B>> for Events
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let subscribe = Subscribe(self.0.clone());
        Box::pin(async move { Ok(Grpc::new(RawServer).server_streaming(subscribe, request).await) })
    }
}

struct Subscribe(broadcast::Sender<Bytes>);

type Frames = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

impl ServerStreamingService<v1::SubscribeRequest> for Subscribe {
    type Response = Bytes;
    type ResponseStream = Frames;
    type Future = BoxFuture<Response<Frames>, Status>;

    fn call(&mut self, _: Request<v1::SubscribeRequest>) -> Self::Future {
        let frames = BroadcastStream::new(self.0.subscribe()).map(|frame| frame.map_err(|error| Status::data_loss(error.to_string())));
        Box::pin(async move { Ok(Response::new(Box::pin(frames) as Frames)) })
    }
}

struct RawServer;

impl Codec for RawServer {
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

impl Encoder for RawServer {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, frame: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(frame);
        Ok(())
    }
}

impl Decoder for RawServer {
    type Item = v1::SubscribeRequest;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<v1::SubscribeRequest>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        v1::SubscribeRequest::decode(bytes).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}
