//! What is behind the door. The suite's services are known by name; their prefixes and ports are DESIGN's.

use std::{collections::BTreeMap, fmt};

use elph_shell::config::{Problem, Size, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::sections::{Limits, Rate, is_host};

/// A service as it is written: what is left out comes from [`KNOWN`] or from `[limits]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WrittenService {
    /// A name of the suite (sso, chat, history, status, files, apps, contacts, push, admin, client) or one of your own.
    pub name: String,
    /// The public path, with a slash at both ends. It is passed on as it is. Left out: the suite's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The copies: `["10.0.0.5:3011", "10.0.0.6:3011"]`. Left out: this host and the suite's port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upstreams: Vec<String>,
    /// Let WebSockets through. Left out: yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub websocket: Option<bool>,
    /// How long a connection to a copy may take. Left out: 3s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<Span>,
    /// The longest silence before and within an answer. Left out: 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_timeout: Option<Span>,
    /// The longest silence of a WebSocket in one direction. Left out: 10m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub websocket_timeout: Option<Span>,
    /// Most bytes of a request's body. Left out: `limits.body`, for files 1GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Size>,
    /// Pass bodies on as they come instead of gathering them first. Left out: for files yes, for others no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streaming: Option<bool>,
    /// Requests from one address to this service. Left out: for sso 20 a second, for others `limits.rate` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// What a copy is asked for: a path that answers 200 when it is well. Left out: "/readyz". Empty: nothing is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check_path: Option<String>,
    /// The port that is asked. Left out: the copy's own, for sso 9100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check_port: Option<u16>,
    /// Paths below the prefix that are never routed, beside metrics, healthz and readyz: `["internal"]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hidden: Vec<String>,
}

/// A service of the suite.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// Its name here.
    pub name: &'static str,
    /// Its public path.
    pub prefix: &'static str,
    /// Its port.
    pub port: u16,
    /// Its health's port, when that is another.
    pub check_port: Option<u16>,
    /// What it is.
    pub what: &'static str,
}

/// The suite.
pub const KNOWN: [Known; 10] = [
    Known { name: "sso", prefix: "/elph/auth/", port: 8282, check_port: Some(9100), what: "sign-on" },
    Known { name: "chat", prefix: "/elph_chat/", port: 3011, check_port: None, what: "chat" },
    Known { name: "history", prefix: "/elph_history/", port: 3000, check_port: None, what: "call history" },
    Known { name: "status", prefix: "/elph_status/", port: 3002, check_port: None, what: "presence" },
    Known { name: "files", prefix: "/elph_files/", port: 3005, check_port: None, what: "files" },
    Known { name: "apps", prefix: "/elph_apps/", port: 3007, check_port: None, what: "mini apps" },
    Known { name: "contacts", prefix: "/elph_contacts/", port: 4000, check_port: None, what: "address book" },
    Known { name: "push", prefix: "/elph_push/", port: 3003, check_port: None, what: "push gateway" },
    Known { name: "admin", prefix: "/elph_admin/", port: 8098, check_port: None, what: "moderation and administration" },
    Known { name: CLIENT, prefix: "/", port: 8080, check_port: None, what: "chat client; only when it is listed" },
];

/// The web client takes every path that nobody else has, so it is never there by default.
const CLIENT: &str = "client";

/// Never routed, below any prefix.
const HIDDEN: [&str; 3] = ["metrics", "healthz", "readyz"];

/// A copy's address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Upstream {
    /// A name or an address.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// A service with everything filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is the key of its name")]
pub struct Service {
    pub name: String,
    pub prefix: String,
    pub upstreams: Vec<Upstream>,
    pub websocket: bool,
    pub connect_timeout: Span,
    pub read_timeout: Span,
    pub websocket_timeout: Span,
    pub body: Size,
    pub streaming: bool,
    pub rate: Option<Rate>,
    pub check_path: Option<String>,
    pub check_port: Option<u16>,
    pub hidden: Vec<String>,
}

/// Every service of the suite on this host.
pub(super) fn suite() -> Vec<WrittenService> {
    let listed = KNOWN.iter().filter(|known| known.name != CLIENT);
    listed.map(|known| WrittenService { name: known.name.to_owned(), ..WrittenService::default() }).collect()
}

