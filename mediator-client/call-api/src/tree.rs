//! The element tree of a message, and its JSON form in frames (ecss10-interfaces §2): arrays of `{_name, _attributes?, _content?}`.
//! The same tree is XML over plain HTTP. Reading borrows from the message; depth and number of elements are bounded.

use std::{borrow::Cow, fmt};

use ecss_terminal::xml;
use serde::{
    Deserializer, Serialize, Serializer,
    de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
    ser::SerializeMap,
};

/// How deep elements may nest.
pub const MAX_DEPTH: u16 = 32;
/// How many elements, attributes and texts one message may hold.
pub const MAX_NODES: u32 = 500_000;

/// An element.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Element<'a> {
    /// Its name; may carry a namespace prefix.
    pub name: Cow<'a, str>,
    /// Names and values, in order.
    pub attributes: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// Elements and texts, in order.
    pub content: Vec<Node<'a>>,
}

/// What an element contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node<'a> {
    /// An element.
    Element(Element<'a>),
    /// Text.
    Text(Cow<'a, str>),
}

/// Why a text is no tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TreeError(String);

// === impl Element ===

impl<'a> Element<'a> {
    /// An empty element.
    pub fn new(name: impl Into<Cow<'a, str>>) -> Self {
        Self { name: name.into(), attributes: Vec::new(), content: Vec::new() }
    }

    /// The element with an attribute more.
    #[must_use]
    pub fn attribute(mut self, name: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, str>>) -> Self {
        self.attributes.push((name.into(), value.into()));
        self
    }

    /// The element with a child more.
    #[must_use]
    pub fn child(mut self, child: Element<'a>) -> Self {
        self.content.push(Node::Element(child));
        self
    }

    /// The name without its namespace prefix.
    pub fn local_name(&self) -> &str {
        self.name.rsplit_once(':').map_or(&*self.name, |(_, local)| local)
    }

    /// The value of an attribute.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| &**value)
    }

    /// The child elements.
    pub fn children(&self) -> impl Iterator<Item = &Element<'a>> {
        self.content.iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        })
    }

    /// The texts directly inside, joined and trimmed.
    pub fn text(&self) -> String {
        let mut joined = String::new();
        for node in &self.content {
            if let Node::Text(text) = node {
                joined.push_str(text);
            }
        }
        joined.trim().to_owned()
    }

    /// The element and all below it that have this local name, outermost first; what lies inside a match is not searched.
    pub fn find<'s>(&'s self, local_name: &str, found: &mut Vec<&'s Element<'a>>) {
        if self.local_name() == local_name {
            found.push(self);
            return;
        }
        for child in self.children() {
            child.find(local_name, found);
        }
    }

    /// The first value of an attribute, of the element itself or of any below it.
    pub fn find_attribute(&self, name: &str) -> Option<&str> {
        self.get(name).or_else(|| self.children().find_map(|child| child.find_attribute(name)))
    }
}

/// Reads the JSON form: an array of elements, or a single one.
pub fn from_json(json: &str) -> Result<Vec<Element<'_>>, TreeError> {
    let mut budget = Budget { nodes: MAX_NODES };
    let mut reader = serde_json::Deserializer::from_str(json);
    let read = Roots { budget: &mut budget }.deserialize(&mut reader).and_then(|roots| reader.end().map(|()| roots));
    read.map_err(|error| TreeError(describe(&error)))
}

/// Writes the JSON form: an array of elements.
pub fn to_json(roots: &[Element<'_>]) -> String {
    // strings, arrays and maps with text keys: there is nothing in it that JSON cannot hold
    serde_json::to_string(roots).unwrap_or_default()
}

/// The place and kind of an error without the text it is about, which may be private.
fn describe(error: &serde_json::Error) -> String {
    let kind = match error.classify() {
        serde_json::error::Category::Eof => "the JSON is truncated",
        serde_json::error::Category::Data => "the JSON is no element tree within the bounds",
        _ => "the JSON is malformed",
    };
    format!("{kind} (line {}, column {})", error.line(), error.column())
}

impl Serialize for Element<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Attributes<'s, 'a>(&'s [(Cow<'a, str>, Cow<'a, str>)]);
        impl Serialize for Attributes<'_, '_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
            }
        }
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("_name", &self.name)?;
        if !self.attributes.is_empty() {
            map.serialize_entry("_attributes", &Attributes(&self.attributes))?;
        }
        if !self.content.is_empty() {
            map.serialize_entry("_content", &self.content)?;
        }
        map.end()
    }
}

impl Serialize for Node<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Element(element) => element.serialize(serializer),
            Self::Text(text) => serializer.serialize_str(text),
        }
    }
}

// === reading ===

