//! Call events of ECMA-323: one flat value per event, read in one pass. The texts are borrowed from the frame: this is the hot
//! path of the link.

use std::borrow::Cow;

use super::{
    types::{Connection, ConnectionState, Device},
    xml::{Cursor, Writer, XmlError},
};

/// Which event it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the standard's")]
pub enum EventKind {
    ServiceInitiated,
    Originated,
    NetworkReached,
    Delivered,
    Established,
    Held,
    Retrieved,
    Queued,
    Diverted,
    Failed,
    ConnectionCleared,
    CallCleared,
    Transferred,
    Conferenced,
}

/// The standard's names of an event and of its two main parts; an empty one is not written.
struct Names {
    root: &'static str,
    connection: &'static str,
    subject: &'static str,
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::ServiceInitiated,
        Self::Originated,
        Self::NetworkReached,
        Self::Delivered,
        Self::Established,
        Self::Held,
        Self::Retrieved,
        Self::Queued,
        Self::Diverted,
        Self::Failed,
        Self::ConnectionCleared,
        Self::CallCleared,
        Self::Transferred,
        Self::Conferenced,
    ];

    /// The event that a root element is.
    pub fn of_root(name: &str) -> Option<Self> {
        Some(match name {
            "ServiceInitiatedEvent" => Self::ServiceInitiated,
            "OriginatedEvent" => Self::Originated,
            "NetworkReachedEvent" => Self::NetworkReached,
            "DeliveredEvent" => Self::Delivered,
            "EstablishedEvent" => Self::Established,
            "HeldEvent" => Self::Held,
            "RetrievedEvent" => Self::Retrieved,
            "QueuedEvent" => Self::Queued,
            "DivertedEvent" => Self::Diverted,
            "FailedEvent" => Self::Failed,
            "ConnectionClearedEvent" => Self::ConnectionCleared,
            "CallClearedEvent" => Self::CallCleared,
            "TransferedEvent" | "TransferredEvent" => Self::Transferred,
            "ConferencedEvent" => Self::Conferenced,
            _ => return None,
        })
    }

    /// The standard's name of the event.
    pub fn root(self) -> &'static str {
        self.names().root
    }

    fn names(self) -> Names {
        let names = |root, connection, subject| Names { root, connection, subject };
        match self {
            Self::ServiceInitiated => names("ServiceInitiatedEvent", "initiatedConnection", "initiatingDevice"),
            Self::Originated => names("OriginatedEvent", "originatedConnection", ""),
            Self::NetworkReached => names("NetworkReachedEvent", "outboundConnection", "networkInterfaceUsed"),
            Self::Delivered => names("DeliveredEvent", "connection", "alertingDevice"),
            Self::Established => names("EstablishedEvent", "establishedConnection", "answeringDevice"),
            Self::Held => names("HeldEvent", "heldConnection", "holdingDevice"),
            Self::Retrieved => names("RetrievedEvent", "retrievedConnection", "retrievingDevice"),
            Self::Queued => names("QueuedEvent", "queuedConnection", "queue"),
            Self::Diverted => names("DivertedEvent", "connection", "divertingDevice"),
            Self::Failed => names("FailedEvent", "failedConnection", "failingDevice"),
            Self::ConnectionCleared => names("ConnectionClearedEvent", "droppedConnection", "releasingDevice"),
            Self::CallCleared => names("CallClearedEvent", "clearedCall", ""),
            Self::Transferred => names("TransferedEvent", "primaryOldCall", "transferringDevice"),
            Self::Conferenced => names("ConferencedEvent", "primaryOldCall", "conferencingDevice"),
        }
    }
}

/// A leg of the call that a transfer or conference leaves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnectionItem<'a> {
    /// The leg in the resulting call.
    pub new: Connection<'a>,
    /// The leg it was before.
    pub old: Option<Connection<'a>>,
    /// The device at its end, where it is said apart.
    pub endpoint: Option<Device<'a>>,
}

/// One event. Only what this project uses is kept; everything else is passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<'a> {
    /// Which one.
    pub kind: EventKind,
    /// The monitor that saw it; empty if it does not say.
    pub cross_ref: Cow<'a, str>,
    /// The connection it is about: the alerting, established, dropped one; of a transfer or conference the primary old call.
    pub connection: Option<Connection<'a>>,
    /// The device that acts: alerting, answering, holding, releasing, transferring.
    pub subject: Option<Device<'a>>,
    /// The caller.
    pub calling: Option<Device<'a>>,
    /// The called device.
    pub called: Option<Device<'a>>,
    /// The device that sent the call on.
    pub last_redirection: Option<Device<'a>>,
    /// Where it goes: the new destination, the device transferred to, the added party.
    pub target: Option<Device<'a>>,
    /// The secondary old call of a transfer or conference.
    pub secondary: Option<Connection<'a>>,
    /// The legs of the resulting call.
    pub connections: Vec<ConnectionItem<'a>>,
    /// The state of the monitored device's own connection.
    pub local: Option<ConnectionState>,
    /// Why, in the standard's words.
    pub cause: Option<Cow<'a, str>>,
    /// When, as the switch writes it.
    pub at: Option<Cow<'a, str>>,
}

impl<'a> Event<'a> {
    /// An event that says nothing yet.
    pub fn new(kind: EventKind) -> Self {
        Self {
            kind,
            cross_ref: Cow::Borrowed(""),
            connection: None,
            subject: None,
            calling: None,
            called: None,
            last_redirection: None,
            target: None,
            secondary: None,
            connections: Vec::new(),
            local: None,
            cause: None,
            at: None,
        }
    }