/// Fills in what is left out, and says what is wrong.
pub(super) fn resolve(written: &[WrittenService], limits: &Limits, problems: &mut Vec<Problem>) -> Vec<Service> {
    let mut services: Vec<Service> = Vec::new();
    let (mut names, mut prefixes) = (BTreeMap::new(), BTreeMap::new());
    for (index, one) in written.iter().enumerate() {
        let before = problems.len();
        let mut say = |key: &str, what: String| problems.push(Problem::new(format!("services[{index}].{key}"), what));
        if !is_name(&one.name) {
            say("name", "must be a small letter followed by small letters, digits and _, at most 32".to_owned());
        }
        if names.insert(one.name.clone(), index).is_some() {
            say("name", format!("'{}' is listed twice", one.name));
        }
        let known = KNOWN.iter().find(|known| known.name == one.name);
        let prefix = one.prefix.clone().or_else(|| known.map(|known| known.prefix.to_owned())).unwrap_or_default();
        if one.prefix.is_none() && known.is_none() {
            let names: Vec<&str> = KNOWN.iter().map(|known| known.name).collect();
            say("prefix", format!("is missing; only the suite's services have one of their own: {}", names.join(", ")));
        } else if !is_prefix(&prefix) {
            say("prefix", "must begin and end with a slash and hold letters, digits, _ and - between: \"/elph_chat/\"".to_owned());
        } else if let Some(other) = prefixes.insert(prefix.clone(), index) {
            say("prefix", format!("is also that of services[{other}]"));
        }
        let mut upstreams = Vec::new();
        for (at, text) in one.upstreams.iter().enumerate() {
            match Upstream::parse(text) {
                Some(upstream) if upstreams.contains(&upstream) => say(&format!("upstreams[{at}]"), "is listed twice".to_owned()),
                Some(upstream) => upstreams.push(upstream),
                None => {
                    say(&format!("upstreams[{at}]"), "must be host:port, such as \"10.0.0.5:3011\" or \"[2001:db8::5]:3011\"".to_owned())
                }
            }
        }
        match known {
            Some(known) if one.upstreams.is_empty() => upstreams.push(Upstream { host: "127.0.0.1".to_owned(), port: known.port }),
            None if one.upstreams.is_empty() => say("upstreams", "is empty; must be at least one host:port".to_owned()),
            _ => {}
        }
        if one.check_path.as_deref().is_some_and(|path| !path.is_empty() && !is_path(path)) {
            say("check_path", "must be a path such as \"/readyz\", or \"\" to ask nothing".to_owned());
        }
        if one.rate.is_some_and(|rate| rate.per_second == 0) {
            say("rate", "must allow at least 1 request a second".to_owned());
        }
        for (at, path) in one.hidden.iter().enumerate() {
            if !is_path(&format!("/{path}")) || path.is_empty() {
                say(&format!("hidden[{at}]"), "must be a path below the prefix, without a slash at its beginning: \"internal\"".to_owned());
            }
        }
        let waits = [
            ("connect_timeout", one.connect_timeout, 60),
            ("read_timeout", one.read_timeout, 3600),
            ("websocket_timeout", one.websocket_timeout, 86_400),
        ];
        for (key, wait, most) in waits {
            if wait.is_some_and(|wait| wait.0.as_millis() < 100 || wait > Span::seconds(most)) {
                say(key, format!("is out of range; must be from 100ms to {}", Span::seconds(most)));
            }
        }
        if problems.len() > before {
            continue;
        }
        let files = one.name == "files";
        services.push(Service {
            name: one.name.clone(),
            prefix,
            upstreams,
            websocket: one.websocket.unwrap_or(true),
            connect_timeout: one.connect_timeout.unwrap_or(Span::seconds(3)),
            read_timeout: one.read_timeout.unwrap_or(Span::seconds(60)),
            websocket_timeout: one.websocket_timeout.unwrap_or(Span::seconds(600)),
            body: one.body.unwrap_or(if files { Size(1 << 30) } else { limits.body }),
            streaming: one.streaming.unwrap_or(files),
            rate: one.rate.or((one.name == "sso").then_some(Rate { per_second: 20, burst: 100 })),
            check_path: Some(one.check_path.clone().unwrap_or_else(|| "/readyz".to_owned())).filter(|path| !path.is_empty()),
            check_port: one.check_port.or_else(|| known.and_then(|known| known.check_port)),
            hidden: HIDDEN.iter().map(|&path| path.to_owned()).chain(one.hidden.iter().cloned()).collect(),
        });
    }
    services
}

fn is_name(text: &str) -> bool {
    text.len() <= 32
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

fn is_path(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte);
    text.starts_with('/') && text.len() <= 128 && text.bytes().all(plain) && !text.contains("//") && !text.contains("..")
}

fn is_prefix(text: &str) -> bool {
    is_path(text) && text.ends_with('/') && !text.contains('.')
}

// === impl Upstream ===

impl Upstream {
    /// `host:port`.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port != 0)?;
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match inner {
            Some(inner) => inner.parse::<std::net::Ipv6Addr>().ok()?.to_string(),
            None => Some(host).filter(|host| is_host(host))?.to_owned(),
        };
        Some(Self { host, port })
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') { write!(f, "[{}]:{}", self.host, self.port) } else { write!(f, "{}:{}", self.host, self.port) }
    }
}
