//! Invitations into conferences: whoever is being called into one is told, and told when that is void.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use elph_proto::v1::{Conference, ConferenceState, Participant, ParticipantChange, ParticipantStatus};
use jiff::Timestamp;

use crate::{
    Rules,
    notice::{Fields, Kind, Notice, Occasion, Seen, Step, Why},
};

/// Somebody who is invited.
#[derive(Debug)]
struct Invitation {
    alias: String,
    occasion: Occasion,
    until: Timestamp,
    fields: Fields,
}

/// A conference with open invitations, by participant.
#[derive(Debug)]
struct Open {
    domain: String,
    name: String,
    seen: Seen,
    invited: BTreeMap<String, Invitation>,
    /// The last time that each alias was invited.
    occasions: BTreeMap<String, Occasion>,
}

/// Conferences by our id. Those without open invitations are kept for their names and occasions while they go on.
#[derive(Debug, Default)]
pub(crate) struct Invitations(HashMap<String, Open>);

impl Invitations {
    pub(crate) fn len(&self) -> usize {
        self.0.values().map(|open| open.invited.len()).sum()
    }

    pub(crate) fn conference(&mut self, conference: &Conference, rules: &Rules, seen: Seen, now: Timestamp) -> Vec<Notice> {
        if conference.state() == ConferenceState::Ended {
            return self.0.remove(&conference.id).map(|open| voided(&conference.id, open)).unwrap_or_default();
        }
        let open = self.open(&conference.id, &conference.domain, seen);
        open.name.clone_from(&conference.name);
        // Changes of the conference come without its roster.
        let members = conference.participants.iter();
        let notices = members.filter_map(|member| open.member(&conference.id, member, rules, seen, now)).collect();
        if seen == Seen::Listed {
            open.seen = Seen::Older;
        }
        notices
    }

    /// As for calls.
    pub(crate) fn open_of(&self, domain: &str, alias: &str) -> Vec<Notice> {
        let open = self.0.iter().filter(|(_, open)| open.domain == domain);
        let invited = open.flat_map(|(id, open)| open.invited.values().map(move |invitation| (id, invitation)));
        let told = invited.filter(|(_, invitation)| invitation.alias == alias).map(|(id, invitation)| Notice {
            domain: domain.to_owned(),
            alias: alias.to_owned(),
            subject: id.clone(),
            occasion: invitation.occasion,
            step: Step::Tell { kind: Kind::Invitation, until: invitation.until },
            fields: invitation.fields.clone(),
        });
        told.collect()
    }

    fn open(&mut self, conference: &str, domain: &str, seen: Seen) -> &mut Open {
        let new = || Open { domain: domain.to_owned(), name: String::new(), seen, invited: BTreeMap::new(), occasions: BTreeMap::new() };
        self.0.entry(conference.to_owned()).or_insert_with(new)
    }

    pub(crate) fn participant(&mut self, domain: &str, change: &ParticipantChange, rules: &Rules, now: Timestamp) -> Vec<Notice> {
        let member = change.participant.as_ref();
        let open = self.open(&change.conference_id, domain, Seen::Whole);
        member.and_then(|member| open.member(&change.conference_id, member, rules, open.seen, now)).into_iter().collect()
    }

    pub(crate) fn gone(&mut self, conferences: &[Conference]) -> Vec<Notice> {
        let here: HashMap<&str, BTreeSet<&str>> =
            conferences.iter().map(|it| (it.id.as_str(), it.participants.iter().map(|member| member.id.as_str()).collect())).collect();
        let gone: Vec<String> = self.0.keys().filter(|id| !here.contains_key(id.as_str())).cloned().collect();
        let mut notices: Vec<Notice> = gone.iter().filter_map(|id| Some(voided(id, self.0.remove(id)?))).flatten().collect();
        for (id, open) in &mut self.0 {
            let members = here.get(id.as_str());
            let left: Vec<String> =
                open.invited.keys().filter(|member| members.is_none_or(|all| !all.contains(member.as_str()))).cloned().collect();
            for member in left {
                notices.extend(open.invited.remove(&member).map(|invitation| void(id, &open.domain, invitation, Why::Ended)));
            }
        }
        notices
    }
}

impl Open {
    fn member(&mut self, conference: &str, member: &Participant, rules: &Rules, seen: Seen, now: Timestamp) -> Option<Notice> {
        let called = matches!(member.status(), ParticipantStatus::DialingOut | ParticipantStatus::Alerting);
        if called {
            if !rules.conferences || member.number.is_empty() || self.invited.contains_key(&member.id) {
                return None;
            }
            let until = now.checked_add(rules.ring_time).ok()?;
            let fields = vec![
                ("conference_id", conference.to_owned()),
                ("conference_name", self.name.clone()),
                ("domain", self.domain.clone()),
                ("alias", member.number.clone()),
                ("expires_at", until.as_second().to_string()),
            ];
            let occasion = self.occasions.get(&member.number).map_or_else(|| Occasion::first(seen, now), |before| before.next());
            self.occasions.insert(member.number.clone(), occasion);
            self.invited.insert(member.id.clone(), Invitation { alias: member.number.clone(), occasion, until, fields: fields.clone() });
            return Some(Notice {
                domain: self.domain.clone(),
                alias: member.number.clone(),
                subject: conference.to_owned(),
                occasion,
                step: Step::Tell { kind: Kind::Invitation, until },
                fields,
            });
        }
        let invitation = self.invited.remove(&member.id)?;
        let why = match member.status() {
            ParticipantStatus::Connected | ParticipantStatus::OnHold => Why::AnsweredElsewhere,
            _ if member.end_cause() == elph_proto::v1::EndCause::Rejected => Why::Declined,
            _ => Why::Ended,
        };
        Some(void(conference, &self.domain, invitation, why))
    }
}

