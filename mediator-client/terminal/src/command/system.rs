//! The switch itself: connection check, memory, locks, users, roles and number lists.

use ecss_switch::{CommandError, Domain};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};

use super::{owned, refusal, request_of, warnings};
use crate::{
    client::Terminal,
    session::{Command, Errors},
    time,
    xml::Element,
};

/// A lock on the switch's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigurationLock {
    /// Its id.
    pub id: String,
    /// The part that is locked.
    pub system: Option<String>,
    /// How it is locked, as the switch writes it.
    pub locks: Option<String>,
    /// Who holds it.
    pub locked_by: Option<String>,
    /// When it ends.
    pub deadline: Option<Timestamp>,
}

/// A list of numbers to be declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumberList {
    /// Its name.
    pub name: String,
    /// Free text.
    pub description: Option<String>,
    /// Its type, as the switch names it.
    pub kind: Option<String>,
    /// Its numbers.
    pub numbers: Vec<String>,
}

impl Terminal {
    /// `check_connection`: whether the switch (or one of its domains) answers as the documents say.
    pub async fn check_connection(&self, domain: Option<&Domain>) -> Result<(), CommandError> {
        let request = Element::new("request").with_some("domain", domain.map(Domain::as_str));
        let document = self.run(Command { errors: Errors::Keep, ..Command::read("check_connection", request) }).await?.document;
        match refusal(self.dialect(), &document) {
            Some(refusal) => Err(refusal),
            None if document.all("success").next().is_some() => Ok(()),
            None => Err(CommandError::BadAnswer { cause: "neither success nor error".to_owned() }),
        }
    }

    /// `node_memory_info`: names and values as the switch writes them. The node is written `ds1@ecss1`.
    pub async fn node_memory_info(&self, node: &str) -> Result<Vec<(String, String)>, CommandError> {
        let reply = self.run(Command::read("node_memory_info", Element::new("node").with("name", node))).await?;
        let memory = |element: &Element| Some((owned(element, "name")?, element.get("value")?.to_owned()));
        Ok(self.readable(reply.document.all("memory").map(memory)))
    }

    /// `cocon_configure_info`: who has the configuration locked.
    pub async fn configuration_locks(&self) -> Result<Vec<ConfigurationLock>, CommandError> {
        let reply = self.run(Command::read("cocon_configure_info", Element::new("request"))).await?;
        let lock = |element: &Element| {
            Some(ConfigurationLock {
                id: owned(element, "id")?,
                system: owned(element, "system"),
                locks: owned(element, "locks"),
                locked_by: owned(element, "locked_by"),
                // Documented to be UTC, whatever the switch's clock shows.
                deadline: element.get("deadline").and_then(|text| time::read(text, 0)),
            })
        };
        Ok(self.readable(reply.document.all("lock").map(lock)))
    }

    /// `cocon_add_user`: a user of the command line. Returns warnings about the password.
    pub async fn cocon_add_user(&self, name: &str, password: &SecretString) -> Result<Vec<String>, CommandError> {
        let request = Element::new("user").with("name", name).with("password", password.expose_secret());
        let command = Command { secrets: vec![password.clone()], ..Command::change("cocon_add_user", request) };
        let reply = self.run(command).await?;
        Ok(warnings(&reply).iter().map(|warning| crate::judge::scrub(warning, std::slice::from_ref(password))).collect())
    }

    /// `cocon_del_user`. `confirm`: a question of the switch may be answered with yes.
    pub async fn cocon_del_user(&self, name: &str, confirm: bool) -> Result<(), CommandError> {
        let request = Element::new("user").with("name", name);
        self.run(Command { confirm, ..Command::change("cocon_del_user", request) }).await.map(drop)
    }

    /// `role_add_group`: gives a role a group. Documented to answer 201 on success and 200 on error.
    pub async fn role_add_group(&self, role: &str, group: &str) -> Result<(), CommandError> {
        let request = Element::new("role").with("name", role).child(Element::new("group").with("name", group));
        self.run(Command { success_status: Some(201), ..Command::change("role_add_group", request) }).await.map(drop)
    }

    /// `ds_cmds_lists_declare`: a list of numbers in a domain. Documented to answer 201 on success and 200 on error.
    pub async fn declare_number_list(&self, domain: &Domain, list: &NumberList) -> Result<(), CommandError> {
        let element = Element::new("list")
            .with("name", &*list.name)
            .with_some("description", list.description.as_deref())
            .with_some("type", list.kind.as_deref());
        let element = list.numbers.iter().fold(element, |element, value| element.child(Element::new("number").with("value", &**value)));
        let command = Command::change("ds_cmds_lists_declare", request_of(domain).child(element));
        self.run(Command { success_status: Some(201), ..command }).await.map(drop)
    }
}
