//! `ConferenceService`. Commands on one conference run one after the other, so that a version that was checked still holds when the
//! switch is asked.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use elph_model::Core;
use elph_proto::{
    reason::Reason,
    v1::{self, conference_service_server::ConferenceService},
};
use futures_util::{StreamExt, stream};
use mediator_client::switch::{
    Alias, CommandError, ConferenceCommand, Domain, SwitchConferenceId, SwitchParticipantId,
    command::{ConferenceOutcome, ConferenceRequest, MemberRef, Role},
};
use prost::Message;
use tokio::sync::Mutex;
use tonic::{Request, Response, Status};

use super::{
    Api,
    asked::Asked,
    calls::{MARGIN, SETTLE},
    check::Check,
    nothing, page_token, refill, slim,
};
use crate::{
    command::{Remembered, refused, unknown_outcome},
    config::Scope,
    link::Switch,
};

/// Invitations on their way to the switch at a time.
const PARALLEL: usize = 16;

/// Numeric groups in one request at most.
const MAX_GROUPS: usize = 100;

/// One lock for each conference that a command is about.
#[derive(Debug, Default)]
pub(super) struct Locks(parking_lot::Mutex<HashMap<String, Weak<Mutex<()>>>>);

impl Locks {
    fn of(&self, conference: &str) -> Arc<Mutex<()>> {
        let mut locks = self.0.lock();
        if let Some(lock) = locks.get(conference).and_then(Weak::upgrade) {
            return lock;
        }
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::new(Mutex::new(()));
        locks.insert(conference.to_owned(), Arc::downgrade(&lock));
        lock
    }
}

macro_rules! remembered {
    ($($response:ty: $($field:ident),+;)+) => { $(
        impl Remembered for $response {
            fn slim(&mut self) {
                $(slim(&mut self.$field);)+
            }
            fn refill(&mut self, core: &Core) {
                $(refill(&mut self.$field, core);)+
            }
        }
    )+ };
}

remembered! {
    v1::CreateConferenceResponse: conference;
    v1::InviteParticipantsResponse: conference;
    v1::CancelInvitationResponse: conference;
    v1::RemoveParticipantResponse: conference;
    v1::MuteParticipantResponse: conference;
    v1::UnmuteParticipantResponse: conference;
    v1::AskToUnmuteResponse: conference;
    v1::MuteAllResponse: conference;
    v1::GrantFloorResponse: conference;
    v1::DenyFloorResponse: conference;
    v1::SetRoleResponse: conference;
    v1::LockConferenceResponse: conference;
    v1::UnlockConferenceResponse: conference;
    v1::HoldParticipantResponse: conference;
    v1::RetrieveParticipantResponse: conference;
    v1::MoveParticipantResponse: conference, to_conference;
    v1::StartRecordingResponse: conference;
    v1::PauseRecordingResponse: conference;
    v1::ResumeRecordingResponse: conference;
    v1::StopRecordingResponse: conference;
    v1::ExtendConferenceResponse: conference;
    v1::EndConferenceResponse: conference;
}

/// A conference that a command names, as it was when the command began.
struct Subject {
    conference: v1::Conference,
    id: SwitchConferenceId,
}

impl Subject {
    fn of(core: &Core, id: &str, expected_version: u64) -> Result<Self, Status> {
        let conference = core.conference(id).ok_or_else(|| unknown_conference(id))?;
        if conference.state() == v1::ConferenceState::Ended {
            return Err(Reason::ConferenceEnded.status("the conference is over"));
        }
        if expected_version != 0 && expected_version != conference.version {
            let text = format!("the conference has version {}, not {expected_version}: look at it again", conference.version);
            let metadata = HashMap::from([("version".to_owned(), conference.version.to_string())]);
            return Err(Reason::VersionChanged.status_with(text, metadata));
        }
        let switch_id = SwitchConferenceId::parse(&conference.switch_conference_id).map_err(super::defect)?;
        Ok(Self { conference, id: switch_id })
    }

