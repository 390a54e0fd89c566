//! Whether the tables say the same.

use std::collections::BTreeMap;

use push_core::{AppName, Provider};
use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata};
use uuid::Uuid;

use crate::{
    error::Fault,
    tables::{self, COUNTS, DEVICES, TOKENS, USERS},
};

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Devices read.
    pub devices: u64,
    /// What does not fit together.
    pub problems: u64,
    /// The first of them.
    pub first: Option<String>,
}

impl Report {
    fn problem(&mut self, text: impl FnOnce() -> String) {
        self.problems += 1;
        self.first.get_or_insert_with(text);
    }
}

/// Every device must be found by user and by token; the indexes are as long as the table, so they name nothing else.
pub(crate) fn check(txn: &ReadTransaction) -> Result<Report, Fault> {
    let (devices, users, tokens) = (txn.open_table(DEVICES)?, txn.open_table(USERS)?, txn.open_table(TOKENS)?);
    let mut report = Report::default();
    let mut counts: BTreeMap<(AppName, Provider), u64> = BTreeMap::new();
    for entry in devices.iter()? {
        let (number, record) = entry?;
        let number = number.value();
        report.devices += 1;
        let device = match tables::decode(number, record.value()) {
            Ok(device) => device,
            Err(error) => {
                report.problem(|| error.to_string());
                continue;
            }
        };
        if users.get((&*device.user.domain, &*device.user.alias, number))?.is_none() {
            report.problem(|| format!("device {} is not found by its user", Uuid::from_u128(number)));
        }
        if tokens.get(tables::place(&device.app, &device.token))?.map(|found| found.value()) != Some(number) {
            report.problem(|| format!("device {} is not found by its token", Uuid::from_u128(number)));
        }
        *counts.entry((device.app, device.provider)).or_default() += 1;
    }
    for (name, length) in [("users", users.len()?), ("tokens", tokens.len()?)] {
        if length != report.devices {
            report.problem(|| format!("the index of {name} has {length} entries"));
        }
    }
    let table = txn.open_table(COUNTS)?;
    for ((app, provider), count) in &counts {
        let counted = table.get((app.as_str(), tables::provider_code(*provider)))?.map(|counted| counted.value());
        if counted != Some(*count) {
            report.problem(|| format!("there are {count} devices of {app}, counted are {counted:?}"));
        }
    }
    if table.len()? != counts.len() as u64 {
        report.problem(|| "applications without devices are counted".to_owned());
    }
    Ok(report)
}
