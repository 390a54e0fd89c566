//! Who may do what: mutual TLS and peer credentials, scopes, tenants that never see each other, moderators' tokens, the audit log, and
//! changes of all of it while the agent runs.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, ensure};
use e2e::{
    Stack, StackOptions, Watch,
    guard::{Authority, Files, Sso, grant, own_grant},
    meetings::id_of,
    phones::reason,
    request_id,
};
use elph_proto::{
    reason::Reason,
    v1::{
        self, agent_service_client::AgentServiceClient, call_service_client::CallServiceClient,
        conference_service_client::ConferenceServiceClient, directory_service_client::DirectoryServiceClient,
        event_service_client::EventServiceClient,
    },
};
use serde_json::json;
use ssw_core::ConferenceRequest;
use ssw_sim::SimOptions;
use tokio_stream::StreamExt;
use tonic::{Code, Request, Status, transport::Channel};
use tonic_types::StatusExt;

const ONE: &str = "biysk.local";
const OTHER: &str = "barnaul.local";

/// Two tenants, a mutual-TLS listener, the grants of the test.
async fn stack(files: &Files, grants: &str) -> anyhow::Result<Stack> {
    let options = StackOptions {
        sim: SimOptions { domains: vec![ONE.to_owned(), OTHER.to_owned()], ..SimOptions::default() },
        extra: format!("{}\n{grants}", files.config()),
        ..StackOptions::default()
    };
    Stack::start(options).await
}

/// What can be told from a refusal, whatever the object was called.
fn told(status: &Status, id: &str) -> (Code, String, String, Vec<(String, String)>) {
    let info = status.get_details_error_info();
    let mut metadata: Vec<(String, String)> = info.iter().flat_map(|it| it.metadata.clone()).collect();
    metadata.sort();
    (status.code(), status.message().replace(id, "…"), info.map(|it| it.reason).unwrap_or_default(), metadata)
}

/// Refusals of every method that takes the id of a conference.
#[expect(clippy::needless_update, reason = "of some requests every field is named")]
async fn about_conference(channel: &Channel, id: &str, own: &v1::Conference) -> anyhow::Result<Vec<(&'static str, Status)>> {
    let mut client = ConferenceServiceClient::new(channel.clone());
    let mut refusals = Vec::new();
    macro_rules! ask {
        ($($method:ident $request:ident { $($field:ident: $value:expr),* };)+) => { $({
            let request = v1::$request { $($field: $value,)* ..Default::default() };
            match client.$method(request).await {
                Ok(answer) => anyhow::bail!("{} was answered: {answer:?}", stringify!($method)),
                Err(status) => refusals.push((stringify!($method), status)),
            }
        })+ };
    }
    let (c, p, r) = (|| id.to_owned(), || "p1".to_owned(), request_id);
    ask! {
        get_conference GetConferenceRequest { conference_id: c() };
        list_floor_requests ListFloorRequestsRequest { conference_id: c() };
        invite_participants InviteParticipantsRequest { request_id: r(), conference_id: c(), numbers: vec!["1009".to_owned()] };
        cancel_invitation CancelInvitationRequest { request_id: r(), conference_id: c(), participant_id: p() };
        remove_participant RemoveParticipantRequest { request_id: r(), conference_id: c(), participant_id: p() };
        mute_participant MuteParticipantRequest { request_id: r(), conference_id: c(), participant_id: p() };
        unmute_participant UnmuteParticipantRequest { request_id: r(), conference_id: c(), participant_id: p() };
        ask_to_unmute AskToUnmuteRequest { request_id: r(), conference_id: c(), participant_id: p() };
        mute_all MuteAllRequest { request_id: r(), conference_id: c(), may_unmute_themselves: Some(true) };
        grant_floor GrantFloorRequest { request_id: r(), conference_id: c(), participant_id: p() };
        deny_floor DenyFloorRequest { request_id: r(), conference_id: c(), participant_id: p() };
        set_role SetRoleRequest { request_id: r(), conference_id: c(), participant_id: p(), role: 2 };
        lock_conference LockConferenceRequest { request_id: r(), conference_id: c() };
        unlock_conference UnlockConferenceRequest { request_id: r(), conference_id: c() };
        hold_participant HoldParticipantRequest { request_id: r(), conference_id: c(), participant_id: p() };
        retrieve_participant RetrieveParticipantRequest { request_id: r(), conference_id: c(), participant_id: p() };
        move_participant MoveParticipantRequest { request_id: r(), conference_id: c(), participant_id: p(), to_conference_id: own.id.clone() };
        move_participant MoveParticipantRequest {
            request_id: r(), conference_id: own.id.clone(), participant_id: id_of(own, "1002")?, to_conference_id: c()
        };
        start_recording StartRecordingRequest { request_id: r(), conference_id: c() };
        pause_recording PauseRecordingRequest { request_id: r(), conference_id: c() };
        resume_recording ResumeRecordingRequest { request_id: r(), conference_id: c() };
        stop_recording StopRecordingRequest { request_id: r(), conference_id: c() };
        extend_conference ExtendConferenceRequest {
            request_id: r(), conference_id: c(), by: Some(prost_types::Duration { seconds: 60, nanos: 0 })
        };
        end_conference EndConferenceRequest { request_id: r(), conference_id: c() };
    }
    Ok(refusals)
}

