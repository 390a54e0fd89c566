//! Random interleavings of everything that can be done to the switch: whatever happens, counts equal rosters, terminal states are
//! final, licences balance, and a listener that heard every event knows the state without looking.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use proptest::prelude::*;
use ssw_core::{
    Answer, CallChange, ConferenceRequest, CoreEvent, DomainOptions, EventKind, GroupKind, HistoryFilter, HistoryKind, LegState, LegView,
    LicenceKind, ManualClock, MergeInto, ParticipantStatus, Recording, Refusal, Role, Switch, SwitchOptions,
};
use tokio::sync::broadcast::{Receiver, error::TryRecvError};

const D: &str = "biysk.local";

struct World {
    switch: Switch,
    clock: Arc<ManualClock>,
    events: Receiver<Arc<CoreEvent>>,
    heard: Heard,
}

/// What a listener knows from events alone.
#[derive(Default)]
struct Heard {
    seq: u64,
    legs: BTreeMap<String, BTreeMap<String, LegState>>,
    rosters: BTreeMap<String, BTreeMap<String, ParticipantStatus>>,
    over_calls: BTreeSet<String>,
    over_legs: BTreeSet<(String, String)>,
    over_conferences: BTreeSet<String>,
    over_members: BTreeSet<String>,
}

impl Heard {
    fn leg(&mut self, leg: &LegView) {
        let legs = self.legs.entry(leg.call.clone()).or_default();
        if leg.state == LegState::Released {
            legs.remove(&leg.id);
            self.over_legs.insert((leg.call.clone(), leg.id.clone()));
        } else {
            legs.insert(leg.id.clone(), leg.state);
        }
    }

    fn hear(&mut self, event: &CoreEvent) {
        self.seq += 1;
        assert_eq!(event.seq, self.seq, "events are numbered without gaps");
        match &event.kind {
            EventKind::Call(call) => {
                assert!(!self.over_calls.contains(&call.call), "a finished call says something: {call:?}");
                assert!(!self.over_legs.contains(&(call.call.clone(), call.leg.id.clone())), "a released leg changes: {call:?}");
                if call.change == CallChange::Established {
                    assert_eq!(call.leg.state, LegState::Connected);
                }
                self.leg(&call.leg);
            }
            EventKind::Merged(merge) => {
                for gone in [Some(&merge.primary), merge.secondary.as_ref()].into_iter().flatten() {
                    self.legs.remove(gone);
                    if *gone != merge.into {
                        self.over_calls.insert(gone.clone());
                    }
                }
                for (call, leg) in &merge.dropped {
                    self.over_legs.insert((call.clone(), leg.clone()));
                }
                self.legs.insert(merge.into.clone(), BTreeMap::new());
                merge.legs.iter().for_each(|leg| self.leg(leg));
            }
            EventKind::CallReleased { call, .. } => {
                assert!(self.over_calls.insert(call.clone()), "a call ends once");
                let left = self.legs.remove(call).unwrap_or_default();
                assert!(left.is_empty(), "a call ends after its legs: {left:?}");
            }
            EventKind::Digits { .. } => {}
            EventKind::Conference(conference) => {
                assert!(!self.over_conferences.contains(&conference.id));
                self.rosters.entry(conference.id.clone()).or_default();
            }
            EventKind::ConferenceEnded { conference, .. } => {
                assert!(self.over_conferences.insert(conference.clone()), "a conference ends once");
                let roster = self.rosters.remove(conference).unwrap();
                self.over_members.extend(roster.into_keys());
            }
            EventKind::Participant(member) => {
                assert!(!self.over_members.contains(&member.id), "a member that left says something");
                self.rosters.get_mut(&member.conference).unwrap().insert(member.id.clone(), member.status);
                assert!(!member.talking || (member.voice && member.status == ParticipantStatus::Connected), "{member:?}");
            }
            EventKind::ParticipantLeft(member) => {
                assert!(self.over_members.insert(member.id.clone()), "a member leaves once");
                assert!(!member.talking && !member.floor, "who has left neither talks nor asks");
                assert!(self.rosters.get_mut(&member.conference).unwrap().remove(&member.id).is_some(), "left without having joined");
            }
            EventKind::Restarted { keep_state: true } => {}
            EventKind::Restarted { keep_state: false } => {
                self.legs.clear();
                self.rosters.clear();
            }
        }
    }
}

