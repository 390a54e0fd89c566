//! Conferences: commands of moderators, what members do themselves, queries.

use std::time::Duration;

use jiff::SignedDuration;

use super::{Switch, Tx, push_bounded, subscribers::no_such_subscriber, timers::Timer};
use crate::{
    call::Cause,
    conference::{ConferenceRequest, ConferenceView, ParticipantStatus, ParticipantView, Recording, Role, Room, Template},
    event::EventKind,
    licence::LicenceKind,
    refusal::{Refusal, RefusalCause},
};

fn no_such_conference() -> Refusal {
    Refusal::new(RefusalCause::NoSuchConference, "there is no such conference")
}

fn no_such_participant() -> Refusal {
    Refusal::new(RefusalCause::NoSuchParticipant, "the conference has no such member")
}

fn no_such(what: &str, name: &str) -> Refusal {
    Refusal::new(RefusalCause::NoSuchConference, format!("there is no {what} {name}"))
}

fn bad_state(text: &str) -> Refusal {
    Refusal::new(RefusalCause::BadState, text)
}

/// Who is called when a conference is created.
struct Invitee {
    number: String,
    role: Role,
    voice: bool,
}

// === Commands of moderators ===

impl Switch {
    /// Starts a conference: ad hoc, in a room, or from a template; calls its members. Its id.
    pub fn create_conference(&self, domain: &str, request: ConferenceRequest) -> Result<String, Refusal> {
        self.with(|tx| tx.create(domain, request))
    }

    /// Calls a number into a conference. The member's id.
    pub fn invite(&self, domain: &str, conference: &str, number: &str, role: Role) -> Result<String, Refusal> {
        self.with(|tx| {
            tx.admit(domain, conference, number)?;
            tx.take(LicenceKind::Members, 1)?;
            Ok(tx.call_in(domain, conference, &Invitee { number: number.to_owned(), role, voice: true }))
        })
    }

    /// A subscriber dials into a conference. The member's id.
    pub fn dial_in(&self, domain: &str, conference: &str, number: &str) -> Result<String, Refusal> {
        self.with(|tx| {
            tx.admit(domain, conference, number)?;
            tx.take(LicenceKind::Members, 1)?;
            let invitee = Invitee { number: number.to_owned(), role: Role::Participant, voice: true };
            let id = tx.add_member(domain, conference, &invitee, ParticipantStatus::DialingIn);
            tx.pick_up(domain, conference, &id)?;
            Ok(id)
        })
    }

    /// Stops calling a member that has not answered.
    pub fn cancel_invitation(&self, domain: &str, conference: &str, participant: &str) -> Result<(), Refusal> {
        use ParticipantStatus::{Alerting, DialingOut, Pending};
        self.with(|tx| {
            if !matches!(tx.member(domain, conference, participant)?.status, Pending | DialingOut | Alerting) {
                return Err(bad_state("the member has answered already"));
            }
            tx.leave(domain, conference, participant, Cause::CallerGaveUp)
        })
    }

    /// Hangs a member up.
    pub fn remove(&self, domain: &str, conference: &str, participant: &str) -> Result<(), Refusal> {
        self.with(|tx| tx.leave(domain, conference, participant, Cause::Normal))
    }

    /// Takes a member's microphone away.
    pub fn mute(&self, domain: &str, conference: &str, participant: &str) -> Result<(), Refusal> {
        self.with(|tx| tx.edit_member(domain, conference, participant, |member| set_voice(member, false)))
    }

    /// Gives it back, unless the member has taken it away itself: it may be asked, but not be made to be heard.
    pub fn unmute(&self, domain: &str, conference: &str, participant: &str) -> Result<(), Refusal> {
        self.with(|tx| {
            if tx.member(domain, conference, participant)?.muted_itself {
                return Err(Refusal::new(RefusalCause::NoRight, "the member muted itself; it can be asked to unmute"));
            }
            tx.edit_member(domain, conference, participant, |member| set_voice(member, true))
        })
    }

