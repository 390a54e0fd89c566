//! nginx as a child process: ask what it can do, test a configuration, start, reload, stop. It runs in a process group of its own, so
//! that a terminal's Ctrl-C ends it by our order alone, and so that workers that outlive their master can be found.

pub mod errors;
pub mod features;
pub mod status;

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

pub use self::features::{Build, Features, Version};
use crate::{config::Nginx, render::Files};

/// How long `nginx -V` and `nginx -t` may take. Host names in certificates' responders are resolved then.
const COMMAND_DEADLINE: Duration = Duration::from_secs(20);
/// How long a start or reload may take until the new configuration answers.
const TAKEN_OVER_DEADLINE: Duration = Duration::from_secs(20);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How long nginx may take to end after it was told to end at once.
const FAST_DEADLINE: Duration = Duration::from_secs(5);

/// Why nginx does not do what it is told.
#[derive(Debug, thiserror::Error)]
pub enum NginxError {
    /// The program cannot be started.
    #[error("{binary} cannot be run")]
    Run {
        /// The program.
        binary: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It does not end.
    #[error("{what} took longer than {}s", COMMAND_DEADLINE.as_secs())]
    Slow {
        /// Which command.
        what: &'static str,
    },
    /// It says nothing that can be understood of itself.
    #[error("{binary} -V says nothing of nginx's version")]
    Unknown {
        /// The program.
        binary: String,
    },
    /// `nginx -t` refuses the configuration.
    #[error("nginx refuses the configuration: {said}")]
    Refused {
        /// What nginx says.
        said: String,
    },
    /// A file of `nginx.directory` cannot be written.
    #[error("{} cannot be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The new configuration is not in force.
    #[error("the new configuration is not in force after {}s; nginx's log says why", TAKEN_OVER_DEADLINE.as_secs())]
    NotTakenOver,
    /// It ended.
    #[error("nginx has ended: {status}")]
    Ended {
        /// How.
        status: String,
    },
}

/// The nginx that runs.
pub struct Running {
    child: Child,
    master: Pid,
    files: Files,
}

/// Asks a program what it can do.
pub async fn probe(binary: &Path) -> Result<Build, NginxError> {
    let output = said(binary, Command::new(binary).arg("-V"), "nginx -V").await?;
    Build::parse(&output.1).ok_or_else(|| NginxError::Unknown { binary: binary.display().to_string() })
}

/// Makes the directory and writes a configuration beside the one in force.
pub fn write_candidate(files: &Files, text: &str) -> Result<(), NginxError> {
    use std::os::unix::fs::DirBuilderExt;
    let directory = &files.directory;
    // Workers of another user must get through to the temporary files.
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(directory);
    made.map_err(|source| NginxError::Write { path: directory.clone(), source })?;
    std::fs::write(&files.candidate, text).map_err(|source| NginxError::Write { path: files.candidate.clone(), source })
}

/// Lets nginx test a configuration file.
pub async fn test(nginx: &Nginx, features: &Features, configuration: &Path) -> Result<(), NginxError> {
    let mut command = Command::new(&nginx.binary);
    arguments(&mut command, &nginx.directory, features, configuration);
    let (well, said) = said(&nginx.binary, command.arg("-t").arg("-q"), "nginx -t").await?;
    if well { Ok(()) } else { Err(NginxError::Refused { said: one_line(&said) }) }
}

/// Puts the tested candidate into the place of the configuration.
pub fn adopt_candidate(files: &Files) -> Result<(), NginxError> {
    std::fs::rename(&files.candidate, &files.configuration)
        .map_err(|source| NginxError::Write { path: files.configuration.clone(), source })
}

/// Ends what an earlier proxy has left running, so that the addresses are free.
pub async fn end_leftover(files: &Files) {
    let Ok(text) = std::fs::read_to_string(&files.pid) else { return };
    let Ok(pid) = text.trim().parse::<i32>() else { return };
    let ours = |pid: i32| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let configuration = files.configuration.display().to_string();
        String::from_utf8_lossy(&command).contains(&configuration)
    };
    if pid <= 1 || !ours(pid) {
        return;
    }
    tracing::warn!(pid, "an nginx of an earlier run is still there, ending it");
    let master = Pid::from_raw(pid);
    for (signal, patience) in [(Signal::SIGQUIT, Duration::from_secs(2)), (Signal::SIGTERM, FAST_DEADLINE)] {
        let _ = kill(master, signal);
        let until = Instant::now() + patience;
        while Instant::now() < until {
            if !ours(pid) {
                return;
            }
            sleep(LOOK).await;
        }
    }
    let _ = killpg(master, Signal::SIGKILL);
}

