//! `CallService`.

use std::{pin::Pin, time::Duration};

use elph_model::Core;
use elph_proto::{
    reason::Reason,
    v1::{self, call_service_server::CallService},
};
use futures_util::Stream;
use mediator_client::switch::{Alias, CallCommand, CommandError, Domain, SwitchCallId, SwitchLegId, command::LegRef};
use prost::Message;
use tonic::{Request, Response, Status};

use super::{Api, check::Check, page_token};
use crate::{
    access::Principal,
    command::{Ask, Remembered, refused, unknown_outcome},
    config::Scope,
    link::Switch,
};

/// How long a command's effect may take to show in the model after the switch has said yes.
pub(super) const SETTLE: Duration = Duration::from_secs(2);

/// Beyond the switch's own time: comparing with it twice, and settling.
pub(super) const MARGIN: Duration = Duration::from_secs(15);

macro_rules! remembered {
    ($($response:ty),+ $(,)?) => { $(impl Remembered for $response {})+ };
}

remembered!(
    v1::MakeCallResponse,
    v1::AnswerCallResponse,
    v1::RejectCallResponse,
    v1::ReleaseLegResponse,
    v1::ReleaseCallResponse,
    v1::HoldCallResponse,
    v1::RetrieveCallResponse,
    v1::TransferCallResponse,
    v1::ConsultCallResponse,
    v1::CompleteTransferResponse,
    v1::CancelTransferResponse,
    v1::JoinCallsResponse,
    v1::DeflectCallResponse,
    v1::SendDtmfResponse,
);

/// A leg that a command names, found in the model.
#[derive(Debug, Clone)]
struct Found {
    domain: Domain,
    /// Our id of the call.
    call: String,
    leg: String,
    device: String,
    switch: LegRef,
}

impl Found {
    fn leg(&self, core: &Core) -> Option<(v1::Call, v1::Leg)> {
        let call = core.call(&self.call)?;
        let leg = call.legs.iter().find(|leg| leg.id == self.leg)?.clone();
        Some((call, leg))
    }

    fn when(&self, core: &Core, state: impl Fn(v1::LegState) -> bool) -> Option<v1::Call> {
        self.leg(core).filter(|(_, leg)| state(leg.state())).map(|(call, _)| call)
    }
}

impl Api {
    /// The call that a selector means, with its domain.
    fn call_of(&self, selector: &v1::LegSelector) -> Option<(Domain, v1::Call)> {
        let call = self.core().call(&selector.call_id)?;
        Some((Domain::parse(&call.domain).ok()?, call))
    }

    /// Runs a command about one leg.
    #[expect(clippy::too_many_arguments, reason = "what differs between the commands, named where it is used")]
    async fn leg_command<T: Message + Clone, R: Remembered>(
        &self,
        request: Request<T>,
        method: &'static str,
        request_id: String,
        selector: Option<v1::LegSelector>,
        to: Option<&str>,
        command: impl FnOnce(LegRef, Option<Alias>) -> CallCommand + Send + 'static,
        seen: impl Fn(&Core, &Found) -> Option<R> + Send + Sync + 'static,
    ) -> Result<Response<R>, Status> {
        let mut check = Check::default();
        check.request_id(&request_id);
        let to = to.map(|to| check.number("to_number", to));
        let selector = checked(check, "leg", selector)?;
        let Some((domain, call)) = self.call_of(&selector) else {
            return self.replay(&request, Scope::Calls, method, &request_id, unknown_call(&selector.call_id)).await;
        };
        let id = selector.call_id.clone();
        let principal = self.authorize_object(&request, Scope::Calls, true, Some(domain.as_str()), Reason::UnknownCall, &id).await?;
        let objects = vec![("call_id", id, false), ("leg", [selector.leg_id.as_str(), &selector.device].concat(), true)];
        let ask = self.ask(principal, method, &domain, request_id, request.get_ref(), objects);
        let (switch, command) = (self.switch.clone(), command);
        self.run(ask, async move {
            let found = found_leg(&call, &selector)?;
            let command = command(found.switch.clone(), to.flatten());
            execute(&switch, &domain, command, move |core, _| seen(core, &found)).await
        })
        .await
    }

