//! `elphctl push`.

use std::{path::PathBuf, time::Duration};

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use elph_proto::v1::{PushClass, PushEnvironment};

use super::{Repeatable, directory::DomainArg, value};

/// Commands about devices and pushes.
#[derive(Debug, Subcommand)]
pub(crate) enum PushCommand {
    /// Lists the configured applications and how their providers are
    Apps,
    /// Lists devices: a user's, or everybody's
    Devices(Devices),
    /// Registers a device, or refreshes its token
    Register(Register),
    /// Removes a device; what waits for it is dropped
    Unregister(Unregister),
    /// Sends a push to a user, a device, a topic or a condition
    Send(SendPush),
    /// Sends many pushes: orders from a file, or one content to many users
    ///
    /// FILE holds an order in each line, a SendPushesRequest in JSON:
    /// {"order": {"user": {"alias": "1042"}, "content": {"title": "Hello"}}}. With --title, --body or another option about the content,
    /// FILE lists aliases instead: the first column of a CSV. An order without a requestId is named by --request-id and by what its line
    /// says: sent again with the same --request-id it is the same push, and a line that is there twice is sent once.
    SendMany(SendMany),
    /// Takes a push back that has not been sent yet; exit code 1 if it is too late
    Cancel {
        /// The push's id
        push: String,
        #[command(flatten)]
        domain: DomainArg,
        #[command(flatten)]
        repeat: Repeatable,
    },
    /// Sends a visible push to a device and says in words what its provider answered
    ///
    /// The exit code is 0 if the provider accepted it, 1 if it refused it, 3 if it could not be reached within half a minute, 4 if its
    /// answer is outstanding.
    Test {
        #[command(flatten)]
        device: DeviceArg,
        /// Rings like a call (APNs: a VoIP push)
        #[arg(long)]
        call: bool,
        #[command(flatten)]
        domain: DomainArg,
        #[command(flatten)]
        repeat: Repeatable,
    },
    /// Shows the life of a push
    Log {
        /// The push's id
        push: String,
        #[command(flatten)]
        domain: DomainArg,
    },
    /// Shows what became of a device's pushes, newest first
    Deliveries {
        #[command(flatten)]
        device: DeviceArg,
        #[command(flatten)]
        domain: DomainArg,
        /// Most steps to show, 1 to 1000
        #[arg(short = 'n', long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
    },
    /// Shows each step in the life of pushes as it happens
    Watch(WatchPushes),
}

/// One device.
#[derive(Debug, Args)]
pub(crate) struct DeviceArg {
    /// The device's id, or as much of its beginning as is unique in the domain
    pub(crate) device: String,
}

/// `push devices`.
#[derive(Debug, Args)]
pub(crate) struct Devices {
    /// Only this user's
    pub(crate) alias: Option<String>,
    /// Only this domain [default: that of the settings, else all you may see]
    #[arg(short, long)]
    pub(crate) domain: Option<String>,
    /// Most devices to show; 0: all
    #[arg(short = 'n', long, default_value_t = 100, value_name = "N")]
    pub(crate) limit: u32,
}

/// Who delivers to a device, and its token.
#[derive(Debug, Args)]
pub(crate) struct Credentials {
    /// The configured application [default: the one that --pn or --provider means]
    #[arg(long)]
    pub(crate) app: Option<String>,
    /// The token; `-` reads it from standard input, so that it shows nowhere
    #[arg(long)]
    pub(crate) token: Option<String>,
    /// Whose token it is [default: that of --app's provider]
    #[arg(long, requires = "token")]
    pub(crate) provider: Option<ProviderArg>,
    /// The parameters as a SIP contact has them: "pn-provider=apns;pn-prid=TOKEN;pn-params=TEAM.TOPIC"; `-` reads them from standard input
    #[arg(long, value_name = "PARAMETERS")]
    pub(crate) pn: Option<String>,
    /// A browser's subscription, the JSON of PushSubscription.toJSON(); `-` reads standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) subscription: Option<PathBuf>,
}

