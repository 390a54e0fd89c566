//! `PushService`: devices, pushes to them, and what became of each. Delivery is [`crate::push`]'s.

use std::{collections::BTreeMap, pin::Pin, sync::Arc, time::Duration};

use elph_model::timestamp;
use elph_policy::Content;
use elph_proto::{
    reason::Reason,
    v1::{self, push_order, push_service_server::PushService},
};
use futures_util::Stream;
use jiff::Timestamp;
use mediator_client::switch::Domain;
use push_core::{ApnsPushType, AppName, Class, CollapseKey, Device, DeviceId, Environment, Provider, PushId, Token, UserId, WebKeys};
use push_queue::{Cancelled, Life, State, Watched};
use push_registry::NewDevice;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};
use tonic_types::FieldViolation;

use super::{Api, asked::Asked, check::Check};
use crate::{
    access::Principal,
    command::Remembered,
    config::Scope,
    push::{App, Order, Own, Pusher, Target},
};

/// How long a push is worth sending when the caller does not say, and at most (FCM keeps none longer).
const DAY: Duration = Duration::from_secs(86_400);
const LONGEST: Duration = Duration::from_secs(28 * 86_400);

/// How long a test waits for the provider.
const TEST: Duration = Duration::from_secs(30);

/// How long a change of a device may take.
const CHANGE: Duration = Duration::from_secs(35);

/// The longest payload of any provider, and the room of an order's texts.
const TEXT: usize = 5120;

/// Entries of `data`.
const DATA: usize = 100;

/// Orders of one stream that are taken on side by side.
const SIDE_BY_SIDE: usize = 64;

impl Remembered for v1::RegisterDeviceResponse {}
impl Remembered for v1::UnregisterDeviceResponse {}
impl Remembered for v1::CancelPushResponse {}
impl Remembered for v1::TestDeviceResponse {}

// === from and to the API's messages ===

fn provider(provider: Provider) -> v1::PushProvider {
    match provider {
        Provider::Apns => v1::PushProvider::Apns,
        Provider::Fcm => v1::PushProvider::Fcm,
        Provider::Web => v1::PushProvider::Webpush,
        Provider::Stub => v1::PushProvider::Unspecified,
    }
}

fn state(state: State) -> v1::PushState {
    match state {
        State::Received => v1::PushState::Received,
        State::Stored => v1::PushState::Stored,
        State::Sent => v1::PushState::Sent,
        State::Retried => v1::PushState::Retried,
        State::Accepted => v1::PushState::Accepted,
        State::Expired => v1::PushState::Expired,
        State::Dropped => v1::PushState::Dropped,
        State::TokenGone => v1::PushState::TokenGone,
        State::Failed => v1::PushState::Failed,
    }
}

fn class(class: Class) -> v1::PushClass {
    match class {
        Class::Background => v1::PushClass::Background,
        Class::Interactive => v1::PushClass::Interactive,
        Class::Call => v1::PushClass::Call,
    }
}

fn device(device: &Device) -> v1::Device {
    v1::Device {
        id: device.id.to_string(),
        domain: device.user.domain.to_string(),
        alias: device.user.alias.to_string(),
        app: device.app.to_string(),
        provider: provider(device.provider).into(),
        token_end: device.token.to_string(),
        environment: match (device.provider, device.environment) {
            (Provider::Apns, Environment::Production) => v1::PushEnvironment::Production,
            (Provider::Apns, Environment::Development) => v1::PushEnvironment::Development,
            _ => v1::PushEnvironment::Unspecified,
        }
        .into(),
        platform: device.platform.clone(),
        locale: device.locale.clone(),
        label: device.label.clone(),
        wants_calls: device.wants_calls,
        wants_messages: device.wants_messages,
        register_time: Some(timestamp(device.registered_at)),
    }
}

fn event(life: &Life) -> v1::PushEvent {
    v1::PushEvent {
        push_id: life.id.to_string(),
        domain: life.user.as_ref().map(|user| user.domain.to_string()).unwrap_or_default(),
        device_id: life.device.as_ref().map(ToString::to_string).unwrap_or_default(),
        app: life.app.to_string(),
        push_class: class(life.class).into(),
        state: state(life.state).into(),
        time: Some(timestamp(life.at)),
        attempt: life.attempt.into(),
        reason: life.reason.as_ref().map(ToString::to_string).unwrap_or_default(),
        provider_id: life.provider_id.clone().unwrap_or_default(),
        retry_time: life.retry_at.map(timestamp),
    }
}

