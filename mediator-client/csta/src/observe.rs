//! From events and snapshots of CSTA to observations of calls. The same change is seen by the monitor of each party: an event
//! becomes the same observations whichever of them saw it. ECMA-269's names are fixed; words beyond them are the dialect's.

use std::{borrow::Cow, collections::HashMap};

use ecss_switch::{
    Alias, Dialect, Domain, Observation, SwitchCallId, SwitchEvent, SwitchLegId,
    event::{CallsMerged, Cause, Direction, LegObservation, LegState},
};
use jiff::Timestamp;

use crate::message::{Connection, ConnectionState, Device, Event, EventKind, SnapshotLeg, event::ConnectionItem};

/// The most calls whose legs' states are kept for the next transfer or conference.
const MOST_CALLS: usize = 16_384;
/// The most legs that are kept of one call.
const MOST_LEGS: usize = 64;

/// Why an event says nothing that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It names no call.
    #[error("an event names no call")]
    Call,
    /// It names neither the connection's device nor the device that acts.
    #[error("an event names no connection")]
    Leg,
}

impl Unusable {
    /// One word for logging once per kind.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Call => "event without call",
            Self::Leg => "event without connection",
        }
    }
}

/// How devices are written and read.
#[derive(Debug, Clone)]
pub struct DeviceForm {
    before: String,
    after: String,
    domain: Domain,
}

impl DeviceForm {
    /// The dialect's form (`{alias}`, `{alias}@{domain}`, …).
    pub fn new(dialect: &Dialect, domain: &Domain) -> Self {
        let form = dialect.csta.device.replace("{domain}", domain.as_str());
        let (before, after) = form.split_once("{alias}").unwrap_or(("", ""));
        Self { before: before.to_owned(), after: after.to_owned(), domain: domain.clone() }
    }

    /// The device as a request writes it.
    pub fn write(&self, alias: &Alias) -> String {
        format!("{}{alias}{}", self.before, self.after)
    }

    /// The alias in a device's text: out of the NID form, the dialect's form, a URI of our domain; else the text itself.
    pub fn read(&self, text: &str) -> Option<Alias> {
        Alias::parse(self.number(text)).ok()
    }

    fn number<'t>(&self, text: &'t str) -> &'t str {
        let text = nid_number(text).unwrap_or(text);
        let inner = text.strip_prefix(&*self.before).and_then(|text| text.strip_suffix(&*self.after));
        let text = inner.filter(|inner| !inner.is_empty()).unwrap_or(text);
        let text = ["sip:", "sips:", "tel:"].iter().find_map(|scheme| text.strip_prefix(scheme)).unwrap_or(text);
        match text.rsplit_once('@') {
            Some((number, host)) if host == self.domain.as_str() && !number.is_empty() => number,
            _ => text,
        }
    }
}

/// The number in `N<1001>Name;displayNumber=…;noa=nk`.
fn nid_number(text: &str) -> Option<&str> {
    let number = text.strip_prefix('N')?.strip_prefix('<')?;
    number.split_once('>').map(|(number, _)| number).filter(|number| !number.is_empty())
}

/// Turns events into observations. Keeps only what a later transfer or conference does not tell again: which legs do not talk.
#[derive(Debug)]
pub struct Observer {
    domain: Domain,
    form: DeviceForm,
    causes: std::collections::BTreeMap<String, Vec<String>>,
    silent: HashMap<SwitchCallId, Vec<(SwitchLegId, LegState)>>,
}

impl Observer {
    /// An observer of one domain.
    pub fn new(dialect: &Dialect, domain: &Domain) -> Self {
        Self { domain: domain.clone(), form: DeviceForm::new(dialect, domain), causes: dialect.words.cause.clone(), silent: HashMap::new() }
    }

    /// How devices are written.
    pub fn form(&self) -> &DeviceForm {
        &self.form
    }

    /// Forgets the legs' states: events were missed.
    pub fn reset(&mut self) {
        self.silent = HashMap::new();
    }

