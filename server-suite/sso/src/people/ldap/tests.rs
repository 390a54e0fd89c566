//! A real OpenLDAP server, and servers that fail in every way.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU32, Ordering},
};

use elph_kit_testing::TestDirectory;
use rasn_ldap::{BindResponse, LdapMessage, LdapResult, PartialAttribute, ProtocolOp, SearchResultDone};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
};

use super::*;

/// How long a server may take to start, and everything that must not hang.
const PATIENCE: Duration = Duration::from_secs(30);

const MODERATORS: &str = "cn=moderators, dc=example,dc=org";

/// A port at which nobody answers for as long as this is kept.
fn closed() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn settings(slapd: &TestDirectory) -> LdapSettings {
    LdapSettings {
        servers: vec![slapd.encrypted()],
        ca_file: Some(slapd.authority()),
        bind_dn: Some(TestDirectory::READER.to_owned()),
        password_file: Some(slapd.password()),
        base: TestDirectory::BASE.to_owned(),
        timeout: elph_shell::config::Span::seconds(20),
        ..LdapSettings::default()
    }
}

fn directory(settings: &LdapSettings) -> Directory {
    Directory::new(settings, vec![MODERATORS.to_owned()]).unwrap_or_else(|(key, what)| panic!("{key}: {what}"))
}

fn secret(text: &str) -> SecretString {
    SecretString::from(text.to_owned())
}

#[track_caller]
fn unavailable<T: std::fmt::Debug>(outcome: Result<T, Refusal>, part: &str) -> String {
    match outcome {
        Err(Refusal::Unavailable(why)) if why.contains(part) => why,
        other => panic!("not unavailable with '{part}': {other:?}"),
    }
}

#[tokio::test]
async fn a_person_signs_in_over_tls_and_starttls_and_is_known_with_name_mail_and_groups() {
    let Some(slapd) = TestDirectory::start().await.unwrap() else { return };
    let anna = Entry {
        alias: Some("1001".to_owned()),
        name: Some("Anna Petrova".to_owned()),
        email: Some("anna@example.org".to_owned()),
        groups: vec![MODERATORS.to_owned()],
    };
    let starttls = LdapSettings { servers: vec![slapd.plain()], ..settings(&slapd) };
    let plain = LdapSettings { start_tls: false, ..starttls.clone() };
    let search = LdapSettings { groups: GroupLookup::Search, ..settings(&slapd) };
    for settings in [settings(&slapd), starttls, plain, search] {
        let directory = directory(&settings);
        assert_eq!(directory.sign_in("anna", &secret("anna's password")).await.unwrap(), anna, "{:?}", settings.servers);
        assert_eq!(directory.still("1001").await.unwrap(), anna);
        assert_eq!(directory.sign_in("anna", &secret("another password")).await, Err(Refusal::Wrong));
    }
    let vera = directory(&settings(&slapd)).sign_in("vera", &secret("vera's password")).await.unwrap();
    assert_eq!((vera.alias, vera.groups), (None, Vec::new()), "no number, another group");
}

#[tokio::test]
async fn unknown_doubled_disabled_and_passwordless_people_are_one_and_the_same_refusal() {
    let Some(slapd) = TestDirectory::start().await.unwrap() else { return };
    let directory = directory(&settings(&slapd));
    for (login, password) in [
        ("nobody at all", "x"),
        ("boris", "boris's password"),
        ("twin", "twin's password"),
        ("nobody", "anything"),
        ("anna", "vera's password"),
    ] {
        assert_eq!(directory.sign_in(login, &secret(password)).await, Err(Refusal::Wrong), "{login}");
    }
    assert_eq!(directory.still("1002").await, Err(Refusal::Wrong), "disabled");
    assert_eq!(directory.still("4711").await, Err(Refusal::Wrong), "unknown");
}

#[tokio::test]
async fn what_is_typed_as_a_login_cannot_change_the_filter() {
    let Some(slapd) = TestDirectory::start().await.unwrap() else { return };
    let directory = directory(&settings(&slapd));
    for login in ["*", "*)(uid=*", "anna)(cn=*", "*)(|(uid=anna", "a*", "\\61nna", "anna\\00", "(anna)"] {
        assert_eq!(directory.sign_in(login, &secret("anna's password")).await, Err(Refusal::Wrong), "{login}");
        assert_eq!(directory.still(login).await, Err(Refusal::Wrong), "{login}");
    }
}

