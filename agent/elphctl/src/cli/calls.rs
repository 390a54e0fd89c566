//! `elphctl calls`.

use clap::{Args, Subcommand, ValueEnum};
use elph_proto::v1::CallState;

use super::Repeatable;

/// Commands about calls.
#[derive(Debug, Subcommand)]
pub(crate) enum CallsCommand {
    /// Lists calls, newest first
    #[command(visible_alias = "ls")]
    List(ListCalls),
    /// Shows one call with its legs
    Get {
        #[command(flatten)]
        call: CallArg,
    },
    /// Shows a call each time it changes, until it has ended
    Watch {
        #[command(flatten)]
        call: CallArg,
    },
    /// Rings an alias, and when that answers calls a number
    Make(MakeCall),
    /// Answers a ringing leg
    Answer(OneLeg),
    /// Refuses a ringing leg
    Reject(OneLeg),
    /// Hangs up a whole call
    Release {
        #[command(flatten)]
        call: CallArg,
        #[command(flatten)]
        repeat: Repeatable,
    },
    /// Hangs up one leg
    ReleaseLeg(OneLeg),
    /// Puts a leg on hold
    Hold(OneLeg),
    /// Takes a held leg back
    Retrieve(OneLeg),
    /// Sends a leg's other party to a number at once
    Transfer(LegTo),
    /// Holds a leg and calls a number from its device
    Consult(LegTo),
    /// Completes a consultation: connects the other two parties
    Complete(TwoLegs),
    /// Cancels a consultation: takes the held call back
    Cancel(TwoLegs),
    /// Joins a held and an active call of one device
    Join(TwoLegs),
    /// Sends a ringing leg on to another number
    Deflect(LegTo),
    /// Plays DTMF digits into a leg
    Dtmf(Dtmf),
}

/// One call.
#[derive(Debug, Args)]
pub(crate) struct CallArg {
    /// The call's id, or as much of its beginning as is unique
    pub(crate) call: String,
}

/// `calls list`.
#[derive(Debug, Args)]
pub(crate) struct ListCalls {
    /// Only this domain [default: that of the settings, else all you may see]
    #[arg(short, long)]
    pub(crate) domain: Option<String>,
    /// Only calls in these states [default: all that go on]
    #[arg(short, long, value_delimiter = ',', conflicts_with = "all")]
    pub(crate) state: Vec<StateArg>,
    /// Ended calls too, as long as the agent remembers them
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Only calls with a leg of this alias
    #[arg(long)]
    pub(crate) alias: Option<String>,
    /// Most calls to show; 0: all
    #[arg(short = 'n', long, default_value_t = 100, value_name = "N")]
    pub(crate) limit: u32,
}

/// States of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StateArg {
    /// Nobody rings yet
    Initiated,
    /// Rings
    Alerting,
    /// Answered
    Connected,
    /// Over
    Ended,
}

impl From<StateArg> for CallState {
    fn from(state: StateArg) -> Self {
        match state {
            StateArg::Initiated => Self::Initiated,
            StateArg::Alerting => Self::Alerting,
            StateArg::Connected => Self::Connected,
            StateArg::Ended => Self::Ended,
        }
    }
}

/// `calls make`.
#[derive(Debug, Args)]
pub(crate) struct MakeCall {
    /// The caller's alias, which rings first
    pub(crate) from: String,
    /// The number to call then
    pub(crate) to: String,
    /// The alias's domain [default: that of the settings, else the only one you may see]
    #[arg(short, long)]
    pub(crate) domain: Option<String>,
    #[command(flatten)]
    pub(crate) repeat: Repeatable,
}

/// Which leg.
#[derive(Debug, Args)]
pub(crate) struct Choice {
    /// The leg's id [default: the only leg in a fitting state]
    #[arg(long, value_name = "ID", conflicts_with = "device")]
    pub(crate) leg: Option<String>,
    /// The device (alias) whose leg is meant
    #[arg(long)]
    pub(crate) device: Option<String>,
}

/// A command about one leg.
#[derive(Debug, Args)]
pub(crate) struct OneLeg {
    #[command(flatten)]
    pub(crate) call: CallArg,
    #[command(flatten)]
    pub(crate) choice: Choice,
    #[command(flatten)]
    pub(crate) repeat: Repeatable,
}

/// A command about one leg and a number.
#[derive(Debug, Args)]
pub(crate) struct LegTo {
    #[command(flatten)]
    pub(crate) call: CallArg,
    /// The number
    pub(crate) to: String,
    #[command(flatten)]
    pub(crate) choice: Choice,
    #[command(flatten)]
    pub(crate) repeat: Repeatable,
}

/// `calls dtmf`.
#[derive(Debug, Args)]
pub(crate) struct Dtmf {
    #[command(flatten)]
    pub(crate) call: CallArg,
    /// 1 to 32 of 0-9 A-D * #; `-` reads them from standard input, so that a PIN shows nowhere
    pub(crate) digits: String,
    #[command(flatten)]
    pub(crate) choice: Choice,
    #[command(flatten)]
    pub(crate) repeat: Repeatable,
}

/// A command about a device's legs in two calls.
#[derive(Debug, Args)]
pub(crate) struct TwoLegs {
    /// The call in which the device's leg is held (id or unique beginning)
    pub(crate) held_call: String,
    /// The device's other call: the consultation, or the call to join
    pub(crate) other_call: String,
    /// The device (alias) [default: that of the only held leg]
    #[arg(long, conflicts_with_all = ["held_leg", "other_leg"])]
    pub(crate) device: Option<String>,
    /// The held leg's id
    #[arg(long, value_name = "ID", requires = "other_leg")]
    pub(crate) held_leg: Option<String>,
    /// The other leg's id
    #[arg(long, value_name = "ID", requires = "held_leg")]
    pub(crate) other_leg: Option<String>,
    #[command(flatten)]
    pub(crate) repeat: Repeatable,
}
