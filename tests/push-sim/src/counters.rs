//! How much of what came: per provider, and what APNs clients did that Apple forbids.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use serde::Serialize;

use crate::{device::Provider, http2::Tally};

/// Different reasons that are counted apart; the rest is `other`.
const MAX_REASONS: usize = 200;

/// What a provider has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ProviderCounters {
    /// Connections that came.
    pub connections: u64,
    /// Connections that are open.
    pub open_connections: u64,
    /// Handshakes that failed: wrong protocol, expired or foreign client certificate.
    pub failed_handshakes: u64,
    /// Requests that were read whole.
    pub requests: u64,
    /// Requests that were accepted.
    pub accepted: u64,
    /// Refusals, by reason (or status, where there is no reason).
    pub refused: BTreeMap<String, u64>,
}

/// What an APNs client did that it must not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ApnsViolations {
    /// Streams opened above the SETTINGS_MAX_CONCURRENT_STREAMS that the client had acknowledged.
    pub streams_above_limit: u64,
    /// Streams refused with REFUSED_STREAM: the above, and those that were on their way when the limit fell.
    pub streams_refused: u64,
    /// Second streams opened before the first valid provider token of a connection.
    pub streams_before_first_token: u64,
    /// Streams opened after a GOAWAY (some may have been on their way).
    pub streams_after_goaway: u64,
    /// Provider tokens renewed too early.
    pub early_token_updates: u64,
    /// Connections that broke RFC 9113.
    pub protocol_errors: u64,
    /// Not a violation: PINGs that came.
    pub pings: u64,
    /// Not a violation: streams that clients gave up.
    pub resets: u64,
}

/// Everything that is counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Apple's.
    pub apns: ProviderCounters,
    /// Google's messages.
    pub fcm: ProviderCounters,
    /// Google's token endpoint (its connections are FCM's).
    pub fcm_token: ProviderCounters,
    /// The browsers'.
    pub web_push: ProviderCounters,
    /// What APNs clients did.
    pub apns_clients: ApnsViolations,
    /// Arrivals that are no longer in the list, for it is bounded.
    pub arrivals_dropped: u64,
}

/// The live form of [`ProviderCounters`].
#[derive(Debug, Default)]
pub(crate) struct Meter {
    pub(crate) connections: AtomicU64,
    pub(crate) open: AtomicU64,
    pub(crate) failed_handshakes: AtomicU64,
    requests: AtomicU64,
    accepted: AtomicU64,
    refused: Mutex<BTreeMap<String, u64>>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Meters {
    pub(crate) apns: Meter,
    pub(crate) fcm: Meter,
    pub(crate) fcm_token: Meter,
    pub(crate) web_push: Meter,
    pub(crate) apns_clients: Mutex<ApnsViolations>,
}

// === impl Meter ===

impl Meter {
    pub(crate) fn request(&self, refused: Option<&str>) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let Some(reason) = refused else {
            self.accepted.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let mut reasons = self.refused.lock();
        let reason = if reasons.len() < MAX_REASONS || reasons.contains_key(reason) { reason } else { "other" };
        match reasons.get_mut(reason) {
            Some(count) => *count += 1,
            None => _ = reasons.insert(reason.to_owned(), 1),
        }
    }

    fn read(&self) -> ProviderCounters {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ProviderCounters {
            connections: get(&self.connections),
            open_connections: get(&self.open),
            failed_handshakes: get(&self.failed_handshakes),
            requests: get(&self.requests),
            accepted: get(&self.accepted),
            refused: self.refused.lock().clone(),
        }
    }
}

// === impl Meters ===

impl Meters {
    pub(crate) fn of(&self, provider: Provider) -> &Meter {
        match provider {
            Provider::Apns => &self.apns,
            Provider::Fcm => &self.fcm,
            Provider::FcmToken => &self.fcm_token,
            Provider::WebPush => &self.web_push,
        }
    }

    /// Adds what a connection's state machine has seen.
    pub(crate) fn add(&self, tally: Tally) {
        if tally != Tally::default() {
            let mut clients = self.apns_clients.lock();
            clients.streams_above_limit += tally.above_limit;
            clients.streams_refused += tally.refused;
            clients.streams_after_goaway += tally.above_goaway;
            clients.pings += tally.pings;
            clients.resets += tally.resets;
        }
    }

    pub(crate) fn read(&self, arrivals_dropped: u64) -> Counters {
        Counters {
            apns: self.apns.read(),
            fcm: self.fcm.read(),
            fcm_token: self.fcm_token.read(),
            web_push: self.web_push.read(),
            apns_clients: self.apns_clients.lock().clone(),
            arrivals_dropped,
        }
    }
}
