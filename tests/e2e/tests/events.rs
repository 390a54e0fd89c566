//! `EventService.Subscribe` of the real agent: a stuck subscriber costs nobody else anything, filters, starts and cursors, agent
//! restarts, tenants, and what the documented dialect tells by polling alone.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use e2e::{
    Stack, StackOptions, Watch, eventually,
    phones::{Neighbour, in_time, leg_state, reason, until},
    request_id,
};
use elph_proto::{
    reason::Reason,
    v1::{self, event::Change, resync, subscribe_request::Start, subscribe_response::Message},
};
use ssw_core::ConferenceRequest;
use ssw_sim::SimOptions;

fn with(extra: &str) -> StackOptions {
    let mut options = StackOptions::default();
    options.extra.push_str(extra);
    options
}

async fn subscribe(stack: &Stack, request: v1::SubscribeRequest) -> anyhow::Result<Watch> {
    Watch::start(stack.events(), request).await
}

/// Reads on until a message is as wanted.
async fn read_until(watch: &mut Watch, what: &str, wanted: impl Fn(&v1::SubscribeResponse) -> bool) -> anyhow::Result<()> {
    let reading = async {
        while !watch.messages.last().is_some_and(&wanted) {
            watch.read().await?;
        }
        anyhow::Ok(())
    };
    in_time(what, reading).await?
}

fn call_of(message: &v1::SubscribeResponse) -> Option<&v1::Call> {
    match &message.message {
        Some(Message::Event(v1::Event { change: Some(Change::Call(call)), .. })) => Some(call),
        _ => None,
    }
}

fn ended(message: &v1::SubscribeResponse, id: &str) -> bool {
    call_of(message).is_some_and(|call| call.id == id && call.state() == v1::CallState::Ended)
}

fn resync(message: &v1::SubscribeResponse) -> Option<&v1::Resync> {
    match &message.message {
        Some(Message::Resync(resync)) => Some(resync),
        _ => None,
    }
}

/// One call from ringing to its end at the phones.
fn whole_call(stack: &Stack, from: &str, to: &str) -> anyhow::Result<String> {
    let (switch, domain) = (stack.sim.switch(), stack.domain());
    let call = switch.dial(domain, from, to)?.call;
    switch.device_answer(domain, to)?;
    switch.device_hang_up(domain, from)?;
    Ok(call)
}

/// Resident memory of the agent in octets.
async fn memory(stack: &Stack) -> anyhow::Result<f64> {
    let (_, text) = stack.agent.get("/metrics").await?;
    let line = text.lines().find(|line| line.starts_with("process_resident_memory_bytes ")).context("no sample")?;
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).context("no number")
}

/// The sum of a metric's samples.
async fn total(stack: &Stack, metric: &str) -> anyhow::Result<f64> {
    let (_, text) = stack.agent.get("/metrics").await?;
    let samples = text.lines().filter(|line| line.starts_with(metric)).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    Ok(samples.sum())
}

