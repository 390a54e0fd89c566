//! How the simulator is set up, and where it then listens.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    apns::{FirstToken, TokenUpdates},
    apple::Environment,
    arrival::Record,
};

/// Streams that Apple lets a connection have.
const MAX_STREAMS: u32 = 1000;

/// Ports; 0 = any free one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ports {
    /// Apple's.
    pub apns: u16,
    /// Google's, both the token endpoint and FCM.
    pub fcm: u16,
    /// The browsers'.
    pub web_push: u16,
    /// The control API.
    pub control: u16,
}

/// How the simulator is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Seed of made-up ids and of the team's id; `None` = a random one. Keys and access tokens are never of a seed.
    pub seed: Option<u64>,
    /// Address to listen on.
    pub host: IpAddr,
    /// Ports.
    pub ports: Ports,
    /// What is kept of requests.
    pub record: Record,
    /// How many requests are kept at most.
    pub keep: usize,
    /// How long every answer to a push takes.
    pub delay: Duration,
    /// Whether device tokens that nobody registered are accepted, if they have the right form.
    pub accept_unknown_devices: bool,
    /// Bundle ids of the team and of the client certificate in `directory`; empty = any.
    pub topics: Vec<String>,
    /// Which of Apple's environments this is.
    pub environment: Environment,
    /// Apple's rule for new token-authenticated connections.
    pub first_token: FirstToken,
    /// SETTINGS_MAX_CONCURRENT_STREAMS of APNs.
    pub max_streams: u32,
    /// Where early renewals of provider tokens are refused.
    pub token_updates: TokenUpdates,
    /// Google project of the service account.
    pub project: String,
    /// How long Google's access tokens are good.
    pub fcm_token_lifetime: Duration,
    /// Where keys, certificates and accounts are written for a demo.
    pub directory: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: Some(0),
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            ports: Ports::default(),
            record: Record::All,
            keep: 100_000,
            delay: Duration::ZERO,
            accept_unknown_devices: false,
            topics: vec!["org.elph.phone".to_owned()],
            environment: Environment::Production,
            first_token: FirstToken::Refuse,
            max_streams: MAX_STREAMS,
            token_updates: TokenUpdates::PerConnection,
            project: "elph-demo".to_owned(),
            fcm_token_lifetime: Duration::from_secs(3599),
            directory: None,
        }
    }
}

/// Where the services listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// APNs: TLS, HTTP/2.
    pub apns: SocketAddr,
    /// FCM and its token endpoint: HTTPS.
    pub fcm: SocketAddr,
    /// Web push: HTTPS.
    pub web_push: SocketAddr,
    /// The control API: plain HTTP.
    pub control: SocketAddr,
}