fn events(history: &push_queue::History) -> impl Iterator<Item = v1::PushEvent> + '_ {
    history.moments.iter().map(|moment| v1::PushEvent {
        push_id: history.id.to_string(),
        domain: history.user.as_ref().map(|user| user.domain.to_string()).unwrap_or_default(),
        device_id: history.device.as_ref().map(ToString::to_string).unwrap_or_default(),
        app: history.app.to_string(),
        push_class: class(history.class).into(),
        state: state(moment.state).into(),
        time: Some(timestamp(moment.at)),
        attempt: moment.attempt.into(),
        reason: moment.reason.as_ref().map(ToString::to_string).unwrap_or_default(),
        provider_id: moment.provider_id.clone().unwrap_or_default(),
        retry_time: moment.retry_at.map(timestamp),
    })
}

/// What an outcome means and what to do about it, for `elphctl push test`.
fn explanation(state: v1::PushState, reason: &str) -> String {
    let text = match (state, reason) {
        (v1::PushState::Accepted, _) => {
            "The provider took it. If nothing shows on the device: is it online, and may the application show notices?"
        }
        (v1::PushState::TokenGone, "Unregistered" | "UNREGISTERED") => {
            "The application was removed from the device, or has another token by now. The device was unregistered."
        }
        (v1::PushState::TokenGone, _) => {
            "The provider knows no such token. Was it registered for this application and environment? The device was unregistered."
        }
        (_, "BadDeviceToken") => {
            "Apple knows no such token here: most often a token of the development environment sent to production, or the other way round."
        }
        (_, "DeviceTokenNotForTopic") => {
            "The token belongs to another application: compare push.apps.topic with the application's bundle id."
        }
        (_, "TopicDisallowed" | "BadTopic") => "The key or certificate may not send to this topic: compare team, key and push.apps.topic.",
        (_, "InvalidProviderToken" | "ExpiredProviderToken") => {
            "Apple does not take the key: compare key_id and team_id with Apple's page, and the host's clock with the time."
        }
        (_, "SENDER_ID_MISMATCH") => "The token belongs to another Firebase project than the service account.",
        (_, "THIRD_PARTY_AUTH_ERROR") => "Firebase has no valid APNs key for this iOS application, or the web push key is wrong.",
        (v1::PushState::Expired, _) => "The provider could not be reached in time: see the agent's log and `elphctl push apps`.",
        (v1::PushState::Dropped, _) => "It was taken back or replaced before it was sent.",
        (v1::PushState::Failed, _) => "The provider refused it for good.",
        _ => "There is no answer yet: the push waits. See the agent's log and `elphctl push apps`.",
    };
    text.to_owned()
}

// === checks ===

impl Check {
    fn push_id(&mut self, text: &str) -> Option<PushId> {
        let id = uuid::Uuid::try_parse(text).ok().map(PushId::from);
        if id.is_none() {
            self.say("push_id", "must be a push's id, a UUID");
        }
        id
    }

    fn device_id(&mut self, field: &str, text: &str) -> Option<DeviceId> {
        DeviceId::parse(text).map_err(|error| self.say(field, error.to_string())).ok()
    }

    fn app_name(&mut self, field: &str, text: &str) -> Option<AppName> {
        AppName::parse(text).map_err(|error| self.say(field, error.to_string())).ok()
    }

    /// Provider and token, as RFC 8599 names them.
    fn parameters(&mut self, parameters: Option<&v1::PushParameters>) -> Option<(Provider, Token, String)> {
        let Some(parameters) = parameters else {
            self.say("parameters", "must say provider and token");
            return None;
        };
        let Some(provider) = Provider::parse(&parameters.pn_provider).filter(|provider| *provider != Provider::Stub) else {
            self.say("parameters.pn_provider", "must be apns, fcm or webpush");
            return None;
        };
        let token = Token::parse(provider, &parameters.pn_prid).map_err(|what| self.say("parameters.pn_prid", what)).ok()?;
        self.optional_text("parameters.pn_param", &parameters.pn_param, 255);
        Some((provider, token, parameters.pn_param.clone()))
    }

