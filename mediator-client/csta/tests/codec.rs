//! The codec against the documented sample, the variants that other switches were seen to write, and arbitrary input.

#![expect(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "a failed helper is a failed test")]

use std::{borrow::Cow, time::Duration};

use ecss_csta::message::{
    Answer, AnswerBody, Connection, ConnectionState, CstaError, Device, Event, EventKind, Incoming, Request, Service, SnapshotLeg,
    event::ConnectionItem,
};
use ecss_switch::{Dialect, Domain, RefusalReason};
use proptest::prelude::*;

const ED3: &str = "http://www.ecma-international.org/standards/ecma-323/csta/ed3";

fn event(text: &str) -> Event<'_> {
    match Incoming::read(text.as_bytes()).unwrap() {
        Incoming::Event(event) => event,
        other => panic!("no event: {other:?}"),
    }
}

fn answer(text: &str) -> Answer {
    match Incoming::read(text.as_bytes()).unwrap() {
        Incoming::Answer(answer) => answer,
        other => panic!("no answer: {other:?}"),
    }
}

fn id(text: &str) -> Option<Device<'_>> {
    Some(Device::Id(text.into()))
}

fn connection<'a>(call: &'a str, device: &'a str) -> Connection<'a> {
    let part = |text: &'a str| (!text.is_empty()).then_some(Cow::Borrowed(text));
    Connection { call: part(call), device: part(device) }
}

#[test]
fn the_first_message_is_the_documented_one() {
    let documented = r#"<?xml version="1.0" encoding="UTF-8" standalone="yes"?>
  <StartApplicationSession xmlns="http://www.ecma-international.org/standards/ecma-354/appl_session" xmlns:ns1="http://www.eltex.org/csta">
    <applicationInfo><applicationID>Eltex ECSS-10 CSTA adapter</applicationID>
      <applicationSpecificInfo><ns1:SessionLoginInfo xmlns:ns1="http://www.eltex.org/csta">
        <ns1:userName>p.city</ns1:userName><ns1:password>1234</ns1:password>
      </ns1:SessionLoginInfo></applicationSpecificInfo></applicationInfo>
    <requestedProtocolVersions><protocolVersion>http://www.ecma-international.org/standards/ecma-323/csta/ed3</protocolVersion></requestedProtocolVersions>
    <requestedSessionDuration>300</requestedSessionDuration>
  </StartApplicationSession>"#;
    let request = Request::StartSession { domain: Domain::parse("p.city").unwrap(), password: "1234".into(), seconds: 300 };
    let mut written = String::new();
    request.write(ED3, &mut written);
    let packed = documented.split('\n').map(str::trim).collect::<String>();
    assert_eq!(written, packed);
    assert!(!format!("{request:?}").contains("1234"), "the password does not print");
    let mut again = String::new();
    Request::read(documented.as_bytes()).unwrap().unwrap().write(ED3, &mut again);
    assert_eq!(again, packed);
}

#[test]
fn an_event_is_read_in_the_standards_form() {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><DeliveredEvent xmlns=\"{ED3}\"><monitorCrossRefID>7</monitorCrossRefID>\
         <connection><callID>0_99f261b4</callID><deviceID typeOfNumber=\"dialingNumber\">1002</deviceID></connection>\
         <alertingDevice><deviceIdentifier typeOfNumber=\"dialingNumber\">1002</deviceIdentifier></alertingDevice>\
         <callingDevice><deviceIdentifier>1001</deviceIdentifier></callingDevice><calledDevice><notKnown/></calledDevice>\
         <lastRedirectionDevice><numberDialed>1003</numberDialed></lastRedirectionDevice>\
         <localConnectionInfo>alerting</localConnectionInfo><correlatorData>00</correlatorData><userData><string>x</string></userData>\
         <cause>newCall</cause><servicesPermitted><rcvr/></servicesPermitted></DeliveredEvent>"
    );
    let read = event(&text);
    assert_eq!(read.kind, EventKind::Delivered);
    assert_eq!(read.cross_ref, "7");
    assert_eq!(read.connection, Some(connection("0_99f261b4", "1002")));
    assert_eq!((&read.subject, &read.calling, &read.called), (&id("1002"), &id("1001"), &Some(Device::NotKnown)));
    assert_eq!(read.last_redirection, id("1003"));
    assert_eq!((read.local, read.cause.as_deref()), (Some(ConnectionState::Alerting), Some("newCall")));
    assert!(matches!(read.connection.unwrap().call, Some(Cow::Borrowed(_))), "texts are borrowed from the frame");
}

