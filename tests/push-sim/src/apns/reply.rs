//! What APNs answers: the header block in literals of HPACK's static table, and Apple's JSON for refusals.

use serde_json::json;

/// An apns-id in its canonical form.
pub(crate) type ApnsId = [u8; 36];

/// A refusal. Reasons are Apple's; a fault may bring any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) reason: String,
    pub(crate) timestamp_ms: Option<i64>,
    pub(crate) retry_after: Option<String>,
    /// In the place of Apple's JSON.
    pub(crate) body: Option<String>,
}

// === impl Refusal ===

impl Refusal {
    pub(crate) fn new(status: u16, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into(), timestamp_ms: None, retry_after: None, body: None }
    }

    pub(crate) fn since(status: u16, reason: &str, timestamp_ms: i64) -> Self {
        Self { timestamp_ms: Some(timestamp_ms), ..Self::new(status, reason) }
    }

    pub(crate) fn text(&self) -> String {
        match (&self.body, self.timestamp_ms) {
            (Some(body), _) => body.clone(),
            (None, Some(timestamp)) => json!({ "reason": self.reason, "timestamp": timestamp }).to_string(),
            (None, None) => json!({ "reason": self.reason }).to_string(),
        }
    }
}

/// Writes a header block.
pub(crate) fn block(out: &mut Vec<u8>, status: u16, id: &ApnsId, refusal: Option<&Refusal>) {
    out.clear();
    match status {
        200 => out.push(0x88),
        400 => out.push(0x8c),
        404 => out.push(0x8d),
        500 => out.push(0x8e),
        other => literal(out, &[0x08], other.to_string().as_bytes()),
    }
    literal(out, b"\x00\x07apns-id", id);
    if let Some(refusal) = refusal {
        let html = refusal.body.as_deref().is_some_and(|body| body.starts_with('<'));
        // content-type is number 31 of the static table, retry-after number 53
        literal(out, &[0x0f, 31 - 15], if html { b"text/html; charset=utf-8" } else { b"application/json" });
        if let Some(retry_after) = &refusal.retry_after {
            literal(out, &[0x0f, 53 - 15], retry_after.as_bytes());
        }
    }
}

/// A field without indexing; values here are below 127 bytes, longer ones are cut.
fn literal(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    let value = value.get(..value.len().min(126)).unwrap_or_default();
    out.extend_from_slice(name);
    out.push(u8::try_from(value.len()).unwrap_or_default());
    out.extend_from_slice(value);
}

/// Whether a text is a UUID in its canonical form, in either case.
pub(crate) fn apns_id(text: &[u8]) -> Option<ApnsId> {
    let id: ApnsId = text.try_into().ok()?;
    let fits = |(at, byte): (usize, &u8)| if matches!(at, 8 | 13 | 18 | 23) { *byte == b'-' } else { byte.is_ascii_hexdigit() };
    id.iter().enumerate().all(fits).then_some(id)
}

/// A random UUID (version 4) of these bytes, in upper case as Apple writes it.
pub(crate) fn new_apns_id(random: u128) -> ApnsId {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let bits = random & !(0xf << 76) | 0x4 << 76;
    let bits = bits & !(0x3 << 62) | 0x2 << 62;
    let mut id = [b'-'; 36];
    let mut shift = 128u32;
    for (at, place) in id.iter_mut().enumerate() {
        if !matches!(at, 8 | 13 | 18 | 23) {
            shift -= 4;
            *place = DIGITS.get((bits >> shift & 0xf) as usize).copied().unwrap_or(b'0');
        }
    }
    id
}