#[tokio::test]
async fn trial_1_a_stuck_subscriber_costs_nobody_else_anything() -> anyhow::Result<()> {
    let stack = Stack::start(with("[journal]\nmax_events = 2000\n")).await?;
    // It never reads: what the connection takes is all that it gets.
    let mut stuck = stack.watch().await?;
    let mut readers = tokio::task::JoinSet::new();
    let (progress, mut seen) = tokio::sync::watch::channel(0_u64);
    let marker = "1099";
    for index in 0..5 {
        let mut reader = stack.watch().await?;
        let progress = progress.clone();
        readers.spawn(async move {
            let is_marker =
                |message: &v1::SubscribeResponse| call_of(message).is_some_and(|call| leg_state(call, marker) != v1::LegState::Unspecified);
            let (mut count, mut last) = (0_u64, None);
            loop {
                reader.read().await?;
                let Some(message) = reader.messages.pop() else { continue };
                reader.messages.clear();
                if let (Some(Message::Event(_)), Some(cursor)) = (&message.message, &message.cursor) {
                    if let Some(last) = last {
                        ensure!(cursor.sequence == last + 1, "an event is missing between {last} and {}", cursor.sequence);
                    }
                    (count, last) = (count + 1, Some(cursor.sequence));
                    if index == 0 && call_of(&message).is_some_and(|call| call.state() == v1::CallState::Ended) {
                        progress.send_modify(|ended| *ended += 1);
                    }
                }
                if is_marker(&message) {
                    return Ok((count, reader.view.resyncs));
                }
            }
        });
    }
    whole_call(&stack, "1001", "1002")?;
    in_time("the first events", seen.wait_for(|ended| *ended > 0)).await??;
    let before = memory(&stack).await?;
    for turn in 0..2500_u64 {
        whole_call(&stack, &(1003 + 2 * (turn % 40)).to_string(), &(1004 + 2 * (turn % 40)).to_string())?;
        // Nobody is asked to be faster than this machine: the others may be a hundred calls behind.
        in_time("the readers keep up", seen.wait_for(|ended| ended + 100 > turn)).await??;
    }
    stack.sim.switch().dial(stack.domain(), "1098", marker)?;
    let mut counts = Vec::new();
    while let Some(ended) = in_time("every reader's end", readers.join_next()).await? {
        let (count, resyncs) = ended??;
        ensure!(resyncs == 0, "another subscriber was resynchronised");
        counts.push(count);
    }
    ensure!(counts.iter().all(|count| *count >= 7_500), "{counts:?}");
    let after = memory(&stack).await?;
    ensure!(after - before < f64::from(24 << 20), "grew from {before} to {after} octets");
    ensure!(total(&stack, "elph_agent_event_resyncs_total").await? <= 1.0);
    // It reads at last: told so, alone, counted, and right afterwards.
    read_until(&mut stuck, "the resync", |message| resync(message).is_some()).await?;
    let told = *stuck.messages.last().and_then(resync).context("no resync")?;
    ensure!(told.reason() == resync::Reason::TooSlow && told.skipped > 0, "{told:?}");
    stuck.until("the marker's call", |view| (view.complete && view.calls.len() == 1).then_some(())).await?;
    ensure!(stuck.view.resyncs == 1);
    let counted = async || total(&stack, "elph_agent_event_resyncs_total").await.is_ok_and(|count| count > 0.0).then_some(());
    eventually("the resync is counted", counted).await?;
    stack.stop().await
}

#[tokio::test]
async fn filters_let_through_what_is_asked_for_and_nothing_else() -> anyhow::Result<()> {
    let stack = Stack::start(StackOptions::default()).await?;
    let only = |kind: v1::EventKind| v1::SubscribeRequest { kinds: vec![kind.into()], ..Default::default() };
    let mut calls = subscribe(&stack, only(v1::EventKind::Call)).await?;
    let mut conferences = subscribe(&stack, only(v1::EventKind::Conference)).await?;
    let mut links = subscribe(&stack, only(v1::EventKind::Link)).await?;
    let of_1002 = v1::SubscribeRequest { aliases: vec!["1002".into()], ..Default::default() };
    let mut alias = subscribe(&stack, of_1002).await?;
    let of_domain = v1::SubscribeRequest { domains: vec![stack.domain().to_owned()], ..Default::default() };
    let mut domain = subscribe(&stack, of_domain).await?;
    for watch in [&mut calls, &mut conferences, &mut links, &mut alias, &mut domain] {
        watch.until("the snapshot", |view| view.complete.then_some(())).await?;
    }
    ensure!(links.view.links.len() == 3, "{:?}", links.view.links);
    let create = |name: &str, member: &str| {
        let request = ConferenceRequest { name: name.into(), initiator: "1011".into(), members: vec![member.into()], ..Default::default() };
        stack.sim.switch().create_conference(stack.domain(), request)
    };
    let first = create("first", "1012")?;
    let two = |view: &elph_proto::view::View| (view.conferences.len() == 1).then_some(());
    conferences.until("a conference", two).await?;
    let ours = conferences.view.conferences.values().find(|it| it.switch_conference_id == first).context("not found")?.id.clone();
    let of_first = v1::SubscribeRequest { conference_ids: vec![ours.clone()], ..Default::default() };
    let mut conference = subscribe(&stack, of_first).await?;
    conference.until("the snapshot", |view| view.complete.then_some(())).await?;
    ensure!(conference.view.conferences.len() == 1 && conference.view.calls.is_empty());
    create("second", "1002")?;
    let other = whole_call(&stack, "1003", "1004")?;
    let wanted = whole_call(&stack, "1001", "1002")?;
    let (other, wanted) = (stack.found(&other, |_| true).await?.id, stack.found(&wanted, |_| true).await?.id);
    stack.sim.switch().end_conference(stack.domain(), &first)?;
    stack.sim.faults().drop_now(ssw_sim::Link::Csta, 0);

    read_until(&mut calls, "the call's end", |message| ended(message, &wanted)).await?;
    ensure!(calls.events().all(|event| matches!(event.change, Some(Change::Call(_)))));
    ensure!(calls.messages.iter().any(|message| ended(message, &other)));
    conferences.until("the first conference is over", |view| (view.conferences.len() == 1).then_some(())).await?;
    ensure!(conferences.events().all(|event| matches!(event.change, Some(Change::Conference(_) | Change::Participant(_)))));
    read_until(
        &mut links,
        "the link is up again",
        |message| matches!(&message.message, Some(Message::Event(v1::Event { change: Some(Change::Link(link)), .. })) if link.sessions > 1),
    )
    .await?;
    ensure!(links.events().all(|event| matches!(event.change, Some(Change::Link(_)))));
    read_until(&mut alias, "the alias's call", |message| ended(message, &wanted)).await?;
    ensure!(!alias.messages.iter().any(|message| call_of(message).is_some_and(|call| call.id == other)), "a call of others");
    ensure!(alias.view.conferences.values().all(|it| it.participants.iter().any(|member| member.number == "1002")));
    read_until(&mut domain, "the domain's call", |message| ended(message, &wanted)).await?;
    conference.until("the conference is over", |view| view.conferences.is_empty().then_some(())).await?;
    for event in conference.events() {
        let about = match &event.change {
            Some(Change::Conference(it)) => it.id == ours,
            Some(Change::Participant(it)) => it.conference_id == ours,
            Some(Change::Link(_)) => true,
            _ => false,
        };
        ensure!(about, "{event:?}");
    }
    let unknown = subscribe(&stack, v1::SubscribeRequest { domains: vec!["other.local".into()], ..Default::default() }).await;
    ensure!(refusal(unknown)? == Reason::DomainNotGranted);
    stack.stop().await
}

