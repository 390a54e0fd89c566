//! What the switch did, as the events of ECMA-323: one message per monitor of each device that has a part in the call. Children stand
//! in the schema's order; devices are wrapped, connections are bare (ecss10-interfaces §3).

use std::collections::{BTreeMap, HashMap};

use ssw_core::{CallChange, CallEvent, Cause, EventKind, LegState, LegView, Merge};

use crate::csta::element::Element;

/// Most monitors of one session.
const MOST_MONITORS: usize = 200_000;

/// The monitors of a session.
#[derive(Debug, Default)]
pub(crate) struct Monitors {
    by_device: HashMap<String, Vec<u32>>,
    by_ref: HashMap<u32, String>,
    last: u32,
}

// === impl Monitors ===

impl Monitors {
    /// Starts a monitor; `None` when all places are taken. A device may have several.
    pub(crate) fn start(&mut self, device: &str) -> Option<u32> {
        if self.by_ref.len() >= MOST_MONITORS {
            return None;
        }
        self.last = self.last.checked_add(1)?;
        self.by_ref.insert(self.last, device.to_owned());
        self.by_device.entry(device.to_owned()).or_default().push(self.last);
        Some(self.last)
    }

    /// Stops a monitor; false if there is none of this reference.
    pub(crate) fn stop(&mut self, cross_ref: &str) -> bool {
        let Some((cross_ref, device)) = cross_ref.parse().ok().and_then(|number: u32| self.by_ref.remove_entry(&number)) else {
            return false;
        };
        if let Some(refs) = self.by_device.get_mut(&device) {
            refs.retain(|other| *other != cross_ref);
            if refs.is_empty() {
                self.by_device.remove(&device);
            }
        }
        true
    }

    fn of(&self, device: &str) -> &[u32] {
        self.by_device.get(device).map(Vec::as_slice).unwrap_or_default()
    }

    /// The messages that an event of the switch becomes.
    pub(crate) fn messages(&self, event: &EventKind) -> Vec<Element> {
        if self.by_ref.is_empty() {
            return Vec::new();
        }
        match event {
            EventKind::Call(call) => self.spread(&local_states(call), |local| call_event(call, local)),
            EventKind::Merged(merge) => self.spread(&states_after_merge(merge), |local| merge_event(merge, local)),
            _ => Vec::new(),
        }
    }

