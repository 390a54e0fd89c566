//! Records of the log. A frame: length of the body (4 octets, little-endian), CRC-32 of length and body (4), body. A body: kind (1),
//! push id (16), for stored pushes a check of the device id (8), then fields as in `wire`. A length of zero ends a file.

use bytes::Bytes;
use push_core::{
    ApnsPayload, ApnsPushType, AppName, Class, CollapseKey, DeviceId, FcmPayload, Payload, Priority, Provider, PushId, Reason, Request,
    Target, Token, UserId, WebKeys, WebPayload, WebUrgency,
};
use uuid::Uuid;

use crate::{
    life::{Job, State},
    options::{millis, time},
    wire::{Fields, Malformed, Value, put_number, put_octets},
};

/// A push was accepted.
pub(crate) const STORED: u8 = 1;
/// An attempt began.
pub(crate) const BEGUN: u8 = 2;
/// An attempt failed, another one follows.
pub(crate) const RETRIED: u8 = 3;
/// A push ended.
pub(crate) const ENDED: u8 = 4;
/// A waiting push, moved here from an older file with what is known about it.
pub(crate) const CARRIED: u8 = 5;

const HEAD: usize = 8;
/// The longest body; what claims to be longer is damage.
pub(crate) const LONGEST: usize = 256 * 1024;

/// What is read at a place of a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    /// A record; the next one is at `next`.
    Whole { record: Record<'a>, next: usize },
    /// Nothing follows.
    End,
    /// Not a record. If its length is true, the next one is at `next`.
    Damaged { next: Option<usize> },
}

/// A record of any kind, also one that is not known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) kind: u8,
    pub(crate) id: PushId,
    rest: &'a [u8],
}

/// What is known of a waiting push beside itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Progress {
    /// Attempts begun.
    pub(crate) attempts: u16,
    /// Of these: failed at the provider, or perhaps there.
    pub(crate) spent: u8,
    /// An attempt may have reached the provider.
    pub(crate) reached: bool,
    /// Not before; milliseconds.
    pub(crate) due: u64,
}

/// A stored push as the index needs it; nothing is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Brief<'a> {
    pub(crate) app: &'a str,
    pub(crate) class: Class,
    pub(crate) received: u64,
    pub(crate) deadline: Option<u64>,
    pub(crate) collapse: Option<&'a [u8]>,
    pub(crate) target: (u8, &'a [u8]),
    pub(crate) provider: Provider,
    pub(crate) progress: Progress,
}

/// A step after the storing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) at: u64,
    pub(crate) state: State,
    pub(crate) progress: Progress,
    pub(crate) reason: Option<Reason>,
    pub(crate) provider_id: Option<String>,
}

mod field {
    pub(super) const APP: u32 = 1;
    pub(super) const RECEIVED: u32 = 2;
    pub(super) const CLASS: u32 = 3;
    pub(super) const PRIORITY: u32 = 4;
    /// One more than the milliseconds: zero is none.
    pub(super) const DEADLINE: u32 = 5;
    pub(super) const STORE: u32 = 6;
    pub(super) const COLLAPSE: u32 = 7;
    pub(super) const DOMAIN: u32 = 8;
    pub(super) const ALIAS: u32 = 9;
    pub(super) const DEVICE: u32 = 10;
    pub(super) const TARGET: u32 = 11;
    pub(super) const ADDRESS: u32 = 12;
    pub(super) const P256DH: u32 = 13;
    pub(super) const AUTH: u32 = 14;
    pub(super) const PAYLOAD: u32 = 15;
    pub(super) const BODY: u32 = 16;
    pub(super) const PUSH_TYPE: u32 = 17;
    pub(super) const URGENCY: u32 = 18;
    // Of every step and of carried pushes.
    pub(super) const ATTEMPTS: u32 = 20;
    pub(super) const SPENT: u32 = 21;
    pub(super) const REACHED: u32 = 22;
    pub(super) const DUE: u32 = 23;
    pub(super) const AT: u32 = 24;
    pub(super) const STATE: u32 = 25;
    pub(super) const REASON: u32 = 26;
    pub(super) const PROVIDER_ID: u32 = 27;
}

