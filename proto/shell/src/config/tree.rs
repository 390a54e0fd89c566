//! The configuration as written: values of the file and of the environment, each with the place it came from, so that whatever
//! is wrong with a value later can be said with its line. Deserialises into the typed sections.

mod typed;

use std::{collections::BTreeMap, fmt};

use serde::de;
use toml::de::{DeTable, DeValue};

use self::typed::Mismatch;
use super::problem::Problem;

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A line of the configuration file, counted from 1.
    Line(usize),
    /// An environment variable.
    Environment(String),
}

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    origin: Origin,
    kind: Kind,
}

/// What was written.
#[derive(Clone, PartialEq)]
enum Kind {
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    List(Vec<Node>),
    Table(BTreeMap<String, Entry>),
    /// Text of an environment variable: takes the type that is asked of it.
    Loose(String),
}

// A value may be a password.
impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text(_) | Self::Loose(_) => "text",
            Self::Integer(_) => "integer",
            Self::Float(_) => "float",
            Self::Boolean(_) => "boolean",
            Self::List(_) => "list",
            Self::Table(_) => "table",
        })
    }
}

/// A table's value and where its key stands.
#[derive(Debug, Clone, PartialEq)]
struct Entry {
    key_origin: Origin,
    node: Node,
}

// === impl Node ===

impl Node {
    /// Reads a file's text.
    pub(crate) fn parse(text: &str) -> Result<Self, Problem> {
        let lines = Lines::of(text);
        let parsed = DeTable::parse(text).map_err(|error| Problem {
            origin: Some(Origin::Line(error.span().map_or(1, |span| lines.line(span.start)))),
            key: String::new(),
            what: format!("is no TOML: {}", error.message().replace('\n', ", ")),
        })?;
        Ok(Self { origin: Origin::Line(1), kind: Kind::Table(lines.table(parsed.get_ref())) })
    }

    /// Puts an environment variable's text where its path says; indices of lists are numbers.
    pub(crate) fn set(&mut self, path: &[String], variable: &str, text: &str) -> Result<(), Problem> {
        let origin = Origin::Environment(variable.to_owned());
        let problem = |what: &str| Problem { origin: Some(origin.clone()), key: path.join("."), what: what.to_owned() };
        let Some((first, rest)) = path.split_first() else {
            self.kind = Kind::Loose(text.to_owned());
            self.origin = origin;
            return Ok(());
        };
        let fresh = || Self { origin: origin.clone(), kind: Kind::Table(BTreeMap::new()) };
        if let Kind::List(items) = &mut self.kind {
            let index = first.parse::<usize>().map_err(|_| problem("a list's entries are numbered from 0"))?;
            if index > items.len() {
                return Err(problem("numbers of a list's entries must follow each other"));
            }
            if index == items.len() {
                items.push(fresh());
            }
            return items.get_mut(index).map_or(Ok(()), |item| item.set(rest, variable, text).map_err(|inner| inner.under(first)));
        }
        if matches!(&self.kind, Kind::Table(entries) if entries.is_empty()) && first.parse::<usize>() == Ok(0) {
            self.kind = Kind::List(Vec::new());
            return self.set(path, variable, text);
        }
        let Kind::Table(entries) = &mut self.kind else {
            return Err(problem("is no table, so it has no such key"));
        };
        let entry = entries.entry(first.clone()).or_insert_with(|| Entry { key_origin: origin.clone(), node: fresh() });
        entry.node.set(rest, variable, text).map_err(|inner| inner.under(first))
    }

    /// The place of a key such as `grants[0].domains`, or of the nearest table around it.
    pub(crate) fn origin(&self, key: &str) -> Option<Origin> {
        let mut node = self;
        let mut found = None;
        for part in key.split(['.', '[']).filter(|part| !part.is_empty()) {
            let part = part.trim_end_matches(']');
            match &node.kind {
                Kind::Table(entries) => match entries.get(part) {
                    Some(entry) => {
                        found = Some(entry.key_origin.clone());
                        node = &entry.node;
                    }
                    None => break,
                },
                Kind::List(items) => match part.parse::<usize>().ok().and_then(|index| items.get(index)) {
                    Some(item) => {
                        found = Some(item.origin.clone());
                        node = item;
                    }
                    None => break,
                },
                _ => break,
            }
        }
        found
    }

