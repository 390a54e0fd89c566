//! The scripted scenario: commands go through the public gRPC API, people act at their phones, and every step counts only once the event
//! stream has shown it.

mod call;
mod conference;
mod outage;
mod pushes;
mod suite;

use elph_proto::v1::{
    self, Call, Leg, LegSelector, LegState, agent_service_client::AgentServiceClient, call_service_client::CallServiceClient,
    conference_service_client::ConferenceServiceClient, push_service_client::PushServiceClient,
};
use tonic::transport::Channel;

use crate::{
    control::{Control, ControlError},
    report::Report,
    seen::{Missed, Seen},
    stage::{Stage, StageOptions},
};

/// What the steps act with.
struct Scene {
    stage: Stage,
    control: Control,
    seen: Seen,
    calls: CallServiceClient<Channel>,
    conferences: ConferenceServiceClient<Channel>,
    push: PushServiceClient<Channel>,
    agent: AgentServiceClient<Channel>,
}

/// How a run went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Every step was seen.
    Passed,
    /// One was not.
    Failed,
    /// Somebody stopped it.
    Interrupted,
}

/// Runs the whole scenario with one seed, unless `stop` comes first.
pub(crate) async fn run(options: StageOptions, json: bool, stop: &mut (impl Future<Output = ()> + Unpin)) -> Outcome {
    let mut report = Report::new(json, options.seed);
    report.group("The programs");
    let started = tokio::select! {
        started = start(&mut report, options) => started,
        () = &mut *stop => return Outcome::Interrupted,
    };
    let mut scene = match started {
        Ok(scene) => scene,
        Err(error) => {
            report.gave_up(&error, None);
            return Outcome::Failed;
        }
    };
    let played = tokio::select! {
        played = play(&mut scene, &mut report) => Some(played),
        () = stop => None,
    };
    let stage = scene.stage;
    let (error, kept) = match played {
        None => return if stage.stop().await.is_ok() { Outcome::Interrupted } else { Outcome::Failed },
        Some(Err(error)) => (error, Some(stage.stop_and_keep().await)),
        Some(Ok(())) => {
            report.group("The end");
            match report.step("SIGTERM: all three end in good order, the directory is gone", stage.stop()).await {
                Ok(()) => {
                    report.passed();
                    return Outcome::Passed;
                }
                Err(error) => (error, None),
            }
        }
    };
    report.gave_up(&error, kept.as_deref());
    Outcome::Failed
}

async fn start(report: &mut Report, options: StageOptions) -> anyhow::Result<Scene> {
    let what = format!("simulated switch with the dialect of seed {}, agent and suite ready", options.seed);
    let stage = report.step(&what, Stage::start(options)).await?;
    let channel = stage.agent().channel();
    let seen = report.step("EventService.Subscribe: a snapshot", Seen::start(channel.clone())).await?;
    let control = stage.control();
    let (calls, conferences) = (CallServiceClient::new(channel.clone()), ConferenceServiceClient::new(channel.clone()));
    let push = PushServiceClient::new(channel.clone());
    Ok(Scene { control, stage, seen, calls, conferences, push, agent: AgentServiceClient::new(channel) })
}

async fn play(scene: &mut Scene, report: &mut Report) -> anyhow::Result<()> {
    let links = async {
        scene.seen.until("every link up", |seen| seen.links_up().then_some(())).await?;
        let links = scene.agent.list_links(v1::ListLinksRequest {}).await?.into_inner().links;
        let down: Vec<_> = links.iter().filter(|link| link.state() != v1::LinkState::Up).map(|link| link.name.as_str()).collect();
        ensure(links.len() >= 2 && down.is_empty(), "two links or more, none down", || format!("{} links, down: {down:?}", links.len()))
    };
    report.step("every link to the switch is up", links).await?;
    call::play(scene, report).await?;
    pushes::play(scene, report).await?;
    suite::play(scene, report).await?;
    conference::play(scene, report).await?;
    outage::play(scene, report).await
}

// === For every part ===

/// Says what was expected and what was seen unless it is so.
fn ensure(holds: bool, expected: &str, seen: impl FnOnce() -> String) -> anyhow::Result<()> {
    if holds { Ok(()) } else { Err(Missed { expected: expected.to_owned(), seen: seen() }.into()) }
}

/// The switch must refuse what someone tries, for this reason.
fn refused<T>(outcome: Result<T, ControlError>, cause: &str) -> anyhow::Result<()> {
    match outcome {
        Err(error) if error.cause() == Some(cause) => Ok(()),
        Err(error) => Err(Missed { expected: format!("a refusal: {cause}"), seen: error.to_string() }.into()),
        Ok(_) => Err(Missed { expected: format!("a refusal: {cause}"), seen: "it was done".to_owned() }.into()),
    }
}

/// What an answer must contain.
fn inside<T>(part: Option<T>, what: &str) -> anyhow::Result<T> {
    part.ok_or_else(|| Missed { expected: format!("{what} in the answer"), seen: "an answer without".to_owned() }.into())
}

fn select(call: &str, device: &str) -> Option<LegSelector> {
    Some(LegSelector { call_id: call.to_owned(), leg_id: String::new(), device: device.to_owned() })
}

/// The leg of a device that is still on the call.
fn leg<'a>(call: &'a Call, device: &str) -> Option<&'a Leg> {
    call.legs.iter().find(|leg| leg.device == device && leg.state() != LegState::Released)
}

/// Whether a device's leg is in a state.
fn is(call: Option<&Call>, device: &str, state: LegState) -> Option<()> {
    (leg(call?, device)?.state() == state).then_some(())
}

/// Click to call, to the point where both talk; our id of the call.
async fn talk(scene: &mut Scene, from: &str, to: &str) -> anyhow::Result<String> {
    let id = call::make(scene, from, to).await?;
    call::caller_picks_up(scene, &id, from, to).await?;
    call::answer(scene, &id, to).await?;
    Ok(id)
}
