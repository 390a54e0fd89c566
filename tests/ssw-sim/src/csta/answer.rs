//! What the switch answers: the positive answers of ECMA-323 and ECMA-354, and `CSTAErrorCode` for every refusal of the switch.

use ssw_core::{CallView, LegView, Outcome, Refusal, RefusalCause};

use crate::csta::{
    element::Element,
    event::{connection, device, state_word},
};

/// An error: the category that is the child's name, and its value.
pub(crate) type ErrorCode = (&'static str, &'static str);

/// The application has no session.
pub(crate) const NO_SESSION: ErrorCode = ("security", "securityViolation");
/// The switch has no such service.
pub(crate) const NOT_SUPPORTED: ErrorCode = ("operation", "serviceNotSupported");
/// A child is missing, or the message is no XML.
pub(crate) const NOT_PROVIDED: ErrorCode = ("operation", "atLeastOneConditionalParameterNotProvided");
/// A parameter has a value that it cannot have.
pub(crate) const BAD_VALUE: ErrorCode = ("operation", "invalidParameterValue");
/// No such monitor.
pub(crate) const NO_SUCH_MONITOR: ErrorCode = ("operation", "invalidMonitorCrossRefID");
/// No such device.
pub(crate) const NO_SUCH_DEVICE: ErrorCode = ("operation", "invalidDeviceID");
/// No such device to call from.
pub(crate) const NO_SUCH_CALLER: ErrorCode = ("operation", "invalidCallingDeviceID");
/// No such device to call.
pub(crate) const NO_SUCH_CALLED: ErrorCode = ("operation", "invalidCalledDeviceID");
/// All monitors are in use.
pub(crate) const NO_MORE_MONITORS: ErrorCode = ("systemResourceAvailibility", "overallMonitorLimitExceeded");

/// An answer without content.
pub(crate) fn empty(name: &'static str) -> Element {
    Element::new(name)
}

/// An answer that names one connection.
pub(crate) fn with_connection(name: &'static str, child: &'static str, outcome: &Outcome) -> Element {
    Element::new(name).with(connection(child, &outcome.call, &outcome.leg))
}

/// `CSTAErrorCode`; `word` is the vendor's own for it.
pub(crate) fn error((category, value): ErrorCode, word: Option<&str>) -> Element {
    let private = word.map(|word| Element::new("extensions").with(Element::new("privateData").with(Element::text("private", word))));
    Element::new("CSTAErrorCode").with(Element::text(category, value)).with_some(private)
}

/// The standard's category and value for a refusal. `no_such_device` is the value that fits the service's parameter.
pub(crate) fn error_code(refusal: &Refusal, no_such_device: ErrorCode) -> ErrorCode {
    match refusal.cause {
        RefusalCause::NoSuchSubscriber => no_such_device,
        RefusalCause::NoSuchCall => ("operation", "invalidConnectionID"),
        RefusalCause::NoSuchConference | RefusalCause::NoSuchParticipant => ("operation", "invalidDestination"),
        RefusalCause::ConferenceFull => ("systemResourceAvailibility", "conferenceMemberLimitExceeded"),
        RefusalCause::ConferenceLocked | RefusalCause::BadState => ("stateIncompatibility", "invalidObjectState"),
        RefusalCause::NoRight => ("operation", "privilegeViolationSpecifiedDevice"),
        RefusalCause::LicenceLimit | RefusalCause::DomainLimit => ("subscribedResourceAvailability", "resourceLimitExceeded"),
        RefusalCause::LicenceExpired => ("systemResourceAvailibility", "resourceOutOfService"),
        RefusalCause::Busy | RefusalCause::ObjectLocked => ("systemResourceAvailibility", "resourceBusy"),
        RefusalCause::AlreadyExists => ("operation", "generic"),
        RefusalCause::NotSupported => NOT_SUPPORTED,
    }
}