    /// The top-level keys, each as a tree of its own, so that one section's mistake does not hide another's.
    pub(crate) fn sections(&self) -> Vec<Self> {
        let Kind::Table(entries) = &self.kind else { return Vec::new() };
        let one = |(key, entry): (&String, &Entry)| Self {
            origin: self.origin.clone(),
            kind: Kind::Table(BTreeMap::from([(key.clone(), entry.clone())])),
        };
        entries.iter().map(one).collect()
    }

    /// Gives the tree its type.
    pub(crate) fn typed<T: de::DeserializeOwned>(self) -> Result<T, Problem> {
        T::deserialize(self).map_err(|Mismatch(problem)| problem)
    }

    fn unexpected(&self) -> de::Unexpected<'_> {
        match &self.kind {
            Kind::Text(text) | Kind::Loose(text) => de::Unexpected::Str(text),
            Kind::Integer(value) => de::Unexpected::Signed(*value),
            Kind::Float(value) => de::Unexpected::Float(*value),
            Kind::Boolean(value) => de::Unexpected::Bool(*value),
            Kind::List(_) => de::Unexpected::Seq,
            Kind::Table(_) => de::Unexpected::Map,
        }
    }

    /// An environment text read as a TOML value, for lists and tables.
    fn reread(self) -> Self {
        let Kind::Loose(text) = &self.kind else { return self };
        let trimmed = text.trim();
        let kind = match trimmed.chars().next() {
            Some('[' | '{') => match DeValue::parse(trimmed) {
                Ok(value) => Lines::fixed(self.origin.clone()).kind(value.get_ref()),
                Err(_) => return self,
            },
            None => Kind::List(Vec::new()),
            Some(_) => {
                let item = |part: &str| Self { origin: self.origin.clone(), kind: Kind::Loose(part.trim().to_owned()) };
                Kind::List(trimmed.split(',').map(item).collect())
            }
        };
        Self { origin: self.origin, kind }
    }

    fn number(self) -> Self {
        let Kind::Loose(text) = &self.kind else { return self };
        match (text.trim().parse::<i64>(), text.trim().parse::<f64>()) {
            (Ok(value), _) => Self { kind: Kind::Integer(value), ..self },
            (_, Ok(value)) => Self { kind: Kind::Float(value), ..self },
            _ => self,
        }
    }

    fn boolean(self) -> Self {
        match &self.kind {
            Kind::Loose(text) if ["true", "1", "yes"].contains(&text.trim()) => Self { kind: Kind::Boolean(true), ..self },
            Kind::Loose(text) if ["false", "0", "no"].contains(&text.trim()) => Self { kind: Kind::Boolean(false), ..self },
            _ => self,
        }
    }
}

// === positions ===

/// Turns byte offsets into line numbers.
struct Lines {
    starts: Vec<usize>,
    fixed: Option<Origin>,
}

impl Lines {
    fn of(text: &str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { starts, fixed: None }
    }

    fn fixed(origin: Origin) -> Self {
        Self { starts: Vec::new(), fixed: Some(origin) }
    }

    fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset).max(1)
    }

    fn origin(&self, offset: usize) -> Origin {
        self.fixed.clone().unwrap_or_else(|| Origin::Line(self.line(offset)))
    }

    fn table(&self, table: &DeTable<'_>) -> BTreeMap<String, Entry> {
        let entry = |(key, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
            let key_text: &std::borrow::Cow<'_, str> = key.get_ref();
            let node = Node { origin: self.origin(value.span().start), kind: self.kind(value.get_ref()) };
            (key_text.clone().into_owned(), Entry { key_origin: self.origin(key.span().start), node })
        };
        table.iter().map(entry).collect()
    }

    fn kind(&self, value: &DeValue<'_>) -> Kind {
        match value {
            DeValue::String(text) => Kind::Text(text.clone().into_owned()),
            DeValue::Integer(integer) => {
                let digits = integer.as_str().replace('_', "");
                i64::from_str_radix(&digits, integer.radix()).map_or(Kind::Text(digits), Kind::Integer)
            }
            DeValue::Float(float) => Kind::Float(float.as_str().replace('_', "").parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(value) => Kind::Boolean(*value),
            DeValue::Datetime(value) => Kind::Text(value.to_string()),
            DeValue::Array(items) => {
                let item =
                    |value: &toml::Spanned<DeValue<'_>>| Node { origin: self.origin(value.span().start), kind: self.kind(value.get_ref()) };
                Kind::List(items.iter().map(item).collect())
            }
            DeValue::Table(table) => Kind::Table(self.table(table)),
        }
    }
}
