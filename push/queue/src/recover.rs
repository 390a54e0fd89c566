//! What waits after a start: the files are read in their order, nothing before a torn or damaged place is lost, and an attempt that began
//! and has no outcome is repeated.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use push_core::{AppName, PushId};

use crate::{
    core::{Core, Hashes, deadline},
    index::{New, Place, Stage, Ticket},
    life::State,
    log::{Log, OpenError, records_begin},
    record::{BEGUN, Brief, CARRIED, ENDED, Progress, RETRIED, Record, Records, STORED},
};

/// Files of the history in which ended pushes are looked for, so that their repetitions are known.
const HISTORY: usize = 2;

/// What was found when the queue was opened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovered {
    /// Pushes that wait; among them those whose deadlines have passed, which are counted as expired next.
    pub waiting: usize,
    /// Of these: an attempt had begun and its outcome is not known. They are sent again.
    pub possible_duplicates: usize,
    /// Damaged records that were stepped over.
    pub damaged: usize,
    /// Octets of a last write that was torn.
    pub torn: usize,
    /// Files that were read.
    pub files: usize,
    /// How long it took.
    pub took: Duration,
    /// Applications that have no sender, and how many pushes wait for one.
    pub without_sender: Vec<(AppName, usize)>,
}

/// Reads the files into the state.
pub(crate) fn recover(log: &Log, core: &mut Core, hashes: &Hashes, now: u64) -> Result<Recovered, OpenError> {
    let started = Instant::now();
    let mut recovered = Recovered::default();
    let history: Vec<_> = log.files().filter(|(_, kept)| kept.done).map(|(number, _)| number).collect();
    for number in history.iter().rev().take(HISTORY).rev() {
        read(log.directory(), *number, "kept", &mut recovered, |_, _, record| {
            if record.kind == ENDED
                && let Ok(step) = record.step()
            {
                core.index.remember(record.id, step.state, core.options.remembered);
            }
        })?;
    }
    let waiting: Vec<_> = log.files().filter(|(_, kept)| !kept.done).map(|(number, _)| number).collect();
    for number in waiting {
        read(log.directory(), number, "log", &mut recovered, |at, length, record| {
            let place = Place { segment: number, offset: at as u32, length: length as u32 };
            apply(core, hashes, place, record);
        })?;
    }
    let mut tickets: Vec<(Place, Ticket)> = core.index.iter().map(|(ticket, entry)| (entry.place, ticket)).collect();
    tickets.sort_unstable();
    for (_, ticket) in &tickets {
        let Some(entry) = core.index.valid_mut(*ticket) else { continue };
        if entry.stage == Stage::UnderWay {
            entry.reached = true;
            recovered.possible_duplicates += 1;
        }
        core.enqueue(*ticket, now);
    }
    core.damaged = recovered.damaged as u64;
    recovered.waiting = tickets.len();
    recovered.took = started.elapsed();
    Ok(recovered)
}

fn read(
    directory: &Path,
    number: u32,
    kind: &str,
    recovered: &mut Recovered,
    mut each: impl FnMut(usize, usize, Record<'_>),
) -> Result<(), OpenError> {
    let path = directory.join(format!("{number:010}.{kind}"));
    let file = fs::read(&path).map_err(|source| OpenError::Io { directory: directory.to_owned(), source })?;
    let Some(begin) = records_begin(&file).map_err(|_| OpenError::Later { file: path.clone() })? else { return Ok(()) };
    let mut records = Records::of(&file, begin);
    for (at, length, record) in records.by_ref() {
        each(at, length, record);
    }
    if records.damaged > 0 {
        tracing::error!(file = %path.display(), records = records.damaged, "the push queue has damaged records, these pushes or steps are lost");
    }
    if records.torn > 0 {
        tracing::info!(file = %path.display(), octets = records.torn, "the last write to the push queue was torn, it had not been confirmed");
    }
    recovered.damaged += records.damaged;
    recovered.torn += records.torn;
    recovered.files += 1;
    Ok(())
}

fn apply(core: &mut Core, hashes: &Hashes, place: Place, record: Record<'_>) {
    let id = record.id;
    let known = core.index.find(id);
    match record.kind {
        STORED => match (known, record.brief()) {
            (None, Ok(brief)) => store(core, hashes, place, id, brief, true),
            (Some(_), _) => {}
            (None, Err(error)) => tracing::error!(%id, %error, "a stored push cannot be read, it is lost"),
        },
        CARRIED => match (known.and_then(|slot| core.index.ticket(slot)), record.brief()) {
            (Some(ticket), Ok(brief)) => carry(core, ticket, place, brief.progress),
            (None, Ok(brief)) if core.index.known(id).is_none() => store(core, hashes, place, id, brief, false),
            _ => {}
        },
        BEGUN | RETRIED => {
            let (Some(entry), Ok(step)) = (known.and_then(|slot| core.index.get_mut(slot)), record.step()) else { return };
            if step.state == State::Sent {
                entry.stage = Stage::UnderWay;
                entry.attempts = step.progress.attempts;
            } else {
                entry.stage = Stage::Ready;
                let Progress { attempts, spent, reached, due } = step.progress;
                (entry.attempts, entry.spent, entry.reached, entry.due) = (attempts, spent, reached, due);
            }
        }
        ENDED => {
            if let Some(slot) = known {
                core.take_out(slot);
            }
            if let Ok(step) = record.step() {
                core.index.remember(id, step.state, core.options.remembered);
            }
        }
        // Written by a later version that says it can be read by this one.
        _ => {}
    }
}

fn store(core: &mut Core, hashes: &Hashes, place: Place, id: PushId, brief: Brief<'_>, newest: bool) {
    let Ok(app) = AppName::parse(brief.app) else { return };
    let lane = core.lane_of(&app, brief.provider);
    let target = hashes.target(brief.app, brief.target);
    let ticket = core.insert(New {
        id,
        place,
        received: brief.received,
        deadline: deadline(brief.deadline, brief.received, core.options.most_age),
        target,
        collapse: brief.collapse.map_or(0, |key| hashes.collapse(target, key)),
        lane,
        class: brief.class,
        stage: Stage::Ready,
        progress: brief.progress,
        job: None,
    });
    // A push that was moved is older than what was stored before it.
    if newest && let Some(older) = core.index.collapse(ticket.slot) {
        core.take_out(older);
    }
}

fn carry(core: &mut Core, ticket: Ticket, place: Place, progress: Progress) {
    let Some(entry) = core.index.valid_mut(ticket) else { return };
    let from = entry.place;
    (entry.attempts, entry.spent, entry.reached, entry.due) = (progress.attempts, progress.spent, progress.reached, progress.due);
    core.moved(ticket, from, place);
}