    /// One message per monitor of each device; `build` makes the children after the monitor's reference.
    fn spread(&self, locals: &BTreeMap<&str, LegState>, build: impl Fn(LegState) -> (&'static str, Vec<Element>)) -> Vec<Element> {
        let mut messages = Vec::new();
        for (device, local) in locals {
            let refs = self.of(device);
            if refs.is_empty() {
                continue;
            }
            let (name, children) = build(*local);
            for cross_ref in refs {
                let mut root = Element::new(name).with(Element::text("monitorCrossRefID", cross_ref.to_string()));
                root.children.extend(children.iter().cloned());
                messages.push(root);
            }
        }
        messages
    }
}

/// Each device's own state; where it has several legs, the changed one's, else that of one that is not released.
fn local_states(call: &CallEvent) -> BTreeMap<&str, LegState> {
    let mut states = BTreeMap::new();
    for leg in &call.legs {
        let state = states.entry(leg.device.as_str()).or_insert(leg.state);
        if *state == LegState::Released {
            *state = leg.state;
        }
    }
    states.insert(call.leg.device.as_str(), call.leg.state);
    states
}

fn states_after_merge(merge: &Merge) -> BTreeMap<&str, LegState> {
    let mut states = BTreeMap::from([(merge.device.as_str(), LegState::Released)]);
    for leg in &merge.legs {
        states.insert(leg.device.as_str(), leg.state);
    }
    states
}

fn call_event(call: &CallEvent, local: LegState) -> (&'static str, Vec<Element>) {
    let leg = &call.leg;
    let subject = |name| connection(name, &leg.call, &leg.id);
    let parties = || {
        let redirection = match call.last_redirection.as_str() {
            "" => Element::new("notRequired"),
            number => Element::text("numberDialed", number),
        };
        [
            device("callingDevice", &call.calling),
            device("calledDevice", &call.called),
            Element::new("lastRedirectionDevice").with(redirection),
        ]
    };
    let (name, mut children, why) = match &call.change {
        CallChange::ServiceInitiated => {
            ("ServiceInitiatedEvent", vec![subject("initiatedConnection"), device("initiatingDevice", &leg.device)], "makeCall")
        }
        CallChange::Originated => {
            let [calling, called, _] = parties();
            ("OriginatedEvent", vec![subject("originatedConnection"), calling, called], "newCall")
        }
        CallChange::Queued => {
            let mut children = vec![subject("queuedConnection"), device("queue", &leg.device)];
            children.extend(parties());
            ("QueuedEvent", children, "enteringDistribution")
        }
        CallChange::Delivered => {
            let mut children = vec![subject("connection"), device("alertingDevice", &leg.device)];
            children.extend(parties());
            ("DeliveredEvent", children, "newCall")
        }
        CallChange::Established => {
            let mut children = vec![subject("establishedConnection"), device("answeringDevice", &leg.device)];
            children.extend(parties());
            ("EstablishedEvent", children, "newCall")
        }
        CallChange::Held => ("HeldEvent", vec![subject("heldConnection"), device("holdingDevice", &leg.device)], "normal"),
        CallChange::Retrieved => {
            ("RetrievedEvent", vec![subject("retrievedConnection"), device("retrievingDevice", &leg.device)], "normal")
        }
        CallChange::Diverted { to } => {
            let mut children = vec![subject("connection"), device("divertingDevice", &leg.device), device("newDestination", to)];
            children.extend(parties());
            ("DivertedEvent", children, "redirected")
        }
        CallChange::Failed => {
            let mut children = vec![subject("failedConnection"), device("failingDevice", &leg.device)];
            children.extend(parties());
            ("FailedEvent", children, "destNotObtainable")
        }
        CallChange::ConnectionCleared => {
            ("ConnectionClearedEvent", vec![subject("droppedConnection"), device("releasingDevice", &leg.device)], "normalClearing")
        }
    };
    children.push(Element::text("localConnectionInfo", state_word(local)));
    children.push(Element::text("cause", call.cause.map_or(why, cause_word)));
    (name, children)
}

fn merge_event(merge: &Merge, local: LegState) -> (&'static str, Vec<Element>) {
    let transfer = merge.cause != Cause::Conference;
    // The device's own connection in an old call: a transfer drops it, a conference may carry it over.
    let own = |call: &str| {
        let dropped = merge.dropped.iter().find(|(old, _)| old == call).map(|(_, leg)| leg.as_str());
        let kept = merge.legs.iter().filter(|leg| leg.device == merge.device).find_map(|leg| came_from(merge, leg));
        let kept = kept.filter(|(old, _)| *old == call).map(|(_, leg)| leg);
        dropped.or(kept).unwrap_or(merge.device.as_str())
    };
    let mut children = vec![connection("primaryOldCall", &merge.primary, own(&merge.primary))];
    children.extend(merge.secondary.as_deref().map(|secondary| connection("secondaryOldCall", secondary, own(secondary))));
    let added = match merge.transferred_to.as_str() {
        "" => merge.legs.iter().find(|leg| came_from(merge, leg).is_some_and(|(call, _)| Some(call) == merge.secondary.as_deref())),
        number => merge.legs.iter().find(|leg| leg.device == number),
    };
    let added = added.map_or(merge.transferred_to.as_str(), |leg| leg.device.as_str());
    let (first, second, list) = if transfer {
        ("transferringDevice", "transferredToDevice", "transferredConnections")
    } else {
        ("conferencingDevice", "addedParty", "conferenceConnections")
    };
    children.extend([device(first, &merge.device), device(second, added)]);
    children.push(merge.legs.iter().fold(Element::new(list), |list, leg| {
        let old = came_from(merge, leg).map(|(call, id)| connection("oldConnection", call, id));
        list.with(
            Element::new("connectionListItem")
                .with(connection("newConnection", &leg.call, &leg.id))
                .with_some(old)
                .with(Element::new("endpoint").with(Element::text("deviceID", leg.device.as_str()))),
        )
    }));
    children.push(Element::text("localConnectionInfo", state_word(local)));
    let cause = if transfer && merge.secondary.is_none() { "singleStepTransfer" } else { cause_word(merge.cause) };
    children.push(Element::text("cause", cause));
    (if transfer { "TransferedEvent" } else { "ConferencedEvent" }, children)
}

/// The old connection of a leg of the resulting call.
fn came_from<'a>(merge: &'a Merge, leg: &LegView) -> Option<(&'a str, &'a str)> {
    merge.moved.iter().find(|(_, _, new)| *new == leg.id).map(|(call, old, _)| (call.as_str(), old.as_str()))
}