    fn content(&mut self, content: Option<&v1::PushContent>) -> (Content, Own) {
        let Some(content) = content else {
            self.say("order.content", "must be there");
            return Default::default();
        };
        let texts = [
            ("title", &content.title, TEXT),
            ("body", &content.body, TEXT),
            ("sound", &content.sound, 128),
            ("thread", &content.thread, 128),
            ("category", &content.category, 128),
        ];
        for (field, text, most) in texts {
            if text.len() > most {
                self.say(&format!("order.content.{field}"), format!("must be at most {most} bytes"));
            }
        }
        let size: usize = content.data.iter().map(|(key, value)| key.len() + value.len()).sum();
        if content.data.len() > DATA || size > TEXT {
            self.say("order.content.data", format!("must be at most {DATA} entries of {TEXT} bytes together"));
        }
        for (field, text, check) in [
            ("apns_payload", &content.apns_payload, object as fn(&[u8]) -> Result<(), String>),
            ("fcm_message", &content.fcm_message, push_fcm::check_payload),
        ] {
            if !text.is_empty()
                && let Err(what) = check(text.as_bytes())
            {
                self.say(&format!("order.content.{field}"), what);
            }
        }
        if content.apns_payload.len().max(content.fcm_message.len()).max(content.webpush_body.len()) > TEXT {
            self.say("order.content", format!("a payload must be at most {TEXT} bytes; no provider takes more"));
        }
        let apns_type = match content.apns_push_type.as_str() {
            "" => None,
            name => {
                let found = ApnsPushType::parse(name);
                if found.is_none() {
                    self.say("order.content.apns_push_type", "must be one of Apple's types, such as alert, background or voip");
                }
                found
            }
        };
        let own =
            Own { apns: content.apns_payload.clone(), apns_type, fcm: content.fcm_message.clone(), web: content.webpush_body.clone() };
        let neutral = Content {
            title: content.title.clone(),
            body: content.body.clone(),
            data: content.data.iter().map(|(key, value)| (key.clone(), value.clone())).collect::<BTreeMap<_, _>>(),
            sound: content.sound.clone(),
            badge: content.badge,
            thread: content.thread.clone(),
            category: content.category.clone(),
            mutable: content.mutable_content,
        };
        (neutral, own)
    }
}

fn object(text: &[u8]) -> Result<(), String> {
    let read: Result<serde_json::Map<String, serde_json::Value>, _> = serde_json::from_slice(text);
    read.map(|_| ()).map_err(|error| format!("must be a JSON object: {error}"))
}

/// An order whose device is not looked up yet.
struct Ordered {
    order: Order,
    device: Option<DeviceId>,
}

fn order(check: &mut Check, domain: &str, asked: Option<&v1::PushOrder>, name: String) -> Option<Ordered> {
    let Some(asked) = asked else {
        check.say("order", "must be there");
        return None;
    };
    let (content, own) = check.content(asked.content.as_ref());
    let class = match v1::PushClass::try_from(asked.push_class) {
        Ok(v1::PushClass::Background) => Class::Background,
        Ok(v1::PushClass::Interactive | v1::PushClass::Unspecified) => Class::Interactive,
        Ok(v1::PushClass::Call) => Class::Call,
        Err(_) => {
            check.say("order.push_class", "is not known");
            return None;
        }
    };
    let lasts = match &asked.time_to_live {
        None => Some(DAY),
        Some(lasts) => Duration::try_from(*lasts).ok().filter(|it| (Duration::from_secs(1)..=LONGEST).contains(it)),
    };
    if lasts.is_none() {
        check.say("order.time_to_live", "must be from 1 s to 28 days");
    }
    let collapse = match asked.collapse_key.as_str() {
        "" => None,
        text => {
            let key = CollapseKey::parse(text);
            if key.is_none() {
                check.say("order.collapse_key", "must be at most 64 printable ASCII characters");
            }
            key
        }
    };
    let mut device = None;
    let target = match &asked.target {
        Some(push_order::Target::User(user)) => {
            let alias = check.alias("order.user.alias", &user.alias)?;
            if user.apps.len() > 100 {
                check.say("order.user.apps", "must be at most 100");
            }
            let apps = user.apps.iter().take(100).filter_map(|name| check.app_name("order.user.apps", name)).collect();
            Some(Target::User(UserId { domain: domain.into(), alias: alias.as_str().into() }, apps))
        }
        Some(push_order::Target::DeviceId(id)) => {
            device = check.device_id("order.device_id", id);
            None
        }
        Some(push_order::Target::Topic(topic)) => {
            let app = check.app_name("order.topic.app", &topic.app)?;
            let target = match (topic.topic.as_str(), topic.condition.as_str()) {
                (name, "") if !name.is_empty() && name.len() <= 900 => push_core::Target::Topic(name.to_owned()),
                ("", condition) if !condition.is_empty() && condition.len() <= 900 => push_core::Target::Condition(condition.to_owned()),
                _ => {
                    check.say("order.topic", "must have a topic or a condition, of at most 900 bytes");
                    return None;
                }
            };
            Some(Target::Topic(app, target))
        }
        None => {
            check.say("order.target", "must be a user, a device or a topic");
            return None;
        }
    };
    let until = Timestamp::now().checked_add(lasts?).ok()?;
    // A device takes its place once it is found.
    let nobody = || Target::User(UserId { domain: domain.into(), alias: "".into() }, Vec::new());
    let target = target.unwrap_or_else(nobody);
    let order = Order { domain: domain.to_owned(), target, content, own, name, class, until, collapse };
    Some(Ordered { order, device })
}

