//! What can be asked of the switch. The names are ECMA-269's for calls and RFC 4575's for conferences; how each is written
//! on the wire is CSTA's business, or the dialect's.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{Alias, SwitchCallId, SwitchConferenceId, SwitchLegId, SwitchParticipantId};

/// A leg of a call: ECMA-269's connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LegRef {
    /// The call the leg belongs to.
    pub call: SwitchCallId,
    /// The leg inside it.
    pub leg: SwitchLegId,
}

/// A command about a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallCommand {
    /// Click to call: rings `from`, and when it answers calls `to`.
    Make {
        /// The caller's alias, rung first.
        from: Alias,
        /// The number to call.
        to: Alias,
    },
    /// Answers a ringing leg on behalf of its device.
    Answer(LegRef),
    /// Refuses a ringing leg.
    Reject(LegRef),
    /// Hangs up one leg.
    ReleaseLeg(LegRef),
    /// Hangs up the whole call.
    ReleaseCall(SwitchCallId),
    /// Puts the leg's device on hold.
    Hold(LegRef),
    /// Takes a held leg back.
    Retrieve(LegRef),
    /// Transfers the leg's other party to `to` at once (ECMA-269 single step transfer).
    TransferBlind {
        /// The leg that transfers away.
        leg: LegRef,
        /// Where the other party goes.
        to: Alias,
    },
    /// Holds the leg and calls `to` from its device.
    Consult {
        /// The leg that consults.
        leg: LegRef,
        /// Whom it consults.
        to: Alias,
    },
    /// Joins the held party and the consulted one, leaving the consulting device out.
    TransferComplete {
        /// The held leg of the consulting device.
        held: LegRef,
        /// Its active leg in the consultation call.
        active: LegRef,
    },
    /// Drops the consultation call and takes the held one back.
    TransferCancel {
        /// The held leg of the consulting device.
        held: LegRef,
        /// Its active leg in the consultation call.
        active: LegRef,
    },
    /// Joins held and active call into a three-way.
    Join {
        /// The held leg of the joining device.
        held: LegRef,
        /// Its active leg.
        active: LegRef,
    },
    /// Sends a ringing leg on to another number.
    Deflect {
        /// The ringing leg.
        leg: LegRef,
        /// Where it is to ring instead.
        to: Alias,
    },
    /// Plays DTMF digits into the leg.
    Dtmf {
        /// The leg.
        leg: LegRef,
        /// Digits out of `0-9A-D*#`, at most 32.
        digits: String,
    },
}

/// What a call command brought into being.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallOutcome {
    /// The new call of `Make` and `Consult`, or the resulting one of a transfer or join, where the switch names it.
    pub call: Option<SwitchCallId>,
    /// The commanding device's leg in it, where the switch names it.
    pub leg: Option<SwitchLegId>,
}

/// A participant's role in a conference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Role {
    /// An ordinary participant.
    Participant,
    /// Presenter (host, master).
    Presenter,
}

/// What a conference is created from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConferenceRequest {
    /// Shown name.
    pub name: Option<String>,
    /// The alias that will master it.
    pub initiator: Option<Alias>,
    /// A teleconference room of the domain.
    pub room: Option<String>,
    /// A template of the switch.
    pub template: Option<String>,
    /// Numeric groups whose members are called.
    pub groups: Vec<String>,
    /// Numbers that are called at once.
    pub members: Vec<Alias>,
    /// Most participants at a time; 0 = the switch's own limit.
    pub max_participants: u32,
}

/// A command about a conference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConferenceCommand {
    /// Starts a conference.
    Create(ConferenceRequest),
    /// Calls a number into it.
    Invite {
        /// The conference.
        conference: SwitchConferenceId,
        /// The number to call.
        number: Alias,
        /// The role it will have.
        role: Role,
    },
    /// Stops calling someone who has not answered.
    CancelInvitation(MemberRef),
    /// Hangs a participant up.
    Remove(MemberRef),
    /// Takes the microphone away.
    Mute(MemberRef),
    /// Gives the microphone back.
    Unmute(MemberRef),
    /// Asks the participant to unmute; the decision is theirs.
    AskToUnmute(MemberRef),
    /// Takes every microphone away except the presenters'.
    MuteAll {
        /// The conference.
        conference: SwitchConferenceId,
        /// Whether the muted may unmute themselves.
        may_unmute_themselves: bool,
    },
    /// Gives the floor to someone who asked for it.
    GrantFloor(MemberRef),
    /// Refuses the floor.
    DenyFloor(MemberRef),
    /// Changes a role.
    SetRole {
        /// Whose.
        member: MemberRef,
        /// The new role.
        role: Role,
    },
    /// Lets nobody else in.
    Lock(SwitchConferenceId),
    /// Opens it again.
    Unlock(SwitchConferenceId),
    /// Puts a participant on hold.
    Hold(MemberRef),
    /// Takes a held participant back.
    Retrieve(MemberRef),
    /// Moves a participant to another conference.
    Move {
        /// Who.
        member: MemberRef,
        /// Where to.
        to: SwitchConferenceId,
    },
    /// Starts recording.
    StartRecording(SwitchConferenceId),
    /// Pauses it.
    PauseRecording(SwitchConferenceId),
    /// Goes on recording.
    ResumeRecording(SwitchConferenceId),
    /// Stops it.
    StopRecording(SwitchConferenceId),
    /// Prolongs a conference of limited time.
    Extend {
        /// The conference.
        conference: SwitchConferenceId,
        /// By how many seconds.
        seconds: u32,
    },
    /// Ends the conference for everyone.
    End(SwitchConferenceId),
}