impl Running {
    /// Starts nginx with the configuration in place, and waits until it answers with this generation.
    pub async fn start(nginx: &Nginx, features: &Features, generation: u64) -> Result<Self, NginxError> {
        let files = Files::of(&nginx.directory);
        // A killed nginx leaves its socket, and the next cannot bind it.
        let _ = std::fs::remove_file(&files.status);
        let _ = std::fs::remove_file(&files.https);
        let mut command = Command::new(&nginx.binary);
        arguments(&mut command, &nginx.directory, features, &files.configuration);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        let run = |source| NginxError::Run { binary: nginx.binary.display().to_string(), source };
        let mut child = command.spawn().map_err(run)?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(errors::follow(stderr));
        }
        let mut running = Self { child, master: Pid::from_raw(pid), files };
        running.taken_over(generation).await?;
        Ok(running)
    }

    /// Lets nginx read its configuration again, and waits until it answers with this generation.
    pub async fn reload(&mut self, generation: u64) -> Result<(), NginxError> {
        self.signal(Signal::SIGHUP);
        self.taken_over(generation).await
    }

    /// Lets nginx open its log anew.
    pub fn reopen_log(&self) {
        self.signal(Signal::SIGUSR1);
    }

    /// The master's process id.
    pub fn pid(&self) -> i32 {
        self.master.as_raw()
    }

    /// Waits for the end, which nobody has asked for.
    pub async fn ended(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }

    /// After the master has gone, its workers still hold the addresses.
    pub async fn sweep(&self) {
        for signal in [Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGKILL] {
            let until = Instant::now() + Duration::from_secs(1);
            while killpg(self.master, signal).is_ok() {
                if Instant::now() > until {
                    break;
                }
                sleep(LOOK).await;
            }
        }
    }

    /// Ends nginx: running requests may end until `patience` is over or `at_once` comes.
    pub async fn stop(mut self, patience: Duration, at_once: impl Future<Output = ()>) {
        self.signal(Signal::SIGQUIT);
        let graceful = tokio::select! {
            ended = timeout(patience, self.child.wait()) => ended.is_ok(),
            () = at_once => false,
        };
        if !graceful {
            tracing::warn!("requests are cut off");
            self.signal(Signal::SIGTERM);
            if timeout(FAST_DEADLINE, self.child.wait()).await.is_err() {
                let _ = killpg(self.master, Signal::SIGKILL);
                let _ = self.child.wait().await;
            }
        }
        let _ = std::fs::remove_file(&self.files.status);
    }

    fn signal(&self, signal: Signal) {
        // A child that was not waited for keeps its number, so it is nobody else's.
        if self.master.as_raw() > 1 {
            let _ = kill(self.master, signal);
        }
    }

    async fn taken_over(&mut self, generation: u64) -> Result<(), NginxError> {
        let until = Instant::now() + TAKEN_OVER_DEADLINE;
        while Instant::now() < until {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(NginxError::Ended { status: status.to_string() });
            }
            if status::generation(&self.files.status).await == Some(generation) {
                return Ok(());
            }
            sleep(LOOK).await;
        }
        Err(NginxError::NotTakenOver)
    }
}

fn arguments(command: &mut Command, directory: &Path, features: &Features, configuration: &Path) {
    command.arg("-p").arg(directory).arg("-c").arg(configuration);
    if features.error_log_argument {
        command.arg("-e").arg("stderr");
    }
}

/// Whether a command ended well, and what it said.
async fn said(binary: &Path, command: &mut Command, what: &'static str) -> Result<(bool, String), NginxError> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = timeout(COMMAND_DEADLINE, output).await.map_err(|_| NginxError::Slow { what })?;
    let output = output.map_err(|source| NginxError::Run { binary: binary.display().to_string(), source })?;
    let mut text = String::from_utf8_lossy(&output.stderr).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stdout));
    Ok((output.status.success(), text))
}

/// nginx's complaints without its summary, one after another.
fn one_line(said: &str) -> String {
    let lines = said.lines().filter(|line| !line.ends_with("test failed") && !line.trim().is_empty());
    let lines: Vec<&str> = lines.map(|line| line.strip_prefix("nginx: ").unwrap_or(line)).take(5).collect();
    lines.join("; ")
}
