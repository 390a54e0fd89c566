//! The mediator's HTTP terminal, port 9999 (ecss10-interfaces §1): login, cookie, keep-alive, and commands whose status codes are
//! as uneven as the real ones'.

pub mod http;
pub mod xml;

mod commands;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rand::Rng;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};

use self::{
    commands::Verdict,
    http::{Request, Response, Unreadable},
    xml::Element,
};
use crate::{
    context::ServerContext,
    dialect::match_path,
    faults::{Action, CommandFault, CutPoint, Link},
    sessions::SessionHandle,
};

/// Most connections of one listener.
const MOST_CONNECTIONS: usize = 1024;
/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(120);
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a client may take to read an answer.
const WRITE: Duration = Duration::from_secs(30);
/// How long the rest of an unreadable request is taken.
const DRAIN: Duration = Duration::from_secs(2);
/// Commands in progress at a time.
const MOST_JOBS: usize = 256;
/// Octets of an oversized answer.
const OVERSIZE: usize = 64 * 1024 * 1024;

/// A command in progress: polls left, then its answer.
struct Job {
    polls: u32,
    answer: Response,
}

/// The terminal of one node.
struct Terminal {
    ctx: ServerContext,
    jobs: Mutex<BTreeMap<(u64, String), Job>>,
}

/// What a connection does after a request.
enum Next {
    /// Writes the answer.
    Answer(Response),
    /// Writes half of it, then is cut.
    Half(Response),
    /// Is cut.
    Cut,
    /// Never answers.
    Silence,
}

/// Serves the terminal until the simulator ends.
pub async fn serve(listener: TcpListener, ctx: ServerContext) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let terminal = Arc::new(Terminal { ctx, jobs: Mutex::default() });
    loop {
        let accepted = tokio::select! {
            () = terminal.ctx.shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            // Out of file descriptors, mostly: it passes.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        if !terminal.ctx.faults.accepts(terminal.ctx.node) {
            continue;
        }
        let terminal = terminal.clone();
        tokio::spawn(async move {
            terminal.connection(stream).await;
            drop(place);
        });
    }
}

impl Terminal {
    async fn connection(&self, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let cut = self.ctx.faults.cut_token(Link::Terminal, self.ctx.node);
        let work = async {
            match &self.ctx.tls {
                None => self.exchange(stream).await,
                Some(tls) => match timeout(HANDSHAKE, tls.accept(stream)).await {
                    Ok(Ok(stream)) => self.exchange(stream).await,
                    _ => tracing::debug!("a terminal connection failed its tls handshake"),
                },
            }
        };
        tokio::select! {
            () = work => {}
            () = cut.cancelled() => {}
            () = self.ctx.shutdown.cancelled() => {}
        }
    }

    async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(&self, mut stream: S) {
        let mut buffer = Vec::new();
        loop {
            let request = match timeout(IDLE, http::read(&mut stream, &mut buffer)).await {
                Ok(Ok(request)) => request,
                Ok(Err(Unreadable::Status(status))) => {
                    let _ = timeout(DRAIN, refuse(&mut stream, status)).await;
                    return;
                }
                Ok(Err(Unreadable::Closed)) | Err(_) => return,
            };
            self.ctx.faults.gate(Link::Terminal, self.ctx.node).await;
            let next = self.handle(&request);
            self.ctx.faults.gate(Link::Terminal, self.ctx.node).await;
            let goes_on = match next {
                Next::Answer(response) => timeout(WRITE, self.write(&mut stream, &response.octets())).await.unwrap_or(false),
                Next::Half(response) => {
                    write_half(&mut stream, &response.octets()).await;
                    false
                }
                Next::Cut => false,
                Next::Silence => {
                    // Until the client gives up.
                    let _ = timeout(IDLE * 5, http::read(&mut stream, &mut buffer)).await;
                    false
                }
            };
            if !goes_on {
                let _ = timeout(Duration::from_secs(1), stream.shutdown()).await;
                return;
            }
        }
    }

