//! Domains, subscribers and groups.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};

use super::{Domain, Extra, Group, Switch, no_such_domain};
use crate::{
    refusal::{Refusal, RefusalCause},
    subscriber::{Answer, DomainOptions, GroupKind, Regime, Registration, SubscriberView},
};

/// Seconds a registration is granted for.
const REGISTRATION_TTL: u32 = 3600;
const GIVEN: [&str; 12] = ["Anna", "Boris", "Vera", "Gleb", "Daria", "Egor", "Zoya", "Igor", "Ksenia", "Lev", "Maria", "Nikolai"];
const FAMILY: [&str; 11] = ["Abramov", "Belov", "Volkov", "Golubev", "Dorin", "Egorov", "Zimin", "Ivanov", "Kozlov", "Lebedev", "Morozov"];

impl Domain {
    pub(super) fn is_subscriber(&self, alias: &str) -> bool {
        self.numbered(alias).is_some() || self.declared.contains(alias)
    }

    pub(super) fn exists(&self, number: &str) -> bool {
        self.is_subscriber(number) || self.groups.contains_key(number)
    }

    fn numbered(&self, alias: &str) -> Option<u64> {
        if alias.starts_with('0') || !alias.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let number: u64 = alias.parse().ok()?;
        (number >= self.first && number - self.first < self.count).then_some(number)
    }

    pub(super) fn answer_of(&self, alias: &str) -> Answer {
        self.extras.get(alias).and_then(|extra| extra.answer).unwrap_or(self.answer)
    }

    /// How many devices ring for an alias; 0 = none is registered.
    pub(super) fn device_count(&self, alias: &str) -> usize {
        self.extras.get(alias).and_then(|extra| extra.registrations.as_ref()).map_or(1, Vec::len)
    }

