//! Any other seed: every open choice is made differently from seed 0 and from the agent's built-in guesses. What the vendor documents
//! stays: services, documented attributes and elements, the form of a command's path.

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use ssw_core::{MergeInto, RefusalCause};

use super::{EventFrame, HttpCall, Names, RecordShape, RequestShape, SimDialect, TimeFormat};

/// Attributes that the documents name, per record: they stay.
const DOCUMENTED_CONFERENCE: [&str; 4] = ["space", "room", "legs_count", "calls_limit"];
const DOCUMENTED_ALIAS: [&str; 3] = ["domain", "interface", "interface_type"];
const DOCUMENTED_MEMBER: [&str; 5] = ["id", "voice", "state", "master", "hold"];

/// Operations that some seeds offer at the terminal instead of the Call API.
const MOVABLE: [&str; 4] = ["conference_lock", "conference_unlock", "conference_extend", "conference_start_recording"];

/// Characters of a frame's name field.
const NAME_FIELD: usize = 32;

struct Maker {
    rng: StdRng,
    /// A short word of this seed that goes into every name, so that none can be one of seed 0's.
    tag: String,
    style: u8,
}

pub(super) fn vary(base: SimDialect, seed: u64) -> SimDialect {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut letter = || char::from(*b"bcdfghjkmpqvwxz".choose(&mut rng).unwrap_or(&b'x'));
    let tag = String::from_iter([letter(), letter()]);
    let style = rng.random_range(0..4);
    let mut maker = Maker { rng, tag, style };
    let mut dialect = base;
    dialect.seed = seed;
    dialect.name = format!("sim-{seed}");
    maker.terminal(&mut dialect);
    maker.call_api(&mut dialect);
    maker.csta(&mut dialect);
    maker.operations(&mut dialect);
    maker.events(&mut dialect);
    for words in dialect.words.values_mut() {
        for word in words.values_mut() {
            *word = maker.name(word);
        }
    }
    for (cause, word) in &mut dialect.refusals {
        *word = maker.refusal(*cause);
    }
    dialect.merge_into = match seed % 3 {
        0 => MergeInto::Held,
        1 => MergeInto::Active,
        _ => MergeInto::New,
    };
    dialect
}

impl Maker {
    /// A name made from another one.
    fn name(&mut self, base: &str) -> String {
        let tag = &self.tag;
        match self.style {
            0 => format!("{tag}_{base}"),
            1 => format!("{base}_{tag}"),
            2 => format!("{tag}{}", camel(base)),
            _ => format!("{base}-{tag}"),
        }
    }

    fn pick<T: Clone>(&mut self, choices: &[T], fallback: T) -> T {
        choices.choose(&mut self.rng).cloned().unwrap_or(fallback)
    }

    fn pick_text(&mut self, choices: &[&str]) -> String {
        self.pick(choices, "").to_owned()
    }

    fn rename(&mut self, names: &mut Names, keep: &[&str]) {
        for name in names.values_mut().filter(|name| !keep.contains(&name.as_str())) {
            *name = self.name(name);
        }
    }

    fn refusal(&mut self, cause: RefusalCause) -> String {
        // What the switch says need not resemble the reason's name.
        let number = RefusalCause::ALL.iter().position(|other| *other == cause).unwrap_or_default();
        format!("{}-{}-{}", self.tag, 400 + number * 7, squeeze(cause.word(), 12))
    }

    fn terminal(&mut self, dialect: &mut SimDialect) {
        let seed = dialect.seed;
        let tag = self.tag.clone();
        let terminal = &mut dialect.terminal;
        terminal.session_cookie = format!("{}_SID", tag.to_uppercase());
        terminal.keepalive = (!seed.is_multiple_of(3)).then(|| HttpCall { method: "POST".to_owned(), path: format!("/{tag}/keep-alive") });
        terminal.keepalive_interval_s = self.pick(&[2, 3, 4], 3);
        terminal.liveness_command = self.pick_text(&["cocon_configure_info", "teleconference_room_list"]);
        terminal.expired_status = self.pick(&[419, 440, 410], 440);
        terminal.expired_word = format!("{tag}_no_session");
        terminal.expired_without_document = self.rng.random();
        terminal.logout = HttpCall { method: "GET".to_owned(), path: format!("/{tag}/bye") };
        terminal.progress_method = "POST".to_owned();
        terminal.progress_path = self.pick_text(&["/progress/{request_id}", "/system/progress/{name}/{request_id}"]);
        terminal.progress_interval_ms = self.pick(&[20, 30, 40], 30);
        terminal.confirm_name = format!("X-{}-Sure", tag.to_uppercase());
        terminal.confirm_value = self.name("agreed");
        terminal.utc_offset_minutes = self.pick(&[-300, 60, 120, 345, 420, 600], 60);
        terminal.error_cause = self.name("reason");
        let mut requests = std::mem::take(&mut terminal.requests);
        requests.iter_mut().for_each(|(command, shape)| self.request(command, shape));
        let terminal = &mut dialect.terminal;
        terminal.requests = requests;
        terminal.calls = RecordShape { element: self.name("cdr"), fields: std::mem::take(&mut terminal.calls.fields) };
        self.rename(&mut dialect.terminal.aliases.fields, &DOCUMENTED_ALIAS);
        self.rename(&mut dialect.terminal.calls.fields, &[]);
        self.rename(&mut dialect.terminal.conferences.fields, &[DOCUMENTED_CONFERENCE.as_slice(), &["timestamp"]].concat());
        self.rename(&mut dialect.terminal.members.fields, &DOCUMENTED_MEMBER);
    }

