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
use futures_util::StreamExt;
use push_core::{
    ApnsPayload, ApnsPushType, AppName, Class, DeviceId, Environment, FcmPayload, Payload, Priority, Provider, PushId, Request, Sender,
    Target, Token, UserId, connect::HostPort,
};
use push_queue::{Gone, Job, Options, Pushes, State, Telling, TokenGone, Verdict};
use serde::{Deserialize, Serialize};

use crate::feed::PATIENCE;

/// Orders of one `SendPushes` stream that the agent works on side by side.
const SIDE_BY_SIDE: usize = 64;
/// Such streams.
const STREAMS: usize = 4;
const LOOK: Duration = Duration::from_millis(5);

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
}

/// What one run came to.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Sent {
    pub(crate) taken: u64,
    pub(crate) seconds: f64,
    /// Seconds of processor time.
    pub(crate) cpu: f64,
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
    let sent = tokio::spawn(send(task)).await??;
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&sent)?)?;
    Ok(())
}

async fn send(task: Task) -> anyhow::Result<Sent> {
    let sender = if task.apns { apns(&task)? } else { fcm(&task)? };
    let app = AppName::parse("bench")?;
    let senders = HashMap::from([(app.clone(), sender.clone())]);
    let (pushes, _) = Pushes::open(&task.directory, Options::default(), senders, Arc::new(Nobody))?;
    let body = Bytes::from(task.body.clone());
    // Connection and token are not what is measured.
    pushes.accept(vec![job(&task, &app, &body, 0)?]).await?;
    until_accepted(&pushes, &app, 1).await?;

    let (began, before) = (Instant::now(), processor_seconds()?);
    let accepting = (0..STREAMS as u64).map(|stream| {
        let (pushes, task, app, body) = (&pushes, &task, &app, &body);
        async move {
            let numbers = (stream..task.pushes).step_by(STREAMS);
            let mut accepted = futures_util::stream::iter(numbers)
                .map(|number| async move { anyhow::Ok(pushes.accept(vec![job(task, app, body, number)?]).await?) })
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

fn job(task: &Task, app: &AppName, body: &Bytes, number: u64) -> anyhow::Result<Job> {
    let (token, payload) = if task.apns {
        let token = Token::parse(Provider::Apns, &e2e::pushes::apns_token(number)).ok();
        (token, Payload::Apns(ApnsPayload { push_type: ApnsPushType::Alert, body: body.clone() }))
    } else {
        let token = Token::parse(Provider::Fcm, &e2e::pushes::fcm_token(number)).ok();
        (token, Payload::Fcm(FcmPayload { message: body.clone() }))
    };
    let now = jiff::Timestamp::now();
    let request = Request {
        id: PushId::new(),
        target: Target::Device(token.context("no token")?),
        class: Class::Background,
        priority: Priority::Normal,
        deadline: Some(now.checked_add(jiff::SignedDuration::from_hours(1))?),
        store: true,
        collapse: None,
        payload,
    };
    let user = UserId { domain: "elph.local".into(), alias: format!("{number:06}").into() };
    Ok(Job { app: app.clone(), user: Some(user), device: Some(DeviceId::parse(&format!("{number:032x}"))?), request, received_at: now })
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
