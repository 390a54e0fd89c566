//! The directory: subscribers by pages, one subscriber read from the switch, rooms, and passwords that are checked and never repeated.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, ensure};
use e2e::{Stack, StackOptions, eventually, guard::Files, guard::grant, guard::own_grant, phones::reason};
use elph_proto::{
    reason::Reason,
    v1::{self, directory_service_client::DirectoryServiceClient},
};
use ssw_core::Regime;
use ssw_sim::SimOptions;
use tonic::{Code, Status};
use tonic_types::StatusExt;

fn options(aliases: u32, extra: &str) -> StackOptions {
    StackOptions {
        sim: SimOptions { aliases, ..SimOptions::default() },
        extra: format!("{}\n{extra}", StackOptions::default().extra),
        ..StackOptions::default()
    }
}

async fn page(stack: &Stack, prefix: &str, page_size: i32, token: &str) -> Result<v1::ListSubscribersResponse, Status> {
    let request = v1::ListSubscribersRequest {
        domain: stack.domain().to_owned(),
        alias_prefix: prefix.to_owned(),
        page_size,
        page_token: token.to_owned(),
    };
    stack.directory().list_subscribers(request).await.map(|answer| answer.into_inner())
}

/// Every page of a list: the aliases, and how many pages.
async fn all(stack: &Stack, prefix: &str, page_size: i32) -> anyhow::Result<(Vec<String>, usize)> {
    let (mut found, mut pages, mut token) = (Vec::new(), 0, String::new());
    loop {
        let answer = page(stack, prefix, page_size, &token).await?;
        pages += 1;
        found.extend(answer.subscribers.into_iter().map(|it| it.alias));
        token = answer.next_page_token;
        if token.is_empty() {
            return Ok((found, pages));
        }
    }
}

async fn known(stack: &Stack, count: u32) -> anyhow::Result<()> {
    let look = async || page(stack, "", 1, "").await.ok().filter(|answer| answer.total_size == count);
    eventually("all subscribers are known", look).await.map(drop)
}

#[tokio::test]
async fn thousands_of_subscribers_are_read_in_pages_in_order_without_one_missing_or_twice() -> anyhow::Result<()> {
    let stack = Stack::start(options(2500, "")).await?;
    known(&stack, 2500).await?;
    let wanted: Vec<String> = (1001..=3500).map(|number: u32| number.to_string()).collect();
    for (page_size, pages) in [(1000, 3), (0, 25), (999, 3), (700, 4)] {
        let (found, took) = all(&stack, "", page_size).await?;
        ensure!(found == wanted && took == pages, "{} in {took} pages of {page_size}", found.len());
    }
    // By the beginning of the alias.
    let first = page(&stack, "12", 30, "").await?;
    ensure!(first.total_size == 100 && first.subscribers.len() == 30, "{first:?}");
    let (found, _) = all(&stack, "12", 30).await?;
    ensure!(found == (1200..1300).map(|number: u32| number.to_string()).collect::<Vec<_>>(), "{found:?}");
    ensure!(all(&stack, "3500", 0).await?.0 == ["3500"]);
    for nobody in ["35000", "4", "x", "ж"] {
        let answer = page(&stack, nobody, 0, "").await?;
        ensure!(answer.subscribers.is_empty() && answer.total_size == 0 && answer.next_page_token.is_empty(), "{answer:?}");
    }
    let subscriber = first.subscribers.first().context("an empty page")?;
    ensure!(subscriber.domain == stack.domain() && !subscriber.interface.is_empty(), "{subscriber:?}");

    let domains = stack.directory().list_domains(v1::ListDomainsRequest {}).await?.into_inner().domains;
    let [domain] = domains.as_slice() else { anyhow::bail!("{domains:?}") };
    ensure!(domain.name == stack.domain() && domain.subscriber_count == 2500 && domain.subscribers_time.is_some(), "{domain:?}");
    stack.stop().await
}

