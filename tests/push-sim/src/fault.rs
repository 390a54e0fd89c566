//! What goes wrong on purpose: per provider, per device, so and so many times.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::device::Provider;

/// Faults in force at the same time; the oldest leaves when one more comes.
const MAX_FAULTS: usize = 10_000;

/// What a load balancer says when there is nobody behind it.
pub(crate) const BAD_GATEWAY_PAGE: &str = "<!DOCTYPE html>\n<html lang=en>\n<title>Error 502 (Server Error)</title>\n\
    <p>The server encountered a temporary error and could not complete your request.<p>Please try again in 30 seconds.\n</html>\n";

/// One fault. The first that fits a request strikes it, with delays besides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Where.
    pub provider: Provider,
    /// For one device (token, `topic:NAME`, `condition:…`, or a web push subscription's id); `None` = for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// How many requests it strikes; `None` = until cleared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// What happens.
    #[serde(flatten)]
    pub effect: Effect,
}

/// What happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "effect", rename_all = "snake_case")]
pub enum Effect {
    /// The request is answered with this; it is not delivered.
    Answer {
        /// Status.
        status: u16,
        /// Apple's `reason`, Google's `errorCode`, or the text of a web push answer.
        #[serde(default)]
        reason: String,
        /// Retry-After, as it is: seconds, an HTTP date, nonsense.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after: Option<String>,
        /// Retry-After as an HTTP date, seconds from now; wins over `retry_after`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_date_s: Option<i64>,
        /// Apple's `timestamp`, in milliseconds of Unix time.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timestamp_ms: Option<i64>,
        /// The body in the place of the provider's usual one (HTML if it begins with `<`).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        body: Option<String>,
    },
    /// 502 with an HTML page, as a load balancer in front of a provider answers.
    HtmlBadGateway,
    /// The answer comes this much later. Other faults still apply.
    Delay {
        /// Milliseconds.
        ms: u64,
    },
    /// The request is delivered and never answered; the connection lives (PINGs are answered).
    Silence,
    /// The stream is reset (HTTP/1: the connection ends) without an answer; not delivered.
    Reset {
        /// Error code of RFC 9113 §7, such as 7 REFUSED_STREAM.
        code: u32,
    },
    /// The request is delivered, half of its answer written, then the connection ends.
    CutMidAnswer,
    /// The connection ends without an answer; not delivered.
    Cut,
    /// APNs: connections, old and new, read everything and write nothing at all, not even the answer to a PING. They stay so.
    Mute,
    /// Connections, old and new, neither read nor write, until cleared.
    HalfOpen,
    /// Connections read only so fast, until cleared.
    SlowReading {
        /// Bytes per second.
        bytes_per_second: u32,
    },
    /// New connections are closed as soon as they are there, until cleared.
    RefuseConnections,
}

/// Those in force.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    any: AtomicBool,
    list: Mutex<Vec<Fault>>,
}

/// What strikes one request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Struck {
    pub(crate) delay: Option<Duration>,
    pub(crate) effect: Option<Effect>,
}

// === impl Fault ===

impl Fault {
    /// A fault of every request, until cleared.
    pub fn new(provider: Provider, effect: Effect) -> Self {
        Self { provider, device: None, times: None, effect }
    }

    /// The same, for one device.
    #[must_use]
    pub fn device(mut self, device: impl Into<String>) -> Self {
        self.device = Some(device.into());
        self
    }

    /// The same, so many times.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }
}

// === impl Effect ===

impl Effect {
    /// A refusal with the provider's usual body.
    pub fn answer(status: u16, reason: impl Into<String>) -> Self {
        Self::Answer { status, reason: reason.into(), retry_after: None, retry_date_s: None, timestamp_ms: None, body: None }
    }

    /// A refusal with a Retry-After of this text.
    pub fn answer_retry_after(status: u16, reason: impl Into<String>, retry_after: impl Into<String>) -> Self {
        let retry_after = Some(retry_after.into());
        Self::Answer { status, reason: reason.into(), retry_after, retry_date_s: None, timestamp_ms: None, body: None }
    }

    /// A refusal with a Retry-After that is an HTTP date so many seconds from now.
    pub fn answer_retry_date(status: u16, reason: impl Into<String>, in_seconds: i64) -> Self {
        let retry_date_s = Some(in_seconds);
        Self::Answer { status, reason: reason.into(), retry_after: None, retry_date_s, timestamp_ms: None, body: None }
    }

