//! The switch's CSTA server (TCP 4721, TLS 4722): ECMA-323 edition 3 over Annex J.2 frames (ecss10-interfaces §3).
//! Third-party call control is enabled: calls that no application started are visible too.

mod answer;
mod element;
mod event;
mod frame;
mod outbox;
mod request;
mod service;
mod session;
mod style;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};

use crate::{context::ServerContext, faults::Link};

/// Most connections of one listener.
const MOST_CONNECTIONS: usize = 1024;
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Applications that were cut because they did not read what the switch sent, in this process.
static SLOW_APPLICATIONS: AtomicU64 = AtomicU64::new(0);

/// How many applications were cut because they did not read what the switch sent, in this process.
pub fn slow_applications_cut() -> u64 {
    SLOW_APPLICATIONS.load(Ordering::Relaxed)
}

/// Serves CSTA on `listener` until the simulator ends.
pub async fn serve(listener: TcpListener, ctx: ServerContext) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = ctx.shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, mostly: it passes.
                tracing::warn!(%error, "cannot accept a csta connection");
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            tracing::warn!("too many csta connections");
            continue;
        };
        if !ctx.faults.accepts(ctx.node) {
            continue;
        }
        let ctx = ctx.clone();
        tokio::spawn(async move {
            connection(stream, ctx).await;
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, ctx: ServerContext) {
    let cut = ctx.faults.cut_token(Link::Csta, ctx.node);
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot switch off delays of a csta connection");
    }
    match ctx.tls.clone() {
        None => session::run(stream, ctx, cut).await,
        Some(acceptor) => match timeout(HANDSHAKE, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => session::run(stream, ctx, cut).await,
            Ok(Err(error)) => tracing::debug!(%error, "tls handshake of a csta connection failed"),
            Err(_) => tracing::debug!("tls handshake of a csta connection timed out"),
        },
    }
}
