//! The typed commands of the terminal, one file per family. Documented names stand in the code; what is not documented comes
//! from the dialect (ecss10-interfaces §1). Where only the answer is documented, the request is `<request domain=…>`, the
//! form of every documented command of a domain.

pub mod aliases;
pub mod calls;
pub mod conferences;
pub mod operation;
pub mod subscribers;
pub mod system;

use ecss_switch::{Alias, CommandError, Dialect, Domain, error::RefusalReason};

use crate::{client::Terminal, judge, session::Reply, xml::Element};

/// `<request domain="…"/>`.
fn request_of(domain: &Domain) -> Element {
    Element::new("request").with("domain", domain.as_str())
}

/// The refusal that an answer's `<error>` elements stand for.
fn refusal(dialect: &Dialect, document: &Element) -> Option<CommandError> {
    let text = judge::error_text(document)?;
    Some(CommandError::Refused { reason: judge::reason(dialect, document, &text), text })
}

/// The number of an alias record: `address` (as in `sip_user_declare`) or `addr` (as in the request of `alias_list`).
fn address(element: &Element) -> Option<Alias> {
    let text = element.get_some("address").or_else(|| element.get_some("addr"))?;
    Alias::parse(text).ok()
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
