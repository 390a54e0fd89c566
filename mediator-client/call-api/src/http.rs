//! Plain HTTP to the Call API: the login, and commands where there is no WebSocket (ecss10-interfaces §2). One connection for each
//! exchange: commands are rare there, and whether one was sent is then known exactly.

use std::time::Duration;

use bytes::Bytes;
use ecss_switch::{
    CommandError,
    connect::{BoxedIo, Connect, Endpoint},
    link::{LinkKind, Tap, Way},
};
use ecss_terminal::xml;
use http::{HeaderMap, HeaderValue, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    client::CallApiConfig,
    frame::MAX_MESSAGE,
    shape::{Answer, login_tree, read_answer},
    tree::{Element, from_xml, to_xml},
};

/// How long a logout may take.
const LEAVING: Duration = Duration::from_secs(1);

/// How an exchange failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ExchangeError {
    /// Nothing of it reached the switch.
    #[error("{0}")]
    NotSent(String),
    /// It may have.
    #[error("{0}")]
    Unknown(String),
}

impl From<ExchangeError> for CommandError {
    fn from(error: ExchangeError) -> Self {
        match error {
            ExchangeError::NotSent(cause) => Self::not_sent(cause),
            ExchangeError::Unknown(cause) => Self::unknown(cause),
        }
    }
}

/// An answer: its status, headers and octets.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A login's result: the `Cookie` header of later requests.
#[derive(Clone)]
pub(crate) struct Cookie(SecretString);

impl Cookie {
    /// The header, marked so that it is not logged.
    pub(crate) fn header(&self) -> Result<HeaderValue, String> {
        let mut value = HeaderValue::from_str(self.0.expose_secret()).map_err(|_| "the session cookie is no header value".to_owned())?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// Connects within the configured time.
pub(crate) async fn open(connect: &dyn Connect, endpoint: &Endpoint, within: Duration) -> Result<BoxedIo, String> {
    match timeout(within, connect.connect(endpoint)).await {
        Ok(Ok(io)) => Ok(io),
        Ok(Err(error)) => Err(format!("connecting to {endpoint}: {error}")),
        Err(_) => Err(format!("connecting to {endpoint} took longer than {within:?}")),
    }
}

/// Sends one request and reads its answer.
pub(crate) async fn exchange(
    connect: &dyn Connect,
    endpoint: &Endpoint,
    connect_timeout: Duration,
    deadline: Instant,
    request: Request<Full<Bytes>>,
) -> Result<Reply, ExchangeError> {
    let within = connect_timeout.min(deadline.saturating_duration_since(Instant::now()));
    let io = open(connect, endpoint, within).await.map_err(ExchangeError::NotSent)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io))
        .await
        .map_err(|error| ExchangeError::NotSent(format!("opening HTTP to {endpoint}: {error}")))?;
    let talk = async move {
        let failed = |error: hyper::Error| {
            let cause = format!("the HTTP exchange: {error}");
            // cancelled: the connection ended before the request was taken from us
            if error.is_canceled() { ExchangeError::NotSent(cause) } else { ExchangeError::Unknown(cause) }
        };
        let (parts, body) = sender.send_request(request).await.map_err(failed)?.into_parts();
        let body = Limited::new(body, MAX_MESSAGE).collect().await;
        let body = body.map_err(|error| ExchangeError::Unknown(format!("the HTTP answer's body: {error}")))?.to_bytes();
        Ok(Reply { status: parts.status.as_u16(), headers: parts.headers, body })
    };
    let both = async {
        let (mut talk, mut connection) = (std::pin::pin!(talk), std::pin::pin!(connection));
        let mut ended = false;
        loop {
            tokio::select! {
                biased;
                result = &mut talk => return result,
                _ = &mut connection, if !ended => ended = true,
            }
        }
    };
    timeout_at(deadline, both).await.unwrap_or_else(|_| Err(ExchangeError::Unknown("no answer came in time".to_owned())))
}

/// A POST of an XML document.
pub(crate) fn post(endpoint: &Endpoint, path: &str, cookie: Option<&Cookie>, tree: &Element<'_>) -> Result<Request<Full<Bytes>>, String> {
    let mut request = Request::post(path)
        .header(header::HOST, endpoint.to_string())
        .header(header::CONTENT_TYPE, "application/xml; charset=utf-8")
        .body(Full::new(Bytes::from(to_xml(tree))))
        .map_err(|error| format!("the path '{path}' makes no request: {error}"))?;
    if let Some(cookie) = cookie {
        request.headers_mut().insert(header::COOKIE, cookie.header()?);
    }
    Ok(request)
}

