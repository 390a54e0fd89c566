//! The HTTP terminal of one node: login, cookies, the documented read-only commands, and the names in their answers beside the dialect's.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ecss_switch::{Alias, CommandError, Domain, connect::Endpoint, event::EventSink, link::Way};
use jiff::{Timestamp, tz::TimeZone};
use mediator_client::terminal::{
    CallsKind, CallsQuery, Terminal,
    xml::{self, Element},
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{
    Doctor, LEAVING, QUEUE,
    reach::speaks_tls,
    records::{ALIAS, CALL, CONFERENCE, Field, Looks, MEMBER, Records, civil, likely_element, likeness},
    report::{Place, Setting},
    watch::{Watcher, open},
};
use crate::own;

/// Calls that are asked for.
const CALLS: u32 = 200;
/// The newest call tells about the clock when it is not older.
const FRESH_S: i64 = 15 * 60;
/// How far in the future a time may be before the clocks differ.
const AHEAD_S: i64 = 120;

/// Looks at one node. Returns an alias of each domain, for CSTA to be tried with.
pub(super) async fn examine(doctor: &Doctor, node: &Endpoint, place: &mut Place) -> BTreeMap<Domain, Alias> {
    let mut aliases = BTreeMap::new();
    let config = match own::terminal(&doctor.config, vec![node.clone()]) {
        Some(Ok(config)) => config,
        Some(Err(problem)) => {
            place.wrong("password", problem.what, vec![Setting::key(problem.key)]);
            return aliases;
        }
        None => return aliases,
    };
    let patience = config.connect_timeout + config.command_timeout;
    let (watcher, stop) = (Watcher::new(), CancellationToken::new());
    let (sink, _events) = EventSink::new(QUEUE);
    let connect = doctor.connectors.terminal.clone();
    let (terminal, task) = Terminal::start(config, doctor.dialect.clone(), connect, sink, Some(watcher.clone()), stop.clone());
    let opened = open(terminal.status(), patience).await;
    let examination = Examination { doctor, terminal, watcher, place };
    match opened {
        Ok(()) => examination.in_session(&mut aliases).await,
        Err(cause) => {
            examination.no_session(node, &cause).await;
            stop.cancel();
            let _ = timeout(LEAVING, task).await;
            return aliases;
        }
    }
    stop.cancel();
    let _ = timeout(LEAVING, task).await;
    aliases
}

struct Examination<'a> {
    doctor: &'a Doctor,
    terminal: Terminal,
    watcher: Arc<Watcher>,
    place: &'a mut Place,
}

