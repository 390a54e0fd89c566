//! `elphctl push send-many`: a file's lines go out on one stream. The file is read twice, first to check it: nothing is sent of one that
//! has a wrong line. Requests are named by what they say, so that a repetition sends nothing twice; what was answered is not sent again.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
    time::Duration,
};

use elph_proto::v1::{PushContent, PushOrder, PushUser, SendPushesRequest, SendPushesResponse, push_order::Target};
use tokio::{sync::mpsc, task, time};
use tokio_stream::wrappers::ReceiverStream;
use uuid::Uuid;

use super::{Session, tuned};
use crate::{
    change::Change,
    cli::{push::SendMany, value},
    connect::lost,
    failure::Failure,
    output::{from_json, note},
    render::{self, Tone},
    run::follow::{end_in_any_case, interrupted},
};

/// Requests that are out without an answer.
const OUT: usize = 256;
/// Longest line: an order with the largest payload of every provider, escaped.
const LINE: u64 = 64 << 10;
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(2);
/// Wrong lines that are listed.
const LISTED: usize = 20;

/// What the lines of the file are.
#[derive(Clone)]
enum Kind {
    /// Orders in JSON.
    Orders,
    /// Aliases that get this, its target aside.
    Aliases { order: Box<PushOrder>, apps: Vec<String> },
}

/// What makes requests from lines.
#[derive(Clone)]
struct Maker {
    kind: Kind,
    domain: String,
    base: String,
}

/// A request and where it stands in the file.
struct Numbered {
    line: u64,
    /// The alias, the device or the topic.
    whom: String,
    request: SendPushesRequest,
}

// === impl Maker ===

impl Maker {
    /// The request of a line; none: the line is empty, or the heading of the aliases.
    fn request(&self, number: u64, line: &str) -> Result<Option<Numbered>, String> {
        // Some editors mark a file as UTF-8 at its beginning.
        let line = if number == 1 { line.trim_start_matches('\u{feff}') } else { line };
        let line = line.trim();
        if line.is_empty() {
            return Ok(None);
        }
        let (mut request, says) = match &self.kind {
            Kind::Orders => (from_json::<SendPushesRequest>("SendPushesRequest", line)?, line),
            Kind::Aliases { order, apps } => {
                let alias = first_column(line);
                if alias.is_empty() {
                    return Err("has no alias in its first column".into());
                }
                if number == 1 && alias.eq_ignore_ascii_case("alias") {
                    return Ok(None);
                }
                let user = PushUser { alias: alias.to_owned(), apps: apps.clone() };
                let order = PushOrder { target: Some(Target::User(user)), ..(**order).clone() };
                (SendPushesRequest { order: Some(order), ..Default::default() }, alias)
            }
        };
        if request.domain.is_empty() {
            request.domain.clone_from(&self.domain);
        }
        if request.request_id.is_empty() {
            let name = format!("{}\n{}\n{says}", self.base, request.domain);
            request.request_id = Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string();
        }
        value::request_id(&request.request_id).map_err(|what| format!("requestId {what}"))?;
        let whom = match request.order.as_ref().and_then(|order| order.target.as_ref()) {
            Some(Target::User(user)) => user.alias.clone(),
            Some(Target::DeviceId(device)) => device.clone(),
            Some(Target::Topic(topic)) => format!("{}{}", topic.topic, topic.condition),
            None => return Err("has no order with a user, a device or a topic".into()),
        };
        Ok(Some(Numbered { line: number, whom, request }))
    }
}

/// The first column of a CSV, without quotes.
fn first_column(line: &str) -> &str {
    let column = match line.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next(),
        None => line.split([',', ';', '\t']).next(),
    };
    column.unwrap_or_default().trim()
}

/// Hands each line of the file to `take` with its number, until that says to stop.
fn lines(path: &Path, mut take: impl FnMut(u64, Result<&str, String>) -> bool) -> io::Result<()> {
    let mut reader = BufReader::new(File::open(path)?);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if io::Read::take(&mut reader, LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let whole = line.len() as u64 != LINE || line.ends_with(b"\n");
        let text = std::str::from_utf8(&line).map_err(|_| "is not UTF-8".to_owned());
        if !whole {
            take(number, Err(format!("is longer than {LINE} bytes")));
            return Ok(());
        }
        if !take(number, text) {
            return Ok(());
        }
    }
    Ok(())
}

