//! A real RabbitMQ for one test: on ports of its own, with what it keeps in a directory that goes with the test.

use std::{
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail};
use elph_kit::bus::BusSettings;
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use tempfile::TempDir;
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use crate::{required, say};

/// Debian's program itself; the one in the path changes the user.
const PROGRAM: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
/// How long it may take to start, on a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(90);
/// Times that other ports are tried.
const TIMES: usize = 3;

/// A RabbitMQ with nothing in it.
pub struct TestBroker {
    /// How it is reached.
    pub settings: BusSettings,
    /// How it is reached over TLS.
    pub encrypted: BusSettings,
    directory: TempDir,
    /// Of AMQP, of Erlang's distribution, of its port mapper, of AMQP over TLS.
    ports: [u16; 4],
    mapper: Child,
    server: Option<Child>,
}

impl TestBroker {
    /// Starts one. None: RabbitMQ is not installed and `ELPH_TEST_TOOLS` is not `required`.
    pub async fn start() -> anyhow::Result<Option<Self>> {
        if !Path::new(PROGRAM).exists() {
            if required() {
                bail!("RabbitMQ is not installed; run: packaging/dev-setup test");
            }
            say("skipped with RabbitMQ: it is not installed");
            return Ok(None);
        }
        let mut last = None;
        for _ in 0..TIMES {
            let mut broker = Self::prepared()?;
            match broker.resume().await {
                Ok(()) => return Ok(Some(broker)),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("it was not tried")?)
    }

    /// One that is not started yet; `resume` starts it.
    pub fn prepared() -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let place = directory.path();
        let mut sockets = Vec::new();
        for _ in 0..4 {
            sockets.push(TcpListener::bind("127.0.0.1:0")?);
        }
        let mut ports = [0; 4];
        for (port, socket) in ports.iter_mut().zip(&sockets) {
            *port = socket.local_addr()?.port();
        }
        drop(sockets);
        let [amqp, _, mapper, tls] = ports;
        let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
        let (certificate, key) = (own.cert.pem(), own.signing_key.serialize_pem());
        let (certificate_file, key_file) = (place.join("certificate.pem"), place.join("key.pem"));
        let config = format!(
            "listeners.ssl.1 = 127.0.0.1:{tls}\nssl_options.cacertfile = {0}\nssl_options.certfile = {0}\nssl_options.keyfile = {1}\n\
             ssl_options.verify = verify_none\nssl_options.fail_if_no_peer_cert = false\n",
            certificate_file.display(),
            key_file.display()
        );
        let cookie = "a-test-of-its-own";
        for (name, text) in [
            ("rabbitmq.conf", config.as_str()),
            ("certificate.pem", &certificate),
            ("key.pem", &key),
            ("plugins", "[].\n"),
            (".erlang.cookie", cookie),
        ] {
            std::fs::write(place.join(name), text)?;
        }
        std::fs::set_permissions(place.join(".erlang.cookie"), std::fs::Permissions::from_mode(0o400))?;
        // Started by us: one that RabbitMQ starts would outlive the test.
        let mapper = Command::new("epmd")
            .args(["-port", &mapper.to_string(), "-address", "127.0.0.1"])
            .env("HOME", place)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let settings = BusSettings { url: Some(format!("amqp://guest:guest@127.0.0.1:{amqp}/%2F")), ..BusSettings::default() };
        let url = Some(format!("amqps://guest:guest@127.0.0.1:{tls}/%2F"));
        let encrypted = BusSettings { url, ca_file: Some(certificate_file), ..BusSettings::default() };
        Ok(Self { settings, encrypted, directory, ports, mapper, server: None })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        let [amqp, ..] = self.ports;
        SocketAddr::from(([127, 0, 0, 1], amqp))
    }

    /// Starts it, with what was in it.
    pub async fn resume(&mut self) -> anyhow::Result<()> {
        let [amqp, distribution, mapper, _] = self.ports.map(|port| port.to_string());
        let place = self.directory.path();
        let log = std::fs::OpenOptions::new().create(true).append(true).open(place.join("output"))?;
        let server = Command::new(PROGRAM)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", place)
            .envs([
                ("RABBITMQ_NODENAME", "test@localhost"),
                ("ERL_EPMD_ADDRESS", "127.0.0.1"),
                ("ERL_EPMD_PORT", &mapper),
                ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1"),
                ("RABBITMQ_NODE_PORT", &amqp),
                ("RABBITMQ_DIST_PORT", &distribution),
                ("RABBITMQ_CONF_ENV_FILE", "/dev/null"),
                // Few threads that do not spin: there are others on the machine.
                ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+S 2:2 +sbwt none"),
            ])
            .env("RABBITMQ_MNESIA_BASE", place.join("mnesia"))
            .env("RABBITMQ_LOG_BASE", place.join("log"))
            .env("RABBITMQ_PID_FILE", place.join("pid"))
            .env("RABBITMQ_CONFIG_FILE", place.join("rabbitmq"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", place.join("plugins"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A group of its own, so that nothing of it is left.
            .process_group(0)
            .spawn()?;
        let address = self.address();
        let server = self.server.insert(server);
        let began = Instant::now();
        while !answers(address).await {
            if began.elapsed() > PATIENCE || server.try_wait()?.is_some() {
                let output = std::fs::read_to_string(self.directory.path().join("output")).unwrap_or_default();
                bail!("RabbitMQ did not start: {output}");
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Kills it, as a power cut would; `resume` brings it back.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut server) = self.server.take() {
            killpg(group(&server).context("RabbitMQ has ended by itself")?, Signal::SIGKILL)?;
            server.wait().await?;
        }
        Ok(())
    }
}

impl Drop for TestBroker {
    fn drop(&mut self) {
        if let Some(group) = self.server.as_ref().and_then(group) {
            let _gone = killpg(group, Signal::SIGKILL);
        }
        if let Some(mapper) = self.mapper.id().and_then(|id| i32::try_from(id).ok()) {
            let _gone = kill(Pid::from_raw(mapper), Signal::SIGKILL);
        }
    }
}

fn group(server: &Child) -> Option<Pid> {
    server.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw)
}

/// Whether it answers a client that greets it in an old version: with the version that it speaks (AMQP 0-9-1, 4.2.2).
async fn answers(address: SocketAddr) -> bool {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"AMQP\x00\x00\x00\x00").await?;
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).await?;
        std::io::Result::Ok(answer.starts_with(b"AMQP"))
    };
    matches!(timeout(Duration::from_secs(2), asked).await, Ok(Ok(true)))
}
