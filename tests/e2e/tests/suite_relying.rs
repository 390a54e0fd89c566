//! The SSO as others see it: relying parties that we did not write, and people in a real browser, over TLS.

use std::path::{Path, PathBuf};

use anyhow::Context;
use e2e::{
    Stack, StackOptions,
    foreign::{self, root, tool},
    guard::Authority,
    suite::Suite,
};
use elph_kit_testing::TestDatabase;
use ssw_sim::SimOptions;
use tokio::process::Command;

const CHROMIUM: &str = "/usr/bin/chromium";
const SECRET: &str = "web's own secret & <signs>";
const LOGIN: &str = "1001";

/// A switch with two domains, its agent, and a suite with the SSO behind TLS.
struct Stage {
    stack: Stack,
    suite: Suite,
    files: tempfile::TempDir,
    _database: TestDatabase,
    port: u16,
    receiver: u16,
}

/// A port that is free, below those that the system gives to others meanwhile.
fn free_port() -> anyhow::Result<u16> {
    let ports = std::iter::repeat_with(|| rand::random_range(15_000..32_000)).take(100);
    let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    ports.into_iter().find(free).context("no port is free")
}

impl Stage {
    async fn start() -> anyhow::Result<Self> {
        let sim = SimOptions { domains: vec!["a.local".to_owned(), "b.local".to_owned()], ..SimOptions::default() };
        // More sign-ins a minute than a person has.
        let extra = "[limits]\nauthenticate_alias_per_minute = 1000\n".to_owned();
        let stack = Stack::start(StackOptions { sim, extra, ..StackOptions::default() }).await?;
        let (files, database) = (tempfile::tempdir()?, TestDatabase::sqlite()?);
        let authority = Authority::new()?;
        let signed = authority.sign("localhost")?;
        for (name, pem) in [("ca.pem", &authority.pem), ("cert.pem", &signed.certificate), ("key.pem", &signed.key)] {
            std::fs::write(files.path().join(name), pem)?;
        }
        let (port, receiver, at) = (free_port()?, free_port()?, files.path().display());
        let config = format!(
            "[database]\nurl = \"{}\"\n\
             [http]\nlisten = \"127.0.0.1:{port}\"\ncertificate_file = \"{at}/cert.pem\"\nkey_file = \"{at}/key.pem\"\n\
             [sso]\npublic_url = \"https://localhost:{port}\"\nsecret = \"a secret of at least 32 characters\"\n\
             [[sso.realms]]\ndomain = \"b.local\"\ntotp = \"required\"\n\
             [[sso.clients]]\nclient_id = \"app\"\nclient_name = \"The App\"\nredirect_uris = [\"http://127.0.0.1/back\"]\n\
             grant_types = [\"authorization_code\", \"refresh_token\", \"urn:ietf:params:oauth:grant-type:device_code\"]\n\
             post_logout_redirect_uris = [\"http://127.0.0.1:4711/bye\"]\n\
             [[sso.clients]]\nclient_id = \"web\"\nsecret = \"{SECRET}\"\nredirect_uris = [\"http://127.0.0.1/back\"]\n\
             id_token_signed_response_alg = \"ES256\"\nbackchannel_logout_uri = \"http://127.0.0.1:{receiver}/logout\"\n",
            database.settings.url
        );
        let suite = Suite::start(&stack, &["a.local", "b.local"], &config).await?;
        Ok(Self { stack, suite, files, _database: database, port, receiver })
    }

    fn issuer(&self, domain: &str) -> String {
        format!("https://localhost:{}/elph/auth/realms/{domain}", self.port)
    }

