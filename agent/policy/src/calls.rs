//! Calls that ring. One entry for each alias that a call has rung: each time that it rings it is told once, and taken back once.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use elph_proto::v1::{Call, CallState, EndCause, Leg, LegDirection, LegState};
use jiff::Timestamp;

use crate::{
    Rules,
    notice::{Fields, Kind, Notice, Occasion, Seen, Step, Why},
};

/// How long a missed call is worth telling.
const MISSED_FOR: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);

/// An alias that a call has rung.
#[derive(Debug)]
struct Ring {
    domain: String,
    occasion: Occasion,
    until: Timestamp,
    /// What was told; none: it rings no more.
    told: Option<Fields>,
}

/// Who rings or has rung, by our id of the call and the alias.
#[derive(Debug, Default)]
pub(crate) struct Rings(HashMap<String, BTreeMap<String, Ring>>);

impl Rings {
    pub(crate) fn len(&self) -> usize {
        self.0.values().flat_map(BTreeMap::values).filter(|ring| ring.told.is_some()).count()
    }

    /// A call has changed.
    pub(crate) fn call(&mut self, call: &Call, rules: &Rules, seen: Seen, now: Timestamp) -> Vec<Notice> {
        let over = call.state() == CallState::Ended;
        let mut notices = Vec::new();
        for alias in called(call) {
            let legs: Vec<&Leg> = call.legs.iter().filter(|leg| leg.device == alias && is_called(leg)).collect();
            let rings = self.0.get(&call.id).and_then(|known| known.get(alias)).is_some_and(|ring| ring.told.is_some());
            let waits = !over && legs.iter().any(|leg| offered(leg.state()));
            let answered = legs.iter().any(|leg| leg.answer_time.is_some() || matches!(leg.state(), LegState::Connected | LegState::Held));
            match (rings, waits && !answered) {
                (false, true) => notices.extend(self.begin(call, alias, &legs, rules, seen, now)),
                (true, false) => notices.extend(self.end(call, alias, &legs, answered, rules, now)),
                _ => {}
            }
        }
        if over {
            // Their legs went over into another call.
            let left = self.0.remove(&call.id).unwrap_or_default();
            notices.extend(left.into_iter().filter_map(|(alias, mut ring)| ring.take_back(&call.id, alias, Why::Ended)));
        }
        notices
    }

    /// Calls that are no longer there. Nothing is known of how they ended.
    pub(crate) fn gone(&mut self, calls: &[Call]) -> Vec<Notice> {
        let here: BTreeSet<&str> = calls.iter().map(|call| call.id.as_str()).collect();
        let gone: Vec<String> = self.0.keys().filter(|id| !here.contains(id.as_str())).cloned().collect();
        let mut notices = Vec::new();
        for id in gone {
            let left = self.0.remove(&id).unwrap_or_default();
            notices.extend(left.into_iter().filter_map(|(alias, mut ring)| ring.take_back(&id, alias, Why::Ended)));
        }
        notices
    }

    /// What was told to a user and is not over: once more, for a device that was not there.
    pub(crate) fn open_of(&self, domain: &str, alias: &str) -> Vec<Notice> {
        let rings = self.0.iter().filter_map(|(id, known)| Some((id, known.get(alias).filter(|ring| ring.domain == domain)?)));
        let told = rings.filter_map(|(id, ring)| {
            Some(Notice {
                domain: domain.to_owned(),
                alias: alias.to_owned(),
                subject: id.clone(),
                occasion: ring.occasion,
                step: Step::Tell { kind: Kind::Call, until: ring.until },
                fields: ring.told.clone()?,
            })
        });
        told.collect()
    }

    fn begin(&mut self, call: &Call, alias: &str, legs: &[&Leg], rules: &Rules, seen: Seen, now: Timestamp) -> Option<Notice> {
        let rings_over_sip = legs.iter().any(|leg| leg.state() == LegState::Alerting);
        if !rules.calls || (rules.only_unless_ringing && rings_over_sip) {
            return None;
        }
        let since = legs.iter().filter_map(|leg| time(leg.start_time.as_ref())).max().or_else(|| time(call.start_time.as_ref()));
        let until = since.unwrap_or(now).checked_add(rules.ring_time).ok()?;
        if until <= now {
            return None;
        }
        let fields = fields(call, alias, until);
        let known = self.0.entry(call.id.clone()).or_default();
        let occasion = known.get(alias).map_or_else(|| Occasion::first(seen, now), |before| before.occasion.next());
        known.insert(alias.to_owned(), Ring { domain: call.domain.clone(), occasion, until, told: Some(fields.clone()) });
        Some(Notice {
            domain: call.domain.clone(),
            alias: alias.to_owned(),
            subject: call.id.clone(),
            occasion,
            step: Step::Tell { kind: Kind::Call, until },
            fields,
        })
    }

