//! Pushes end to end: the simulated switch rings, the real agent decides, and the simulated Apple and Google get it. And `PushService`.

use std::collections::{HashMap, HashSet};

use anyhow::{Context, ensure};
use e2e::{
    PATIENCE, Stack, eventually,
    phones::reason,
    pushes::{Providers, apns_token, event, field},
    request_id,
};
use elph_proto::{reason::Reason, v1};
use nix::sys::signal::Signal;
use push_sim::{Arrival, DeviceState, Effect, Fault, Provider};
use rand::{Rng, SeedableRng, rngs::StdRng};

fn of(arrivals: &[Arrival], provider: Provider) -> Vec<String> {
    arrivals.iter().filter(|arrival| arrival.provider == provider).map(event).collect()
}

/// Until the agent is connected with the switch and phones are known.
fn two_phones(stack: &Stack) -> anyhow::Result<[String; 2]> {
    let aliases = stack.sim.switch().aliases(stack.domain(), 0, 2)?;
    aliases.try_into().map_err(|_| anyhow::anyhow!("the switch has no two aliases"))
}

#[tokio::test]
async fn a_ringing_call_rings_the_iphone_and_the_android_and_both_are_told_when_it_is_answered_elsewhere() -> anyhow::Result<()> {
    let providers = Providers::start().await?;
    let stack = providers.stack().await?;
    let [caller, called] = two_phones(&stack)?;
    stack.device(&providers, &called, "ios", 1).await?;
    stack.device(&providers, &called, "android", 2).await?;
    let dialled = stack.sim.switch().dial(stack.domain(), &caller, &called)?;
    let rung = providers.taken("both ring", |all| all.len() >= 2).await?;
    let call = stack.found(&dialled.call, |_| true).await?;
    for arrival in &rung {
        assert_eq!(
            (event(arrival).as_str(), field(arrival, "call_id"), field(arrival, "caller")),
            ("call", call.id.clone(), caller.clone())
        );
    }
    let apns = rung.iter().find(|arrival| arrival.provider == Provider::Apns).context("no push at Apple")?;
    let header = |name: &str| apns.header(name).unwrap_or_default().to_owned();
    assert_eq!(header("apns-topic"), format!("{}.voip", e2e::pushes::BUNDLE));
    assert_eq!(
        (header("apns-push-type"), header("apns-priority"), header("apns-collapse-id")),
        ("voip".into(), "10".into(), call.id.clone())
    );
    let expires: i64 = header("apns-expiration").parse()?;
    assert!((1..=31).contains(&(expires - jiff::Timestamp::now().as_second())), "{expires}");
    let fcm = rung.iter().find(|arrival| arrival.provider == Provider::Fcm).context("no push at Google")?.json();
    let ttl: f64 = fcm["message"]["android"]["ttl"].as_str().unwrap().trim_end_matches('s').parse()?;
    assert!(
        fcm["message"]["android"]["priority"].as_str().is_some_and(|it| it.eq_ignore_ascii_case("high")) && ttl > 0.0 && ttl <= 31.0,
        "{fcm}"
    );

    stack.sim.switch().device_answer(stack.domain(), &called)?;
    let all = providers.taken("both are told", |all| all.len() >= 4).await?;
    for provider in [Provider::Apns, Provider::Fcm] {
        assert_eq!(of(&all, provider), ["call", "cancel"]);
    }
    let cancel = all.iter().rfind(|arrival| event(arrival) == "cancel").unwrap();
    assert_eq!((field(cancel, "reason").as_str(), field(cancel, "call_id")), ("answered_elsewhere", call.id));
    // Nobody missed it.
    stack.sim.switch().release_call(stack.domain(), &dialled.call)?;
    stack.found(&dialled.call, |call| call.state() == v1::CallState::Ended).await?;
    assert_eq!(providers.taken("nothing more", |_| true).await?.len(), 4);
    stack.stop().await
}

