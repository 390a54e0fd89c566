//! An agent with canned answers on a Unix socket (or mutual TLS), and the real `elphctl` run against it.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fmt::Debug,
    io::Write,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use elph_proto::{reason::Reason, v1::*};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio_stream::{Stream, StreamExt, wrappers::UnixListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

/// A request that came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: &'static str,
    pub text: String,
    pub authorization: Option<String>,
    pub actor: Option<String>,
}

/// What a stream sends, and whether it then stays open.
pub struct Script<T> {
    pub messages: Vec<T>,
    pub open: bool,
}

#[derive(Default)]
pub struct State {
    pub domains: Vec<Domain>,
    pub calls: Vec<Call>,
    pub conferences: Vec<Conference>,
    pub subscribers: Vec<Subscriber>,
    pub links: Vec<Link>,
    pub invitations: Vec<InvitationResult>,
    pub failures: HashMap<&'static str, Status>,
    pub hanging: HashSet<&'static str>,
    pub subscriptions: VecDeque<Script<SubscribeResponse>>,
    pub watches: VecDeque<Script<Call>>,
    pub apps: Vec<PushApp>,
    pub devices: Vec<Device>,
    pub tested: TestDeviceResponse,
    pub cancelled: PushState,
    pub life: Vec<PushEvent>,
    pub push_watches: VecDeque<Script<WatchPushesResponse>>,
    /// Orders of a stream after whose answers it breaks off.
    pub stream_breaks_after: Option<usize>,
    pub seen: Vec<Seen>,
}

#[derive(Clone, Default)]
pub struct Fake(Arc<Mutex<State>>);

type Boxed<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn played<T: Send + 'static>(script: Option<Script<T>>) -> Boxed<T> {
    let script = script.unwrap_or(Script { messages: Vec::new(), open: true });
    let messages = tokio_stream::iter(script.messages.into_iter().map(Ok));
    if script.open { Box::pin(messages.chain(tokio_stream::pending())) } else { Box::pin(messages) }
}

fn page<T: Clone>(all: &[T], size: i32, token: &str) -> (Vec<T>, String) {
    let (from, size) = (token.parse().unwrap_or(0), if size == 0 { 100 } else { size as usize });
    let end = (from + size).min(all.len());
    (all[from..end].to_vec(), if end < all.len() { end.to_string() } else { String::new() })
}

impl Fake {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub fn fail(&self, method: &'static str, status: Status) {
        self.state().failures.insert(method, status);
    }

    /// The requests of a method.
    pub fn seen(&self, method: &str) -> Vec<Seen> {
        self.state().seen.iter().filter(|seen| seen.method == method).cloned().collect()
    }

