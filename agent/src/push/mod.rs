//! Pushes: the devices that are registered, the queue to the providers, and what of the switch's events is told to whom.
//! The rules of what is told are `elph_policy`'s, delivery is `push`'s; here they are put together.

mod deliver;
mod follow;
mod sample;
mod senders;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use elph_model::Core;
use elph_policy::{Rules, Templates};
use elph_shell::told;
use jiff::Timestamp;
use mediator_client::switch::Domain;
use push_core::{AppName, Environment, Provider, Sender, Token, UserId};
use push_queue::{Pushes, Senders, Telling, TokenGone, Verdict};
use push_registry::Registry;
use tokio::sync::mpsc;

pub use self::deliver::{Accepted, Order, Own, Target, registry};
pub(crate) use self::senders::{Unusable, unusable};
use crate::{
    config::{Config, DomainName, Push, PushEvents},
    lifecycle::{Failure, Shared},
};

/// Users with a new device who wait to be looked at.
const JOINED: usize = 1024;

/// Most registered devices.
const MOST_DEVICES: u64 = 2_000_000;

/// An application as it is configured.
pub struct App {
    /// Who delivers.
    pub provider: Provider,
    /// Which of Apple's worlds its tokens are of.
    pub environment: Environment,
    /// How RFC 8599's `pn-param` names it: team and topic, or project.
    pub parameter: String,
    /// Its payloads.
    pub templates: Templates,
    domains: Vec<DomainName>,
    /// Which of browsers' services may be posted to.
    endpoints: Option<push_web::Allowed>,
    sender: Arc<dyn Sender>,
}

/// Everything about pushes.
pub struct Pusher {
    registry: Registry,
    pushes: Pushes,
    apps: ArcSwap<BTreeMap<AppName, Arc<App>>>,
    acting: follow::Acting,
    joined: mpsc::Sender<UserId>,
}

// === impl App ===

impl App {
    /// Whether the domain's users may have it.
    pub fn serves(&self, domain: &str) -> bool {
        self.domains.iter().any(|name| match name {
            DomainName::All => true,
            DomainName::One(one) => one.as_str() == domain,
        })
    }

    /// What is wrong with a subscription, if something is: where it is posted to comes from a browser, so from anybody.
    pub fn refuses(&self, endpoint: &Token, keys: &push_core::WebKeys) -> Option<(&'static str, String)> {
        let wrong = self.endpoints.as_ref().and_then(|allowed| allowed.check(endpoint.expose()).err());
        let wrong = wrong.map(|error| ("parameters.pn_prid", error.to_string()));
        wrong.or_else(|| push_web::check_keys(keys).err().map(|error| ("web_keys", error.to_string())))
    }

    /// When key, certificate or account stops being valid.
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.sender.expires_at()
    }

    /// Whether there is a connection.
    pub fn connected(&self) -> bool {
        self.sender.capacity().connected
    }
}

// === impl Pusher ===

impl Pusher {
    /// Opens devices and queue and connects to the providers. `None`: no application is configured.
    pub fn start(shared: &Arc<Shared>, core: Arc<Core>) -> Result<Option<Arc<Self>>, Failure> {
        let config = shared.config.load_full();
        if config.push.apps.is_empty() {
            return Ok(None);
        }
        let unavailable = |what: &str, error: &dyn std::error::Error| Failure::Unavailable {
            what: what.to_owned(),
            source: std::io::Error::other(told(error)),
        };
        let apps = senders::build(&config.push)?;
        let options = push_registry::Options {
            max_per_user: config.push.max_devices_per_user as usize,
            max_devices: MOST_DEVICES,
            ..push_registry::Options::default()
        };
        let registry = Registry::open(&config.push.directory.join("devices"), options);
        let registry = registry.map_err(|error| unavailable("push.directory", &error))?;
        let gone = Arc::new(Forget { registry: registry.clone() });
        let queue = Pushes::open(&config.push.directory.join("queue"), queue_options(&config.push), senders_of(&apps), gone);
        let (pushes, recovered) = queue.map_err(|error| unavailable("push.directory", &error))?;
        if recovered.waiting > 0 || recovered.damaged > 0 {
            tracing::info!(
                waiting = recovered.waiting,
                under_way = recovered.possible_duplicates,
                damaged = recovered.damaged,
                "pushes of before the start go on"
            );
        }
        apps.values().for_each(|app| app.sender.warm());
        let acting = follow::Acting::new(config.push.acting_address);
        let (joined, new) = mpsc::channel(JOINED);
        let pusher = Arc::new(Self { registry, pushes, apps: ArcSwap::from_pointee(apps), acting, joined });
        shared.tasks.spawn(follow::follow(shared.clone(), core, pusher.clone(), new));
        shared.tasks.spawn(sample::sample(shared.clone(), pusher.clone()));
        Ok(Some(pusher))
    }

