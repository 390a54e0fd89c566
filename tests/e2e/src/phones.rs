//! What tests say about calls: who calls whom, whose leg is meant, what the API and the switch say of it.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use elph_proto::{reason::Reason, v1};
use ssw_core::{CallView, HistoryFilter, LegState};
use tonic::{Response, Status};

use crate::{Agent, PATIENCE, Stack, StackOptions, config, eventually, request_id};

/// A device's leg of a call.
pub fn leg(call: &v1::Call, device: &str) -> Option<v1::LegSelector> {
    Some(v1::LegSelector { call_id: call.id.clone(), leg_id: String::new(), device: device.to_owned() })
}

/// The state of a device's leg, its newest if it has several.
pub fn leg_state(call: &v1::Call, device: &str) -> v1::LegState {
    call.legs.iter().rfind(|leg| leg.device == device).map_or(v1::LegState::Unspecified, v1::Leg::state)
}

/// The devices that are on a call, sorted.
pub fn on_the_line(call: &v1::Call) -> Vec<&str> {
    let mut devices: Vec<&str> =
        call.legs.iter().filter(|leg| leg.state() != v1::LegState::Released).map(|leg| leg.device.as_str()).collect();
    devices.sort_unstable();
    devices
}

/// The stable reason of a refusal; an error if it was no refusal.
pub fn reason<T: std::fmt::Debug>(answer: Result<Response<T>, Status>) -> anyhow::Result<Reason> {
    match answer {
        Ok(answer) => bail!("was not refused: {answer:?}"),
        Err(status) => Reason::of(&status).with_context(|| format!("no reason in {status:?}")),
    }
}

/// A second agent on the same switch, with a configuration and state of its own.
pub struct Neighbour {
    /// The agent.
    pub agent: Agent,
    _keep: tempfile::TempDir,
}

impl Neighbour {
    /// Starts it and waits until it is ready.
    pub async fn start(stack: &Stack, options: &StackOptions) -> anyhow::Result<Self> {
        let keep = tempfile::tempdir()?;
        std::fs::write(keep.path().join("dialect.toml"), stack.sim.dialect_toml())?;
        std::fs::write(keep.path().join("agent.toml"), config(&stack.sim, options, keep.path())?)?;
        let agent = Agent::start(keep.path()).await?;
        eventually("the other agent is ready", || async { agent.is_ready().await.then_some(()) }).await?;
        Ok(Self { agent, _keep: keep })
    }

    /// Its calls.
    pub async fn calls(&self, domain: &str, states: &[v1::CallState]) -> anyhow::Result<Vec<v1::Call>> {
        let mut client = v1::call_service_client::CallServiceClient::new(self.agent.channel());
        let request = v1::ListCallsRequest {
            domain: domain.to_owned(),
            states: states.iter().map(|state| i32::from(*state)).collect(),
            ..Default::default()
        };
        Ok(client.list_calls(request).await?.into_inner().calls)
    }
}

impl Stack {
    /// The call as the API has it now.
    pub async fn call(&self, id: &str) -> anyhow::Result<v1::Call> {
        let answer = self.calls().get_call(v1::GetCallRequest { call_id: id.to_owned() }).await?;
        answer.into_inner().call.context("an answer without a call")
    }

    /// The API's call once it is as wanted.
    pub async fn call_when(&self, id: &str, what: &str, wanted: impl Fn(&v1::Call) -> bool) -> anyhow::Result<v1::Call> {
        let look = async || self.call(id).await.ok().filter(|call| wanted(call));
        let found = eventually(what, look).await;
        match found {
            Ok(call) => Ok(call),
            Err(error) => bail!("{error:#}; the call is {:?}", self.call(id).await),
        }
    }

    /// The calls that go on, as the API lists them.
    pub async fn active_calls(&self) -> anyhow::Result<Vec<v1::Call>> {
        let request = v1::ListCallsRequest { domain: self.domain().to_owned(), page_size: 1000, ..Default::default() };
        Ok(self.calls().list_calls(request).await?.into_inner().calls)
    }

    /// Click to call, over the API.
    pub async fn make(&self, from: &str, to: &str) -> anyhow::Result<v1::Call> {
        let request = v1::MakeCallRequest {
            request_id: request_id(),
            domain: self.domain().to_owned(),
            from_alias: from.to_owned(),
            to_number: to.to_owned(),
        };
        self.calls().make_call(request).await?.into_inner().call.context("an answer without a call")
    }

    /// Dials at a phone and answers at another, and waits until the API has the call connected.
    pub async fn talk(&self, from: &str, to: &str) -> anyhow::Result<v1::Call> {
        let dialled = self.sim.switch().dial(self.domain(), from, to)?;
        self.sim.switch().device_answer(self.domain(), to)?;
        self.found(&dialled.call, |call| call.state() == v1::CallState::Connected).await
    }

    /// The API's call with the switch's id, once it is as wanted.
    pub async fn found(&self, switch_call_id: &str, wanted: impl Fn(&v1::Call) -> bool) -> anyhow::Result<v1::Call> {
        let all = [v1::CallState::Initiated, v1::CallState::Alerting, v1::CallState::Connected, v1::CallState::Ended];
        let look = async || {
            let request = v1::ListCallsRequest {
                domain: self.domain().to_owned(),
                states: all.map(i32::from).to_vec(),
                page_size: 1000,
                ..Default::default()
            };
            let calls = self.calls().list_calls(request).await.ok()?.into_inner().calls;
            calls.into_iter().find(|call| call.switch_call_id == switch_call_id && wanted(call))
        };
        eventually("the API has the call of the switch", look).await
    }

