//! nats-server, Debian's: the same payloads to as many subscribers of one subject.

use std::{
    io::{BufRead, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::process::{Child, Command};

use crate::feed::PATIENCE;

const SUBJECT: &str = "events";

/// The server as a process.
pub(crate) struct Nats {
    _child: Child,
    address: SocketAddr,
}

/// A connection that speaks the protocol by hand: what it costs is a write and nothing more.
pub(crate) struct Raw {
    stream: TcpStream,
    scratch: Vec<u8>,
}

impl Nats {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = Command::new(
            ["/usr/sbin/nats-server", "/usr/bin/nats-server"]
                .into_iter()
                .find(|path| std::path::Path::new(path).exists())
                .context("nats-server is not installed; run: make bench, or apt-get install nats-server")?,
        );
        command.args(["--addr", "127.0.0.1", "--port", &address.port().to_string()]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn();
        let child = child.context("start nats-server")?;
        let began = Instant::now();
        while TcpStream::connect(address).is_err() {
            if began.elapsed() > PATIENCE {
                bail!("nats-server did not start");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(Self { _child: child, address })
    }

    /// A subscriber with a connection of its own.
    pub(crate) async fn subscribe(&self) -> anyhow::Result<impl Stream<Item = anyhow::Result<Bytes>> + Send + Unpin + use<>> {
        let client = async_nats::connect(self.address.to_string()).await.context("connect to nats-server")?;
        let subscriber = client.subscribe(SUBJECT).await?;
        client.flush().await?;
        // The client lives as long as its stream.
        Ok(subscriber.map(move |message| {
            let _kept = &client;
            Ok(message.payload)
        }))
    }

    /// A subscriber that never reads.
    pub(crate) fn stuck(&self) -> anyhow::Result<Raw> {
        let mut raw = self.raw()?;
        raw.stream.write_all(format!("SUB {SUBJECT} 1\r\n").as_bytes())?;
        Ok(raw)
    }

    pub(crate) fn publisher(&self) -> anyhow::Result<Raw> {
        self.raw()
    }

    fn raw(&self) -> anyhow::Result<Raw> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        let mut info = String::new();
        BufReader::new(stream.try_clone()?).read_line(&mut info)?;
        stream.write_all(b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n")?;
        Ok(Raw { stream, scratch: Vec::new() })
    }
}

impl Raw {
    pub(crate) fn send(&mut self, frame: &[u8]) -> anyhow::Result<()> {
        self.scratch.clear();
        write!(self.scratch, "PUB {SUBJECT} {}\r\n", frame.len())?;
        self.scratch.extend_from_slice(frame);
        self.scratch.extend_from_slice(b"\r\n");
        self.stream.write_all(&self.scratch).context("nats-server takes no messages")
    }
}
