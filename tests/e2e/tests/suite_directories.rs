//! The SSO with people whom the switch does not check: a real OpenLDAP server, and local accounts that an operator makes.

use std::process::Stdio;

use anyhow::{Context, ensure};
use e2e::{
    Stack, StackOptions, binary, eventually,
    sso::{self, Browser, Realm, claims, text},
    suite::Suite,
};
use elph_kit_testing::{TestDatabase, TestDirectory};
use tokio::{io::AsyncWriteExt, process::Command};

const ANNA: (&str, &str) = ("anna", "anna's password");
const TRY_AGAIN: &str = "The password cannot be checked now";
const WRONG: &str = "The login or the password is wrong";

/// A switch with the subscribers 1001 and so on, and a suite whose people are in a directory.
struct Stage {
    stack: Stack,
    suite: Suite,
    realm: Realm,
    directory: TestDirectory,
    _database: TestDatabase,
}

impl Stage {
    /// Nothing where slapd is missing and may be.
    async fn start(servers: impl Fn(&TestDirectory) -> Vec<String>) -> anyhow::Result<Option<Self>> {
        let Some(directory) = TestDirectory::start().await? else { return Ok(None) };
        let (stack, database) = (Stack::start(StackOptions::default()).await?, TestDatabase::sqlite()?);
        let domain = stack.domain().to_owned();
        let config = format!(
            "[database]\nurl = \"{}\"\n[sso.lifetimes]\nrecheck = \"0s\"\n[sso.lockout]\nattempts = 3\n\
             [[sso.realms]]\ndomain = \"{domain}\"\nsource = \"ldap\"\n\
             [[sso.realms.roles]]\nrole = \"moderator\"\ngroups = [\"{}\"]\n\
             [[sso.realms.roles]]\nrole = \"night-shift\"\naliases = [\"1001\"]\n\
             [sso.realms.ldap]\nservers = {:?}\nca_file = {:?}\nbase = \"{}\"\nbind_dn = \"{}\"\npassword_file = {:?}\ntimeout = \"3s\"\n",
            database.settings.url,
            TestDirectory::MODERATORS,
            servers(&directory),
            directory.authority(),
            TestDirectory::BASE,
            TestDirectory::READER,
            directory.password()
        );
        let suite = sso::suite(&stack, &[&domain], &config).await?;
        let realm = Realm::of(&suite, &domain)?;
        Ok(Some(Self { stack, suite, realm, directory, _database: database }))
    }

    /// What the page says to who tries to sign in.
    async fn told(&self, login: &str, password: &str) -> anyhow::Result<String> {
        let mut browser = Browser::new()?;
        let page = browser.open(&self.realm.request(&[])?).await?;
        let page = browser.sign_in(&page, login, password).await?;
        ensure!(page.away.is_none(), "signed in as {login}");
        Ok(page.html)
    }

    async fn stop(self) -> anyhow::Result<()> {
        ensure!(!self.suite.log().contains("'s password"), "a password is in the log");
        self.stack.stop().await
    }
}

#[tokio::test]
async fn a_person_of_the_directory_signs_in_with_name_mail_and_the_roles_of_its_groups() -> anyhow::Result<()> {
    let Some(stage) = Stage::start(|directory| vec![directory.encrypted()]).await? else { return Ok(()) };
    let tokens = stage.realm.tokens(&mut Browser::new()?, ANNA.0, ANNA.1).await?;
    let (identity, access) = (claims(text(&tokens, "id_token")?)?, claims(text(&tokens, "access_token")?)?);
    ensure!(identity["preferred_username"] == "1001" && identity["name"] == "Anna Petrova", "{identity}");
    ensure!(identity["email"] == "anna@example.org", "{identity}");
    ensure!(access.to_string().contains("moderator") && access.to_string().contains("night-shift"), "{access}");
    let (status, me) = stage.realm.get(&stage.suite.url("/elph_status/v1/me"), text(&tokens, "access_token")?).await?;
    ensure!(status == 200 && me["status"]["alias"] == "1001", "{status} {me}");

    // Who leaves the group loses the role at the next refresh.
    let group = "dn: cn=Moderators,dc=example,dc=org\nchangetype: modify\nreplace: member\nmember: uid=vera,ou=people,dc=example,dc=org\n";
    stage.directory.modify(group).await?;
    let (status, fresh) = stage.realm.refresh(text(&tokens, "refresh_token")?).await?;
    let access = claims(text(&fresh, "access_token")?)?.to_string();
    ensure!(status == 200 && !access.contains("moderator") && access.contains("night-shift"), "{access}");
    stage.stop().await
}