    /// Runs a client of others to its end; what it said.
    async fn run(&self, mut command: Command) -> anyhow::Result<String> {
        let authority = self.files.path().join("ca.pem");
        command
            .env("ISSUER", self.issuer("a.local"))
            .env("OTHER_ISSUER", self.issuer("b.local"))
            .env("LOGIN", LOGIN)
            .env("PASSWORD", format!("p{LOGIN}"))
            .env("SECRET", SECRET)
            .env("RECEIVER", self.receiver.to_string())
            .env("NODE_EXTRA_CA_CERTS", &authority)
            .env("REQUESTS_CA_BUNDLE", &authority)
            .env("SSL_CERT_FILE", &authority)
            .env("HOME", self.files.path());
        let said = foreign::run(command).await;
        said.map_err(|error| error.context(format!("the server's log:\n{}", self.suite.log())))
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.stack.stop().await
    }
}

/// A script of `tests/e2e/foreign` by Node; nothing where what it needs is missing and may be.
fn node(script: &str) -> anyhow::Result<Option<Command>> {
    let Some(modules) = tool("relying/node_modules")? else { return Ok(None) };
    let node = [root().join("target/tools/venv/bin/node"), PathBuf::from("node")];
    let mut command = Command::new(node.iter().find(|node| node.exists()).unwrap_or(&node[1]));
    command.arg(root().join("tests/e2e/foreign").join(script)).env("MODULES", modules);
    Ok(Some(command))
}

/// People in Chromium go through a scenario.
async fn in_chromium(scenario: &str, steps: usize) -> anyhow::Result<()> {
    let Some(mut command) = node("browser.mjs")? else { return Ok(()) };
    if !Path::new(CHROMIUM).exists() {
        anyhow::ensure!(std::env::var_os("ELPH_TEST_TOOLS").is_none(), "{CHROMIUM} is required here: packaging/dev-setup test");
        #[expect(clippy::print_stdout, reason = "a test tells what it left out")]
        {
            println!("left out: {CHROMIUM} is not installed");
        }
        return Ok(());
    }
    let screenshots = root().join("target/screenshots");
    std::fs::create_dir_all(&screenshots)?;
    let stage = Stage::start().await?;
    command.arg(scenario).env("CHROMIUM", CHROMIUM).env("SCREENSHOTS", screenshots);
    all(&stage.run(command).await?, steps)?;
    stage.stop().await
}

/// Every step was gone through.
fn all(said: &str, steps: usize) -> anyhow::Result<()> {
    let gone = said.lines().filter(|line| line.starts_with("ok: ")).count();
    anyhow::ensure!(gone == steps, "{gone} steps instead of {steps}:\n{said}");
    Ok(())
}

#[tokio::test]
async fn openid_client_goes_through_every_flow() -> anyhow::Result<()> {
    let Some(command) = node("openid_client.mjs")? else { return Ok(()) };
    let stage = Stage::start().await?;
    all(&stage.run(command).await?, 18)?;
    stage.stop().await
}

#[tokio::test]
async fn authlib_goes_through_every_flow() -> anyhow::Result<()> {
    let Some(python) = tool("venv/bin/python")? else { return Ok(()) };
    let mut command = Command::new(python);
    command.arg("-u").arg(root().join("tests/e2e/foreign/authlib_client.py")).env("PYTHONDONTWRITEBYTECODE", "1");
    let stage = Stage::start().await?;
    all(&stage.run(command).await?, 13)?;
    stage.stop().await
}

#[tokio::test]
async fn a_person_signs_in_with_chromium_in_both_languages_and_nothing_is_blocked() -> anyhow::Result<()> {
    in_chromium("sign_in", 6).await
}

#[tokio::test]
async fn a_person_sets_up_an_authenticator_app_in_chromium_and_signs_in_with_its_codes() -> anyhow::Result<()> {
    in_chromium("second_factor", 5).await
}

#[tokio::test]
async fn everything_works_in_chromium_without_scripts() -> anyhow::Result<()> {
    in_chromium("without_scripts", 2).await
}

#[tokio::test]
async fn a_person_ends_a_session_from_another_in_chromium() -> anyhow::Result<()> {
    in_chromium("sessions", 3).await
}
