//! A CSTA message as a tree of elements: what requests are read into and answers and events are built from. Names are local
//! names; the namespace is put on when a message is written and not looked at when one is read (ecss10-interfaces §3).

use std::borrow::Cow;

use quick_xml::{
    Reader,
    escape::{partial_escape, resolve_predefined_entity},
    events::Event,
};

/// Deepest nesting that is read.
const MAX_DEPTH: usize = 32;
/// Most elements that are read in one message.
const MAX_ELEMENTS: usize = 4096;

/// One element.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Element {
    /// Local name.
    pub(crate) name: Cow<'static, str>,
    /// Attributes without their namespace declarations; only written, never read.
    pub(crate) attributes: Vec<(&'static str, String)>,
    /// Child elements.
    pub(crate) children: Vec<Element>,
    /// Text directly inside it.
    pub(crate) text: String,
}

/// Why a text is no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum XmlError {
    /// Not well formed, or not UTF-8.
    #[error("the text is not well-formed XML")]
    Malformed,
    /// More nesting or elements than any message has.
    #[error("the message is nested too deep or has too many elements")]
    TooLarge,
}

// === impl Element ===

impl Element {
    /// An empty element.
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name: Cow::Borrowed(name), ..Self::default() }
    }

    /// An element with text.
    pub(crate) fn text(name: &'static str, text: impl Into<String>) -> Self {
        Self { name: Cow::Borrowed(name), text: text.into(), ..Self::default() }
    }

    /// With one more child.
    pub(crate) fn with(mut self, child: Self) -> Self {
        self.children.push(child);
        self
    }

    /// With one more child, if there is one.
    pub(crate) fn with_some(mut self, child: Option<Self>) -> Self {
        self.children.extend(child);
        self
    }

    /// With one more attribute.
    pub(crate) fn attribute(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.attributes.push((name, value.into()));
        self
    }

    /// The first child of this name.
    pub(crate) fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The trimmed text of the first child of this name; `None` if it is missing or empty.
    pub(crate) fn child_text(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.trim()).filter(|text| !text.is_empty())
    }

    /// The first element of this name at any depth below, itself included.
    pub(crate) fn find(&self, name: &str) -> Option<&Self> {
        if self.name == name { Some(self) } else { self.children.iter().find_map(|child| child.find(name)) }
    }

    /// Reads a message.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, XmlError> {
        let text = std::str::from_utf8(text).map_err(|_| XmlError::Malformed)?;
        let mut reader = Reader::from_str(text);
        let mut open: Vec<Self> = Vec::new();
        let mut elements = 0usize;
        loop {
            match reader.read_event().map_err(|_| XmlError::Malformed)? {
                Event::Start(start) => {
                    elements += 1;
                    if open.len() >= MAX_DEPTH || elements > MAX_ELEMENTS {
                        return Err(XmlError::TooLarge);
                    }
                    open.push(Self { name: Cow::Owned(start.local_name().as_ref().to_owned()), ..Self::default() });
                }
                Event::Empty(start) => {
                    elements += 1;
                    if elements > MAX_ELEMENTS {
                        return Err(XmlError::TooLarge);
                    }
                    let element = Self { name: Cow::Owned(start.local_name().as_ref().to_owned()), ..Self::default() };
                    match open.last_mut() {
                        Some(parent) => parent.children.push(element),
                        None => return Ok(element),
                    }
                }
                Event::End(_) => {
                    let element = open.pop().ok_or(XmlError::Malformed)?;
                    match open.last_mut() {
                        Some(parent) => parent.children.push(element),
                        None => return Ok(element),
                    }
                }
                Event::Text(text) => push_text(&mut open, &text.xml10_content()),
                Event::CData(text) => push_text(&mut open, &text.xml10_content()),
                Event::GeneralRef(reference) => match reference.resolve_char_ref().map_err(|_| XmlError::Malformed)? {
                    Some(character) => push_text(&mut open, character.encode_utf8(&mut [0; 4])),
                    None => push_text(&mut open, resolve_predefined_entity(&reference.xml10_content()).ok_or(XmlError::Malformed)?),
                },
                Event::Eof => return Err(XmlError::Malformed),
                _ => {}
            }
        }
    }

    /// Appends the message to `out`: `prefix` stands before every name, and the root declares the namespace.
    pub(crate) fn write_root(&self, prefix: &str, expand_empty: bool, namespace: &str, out: &mut String) {
        self.write_inner(prefix, expand_empty, Some(namespace), out);
    }

    fn write_inner(&self, prefix: &str, expand_empty: bool, namespace: Option<&str>, out: &mut String) {
        out.push('<');
        push_name(prefix, &self.name, out);
        if let Some(namespace) = namespace.filter(|namespace| !namespace.is_empty()) {
            out.push_str(if prefix.is_empty() { " xmlns" } else { " xmlns:" });
            out.push_str(prefix);
            out.push_str("=\"");
            out.push_str(&partial_escape(namespace));
            out.push('"');
        }
        for (name, value) in &self.attributes {
            out.push(' ');
            out.push_str(name);
            out.push_str("=\"");
            out.push_str(&quick_xml::escape::escape(value.as_str()));
            out.push('"');
        }
        if self.children.is_empty() && self.text.is_empty() && !expand_empty {
            out.push_str("/>");
            return;
        }
        out.push('>');
        out.push_str(&partial_escape(self.text.as_str()));
        for child in &self.children {
            child.write_inner(prefix, expand_empty, None, out);
        }
        out.push_str("</");
        push_name(prefix, &self.name, out);
        out.push('>');
    }
}

