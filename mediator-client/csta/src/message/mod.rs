//! Messages of ECMA-323 edition 3 and ECMA-354: a tolerant reader for what switches put on the wire, a strict writer in the
//! standard's first form (ecss10-interfaces §3 "How other vendors' switches and clients put it on the wire").

pub mod answer;
pub mod event;
pub mod request;
pub mod types;
pub mod xml;

use std::borrow::Cow;

pub use answer::{Answer, AnswerBody, CstaError, SnapshotLeg};
pub use event::{Event, EventKind};
pub use request::{Request, Service};
pub use types::{Connection, ConnectionState, Device};
pub use xml::XmlError;

use xml::Cursor;

/// The namespace of ECMA-354's session services [DOC].
pub const SESSION_NAMESPACE: &str = "http://www.ecma-international.org/standards/ecma-354/appl_session";
/// The protocol version that is asked for [DOC].
pub const PROTOCOL_VERSION: &str = "http://www.ecma-international.org/standards/ecma-323/csta/ed3";

/// What the switch sends.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly every message is an event, and none is kept: a box would cost more than it saves")]
pub enum Incoming<'a> {
    /// Something happened.
    Event(Event<'a>),
    /// It answers a request of ours.
    Answer(Answer),
    /// It has ended the session.
    SessionTerminated {
        /// Why, in its words.
        reason: String,
    },
    /// It has ended a monitor of ours.
    MonitorStopped {
        /// Which one.
        cross_ref: String,
    },
    /// It asks whether we are there, or tells how it is; the answer's name is what it wants back.
    Status {
        /// The root element of the answer.
        answer: &'static str,
    },
    /// A keep-alive message, or one that says nothing to us.
    Other,
}

impl<'a> Incoming<'a> {
    /// Reads one message. What it is, is said by the root's local name alone.
    pub fn read(body: &'a [u8]) -> Result<Self, XmlError> {
        let (mut cursor, root) = Cursor::open(body)?;
        let name = root.local();
        if let Some(kind) = EventKind::of_root(name) {
            return Event::read(kind, &mut cursor).map(Self::Event);
        }
        if let Some(answer) = Answer::read(name, &mut cursor)? {
            return Ok(Self::Answer(answer));
        }
        match name {
            "ApplicationSessionTerminated" => {
                let mut reason = String::new();
                while let Some(tag) = cursor.child()? {
                    if tag.local() == "sessionTermReason" { reason = cursor.all_text(256)? } else { cursor.skip()? }
                }
                Ok(Self::SessionTerminated { reason })
            }
            "MonitorStop" => {
                let mut cross_ref = Cow::Borrowed("");
                while let Some(tag) = cursor.child()? {
                    if tag.local() == "monitorCrossRefID" { cross_ref = cursor.text()? } else { cursor.skip()? }
                }
                Ok(Self::MonitorStopped { cross_ref: cross_ref.into_owned() })
            }
            "SystemStatus" => cursor.skip().map(|()| Self::Status { answer: "SystemStatusResponse" }),
            "RequestSystemStatus" => cursor.skip().map(|()| Self::Status { answer: "RequestSystemStatusResponse" }),
            _ => cursor.skip().map(|()| Self::Other),
        }
    }
}

/// The text of a message with passwords and session ids replaced, for recordings and logs.
pub fn redacted(body: &str) -> Cow<'_, str> {
    const SECRET: [&str; 2] = ["password", "sessionID"];
    if !SECRET.iter().any(|name| body.contains(name)) {
        return Cow::Borrowed(body);
    }
    let mut out = String::with_capacity(body.len());
    let mut rest = body;
    while let Some((before, after)) = rest.split_once('<') {
        out.push_str(before);
        out.push('<');
        let Some((tag, behind)) = after.split_once('>') else {
            rest = after;
            break;
        };
        out.push_str(tag);
        out.push('>');
        let name = tag.split(|c: char| c.is_whitespace() || c == '/').next().unwrap_or(tag);
        let local = name.rsplit(':').next().unwrap_or(name);
        rest = behind;
        if SECRET.contains(&local) && !tag.ends_with('/') {
            let end = secret_end(behind, name);
            out.push_str("***");
            rest = behind.get(end..).unwrap_or_default();
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Where a secret's text ends: at its closing tag; without one, everything is secret.
fn secret_end(text: &str, name: &str) -> usize {
    let mut from = 0;
    while let Some(at) = text.get(from..).and_then(|rest| rest.find("</")) {
        let closing = text.get(from + at + 2..).unwrap_or_default();
        if closing.strip_prefix(name).is_some_and(|rest| rest.trim_start().starts_with('>')) {
            return from + at;
        }
        from += at + 2;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_and_session_ids_are_replaced_in_recordings() {
        let body = "<a><ns1:password x='1'>s<![CDATA[</b>]]>3</ns1:password><sessionID>77</sessionID><password/><b>1</b></a>";
        assert_eq!(redacted(body), "<a><ns1:password x='1'>***</ns1:password><sessionID>***</sessionID><password/><b>1</b></a>");
        assert_eq!(redacted("<a><password>tail"), "<a><password>***");
        assert_eq!(redacted("<password"), "<password");
    }

    #[test]
    fn what_says_nothing_to_us_is_no_error() {
        assert!(matches!(Incoming::read(b"<keepalive />"), Ok(Incoming::Other)));
        assert!(matches!(Incoming::read(b"<x:DoNotDisturbEvent xmlns:x='y'><a/></x:DoNotDisturbEvent>"), Ok(Incoming::Other)));
    }

    #[test]
    fn a_switch_may_end_sessions_and_monitors_and_ask_for_our_status() {
        let read = |text: &'static str| Incoming::read(text.as_bytes()).unwrap();
        let ended = "<ApplicationSessionTerminated><sessionID>1</sessionID><sessionTermReason><definedTermReason>sessionTimeout\
                     </definedTermReason></sessionTermReason></ApplicationSessionTerminated>";
        assert!(matches!(read(ended), Incoming::SessionTerminated { reason } if reason == "sessionTimeout"));
        let stopped = "<MonitorStop><monitorCrossRefID>-12</monitorCrossRefID></MonitorStop>";
        assert!(matches!(read(stopped), Incoming::MonitorStopped { cross_ref } if cross_ref == "-12"));
        assert!(matches!(
            read("<SystemStatus><systemStatus>normal</systemStatus></SystemStatus>"),
            Incoming::Status { answer: "SystemStatusResponse" }
        ));
    }

    #[test]
    fn hostile_documents_are_refused_within_bounds() {
        let read = |text: &str| Incoming::read(text.as_bytes()).map(|_| ()).unwrap_err().kind();
        assert_eq!(read("<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>"), "document type");
        assert_eq!(read(&"<a>".repeat(40)), "too large");
        assert_eq!(read(&format!("<a>{}</a>", "<b/>".repeat(9000))), "too large");
        assert_eq!(read("<DeliveredEvent><connection>"), "truncated");
        assert_eq!(read("<DeliveredEvent></Delivered>"), "syntax");
        assert_eq!(read("<DeliveredEvent><cause>&what;</cause></DeliveredEvent>"), "syntax");
        assert_eq!(read("  "), "empty");
        assert_eq!(Incoming::read(b"<a>\xff</a>").map(|_| ()).unwrap_err().kind(), "encoding");
    }
}
