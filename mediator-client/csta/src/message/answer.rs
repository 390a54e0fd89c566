//! Answers to our requests: `…Response` of ECMA-323, `…PosResponse` and `…NegResponse` of ECMA-354, and `CSTAErrorCode`.

use std::time::Duration;

use ecss_switch::{Dialect, RefusalReason};

use super::{
    SESSION_NAMESPACE,
    request::Service,
    types::{Connection, ConnectionState, Device},
    xml::{Cursor, Step, Writer, XmlError, shortened},
};

/// The most text that is kept of a refusal.
const MAX_TEXT: usize = 256;

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What it answers, where the root says so; an error does not.
    pub service: Option<Service>,
    /// What it says.
    pub body: AnswerBody,
}

/// What an answer says.
#[derive(Clone, PartialEq, Eq)]
pub enum AnswerBody {
    /// The session is on, or goes on.
    Session {
        /// Its id (of a start).
        id: Option<String>,
        /// How long it lasts without renewal, where the switch says so.
        duration: Option<Duration>,
    },
    /// The session is refused, or not renewed.
    SessionRefused {
        /// Why, in the switch's words.
        reason: String,
    },
    /// The monitor is on.
    Monitor {
        /// Its id.
        cross_ref: String,
    },
    /// A call, and the connection in it that the service speaks of.
    Call(Connection<'static>),
    /// The connections of a call or device. An empty list is real.
    Snapshot {
        /// The call's caller, where the answer tells.
        calling: Option<String>,
        /// The connections.
        legs: Vec<SnapshotLeg>,
    },
    /// It is done; there is nothing to say.
    Done,
    /// It was refused.
    Error(CstaError),
}

impl std::fmt::Debug for AnswerBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            // A session id is as good as a login.
            Self::Session { duration, .. } => f.debug_struct("Session").field("duration", duration).finish_non_exhaustive(),
            Self::SessionRefused { reason } => f.debug_struct("SessionRefused").field("reason", reason).finish(),
            Self::Monitor { cross_ref } => f.debug_struct("Monitor").field("cross_ref", cross_ref).finish(),
            Self::Call(connection) => f.debug_tuple("Call").field(connection).finish(),
            Self::Snapshot { calling, legs } => f.debug_struct("Snapshot").field("calling", calling).field("legs", legs).finish(),
            Self::Done => f.write_str("Done"),
            Self::Error(error) => f.debug_tuple("Error").field(error).finish(),
        }
    }
}

/// A connection in a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotLeg {
    /// The connection.
    pub connection: Connection<'static>,
    /// The device, where it is said apart from the connection.
    pub device: Option<String>,
    /// The device at the other end, where it is said.
    pub endpoint: Option<String>,
    /// Its state; of a device's snapshot the first of the compound, which is the device's own.
    pub state: Option<ConnectionState>,
}

/// A refusal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CstaError {
    /// Which of the standard's categories: `operation`, `stateIncompatibility`, …; empty if it does not say.
    pub category: String,
    /// The standard's value in it.
    pub value: String,
    /// What the vendor adds.
    pub vendor: String,
}

impl CstaError {
    /// The refusal in the switch's words.
    pub fn text(&self) -> String {
        let mut text = match (self.category.as_str(), self.value.as_str()) {
            ("", "") if self.vendor.is_empty() => "an error without a reason".to_owned(),
            ("", value) => value.to_owned(),
            (category, "") => category.to_owned(),
            (category, value) => format!("{category}: {value}"),
        };
        if !self.vendor.is_empty() {
            if !text.is_empty() {
                text.push_str("; ");
            }
            text.push_str(&self.vendor);
        }
        text
    }

    /// The refusal in our words: the vendor's text where the dialect knows it, else the standard's value, else its category.
    pub fn reason(&self, dialect: &Dialect) -> RefusalReason {
        let known = |text: &str| Some(dialect.refusal(text)).filter(|reason| !text.is_empty() && *reason != RefusalReason::Other);
        known(&self.vendor)
            .or_else(|| Self::reason_of_value(&self.value))
            .or_else(|| known(&self.value))
            .or_else(|| Self::reason_of_category(&self.category))
            .unwrap_or(RefusalReason::Other)
    }

    /// ECMA-269's error values; the switches vary their endings, so families are told by their stems.
    fn reason_of_value(value: &str) -> Option<RefusalReason> {
        let value = value.to_ascii_lowercase();
        let has = |stem: &str| value.contains(stem);
        Some(if has("privilege") || has("notauthori") || has("unauthori") || has("authcode") || has("authorisationcode") {
            RefusalReason::MissingRight
        } else if has("limitexceeded") {
            RefusalReason::LimitReached
        } else if has("busy") || has("outofservice") || has("notoperational") {
            RefusalReason::Busy
        } else if has("alreadyset") || has("alreadyexists") || has("existingmonitor") {
            RefusalReason::AlreadyExists
        } else if has("connectionid") || has("callid") || has("callidentifier") || has("connectionidentifier") {
            RefusalReason::UnknownCall
        } else if has("device") || has("destination") || has("objectnotknown") || has("cstaobject") {
            RefusalReason::UnknownAlias
        } else if has("state") || has("noactivecall") || has("noheldcall") || has("nocallto") || has("noconnectionto") {
            RefusalReason::WrongState
        } else if has("notsupported") || has("notavailable") || has("invalidfeature") || has("notimplemented") {
            RefusalReason::NotSupported
        } else {
            return None;
        })
    }

