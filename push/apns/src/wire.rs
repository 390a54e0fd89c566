//! The byte stream under HTTP/2. It notes that something was heard, and it puts small writes together: one TLS record and one system
//! call for many requests.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use push_core::connect::BoxedIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Writes shorter than this are gathered.
const SMALL: usize = 8 * 1024;
/// What is gathered is written when it is this much: the payload of the longest TLS record.
const GATHERED: usize = 16 * 1024;

pub(crate) struct Wire {
    io: BoxedIo,
    gathered: Vec<u8>,
    written: usize,
    heard: Arc<AtomicBool>,
}

// === impl Wire ===

impl Wire {
    pub(crate) fn new(io: BoxedIo, heard: Arc<AtomicBool>) -> Self {
        Self { io, gathered: Vec::with_capacity(GATHERED), written: 0, heard }
    }

    /// Writes what was gathered.
    fn poll_gathered(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.gathered.get(self.written..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut self.io).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        self.gathered.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.heard.store(true, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

/// `is_write_vectored` stays false: HTTP/2 then copies bodies of up to 1 KiB behind their headers instead of writing each by itself.
impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.gathered.len() + buf.len() > GATHERED {
            ready!(self.poll_gathered(cx))?;
        }
        if self.gathered.is_empty() && buf.len() >= SMALL {
            return Pin::new(&mut self.io).poll_write(cx, buf);
        }
        let taken = buf.get(..GATHERED).unwrap_or(buf);
        self.gathered.extend_from_slice(taken);
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_gathered(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_gathered(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