struct Budget {
    nodes: u32,
}

impl Budget {
    fn take<E: serde::de::Error>(&mut self) -> Result<(), E> {
        self.nodes = self.nodes.checked_sub(1).ok_or_else(|| E::custom("too many elements"))?;
        Ok(())
    }
}

struct Roots<'b> {
    budget: &'b mut Budget,
}

impl<'de> DeserializeSeed<'de> for Roots<'_> {
    type Value = Vec<Element<'de>>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        let nodes = deserializer.deserialize_any(Content { budget: self.budget, depth: 0 })?;
        let element = |node| match node {
            Node::Element(element) => Ok(element),
            Node::Text(_) => Err(D::Error::custom("text outside of an element")),
        };
        nodes.into_iter().map(element).collect()
    }
}

/// What may stand for content: an array, a single element, a text or other scalar, or nothing.
struct Content<'b> {
    budget: &'b mut Budget,
    depth: u16,
}

impl<'de> DeserializeSeed<'de> for Content<'_> {
    type Value = Vec<Node<'de>>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Content<'_> {
    type Value = Vec<Node<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("elements or text")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = seq.next_element_seed(OneNode { budget: self.budget, depth: self.depth })? {
            nodes.extend(node);
        }
        Ok(nodes)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        Ok(OneNode { budget: self.budget, depth: self.depth }.visit_map(map)?.into_iter().collect())
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        self.budget.take()?;
        Ok(vec![Node::Text(text.into())])
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        self.budget.take()?;
        Ok(vec![Node::Text(text.to_owned().into())])
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Self::Value, E> {
        self.visit_str(if value { "true" } else { "false" })
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Self::Value, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Self::Value, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Self::Value, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }
}

/// One member of a content array; `null` is none.
struct OneNode<'b> {
    budget: &'b mut Budget,
    depth: u16,
}

impl<'de> DeserializeSeed<'de> for OneNode<'_> {
    type Value = Option<Node<'de>>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for OneNode<'_> {
    type Value = Option<Node<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an element or text")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        self.budget.take()?;
        if self.depth >= MAX_DEPTH {
            return Err(A::Error::custom("elements nest too deep"));
        }
        let mut element = Element::default();
        while let Some(Scalar(key)) = map.next_key_seed(ScalarSeed)? {
            match key.as_deref() {
                Some("_name") => element.name = map.next_value_seed(ScalarSeed)?.0.unwrap_or_default(),
                Some("_attributes") => element.attributes = map.next_value_seed(Attributes { budget: self.budget })?,
                Some("_content") => element.content = map.next_value_seed(Content { budget: self.budget, depth: self.depth + 1 })?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        if element.name.is_empty() {
            return Err(A::Error::custom("an element without a name"));
        }
        Ok(Some(Node::Element(element)))
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        self.budget.take()?;
        Ok(Some(Node::Text(text.into())))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        self.budget.take()?;
        Ok(Some(Node::Text(text.to_owned().into())))
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Self::Value, E> {
        self.visit_str(if value { "true" } else { "false" })
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Self::Value, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Self::Value, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Self::Value, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

struct Attributes<'b> {
    budget: &'b mut Budget,
}

impl<'de> DeserializeSeed<'de> for Attributes<'_> {
    type Value = Vec<(Cow<'de, str>, Cow<'de, str>)>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Attributes<'_> {
    type Value = Vec<(Cow<'de, str>, Cow<'de, str>)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("attributes")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut attributes = Vec::with_capacity(8);
        while let Some(Scalar(name)) = map.next_key_seed(ScalarSeed)? {
            self.budget.take()?;
            // a `null` is an attribute that is not there
            if let (Some(name), Scalar(Some(value))) = (name, map.next_value_seed(ScalarSeed)?) {
                attributes.push((name, value));
            }
        }
        Ok(attributes)
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }
}

/// A text, number, boolean or `null`, as text.
struct Scalar<'de>(Option<Cow<'de, str>>);

struct ScalarSeed;

impl<'de> DeserializeSeed<'de> for ScalarSeed {
    type Value = Scalar<'de>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ScalarSeed {
    type Value = Scalar<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Scalar(Some(text.into())))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Scalar(Some(text.to_owned().into())))
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Self::Value, E> {
        self.visit_str(if value { "true" } else { "false" })
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Self::Value, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Self::Value, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Self::Value, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
        Ok(Scalar(None))
    }
}

// === XML ===

/// Reads the XML form: one document.
pub fn from_xml(octets: &[u8]) -> Result<Element<'static>, TreeError> {
    let limits = xml::Limits { bytes: crate::frame::MAX_MESSAGE, depth: usize::from(MAX_DEPTH), nodes: MAX_NODES as usize };
    xml::parse_within(octets, &limits).map(|element| owned(&element)).map_err(|error| TreeError(error.to_string()))
}

