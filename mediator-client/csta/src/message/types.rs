//! The parts that events, requests and answers share: devices, connections, connection states (ECMA-323 edition 3 with the
//! variants of ecss10-interfaces §3).

use std::borrow::Cow;

use super::xml::{Cursor, Step, Writer, XmlError, append, trimmed};

/// A device as a message names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device<'a> {
    /// A device id, as opaque text; it may be in NID form.
    Id(Cow<'a, str>),
    /// The switch does not know it.
    NotKnown,
    /// The switch does not tell it.
    Restricted,
    /// There is none (only of the last redirection device).
    NotRequired,
    /// The switch does not say (only of the last redirection device).
    NotSpecified,
}

impl<'a> Device<'a> {
    /// The device id, where there is one.
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::Id(id) => Some(id),
            _ => None,
        }
    }

    /// Reads the element entered last: a bare text, a wrapped one, or one of the standard's words. `None`: it is empty.
    pub fn read(cursor: &mut Cursor<'a>) -> Result<Option<Self>, XmlError> {
        let mut bare = Cow::Borrowed("");
        let mut found = None;
        loop {
            match cursor.step()? {
                Step::Text(piece) => append(&mut bare, piece),
                Step::Close => break,
                Step::Open(tag) => match tag.local() {
                    "deviceIdentifier" | "numberDialed" | "deviceID" | "deviceObject" => {
                        let id = cursor.text()?;
                        if !id.is_empty() {
                            found = Some(Self::Id(id));
                        }
                    }
                    "notKnown" => found = Some(cursor.skip().map(|()| Self::NotKnown)?),
                    "restricted" => found = Some(cursor.skip().map(|()| Self::Restricted)?),
                    "notRequired" => found = Some(cursor.skip().map(|()| Self::NotRequired)?),
                    "notSpecified" => found = Some(cursor.skip().map(|()| Self::NotSpecified)?),
                    _ => cursor.skip()?,
                },
            }
        }
        let bare = trimmed(bare);
        Ok(found.or_else(|| (!bare.is_empty()).then_some(Self::Id(bare))))
    }

    /// Writes it in the wrapped form of events.
    pub fn write(&self, name: &str, wrapper: &str, writer: &mut Writer<'_>) {
        writer.element(name, |writer| match self {
            Self::Id(id) => writer.element_with(wrapper, "typeOfNumber=\"dialingNumber\"", |writer| writer.text(id)),
            Self::NotKnown => writer.empty("notKnown"),
            Self::Restricted => writer.empty("restricted"),
            Self::NotRequired => writer.empty("notRequired"),
            Self::NotSpecified => writer.empty("notSpecified"),
        });
    }
}

/// A connection: a device's part in a call. Both ids are opaque and either may be missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Connection<'a> {
    /// The call.
    pub call: Option<Cow<'a, str>>,
    /// The device, or whatever else the switch tells connections of a call apart by.
    pub device: Option<Cow<'a, str>>,
}

impl<'a> Connection<'a> {
    /// A connection that owns its ids.
    pub fn into_owned(self) -> Connection<'static> {
        let owned = |id: Cow<'a, str>| Cow::Owned(id.into_owned());
        Connection { call: self.call.map(owned), device: self.device.map(owned) }
    }

    /// Reads the element entered last.
    pub fn read(cursor: &mut Cursor<'a>) -> Result<Self, XmlError> {
        let mut connection = Self::default();
        while let Some(tag) = cursor.child()? {
            match tag.local() {
                "callID" => connection.call = Some(cursor.text()?).filter(|id| !id.is_empty()),
                "deviceID" => {
                    connection.device = match Device::read(cursor)? {
                        Some(Device::Id(id)) => Some(id),
                        _ => None,
                    }
                }
                // Some wrap the connection once more.
                "connectionID" | "connectionIdentifier" => {
                    let inner = Self::read(cursor)?;
                    connection.call = inner.call.or(connection.call);
                    connection.device = inner.device.or(connection.device);
                }
                _ => cursor.skip()?,
            }
        }
        Ok(connection)
    }

    /// Writes it.
    pub fn write(&self, name: &str, writer: &mut Writer<'_>) {
        writer.element(name, |writer| {
            if let Some(call) = &self.call {
                writer.leaf("callID", call);
            }
            if let Some(device) = &self.device {
                writer.element_with("deviceID", "typeOfNumber=\"dialingNumber\"", |writer| writer.text(device));
            }
        });
    }
}

/// ECMA-269's connection states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the words are the standard's")]
pub enum ConnectionState {
    Null,
    Initiated,
    Alerting,
    Connected,
    Hold,
    Queued,
    Failed,
}

impl ConnectionState {
    /// All of them.
    pub const ALL: [Self; 7] = [Self::Null, Self::Initiated, Self::Alerting, Self::Connected, Self::Hold, Self::Queued, Self::Failed];

    /// The standard's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Initiated => "initiated",
            Self::Alerting => "alerting",
            Self::Connected => "connected",
            Self::Hold => "hold",
            Self::Queued => "queued",
            Self::Failed => "failed",
        }
    }

    /// The state that a word means; the call states of a simple snapshot count as their local half.
    pub fn of_word(word: &str) -> Option<Self> {
        Some(match word {
            "null" | "callNull" => Self::Null,
            "initiated" | "initiate" | "callPending" => Self::Initiated,
            "alerting" | "callReceived" => Self::Alerting,
            "connected" | "connect" | "callOriginated" | "callDelivered" | "callEstablished" | "callQueued" => Self::Connected,
            "hold" | "held" | "callDeliveredHeld" | "callEstablishedHold" | "callQueuedHeld" | "callReceivedOnHold" => Self::Hold,
            "queued" => Self::Queued,
            "fail" | "failed" | "callFailed" | "callBlocked" | "callFailedHold" => Self::Failed,
            _ => return Self::ALL.into_iter().find(|state| state.word().eq_ignore_ascii_case(word)),
        })
    }
}
