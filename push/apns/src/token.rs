//! The provider token: a JWT signed with the team's key (ES256), good for an hour. Apple wants a new one no sooner than after twenty
//! minutes and no later than after an hour, so there is one for all connections and senders that share a key.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use parking_lot::Mutex;
use serde::Serialize;

use crate::SettingsError;

/// Tells the time of day. Tests put their own here.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// A token of this age is replaced. Apple takes it until sixty minutes; the difference is for clocks that are not right.
pub(crate) const RENEWED_AT: Duration = Duration::from_secs(40 * 60);

/// A token younger than this is never replaced: Apple answers `TooManyProviderTokenUpdates`.
pub(crate) const SOONEST: Duration = Duration::from_secs(20 * 60);

/// A token from the future: the clock was set back, and Apple would not take it.
const SET_BACK: i64 = 60;

/// The provider tokens of one key of a team.
pub struct ProviderTokens {
    key: EncodingKey,
    header: Header,
    team: String,
    clock: Arc<dyn Clock>,
    made: Mutex<Made>,
    renewals: AtomicU64,
}

struct Made {
    value: Arc<str>,
    at: Timestamp,
    serial: u64,
}

/// The token as a header, and which one it is.
#[derive(Clone)]
pub(crate) struct Bearer {
    pub(crate) value: Arc<str>,
    pub(crate) serial: u64,
}

/// What can be done about a token that Apple called expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rejected {
    /// There is another one now.
    Replaced,
    /// The token is too young to be replaced; it can be after this time.
    TooSoon(Duration),
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    iat: i64,
}

// === impl ProviderTokens ===

impl ProviderTokens {
    /// Makes tokens with the key of a `.p8` file, named `key_id` and belonging to the team `team_id`: ten letters and digits each.
    pub fn new(key_pem: &[u8], key_id: &str, team_id: &str, clock: Arc<dyn Clock>) -> Result<Arc<Self>, SettingsError> {
        let ten = |text: &str| text.len() == 10 && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !ten(key_id) {
            return Err(SettingsError::KeyId);
        }
        if !ten(team_id) {
            return Err(SettingsError::TeamId);
        }
        let key = EncodingKey::from_ec_pem(key_pem).map_err(|_| SettingsError::Key)?;
        let header = Header { typ: None, kid: Some(key_id.to_owned()), ..Header::new(Algorithm::ES256) };
        let at = clock.now();
        // A key of another curve is found only by signing.
        let value = sign(&key, &header, team_id, at).ok_or(SettingsError::Key)?;
        let made = Mutex::new(Made { value, at, serial: 0 });
        Ok(Arc::new(Self { key, header, team: team_id.to_owned(), clock, made, renewals: AtomicU64::new(0) }))
    }

    /// How often a token was replaced.
    pub fn renewals(&self) -> u64 {
        self.renewals.load(Ordering::Relaxed)
    }

    /// The token to send now.
    pub(crate) fn current(&self, now: Timestamp) -> Bearer {
        let mut made = self.made.lock();
        if age(&made, now).is_none_or(|age| age >= RENEWED_AT) {
            self.renew(&mut made, now);
        }
        Bearer { value: made.value.clone(), serial: made.serial }
    }

    /// Apple called this token expired. Many requests learn that at once; one renewal serves them all.
    pub(crate) fn rejected(&self, serial: u64) -> Rejected {
        let now = self.clock.now();
        let mut made = self.made.lock();
        if made.serial != serial {
            return Rejected::Replaced;
        }
        match age(&made, now) {
            Some(age) if age < SOONEST => Rejected::TooSoon(SOONEST - age),
            _ if self.renew(&mut made, now) => Rejected::Replaced,
            _ => Rejected::TooSoon(SOONEST),
        }
    }

    fn renew(&self, made: &mut Made, now: Timestamp) -> bool {
        let Some(value) = sign(&self.key, &self.header, &self.team, now) else {
            tracing::error!(team = self.team, "provider token cannot be signed");
            return false;
        };
        *made = Made { value, at: now, serial: made.serial + 1 };
        self.renewals.fetch_add(1, Ordering::Relaxed);
        true
    }
}