/// Writes the XML form.
pub fn to_xml(root: &Element<'_>) -> String {
    as_xml(root).to_document()
}

fn owned(element: &xml::Element) -> Element<'static> {
    let text = (!element.text.is_empty()).then(|| Node::Text(element.text.clone().into()));
    let children = element.children.iter().map(|child| Node::Element(owned(child)));
    Element {
        name: element.name.to_string().into(),
        attributes: element.attributes.iter().map(|(name, value)| (name.to_string().into(), value.clone().into())).collect(),
        content: text.into_iter().chain(children).collect(),
    }
}

fn as_xml(element: &Element<'_>) -> xml::Element {
    let mut written = xml::Element::new(&*element.name);
    for (name, value) in &element.attributes {
        written = written.with(&**name, &**value);
    }
    for child in element.children() {
        written = written.child(as_xml(child));
    }
    written.text = element.text();
    written
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_documented_bodies_are_read_and_written_byte_for_byte() {
        for json in [
            r#"[{"_name":"in","_content":[{"_name":"request","_attributes":{"agent_id":"102"}}]}]"#,
            r#"[{"_name":"out","_attributes":{"xmlns:xs":"http://www.w3.org/2001/XMLSchema-instance","xs:noNamespaceSchemaLocation":"unblock_operator.xsd"},"_content":[{"_name":"response","_content":[{"_name":"ok"}]}]}]"#,
        ] {
            assert_eq!(to_json(&from_json(json).unwrap()), json);
        }
    }

    #[test]
    fn looser_forms_are_read() {
        let tree = from_json(r#"{"x":[1,{}],"_content":"a","_name":"ns:e","_attributes":{"n":5,"b":true,"z":null}}"#).unwrap();
        assert_eq!(tree.len(), 1);
        assert_eq!((tree[0].local_name(), tree[0].get("n"), tree[0].get("b"), tree[0].get("z")), ("e", Some("5"), Some("true"), None));
        assert_eq!(tree[0].text(), "a");
    }

    #[test]
    fn depth_size_and_form_are_bounded_and_errors_quote_nothing() {
        let deep = format!("{}[]{}", r#"[{"_name":"a","_content":"#.repeat(40), "}]".repeat(40));
        let wide = format!("[{}{{\"_name\":\"a\"}}]", "{\"_name\":\"a\"},".repeat(MAX_NODES as usize));
        for bad in ["", "[", "1", "\"secret\"", "[[]]", "{}", r#"[{"_name":""}]"#, r#"[{"_name":"a"}]x"#, "[\"secret\"]", &deep, &wide] {
            let error = from_json(bad).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(from_json(&"[".repeat(100_000)).is_err());
    }

    #[test]
    fn the_same_tree_is_xml_over_plain_http() {
        let tree = Element::new("in").child(Element::new("request").attribute("number", "1\"<&"));
        let xml = to_xml(&tree);
        assert!(xml.contains("<request number="), "{xml}");
        assert_eq!(from_xml(xml.as_bytes()).unwrap(), tree);
        assert!(from_xml(b"<html>oops").is_err());
    }

    fn element() -> impl Strategy<Value = Element<'static>> {
        let name = || "[a-z:_]{1,8}".prop_map(Cow::Owned);
        let attributes = move || prop::collection::btree_map("[a-z]{1,6}", "\\PC{0,12}", 0..4);
        let build = |(name, attributes, content): (Cow<'static, str>, std::collections::BTreeMap<String, String>, Vec<Node<'static>>)| {
            let attributes = attributes.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
            Element { name, attributes, content }
        };
        let leaf =
            (name(), attributes(), prop::collection::vec("\\PC{0,12}".prop_map(|text| Node::Text(text.into())), 0..2)).prop_map(build);
        leaf.prop_recursive(4, 40, 4, move |inner| {
            (name(), attributes(), prop::collection::vec(inner.prop_map(Node::Element), 0..4)).prop_map(build)
        })
    }

    proptest! {
        #[test]
        fn every_tree_survives_a_round_trip(roots in prop::collection::vec(element(), 0..3)) {
            let json = to_json(&roots);
            prop_assert_eq!(from_json(&json).unwrap(), roots);
        }

        #[test]
        fn no_text_makes_it_panic(text in "[\\[\\]{}:,\"_a-z0-9\\\\]{0,60}", cut in 0usize..120) {
            let _ = from_json(&text);
            let sample = r#"[{"_name":"in","_content":[{"_name":"request","_attributes":{"agent_id":"102"}}]}]"#;
            let _ = sample.get(..cut).map(from_json);
        }
    }
}
