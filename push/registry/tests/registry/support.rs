//! Devices and times for tests.

use jiff::Timestamp;
use push_core::{AppName, Environment, Provider, Token, UserId};
use push_registry::{NewDevice, Options, Registry};
use tempfile::TempDir;

pub(crate) fn user(domain: &str, alias: &str) -> UserId {
    UserId { domain: domain.into(), alias: alias.into() }
}

pub(crate) fn app(name: &str) -> AppName {
    AppName::parse(name).unwrap()
}

pub(crate) fn token(text: &str) -> Token {
    Token::parse(Provider::Fcm, text).unwrap()
}

/// Seconds of a day in 2026.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_780_000_000 + seconds).unwrap()
}

pub(crate) fn device(user: &UserId, token_text: &str, label: &str, seconds: i64) -> NewDevice {
    NewDevice {
        user: user.clone(),
        app: app("android"),
        provider: Provider::Fcm,
        token: token(token_text),
        environment: Environment::Production,
        web_keys: None,
        platform: "android".to_owned(),
        locale: "ru-RU".to_owned(),
        label: label.to_owned(),
        wants_calls: true,
        wants_messages: true,
        now: at(seconds),
    }
}

pub(crate) fn small() -> Options {
    Options { cache_bytes: 1 << 20, ..Options::default() }
}

pub(crate) fn fresh(options: Options) -> (TempDir, Registry) {
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::open(directory.path(), options).unwrap();
    (directory, registry)
}