/// Refusals of every method that takes the id of a call.
#[expect(clippy::needless_update, reason = "of some requests every field is named")]
async fn about_call(channel: &Channel, id: &str) -> anyhow::Result<Vec<(&'static str, Status)>> {
    let mut client = CallServiceClient::new(channel.clone());
    let mut refusals = Vec::new();
    macro_rules! ask {
        ($($method:ident $request:ident { $($field:ident: $value:expr),* };)+) => { $({
            let request = v1::$request { $($field: $value,)* ..Default::default() };
            match client.$method(request).await {
                Ok(_) => anyhow::bail!("{} was answered", stringify!($method)),
                Err(status) => refusals.push((stringify!($method), status)),
            }
        })+ };
    }
    let leg = || Some(v1::LegSelector { call_id: id.to_owned(), leg_id: String::new(), device: "1001".to_owned() });
    let (to, r) = (|| "1009".to_owned(), request_id);
    ask! {
        get_call GetCallRequest { call_id: id.to_owned() };
        watch_call WatchCallRequest { call_id: id.to_owned() };
        answer_call AnswerCallRequest { request_id: r(), leg: leg() };
        reject_call RejectCallRequest { request_id: r(), leg: leg() };
        release_leg ReleaseLegRequest { request_id: r(), leg: leg() };
        release_call ReleaseCallRequest { request_id: r(), call_id: id.to_owned() };
        hold_call HoldCallRequest { request_id: r(), leg: leg() };
        retrieve_call RetrieveCallRequest { request_id: r(), leg: leg() };
        transfer_call TransferCallRequest { request_id: r(), leg: leg(), to_number: to() };
        consult_call ConsultCallRequest { request_id: r(), leg: leg(), to_number: to() };
        complete_transfer CompleteTransferRequest { request_id: r(), held_leg: leg(), consultation_leg: leg() };
        cancel_transfer CancelTransferRequest { request_id: r(), held_leg: leg(), consultation_leg: leg() };
        join_calls JoinCallsRequest { request_id: r(), held_leg: leg(), active_leg: leg() };
        deflect_call DeflectCallRequest { request_id: r(), leg: leg(), to_number: to() };
        send_dtmf SendDtmfRequest { request_id: r(), leg: leg(), digits: "1".to_owned() };
    }
    Ok(refusals)
}

fn domain_of(domain: &str) -> String {
    domain.to_owned()
}

/// One request for each scope, looking and changing: what each caller gets.
async fn tries(channel: &Channel) -> Vec<(&'static str, Option<Reason>)> {
    let why = |status: Status| Reason::of(&status).unwrap_or(Reason::SwitchAnswerBad);
    let domain = || domain_of(ONE);
    let list = v1::ListCallsRequest { domain: domain(), ..Default::default() };
    let make =
        v1::MakeCallRequest { request_id: request_id(), domain: domain(), from_alias: "1001".to_owned(), to_number: "1002".to_owned() };
    let conferences = v1::ListConferencesRequest { domain: domain(), ..Default::default() };
    let create = v1::CreateConferenceRequest { request_id: request_id(), domain: domain(), ..Default::default() };
    let login = v1::AuthenticateSubscriberRequest { domain: domain(), login: "1001".to_owned(), password: "p1001".to_owned() };
    let mut calls = CallServiceClient::new(channel.clone());
    let mut meetings = ConferenceServiceClient::new(channel.clone());
    let mut directory = DirectoryServiceClient::new(channel.clone());
    let mut events = EventServiceClient::new(channel.clone());
    let mut about = AgentServiceClient::new(channel.clone());
    vec![
        ("list calls", calls.list_calls(list).await.err().map(why)),
        ("make a call", calls.make_call(make).await.err().map(why)),
        ("list conferences", meetings.list_conferences(conferences).await.err().map(why)),
        ("create a conference", meetings.create_conference(create).await.err().map(why)),
        ("list rooms", directory.list_rooms(v1::ListRoomsRequest { domain: domain() }).await.err().map(why)),
        ("check a password", directory.authenticate_subscriber(login).await.err().map(why)),
        ("subscribe", events.subscribe(v1::SubscribeRequest::default()).await.err().map(why)),
        ("ask about the agent", about.get_agent(v1::GetAgentRequest {}).await.err().map(why)),
        ("list links", about.list_links(v1::ListLinksRequest {}).await.err().map(why)),
    ]
}

/// What a caller may do.
type May<'a> = Box<dyn Fn(&str) -> bool + 'a>;

