//! From a push to an HTTP request. Values that many pushes share are made once. Values that differ in each push are marked sensitive:
//! so they stay out of the compression table, where they would only push out what is repeated.

use std::fmt::Write as _;

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request as HttpRequest, Uri,
    header::AUTHORIZATION,
    uri::{Authority, PathAndQuery, Scheme},
};
use push_core::{ApnsPayload, ApnsPushType, Class, Outcome, Payload, Priority, Reason, Request, Target, Token};

use crate::{Settings, SettingsError};

const APNS_ID: HeaderName = HeaderName::from_static("apns-id");
const APNS_TOPIC: HeaderName = HeaderName::from_static("apns-topic");
const APNS_PUSH_TYPE: HeaderName = HeaderName::from_static("apns-push-type");
const APNS_PRIORITY: HeaderName = HeaderName::from_static("apns-priority");
const APNS_EXPIRATION: HeaderName = HeaderName::from_static("apns-expiration");
const APNS_COLLAPSE_ID: HeaderName = HeaderName::from_static("apns-collapse-id");

/// The longest document, in octets.
const LONGEST: usize = 4096;
/// Of a VoIP push.
const LONGEST_VOIP: usize = 5120;

const DEVICE: &str = "/3/device/";
/// What is written for a push beside its token, in one buffer: the path's beginning, the id, the time.
const BESIDE_THE_TOKEN: usize = DEVICE.len() + uuid::fmt::Hyphenated::LENGTH + 20;

/// What all requests of one application have in common.
pub(crate) struct Template {
    authority: Authority,
    /// In the order of [`ApnsPushType::ALL`].
    kinds: Vec<Kind>,
}

struct Kind {
    push_type: HeaderValue,
    topic: HeaderValue,
}

// === impl Template ===

impl Template {
    pub(crate) fn new(settings: &Settings) -> Result<Self, SettingsError> {
        // The port belongs to the authority unless it is the scheme's own.
        let host = settings.at.to_string();
        let host = if settings.at.port == 443 { host.trim_end_matches(":443") } else { &host };
        let authority = host.parse().map_err(|_| SettingsError::Host)?;
        let kind = |(push_type, name): &(ApnsPushType, &'static str)| {
            let topic = HeaderValue::try_from(settings.topic_of(*push_type)).map_err(|_| SettingsError::Topic)?;
            Ok(Kind { push_type: HeaderValue::from_static(name), topic })
        };
        let kinds = ApnsPushType::ALL.iter().map(kind).collect::<Result<_, SettingsError>>()?;
        Ok(Self { authority, kinds })
    }

    /// The request's head.
    pub(crate) fn head(&self, message: &Message, authorization: Option<HeaderValue>) -> Option<HttpRequest<()>> {
        let kind = self.kinds.get(message.payload.push_type as usize)?;
        // Not one more than there are: the next size is too large for what the allocator keeps at hand.
        let mut headers = HeaderMap::with_capacity(6 + usize::from(message.collapse.is_some()));
        if let Some(authorization) = authorization {
            headers.insert(AUTHORIZATION, authorization);
        }
        headers.insert(APNS_TOPIC, kind.topic.clone());
        headers.insert(APNS_PUSH_TYPE, kind.push_type.clone());
        headers.insert(APNS_PRIORITY, HeaderValue::from_static(message.priority));
        headers.insert(APNS_ID, message.id.clone());
        if let Some(expiration) = &message.expiration {
            headers.insert(APNS_EXPIRATION, expiration.clone());
        }
        if let Some(collapse) = &message.collapse {
            headers.insert(APNS_COLLAPSE_ID, collapse.clone());
        }
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(Scheme::HTTPS);
        uri.authority = Some(self.authority.clone());
        uri.path_and_query = Some(message.path.clone());
        let mut head = HttpRequest::new(());
        *head.method_mut() = Method::POST;
        *head.uri_mut() = Uri::from_parts(uri).ok()?;
        *head.headers_mut() = headers;
        Some(head)
    }
}

/// A push, checked.
pub(crate) struct Message {
    pub(crate) class: Class,
    payload: ApnsPayload,
    path: PathAndQuery,
    id: HeaderValue,
    priority: &'static str,
    expiration: Option<HeaderValue>,
    collapse: Option<HeaderValue>,
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
        let mut text = BytesMut::with_capacity(token.expose().len() + BESIDE_THE_TOKEN);
        let path = path(&mut text, &token).ok_or_else(|| fatal("BadDeviceToken: the token is not hexadecimal"))?;
        let priority = match (request.priority, payload.push_type) {
            // Apple refuses a background push of high priority.
            (Priority::High, ApnsPushType::Background) | (Priority::Normal, _) => "5",
            (Priority::High, _) => "10",
            (Priority::Low, _) => "1",
        };
        let expiration = match request.deadline {
            // Stored for nobody: it is delivered now or never.
            _ if !request.store => Some(0),
            Some(deadline) => Some(deadline.as_second().max(0)),
            // A call that has ended must not ring tomorrow.
            None if request.class == Class::Call => Some(0),
            None => None,
        };
        let expiration = match expiration {
            None => None,
            // Most of them, and the same every time.
            Some(0) => Some(HeaderValue::from_static("0")),
            Some(seconds) => {
                write!(text, "{seconds}").map_err(|_| bad("BadExpirationDate"))?;
                Some(own(text.split().freeze()).ok_or_else(|| bad("BadExpirationDate"))?)
            }
        };
        let mut id = [0; uuid::fmt::Hyphenated::LENGTH];
        text.extend_from_slice(request.id.as_uuid().hyphenated().encode_lower(&mut id).as_bytes());
        let id = own(text.split().freeze()).ok_or_else(|| bad("BadMessageId"))?;
        let collapse = match request.collapse {
            Some(key) => Some(own(Bytes::copy_from_slice(key.as_str().as_bytes())).ok_or_else(|| bad("BadCollapseId"))?),
            None => None,
        };
        Ok(Self { class: request.class, payload, path, id, priority, expiration, collapse })
    }

    /// The body.
    pub(crate) fn body(&self) -> Bytes {
        self.payload.body.clone()
    }
}

/// A value that no other push has.
fn own(text: Bytes) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_maybe_shared(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn path(text: &mut BytesMut, token: &Token) -> Option<PathAndQuery> {
    let token = token.expose();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    text.extend_from_slice(DEVICE.as_bytes());
    text.extend_from_slice(token.as_bytes());
    PathAndQuery::from_maybe_shared(text.split().freeze()).ok()
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::Arc};

    use push_core::{CollapseKey, Environment, Provider, PushId, WebPayload, WebUrgency};

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

    fn head(settings: &Settings, request: Request) -> HttpRequest<()> {
        Template::new(settings).unwrap().head(&Message::new(request).ok().unwrap(), None).unwrap()
    }

    fn header<'a>(head: &'a HttpRequest<()>, name: &str) -> Option<&'a str> {
        head.headers().get(name).map(|value| value.to_str().unwrap())
    }

    #[test]
    fn a_request_says_what_apple_wants_to_know() {
        let mut push = request(ApnsPushType::Alert);
        push.collapse = CollapseKey::parse("room-7");
        let id = push.id.to_string();
        let head = head(&settings(), push);
        assert_eq!(head.method(), Method::POST);
        assert_eq!(head.uri().to_string(), format!("https://api.push.apple.com/3/device/{}", "0a".repeat(32)));
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
            assert_eq!(head.uri().authority().unwrap(), "api.push.apple.com:2197");
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