    /// Writes an answer as the faults will have it; whether the connection goes on.
    async fn write<S: AsyncWrite + Unpin>(&self, stream: &mut S, octets: &[u8]) -> bool {
        let result = match self.ctx.faults.on_write(Link::Terminal, self.ctx.node) {
            Action::Pass => stream.write_all(octets).await,
            Action::Duplicate => stream.write_all(&[octets, octets].concat()).await,
            Action::HoldBack => {
                // Answers of one connection keep their order in HTTP/1.1; those of others overtake it.
                tokio::time::sleep(Duration::from_millis(200)).await;
                stream.write_all(octets).await
            }
            Action::Truncate => {
                write_half(stream, octets).await;
                return false;
            }
            Action::Garbage | Action::WrongPad => {
                let garbage: [u8; 64] = rand::rng().random();
                let _ = stream.write_all(&garbage).await;
                return false;
            }
            Action::Oversize => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: {OVERSIZE}\r\n\r\n<out>");
                let mut result = stream.write_all(head.as_bytes()).await;
                let chunk = vec![b' '; 16 * 1024];
                let mut left = OVERSIZE - "<out>".len();
                while left > 0 && result.is_ok() {
                    let part = chunk.get(..left.min(chunk.len())).unwrap_or_default();
                    result = stream.write_all(part).await;
                    left -= part.len();
                }
                result
            }
        };
        result.is_ok() && stream.flush().await.is_ok()
    }

    fn handle(&self, request: &Request) -> Next {
        let command = request.path.strip_prefix("/commands/").filter(|name| !name.contains('/'));
        let fault = command.map_or(CommandFault::None, |name| self.ctx.faults.on_command(name));
        if fault == CommandFault::Cut(CutPoint::Before) {
            return Next::Cut;
        }
        let mut response = if fault == CommandFault::RefuseIn200 {
            let cause = self.ctx.dialect.refusal(ssw_core::RefusalCause::BadState);
            let error = self.error(cause).with("description", "refused on purpose");
            Response::new(200, xml::out(command.unwrap_or_default(), &[error]))
        } else {
            self.route(request)
        };
        if let Some(id) = request.header("p-request-id") {
            response.headers.push(("P-Request-Id".to_owned(), id.to_owned()));
        }
        match fault {
            CommandFault::Cut(CutPoint::During) => Next::Half(response),
            CommandFault::Cut(CutPoint::Never) => Next::Silence,
            CommandFault::Cut(_) => Next::Cut,
            _ => Next::Answer(response),
        }
    }

    fn route(&self, request: &Request) -> Response {
        if request.path == "/system/login" {
            return if request.method == "POST" { self.login(request) } else { Response::new(405, Vec::new()) };
        }
        let side = &self.ctx.dialect.terminal;
        let session = request.cookie(&side.session_cookie).and_then(|key| self.ctx.sessions.find(Link::Terminal, self.ctx.node, key));
        let Some(session) = session else { return self.expired() };
        let is = |method: &str, path: &str| request.method == method && request.path == path;
        if side.keepalive.as_ref().is_some_and(|call| is(&call.method, &call.path)) {
            return Response::new(200, xml::out("ping", &[Element::new("ok")]));
        }
        if is(&side.logout.method, &side.logout.path) {
            self.ctx.sessions.close(session.id);
            return Response::new(200, xml::out("logout", &[Element::new("ok")]));
        }
        if request.method == side.progress_method
            && let Some(parts) = match_path(&side.progress_path, &request.path)
        {
            let command = parts.get("name").map(String::as_str).unwrap_or("progress");
            return self.progress(&session, parts.get("request_id").map(String::as_str).unwrap_or_default(), command);
        }
        match request.path.strip_prefix("/commands/") {
            Some(name) if request.method == "POST" => self.command(&session, name, request),
            _ => Response::new(404, xml::out("unknown", &[self.error("unknown_path")])),
        }
    }

    fn login(&self, request: &Request) -> Response {
        let refused = |why: &str| Response::new(404, xml::out("login", &[self.error(why)]));
        let document = std::str::from_utf8(&request.body).ok().and_then(xml::read);
        let Some(login) = document.as_ref().and_then(|document| document.find("login")) else { return refused("bad_request") };
        let fits = self.ctx.credentials.fit(login.get("user").unwrap_or_default(), login.get("password").unwrap_or_default());
        if !fits {
            return refused("login_failed");
        }
        let key = format!("{:032x}", rand::rng().random::<u128>());
        let who = self.ctx.credentials.user.as_str();
        if self.ctx.sessions.open(Link::Terminal, self.ctx.node, who, &key).is_none() {
            return refused("too_many_sessions");
        }
        let number = self.ctx.node + 1;
        let settings =
            Element::new("settings").with("md", format!("md{number}")).with("ds", format!("ds{number}")).with("version", "3.18.0.36");
        let mut response = Response::new(200, xml::out("login", &[settings]));
        let cookie = format!("{}={key}; Path=/; HttpOnly", self.ctx.dialect.terminal.session_cookie);
        response.headers.push(("Set-Cookie".to_owned(), cookie));
        response
    }

    fn error(&self, cause: &str) -> Element {
        Element::new("error").with(self.ctx.dialect.terminal.error_cause.as_str(), cause)
    }

    fn expired(&self) -> Response {
        let side = &self.ctx.dialect.terminal;
        if side.expired_without_document {
            return Response::new(side.expired_status, b"no session".to_vec());
        }
        Response::new(side.expired_status, xml::out("session", &[self.error(&side.expired_word)]))
    }

    fn progress(&self, session: &SessionHandle, request_id: &str, command: &str) -> Response {
        let mut jobs = self.jobs.lock();
        let key = (session.id, request_id.to_owned());
        match jobs.get_mut(&key) {
            Some(job) if job.polls > 0 => {
                job.polls -= 1;
                Response::new(206, xml::out(command, &[Element::new("progress").with("percent", "50")]))
            }
            Some(_) => jobs.remove(&key).map(|job| job.answer).unwrap_or_default(),
            None => Response::new(404, xml::out(command, &[self.error("no_such_request")])),
        }
    }

    fn command(&self, session: &SessionHandle, name: &str, request: &Request) -> Response {
        let document = std::str::from_utf8(&request.body).ok().and_then(xml::read);
        let Some(document) = document.filter(|document| document.name == "in") else {
            return Response::new(404, xml::out(name, &[self.error("bad_request")]));
        };
        let side = &self.ctx.dialect.terminal;
        let confirmed = request.header(&side.confirm_name.to_ascii_lowercase()) == Some(side.confirm_value.as_str());
        let Verdict { status, content, takes_time } = commands::run(&self.ctx, name, &document, confirmed);
        let answer = Response::new(status, if status == 204 { Vec::new() } else { xml::out(name, &content) });
        match request.header("p-request-id") {
            Some(id) if takes_time => {
                let mut jobs = self.jobs.lock();
                if jobs.len() >= MOST_JOBS {
                    jobs.pop_first();
                }
                jobs.insert((session.id, id.to_owned()), Job { polls: 2, answer });
                Response::new(206, xml::out(name, &[Element::new("progress").with("percent", "0")]))
            }
            _ => answer,
        }
    }
}

/// Refuses what cannot be read. The rest of it is taken and thrown away first, or the answer might be lost in a reset.
async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, status: u16) {
    let answer = Response::new(status, Vec::new()).octets();
    if stream.write_all(&answer).await.is_err() || stream.shutdown().await.is_err() {
        return;
    }
    let mut rest = vec![0; 4096];
    while stream.read(&mut rest).await.is_ok_and(|count| count > 0) {}
}

async fn write_half<S: AsyncWrite + Unpin>(stream: &mut S, octets: &[u8]) {
    let half = octets.get(..octets.len() / 2).unwrap_or_default();
    let _ = stream.write_all(half).await;
    let _ = stream.flush().await;
}
