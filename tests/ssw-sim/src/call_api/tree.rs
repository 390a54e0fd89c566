//! The document of commands, answers and events: one tree, as XML over HTTP and as JSON in frames, where a list of elements is an
//! array of `{_name, _attributes?, _content?}` (ecss10-interfaces §2).

use std::collections::BTreeMap;

use quick_xml::{Reader, escape::escape, events::Event};
use serde::{Deserialize, Serialize};

/// Deepest nesting that is read.
const MAX_DEPTH: usize = 16;
/// Most elements that are read.
const MAX_ELEMENTS: usize = 4096;

/// One element. Text between elements carries nothing in these documents and is not kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tree {
    /// Local name.
    #[serde(rename = "_name")]
    pub(crate) name: String,
    /// Attributes.
    #[serde(rename = "_attributes", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) attributes: BTreeMap<String, String>,
    /// Child elements.
    #[serde(rename = "_content", default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) content: Vec<Tree>,
}

/// Why a text is no document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TreeError {
    /// Not well-formed XML or JSON, or not of this shape.
    #[error("the document is malformed")]
    Malformed,
    /// More nesting or elements than any command has.
    #[error("the document is nested too deep or has too many elements")]
    TooLarge,
}

// === impl Tree ===

impl Tree {
    /// An empty element.
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// With one more attribute.
    pub(crate) fn attribute(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.attributes.insert(name.into(), value.into());
        self
    }

    /// With one more child.
    pub(crate) fn with(mut self, child: Self) -> Self {
        self.content.push(child);
        self
    }

    /// The first child of this name.
    pub(crate) fn child(&self, name: &str) -> Option<&Self> {
        self.content.iter().find(|child| child.name == name)
    }

    /// The root `<out>` of an answer to `command`, as the switch decorates it.
    pub(crate) fn out(command: &str, content: Self) -> Self {
        Self::new("out")
            .attribute("xmlns:xs", "http://www.w3.org/2001/XMLSchema-instance")
            .attribute("xs:noNamespaceSchemaLocation", format!("{command}.xsd"))
            .with(content)
    }

    /// Reads a frame's JSON: an array of one element.
    pub(crate) fn from_json(text: &str) -> Result<Self, TreeError> {
        let [root] = serde_json::from_str::<[Self; 1]>(text).map_err(|_| TreeError::Malformed)?;
        let mut elements = 0;
        if !root.fits(0, &mut elements) { Err(TreeError::TooLarge) } else { Ok(root) }
    }

    fn fits(&self, depth: usize, elements: &mut usize) -> bool {
        *elements += 1;
        depth < MAX_DEPTH && *elements <= MAX_ELEMENTS && self.content.iter().all(|child| child.fits(depth + 1, elements))
    }

    /// A frame's JSON.
    pub(crate) fn to_json(&self) -> String {
        // Strings and maps of strings always have a JSON form.
        serde_json::to_string(std::slice::from_ref(self)).unwrap_or_default()
    }

    /// Reads an XML document.
    pub(crate) fn from_xml(text: &[u8]) -> Result<Self, TreeError> {
        let text = std::str::from_utf8(text).map_err(|_| TreeError::Malformed)?;
        let mut reader = Reader::from_str(text);
        let mut open: Vec<Self> = Vec::new();
        let mut elements = 0;
        loop {
            let event = reader.read_event().map_err(|_| TreeError::Malformed)?;
            let closed = match event {
                Event::Start(start) => {
                    open.push(element(&start)?);
                    elements += 1;
                    None
                }
                Event::Empty(start) => {
                    elements += 1;
                    Some(element(&start)?)
                }
                Event::End(_) => Some(open.pop().ok_or(TreeError::Malformed)?),
                Event::Eof => return Err(TreeError::Malformed),
                _ => None,
            };
            if open.len() > MAX_DEPTH || elements > MAX_ELEMENTS {
                return Err(TreeError::TooLarge);
            }
            match (closed, open.last_mut()) {
                (Some(closed), Some(parent)) => parent.content.push(closed),
                (Some(closed), None) => return Ok(closed),
                (None, _) => {}
            }
        }
    }

