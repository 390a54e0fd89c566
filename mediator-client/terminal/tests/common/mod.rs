//! A small mediator for the tests, written from ecss10-interfaces §1 and the `sim` dialect; it shares no code with the driver.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use ecss_switch::{
    connect::Endpoint,
    event::{EventSink, LinkEvent},
    link::{LinkState, LinkStatus},
};
use ecss_terminal::TerminalConfig;
use secrecy::SecretString;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{mpsc, watch},
};

pub(crate) const PASSWORD: &str = "Geheim&<9>";

/// What happens to the next command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection closes before the command is executed.
    CutBefore,
    /// The command is executed, and the connection closes without an answer.
    CutAfter,
    /// The answer carries another request's id.
    WrongId,
    /// The answer comes twice.
    Twice,
    /// The answer breaks off.
    Truncated,
    /// The body is no document.
    Garbage,
    /// The body claims and sends more than anyone should read.
    Oversized,
    /// 206 so many times, then the answer.
    Progress(u32),
    /// 300 unless confirmed.
    Question,
    /// No answer, ever.
    Silence,
    /// A refusal in a 200 body.
    Refuse,
}

#[derive(Debug, Default)]
struct State {
    sessions: BTreeSet<u64>,
    logins: u64,
    /// Every command that was executed.
    executed: Vec<String>,
    faults: VecDeque<Fault>,
    running: u32,
    refuse_logins: bool,
    bodies: Vec<String>,
}

/// The mediator.
#[derive(Clone, Default)]
pub(crate) struct Mediator {
    state: Arc<Mutex<State>>,
    /// How long a command takes.
    takes: Duration,
}

impl Mediator {
    /// One whose commands take a while.
    pub(crate) fn slow(takes: Duration) -> Self {
        Self { takes, ..Self::default() }
    }

    pub(crate) fn fault(&self, fault: Fault) {
        self.state.lock().unwrap().faults.push_back(fault);
    }

    pub(crate) fn expire_sessions(&self) {
        self.state.lock().unwrap().sessions.clear();
    }

    pub(crate) fn refuse_logins(&self, refuse: bool) {
        self.state.lock().unwrap().refuse_logins = refuse;
    }

    pub(crate) fn sessions(&self) -> usize {
        self.state.lock().unwrap().sessions.len()
    }

    pub(crate) fn logins(&self) -> u64 {
        self.state.lock().unwrap().logins
    }

    /// How often a command of this name was executed.
    pub(crate) fn executed(&self, name: &str) -> usize {
        self.state.lock().unwrap().executed.iter().filter(|executed| *executed == name).count()
    }

    pub(crate) fn bodies(&self) -> Vec<String> {
        self.state.lock().unwrap().bodies.clone()
    }

    /// Serves one connection until it closes.
    pub(crate) async fn serve(self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut buffer = Vec::new();
        while let Some((head, body)) = read_request(&mut stream, &mut buffer).await {
            let Some(answer) = self.answer(&head, &body).await else { return };
            let cut = answer.cut;
            if stream.write_all(&answer.octets).await.is_err() || cut {
                let _ = stream.shutdown().await;
                return;
            }
        }
    }