fn refusal(answer: anyhow::Result<Watch>) -> anyhow::Result<Reason> {
    match answer {
        Ok(_) => bail!("was not refused"),
        Err(error) => error.downcast_ref::<tonic::Status>().and_then(Reason::of).with_context(|| format!("no reason: {error:#}")),
    }
}

#[tokio::test]
async fn a_stream_starts_now_with_a_snapshot_or_after_a_cursor() -> anyhow::Result<()> {
    let stack = Stack::start(StackOptions::default()).await?;
    let goes_on = stack.talk("1001", "1002").await?;
    let mut snapshot = stack.watch().await?;
    snapshot.until("the snapshot", |view| view.complete.then_some(())).await?;
    ensure!(snapshot.view.calls.contains_key(&goes_on.id) && snapshot.events().next().is_none());
    let cursor = snapshot.view.cursor.clone().context("no cursor")?;
    let mut now = subscribe(&stack, v1::SubscribeRequest { start: Some(Start::Now(v1::StartNow {})), ..Default::default() }).await?;
    // Only a stream that has begun can be expected to see what comes.
    read_until(&mut now, "a heartbeat", |message| matches!(message.message, Some(Message::Heartbeat(_)))).await?;
    ensure!(now.messages.iter().all(|message| matches!(message.message, Some(Message::Heartbeat(_)))), "{:?}", now.messages);
    let call = whole_call(&stack, "1003", "1004")?;
    let call = stack.found(&call, |call| call.state() == v1::CallState::Ended).await?;
    let after = |cursor: v1::Cursor| v1::SubscribeRequest { start: Some(Start::After(cursor)), ..Default::default() };
    let mut resumed = subscribe(&stack, after(cursor.clone())).await?;
    for watch in [&mut snapshot, &mut now, &mut resumed] {
        read_until(watch, "the call's end", |message| ended(message, &call.id)).await?;
        ensure!(watch.view.resyncs == 0);
    }
    let all: Vec<_> = resumed.events().collect();
    ensure!(snapshot.events().eq(all.iter().copied()), "the same events in the same order");
    // The one that began later has the later part of them.
    ensure!(all.ends_with(&now.events().collect::<Vec<_>>()), "the same events in the same order");
    let first = resumed.messages.iter().find(|message| matches!(message.message, Some(Message::Event(_))));
    ensure!(first.and_then(|message| message.cursor.as_ref()).is_some_and(|it| it.sequence == cursor.sequence + 1));
    // Another epoch: told so, and a snapshot.
    let elsewhere = v1::Cursor { epoch: request_id(), sequence: 7 };
    let mut other = subscribe(&stack, after(elsewhere)).await?;
    other.until("the snapshot", |view| view.complete.then_some(())).await?;
    let told = other.messages.first().and_then(resync).context("no resync first")?;
    ensure!(told.reason() == resync::Reason::EpochChanged && other.view.calls.contains_key(&goes_on.id), "{told:?}");
    stack.stop().await
}