    /// The XML document.
    pub(crate) fn to_xml(&self) -> String {
        let mut out = String::from("<?xml version=\"1.0\"?>");
        self.write_xml(&mut out);
        out
    }

    fn write_xml(&self, out: &mut String) {
        out.push('<');
        out.push_str(&self.name);
        for (name, value) in &self.attributes {
            out.push(' ');
            out.push_str(name);
            out.push_str("=\"");
            out.push_str(&escape(value.as_str()));
            out.push('"');
        }
        if self.content.is_empty() {
            out.push_str("/>");
            return;
        }
        out.push('>');
        for child in &self.content {
            child.write_xml(out);
        }
        out.push_str("</");
        out.push_str(&self.name);
        out.push('>');
    }
}

fn element(start: &quick_xml::events::BytesStart<'_>) -> Result<Tree, TreeError> {
    let mut tree = Tree::new(start.local_name().as_ref());
    for attribute in start.attributes() {
        let attribute = attribute.map_err(|_| TreeError::Malformed)?;
        let value = attribute.normalized_value(quick_xml::XmlVersion::Implicit1_0).map_err(|_| TreeError::Malformed)?;
        tree.attributes.insert(attribute.key.as_ref().to_owned(), value.into_owned());
    }
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_same_request_is_read_from_xml_and_from_json() {
        let xml = Tree::from_xml(br#"<?xml version="1.0"?><in><request agent_id="1&amp;2" a=''/> </in>"#).unwrap();
        let json = Tree::from_json(r#"[{"_name":"in","_content":[{"_name":"request","_attributes":{"agent_id":"1&2","a":""}}]}]"#).unwrap();
        assert_eq!(xml, json);
        assert_eq!(xml.child("request").unwrap().attributes["agent_id"], "1&2");
    }

    #[test]
    fn the_answer_is_decorated_as_the_documented_sample() {
        let answer = Tree::out("unblock_operator", Tree::new("response").with(Tree::new("ok")));
        assert_eq!(answer.to_json().len(), 204);
        assert!(answer.to_xml().starts_with("<?xml version=\"1.0\"?><out xmlns:xs=\"http://www.w3.org/2001/XMLSchema-instance\" xs:no"));
    }

    #[test]
    fn deep_wide_and_broken_documents_are_refused() {
        let deep = format!("{}{}", "<a>".repeat(30), "</a>".repeat(30));
        assert_eq!(Tree::from_xml(deep.as_bytes()), Err(TreeError::TooLarge));
        let deep = format!("[{}{}]", r#"{"_name":"a","_content":["#.repeat(30), "]}".repeat(30));
        assert!(Tree::from_json(&deep).is_err());
        for broken in ["", "[]", "{}", "[{}]", r#"[{"_name":1}]"#, r#"[{"_name":"a"},{"_name":"b"}]"#] {
            assert!(Tree::from_json(broken).is_err(), "{broken}");
        }
        for broken in ["", "<a>", "<a b=c/>", "<a b='&x;'/>", "</a>"] {
            assert!(Tree::from_xml(broken.as_bytes()).is_err(), "{broken}");
        }
    }

    proptest! {
        #[test]
        fn both_forms_read_back_what_they_wrote(values in prop::collection::btree_map("[a-z]{1,5}", "[ -~а-я]{0,12}", 0..5)) {
            let tree = Tree::new("in").with(Tree { attributes: values, ..Tree::new("request") });
            prop_assert_eq!(Tree::from_json(&tree.to_json()).unwrap(), tree.clone());
            prop_assert_eq!(Tree::from_xml(tree.to_xml().as_bytes()).unwrap(), tree);
        }
    }
}