    /// Asks a member to unmute; until it does it may, whatever holds for the conference.
    pub fn ask_to_unmute(&self, domain: &str, conference: &str, participant: &str) -> Result<(), Refusal> {
        self.with(|tx| {
            if tx.member(domain, conference, participant)?.voice {
                return Err(bad_state("the member has a microphone"));
            }
            tx.edit_member(domain, conference, participant, |member| member.asked_to_unmute = true)
        })
    }

    /// Takes every microphone away except the presenters', and says whether the muted may unmute themselves.
    pub fn mute_all(&self, domain: &str, conference: &str, may_unmute: bool) -> Result<(), Refusal> {
        self.with(|tx| {
            tx.edit(domain, conference, |found| found.may_unmute = may_unmute)?;
            let muted = |member: &&ParticipantView| member.role != Role::Presenter && (member.voice || member.asked_to_unmute);
            let ids: Vec<_> = tx.conference(domain, conference)?.members.iter().filter(muted).map(|member| member.id.clone()).collect();
            for id in ids {
                tx.edit_member(domain, conference, &id, |member| {
                    set_voice(member, false);
                    member.asked_to_unmute = false;
                })?;
            }
            Ok(())
        })
    }

    /// Gives the floor to a member that asks for it.
    pub fn grant_floor(&self, domain: &str, conference: &str, participant: &str) -> Result<(), Refusal> {
        self.with(|tx| {
            tx.wants_floor(domain, conference, participant)?;
            tx.edit_member(domain, conference, participant, |member| set_voice(member, true))
        })
    }

    /// Refuses the floor.
    pub fn deny_floor(&self, domain: &str, conference: &str, participant: &str) -> Result<(), Refusal> {
        self.with(|tx| {
            tx.wants_floor(domain, conference, participant)?;
            tx.edit_member(domain, conference, participant, |member| member.floor = false)
        })
    }

    /// Changes a member's role.
    pub fn set_role(&self, domain: &str, conference: &str, participant: &str, role: Role) -> Result<(), Refusal> {
        self.with(|tx| tx.edit_member(domain, conference, participant, |member| member.role = role))
    }

    /// Lets nobody else in, or opens the conference again.
    pub fn set_locked(&self, domain: &str, conference: &str, locked: bool) -> Result<(), Refusal> {
        self.with(|tx| tx.edit(domain, conference, |found| found.locked = locked))
    }

    /// Puts a member on hold.
    pub fn hold_member(&self, domain: &str, conference: &str, participant: &str) -> Result<(), Refusal> {
        self.with(|tx| {
            tx.expect_status(domain, conference, participant, ParticipantStatus::Connected)?;
            tx.edit_member(domain, conference, participant, |member| {
                (member.status, member.talking) = (ParticipantStatus::OnHold, false);
            })
        })
    }

    /// Takes a held member back.
    pub fn retrieve_member(&self, domain: &str, conference: &str, participant: &str) -> Result<(), Refusal> {
        self.with(|tx| {
            tx.expect_status(domain, conference, participant, ParticipantStatus::OnHold)?;
            tx.edit_member(domain, conference, participant, |member| member.status = ParticipantStatus::Connected)
        })
    }

    /// Moves a connected member to another conference; its id there.
    pub fn move_member(&self, domain: &str, conference: &str, participant: &str, to: &str) -> Result<String, Refusal> {
        self.with(|tx| {
            tx.expect_status(domain, conference, participant, ParticipantStatus::Connected)?;
            let member = tx.member(domain, conference, participant)?.clone();
            if conference == to {
                return Err(bad_state("the member is there already"));
            }
            tx.admit(domain, to, &member.number)?;
            tx.leave(domain, conference, participant, Cause::Redirected)?;
            // Its licence goes with it.
            tx.take(LicenceKind::Members, 1).or_else(|_| tx.take_regardless())?;
            let invitee = Invitee { number: member.number, role: member.role, voice: member.voice };
            let id = tx.add_member(domain, to, &invitee, ParticipantStatus::DialingIn);
            tx.member(domain, to, &id)?.muted_itself = member.muted_itself;
            tx.pick_up(domain, to, &id)?;
            Ok(id)
        })
    }

