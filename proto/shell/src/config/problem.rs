//! What is wrong with a configuration, where, and what is allowed instead.

use std::fmt;

use super::tree::Origin;

/// One thing wrong. Shown as `file:line: key: what is wrong; what is allowed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The place; none when nothing was written there and nothing around it.
    pub origin: Option<Origin>,
    /// The key's path: `grants[0].domains`. Empty for the whole file.
    pub key: String,
    /// What is wrong and what is allowed. Never holds a secret.
    pub what: String,
}

impl Problem {
    /// A problem whose place is looked up by its key later.
    pub fn new(key: impl Into<String>, what: impl Into<String>) -> Self {
        Self { origin: None, key: key.into(), what: what.into() }
    }

    /// Puts a table's key before the path.
    pub fn under(mut self, key: &str) -> Self {
        self.key = match self.key.as_str() {
            "" => key.to_owned(),
            inner if inner.starts_with('[') => format!("{key}{inner}"),
            inner => format!("{key}.{inner}"),
        };
        self
    }
}

/// Everything wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The file, as it was named.
    pub file: String,
    /// At least one problem.
    pub problems: Vec<Problem>,
}

impl Refused {
    /// One line for each of `problems`, with the file's name.
    pub fn lines(file: &str, problems: &[Problem]) -> Vec<String> {
        problems.iter().map(|problem| line(file, problem)).collect()
    }
}

fn line(file: &str, problem: &Problem) -> String {
    let place = match &problem.origin {
        Some(Origin::Line(line)) => format!("{file}:{line}"),
        Some(Origin::Environment(variable)) => format!("environment {variable}"),
        None => file.to_owned(),
    };
    if problem.key.is_empty() { format!("{place}: {}", problem.what) } else { format!("{place}: {}: {}", problem.key, problem.what) }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Self::lines(&self.file, &self.problems).join("\n"))
    }
}

impl std::error::Error for Refused {}

/// The candidate that `word` is most likely a slip of.
pub fn nearest(word: &str, candidates: &[&'static str]) -> Option<&'static str> {
    let scored = candidates.iter().map(|candidate| (distance(word, candidate), *candidate));
    let (distance, candidate) = scored.min()?;
    (distance <= 1 + word.chars().count() / 3).then_some(candidate)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        for (j, (to, pair)) in b.iter().zip(row.windows(2)).enumerate() {
            let (diagonal, above) = (pair.first().copied().unwrap_or(0), pair.last().copied().unwrap_or(0));
            let left = next.get(j).copied().unwrap_or(0);
            next.push((diagonal + usize::from(from != *to)).min(above + 1).min(left + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}
