//! From a push to an HTTP request. Fields that many pushes share are put together once, as Apple wants them compressed: the path and the
//! provider token are in no table, of fields that differ in each push only the names.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use push_core::{ApnsPayload, ApnsPushType, Class, CollapseKey, Outcome, Payload, Priority, PushId, Reason, Request, Target, Token};
use push_wire::hpack::{Field, Head};

use crate::{Settings, token::Bearer};

/// The longest document, in octets.
const LONGEST: usize = 4096;
/// Of a VoIP push.
const LONGEST_VOIP: usize = 5120;

const DEVICE: &[u8] = b"/3/device/";
/// `apns-priority`.
const PRIORITIES: [&str; 3] = ["1", "5", "10"];

/// What all requests of one application have in common.
pub(crate) struct Template {
    authority: String,
    /// In the order of [`ApnsPushType::ALL`].
    topics: Vec<String>,
    /// By push type and priority.
    heads: Mutex<Vec<Option<Made>>>,
}

/// With the provider token of this serial number.
type Made = (u64, Arc<Head>);

/// A push, checked.
pub(crate) struct Message {
    pub(crate) class: Class,
    payload: ApnsPayload,
    token: Token,
    id: PushId,
    /// Which of the priorities.
    priority: usize,
    expiration: Option<Cow<'static, str>>,
    collapse: Option<CollapseKey>,
}

// === impl Template ===

impl Template {
    pub(crate) fn new(settings: &Settings) -> Self {
        // The port belongs to the authority unless it is the scheme's own.
        let host = settings.at.to_string();
        let authority = if settings.at.port == 443 { host.trim_end_matches(":443").to_owned() } else { host };
        let topics: Vec<_> = ApnsPushType::ALL.iter().map(|(push_type, _)| settings.topic_of(*push_type)).collect();
        let heads = Mutex::new(vec![None; topics.len() * PRIORITIES.len()]);
        Self { authority, topics, heads }
    }

    /// What requests of one kind share.
    fn head(&self, kind: ApnsPushType, priority: usize, bearer: Option<&Bearer>) -> Arc<Head> {
        let serial = bearer.map_or(0, |bearer| bearer.serial);
        let at = kind as usize * PRIORITIES.len() + priority;
        let mut heads = self.heads.lock();
        if let Some(Some((of, head))) = heads.get(at)
            && *of == serial
        {
            return head.clone();
        }
        let head = Arc::new(self.make(kind, priority, bearer));
        if let Some(place) = heads.get_mut(at) {
            *place = Some((serial, head.clone()));
        }
        head
    }

    fn make(&self, kind: ApnsPushType, priority: usize, bearer: Option<&Bearer>) -> Head {
        let topic = self.topics.get(kind as usize).cloned().unwrap_or_default();
        let mut fields = vec![
            Field::kept(":method", &b"POST"[..]),
            Field::kept(":scheme", &b"https"[..]),
            Field::kept(":authority", self.authority.clone().into_bytes()),
            Field::kept("apns-topic", topic.into_bytes()),
            Field::kept("apns-push-type", kind.as_str().as_bytes()),
            Field::kept("apns-priority", PRIORITIES.get(priority).copied().unwrap_or("5").as_bytes()),
        ];
        if let Some(bearer) = bearer {
            fields.push(Field::secret("authorization", bearer.value.as_bytes().to_vec()));
        }
        Head::new(fields)
    }
}

// === impl Message ===