#[tokio::test]
async fn each_certificate_has_its_own_scopes_and_reading_is_not_changing() -> anyhow::Result<()> {
    let files = Files::new()?;
    let all = ["calls", "conferences", "directory", "events", "admin"];
    let grants = [
        grant("everything", &["*"], &all, ""),
        grant("reader", &["*"], &["calls:read", "conferences:read", "directory:read", "events:read", "admin:read"], ""),
        grant("desk", &["*"], &["calls"], ""),
        grant("moderators", &["*"], &["conferences", "events"], ""),
        own_grant(&all),
    ];
    let stack = stack(&files, &grants.concat()).await?;
    let channel = |name: &str| stack.tls_channel(&files.authority.pem, Some(&files.authority.sign(&format!("{name}.example"))?));
    let looking: BTreeSet<&str> = ["list calls", "list conferences", "list rooms", "subscribe", "ask about the agent", "list links"].into();
    let expected: [(&str, May<'_>); 4] = [
        ("everything", Box::new(|_| true)),
        ("reader", Box::new(|what| looking.contains(what))),
        ("desk", Box::new(|what| ["list calls", "make a call"].contains(&what))),
        ("moderators", Box::new(|what| ["list conferences", "create a conference", "subscribe"].contains(&what))),
    ];
    for (name, may) in expected {
        for (what, refused) in tries(&channel(name)?).await {
            let wanted = (!may(what)).then_some(Reason::MissingScope);
            ensure!(refused == wanted, "{name}: {what}: {refused:?} and not {wanted:?}");
        }
    }
    // A good certificate that no grant names.
    for (what, refused) in tries(&channel("stranger")?).await {
        ensure!(refused == Some(Reason::CallerUnknown), "stranger: {what}: {refused:?}");
    }
    // A certificate of another authority, and none: no request gets through.
    let foreign = Authority::new()?.sign("everything.example")?;
    for client in [Some(&foreign), None] {
        let refused = AgentServiceClient::new(stack.tls_channel(&files.authority.pem, client)?).get_agent(v1::GetAgentRequest {}).await;
        let status = refused.err().context("was answered")?;
        ensure!(Reason::of(&status).is_none() && status.code() != Code::Ok, "not refused by the connection: {status:?}");
    }
    let denied = stack.agent.metric("elph_agent_access_denied_total{reason=\"CALLER_UNKNOWN\"}").await?;
    ensure!(denied == Some(9.0), "{denied:?}");
    stack.stop().await
}

#[tokio::test]
async fn a_process_is_known_by_its_user_and_no_other_process_may_do_anything() -> anyhow::Result<()> {
    let files = Files::new()?;
    let uid = nix::unistd::getuid().as_raw();
    let other = own_grant(&["calls", "admin"]).replace(&format!("uid = {uid}"), &format!("uid = {}", uid + 1));
    let stack = stack(&files, &other).await?;
    for (what, refused) in tries(&stack.channel()).await {
        ensure!(refused == Some(Reason::CallerUnknown), "{what}: {refused:?}");
    }
    // A certificate's name is not a user's, whatever it is called.
    let channel = stack.tls_channel(&files.authority.pem, Some(&files.authority.sign("tests.example")?))?;
    ensure!(tries(&channel).await.iter().all(|(_, refused)| *refused == Some(Reason::CallerUnknown)));
    let record = files.audited("a refusal in the audit log", |it| it["method"] == "CallService/MakeCall").await?;
    ensure!(record["caller"] == "unknown" && record["peer"].as_str().is_some_and(|it| it.starts_with(&format!("uid={uid} "))), "{record}");

    // Named while it runs: the next request is allowed.
    stack
        .reload(|table| {
            table.insert("grants".to_owned(), toml::from_str::<toml::Table>(&own_grant(&["calls", "admin"]))?["grants"].clone());
            Ok(())
        })
        .await?;
    let may = ["list calls", "make a call", "ask about the agent", "list links"];
    for (what, refused) in tries(&stack.channel()).await {
        ensure!(refused == (!may.contains(&what)).then_some(Reason::MissingScope), "{what}: {refused:?}");
    }
    stack.stop().await
}

#[tokio::test]
async fn two_tenants_never_see_each_other_and_a_foreign_object_looks_like_none() -> anyhow::Result<()> {
    let files = Files::new()?;
    let all = ["calls", "conferences", "directory", "events", "admin"];
    let looks = ["calls:read", "conferences:read", "directory:read"];
    let grants = [grant("one", &[ONE], &all, ""), grant("other", &[OTHER], &all, ""), grant("looker", &[ONE], &looks, ""), own_grant(&all)];
    let stack = stack(&files, &grants.concat()).await?;
    let switch = stack.sim.switch();
    let channel = |name: &str| stack.tls_channel(&files.authority.pem, Some(&files.authority.sign(&format!("{name}.example"))?));
    let (one, other, looker) = (channel("one")?, channel("other")?, channel("looker")?);

    // A call and a conference in each; an ended conference in the other one.
    let own = stack.gathered("1001", &["1002"]).await?;
    let foreign = switch.create_conference(OTHER, ConferenceRequest { name: "Secret".to_owned(), ..ConferenceRequest::default() })?;
    let over = switch.create_conference(OTHER, ConferenceRequest::default())?;
    switch.dial(ONE, "1003", "1004")?;
    switch.dial(OTHER, "1003", "1004")?;
    let mut everything = stack.watch().await?;
    let find = |at: &str| {
        let at = at.to_owned();
        move |view: &elph_proto::view::View| view.conferences.values().find(|it| it.switch_conference_id == at).map(|it| it.id.clone())
    };
    let foreign_id = everything.until("the other tenant's conference", find(&foreign)).await?;
    let over_id = everything.until("the one that will be over", find(&over)).await?;
    let foreign_call =
        everything.until("the other tenant's call", |view| view.calls.values().find(|it| it.domain == OTHER).map(|it| it.id.clone()));
    let foreign_call = foreign_call.await?;
    switch.end_conference(OTHER, &over)?;
    everything.until("it is over", |view| (!view.conferences.contains_key(&over_id)).then_some(())).await?;

    // By id: each method answers for the other tenant's object, going on or over, what it answers for none at all.
    let none = uuid::Uuid::new_v4().to_string();
    for (name, channel) in [("one", &one), ("looker", &looker)] {
        let unknown = about_conference(channel, &none, &own).await?;
        for id in [&foreign_id, &over_id] {
            for ((method, unknown), (_, foreign)) in unknown.iter().zip(about_conference(channel, id, &own).await?) {
                let (unknown, foreign) = (told(unknown, &none), told(&foreign, id));
                ensure!(unknown == foreign, "{name}: {method}: {unknown:?} for none, {foreign:?} for a foreign one");
                let wanted = [Reason::UnknownConference.as_str(), Reason::MissingScope.as_str()];
                ensure!(wanted.contains(&unknown.2.as_str()), "{name}: {method}: {unknown:?}");
            }
        }
        let unknown = about_call(channel, &none).await?;
        for ((method, unknown), (_, foreign)) in unknown.iter().zip(about_call(channel, &foreign_call).await?) {
            let (unknown, foreign) = (told(unknown, &none), told(&foreign, &foreign_call));
            ensure!(unknown == foreign, "{name}: {method}: {unknown:?} for none, {foreign:?} for a foreign one");
        }
    }
    ensure!(switch.conference(OTHER, &foreign).is_ok_and(|it| it.members.is_empty() && !it.locked), "nothing was done to it");

    // By domain: one that is not granted and one that does not exist are refused alike.
    let lists = async |channel: &Channel, domain: &str| -> Vec<Option<Status>> {
        let domain = || domain.to_owned();
        let mut calls = CallServiceClient::new(channel.clone());
        let mut meetings = ConferenceServiceClient::new(channel.clone());
        let mut directory = DirectoryServiceClient::new(channel.clone());
        let mut events = EventServiceClient::new(channel.clone());
        let alias = || "1001".to_owned();
        let login = v1::AuthenticateSubscriberRequest { domain: domain(), login: alias(), password: "p1001".to_owned() };
        let create = v1::CreateConferenceRequest { request_id: request_id(), domain: domain(), ..Default::default() };
        let make = v1::MakeCallRequest { request_id: request_id(), domain: domain(), from_alias: alias(), to_number: "1002".to_owned() };
        vec![
            calls.list_calls(v1::ListCallsRequest { domain: domain(), ..Default::default() }).await.err(),
            calls.make_call(make).await.err(),
            meetings.list_conferences(v1::ListConferencesRequest { domain: domain(), ..Default::default() }).await.err(),
            meetings.create_conference(create).await.err(),
            directory.list_subscribers(v1::ListSubscribersRequest { domain: domain(), ..Default::default() }).await.err(),
            directory.get_subscriber(v1::GetSubscriberRequest { domain: domain(), alias: alias() }).await.err(),
            directory.list_rooms(v1::ListRoomsRequest { domain: domain() }).await.err(),
            directory.authenticate_subscriber(login).await.err(),
            events.subscribe(v1::SubscribeRequest { domains: vec![domain()], ..Default::default() }).await.err(),
        ]
    };
    let nowhere = "nowhere.local";
    for (foreign, nowhere_to_be) in lists(&one, OTHER).await.into_iter().zip(lists(&one, nowhere).await) {
        let (foreign, none) = (foreign.context("was answered")?, nowhere_to_be.context("was answered")?);
        let cleaned = |status: &Status, name: &str| {
            let (code, message, reason, metadata) = told(status, name);
            (code, message, reason, metadata.into_iter().map(|(key, value)| (key, value.replace(name, "…"))).collect::<Vec<_>>())
        };
        ensure!(cleaned(&foreign, OTHER) == cleaned(&none, nowhere), "{foreign:?} is not {none:?}");
        ensure!(Reason::of(&foreign) == Some(Reason::DomainNotGranted), "{foreign:?}");
    }

    // Lists, links and streams hold the own domain only.
    let domains = DirectoryServiceClient::new(one.clone()).list_domains(v1::ListDomainsRequest {}).await?.into_inner().domains;
    ensure!(domains.iter().map(|it| it.name.as_str()).eq([ONE]), "{domains:?}");
    let links = AgentServiceClient::new(one.clone()).list_links(v1::ListLinksRequest {}).await?.into_inner().links;
    ensure!(links.len() > 1 && links.iter().all(|it| !it.name.contains(OTHER)), "{links:?}");
    let mut streams = Vec::new();
    for (channel, domain) in [(&one, ONE), (&other, OTHER)] {
        let mut watch = Watch::start(EventServiceClient::new(channel.clone()), v1::SubscribeRequest::default()).await?;
        watch.until("the snapshot", |view| view.complete.then_some(())).await?;
        streams.push((domain, watch));
    }
    // Something happens in both, links included.
    for domain in [ONE, OTHER] {
        switch.create_conference(domain, ConferenceRequest { name: "Last".to_owned(), ..ConferenceRequest::default() })?;
        switch.dial(domain, "1005", "1006")?;
    }
    stack.sim.faults().drop_now(ssw_sim::Link::Csta, 0);
    for (domain, watch) in &mut streams {
        watch.until("the last thing", |view| view.conferences.values().any(|it| it.name == "Last").then_some(())).await?;
        watch.until("two calls", |view| (view.calls.len() == 2).then_some(())).await?;
        watch.until("the link is opened anew", |view| view.links.values().any(|it| it.sessions > 1).then_some(())).await?;
        let foreign = if *domain == ONE { OTHER } else { ONE };
        let crossed: Vec<_> = watch.messages.iter().filter(|it| format!("{it:?}").contains(foreign)).collect();
        ensure!(crossed.is_empty(), "{domain} heard of {foreign}: {crossed:?}");
    }
    // Naming the other tenant's conference in a filter shows nothing of it either.
    let filter = v1::SubscribeRequest { conference_ids: vec![foreign_id], ..Default::default() };
    let mut watch = Watch::start(EventServiceClient::new(one.clone()), filter).await?;
    watch.until("the snapshot", |view| view.complete.then_some(())).await?;
    ensure!(watch.view.conferences.is_empty());

    // Every one of these refusals was counted and written down, those that look like "no such object" as what they are.
    let denied = stack.agent.metric("elph_agent_access_denied_total{reason=\"DOMAIN_NOT_GRANTED\"}").await?;
    ensure!(denied.is_some_and(|count| count > 40.0), "{denied:?}");
    let record = files.audited("the refusal in the audit log", |it| {
        it["method"] == "ConferenceService/EndConference" && it["reason"] == "DOMAIN_NOT_GRANTED"
    });
    let record = record.await?;
    ensure!(record["caller"] == "one" && record["domain"] == OTHER && record["outcome"] == "PERMISSION_DENIED", "{record}");
    ensure!(record["request_id"].as_str().is_some_and(|it| !it.is_empty()), "{record}");
    stack.stop().await
}

/// A command on a conference with a token, or none.
async fn lock(channel: &Channel, conference: &v1::Conference, token: Option<&str>, actor: Option<&str>) -> Result<String, Status> {
    let request_id = request_id();
    let message = v1::LockConferenceRequest { request_id: request_id.clone(), conference_id: conference.id.clone(), ..Default::default() };
    let mut request = Request::new(message);
    let bad = |_| Status::internal("bad metadata");
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().map_err(bad)?);
    }
    if let Some(actor) = actor {
        request.metadata_mut().insert("elph-actor", actor.parse().map_err(bad)?);
    }
    ConferenceServiceClient::new(channel.clone()).lock_conference(request).await.map(|_| request_id)
}

