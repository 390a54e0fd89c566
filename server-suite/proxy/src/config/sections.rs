//! The sections but for the services.

use std::{net::SocketAddr, path::PathBuf};

use elph_shell::config::{Problem, Size, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Config;
use crate::nginx::{Version, features::Features};

/// The door.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// Where HTTPS is served: `["0.0.0.0:443", "[::]:443"]`.
    pub addresses: Vec<SocketAddr>,
    /// Where plain HTTP is answered with a redirect to HTTPS, and nothing else.
    pub redirect: Vec<SocketAddr>,
    /// The host names that are served; others are refused. Empty: any.
    pub hosts: Vec<String>,
    /// The certificate and its chain (PEM). A replaced file is taken over while running.
    pub certificate_file: PathBuf,
    /// Its private key (PEM).
    pub key_file: PathBuf,
    /// How often the two files are looked at.
    pub certificate_check: Span,
    /// Which TLS is spoken.
    pub profile: Profile,
    /// Staple the authority's word on the certificate (OCSP). Needs `resolvers` unless the responder is named by its address.
    pub ocsp_stapling: bool,
    /// The authorities (PEM) that vouch for that word, where the certificate's own chain does not: root and intermediates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ocsp_ca_file: Option<PathBuf>,
    /// DNS servers to find the authority's responder with: `["10.0.0.53"]`.
    pub resolvers: Vec<String>,
    /// How long browsers must use HTTPS for this host (HSTS). "0s" says nothing.
    pub hsts: Span,
    /// Connections come through a balancer that speaks the PROXY protocol. Then `trusted_proxies` is needed.
    pub proxy_protocol: bool,
    /// Balancers in front, as addresses or networks. Only they are believed when they name the client's address.
    pub trusted_proxies: Vec<String>,
}

/// Which TLS is spoken: Mozilla's recommendations, version 5.7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// TLS 1.2 and 1.3 with forward secrecy and AEAD.
    Intermediate,
    /// TLS 1.3 alone.
    Strict,
}

/// A rate of requests from one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Requests a second in the long run.
    pub per_second: u32,
    /// Requests that may come at once beyond that.
    pub burst: u32,
}

/// What one client may take. An office behind one address is one client here: limits per user are the services' own.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Requests from one address, all services together; beyond that 429. Zero `per_second`: no limit.
    pub rate: Rate,
    /// Requests and WebSockets of one address at the same time; beyond that 429. Zero: no limit.
    pub connections: u32,
    /// Addresses and networks without limits of rate and connections: `["10.0.0.0/8"]`.
    pub exempt: Vec<String>,
    /// Most bytes of a request's line, and of one header line; beyond that 414 or 431.
    pub header_line: Size,
    /// How many such lines may be longer than 1 KiB.
    pub header_lines: u32,
    /// Most bytes of a request's body where the service says nothing else; beyond that 413.
    pub body: Size,
    /// The TLS handshake and a request's whole header must have come in this time.
    pub header_timeout: Span,
    /// The longest silence within a request's body.
    pub body_timeout: Span,
    /// The longest time a client may take nothing of an answer.
    pub send_timeout: Span,
    /// How long an idle connection is kept.
    pub idle_timeout: Span,
    /// HTTP/2 streams of one connection at the same time.
    pub streams: u32,
}

/// How copies of services are looked after.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Checks {
    /// Look at all. Without, nginx alone notices failed requests.
    pub enabled: bool,
    /// How often each copy is asked.
    pub interval: Span,
    /// How long it may take to answer.
    pub timeout: Span,
    /// Good answers in a row until a copy is taken in again.
    pub rise: u32,
    /// Bad answers in a row until it is taken out.
    pub fall: u32,
    /// The least time between two reloads of nginx that checks cause.
    pub settle: Span,
}

/// The access log: one JSON object a line, without query strings, headers and tokens.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AccessLog {
    /// Write it. Without it there are no request counts by service.
    pub enabled: bool,
    /// The file. After it was renamed, SIGUSR1 makes a new one.
    pub file: PathBuf,
    /// How much nginx gathers before it writes, at most for a second.
    pub buffer: Size,
}