/// An application by its name, or by what RFC 8599's parameters say.
fn app_of<'a>(
    apps: &'a BTreeMap<AppName, Arc<App>>,
    domain: &Domain,
    name: &str,
    provider: Provider,
    param: &str,
) -> Result<(&'a AppName, &'a App), Status> {
    let unknown = |what: String| Reason::UnknownApp.status(what);
    let here = apps.iter().filter(|(_, app)| app.serves(domain.as_str()));
    if !name.is_empty() {
        let found = here.map(|(name, app)| (name, &**app)).find(|(known, _)| known.as_str() == name);
        let (name, app) = found.ok_or_else(|| unknown(format!("the application '{name}' is not configured for the domain {domain}")))?;
        if app.provider != provider {
            return Err(unknown(format!("the application '{name}' is of {}, the token of {}", app.provider.as_str(), provider.as_str())));
        }
        return Ok((name, app));
    }
    let fits = |app: &App| {
        // Apple's parameter is team and topic, or the topic alone.
        app.provider == provider
            && (param.is_empty() || app.parameter == param || app.parameter.split_once('.').is_some_and(|(_, topic)| topic == param))
    };
    let found: Vec<_> = here.filter(|(_, app)| fits(app)).collect();
    match found.as_slice() {
        [(name, app)] => Ok((name, app)),
        [] => {
            Err(unknown(format!("no application of {} with pn-param '{param}' is configured for the domain {domain}", provider.as_str())))
        }
        _ => Err(unknown(format!("several applications of {} fit pn-param '{param}'; name one", provider.as_str()))),
    }
}

// === the service ===

impl Api {
    fn pusher(&self) -> Result<Arc<Pusher>, Status> {
        let none = || Reason::PushNotConfigured.status("no application for pushes is configured; see [[push.apps]]");
        self.pusher.clone().ok_or_else(none)
    }

    /// Who asks, in a domain that is served.
    async fn push_caller<T: Asked>(&self, request: &Request<T>, mutating: bool, domain: &Domain) -> Result<Principal, Status> {
        let principal = self.authorize(request, Scope::Push, mutating, Some(domain)).await?;
        self.served(domain)?;
        Ok(principal)
    }

    /// Takes an order on, its device found.
    async fn ordered(&self, pusher: &Pusher, domain: &Domain, mut ordered: Ordered) -> Result<Vec<v1::AcceptedPush>, Status> {
        if let Some(id) = &ordered.device {
            ordered.order.target = Target::Device(Box::new(device_of(pusher, domain, id).await?));
        }
        let accepted = pusher.send(&ordered.order).await?;
        let told = accepted.into_iter().map(|push| v1::AcceptedPush {
            push_id: push.id.to_string(),
            device_id: push.device.map(|id| id.to_string()).unwrap_or_default(),
        });
        Ok(told.collect())
    }

    async fn one_of_many(&self, principal: &Principal, pusher: &Pusher, asked: v1::SendPushesRequest) -> v1::SendPushesResponse {
        let request_id = asked.request_id.clone();
        let done = async {
            let mut check = Check::default();
            let domain = check.domain("domain", &asked.domain);
            check.request_id(&asked.request_id);
            let name = format!("{}/{}", principal.caller(), asked.request_id);
            let ordered = order(&mut check, &asked.domain, asked.order.as_ref(), name);
            let (domain, ordered) = check.done(domain.zip(ordered))?;
            if !principal.domains().contains(&domain) {
                return Err(Reason::DomainNotGranted.status(format!("the grant does not have the domain {domain}")));
            }
            self.served(&domain)?;
            self.ordered(pusher, &domain, ordered).await
        };
        match done.await {
            Ok(pushes) => v1::SendPushesResponse { request_id, pushes, ..Default::default() },
            Err(status) => v1::SendPushesResponse {
                request_id,
                refused_reason: Reason::of(&status).map_or("", Reason::as_str).to_owned(),
                refused_message: status.message().to_owned(),
                ..Default::default()
            },
        }
    }
}

async fn device_of(pusher: &Pusher, domain: &Domain, id: &DeviceId) -> Result<Device, Status> {
    let found = pusher.registry().get(id).await.map_err(crate::push::registry)?;
    let here = found.filter(|device| *device.user.domain == *domain.as_str());
    here.ok_or_else(|| Reason::UnknownDevice.status(format!("there is no device '{id}' in the domain {domain}")))
}

