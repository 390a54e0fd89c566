//! Several copies of the suite's server over one PostgreSQL and one RabbitMQ: they show the same, also after one of them or RabbitMQ was
//! killed.

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::{
    Stack, StackOptions,
    suite::{Live, Suite},
};
use elph_kit_testing::{TestBroker, TestDatabase};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

const WATCH: &str = "/elph_status/v1/watch";
const ME: &str = "/elph_status/v1/me";
/// How long a copy that is silent is believed, and some time for a busy machine.
const SILENT: Duration = Duration::from_secs(60);

/// Two copies, with what they share.
struct Copies {
    stack: Stack,
    broker: TestBroker,
    _place: TestDatabase,
    domain: String,
    more: String,
    one: Suite,
    two: Suite,
}

impl Copies {
    /// None: PostgreSQL or RabbitMQ is not installed.
    async fn start() -> anyhow::Result<Option<Self>> {
        let Some(broker) = TestBroker::start().await? else { return Ok(None) };
        let Some(place) = TestDatabase::both().await?.into_iter().find(|place| place.name == "postgres") else { return Ok(None) };
        let stack = Stack::start(StackOptions::default()).await?;
        let domain = stack.domain().to_owned();
        let (user, rest) = broker.settings.url.as_deref().context("no address")?.split_once("guest@").context("no password")?;
        let password = stack.directory.join("bus-password");
        std::fs::write(&password, "guest\n")?;
        let more = format!(
            "[database]\nurl = \"{}\"\n[bus]\nurl = \"{}@{rest}\"\npassword_file = \"{}\"\n",
            place.settings.url,
            user.trim_end_matches(':'),
            password.display()
        );
        let one = Suite::start(&stack, &[&domain], &more).await?;
        let two = Suite::start(&stack, &[&domain], &more).await?;
        Ok(Some(Self { stack, broker, _place: place, domain, more, one, two }))
    }

    async fn stop(self) -> anyhow::Result<()> {
        let Self { stack, mut one, mut two, .. } = self;
        for suite in [&mut one, &mut two] {
            suite.end(Signal::SIGTERM).await?;
        }
        stack.stop().await
    }

    async fn status(&self, suite: &Suite, alias: &str) -> anyhow::Result<Value> {
        Ok(suite.ask((&self.domain, "1009"), "GET", &format!("/elph_status/v1/users/{alias}"), None).await?.1)
    }

    async fn socket(&self, suite: &Suite, alias: &str) -> anyhow::Result<Live> {
        suite.live(WATCH, &suite.token(&self.domain, alias, &json!({}))?).await
    }

    async fn device(&self, suite: &Suite, alias: &str, id: &str, availability: &str) -> anyhow::Result<Live> {
        let mut live = self.socket(suite, alias).await?;
        live.say(&json!({ "type": "device", "id": id, "availability": availability })).await?;
        Ok(live)
    }
}

async fn shown(copies: &Copies, suite: &Suite, alias: &str, state: &str) -> anyhow::Result<Value> {
    let began = Instant::now();
    loop {
        let status = copies.status(suite, alias).await?;
        if status.get("state").and_then(Value::as_str) == Some(state) {
            return Ok(status);
        }
        ensure!(began.elapsed() < SILENT, "{alias} is not shown as {state}: {status}");
        sleep(Duration::from_millis(30)).await;
    }
}

