//! The real `elph-server` as a process beside an agent, and what its clients need: tokens, HTTP and WebSockets.

use std::{net::SocketAddr, path::Path, process::Stdio};

use anyhow::{Context, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tokio::{net::TcpStream, process::Child};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};

use crate::{PATIENCE, Stack, agent::binary, guard::Sso};

/// Whom its tokens are for.
pub const AUDIENCE: &str = "elph";

/// A running suite. Dropping it kills it.
pub struct Suite {
    child: Child,
    directory: tempfile::TempDir,
    sso: Sso,
    config: String,
    scheme: &'static str,
    public: SocketAddr,
    internal: SocketAddr,
    client: reqwest::Client,
}

/// A user's WebSocket.
pub struct Live(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Suite {
    /// Starts it for a stack's agent and domains. `more`: further lines of the configuration, `[database]` among them.
    pub async fn start(stack: &Stack, domains: &[&str], more: &str) -> anyhow::Result<Self> {
        Self::beside(&stack.directory.join("grpc.sock"), domains, more, None).await
    }

    /// Starts it for the agent behind a socket. `authority`: the certificate that clients trust, where `more` names one for TLS.
    pub async fn beside(socket: &Path, domains: &[&str], more: &str, authority: Option<&str>) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let sso = Sso::new()?;
        let keys = directory.path().join("keys.json");
        std::fs::write(&keys, &sso.keys)?;
        let config = format!(
            "[[agents]]\naddress = \"unix:{}\"\ndomains = {domains:?}\n[http]\nlisten = \"127.0.0.1:0\"\ninternal_listen = \"127.0.0.1:0\"\n\
             [[oidc.issuers]]\nissuer = \"{}\"\naudience = \"{AUDIENCE}\"\njwks_file = \"{}\"\n[log]\nformat = \"json\"\n",
            socket.display(),
            Sso::ISSUER,
            keys.display()
        );
        let mut table: toml::Table = toml::from_str(&config)?;
        crate::merge(&mut table, toml::from_str(more)?);
        let config = toml::to_string(&table)?;
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let client = crate::sso::http(authority)?;
        let scheme = if authority.is_some() { "https" } else { "http" };
        let (child, public, internal) = launch(directory.path(), &config).await?;
        ensure!(public != nowhere && internal != nowhere, "no address in the log");
        Ok(Self { child, directory, sso, config, scheme, public, internal, client })
    }

    /// Ends it with a signal and starts it again with the same configuration and database.
    pub async fn restart(&mut self, signal: Signal) -> anyhow::Result<()> {
        self.end(signal).await?;
        self.again().await
    }

    /// Starts it again after it was ended.
    pub async fn again(&mut self) -> anyhow::Result<()> {
        (self.child, self.public, self.internal) = launch(self.directory.path(), &self.config).await?;
        Ok(())
    }

    /// Ends it with a signal.
    pub async fn end(&mut self, signal: Signal) -> anyhow::Result<()> {
        self.signal(signal)?;
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await.context("the server did not end in time")??;
        if signal == Signal::SIGTERM && !status.success() {
            bail!("the server ended with {status}; its log:\n{}", self.log());
        }
        Ok(())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.child.id().context("the server has ended")?;
        Ok(kill(Pid::from_raw(i32::try_from(pid)?), signal)?)
    }

    /// Runs another command of the program with the same configuration: its exit code and what it has printed.
    pub async fn command(&self, arguments: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
        let mut command = tokio::process::Command::new(binary("elph-server")?);
        command.args(arguments).env("ELPH_SERVER_CONFIG", self.directory.path().join("server.toml")).stdin(Stdio::null());
        let output = tokio::time::timeout(PATIENCE, command.kill_on_drop(true).output()).await??;
        let told = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8_lossy(&told).into_owned()))
    }

    /// Whether it has ended by itself, and how.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// The port for the inside.
    pub fn internal(&self) -> SocketAddr {
        self.internal
    }

    /// The one port.
    pub fn public(&self) -> SocketAddr {
        self.public
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("server.log")).unwrap_or_default()
    }

    /// Its process.
    pub fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().context("the server has ended")
    }

    /// Its resident memory in KiB.
    pub fn resident(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse()?)
    }

    /// A subscriber's token; claims can be changed.
    pub fn token(&self, domain: &str, alias: &str, changed: &Value) -> anyhow::Result<String> {
        let mut claims = json!({ "aud": AUDIENCE, "preferred_username": alias });
        for (name, value) in changed.as_object().context("the changed claims are no object")? {
            claims.as_object_mut().context("no claims")?.insert(name.clone(), value.clone());
        }
        self.sso.token(&format!("id-{alias}"), domain, &claims)
    }

    /// An address from outside.
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.public)
    }

    /// A request; `None` as the token: without one.
    pub fn request(&self, method: &str, path: &str, token: Option<&str>) -> anyhow::Result<reqwest::RequestBuilder> {
        let request = self.client.request(method.parse()?, self.url(path));
        Ok(match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        })
    }

    /// Sends a request as a subscriber: status code and body.
    pub async fn ask(&self, who: (&str, &str), method: &str, path: &str, body: Option<Value>) -> anyhow::Result<(u16, Value)> {
        let token = self.token(who.0, who.1, &json!({}))?;
        let request = self.request(method, path, Some(&token))?;
        answer(body.iter().fold(request, |request, body| request.json(body)).send().await?).await
    }

    /// From the inside: `/metrics`, `/readyz`.
    pub async fn inside(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let response = self.client.get(format!("http://{}{path}", self.internal)).send().await?;
        Ok((response.status().as_u16(), response.text().await?))
    }

    /// Opens a WebSocket as a browser does.
    pub async fn live(&self, path: &str, token: &str) -> anyhow::Result<Live> {
        let mut request = format!("ws://{}{path}", self.public).into_client_request()?;
        request.headers_mut().insert("sec-websocket-protocol", format!("elph, elph.bearer.{token}").parse()?);
        let (socket, response) = tokio::time::timeout(PATIENCE, connect_async(request)).await??;
        let chosen = response.headers().get("sec-websocket-protocol").and_then(|it| it.to_str().ok());
        ensure!(chosen == Some("elph"), "the subprotocol is {chosen:?}");
        Ok(Live(socket))
    }
}

