//! The attributes of records in an answer beside the dialect's fields: which are missing, and which of those that are there look like
//! them by name and value. Values are looked at and never shown, but for words of the switch's fixed vocabularies.

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::DateTime;
use mediator_client::terminal::xml::Element;

/// Values of one attribute that are kept.
const VALUES: usize = 200;

/// What a value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Looks {
    /// A text without spaces.
    Id,
    /// A number that can be dialled.
    Number,
    /// A date, or seconds since 1970.
    Time,
    /// A small number.
    Count,
    /// A word of this vocabulary.
    Word(&'static str),
    /// Anything.
    Text,
}

/// A field of a record.
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) looks: Looks,
    /// What attributes for it are called, words apart.
    pub(super) called: &'static [&'static str],
    /// Nothing works without it.
    pub(super) must: bool,
}

const fn field(name: &'static str, looks: Looks, must: bool, called: &'static [&'static str]) -> Field {
    Field { name, looks, called, must }
}

/// Of an alias in `alias_list`.
pub(super) const ALIAS: [Field; 1] = [field("address", Looks::Number, true, &["address", "addr", "number", "alias"])];

/// Of a call in `calls_history`.
pub(super) const CALL: [Field; 9] = [
    field("id", Looks::Id, true, &["call id", "id", "conn id", "callid"]),
    field("from", Looks::Number, true, &["from", "calling", "caller", "source"]),
    field("to", Looks::Number, true, &["to", "called", "callee", "destination"]),
    field("answered_by", Looks::Number, false, &["answered by", "connected to", "answerer"]),
    field("start", Looks::Time, true, &["start", "begin", "setup", "started"]),
    field("answer", Looks::Time, false, &["answer", "answered", "connect", "talk start"]),
    field("end", Looks::Time, false, &["end", "finish", "release", "stop", "ended"]),
    field("duration", Looks::Count, false, &["duration", "talk", "length", "seconds"]),
    field("cause", Looks::Word("cause"), false, &["cause", "reason", "result"]),
];

/// Of a conference or meeting.
pub(super) const CONFERENCE: [Field; 11] = [
    field("id", Looks::Id, true, &["space", "id", "conference id", "meeting id"]),
    field("name", Looks::Text, false, &["name", "title"]),
    field("description", Looks::Text, false, &["description"]),
    field("room", Looks::Id, false, &["room"]),
    field("start", Looks::Time, false, &["timestamp", "start", "started", "begin"]),
    field("ends_at", Looks::Time, false, &["ends", "ends at", "end", "until", "finish"]),
    field("limit", Looks::Count, false, &["calls limit", "limit", "max"]),
    field("count", Looks::Count, false, &["legs count", "count", "legs"]),
    field("locked", Looks::Word("boolean"), false, &["locked", "lock"]),
    field("recording", Looks::Word("recording"), false, &["recording", "record"]),
    field("may_unmute", Looks::Word("boolean"), false, &["self unmute", "may unmute"]),
];

/// Of a meeting's member.
pub(super) const MEMBER: [Field; 9] = [
    field("id", Looks::Id, true, &["id", "member id", "participant id"]),
    field("number", Looks::Number, false, &["number", "address", "alias"]),
    field("name", Looks::Text, false, &["name", "display name"]),
    field("voice", Looks::Word("boolean"), false, &["voice", "mic", "microphone"]),
    field("state", Looks::Word("participant_status"), true, &["state", "status"]),
    field("master", Looks::Word("boolean"), false, &["master", "presenter"]),
    field("hold", Looks::Word("boolean"), false, &["hold", "held"]),
    field("floor", Looks::Word("boolean"), false, &["voice request", "floor", "hand"]),
    field("talking", Looks::Word("boolean"), false, &["talking", "speaking", "talk"]),
];

/// Records of one kind as they came.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) count: usize,
    values: BTreeMap<String, Vec<String>>,
}

/// What a comparison says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Compared {
    /// Fields whose attribute no record has, with the attribute that looks like it.
    pub(super) missing: Vec<(&'static str, String, Option<String>)>,
    /// Fields that the dialect does not have, and attributes that look like them.
    pub(super) more: Vec<(&'static str, String)>,
    /// Attributes that nothing is known about.
    pub(super) unused: Vec<String>,
}

// === impl Records ===

impl Records {
    /// The elements of this name.
    pub(super) fn of(document: &Element, element: &str) -> Self {
        let mut records = Self::default();
        for record in document.all(element) {
            records.count += 1;
            for (name, value) in &record.attributes {
                let values = records.values.entry(name.to_string()).or_default();
                if values.len() < VALUES && !value.trim().is_empty() {
                    values.push(value.trim().to_owned());
                }
            }
        }
        records
    }

    /// The values of an attribute.
    pub(super) fn values(&self, attribute: &str) -> &[String] {
        self.values.get(attribute).map_or(&[], Vec::as_slice)
    }

    /// The names of the attributes.
    pub(super) fn attributes(&self) -> Vec<&str> {
        self.values.keys().map(String::as_str).collect()
    }

    /// Compares with the dialect's fields. Fields are paired with attributes from the greatest likeness down, each once.
    pub(super) fn compare(&self, fields: &[Field], dialect: &BTreeMap<String, String>) -> Compared {
        let used: BTreeSet<&str> = dialect.values().map(String::as_str).collect();
        let mut spare: BTreeSet<&str> = self.values.keys().map(String::as_str).filter(|name| !used.contains(name)).collect();
        let absent = |name: &str| dialect.get(name).is_none_or(|attribute| !self.values.contains_key(attribute));
        let open: Vec<&Field> = fields.iter().filter(|field| absent(field.name)).collect();
        let mut pairs = Vec::new();
        for field in &open {
            for attribute in &spare {
                let by_name = field.called.iter().map(|called| likeness(called, attribute)).max().unwrap_or(0);
                let fits = looks_like(self.values(attribute), field.looks);
                let mapped = dialect.contains_key(field.name);
                // Without a likeness of names, only a date is telling enough, and only for a field that the dialect has.
                let score = if !fits {
                    0
                } else if by_name > 0 {
                    by_name + 1
                } else {
                    u32::from(mapped && field.looks == Looks::Time && !self.values(attribute).is_empty())
                };
                pairs.push((score, field.name, (*attribute).to_owned()));
            }
        }
        pairs.sort_by_key(|(score, ..)| std::cmp::Reverse(*score));
        let mut found: BTreeMap<&str, String> = BTreeMap::new();
        for (score, name, attribute) in pairs {
            if score > 0 && !found.contains_key(name) && spare.remove(attribute.as_str()) {
                found.insert(name, attribute);
            }
        }
        let mut compared = Compared { unused: spare.into_iter().map(str::to_owned).collect(), ..Compared::default() };
        for field in open {
            match (dialect.get(field.name), found.remove(field.name)) {
                (Some(attribute), hit) => compared.missing.push((field.name, attribute.clone(), hit)),
                (None, Some(hit)) => compared.more.push((field.name, hit)),
                (None, None) => {}
            }
        }
        compared
    }
}

/// The name of the elements that look most like records: the most frequent with at least as many attributes.
pub(super) fn likely_element(document: &Element) -> Option<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for element in document.walk().skip(1).filter(|element| element.attributes.len() >= 3) {
        *counts.entry(element.local_name()).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(name, _)| name.to_owned())
}

