//! Passwords of local accounts: argon2id (RFC 9106) with the parameters that OWASP recommends, and few at once, since each takes 19 MiB.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use secrecy::{ExposeSecret, SecretString};
use tokio::{sync::Semaphore, time::timeout};

/// Memory in KiB, passes, lanes (OWASP Password Storage Cheat Sheet).
const COST: (u32, u32, u32) = (19 * 1024, 2, 1);
/// How many characters a password has at least.
const SHORTEST: usize = 10;
/// How many bytes at most: all of them are hashed, so that more would only cost time.
const LONGEST: usize = 1024;
/// How long a sign-in waits for others.
const PATIENCE: Duration = Duration::from_secs(5);
/// Guessers begin with these.
const COMMON: [&str; 24] = [
    "1234567890",
    "0123456789",
    "9876543210",
    "0987654321",
    "12345678910",
    "123456789a",
    "1q2w3e4r5t",
    "1q2w3e4r5t6y",
    "1qaz2wsx3edc",
    "q1w2e3r4t5",
    "q1w2e3r4t5y6",
    "qazwsxedcrfv",
    "qwerty1234",
    "qwerty12345",
    "qwerty123456",
    "qwertyuiop",
    "qwertyuiop123",
    "asdfghjkl123",
    "password12",
    "password123",
    "password1234",
    "iloveyou123",
    "йцукенгшщз",
    "администратор",
];

/// Hashes and checks, a few at a time.
#[derive(Clone)]
pub(super) struct Hasher {
    turns: Arc<Semaphore>,
    argon2: Argon2<'static>,
}

/// Why there is no hash.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// Others were before it.
    #[error("too many passwords are being checked at once")]
    Busy,
    /// Argon2 failed.
    #[error("a password cannot be hashed: {0}")]
    Failed(String),
}

/// What checking a password came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checked {
    Wrong,
    Right,
    /// Right, but hashed with other parameters than today's.
    Outdated,
}

/// What is wrong with a new password, in words for who chose it.
pub(super) fn weakness(password: &SecretString, names: &[&str]) -> Option<String> {
    let text = password.expose_secret();
    let lower = text.to_lowercase();
    let mut characters = text.chars();
    let first = characters.next();
    if text.chars().count() < SHORTEST {
        Some(format!("the password is too short; take at least {SHORTEST} characters"))
    } else if text.len() > LONGEST {
        Some(format!("the password is too long; take at most {LONGEST} bytes"))
    } else if text.chars().any(char::is_control) {
        Some("the password has control characters".to_owned())
    } else if characters.all(|c| Some(c) == first) || COMMON.contains(&lower.as_str()) {
        Some("the password is one of the first that are guessed; take another".to_owned())
    } else if names.iter().any(|name| name.len() >= 4 && lower.contains(&name.to_lowercase())) {
        Some("the password has the person's name, login or number in it; take another".to_owned())
    } else {
        None
    }
}

// === impl Hasher ===

impl Hasher {
    pub(super) fn new() -> Result<Self, HashError> {
        let turns = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(4));
        let (memory, passes, lanes) = COST;
        let params = Params::new(memory, passes, lanes, None).map_err(|error| HashError::Failed(error.to_string()))?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        Ok(Self { turns: Arc::new(Semaphore::new(turns)), argon2 })
    }

    /// A hash in PHC format, with a salt of its own.
    pub(super) async fn hash(&self, password: &SecretString) -> Result<String, HashError> {
        let (argon2, password) = (self.argon2.clone(), password.clone());
        self.turn(move || {
            let hash: PasswordHash = argon2.hash_password(password.expose_secret().as_bytes()).map_err(failed)?;
            Ok(hash.to_string())
        })
        .await
    }

    /// Compares. Without a hash – nobody has that login – it takes as long, and is wrong.
    pub(super) async fn check(&self, password: &SecretString, hash: Option<String>) -> Result<Checked, HashError> {
        if password.expose_secret().is_empty() || password.expose_secret().len() > LONGEST {
            return Ok(Checked::Wrong);
        }
        let (argon2, password) = (self.argon2.clone(), password.clone());
        self.turn(move || {
            // Made at the first check, whoever that is of.
            let (known, nobody) = (hash.is_some(), nobodys(&argon2)?);
            let hash = hash.unwrap_or_else(|| nobody.to_owned());
            let hash = PasswordHash::new(&hash).map_err(|error| HashError::Failed(error.to_string()))?;
            let right = argon2.verify_password(password.expose_secret().as_bytes(), &hash).is_ok();
            let params = Params::try_from(&hash).map_err(failed)?;
            let today =
                hash.algorithm.as_str() == "argon2id" && hash.version == Some(u32::from(Version::V0x13)) && same(&params, argon2.params());
            Ok(match (known && right, today) {
                (false, _) => Checked::Wrong,
                (true, true) => Checked::Right,
                (true, false) => Checked::Outdated,
            })
        })
        .await
    }

    async fn turn<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T, HashError> + Send + 'static) -> Result<T, HashError> {
        let turn = timeout(PATIENCE, self.turns.clone().acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(HashError::Busy) };
        // The turn is over when the work is, even if who asked has gone away.
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(turn);
            done
        });
        done.await.map_err(|error| HashError::Failed(error.to_string()))?
    }
}

