//! The terminal and the control API over real sockets, with an HTTP client written by hand.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test")]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use ssw_sim::{CutPoint, Link, MessageFault, Sim, SimOptions, terminal::xml};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const D: &str = "elph.local";
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Answer {
    fn tree(&self) -> xml::Element {
        xml::read(&self.body).unwrap_or_else(|| panic!("no document: {:?}", self.body))
    }
}

/// Sends one request and reads one answer; `None` if the connection ends before it is whole.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, request: &str) -> Option<Answer> {
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut octets = Vec::new();
    let head = loop {
        if let Some(at) = octets.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if timeout(PATIENCE, stream.read_buf(&mut octets)).await.ok()?.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8(octets[..head].to_vec()).ok()?;
    let mut lines = text.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: BTreeMap<_, _> =
        lines.filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    let length: usize = headers.get("content-length").map_or(0, |value| value.parse().unwrap());
    let mut body = octets.split_off(head + 4);
    while body.len() < length {
        if timeout(PATIENCE, stream.read_buf(&mut body)).await.ok()?.ok()? == 0 {
            return None;
        }
    }
    Some(Answer { status, headers, body: String::from_utf8_lossy(&body[..length]).into_owned() })
}

fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{method} {path} HTTP/1.1\r\nHost: switch\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

#[derive(Clone)]
struct Client {
    address: SocketAddr,
    cookie: String,
}

