//! One record of an event or list: its attributes by the dialect's fields, read into values, with every one that could not be
//! read counted.

use std::{cell::Cell, collections::BTreeMap};

use ecss_switch::{
    Alias, Dialect, Domain, SwitchCallId, SwitchConferenceId, SwitchLegId, SwitchParticipantId,
    dialect::{Field, Words},
    event::{Cause, LegObservation},
};
use jiff::Timestamp;

use super::time;
use crate::tree::Element;

/// A record and what was wrong with it.
pub(super) struct Record<'r> {
    element: &'r Element<'r>,
    fields: &'r BTreeMap<Field, String>,
    dialect: &'r Dialect,
    /// Values that were not understood; the observation stands without them.
    unread: Cell<u32>,
    /// Values that were not understood and without which the state may be wrong.
    lost: Cell<u32>,
}

impl<'r> Record<'r> {
    pub(super) fn new(element: &'r Element<'r>, fields: &'r BTreeMap<Field, String>, dialect: &'r Dialect) -> Self {
        Self { element, fields, dialect, unread: Cell::new(0), lost: Cell::new(0) }
    }

    pub(super) fn unread(&self) -> u32 {
        self.unread.get()
    }

    pub(super) fn lost(&self) -> u32 {
        self.lost.get()
    }

    /// The attribute of a field, trimmed; an empty one is none.
    pub(super) fn text(&self, field: Field) -> Option<&'r str> {
        self.raw(field).filter(|text| !text.is_empty())
    }

    fn raw(&self, field: Field) -> Option<&'r str> {
        let element: &'r Element<'r> = self.element;
        element.get(self.fields.get(&field)?).map(str::trim)
    }

    /// A value whose loss leaves the observation right.
    fn minor<T>(&self, field: Field, read: impl FnOnce(&'r str) -> Option<T>) -> Option<T> {
        let text = self.text(field)?;
        let value = read(text);
        if value.is_none() {
            self.unread.set(self.unread.get() + 1);
        }
        value
    }

    /// A value that changes the state: not to understand it is to lose something.
    pub(super) fn state<T>(&self, field: Field, read: impl FnOnce(&Words, &'r str) -> Option<T>) -> Option<T> {
        // an empty text may be a word (`false`) of the dialect; where it is not, it says nothing
        let text = self.raw(field)?;
        let value = read(&self.dialect.words, text);
        if value.is_none() && !text.is_empty() {
            self.lost.set(self.lost.get() + 1);
        }
        value
    }

    pub(super) fn call(&self, field: Field) -> Option<SwitchCallId> {
        self.minor(field, |text| SwitchCallId::parse(text).ok())
    }

    pub(super) fn conference(&self) -> Option<SwitchConferenceId> {
        self.minor(Field::Conference, |text| SwitchConferenceId::parse(text).ok())
    }

    pub(super) fn participant(&self) -> Option<SwitchParticipantId> {
        self.minor(Field::Participant, |text| SwitchParticipantId::parse(text).ok())
    }

    pub(super) fn alias(&self, field: Field) -> Option<Alias> {
        self.minor(field, |text| Alias::parse(text).ok())
    }

    pub(super) fn domain(&self) -> Option<Domain> {
        self.minor(Field::Domain, |text| Domain::parse(text).ok())
    }

    pub(super) fn time(&self, field: Field) -> Option<Timestamp> {
        self.minor(field, |text| time::read(&self.dialect.call_api, text))
    }

    pub(super) fn cause(&self) -> Option<Cause> {
        self.minor(Field::Cause, |text| self.dialect.words.cause(text))
    }

    pub(super) fn number(&self, field: Field) -> Option<u32> {
        self.minor(field, |text| text.parse().ok())
    }

    /// A leg, if call, leg and state are there.
    pub(super) fn leg(&self) -> Option<LegObservation> {
        Some(LegObservation {
            call: self.call(Field::Call)?,
            leg: self.minor(Field::Leg, |text| SwitchLegId::parse(text).ok())?,
            state: self.state(Field::LegState, Words::leg_state)?,
            device: self.alias(Field::Device),
            direction: self.minor(Field::Direction, |text| self.dialect.words.direction(text)),
            remote: self.alias(Field::Remote),
            cause: self.cause(),
            answered_at: self.time(Field::AnsweredAt),
        })
    }
}