/// Status code and JSON of an answer; no body is null.
pub async fn answer(response: reqwest::Response) -> anyhow::Result<(u16, Value)> {
    let status = response.status().as_u16();
    let text = response.text().await?;
    let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))? };
    Ok((status, body))
}

async fn launch(directory: &Path, config: &str) -> anyhow::Result<(Child, SocketAddr, SocketAddr)> {
    std::fs::write(directory.join("server.toml"), config)?;
    let log = std::fs::OpenOptions::new().create(true).append(true).open(directory.join("server.log"))?;
    let written = usize::try_from(log.metadata()?.len())?;
    let mut child = tokio::process::Command::new(binary("elph-server")?)
        .args(["run", "--config"])
        .arg(directory.join("server.toml"))
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn()?;
    let started = async {
        loop {
            let all = std::fs::read(directory.join("server.log")).unwrap_or_default();
            let fresh = String::from_utf8_lossy(all.get(written..).unwrap_or_default()).into_owned();
            if fresh.contains("\"started\"") {
                let at = |key: &str| listening(&fresh, key).with_context(|| format!("no address of {key} in:\n{fresh}"));
                return Ok((at("http.listen")?, at("http.internal_listen")?));
            }
            if let Some(status) = child.try_wait()? {
                bail!("the server ended with {status}; its log:\n{fresh}");
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let (public, internal) = tokio::time::timeout(PATIENCE, started).await.context("the server did not start in time")??;
    Ok((child, public, internal))
}

/// A log line's fields, which stand beside its level or below.
fn fields(line: Value) -> Value {
    line.get("fields").cloned().unwrap_or(line)
}

fn listening(log: &str, key: &str) -> Option<SocketAddr> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).map(fields).collect::<Vec<_>>();
    let is = |line: &Value, name: &str, value: &str| line.get(name).and_then(Value::as_str) == Some(value);
    let found = lines.into_iter().find(|line| is(line, "message", "listening") && is(line, "key", key))?;
    found.get("address")?.as_str()?.parse().ok()
}

impl Live {
    /// Says something.
    pub async fn say(&mut self, message: &Value) -> anyhow::Result<()> {
        Ok(self.0.send(Message::text(message.to_string())).await?)
    }

    /// The next message in JSON; an error when the socket was closed, with the code.
    pub async fn hear(&mut self) -> anyhow::Result<Value> {
        let next = async {
            loop {
                match self.0.next().await.context("the socket has ended")?? {
                    Message::Text(text) => return Ok(serde_json::from_str(&text)?),
                    Message::Close(frame) => bail!("closed: {:?}", frame.map(|frame| u16::from(frame.code))),
                    _ => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, next).await.context("nothing was heard")?
    }

    /// Hears until an alias is shown as something; the message's cursor.
    pub async fn until(&mut self, alias: &str, state: &str) -> anyhow::Result<String> {
        let mut heard = Vec::new();
        loop {
            let message = self.hear().await.with_context(|| format!("{alias} was not shown as {state}, but: {heard:?}"))?;
            let statuses = message.get("statuses").and_then(Value::as_array).context("no statuses")?;
            let is = |status: &Value, name: &str, value: &str| status.get(name).and_then(Value::as_str) == Some(value);
            if statuses.iter().any(|status| is(status, "alias", alias) && is(status, "state", state)) {
                return Ok(message.get("cursor").and_then(Value::as_str).context("no cursor")?.to_owned());
            }
            heard.push(message);
        }
    }
}
