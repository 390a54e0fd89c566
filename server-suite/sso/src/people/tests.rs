//! The switch through an agent that the test plays, local accounts on both databases, and what they come to together.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use elph_kit::{
    database::Database,
    switches::{AgentSettings, Switches},
};
use elph_kit_testing::TestDatabase;
use elph_proto::{
    reason::Reason,
    v1::{
        self,
        directory_service_server::{DirectoryService, DirectoryServiceServer},
    },
};
use parking_lot::Mutex;
use secrecy::SecretString;
use sqlx::migrate::Migrator;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, transport::Server};

use super::*;

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

const DOMAIN: &str = "biysk.local";
const PASSWORD: &str = "correct horse";

/// An agent with the subscribers 1001 and 1002, and how it fails.
#[derive(Clone, Default)]
struct Agent {
    failure: Arc<Mutex<Option<Status>>>,
    listing: Arc<Mutex<Vec<String>>>,
    asked: Arc<AtomicU32>,
}

impl Agent {
    fn fails(&self) -> Result<(), Status> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.failure.lock().clone().map_or(Ok(()), Err)
    }
}

#[tonic::async_trait]
impl DirectoryService for Agent {
    async fn list_domains(&self, _: Request<v1::ListDomainsRequest>) -> Result<Response<v1::ListDomainsResponse>, Status> {
        Err(Status::unimplemented("not asked for here"))
    }

    async fn list_subscribers(
        &self,
        request: Request<v1::ListSubscribersRequest>,
    ) -> Result<Response<v1::ListSubscribersResponse>, Status> {
        let request = request.into_inner();
        let of = |alias: &String| v1::Subscriber { alias: alias.clone(), domain: request.domain.clone(), ..v1::Subscriber::default() };
        let subscribers = self.listing.lock().iter().filter(|alias| alias.starts_with(&request.alias_prefix)).map(of).collect();
        Ok(Response::new(v1::ListSubscribersResponse { subscribers, ..v1::ListSubscribersResponse::default() }))
    }

    async fn get_subscriber(&self, request: Request<v1::GetSubscriberRequest>) -> Result<Response<v1::GetSubscriberResponse>, Status> {
        self.fails()?;
        let v1::GetSubscriberRequest { domain, alias } = request.into_inner();
        if !["1001", "1002"].contains(&alias.as_str()) {
            return Err(Reason::UnknownAlias.status("the domain has no such alias"));
        }
        let subscriber = v1::Subscriber { alias, domain, ..v1::Subscriber::default() };
        Ok(Response::new(v1::GetSubscriberResponse { subscriber: Some(subscriber), ..v1::GetSubscriberResponse::default() }))
    }

    async fn list_rooms(&self, _: Request<v1::ListRoomsRequest>) -> Result<Response<v1::ListRoomsResponse>, Status> {
        Err(Status::unimplemented("not asked for here"))
    }

    async fn authenticate_subscriber(
        &self,
        request: Request<v1::AuthenticateSubscriberRequest>,
    ) -> Result<Response<v1::AuthenticateSubscriberResponse>, Status> {
        self.fails()?;
        let request = request.into_inner();
        if request.domain == DOMAIN && request.login == "1001" && request.password == PASSWORD {
            return Ok(Response::new(v1::AuthenticateSubscriberResponse { alias: request.login }));
        }
        Err(Reason::CredentialsRejected.status("login or password is wrong"))
    }
}

/// What a test asks.
struct Stage {
    agent: Agent,
    switches: Arc<Switches>,
    task: tokio::task::JoinHandle<()>,
    end: CancellationToken,
    socket: PathBuf,
    _directory: tempfile::TempDir,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stage {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("grpc.sock");
        let agents = [AgentSettings {
            server_name: None,
            address: format!("unix:{}", socket.display()),
            domains: vec![DOMAIN.to_owned(), "other.local".to_owned()],
            ca_file: None,
            certificate_file: None,
            key_file: None,
        }];
        let switches = Arc::new(Switches::new(&agents).unwrap());
        let agent = Agent::default();
        let (task, end) = serve(&agent, &socket);
        Self { agent, switches, task, end, socket, _directory: directory }
    }