    /// A device was registered: what rings its user now, or invites, is told to it as well.
    pub fn joined(&self, user: UserId) {
        // With so many at once it is a start of all clients, and no call is worth holding them up.
        let _full = self.joined.try_send(user);
    }

    /// The devices.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The queue.
    pub fn pushes(&self) -> &Pushes {
        &self.pushes
    }

    /// The applications.
    pub fn apps(&self) -> Arc<BTreeMap<AppName, Arc<App>>> {
        self.apps.load_full()
    }

    /// Takes over new keys, certificates and templates. Applications that are gone leave their pushes waiting.
    pub fn reload(&self, push: &Push) -> Result<(), Failure> {
        let apps = senders::build(push)?;
        self.pushes.set_senders(&senders_of(&apps));
        apps.values().for_each(|app| app.sender.warm());
        let old = self.apps.swap(Arc::new(apps));
        for app in old.values() {
            let sender = app.sender.clone();
            tokio::spawn(async move { sender.close().await });
        }
        Ok(())
    }

    /// Stops sending, waits for what is under way and writes everything down.
    pub async fn close(&self, within: Duration) {
        self.pushes.close(within).await;
        let apps = self.apps.load_full();
        let closing = apps.values().map(|app| app.sender.close());
        let _late = tokio::time::timeout(within, futures_util::future::join_all(closing)).await;
        self.registry.clone().close().await;
    }
}

/// Which events become pushes, by domain.
fn rules(config: &Config) -> HashMap<String, Rules> {
    let covers = |events: &PushEvents, domain: &Domain| {
        events.domains.iter().any(|name| matches!(name, DomainName::All) || *name == DomainName::One(domain.clone()))
    };
    let domains = config.switch.domains.iter().map(|domain| &domain.name);
    domains
        .filter_map(|domain| {
            let events = config.push.events.iter().find(|events| covers(events, domain))?;
            let rules = Rules {
                calls: events.calls,
                ring_time: events.ring_time.0,
                only_unless_ringing: events.only_unless_ringing,
                missed_calls: events.missed_calls,
                conferences: events.conferences,
            };
            Some((domain.to_string(), rules))
        })
        .collect()
}

fn queue_options(push: &Push) -> push_queue::Options {
    let most_pushes = usize::try_from(push.max_waiting).unwrap_or(usize::MAX);
    push_queue::Options {
        most_pushes: most_pushes.saturating_add(most_pushes / 10),
        call_pushes: most_pushes / 10,
        most_bytes: push.max_waiting_bytes.0.saturating_add(push.max_waiting_bytes.0 / 10),
        call_bytes: push.max_waiting_bytes.0 / 10,
        kept_bytes: push.log_bytes.0,
        ..push_queue::Options::default()
    }
}

fn senders_of(apps: &BTreeMap<AppName, Arc<App>>) -> Senders {
    apps.iter().map(|(name, app)| (name.clone(), app.sender.clone())).collect()
}

/// Removes devices whose tokens the providers call gone.
struct Forget {
    registry: Registry,
}

impl TokenGone for Forget {
    fn token_gone(&self, gone: push_queue::Gone) -> Telling {
        let registry = self.registry.clone();
        Box::pin(async move {
            match registry.gone(&gone.app, &gone.token, gone.since, gone.begun).await {
                Ok(push_registry::Gone::RegisteredLater) => Verdict::RegisteredLater,
                Ok(push_registry::Gone::Removed(device)) => {
                    tracing::info!(app = %gone.app, device = %device.id, token = %gone.token, "device is gone");
                    Verdict::Gone
                }
                Ok(push_registry::Gone::Unknown) => Verdict::Gone,
                Err(error) => {
                    tracing::warn!(app = %gone.app, token = %gone.token, error = %told(&error), "device that is gone could not be removed");
                    Verdict::Gone
                }
            }
        })
    }
}

/// What a push goes to.
fn target(token: Token, web_keys: Option<push_core::WebKeys>) -> push_core::Target {
    match web_keys {
        Some(keys) => push_core::Target::Browser(token, keys),
        None => push_core::Target::Device(token),
    }
}
