//! Bad input over gRPC: every wrong field is named, every refusal has its stable reason, and nothing of it harms the agent. Health and
//! reflection answer.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use e2e::{Stack, StackOptions, eventually, meetings::id_of, moderate, phones::reason, pushes::Providers, request_id};
use elph_proto::{
    reason::{ERROR_DOMAIN, Reason},
    v1::{self, create_conference_request::Source},
};
use prost::Message;
use prost_types::FileDescriptorSet;
use rand::{Rng, SeedableRng, rngs::StdRng};
use ssw_core::{ConferenceRequest, LicenceKind};
use tokio_stream::StreamExt;
use tonic::{
    Code, Request, Response, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::{Bytes, http::uri::PathAndQuery},
    transport::Channel,
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient, server_reflection_request::MessageRequest,
    server_reflection_response::MessageResponse,
};
use tonic_types::StatusExt;

/// Every method of the API as gRPC's path.
fn methods() -> anyhow::Result<Vec<String>> {
    let files = FileDescriptorSet::decode(elph_proto::DESCRIPTORS)?;
    let mut methods = Vec::new();
    for file in files.file.iter().filter(|file| file.package() == ERROR_DOMAIN) {
        for service in &file.service {
            methods.extend(service.method.iter().map(|method| format!("/{ERROR_DOMAIN}.{}/{}", service.name(), method.name())));
        }
    }
    ensure!(methods.len() > 45, "{methods:?}");
    Ok(methods)
}

/// The request was refused for exactly these fields.
fn fields<T: std::fmt::Debug>(what: &str, answer: Result<T, Status>, wanted: &[&str]) -> anyhow::Result<()> {
    let status = answer.err().with_context(|| format!("{what}: was not refused"))?;
    ensure!(status.code() == Code::InvalidArgument && Reason::of(&status) == Some(Reason::InvalidRequest), "{what}: {status:?}");
    let violations = status.get_details_bad_request().with_context(|| format!("{what}: no field violations"))?.field_violations;
    let named: BTreeSet<&str> = violations.iter().map(|it| it.field.as_str()).collect();
    ensure!(named == wanted.iter().copied().collect(), "{what}: {named:?} and not {wanted:?}");
    ensure!(violations.iter().all(|it| !it.description.is_empty()), "{what}: {violations:?}");
    ensure!(wanted.iter().any(|field| status.message().starts_with(field)), "{what}: the text names no field: {status:?}");
    Ok(())
}

/// Nothing of it has made the agent panic, and it still serves.
async fn unharmed(stack: &Stack) -> anyhow::Result<()> {
    let log = stack.agent.log();
    let panics: Vec<&str> = log.lines().filter(|line| line.contains("panic") || line.contains("broke off")).collect();
    ensure!(panics.is_empty(), "{panics:?}");
    ensure!(stack.agent.is_ready().await, "the agent is not ready any more");
    stack.about().get_agent(v1::GetAgentRequest {}).await?;
    Ok(())
}

