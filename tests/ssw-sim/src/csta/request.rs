//! What an application can ask for over CSTA: the services of ECMA-323 edition 3 and the session of ECMA-354
//! (ecss10-interfaces §3), read by local name from whatever namespace they come in.

use crate::csta::element::Element;

/// A connection as an application writes it: either part may be missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Connection {
    /// The call.
    pub(crate) call: String,
    /// The device in it.
    pub(crate) device: String,
}

/// A request. Each is the service of the same name in ECMA-323 or ECMA-354. Not printed: one holds a password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Request {
    StartApplicationSession {
        user: String,
        password: String,
        versions: Vec<String>,
        seconds: Option<u32>,
    },
    ResetApplicationSessionTimer {
        session: String,
        seconds: Option<u32>,
    },
    StopApplicationSession {
        session: String,
    },
    /// The vendor's keep-alive, whatever its root is called.
    Keepalive,
    MonitorStart {
        device: String,
    },
    MonitorStop {
        cross_ref: String,
    },
    SnapshotDevice {
        device: String,
    },
    SnapshotCall {
        call: String,
    },
    MakeCall {
        calling: String,
        called: String,
        auto_originate: String,
    },
    AnswerCall(Connection),
    ClearConnection(Connection),
    ClearCall(Connection),
    HoldCall(Connection),
    RetrieveCall(Connection),
    AlternateCall {
        held: Connection,
        active: Connection,
    },
    ConsultationCall {
        existing: Connection,
        consulted: String,
    },
    TransferCall {
        held: Connection,
        active: Connection,
    },
    SingleStepTransferCall {
        active: Connection,
        to: String,
    },
    ConferenceCall {
        held: Connection,
        active: Connection,
    },
    DeflectCall {
        diverted: Connection,
        to: String,
    },
    GenerateDigits {
        connection: Connection,
        digits: String,
    },
}

/// Why a message is no request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BadRequest {
    /// A service that the switch does not have.
    Unknown,
    /// A child that the service cannot do without is missing or empty.
    Missing(&'static str),
}

// === impl Request ===

impl Request {
    /// Reads a request from a message.
    pub(crate) fn read(root: &Element) -> Result<Self, BadRequest> {
        let need = |name: &'static str| root.child_text(name).map(str::to_owned).ok_or(BadRequest::Missing(name));
        let connection = |name: &'static str| Connection::read(root, name);
        Ok(match root.name.as_ref() {
            "StartApplicationSession" => {
                let login = root.find("SessionLoginInfo").ok_or(BadRequest::Missing("SessionLoginInfo"))?;
                let versions = root.child("requestedProtocolVersions").map(|list| &list.children[..]).unwrap_or_default();
                Self::StartApplicationSession {
                    user: login.child_text("userName").unwrap_or_default().to_owned(),
                    password: login.child_text("password").unwrap_or_default().to_owned(),
                    versions: versions.iter().map(|version| version.text.trim().to_owned()).collect(),
                    seconds: seconds(root),
                }
            }
            "ResetApplicationSessionTimer" => Self::ResetApplicationSessionTimer { session: need("sessionID")?, seconds: seconds(root) },
            "StopApplicationSession" => Self::StopApplicationSession { session: need("sessionID")? },
            "keepalive" | "KeepAlive" | "Keepalive" => Self::Keepalive,
            "MonitorStart" => {
                let object = root.child("monitorObject").ok_or(BadRequest::Missing("monitorObject"))?;
                let device = object.child_text("deviceObject").ok_or(BadRequest::Missing("deviceObject"))?;
                Self::MonitorStart { device: device.to_owned() }
            }
            "MonitorStop" => Self::MonitorStop { cross_ref: need("monitorCrossRefID")? },
            "SnapshotDevice" => Self::SnapshotDevice { device: need("snapshotObject")? },
            "SnapshotCall" => {
                let object = root.child("snapshotObject").ok_or(BadRequest::Missing("snapshotObject"))?;
                Self::SnapshotCall { call: object.child_text("callID").ok_or(BadRequest::Missing("callID"))?.to_owned() }
            }
            "MakeCall" => Self::MakeCall {
                calling: need("callingDevice")?,
                called: need("calledDirectoryNumber")?,
                auto_originate: root.child_text("autoOriginate").unwrap_or("prompt").to_owned(),
            },
            "AnswerCall" => Self::AnswerCall(connection("callToBeAnswered")?),
            "ClearConnection" => Self::ClearConnection(connection("connectionToBeCleared")?),
            "ClearCall" => Self::ClearCall(connection("callToBeCleared")?),
            "HoldCall" => Self::HoldCall(connection("callToBeHeld")?),
            "RetrieveCall" => Self::RetrieveCall(connection("callToBeRetrieved")?),
            "AlternateCall" => Self::AlternateCall { held: connection("heldCall")?, active: connection("activeCall")? },
            "ConsultationCall" => Self::ConsultationCall { existing: connection("existingCall")?, consulted: need("consultedDevice")? },
            "TransferCall" => Self::TransferCall { held: connection("heldCall")?, active: connection("activeCall")? },
            "SingleStepTransferCall" => Self::SingleStepTransferCall { active: connection("activeCall")?, to: need("transferredTo")? },
            "ConferenceCall" => Self::ConferenceCall { held: connection("heldCall")?, active: connection("activeCall")? },
            "DeflectCall" => Self::DeflectCall { diverted: connection("callToBeDiverted")?, to: need("newDestination")? },
            "GenerateDigits" => {
                Self::GenerateDigits { connection: connection("connectionToSendDigits")?, digits: need("charactersToSend")? }
            }
            _ => return Err(BadRequest::Unknown),
        })
    }
}

