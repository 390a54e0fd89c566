//! `[[sso.realms]]`: where the people of a domain are known, and which roles they have.

use std::{collections::HashSet, path::PathBuf};

use elph_shell::config::{PasswordSource, Problem, Secret, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ldap::{Server, Template};

/// The people of one domain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RealmSettings {
    /// The domain of the switch.
    pub domain: String,
    /// Who checks passwords.
    #[serde(default)]
    pub source: SourceKind,
    /// The directory, for `source = "ldap"`.
    #[serde(default)]
    pub ldap: Option<LdapSettings>,
    /// Who has which roles. Local accounts have their own besides.
    #[serde(default)]
    pub roles: Vec<RoleSettings>,
    /// Codes of an authenticator app after the password.
    #[serde(default)]
    pub totp: Totp,
    /// Only subscribers of the switch may sign in.
    #[serde(default = "yes")]
    pub require_subscriber: bool,
}

/// Who checks passwords.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    /// The switch: its subscribers sign in with their number and password.
    #[default]
    Ecss,
    /// An LDAP directory or Active Directory.
    Ldap,
    /// Accounts in our own database: `elph-server accounts`.
    Local,
}

/// Codes of an authenticator app.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Totp {
    /// Not offered.
    Off,
    /// Who wants may.
    #[default]
    Optional,
    /// Everybody must.
    Required,
}

/// Who has a role.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RoleSettings {
    /// The role, as it stands in tokens.
    pub role: String,
    /// Subscribers' numbers.
    pub aliases: Vec<String>,
    /// Distinguished names of groups of the directory.
    pub groups: Vec<String>,
}

/// An LDAP directory. For Active Directory: `filter = "(&(objectClass=user)(|(sAMAccountName={login})(userPrincipalName={login})))"`,
/// `alias_attribute = "ipPhone"`, `name_attribute = "displayName"`, `groups = "nested"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LdapSettings {
    /// `ldaps://host`, or `ldap://host` with StartTLS; asked in this order until one answers.
    pub servers: Vec<String>,
    /// `ldap://` is encrypted by StartTLS.
    pub start_tls: bool,
    /// Passwords may travel unencrypted to servers on other hosts. Do not.
    pub allow_plain: bool,
    /// PEM file of the authority that signed the servers' certificates; none: the system's.
    pub ca_file: Option<PathBuf>,
    /// Who searches; none: nobody in particular, where the directory lets anybody search.
    pub bind_dn: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
    /// A file with it.
    pub password_file: Option<PathBuf>,
    /// A systemd credential with it.
    pub password_credential: Option<String>,
    /// Below which people are found.
    pub base: String,
    /// Finds one person by what was typed as the login.
    pub filter: String,
    /// Holds the subscriber's number. People must not be able to change it themselves: whose number it is signs in as that subscriber.
    pub alias_attribute: String,
    /// Holds the name.
    pub name_attribute: String,
    /// Holds the mail address.
    pub email_attribute: String,
    /// How groups are found.
    pub groups: GroupLookup,
    /// What a group names its members in, for `groups = "search"`.
    pub member_attribute: String,
    /// How long a sign-in may take with all servers together.
    pub timeout: Span,
    /// Sign-ins at once; more wait.
    pub max_connections: u32,
}

/// How the groups of a person are found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GroupLookup {
    /// The person's `memberOf` names them.
    #[default]
    MemberOf,
    /// Each group is asked for the member.
    Search,
    /// As `search`, and groups in groups count: only Active Directory can.
    Nested,
}

fn yes() -> bool {
    true
}

impl RealmSettings {
    /// A domain's people are its switch's subscribers.
    pub fn of(domain: &str) -> Self {
        Self {
            domain: domain.to_owned(),
            source: SourceKind::Ecss,
            ldap: None,
            roles: Vec::new(),
            totp: Totp::default(),
            require_subscriber: true,
        }
    }

    /// Groups that mean something.
    pub(super) fn groups(&self) -> Vec<String> {
        let mut groups: Vec<String> = self.roles.iter().flat_map(|role| role.groups.iter().cloned()).collect();
        groups.sort();
        groups.dedup();
        groups
    }
}

impl Default for LdapSettings {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            start_tls: true,
            allow_plain: false,
            ca_file: None,
            bind_dn: None,
            password: None,
            password_file: None,
            password_credential: None,
            base: String::new(),
            filter: "(&(objectClass=person)(uid={login}))".to_owned(),
            alias_attribute: "telephoneNumber".to_owned(),
            name_attribute: "cn".to_owned(),
            email_attribute: "mail".to_owned(),
            groups: GroupLookup::MemberOf,
            member_attribute: "member".to_owned(),
            timeout: Span::seconds(10),
            max_connections: 16,
        }
    }
}