#[tokio::test]
async fn what_happens_at_one_copy_is_seen_at_the_other_and_devices_are_merged_over_both() -> anyhow::Result<()> {
    let Some(copies) = Copies::start().await? else { return Ok(()) };
    let Copies { one, two, domain, .. } = &copies;
    let mut watcher = copies.socket(two, "1002").await?;
    watcher.say(&json!({ "type": "watch", "aliases": ["1001"] })).await?;
    watcher.until("1001", "offline").await?;
    let me = (domain.as_str(), "1001");
    one.ask(me, "PUT", &format!("{ME}/choice"), Some(json!({ "choice": "do_not_disturb" }))).await?;
    watcher.until("1001", "do_not_disturb").await?;
    one.ask(me, "PUT", &format!("{ME}/choice"), Some(json!({ "choice": "auto" }))).await?;
    watcher.until("1001", "offline").await?;

    let phone = copies.device(one, "1001", "phone", "idle").await?;
    watcher.until("1001", "away").await?;
    let desk = copies.device(two, "1001", "desk", "active").await?;
    watcher.until("1001", "online").await?;
    shown(&copies, one, "1001", "online").await?;
    let (_, own) = one.ask(me, "GET", ME, None).await?;
    ensure!(own["devices"] == json!({ "phone": "idle", "desk": "active" }), "{own}");
    // The phone comes back through the other copy; the first has not noticed that it has left.
    let again = copies.device(two, "1001", "phone", "active").await?;
    drop(desk);
    drop(phone);
    shown(&copies, one, "1001", "online").await?;
    let before = jiff::Timestamp::now();
    drop(again);
    // Each has seen one of the devices leave; which was the last they tell each other.
    let agreed = async || {
        let (here, there) = (shown(&copies, one, "1001", "offline").await.ok()?, shown(&copies, two, "1001", "offline").await.ok()?);
        (here["last_seen"] == there["last_seen"]).then_some(here)
    };
    let here = e2e::eventually("both copies know when the last device left", agreed).await?;
    let seen: jiff::Timestamp = here["last_seen"].as_str().context("never seen")?.parse()?;
    ensure!(before.duration_since(seen).as_secs() < 30, "{seen}");

    // A device that is kept by requests: each may come to another copy.
    let device = format!("{ME}/devices/browser");
    one.ask(me, "PUT", &device, Some(json!({ "availability": "active" }))).await?;
    shown(&copies, two, "1001", "online").await?;
    two.ask(me, "PUT", &device, Some(json!({ "availability": "idle" }))).await?;
    shown(&copies, one, "1001", "away").await?;
    one.ask(me, "DELETE", &device, None).await?;
    shown(&copies, two, "1001", "offline").await?;
    shown(&copies, one, "1001", "offline").await?;

    // A third copy learns from the others who is there.
    let _phone = copies.device(one, "1003", "phone", "active").await?;
    let _desk = copies.device(two, "1004", "desk", "idle").await?;
    let mut three = Suite::start(&copies.stack, &[domain], &copies.more).await?;
    shown(&copies, &three, "1003", "online").await?;
    shown(&copies, &three, "1004", "away").await?;
    three.end(Signal::SIGTERM).await?;
    copies.stop().await
}

#[tokio::test]
async fn two_copies_that_change_one_person_at_once_lose_neither_change() -> anyhow::Result<()> {
    let Some(copies) = Copies::start().await? else { return Ok(()) };
    let Copies { one, two, domain, .. } = &copies;
    let me = (domain.as_str(), "1001");
    for number in 0..30 {
        let (choice, note) = (format!("{ME}/choice"), format!("{ME}/note"));
        let wanted = if number % 2 == 0 { "away" } else { "invisible" };
        let text = number.to_string();
        let (chosen, noted) = tokio::try_join!(
            one.ask(me, "PUT", &choice, Some(json!({ "choice": wanted }))),
            two.ask(me, "PUT", &note, Some(json!({ "text": text }))),
        )?;
        ensure!(chosen.0 == 200 && noted.0 == 200, "{chosen:?} {noted:?}");
        for suite in [one, two] {
            let began = Instant::now();
            loop {
                let (_, seen) = suite.ask(me, "GET", ME, None).await?;
                if seen["choice"] == wanted && seen["status"]["note"]["text"] == text.as_str() {
                    break;
                }
                ensure!(began.elapsed() < SILENT, "{number}: {seen}");
                sleep(Duration::from_millis(10)).await;
            }
        }
    }
    copies.stop().await
}