    fn reason_of_category(category: &str) -> Option<RefusalReason> {
        Some(match category {
            "security" => RefusalReason::MissingRight,
            "stateIncompatibility" => RefusalReason::WrongState,
            "systemResourceAvailibility" | "systemResourceAvailability" => RefusalReason::Busy,
            "subscribedResourceAvailability" | "subscribedResourceAvailibility" => RefusalReason::LimitReached,
            _ => return None,
        })
    }

    fn read(cursor: &mut Cursor<'_>) -> Result<Self, XmlError> {
        let mut error = Self::default();
        loop {
            match cursor.step()? {
                Step::Close => return Ok(error),
                Step::Text(text) if error.value.is_empty() => error.value = shortened(text.trim().to_owned(), MAX_TEXT),
                Step::Text(_) => {}
                Step::Open(tag) => match tag.local() {
                    "extensions" | "privateData" | "private" | "privateErrorCode" => error.vendor = cursor.all_text(MAX_TEXT)?,
                    category => {
                        let category = shortened(category.to_owned(), 64);
                        error.value = cursor.all_text(MAX_TEXT)?;
                        error.category = category;
                    }
                },
            }
        }
    }
}

impl Answer {
    /// Reads what is inside a root element of this name, if it is an answer's.
    pub(super) fn read(root: &str, cursor: &mut Cursor<'_>) -> Result<Option<Self>, XmlError> {
        if root == "CSTAErrorCode" {
            return Ok(Some(Self { service: None, body: AnswerBody::Error(CstaError::read(cursor)?) }));
        }
        let Some(stem) = root.strip_suffix("Response") else { return Ok(None) };
        if let Some(service) = stem.strip_suffix("Neg").and_then(Service::of_name) {
            let reason = cursor.all_text(MAX_TEXT)?;
            return Ok(Some(Self { service: Some(service), body: AnswerBody::SessionRefused { reason } }));
        }
        let Some(service) = Service::of_name(stem).or_else(|| stem.strip_suffix("Pos").and_then(Service::of_name)) else {
            return Ok(None);
        };
        let body = match service {
            Service::StartApplicationSession | Service::ResetApplicationSessionTimer => Self::read_session(cursor)?,
            Service::MonitorStart => Self::read_monitor(cursor)?,
            Service::SnapshotCall | Service::SnapshotDevice => Self::read_snapshot(cursor)?,
            _ => Self::read_call(cursor)?,
        };
        Ok(Some(Self { service: Some(service), body }))
    }

    fn read_session(cursor: &mut Cursor<'_>) -> Result<AnswerBody, XmlError> {
        let (mut id, mut duration) = (None, None);
        while let Some(tag) = cursor.child()? {
            match tag.local() {
                "sessionID" => id = Some(shortened(cursor.text()?.into_owned(), MAX_TEXT)),
                "actualSessionDuration" => duration = cursor.text()?.parse().ok().filter(|s| *s > 0).map(Duration::from_secs),
                _ => cursor.skip()?,
            }
        }
        Ok(AnswerBody::Session { id, duration })
    }

    fn read_monitor(cursor: &mut Cursor<'_>) -> Result<AnswerBody, XmlError> {
        let mut cross_ref = String::new();
        while let Some(tag) = cursor.child()? {
            if tag.local() == "monitorCrossRefID" { cross_ref = shortened(cursor.text()?.into_owned(), MAX_TEXT) } else { cursor.skip()? }
        }
        Ok(AnswerBody::Monitor { cross_ref })
    }

    fn read_call(cursor: &mut Cursor<'_>) -> Result<AnswerBody, XmlError> {
        let mut body = AnswerBody::Done;
        while let Some(tag) = cursor.child()? {
            match tag.local() {
                "callingDevice" | "initiatedCall" | "transferredCall" | "transferedCall" | "conferenceCall" => {
                    let connection = Connection::read(cursor)?.into_owned();
                    if connection != Connection::default() {
                        body = AnswerBody::Call(connection);
                    }
                }
                _ => cursor.skip()?,
            }
        }
        Ok(body)
    }

    fn read_snapshot(cursor: &mut Cursor<'_>) -> Result<AnswerBody, XmlError> {
        let (mut calling, mut legs) = (None, Vec::new());
        // The list may be wrapped in `crossRefIDorSnapshotData`, in `snapshotData`, in both or in neither.
        let mut wrappers = 0_usize;
        loop {
            match cursor.child()? {
                None if wrappers == 0 => return Ok(AnswerBody::Snapshot { calling, legs }),
                None => wrappers -= 1,
                Some(tag) => match tag.local() {
                    "crossRefIDorSnapshotData" | "snapshotData" => wrappers += 1,
                    "snapshotCallResponseInfo" | "snapshotDeviceResponseInfo" => legs.push(SnapshotLeg::read(cursor)?),
                    "callingDevice" => calling = owned_id(Device::read(cursor)?),
                    _ => cursor.skip()?,
                },
            }
        }
    }

