//! Aliases and alias profiles of a domain.

use std::collections::BTreeMap;

use ecss_switch::{
    Alias, CommandError, Domain,
    dialect::{AliasField, RecordShape},
};

use super::{of_domain, owned, refusal};
use crate::{
    client::Terminal,
    session::{Command, Errors},
    xml::Element,
};

/// An alias of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AliasRecord {
    /// Its domain.
    pub domain: Domain,
    /// Its number.
    pub address: Alias,
    /// The interface it belongs to.
    pub interface: Option<String>,
    /// What kind of interface that is.
    pub interface_type: Option<String>,
    /// Every further attribute, as the switch names it.
    pub properties: BTreeMap<String, String>,
}

/// A profile that aliases take their properties from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AliasProfile {
    /// Its domain.
    pub domain: Option<Domain>,
    /// Its name.
    pub name: String,
    /// Free text.
    pub description: Option<String>,
    /// Its properties.
    pub properties: BTreeMap<String, String>,
}

impl Terminal {
    /// `alias_list`: every alias of the domain, or the one asked for.
    pub async fn alias_list(&self, domain: &Domain, address: Option<&Alias>) -> Result<Vec<AliasRecord>, CommandError> {
        let request = Element::new("aliases").with("domain", domain.as_str()).with_some("addr", address.map(Alias::as_str));
        let reply = self.run(Command { errors: Errors::Keep, ..Command::read("alias_list", request) }).await?;
        let shape = &self.dialect().terminal.aliases;
        // Aliases and errors may stand side by side; only errors alone are a refusal.
        let aliases = self.readable(reply.document.all(&shape.element).map(|element| alias(shape, domain, element)));
        match refusal(self.dialect(), &reply.document) {
            Some(refusal) if aliases.is_empty() => Err(refusal),
            _ => Ok(aliases),
        }
    }

    /// `alias_profile_list`: the domain's profiles.
    pub async fn alias_profile_list(&self, domain: &Domain) -> Result<Vec<AliasProfile>, CommandError> {
        let reply =
            self.run(Command::read("alias_profile_list", of_domain(&self.dialect().terminal.requests.alias_profile_list, domain))).await?;
        Ok(self.readable(reply.document.all("profile").map(profile)))
    }
}

fn alias(shape: &RecordShape<AliasField>, domain: &Domain, element: &Element) -> Option<AliasRecord> {
    let text = |field: AliasField| shape.fields.get(&field).and_then(|name| element.get_some(name));
    let rest = element.attributes.iter().filter(|(name, _)| !shape.fields.values().any(|known| **known == **name));
    Some(AliasRecord {
        domain: text(AliasField::Domain).and_then(|text| Domain::parse(text).ok()).unwrap_or_else(|| domain.clone()),
        address: text(AliasField::Address).and_then(|text| Alias::parse(text).ok())?,
        interface: text(AliasField::Interface).map(str::to_owned),
        interface_type: text(AliasField::InterfaceType).map(str::to_owned),
        properties: rest.map(|(name, value)| (name.to_string(), value.clone())).collect(),
    })
}

fn profile(element: &Element) -> Option<AliasProfile> {
    let properties = element.all("property").filter_map(|property| Some((owned(property, "name")?, property.get("value")?.to_owned())));
    Some(AliasProfile {
        domain: element.get("domain").and_then(|text| Domain::parse(text).ok()),
        name: owned(element, "name")?,
        description: owned(element, "description"),
        properties: properties.collect(),
    })
}
