//! The links to the switch: outages, half-open connections, failover, sessions, refusals, bad input and TLS, each with the state that a
//! subscriber has right afterwards.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use e2e::{
    Agent, Stack, StackOptions, Watch, config, eventually,
    phones::{in_time, leg, leg_state, live, reason, shape, until},
    request_id,
};
use elph_proto::{reason::Reason, v1, view::View};
use nix::sys::signal::Signal;
use ssw_core::{ConferenceRequest, LicenceKind, Role};
use ssw_sim::{Link, MessageFault, Sim, SimOptions};

/// The time in which a half-open link must be noticed, as configured in every test here.
const HALF_OPEN_AFTER: Duration = Duration::from_secs(3);

fn over(calls: &'static str) -> StackOptions {
    StackOptions { calls, ..StackOptions::default() }
}

/// A view's calls in the form in which they are compared with the switch's.
fn calls_of(view: &View) -> Vec<String> {
    let mut calls: Vec<String> = view.calls.values().map(|call| shape(&call.switch_call_id, &live(call))).collect();
    calls.sort_unstable();
    calls
}

/// A view's conferences: id, lock, and who is in it with a microphone or without.
fn conferences_of(view: &View) -> Vec<String> {
    let member = |member: &v1::Participant| format!("{} {:?} muted={}", member.number, member.status(), member.muted);
    let mut all: Vec<String> = view
        .conferences
        .values()
        .map(|it| {
            let mut members: Vec<String> = it.participants.iter().map(member).collect();
            members.sort_unstable();
            format!("{} locked={}: {members:?}", it.switch_conference_id, it.locked)
        })
        .collect();
    all.sort_unstable();
    all
}

fn conferences_of_switch(stack: &Stack) -> Vec<String> {
    use ssw_core::ParticipantStatus as Status;
    let status = |status: Status| match status {
        Status::Pending => v1::ParticipantStatus::Pending,
        Status::DialingOut => v1::ParticipantStatus::DialingOut,
        Status::DialingIn => v1::ParticipantStatus::DialingIn,
        Status::Alerting => v1::ParticipantStatus::Alerting,
        Status::OnHold => v1::ParticipantStatus::OnHold,
        Status::Connected => v1::ParticipantStatus::Connected,
        Status::Disconnecting => v1::ParticipantStatus::Disconnecting,
        Status::Disconnected => v1::ParticipantStatus::Disconnected,
    };
    let conferences = stack.sim.switch().conferences(Some(stack.domain()));
    let mut all: Vec<String> = conferences
        .iter()
        .map(|it| {
            let member =
                |member: &ssw_core::ParticipantView| format!("{} {:?} muted={}", member.number, status(member.status), !member.voice);
            let mut members: Vec<String> = it.members.iter().map(member).collect();
            members.sort_unstable();
            format!("{} locked={}: {members:?}", it.id, it.locked)
        })
        .collect();
    all.sort_unstable();
    all
}

/// Reads on until the view has the switch's calls and conferences.
async fn equals_the_switch(stack: &Stack, watch: &mut Watch) -> anyhow::Result<()> {
    let same = |view: &View| {
        let same = view.complete && calls_of(view) == stack.switch_shape() && conferences_of(view) == conferences_of_switch(stack);
        same.then_some(())
    };
    match watch.until("the switch's calls and conferences", same).await {
        Ok(()) => Ok(()),
        Err(error) => bail!(
            "{error:#}\nours: {:#?} {:#?}\ntheirs: {:#?} {:#?}\n{}",
            calls_of(&watch.view),
            conferences_of(&watch.view),
            stack.switch_shape(),
            conferences_of_switch(stack),
            stack.agent.log()
        ),
    }
}