#[test]
fn an_event_is_read_whatever_its_namespace_prefix_order_and_gaps() {
    let variants = [
        // another edition, a prefix, swapped ids
        "<ns3:EstablishedEvent xmlns:ns3='http://www.ecma-internatonal.org/standards/ecma-323/csta/ed6'><ns3:monitorCrossRefID>7\
         </ns3:monitorCrossRefID><ns3:establishedConnection><ns3:deviceID>1002</ns3:deviceID><ns3:callID>-12</ns3:callID>\
         </ns3:establishedConnection><ns3:answeringDevice><ns3:deviceIdentifier>1002</ns3:deviceIdentifier></ns3:answeringDevice>\
         </ns3:EstablishedEvent>",
        // an undeclared prefix, the reference last, bare devices
        "<csta:EstablishedEvent><csta:answeringDevice>1002</csta:answeringDevice><csta:establishedConnection>\
         <csta:callID>-12</csta:callID><csta:deviceID>1002</csta:deviceID></csta:establishedConnection>\
         <csta:monitorCrossRefID>7</csta:monitorCrossRefID></csta:EstablishedEvent>",
        // no namespace, white space, a comment, CDATA, references, a wrapped device inside the connection, unknown children
        "\u{feff}<EstablishedEvent>\n  <!-- -- x -->\n<extensions><privateData><private><callID>99</callID></private></privateData></extensions>\
         <monitorCrossRefID> <![CDATA[7]]> </monitorCrossRefID>\n<establishedConnection><callID>&#45;1&#x32;</callID>\
         <deviceID><deviceIdentifier>1002</deviceIdentifier></deviceID></establishedConnection>\
         <answeringDevice><deviceIdentifier>1002</deviceIdentifier><associatedNumber>5</associatedNumber></answeringDevice>\
         </EstablishedEvent>",
    ];
    for text in variants {
        let read = event(text);
        assert_eq!(read.kind, EventKind::Established);
        assert_eq!((read.cross_ref.as_ref(), read.connection, read.subject), ("7", Some(connection("-12", "1002")), id("1002")), "{text}");
    }
}

#[test]
fn missing_and_empty_children_are_no_errors() {
    let read = event("<ConnectionClearedEvent/>");
    assert_eq!(read, Event::new(EventKind::ConnectionCleared));
    let read = event(
        "<ConnectionClearedEvent><droppedConnection><callID>32</callID><deviceID/></droppedConnection><releasingDevice/>\
         <localConnectionInfo>null</localConnectionInfo><cause/></ConnectionClearedEvent>",
    );
    assert_eq!(read.connection, Some(connection("32", "")));
    assert_eq!((read.subject, read.local, read.cause), (None, Some(ConnectionState::Null), None));
}