#[tokio::test]
async fn an_empty_request_of_every_method_is_told_all_its_missing_fields() -> anyhow::Result<()> {
    let providers = Providers::start().await?;
    let stack = providers.stack().await?;
    let (mut calls, mut meetings, mut directory, mut events) = (stack.calls(), stack.conferences(), stack.directory(), stack.events());
    let mut done = BTreeSet::new();
    macro_rules! empty {
        ($client:ident $service:literal: $($method:ident $name:ident $request:ident [$($field:literal),*];)+) => { $(
            let path = format!("/{ERROR_DOMAIN}.{}/{}", $service, stringify!($name));
            fields(&path, $client.$method(v1::$request::default()).await, &[$($field),*])?;
            done.insert(path);
        )+ };
    }
    empty! { calls "CallService":
        list_calls ListCalls ListCallsRequest ["domain"];
        get_call GetCall GetCallRequest ["call_id"];
        watch_call WatchCall WatchCallRequest ["call_id"];
        make_call MakeCall MakeCallRequest ["request_id", "domain", "from_alias", "to_number"];
        answer_call AnswerCall AnswerCallRequest ["request_id", "leg"];
        reject_call RejectCall RejectCallRequest ["request_id", "leg"];
        release_leg ReleaseLeg ReleaseLegRequest ["request_id", "leg"];
        release_call ReleaseCall ReleaseCallRequest ["request_id", "call_id"];
        hold_call HoldCall HoldCallRequest ["request_id", "leg"];
        retrieve_call RetrieveCall RetrieveCallRequest ["request_id", "leg"];
        transfer_call TransferCall TransferCallRequest ["request_id", "leg", "to_number"];
        consult_call ConsultCall ConsultCallRequest ["request_id", "leg", "to_number"];
        complete_transfer CompleteTransfer CompleteTransferRequest ["request_id", "held_leg", "consultation_leg"];
        cancel_transfer CancelTransfer CancelTransferRequest ["request_id", "held_leg", "consultation_leg"];
        join_calls JoinCalls JoinCallsRequest ["request_id", "held_leg", "active_leg"];
        deflect_call DeflectCall DeflectCallRequest ["request_id", "leg", "to_number"];
        send_dtmf SendDtmf SendDtmfRequest ["request_id", "leg", "digits"];
    }
    empty! { meetings "ConferenceService":
        list_conferences ListConferences ListConferencesRequest ["domain"];
        get_conference GetConference GetConferenceRequest ["conference_id"];
        list_floor_requests ListFloorRequests ListFloorRequestsRequest ["conference_id"];
        create_conference CreateConference CreateConferenceRequest ["request_id", "domain"];
        invite_participants InviteParticipants InviteParticipantsRequest ["request_id", "conference_id", "numbers"];
        cancel_invitation CancelInvitation CancelInvitationRequest ["request_id", "conference_id", "participant_id"];
        remove_participant RemoveParticipant RemoveParticipantRequest ["request_id", "conference_id", "participant_id"];
        mute_participant MuteParticipant MuteParticipantRequest ["request_id", "conference_id", "participant_id"];
        unmute_participant UnmuteParticipant UnmuteParticipantRequest ["request_id", "conference_id", "participant_id"];
        ask_to_unmute AskToUnmute AskToUnmuteRequest ["request_id", "conference_id", "participant_id"];
        mute_all MuteAll MuteAllRequest ["request_id", "conference_id", "may_unmute_themselves"];
        grant_floor GrantFloor GrantFloorRequest ["request_id", "conference_id", "participant_id"];
        deny_floor DenyFloor DenyFloorRequest ["request_id", "conference_id", "participant_id"];
        set_role SetRole SetRoleRequest ["request_id", "conference_id", "participant_id", "role"];
        lock_conference LockConference LockConferenceRequest ["request_id", "conference_id"];
        unlock_conference UnlockConference UnlockConferenceRequest ["request_id", "conference_id"];
        hold_participant HoldParticipant HoldParticipantRequest ["request_id", "conference_id", "participant_id"];
        retrieve_participant RetrieveParticipant RetrieveParticipantRequest ["request_id", "conference_id", "participant_id"];
        move_participant MoveParticipant MoveParticipantRequest
            ["request_id", "conference_id", "participant_id", "to_conference_id"];
        start_recording StartRecording StartRecordingRequest ["request_id", "conference_id"];
        pause_recording PauseRecording PauseRecordingRequest ["request_id", "conference_id"];
        resume_recording ResumeRecording ResumeRecordingRequest ["request_id", "conference_id"];
        stop_recording StopRecording StopRecordingRequest ["request_id", "conference_id"];
        extend_conference ExtendConference ExtendConferenceRequest ["request_id", "conference_id", "by"];
        end_conference EndConference EndConferenceRequest ["request_id", "conference_id"];
    }
    empty! { directory "DirectoryService":
        list_subscribers ListSubscribers ListSubscribersRequest ["domain"];
        get_subscriber GetSubscriber GetSubscriberRequest ["domain", "alias"];
        list_rooms ListRooms ListRoomsRequest ["domain"];
        authenticate_subscriber AuthenticateSubscriber AuthenticateSubscriberRequest ["domain", "login", "password"];
    }
    let mut push = stack.push();
    empty! { push "PushService":
        register_device RegisterDevice RegisterDeviceRequest ["domain", "alias", "parameters", "request_id"];
        unregister_device UnregisterDevice UnregisterDeviceRequest ["domain", "parameters", "request_id"];
        list_devices ListDevices ListDevicesRequest ["domain"];
        send_push SendPush SendPushRequest ["domain", "order", "request_id"];
        cancel_push CancelPush CancelPushRequest ["domain", "push_id", "request_id"];
        test_device TestDevice TestDeviceRequest ["domain", "device_id", "request_id"];
        get_push GetPush GetPushRequest ["domain", "push_id"];
        list_device_deliveries ListDeviceDeliveries ListDeviceDeliveriesRequest ["domain", "device_id"];
    }
    // In a stream each is refused for itself.
    let mut answers = push.send_pushes(tokio_stream::iter([v1::SendPushesRequest::default()])).await?.into_inner();
    let refused = answers.next().await.context("no answer")??;
    ensure!(refused.refused_reason == Reason::InvalidRequest.as_str() && !refused.refused_message.is_empty(), "{refused:?}");
    // These may be empty.
    push.list_apps(v1::ListAppsRequest {}).await?;
    push.watch_pushes(v1::WatchPushesRequest::default()).await?;
    directory.list_domains(v1::ListDomainsRequest {}).await?;
    events.subscribe(v1::SubscribeRequest::default()).await?;
    stack.about().list_links(v1::ListLinksRequest {}).await?;
    let whole = [
        "DirectoryService/ListDomains",
        "EventService/Subscribe",
        "AgentService/GetAgent",
        "AgentService/ListLinks",
        "PushService/ListApps",
        "PushService/SendPushes",
        "PushService/WatchPushes",
    ];
    done.extend(whole.map(|method| format!("/{ERROR_DOMAIN}.{method}")));
    let missing: Vec<String> = methods()?.into_iter().filter(|method| !done.contains(method)).collect();
    ensure!(missing.is_empty(), "methods without a line here: {missing:?}");
    unharmed(&stack).await?;
    stack.stop().await
}

