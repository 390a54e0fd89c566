//! Sends pushes to Apple (APNs) over HTTP/2. What is checked, sent and understood follows Apple's "Sending notification requests to
//! APNs" and "Handling notification responses from APNs".
//!
//! - `settings`, `certificate`: what is configured, and what is wrong with it in words.
//! - `token`: the provider token, one for all senders of a team's key.
//! - `message`, `answer`: a [`push_core::Request`] becomes an HTTP request, an answer an [`push_core::Outcome`].
//! - `pool`: which connection takes the next request, who waits, when another connection is wanted. No I/O.
//! - `exchange`: requests on one connection and who waits for their answers; `link`: its task, its life and its pings.
//! - `sender`: [`Apns`], where they meet.

mod answer;
mod certificate;
mod exchange;
mod link;
mod message;
mod pool;
mod sender;
mod settings;
mod statistics;
mod token;

pub use certificate::Certificate;
pub use sender::Apns;
pub use settings::{Auth, Field, Settings, SettingsError};
pub use statistics::Statistics;
pub use token::{Clock, ProviderTokens, SystemClock};
