//! Which devices are to be monitored and which are: the part of the session that is rebuilt after every reconnect. No I/O, no clock.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use ecss_switch::Alias;
use rand::{Rng, SeedableRng, rngs::SmallRng};

/// Bound of the wait before a refused monitor is asked for again; it doubles up to `MOST_WAIT`.
const FIRST_WAIT: Duration = Duration::from_secs(5);
const MOST_WAIT: Duration = Duration::from_secs(300);

/// How far the monitors are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MonitorProgress {
    /// Devices that are to be monitored.
    pub wanted: usize,
    /// Devices that are.
    pub started: usize,
    /// Devices whose monitor was refused, or not answered, and is asked for again later.
    pub failed: usize,
}

/// One device's monitor.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Monitor {
    /// It is in the queue.
    Waiting { attempts: u32 },
    /// Asked for.
    Starting { attempts: u32 },
    /// Its events come under this reference.
    Started { cross_ref: String },
    /// Asked for again at that time.
    Failed { at: Instant, attempts: u32 },
}

/// What is asked of the switch next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// A monitor is to start.
    Start(Alias),
    /// A monitor is no longer wanted.
    Stop(String),
}

/// The monitors of one session after the other.
#[derive(Debug)]
pub(crate) struct Monitors {
    all: HashMap<Alias, Monitor>,
    queue: VecDeque<Alias>,
    by_ref: HashMap<String, Alias>,
    to_stop: VecDeque<String>,
    retries: BTreeSet<(Instant, Alias)>,
    starting: usize,
    started: usize,
    /// A monitor was started since the last time that everything was settled.
    fresh: bool,
    rng: SmallRng,
}

impl Monitors {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            all: HashMap::new(),
            queue: VecDeque::new(),
            by_ref: HashMap::new(),
            to_stop: VecDeque::new(),
            retries: BTreeSet::new(),
            starting: 0,
            started: 0,
            fresh: false,
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    /// Replaces the set of wanted monitors.
    pub(crate) fn want(&mut self, devices: Vec<Alias>) {
        let wanted: HashSet<Alias> = devices.into_iter().collect();
        let (by_ref, to_stop, retries, started) = (&mut self.by_ref, &mut self.to_stop, &mut self.retries, &mut self.started);
        self.all.retain(|device, monitor| {
            if wanted.contains(device) {
                return true;
            }
            match monitor {
                Monitor::Started { cross_ref } => {
                    *started = started.saturating_sub(1);
                    by_ref.remove(cross_ref);
                    to_stop.push_back(std::mem::take(cross_ref));
                }
                Monitor::Failed { at, .. } => {
                    retries.remove(&(*at, device.clone()));
                }
                // One that is being started is stopped once its answer comes.
                Monitor::Waiting { .. } | Monitor::Starting { .. } => {}
            }
            false
        });
        self.queue.retain(|device| wanted.contains(device));
        for device in wanted {
            if !self.all.contains_key(&device) {
                self.queue.push_back(device.clone());
                self.all.insert(device, Monitor::Waiting { attempts: 0 });
            }
        }
    }

    /// The session is gone: everything is to be started again.
    pub(crate) fn reset(&mut self) {
        self.by_ref.clear();
        self.to_stop.clear();
        self.retries.clear();
        self.queue = self.all.keys().cloned().collect();
        self.all.values_mut().for_each(|monitor| *monitor = Monitor::Waiting { attempts: 0 });
        self.starting = 0;
        self.started = 0;
        self.fresh = false;
    }

    /// What to ask for now.
    pub(crate) fn next(&mut self) -> Option<Next> {
        if let Some(cross_ref) = self.to_stop.pop_front() {
            return Some(Next::Stop(cross_ref));
        }
        while let Some(device) = self.queue.pop_front() {
            if let Some(monitor) = self.all.get_mut(&device)
                && let Monitor::Waiting { attempts } = *monitor
            {
                *monitor = Monitor::Starting { attempts };
                self.starting += 1;
                return Some(Next::Start(device));
            }
        }
        None
    }

    /// The switch started a monitor for this device.
    pub(crate) fn started(&mut self, device: &Alias, cross_ref: String) {
        self.starting = self.starting.saturating_sub(1);
        match self.all.get_mut(device) {
            Some(monitor) if !matches!(monitor, Monitor::Started { .. }) => {
                if let Monitor::Failed { at, .. } = monitor {
                    self.retries.remove(&(*at, device.clone()));
                }
                *monitor = Monitor::Started { cross_ref: cross_ref.clone() };
                self.by_ref.insert(cross_ref, device.clone());
                self.started += 1;
                self.fresh = true;
            }
            // No longer wanted, or started twice.
            _ => self.to_stop.push_back(cross_ref),
        }
    }

    /// The switch refused a monitor for this device, or did not answer.
    pub(crate) fn refused(&mut self, device: &Alias, now: Instant) {
        self.starting = self.starting.saturating_sub(1);
        if let Some(monitor) = self.all.get_mut(device)
            && let Monitor::Starting { attempts } = *monitor
        {
            let bound = FIRST_WAIT.saturating_mul(1 << attempts.min(10)).min(MOST_WAIT);
            let at = now + bound.mul_f64(self.rng.random_range(0.5..=1.0));
            *monitor = Monitor::Failed { at, attempts: attempts + 1 };
            self.retries.insert((at, device.clone()));
        }
    }

    /// The switch ended a monitor: it is asked for again, after a while.
    pub(crate) fn stopped(&mut self, cross_ref: &str, now: Instant) {
        let Some(device) = self.by_ref.remove(cross_ref) else { return };
        self.started = self.started.saturating_sub(1);
        let at = now + FIRST_WAIT.mul_f64(self.rng.random_range(0.5..=1.0));
        self.all.insert(device.clone(), Monitor::Failed { at, attempts: 1 });
        self.retries.insert((at, device));
    }

    /// Puts what is due back into the queue.
    pub(crate) fn poll(&mut self, now: Instant) {
        while let Some((at, device)) = self.retries.pop_first() {
            if at > now {
                self.retries.insert((at, device));
                return;
            }
            if let Some(monitor) = self.all.get_mut(&device)
                && let Monitor::Failed { attempts, .. } = *monitor
            {
                *monitor = Monitor::Waiting { attempts };
                self.queue.push_back(device);
            }
        }
    }

    /// When `poll` has something to do.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.retries.first().map(|(at, _)| *at)
    }

    /// The device whose monitor has this reference.
    pub(crate) fn device_of(&self, cross_ref: &str) -> Option<&Alias> {
        self.by_ref.get(cross_ref)
    }

    /// Whether every wanted monitor is started or refused.
    pub(crate) fn settled(&self) -> bool {
        self.starting == 0 && self.queue.is_empty()
    }

    /// Whether a monitor was started since the last call.
    pub(crate) fn take_fresh(&mut self) -> bool {
        std::mem::take(&mut self.fresh)
    }

    pub(crate) fn progress(&self) -> MonitorProgress {
        MonitorProgress { wanted: self.all.len(), started: self.started, failed: self.retries.len() }
    }
}
