//! `[audit]`: what is written down of commands, and where.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Problem;

/// The audit log: one record for each command that changes something.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// "auto" writes to journald (`SYSLOG_IDENTIFIER=elph-agent-audit`) when there is one, and into the log otherwise.
    pub target: AuditTarget,
    /// The file for target "file": one JSON object a line, mode 0600, opened anew on SIGHUP.
    pub file: Option<PathBuf>,
}

/// Where the audit log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuditTarget {
    /// Journald when systemd has connected the agent to it, the log otherwise.
    Auto,
    /// Journald.
    Journald,
    /// A file.
    File,
    /// The log.
    Log,
}

impl Default for Audit {
    fn default() -> Self {
        Self { target: AuditTarget::Auto, file: None }
    }
}

pub(super) fn check(audit: &Audit, problems: &mut Vec<Problem>) {
    match (audit.target, &audit.file) {
        (AuditTarget::File, None) => problems.push(Problem::new("audit.file", "is missing; target = \"file\" needs it")),
        (AuditTarget::File, Some(_)) | (_, None) => {}
        (_, Some(_)) => problems.push(Problem::new("audit.file", "has no effect unless audit.target is \"file\"")),
    }
}