/// A path of the dialect with its places filled.
pub(crate) fn path(template: &str, places: &[(&str, &str)]) -> String {
    places.iter().fold(template.to_owned(), |path, (place, value)| path.replace(place, &percent_encoded(value)))
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// Logs in; the error says nothing that is secret.
pub(crate) async fn login(
    config: &CallApiConfig,
    dialect: &ecss_switch::Dialect,
    connect: &dyn Connect,
    endpoint: &Endpoint,
    tap: Option<&dyn Tap>,
) -> Result<Cookie, String> {
    let api = &dialect.call_api;
    let path = path(&api.login_path, &[("{domain}", config.domain.as_str())]);
    let tree = login_tree(api, &config.login, config.password.expose_secret());
    let request = post(endpoint, &path, None, &tree)?;
    if let Some(tap) = tap {
        tap.message(LinkKind::CallApi, Way::Sent, &format!("POST {path}"), &to_xml(&login_tree(api, &config.login, "***")));
    }
    let deadline = Instant::now() + config.command_timeout;
    let reply = exchange(connect, endpoint, config.connect_timeout, deadline, request).await.map_err(|error| format!("login: {error}"))?;
    if let Some(tap) = tap {
        let body = xml::parse(&reply.body).map_or_else(|_| format!("({} octets)", reply.body.len()), |root| root.redacted().to_document());
        // Of a cookie a recording holds the name.
        let name = |value: &HeaderValue| Some(format!("\nSet-Cookie: {}=***", value.to_str().ok()?.split_once('=')?.0.trim()));
        let cookies: String = reply.headers.get_all(header::SET_COOKIE).iter().filter_map(name).collect();
        tap.message(LinkKind::CallApi, Way::Received, &format!("{} {path}{cookies}", reply.status), &body);
    }
    let status = reply.status.to_string();
    let cookie = cookie_of(&reply.headers, api.session_cookie.as_deref());
    let root = from_xml(&reply.body).ok();
    match read_answer(&status, root.as_ref().map(std::slice::from_ref), dialect) {
        Answer::Done(_) => {}
        // a cookie under a success says enough, whatever the body
        Answer::Failed(CommandError::BadAnswer { .. }) if (200..300).contains(&reply.status) && cookie.is_some() => {}
        // before there is a session, what looks like an expired one is a refusal
        Answer::SessionExpired => {
            return Err(format!("login: the switch refused user, password or the path {path} of call_api.login_path (status {status})"));
        }
        // the switch may quote what it refuses
        Answer::Failed(error) => {
            let (text, password) = (format!("login: {error}"), config.password.expose_secret());
            return Err(if password.is_empty() { text } else { text.replace(password, "***") });
        }
    }
    cookie.ok_or_else(|| match &api.session_cookie {
        Some(name) => format!("login: the switch set no cookie '{name}'; the dialect's call_api.session_cookie names it"),
        None => "login: the switch set no cookie".to_owned(),
    })
}

/// Ends the session where the dialect knows how. Nothing is lost if that fails: the switch lets it time out, as it must without this.
pub(crate) async fn logout(
    config: &CallApiConfig,
    dialect: &ecss_switch::Dialect,
    connect: &dyn Connect,
    endpoint: &Endpoint,
    cookie: &Cookie,
    tap: Option<&dyn Tap>,
) {
    let Some(call) = &dialect.call_api.logout else { return };
    let path = path(&call.path, &[("{domain}", config.domain.as_str())]);
    let request = Request::builder()
        .method(call.method.as_str())
        .uri(&path)
        .header(header::HOST, endpoint.to_string())
        .header(header::CONTENT_TYPE, "application/xml; charset=utf-8")
        .body(Full::new(Bytes::from(call.body.clone())));
    let outcome = match (request, cookie.header()) {
        (Ok(mut request), Ok(value)) => {
            request.headers_mut().insert(header::COOKIE, value);
            if let Some(tap) = tap {
                tap.message(LinkKind::CallApi, Way::Sent, &format!("{} {path}", call.method), &call.body);
            }
            let reply = exchange(connect, endpoint, config.connect_timeout, Instant::now() + LEAVING, request).await;
            reply.map(|reply| reply.status).map_err(|error| error.to_string())
        }
        (Err(error), _) => Err(format!("the path '{path}' makes no request: {error}")),
        (_, Err(cause)) => Err(cause),
    };
    match outcome {
        Ok(status) => {
            if let Some(tap) = tap {
                tap.message(LinkKind::CallApi, Way::Received, &format!("{status} {path}"), "");
            }
            tracing::debug!(link = "call_api", node = %endpoint, status, "logged out");
        }
        Err(cause) => tracing::info!(link = "call_api", node = %endpoint, cause, "no logout, the session is left to time out"),
    }
}

/// The cookies that a login sets, or the one of this name, as a `Cookie` header.
fn cookie_of(headers: &HeaderMap, name: Option<&str>) -> Option<Cookie> {
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    for value in headers.get_all(header::SET_COOKIE).iter().filter_map(|value| value.to_str().ok()) {
        let pair = value.split(';').next().unwrap_or_default();
        let Some((key, value)) = pair.split_once('=').map(|(key, value)| (key.trim(), value.trim())) else { continue };
        if !key.is_empty() && !value.is_empty() && name.is_none_or(|name| name == key) {
            pairs.retain(|(other, _)| *other != key);
            pairs.push((key, value));
        }
    }
    let header = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join("; ");
    (!header.is_empty()).then(|| Cookie(header.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_cookie_or_all_of_them_are_kept_the_last_of_a_name_wins() {
        let mut headers = HeaderMap::new();
        for value in ["a=1; Path=/; HttpOnly", "ECSSAPI=x; Secure", "ECSSAPI=y", "broken", "b="] {
            headers.append(header::SET_COOKIE, HeaderValue::from_static(value));
        }
        let text = |name| cookie_of(&headers, name).map(|cookie| cookie.0.expose_secret().to_owned());
        assert_eq!(text(None).as_deref(), Some("a=1; ECSSAPI=y"));
        assert_eq!(text(Some("ECSSAPI")).as_deref(), Some("ECSSAPI=y"));
        assert_eq!(text(Some("other")), None);
    }

    #[test]
    fn places_in_paths_are_filled_and_encoded() {
        assert_eq!(path("/{domain}/service/{service}", &[("{domain}", "a b.й"), ("{service}", "cc/arm")]), "/a%20b.%D0%B9/service/cc/arm");
    }
}
