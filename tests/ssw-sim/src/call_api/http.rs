//! The HTTP side: login, commands, and the upgrade to the WebSocket.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    body::{Body, to_bytes},
    extract::{ConnectInfo, FromRequestParts, Request, State, WebSocketUpgrade},
    http::{HeaderMap, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use tokio::time::{sleep, timeout};

use crate::{
    call_api::{
        Server,
        command::{self, Answer},
        listener::Peer,
        socket,
        tree::Tree,
    },
    dialect::match_path,
    faults::{Action, CommandFault, CutPoint, Link},
    sessions::SessionHandle,
};

/// Longest body of a request.
const MOST_BODY: usize = 256 << 10;
/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(10);
/// Longest frame from an application.
const MOST_FRAME: usize = 1 << 20;
/// Octets of an oversized answer.
const OVERSIZE: usize = 20 << 20;
/// How long an answer that is to come after the next one is kept.
const SWAP: Duration = Duration::from_millis(200);

/// Handles every request.
pub(super) async fn handle(State(server): State<Server>, ConnectInfo(peer): ConnectInfo<Peer>, request: Request) -> Response {
    let ctx = &server.ctx;
    ctx.faults.gate(Link::CallApi, ctx.node).await;
    let (mut parts, body) = request.into_parts();
    let path = decode_path(parts.uri.path());
    let api = &ctx.dialect.call_api;
    if parts.method.as_str() == api.logout.method
        && let Some(found) = match_path(&api.logout.path, &path)
    {
        return logout(&server, &parts.headers, &found);
    }
    if parts.method == Method::GET {
        return match match_path(&api.websocket_path, &path) {
            Some(found) => upgrade(&server, &peer, &mut parts, &found).await,
            None => StatusCode::NOT_FOUND.into_response(),
        };
    }
    if parts.method != Method::POST {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let Ok(Ok(body)) = timeout(BODY_TIME, to_bytes(body, MOST_BODY)).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let response = if let Some(found) = match_path(&api.login_path, &path) {
        login(&server, &peer, &found, &body)
    } else if let Some(found) = command_target(&api.command_path, &path) {
        run(&server, &peer, &parts.headers, &found, &body)
    } else {
        StatusCode::NOT_FOUND.into_response()
    };
    damage(&server, &peer, response).await
}

/// The parts of a command's path. A service may hold a `/` (`cc/arm`), which the template cannot say.
fn command_target(template: &str, path: &str) -> Option<BTreeMap<String, String>> {
    let arm = template.replace("{service}", command::ARM);
    if let Some(mut found) = match_path(&arm, path) {
        found.insert("service".to_owned(), command::ARM.to_owned());
        return Some(found);
    }
    match_path(template, path)
}

fn document(status: StatusCode, tree: &Tree) -> Response {
    (status, [(header::CONTENT_TYPE, "text/xml; charset=utf-8")], tree.to_xml()).into_response()
}

/// 200, or 403 with the error in the body, as documented for `cc/arm`.
fn answered(answer: &Answer) -> Response {
    let status = if matches!(answer, Answer::Done(_)) { StatusCode::OK } else { StatusCode::FORBIDDEN };
    document(status, answer.tree())
}

/// What proves a session: the cookie, in the domain that it was made for.
fn session_key(cookie: &str, domain: &str) -> String {
    format!("{cookie}@{domain}")
}

fn login(server: &Server, peer: &Peer, found: &BTreeMap<String, String>, body: &Bytes) -> Response {
    let ctx = &server.ctx;
    let refused = || answered(&Answer::refused("login", "wrong_login"));
    let fault = ctx.faults.on_command("login");
    if fault == CommandFault::RefuseIn200 {
        return document(StatusCode::OK, command::refuse_by_fault(ctx, "login").tree());
    }
    if fault == CommandFault::Cut(CutPoint::Before) {
        peer.cut.cancel();
        return StatusCode::OK.into_response();
    }
    let domain = found.get("domain").map(String::as_str).unwrap_or_default();
    let Ok(tree) = Tree::from_xml(body) else { return refused() };
    let Some(request) = tree.child("request").filter(|_| tree.name == "in") else { return refused() };
    let credentials = &ctx.credentials;
    let fits = ctx.dialect.call_api.login_attributes.iter().all(|(name, form)| {
        let expected = form.replace("{login}", &credentials.user).replace("{password}", &credentials.password);
        request.attributes.get(name) == Some(&expected)
    });
    if !fits || !ctx.switch.has_domain(domain) {
        return refused();
    }
    let value = format!("{:032x}", rand::random::<u128>());
    if ctx.sessions.open(Link::CallApi, ctx.node, domain, &session_key(&value, domain)).is_none() {
        return answered(&Answer::refused("login", "too_many_sessions"));
    }
    let cookie = format!("{}={value}; Path=/; HttpOnly", ctx.dialect.call_api.session_cookie);
    let mut response = answered(&Answer::ok("login"));
    if let Ok(cookie) = cookie.parse() {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    after_command(peer, &fault, response)
}

fn logout(server: &Server, headers: &HeaderMap, found: &BTreeMap<String, String>) -> Response {
    match session(server, headers, found.get("domain").map(String::as_str).unwrap_or_default()) {
        Some(session) => {
            server.ctx.sessions.close(session.id);
            answered(&Answer::ok("logout"))
        }
        None => no_session(server, "logout"),
    }
}

fn session(server: &Server, headers: &HeaderMap, domain: &str) -> Option<SessionHandle> {
    let ctx = &server.ctx;
    let wanted = ctx.dialect.call_api.session_cookie.as_str();
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(';'));
    let value = cookies.filter_map(|pair| pair.trim().split_once('=')).find(|(name, _)| *name == wanted).map(|(_, value)| value)?;
    ctx.sessions.find(Link::CallApi, ctx.node, &session_key(value, domain))
}

/// What a request without a session that is alive gets.
fn no_session(server: &Server, command: &str) -> Response {
    let api = &server.ctx.dialect.call_api;
    let status = StatusCode::from_u16(api.expired_status).unwrap_or(StatusCode::UNAUTHORIZED);
    if api.expired_without_document {
        return status.into_response();
    }
    document(status, Answer::refused(command, &api.expired_word).tree())
}

fn run(server: &Server, peer: &Peer, headers: &HeaderMap, found: &BTreeMap<String, String>, body: &Bytes) -> Response {
    let ctx = &server.ctx;
    let part = |name: &str| found.get(name).map(String::as_str).unwrap_or_default();
    let (domain, service, name) = (part("domain"), part("service"), part("command"));
    if session(server, headers, domain).is_none() {
        return no_session(server, name);
    }
    let fault = ctx.faults.on_command(name);
    match fault {
        CommandFault::RefuseIn200 => return document(StatusCode::OK, command::refuse_by_fault(ctx, name).tree()),
        CommandFault::Cut(CutPoint::Before) => {
            peer.cut.cancel();
            return StatusCode::OK.into_response();
        }
        _ => {}
    }
    let answer = match Tree::from_xml(body) {
        Ok(tree) => command::execute(ctx, domain, service, name, &tree),
        Err(_) => Answer::cannot(name),
    };
    after_command(peer, &fault, answered(&answer))
}

/// The answer of a command that was carried out, or what a fault leaves of it.
fn after_command(peer: &Peer, fault: &CommandFault, response: Response) -> Response {
    match fault {
        CommandFault::Cut(CutPoint::After | CutPoint::Before) => {
            peer.cut.cancel();
            response
        }
        CommandFault::Cut(CutPoint::During) => halved(response),
        CommandFault::Cut(CutPoint::Never) => {
            Response::new(Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>()))
        }
        CommandFault::None | CommandFault::RefuseIn200 => response,
    }
}

/// Half of the body that its length promises; then the connection breaks.
fn halved(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let stream = async move {
        let whole = to_bytes(body, MOST_BODY).await.unwrap_or_default();
        let half = whole.slice(..whole.len() / 2);
        (half, std::io::Error::from(std::io::ErrorKind::ConnectionAborted))
    };
    let stream = futures_util::StreamExt::flat_map(futures_util::stream::once(stream), |(half, error)| {
        futures_util::stream::iter([Ok(half), Err(error)])
    });
    // Chunked, without its last chunk, is just as plainly cut short.
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from_stream(stream))
}

