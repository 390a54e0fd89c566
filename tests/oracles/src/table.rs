//! The table of known differences: what was found and what was written about it become one document, and whatever does not fit is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use crate::difference::Difference;

/// What kind of difference it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The oracle has no words for it.
    CannotSay,
    /// The oracle cannot leave it out.
    AlwaysSays,
    /// Both can, and ours is otherwise on purpose.
    OnPurpose,
    /// Ours should change.
    Open,
}

/// Why a field differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Explanation {
    /// The field; `.*` at its end: everything inside it.
    pub field: &'static str,
    /// Only where ours is this.
    pub ours: Option<&'static str>,
    /// What kind.
    pub kind: Kind,
    /// In a sentence.
    pub why: &'static str,
}

/// A comparison with one oracle.
#[derive(Debug, Clone, Default)]
pub struct Section {
    /// Its heading.
    pub title: String,
    /// What the two columns are called.
    pub columns: [&'static str; 2],
    /// What was compared, in order, with its differences.
    pub compared: Vec<(String, Vec<Difference>)>,
    /// What is known about them.
    pub explanations: &'static [Explanation],
}

/// The document, and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Markdown.
    pub text: String,
    /// Differences without explanation and explanations without difference.
    pub problems: Vec<String>,
}

// === impl Kind ===

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::CannotSay => "cannot say it",
            Self::AlwaysSays => "always says it",
            Self::OnPurpose => "ours on purpose",
            Self::Open => "open",
        }
    }
}

// === impl Explanation ===

impl Explanation {
    /// An explanation of a field, whatever its values are.
    pub const fn new(field: &'static str, kind: Kind, why: &'static str) -> Self {
        Self { field, ours: None, kind, why }
    }

    /// An explanation of a field where ours is this.
    pub const fn of(field: &'static str, ours: &'static str, kind: Kind, why: &'static str) -> Self {
        Self { field, ours: Some(ours), kind, why }
    }

    fn fits(&self, difference: &Difference) -> bool {
        let field = match self.field.strip_suffix(".*") {
            Some(outside) => difference.field.strip_prefix(outside).is_some_and(|rest| rest.starts_with('.')),
            None => self.field == difference.field,
        };
        field && self.ours.is_none_or(|ours| difference.ours.as_deref() == Some(ours))
    }
}

// === impl Section ===

impl Section {
    fn write(&self, text: &mut String, problems: &mut Vec<String>) {
        let mut rows: BTreeMap<&Difference, Vec<&str>> = BTreeMap::new();
        for (name, differences) in &self.compared {
            for difference in differences {
                rows.entry(difference).or_default().push(name);
            }
        }
        let alike: Vec<&str> = self.compared.iter().filter(|(_, found)| found.is_empty()).map(|(name, _)| name.as_str()).collect();
        let [ours, theirs] = self.columns;
        _ = writeln!(text, "\n## {}\n", self.title);
        _ = writeln!(text, "Compared: {}. Without any difference: {}.\n", listed(self.names()), listed(alike));
        _ = writeln!(text, "| field | {ours} | {theirs} | in | kind | why |\n|---|---|---|---|---|---|");
        let mut used = BTreeSet::new();
        for (difference, names) in rows {
            let known = self.explanations.iter().position(|it| it.fits(difference));
            let Some((at, explanation)) = known.and_then(|at| Some((at, self.explanations.get(at)?))) else {
                problems.push(format!("{}: {difference:?} in {names:?} is not explained", self.title));
                continue;
            };
            used.insert(at);
            let names = self.gathered(&names);
            let (ours, theirs) = (cell(difference.ours.as_deref()), cell(difference.theirs.as_deref()));
            let (kind, why) = (explanation.kind.as_str(), explanation.why);
            _ = writeln!(text, "| `{}` | {ours} | {theirs} | {names} | {kind} | {why} |", difference.field);
        }
        for (at, explanation) in self.explanations.iter().enumerate() {
            if !used.contains(&at) {
                problems.push(format!("{}: no difference is left that '{}' explains: {}", self.title, explanation.field, explanation.why));
            }
        }
    }

    fn names(&self) -> Vec<&str> {
        self.compared.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// Some of the names, in fewer words if they are most.
    fn gathered(&self, some: &[&str]) -> String {
        let others: Vec<&str> = self.names().into_iter().filter(|name| !some.contains(name)).collect();
        match others.len() {
            0 => "all".to_owned(),
            few if few < some.len() => format!("all but {}", others.join(", ")),
            _ => some.join(", "),
        }
    }
}

fn listed(names: Vec<&str>) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Lines, each with how often it was there before.
fn counted(text: &str) -> BTreeSet<(&str, usize)> {
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    let mut count = |line| {
        let times = times.entry(line).or_default();
        *times += 1;
        (line, *times)
    };
    text.lines().map(&mut count).collect()
}

/// A value in a cell of a table.
fn cell(value: Option<&str>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("`{}`", value.replace('|', "\\|")))
}

