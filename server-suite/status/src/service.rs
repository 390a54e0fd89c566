//! The rules, without I/O: what a person is shown as.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a person has chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// As devices and calls have it.
    #[default]
    Auto,
    /// Away, whatever the devices say.
    Away,
    /// Not to be disturbed: nothing is shown over it.
    DoNotDisturb,
    /// Shown as offline.
    Invisible,
}

/// What a device says of its user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Availability {
    /// Is using it.
    Active,
    /// Has not touched it for a while.
    Idle,
}

/// What others see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Shown {
    /// No device is there.
    Offline,
    /// Devices are there, but nobody at them.
    Away,
    /// There.
    Online,
    /// Talks.
    InCall,
    /// Is in a conference.
    InConference,
    /// Not to be disturbed.
    DoNotDisturb,
}

/// What a person says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Note {
    /// The text.
    pub text: String,
    /// Until when it is shown; absent: until it is changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<Timestamp>,
}

/// A device that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// What it says.
    pub availability: Availability,
    /// It is gone when it has not been heard of by then; none: while its socket is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// When it said so. Where two copies of the server have the same device, it is with the one that heard of it last.
    pub since: Timestamp,
}

/// Devices by id.
pub type Devices = BTreeMap<String, Device>;

/// What is written down of a person, as it is in the database and as copies of the server tell each other.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Chosen {
    /// Counts changes.
    pub version: i64,
    /// See [`Person`].
    pub choice: Choice,
    /// See [`Person`].
    pub choice_until: Option<Timestamp>,
    /// See [`Person`].
    pub note: Option<Note>,
    /// See [`Person`].
    pub hides_last_seen: bool,
    /// See [`Person`].
    pub last_seen: Option<Timestamp>,
}

/// Everything about a person.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Person {
    /// Which change of what is written down this is.
    pub version: i64,
    /// What was chosen.
    pub choice: Choice,
    /// Until when; then it is as devices and calls have it.
    pub choice_until: Option<Timestamp>,
    /// What they say.
    pub note: Option<Note>,
    /// Others do not see when they were last here.
    pub hides_last_seen: bool,
    /// When the last device left.
    pub last_seen: Option<Timestamp>,
    /// Devices that are connected to this copy of the server.
    pub devices: Devices,
    /// Devices that are connected to others, by copy.
    pub elsewhere: BTreeMap<String, Devices>,
    /// When a device last left, of any copy.
    pub left: Option<Timestamp>,
    /// Calls in which they talk or are held.
    pub calls: u32,
    /// Conferences in which they are.
    pub conferences: u32,
}

/// A person as others see them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// The subscriber's number.
    pub alias: String,
    /// In one word. A choice not to be disturbed is shown over a call, a call over being away.
    pub state: Shown,
    /// Whether they talk, also while they do not want to be disturbed.
    pub in_call: bool,
    /// Whether they are in a conference, likewise.
    pub in_conference: bool,
    /// What they say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<Note>,
    /// When they were last here; absent while they are, if it is not known, and if they hide it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_seen: Option<Timestamp>,
}

/// Now, as exactly as the database keeps it.
pub(crate) fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}

// === impl Choice ===

impl Choice {
    /// As the database has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Away => "away",
            Self::DoNotDisturb => "do_not_disturb",
            Self::Invisible => "invisible",
        }
    }

    /// The other way; what is not known is left to devices and calls.
    pub fn of(word: &str) -> Self {
        [Self::Away, Self::DoNotDisturb, Self::Invisible].into_iter().find(|choice| choice.as_str() == word).unwrap_or_default()
    }
}

// === impl Person ===

