//! Sends to browsers by the push service that a browser names itself (RFC 8030), encrypted for the page (RFC 8291, RFC 8188
//! `aes128gcm`) and signed as us (VAPID, RFC 8292).
//!
//! The encryption is written here on aws-lc-rs, which has every part of it (ECDH on P-256, HKDF, AES-GCM): of the crates, `web-push`
//! needs openssl; `ece` is under MPL-2.0, has openssl as its only backend, and an own backend for it would be these same calls; those on
//! RustCrypto bring a second set of primitives. The RFCs' examples are its tests.

mod allowed;
mod encrypt;
mod outcome;
mod sender;
mod settings;
mod vapid;

pub use allowed::{Allowed, BadHost, Refused};
pub use encrypt::{BadKeys, LARGEST, check_keys};
pub use sender::WebPush;
pub use settings::{Settings, SettingsError};
pub use vapid::{BadVapid, Vapid};
