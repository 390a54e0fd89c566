//! `elphctl conf`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use elph_proto::v1::ParticipantRole;

use super::{Repeatable, value};

/// Commands about conferences.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfCommand {
    /// Lists conferences, newest first
    #[command(visible_alias = "ls")]
    List(ListConferences),
    /// Shows one conference with its participants
    Get {
        #[command(flatten)]
        conference: ConferenceArg,
    },
    /// Shows each change of a conference, until it has ended
    Watch {
        #[command(flatten)]
        conference: ConferenceArg,
    },
    /// Starts a conference: ad hoc, in a room, or from a template
    Create(CreateConference),
    /// Calls numbers into a conference
    Invite(Invite),
    /// Stops calling someone who has not answered
    Cancel(OneParticipant),
    /// Hangs a participant up
    Remove(OneParticipant),
    /// Takes the microphone away from a participant
    Mute(OneParticipant),
    /// Gives the microphone back
    Unmute(OneParticipant),
    /// Asks a participant to unmute; the decision is theirs
    Ask(OneParticipant),
    /// Takes the microphone away from everyone except presenters
    MuteAll {
        #[command(flatten)]
        target: Target,
        /// Whether those who are muted may unmute themselves
        #[arg(long, value_name = "YES|NO", display_order = 0)]
        may_unmute: YesNo,
    },
    /// Who asks for the floor; grants or denies it
    #[command(subcommand)]
    Floor(FloorCommand),
    /// Makes a participant a presenter or an ordinary participant
    Role {
        #[command(flatten)]
        participant: OneParticipant,
        /// The new role
        role: Role,
    },
    /// Lets nobody else in
    Lock(Target),
    /// Lets people in again
    Unlock(Target),
    /// Puts a participant on hold
    Hold(OneParticipant),
    /// Takes a held participant back
    Retrieve(OneParticipant),
    /// Moves a participant to another conference of the domain
    Move {
        #[command(flatten)]
        participant: OneParticipant,
        /// The conference to move to
        #[arg(long, value_name = "CONFERENCE")]
        to: String,
    },
    /// Starts, pauses, resumes or stops recording
    #[command(subcommand)]
    Record(RecordCommand),
    /// Prolongs a conference of limited time
    Extend {
        #[command(flatten)]
        target: Target,
        /// By how much, 1 minute to 24 hours, such as 30m
        #[arg(value_parser = value::duration)]
        by: Duration,
    },
    /// Ends a conference for everyone
    End(Target),
}

/// Commands about the floor.
#[derive(Debug, Subcommand)]
pub(crate) enum FloorCommand {
    /// Lists those who ask for the floor, longest waiting first
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        conference: ConferenceArg,
    },
    /// Gives the floor to a participant who asked for it
    Grant(OneParticipant),
    /// Refuses the floor to a participant who asked for it
    Deny(OneParticipant),
}

/// Commands about recording.
#[derive(Debug, Subcommand)]
pub(crate) enum RecordCommand {
    /// Starts recording
    Start(Target),
    /// Pauses the recording
    Pause(Target),
    /// Goes on recording
    Resume(Target),
    /// Stops recording
    Stop(Target),
}

/// One conference.
#[derive(Debug, Args)]
pub(crate) struct ConferenceArg {
    /// The conference's id, or as much of its beginning as is unique
    pub(crate) conference: String,
}

/// A conference that a command changes.
#[derive(Debug, Args)]
pub(crate) struct Target {
    #[command(flatten)]
    pub(crate) conference: ConferenceArg,
    /// Only if the conference still has this version
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) if_version: u64,
    #[command(flatten)]
    pub(crate) repeat: Repeatable,
}

/// A participant that a command changes.
#[derive(Debug, Args)]
pub(crate) struct OneParticipant {
    #[command(flatten)]
    pub(crate) target: Target,
    /// The participant's id, the unique beginning of it, or the number
    pub(crate) participant: String,
}

/// `conf list`.
#[derive(Debug, Args)]
pub(crate) struct ListConferences {
    /// Only this domain [default: that of the settings, else all you may see]
    #[arg(short, long)]
    pub(crate) domain: Option<String>,
    /// Ended conferences too, as long as the agent remembers them
    #[arg(short, long)]
    pub(crate) all: bool,
    /// With the participants of each (in the JSON)
    #[arg(long)]
    pub(crate) participants: bool,
    /// Most conferences to show; 0: all
    #[arg(short = 'n', long, default_value_t = 100, value_name = "N")]
    pub(crate) limit: u32,
}

/// `conf create`.
#[derive(Debug, Args)]
pub(crate) struct CreateConference {
    /// Shown name
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) name: String,
    /// The domain [default: that of the settings, else the only one you may see]
    #[arg(short, long)]
    pub(crate) domain: Option<String>,
    /// Alias that masters it
    #[arg(long, value_name = "ALIAS", default_value = "", hide_default_value = true)]
    pub(crate) initiator: String,
    /// In this teleconference room
    #[arg(long, conflicts_with = "template")]
    pub(crate) room: Option<String>,
    /// From this template of the switch
    #[arg(long)]
    pub(crate) template: Option<String>,
    /// Numeric groups whose members are called
    #[arg(long, value_name = "GROUP", value_delimiter = ',')]
    pub(crate) group: Vec<String>,
    /// Numbers that are called at once
    #[arg(long, value_name = "NUMBER", value_delimiter = ',')]
    pub(crate) invite: Vec<String>,
    /// Most participants at a time; 0: the switch's own limit
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) max: u32,
    #[command(flatten)]
    pub(crate) repeat: Repeatable,
}

/// `conf invite`.
#[derive(Debug, Args)]
pub(crate) struct Invite {
    #[command(flatten)]
    pub(crate) target: Target,
    /// The numbers, up to 500
    #[arg(required = true, value_name = "NUMBER")]
    pub(crate) numbers: Vec<String>,
    /// Role they will have
    #[arg(long, default_value = "participant")]
    pub(crate) role: Role,
}

/// Roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Ordinary participant
    Participant,
    /// Presenter (host, master)
    Presenter,
}

impl From<Role> for ParticipantRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Participant => Self::Participant,
            Role::Presenter => Self::Presenter,
        }
    }
}

/// Yes or no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum YesNo {
    /// They may
    Yes,
    /// They may not; the floor is theirs to ask for
    No,
}