#[tokio::test]
async fn a_cursor_older_than_the_journal_is_told_so_and_gets_a_snapshot() -> anyhow::Result<()> {
    let stack = Stack::start(with("[journal]\nmax_events = 1000\n")).await?;
    let goes_on = stack.talk("1001", "1002").await?;
    let mut watch = stack.watch().await?;
    watch.until("the snapshot", |view| view.complete.then_some(())).await?;
    let old = watch.view.cursor.clone().context("no cursor")?;
    let (mut count, mut last) = (0, String::new());
    while count < 1200 {
        last = whole_call(&stack, "1003", "1004")?;
        last = stack_end(&mut watch, &last).await?;
        count = watch.events().count();
    }
    ensure!(!last.is_empty());
    let after = v1::SubscribeRequest { start: Some(Start::After(old)), ..Default::default() };
    let mut late = subscribe(&stack, after).await?;
    late.until("the snapshot", |view| view.complete.then_some(())).await?;
    let told = late.messages.first().and_then(resync).context("no resync first")?;
    ensure!(told.reason() == resync::Reason::CursorTooOld, "{told:?}");
    ensure!(late.view.calls.keys().eq([&goes_on.id]));
    stack.stop().await
}

/// Reads until the call with the switch's id has ended; its id.
async fn stack_end(watch: &mut Watch, switch_call_id: &str) -> anyhow::Result<String> {
    let over = |message: &v1::SubscribeResponse| {
        call_of(message).is_some_and(|call| call.switch_call_id == switch_call_id && call.state() == v1::CallState::Ended)
    };
    read_until(watch, "the call's end", over).await?;
    Ok(watch.messages.last().and_then(call_of).map(|call| call.id.clone()).unwrap_or_default())
}

#[tokio::test]
async fn heartbeats_come_as_often_as_asked_and_carry_the_cursor() -> anyhow::Result<()> {
    let stack = Stack::start(StackOptions::default()).await?;
    let every =
        |seconds, nanos| v1::SubscribeRequest { heartbeat_interval: Some(prost_types::Duration { seconds, nanos }), ..Default::default() };
    let mut watch = subscribe(&stack, every(1, 0)).await?;
    watch.until("the snapshot", |view| view.complete.then_some(())).await?;
    let beats = |watch: &Watch| watch.messages.iter().filter(|message| matches!(message.message, Some(Message::Heartbeat(_)))).count();
    let began = std::time::Instant::now();
    while beats(&watch) < 3 {
        in_time("a heartbeat", watch.read()).await??;
    }
    let took = began.elapsed();
    ensure!(took > Duration::from_millis(1900) && took < Duration::from_secs(6), "{took:?}");
    ensure!(watch.messages.last().is_some_and(|message| message.cursor == watch.view.cursor));
    for bad in [every(0, 0), every(0, 500_000_000), every(301, 0), every(-1, 0)] {
        ensure!(refusal(subscribe(&stack, bad).await)? == Reason::InvalidRequest);
    }
    stack.stop().await
}

