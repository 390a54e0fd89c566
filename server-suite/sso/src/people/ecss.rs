//! Subscribers of the switch, asked through its agent (`DirectoryService`).

use std::{sync::Arc, time::Duration};

use elph_kit::switches::Switches;
use elph_proto::{
    reason::{Reason, code_name},
    v1::{self, directory_service_client::DirectoryServiceClient},
};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout;
use tonic::{Code, Status, transport::Channel};

use super::{Refusal, is_alias};

/// How long the agent may take: it asks the switch.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest password that the agent takes.
const PASSWORD_LONGEST: usize = 256;

/// The switches.
#[derive(Clone)]
pub(super) struct Ecss {
    switches: Arc<Switches>,
}

// === impl Ecss ===

impl Ecss {
    pub(super) fn new(switches: Arc<Switches>) -> Self {
        Self { switches }
    }

    /// Checks a subscriber's password. The alias as the switch names it.
    pub(super) async fn authenticate(&self, domain: &str, login: &str, password: &SecretString) -> Result<String, Refusal> {
        // Who writes the domain as well means the same subscriber.
        let alias = match login.rsplit_once('@') {
            Some((alias, of)) if of.eq_ignore_ascii_case(domain) => alias,
            _ => login,
        };
        let length = password.expose_secret().len();
        if !is_alias(alias) || length == 0 || length > PASSWORD_LONGEST {
            return Err(Refusal::Wrong);
        }
        let mut client = self.client(domain)?;
        let request = v1::AuthenticateSubscriberRequest {
            domain: domain.to_owned(),
            login: alias.to_owned(),
            password: password.expose_secret().to_owned(),
        };
        match timeout(PATIENCE, client.authenticate_subscriber(request)).await {
            Ok(Ok(answer)) => Some(answer.into_inner().alias).filter(|alias| is_alias(alias)).ok_or_else(nameless),
            Ok(Err(status)) => Err(match Reason::of(&status) {
                Some(Reason::CredentialsRejected | Reason::UnknownAlias | Reason::InvalidRequest) => Refusal::Wrong,
                _ => unavailable(&status),
            }),
            Err(_) => Err(late()),
        }
    }

    /// The subscriber of a number, as the switch names it; `Wrong`: there is none.
    pub(super) async fn subscriber(&self, domain: &str, alias: &str) -> Result<String, Refusal> {
        let mut client = self.client(domain)?;
        let request = v1::GetSubscriberRequest { domain: domain.to_owned(), alias: alias.to_owned() };
        let status = match timeout(PATIENCE, client.get_subscriber(request)).await {
            Ok(Ok(answer)) => {
                let subscriber = answer.into_inner().subscriber.filter(|it| it.domain == domain && is_alias(&it.alias));
                return subscriber.map(|it| it.alias).ok_or_else(nameless);
            }
            Ok(Err(status)) => status,
            Err(_) => return Err(late()),
        };
        match Reason::of(&status) {
            Some(Reason::UnknownAlias | Reason::InvalidRequest) => Err(Refusal::Wrong),
            // The switch does not say now. Who stands in the agent's list of subscribers was one a short while ago, which is enough; that
            // somebody does not stand in it is not.
            _ => self.listed(client, domain, alias).await.ok_or_else(|| unavailable(&status)),
        }
    }

    async fn listed(&self, mut client: DirectoryServiceClient<Channel>, domain: &str, alias: &str) -> Option<String> {
        let request = v1::ListSubscribersRequest {
            domain: domain.to_owned(),
            alias_prefix: alias.to_owned(),
            page_size: 1,
            ..v1::ListSubscribersRequest::default()
        };
        // Sorted: the number itself comes before those that begin with it.
        let listed = timeout(PATIENCE, client.list_subscribers(request)).await.ok()?.ok()?.into_inner();
        listed.subscribers.into_iter().find(|it| it.alias == alias && it.domain == domain).map(|it| it.alias)
    }

    fn client(&self, domain: &str) -> Result<DirectoryServiceClient<Channel>, Refusal> {
        let channel = self.switches.of(domain).ok_or_else(|| Refusal::Unavailable("no agent has this domain".to_owned()))?;
        Ok(DirectoryServiceClient::new(channel))
    }
}

fn unavailable(status: &Status) -> Refusal {
    let what = match (Reason::of(status), status.code()) {
        (Some(Reason::TooManyAttempts), _) => "the agent has seen too many attempts".to_owned(),
        (Some(reason), _) => format!("the agent answers {}: {}", reason.as_str(), status.message()),
        (None, Code::Unavailable) => "the agent cannot be reached".to_owned(),
        (None, code) => format!("the agent answers {}: {}", code_name(code), status.message()),
    };
    Refusal::Unavailable(what)
}

fn late() -> Refusal {
    Refusal::Unavailable("the agent did not answer in time".to_owned())
}

fn nameless() -> Refusal {
    Refusal::Unavailable("the agent answers without a subscriber".to_owned())
}
