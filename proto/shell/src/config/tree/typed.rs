//! From the tree to the typed sections: serde's deserialising side, with every mistake carrying its key and its place upwards.

use std::{collections::btree_map, fmt, vec};

use serde::de::{self, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor};

use super::{Entry, Kind, Node, Origin};
use crate::config::problem::{Problem, nearest};

/// A problem on its way up: each table and list it passes adds its key.
#[derive(Debug)]
pub(crate) struct Mismatch(pub(super) Problem);

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
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
            self.number().deserialize_any(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for Node {
    type Error = Mismatch;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
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

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.boolean().deserialize_any(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Mismatch> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.reread().deserialize_any(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.reread().deserialize_any(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(self, _: &'static str, _: &'static [&'static str], visitor: V) -> Result<V::Value, Mismatch> {
        // A derived struct would also take a list, field by field: a mistake, not a feature.
        match self.reread() {
            node @ Node { kind: Kind::Table(_), .. } => node.deserialize_any(visitor),
            node => Err(<Mismatch as de::Error>::invalid_type(node.unexpected(), &"a table").at(&node.origin)),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
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
    items: vec::IntoIter<Node>,
    index: usize,
}

impl<'de> SeqAccess<'de> for Items {
    type Error = Mismatch;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Mismatch> {
        let Some(item) = self.items.next() else { return Ok(None) };
        let key = format!("[{}]", self.index);
        self.index += 1;
        let origin = item.origin.clone();
        seed.deserialize(item).map(Some).map_err(|mismatch| mismatch.at(&origin).under(&key))
    }
}

struct Entries {
    entries: btree_map::IntoIter<String, Entry>,
    value: Option<(String, Entry)>,
}

impl<'de> MapAccess<'de> for Entries {
    type Error = Mismatch;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Mismatch> {
        let Some((key, entry)) = self.entries.next() else { return Ok(None) };
        let read = seed.deserialize(key.clone().into_deserializer());
        let read = read.map_err(|mismatch: Mismatch| mismatch.at(&entry.key_origin).under(&key))?;
        self.value = Some((key, entry));
        Ok(Some(read))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Mismatch> {
        let Some((key, entry)) = self.value.take() else { return Err(Mismatch::says("has a value without a key".to_owned())) };
        seed.deserialize(entry.node).map_err(|mismatch| mismatch.at(&entry.key_origin).under(&key))
    }
}

struct Variant {
    variant: String,
    value: Option<Node>,
}

impl<'de> EnumAccess<'de> for Variant {
    type Error = Mismatch;
    type Variant = VariantValue;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, VariantValue), Mismatch> {
        let variant = seed.deserialize(self.variant.clone().into_deserializer())?;
        Ok((variant, VariantValue { variant: self.variant, value: self.value }))
    }
}

struct VariantValue {
    variant: String,
    value: Option<Node>,
}

impl<'de> VariantAccess<'de> for VariantValue {
    type Error = Mismatch;

    fn unit_variant(self) -> Result<(), Mismatch> {
        match self.value {
            None => Ok(()),
            Some(node) => Err(Mismatch::says("takes no value".to_owned()).at(&node.origin).under(&self.variant)),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Mismatch> {
        match self.value {
            Some(node) => {
                let origin = node.origin.clone();
                seed.deserialize(node).map_err(|mismatch| mismatch.at(&origin).under(&self.variant))
            }
            None => Err(Mismatch::says(format!("needs a value: {{ {} = … }}", self.variant))),
        }
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Mismatch> {
        self.newtype(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Mismatch> {
        self.newtype(visitor)
    }
}

impl VariantValue {
    fn newtype<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.value {
            Some(node) => node.deserialize_any(visitor).map_err(|mismatch| mismatch.under(&self.variant)),
            None => Err(Mismatch::says(format!("needs a value: {{ {} = … }}", self.variant))),
        }
    }
}