    fn member(&self, core: &Core, participant: &str) -> Result<(v1::Participant, MemberRef), Status> {
        let found = self.conference.participants.iter().find(|it| it.id == participant);
        let found = found.ok_or_else(|| match core.has_left(&self.conference.id, participant) {
            true => Reason::ParticipantLeft.status("the participant has left"),
            false => Reason::UnknownParticipant.status("the conference has no such participant"),
        })?;
        let id = SwitchParticipantId::parse(&found.id).map_err(super::defect)?;
        Ok((found.clone(), MemberRef { conference: self.id.clone(), participant: id }))
    }
}

fn unknown_conference(id: &str) -> Status {
    nothing(Reason::UnknownConference, id)
}

/// The switch does not know what the model knew a moment ago: it is over, or has left.
fn no_longer(status: Status) -> Status {
    match Reason::of(&status) {
        Some(Reason::UnknownParticipant) => Reason::ParticipantLeft.status("the participant has left"),
        Some(Reason::UnknownConference) => Reason::ConferenceEnded.status("the conference is over"),
        _ => status,
    }
}

/// Has the switch do it, and waits until the model shows it. When the answer is lost, the switch is looked at before anything is said.
async fn execute<R>(
    switch: &Switch,
    domain: &Domain,
    command: ConferenceCommand,
    seen: impl Fn(&Core, &ConferenceOutcome) -> Option<R>,
) -> Result<R, Status> {
    let leaves_a_trace = leaves_a_trace(&command);
    let (outcome, lost) = match switch.conference(domain, command).await {
        Ok(outcome) => (outcome, None),
        Err(error @ (CommandError::OutcomeUnknown { .. } | CommandError::BadAnswer { .. })) => (ConferenceOutcome::default(), Some(error)),
        Err(error) => return Err(refused(&error)),
    };
    if lost.is_none()
        && let Some(result) = switch.core().wait(SETTLE, |core| seen(core, &outcome)).await
    {
        return Ok(result);
    }
    let compared = switch.verify_conferences(domain, switch.command_timeout()).await;
    match (seen(switch.core(), &outcome).filter(|_| lost.is_none() || leaves_a_trace), lost) {
        (Some(result), _) => Ok(result),
        (None, Some(error)) => Err(unknown_outcome(&error.to_string())),
        (None, None) if compared => Err(unknown_outcome("the switch said yes, but its state does not show it")),
        (None, None) => Err(unknown_outcome("the switch said yes, but its state could not be read")),
    }
}

/// Whether the state shows that just this command was done. Otherwise only the switch's answer tells.
fn leaves_a_trace(command: &ConferenceCommand) -> bool {
    match command {
        ConferenceCommand::AskToUnmute(_) => false,
        // Without a name or a room it could be anybody's.
        ConferenceCommand::Create(wanted) => wanted.name.is_some() || wanted.room.is_some(),
        _ => true,
    }
}

/// The conference, if it and its participant are as wanted.
fn when(core: &Core, id: &str, wanted: impl FnOnce(&v1::Conference) -> bool) -> Option<v1::Conference> {
    core.conference(id).filter(wanted)
}

fn member_is(conference: &v1::Conference, participant: &str, wanted: impl Fn(&v1::Participant) -> bool) -> bool {
    conference.participants.iter().any(|it| it.id == participant && wanted(it))
}

fn is_gone(conference: &v1::Conference, participant: &str) -> bool {
    !conference.participants.iter().any(|it| it.id == participant)
}

/// What all commands on a conference have in common.
struct Common {
    conference_id: String,
    expected_version: u64,
    participant_id: Option<String>,
}