    /// Writes the answer in the standard's form.
    pub fn write(&self, namespace: &str, out: &mut String) {
        let service = self.service.map(Service::name);
        let session = self.service.is_some_and(Service::is_session);
        let namespace = if session { SESSION_NAMESPACE } else { namespace };
        let mut writer = Writer::new(out);
        let Some(service) = service else {
            let AnswerBody::Error(error) = &self.body else { return };
            writer.root("CSTAErrorCode", namespace, |writer| {
                if !error.category.is_empty() {
                    writer.leaf(&error.category, &error.value);
                }
                if !error.vendor.is_empty() {
                    writer.element("extensions", |writer| {
                        writer.element("privateData", |writer| writer.leaf("private", &error.vendor));
                    });
                }
            });
            return;
        };
        let ending = match &self.body {
            AnswerBody::SessionRefused { .. } => "NegResponse",
            _ if session => "PosResponse",
            _ => "Response",
        };
        let calls = match self.service {
            Some(Service::MakeCall) => "callingDevice",
            Some(Service::ConsultationCall) => "initiatedCall",
            Some(Service::ConferenceCall) => "conferenceCall",
            _ => "transferredCall",
        };
        writer.root(&format!("{service}{ending}"), namespace, |writer| match &self.body {
            AnswerBody::Session { id, duration } => {
                if let Some(id) = id {
                    writer.leaf("sessionID", id);
                }
                if let Some(duration) = duration {
                    writer.leaf("actualSessionDuration", &duration.as_secs().to_string());
                }
            }
            AnswerBody::SessionRefused { reason } => {
                writer.element("errorCode", |writer| writer.leaf("applError", reason));
            }
            AnswerBody::Monitor { cross_ref } => writer.leaf("monitorCrossRefID", cross_ref),
            AnswerBody::Call(connection) => connection.write(calls, writer),
            AnswerBody::Snapshot { calling, legs } => self.write_snapshot(calling.as_deref(), legs, writer),
            AnswerBody::Done | AnswerBody::Error(_) => {}
        });
    }

    fn write_snapshot(&self, calling: Option<&str>, legs: &[SnapshotLeg], writer: &mut Writer<'_>) {
        let device_snapshot = self.service == Some(Service::SnapshotDevice);
        writer.element("crossRefIDorSnapshotData", |writer| {
            writer.element("snapshotData", |writer| legs.iter().for_each(|leg| leg.write(device_snapshot, writer)));
        });
        if let Some(calling) = calling {
            Device::Id(calling.into()).write("callingDevice", "deviceIdentifier", writer);
        }
    }
}

fn owned_id(device: Option<Device<'_>>) -> Option<String> {
    device.as_ref().and_then(Device::id).map(str::to_owned)
}

impl SnapshotLeg {
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, XmlError> {
        let mut leg = Self::default();
        while let Some(tag) = cursor.child()? {
            match tag.local() {
                "connectionIdentifier" | "callIdentifier" | "connection" => leg.connection = Connection::read(cursor)?.into_owned(),
                "deviceOnCall" => leg.device = owned_id(Device::read(cursor)?),
                "endpointDevice" => leg.endpoint = owned_id(Device::read(cursor)?),
                "localConnectionState" | "localConnectionInfo" | "localCallState" => leg.state = Self::read_state(cursor)?,
                _ => cursor.skip()?,
            }
        }
        Ok(leg)
    }

    /// A bare state, a simple one, or the first of a compound.
    fn read_state(cursor: &mut Cursor<'_>) -> Result<Option<ConnectionState>, XmlError> {
        let (mut state, mut depth) = (None, 1_usize);
        while depth > 0 {
            match cursor.step()? {
                Step::Open(_) => depth += 1,
                Step::Close => depth -= 1,
                Step::Text(text) => state = state.or_else(|| ConnectionState::of_word(text.trim())),
            }
        }
        Ok(state)
    }

    fn write(&self, device_snapshot: bool, writer: &mut Writer<'_>) {
        let (item, connection) = if device_snapshot {
            ("snapshotDeviceResponseInfo", "connectionIdentifier")
        } else {
            ("snapshotCallResponseInfo", "callIdentifier")
        };
        writer.element(item, |writer| {
            if let Some(device) = &self.device {
                Device::Id(device.into()).write("deviceOnCall", "deviceIdentifier", writer);
            }
            self.connection.write(connection, writer);
            if let Some(endpoint) = &self.endpoint {
                Device::Id(endpoint.into()).write("endpointDevice", "deviceIdentifier", writer);
            }
            let Some(state) = self.state else { return };
            if device_snapshot {
                writer.element("localCallState", |writer| {
                    writer.element("compoundCallState", |writer| writer.leaf("connectionState", state.word()));
                });
            } else {
                writer.leaf("localConnectionState", state.word());
            }
        });
    }
}