/// A subscriber resumes after its cursor in a new life of the agent, and knows all that happened meanwhile.
async fn resumed(kill: bool) -> anyhow::Result<()> {
    let mut stack = Stack::start(StackOptions::default()).await?;
    let goes_on = stack.talk("1001", "1002").await?;
    let ends = stack.talk("1003", "1004").await?;
    let mut watch = stack.watch().await?;
    watch.until("both calls", |view| (view.complete && view.calls.len() == 2).then_some(())).await?;
    whole_call(&stack, "1005", "1006")?;
    let first = stack.talk("1007", "1008").await?;
    watch
        .until("the new call", |view| view.calls.get(&first.id).is_some_and(|it| it.state() == v1::CallState::Connected).then_some(()))
        .await?;
    let (cursor, view) = (watch.view.cursor.clone().context("no cursor")?, watch.view.clone());
    if kill {
        // The writer of the files is a moment behind; a cursor beyond what it has written is answered with a snapshot.
        let written = || contains(&stack.directory.join("journal"), &cursor.sequence.to_be_bytes()).unwrap_or(false);
        until("the event is in the journal's files", written).await?;
        stack.agent.kill().await?;
    } else {
        stack.agent.terminate().await?;
    }
    let left = async {
        loop {
            if let Err(error) = watch.read().await {
                return error;
            }
        }
    };
    in_time("the stream's end", left).await?;
    stack.sim.switch().device_hang_up(stack.domain(), "1003")?;
    let meanwhile = stack.sim.switch().dial(stack.domain(), "1009", "1010")?.call;
    stack.agent = e2e::Agent::start(&stack.directory).await?;
    stack.ready().await?;
    let request = v1::SubscribeRequest { start: Some(Start::After(cursor.clone())), ..Default::default() };
    let mut again = subscribe(&stack, request).await?;
    again.view = view;
    let same = |view: &elph_proto::view::View| {
        let mut ids: Vec<&str> = view.calls.values().map(|call| call.switch_call_id.as_str()).collect();
        let mut expected = vec![goes_on.switch_call_id.as_str(), first.switch_call_id.as_str(), meanwhile.as_str()];
        ids.sort_unstable();
        expected.sort_unstable();
        (ids == expected).then_some(())
    };
    again.until("the calls as they are now", same).await?;
    ensure!(again.view.resyncs == 0, "the cursor is good in the new life: {:?}", again.messages);
    ensure!(again.view.calls.contains_key(&goes_on.id) && again.view.calls.contains_key(&first.id), "calls keep their ids");
    let over = again.messages.iter().find(|message| ended(message, &ends.id)).and_then(call_of).context("the end is not told")?;
    ensure!(over.reconstructed && over.end_cause() == v1::EndCause::Normal, "{over:?}");
    ensure!(again.messages.iter().filter_map(|message| message.cursor.as_ref()).all(|it| it.epoch == cursor.epoch));
    let new = again.view.calls.values().find(|call| call.switch_call_id == meanwhile).context("not found")?;
    ensure!(new.reconstructed && new.calling_number == "1009", "{new:?}");
    stack.stop().await
}

/// Whether a file under a directory has these octets.
fn contains(path: &std::path::Path, wanted: &[u8]) -> std::io::Result<bool> {
    if path.is_dir() {
        for entry in std::fs::read_dir(path)? {
            if contains(&entry?.path(), wanted)? {
                return Ok(true);
            }
        }
        return Ok(false);
    }
    Ok(std::fs::read(path)?.windows(wanted.len()).any(|octets| octets == wanted))
}

#[tokio::test]
async fn a_stream_resumes_over_a_restart_of_the_agent_and_tells_what_happened_meanwhile() -> anyhow::Result<()> {
    resumed(false).await
}

#[tokio::test]
async fn a_stream_resumes_over_a_kill_of_the_agent_and_tells_what_happened_meanwhile() -> anyhow::Result<()> {
    resumed(true).await
}