#[tokio::test]
async fn trial_16_a_caller_who_gives_up_stops_the_ringing_and_the_call_is_missed() -> anyhow::Result<()> {
    let providers = Providers::start().await?;
    let stack = providers.stack().await?;
    let [caller, called] = two_phones(&stack)?;
    stack.device(&providers, &called, "ios", 1).await?;
    let dialled = stack.sim.switch().dial(stack.domain(), &caller, &called)?;
    providers.taken("it rings", |all| !all.is_empty()).await?;
    stack.sim.switch().release_call(stack.domain(), &dialled.call)?;
    let all = providers.taken("it rings no more", |all| all.len() >= 3).await?;
    let mut events = of(&all, Provider::Apns);
    events[1..].sort();
    assert_eq!(events, ["call", "cancel", "missed_call"]);
    let missed = all.iter().find(|arrival| event(arrival) == "missed_call").unwrap();
    assert_eq!(missed.header("apns-push-type"), Some("alert"));
    assert_eq!(missed.header("apns-topic"), Some(e2e::pushes::BUNDLE));
    stack.stop().await
}

#[tokio::test]
async fn trial_16_a_device_that_registers_while_a_call_rings_is_rung_and_the_others_are_not_told_twice() -> anyhow::Result<()> {
    let providers = Providers::start().await?;
    let stack = providers.stack().await?;
    let [caller, called] = two_phones(&stack)?;
    stack.device(&providers, &called, "ios", 1).await?;
    let dialled = stack.sim.switch().dial(stack.domain(), &caller, &called)?;
    providers.taken("the first rings", |all| !all.is_empty()).await?;
    stack.device(&providers, &called, "android", 2).await?;
    providers.taken("the second rings", |all| all.len() >= 2).await?;
    stack.sim.switch().device_answer(stack.domain(), &called)?;
    let all = providers.taken("both are told", |all| all.len() >= 4).await?;
    for provider in [Provider::Apns, Provider::Fcm] {
        assert_eq!(of(&all, provider), ["call", "cancel"]);
    }
    // Nothing rings any more.
    stack.device(&providers, &called, "android", 3).await?;
    stack.sim.switch().release_call(stack.domain(), &dialled.call)?;
    stack.found(&dialled.call, |call| call.state() == v1::CallState::Ended).await?;
    assert_eq!(providers.taken("nothing more", |_| true).await?.len(), 4);
    stack.stop().await
}

#[tokio::test]
async fn trial_16_a_missed_call_does_not_replace_the_cancel_that_still_waits() -> anyhow::Result<()> {
    let providers = Providers::start().await?;
    let stack = providers.stack().await?;
    let [caller, called] = two_phones(&stack)?;
    let device = stack.device(&providers, &called, "android", 1).await?;
    let dialled = stack.sim.switch().dial(stack.domain(), &caller, &called)?;
    providers.taken("it rings", |all| !all.is_empty()).await?;
    // The cancel is refused for now: it waits for its next attempt while the missed call comes.
    providers.sim.fault(Fault::new(Provider::Fcm, Effect::answer(503, "UNAVAILABLE")));
    stack.sim.switch().release_call(stack.domain(), &dialled.call)?;
    let retried = || async {
        let request = v1::ListDeviceDeliveriesRequest { domain: stack.domain().to_owned(), device_id: device.id.clone(), page_size: 0 };
        let events = stack.push().list_device_deliveries(request).await.ok()?.into_inner().events;
        let pushes: HashSet<_> = events.iter().filter(|it| it.state() == v1::PushState::Stored).map(|it| it.push_id.clone()).collect();
        let retried = events.into_iter().find(|it| it.state() == v1::PushState::Retried);
        retried.filter(|_| pushes.len() == 3)
    };
    let retried = eventually("all three are stored and one was refused", retried).await?;
    let seconds = |time: Option<&prost_types::Timestamp>| time.map(|time| (time.seconds, time.nanos));
    assert!(seconds(retried.retry_time.as_ref()) > seconds(retried.time.as_ref()), "{retried:?}");
    let apps = stack.push().list_apps(v1::ListAppsRequest::default()).await?.into_inner().apps;
    assert!(apps.iter().all(|app| (app.waiting > 0) == app.oldest_waiting_time.is_some() && (app.waiting == 0 || app.name == "android")));
    providers.sim.clear_faults();
    let accepted = |all: &[Arrival]| all.iter().filter(|it| it.is_accepted()).map(event).collect::<HashSet<_>>();
    let all = providers.taken("all three arrive", |all| accepted(all).len() == 3).await?;
    assert_eq!(accepted(&all), ["call", "cancel", "missed_call"].map(str::to_owned).into());
    stack.stop().await
}