#[test]
fn transfers_are_read_in_both_spellings_and_written_in_one() {
    for name in ["TransferedEvent", "TransferredEvent"] {
        let text = format!(
            "<{name}><monitorCrossRefID>1</monitorCrossRefID><primaryOldCall><callID>a</callID><deviceID>1001</deviceID></primaryOldCall>\
             <secondaryOldCall><callID>b</callID><deviceID>1001</deviceID></secondaryOldCall>\
             <transferringDevice><deviceIdentifier>1001</deviceIdentifier></transferringDevice>\
             <transferredToDevice><deviceIdentifier>1003</deviceIdentifier></transferredToDevice>\
             <transferredConnections><connectionListItem><newConnection><callID>b</callID><deviceID>1002</deviceID></newConnection>\
             <oldConnection><callID>a</callID><deviceID>1002</deviceID></oldConnection><endpoint><deviceID>1002</deviceID></endpoint>\
             </connectionListItem><connectionListItem><newConnection><deviceID>1003</deviceID><callID>b</callID></newConnection>\
             </connectionListItem></transferredConnections></{name}>"
        );
        let read = event(&text);
        assert_eq!(read.kind, EventKind::Transferred);
        assert_eq!(read.secondary, Some(connection("b", "1001")));
        let [first, second] = &read.connections[..] else { panic!("{read:?}") };
        assert_eq!((&first.new, first.old.as_ref()), (&connection("b", "1002"), Some(&connection("a", "1002"))));
        assert_eq!((&second.new, &second.old, &first.endpoint), (&connection("b", "1003"), &None, &id("1002")));
        let mut written = String::new();
        read.write(ED3, &mut written);
        assert!(written.contains("<TransferedEvent ") && written.contains("<transferredConnections>"));
    }
}

#[test]
fn answers_are_read_in_their_forms() {
    assert_eq!(
        answer(
            "<x:MakeCallResponse xmlns:x='ed5'><x:callingDevice><x:callID>1</x:callID><x:deviceID>1001</x:deviceID></x:callingDevice></x:MakeCallResponse>"
        ),
        Answer { service: Some(Service::MakeCall), body: AnswerBody::Call(connection("1", "1001")) }
    );
    assert_eq!(answer("<HoldCallResponse/>"), Answer { service: Some(Service::HoldCall), body: AnswerBody::Done });
    let started = answer(
        "<StartApplicationSessionPosResponse><sessionID>s1</sessionID><actualProtocolVersion>x</actualProtocolVersion>\
         <actualSessionDuration>120</actualSessionDuration></StartApplicationSessionPosResponse>",
    );
    assert_eq!(started.body, AnswerBody::Session { id: Some("s1".into()), duration: Some(Duration::from_secs(120)) });
    assert!(!format!("{started:?}").contains("s1"), "a session id does not print");
    let refused = "<StartApplicationSessionNegResponse><errorCode><definedError>invalidApplicationInfo</definedError></errorCode></StartApplicationSessionNegResponse>";
    assert_eq!(answer(refused).body, AnswerBody::SessionRefused { reason: "invalidApplicationInfo".into() });
    for empty in ["<snapshotData/>", "<crossRefIDorSnapshotData><snapshotData/></crossRefIDorSnapshotData>", ""] {
        let read = answer(&format!("<SnapshotDeviceResponse>{empty}</SnapshotDeviceResponse>"));
        assert_eq!(read.body, AnswerBody::Snapshot { calling: None, legs: vec![] });
    }
    let legs = answer(
        "<SnapshotDeviceResponse><crossRefIDorSnapshotData><snapshotData><snapshotDeviceResponseInfo><connectionIdentifier><callID>1</callID>\
         <deviceID>1001</deviceID></connectionIdentifier><localCallState><compoundCallState><connectionState>hold</connectionState>\
         <connectionState>connected</connectionState></compoundCallState></localCallState></snapshotDeviceResponseInfo></snapshotData>\
         </crossRefIDorSnapshotData></SnapshotDeviceResponse>",
    );
    let leg = SnapshotLeg { connection: connection("1", "1001"), state: Some(ConnectionState::Hold), ..SnapshotLeg::default() };
    assert_eq!(legs.body, AnswerBody::Snapshot { calling: None, legs: vec![leg] });
}

