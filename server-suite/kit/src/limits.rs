//! How much each may ask: requests per second and address, and per user. Token buckets; who is over the limit is told how long to wait.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{caller::Caller, problem::Problem};

/// Buckets that are kept before those that are full again are forgotten.
const BUCKETS: usize = 100_000;

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitSettings {
    /// Requests per second from one address (IPv6: one /64 network).
    pub per_address: NonZeroU32,
    /// How many of these at once.
    pub per_address_burst: NonZeroU32,
    /// Requests per second of one user, from wherever.
    pub per_user: NonZeroU32,
    /// How many of these at once.
    pub per_user_burst: NonZeroU32,
}

/// The buckets.
pub struct Limits {
    addresses: DefaultKeyedRateLimiter<IpAddr>,
    users: DefaultKeyedRateLimiter<(String, String)>,
}

impl Default for LimitSettings {
    fn default() -> Self {
        let number = |number: u32| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        Self { per_address: number(200), per_address_burst: number(400), per_user: number(50), per_user_burst: number(100) }
    }
}

impl Limits {
    /// Empty buckets are full ones.
    pub fn new(settings: &LimitSettings) -> Self {
        let addresses = Quota::per_second(settings.per_address).allow_burst(settings.per_address_burst);
        let users = Quota::per_second(settings.per_user).allow_burst(settings.per_user_burst);
        Self { addresses: RateLimiter::keyed(addresses), users: RateLimiter::keyed(users) }
    }

    /// Whether an address may ask now.
    pub fn address(&self, address: IpAddr) -> Result<(), Problem> {
        if self.addresses.len() > BUCKETS {
            self.addresses.retain_recent();
        }
        self.addresses.check_key(&network(address)).map_err(|wait| Problem::too_many(wait.wait_time_from(now(&self.addresses))))
    }

    /// Whether a user may ask now.
    pub fn user(&self, caller: &Caller) -> Result<(), Problem> {
        if self.users.len() > BUCKETS {
            self.users.retain_recent();
        }
        let key = (caller.domain.clone(), caller.subject.clone());
        self.users.check_key(&key).map_err(|wait| Problem::too_many(wait.wait_time_from(now(&self.users))))
    }
}

type Instant = <governor::clock::DefaultClock as Clock>::Instant;

fn now<K: Clone + std::hash::Hash + Eq>(limiter: &DefaultKeyedRateLimiter<K>) -> Instant {
    limiter.clock().now()
}

/// What one customer has: an address, in IPv6 a network.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Code;

    fn number(number: u32) -> NonZeroU32 {
        NonZeroU32::new(number).unwrap()
    }

    #[test]
    fn who_asks_too_often_is_told_to_wait_and_others_are_not() {
        let limits = Limits::new(&LimitSettings { per_address: number(1), per_address_burst: number(2), ..Default::default() });
        let one: IpAddr = "2001:db8::1".parse().unwrap();
        assert!(limits.address(one).is_ok());
        assert!(limits.address("2001:db8::2".parse().unwrap()).is_ok(), "the burst is two");
        assert_eq!(limits.address(one).unwrap_err().code(), Code::TooManyRequests);
        assert!(limits.address("2001:db8:0:1::1".parse().unwrap()).is_ok(), "another network");
        assert!(limits.address("192.0.2.1".parse().unwrap()).is_ok());
    }

    #[test]
    fn the_same_name_in_two_domains_is_two_users() {
        let limits = Limits::new(&LimitSettings { per_user: number(1), per_user_burst: number(1), ..Default::default() });
        let caller =
            |domain: &str| Caller { subject: "1001".into(), domain: domain.into(), alias: "1001".into(), roles: Vec::new(), expires_at: 0 };
        assert!(limits.user(&caller("a.local")).is_ok());
        assert!(limits.user(&caller("a.local")).is_err());
        assert!(limits.user(&caller("b.local")).is_ok());
    }
}
