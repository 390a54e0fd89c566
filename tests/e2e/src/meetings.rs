//! What tests say about conferences: who is in, what the API and the switch say of it, and whether both say the same.

use std::collections::BTreeSet;

use anyhow::{Context, bail, ensure};
use elph_proto::{v1, view::counts};
use ssw_core::{ConferenceRequest, ConferenceView, ParticipantView};

use crate::{Stack, Watch, eventually};

/// A command of `ConferenceService` with a request id of its own; its answer.
#[macro_export]
macro_rules! moderate {
    ($stack:expr, $method:ident, $request:ident { $($field:ident: $value:expr),* $(,)? }) => {{
        let mut request = ::elph_proto::v1::$request::default();
        request.request_id = $crate::request_id();
        $(request.$field = $value;)*
        $stack.conferences().$method(request).await.map(|answer| answer.into_inner())
    }};
}

/// The participant with a number.
pub fn member<'a>(conference: &'a v1::Conference, number: &str) -> anyhow::Result<&'a v1::Participant> {
    let found = conference.participants.iter().find(|it| it.number == number);
    found.with_context(|| format!("no {number} in {conference:?}"))
}

/// The participant's id.
pub fn id_of(conference: &v1::Conference, number: &str) -> anyhow::Result<String> {
    Ok(member(conference, number)?.id.clone())
}

/// The numbers in a conference, sorted.
pub fn numbers(conference: &v1::Conference) -> Vec<&str> {
    let mut numbers: Vec<&str> = conference.participants.iter().map(|it| it.number.as_str()).collect();
    numbers.sort_unstable();
    numbers
}

/// Counts equal the roster, nobody is in it twice, and who talks is connected and has a microphone.
pub fn sound(conference: &v1::Conference) -> anyhow::Result<()> {
    let told = (conference.connected_count, conference.pending_count);
    ensure!(told == counts(&conference.participants), "counts {told:?} of {conference:?}");
    let ids: BTreeSet<&str> = conference.participants.iter().map(|it| it.id.as_str()).collect();
    ensure!(ids.len() == conference.participants.len(), "somebody is in it twice: {conference:?}");
    for it in &conference.participants {
        ensure!(it.status() != v1::ParticipantStatus::Disconnected, "who has left is still in it: {it:?}");
        let can_talk = it.status() == v1::ParticipantStatus::Connected && !it.muted;
        ensure!(!it.talking || can_talk, "talks, but cannot: {it:?}");
    }
    Ok(())
}

/// Facts of a conference in words that are the same for the API and the switch.
fn told(conference: &v1::Conference) -> BTreeSet<String> {
    let word = |name: &str, prefix: &str| name.trim_start_matches(prefix).to_lowercase();
    let member = |it: &v1::Participant| {
        let status = word(it.status().as_str_name(), "PARTICIPANT_STATUS_");
        let role = word(it.role().as_str_name(), "PARTICIPANT_ROLE_");
        let (id, number, name) = (&it.id, &it.number, &it.display_name);
        format!("{id} {number} '{name}' {role} {status} voice={} floor={} talking={}", !it.muted, it.floor_requested, it.talking)
    };
    let start = conference.start_time.map_or(0, |at| at.seconds);
    let end = conference.planned_end_time.map(|at| at.seconds);
    let recording = word(conference.recording().as_str_name(), "RECORDING_STATE_");
    let whole = [
        format!("'{}' in room '{}', {} most, from {start} to {end:?}", conference.name, conference.room, conference.max_participants),
        format!("locked={} may_unmute={} recording={recording}", conference.locked, conference.may_unmute_themselves),
    ];
    whole.into_iter().chain(conference.participants.iter().map(member)).collect()
}

fn held(view: &ConferenceView) -> BTreeSet<String> {
    let member = |it: &ParticipantView| {
        let (id, number, name) = (&it.id, &it.number, &it.name);
        let (role, status) = (it.role.word(), it.status.word());
        format!("{id} {number} '{name}' {role} {status} voice={} floor={} talking={}", it.voice, it.floor, it.talking)
    };
    let (start, end) = (view.started_at.as_second(), view.ends_at.map(jiff::Timestamp::as_second));
    let whole = [
        format!("'{}' in room '{}', {} most, from {start} to {end:?}", view.name, view.room, view.limit),
        format!("locked={} may_unmute={} recording={}", view.locked, view.may_unmute, view.recording.word()),
    ];
    whole.into_iter().chain(view.members.iter().map(member)).collect()
}

impl Stack {
    /// The conference as the API has it now.
    pub async fn conference(&self, id: &str) -> anyhow::Result<v1::Conference> {
        let answer = self.conferences().get_conference(v1::GetConferenceRequest { conference_id: id.to_owned() }).await?;
        answer.into_inner().conference.context("an answer without a conference")
    }

