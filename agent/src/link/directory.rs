//! The subscribers of each domain, as `alias_list` gave them: kept compact, since tens of thousands are known on a guest's memory.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use mediator_client::{
    switch::{Alias, Domain},
    terminal::AliasRecord,
};
use parking_lot::RwLock;

/// A subscriber.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscriber {
    /// Number or name inside the domain.
    pub alias: Box<str>,
    /// Its interface.
    pub interface: Arc<str>,
    /// The interface's kind; empty if the switch does not say.
    pub interface_type: Arc<str>,
}

/// A domain's subscribers, sorted by alias.
#[derive(Debug, Clone)]
pub struct Listing {
    /// They.
    pub subscribers: Arc<[Subscriber]>,
    /// When they were read.
    pub at: Timestamp,
}

/// All domains' subscribers.
#[derive(Debug, Default)]
pub struct Directory(RwLock<BTreeMap<Domain, Listing>>);

impl Directory {
    /// The domain's subscribers; none: not read yet.
    pub fn listing(&self, domain: &Domain) -> Option<Listing> {
        self.0.read().get(domain).cloned()
    }

    /// Whether the domain has the subscriber; none: not read yet.
    pub fn has(&self, domain: &Domain, alias: &str) -> Option<bool> {
        let listing = self.listing(domain)?;
        Some(listing.subscribers.binary_search_by(|known| (*known.alias).cmp(alias)).is_ok())
    }

    /// Replaces a domain's subscribers; true: they differ from before.
    pub(super) fn replace(&self, domain: &Domain, records: Vec<AliasRecord>) -> bool {
        let mut names: Vec<Arc<str>> = Vec::new();
        let mut subscribers: Vec<Subscriber> = records
            .into_iter()
            .map(|record| Subscriber {
                alias: record.address.as_str().into(),
                interface: shared(&mut names, record.interface.as_deref().unwrap_or_default()),
                interface_type: shared(&mut names, record.interface_type.as_deref().unwrap_or_default()),
            })
            .collect();
        subscribers.sort_unstable_by(|left, right| left.alias.cmp(&right.alias));
        subscribers.dedup_by(|left, right| left.alias == right.alias);
        let listing = Listing { subscribers: subscribers.into(), at: Timestamp::now() };
        let mut all = self.0.write();
        let same = all.get(domain).is_some_and(|known| known.subscribers == listing.subscribers);
        all.insert(domain.clone(), listing);
        !same
    }

    /// The domain's aliases.
    pub(super) fn aliases(&self, domain: &Domain) -> Vec<Alias> {
        let listing = self.listing(domain);
        let subscribers = listing.iter().flat_map(|listing| listing.subscribers.iter());
        subscribers.filter_map(|subscriber| Alias::parse(&subscriber.alias).ok()).collect()
    }
}

/// Kinds of interfaces are few: their names are kept once. Interfaces are often as many as subscribers: those are not searched for.
fn shared(names: &mut Vec<Arc<str>>, text: &str) -> Arc<str> {
    if let Some(known) = names.iter().find(|known| &***known == text) {
        return known.clone();
    }
    let name: Arc<str> = text.into();
    if names.len() < 16 {
        names.push(name.clone());
    }
    name
}
