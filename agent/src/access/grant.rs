//! Grants in force, and the filter by which one tenant never sees another.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ecss_switch::Domain;

use super::{Denied, Peer};
use crate::config::{Config, DomainName, GrantEntry, ModeratorToken, Scope, Who};

/// The domains that a grant covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainFilter(BTreeSet<Domain>);

/// What one caller may do.
#[derive(Debug, Clone)]
pub struct Grant {
    /// The caller's name.
    pub name: String,
    /// Where.
    pub domains: DomainFilter,
    /// Whether its commands on conferences need a moderator's token.
    pub moderator_token: ModeratorToken,
    scopes: BTreeMap<Scope, bool>,
    who: Vec<Who>,
}

/// All grants, in the configuration's order.
#[derive(Debug, Default)]
pub struct Grants(Vec<Arc<Grant>>);

// === impl DomainFilter ===

impl DomainFilter {
    /// These domains.
    pub fn of(domains: impl IntoIterator<Item = Domain>) -> Self {
        Self(domains.into_iter().collect())
    }

    /// Whether facts of this domain may be shown.
    pub fn contains(&self, domain: &Domain) -> bool {
        self.0.contains(domain)
    }

    /// The domains, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &Domain> {
        self.0.iter()
    }

    /// What remains of a caller's wish; an empty wish means all that may be seen. A wish for a foreign domain is refused.
    pub fn narrowed(&self, grant: &str, wanted: &[Domain]) -> Result<Self, Denied> {
        if wanted.is_empty() {
            return Ok(self.clone());
        }
        if let Some(foreign) = wanted.iter().find(|domain| !self.contains(domain)) {
            return Err(Denied::DomainNotGranted { grant: grant.to_owned(), domain: foreign.clone() });
        }
        Ok(Self::of(wanted.iter().cloned()))
    }
}

// === impl Grant ===

impl Grant {
    fn new(entry: &GrantEntry, served: &BTreeSet<Domain>) -> Self {
        let mut domains = BTreeSet::new();
        for name in &entry.domains {
            match name {
                DomainName::All => domains.extend(served.iter().cloned()),
                DomainName::One(domain) => domains.extend(served.get(domain).cloned()),
            }
        }
        let mut scopes = BTreeMap::new();
        for wanted in &entry.scopes {
            let mutating = scopes.entry(wanted.scope).or_insert(false);
            *mutating |= wanted.mutating;
        }
        Self {
            name: entry.name.clone(),
            domains: DomainFilter(domains),
            moderator_token: entry.moderator_token,
            scopes,
            who: entry.who.iter().map(resolved).collect(),
        }
    }

    /// Whether the scope and, where there is one, the domain are covered.
    pub fn allows(&self, scope: Scope, mutating: bool, domain: Option<&Domain>) -> Result<(), Denied> {
        if !self.scopes.get(&scope).is_some_and(|may_change| *may_change || !mutating) {
            return Err(Denied::MissingScope { grant: self.name.clone(), scope, mutating });
        }
        match domain {
            Some(domain) if !self.domains.contains(domain) => {
                Err(Denied::DomainNotGranted { grant: self.name.clone(), domain: domain.clone() })
            }
            _ => Ok(()),
        }
    }
}

// === impl Grants ===

impl Grants {
    /// The configuration's grants. Names of users and groups are looked up now.
    pub fn new(config: &Config) -> Self {
        let served: BTreeSet<Domain> = config.switch.domains.iter().map(|domain| domain.name.clone()).collect();
        Self(config.grants.iter().map(|entry| Arc::new(Grant::new(entry, &served))).collect())
    }

    /// The first grant that names the peer.
    pub fn of(&self, peer: &Peer) -> Option<Arc<Grant>> {
        self.0.iter().find(|grant| grant.who.iter().any(|who| peer.is(who))).cloned()
    }
}

/// A name's number. An unknown name is nobody's, and is logged, since the package that makes the user may come later.
fn resolved(who: &Who) -> Who {
    let number = match who {
        Who::User(name) => nix::unistd::User::from_name(name).ok().flatten().map(|user| Who::Uid(user.uid.as_raw())),
        Who::Group(name) => nix::unistd::Group::from_name(name).ok().flatten().map(|group| Who::Gid(group.gid.as_raw())),
        _ => return who.clone(),
    };
    number.unwrap_or_else(|| {
        tracing::warn!(?who, "a grant names an unknown user or group; reload once it exists");
        who.clone()
    })
}