const DEVICE: u8 = 1;
const BROWSER: u8 = 2;
const TOPIC: u8 = 3;
const CONDITION: u8 = 4;

const APNS: u64 = 1;
const FCM: u64 = 2;
const WEB: u64 = 3;
const STUB: u64 = 4;

// --- frames

/// Appends a frame; its length.
fn frame(out: &mut Vec<u8>, kind: u8, id: PushId, write: impl FnOnce(&mut Vec<u8>)) -> u32 {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD]);
    out.push(kind);
    out.extend_from_slice(id.as_uuid().as_bytes());
    write(out);
    seal(out, start)
}

fn seal(out: &mut [u8], start: usize) -> u32 {
    let Some((head, body)) = out.get_mut(start..).and_then(|frame| frame.split_at_mut_checked(HEAD)) else { return 0 };
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let (of_length, of_crc) = head.split_at_mut(4);
    of_length.copy_from_slice(&length.to_le_bytes());
    of_crc.copy_from_slice(&crc(length, body).to_le_bytes());
    length.saturating_add(HEAD as u32)
}

fn crc(length: u32, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length.to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

/// Reads the frame that begins `at` there.
pub(crate) fn read(file: &[u8], at: usize) -> Frame<'_> {
    let Some(rest) = file.get(at..) else { return Frame::End };
    let Some((length, rest)) = rest.split_first_chunk::<4>() else { return Frame::End };
    let length = u32::from_le_bytes(*length);
    if length == 0 {
        return Frame::End;
    }
    let Some((sum, rest)) = rest.split_first_chunk::<4>() else { return Frame::Damaged { next: None } };
    if length as usize > LONGEST {
        return Frame::Damaged { next: None };
    }
    let Some(body) = rest.get(..length as usize) else { return Frame::Damaged { next: None } };
    let next = at + HEAD + length as usize;
    if crc(length, body) != u32::from_le_bytes(*sum) {
        return Frame::Damaged { next: Some(next) };
    }
    let record = body.split_first().and_then(|(kind, body)| body.split_first_chunk::<16>().map(|(id, rest)| (*kind, *id, rest)));
    match record {
        Some((kind, id, rest)) => Frame::Whole { record: Record { kind, id: Uuid::from_bytes(id).into(), rest }, next },
        None => Frame::Damaged { next: Some(next) },
    }
}

/// The records of a file from `at` on. A damaged one is stepped over if a whole one follows it; `damaged` counts those, and the octets
/// after the last whole record that are not the file's end.
#[derive(Debug)]
pub(crate) struct Records<'a> {
    file: &'a [u8],
    at: usize,
    /// Damaged records.
    pub(crate) damaged: usize,
    /// Octets behind the last whole record that nothing could be made of.
    pub(crate) torn: usize,
}

impl<'a> Records<'a> {
    pub(crate) fn of(file: &'a [u8], at: usize) -> Self {
        Self { file, at, damaged: 0, torn: 0 }
    }
}

impl<'a> Iterator for Records<'a> {
    /// Place and length of the frame, and the record.
    type Item = (usize, usize, Record<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (at, record, next) = match read(self.file, self.at) {
            Frame::Whole { record, next } => (self.at, record, next),
            Frame::End => return None,
            Frame::Damaged { next } => {
                // Whatever follows a torn write was not promised to anybody; what follows a flipped bit was.
                let after = next.map(|at| (at, read(self.file, at)));
                if let Some((at, Frame::Whole { record, next })) = after {
                    self.damaged += 1;
                    (at, record, next)
                } else {
                    self.torn += self.file.len().saturating_sub(self.at);
                    self.at = self.file.len();
                    return None;
                }
            }
        };
        self.at = next;
        Some((at, next - at, record))
    }
}

