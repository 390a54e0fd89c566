//! From a configuration, the state of the copies and an nginx's features to nginx's configuration. A pure function: the same in, the
//! same out. Every value that gets in has been parsed into a type that cannot hold nginx's own syntax.

mod door;
mod requests;
mod route;

use std::{
    fmt::{Display, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use crate::{
    config::{Config, Service},
    nginx::features::{Features, Stream},
};

/// One copy of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// As it is written: `chat1.example.org:3011`.
    pub name: String,
    /// Where it is now. Empty: its name is not known to DNS.
    pub addresses: Vec<SocketAddr>,
    /// Whether requests may go there.
    pub well: bool,
}

/// A service and where its copies are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The service.
    pub service: Service,
    /// Its copies.
    pub copies: Vec<Copy>,
}

/// Everything that nginx's configuration depends on.
#[derive(Debug, Clone)]
pub struct Input<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The services in their places.
    pub services: &'a [Placed],
    /// What nginx can do.
    pub features: Features,
    /// The ACME server is expected: its connections go to [`Files::acme`], all others to nginx's own servers.
    pub challenging: bool,
    /// Told by the status socket, so that one sees which configuration is in force.
    pub generation: u64,
}

/// The files in `nginx.directory`.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "each field is the file of its name")]
pub struct Files {
    pub directory: PathBuf,
    pub configuration: PathBuf,
    pub candidate: PathBuf,
    pub pid: PathBuf,
    pub status: PathBuf,
    pub https: PathBuf,
    pub acme: PathBuf,
}

/// Writes nested blocks with their indentation.
struct Text {
    text: String,
    depth: usize,
}

/// nginx's configuration.
pub fn render(input: &Input<'_>) -> String {
    let Input { config, features, .. } = input;
    let files = Files::of(&config.nginx.directory);
    let mut out = Text { text: String::new(), depth: 0 };
    out.line(format_args!("# Written by elph-proxy for nginx {} and newer. Changes here are lost: change proxy.toml.", features.version));
    // Loaded also while nobody is expected: nginx keeps the module over reloads.
    if let (true, Stream::Module(file)) = (config.acme.splits_connections(), &features.stream) {
        out.line(format_args!("load_module {};", file.display()));
    }
    out.line("daemon off;");
    out.line("master_process on;");
    match config.nginx.workers {
        0 => out.line("worker_processes auto;"),
        workers => out.line(format_args!("worker_processes {workers};")),
    }
    if !config.nginx.user.is_empty() {
        out.line(format_args!("user {};", config.nginx.user));
    }
    // Every connection may have one to a service behind it, and files beside.
    out.line(format_args!("worker_rlimit_nofile {};", u64::from(config.nginx.connections) + 1024));
    out.line(format_args!("worker_shutdown_timeout {};", time(config.nginx.drain.0)));
    out.line(format_args!("pid {};", files.pid.display()));
    out.line("error_log stderr warn;");
    out.block("events", |out| out.line(format_args!("worker_connections {};", config.nginx.connections)));
    out.block("http", |out| http(out, input, &files));
    if input.challenging {
        out.block("stream", |out| door::told_apart(out, input, &files));
    }
    out.text
}

fn http(out: &mut Text, input: &Input<'_>, files: &Files) {
    let Input { config, services, features, .. } = input;
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        out.line(format_args!("{kind}_temp_path {}/temp_{kind};", files.directory.display()));
    }
    out.line("default_type application/octet-stream;");
    out.line("server_tokens off;");
    out.line("sendfile on;");
    out.line("tcp_nopush on;");
    out.line("tcp_nodelay on;");
    out.line("absolute_redirect off;");
    out.line("variables_hash_max_size 2048;");
    out.line("map_hash_bucket_size 256;");
    out.line("server_names_hash_bucket_size 256;");
    out.line("proxy_headers_hash_max_size 1024;");
    out.line("proxy_headers_hash_bucket_size 128;");
    requests::maps(out, services);
    requests::limits(out, config, services, features);
    requests::log(out, config);
    for placed in *services {
        route::upstream(out, placed, features);
    }
    door::servers(out, input);
    out.block("server", |out| {
        out.line(format_args!("listen unix:{};", files.status.display()));
        out.line("access_log off;");
        out.line("limit_req_log_level info;");
        out.block("location = /status", |out| out.line("stub_status;"));
        out.block("location = /generation", |out| out.line(format_args!("return 200 \"{}\";", input.generation)));
        out.block("location /", |out| out.line("return 404;"));
    });
}

/// A duration in nginx's words.
fn time(duration: std::time::Duration) -> String {
    let millis = duration.as_millis();
    if millis.is_multiple_of(1000) { format!("{}s", millis / 1000) } else { format!("{millis}ms") }
}

// === impl Files ===

impl Files {
    /// The files of a directory.
    pub fn of(directory: &Path) -> Self {
        let file = |name: &str| directory.join(name);
        Self {
            directory: directory.to_owned(),
            configuration: file("nginx.conf"),
            candidate: file("nginx.conf.new"),
            pid: file("nginx.pid"),
            status: file("status.sock"),
            https: file("https.sock"),
            acme: file("acme.sock"),
        }
    }
}

// === impl Text ===

impl Text {
    fn line(&mut self, line: impl Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{:indent$}{line}", "", indent = self.depth * 4);
    }

    fn block(&mut self, head: impl Display, body: impl FnOnce(&mut Self)) {
        self.line(format_args!("{head} {{"));
        self.depth += 1;
        body(self);
        self.depth -= 1;
        self.line("}");
    }
}
