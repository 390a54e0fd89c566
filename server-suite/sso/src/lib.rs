//! SSO: an OpenID Connect provider (OpenID Connect Core 1.0, RFC 6749, 7636, 8628) laid out as Keycloak's, whose realms are the switch's
//! domains. Who somebody is, the switch, a directory or local accounts say (`people`).

mod api;
mod authorize;
mod farewell;
mod keys;
mod metrics;
mod pages;
pub mod people;
mod provider;
mod settings;
mod store;
mod ticket;
mod vault;

pub use self::{
    api::document,
    keys::{Keys, KeysError},
    pages::Language,
    provider::{Provider, ProviderError, start},
    settings::{ClientSettings, GrantType, Lifetimes, Lockout, Signature, SsoSettings},
    store::{Store, User},
};

/// Under which it is reachable.
pub const PREFIX: &str = "/elph/auth";

/// Now, in milliseconds since 1970.
fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