impl Examination<'_> {
    async fn no_session(self, node: &Endpoint, cause: &str) {
        let place = self.place;
        let Some(answer) = self.watcher.last(|seen| seen.received()) else {
            let mut set = Vec::new();
            let tls = self.doctor.config.switch.terminal.as_ref().is_some_and(|link| link.tls);
            if !tls && speaks_tls(node).await {
                set = vec![Setting::value("switch.terminal.tls", true)];
            }
            place.wrong("login", format!("no answer: {cause}"), set);
            return;
        };
        let cookies: Vec<&str> = answer.cookies().collect();
        let status = answer.head.split(' ').nth(1).and_then(|rest| rest.get(..3)).unwrap_or_default();
        let understood = xml::parse(answer.body.as_bytes()).is_ok_and(|document| document.local_name() == "out");
        let wanted = self.doctor.dialect.terminal.session_cookie.as_deref();
        if let (Some(wanted), false) = (wanted, cookies.is_empty())
            && !cookies.contains(&wanted)
        {
            let said = format!("the dialect waits for a cookie '{wanted}'; the switch sets: {}", cookies.join(", "));
            let best = cookies.iter().max_by_key(|name| likeness("session", name) + likeness("sid", name)).copied().unwrap_or_default();
            place.wrong("cookies", said, vec![Setting::dialect("terminal.session_cookie", best)]);
        } else if understood && status == "404" {
            let set = vec![Setting::key("switch.terminal.login"), Setting::key("switch.terminal.password_file")];
            place.wrong("login", "the switch refuses login or password (404, as documented)", set);
        } else if understood {
            place.wrong("login", format!("status {status}: {cause}"), vec![Setting::key("switch.terminal.login")]);
        } else {
            let said = format!("the answer is not understood (status {status}): {cause}. Is this the HTTP terminal (port 9999)?");
            place.wrong("login", said, vec![Setting::key("switch.terminal.nodes")]);
        }
    }

    async fn in_session(mut self, aliases: &mut BTreeMap<Domain, Alias>) {
        let settings = self.terminal.settings();
        let said = format!("md {}, ds {}, version {}", shown(&settings.md), shown(&settings.ds), shown(&settings.version));
        self.place.well("login", said);
        self.cookies();
        let domains: Vec<Domain> = self.doctor.config.switch.domains.iter().map(|domain| domain.name.clone()).collect();
        let mut times = Vec::new();
        for domain in &domains {
            self.lists(domain, aliases, &mut times).await;
        }
        clock(self.place, self.doctor.dialect.terminal.utc_offset_minutes, &times);
        self.memory(&settings.ds).await;
        self.keepalive().await;
        let dialect = &self.doctor.dialect.terminal;
        let expired = &dialect.session_expired;
        let said = format!(
            "cannot be tried safely; the dialect takes statuses {:?}, words {:?}{} for it",
            expired.statuses,
            expired.words,
            if expired.without_document { " and a 4xx without a document" } else { "" }
        );
        self.place.skipped("session expiry", said);
        if dialect.logout.is_none() {
            self.place.advice("logout", "the dialect knows none: this session stays until the switch lets it expire", Vec::new());
        }
    }

    fn cookies(&mut self) {
        let answer = self.watcher.last(|seen| seen.cookies().next().is_some());
        let names: Vec<String> = answer.iter().flat_map(|seen| seen.cookies()).map(str::to_owned).collect();
        match (names.as_slice(), &self.doctor.dialect.terminal.session_cookie) {
            ([], _) => self.place.advice("cookies", "the login set none; documented is a session cookie", Vec::new()),
            (names, Some(wanted)) => self.place.well("cookies", format!("{}; sent back: {wanted}", names.join(", "))),
            (names, None) => self.place.well("cookies", format!("{}; sent back: all", names.join(", "))),
        }
    }

    /// The latest answer to a command.
    fn answer(&self, command: &str) -> Option<Element> {
        let begin = format!("POST /commands/{command} ");
        let sent = self.watcher.last(|seen| seen.way == Way::Sent && seen.head.starts_with(&begin))?;
        let id = sent.head.lines().find(|line| line.starts_with("P-Request-Id: "))?.to_owned();
        let answer = self.watcher.last(|seen| seen.received() && seen.head.lines().any(|line| line == id))?;
        xml::parse(answer.body.as_bytes()).ok()
    }

    async fn lists(&mut self, domain: &Domain, aliases: &mut BTreeMap<Domain, Alias>, times: &mut Vec<String>) {
        let dialect = self.doctor.dialect.clone();
        let outcome = self.terminal.check_connection(Some(domain)).await;
        self.outcome(&format!("check_connection {domain}"), outcome.map(|()| "answers as documented".to_owned()));

        let outcome = self.terminal.alias_list(domain, None).await;
        if let Some(first) = outcome.as_ref().ok().and_then(|records| records.first()) {
            aliases.insert(domain.clone(), first.address.clone());
        }
        let what = format!("alias_list {domain}");
        match outcome {
            Ok(records) if records.is_empty() && self.answer("alias_list").is_some_and(|answer| answer.all("alias").next().is_some()) => {
                let document = self.answer("alias_list").unwrap_or_else(|| Element::new("out"));
                self.records(&what, "terminal.aliases", &ALIAS, &document, Ok(0));
            }
            Ok(records) => self.place.well(&what, format!("{} aliases", records.len())),
            Err(error) => self.outcome(&what, Err(error)),
        }

        for kind in [CallsKind::Active, CallsKind::All] {
            let query = CallsQuery { kind, limit: Some(CALLS), ..CallsQuery::of(domain.clone()) };
            let outcome = self.terminal.calls_history(&query).await.map(|records| records.len());
            let document = self.answer("calls_history");
            if let Some(document) = &document {
                let shape = &dialect.terminal.calls;
                let records = Records::of(document, &shape.element);
                times.extend(times_of(&records));
                if kind == CallsKind::All {
                    self.records(&format!("calls_history {domain}"), "terminal.calls", &CALL, document, outcome);
                }
            } else {
                self.outcome(&format!("calls_history {domain}"), outcome.map(|count| format!("{count} calls")));
            }
        }

        let outcome = self.terminal.conference_list(domain).await.map(|records| records.len());
        match self.answer("conference_list") {
            Some(document) => {
                times.extend(times_of(&Records::of(&document, &dialect.terminal.conferences.element)));
                self.records(&format!("conference_list {domain}"), "terminal.conferences", &CONFERENCE, &document, outcome);
            }
            None => self.outcome(&format!("conference_list {domain}"), outcome.map(|count| format!("{count} conferences"))),
        }

        let what = format!("tc_meetings_active_info {domain}");
        let outcome = self.terminal.meetings(domain, None).await.map(|records| records.len());
        match self.answer("tc_meetings_active_info") {
            Some(document) => {
                let any = outcome.as_ref().is_ok_and(|count| *count > 0);
                self.records(&what, "terminal.meetings", &CONFERENCE, &document, outcome);
                if any {
                    self.records(&format!("members {domain}"), "terminal.members", &MEMBER, &document, Ok(0));
                }
            }
            None => self.outcome(&what, outcome.map(|count| format!("{count} meetings"))),
        }

        let outcome = self.terminal.rooms(domain).await;
        self.outcome(&format!("teleconference_room_list {domain}"), outcome.map(|rooms| format!("{} rooms", rooms.len())));
    }

    fn outcome(&mut self, what: &str, outcome: Result<String, CommandError>) {
        match outcome {
            Ok(said) => self.place.well(what, said),
            Err(CommandError::Refused { text, .. }) => {
                let command = what.split(' ').next().unwrap_or_default();
                let mut set = vec![Setting::key("switch.domains")];
                // Where only the answer is documented, the request may be another one.
                let requests = self.doctor.dialect_json().pointer("/terminal/requests").cloned().unwrap_or_default();
                if requests.get(command).is_some() {
                    set.push(Setting::unknown(&format!("terminal.requests.{command}")));
                }
                self.place.wrong(what, format!("the switch refuses it: {text}"), set);
            }
            Err(error) => self.place.wrong(what, error.to_string(), Vec::new()),
        }
    }

    /// The names of one kind of record beside the dialect's.
    fn records(&mut self, what: &str, path: &str, fields: &[Field], document: &Element, outcome: Result<usize, CommandError>) {
        if let Err(error) = outcome {
            return self.outcome(what, Err(error));
        }
        let dialect = self.doctor.dialect_json();
        let shape = path.split('.').fold(&dialect, |value, part| value.get(part).unwrap_or(&serde_json::Value::Null));
        let element = shape.get("element").and_then(|name| name.as_str()).unwrap_or_default();
        let named: BTreeMap<String, String> =
            shape.get("fields").and_then(|it| serde_json::from_value(it.clone()).ok()).unwrap_or_default();
        let mut records = Records::of(document, element);
        let mut renamed = None;
        if records.count == 0 {
            let Some(other) = likely_element(document).filter(|_| path != "terminal.members") else {
                return self.place.well(what, "answers as documented; no record is there now, so its attributes cannot be seen");
            };
            records = Records::of(document, &other);
            renamed = Some(other);
        }
        let compared = records.compare(fields, &named);
        let seen = format!("{} records with {}", records.count, records.attributes().join(", "));
        if let Some(other) = renamed {
            // Another element is another record: all its fields are to be named.
            let mut all = named.clone();
            all.extend(compared.missing.iter().filter_map(|(field, _, hit)| Some(((*field).to_owned(), hit.clone()?))));
            all.extend(compared.more.iter().map(|(field, hit)| ((*field).to_owned(), hit.clone())));
            all.retain(|_, attribute| records.attributes().contains(&attribute.as_str()));
            let table: toml::Table = all.into_iter().map(|(field, attribute)| (field, toml::Value::String(attribute))).collect();
            let set = vec![Setting::dialect(&format!("{path}.element"), other), Setting::dialect(&format!("{path}.fields"), table)];
            return self.place.wrong(what, format!("no element '{element}' is there: {seen}"), set);
        }
        let suggested = |field: &str, attribute: &str| Setting::dialect(&format!("{path}.fields.{field}"), attribute);
        let wrong: Vec<_> = compared.missing.iter().filter_map(|(field, _, hit)| Some(suggested(field, hit.as_deref()?))).collect();
        let needed = |name: &str| fields.iter().any(|field| field.name == name && field.must);
        let lost: Vec<&str> =
            compared.missing.iter().filter(|(name, _, hit)| hit.is_none() && needed(name)).map(|(name, ..)| *name).collect();
        if wrong.is_empty() && lost.is_empty() {
            self.place.well(what, seen);
        } else {
            let names: Vec<String> = compared.missing.iter().map(|(field, attribute, _)| format!("{field} ('{attribute}')")).collect();
            let mut set = wrong;
            set.extend(lost.iter().map(|field| Setting::unknown(&format!("{path}.fields.{field}"))));
            self.place.wrong(what, format!("no record has the attribute of {}: {seen}", names.join(", ")), set);
        }
        if !compared.more.is_empty() {
            let set = compared.more.iter().map(|(field, attribute)| suggested(field, attribute)).collect();
            self.place.advice(what, "the records say more than the dialect reads", set);
        }
        self.words(what, fields, &named, &compared, &records, &dialect);
    }

    /// Words that the dialect does not know.
    fn words(
        &mut self,
        what: &str,
        fields: &[Field],
        named: &BTreeMap<String, String>,
        compared: &super::records::Compared,
        records: &Records,
        dialect: &serde_json::Value,
    ) {
        for field in fields {
            let Looks::Word(vocabulary) = field.looks else { continue };
            let found = compared.missing.iter().find(|(name, ..)| *name == field.name).and_then(|(.., hit)| hit.as_ref());
            let Some(attribute) = found.or_else(|| named.get(field.name)) else { continue };
            let words = dialect.get("words").and_then(|words| words.get(vocabulary));
            let known: BTreeMap<String, Vec<String>> = words.and_then(|it| serde_json::from_value(it.clone()).ok()).unwrap_or_default();
            let is_known = |word: &str| known.values().flatten().any(|other| other.eq_ignore_ascii_case(word));
            let mut unknown: Vec<&str> = records.values(attribute).iter().map(String::as_str).filter(|word| !is_known(word)).collect();
            unknown.sort_unstable();
            unknown.dedup();
            if unknown.is_empty() {
                continue;
            }
            let mut set: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for word in &unknown {
                let stands_for = known.iter().map(|(canonical, others)| {
                    let alike = others.iter().chain([canonical]).map(|other| likeness(&other.replace('_', " "), word)).max();
                    (alike.unwrap_or(0), canonical)
                });
                if let Some((1.., canonical)) = stands_for.max_by_key(|(alike, _)| *alike) {
                    let list = set.entry(canonical.clone()).or_insert_with(|| known.get(canonical).cloned().unwrap_or_default());
                    list.push((*word).to_owned());
                }
            }
            let path = |canonical: &str| format!("words.{vocabulary}.{canonical}");
            let mut settings: Vec<Setting> = set.into_iter().map(|(canonical, list)| Setting::dialect(&path(&canonical), list)).collect();
            if settings.is_empty() {
                settings.push(Setting::unknown(&format!("words.{vocabulary}")));
            }
            let shown: Vec<String> = unknown.iter().take(8).map(|word| format!("'{}'", shown(word))).collect();
            let said = format!("words of {} that the dialect does not know: {}", field.name, shown.join(", "));
            // An unknown cause is still a cause.
            let place = &mut *self.place;
            if vocabulary == "cause" { place.advice(what, said, settings) } else { place.wrong(what, said, settings) }
        }
    }

    async fn memory(&mut self, ds: &str) {
        let what = "node_memory_info";
        match self.terminal.node_memory_info(ds).await {
            Ok(values) => self.place.well(what, format!("{} values of {}", values.len(), shown(ds))),
            Err(CommandError::Refused { text, .. }) => {
                let said = format!("refused for '{}' ({text}); documented names are like ds1@ecss1", shown(ds));
                self.place.advice(what, said, Vec::new());
            }
            Err(error) => self.outcome(what, Err(error)),
        }
    }

    async fn keepalive(&mut self) {
        let dialect = &self.doctor.dialect.terminal;
        let interval = Duration::from_secs(u64::from(dialect.keepalive_interval_s)).min(self.doctor.config.switch.half_open_after.0);
        let path = match &dialect.keepalive {
            Some(call) => format!("{} {} ", call.method, call.path),
            None => format!("POST /commands/{} ", dialect.liveness_command),
        };
        let before = self.watcher.all().iter().filter(|seen| seen.head.starts_with(&path)).count();
        let patience = interval + Duration::from_secs(3);
        let until = tokio::time::Instant::now() + patience;
        let sent = loop {
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            let all = self.watcher.all();
            let mut sent = all.iter().filter(|seen| seen.way == Way::Sent && seen.head.starts_with(&path));
            let answered = |id: &str| all.iter().find(|seen| seen.received() && seen.head.lines().any(|line| line == id)).cloned();
            let id = sent.nth(before).and_then(|seen| seen.head.lines().find(|line| line.starts_with("P-Request-Id: ")));
            if let Some(answer) = id.and_then(answered) {
                break Some(answer);
            }
            if left.is_zero() {
                break None;
            }
            // Any message is a reason to look again; there is at least the next keep-alive.
            tokio::time::sleep(Duration::from_millis(50).min(left)).await;
        };
        let name = if dialect.keepalive.is_some() { "terminal.keepalive" } else { "terminal.liveness_command" };
        match sent {
            // A refusal of the liveness command is a sign of life too.
            Some(answer)
                if answer.head.starts_with("HTTP/1.1 2")
                    || (dialect.keepalive.is_none() && xml::parse(answer.body.as_bytes()).is_ok_and(|it| it.local_name() == "out")) =>
            {
                self.place.well("keep-alive", format!("{} is answered", path.trim()));
            }
            Some(answer) => {
                let status = answer.head.lines().next().unwrap_or_default().to_owned();
                let set = match name {
                    // Without one, a read-only command is sent instead.
                    "terminal.keepalive" => Setting::dialect(name, ""),
                    _ => Setting::unknown(name),
                };
                self.place.wrong("keep-alive", format!("{} is answered {status}", path.trim()), vec![set]);
            }
            None => {
                self.place.wrong("keep-alive", format!("{} had no answer within {patience:?}", path.trim()), vec![Setting::unknown(name)]);
            }
        }
    }
}

