//! What is counted. Labels never hold a person, a client or an address.

use elph_kit::metrics::Metrics as Registry;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Outcome {
    /// In a word.
    pub outcome: &'static str,
}

/// How tokens were asked for, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Issued {
    /// `grant_type`.
    pub grant: &'static str,
    /// `ok`, or the error.
    pub outcome: &'static str,
}

/// The provider's metrics.
#[derive(Default)]
pub(crate) struct Metrics {
    /// Attempts to sign in.
    pub sign_ins: Family<Outcome, Counter>,
    /// Requests at the token endpoint.
    pub tokens: Family<Issued, Counter>,
    /// Codes and refresh tokens that came a second time: somebody has stolen them, or a client is broken.
    pub reuses: Counter,
    /// Messages to clients that a session has ended.
    pub logouts: Family<Outcome, Counter>,
}

impl Metrics {
    /// Puts them into the registry.
    pub(crate) fn register(&self, registry: &Registry) {
        registry.register(|registry| {
            registry.register("sso_sign_ins", "Attempts to sign in, by outcome", self.sign_ins.clone());
            registry.register("sso_token_requests", "Requests at the token endpoint, by grant and outcome", self.tokens.clone());
            registry.register("sso_token_reuses", "Codes and refresh tokens that were used a second time", self.reuses.clone());
            registry.register("sso_backchannel_logouts", "Messages to clients that a session has ended, by outcome", self.logouts.clone());
        });
    }

    pub(crate) fn sign_in(&self, outcome: &'static str) {
        self.sign_ins.get_or_create(&Outcome { outcome }).inc();
    }
}
