//! The vocabulary of pushes: who gets one (`Device`), what is sent (`Request`), how it ended (`Outcome`), who sends it (`Sender`).
//! No provider, no queue, no calls. Terms are those of RFC 8599, APNs and FCM v1.

mod backoff;
pub mod connect;
mod device;
mod id;
mod outcome;
mod request;
mod sender;

pub use backoff::Backoff;
pub use device::{Device, Environment, Provider, Token, UserId, WebKeys, rfc8599};
pub use id::{AppName, DeviceId, InvalidName, PushId};
pub use outcome::{Outcome, Reason};
pub use request::{ApnsPayload, ApnsPushType, Class, CollapseKey, FcmPayload, Payload, Priority, Request, Target, WebPayload, WebUrgency};
pub use sender::{Capacity, Sender, Sending};
