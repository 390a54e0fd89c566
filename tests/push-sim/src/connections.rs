//! Taking connections: the accept loop that the three services share, with TLS, the gate below it and the cut.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rustls::ServerConfig;
use socket2::SockRef;
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

use crate::{
    device::Provider,
    fault::Effect,
    gate::{Gate, GatedStream},
    state::Core,
};

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections at the same time; more wait in the listener's queue.
const MAX_CONNECTIONS: usize = 4096;
/// Between two attempts to accept when the machine has no more descriptors.
const BREATH: Duration = Duration::from_millis(50);

/// What a service's connections have in common.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) provider: Provider,
    pub(crate) gate: Arc<Gate>,
    count: AtomicU64,
    /// Cancelled and replaced by each cut.
    cut: Mutex<CancellationToken>,
}

/// A connection that stands, with its number and the token that ends it.
pub(crate) struct Connected {
    pub(crate) stream: TlsStream<GatedStream>,
    pub(crate) number: u64,
    pub(crate) cut: CancellationToken,
    /// It came while the service was mute, and stays so.
    pub(crate) mute: bool,
}

// === impl Line ===

impl Line {
    pub(crate) fn new(provider: Provider) -> Self {
        Self { provider, gate: Arc::default(), count: AtomicU64::new(0), cut: Mutex::default() }
    }

    /// Ends every connection now.
    pub(crate) fn cut(&self) {
        std::mem::take(&mut *self.cut.lock()).cancel();
    }

    fn token(&self) -> CancellationToken {
        self.cut.lock().clone()
    }
}

/// Accepts until the simulator ends and hands each connection that stands to `serve`.
pub(crate) async fn accept<S, F>(listener: TcpListener, tls: Arc<ServerConfig>, line: Arc<Line>, core: Arc<Core>, serve: S)
where
    S: Fn(Connected) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let acceptor = TlsAcceptor::from(tls);
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut tasks = JoinSet::new();
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = core.shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        // those that have ended
        while tasks.try_join_next().is_some() {}
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(BREATH).await;
                continue;
            }
        };
        if core.faults.of_connections(line.provider, |effect| matches!(effect, Effect::RefuseConnections)) {
            // a reset, as from a port where nobody listens
            _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
            continue;
        }
        _ = socket.set_nodelay(true);
        let mute = core.faults.of_connections(line.provider, |effect| matches!(effect, Effect::Mute));
        let meter = core.meters.of(line.provider);
        meter.connections.fetch_add(1, Ordering::Relaxed);
        let number = line.count.fetch_add(1, Ordering::Relaxed) + 1;
        let (acceptor, line, core, serve) = (acceptor.clone(), line.clone(), core.clone(), serve.clone());
        tasks.spawn(async move {
            let _permit = permit;
            let cut = line.token();
            let meter = core.meters.of(line.provider);
            meter.open.fetch_add(1, Ordering::Relaxed);
            let whole = async {
                let handshake = acceptor.accept(GatedStream::new(socket, line.gate.clone()));
                match tokio::time::timeout(HANDSHAKE, handshake).await {
                    Ok(Ok(stream)) => serve(Connected { stream, number, cut: cut.clone(), mute }).await,
                    Ok(Err(error)) => {
                        meter.failed_handshakes.fetch_add(1, Ordering::Relaxed);
                        tracing::debug!(%error, number, "tls handshake failed");
                    }
                    // a half-open peer hangs up as little as it answers
                    Err(_) if line.gate.is_frozen() => cut.cancelled().await,
                    Err(_) => _ = meter.failed_handshakes.fetch_add(1, Ordering::Relaxed),
                }
            };
            tokio::select! {
                () = whole => {}
                () = cut.cancelled() => {}
                () = core.shutdown.cancelled() => {}
            }
            meter.open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}