#[tokio::test]
async fn a_moderators_token_is_required_optional_or_ignored_and_a_bad_one_is_refused() -> anyhow::Result<()> {
    let files = Files::new()?;
    let sso = Sso::new()?;
    let scopes = ["conferences", "calls"];
    let grants = [
        grant("required", &["*"], &scopes, "moderator_token = \"required\""),
        grant("optional", &["*"], &scopes, "moderator_token = \"optional\""),
        grant("ignored", &["*"], &scopes, "moderator_token = \"ignored\""),
        own_grant(&["conferences", "calls", "events"]),
        sso.config(&files)?,
    ];
    let stack = stack(&files, &grants.concat()).await?;
    let conference = stack.gathered("1001", &["1002"]).await?;
    let channel = |name: &str| stack.tls_channel(&files.authority.pem, Some(&files.authority.sign(&format!("{name}.example"))?));
    let (required, optional, ignored) = (channel("required")?, channel("optional")?, channel("ignored")?);
    let now = jiff::Timestamp::now().as_second();
    let good = sso.token("moderator-7", ONE, &json!({}))?;
    let bad = [
        ("expired", sso.token("m", ONE, &json!({ "exp": now - 600 }))?, Reason::ModeratorTokenInvalid),
        ("for another audience", sso.token("m", ONE, &json!({ "aud": "account" }))?, Reason::ModeratorTokenInvalid),
        ("of another issuer", sso.token("m", ONE, &json!({ "iss": "https://evil.example" }))?, Reason::ModeratorTokenInvalid),
        ("signed by a stranger", Sso::new()?.token("m", ONE, &json!({}))?, Reason::ModeratorTokenInvalid),
        ("no token", "nonsense".to_owned(), Reason::ModeratorTokenInvalid),
        ("of another domain", sso.token("m", OTHER, &json!({}))?, Reason::ModeratorOfOtherDomain),
    ];
    for (kind, token, wanted) in &bad {
        for (name, channel) in [("required", &required), ("optional", &optional)] {
            let status = lock(channel, &conference, Some(token), None).await.err().context("was answered")?;
            ensure!(Reason::of(&status) == Some(*wanted), "{name}, {kind}: {status:?}");
            ensure!(!format!("{status:?}").contains(token.as_str()), "a token is never repeated");
        }
        ensure!(lock(&ignored, &conference, Some(token), None).await.is_ok(), "ignored, {kind}");
    }
    let none = lock(&required, &conference, None, Some("moderator-7")).await.err().context("was answered")?;
    ensure!(Reason::of(&none) == Some(Reason::ModeratorTokenRequired) && none.code() == Code::Unauthenticated, "{none:?}");
    for channel in [&optional, &ignored] {
        ensure!(lock(channel, &conference, None, None).await.is_ok());
    }
    for channel in [&required, &optional, &ignored] {
        ensure!(lock(channel, &conference, Some(&good), None).await.is_ok());
    }
    // Looking at conferences, and calls, need no moderator.
    let get = v1::GetConferenceRequest { conference_id: conference.id.clone() };
    ensure!(ConferenceServiceClient::new(required.clone()).get_conference(get).await.is_ok());
    let list = v1::ListCallsRequest { domain: ONE.to_owned(), ..Default::default() };
    ensure!(CallServiceClient::new(required.clone()).list_calls(list).await.is_ok());

    // Creating a conference is a command too.
    let create = |domain: &str| v1::CreateConferenceRequest { request_id: request_id(), domain: domain.to_owned(), ..Default::default() };
    let refused = ConferenceServiceClient::new(required.clone()).create_conference(create(ONE)).await;
    ensure!(reason(refused)? == Reason::ModeratorTokenRequired);
    let mut elsewhere = Request::new(create(OTHER));
    elsewhere.metadata_mut().insert("authorization", format!("Bearer {good}").parse()?);
    ensure!(reason(ConferenceServiceClient::new(required.clone()).create_conference(elsewhere).await)? == Reason::ModeratorOfOtherDomain);

    let (log, audit) = (stack.agent.log(), std::fs::read_to_string(files.path("audit.jsonl"))?);
    for token in bad.iter().map(|(_, token, _)| token).chain([&good]).filter(|token| token.len() > 20) {
        ensure!(!log.contains(token.as_str()) && !audit.contains(token.as_str()), "a token was written down");
    }
    stack.stop().await
}

