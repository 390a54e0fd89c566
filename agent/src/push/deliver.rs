//! From what is told to a user to one push for each of the user's devices. Ids derive from what a push is about, so that whatever is
//! told twice, also by another agent or after a restart, is the same push.

use std::time::Duration;

use elph_policy::{Content, Kind, Notice, Step};
use elph_proto::reason::Reason;
use jiff::{SignedDuration, Timestamp};
use push_core::{ApnsPushType, Class, CollapseKey, Device, DeviceId, Priority, PushId, Request, UserId};
use push_queue::{Cancelled, Job, Refused, State};
use tonic::Status;

use super::{App, Pusher, told};

/// How long the end of a call is worth telling: a phone that has not heard of it by then has stopped ringing by itself.
const CANCEL_FOR: SignedDuration = SignedDuration::from_secs(60);

/// For so long after it began to act, an agent also takes back what another may have told.
const TAKEN_OVER: Duration = Duration::from_secs(600);

/// Where an order goes.
#[derive(Debug, Clone)]
pub enum Target {
    /// To a user's devices that want messages (calls: that want calls), of these applications, or of all.
    User(UserId, Vec<push_core::AppName>),
    /// To one device.
    Device(Box<Device>),
    /// To an FCM topic or condition.
    Topic(push_core::AppName, push_core::Target),
}

/// Something to send, asked for over the API.
#[derive(Debug, Clone)]
pub struct Order {
    /// The tenant.
    pub domain: String,
    /// Where to.
    pub target: Target,
    /// What.
    pub content: Content,
    /// The provider's payloads as the caller wrote them, in place of the templates'.
    pub own: Own,
    /// Ids of the pushes derive from it: caller and request id.
    pub name: String,
    /// How urgent.
    pub class: Class,
    /// Worth nothing after this.
    pub until: Timestamp,
    /// What it replaces.
    pub collapse: Option<CollapseKey>,
}

/// Payloads as the caller wrote them; empty: the template's.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Own {
    pub apns: String,
    pub apns_type: Option<ApnsPushType>,
    pub fcm: String,
    pub web: String,
}

/// A push that was taken on.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// Its id.
    pub id: PushId,
    /// Its device; none: a topic.
    pub device: Option<DeviceId>,
}

impl Pusher {
    /// Tells a user something, or takes it back.
    pub(super) async fn notify(&self, notice: Notice) {
        let Some(since) = self.acting.since() else { return };
        let devices = match self.devices(&notice).await {
            Ok(devices) => devices,
            Err(error) => {
                tracing::warn!(domain = notice.domain, error = %told(&error), "devices cannot be read, nothing is pushed");
                return;
            }
        };
        let mut jobs = Vec::new();
        for device in devices {
            let apps = self.apps();
            let Some(app) = apps.get(&device.app).filter(|app| app.serves(&notice.domain)) else { continue };
            match notice.step {
                Step::Tell { kind, until } if wanted(kind, &device) => jobs.push(job(app, &device, &notice, kind, until)),
                Step::Tell { .. } => {}
                Step::TakeBack { told, kind, .. } => {
                    let reached = match self.pushes.cancel(id(&notice, &device, told)).await {
                        // On its way or there: the device must be told.
                        Cancelled::Sent | Cancelled::Finished(State::Accepted) => true,
                        Cancelled::Dropped | Cancelled::Finished(_) => false,
                        Cancelled::Unknown => since.elapsed() < TAKEN_OVER && wanted(told, &device) && self.acting.is_shared(),
                    };
                    if reached && let Ok(until) = Timestamp::now().checked_add(CANCEL_FOR) {
                        jobs.push(job(app, &device, &notice, kind, until));
                    }
                }
            }
        }
        if jobs.is_empty() {
            return;
        }
        let count = jobs.len();
        if let Err(error) = self.pushes.accept(jobs).await {
            tracing::warn!(domain = notice.domain, subject = notice.subject, count, %error, "pushes were not taken on");
        }
    }