// --- stored pushes

/// A number that stands for a device in the log: two devices rarely share one, and the record itself decides.
pub(crate) fn device_check(device: &str) -> u64 {
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    device.bytes().fold(0xcbf2_9ce4_8422_2325, fold) | 1
}

/// Appends an accepted push; the frame's length.
pub(crate) fn put_stored(out: &mut Vec<u8>, job: &Job) -> u32 {
    frame(out, STORED, job.request.id, |out| put_push(out, job))
}

/// Appends a copy of the stored record with what is known by now.
pub(crate) fn put_carried(out: &mut Vec<u8>, stored: Record<'_>, progress: Progress) -> u32 {
    frame(out, CARRIED, stored.id, |out| {
        out.extend_from_slice(stored.rest);
        // Of several fields of one number the last counts.
        put_progress(out, progress);
    })
}

fn put_progress(out: &mut Vec<u8>, progress: Progress) {
    put_number(out, field::ATTEMPTS, progress.attempts.into());
    put_number(out, field::SPENT, progress.spent.into());
    put_number(out, field::REACHED, progress.reached.into());
    put_number(out, field::DUE, progress.due);
}

fn put_push(out: &mut Vec<u8>, job: &Job) {
    let Job { app, user, device, request, received_at } = job;
    let check = device.as_ref().map_or(0, |device| device_check(device.as_str()));
    out.extend_from_slice(&check.to_le_bytes());
    put_octets(out, field::APP, app.as_str().as_bytes());
    put_number(out, field::RECEIVED, millis(*received_at));
    put_number(out, field::CLASS, request.class as u64);
    put_number(out, field::PRIORITY, priority_code(request.priority));
    put_number(out, field::DEADLINE, request.deadline.map_or(0, |deadline| millis(deadline).saturating_add(1)));
    put_number(out, field::STORE, request.store.into());
    if let Some(collapse) = &request.collapse {
        put_octets(out, field::COLLAPSE, collapse.as_str().as_bytes());
    }
    if let Some(user) = user {
        put_octets(out, field::DOMAIN, user.domain.as_bytes());
        put_octets(out, field::ALIAS, user.alias.as_bytes());
    }
    if let Some(device) = device {
        put_octets(out, field::DEVICE, device.as_str().as_bytes());
    }
    let (kind, address) = target(&request.target);
    put_number(out, field::TARGET, kind.into());
    put_octets(out, field::ADDRESS, address);
    if let Target::Browser(_, keys) = &request.target {
        put_octets(out, field::P256DH, keys.p256dh.as_bytes());
        put_octets(out, field::AUTH, keys.auth.as_bytes());
    }
    match &request.payload {
        Payload::Apns(payload) => {
            put_number(out, field::PAYLOAD, APNS);
            put_octets(out, field::PUSH_TYPE, payload.push_type.as_str().as_bytes());
            put_octets(out, field::BODY, &payload.body);
        }
        Payload::Fcm(payload) => {
            put_number(out, field::PAYLOAD, FCM);
            put_octets(out, field::BODY, &payload.message);
        }
        Payload::Web(payload) => {
            put_number(out, field::PAYLOAD, WEB);
            put_number(out, field::URGENCY, urgency_code(payload.urgency));
            put_octets(out, field::BODY, &payload.body);
        }
        Payload::Stub(body) => {
            put_number(out, field::PAYLOAD, STUB);
            put_octets(out, field::BODY, body);
        }
    }
}

/// A target's kind and address.
pub(crate) fn target(target: &Target) -> (u8, &[u8]) {
    match target {
        Target::Device(token) => (DEVICE, token.expose().as_bytes()),
        Target::Browser(token, _) => (BROWSER, token.expose().as_bytes()),
        Target::Topic(topic) => (TOPIC, topic.as_bytes()),
        Target::Condition(condition) => (CONDITION, condition.as_bytes()),
    }
}