fn conference(stack: &Stack, name: &str, members: &[&str]) -> anyhow::Result<String> {
    let members: Vec<String> = members.iter().map(|&member| member.to_owned()).collect();
    let request = ConferenceRequest { name: name.to_owned(), initiator: "1001".into(), members, ..ConferenceRequest::default() };
    let switch = stack.sim.switch();
    let id = switch.create_conference(stack.domain(), request)?;
    let all = switch.conference(stack.domain(), &id)?.members;
    for member in all {
        switch.pick_up(stack.domain(), &id, &member.id)?;
    }
    Ok(id)
}

// === TRIAL 2 ===

/// While the links are down, calls and conferences begin, change and end, and the switch restarts; then everything is as there.
async fn outage(calls: &'static str, keep_state: bool) -> anyhow::Result<()> {
    let stack = Stack::start(over(calls)).await?;
    let (switch, domain) = (stack.sim.switch(), stack.domain());
    let mut watch = stack.watch().await?;
    let ends = stack.talk("1011", "1012").await?;
    let holds = stack.talk("1013", "1014").await?;
    let rings = switch.dial(domain, "1015", "1016")?;
    let stays = conference(&stack, "stays", &["1021", "1022", "1023"])?;
    let over = conference(&stack, "is over", &["1024", "1025"])?;
    equals_the_switch(&stack, &mut watch).await?;

    stack.sim.faults().set_node(0, false);
    let down = |view: &View| view.links.values().all(|link| link.state() != v1::LinkState::Up).then_some(());
    watch.until("the links are told to be down", down).await?;
    let seen = watch.messages.len();
    switch.device_hang_up(domain, "1011")?;
    switch.hold(domain, &holds.switch_call_id, "1013")?;
    switch.device_answer(domain, "1016")?;
    switch.device_hang_up(domain, "1015")?;
    let new = switch.dial(domain, "1017", "1018")?;
    switch.device_answer(domain, "1018")?;
    let member = switch.conference(domain, &stays)?.members.into_iter().find(|it| it.number == "1022").context("no member")?;
    switch.leave(domain, &stays, &member.id)?;
    switch.set_locked(domain, &stays, true)?;
    let talker = switch.conference(domain, &stays)?.members.into_iter().find(|it| it.number == "1021").context("no member")?;
    switch.mute(domain, &stays, &talker.id)?;
    switch.end_conference(domain, &over)?;
    conference(&stack, "is new", &["1026", "1027"])?;
    stack.sim.restart(keep_state);
    stack.sim.faults().set_node(0, true);

    let up = |view: &View| view.links.values().all(|link| link.state() == v1::LinkState::Up).then_some(());
    watch.until("the links are told to be up", up).await?;
    equals_the_switch(&stack, &mut watch).await?;
    ensure!(watch.view.calls.is_empty() != keep_state && watch.view.conferences.is_empty() != keep_state);
    let changes = || {
        watch.messages.iter().skip(seen).filter_map(|message| match &message.message {
            Some(v1::subscribe_response::Message::Event(event)) => Some(event),
            _ => None,
        })
    };
    for event in changes() {
        match &event.change {
            Some(v1::event::Change::Link(_)) => {}
            _ => ensure!(event.reconstructed, "not marked: {event:?}"),
        }
    }
    let end_of = |id: &str| {
        changes().find_map(|event| match &event.change {
            Some(v1::event::Change::Call(call)) if call.id == id && call.state() == v1::CallState::Ended => Some(call.clone()),
            _ => None,
        })
    };
    let ended = end_of(&ends.id).context("the call that ended meanwhile is not told of")?;
    // The history names how it ended and when.
    ensure!(ended.end_cause() == v1::EndCause::Normal && ended.answered_by == "1012" && ended.reconstructed, "{ended:?}");
    let answered = stack.found(&rings.call, |call| call.state() == v1::CallState::Ended).await?;
    ensure!(answered.answered_by == "1016", "who answered during the outage is known from the history: {answered:?}");
    if keep_state {
        let new = stack.found(&new.call, |_| true).await?;
        ensure!(new.reconstructed && new.answer_time.is_some(), "{new:?}");
        ensure!(leg_state(&stack.call(&holds.id).await?, "1013") == v1::LegState::Held, "the call has kept its id");
    } else {
        ensure!(stack.call(&holds.id).await?.state() == v1::CallState::Ended);
    }
    // The monitors are back: what happens now comes as an event.
    let fresh = stack.talk("1031", "1032").await?;
    ensure!(!fresh.reconstructed, "{fresh:?}");
    conference(&stack, "afterwards", &["1033"])?;
    equals_the_switch(&stack, &mut watch).await?;
    ensure!(watch.view.resyncs == 0, "who stays connected needs no resync");
    stack.stop().await
}