    async fn devices(&self, notice: &Notice) -> Result<Vec<Device>, push_registry::Error> {
        let user = UserId { domain: notice.domain.as_str().into(), alias: notice.alias.as_str().into() };
        self.registry.devices(&user).await
    }

    /// Takes an order on. Everything is on disk when this returns.
    pub async fn send(&self, order: &Order) -> Result<Vec<Accepted>, Status> {
        let apps = self.apps();
        let (jobs, accepted): (Vec<Job>, Vec<Accepted>) = match &order.target {
            Target::User(user, only) => {
                let devices = self.registry.devices(user).await.map_err(registry)?;
                let fits = |device: &&Device| {
                    let wants = if order.class == Class::Call { device.wants_calls } else { device.wants_messages };
                    wants && (only.is_empty() || only.contains(&device.app))
                };
                let pushes = devices.iter().filter(fits).filter_map(|device| {
                    let app = apps.get(&device.app).filter(|app| app.serves(&order.domain))?;
                    Some(order.to_device(app, device))
                });
                pushes.unzip()
            }
            Target::Device(device) => {
                let app = apps.get(&device.app).ok_or_else(|| no_app(device.app.as_str()))?;
                let (job, accepted) = order.to_device(app, device);
                (vec![job], vec![accepted])
            }
            Target::Topic(name, target) => {
                let app = apps.get(name).filter(|app| app.serves(&order.domain)).ok_or_else(|| no_app(name.as_str()))?;
                let id = PushId::of(&format!("{}/topic", order.name));
                let request = order.request(app, id, target.clone());
                let job = Job { app: name.clone(), user: None, device: None, request, received_at: Timestamp::now() };
                (vec![job], vec![Accepted { id, device: None }])
            }
        };
        if !jobs.is_empty() {
            self.pushes.accept(jobs).await.map_err(refused)?;
        }
        Ok(accepted)
    }

    /// Sends to one device and waits for the provider's answer, or until the time is over.
    pub async fn test(&self, order: &Order, within: Duration) -> Result<(PushId, Option<push_queue::Life>), Status> {
        let mut watch = self.pushes.watch();
        let accepted = self.send(order).await?;
        let id = accepted.first().map(|accepted| accepted.id).ok_or_else(|| no_app(""))?;
        let ended = async {
            loop {
                match watch.next().await {
                    Some(push_queue::Watched::Life(life)) if life.id == id && life.state.is_terminal() => return Some((*life).clone()),
                    Some(_) => {}
                    None => return None,
                }
            }
        };
        Ok((id, tokio::time::timeout(within, ended).await.ok().flatten()))
    }
}

impl Order {
    fn to_device(&self, app: &App, device: &Device) -> (Job, Accepted) {
        let id = PushId::of(&format!("{}/{}", self.name, device.id));
        let request = self.request(app, id, super::target(device.token.clone(), device.web_keys.clone()));
        let job = Job {
            app: device.app.clone(),
            user: Some(device.user.clone()),
            device: Some(device.id.clone()),
            request,
            received_at: Timestamp::now(),
        };
        (job, Accepted { id, device: Some(device.id.clone()) })
    }

    fn request(&self, app: &App, id: PushId, target: push_core::Target) -> Request {
        let mut payload = app.templates.message(&self.content, &id.to_string());
        let quiet = self.content.title.is_empty() && self.content.body.is_empty();
        let mut woken = quiet;
        match &mut payload {
            push_core::Payload::Apns(apns) => {
                if !self.own.apns.is_empty() {
                    apns.body = self.own.apns.clone().into();
                    apns.push_type = shown_as(&self.own.apns);
                }
                if self.class == Class::Call {
                    apns.push_type = ApnsPushType::Voip;
                }
                apns.push_type = self.own.apns_type.unwrap_or(apns.push_type);
                woken = apns.push_type == ApnsPushType::Background;
            }
            push_core::Payload::Fcm(fcm) if !self.own.fcm.is_empty() => fcm.message = self.own.fcm.clone().into(),
            push_core::Payload::Web(web) if !self.own.web.is_empty() => web.body = self.own.web.clone().into(),
            _ => {}
        }
        let priority = match self.class {
            Class::Call | Class::Interactive if !woken => Priority::High,
            _ => Priority::Normal,
        };
        Request {
            id,
            target,
            class: self.class,
            priority,
            deadline: Some(self.until),
            store: true,
            collapse: self.collapse.clone(),
            payload,
        }
    }
}

