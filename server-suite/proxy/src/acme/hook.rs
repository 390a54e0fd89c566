//! DNS-01: the hook program publishes and removes TXT records. What it writes on its standard error is seen in our log's place.

use std::{path::PathBuf, process::Stdio};

use tokio::{process::Command, time::timeout};

use super::AcmeError;
use crate::config::Acme;

/// The records that are published.
pub(crate) struct Records<'a> {
    acme: &'a Acme,
    published: Vec<(String, String)>,
}

// === impl Records ===

impl<'a> Records<'a> {
    pub(crate) fn new(acme: &'a Acme) -> Self {
        Self { acme, published: Vec::new() }
    }

    /// Publishes the value that shows that a name is ours.
    pub(crate) async fn publish(&mut self, name: &str, value: String) -> Result<(), AcmeError> {
        let record = format!("_acme-challenge.{name}.");
        // Noted first: what was published by half is removed, too.
        self.published.push((record.clone(), value.clone()));
        run(self.acme, "present", &record, &value).await
    }

    /// Waits until every name server has them.
    pub(crate) async fn settle(&self) {
        if !self.published.is_empty() {
            tokio::time::sleep(self.acme.propagation.0).await;
        }
    }

    /// Removes them. One that stays harms nobody.
    pub(crate) async fn remove(self) {
        for (record, value) in &self.published {
            if let Err(error) = run(self.acme, "cleanup", record, value).await {
                tracing::warn!(record, %error, "a record of an order is left over");
            }
        }
    }
}

async fn run(acme: &Acme, action: &str, record: &str, value: &str) -> Result<(), AcmeError> {
    let program: &PathBuf = &acme.hook;
    let mut command = Command::new(program);
    command.args([action, record, value]).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    let ended = timeout(acme.hook_timeout.0, command.status()).await;
    let failed = |what: String| AcmeError::Hook(format!("{} {action} {record}: {what}", program.display()));
    match ended {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(failed(status.to_string())),
        Ok(Err(error)) => Err(failed(format!("cannot be started: {error}"))),
        Err(_) => Err(failed(format!("took longer than {}", acme.hook_timeout))),
    }
}