/// A member of a conference.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MemberRef {
    /// The conference.
    pub conference: SwitchConferenceId,
    /// The member inside it.
    pub participant: SwitchParticipantId,
}

/// What a conference command brought into being.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConferenceOutcome {
    /// The new conference of `Create`.
    pub conference: Option<SwitchConferenceId>,
    /// The new member of `Invite` and `Move`.
    pub participant: Option<SwitchParticipantId>,
}

/// The operations whose command names, parameters and services only a dialect knows ([UNKNOWN] in the public documents).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each is the command of the same name above")]
pub enum Operation {
    CallMake,
    CallAnswer,
    CallReject,
    CallReleaseLeg,
    CallRelease,
    CallHold,
    CallRetrieve,
    CallTransferBlind,
    CallConsult,
    CallTransferComplete,
    CallTransferCancel,
    CallJoin,
    CallDeflect,
    CallDtmf,
    /// Lists the legs of every call going on in a domain: the snapshot of the Call API backend.
    CallList,
    ConferenceCreate,
    ConferenceInvite,
    ConferenceCancelInvitation,
    ConferenceRemove,
    ConferenceMute,
    ConferenceUnmute,
    ConferenceAskToUnmute,
    ConferenceMuteAll,
    ConferenceGrantFloor,
    ConferenceDenyFloor,
    ConferenceSetRole,
    ConferenceLock,
    ConferenceUnlock,
    ConferenceHold,
    ConferenceRetrieve,
    ConferenceMove,
    ConferenceStartRecording,
    ConferencePauseRecording,
    ConferenceResumeRecording,
    ConferenceStopRecording,
    ConferenceExtend,
    ConferenceEnd,
}

impl Operation {
    /// Every operation.
    pub const ALL: [Self; 37] = [
        Self::CallMake,
        Self::CallAnswer,
        Self::CallReject,
        Self::CallReleaseLeg,
        Self::CallRelease,
        Self::CallHold,
        Self::CallRetrieve,
        Self::CallTransferBlind,
        Self::CallConsult,
        Self::CallTransferComplete,
        Self::CallTransferCancel,
        Self::CallJoin,
        Self::CallDeflect,
        Self::CallDtmf,
        Self::CallList,
        Self::ConferenceCreate,
        Self::ConferenceInvite,
        Self::ConferenceCancelInvitation,
        Self::ConferenceRemove,
        Self::ConferenceMute,
        Self::ConferenceUnmute,
        Self::ConferenceAskToUnmute,
        Self::ConferenceMuteAll,
        Self::ConferenceGrantFloor,
        Self::ConferenceDenyFloor,
        Self::ConferenceSetRole,
        Self::ConferenceLock,
        Self::ConferenceUnlock,
        Self::ConferenceHold,
        Self::ConferenceRetrieve,
        Self::ConferenceMove,
        Self::ConferenceStartRecording,
        Self::ConferencePauseRecording,
        Self::ConferenceResumeRecording,
        Self::ConferenceStopRecording,
        Self::ConferenceExtend,
        Self::ConferenceEnd,
    ];
}

impl CallCommand {
    /// The dialect's key for this command.
    pub fn operation(&self) -> Operation {
        match self {
            Self::Make { .. } => Operation::CallMake,
            Self::Answer(_) => Operation::CallAnswer,
            Self::Reject(_) => Operation::CallReject,
            Self::ReleaseLeg(_) => Operation::CallReleaseLeg,
            Self::ReleaseCall(_) => Operation::CallRelease,
            Self::Hold(_) => Operation::CallHold,
            Self::Retrieve(_) => Operation::CallRetrieve,
            Self::TransferBlind { .. } => Operation::CallTransferBlind,
            Self::Consult { .. } => Operation::CallConsult,
            Self::TransferComplete { .. } => Operation::CallTransferComplete,
            Self::TransferCancel { .. } => Operation::CallTransferCancel,
            Self::Join { .. } => Operation::CallJoin,
            Self::Deflect { .. } => Operation::CallDeflect,
            Self::Dtmf { .. } => Operation::CallDtmf,
        }
    }
}

impl ConferenceCommand {
    /// The dialect's key for this command.
    pub fn operation(&self) -> Operation {
        match self {
            Self::Create(_) => Operation::ConferenceCreate,
            Self::Invite { .. } => Operation::ConferenceInvite,
            Self::CancelInvitation(_) => Operation::ConferenceCancelInvitation,
            Self::Remove(_) => Operation::ConferenceRemove,
            Self::Mute(_) => Operation::ConferenceMute,
            Self::Unmute(_) => Operation::ConferenceUnmute,
            Self::AskToUnmute(_) => Operation::ConferenceAskToUnmute,
            Self::MuteAll { .. } => Operation::ConferenceMuteAll,
            Self::GrantFloor(_) => Operation::ConferenceGrantFloor,
            Self::DenyFloor(_) => Operation::ConferenceDenyFloor,
            Self::SetRole { .. } => Operation::ConferenceSetRole,
            Self::Lock(_) => Operation::ConferenceLock,
            Self::Unlock(_) => Operation::ConferenceUnlock,
            Self::Hold(_) => Operation::ConferenceHold,
            Self::Retrieve(_) => Operation::ConferenceRetrieve,
            Self::Move { .. } => Operation::ConferenceMove,
            Self::StartRecording(_) => Operation::ConferenceStartRecording,
            Self::PauseRecording(_) => Operation::ConferencePauseRecording,
            Self::ResumeRecording(_) => Operation::ConferenceResumeRecording,
            Self::StopRecording(_) => Operation::ConferenceStopRecording,
            Self::Extend { .. } => Operation::ConferenceExtend,
            Self::End(_) => Operation::ConferenceEnd,
        }
    }
}
