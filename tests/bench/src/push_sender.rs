//! Our sender as a process of its own, so that it can be pinned to a core: the durable queue, fed as `SendPushes` feeds it, in front of the
//! sender of APNs or FCM, configured as the agent configures it.

use std::{
    collections::HashMap,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use push_core::{
    ApnsPayload, ApnsPushType, AppName, Class, DeviceId, Environment, FcmPayload, Outcome, Payload, Priority, Provider, PushId, Request,
    Sender, Target, Token, UserId, connect::HostPort,
};
use push_queue::{Gone, Job, Options, Pushes, State, Telling, TokenGone, Verdict};
use serde::{Deserialize, Serialize};

use crate::feed::PATIENCE;

/// Orders of one `SendPushes` stream that the agent works on side by side.
const SIDE_BY_SIDE: usize = 64;
/// Such streams.
const STREAMS: usize = 4;
/// Devices that are sent to in turn, as many as h2load has addresses.
const DEVICES: u64 = 1000;
/// A look goes through all that waits.
const LOOK: Duration = Duration::from_millis(20);

/// What is sent where.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Task {
    /// Apple or Google.
    pub(crate) apns: bool,
    /// `HOST:PORT`.
    pub(crate) at: String,
    /// Where tokens of FCM come from.
    pub(crate) token_url: String,
    /// The simulator's keys and authority.
    pub(crate) keys: PathBuf,
    pub(crate) team_id: String,
    pub(crate) key_id: String,
    pub(crate) topic: String,
    pub(crate) body: String,
    pub(crate) pushes: u64,
    /// Where the queue's files go.
    pub(crate) directory: PathBuf,
    /// False: straight to the sender, to see what the queue costs.
    pub(crate) queued: bool,
}

/// What one run came to.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Sent {
    pub(crate) taken: u64,
    pub(crate) seconds: f64,
    /// Seconds of processor time.
    pub(crate) cpu: f64,
}

/// Whose devices the pushes go to in turn, as the registry hands them out.
struct Devices {
    app: AppName,
    body: Bytes,
    all: Vec<(UserId, DeviceId, Token)>,
}

struct Nobody;

impl TokenGone for Nobody {
    fn token_gone(&self, _: Gone) -> Telling {
        Box::pin(std::future::ready(Verdict::Gone))
    }
}

/// Does it and prints what it came to.
pub(crate) async fn serve(task: &str) -> anyhow::Result<()> {
    let task: Task = serde_json::from_str(task)?;
    // On the one worker, as the agent's work is.
    let sent = if task.queued { tokio::spawn(send(task)).await?? } else { tokio::spawn(send_straight(task)).await?? };
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&sent)?)?;
    Ok(())
}

async fn send(task: Task) -> anyhow::Result<Sent> {
    let sender = if task.apns { apns(&task)? } else { fcm(&task)? };
    let devices = Devices::new(&task)?;
    let app = devices.app.clone();
    let senders = HashMap::from([(app.clone(), sender.clone())]);
    let (pushes, _) = Pushes::open(&task.directory, Options::default(), senders, Arc::new(Nobody))?;
    // Connection and token are not what is measured.
    pushes.accept(vec![devices.job(0)?]).await?;
    until_accepted(&pushes, &app, 1).await?;

    let (began, before) = (Instant::now(), processor_seconds()?);
    let accepting = (0..STREAMS as u64).map(|stream| {
        let (pushes, task, devices) = (&pushes, &task, &devices);
        async move {
            let numbers = (stream..task.pushes).step_by(STREAMS);
            let mut accepted = futures_util::stream::iter(numbers)
                .map(|number| async move { anyhow::Ok(pushes.accept(vec![devices.job(number)?]).await?) })
                .buffered(SIDE_BY_SIDE);
            while let Some(receipt) = accepted.next().await {
                receipt?;
            }
            anyhow::Ok(())
        }
    });
    let accepting = async {
        for accepted in futures_util::future::join_all(accepting).await {
            accepted?;
        }
        anyhow::Ok(())
    };
    accepting.await?;
    let taken = until_accepted(&pushes, &app, task.pushes + 1).await? - 1;
    let sent = Sent { taken, seconds: began.elapsed().as_secs_f64(), cpu: processor_seconds()? - before };
    pushes.close(Duration::from_secs(5)).await;
    sender.close().await;
    Ok(sent)
}