    /// What an event says. `monitored` is the device whose monitor saw it, where known.
    pub fn observe(&mut self, event: &Event<'_>, monitored: Option<&Alias>) -> Result<SwitchEvent, Unusable> {
        let at = event.at.as_deref().and_then(|at| at.parse::<Timestamp>().ok());
        let observation = match event.kind {
            EventKind::Transferred | EventKind::Conferenced => Observation::Merged(self.merged(event, monitored)?),
            EventKind::CallCleared => {
                let call = call_of(event.connection.as_ref()).ok_or(Unusable::Call)?;
                self.silent.remove(&call);
                Observation::CallReleased { call, cause: event.cause.as_deref().map(|cause| self.cause(cause)) }
            }
            kind => Observation::Leg(self.leg(kind, event, at)?),
        };
        Ok(SwitchEvent { domain: self.domain.clone(), at, observation })
    }

    fn leg(&mut self, kind: EventKind, event: &Event<'_>, at: Option<Timestamp>) -> Result<LegObservation, Unusable> {
        let call = call_of(event.connection.as_ref()).ok_or(Unusable::Call)?;
        let alias = |device: Option<&Device<'_>>| device.and_then(Device::id).and_then(|id| self.form.read(id));
        let (calling, called) = (alias(event.calling.as_ref()), alias(event.called.as_ref()));
        let device = match kind {
            EventKind::Originated => calling.clone(),
            // The subject is the trunk.
            EventKind::NetworkReached => called.clone(),
            _ => alias(event.subject.as_ref()),
        };
        let text = event.connection.as_ref().and_then(|connection| connection.device.as_deref());
        let leg = text.and_then(leg_id).or_else(|| device.as_ref().and_then(|device| SwitchLegId::parse(device.as_str()).ok()));
        let leg = leg.ok_or(Unusable::Leg)?;
        let state = match kind {
            EventKind::ServiceInitiated | EventKind::NetworkReached => LegState::Initiated,
            EventKind::Delivered => LegState::Alerting,
            EventKind::Held => LegState::Held,
            EventKind::Queued => LegState::Queued,
            EventKind::Failed => LegState::Failed,
            EventKind::ConnectionCleared | EventKind::Diverted => LegState::Released,
            _ => LegState::Connected,
        };
        // A device that is rung because it is to make a call is the caller, however the event calls it.
        let is_caller = device.is_some() && device == calling;
        let direction = match kind {
            EventKind::ServiceInitiated | EventKind::Originated => Some(Direction::Originating),
            EventKind::NetworkReached => Some(Direction::Terminating),
            EventKind::Delivered | EventKind::Established | EventKind::Queued | EventKind::Failed
                if device.is_some() && calling.is_some() =>
            {
                Some(if is_caller { Direction::Originating } else { Direction::Terminating })
            }
            _ => None,
        };
        let remote = match direction {
            Some(Direction::Originating) => called,
            Some(Direction::Terminating) => calling,
            None => None,
        };
        let cause = match kind {
            EventKind::Diverted => Some(Cause::Redirected),
            EventKind::Failed | EventKind::ConnectionCleared => event.cause.as_deref().map(|cause| self.cause(cause)),
            _ => None,
        };
        self.remember(&call, &leg, state);
        let answered_at = at.filter(|_| kind == EventKind::Established);
        Ok(LegObservation { call, leg, device, direction, remote, state, cause, answered_at })
    }

    fn merged(&mut self, event: &Event<'_>, monitored: Option<&Alias>) -> Result<CallsMerged, Unusable> {
        let primary = call_of(event.connection.as_ref()).ok_or(Unusable::Call)?;
        let secondary = call_of(event.secondary.as_ref());
        let into = event.connections.iter().find_map(|item| call_of(Some(&item.new)));
        let into = into.or_else(|| secondary.clone()).unwrap_or_else(|| primary.clone());
        let transfer = event.kind == EventKind::Transferred;
        let subject = event.subject.as_ref().and_then(Device::id).and_then(|id| self.form.read(id));
        let mut legs = Vec::with_capacity(event.connections.len());
        for item in &event.connections {
            let local = event.local.zip(monitored);
            if let Some(leg) = self.merged_leg(item, &into, local) {
                legs.push(leg);
            }
        }
        for old in [Some(&primary), secondary.as_ref()].into_iter().flatten().filter(|old| **old != into) {
            self.silent.remove(old);
        }
        let cause = if transfer { Cause::Transfer } else { Cause::Conference };
        Ok(CallsMerged { primary, secondary, into, cause, leaving: subject.filter(|_| transfer), legs })
    }

