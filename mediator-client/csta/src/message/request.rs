//! Requests: the services of ECMA-323 edition 3 and ECMA-354 that this project uses, written in the standard's first form.

use ecss_switch::Domain;
use secrecy::{ExposeSecret, SecretString};

use super::{
    PROTOCOL_VERSION, SESSION_NAMESPACE,
    types::{Connection, Device},
    xml::{Cursor, Writer, XmlError},
};

macro_rules! services {
    ($($name:ident),* $(,)?) => {
        /// A service of the standard.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[expect(missing_docs, reason = "the names are the standard's")]
        pub enum Service { $($name),* }

        impl Service {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The root element of its request.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),* }
            }

            /// The service of this name.
            pub fn of_name(name: &str) -> Option<Self> {
                match name { $(stringify!($name) => Some(Self::$name),)* _ => None }
            }
        }
    };
}

services!(
    StartApplicationSession,
    ResetApplicationSessionTimer,
    StopApplicationSession,
    MonitorStart,
    MonitorStop,
    SnapshotCall,
    SnapshotDevice,
    MakeCall,
    AnswerCall,
    ClearConnection,
    ClearCall,
    HoldCall,
    RetrieveCall,
    AlternateCall,
    ConsultationCall,
    TransferCall,
    SingleStepTransferCall,
    ConferenceCall,
    DeflectCall,
    GenerateDigits,
);

impl Service {
    /// Whether it is one of ECMA-354's session services.
    pub fn is_session(self) -> bool {
        matches!(self, Self::StartApplicationSession | Self::ResetApplicationSessionTimer | Self::StopApplicationSession)
    }
}

/// A connection that a request names.
pub type Target = Connection<'static>;

/// One request. Devices are written bare, as requests have them.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are the standard's elements")]
pub enum Request {
    StartSession { domain: Domain, password: SecretString, seconds: u64 },
    RenewSession { session: SecretString, seconds: u64 },
    StopSession { session: SecretString },
    MonitorStart { device: String },
    MonitorStop { cross_ref: String },
    SnapshotCall { call: String },
    SnapshotDevice { device: String },
    MakeCall { calling: String, called: String, auto_originate: String },
    AnswerCall(Target),
    ClearConnection(Target),
    ClearCall { call: String },
    HoldCall(Target),
    RetrieveCall(Target),
    AlternateCall { held: Target, active: Target },
    ConsultationCall { existing: Target, consulted: String },
    TransferCall { held: Target, active: Target },
    SingleStepTransferCall { active: Target, to: String },
    ConferenceCall { held: Target, active: Target },
    DeflectCall { diverted: Target, to: String },
    GenerateDigits { connection: Target, digits: String },
}

impl Request {
    /// The service it asks for.
    pub fn service(&self) -> Service {
        match self {
            Self::StartSession { .. } => Service::StartApplicationSession,
            Self::RenewSession { .. } => Service::ResetApplicationSessionTimer,
            Self::StopSession { .. } => Service::StopApplicationSession,
            Self::MonitorStart { .. } => Service::MonitorStart,
            Self::MonitorStop { .. } => Service::MonitorStop,
            Self::SnapshotCall { .. } => Service::SnapshotCall,
            Self::SnapshotDevice { .. } => Service::SnapshotDevice,
            Self::MakeCall { .. } => Service::MakeCall,
            Self::AnswerCall(_) => Service::AnswerCall,
            Self::ClearConnection(_) => Service::ClearConnection,
            Self::ClearCall { .. } => Service::ClearCall,
            Self::HoldCall(_) => Service::HoldCall,
            Self::RetrieveCall(_) => Service::RetrieveCall,
            Self::AlternateCall { .. } => Service::AlternateCall,
            Self::ConsultationCall { .. } => Service::ConsultationCall,
            Self::TransferCall { .. } => Service::TransferCall,
            Self::SingleStepTransferCall { .. } => Service::SingleStepTransferCall,
            Self::ConferenceCall { .. } => Service::ConferenceCall,
            Self::DeflectCall { .. } => Service::DeflectCall,
            Self::GenerateDigits { .. } => Service::GenerateDigits,
        }
    }

    /// Appends the message. It holds the password and the session id: see `redacted` before showing it.
    pub fn write(&self, namespace: &str, out: &mut String) {
        if let Self::StartSession { domain, password, seconds } = self {
            return write_start(domain, password, *seconds, out);
        }
        let service = self.service();
        let namespace = if service.is_session() { SESSION_NAMESPACE } else { namespace };
        Writer::new(out).root(service.name(), namespace, |writer| self.write_inside(writer));
    }