#[tokio::test]
async fn wrong_unknown_disabled_doubled_and_tricky_logins_of_the_directory_get_one_answer() -> anyhow::Result<()> {
    let Some(stage) = Stage::start(|directory| vec![directory.plain()]).await? else { return Ok(()) };
    for (login, password) in [
        ("anna", "wrong"),
        ("no-such-person", "x"),
        ("boris", "boris's password"),
        ("twin", "twin's password"),
        ("*", "anna's password"),
        ("*)(uid=*", "anna's password"),
        ("anna)(cn=*", "anna's password"),
    ] {
        let html = stage.told(login, password).await?;
        ensure!(html.contains(WRONG), "{login}: {html}");
    }
    // The password is right, but there is no subscriber: without a number, and with one that the switch does not have.
    let number = "dn: uid=owner,ou=people,dc=example,dc=org\nchangetype: modify\nreplace: telephoneNumber\ntelephoneNumber: 99999\n";
    stage.directory.modify(number).await?;
    for login in ["vera", "owner"] {
        let html = stage.told(login, &format!("{login}'s password")).await?;
        ensure!(html.contains("the switch has no such subscriber"), "{login}: {html}");
    }
    stage.stop().await
}

#[tokio::test]
async fn trial_24_a_directory_that_is_down_throws_nobody_out_locks_nobody_out_and_is_used_when_it_is_back() -> anyhow::Result<()> {
    let Some(mut stage) = Stage::start(|directory| vec![directory.encrypted()]).await? else { return Ok(()) };
    let tokens = stage.realm.tokens(&mut Browser::new()?, ANNA.0, ANNA.1).await?;
    stage.directory.end().await?;
    // More often than wrong passwords may be tried.
    for _ in 0..6 {
        let html = stage.told(ANNA.0, ANNA.1).await?;
        ensure!(html.contains(TRY_AGAIN), "{html}");
    }
    let (status, fresh) = stage.realm.refresh(text(&tokens, "refresh_token")?).await?;
    ensure!(status == 200, "{fresh}");
    let access = claims(text(&fresh, "access_token")?)?.to_string();
    ensure!(access.contains("moderator"), "the roles stay as they were: {access}");
    stage.directory.resume().await?;
    let tokens = stage.realm.tokens(&mut Browser::new()?, ANNA.0, ANNA.1).await?;
    ensure!(stage.realm.refresh(text(&tokens, "refresh_token")?).await?.0 == 200);
    stage.stop().await
}

#[tokio::test]
async fn trial_24_a_directory_that_is_slow_or_shows_nothing_throws_nobody_out() -> anyhow::Result<()> {
    // Accepts and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = silent.local_addr()?;
    let hung = tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = silent.accept().await {
            kept.push(stream);
        }
    });
    let servers = |directory: &TestDirectory| vec![directory.plain(), format!("ldap://{address}")];
    let Some(mut stage) = Stage::start(servers).await? else { return Ok(()) };
    let tokens = stage.realm.tokens(&mut Browser::new()?, ANNA.0, ANNA.1).await?;
    stage.directory.end().await?;
    let html = stage.told(ANNA.0, ANNA.1).await?;
    ensure!(html.contains(TRY_AGAIN), "{html}");
    let (status, tokens) = stage.realm.refresh(text(&tokens, "refresh_token")?).await?;
    ensure!(status == 200, "slow: {tokens}");
    hung.abort();

    // As after a restore that went wrong: the searching account is gone, and nobody is shown.
    stage.directory.resume().await?;
    std::fs::write(stage.directory.password(), "an old password")?;
    let (status, tokens) = stage.realm.refresh(text(&tokens, "refresh_token")?).await?;
    ensure!(status == 200, "the searching account is refused: {tokens}");
    let html = stage.told(ANNA.0, ANNA.1).await?;
    ensure!(html.contains(TRY_AGAIN), "{html}");
    std::fs::write(stage.directory.password(), "reader's password")?;
    let back = async || stage.realm.refresh(text(&tokens, "refresh_token").ok()?).await.ok().filter(|(status, _)| *status == 200);
    eventually("the directory is asked again", back).await?;
    stage.stop().await
}