#[tokio::test]
async fn wrong_values_are_told_by_field_and_what_is_allowed() -> anyhow::Result<()> {
    let stack = Stack::start(StackOptions::default()).await?;
    let conference = stack.gathered("1001", &["1002"]).await?;
    let (id, participant) = (conference.id.clone(), id_of(&conference, "1002")?);
    let domain = || stack.domain().to_owned();
    let (mut calls, mut meetings, mut directory, mut events) = (stack.calls(), stack.conferences(), stack.directory(), stack.events());

    // Pages.
    for page_size in [-1, 1001, i32::MAX, i32::MIN] {
        let list = v1::ListCallsRequest { domain: domain(), page_size, ..Default::default() };
        fields("page size", calls.list_calls(list).await, &["page_size"])?;
        let list = v1::ListConferencesRequest { domain: domain(), page_size, ..Default::default() };
        fields("page size", meetings.list_conferences(list).await, &["page_size"])?;
        let list = v1::ListSubscribersRequest { domain: domain(), page_size, ..Default::default() };
        fields("page size", directory.list_subscribers(list).await, &["page_size"])?;
    }
    for page_token in ["x", "1", "/", "a/b", "99999999999999999999/x"] {
        let page_token = || page_token.to_owned();
        let list = v1::ListCallsRequest { domain: domain(), page_token: page_token(), ..Default::default() };
        fields("page token", calls.list_calls(list).await, &["page_token"])?;
        let list = v1::ListConferencesRequest { domain: domain(), page_token: page_token(), ..Default::default() };
        fields("page token", meetings.list_conferences(list).await, &["page_token"])?;
        let list = v1::ListSubscribersRequest { domain: domain(), page_token: page_token(), ..Default::default() };
        fields("page token", directory.list_subscribers(list).await, &["page_token"])?;
    }
    // Domains and states.
    for domain in ["", "a b", "a\u{7}b", "\n", &"d".repeat(300)] {
        let list = v1::ListConferencesRequest { domain: domain.to_owned(), ..Default::default() };
        fields("domain", meetings.list_conferences(list).await, &["domain"])?;
    }
    for states in [vec![0], vec![2, 99], vec![-1]] {
        let list = v1::ListCallsRequest { domain: domain(), states, ..Default::default() };
        fields("states", calls.list_calls(list).await, &["states"])?;
    }
    let both =
        v1::ListCallsRequest { domain: String::new(), page_size: -5, page_token: "x".to_owned(), states: vec![7], alias: "x".repeat(65) };
    fields("all at once", calls.list_calls(both).await, &["domain", "page_size", "page_token", "states", "alias"])?;

    // Ids.
    let too_long = "i".repeat(129);
    for bad in ["", "a\u{0}b", "line\nbreak", too_long.as_str()] {
        let get = v1::GetConferenceRequest { conference_id: bad.to_owned() };
        fields("conference id", meetings.get_conference(get).await, &["conference_id"])?;
        let get = v1::GetCallRequest { call_id: bad.to_owned() };
        fields("call id", calls.get_call(get).await, &["call_id"])?;
    }
    for bad in ["", "with space", "tab\t", "ключ", &"r".repeat(65)] {
        let lock = v1::LockConferenceRequest { request_id: bad.to_owned(), conference_id: id.clone(), ..Default::default() };
        fields("request id", meetings.lock_conference(lock).await, &["request_id"])?;
    }

    // Legs and digits.
    let leg = |call_id: &str, leg_id: &str, device: &str| {
        Some(v1::LegSelector { call_id: call_id.to_owned(), leg_id: leg_id.to_owned(), device: device.to_owned() })
    };
    let hold = |leg| v1::HoldCallRequest { request_id: request_id(), leg };
    fields("empty leg", calls.hold_call(hold(leg("", "", ""))).await, &["leg.call_id", "leg.leg_id"])?;
    fields("leg", calls.hold_call(hold(leg("c", "a\u{1}", &"d".repeat(129)))).await, &["leg.leg_id", "leg.device"])?;
    for digits in ["", "12E", "1 2", "１２", "1\n", &"1".repeat(33)] {
        let dtmf = v1::SendDtmfRequest { request_id: request_id(), leg: leg("c", "l", ""), digits: digits.to_owned() };
        fields("digits", calls.send_dtmf(dtmf).await, &["digits"])?;
    }
    for to_number in ["", "10 02", "1002\r\n", "<1002>", "\"", &"9".repeat(65)] {
        let to_number = to_number.to_owned();
        let make = v1::MakeCallRequest { request_id: request_id(), domain: domain(), from_alias: "1001".to_owned(), to_number };
        fields("number", calls.make_call(make).await, &["to_number"])?;
    }

    // Conferences.
    let create = || v1::CreateConferenceRequest { request_id: request_id(), domain: domain(), ..Default::default() };
    for name in ["a\nb", "\u{1b}[31m", &"n".repeat(129)] {
        fields("name", meetings.create_conference(v1::CreateConferenceRequest { name: name.to_owned(), ..create() }).await, &["name"])?;
    }
    let many: Vec<String> = (0..501).map(|at| (20_000 + at).to_string()).collect();
    let crowd = v1::CreateConferenceRequest { numbers: many.clone(), ..create() };
    fields("501 numbers", meetings.create_conference(crowd).await, &["numbers"])?;
    let odd = v1::CreateConferenceRequest {
        numbers: vec!["1001".to_owned(), "1 1".to_owned(), String::new()],
        groups: vec!["100".to_owned(), "\n".to_owned()],
        initiator_alias: "a b".to_owned(),
        source: Some(Source::Room(String::new())),
        ..create()
    };
    fields("odd", meetings.create_conference(odd).await, &["numbers[1]", "numbers[2]", "groups[1]", "initiator_alias", "room"])?;
    let groups = v1::CreateConferenceRequest { groups: vec!["100".to_owned(); 101], ..create() };
    fields("101 groups", meetings.create_conference(groups).await, &["groups"])?;
    let template = v1::CreateConferenceRequest { source: Some(Source::Template("t\u{7f}".to_owned())), ..create() };
    fields("template", meetings.create_conference(template).await, &["template"])?;
    let invite = |numbers: Vec<String>, role: i32| v1::InviteParticipantsRequest {
        request_id: request_id(),
        conference_id: id.clone(),
        numbers,
        role,
        ..Default::default()
    };
    fields("501 invited", meetings.invite_participants(invite(many, 0)).await, &["numbers"])?;
    fields("nobody invited", meetings.invite_participants(invite(Vec::new(), 0)).await, &["numbers"])?;
    fields("role", meetings.invite_participants(invite(vec!["1003".to_owned()], 9)).await, &["role"])?;
    for role in [0, 3, -1] {
        let role = v1::SetRoleRequest {
            request_id: request_id(),
            conference_id: id.clone(),
            participant_id: participant.clone(),
            role,
            ..Default::default()
        };
        fields("role", meetings.set_role(role).await, &["role"])?;
    }
    for (seconds, nanos) in [(0, 0), (59, 0), (86_401, 0), (-60, 0), (60, 1), (i64::MAX, 0), (60, -1)] {
        let by = Some(prost_types::Duration { seconds, nanos });
        let extend = v1::ExtendConferenceRequest { request_id: request_id(), conference_id: id.clone(), by, ..Default::default() };
        fields("by", meetings.extend_conference(extend).await, &["by"])?;
    }
    let same = v1::MoveParticipantRequest {
        request_id: request_id(),
        conference_id: id.clone(),
        participant_id: participant.clone(),
        to_conference_id: id.clone(),
        ..Default::default()
    };
    fields("to itself", meetings.move_participant(same).await, &["to_conference_id"])?;

    // Directory.
    let prefix = v1::ListSubscribersRequest { domain: domain(), alias_prefix: "1\u{0}".to_owned(), ..Default::default() };
    fields("prefix", directory.list_subscribers(prefix).await, &["alias_prefix"])?;
    for password in [String::new(), "p".repeat(257)] {
        let login = v1::AuthenticateSubscriberRequest { domain: domain(), login: "1001".to_owned(), password };
        fields("password", directory.authenticate_subscriber(login).await, &["password"])?;
    }
    let get = v1::GetSubscriberRequest { domain: domain(), alias: "10 01".to_owned() };
    fields("alias", directory.get_subscriber(get).await, &["alias"])?;

    // Events.
    let every = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    for heartbeat_interval in [every(0), every(301), every(-1), Some(prost_types::Duration { seconds: 1, nanos: -1 })] {
        let subscribe = v1::SubscribeRequest { heartbeat_interval, ..Default::default() };
        fields("heartbeat", events.subscribe(subscribe).await, &["heartbeat_interval"])?;
    }
    let odd = v1::SubscribeRequest {
        kinds: vec![1, 77],
        domains: vec!["a b".to_owned()],
        aliases: vec!["1001".to_owned(), String::new()],
        conference_ids: vec!["\n".to_owned()],
        ..Default::default()
    };
    fields("filter", events.subscribe(odd).await, &["kinds", "domains[0]", "aliases[1]", "conference_ids[0]"])?;
    // So much is wrong that it cannot all be told: still it is told what.
    let wrong = v1::SubscribeRequest { aliases: vec![String::new(); 1000], ..Default::default() };
    let told = events.subscribe(wrong).await.err().and_then(|status| status.get_details_bad_request()).context("no violations")?;
    ensure!((10..100).contains(&told.field_violations.len()), "{} violations", told.field_violations.len());
    let many = vec!["x".to_owned(); 1001];
    let odd = v1::SubscribeRequest { domains: many.clone(), aliases: many.clone(), conference_ids: many, ..Default::default() };
    fields("long filter", events.subscribe(odd).await, &["domains", "aliases", "conference_ids"])?;

    // Nothing of all that was done.
    let after = stack.same_as_switch(&id).await?;
    ensure!(after.version == conference.version && stack.sim.switch().conferences(None).len() == 1);
    unharmed(&stack).await?;
    stack.stop().await
}

