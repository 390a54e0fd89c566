//! What the doctor found: one line for each check, and what to set, for people and for programs. Holds counts and names of attributes,
//! never numbers or names of subscribers.

use std::fmt::Write as _;

use serde::Serialize;

/// Columns of a line for people.
const COLUMNS: usize = 80;

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As documented and as configured.
    Well,
    /// It works; this could be better, or cannot be told.
    Advice,
    /// To be mended.
    Wrong,
    /// Not looked at, and why.
    Skipped,
}

/// Something to set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Setting {
    /// The configuration's key: `switch.dialect_overrides.call_api.pad`.
    pub key: String,
    /// The value, where one can be suggested.
    pub value: Option<toml::Value>,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// Where: `configuration`, `terminal ecss1:9999`, `csta ecss1:4721 biysk.local`.
    pub at: String,
    /// What was done.
    pub what: String,
    /// How it went.
    pub verdict: Verdict,
    /// What was seen.
    pub said: String,
    /// What to set.
    pub set: Vec<Setting>,
}

/// All checks of one place, as they are made.
#[derive(Debug, Clone)]
pub struct Place {
    at: String,
    checks: Vec<Check>,
}

/// Everything that was found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Whether there is nothing to mend.
    pub well: bool,
    /// The dialect in use.
    pub dialect: String,
    /// The checks, in order.
    pub checks: Vec<Check>,
    /// What to set, as TOML for the configuration file.
    pub what_to_set: String,
}

// === impl Setting ===

impl Setting {
    /// A field of the dialect.
    pub fn dialect(path: &str, value: impl Into<toml::Value>) -> Self {
        Self { key: format!("switch.dialect_overrides.{path}"), value: Some(value.into()) }
    }

    /// A field of the dialect whose value only the switch's operator knows.
    pub fn unknown(path: &str) -> Self {
        Self { key: format!("switch.dialect_overrides.{path}"), value: None }
    }

    /// A key of the configuration.
    pub fn key(key: impl Into<String>) -> Self {
        Self { key: key.into(), value: None }
    }

    /// A key of the configuration and its value.
    pub fn value(key: impl Into<String>, value: impl Into<toml::Value>) -> Self {
        Self { key: key.into(), value: Some(value.into()) }
    }

    fn line(&self) -> String {
        match &self.value {
            Some(value) => format!("set {} = {value}", self.key),
            None => format!("see {}", self.key),
        }
    }
}

// === impl Place ===

impl Place {
    /// A place without checks.
    pub fn new(at: impl Into<String>) -> Self {
        Self { at: at.into(), checks: Vec::new() }
    }

    /// Notes a check.
    pub fn note(&mut self, verdict: Verdict, what: &str, said: impl Into<String>, set: Vec<Setting>) {
        self.checks.push(Check { at: self.at.clone(), what: what.to_owned(), verdict, said: said.into(), set });
    }

    /// All well.
    pub fn well(&mut self, what: &str, said: impl Into<String>) {
        self.note(Verdict::Well, what, said, Vec::new());
    }

    /// To be known.
    pub fn advice(&mut self, what: &str, said: impl Into<String>, set: Vec<Setting>) {
        self.note(Verdict::Advice, what, said, set);
    }

    /// To be mended.
    pub fn wrong(&mut self, what: &str, said: impl Into<String>, set: Vec<Setting>) {
        self.note(Verdict::Wrong, what, said, set);
    }

    /// Not looked at.
    pub fn skipped(&mut self, what: &str, said: impl Into<String>) {
        self.note(Verdict::Skipped, what, said, Vec::new());
    }

    /// Its checks.
    pub fn into_checks(self) -> Vec<Check> {
        self.checks
    }
}

// === impl Report ===

impl Report {
    /// Sums the checks up.
    pub fn new(dialect: String, checks: Vec<Check>) -> Self {
        let well = checks.iter().all(|check| check.verdict != Verdict::Wrong);
        let what_to_set = to_set(&checks);
        Self { well, dialect, checks, what_to_set }
    }