    /// The same call as the switch has it; none: it does not go on there.
    pub fn on_switch(&self, call: &v1::Call) -> Option<CallView> {
        self.sim.switch().call(&call.domain, &call.switch_call_id).ok()
    }

    /// The state of a device's live leg on the switch.
    pub fn switch_leg(&self, call: &v1::Call, device: &str) -> Option<LegState> {
        self.on_switch(call)?.live_legs().find(|leg| leg.device == device).map(|leg| leg.state)
    }

    /// The devices that the switch has on a call, sorted.
    pub fn switch_line(&self, call: &v1::Call) -> Vec<String> {
        let mut devices: Vec<String> =
            self.on_switch(call).iter().flat_map(|call| call.live_legs()).map(|leg| leg.device.clone()).collect();
        devices.sort_unstable();
        devices
    }

    /// Every call that the switch has carried in the domain, finished ones included.
    pub fn carried(&self) -> anyhow::Result<Vec<CallView>> {
        Ok(self.sim.switch().history(self.domain(), &HistoryFilter::default())?)
    }

    /// Waits until the API's active calls are those of the switch, leg by leg.
    pub async fn equal_to_the_switch(&self) -> anyhow::Result<()> {
        let compare = async || {
            let mut ours: Vec<_> = self.active_calls().await.ok()?.iter().map(|call| shape(&call.switch_call_id, &live(call))).collect();
            ours.sort_unstable();
            let theirs = self.switch_shape();
            (ours == theirs).then_some(())
        };
        match eventually("the API has the switch's calls", compare).await {
            Ok(()) => Ok(()),
            Err(error) => bail!("{error:#}\nours: {:#?}\ntheirs: {:#?}", self.active_calls().await, self.switch_shape()),
        }
    }

    /// The switch's calls in the form in which they are compared.
    pub fn switch_shape(&self) -> Vec<String> {
        let calls = self.sim.switch().calls(Some(self.domain()));
        let mut theirs: Vec<_> = calls
            .iter()
            .map(|call| shape(&call.id, &call.live_legs().map(|leg| (leg.device.clone(), leg.state.word().to_owned())).collect::<Vec<_>>()))
            .collect();
        theirs.sort_unstable();
        theirs
    }

    /// The links as the API tells.
    pub async fn links(&self) -> anyhow::Result<Vec<v1::Link>> {
        Ok(self.about().list_links(v1::ListLinksRequest {}).await?.into_inner().links)
    }

    /// Waits until a link (`csta`, `call_api`, `terminal`) is as wanted.
    pub async fn link_when(&self, name: &str, what: &str, wanted: impl Fn(&v1::Link) -> bool) -> anyhow::Result<v1::Link> {
        let look = async || self.links().await.ok()?.into_iter().find(|link| link.name.starts_with(name) && wanted(link));
        match eventually(what, look).await {
            Ok(link) => Ok(link),
            Err(error) => bail!("{error:#}; the links are {:#?}", self.links().await),
        }
    }

    /// Waits until a link has opened a session beyond the given count and is up.
    pub async fn again_up(&self, name: &str, sessions: u64) -> anyhow::Result<v1::Link> {
        self.link_when(name, "the link is up again", |link| link.sessions > sessions && link.state() == v1::LinkState::Up).await
    }

    /// A counter of a link.
    pub async fn link_metric(&self, metric: &str, link: &str) -> anyhow::Result<f64> {
        let (_, text) = self.agent.get("/metrics").await?;
        let head = format!("elph_agent_link_{metric}_total{{link=\"{link}");
        let line = text.lines().find(|line| line.starts_with(&head)).with_context(|| format!("no sample {head}"))?;
        line.rsplit(' ').next().and_then(|value| value.parse().ok()).context("a sample without a value")
    }
}

/// A view's or answer's live legs.
pub fn live(call: &v1::Call) -> Vec<(String, String)> {
    let word = |state: v1::LegState| match state {
        v1::LegState::Initiated => "initiated",
        v1::LegState::Alerting => "alerting",
        v1::LegState::Queued => "queued",
        v1::LegState::Connected => "connected",
        v1::LegState::Held => "held",
        v1::LegState::Failed => "failed",
        v1::LegState::Released => "released",
        v1::LegState::Unspecified => "unspecified",
    };
    let legs = call.legs.iter().filter(|leg| leg.state() != v1::LegState::Released);
    legs.map(|leg| (leg.device.clone(), word(leg.state()).to_owned())).collect()
}

/// A call in the form in which both sides are compared.
pub fn shape(switch_call_id: &str, legs: &[(String, String)]) -> String {
    let mut legs = legs.to_vec();
    legs.sort_unstable();
    let legs: Vec<String> = legs.iter().map(|(device, state)| format!("{device}={state}")).collect();
    format!("{switch_call_id}: {}", legs.join(" "))
}

/// An answer that must come within the time that anything may take.
pub async fn in_time<T>(what: &str, answer: impl Future<Output = T>) -> anyhow::Result<T> {
    tokio::time::timeout(PATIENCE, answer).await.with_context(|| format!("did not come in time: {what}"))
}

/// Waits until a synchronous look at the switch succeeds.
pub async fn until(what: &str, look: impl Fn() -> bool) -> anyhow::Result<()> {
    eventually(what, || {
        let seen = look();
        async move { seen.then_some(()) }
    })
    .await
}

/// Checks that something stays so for a while: what must not happen has had the time to.
pub async fn stays(what: &str, during: Duration, look: impl Fn() -> bool) -> anyhow::Result<()> {
    let end = tokio::time::Instant::now() + during;
    while tokio::time::Instant::now() < end {
        ensure!(look(), "did not stay so: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