    fn end(&mut self, call: &Call, alias: &str, legs: &[&Leg], answered: bool, rules: &Rules, now: Timestamp) -> Vec<Notice> {
        let Some(ring) = self.0.get_mut(&call.id).and_then(|known| known.get_mut(alias)) else { return Vec::new() };
        let Some(mut fields) = ring.told.clone() else { return Vec::new() };
        let why = why(call, legs, answered);
        let mut notices = Vec::from_iter(ring.take_back(&call.id, alias.to_owned(), why));
        // One that was answered on any device, refused, or went elsewhere is not missed.
        if rules.missed_calls
            && matches!(why, Why::CallerGaveUp | Why::NoAnswer)
            && let Ok(until) = now.checked_add(MISSED_FOR)
        {
            fields.push(("ended_at", now.to_string()));
            notices.push(Notice {
                domain: call.domain.clone(),
                alias: alias.to_owned(),
                subject: call.id.clone(),
                occasion: ring.occasion,
                step: Step::Tell { kind: Kind::MissedCall, until },
                fields,
            });
        }
        notices
    }
}

impl Ring {
    fn take_back(&mut self, call: &str, alias: String, why: Why) -> Option<Notice> {
        let mut fields = self.told.take()?;
        fields.push(("reason", why.as_str().to_owned()));
        let step = Step::TakeBack { told: Kind::Call, kind: Kind::CallCancel, why };
        Some(Notice { domain: self.domain.clone(), alias, subject: call.to_owned(), occasion: self.occasion, step, fields })
    }
}

fn is_called(leg: &Leg) -> bool {
    leg.direction() == LegDirection::Terminating && !leg.device.is_empty()
}

/// Whether the leg is on its way to be answered.
fn offered(state: LegState) -> bool {
    matches!(state, LegState::Initiated | LegState::Alerting | LegState::Queued)
}

/// The aliases that the call came to.
fn called(call: &Call) -> BTreeSet<&str> {
    call.legs.iter().filter(|leg| is_called(leg)).map(|leg| leg.device.as_str()).collect()
}

fn why(call: &Call, legs: &[&Leg], answered: bool) -> Why {
    if answered {
        return Why::AnsweredElsewhere;
    }
    // The legs' own causes know better than the call's: it may go on with others.
    let causes = legs.iter().map(|leg| leg.end_cause()).chain([call.end_cause()]);
    let told = causes.filter(|cause| !matches!(cause, EndCause::Unspecified)).collect::<Vec<_>>();
    let is = |wanted: EndCause| told.contains(&wanted);
    if is(EndCause::AnsweredElsewhere) {
        Why::AnsweredElsewhere
    } else if is(EndCause::Rejected) {
        Why::Declined
    } else if call.answer_time.is_some() || !call.answered_by.is_empty() {
        Why::AnsweredElsewhere
    } else if is(EndCause::CallerGaveUp) {
        Why::CallerGaveUp
    } else if is(EndCause::NoAnswer) {
        Why::NoAnswer
    } else if call.state() == CallState::Ended && call.end_cause() == EndCause::Normal {
        // Hung up in the ordinary way before anybody answered: by the caller, who else.
        Why::CallerGaveUp
    } else {
        Why::Ended
    }
}

fn fields(call: &Call, alias: &str, until: Timestamp) -> Fields {
    let start = time(call.start_time.as_ref()).map(|start| start.to_string());
    vec![
        ("call_id", call.id.clone()),
        ("switch_call_id", call.switch_call_id.clone()),
        ("domain", call.domain.clone()),
        ("alias", alias.to_owned()),
        ("caller", call.calling_number.clone()),
        ("called", call.called_number.clone()),
        ("started_at", start.unwrap_or_default()),
        ("expires_at", until.as_second().to_string()),
    ]
}