/// Dates in the records, whatever attribute has them.
fn times_of(records: &Records) -> Vec<String> {
    let attributes = records.attributes();
    attributes.iter().flat_map(|name| records.values(name)).filter(|text| civil(text).is_some()).cloned().collect()
}

/// The switch's clock beside ours: the newest time that any list tells is not in the future, and seldom old.
fn clock(place: &mut Place, offset_minutes: i32, times: &[String]) {
    let newest = times.iter().filter_map(|text| civil(text)).max();
    let Some(there) = newest.and_then(|newest| TimeZone::UTC.to_timestamp(newest).ok()) else {
        return place.skipped("clock", "no list has a date now; make a call and run this again");
    };
    let ahead = there.as_second() - Timestamp::now().as_second();
    let path = "terminal.utc_offset_minutes";
    let rounded = (ahead + 450).div_euclid(900) * 15;
    let age = i64::from(offset_minutes) * 60 - ahead;
    if age < -AHEAD_S {
        let said = format!("by an offset of {offset_minutes} minutes the newest date is {} minutes in the future", -age / 60);
        place.wrong("clock", said, vec![Setting::dialect(path, rounded)]);
    } else if age <= FRESH_S {
        place.well("clock", format!("by an offset of {offset_minutes} minutes the newest date is {} s old", age.max(0)));
    } else {
        let said = format!(
            "the newest date is {} minutes old by an offset of {offset_minutes}; if it was just now, the offset is {rounded} minutes",
            age / 60
        );
        place.advice("clock", said, Vec::new());
    }
}

