//! Calls of a domain, finished and active: `calls_history`. What may be asked is documented, the names in request and
//! answer are the dialect's.

use std::fmt;

use ecss_switch::{
    Alias, CommandError, Dialect, Domain, SwitchCallId,
    dialect::{CallField, RequestField},
    event::Cause,
};
use jiff::Timestamp;

use super::request_by;
use crate::{client::Terminal, session::Command, time, xml::Element};

/// Which calls are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallsQuery {
    /// The domain.
    pub domain: Domain,
    /// Most records; `None` = the switch's own limit.
    pub limit: Option<u32>,
    /// Active now, finished, or both.
    pub kind: CallsKind,
    /// Fax transmissions.
    pub fax: Option<FaxFilter>,
    /// Started at or after.
    pub from: Option<Timestamp>,
    /// Started at or before.
    pub to: Option<Timestamp>,
    /// Calls of these numbers; empty = of all.
    pub addresses: Vec<AddressPattern>,
}

impl CallsQuery {
    /// Every call of the domain.
    pub fn of(domain: Domain) -> Self {
        Self { domain, limit: None, kind: CallsKind::All, fax: None, from: None, to: None, addresses: Vec::new() }
    }
}

/// Active now, finished, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallsKind {
    /// Going on now.
    Active,
    /// Finished.
    History,
    /// Both.
    All,
}

/// Which fax transmissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaxFilter {
    /// Those that succeeded.
    Success,
    /// Those that failed.
    Failed,
    /// All.
    All,
}

/// Numbers by pattern: `%` at either end stands for anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressPattern(String);

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an address pattern has digits, A to D, * and #, and may begin and end with %")]
pub struct InvalidPattern;