    /// All is another's but `domain(name, limit)` of `calls_history`, beside which some seeds put the filters.
    fn request(&mut self, command: &str, shape: &mut RequestShape) {
        shape.element = self.name("ask");
        self.rename(&mut shape.fields, &[]);
        let Some(child) = &mut shape.child else { return };
        if command == "calls_history" {
            if self.rng.random() {
                child.fields.append(&mut shape.fields);
            }
        } else {
            child.element = self.name(&child.element);
            self.rename(&mut child.fields, &[]);
        }
    }

    fn call_api(&mut self, dialect: &mut SimDialect) {
        let tag = self.tag.clone();
        let api = &mut dialect.call_api;
        api.login_path = self.pick_text(&["/{domain}/service/call/login", "/{domain}/service/cc/common/login"]);
        // `websocket_control` was seen in the field.
        api.login_attributes = [
            (self.name("user"), "{login}".to_owned()),
            (self.name("secret"), "{password}".to_owned()),
            ("websocket_control".to_owned(), "true".to_owned()),
        ]
        .into();
        api.session_cookie = format!("{}-api", tag);
        api.expired_status = self.pick(&[407, 418, 423], 418);
        api.expired_word = format!("{tag}_who_are_you");
        api.expired_without_document = self.rng.random();
        api.logout = HttpCall { method: "GET".to_owned(), path: format!("/{{domain}}/{tag}/leave") };
        api.websocket_path = self.pick_text(&["/{domain}/service/cc/pubsub", "/ws/{domain}", "/{domain}/events"]);
        api.pad = '\0';
        api.length_in_bytes = false;
        api.name_prefix = self.pick_text(&["{service}.", "{service}:"]);
        api.event_frame = EventFrame::Status(self.pick_text(&["EVT", "100", "EV1"]));
        api.keepalive_command = Some(format!("{tag}_noop"));
        api.keepalive_interval_s = self.pick(&[2, 3, 4], 3);
        api.list_separator = self.pick_text(&[";", "|", "+"]);
        api.time_format = self.pick(&[TimeFormat::DmyDot, TimeFormat::UnixMs], TimeFormat::UnixMs);
        api.utc_offset_minutes = self.pick(&[-240, 90, 240, 330, 540], 90);
    }

    fn csta(&mut self, dialect: &mut SimDialect) {
        let csta = &mut dialect.csta;
        csta.length_whole = false;
        csta.namespace = self.pick_text(&[
            "http://www.ecma-international.org/standards/ecma-323/csta/ed4",
            "http://www.ecma-international.org/standards/ecma-323/csta/ed5",
        ]);
        csta.keepalive = format!("<{}Alive/>", self.tag);
        csta.keepalive_interval_s = self.pick(&[2, 3, 4], 3);
        csta.device = self.pick_text(&["{alias}@{domain}", "sip:{alias}@{domain}", "tel:{alias}"]);
        csta.auto_originate = "doNotPrompt".to_owned();
        csta.generate_digits = false;
    }

    fn operations(&mut self, dialect: &mut SimDialect) {
        let to_terminal = dialect.seed.is_multiple_of(2);
        let prefix = dialect.call_api.name_prefix.clone();
        for (key, shape) in &mut dialect.operations {
            let room = NAME_FIELD.saturating_sub(prefix.replace("{service}", &shape.service).chars().count() + self.tag.len() + 1);
            shape.name = self.name(&squeeze(&shape.name, room));
            self.rename(&mut shape.fields, &[]);
            self.rename(&mut shape.result, &[]);
            shape.fixed = [(self.name("rev"), self.rng.random_range(2..9).to_string())].into();
            if let Some(record) = &mut shape.record {
                *record = self.name(record);
            }
            if to_terminal && MOVABLE.contains(&key.as_str()) {
                shape.service = "terminal".to_owned();
                shape.fields.insert("domain".to_owned(), self.name("domain"));
            }
        }
    }

    fn events(&mut self, dialect: &mut SimDialect) {
        for shape in dialect.events.values_mut() {
            let prefix = dialect.call_api.name_prefix.replace("{service}", &shape.service).chars().count();
            shape.name = self.name(&squeeze(&shape.name, NAME_FIELD.saturating_sub(prefix + self.tag.len() + 1)));
            shape.record = self.name(&shape.record);
            self.rename(&mut shape.fields, &[]);
        }
    }
}

/// `held_call` → `HeldCall`
fn camel(text: &str) -> String {
    let word = |part: &str| {
        let mut letters = part.chars();
        letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
    };
    text.split('_').map(word).collect()
}

/// Shortens a name to `most` characters by leaving out vowels from the end, then whatever is too much.
fn squeeze(text: &str, most: usize) -> String {
    let mut letters: Vec<char> = text.chars().collect();
    while letters.len() > most {
        match letters.iter().rposition(|letter| "aeiou".contains(*letter)) {
            Some(at) => drop(letters.remove(at)),
            None => letters.truncate(most),
        }
    }
    letters.into_iter().collect()
}