impl World {
    fn new(merge_into: MergeInto) -> Self {
        let clock = Arc::new(ManualClock::new("2026-11-24T10:00:00Z".parse().unwrap()));
        let switch = Switch::new(SwitchOptions { clock: clock.clone(), merge_into, history: 50, ..SwitchOptions::default() });
        switch.add_domain(DomainOptions::new(D, 12)).unwrap();
        switch.set_answer(D, "1002", Answer::After { ms: 500 }).unwrap();
        switch.set_answer(D, "1003", Answer::Reject).unwrap();
        switch.set_answer(D, "1004", Answer::Busy).unwrap();
        switch.register(D, "1005", "sip:1005@10.0.0.5").unwrap();
        switch.unregister(D, "1006", None).unwrap();
        switch.declare_group(D, "600", GroupKind::Ring, vec!["1001".into(), "1002".into(), "1005".into()]).unwrap();
        switch.declare_group(D, "700", GroupKind::Queue, vec!["1003".into(), "1007".into(), "1008".into()]).unwrap();
        switch.set_licence(LicenceKind::Calls, Some(6), None);
        switch.set_licence(LicenceKind::Conferences, Some(2), None);
        switch.set_licence(LicenceKind::Members, Some(8), None);
        let events = switch.subscribe();
        Self { switch, clock, events, heard: Heard::default() }
    }

    fn number(&self, at: u8) -> String {
        match at % 16 {
            14 => "600".to_owned(),
            15 => "700".to_owned(),
            at => (1001 + u32::from(at)).to_string(),
        }
    }

    /// Any leg, released or not.
    fn leg(&self, at: u8) -> Option<LegView> {
        let legs: Vec<_> = self.switch.calls(Some(D)).into_iter().flat_map(|call| call.legs).collect();
        legs.get(usize::from(at) % legs.len().max(1)).cloned()
    }

    /// A held and an active leg of one device, if there are such.
    fn pair(&self) -> Option<(LegView, LegView)> {
        let legs: Vec<_> = self.switch.calls(Some(D)).into_iter().flat_map(|call| call.legs).collect();
        let held = legs.iter().filter(|leg| leg.state == LegState::Held);
        let fits = |held: &LegView, active: &LegView| {
            active.state == LegState::Connected && active.device == held.device && active.call != held.call
        };
        held.flat_map(|held| legs.iter().filter(move |active| fits(held, active)).map(move |active| (held.clone(), active.clone()))).next()
    }

    fn member(&self, at: u8) -> Option<(String, String)> {
        let members: Vec<_> = self.switch.conferences(Some(D)).into_iter().flat_map(|conference| conference.members).collect();
        members.get(usize::from(at) % members.len().max(1)).map(|member| (member.conference.clone(), member.id.clone()))
    }

    fn conference(&self, at: u8) -> String {
        let all = self.switch.conferences(Some(D));
        all.get(usize::from(at) % all.len().max(1)).map_or_else(|| "none".to_owned(), |conference| conference.id.clone())
    }

    fn act(&self, what: u8, a: u8, b: u8) -> Result<(), Refusal> {
        let (s, to) = (&self.switch, self.number(b));
        match what % 41 {
            0 | 1 => s.make_call(D, &self.number(a), &to, b.is_multiple_of(5)).map(drop),
            2 | 3 => s.dial(D, &self.number(a), &to).map(drop),
            at @ 4..=13 => {
                let Some(leg) = self.leg(a) else { return Ok(()) };
                match at {
                    4 | 5 => s.answer(D, &leg.call, &leg.id),
                    6 => s.reject(D, &leg.call, &leg.id),
                    7 => s.release_leg(D, &leg.call, &leg.id),
                    8 => s.release_call(D, &leg.call),
                    9 => s.hold(D, &leg.call, &leg.id),
                    10 => s.retrieve(D, &leg.call, &leg.id),
                    11 => s.transfer_blind(D, &leg.call, &leg.id, &to).map(drop),
                    12 => s.consult(D, &leg.call, &leg.id, &to).map(drop),
                    _ => s.deflect(D, &leg.call, &leg.id, &to),
                }
            }
            at @ 14..=17 => {
                let Some((held, active)) = self.pair() else { return Ok(()) };
                let (held, active) = ((held.call.as_str(), held.id.as_str()), (active.call.as_str(), active.id.as_str()));
                match at {
                    14 => s.transfer_complete(D, held, active).map(drop),
                    15 => s.transfer_cancel(D, held, active).map(drop),
                    16 => s.join(D, held, active).map(drop),
                    _ => s.alternate(D, held, active),
                }
            }
            18 => {
                let members = vec![self.number(a), self.number(b)];
                let request = ConferenceRequest { members, limit: 4, seconds: u32::from(b) * 4, ..ConferenceRequest::default() };
                s.create_conference(D, ConferenceRequest { ends_when_empty: a.is_multiple_of(2), ..request }).map(drop)
            }
            19 => s.invite(D, &self.conference(a), &to, Role::Presenter).map(drop),
            20 => s.dial_in(D, &self.conference(a), &to).map(drop),
            at @ 21..=33 => {
                let Some((conference, member)) = self.member(a) else { return Ok(()) };
                let (c, m) = (conference.as_str(), member.as_str());
                match at {
                    21 => s.pick_up(D, c, m),
                    22 => s.leave(D, c, m),
                    23 => s.mute(D, c, m),
                    24 => s.unmute_self(D, c, m),
                    25 => s.ask_to_unmute(D, c, m),
                    26 => s.request_floor(D, c, m),
                    27 => s.grant_floor(D, c, m),
                    28 => s.deny_floor(D, c, m),
                    29 => s.set_talking(D, c, m, true),
                    30 => s.hold_member(D, c, m),
                    31 => s.retrieve_member(D, c, m),
                    32 => s.move_member(D, c, m, &self.conference(b)).map(drop),
                    _ => s.cancel_invitation(D, c, m),
                }
            }
            34 => s.mute_all(D, &self.conference(a), b.is_multiple_of(2)),
            35 => s.set_locked(D, &self.conference(a), b.is_multiple_of(2)),
            36 => s.set_recording(D, &self.conference(a), [Recording::On, Recording::Paused, Recording::Off][usize::from(b) % 3], false),
            37 if b < 40 => s.end_conference(D, &self.conference(a)),
            38 if b < 6 => {
                s.restart(b < 3);
                Ok(())
            }
            _ => {
                self.clock.advance(Duration::from_millis(u64::from(a) * 40));
                s.tick();
                Ok(())
            }
        }
    }

