//! What the switch lists, as the model compares itself with it. Which lists there are depends on the backend.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use elph_model::{CallSnapshot, ConferenceSnapshot, Core, FinishedCall, Origin};
use elph_proto::v1;
use futures_util::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use mediator_client::{
    call_api::CallApi,
    csta::Csta,
    switch::{Alias, CommandError, Domain, RefusalReason, SwitchCallId, event::LegObservation, link::LinkState},
    terminal::{CallRecord, CallsKind, CallsQuery, Terminal},
};

use super::Directory;

/// Snapshot requests on their way at a time.
const PARALLEL: usize = 200;

/// Most finished calls that are looked through for how calls ended during an outage.
const HISTORY: u32 = 20_000;

/// How long the terminal is waited for, to learn from its history how calls ended.
const TERMINAL_PATIENCE: Duration = Duration::from_secs(3);

/// Where calls are listed.
pub(super) enum CallSource {
    /// CSTA: the devices of active calls, then those calls' legs.
    Csta(Csta),
    /// The Call API's own list, if the dialect names it.
    CallApi(CallApi),
    /// The terminal's call history alone.
    History,
}

/// Makes the model's calls of a domain equal to the switch's.
pub(super) async fn calls(
    core: &Core,
    terminal: &Terminal,
    directory: &Directory,
    domain: &Domain,
    source: &CallSource,
    origin: Origin,
) -> Result<(), CommandError> {
    let began = core.begin_snapshot();
    let known = core.calls(None, usize::MAX, |call| call.domain == domain.as_str() && call.state() != v1::CallState::Ended).items;
    let active = terminal.calls_history(&CallsQuery { kind: CallsKind::Active, ..CallsQuery::of(domain.clone()) }).await;
    let snapshot = match source {
        CallSource::Csta(csta) => {
            // The history only says where to look: without it every device is asked.
            let devices = match &active {
                Ok(records) => devices(directory, domain, records, &known),
                Err(error) => {
                    tracing::debug!(%domain, %error, "the list of active calls is not to be had, asking every device");
                    directory.aliases(domain)
                }
            };
            let legs = legs_by_csta(csta, devices, &known).await?;
            snapshots(legs, &active.unwrap_or_default(), false)
        }
        CallSource::CallApi(call_api) => match call_api.list_calls().await {
            Ok(legs) => snapshots(legs, &active.unwrap_or_default(), true),
            Err(CommandError::Unnamed { .. }) => {
                let active = active?;
                // Calls that events tell of by other ids than the history has cannot be compared with it.
                if !origin.polled && active.iter().any(|record| !record.id_of_switch) {
                    tracing::debug!(%domain, "calls cannot be compared: the history does not tell the switch's ids");
                    return Ok(());
                }
                from_history(active)
            }
            Err(error) => return Err(error),
        },
        CallSource::History => from_history(active?),
    };
    let listed: BTreeSet<&str> = snapshot.iter().map(|call| call.call.as_str()).collect();
    let missing: Vec<&v1::Call> = known.iter().filter(|call| !listed.contains(call.switch_call_id.as_str())).collect();
    let finished = if missing.is_empty() { Vec::new() } else { finished(terminal, domain, &missing).await };
    core.resync_calls(domain, began, &snapshot, &finished, origin);
    Ok(())
}

/// The devices that may have a leg: those of listed and known calls, as far as they belong to the domain.
fn devices(directory: &Directory, domain: &Domain, records: &[CallRecord], known: &[v1::Call]) -> Vec<Alias> {
    let of_records = records.iter().flat_map(|record| [&record.from, &record.to, &record.answered_by]).flatten().cloned();
    let of_known = known.iter().flat_map(|call| &call.legs).filter_map(|leg| Alias::parse(&leg.device).ok());
    let devices: BTreeSet<Alias> = of_records.chain(of_known).collect();
    devices.into_iter().filter(|device| directory.has(domain, device.as_str()) != Some(false)).collect()
}