/// What an APNs payload is: what it shows decides, as Apple has it.
fn shown_as(text: &str) -> ApnsPushType {
    let json: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let aps = json.get("aps");
    let shows = ["alert", "badge", "sound"].iter().any(|key| aps.and_then(|aps| aps.get(key)).is_some());
    if shows { ApnsPushType::Alert } else { ApnsPushType::Background }
}

fn id(notice: &Notice, device: &Device, kind: Kind) -> PushId {
    let Notice { domain, subject, alias, occasion, .. } = notice;
    PushId::of(&format!("{domain}/{subject}/{alias}/{}/{}/{}", device.id, kind.as_str(), occasion.0))
}

/// Whether a device wants to hear of it.
fn wanted(kind: Kind, device: &Device) -> bool {
    match kind {
        Kind::Call | Kind::CallCancel | Kind::Invitation | Kind::InvitationCancel => device.wants_calls,
        Kind::MissedCall | Kind::Message => device.wants_messages,
    }
}

fn job(app: &App, device: &Device, notice: &Notice, kind: Kind, until: Timestamp) -> Job {
    let id = id(notice, device, kind);
    let payload = app.templates.notice(kind, &notice.fields, &device.locale, &id.to_string());
    let class = if kind == Kind::MissedCall { Class::Interactive } else { Class::Call };
    let priority = if kind == Kind::InvitationCancel { Priority::Normal } else { Priority::High };
    let request = Request {
        id,
        target: super::target(device.token.clone(), device.web_keys.clone()),
        class,
        priority,
        deadline: Some(until),
        store: true,
        // What a sleeping device has not been told yet is replaced: it never rings for a call that is over. A missed call replaces
        // nothing: a phone that rings must hear that the call is over, and it may have missed several.
        collapse: if kind == Kind::MissedCall { None } else { CollapseKey::parse(&notice.subject) },
        payload,
    };
    Job {
        app: device.app.clone(),
        user: Some(device.user.clone()),
        device: Some(device.id.clone()),
        request,
        received_at: Timestamp::now(),
    }
}

fn no_app(name: &str) -> Status {
    Reason::UnknownApp.status(format!("the application '{name}' is not configured for this domain"))
}

/// What the registry's refusals mean to a caller.
pub fn registry(error: push_registry::Error) -> Status {
    use push_registry::Error;
    let reason = match &error {
        Error::Invalid { .. } => Reason::InvalidRequest,
        Error::Full { .. } => Reason::PushLimitReached,
        Error::Busy => Reason::TooManyCommands,
        Error::Unconfirmed => Reason::OutcomeUnknown,
        Error::Closed => Reason::ShuttingDown,
        Error::Store { .. } => Reason::PushStoreFailed,
    };
    reason.status(told(&error))
}

/// What the queue's refusals mean to a caller.
fn refused(error: Refused) -> Status {
    let reason = match &error {
        Refused::Full { .. } => Reason::PushLimitReached,
        Refused::TooLate(_) => Reason::PushTooLate,
        Refused::UnknownApp { .. } => Reason::UnknownApp,
        Refused::TooLarge { .. } => Reason::InvalidRequest,
        Refused::Disk(_) => Reason::PushStoreFailed,
        Refused::Closed => Reason::ShuttingDown,
    };
    reason.status(error.to_string())
}