// === impl Connection ===

impl Connection {
    fn read(root: &Element, name: &'static str) -> Result<Self, BadRequest> {
        let element = root.child(name).ok_or(BadRequest::Missing(name))?;
        let part = |name: &str| element.child_text(name).unwrap_or_default().to_owned();
        Ok(Self { call: part("callID"), device: part("deviceID") })
    }
}

fn seconds(root: &Element) -> Option<u32> {
    root.child_text("requestedSessionDuration").and_then(|text| text.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Request, BadRequest> {
        Request::read(&Element::parse(text.as_bytes()).unwrap())
    }

    #[test]
    fn the_documented_first_message_is_read() {
        let text = r#"<?xml version="1.0" encoding="UTF-8" standalone="yes"?>
          <StartApplicationSession xmlns="http://www.ecma-international.org/standards/ecma-354/appl_session" xmlns:ns1="http://www.eltex.org/csta">
            <applicationInfo><applicationID>Eltex ECSS-10 CSTA adapter</applicationID>
              <applicationSpecificInfo><ns1:SessionLoginInfo xmlns:ns1="http://www.eltex.org/csta">
                <ns1:userName>p.city</ns1:userName><ns1:password>1234</ns1:password>
              </ns1:SessionLoginInfo></applicationSpecificInfo></applicationInfo>
            <requestedProtocolVersions><protocolVersion>http://www.ecma-international.org/standards/ecma-323/csta/ed3</protocolVersion></requestedProtocolVersions>
            <requestedSessionDuration>300</requestedSessionDuration>
          </StartApplicationSession>"#;
        let expected = Request::StartApplicationSession {
            user: "p.city".into(),
            password: "1234".into(),
            versions: vec!["http://www.ecma-international.org/standards/ecma-323/csta/ed3".into()],
            seconds: Some(300),
        };
        assert!(read(text) == Ok(expected));
    }

    #[test]
    fn a_connection_is_read_in_any_order_and_with_parts_missing() {
        let hold = |inner: &str| read(&format!("<HoldCall xmlns='urn:x'><callToBeHeld>{inner}</callToBeHeld></HoldCall>"));
        let expect = |call: &str, device: &str| Ok(Request::HoldCall(Connection { call: call.into(), device: device.into() }));
        assert!(hold("<callID>-12</callID><deviceID>1001</deviceID>") == expect("-12", "1001"));
        assert!(hold("<deviceID>1001</deviceID><callID>100|101</callID>") == expect("100|101", "1001"));
        assert!(hold("<callID/><deviceID>1001</deviceID>") == expect("", "1001"));
        assert!(read("<HoldCall/>") == Err(BadRequest::Missing("callToBeHeld")));
    }

    #[test]
    fn every_service_is_read_and_an_unknown_one_is_told_apart() {
        let c = |name: &str| format!("<{name}><callID>c1</callID><deviceID>1</deviceID></{name}>");
        let two = format!("{}{}", c("heldCall"), c("activeCall"));
        for (name, inner) in [
            ("ResetApplicationSessionTimer", "<sessionID>1</sessionID>".to_owned()),
            ("StopApplicationSession", "<sessionID>1</sessionID>".to_owned()),
            ("keepalive", String::new()),
            ("MonitorStart", "<monitorObject><deviceObject>1001</deviceObject></monitorObject>".to_owned()),
            ("MonitorStop", "<monitorCrossRefID>7</monitorCrossRefID>".to_owned()),
            ("SnapshotDevice", "<snapshotObject>1001</snapshotObject>".to_owned()),
            ("SnapshotCall", c("snapshotObject")),
            ("MakeCall", "<callingDevice>1</callingDevice><calledDirectoryNumber>2</calledDirectoryNumber>".to_owned()),
            ("AnswerCall", c("callToBeAnswered")),
            ("ClearConnection", c("connectionToBeCleared")),
            ("ClearCall", c("callToBeCleared")),
            ("RetrieveCall", c("callToBeRetrieved")),
            ("AlternateCall", two.clone()),
            ("ConsultationCall", format!("{}<consultedDevice>3</consultedDevice>", c("existingCall"))),
            ("TransferCall", two.clone()),
            ("SingleStepTransferCall", format!("{}<transferredTo>3</transferredTo>", c("activeCall"))),
            ("ConferenceCall", two),
            ("DeflectCall", format!("{}<newDestination>3</newDestination>", c("callToBeDiverted"))),
            ("GenerateDigits", format!("{}<charactersToSend>12#</charactersToSend>", c("connectionToSendDigits"))),
        ] {
            assert!(read(&format!("<{name} xmlns='urn:x'>{inner}</{name}>")).is_ok(), "{name}");
        }
        assert!(read("<ParkCall/>") == Err(BadRequest::Unknown));
    }
}
