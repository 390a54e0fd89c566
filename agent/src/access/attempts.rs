//! How often a subscriber's password may be tried: per alias, so that one is not guessed, and per caller, so that not all are.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use ecss_switch::{Alias, Domain};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock};

use super::Denied;
use crate::config::Limits;

/// Most keys that are remembered. With more, attempts are refused until some have been forgotten: a flood of aliases is itself an
/// attack.
const MOST_KEYS: usize = 50_000;

/// The limits and what has been used of them.
pub struct Attempts {
    state: ArcSwap<State>,
}

struct State {
    limits: Limits,
    aliases: DefaultKeyedRateLimiter<(Domain, Alias)>,
    callers: DefaultKeyedRateLimiter<String>,
}

impl Attempts {
    /// Nothing used yet.
    pub fn new(limits: &Limits) -> Self {
        Self { state: ArcSwap::from_pointee(State::new(limits)) }
    }

    /// Other limits; what has been used is forgotten only if they differ.
    pub fn reload(&self, limits: &Limits) {
        if self.state.load().limits != *limits {
            self.state.store(Arc::new(State::new(limits)));
        }
    }

    /// Counts an attempt, or refuses it.
    pub fn try_one(&self, caller: &str, domain: &Domain, alias: &Alias) -> Result<(), Denied> {
        let state = self.state.load();
        for forget in [State::forget_aliases, State::forget_callers] {
            if !forget(&state) {
                return Err(Denied::TooManyAttempts { retry_after: Duration::from_secs(60) });
            }
        }
        let refused = |until: governor::NotUntil<_>| {
            let retry_after = until.wait_time_from(governor::clock::DefaultClock::default().now());
            Denied::TooManyAttempts { retry_after }
        };
        state.callers.check_key(&caller.to_owned()).map_err(refused)?;
        state.aliases.check_key(&(domain.clone(), alias.clone())).map_err(refused)
    }
}

impl State {
    fn new(limits: &Limits) -> Self {
        let quota = |count: u32| Quota::per_minute(NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN));
        Self {
            limits: limits.clone(),
            aliases: RateLimiter::keyed(quota(limits.authenticate_alias_per_minute)),
            callers: RateLimiter::keyed(quota(limits.authenticate_caller_per_minute)),
        }
    }

    fn forget_aliases(&self) -> bool {
        if self.aliases.len() >= MOST_KEYS {
            self.aliases.retain_recent();
        }
        self.aliases.len() < MOST_KEYS
    }

    fn forget_callers(&self) -> bool {
        if self.callers.len() >= MOST_KEYS {
            self.callers.retain_recent();
        }
        self.callers.len() < MOST_KEYS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_alias_is_limited_without_limiting_another_and_a_caller_is_limited_over_all() {
        let attempts = Attempts::new(&Limits { authenticate_alias_per_minute: 2, authenticate_caller_per_minute: 5 });
        let domain = Domain::parse("biysk.local").unwrap();
        let alias = |text: &str| Alias::parse(text).unwrap();
        let attempt = |caller, text| attempts.try_one(caller, &domain, &alias(text));
        assert_eq!(attempt("suite", "101"), Ok(()));
        assert_eq!(attempt("suite", "101"), Ok(()));
        assert!(matches!(attempt("suite", "101"), Err(Denied::TooManyAttempts { retry_after }) if retry_after.as_secs() <= 60));
        assert_eq!(attempt("suite", "102"), Ok(()));
        assert_eq!(attempt("suite", "103"), Ok(()));
        assert!(attempt("suite", "104").is_err(), "the caller's five are used");
        assert_eq!(attempt("other", "104"), Ok(()));
    }
}
