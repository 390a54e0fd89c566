//! Call commands and queries.

use super::{
    Switch, Tx,
    legs::{bad_state, is_on_line, no_such_call},
    subscribers::no_such_subscriber,
};
use crate::{
    call::{CallKind, CallView, Cause, Direction, HistoryFilter, HistoryKind, LegState, LegView, Outcome},
    event::CallChange,
    refusal::{Refusal, RefusalCause},
};

// === Commands ===

impl Switch {
    /// Click to call: `from`'s phone is prompted (without `prompt` it is connected at once), and when it answers `to` is rung.
    pub fn make_call(&self, domain: &str, from: &str, to: &str, prompt: bool) -> Result<Outcome, Refusal> {
        self.with(|tx| {
            if !tx.domain(domain)?.is_subscriber(from) {
                return Err(no_such_subscriber(from));
            }
            tx.require_number(domain, to)?;
            let call = tx.open_call(domain, CallKind::ClickToCall, from, to)?;
            let leg = tx.add_leg(domain, &call, from, to, Direction::Originating, LegState::Initiated);
            tx.tell(domain, &call, &leg, CallChange::ServiceInitiated, None);
            if prompt {
                tx.schedule_ringing(domain, &call, &leg, from);
            } else {
                tx.originate(domain, &call, &leg);
            }
            Ok(Outcome { call, leg })
        })
    }

    /// A subscriber dials at the phone. A number that does not exist or is busy gives a call that fails.
    pub fn dial(&self, domain: &str, from: &str, to: &str) -> Result<Outcome, Refusal> {
        self.with(|tx| {
            if !tx.domain(domain)?.is_subscriber(from) {
                return Err(no_such_subscriber(from));
            }
            let call = tx.open_call(domain, CallKind::Dialled, from, to)?;
            let leg = tx.add_leg(domain, &call, from, to, Direction::Originating, LegState::Initiated);
            tx.tell(domain, &call, &leg, CallChange::ServiceInitiated, None);
            tx.originate(domain, &call, &leg);
            Ok(Outcome { call, leg })
        })
    }

    /// Answers a ringing or prompted leg.
    pub fn answer(&self, domain: &str, call: &str, leg: &str) -> Result<(), Refusal> {
        self.with(|tx| tx.answer(domain, call, leg))
    }

    /// Refuses a ringing or prompted leg.
    pub fn reject(&self, domain: &str, call: &str, leg: &str) -> Result<(), Refusal> {
        self.with(|tx| tx.reject(domain, call, leg))
    }

    /// Hangs up one leg. The call ends if fewer than two are left, or if the caller gives up.
    pub fn release_leg(&self, domain: &str, call: &str, leg: &str) -> Result<(), Refusal> {
        self.with(|tx| tx.release_leg(domain, call, leg))
    }

    /// Hangs up the whole call.
    pub fn release_call(&self, domain: &str, call: &str) -> Result<(), Refusal> {
        self.with(|tx| {
            let found = tx.domain(domain)?.call(call)?;
            let cause = if found.view.answered_at.is_some() { Cause::Normal } else { Cause::CallerGaveUp };
            tx.finish(domain, call, cause);
            Ok(())
        })
    }

    /// Puts the call on hold at the leg's device.
    pub fn hold(&self, domain: &str, call: &str, leg: &str) -> Result<(), Refusal> {
        self.with(|tx| tx.hold(domain, call, leg))
    }

    /// Takes a held call back.
    pub fn retrieve(&self, domain: &str, call: &str, leg: &str) -> Result<(), Refusal> {
        self.with(|tx| {
            if tx.live_leg(domain, call, leg)?.state != LegState::Held {
                return Err(bad_state("the leg is not on hold"));
            }
            tx.change(domain, call, leg, LegState::Connected, CallChange::Retrieved, None);
            Ok(())
        })
    }

