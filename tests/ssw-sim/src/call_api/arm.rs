//! The documented commands of `cc/arm` that make sense without a contact centre (ecss10-interfaces §2). A conversation is a call, an
//! operator the alias of one of its legs.

use ssw_core::{LegState, Refusal, RefusalCause, Role};

use crate::{call_api::tree::Tree, context::ServerContext, operations::Reply};

/// Their names.
pub(super) const COMMANDS: [&str; 6] =
    ["call_hold", "call_unhold", "add_participant", "remove_participant", "block_operator", "unblock_operator"];

/// Carries one out; `None` if the switch cannot.
pub(super) fn execute(ctx: &ServerContext, domain: &str, command: &str, request: &Tree) -> Option<Result<Reply, Refusal>> {
    match command {
        "call_hold" => Some(on_leg(ctx, domain, request, LegState::Connected, |call, leg| ctx.switch.hold(domain, call, leg))),
        "call_unhold" => Some(on_leg(ctx, domain, request, LegState::Held, |call, leg| ctx.switch.retrieve(domain, call, leg))),
        "add_participant" => add(ctx, domain, request),
        "remove_participant" => Some(remove(ctx, domain, request)),
        _ => None,
    }
}

fn attribute<'a>(tree: &'a Tree, name: &str) -> Option<&'a str> {
    tree.attributes.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

fn lacks(name: &str) -> Refusal {
    Refusal::new(RefusalCause::BadState, format!("the request lacks its {name}"))
}

fn on_leg(
    ctx: &ServerContext,
    domain: &str,
    request: &Tree,
    state: LegState,
    act: impl FnOnce(&str, &str) -> Result<(), Refusal>,
) -> Result<Reply, Refusal> {
    let id = attribute(request, "conversation_id").ok_or_else(|| lacks("conversation_id"))?;
    let call = ctx.switch.call(domain, id)?;
    let leg = match attribute(request, "operator_id") {
        Some(operator) => call.live_legs().find(|leg| leg.device == operator),
        None => call.live_legs().find(|leg| leg.state == state),
    };
    let leg = leg.ok_or_else(|| Refusal::new(RefusalCause::BadState, "no leg of the call is in that state"))?;
    act(&call.id, &leg.id).map(|()| Reply::default())
}

/// `None` when a participant is named by a conversation only: calls cannot be drawn into a conference.
fn add(ctx: &ServerContext, domain: &str, request: &Tree) -> Option<Result<Reply, Refusal>> {
    let Some(list) = request.child("participants") else { return Some(Err(lacks("participants"))) };
    let Some(conference) = attribute(list, "conference_id") else { return Some(Err(lacks("conference_id"))) };
    let numbers: Vec<_> = list.content.iter().filter(|entry| entry.name == "participant").map(|entry| attribute(entry, "number")).collect();
    if numbers.is_empty() {
        return Some(Err(lacks("participant")));
    }
    for number in numbers {
        if let Err(refusal) = ctx.switch.invite(domain, conference, number?, Role::Participant) {
            return Some(Err(refusal));
        }
    }
    Some(Ok(Reply::default()))
}

fn remove(ctx: &ServerContext, domain: &str, request: &Tree) -> Result<Reply, Refusal> {
    let conference = attribute(request, "conference_id").ok_or_else(|| lacks("conference_id"))?;
    let participant = attribute(request, "participant_id").ok_or_else(|| lacks("participant_id"))?;
    ctx.switch.remove(domain, conference, participant).map(|()| Reply::default())
}