fn priority_code(priority: Priority) -> u64 {
    match priority {
        Priority::Normal => 0,
        Priority::High => 1,
        Priority::Low => 2,
    }
}

fn urgency_code(urgency: WebUrgency) -> u64 {
    match urgency {
        WebUrgency::Normal => 0,
        WebUrgency::VeryLow => 1,
        WebUrgency::Low => 2,
        WebUrgency::High => 3,
    }
}

/// A stored push, whole.
#[derive(Debug, Clone, Copy, Default)]
struct Push<'a> {
    app: &'a str,
    received: u64,
    class: u64,
    priority: u64,
    deadline: u64,
    store: bool,
    collapse: Option<&'a str>,
    user: Option<(&'a str, &'a str)>,
    device: Option<&'a str>,
    target: u64,
    address: &'a [u8],
    p256dh: &'a str,
    auth: &'a str,
    payload: u64,
    body: &'a [u8],
    push_type: &'a str,
    urgency: u64,
    progress: Progress,
}

impl<'a> Record<'a> {
    /// The check of the device id; zero: there is none.
    pub(crate) fn device_check(self) -> u64 {
        self.rest.first_chunk::<8>().map_or(0, |check| u64::from_le_bytes(*check))
    }

    fn push(self) -> Result<Push<'a>, Malformed> {
        let mut push = Push::default();
        for read in Fields::of(self.rest.get(8..).ok_or(Malformed)?) {
            let (number, value) = read?;
            match number {
                field::APP => push.app = value.text()?,
                field::RECEIVED => push.received = value.number()?,
                field::CLASS => push.class = value.number()?,
                field::PRIORITY => push.priority = value.number()?,
                field::DEADLINE => push.deadline = value.number()?,
                field::STORE => push.store = value.number()? != 0,
                field::COLLAPSE => push.collapse = Some(value.text()?),
                field::DOMAIN => push.user = Some((value.text()?, "")),
                field::ALIAS => push.user = Some((push.user.map_or("", |(domain, _)| domain), value.text()?)),
                field::DEVICE => push.device = Some(value.text()?),
                field::TARGET => push.target = value.number()?,
                field::ADDRESS => push.address = value.octets()?,
                field::P256DH => push.p256dh = value.text()?,
                field::AUTH => push.auth = value.text()?,
                field::PAYLOAD => push.payload = value.number()?,
                field::BODY => push.body = value.octets()?,
                field::PUSH_TYPE => push.push_type = value.text()?,
                field::URGENCY => push.urgency = value.number()?,
                _ => push.progress.field(number, value)?,
            }
        }
        Ok(push)
    }

    /// What the index needs of a stored or carried push.
    pub(crate) fn brief(self) -> Result<Brief<'a>, Malformed> {
        let push = self.push()?;
        Ok(Brief {
            app: push.app,
            class: class(push.class)?,
            received: push.received,
            deadline: push.deadline.checked_sub(1),
            collapse: push.collapse.map(str::as_bytes),
            target: (u8::try_from(push.target).map_err(|_| Malformed)?, push.address),
            provider: payload_provider(push.payload)?,
            progress: push.progress,
        })
    }

    /// The push of a stored or carried record.
    pub(crate) fn job(self) -> Result<Job, Malformed> {
        let push = self.push()?;
        let address = std::str::from_utf8(push.address).map_err(|_| Malformed)?;
        // The token was checked for its provider when it was registered: here any is a token.
        let token = || Token::parse(Provider::Stub, address).map_err(|_| Malformed);
        let target = match u8::try_from(push.target).map_err(|_| Malformed)? {
            DEVICE => Target::Device(token()?),
            BROWSER => Target::Browser(token()?, WebKeys { p256dh: push.p256dh.to_owned(), auth: push.auth.to_owned() }),
            TOPIC => Target::Topic(address.to_owned()),
            CONDITION => Target::Condition(address.to_owned()),
            _ => return Err(Malformed),
        };
        let body = Bytes::copy_from_slice(push.body);
        let payload = match push.payload {
            APNS => Payload::Apns(ApnsPayload { push_type: ApnsPushType::parse(push.push_type).ok_or(Malformed)?, body }),
            FCM => Payload::Fcm(FcmPayload { message: body }),
            WEB => Payload::Web(WebPayload { body, urgency: urgency(push.urgency)? }),
            STUB => Payload::Stub(body),
            _ => return Err(Malformed),
        };
        let request = Request {
            id: self.id,
            target,
            class: class(push.class)?,
            priority: match push.priority {
                0 => Priority::Normal,
                1 => Priority::High,
                2 => Priority::Low,
                _ => return Err(Malformed),
            },
            deadline: push.deadline.checked_sub(1).map(time),
            store: push.store,
            collapse: push.collapse.map(|key| CollapseKey::parse(key).ok_or(Malformed)).transpose()?,
            payload,
        };
        Ok(Job {
            app: AppName::parse(push.app).map_err(|_| Malformed)?,
            user: push.user.map(|(domain, alias)| UserId { domain: domain.into(), alias: alias.into() }),
            device: push.device.map(DeviceId::parse).transpose().map_err(|_| Malformed)?,
            request,
            received_at: time(push.received),
        })
    }

    /// A step after the storing.
    pub(crate) fn step(self) -> Result<Step, Malformed> {
        let state = match self.kind {
            BEGUN => State::Sent,
            RETRIED => State::Retried,
            _ => State::Failed,
        };
        let mut step = Step { at: 0, state, progress: Progress::default(), reason: None, provider_id: None };
        for read in Fields::of(self.rest) {
            let (number, value) = read?;
            match number {
                field::AT => step.at = value.number()?,
                field::STATE => step.state = State::of_code(value.number()?).ok_or(Malformed)?,
                field::REASON => step.reason = Some(Reason::told(value.text()?)),
                field::PROVIDER_ID => step.provider_id = Some(value.text()?.to_owned()),
                _ => step.progress.field(number, value)?,
            }
        }
        Ok(step)
    }
}