#[test]
fn errors_become_stable_reasons_and_the_vendors_word_wins() {
    let dialect = Dialect::built_in("sim").unwrap();
    let reason = |inside: &str| match answer(&format!("<CSTAErrorCode>{inside}</CSTAErrorCode>")).body {
        AnswerBody::Error(error) => error.reason(&dialect),
        other => panic!("{other:?}"),
    };
    for (inside, expected) in [
        ("<operation>invalidCalledDeviceID</operation>", RefusalReason::UnknownAlias),
        ("<operation>invalidDeviceID</operation>", RefusalReason::UnknownAlias),
        ("<operation>invalidCallingDeviceID</operation>", RefusalReason::UnknownAlias),
        ("<operation>invalidConnectionID</operation>", RefusalReason::UnknownCall),
        ("<operation>invalidCallID</operation>", RefusalReason::UnknownCall),
        ("<operation>privilegeViolationSpecifiedDevice</operation>", RefusalReason::MissingRight),
        ("<operation>serviceNotSupported</operation>", RefusalReason::NotSupported),
        ("<stateIncompatibility>invalidObjectState</stateIncompatibility>", RefusalReason::WrongState),
        ("<stateIncompatibility>invalidConnectionIDForActiveCall</stateIncompatibility>", RefusalReason::UnknownCall),
        ("<stateIncompatibility>generic</stateIncompatibility>", RefusalReason::WrongState),
        ("<stateIncompatibility>noCallToAnswer</stateIncompatibility>", RefusalReason::WrongState),
        ("<systemResourceAvailibility>resourceBusy</systemResourceAvailibility>", RefusalReason::Busy),
        ("<systemResourceAvailability>networkBusy</systemResourceAvailability>", RefusalReason::Busy),
        ("<subscribedResourceAvailability>resourceLimitExceeded</subscribedResourceAvailability>", RefusalReason::LimitReached),
        ("<security>generic</security>", RefusalReason::MissingRight),
        ("<unspecified/>", RefusalReason::Other),
        ("", RefusalReason::Other),
        (
            "<operation>generic</operation><extensions><privateData><private>licence_limit</private></privateData></extensions>",
            RefusalReason::LicenceExhausted,
        ),
        (
            "<operation>invalidDeviceID</operation><extensions><privateData><private>whatever</private></privateData></extensions>",
            RefusalReason::UnknownAlias,
        ),
        ("<operation>no_such_conference</operation>", RefusalReason::UnknownConference),
    ] {
        assert_eq!(reason(inside), expected, "{inside}");
    }
}

fn text() -> impl Strategy<Value = String> {
    "[!-~а-я]([ -~а-я]{0,12}[!-~а-я])?"
}

fn connections() -> impl Strategy<Value = Connection<'static>> {
    (prop::option::of(text()), prop::option::of(text()))
        .prop_map(|(call, device)| Connection { call: call.map(Cow::Owned), device: device.map(Cow::Owned) })
}

fn devices() -> impl Strategy<Value = Option<Device<'static>>> {
    prop_oneof![
        Just(None),
        text().prop_map(|id| Some(Device::Id(id.into()))),
        Just(Some(Device::NotKnown)),
        Just(Some(Device::Restricted)),
        Just(Some(Device::NotRequired)),
        Just(Some(Device::NotSpecified)),
    ]
}

fn states() -> impl Strategy<Value = Option<ConnectionState>> {
    prop::option::of(prop::sample::select(ConnectionState::ALL.to_vec()))
}

fn items() -> impl Strategy<Value = Vec<ConnectionItem<'static>>> {
    let item =
        (connections(), prop::option::of(connections()), devices()).prop_map(|(new, old, endpoint)| ConnectionItem { new, old, endpoint });
    prop::collection::vec(item, 0..5)
}