    fn people(&self, database: &Database, realms: &[RealmSettings]) -> People {
        People::of(realms, &self.switches, database).unwrap()
    }
}

fn serve(agent: &Agent, socket: &Path) -> (tokio::task::JoinHandle<()>, CancellationToken) {
    let _old = std::fs::remove_file(socket);
    let incoming = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
    let service = DirectoryServiceServer::new(agent.clone());
    let end = CancellationToken::new();
    let ends = end.clone().cancelled_owned();
    let task = tokio::spawn(async move {
        let _ended = Server::builder().add_service(service).serve_with_incoming_shutdown(incoming, ends).await;
    });
    (task, end)
}

fn secret(text: &str) -> SecretString {
    SecretString::from(text.to_owned())
}

async fn opened(database: &TestDatabase) -> Database {
    let database = database.open().await.unwrap();
    database.migrate("sso", &MIGRATIONS).await.unwrap();
    database
}

fn person(alias: &str, roles: &[&str]) -> Person {
    Person { alias: alias.to_owned(), name: None, email: None, roles: roles.iter().map(|role| (*role).to_owned()).collect() }
}

fn moderators(domain: &str, source: SourceKind) -> RealmSettings {
    let role = RoleSettings { role: "moderator".to_owned(), aliases: vec!["1001".to_owned()], groups: Vec::new() };
    RealmSettings { source, roles: vec![role], ..RealmSettings::of(domain) }
}

fn account(login: &str, alias: Option<&str>) -> NewAccount {
    NewAccount { domain: DOMAIN.to_owned(), login: login.to_owned(), alias: alias.map(str::to_owned), ..NewAccount::default() }
}

#[tokio::test]
async fn a_subscriber_signs_in_with_number_and_password_of_the_switch() {
    let (stage, database) = (Stage::new().await, TestDatabase::sqlite().unwrap().open().await.unwrap());
    let people = stage.people(&database, &[moderators(DOMAIN, SourceKind::Ecss)]);
    assert_eq!(people.domains(), [DOMAIN, "other.local"], "a domain without a realm has its subscribers");
    for login in ["1001", " 1001 ", "1001@biysk.local", "1001@BIYSK.LOCAL"] {
        assert_eq!(people.authenticate(DOMAIN, login, &secret(PASSWORD)).await, Ok(person("1001", &["moderator"])), "{login}");
    }
    assert_eq!(people.still(DOMAIN, "1002").await, Ok(person("1002", &[])));
    assert_eq!(people.still(DOMAIN, "4711").await, Err(Refusal::Wrong));
}

#[tokio::test]
async fn wrong_passwords_other_domains_and_what_is_no_number_are_refused_alike() {
    let (stage, database) = (Stage::new().await, TestDatabase::sqlite().unwrap().open().await.unwrap());
    let people = stage.people(&database, &[]);
    for (domain, login, password) in [
        (DOMAIN, "1001", "wrong"),
        (DOMAIN, "4711", PASSWORD),
        ("other.local", "1001", PASSWORD),
        ("other.local", "1001@biysk.local", PASSWORD),
        ("no.such.domain", "1001", PASSWORD),
    ] {
        assert_eq!(people.authenticate(domain, login, &secret(password)).await, Err(Refusal::Wrong), "{domain} {login}");
    }
    let asked = stage.agent.asked.load(Ordering::SeqCst);
    for (login, password) in [("1001", ""), ("1001", "\0"), ("", PASSWORD), ("10 01", PASSWORD), ("10\n01", PASSWORD)] {
        assert_eq!(people.authenticate(DOMAIN, login, &secret(password)).await, Err(Refusal::Wrong), "{login:?}");
    }
    for (login, password) in
        [("1".repeat(300), PASSWORD.to_owned()), ("1001".to_owned(), "x".repeat(300)), ("1001".to_owned(), "x".repeat(3000))]
    {
        assert_eq!(people.authenticate(DOMAIN, &login, &secret(&password)).await, Err(Refusal::Wrong));
    }
    assert_eq!(stage.agent.asked.load(Ordering::SeqCst), asked, "the switch is not bothered with these");
}