impl Api {
    /// Runs a command on one conference, and on one participant of it where the request names one.
    async fn conference_command<T: Message + Asked, R: Remembered>(
        &self,
        request: &Request<T>,
        common: Common,
        mut check: Check,
        command: impl FnOnce(&Core, &Subject, Option<(v1::Participant, MemberRef)>) -> Result<ConferenceCommand, Status> + Send + 'static,
        seen: impl Fn(&Core, &v1::Conference, &ConferenceOutcome) -> Option<R> + Send + Sync + 'static,
    ) -> Result<Response<R>, Status> {
        let Common { conference_id, expected_version, participant_id } = common;
        check.request_id(request.get_ref().request_id());
        check.id("conference_id", &conference_id);
        if let Some(participant) = &participant_id {
            check.id("participant_id", participant);
        }
        check.done(Some(()))?;
        let Some(domain) = self.core().conference(&conference_id).and_then(|it| Domain::parse(&it.domain).ok()) else {
            return self.replay(request, Scope::Conferences, &conference_id, unknown_conference(&conference_id));
        };
        let unknown = Reason::UnknownConference;
        let principal = self.authorize_object(request, Scope::Conferences, true, Some(domain.as_str()), unknown, &conference_id).await?;
        let mut objects = vec![("conference_id", conference_id.clone(), false)];
        objects.extend(participant_id.clone().map(|id| ("participant_id", id, true)));
        let ask = self.ask(principal, &domain, request.get_ref(), objects);
        let (switch, locks) = (self.switch.clone(), self.conference_locks.clone());
        self.run(ask, async move {
            let lock = locks.of(&conference_id);
            let _one_at_a_time = lock.lock().await;
            let subject = Subject::of(switch.core(), &conference_id, expected_version)?;
            let member = participant_id.map(|id| subject.member(switch.core(), &id)).transpose()?;
            let command = command(switch.core(), &subject, member)?;
            let done = execute(&switch, &domain, command, move |core, outcome| seen(core, &subject.conference, outcome)).await;
            done.map_err(no_longer)
        })
        .await
    }
}

/// A command on one participant, whose effect shows in the participant.
macro_rules! member_command {
    ($api:expr, $request:expr, $response:ident, $command:ident, $seen:expr) => {{
        let request = $request;
        let asked = request.get_ref();
        let common = Common {
            conference_id: asked.conference_id.clone(),
            expected_version: asked.expected_version,
            participant_id: Some(asked.participant_id.clone()),
        };
        let participant = asked.participant_id.clone();
        let command = |_: &Core, _: &Subject, member: Option<(v1::Participant, MemberRef)>| {
            let (_, member) = member.ok_or_else(|| super::defect("the command names no participant"))?;
            Ok(ConferenceCommand::$command(member))
        };
        let seen = move |core: &Core, before: &v1::Conference, _: &ConferenceOutcome| {
            let wanted: fn(&v1::Conference, &str) -> bool = $seen;
            when(core, &before.id, |now| wanted(now, &participant)).map(|now| v1::$response { conference: Some(now) })
        };
        $api.conference_command(&request, common, Check::default(), command, seen).await
    }};
}

/// A command on the whole conference, whose effect shows in it.
macro_rules! whole_command {
    ($api:expr, $request:expr, $response:ident, $command:ident, $seen:expr) => {{
        let request = $request;
        let asked = request.get_ref();
        let common = Common { conference_id: asked.conference_id.clone(), expected_version: asked.expected_version, participant_id: None };
        let command = |_: &Core, subject: &Subject, _| Ok(ConferenceCommand::$command(subject.id.clone()));
        let seen = move |core: &Core, before: &v1::Conference, _: &ConferenceOutcome| {
            let wanted: fn(&v1::Conference) -> bool = $seen;
            when(core, &before.id, wanted).map(|now| v1::$response { conference: Some(now) })
        };
        $api.conference_command(&request, common, Check::default(), command, seen).await
    }};
}

#[tonic::async_trait]
impl ConferenceService for Api {
    async fn list_conferences(
        &self,
        request: Request<v1::ListConferencesRequest>,
    ) -> Result<Response<v1::ListConferencesResponse>, Status> {
        let asked = request.get_ref();
        let mut check = Check::default();
        let domain = check.domain("domain", &asked.domain);
        let size = check.page_size(asked.page_size);
        let after = check.page_token(&asked.page_token);
        let domain = check.done(domain)?;
        self.authorize(&request, Scope::Conferences, false, Some(&domain)).await?;
        self.served(&domain)?;
        let matches =
            |it: &v1::Conference| it.domain == domain.as_str() && (asked.include_ended || it.state() != v1::ConferenceState::Ended);
        let page = self.core().conferences(after.as_ref(), size, asked.include_participants, matches);
        Ok(Response::new(v1::ListConferencesResponse { conferences: page.items, next_page_token: page_token(page.next) }))
    }

