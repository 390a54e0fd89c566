//! The real process: signals, systemd's notifications, reloads.

use std::{
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
};

use nix::sys::signal::Signal;

use crate::support::{Agent, DEADLINE, Files, WHOLE, get};

/// systemd's end of the notification socket.
struct Systemd {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Systemd {
    fn new(directory: &Path) -> Self {
        let path = directory.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Self { socket, path }
    }

    /// The next notification that contains a text.
    fn told(&self, wanted: &str) -> String {
        let mut seen = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.contains(wanted) {
                return text;
            }
            seen.push(text);
        }
        panic!("no '{wanted}' among {seen:?}");
    }
}

#[test]
fn systemd_is_told_of_start_reload_watchdog_and_stop() {
    let files = Files::new(WHOLE);
    let systemd = Systemd::new(files.directory.path());
    let socket = systemd.path.display().to_string();
    let mut agent = Agent::start(&files.config, &[("NOTIFY_SOCKET", &socket), ("WATCHDOG_USEC", "200000")]);
    assert!(systemd.told("READY=1").contains("STATUS="));
    systemd.told("WATCHDOG=1");
    systemd.told("WATCHDOG=1");
    agent.signal(Signal::SIGHUP);
    let reloading = systemd.told("RELOADING=1");
    let time = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
    assert!(time.parse::<u64>().unwrap() > 0);
    systemd.told("READY=1");
    agent.signal(Signal::SIGTERM);
    systemd.told("STOPPING=1");
    assert_eq!(agent.wait().code(), Some(0));
}

#[test]
fn health_is_served_and_sigterm_and_sigint_end_with_0() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let files = Files::new(WHOLE);
        let mut agent = Agent::start(&files.config, &[]);
        let health = agent.health();
        assert_eq!(get(health, "/healthz").0, 200);
        assert_eq!(get(health, "/readyz").0, 503, "no link can be up yet");
        let (status, metrics) = get(health, "/metrics");
        assert!(status == 200 && metrics.ends_with("# EOF\n"), "{metrics}");
        assert!(metrics.contains("elph_agent_build_info{version="), "{metrics}");
        agent.line("\"started\"");
        agent.signal(signal);
        agent.line("drained");
        assert_eq!(agent.wait().code(), Some(0));
    }
}

#[test]
fn sighup_applies_what_can_be_applied_and_names_what_needs_a_restart() {
    let files = Files::new(WHOLE);
    let agent = Agent::start(&files.config, &[]);
    let health = agent.health();
    agent.line("\"started\"");

    // A bad file keeps the old configuration and says why.
    std::fs::write(&files.config, WHOLE.replace("[log]", "[lgo]")).unwrap();
    agent.signal(Signal::SIGHUP);
    let line = agent.line("the old one stays in force");
    assert!(line.contains("elph-agent.toml:24: lgo: unknown key (did you mean log?)"), "{line}");

    // So does a file that names another which is not there.
    std::fs::write(&files.config, WHOLE.replace("password = \"hunter2\"", "password_file = \"/nonexistent\"")).unwrap();
    agent.signal(Signal::SIGHUP);
    let line = agent.line("the old one stays in force");
    assert!(line.contains("switch.terminal.password_file: /nonexistent cannot be read"), "{line}");

    let grant = "[[grants]]\nname = \"x\"\nwho = [{ uid = 1 }]\ndomains = [\"*\"]\nscopes = [\"calls\"]\n[shutdown]\ndrain = \"3s\"\n[log]";
    std::fs::write(&files.config, WHOLE.replace("[log]", grant)).unwrap();
    for _ in 0..2 {
        agent.signal(Signal::SIGHUP);
        let line = agent.line("these changed keys take effect after a restart");
        assert!(line.contains("shutdown.drain") && !line.contains("grants"), "the restart stays due: {line}");
    }
    let (_, metrics) = get(health, "/metrics");
    assert!(metrics.contains("elph_agent_config_reloads_total{outcome=\"refused\"} 2"), "{metrics}");

    // The new filter silences the line that tells of the change itself, and the next warning is still heard.
    std::fs::write(&files.config, WHOLE.replace("[log]", "[shutdown]\ndrain = \"3s\"\n[log]\nfilter = \"warn\"")).unwrap();
    agent.signal(Signal::SIGHUP);
    agent.line("these changed keys take effect after a restart");
    agent.signal(Signal::SIGHUP);
    agent.line("these changed keys take effect after a restart");
    let (_, metrics) = get(health, "/metrics");
    assert!(metrics.contains("elph_agent_config_reloads_total{outcome=\"applied\"}"), "{metrics}");
    assert!(agent.pid() > 0);
}