#[tokio::test]
async fn an_agent_that_cannot_answer_is_no_refusal_and_comes_back() {
    let (mut stage, database) = (Stage::new().await, TestDatabase::sqlite().unwrap().open().await.unwrap());
    let people = stage.people(&database, &[]);
    for (status, part) in [
        (Reason::TooManyAttempts.status("wait"), "too many attempts"),
        (Reason::SwitchUnavailable.status("the link is down"), "SWITCH_UNAVAILABLE: the link is down"),
        (Reason::MissingScope.status("no"), "MISSING_SCOPE"),
        (Reason::CallerUnknown.status("who are you"), "CALLER_UNKNOWN"),
        (Status::unauthenticated("a proxy says so"), "UNAUTHENTICATED"),
        (Status::not_found("no such service"), "NOT_FOUND"),
    ] {
        *stage.agent.failure.lock() = Some(status);
        for outcome in [people.authenticate(DOMAIN, "1001", &secret(PASSWORD)).await, people.still(DOMAIN, "1001").await] {
            assert!(matches!(&outcome, Err(Refusal::Unavailable(why)) if why.contains(part)), "{part}: {outcome:?}");
        }
    }
    *stage.agent.listing.lock() = vec!["1001".to_owned(), "10012".to_owned()];
    assert_eq!(people.still(DOMAIN, "1001").await, Ok(person("1001", &[])), "the list of subscribers is there without the switch");
    assert!(matches!(people.still(DOMAIN, "100").await, Err(Refusal::Unavailable(_))), "another's number begins so");
    stage.agent.listing.lock().clear();
    *stage.agent.failure.lock() = None;
    stage.end.cancel();
    (&mut stage.task).await.unwrap();
    std::fs::remove_file(&stage.socket).unwrap();
    assert!(matches!(people.authenticate(DOMAIN, "1001", &secret(PASSWORD)).await, Err(Refusal::Unavailable(_))));
    (stage.task, stage.end) = serve(&stage.agent, &stage.socket);
    let back = async {
        while people.still(DOMAIN, "1001").await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), back).await.unwrap();
}

#[tokio::test]
async fn a_local_account_signs_in_where_the_switch_has_its_subscriber() {
    let stage = Stage::new().await;
    for database in TestDatabase::both().await.unwrap() {
        let name = database.name;
        let open = opened(&database).await;
        let people = stage.people(&open, &[moderators(DOMAIN, SourceKind::Local)]);
        let accounts = Accounts::new(&open).unwrap();
        let new = NewAccount {
            name: Some("Anna Petrova".to_owned()),
            email: Some("anna@example.org".to_owned()),
            roles: vec!["operator".to_owned()],
            ..account("Anna", Some("1001"))
        };
        accounts.add(&new, &secret(PASSWORD)).await.unwrap();
        accounts.add(&account("4711", None), &secret(PASSWORD)).await.unwrap();
        let anna = Person { name: new.name.clone(), email: new.email.clone(), ..person("1001", &["moderator", "operator"]) };
        for login in ["anna", "ANNA", " Anna "] {
            assert_eq!(people.authenticate(DOMAIN, login, &secret(PASSWORD)).await, Ok(anna.clone()), "{name} {login}");
        }
        assert_eq!(people.still(DOMAIN, "1001").await, Ok(anna.clone()), "{name}");
        assert_eq!(people.authenticate(DOMAIN, "4711", &secret(PASSWORD)).await, Err(Refusal::NotSubscriber), "{name}");
        assert_eq!(people.authenticate(DOMAIN, "4711", &secret("wrong")).await, Err(Refusal::Wrong), "{name}");
        assert_eq!(people.still(DOMAIN, "4711").await, Err(Refusal::Wrong), "{name}");
        let anybody = RealmSettings { require_subscriber: false, ..moderators(DOMAIN, SourceKind::Local) };
        let people = stage.people(&open, &[anybody]);
        assert_eq!(people.authenticate(DOMAIN, "4711", &secret(PASSWORD)).await, Ok(person("4711", &[])), "{name}");
        for (login, password) in [("anna", "correct hors"), ("anna", ""), ("nobody", PASSWORD), ("1001", PASSWORD), ("an na", PASSWORD)] {
            assert_eq!(people.authenticate(DOMAIN, login, &secret(password)).await, Err(Refusal::Wrong), "{name} {login}");
        }
        open.close().await;
    }
}