    async fn get_conference(&self, request: Request<v1::GetConferenceRequest>) -> Result<Response<v1::GetConferenceResponse>, Status> {
        let id = request.get_ref().conference_id.clone();
        Check::only_id("conference_id", &id)?;
        let conference = self.core().conference(&id);
        let domain = conference.as_ref().map(|it| it.domain.as_str());
        self.authorize_object(&request, Scope::Conferences, false, domain, Reason::UnknownConference, &id).await?;
        Ok(Response::new(v1::GetConferenceResponse { conference }))
    }

    async fn create_conference(
        &self,
        request: Request<v1::CreateConferenceRequest>,
    ) -> Result<Response<v1::CreateConferenceResponse>, Status> {
        let asked = request.get_ref().clone();
        let mut check = Check::default();
        check.request_id(&asked.request_id);
        let domain = check.domain("domain", &asked.domain);
        check.optional_text("name", &asked.name, 128);
        let initiator = (!asked.initiator_alias.is_empty()).then(|| check.alias("initiator_alias", &asked.initiator_alias)).flatten();
        let members = check.numbers("numbers", &asked.numbers, 0);
        if asked.groups.len() > MAX_GROUPS {
            check.say("groups", format!("must be at most {MAX_GROUPS}"));
        }
        for (index, group) in asked.groups.iter().enumerate().take(MAX_GROUPS) {
            check.id(&format!("groups[{index}]"), group);
        }
        let (room, template) = match &asked.source {
            Some(v1::create_conference_request::Source::Room(room)) => (Some(room.clone()), None),
            Some(v1::create_conference_request::Source::Template(template)) => (None, Some(template.clone())),
            None => (None, None),
        };
        for (field, value) in [("room", &room), ("template", &template)] {
            if let Some(value) = value {
                check.id(field, value);
            }
        }
        let (domain, members) = check.done(domain.zip(members))?;
        let principal = self.authorize(&request, Scope::Conferences, true, Some(&domain)).await?;
        self.served(&domain)?;
        let objects = vec![("room", room.clone().unwrap_or_default(), false), ("name", asked.name.clone(), true)];
        let ask = self.ask(principal, &domain, &asked, objects);
        let switch = self.switch.clone();
        self.run(ask, async move {
            let of_domain = |it: &v1::Conference| it.domain == domain.as_str();
            let before: Vec<String> =
                switch.core().conferences(None, usize::MAX, false, of_domain).items.into_iter().map(|it| it.id).collect();
            let wanted_room = room.clone();
            let wanted = ConferenceRequest {
                name: (!asked.name.is_empty()).then(|| asked.name.clone()),
                initiator,
                room,
                template,
                groups: asked.groups.clone(),
                members,
                max_participants: asked.max_participants,
            };
            let searched = domain.clone();
            let seen = move |core: &Core, outcome: &ConferenceOutcome| {
                let found = match &outcome.conference {
                    Some(id) => core.conference_by_switch_id(&searched, id),
                    None => {
                        let new = |it: &v1::Conference| {
                            let is_new = !before.contains(&it.id) && it.state() != v1::ConferenceState::Ended;
                            let named = asked.name.is_empty() || it.name == asked.name;
                            let there = wanted_room.as_ref().is_none_or(|room| it.room == *room);
                            it.domain == searched.as_str() && is_new && named && there
                        };
                        core.conferences(None, 1, true, new).items.into_iter().next()
                    }
                };
                found.map(|conference| v1::CreateConferenceResponse { conference: Some(conference) })
            };
            execute(&switch, &domain, ConferenceCommand::Create(wanted), seen).await
        })
        .await
    }

