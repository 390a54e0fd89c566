//! Event trees as observations. Events that the dialect does not name are counted and skipped; a record without what makes it an
//! observation is lost, and the caller reports a gap.

use std::sync::Arc;

use ecss_switch::{
    Dialect, Domain, Observation, SwitchEvent,
    dialect::{EventKind, EventShape, Field, Words},
    event::{CallsMerged, Cause, ConferenceObservation, ParticipantObservation, ParticipantStatus},
};

use super::{record::Record, request::name_in_frame};
use crate::tree::Element;

/// The dialect's events, ready for reading.
#[derive(Debug)]
pub struct EventTable {
    dialect: Arc<Dialect>,
    domain: Domain,
    entries: Vec<(EventKind, EventShape, String)>,
}

/// What an event message held.
#[derive(Debug, Default, PartialEq)]
pub struct EventReading {
    /// The observations that were understood.
    pub events: Vec<SwitchEvent>,
    /// The dialect does not name the event.
    pub unknown: bool,
    /// Values that were not understood and without which the observation stands.
    pub unread: u32,
    /// Records, or states in them, that were not understood: something is missing.
    pub lost: u32,
}

// === impl EventTable ===

impl EventTable {
    /// The events of a dialect; what names no domain is about `domain`.
    pub fn new(dialect: Arc<Dialect>, domain: Domain) -> Self {
        let entry = |(kind, shape): (&EventKind, &EventShape)| {
            (*kind, shape.clone(), name_in_frame(&dialect.call_api, &shape.service, &shape.name))
        };
        let entries = dialect.events.iter().map(entry).collect();
        Self { entries, dialect, domain }
    }

    /// Reads an event message: the name field of its frame, if it has one, and its trees. Each tree is an event of its own.
    pub fn read(&self, name_field: Option<&str>, roots: &[Element<'_>]) -> EventReading {
        let mut reading = EventReading::default();
        if roots.is_empty() {
            reading.unknown = true;
        }
        let mut records = Vec::new();
        for root in roots {
            let mut known = false;
            let mut found = false;
            for (kind, shape, _) in self.matching(name_field, root) {
                known = true;
                records.clear();
                root.find(&shape.record, &mut records);
                for element in &records {
                    found = true;
                    self.record(*kind, shape, element, &mut reading);
                }
            }
            reading.unknown |= !known;
            if known && !found {
                reading.lost += 1;
            }
        }
        reading
    }

    /// By the frame's name where it says something to us, by the tree's otherwise: services may use one name for different events.
    fn matching<'t>(&'t self, name_field: Option<&str>, root: &Element<'_>) -> impl Iterator<Item = &'t (EventKind, EventShape, String)> {
        let exact = |full: &str| name_field == Some(full);
        let plain = |name: &str| name_field == Some(name) || root.local_name() == name;
        let by_field = self.entries.iter().any(|(_, _, full)| exact(full));
        let hits: Vec<_> = self.entries.iter().filter(|(_, shape, full)| if by_field { exact(full) } else { plain(&shape.name) }).collect();
        hits.into_iter()
    }

    fn record(&self, kind: EventKind, shape: &EventShape, element: &Element<'_>, reading: &mut EventReading) {
        let record = Record::new(element, &shape.fields, &self.dialect);
        let domain = record.domain().unwrap_or_else(|| self.domain.clone());
        let at = record.time(Field::At);
        let observation = match kind {
            EventKind::Leg => record.leg().map(Observation::Leg),
            EventKind::Merged => self.merged(&record, element, reading).map(Observation::Merged),
            EventKind::CallReleased => record.call(Field::Call).map(|call| Observation::CallReleased { call, cause: record.cause() }),
            EventKind::Conference => conference(&record).map(Observation::Conference),
            EventKind::ConferenceEnded => record.conference().map(|conference| Observation::ConferenceEnded { conference }),
            EventKind::Participant => participant(&record).map(Observation::Participant),
            EventKind::ParticipantLeft => participant(&record)
                .map(|seen| Observation::Participant(ParticipantObservation { status: Some(ParticipantStatus::Disconnected), ..seen })),
        };
        reading.unread += record.unread();
        reading.lost += record.lost().max(u32::from(observation.is_none()));
        reading.events.extend(observation.map(|observation| SwitchEvent { domain, at, observation }));
    }

    fn merged(&self, record: &Record<'_>, element: &Element<'_>, reading: &mut EventReading) -> Option<CallsMerged> {
        let leaving = record.alias(Field::Device);
        let cause = match record.cause() {
            Some(cause @ (Cause::Transfer | Cause::Conference)) => cause,
            // a device that leaves is what tells a transfer from a three-way
            _ if leaving.is_some() => Cause::Transfer,
            _ => Cause::Conference,
        };
        let mut legs = Vec::new();
        if let Some((_, shape, _)) = self.entries.iter().find(|(kind, ..)| *kind == EventKind::Leg) {
            let mut found = Vec::new();
            element.children().for_each(|child| child.find(&shape.record, &mut found));
            for element in found {
                let leg = Record::new(element, &shape.fields, &self.dialect);
                match leg.leg() {
                    Some(seen) => legs.push(seen),
                    None => reading.lost += 1,
                }
                reading.unread += leg.unread();
            }
        }
        Some(CallsMerged {
            primary: record.call(Field::Call)?,
            secondary: record.call(Field::OtherCall),
            into: record.call(Field::IntoCall)?,
            cause,
            leaving,
            legs,
        })
    }
}

fn conference(record: &Record<'_>) -> Option<ConferenceObservation> {
    Some(ConferenceObservation {
        conference: Some(record.conference()?),
        name: record.text(Field::Name).map(str::to_owned),
        room: record.text(Field::Room).map(str::to_owned),
        started_at: record.time(Field::StartedAt),
        ends_at: record.time(Field::EndsAt),
        max_participants: record.number(Field::Limit),
        locked: record.state(Field::Locked, Words::boolean),
        recording: record.state(Field::Recording, Words::recording),
        may_unmute_themselves: record.state(Field::MayUnmute, Words::boolean),
    })
}

fn participant(record: &Record<'_>) -> Option<ParticipantObservation> {
    Some(ParticipantObservation {
        conference: record.conference()?,
        participant: record.participant()?,
        number: record.alias(Field::Number),
        name: record.text(Field::Name).map(str::to_owned),
        role: record.state(Field::Role, Words::role),
        status: record.state(Field::Status, Words::participant_status),
        voice: record.state(Field::Voice, Words::boolean),
        floor_requested: record.state(Field::Floor, Words::boolean),
        talking: record.state(Field::Talking, Words::boolean),
        cause: record.cause(),
    })
}

#[cfg(test)]
mod tests {
    use ecss_switch::event::LegState;

