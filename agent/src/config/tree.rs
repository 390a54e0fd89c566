//! The configuration as written: values of the file and of the environment, each with the place it came from, so that whatever
//! is wrong with a value later can be said with its line. Deserialises into the typed sections.

use std::{collections::BTreeMap, fmt};

use serde::de::{self, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor};
use toml::de::{DeTable, DeValue};

use super::problem::{Problem, nearest};

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

    /// Nothing written.
    pub(crate) fn empty() -> Self {
        Self { origin: Origin::Line(1), kind: Kind::Table(BTreeMap::new()) }
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
                let item = |value: &toml::Spanned<DeValue<'_>>| Node {
                    origin: self.origin(value.span().start),
                    kind: self.kind(value.get_ref()),
                };
                Kind::List(items.iter().map(item).collect())
            }
            DeValue::Table(table) => Kind::Table(self.table(table)),
        }
    }
}

// === deserialising ===

/// A problem on its way up: each table and list it passes adds its key.
#[derive(Debug)]
pub(crate) struct Mismatch(Problem);

impl Mismatch {
    fn at(mut self, origin: &Origin) -> Self {
        self.0.origin.get_or_insert_with(|| origin.clone());
        self
    }

    fn under(self, key: &str) -> Self {
        Self(self.0.under(key))
    }

    fn says(what: String) -> Self {
        Self(Problem { origin: None, key: String::new(), what })
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.what)
    }
}

impl std::error::Error for Mismatch {}

impl de::Error for Mismatch {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::says(message.to_string())
    }

    // The value itself is not shown: it may be a password that stands in the wrong place.
    fn invalid_type(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let is = match unexpected {
            de::Unexpected::Bool(_) => "a boolean",
            de::Unexpected::Unsigned(_) | de::Unexpected::Signed(_) => "a whole number",
            de::Unexpected::Float(_) => "a number with a fraction",
            de::Unexpected::Seq => "a list",
            de::Unexpected::Map => "a table",
            _ => "text",
        };
        Self::says(format!("is {is}; must be {}", allowed(expected)))
    }

    fn invalid_value(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        match unexpected {
            de::Unexpected::Signed(value) => Self::says(format!("{value} is out of range; must be {}", allowed(expected))),
            de::Unexpected::Unsigned(value) => Self::says(format!("{value} is out of range; must be {}", allowed(expected))),
            _ => Self::says(format!("is not allowed; must be {}", allowed(expected))),
        }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let hint = nearest(variant, expected).map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
        Self::says(format!("'{variant}' is not known{hint}; allowed: {}", expected.join(", ")))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let hint = nearest(field, expected).map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
        Self::says(format!("unknown key{hint}; allowed here: {}", expected.join(", ")))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::says("is missing; it has no default".to_owned()).under(field)
    }
}

fn allowed(expected: &dyn de::Expected) -> String {
    match expected.to_string().as_str() {
        "u8" => "a whole number from 0 to 255".to_owned(),
        "u16" => "a whole number from 0 to 65535".to_owned(),
        "u32" => "a whole number from 0 to 4294967295".to_owned(),
        "u64" | "usize" => "a whole number, 0 or more".to_owned(),
        "a sequence" => "a list: [\"…\", \"…\"]".to_owned(),
        other if other.starts_with("struct ") => "a table".to_owned(),
        other => other.to_owned(),
    }
}

macro_rules! numbers {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Mismatch> {
            self.number().deserialize_any(visitor)
        })*
    };
}

