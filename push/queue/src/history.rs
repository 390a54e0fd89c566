//! The delivery log: what the files say about a push, and about the pushes of a device. They are read from the newest on.

use std::{collections::HashMap, io, path::Path};

use push_core::{DeviceId, PushId};

use crate::{
    life::{History, Moment, State},
    log::{list, read_file, records_begin},
    options::time,
    record::{BEGUN, CARRIED, ENDED, RETRIED, Record, Records, STORED, device_check},
};

/// Most pushes of a device that are listed.
const MOST: usize = 1000;

/// The history of a push.
pub(crate) fn of_push(directory: &Path, id: PushId) -> io::Result<Option<History>> {
    let mut carried = None;
    let mut moments = Vec::new();
    for (number, ..) in list(directory)?.into_iter().rev() {
        let file = read(directory, number)?;
        let mut stored = None;
        let mut here = Vec::new();
        for record in records(&file).filter(|record| record.id == id) {
            match record.kind {
                STORED => {
                    // An id that was forgotten can come again: the last one counts.
                    stored = history(record);
                    here.clear();
                }
                CARRIED => carried = carried.or_else(|| history(record)),
                _ => here.extend(moment(record)),
            }
        }
        here.append(&mut moments);
        moments = here;
        if let Some(stored) = stored {
            return Ok(Some(History { moments: prepend(&stored, moments), ..stored }));
        }
    }
    Ok(carried.map(|carried| History { moments: prepend(&carried, moments), ..carried }))
}

/// The histories of a device's last pushes, the newest first.
pub(crate) fn of_device(directory: &Path, device: &DeviceId, limit: usize) -> io::Result<Vec<History>> {
    let check = device_check(device.as_str());
    let limit = limit.clamp(1, MOST);
    let mut found: Vec<History> = Vec::new();
    let mut places: HashMap<PushId, usize> = HashMap::new();
    let mut read_numbers = Vec::new();
    for (number, ..) in list(directory)?.into_iter().rev() {
        if found.len() >= limit {
            break;
        }
        let file = read(directory, number)?;
        let of_device = |record: &Record<'_>| matches!(record.kind, STORED | CARRIED) && record.device_check() == check;
        let here: Vec<_> = records(&file).filter(of_device).filter_map(history).filter(|it| it.device.as_ref() == Some(device)).collect();
        for history in here.into_iter().rev() {
            if found.len() < limit && !places.contains_key(&history.id) {
                places.insert(history.id, found.len());
                found.push(history);
            }
        }
        read_numbers.push(number);
    }
    for number in read_numbers.into_iter().rev() {
        let file = read(directory, number)?;
        for record in records(&file) {
            let history = places.get(&record.id).and_then(|place| found.get_mut(*place));
            if let (Some(history), Some(moment)) = (history, moment(record)) {
                history.moments.push(moment);
            }
        }
    }
    for history in &mut found {
        let moments = std::mem::take(&mut history.moments);
        history.moments = prepend(history, moments);
    }
    found.sort_by_key(|history| std::cmp::Reverse(history.received_at));
    Ok(found)
}

/// A file may have been removed meanwhile: it was the oldest.
fn read(directory: &Path, number: u32) -> io::Result<Vec<u8>> {
    match read_file(directory, number) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    }
}

fn records(file: &[u8]) -> impl Iterator<Item = Record<'_>> {
    let begin = records_begin(file).ok().flatten().unwrap_or(file.len());
    Records::of(file, begin).map(|(_, _, record)| record)
}

fn history(record: Record<'_>) -> Option<History> {
    let job = record.job().ok()?;
    Some(History {
        id: record.id,
        app: job.app,
        class: job.request.class,
        user: job.user,
        device: job.device,
        received_at: job.received_at,
        deadline: job.request.deadline,
        moments: Vec::new(),
    })
}

fn moment(record: Record<'_>) -> Option<Moment> {
    if !matches!(record.kind, BEGUN | RETRIED | ENDED) {
        return None;
    }
    let step = record.step().ok()?;
    let retry_at = (step.state == State::Retried && step.progress.due > 0).then(|| time(step.progress.due));
    let (reason, provider_id) = (step.reason, step.provider_id);
    Some(Moment { state: step.state, at: time(step.at), attempt: step.progress.attempts, reason, provider_id, retry_at })
}

fn prepend(history: &History, rest: Vec<Moment>) -> Vec<Moment> {
    let stored = Moment { state: State::Stored, at: history.received_at, attempt: 0, reason: None, provider_id: None, retry_at: None };
    std::iter::once(stored).chain(rest).collect()
}
