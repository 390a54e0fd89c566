//! Writes what a demo's senders need: keys, certificates, accounts. Only their owner may read them.

use std::path::Path;

use anyhow::Context;
use tokio::{fs::OpenOptions, io::AsyncWriteExt};

use crate::state::Core;

pub(crate) async fn write(directory: &Path, core: &Core) -> anyhow::Result<()> {
    tokio::fs::create_dir_all(directory).await.with_context(|| format!("make {}", directory.display()))?;
    for (name, text) in core.demo_files()? {
        let path = directory.join(name);
        let written = async {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path).await?;
            file.write_all(text.as_bytes()).await?;
            file.flush().await
        };
        written.await.with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