    async fn invite_participants(
        &self,
        request: Request<v1::InviteParticipantsRequest>,
    ) -> Result<Response<v1::InviteParticipantsResponse>, Status> {
        let asked = request.get_ref().clone();
        let mut check = Check::default();
        check.request_id(&asked.request_id);
        check.id("conference_id", &asked.conference_id);
        let numbers = check.numbers("numbers", &asked.numbers, 1);
        if v1::ParticipantRole::try_from(asked.role).is_err() {
            check.say("role", "must be PARTICIPANT_ROLE_PARTICIPANT or PARTICIPANT_ROLE_PRESENTER, or left out");
        }
        let numbers = check.done(numbers)?;
        let Some(domain) = self.core().conference(&asked.conference_id).and_then(|it| Domain::parse(&it.domain).ok()) else {
            let unknown = unknown_conference(&asked.conference_id);
            return self.replay(&request, Scope::Conferences, &asked.conference_id, unknown);
        };
        let unknown = Reason::UnknownConference;
        let scope = Scope::Conferences;
        let principal = self.authorize_object(&request, scope, true, Some(domain.as_str()), unknown, &asked.conference_id).await?;
        let objects = vec![("conference_id", asked.conference_id.clone(), false), ("numbers", asked.numbers.len().to_string(), false)];
        let ask = self.ask(principal, &domain, &asked, objects);
        let (switch, locks) = (self.switch.clone(), self.conference_locks.clone());
        self.run(ask, async move {
            let lock = locks.of(&asked.conference_id);
            let _one_at_a_time = lock.lock().await;
            let subject = Subject::of(switch.core(), &asked.conference_id, asked.expected_version)?;
            let role = if asked.role() == v1::ParticipantRole::Presenter { Role::Presenter } else { Role::Participant };
            // Whoever is not asked by then would not have an answer within the command's time.
            let last = tokio::time::Instant::now() + MARGIN - SETTLE;
            let (switch, domain, subject) = (&switch, &domain, &subject);
            let invitations = numbers.into_iter().map(|number| async move {
                if tokio::time::Instant::now() < last {
                    invite(switch, domain, subject, number, role).await
                } else {
                    not_attempted(&number)
                }
            });
            let results: Vec<v1::InvitationResult> = stream::iter(invitations).buffered(PARALLEL).collect().await;
            // Who was asked alone and refused gets the refusal itself.
            if let [only] = results.as_slice()
                && let Some(reason) = Reason::ALL.iter().find(|reason| reason.as_str() == only.reason)
            {
                return Err(reason.status(only.message.clone()));
            }
            let conference = switch.core().conference(&asked.conference_id);
            Ok(v1::InviteParticipantsResponse { conference, results })
        })
        .await
    }

    async fn cancel_invitation(
        &self,
        request: Request<v1::CancelInvitationRequest>,
    ) -> Result<Response<v1::CancelInvitationResponse>, Status> {
        member_command!(self, request, CancelInvitationResponse, CancelInvitation, is_gone)
    }

    async fn remove_participant(
        &self,
        request: Request<v1::RemoveParticipantRequest>,
    ) -> Result<Response<v1::RemoveParticipantResponse>, Status> {
        member_command!(self, request, RemoveParticipantResponse, Remove, is_gone)
    }

    async fn mute_participant(
        &self,
        request: Request<v1::MuteParticipantRequest>,
    ) -> Result<Response<v1::MuteParticipantResponse>, Status> {
        let muted = |now: &v1::Conference, id: &str| member_is(now, id, |it| it.muted);
        member_command!(self, request, MuteParticipantResponse, Mute, muted)
    }

    async fn unmute_participant(
        &self,
        request: Request<v1::UnmuteParticipantRequest>,
    ) -> Result<Response<v1::UnmuteParticipantResponse>, Status> {
        let heard = |now: &v1::Conference, id: &str| member_is(now, id, |it| !it.muted);
        member_command!(self, request, UnmuteParticipantResponse, Unmute, heard)
    }

    async fn ask_to_unmute(&self, request: Request<v1::AskToUnmuteRequest>) -> Result<Response<v1::AskToUnmuteResponse>, Status> {
        // What the participant decides shows later, or never.
        let asked = |now: &v1::Conference, id: &str| !is_gone(now, id);
        member_command!(self, request, AskToUnmuteResponse, AskToUnmute, asked)
    }

