//! From what people write to what the API takes: a domain that goes without saying, the beginning of an id, a participant's number, the
//! leg that must be meant.

use elph_proto::v1::{
    Call, CallState, Conference, GetCallRequest, GetConferenceRequest, Leg, LegSelector, LegState, ListCallsRequest,
    ListConferencesRequest, ListDevicesRequest, ListDomainsRequest,
};

use super::Session;
use crate::{change::Change, cli::calls::Choice, failure::Failure, render};

/// Calls or conferences that are looked through for the beginning of an id, at most, per domain.
const LOOK_THROUGH: usize = 10_000;
/// Largest page the API gives.
pub(crate) const PAGE: i32 = 1000;
/// Length of a UUID as text.
const UUID: usize = 36;

/// Whether it can be the beginning of a UUID and not a whole one. Anything else goes to the agent as it is.
fn is_beginning(text: &str) -> bool {
    text.len() < UUID && !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

/// The only one of `ids` that begins with `given`.
fn only<'a>(kind: &str, given: &str, ids: impl Iterator<Item = &'a str>) -> Result<String, Failure> {
    let beginning = given.to_ascii_lowercase();
    let mut found: Vec<&str> = ids.filter(|id| id.starts_with(&beginning)).collect();
    found.sort_unstable();
    found.dedup();
    match found.as_slice() {
        [] => Err(Failure::NotFound(format!("no {kind} that you may see has an id beginning with {given}"))),
        [id] => Ok((*id).to_owned()),
        several => {
            let shown: Vec<&str> = several.iter().take(5).copied().collect();
            let more = if several.len() > shown.len() { " ..." } else { "" };
            Err(Failure::Usage(format!("{} {kind}s have an id beginning with {given}: {}{more}", several.len(), shown.join(" "))))
        }
    }
}

