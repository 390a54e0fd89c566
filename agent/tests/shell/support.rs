//! What the tests share: a configuration that is whole, the real binary, and waits with a deadline.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use elph_agent::config::{Config, Loaded, Refused};
use tempfile::TempDir;

/// How long anything may take before a test fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A configuration that is accepted, without any file besides its own.
pub(crate) const WHOLE: &str = r#"[switch]
dialect = "sim"

[[switch.domains]]
name = "biysk.local"

[[switch.domains]]
name = "barnaul.local"

[switch.terminal]
nodes = ["127.0.0.1:9999"]
login = "elph"
password = "hunter2"

[calls]
backend = "poll"

[grpc]
socket = "/nonexistent/grpc.sock"

[http]
listen = "127.0.0.1:0"

[log]
format = "json"
"#;

/// A directory with a configuration file.
pub(crate) struct Files {
    pub(crate) directory: TempDir,
    pub(crate) config: PathBuf,
}

impl Files {
    pub(crate) fn new(config: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("elph-agent.toml");
        std::fs::write(&path, config).unwrap();
        Self { directory, config: path }
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

/// Reads a text as the configuration, with an environment.
pub(crate) fn load_with(text: &str, environment: &[(&str, &str)]) -> Result<Loaded, Refused> {
    let files = Files::new(text);
    let environment = environment.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Config::load_with(&files.config, environment)
}

pub(crate) fn load(text: &str) -> Config {
    load_with(text, &[]).unwrap().config
}

pub(crate) fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_elph-agent"));
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Where a running agent keeps what it writes: beside its configuration.
pub(crate) fn places(directory: &Path) -> [(&'static str, PathBuf); 2] {
    [("ELPH_AGENT__GRPC__SOCKET", directory.join("grpc.sock")), ("ELPH_AGENT__JOURNAL__DIRECTORY", directory.join("journal"))]
}

/// The running agent. Killed when dropped.
pub(crate) struct Agent {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Agent {
    pub(crate) fn start(config: &Path, environment: &[(&str, &str)]) -> Self {
        let directory = config.parent().unwrap();
        let mut child =
            binary().arg("run").arg("--config").arg(config).envs(places(directory)).envs(environment.iter().copied()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::sync_channel(10_000);
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok()));
        Self { child, lines }
    }

    /// The next log line that contains a text.
    pub(crate) fn line(&self, wanted: &str) -> String {
        let begun = Instant::now();
        let mut seen = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(DEADLINE.saturating_sub(begun.elapsed())) {
            if line.contains(wanted) {
                return line;
            }
            seen.push(line);
        }
        panic!("no line with '{wanted}' among {seen:#?}");
    }

    /// Where health is served, once it is.
    pub(crate) fn health(&self) -> SocketAddr {
        let line: serde_json::Value = serde_json::from_str(&self.line("metrics and health are served")).unwrap();
        line["address"].as_str().unwrap().parse().unwrap()
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        // Its standard error closes when it ends.
        let begun = Instant::now();
        loop {
            match self.lines.recv_timeout(DEADLINE.saturating_sub(begun.elapsed())) {
                Ok(_) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return self.child.wait().unwrap(),
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("the agent does not end"),
            }
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An HTTP GET: status and body.
pub(crate) fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}