    /// Starts (`On` from off; with `resume` from paused), pauses (`Paused` from on) or stops (`Off`) the recording.
    pub fn set_recording(&self, domain: &str, conference: &str, wanted: Recording, resume: bool) -> Result<(), Refusal> {
        self.with(|tx| {
            let now = tx.conference(domain, conference)?.recording;
            let fits = match wanted {
                Recording::On if resume => now == Recording::Paused,
                Recording::On => now == Recording::Off,
                Recording::Paused => now == Recording::On,
                Recording::Off => now != Recording::Off,
            };
            if !fits {
                return Err(bad_state("the recording is in another state"));
            }
            tx.edit(domain, conference, |found| found.recording = wanted)
        })
    }

    /// Prolongs a conference of limited time.
    pub fn extend(&self, domain: &str, conference: &str, seconds: u32) -> Result<(), Refusal> {
        self.with(|tx| {
            let end = tx.conference(domain, conference)?.ends_at.filter(|_| seconds > 0);
            let end = end.ok_or_else(|| bad_state("the conference has no planned end, or it is not to move"))?;
            let end = end.checked_add(SignedDuration::from_secs(i64::from(seconds))).map_err(|_| bad_state("that is too far away"))?;
            tx.edit(domain, conference, |found| found.ends_at = Some(end))?;
            tx.schedule_at(end, Timer::ConferenceEnds { domain: domain.to_owned(), conference: conference.to_owned() });
            Ok(())
        })
    }

    /// Ends a conference for everyone.
    pub fn end_conference(&self, domain: &str, conference: &str) -> Result<(), Refusal> {
        self.with(|tx| {
            tx.conference(domain, conference)?;
            tx.end(domain, conference, Cause::Normal);
            Ok(())
        })
    }
}

// === What members do themselves ===

impl Switch {
    /// An invited member answers.
    pub fn pick_up(&self, domain: &str, conference: &str, participant: &str) -> Result<(), Refusal> {
        self.with(|tx| tx.pick_up(domain, conference, participant))
    }

    /// A member hangs up, or refuses the invitation.
    pub fn leave(&self, domain: &str, conference: &str, participant: &str) -> Result<(), Refusal> {
        self.with(|tx| {
            let status = tx.member(domain, conference, participant)?.status;
            let answered = matches!(status, ParticipantStatus::Connected | ParticipantStatus::OnHold);
            tx.leave(domain, conference, participant, if answered { Cause::Normal } else { Cause::Rejected })
        })
    }

    /// A member unmutes itself, if it was asked to or the conference allows it.
    pub fn unmute_self(&self, domain: &str, conference: &str, participant: &str) -> Result<(), Refusal> {
        self.with(|tx| {
            let may = tx.conference(domain, conference)?.may_unmute;
            let member = tx.member(domain, conference, participant)?;
            if !may && !member.asked_to_unmute && member.role != Role::Presenter && !member.voice {
                return Err(Refusal::new(RefusalCause::NoRight, "the member may not unmute itself"));
            }
            tx.edit_member(domain, conference, participant, |member| set_voice(member, true))
        })
    }

    /// A member mutes itself.
    pub fn mute_self(&self, domain: &str, conference: &str, participant: &str) -> Result<(), Refusal> {
        self.with(|tx| {
            tx.edit_member(domain, conference, participant, |member| {
                // Who was muted already has not done it itself.
                member.muted_itself |= member.voice;
                set_voice(member, false);
            })
        })
    }

    /// A member asks for the floor.
    pub fn request_floor(&self, domain: &str, conference: &str, participant: &str) -> Result<(), Refusal> {
        self.with(|tx| {
            tx.expect_status(domain, conference, participant, ParticipantStatus::Connected)?;
            tx.edit_member(domain, conference, participant, |member| member.floor = true)
        })
    }