    async fn enter<T: Debug>(&self, method: &'static str, request: &Request<T>) -> Result<(), Status> {
        let text = |key: &str| request.metadata().get(key).map(|value| value.to_str().unwrap().to_owned());
        let seen =
            Seen { method, text: format!("{:?}", request.get_ref()), authorization: text("authorization"), actor: text("elph-actor") };
        let hangs = {
            let mut state = self.state();
            state.seen.push(seen);
            if let Some(status) = state.failures.get(method) {
                return Err(status.clone());
            }
            state.hanging.contains(method)
        };
        if hangs {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    fn call(&self, id: &str) -> Result<Option<Call>, Status> {
        self.state().calls.iter().find(|call| call.id == id).cloned().map(Some).ok_or_else(|| Reason::UnknownCall.status("no such call"))
    }

    fn conference(&self, id: &str) -> Result<Option<Conference>, Status> {
        let state = self.state();
        let found = state.conferences.iter().find(|conference| conference.id == id).cloned();
        found.map(Some).ok_or_else(|| Reason::UnknownConference.status("no such conference"))
    }
}

macro_rules! service {
    ($service:path { $($method:ident($name:literal, $request:ident) -> $answer:ident = |$fake:ident, $asked:ident| $body:expr;)+ } $($rest:item)*) => {
        #[tonic::async_trait]
        impl $service for Fake {
            $(async fn $method(&self, request: Request<$request>) -> Result<Response<$answer>, Status> {
                self.enter($name, &request).await?;
                let ($fake, $asked) = (self, request.into_inner());
                let _ = &$asked;
                Ok(Response::new($body))
            })+
            $($rest)*
        }
    };
}

#[tonic::async_trait]
impl event_service_server::EventService for Fake {
    type SubscribeStream = Boxed<SubscribeResponse>;

    async fn subscribe(&self, request: Request<SubscribeRequest>) -> Result<Response<Self::SubscribeStream>, Status> {
        self.enter("Subscribe", &request).await?;
        Ok(Response::new(played(self.state().subscriptions.pop_front())))
    }
}

service! { agent_service_server::AgentService {
    get_agent("GetAgent", GetAgentRequest) -> GetAgentResponse = |fake, asked| {
        let _ = fake;
        GetAgentResponse {
            version: "0.1.0".into(), dialect: "documented".into(), call_backend: "csta".into(), conference_backend: "poll".into(),
            unknown_operations: vec!["SetRole".into(), "MoveParticipant".into()], epoch: "e1".into(), oldest_sequence: 3, newest_sequence: 90,
            start_time: Some(before(2 * 86_400 + 3 * 3600 + 1800)),
        }
    };
    list_links("ListLinks", ListLinksRequest) -> ListLinksResponse = |fake, asked| ListLinksResponse { links: fake.state().links.clone() };
} }

service! { directory_service_server::DirectoryService {
    list_domains("ListDomains", ListDomainsRequest) -> ListDomainsResponse = |fake, asked| ListDomainsResponse { domains: fake.state().domains.clone() };
    list_subscribers("ListSubscribers", ListSubscribersRequest) -> ListSubscribersResponse = |fake, asked| {
        let all: Vec<_> = fake.state().subscribers.iter().filter(|one| one.alias.starts_with(&asked.alias_prefix)).cloned().collect();
        let (subscribers, next_page_token) = page(&all, asked.page_size, &asked.page_token);
        ListSubscribersResponse { subscribers, next_page_token, total_size: all.len() as u32 }
    };
    get_subscriber("GetSubscriber", GetSubscriberRequest) -> GetSubscriberResponse = |fake, asked| {
        let subscriber = fake.state().subscribers.iter().find(|one| one.alias == asked.alias).cloned();
        let subscriber = Some(subscriber.ok_or_else(|| Reason::UnknownAlias.status("no such alias"))?);
        let registrations = vec![Registration {
            access_point: "sip1".into(), uri: "sip:1042@10.0.0.7:5060".into(), via_host: "10.0.0.7".into(),
            expires: Some(prost_types::Duration { seconds: 3600, nanos: 0 }), time_left: Some(prost_types::Duration { seconds: 1805, nanos: 0 }),
        }];
        GetSubscriberResponse { subscriber, registrations, regime: Some(Regime { name: "normal".into(), ..Default::default() }), call_ids: vec![] }
    };
    list_rooms("ListRooms", ListRoomsRequest) -> ListRoomsResponse = |fake, asked| {
        let _ = fake;
        ListRoomsResponse { rooms: vec![Room { name: "7001".into(), description: "Planning".into() }] }
    };
    authenticate_subscriber("AuthenticateSubscriber", AuthenticateSubscriberRequest) -> AuthenticateSubscriberResponse = |fake, asked| {
        let _ = fake;
        if asked.password != "right password" {
            return Err(Reason::CredentialsRejected.status(""));
        }
        AuthenticateSubscriberResponse { alias: asked.login }
    };
} }

/// The call that a leg is of.
fn of(leg: Option<LegSelector>) -> String {
    leg.unwrap_or_default().call_id
}

service! { call_service_server::CallService {
    list_calls("ListCalls", ListCallsRequest) -> ListCallsResponse = |fake, asked| {
        let wanted = |call: &&Call| call.domain == asked.domain
            && (if asked.states.is_empty() { call.state() != CallState::Ended } else { asked.states.contains(&call.state) });
        let all: Vec<Call> = fake.state().calls.iter().filter(wanted).cloned().collect();
        let (calls, next_page_token) = page(&all, asked.page_size, &asked.page_token);
        ListCallsResponse { calls, next_page_token }
    };
    get_call("GetCall", GetCallRequest) -> GetCallResponse = |fake, asked| GetCallResponse { call: fake.call(&asked.call_id)? };
    make_call("MakeCall", MakeCallRequest) -> MakeCallResponse = |fake, asked| MakeCallResponse { call: fake.state().calls.first().cloned() };
    answer_call("AnswerCall", AnswerCallRequest) -> AnswerCallResponse = |fake, asked| AnswerCallResponse { call: fake.call(&of(asked.leg))? };
    reject_call("RejectCall", RejectCallRequest) -> RejectCallResponse = |fake, asked| RejectCallResponse { call: fake.call(&of(asked.leg))? };
    release_leg("ReleaseLeg", ReleaseLegRequest) -> ReleaseLegResponse = |fake, asked| ReleaseLegResponse { call: fake.call(&of(asked.leg))? };
    release_call("ReleaseCall", ReleaseCallRequest) -> ReleaseCallResponse = |fake, asked| ReleaseCallResponse { call: fake.call(&asked.call_id)? };
    hold_call("HoldCall", HoldCallRequest) -> HoldCallResponse = |fake, asked| HoldCallResponse { call: fake.call(&of(asked.leg))? };
    retrieve_call("RetrieveCall", RetrieveCallRequest) -> RetrieveCallResponse = |fake, asked| RetrieveCallResponse { call: fake.call(&of(asked.leg))? };
    transfer_call("TransferCall", TransferCallRequest) -> TransferCallResponse = |fake, asked| TransferCallResponse { call: fake.call(&of(asked.leg))? };
    consult_call("ConsultCall", ConsultCallRequest) -> ConsultCallResponse = |fake, asked| {
        ConsultCallResponse { held_call: fake.call(&of(asked.leg))?, consultation_call: fake.state().calls.last().cloned() }
    };
    complete_transfer("CompleteTransfer", CompleteTransferRequest) -> CompleteTransferResponse = |fake, asked| {
        CompleteTransferResponse { call: fake.call(&of(asked.held_leg))? }
    };
    cancel_transfer("CancelTransfer", CancelTransferRequest) -> CancelTransferResponse = |fake, asked| {
        CancelTransferResponse { call: fake.call(&of(asked.held_leg))? }
    };
    join_calls("JoinCalls", JoinCallsRequest) -> JoinCallsResponse = |fake, asked| JoinCallsResponse { call: fake.call(&of(asked.held_leg))? };
    deflect_call("DeflectCall", DeflectCallRequest) -> DeflectCallResponse = |fake, asked| DeflectCallResponse { call: fake.call(&of(asked.leg))? };
    send_dtmf("SendDtmf", SendDtmfRequest) -> SendDtmfResponse = |fake, asked| SendDtmfResponse { call: fake.call(&of(asked.leg))? };
}
    type WatchCallStream = Boxed<WatchCallResponse>;
    async fn watch_call(&self, request: Request<WatchCallRequest>) -> Result<Response<Self::WatchCallStream>, Status> {
        self.enter("WatchCall", &request).await?;
        let script = self.state().watches.pop_front();
        let script = script.map(|script| Script {
            messages: script.messages.into_iter().map(|call| WatchCallResponse { call: Some(call) }).collect(),
            open: script.open,
        });
        Ok(Response::new(played(script)))
    }
}

macro_rules! conference_service {
    ($($method:ident($name:literal, $request:ident) -> $answer:ident;)+) => {
        service! { conference_service_server::ConferenceService {
            list_conferences("ListConferences", ListConferencesRequest) -> ListConferencesResponse = |fake, asked| {
                let all: Vec<_> = fake.state().conferences.iter().filter(|one| one.domain == asked.domain).cloned().collect();
                let (conferences, next_page_token) = page(&all, asked.page_size, &asked.page_token);
                ListConferencesResponse { conferences, next_page_token }
            };
            create_conference("CreateConference", CreateConferenceRequest) -> CreateConferenceResponse = |fake, asked| {
                CreateConferenceResponse { conference: fake.state().conferences.first().cloned() }
            };
            invite_participants("InviteParticipants", InviteParticipantsRequest) -> InviteParticipantsResponse = |fake, asked| {
                InviteParticipantsResponse { conference: fake.conference(&asked.conference_id)?, results: fake.state().invitations.clone() }
            };
            list_floor_requests("ListFloorRequests", ListFloorRequestsRequest) -> ListFloorRequestsResponse = |fake, asked| {
                let conference = fake.conference(&asked.conference_id)?.unwrap_or_default();
                let participants = conference.participants.into_iter().filter(|one| one.floor_requested).collect();
                ListFloorRequestsResponse { participants, version: conference.version }
            };
            move_participant("MoveParticipant", MoveParticipantRequest) -> MoveParticipantResponse = |fake, asked| {
                MoveParticipantResponse { conference: fake.conference(&asked.conference_id)?, to_conference: fake.conference(&asked.to_conference_id)? }
            };
            $($method($name, $request) -> $answer = |fake, asked| $answer { conference: fake.conference(&asked.conference_id)? };)+
        } }
    };
}

conference_service! {
    get_conference("GetConference", GetConferenceRequest) -> GetConferenceResponse;
    cancel_invitation("CancelInvitation", CancelInvitationRequest) -> CancelInvitationResponse;
    remove_participant("RemoveParticipant", RemoveParticipantRequest) -> RemoveParticipantResponse;
    mute_participant("MuteParticipant", MuteParticipantRequest) -> MuteParticipantResponse;
    unmute_participant("UnmuteParticipant", UnmuteParticipantRequest) -> UnmuteParticipantResponse;
    ask_to_unmute("AskToUnmute", AskToUnmuteRequest) -> AskToUnmuteResponse;
    mute_all("MuteAll", MuteAllRequest) -> MuteAllResponse;
    grant_floor("GrantFloor", GrantFloorRequest) -> GrantFloorResponse;
    deny_floor("DenyFloor", DenyFloorRequest) -> DenyFloorResponse;
    set_role("SetRole", SetRoleRequest) -> SetRoleResponse;
    lock_conference("LockConference", LockConferenceRequest) -> LockConferenceResponse;
    unlock_conference("UnlockConference", UnlockConferenceRequest) -> UnlockConferenceResponse;
    hold_participant("HoldParticipant", HoldParticipantRequest) -> HoldParticipantResponse;
    retrieve_participant("RetrieveParticipant", RetrieveParticipantRequest) -> RetrieveParticipantResponse;
    start_recording("StartRecording", StartRecordingRequest) -> StartRecordingResponse;
    pause_recording("PauseRecording", PauseRecordingRequest) -> PauseRecordingResponse;
    resume_recording("ResumeRecording", ResumeRecordingRequest) -> ResumeRecordingResponse;
    stop_recording("StopRecording", StopRecordingRequest) -> StopRecordingResponse;
    extend_conference("ExtendConference", ExtendConferenceRequest) -> ExtendConferenceResponse;
    end_conference("EndConference", EndConferenceRequest) -> EndConferenceResponse;
}

/// A push to each device of the user, one to the device or topic; the user `1666` is not known.
fn accepted(fake: &Fake, order: Option<PushOrder>) -> Result<Vec<AcceptedPush>, Status> {
    let push = |device: &str| AcceptedPush { push_id: format!("push-{device}"), device_id: device.to_owned() };
    match order.and_then(|order| order.target) {
        Some(push_order::Target::User(user)) if user.alias == "1666" => Err(Reason::UnknownAlias.status("no such alias")),
        Some(push_order::Target::User(user)) => {
            Ok(fake.state().devices.iter().filter(|device| device.alias == user.alias).map(|device| push(&device.id)).collect())
        }
        Some(push_order::Target::DeviceId(id)) => Ok(vec![push(&id)]),
        Some(push_order::Target::Topic(_)) => Ok(vec![push("")]),
        None => Err(Reason::InvalidRequest.status("no target")),
    }
}

service! { push_service_server::PushService {
    list_apps("ListApps", ListAppsRequest) -> ListAppsResponse = |fake, asked| ListAppsResponse { apps: fake.state().apps.clone() };
    register_device("RegisterDevice", RegisterDeviceRequest) -> RegisterDeviceResponse = |fake, asked| {
        RegisterDeviceResponse { device: fake.state().devices.first().cloned(), replaced_device_ids: vec!["old".into()] }
    };
    unregister_device("UnregisterDevice", UnregisterDeviceRequest) -> UnregisterDeviceResponse = |fake, asked| {
        UnregisterDeviceResponse { device: fake.state().devices.iter().find(|device| device.id == asked.device_id).cloned() }
    };
    list_devices("ListDevices", ListDevicesRequest) -> ListDevicesResponse = |fake, asked| {
        let wanted = |device: &&Device| device.domain == asked.domain && (asked.alias.is_empty() || device.alias == asked.alias);
        let all: Vec<Device> = fake.state().devices.iter().filter(wanted).cloned().collect();
        let (devices, next_page_token) = page(&all, asked.page_size, &asked.page_token);
        ListDevicesResponse { devices, next_page_token }
    };
    send_push("SendPush", SendPushRequest) -> SendPushResponse = |fake, asked| SendPushResponse { pushes: accepted(fake, asked.order)? };
    cancel_push("CancelPush", CancelPushRequest) -> CancelPushResponse = |fake, asked| {
        CancelPushResponse { state: fake.state().cancelled.into() }
    };
    test_device("TestDevice", TestDeviceRequest) -> TestDeviceResponse = |fake, asked| fake.state().tested.clone();
    get_push("GetPush", GetPushRequest) -> GetPushResponse = |fake, asked| GetPushResponse { events: fake.state().life.clone() };
    list_device_deliveries("ListDeviceDeliveries", ListDeviceDeliveriesRequest) -> ListDeviceDeliveriesResponse = |fake, asked| {
        let events: Vec<_> = fake.state().life.iter().rev().take(asked.page_size as usize).cloned().collect();
        ListDeviceDeliveriesResponse { events }
    };
}
    type SendPushesStream = Boxed<SendPushesResponse>;
    async fn send_pushes(&self, request: Request<Streaming<SendPushesRequest>>) -> Result<Response<Self::SendPushesStream>, Status> {
        let fake = self.clone();
        if let Some(status) = fake.state().failures.get("SendPushes") {
            return Err(status.clone());
        }
        let most = fake.state().stream_breaks_after.take();
        let answers = request.into_inner().map(move |asked| {
            let asked = asked?;
            let text = format!("{asked:?}");
            fake.state().seen.push(Seen { method: "SendPushes", text, authorization: None, actor: None });
            let request_id = asked.request_id;
            Ok(match accepted(&fake, asked.order) {
                Ok(pushes) => SendPushesResponse { request_id, pushes, ..Default::default() },
                Err(status) => SendPushesResponse {
                    request_id,
                    refused_reason: Reason::of(&status).unwrap().as_str().into(),
                    refused_message: status.message().into(),
                    ..Default::default()
                },
            })
        });
        Ok(Response::new(match most {
            Some(most) => Box::pin(answers.take(most).chain(tokio_stream::once(Err(Status::unavailable("reset"))))),
            None => Box::pin(answers),
        }))
    }
    type WatchPushesStream = Boxed<WatchPushesResponse>;
    async fn watch_pushes(&self, request: Request<WatchPushesRequest>) -> Result<Response<Self::WatchPushesStream>, Status> {
        self.enter("WatchPushes", &request).await?;
        Ok(Response::new(played(self.state().push_watches.pop_front())))
    }
}

/// A time some seconds ago.
pub fn before(seconds: i64) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: jiff::Timestamp::now().as_second() - seconds, nanos: 0 }
}

