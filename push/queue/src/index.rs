//! The waiting pushes: some hundred octets each, whatever the payload. Found by id, by target (a token that is gone ends them all) and by
//! what they collapse with. Those that ended last are remembered by id, in the same table: a push is looked up once, not in two places.

use std::{
    collections::{HashMap, VecDeque, hash_map},
    hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState},
};

use push_core::{Class, PushId};

use crate::{
    life::{Job, State},
    record::Progress,
};

/// No entry.
const NONE: u32 = u32::MAX;

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Place {
    pub(crate) segment: u32,
    pub(crate) offset: u32,
    pub(crate) length: u32,
}

/// What is being done with a waiting push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing: the entry is free.
    Free,
    /// On its way to the disk.
    Storing,
    /// It may be sent.
    Ready,
    /// It waits for its next attempt.
    Deferred,
    /// Its payload is being read back for an attempt.
    Loading,
    /// An attempt runs: only its outcome ends the push.
    UnderWay,
}

/// A reference to an entry, void as soon as its push has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket {
    pub(crate) slot: u32,
    generation: u32,
}

/// A waiting push.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: PushId,
    pub(crate) place: Place,
    /// Milliseconds since the epoch, as all times here.
    pub(crate) received: u64,
    pub(crate) deadline: u64,
    /// Not before.
    pub(crate) due: u64,
    /// Hashes; zero: it collapses with nothing.
    pub(crate) target: u64,
    pub(crate) collapse: u64,
    /// The push, if it is kept in memory.
    pub(crate) job: Option<Box<Job>>,
    generation: u32,
    /// Others to the same target.
    next: u32,
    previous: u32,
    pub(crate) attempts: u16,
    pub(crate) lane: u16,
    pub(crate) spent: u8,
    pub(crate) class: Class,
    pub(crate) stage: Stage,
    /// An attempt may have reached the provider.
    pub(crate) reached: bool,
    /// It was cancelled while an attempt ran: that is the last one.
    pub(crate) cancelled: bool,
}

/// What a new entry is made of.
#[derive(Debug)]
pub(crate) struct New {
    pub(crate) id: PushId,
    pub(crate) place: Place,
    pub(crate) received: u64,
    pub(crate) deadline: u64,
    pub(crate) target: u64,
    pub(crate) collapse: u64,
    pub(crate) lane: u16,
    pub(crate) class: Class,
    pub(crate) stage: Stage,
    pub(crate) progress: Progress,
    pub(crate) job: Option<Box<Job>>,
}

/// What is known of an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// It waits, in this slot.
    Waits(u32),
    /// It is one of the last that ended.
    Ended(State),
}

/// Keys are hashes already.
#[derive(Debug, Default)]
pub(crate) struct Hashed(u64);

/// Hashes ids. Callers may choose these, so the hashes are keyed; the standard library's are better than is needed, and each push is
/// looked up four times.
#[derive(Debug)]
pub(crate) struct Keyed {
    start: u64,
    factor: u64,
}

pub(crate) struct Folded {
    state: u64,
    factor: u64,
}

type ByHash = HashMap<u64, u32, BuildHasherDefault<Hashed>>;

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Index {
    entries: Vec<Entry>,
    free: Vec<u32>,
    known: HashMap<PushId, Known, Keyed>,
    waiting: usize,
    /// Ids that ended, the oldest first.
    ended: VecDeque<PushId>,
    targets: ByHash,
    collapse: ByHash,
}