fn events() -> impl Strategy<Value = Event<'static>> {
    let kind = prop::sample::select(EventKind::ALL.to_vec());
    let texts = (prop::option::of(text()), prop::option::of(text()), prop::option::of(text()));
    let parties = (devices(), devices(), devices(), devices(), devices());
    let calls = (prop::option::of(connections()), prop::option::of(connections()), items());
    (kind, texts, parties, calls, states()).prop_map(|(kind, texts, parties, calls, local)| {
        let merges = matches!(kind, EventKind::Transferred | EventKind::Conferenced);
        let unnamed = matches!(kind, EventKind::Originated | EventKind::CallCleared);
        Event {
            kind,
            cross_ref: texts.0.unwrap_or_default().into(),
            connection: calls.0,
            subject: parties.0.filter(|_| !unnamed),
            calling: parties.1,
            called: parties.2,
            last_redirection: parties.3,
            target: parties.4,
            secondary: calls.1,
            connections: if merges { calls.2 } else { vec![] },
            local,
            cause: texts.1.map(Cow::Owned),
            at: texts.2.map(Cow::Owned),
        }
    })
}

fn answers() -> impl Strategy<Value = Answer> {
    let some = |service, body| Answer { service: Some(service), body };
    let leg = |device: bool| {
        (connections(), prop::option::of(text()), prop::option::of(text()), states()).prop_map(
            move |(connection, named, endpoint, state)| SnapshotLeg { connection, device: named.filter(|_| !device), endpoint, state },
        )
    };
    let seconds = prop::option::of((1_u64..100_000).prop_map(Duration::from_secs));
    prop_oneof![
        (prop::option::of(text()), seconds.clone())
            .prop_map(move |(id, duration)| some(Service::StartApplicationSession, AnswerBody::Session { id, duration })),
        seconds.prop_map(move |duration| some(Service::ResetApplicationSessionTimer, AnswerBody::Session { id: None, duration })),
        text().prop_map(move |reason| some(Service::StartApplicationSession, AnswerBody::SessionRefused { reason })),
        text().prop_map(move |cross_ref| some(Service::MonitorStart, AnswerBody::Monitor { cross_ref })),
        (
            connections(),
            prop::sample::select(vec![
                Service::MakeCall,
                Service::ConsultationCall,
                Service::ConferenceCall,
                Service::TransferCall,
                Service::SingleStepTransferCall
            ])
        )
            .prop_filter("a call without ids is no call", |(connection, _)| *connection != Connection::default())
            .prop_map(move |(connection, service)| some(service, AnswerBody::Call(connection))),
        (prop::option::of(text()), prop::collection::vec(leg(false), 0..4))
            .prop_map(move |(calling, legs)| some(Service::SnapshotCall, AnswerBody::Snapshot { calling, legs })),
        prop::collection::vec(leg(true), 0..4)
            .prop_map(move |legs| some(Service::SnapshotDevice, AnswerBody::Snapshot { calling: None, legs })),
        prop::sample::select(vec![Service::HoldCall, Service::ClearCall, Service::MonitorStop, Service::GenerateDigits])
            .prop_map(move |service| some(service, AnswerBody::Done)),
        (prop::sample::select(vec!["operation", "stateIncompatibility", "systemResourceAvailibility"]), text(), prop::option::of(text()))
            .prop_map(|(category, value, vendor)| Answer {
                service: None,
                body: AnswerBody::Error(CstaError { category: category.into(), value, vendor: vendor.unwrap_or_default() })
            }),
    ]
}