/// Sends bytes as they are and takes whatever comes.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(buffer, &item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = bytes::Buf::remaining(buffer);
        Ok(Some(bytes::Buf::copy_to_bytes(buffer, length)))
    }
}

/// Calls a method by its path with bytes as the message: its status, or the first message.
async fn raw(channel: &Channel, path: &str, message: Vec<u8>) -> anyhow::Result<Result<Bytes, Status>> {
    let mut client = Grpc::new(channel.clone());
    client.ready().await?;
    let path: PathAndQuery = path.parse()?;
    let ask = async {
        let mut stream = client.server_streaming(Request::new(message), path, Raw).await?.into_inner();
        match stream.next().await {
            Some(first) => first,
            None => Ok(Bytes::new()),
        }
    };
    tokio::time::timeout(e2e::PATIENCE, ask).await.context("no answer in time")
}

#[tokio::test]
async fn unknown_methods_malformed_and_oversized_messages_are_refused_and_do_no_harm() -> anyhow::Result<()> {
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let providers = Providers::start().await?;
    let stack = providers.stack().await?;
    let channel = stack.channel();
    for service in ["CallService", "ConferenceService", "DirectoryService", "EventService", "PushService", "AgentService", "NoSuchService"]
    {
        let status = raw(&channel, &format!("/{ERROR_DOMAIN}.{service}/NoSuchMethod"), Vec::new()).await?;
        ensure!(status.as_ref().is_err_and(|it| it.code() == Code::Unimplemented), "{service}: {status:?}");
    }
    let methods = methods()?;
    for path in &methods {
        // A field of 2^35 bytes, a varint without an end, text that is no UTF-8, a group that is never closed, a wrong wire type.
        let malformed: [&[u8]; 5] =
            [&[0x0a, 0xff, 0xff, 0xff, 0xff, 0x7f], &[0x08, 0xff, 0xff], &[0x0a, 0x02, 0xc3, 0x28], &[0x0b, 0x08, 0x01], &[0x0d, 0x01]];
        for message in malformed {
            let answer = raw(&channel, path, message.to_vec()).await?;
            // Requests without fields skip what they do not know.
            let skipped = message.starts_with(&[0x0a, 0x02]) && answer.is_ok();
            if !skipped {
                stable(&format!("{path}: {message:?}"), answer, Reason::InvalidRequest)?;
            }
        }
        // A watch that was asked for well is silent until something happens.
        let tries = if path.ends_with("/WatchPushes") { 0 } else { 20 };
        for _ in 0..tries {
            let message: Vec<u8> = (0..rng.random_range(1..60)).map(|_| rng.random()).collect();
            let answer = raw(&channel, path, message.clone()).await?;
            let code = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
            ensure!(code != Code::Unknown, "{path}: {message:?}: {answer:?}");
        }
        // More than a message may have: whatever it says, it is not read.
        let answer = raw(&channel, path, vec![0x0a; (1 << 20) + 1]).await?;
        stable(path, answer, Reason::MessageTooLarge)?;
    }
    unharmed(&stack).await?;
    // The same connection still serves.
    let list = v1::ListCallsRequest { domain: stack.domain().to_owned(), ..Default::default() };
    v1::call_service_client::CallServiceClient::new(channel).list_calls(list).await?;
    stack.stop().await
}