#[tokio::test]
async fn trial_25_who_is_deleted_or_disabled_in_the_directory_is_out_at_the_next_refresh_and_stays_out() -> anyhow::Result<()> {
    let Some(stage) = Stage::start(|directory| vec![directory.encrypted()]).await? else { return Ok(()) };
    let mut browser = Browser::new()?;
    let tokens = stage.realm.tokens(&mut browser, ANNA.0, ANNA.1).await?;
    stage.directory.modify("dn: uid=anna,ou=people,dc=example,dc=org\nchangetype: delete\n").await?;
    let (status, refused) = stage.realm.refresh(text(&tokens, "refresh_token")?).await?;
    ensure!(status == 400 && refused["error"] == "invalid_grant", "{refused}");
    // The browser's session is over as well, and the password opens nothing any more.
    let page = browser.open(&stage.realm.request(&[])?).await?;
    ensure!(page.away.is_none(), "{page:?}");
    ensure!(stage.told(ANNA.0, ANNA.1).await?.contains(WRONG));
    stage.stop().await
}

/// Runs `elph-server accounts`.
async fn accounts(suite: &std::path::Path, arguments: &[&str], input: &str) -> anyhow::Result<()> {
    let mut command = Command::new(binary("elph-server")?);
    command.args(["accounts", "--config"]).arg(suite).args(arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn()?;
    child.stdin.take().context("no standard input")?.write_all(input.as_bytes()).await?;
    let output = child.wait_with_output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[tokio::test]
async fn an_account_that_an_operator_makes_signs_in_and_is_out_when_it_is_disabled_on_both_databases() -> anyhow::Result<()> {
    let stack = Stack::start(StackOptions::default()).await?;
    let domain = stack.domain().to_owned();
    for database in TestDatabase::both().await? {
        let database_section = format!("[database]\nurl = \"{}\"\n", database.settings.url);
        let realms = format!("[sso.lifetimes]\nrecheck = \"0s\"\n[[sso.realms]]\ndomain = \"{domain}\"\nsource = \"local\"\n");
        let suite = sso::suite(&stack, &[&domain], &format!("{database_section}{realms}")).await?;
        let (realm, place) = (Realm::of(&suite, &domain)?, tempfile::tempdir()?);
        let config = place.path().join("server.toml");
        std::fs::write(&config, &database_section)?;
        let who = ["--domain", domain.as_str(), "anna"];
        let add = [&["add"][..], &who, &["--alias", "1001", "--name", "Anna Petrova", "--role", "moderator"]].concat();
        accounts(&config, &add, "correct horse\n").await?;
        let tokens = realm.tokens(&mut Browser::new()?, "Anna", "correct horse").await?;
        let identity = claims(text(&tokens, "id_token")?)?;
        ensure!(identity["preferred_username"] == "1001" && identity["name"] == "Anna Petrova", "{}: {identity}", database.name);
        accounts(&config, &[&["disable"][..], &who].concat(), "").await?;
        let (status, refused) = realm.refresh(text(&tokens, "refresh_token")?).await?;
        ensure!(status == 400, "{}: {refused}", database.name);
        accounts(&config, &[&["enable"][..], &who].concat(), "").await?;
        accounts(&config, &[&["passwd"][..], &who].concat(), "another horse\n").await?;
        let mut browser = Browser::new()?;
        let page = browser.open(&realm.request(&[])?).await?;
        let page = browser.sign_in(&page, "anna", "correct horse").await?;
        ensure!(page.html.contains(WRONG), "{}: {page:?}", database.name);
        ensure!(browser.sign_in(&page, "anna", "another horse").await?.away.is_some(), "{}", database.name);
    }
    stack.stop().await
}
