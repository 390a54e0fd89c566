//! The gRPC API: one file per service. A handler parses and checks its request, finds out who asks, and hands over: reading goes to the
//! model, commands go through [`crate::command`].

mod agent;
mod asked;
mod calls;
mod check;
mod conferences;
mod directory;
mod events;
mod health;
mod metadata;
mod observe;
mod push;
mod server;

use std::sync::Arc;

use elph_model::Core;
use elph_proto::{reason::Reason, v1};
use mediator_client::switch::Domain;
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Response, Status};

use self::asked::Asked;
pub use self::server::{ServeError, serve};
use crate::{
    access::{
        Denied, Need, Principal,
        audit::{Command as AuditRecord, Object},
    },
    command::{Commands, Remembered},
    config::Scope,
    lifecycle::Shared,
    link::Switch,
    push::Pusher,
    telemetry::metrics::label,
};

/// What every service needs.
#[derive(Clone)]
pub struct Api {
    shared: Arc<Shared>,
    switch: Arc<Switch>,
    commands: Arc<Commands>,
    conference_locks: Arc<conferences::Locks>,
    subscribers: Arc<Semaphore>,
    pusher: Option<Arc<Pusher>>,
}

impl Api {
    /// The services over one switch.
    pub fn new(shared: Arc<Shared>, switch: Arc<Switch>, commands: Arc<Commands>, pusher: Option<Arc<Pusher>>) -> Self {
        let most = usize::try_from(shared.config.load().grpc.max_subscribers).unwrap_or(Semaphore::MAX_PERMITS);
        let subscribers = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        Self { shared, switch, commands, conference_locks: Arc::default(), subscribers, pusher }
    }

    fn core(&self) -> &Arc<Core> {
        self.switch.core()
    }

    /// Who asks, if it may.
    async fn authorize<T: Asked>(
        &self,
        request: &Request<T>,
        scope: Scope,
        mutating: bool,
        domain: Option<&Domain>,
    ) -> Result<Principal, Status> {
        let need = Need { scope, mutating, domain };
        let allowed = self.shared.access.authorize_request(request, need).await;
        allowed.map_err(|denied| self.denied(request, denied, domain, None))
    }

    /// As [`Api::authorize`] for a stream of requests: what each is about comes later.
    async fn authorize_parts<T: Asked + Default>(
        &self,
        metadata: tonic::metadata::MetadataMap,
        extensions: tonic::Extensions,
        scope: Scope,
        mutating: bool,
    ) -> Result<Principal, Status> {
        self.authorize(&Request::from_parts(metadata, extensions, T::default()), scope, mutating, None).await
    }

    /// Counts a refusal, writes it into the audit log, and gives the answer.
    fn denied<T: Asked>(&self, request: &Request<T>, denied: Denied, domain: Option<&Domain>, object: Option<&str>) -> Status {
        self.shared.metrics.access_denied.get_or_create(&label("reason", denied.reason())).inc();
        let command = AuditRecord {
            method: T::METHOD,
            domain,
            objects: object.map(|value| Object { field: "id", value, sensitive: false }).into_iter().collect(),
            request_id: request.get_ref().request_id(),
            outcome: "",
            reason: None,
        };
        self.shared.audit.record_denied(&self.shared.access, request.metadata(), request.extensions(), &denied, &command);
        denied.into()
    }

    /// As [`Api::authorize`] for an object that the caller names by id: one that does not exist and one that the caller may not see are
    /// the same.
    async fn authorize_object<T: Asked>(
        &self,
        request: &Request<T>,
        scope: Scope,
        mutating: bool,
        domain: Option<&str>,
        unknown: Reason,
        id: &str,
    ) -> Result<Principal, Status> {
        let nothing = || nothing(unknown, id);
        let Some(domain) = domain.and_then(|domain| Domain::parse(domain).ok()) else {
            self.granted(request, scope, mutating, id)?;
            return Err(nothing());
        };
        let need = Need { scope, mutating, domain: Some(&domain) };
        self.shared.access.authorize_request(request, need).await.map_err(|denied| match denied {
            // Counted and written down like any other refusal; only the answer does not say that there is such an object.
            Denied::DomainNotGranted { .. } => {
                self.denied(request, denied, Some(&domain), Some(id));
                nothing()
            }
            denied => self.denied(request, denied, Some(&domain), Some(id)),
        })
    }

    /// The caller's name, if its grant has the scope: all that is looked at for an object that is not there, so that the answer is the
    /// one for an object of another domain.
    fn granted<T: Asked>(&self, request: &Request<T>, scope: Scope, mutating: bool, id: &str) -> Result<String, Status> {
        let granted = self.shared.access.granted(request.extensions(), scope, mutating);
        granted.map_err(|denied| self.denied(request, denied, None, Some(id)))
    }

    /// What was answered to this request before, for an object that is no longer known: a command that comes again gets its answer
    /// even after the call it was about is forgotten. `unknown` otherwise.
    fn replay<T: Message + Asked, R: Remembered>(
        &self,
        request: &Request<T>,
        scope: Scope,
        id: &str,
        unknown: Status,
    ) -> Result<Response<R>, Status> {
        let caller = self.granted(request, scope, true, id)?;
        let asked = request.get_ref();
        let answered = self.commands.recall(&caller, asked.request_id(), T::METHOD, &asked.encode_to_vec(), self.core());
        answered.unwrap_or(Err(unknown)).map(Response::new)
    }

    /// A place for one more stream.
    fn subscriber(&self) -> Result<OwnedSemaphorePermit, Status> {
        let full = |_| Reason::TooManySubscribers.status("the agent serves as many streams as grpc.max_subscribers allows");
        self.subscribers.clone().try_acquire_owned().map_err(full)
    }

    /// A domain that is served; who asks must have been authorised for it.
    fn served(&self, domain: &Domain) -> Result<(), Status> {
        match self.switch.domains().any(|served| served == domain) {
            true => Ok(()),
            false => Err(Reason::UnknownDomain.status(format!("the domain {domain} is not served by this agent"))),
        }
    }
}

/// There is no such object, or the caller may not see it: one text for both.
fn nothing(unknown: Reason, id: &str) -> Status {
    let what = if unknown == Reason::UnknownCall { "call" } else { "conference" };
    unknown.status(format!("there is no {what} '{id}', or it may not be seen with this grant"))
}

/// The place where a page ends, as an opaque token.
fn page_token(next: Option<(i64, String)>) -> String {
    next.map(|(start, id)| format!("{start}/{id}")).unwrap_or_default()
}

fn parse_page_token(token: &str) -> Option<Option<(i64, String)>> {
    if token.is_empty() {
        return Some(None);
    }
    let (start, id) = token.split_once('/')?;
    Some(Some((start.parse().ok()?, id.to_owned())))
}

/// A conference's roster is left out of what is remembered.
fn slim(conference: &mut Option<v1::Conference>) {
    if let Some(conference) = conference {
        conference.participants = Vec::new();
    }
}

/// A remembered conference is shown as it is now, if the model still has it.
fn refill(conference: &mut Option<v1::Conference>, core: &Core) {
    if let Some(known) = conference.as_ref().and_then(|conference| core.conference(&conference.id)) {
        *conference = Some(known);
    }
}

/// What cannot be, or the agent is wrong.
fn defect(what: impl std::fmt::Display) -> Status {
    Reason::Internal.status(format!("{what}; this is a defect of the agent, please report it"))
}