fn requests() -> impl Strategy<Value = Request> {
    let two = || (connections(), connections());
    let one = |make: fn(Connection<'static>) -> Request| connections().prop_map(make);
    let pair = |make: fn(Connection<'static>, String) -> Request| (connections(), text()).prop_map(move |(a, b)| make(a, b));
    prop_oneof![
        ("[a-z.]{1,20}", text(), 1_u64..9999).prop_map(|(domain, password, seconds)| Request::StartSession {
            domain: Domain::parse(&domain).unwrap(),
            password: password.into(),
            seconds
        }),
        (text(), 1_u64..9999).prop_map(|(session, seconds)| Request::RenewSession { session: session.into(), seconds }),
        text().prop_map(|session| Request::StopSession { session: session.into() }),
        text().prop_map(|device| Request::MonitorStart { device }),
        text().prop_map(|cross_ref| Request::MonitorStop { cross_ref }),
        text().prop_map(|call| Request::SnapshotCall { call }),
        text().prop_map(|device| Request::SnapshotDevice { device }),
        (text(), text()).prop_map(|(calling, called)| Request::MakeCall { calling, called, auto_originate: "prompt".into() }),
        one(Request::AnswerCall),
        one(Request::ClearConnection),
        text().prop_map(|call| Request::ClearCall { call }),
        one(Request::HoldCall),
        one(Request::RetrieveCall),
        two().prop_map(|(held, active)| Request::AlternateCall { held, active }),
        pair(|existing, consulted| Request::ConsultationCall { existing, consulted }),
        two().prop_map(|(held, active)| Request::TransferCall { held, active }),
        pair(|active, to| Request::SingleStepTransferCall { active, to }),
        two().prop_map(|(held, active)| Request::ConferenceCall { held, active }),
        pair(|diverted, to| Request::DeflectCall { diverted, to }),
        pair(|connection, digits| Request::GenerateDigits { connection, digits }),
    ]
}

/// What is done to a valid message to make it an invalid one.
fn mutated(mut message: Vec<u8>, changes: &[(usize, u8, u8)]) -> Vec<u8> {
    for (at, octet, how) in changes {
        if message.is_empty() {
            break;
        }
        let at = at % message.len();
        match how % 4 {
            0 => message[at] = *octet,
            1 => drop(message.remove(at)),
            2 => message.insert(at, *octet),
            _ => message.truncate(at),
        }
    }
    message
}

fn read_anything(message: &[u8]) {
    let _either = Incoming::read(message);
    let _either = Request::read(message);
}

proptest! {
    #[test]
    fn every_event_that_can_be_written_is_read_back(event in events()) {
        let mut written = String::new();
        event.write(ED3, &mut written);
        match Incoming::read(written.as_bytes()) {
            Ok(Incoming::Event(read)) => prop_assert_eq!(read, event),
            other => prop_assert!(false, "{:?} of {}", other, written),
        }
    }

    #[test]
    fn every_answer_that_can_be_written_is_read_back(answer in answers()) {
        let mut written = String::new();
        answer.write(ED3, &mut written);
        match Incoming::read(written.as_bytes()) {
            Ok(Incoming::Answer(read)) => prop_assert_eq!(read, answer, "{}", written),
            other => prop_assert!(false, "{:?} of {}", other, written),
        }
    }

    #[test]
    fn every_request_that_can_be_written_is_read_back(request in requests()) {
        let mut written = String::new();
        request.write("urn:x", &mut written);
        let read = Request::read(written.as_bytes()).unwrap().unwrap();
        let mut again = String::new();
        read.write("urn:x", &mut again);
        prop_assert_eq!(again, written);
    }

    #[test]
    fn arbitrary_octets_are_read_or_refused_but_never_panic(message: Vec<u8>) {
        read_anything(&message);
    }

    #[test]
    fn mutated_messages_are_read_or_refused_but_never_panic(
        event in events(),
        answer in answers(),
        request in requests(),
        changes in prop::collection::vec((any::<usize>(), any::<u8>(), any::<u8>()), 1..6),
    ) {
        let mut texts = [String::new(), String::new(), String::new()];
        event.write(ED3, &mut texts[0]);
        answer.write(ED3, &mut texts[1]);
        request.write(ED3, &mut texts[2]);
        for text in texts {
            let message = mutated(text.into_bytes(), &changes);
            read_anything(&message);
            let shown = String::from_utf8_lossy(&message);
            let hidden = ecss_csta::message::redacted(&shown);
            prop_assert!(hidden.len() <= shown.len() + 3 * 64);
        }
    }
}