    pub(super) fn ask<T: Message>(
        &self,
        principal: Principal,
        method: &'static str,
        domain: &Domain,
        request_id: String,
        request: &T,
        objects: Vec<(&'static str, String, bool)>,
    ) -> Ask {
        Ask { principal, method, domain: domain.clone(), request_id, request: request.encode_to_vec(), objects }
    }

    pub(super) async fn run<R: Remembered>(
        &self,
        ask: Ask,
        work: impl Future<Output = Result<R, Status>> + Send + 'static,
    ) -> Result<Response<R>, Status> {
        let within = self.switch.command_timeout() + MARGIN;
        self.commands.run(ask, self.core(), within, work).await.map(Response::new)
    }

    /// A command about two legs of one device: the held one and the active one.
    #[expect(clippy::too_many_arguments, reason = "what differs between the commands, named where it is used")]
    async fn two_leg_command<T: Message + Clone, R: Remembered>(
        &self,
        request: Request<T>,
        method: &'static str,
        request_id: String,
        fields: (&str, &str),
        selectors: (Option<v1::LegSelector>, Option<v1::LegSelector>),
        command: impl FnOnce(LegRef, LegRef) -> CallCommand + Send + 'static,
        seen: impl Fn(&Core, &Found, &Found) -> Option<R> + Send + Sync + 'static,
    ) -> Result<Response<R>, Status> {
        let mut check = Check::default();
        check.request_id(&request_id);
        let first = checked(check, fields.0, selectors.0)?;
        let second = checked(Check::default(), fields.1, selectors.1)?;
        let (Some((domain, held)), other) = (self.call_of(&first), self.call_of(&second)) else {
            return self.replay(&request, Scope::Calls, method, &request_id, unknown_call(&first.call_id)).await;
        };
        let unknown = Reason::UnknownCall;
        let principal = self.authorize_object(&request, Scope::Calls, true, Some(domain.as_str()), unknown, &first.call_id).await?;
        let Some((_, active)) = other.filter(|(other, _)| *other == domain) else {
            return self.replay(&request, Scope::Calls, method, &request_id, unknown_call(&second.call_id)).await;
        };
        let objects = vec![("call_id", first.call_id.clone(), false), ("other_call_id", second.call_id.clone(), false)];
        let ask = self.ask(principal, method, &domain, request_id, request.get_ref(), objects);
        let switch = self.switch.clone();
        let field = fields.1.to_owned();
        self.run(ask, async move {
            let (held, active) = (found_leg(&held, &first)?, found_leg(&active, &second)?);
            if held.device != active.device {
                let mut check = Check::default();
                check.say(&field, "must be a leg of the same device as the held one");
                return check.done(None);
            }
            let command = command(held.switch.clone(), active.switch.clone());
            execute(&switch, &domain, command, move |core, _| seen(core, &held, &active)).await
        })
        .await
    }
}

/// The selector of a leg, or everything that is wrong with the request.
fn checked(mut check: Check, field: &str, selector: Option<v1::LegSelector>) -> Result<v1::LegSelector, Status> {
    match &selector {
        None => check.say(field, "must name a leg"),
        Some(selector) => {
            check.id(&format!("{field}.call_id"), &selector.call_id);
            if selector.leg_id.is_empty() && selector.device.is_empty() {
                check.say(&format!("{field}.leg_id"), "must be set, or else device");
            }
        }
    }
    check.done(selector)
}

/// Has the switch do it, and waits until the model shows it. When the answer is lost, the switch is looked at before anything is said.
async fn execute<R>(
    switch: &Switch,
    domain: &Domain,
    command: CallCommand,
    seen: impl Fn(&Core, Option<&SwitchCallId>) -> Option<R>,
) -> Result<R, Status> {
    let (call, lost) = match switch.call(domain, command).await {
        Ok(outcome) => (outcome.call, None),
        Err(error @ (CommandError::OutcomeUnknown { .. } | CommandError::BadAnswer { .. })) => (None, Some(error)),
        Err(error) => return Err(refused(&error)),
    };
    if lost.is_none()
        && let Some(result) = switch.core().wait(SETTLE, |core| seen(core, call.as_ref())).await
    {
        return Ok(result);
    }
    let compared = switch.verify_calls(domain, switch.command_timeout()).await;
    match (seen(switch.core(), call.as_ref()), lost) {
        (Some(result), _) => Ok(result),
        (None, Some(error)) => Err(refused(&error)),
        (None, None) if compared => Err(unknown_outcome("the switch said yes, but its state does not show it")),
        (None, None) => Err(unknown_outcome("the switch said yes, but its state could not be read")),
    }
}

fn found_leg(call: &v1::Call, selector: &v1::LegSelector) -> Result<Found, Status> {
    if call.state() == v1::CallState::Ended {
        return Err(Reason::CallEnded.status("the call is over"));
    }
    let meant = |leg: &&v1::Leg| if selector.leg_id.is_empty() { leg.device == selector.device } else { leg.id == selector.leg_id };
    let leg = call.legs.iter().filter(meant).min_by_key(|leg| leg.state() == v1::LegState::Released);
    let leg = leg.ok_or_else(|| Reason::UnknownLeg.status("the call has no such leg"))?;
    if leg.state() == v1::LegState::Released {
        return Err(Reason::WrongState.status("the leg is released"));
    }
    let domain = Domain::parse(&call.domain).map_err(|error| Status::internal(error.to_string()))?;
    let id = SwitchCallId::parse(&call.switch_call_id).map_err(|error| Status::internal(error.to_string()))?;
    let switch_leg = SwitchLegId::parse(&leg.id).map_err(|error| Status::internal(error.to_string()))?;
    Ok(Found {
        domain,
        call: call.id.clone(),
        leg: leg.id.clone(),
        device: leg.device.clone(),
        switch: LegRef { call: id, leg: switch_leg },
    })
}

fn unknown_call(id: &str) -> Status {
    Reason::UnknownCall.status(format!("there is no call '{id}', or it may not be seen with this grant"))
}

fn is_up(state: v1::LegState) -> bool {
    matches!(state, v1::LegState::Connected | v1::LegState::Held)
}

/// The call that a command started: by the id the switch gave, or the newest one of the device that was not there before.
fn started(core: &Core, domain: &Domain, id: Option<&SwitchCallId>, before: &[String], device: &str) -> Option<v1::Call> {
    match id {
        Some(id) => core.call_by_switch_id(domain, id),
        None => {
            let new = |call: &v1::Call| {
                let calls = call.legs.iter().any(|leg| leg.device == device) && !before.contains(&call.id);
                calls && call.domain == domain.as_str() && call.state() != v1::CallState::Ended
            };
            core.calls(None, 1, new).items.into_iter().next()
        }
    }
}

fn calls_of(core: &Core, domain: &Domain, device: &str) -> Vec<String> {
    let has = |call: &v1::Call| call.domain == domain.as_str() && call.legs.iter().any(|leg| leg.device == device);
    core.calls(None, usize::MAX, has).items.into_iter().map(|call| call.id).collect()
}

fn has_ended(core: &Core, call: &str) -> bool {
    core.call(call).is_none_or(|call| call.state() == v1::CallState::Ended)
}

#[tonic::async_trait]
impl CallService for Api {
    async fn list_calls(&self, request: Request<v1::ListCallsRequest>) -> Result<Response<v1::ListCallsResponse>, Status> {
        let asked = request.get_ref();
        let mut check = Check::default();
        let domain = check.domain("domain", &asked.domain);
        let size = check.page_size(asked.page_size);
        let after = check.page_token(&asked.page_token);
        if asked.states().any(|state| state == v1::CallState::Unspecified) {
            check.say("states", "must not hold UNSPECIFIED or an unknown state");
        }
        let domain = check.done(domain)?;
        self.authorize(&request, Scope::Calls, false, Some(&domain)).await?;
        self.served(&domain)?;
        let states: Vec<v1::CallState> = asked.states().collect();
        let matches = |call: &v1::Call| {
            let state = if states.is_empty() { call.state() != v1::CallState::Ended } else { states.contains(&call.state()) };
            let alias = asked.alias.is_empty() || call.legs.iter().any(|leg| leg.device == asked.alias);
            call.domain == domain.as_str() && state && alias
        };
        let page = self.core().calls(after.as_ref(), size, matches);
        Ok(Response::new(v1::ListCallsResponse { calls: page.items, next_page_token: page_token(page.next) }))
    }