    /// Reads what is inside the root element entered last: in any order, anything may be missing.
    pub(super) fn read(kind: EventKind, cursor: &mut Cursor<'a>) -> Result<Self, XmlError> {
        let mut event = Self::new(kind);
        while let Some(tag) = cursor.child()? {
            match tag.local() {
                "monitorCrossRefID" => event.cross_ref = cursor.text()?,
                "callingDevice" => event.calling = Device::read(cursor)?,
                "calledDevice" => event.called = Device::read(cursor)?,
                "lastRedirectionDevice" => event.last_redirection = Device::read(cursor)?,
                "localConnectionInfo" => event.local = ConnectionState::of_word(&cursor.text()?),
                "cause" => event.cause = Some(cursor.text()?).filter(|cause| !cause.is_empty()),
                "connection"
                | "initiatedConnection"
                | "originatedConnection"
                | "outboundConnection"
                | "establishedConnection"
                | "heldConnection"
                | "retrievedConnection"
                | "queuedConnection"
                | "failedConnection"
                | "droppedConnection"
                | "clearedCall"
                | "primaryOldCall" => event.connection = Some(Connection::read(cursor)?),
                "secondaryOldCall" => event.secondary = Some(Connection::read(cursor)?),
                "initiatingDevice"
                | "networkInterfaceUsed"
                | "alertingDevice"
                | "answeringDevice"
                | "holdingDevice"
                | "retrievingDevice"
                | "queue"
                | "divertingDevice"
                | "failingDevice"
                | "releasingDevice"
                | "transferringDevice"
                | "transferingDevice"
                | "conferencingDevice" => event.subject = Device::read(cursor)?,
                "newDestination" | "transferredToDevice" | "transferedToDevice" | "addedParty" => event.target = Device::read(cursor)?,
                "transferredConnections" | "transferedConnections" | "conferenceConnections" => {
                    while let Some(tag) = cursor.child()? {
                        if tag.local() == "connectionListItem" {
                            event.connections.push(ConnectionItem::read(cursor)?);
                        } else {
                            cursor.skip()?;
                        }
                    }
                }
                "timestamp" | "timeStamp" | "eventTimestamp" => event.at = Some(cursor.text()?).filter(|at| !at.is_empty()),
                "commonArguments" | "CSTACommonArguments" | "securityData" => {
                    if let Some(at) = Self::timestamp(cursor)? {
                        event.at = Some(at);
                    }
                }
                _ => cursor.skip()?,
            }
        }
        Ok(event)
    }

    /// The time stamp of the common arguments' security data.
    fn timestamp(cursor: &mut Cursor<'a>) -> Result<Option<Cow<'a, str>>, XmlError> {
        let mut at = None;
        while let Some(tag) = cursor.child()? {
            match tag.local() {
                "timestamp" | "timeStamp" => at = Some(cursor.text()?).filter(|at| !at.is_empty()),
                "securityData" | "CSTASecurityData" => at = Self::timestamp(cursor)?,
                _ => cursor.skip()?,
            }
        }
        Ok(at)
    }

    /// Writes the event in the standard's form.
    pub fn write(&self, namespace: &str, out: &mut String) {
        let names = self.kind.names();
        let merges = matches!(self.kind, EventKind::Transferred | EventKind::Conferenced);
        Writer::new(out).root(names.root, namespace, |writer| {
            if !self.cross_ref.is_empty() {
                writer.leaf("monitorCrossRefID", &self.cross_ref);
            }
            if let Some(connection) = &self.connection {
                connection.write(names.connection, writer);
            }
            if let Some(secondary) = &self.secondary {
                secondary.write("secondaryOldCall", writer);
            }
            let device = |name: &str, wrapper: &str, device: &Option<Device<'_>>, writer: &mut Writer<'_>| {
                if let Some(device) = device {
                    device.write(name, wrapper, writer);
                }
            };
            if !names.subject.is_empty() {
                device(names.subject, "deviceIdentifier", &self.subject, writer);
            }
            device(self.target_name(), "deviceIdentifier", &self.target, writer);
            device("callingDevice", "deviceIdentifier", &self.calling, writer);
            device("calledDevice", "deviceIdentifier", &self.called, writer);
            device("lastRedirectionDevice", "numberDialed", &self.last_redirection, writer);
            if merges {
                writer.element(self.list_name(), |writer| self.connections.iter().for_each(|item| item.write(writer)));
            }
            if let Some(local) = self.local {
                writer.leaf("localConnectionInfo", local.word());
            }
            if let Some(cause) = &self.cause {
                writer.leaf("cause", cause);
            }
            if let Some(at) = &self.at {
                writer.element("securityData", |writer| writer.leaf("timestamp", at));
            }
        });
    }

    fn target_name(&self) -> &'static str {
        match self.kind {
            EventKind::Transferred => "transferredToDevice",
            EventKind::Conferenced => "addedParty",
            _ => "newDestination",
        }
    }

    fn list_name(&self) -> &'static str {
        if self.kind == EventKind::Transferred { "transferredConnections" } else { "conferenceConnections" }
    }
}

impl<'a> ConnectionItem<'a> {
    fn read(cursor: &mut Cursor<'a>) -> Result<Self, XmlError> {
        let mut item = Self::default();
        while let Some(tag) = cursor.child()? {
            match tag.local() {
                "newConnection" => item.new = Connection::read(cursor)?,
                "oldConnection" => item.old = Some(Connection::read(cursor)?),
                "endpoint" => item.endpoint = Device::read(cursor)?,
                _ => cursor.skip()?,
            }
        }
        Ok(item)
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.element("connectionListItem", |writer| {
            self.new.write("newConnection", writer);
            if let Some(old) = &self.old {
                old.write("oldConnection", writer);
            }
            if let Some(endpoint) = &self.endpoint {
                endpoint.write("endpoint", "deviceID", writer);
            }
        });
    }
}