/// Puts the message faults in an answer's way.
async fn damage(server: &Server, peer: &Peer, mut response: Response) -> Response {
    match server.ctx.faults.on_write(Link::CallApi, server.ctx.node) {
        // One HTTP answer cannot come twice; a second one would belong to no request.
        Action::Pass | Action::Duplicate => response,
        Action::HoldBack => {
            tokio::select! {
                () = sleep(SWAP) => {}
                () = peer.cut.cancelled() => {}
            }
            response
        }
        Action::Truncate => halved(response),
        Action::Garbage | Action::WrongPad => {
            *response.body_mut() = Body::from(&b"\xff\xfe<garbage \x00"[..]);
            response.headers_mut().remove(header::CONTENT_LENGTH);
            response
        }
        Action::Oversize => {
            *response.body_mut() = Body::from(vec![b' '; OVERSIZE]);
            response.headers_mut().remove(header::CONTENT_LENGTH);
            response
        }
    }
}

async fn upgrade(server: &Server, peer: &Peer, parts: &mut Parts, found: &BTreeMap<String, String>) -> Response {
    let domain = found.get("domain").cloned().unwrap_or_default();
    let Some(session) = session(server, &parts.headers, &domain) else { return no_session(server, "websocket") };
    let (server, peer) = (server.clone(), peer.clone());
    match WebSocketUpgrade::from_request_parts(parts, &server).await {
        Ok(upgrade) => upgrade
            .max_message_size(MOST_FRAME)
            .max_frame_size(MOST_FRAME)
            .on_upgrade(move |websocket| socket::run(websocket, server, peer, session, domain)),
        Err(rejection) => rejection.into_response(),
    }
}

/// The path with its `%xx` replaced; what is no UTF-8 then stays as it is.
fn decode_path(path: &str) -> String {
    let mut octets = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let decoded = match (first, after) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(high, low)| high * 16 + low),
            _ => None,
        };
        octets.push(decoded.unwrap_or(*first));
        rest = if decoded.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    String::from_utf8(octets).unwrap_or_else(|_| path.to_owned())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}