#[tokio::test]
async fn a_copy_that_is_killed_takes_its_devices_with_it_and_calls_stay() -> anyhow::Result<()> {
    let Some(mut copies) = Copies::start().await? else { return Ok(()) };
    let aliases = copies.stack.sim.switch().aliases(&copies.domain, 0, 2)?;
    let _phone = copies.device(&copies.one, "1005", "phone", "active").await?;
    let _desk = copies.device(&copies.two, "1006", "desk", "active").await?;
    let call = copies.stack.talk(&aliases[0], &aliases[1]).await?;
    for suite in [&copies.one, &copies.two] {
        shown(&copies, suite, "1005", "online").await?;
        shown(&copies, suite, "1006", "online").await?;
        shown(&copies, suite, &aliases[0], "in_call").await?;
    }
    let killed = Instant::now();
    copies.one.end(Signal::SIGKILL).await?;
    let gone = shown(&copies, &copies.two, "1005", "offline").await?;
    ensure!(killed.elapsed() > Duration::from_secs(8), "it was not given the time that is stated");
    ensure!(gone["last_seen"].is_string(), "{gone}");
    ensure!(copies.status(&copies.two, "1006").await?["state"] == "online");
    ensure!(copies.status(&copies.two, &aliases[0]).await?["state"] == "in_call");
    // It comes back and learns who is there.
    copies.one.again().await?;
    shown(&copies, &copies.one, "1006", "online").await?;
    let again = shown(&copies, &copies.one, "1005", "offline").await?;
    ensure!(again["last_seen"] == gone["last_seen"], "{again} {gone}");
    copies.stack.sim.switch().release_call(&copies.domain, &call.switch_call_id)?;
    copies.stop().await
}

#[tokio::test]
async fn after_rabbitmq_was_killed_and_is_back_all_copies_show_the_same_and_nothing_is_lost() -> anyhow::Result<()> {
    let Some(mut copies) = Copies::start().await? else { return Ok(()) };
    let phone = copies.device(&copies.one, "1001", "phone", "active").await?;
    shown(&copies, &copies.two, "1001", "online").await?;
    copies.broker.kill().await?;
    let ready = async |suite: &Suite| anyhow::Ok(suite.inside("/readyz").await?);
    for suite in [&copies.one, &copies.two] {
        let began = Instant::now();
        loop {
            let (status, text) = ready(suite).await?;
            if status == 503 && text.contains("bus: ") {
                break;
            }
            ensure!(began.elapsed() < SILENT, "{status} {text}");
            sleep(Duration::from_millis(30)).await;
        }
    }
    // Meanwhile everything goes on, at each copy for itself.
    drop(phone);
    let _desk = copies.device(&copies.one, "1002", "desk", "active").await?;
    for number in 0..20 {
        let who = format!("{}", 1010 + number);
        let suite = if number % 2 == 0 { &copies.one } else { &copies.two };
        let (status, _) = suite.ask((&copies.domain, &who), "PUT", &format!("{ME}/note"), Some(json!({ "text": "kept" }))).await?;
        ensure!(status == 200, "{status}");
    }
    copies.broker.resume().await?;
    shown(&copies, &copies.two, "1002", "online").await?;
    shown(&copies, &copies.two, "1001", "offline").await?;
    for suite in [&copies.one, &copies.two] {
        let began = Instant::now();
        loop {
            let mut kept = 0;
            for number in 0..20 {
                let status = copies.status(suite, &format!("{}", 1010 + number)).await?;
                kept += usize::from(status["note"]["text"] == "kept");
            }
            let (status, reasons) = ready(suite).await?;
            if kept == 20 && status == 200 {
                break;
            }
            ensure!(began.elapsed() < SILENT, "{kept} of 20, {reasons}");
            sleep(Duration::from_millis(50)).await;
        }
    }
    ensure!(!copies.one.log().contains("guest:guest"), "no password gets into the log");
    copies.stop().await
}