/// The sender alone, with as many under way as the queue would have.
async fn send_straight(task: Task) -> anyhow::Result<Sent> {
    let sender = if task.apns { apns(&task)? } else { fcm(&task)? };
    let devices = Devices::new(&task)?;
    sender.send(devices.job(0)?.request).await;
    let under_way = Options::default().in_flight.min(sender.capacity().concurrent);
    let (began, before) = (Instant::now(), processor_seconds()?);
    let mut sending = FuturesUnordered::new();
    let mut taken = 0;
    for number in 0..task.pushes {
        if sending.len() >= under_way {
            taken += u64::from(matches!(sending.next().await, Some(Outcome::Accepted { .. })));
        }
        sending.push(sender.send(devices.job(number)?.request));
    }
    while let Some(outcome) = sending.next().await {
        taken += u64::from(matches!(outcome, Outcome::Accepted { .. }));
    }
    let sent = Sent { taken, seconds: began.elapsed().as_secs_f64(), cpu: processor_seconds()? - before };
    sender.close().await;
    Ok(sent)
}

async fn until_accepted(pushes: &Pushes, app: &AppName, wanted: u64) -> anyhow::Result<u64> {
    let began = Instant::now();
    loop {
        let snapshot = pushes.snapshot();
        let accepted = snapshot.count(app.as_str(), Class::Background, State::Accepted);
        if accepted >= wanted {
            return Ok(accepted);
        }
        if began.elapsed() > PATIENCE {
            bail!("{accepted} of {wanted} pushes were accepted: {snapshot:?}");
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn apns(task: &Task) -> anyhow::Result<Arc<dyn Sender>> {
    let key = std::fs::read(task.keys.join(format!("AuthKey_{}.p8", task.key_id)))?;
    let tokens = push_apns::ProviderTokens::new(&key, &task.key_id, &task.team_id, Arc::new(push_apns::SystemClock))?;
    let mut settings = push_apns::Settings::new(Environment::Production, &task.topic, push_apns::Auth::Token(tokens));
    let (host, port) = task.at.rsplit_once(':').context("no port")?;
    settings.at = HostPort { host: host.to_owned(), port: port.parse()? };
    settings.ca_pem = Some(authority(&task.keys)?);
    let connect = settings.connector()?;
    Ok(Arc::new(push_apns::Apns::new(settings, connect)?))
}

fn fcm(task: &Task) -> anyhow::Result<Arc<dyn Sender>> {
    let account = std::fs::read_to_string(task.keys.join("service-account.json"))?;
    let settings = push_fcm::Settings::from_service_account(&account)?;
    let mut settings = settings.with_endpoint(&format!("https://{}", task.at))?.with_token_url(&task.token_url)?;
    settings.ca_pem = Some(authority(&task.keys)?);
    let connect = settings.connector()?;
    Ok(Arc::new(push_fcm::Fcm::new(settings, connect)?))
}

fn authority(keys: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(keys.join("ca.pem")).context("read the simulator's authority")
}

// === impl Devices ===

impl Devices {
    fn new(task: &Task) -> anyhow::Result<Self> {
        let device = |number| {
            let text = if task.apns { e2e::pushes::apns_token(number) } else { e2e::pushes::fcm_token(number) };
            let token = Token::parse(if task.apns { Provider::Apns } else { Provider::Fcm }, &text).ok().context("no token")?;
            let user = UserId { domain: "elph.local".into(), alias: format!("{number:06}").into() };
            Ok((user, DeviceId::parse(&format!("{number:032x}"))?, token))
        };
        let body = Bytes::from(task.body.clone());
        Ok(Self { app: AppName::parse("bench")?, body, all: (0..DEVICES).map(device).collect::<anyhow::Result<_>>()? })
    }

    fn job(&self, number: u64) -> anyhow::Result<Job> {
        let (user, device, token) = self.all.get(usize::try_from(number % DEVICES)?).context("no such device")?;
        let payload = match token.expose().starts_with("fcm-") {
            false => Payload::Apns(ApnsPayload { push_type: ApnsPushType::Alert, body: self.body.clone() }),
            true => Payload::Fcm(FcmPayload { message: self.body.clone() }),
        };
        let now = jiff::Timestamp::now();
        let request = Request {
            id: PushId::new(),
            target: Target::Device(token.clone()),
            class: Class::Background,
            priority: Priority::Normal,
            deadline: Some(now.checked_add(jiff::SignedDuration::from_hours(1))?),
            store: true,
            collapse: None,
            payload,
        };
        Ok(Job { app: self.app.clone(), user: Some(user.clone()), device: Some(device.clone()), request, received_at: now })
    }
}

/// User and system time of this process.
fn processor_seconds() -> anyhow::Result<f64> {
    used(nix::sys::resource::UsageWho::RUSAGE_SELF)
}

/// Of this process or of those that it started and that have ended.
pub(crate) fn used(who: nix::sys::resource::UsageWho) -> anyhow::Result<f64> {
    let usage = nix::sys::resource::getrusage(who)?;
    #[expect(clippy::cast_precision_loss, reason = "seconds of a run")]
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}