// === impl Hashed ===

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, octets: &[u8]) {
        self.0 = octets.iter().fold(self.0, |hash, octet| hash.rotate_left(8) ^ u64::from(*octet));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

// === impl Keyed ===

impl Default for Keyed {
    fn default() -> Self {
        let random = RandomState::new();
        Self { start: random.hash_one(0), factor: random.hash_one(1) | 1 }
    }
}

impl BuildHasher for Keyed {
    type Hasher = Folded;

    fn build_hasher(&self) -> Folded {
        Folded { state: self.start, factor: self.factor }
    }
}

impl Hasher for Folded {
    fn finish(&self) -> u64 {
        self.state
    }

    fn write(&mut self, octets: &[u8]) {
        let (words, rest) = octets.as_chunks::<8>();
        words.iter().for_each(|word| self.write_u64(u64::from_le_bytes(*word)));
        rest.iter().for_each(|octet| self.write_u64(u64::from(*octet)));
    }

    fn write_u64(&mut self, word: u64) {
        let product = u128::from(self.state ^ word) * u128::from(self.factor);
        self.state = (product as u64) ^ (product >> 64) as u64;
    }

    /// The length: all ids have the same.
    fn write_usize(&mut self, _: usize) {}
}

// === impl Entry ===

impl Entry {
    pub(crate) fn progress(&self) -> Progress {
        Progress { attempts: self.attempts, spent: self.spent, reached: self.reached, due: self.due }
    }
}

// === impl Index ===

impl Index {
    /// Waiting pushes.
    pub(crate) fn len(&self) -> usize {
        self.waiting
    }

    pub(crate) fn known(&self, id: PushId) -> Option<Known> {
        self.known.get(&id).copied()
    }

    /// The slot in which the push waits.
    pub(crate) fn find(&self, id: PushId) -> Option<u32> {
        match self.known(id)? {
            Known::Waits(slot) => Some(slot),
            Known::Ended(_) => None,
        }
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&Entry> {
        self.entries.get(slot as usize).filter(|entry| entry.stage != Stage::Free)
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut Entry> {
        self.entries.get_mut(slot as usize).filter(|entry| entry.stage != Stage::Free)
    }

    /// The entry of the ticket, unless its push has ended.
    pub(crate) fn valid(&self, ticket: Ticket) -> Option<&Entry> {
        self.get(ticket.slot).filter(|entry| entry.generation == ticket.generation)
    }

    pub(crate) fn valid_mut(&mut self, ticket: Ticket) -> Option<&mut Entry> {
        self.get_mut(ticket.slot).filter(|entry| entry.generation == ticket.generation)
    }

    /// Whether the ticket's push waits in this stage.
    pub(crate) fn is(&self, ticket: Ticket, stage: Stage) -> bool {
        self.valid(ticket).is_some_and(|entry| entry.stage == stage)
    }

    pub(crate) fn ticket(&self, slot: u32) -> Option<Ticket> {
        self.get(slot).map(|entry| Ticket { slot, generation: entry.generation })
    }

    /// All waiting pushes, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Ticket, &Entry)> {
        self.entries
            .iter()
            .zip(0_u32..)
            .filter(|(entry, _)| entry.stage != Stage::Free)
            .map(|(entry, slot)| (Ticket { slot, generation: entry.generation }, entry))
    }

    pub(crate) fn insert(&mut self, new: New) -> Ticket {
        let New { id, place, received, deadline, target, collapse, lane, class, stage, progress, job } = new;
        let slot = self.free.pop().unwrap_or(self.entries.len() as u32);
        let next = self.targets.insert(target, slot).unwrap_or(NONE);
        if let Some(next) = self.entries.get_mut(next as usize) {
            next.previous = slot;
        }
        let generation = self.entries.get(slot as usize).map_or(0, |entry| entry.generation);
        let entry = Entry {
            id,
            place,
            received,
            deadline,
            due: progress.due,
            target,
            collapse,
            job,
            generation,
            next,
            previous: NONE,
            attempts: progress.attempts,
            lane,
            spent: progress.spent,
            class,
            stage,
            reached: progress.reached,
            cancelled: false,
        };
        match self.entries.get_mut(slot as usize) {
            Some(free) => *free = entry,
            None => self.entries.push(entry),
        }
        self.known.insert(id, Known::Waits(slot));
        self.waiting += 1;
        Ticket { slot, generation }
    }

    /// Takes a push out and forgets it; its tickets are void. The job is handed back with the entry's other values.
    pub(crate) fn remove(&mut self, slot: u32) -> Option<Entry> {
        let entry = self.vacate(slot)?;
        self.known.remove(&entry.id);
        Some(entry)
    }

    /// Takes a push out that has ended, and remembers how, with the `most` that ended last.
    pub(crate) fn end(&mut self, slot: u32, state: State, most: usize) -> Option<Entry> {
        let entry = self.vacate(slot)?;
        self.remember(entry.id, state, most);
        Some(entry)
    }

    /// Remembers how a push ended that does not wait.
    pub(crate) fn remember(&mut self, id: PushId, state: State, most: usize) {
        if !matches!(self.known.insert(id, Known::Ended(state)), Some(Known::Ended(_))) {
            self.ended.push_back(id);
        }
        while self.ended.len() > most.max(1) {
            let Some(oldest) = self.ended.pop_front() else { break };
            // It may have come again since.
            if let hash_map::Entry::Occupied(known) = self.known.entry(oldest)
                && matches!(known.get(), Known::Ended(_))
            {
                known.remove();
            }
        }
    }

    fn vacate(&mut self, slot: u32) -> Option<Entry> {
        let entry = self.entries.get_mut(slot as usize).filter(|entry| entry.stage != Stage::Free)?;
        let free = Entry {
            id: entry.id,
            place: Place::default(),
            job: None,
            generation: entry.generation.wrapping_add(1),
            next: NONE,
            previous: NONE,
            stage: Stage::Free,
            ..*entry
        };
        let entry = std::mem::replace(entry, free);
        match self.entries.get_mut(entry.previous as usize) {
            Some(previous) => previous.next = entry.next,
            None if entry.next == NONE => drop(self.targets.remove(&entry.target)),
            None => drop(self.targets.insert(entry.target, entry.next)),
        }
        if let Some(next) = self.entries.get_mut(entry.next as usize) {
            next.previous = entry.previous;
        }
        if entry.collapse != 0 && self.collapse.get(&entry.collapse) == Some(&slot) {
            self.collapse.remove(&entry.collapse);
        }
        self.waiting = self.waiting.saturating_sub(1);
        self.free.push(slot);
        Some(entry)
    }

    /// The waiting pushes to a target.
    pub(crate) fn of_target(&self, target: u64) -> Vec<u32> {
        let mut slots = Vec::new();
        let mut slot = self.targets.get(&target).copied();
        while let Some(entry) = slot.and_then(|slot| self.get(slot)) {
            slots.extend(slot);
            slot = Some(entry.next);
        }
        slots
    }

    /// The push is the newest of its collapse key from now on; the one that was, if another.
    pub(crate) fn collapse(&mut self, slot: u32) -> Option<u32> {
        let key = self.get(slot)?.collapse;
        if key == 0 {
            return None;
        }
        self.collapse.insert(key, slot).filter(|older| *older != slot)
    }

    /// Whether a newer push of the same collapse key waits.
    pub(crate) fn is_replaced(&self, slot: u32) -> bool {
        self.get(slot).is_some_and(|entry| entry.collapse != 0 && self.collapse.get(&entry.collapse).is_some_and(|newest| *newest != slot))
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::SmallRng};

    use super::*;

    fn new(id: PushId, target: u64, collapse: u64) -> New {
        New {
            id,
            place: Place::default(),
            received: 0,
            deadline: 0,
            target,
            collapse,
            lane: 0,
            class: Class::Background,
            stage: Stage::Ready,
            progress: Progress::default(),
            job: None,
        }
    }

    #[test]
    fn an_entry_is_small() {
        assert!(size_of::<Entry>() <= 112, "{}", size_of::<Entry>());
    }

    #[test]
    fn targets_ids_and_tickets_stay_true_whatever_comes_and_goes() {
        let seed: u64 = rand::rng().random();
        println!("seed {seed}");
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut index = Index::default();
        let mut model: Vec<(PushId, u64, Ticket)> = Vec::new();
        let mut void = Vec::new();
        for _ in 0..3000 {
            if model.is_empty() || rng.random_bool(0.55) {
                let (id, target) = (PushId::new(), rng.random_range(0..9));
                let ticket = index.insert(new(id, target, 0));
                model.push((id, target, ticket));
            } else {
                let (id, _, ticket) = model.swap_remove(rng.random_range(0..model.len()));
                assert_eq!(index.find(id), Some(ticket.slot));
                assert_eq!(index.remove(ticket.slot).unwrap().id, id);
                void.push(ticket);
            }
            let target = rng.random_range(0..9);
            let mut found: Vec<_> = index.of_target(target).iter().map(|slot| index.get(*slot).unwrap().id).collect();
            let mut expected: Vec<_> = model.iter().filter(|(_, of, _)| *of == target).map(|(id, _, _)| *id).collect();
            found.sort();
            expected.sort();
            assert_eq!(found, expected);
            assert_eq!(index.len(), model.len());
        }
        assert!(void.iter().all(|ticket| index.valid(*ticket).is_none()));
        assert!(model.iter().all(|(id, _, ticket)| index.valid(*ticket).unwrap().id == *id));
    }

    #[test]
    fn only_the_last_ended_pushes_are_remembered_and_one_that_came_again_waits() {
        let mut index = Index::default();
        let ids: Vec<_> = (0..5).map(|_| PushId::new()).collect();
        let slots: Vec<_> = ids.iter().map(|id| index.insert(new(*id, 1, 0)).slot).collect();
        let end = |index: &mut Index, slot| index.end(slot, State::Accepted, 3).unwrap();
        for slot in slots {
            end(&mut index, slot);
        }
        let ended = |index: &Index| ids.iter().filter(|id| index.known(**id) == Some(Known::Ended(State::Accepted))).count();
        assert_eq!((ended(&index), index.known(ids[4]), index.len()), (3, Some(Known::Ended(State::Accepted)), 0));
        let again = index.insert(new(ids[2], 1, 0)).slot;
        let last = index.insert(new(PushId::new(), 1, 0)).slot;
        end(&mut index, last);
        assert_eq!((index.find(ids[2]), index.len()), (Some(again), 1), "what waits is not forgotten");
        end(&mut index, again);
        assert_eq!(index.known(ids[2]), Some(Known::Ended(State::Accepted)));
        assert!(index.ended.len() <= 3 && index.known.len() <= 3);
    }

    #[test]
    fn the_newest_of_a_collapse_key_replaces_the_one_before() {
        let mut index = Index::default();
        let first = index.insert(new(PushId::new(), 1, 7)).slot;
        assert_eq!(index.collapse(first), None);
        let second = index.insert(new(PushId::new(), 1, 7)).slot;
        assert_eq!(index.collapse(second), Some(first));
        assert!(index.is_replaced(first) && !index.is_replaced(second));
        index.remove(first);
        assert_eq!(index.collapse(second), None);
        index.remove(second);
        let third = index.insert(new(PushId::new(), 1, 7)).slot;
        assert_eq!(index.collapse(third), None);
    }
}