fn voided(conference: &str, open: Open) -> Vec<Notice> {
    let domain = open.domain;
    open.invited.into_values().map(|invitation| void(conference, &domain, invitation, Why::Ended)).collect()
}

fn void(conference: &str, domain: &str, invitation: Invitation, why: Why) -> Notice {
    let mut fields = invitation.fields;
    fields.push(("reason", why.as_str().to_owned()));
    Notice {
        domain: domain.to_owned(),
        alias: invitation.alias,
        subject: conference.to_owned(),
        occasion: invitation.occasion,
        step: Step::TakeBack { told: Kind::Invitation, kind: Kind::InvitationCancel, why },
        fields,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Policy;

    fn policy() -> Policy {
        let rules =
            Rules { calls: true, ring_time: Duration::from_secs(60), only_unless_ringing: false, missed_calls: true, conferences: true };
        Policy::new(HashMap::from([("biysk.local".to_owned(), rules)]))
    }

    fn change(status: ParticipantStatus) -> ParticipantChange {
        let participant = Participant { id: "p".into(), number: "1002".into(), status: status.into(), ..Default::default() };
        ParticipantChange { conference_id: "c".into(), participant: Some(participant), ..Default::default() }
    }

    #[test]
    fn who_is_called_into_a_conference_is_told_once_and_told_when_it_is_void() {
        let now = Timestamp::from_second(1_790_000_000).unwrap();
        for (end, why) in [(ParticipantStatus::Connected, Why::AnsweredElsewhere), (ParticipantStatus::Disconnected, Why::Ended)] {
            let mut policy = policy();
            let conference = Conference { id: "c".into(), domain: "biysk.local".into(), name: "Standup".into(), ..Default::default() };
            assert!(policy.conference(&conference, now).is_empty());
            assert!(policy.participant("biysk.local", &change(ParticipantStatus::Pending), now).is_empty());
            let told = policy.participant("biysk.local", &change(ParticipantStatus::DialingOut), now);
            assert_eq!(told.len(), 1);
            assert!(told[0].fields.contains(&("conference_name", "Standup".to_owned())));
            assert!(policy.participant("biysk.local", &change(ParticipantStatus::Alerting), now).is_empty());
            let void = policy.participant("biysk.local", &change(end), now);
            assert_eq!(void[0].step, Step::TakeBack { told: Kind::Invitation, kind: Kind::InvitationCancel, why });
            assert_eq!(policy.open(), 0);
        }
    }

    #[test]
    fn who_is_invited_again_is_told_again_as_another_push() {
        let now = Timestamp::from_second(1_790_000_000).unwrap();
        let mut policy = policy();
        policy.snapshot(&[], &[], now);
        let occasions: Vec<u64> = [ParticipantStatus::DialingOut, ParticipantStatus::Disconnected]
            .repeat(2)
            .into_iter()
            .flat_map(|status| policy.participant("biysk.local", &change(status), now))
            .map(|notice| notice.occasion.0)
            .collect();
        assert_eq!(occasions, [0, 0, 1, 1]);
    }

    #[test]
    fn after_a_restart_an_open_invitation_is_the_same_push_and_a_later_one_is_not_taken_for_it() {
        let now = Timestamp::from_second(1_790_000_000).unwrap();
        let mut policy = policy();
        let invited =
            |id: &str| Participant { id: id.into(), number: id.into(), status: ParticipantStatus::Alerting.into(), ..Default::default() };
        let start_time = Some(prost_types::Timestamp { seconds: 1_780_000_000, nanos: 0 });
        let listed =
            Conference { id: "c".into(), domain: "biysk.local".into(), start_time, participants: vec![invited("1")], ..Default::default() };
        assert_eq!(policy.snapshot(&[], &[listed], now)[0].occasion, Occasion(0));
        let change = ParticipantChange { conference_id: "c".into(), participant: Some(invited("2")), ..Default::default() };
        assert!(policy.participant("biysk.local", &change, now)[0].occasion.0 > 1);
    }

    #[test]
    fn the_end_of_a_conference_voids_its_invitations_also_when_it_was_missed() {
        let now = Timestamp::from_second(1_790_000_000).unwrap();
        let mut policy = policy();
        policy.participant("biysk.local", &change(ParticipantStatus::DialingOut), now);
        assert_eq!(policy.snapshot(&[], &[], now).len(), 1);
        policy.participant("biysk.local", &change(ParticipantStatus::DialingOut), now);
        let mut ended = Conference { id: "c".into(), domain: "biysk.local".into(), ..Default::default() };
        ended.set_state(ConferenceState::Ended);
        assert_eq!(policy.conference(&ended, now).len(), 1);
        assert_eq!(policy.open(), 0);
    }
}