#[tokio::test]
async fn the_audit_log_says_who_in_whose_name_what_and_how_it_went_without_a_number_in_plain() -> anyhow::Result<()> {
    let files = Files::new()?;
    let sso = Sso::new()?;
    let grants = [grant("suite", &["*"], &["conferences", "calls"], ""), own_grant(&["conferences", "calls"]), sso.config(&files)?];
    let stack = stack(&files, &grants.concat()).await?;
    let switch = stack.sim.switch();
    for alias in ["79135550101", "79135550102"] {
        switch.declare_alias(ONE, alias, false)?;
    }
    let suite = stack.tls_channel(&files.authority.pem, Some(&files.authority.sign("suite.example")?))?;
    let conference = stack.gathered("1001", &["79135550101"]).await?;

    // A verified moderator, a claimed one, both at once.
    let token = sso.token("moderator-7", ONE, &json!({}))?;
    let verified = lock(&suite, &conference, Some(&token), None).await?;
    let claimed = lock(&suite, &conference, None, Some("Иван".escape_unicode().to_string().as_str())).await?;
    let both = lock(&suite, &conference, Some(&token), Some("root")).await?;
    let of = async |id: &str| files.audited("the command in the audit log", |it| it["request_id"] == id).await;
    let record = of(&verified).await?;
    ensure!(record["actor"] == json!({ "subject": "moderator-7", "issuer": Sso::ISSUER }), "{record}");
    ensure!(record.get("claimed_actor").is_none() && record["caller"] == "suite" && record["domain"] == ONE, "{record}");
    ensure!(record["method"] == "ConferenceService/LockConference" && record["outcome"] == "OK", "{record}");
    ensure!(record["objects"]["conference_id"] == conference.id.as_str() && record.get("reason").is_none(), "{record}");
    ensure!(record["peer"].as_str().is_some_and(|it| it.starts_with("certificate=suite.example (sha256 ")), "{record}");
    ensure!(record["time"].as_str().is_some_and(|it| it.parse::<jiff::Timestamp>().is_ok()), "{record}");
    let record = of(&claimed).await?;
    ensure!(record.get("actor").is_none() && record["claimed_actor"].is_string(), "claimed is not proven: {record}");
    let record = of(&both).await?;
    ensure!(record["actor"]["subject"] == "moderator-7" && record["claimed_actor"] == "root", "{record}");

    // Commands that fail, with numbers.
    let invite = v1::InviteParticipantsRequest {
        request_id: request_id(),
        conference_id: conference.id.clone(),
        numbers: vec!["79135550102".to_owned()],
        ..Default::default()
    };
    let mut meetings = ConferenceServiceClient::new(suite.clone());
    ensure!(reason(meetings.invite_participants(invite.clone()).await)? == Reason::ConferenceLocked);
    let record = of(&invite.request_id).await?;
    ensure!(record["outcome"] == "FAILED_PRECONDITION" && record["reason"] == "CONFERENCE_LOCKED", "{record}");
    let make = v1::MakeCallRequest {
        request_id: request_id(),
        domain: ONE.to_owned(),
        from_alias: "1001".to_owned(),
        to_number: "79135550102".to_owned(),
    };
    CallServiceClient::new(suite.clone()).make_call(make.clone()).await?;
    let record = of(&make.request_id).await?;
    ensure!(record["objects"]["to_number"] == "79…02", "enough to recognise it by: {record}");
    let role = v1::SetRoleRequest {
        request_id: request_id(),
        conference_id: conference.id.clone(),
        participant_id: id_of(&conference, "79135550101")?,
        role: 2,
        ..Default::default()
    };
    meetings.set_role(role.clone()).await?;
    of(&role.request_id).await?;

    // Again with the same id: done once, written once.
    meetings.set_role(role.clone()).await?;
    let times = files.audit()?.iter().filter(|it| it["request_id"] == role.request_id.as_str()).count();
    ensure!(times == 1, "{times} records of one command");

    let audit = std::fs::read_to_string(files.path("audit.jsonl"))?;
    let log = stack.agent.log();
    for number in ["79135550101", "79135550102"] {
        ensure!(!audit.contains(number), "a number in the audit log: {audit}");
        ensure!(!log.contains(number), "a number in the log");
    }
    use std::os::unix::fs::PermissionsExt;
    ensure!(std::fs::metadata(files.path("audit.jsonl"))?.permissions().mode() & 0o077 == 0, "others can read the audit log");
    ensure!(stack.agent.metric("elph_agent_audit_dropped_total").await? == Some(0.0));
    stack.stop().await
}

