//! What others' tool makes of the suite's OpenAPI documents: thousands of requests, valid and not, each answer as documented.

use anyhow::ensure;
use e2e::{
    Stack, StackOptions,
    foreign::tool,
    sso::{self, Browser, Realm},
};
use elph_kit_testing::TestDatabase;

/// Requests for each operation and kind.
const EXAMPLES: &str = "80";

/// What a service's document cannot say is left out of the run.
async fn run(prefix: &str, aside: &[&str]) -> anyhow::Result<()> {
    let Some(schemathesis) = tool("venv/bin/schemathesis")? else { return Ok(()) };
    let stack = Stack::start(StackOptions::default()).await?;
    let place = TestDatabase::sqlite()?;
    let roles = format!("[[sso.realms]]\ndomain = \"{}\"\nroles = [{{ role = \"admin\", aliases = [\"1001\"] }}]\n", stack.domain());
    let limits = "[limits]\nper_address = 100000\nper_address_burst = 100000\nper_user = 100000\nper_user_burst = 100000\n";
    let database = format!("[database]\nurl = \"{}\"\n", place.settings.url);
    let suite = sso::suite(&stack, &[stack.domain()], &format!("{database}{limits}{roles}")).await?;
    let tokens = Realm::of(&suite, stack.domain())?.tokens(&mut Browser::new()?, "1001", "p1001").await?;
    let token = sso::text(&tokens, "access_token")?;
    let base = suite.url(prefix);
    let directory = tempfile::tempdir()?;
    // Most requests shall get beyond the question whether there is such a domain.
    std::fs::write(directory.path().join("schemathesis.toml"), format!("[parameters]\n\"path.domain\" = \"{}\"\n", stack.domain()))?;
    let run = tokio::process::Command::new(schemathesis)
        .current_dir(&directory)
        .args(["run", &format!("{base}/openapi.json"), "--url", &base, "--max-examples", EXAMPLES, "--no-color"])
        .args(["-H", &format!("Authorization: Bearer {token}")])
        .args(aside)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(std::time::Duration::from_secs(240), run).await??;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let seed = text.lines().find(|line| line.starts_with("Seed:")).unwrap_or_default().to_owned();
    say(&seed);
    stack.stop().await
}

#[expect(clippy::print_stdout, reason = "a test that is random says how to repeat it")]
fn say(seed: &str) {
    println!("{seed}");
}

#[tokio::test]
async fn schemathesis_finds_no_answer_of_status_that_the_document_does_not_have() -> anyhow::Result<()> {
    // No schema can say that a time must be to come; a WebSocket is no answer to a plain request.
    run("/elph_status", &["--exclude-checks", "positive_data_acceptance", "--exclude-path", "/v1/watch"]).await
}

#[tokio::test]
async fn schemathesis_finds_no_answer_of_sso_that_the_document_does_not_have() -> anyhow::Result<()> {
    // No schema can say which codes, tokens and clients there are.
    run("/elph/auth", &["--exclude-checks", "positive_data_acceptance"]).await
}
