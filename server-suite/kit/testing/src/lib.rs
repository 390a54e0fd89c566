//! Real servers for tests: both databases – a SQLite file and a PostgreSQL –, RabbitMQ and OpenLDAP, each of its own, which end with the test.

mod broker;
mod directory;

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail};
use elph_kit::database::{Database, DatabaseSettings};
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

pub use self::{broker::TestBroker, directory::TestDirectory};

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where Debian keeps the server's programs.
const PROGRAMS: &str = "/usr/lib/postgresql";

/// A database for one test, with nothing in it.
pub struct TestDatabase {
    /// `sqlite` or `postgres`, for messages.
    pub name: &'static str,
    /// How it is reached.
    pub settings: DatabaseSettings,
    directory: TempDir,
    server: Option<Child>,
}

impl TestDatabase {
    /// Both of them. Where PostgreSQL is not installed only SQLite, unless `ELPH_TEST_TOOLS=required`.
    pub async fn both() -> anyhow::Result<Vec<Self>> {
        let mut both = vec![Self::sqlite()?];
        match programs() {
            Some(programs) => both.push(Self::postgres(&programs).await?),
            None if required() => {
                bail!("PostgreSQL is not installed; run: packaging/dev-setup test")
            }
            None => say("skipped on PostgreSQL: it is not installed"),
        }
        Ok(both)
    }

    /// A file.
    pub fn sqlite() -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let url = format!("sqlite:{}", directory.path().join("test.db").display());
        let settings = DatabaseSettings { url, ..DatabaseSettings::default() };
        Ok(Self { name: "sqlite", settings, directory, server: None })
    }

    async fn postgres(programs: &Path) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let place = directory.path().display().to_string();
        // The server refuses to run as root.
        if nix::unistd::geteuid().is_root() {
            let postgres = nix::unistd::User::from_name("postgres")?.context("there is no user postgres")?;
            nix::unistd::chown(directory.path(), Some(postgres.uid), Some(postgres.gid))?;
        }
        let data = format!("{place}/data");
        let made = command(programs, directory.path(), "initdb")
            .args(["-D", &data, "-U", "elph", "-A", "trust", "--no-sync", "-E", "UTF8"])
            .output()
            .await?;
        if !made.status.success() {
            bail!("initdb: {}", String::from_utf8_lossy(&made.stderr));
        }
        let url = format!("postgres://elph@localhost/postgres?host={}", place.replace('/', "%2F"));
        let settings = DatabaseSettings { url, ..DatabaseSettings::default() };
        let mut database = Self { name: "postgres", settings, directory, server: None };
        database.start().await?;
        Ok(database)
    }

    /// Starts the server, with what was in it.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        let Some(programs) = programs().filter(|_| self.name == "postgres") else { return Ok(()) };
        let place = self.directory.path();
        let mut command = command(&programs, place, "postgres");
        let data = place.join("data");
        command.arg("-D").arg(data).arg("-k").arg(place).stderr(Stdio::null());
        command.args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=16MB"]);
        self.server = Some(command.spawn()?);
        let began = Instant::now();
        // The socket is there a moment before it is served.
        while let Err(error) = Database::open(&self.settings).await {
            if began.elapsed() > PATIENCE {
                return Err(error).context("the server did not start");
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Opens it.
    pub async fn open(&self) -> anyhow::Result<Database> {
        Ok(Database::open(&self.settings).await?)
    }

    /// Ends the server, as a failure would; `start` brings it back. SQLite has none.
    pub async fn end(&mut self) -> anyhow::Result<()> {
        if let Some(mut server) = self.server.take() {
            let id = server.id().and_then(|id| i32::try_from(id).ok()).context("the server has ended by itself")?;
            // SIGQUIT: at once, without asking the clients.
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), nix::sys::signal::Signal::SIGQUIT)?;
            server.wait().await?;
        }
        Ok(())
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        if let Some(id) = self.server.as_ref().and_then(Child::id).and_then(|id| i32::try_from(id).ok()) {
            let _gone = nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), nix::sys::signal::Signal::SIGQUIT);
        }
    }
}

/// A program of the server, as its own user.
fn command(programs: &Path, directory: &Path, program: &str) -> Command {
    let (program, root) = (programs.join(program), nix::unistd::geteuid().is_root());
    let mut command = Command::new(if root { Path::new("setpriv") } else { &program });
    if root {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(&program);
    }
    command.current_dir(directory).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// The programs of the newest version that is installed.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir(PROGRAMS).ok()?.filter_map(|entry| Some(entry.ok()?.path().join("bin")));
    versions.filter(|bin| bin.join("initdb").exists()).max()
}

fn required() -> bool {
    std::env::var_os("ELPH_TEST_TOOLS").is_some_and(|tools| tools == "required")
}

#[expect(clippy::print_stdout, reason = "a test tells what it left out")]
fn say(text: &str) {
    println!("{text}");
}
