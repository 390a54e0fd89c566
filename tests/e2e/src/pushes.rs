//! What tests say about pushes: the simulated providers, the agent's configuration for them, devices, and what arrived.

use std::path::PathBuf;

use anyhow::Context;
use elph_proto::v1::{self, push_service_client::PushServiceClient};
use push_sim::{Arrival, Device, Options, PushSim};
use serde_json::Value;
use tonic::transport::Channel;

use crate::{PATIENCE, Stack, StackOptions, request_id};

/// The bundle id of the simulated iPhone's application.
pub const BUNDLE: &str = "org.elph.phone";

/// Apple and Google, and their keys in files.
pub struct Providers {
    /// Both.
    pub sim: PushSim,
    /// Their keys: `apns.p8`, `firebase.json`, `vapid.pem`, and `ca.pem`.
    pub directory: PathBuf,
    _keep: tempfile::TempDir,
}

impl Providers {
    /// Starts them.
    pub async fn start() -> anyhow::Result<Self> {
        Self::with(Options::default()).await
    }

    /// Starts them as wanted.
    pub async fn with(options: Options) -> anyhow::Result<Self> {
        let sim = PushSim::start(options).await?;
        let keep = tempfile::tempdir()?;
        let directory = keep.path().to_owned();
        std::fs::write(directory.join("ca.pem"), sim.ca_pem())?;
        std::fs::write(directory.join("apns.p8"), &sim.team().p8)?;
        std::fs::write(directory.join("firebase.json"), sim.service_account_json())?;
        let vapid = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        std::fs::write(directory.join("vapid.pem"), vapid.serialize_pem())?;
        Ok(Self { sim, directory, _keep: keep })
    }

    /// The applications `ios`, `android` and `web`, as lines of the agent's configuration.
    pub fn apps(&self) -> String {
        let (team, addresses, dir) = (self.sim.team(), self.sim.addresses(), self.directory.display());
        format!(
            r#"
[[push.apps]]
name = "ios"
provider = "apns"
topic = "{BUNDLE}"
key_id = "{key}"
team_id = "{team}"
key_file = "{dir}/apns.p8"
ca_file = "{dir}/ca.pem"
endpoint = "{apns}"
[[push.apps]]
name = "android"
provider = "fcm"
service_account_file = "{dir}/firebase.json"
token_url = "{token_url}"
ca_file = "{dir}/ca.pem"
endpoint = "{fcm}"
[[push.apps]]
name = "web"
provider = "webpush"
key_file = "{dir}/vapid.pem"
vapid_subject = "mailto:noc@example.org"
endpoint_hosts = ["{web}"]
ca_file = "{dir}/ca.pem"
"#,
            key = team.key_id,
            team = team.team_id,
            apns = addresses.apns,
            fcm = addresses.fcm,
            token_url = self.sim.token_url(),
            web = addresses.web_push,
        )
    }

    /// A stack whose agent pushes calls, missed calls and invitations to them.
    pub async fn stack(&self) -> anyhow::Result<Stack> {
        self.stack_with("calls = true\nmissed_calls = true\nconferences = true\nring_time = \"30s\"\n").await
    }

    /// A stack whose agent pushes what these lines of `[[push.events]]` say.
    pub async fn stack_with(&self, events: &str) -> anyhow::Result<Stack> {
        let options = StackOptions::default();
        let extra = format!("{}\n{}\n[[push.events]]\ndomains = [\"*\"]\n{events}", options.extra, self.apps());
        Stack::start(StackOptions { extra, ..options }).await
    }

    /// The pushes that came, whatever was answered; not the requests for tokens.
    pub fn pushes(&self) -> Vec<Arrival> {
        self.sim.arrived().into_iter().filter(|arrival| !arrival.device.is_empty()).collect()
    }

    /// What a provider has taken, once it is as wanted.
    pub async fn taken(&self, what: &str, wanted: impl Fn(&[Arrival]) -> bool) -> anyhow::Result<Vec<Arrival>> {
        let accepted =
            |all: &[Arrival]| all.iter().filter(|arrival| arrival.is_accepted() && !arrival.device.is_empty()).cloned().collect::<Vec<_>>();
        let waited = self.sim.wait_for(PATIENCE, |all| wanted(&accepted(all))).await;
        Ok(accepted(&waited.with_context(|| what.to_owned())?))
    }
}

/// A token of APNs that is like no other.
pub fn apns_token(number: u64) -> String {
    format!("{number:064x}")
}

/// A registration token of FCM that is like no other.
pub fn fcm_token(number: u64) -> String {
    format!("fcm-{number:020}:APA91b{number:0120}")
}

/// `event` of a payload, whoever delivers it.
pub fn event(arrival: &Arrival) -> String {
    field(arrival, "event")
}

/// A field of a payload, whoever delivers it.
pub fn field(arrival: &Arrival, name: &str) -> String {
    let json = arrival.json();
    let found = json.get(name).or_else(|| json.pointer(&format!("/message/data/{name}")));
    found.and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Registers a device of the application `ios` or `android`, and tells its provider of the token.
pub async fn register(
    mut client: PushServiceClient<Channel>,
    providers: &Providers,
    domain: &str,
    alias: &str,
    app: &str,
    number: u64,
) -> anyhow::Result<v1::Device> {
    let (pn_provider, pn_prid) = match app {
        "ios" => ("apns", apns_token(number)),
        _ => ("fcm", fcm_token(number)),
    };
    providers.sim.add_device(match app {
        "ios" => Device::apns(pn_prid.clone()),
        _ => Device::fcm(pn_prid.clone()),
    });
    let request = v1::RegisterDeviceRequest {
        domain: domain.to_owned(),
        alias: alias.to_owned(),
        app: app.to_owned(),
        parameters: Some(v1::PushParameters { pn_provider: pn_provider.to_owned(), pn_prid, pn_param: String::new() }),
        label: format!("{app} {number}"),
        request_id: request_id(),
        ..Default::default()
    };
    client.register_device(request).await?.into_inner().device.context("an answer without a device")
}

impl Stack {
    /// Registers a device of the application `ios` or `android`, and tells its provider of the token.
    pub async fn device(&self, providers: &Providers, alias: &str, app: &str, number: u64) -> anyhow::Result<v1::Device> {
        register(self.push(), providers, self.domain(), alias, app, number).await
    }

    /// The states that a push went through.
    pub async fn life(&self, push_id: &str) -> anyhow::Result<Vec<v1::PushEvent>> {
        let request = v1::GetPushRequest { domain: self.domain().to_owned(), push_id: push_id.to_owned() };
        Ok(self.push().get_push(request).await?.into_inner().events)
    }
}
