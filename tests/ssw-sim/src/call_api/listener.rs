//! Connections that faults can cut: each carries a token, and reads and writes fail once it is cancelled.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{extract::connect_info::Connected, serve::IncomingStream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{sleep, timeout},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::{context::ServerContext, faults::Link};

/// Most connections of one listener.
const MOST_CONNECTIONS: usize = 1024;
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What a handler knows of its connection.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// Cuts the connection when cancelled.
    pub(super) cut: CancellationToken,
}

impl Connected<IncomingStream<'_, CallApiListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, CallApiListener>) -> Self {
        stream.remote_addr().clone()
    }
}

trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}

/// A connection that ends when its token or the simulator says so.
pub(super) struct CutIo {
    io: Box<dyn Transport>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
    _place: OwnedSemaphorePermit,
}

/// Accepts connections; TLS handshakes run beside each other.
pub(super) struct CallApiListener {
    ready: mpsc::Receiver<(CutIo, Peer)>,
}

// === impl CallApiListener ===

impl CallApiListener {
    pub(super) fn start(listener: TcpListener, ctx: &ServerContext) -> Self {
        let (sender, ready) = mpsc::channel(64);
        tokio::spawn(accept(listener, ctx.clone(), sender));
        Self { ready }
    }
}

impl axum::serve::Listener for CallApiListener {
    type Io = CutIo;
    type Addr = Peer;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(accepted) => accepted,
            // The simulator ends; `serve` ends with it.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(Peer { cut: CancellationToken::new() })
    }
}

async fn accept(listener: TcpListener, ctx: ServerContext, sender: mpsc::Sender<(CutIo, Peer)>) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = ctx.shutdown.cancelled() => return,
            () = sender.closed() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, mostly: it passes.
                tracing::warn!(%error, "cannot accept a call api connection");
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            tracing::warn!("too many call api connections");
            continue;
        };
        if ctx.faults.accepts(ctx.node) {
            tokio::spawn(prepare(stream, place, ctx.clone(), sender.clone()));
        }
    }
}

async fn prepare(stream: TcpStream, place: OwnedSemaphorePermit, ctx: ServerContext, sender: mpsc::Sender<(CutIo, Peer)>) {
    let cut = ctx.faults.cut_token(Link::CallApi, ctx.node).child_token();
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot switch off delays of a call api connection");
    }
    let io: Box<dyn Transport> = match &ctx.tls {
        None => Box::new(stream),
        Some(acceptor) => match timeout(HANDSHAKE, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => Box::new(stream),
            Ok(Err(error)) => return tracing::debug!(%error, "tls handshake of a call api connection failed"),
            Err(_) => return tracing::debug!("tls handshake of a call api connection timed out"),
        },
    };
    let io = CutIo {
        io,
        cut: Box::pin(cut.clone().cancelled_owned()),
        shutdown: Box::pin(ctx.shutdown.clone().cancelled_owned()),
        _place: place,
    };
    // The receiver is gone only when the server ends.
    let _ = sender.send((io, Peer { cut })).await;
}

// === impl CutIo ===

impl CutIo {
    /// Fails once the connection is cut; else the task is woken when it will be.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.cut.as_mut().poll(cx).is_ready() || self.shutdown.as_mut().poll(cx).is_ready() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

impl AsyncRead for CutIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for CutIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
