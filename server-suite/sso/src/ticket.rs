//! What travels through a page: the request, and how far the person has come. It is sealed, ends soon, and belongs to the browser that
//! opened the page, so it is its own guard against forged forms (CSRF) and against sessions that somebody else has begun.

use serde::{Deserialize, Serialize};

use crate::{
    authorize::Authorization,
    pages::Language,
    vault::{Broken, Vault, hash, same},
};

const PURPOSE: &str = "ticket";

/// A page's hidden field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ticket {
    /// The tenant.
    pub domain: String,
    /// The hash of the browser's cookie.
    pub browser: String,
    /// When it was made, in milliseconds since 1970.
    pub made: i64,
    /// The language of its page.
    pub language: Language,
    /// What for.
    pub purpose: Purpose,
    /// How far the person has come.
    pub stage: Stage,
}

/// What a person is here for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Purpose {
    /// A client wants to know who they are.
    Client(Box<Authorization>),
    /// Their own sessions.
    Account,
    /// A device's code, as it was entered.
    Device(String),
}

/// How far a person has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stage {
    /// Who they are is not known yet.
    Password,
    /// The password was right; the code of the app is missing.
    Code {
        /// Who.
        user_id: String,
    },
    /// The password was right; an app has to be set up with this secret.
    Enrol {
        /// Who.
        user_id: String,
        /// Their number, for the app's list.
        alias: String,
        /// In base 32.
        secret: String,
    },
    /// They are signed in, in this session.
    SignedIn {
        /// Which.
        session_id: String,
    },
}

impl Ticket {
    /// Seals it.
    pub(crate) fn seal(&self, vault: &Vault) -> Result<String, Broken> {
        vault.ticket(PURPOSE, self)
    }

    /// Opens one that is of this domain, of this browser, and not too old.
    pub(crate) fn open(vault: &Vault, text: &str, domain: &str, browser: Option<&str>, not_before: i64) -> Option<Self> {
        let ticket: Self = vault.read(PURPOSE, text)?;
        let ours = same(&ticket.browser, &hash(browser?)) && ticket.domain == domain && ticket.made >= not_before;
        ours.then_some(ticket)
    }
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;

    use super::*;

    #[test]
    fn a_ticket_is_good_in_its_browser_and_domain_and_for_a_while() {
        let vault = Vault::new(&SecretString::from("a secret of at least 32 characters".to_owned())).unwrap();
        let ticket = Ticket {
            domain: "a.local".to_owned(),
            browser: hash("cookie"),
            made: 1000,
            language: Language::En,
            purpose: Purpose::Account,
            stage: Stage::Code { user_id: "u".to_owned() },
        };
        let text = ticket.seal(&vault).unwrap();
        assert_eq!(Ticket::open(&vault, &text, "a.local", Some("cookie"), 1000), Some(ticket));
        assert_eq!(Ticket::open(&vault, &text, "a.local", Some("another"), 1000), None);
        assert_eq!(Ticket::open(&vault, &text, "a.local", None, 1000), None);
        assert_eq!(Ticket::open(&vault, &text, "b.local", Some("cookie"), 1000), None);
        assert_eq!(Ticket::open(&vault, &text, "a.local", Some("cookie"), 1001), None);
        assert_eq!(Ticket::open(&vault, "x", "a.local", Some("cookie"), 1000), None);
    }
}