#[tokio::test]
async fn a_reload_changes_grants_and_certificates_while_streams_and_connections_go_on() -> anyhow::Result<()> {
    let files = Files::new()?;
    let grants = [grant("suite", &["*"], &["conferences", "events"], ""), own_grant(&["conferences", "events", "admin"])];
    let stack = stack(&files, &grants.concat()).await?;
    let conference = stack.gathered("1001", &[]).await?;
    let client = files.authority.sign("suite.example")?;
    let suite = stack.tls_channel(&files.authority.pem, Some(&client))?;
    lock(&suite, &conference, None, None).await?;
    let mut watch = Watch::start(EventServiceClient::new(suite.clone()), v1::SubscribeRequest::default()).await?;
    watch.until("the snapshot", |view| view.complete.then_some(())).await?;

    // Fewer rights: the next request on the same connection is refused. More: it is allowed again.
    let set = |scopes: &'static [&'static str]| {
        move |table: &mut toml::Table| {
            let text = [grant("suite", &["*"], scopes, ""), own_grant(&["conferences", "events", "admin"])].concat();
            table.insert("grants".to_owned(), toml::from_str::<toml::Table>(&text)?["grants"].clone());
            Ok(())
        }
    };
    stack.reload(set(&["conferences:read", "events"])).await?;
    let refused = lock(&suite, &conference, None, None).await.err().context("was answered")?;
    ensure!(Reason::of(&refused) == Some(Reason::MissingScope), "{refused:?}");
    stack.reload(set(&["conferences", "events"])).await?;
    lock(&suite, &conference, None, None).await?;

    // A configuration that cannot be is refused, and the old one stays in force.
    let path = stack.directory.join("agent.toml");
    let whole = std::fs::read_to_string(&path)?;
    std::fs::write(&path, format!("{whole}\n[nonsense]\nkey = 1\n"))?;
    stack.agent.signal(nix::sys::signal::Signal::SIGHUP)?;
    let refused = "elph_agent_config_reloads_total{outcome=\"refused\"}";
    e2e::eventually("the nonsense is refused", async || stack.agent.metric(refused).await.ok()?.filter(|count| *count >= 1.0)).await?;
    lock(&suite, &conference, None, None).await?;
    std::fs::write(&path, &whole)?;

    // Another authority for clients: new connections need its certificates, open ones go on.
    let fresh = Authority::new()?;
    files.renew()?;
    files.write("clients.pem", &fresh.pem)?;
    stack.reload(|_| Ok(())).await?;
    lock(&suite, &conference, None, None).await?;
    let old = stack.tls_channel(&files.authority.pem, Some(&client))?;
    ensure!(
        lock(&old, &conference, None, None).await.is_err_and(|status| Reason::of(&status).is_none()),
        "the old authority is still taken"
    );
    let new = stack.tls_channel(&files.authority.pem, Some(&fresh.sign("suite.example")?))?;
    lock(&new, &conference, None, None).await?;

    // The stream from before all that still tells.
    stack.sim.switch().set_locked(ONE, &conference.switch_conference_id, false)?;
    stack.sim.switch().dial_in(ONE, &conference.switch_conference_id, "1005")?;
    watch.meeting("1005 is in", &conference.id, |it| it.participants.iter().any(|it| it.number == "1005")).await?;
    stack.stop().await
}