    fn write_inside(&self, writer: &mut Writer<'_>) {
        let call_only = |call: &String| Target { call: Some(call.clone().into()), device: None };
        match self {
            Self::StartSession { .. } => {}
            Self::RenewSession { session, seconds } => {
                writer.leaf("sessionID", session.expose_secret());
                writer.leaf("requestedSessionDuration", &seconds.to_string());
            }
            Self::StopSession { session } => {
                writer.leaf("sessionID", session.expose_secret());
                writer.element("sessionEndReason", |writer| writer.leaf("definedEndReason", "normal"));
            }
            Self::MonitorStart { device } => {
                writer.element("monitorObject", |writer| writer.leaf("deviceObject", device));
                writer.leaf("monitorType", "device");
            }
            Self::MonitorStop { cross_ref } => writer.leaf("monitorCrossRefID", cross_ref),
            Self::SnapshotCall { call } => call_only(call).write("snapshotObject", writer),
            Self::SnapshotDevice { device } => writer.leaf("snapshotObject", device),
            Self::MakeCall { calling, called, auto_originate } => {
                writer.leaf("callingDevice", calling);
                writer.leaf("calledDirectoryNumber", called);
                writer.leaf("autoOriginate", auto_originate);
            }
            Self::AnswerCall(connection) => connection.write("callToBeAnswered", writer),
            Self::ClearConnection(connection) => connection.write("connectionToBeCleared", writer),
            Self::ClearCall { call } => call_only(call).write("callToBeCleared", writer),
            Self::HoldCall(connection) => connection.write("callToBeHeld", writer),
            Self::RetrieveCall(connection) => connection.write("callToBeRetrieved", writer),
            Self::AlternateCall { held, active } | Self::TransferCall { held, active } | Self::ConferenceCall { held, active } => {
                held.write("heldCall", writer);
                active.write("activeCall", writer);
            }
            Self::ConsultationCall { existing, consulted } => {
                existing.write("existingCall", writer);
                writer.leaf("consultedDevice", consulted);
            }
            Self::SingleStepTransferCall { active, to } => {
                active.write("activeCall", writer);
                writer.leaf("transferredTo", to);
            }
            Self::DeflectCall { diverted, to } => {
                diverted.write("callToBeDiverted", writer);
                writer.leaf("newDestination", to);
            }
            Self::GenerateDigits { connection, digits } => {
                connection.write("connectionToSendDigits", writer);
                writer.leaf("charactersToSend", digits);
            }
        }
    }

    /// Reads a request, as tests and replays need it. `None`: it is none of ours, or lacks what it must have.
    pub fn read(body: &[u8]) -> Result<Option<Self>, XmlError> {
        let (mut cursor, root) = Cursor::open(body)?;
        let Some(service) = Service::of_name(root.local()) else { return cursor.skip().map(|()| None) };
        let mut parts = Parts::default();
        parts.read(&mut cursor)?;
        Ok(parts.request(service))
    }
}

/// The documented first message, element by element.
fn write_start(domain: &Domain, password: &SecretString, seconds: u64, out: &mut String) {
    const VENDOR: &str = "http://www.eltex.org/csta";
    out.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\" standalone=\"yes\"?>");
    out.push_str("<StartApplicationSession xmlns=\"");
    out.push_str(SESSION_NAMESPACE);
    out.push_str("\" xmlns:ns1=\"");
    out.push_str(VENDOR);
    out.push_str("\">");
    let mut inside = Writer::continued(out);
    inside.element("applicationInfo", |writer| {
        writer.leaf("applicationID", "Eltex ECSS-10 CSTA adapter");
        writer.element("applicationSpecificInfo", |writer| {
            writer.element_with("ns1:SessionLoginInfo", &format!("xmlns:ns1=\"{VENDOR}\""), |writer| {
                writer.leaf("ns1:userName", domain.as_str());
                writer.leaf("ns1:password", password.expose_secret());
            });
        });
    });
    inside.element("requestedProtocolVersions", |writer| writer.leaf("protocolVersion", PROTOCOL_VERSION));
    inside.leaf("requestedSessionDuration", &seconds.to_string());
    out.push_str("</StartApplicationSession>");
}

