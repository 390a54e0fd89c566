//! The gRPC listeners: a Unix socket and mutual-TLS TCP, as streams of connections that tonic can serve. Both share one bound on
//! connections; a handshake has a deadline and holds nobody else up.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use ecss_switch::backoff::Backoff;
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use crate::tls::ServerTls;

/// Connections that wait to be taken up by the server.
const PENDING: usize = 64;

/// The bound on connections, both listeners together. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Connections {
    places: Arc<Semaphore>,
    open: Gauge,
}

/// A connection that counts against the bound for as long as it lives.
#[derive(Debug)]
pub struct Counted<T> {
    io: T,
    place: Place,
}

#[derive(Debug)]
struct Place {
    open: Gauge,
    _permit: OwnedSemaphorePermit,
}

/// A stream of connections.
pub type Incoming<T> = ReceiverStream<io::Result<Counted<T>>>;

/// Binds the Unix socket. A socket that a dead process left behind is replaced; a live one is not.
pub async fn bind_unix(path: &Path, mode: u32) -> io::Result<UnixListener> {
    if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        if UnixStream::connect(path).await.is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process serves this socket"));
        }
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(listener)
}

/// Takes connections from the Unix socket until `stop`.
pub fn unix(listener: UnixListener, connections: Connections, stop: CancellationToken) -> Incoming<UnixStream> {
    let (sender, receiver) = mpsc::channel(PENDING);
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        let mut backoff = accept_backoff();
        while let Some(place) = connections.place().await {
            match listener.accept().await {
                Ok((io, _)) => {
                    backoff.reset();
                    if sender.send(Ok(Counted::new(io, place))).await.is_err() {
                        return;
                    }
                }
                Err(error) => pause(&mut backoff, &error).await,
            }
        }
    }));
    ReceiverStream::new(receiver)
}

/// Takes connections from the TCP listener until `stop`, TLS handshake included.
pub fn tls(
    listener: TcpListener,
    tls: Arc<ServerTls>,
    handshake_timeout: Duration,
    connections: Connections,
    stop: CancellationToken,
) -> Incoming<TlsStream<TcpStream>> {
    let (sender, receiver) = mpsc::channel(PENDING);
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        let mut backoff = accept_backoff();
        while let Some(place) = connections.place().await {
            let (io, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    pause(&mut backoff, &error).await;
                    continue;
                }
            };
            backoff.reset();
            // The number of these tasks is bounded by the permits.
            let (tls, sender) = (tls.clone(), sender.clone());
            tokio::spawn(async move {
                if let Some(io) = handshake(io, peer, &tls, handshake_timeout).await {
                    // The server has gone: so does the connection.
                    let _ = sender.send(Ok(Counted::new(io, place))).await;
                }
            });
        }
    }));
    ReceiverStream::new(receiver)
}

async fn handshake(io: TcpStream, peer: SocketAddr, tls: &ServerTls, timeout: Duration) -> Option<TlsStream<TcpStream>> {
    if let Err(error) = io.set_nodelay(true) {
        tracing::debug!(%peer, %error, "connection lost before the tls handshake");
        return None;
    }
    let acceptor = tokio_rustls::TlsAcceptor::from(tls.current().config.clone());
    match tokio::time::timeout(timeout, acceptor.accept(io)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "tls handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!(%peer, "tls handshake took too long");
            None
        }
    }
}

fn accept_backoff() -> Backoff {
    Backoff::new(Duration::from_millis(20), Duration::from_secs(2))
}

/// Out of file descriptors, most likely: trying at once would burn the processor.
async fn pause(backoff: &mut Backoff, error: &io::Error) {
    tracing::warn!(%error, "connection could not be accepted");
    tokio::time::sleep(backoff.next_wait()).await;
}

// === impl Connections ===

impl Connections {
    /// At most this many; `open` shows how many are served.
    pub fn new(most: u32, open: Gauge) -> Self {
        Self { places: Arc::new(Semaphore::new(most as usize)), open }
    }

    /// Waits for a place.
    async fn place(&self) -> Option<Place> {
        let permit = self.places.clone().acquire_owned().await.ok()?;
        Some(Place { open: self.open.clone(), _permit: permit })
    }
}

impl<T> Counted<T> {
    fn new(io: T, place: Place) -> Self {
        place.open.inc();
        Self { io, place }
    }
}

impl<T> Drop for Counted<T> {
    fn drop(&mut self) {
        self.place.open.dec();
    }
}

// === impl Counted ===

impl<T: Connected> Connected for Counted<T> {
    type ConnectInfo = T::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.io.connect_info()
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffers: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