/// Counts the requests of a file after a line; or says which lines are wrong.
fn checked(path: &Path, maker: &Maker, after: u64) -> Result<u64, Failure> {
    let shown = path.display();
    let unreadable = |error: io::Error| Failure::Usage(format!("cannot read {shown}: {error}"));
    if !path.metadata().map_err(unreadable)?.is_file() {
        return Err(Failure::Usage(format!("{shown} must be a file: it is read twice, first to check it")));
    }
    let (mut count, mut wrong, mut listed) = (0, 0_u64, String::new());
    let check = |number: u64, line: Result<&str, String>| {
        match line.and_then(|line| maker.request(number, line)) {
            Ok(Some(_)) if number > after => count += 1,
            Ok(_) => {}
            Err(what) => {
                wrong += 1;
                if wrong <= LISTED as u64 {
                    listed.push_str(&format!("\n  line {number}: {what}"));
                }
            }
        }
        true
    };
    lines(path, check).map_err(unreadable)?;
    if wrong > 0 {
        let more = if wrong > LISTED as u64 { "\n  ..." } else { "" };
        return Err(Failure::Usage(format!("{wrong} lines of {shown} are wrong, nothing was sent:{listed}{more}")));
    }
    Ok(count)
}

/// How far it is.
#[derive(Default)]
struct Progress {
    answered: u64,
    pushes: u64,
    nobody: u64,
    refused: u64,
    /// The last line that was answered.
    line: u64,
}

impl Progress {
    fn summary(&self, all: u64) -> String {
        let mut text = format!("{} of {all} orders answered: {} pushes taken on", self.answered, self.pushes);
        if self.nobody > 0 {
            text.push_str(&format!(", {} without a device", self.nobody));
        }
        if self.refused > 0 {
            text.push_str(&format!(", {} refused", self.refused));
        }
        text
    }
}

/// Sends the requests of the file's lines after one, in a thread of its own, as fast as the answers come.
fn feed(
    path: &Path,
    maker: Maker,
    after: u64,
    requests: mpsc::Sender<SendPushesRequest>,
    out: mpsc::Sender<Numbered>,
) -> task::JoinHandle<Result<(), Failure>> {
    let path = path.to_owned();
    task::spawn_blocking(move || {
        let mut changed = None;
        let send = |number: u64, line: Result<&str, String>| {
            if number <= after {
                return true;
            }
            match line.and_then(|line| maker.request(number, line)) {
                Ok(None) => true,
                Ok(Some(numbered)) => {
                    let request = numbered.request.clone();
                    out.blocking_send(numbered).is_ok() && requests.blocking_send(request).is_ok()
                }
                Err(what) => {
                    changed = Some(format!("{} was changed while it was read: line {number} {what}", path.display()));
                    false
                }
            }
        };
        let read = lines(&path, send).map_err(|error| format!("cannot read {}: {error}", path.display()));
        read.and(changed.map_or(Ok(()), Err)).map_err(Failure::Local)
    })
}