impl LdapSettings {
    /// Where the searching account's password is; none: there is no such account.
    pub(super) fn secret(&self) -> Result<Option<PasswordSource>, Problem> {
        let (inline, file, credential) = (self.password.as_ref(), self.password_file.as_deref(), self.password_credential.as_deref());
        if self.bind_dn.is_none() {
            let none = inline.is_none() && file.is_none() && credential.is_none();
            return if none { Ok(None) } else { Err(Problem::new("bind_dn", "is missing, but there is a password for it")) };
        }
        PasswordSource::choose("password", inline, file, credential).map(Some)
    }

    fn check(&self, mut say: impl FnMut(&str, String)) {
        if self.servers.is_empty() {
            say("servers", "is empty; name at least one: ldaps://dc1.example.org".to_owned());
        }
        for (index, server) in self.servers.iter().enumerate() {
            match Server::parse(server, self.start_tls) {
                Err(what) => say(&format!("servers[{index}]"), what),
                Ok(server) if server.is_plain() && !server.is_loopback() && !self.allow_plain => say(
                    &format!("servers[{index}]"),
                    "would get passwords unencrypted; use ldaps:// or start_tls, or say allow_plain = true".to_owned(),
                ),
                Ok(_) => {}
            }
        }
        if let Err(problem) = self.secret() {
            say(&problem.key, problem.what);
        }
        if self.bind_dn.as_ref().is_some_and(|name| name.trim().is_empty()) {
            say("bind_dn", "is empty; leave it out where anybody may search".to_owned());
        }
        if self.base.trim().is_empty() {
            say("base", "is missing; name what people stand below: ou=people,dc=example,dc=org".to_owned());
        }
        if let Err(what) = Template::parse(&self.filter) {
            say("filter", what);
        }
        let attributes = [
            ("alias_attribute", &self.alias_attribute),
            ("name_attribute", &self.name_attribute),
            ("email_attribute", &self.email_attribute),
            ("member_attribute", &self.member_attribute),
        ];
        for (key, name) in attributes {
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
                say(key, "is no attribute's name: letters, digits and -".to_owned());
            }
        }
        if self.timeout < Span::seconds(1) || self.timeout > Span::seconds(60) {
            say("timeout", "is out of range; must be from 1s to 1m".to_owned());
        }
        if !(1..=1000).contains(&self.max_connections) {
            say("max_connections", "is out of range; must be from 1 to 1000".to_owned());
        }
    }
}

