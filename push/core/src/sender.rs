//! The one trait behind which a provider's sender is.

use std::{future::Future, pin::Pin};

use jiff::Timestamp;

use crate::{Outcome, Provider, Request};

/// An attempt under way. It ends within the sender's own deadline; dropping it may leave the push sent.
pub type Sending = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// How many requests a sender takes now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Requests at the same time, over all connections; more wait inside the sender.
    pub concurrent: usize,
    /// Whether there is a connection at all.
    pub connected: bool,
}

/// Sends to one provider with one set of credentials. It does not retry, except what the provider surely has not processed and
/// the connection alone is to blame for; it keeps its connections and tokens by itself.
pub trait Sender: Send + Sync + 'static {
    /// Whose.
    fn provider(&self) -> Provider;

    /// Starts one attempt. Calls are started before all others that wait inside.
    fn send(&self, request: Request) -> Sending;

    /// Connects and fetches tokens ahead of the first push, in the runtime that it is called in: a call does not wait for a handshake.
    fn warm(&self) {}

    /// What it takes now.
    fn capacity(&self) -> Capacity;

    /// When key, certificate or account stops being valid, where that can be known.
    fn expires_at(&self) -> Option<Timestamp> {
        None
    }

    /// Waits until what is under way has been answered, then closes the connections. Sends that come later are `NotSent`.
    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}
