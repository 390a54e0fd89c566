//! Several copies of the service show the same: what people choose is in the database, and each copy hears of its change; calls each hears
//! from the agents itself; and who is connected to which copy they tell each other here. Each copy numbers what it tells. Who has missed
//! something sees it by the next number, at the latest by the next sign of life, and asks for everything. A copy that is silent for
//! [`SILENT`] has ended, and with it the devices that were connected to it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use elph_kit::{
    Kit,
    bus::{Bus, Event, Heard, Hearing},
};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{
    board::{Board, Key},
    service::{self, Devices},
    store::{CHANGED, Changed, Store},
};

/// What copies tell each other of connected devices.
const DEVICES: &str = "status.devices";
/// Between signs of life.
const ALIVE: Duration = Duration::from_secs(5);
/// A copy that is silent for longer has ended.
pub(crate) const SILENT: Duration = Duration::from_secs(16);
/// How often it is looked at what is due.
const LOOK: Duration = Duration::from_millis(250);
/// Who has asked for everything waits so long before asking again.
const ASKED: Duration = Duration::from_secs(2);
/// Devices in one message, at most; with ids of 64 characters they fit into an event.
const TOGETHER: usize = 200;

/// What is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Told {
    /// Who tells it.
    copy: String,
    #[serde(flatten)]
    what: What,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum What {
    /// These are a person's devices here; none: there are none any more.
    Devices { number: u64, alias: String, devices: Devices },
    /// I live, and this was the last number.
    Alive { number: u64 },
    /// Everybody who has devices here, as of this number, in parts from 0.
    All { number: u64, part: u32, last: bool, people: Vec<(String, Devices)> },
    /// Tell everything.
    Ask,
    /// A person has signed this device off, wherever it is.
    Left { alias: String, device: String },
    /// I end.
    Gone,
}

/// This copy among the others.
pub(crate) struct Copies {
    bus: Bus,
    board: Arc<Board>,
    store: Store,
    domains: Vec<String>,
    /// The last number that was told, by domain. What is told is told under this lock, so that numbers are in order.
    numbers: Mutex<HashMap<String, u64>>,
}

/// What is known of another copy in one domain.
struct Other {
    /// As of which number; none: something was missed.
    number: Option<u64>,
    heard: Instant,
    /// When it said so by its clock.
    said: Timestamp,
    asked: Option<Instant>,
    /// Parts of everything that have come, in order.
    parts: Option<(u64, u32, HashMap<Arc<str>, Devices>)>,
}

/// Follows the other copies.
struct Follower {
    copies: Arc<Copies>,
    /// By domain and copy.
    others: HashMap<(String, String), Other>,
    /// Domains of which somebody has asked for everything.
    wanted: BTreeSet<String>,
    /// The database is to be read again.
    reread: bool,
}

// === impl Copies ===

impl Copies {
    pub(crate) fn new(kit: &Kit, board: Arc<Board>, store: Store) -> Self {
        let domains = kit.switches.domains().map(str::to_owned).collect();
        Self { bus: kit.bus.clone(), board, store, domains, numbers: Mutex::default() }
    }

    /// A person's devices here have changed.
    pub(crate) fn tell_devices(&self, key: &Key) {
        if !self.bus.is_shared() {
            return;
        }
        let mut numbers = self.numbers.lock();
        let number = numbers.entry(key.domain.to_string()).or_default();
        *number += 1;
        let devices = self.board.person(key).devices;
        self.tell(&key.domain, What::Devices { number: *number, alias: key.alias.to_string(), devices });
    }

    /// A person has signed off a device, which may be at another copy.
    pub(crate) fn tell_left(&self, key: &Key, device: &str) {
        self.tell(&key.domain, What::Left { alias: key.alias.to_string(), device: device.to_owned() });
    }

    fn tell_alive(&self) {
        let numbers = self.numbers.lock();
        for domain in &self.domains {
            self.tell(domain, What::Alive { number: numbers.get(domain).copied().unwrap_or(0) });
        }
    }

    fn tell_all(&self, domain: &str) {
        let numbers = self.numbers.lock();
        let number = numbers.get(domain).copied().unwrap_or(0);
        let (mut parts, mut devices_in_part) = (vec![Vec::new()], 0);
        for (alias, devices) in self.board.own_devices(domain) {
            if devices_in_part >= TOGETHER {
                parts.push(Vec::new());
                devices_in_part = 0;
            }
            devices_in_part += devices.len();
            if let Some(part) = parts.last_mut() {
                part.push((alias.to_string(), devices));
            }
        }
        let last = parts.len().saturating_sub(1);
        for (part, people) in parts.into_iter().enumerate() {
            let place = u32::try_from(part).unwrap_or(u32::MAX);
            self.tell(domain, What::All { number, part: place, last: part == last, people });
        }
    }