pub(crate) fn time(time: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    time.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok())
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, time::Duration};

    use super::*;
    use crate::Policy;

    const NOW: i64 = 1_790_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(NOW + second).unwrap()
    }

    fn rules() -> Rules {
        Rules { calls: true, ring_time: Duration::from_secs(60), only_unless_ringing: false, missed_calls: true, conferences: true }
    }

    fn policy(rules: Rules) -> Policy {
        Policy::new(HashMap::from([("biysk.local".to_owned(), rules)]))
    }

    fn leg(device: &str, direction: LegDirection, state: LegState) -> Leg {
        Leg {
            id: device.to_owned(),
            device: device.to_owned(),
            state: state.into(),
            direction: direction.into(),
            start_time: Some(prost_types::Timestamp { seconds: NOW, nanos: 0 }),
            ..Default::default()
        }
    }

    fn ringing(devices: &[&str]) -> Call {
        let called = devices.iter().map(|device| leg(device, LegDirection::Terminating, LegState::Alerting));
        Call {
            id: "call".to_owned(),
            domain: "biysk.local".to_owned(),
            state: CallState::Alerting.into(),
            calling_number: "1001".to_owned(),
            start_time: Some(prost_types::Timestamp { seconds: NOW, nanos: 0 }),
            legs: [leg("1001", LegDirection::Originating, LegState::Initiated)].into_iter().chain(called).collect(),
            ..Default::default()
        }
    }

    fn ended(mut call: Call, cause: EndCause) -> Call {
        call.set_state(CallState::Ended);
        call.set_end_cause(cause);
        call.legs.iter_mut().for_each(|leg| leg.set_state(LegState::Released));
        call
    }

    fn steps(notices: &[Notice]) -> Vec<(&str, Kind, Option<Why>)> {
        let step = |notice: &Notice| match notice.step {
            Step::Tell { kind, .. } => (kind, None),
            Step::TakeBack { kind, why, .. } => (kind, Some(why)),
        };
        notices
            .iter()
            .map(|notice| {
                let (kind, why) = step(notice);
                (notice.alias.as_str(), kind, why)
            })
            .collect()
    }

    #[test]
    fn a_ringing_call_is_told_once_with_what_is_left_of_its_ring_time() {
        let mut policy = policy(rules());
        let told = policy.call(&ringing(&["1002"]), at(20));
        assert_eq!(steps(&told), [("1002", Kind::Call, None)]);
        assert_eq!(told[0].step, Step::Tell { kind: Kind::Call, until: at(60) });
        assert!(told[0].fields.contains(&("caller", "1001".to_owned())));
        assert!(policy.call(&ringing(&["1002"]), at(21)).is_empty());
        assert_eq!(policy.open(), 1);
    }

    #[test]
    fn trial_15_a_call_that_has_rung_its_time_is_not_told() {
        assert!(policy(rules()).call(&ringing(&["1002"]), at(60)).is_empty());
    }

    #[test]
    fn trial_16_an_alias_whose_phone_rings_over_sip_gets_no_push_where_it_is_so_configured() {
        let mut policy = policy(Rules { only_unless_ringing: true, ..rules() });
        assert!(policy.call(&ringing(&["1002"]), at(1)).is_empty());
        let mut call = ringing(&["1003"]);
        call.legs[1].set_state(LegState::Initiated);
        assert_eq!(steps(&policy.call(&call, at(1))), [("1003", Kind::Call, None)]);
        // It is woken, registers and rings: that is no reason to take anything back.
        call.legs[1].set_state(LegState::Alerting);
        assert!(policy.call(&call, at(2)).is_empty());
    }

    #[test]
    fn trial_16_whoever_ends_the_ringing_the_push_is_taken_back_with_the_reason_and_missed_only_if_nobody_answered() {
        for (cause, why, missed) in [
            (EndCause::CallerGaveUp, Why::CallerGaveUp, true),
            (EndCause::NoAnswer, Why::NoAnswer, true),
            (EndCause::Normal, Why::CallerGaveUp, true),
            (EndCause::Rejected, Why::Declined, false),
            (EndCause::AnsweredElsewhere, Why::AnsweredElsewhere, false),
            (EndCause::Redirected, Why::Ended, false),
            (EndCause::Lost, Why::Ended, false),
        ] {
            let mut policy = policy(rules());
            policy.call(&ringing(&["1002"]), at(1));
            let notices = policy.call(&ended(ringing(&["1002"]), cause), at(9));
            let mut wanted = vec![("1002", Kind::CallCancel, Some(why))];
            wanted.extend(missed.then_some(("1002", Kind::MissedCall, None)));
            assert_eq!(steps(&notices), wanted, "{cause:?}");
            assert!(policy.call(&ended(ringing(&["1002"]), cause), at(10)).is_empty());
            assert_eq!(policy.open(), 0);
        }
    }

    #[test]
    fn trial_27_answered_on_one_device_it_is_taken_back_from_all_and_is_missed_by_nobody() {
        let mut policy = policy(rules());
        policy.call(&ringing(&["1002", "1003"]), at(1));
        let mut call = ringing(&["1002", "1003"]);
        call.set_state(CallState::Connected);
        call.answered_by = "1002".to_owned();
        call.legs[1].set_state(LegState::Connected);
        call.legs[2].set_state(LegState::Released);
        let notices = policy.call(&call, at(5));
        let elsewhere = Some(Why::AnsweredElsewhere);
        assert_eq!(steps(&notices), [("1002", Kind::CallCancel, elsewhere), ("1003", Kind::CallCancel, elsewhere)]);
        assert!(policy.call(&ended(call, EndCause::Normal), at(50)).is_empty());
    }

    #[test]
    fn a_call_that_is_gone_after_an_outage_rings_no_more_and_one_that_rings_still_is_not_told_twice() {
        let mut policy = policy(rules());
        policy.call(&ringing(&["1002"]), at(1));
        assert!(policy.snapshot(&[ringing(&["1002"])], &[], at(2)).is_empty());
        assert_eq!(steps(&policy.snapshot(&[], &[], at(3))), [("1002", Kind::CallCancel, Some(Why::Ended))]);
    }

    #[test]
    fn a_call_that_comes_back_to_an_alias_is_told_and_taken_back_again_as_another_push() {
        let mut policy = policy(rules());
        policy.snapshot(&[], &[], at(-9));
        let first = policy.call(&ringing(&["1002"]), at(1));
        let mut away = ringing(&["1002"]);
        away.legs[1].set_state(LegState::Released);
        policy.call(&away, at(2));
        assert_eq!(policy.open(), 0);
        let again = policy.call(&ringing(&["1002"]), at(3));
        assert_eq!(steps(&again), [("1002", Kind::Call, None)]);
        assert_eq!((first[0].occasion, again[0].occasion), (Occasion(0), Occasion(1)));
        let back = policy.call(&ended(ringing(&["1002"]), EndCause::CallerGaveUp), at(9));
        assert!(back.iter().all(|notice| notice.occasion == Occasion(1)) && back.len() == 2, "{back:?}");
    }

    #[test]
    fn after_a_restart_what_still_rings_is_the_same_push_and_what_rings_later_is_not_taken_for_it() {
        let mut policy = policy(rules());
        let still = policy.snapshot(&[ringing(&["1002"])], &[], at(1));
        assert_eq!(still[0].occasion, Occasion(0));
        let later = policy.call(&ringing(&["1002", "1003"]), at(2));
        assert_eq!(steps(&later), [("1003", Kind::Call, None)]);
        assert!(later[0].occasion.0 > 1, "{later:?}");
    }

    #[test]
    fn a_device_that_comes_while_it_rings_is_told_the_same_and_after_that_nothing() {
        let mut policy = policy(rules());
        let told = policy.call(&ringing(&["1002"]), at(1));
        assert_eq!(policy.open_of("biysk.local", "1002"), told);
        assert!(policy.open_of("biysk.local", "1001").is_empty() && policy.open_of("other.local", "1002").is_empty());
        policy.call(&ended(ringing(&["1002"]), EndCause::CallerGaveUp), at(2));
        assert!(policy.open_of("biysk.local", "1002").is_empty());
    }

    #[test]
    fn rules_that_are_gone_leave_no_phone_ringing() {
        let mut policy = policy(rules());
        policy.call(&ringing(&["1002"]), at(1));
        policy.set_rules(HashMap::new());
        assert_eq!(
            steps(&policy.call(&ended(ringing(&["1002"]), EndCause::NoAnswer), at(2))),
            [("1002", Kind::CallCancel, Some(Why::NoAnswer))]
        );
        assert_eq!(policy.open(), 0);
    }

    #[test]
    fn in_a_domain_where_the_switch_pushes_calls_itself_none_is_told() {
        let mut policy = policy(Rules { calls: false, ..rules() });
        assert!(policy.call(&ringing(&["1002"]), at(1)).is_empty());
        let mut other = ringing(&["1002"]);
        other.domain = "other.local".to_owned();
        assert!(policy.call(&other, at(1)).is_empty());
    }
}
