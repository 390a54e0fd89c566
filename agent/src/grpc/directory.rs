//! `DirectoryService`: subscribers as they were last read, one subscriber and rooms read from the switch now, and passwords checked there.

use elph_model::timestamp;
use elph_proto::{
    reason::Reason,
    v1::{self, directory_service_server::DirectoryService},
};
use jiff::Timestamp;
use mediator_client::{
    switch::{CommandError, Domain, RefusalReason},
    terminal::{Authentication, Registration},
};
use secrecy::SecretString;
use tonic::{Request, Response, Status};

use super::{Api, check::Check, page_token};
use crate::{command::refused, config::Scope, link::Subscriber};

/// The longest password that is passed on.
const PASSWORD_LONGEST: usize = 256;

fn subscriber(domain: &Domain, subscriber: &Subscriber) -> v1::Subscriber {
    v1::Subscriber {
        alias: subscriber.alias.to_string(),
        domain: domain.to_string(),
        interface: subscriber.interface.to_string(),
        interface_type: subscriber.interface_type.to_string(),
    }
}

/// [INF] `expires` is read as seconds granted, and `ttl` then as seconds left; where `expires` is a date, `ttl` is what was granted and
/// the date says what is left.
fn registration(registration: Registration) -> v1::Registration {
    let duration = |seconds: i64| prost_types::Duration { seconds, nanos: 0 };
    let ttl = registration.ttl_s.map(i64::from);
    let (granted, left) = match registration.expires_at {
        Some(end) => (ttl, Some(end.as_second().saturating_sub(Timestamp::now().as_second()).max(0))),
        None => (registration.expires.and_then(|text| text.parse().ok()), ttl),
    };
    v1::Registration {
        access_point: registration.access_point.unwrap_or_default(),
        uri: registration.uri.unwrap_or_default(),
        via_host: registration.first_via_host.unwrap_or_default(),
        expires: granted.map(duration),
        time_left: left.map(duration),
    }
}

#[tonic::async_trait]
impl DirectoryService for Api {
    async fn list_domains(&self, request: Request<v1::ListDomainsRequest>) -> Result<Response<v1::ListDomainsResponse>, Status> {
        let principal = self.authorize(&request, Scope::Directory, false, None).await?;
        let visible = self.switch.domains().filter(|domain| principal.domains().contains(domain));
        let domains = visible.map(|domain| {
            let listing = self.switch.directory().listing(domain);
            v1::Domain {
                name: domain.to_string(),
                subscriber_count: listing.as_ref().map_or(0, |it| u32::try_from(it.subscribers.len()).unwrap_or(u32::MAX)),
                subscribers_time: listing.map(|it| timestamp(it.at)),
            }
        });
        Ok(Response::new(v1::ListDomainsResponse { domains: domains.collect() }))
    }

    async fn list_subscribers(
        &self,
        request: Request<v1::ListSubscribersRequest>,
    ) -> Result<Response<v1::ListSubscribersResponse>, Status> {
        let asked = request.get_ref();
        let mut check = Check::default();
        let domain = check.domain("domain", &asked.domain);
        let size = check.page_size(asked.page_size);
        let after = check.page_token(&asked.page_token);
        check.optional_text("alias_prefix", &asked.alias_prefix, 64);
        let domain = check.done(domain)?;
        self.authorize(&request, Scope::Directory, false, Some(&domain)).await?;
        self.served(&domain)?;
        let unread = || Reason::SwitchUnavailable.status("the subscribers have not been read from the switch yet");
        let listing = self.switch.directory().listing(&domain).ok_or_else(unread)?;
        // Sorted by alias: those with the prefix stand together.
        let all = &listing.subscribers;
        let prefix = asked.alias_prefix.as_str();
        let begin = all.partition_point(|it| &*it.alias < prefix);
        let end = begin + all.iter().skip(begin).take_while(|it| it.alias.starts_with(prefix)).count();
        let from = after.map_or(begin, |(_, last)| all.partition_point(|it| *it.alias <= *last)).max(begin);
        let page: Vec<&Subscriber> = all.iter().take(end).skip(from).take(size).collect();
        let more = from + page.len() < end;
        let next = page.last().filter(|_| more).map(|last| (0, last.alias.to_string()));
        Ok(Response::new(v1::ListSubscribersResponse {
            subscribers: page.into_iter().map(|it| subscriber(&domain, it)).collect(),
            next_page_token: page_token(next),
            total_size: u32::try_from(end - begin).unwrap_or(u32::MAX),
        }))
    }