#[tokio::test]
async fn trial_2_after_a_restart_with_its_state_a_subscriber_has_the_switchs_state_over_csta() -> anyhow::Result<()> {
    outage("csta", true).await
}

#[tokio::test]
async fn trial_2_after_a_restart_with_its_state_a_subscriber_has_the_switchs_state_over_the_call_api() -> anyhow::Result<()> {
    outage("call_api", true).await
}

#[tokio::test]
async fn trial_2_after_a_restart_without_its_state_a_subscriber_has_the_switchs_state_over_csta() -> anyhow::Result<()> {
    outage("csta", false).await
}

#[tokio::test]
async fn trial_2_after_a_restart_without_its_state_a_subscriber_has_the_switchs_state_over_the_call_api() -> anyhow::Result<()> {
    outage("call_api", false).await
}

// === TRIAL 3 and 7 ===

fn name(link: Link) -> &'static str {
    match link {
        Link::Terminal => "terminal",
        Link::CallApi => "call_api",
        Link::Csta => "csta",
    }
}

#[tokio::test]
async fn trial_3_every_link_that_was_cut_comes_back_by_itself() -> anyhow::Result<()> {
    let stack = Stack::start(StackOptions::default()).await?;
    for link in Link::ALL {
        let before = stack.link_when(name(link), "the link is up", |it| it.state() == v1::LinkState::Up).await?;
        match link {
            // A connection of the terminal is one of many: its session is what counts.
            Link::Terminal => {
                stack.sim.sessions().expire(Some(link), None);
            }
            _ => stack.sim.faults().drop_now(link, 0),
        }
        let again = eventually("the session is opened again", async || {
            let links = stack.links().await.ok()?;
            let link = links.into_iter().find(|it| it.name.starts_with(name(link)))?;
            (link.sessions > before.sessions && link.state() == v1::LinkState::Up).then_some(link)
        });
        ensure!(!again.await?.node.is_empty());
        stack.ready().await?;
    }
    let mut watch = stack.watch().await?;
    stack.talk("1001", "1002").await?;
    conference(&stack, "still there", &["1003"])?;
    equals_the_switch(&stack, &mut watch).await?;
    stack.stop().await
}

async fn half_open(link: Link) -> anyhow::Result<()> {
    let stack = Stack::start(StackOptions::default()).await?;
    let mut watch = stack.watch().await?;
    stack.talk("1001", "1002").await?;
    equals_the_switch(&stack, &mut watch).await?;
    stack.sim.faults().set_half_open(link, 0, true);
    let began = Instant::now();
    eventually("the agent is no longer ready", async || (!stack.agent.is_ready().await).then_some(())).await?;
    let noticed = began.elapsed();
    // A second beyond: this test shares two cores with others.
    ensure!(noticed <= HALF_OPEN_AFTER + Duration::from_secs(1), "noticed only after {noticed:?}");
    let (status, body) = stack.agent.get("/readyz").await?;
    ensure!(status == 503 && body.contains(name(link)), "{status} {body}");
    ensure!(stack.agent.get("/healthz").await?.0 == 200, "the agent itself is well");
    stack.sim.switch().dial(stack.domain(), "1003", "1004")?;
    stack.sim.switch().device_hang_up(stack.domain(), "1001")?;
    stack.sim.faults().set_half_open(link, 0, false);
    stack.ready().await?;
    equals_the_switch(&stack, &mut watch).await?;
    stack.stop().await
}

