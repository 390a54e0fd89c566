//! `elph-agent doctor`: looks at configuration and switch beside the running agent, in sessions of its own, with commands that only
//! read, and says which key or field of the dialect to set (DESIGN §4, "Dialect").

mod call_api;
mod csta;
mod local;
mod reach;
mod records;
pub mod report;
mod terminal;
mod watch;

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use ecss_switch::{Alias, Dialect, Domain, connect::Endpoint, link::LinkKind};
use futures_util::future::join_all;
use tokio::time::timeout;

use self::{
    reach::Security,
    report::{Check, Place, Report, Setting},
};
use crate::{
    config::{Config, Loaded},
    link::Connectors,
};

/// Events of a session that wait; nobody reads them.
const QUEUE: usize = 16;
/// How long a session may take to be left.
const LEAVING: Duration = Duration::from_secs(4);
/// For one node of one link, everything together.
const NODE: Duration = Duration::from_secs(60);

/// What to look at.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// Only this link; all where there is none.
    pub only: Option<LinkKind>,
    /// Only this node: `host:port`, or a host.
    pub node: Option<String>,
}

/// What every examination needs.
struct Doctor {
    config: Arc<Config>,
    dialect: Arc<Dialect>,
    connectors: Connectors,
    scope: Scope,
}

/// Looks at everything in the scope. The time it takes is bounded.
pub async fn run(loaded: &Loaded, scope: Scope) -> Report {
    let mut checks = local::examine(loaded).into_checks();
    let config = Arc::new(loaded.config.clone());
    let mut place = Place::new("configuration");
    let dialect = match config.switch.dialect() {
        Ok(dialect) => Arc::new(dialect),
        Err(problem) => {
            place.wrong("dialect", problem.what, vec![Setting::key(problem.key)]);
            checks.extend(place.into_checks());
            return Report::new("none".to_owned(), checks);
        }
    };
    let name = dialect.name.clone();
    let connectors = match Connectors::from_config(&config) {
        Ok(connectors) => connectors,
        Err(error) => {
            place.wrong("TLS", error.what, vec![Setting::key(error.key)]);
            checks.extend(place.into_checks());
            return Report::new(name, checks);
        }
    };
    let doctor = Doctor { config, dialect, connectors, scope };
    checks.extend(doctor.switch().await);
    Report::new(name, checks)
}

impl Doctor {
    fn dialect_json(&self) -> serde_json::Value {
        serde_json::to_value(&*self.dialect).unwrap_or_default()
    }

    async fn switch(&self) -> Vec<Check> {
        let mut checks = Vec::new();
        let mut aliases: BTreeMap<Domain, Alias> = BTreeMap::new();
        let terminals = self.nodes(LinkKind::Terminal).into_iter().map(|node| async move { self.terminal(&node).await });
        for (found, of_node) in join_all(terminals).await {
            checks.extend(found);
            aliases.extend(of_node);
        }
        let aliases = &aliases;
        let call_apis =
            self.nodes(LinkKind::CallApi).into_iter().map(|node| async move { self.domains(LinkKind::CallApi, &node, aliases).await });
        let cstas = self.nodes(LinkKind::Csta).into_iter().map(|node| async move { self.domains(LinkKind::Csta, &node, aliases).await });
        let (call_apis, cstas) = tokio::join!(join_all(call_apis), join_all(cstas));
        checks.extend(call_apis.into_iter().chain(cstas).flatten());
        if checks.is_empty() {
            let mut place = Place::new("switch");
            place.wrong("nodes", "no node of the configuration is in what was asked for", Vec::new());
            checks.extend(place.into_checks());
        }
        checks
    }

    /// The configured nodes of a link that are in the scope.
    fn nodes(&self, link: LinkKind) -> Vec<Endpoint> {
        let switch = &self.config.switch;
        let nodes = match link {
            LinkKind::Terminal => switch.terminal.as_ref().map(|link| &link.nodes),
            LinkKind::CallApi => switch.call_api.as_ref().map(|link| &link.nodes),
            LinkKind::Csta => switch.csta.as_ref().map(|link| &link.nodes),
        };
        let in_scope = |node: &&Endpoint| self.scope.node.as_ref().is_none_or(|wanted| *wanted == node.to_string() || *wanted == node.host);
        let nodes = nodes.into_iter().flatten().filter(in_scope).cloned();
        if self.scope.only.is_none_or(|only| only == link) { nodes.collect() } else { Vec::new() }
    }

    fn security(&self, link: LinkKind) -> Security<'_> {
        let switch = &self.config.switch;
        let (tls, ca_file): (bool, Option<&Path>) = match link {
            LinkKind::Terminal => switch.terminal.as_ref().map(|link| (link.tls, link.ca_file.as_deref())),
            LinkKind::CallApi => switch.call_api.as_ref().map(|link| (link.tls, link.ca_file.as_deref())),
            LinkKind::Csta => switch.csta.as_ref().map(|link| (link.tls, link.ca_file.as_deref())),
        }
        .unwrap_or_default();
        Security { key: format!("switch.{link}"), tls, ca_file }
    }

    async fn terminal(&self, node: &Endpoint) -> (Vec<Check>, BTreeMap<Domain, Alias>) {
        let mut place = Place::new(format!("terminal {node}"));
        let examine = async {
            if reach::examine(&mut place, node, &self.security(LinkKind::Terminal)).await {
                terminal::examine(self, node, &mut place).await
            } else {
                BTreeMap::new()
            }
        };
        match timeout(NODE, examine).await {
            Ok(aliases) => (place.into_checks(), aliases),
            Err(_) => (too_slow(place), BTreeMap::new()),
        }
    }

    async fn domains(&self, link: LinkKind, node: &Endpoint, aliases: &BTreeMap<Domain, Alias>) -> Vec<Check> {
        let mut place = Place::new(format!("{link} {node}"));
        if !reach::examine(&mut place, node, &self.security(link)).await {
            return place.into_checks();
        }
        let mut checks = place.into_checks();
        let each = self.config.switch.domains.iter().map(|domain| async move {
            let mut place = Place::new(format!("{link} {node} {}", domain.name));
            let examine = async {
                match link {
                    LinkKind::Csta => {
                        let monitored = self.config.calls.monitored.first().or_else(|| aliases.get(&domain.name));
                        csta::examine(self, node, domain, monitored, &mut place).await;
                    }
                    _ => call_api::examine(self, node, domain, &mut place).await,
                }
            };
            let outcome = timeout(NODE, examine).await;
            match outcome {
                Ok(()) => place.into_checks(),
                Err(_) => too_slow(place),
            }
        });
        checks.extend(join_all(each).await.into_iter().flatten());
        checks
    }
}

fn too_slow(mut place: Place) -> Vec<Check> {
    place.wrong("time", format!("not done within {NODE:?}; what was seen until then is above"), Vec::new());
    place.into_checks()
}