/// A connection.
pub(crate) fn connection(name: &'static str, call: &str, leg: &str) -> Element {
    Element::new(name).with(Element::text("callID", call)).with(Element::text("deviceID", leg))
}

/// A device as events and snapshots write it.
pub(crate) fn device(name: &'static str, alias: &str) -> Element {
    let inner = match alias {
        "" => Element::new("notKnown"),
        alias => Element::text("deviceIdentifier", alias).attribute("typeOfNumber", "dialingNumber"),
    };
    Element::new(name).with(inner)
}

/// A connection's state in ECMA-323.
pub(crate) fn state_word(state: LegState) -> &'static str {
    match state {
        LegState::Initiated => "initiated",
        LegState::Alerting => "alerting",
        LegState::Queued => "queued",
        LegState::Connected => "connected",
        LegState::Held => "hold",
        LegState::Failed => "fail",
        LegState::Released => "null",
    }
}

/// A cause in ECMA-323. The standard has none for a refused call; a device that takes no calls comes nearest.
fn cause_word(cause: Cause) -> &'static str {
    match cause {
        Cause::Normal => "normalClearing",
        Cause::Busy => "busy",
        Cause::NoAnswer => "callNotAnswered",
        Cause::Rejected => "doNotDisturb",
        Cause::CallerGaveUp => "callCancelled",
        Cause::AnsweredElsewhere => "callPickup",
        Cause::Unobtainable => "destNotObtainable",
        Cause::Redirected => "redirected",
        Cause::Transfer => "transfer",
        Cause::Conference => "conference",
        Cause::NoResources => "resourcesNotAvailable",
        Cause::Other => "normal",
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use ssw_core::Direction;

    use super::*;

    fn leg(call: &str, device: &str, state: LegState) -> LegView {
        LegView {
            id: device.into(),
            call: call.into(),
            device: device.into(),
            remote: String::new(),
            direction: Direction::Originating,
            state,
            cause: None,
            call_ref: String::new(),
            started_at: Timestamp::UNIX_EPOCH,
            answered_at: None,
            ended_at: None,
        }
    }

    fn monitored(devices: &[&str]) -> Monitors {
        let mut monitors = Monitors::default();
        for device in devices {
            monitors.start(device).unwrap();
        }
        monitors
    }

    fn names(root: &Element) -> Vec<&str> {
        root.children.iter().map(|child| child.name.as_ref()).collect()
    }

    #[test]
    fn every_event_has_its_children_in_the_schemas_order() {
        const PARTIES: [&str; 3] = ["callingDevice", "calledDevice", "lastRedirectionDevice"];
        let with_parties = |first: &[&'static str]| [first, &PARTIES].concat();
        for (change, name, children) in [
            (CallChange::ServiceInitiated, "ServiceInitiatedEvent", vec!["initiatedConnection", "initiatingDevice"]),
            (CallChange::Originated, "OriginatedEvent", vec!["originatedConnection", "callingDevice", "calledDevice"]),
            (CallChange::Queued, "QueuedEvent", with_parties(&["queuedConnection", "queue"])),
            (CallChange::Delivered, "DeliveredEvent", with_parties(&["connection", "alertingDevice"])),
            (CallChange::Established, "EstablishedEvent", with_parties(&["establishedConnection", "answeringDevice"])),
            (CallChange::Held, "HeldEvent", vec!["heldConnection", "holdingDevice"]),
            (CallChange::Retrieved, "RetrievedEvent", vec!["retrievedConnection", "retrievingDevice"]),
            (CallChange::Diverted { to: "3".into() }, "DivertedEvent", with_parties(&["connection", "divertingDevice", "newDestination"])),
            (CallChange::Failed, "FailedEvent", with_parties(&["failedConnection", "failingDevice"])),
            (CallChange::ConnectionCleared, "ConnectionClearedEvent", vec!["droppedConnection", "releasingDevice"]),
        ] {
            let event = EventKind::Call(CallEvent {
                call: "c1".into(),
                change,
                leg: leg("c1", "1", LegState::Held),
                legs: vec![leg("c1", "1", LegState::Held), leg("c1", "2", LegState::Connected)],
                calling: "1".into(),
                called: "2".into(),
                last_redirection: String::new(),
                cause: None,
            });
            let messages = monitored(&["1", "2", "3"]).messages(&event);
            assert_eq!(messages.len(), 2, "one for each device that has a part in the call");
            let expected = [&["monitorCrossRefID"], &children[..], &["localConnectionInfo", "cause"]].concat();
            for (message, (cross_ref, local)) in messages.iter().zip([("1", "hold"), ("2", "connected")]) {
                assert_eq!((message.name.as_ref(), names(message)), (name, expected.clone()));
                assert_eq!(message.child_text("monitorCrossRefID"), Some(cross_ref));
                assert_eq!(message.child_text("localConnectionInfo"), Some(local));
            }
        }
    }

    #[test]
    fn a_transfer_and_a_conference_name_old_and_new_connections() {
        let merge = |cause, legs: Vec<LegView>, dropped: &[(&str, &str)]| {
            EventKind::Merged(Merge {
                primary: "c1".into(),
                secondary: Some("c2".into()),
                into: "c1".into(),
                cause,
                device: "1".into(),
                transferred_to: String::new(),
                legs,
                moved: vec![
                    ("c1".into(), "2".into(), "2".into()),
                    ("c2".into(), "3".into(), "3".into()),
                    ("c1".into(), "1".into(), "1".into()),
                ],
                dropped: dropped.iter().map(|(call, leg)| ((*call).into(), (*leg).into())).collect(),
                calling: "2".into(),
                called: "3".into(),
            })
        };
        let others = || vec![leg("c1", "2", LegState::Connected), leg("c1", "3", LegState::Alerting)];
        let messages = monitored(&["1", "3"]).messages(&merge(Cause::Transfer, others(), &[("c1", "1"), ("c2", "1|2")]));
        let [leaving, other] = &messages[..] else { panic!("{messages:?}") };
        let children = [
            "monitorCrossRefID",
            "primaryOldCall",
            "secondaryOldCall",
            "transferringDevice",
            "transferredToDevice",
            "transferredConnections",
            "localConnectionInfo",
            "cause",
        ];
        assert_eq!((leaving.name.as_ref(), names(leaving)), ("TransferedEvent", children.to_vec()));
        assert_eq!(leaving.child_text("localConnectionInfo"), Some("null"));
        assert_eq!(other.child_text("localConnectionInfo"), Some("alerting"));
        assert_eq!(leaving.child("secondaryOldCall").unwrap().child_text("deviceID"), Some("1|2"));
        assert_eq!(leaving.child("transferredToDevice").unwrap().child_text("deviceIdentifier"), Some("3"));

        let three = [vec![leg("c1", "1", LegState::Connected)], others()].concat();
        let messages = monitored(&["2"]).messages(&merge(Cause::Conference, three, &[("c2", "1|2")]));
        let [seen] = &messages[..] else { panic!("{messages:?}") };
        assert_eq!(seen.name, "ConferencedEvent");
        assert_eq!(seen.child("addedParty").unwrap().child_text("deviceIdentifier"), Some("3"));
        assert_eq!(seen.child("conferenceConnections").unwrap().children.len(), 3);
    }

    #[test]
    fn a_device_may_have_several_monitors_and_each_stops_alone() {
        let mut monitors = monitored(&["1", "1"]);
        let event = EventKind::Call(CallEvent {
            call: "c1".into(),
            change: CallChange::Held,
            leg: leg("c1", "1", LegState::Held),
            legs: vec![leg("c1", "1", LegState::Held)],
            calling: "1".into(),
            called: "2".into(),
            last_redirection: String::new(),
            cause: None,
        });
        assert_eq!(monitors.messages(&event).len(), 2);
        assert!(monitors.stop("1") && !monitors.stop("1") && !monitors.stop("x"));
        assert_eq!(monitors.messages(&event).len(), 1);
        assert!(monitors.stop("2"));
        assert!(monitors.messages(&event).is_empty());
    }
}