// === impl Report ===

impl Report {
    /// Writes all sections under an introduction.
    pub fn new(introduction: &str, sections: &[Section], ending: &str) -> Self {
        let mut report = Self { text: introduction.to_owned(), problems: Vec::new() };
        for section in sections {
            section.write(&mut report.text, &mut report.problems);
        }
        report.text.push_str(ending);
        report
    }

    /// Everything that is wrong, beside the committed document: rows that it lacks and rows that it should not have any more.
    pub fn problems_beside(&self, committed: &str) -> Vec<String> {
        let mut problems = self.problems.clone();
        let (now, before) = (counted(&self.text), counted(committed));
        problems.extend(now.difference(&before).map(|(line, _)| format!("the table lacks: {line}")));
        problems.extend(before.difference(&now).map(|(line, _)| format!("the table has, but there is no longer: {line}")));
        if problems.is_empty() && self.text != committed {
            problems.push("the table's lines are in another order".to_owned());
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const KNOWN: &[Explanation] = &[
        Explanation::of("a", "1", Kind::OnPurpose, "one is enough"),
        Explanation::new("a", Kind::CannotSay, "no words"),
        Explanation::new("b.*", Kind::AlwaysSays, "chatty"),
    ];

    fn report(pushes: &[(&'static str, Value, Value)]) -> Report {
        let compared = pushes.iter().map(|(name, ours, theirs)| ((*name).to_owned(), Difference::between(ours, theirs))).collect();
        let section = Section { title: "T".to_owned(), columns: ["ours", "theirs"], compared, explanations: KNOWN };
        Report::new("# D\n", &[section], "")
    }

    fn all() -> Vec<(&'static str, Value, Value)> {
        vec![
            ("one", json!({"a": 1}), json!({"b": {"c": 0}})),
            ("two", json!({"a": 1}), json!({"b": {"c": 0}})),
            ("three", json!({"a": "x|y"}), json!({})),
            ("four", json!({}), json!({})),
        ]
    }

    #[test]
    fn equal_differences_are_one_row_with_its_explanation() {
        let report = report(&all());
        assert_eq!(report.problems, Vec::<String>::new());
        for row in [
            "Compared: one, two, three, four. Without any difference: four.",
            "| `a` | `1` | – | one, two | ours on purpose | one is enough |",
            "| `a` | `\"x\\|y\"` | – | three | cannot say it | no words |",
            "| `b.c` | – | `0` | one, two | always says it | chatty |",
        ] {
            assert!(report.text.lines().any(|line| line == row), "{row}\n{}", report.text);
        }
        assert_eq!(report.problems_beside(&report.text), Vec::<String>::new());
    }

    #[test]
    fn a_difference_that_appears_is_told_with_and_without_an_explanation() {
        let committed = report(&all()).text;
        let mut pushes = all();
        pushes.push(("five", json!({"a": 2}), json!({"bee": 1})));
        let problems = report(&pushes).problems_beside(&committed);
        assert!(problems.iter().any(|it| it.contains("\"bee\"") && it.contains("not explained")), "{problems:?}");
        assert!(problems.iter().any(|it| it.contains("lacks: | `a` | `2` | –")), "{problems:?}");
    }

    #[test]
    fn a_difference_that_is_gone_is_told_with_its_row_and_its_explanation() {
        let committed = report(&all()).text;
        let mut pushes = all();
        pushes.retain(|(name, ..)| *name != "three");
        let problems = report(&pushes).problems_beside(&committed);
        assert!(problems.iter().any(|it| it.contains("no difference is left") && it.contains("no words")), "{problems:?}");
        assert!(problems.iter().any(|it| it.contains("no longer: | `a` | `\"x\\|y\"`")), "{problems:?}");
    }

    #[test]
    fn a_value_that_changes_and_an_order_that_changes_are_told() {
        let report = report(&all());
        let changed = report.text.replace("`1`", "`7`");
        assert_eq!(report.problems_beside(&changed).len(), 2);
        let shown_twice = format!("{0}{1}\n", report.text, report.text.lines().last().unwrap());
        assert_eq!(report.problems_beside(&shown_twice).len(), 1, "a row that is there too often");
        let turned: String = report.text.lines().rev().map(|line| format!("{line}\n")).collect();
        assert_eq!(report.problems_beside(&turned), ["the table's lines are in another order"]);
    }
}
