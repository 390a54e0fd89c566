//! `elphctl conf`.

use elph_proto::v1::{
    AskToUnmuteRequest, CancelInvitationRequest, Conference, ConferenceState, CreateConferenceRequest, DenyFloorRequest,
    EndConferenceRequest, ExtendConferenceRequest, GetConferenceResponse, GrantFloorRequest, HoldParticipantRequest,
    InviteParticipantsRequest, ListConferencesRequest, ListConferencesResponse, ListFloorRequestsRequest, LockConferenceRequest,
    MoveParticipantRequest, MuteAllRequest, MuteParticipantRequest, ParticipantRole, PauseRecordingRequest, RemoveParticipantRequest,
    ResumeRecordingRequest, RetrieveParticipantRequest, SetRoleRequest, StartRecordingRequest, StopRecordingRequest,
    UnlockConferenceRequest, UnmuteParticipantRequest, create_conference_request::Source,
};
use prost::Message;

use super::{Session, resolve::PAGE};
use crate::{
    change::Change,
    cli::conf::{ConfCommand, CreateConference, FloorCommand, Invite, ListConferences, OneParticipant, RecordCommand, Role, Target, YesNo},
    failure::Failure,
    output::note,
    render,
};

/// Sends a command about a conference as a whole.
macro_rules! order {
    ($session:ident, $target:expr, $method:ident, $request:ident $(, $field:ident: $value:expr)* => $answer:literal) => {{
        let target = &$target;
        let (change, conference_id) = $session.target(target).await?;
        let (request_id, expected_version) = (change.request_id().to_owned(), target.if_version);
        let request = $request { request_id, conference_id, expected_version $(, $field: $value)* };
        let answer = $session.agent.order(&change, $session.agent.conferences().$method(request)).await?;
        $session.summarise($answer, &answer, answer.conference.as_ref(), None)
    }};
}

/// Sends a command about one participant.
macro_rules! moderate {
    ($session:ident, $one:expr, $method:ident, $request:ident $(, $field:ident: $value:expr)* => $answer:literal) => {{
        let one = &$one;
        let (change, conference_id, participant_id) = $session.participant(one).await?;
        let (request_id, expected_version) = (change.request_id().to_owned(), one.target.if_version);
        let participant = participant_id.clone();
        let request = $request { request_id, conference_id, expected_version, participant_id $(, $field: $value)* };
        let answer = $session.agent.order(&change, $session.agent.conferences().$method(request)).await?;
        $session.summarise($answer, &answer, answer.conference.as_ref(), Some(&participant))
    }};
}