#[tokio::test]
async fn two_domains_are_two_tenants_that_never_see_each_other() -> anyhow::Result<()> {
    let uid = nix::unistd::getuid();
    let options = |domain: &str| {
        let sim = SimOptions { domains: vec!["north.local".into(), "south.local".into()], ..SimOptions::default() };
        let grant = format!(
            "[[grants]]\nname = \"tenant\"\nwho = [{{ uid = {uid} }}]\ndomains = [\"{domain}\"]\nscopes = [\"calls\", \"conferences\", \"directory\", \"events\"]\n"
        );
        StackOptions { sim, ..with(&grant) }
    };
    let stack = Stack::start(options("north.local")).await?;
    let south = Neighbour::start(&stack, &options("south.local")).await?;
    let mut of_north = stack.watch().await?;
    let south_events = v1::event_service_client::EventServiceClient::new(south.agent.channel());
    let mut of_south = Watch::start(south_events, v1::SubscribeRequest::default()).await?;
    for watch in [&mut of_north, &mut of_south] {
        watch.until("the snapshot", |view| view.complete.then_some(())).await?;
    }
    let switch = stack.sim.switch();
    for domain in ["north.local", "south.local"] {
        let call = switch.dial(domain, "1001", "1002")?;
        switch.device_answer(domain, "1002")?;
        let request = ConferenceRequest { name: domain.into(), initiator: "1003".into(), ..Default::default() };
        switch.create_conference(domain, request)?;
        ensure!(!call.call.is_empty());
    }
    for (watch, own) in [(&mut of_north, "north.local"), (&mut of_south, "south.local")] {
        let all = |view: &elph_proto::view::View| (view.calls.len() == 1 && view.conferences.len() == 1).then_some(());
        watch.until("its own call and conference", all).await?;
        // Two more events of its own: those of the other had the time to come.
        whole_call_in(&stack, own, "1004", "1005")?;
        watch.until("one more call", |view| (view.calls.len() == 2).then_some(())).await.ok();
        ensure!(watch.view.calls.values().all(|call| call.domain == own), "{own}: {:?}", watch.view.calls);
        ensure!(watch.view.conferences.values().all(|it| it.domain == own && it.name == own));
        ensure!(watch.events().all(|event| event.domain.is_empty() || event.domain == own));
    }
    let theirs = of_south.view.calls.keys().next().cloned().context("no call")?;
    let get = v1::GetCallRequest { call_id: theirs.clone() };
    ensure!(reason(stack.calls().get_call(get).await)? == Reason::UnknownCall, "a foreign call looks like none");
    let release = v1::ReleaseCallRequest { request_id: request_id(), call_id: theirs };
    ensure!(reason(stack.calls().release_call(release).await)? == Reason::UnknownCall);
    let make =
        v1::MakeCallRequest { request_id: request_id(), domain: "south.local".into(), from_alias: "1001".into(), to_number: "1002".into() };
    ensure!(reason(stack.calls().make_call(make).await)? == Reason::DomainNotGranted);
    let list = v1::ListCallsRequest { domain: "south.local".into(), ..Default::default() };
    ensure!(reason(stack.calls().list_calls(list).await)? == Reason::DomainNotGranted);
    let asked = subscribe(&stack, v1::SubscribeRequest { domains: vec!["south.local".into()], ..Default::default() }).await;
    ensure!(refusal(asked)? == Reason::DomainNotGranted);
    stack.stop().await
}

fn whole_call_in(stack: &Stack, domain: &str, from: &str, to: &str) -> anyhow::Result<()> {
    stack.sim.switch().dial(domain, from, to)?;
    stack.sim.switch().device_answer(domain, to)?;
    Ok(())
}

#[tokio::test]
async fn beyond_the_most_subscribers_one_is_refused_and_a_place_that_is_left_is_free_again() -> anyhow::Result<()> {
    let stack = Stack::start(with("[grpc]\nmax_subscribers = 3\n")).await?;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(stack.watch().await?);
    }
    ensure!(refusal(stack.watch().await)? == Reason::TooManySubscribers);
    for watch in &mut open {
        watch.until("the snapshot", |view| view.complete.then_some(())).await?;
    }
    drop(open.pop());
    let place = eventually("a place is free", async || stack.watch().await.ok());
    place.await?.until("the snapshot", |view| view.complete.then_some(())).await?;
    stack.stop().await
}

// === The documented dialect ===

