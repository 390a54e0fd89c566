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

use super::{Api, asked::Asked, check::Check, nothing, page_token};
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

    /// The call, once the leg has left it for another number. Without an answer of the switch the leg may have hung up just as well.
    fn sent_on(&self, core: &Core, to: &str, said: Said) -> Option<v1::Call> {
        let (call, leg) = self.leg(core).filter(|(_, leg)| leg.state() == v1::LegState::Released)?;
        let cause = matches!(leg.end_cause(), v1::EndCause::Transferred | v1::EndCause::Redirected);
        let arrived = call.legs.iter().any(|leg| leg.device == to && leg.state() != v1::LegState::Released);
        (said == Said::Yes || cause || arrived).then_some(call)
    }

    /// Whether the other leg's call has ended by going over into this one. Without an answer of the switch it must be known that it did.
    fn took_over(&self, core: &Core, other: &Self, said: Said) -> bool {
        let went_over = |call: &v1::Call| call.continued_in == self.call;
        has_ended(core, &other.call) && (said == Said::Yes || core.call(&other.call).as_ref().is_some_and(went_over))
    }
}

impl Api {
    /// The call that a selector means, with its domain.
    fn call_of(&self, selector: &v1::LegSelector) -> Option<(Domain, v1::Call)> {
        let call = self.core().call(&selector.call_id)?;
        Some((Domain::parse(&call.domain).ok()?, call))
    }

    /// Runs a command about one leg. `check` may hold what is wrong with the rest of the request.
    async fn leg_command<T: Message + Asked + Clone, R: Remembered>(
        &self,
        request: Request<T>,
        mut check: Check,
        selector: Option<v1::LegSelector>,
        to: Option<&str>,
        command: impl FnOnce(LegRef, Option<Alias>) -> CallCommand + Send + 'static,
        seen: impl Fn(&Core, &Found, Said) -> Option<R> + Send + Sync + 'static,
    ) -> Result<Response<R>, Status> {
        check.request_id(request.get_ref().request_id());
        let to = to.map(|to| check.number("to_number", to));
        let selector = checked(check, "leg", selector)?;
        let Some((domain, call)) = self.call_of(&selector) else {
            return self.replay(&request, Scope::Calls, &selector.call_id, unknown_call(&selector.call_id));
        };
        let id = selector.call_id.clone();
        let principal = self.authorize_object(&request, Scope::Calls, true, Some(domain.as_str()), Reason::UnknownCall, &id).await?;
        let objects = vec![("call_id", id, false), ("leg", [selector.leg_id.as_str(), &selector.device].concat(), true)];
        let ask = self.ask(principal, &domain, request.get_ref(), objects);
        let (switch, command) = (self.switch.clone(), command);
        self.run(ask, async move {
            let found = found_leg(&call, &selector)?;
            let command = command(found.switch.clone(), to.flatten());
            execute(&switch, &domain, command, move |core, _, said| seen(core, &found, said)).await
        })
        .await
    }

    pub(super) fn ask<T: Message + Asked>(
        &self,
        principal: Principal,
        domain: &Domain,
        request: &T,
        objects: Vec<(&'static str, String, bool)>,
    ) -> Ask {
        Ask {
            principal,
            method: T::METHOD,
            domain: domain.clone(),
            request_id: request.request_id().to_owned(),
            request: request.encode_to_vec(),
            objects,
        }
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
    async fn two_leg_command<T: Message + Asked + Clone, R: Remembered>(
        &self,
        request: Request<T>,
        fields: (&str, &str),
        selectors: (Option<v1::LegSelector>, Option<v1::LegSelector>),
        command: impl FnOnce(LegRef, LegRef) -> CallCommand + Send + 'static,
        seen: impl Fn(&Core, &Found, &Found, Said) -> Option<R> + Send + Sync + 'static,
    ) -> Result<Response<R>, Status> {
        let mut check = Check::default();
        check.request_id(request.get_ref().request_id());
        let first = selected(&mut check, fields.0, selectors.0);
        let second = selected(&mut check, fields.1, selectors.1);
        let (first, second) = check.done(first.zip(second))?;
        let (Some((domain, held)), other) = (self.call_of(&first), self.call_of(&second)) else {
            return self.replay(&request, Scope::Calls, &first.call_id, unknown_call(&first.call_id));
        };
        let unknown = Reason::UnknownCall;
        let principal = self.authorize_object(&request, Scope::Calls, true, Some(domain.as_str()), unknown, &first.call_id).await?;
        let Some((_, active)) = other.filter(|(other, _)| *other == domain) else {
            return self.replay(&request, Scope::Calls, &second.call_id, unknown_call(&second.call_id));
        };
        let objects = vec![("call_id", first.call_id.clone(), false), ("other_call_id", second.call_id.clone(), false)];
        let ask = self.ask(principal, &domain, request.get_ref(), objects);
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
            execute(&switch, &domain, command, move |core, _, said| seen(core, &held, &active, said)).await
        })
        .await
    }
}

