//! Conferences, selector meetings and rooms of a domain. Both lists become the observations that every protocol yields.

use ecss_switch::{
    Alias, CommandError, Dialect, Domain, SwitchConferenceId, SwitchParticipantId,
    command::Role,
    dialect::{ConferenceField, MemberField, RecordShape},
    event::{ConferenceObservation, ParticipantObservation, ParticipantStatus},
};

use super::{of_domain, owned, request_of};
use crate::{client::Terminal, session::Command, time, xml::Element};

/// A conference or meeting as a list tells it.
#[derive(Debug, Clone, PartialEq)]
pub struct Conference {
    /// About the whole; its id is always set.
    pub observation: ConferenceObservation,
    /// Free text.
    pub description: Option<String>,
    /// Participants now, where the switch counts them.
    pub count: Option<u32>,
    /// Its members; only meetings name them.
    pub participants: Vec<ParticipantObservation>,
}

/// A teleconference room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// Its name.
    pub name: String,
    /// Free text.
    pub description: Option<String>,
}

impl Terminal {
    /// `conference_list`: every conference going on in the domain.
    pub async fn conference_list(&self, domain: &Domain) -> Result<Vec<Conference>, CommandError> {
        let reply =
            self.run(Command::read("conference_list", of_domain(&self.dialect().terminal.requests.conference_list, domain))).await?;
        let shape = &self.dialect().terminal.conferences;
        Ok(self.conferences(&reply.document, shape, false))
    }

    /// `tc_meetings_active_info`: the domain's active meetings with their members, or the one asked for.
    pub async fn meetings(&self, domain: &Domain, meeting: Option<&SwitchConferenceId>) -> Result<Vec<Conference>, CommandError> {
        let request = request_of(domain).with_some("meeting", meeting.map(SwitchConferenceId::as_str));
        let reply = self.run(Command::read("tc_meetings_active_info", request)).await?;
        let shape = &self.dialect().terminal.meetings;
        Ok(self.conferences(&reply.document, shape, true))
    }

    /// `teleconference_room_list`.
    pub async fn rooms(&self, domain: &Domain) -> Result<Vec<Room>, CommandError> {
        let reply = self.run(Command::read("teleconference_room_list", request_of(domain))).await?;
        let room = |element: &Element| Some(Room { name: owned(element, "name")?, description: owned(element, "description") });
        Ok(self.readable(reply.document.all("room").map(room)))
    }

    fn conferences(&self, document: &Element, shape: &RecordShape<ConferenceField>, with_members: bool) -> Vec<Conference> {
        self.readable(records(self.dialect(), shape, document, with_members).map(|read| {
            let (conference, unread) = read?;
            (0..unread).for_each(|_| self.count_unreadable());
            Some(conference)
        }))
    }
}

/// The conferences in an answer of `conference_list`, or the meetings in one of `tc_meetings_active_info`, with how many of their
/// members cannot be understood; `None` is one that cannot be understood itself.
pub fn records<'a>(
    dialect: &'a Dialect,
    shape: &'a RecordShape<ConferenceField>,
    document: &'a Element,
    with_members: bool,
) -> impl Iterator<Item = Option<(Conference, usize)>> + 'a {
    document.all(&shape.element).map(move |element| {
        let mut conference = conference(dialect, shape, element)?;
        // The participants of `conference_list` are documented to be there, but not how they are written.
        if !with_members {
            return Some((conference, 0));
        }
        let id = conference.observation.conference.clone()?;
        let members = element.all(&dialect.terminal.members.element).filter(|member| !std::ptr::eq(*member, element));
        let (mut read, mut unread) = (Vec::new(), 0);
        for member in members.map(|member| participant(dialect, &id, member)) {
            match member {
                Some(member) => read.push(member),
                None => unread += 1,
            }
        }
        conference.participants = read;
        Some((conference, unread))
    })
}