#[tokio::test]
async fn who_writes_anothers_number_into_an_own_entry_signs_in_as_nobody() {
    let Some(slapd) = TestDirectory::start().await.unwrap() else { return };
    let directory = directory(&settings(&slapd));
    unavailable(directory.sign_in("thief", &secret("thief's password")).await, "several people");
    unavailable(directory.still("1005").await, "several people");
    assert_eq!(directory.sign_in("thief", &secret("wrong")).await, Err(Refusal::Wrong), "the password comes first");
    slapd.modify("dn: uid=thief,ou=people,dc=example,dc=org\nchangetype: modify\ndelete: telephoneNumber\n").await.unwrap();
    assert_eq!(directory.sign_in("owner", &secret("owner's password")).await.unwrap().alias.as_deref(), Some("1005"));
}

#[tokio::test]
async fn a_changed_directory_is_seen_at_once() {
    let Some(slapd) = TestDirectory::start().await.unwrap() else { return };
    let directory = directory(&settings(&slapd));
    let group = "dn: cn=Moderators,dc=example,dc=org\nchangetype: modify\nreplace: member\nmember: uid=vera,ou=people,dc=example,dc=org\n";
    slapd.modify(group).await.unwrap();
    assert_eq!(directory.still("1001").await.unwrap().groups, [""; 0]);
    slapd.modify("dn: uid=anna,ou=people,dc=example,dc=org\nchangetype: delete\n").await.unwrap();
    assert_eq!(directory.still("1001").await, Err(Refusal::Wrong));
}

#[tokio::test]
async fn a_certificate_of_another_authority_or_name_gets_no_password() {
    let Some(slapd) = TestDirectory::start().await.unwrap() else { return };
    let other = tempfile::tempdir().unwrap();
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(other.path().join("ca.pem"), key.cert.pem()).unwrap();
    let wrong = LdapSettings { ca_file: Some(other.path().join("ca.pem")), ..settings(&slapd) };
    unavailable(directory(&wrong).sign_in("anna", &secret("anna's password")).await, "TLS failed");
    let starttls = LdapSettings { servers: vec![slapd.plain()], ..wrong };
    unavailable(directory(&starttls).sign_in("anna", &secret("anna's password")).await, "TLS failed");
    let named = slapd.encrypted().replace("localhost", "ip6-localhost");
    // Whether there is such a host or not, the certificate is not its.
    unavailable(
        directory(&LdapSettings { servers: vec![named], ..settings(&slapd) }).sign_in("anna", &secret("anna's password")).await,
        "",
    );
}

#[tokio::test]
async fn the_searching_accounts_wrong_password_is_no_persons_fault() {
    let Some(slapd) = TestDirectory::start().await.unwrap() else { return };
    let directory = directory(&settings(&slapd));
    std::fs::write(slapd.password(), "old password").unwrap();
    let why =
        unavailable(directory.sign_in("anna", &secret("anna's password")).await, "the searching account was refused: InvalidCredentials");
    assert!(!why.contains("old password") && !why.contains("anna"), "{why}");
    unavailable(directory.still("1001").await, "the searching account");
    std::fs::write(slapd.password(), "reader's password").unwrap();
    assert!(directory.still("1001").await.is_ok(), "the file is read again");
}

#[tokio::test]
async fn a_directory_that_shows_nothing_throws_nobody_out() {
    let Some(slapd) = TestDirectory::start().await.unwrap() else { return };
    let elsewhere = LdapSettings { base: "ou=gone,dc=example,dc=org".to_owned(), ..settings(&slapd) };
    unavailable(directory(&elsewhere).still("1001").await, "the search was refused: NoSuchObject");
    let unseen = LdapSettings { bind_dn: None, password_file: None, ..settings(&slapd) };
    assert!(matches!(directory(&unseen).still("1001").await, Err(Refusal::Unavailable(_))));
}

#[tokio::test]
async fn a_look_names_for_each_server_what_is_wrong_with_it() {
    let Some(slapd) = TestDirectory::start().await.unwrap() else { return };
    let look = async |settings: LdapSettings, group: &str| {
        let mut looks = Directory::new(&settings, vec![group.to_owned()]).unwrap().look().await;
        assert_eq!(looks.len(), settings.servers.len());
        looks.pop().unwrap().1
    };
    let good = settings(&slapd);
    assert_eq!(look(good.clone(), MODERATORS).await, Ok(()));
    let has = |look: Result<(), String>, part: &str| assert!(look.as_ref().is_err_and(|why| why.contains(part)), "{part}: {look:?}");
    has(look(good.clone(), "cn=typo,dc=example,dc=org").await, "has no cn=typo,dc=example,dc=org");
    has(look(LdapSettings { base: "dc=other,dc=org".to_owned(), ..good.clone() }, MODERATORS).await, "dc=other,dc=org");
    let (_kept, nobody) = closed();
    let down = LdapSettings { servers: vec![slapd.encrypted(), format!("ldaps://{nobody}")], ..good.clone() };
    has(look(down, MODERATORS).await, "cannot be reached");
    std::fs::write(slapd.password(), "old password").unwrap();
    has(look(good, MODERATORS).await, "the searching account was refused: InvalidCredentials");
}

