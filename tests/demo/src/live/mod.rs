//! The demo itself: says what runs where and what to try, then shows what happens until Ctrl-C.

mod people;
mod screen;
mod story;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use e2e::pushes::register;
use elph_proto::v1::{Conference, push_service_client::PushServiceClient};
use serde_json::json;

use self::{people::People, screen::Screen};
use crate::{
    report::{complain, line, told},
    seen::Seen,
    stage::{DOMAIN, Stage, StageOptions},
};

/// How the simulator's phones behave: they answer after a while.
pub(crate) const PHONES: &[&str] = &["--answer-after-ms", "1500"];
/// Whose phones get pushes.
const PUSHED: std::ops::Range<u32> = 1021..1055;
/// How often the programs are looked after.
const WATCH: Duration = Duration::from_millis(500);

/// How often is looked whether a provider has got something.
const PUSHES: Duration = Duration::from_millis(100);

/// Runs until `stop`, then ends everything.
pub(crate) async fn run(options: StageOptions, json: bool, mut stop: impl Future<Output = ()> + Unpin) -> ExitCode {
    let seed = options.seed;
    let started = tokio::select! {
        started = Stage::start(options) => started,
        () = &mut stop => return ExitCode::SUCCESS,
    };
    let mut stage = match started {
        Ok(stage) => stage,
        Err(error) => {
            complain(&format!("{error:#}"));
            return ExitCode::FAILURE;
        }
    };
    let mut screen = Screen::new(json);
    let shown = tokio::select! {
        shown = show(&mut stage, &mut screen, seed) => shown,
        () = stop => Ok(()),
    };
    screen.close();
    let ended = match shown {
        Ok(()) => stage.stop().await,
        Err(error) => Err(error.context(format!("the logs are kept in {}", stage.stop_and_keep().await.display()))),
    };
    match ended {
        Ok(()) if json => line(&json!({ "ended": true }).to_string()),
        Ok(()) => line("Suite, agent and switch have ended, the directory is removed."),
        Err(error) => {
            complain(&told(&error));
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

async fn show(stage: &mut Stage, screen: &mut Screen, seed: u64) -> anyhow::Result<()> {
    let channel = stage.agent().channel();
    let mut seen = Seen::start(channel.clone()).await?;
    let mut people = People::new(stage.control(), channel, seed);
    let conference = people.open_conference().await.context("open the conference")?;
    let conference = seen.until("a conference", |seen| seen.conference(&conference).cloned()).await?;
    greet(stage, screen, seed, &conference)?;
    pushed_to(stage).await.context("register the phones that get pushes")?;
    let mut pushed = 0;
    let life = people.live();
    tokio::pin!(life);
    let mut look = tokio::time::interval(WATCH);
    let mut pushes = tokio::time::interval(PUSHES);
    loop {
        let before = seen.view.clone();
        tokio::select! {
            event = seen.next() => {
                let story = event?.and_then(|event| story::tell(&before, &event));
                screen.show(&story::now(&seen.view), story.as_deref());
            }
            _ = pushes.tick() => for push in stage.providers().sim.arrived_after(pushed) {
                pushed = push.number;
                if let Some(story) = story::push(&push) {
                    screen.show(&story::now(&seen.view), Some(&story));
                }
            },
            _ = look.tick() => if let Some(what) = stage.fallen() { bail!(what) },
            error = &mut life => return Err(error),
        }
    }
}

/// Everybody who calls has an iPhone or an Android.
async fn pushed_to(stage: &Stage) -> anyhow::Result<()> {
    let client = PushServiceClient::new(stage.agent().channel());
    for number in PUSHED {
        let app = if number.is_multiple_of(2) { "ios" } else { "android" };
        register(client.clone(), stage.providers(), DOMAIN, &number.to_string(), app, u64::from(number)).await?;
    }
    Ok(())
}

// === What runs where ===

fn greet(stage: &Stage, screen: &Screen, seed: u64, conference: &Conference) -> anyhow::Result<()> {
    let (control, http) = (stage.control().address(), stage.agent().http());
    let (socket, directory) = (stage.socket(), stage.path().display());
    let account = stage.suite().account();
    let elphctl = shortest(&e2e::binary("elphctl")?);
    let lines = to_try(&conference.id);
    if screen.is_json() {
        let commands: Vec<String> = lines.iter().map(|(command, _)| command_line(&elphctl, &socket, command)).collect();
        line(
            &json!({
                "seed": seed, "domain": DOMAIN, "socket": socket, "control": format!("http://{control}/"), "http": format!("http://{http}"), "account": account,
                "directory": stage.path(), "conference": conference.id, "try": commands,
            })
            .to_string(),
        );
        return Ok(());
    }
    line(&format!(
        "\nElph at work: a simulated ECSS-10 switch, the real elph-agent and elph-server,
on this machine only. People call each other, and a conference is there to
moderate.

  switch  ssw-sim, dialect of seed {seed} (the same again: ARGS=\"--seed {seed}\")
          domain {DOMAIN}, phones 1001 to 1060
          control API  http://{control}/
  agent   elph-agent, gRPC on a Unix socket
          socket       {}
          health       http://{http}/readyz
          metrics      http://{http}/metrics
  pushes  Apple and Google, simulated: even numbers from 1022 have an iPhone,
          odd ones an Android
  files   {directory} (configuration, logs; removed at the end)
  suite   elph-server, sign-in and status on one port; its certificate is the
          demo's own (authority.pem among the files), the browser warns of it
          sign in      with number 1001 and password p1001, up to 1060, p1060
          {account}

To try in another terminal, in this directory:
",
        socket.display()
    ));
    for (command, meaning) in lines {
        if !meaning.is_empty() {
            line(&format!("  # {meaning}"));
        }
        line(&format!("  {}", wrapped(&elphctl, &socket, &command)));
    }
    line("\nWhat happens now (Ctrl-C ends everything):\n");
    Ok(())
}

/// Commands of `elphctl` with what they are for; without: the same as the one before.
fn to_try(conference: &str) -> Vec<(String, &'static str)> {
    let id: String = conference.chars().take(4).collect();
    vec![
        ("links".to_owned(), "look around"),
        ("conf list".to_owned(), ""),
        (format!("conf get {id}"), ""),
        ("calls list".to_owned(), ""),
        ("directory subscribers".to_owned(), ""),
        ("events watch".to_owned(), "every change as it happens"),
        (format!("conf invite {id} 1019"), "moderate: 1019 answers by itself, people react"),
        (format!("conf mute {id} 1019"), ""),
        (format!("conf mute-all {id} --may-unmute no"), ""),
        (format!("conf floor list {id}"), ""),
        (format!("conf lock {id}"), ""),
        (format!("conf unlock {id}"), ""),
        ("calls make 1051 1052".to_owned(), "click to call: both answer by themselves, 1052's iPhone gets a push"),
        ("push apps".to_owned(), "pushes"),
        ("push devices 1052".to_owned(), ""),
    ]
}

fn command_line(elphctl: &Path, socket: &Path, command: &str) -> String {
    format!("{} --socket {} {command}", elphctl.display(), socket.display())
}

/// In one line if it fits, else in two that a shell takes for one.
fn wrapped(elphctl: &Path, socket: &Path, command: &str) -> String {
    let whole = command_line(elphctl, socket, command);
    if whole.chars().count() <= 78 {
        return whole;
    }
    format!("{} --socket {} \\\n      {command}", elphctl.display(), socket.display())
}

/// The path from here, if it is below.
fn shortest(path: &Path) -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).to_owned()
}