/// What is wrong with the realms.
pub fn check(realms: &[RealmSettings], domains_of_agents: &[&str], problems: &mut Vec<Problem>) {
    let mut seen = HashSet::new();
    for (index, realm) in realms.iter().enumerate() {
        let mut say = |key: &str, what: String| problems.push(Problem::new(format!("sso.realms[{index}].{key}"), what));
        if realm.domain.trim().is_empty() {
            say("domain", "is missing; name a domain of the switch".to_owned());
        } else if !seen.insert(realm.domain.as_str()) {
            say("domain", format!("is '{}', which another realm has, too", realm.domain));
        } else if !domains_of_agents.contains(&realm.domain.as_str()) && (realm.source == SourceKind::Ecss || realm.require_subscriber) {
            say("domain", format!("is '{}', which no agent has; its people cannot be looked up on the switch", realm.domain));
        }
        match (&realm.ldap, realm.source) {
            (None, SourceKind::Ldap) => say("ldap", "is missing; source is ldap".to_owned()),
            (Some(_), SourceKind::Ecss | SourceKind::Local) => say("ldap", "is of no use; source is not ldap".to_owned()),
            (Some(ldap), SourceKind::Ldap) => ldap.check(|key, what| say(&format!("ldap.{key}"), what)),
            (None, _) => {}
        }
        for (at, role) in realm.roles.iter().enumerate() {
            if role.role.is_empty() || role.role.len() > 64 || role.role.contains(|c: char| c.is_whitespace() || c.is_control()) {
                say(&format!("roles[{at}].role"), "is no role: 1 to 64 characters without blanks".to_owned());
            }
            if role.aliases.is_empty() && role.groups.is_empty() {
                say(&format!("roles[{at}]"), "is nobody's; name aliases or groups".to_owned());
            }
            if !role.groups.is_empty() && realm.source != SourceKind::Ldap {
                say(&format!("roles[{at}].groups"), "are groups of a directory, but source is not ldap".to_owned());
            }
            if role.groups.iter().any(|group| !group.contains('=')) {
                say(&format!("roles[{at}].groups"), "must be distinguished names: cn=moderators,ou=groups,dc=example,dc=org".to_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(toml: &str) -> Vec<String> {
        #[derive(Deserialize)]
        struct Whole {
            realms: Vec<RealmSettings>,
        }
        let whole: Whole = toml::from_str(toml).unwrap();
        let mut problems = Vec::new();
        check(&whole.realms, &["biysk.local"], &mut problems);
        problems.into_iter().map(|problem| format!("{}: {}", problem.key, problem.what)).collect()
    }

    #[track_caller]
    fn one(toml: &str, begins: &str) {
        let told = problems(toml);
        assert!(told.len() == 1 && told[0].starts_with(begins), "{told:?}");
    }

    const LDAP: &str = "[[realms]]\ndomain = \"biysk.local\"\nsource = \"ldap\"\n[realms.ldap]\nbase = \"dc=x\"\n";

    #[test]
    fn a_realm_needs_nothing_but_its_domain() {
        assert_eq!(problems("[[realms]]\ndomain = \"biysk.local\""), [""; 0]);
        one("[[realms]]\ndomain = \"other.local\"", "sso.realms[0].domain: is 'other.local', which no agent has");
        assert_eq!(problems("[[realms]]\ndomain = \"o\"\nsource = \"local\"\nrequire_subscriber = false"), [""; 0]);
        let twice = "[[realms]]\ndomain = \"biysk.local\"\n[[realms]]\ndomain = \"biysk.local\"";
        one(twice, "sso.realms[1].domain: is 'biysk.local', which another realm has");
    }

    #[test]
    fn passwords_do_not_travel_unencrypted_unless_it_is_said_twice() {
        let plain = format!("{LDAP}start_tls = false\nservers = [\"ldap://dc.example.org\"]");
        one(&plain, "sso.realms[0].ldap.servers[0]: would get passwords unencrypted");
        assert_eq!(problems(&format!("{plain}\nallow_plain = true")), [""; 0]);
        assert_eq!(problems(&plain.replace("dc.example.org", "127.0.0.1:389")), [""; 0]);
        assert_eq!(problems(&plain.replace("ldap:", "ldaps:")), [""; 0]);
        assert_eq!(problems(&plain.replace("start_tls = false", "")), [""; 0]);
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_key() {
        let good = format!("{LDAP}servers = [\"ldaps://dc.example.org\"]\n");
        one(LDAP, "sso.realms[0].ldap.servers: is empty");
        one(&format!("{LDAP}servers = [\"http://dc\"]"), "sso.realms[0].ldap.servers[0]: must begin with");
        one(&format!("{good}filter = \"(uid=anna)\""), "sso.realms[0].ldap.filter: does not ask for {login}");
        one(&format!("{good}filter = \"(uid={{login}}\""), "sso.realms[0].ldap.filter: is no filter");
        one(&format!("{good}bind_dn = \"cn=reader\""), "sso.realms[0].ldap.password: has no password");
        one(&format!("{good}password_file = \"/x\""), "sso.realms[0].ldap.bind_dn: is missing");
        one(&format!("{good}alias_attribute = \"a)(b\""), "sso.realms[0].ldap.alias_attribute: is no attribute's name");
        one(&format!("{good}timeout = \"0s\""), "sso.realms[0].ldap.timeout: is out of range");
        let role = "\n[[realms.roles]]\nrole = \"moderator\"\ngroups = [\"cn=m,dc=x\"]";
        assert_eq!(problems(&format!("{good}{role}")), [""; 0]);
        one(&format!("[[realms]]\ndomain = \"biysk.local\"\n{role}"), "sso.realms[0].roles[0].groups: are groups of a directory");
        one(&format!("{good}{}", role.replace("cn=m,dc=x", "m")), "sso.realms[0].roles[0].groups: must be distinguished names");
    }

    #[test]
    fn the_documented_examples_are_accepted() {
        let page = include_str!("../../PEOPLE.md");
        let examples: Vec<&str> = page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        assert_eq!(examples.len(), 4);
        for example in examples {
            assert_eq!(problems(&example.replace("sso.realms", "realms")), [""; 0], "{example}");
        }
    }
}