/// The hash of a password that nobody has.
fn nobodys(argon2: &Argon2<'_>) -> Result<&'static str, HashError> {
    static HASH: OnceLock<String> = OnceLock::new();
    if let Some(hash) = HASH.get() {
        return Ok(hash);
    }
    let hash: PasswordHash = argon2.hash_password(uuid::Uuid::new_v4().as_bytes()).map_err(failed)?;
    Ok(HASH.get_or_init(|| hash.to_string()))
}

fn same(one: &Params, other: &Params) -> bool {
    (one.m_cost(), one.t_cost(), one.p_cost()) == (other.m_cost(), other.t_cost(), other.p_cost())
}

fn failed(error: argon2::password_hash::Error) -> HashError {
    HashError::Failed(error.to_string())
}

/// As an earlier version could have written it.
#[cfg(test)]
pub(super) fn old_hash(password: &str) -> String {
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8 * 1024, 1, 1, None).unwrap());
    let hash: PasswordHash = argon2.hash_password(password.as_bytes()).unwrap();
    hash.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> SecretString {
        SecretString::from(text.to_owned())
    }

    #[tokio::test]
    async fn a_hash_knows_its_password_and_no_other() {
        let hasher = Hasher::new().unwrap();
        let hash = hasher.hash(&secret("correct horse")).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_eq!(hasher.check(&secret("correct horse"), Some(hash.clone())).await.unwrap(), Checked::Right);
        for wrong in ["correct horse ", "Correct horse", "", "x"] {
            assert_eq!(hasher.check(&secret(wrong), Some(hash.clone())).await.unwrap(), Checked::Wrong, "{wrong}");
        }
        assert_eq!(hasher.check(&secret(&"x".repeat(LONGEST + 1)), Some(hash)).await.unwrap(), Checked::Wrong);
        assert_eq!(hasher.check(&secret("correct horse"), None).await.unwrap(), Checked::Wrong);
        assert!(hasher.check(&secret("x"), Some("no hash".to_owned())).await.is_err());
    }

    #[tokio::test]
    async fn a_hash_of_other_parameters_is_good_but_outdated() {
        let (new, hash) = (Hasher::new().unwrap(), old_hash("correct horse"));
        assert_eq!(new.check(&secret("correct horse"), Some(hash.clone())).await.unwrap(), Checked::Outdated);
        assert_eq!(new.check(&secret("wrong horse"), Some(hash)).await.unwrap(), Checked::Wrong);
    }

    #[test]
    fn passwords_that_are_guessed_first_are_refused() {
        let names = ["anna", "1001", "Anna Petrova"];
        for weak in
            ["short", "ninechars", "1234567890", "QWERTYUIOP", "aaaaaaaaaaaa", "my anna is 7", "call 1001 now", "tab\tin the middle"]
        {
            assert!(weakness(&secret(weak), &names).is_some(), "{weak}");
        }
        assert!(weakness(&secret(&"long ".repeat(300)), &names).is_some());
        for good in ["correct horse", "пароль из слов", "🐎🐎🐎🐎🐎🐎🐎🐎🐎🐴"] {
            assert_eq!(weakness(&secret(good), &names), None, "{good}");
        }
    }
}
