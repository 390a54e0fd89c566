//! Sends pushes to Apple (APNs) over HTTP/2. What is checked, sent and understood follows Apple's "Sending notification requests to
//! APNs" and "Handling notification responses from APNs".
//!
//! - `settings`, `certificate`: what is configured, and what is wrong with it in words.
//! - `token`: the provider token, one for all senders of a team's key.
//! - `message`, `answer`: a [`push_core::Request`] becomes an HTTP request, an answer an [`push_core::Outcome`].
//! - `pool`: which connection takes the next request, who waits, when another connection is wanted. No I/O.
//! - `link`, `wire`: one connection, its life and its pings.
//! - `sender`: [`Apns`], where they meet.

mod answer;
mod certificate;
mod link;
mod message;
mod pool;
mod sender;
mod settings;
mod statistics;
mod token;
mod wire;

pub use certificate::Certificate;
pub use sender::Apns;
pub use settings::{Auth, Field, Settings, SettingsError};
pub use statistics::Statistics;
pub use token::{Clock, ProviderTokens, SystemClock};