/// The refusal's reason, with the domain that makes it ours and the reason's own code.
fn stable<T: std::fmt::Debug>(what: &str, answer: Result<T, Status>, wanted: Reason) -> anyhow::Result<()> {
    let status = answer.err().with_context(|| format!("{what}: was not refused"))?;
    let info = status.get_details_error_info().with_context(|| format!("{what}: no ErrorInfo in {status:?}"))?;
    ensure!((info.reason.as_str(), info.domain.as_str()) == (wanted.as_str(), ERROR_DOMAIN), "{what}: {status:?}");
    ensure!(status.code() == wanted.code() && !status.message().is_empty(), "{what}: {status:?}");
    Ok(())
}

#[tokio::test]
async fn each_kind_of_refusal_has_its_own_stable_reason() -> anyhow::Result<()> {
    let stack = Stack::start(StackOptions::default()).await?;
    let (domain, switch) = (stack.domain().to_owned(), stack.sim.switch());
    let (mut calls, mut meetings, mut directory) = (stack.calls(), stack.conferences(), stack.directory());
    let make = |from: &str, to: &str| v1::MakeCallRequest {
        request_id: request_id(),
        domain: domain.clone(),
        from_alias: from.to_owned(),
        to_number: to.to_owned(),
    };
    stable("unknown caller", calls.make_call(make("9999", "1001")).await, Reason::UnknownAlias)?;
    stable("unknown number", calls.make_call(make("1001", "9999")).await, Reason::UnknownAlias)?;
    let get = v1::GetSubscriberRequest { domain: domain.clone(), alias: "9999".to_owned() };
    stable("unknown subscriber", directory.get_subscriber(get).await, Reason::UnknownAlias)?;
    let get = v1::GetCallRequest { call_id: "none".to_owned() };
    stable("unknown call", calls.get_call(get).await, Reason::UnknownCall)?;
    let get = v1::GetConferenceRequest { conference_id: "none".to_owned() };
    stable("unknown conference", meetings.get_conference(get).await, Reason::UnknownConference)?;
    let list = v1::ListCallsRequest { domain: "nowhere.local".to_owned(), ..Default::default() };
    stable("unknown domain", calls.list_calls(list).await, Reason::DomainNotGranted)?;

    // A call that is over, a leg that is not there.
    let call = stack.talk("1001", "1002").await?;
    let leg = |device: &str| Some(v1::LegSelector { call_id: call.id.clone(), leg_id: String::new(), device: device.to_owned() });
    stable("unknown leg", calls.hold_call(v1::HoldCallRequest { request_id: request_id(), leg: leg("1077") }).await, Reason::UnknownLeg)?;
    let answer = v1::AnswerCallRequest { request_id: request_id(), leg: leg("1002") };
    stable("answered twice", calls.answer_call(answer).await, Reason::WrongState)?;
    calls.release_call(v1::ReleaseCallRequest { request_id: request_id(), call_id: call.id.clone() }).await?;
    stable("finished call", calls.hold_call(v1::HoldCallRequest { request_id: request_id(), leg: leg("1001") }).await, Reason::CallEnded)?;
    let again = v1::ReleaseCallRequest { request_id: request_id(), call_id: call.id.clone() };
    stable("finished call", calls.release_call(again).await, Reason::CallEnded)?;

    // Conferences: full, locked, over, without the right, without the licence.
    let full = stack.meeting(ConferenceRequest { limit: 1, members: vec!["1003".to_owned()], ..ConferenceRequest::default() }).await?;
    let invite = async |conference: &v1::Conference| {
        moderate!(
            stack,
            invite_participants,
            InviteParticipantsRequest { conference_id: conference.id.clone(), numbers: vec!["1004".to_owned()] }
        )
    };
    stable("full conference", invite(&full).await, Reason::ConferenceFull)?;
    let locked = stack.gathered("1005", &[]).await?;
    moderate!(stack, lock_conference, LockConferenceRequest { conference_id: locked.id.clone() })?;
    stable("locked conference", invite(&locked).await, Reason::ConferenceLocked)?;
    moderate!(stack, end_conference, EndConferenceRequest { conference_id: locked.id.clone() })?;
    stable("finished conference", invite(&locked).await, Reason::ConferenceEnded)?;
    switch.set_manager(&domain, "1006", false)?;
    let create = async |initiator: &str, room: Option<&str>| {
        moderate!(
            stack,
            create_conference,
            CreateConferenceRequest {
                domain: domain.clone(),
                initiator_alias: initiator.to_owned(),
                source: room.map(|room| Source::Room(room.to_owned())),
            }
        )
    };
    stable("no right", create("1006", None).await, Reason::MissingRight)?;
    create("", Some("800")).await?;
    stable("room taken", create("", Some("800")).await, Reason::AlreadyExists)?;
    switch.set_licence(LicenceKind::Conferences, Some(0), None);
    stable("no licence left", create("", None).await, Reason::LicenceExhausted)?;
    switch.set_licence(LicenceKind::Conferences, None, Some("2021-01-01T00:00:00Z".parse()?));
    stable("expired licence", create("", None).await, Reason::LicenceExpired)?;
    switch.set_licence(LicenceKind::Calls, None, Some("2021-01-01T00:00:00Z".parse()?));
    stable("expired licence", calls.make_call(make("1007", "1008")).await, Reason::LicenceExpired)?;
    unharmed(&stack).await?;
    stack.stop().await
}

