//! A small Call API server, written from the documents and not with this crate's codec, on any byte stream. Its behaviour is a script
//! that the test changes while it runs.

#![expect(dead_code, reason = "each test file uses its part")]
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a failed test is a failed test")]

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use ecss_call_api::{CallApi, CallApiConfig};
use ecss_switch::{
    Alias, CallCommand, Dialect, Domain, LinkEvent,
    connect::{BoxedIo, Connect, Connecting, Endpoint},
    event::EventSink,
    link::{LinkKind, LinkState, Tap, Way},
};
use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{broadcast, mpsc},
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::derive_accept_key, protocol::Role},
};
use tokio_util::sync::CancellationToken;

pub(crate) const PASSWORD: &str = "s3cr3t-p4ssword";
pub(crate) const OK: &str =
    r#"[{"_name":"out","_content":[{"_name":"response","_content":[{"_name":"call","_attributes":{"call_id":"c1","leg_id":"l1"}}]}]}]"#;
pub(crate) const LEGS: &str = r#"[{"_name":"out","_content":[{"_name":"response","_content":[{"_name":"leg","_attributes":{"call_id":"c1","id":"l1","status":"talking"}},{"_name":"leg","_attributes":{"call_id":"c1","id":"l2","status":"held"}}]}]}]"#;
pub(crate) const DONE: &str = r#"<out><response><call call_id="c1" leg_id="l1"/></response></out>"#;

/// What the server does with the next command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    Answer,
    AnswerTwice,
    /// Executes it and never answers.
    Silent,
    /// Executes it and cuts the connection.
    Cut,
    /// The session is expired: refuses with 401 and forgets the cookie.
    Expire,
    /// Closes the WebSocket in an orderly way, without executing it.
    Close,
}

#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) behaviour: Behaviour,
    pub(crate) refuse_login: bool,
    pub(crate) logins: u32,
    pub(crate) logouts: u32,
    /// Refuses every upgrade.
    pub(crate) no_sockets: bool,
    pub(crate) sockets: u32,
    pub(crate) executed: Vec<String>,
    pub(crate) closed_properly: u32,
    cookies: Vec<String>,
}

/// One node of the switch.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) name: &'static str,
    script: Arc<Mutex<Script>>,
    push: broadcast::Sender<Push>,
}

#[derive(Debug, Clone)]
pub(crate) enum Push {
    Text(String),
    Binary(Vec<u8>),
    Drop,
}

impl Node {
    pub(crate) fn new(name: &'static str) -> Self {
        let script = Script {
            behaviour: Behaviour::Answer,
            refuse_login: false,
            logins: 0,
            logouts: 0,
            no_sockets: false,
            sockets: 0,
            executed: Vec::new(),
            closed_properly: 0,
            cookies: Vec::new(),
        };
        Self { name, script: Arc::new(Mutex::new(script)), push: broadcast::channel(1024).0 }
    }

    pub(crate) fn script<T>(&self, with: impl FnOnce(&mut Script) -> T) -> T {
        with(&mut self.script.lock().unwrap())
    }

    pub(crate) fn set(&self, behaviour: Behaviour) {
        self.script(|script| script.behaviour = behaviour);
    }

    pub(crate) fn executed(&self) -> usize {
        self.script(|script| script.executed.len())
    }

    pub(crate) fn push(&self, push: Push) {
        let _ = self.push.send(push);
    }

    pub(crate) fn push_event(&self, name: &str, json: &str) {
        let text = format!("{name:<32}{json}");
        self.push(Push::Text(format!("01{:010}0000{text}", text.len() + 16)));
    }

    pub(crate) fn push_leg(&self, call: &str, status: &str) {
        let json = format!(
            r#"[{{"_name":"conversations_event","_content":[{{"_name":"leg","_attributes":{{"call_id":"{call}","id":"l1","digits":"1001","status":"{status}"}}}}]}}]"#
        );
        self.push_event("call/conversations_event", &json);
    }