    /// Holds the leg and calls `to` from its device.
    pub fn consult(&self, domain: &str, call: &str, leg: &str, to: &str) -> Result<Outcome, Refusal> {
        self.with(|tx| {
            let found = tx.live_leg(domain, call, leg)?;
            tx.require_number(domain, to)?;
            if found.state == LegState::Connected {
                if !tx.domain(domain)?.call(call)?.talks_with_another(leg) {
                    return Err(bad_state("nobody is on the line with the leg"));
                }
            } else if found.state != LegState::Held {
                return Err(bad_state("the leg does not talk"));
            }
            let new = tx.open_call(domain, CallKind::Consultation, &found.device, to)?;
            if found.state == LegState::Connected {
                tx.hold(domain, call, leg)?;
            }
            let new_leg = tx.add_leg(domain, &new, &found.device, to, Direction::Originating, LegState::Initiated);
            tx.tell(domain, &new, &new_leg, CallChange::ServiceInitiated, None);
            tx.originate(domain, &new, &new_leg);
            Ok(Outcome { call: new, leg: new_leg })
        })
    }

    /// Drops the consultation call and takes the held one back.
    pub fn transfer_cancel(&self, domain: &str, held: (&str, &str), active: (&str, &str)) -> Result<Outcome, Refusal> {
        self.with(|tx| {
            tx.held_and_active(domain, held, active)?;
            tx.finish(domain, active.0, Cause::Normal);
            tx.change(domain, held.0, held.1, LegState::Connected, CallChange::Retrieved, None);
            Ok(Outcome { call: held.0.to_owned(), leg: held.1.to_owned() })
        })
    }

    /// Swaps the held and the active call of a device.
    pub fn alternate(&self, domain: &str, held: (&str, &str), active: (&str, &str)) -> Result<(), Refusal> {
        self.with(|tx| {
            tx.held_and_active(domain, held, active)?;
            tx.hold(domain, active.0, active.1)?;
            tx.change(domain, held.0, held.1, LegState::Connected, CallChange::Retrieved, None);
            Ok(())
        })
    }

    /// Sends a ringing leg on to another number.
    pub fn deflect(&self, domain: &str, call: &str, leg: &str, to: &str) -> Result<(), Refusal> {
        self.with(|tx| {
            let found = tx.live_leg(domain, call, leg)?;
            if found.state != LegState::Alerting {
                return Err(bad_state("the leg does not ring"));
            }
            tx.require_number(domain, to)?;
            found.device.clone_into(&mut tx.domain(domain)?.call(call)?.last_redirection);
            tx.change(domain, call, leg, LegState::Released, CallChange::Diverted { to: to.to_owned() }, Some(Cause::Redirected));
            for leg in &mut tx.domain(domain)?.call(call)?.view.legs {
                if is_on_line(leg.state) && leg.remote == found.device {
                    leg.remote.clear();
                }
            }
            tx.ring(domain, call, to);
            Ok(())
        })
    }

    /// Plays DTMF digits (`0-9A-D*#`, at most 32) into a talking leg.
    pub fn dtmf(&self, domain: &str, call: &str, leg: &str, digits: &str) -> Result<(), Refusal> {
        self.with(|tx| {
            if tx.live_leg(domain, call, leg)?.state != LegState::Connected {
                return Err(bad_state("the leg does not talk"));
            }
            let fits = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'A'..=b'D' | b'*' | b'#');
            if digits.is_empty() || digits.len() > 32 || !digits.bytes().all(fits) {
                return Err(bad_state("these are no DTMF digits"));
            }
            tx.emit_digits(domain, call, leg, digits);
            Ok(())
        })
    }
}