/// A push's history, if it is the domain's. Topics belong to no domain and are shown to whoever may push.
async fn history_of(pusher: &Pusher, domain: &Domain, id: PushId) -> Result<push_queue::History, Status> {
    let found = pusher.pushes().history(id).await.map_err(|error| Reason::PushStoreFailed.status(error.to_string()))?;
    let here = found.filter(|history| history.user.as_ref().is_none_or(|user| *user.domain == *domain.as_str()));
    here.ok_or_else(|| Reason::UnknownPush.status(format!("there is no push '{id}' in the domain {domain}, or the log no longer has it")))
}

#[tonic::async_trait]
impl PushService for Api {
    async fn list_apps(&self, request: Request<v1::ListAppsRequest>) -> Result<Response<v1::ListAppsResponse>, Status> {
        let principal = self.authorize(&request, Scope::Push, false, None).await?;
        let pusher = self.pusher()?;
        let (apps, numbers, counts) = (pusher.apps(), pusher.pushes().snapshot(), pusher.registry().counts());
        let visible = |app: &App| self.switch.domains().any(|domain| app.serves(domain.as_str()) && principal.domains().contains(domain));
        let apps = apps.iter().filter(|(_, app)| visible(app)).map(|(name, app)| {
            let queued = numbers.apps.iter().find(|queued| queued.app == *name);
            v1::PushApp {
                name: name.to_string(),
                provider: provider(app.provider).into(),
                connected: app.connected(),
                waiting: queued.map_or(0, |queued| queued.depth.iter().map(|(_, depth)| *depth as u64).sum()),
                oldest_waiting_time: queued.and_then(|queued| queued.oldest).map(timestamp),
                expire_time: app.expires_at().map(timestamp),
                devices: counts.iter().filter(|(app, _, _)| *app == name).map(|(_, _, count)| count).sum(),
            }
        });
        Ok(Response::new(v1::ListAppsResponse { apps: apps.collect() }))
    }

    async fn register_device(&self, request: Request<v1::RegisterDeviceRequest>) -> Result<Response<v1::RegisterDeviceResponse>, Status> {
        let asked = request.get_ref();
        let mut check = Check::default();
        let domain = check.domain("domain", &asked.domain);
        let alias = check.alias("alias", &asked.alias);
        let parameters = check.parameters(asked.parameters.as_ref());
        check.optional_text("app", &asked.app, 64);
        check.optional_text("platform", &asked.platform, 32);
        check.optional_text("locale", &asked.locale, 35);
        check.optional_text("label", &asked.label, 64);
        check.request_id(&asked.request_id);
        let environment = v1::PushEnvironment::try_from(asked.environment);
        if environment.is_err() {
            check.say("environment", "is not known");
        }
        if let Some((Provider::Web, _, _)) = &parameters {
            let keys = asked.web_keys.as_ref();
            if keys.is_none_or(|keys| keys.p256dh.len() < 80 || keys.auth.len() < 20) {
                check.say("web_keys", "must be the subscription's keys p256dh and auth");
            }
        }
        let (domain, (alias, (kind, token, param))) = check.done(domain.zip(alias.zip(parameters)))?;
        let principal = self.push_caller(&request, true, &domain).await?;
        let pusher = self.pusher()?;
        let apps = pusher.apps();
        let (name, app) = app_of(&apps, &domain, &asked.app, kind, &param)?;
        let other = match environment.unwrap_or_default() {
            v1::PushEnvironment::Production => app.environment != Environment::Production,
            v1::PushEnvironment::Development => app.environment != Environment::Development,
            v1::PushEnvironment::Unspecified => false,
        };
        if kind == Provider::Apns && other {
            let what = format!("the application '{name}' is configured for Apple's other environment; configure one for this environment");
            return Err(Reason::UnknownApp.status(what));
        }
        let web_keys = asked.web_keys.as_ref().filter(|_| kind == Provider::Web);
        let web_keys = web_keys.map(|keys| WebKeys { p256dh: keys.p256dh.clone(), auth: keys.auth.clone() });
        if let Some((field, what)) = web_keys.as_ref().and_then(|keys| app.refuses(&token, keys)) {
            return Err(Reason::invalid(vec![FieldViolation::new(field, what)]));
        }
        let new = NewDevice {
            user: UserId { domain: domain.as_str().into(), alias: alias.as_str().into() },
            app: name.clone(),
            provider: kind,
            token,
            environment: app.environment,
            web_keys,
            platform: asked.platform.clone(),
            locale: asked.locale.clone(),
            label: asked.label.clone(),
            wants_calls: asked.wants_calls.unwrap_or(true),
            wants_messages: asked.wants_messages.unwrap_or(true),
            now: Timestamp::now(),
        };
        let objects = vec![("alias", alias.to_string(), true), ("app", name.to_string(), false)];
        let ask = self.ask(principal, &domain, request.get_ref(), objects);
        let pusher = pusher.clone();
        let work = async move {
            let done = pusher.registry().register(new).await.map_err(crate::push::registry)?;
            if done.device.wants_calls {
                pusher.joined(done.device.user.clone());
            }
            Ok(v1::RegisterDeviceResponse {
                device: Some(device(&done.device)),
                replaced_device_ids: done.replaced.iter().map(|device| device.id.to_string()).collect(),
            })
        };
        self.commands.run(ask, self.core(), CHANGE, work).await.map(Response::new)
    }