    async fn mute_all(&self, request: Request<v1::MuteAllRequest>) -> Result<Response<v1::MuteAllResponse>, Status> {
        let asked = request.get_ref().clone();
        let mut check = Check::default();
        if asked.may_unmute_themselves.is_none() {
            check.say("may_unmute_themselves", "must be said: true or false");
        }
        let may = asked.may_unmute_themselves.unwrap_or_default();
        let common = Common { conference_id: asked.conference_id, expected_version: asked.expected_version, participant_id: None };
        let command = move |_: &Core, subject: &Subject, _| {
            Ok(ConferenceCommand::MuteAll { conference: subject.id.clone(), may_unmute_themselves: may })
        };
        let told = self.switch.tells_may_unmute();
        let seen = move |core: &Core, before: &v1::Conference, _: &ConferenceOutcome| {
            // Who has come since then may have a microphone.
            let meant = |it: &v1::Participant| member_is(before, &it.id, |it| it.status() == v1::ParticipantStatus::Connected);
            let silent = |it: &v1::Participant| it.muted || it.role() == v1::ParticipantRole::Presenter || !meant(it);
            let said = |now: &v1::Conference| !told || now.may_unmute_themselves == may;
            let now = when(core, &before.id, |now| said(now) && now.participants.iter().all(silent))?;
            Some(v1::MuteAllResponse { conference: Some(now) })
        };
        self.conference_command(&request, common, check, command, seen).await
    }

    async fn list_floor_requests(
        &self,
        request: Request<v1::ListFloorRequestsRequest>,
    ) -> Result<Response<v1::ListFloorRequestsResponse>, Status> {
        let id = request.get_ref().conference_id.clone();
        Check::only_id("conference_id", &id)?;
        let conference = self.core().conference(&id);
        let domain = conference.as_ref().map(|it| it.domain.as_str());
        self.authorize_object(&request, Scope::Conferences, false, domain, Reason::UnknownConference, &id).await?;
        let conference = conference.unwrap_or_default();
        let mut participants = conference.participants;
        participants.retain(|it| it.floor_requested);
        participants.sort_by_key(|it| it.floor_request_time.map_or((i64::MAX, 0), |at| (at.seconds, at.nanos)));
        Ok(Response::new(v1::ListFloorRequestsResponse { participants, version: conference.version }))
    }

    async fn grant_floor(&self, request: Request<v1::GrantFloorRequest>) -> Result<Response<v1::GrantFloorResponse>, Status> {
        let granted = |now: &v1::Conference, id: &str| member_is(now, id, |it| !it.floor_requested && !it.muted);
        member_command!(self, request, GrantFloorResponse, GrantFloor, granted)
    }

    async fn deny_floor(&self, request: Request<v1::DenyFloorRequest>) -> Result<Response<v1::DenyFloorResponse>, Status> {
        let denied = |now: &v1::Conference, id: &str| member_is(now, id, |it| !it.floor_requested);
        member_command!(self, request, DenyFloorResponse, DenyFloor, denied)
    }

    async fn set_role(&self, request: Request<v1::SetRoleRequest>) -> Result<Response<v1::SetRoleResponse>, Status> {
        let asked = request.get_ref().clone();
        let mut check = Check::default();
        let role = match asked.role() {
            v1::ParticipantRole::Presenter => Role::Presenter,
            v1::ParticipantRole::Participant => Role::Participant,
            v1::ParticipantRole::Unspecified => {
                check.say("role", "must be PARTICIPANT_ROLE_PARTICIPANT or PARTICIPANT_ROLE_PRESENTER");
                Role::Participant
            }
        };
        let (wanted, participant) = (asked.role(), asked.participant_id.clone());
        let common = Common {
            conference_id: asked.conference_id,
            expected_version: asked.expected_version,
            participant_id: Some(asked.participant_id),
        };
        let command = move |_: &Core, _: &Subject, member: Option<(v1::Participant, MemberRef)>| {
            let (_, member) = member.ok_or_else(|| super::defect("the command names no participant"))?;
            Ok(ConferenceCommand::SetRole { member, role })
        };
        let seen = move |core: &Core, before: &v1::Conference, _: &ConferenceOutcome| {
            let now = when(core, &before.id, |now| member_is(now, &participant, |it| it.role() == wanted))?;
            Some(v1::SetRoleResponse { conference: Some(now) })
        };
        self.conference_command(&request, common, check, command, seen).await
    }