fn shown(text: &str) -> String {
    if text.is_empty() { "unknown".to_owned() } else { text.chars().filter(|c| !c.is_control()).take(48).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::report::Verdict;

    fn after(offset: i32, newest_s_ago: i64, clock_ahead_minutes: i64) -> super::super::report::Check {
        let there = Timestamp::from_second(Timestamp::now().as_second() - newest_s_ago + clock_ahead_minutes * 60).unwrap();
        let text = TimeZone::UTC.to_datetime(there).strftime("%d.%m.%Y %H:%M:%S").to_string();
        let mut place = Place::new("t");
        clock(&mut place, offset, &[text]);
        place.into_checks().remove(0)
    }

    #[test]
    fn the_newest_date_tells_the_offset() {
        assert_eq!(after(180, 30, 180).verdict, Verdict::Well);
        let wrong = after(0, 30, 180);
        assert_eq!((wrong.verdict, wrong.set), (Verdict::Wrong, vec![Setting::dialect("terminal.utc_offset_minutes", 180i64)]));
        assert_eq!(after(-60, 30, -300).verdict, Verdict::Advice, "too old to tell: the switch may be idle");
        assert_eq!(after(-330, 5, -300).set, vec![Setting::dialect("terminal.utc_offset_minutes", -300i64)]);
    }
}