impl Session<'_> {
    /// Sends what a file says.
    pub(crate) async fn send_many(&mut self, many: SendMany, content: PushContent) -> Result<(), Failure> {
        let mut change = self.change(&many.repeat);
        let domain = self.changed_domain(many.domain.domain.as_ref(), &mut change).await?;
        let kind = if many.content.is_given() {
            Kind::Aliases { order: Box::new(tuned(None, content, &many.content)?), apps: many.app }
        } else if many.content.is_tuned() || !many.app.is_empty() {
            return Err(Failure::Usage("orders in JSON say this themselves; a list of aliases needs what to send, such as --title".into()));
        } else {
            Kind::Orders
        };
        let maker = Maker { kind, domain, base: change.request_id().to_owned() };
        let (path, after) = (many.file.clone(), many.after_line);
        let checking = {
            let maker = maker.clone();
            task::spawn_blocking(move || checked(&path, &maker, after))
        };
        let all = checking.await.map_err(|error| Failure::Local(error.to_string()))??;
        end_in_any_case();
        let (send, requests) = mpsc::channel(1);
        let (numbered, mut out) = mpsc::channel(OUT);
        let feeding = feed(&many.file, maker, after, send, numbered);
        let mut progress = Progress { line: after, ..Default::default() };
        let sending = self.stream_out(requests, &mut out, &mut progress, all);
        let ended = tokio::select! {
            ended = sending => ended,
            () = interrupted() => Err(Failure::Unavailable("interrupted".into())),
        };
        // The reader of the file stops when nobody takes its requests.
        drop(out);
        let fed = feeding.await.map_err(|error| Failure::Local(error.to_string()))?;
        change.look_with(&["push", "apps"]);
        self.report(fed.and(ended), &progress, all, change)
    }

    /// Sends, and shows each answer.
    async fn stream_out(
        &mut self,
        requests: mpsc::Receiver<SendPushesRequest>,
        out: &mut mpsc::Receiver<Numbered>,
        progress: &mut Progress,
        all: u64,
    ) -> Result<(), Failure> {
        let refused = |status: tonic::Status| Failure::Answer { status: Box::new(status), change: None };
        let mut answers = self.agent.ask(self.agent.push().send_pushes(ReceiverStream::new(requests))).await?;
        let mut tell_at = time::Instant::now() + TELL_EVERY;
        loop {
            let answer = match time::timeout(self.agent.timeout(), answers.message()).await {
                Ok(Ok(Some(answer))) => answer,
                Ok(Ok(None)) if progress.answered == all => return Ok(()),
                Ok(Ok(None)) => return Err(Failure::Unavailable("the agent ended the stream".into())),
                Ok(Err(status)) => return Err(refused(status)),
                Err(_) => return Err(Failure::Unavailable("no answer in time".into())),
            };
            let of = out.recv().await.filter(|numbered| numbered.request.request_id == answer.request_id);
            let of = of.ok_or_else(|| Failure::Local("the agent answered in another order than it was asked".into()))?;
            progress.answered += 1;
            progress.line = of.line;
            progress.pushes += answer.pushes.len() as u64;
            self.show_answer(&answer, &of, progress)?;
            if time::Instant::now() >= tell_at {
                note(&progress.summary(all));
                self.out.flush()?;
                tell_at = time::Instant::now() + TELL_EVERY;
            }
        }
    }

    fn show_answer(&mut self, answer: &SendPushesResponse, of: &Numbered, progress: &mut Progress) -> Result<(), Failure> {
        let was_refused = !answer.refused_reason.is_empty() || !answer.refused_message.is_empty();
        progress.refused += u64::from(was_refused);
        progress.nobody += u64::from(!was_refused && answer.pushes.is_empty());
        if self.out.json {
            return self.out.message("SendPushesResponse", answer);
        }
        if !was_refused {
            return Ok(());
        }
        let texts = [&answer.refused_reason, &answer.refused_message].map(|text| render::clean(text));
        let text = texts.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(": ");
        self.out.toned(&format!("line {}, {}: {text}", of.line, render::clean(&of.whom)), Tone::Bad)
    }

    /// Sums up.
    fn report(&mut self, ended: Result<(), Failure>, progress: &Progress, all: u64, mut change: Change) -> Result<(), Failure> {
        let summary = progress.summary(all);
        if self.out.json {
            note(&summary);
        } else {
            self.out.line(&summary)?;
        }
        let lost_some = |failure: &Failure| match failure {
            Failure::Unavailable(_) | Failure::Unreachable { .. } => true,
            Failure::Answer { status, .. } => lost(status),
            _ => false,
        };
        match ended {
            Ok(()) if progress.refused > 0 => Err(Failure::Refused(format!("{} of {all} orders were refused", progress.refused))),
            Ok(()) => Ok(()),
            Err(failure) => {
                if progress.line > 0 {
                    change.set("--after-line", &progress.line.to_string());
                }
                let change = Box::new(change);
                Err(match failure {
                    failure if lost_some(&failure) => Failure::Unknown { cause: format!("{failure} after line {}", progress.line), change },
                    Failure::Answer { status, .. } => Failure::Answer { status, change: Some(change) },
                    other => other,
                })
            }
        }
    }
}
