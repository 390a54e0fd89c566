//! Carries out the dialect's operations on the switch, whichever protocol they came by: wire attributes in, wire attributes out.

use std::collections::BTreeMap;

use ssw_core::{ConferenceRequest, LegState, Outcome, Recording, Refusal, RefusalCause, Role, Switch};

use crate::dialect::{Names, OperationShape, SimDialect};

/// Attributes as they stand on the wire.
pub type Attributes = BTreeMap<String, String>;

/// What an operation answers, in the dialect's names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// Attributes of the result; empty for most.
    pub fields: Attributes,
    /// For a list: the element of one record.
    pub record: Option<String>,
    /// For a list: the attributes of each record.
    pub records: Vec<Attributes>,
}

/// Translates canonical fields to the names on the wire; what has no name is left out.
pub fn to_wire(names: &Names, fields: &[(&str, String)]) -> Attributes {
    fields.iter().filter_map(|(key, value)| Some((names.get(*key)?.clone(), value.clone()))).collect()
}

/// Carries out `operation` (the dialect's key, see [`SimDialect::operation`]) in `domain` with the request's attributes.
/// An attribute that the dialect does not name is ignored; a fixed one that is missing is refused as `not_supported`.
pub fn execute_operation(
    switch: &Switch,
    dialect: &SimDialect,
    domain: &str,
    operation: &str,
    attributes: &Attributes,
) -> Result<Reply, Refusal> {
    let unknown = || Refusal::new(RefusalCause::NotSupported, format!("there is no operation {operation}"));
    let shape = dialect.operations.get(operation).ok_or_else(unknown)?;
    for (name, value) in &shape.fixed {
        if attributes.get(name) != Some(value) {
            return Err(Refusal::new(RefusalCause::NotSupported, format!("attribute {name} must be {value}")));
        }
    }
    let request = Request { dialect, shape, attributes };
    let domain = request.get("domain").unwrap_or(domain);
    if !switch.has_domain(domain) {
        return Err(Refusal::new(RefusalCause::NoSuchSubscriber, "there is no such domain"));
    }
    if operation.starts_with("call_") { call(switch, domain, operation, &request) } else { conference(switch, domain, operation, &request) }
}

/// A call and a leg in it.
type LegRef<'a> = (&'a str, &'a str);

struct Request<'a> {
    dialect: &'a SimDialect,
    shape: &'a OperationShape,
    attributes: &'a Attributes,
}

impl<'a> Request<'a> {
    fn get(&self, field: &str) -> Option<&'a str> {
        let name = self.shape.fields.get(field)?;
        self.attributes.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn need(&self, field: &str) -> Result<&'a str, Refusal> {
        self.get(field).ok_or_else(|| Refusal::new(RefusalCause::BadState, format!("the request lacks its {field}")))
    }

    fn leg(&self) -> Result<LegRef<'a>, Refusal> {
        Ok((self.need("call")?, self.need("leg")?))
    }

    fn pair(&self) -> Result<(LegRef<'a>, LegRef<'a>), Refusal> {
        Ok((self.leg()?, (self.need("other_call")?, self.need("other_leg")?)))
    }

    fn number(&self, field: &str) -> Result<u32, Refusal> {
        let Some(text) = self.get(field) else { return Ok(0) };
        text.parse().map_err(|_| Refusal::new(RefusalCause::BadState, format!("{field} is no number")))
    }

    fn boolean(&self, field: &str) -> Result<bool, Refusal> {
        let text = self.need(field)?;
        match self.dialect.canonical("boolean", text) {
            Some(word) => Ok(word == "true"),
            None => Err(Refusal::new(RefusalCause::BadState, format!("{field} is neither true nor false"))),
        }
    }

    fn role(&self) -> Result<Role, Refusal> {
        let Some(text) = self.get("role") else { return Ok(Role::Participant) };
        match self.dialect.canonical("role", text) {
            Some("presenter") => Ok(Role::Presenter),
            Some(_) => Ok(Role::Participant),
            None => Err(Refusal::new(RefusalCause::BadState, "there is no such role")),
        }
    }

    fn list(&self, field: &str) -> Vec<String> {
        let separator = self.dialect.call_api.list_separator.as_str();
        let text = self.get(field).unwrap_or_default();
        text.split(separator).map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }

    fn text(&self, field: &str) -> String {
        self.get(field).unwrap_or_default().to_owned()
    }

    fn outcome(&self, outcome: Outcome) -> Reply {
        let fields = to_wire(&self.shape.result, &[("call", outcome.call), ("leg", outcome.leg)]);
        Reply { fields, ..Reply::default() }
    }

    fn one(&self, field: &str, value: String) -> Reply {
        Reply { fields: to_wire(&self.shape.result, &[(field, value)]), ..Reply::default() }
    }
}

fn done(result: Result<(), Refusal>) -> Result<Reply, Refusal> {
    result.map(|()| Reply::default())
}

