//! How one attempt to send ended. What is to be done next follows from the variant alone; the reason is for people.

use std::{borrow::Cow, fmt, time::Duration};

use jiff::Timestamp;

/// The provider's word for what was wrong (`BadDeviceToken`, `UNREGISTERED`), kept also when it is not known here.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Reason(Cow<'static, str>);

impl Reason {
    /// The longest that is kept.
    pub const LONGEST: usize = 200;

    /// A reason that the code names.
    pub const fn known(text: &'static str) -> Self {
        Self(Cow::Borrowed(text))
    }

    /// A provider's text: shortened, without control characters.
    pub fn told(text: &str) -> Self {
        Self(Cow::Owned(text.chars().filter(|c| !c.is_control()).take(Self::LONGEST).collect()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The provider has it.
    Accepted {
        /// The provider's id: `apns-id`, FCM's message name, a browser service's location.
        provider_id: Option<String>,
    },
    /// The token will never work again.
    TokenGone {
        /// When the provider found that; a device registered later is not meant. `None`: it did not say.
        since: Option<Timestamp>,
        /// Its word.
        reason: Reason,
    },
    /// The provider cannot now: try again.
    RetryAfter {
        /// When it said so; absurd times are clamped by the sender.
        after: Option<Duration>,
        /// Its word.
        reason: Reason,
    },
    /// Too many.
    Throttled {
        /// When it said so.
        after: Option<Duration>,
        /// True: to this device; others are not concerned.
        device_only: bool,
        /// Its word.
        reason: Reason,
    },
    /// Key, certificate or token is not accepted. The push is kept: it goes out when that is mended.
    CredentialsExpired {
        /// Its word.
        reason: Reason,
    },
    /// This push can never be sent to anybody.
    BadPayload {
        /// Its word.
        reason: Reason,
    },
    /// This push cannot be sent to this target with this configuration: wrong topic, wrong environment, wrong sender.
    Fatal {
        /// Its word.
        reason: Reason,
    },
    /// It surely did not reach the provider: no connection, refused stream, above GOAWAY's last stream.
    NotSent {
        /// What happened.
        reason: Reason,
    },
    /// It may have reached the provider: the connection broke or no answer came. A repetition may be a duplicate.
    Unknown {
        /// What happened.
        reason: Reason,
    },
}

impl Outcome {
    /// For labels, files and people.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Accepted { .. } => "accepted",
            Self::TokenGone { .. } => "token_gone",
            Self::RetryAfter { .. } => "retry_after",
            Self::Throttled { .. } => "throttled",
            Self::CredentialsExpired { .. } => "credentials_expired",
            Self::BadPayload { .. } => "bad_payload",
            Self::Fatal { .. } => "fatal",
            Self::NotSent { .. } => "not_sent",
            Self::Unknown { .. } => "unknown",
        }
    }

    /// Whether another attempt can end better.
    pub fn may_be_retried(&self) -> bool {
        match self {
            Self::RetryAfter { .. }
            | Self::Throttled { .. }
            | Self::CredentialsExpired { .. }
            | Self::NotSent { .. }
            | Self::Unknown { .. } => true,
            Self::Accepted { .. } | Self::TokenGone { .. } | Self::BadPayload { .. } | Self::Fatal { .. } => false,
        }
    }

    /// The reason; none when it was accepted.
    pub fn reason(&self) -> Option<&Reason> {
        match self {
            Self::Accepted { .. } => None,
            Self::TokenGone { reason, .. }
            | Self::RetryAfter { reason, .. }
            | Self::Throttled { reason, .. }
            | Self::CredentialsExpired { reason }
            | Self::BadPayload { reason }
            | Self::Fatal { reason }
            | Self::NotSent { reason }
            | Self::Unknown { reason } => Some(reason),
        }
    }

    /// The same with `shown` wherever the reason quotes `secret`: providers repeat tokens in their texts.
    #[must_use]
    pub fn hiding(mut self, secret: &str, shown: &str) -> Self {
        match &mut self {
            Self::Accepted { .. } => {}
            Self::TokenGone { reason, .. }
            | Self::RetryAfter { reason, .. }
            | Self::Throttled { reason, .. }
            | Self::CredentialsExpired { reason }
            | Self::BadPayload { reason }
            | Self::Fatal { reason }
            | Self::NotSent { reason }
            | Self::Unknown { reason } => {
                if !secret.is_empty() && reason.as_str().contains(secret) {
                    *reason = Reason::told(&reason.as_str().replace(secret, shown));
                }
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_providers_text_is_kept_but_bounded_and_without_control_characters() {
        assert_eq!(Reason::told("Some\nNew\u{7}Reason").as_str(), "SomeNewReason");
        assert_eq!(Reason::told(&"x".repeat(1000)).as_str().len(), Reason::LONGEST);
    }

    #[test]
    fn a_token_that_a_provider_repeats_is_hidden() {
        let told = Outcome::Fatal { reason: Reason::told("no device secret-token here") };
        assert_eq!(told.hiding("secret-token", "…").reason().map(Reason::as_str), Some("no device … here"));
    }
}