    async fn lock_conference(&self, request: Request<v1::LockConferenceRequest>) -> Result<Response<v1::LockConferenceResponse>, Status> {
        whole_command!(self, request, LockConferenceResponse, Lock, |now| now.locked)
    }

    async fn unlock_conference(
        &self,
        request: Request<v1::UnlockConferenceRequest>,
    ) -> Result<Response<v1::UnlockConferenceResponse>, Status> {
        whole_command!(self, request, UnlockConferenceResponse, Unlock, |now| !now.locked)
    }

    async fn hold_participant(
        &self,
        request: Request<v1::HoldParticipantRequest>,
    ) -> Result<Response<v1::HoldParticipantResponse>, Status> {
        let held = |now: &v1::Conference, id: &str| member_is(now, id, |it| it.status() == v1::ParticipantStatus::OnHold);
        member_command!(self, request, HoldParticipantResponse, Hold, held)
    }

    async fn retrieve_participant(
        &self,
        request: Request<v1::RetrieveParticipantRequest>,
    ) -> Result<Response<v1::RetrieveParticipantResponse>, Status> {
        let back = |now: &v1::Conference, id: &str| member_is(now, id, |it| it.status() == v1::ParticipantStatus::Connected);
        member_command!(self, request, RetrieveParticipantResponse, Retrieve, back)
    }

    async fn move_participant(
        &self,
        request: Request<v1::MoveParticipantRequest>,
    ) -> Result<Response<v1::MoveParticipantResponse>, Status> {
        let asked = request.get_ref().clone();
        let mut check = Check::default();
        check.id("to_conference_id", &asked.to_conference_id);
        if asked.to_conference_id == asked.conference_id {
            check.say("to_conference_id", "must be another conference");
        }
        let (participant, to) = (asked.participant_id.clone(), asked.to_conference_id.clone());
        let common = Common {
            conference_id: asked.conference_id,
            expected_version: asked.expected_version,
            participant_id: Some(asked.participant_id),
        };
        let command = move |core: &Core, subject: &Subject, member: Option<(v1::Participant, MemberRef)>| {
            let (_, member) = member.ok_or_else(|| super::defect("the command names no participant"))?;
            // First the domain: of another tenant's conference not even its end is told.
            let domain = core.conference(&asked.to_conference_id).map(|target| target.domain);
            if domain.is_none_or(|domain| domain != subject.conference.domain) {
                return Err(unknown_conference(&asked.to_conference_id));
            }
            let target = Subject::of(core, &asked.to_conference_id, 0)?;
            Ok(ConferenceCommand::Move { member, to: target.id })
        };
        let seen = move |core: &Core, before: &v1::Conference, outcome: &ConferenceOutcome| {
            let now = when(core, &before.id, |now| is_gone(now, &participant))?;
            let number = before.participants.iter().find(|it| it.id == participant).map(|it| it.number.clone());
            let arrived = |it: &v1::Participant| match &outcome.participant {
                Some(id) => it.id == id.as_str(),
                None => it.id == participant || (!it.number.is_empty() && Some(&it.number) == number.as_ref()),
            };
            let target = when(core, &to, |target| target.participants.iter().any(arrived))?;
            Some(v1::MoveParticipantResponse { conference: Some(now), to_conference: Some(target) })
        };
        self.conference_command(&request, common, check, command, seen).await
    }

    async fn start_recording(&self, request: Request<v1::StartRecordingRequest>) -> Result<Response<v1::StartRecordingResponse>, Status> {
        let on = |now: &v1::Conference| now.recording() == v1::RecordingState::On;
        whole_command!(self, request, StartRecordingResponse, StartRecording, on)
    }

    async fn pause_recording(&self, request: Request<v1::PauseRecordingRequest>) -> Result<Response<v1::PauseRecordingResponse>, Status> {
        let paused = |now: &v1::Conference| now.recording() == v1::RecordingState::Paused;
        whole_command!(self, request, PauseRecordingResponse, PauseRecording, paused)
    }