fn push_name(prefix: &str, name: &str, out: &mut String) {
    if !prefix.is_empty() {
        out.push_str(prefix);
        out.push(':');
    }
    out.push_str(name);
}

fn push_text(open: &mut [Element], text: &str) {
    if let Some(element) = open.last_mut() {
        element.text.push_str(text);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prefixes_declarations_and_references_are_read_through() {
        let text =
            "<?xml version=\"1.0\"?><!-- c --><a:Root xmlns:a='urn:x'><a:b>N&lt;1001&gt;&#x41;</a:b><c/><d><![CDATA[<&]]></d></a:Root>";
        let root = Element::parse(text.as_bytes()).unwrap();
        assert_eq!(root.name, "Root");
        assert_eq!(root.child_text("b"), Some("N<1001>A"));
        assert_eq!(root.child_text("c"), None);
        assert_eq!(root.child_text("d"), Some("<&"));
    }

    #[test]
    fn what_is_not_one_document_or_too_large_is_refused() {
        for text in ["", "text", "<a>", "<a></b>", "<a>&nosuch;</a>", "</a>"] {
            assert!(Element::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(Element::parse(b"<a>\xff</a>"), Err(XmlError::Malformed));
        assert_eq!(Element::parse("<a>".repeat(40).as_bytes()), Err(XmlError::TooLarge));
        assert_eq!(Element::parse(format!("<a>{}</a>", "<b/>".repeat(5000)).as_bytes()), Err(XmlError::TooLarge));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back(texts in prop::collection::vec("[ -~]{0,20}", 0..5), prefixed: bool, expand: bool) {
            let mut root = Element::new("Root");
            for text in &texts {
                root = root.with(Element::text("item", text.clone()));
            }
            let mut out = String::new();
            root.write_root(if prefixed { "csta" } else { "" }, expand, "urn:x", &mut out);
            let read = Element::parse(out.as_bytes()).unwrap();
            let back: Vec<_> = read.children.iter().map(|child| child.text.clone()).collect();
            prop_assert_eq!(back, texts);
        }

        #[test]
        fn garbage_never_panics(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Element::parse(&text);
        }
    }
}
