//! The switch's Call API server (TCP 8086): login and commands over HTTP, commands and events in WebSocket frames
//! (ecss10-interfaces §2). Sessions belong to one node and die with it.

mod arm;
mod command;
mod event;
mod frame;
mod http;
mod listener;
mod socket;
#[cfg(test)]
mod tests;
mod tree;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::Router;
use tokio::net::TcpListener;

use crate::{call_api::command::Catalogue, context::ServerContext, faults::Link, sessions::Sessions};

/// Seconds after which a session that nobody uses ends.
const IDLE_SECONDS: i64 = 600;
/// How often idle sessions are looked for.
const IDLE_LOOK: Duration = Duration::from_secs(30);

/// Applications that were cut because they did not read what the switch sent, in this process.
static SLOW_APPLICATIONS: AtomicU64 = AtomicU64::new(0);

/// How many applications were cut because they did not read what the switch sent, in this process.
pub fn slow_applications_cut() -> u64 {
    SLOW_APPLICATIONS.load(Ordering::Relaxed)
}

/// What every request is handled with.
#[derive(Clone)]
struct Server {
    ctx: ServerContext,
    catalogue: Arc<Catalogue>,
}

/// Serves the Call API on `listener` until the simulator ends.
pub async fn serve(listener: TcpListener, ctx: ServerContext) {
    let (shutdown, sessions) = (ctx.shutdown.clone(), ctx.sessions.clone());
    let catalogue = Arc::new(Catalogue::of(&ctx.dialect));
    let listener = listener::CallApiListener::start(listener, &ctx);
    let router = Router::new().fallback(http::handle).with_state(Server { ctx, catalogue });
    let service = router.into_make_service_with_connect_info::<listener::Peer>();
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = forget_idle(sessions) => {}
        result = axum::serve(listener, service) => {
            if let Err(error) = result {
                tracing::warn!(%error, "the call api server ended");
            }
        }
    }
}

/// Ends sessions that nobody uses any more: their applications left without a word.
async fn forget_idle(sessions: Sessions) {
    let mut looks = tokio::time::interval(IDLE_LOOK);
    loop {
        looks.tick().await;
        let count = sessions.expire_idle(Link::CallApi, IDLE_SECONDS);
        if count > 0 {
            tracing::info!(count, "idle call api sessions expired");
        }
    }
}