    /// The API's conference once it is as wanted.
    pub async fn conference_when(&self, id: &str, what: &str, wanted: impl Fn(&v1::Conference) -> bool) -> anyhow::Result<v1::Conference> {
        let look = async || self.conference(id).await.ok().filter(|it| wanted(it));
        match eventually(what, look).await {
            Ok(found) => Ok(found),
            Err(error) => bail!("{error:#}; the conference is {:?}", self.conference(id).await),
        }
    }

    /// The same conference as the switch has it.
    pub fn conference_on_switch(&self, conference: &v1::Conference) -> anyhow::Result<ConferenceView> {
        Ok(self.sim.switch().conference(&conference.domain, &conference.switch_conference_id)?)
    }

    /// A member as the switch has it.
    pub fn member_on_switch(&self, conference: &v1::Conference, who: &str) -> anyhow::Result<ParticipantView> {
        Ok(self.sim.switch().participant(&conference.domain, &conference.switch_conference_id, who)?)
    }

    /// A conference that the switch starts by itself, with numbers that have answered, once the API has it so.
    pub async fn meeting(&self, request: ConferenceRequest) -> anyhow::Result<v1::Conference> {
        let switch_id = self.sim.switch().create_conference(self.domain(), request)?;
        let look = async || self.listed(false).await.ok()?.into_iter().find(|it| it.switch_conference_id == switch_id);
        let found = eventually("the API has the conference of the switch", look).await?;
        self.all_pick_up(&found).await
    }

    /// An ad hoc conference of these numbers, the first of them its presenter, all connected.
    pub async fn gathered(&self, presenter: &str, others: &[&str]) -> anyhow::Result<v1::Conference> {
        let members = others.iter().map(|number| (*number).to_owned()).collect();
        self.meeting(ConferenceRequest { initiator: presenter.to_owned(), members, ..ConferenceRequest::default() }).await
    }

    /// Everybody who is called answers.
    pub async fn all_pick_up(&self, conference: &v1::Conference) -> anyhow::Result<v1::Conference> {
        use ssw_core::ParticipantStatus::{Alerting, DialingOut, Pending};
        let view = self.conference_on_switch(conference)?;
        for it in view.members.iter().filter(|it| matches!(it.status, Pending | DialingOut | Alerting)) {
            self.sim.switch().pick_up(&conference.domain, &conference.switch_conference_id, &it.id)?;
        }
        self.same_as_switch(&conference.id).await
    }

    /// The conferences of the domain, as the API lists them with their participants.
    pub async fn listed(&self, include_ended: bool) -> anyhow::Result<Vec<v1::Conference>> {
        let (domain, include_participants) = (self.domain().to_owned(), true);
        let request = v1::ListConferencesRequest { domain, include_ended, include_participants, page_size: 1000, ..Default::default() };
        Ok(self.conferences().list_conferences(request).await?.into_inner().conferences)
    }

    /// Waits until API and switch say the same of a conference; as the API then has it.
    pub async fn same_as_switch(&self, id: &str) -> anyhow::Result<v1::Conference> {
        let look = async || {
            let found = self.conference(id).await.ok()?;
            (told(&found) == held(&self.conference_on_switch(&found).ok()?)).then_some(found)
        };
        match eventually("the API says of the conference what the switch says", look).await {
            Ok(found) => sound(&found).map(|()| found),
            Err(error) => {
                let found = self.conference(id).await?;
                bail!("{error:#}: {:#?} is not {:#?}", told(&found), held(&self.conference_on_switch(&found)?))
            }
        }
    }
}

impl Watch {
    /// Reads on until the subscriber's view of a conference is as wanted.
    pub async fn meeting(&mut self, what: &str, id: &str, wanted: impl Fn(&v1::Conference) -> bool) -> anyhow::Result<v1::Conference> {
        let found = self.until(what, |view| view.conferences.get(id).filter(|it| wanted(it)).cloned()).await?;
        sound(&found).map(|()| found)
    }

    /// Reads on until the subscriber has seen the participant's last state, and gives it.
    pub async fn leaving(&mut self, conference: &str, participant: &str) -> anyhow::Result<v1::Participant> {
        loop {
            let left = self.events().find_map(|event| match &event.change {
                Some(v1::event::Change::Participant(change)) if change.conference_id == conference => {
                    change.participant.clone().filter(|it| it.id == participant && it.status() == v1::ParticipantStatus::Disconnected)
                }
                _ => None,
            });
            if let Some(left) = left {
                return Ok(left);
            }
            tokio::time::timeout(crate::PATIENCE, self.read()).await.context("nobody left in time")??;
        }
    }
}