#[tokio::test]
async fn accounts_are_made_changed_listed_and_removed_on_both_databases() {
    let stage = Stage::new().await;
    for mut database in TestDatabase::both().await.unwrap() {
        let name = database.name;
        let open = opened(&database).await;
        let accounts = Accounts::new(&open).unwrap();
        let people = stage.people(&open, &[moderators(DOMAIN, SourceKind::Local), moderators("other.local", SourceKind::Local)]);
        let made = accounts.add(&account("Anna", Some("1001")), &secret(PASSWORD)).await.unwrap();
        assert_eq!((made.login.as_str(), made.alias.as_str(), made.disabled), ("anna", "1001", false), "{name}");
        for taken in [account("anna", Some("1002")), account("ANNA", Some("1002")), account("vera", Some("1001"))] {
            assert!(matches!(accounts.add(&taken, &secret(PASSWORD)).await, Err(AccountError::Taken)), "{name}");
        }
        for bad in [account("", None), account("a b", Some("1")), account("vera", Some("ve ra")), account("вера", None)] {
            assert!(matches!(accounts.add(&bad, &secret(PASSWORD)).await, Err(AccountError::Invalid(_))), "{name} {bad:?}");
        }
        let weak = accounts.add(&account("vera", Some("1002")), &secret("vera's own")).await;
        assert!(matches!(weak, Err(AccountError::Invalid(why)) if why.contains("login")), "{name}");
        let elsewhere = NewAccount { domain: "other.local".to_owned(), ..account("anna", Some("1001")) };
        accounts.add(&elsewhere, &secret("another horse")).await.unwrap();
        let signs_in = async |domain: &str, password: &str| people.authenticate(domain, "anna", &secret(password)).await.map(drop);
        assert_eq!(signs_in(DOMAIN, PASSWORD).await, Ok(()), "{name}");
        assert_eq!(signs_in("other.local", PASSWORD).await, Err(Refusal::Wrong), "{name}: the same login of another domain");

        accounts.set_password(DOMAIN, "Anna", &secret("brand new horse")).await.unwrap();
        assert_eq!(signs_in(DOMAIN, PASSWORD).await, Err(Refusal::Wrong), "{name}");
        assert_eq!(signs_in(DOMAIN, "brand new horse").await, Ok(()), "{name}");
        assert!(accounts.set_password(DOMAIN, "anna", &secret("short")).await.is_err(), "{name}");

        accounts.set_disabled(DOMAIN, "anna", true).await.unwrap();
        assert_eq!(signs_in(DOMAIN, "brand new horse").await, Err(Refusal::Wrong), "{name}");
        assert_eq!(people.still(DOMAIN, "1001").await, Err(Refusal::Wrong), "{name}");
        accounts.set_disabled(DOMAIN, "anna", false).await.unwrap();
        assert_eq!(signs_in("other.local", "another horse").await, Ok(()), "{name}");

        accounts.set_roles(DOMAIN, "anna", &["b".to_owned(), "a".to_owned(), "b".to_owned()]).await.unwrap();
        assert_eq!(people.still(DOMAIN, "1001").await.unwrap().roles, ["a", "b", "moderator"], "{name}");
        assert!(accounts.set_roles(DOMAIN, "anna", &["a b".to_owned()]).await.is_err(), "{name}");

        for number in 0..5 {
            accounts.add(&account(&format!("user{number}"), None), &secret(PASSWORD)).await.unwrap();
        }
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let page = accounts.list(DOMAIN, &after, 2).await.unwrap();
            let Some(last) = page.last() else { break };
            after.clone_from(&last.login);
            all.extend(page.into_iter().map(|account| account.login));
        }
        assert_eq!(all, ["anna", "user0", "user1", "user2", "user3", "user4"], "{name}");

        accounts.remove(DOMAIN, "anna").await.unwrap();
        assert!(matches!(accounts.remove(DOMAIN, "anna").await, Err(AccountError::Unknown)), "{name}");
        assert!(matches!(accounts.set_disabled(DOMAIN, "anna", true).await, Err(AccountError::Unknown)), "{name}");
        assert_eq!(people.still(DOMAIN, "1001").await, Err(Refusal::Wrong), "{name}");
        assert_eq!(signs_in("other.local", "another horse").await, Ok(()), "{name}: another domain's stays");

        if name == "postgres" {
            database.end().await.unwrap();
            assert!(matches!(signs_in("other.local", "another horse").await, Err(Refusal::Unavailable(_))));
            assert!(matches!(people.still("other.local", "1001").await, Err(Refusal::Unavailable(_))));
            database.start().await.unwrap();
            assert_eq!(signs_in("other.local", "another horse").await, Ok(()), "the database is back");
        }
        open.close().await;
    }
}

