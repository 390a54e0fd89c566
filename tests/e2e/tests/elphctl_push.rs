//! `elphctl push` against the real agent, with the simulated Apple and Google behind it.

use std::process::Stdio;

use anyhow::{Context, ensure};
use e2e::{
    PATIENCE, Stack, binary,
    pushes::{Providers, apns_token, fcm_token},
};
use push_sim::{Device, Effect, Fault, Provider};
use serde_json::Value;
use tokio::{io::AsyncReadExt, process::Command};

/// What a run left.
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

fn command(stack: &Stack, arguments: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(binary("elphctl")?);
    command.args(arguments).arg("--socket").arg(stack.directory.join("grpc.sock"));
    command.env_clear().env("TZ", "UTC").env("HOME", &stack.directory).stdin(Stdio::null()).kill_on_drop(true);
    Ok(command)
}

async fn run(stack: &Stack, arguments: &[&str]) -> anyhow::Result<Ran> {
    let ended = tokio::time::timeout(PATIENCE, command(stack, arguments)?.output()).await.context("elphctl did not end")??;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Ran { code: ended.status.code(), out: text(&ended.stdout), err: text(&ended.stderr) })
}

/// The object that a command which must succeed answers.
async fn json(stack: &Stack, arguments: &[&str]) -> anyhow::Result<Value> {
    let ran = run(stack, &[arguments, &["--json"]].concat()).await?;
    ensure!(ran.code == Some(0), "{arguments:?}: {}", ran.err);
    Ok(serde_json::from_str(&ran.out)?)
}

fn id(answer: &Value, pointer: &str) -> anyhow::Result<String> {
    Ok(answer.pointer(pointer).and_then(Value::as_str).with_context(|| format!("no {pointer} in {answer}"))?.to_owned())
}

