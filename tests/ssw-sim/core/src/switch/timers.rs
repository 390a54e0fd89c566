//! What happens by itself: phones that answer, ring out or refuse, members that are reached, conferences that reach their end.

use std::time::Duration;

use jiff::Timestamp;

use super::{Switch, Tx};
use crate::{
    call::{Cause, LegState},
    conference::ParticipantStatus,
    subscriber::Answer,
};

/// Something due later. Each looks first whether it still makes sense.
#[derive(Debug, Clone)]
pub(super) enum Timer {
    /// A ringing leg is answered.
    Answer { domain: String, call: String, leg: String },
    /// A ringing leg is refused.
    Reject { domain: String, call: String, leg: String },
    /// A leg has rung long enough.
    RungOut { domain: String, call: String, leg: String },
    /// A member's phone begins to ring.
    MemberRings { domain: String, conference: String, member: String },
    /// A member answers.
    MemberAnswers { domain: String, conference: String, member: String },
    /// A member is given up or refuses.
    MemberFails { domain: String, conference: String, member: String, cause: Cause },
    /// A conference may have reached its planned end.
    ConferenceEnds { domain: String, conference: String },
}

impl Switch {
    /// Does everything that is due by the clock. Call it often (every 10 to 50 ms); without it nothing happens by itself.
    pub fn tick(&self) {
        self.with(|tx| {
            while let Some(entry) = tx.state.timers.first_entry() {
                if entry.key().0 > tx.now {
                    break;
                }
                let timer = entry.remove();
                tx.fire(timer);
            }
        });
    }

    /// When something is due next.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.0.state.lock().timers.first_key_value().map(|((at, _), _)| *at)
    }
}

impl Tx<'_> {
    pub(super) fn schedule(&mut self, after: Duration, timer: Timer) {
        let at = self.now.saturating_add(after).unwrap_or(self.now);
        self.schedule_at(at, timer);
    }

    pub(super) fn schedule_at(&mut self, at: Timestamp, timer: Timer) {
        let serial = self.serial();
        self.state.timers.insert((at, serial), timer);
    }

    /// What a phone that begins to ring will do.
    pub(super) fn schedule_ringing(&mut self, domain: &str, call: &str, leg: &str, alias: &str) {
        let answer = self.state.domains.get(domain).map_or(Answer::Never, |at| at.answer_of(alias));
        let (domain, call, leg) = (domain.to_owned(), call.to_owned(), leg.to_owned());
        let ring_time = self.options.ring_time;
        match answer {
            Answer::After { ms } if Duration::from_millis(u64::from(ms)) < ring_time => {
                self.schedule(Duration::from_millis(u64::from(ms)), Timer::Answer { domain, call, leg });
            }
            Answer::Reject => self.schedule(Duration::ZERO, Timer::Reject { domain, call, leg }),
            _ => self.schedule(ring_time, Timer::RungOut { domain, call, leg }),
        }
    }

    /// Ringing legs that went over into another call go on ringing there.
    pub(super) fn schedule_moved(&mut self, domain: &str, call: &str) {
        let Some(found) = self.state.domains.get(domain).and_then(|at| at.calls.get(call)) else { return };
        let ringing: Vec<_> =
            found.live().filter(|leg| leg.state == LegState::Alerting).map(|leg| (leg.id.clone(), leg.device.clone())).collect();
        for (leg, device) in ringing {
            self.schedule_ringing(domain, call, &leg, &device);
        }
    }

    fn rings(&self, domain: &str, call: &str, leg: &str) -> Option<LegState> {
        let state = self.state.domains.get(domain)?.calls.get(call)?.leg(leg)?.state;
        matches!(state, LegState::Alerting | LegState::Initiated).then_some(state)
    }

    fn fire(&mut self, timer: Timer) {
        match timer {
            Timer::Answer { domain, call, leg } => {
                if self.rings(&domain, &call, &leg).is_some() {
                    // It rings, so it can be answered.
                    let _ = self.answer(&domain, &call, &leg);
                }
            }
            Timer::Reject { domain, call, leg } => {
                if self.rings(&domain, &call, &leg).is_some() {
                    let _ = self.reject(&domain, &call, &leg);
                }
            }
            Timer::RungOut { domain, call, leg } => match self.rings(&domain, &call, &leg) {
                Some(LegState::Alerting) => {
                    self.release(&domain, &call, &leg, Cause::NoAnswer);
                    self.after_ringing(&domain, &call, Cause::NoAnswer);
                }
                Some(_) => self.finish(&domain, &call, Cause::NoAnswer),
                None => {}
            },
            Timer::MemberRings { domain, conference, member } => self.member_rings(&domain, &conference, &member),
            Timer::MemberAnswers { domain, conference, member } => {
                if self.is_invited(&domain, &conference, &member) {
                    let _ = self.pick_up(&domain, &conference, &member);
                }
            }
            Timer::MemberFails { domain, conference, member, cause } => {
                if self.is_invited(&domain, &conference, &member) {
                    let _ = self.leave(&domain, &conference, &member, cause);
                }
            }
            Timer::ConferenceEnds { domain, conference } => self.planned_end(&domain, &conference),
        }
    }

    fn is_invited(&mut self, domain: &str, conference: &str, member: &str) -> bool {
        use ParticipantStatus::{Alerting, DialingOut, Pending};
        let found = self.member(domain, conference, member);
        found.is_ok_and(|member| matches!(member.status, Pending | DialingOut | Alerting))
    }

    fn member_rings(&mut self, domain: &str, conference: &str, member: &str) {
        let Ok(found) = self.member(domain, conference, member) else { return };
        if found.status != ParticipantStatus::DialingOut {
            return;
        }
        let number = found.number.clone();
        let Ok(at) = self.domain(domain) else { return };
        let answer = if at.device_count(&number) == 0 { None } else { Some(at.answer_of(&number)) };
        let (own_domain, own_conference, own_member) = (domain.to_owned(), conference.to_owned(), member.to_owned());
        let fails = |cause| Timer::MemberFails {
            domain: own_domain.clone(),
            conference: own_conference.clone(),
            member: own_member.clone(),
            cause,
        };
        let (after, next) = match answer {
            None => (Duration::ZERO, fails(Cause::Unobtainable)),
            Some(Answer::Busy) => (Duration::ZERO, fails(Cause::Busy)),
            Some(Answer::Reject) => (Duration::ZERO, fails(Cause::Rejected)),
            Some(Answer::Never) => (self.options.ring_time, fails(Cause::NoAnswer)),
            Some(Answer::After { ms }) => (
                Duration::from_millis(u64::from(ms)),
                Timer::MemberAnswers { domain: own_domain.clone(), conference: own_conference.clone(), member: own_member.clone() },
            ),
        };
        if !matches!(answer, None | Some(Answer::Busy)) {
            self.set_status(domain, conference, member, ParticipantStatus::Alerting);
        }
        self.schedule(after, next);
    }
}