/// What may be in a request, whichever it is.
#[derive(Default)]
struct Parts {
    texts: Vec<(&'static str, String)>,
    targets: Vec<(&'static str, Target)>,
}

impl Parts {
    const TEXTS: [&str; 13] = [
        "sessionID",
        "requestedSessionDuration",
        "monitorCrossRefID",
        "deviceObject",
        "callingDevice",
        "calledDirectoryNumber",
        "autoOriginate",
        "consultedDevice",
        "transferredTo",
        "newDestination",
        "charactersToSend",
        "userName",
        "password",
    ];
    const TARGETS: [&str; 9] = [
        "callToBeAnswered",
        "connectionToBeCleared",
        "callToBeCleared",
        "callToBeHeld",
        "callToBeRetrieved",
        "existingCall",
        "heldCall",
        "activeCall",
        "callToBeDiverted",
    ];
    const WRAPPERS: [&str; 4] = ["applicationInfo", "applicationSpecificInfo", "SessionLoginInfo", "monitorObject"];

    fn read(&mut self, cursor: &mut Cursor<'_>) -> Result<(), XmlError> {
        while let Some(tag) = cursor.child()? {
            let name = tag.local();
            if let Some(name) = Self::TEXTS.into_iter().find(|text| *text == name) {
                let text = if name == "password" || name == "sessionID" {
                    cursor.text()?.into_owned()
                } else {
                    Device::read(cursor)?.as_ref().and_then(Device::id).unwrap_or_default().to_owned()
                };
                self.texts.push((name, text));
            } else if let Some(name) = Self::TARGETS.into_iter().find(|target| *target == name) {
                self.targets.push((name, Connection::read(cursor)?.into_owned()));
            } else if name == "connectionToSendDigits" {
                self.targets.push(("connectionToSendDigits", Connection::read(cursor)?.into_owned()));
            } else if name == "snapshotObject" {
                self.read_object(cursor)?;
            } else if Self::WRAPPERS.contains(&name) {
                self.read(cursor)?;
            } else {
                cursor.skip()?;
            }
        }
        Ok(())
    }

    /// A call's snapshot names a connection, a device's a bare device.
    fn read_object(&mut self, cursor: &mut Cursor<'_>) -> Result<(), XmlError> {
        use super::xml::Step;
        loop {
            match cursor.step()? {
                Step::Close => return Ok(()),
                Step::Text(text) => {
                    let text = text.trim();
                    match self.texts.last_mut() {
                        Some((name, whole)) if *name == "snapshotObject" => whole.push_str(text),
                        _ => self.texts.push(("snapshotObject", text.to_owned())),
                    }
                }
                Step::Open(tag) if tag.local() == "callID" => {
                    let call = cursor.text()?.into_owned();
                    self.targets.push(("snapshotObject", Target { call: Some(call.into()), device: None }));
                }
                Step::Open(_) => cursor.skip()?,
            }
        }
    }

    fn text(&self, name: &str) -> Option<String> {
        self.texts.iter().find(|(found, _)| *found == name).map(|(_, text)| text.clone())
    }

    fn target(&self, name: &str) -> Option<Target> {
        self.targets.iter().find(|(found, _)| *found == name).map(|(_, target)| target.clone())
    }

    fn request(&self, service: Service) -> Option<Request> {
        let text = |name: &str| self.text(name);
        let target = |name: &str| self.target(name);
        let call = |name: &str| self.target(name).and_then(|target| target.call).map(std::borrow::Cow::into_owned);
        let seconds = || self.text("requestedSessionDuration").and_then(|text| text.parse().ok());
        Some(match service {
            Service::StartApplicationSession => Request::StartSession {
                domain: Domain::parse(&text("userName")?).ok()?,
                password: text("password")?.into(),
                seconds: seconds()?,
            },
            Service::ResetApplicationSessionTimer => Request::RenewSession { session: text("sessionID")?.into(), seconds: seconds()? },
            Service::StopApplicationSession => Request::StopSession { session: text("sessionID")?.into() },
            Service::MonitorStart => Request::MonitorStart { device: text("deviceObject")? },
            Service::MonitorStop => Request::MonitorStop { cross_ref: text("monitorCrossRefID")? },
            Service::SnapshotCall => Request::SnapshotCall { call: call("snapshotObject")? },
            Service::SnapshotDevice => Request::SnapshotDevice { device: text("snapshotObject")? },
            Service::MakeCall => Request::MakeCall {
                calling: text("callingDevice")?,
                called: text("calledDirectoryNumber")?,
                auto_originate: text("autoOriginate").unwrap_or_default(),
            },
            Service::AnswerCall => Request::AnswerCall(target("callToBeAnswered")?),
            Service::ClearConnection => Request::ClearConnection(target("connectionToBeCleared")?),
            Service::ClearCall => Request::ClearCall { call: call("callToBeCleared")? },
            Service::HoldCall => Request::HoldCall(target("callToBeHeld")?),
            Service::RetrieveCall => Request::RetrieveCall(target("callToBeRetrieved")?),
            Service::AlternateCall => Request::AlternateCall { held: target("heldCall")?, active: target("activeCall")? },
            Service::ConsultationCall => {
                Request::ConsultationCall { existing: target("existingCall")?, consulted: text("consultedDevice")? }
            }
            Service::TransferCall => Request::TransferCall { held: target("heldCall")?, active: target("activeCall")? },
            Service::SingleStepTransferCall => {
                Request::SingleStepTransferCall { active: target("activeCall")?, to: text("transferredTo")? }
            }
            Service::ConferenceCall => Request::ConferenceCall { held: target("heldCall")?, active: target("activeCall")? },
            Service::DeflectCall => Request::DeflectCall { diverted: target("callToBeDiverted")?, to: text("newDestination")? },
            Service::GenerateDigits => {
                Request::GenerateDigits { connection: target("connectionToSendDigits")?, digits: text("charactersToSend")? }
            }
        })
    }
}
