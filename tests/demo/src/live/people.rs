//! The people in the demo: they call each other, come to the conference, talk, ask for the floor and leave at their phones (the
//! simulator's control API); their moderator works through gRPC like any other.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Context;
use elph_proto::v1::{self, conference_service_client::ConferenceServiceClient};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::{
    control::{Control, ControlError, flag, items, text},
    stage::DOMAIN,
};

const MASTER: &str = "1001";
/// Who is invited, and who may drop in later.
const INVITED: std::ops::Range<u32> = 1002..1012;
const PASSERS_BY: std::ops::Range<u32> = 1012..1018;
/// Who calls each other.
const CALLERS: std::ops::Range<u32> = 1021..1050;
const CALLS: usize = 3;
/// At least this many stay in the conference.
const FEWEST: usize = 6;
/// How long somebody who asks for the floor waits: time to be the moderator oneself.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long after its end the next conference begins.
const BREAK: Duration = Duration::from_secs(5);

pub(super) struct People {
    control: Control,
    moderator: ConferenceServiceClient<Channel>,
    rng: StdRng,
    /// The conference: our id and the switch's.
    conference: (String, String),
    everyone_was_in: bool,
    /// Since when somebody asks for the floor.
    asked: Option<Instant>,
    ended: Option<Instant>,
    /// When a caller hangs up, by the switch's call id.
    hang_ups: BTreeMap<String, (Instant, String)>,
}

