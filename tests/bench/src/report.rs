//! A bench's figures: as a table for people and as JSON for comparing runs.

use std::{collections::BTreeMap, io::Write};

use anyhow::Context;
use serde::Serialize;

/// Which way a figure gets better.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// One figure, a median over runs.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    bench: &'static str,
    case: String,
    unit: &'static str,
    better: Better,
    ours: f64,
    beside: BTreeMap<&'static str, f64>,
    #[serde(skip)]
    goal: Option<f64>,
}

/// A bench's rows and what is to be known when reading them.
#[derive(Debug)]
pub(crate) struct Table {
    bench: &'static str,
    rows: Vec<Row>,
    notes: Vec<String>,
}

// === impl Row ===

impl Row {
    pub(crate) fn beside(&mut self, rival: &'static str, figure: f64) -> &mut Self {
        self.beside.insert(rival, rounded(figure));
        self
    }

    pub(crate) fn goal(&mut self, goal: f64) -> &mut Self {
        self.goal = Some(goal);
        self
    }
}

// === impl Table ===

impl Table {
    pub(crate) fn new(bench: &'static str) -> Self {
        Self { bench, rows: Vec::new(), notes: Vec::new() }
    }

    /// Adds a figure of ours.
    pub(crate) fn row(&mut self, case: impl Into<String>, unit: &'static str, better: Better, ours: f64) -> &mut Row {
        let row = Row { bench: self.bench, case: case.into(), unit, better, ours: rounded(ours), beside: BTreeMap::new(), goal: None };
        self.rows.push(row);
        let last = self.rows.len() - 1;
        #[expect(clippy::indexing_slicing, reason = "it was pushed one line above")]
        &mut self.rows[last]
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Prints it and writes it to `target/bench/`.
    pub(crate) fn publish(&self) -> anyhow::Result<()> {
        let here = std::env::current_exe()?;
        let target = here.ancestors().nth(2).context("the program lies in no target directory")?.join("bench");
        std::fs::create_dir_all(&target)?;
        let path = target.join(format!("{}.json", self.bench));
        std::fs::write(&path, serde_json::to_vec_pretty(&self.rows)?).with_context(|| format!("write {}", path.display()))?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "\n{}\n{}", self.bench, self.drawn())?;
        for note in &self.notes {
            writeln!(out, "  {note}")?;
        }
        Ok(())
    }

    fn drawn(&self) -> comfy_table::Table {
        let rivals: std::collections::BTreeSet<&str> = self.rows.iter().flat_map(|row| row.beside.keys().copied()).collect();
        let mut table = comfy_table::Table::new();
        table.load_preset(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(["case", "unit", "ours", "goal"].into_iter().chain(rivals.iter().copied()));
        for row in &self.rows {
            let bound = match row.better {
                Better::Higher => "≥",
                Better::Lower => "≤",
            };
            let goal = row.goal.map(|goal| format!("{bound} {}", shown(goal))).unwrap_or_default();
            let cells = [row.case.clone(), row.unit.to_owned(), shown(row.ours), goal];
            let beside = rivals.iter().map(|rival| row.beside.get(rival).map(|figure| shown(*figure)).unwrap_or_default());
            table.add_row(cells.into_iter().chain(beside));
        }
        table
    }
}

/// Three significant decimals are all that a shared machine gives.
fn rounded(figure: f64) -> f64 {
    if figure.abs() >= 100.0 { figure.round() } else { (figure * 1000.0).round() / 1000.0 }
}

fn shown(figure: f64) -> String {
    if figure.abs() < 1000.0 {
        return figure.to_string();
    }
    let digits = format!("{figure:.0}");
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped
}

/// The middle one.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Tells how far it is; the tables alone go to standard output.
pub(crate) fn progress(text: &str) {
    // Nobody watching is no reason to stop.
    let _ = writeln!(std::io::stderr(), "bench: {text}");
}
