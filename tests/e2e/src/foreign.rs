//! Clients of other authors, as programs beside the agent. Where they cannot be installed their tests are left out, and say so;
//! `make test` requires them.

use std::{path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    task::JoinHandle,
};

use crate::{PATIENCE, Stack};

/// How long one foreign client may take for everything.
const WHOLE: Duration = Duration::from_secs(60);

/// A client that runs. Dropping it kills it.
pub struct Foreign {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    errors: JoinHandle<String>,
    said: String,
}

/// The repository.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A tool that `packaging/dev-setup test` installs; nothing, and a line that says so, where it is missing and may be.
pub fn tool(name: &str) -> anyhow::Result<Option<PathBuf>> {
    let path = root().join("target/tools").join(name);
    if path.exists() {
        return Ok(Some(path));
    }
    ensure!(std::env::var_os("ELPH_TEST_TOOLS").is_none(), "{} is required here: packaging/dev-setup test", path.display());
    #[expect(clippy::print_stdout, reason = "a test tells what it left out")]
    {
        println!("left out: {} is not installed", path.display());
    }
    Ok(None)
}

/// One of the Python clients of `tests/e2e/python`; nothing where there is no Python for them.
pub fn python(script: &str) -> anyhow::Result<Option<Command>> {
    let Some(python) = tool("venv/bin/python")? else { return Ok(None) };
    let mut command = Command::new(python);
    // gRPC's own log on standard error would only be in the way of what failed.
    command.env("GRPC_VERBOSITY", "NONE").arg("-u").arg(root().join("tests/e2e/python").join(script));
    Ok(Some(command))
}

/// buf asking the agent's Unix socket by reflection.
pub fn buf(stack: &Stack) -> anyhow::Result<Option<Buf>> {
    let Some(program) = tool("bin/buf")? else { return Ok(None) };
    Ok(Some(Buf { program, socket: stack.directory.join("grpc.sock") }))
}

/// Runs it to its end; what it said. It must succeed.
pub async fn run(command: Command) -> anyhow::Result<String> {
    Foreign::start(command)?.finish().await
}

// === impl Foreign ===

impl Foreign {
    /// Starts it.
    pub fn start(mut command: Command) -> anyhow::Result<Self> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        let mut stderr = child.stderr.take().context("no standard error")?;
        // Read beside the other, so that neither pipe fills up.
        let errors = tokio::spawn(async move {
            let mut bytes = Vec::new();
            let read = stderr.read_to_end(&mut bytes).await;
            read.map_or_else(|error| error.to_string(), |_| String::from_utf8_lossy(&bytes).into_owned())
        });
        Ok(Self { child, lines, errors, said: String::new() })
    }

    /// Waits until it says this line.
    pub async fn says(&mut self, line: &str) -> anyhow::Result<()> {
        let read = async {
            while let Some(next) = self.lines.next_line().await? {
                self.said.push_str(&next);
                self.said.push('\n');
                if next == line {
                    return Ok(());
                }
            }
            bail!("it ended")
        };
        let Err(error) = tokio::time::timeout(PATIENCE, read).await.context("not in time").and_then(|read| read) else { return Ok(()) };
        self.child.kill().await?;
        bail!("the client never said '{line}': {error:#}\n{}{}", self.said, (&mut self.errors).await?)
    }

    /// Waits for its end; what it said. It must succeed.
    pub async fn finish(mut self) -> anyhow::Result<String> {
        let end = async {
            while let Some(next) = self.lines.next_line().await? {
                self.said.push_str(&next);
                self.said.push('\n');
            }
            anyhow::Ok(self.child.wait().await?)
        };
        let ended = tokio::time::timeout(WHOLE, end).await;
        if ended.is_err() {
            self.child.kill().await?;
        }
        let errors = self.errors.await?;
        let status = ended.with_context(|| format!("the client took too long:\n{}{errors}", self.said))??;
        ensure!(status.success(), "the client ended with {status}:\n{}{errors}", self.said);
        Ok(self.said)
    }
}

/// `buf curl` with what it is always given.
pub struct Buf {
    program: PathBuf,
    socket: PathBuf,
}

// === impl Buf ===

impl Buf {
    /// With these arguments, a path behind them.
    pub fn command(&self, arguments: &[&str], path: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["curl", "--protocol", "grpc", "--http2-prior-knowledge", "--unix-socket"]).arg(&self.socket);
        command.args(arguments).arg(format!("http://localhost{path}"));
        command
    }

    /// Calls a method and reads its answer.
    pub async fn ask(&self, method: &str, request: &Value) -> anyhow::Result<Value> {
        let text = run(self.command(&["--data", &request.to_string()], &format!("/elph.agent.v1.{method}"))).await?;
        serde_json::from_str(&text).with_context(|| format!("{method}: no JSON: {text}"))
    }
}