#[tokio::test]
async fn in_the_documented_dialect_conferences_come_by_polling_and_their_commands_are_unknown() -> anyhow::Result<()> {
    let mut options = StackOptions { conferences: "poll", dialect: "documented", ..StackOptions::default() };
    options.extra.push_str("[switch.dialect_overrides.terminal]\nutc_offset_minutes = 180\n");
    let stack = Stack::start(options).await?;
    let mut watch = stack.watch().await?;
    watch.until("the snapshot", |view| view.complete.then_some(())).await?;
    let (switch, domain) = (stack.sim.switch(), stack.domain());
    let request =
        ConferenceRequest { name: "council".into(), initiator: "1001".into(), members: vec!["1002".into()], ..Default::default() };
    let id = switch.create_conference(domain, request)?;
    let found = |view: &elph_proto::view::View| view.conferences.values().find(|it| it.switch_conference_id == id).cloned();
    let conference = watch.until("the conference", found).await?;
    ensure!(conference.polled && !conference.reconstructed, "{conference:?}");
    for member in switch.conference(domain, &id)?.members {
        switch.pick_up(domain, &id, &member.id)?;
    }
    let two = |view: &elph_proto::view::View| {
        let it = view.conferences.values().find(|it| it.switch_conference_id == id)?;
        let connected = it.participants.iter().filter(|member| member.status() == v1::ParticipantStatus::Connected).count();
        (connected == 2).then(|| it.clone())
    };
    let conference = watch.until("both members", two).await?;
    let about_conferences = |event: &&v1::Event| matches!(event.change, Some(Change::Conference(_) | Change::Participant(_)));
    ensure!(watch.events().filter(about_conferences).all(|event| event.polled), "an event is not marked");
    let start = conference.start_time.context("no start")?.seconds;
    ensure!((start - switch.conference(domain, &id)?.started_at.as_second()).abs() <= 1, "the terminal's time is not understood");

    let lock = v1::LockConferenceRequest { request_id: request_id(), conference_id: conference.id.clone(), expected_version: 0 };
    let refused = stack.conferences().lock_conference(lock).await;
    ensure!(refused.as_ref().is_err_and(|status| status.code() == tonic::Code::Unimplemented), "{refused:?}");
    ensure!(reason(refused)? == Reason::SwitchCommandUnknown);
    let create = v1::CreateConferenceRequest {
        request_id: request_id(),
        domain: domain.to_owned(),
        name: "another".into(),
        initiator_alias: "1001".into(),
        ..Default::default()
    };
    ensure!(reason(stack.conferences().create_conference(create).await)? == Reason::SwitchCommandUnknown);
    let about = stack.about().get_agent(v1::GetAgentRequest {}).await?.into_inner();
    ensure!(about.dialect.starts_with("documented") && about.conference_backend == "poll" && about.call_backend == "csta", "{about:?}");
    ensure!(about.unknown_operations.iter().any(|name| name.contains("conference")), "{about:?}");
    ensure!(!about.unknown_operations.iter().any(|name| name.contains("call_make")), "{about:?}");

    // Calls are CSTA's, which is a standard: they work.
    let make = stack.make("1011", "1012").await?;
    ensure!(!make.polled, "{make:?}");
    switch.device_answer(domain, "1011")?;
    let rings = stack.call_when(&make.id, "the called party rings", |call| leg_state(call, "1012") == v1::LegState::Alerting).await?;
    switch.device_answer(domain, "1012")?;
    stack.call_when(&rings.id, "they talk", |call| call.state() == v1::CallState::Connected).await?;
    stack.calls().release_call(v1::ReleaseCallRequest { request_id: request_id(), call_id: rings.id.clone() }).await?;
    switch.end_conference(domain, &id)?;
    watch.until("the conference is over", |view| view.conferences.is_empty().then_some(())).await?;
    stack.equal_to_the_switch().await?;
    stack.stop().await
}

#[tokio::test]
async fn in_the_documented_dialect_calls_come_by_polling_where_csta_is_not_used() -> anyhow::Result<()> {
    let mut options = StackOptions { calls: "poll", conferences: "poll", dialect: "documented", ..StackOptions::default() };
    options.extra.push_str("[switch.dialect_overrides.terminal]\nutc_offset_minutes = 180\n");
    let stack = Stack::start(options).await?;
    let mut watch = stack.watch().await?;
    watch.until("the snapshot", |view| view.complete.then_some(())).await?;
    stack.sim.switch().dial(stack.domain(), "1001", "1002")?;
    stack.sim.switch().device_answer(stack.domain(), "1002")?;
    let talks = |view: &elph_proto::view::View| view.calls.values().find(|call| call.state() == v1::CallState::Connected).cloned();
    let call = watch.until("the call", talks).await?;
    ensure!(call.polled && (call.calling_number.as_str(), call.called_number.as_str()) == ("1001", "1002"), "{call:?}");
    let asked = v1::MakeCallRequest {
        request_id: request_id(),
        domain: stack.domain().to_owned(),
        from_alias: "1003".into(),
        to_number: "1004".into(),
    };
    ensure!(reason(stack.calls().make_call(asked).await)? == Reason::SwitchCommandUnknown);
    stack.sim.switch().device_hang_up(stack.domain(), "1001")?;
    watch.until("the call is over", |view| view.calls.is_empty().then_some(())).await?;
    ensure!(watch.events().filter(|event| matches!(event.change, Some(Change::Call(_)))).all(|event| event.polled));
    stack.stop().await
}