    async fn unregister_device(
        &self,
        request: Request<v1::UnregisterDeviceRequest>,
    ) -> Result<Response<v1::UnregisterDeviceResponse>, Status> {
        let asked = request.get_ref();
        let mut check = Check::default();
        let domain = check.domain("domain", &asked.domain);
        check.request_id(&asked.request_id);
        check.optional_text("app", &asked.app, 64);
        let by_id = !asked.device_id.is_empty();
        let id = by_id.then(|| check.device_id("device_id", &asked.device_id)).flatten();
        let parameters = if by_id { None } else { check.parameters(asked.parameters.as_ref()) };
        let domain = check.done(domain)?;
        let principal = self.push_caller(&request, true, &domain).await?;
        let pusher = self.pusher()?;
        let found = match (id, parameters) {
            (Some(id), _) => pusher.registry().get(&id).await.map_err(crate::push::registry)?,
            (None, Some((kind, token, param))) => {
                let apps = pusher.apps();
                let (name, _) = app_of(&apps, &domain, &asked.app, kind, &param)?;
                pusher.registry().by_token(name, &token).await.map_err(crate::push::registry)?
            }
            (None, None) => None,
        };
        let found = found.filter(|device| *device.user.domain == *domain.as_str());
        let objects = vec![("device_id", found.as_ref().map(|device| device.id.to_string()).unwrap_or_default(), false)];
        let ask = self.ask(principal, &domain, request.get_ref(), objects);
        let work = async move {
            let Some(found) = found else { return Ok(v1::UnregisterDeviceResponse::default()) };
            let gone = pusher.registry().unregister(&found.user, &found.id).await.map_err(crate::push::registry)?;
            Ok(v1::UnregisterDeviceResponse { device: gone.as_ref().map(device) })
        };
        self.commands.run(ask, self.core(), CHANGE, work).await.map(Response::new)
    }

    async fn list_devices(&self, request: Request<v1::ListDevicesRequest>) -> Result<Response<v1::ListDevicesResponse>, Status> {
        let asked = request.get_ref();
        let mut check = Check::default();
        let domain = check.domain("domain", &asked.domain);
        let size = check.page_size(asked.page_size);
        let after = match asked.page_token.as_str() {
            "" => None,
            token => {
                let cursor = token.parse::<push_registry::Cursor>();
                if cursor.is_err() {
                    check.say("page_token", "must be next_page_token of the answer before, or empty");
                }
                cursor.ok()
            }
        };
        let alias = (!asked.alias.is_empty()).then(|| check.alias("alias", &asked.alias)).flatten();
        let domain = check.done(domain)?;
        self.push_caller(&request, false, &domain).await?;
        let pusher = self.pusher()?;
        if let Some(alias) = alias {
            let user = UserId { domain: domain.as_str().into(), alias: alias.as_str().into() };
            let devices = pusher.registry().devices(&user).await.map_err(crate::push::registry)?;
            return Ok(Response::new(v1::ListDevicesResponse { devices: devices.iter().map(device).collect(), ..Default::default() }));
        }
        let only = push_registry::Domains::Only([Arc::from(domain.as_str())].into());
        let page = pusher.registry().page(only, after, size).await.map_err(crate::push::registry)?;
        Ok(Response::new(v1::ListDevicesResponse {
            devices: page.devices.iter().map(device).collect(),
            next_page_token: page.next.map(|next| next.to_string()).unwrap_or_default(),
        }))
    }