fn conference(dialect: &Dialect, shape: &RecordShape<ConferenceField>, element: &Element) -> Option<Conference> {
    let text = |field: ConferenceField| shape.fields.get(&field).and_then(|name| element.get_some(name));
    let time = |field| text(field).and_then(|text| time::read(text, dialect.terminal.utc_offset_minutes));
    let number = |field| text(field).and_then(|text| text.trim().parse::<u32>().ok());
    let flag = |field| text(field).and_then(|text| dialect.words.boolean(text));
    Some(Conference {
        observation: ConferenceObservation {
            conference: Some(SwitchConferenceId::parse(text(ConferenceField::Id)?.trim()).ok()?),
            name: text(ConferenceField::Name).map(str::to_owned),
            room: text(ConferenceField::Room).map(str::to_owned),
            started_at: time(ConferenceField::Start),
            ends_at: time(ConferenceField::EndsAt),
            max_participants: number(ConferenceField::Limit),
            locked: flag(ConferenceField::Locked),
            recording: text(ConferenceField::Recording).and_then(|text| dialect.words.recording(text)),
            may_unmute_themselves: flag(ConferenceField::MayUnmute),
        },
        description: text(ConferenceField::Description).map(str::to_owned),
        count: number(ConferenceField::Count),
        participants: Vec::new(),
    })
}

fn participant(dialect: &Dialect, conference: &SwitchConferenceId, element: &Element) -> Option<ParticipantObservation> {
    let fields = &dialect.terminal.members.fields;
    let text = |field: MemberField| fields.get(&field).and_then(|name| element.get_some(name)).map(str::trim);
    let flag = |field| text(field).and_then(|text| dialect.words.boolean(text));
    let id = text(MemberField::Id)?;
    // Without a field for the number, the id is the number too.
    let number = if fields.contains_key(&MemberField::Number) { text(MemberField::Number) } else { Some(id) };
    let state = text(MemberField::State).and_then(|text| dialect.words.participant_status(text));
    let mut participant = ParticipantObservation::of(conference.clone(), SwitchParticipantId::parse(id).ok()?);
    participant.number = number.and_then(|text| Alias::parse(text).ok());
    participant.name = text(MemberField::Name).map(str::to_owned);
    // `master` and `hold` are optional: absent, where the dialect has them, they say no.
    let optional = |field: MemberField| flag(field).or(fields.contains_key(&field).then_some(false));
    participant.role = optional(MemberField::Master).map(|master| if master { Role::Presenter } else { Role::Participant });
    participant.status = match (optional(MemberField::Hold), state) {
        (Some(true), None | Some(ParticipantStatus::Connected)) => Some(ParticipantStatus::OnHold),
        (_, state) => state,
    };
    participant.voice = flag(MemberField::Voice);
    participant.floor_requested = optional(MemberField::Floor);
    participant.talking = optional(MemberField::Talking);
    Some(participant)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xml::parse;

    #[test]
    fn a_meeting_of_the_documents_becomes_observations() {
        let documented = Dialect::built_in("documented").unwrap();
        let element = parse(br#"<meeting id="m1" name="Plan"><member id="1001" voice="true" state="active" master="true"/><member id="1002" voice="false" state="active" hold="true"/></meeting>"#).unwrap();
        let meeting = conference(&documented, &documented.terminal.meetings, &element).unwrap();
        assert_eq!(meeting.observation.name.as_deref(), Some("Plan"));
        let id = meeting.observation.conference.unwrap();
        let members: Vec<_> = element.all("member").map(|member| participant(&documented, &id, member).unwrap()).collect();
        assert_eq!(
            (members[0].role, members[0].status, members[0].voice),
            (Some(Role::Presenter), Some(ParticipantStatus::Connected), Some(true))
        );
        assert_eq!(
            (members[1].role, members[1].status, members[1].voice),
            (Some(Role::Participant), Some(ParticipantStatus::OnHold), Some(false))
        );
        assert_eq!(members[1].number.as_ref().map(Alias::as_str), Some("1002"));
        assert_eq!(members[1].talking, None, "the documents know of no talking flag");
    }

    #[test]
    fn a_conference_of_the_simulator_has_times_and_flags() {
        let sim = Dialect::built_in("sim").unwrap();
        let element = parse(br#"<conference space="c9" room="77" legs_count="3" calls_limit="16" destroy_mode="last" timestamp="1795503909" locked="true" recording="paused" self_unmute="false"/>"#).unwrap();
        let found = conference(&sim, &sim.terminal.conferences, &element).unwrap();
        assert_eq!((found.count, found.observation.max_participants, found.observation.locked), (Some(3), Some(16), Some(true)));
        assert_eq!(found.observation.started_at, Some("2026-11-24T07:05:09Z".parse().unwrap()));
        assert_eq!(found.observation.recording, Some(ecss_switch::event::Recording::Paused));
    }
}