/// Somebody else may have been faster (you, with elphctl): a refusal is a part of life, a simulator that is gone is not.
fn tolerate(outcome: Result<Value, ControlError>) -> anyhow::Result<()> {
    match outcome {
        Ok(_) | Err(ControlError::Refused { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

impl People {
    pub(super) fn new(control: Control, channel: Channel, seed: u64) -> Self {
        Self {
            control,
            moderator: ConferenceServiceClient::new(channel),
            rng: StdRng::seed_from_u64(seed),
            conference: (String::new(), String::new()),
            everyone_was_in: false,
            asked: None,
            ended: None,
            hang_ups: BTreeMap::new(),
        }
    }

    /// Opens the conference; our id of it.
    pub(super) async fn open_conference(&mut self) -> anyhow::Result<String> {
        let request = v1::CreateConferenceRequest {
            request_id: e2e::request_id(),
            domain: DOMAIN.to_owned(),
            name: "Morning briefing".to_owned(),
            initiator_alias: MASTER.to_owned(),
            numbers: INVITED.map(|number| number.to_string()).collect(),
            ..v1::CreateConferenceRequest::default()
        };
        let made = self.moderator.create_conference(request).await?.into_inner().conference.context("no conference in the answer")?;
        self.conference = (made.id.clone(), made.switch_conference_id);
        (self.everyone_was_in, self.asked, self.ended) = (false, None, None);
        Ok(made.id)
    }

    /// Lives on; comes back only when the simulator is gone.
    pub(super) async fn live(mut self) -> anyhow::Error {
        loop {
            let pause = self.rng.random_range(600..1600);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            if let Err(error) = self.turn().await {
                return error;
            }
        }
    }

    async fn turn(&mut self) -> anyhow::Result<()> {
        self.phone_calls().await?;
        let all = self.control.conferences().await?;
        let Some(conference) = all.iter().find(|conference| text(conference, "id") == self.conference.1) else {
            return self.next_conference().await;
        };
        let members: Vec<Member> = items(conference, "members").iter().map(Member::of).collect();
        self.in_conference(&members).await
    }

    // === Calls ===

    async fn phone_calls(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        let due: Vec<_> =
            self.hang_ups.iter().filter(|(_, (at, _))| *at <= now).map(|(call, (_, caller))| (call.clone(), caller.clone())).collect();
        for (call, caller) in due {
            self.hang_ups.remove(&call);
            tolerate(self.control.phone(&caller, "hang_up", json!({})).await)?;
        }
        let calls = self.control.calls().await?;
        if calls.len() < CALLS && self.rng.random_bool(0.6) {
            let busy = |alias: &str| calls.iter().any(|call| items(call, "legs").iter().any(|leg| text(leg, "device") == alias));
            let (from, to) = (self.rng.random_range(CALLERS).to_string(), self.rng.random_range(CALLERS).to_string());
            if from == to || busy(&from) || busy(&to) {
                return Ok(());
            }
            let Ok(made) = self.control.phone(&from, "dial", json!({ "to": to })).await else { return Ok(()) };
            let end = now + Duration::from_millis(self.rng.random_range(1_000..20_000));
            self.hang_ups.insert(text(&made, "call"), (end, from));
        } else if self.rng.random_bool(0.15) {
            let action = if self.rng.random() { "hold" } else { "retrieve" };
            if let Some((_, caller)) = self.hang_ups.values().next() {
                tolerate(self.control.phone(caller, action, json!({})).await)?;
            }
        }
        Ok(())
    }

    // === The conference ===

    async fn next_conference(&mut self) -> anyhow::Result<()> {
        let ended = *self.ended.get_or_insert_with(Instant::now);
        if ended.elapsed() >= BREAK {
            // While the switch is away it does not work: tried again next time.
            let _ = self.open_conference().await;
        }
        Ok(())
    }

    async fn in_conference(&mut self, members: &[Member]) -> anyhow::Result<()> {
        let connected: Vec<&Member> = members.iter().filter(|member| member.connected).collect();
        if !self.everyone_was_in {
            if connected.len() == members.len() {
                self.everyone_was_in = true;
                self.mute_all().await;
            }
            return Ok(());
        }
        let guests: Vec<&Member> = connected.iter().copied().filter(|member| !member.presenter).collect();
        match members.iter().find(|member| member.asks) {
            Some(member) => {
                let since = *self.asked.get_or_insert_with(Instant::now);
                if since.elapsed() > PATIENCE {
                    self.asked = None;
                    self.answer_floor(member).await;
                    return Ok(());
                }
            }
            None => self.asked = None,
        }
        match self.rng.random_range(0..12) {
            0 if connected.len() > FEWEST => self.someone(&guests, "leave").await,
            1 | 2 => self.comes_in(members).await,
            3 | 4 if self.asked.is_none() => {
                let muted: Vec<&Member> = guests.into_iter().filter(|member| !member.voice).collect();
                self.someone(&muted, "ask_floor").await
            }
            5 => {
                let quiet: Vec<&Member> = guests.into_iter().filter(|member| member.voice && !member.talks).collect();
                if let Some(member) = self.pick(&quiet) {
                    let member = member.id.clone();
                    self.mute(member).await;
                }
                Ok(())
            }
            _ => self.talk(&connected).await,
        }
    }

    fn pick<'a>(&mut self, from: &[&'a Member]) -> Option<&'a Member> {
        from.get(self.rng.random_range(0..from.len().max(1))).copied()
    }

    async fn someone(&mut self, who: &[&Member], action: &str) -> anyhow::Result<()> {
        let Some(member) = self.pick(who) else { return Ok(()) };
        tolerate(self.control.member(&self.conference.1, &member.id, action).await)
    }

    async fn comes_in(&mut self, members: &[Member]) -> anyhow::Result<()> {
        let number = self.rng.random_range(INVITED.start..PASSERS_BY.end).to_string();
        if members.iter().any(|member| member.number == number) {
            return Ok(());
        }
        tolerate(self.control.member(&self.conference.1, &number, "join").await)
    }

    async fn talk(&mut self, connected: &[&Member]) -> anyhow::Result<()> {
        for member in connected.iter().filter(|member| member.talks) {
            tolerate(self.control.member(&self.conference.1, &member.id, "silence").await)?;
        }
        let able: Vec<&Member> = connected.iter().copied().filter(|member| member.voice && !member.talks).collect();
        self.someone(&able, "talk").await
    }

    // === The moderator ===

    async fn mute_all(&mut self) {
        let request = v1::MuteAllRequest {
            request_id: e2e::request_id(),
            conference_id: self.conference.0.clone(),
            may_unmute_themselves: Some(false),
            ..v1::MuteAllRequest::default()
        };
        // Another moderator or an outage may be in the way: life goes on.
        let _ = self.moderator.mute_all(request).await;
    }

    async fn mute(&mut self, participant_id: String) {
        let request = v1::MuteParticipantRequest {
            request_id: e2e::request_id(),
            conference_id: self.conference.0.clone(),
            participant_id,
            ..v1::MuteParticipantRequest::default()
        };
        let _ = self.moderator.mute_participant(request).await;
    }

    async fn answer_floor(&mut self, member: &Member) {
        let (request_id, conference_id, participant_id) = (e2e::request_id(), self.conference.0.clone(), member.id.clone());
        if self.rng.random_bool(0.75) {
            let request = v1::GrantFloorRequest { request_id, conference_id, expected_version: 0, participant_id };
            let _ = self.moderator.grant_floor(request).await;
        } else {
            let request = v1::DenyFloorRequest { request_id, conference_id, expected_version: 0, participant_id };
            let _ = self.moderator.deny_floor(request).await;
        }
    }
}

/// A member as the control API shows it.
struct Member {
    id: String,
    number: String,
    presenter: bool,
    connected: bool,
    voice: bool,
    asks: bool,
    talks: bool,
}

impl Member {
    fn of(value: &Value) -> Self {
        Self {
            id: text(value, "id"),
            number: text(value, "number"),
            presenter: text(value, "role") == "presenter",
            connected: text(value, "status") == "connected",
            voice: flag(value, "voice"),
            asks: flag(value, "floor"),
            talks: flag(value, "talking"),
        }
    }
}