    /// A member no longer asks for the floor.
    pub fn withdraw_floor(&self, domain: &str, conference: &str, participant: &str) -> Result<(), Refusal> {
        self.with(|tx| {
            tx.wants_floor(domain, conference, participant)?;
            tx.edit_member(domain, conference, participant, |member| member.floor = false)
        })
    }

    /// A member begins or ceases to talk. Without a microphone it cannot.
    pub fn set_talking(&self, domain: &str, conference: &str, participant: &str, talking: bool) -> Result<(), Refusal> {
        self.with(|tx| {
            let member = tx.member(domain, conference, participant)?;
            if talking && (!member.voice || member.status != ParticipantStatus::Connected) {
                return Err(bad_state("the member has no microphone"));
            }
            tx.edit_member(domain, conference, participant, |member| member.talking = talking)
        })
    }
}

fn set_voice(member: &mut ParticipantView, voice: bool) {
    member.voice = voice;
    if voice {
        (member.floor, member.asked_to_unmute, member.muted_itself) = (false, false, false);
    } else {
        member.talking = false;
    }
}

// === Under the lock ===

impl Tx<'_> {
    fn conference(&mut self, domain: &str, conference: &str) -> Result<&mut ConferenceView, Refusal> {
        self.domain(domain)?.conferences.get_mut(conference).ok_or_else(no_such_conference)
    }

    pub(super) fn member(&mut self, domain: &str, conference: &str, participant: &str) -> Result<&mut ParticipantView, Refusal> {
        let found = self.conference(domain, conference)?;
        found.members.iter_mut().find(|member| member.id == participant).ok_or_else(no_such_participant)
    }

    /// The conference that calls a subscriber, and its membership there.
    pub(super) fn invitation_of(&mut self, domain: &str, alias: &str) -> Result<(String, String), Refusal> {
        use ParticipantStatus::{Alerting, DialingOut, Pending};
        let invited = |member: &&ParticipantView| member.number == alias && matches!(member.status, Pending | DialingOut | Alerting);
        let mut found = self.domain(domain)?.conferences.values().flat_map(|found| &found.members);
        let member = found.find(invited).ok_or_else(|| bad_state("nothing rings at that phone"))?;
        Ok((member.conference.clone(), member.id.clone()))
    }

    fn expect_status(&mut self, domain: &str, conference: &str, participant: &str, status: ParticipantStatus) -> Result<(), Refusal> {
        let now = self.member(domain, conference, participant)?.status;
        if now == status { Ok(()) } else { Err(bad_state(&format!("the member is {}", now.word()))) }
    }

    fn wants_floor(&mut self, domain: &str, conference: &str, participant: &str) -> Result<(), Refusal> {
        let member = self.member(domain, conference, participant)?;
        if member.floor { Ok(()) } else { Err(bad_state("the member does not ask for the floor")) }
    }

    /// Changes a conference; tells of it if anything is different.
    fn edit(&mut self, domain: &str, conference: &str, edit: impl FnOnce(&mut ConferenceView)) -> Result<(), Refusal> {
        let found = self.conference(domain, conference)?;
        let members = std::mem::take(&mut found.members);
        let before = found.clone();
        edit(found);
        let after = found.clone();
        found.members = members;
        if before != after {
            self.emit_in(domain, EventKind::Conference(after));
        }
        Ok(())
    }

    /// Changes a member; tells of it if anything is different.
    fn edit_member(
        &mut self,
        domain: &str,
        conference: &str,
        participant: &str,
        edit: impl FnOnce(&mut ParticipantView),
    ) -> Result<(), Refusal> {
        let member = self.member(domain, conference, participant)?;
        let before = member.clone();
        edit(member);
        let after = member.clone();
        if before != after {
            self.emit_in(domain, EventKind::Participant(after));
        }
        Ok(())
    }

    pub(super) fn set_status(&mut self, domain: &str, conference: &str, participant: &str, status: ParticipantStatus) {
        // A member that has gone meanwhile has no status.
        let _ = self.edit_member(domain, conference, participant, |member| member.status = status);
    }

    /// Whether a number may come in.
    fn admit(&mut self, domain: &str, conference: &str, number: &str) -> Result<(), Refusal> {
        if !self.domain(domain)?.is_subscriber(number) {
            self.conference(domain, conference)?;
            return Err(no_such_subscriber(number));
        }
        let found = self.conference(domain, conference)?;
        if found.locked {
            return Err(Refusal::new(RefusalCause::ConferenceLocked, "the conference is locked"));
        }
        if found.members.iter().any(|member| member.number == number) {
            return Err(Refusal::new(RefusalCause::AlreadyExists, format!("{number} is a member already")));
        }
        if found.members.len() >= usize::try_from(found.limit).unwrap_or(usize::MAX) {
            return Err(Refusal::new(RefusalCause::ConferenceFull, "the conference has all the members it may have"));
        }
        Ok(())
    }

    /// A member that moves keeps its licence, whatever became of the limit.
    fn take_regardless(&mut self) -> Result<(), Refusal> {
        let licence = self.state.licences.entry(LicenceKind::Members).or_default();
        licence.used = licence.used.saturating_add(1);
        Ok(())
    }

    fn add_member(&mut self, domain: &str, conference: &str, invitee: &Invitee, status: ParticipantStatus) -> String {
        let id = format!("p{}", self.id());
        let Ok(at) = self.domain(domain) else { return id };
        let name = at.name_of(&invitee.number);
        let Some(found) = at.conferences.get_mut(conference) else { return id };
        let member = ParticipantView {
            id: id.clone(),
            conference: conference.to_owned(),
            number: invitee.number.clone(),
            name,
            role: invitee.role,
            status,
            voice: invitee.voice,
            floor: false,
            talking: false,
            muted_itself: false,
            asked_to_unmute: false,
            joined_at: None,
            cause: None,
        };
        found.members.push(member.clone());
        self.emit_in(domain, EventKind::Participant(member));
        id
    }

    fn call_in(&mut self, domain: &str, conference: &str, invitee: &Invitee) -> String {
        let id = self.add_member(domain, conference, invitee, ParticipantStatus::DialingOut);
        let timer = Timer::MemberRings { domain: domain.to_owned(), conference: conference.to_owned(), member: id.clone() };
        self.schedule(self.options.dial_time, timer);
        id
    }

    pub(super) fn pick_up(&mut self, domain: &str, conference: &str, participant: &str) -> Result<(), Refusal> {
        let now = self.now;
        let status = self.member(domain, conference, participant)?.status;
        if matches!(status, ParticipantStatus::Connected | ParticipantStatus::OnHold) {
            return Err(bad_state("the member is connected already"));
        }
        self.edit_member(domain, conference, participant, |member| {
            (member.status, member.joined_at) = (ParticipantStatus::Connected, Some(now));
        })
    }

    pub(super) fn leave(&mut self, domain: &str, conference: &str, participant: &str, cause: Cause) -> Result<(), Refusal> {
        let found = self.conference(domain, conference)?;
        let place = found.members.iter().position(|member| member.id == participant).ok_or_else(no_such_participant)?;
        let mut member = found.members.remove(place);
        let empty = found.members.is_empty() && found.ends_when_empty;
        (member.status, member.cause) = (ParticipantStatus::Disconnected, Some(cause));
        (member.talking, member.floor, member.asked_to_unmute) = (false, false, false);
        self.give_back(LicenceKind::Members, 1);
        self.emit_in(domain, EventKind::ParticipantLeft(member));
        if empty {
            self.end(domain, conference, Cause::Normal);
        }
        Ok(())
    }

    pub(super) fn planned_end(&mut self, domain: &str, conference: &str) {
        let now = self.now;
        let due = self.conference(domain, conference).is_ok_and(|found| found.ends_at.is_some_and(|end| end <= now));
        if due {
            self.end(domain, conference, Cause::Normal);
        }
    }

    fn end(&mut self, domain: &str, conference: &str, cause: Cause) {
        let (now, keep) = (self.now, self.options.history);
        let Ok(at) = self.domain(domain) else { return };
        let Some(mut found) = at.conferences.remove(conference) else { return };
        let members = u32::try_from(found.members.len()).unwrap_or(u32::MAX);
        found.members = Vec::new();
        (found.ended_at, found.cause, found.recording) = (Some(now), Some(cause), Recording::Off);
        push_bounded(&mut at.ended, found, keep);
        self.give_back(LicenceKind::Members, members);
        self.give_back(LicenceKind::Conferences, 1);
        self.emit_in(domain, EventKind::ConferenceEnded { conference: conference.to_owned(), cause });
    }

    fn create(&mut self, domain: &str, request: ConferenceRequest) -> Result<String, Refusal> {
        let (now, switch_limit) = (self.now, self.options.conference_limit);
        let at = self.domain(domain)?;
        let template = match request.template.as_str() {
            "" => None,
            name => Some(at.templates.get(name).cloned().ok_or_else(|| no_such("template", name))?),
        };
        if !request.room.is_empty() {
            if !at.rooms.contains_key(&request.room) {
                return Err(no_such("room", &request.room));
            }
            if at.conferences.values().any(|running| running.room == request.room) {
                return Err(Refusal::new(RefusalCause::AlreadyExists, "a conference runs in that room already"));
            }
        }
        if at.extras.get(&request.initiator).is_some_and(|extra| extra.not_manager) {
            return Err(Refusal::new(RefusalCause::NoRight, "the initiator may not create conferences"));
        }
        let invitees = invitees_of(at, &request, template.as_ref())?;
        let pick = |own: u32, template: Option<u32>| if own > 0 { own } else { template.unwrap_or(0) };
        let limit = pick(request.limit, template.as_ref().map(|template| template.limit));
        let limit = if limit > 0 { limit } else { switch_limit };
        if invitees.len() > usize::try_from(limit).unwrap_or(usize::MAX) {
            return Err(Refusal::new(RefusalCause::ConferenceFull, "more members are declared than the conference may have"));
        }
        let seconds = pick(request.seconds, template.as_ref().map(|template| template.seconds));
        let count = u32::try_from(invitees.len()).unwrap_or(u32::MAX);
        self.take(LicenceKind::Conferences, 1)?;
        if let Err(refusal) = self.take(LicenceKind::Members, count) {
            self.give_back(LicenceKind::Conferences, 1);
            return Err(refusal);
        }
        let id = format!("c{}", self.id());
        let ends_at = (seconds > 0).then(|| now.saturating_add(Duration::from_secs(u64::from(seconds))).unwrap_or(now));
        let template = template.unwrap_or_else(|| Template {
            name: String::new(),
            description: String::new(),
            groups: Vec::new(),
            presenters: Vec::new(),
            participants: Vec::new(),
            voice: true,
            limit: 0,
            seconds: 0,
        });
        let conference = ConferenceView {
            id: id.clone(),
            domain: domain.to_owned(),
            name: if request.name.is_empty() { format!("Conference {id}") } else { request.name },
            description: template.description,
            room: request.room,
            template: template.name,
            initiator: request.initiator,
            started_at: now,
            ends_at,
            ended_at: None,
            cause: None,
            limit,
            locked: false,
            recording: Recording::Off,
            may_unmute: true,
            ends_when_empty: request.ends_when_empty,
            members: Vec::new(),
        };
        self.domain(domain)?.conferences.insert(id.clone(), conference.clone());
        self.emit_in(domain, EventKind::Conference(conference));
        if let Some(end) = ends_at {
            self.schedule_at(end, Timer::ConferenceEnds { domain: domain.to_owned(), conference: id.clone() });
        }
        for invitee in &invitees {
            self.call_in(domain, &id, invitee);
        }
        Ok(id)
    }
}