    async fn send_push(&self, request: Request<v1::SendPushRequest>) -> Result<Response<v1::SendPushResponse>, Status> {
        let asked = request.get_ref();
        let mut check = Check::default();
        let domain = check.domain("domain", &asked.domain);
        check.request_id(&asked.request_id);
        // The caller's name comes before the id once it is known: two callers may choose the same.
        let ordered = order(&mut check, &asked.domain, asked.order.as_ref(), asked.request_id.clone());
        let (domain, mut ordered) = check.done(domain.zip(ordered))?;
        let principal = self.push_caller(&request, true, &domain).await?;
        ordered.order.name = format!("{}/{}", principal.caller(), asked.request_id);
        let pushes = self.ordered(&*self.pusher()?, &domain, ordered).await?;
        Ok(Response::new(v1::SendPushResponse { pushes }))
    }

    type SendPushesStream = Pin<Box<dyn Stream<Item = Result<v1::SendPushesResponse, Status>> + Send>>;

    async fn send_pushes(&self, request: Request<Streaming<v1::SendPushesRequest>>) -> Result<Response<Self::SendPushesStream>, Status> {
        use futures_util::StreamExt as _;
        let (metadata, extensions, orders) = request.into_parts();
        let principal = self.authorize_parts::<v1::SendPushesRequest>(metadata, extensions, Scope::Push, true).await?;
        let pusher = self.pusher()?;
        let api = self.clone();
        let answers = orders.map(move |asked| {
            let (api, principal, pusher) = (api.clone(), principal.clone(), pusher.clone());
            async move {
                let asked = asked.map_err(|status| super::observe::with_reason(&status).unwrap_or(status))?;
                Ok(api.one_of_many(&principal, &pusher, asked).await)
            }
        });
        Ok(Response::new(Box::pin(answers.buffered(SIDE_BY_SIDE))))
    }

    async fn cancel_push(&self, request: Request<v1::CancelPushRequest>) -> Result<Response<v1::CancelPushResponse>, Status> {
        let asked = request.get_ref();
        let mut check = Check::default();
        let domain = check.domain("domain", &asked.domain);
        let id = check.push_id(&asked.push_id);
        check.request_id(&asked.request_id);
        let (domain, id) = check.done(domain.zip(id))?;
        let principal = self.push_caller(&request, true, &domain).await?;
        let pusher = self.pusher()?;
        let ask = self.ask(principal, &domain, asked, vec![("push_id", id.to_string(), false)]);
        let work = async move {
            let before = history_of(&pusher, &domain, id).await?;
            let state = match pusher.pushes().cancel(id).await {
                Cancelled::Dropped => v1::PushState::Dropped,
                // Too late; the provider may have answered already.
                Cancelled::Sent => state(before.state()),
                Cancelled::Finished(known) => state(known),
                Cancelled::Unknown => return Err(Reason::UnknownPush.status(format!("there is no push '{id}'"))),
            };
            Ok(v1::CancelPushResponse { state: state.into() })
        };
        self.commands.run(ask, self.core(), CHANGE, work).await.map(Response::new)
    }

    async fn test_device(&self, request: Request<v1::TestDeviceRequest>) -> Result<Response<v1::TestDeviceResponse>, Status> {
        let asked = request.get_ref();
        let mut check = Check::default();
        let domain = check.domain("domain", &asked.domain);
        let id = check.device_id("device_id", &asked.device_id);
        check.request_id(&asked.request_id);
        let (domain, id) = check.done(domain.zip(id))?;
        let principal = self.push_caller(&request, true, &domain).await?;
        let pusher = self.pusher()?;
        let found = device_of(&pusher, &domain, &id).await?;
        let russian = found.locale.get(..2).is_some_and(|language| language.eq_ignore_ascii_case("ru"));
        let (title, body) = if russian {
            ("Проверка", "Пуш-уведомления доходят.")
        } else {
            ("Test", "Pushes reach this device.")
        };
        let class = if asked.as_call { Class::Call } else { Class::Interactive };
        let until = Timestamp::now().checked_add(TEST).map_err(super::defect)?;
        let data = BTreeMap::from([("event".to_owned(), "test".to_owned())]);
        let order = Order {
            domain: domain.to_string(),
            target: Target::Device(Box::new(found)),
            content: Content { title: title.to_owned(), body: body.to_owned(), data, sound: "default".to_owned(), ..Content::default() },
            own: Own::default(),
            name: format!("{}/{}", principal.caller(), asked.request_id),
            class,
            until,
            collapse: None,
        };
        let ask = self.ask(principal, &domain, asked, vec![("device_id", id.to_string(), false)]);
        let work = async move {
            let began = Instant::now();
            let (id, ended) = pusher.test(&order, TEST).await?;
            let state = ended.as_ref().map_or(v1::PushState::Stored, |life| state(life.state));
            let reason = ended.and_then(|life| life.reason).map(|reason| reason.to_string()).unwrap_or_default();
            Ok(v1::TestDeviceResponse {
                push_id: id.to_string(),
                state: state.into(),
                explanation: explanation(state, &reason),
                reason,
                duration: prost_types::Duration::try_from(began.elapsed()).ok(),
            })
        };
        self.commands.run(ask, self.core(), TEST + CHANGE, work).await.map(Response::new)
    }