    fn tell(&self, domain: &str, what: What) {
        if !self.bus.is_shared() {
            return;
        }
        match serde_json::to_value(Told { copy: self.bus.copy().to_owned(), what }) {
            Ok(body) => self.bus.tell(Event::new(DEVICES, domain, body)),
            Err(error) => tracing::error!(%error, "what is connected here cannot be told"),
        }
    }
}

/// Follows the other copies, until `stop`.
pub(crate) async fn follow(copies: Arc<Copies>, stop: CancellationToken) {
    let mut hearing = copies.bus.hear(&[DEVICES, CHANGED]);
    let mut follower = Follower { copies, others: HashMap::new(), wanted: BTreeSet::new(), reread: false };
    follower.run(&mut hearing, &stop).await;
    for domain in &follower.copies.domains {
        follower.copies.tell(domain, What::Gone);
    }
}

impl Follower {
    async fn run(&mut self, hearing: &mut Hearing, stop: &CancellationToken) {
        let (mut looks, mut alive) = (interval(LOOK), interval(ALIVE));
        for ticks in [&mut looks, &mut alive] {
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                heard = hearing.next() => match heard {
                    Some(Heard::Event(event)) => self.hear(&event),
                    Some(Heard::Anew) => self.anew(),
                    None => return,
                },
                _ = looks.tick() => self.look().await,
                _ = alive.tick() => self.copies.tell_alive(),
            }
        }
    }

    /// Something may have been missed, of anybody.
    fn anew(&mut self) {
        self.reread = true;
        for other in self.others.values_mut() {
            (other.number, other.parts, other.heard) = (None, None, Instant::now());
        }
        self.copies.tell_alive();
        for domain in &self.copies.domains {
            self.copies.tell(domain, What::Ask);
        }
    }

    async fn look(&mut self) {
        for domain in std::mem::take(&mut self.wanted) {
            self.copies.tell_all(&domain);
        }
        // As long as we hear nobody, nobody is missed.
        if !self.copies.bus.reasons().is_empty() {
            self.others.values_mut().for_each(|other| other.heard = Instant::now());
        }
        let silent: Vec<_> = self.others.iter().filter(|(_, other)| other.heard.elapsed() > SILENT).map(|(key, _)| key.clone()).collect();
        for (domain, copy) in silent {
            tracing::warn!(copy, domain, "a copy of the server is silent; the devices that were connected to it are gone");
            self.gone(&domain, &copy);
        }
        if self.reread {
            match self.copies.store.all().await {
                Ok(people) => {
                    self.copies.board.take(people.into_iter().map(|(key, person)| (key, person.chosen())));
                    self.reread = false;
                }
                // The next look tries again.
                Err(error) => tracing::debug!(%error, "what has changed cannot be read"),
            }
        }
    }

    fn hear(&mut self, event: &Event) {
        if event.topic == CHANGED {
            return match event.read::<Changed>() {
                Ok(Changed { alias, chosen }) => self.copies.board.take([(Key::new(&event.domain, &alias), chosen)]),
                Err(error) => tracing::warn!(%error, "a change of status is not understood; copies of different versions?"),
            };
        }
        match event.read::<Told>() {
            Ok(told) if told.copy == self.copies.bus.copy() => {}
            Ok(told) => self.told(event, told),
            Err(error) => tracing::warn!(%error, "another copy is not understood; copies of different versions?"),
        }
    }

    fn told(&mut self, event: &Event, Told { copy, what }: Told) {
        let (domain, own) = (event.domain.as_str(), self.copies.bus.copy());
        if what == What::Gone {
            return self.gone(domain, &copy);
        }
        let other = self.others.entry((domain.to_owned(), copy.clone())).or_insert_with(|| Other::new(event.time));
        (other.heard, other.said) = (Instant::now(), event.time);
        let moved = match other.hear(what) {
            Step::None => Vec::new(),
            Step::Ask => {
                self.wanted.insert(domain.to_owned());
                Vec::new()
            }
            Step::Left { alias, device } => {
                let key = Key::new(domain, &alias);
                let (was, last) = self.copies.board.remove_own(&key, &device, service::now());
                if last {
                    self.copies.board.write_down(&key);
                }
                if was { vec![key] } else { Vec::new() }
            }
            Step::One(alias, devices) => {
                let key = Key::new(domain, &alias);
                let moved = self.copies.board.set_elsewhere(&key, &copy, own, devices, event.time);
                if moved { vec![key] } else { Vec::new() }
            }
            Step::All(people) => self.copies.board.set_all_elsewhere(domain, &copy, own, people, event.time),
        };
        if other.number.is_none() && other.asked.is_none_or(|asked| asked.elapsed() > ASKED) {
            other.asked = Some(Instant::now());
            self.copies.tell(domain, What::Ask);
        }
        for key in moved {
            self.copies.tell_devices(&key);
        }
    }

    fn gone(&mut self, domain: &str, copy: &str) {
        let said = self.others.remove(&(domain.to_owned(), copy.to_owned())).map_or_else(service::now, |other| other.said);
        self.copies.board.set_all_elsewhere(domain, copy, self.copies.bus.copy(), HashMap::new(), said);
    }
}