/// `None`: the clock was set back behind the token's making.
fn age(made: &Made, now: Timestamp) -> Option<Duration> {
    let seconds = now.as_second() - made.at.as_second();
    if seconds < -SET_BACK { None } else { Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0))) }
}

fn sign(key: &EncodingKey, header: &Header, team: &str, at: Timestamp) -> Option<Arc<str>> {
    let token = jsonwebtoken::encode(header, &Claims { iss: team, iat: at.as_second() }, key).ok()?;
    Some(format!("bearer {token}").into())
}

impl fmt::Debug for ProviderTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProviderTokens").field("team", &self.team).field("key_id", &self.header.kid).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;

    use super::*;

    struct Hands(Mutex<Timestamp>);

    impl Hands {
        fn pass(&self, minutes: i64) {
            let mut now = self.0.lock();
            *now = now.checked_add(minutes.minutes()).unwrap();
        }
    }

    impl Clock for Hands {
        fn now(&self) -> Timestamp {
            *self.0.lock()
        }
    }

    fn tokens() -> (Arc<ProviderTokens>, Arc<Hands>) {
        let hands = Arc::new(Hands(Mutex::new("2026-01-01T00:00:00Z".parse().unwrap())));
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        (ProviderTokens::new(key.as_bytes(), "KEY4567890", "TEAM567890", hands.clone()).unwrap(), hands)
    }

    #[test]
    fn trial_18_a_token_is_renewed_once_between_twenty_and_fifty_minutes_of_age() {
        let (tokens, hands) = tokens();
        let first = tokens.current(hands.now());
        for minute in 1..=24 * 60 {
            hands.pass(1);
            for _ in 0..3 {
                tokens.current(hands.now());
            }
            let age = age(&tokens.made.lock(), hands.now()).unwrap();
            assert!(age < Duration::from_secs(50 * 60), "minute {minute}: {age:?}");
            assert!(tokens.renewals() <= minute / 20, "minute {minute}: {} renewals", tokens.renewals());
        }
        assert_eq!(tokens.renewals(), 24 * 60 / 40);
        assert_ne!(tokens.current(hands.now()).value, first.value);
    }

    #[test]
    fn trial_18_a_rejected_token_is_replaced_once_and_not_before_it_is_twenty_minutes_old() {
        let (tokens, hands) = tokens();
        let first = tokens.current(hands.now());
        hands.pass(19);
        assert_eq!(tokens.rejected(first.serial), Rejected::TooSoon(Duration::from_secs(60)));
        assert_eq!(tokens.renewals(), 0);
        hands.pass(1);
        for _ in 0..1000 {
            assert_eq!(tokens.rejected(first.serial), Rejected::Replaced, "a thousand answers to the old token are one renewal");
        }
        assert_eq!(tokens.renewals(), 1);
        assert!(matches!(tokens.rejected(tokens.current(hands.now()).serial), Rejected::TooSoon(_)));
    }

    #[test]
    fn a_token_from_the_future_is_replaced_when_the_clock_was_set_back() {
        let (tokens, hands) = tokens();
        hands.pass(-90);
        tokens.current(hands.now());
        assert_eq!(tokens.renewals(), 1);
        tokens.current(hands.now());
        assert_eq!(tokens.renewals(), 1);
    }

    #[test]
    fn keys_and_ids_that_cannot_be_apples_are_refused() {
        let clock = || Arc::new(SystemClock);
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let other_curve = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem();
        let make = |key: &str, key_id, team| ProviderTokens::new(key.as_bytes(), key_id, team, clock()).map(|_| ());
        assert_eq!(make(&key, "KEY4567890", "TEAM567890"), Ok(()));
        assert_eq!(make(&other_curve, "KEY4567890", "TEAM567890"), Err(SettingsError::Key));
        assert_eq!(make("no key", "KEY4567890", "TEAM567890"), Err(SettingsError::Key));
        assert_eq!(make(&key, "KEY", "TEAM567890"), Err(SettingsError::KeyId));
        assert_eq!(make(&key, "KEY4567890", "TEAM 67890"), Err(SettingsError::TeamId));
        let (tokens, _) = tokens();
        assert_eq!(format!("{tokens:?}"), r#"ProviderTokens { team: "TEAM567890", key_id: Some("KEY4567890"), .. }"#);
    }
}