    /// Whether it is about connections, not about requests.
    pub(crate) fn is_of_connections(&self) -> bool {
        matches!(self, Self::Mute | Self::HalfOpen | Self::SlowReading { .. } | Self::RefuseConnections)
    }
}

/// The value of Retry-After that an answer shall have.
pub(crate) fn retry_after(text: Option<&str>, date_s: Option<i64>, now: jiff::Timestamp) -> Option<String> {
    match date_s {
        Some(seconds) => {
            let at = now.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(now);
            jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&at).ok()
        }
        None => text.map(ToOwned::to_owned),
    }
}

// === impl Faults ===

impl Faults {
    pub(crate) fn add(&self, fault: Fault) {
        let mut list = self.list.lock();
        if list.len() == MAX_FAULTS {
            list.remove(0);
        }
        list.push(fault);
        self.any.store(true, Ordering::Release);
    }

    pub(crate) fn clear(&self) {
        let mut list = self.list.lock();
        list.clear();
        self.any.store(false, Ordering::Release);
    }

    pub(crate) fn list(&self) -> Vec<Fault> {
        self.list.lock().clone()
    }

    /// Whether a fault of connections of this kind is in force.
    pub(crate) fn of_connections(&self, provider: Provider, kind: impl Fn(&Effect) -> bool) -> bool {
        self.any.load(Ordering::Acquire) && self.list.lock().iter().any(|fault| fault.provider == provider && kind(&fault.effect))
    }

    /// What strikes a request, counted.
    pub(crate) fn strike(&self, provider: Provider, device: &str) -> Struck {
        let mut struck = Struck::default();
        if !self.any.load(Ordering::Acquire) {
            return struck;
        }
        let mut list = self.list.lock();
        for fault in list.iter_mut() {
            let fits = fault.provider == provider
                && !fault.effect.is_of_connections()
                && fault.device.as_deref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(device))
                && fault.times != Some(0);
            if !fits {
                continue;
            }
            match (&fault.effect, &mut struck) {
                (Effect::Delay { ms }, Struck { delay: delay @ None, .. }) => *delay = Some(Duration::from_millis(*ms)),
                (Effect::Delay { .. }, _) | (_, Struck { effect: Some(_), .. }) => continue,
                (effect, Struck { effect: none, .. }) => *none = Some(effect.clone()),
            }
            if let Some(times) = &mut fault.times {
                *times -= 1;
            }
        }
        list.retain(|fault| fault.times != Some(0));
        self.any.store(!list.is_empty(), Ordering::Release);
        struck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_strikes_its_provider_and_device_as_often_as_it_says() {
        let faults = Faults::default();
        faults.add(Fault::new(Provider::Apns, Effect::answer(500, "InternalServerError")).device("aa").times(2));
        faults.add(Fault::new(Provider::Apns, Effect::Delay { ms: 5 }));
        let slow = Struck { delay: Some(Duration::from_millis(5)), effect: None };
        assert_eq!(faults.strike(Provider::Fcm, "aa"), Struck::default());
        assert_eq!(faults.strike(Provider::Apns, "bb"), slow);
        for _ in 0..2 {
            let struck = faults.strike(Provider::Apns, "aa");
            assert_eq!((struck.delay, struck.effect), (slow.delay, Some(Effect::answer(500, "InternalServerError"))));
        }
        assert_eq!(faults.strike(Provider::Apns, "aa"), slow);
        faults.clear();
        assert_eq!(faults.strike(Provider::Apns, "aa"), Struck::default());
    }

    #[test]
    fn a_fault_reads_from_the_json_of_the_manual() {
        let text = r#"{"provider": "fcm", "device": "t", "times": 3, "effect": "answer", "status": 429, "reason": "QUOTA_EXCEEDED", "retry_after": "x"}"#;
        let fault: Fault = serde_json::from_str(text).unwrap();
        assert_eq!(fault, Fault::new(Provider::Fcm, Effect::answer_retry_after(429, "QUOTA_EXCEEDED", "x")).device("t").times(3));
        let text = r#"{"provider": "apns", "effect": "half_open"}"#;
        assert_eq!(serde_json::from_str::<Fault>(text).unwrap(), Fault::new(Provider::Apns, Effect::HalfOpen));
    }

    #[test]
    fn a_retry_date_is_an_http_date() {
        let now = "2026-11-24T13:00:00Z".parse().unwrap();
        assert_eq!(retry_after(Some("7"), Some(30), now).unwrap(), "Tue, 24 Nov 2026 13:00:30 GMT");
        assert_eq!(retry_after(Some("7"), None, now).unwrap(), "7");
    }
}