impl Progress {
    fn field(&mut self, number: u32, value: Value<'_>) -> Result<(), Malformed> {
        match number {
            field::ATTEMPTS => self.attempts = u16::try_from(value.number()?).unwrap_or(u16::MAX),
            field::SPENT => self.spent = u8::try_from(value.number()?).unwrap_or(u8::MAX),
            field::REACHED => self.reached = value.number()? != 0,
            field::DUE => self.due = value.number()?,
            _ => {}
        }
        Ok(())
    }
}

fn class(code: u64) -> Result<Class, Malformed> {
    [Class::Background, Class::Interactive, Class::Call].into_iter().find(|class| *class as u64 == code).ok_or(Malformed)
}

fn urgency(code: u64) -> Result<WebUrgency, Malformed> {
    [WebUrgency::Normal, WebUrgency::VeryLow, WebUrgency::Low, WebUrgency::High]
        .into_iter()
        .find(|urgency| urgency_code(*urgency) == code)
        .ok_or(Malformed)
}

fn payload_provider(code: u64) -> Result<Provider, Malformed> {
    match code {
        APNS => Ok(Provider::Apns),
        FCM => Ok(Provider::Fcm),
        WEB => Ok(Provider::Web),
        STUB => Ok(Provider::Stub),
        _ => Err(Malformed),
    }
}

// --- steps

/// Appends that an attempt began.
pub(crate) fn put_begun(out: &mut Vec<u8>, id: PushId, at: u64, attempts: u16) {
    frame(out, BEGUN, id, |out| {
        put_number(out, field::AT, at);
        put_number(out, field::ATTEMPTS, attempts.into());
    });
}

/// Appends that an attempt failed and when the next one is due.
pub(crate) fn put_retried(out: &mut Vec<u8>, id: PushId, at: u64, progress: Progress, reason: Option<&Reason>) {
    frame(out, RETRIED, id, |out| {
        put_number(out, field::AT, at);
        put_progress(out, progress);
        put_reason(out, reason);
    });
}