    async fn answer(&self, head: &str, body: &str) -> Option<Octets> {
        let mut line = head.lines().next()?.split(' ');
        let (_method, path) = (line.next()?, line.next()?);
        let header = |name: &str| {
            let found = head.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.trim().to_owned())
        };
        let id = header("p-request-id")?;
        let session = header("cookie").and_then(|cookie| {
            let value = cookie.split("; ").find_map(|pair| pair.strip_prefix("ECSSSESSION="))?;
            value.parse::<u64>().ok()
        });
        if path == "/system/login" {
            return Some(self.login(&id, body));
        }
        let alive = self.state.lock().unwrap().sessions.contains(&session.unwrap_or(0));
        if !alive {
            return Some(octets(401, &id, "", ""));
        }
        match path {
            "/system/ping" => return Some(octets(200, &id, "pong", "")),
            "/system/logout" => {
                self.state.lock().unwrap().sessions.remove(&session.unwrap_or(0));
                return Some(octets(204, &id, "", ""));
            }
            _ => {}
        }
        let name = path.strip_prefix("/commands/")?;
        if let Some((name, rest)) = name.split_once("/progress/") {
            let mut state = self.state.lock().unwrap();
            assert!(rest.contains('-'), "the path names the command's request id");
            state.running = state.running.saturating_sub(1);
            return Some(if state.running > 0 { octets(206, &id, "", "") } else { octets(200, &id, &result(name), "") });
        }
        let fault = self.state.lock().unwrap().faults.pop_front();
        self.command(name, &id, body, fault, header("p-confirm").as_deref() == Some("yes")).await
    }

    fn login(&self, id: &str, body: &str) -> Octets {
        let mut state = self.state.lock().unwrap();
        let right = body.contains(r#"user="admin""#) && body.contains(r#"password="Geheim&amp;&lt;9&gt;""#);
        if !right || state.refuse_logins {
            return octets(404, id, &format!("<out><error reason=\"no user with {PASSWORD_XML}\"/></out>"), "");
        }
        state.logins += 1;
        let session = state.logins;
        state.sessions.insert(session);
        let out = r#"<?xml version="1.0"?><out xmlns:xs="http://www.w3.org/2001/XMLSchema-instance" xs:noNamespaceSchemaLocation="login.xsd"><settings md="md1" ds="ds1" version="3.10.0.36"/></out>"#;
        octets(200, id, out, &format!("Set-Cookie: ECSSSESSION={session}; Path=/; HttpOnly\r\nSet-Cookie: other=1\r\n"))
    }

    async fn command(&self, name: &str, id: &str, body: &str, fault: Option<Fault>, confirmed: bool) -> Option<Octets> {
        if !self.takes.is_zero() {
            tokio::time::sleep(self.takes).await;
        }
        let execute = || {
            let mut state = self.state.lock().unwrap();
            state.executed.push(name.to_owned());
            state.bodies.push(body.to_owned());
        };
        let good = octets(200, id, &result(name), "");
        match fault {
            None => execute(),
            Some(Fault::CutBefore) => return None,
            Some(Fault::CutAfter) => {
                execute();
                return None;
            }
            Some(Fault::WrongId) => {
                execute();
                return Some(octets(200, "0-0", &result(name), ""));
            }
            Some(Fault::Twice) => {
                execute();
                return Some(Octets { octets: [good.octets.clone(), good.octets].concat(), cut: false });
            }
            Some(Fault::Truncated) => {
                execute();
                let half = good.octets.len() - 10;
                return Some(Octets { octets: good.octets[..half].to_vec(), cut: true });
            }
            Some(Fault::Garbage) => {
                execute();
                return Some(octets(200, id, "<out><!DOCTYPE", ""));
            }
            Some(Fault::Oversized) => {
                execute();
                let head = format!("HTTP/1.1 200 OK\r\nP-Request-Id: {id}\r\nContent-Length: 40000000\r\n\r\n");
                return Some(Octets { octets: [head.into_bytes(), vec![b' '; 40_000_000]].concat(), cut: false });
            }
            Some(Fault::Progress(times)) => {
                execute();
                self.state.lock().unwrap().running = times;
                return Some(octets(206, id, "", ""));
            }
            Some(Fault::Question) => {
                if !confirmed {
                    self.state.lock().unwrap().faults.push_front(Fault::Question);
                    return Some(octets(300, id, "<out><question text=\"really?\"/></out>", ""));
                }
                execute();
            }
            Some(Fault::Silence) => {
                execute();
                std::future::pending::<()>().await;
            }
            Some(Fault::Refuse) => return Some(octets(200, id, "<out><error cause=\"licence_limit\"/></out>", "")),
        }
        Some(good)
    }
}

const PASSWORD_XML: &str = "Geheim&amp;&lt;9&gt;";

struct Octets {
    octets: Vec<u8>,
    cut: bool,
}

fn octets(status: u16, id: &str, body: &str, headers: &str) -> Octets {
    let length = body.len();
    let length = if status == 204 { String::new() } else { format!("Content-Length: {length}\r\n") };
    let octets = format!("HTTP/1.1 {status} Whatever\r\nP-Request-Id: {id}\r\n{headers}{length}\r\n{body}").into_bytes();
    Octets { octets, cut: false }
}

fn result(name: &str) -> String {
    match name {
        "alias_list" => r#"<out><aliases><alias domain="d.local" address="1001" interface="1001@d" interface_type="sip" owner="x"/><alias address="10 02"/></aliases></out>"#,
        "sp_login" => r#"<out><response><ok session="sp-secret" alias_address="1001" alias_iface="1001@d"/></response></out>"#,
        "check_connection" => "<out><success/></out>",
        "teleconference_room_list" => r#"<out><result><room name="123" description="for_energo"/></result></out>"#,
        "get_extended_subscriber_card" => {
            r#"<out><card><registration access_point="ap" ttl="60" uri="sip:1001@h" first_via_host="h"/><call from="1001" to="1002" duration="5"/><regime name="r" private_in="true" private_out="false"/></card></out>"#
        }
        _ => "<out><ok/></out>",
    }
    .to_owned()
}

async fn read_request(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> Option<(String, String)> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(buffer[..end].to_vec()).ok()?;
            let length = head.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.eq_ignore_ascii_case("content-length"));
            let length = length.map_or(0, |(_, value)| value.trim().parse::<usize>().unwrap());
            if buffer.len() >= end + 4 + length {
                let body = String::from_utf8(buffer[end + 4..end + 4 + length].to_vec()).ok()?;
                buffer.drain(..end + 4 + length);
                return Some((head, body));
            }
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

pub(crate) fn config(nodes: &[&str]) -> TerminalConfig {
    TerminalConfig {
        nodes: nodes.iter().map(|node| Endpoint::parse(node).unwrap()).collect(),
        login: "admin".into(),
        password: SecretString::from(PASSWORD.to_owned()),
        half_open_after: Duration::from_secs(15),
        connect_timeout: Duration::from_secs(3),
        command_timeout: Duration::from_secs(10),
        max_parallel: 8,
        fail_back_after: Duration::from_secs(60),
        seed: Some(7),
    }
}

pub(crate) fn sink() -> (EventSink, mpsc::Receiver<LinkEvent>) {
    EventSink::new(64)
}

/// Waits until the link is in this state on this node, at most half a minute.
pub(crate) async fn until(status: &mut watch::Receiver<LinkStatus>, state: LinkState, node: &str) {
    let reached = status.wait_for(|status| status.state == state && status.node.starts_with(node));
    tokio::time::timeout(Duration::from_secs(120), reached).await.unwrap().unwrap();
}