// === impl Other ===

/// What is to be done about what was told.
#[derive(Debug, PartialEq)]
enum Step {
    None,
    Ask,
    Left { alias: String, device: String },
    One(String, Devices),
    All(HashMap<Arc<str>, Devices>),
}

impl Other {
    fn new(said: Timestamp) -> Self {
        Self { number: None, heard: Instant::now(), said, asked: None, parts: None }
    }

    /// Hears the next thing. Afterwards `number` is none if something was missed.
    fn hear(&mut self, what: What) -> Step {
        match what {
            What::Ask => Step::Ask,
            What::Left { alias, device } => Step::Left { alias, device },
            What::Gone => Step::None,
            What::Alive { number } => {
                self.number = self.number.filter(|known| *known == number);
                Step::None
            }
            What::Devices { number, alias, devices } => {
                let next = self.number.is_some_and(|known| number == known + 1);
                self.number = next.then_some(number);
                if next { Step::One(alias, devices) } else { Step::None }
            }
            What::All { number, part, last, people } => {
                let begun = self.parts.take().filter(|(of, next, _)| *of == number && *next == part);
                let Some((.., mut all)) = begun.or_else(|| (part == 0).then(|| (number, 0, HashMap::new()))) else { return Step::None };
                all.extend(people.into_iter().map(|(alias, devices)| (alias.into(), devices)));
                if !last {
                    self.parts = Some((number, part + 1, all));
                    return Step::None;
                }
                self.number = Some(number);
                Step::All(all)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Availability;

    fn devices() -> Devices {
        let since = service::now();
        [("phone".to_owned(), crate::Device { availability: Availability::Active, until: None, since })].into()
    }

    fn changed(number: u64) -> What {
        What::Devices { number, alias: "1001".to_owned(), devices: devices() }
    }

    fn part(number: u64, part: u32, last: bool) -> What {
        What::All { number, part, last, people: vec![(format!("{part}"), devices())] }
    }

    #[test]
    fn what_was_missed_is_noticed_and_everything_in_parts_mends_it() {
        let mut other = Other::new(service::now());
        assert_eq!((other.hear(changed(5)), other.number), (Step::None, None), "what was before it is not known");
        assert!(matches!(other.hear(part(5, 0, true)), Step::All(all) if all.len() == 1));
        assert!(matches!(other.hear(changed(6)), Step::One(..)));
        assert_eq!((other.hear(What::Alive { number: 6 }), other.number), (Step::None, Some(6)));
        assert_eq!((other.hear(What::Alive { number: 7 }), other.number), (Step::None, None), "7 was missed");
        // A part is missing, and the next try begins anew.
        assert_eq!(other.hear(part(8, 0, false)), Step::None);
        assert_eq!((other.hear(part(8, 2, true)), other.number), (Step::None, None));
        assert_eq!(other.hear(part(8, 0, false)), Step::None);
        assert!(matches!(other.hear(part(8, 1, true)), Step::All(all) if all.len() == 2));
        assert_eq!(other.number, Some(8));
        assert_eq!((other.hear(changed(10)), other.number), (Step::None, None), "9 was missed");
    }

    #[test]
    fn what_copies_tell_each_other_is_this_json() {
        let told = Told { copy: "c".to_owned(), what: What::Left { alias: "1001".to_owned(), device: "desk".to_owned() } };
        let text = r#"{"copy":"c","type":"left","alias":"1001","device":"desk"}"#;
        assert_eq!(serde_json::to_string(&told).unwrap(), text);
        assert_eq!(serde_json::from_str::<Told>(text).unwrap(), told);
        let all = Told { copy: "c".to_owned(), what: part(1, 0, true) };
        assert_eq!(serde_json::from_value::<Told>(serde_json::to_value(&all).unwrap()).unwrap(), all);
    }
}