impl Tx<'_> {
    pub(super) fn originate(&mut self, domain: &str, call: &str, leg: &str) {
        self.change(domain, call, leg, LegState::Connected, CallChange::Originated, None);
        let called = self.domain(domain).ok().and_then(|at| at.call(call).ok()).map(|call| call.view.called.clone());
        if let Some(called) = called {
            self.ring(domain, call, &called);
        }
    }

    pub(super) fn answer(&mut self, domain: &str, call: &str, leg: &str) -> Result<(), Refusal> {
        let found = self.live_leg(domain, call, leg)?;
        match found.state {
            LegState::Initiated => {
                self.originate(domain, call, leg);
                Ok(())
            }
            LegState::Alerting => {
                self.establish(domain, call, leg, &found.device);
                Ok(())
            }
            _ => Err(bad_state("the leg does not ring")),
        }
    }

    fn establish(&mut self, domain: &str, call: &str, leg: &str, device: &str) {
        let now = self.now;
        let Some(found) = self.domain(domain).ok().and_then(|at| at.call(call).ok()) else { return };
        if found.view.answered_at.is_none() {
            found.view.answered_at = Some(now);
            found.view.answered_by = Some(device.to_owned());
        }
        for other in &mut found.view.legs {
            if other.id == leg {
                other.answered_at = Some(now);
            } else if is_on_line(other.state) {
                other.answered_at = other.answered_at.or(Some(now));
                device.clone_into(&mut other.remote);
            }
        }
        let others: Vec<_> =
            found.live().filter(|other| other.id != leg && other.state == LegState::Alerting).map(|leg| leg.id.clone()).collect();
        self.change(domain, call, leg, LegState::Connected, CallChange::Established, None);
        for other in others {
            self.release(domain, call, &other, Cause::AnsweredElsewhere);
        }
    }

    pub(super) fn reject(&mut self, domain: &str, call: &str, leg: &str) -> Result<(), Refusal> {
        let found = self.live_leg(domain, call, leg)?;
        match found.state {
            LegState::Initiated => self.finish(domain, call, Cause::Rejected),
            LegState::Alerting => {
                self.release(domain, call, leg, Cause::Rejected);
                self.after_ringing(domain, call, Cause::Rejected);
            }
            _ => return Err(bad_state("the leg does not ring")),
        }
        Ok(())
    }

    pub(super) fn release_leg(&mut self, domain: &str, call: &str, leg: &str) -> Result<(), Refusal> {
        let found = self.live_leg(domain, call, leg)?;
        let answered = self.domain(domain)?.call(call)?.view.answered_at.is_some();
        match found.state {
            LegState::Alerting => return self.reject(domain, call, leg),
            _ if found.direction == Direction::Originating && !answered => self.finish(domain, call, Cause::CallerGaveUp),
            _ => {
                self.release(domain, call, leg, Cause::Normal);
                self.end_if_alone(domain, call, Cause::Normal);
                self.serve_queues(domain);
            }
        }
        Ok(())
    }

    pub(super) fn hold(&mut self, domain: &str, call: &str, leg: &str) -> Result<(), Refusal> {
        let state = self.live_leg(domain, call, leg)?.state;
        if state != LegState::Connected || !self.domain(domain)?.call(call)?.talks_with_another(leg) {
            return Err(bad_state("the leg does not talk"));
        }
        self.change(domain, call, leg, LegState::Held, CallChange::Held, None);
        Ok(())
    }

    /// Checks that one device has both, the first held and the second active.
    pub(super) fn held_and_active(
        &mut self,
        domain: &str,
        held: (&str, &str),
        active: (&str, &str),
    ) -> Result<(LegView, LegView), Refusal> {
        let first = self.live_leg(domain, held.0, held.1)?;
        let second = self.live_leg(domain, active.0, active.1)?;
        if held.0 == active.0 || first.device != second.device {
            return Err(bad_state("held and active call are not two calls of one device"));
        }
        if first.state != LegState::Held || second.state != LegState::Connected {
            return Err(bad_state("the first call must be held and the second active"));
        }
        Ok((first, second))
    }
}

// === Queries ===

impl Switch {
    /// Calls going on, in one domain or in all.
    pub fn calls(&self, domain: Option<&str>) -> Vec<CallView> {
        let state = self.0.state.lock();
        let wanted = state.domains.iter().filter(|(name, _)| domain.is_none_or(|domain| domain == name.as_str()));
        wanted.flat_map(|(_, at)| at.calls.values().map(|call| call.view.clone())).collect()
    }

    /// How many calls are going on, in one domain or in all.
    pub fn call_count(&self, domain: Option<&str>) -> usize {
        let state = self.0.state.lock();
        state.domains.iter().filter(|(name, _)| domain.is_none_or(|domain| domain == name.as_str())).map(|(_, at)| at.calls.len()).sum()
    }

    /// A call going on.
    pub fn call(&self, domain: &str, call: &str) -> Result<CallView, Refusal> {
        self.read(domain, |at| at.calls.get(call).map(|call| call.view.clone()).ok_or_else(no_such_call))?
    }

