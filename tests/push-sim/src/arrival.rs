//! What came, in order, as far as it is kept: the list that tests look at.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize, Serializer};
use tokio::sync::Notify;

use crate::device::Provider;

/// How much is kept of what comes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// Nothing, not even a number per reason.
    None,
    /// Counters alone.
    Count,
    /// Each request, up to [`crate::Options::keep`] of them.
    #[default]
    All,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Arrival {
    /// Its place in the order of all requests, from 1.
    pub number: u64,
    /// When it had come whole (the machine's clock).
    pub at: Timestamp,
    /// The same for measuring.
    #[serde(skip)]
    pub instant: Instant,
    /// Where.
    pub provider: Provider,
    /// Over which connection of that provider, from 1.
    pub connection: u64,
    /// APNs: over which stream.
    pub stream: u32,
    /// Device token, `topic:NAME`, `condition:…`, or the web push subscription's id; empty if there was none.
    pub device: String,
    /// `apns-id`, FCM's message name, or the last part of a web push message's location.
    pub id: String,
    /// Who sent: `token TEAM/KEY`, `certificate TOPIC`, a service account's address, or the VAPID subject.
    pub sender: String,
    /// Header fields other than `authorization`, in order. Pseudo-header fields are left out.
    pub headers: Vec<(String, String)>,
    /// The body as the device gets it: web push is decrypted.
    #[serde(serialize_with = "readable")]
    pub body: Bytes,
    /// Status of the answer; 0 = it was never answered.
    pub status: u16,
    /// Reason of a refusal; empty if accepted. `not processed` = above a GOAWAY's last stream.
    pub reason: String,
}

/// The wait was in vain; it carries what had come.
#[derive(Debug, thiserror::Error)]
#[error("what was waited for did not come; {} request(s) had", .0.len())]
pub struct Waited(
    /// All that had come.
    pub Vec<Arrival>,
);

/// JSON as it is, anything else as text.
fn readable<S: Serializer>(body: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    match serde_json::from_slice::<serde_json::Value>(body) {
        Ok(json) => json.serialize(serializer),
        Err(_) => serializer.serialize_str(&String::from_utf8_lossy(body)),
    }
}

/// The list.
#[derive(Debug)]
pub(crate) struct Arrivals {
    pub(crate) record: Record,
    keep: usize,
    list: Mutex<List>,
    came: Notify,
}

#[derive(Debug, Default)]
struct List {
    kept: VecDeque<Arrival>,
    /// Number of the last one.
    last: u64,
    dropped: u64,
}

// === impl Arrival ===

impl Arrival {
    /// A header field's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; null if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Whether the provider took it.
    pub fn is_accepted(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

// === impl Arrivals ===

impl Arrivals {
    pub(crate) fn new(record: Record, keep: usize) -> Self {
        Self { record, keep: keep.max(1), list: Mutex::default(), came: Notify::new() }
    }

    /// Adds one and gives it its number.
    pub(crate) fn add(&self, mut arrival: Arrival) -> u64 {
        let number = {
            let mut list = self.list.lock();
            list.last += 1;
            arrival.number = list.last;
            if list.kept.len() == self.keep {
                list.kept.pop_front();
                list.dropped += 1;
            }
            list.kept.push_back(arrival);
            list.last
        };
        self.came.notify_waiters();
        number
    }

    /// Corrects what became of one that is still kept.
    pub(crate) fn amend(&self, number: u64, status: u16, reason: &str) {
        let mut list = self.list.lock();
        let first = list.last + 1 - u64::try_from(list.kept.len()).unwrap_or_default();
        let at = number.checked_sub(first).and_then(|at| usize::try_from(at).ok());
        if let Some(arrival) = at.and_then(|at| list.kept.get_mut(at)) {
            arrival.status = status;
            reason.clone_into(&mut arrival.reason);
        }
        drop(list);
        self.came.notify_waiters();
    }

    /// Those after a number, up to `limit`.
    pub(crate) fn after(&self, number: u64, limit: usize) -> Vec<Arrival> {
        let list = self.list.lock();
        let first = list.last + 1 - u64::try_from(list.kept.len()).unwrap_or_default();
        let skip = usize::try_from((number + 1).saturating_sub(first)).unwrap_or(usize::MAX);
        list.kept.iter().skip(skip).take(limit).cloned().collect()
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.list.lock().dropped
    }

    /// Forgets the list; numbers go on.
    pub(crate) fn clear(&self) {
        self.list.lock().kept.clear();
    }

    /// Waits until the list is as `wanted`.
    pub(crate) async fn wait_for(&self, within: Duration, mut wanted: impl FnMut(&[Arrival]) -> bool) -> Result<Vec<Arrival>, Waited> {
        let deadline = tokio::time::Instant::now() + within;
        loop {
            let mut came = std::pin::pin!(self.came.notified());
            came.as_mut().enable();
            if wanted(self.list.lock().kept.make_contiguous()) {
                return Ok(self.after(0, usize::MAX));
            }
            if tokio::time::timeout_at(deadline, came).await.is_err() {
                return Err(Waited(self.after(0, usize::MAX)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(device: &str) -> Arrival {
        Arrival {
            number: 0,
            at: Timestamp::UNIX_EPOCH,
            instant: Instant::now(),
            provider: Provider::Apns,
            connection: 1,
            stream: 1,
            device: device.to_owned(),
            id: String::new(),
            sender: String::new(),
            headers: Vec::new(),
            body: Bytes::new(),
            status: 200,
            reason: String::new(),
        }
    }

    #[tokio::test]
    async fn the_list_is_bounded_and_its_numbers_go_on() {
        let arrivals = Arrivals::new(Record::All, 3);
        for device in ["a", "b", "c", "d", "e"] {
            arrivals.add(arrival(device));
        }
        let names = |after| arrivals.after(after, 10).iter().map(|one| format!("{}{}", one.number, one.device)).collect::<Vec<_>>();
        assert_eq!(names(0), ["3c", "4d", "5e"]);
        assert_eq!(names(4), ["5e"]);
        assert_eq!(names(9), [""; 0]);
        assert_eq!(arrivals.dropped(), 2);
        arrivals.amend(4, 0, "not processed");
        arrivals.amend(1, 0, "long gone");
        assert_eq!(arrivals.after(3, 1)[0].reason, "not processed");
        arrivals.clear();
        assert_eq!(arrivals.add(arrival("f")), 6);
        assert_eq!(names(0), ["6f"]);
    }

    #[tokio::test]
    async fn a_wait_ends_with_the_arrival_or_with_the_time() {
        let arrivals = Arrivals::new(Record::All, 3);
        let waits = arrivals.wait_for(Duration::from_secs(5), |list| list.len() == 2);
        let adds = async {
            arrivals.add(arrival("a"));
            tokio::task::yield_now().await;
            arrivals.add(arrival("b"));
        };
        let (got, ()) = tokio::join!(waits, adds);
        assert_eq!(got.unwrap().len(), 2);
        let Waited(had) = arrivals.wait_for(Duration::from_millis(10), |list| list.len() == 9).await.unwrap_err();
        assert_eq!(had.len(), 2);
    }
}