/// Providers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProviderArg {
    /// Apple
    Apns,
    /// Google
    Fcm,
}

/// `push register`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").required(true).args(["token", "pn", "subscription"])))]
pub(crate) struct Register {
    /// The user's alias
    pub(crate) alias: String,
    #[command(flatten)]
    pub(crate) domain: DomainArg,
    #[command(flatten)]
    pub(crate) credentials: Credentials,
    /// Which of Apple's worlds the token is of [default: the application's]
    #[arg(long)]
    pub(crate) environment: Option<EnvironmentArg>,
    /// What it runs on: ios, android, web
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) platform: String,
    /// The user's language, such as ru or en-GB
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) locale: String,
    /// Name of the device; a user's device of the same name and application is replaced
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) label: String,
    /// Pushes only calls to it, for a token of PushKit
    #[arg(long, conflicts_with = "messages_only")]
    pub(crate) calls_only: bool,
    /// Pushes no calls to it
    #[arg(long)]
    pub(crate) messages_only: bool,
    #[command(flatten)]
    pub(crate) repeat: Repeatable,
}

/// Apple's two worlds of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EnvironmentArg {
    /// Of released applications
    Production,
    /// Of applications that a developer runs
    Development,
}

impl From<EnvironmentArg> for PushEnvironment {
    fn from(environment: EnvironmentArg) -> Self {
        match environment {
            EnvironmentArg::Production => Self::Production,
            EnvironmentArg::Development => Self::Development,
        }
    }
}

/// `push unregister`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").required(true).args(["device", "token", "pn", "subscription"])))]
pub(crate) struct Unregister {
    /// The device's id, or as much of its beginning as is unique in the domain
    #[arg(conflicts_with = "app")]
    pub(crate) device: Option<String>,
    #[command(flatten)]
    pub(crate) domain: DomainArg,
    #[command(flatten)]
    pub(crate) credentials: Credentials,
    #[command(flatten)]
    pub(crate) repeat: Repeatable,
}

/// What a push shows or does, and how.
#[derive(Debug, Args)]
pub(crate) struct ContentArgs {
    /// Shown in bold
    #[arg(long, value_name = "TEXT", help_heading = "Content")]
    pub(crate) title: Option<String>,
    /// The text; without title and body nothing is shown, the application is woken
    #[arg(long, value_name = "TEXT", help_heading = "Content")]
    pub(crate) body: Option<String>,
    /// For the application; may be given several times
    #[arg(long, value_name = "KEY=VALUE", help_heading = "Content", value_parser = value::pair)]
    pub(crate) data: Vec<(String, String)>,
    /// Name of a sound in the application
    #[arg(long, value_name = "NAME", help_heading = "Content")]
    pub(crate) sound: Option<String>,
    /// Number at the application's icon
    #[arg(long, value_name = "N", help_heading = "Content")]
    pub(crate) badge: Option<u32>,
    /// Groups what belongs together on the device, such as a chat room
    #[arg(long, value_name = "NAME", help_heading = "Content")]
    pub(crate) thread: Option<String>,
    /// Name of the actions that the application offers with it
    #[arg(long, value_name = "NAME", help_heading = "Content")]
    pub(crate) category: Option<String>,
    /// An extension of the application may change it before it is shown (APNs)
    #[arg(long, help_heading = "Content")]
    pub(crate) mutable: bool,
    /// A whole APNs payload (JSON) in place of the template's
    #[arg(long, value_name = "FILE", help_heading = "Content")]
    pub(crate) apns_payload: Option<PathBuf>,
    /// A whole FCM Message (JSON, without target) in place of the template's
    #[arg(long, value_name = "FILE", help_heading = "Content")]
    pub(crate) fcm_message: Option<PathBuf>,
    /// What a browser's service worker gets in place of the template's
    #[arg(long, value_name = "FILE", help_heading = "Content")]
    pub(crate) webpush_body: Option<PathBuf>,
    /// How urgent it is [default: interactive]
    #[arg(long)]
    pub(crate) class: Option<ClassArg>,
    /// How long it is of use, such as 30s or 2h: it is never sent later [default: a day]
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub(crate) ttl: Option<Duration>,
    /// Replaces what has the same key, on the device and before
    #[arg(long, value_name = "KEY")]
    pub(crate) collapse_key: Option<String>,
}