    /// A leg of the resulting call, if its state is known: the monitored device's is said; a leg that was there before goes on as it
    /// was, except that joining takes it off hold; a new one tells its state by an event of its own.
    fn merged_leg(
        &mut self,
        item: &ConnectionItem<'_>,
        into: &SwitchCallId,
        local: Option<(ConnectionState, &Alias)>,
    ) -> Option<LegObservation> {
        let call = call_of(Some(&item.new)).unwrap_or_else(|| into.clone());
        let text = item.new.device.as_deref();
        let endpoint = item.endpoint.as_ref().and_then(Device::id);
        let leg = text.and_then(leg_id).or_else(|| endpoint.and_then(leg_id))?;
        let device = endpoint.or(text).and_then(|text| self.form.read(text));
        let said = local.filter(|(_, monitored)| device.as_ref() == Some(monitored)).map(|(state, _)| leg_state(state));
        let known = self.silent_state(&call, &leg);
        let before = || {
            let old = item.old.as_ref()?;
            let state = call_of(Some(old)).zip(old.device.as_deref().and_then(leg_id));
            let state = state.and_then(|(call, leg)| self.silent_state(&call, &leg));
            Some(state.filter(|state| *state != LegState::Held).unwrap_or(LegState::Connected))
        };
        let state = said.or(known).or_else(before)?;
        self.remember(&call, &leg, state);
        Some(LegObservation { call, leg, device, direction: None, remote: None, state, cause: None, answered_at: None })
    }

    /// What the answer to a snapshot says. `asked` is the device whose snapshot it is; none for a call's.
    pub fn snapshot(&mut self, calling: Option<&str>, legs: &[SnapshotLeg], asked: Option<&Alias>) -> Vec<LegObservation> {
        let calling = calling.and_then(|text| self.form.read(text));
        let mut seen = Vec::with_capacity(legs.len());
        for leg in legs {
            let Some(call) = call_of(Some(&leg.connection)) else { continue };
            let text = leg.connection.device.as_deref();
            let named = leg.device.as_deref().and_then(|text| self.form.read(text));
            let device = asked.cloned().or(named).or_else(|| text.and_then(|text| self.form.read(text)));
            let Some(id) = text.and_then(leg_id).or_else(|| device.as_ref().and_then(|device| leg_id(device.as_str()))) else { continue };
            let state = leg.state.map_or(LegState::Connected, leg_state);
            if state == LegState::Released {
                continue;
            }
            self.remember(&call, &id, state);
            let direction = match (&device, &calling) {
                (Some(device), Some(calling)) if device == calling => Some(Direction::Originating),
                (Some(_), Some(_)) => Some(Direction::Terminating),
                _ => None,
            };
            let remote = leg.endpoint.as_deref().and_then(|text| self.form.read(text));
            seen.push(LegObservation { call, leg: id, device, direction, remote, state, cause: None, answered_at: None });
        }
        if let [first, second] = &mut seen[..]
            && asked.is_none()
        {
            first.remote = second.device.clone();
            second.remote = first.device.clone();
        }
        seen
    }

    fn silent_state(&self, call: &SwitchCallId, leg: &SwitchLegId) -> Option<LegState> {
        self.silent.get(call)?.iter().find(|(other, _)| other == leg).map(|(_, state)| *state)
    }