    /// Serves one connection.
    pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(self, mut stream: S) -> io::Result<()> {
        let (head, body) = read_request(&mut stream).await?;
        let header = |name: &str| {
            head.lines().find_map(|line| {
                line.split_once(':').filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
            })
        };
        let cookie = header("cookie").unwrap_or_default();
        let known = self.script(|script| script.cookies.contains(&cookie));
        if head.starts_with("POST /biysk.local/service/cc/arm/login") {
            let (refused, number) = self.script(|script| {
                script.logins += 1;
                (script.refuse_login, script.logins)
            });
            if refused || !body.contains(&format!("password=\"{PASSWORD}\"")) || !body.contains("websocket_control=\"true\"") {
                return respond(&mut stream, 404, "", &format!("<out><error description=\"login {PASSWORD} failed\"/></out>")).await;
            }
            let cookie = format!("ECSSAPI={}-session-{number}", self.name);
            self.script(|script| script.cookies.push(cookie.clone()));
            let extra = format!("Set-Cookie: {cookie}; Path=/; HttpOnly\r\nSet-Cookie: other=1\r\n");
            return respond(&mut stream, 200, &extra, "<out><response><ok/></response></out>").await;
        }
        if !known {
            return respond(&mut stream, 401, "", "").await;
        }
        if head.starts_with("POST /biysk.local/service/logout ") {
            self.script(|script| {
                script.logouts += 1;
                script.cookies.retain(|known| *known != cookie);
            });
            return respond(&mut stream, 200, "", "<out><response><ok/></response></out>").await;
        }
        if let Some(key) = header("sec-websocket-key") {
            if self.script(|script| script.no_sockets) {
                return respond(&mut stream, 404, "", "").await;
            }
            let accept = derive_accept_key(key.as_bytes());
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
            );
            stream.write_all(answer.as_bytes()).await?;
            let socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
            self.script(|script| script.sockets += 1);
            self.socket(socket, cookie).await;
            return Ok(());
        }
        match self.execute(head.lines().next().unwrap_or_default(), &cookie) {
            Behaviour::Expire => respond(&mut stream, 401, "", "").await,
            Behaviour::Silent => {
                let _ = stream.read(&mut [0; 8]).await;
                Ok(())
            }
            Behaviour::Cut | Behaviour::Close => Ok(()),
            Behaviour::Answer | Behaviour::AnswerTwice => respond(&mut stream, 200, "", DONE).await,
        }
    }

    async fn socket<S: AsyncRead + AsyncWrite + Unpin>(&self, mut socket: WebSocketStream<S>, cookie: String) {
        let mut pushed = self.push.subscribe();
        loop {
            let message = tokio::select! {
                message = socket.next() => message,
                push = pushed.recv() => {
                    let message = match push {
                        Ok(Push::Text(text)) => Message::text(text),
                        Ok(Push::Binary(octets)) => Message::binary(octets),
                        Ok(Push::Drop) | Err(_) => return,
                    };
                    if socket.send(message).await.is_err() {
                        return;
                    }
                    continue;
                }
            };
            let text = match message {
                Some(Ok(Message::Text(text))) => text,
                Some(Ok(Message::Close(_))) => {
                    self.script(|script| script.closed_properly += 1);
                    let _ = socket.close(None).await;
                    return;
                }
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => return,
            };
            let id = text[12..16].to_owned();
            assert_eq!(text[2..12].parse::<usize>().unwrap(), text.len(), "the length counts all octets");
            let name = text[16..48].trim_end();
            let behaviour = self.execute(name, &cookie);
            let answer = |status: &str, body: &str| Message::text(format!("01{:010}{id}{status}{body}", 19 + body.len()));
            let times = match behaviour {
                Behaviour::Answer => 1,
                Behaviour::AnswerTwice => 2,
                Behaviour::Silent => 0,
                Behaviour::Cut => return,
                Behaviour::Close => {
                    let _ = socket.close(None).await;
                    continue;
                }
                Behaviour::Expire => {
                    let _ = socket.send(answer("401", "")).await;
                    continue;
                }
            };
            for _ in 0..times {
                let _ = socket.send(answer("200", if name == "call/calls_list" { LEGS } else { OK })).await;
            }
        }
    }

    /// Counts what is executed. A disturbance happens once.
    fn execute(&self, name: &str, cookie: &str) -> Behaviour {
        self.script(|script| {
            let behaviour = script.behaviour;
            match behaviour {
                Behaviour::Expire => script.cookies.retain(|known| known != cookie),
                Behaviour::Close => {}
                _ => script.executed.push(name.to_owned()),
            }
            if !matches!(behaviour, Behaviour::Silent) {
                script.behaviour = Behaviour::Answer;
            }
            behaviour
        })
    }

    /// Serves on a free loopback port of the real network.
    pub(crate) async fn listen(&self) -> Endpoint {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let node = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(node.clone().serve(stream));
            }
        });
        Endpoint { host: "127.0.0.1".into(), port }
    }
}

