//! Carries out the services of ECMA-323 on the switch for an application that has a session.

use ssw_core::{LegState, Refusal};

use crate::{
    context::ServerContext,
    csta::{
        answer::{self, ErrorCode},
        element::Element,
        event::Monitors,
        request::{Connection, Request},
    },
};

/// What a service works on.
pub(crate) struct Services<'a> {
    /// The switch and its dialect.
    pub(crate) ctx: &'a ServerContext,
    /// The session's domain.
    pub(crate) domain: &'a str,
    /// The session's monitors.
    pub(crate) monitors: &'a mut Monitors,
}

/// A refused service: the standard's code and the vendor's word.
struct Failure {
    code: ErrorCode,
    word: Option<String>,
}

impl From<ErrorCode> for Failure {
    fn from(code: ErrorCode) -> Self {
        Self { code, word: None }
    }
}

// === impl Services ===

impl Services<'_> {
    /// Carries out a request and builds its answer.
    pub(crate) fn perform(&mut self, request: &Request) -> Element {
        match self.attempt(request) {
            Ok(answer) => answer,
            Err(failure) => answer::error(failure.code, failure.word.as_deref()),
        }
    }

    fn attempt(&mut self, request: &Request) -> Result<Element, Failure> {
        let (switch, domain) = (&self.ctx.switch, self.domain);
        Ok(match request {
            Request::MonitorStart { device } => {
                let alias = self.alias(device);
                if !switch.alias_exists(domain, alias) {
                    return Err(answer::NO_SUCH_DEVICE.into());
                }
                let cross_ref = self.monitors.start(alias).ok_or(answer::NO_MORE_MONITORS)?;
                answer::empty("MonitorStartResponse").with(Element::text("monitorCrossRefID", cross_ref.to_string()))
            }
            Request::MonitorStop { cross_ref } => {
                if !self.monitors.stop(cross_ref) {
                    return Err(answer::NO_SUCH_MONITOR.into());
                }
                answer::empty("MonitorStopResponse")
            }
            Request::SnapshotDevice { device } => self.snapshot_device(self.alias(device))?,
            Request::SnapshotCall { call } => answer::snapshot_call(&switch.call(domain, call).map_err(|no| self.refused(&no))?),
            Request::MakeCall { calling, called, auto_originate } => {
                let (from, to) = (self.alias(calling), self.alias(called));
                if !switch.alias_exists(domain, from) {
                    return Err(answer::NO_SUCH_CALLER.into());
                }
                let prompt = *auto_originate == self.ctx.dialect.csta.auto_originate;
                let made = switch.make_call(domain, from, to, prompt).map_err(|no| self.refused_for(&no, answer::NO_SUCH_CALLED))?;
                answer::with_connection("MakeCallResponse", "callingDevice", &made)
            }
            Request::AnswerCall(connection) => {
                self.on_leg("AnswerCallResponse", connection, |call, leg| switch.answer(domain, call, leg))?
            }
            Request::ClearConnection(connection) => self.on_leg("ClearConnectionResponse", connection, |call, leg| {
                let view = switch.call(domain, call)?;
                let rings = view.legs.iter().any(|other| other.id == leg && other.state == LegState::Alerting);
                if rings { switch.reject(domain, call, leg) } else { switch.release_leg(domain, call, leg) }
            })?,
            Request::ClearCall(connection) => {
                let call = if connection.call.is_empty() { self.leg(connection)?.0 } else { connection.call.clone() };
                switch.release_call(domain, &call).map_err(|no| self.refused(&no))?;
                answer::empty("ClearCallResponse")
            }
            Request::HoldCall(connection) => self.on_leg("HoldCallResponse", connection, |call, leg| switch.hold(domain, call, leg))?,
            Request::RetrieveCall(connection) => {
                self.on_leg("RetrieveCallResponse", connection, |call, leg| switch.retrieve(domain, call, leg))?
            }
            Request::AlternateCall { held, active } => {
                let (held, active) = (self.leg(held)?, self.leg(active)?);
                switch.alternate(domain, pair(&held), pair(&active)).map_err(|no| self.refused(&no))?;
                answer::empty("AlternateCallResponse")
            }
            Request::ConsultationCall { existing, consulted } => {
                let (call, leg) = self.leg(existing)?;
                let made = switch.consult(domain, &call, &leg, self.alias(consulted));
                let made = made.map_err(|no| self.refused_for(&no, answer::NO_SUCH_CALLED))?;
                answer::with_connection("ConsultationCallResponse", "initiatedCall", &made)
            }
            Request::TransferCall { held, active } => {
                let (held, active) = (self.leg(held)?, self.leg(active)?);
                let made = switch.transfer_complete(domain, pair(&held), pair(&active)).map_err(|no| self.refused(&no))?;
                answer::with_connection("TransferCallResponse", "transferredCall", &made)
            }
            Request::SingleStepTransferCall { active, to } => {
                let (call, leg) = self.leg(active)?;
                let made = switch.transfer_blind(domain, &call, &leg, self.alias(to));
                let made = made.map_err(|no| self.refused_for(&no, answer::NO_SUCH_CALLED))?;
                answer::with_connection("SingleStepTransferCallResponse", "transferredCall", &made)
            }
            Request::ConferenceCall { held, active } => {
                let (held, active) = (self.leg(held)?, self.leg(active)?);
                let made = switch.join(domain, pair(&held), pair(&active)).map_err(|no| self.refused(&no))?;
                answer::with_connection("ConferenceCallResponse", "conferenceCall", &made)
            }
            Request::DeflectCall { diverted, to } => {
                let (call, leg) = self.leg(diverted)?;
                let done = switch.deflect(domain, &call, &leg, self.alias(to));
                done.map_err(|no| self.refused_for(&no, answer::NO_SUCH_CALLED))?;
                answer::empty("DeflectCallResponse")
            }
            Request::GenerateDigits { connection, digits } => {
                if !self.ctx.dialect.csta.generate_digits {
                    return Err(answer::NOT_SUPPORTED.into());
                }
                self.on_leg("GenerateDigitsResponse", connection, |call, leg| switch.dtmf(domain, call, leg, digits))?
            }
            Request::StartApplicationSession { .. }
            | Request::ResetApplicationSessionTimer { .. }
            | Request::StopApplicationSession { .. }
            | Request::Keepalive => return Err(answer::NOT_SUPPORTED.into()),
        })
    }

    fn snapshot_device(&self, alias: &str) -> Result<Element, Failure> {
        let switch = &self.ctx.switch;
        let legs = switch.device_legs(self.domain, alias).map_err(|no| self.refused(&no))?;
        // A call that ended between the two looks is simply not listed.
        let calls: Vec<_> = legs.into_iter().filter_map(|leg| switch.call(self.domain, &leg.call).ok().map(|call| (leg, call))).collect();
        Ok(answer::snapshot_device(alias, &calls))
    }

    fn on_leg(
        &self,
        name: &'static str,
        connection: &Connection,
        act: impl FnOnce(&str, &str) -> Result<(), Refusal>,
    ) -> Result<Element, Failure> {
        let (call, leg) = self.leg(connection)?;
        act(&call, &leg).map_err(|no| self.refused(&no))?;
        Ok(answer::empty(name))
    }

    /// The call and leg that a connection means. Where it names no call, the device's only one is meant.
    fn leg(&self, connection: &Connection) -> Result<(String, String), Failure> {
        let device = self.alias(&connection.device);
        if device.is_empty() {
            return Err(Failure::from(("operation", "invalidConnectionID")));
        }
        if !connection.call.is_empty() {
            return Ok((connection.call.clone(), device.to_owned()));
        }
        let legs = self.ctx.switch.device_legs(self.domain, device).map_err(|no| self.refused(&no))?;
        match &legs[..] {
            [only] => Ok((only.call.clone(), only.id.clone())),
            _ => Err(Failure::from(("operation", "invalidConnectionID"))),
        }
    }

    fn refused(&self, refusal: &Refusal) -> Failure {
        self.refused_for(refusal, answer::NO_SUCH_DEVICE)
    }

    fn refused_for(&self, refusal: &Refusal, no_such_device: ErrorCode) -> Failure {
        let word = self.ctx.dialect.refusal(refusal.cause).to_owned();
        Failure { code: answer::error_code(refusal, no_such_device), word: Some(word) }
    }

    /// The alias inside a device as the dialect has it written; a text in another form is taken as it is.
    fn alias<'t>(&self, text: &'t str) -> &'t str {
        let form = &self.ctx.dialect.csta.device;
        let Some((before, after)) = form.split_once("{alias}") else { return text };
        let (before, after) = (before.replace("{domain}", self.domain), after.replace("{domain}", self.domain));
        text.strip_prefix(before.as_str()).and_then(|text| text.strip_suffix(after.as_str())).unwrap_or(text)
    }
}

fn pair((call, leg): &(String, String)) -> (&str, &str) {
    (call, leg)
}
