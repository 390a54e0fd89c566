//! Our ids: UUIDs derived from (domain, the switch's id, the start the switch states), so that both agents of a cluster, and one agent
//! before and after a restart, give the same call the same id.

use jiff::Timestamp;
use uuid::Uuid;

/// Namespace of our ids, itself derived from the API's name.
const NAMESPACE: Uuid = Uuid::from_u128(0x2f1b_6c1e_86a5_5f0c_9a6e_d0b1_0a64_7b52);

fn derive(kind: &str, domain: &str, switch_id: &str, start: Option<Timestamp>, reuse: u32) -> String {
    let start = start.map_or(0, Timestamp::as_second);
    Uuid::new_v5(&NAMESPACE, format!("{kind}\n{domain}\n{switch_id}\n{start}\n{reuse}").as_bytes()).to_string()
}

/// Id of a call. `reuse` counts earlier calls that are still remembered under the same switch id and start.
pub(crate) fn call(domain: &str, switch_id: &str, start: Option<Timestamp>, reuse: u32) -> String {
    derive("call", domain, switch_id, start, reuse)
}

/// Id of a conference.
pub(crate) fn conference(domain: &str, switch_id: &str, start: Option<Timestamp>, reuse: u32) -> String {
    derive("conference", domain, switch_id, start, reuse)
}