async fn subscriber(stack: &Stack, alias: &str) -> Result<v1::GetSubscriberResponse, Status> {
    let request = v1::GetSubscriberRequest { domain: stack.domain().to_owned(), alias: alias.to_owned() };
    stack.directory().get_subscriber(request).await.map(|answer| answer.into_inner())
}

#[expect(clippy::print_stdout, reason = "the seed of a random run must be told")]
async fn one_subscriber(seed: u64) -> anyhow::Result<()> {
    println!("ssw-sim seed {seed}");
    let sim = SimOptions { seed: Some(seed), ..SimOptions::default() };
    let stack = Stack::start(StackOptions { sim, ..StackOptions::default() }).await?;
    let (domain, switch) = (stack.domain().to_owned(), stack.sim.switch());
    known(&stack, 100).await?;
    switch.register(&domain, "1005", "sip:1005@10.9.9.9:5070")?;
    switch.set_regime(&domain, "1005", Regime { name: "office".to_owned(), private_in: true, private_out: false })?;
    let found = subscriber(&stack, "1005").await?;
    ensure!(found.subscriber.as_ref().is_some_and(|it| it.alias == "1005" && it.domain == domain), "{found:?}");
    let addresses: BTreeSet<&str> = found.registrations.iter().map(|it| it.uri.as_str()).collect();
    let on_switch = switch.subscriber(&domain, "1005")?.registrations;
    ensure!(addresses == on_switch.iter().map(|it| it.uri.as_str()).collect() && addresses.len() == 2, "{found:?}");
    for it in &found.registrations {
        ensure!(!it.access_point.is_empty() && !it.via_host.is_empty(), "{it:?}");
        ensure!(it.expires.is_some_and(|granted| granted.seconds == 3600), "{it:?}");
        ensure!(it.time_left.is_some_and(|left| (3500..=3600).contains(&left.seconds)), "{it:?}");
    }
    let regime = found.regime.context("no regime")?;
    ensure!((regime.name.as_str(), regime.private_in, regime.private_out) == ("office", Some(true), Some(false)), "{regime:?}");
    ensure!(found.call_ids.is_empty());

    // The calls it has a leg in, and no longer once they are over.
    let call = stack.talk("1005", "1006").await?;
    ensure!(subscriber(&stack, "1005").await?.call_ids == std::slice::from_ref(&call.id));
    ensure!(subscriber(&stack, "1006").await?.call_ids == std::slice::from_ref(&call.id));
    switch.release_call(&domain, &call.switch_call_id)?;
    eventually("the call is over for the directory", async || subscriber(&stack, "1005").await.ok().filter(|it| it.call_ids.is_empty()))
        .await?;
    // Not registered, not there.
    switch.unregister(&domain, "1007", None)?;
    ensure!(subscriber(&stack, "1007").await?.registrations.is_empty());
    let unknown = subscriber(&stack, "9999").await.err().context("was answered")?;
    ensure!(Reason::of(&unknown) == Some(Reason::UnknownAlias), "{unknown:?}");

    let rooms = stack.directory().list_rooms(v1::ListRoomsRequest { domain: domain.clone() }).await?.into_inner().rooms;
    let rooms: Vec<(&str, &str)> = rooms.iter().map(|it| (it.name.as_str(), it.description.as_str())).collect();
    ensure!(rooms == [("800", "main hall"), ("801", "dispatchers")], "{rooms:?}");
    stack.stop().await
}

#[tokio::test]
async fn one_subscriber_has_registrations_regime_and_calls_as_on_the_switch() -> anyhow::Result<()> {
    one_subscriber(0).await
}

#[tokio::test]
async fn one_subscriber_has_registrations_regime_and_calls_in_the_dialect_of_a_random_seed() -> anyhow::Result<()> {
    one_subscriber(rand::random::<u64>() >> 32).await
}