/// The selector of a leg, or everything that is wrong with the request.
fn checked(mut check: Check, field: &str, selector: Option<v1::LegSelector>) -> Result<v1::LegSelector, Status> {
    let selector = selected(&mut check, field, selector);
    check.done(selector)
}

fn selected(check: &mut Check, field: &str, selector: Option<v1::LegSelector>) -> Option<v1::LegSelector> {
    match &selector {
        None => check.say(field, "must name a leg"),
        Some(selector) => {
            check.id(&format!("{field}.call_id"), &selector.call_id);
            check.optional_text(&format!("{field}.leg_id"), &selector.leg_id, 128);
            check.optional_text(&format!("{field}.device"), &selector.device, 128);
            if selector.leg_id.is_empty() && selector.device.is_empty() {
                check.say(&format!("{field}.leg_id"), "must be set, or else device");
            }
        }
    }
    selector
}

/// What the switch said to a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Yes,
    /// Nothing, or nothing that can be understood. Then only what comes of this command and of nothing else shows that it was done.
    Nothing,
}

/// Has the switch do it, and waits until the model shows it. When the answer is lost, the switch is looked at before anything is said.
async fn execute<R>(
    switch: &Switch,
    domain: &Domain,
    command: CallCommand,
    seen: impl Fn(&Core, Option<&SwitchCallId>, Said) -> Option<R>,
) -> Result<R, Status> {
    let (call, said, lost) = match switch.call(domain, command).await {
        Ok(outcome) => (outcome.call, Said::Yes, None),
        Err(error @ (CommandError::OutcomeUnknown { .. } | CommandError::BadAnswer { .. })) => (None, Said::Nothing, Some(error)),
        Err(error) => return Err(refused(&error)),
    };
    if said == Said::Yes
        && let Some(result) = switch.core().wait(SETTLE, |core| seen(core, call.as_ref(), said)).await
    {
        return Ok(result);
    }
    let compared = switch.verify_calls(domain, switch.command_timeout()).await;
    match (seen(switch.core(), call.as_ref(), said), lost) {
        (Some(result), _) => Ok(result),
        (None, Some(error)) => Err(unknown_outcome(&error.to_string())),
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
    let domain = Domain::parse(&call.domain).map_err(super::defect)?;
    let id = SwitchCallId::parse(&call.switch_call_id).map_err(super::defect)?;
    let switch_leg = SwitchLegId::parse(&leg.id).map_err(super::defect)?;
    Ok(Found {
        domain,
        call: call.id.clone(),
        leg: leg.id.clone(),
        device: leg.device.clone(),
        switch: LegRef { call: id, leg: switch_leg },
    })
}

fn unknown_call(id: &str) -> Status {
    nothing(Reason::UnknownCall, id)
}

fn is_up(state: v1::LegState) -> bool {
    matches!(state, v1::LegState::Connected | v1::LegState::Held)
}

/// A call that a command is to start.
struct Wanted {
    domain: Domain,
    /// The device that calls.
    from: String,
    to: String,
    /// The calls that were there before.
    before: Vec<String>,
}

impl Wanted {
    /// The call by the id that the switch gave, or else the newest one that the device has made. Without an answer it must be to the
    /// number, too: somebody may have used the telephone meanwhile.
    fn started(&self, core: &Core, id: Option<&SwitchCallId>, said: Said) -> Option<v1::Call> {
        let new = |call: &v1::Call| call.legs.iter().any(|leg| leg.device == self.from) && !self.before.contains(&call.id);
        match id {
            // The switch may have given a new call the id of one that has ended.
            Some(id) => core.call_by_switch_id(&self.domain, id).filter(new),
            None => {
                let sure = said == Said::Yes;
                let made = |call: &v1::Call| match call.calling_number.as_str() {
                    "" => sure,
                    from => from == self.from && (sure || call.called_number == self.to),
                };
                let goes_on = |call: &v1::Call| call.domain == self.domain.as_str() && call.state() != v1::CallState::Ended;
                core.calls(None, 1, |call| new(call) && made(call) && goes_on(call)).items.into_iter().next()
            }
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
        check.enums("states", &asked.states, |it| v1::CallState::try_from(it).is_ok_and(|it| it != v1::CallState::Unspecified));
        check.optional_text("alias", &asked.alias, 64);
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
        Check::only_id("call_id", &id)?;
        let call = self.core().call(&id);
        let domain = call.as_ref().map(|call| call.domain.as_str());
        self.authorize_object(&request, Scope::Calls, false, domain, Reason::UnknownCall, &id).await?;
        Ok(Response::new(v1::GetCallResponse { call }))
    }

    type WatchCallStream = Pin<Box<dyn Stream<Item = Result<v1::WatchCallResponse, Status>> + Send>>;

    async fn watch_call(&self, request: Request<v1::WatchCallRequest>) -> Result<Response<Self::WatchCallStream>, Status> {
        let id = request.get_ref().call_id.clone();
        Check::only_id("call_id", &id)?;
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
        let ask = self.ask(principal, &domain, &asked, objects);
        let switch = self.switch.clone();
        self.run(ask, async move {
            let wanted = Wanted {
                domain: domain.clone(),
                from: from.as_str().to_owned(),
                to: to.as_str().to_owned(),
                before: calls_of(switch.core(), &domain, from.as_str()),
            };
            execute(&switch, &domain, CallCommand::Make { from, to }, move |core, id, said| {
                wanted.started(core, id, said).map(|call| v1::MakeCallResponse { call: Some(call) })
            })
            .await
        })
        .await
    }

    async fn answer_call(&self, request: Request<v1::AnswerCallRequest>) -> Result<Response<v1::AnswerCallResponse>, Status> {
        let asked = request.get_ref().clone();
        let seen = |core: &Core, found: &Found, _: Said| found.when(core, is_up).map(|call| v1::AnswerCallResponse { call: Some(call) });
        self.leg_command(request, Check::default(), asked.leg, None, |leg, _| CallCommand::Answer(leg), seen).await
    }

    async fn reject_call(&self, request: Request<v1::RejectCallRequest>) -> Result<Response<v1::RejectCallResponse>, Status> {
        let asked = request.get_ref().clone();
        let gone = |core: &Core, found: &Found, _: Said| {
            found.when(core, |state| state == v1::LegState::Released).map(|call| v1::RejectCallResponse { call: Some(call) })
        };
        self.leg_command(request, Check::default(), asked.leg, None, |leg, _| CallCommand::Reject(leg), gone).await
    }

    async fn release_leg(&self, request: Request<v1::ReleaseLegRequest>) -> Result<Response<v1::ReleaseLegResponse>, Status> {
        let asked = request.get_ref().clone();
        let gone = |core: &Core, found: &Found, _: Said| {
            found.when(core, |state| state == v1::LegState::Released).map(|call| v1::ReleaseLegResponse { call: Some(call) })
        };
        let command = |leg, _| CallCommand::ReleaseLeg(leg);
        self.leg_command(request, Check::default(), asked.leg, None, command, gone).await
    }

    async fn release_call(&self, request: Request<v1::ReleaseCallRequest>) -> Result<Response<v1::ReleaseCallResponse>, Status> {
        let asked = request.get_ref().clone();
        let mut check = Check::default();
        check.request_id(&asked.request_id);
        check.id("call_id", &asked.call_id);
        check.done(Some(()))?;
        let Some(call) = self.core().call(&asked.call_id) else {
            return self.replay(&request, Scope::Calls, &asked.call_id, unknown_call(&asked.call_id));
        };
        let unknown = Reason::UnknownCall;
        let principal = self.authorize_object(&request, Scope::Calls, true, Some(&call.domain), unknown, &asked.call_id).await?;
        let domain = Domain::parse(&call.domain).map_err(super::defect)?;
        let id = SwitchCallId::parse(&call.switch_call_id).map_err(super::defect)?;
        let objects = vec![("call_id", asked.call_id.clone(), false)];
        let ask = self.ask(principal, &domain, &asked, objects);
        let switch = self.switch.clone();
        self.run(ask, async move {
            if has_ended(switch.core(), &call.id) {
                return Err(Reason::CallEnded.status("the call is over"));
            }
            let ended = move |core: &Core, _: Option<&SwitchCallId>, _: Said| {
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
        let held = |core: &Core, found: &Found, _: Said| {
            found.when(core, |state| state == v1::LegState::Held).map(|call| v1::HoldCallResponse { call: Some(call) })
        };
        self.leg_command(request, Check::default(), asked.leg, None, |leg, _| CallCommand::Hold(leg), held).await
    }

    async fn retrieve_call(&self, request: Request<v1::RetrieveCallRequest>) -> Result<Response<v1::RetrieveCallResponse>, Status> {
        let asked = request.get_ref().clone();
        let connected = |core: &Core, found: &Found, _: Said| {
            found.when(core, |state| state == v1::LegState::Connected).map(|call| v1::RetrieveCallResponse { call: Some(call) })
        };
        let command = |leg, _| CallCommand::Retrieve(leg);
        self.leg_command(request, Check::default(), asked.leg, None, command, connected).await
    }

    async fn transfer_call(&self, request: Request<v1::TransferCallRequest>) -> Result<Response<v1::TransferCallResponse>, Status> {
        let asked = request.get_ref().clone();
        let sent_to = asked.to_number.clone();
        let gone = move |core: &Core, found: &Found, said| {
            found.sent_on(core, &sent_to, said).map(|call| v1::TransferCallResponse { call: Some(call) })
        };
        let command = |leg, to: Option<Alias>| match to {
            Some(to) => CallCommand::TransferBlind { leg, to },
            None => CallCommand::ReleaseLeg(leg),
        };
        self.leg_command(request, Check::default(), asked.leg, Some(&asked.to_number), command, gone).await
    }

    async fn consult_call(&self, request: Request<v1::ConsultCallRequest>) -> Result<Response<v1::ConsultCallResponse>, Status> {
        let asked = request.get_ref().clone();
        let mut check = Check::default();
        check.request_id(&asked.request_id);
        let to = check.number("to_number", &asked.to_number);
        let selector = checked(check, "leg", asked.leg.clone())?;
        let (Some((domain, call)), Some(to)) = (self.call_of(&selector), to) else {
            return self.replay(&request, Scope::Calls, &selector.call_id, unknown_call(&selector.call_id));
        };
        let unknown = Reason::UnknownCall;
        let principal = self.authorize_object(&request, Scope::Calls, true, Some(domain.as_str()), unknown, &selector.call_id).await?;
        let objects = vec![("call_id", selector.call_id.clone(), false), ("to_number", asked.to_number.clone(), true)];
        let ask = self.ask(principal, &domain, &asked, objects);
        let switch = self.switch.clone();
        self.run(ask, async move {
            let found = found_leg(&call, &selector)?;
            let wanted = Wanted {
                domain: found.domain.clone(),
                from: found.device.clone(),
                to: to.as_str().to_owned(),
                before: calls_of(switch.core(), &found.domain, &found.device),
            };
            let command = CallCommand::Consult { leg: found.switch.clone(), to };
            execute(&switch, &domain, command, move |core, id, said| {
                let consultation = wanted.started(core, id, said)?;
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
        let merged = |core: &Core, held: &Found, active: &Found, said| {
            let left = held.when(core, |state| state == v1::LegState::Released)?;
            held.took_over(core, active, said).then_some(v1::CompleteTransferResponse { call: Some(left) })
        };
        let selectors = (asked.held_leg, asked.consultation_leg);
        let command = |held, active| CallCommand::TransferComplete { held, active };
        let fields = ("held_leg", "consultation_leg");
        self.two_leg_command(request, fields, selectors, command, merged).await
    }

    async fn cancel_transfer(&self, request: Request<v1::CancelTransferRequest>) -> Result<Response<v1::CancelTransferResponse>, Status> {
        let asked = request.get_ref().clone();
        let back = |core: &Core, held: &Found, active: &Found, _: Said| {
            let call = held.when(core, |state| state == v1::LegState::Connected)?;
            let dropped = active.leg(core).is_none_or(|(_, leg)| leg.state() == v1::LegState::Released);
            dropped.then_some(v1::CancelTransferResponse { call: Some(call) })
        };
        let selectors = (asked.held_leg, asked.consultation_leg);
        let command = |held, active| CallCommand::TransferCancel { held, active };
        let fields = ("held_leg", "consultation_leg");
        self.two_leg_command(request, fields, selectors, command, back).await
    }

    async fn join_calls(&self, request: Request<v1::JoinCallsRequest>) -> Result<Response<v1::JoinCallsResponse>, Status> {
        let asked = request.get_ref().clone();
        let joined = |core: &Core, held: &Found, active: &Found, said| {
            let call = held.when(core, |state| state == v1::LegState::Connected)?;
            held.took_over(core, active, said).then_some(v1::JoinCallsResponse { call: Some(call) })
        };
        let selectors = (asked.held_leg, asked.active_leg);
        let command = |held, active| CallCommand::Join { held, active };
        let fields = ("held_leg", "active_leg");
        self.two_leg_command(request, fields, selectors, command, joined).await
    }

    async fn deflect_call(&self, request: Request<v1::DeflectCallRequest>) -> Result<Response<v1::DeflectCallResponse>, Status> {
        let asked = request.get_ref().clone();
        let sent_to = asked.to_number.clone();
        let gone = move |core: &Core, found: &Found, said| {
            found.sent_on(core, &sent_to, said).map(|call| v1::DeflectCallResponse { call: Some(call) })
        };
        let command = |leg, to: Option<Alias>| match to {
            Some(to) => CallCommand::Deflect { leg, to },
            None => CallCommand::ReleaseLeg(leg),
        };
        self.leg_command(request, Check::default(), asked.leg, Some(&asked.to_number), command, gone).await
    }

    async fn send_dtmf(&self, request: Request<v1::SendDtmfRequest>) -> Result<Response<v1::SendDtmfResponse>, Status> {
        let asked = request.get_ref().clone();
        let mut check = Check::default();
        check.digits(&asked.digits);
        let digits = asked.digits;
        // Digits leave no trace in the call's state: only the switch's answer tells that they were played.
        let still = |core: &Core, found: &Found, said| {
            let (call, _) = found.leg(core).filter(|_| said == Said::Yes)?;
            Some(v1::SendDtmfResponse { call: Some(call) })
        };
        let command = |leg, _| CallCommand::Dtmf { leg, digits };
        self.leg_command(request, check, asked.leg, None, command, still).await
    }
}

#[cfg(test)]
mod tests {
    use elph_model::{CoreOptions, Origin};
    use mediator_client::switch::{
        Observation, SwitchEvent,
        event::{CallsMerged, Cause, Direction, LegObservation, LegState},
    };

    use super::*;

    fn domain() -> Domain {
        Domain::parse("biysk.local").unwrap()
    }

    fn leg(call: &str, device: &str, remote: &str, direction: Direction, state: LegState, cause: Option<Cause>) -> Observation {
        Observation::Leg(LegObservation {
            call: SwitchCallId::parse(call).unwrap(),
            leg: SwitchLegId::parse(device).unwrap(),
            device: Some(Alias::parse(device).unwrap()),
            direction: Some(direction),
            remote: Some(Alias::parse(remote).unwrap()),
            state,
            cause,
            answered_at: None,
        })
    }

    fn core(seen: impl IntoIterator<Item = Observation>) -> Core {
        let core = Core::open(CoreOptions::default()).unwrap();
        for observation in seen {
            core.observe(&SwitchEvent { domain: domain(), at: None, observation }, Origin::default());
        }
        core
    }

    fn observe(core: &Core, observation: Observation) {
        core.observe(&SwitchEvent { domain: domain(), at: None, observation }, Origin::default());
    }

    fn found(core: &Core, call: &str, device: &str) -> Found {
        let call = core.call_by_switch_id(&domain(), &SwitchCallId::parse(call).unwrap()).unwrap();
        found_leg(&call, &v1::LegSelector { call_id: call.id.clone(), leg_id: String::new(), device: device.to_owned() }).unwrap()
    }

    use Direction::{Originating as Out, Terminating as In};
    use LegState::{Alerting, Connected, Held, Released};

    #[test]
    fn without_an_answer_a_call_that_somebody_else_made_or_got_is_not_taken_for_the_one_that_was_asked_for() {
        let wanted = Wanted { domain: domain(), from: "1001".into(), to: "1002".into(), before: Vec::new() };
        let incoming = core([leg("1", "1001", "1009", In, Alerting, None)]);
        let another = core([leg("1", "1001", "1003", Out, Connected, None)]);
        let the_one = core([leg("1", "1001", "1002", Out, Connected, None)]);
        for said in [Said::Yes, Said::Nothing] {
            assert!(wanted.started(&incoming, None, said).is_none());
            assert!(wanted.started(&the_one, None, said).is_some());
        }
        // A dial plan may have changed the number; the switch's yes is enough then.
        assert!(wanted.started(&another, None, Said::Yes).is_some());
        assert!(wanted.started(&another, None, Said::Nothing).is_none());
    }

    #[test]
    fn without_an_answer_a_leg_that_has_hung_up_was_not_transferred() {
        for (cause, told) in [(Cause::Normal, false), (Cause::Transfer, true), (Cause::Redirected, true)] {
            let core = core([leg("1", "1001", "1002", Out, Connected, None), leg("1", "1002", "1001", In, Connected, None)]);
            let found = found(&core, "1", "1002");
            observe(&core, leg("1", "1002", "1001", In, Released, Some(cause)));
            assert!(found.sent_on(&core, "1003", Said::Yes).is_some());
            assert_eq!(found.sent_on(&core, "1003", Said::Nothing).is_some(), told, "{cause:?}");
        }
    }

    #[test]
    fn without_an_answer_a_consultation_that_was_given_up_did_not_become_a_transfer() {
        let seen = [
            leg("1", "1001", "1002", Out, Held, None),
            leg("1", "1002", "1001", In, Connected, None),
            leg("2", "1001", "1003", Out, Connected, None),
            leg("2", "1003", "1001", In, Connected, None),
        ];
        let given_up = core(seen.clone());
        let legs = (found(&given_up, "1", "1001"), found(&given_up, "2", "1001"));
        observe(&given_up, Observation::CallReleased { call: SwitchCallId::parse("2").unwrap(), cause: None });
        assert!(legs.0.took_over(&given_up, &legs.1, Said::Yes));
        assert!(!legs.0.took_over(&given_up, &legs.1, Said::Nothing));

        let merged = core(seen);
        observe(
            &merged,
            Observation::Merged(CallsMerged {
                primary: SwitchCallId::parse("1").unwrap(),
                secondary: Some(SwitchCallId::parse("2").unwrap()),
                into: SwitchCallId::parse("2").unwrap(),
                cause: Cause::Transfer,
                leaving: Some(Alias::parse("1001").unwrap()),
                legs: Vec::new(),
            }),
        );
        assert!(legs.0.took_over(&merged, &legs.1, Said::Nothing));
    }
}