#[tokio::test]
async fn the_next_server_is_asked_when_one_is_down_or_silent_and_it_is_remembered() {
    let Some(slapd) = TestDirectory::start().await.unwrap() else { return };
    let silent = Fake::start(|_, _| Vec::new()).await;
    let (_kept, nobody) = closed();
    let servers = vec![format!("ldaps://{nobody}"), format!("ldaps://{}", silent.address), slapd.encrypted()];
    let timeout = elph_shell::config::Span::seconds(3);
    let directory = directory(&LdapSettings { servers, timeout, ..settings(&slapd) });
    assert!(directory.sign_in("anna", &secret("anna's password")).await.is_ok());
    let began = Instant::now();
    assert!(directory.sign_in("anna", &secret("anna's password")).await.is_ok());
    assert!(began.elapsed() < Duration::from_secs(1), "the silent one is asked last: {:?}", began.elapsed());
}

#[tokio::test]
async fn a_server_that_is_down_or_slow_is_unavailable_within_the_time_out() {
    let timeout = elph_shell::config::Span::seconds(1);
    let (_kept, nobody) = closed();
    let down = LdapSettings { servers: vec![format!("ldap://{nobody}")], ..bare(timeout) };
    unavailable(directory(&down).sign_in("anna", &secret("x")).await, "cannot be reached");
    let silent = Fake::start(|_, _| Vec::new()).await;
    for start_tls in [true, false] {
        let slow = LdapSettings { servers: vec![format!("ldap://{}", silent.address)], start_tls, ..bare(timeout) };
        let (began, slow) = (Instant::now(), directory(&slow));
        unavailable(slow.sign_in("anna", &secret("x")).await, "did not answer in time");
        unavailable(slow.still("1001").await, "did not answer in time");
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn no_more_than_so_many_ask_at_once_and_the_others_are_told_in_time() {
    let silent = Fake::start(|_, _| Vec::new()).await;
    let timeout = elph_shell::config::Span::seconds(1);
    let settings =
        LdapSettings { servers: vec![format!("ldap://{}", silent.address)], start_tls: false, max_connections: 1, ..bare(timeout) };
    let directory = Arc::new(directory(&settings));
    let asked: Vec<_> = (0..8)
        .map(|_| {
            tokio::spawn({
                let directory = directory.clone();
                async move { directory.still("1001").await }
            })
        })
        .collect();
    let began = Instant::now();
    for one in asked {
        unavailable(one.await.unwrap(), "");
    }
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(silent.connections.load(Ordering::SeqCst) <= 2, "one at a time");
}

#[tokio::test]
async fn an_empty_answer_is_wrong_at_sign_in_and_no_word_on_a_person_later() {
    let empty = Fake::start(|_, op| match op {
        ProtocolOp::BindRequest(_) => vec![bound(ResultCode::Success)],
        _ => vec![ProtocolOp::SearchResDone(done(ResultCode::Success))],
    })
    .await;
    let directory = directory(&LdapSettings { servers: vec![format!("ldap://{}", empty.address)], start_tls: false, ..bare(minute()) });
    assert_eq!(directory.sign_in("anna", &secret("x")).await, Err(Refusal::Wrong));
    unavailable(directory.still("1001").await, "shows nothing");
}

#[tokio::test]
async fn answers_that_are_no_answers_are_the_servers_fault() {
    let entry = |dn: &str| ProtocolOp::SearchResEntry(attributed(dn, "telephoneNumber", "1001"));
    type Answer = Box<dyn Fn(u32, ProtocolOp) -> Vec<ProtocolOp> + Send + Sync>;
    let busy: Vec<ResultCode> = vec![ResultCode::Busy, ResultCode::Unavailable, ResultCode::Referral, ResultCode::Other];
    let mut cases: Vec<(Answer, &str)> = vec![
        (Box::new(|_, _| vec![bound(ResultCode::Success)]), "not asked for"),
        (Box::new(move |_, _| (0..5).map(|n| entry(&format!("cn={n}"))).collect()), "not asked for"),
    ];
    for code in busy {
        cases.push((Box::new(move |_, _| vec![ProtocolOp::SearchResDone(done(code))]), "was refused"));
        cases.push((
            Box::new(move |_, op| match op {
                ProtocolOp::BindRequest(_) => vec![bound(code)],
                _ => vec![entry("cn=x"), ProtocolOp::SearchResDone(done(ResultCode::Success))],
            }),
            "was refused",
        ));
    }
    for (answer, part) in cases {
        let fake = Fake::start(answer).await;
        let directory = directory(&LdapSettings { servers: vec![format!("ldap://{}", fake.address)], start_tls: false, ..bare(minute()) });
        let begun = timeout(PATIENCE, directory.sign_in("anna", &secret("x"))).await.unwrap();
        unavailable(begun, part);
    }
}

#[tokio::test]
async fn bytes_that_are_no_ldap_hurt_nobody() {
    let deep: Vec<u8> = [0x30, 0x80].repeat(1000);
    let nested = (0..200).fold(vec![0x04, 0x00], |inner: Vec<u8>, _| {
        let length = u16::try_from(inner.len()).unwrap().to_be_bytes();
        [vec![0x30, 0x82, length[0], length[1]], inner].concat()
    });
    let huge = [vec![0x30, 0x84, 0x7f, 0xff, 0xff, 0xff], vec![0; 1 << 20]].concat();
    let odd: [&[u8]; 9] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x30\x00",
        b"\x30\x03\x02\x01\x01",
        b"\x30\x02\x02\x00",
        b"\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\xff\x04\x00\x04\x00",
        b"\x30\x05\x02\x01\x01\x61\x00",
        &deep,
        &nested,
        &huge,
    ];
    for bytes in odd {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let bytes = bytes.to_vec();
        let server = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _cut = stream.write_all(&bytes).await;
                let mut ignored = [0; 512];
                while stream.read(&mut ignored).await.is_ok_and(|read| read > 0) {}
            }
        });
        for start_tls in [false, true] {
            let timeout = elph_shell::config::Span::seconds(2);
            let directory = directory(&LdapSettings { servers: vec![format!("ldap://{address}")], start_tls, ..bare(timeout) });
            unavailable(directory.still("1001").await, "");
        }
        server.abort();
    }
}