    fn remember(&mut self, call: &SwitchCallId, leg: &SwitchLegId, state: LegState) {
        if matches!(state, LegState::Connected | LegState::Released) {
            if let Some(legs) = self.silent.get_mut(call) {
                legs.retain(|(other, _)| other != leg);
                if legs.is_empty() {
                    self.silent.remove(call);
                }
            }
            return;
        }
        if let Some(legs) = self.silent.get_mut(call) {
            if let Some((_, known)) = legs.iter_mut().find(|(other, _)| other == leg) {
                *known = state;
            } else if legs.len() < MOST_LEGS {
                legs.push((leg.clone(), state));
            }
        } else if self.silent.len() < MOST_CALLS {
            self.silent.insert(call.clone(), vec![(leg.clone(), state)]);
        }
    }

    /// A cause of ECMA-269 (by stems, since switches vary the endings), else one of the dialect's words.
    fn cause(&self, text: &str) -> Cause {
        const STEMS: [(&str, Cause); 32] = [
            ("normal", Cause::Normal),
            ("trunksbusy", Cause::NoResources),
            ("trunkbusy", Cause::NoResources),
            ("busy", Cause::Busy),
            ("callforward", Cause::Redirected),
            ("redirected", Cause::Redirected),
            ("distributed", Cause::Redirected),
            ("deflect", Cause::Redirected),
            ("overflow", Cause::Redirected),
            ("recall", Cause::Redirected),
            ("noanswer", Cause::NoAnswer),
            ("notanswered", Cause::NoAnswer),
            ("timeout", Cause::NoAnswer),
            ("noavailableagents", Cause::NoAnswer),
            ("callcancel", Cause::CallerGaveUp),
            ("abandon", Cause::CallerGaveUp),
            ("reject", Cause::Rejected),
            ("refused", Cause::Rejected),
            ("donotdisturb", Cause::Rejected),
            ("callpickup", Cause::AnsweredElsewhere),
            ("multiplealerting", Cause::AnsweredElsewhere),
            ("elsewhere", Cause::AnsweredElsewhere),
            ("transfer", Cause::Transfer),
            ("conference", Cause::Conference),
            ("notobtainable", Cause::Unobtainable),
            ("incompatibledest", Cause::Unobtainable),
            ("unallocated", Cause::Unobtainable),
            ("numberchanged", Cause::Unobtainable),
            ("outoforder", Cause::Unobtainable),
            ("outofservice", Cause::Unobtainable),
            ("congestion", Cause::NoResources),
            ("resourcesnotavailable", Cause::NoResources),
        ];
        let lower: Cow<'_, str> = if text.bytes().any(|b| b.is_ascii_uppercase()) { text.to_ascii_lowercase().into() } else { text.into() };
        if let Some((_, cause)) = STEMS.iter().find(|(stem, _)| lower.contains(stem)) {
            return *cause;
        }
        ecss_switch::words::cause(&self.causes, text).unwrap_or(Cause::Other)
    }
}

fn call_of(connection: Option<&Connection<'_>>) -> Option<SwitchCallId> {
    connection?.call.as_deref().and_then(|id| SwitchCallId::parse(id).ok())
}

/// A leg is the connection's device, as opaque text. The NID form is its number alone: the name in it may come and go, and hold blanks.
fn leg_id(text: &str) -> Option<SwitchLegId> {
    SwitchLegId::parse(nid_number(text).unwrap_or(text)).ok()
}