impl Session<'_> {
    /// Runs a command.
    pub(crate) async fn conferences(&mut self, command: ConfCommand) -> Result<(), Failure> {
        match command {
            ConfCommand::List(list) => self.list_conferences(list).await,
            ConfCommand::Get { conference } => {
                let id = self.conference_id(&conference.conference).await?;
                let conference = self.conference(&id).await?;
                self.show_conference(conference)
            }
            ConfCommand::Watch { conference } => {
                let id = self.conference_id(&conference.conference).await?;
                Box::pin(self.watch_conference(id)).await
            }
            ConfCommand::Create(create) => self.create(create).await,
            ConfCommand::Invite(invite) => self.invite(invite).await,
            ConfCommand::Floor(FloorCommand::List { conference }) => self.floor(&conference.conference).await,
            ConfCommand::MuteAll { .. }
            | ConfCommand::Lock(_)
            | ConfCommand::Unlock(_)
            | ConfCommand::Record(_)
            | ConfCommand::Extend { .. }
            | ConfCommand::End(_) => Box::pin(self.order_whole(command)).await,
            _ => Box::pin(self.moderate(command)).await,
        }
    }

    async fn order_whole(&mut self, command: ConfCommand) -> Result<(), Failure> {
        match command {
            ConfCommand::MuteAll { target, may_unmute } => {
                let may = Some(may_unmute == YesNo::Yes);
                order!(self, target, mute_all, MuteAllRequest, may_unmute_themselves: may => "MuteAllResponse")
            }
            ConfCommand::Lock(target) => order!(self, target, lock_conference, LockConferenceRequest => "LockConferenceResponse"),
            ConfCommand::Unlock(target) => order!(self, target, unlock_conference, UnlockConferenceRequest => "UnlockConferenceResponse"),
            ConfCommand::Record(RecordCommand::Start(target)) => {
                order!(self, target, start_recording, StartRecordingRequest => "StartRecordingResponse")
            }
            ConfCommand::Record(RecordCommand::Pause(target)) => {
                order!(self, target, pause_recording, PauseRecordingRequest => "PauseRecordingResponse")
            }
            ConfCommand::Record(RecordCommand::Resume(target)) => {
                order!(self, target, resume_recording, ResumeRecordingRequest => "ResumeRecordingResponse")
            }
            ConfCommand::Record(RecordCommand::Stop(target)) => {
                order!(self, target, stop_recording, StopRecordingRequest => "StopRecordingResponse")
            }
            ConfCommand::Extend { target, by } => {
                let by = Some(prost_types::Duration { seconds: i64::try_from(by.as_secs()).unwrap_or(i64::MAX), nanos: 0 });
                order!(self, target, extend_conference, ExtendConferenceRequest, by: by => "ExtendConferenceResponse")
            }
            ConfCommand::End(target) => order!(self, target, end_conference, EndConferenceRequest => "EndConferenceResponse"),
            _ => Ok(()),
        }
    }

    async fn moderate(&mut self, command: ConfCommand) -> Result<(), Failure> {
        match command {
            ConfCommand::Cancel(one) => moderate!(self, one, cancel_invitation, CancelInvitationRequest => "CancelInvitationResponse"),
            ConfCommand::Remove(one) => moderate!(self, one, remove_participant, RemoveParticipantRequest => "RemoveParticipantResponse"),
            ConfCommand::Mute(one) => moderate!(self, one, mute_participant, MuteParticipantRequest => "MuteParticipantResponse"),
            ConfCommand::Unmute(one) => moderate!(self, one, unmute_participant, UnmuteParticipantRequest => "UnmuteParticipantResponse"),
            ConfCommand::Ask(one) => moderate!(self, one, ask_to_unmute, AskToUnmuteRequest => "AskToUnmuteResponse"),
            ConfCommand::Floor(FloorCommand::Grant(one)) => moderate!(self, one, grant_floor, GrantFloorRequest => "GrantFloorResponse"),
            ConfCommand::Floor(FloorCommand::Deny(one)) => moderate!(self, one, deny_floor, DenyFloorRequest => "DenyFloorResponse"),
            ConfCommand::Hold(one) => moderate!(self, one, hold_participant, HoldParticipantRequest => "HoldParticipantResponse"),
            ConfCommand::Retrieve(one) => {
                moderate!(self, one, retrieve_participant, RetrieveParticipantRequest => "RetrieveParticipantResponse")
            }
            ConfCommand::Role { participant, role } => {
                let role = ParticipantRole::from(role).into();
                moderate!(self, participant, set_role, SetRoleRequest, role: role => "SetRoleResponse")
            }
            ConfCommand::Move { participant, to } => self.move_participant(participant, &to).await,
            _ => Ok(()),
        }
    }

    async fn target(&self, target: &Target) -> Result<(Change, String), Failure> {
        let mut change = self.change(&target.repeat);
        let given = &target.conference.conference;
        let id = self.conference_id(given).await?;
        change.resolved(given, &id);
        change.look_with(&["conf", "get", &id]);
        Ok((change, id))
    }

    async fn participant(&self, one: &OneParticipant) -> Result<(Change, String, String), Failure> {
        let (mut change, conference) = self.target(&one.target).await?;
        let participant = self.participant_id(&conference, &one.participant, &mut change).await?;
        Ok((change, conference, participant))
    }

    async fn move_participant(&mut self, one: OneParticipant, to: &str) -> Result<(), Failure> {
        let (mut change, conference_id, participant_id) = self.participant(&one).await?;
        let to_conference_id = self.conference_id(to).await?;
        change.resolved(to, &to_conference_id);
        let (request_id, expected_version) = (change.request_id().to_owned(), one.target.if_version);
        let request = MoveParticipantRequest { request_id, conference_id, expected_version, participant_id, to_conference_id };
        let answer = self.agent.order(&change, self.agent.conferences().move_participant(request)).await?;
        self.summarise("MoveParticipantResponse", &answer, answer.conference.as_ref(), None)?;
        match &answer.to_conference {
            Some(to) if !self.out.json => self.out.line(&render::conference::summary(to, &self.out.look)),
            _ => Ok(()),
        }
    }

    /// Lists up to `limit` conferences, page after page. The token stays if there are more.
    pub(crate) async fn page_conferences(
        &self,
        mut request: ListConferencesRequest,
        limit: usize,
    ) -> Result<ListConferencesResponse, Failure> {
        let mut all = ListConferencesResponse::default();
        // With rosters a page may be large: fewer at a time.
        let most = if request.include_participants { 100 } else { PAGE };
        loop {
            request.page_size = i32::try_from(limit.saturating_sub(all.conferences.len())).unwrap_or(most).min(most);
            let page = self.agent.ask(self.agent.conferences().list_conferences(request.clone())).await?;
            all.conferences.extend(page.conferences);
            all.next_page_token = page.next_page_token;
            if all.next_page_token.is_empty() || all.conferences.len() >= limit || all.next_page_token == request.page_token {
                return Ok(all);
            }
            request.page_token.clone_from(&all.next_page_token);
        }
    }

    async fn list_conferences(&mut self, list: ListConferences) -> Result<(), Failure> {
        let limit = if list.limit == 0 { usize::MAX } else { list.limit as usize };
        let mut answer = ListConferencesResponse::default();
        let mut more = false;
        for domain in self.domains(list.domain.as_ref()).await? {
            let left = limit - answer.conferences.len().min(limit);
            if left == 0 {
                more = true;
                break;
            }
            let (include_ended, include_participants) = (list.all, list.participants);
            let request = ListConferencesRequest { domain, include_ended, include_participants, ..Default::default() };
            let page = self.page_conferences(request, left).await?;
            more |= !page.next_page_token.is_empty();
            answer.conferences.extend(page.conferences);
            answer.next_page_token = page.next_page_token;
        }
        if more {
            note(&format!("{} conferences shown, there are more: --limit 0 shows all", answer.conferences.len()));
        }
        if self.out.json {
            return self.out.message("ListConferencesResponse", &answer);
        }
        self.out.grid(&render::conference::list(&answer.conferences, &self.out.look), "no conferences")?;
        Ok(())
    }

    /// Shows a conference and who is in it.
    pub(crate) fn show_conference(&mut self, conference: Conference) -> Result<(), Failure> {
        if self.out.json {
            return self.out.message("GetConferenceResponse", &GetConferenceResponse { conference: Some(conference) });
        }
        for line in render::conference::facts_of(&conference, &self.out.look) {
            self.out.line(&line)?;
        }
        if conference.participants.is_empty() && conference.state() == ConferenceState::Ended {
            return Ok(());
        }
        self.out.line("")?;
        self.out.grid(&render::conference::roster(&conference.participants, &self.out.look), "nobody is in it")
    }

    /// Shows an answer after a command: the conference in a line, and the participant that it was about.
    fn summarise(
        &mut self,
        name: &str,
        answer: &impl Message,
        conference: Option<&Conference>,
        participant: Option<&str>,
    ) -> Result<(), Failure> {
        if self.out.json {
            return self.out.message(name, answer);
        }
        let Some(conference) = conference else { return Ok(()) };
        self.out.line(&render::conference::summary(conference, &self.out.look))?;
        let about: Vec<_> = conference.participants.iter().filter(|known| Some(known.id.as_str()) == participant).cloned().collect();
        if about.is_empty() { Ok(()) } else { self.out.grid(&render::conference::roster(&about, &self.out.look), "") }
    }

    async fn create(&mut self, create: CreateConference) -> Result<(), Failure> {
        let mut change = self.change(&create.repeat);
        let domain = self.domain(create.domain.as_ref()).await?;
        if create.domain.is_none() {
            change.chosen("--domain", &domain);
        }
        change.look_with(&["conf", "list", "--domain", &domain]);
        let request = CreateConferenceRequest {
            request_id: change.request_id().to_owned(),
            domain,
            name: create.name,
            initiator_alias: create.initiator,
            source: create.room.map(Source::Room).or(create.template.map(Source::Template)),
            groups: create.group,
            numbers: create.invite,
            max_participants: create.max,
        };
        let answer = self.agent.order(&change, self.agent.conferences().create_conference(request)).await?;
        if self.out.json {
            return self.out.message("CreateConferenceResponse", &answer);
        }
        answer.conference.map_or(Ok(()), |conference| self.show_conference(conference))
    }

    async fn invite(&mut self, invite: Invite) -> Result<(), Failure> {
        let (change, conference_id) = self.target(&invite.target).await?;
        let request = InviteParticipantsRequest {
            request_id: change.request_id().to_owned(),
            conference_id,
            expected_version: invite.target.if_version,
            numbers: invite.numbers,
            role: match invite.role {
                Role::Participant => ParticipantRole::Unspecified.into(),
                Role::Presenter => ParticipantRole::Presenter.into(),
            },
        };
        let answer = self.agent.order(&change, self.agent.conferences().invite_participants(request)).await?;
        self.summarise("InviteParticipantsResponse", &answer, answer.conference.as_ref(), None)?;
        if !self.out.json {
            self.out.grid(&render::conference::invitations(&answer.results), "")?;
        }
        let refused = answer.results.iter().filter(|result| !result.reason.is_empty()).count();
        if refused > 0 {
            return Err(Failure::Refused(format!("{refused} of {} numbers were refused", answer.results.len())));
        }
        Ok(())
    }

    async fn floor(&mut self, conference: &str) -> Result<(), Failure> {
        let conference_id = self.conference_id(conference).await?;
        let request = ListFloorRequestsRequest { conference_id };
        let answer = self.agent.ask(self.agent.conferences().list_floor_requests(request)).await?;
        if self.out.json {
            return self.out.message("ListFloorRequestsResponse", &answer);
        }
        self.out.grid(&render::conference::roster(&answer.participants, &self.out.look), "nobody asks for the floor")
    }
}
