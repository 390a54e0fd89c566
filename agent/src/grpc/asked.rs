//! What every request says about itself: its method and, where it is a command, its request id. The audit log names both, whatever
//! became of the request.

use elph_proto::v1;

/// A request of the API.
pub(super) trait Asked {
    /// The method as logs and the audit write it: `CallService/MakeCall`.
    const METHOD: &'static str;

    /// The caller's request id; empty where the method changes nothing.
    fn request_id(&self) -> &str {
        ""
    }
}

macro_rules! asked {
    ($($service:literal { reads: $($read:ident = $looks:ident),*; changes: $($change:ident = $command:ident),* $(,)? })+) => { $(
        $(impl Asked for v1::$looks {
            const METHOD: &'static str = concat!($service, "/", stringify!($read));
        })*
        $(impl Asked for v1::$command {
            const METHOD: &'static str = concat!($service, "/", stringify!($change));

            fn request_id(&self) -> &str {
                &self.request_id
            }
        })*
    )+ };
}

asked! {
    "CallService" {
        reads: ListCalls = ListCallsRequest, GetCall = GetCallRequest, WatchCall = WatchCallRequest;
        changes:
            MakeCall = MakeCallRequest,
            AnswerCall = AnswerCallRequest,
            RejectCall = RejectCallRequest,
            ReleaseLeg = ReleaseLegRequest,
            ReleaseCall = ReleaseCallRequest,
            HoldCall = HoldCallRequest,
            RetrieveCall = RetrieveCallRequest,
            TransferCall = TransferCallRequest,
            ConsultCall = ConsultCallRequest,
            CompleteTransfer = CompleteTransferRequest,
            CancelTransfer = CancelTransferRequest,
            JoinCalls = JoinCallsRequest,
            DeflectCall = DeflectCallRequest,
            SendDtmf = SendDtmfRequest,
    }
    "ConferenceService" {
        reads:
            ListConferences = ListConferencesRequest,
            GetConference = GetConferenceRequest,
            ListFloorRequests = ListFloorRequestsRequest;
        changes:
            CreateConference = CreateConferenceRequest,
            InviteParticipants = InviteParticipantsRequest,
            CancelInvitation = CancelInvitationRequest,
            RemoveParticipant = RemoveParticipantRequest,
            MuteParticipant = MuteParticipantRequest,
            UnmuteParticipant = UnmuteParticipantRequest,
            AskToUnmute = AskToUnmuteRequest,
            MuteAll = MuteAllRequest,
            GrantFloor = GrantFloorRequest,
            DenyFloor = DenyFloorRequest,
            SetRole = SetRoleRequest,
            LockConference = LockConferenceRequest,
            UnlockConference = UnlockConferenceRequest,
            HoldParticipant = HoldParticipantRequest,
            RetrieveParticipant = RetrieveParticipantRequest,
            MoveParticipant = MoveParticipantRequest,
            StartRecording = StartRecordingRequest,
            PauseRecording = PauseRecordingRequest,
            ResumeRecording = ResumeRecordingRequest,
            StopRecording = StopRecordingRequest,
            ExtendConference = ExtendConferenceRequest,
            EndConference = EndConferenceRequest,
    }
    "DirectoryService" {
        reads:
            ListDomains = ListDomainsRequest,
            ListSubscribers = ListSubscribersRequest,
            GetSubscriber = GetSubscriberRequest,
            ListRooms = ListRoomsRequest,
            AuthenticateSubscriber = AuthenticateSubscriberRequest;
        changes:
    }
    "EventService" { reads: Subscribe = SubscribeRequest; changes: }
    "PushService" {
        reads:
            ListApps = ListAppsRequest,
            ListDevices = ListDevicesRequest,
            GetPush = GetPushRequest,
            ListDeviceDeliveries = ListDeviceDeliveriesRequest,
            WatchPushes = WatchPushesRequest;
        changes:
            RegisterDevice = RegisterDeviceRequest,
            UnregisterDevice = UnregisterDeviceRequest,
            SendPush = SendPushRequest,
            SendPushes = SendPushesRequest,
            CancelPush = CancelPushRequest,
            TestDevice = TestDeviceRequest,
    }
    "AgentService" { reads: GetAgent = GetAgentRequest, ListLinks = ListLinksRequest; changes: }
}