#[tokio::test]
async fn trial_15_a_call_that_ends_while_the_provider_is_down_is_never_pushed() -> anyhow::Result<()> {
    let providers = Providers::start().await?;
    let stack = providers.stack_with("calls = true\n").await?;
    let [caller, called] = two_phones(&stack)?;
    let device = stack.device(&providers, &called, "ios", 1).await?;
    providers.sim.fault(Fault::new(Provider::Apns, Effect::answer(503, "ServiceUnavailable")));
    let dialled = stack.sim.switch().dial(stack.domain(), &caller, &called)?;
    eventually("it was tried", || async { (!providers.pushes().is_empty()).then_some(()) }).await?;
    stack.sim.switch().release_call(stack.domain(), &dialled.call)?;
    let deliveries = || async {
        let request = v1::ListDeviceDeliveriesRequest { domain: stack.domain().to_owned(), device_id: device.id.clone(), page_size: 0 };
        let events = stack.push().list_device_deliveries(request).await.ok()?.into_inner().events;
        events.iter().any(|event| event.state() == v1::PushState::Dropped).then_some(events)
    };
    eventually("the push was dropped", deliveries).await?;
    providers.sim.clear_faults();
    assert!(providers.pushes().iter().all(|arrival| !arrival.is_accepted()));
    stack.stop().await
}

#[tokio::test]
async fn trial_12_pushes_that_were_taken_on_survive_a_crash_of_the_agent() -> anyhow::Result<()> {
    let providers = Providers::start().await?;
    let mut stack = providers.stack_with("calls = false\n").await?;
    let [_, alias] = two_phones(&stack)?;
    stack.device(&providers, &alias, "ios", 1).await?;
    providers.sim.fault(Fault::new(Provider::Apns, Effect::answer(503, "ServiceUnavailable")));
    let request = message(stack.domain(), &alias, "survives");
    let accepted = stack.push().send_push(request.clone()).await?.into_inner().pushes;
    ensure!(accepted.len() == 1, "{accepted:?}");
    stack.crash_agent().await?;
    providers.sim.clear_faults();
    let all = providers.taken("it arrives", |all| !all.is_empty()).await?;
    assert_eq!(field(&all[0], "push_id"), accepted[0].push_id);
    // The same request again is the same push.
    assert_eq!(stack.push().send_push(request).await?.into_inner().pushes, accepted);
    let life = async || stack.life(&accepted[0].push_id).await.ok().filter(|it| it.iter().any(|it| it.state() == v1::PushState::Accepted));
    eventually("its life is told", life).await?;
    stack.stop().await
}

fn message(domain: &str, alias: &str, body: &str) -> v1::SendPushRequest {
    v1::SendPushRequest {
        domain: domain.to_owned(),
        order: Some(v1::PushOrder {
            target: Some(v1::push_order::Target::User(v1::PushUser { alias: alias.to_owned(), apps: Vec::new() })),
            content: Some(v1::PushContent {
                title: "Title".to_owned(),
                body: body.to_owned(),
                data: HashMap::from([("room".to_owned(), "7".to_owned())]),
                ..Default::default()
            }),
            ..Default::default()
        }),
        request_id: request_id(),
    }
}