#[tokio::test]
async fn trial_3_a_half_open_csta_link_is_noticed_in_time() -> anyhow::Result<()> {
    half_open(Link::Csta).await
}

#[tokio::test]
async fn trial_3_a_half_open_call_api_link_is_noticed_in_time() -> anyhow::Result<()> {
    half_open(Link::CallApi).await
}

#[tokio::test]
async fn trial_3_a_half_open_terminal_link_is_noticed_in_time() -> anyhow::Result<()> {
    half_open(Link::Terminal).await
}

#[tokio::test]
async fn trial_7_readiness_is_that_of_the_links_and_says_why() -> anyhow::Result<()> {
    let stack = Stack::start(StackOptions::default()).await?;
    let mut health = tonic_health::pb::health_client::HealthClient::new(stack.channel());
    let serving = tonic_health::pb::health_check_response::ServingStatus::Serving as i32;
    let mut asked = async || {
        let request = tonic_health::pb::HealthCheckRequest { service: String::new() };
        health.check(request).await.map(|answer| answer.into_inner().status == serving).unwrap_or(false)
    };
    let began = Instant::now();
    while !asked().await {
        ensure!(began.elapsed() < Duration::from_secs(5), "grpc.health.v1 does not say serving");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ensure!(stack.agent.is_ready().await);
    stack.sim.faults().set_node(0, false);
    eventually("not ready", async || (!stack.agent.is_ready().await).then_some(())).await?;
    let said = eventually("every link is named with its error", async || {
        let (status, body) = stack.agent.get("/readyz").await.ok()?;
        let named = ["terminal", "csta/elph.local", "call_api/elph.local"].iter().all(|name| body.contains(name));
        (status == 503 && named && body.contains("last_error")).then_some(body)
    });
    let said: serde_json::Value = serde_json::from_str(&said.await?)?;
    ensure!(said.pointer("/ready") == Some(&serde_json::Value::Bool(false)), "{said}");
    let began = Instant::now();
    while asked().await {
        ensure!(began.elapsed() < Duration::from_secs(5), "grpc.health.v1 says serving while every link is down");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stack.sim.faults().set_node(0, true);
    stack.ready().await?;
    stack.stop().await
}

#[tokio::test]
async fn trial_7_a_refused_login_is_not_ready_and_names_the_cause_without_the_password() -> anyhow::Result<()> {
    let sim = Sim::start(SimOptions::default()).await?;
    let keep = tempfile::tempdir()?;
    let text = config(&sim, &StackOptions::default(), keep.path())?;
    std::fs::write(keep.path().join("dialect.toml"), sim.dialect_toml())?;
    let wrong = text.replace("password = \"password\"", "password = \"Xwrong7secret\"").replace("\"1234\"", "\"Xwrong7secret\"");
    ensure!(wrong.matches("Xwrong7secret").count() == 3, "{wrong}");
    std::fs::write(keep.path().join("agent.toml"), wrong)?;
    let mut agent = Agent::start(keep.path()).await?;
    let said = eventually("every link is refused", async || {
        let (status, body) = agent.get("/readyz").await.ok()?;
        (status == 503 && body.matches("last_error").count() == 3).then_some(body)
    });
    let said = said.await?;
    ensure!(said.to_lowercase().contains("refused"), "{said}");
    ensure!(!said.contains("Xwrong7secret") && !agent.log().contains("Xwrong7secret"), "a password is told");
    agent.terminate().await?;
    sim.shutdown().await;
    Ok(())
}

// === TRIAL 8 ===

#[tokio::test]
async fn trial_8_with_node_0_down_everything_works_on_node_1_and_goes_back_later() -> anyhow::Result<()> {
    let sim = SimOptions { nodes: 2, ..SimOptions::default() };
    let stack = Stack::start(StackOptions { sim, ..StackOptions::default() }).await?;
    let at = |node: usize| {
        let node = stack.sim.nodes().get(node).copied();
        node.map(|it| [it.terminal, it.call_api, it.csta].map(|address| address.to_string())).unwrap_or_default()
    };
    let on = async |node: usize| {
        let addresses = at(node);
        eventually("the links are on the other node", async || {
            let links = stack.links().await.ok()?;
            links.iter().all(|link| link.state() == v1::LinkState::Up && addresses.contains(&link.node)).then_some(())
        })
        .await
    };
    let mut watch = stack.watch().await?;
    on(0).await?;
    let call = stack.talk("1001", "1002").await?;
    let room = conference(&stack, "council", &["1011", "1012"])?;
    equals_the_switch(&stack, &mut watch).await?;
    for (turn, node) in [1, 0].into_iter().enumerate() {
        stack.sim.faults().set_node(0, node == 0);
        on(node).await?;
        stack.ready().await?;
        // Commands on calls and conferences, and events of phones: monitors and sessions are there again.
        let hold = v1::HoldCallRequest { request_id: request_id(), leg: leg(&call, "1001") };
        in_time("an answer", stack.calls().hold_call(hold)).await??;
        let retrieve = v1::RetrieveCallRequest { request_id: request_id(), leg: leg(&call, "1001") };
        in_time("an answer", stack.calls().retrieve_call(retrieve)).await??;
        let (from, to) = if turn == 0 { ("1003", "1004") } else { ("1005", "1006") };
        let fresh = stack.talk(from, to).await?;
        ensure!(!fresh.polled && !fresh.reconstructed, "{fresh:?}");
        let ours = watch.until("the conference", |view| view.conferences.values().find(|it| it.switch_conference_id == room).cloned());
        let ours = ours.await?;
        let asked = v1::LockConferenceRequest { request_id: request_id(), conference_id: ours.id.clone(), expected_version: 0 };
        in_time("an answer", stack.conferences().lock_conference(asked)).await??;
        ensure!(stack.sim.switch().conference(stack.domain(), &room)?.locked);
        let asked = v1::UnlockConferenceRequest { request_id: request_id(), conference_id: ours.id.clone(), expected_version: 0 };
        in_time("an answer", stack.conferences().unlock_conference(asked)).await??;
        let invited = stack.sim.switch().invite(stack.domain(), &room, if turn == 0 { "1013" } else { "1014" }, Role::Participant)?;
        stack.sim.switch().pick_up(stack.domain(), &room, &invited)?;
        equals_the_switch(&stack, &mut watch).await?;
    }
    for link in ["terminal", "csta", "call_api"] {
        ensure!(stack.link_metric("failovers", link).await? >= 1.0, "{link}");
    }
    stack.stop().await
}

// === TRIAL 9 ===

#[tokio::test]
async fn trial_9_a_refusal_hidden_in_a_200_is_a_typed_error() -> anyhow::Result<()> {
    let stack = Stack::start(over("call_api")).await?;
    let call_make = stack.sim.dialect().operations.get("call_make").context("no operation")?.name.clone();
    stack.sim.faults().refuse_in_200(&call_make, 1);
    let make = || v1::MakeCallRequest {
        request_id: request_id(),
        domain: stack.domain().to_owned(),
        from_alias: "1001".into(),
        to_number: "1002".into(),
    };
    ensure!(reason(stack.calls().make_call(make()).await)? == Reason::WrongState);
    ensure!(stack.carried()?.is_empty());
    stack.sim.faults().refuse_in_200("get_extended_subscriber_card", 1);
    let card = || v1::GetSubscriberRequest { domain: stack.domain().to_owned(), alias: "1001".into() };
    ensure!(reason(stack.directory().get_subscriber(card()).await)? == Reason::WrongState);
    stack.directory().get_subscriber(card()).await?;
    stack.calls().make_call(make()).await?;
    stack.stop().await
}

#[tokio::test]
async fn trial_9_licences_have_their_own_reasons() -> anyhow::Result<()> {
    for calls in ["csta", "call_api"] {
        let stack = Stack::start(over(calls)).await?;
        let switch = stack.sim.switch();
        let make = async |from: &str| {
            let request = v1::MakeCallRequest {
                request_id: request_id(),
                domain: stack.domain().to_owned(),
                from_alias: from.into(),
                to_number: "1002".into(),
            };
            stack.calls().make_call(request).await
        };
        let create = async || {
            let request = v1::CreateConferenceRequest {
                request_id: request_id(),
                domain: stack.domain().to_owned(),
                name: "council".into(),
                initiator_alias: "1005".into(),
                ..Default::default()
            };
            stack.conferences().create_conference(request).await
        };
        switch.set_licence(LicenceKind::Calls, Some(1), None);
        make("1001").await?;
        ensure!(reason(make("1003").await)? == Reason::LicenceExhausted, "{calls}");
        let past = switch.now().saturating_sub(Duration::from_secs(1))?;
        switch.set_licence(LicenceKind::Calls, None, Some(past));
        ensure!(reason(make("1003").await)? == Reason::LicenceExpired, "{calls}");
        switch.set_licence(LicenceKind::Conferences, Some(0), None);
        ensure!(reason(create().await)? == Reason::LicenceExhausted);
        switch.set_licence(LicenceKind::Conferences, None, Some(past));
        ensure!(reason(create().await)? == Reason::LicenceExpired);
        switch.set_licence(LicenceKind::Conferences, None, None);
        switch.set_licence(LicenceKind::Calls, None, None);
        create().await?;
        make("1003").await?;
        stack.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn trial_9_what_each_word_of_a_refusal_means_is_configuration() -> anyhow::Result<()> {
    for (meaning, expected) in [("locked", Reason::SwitchObjectLocked), ("limit_reached", Reason::SwitchLimitReached)] {
        let mut options = over("call_api");
        options.extra.push_str(&format!("[switch.dialect_overrides.refusals]\nbad_state = \"{meaning}\"\n"));
        let stack = Stack::start(options).await?;
        let call_make = stack.sim.dialect().operations.get("call_make").context("no operation")?.name.clone();
        stack.sim.faults().refuse_in_200(&call_make, 1);
        let request = v1::MakeCallRequest {
            request_id: request_id(),
            domain: stack.domain().to_owned(),
            from_alias: "1001".into(),
            to_number: "1002".into(),
        };
        ensure!(reason(stack.calls().make_call(request).await)? == expected);
        stack.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn trial_9_no_session_is_left_on_the_switch_after_sigterm_and_after_a_kill_only_until_it_idles_out() -> anyhow::Result<()> {
    let sim = SimOptions { session_idle_s: 3, ..SimOptions::default() };
    let mut stack = Stack::start(StackOptions { sim, ..StackOptions::default() }).await?;
    let count = |stack: &Stack| stack.sim.sessions().list().len();
    let usual = count(&stack);
    ensure!(usual >= 3, "{:?}", stack.sim.sessions().list());
    stack.crash_agent().await?;
    ensure!(count(&stack) <= 2 * usual, "{:?}", stack.sim.sessions().list());
    // The Call API's are idled out as the terminal's are.
    let gone = || {
        stack.sim.sessions().expire_idle(Link::CallApi, 3);
        count(&stack) == usual
    };
    until("the old sessions have idled out", gone).await.with_context(|| format!("{:?}", stack.sim.sessions().list()))?;
    stack.ready().await?;
    stack.agent.signal(Signal::SIGTERM)?;
    until("the agent has logged out everywhere", || count(&stack) == 0).await?;
    eventually("the agent has ended", async || stack.agent.get("/healthz").await.is_err().then_some(())).await?;
    Ok(())
}

#[tokio::test]
async fn sessions_that_expire_under_parallel_commands_lose_none() -> anyhow::Result<()> {
    for (calls, link) in [("csta", Link::Csta), ("call_api", Link::CallApi), ("csta", Link::Terminal)] {
        let stack = Stack::start(over(calls)).await?;
        stack.sim.faults().set_delay(link, 0, Duration::from_millis(20));
        let mut commands = tokio::task::JoinSet::new();
        for index in 0..20_u32 {
            let (mut api, mut directory, domain) = (stack.calls(), stack.directory(), stack.domain().to_owned());
            let (from, to) = ((1010 + index).to_string(), (1050 + index).to_string());
            let id = request_id();
            commands.spawn(async move {
                loop {
                    let refused = if link == Link::Terminal {
                        let card = v1::GetSubscriberRequest { domain: domain.clone(), alias: from.clone() };
                        // The terminal's commands are to be repeated by the agent itself.
                        return directory.get_subscriber(card).await.map(drop);
                    } else {
                        let make = v1::MakeCallRequest {
                            request_id: id.clone(),
                            domain: domain.clone(),
                            from_alias: from.clone(),
                            to_number: to.clone(),
                        };
                        match api.make_call(make).await {
                            Ok(_) => return Ok(()),
                            Err(status) => status,
                        }
                    };
                    match Reason::of(&refused) {
                        // Surely not done: the same id again.
                        Some(Reason::SwitchUnavailable) => tokio::time::sleep(Duration::from_millis(50)).await,
                        // Looked for on the switch and not found there.
                        Some(Reason::OutcomeUnknown) => return Ok(()),
                        _ => return Err(refused),
                    }
                }
            });
            if index == 10 {
                stack.sim.sessions().expire(Some(link), None);
            }
        }
        while let Some(ended) = in_time("every command's end", commands.join_next()).await? {
            ended?.with_context(|| format!("{link:?}"))?;
        }
        stack.sim.faults().clear();
        stack.ready().await?;
        let mut callers: Vec<String> = stack.carried()?.into_iter().map(|call| call.calling).collect();
        let all = callers.len();
        callers.sort_unstable();
        callers.dedup();
        ensure!(callers.len() == all && (link == Link::Terminal || all > 0), "a call was made twice: {callers:?}");
        stack.equal_to_the_switch().await?;
        stack.stop().await?;
    }
    Ok(())
}

// === Bad input ===

/// Damages what the switch says, again and again, and looks at counters, log and state.
async fn bad_input(link: Link) -> anyhow::Result<()> {
    let calls = if link == Link::CallApi { "call_api" } else { "csta" };
    let stack = Stack::start(over(calls)).await?;
    let mut watch = stack.watch().await?;
    let (domain, switch) = (stack.domain().to_owned(), stack.sim.switch());
    equals_the_switch(&stack, &mut watch).await?;
    let faults = [
        MessageFault::Duplicate,
        MessageFault::Reorder,
        MessageFault::Truncate,
        MessageFault::Garbage,
        MessageFault::Oversize,
        MessageFault::WrongPad,
    ];
    // Garbage once more: it has been told of.
    for (index, fault) in faults.into_iter().chain([MessageFault::Garbage]).enumerate() {
        let bad = stack.link_metric("messages_bad", name(link)).await?;
        stack.sim.faults().next_messages(link, 0, fault, 2);
        let (from, to) = ((1020 + 2 * index).to_string(), (1021 + 2 * index).to_string());
        switch.dial(&domain, &from, &to)?;
        switch.device_answer(&domain, &to)?;
        if link == Link::Terminal {
            let card = v1::GetSubscriberRequest { domain: domain.clone(), alias: from.clone() };
            // Whatever the answer is: it comes.
            let _ = in_time("an answer", stack.directory().get_subscriber(card)).await?;
        }
        equals_the_switch(&stack, &mut watch).await.with_context(|| format!("{fault:?} on {link:?}"))?;
        // The longest message that CSTA's 16-bit length allows is legal, and an answer of HTTP that is cut in its head looks like a
        // connection that was closed without one.
        let legal = matches!((link, fault), (Link::Csta, MessageFault::Oversize) | (Link::Terminal, MessageFault::Truncate));
        if !legal && !matches!(fault, MessageFault::Duplicate | MessageFault::Reorder) {
            let counted = async || stack.link_metric("messages_bad", name(link)).await.is_ok_and(|now| now > bad).then_some(());
            let seen = eventually("the bad message is counted", counted).await;
            seen.with_context(|| format!("{fault:?} on {link:?}\n{}", stack.agent.log()))?;
        }
        stack.ready().await?;
        switch.device_hang_up(&domain, &from)?;
    }
    stack.sim.faults().clear();
    stack.ready().await?;
    equals_the_switch(&stack, &mut watch).await?;
    ensure!(stack.agent.get("/healthz").await?.0 == 200);
    // Once per kind and minute.
    let log = stack.agent.log();
    let said: Vec<&str> = log.lines().filter(|line| SAYINGS.iter().any(|saying| line.contains(saying))).collect();
    let kinds: std::collections::BTreeSet<String> = said.iter().map(|line| without_time(line)).collect();
    ensure!(!said.is_empty() && said.len() == kinds.len(), "{} lines, {} kinds:\n{}", said.len(), kinds.len(), said.join("\n"));
    stack.stop().await
}

/// How the agent says that it got bad input.
const SAYINGS: [&str; 4] = [
    "bad input from the switch",
    "the stream cannot be followed any more",
    "a message cannot be understood",
    "an answer of the switch cannot be understood",
];

/// What a line says, without when and without numbers.
fn without_time(line: &str) -> String {
    let said = line.split_once("\"level\"").map_or(line, |(_, rest)| rest);
    said.chars().filter(|c| !c.is_ascii_digit()).collect()
}

#[tokio::test]
async fn bad_input_on_csta_is_counted_and_said_once_and_the_state_is_right_afterwards() -> anyhow::Result<()> {
    bad_input(Link::Csta).await
}

#[tokio::test]
async fn bad_input_on_the_call_api_is_counted_and_said_once_and_the_state_is_right_afterwards() -> anyhow::Result<()> {
    bad_input(Link::CallApi).await
}

#[tokio::test]
async fn bad_input_on_the_terminal_is_counted_and_said_once_and_the_state_is_right_afterwards() -> anyhow::Result<()> {
    bad_input(Link::Terminal).await
}

// === TLS ===

#[tokio::test]
async fn all_links_speak_tls_with_the_configured_authority_and_refuse_any_other() -> anyhow::Result<()> {
    let keep = tempfile::tempdir()?;
    let sim = SimOptions { tls: true, ca_file: Some(keep.path().join("ca.pem")), ..SimOptions::default() };
    let mut stack = Stack::start(StackOptions { sim, ..StackOptions::default() }).await?;
    let mut watch = stack.watch().await?;
    stack.talk("1001", "1002").await?;
    conference(&stack, "secret", &["1003"])?;
    equals_the_switch(&stack, &mut watch).await?;
    drop(watch);

    let key = rcgen::KeyPair::generate()?;
    let mut other = rcgen::CertificateParams::new(Vec::<String>::new())?;
    other.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let other = other.self_signed(&key)?;
    let path = keep.path().join("other.pem");
    std::fs::write(&path, other.pem())?;
    let file = stack.directory.join("agent.toml");
    let trusted = keep.path().join("ca.pem").display().to_string();
    let text = std::fs::read_to_string(&file)?;
    ensure!(text.contains(&trusted));
    std::fs::write(&file, text.replace(&trusted, &path.display().to_string()))?;
    stack.agent.terminate().await?;
    stack.agent = Agent::start(&stack.directory).await?;
    for link in ["terminal", "csta", "call_api"] {
        let refused = stack.link_when(link, "the link says why", |link| !link.last_error.is_empty()).await?;
        ensure!(refused.state() != v1::LinkState::Up);
        let said = refused.last_error.to_lowercase();
        ensure!(said.contains("certificate") || said.contains("issuer"), "{said}");
    }
    ensure!(!stack.agent.is_ready().await);
    stack.stop().await
}