#[tokio::test]
async fn what_the_switch_does_not_yet_know_when_the_agent_starts_is_read_later() -> anyhow::Result<()> {
    let stack = Stack::start(options(10, "[poll]\nsubscribers = \"1s\"\n")).await?;
    known(&stack, 10).await?;
    stack.sim.switch().declare_alias(stack.domain(), "dispatcher", false)?;
    known(&stack, 11).await?;
    ensure!(all(&stack, "disp", 0).await?.0 == ["dispatcher"]);
    stack.stop().await
}

async fn login(stack: &Stack, login: &str, password: &str) -> Result<String, Status> {
    let request =
        v1::AuthenticateSubscriberRequest { domain: stack.domain().to_owned(), login: login.to_owned(), password: password.to_owned() };
    stack.directory().authenticate_subscriber(request).await.map(|answer| answer.into_inner().alias)
}

/// Everything that a status says.
fn whole(status: &Status) -> (Code, String, Vec<u8>, usize) {
    (status.code(), status.message().to_owned(), status.details().to_vec(), status.metadata().keys().count())
}

#[expect(clippy::print_stdout, reason = "the seed of a random run must be told")]
async fn passwords(seed: u64) -> anyhow::Result<()> {
    println!("ssw-sim seed {seed}");
    let sim = SimOptions { seed: Some(seed), ..SimOptions::default() };
    let stack = Stack::start(StackOptions { sim, ..StackOptions::default() }).await?;
    stack.sim.switch().set_password(stack.domain(), "1002", "с пробелом & <знаками>")?;
    ensure!(login(&stack, "1001", "p1001").await? == "1001");
    ensure!(login(&stack, "1002", "с пробелом & <знаками>").await? == "1002");
    let wrong_password = login(&stack, "1001", "p1002").await.err().context("a wrong password was taken")?;
    let unknown_user = login(&stack, "9999", "p9999").await.err().context("an unknown user was taken")?;
    let odd_user = login(&stack, "no-such-user@elsewhere", "p").await.err().context("an unknown user was taken")?;
    ensure!(Reason::of(&wrong_password) == Some(Reason::CredentialsRejected), "{wrong_password:?}");
    ensure!(wrong_password.code() == Code::Unauthenticated);
    ensure!(whole(&wrong_password) == whole(&unknown_user), "{wrong_password:?} is not {unknown_user:?}");
    ensure!(whole(&wrong_password) == whole(&odd_user), "{wrong_password:?} is not {odd_user:?}");
    stack.stop().await
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_user_get_one_indistinguishable_answer() -> anyhow::Result<()> {
    passwords(0).await
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_user_get_one_answer_in_the_dialect_of_a_random_seed() -> anyhow::Result<()> {
    passwords(rand::random::<u64>() >> 32).await
}

/// When the next attempt may be made, of a refusal for too many.
fn retry_after(status: &Status) -> anyhow::Result<Duration> {
    ensure!(Reason::of(status) == Some(Reason::TooManyAttempts) && status.code() == Code::ResourceExhausted, "{status:?}");
    status.get_details_retry_info().and_then(|info| info.retry_delay).context("no retry delay")
}

#[tokio::test]
async fn attempts_are_limited_for_each_alias_known_or_not_and_for_each_caller() -> anyhow::Result<()> {
    let files = Files::new()?;
    let limits = "[limits]\nauthenticate_alias_per_minute = 3\nauthenticate_caller_per_minute = 20\n";
    let grants = [grant("other", &["*"], &["directory"], ""), own_grant(&["directory"])].concat();
    let stack = Stack::start(options(100, &format!("{}{limits}{grants}", files.config()))).await?;
    let mut refusals = Vec::new();
    for alias in ["1001", "9999"] {
        for _ in 0..3 {
            ensure!(login(&stack, alias, "guess").await.is_err_and(|status| Reason::of(&status) == Some(Reason::CredentialsRejected)));
        }
        refusals.push(login(&stack, alias, "guess").await.err().context("a fourth guess was taken")?);
    }
    for refusal in &refusals {
        let delay = retry_after(refusal)?;
        ensure!(delay > Duration::ZERO && delay <= Duration::from_secs(20), "{delay:?}");
    }
    let [known, unknown] = refusals.as_slice() else { anyhow::bail!("{refusals:?}") };
    ensure!((known.code(), known.message()) == (unknown.code(), unknown.message()), "which of them exists is not told");
    // The right password is no way around it, and another alias is not held up.
    retry_after(&login(&stack, "1001", "p1001").await.err().context("the limit was got around")?)?;
    ensure!(login(&stack, "1002", "p1002").await? == "1002");

    // All aliases together: another caller has attempts of its own.
    let mut taken = 0;
    let refused = loop {
        match login(&stack, &format!("{}", 1010 + taken), "guess").await {
            Err(status) if Reason::of(&status) == Some(Reason::TooManyAttempts) => break status,
            _ => taken += 1,
        }
        ensure!(taken <= 20, "a caller's attempts are not limited");
    };
    retry_after(&refused)?;
    ensure!((8..=14).contains(&taken), "{taken} more attempts");
    let channel = stack.tls_channel(&files.authority.pem, Some(&files.authority.sign("other.example")?))?;
    let request =
        v1::AuthenticateSubscriberRequest { domain: stack.domain().to_owned(), login: "1050".to_owned(), password: "p1050".to_owned() };
    ensure!(DirectoryServiceClient::new(channel).authenticate_subscriber(request).await?.into_inner().alias == "1050");
    let denied = stack.agent.metric("elph_agent_access_denied_total{reason=\"TOO_MANY_ATTEMPTS\"}").await?;
    ensure!(denied == Some(4.0), "{denied:?}");
    stack.stop().await
}

#[tokio::test]
async fn nothing_of_a_password_is_in_the_log_the_audit_the_metrics_or_any_file() -> anyhow::Result<()> {
    let files = Files::new()?;
    let extra = format!("{}[log]\nfilter = \"trace\"\n{}", files.config(), own_grant(&["directory"]));
    let stack = Stack::start(options(20, &extra)).await?;
    let secrets = ["Zebra-4711-right", "Zebra-4711-wrong", "Zebra-4711-nobody", "Zebra-4711-late"];
    stack.sim.switch().set_password(stack.domain(), "1001", secrets[0])?;
    login(&stack, "1001", secrets[0]).await?;
    ensure!(login(&stack, "1001", secrets[1]).await.is_err());
    ensure!(login(&stack, "9999", secrets[2]).await.is_err());
    // While the switch is gone, and while it answers nonsense.
    stack.sim.faults().set_node(0, false);
    let down = login(&stack, "1002", secrets[3]).await.err().context("was answered")?;
    ensure!(!format!("{down:?}").contains("Zebra"), "{down:?}");
    stack.sim.faults().set_node(0, true);
    stack.ready().await?;
    stack.sim.faults().next_messages(ssw_sim::Link::Terminal, 0, ssw_sim::MessageFault::Garbage, 1);
    let garbled = login(&stack, "1003", secrets[3]).await;
    ensure!(!format!("{garbled:?}").contains("Zebra"), "{garbled:?}");
    let (_, metrics) = stack.agent.get("/metrics").await?;
    ensure!(!metrics.contains("Zebra") && !metrics.contains("1001"), "in the metrics");
    let mut looked = 0;
    let mut directories = vec![stack.directory.clone()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.is_file() {
                let bytes = std::fs::read(&path)?;
                let found = bytes.windows(5).any(|window| window == b"Zebra");
                ensure!(!found, "in {}", path.display());
                looked += 1;
            }
        }
    }
    ensure!(looked >= 3, "{looked} files");
    let audit = std::fs::read_to_string(files.path("audit.jsonl"))?;
    ensure!(!audit.contains("Zebra"), "in the audit log");
    let refused = reason(stack.about().get_agent(v1::GetAgentRequest {}).await)?;
    ensure!(refused == Reason::MissingScope, "the grant of this test is for the directory alone");
    stack.stop().await
}