    /// For people. `rich`: with colours and ticks.
    pub fn text(&self, rich: bool) -> String {
        let mut text = format!("dialect: {}\n", self.dialect);
        let mut at = "";
        for check in &self.checks {
            if check.at != at {
                at = &check.at;
                let _ = write!(text, "\n{at}\n");
            }
            let (mark, indent) = mark(check.verdict, rich);
            let said = if check.said.is_empty() { check.what.clone() } else { format!("{}: {}", check.what, check.said) };
            let _ = write!(text, "  {mark} {}", wrapped(&said, indent));
            for setting in &check.set {
                let _ = write!(text, "{}{}", " ".repeat(indent), wrapped(&setting.line(), indent + 4));
            }
        }
        let count = |verdict| self.checks.iter().filter(|check| check.verdict == verdict).count();
        let _ = write!(
            text,
            "\n{} well, {} to mend, {} to know, {} not looked at\n",
            count(Verdict::Well),
            count(Verdict::Wrong),
            count(Verdict::Advice),
            count(Verdict::Skipped)
        );
        if !self.what_to_set.is_empty() {
            let _ = write!(text, "\nwhat to set:\n\n{}", self.what_to_set);
        }
        text
    }
}

/// The mark, and the column at which the text begins.
fn mark(verdict: Verdict, rich: bool) -> (&'static str, usize) {
    match (verdict, rich) {
        (Verdict::Well, true) => ("\u{1b}[32m✓\u{1b}[0m", 4),
        (Verdict::Advice, true) => ("\u{1b}[33m!\u{1b}[0m", 4),
        (Verdict::Wrong, true) => ("\u{1b}[31m✗\u{1b}[0m", 4),
        (Verdict::Skipped, true) => ("-", 4),
        (Verdict::Well, false) => ("well ", 8),
        (Verdict::Advice, false) => ("know ", 8),
        (Verdict::Wrong, false) => ("WRONG", 8),
        (Verdict::Skipped, false) => ("-    ", 8),
    }
}

/// Words in lines of at most `COLUMNS`, the further ones indented. Ends with a line break.
fn wrapped(text: &str, indent: usize) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut column = indent;
    for (index, word) in text.split_whitespace().enumerate() {
        let length = word.chars().count();
        if index > 0 && column + 1 + length > COLUMNS {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent));
            column = indent;
        } else if index > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out.push('\n');
    out
}

/// Every setting with a value, as tables. The first value of a key stands.
fn to_set(checks: &[Check]) -> String {
    let mut table = toml::Table::new();
    for setting in checks.iter().filter(|check| check.verdict != Verdict::Skipped).flat_map(|check| &check.set) {
        let Some(value) = &setting.value else { continue };
        let mut inside = &mut table;
        let mut parts = setting.key.split('.').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                inside.entry(part).or_insert_with(|| value.clone());
                break;
            }
            let next = inside.entry(part).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            let Some(next) = next.as_table_mut() else { break };
            inside = next;
        }
    }
    toml::to_string(&table).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_set_is_toml_that_the_dialect_takes_and_lines_are_not_longer_than_80_columns() {
        let mut place = Place::new("call_api ecss1:8086");
        place.well("login", "the switch set a cookie");
        place.wrong("frames", "word ".repeat(60), vec![Setting::dialect("call_api.pad", "nul"), Setting::key("switch.csta.nodes")]);
        place.advice("calls", "", vec![Setting::dialect("terminal.calls.fields.id", "call_id"), Setting::dialect("call_api.pad", "space")]);
        let report = Report::new("documented".into(), place.into_checks());
        assert!(!report.well);
        for rich in [true, false] {
            let text = report.text(rich);
            let plain = text.replace("\u{1b}[32m", "").replace("\u{1b}[31m", "").replace("\u{1b}[33m", "").replace("\u{1b}[0m", "");
            assert!(plain.lines().all(|line| line.chars().count() <= COLUMNS), "{plain}");
            assert!(text.contains("see switch.csta.nodes"));
        }
        let table: toml::Table = toml::from_str(&report.what_to_set).unwrap();
        let overrides = table["switch"]["dialect_overrides"].as_table().unwrap();
        let dialect = ecss_switch::Dialect::with_overrides("documented", overrides).unwrap();
        assert_eq!(dialect.call_api.pad, ecss_switch::dialect::Pad::Nul);
        assert_eq!(dialect.terminal.calls.fields.len(), 7, "the other fields stay");
    }
}
