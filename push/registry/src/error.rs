//! What can go wrong, and what the operator can do about it.

use std::{error::Error as StdError, io, path::PathBuf, sync::Arc};

/// A failure of the store.
pub(crate) type Fault = redb::Error;

/// Why the registry does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be made or used.
    #[error("cannot use '{directory}' for the registry of devices")]
    Directory {
        /// Which.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process, or another part of this one, has it open.
    #[error("the registry of devices '{file}' is in use: is another agent running with this directory?")]
    InUse {
        /// Which.
        file: PathBuf,
    },
    /// It is no registry, or not a whole one.
    #[error(
        "the registry of devices '{file}' is damaged ({found}): restore it from a backup, or move it away and start with an empty one, \
         into which every device registers again when its application starts"
    )]
    Damaged {
        /// Which.
        file: PathBuf,
        /// What was seen.
        found: String,
    },
    /// A newer version wrote it.
    #[error(
        "the registry of devices '{file}' has format {found}, this version knows up to {known}: install the version that wrote it, or a newer one"
    )]
    Newer {
        /// Which.
        file: PathBuf,
        /// Its format.
        found: u64,
        /// Ours.
        known: u64,
    },
    /// Reading or writing failed.
    #[error("cannot open the registry of devices '{file}'")]
    Storage {
        /// Which.
        file: PathBuf,
        /// Why.
        source: Box<dyn StdError + Send + Sync>,
    },
}

impl OpenError {
    /// Sorts a failure of the store by what can be done about it.
    pub(crate) fn of(file: PathBuf, fault: Fault) -> Self {
        match fault {
            Fault::DatabaseAlreadyOpen => Self::InUse { file },
            Fault::Corrupted(found) => Self::Damaged { file, found },
            Fault::UpgradeRequired(version) => Self::Damaged { file, found: format!("its pages have the old layout {version}") },
            Fault::TableTypeMismatch { .. }
            | Fault::TableDoesNotExist(_)
            | Fault::TableIsMultimap(_)
            | Fault::TypeDefinitionChanged { .. } => Self::Damaged { file, found: fault.to_string() },
            Fault::Io(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
                Self::Damaged { file, found: error.to_string() }
            }
            other => Self::Storage { file, source: Box::new(other) },
        }
    }
}

/// Why something was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A field of the request.
    #[error("{field} must {must}")]
    Invalid {
        /// Which.
        field: &'static str,
        /// What is right.
        must: &'static str,
    },
    /// There are as many devices as are allowed in total; the change was not made.
    #[error("the registry holds the most devices allowed, {most}")]
    Full {
        /// The limit.
        most: u64,
    },
    /// Too much is waiting; nothing was done.
    #[error("the registry of devices is busy")]
    Busy,
    /// The disk did not answer in time: the change may or may not be made. Repeating it is harmless.
    #[error("the change of the registry of devices was not confirmed in time")]
    Unconfirmed,
    /// It was closed.
    #[error("the registry of devices is closed")]
    Closed,
    /// Reading or writing failed; no change was made.
    #[error("cannot {doing} the registry of devices")]
    Store {
        /// What was being done.
        doing: &'static str,
        /// Why.
        source: Arc<dyn StdError + Send + Sync>,
    },
}

impl Error {
    pub(crate) fn store(doing: &'static str, fault: impl StdError + Send + Sync + 'static) -> Self {
        Self::Store { doing, source: Arc::new(fault) }
    }
}