/// Metrics and health of the proxy itself. Never routed.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// The address of `/metrics`, `/healthz` and `/readyz`.
    pub listen: SocketAddr,
}

/// The nginx that does the work.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Nginx {
    /// The program.
    pub binary: PathBuf,
    /// "auto" asks the program for its version; a version such as "1.14.0" renders for that one.
    pub features: String,
    /// Where the rendered configuration, the pid file, the status socket and temporary files are kept. Must be writable and the proxy's own.
    pub directory: PathBuf,
    /// The user of the worker processes, when started as root. Empty: nginx's own choice.
    pub user: String,
    /// Worker processes; 0: one for each core.
    pub workers: u32,
    /// Connections of one worker, those to services included.
    pub connections: u32,
    /// How long connections of before a reload may go on, WebSockets among them.
    pub drain: Span,
}

/// How it stops.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Shutdown {
    /// How long running requests may take after SIGTERM before they are cut off.
    pub drain: Span,
}

// === defaults ===

impl Default for Listen {
    fn default() -> Self {
        Self {
            addresses: vec![SocketAddr::from(([0, 0, 0, 0], 443))],
            redirect: Vec::new(),
            hosts: Vec::new(),
            certificate_file: PathBuf::from("/etc/elph-proxy/certificate.pem"),
            key_file: PathBuf::from("/etc/elph-proxy/key.pem"),
            certificate_check: Span::seconds(30),
            profile: Profile::Intermediate,
            ocsp_stapling: false,
            ocsp_ca_file: None,
            resolvers: Vec::new(),
            hsts: Span::seconds(63_072_000),
            proxy_protocol: false,
            trusted_proxies: Vec::new(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            rate: Rate { per_second: 200, burst: 400 },
            connections: 2000,
            exempt: Vec::new(),
            header_line: Size(8 << 10),
            header_lines: 4,
            body: Size(1 << 20),
            header_timeout: Span::seconds(10),
            body_timeout: Span::seconds(15),
            send_timeout: Span::seconds(30),
            idle_timeout: Span::seconds(75),
            streams: 128,
        }
    }
}

impl Default for Checks {
    fn default() -> Self {
        Self { enabled: true, interval: Span::seconds(5), timeout: Span::seconds(2), rise: 2, fall: 2, settle: Span::seconds(5) }
    }
}

impl Default for AccessLog {
    fn default() -> Self {
        Self { enabled: true, file: PathBuf::from("/var/log/elph-proxy/access.log"), buffer: Size(64 << 10) }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9101)) }
    }
}

impl Default for Nginx {
    fn default() -> Self {
        Self {
            binary: PathBuf::from("/usr/sbin/nginx"),
            features: "auto".to_owned(),
            directory: PathBuf::from("/run/elph-proxy"),
            user: String::new(),
            workers: 0,
            connections: 16_384,
            drain: Span::seconds(600),
        }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { drain: Span::seconds(10) }
    }
}

// === impl Nginx ===

impl Nginx {
    /// The features that the configuration itself names; none for "auto".
    pub fn named_features(&self) -> Option<Features> {
        Version::parse(&self.features).map(Features::of)
    }
}

