//! The links to the switch and what the gRPC services need of it, whichever protocol it goes over. Feeds the model with events,
//! makes it equal to the switch's lists after every doubt, and routes commands.

mod directory;
mod feed;
mod resync;
mod snapshot;
mod start;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use elph_model::Core;
use mediator_client::{
    call_api::{CallApi, shape_fields},
    csta::Csta,
    switch::{
        CallCommand, CommandError, ConferenceCommand, Dialect, Domain, Operation, SwitchCallId, SwitchConferenceId, SwitchLegId,
        SwitchParticipantId,
        command::{CallOutcome, ConferenceOutcome},
        dialect::{ConferenceField, EventKind, Field},
    },
    terminal::Terminal,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::{
    directory::{Directory, Listing, Subscriber},
    resync::Resync,
    start::{Connectors, StartError},
};
use crate::config::{CallBackend, ConferenceBackend};

/// The service name of a dialect's command that goes over the terminal.
const TERMINAL: &str = "terminal";

/// The switch as the agent uses it.
pub struct Switch {
    core: Arc<Core>,
    dialect: Arc<Dialect>,
    terminal: Terminal,
    domains: BTreeMap<Domain, DomainLinks>,
    calls: CallBackend,
    conferences: ConferenceBackend,
    directory: Arc<Directory>,
    command_timeout: Duration,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What belongs to one domain.
struct DomainLinks {
    csta: Option<Csta>,
    call_api: Option<CallApi>,
    call_resync: Arc<Resync>,
    conference_resync: Arc<Resync>,
}

impl Switch {
    /// Ends the links in good order: they log out, and what they have seen is in the model.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// The model.
    pub fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// The dialect in use.
    pub fn dialect(&self) -> &Dialect {
        &self.dialect
    }

    /// The HTTP terminal.
    pub fn terminal(&self) -> &Terminal {
        &self.terminal
    }

    /// Subscribers as they were last read.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// How long the switch may take for a command.
    pub fn command_timeout(&self) -> Duration {
        self.command_timeout
    }

    /// The served domains.
    pub fn domains(&self) -> impl Iterator<Item = &Domain> {
        self.domains.keys()
    }

    /// Where calls come from.
    pub fn call_backend(&self) -> CallBackend {
        self.calls
    }

    /// Where conferences come from.
    pub fn conference_backend(&self) -> ConferenceBackend {
        self.conferences
    }

    /// Operations that cannot be asked of the switch as it is configured.
    pub fn unknown_operations(&self) -> Vec<Operation> {
        Operation::ALL.into_iter().filter(|operation| !self.knows(*operation)).collect()
    }

    /// Whether the switch tells if the muted may unmute themselves.
    pub fn tells_may_unmute(&self) -> bool {
        match self.conferences {
            ConferenceBackend::CallApi => {
                self.dialect.events.get(&EventKind::Conference).is_some_and(|event| event.fields.contains_key(&Field::MayUnmute))
            }
            ConferenceBackend::Poll => self.dialect.terminal.conferences.fields.contains_key(&ConferenceField::MayUnmute),
        }
    }

    fn knows(&self, operation: Operation) -> bool {
        let shape = self.dialect.operations.get(&operation);
        if shape.is_some_and(|shape| shape.service == TERMINAL) {
            return true;
        }
        match operation {
            Operation::CallList => true,
            _ if is_call(operation) => match self.calls {
                CallBackend::Csta => {
                    operation != Operation::CallDtmf || self.dialect.csta.generate_digits || self.has_call_api_for(operation)
                }
                CallBackend::CallApi => shape.is_some(),
                CallBackend::Poll => false,
            },
            _ => self.conferences == ConferenceBackend::CallApi && shape.is_some(),
        }
    }

    fn has_call_api_for(&self, operation: Operation) -> bool {
        self.dialect.operations.contains_key(&operation) && self.domains.values().all(|links| links.call_api.is_some())
    }

    /// Has the switch do something about a call.
    pub async fn call(&self, domain: &Domain, command: CallCommand) -> Result<CallOutcome, CommandError> {
        let operation = command.operation();
        let unnamed = CommandError::Unnamed { operation };
        let links = self.domains.get(domain).ok_or_else(|| unnamed.clone())?;
        if self.goes_over_terminal(operation) {
            let result = self.terminal.operation(operation, &shape_fields(&command, domain, &self.dialect)).await?;
            return Ok(CallOutcome {
                call: id(&result, Field::Call, SwitchCallId::parse)?,
                leg: id(&result, Field::Leg, SwitchLegId::parse)?,
            });
        }
        match (self.calls, &links.csta, &links.call_api) {
            // What this dialect's CSTA does not offer, the Call API may.
            (CallBackend::Csta, _, Some(call_api)) if operation == Operation::CallDtmf && !self.dialect.csta.generate_digits => {
                call_api.execute_call(command).await
            }
            (CallBackend::Csta, Some(csta), _) => csta.execute(command).await,
            (CallBackend::CallApi, _, Some(call_api)) => call_api.execute_call(command).await,
            _ => Err(unnamed),
        }
    }

    /// Has the switch do something about a conference.
    pub async fn conference(&self, domain: &Domain, command: ConferenceCommand) -> Result<ConferenceOutcome, CommandError> {
        let operation = command.operation();
        let unnamed = CommandError::Unnamed { operation };
        let links = self.domains.get(domain).ok_or_else(|| unnamed.clone())?;
        if self.goes_over_terminal(operation) {
            let result = self.terminal.operation(operation, &shape_fields(&command, domain, &self.dialect)).await?;
            return Ok(ConferenceOutcome {
                conference: id(&result, Field::Conference, SwitchConferenceId::parse)?,
                participant: id(&result, Field::Participant, SwitchParticipantId::parse)?,
            });
        }
        match (self.conferences, &links.call_api) {
            (ConferenceBackend::CallApi, Some(call_api)) => call_api.execute_conference(command).await,
            _ => Err(unnamed),
        }
    }

    fn goes_over_terminal(&self, operation: Operation) -> bool {
        self.dialect.operations.get(&operation).is_some_and(|shape| shape.service == TERMINAL)
    }

    /// Compares the domain's calls with the switch now; false: it could not be asked in time.
    pub async fn verify_calls(&self, domain: &Domain, within: Duration) -> bool {
        match self.domains.get(domain) {
            Some(links) => links.call_resync.ask_and_wait(within).await,
            None => false,
        }
    }

    /// Compares the domain's conferences with the switch now; false: it could not be asked in time.
    pub async fn verify_conferences(&self, domain: &Domain, within: Duration) -> bool {
        match self.domains.get(domain) {
            Some(links) => links.conference_resync.ask_and_wait(within).await,
            None => false,
        }
    }
}

fn is_call(operation: Operation) -> bool {
    use Operation as Op;
    matches!(
        operation,
        Op::CallMake
            | Op::CallAnswer
            | Op::CallReject
            | Op::CallReleaseLeg
            | Op::CallRelease
            | Op::CallHold
            | Op::CallRetrieve
            | Op::CallTransferBlind
            | Op::CallConsult
            | Op::CallTransferComplete
            | Op::CallTransferCancel
            | Op::CallJoin
            | Op::CallDeflect
            | Op::CallDtmf
            | Op::CallList
    )
}

fn id<T, E: std::fmt::Display>(
    result: &BTreeMap<Field, String>,
    field: Field,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<Option<T>, CommandError> {
    let value = result.get(&field).map(|text| parse(text)).transpose();
    value.map_err(|error| CommandError::BadAnswer { cause: error.to_string() })
}
