//! The doors and the service behind them, each a real program with its files in one place.

use std::{
    net::{SocketAddr, TcpListener},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use e2e::guard::Signed;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::net::TcpStream;

use crate::feed::PATIENCE;

const NGINX: &str = "/usr/sbin/nginx";

/// What all share.
pub(super) struct Files {
    pub(super) place: PathBuf,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    /// Both in one, for haproxy.
    both: PathBuf,
}

/// A program that listens. It ends with this.
pub(super) struct Door {
    pub(super) address: SocketAddr,
    /// Of elph-proxy.
    pub(super) metrics: Option<SocketAddr>,
    child: Option<Child>,
}

fn free() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// An nginx of one worker that answers with a kibibyte.
pub(super) async fn service(files: &Files) -> anyhow::Result<Door> {
    let address = free()?;
    let answer = "x".repeat(1024);
    let server = format!("server {{ listen {address}; location / {{ return 200 '{answer}'; }} }}");
    nginx(files, "service", address, "", &server).await
}

/// The same routes as ours, and nothing else.
pub(super) async fn bare(files: &Files, service: SocketAddr) -> anyhow::Result<Door> {
    let address = free()?;
    let (certificate, key) = (files.certificate.display(), files.key.display());
    let upstream = format!("upstream service {{ server {service}; keepalive 64; keepalive_requests 1000000; }}");
    let routes: String = ["elph_chat", "elph_status", "elph_files"]
        .map(|prefix| {
            format!(
                "location /{prefix}/ {{ proxy_pass http://service; proxy_http_version 1.1; proxy_set_header Connection $upgraded; \
                 proxy_set_header Upgrade $http_upgrade; proxy_read_timeout 600s; }} "
            )
        })
        .concat();
    let map = "map $http_upgrade $upgraded { default ''; websocket upgrade; }";
    let server = format!(
        "server {{ listen {address} ssl http2; ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3; \
         ssl_session_cache shared:bare:10m; {routes} location / {{ return 404; }} }}"
    );
    nginx(files, "bare", address, &format!("{map} {upstream}"), &server).await
}

async fn nginx(files: &Files, name: &str, address: SocketAddr, before: &str, server: &str) -> anyhow::Result<Door> {
    let place = files.place.join(name);
    std::fs::create_dir_all(&place)?;
    let configuration = format!(
        "daemon off; worker_processes 1; worker_rlimit_nofile 60000; user root; pid {0}/pid; error_log {0}/error.log;\n\
         events {{ worker_connections 50000; }}\nhttp {{ access_log off; keepalive_requests 1000000; client_body_temp_path {0}/b; \
         proxy_temp_path {0}/p; fastcgi_temp_path {0}/f; uwsgi_temp_path {0}/u; scgi_temp_path {0}/s; {before} {server} }}\n",
        place.display()
    );
    let path = place.join("nginx.conf");
    std::fs::write(&path, configuration)?;
    let mut command = Command::new(NGINX);
    command.arg("-p").arg(&place).arg("-c").arg(&path).args(["-e", "stderr"]);
    Door::start(command, address, None).await
}

/// One thread, kept connections, TLS with both versions of HTTP.
pub(super) async fn haproxy(files: &Files, service: SocketAddr) -> anyhow::Result<Door> {
    let address = free()?;
    let configuration = format!(
        "global\n nbthread 1\n maxconn 4000\ndefaults\n mode http\n timeout connect 3s\n timeout client 60s\n timeout server 60s\n \
         http-reuse always\nfrontend door\n bind {address} ssl crt {} alpn h2,http/1.1\n acl routed path_beg /elph_chat/ /elph_status/ \
         /elph_files/\n http-request return status 404 if !routed\n default_backend service\nbackend service\n server one {service}\n",
        files.both.display()
    );
    let path = files.place.join("haproxy.cfg");
    std::fs::write(&path, configuration)?;
    let mut command = Command::new("/usr/sbin/haproxy");
    command.arg("-db").arg("-q").arg("-f").arg(&path);
    Door::start(command, address, None).await
}

/// elph-proxy with everything on, for the chat.
pub(super) async fn ours(files: &Files, name: &str, service: SocketAddr) -> anyhow::Result<Door> {
    ours_for(files, name, "chat", service).await
}

/// elph-proxy with everything on, for one service of the suite.
pub(super) async fn ours_for(files: &Files, name: &str, service: &str, at: SocketAddr) -> anyhow::Result<Door> {
    let (address, metrics) = (free()?, free()?);
    let path = files.configure(name, service, address, metrics, at, 1 << 20)?;
    let program = std::env::current_exe()?.with_file_name("elph-proxy");
    ensure!(program.exists(), "{} is missing; cargo build --release -p elph-proxy builds it", program.display());
    let mut command = Command::new(program);
    command.args(["run", "--config"]).arg(path);
    Door::start(command, address, Some(metrics)).await
}

/// What is answered, headers included; nothing when nobody answers.
pub(super) async fn text(address: SocketAddr, path: &str) -> String {
    let asked = async {
        let client = reqwest::Client::builder().timeout(PATIENCE).build().ok()?;
        client.get(format!("http://{address}{path}")).send().await.ok()?.text().await.ok()
    };
    asked.await.unwrap_or_default()
}

// === impl Files ===

impl Files {
    pub(super) fn write(place: &Path, signed: &Signed) -> anyhow::Result<Self> {
        let at = |name: &str| place.join(name);
        std::fs::write(at("cert.pem"), &signed.certificate)?;
        std::fs::write(at("key.pem"), &signed.key)?;
        std::fs::write(at("both.pem"), format!("{}\n{}", signed.certificate, signed.key))?;
        Ok(Self { place: place.to_owned(), certificate: at("cert.pem"), key: at("key.pem"), both: at("both.pem") })
    }

    /// Writes the configuration of ours anew, with another limit of bodies.
    pub(super) fn write_ours(&self, name: &str, address: SocketAddr, metrics: SocketAddr, at: SocketAddr, body: u64) -> anyhow::Result<()> {
        self.configure(name, "chat", address, metrics, at, body).map(drop)
    }

    fn configure(
        &self,
        name: &str,
        service: &str,
        address: SocketAddr,
        metrics: SocketAddr,
        at: SocketAddr,
        body: u64,
    ) -> anyhow::Result<PathBuf> {
        let place = self.place.join(name);
        std::fs::create_dir_all(&place)?;
        let (certificate, key, here) = (self.certificate.display(), self.key.display(), place.display());
        let text = format!(
            "[listen]\naddresses = [\"{address}\"]\nhosts = [\"localhost\"]\ncertificate_file = \"{certificate}\"\nkey_file = \"{key}\"\n\
             [limits]\nrate = {{ per_second = 1000000, burst = 1000000 }}\nconnections = 60000\nbody = {body}\n\
             [access_log]\nfile = \"{here}/access.log\"\n[metrics]\nlisten = \"{metrics}\"\n[checks]\ninterval = \"1s\"\ntimeout = \"500ms\"\n\
             [nginx]\ndirectory = \"{here}/run\"\nworkers = 1\nconnections = 50000\nuser = \"root\"\ndrain = \"5s\"\n\
             [[services]]\nname = \"{service}\"\nupstreams = [\"{at}\"]\ncheck_path = \"/\"\n\
             [[services]]\nname = \"files\"\nupstreams = [\"{at}\"]\ncheck_path = \"/\"\n"
        );
        let path = place.join("proxy.toml");
        std::fs::write(&path, text)?;
        Ok(path)
    }
}

// === impl Door ===

impl Door {
    /// One that somebody else has opened.
    pub(super) fn there(address: SocketAddr) -> Self {
        Self { address, metrics: None, child: None }
    }

    async fn start(mut command: Command, address: SocketAddr, metrics: Option<SocketAddr>) -> anyhow::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let name = format!("{command:?}");
        let child = command.spawn().with_context(|| name.clone())?;
        let door = Self { address, metrics, child: Some(child) };
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(address).await.is_err() {
            ensure!(Instant::now() < until, "nobody listens: {name}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(door)
    }

    pub(super) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.pid().context("not ours")?;
        Ok(kill(pid, signal)?)
    }

    fn pid(&self) -> Option<Pid> {
        self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok()).map(Pid::from_raw)
    }

    /// Resident KiB of every nginx below it.
    pub(super) fn resident(&self) -> anyhow::Result<f64> {
        let mut waiting = vec![self.pid().context("not ours")?.as_raw()];
        let mut total = 0.0;
        while let Some(pid) = waiting.pop() {
            let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            waiting.extend(children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
            // elph-proxy spawns from any of its threads.
            for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
                let path = task.path();
                if path.file_name().is_none_or(|name| name.to_string_lossy() == pid.to_string()) {
                    continue;
                }
                let children = std::fs::read_to_string(path.join("children")).unwrap_or_default();
                waiting.extend(children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
            }
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let nginx = status.lines().next().is_some_and(|line| line.ends_with("nginx"));
            let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            if let (true, Some(resident)) = (nginx, resident) {
                total += resident.trim().trim_end_matches("kB").trim().parse::<f64>()?;
            }
        }
        ensure!(total > 0.0, "no nginx is found");
        Ok(total)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let pid = self.pid();
        let Some(child) = &mut self.child else { return };
        // All of them end by that: at once, or when what they serve has ended, at most after their own deadline.
        if let Some(pid) = pid {
            let _ = kill(pid, Signal::SIGTERM);
        }
        let _ = child.wait();
    }
}
