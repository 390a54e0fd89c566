//! What can go wrong below TLS: a socket that neither reads nor writes while a provider is half-open, or reads only so fast.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Sleep,
};

/// A slow reader takes what a tenth of a second allows, then waits for the next.
const SLICE: Duration = Duration::from_millis(100);

/// The state that all sockets of a provider look at.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    frozen: AtomicBool,
    /// Bytes read per second; 0 = as fast as they come.
    read_rate: AtomicU32,
    waiting: Mutex<Vec<Waker>>,
}

/// A socket behind a gate.
#[derive(Debug)]
pub(crate) struct GatedStream {
    socket: TcpStream,
    gate: Arc<Gate>,
    allowance: usize,
    pause: Option<Pin<Box<Sleep>>>,
}

// === impl Gate ===

impl Gate {
    pub(crate) fn freeze(&self, frozen: bool) {
        self.frozen.store(frozen, Ordering::SeqCst);
        for waker in std::mem::take(&mut *self.waiting.lock()) {
            waker.wake();
        }
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::SeqCst)
    }

    pub(crate) fn slow_reading(&self, bytes_per_second: u32) {
        self.read_rate.store(bytes_per_second, Ordering::SeqCst);
    }

    /// Ready when bytes may pass. Wakers are of connections, whose number is bounded; one that asks twice is kept once.
    fn poll_open(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.frozen.load(Ordering::SeqCst) {
            return Poll::Ready(());
        }
        {
            let mut waiting = self.waiting.lock();
            if !waiting.iter().any(|known| known.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
        }
        // opened meanwhile?
        if self.frozen.load(Ordering::SeqCst) { Poll::Pending } else { Poll::Ready(()) }
    }
}

// === impl GatedStream ===

impl GatedStream {
    pub(crate) fn new(socket: TcpStream, gate: Arc<Gate>) -> Self {
        Self { socket, gate, allowance: 0, pause: None }
    }

    fn poll_slow_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>, rate: u32) -> Poll<io::Result<()>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        if self.allowance == 0 {
            self.allowance = (rate as usize / 10).max(1);
        }
        let mut part = buf.take(self.allowance);
        let before = part.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut part))?;
        let read = part.filled().len() - before;
        buf.initialize_unfilled_to(read);
        buf.advance(read);
        self.allowance -= read.min(self.allowance);
        if self.allowance == 0 {
            self.pause = Some(Box::pin(tokio::time::sleep(SLICE)));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for GatedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.gate.poll_open(cx));
        let rate = self.gate.read_rate.load(Ordering::Relaxed);
        if rate == 0 { Pin::new(&mut self.socket).poll_read(cx, buf) } else { self.poll_slow_read(cx, buf, rate) }
    }
}

impl AsyncWrite for GatedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.gate.poll_open(cx));
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        ready!(self.gate.poll_open(cx));
        Pin::new(&mut self.socket).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.gate.poll_open(cx));
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