#[tokio::test]
async fn every_refusal_is_counted_and_written_down_with_method_caller_and_request_id() -> anyhow::Result<()> {
    let files = Files::new()?;
    let grants = [grant("reader", &[ONE], &["conferences:read", "directory"], ""), own_grant(&["conferences"])];
    let limits = "[limits]\nauthenticate_alias_per_minute = 1\n";
    let stack = stack(&files, &[grants.concat(), limits.to_owned()].concat()).await?;
    let conference = stack.gathered("1001", &[]).await?;
    let reader = stack.tls_channel(&files.authority.pem, Some(&files.authority.sign("reader.example")?))?;
    let count = async |reason: &str| -> anyhow::Result<f64> {
        Ok(stack.agent.metric(&format!("elph_agent_access_denied_total{{reason=\"{reason}\"}}")).await?.unwrap_or(0.0))
    };

    let message = v1::LockConferenceRequest { request_id: request_id(), conference_id: conference.id.clone(), ..Default::default() };
    let mut request = Request::new(message.clone());
    request.metadata_mut().insert("elph-actor", "somebody".parse()?);
    ensure!(reason(ConferenceServiceClient::new(reader.clone()).lock_conference(request).await)? == Reason::MissingScope);
    ensure!(count("MISSING_SCOPE").await? == 1.0);
    let record = files.audited("the refusal", |it| it["request_id"] == message.request_id.as_str()).await?;
    ensure!(record["method"] == "ConferenceService/LockConference" && record["caller"] == "reader", "{record}");
    ensure!(record["outcome"] == "PERMISSION_DENIED" && record["reason"] == "MISSING_SCOPE", "{record}");
    ensure!(record["claimed_actor"] == "somebody" && record["objects"]["id"] == conference.id.as_str(), "{record}");

    let login = v1::AuthenticateSubscriberRequest { domain: ONE.to_owned(), login: "1001".to_owned(), password: "hush-hush".to_owned() };
    let mut directory = DirectoryServiceClient::new(reader.clone());
    ensure!(reason(directory.authenticate_subscriber(login.clone()).await)? == Reason::CredentialsRejected);
    ensure!(reason(directory.authenticate_subscriber(login).await)? == Reason::TooManyAttempts);
    ensure!(count("TOO_MANY_ATTEMPTS").await? == 1.0);
    let record = files.audited("too many attempts", |it| it["reason"] == "TOO_MANY_ATTEMPTS").await?;
    ensure!(record["method"] == "DirectoryService/AuthenticateSubscriber" && record["outcome"] == "RESOURCE_EXHAUSTED", "{record}");
    ensure!(!std::fs::read_to_string(files.path("audit.jsonl"))?.contains("hush-hush"));

    let mut stream = EventServiceClient::new(reader.clone()).subscribe(v1::SubscribeRequest::default()).await;
    if let Ok(stream) = &mut stream {
        let first = tokio::time::timeout(Duration::from_secs(5), stream.get_mut().next()).await?;
        anyhow::bail!("subscribed without the scope: {first:?}");
    }
    let record = files.audited("the stream's refusal", |it| it["method"] == "EventService/Subscribe").await?;
    ensure!(record["reason"] == "MISSING_SCOPE" && record["request_id"] == "", "{record}");
    ensure!(count("MISSING_SCOPE").await? == 2.0);
    stack.stop().await
}