/// Appends how a push ended.
pub(crate) fn put_ended(
    out: &mut Vec<u8>,
    id: PushId,
    at: u64,
    attempts: u16,
    state: State,
    reason: Option<&Reason>,
    provider_id: Option<&str>,
) {
    frame(out, ENDED, id, |out| {
        put_number(out, field::AT, at);
        put_number(out, field::STATE, state.code());
        put_number(out, field::ATTEMPTS, attempts.into());
        put_reason(out, reason);
        if let Some(provider_id) = provider_id {
            put_octets(out, field::PROVIDER_ID, provider_id.as_bytes());
        }
    });
}

fn put_reason(out: &mut Vec<u8>, reason: Option<&Reason>) {
    if let Some(reason) = reason {
        put_octets(out, field::REASON, reason.as_str().as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn jobs() -> impl Strategy<Value = Job> {
        let targets = prop_oneof![
            "[0-9a-f]{16,64}".prop_map(|token| Target::Device(Token::parse(Provider::Stub, &token).unwrap())),
            "https://[a-z]{1,40}".prop_map(|endpoint| Target::Browser(
                Token::parse(Provider::Web, &endpoint).unwrap(),
                WebKeys { p256dh: "key".to_owned(), auth: "auth".to_owned() }
            )),
            "[a-z]{1,20}".prop_map(Target::Topic),
            ".{0,20}".prop_map(Target::Condition),
        ];
        let payloads = prop_oneof![
            (0_usize..11, ".{0,200}")
                .prop_map(|(push_type, body)| Payload::Apns(ApnsPayload { push_type: ApnsPushType::ALL[push_type].0, body: body.into() })),
            ".{0,200}".prop_map(|body| Payload::Fcm(FcmPayload { message: body.into() })),
            (0_u64..4, ".{0,200}").prop_map(|(code, body)| Payload::Web(WebPayload { body: body.into(), urgency: urgency(code).unwrap() })),
            ".{0,200}".prop_map(|body| Payload::Stub(body.into())),
        ];
        let rest = (
            any::<u128>(),
            0_u64..3,
            prop_oneof![Just(Priority::High), Just(Priority::Normal), Just(Priority::Low)],
            proptest::option::of(0_u64..4_000_000_000_000),
            any::<bool>(),
            proptest::option::of("[!-~]{1,64}"),
            proptest::option::of(("[a-z.]{0,10}", "[0-9]{0,10}")),
            proptest::option::of("[a-z0-9-]{1,36}"),
        );
        (targets, payloads, rest).prop_map(|(target, payload, (id, class_code, priority, deadline, store, collapse, user, device))| Job {
            app: AppName::parse("app-1").unwrap(),
            user: user.map(|(domain, alias)| UserId { domain: domain.into(), alias: alias.into() }),
            device: device.map(|device| DeviceId::parse(&device).unwrap()),
            request: Request {
                id: Uuid::from_u128(id).into(),
                target,
                class: class(class_code).unwrap(),
                priority,
                deadline: deadline.map(time),
                store,
                collapse: collapse.map(|key| CollapseKey::parse(&key).unwrap()),
                payload,
            },
            received_at: time(1_700_000_000_000),
        })
    }

    fn written(jobs: &[Job]) -> (Vec<u8>, Vec<usize>) {
        let mut out = Vec::new();
        let ends = jobs
            .iter()
            .map(|job| {
                put_stored(&mut out, job);
                out.len()
            })
            .collect();
        (out, ends)
    }

    proptest! {
        #[test]
        fn a_stored_push_is_read_back_as_it_was(job in jobs()) {
            let (out, _) = written(std::slice::from_ref(&job));
            let mut records = Records::of(&out, 0);
            let (at, length, record) = records.next().unwrap();
            prop_assert_eq!((at, length, record.kind), (0, out.len(), STORED));
            prop_assert_eq!(record.job().unwrap(), job.clone());
            let brief = record.brief().unwrap();
            prop_assert_eq!(brief.target, target(&job.request.target));
            prop_assert_eq!(record.device_check() != 0, job.device.is_some());
            prop_assert!(records.next().is_none());

            let progress = Progress { attempts: 3, spent: 2, reached: true, due: 77 };
            let mut carried = Vec::new();
            put_carried(&mut carried, record, progress);
            let (_, _, record) = Records::of(&carried, 0).next().unwrap();
            prop_assert_eq!(record.brief().unwrap().progress, progress);
            prop_assert_eq!(record.job().unwrap(), job);
        }

        #[test]
        fn of_a_torn_file_everything_before_the_tear_is_recovered(
            jobs in proptest::collection::vec(jobs(), 1..6), cut in any::<prop::sample::Index>(), zeros in 0_usize..40
        ) {
            let (mut out, ends) = written(&jobs);
            let cut = cut.index(out.len() + 1);
            out.truncate(cut);
            out.extend(std::iter::repeat_n(0, zeros));
            let whole = ends.iter().filter(|end| **end <= cut).count();
            let read: Vec<_> = Records::of(&out, 0).map(|(_, _, record)| record.job().unwrap()).collect();
            // Zeros may complete a record only if they are what was torn off.
            prop_assert!(read.len() >= whole);
            prop_assert_eq!(&read[..], &jobs[..read.len()]);
        }

        #[test]
        fn a_flipped_bit_costs_no_record_before_it_and_never_invents_one(
            jobs in proptest::collection::vec(jobs(), 1..6), place in any::<prop::sample::Index>(), bit in 0_u8..8
        ) {
            let (mut out, ends) = written(&jobs);
            let place = place.index(out.len());
            out[place] ^= 1 << bit;
            let hit = ends.iter().filter(|end| **end <= place).count();
            let read: Vec<_> = Records::of(&out, 0).map(|(_, _, record)| record.job().unwrap()).collect();
            prop_assert_eq!(&read[..hit], &jobs[..hit]);
            // What follows is lost only if the length itself was hit.
            prop_assert!(read[hit..].iter().eq(&jobs[hit + 1..]) || read.len() == hit, "{} of {}", read.len(), jobs.len());
        }

        #[test]
        fn no_octets_make_the_reader_panic(octets in proptest::collection::vec(any::<u8>(), 0..400)) {
            for (_, _, record) in Records::of(&octets, 0) {
                let _ = (record.brief().is_ok(), record.job().is_ok(), record.step().is_ok());
            }
        }
    }

    #[test]
    fn steps_are_read_back_and_a_kind_of_a_later_version_is_only_a_record_to_skip() {
        let id = PushId::new();
        let mut out = Vec::new();
        let reason = Reason::known("NotRegistered");
        put_begun(&mut out, id, 5, 1);
        let progress = Progress { attempts: 1, spent: 1, reached: true, due: 9 };
        put_retried(&mut out, id, 6, progress, Some(&reason));
        frame(&mut out, 200, id, |out| out.extend_from_slice(b"something new"));
        put_ended(&mut out, id, 7, 2, State::Accepted, None, Some("apns-id"));
        let records: Vec<_> = Records::of(&out, 0).map(|(_, _, record)| record).collect();
        assert_eq!(records.iter().map(|record| record.kind).collect::<Vec<_>>(), [BEGUN, RETRIED, 200, ENDED]);
        assert_eq!(records[1].step().unwrap(), Step { at: 6, state: State::Retried, progress, reason: Some(reason), provider_id: None });
        let ended = records[3].step().unwrap();
        assert_eq!((ended.state, ended.progress.attempts, ended.provider_id.as_deref()), (State::Accepted, 2, Some("apns-id")));
        assert!(records.iter().all(|record| record.id == id));
    }
}