#[tokio::test]
async fn a_device_is_registered_tested_and_unregistered_from_the_command_line() -> anyhow::Result<()> {
    let providers = Providers::start().await?;
    let stack = providers.stack().await?;
    let domain = stack.domain().to_owned();
    let domain = ["--domain", domain.as_str()];
    let with = |arguments: &[&'static str], more: &[&str]| -> Vec<String> {
        arguments.iter().chain(more).chain(&domain).map(|argument| (*argument).to_owned()).collect()
    };
    let go = async |arguments: Vec<String>| json(&stack, &arguments.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let look = async |arguments: Vec<String>| run(&stack, &arguments.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let apps = json(&stack, &["push", "apps"]).await?;
    ensure!(apps["apps"][0]["name"] == "android" && apps["apps"][1]["provider"] == "PUSH_PROVIDER_APNS", "{apps}");

    // As the application's name and a token, and as a SIP contact has it.
    let (iphone, android) = (apns_token(1), fcm_token(2));
    providers.sim.add_device(Device::apns(iphone.clone()));
    providers.sim.add_device(Device::fcm(android.clone()));
    let answer = go(with(&["push", "register", "1001", "--app", "ios", "--label", "iPhone", "--token"], &[&iphone])).await?;
    let iphone_id = id(&answer, "/device/id")?;
    let contact = format!("<sip:1001@10.0.0.7;pn-provider=fcm;pn-prid={}>", android.replace(':', "%3A"));
    let answer = go(with(&["push", "register", "1001", "--pn"], &[&contact])).await?;
    ensure!(answer["device"]["app"] == "android" && answer["device"]["wantsCalls"] == true, "{answer}");
    let devices = go(with(&["push", "devices", "1001"], &[])).await?;
    ensure!(devices["devices"].as_array().is_some_and(|all| all.len() == 2) && !devices.to_string().contains(&iphone), "{devices}");

    // Apple's word, and what it means.
    let ran = look(with(&["push", "test"], &[&iphone_id])).await?;
    ensure!(ran.code == Some(0) && ran.out.starts_with("accepted in "), "{} {}", ran.out, ran.err);
    providers.sim.fault(Fault::new(Provider::Apns, Effect::answer(400, "DeviceTokenNotForTopic")).times(1));
    let ran = look(with(&["push", "test"], &[&iphone_id])).await?;
    ensure!(matches!(ran.code, Some(1)) && ran.out.contains("DeviceTokenNotForTopic"), "{:?} {} {}", ran.code, ran.out, ran.err);
    ensure!(ran.out.contains("compare push.apps.topic with the application's bundle id"), "{}", ran.out);

    let answer = look(with(&["push", "unregister", "--app", "android", "--token"], &[&android])).await?;
    ensure!(answer.code == Some(0) && answer.out.starts_with("unregistered\n"), "{} {}", answer.out, answer.err);
    stack.stop().await
}

#[tokio::test]
async fn what_is_sent_is_watched_and_logged_and_a_list_sent_again_reaches_nobody_twice() -> anyhow::Result<()> {
    let providers = Providers::start().await?;
    let stack = providers.stack().await?;
    let domain = stack.domain().to_owned();
    let mut ids = Vec::new();
    for number in 0..20_u64 {
        ids.push(stack.device(&providers, &format!("{}", 1001 + number), "ios", number).await?.id);
    }
    let mut watch = command(&stack, &["push", "watch", "--final", "--json", "-n", "1"])?.stdout(Stdio::piped()).spawn()?;
    let mut watched = watch.stdout.take().context("no output")?;
    // It is in place once a step that came after it began is told: one push may come too early, the next one does not.
    let mut line = String::new();
    let mut push = String::new();
    let told = async {
        let reading = watched.read_to_string(&mut line);
        let mut reading = std::pin::pin!(reading);
        loop {
            let arguments = ["push", "send", "--device", &ids[0], "--title", "Hello", "--data", "event=note", "--domain", &domain];
            push = id(&json(&stack, &arguments).await?, "/pushes/0/pushId")?;
            if let Ok(read) = tokio::time::timeout(std::time::Duration::from_millis(500), &mut reading).await {
                read?;
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(PATIENCE, told).await.context("nothing was watched")??;
    let event: Value = serde_json::from_str(line.lines().next().context("no line")?)?;
    ensure!(event["event"]["state"] == "PUSH_STATE_ACCEPTED", "{event}");
    let watched = id(&event, "/event/pushId")?;
    let log = run(&stack, &["push", "log", &watched, "--domain", &domain]).await?;
    ensure!(log.code == Some(0) && log.out.contains(" accepted "), "{} {}", log.out, log.err);
    let deliveries = run(&stack, &["push", "deliveries", &ids[0], "--domain", &domain]).await?;
    ensure!(deliveries.out.contains(&watched), "{}", deliveries.out);
    let late = run(&stack, &["push", "cancel", &watched, "--domain", &domain]).await?;
    ensure!(late.code == Some(1) && late.err.starts_with("elphctl: too late: it is accepted"), "{}", late.err);

    let list = stack.directory.join("aliases.csv");
    std::fs::write(&list, (0..25).map(|number| format!("{}\n", 1001 + number)).collect::<String>())?;
    let list = list.display().to_string();
    let arguments = ["push", "send-many", &list, "--body", "to all", "--collapse-key", "all", "--request-id", "once", "--domain", &domain];
    for round in 0..2 {
        let ran = run(&stack, &arguments).await?;
        ensure!(ran.code == Some(0), "{round}: {} {}", ran.out, ran.err);
        ensure!(ran.out == "25 of 25 orders answered: 20 pushes taken on, 5 without a device\n", "{round}: {}", ran.out);
    }
    let to_all = |all: &[push_sim::Arrival]| all.iter().filter(|arrival| arrival.json().to_string().contains("to all")).count();
    providers.taken("all have it", |all| to_all(all) >= 20).await?;
    // Whatever was sent after the repetition would have come before this.
    let last = id(&json(&stack, &["push", "test", &ids[1], "--domain", &domain]).await?, "/pushId")?;
    let all = providers.taken("the last one", |all| all.iter().any(|arrival| arrival.header("apns-id") == Some(last.as_str()))).await?;
    ensure!(to_all(&all) == 20, "{} of 20", to_all(&all));
    stack.stop().await
}
