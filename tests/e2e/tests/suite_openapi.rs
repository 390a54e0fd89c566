//! What others' tool makes of the suite's OpenAPI documents: thousands of requests, valid and not, each answer as documented.

use anyhow::ensure;
use e2e::{Stack, StackOptions, foreign::tool, suite::Suite};
use elph_kit_testing::TestDatabase;
use serde_json::json;

/// Requests for each operation and kind.
const EXAMPLES: &str = "80";

#[tokio::test]
async fn schemathesis_finds_no_answer_that_the_document_does_not_have() -> anyhow::Result<()> {
    let Some(schemathesis) = tool("venv/bin/schemathesis")? else { return Ok(()) };
    let stack = Stack::start(StackOptions::default()).await?;
    let place = TestDatabase::sqlite()?;
    let limits = "[limits]\nper_address = 100000\nper_address_burst = 100000\nper_user = 100000\nper_user_burst = 100000\n";
    let database = format!("[database]\nurl = \"{}\"\n", place.settings.url);
    let suite = Suite::start(&stack, &[stack.domain()], &format!("{database}{limits}")).await?;
    let token = suite.token(stack.domain(), "1001", &json!({}))?;
    let base = suite.url("/elph_status");
    let directory = tempfile::tempdir()?;
    let run = tokio::process::Command::new(schemathesis)
        .current_dir(&directory)
        .args(["run", &format!("{base}/openapi.json"), "--url", &base, "--max-examples", EXAMPLES, "--no-color"])
        .args(["-H", &format!("Authorization: Bearer {token}")])
        // No schema can say that a time must be to come.
        .args(["--exclude-checks", "positive_data_acceptance"])
        // A WebSocket is no answer to a plain request.
        .args(["--exclude-path", "/v1/watch"])
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(std::time::Duration::from_secs(240), run).await??;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let seed = text.lines().find(|line| line.starts_with("Seed:")).unwrap_or_default().to_owned();
    println!("{seed}");
    stack.stop().await
}