async fn read_request<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<(String, String)> {
    let mut octets = Vec::new();
    let end = loop {
        if let Some(at) = octets.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut octets).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    let head = String::from_utf8_lossy(&octets[..end]).into_owned();
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:").map(|length| length.trim().parse().unwrap()));
    while octets.len() < end + length.unwrap_or(0usize) {
        if stream.read_buf(&mut octets).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok((head, String::from_utf8_lossy(&octets[end..]).into_owned()))
}

async fn respond<S: AsyncWrite + Unpin>(stream: &mut S, status: u16, extra: &str, body: &str) -> io::Result<()> {
    let head = format!("HTTP/1.1 {status} X\r\n{extra}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    stream.shutdown().await
}

/// The real network.
pub(crate) struct Tcp;

impl Connect for Tcp {
    fn connect<'a>(&'a self, endpoint: &'a Endpoint) -> Connecting<'a> {
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
            Ok(Box::new(stream) as BoxedIo)
        })
    }
}

/// The simulated network.
pub(crate) struct Simulated;

impl Connect for Simulated {
    fn connect<'a>(&'a self, endpoint: &'a Endpoint) -> Connecting<'a> {
        Box::pin(async move {
            let stream = turmoil::net::TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
            Ok(Box::new(stream) as BoxedIo)
        })
    }
}

/// A recorder that keeps everything.
#[derive(Default)]
pub(crate) struct Everything(pub(crate) Mutex<Vec<String>>);

impl Tap for Everything {
    fn message(&self, _: LinkKind, way: Way, head: &str, body: &str) {
        self.0.lock().unwrap().push(format!("{way:?} {head} {body}"));
    }
}

/// A running client and what it reports.
pub(crate) struct Client {
    pub(crate) api: CallApi,
    pub(crate) events: mpsc::Receiver<LinkEvent>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<()>,
}

pub(crate) fn config(nodes: Vec<Endpoint>) -> CallApiConfig {
    CallApiConfig {
        nodes,
        domain: Domain::parse("biysk.local").unwrap(),
        login: "ssw".into(),
        password: PASSWORD.to_owned().into(),
        half_open_after: Duration::from_secs(15),
        connect_timeout: Duration::from_secs(5),
        command_timeout: Duration::from_secs(10),
        fail_back_after: Duration::from_secs(60),
        window: 64,
        seed: Some(7),
    }
}

pub(crate) fn sim() -> Dialect {
    Dialect::built_in("sim").unwrap()
}

impl Client {
    pub(crate) fn start(config: CallApiConfig, dialect: Dialect, connect: impl Connect) -> Self {
        Self::start_with(config, dialect, connect, None)
    }

    pub(crate) fn start_with(config: CallApiConfig, dialect: Dialect, connect: impl Connect, tap: Option<Arc<dyn Tap>>) -> Self {
        let (sink, events) = EventSink::new(4096);
        let shutdown = CancellationToken::new();
        let (api, task) = CallApi::start(config, Arc::new(dialect), Arc::new(connect), sink, tap, shutdown.clone());
        Self { api, events, shutdown, task }
    }

    /// The next event within a bound.
    pub(crate) async fn event(&mut self) -> LinkEvent {
        timeout(Duration::from_secs(120), self.events.recv()).await.expect("an event in time").expect("a running link")
    }

    /// Waits for an event of this kind, skipping others.
    pub(crate) async fn wait_for(&mut self, wanted: impl Fn(&LinkEvent) -> bool) -> LinkEvent {
        loop {
            let event = self.event().await;
            if wanted(&event) {
                return event;
            }
        }
    }

    pub(crate) async fn up(&mut self) {
        self.wait_for(|event| *event == LinkEvent::Up).await;
        assert_eq!(self.api.status().borrow().state, LinkState::Up);
    }

    pub(crate) async fn down(&mut self) {
        self.wait_for(|event| *event == LinkEvent::Down).await;
    }

    pub(crate) async fn end(self) {
        self.shutdown.cancel();
        timeout(Duration::from_secs(5), self.task).await.expect("an end in time").unwrap();
    }
}

pub(crate) fn make() -> CallCommand {
    CallCommand::Make { from: Alias::parse("1001").unwrap(), to: Alias::parse("1002").unwrap() }
}

/// Waits for a condition that no event tells of.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