/// Words of a name: `answerTime`, `answer-time` and `answer_time` have the same.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut lower = false;
    for letter in name.chars() {
        if !letter.is_alphanumeric() || (letter.is_uppercase() && lower) {
            words.push(String::new());
        }
        lower = letter.is_lowercase();
        if let (true, Some(word)) = (letter.is_alphanumeric(), words.last_mut()) {
            word.extend(letter.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// How much an attribute's name is like what it may be called: 0, or the more the better.
pub(super) fn likeness(called: &str, attribute: &str) -> u32 {
    let (called, attribute) = (words(called), words(attribute));
    if called == attribute {
        return 20;
    }
    if attribute.windows(called.len().max(1)).any(|part| part == called) {
        return 4 + 3 * u32::try_from(called.len()).unwrap_or(1);
    }
    let (called, attribute) = (called.concat(), attribute.concat());
    if called.len() >= 4 && attribute.contains(&called) { 3 } else { 0 }
}

/// A date as the terminal writes it.
pub(super) fn civil(text: &str) -> Option<DateTime> {
    DateTime::strptime("%d.%m.%Y %H:%M:%S", text.trim()).ok()
}

fn is_time(text: &str) -> bool {
    let epoch = || (10..=13).contains(&text.len()) && text.bytes().all(|octet| octet.is_ascii_digit());
    civil(text).is_some() || epoch()
}

/// Whether every value may be one. No value at all may be anything.
fn looks_like(values: &[String], looks: Looks) -> bool {
    let fits = |text: &String| match looks {
        Looks::Id => !text.contains(char::is_whitespace) && civil(text).is_none(),
        Looks::Number => text.len() <= 32 && text.chars().all(|c| c.is_ascii_digit() || "+*#ABCD".contains(c)),
        Looks::Time => is_time(text),
        Looks::Count => text.len() <= 9 && text.bytes().all(|octet| octet.is_ascii_digit()),
        Looks::Word(_) => text.len() <= 32 && !text.contains(char::is_whitespace) && civil(text).is_none(),
        Looks::Text => true,
    };
    let few = || values.iter().collect::<BTreeSet<_>>().len() <= 2;
    values.iter().all(fits) && (looks != Looks::Word("boolean") || few())
}

#[cfg(test)]
mod tests {
    use mediator_client::terminal::xml::parse;

    use super::*;

    #[test]
    fn fields_are_found_by_name_and_value() {
        let document = parse(
            br#"<out><calls><bkCdr bkCallId="7" bkFrom="1001" bkTo="1002" bkStart="24.11.2026 10:00:00" bkAnswer="" when="24.11.2026 10:00:09" total="5"/></calls></out>"#,
        )
        .unwrap();
        assert_eq!(likely_element(&document).as_deref(), Some("bkCdr"));
        let records = Records::of(&document, "bkCdr");
        let dialect: BTreeMap<String, String> = [("id", "call_id"), ("from", "from"), ("to", "to"), ("start", "start"), ("end", "end")]
            .map(|(a, b)| (a.into(), b.into()))
            .into();
        let compared = records.compare(&CALL, &dialect);
        let hit = |name: &str| compared.missing.iter().find(|(field, ..)| *field == name).and_then(|(.., hit)| hit.as_deref());
        assert_eq!((hit("id"), hit("from"), hit("to"), hit("start")), (Some("bkCallId"), Some("bkFrom"), Some("bkTo"), Some("bkStart")));
        assert_eq!(hit("end"), Some("when"), "a date that nothing else claims");
        assert_eq!(compared.more, [("answer", "bkAnswer".to_owned())]);
        assert_eq!(compared.unused, ["total"], "'to' is not in 'total'");
    }

    #[test]
    fn nothing_is_missing_where_the_dialect_is_right() {
        let document = parse(br#"<out><member id="1" voice="true" state="connected"/></out>"#).unwrap();
        let dialect: BTreeMap<String, String> =
            [("id", "id"), ("voice", "voice"), ("state", "state")].map(|(a, b)| (a.into(), b.into())).into();
        assert_eq!(Records::of(&document, "member").compare(&MEMBER, &dialect), Compared::default());
    }
}