    fn check(&mut self) {
        loop {
            match self.events.try_recv() {
                Ok(event) => self.heard.hear(&event),
                Err(TryRecvError::Empty) => break,
                Err(error) => panic!("{error}"),
            }
        }
        let calls = self.switch.calls(None);
        let conferences = self.switch.conferences(None);
        let members: usize = conferences.iter().map(|conference| conference.members.len()).sum();
        for licence in self.switch.licences() {
            let used = match licence.kind {
                LicenceKind::Calls => calls.len(),
                LicenceKind::Conferences => conferences.len(),
                LicenceKind::Members => members,
            };
            assert_eq!(licence.used as usize, used, "{:?}", licence.kind);
        }
        let mut legs = BTreeMap::new();
        for call in &calls {
            assert!(call.ended_at.is_none() && call.live_legs().count() > 0, "{call:?}");
            let ids: BTreeSet<_> = call.legs.iter().map(|leg| &leg.id).collect();
            assert_eq!(ids.len(), call.legs.len(), "leg ids are unique in their call");
            for leg in &call.legs {
                assert_eq!(leg.call, call.id);
                assert_eq!(leg.state == LegState::Released, leg.ended_at.is_some());
                if leg.state != LegState::Released {
                    assert!(self.switch.device_legs(D, &leg.device).is_ok_and(|legs| legs.contains(leg)) || leg.device == "1014");
                }
            }
            legs.insert(call.id.clone(), call.live_legs().map(|leg| (leg.id.clone(), leg.state)).collect::<BTreeMap<_, _>>());
        }
        assert_eq!(self.heard.legs, legs, "events tell the whole state of calls");
        let rosters: BTreeMap<_, BTreeMap<_, _>> = conferences
            .iter()
            .map(|conference| (conference.id.clone(), conference.members.iter().map(|m| (m.id.clone(), m.status)).collect()))
            .collect();
        assert_eq!(self.heard.rosters, rosters, "events tell the whole state of conferences");
        for at in 1001..1013 {
            let alias = at.to_string();
            let of_calls = calls.iter().flat_map(|call| call.live_legs()).filter(|leg| leg.device == alias).count();
            assert_eq!(self.switch.device_legs(D, &alias).unwrap().len(), of_calls, "{alias}");
        }
        let filter = HistoryFilter { kind: HistoryKind::Finished, ..HistoryFilter::default() };
        for call in self.switch.history(D, &filter).unwrap() {
            assert!(call.ended_at.is_some() && call.cause.is_some() && call.live_legs().count() == 0, "{call:?}");
            assert!(call.answered_at.is_some() == call.answered_by.is_some());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn counts_equal_rosters_and_terminal_states_are_final(
        style in 0..3u8,
        steps in prop::collection::vec((any::<u8>(), any::<u8>(), any::<u8>()), 1..160),
    ) {
        let mut world = World::new([MergeInto::Held, MergeInto::Active, MergeInto::New][usize::from(style)]);
        for (what, a, b) in steps {
            // A refusal is as good as any other answer here.
            let _ = world.act(what, a, b);
            world.check();
        }
    }
}

#[test]
fn the_same_seed_and_steps_make_the_same_switch() {
    let run = || {
        let mut world = World::new(MergeInto::New);
        let mut at = 1u32;
        for _ in 0..400 {
            at = at.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let [what, a, b, _] = (at >> 4).to_le_bytes();
            let _ = world.act(what, a, b);
        }
        world.check();
        (world.switch.calls(None), world.switch.conferences(None), world.switch.history(D, &HistoryFilter::default()).unwrap())
    };
    assert_eq!(run(), run());
}