impl Person {
    /// What others see now.
    pub fn status(&self, alias: &str, now: Timestamp) -> Status {
        let choice = self.choice_at(now);
        let hidden = choice == Choice::Invisible;
        let (in_call, in_conference) = (self.calls > 0 && !hidden, self.conferences > 0 && !hidden);
        let mut devices =
            self.every_device().map(|(_, device)| device).filter(|device| device.until.is_none_or(|until| until > now)).peekable();
        let here = devices.peek().is_some();
        let active = devices.any(|device| device.availability == Availability::Active);
        let state = match choice {
            Choice::Invisible => Shown::Offline,
            Choice::DoNotDisturb => Shown::DoNotDisturb,
            _ if in_conference => Shown::InConference,
            _ if in_call => Shown::InCall,
            _ if !here => Shown::Offline,
            Choice::Away => Shown::Away,
            Choice::Auto if active => Shown::Online,
            Choice::Auto => Shown::Away,
        };
        let seen = if here && !hidden || self.hides_last_seen { None } else { self.last_seen };
        let note = self.note.clone().filter(|note| note.until.is_none_or(|until| until > now));
        Status { alias: alias.to_owned(), state, in_call, in_conference, note, last_seen: seen }
    }

    /// What was chosen and still holds.
    pub fn choice_at(&self, now: Timestamp) -> Choice {
        if self.choice_until.is_some_and(|until| until <= now) { Choice::Auto } else { self.choice }
    }

    /// Takes out what is over by now. Whether the database must hear of it.
    pub fn expire(&mut self, now: Timestamp) -> bool {
        let before = (self.choice, self.note.clone(), self.last_seen);
        if self.choice_until.is_some_and(|until| until <= now) {
            (self.choice, self.choice_until) = (Choice::Auto, None);
        }
        if self.note.as_ref().is_some_and(|note| note.until.is_some_and(|until| until <= now)) {
            self.note = None;
        }
        let late = self.every_device().filter_map(|(_, device)| device.until).filter(|until| *until <= now).max();
        if let Some(late) = late {
            for devices in self.elsewhere.values_mut().chain([&mut self.devices]) {
                devices.retain(|_, device| device.until.is_none_or(|until| until > now));
            }
            self.elsewhere.retain(|_, devices| !devices.is_empty());
            self.leave(late);
        }
        before != (self.choice, self.note.clone(), self.last_seen)
    }

    /// When something is over next.
    pub fn due(&self) -> Option<Timestamp> {
        let note = self.note.as_ref().and_then(|note| note.until);
        self.every_device().filter_map(|(_, device)| device.until).chain(self.choice_until).chain(note).min()
    }

    /// Devices of all copies of the server, with their ids.
    pub fn every_device(&self) -> impl Iterator<Item = (&String, &Device)> {
        self.elsewhere.values().flatten().chain(&self.devices)
    }

    /// A device has left, wherever it was. If it was the last one, that is when its user was last seen, and true.
    pub fn leave(&mut self, at: Timestamp) -> bool {
        self.left = self.left.max(Some(at));
        let last = self.every_device().next().is_none();
        if last {
            self.last_seen = self.last_seen.max(self.left);
        }
        last
    }

    /// What is to be written down.
    pub fn chosen(&self) -> Chosen {
        Chosen {
            version: self.version,
            choice: self.choice,
            choice_until: self.choice_until,
            note: self.note.clone(),
            hides_last_seen: self.hides_last_seen,
            last_seen: self.last_seen,
        }
    }

    /// Takes on what is written down, unless something newer is known.
    pub fn take(&mut self, chosen: Chosen) {
        if chosen.version > self.version {
            let Chosen { version, choice, choice_until, note, hides_last_seen, last_seen } = chosen;
            (self.version, self.choice, self.choice_until, self.note) = (version, choice, choice_until, note);
            (self.hides_last_seen, self.last_seen) = (hides_last_seen, self.last_seen.max(last_seen));
        }
    }

