//! What every long-running program of Elph has around its work, once: configuration, log, systemd, certificates, access tokens.
//! Nothing here knows of calls.

pub mod config;
pub mod findings;
pub mod journald;
pub mod logs;
pub mod notify;
pub mod oidc;
pub mod out;
pub mod tls;
pub mod tokens;

/// An error with its causes in one line.
pub fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