#[tokio::test]
async fn trial_20_a_token_that_is_gone_is_removed_and_one_registered_again_later_stays() -> anyhow::Result<()> {
    let providers = Providers::start().await?;
    let stack = providers.stack_with("calls = false\n").await?;
    let [_, alias] = two_phones(&stack)?;
    stack.device(&providers, &alias, "ios", 1).await?;
    let list = || async {
        let request = v1::ListDevicesRequest { domain: stack.domain().to_owned(), alias: alias.clone(), ..Default::default() };
        Ok::<_, tonic::Status>(stack.push().list_devices(request).await?.into_inner().devices)
    };
    let gone = |at| providers.sim.set_device_state(Provider::Apns, &apns_token(1), DeviceState::Unregistered { since_ms: at });
    // Found gone an hour before it was registered: another installation of long ago.
    gone(jiff::Timestamp::now().as_millisecond() - 3_600_000);
    stack.push().send_push(message(stack.domain(), &alias, "kept")).await?;
    eventually("Apple was asked", || async { (!providers.pushes().is_empty()).then_some(()) }).await?;
    assert_eq!(list().await?.len(), 1);
    gone(jiff::Timestamp::now().as_millisecond() + 60_000);
    stack.push().send_push(message(stack.domain(), &alias, "gone")).await?;
    eventually("the device is removed", || async { list().await.ok()?.is_empty().then_some(()) }).await?;
    let nobody = stack.push().send_push(message(stack.domain(), &alias, "nobody")).await?.into_inner();
    assert!(nobody.pushes.is_empty());
    // Whoever has a token can send to it: the log has its end.
    let log = stack.agent.log();
    assert!(log.contains("device is gone") && log.contains("…000001") && !log.contains(&apns_token(1)), "{log}");
    stack.stop().await
}

#[tokio::test]
async fn trial_13_a_provider_that_is_down_holds_up_nobody_else() -> anyhow::Result<()> {
    let providers = Providers::start().await?;
    let stack = providers.stack_with("calls = false\n").await?;
    let [_, alias] = two_phones(&stack)?;
    stack.device(&providers, &alias, "ios", 1).await?;
    stack.device(&providers, &alias, "android", 2).await?;
    providers.sim.fault(Fault::new(Provider::Fcm, Effect::HtmlBadGateway));
    for number in 0..20 {
        stack.push().send_push(message(stack.domain(), &alias, &format!("{number}"))).await?;
    }
    let taken = providers.taken("Apple has them all", |all| of(all, Provider::Apns).len() >= 20).await?;
    assert!(of(&taken, Provider::Fcm).is_empty());
    providers.sim.clear_faults();
    providers.taken("Google has them all", |all| of(all, Provider::Fcm).len() >= 20).await?;
    stack.stop().await
}