impl Message {
    /// Finds what Apple would refuse, and writes the rest as Apple wants it.
    pub(crate) fn new(request: Request) -> Result<Self, Outcome> {
        let bad = |reason| Outcome::BadPayload { reason: Reason::known(reason) };
        let fatal = |reason| Outcome::Fatal { reason: Reason::known(reason) };
        let Payload::Apns(payload) = request.payload else { return Err(bad("the payload is not one for APNs")) };
        let Target::Device(token) = request.target else { return Err(fatal("APNs sends to devices only")) };
        let longest = if payload.push_type == ApnsPushType::Voip { LONGEST_VOIP } else { LONGEST };
        if payload.body.is_empty() {
            return Err(bad("PayloadEmpty"));
        }
        if payload.body.len() > longest {
            return Err(bad("PayloadTooLarge"));
        }
        let text = token.expose();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(fatal("BadDeviceToken: the token is not hexadecimal"));
        }
        let priority = match (request.priority, payload.push_type) {
            // Apple refuses a background push of high priority.
            (Priority::High, ApnsPushType::Background) | (Priority::Normal, _) => 1,
            (Priority::High, _) => 2,
            (Priority::Low, _) => 0,
        };
        let expiration = match request.deadline {
            // Stored for nobody: it is delivered now or never.
            _ if !request.store => Some(0),
            Some(deadline) => Some(deadline.as_second().max(0)),
            // A call that has ended must not ring tomorrow.
            None if request.class == Class::Call => Some(0),
            None => None,
        };
        let expiration = expiration.map(|seconds| if seconds == 0 { "0".into() } else { seconds.to_string().into() });
        Ok(Self { class: request.class, payload, token, id: request.id, priority, expiration, collapse: request.collapse })
    }

    /// Hands the request out, put together.
    pub(crate) fn with_request<R>(
        &self,
        template: &Template,
        bearer: Option<&Bearer>,
        send: impl FnOnce(&push_wire::Request<'_>) -> R,
    ) -> R {
        let head = template.head(self.payload.push_type, self.priority, bearer);
        let mut id = [0; uuid::fmt::Hyphenated::LENGTH];
        let id = Field::once("apns-id", self.id.as_uuid().hyphenated().encode_lower(&mut id).as_bytes());
        let path = [DEVICE, self.token.expose().as_bytes()];
        let expiration = self.expiration.as_ref().map(|text| Field::once("apns-expiration", text.as_bytes()));
        let collapse = self.collapse.as_ref().map(|key| Field::once("apns-collapse-id", key.as_str().as_bytes()));
        let request = |own: &[Field<'_>]| send(&push_wire::Request { path: &path, head: &head, own, body: self.body() });
        match (expiration, collapse) {
            (None, None) => request(&[id]),
            (Some(one), None) | (None, Some(one)) => request(&[id, one]),
            (Some(expiration), Some(collapse)) => request(&[id, expiration, collapse]),
        }
    }

    fn body(&self) -> Bytes {
        self.payload.body.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use push_core::{Environment, Provider, WebPayload, WebUrgency};
    use push_wire::{Connection, Limits, hpack::Decoder};

    use super::*;
    use crate::{Auth, ProviderTokens, SystemClock};

    fn settings() -> Settings {
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let tokens = ProviderTokens::new(key.as_bytes(), "KEY4567890", "TEAM567890", Arc::new(SystemClock)).unwrap();
        Settings::new(Environment::Production, "com.example.phone", Auth::Token(tokens))
    }

    fn request(push_type: ApnsPushType) -> Request {
        Request {
            id: PushId::of("a push"),
            target: Target::Device(Token::parse(Provider::Apns, &"0A".repeat(32)).unwrap()),
            class: Class::Interactive,
            priority: Priority::High,
            deadline: Some("2026-01-01T00:00:30.9Z".parse().unwrap()),
            store: true,
            collapse: None,
            payload: Payload::Apns(ApnsPayload { push_type, body: Bytes::from_static(b"{}") }),
        }
    }

    /// The fields as a peer reads them.
    fn head(settings: &Settings, request: Request) -> HashMap<String, String> {
        let (template, message) = (Template::new(settings), Message::new(request).ok().unwrap());
        let mut connection = Connection::new(Limits::default());
        let mut output = Vec::new();
        connection.swap_output(&mut output);
        output.clear();
        connection.swap_output(&mut output);
        message.with_request(&template, None, |request| connection.request(request, ()).unwrap());
        connection.swap_output(&mut output);
        let length = usize::from(output[1]) << 8 | usize::from(output[2]);
        let text = |octets: &[u8]| String::from_utf8(octets.to_vec()).unwrap();
        let mut fields = HashMap::new();
        let read = Decoder::default().decode(&output[9..9 + length], |name, value| drop(fields.insert(text(name), text(value))));
        read.unwrap();
        fields
    }

    fn header<'a>(head: &'a HashMap<String, String>, name: &str) -> Option<&'a str> {
        head.get(name).map(String::as_str)
    }

    #[test]
    fn a_request_says_what_apple_wants_to_know() {
        let mut push = request(ApnsPushType::Alert);
        push.collapse = CollapseKey::parse("room-7");
        let id = push.id.to_string();
        let head = head(&settings(), push);
        let device = format!("/3/device/{}", "0a".repeat(32));
        for (name, value) in [(":method", "POST"), (":scheme", "https"), (":authority", "api.push.apple.com"), (":path", &device)] {
            assert_eq!(header(&head, name), Some(value));
        }
        assert_eq!(header(&head, "apns-id"), Some(&*id));
        assert_eq!(header(&head, "apns-topic"), Some("com.example.phone"));
        assert_eq!(header(&head, "apns-push-type"), Some("alert"));
        assert_eq!(header(&head, "apns-priority"), Some("10"));
        assert_eq!(header(&head, "apns-expiration"), Some("1767225630"));
        assert_eq!(header(&head, "apns-collapse-id"), Some("room-7"));
        assert_eq!(header(&head, "authorization"), None, "a certificate needs none");
    }

    #[test]
    fn each_push_type_has_its_own_name_and_topic_and_topics_can_be_configured() {
        let mut settings = settings();
        settings.topics = HashMap::from([(ApnsPushType::Mdm, "com.apple.mgmt.External.1".to_owned())]);
        settings.at.port = 2197;
        for (push_type, name) in ApnsPushType::ALL {
            let head = head(&settings, request(push_type));
            assert_eq!(header(&head, ":authority"), Some("api.push.apple.com:2197"));
            assert_eq!(header(&head, "apns-push-type"), Some(name));
            let topic = match push_type {
                ApnsPushType::Mdm => "com.apple.mgmt.External.1".to_owned(),
                _ => format!("com.example.phone{}", push_type.topic_suffix()),
            };
            assert_eq!(header(&head, "apns-topic"), Some(&*topic));
        }
    }

    #[test]
    fn a_background_push_is_never_urgent_and_what_is_not_stored_expires_at_once() {
        let head_of = |change: &dyn Fn(&mut Request), push_type| {
            let mut push = request(push_type);
            change(&mut push);
            head(&settings(), push)
        };
        assert_eq!(header(&head_of(&|_| (), ApnsPushType::Background), "apns-priority"), Some("5"));
        assert_eq!(header(&head_of(&|push| push.priority = Priority::Low, ApnsPushType::Alert), "apns-priority"), Some("1"));
        assert_eq!(header(&head_of(&|push| push.store = false, ApnsPushType::Voip), "apns-expiration"), Some("0"));
        let call = head_of(&|push| (push.class, push.deadline) = (Class::Call, None), ApnsPushType::Voip);
        assert_eq!(header(&call, "apns-expiration"), Some("0"), "a call without a deadline is for now");
        assert_eq!(header(&head_of(&|push| push.deadline = None, ApnsPushType::Alert), "apns-expiration"), None);
    }

    #[test]
    fn what_apple_would_refuse_is_not_sent() {
        let sized = |push_type, length: usize| {
            let mut push = request(push_type);
            push.payload = Payload::Apns(ApnsPayload { push_type, body: Bytes::from(vec![b' '; length]) });
            Message::new(push).err().map(|outcome| (outcome.name(), outcome.reason().unwrap().to_string()))
        };
        let refused = |reason: &str| Some(("bad_payload", reason.to_owned()));
        assert_eq!(sized(ApnsPushType::Alert, 4096), None);
        assert_eq!(sized(ApnsPushType::Alert, 4097), refused("PayloadTooLarge"));
        assert_eq!(sized(ApnsPushType::Voip, 5120), None);
        assert_eq!(sized(ApnsPushType::Voip, 5121), refused("PayloadTooLarge"));
        assert_eq!(sized(ApnsPushType::Alert, 0), refused("PayloadEmpty"));
        let mut push = request(ApnsPushType::Alert);
        push.target = Target::Device(Token::parse(Provider::Fcm, "not-of-apple?".trim_end_matches('?')).unwrap());
        assert!(matches!(Message::new(push), Err(Outcome::Fatal { .. })));
        let mut push = request(ApnsPushType::Alert);
        push.payload = Payload::Web(WebPayload { body: Bytes::new(), urgency: WebUrgency::Low });
        assert!(matches!(Message::new(push), Err(Outcome::BadPayload { .. })));
        let mut push = request(ApnsPushType::Alert);
        push.target = Target::Topic("news".to_owned());
        assert!(matches!(Message::new(push), Err(Outcome::Fatal { .. })));
    }
}
