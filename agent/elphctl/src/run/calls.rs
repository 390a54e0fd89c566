//! `elphctl calls`.

use elph_proto::v1::{
    AnswerCallRequest, Call, CallState, CancelTransferRequest, CompleteTransferRequest, ConsultCallRequest, DeflectCallRequest,
    GetCallResponse, HoldCallRequest, JoinCallsRequest, LegSelector, LegState, ListCallsRequest, ListCallsResponse, MakeCallRequest,
    RejectCallRequest, ReleaseCallRequest, ReleaseLegRequest, RetrieveCallRequest, SendDtmfRequest, TransferCallRequest,
};
use prost::Message;

use super::{
    Session, piped,
    resolve::{PAGE, only_leg},
};
use crate::{
    change::Change,
    cli::calls::{CallsCommand, Choice, Dtmf, LegTo, ListCalls, MakeCall, OneLeg, TwoLegs},
    failure::Failure,
    output::note,
    render::{self, Tone},
};

const RINGING: &[LegState] = &[LegState::Alerting];
const TALKING: &[LegState] = &[LegState::Connected];
const HELD: &[LegState] = &[LegState::Held];

/// Sends a command about one call and shows the call that is answered.
macro_rules! order {
    ($session:ident, $change:ident, $method:ident($request:ident { $($field:ident: $value:expr),+ $(,)? }), $answer:literal) => {{
        let request = $request { request_id: $change.request_id().to_owned(), $($field: $value),+ };
        let answer = $session.agent.order(&$change, $session.agent.calls().$method(request)).await?;
        $session.show_call($answer, &answer, answer.call.as_ref())
    }};
}