    use super::*;
    use crate::tree::from_json;

    fn table() -> EventTable {
        EventTable::new(Arc::new(Dialect::built_in("sim").unwrap()), Domain::parse("biysk.local").unwrap())
    }

    fn read(name: Option<&str>, json: &str) -> EventReading {
        table().read(name, &from_json(json).unwrap())
    }

    #[test]
    fn a_leg_event_becomes_one_observation_for_each_leg() {
        let json = r#"[{"_name":"conversations_event","_content":[
            {"_name":"leg","_attributes":{"call_id":"c1","id":"l1","digits":"1001","direction":"out","remote_digits":"1002","status":"talking","answer_time":"2026/11/24 10:05:09"}},
            {"_name":"leg","_attributes":{"call_id":"c1","id":"l2","digits":"1002","direction":"IN","status":"released","cause":"never heard of"}}]}]"#;
        let reading = read(Some("call/conversations_event"), json);
        assert_eq!((reading.unknown, reading.unread, reading.lost), (false, 0, 0));
        let [first, second] = &reading.events[..] else { panic!("{reading:?}") };
        let (Observation::Leg(first), Observation::Leg(second)) = (&first.observation, &second.observation) else { panic!() };
        assert_eq!((first.state, first.answered_at), (LegState::Connected, Some("2026-11-24T07:05:09Z".parse().unwrap())));
        assert_eq!((second.state, second.cause), (LegState::Released, Some(Cause::Other)));
    }

    #[test]
    fn an_unknown_event_is_skipped_and_a_known_one_without_its_mandatory_fields_is_lost() {
        assert!(read(Some("call/weather_event"), r#"[{"_name":"weather_event"}]"#).unknown);
        for (lost, json) in [
            (1, r#"[{"_name":"conversations_event"}]"#),
            (1, r#"[{"_name":"conversations_event","_content":[{"_name":"leg","_attributes":{"call_id":"c1"}}]}]"#),
            (
                1,
                r#"[{"_name":"conversations_event","_content":[{"_name":"leg","_attributes":{"call_id":"c1","id":"l","status":"dancing"}}]}]"#,
            ),
            (1, r#"[{"_name":"conference_ended_event","_content":[{"_name":"conference","_attributes":{"conference_id":""}}]}]"#),
        ] {
            let reading = read(None, json);
            assert_eq!((reading.lost, reading.events.len(), reading.unknown), (lost, 0, false), "{json}");
        }
    }

    #[test]
    fn a_participant_is_kept_when_one_of_its_states_is_not_understood_but_a_gap_is_due() {
        let json = r#"[{"_name":"participant_event","_content":[{"_name":"participant","_attributes":{"conference_id":"7","participant_id":"1","mic":"true","state":"floating","time":"noon"}}]}]"#;
        let reading = read(None, json);
        assert_eq!((reading.lost, reading.unread), (1, 1));
        let [SwitchEvent { observation: Observation::Participant(seen), .. }] = &reading.events[..] else { panic!("{reading:?}") };
        assert_eq!((seen.voice, seen.status), (Some(true), None));
    }

    #[test]
    fn leaving_merging_and_ending_are_read() {
        let left = r#"[{"_name":"participant_disconnected_event","_content":[{"_name":"participant","_attributes":{"conference_id":"7","participant_id":"1"}}]}]"#;
        let [SwitchEvent { observation: Observation::Participant(seen), .. }] = &read(None, left).events[..] else { panic!() };
        assert_eq!(seen.status, Some(ParticipantStatus::Disconnected));
        let merged = r#"[{"_name":"calls_merged_event","_content":[{"_name":"calls","_attributes":{"held_call":"a","active_call":"b","call_id":"a","leaving":"1001"},
            "_content":[{"_name":"leg","_attributes":{"call_id":"a","id":"l","status":"talking"}}]}]}]"#;
        let [SwitchEvent { observation: Observation::Merged(seen), .. }] = &read(None, merged).events[..] else { panic!() };
        assert_eq!((seen.cause, seen.legs.len()), (Cause::Transfer, 1));
        let ended = r#"{"_name":"call_ended_event","_content":{"_name":"call","_attributes":{"call_id":"a","cause":"busy"}}}"#;
        let [SwitchEvent { observation: Observation::CallReleased { cause, .. }, .. }] = &read(None, ended).events[..] else { panic!() };
        assert_eq!(*cause, Some(Cause::Busy));
    }
}