    /// The legs of a device that are not released.
    pub fn device_legs(&self, domain: &str, device: &str) -> Result<Vec<LegView>, Refusal> {
        self.read(domain, |at| {
            if !at.exists(device) {
                return Err(no_such_subscriber(device));
            }
            let calls = at.devices.get(device).into_iter().flatten().filter_map(|call| at.calls.get(call));
            Ok(calls.flat_map(|call| call.live().filter(|leg| leg.device == device).cloned()).collect())
        })?
    }

    /// Calls of a domain, newest first: those going on, then the finished ones that are still kept.
    pub fn history(&self, domain: &str, filter: &HistoryFilter) -> Result<Vec<CallView>, Refusal> {
        self.read(domain, |at| {
            let fits = |call: &&CallView| {
                filter.from.is_none_or(|from| call.started_at >= from)
                    && filter.to.is_none_or(|to| call.started_at <= to)
                    && (filter.addresses.is_empty() || filter.addresses.iter().any(|pattern| call_fits(call, pattern)))
            };
            let mut active: Vec<_> = at.calls.values().map(|call| &call.view).filter(|_| filter.kind != HistoryKind::Finished).collect();
            active.sort_by_key(|call| std::cmp::Reverse(call.started_at));
            let finished = at.history.iter().rev().filter(|_| filter.kind != HistoryKind::Active);
            let limit = if filter.limit == 0 { usize::MAX } else { filter.limit };
            active.into_iter().chain(finished).filter(fits).take(limit).cloned().collect()
        })
    }

    /// Answers what rings at a subscriber's phone: a call, a prompt, or the invitation of a conference.
    pub fn device_answer(&self, domain: &str, alias: &str) -> Result<(), Refusal> {
        self.with(|tx| match tx.ringing_at(domain, alias)? {
            Some(leg) => tx.answer(domain, &leg.call, &leg.id),
            None => {
                let (conference, member) = tx.invitation_of(domain, alias)?;
                tx.pick_up(domain, &conference, &member)
            }
        })
    }

    /// Refuses what rings at a subscriber's phone.
    pub fn device_reject(&self, domain: &str, alias: &str) -> Result<(), Refusal> {
        self.with(|tx| match tx.ringing_at(domain, alias)? {
            Some(leg) => tx.reject(domain, &leg.call, &leg.id),
            None => {
                let (conference, member) = tx.invitation_of(domain, alias)?;
                tx.leave(domain, &conference, &member, Cause::Rejected)
            }
        })
    }

    /// Hangs up every leg of a subscriber's phone; how many there were.
    pub fn device_hang_up(&self, domain: &str, alias: &str) -> Result<usize, Refusal> {
        let legs = self.device_legs(domain, alias)?;
        let count = legs.len();
        for leg in legs {
            match self.release_leg(domain, &leg.call, &leg.id) {
                // It went with another of its legs.
                Err(Refusal { cause: RefusalCause::NoSuchCall, .. }) | Ok(()) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(count)
    }
}

impl Tx<'_> {
    fn ringing_at(&mut self, domain: &str, alias: &str) -> Result<Option<LegView>, Refusal> {
        let at = self.domain(domain)?;
        if !at.is_subscriber(alias) {
            return Err(no_such_subscriber(alias));
        }
        let calls = at.devices.get(alias).into_iter().flatten().filter_map(|call| at.calls.get(call));
        let rings = |leg: &&LegView| leg.device == alias && matches!(leg.state, LegState::Alerting | LegState::Initiated);
        Ok(calls.flat_map(|call| call.live()).find(rings).cloned())
    }
}

fn call_fits(call: &CallView, pattern: &str) -> bool {
    number_fits(&call.calling, pattern)
        || number_fits(&call.called, pattern)
        || call.answered_by.as_ref().is_some_and(|number| number_fits(number, pattern))
}

/// `%` at either end stands for anything.
fn number_fits(number: &str, pattern: &str) -> bool {
    let (open_start, rest) = pattern.strip_prefix('%').map_or((false, pattern), |rest| (true, rest));
    let (open_end, core) = rest.strip_suffix('%').map_or((false, rest), |core| (true, core));
    match (open_start, open_end) {
        (false, false) => number == core,
        (true, false) => number.ends_with(core),
        (false, true) => number.starts_with(core),
        (true, true) => number.contains(core),
    }
}