async fn legs_by_csta(csta: &Csta, devices: Vec<Alias>, known: &[v1::Call]) -> Result<Vec<LegObservation>, CommandError> {
    let known = known.iter().filter_map(|call| SwitchCallId::parse(&call.switch_call_id).ok());
    let mut calls: BTreeMap<SwitchCallId, Vec<LegObservation>> = known.map(|call| (call, Vec::new())).collect();
    let of_device = |device: Alias| async move { csta.snapshot_device(&device).await };
    let mut by_device = stream::iter(devices).map(of_device).buffer_unordered(PARALLEL);
    while let Some(legs) = by_device.next().await {
        match legs {
            Ok(legs) => legs.into_iter().for_each(|leg| calls.entry(leg.call.clone()).or_default().push(leg)),
            // A number of another domain, or a device that CSTA does not know.
            Err(CommandError::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let mut legs = Vec::new();
    let of_call = |(call, told): (SwitchCallId, Vec<LegObservation>)| async move { (csta.snapshot_call(&call).await, told) };
    let mut by_call = stream::iter(calls).map(of_call).buffer_unordered(PARALLEL);
    while let Some((found, told)) = by_call.next().await {
        match found {
            Ok(found) => legs.extend(found),
            Err(CommandError::Refused { reason: RefusalReason::UnknownCall, .. }) => {}
            // Switches word it differently, and some list legs by device only: what the devices told stands, and a call of which no
            // device told is over.
            Err(CommandError::Refused { reason, .. }) if is_gone(reason) || !told.is_empty() => legs.extend(told),
            Err(error) => return Err(error),
        }
    }
    Ok(legs)
}

/// Whether a refusal may mean that there is no such call. Others say nothing about the call: a missing right ends none.
fn is_gone(reason: RefusalReason) -> bool {
    matches!(reason, RefusalReason::UnknownAlias | RefusalReason::WrongState | RefusalReason::Other)
}

/// Legs grouped by call, with times and numbers where the history has the same id.
fn snapshots(legs: Vec<LegObservation>, records: &[CallRecord], events_state_the_start: bool) -> Vec<CallSnapshot> {
    let records: HashMap<&SwitchCallId, &CallRecord> = records.iter().filter(|it| it.id_of_switch).map(|it| (&it.id, it)).collect();
    let mut by_call: BTreeMap<SwitchCallId, Vec<LegObservation>> = BTreeMap::new();
    for leg in legs {
        by_call.entry(leg.call.clone()).or_default().push(leg);
    }
    let snapshot = |(call, legs): (SwitchCallId, Vec<LegObservation>)| {
        let record = records.get(&call);
        let start = record.and_then(|record| record.start);
        CallSnapshot {
            legs,
            start,
            id_start: start.filter(|_| events_state_the_start),
            answer: record.and_then(|record| record.answer),
            numbers: record.map(|record| numbers(record)),
            call,
        }
    };
    by_call.into_iter().map(snapshot).collect()
}

fn from_history(records: Vec<CallRecord>) -> Vec<CallSnapshot> {
    let snapshot = |record: CallRecord| CallSnapshot {
        legs: Vec::new(),
        start: record.start,
        id_start: record.start,
        answer: record.answer,
        numbers: Some(numbers(&record)),
        call: record.id,
    };
    records.into_iter().map(snapshot).collect()
}

fn numbers(record: &CallRecord) -> (String, String) {
    let text = |alias: &Option<Alias>| alias.as_ref().map(|alias| alias.as_str().to_owned()).unwrap_or_default();
    (text(&record.from), text(&record.to))
}

/// How calls ended that are no longer listed. If the history does not tell, they ended all the same.
async fn finished(terminal: &Terminal, domain: &Domain, missing: &[&v1::Call]) -> Vec<FinishedCall> {
    let start = missing.iter().filter_map(|call| call.start_time.as_ref()).map(|start| start.seconds).min();
    let from = start.and_then(|seconds| Timestamp::from_second(seconds).ok()).map(|at| at - SignedDuration::from_mins(2));
    let query = CallsQuery { kind: CallsKind::History, limit: Some(HISTORY), from, ..CallsQuery::of(domain.clone()) };
    let mut answer = terminal.calls_history(&query).await;
    if matches!(answer, Err(CommandError::NotSent { .. })) {
        // After an outage the links come back one after the other, and an end is final: it is worth a moment.
        let mut status = terminal.status();
        let up = status.wait_for(|status| status.state == LinkState::Up);
        if tokio::time::timeout(TERMINAL_PATIENCE, up).await.is_ok_and(|up| up.is_ok()) {
            answer = terminal.calls_history(&query).await;
        }
    }
    match answer {
        Ok(records) => records
            .into_iter()
            .map(|record| FinishedCall {
                answered_by: record.answered_by.map(|alias| alias.as_str().to_owned()),
                call: record.id,
                answer: record.answer,
                end: record.end,
                cause: record.cause,
            })
            .collect(),
        Err(error) => {
            tracing::info!(%domain, %error, "how calls ended is not known: the call history is not to be had");
            Vec::new()
        }
    }
}

/// Makes the model's conferences of a domain equal to the switch's.
pub(super) async fn conferences(core: &Core, terminal: &Terminal, domain: &Domain, origin: Origin) -> Result<(), CommandError> {
    let began = core.begin_snapshot();
    let (listed, meetings) = tokio::join!(terminal.conference_list(domain), terminal.meetings(domain, None));
    let mut by_id: BTreeMap<String, ConferenceSnapshot> = BTreeMap::new();
    for found in listed? {
        let Some(id) = found.observation.conference.as_ref().map(ToString::to_string) else { continue };
        let members = match found.count {
            _ if !found.participants.is_empty() => Some(found.participants),
            Some(0) => Some(Vec::new()),
            _ => None,
        };
        by_id.insert(id, ConferenceSnapshot { conference: found.observation, members });
    }
    for meeting in meetings? {
        let Some(id) = meeting.observation.conference.as_ref().map(ToString::to_string) else { continue };
        let entry = by_id.entry(id);
        let snapshot = entry.or_insert_with(|| ConferenceSnapshot { conference: meeting.observation.clone(), members: None });
        snapshot.members = Some(meeting.participants);
        snapshot.conference.name = snapshot.conference.name.take().or(meeting.observation.name);
    }
    let snapshot: Vec<ConferenceSnapshot> = by_id.into_values().collect();
    core.resync_conferences(domain, began, &snapshot, origin);
    Ok(())
}