fn call(switch: &Switch, domain: &str, operation: &str, request: &Request<'_>) -> Result<Reply, Refusal> {
    let leg = || request.leg();
    match operation {
        "call_make" => switch.make_call(domain, request.need("from")?, request.need("to")?, true).map(|made| request.outcome(made)),
        "call_answer" => leg().and_then(|(call, leg)| done(switch.answer(domain, call, leg))),
        "call_reject" => leg().and_then(|(call, leg)| done(switch.reject(domain, call, leg))),
        "call_release_leg" => leg().and_then(|(call, leg)| done(switch.release_leg(domain, call, leg))),
        "call_release" => done(switch.release_call(domain, request.need("call")?)),
        "call_hold" => leg().and_then(|(call, leg)| done(switch.hold(domain, call, leg))),
        "call_retrieve" => leg().and_then(|(call, leg)| done(switch.retrieve(domain, call, leg))),
        "call_transfer_blind" => {
            let (call, leg) = leg()?;
            switch.transfer_blind(domain, call, leg, request.need("to")?).map(|made| request.outcome(made))
        }
        "call_consult" => {
            let (call, leg) = leg()?;
            switch.consult(domain, call, leg, request.need("to")?).map(|made| request.outcome(made))
        }
        "call_transfer_complete" => {
            let (held, active) = request.pair()?;
            switch.transfer_complete(domain, held, active).map(|made| request.outcome(made))
        }
        "call_transfer_cancel" => {
            let (held, active) = request.pair()?;
            switch.transfer_cancel(domain, held, active).map(|made| request.outcome(made))
        }
        "call_join" => {
            let (held, active) = request.pair()?;
            switch.join(domain, held, active).map(|made| request.outcome(made))
        }
        "call_deflect" => {
            let (call, leg) = leg()?;
            done(switch.deflect(domain, call, leg, request.need("to")?))
        }
        "call_dtmf" => {
            let (call, leg) = leg()?;
            done(switch.dtmf(domain, call, leg, request.need("digits")?))
        }
        "call_list" => Ok(list_legs(switch, domain, request)),
        other => Err(Refusal::new(RefusalCause::NotSupported, format!("there is no operation {other}"))),
    }
}

fn list_legs(switch: &Switch, domain: &str, request: &Request<'_>) -> Reply {
    let dialect = request.dialect;
    let mut records = Vec::new();
    for call in switch.calls(Some(domain)) {
        for leg in call.legs.iter().filter(|leg| leg.state != LegState::Released) {
            let fields = [
                ("call", call.id.clone()),
                ("leg", leg.id.clone()),
                ("device", leg.device.clone()),
                ("direction", dialect.word("direction", leg.direction.word()).to_owned()),
                ("remote", leg.remote.clone()),
                ("leg_state", dialect.word("leg_state", leg.state.word()).to_owned()),
                ("answered_at", leg.answered_at.map_or_else(String::new, |at| dialect.api_time(at))),
            ];
            records.push(to_wire(&request.shape.result, &fields));
        }
    }
    Reply { fields: Attributes::new(), record: request.shape.record.clone(), records }
}

fn conference(switch: &Switch, domain: &str, operation: &str, request: &Request<'_>) -> Result<Reply, Refusal> {
    if operation == "conference_create" {
        let wanted = ConferenceRequest {
            name: request.text("name"),
            initiator: request.text("initiator"),
            room: request.text("room"),
            template: request.text("template"),
            groups: request.list("groups"),
            members: request.list("members"),
            limit: request.number("limit")?,
            seconds: request.number("seconds")?,
            ends_when_empty: false,
        };
        return switch.create_conference(domain, wanted).map(|id| request.one("conference", id));
    }
    let id = request.need("conference")?;
    match operation {
        "conference_invite" => {
            switch.invite(domain, id, request.need("to")?, request.role()?).map(|member| request.one("participant", member))
        }
        "conference_mute_all" => done(switch.mute_all(domain, id, request.boolean("may_unmute")?)),
        "conference_lock" => done(switch.set_locked(domain, id, true)),
        "conference_unlock" => done(switch.set_locked(domain, id, false)),
        "conference_start_recording" => done(switch.set_recording(domain, id, Recording::On, false)),
        "conference_pause_recording" => done(switch.set_recording(domain, id, Recording::Paused, false)),
        "conference_resume_recording" => done(switch.set_recording(domain, id, Recording::On, true)),
        "conference_stop_recording" => done(switch.set_recording(domain, id, Recording::Off, false)),
        "conference_extend" => done(switch.extend(domain, id, request.number("seconds")?)),
        "conference_end" => done(switch.end_conference(domain, id)),
        _ => member(switch, domain, id, operation, request),
    }
}

fn member(switch: &Switch, domain: &str, id: &str, operation: &str, request: &Request<'_>) -> Result<Reply, Refusal> {
    let member = request.need("participant")?;
    match operation {
        "conference_cancel_invitation" => done(switch.cancel_invitation(domain, id, member)),
        "conference_remove" => done(switch.remove(domain, id, member)),
        "conference_mute" => done(switch.mute(domain, id, member)),
        "conference_unmute" => done(switch.unmute(domain, id, member)),
        "conference_ask_to_unmute" => done(switch.ask_to_unmute(domain, id, member)),
        "conference_grant_floor" => done(switch.grant_floor(domain, id, member)),
        "conference_deny_floor" => done(switch.deny_floor(domain, id, member)),
        "conference_set_role" => done(switch.set_role(domain, id, member, request.role()?)),
        "conference_hold" => done(switch.hold_member(domain, id, member)),
        "conference_retrieve" => done(switch.retrieve_member(domain, id, member)),
        "conference_move" => {
            switch.move_member(domain, id, member, request.need("other_conference")?).map(|moved| request.one("participant", moved))
        }
        other => Err(Refusal::new(RefusalCause::NotSupported, format!("there is no operation {other}"))),
    }
}