impl AddressPattern {
    /// Parses `%?([0-9ABCD*#])*%?`.
    pub fn parse(text: &str) -> Result<Self, InvalidPattern> {
        let inner = text.strip_prefix('%').unwrap_or(text);
        let inner = inner.strip_suffix('%').unwrap_or(inner);
        let dialled = |c: char| c.is_ascii_digit() || matches!(c, 'A'..='D' | '*' | '#');
        if text.is_empty() || text.len() > 128 || !inner.chars().all(dialled) {
            return Err(InvalidPattern);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for AddressPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A call as the history tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallRecord {
    /// The switch's id of the call; where the dialect knows none, a stable text made of caller, called and start.
    pub id: SwitchCallId,
    /// Whether `id` is the switch's.
    pub id_of_switch: bool,
    /// The caller.
    pub from: Option<Alias>,
    /// The called number.
    pub to: Option<Alias>,
    /// Who answered.
    pub answered_by: Option<Alias>,
    /// When it began.
    pub start: Option<Timestamp>,
    /// When it was answered; `None`: it was not.
    pub answer: Option<Timestamp>,
    /// When it ended; `None`: it goes on.
    pub end: Option<Timestamp>,
    /// Talk time in seconds.
    pub duration_s: Option<u32>,
    /// Why it ended.
    pub cause: Option<Cause>,
}

impl Terminal {
    /// `calls_history`: finished calls and those going on now.
    pub async fn calls_history(&self, query: &CallsQuery) -> Result<Vec<CallRecord>, CommandError> {
        let dialect = self.dialect();
        let reply = self.run(Command::read("calls_history", request(dialect, query))).await?;
        Ok(self.readable(records(dialect, &reply.document)))
    }
}

/// The records in an answer of `calls_history`; `None` is one that cannot be understood.
pub fn records<'a>(dialect: &'a Dialect, document: &'a Element) -> impl Iterator<Item = Option<CallRecord>> + 'a {
    document.all(&dialect.terminal.calls.element).map(|element| record(dialect, element))
}

fn request(dialect: &Dialect, query: &CallsQuery) -> Element {
    let kind = match query.kind {
        CallsKind::Active => "active",
        CallsKind::History => "history",
        CallsKind::All => "all",
    };
    let fax = query.fax.map(|fax| match fax {
        FaxFilter::Success => "success",
        FaxFilter::Failed => "failed",
        FaxFilter::All => "all",
    });
    let time = |at: Option<Timestamp>| at.and_then(|at| time::written(at, dialect.terminal.utc_offset_minutes));
    let addresses = query.addresses.iter().map(AddressPattern::to_string).collect::<Vec<_>>().join(",");
    let addresses = Some(addresses).filter(|addresses| !addresses.is_empty());
    request_by(&dialect.terminal.requests.calls_history, |field| match field {
        RequestField::Domain => Some(query.domain.to_string()),
        RequestField::Kind => Some(kind.to_owned()),
        RequestField::Fax => fax.map(str::to_owned),
        RequestField::From => time(query.from),
        RequestField::To => time(query.to),
        RequestField::Address => addresses.clone(),
        RequestField::Limit => query.limit.map(|limit| limit.to_string()),
        RequestField::Interface | RequestField::Active => None,
    })
}

fn record(dialect: &Dialect, element: &Element) -> Option<CallRecord> {
    let text = |field: CallField| dialect.terminal.calls.fields.get(&field).and_then(|name| element.get_some(name));
    let alias = |field| text(field).and_then(|text| Alias::parse(text.trim()).ok());
    let time = |field| text(field).and_then(|text| time::read(text, dialect.terminal.utc_offset_minutes));
    let (from, to, start) = (alias(CallField::From), alias(CallField::To), time(CallField::Start));
    let of_switch = text(CallField::Id).and_then(|id| SwitchCallId::parse(id.trim()).ok());
    let id_of_switch = of_switch.is_some();
    let id = of_switch.or_else(|| own_id(from.as_ref(), to.as_ref(), start?))?;
    Some(CallRecord {
        id,
        id_of_switch,
        from,
        to,
        answered_by: alias(CallField::AnsweredBy),
        start,
        answer: time(CallField::Answer),
        end: time(CallField::End),
        duration_s: text(CallField::Duration).and_then(|text| text.trim().parse().ok()),
        cause: text(CallField::Cause).and_then(|text| dialect.words.cause(text)),
    })
}

/// `from|to|start`: the same for the same call on both agents and after a restart. Long numbers are cut.
fn own_id(from: Option<&Alias>, to: Option<&Alias>, start: Timestamp) -> Option<SwitchCallId> {
    let part = |alias: Option<&Alias>| alias.map_or("", Alias::as_str).chars().take(12).collect::<String>();
    SwitchCallId::parse(&format!("{}|{}|{}", part(from), part(to), start.as_second())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xml::parse;

    #[test]
    fn patterns_are_checked_before_they_are_sent() {
        for good in ["1001", "%", "%%", "%12", "*21#", "12AB%"] {
            assert_eq!(AddressPattern::parse(good).unwrap().to_string(), good);
        }
        for bad in ["", "1%2", "12E", "1,2", "+7", "%%%", "a"] {
            assert!(AddressPattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_request_carries_the_documented_filters_in_the_clock_of_the_switch() {
        let mut query = CallsQuery::of(Domain::parse("biysk.local").unwrap());
        query.limit = Some(50);
        query.from = Some("2026-11-24T07:00:00Z".parse().unwrap());
        query.addresses = vec![AddressPattern::parse("10%").unwrap(), AddressPattern::parse("2001").unwrap()];
        let request = format!("{:?}", request(&Dialect::built_in("sim").unwrap(), &query));
        let wanted =
            r#"<request type="all" from="24.11.2026 10:00:00" address="10%,2001"><domain name="biysk.local" limit="50"/></request>"#;
        assert_eq!(request, wanted);
    }

    #[test]
    fn the_filters_stand_where_the_dialect_says() {
        let overrides = "[terminal.requests.calls_history]\nelement = 'history'\nfields = {}\nchild = { element = 'domain', fields = { domain = 'name', kind = 'what' } }";
        let dialect = Dialect::with_overrides("documented", &toml::from_str(overrides).unwrap()).unwrap();
        let mut query = CallsQuery::of(Domain::parse("biysk.local").unwrap());
        query.limit = Some(50);
        assert_eq!(format!("{:?}", request(&dialect, &query)), r#"<history><domain name="biysk.local" what="all"/></history>"#);
    }

    #[test]
    fn a_record_is_read_by_the_names_of_the_dialect() {
        let sim = Dialect::built_in("sim").unwrap();
        let element = parse(br#"<call call_id="0_99f261b4" from="1001" to="1002" answered_by="1003" start="24.11.2026 10:00:00" answer="24.11.2026 10:00:05" end="" duration="7" cause="normal"/>"#).unwrap();
        let call = record(&sim, &element).unwrap();
        assert_eq!((call.id.as_str(), call.id_of_switch, call.end, call.duration_s), ("0_99f261b4", true, None, Some(7)));
        assert_eq!(call.start, Some("2026-11-24T07:00:00Z".parse().unwrap()));
        assert_eq!((call.answered_by.unwrap().as_str(), call.cause), ("1003", Some(Cause::Normal)));
    }

    #[test]
    fn a_record_without_an_id_gets_a_stable_one_and_one_without_a_start_is_none() {
        let sim = Dialect::built_in("sim").unwrap();
        let element = parse(br#"<call from="1001" to="1002" start="1795503909"/>"#).unwrap();
        let call = record(&sim, &element).unwrap();
        assert_eq!((call.id.as_str(), call.id_of_switch), ("1001|1002|1795503909", false));
        assert_eq!(record(&sim, &Element::new("call").with("from", "1001")), None);
    }
}