/// Everybody who is to be called, each once: the initiator, the declared, those of the groups, those named.
fn invitees_of(at: &super::Domain, request: &ConferenceRequest, template: Option<&Template>) -> Result<Vec<Invitee>, Refusal> {
    let mut wanted: Vec<(String, Role, bool)> = Vec::new();
    if !request.initiator.is_empty() {
        wanted.push((request.initiator.clone(), Role::Presenter, true));
    }
    let mut groups: Vec<&String> = request.groups.iter().collect();
    let voice = template.is_none_or(|template| template.voice);
    if let Some(template) = template {
        wanted.extend(template.presenters.iter().map(|number| (number.clone(), Role::Presenter, true)));
        wanted.extend(template.participants.iter().map(|number| (number.clone(), Role::Participant, voice)));
        groups.extend(&template.groups);
    }
    for group in groups {
        let members = at.numeric_groups.get(group).ok_or_else(|| no_such("group", group))?;
        wanted.extend(members.iter().map(|number| (number.clone(), Role::Participant, voice)));
    }
    wanted.extend(request.members.iter().map(|number| (number.clone(), Role::Participant, voice)));
    let mut seen = std::collections::HashSet::new();
    let mut invitees = Vec::new();
    for (number, role, voice) in wanted {
        if !at.is_subscriber(&number) {
            return Err(no_such_subscriber(&number));
        }
        if seen.insert(number.clone()) {
            invitees.push(Invitee { number, role, voice });
        }
    }
    Ok(invitees)
}