    async fn get_push(&self, request: Request<v1::GetPushRequest>) -> Result<Response<v1::GetPushResponse>, Status> {
        let asked = request.get_ref();
        let mut check = Check::default();
        let domain = check.domain("domain", &asked.domain);
        let id = check.push_id(&asked.push_id);
        let (domain, id) = check.done(domain.zip(id))?;
        self.push_caller(&request, false, &domain).await?;
        let history = history_of(&*self.pusher()?, &domain, id).await?;
        Ok(Response::new(v1::GetPushResponse { events: events(&history).collect() }))
    }

    async fn list_device_deliveries(
        &self,
        request: Request<v1::ListDeviceDeliveriesRequest>,
    ) -> Result<Response<v1::ListDeviceDeliveriesResponse>, Status> {
        let asked = request.get_ref();
        let mut check = Check::default();
        let domain = check.domain("domain", &asked.domain);
        let id = check.device_id("device_id", &asked.device_id);
        let size = check.page_size(asked.page_size);
        let (domain, id) = check.done(domain.zip(id))?;
        self.push_caller(&request, false, &domain).await?;
        let pusher = self.pusher()?;
        let histories = pusher.pushes().history_of_device(&id, size).await;
        let histories = histories.map_err(|error| Reason::PushStoreFailed.status(error.to_string()))?;
        // A device that is gone still has a log; one of another domain has none here.
        let here = histories.iter().filter(|history| history.user.as_ref().is_some_and(|user| *user.domain == *domain.as_str()));
        let mut all: Vec<v1::PushEvent> = here.flat_map(events).collect();
        if all.is_empty() {
            device_of(&pusher, &domain, &id).await?;
        }
        let time = |event: &v1::PushEvent| event.time.map(|time| (time.seconds, time.nanos));
        all.sort_by_key(|event| std::cmp::Reverse(time(event)));
        all.truncate(size);
        Ok(Response::new(v1::ListDeviceDeliveriesResponse { events: all }))
    }

    type WatchPushesStream = Pin<Box<dyn Stream<Item = Result<v1::WatchPushesResponse, Status>> + Send>>;

    async fn watch_pushes(&self, request: Request<v1::WatchPushesRequest>) -> Result<Response<Self::WatchPushesStream>, Status> {
        use v1::watch_pushes_response::Message;
        let asked = request.get_ref();
        let mut check = Check::default();
        if asked.domains.len() > DATA || asked.apps.len() > DATA {
            check.say("domains", format!("and apps must be at most {DATA} each"));
        }
        let domains: Vec<Domain> = asked.domains.iter().take(DATA).filter_map(|name| check.domain("domains", name)).collect();
        let apps: Vec<AppName> = asked.apps.iter().take(DATA).filter_map(|name| check.app_name("apps", name)).collect();
        check.done(Some(()))?;
        let principal = self.authorize(&request, Scope::Push, false, None).await?;
        let visible = principal.domains().narrowed(principal.caller(), &domains);
        let visible = visible.map_err(|denied| self.denied(&request, denied, domains.first(), None))?;
        let visible: std::collections::HashSet<String> = visible.iter().map(ToString::to_string).collect();
        let pusher = self.pusher()?;
        let permit = self.subscriber()?;
        let final_only = asked.final_only;
        let stop = self.shared.shutdown.soft.clone();
        let watching = (pusher.pushes().watch(), permit);
        let stream = futures_util::stream::unfold(watching, move |(mut watch, permit)| {
            let (visible, apps, stop) = (visible.clone(), apps.clone(), stop.clone());
            async move {
                loop {
                    let message = match stop.run_until_cancelled(watch.next()).await {
                        Some(Some(Watched::Missed(count))) => Message::Missed(count),
                        Some(Some(Watched::Life(life))) => {
                            let here = life.user.as_ref().is_some_and(|user| visible.contains(&*user.domain));
                            let wanted = apps.is_empty() || apps.contains(&life.app);
                            if !here || !wanted || (final_only && !life.state.is_terminal()) {
                                continue;
                            }
                            Message::Event(event(&life))
                        }
                        Some(None) | None => return None,
                    };
                    return Some((Ok(v1::WatchPushesResponse { message: Some(message) }), (watch, permit)));
                }
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }
}