/// `StartApplicationSessionPosResponse`.
pub(crate) fn session_started(session: &str, version: &str, seconds: u64) -> Element {
    Element::new("StartApplicationSessionPosResponse")
        .with(Element::text("sessionID", session))
        .with(Element::text("actualProtocolVersion", version))
        .with(Element::text("actualSessionDuration", seconds.to_string()))
}

/// `ResetApplicationSessionTimerPosResponse`.
pub(crate) fn timer_reset(seconds: u64) -> Element {
    Element::new("ResetApplicationSessionTimerPosResponse").with(Element::text("actualSessionDuration", seconds.to_string()))
}

/// A negative answer of the session services.
pub(crate) fn session_refused(name: &'static str, reason: &'static str) -> Element {
    Element::new(name).with(Element::new("errorCode").with(Element::text("definedError", reason)))
}

/// `ApplicationSessionTerminated`, which the switch sends on its own.
pub(crate) fn session_terminated(session: &str, reason: &'static str) -> Element {
    Element::new("ApplicationSessionTerminated")
        .with(Element::text("sessionID", session))
        .with(Element::new("sessionTermReason").with(Element::text("definedTermReason", reason)))
}

/// `SnapshotDeviceResponse`: each call of the device with the states of the device's connection and of the others.
pub(crate) fn snapshot_device(alias: &str, calls: &[(LegView, CallView)]) -> Element {
    let data = calls.iter().fold(Element::new("snapshotData"), |data, (leg, call)| {
        let others: Vec<_> = call.live_legs().filter(|other| other.id != leg.id).collect();
        let states = std::iter::once(leg).chain(others.iter().copied()).fold(Element::new("compoundCallState"), |states, leg| {
            states.with(Element::text("localConnectionState", state_word(leg.state)))
        });
        let mut endpoints = others.iter().map(|other| other.device.as_str()).filter(|device| *device != alias);
        let endpoint = device("endpointDevice", endpoints.next().unwrap_or(leg.remote.as_str()));
        data.with(
            Element::new("snapshotDeviceResponseInfo")
                .with(connection("connectionIdentifier", &leg.call, &leg.id))
                .with(endpoint)
                .with(Element::new("localCallState").with(states)),
        )
    });
    Element::new("SnapshotDeviceResponse").with(Element::new("crossRefIDorSnapshotData").with(data))
}

/// `SnapshotCallResponse`: each connection of the call.
pub(crate) fn snapshot_call(call: &CallView) -> Element {
    let data = call.live_legs().fold(Element::new("snapshotData"), |data, leg| {
        data.with(
            Element::new("snapshotCallResponseInfo")
                .with(device("deviceOnCall", &leg.device))
                .with(connection("callIdentifier", &leg.call, &leg.id))
                .with(Element::text("localConnectionInfo", state_word(leg.state))),
        )
    });
    Element::new("SnapshotCallResponse")
        .with(Element::new("crossRefIDorSnapshotData").with(data))
        .with(device("callingDevice", &call.calling))
        .with(device("calledDevice", &call.called))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_a_category_of_the_standard_and_keeps_the_vendors_word() {
        for cause in RefusalCause::ALL {
            let code = error_code(&Refusal::new(cause, "text"), NO_SUCH_CALLED);
            let error = error(code, Some(cause.word()));
            let categories = [
                "operation",
                "security",
                "stateIncompatibility",
                "systemResourceAvailibility",
                "subscribedResourceAvailability",
                "performanceManagement",
            ];
            assert!(categories.contains(&error.children[0].name.as_ref()), "{cause:?}");
            assert_eq!(error.find("private").unwrap().text, cause.word());
        }
    }

    #[test]
    fn a_device_without_calls_has_an_empty_snapshot() {
        let mut out = String::new();
        snapshot_device("1001", &[]).write_root("", false, "urn:x", &mut out);
        assert_eq!(
            out,
            "<SnapshotDeviceResponse xmlns=\"urn:x\"><crossRefIDorSnapshotData><snapshotData/></crossRefIDorSnapshotData></SnapshotDeviceResponse>"
        );
    }
}
