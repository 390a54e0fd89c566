//! Licences: how many calls, selector meetings and members the switch may carry, and until when.

use jiff::Timestamp;
use serde::Serialize;

/// What a licence is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LicenceKind {
    /// Calls going on.
    Calls,
    /// Selector meetings going on: `(tc, active_conferences)`.
    Conferences,
    /// Members in all conferences.
    Members,
}

impl LicenceKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Calls, Self::Conferences, Self::Members];
}

/// One licence as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LicenceView {
    /// What for.
    pub kind: LicenceKind,
    /// How many at a time; `None` = without limit.
    pub limit: Option<u32>,
    /// In use now. May be above a limit that was lowered meanwhile.
    pub used: u32,
    /// When it runs out.
    pub expires_at: Option<Timestamp>,
}