// === Queries and declarations ===

impl Switch {
    /// Conferences going on, in one domain or in all, with their members.
    pub fn conferences(&self, domain: Option<&str>) -> Vec<ConferenceView> {
        let state = self.0.state.lock();
        let wanted = state.domains.iter().filter(|(name, _)| domain.is_none_or(|domain| domain == name.as_str()));
        wanted.flat_map(|(_, at)| at.conferences.values().cloned()).collect()
    }

    /// A conference going on.
    pub fn conference(&self, domain: &str, conference: &str) -> Result<ConferenceView, Refusal> {
        self.read(domain, |at| at.conferences.get(conference).cloned().ok_or_else(no_such_conference))?
    }

    /// Conferences that have ended, oldest first, as far as they are kept.
    pub fn ended_conferences(&self, domain: &str) -> Result<Vec<ConferenceView>, Refusal> {
        self.read(domain, |at| at.ended.iter().cloned().collect())
    }

    /// A member, by its id or by its number.
    pub fn participant(&self, domain: &str, conference: &str, who: &str) -> Result<ParticipantView, Refusal> {
        let found = self.conference(domain, conference)?;
        found.members.into_iter().find(|member| member.id == who || member.number == who).ok_or_else(no_such_participant)
    }

    /// Rooms of a domain.
    pub fn rooms(&self, domain: &str) -> Result<Vec<Room>, Refusal> {
        self.read(domain, |at| at.rooms.values().cloned().collect())
    }

    /// Templates of a domain.
    pub fn templates(&self, domain: &str) -> Result<Vec<Template>, Refusal> {
        self.read(domain, |at| at.templates.values().cloned().collect())
    }

    /// Declares a room.
    pub fn declare_room(&self, domain: &str, room: Room) -> Result<(), Refusal> {
        self.with(|tx| {
            tx.domain(domain)?.rooms.insert(room.name.clone(), room);
            Ok(())
        })
    }

    /// Declares a template.
    pub fn declare_template(&self, domain: &str, template: Template) -> Result<(), Refusal> {
        self.with(|tx| {
            tx.domain(domain)?.templates.insert(template.name.clone(), template);
            Ok(())
        })
    }

    /// Declares a numeric group, whose members a conference calls.
    pub fn declare_numeric_group(&self, domain: &str, name: &str, numbers: Vec<String>) -> Result<(), Refusal> {
        self.with(|tx| {
            tx.domain(domain)?.numeric_groups.insert(name.to_owned(), numbers);
            Ok(())
        })
    }
}
