//! Sends to Firebase Cloud Messaging by its HTTP v1 API, `POST /v1/projects/PROJECT/messages:send`, over HTTP/2 with an OAuth2 token
//! of a service account (RFC 7523). Shapes and error codes are those of Google's public reference of FCM v1.

mod account;
mod message;
mod outcome;
mod sender;
mod settings;

pub use account::Account;
pub use message::check_payload;
pub use sender::Fcm;
pub use settings::{ServiceAccount, Settings, SettingsError};