    pub(super) fn name_of(&self, alias: &str) -> String {
        if let Some(name) = self.extras.get(alias).and_then(|extra| extra.name.clone()) {
            return name;
        }
        let sum = alias.bytes().fold(7usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
        let pick = |list: &[&'static str], at: usize| list.get(at % list.len()).copied().unwrap_or_default();
        format!("{} {}", pick(&GIVEN, sum), pick(&FAMILY, sum / GIVEN.len()))
    }

    fn require(&self, alias: &str) -> Result<(), Refusal> {
        if self.is_subscriber(alias) { Ok(()) } else { Err(no_such_subscriber(alias)) }
    }
}

pub(super) fn no_such_subscriber(alias: &str) -> Refusal {
    Refusal::new(RefusalCause::NoSuchSubscriber, format!("there is no subscriber {alias}"))
}

impl Switch {
    /// Adds a domain.
    pub fn add_domain(&self, options: DomainOptions) -> Result<(), Refusal> {
        let mut state = self.0.state.lock();
        if state.domains.contains_key(&options.name) {
            return Err(Refusal::new(RefusalCause::AlreadyExists, "the domain exists already"));
        }
        if options.name.is_empty() || options.aliases > 100_000 {
            return Err(Refusal::new(RefusalCause::DomainLimit, "a domain has a name and at most 100,000 aliases"));
        }
        let domain = Domain {
            name: Arc::from(options.name.as_str()),
            first: if options.aliases <= 8999 { 1001 } else { 100_001 },
            count: u64::from(options.aliases),
            answer: options.answer,
            call_limit: options.call_limit,
            extras: HashMap::new(),
            declared: BTreeSet::new(),
            groups: BTreeMap::new(),
            numeric_groups: BTreeMap::new(),
            rooms: BTreeMap::new(),
            templates: BTreeMap::new(),
            calls: BTreeMap::new(),
            devices: HashMap::new(),
            history: VecDeque::new(),
            conferences: BTreeMap::new(),
            ended: VecDeque::new(),
        };
        state.domains.insert(options.name, domain);
        Ok(())
    }

    /// Names of all domains.
    pub fn domains(&self) -> Vec<String> {
        self.0.state.lock().domains.keys().cloned().collect()
    }

    /// Whether there is such a domain.
    pub fn has_domain(&self, domain: &str) -> bool {
        self.0.state.lock().domains.contains_key(domain)
    }

    /// How many aliases a domain has.
    pub fn alias_count(&self, domain: &str) -> Result<usize, Refusal> {
        self.read(domain, |domain| usize::try_from(domain.count).unwrap_or(usize::MAX).saturating_add(domain.declared.len()))
    }

    /// A page of aliases: the numbered ones ascending, then the declared ones.
    pub fn aliases(&self, domain: &str, offset: usize, limit: usize) -> Result<Vec<String>, Refusal> {
        self.read(domain, |domain| {
            let skipped = u64::try_from(offset).unwrap_or(u64::MAX).min(domain.count);
            let numbered = (domain.first + skipped..domain.first + domain.count).map(|number| number.to_string());
            let rest = offset - usize::try_from(skipped).unwrap_or(offset);
            numbered.chain(domain.declared.iter().skip(rest).cloned()).take(limit).collect()
        })
    }

    /// Whether a number can be called: a subscriber or a group.
    pub fn alias_exists(&self, domain: &str, number: &str) -> bool {
        self.read(domain, |domain| domain.exists(number)).unwrap_or(false)
    }

    /// A subscriber.
    pub fn subscriber(&self, domain: &str, alias: &str) -> Result<SubscriberView, Refusal> {
        let now = self.now();
        self.read(domain, |domain| {
            domain.require(alias)?;
            let extra = domain.extras.get(alias).cloned().unwrap_or_default();
            Ok(SubscriberView {
                alias: alias.to_owned(),
                name: domain.name_of(alias),
                interface: format!("{alias}@{}", domain.name),
                registrations: extra.registrations.unwrap_or_else(|| vec![default_registration(alias, now)]),
                regime: extra.regime.unwrap_or(Regime { name: "ordinary".to_owned(), private_in: false, private_out: false }),
                answer: domain.answer_of(alias),
                manager: !extra.not_manager,
            })
        })?
    }

    /// Declares an alias beside the numbered ones. One that exists is refused, unless it may be replaced by a fresh one.
    pub fn declare_alias(&self, domain: &str, alias: &str, replace: bool) -> Result<(), Refusal> {
        let mut state = self.0.state.lock();
        let domain = state.domains.get_mut(domain).ok_or_else(no_such_domain)?;
        if alias.is_empty() || alias.len() > 64 || alias.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(no_such_subscriber("with that name"));
        }
        if domain.exists(alias) && !replace {
            return Err(Refusal::new(RefusalCause::AlreadyExists, format!("{alias} exists already")));
        }
        if domain.declared.len() >= 100_000 {
            return Err(Refusal::new(RefusalCause::DomainLimit, "the domain has all the aliases it may have"));
        }
        domain.extras.remove(alias);
        if domain.numbered(alias).is_none() {
            domain.declared.insert(alias.to_owned());
        }
        Ok(())
    }

    /// Whether a subscriber's password is right. Unless set it is `p` and the alias (`p1001`).
    pub fn check_password(&self, domain: &str, alias: &str, password: &str) -> bool {
        self.read(domain, |domain| {
            let set = domain.extras.get(alias).and_then(|extra| extra.password.clone());
            domain.is_subscriber(alias) && set.unwrap_or_else(|| format!("p{alias}")) == password
        })
        .unwrap_or(false)
    }

    fn edit(&self, domain: &str, alias: &str, edit: impl FnOnce(&mut Extra)) -> Result<(), Refusal> {
        let mut state = self.0.state.lock();
        let domain = state.domains.get_mut(domain).ok_or_else(no_such_domain)?;
        domain.require(alias)?;
        edit(domain.extras.entry(alias.to_owned()).or_default());
        Ok(())
    }

    /// Sets a subscriber's password.
    pub fn set_password(&self, domain: &str, alias: &str, password: &str) -> Result<(), Refusal> {
        self.edit(domain, alias, |extra| extra.password = Some(password.to_owned()))
    }

    /// Sets a subscriber's shown name.
    pub fn set_name(&self, domain: &str, alias: &str, name: &str) -> Result<(), Refusal> {
        self.edit(domain, alias, |extra| extra.name = Some(name.to_owned()))
    }

    /// Sets what a subscriber's phone does.
    pub fn set_answer(&self, domain: &str, alias: &str, answer: Answer) -> Result<(), Refusal> {
        self.edit(domain, alias, |extra| extra.answer = Some(answer))
    }

    /// Sets what the phones of a domain do that were not told otherwise.
    pub fn set_default_answer(&self, domain: &str, answer: Answer) -> Result<(), Refusal> {
        let mut state = self.0.state.lock();
        state.domains.get_mut(domain).ok_or_else(no_such_domain)?.answer = answer;
        Ok(())
    }

    /// Sets a subscriber's regime.
    pub fn set_regime(&self, domain: &str, alias: &str, regime: Regime) -> Result<(), Refusal> {
        self.edit(domain, alias, |extra| extra.regime = Some(regime))
    }

    /// Sets whether a subscriber may master conferences.
    pub fn set_manager(&self, domain: &str, alias: &str, manager: bool) -> Result<(), Refusal> {
        self.edit(domain, alias, |extra| extra.not_manager = !manager)
    }

    /// Registers one more device of a subscriber (at most ten).
    pub fn register(&self, domain: &str, alias: &str, uri: &str) -> Result<(), Refusal> {
        let now = self.now();
        let mut added = true;
        self.edit(domain, alias, |extra| {
            let devices = extra.registrations.get_or_insert_with(|| vec![default_registration(alias, now)]);
            added = devices.len() < 10;
            if added {
                devices.retain(|device| device.uri != uri);
                devices.push(Registration { uri: uri.to_owned(), ..default_registration(alias, now) });
            }
        })?;
        if added { Ok(()) } else { Err(Refusal::new(RefusalCause::DomainLimit, "the alias has all the devices it may have")) }
    }

    /// Unregisters one device, or all of a subscriber's.
    pub fn unregister(&self, domain: &str, alias: &str, uri: Option<&str>) -> Result<(), Refusal> {
        let now = self.now();
        self.edit(domain, alias, |extra| {
            let devices = extra.registrations.get_or_insert_with(|| vec![default_registration(alias, now)]);
            devices.retain(|device| uri.is_some_and(|uri| uri != device.uri));
        })
    }

    /// Declares a group number.
    pub fn declare_group(&self, domain: &str, number: &str, kind: GroupKind, members: Vec<String>) -> Result<(), Refusal> {
        let mut state = self.0.state.lock();
        let domain = state.domains.get_mut(domain).ok_or_else(no_such_domain)?;
        if domain.is_subscriber(number) {
            return Err(Refusal::new(RefusalCause::AlreadyExists, format!("{number} is a subscriber")));
        }
        for member in &members {
            domain.require(member)?;
        }
        domain.groups.insert(number.to_owned(), Group { kind, members });
        Ok(())
    }
}

fn default_registration(alias: &str, now: Timestamp) -> Registration {
    let host = alias.bytes().fold(1u32, |sum, byte| sum.wrapping_mul(17).wrapping_add(u32::from(byte)));
    let address = format!("10.{}.{}.{}", (host >> 16) % 256, (host >> 8) % 256, host % 254 + 1);
    Registration {
        access_point: "ipsmg".to_owned(),
        uri: format!("sip:{alias}@{address}:5060"),
        first_via_host: address,
        ttl: REGISTRATION_TTL,
        reregistered_at: now,
        expires_at: now.checked_add(SignedDuration::from_secs(i64::from(REGISTRATION_TTL))).unwrap_or(now),
    }
}