impl Session<'_> {
    /// The domains a list is made over.
    pub(crate) async fn domains(&self, given: Option<&String>) -> Result<Vec<String>, Failure> {
        if let Some(domain) = given.or(self.settings.domain.as_ref()) {
            return Ok(vec![domain.clone()]);
        }
        let answer = self.agent.ask(self.agent.directory().list_domains(ListDomainsRequest {})).await;
        match answer {
            Ok(answer) => Ok(answer.domains.into_iter().map(|domain| domain.name).collect()),
            Err(failure) if failure.exit() == 5 => {
                Err(Failure::Usage(format!("{failure} Name the domain with --domain: the list of domains is not for you")))
            }
            Err(failure) => Err(failure),
        }
    }

    /// The domain a command is about.
    pub(crate) async fn domain(&self, given: Option<&String>) -> Result<String, Failure> {
        let domains = self.domains(given).await?;
        match domains.as_slice() {
            [domain] => Ok(domain.clone()),
            [] => Err(Failure::Usage("you may see no domain; name one with --domain".into())),
            several => Err(Failure::Usage(format!("name one of the domains with --domain: {}", several.join(", ")))),
        }
    }

    /// A call's id.
    pub(crate) async fn call_id(&self, given: &str) -> Result<String, Failure> {
        if !is_beginning(given) {
            return Ok(given.to_owned());
        }
        let states = [CallState::Initiated, CallState::Alerting, CallState::Connected, CallState::Ended].map(i32::from).to_vec();
        let mut ids = Vec::new();
        for domain in self.domains(None).await? {
            let request = ListCallsRequest { domain, states: states.clone(), ..Default::default() };
            ids.extend(self.page_calls(request, LOOK_THROUGH).await?.calls.into_iter().map(|call| call.id));
        }
        only("call", given, ids.iter().map(String::as_str))
    }

    /// A conference's id.
    pub(crate) async fn conference_id(&self, given: &str) -> Result<String, Failure> {
        if !is_beginning(given) {
            return Ok(given.to_owned());
        }
        let mut ids = Vec::new();
        for domain in self.domains(None).await? {
            let request = ListConferencesRequest { domain, include_ended: true, ..Default::default() };
            ids.extend(self.page_conferences(request, LOOK_THROUGH).await?.conferences.into_iter().map(|conference| conference.id));
        }
        only("conference", given, ids.iter().map(String::as_str))
    }

    /// A device's id, by its beginning if that is unique in the domain.
    pub(crate) async fn device_id(&self, domain: &str, given: &str) -> Result<String, Failure> {
        if !is_beginning(given) {
            return Ok(given.to_owned());
        }
        let request = ListDevicesRequest { domain: domain.to_owned(), ..Default::default() };
        let found = self.page_devices(request, LOOK_THROUGH).await?;
        if !found.next_page_token.is_empty() {
            return Err(Failure::Usage(format!("{domain} has more than {LOOK_THROUGH} devices: give the whole id")));
        }
        only("device", given, found.devices.iter().map(|device| device.id.as_str()))
    }

    /// A call.
    pub(crate) async fn call(&self, call_id: &str) -> Result<Call, Failure> {
        let request = GetCallRequest { call_id: call_id.to_owned() };
        Ok(self.agent.ask(self.agent.calls().get_call(request)).await?.call.unwrap_or_default())
    }

    /// A conference.
    pub(crate) async fn conference(&self, conference_id: &str) -> Result<Conference, Failure> {
        let request = GetConferenceRequest { conference_id: conference_id.to_owned() };
        Ok(self.agent.ask(self.agent.conferences().get_conference(request)).await?.conference.unwrap_or_default())
    }

    /// A participant's id, from the id, the number, or the unique beginning of the id. What is not in the roster goes to the agent as it
    /// is: a repeated command then gets its first answer although the participant has left.
    pub(crate) async fn participant_id(&self, conference_id: &str, given: &str, change: &mut Change) -> Result<String, Failure> {
        let roster = self.conference(conference_id).await?.participants;
        let find = |fits: &dyn Fn(&elph_proto::v1::Participant) -> bool| {
            roster.iter().filter(|participant| fits(participant)).map(|participant| participant.id.clone()).collect::<Vec<_>>()
        };
        let mut found = find(&|participant| participant.id == given);
        if found.is_empty() {
            found = find(&|participant| participant.number == given);
        }
        if found.is_empty() {
            found = find(&|participant| participant.id.starts_with(given));
        }
        match found.as_slice() {
            [] => Ok(given.to_owned()),
            [id] => {
                change.resolved(given, id);
                Ok(id.clone())
            }
            several => Err(Failure::Usage(format!("{given} fits several participants: {}; give the id", several.join(" ")))),
        }
    }

    /// The leg that is meant: named, or the only one in a fitting state.
    pub(crate) async fn leg(
        &self,
        call_id: &str,
        choice: &Choice,
        fitting: &[LegState],
        change: &mut Change,
    ) -> Result<LegSelector, Failure> {
        let call_id = call_id.to_owned();
        if choice.leg.is_some() || choice.device.is_some() {
            let (leg_id, device) = (choice.leg.clone().unwrap_or_default(), choice.device.clone().unwrap_or_default());
            return Ok(LegSelector { call_id, leg_id, device });
        }
        let call = self.call(&call_id).await?;
        let leg = only_leg(&call, fitting)?;
        change.chosen("--leg", &leg.id);
        Ok(LegSelector { call_id, leg_id: leg.id.clone(), device: String::new() })
    }
}

/// The only leg of a call in one of the states.
pub(crate) fn only_leg<'a>(call: &'a Call, fitting: &[LegState]) -> Result<&'a Leg, Failure> {
    let found: Vec<&Leg> = call.legs.iter().filter(|leg| fitting.contains(&leg.state())).collect();
    let words: Vec<String> = fitting.iter().map(|state| render::call::leg_state(*state)).collect();
    match found.as_slice() {
        [leg] => Ok(leg),
        [] => {
            let all: Vec<String> =
                call.legs.iter().map(|leg| format!("{} is {}", leg.device, render::call::leg_state(leg.state()))).collect();
            let all = if all.is_empty() { "it has none".to_owned() } else { all.join(", ") };
            Err(Failure::Usage(format!("no leg of the call is {}: {all}", words.join(" or "))))
        }
        several => {
            let all: Vec<String> = several.iter().map(|leg| format!("{} ({})", leg.device, leg.id)).collect();
            Err(Failure::Usage(format!("several legs are {}, choose with --device or --leg: {}", words.join(" or "), all.join(", "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_an_id_must_be_unique() {
        let ids = ["5f0c-1", "5f0d-2", "77aa-3"];
        assert_eq!(only("call", "77", ids.into_iter()).unwrap(), "77aa-3");
        assert_eq!(only("call", "5F0D", ids.into_iter()).unwrap(), "5f0d-2");
        assert_eq!(only("call", "5f", ids.into_iter()).unwrap_err().exit(), 2);
        assert_eq!(only("call", "99", ids.into_iter()).unwrap_err().exit(), 6);
        assert!(!is_beginning("5f0c2f0e-0000-4000-8000-000000000001") && !is_beginning("room 7") && is_beginning("5f0c"));
    }
}
