//! What happens on the switches: who talks and who is in a conference.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use elph_kit::{
    Kit,
    switches::{Follower, News},
};
use elph_proto::{
    v1::{self, CallState, ConferenceState, EventKind, event::Change},
    view::View,
};

use crate::board::{Board, Key};

/// Keeps the board as the agents have it.
pub(crate) fn follow(kit: &Kit, board: &Arc<Board>) {
    let follower = || Hears { board: board.clone(), calls: Members::default(), conferences: Members::default() };
    kit.switches.follow(kit, &[EventKind::Call, EventKind::Conference], follower);
}

struct Hears {
    board: Arc<Board>,
    calls: Members,
    conferences: Members,
}

impl Follower for Hears {
    fn hear(&mut self, domains: &BTreeSet<String>, news: News<'_>) {
        match news {
            News::Whole(view) => self.whole(domains, view),
            News::Changed(event, view) => match &event.change {
                Some(Change::Call(call)) => {
                    let (came, left) = self.calls.set(&call.domain, &call.id, talking(call));
                    self.count(&call.domain, &came, &left, |person| &mut person.calls);
                }
                Some(Change::Conference(conference)) => self.conference(&event.domain, &conference.id, view),
                Some(Change::Participant(change)) => self.conference(&event.domain, &change.conference_id, view),
                Some(Change::Link(_)) | None => {}
            },
        }
    }
}

impl Hears {
    fn whole(&mut self, domains: &BTreeSet<String>, view: &View) {
        let calls = view.calls.values().map(|call| (call.domain.clone(), call.id.clone(), talking(call)));
        let calls = self.calls.replace(calls);
        let conferences = view.conferences.values().map(|it| (it.domain.clone(), it.id.clone(), inside(it)));
        let conferences = self.conferences.replace(conferences);
        let keys: BTreeSet<Key> =
            self.board.busy(domains).into_iter().chain(calls.keys().cloned()).chain(conferences.keys().cloned()).collect();
        for key in keys {
            let count = |counts: &BTreeMap<Key, u32>| counts.get(&key).copied().unwrap_or(0);
            self.board.update(&key, |person| (person.calls, person.conferences) = (count(&calls), count(&conferences)));
        }
    }

    fn conference(&mut self, domain: &str, id: &str, view: &View) {
        let members = view.conferences.get(id).map(inside).unwrap_or_default();
        let (came, left) = self.conferences.set(domain, id, members);
        self.count(domain, &came, &left, |person| &mut person.conferences);
    }

    fn count(&self, domain: &str, came: &[String], left: &[String], of: impl Fn(&mut crate::Person) -> &mut u32) {
        for alias in came {
            self.board.update(&Key::new(domain, alias), |person| *of(person) += 1);
        }
        for alias in left {
            self.board.update(&Key::new(domain, alias), |person| {
                let count = of(person);
                *count = count.saturating_sub(1);
            });
        }
    }
}

/// Who talks in a call or is held.
fn talking(call: &v1::Call) -> BTreeSet<String> {
    if call.state() == CallState::Ended {
        return BTreeSet::new();
    }
    let talks = |leg: &&v1::Leg| matches!(leg.state(), v1::LegState::Connected | v1::LegState::Held) && !leg.device.is_empty();
    call.legs.iter().filter(talks).map(|leg| leg.device.clone()).collect()
}

/// Who is in a conference.
fn inside(conference: &v1::Conference) -> BTreeSet<String> {
    if conference.state() == ConferenceState::Ended {
        return BTreeSet::new();
    }
    let inside = |member: &&v1::Participant| {
        matches!(member.status(), v1::ParticipantStatus::Connected | v1::ParticipantStatus::OnHold) && !member.number.is_empty()
    };
    conference.participants.iter().filter(inside).map(|member| member.number.clone()).collect()
}

/// Counts of one kind of thing that people take part in, by the thing: what a follower needs to tell who is in how many.
#[derive(Debug, Default)]
pub(crate) struct Members(BTreeMap<String, (String, BTreeSet<String>)>);

impl Members {
    /// The thing has these members now; none: it is over. Who came and who left.
    pub(crate) fn set(&mut self, domain: &str, thing: &str, members: BTreeSet<String>) -> (Vec<String>, Vec<String>) {
        let before = self.0.remove(thing).map(|(_, before)| before).unwrap_or_default();
        let came = members.difference(&before).cloned().collect();
        let left = before.difference(&members).cloned().collect();
        if !members.is_empty() {
            self.0.insert(thing.to_owned(), (domain.to_owned(), members));
        }
        (came, left)
    }

    /// Everything anew: for each person, in how many things.
    pub(crate) fn replace(&mut self, things: impl Iterator<Item = (String, String, BTreeSet<String>)>) -> BTreeMap<Key, u32> {
        self.0 = things.filter(|(.., members)| !members.is_empty()).map(|(domain, thing, members)| (thing, (domain, members))).collect();
        let mut counts = BTreeMap::new();
        for (domain, members) in self.0.values() {
            for alias in members {
                *counts.entry(Key::new(domain, alias)).or_default() += 1;
            }
        }
        counts
    }
}