    async fn resume_recording(
        &self,
        request: Request<v1::ResumeRecordingRequest>,
    ) -> Result<Response<v1::ResumeRecordingResponse>, Status> {
        let on = |now: &v1::Conference| now.recording() == v1::RecordingState::On;
        whole_command!(self, request, ResumeRecordingResponse, ResumeRecording, on)
    }

    async fn stop_recording(&self, request: Request<v1::StopRecordingRequest>) -> Result<Response<v1::StopRecordingResponse>, Status> {
        let off = |now: &v1::Conference| now.recording() == v1::RecordingState::Off;
        whole_command!(self, request, StopRecordingResponse, StopRecording, off)
    }

    async fn extend_conference(
        &self,
        request: Request<v1::ExtendConferenceRequest>,
    ) -> Result<Response<v1::ExtendConferenceResponse>, Status> {
        let asked = request.get_ref().clone();
        let mut check = Check::default();
        let by = asked.by.unwrap_or_default();
        let seconds = u32::try_from(by.seconds).ok().filter(|seconds| (60..=86_400).contains(seconds) && by.nanos == 0);
        if seconds.is_none() {
            check.say("by", "must be whole seconds, from 60 s to 24 h");
        }
        let common = Common { conference_id: asked.conference_id, expected_version: asked.expected_version, participant_id: None };
        let seconds = seconds.unwrap_or_default();
        let command = move |_: &Core, subject: &Subject, _| Ok(ConferenceCommand::Extend { conference: subject.id.clone(), seconds });
        let seen = |core: &Core, before: &v1::Conference, _: &ConferenceOutcome| {
            let end = |it: &v1::Conference| it.planned_end_time.map(|at| at.seconds);
            let now = when(core, &before.id, |now| end(now) > end(before))?;
            Some(v1::ExtendConferenceResponse { conference: Some(now) })
        };
        self.conference_command(&request, common, check, command, seen).await
    }

    async fn end_conference(&self, request: Request<v1::EndConferenceRequest>) -> Result<Response<v1::EndConferenceResponse>, Status> {
        let over = |now: &v1::Conference| now.state() == v1::ConferenceState::Ended;
        whole_command!(self, request, EndConferenceResponse, End, over)
    }
}

/// Invites one number; what the switch says of it is a result, not a failure of the others.
fn not_attempted(number: &Alias) -> v1::InvitationResult {
    v1::InvitationResult {
        number: number.to_string(),
        reason: Reason::NotAttempted.as_str().to_owned(),
        message: "the switch was too slow with those before: ask again for this number".to_owned(),
        ..Default::default()
    }
}

async fn invite(switch: &Switch, domain: &Domain, subject: &Subject, number: Alias, role: Role) -> v1::InvitationResult {
    let text = number.as_str().to_owned();
    let before: Vec<String> = subject.conference.participants.iter().map(|it| it.id.clone()).collect();
    let id = subject.conference.id.clone();
    let seen = |core: &Core, outcome: &ConferenceOutcome| {
        let conference = core.conference(&id)?;
        let invited = |it: &&v1::Participant| match &outcome.participant {
            Some(id) => it.id == id.as_str(),
            None => it.number == text && !before.contains(&it.id),
        };
        match conference.participants.iter().find(invited) {
            Some(participant) => Some(participant.id.clone()),
            // Called and gone again already: busy, or no such number.
            None => outcome.participant.as_ref().map(ToString::to_string).filter(|it| core.has_left(&id, it)),
        }
    };
    let command = ConferenceCommand::Invite { conference: subject.id.clone(), number, role };
    match execute(switch, domain, command, seen).await.map_err(no_longer) {
        Ok(participant_id) => v1::InvitationResult { number: text, participant_id, ..Default::default() },
        Err(status) => v1::InvitationResult {
            number: text,
            reason: Reason::of(&status).map_or("OUTCOME_UNKNOWN", Reason::as_str).to_owned(),
            message: status.message().to_owned(),
            ..Default::default()
        },
    }
}