/// What the types cannot say.
pub(super) fn check(config: &Config, problems: &mut Vec<Problem>) {
    let mut say = |key: &str, what: &str| problems.push(Problem::new(key, what));
    let Config { listen, limits, checks, access_log, nginx, shutdown, .. } = config;
    if listen.addresses.is_empty() {
        say("listen.addresses", "is empty; must be at least one address such as \"0.0.0.0:443\"");
    }
    for (index, host) in listen.hosts.iter().enumerate() {
        if !is_host(host) {
            say(
                &format!("listen.hosts[{index}]"),
                "is no host name; must be letters, digits, dots and hyphens, such as \"elph.example.org\"",
            );
        }
    }
    for (index, resolver) in listen.resolvers.iter().enumerate() {
        if resolver.parse::<std::net::IpAddr>().is_err() && resolver.parse::<SocketAddr>().is_err() {
            say(&format!("listen.resolvers[{index}]"), "is no address; must be such as \"10.0.0.53\"");
        }
    }
    for (list, networks) in [("listen.trusted_proxies", &listen.trusted_proxies), ("limits.exempt", &limits.exempt)] {
        for (index, network) in networks.iter().enumerate() {
            if !is_network(network) {
                say(&format!("{list}[{index}]"), "is no address or network; must be such as \"10.1.2.3\" or \"10.0.0.0/8\"");
            }
        }
    }
    if listen.proxy_protocol && listen.trusted_proxies.is_empty() {
        say("listen.proxy_protocol", "needs listen.trusted_proxies: who may name the client's address");
    }
    if listen.certificate_check < Span::seconds(1) {
        say("listen.certificate_check", "is out of range; must be at least 1s");
    }
    let nowhere = PathBuf::from("/");
    let paths = [
        ("listen.ocsp_ca_file", listen.ocsp_ca_file.as_ref().unwrap_or(&nowhere)),
        ("listen.certificate_file", &listen.certificate_file),
        ("listen.key_file", &listen.key_file),
        ("access_log.file", &access_log.file),
        ("nginx.directory", &nginx.directory),
    ];
    for (key, path) in paths {
        if !path.is_absolute() || path.to_str().is_none_or(|text| text.chars().any(|c| c.is_control() || "\"\\$;{}".contains(c))) {
            say(key, "must be an absolute path without quotes, backslashes, $, ; and braces");
        }
    }
    if limits.header_line < Size(1 << 10) || limits.header_line > Size(64 << 10) {
        say("limits.header_line", "is out of range; must be from 1KiB to 64KiB");
    }
    if limits.header_lines == 0 || limits.header_lines > 64 {
        say("limits.header_lines", "is out of range; must be from 1 to 64");
    }
    if limits.streams == 0 || limits.streams > 1024 {
        say("limits.streams", "is out of range; must be from 1 to 1024");
    }
    let waits = [
        ("limits.header_timeout", limits.header_timeout),
        ("limits.body_timeout", limits.body_timeout),
        ("limits.send_timeout", limits.send_timeout),
        ("limits.idle_timeout", limits.idle_timeout),
        ("nginx.drain", nginx.drain),
    ];
    for (key, wait) in waits {
        if wait < Span::seconds(1) || wait > Span::seconds(86_400) {
            say(key, "is out of range; must be from 1s to 1d");
        }
    }
    if checks.interval.0.as_millis() < 100 || checks.timeout.0.is_zero() || checks.timeout.0 > checks.interval.0 {
        say("checks", "interval must be at least 100ms, and timeout more than 0 and not more than interval");
    }
    if checks.rise == 0 || checks.fall == 0 {
        say("checks", "rise and fall must be at least 1");
    }
    if nginx.features != "auto" && Version::parse(&nginx.features).is_none() {
        say("nginx.features", "is not understood; must be \"auto\" or a version such as \"1.22.1\"");
    }
    if nginx.user.chars().any(|c| !c.is_ascii_alphanumeric() && c != '-' && c != '_') {
        say("nginx.user", "is no name of a user");
    }
    if nginx.connections < 64 || nginx.workers > 512 {
        say("nginx", "connections must be at least 64 and workers at most 512");
    }
    if shutdown.drain > Span::seconds(600) {
        say("shutdown.drain", "is out of range; must be at most 10m");
    }
}

pub(super) fn is_host(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && text.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        })
}

fn is_network(text: &str) -> bool {
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let Ok(address) = address.parse::<std::net::IpAddr>() else { return false };
    let most = if address.is_ipv4() { 32 } else { 128 };
    bits.is_none_or(|bits| bits.parse::<u8>().is_ok_and(|bits| bits <= most))
}
