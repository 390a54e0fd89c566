//! What every part of the simulator refers to, and what both the library and the control API do with it.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    apns::Apns,
    apple::{TeamKey, Teams},
    arrival::{Arrival, Arrivals, Record},
    authority::{Authority, ClientCertificate},
    clock::Clock,
    connections::Line,
    counters::{Counters, Meters},
    device::{DeviceState, Devices, Provider},
    fault::{Effect, Fault, Faults},
    google::Google,
    options::Addresses,
    web_push::{Browsers, Subscription},
};

/// How long client certificates of a demo are good.
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// What every part refers to.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) clock: Clock,
    pub(crate) teams: Teams,
    pub(crate) google: Google,
    pub(crate) devices: Devices,
    pub(crate) browsers: Browsers,
    pub(crate) faults: Faults,
    pub(crate) meters: Meters,
    pub(crate) arrivals: Arrivals,
    pub(crate) apns: Apns,
    pub(crate) fcm_line: Arc<Line>,
    pub(crate) web_push_line: Arc<Line>,
    /// Names that the token endpoint goes by.
    pub(crate) token_urls: Vec<String>,
    /// Origins that the web push service goes by, the first of which is in endpoints.
    pub(crate) web_push_origins: Vec<String>,
    pub(crate) fcm_token_lifetime: Duration,
    pub(crate) shutdown: CancellationToken,
    pub(crate) seed: u64,
    pub(crate) addresses: Addresses,
    pub(crate) authority: Authority,
    pub(crate) team: TeamKey,
    pub(crate) service_account: String,
}

// === impl Core ===

impl Core {
    /// How long every answer to a push takes.
    pub(crate) fn delay(&self) -> Duration {
        self.apns.delay()
    }

    fn line(&self, provider: Provider) -> &Line {
        match provider {
            Provider::Apns => &self.apns.line,
            Provider::Fcm | Provider::FcmToken => &self.fcm_line,
            Provider::WebPush => &self.web_push_line,
        }
    }

    pub(crate) fn add_fault(&self, fault: Fault) {
        let line = self.line(fault.provider);
        match fault.effect {
            Effect::HalfOpen => line.gate.freeze(true),
            Effect::SlowReading { bytes_per_second } => line.gate.slow_reading(bytes_per_second),
            Effect::Mute if fault.provider == Provider::Apns => self.apns.set_mute(true),
            _ => {}
        }
        self.faults.add(fault);
    }

    pub(crate) fn clear_faults(&self) {
        self.faults.clear();
        self.apns.set_mute(false);
        for line in [&self.apns.line, &self.fcm_line, &self.web_push_line] {
            line.gate.slow_reading(0);
            line.gate.freeze(false);
        }
    }

    pub(crate) fn cut(&self, provider: Provider) {
        self.line(provider).cut();
    }

    pub(crate) fn counters(&self) -> Counters {
        self.meters.read(self.arrivals.dropped())
    }

    pub(crate) fn set_state(&self, provider: Provider, token: &str, state: DeviceState) -> bool {
        match provider {
            Provider::WebPush => self.browsers.set_gone(token, state != DeviceState::Active),
            Provider::Apns => self.devices.set_state(provider, &token.to_ascii_lowercase(), state),
            Provider::Fcm | Provider::FcmToken => self.devices.set_state(Provider::Fcm, token, state),
        }
    }

    pub(crate) fn subscribe(&self) -> anyhow::Result<Subscription> {
        self.browsers.subscribe(self.web_push_origins.first().map(String::as_str).unwrap_or_default())
    }

    pub(crate) fn client_certificate(&self, topics: &[&str], valid_for: Duration) -> anyhow::Result<ClientCertificate> {
        self.authority.client(topics, valid_for)
    }

    /// Addresses and names, for scripts.
    pub(crate) fn ready_json(&self) -> serde_json::Value {
        serde_json::json!({
            "seed": self.seed,
            "apns": self.addresses.apns,
            "fcm": format!("https://{}", self.addresses.fcm),
            "token": self.token_urls.first(),
            "web_push": self.web_push_origins.first(),
            "control": format!("http://{}", self.addresses.control),
            "team_id": self.team.team_id,
            "key_id": self.team.key_id,
            "topics": self.team.topics,
        })
    }

    /// The files of a demo: name and text.
    pub(crate) fn demo_files(&self) -> anyhow::Result<Vec<(String, String)>> {
        let mut topics: Vec<String> = self.team.topics.clone();
        if topics.is_empty() {
            topics.push("org.elph.phone".to_owned());
        }
        for app in topics.clone() {
            topics.extend([format!("{app}.voip"), format!("{app}.complication")]);
        }
        let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
        let client = self.authority.client(&topics, YEAR)?;
        Ok(vec![
            ("ca.pem".to_owned(), self.authority.pem.clone()),
            (format!("AuthKey_{}.p8", self.team.key_id), self.team.p8.clone()),
            ("apns-client.pem".to_owned(), client.certificate_pem),
            ("apns-client-key.pem".to_owned(), client.key_pem),
            ("service-account.json".to_owned(), self.service_account.clone()),
            ("subscription.json".to_owned(), format!("{:#}\n", self.subscribe()?.to_json())),
        ])
    }

    /// Counts a request unless nothing is counted.
    pub(crate) fn count(&self, provider: Provider, refused: Option<&str>) {
        if self.arrivals.record != Record::None {
            self.meters.of(provider).request(refused);
        }
    }

    /// Writes a request down if requests are.
    pub(crate) fn record(&self, arrival: impl FnOnce() -> Arrival) {
        if self.arrivals.record == Record::All {
            self.arrivals.add(arrival());
        }
    }
}
