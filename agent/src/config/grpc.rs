//! `[grpc]`: where the API is offered and how much one client may take.

use std::{net::SocketAddr, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Mode, Problem, Size, Span};

/// The gRPC API's listeners and limits.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Grpc {
    /// The Unix socket's path; callers are known by their peer credentials. Empty for none.
    pub socket: PathBuf,
    /// The socket's file mode, in octal digits.
    pub socket_mode: Mode,
    /// The address of the mutual-TLS listener, for example "0.0.0.0:9443"; none when absent.
    pub listen: Option<SocketAddr>,
    /// The listener's certificate chain (PEM). Read again on SIGHUP.
    pub certificate_file: Option<PathBuf>,
    /// The certificate's private key (PEM). Read again on SIGHUP.
    pub key_file: Option<PathBuf>,
    /// The authorities (PEM) whose client certificates are accepted. Read again on SIGHUP.
    pub client_ca_file: Option<PathBuf>,
    /// Most connections at a time, both listeners together.
    pub max_connections: u32,
    /// How long a TLS handshake may take.
    pub handshake_timeout: Span,
    /// Most concurrent requests and streams of one connection.
    pub max_concurrent_streams: u32,
    /// Most bytes of one request message.
    pub max_message_bytes: Size,
    /// Most event subscriptions at a time, all clients together.
    pub max_subscribers: u32,
    /// How often an idle event stream carries a heartbeat.
    pub heartbeat: Span,
}

impl Default for Grpc {
    fn default() -> Self {
        Self {
            socket: PathBuf::from("/run/elph-agent/grpc.sock"),
            socket_mode: Mode(0o660),
            listen: None,
            certificate_file: None,
            key_file: None,
            client_ca_file: None,
            max_connections: 512,
            handshake_timeout: Span::seconds(10),
            max_concurrent_streams: 256,
            max_message_bytes: Size(1 << 20),
            max_subscribers: 256,
            heartbeat: Span::seconds(15),
        }
    }
}

impl Grpc {
    /// The Unix socket's path, if there is one.
    pub fn socket(&self) -> Option<&std::path::Path> {
        (!self.socket.as_os_str().is_empty()).then_some(self.socket.as_path())
    }

    pub(crate) fn check(&self, problems: &mut Vec<Problem>) {
        let mut say = |key: &str, what: &str| problems.push(Problem::new(format!("grpc.{key}"), what));
        if self.socket().is_none() && self.listen.is_none() {
            say("socket", "is empty and grpc.listen is not set; the API must be offered on at least one of them");
        }
        if self.socket().is_some_and(|path| !path.is_absolute()) {
            say("socket", "is no absolute path; must begin with '/', or be empty for no Unix socket");
        }
        if self.socket().is_some_and(|path| path.as_os_str().len() > 107) {
            say("socket", "is too long; a Unix socket's path has at most 107 bytes");
        }
        let files = [("certificate_file", &self.certificate_file), ("key_file", &self.key_file), ("client_ca_file", &self.client_ca_file)];
        for (key, file) in files {
            match (self.listen, file) {
                (Some(_), None) => say(key, "is missing; grpc.listen needs certificate_file, key_file and client_ca_file"),
                (None, Some(_)) => say(key, "has no effect without grpc.listen; set listen = \"address:port\" or remove it"),
                _ => {}
            }
        }
        let counts = [
            ("max_connections", self.max_connections, 65_536),
            ("max_concurrent_streams", self.max_concurrent_streams, 65_536),
            ("max_subscribers", self.max_subscribers, 65_536),
        ];
        for (key, value, most) in counts {
            if value == 0 || value > most {
                say(key, &format!("is out of range; must be from 1 to {most}"));
            }
        }
        if self.max_message_bytes < Size(4096) || self.max_message_bytes > Size(64 << 20) {
            say("max_message_bytes", "is out of range; must be from 4KiB to 64MiB");
        }
        for (key, value) in [("heartbeat", self.heartbeat), ("handshake_timeout", self.handshake_timeout)] {
            if value < Span::seconds(1) || value > Span::seconds(300) {
                say(key, "is out of range; must be from 1s to 5m");
            }
        }
    }
}