#[test]
fn disabled_and_expired_accounts_are_told_by_what_each_directory_says() {
    let entry = |name: &str, value: &str| attributed("cn=x", name, value);
    for (name, value) in [
        ("userAccountControl", "514"),
        ("useraccountcontrol", "66050"),
        ("accountExpires", "132223104000000000"),
        ("nsAccountLock", "TRUE"),
    ] {
        assert!(is_disabled(&entry(name, value)), "{name} {value}");
    }
    for (name, value) in [
        ("userAccountControl", "512"),
        ("accountExpires", "0"),
        ("accountExpires", "9223372036854775807"),
        ("accountExpires", "159017472000000000"),
        ("nsAccountLock", "false"),
        ("cn", "514"),
    ] {
        assert!(!is_disabled(&entry(name, value)), "{name} {value}");
    }
}

#[test]
fn names_are_compared_without_what_does_not_matter() {
    assert_eq!(comparable("CN=Moderators, DC=example,dc = org"), comparable("cn=moderators,dc=example,dc=org"));
    assert_ne!(comparable("cn=a,dc=b"), comparable("cn=ab"));
}

fn bare(timeout: elph_shell::config::Span) -> LdapSettings {
    LdapSettings { base: "dc=example,dc=org".to_owned(), allow_plain: true, timeout, ca_file: None, ..LdapSettings::default() }
}

fn minute() -> elph_shell::config::Span {
    elph_shell::config::Span::seconds(60)
}

fn attributed(dn: &str, name: &str, value: &str) -> SearchResultEntry {
    let attribute = PartialAttribute::new(name.into(), vec![value.as_bytes().to_vec().into()].into());
    SearchResultEntry::new(dn.into(), vec![attribute])
}

fn done(code: ResultCode) -> SearchResultDone {
    SearchResultDone(LdapResult::new(code, "".into(), "as the test\nwants".into()))
}

fn bound(code: ResultCode) -> ProtocolOp {
    ProtocolOp::BindResponse(BindResponse::new(code, "".into(), "".into(), None, None))
}

/// A server that answers each request as a test says.
struct Fake {
    address: SocketAddr,
    connections: Arc<AtomicU32>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    async fn start(answer: impl Fn(u32, ProtocolOp) -> Vec<ProtocolOp> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, connections, answer) = (listener.local_addr().unwrap(), Arc::new(AtomicU32::new(0)), Arc::new(answer));
        let (counted, own) = (connections.clone(), answer);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(converse(stream, own.clone()));
            }
        });
        Self { address, connections, task }
    }
}

async fn converse(mut stream: TcpStream, answer: Arc<impl Fn(u32, ProtocolOp) -> Vec<ProtocolOp>>) {
    let mut read = vec![0; 64 << 10];
    let mut asked = 0;
    // A client of ours waits for the answer before it says more, in one piece.
    while let Ok(length @ 1..) = stream.read(&mut read).await {
        let Ok(request) = rasn::ber::decode::<LdapMessage>(&read[..length]) else { return };
        let mut written = Vec::new();
        for op in answer(asked, request.protocol_op) {
            written.extend(rasn::ber::encode(&LdapMessage::new(request.message_id, op)).unwrap());
        }
        asked += 1;
        if stream.write_all(&written).await.is_err() {
            return;
        }
    }
}