impl ContentArgs {
    /// Whether anything is said of what is sent, rather than how.
    pub(crate) fn is_given(&self) -> bool {
        let texts = [&self.title, &self.body, &self.sound, &self.thread, &self.category];
        let files = [&self.apns_payload, &self.fcm_message, &self.webpush_body];
        let any = texts.iter().any(|text| text.is_some()) || files.iter().any(|file| file.is_some());
        any || !self.data.is_empty() || self.badge.is_some() || self.mutable
    }

    /// Whether anything is said of how it is sent.
    pub(crate) fn is_tuned(&self) -> bool {
        self.class.is_some() || self.ttl.is_some() || self.collapse_key.is_some()
    }
}

/// Classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ClassArg {
    /// Nobody waits for it
    Background,
    /// Somebody is spoken to
    Interactive,
    /// A call rings: never behind others
    Call,
}

impl From<ClassArg> for PushClass {
    fn from(class: ClassArg) -> Self {
        match class {
            ClassArg::Background => Self::Background,
            ClassArg::Interactive => Self::Interactive,
            ClassArg::Call => Self::Call,
        }
    }
}

/// `push send`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("whom").required(true).args(["alias", "device", "topic", "condition"])))]
pub(crate) struct SendPush {
    /// The user whose devices get it
    pub(crate) alias: Option<String>,
    /// One device instead: its id, or as much of its beginning as is unique in the domain
    #[arg(long, value_name = "ID", conflicts_with = "app")]
    pub(crate) device: Option<String>,
    /// Everybody who subscribed to this topic instead (FCM)
    #[arg(long, requires = "app")]
    pub(crate) topic: Option<String>,
    /// Everybody for whom this is so instead (FCM), such as "'news' in topics && 'ru' in topics"
    #[arg(long, requires = "app")]
    pub(crate) condition: Option<String>,
    /// Only devices of these applications; the application of a topic or condition
    #[arg(long, value_delimiter = ',')]
    pub(crate) app: Vec<String>,
    #[command(flatten)]
    pub(crate) domain: DomainArg,
    #[command(flatten)]
    pub(crate) content: ContentArgs,
    #[command(flatten)]
    pub(crate) repeat: Repeatable,
}

/// `push send-many`.
#[derive(Debug, Args)]
pub(crate) struct SendMany {
    /// Orders or aliases, one a line
    pub(crate) file: PathBuf,
    /// With aliases: only devices of these applications
    #[arg(long, value_delimiter = ',')]
    pub(crate) app: Vec<String>,
    #[command(flatten)]
    pub(crate) domain: DomainArg,
    #[command(flatten)]
    pub(crate) content: ContentArgs,
    /// Goes on after this line of the file
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) after_line: u64,
    #[command(flatten)]
    pub(crate) repeat: Repeatable,
}

/// `push watch`.
#[derive(Debug, Args)]
pub(crate) struct WatchPushes {
    /// Only these domains
    #[arg(short, long, value_delimiter = ',')]
    pub(crate) domain: Vec<String>,
    /// Only these applications
    #[arg(long, value_delimiter = ',')]
    pub(crate) app: Vec<String>,
    /// Only how pushes end
    #[arg(long = "final")]
    pub(crate) final_only: bool,
    /// Ends after so many steps; 0: never
    #[arg(short = 'n', long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) count: u64,
}