#[tokio::test]
async fn health_tells_readiness_and_reflection_describes_every_service() -> anyhow::Result<()> {
    let stack = Stack::start(StackOptions::default()).await?;
    let mut health = HealthClient::new(stack.channel());
    let ours = ["CallService", "ConferenceService", "EventService", "DirectoryService", "AgentService"];
    let names: Vec<String> = ours.iter().map(|name| format!("{ERROR_DOMAIN}.{name}")).collect();
    let ask = |service: &str| HealthCheckRequest { service: service.to_owned() };
    for name in names.iter().map(String::as_str).chain([""]) {
        let mut health = health.clone();
        eventually("it serves", async || {
            let answer = health.clone().check(ask(name)).await.ok()?;
            (answer.into_inner().status() == ServingStatus::Serving).then_some(())
        })
        .await?;
        health.check(ask(name)).await?;
    }
    let unknown = health.check(ask("elph.agent.v1.NoSuchService")).await;
    ensure!(unknown.is_err_and(|status| status.code() == Code::NotFound));
    // Whoever watches hears of a switch that is gone and of its return.
    let mut watch = health.watch(ask(&format!("{ERROR_DOMAIN}.CallService"))).await?.into_inner();
    let mut next = async || -> anyhow::Result<ServingStatus> {
        let told = tokio::time::timeout(e2e::PATIENCE, watch.next()).await.context("nothing told in time")?;
        Ok(told.context("the stream ended")??.status())
    };
    ensure!(next().await? == ServingStatus::Serving);
    stack.sim.faults().set_node(0, false);
    ensure!(next().await? == ServingStatus::NotServing);
    stack.sim.faults().set_node(0, true);
    ensure!(next().await? == ServingStatus::Serving);

    let mut reflection = ServerReflectionClient::new(stack.channel());
    let requests =
        |message: MessageRequest| tokio_stream::iter([ServerReflectionRequest { host: String::new(), message_request: Some(message) }]);
    let mut answers = reflection.server_reflection_info(requests(MessageRequest::ListServices(String::new()))).await?.into_inner();
    let listed = answers.next().await.context("no answer")??.message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = listed else { anyhow::bail!("{listed:?}") };
    let listed: BTreeSet<String> = list.service.into_iter().map(|service| service.name).collect();
    ensure!(names.iter().all(|name| listed.contains(name)) && listed.contains("grpc.health.v1.Health"), "{listed:?}");
    for name in &names {
        let asked = requests(MessageRequest::FileContainingSymbol(name.clone()));
        let mut answers = reflection.server_reflection_info(asked).await?.into_inner();
        let told = answers.next().await.context("no answer")??.message_response;
        ensure!(
            matches!(&told, Some(MessageResponse::FileDescriptorResponse(files)) if !files.file_descriptor_proto.is_empty()),
            "{told:?}"
        );
    }
    unharmed(&stack).await?;
    // Who watches is told of the end, and holds nobody up.
    let began = Instant::now();
    let ending = tokio::spawn(stack.stop());
    ensure!(next().await? == ServingStatus::NotServing);
    ending.await??;
    ensure!(began.elapsed() < Duration::from_secs(5), "the end took {:?}", began.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_its_command_to_be_finished() -> anyhow::Result<()> {
    let stack = Stack::start(StackOptions::default()).await?;
    stack.sim.faults().set_delay(ssw_sim::Link::CallApi, 0, Duration::from_millis(300));
    let request = v1::CreateConferenceRequest {
        request_id: request_id(),
        domain: stack.domain().to_owned(),
        name: "Left alone".to_owned(),
        ..Default::default()
    };
    let mut client = stack.conferences();
    // The caller hangs up in the middle of it.
    let cut = tokio::time::timeout(Duration::from_millis(100), client.create_conference(request.clone())).await;
    ensure!(cut.is_err(), "it was answered too early to be cut: {cut:?}");
    let answer: Response<v1::CreateConferenceResponse> = client.create_conference(request.clone()).await?;
    ensure!(answer.into_inner().conference.is_some_and(|it| it.name == "Left alone"));
    ensure!(stack.sim.switch().conferences(None).len() == 1, "done once");
    let other = v1::CreateConferenceRequest { name: "Other".to_owned(), ..request };
    ensure!(reason(client.create_conference(other).await)? == Reason::RequestIdReused);
    stack.stop().await
}