    async fn get_subscriber(&self, request: Request<v1::GetSubscriberRequest>) -> Result<Response<v1::GetSubscriberResponse>, Status> {
        let asked = request.get_ref();
        let mut check = Check::default();
        let domain = check.domain("domain", &asked.domain);
        let alias = check.alias("alias", &asked.alias);
        let (domain, alias) = check.done(domain.zip(alias))?;
        self.authorize(&request, Scope::Directory, false, Some(&domain)).await?;
        self.served(&domain)?;
        let listing = self.switch.directory().listing(&domain);
        let known = listing.and_then(|it| {
            let place = it.subscribers.binary_search_by(|known| (*known.alias).cmp(alias.as_str())).ok()?;
            it.subscribers.get(place).cloned()
        });
        let card = self.switch.terminal().subscriber_card(&domain, &alias).await.map_err(|error| match (&error, &known) {
            (CommandError::Refused { reason: RefusalReason::Other, .. }, None) => {
                Reason::UnknownAlias.status("the domain has no such alias")
            }
            _ => refused(&error),
        })?;
        let bare = Subscriber { alias: alias.as_str().into(), interface: "".into(), interface_type: "".into() };
        let has = |call: &v1::Call| {
            let talks = call.legs.iter().any(|leg| leg.device == alias.as_str() && leg.state() != v1::LegState::Released);
            call.domain == domain.as_str() && call.state() != v1::CallState::Ended && talks
        };
        let calls = self.core().calls(None, super::check::MAX_PAGE, has).items;
        Ok(Response::new(v1::GetSubscriberResponse {
            subscriber: Some(subscriber(&domain, &known.unwrap_or(bare))),
            registrations: card.registrations.into_iter().map(registration).collect(),
            regime: card.regime.map(|it| v1::Regime { name: it.name, private_in: it.private_in, private_out: it.private_out }),
            call_ids: calls.into_iter().map(|call| call.id).collect(),
        }))
    }

    async fn list_rooms(&self, request: Request<v1::ListRoomsRequest>) -> Result<Response<v1::ListRoomsResponse>, Status> {
        let mut check = Check::default();
        let domain = check.domain("domain", &request.get_ref().domain);
        let domain = check.done(domain)?;
        self.authorize(&request, Scope::Directory, false, Some(&domain)).await?;
        self.served(&domain)?;
        let rooms = self.switch.terminal().rooms(&domain).await.map_err(|error| refused(&error))?;
        let rooms = rooms.into_iter().map(|it| v1::Room { name: it.name, description: it.description.unwrap_or_default() });
        Ok(Response::new(v1::ListRoomsResponse { rooms: rooms.collect() }))
    }

    async fn authenticate_subscriber(
        &self,
        request: Request<v1::AuthenticateSubscriberRequest>,
    ) -> Result<Response<v1::AuthenticateSubscriberResponse>, Status> {
        let asked = request.get_ref();
        let mut check = Check::default();
        let domain = check.domain("domain", &asked.domain);
        let login = check.alias("login", &asked.login);
        if asked.password.is_empty() || asked.password.len() > PASSWORD_LONGEST {
            check.say("password", format!("must be 1 to {PASSWORD_LONGEST} bytes"));
        }
        let (domain, login) = check.done(domain.zip(login))?;
        let principal = self.authorize(&request, Scope::Directory, true, Some(&domain)).await?;
        self.served(&domain)?;
        let counted = self.shared.access.attempts().try_one(principal.caller(), &domain, &login);
        counted.map_err(|denied| self.denied(&request, denied, Some(&domain), None))?;
        let password = SecretString::from(asked.password.as_str());
        let checked = self.switch.terminal().authenticate(&domain, login.as_str(), &password).await;
        let alias = match checked.map_err(|error| refused(&error))? {
            Authentication::Accepted { alias } => alias.unwrap_or(login),
            Authentication::Rejected => return Err(Reason::CredentialsRejected.status("login or password is wrong")),
        };
        Ok(Response::new(v1::AuthenticateSubscriberResponse { alias: alias.to_string() }))
    }
}