    /// Whether nothing is known that is worth keeping.
    pub fn is_nobody(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + second).unwrap()
    }

    fn device(availability: Availability) -> (String, Device) {
        (format!("{availability:?}"), Device { availability, until: Some(at(90)), since: at(0) })
    }

    fn shown(person: &Person, second: i64) -> Shown {
        person.status("1001", at(second)).state
    }

    #[test]
    fn devices_of_one_user_are_merged() {
        let mut person = Person::default();
        assert_eq!(shown(&person, 0), Shown::Offline);
        person.devices.extend([device(Availability::Idle)]);
        assert_eq!(shown(&person, 0), Shown::Away);
        person.devices.extend([device(Availability::Active)]);
        assert_eq!(shown(&person, 0), Shown::Online);
        assert_eq!(shown(&person, 90), Shown::Offline, "not heard of for too long");
        assert!(person.expire(at(90)));
        assert_eq!(person.status("1001", at(95)).last_seen, Some(at(90)));
    }

    #[test]
    fn devices_of_all_copies_are_merged_and_the_last_to_leave_is_when_one_was_seen() {
        let mut person = Person::default();
        person.devices.extend([device(Availability::Idle)]);
        person.elsewhere.insert("b".into(), [device(Availability::Active)].into());
        assert_eq!(shown(&person, 0), Shown::Online);
        // Both leave at the same time, each copy thinking that the other is still there; the news arrive in either order.
        let (mut here, mut there) = (person.clone(), person);
        here.devices.clear();
        assert!(!here.leave(at(5)));
        here.elsewhere.clear();
        assert!(here.leave(at(6)));
        there.elsewhere.clear();
        assert!(!there.leave(at(6)));
        there.devices.clear();
        assert!(there.leave(at(5)));
        assert_eq!((here.last_seen, there.last_seen), (Some(at(6)), Some(at(6))));
    }

    #[test]
    fn what_is_older_than_what_is_known_is_not_taken() {
        let mut person = Person { version: 2, choice: Choice::Away, ..Person::default() };
        person.take(Chosen { version: 1, ..Chosen::default() });
        assert_eq!(person.choice, Choice::Away);
        person.take(Chosen { version: 3, choice: Choice::Invisible, ..Chosen::default() });
        assert_eq!((person.choice, person.version), (Choice::Invisible, 3));
    }

    #[test]
    fn trial_26_a_call_does_not_take_the_place_of_do_not_disturb_and_after_it_everything_is_as_it_was() {
        for choice in [Choice::Auto, Choice::Away, Choice::DoNotDisturb, Choice::Invisible] {
            let mut person = Person { choice, ..Person::default() };
            person.devices.extend([device(Availability::Active)]);
            let before = person.status("1001", at(0));
            person.calls = 1;
            let during = person.status("1001", at(1));
            let wanted = match choice {
                Choice::DoNotDisturb => (Shown::DoNotDisturb, true),
                Choice::Invisible => (Shown::Offline, false),
                _ => (Shown::InCall, true),
            };
            assert_eq!((during.state, during.in_call), wanted, "{choice:?}");
            person.conferences = 1;
            person.calls = 0;
            if matches!(choice, Choice::Auto | Choice::Away) {
                assert_eq!(shown(&person, 2), Shown::InConference);
            }
            person.conferences = 0;
            assert_eq!(person.status("1001", at(3)), before, "{choice:?}");
        }
    }

    #[test]
    fn a_choice_and_a_note_end_by_themselves() {
        let note = Note { text: "Lunch".to_owned(), until: Some(at(60)) };
        let mut person =
            Person { choice: Choice::DoNotDisturb, choice_until: Some(at(30)), note: Some(note), calls: 1, ..Person::default() };
        assert_eq!((shown(&person, 29), shown(&person, 30)), (Shown::DoNotDisturb, Shown::InCall));
        assert_eq!(person.due(), Some(at(30)));
        assert!(person.expire(at(30)) && !person.expire(at(31)));
        assert_eq!(person.due(), Some(at(60)));
        assert!(person.expire(at(60)));
        assert_eq!((person.note, person.choice), (None, Choice::Auto));
    }

    #[test]
    fn who_hides_when_they_were_seen_is_not_seen_and_the_invisible_do_not_give_themselves_away() {
        let mut person = Person { last_seen: Some(at(0)), hides_last_seen: true, ..Person::default() };
        assert_eq!(person.status("1001", at(9)).last_seen, None);
        person.hides_last_seen = false;
        assert_eq!(person.status("1001", at(9)).last_seen, Some(at(0)));
        let offline = person.status("1001", at(9));
        person.choice = Choice::Invisible;
        person.devices.extend([device(Availability::Active)]);
        person.calls = 1;
        assert_eq!(person.status("1001", at(10)), offline);
    }
}