impl Session<'_> {
    /// Runs a command.
    pub(crate) async fn calls(&mut self, command: CallsCommand) -> Result<(), Failure> {
        match command {
            CallsCommand::List(list) => self.list_calls(list).await,
            CallsCommand::Get { call } => {
                let id = self.call_id(&call.call).await?;
                let call = self.call(&id).await?;
                self.show_call("GetCallResponse", &GetCallResponse { call: Some(call.clone()) }, Some(&call))
            }
            CallsCommand::Watch { call } => {
                let id = self.call_id(&call.call).await?;
                Box::pin(self.watch_call(id)).await
            }
            CallsCommand::Make(make) => self.make_call(make).await,
            CallsCommand::Release { call, repeat } => {
                let mut change = self.change(&repeat);
                let call_id = self.changed_call(&call.call, &mut change).await?;
                order!(self, change, release_call(ReleaseCallRequest { call_id: call_id }), "ReleaseCallResponse")
            }
            CallsCommand::Answer(one) => {
                let (change, leg) = self.one_leg(&one, RINGING).await?;
                order!(self, change, answer_call(AnswerCallRequest { leg: leg }), "AnswerCallResponse")
            }
            CallsCommand::Reject(one) => {
                let (change, leg) = self.one_leg(&one, RINGING).await?;
                order!(self, change, reject_call(RejectCallRequest { leg: leg }), "RejectCallResponse")
            }
            CallsCommand::ReleaseLeg(one) => {
                let open =
                    [LegState::Initiated, LegState::Alerting, LegState::Queued, LegState::Connected, LegState::Held, LegState::Failed];
                let (change, leg) = self.one_leg(&one, &open).await?;
                order!(self, change, release_leg(ReleaseLegRequest { leg: leg }), "ReleaseLegResponse")
            }
            CallsCommand::Hold(one) => {
                let (change, leg) = self.one_leg(&one, TALKING).await?;
                order!(self, change, hold_call(HoldCallRequest { leg: leg }), "HoldCallResponse")
            }
            CallsCommand::Retrieve(one) => {
                let (change, leg) = self.one_leg(&one, HELD).await?;
                order!(self, change, retrieve_call(RetrieveCallRequest { leg: leg }), "RetrieveCallResponse")
            }
            CallsCommand::Transfer(to) => {
                let (change, leg) = self.leg_to(&to, TALKING).await?;
                order!(self, change, transfer_call(TransferCallRequest { leg: leg, to_number: to.to }), "TransferCallResponse")
            }
            CallsCommand::Deflect(to) => {
                let (change, leg) = self.leg_to(&to, RINGING).await?;
                order!(self, change, deflect_call(DeflectCallRequest { leg: leg, to_number: to.to }), "DeflectCallResponse")
            }
            CallsCommand::Consult(to) => self.consult(to).await,
            CallsCommand::Complete(two) => {
                let (change, held_leg, consultation_leg) = self.two_legs(&two).await?;
                let request = CompleteTransferRequest { request_id: change.request_id().to_owned(), held_leg, consultation_leg };
                let answer = self.agent.order(&change, self.agent.calls().complete_transfer(request)).await?;
                self.show_call("CompleteTransferResponse", &answer, answer.call.as_ref())
            }
            CallsCommand::Cancel(two) => {
                let (change, held_leg, consultation_leg) = self.two_legs(&two).await?;
                let request = CancelTransferRequest { request_id: change.request_id().to_owned(), held_leg, consultation_leg };
                let answer = self.agent.order(&change, self.agent.calls().cancel_transfer(request)).await?;
                self.show_call("CancelTransferResponse", &answer, answer.call.as_ref())
            }
            CallsCommand::Join(two) => {
                let (change, held_leg, active_leg) = self.two_legs(&two).await?;
                order!(self, change, join_calls(JoinCallsRequest { held_leg: held_leg, active_leg: active_leg }), "JoinCallsResponse")
            }
            CallsCommand::Dtmf(dtmf) => self.dtmf(dtmf).await,
        }
    }

    /// Lists up to `limit` calls, page after page. The token stays if there are more.
    pub(crate) async fn page_calls(&self, mut request: ListCallsRequest, limit: usize) -> Result<ListCallsResponse, Failure> {
        let mut all = ListCallsResponse::default();
        loop {
            request.page_size = i32::try_from(limit.saturating_sub(all.calls.len())).unwrap_or(PAGE).min(PAGE);
            let page = self.agent.ask(self.agent.calls().list_calls(request.clone())).await?;
            all.calls.extend(page.calls);
            all.next_page_token = page.next_page_token;
            if all.next_page_token.is_empty() || all.calls.len() >= limit || all.next_page_token == request.page_token {
                return Ok(all);
            }
            request.page_token.clone_from(&all.next_page_token);
        }
    }

    async fn list_calls(&mut self, list: ListCalls) -> Result<(), Failure> {
        let limit = if list.limit == 0 { usize::MAX } else { list.limit as usize };
        let all_states = [CallState::Initiated, CallState::Alerting, CallState::Connected, CallState::Ended];
        let states: Vec<CallState> = if list.all { all_states.to_vec() } else { list.state.into_iter().map(CallState::from).collect() };
        let mut answer = ListCallsResponse::default();
        let mut more = false;
        for domain in self.domains(list.domain.as_ref()).await? {
            let left = limit - answer.calls.len().min(limit);
            if left == 0 {
                more = true;
                break;
            }
            let states = states.iter().map(|state| i32::from(*state)).collect();
            let request = ListCallsRequest { domain, states, alias: list.alias.clone().unwrap_or_default(), ..Default::default() };
            let page = self.page_calls(request, left).await?;
            more |= !page.next_page_token.is_empty();
            answer.calls.extend(page.calls);
            answer.next_page_token = page.next_page_token;
        }
        if more {
            note(&format!("{} calls shown, there are more: --limit 0 shows all", answer.calls.len()));
        }
        if self.out.json {
            return self.out.message("ListCallsResponse", &answer);
        }
        self.out.grid(&render::call::list(&answer.calls, &self.out.look), "no calls")?;
        Ok(())
    }

    /// Shows an answer with a call.
    pub(crate) fn show_call(&mut self, name: &str, answer: &impl Message, call: Option<&Call>) -> Result<(), Failure> {
        if self.out.json {
            return self.out.message(name, answer);
        }
        let Some(call) = call else { return Ok(()) };
        for line in render::call::facts_of(call, &self.out.look) {
            self.out.line(&line)?;
        }
        let legs = render::call::legs(&call.legs, &self.out.look);
        if legs.is_empty() {
            return Ok(());
        }
        self.out.line("")?;
        self.out.grid(&legs, "")
    }

    async fn make_call(&mut self, make: MakeCall) -> Result<(), Failure> {
        let mut change = self.change(&make.repeat);
        let domain = self.domain(make.domain.as_ref()).await?;
        if make.domain.is_none() {
            change.chosen("--domain", &domain);
        }
        change.look_with(&["calls", "list", "--domain", &domain, "--alias", &make.from]);
        order!(self, change, make_call(MakeCallRequest { domain: domain, from_alias: make.from, to_number: make.to }), "MakeCallResponse")
    }

    async fn changed_call(&self, given: &str, change: &mut Change) -> Result<String, Failure> {
        let id = self.call_id(given).await?;
        change.resolved(given, &id);
        change.look_with(&["calls", "get", &id]);
        Ok(id)
    }

    async fn chosen_leg(
        &self,
        call: &str,
        choice: &Choice,
        fitting: &[LegState],
        mut change: Change,
    ) -> Result<(Change, Option<LegSelector>), Failure> {
        let call_id = self.changed_call(call, &mut change).await?;
        let leg = self.leg(&call_id, choice, fitting, &mut change).await?;
        Ok((change, Some(leg)))
    }

    async fn one_leg(&self, one: &OneLeg, fitting: &[LegState]) -> Result<(Change, Option<LegSelector>), Failure> {
        self.chosen_leg(&one.call.call, &one.choice, fitting, self.change(&one.repeat)).await
    }

    async fn leg_to(&self, to: &LegTo, fitting: &[LegState]) -> Result<(Change, Option<LegSelector>), Failure> {
        self.chosen_leg(&to.call.call, &to.choice, fitting, self.change(&to.repeat)).await
    }

    async fn consult(&mut self, to: LegTo) -> Result<(), Failure> {
        let (change, leg) = self.leg_to(&to, TALKING).await?;
        let request = ConsultCallRequest { request_id: change.request_id().to_owned(), leg, to_number: to.to };
        let answer = self.agent.order(&change, self.agent.calls().consult_call(request)).await?;
        self.show_call("ConsultCallResponse", &answer, answer.held_call.as_ref())?;
        if self.out.json {
            return Ok(());
        }
        let Some(consultation) = &answer.consultation_call else { return Ok(()) };
        self.out.line("")?;
        self.out.toned("Consultation", Tone::Strong)?;
        self.show_call("", &consultation.clone(), Some(consultation))
    }

    /// The legs of one device in two calls: the held one and the other.
    async fn two_legs(&self, two: &TwoLegs) -> Result<(Change, Option<LegSelector>, Option<LegSelector>), Failure> {
        let mut change = self.change(&two.repeat);
        let other = self.changed_call(&two.other_call, &mut change).await?;
        let held = self.changed_call(&two.held_call, &mut change).await?;
        let selector = |call_id: &str, leg_id: &Option<String>, device: &str| {
            let (call_id, leg_id) = (call_id.to_owned(), leg_id.clone().unwrap_or_default());
            Some(LegSelector { call_id, device: if leg_id.is_empty() { device.to_owned() } else { String::new() }, leg_id })
        };
        let device = match &two.device {
            Some(device) => device.clone(),
            None if two.held_leg.is_some() => String::new(),
            None => {
                let call = self.call(&held).await?;
                let device = only_leg(&call, HELD)?.device.clone();
                change.chosen("--device", &device);
                device
            }
        };
        let (held_leg, other_leg) = (selector(&held, &two.held_leg, &device), selector(&other, &two.other_leg, &device));
        Ok((change, held_leg, other_leg))
    }

    async fn dtmf(&mut self, dtmf: Dtmf) -> Result<(), Failure> {
        let digits = if dtmf.digits == "-" { piped("digits")? } else { dtmf.digits.clone() };
        let (mut change, leg) = self.chosen_leg(&dtmf.call.call, &dtmf.choice, TALKING, self.change(&dtmf.repeat)).await?;
        // Digits may be a PIN: the advice does not repeat them.
        change.resolved(&dtmf.digits, "-");
        order!(self, change, send_dtmf(SendDtmfRequest { leg: leg, digits: digits }), "SendDtmfResponse")
    }
}
