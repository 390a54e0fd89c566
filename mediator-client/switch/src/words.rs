//! The switch's words as values and back, by the vocabularies of a dialect: the one place that knows the canonical words.

use std::collections::BTreeMap;

use crate::{
    command::Role,
    dialect::Words,
    event::{Cause, Direction, LegState, ParticipantStatus, Recording},
};

/// Canonical word → the switch's; of each list the first is written, all are read, without regard to case.
pub type Vocabulary = BTreeMap<String, Vec<String>>;

/// Canonical words and what they mean.
pub(crate) type Meanings<T> = [(&'static str, T)];

pub(crate) const BOOLEAN: &Meanings<bool> = &[("true", true), ("false", false)];
pub(crate) const LEG_STATE: &Meanings<LegState> = &[
    ("initiated", LegState::Initiated),
    ("alerting", LegState::Alerting),
    ("queued", LegState::Queued),
    ("connected", LegState::Connected),
    ("held", LegState::Held),
    ("failed", LegState::Failed),
    ("released", LegState::Released),
];
pub(crate) const DIRECTION: &Meanings<Direction> = &[("originating", Direction::Originating), ("terminating", Direction::Terminating)];
pub(crate) const PARTICIPANT_STATUS: &Meanings<ParticipantStatus> = &[
    ("pending", ParticipantStatus::Pending),
    ("dialing_out", ParticipantStatus::DialingOut),
    ("dialing_in", ParticipantStatus::DialingIn),
    ("alerting", ParticipantStatus::Alerting),
    ("on_hold", ParticipantStatus::OnHold),
    ("connected", ParticipantStatus::Connected),
    ("disconnecting", ParticipantStatus::Disconnecting),
    ("disconnected", ParticipantStatus::Disconnected),
];
pub(crate) const ROLE: &Meanings<Role> = &[("participant", Role::Participant), ("presenter", Role::Presenter)];
pub(crate) const RECORDING: &Meanings<Recording> = &[("off", Recording::Off), ("on", Recording::On), ("paused", Recording::Paused)];
pub(crate) const CAUSE: &Meanings<Cause> = &[
    ("normal", Cause::Normal),
    ("busy", Cause::Busy),
    ("no_answer", Cause::NoAnswer),
    ("rejected", Cause::Rejected),
    ("caller_gave_up", Cause::CallerGaveUp),
    ("answered_elsewhere", Cause::AnsweredElsewhere),
    ("unobtainable", Cause::Unobtainable),
    ("redirected", Cause::Redirected),
    ("transfer", Cause::Transfer),
    ("conference", Cause::Conference),
    ("no_resources", Cause::NoResources),
    ("other", Cause::Other),
];

impl Words {
    /// A flag.
    pub fn boolean(&self, text: &str) -> Option<bool> {
        read(&self.boolean, BOOLEAN, text)
    }

    /// A flag in the switch's word.
    pub fn boolean_word(&self, value: bool) -> &str {
        written(&self.boolean, BOOLEAN, value)
    }

    /// A leg's state.
    pub fn leg_state(&self, text: &str) -> Option<LegState> {
        read(&self.leg_state, LEG_STATE, text)
    }

    /// A leg's end of its call.
    pub fn direction(&self, text: &str) -> Option<Direction> {
        read(&self.direction, DIRECTION, text)
    }

    /// A member's connection.
    pub fn participant_status(&self, text: &str) -> Option<ParticipantStatus> {
        read(&self.participant_status, PARTICIPANT_STATUS, text)
    }

    /// A member's role.
    pub fn role(&self, text: &str) -> Option<Role> {
        read(&self.role, ROLE, text)
    }

    /// A role in the switch's word.
    pub fn role_word(&self, value: Role) -> &str {
        written(&self.role, ROLE, value)
    }

    /// The state of a recording.
    pub fn recording(&self, text: &str) -> Option<Recording> {
        read(&self.recording, RECORDING, text)
    }

    /// A cause. One that the dialect does not know is still a cause; an empty text is none.
    pub fn cause(&self, text: &str) -> Option<Cause> {
        cause(&self.cause, text)
    }
}

/// A cause by its vocabulary alone.
pub fn cause(vocabulary: &Vocabulary, text: &str) -> Option<Cause> {
    (!text.trim().is_empty()).then(|| read(vocabulary, CAUSE, text).unwrap_or(Cause::Other))
}

fn read<T: Copy>(vocabulary: &Vocabulary, meanings: &Meanings<T>, text: &str) -> Option<T> {
    let text = text.trim();
    // Written letters of any script are compared, as the check of a dialect does.
    let same = |word: &String| word.eq_ignore_ascii_case(text) || (!text.is_ascii() && word.to_lowercase() == text.to_lowercase());
    let (canonical, _) = vocabulary.iter().find(|(_, words)| words.iter().any(same))?;
    meanings.iter().find(|(word, _)| word == canonical).map(|(_, meaning)| *meaning)
}

/// The switch's word; the canonical one where the dialect has none.
fn written<'v, T: PartialEq>(vocabulary: &'v Vocabulary, meanings: &'static Meanings<T>, value: T) -> &'v str {
    let canonical = meanings.iter().find(|(_, meaning)| *meaning == value).map_or("", |(word, _)| *word);
    vocabulary.get(canonical).and_then(|words| words.first()).map_or(canonical, String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dialect;

    #[test]
    fn every_word_of_both_dialects_has_a_value() {
        for name in ["sim", "documented"] {
            let words = Dialect::built_in(name).unwrap().words;
            let all = |vocabulary: &Vocabulary| vocabulary.values().flatten().map(|word| word.to_uppercase()).collect::<Vec<_>>();
            assert!(all(&words.leg_state).iter().all(|word| words.leg_state(word).is_some()));
            assert!(all(&words.direction).iter().all(|word| words.direction(word).is_some()));
            assert!(all(&words.participant_status).iter().all(|word| words.participant_status(word).is_some()));
            assert!(all(&words.role).iter().all(|word| words.role(word).is_some()));
            assert!(all(&words.recording).iter().all(|word| words.recording(word).is_some()));
            assert!(all(&words.boolean).iter().all(|word| words.boolean(word).is_some()));
            let other = all(&words.cause).iter().filter(|word| words.cause(word) == Some(Cause::Other)).count();
            assert_eq!(other, 1);
            assert_eq!((words.boolean_word(false), words.role_word(Role::Presenter)), ("false", "presenter"));
        }
    }

    #[test]
    fn unknown_words_are_none_but_an_unknown_cause_is_another_one() {
        let mut words = Dialect::built_in("sim").unwrap().words;
        assert_eq!((words.leg_state("dancing"), words.boolean(""), words.cause(" ")), (None, None, None));
        assert_eq!(words.cause("dancing"), Some(Cause::Other));
        words.boolean.insert("true".to_owned(), vec!["Да".to_owned(), "ja".to_owned()]);
        assert_eq!((words.boolean(" ДА "), words.boolean("JA"), words.boolean_word(true)), (Some(true), Some(true), "Да"));
    }
}
