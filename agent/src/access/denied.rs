//! Why a request is not allowed, as gRPC says it: a status code, and a stable reason in `google.rpc.ErrorInfo`.

use std::{collections::HashMap, time::Duration};

use ecss_switch::Domain;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::TokenError;
use crate::config::Scope;

/// `ErrorInfo.domain` of all our errors.
pub const ERROR_DOMAIN: &str = "elph.agent.v1";

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No grant names the caller.
    #[error("no grant names this caller")]
    CallerUnknown,
    /// The grant lacks the scope.
    #[error("the grant '{grant}' lacks the scope {}", wanted(.scope, .mutating))]
    MissingScope {
        /// The caller's grant.
        grant: String,
        /// The scope.
        scope: Scope,
        /// Whether the scope is there for reading only.
        mutating: bool,
    },
    /// The grant does not cover the domain. The same answer whether or not the domain exists.
    #[error("the grant '{grant}' does not cover the domain {domain}")]
    DomainNotGranted {
        /// The caller's grant.
        grant: String,
        /// The domain.
        domain: Domain,
    },
    /// A moderator's command must name its domain.
    #[error("a moderator's command must name its domain")]
    DomainNeeded,
    /// The grant asks for the moderator's token and there is none.
    #[error("a command on a conference needs the moderator's access token in the metadata 'authorization'")]
    ModeratorTokenRequired,
    /// The token does not hold.
    #[error("the moderator's access token is not accepted: {0}")]
    ModeratorTokenInvalid(#[from] TokenError),
    /// The token is good, but for another domain.
    #[error("the moderator does not belong to the domain {domain}")]
    ModeratorOfOtherDomain {
        /// The command's domain.
        domain: Domain,
    },
    /// Too many attempts.
    #[error("too many attempts")]
    TooManyAttempts {
        /// When the next may be made.
        retry_after: Duration,
    },
}

fn wanted(scope: &Scope, mutating: &bool) -> String {
    if *mutating { scope.to_string() } else { format!("{scope}:read") }
}

impl Denied {
    /// The stable reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::CallerUnknown => "CALLER_UNKNOWN",
            Self::MissingScope { .. } => "MISSING_SCOPE",
            Self::DomainNotGranted { .. } => "DOMAIN_NOT_GRANTED",
            Self::DomainNeeded => "DOMAIN_NEEDED",
            Self::ModeratorTokenRequired => "MODERATOR_TOKEN_REQUIRED",
            Self::ModeratorTokenInvalid(TokenError::KeysUnavailable) => "ISSUER_UNAVAILABLE",
            Self::ModeratorTokenInvalid(_) => "MODERATOR_TOKEN_INVALID",
            Self::ModeratorOfOtherDomain { .. } => "MODERATOR_OF_OTHER_DOMAIN",
            Self::TooManyAttempts { .. } => "TOO_MANY_ATTEMPTS",
        }
    }

    /// The gRPC status code.
    pub fn code(&self) -> Code {
        match self {
            Self::CallerUnknown | Self::ModeratorTokenRequired => Code::Unauthenticated,
            Self::ModeratorTokenInvalid(TokenError::KeysUnavailable) => Code::Unavailable,
            Self::ModeratorTokenInvalid(_) => Code::Unauthenticated,
            Self::MissingScope { .. } | Self::DomainNotGranted { .. } | Self::ModeratorOfOtherDomain { .. } => Code::PermissionDenied,
            Self::DomainNeeded => Code::InvalidArgument,
            Self::TooManyAttempts { .. } => Code::ResourceExhausted,
        }
    }

    fn facts(&self) -> HashMap<String, String> {
        let pairs: Vec<(&str, String)> = match self {
            Self::MissingScope { scope, mutating, .. } => vec![("scope", wanted(scope, mutating))],
            Self::DomainNotGranted { domain, .. } | Self::ModeratorOfOtherDomain { domain } => vec![("domain", domain.to_string())],
            Self::ModeratorTokenInvalid(error) => vec![("fault", error.fault().to_owned())],
            _ => Vec::new(),
        };
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

impl From<Denied> for Status {
    fn from(denied: Denied) -> Self {
        let mut details = ErrorDetails::with_error_info(denied.reason(), ERROR_DOMAIN, denied.facts());
        if let Denied::TooManyAttempts { retry_after } = &denied {
            details.set_retry_info(Some(*retry_after));
        }
        Self::with_error_details(denied.code(), denied.to_string(), details)
    }
}