/// A fixed time: 2024-05-01 10:00 UTC, and so many seconds.
pub fn at(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds: 1_714_557_600 + seconds, nanos: 0 })
}

/// What a run left.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// The fake agent, listening, and a home without settings.
pub struct Stage {
    pub fake: Fake,
    pub folder: TempDir,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Every service of the fake.
fn router(fake: &Fake, mut server: Server) -> tonic::transport::server::Router {
    let (reporter, health) = tonic_health::server::health_reporter();
    drop(reporter);
    server
        .add_service(health)
        .add_service(agent_service_server::AgentServiceServer::new(fake.clone()))
        .add_service(call_service_server::CallServiceServer::new(fake.clone()))
        .add_service(conference_service_server::ConferenceServiceServer::new(fake.clone()))
        .add_service(directory_service_server::DirectoryServiceServer::new(fake.clone()))
        .add_service(event_service_server::EventServiceServer::new(fake.clone()))
        .add_service(push_service_server::PushServiceServer::new(fake.clone()))
}

impl Stage {
    pub fn new(fake: Fake) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let incoming = UnixListenerStream::new(UnixListener::bind(folder.path().join("grpc.sock")).unwrap());
        let router = router(&fake, Server::builder());
        let server = tokio::spawn(async move { router.serve_with_incoming(incoming).await.unwrap() });
        Self { fake, folder, server }
    }

