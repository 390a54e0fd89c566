//! Certificates by themselves (RFC 8555): the account's key is kept, a certificate is ordered when there is none and renewed before it
//! ends, and whatever fails leaves the certificate in use where it is.

mod answer;
mod files;
mod hook;
mod http;
mod order;

use std::{sync::Arc, time::Duration};

use elph_shell::told;
use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};

pub(crate) use self::{files::make_placeholder, http::reach};
use crate::{
    config::{Acme, Config},
    metrics::{Metrics, labels},
    render::Files,
};

/// How long one order may take, the authority's own looks included.
const ORDER_DEADLINE: Duration = Duration::from_secs(15 * 60);
/// The longest pause after failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(6 * 3600);
/// The clock is looked at this often: it may be set while we sleep.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AcmeError {
    /// The authority refuses, or does not answer.
    #[error("{what}")]
    Authority {
        /// At which step.
        what: &'static str,
        /// Why.
        #[source]
        source: instant_acme::Error,
    },
    /// A name could not be shown to be ours.
    #[error("the authority does not believe that these names are ours: {0}")]
    NotOurs(String),
    /// The authority does not offer the challenge.
    #[error("the authority offers no challenge of the kind acme.challenge for {0}")]
    NoSuchChallenge(String),
    /// The hook program does not publish.
    #[error("acme.hook: {0}")]
    Hook(String),
    /// nginx does not lead the authority to us.
    #[error("nginx does not tell the authority's connections from others: {0}")]
    NotLed(String),
    /// A file, or what is in it.
    #[error("{0}")]
    File(String),
    /// A key or certificate cannot be made.
    #[error("a certificate request cannot be made")]
    Make(#[from] rcgen::Error),
    /// What the authority gave cannot be used.
    #[error("the authority's certificate is not taken: {0}")]
    Unusable(String),
    /// It takes too long.
    #[error("the order took longer than {}s", ORDER_DEADLINE.as_secs())]
    Slow,
}

/// What is asked of the one who runs nginx.
pub(crate) enum Ask {
    /// Lead the authority's connections to [`Files::acme`], or no longer. Answered when it is in force.
    Challenging(bool, oneshot::Sender<Result<(), String>>),
    /// There is another certificate.
    Renewed,
}

/// Keeps the certificate fresh.
pub(crate) struct Keeper {
    acme: Acme,
    names: Vec<String>,
    socket: std::path::PathBuf,
    metrics: Arc<Metrics>,
    asks: mpsc::Sender<Ask>,
}

// === impl AcmeError ===

impl AcmeError {
    /// The authority does not know the account (RFC 8555, 6.7).
    fn account_is_gone(&self) -> bool {
        let Self::Authority { source: instant_acme::Error::Api(problem), .. } = self else { return false };
        problem.r#type.as_deref() == Some("urn:ietf:params:acme:error:accountDoesNotExist")
    }
}

// === impl Keeper ===

impl Keeper {
    pub(crate) fn new(config: &Config, metrics: Arc<Metrics>, asks: mpsc::Sender<Ask>) -> Self {
        let socket = Files::of(&config.nginx.directory).acme;
        Self { acme: config.acme.clone(), names: config.certificate_names().to_vec(), socket, metrics, asks }
    }

    /// Orders whenever it is time, without end.
    pub(crate) async fn keep(self) {
        let mut failures = 0_u32;
        // A farm of proxies does not come to the authority at one moment.
        let mut early: f64 = rand::random_range(0.0..0.1);
        loop {
            let left = files::time_left(&self.acme, &self.names, early);
            if !left.is_zero() {
                sleep(left.min(LONGEST_SLEEP)).await;
                continue;
            }
            let outcome = timeout(ORDER_DEADLINE, self.renew()).await.unwrap_or(Err(AcmeError::Slow));
            let named = if outcome.is_ok() { "issued" } else { "failed" };
            self.metrics.acme_orders.get_or_create(&labels([("outcome", named)])).inc();
            match outcome {
                Ok(()) => {
                    tracing::info!(names = ?self.names, "the authority has issued a certificate");
                    (failures, early) = (0, rand::random_range(0.0..0.1));
                    // Nobody is left to be told when the proxy stops.
                    let _ = self.asks.send(Ask::Renewed).await;
                }
                Err(error) => {
                    if error.account_is_gone() {
                        files::forget_account(&self.acme);
                    }
                    let pause =
                        self.acme.retry.0.saturating_mul(1 << failures.min(16)).min(LONGEST_PAUSE).mul_f64(rand::random_range(0.8..1.2));
                    failures = failures.saturating_add(1);
                    tracing::error!(error = %told(&error), ?pause, "no new certificate, the present one stays");
                    sleep(pause).await;
                }
            }
        }
    }

    async fn renew(&self) -> Result<(), AcmeError> {
        let account = order::account(&self.acme).await?;
        let issued = order::certificate(self, &account).await?;
        files::keep_certificate(&self.acme, &self.names, &issued)
    }

    /// Asks for the authority's connections to be led to us, or no longer.
    async fn lead(&self, to_us: bool) -> Result<(), AcmeError> {
        let (done, answer) = oneshot::channel();
        let gone = || AcmeError::NotLed("the proxy is stopping".to_owned());
        self.asks.send(Ask::Challenging(to_us, done)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?.map_err(AcmeError::NotLed)
    }
}