    async fn get_call(&self, request: Request<v1::GetCallRequest>) -> Result<Response<v1::GetCallResponse>, Status> {
        let id = request.get_ref().call_id.clone();
        let call = self.core().call(&id);
        let domain = call.as_ref().map(|call| call.domain.as_str());
        self.authorize_object(&request, Scope::Calls, false, domain, Reason::UnknownCall, &id).await?;
        Ok(Response::new(v1::GetCallResponse { call }))
    }

    type WatchCallStream = Pin<Box<dyn Stream<Item = Result<v1::WatchCallResponse, Status>> + Send>>;

    async fn watch_call(&self, request: Request<v1::WatchCallRequest>) -> Result<Response<Self::WatchCallStream>, Status> {
        let id = request.get_ref().call_id.clone();
        let domain = self.core().call(&id).map(|call| call.domain);
        self.authorize_object(&request, Scope::Calls, false, domain.as_deref(), Reason::UnknownCall, &id).await?;
        let permit = self.subscriber()?;
        let core = self.core().clone();
        let stop = self.shared.shutdown.soft.clone();
        let state = (core, id, 0_u64, permit, stop);
        let stream = futures_util::stream::unfold(state, |(core, id, version, permit, stop)| async move {
            if version == u64::MAX {
                return None;
            }
            let newer = |core: &Core| core.call(&id).filter(|call| call.version > version);
            let call = loop {
                match stop.run_until_cancelled(core.wait(Duration::from_secs(60), newer)).await {
                    None => {
                        return Some((Err(Reason::ShuttingDown.status("the agent is shutting down")), (core, id, u64::MAX, permit, stop)));
                    }
                    Some(Some(call)) => break call,
                    // Forgotten meanwhile: the call is over.
                    Some(None) if core.call(&id).is_none() => return None,
                    Some(None) => {}
                }
            };
            let version = if call.state() == v1::CallState::Ended { u64::MAX } else { call.version };
            Some((Ok(v1::WatchCallResponse { call: Some(call) }), (core, id, version, permit, stop)))
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn make_call(&self, request: Request<v1::MakeCallRequest>) -> Result<Response<v1::MakeCallResponse>, Status> {
        let asked = request.get_ref().clone();
        let mut check = Check::default();
        check.request_id(&asked.request_id);
        let domain = check.domain("domain", &asked.domain);
        let from = check.alias("from_alias", &asked.from_alias);
        let to = check.number("to_number", &asked.to_number);
        let (domain, from, to) = check.done(domain.zip(from).zip(to).map(|((domain, from), to)| (domain, from, to)))?;
        let principal = self.authorize(&request, Scope::Calls, true, Some(&domain)).await?;
        self.served(&domain)?;
        if self.switch.directory().has(&domain, from.as_str()) == Some(false) {
            return Err(Reason::UnknownAlias.status("the domain has no such alias as from_alias"));
        }
        let objects = vec![("from_alias", asked.from_alias.clone(), true), ("to_number", asked.to_number.clone(), true)];
        let ask = self.ask(principal, "CallService/MakeCall", &domain, asked.request_id.clone(), &asked, objects);
        let switch = self.switch.clone();
        self.run(ask, async move {
            let before = calls_of(switch.core(), &domain, from.as_str());
            let device = from.as_str().to_owned();
            let searched = domain.clone();
            execute(&switch, &domain, CallCommand::Make { from, to }, move |core, id| {
                started(core, &searched, id, &before, &device).map(|call| v1::MakeCallResponse { call: Some(call) })
            })
            .await
        })
        .await
    }

    async fn answer_call(&self, request: Request<v1::AnswerCallRequest>) -> Result<Response<v1::AnswerCallResponse>, Status> {
        let asked = request.get_ref().clone();
        let seen = |core: &Core, found: &Found| found.when(core, is_up).map(|call| v1::AnswerCallResponse { call: Some(call) });
        self.leg_command(request, "CallService/AnswerCall", asked.request_id, asked.leg, None, |leg, _| CallCommand::Answer(leg), seen)
            .await
    }

    async fn reject_call(&self, request: Request<v1::RejectCallRequest>) -> Result<Response<v1::RejectCallResponse>, Status> {
        let asked = request.get_ref().clone();
        let gone = |core: &Core, found: &Found| {
            found.when(core, |state| state == v1::LegState::Released).map(|call| v1::RejectCallResponse { call: Some(call) })
        };
        self.leg_command(request, "CallService/RejectCall", asked.request_id, asked.leg, None, |leg, _| CallCommand::Reject(leg), gone)
            .await
    }

    async fn release_leg(&self, request: Request<v1::ReleaseLegRequest>) -> Result<Response<v1::ReleaseLegResponse>, Status> {
        let asked = request.get_ref().clone();
        let gone = |core: &Core, found: &Found| {
            found.when(core, |state| state == v1::LegState::Released).map(|call| v1::ReleaseLegResponse { call: Some(call) })
        };
        let command = |leg, _| CallCommand::ReleaseLeg(leg);
        self.leg_command(request, "CallService/ReleaseLeg", asked.request_id, asked.leg, None, command, gone).await
    }

    async fn release_call(&self, request: Request<v1::ReleaseCallRequest>) -> Result<Response<v1::ReleaseCallResponse>, Status> {
        let asked = request.get_ref().clone();
        let mut check = Check::default();
        check.request_id(&asked.request_id);
        check.id("call_id", &asked.call_id);
        check.done(Some(()))?;
        let method = "CallService/ReleaseCall";
        let Some(call) = self.core().call(&asked.call_id) else {
            return self.replay(&request, Scope::Calls, method, &asked.request_id, unknown_call(&asked.call_id)).await;
        };
        let unknown = Reason::UnknownCall;
        let principal = self.authorize_object(&request, Scope::Calls, true, Some(&call.domain), unknown, &asked.call_id).await?;
        let domain = Domain::parse(&call.domain).map_err(|error| Status::internal(error.to_string()))?;
        let id = SwitchCallId::parse(&call.switch_call_id).map_err(|error| Status::internal(error.to_string()))?;
        let objects = vec![("call_id", asked.call_id.clone(), false)];
        let ask = self.ask(principal, method, &domain, asked.request_id.clone(), &asked, objects);
        let switch = self.switch.clone();
        self.run(ask, async move {
            if has_ended(switch.core(), &call.id) {
                return Err(Reason::CallEnded.status("the call is over"));
            }
            let ended = move |core: &Core, _: Option<&SwitchCallId>| {
                core.call(&call.id)
                    .filter(|call| call.state() == v1::CallState::Ended)
                    .map(|call| v1::ReleaseCallResponse { call: Some(call) })
            };
            execute(&switch, &domain, CallCommand::ReleaseCall(id), ended).await
        })
        .await
    }

    async fn hold_call(&self, request: Request<v1::HoldCallRequest>) -> Result<Response<v1::HoldCallResponse>, Status> {
        let asked = request.get_ref().clone();
        let held = |core: &Core, found: &Found| {
            found.when(core, |state| state == v1::LegState::Held).map(|call| v1::HoldCallResponse { call: Some(call) })
        };
        self.leg_command(request, "CallService/HoldCall", asked.request_id, asked.leg, None, |leg, _| CallCommand::Hold(leg), held).await
    }

    async fn retrieve_call(&self, request: Request<v1::RetrieveCallRequest>) -> Result<Response<v1::RetrieveCallResponse>, Status> {
        let asked = request.get_ref().clone();
        let connected = |core: &Core, found: &Found| {
            found.when(core, |state| state == v1::LegState::Connected).map(|call| v1::RetrieveCallResponse { call: Some(call) })
        };
        let command = |leg, _| CallCommand::Retrieve(leg);
        self.leg_command(request, "CallService/RetrieveCall", asked.request_id, asked.leg, None, command, connected).await
    }

    async fn transfer_call(&self, request: Request<v1::TransferCallRequest>) -> Result<Response<v1::TransferCallResponse>, Status> {
        let asked = request.get_ref().clone();
        let gone = |core: &Core, found: &Found| {
            found.when(core, |state| state == v1::LegState::Released).map(|call| v1::TransferCallResponse { call: Some(call) })
        };
        let command = |leg, to: Option<Alias>| match to {
            Some(to) => CallCommand::TransferBlind { leg, to },
            None => CallCommand::ReleaseLeg(leg),
        };
        self.leg_command(request, "CallService/TransferCall", asked.request_id, asked.leg, Some(&asked.to_number), command, gone).await
    }

    async fn consult_call(&self, request: Request<v1::ConsultCallRequest>) -> Result<Response<v1::ConsultCallResponse>, Status> {
        let asked = request.get_ref().clone();
        let mut check = Check::default();
        check.request_id(&asked.request_id);
        let to = check.number("to_number", &asked.to_number);
        let selector = checked(check, "leg", asked.leg.clone())?;
        let method = "CallService/ConsultCall";
        let (Some((domain, call)), Some(to)) = (self.call_of(&selector), to) else {
            return self.replay(&request, Scope::Calls, method, &asked.request_id, unknown_call(&selector.call_id)).await;
        };
        let unknown = Reason::UnknownCall;
        let principal = self.authorize_object(&request, Scope::Calls, true, Some(domain.as_str()), unknown, &selector.call_id).await?;
        let objects = vec![("call_id", selector.call_id.clone(), false), ("to_number", asked.to_number.clone(), true)];
        let ask = self.ask(principal, method, &domain, asked.request_id.clone(), &asked, objects);
        let switch = self.switch.clone();
        self.run(ask, async move {
            let found = found_leg(&call, &selector)?;
            let before = calls_of(switch.core(), &found.domain, &found.device);
            let command = CallCommand::Consult { leg: found.switch.clone(), to };
            execute(&switch, &domain, command, move |core, id| {
                let consultation = started(core, &found.domain, id, &before, &found.device)?;
                let held = found.when(core, |state| state == v1::LegState::Held)?;
                Some(v1::ConsultCallResponse { held_call: Some(held), consultation_call: Some(consultation) })
            })
            .await
        })
        .await
    }

    async fn complete_transfer(
        &self,
        request: Request<v1::CompleteTransferRequest>,
    ) -> Result<Response<v1::CompleteTransferResponse>, Status> {
        let asked = request.get_ref().clone();
        let merged = |core: &Core, held: &Found, active: &Found| {
            let left = held.when(core, |state| state == v1::LegState::Released)?;
            has_ended(core, &active.call).then_some(v1::CompleteTransferResponse { call: Some(left) })
        };
        let selectors = (asked.held_leg, asked.consultation_leg);
        let command = |held, active| CallCommand::TransferComplete { held, active };
        let fields = ("held_leg", "consultation_leg");
        self.two_leg_command(request, "CallService/CompleteTransfer", asked.request_id, fields, selectors, command, merged).await
    }

    async fn cancel_transfer(&self, request: Request<v1::CancelTransferRequest>) -> Result<Response<v1::CancelTransferResponse>, Status> {
        let asked = request.get_ref().clone();
        let back = |core: &Core, held: &Found, active: &Found| {
            let call = held.when(core, |state| state == v1::LegState::Connected)?;
            let dropped = active.leg(core).is_none_or(|(_, leg)| leg.state() == v1::LegState::Released);
            dropped.then_some(v1::CancelTransferResponse { call: Some(call) })
        };
        let selectors = (asked.held_leg, asked.consultation_leg);
        let command = |held, active| CallCommand::TransferCancel { held, active };
        let fields = ("held_leg", "consultation_leg");
        self.two_leg_command(request, "CallService/CancelTransfer", asked.request_id, fields, selectors, command, back).await
    }

    async fn join_calls(&self, request: Request<v1::JoinCallsRequest>) -> Result<Response<v1::JoinCallsResponse>, Status> {
        let asked = request.get_ref().clone();
        let joined = |core: &Core, held: &Found, active: &Found| {
            let call = held.when(core, |state| state == v1::LegState::Connected)?;
            has_ended(core, &active.call).then_some(v1::JoinCallsResponse { call: Some(call) })
        };
        let selectors = (asked.held_leg, asked.active_leg);
        let command = |held, active| CallCommand::Join { held, active };
        let fields = ("held_leg", "active_leg");
        self.two_leg_command(request, "CallService/JoinCalls", asked.request_id, fields, selectors, command, joined).await
    }

    async fn deflect_call(&self, request: Request<v1::DeflectCallRequest>) -> Result<Response<v1::DeflectCallResponse>, Status> {
        let asked = request.get_ref().clone();
        let gone = |core: &Core, found: &Found| {
            found.when(core, |state| state == v1::LegState::Released).map(|call| v1::DeflectCallResponse { call: Some(call) })
        };
        let command = |leg, to: Option<Alias>| match to {
            Some(to) => CallCommand::Deflect { leg, to },
            None => CallCommand::ReleaseLeg(leg),
        };
        self.leg_command(request, "CallService/DeflectCall", asked.request_id, asked.leg, Some(&asked.to_number), command, gone).await
    }

    async fn send_dtmf(&self, request: Request<v1::SendDtmfRequest>) -> Result<Response<v1::SendDtmfResponse>, Status> {
        let asked = request.get_ref().clone();
        let mut check = Check::default();
        check.digits(&asked.digits);
        check.done(Some(()))?;
        let digits = asked.digits;
        let still = |core: &Core, found: &Found| found.leg(core).map(|(call, _)| v1::SendDtmfResponse { call: Some(call) });
        let command = |leg, _| CallCommand::Dtmf { leg, digits };
        self.leg_command(request, "CallService/SendDtmf", asked.request_id, asked.leg, None, command, still).await
    }
}