    /// The fake over TLS on a free port; clients must show a certificate of `ca`.
    pub async fn tls(fake: Fake, identity: tonic::transport::Identity, ca: &str) -> (Self, u16) {
        let folder = tempfile::tempdir().unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let tls = tonic::transport::ServerTlsConfig::new().identity(identity).client_ca_root(tonic::transport::Certificate::from_pem(ca));
        let router = router(&fake, Server::builder().tls_config(tls).unwrap());
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = tokio::spawn(async move { router.serve_with_incoming(incoming).await.unwrap() });
        (Self { fake, folder, server }, port)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `elphctl` in a clean environment.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_elphctl"));
        command.args(arguments).env_clear().env("HOME", self.folder.path()).env("TZ", "UTC");
        command.env("ELPHCTL_SOCKET", self.path("grpc.sock"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub async fn run(&self, arguments: &[&str]) -> Ran {
        finish(self.command(arguments).spawn().unwrap()).await
    }

    /// Runs at a width.
    pub async fn run_at(&self, columns: u16, arguments: &[&str]) -> Ran {
        finish(self.command(arguments).env("COLUMNS", columns.to_string()).spawn().unwrap()).await
    }

    pub async fn run_with_input(&self, arguments: &[&str], input: &str) -> Ran {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        // The program may end before it reads.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        finish(child).await
    }
}

/// Waits for the end of a program without holding up the fake.
pub async fn finish(child: Child) -> Ran {
    let id = child.id();
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    let output = match tokio::time::timeout(Duration::from_secs(30), ended).await {
        Ok(output) => output.unwrap(),
        Err(_) => {
            let _ = Command::new("kill").args(["-KILL", &id.to_string()]).status();
            panic!("elphctl did not end within 30 s");
        }
    };
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

/// Waits until something is so.
pub async fn until(what: &str, so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !so() {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
