//! The typed commands of the terminal, one file per family. Documented names stand in the code; what is not documented comes
//! from the dialect (ecss10-interfaces §1): where only the answer is documented, so does the whole request.

pub mod aliases;
pub mod calls;
pub mod conferences;
pub mod operation;
pub mod subscribers;
pub mod system;

use ecss_switch::{
    Alias, CommandError, Dialect, Domain,
    dialect::{RequestField, RequestShape},
    error::RefusalReason,
};

use crate::{client::Terminal, judge, session::Reply, xml::Element};

/// `<request domain="…"/>`, where that is documented.
fn request_of(domain: &Domain) -> Element {
    Element::new("request").with("domain", domain.as_str())
}

/// A request in the dialect's shape. A field without a value or without a name is not sent.
fn request_by(shape: &RequestShape, value: impl Fn(RequestField) -> Option<String>) -> Element {
    let element = |name: &str, fields: &std::collections::BTreeMap<RequestField, String>| {
        fields.iter().fold(Element::new(name), |element, (field, attribute)| element.with_some(attribute, value(*field)))
    };
    let request = element(&shape.element, &shape.fields);
    match &shape.child {
        Some(child) => request.child(element(&child.element, &child.fields)),
        None => request,
    }
}

/// One that carries nothing but the domain.
fn of_domain(shape: &RequestShape, domain: &Domain) -> Element {
    request_by(shape, |field| (field == RequestField::Domain).then(|| domain.to_string()))
}

/// The refusal that an answer's `<error>` elements stand for.
fn refusal(dialect: &Dialect, document: &Element) -> Option<CommandError> {
    let text = judge::error_text(document)?;
    Some(CommandError::Refused { reason: judge::reason(dialect, document, &text), text })
}

/// The documented `address` in the answers of `sip_user_declare` and `ss_package_list`.
fn address(element: &Element) -> Option<Alias> {
    element.get_some("address").and_then(|text| Alias::parse(text).ok())
}

fn owned(element: &Element, attribute: &str) -> Option<String> {
    element.get_some(attribute).map(str::to_owned)
}

fn number(element: &Element, attribute: &str) -> Option<u32> {
    element.get(attribute).and_then(|text| text.trim().parse().ok())
}

/// The texts of an answer's `<warning>` elements.
fn warnings(reply: &Reply) -> Vec<String> {
    let text = |element: &Element| {
        let cause = element.get_some("cause").map(str::to_owned);
        let words =
            || element.attributes.iter().map(|(_, value)| value.as_str()).chain([element.text.trim()]).collect::<Vec<_>>().join(" ");
        judge::shorten(cause.unwrap_or_else(words).trim())
    };
    reply.document.all("warning").map(text).collect()
}

impl Terminal {
    /// Keeps the records that can be read, and counts the others.
    fn readable<T>(&self, records: impl Iterator<Item = Option<T>>) -> Vec<T> {
        let mut kept = Vec::new();
        for record in records {
            match record {
                Some(record) => kept.push(record),
                None => self.count_unreadable(),
            }
        }
        kept
    }
}

/// A refusal of our own, in the words of the switch's refusals.
fn refused(reason: RefusalReason, text: &str) -> CommandError {
    CommandError::Refused { reason, text: text.to_owned() }
}
