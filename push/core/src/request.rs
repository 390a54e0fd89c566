//! What a sender is handed: one push to one target, its payload already written for the provider.

use bytes::Bytes;
use jiff::Timestamp;

use crate::{PushId, Token, WebKeys};

/// How urgent a push is against others. A greater class never waits behind a lesser one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Nobody waits for it.
    Background,
    /// Somebody is spoken to: a message, an invitation.
    Interactive,
    /// A call rings.
    Call,
}

impl Class {
    /// For labels and files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Background => "background",
            Self::Interactive => "interactive",
            Self::Call => "call",
        }
    }
}

/// What the provider is asked to do with a sleeping device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Wake it: APNs 10, FCM HIGH.
    High,
    /// When it suits: APNs 5, FCM NORMAL.
    Normal,
    /// APNs 1: do not wake it at all. FCM has no such thing and gets NORMAL.
    Low,
}

/// Pushes of one key replace each other on the device, and those not yet sent replace each other here. At most 64 octets (APNs).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CollapseKey(String);

impl CollapseKey {
    /// The longest that every provider takes.
    pub const LONGEST: usize = 64;

    /// Checks the text: 1 to 64 printable ASCII characters.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = !text.is_empty() && text.len() <= Self::LONGEST && text.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where a push goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A device.
    Device(Token),
    /// A browser.
    Browser(Token, WebKeys),
    /// FCM: everyone who subscribed to a topic.
    Topic(String),
    /// FCM: a condition over topics.
    Condition(String),
}

/// `apns-push-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are Apple's")]
pub enum ApnsPushType {
    Alert,
    Background,
    Location,
    Voip,
    Complication,
    Fileprovider,
    Mdm,
    Liveactivity,
    Pushtotalk,
    Widgets,
    Controls,
}

impl ApnsPushType {
    /// All of them, as Apple writes them.
    pub const ALL: [(Self, &str); 11] = [
        (Self::Alert, "alert"),
        (Self::Background, "background"),
        (Self::Location, "location"),
        (Self::Voip, "voip"),
        (Self::Complication, "complication"),
        (Self::Fileprovider, "fileprovider"),
        (Self::Mdm, "mdm"),
        (Self::Liveactivity, "liveactivity"),
        (Self::Pushtotalk, "pushtotalk"),
        (Self::Widgets, "widgets"),
        (Self::Controls, "controls"),
    ];

    /// As Apple writes it.
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(it, _)| *it == self).map_or("alert", |(_, name)| name)
    }

    /// Reads Apple's name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, name)| *name == text).map(|(it, _)| *it)
    }

    /// What Apple wants behind the bundle id in the topic.
    pub fn topic_suffix(self) -> &'static str {
        match self {
            Self::Voip => ".voip",
            Self::Complication => ".complication",
            Self::Fileprovider => ".pushkit.fileprovider",
            Self::Location => ".location-query",
            Self::Liveactivity => ".push-type.liveactivity",
            Self::Pushtotalk => ".voip-ptt",
            Self::Widgets => ".push-type.widgets",
            Self::Controls => ".push-type.controls",
            Self::Alert | Self::Background | Self::Mdm => "",
        }
    }
}

/// For APNs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApnsPayload {
    /// Decides the topic's suffix and the size allowed.
    pub push_type: ApnsPushType,
    /// The whole JSON document.
    pub body: Bytes,
}

/// For FCM v1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FcmPayload {
    /// A JSON object: FCM's `Message` without target, `android.priority`, `android.ttl` and `android.collapse_key`, which the sender
    /// writes from the request where the object does not have them.
    pub message: Bytes,
}

/// `Urgency` of RFC 8030.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the RFC's")]
pub enum WebUrgency {
    VeryLow,
    Low,
    Normal,
    High,
}

/// For a browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebPayload {
    /// What the service worker gets; encrypted by the sender.
    pub body: Bytes,
    /// How urgent.
    pub urgency: WebUrgency,
}

/// What the provider is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// For APNs.
    Apns(ApnsPayload),
    /// For FCM.
    Fcm(FcmPayload),
    /// For a browser.
    Web(WebPayload),
    /// For the stub.
    Stub(Bytes),
}

/// One push to one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The same for every attempt.
    pub id: PushId,
    /// Where to.
    pub target: Target,
    /// Against others.
    pub class: Class,
    /// On the device.
    pub priority: Priority,
    /// After this it is worthless: the provider is told to keep it no longer. `None`: as long as the provider likes.
    pub deadline: Option<Timestamp>,
    /// False: the provider delivers it now or never (APNs expiration 0, FCM and web `ttl` 0), whatever the deadline is.
    pub store: bool,
    /// What it replaces on the device.
    pub collapse: Option<CollapseKey>,
    /// What is shown or done.
    pub payload: Payload,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn push_types_are_read_and_written_as_apple_names_them() {
        for (push_type, name) in ApnsPushType::ALL {
            assert_eq!((push_type.as_str(), ApnsPushType::parse(name)), (name, Some(push_type)));
        }
        assert_eq!(ApnsPushType::parse("VOIP"), None);
    }

    #[test]
    fn a_collapse_key_fits_every_provider() {
        assert!(CollapseKey::parse(&"k".repeat(64)).is_some());
        for wrong in ["", "with space", "ключ", &"k".repeat(65)] {
            assert_eq!(CollapseKey::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_call_goes_before_a_message_and_that_before_what_nobody_waits_for() {
        assert!(Class::Call > Class::Interactive && Class::Interactive > Class::Background);
    }
}