impl Client {
    async fn login(address: SocketAddr, password: &str) -> (Self, Answer) {
        let body = format!(r#"<in><login user="admin" password="{password}"/></in>"#);
        let mut stream = TcpStream::connect(address).await.unwrap();
        let answer = exchange(&mut stream, &request("POST", "/system/login", &[], &body)).await.unwrap();
        let cookie = answer.headers.get("set-cookie").map(|cookie| cookie.split(';').next().unwrap().to_owned()).unwrap_or_default();
        (Self { address, cookie }, answer)
    }

    async fn up(sim: &Sim) -> Self {
        Self::login(sim.addresses().terminal, "password").await.0
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Option<Answer> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let headers = [&[("Cookie", self.cookie.as_str())], headers].concat();
        exchange(&mut stream, &request(method, path, &headers, body)).await
    }

    async fn command(&self, name: &str, body: &str) -> Answer {
        self.send("POST", &format!("/commands/{name}"), &[], &format!("<in>{body}</in>")).await.unwrap()
    }
}

async fn start() -> Sim {
    Sim::start(SimOptions::default()).await.unwrap()
}

#[tokio::test]
async fn login_gives_a_cookie_and_the_node_s_names_and_a_wrong_password_is_404() {
    let sim = start().await;
    let (_, refused) = Client::login(sim.addresses().terminal, "wrong").await;
    assert_eq!((refused.status, refused.headers.get("set-cookie")), (404, None));
    let (client, answer) = Client::login(sim.addresses().terminal, "password").await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.contains(r#"xs:noNamespaceSchemaLocation="login.xsd""#));
    assert_eq!(answer.tree().find("settings").unwrap().get("md"), Some("md1"));
    let ping = client.send("GET", "/system/ping", &[("P-Request-Id", "77")], "").await.unwrap();
    assert_eq!((ping.status, ping.headers["p-request-id"].as_str()), (200, "77"));
    assert_eq!(sim.sessions().list().len(), 1);
    client.send("POST", "/system/logout", &[], "").await.unwrap();
    assert_eq!(sim.sessions().list().len(), 0);
    let expired = client.send("GET", "/system/ping", &[], "").await.unwrap();
    assert_eq!(expired.status, 401);
    assert_eq!(expired.tree().find("error").unwrap().get("cause"), Some("session_expired"));
    sim.shutdown().await;
}

#[tokio::test]
async fn a_session_is_good_on_its_own_node_only() {
    let sim = Sim::start(SimOptions { nodes: 2, ..SimOptions::default() }).await.unwrap();
    let client = Client::up(&sim).await;
    let other = Client { address: sim.nodes()[1].terminal, ..client.clone() };
    assert_eq!(other.command("check_connection", "<request/>").await.status, 401);
    let (second, answer) = Client::login(sim.nodes()[1].terminal, "password").await;
    assert_eq!(answer.tree().find("settings").unwrap().get("ds"), Some("ds2"));
    sim.switch().dial(D, "1001", "1002").unwrap();
    let calls = second.command("calls_history", &format!(r#"<request type="active"><domain name="{D}"/></request>"#)).await;
    assert!(calls.tree().find("call").is_some(), "nodes share one state");
}

#[tokio::test]
async fn status_codes_are_as_uneven_as_documented() {
    let sim = start().await;
    let client = Client::up(&sim).await;
    let cases = [
        ("check_connection", "<request/>".to_owned(), 200),
        ("check_connection", r#"<request domain="nowhere"/>"#.to_owned(), 404),
        ("role_add_group", r#"<role name="r"><group name="g"/></role>"#.to_owned(), 201),
        ("role_add_group", r#"<role name="r"><group name="locked"/></role>"#.to_owned(), 200),
        ("ds_cmds_lists_declare", format!(r#"<request domain="{D}"><list name="l"><number value="1"/></list></request>"#), 201),
        ("ds_cmds_lists_declare", r#"<request domain="nowhere"><list name="l"/></request>"#.to_owned(), 200),
        ("cocon_add_user", r#"<user name="u" password="long enough"/>"#.to_owned(), 201),
        ("cocon_del_user", r#"<user name="u"/>"#.to_owned(), 204),
        ("node_memory_info", r#"<node name="ds1@ecss1"/>"#.to_owned(), 200),
        ("cocon_configure_info", "<request/>".to_owned(), 200),
        ("no_such_command", "<request/>".to_owned(), 404),
    ];
    for (name, body, status) in cases {
        let answer = client.command(name, &body).await;
        assert_eq!(answer.status, status, "{name} {body}: {}", answer.body);
    }
}

#[tokio::test]
async fn declaring_a_subscriber_shows_progress_and_asks_before_it_replaces() {
    let sim = start().await;
    let client = Client::up(&sim).await;
    let body = format!(r#"<in><request domain="{D}"><alias address="5001" interface="i"/></request></in>"#);
    let declare = |id: &'static str, more: &'static [(&str, &str)]| {
        let (client, body) = (client.clone(), body.clone());
        async move { client.send("POST", "/commands/sip_user_declare", &[&[("P-Request-Id", id)], more].concat(), &body).await.unwrap() }
    };
    let poll = |id: &'static str| {
        let client = client.clone();
        async move { client.send("GET", &format!("/commands/sip_user_declare/progress/{id}"), &[], "").await.unwrap() }
    };
    assert_eq!(declare("1", &[]).await.status, 206);
    let mut polls = 0;
    let last = loop {
        let answer = poll("1").await;
        polls += 1;
        if answer.status != 206 {
            break answer;
        }
    };
    assert!(polls > 1);
    assert_eq!((last.status, last.tree().find("alias").unwrap().get("address")), (201, Some("5001")));
    let question = declare("2", &[]).await;
    assert_eq!(question.status, 300);
    assert!(question.tree().find("question").is_some());
    assert_eq!(declare("3", &[("P-Confirm", "yes")]).await.status, 206);
    assert!(sim.switch().alias_exists(D, "5001"));
}

#[tokio::test]
async fn lists_cards_and_passwords_are_read() {
    let sim = start().await;
    let client = Client::up(&sim).await;
    let aliases = client.command("alias_list", &format!(r#"<aliases domain="{D}"/>"#)).await;
    assert_eq!(aliases.body.matches("<alias ").count(), 100);
    let card = client.command("get_extended_subscriber_card", &format!(r#"<request domain="{D}" address="1001"/>"#)).await.tree();
    assert_eq!(card.find("registration").unwrap().get("access_point"), Some("ipsmg"));
    assert_eq!(card.find("regime").unwrap().get("private_in"), Some("false"));
    let rooms = client.command("teleconference_room_list", &format!(r#"<request domain="{D}"/>"#)).await;
    assert!(rooms.body.contains(r#"<room name="800" description="main hall"/>"#));
    for (password, status) in [("p1001", 200), ("wrong", 404)] {
        let body = format!(r#"<request domain="{D}" login="1001" password="{password}"/>"#);
        assert_eq!(client.command("sp_login", &body).await.status, status);
    }
}

#[tokio::test]
async fn calls_and_conferences_of_the_switch_stand_in_the_lists() {
    let sim = start().await;
    let client = Client::up(&sim).await;
    let made = sim.switch().dial(D, "1001", "1002").unwrap();
    sim.switch().answer(D, &made.call, "1002").unwrap();
    sim.switch().release_call(D, &made.call).unwrap();
    let body = format!(r#"<request type="history" address="%002"><domain name="{D}" limit="5"/></request>"#);
    let call = client.command("calls_history", &body).await.tree();
    let call = call.find("call").unwrap();
    assert_eq!(call.get("call_id"), Some(made.call.as_str()));
    assert_eq!((call.get("answered_by"), call.get("cause")), (Some("1002"), Some("normal")));
    let request = serde_json::json!({ "name": "Plan & act", "members": ["1003"], "limit": 9 }).to_string();
    let control = Client { address: sim.control(), cookie: String::new() };
    let made = control.send("POST", &format!("/domains/{D}/conferences"), &[], &request).await.unwrap();
    let id = serde_json::from_str::<serde_json::Value>(&made.body).unwrap()["id"].as_str().unwrap().to_owned();
    let answered = control.send("POST", &format!("/domains/{D}/phones/1003/answer"), &[], "").await.unwrap();
    assert_eq!(answered.status, 200, "{answered:?}");
    let list = client.command("conference_list", &format!(r#"<request domain="{D}"/>"#)).await.tree();
    let conference = list.find("conference").unwrap();
    assert_eq!((conference.get("space"), conference.get("name")), (Some(id.as_str()), Some("Plan & act")));
    assert_eq!((conference.get("legs_count"), conference.get("calls_limit")), (Some("1"), Some("9")));
    let meetings = client.command("tc_meetings_active_info", &format!(r#"<request domain="{D}" meeting="{id}"/>"#)).await.tree();
    let member = meetings.find("member").unwrap();
    assert_eq!((member.get("number"), member.get("state"), member.get("voice")), (Some("1003"), Some("connected"), Some("true")));
}

#[tokio::test]
async fn faults_cut_refuse_damage_and_expire() {
    let sim = start().await;
    let client = Client::up(&sim).await;
    let faults = sim.faults();
    let check = || client.send("POST", "/commands/check_connection", &[], "<in><request/></in>");
    faults.refuse_in_200("check_connection", 1);
    let refused = check().await.unwrap();
    assert_eq!((refused.status, refused.tree().find("error").is_some()), (200, true));
    for cut in [CutPoint::Before, CutPoint::During, CutPoint::After] {
        faults.swallow_answer("check_connection", cut, 1);
        assert!(check().await.is_none(), "{cut:?}");
    }
    for fault in [MessageFault::Truncate, MessageFault::Garbage] {
        faults.next_messages(Link::Terminal, 0, fault, 1);
        assert!(check().await.is_none(), "{fault:?}");
    }
    assert_eq!(check().await.unwrap().status, 200);
    faults.set_half_open(Link::Terminal, 0, true);
    assert!(timeout(Duration::from_millis(300), check()).await.is_err(), "a half-open link answers nothing");
    faults.set_half_open(Link::Terminal, 0, false);
    assert_eq!(check().await.unwrap().status, 200);
    let control = Client { address: sim.control(), cookie: String::new() };
    let expired = control.send("POST", "/faults", &[], r#"{"fault": "expire_sessions", "link": "terminal"}"#).await.unwrap();
    assert_eq!(expired.body, r#"{"expired":1}"#);
    assert_eq!(check().await.unwrap().status, 401);
    faults.set_node(0, false);
    assert!(check().await.is_none(), "a node that is down takes no connection");
}

#[tokio::test]
async fn duplicated_and_oversized_answers_reach_the_client_as_such() {
    let sim = start().await;
    let client = Client::up(&sim).await;
    let text = request("POST", "/commands/check_connection", &[("Cookie", client.cookie.as_str())], "<in><request/></in>");
    sim.faults().next_messages(Link::Terminal, 0, MessageFault::Duplicate, 1);
    let mut stream = TcpStream::connect(client.address).await.unwrap();
    let (mut octets, mut rest) = (vec![0; 16], Vec::new());
    stream.write_all(text.as_bytes()).await.unwrap();
    timeout(PATIENCE, stream.read_exact(&mut octets)).await.unwrap().unwrap();
    stream.shutdown().await.unwrap();
    timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
    let all = [octets, rest].concat();
    assert_eq!(String::from_utf8_lossy(&all).matches("HTTP/1.1 200").count(), 2);
    sim.faults().next_messages(Link::Terminal, 0, MessageFault::Oversize, 1);
    let mut stream = TcpStream::connect(client.address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut count = 0;
    let mut buffer = vec![0; 65536];
    while count < 8 * 1024 * 1024 {
        count += timeout(PATIENCE, stream.read(&mut buffer)).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_restart_drops_sessions_and_keeps_calls_if_told_so() {
    let sim = start().await;
    let control = Client { address: sim.control(), cookie: String::new() };
    sim.switch().dial(D, "1001", "1002").unwrap();
    for (keep, calls) in [(true, 1), (false, 0)] {
        let client = Client::up(&sim).await;
        let body = format!(r#"{{"keep_state": {keep}}}"#);
        assert_eq!(control.send("POST", "/restart", &[], &body).await.unwrap().status, 200);
        assert_eq!(sim.sessions().list().len(), 0);
        assert_eq!(client.command("check_connection", "<request/>").await.status, 401);
        assert_eq!(sim.switch().call_count(None), calls);
    }
}

#[tokio::test]
async fn what_is_no_http_or_no_document_is_refused_and_the_server_lives() {
    let sim = start().await;
    let client = Client::up(&sim).await;
    let endless = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(40_000));
    for (text, status) in [
        ("nonsense\r\n\r\n", 400),
        ("GET / SPDY/3\r\n\r\n", 505),
        ("POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", 413),
        ("POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (endless.as_str(), 431),
    ] {
        let mut stream = TcpStream::connect(client.address).await.unwrap();
        assert_eq!(exchange(&mut stream, text).await.unwrap().status, status, "{:.40}", text);
    }
    for body in ["", "<in", "<out/>", "<in><a></in>"] {
        let answer = client.send("POST", "/commands/check_connection", &[], body).await.unwrap();
        assert_eq!(answer.status, 404, "{body}");
    }
    assert_eq!(client.command("check_connection", "<request/>").await.status, 200);
}

#[tokio::test]
async fn licences_that_run_out_are_named_through_the_control_api() {
    let sim = start().await;
    let control = Client { address: sim.control(), cookie: String::new() };
    control.send("PUT", "/licences/calls", &[], r#"{"limit": 0}"#).await.unwrap();
    let refused = control.send("POST", &format!("/domains/{D}/phones/1001/dial"), &[], r#"{"to": "1002"}"#).await.unwrap();
    assert_eq!(refused.status, 409);
    assert!(refused.body.contains(r#""cause":"licence_limit""#), "{}", refused.body);
    let wrong = control.send("POST", "/faults", &[], r#"{"fault": "none"}"#).await.unwrap();
    assert_eq!(wrong.status, 400);
    assert!(control.send("GET", "/", &[], "").await.unwrap().body.contains("POST   /faults"));
}

#[tokio::test]
async fn with_tls_the_authority_in_the_file_is_the_one_that_signed() {
    use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
    let sim = Sim::start(SimOptions { tls: true, ..SimOptions::default() }).await.unwrap();
    let (path, _) = sim.ca().unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(path).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()));
    let plain = TcpStream::connect(sim.addresses().terminal).await.unwrap();
    let mut stream = connector.connect(ServerName::try_from("127.0.0.1").unwrap(), plain).await.unwrap();
    let body = r#"<in><login user="admin" password="password"/></in>"#;
    let answer = exchange(&mut stream, &request("POST", "/system/login", &[], body)).await.unwrap();
    assert_eq!(answer.status, 200);
    std::fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn any_seed_speaks_its_own_dialect() {
    let seed = u64::from(rand::random::<u32>()) * 2;
    println!("seed {seed}");
    let sim = Sim::start(SimOptions { seed: Some(seed), ..SimOptions::default() }).await.unwrap();
    let client = Client::up(&sim).await;
    let dialect = sim.dialect();
    assert!(client.cookie.starts_with(&dialect.terminal.session_cookie));
    let id = sim.switch().create_conference(D, ssw_core::ConferenceRequest::default()).unwrap();
    // Even seeds offer some operations at the terminal.
    let lock = &dialect.operations["conference_lock"];
    assert_eq!(lock.service, "terminal");
    let attributes = [(&lock.fields["domain"], &D.to_owned()), (&lock.fields["conference"], &id)];
    let attributes: String = attributes.into_iter().chain(lock.fixed.iter()).map(|(name, value)| format!(r#" {name}="{value}""#)).collect();
    let answer = client.command(&lock.name, &format!("<request{attributes}/>")).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(sim.switch().conference(D, &id).unwrap().locked);
    let shape = &dialect.terminal.requests["conference_list"];
    let list = client.command("conference_list", &format!(r#"<{} {}="{D}"/>"#, shape.element, shape.fields["domain"])).await.tree();
    let conference = list.find("conference").unwrap();
    let guessed = client.command("conference_list", &format!(r#"<request domain="{D}"/>"#)).await;
    assert_eq!(guessed.status, 404, "a request in another dialect's words is not understood");
    assert_eq!(conference.get(&dialect.terminal.conferences.fields["locked"]), Some(dialect.boolean(true)));
    assert_eq!(conference.get("space"), Some(id.as_str()), "documented names stay");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_and_fifty_six_requests_at_once_are_all_answered() {
    let sim = start().await;
    let client = Client::up(&sim).await;
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..256 {
        let client = client.clone();
        tasks.spawn(async move {
            let id = number.to_string();
            let answer = client.send("POST", "/commands/check_connection", &[("P-Request-Id", &id)], "<in><request/></in>").await;
            answer.is_some_and(|answer| answer.status == 200 && answer.headers["p-request-id"] == id)
        });
    }
    while let Some(result) = tasks.join_next().await {
        assert!(result.unwrap());
    }
    println!("256 requests in {:?}", begun.elapsed());
    assert!(begun.elapsed() < PATIENCE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_load_makes_two_thousand_events_a_second() {
    use ssw_sim::load::LoadOptions;
    let load = LoadOptions { calls_per_second: 400.0, calls: 50, conferences: 3, conference_size: 10, ..LoadOptions::default() };
    let sim = Sim::start(SimOptions { aliases: 2000, load, ..SimOptions::default() }).await.unwrap();
    let mut events = sim.switch().subscribe();
    let begun = Instant::now();
    let mut count = 0u32;
    while count < 8000 {
        timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
        count += 1;
    }
    println!("{:.0} events/s", f64::from(count) / begun.elapsed().as_secs_f64());
    assert!(begun.elapsed() < PATIENCE);
    assert_eq!(sim.switch().conferences(None).len(), 3);
    assert!(sim.switch().call_count(None) >= 50);
}
