//! Several switches behind one suite: one agent over its Unix socket, the other over mutual TLS. Each domain is a tenant of its own switch.

use anyhow::ensure;
use e2e::{
    Stack, StackOptions, eventually,
    guard::{Files, grant, own_grant},
    sso::{Browser, Realm, suite, text},
};
use elph_kit_testing::TestDatabase;
use ssw_sim::SimOptions;

const A: &str = "a.local";
const B: &str = "b.local";

async fn switch(domain: &str, extra: &str) -> anyhow::Result<Stack> {
    let sim = SimOptions { domains: vec![domain.to_owned()], ..SimOptions::default() };
    Stack::start(StackOptions { sim, extra: format!("{}{extra}", StackOptions::default().extra), ..StackOptions::default() }).await
}

#[tokio::test]
async fn two_switches_one_over_mutual_tls_are_two_tenants_and_the_suite_survives_the_restart_of_either_agent() -> anyhow::Result<()> {
    let files = Files::new()?;
    let scopes = ["calls", "conferences", "directory", "events", "admin"];
    // At the same port after its restart.
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let listener = files.config().replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
    let grants = format!("{}{}{listener}", own_grant(&scopes), grant("suite", &[B], &["calls", "conferences", "directory", "events"], ""));
    let (one, mut two) = (switch(A, "").await?, switch(B, &grants).await?);
    let client = files.authority.sign("suite.example")?;
    let (certificate, key) = (files.write("suite.pem", &client.certificate)?, files.write("suite.key", &client.key)?);
    let address = two.tls_address()?;
    let place = TestDatabase::sqlite()?;
    let agents = format!(
        "[[agents]]\naddress = \"unix:{}\"\ndomains = [\"{A}\"]\n[[agents]]\naddress = \"https://{address}\"\ndomains = [\"{B}\"]\n\
         server_name = \"agent.example\"\nca_file = \"{}\"\ncertificate_file = \"{}\"\nkey_file = \"{}\"\n",
        one.directory.join("grpc.sock").display(),
        files.path("clients.pem").display(),
        certificate.display(),
        key.display(),
    );
    let database = format!("[database]\nurl = \"{}\"\n", place.settings.url);
    let suite = suite(&one, &[A, B], &format!("{database}{agents}")).await?;
    let (a, b) = (Realm::of(&suite, A)?, Realm::of(&suite, B)?);
    let in_a = a.tokens(&mut Browser::new()?, "1003", "p1003").await?;
    let in_b = b.tokens(&mut Browser::new()?, "1003", "p1003").await?;
    let (in_a, in_b) = (text(&in_a, "access_token")?, text(&in_b, "access_token")?);
    let status = async |token: &str| {
        let (status, seen) = a.get(&suite.url("/elph_status/v1/users/1001"), token).await.ok()?;
        (status == 200).then(|| seen["state"].as_str().unwrap_or_default().to_owned())
    };
    let is = async |token: &str, wanted: &str| eventually(wanted, async || status(token).await.filter(|state| state == wanted)).await;

    // The same numbers talk on the second switch: only its tenant sees it.
    let call = two.talk("1001", "1002").await?;
    is(in_b, "in_call").await?;
    ensure!(status(in_a).await.as_deref() == Some("offline"));
    two.agent.kill().await?;
    two.sim.switch().release_call(B, &call.switch_call_id)?;
    one.talk("1001", "1002").await?;
    is(in_a, "in_call").await?;
    let (ready, reasons) = suite.inside("/readyz").await?;
    ensure!(ready == 503 && reasons.contains(&address.to_string()), "{reasons}");
    two.crash_agent().await?;
    is(in_b, "offline").await?;
    let again = async || (b.tokens(&mut Browser::new().ok()?, "1003", "p1003").await).ok();
    eventually("people of the second switch can sign in again", again).await?;
    drop(suite);
    two.stop().await?;
    one.stop().await
}
