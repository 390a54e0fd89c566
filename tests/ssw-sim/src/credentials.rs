//! Who may log in.

use std::fmt;

/// Logins and passwords. Not printed by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Login of the terminal and of the Call API.
    pub user: String,
    /// Its password.
    pub password: String,
    /// CSTA's password, the same for every domain; the user name is the domain.
    pub csta_password: String,
}

impl Default for Credentials {
    fn default() -> Self {
        Self { user: "admin".to_owned(), password: "password".to_owned(), csta_password: "1234".to_owned() }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Whether login and password are right.
    pub fn fit(&self, user: &str, password: &str) -> bool {
        self.user == user && self.password == password
    }
}