#[tokio::test]
async fn a_password_hashed_with_old_parameters_is_hashed_anew_when_it_is_next_used() {
    let stage = Stage::new().await;
    for database in TestDatabase::both().await.unwrap() {
        let open = opened(&database).await;
        let (accounts, people) = (Accounts::new(&open).unwrap(), stage.people(&open, &[moderators(DOMAIN, SourceKind::Local)]));
        accounts.add(&account("anna", Some("1001")), &secret(PASSWORD)).await.unwrap();
        let old = password::old_hash(PASSWORD);
        sqlx::query("UPDATE sso_accounts SET password_hash = $1").bind(old.clone()).execute(open.pool()).await.unwrap();
        let hash =
            async || -> String { sqlx::query_scalar("SELECT password_hash FROM sso_accounts").fetch_one(open.pool()).await.unwrap() };
        assert_eq!(people.authenticate(DOMAIN, "anna", &secret("wrong")).await, Err(Refusal::Wrong));
        assert_eq!(hash().await, old, "{}", database.name);
        assert!(people.authenticate(DOMAIN, "anna", &secret(PASSWORD)).await.is_ok());
        assert!(hash().await.contains("m=19456,t=2,p=1"), "{}", database.name);
        assert!(people.authenticate(DOMAIN, "anna", &secret(PASSWORD)).await.is_ok());
        open.close().await;
    }
}

#[tokio::test]
async fn many_sign_ins_at_once_are_all_answered() {
    let stage = Stage::new().await;
    let database = TestDatabase::sqlite().unwrap();
    let open = opened(&database).await;
    let (accounts, people) = (Accounts::new(&open).unwrap(), stage.people(&open, &[moderators(DOMAIN, SourceKind::Local)]));
    accounts.add(&account("anna", Some("1001")), &secret(PASSWORD)).await.unwrap();
    let one = |login: &'static str| {
        let people = people.clone();
        tokio::spawn(async move { people.authenticate(DOMAIN, login, &secret(PASSWORD)).await })
    };
    let asked: Vec<_> = (0..8).flat_map(|_| [(true, one("anna")), (false, one("nobody"))]).collect();
    for (known, outcome) in asked {
        match outcome.await.unwrap() {
            Ok(_) => assert!(known),
            Err(Refusal::Wrong) => assert!(!known),
            // A machine under load may say so; that is no wrong answer.
            Err(Refusal::Unavailable(why)) => assert!(why.contains("at once"), "{why}"),
            Err(Refusal::NotSubscriber) => panic!("1001 is a subscriber"),
        }
    }
}