impl Deserializer<'static> for Node {
    type Error = Mismatch;

    fn deserialize_any<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        let origin = self.origin;
        let result = match self.kind {
            Kind::Text(text) | Kind::Loose(text) => visitor.visit_string(text),
            Kind::Integer(value) => visitor.visit_i64(value),
            Kind::Float(value) => visitor.visit_f64(value),
            Kind::Boolean(value) => visitor.visit_bool(value),
            Kind::List(items) => visitor.visit_seq(Items { items: items.into_iter(), index: 0 }),
            Kind::Table(entries) => visitor.visit_map(Entries { entries: entries.into_iter(), value: None }),
        };
        result.map_err(|mismatch| mismatch.at(&origin))
    }

    numbers!(deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_u8 deserialize_u16 deserialize_u32
        deserialize_u64 deserialize_f32 deserialize_f64);

    fn deserialize_bool<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.boolean().deserialize_any(visitor)
    }

    fn deserialize_option<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'static>>(self, _: &'static str, visitor: V) -> Result<V::Value, Mismatch> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.reread().deserialize_any(visitor)
    }

    fn deserialize_map<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.reread().deserialize_any(visitor)
    }

    fn deserialize_struct<V: Visitor<'static>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        // A derived struct would also take a list, field by field: a mistake, not a feature.
        match self.reread() {
            node @ Node { kind: Kind::Table(_), .. } => node.deserialize_any(visitor),
            node => Err(<Mismatch as de::Error>::invalid_type(node.unexpected(), &"a table").at(&node.origin)),
        }
    }

    fn deserialize_enum<V: Visitor<'static>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        let origin = self.origin.clone();
        let node = if matches!(&self.kind, Kind::Loose(text) if text.trim_start().starts_with('{')) { self.reread() } else { self };
        let (variant, value) = match node.kind {
            Kind::Text(text) | Kind::Loose(text) => (text, None),
            Kind::Table(entries) if entries.len() == 1 => match entries.into_iter().next() {
                Some((key, entry)) => (key, Some(entry.node)),
                None => return Err(Mismatch::says(one_of(variants)).at(&origin)),
            },
            _ => return Err(Mismatch::says(one_of(variants)).at(&origin)),
        };
        visitor.visit_enum(Variant { variant, value }).map_err(|mismatch| mismatch.at(&origin))
    }

    serde::forward_to_deserialize_any! {
        char str string bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

fn one_of(variants: &[&str]) -> String {
    format!("must name exactly one of: {}", variants.join(", "))
}

struct Items {
    items: std::vec::IntoIter<Node>,
    index: usize,
}

impl SeqAccess<'static> for Items {
    type Error = Mismatch;

    fn next_element_seed<T: DeserializeSeed<'static>>(&mut self, seed: T) -> Result<Option<T::Value>, Mismatch> {
        let Some(item) = self.items.next() else { return Ok(None) };
        let key = format!("[{}]", self.index);
        self.index += 1;
        let origin = item.origin.clone();
        seed.deserialize(item).map(Some).map_err(|mismatch| mismatch.at(&origin).under(&key))
    }
}

struct Entries {
    entries: std::collections::btree_map::IntoIter<String, Entry>,
    value: Option<(String, Entry)>,
}

impl MapAccess<'static> for Entries {
    type Error = Mismatch;

    fn next_key_seed<K: DeserializeSeed<'static>>(&mut self, seed: K) -> Result<Option<K::Value>, Mismatch> {
        let Some((key, entry)) = self.entries.next() else { return Ok(None) };
        let read = seed.deserialize(key.clone().into_deserializer());
        let read = read.map_err(|mismatch: Mismatch| mismatch.at(&entry.key_origin).under(&key))?;
        self.value = Some((key, entry));
        Ok(Some(read))
    }

    fn next_value_seed<V: DeserializeSeed<'static>>(&mut self, seed: V) -> Result<V::Value, Mismatch> {
        let Some((key, entry)) = self.value.take() else { return Err(Mismatch::says("has a value without a key".to_owned())) };
        seed.deserialize(entry.node).map_err(|mismatch| mismatch.at(&entry.key_origin).under(&key))
    }
}

struct Variant {
    variant: String,
    value: Option<Node>,
}

impl EnumAccess<'static> for Variant {
    type Error = Mismatch;
    type Variant = VariantValue;

    fn variant_seed<V: DeserializeSeed<'static>>(self, seed: V) -> Result<(V::Value, VariantValue), Mismatch> {
        let variant = seed.deserialize(self.variant.clone().into_deserializer())?;
        Ok((variant, VariantValue { variant: self.variant, value: self.value }))
    }
}

struct VariantValue {
    variant: String,
    value: Option<Node>,
}

impl VariantAccess<'static> for VariantValue {
    type Error = Mismatch;

    fn unit_variant(self) -> Result<(), Mismatch> {
        match self.value {
            None => Ok(()),
            Some(node) => Err(Mismatch::says("takes no value".to_owned()).at(&node.origin).under(&self.variant)),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'static>>(self, seed: T) -> Result<T::Value, Mismatch> {
        match self.value {
            Some(node) => {
                let origin = node.origin.clone();
                seed.deserialize(node).map_err(|mismatch| mismatch.at(&origin).under(&self.variant))
            }
            None => Err(Mismatch::says(format!("needs a value: {{ {} = … }}", self.variant))),
        }
    }

    fn tuple_variant<V: Visitor<'static>>(self, _: usize, visitor: V) -> Result<V::Value, Mismatch> {
        self.newtype(visitor)
    }

    fn struct_variant<V: Visitor<'static>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Mismatch> {
        self.newtype(visitor)
    }
}

impl VariantValue {
    fn newtype<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.value {
            Some(node) => node.deserialize_any(visitor).map_err(|mismatch| mismatch.under(&self.variant)),
            None => Err(Mismatch::says(format!("needs a value: {{ {} = … }}", self.variant))),
        }
    }
}