#[tokio::test]
async fn a_test_push_says_in_words_what_the_provider_answered() -> anyhow::Result<()> {
    let providers = Providers::start().await?;
    let stack = providers.stack_with("calls = false\n").await?;
    let [_, alias] = two_phones(&stack)?;
    let device = stack.device(&providers, &alias, "ios", 1).await?;
    let test = |as_call| {
        let request =
            v1::TestDeviceRequest { domain: stack.domain().to_owned(), device_id: device.id.clone(), as_call, request_id: request_id() };
        let mut client = stack.push();
        async move { client.test_device(request).await }
    };
    let good = test(true).await?.into_inner();
    assert_eq!((good.state(), good.reason.as_str()), (v1::PushState::Accepted, ""));
    assert_eq!(providers.pushes().last().and_then(|it| it.header("apns-push-type").map(str::to_owned)).as_deref(), Some("voip"));
    providers.sim.fault(Fault::new(Provider::Apns, Effect::answer(400, "DeviceTokenNotForTopic")));
    let bad = test(false).await?.into_inner();
    providers.sim.clear_faults();
    let mut location = message(stack.domain(), &alias, "");
    let order = location.order.as_mut().context("no order")?;
    order.content =
        Some(v1::PushContent { apns_payload: r#"{"aps":{}}"#.to_owned(), apns_push_type: "location".to_owned(), ..Default::default() });
    stack.push().send_push(location).await?;
    let typed = |all: &[Arrival]| all.iter().any(|it| it.header("apns-topic") == Some("org.elph.phone.location-query"));
    providers.taken("a push of another type", typed).await?;
    assert_eq!((bad.state(), bad.reason.as_str()), (v1::PushState::Failed, "DeviceTokenNotForTopic"));
    assert!(bad.explanation.contains("bundle id"), "{}", bad.explanation);
    stack.stop().await
}

#[tokio::test]
async fn two_tenants_never_see_each_others_devices_and_pushes() -> anyhow::Result<()> {
    let providers = Providers::start().await?;
    let stack = providers.stack_with("calls = false\n").await?;
    let [_, alias] = two_phones(&stack)?;
    let device = stack.device(&providers, &alias, "ios", 1).await?;
    let accepted = stack.push().send_push(message(stack.domain(), &alias, "mine")).await?.into_inner().pushes;
    let other = "other.local".to_owned();
    let unknown = stack.push().list_devices(v1::ListDevicesRequest { domain: other.clone(), ..Default::default() }).await;
    assert!(matches!(reason(unknown)?, Reason::UnknownDomain | Reason::DomainNotGranted));
    let taken_back = v1::CancelPushRequest { domain: other, push_id: accepted[0].push_id.clone(), request_id: request_id() };
    assert!(stack.push().cancel_push(taken_back).await.is_err());
    let get = v1::GetPushRequest { domain: stack.domain().to_owned(), push_id: uuid::Uuid::new_v4().to_string() };
    assert_eq!(reason(stack.push().get_push(get).await)?, Reason::UnknownPush);
    let test =
        v1::TestDeviceRequest { domain: stack.domain().to_owned(), device_id: "none".to_owned(), as_call: false, request_id: request_id() };
    assert_eq!(reason(stack.push().test_device(test).await)?, Reason::UnknownDevice);
    assert!(!device.token_end.contains(&apns_token(1)));
    stack.stop().await
}

/// The agent is killed again and again while callers send: what it said it took on arrives, whatever came between.
#[tokio::test]
async fn trial_12_killed_in_a_loop_under_load_every_accepted_push_arrives() -> anyhow::Result<()> {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let providers = Providers::start().await?;
    let mut stack = providers.stack_with("calls = false\n").await?;
    let [_, alias] = two_phones(&stack)?;
    stack.device(&providers, &alias, "ios", 1).await?;
    stack.device(&providers, &alias, "android", 2).await?;
    let mut accepted = HashSet::new();
    for round in 0..4 {
        let (client, domain, alias) = (stack.push(), stack.domain().to_owned(), alias.clone());
        let load = tokio::spawn(async move {
            let mut taken = Vec::new();
            for number in 0.. {
                match client.clone().send_push(message(&domain, &alias, &format!("{round}-{number}"))).await {
                    Ok(answer) => taken.extend(answer.into_inner().pushes.into_iter().map(|push| push.push_id)),
                    // The agent is gone: what this one became nobody knows.
                    Err(_) => break,
                }
            }
            taken
        });
        let before = providers.pushes().len();
        let some = rng.random_range(20..120);
        eventually("some are under way", || async { (providers.pushes().len() >= before + some).then_some(()) }).await?;
        stack.crash_agent().await?;
        accepted.extend(load.await?);
    }
    let arrived = |all: &[Arrival]| all.iter().map(|arrival| field(arrival, "push_id")).collect::<Vec<_>>();
    let all = providers.taken("all that was accepted", |all| {
        let arrived: HashSet<String> = arrived(all).into_iter().collect();
        accepted.iter().all(|id| arrived.contains(id))
    });
    let arrived = arrived(&all.await?);
    let unique: HashSet<&String> = arrived.iter().collect();
    println!("{} accepted, {} arrived, {} of them twice", accepted.len(), unique.len(), arrived.len() - unique.len());
    ensure!(accepted.len() > 80, "only {} were accepted", accepted.len());
    stack.stop().await
}

#[tokio::test]
async fn a_browser_gets_what_is_sent_and_nobody_makes_the_agent_post_elsewhere() -> anyhow::Result<()> {
    let providers = Providers::start().await?;
    let stack = providers.stack_with("calls = true\n").await?;
    let [caller, alias] = two_phones(&stack)?;
    let subscription = providers.sim.subscribe()?;
    let register = |endpoint: String| v1::RegisterDeviceRequest {
        domain: stack.domain().to_owned(),
        alias: alias.clone(),
        app: "web".to_owned(),
        parameters: Some(v1::PushParameters { pn_provider: "webpush".to_owned(), pn_prid: endpoint, pn_param: String::new() }),
        web_keys: Some(v1::WebPushKeys { p256dh: subscription.p256dh.clone(), auth: subscription.auth.clone() }),
        request_id: request_id(),
        ..Default::default()
    };
    let inside = stack.push().register_device(register("https://intranet.example/hook".to_owned())).await;
    assert_eq!(reason(inside)?, Reason::InvalidRequest);
    stack.push().register_device(register(subscription.endpoint.clone())).await?;
    let sent = stack.push().send_push(message(stack.domain(), &alias, "to a page")).await?.into_inner();
    ensure!(sent.pushes.len() == 1, "{sent:?}");
    let first = providers.taken("the page gets it", |all| !all.is_empty()).await?;
    assert_eq!((field(&first[0], "body").as_str(), field(&first[0], "room").as_str()), ("to a page", "7"));
    let dialled = stack.sim.switch().dial(stack.domain(), &caller, &alias)?;
    providers.taken("the page rings", |all| all.iter().any(|arrival| event(arrival) == "call")).await?;
    stack.sim.switch().release_call(stack.domain(), &dialled.call)?;
    providers.taken("and stops", |all| all.iter().any(|arrival| event(arrival) == "cancel")).await?;
    stack.stop().await
}

#[tokio::test]
async fn many_users_get_theirs_in_one_stream_and_watchers_see_every_step() -> anyhow::Result<()> {
    let providers = Providers::start().await?;
    let stack = providers.stack_with("calls = false\n").await?;
    let aliases = stack.sim.switch().aliases(stack.domain(), 0, 10)?;
    for (number, alias) in (1..).zip(&aliases) {
        stack.device(&providers, alias, if number % 2 == 0 { "ios" } else { "android" }, number).await?;
    }
    let mut watch = stack.push().watch_pushes(v1::WatchPushesRequest { final_only: true, ..Default::default() }).await?.into_inner();
    let orders: Vec<v1::SendPushesRequest> = aliases
        .iter()
        .map(|alias| message(stack.domain(), alias, "to all"))
        .map(|one| v1::SendPushesRequest { domain: one.domain, order: one.order, request_id: one.request_id })
        .collect();
    let ids: Vec<String> = orders.iter().map(|order| order.request_id.clone()).collect();
    let mut answers = stack.push().send_pushes(tokio_stream::iter(orders)).await?.into_inner();
    let mut answered = Vec::new();
    while let Some(answer) = answers.message().await? {
        ensure!(answer.refused_reason.is_empty() && answer.pushes.len() == 1, "{answer:?}");
        answered.push(answer.request_id);
    }
    assert_eq!(answered, ids);
    for _ in &aliases {
        let step = tokio::time::timeout(PATIENCE, watch.message()).await??.context("the stream ended")?;
        let Some(v1::watch_pushes_response::Message::Event(event)) = step.message else { anyhow::bail!("{step:?}") };
        assert_eq!(event.state(), v1::PushState::Accepted);
    }
    let apps = stack.push().list_apps(v1::ListAppsRequest {}).await?.into_inner().apps;
    let counted: Vec<(&str, u64, bool)> = apps.iter().map(|app| (app.name.as_str(), app.devices, app.connected)).collect();
    assert_eq!(counted, [("android", 5, true), ("ios", 5, true), ("web", 0, false)]);
    stack.stop().await
}

#[tokio::test]
async fn trial_16_a_phone_that_rings_over_sip_gets_no_push_where_it_is_so_configured_and_the_switch_may_push_itself() -> anyhow::Result<()>
{
    for events in ["calls = true\nonly_unless_ringing = true\n", "calls = false\n"] {
        let providers = Providers::start().await?;
        let stack = providers.stack_with(events).await?;
        let [caller, called] = two_phones(&stack)?;
        stack.device(&providers, &called, "ios", 1).await?;
        let dialled = stack.sim.switch().dial(stack.domain(), &caller, &called)?;
        stack.found(&dialled.call, |call| call.state() == v1::CallState::Alerting).await?;
        stack.sim.switch().release_call(stack.domain(), &dialled.call)?;
        stack.found(&dialled.call, |call| call.state() == v1::CallState::Ended).await?;
        // What comes after it has come, so that nothing is still on its way.
        stack.push().send_push(message(stack.domain(), &called, "last")).await?;
        let all = providers.taken("the last one", |all| !all.is_empty()).await?;
        assert_eq!(of(&all, Provider::Apns), ["message"], "{events}");
        stack.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_conference_invites_by_push_and_takes_the_invitation_back_when_the_invited_is_in() -> anyhow::Result<()> {
    let providers = Providers::start().await?;
    let stack = providers.stack_with("conferences = true\n").await?;
    let aliases = stack.sim.switch().aliases(stack.domain(), 0, 2)?;
    stack.device(&providers, &aliases[1], "android", 1).await?;
    let conference = stack.gathered(&aliases[0], &[]).await?;
    let invite = v1::InviteParticipantsRequest {
        request_id: request_id(),
        conference_id: conference.id.clone(),
        numbers: vec![aliases[1].clone()],
        ..Default::default()
    };
    stack.conferences().invite_participants(invite.clone()).await?;
    let told = providers.taken("the invitation", |all| !all.is_empty()).await?;
    assert_eq!((event(&told[0]).as_str(), field(&told[0], "conference_id")), ("invitation", conference.id.clone()));
    stack.sim.switch().device_answer(stack.domain(), &aliases[1])?;
    let told = providers.taken("it is void", |all| all.len() >= 2).await?;
    assert_eq!((event(&told[1]).as_str(), field(&told[1], "reason").as_str()), ("invitation_cancel", "answered_elsewhere"));
    // Who has left and is called again is told again.
    let member = |it: &v1::Conference| it.participants.iter().find(|member| member.number == aliases[1]).map(|member| member.id.clone());
    let id = member(&stack.conference_when(&conference.id, "the invited is in", |it| it.connected_count == 2).await?).unwrap();
    stack.sim.switch().leave(stack.domain(), &conference.switch_conference_id, &id)?;
    stack.conference_when(&conference.id, "the invited has left", |it| it.participants.len() == 1).await?;
    stack.conferences().invite_participants(v1::InviteParticipantsRequest { request_id: request_id(), ..invite }).await?;
    let told = providers.taken("the second invitation", |all| all.len() >= 3).await?;
    assert_eq!((event(&told[2]), field(&told[2], "conference_id")), ("invitation".to_owned(), conference.id));
    assert_ne!(field(&told[2], "push_id"), field(&told[0], "push_id"));
    stack.stop().await
}

#[tokio::test]
async fn trial_19_a_key_that_apple_refuses_keeps_the_pushes_and_a_reload_with_a_new_one_sends_them() -> anyhow::Result<()> {
    let providers = Providers::start().await?;
    let stack = providers.stack_with("calls = false\n").await?;
    let [_, alias] = two_phones(&stack)?;
    stack.device(&providers, &alias, "ios", 1).await?;
    let old = providers.sim.team().clone();
    ensure!(providers.sim.revoke_team_key(&old.key_id), "no such key");
    let kept = stack.push().send_push(message(stack.domain(), &alias, "kept")).await?.into_inner().pushes;
    let refused = || async { providers.sim.arrived().iter().any(|it| it.reason == "InvalidProviderToken").then_some(()) };
    eventually("Apple refuses the key", refused).await?;
    let new = providers.sim.add_team(&old.team_id, "NEWKEY0001", &[e2e::pushes::BUNDLE])?;
    let config = stack.directory.join("agent.toml");
    let text = std::fs::read_to_string(&config)?.replace(&old.key_id, &new.key_id);
    std::fs::write(providers.directory.join("apns.p8"), &new.p8)?;
    std::fs::write(&config, text)?;
    stack.agent.signal(Signal::SIGHUP)?;
    let taken = providers.taken("it is sent with the new key", |all| !all.is_empty()).await?;
    assert_eq!(field(&taken[0], "push_id"), kept[0].push_id);
    ensure!(taken[0].sender.contains(&new.key_id), "{}", taken[0].sender);
    // A key that is none leaves everything as it is.
    std::fs::write(providers.directory.join("apns.p8"), "none")?;
    stack.agent.signal(Signal::SIGHUP)?;
    eventually("the reload is refused", || async { stack.agent.log().contains("is no key for APNs").then_some(()) }).await?;
    stack.push().send_push(message(stack.domain(), &alias, "still")).await?;
    providers.taken("it is still sent", |all| all.len() >= 2).await?;
    stack.stop().await
}