fn leg_state(state: ConnectionState) -> LegState {
    match state {
        ConnectionState::Null => LegState::Released,
        ConnectionState::Initiated => LegState::Initiated,
        ConnectionState::Alerting => LegState::Alerting,
        ConnectionState::Connected => LegState::Connected,
        ConnectionState::Hold => LegState::Held,
        ConnectionState::Queued => LegState::Queued,
        ConnectionState::Failed => LegState::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Incoming;

    fn observer() -> Observer {
        Observer::new(&Dialect::built_in("sim").unwrap(), &Domain::parse("biysk.local").unwrap())
    }

    fn alias(text: &str) -> Alias {
        Alias::parse(text).unwrap()
    }

    fn see(observer: &mut Observer, text: &str, monitored: Option<&str>) -> Result<Observation, Unusable> {
        let Incoming::Event(event) = Incoming::read(text.as_bytes()).unwrap() else { panic!("{text}") };
        observer.observe(&event, monitored.map(alias).as_ref()).map(|seen| seen.observation)
    }

    fn leg(observer: &mut Observer, text: &str) -> LegObservation {
        match see(observer, text, None).unwrap() {
            Observation::Leg(leg) => leg,
            other => panic!("{other:?}"),
        }
    }

    fn connection(name: &str, call: &str, device: &str) -> String {
        format!("<{name}><callID>{call}</callID><deviceID>{device}</deviceID></{name}>")
    }

    fn device(name: &str, number: &str) -> String {
        format!("<{name}><deviceIdentifier>{number}</deviceIdentifier></{name}>")
    }

    #[test]
    fn devices_are_read_out_of_all_their_forms() {
        let mut dialect = Dialect::built_in("sim").unwrap();
        dialect.csta.device = "dn-{alias}@{domain}".to_owned();
        let form = DeviceForm::new(&dialect, &Domain::parse("biysk.local").unwrap());
        for text in ["1001", "dn-1001@biysk.local", "N<1001>Ann Lee;displayNumber=1;noa=nk", "sip:1001@biysk.local", "tel:1001"] {
            assert_eq!(form.read(text), Some(alias("1001")), "{text}");
        }
        assert_eq!(form.read("sip:1001@elsewhere"), Some(alias("1001@elsewhere")));
        assert_eq!(form.read(""), None);
        assert_eq!(form.write(&alias("1001")), "dn-1001@biysk.local");
    }

    #[test]
    fn a_click_to_call_rings_its_caller_first_and_that_leg_is_the_originating_one() {
        let parties = device("callingDevice", "1001") + &device("calledDevice", "1002");
        let text = format!(
            "<DeliveredEvent>{}{}{parties}</DeliveredEvent>",
            connection("connection", "c", "1001"),
            device("alertingDevice", "1001")
        );
        let seen = leg(&mut observer(), &text);
        assert_eq!((seen.direction, seen.remote, seen.state), (Some(Direction::Originating), Some(alias("1002")), LegState::Alerting));
    }

    #[test]
    fn a_leg_without_a_connection_device_is_that_of_the_device_that_acts_and_none_is_no_leg() {
        let mut observer = observer();
        let text = format!("<HeldEvent><heldConnection><callID>c</callID></heldConnection>{}</HeldEvent>", device("holdingDevice", "1001"));
        assert_eq!(leg(&mut observer, &text).leg.as_str(), "1001");
        assert_eq!(
            see(&mut observer, "<HeldEvent><heldConnection><callID>c</callID></heldConnection></HeldEvent>", None),
            Err(Unusable::Leg)
        );
        assert_eq!(see(&mut observer, "<HeldEvent/>", None), Err(Unusable::Call));
    }

    fn transfer(local: &str) -> String {
        let item = |old: &str, device: &str| {
            let (new, old) = (connection("newConnection", "b", device), connection("oldConnection", old, device));
            format!("<connectionListItem>{new}{old}</connectionListItem>")
        };
        format!(
            "<TransferedEvent>{}{}{}<transferredConnections>{}{}</transferredConnections><localConnectionInfo>{local}</localConnectionInfo></TransferedEvent>",
            connection("primaryOldCall", "a", "1001"),
            connection("secondaryOldCall", "b", "1001"),
            device("transferringDevice", "1001"),
            item("a", "1002"),
            item("b", "1003"),
        )
    }

    #[test]
    fn a_transfer_merges_the_calls_and_says_the_same_through_every_monitor() {
        let mut observer = observer();
        // 1001 holds 1002 and consults 1003, which still rings.
        leg(&mut observer, &format!("<HeldEvent>{}</HeldEvent>", connection("heldConnection", "a", "1001")));
        leg(&mut observer, &format!("<DeliveredEvent>{}</DeliveredEvent>", connection("connection", "b", "1003")));
        let first = see(&mut observer, &transfer("null"), Some("1001")).unwrap();
        let second = see(&mut observer, &transfer("connected"), Some("1002")).unwrap();
        let third = see(&mut observer, &transfer("alerting"), Some("1003")).unwrap();
        assert_eq!((&first, &second), (&second, &third));
        let Observation::Merged(merged) = first else { panic!() };
        assert_eq!((merged.primary.as_str(), merged.secondary.unwrap().as_str(), merged.into.as_str()), ("a", "b", "b"));
        assert_eq!((merged.cause, merged.leaving), (Cause::Transfer, Some(alias("1001"))));
        let legs: Vec<_> = merged.legs.iter().map(|leg| (leg.call.as_str(), leg.leg.as_str(), leg.state)).collect();
        assert_eq!(legs, [("b", "1002", LegState::Connected), ("b", "1003", LegState::Alerting)]);
    }

    #[test]
    fn a_three_way_takes_the_held_leg_off_hold() {
        let mut observer = observer();
        leg(&mut observer, &format!("<HeldEvent>{}</HeldEvent>", connection("heldConnection", "a", "1001")));
        let item = format!(
            "<connectionListItem>{}{}</connectionListItem>",
            connection("newConnection", "m", "1001"),
            connection("oldConnection", "a", "1001")
        );
        let text = format!(
            "<ConferencedEvent>{}{}{}<conferenceConnections>{item}</conferenceConnections></ConferencedEvent>",
            connection("primaryOldCall", "a", "1001"),
            connection("secondaryOldCall", "b", "1001"),
            device("conferencingDevice", "1001"),
        );
        let Observation::Merged(merged) = see(&mut observer, &text, None).unwrap() else { panic!() };
        assert_eq!((merged.cause, merged.leaving, merged.into.as_str()), (Cause::Conference, None, "m"));
        assert_eq!(merged.legs[0].state, LegState::Connected);
    }

    #[test]
    fn a_new_party_of_a_blind_transfer_tells_its_state_itself() {
        let item = format!("<connectionListItem>{}</connectionListItem>", connection("newConnection", "a", "1003"));
        let text = format!(
            "<TransferredEvent>{}{}<transferredConnections>{item}</transferredConnections></TransferredEvent>",
            connection("primaryOldCall", "a", "1001"),
            device("transferringDevice", "1001"),
        );
        let Observation::Merged(merged) = see(&mut observer(), &text, None).unwrap() else { panic!() };
        assert_eq!((merged.secondary, merged.into.as_str(), merged.legs.len()), (None, "a", 0));
    }

    #[test]
    fn causes_are_told_by_the_standard_or_by_the_dialect() {
        let observer = observer();
        for (text, cause) in [
            ("normalClearing", Cause::Normal),
            ("busy", Cause::Busy),
            ("trunksBusy", Cause::NoResources),
            ("callNotAnswered", Cause::NoAnswer),
            ("callCancelled", Cause::CallerGaveUp),
            ("doNotDisturb", Cause::Rejected),
            ("callPickup", Cause::AnsweredElsewhere),
            ("destNotObtainable", Cause::Unobtainable),
            ("callForwardNoReply", Cause::Redirected),
            ("singleStepTransfer", Cause::Transfer),
            ("networkCongestion", Cause::NoResources),
            ("caller_gave_up", Cause::Other),
            ("cancelled", Cause::CallerGaveUp),
            ("whatever", Cause::Other),
        ] {
            assert_eq!(observer.cause(text), cause, "{text}");
        }
    }

    #[test]
    fn what_is_kept_of_calls_is_bounded_and_goes_with_them() {
        let mut observer = observer();
        for call in 0..MOST_CALLS + 10 {
            leg(&mut observer, &format!("<HeldEvent>{}</HeldEvent>", connection("heldConnection", &call.to_string(), "1001")));
        }
        assert_eq!(observer.silent.len(), MOST_CALLS);
        for call in 0..MOST_CALLS {
            let dropped = connection("droppedConnection", &call.to_string(), "1001");
            leg(&mut observer, &format!("<ConnectionClearedEvent>{dropped}</ConnectionClearedEvent>"));
        }
        assert!(observer.silent.is_empty());
    }
}
