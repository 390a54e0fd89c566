//! Pure codec of the documents that the mediator and the Call API exchange: `<in>` and `<out>` trees of elements, attributes and
//! text (ecss10-interfaces §1). Sizes are bounded before anything is allocated, document types and entities of one's own are
//! refused, and attributes that hold secrets do not show in `Debug`.

use std::{borrow::Cow, collections::HashSet, fmt, sync::Arc};

use quick_xml::{
    XmlVersion,
    events::{BytesStart, Event},
    reader::Reader,
};

/// The namespace that both roots declare as `xs`.
pub const SCHEMA_INSTANCE: &str = "http://www.w3.org/2001/XMLSchema-instance";

/// Most different names that one document's elements share; more are read, but no longer shared.
const SHARED_NAMES: usize = 1024;

/// An element: its own character data comes before its children; where it has children, white space between them is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Element {
    /// Name as written, prefix included.
    pub name: Arc<str>,
    /// Attributes in the order written; no name twice.
    pub attributes: Vec<(Arc<str>, String)>,
    /// Child elements in order.
    pub children: Vec<Element>,
    /// Character data, joined.
    pub text: String,
}

/// What a document may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Octets of the whole document.
    pub bytes: usize,
    /// Elements inside each other.
    pub depth: usize,
    /// Elements and attributes together.
    pub nodes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 32 << 20, depth: 64, nodes: 4_000_000 }
    }
}

/// Why octets are no document. Says where, never what: the content may be secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum XmlError {
    /// More octets than allowed.
    #[error("the document has {0} octets, more than allowed")]
    TooLong(usize),
    /// Elements nested deeper than allowed.
    #[error("elements are nested deeper than {0}")]
    TooDeep(usize),
    /// More elements and attributes than allowed.
    #[error("the document has more than {0} elements and attributes")]
    TooMany(usize),
    /// Not UTF-8.
    #[error("the document is not UTF-8 at octet {0}")]
    NotUtf8(usize),
    /// A document type declaration, or an entity that XML does not predefine.
    #[error("document types and entities are refused (octet {0})")]
    Entity(u64),
    /// Not well-formed.
    #[error("the document is not well-formed at octet {0}")]
    Malformed(u64),
    /// It ends before its root element does.
    #[error("the document ends early")]
    Truncated,
}

/// Reads a document within the default limits.
pub fn parse(octets: &[u8]) -> Result<Element, XmlError> {
    parse_within(octets, &Limits::default())
}

/// Reads a document within limits.
pub fn parse_within(octets: &[u8], limits: &Limits) -> Result<Element, XmlError> {
    if octets.len() > limits.bytes {
        return Err(XmlError::TooLong(octets.len()));
    }
    let octets = octets.strip_prefix(b"\xef\xbb\xbf").unwrap_or(octets);
    let text = std::str::from_utf8(octets).map_err(|error| XmlError::NotUtf8(error.valid_up_to()))?;
    let mut parser = Parser { limits, open: Vec::new(), root: None, nodes: 0, names: HashSet::new() };
    let mut reader = Reader::from_str(text);
    loop {
        let at = reader.buffer_position();
        let event = reader.read_event().map_err(|_| XmlError::Malformed(at))?;
        match event {
            Event::Start(start) => parser.open(&start, at)?,
            Event::Empty(start) => {
                parser.open(&start, at)?;
                parser.close(at)?;
            }
            Event::End(_) => parser.close(at)?,
            Event::Text(text) => parser.text(&text.xml10_content(), at)?,
            Event::CData(text) => parser.text(&text.xml10_content(), at)?,
            Event::GeneralRef(entity) => {
                let character = match entity.resolve_char_ref() {
                    Ok(Some(character)) => Some(character),
                    Ok(None) => predefined(&entity),
                    Err(_) => return Err(XmlError::Malformed(at)),
                };
                let character = character.ok_or(XmlError::Entity(at))?;
                parser.text(character.encode_utf8(&mut [0; 4]), at)?;
            }
            Event::DocType(_) => return Err(XmlError::Entity(at)),
            Event::Decl(_) if at == 0 => {}
            Event::Decl(_) => return Err(XmlError::Malformed(at)),
            Event::Comment(_) | Event::PI(_) => {}
            Event::Eof => break,
        }
    }
    if !parser.open.is_empty() {
        return Err(XmlError::Truncated);
    }
    parser.root.ok_or(XmlError::Truncated)
}

struct Parser<'l> {
    limits: &'l Limits,
    open: Vec<Element>,
    root: Option<Element>,
    nodes: usize,
    names: HashSet<Arc<str>>,
}

impl Parser<'_> {
    fn open(&mut self, start: &BytesStart<'_>, at: u64) -> Result<(), XmlError> {
        if self.open.len() >= self.limits.depth {
            return Err(XmlError::TooDeep(self.limits.depth));
        }
        if self.root.is_some() {
            return Err(XmlError::Malformed(at));
        }
        let name = start.name();
        let mut element =
            Element { name: self.name(name.as_ref(), at)?, attributes: Vec::new(), children: Vec::new(), text: String::new() };
        self.count()?;
        for attribute in start.attributes() {
            self.count()?;
            let attribute = attribute.map_err(|_| XmlError::Malformed(at))?;
            let value = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(|error| match error {
                quick_xml::Error::Escape(quick_xml::escape::EscapeError::UnrecognizedEntity(..)) => XmlError::Entity(at),
                _ => XmlError::Malformed(at),
            })?;
            if attribute.value.contains('<') || !value.chars().all(is_character) {
                return Err(XmlError::Malformed(at));
            }
            element.attributes.push((self.name(attribute.key.as_ref(), at)?, value.into_owned()));
        }
        self.open.push(element);
        Ok(())
    }

    fn close(&mut self, at: u64) -> Result<(), XmlError> {
        let mut element = self.open.pop().ok_or(XmlError::Malformed(at))?;
        if !element.children.is_empty() && element.text.chars().all(char::is_whitespace) {
            element.text.clear();
        }
        match self.open.last_mut() {
            Some(parent) => parent.children.push(element),
            None => self.root = Some(element),
        }
        Ok(())
    }

    fn text(&mut self, text: &str, at: u64) -> Result<(), XmlError> {
        if !text.chars().all(is_character) {
            return Err(XmlError::Malformed(at));
        }
        match self.open.last_mut() {
            Some(element) => element.text.push_str(text),
            None if text.chars().all(char::is_whitespace) => {}
            None => return Err(XmlError::Malformed(at)),
        }
        Ok(())
    }

    fn count(&mut self) -> Result<(), XmlError> {
        self.nodes += 1;
        if self.nodes > self.limits.nodes { Err(XmlError::TooMany(self.limits.nodes)) } else { Ok(()) }
    }

    fn name(&mut self, name: &str, at: u64) -> Result<Arc<str>, XmlError> {
        if let Some(name) = self.names.get(name) {
            return Ok(name.clone());
        }
        if !is_name(name) {
            return Err(XmlError::Malformed(at));
        }
        let name: Arc<str> = name.into();
        if self.names.len() < SHARED_NAMES {
            self.names.insert(name.clone());
        }
        Ok(name)
    }
}

impl Element {
    /// An element without attributes, children or text.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), attributes: Vec::new(), children: Vec::new(), text: String::new() }
    }

    /// The root of a request: `<in>` with the schema of its command.
    pub fn request(command: &str) -> Self {
        Self::root("in", command)
    }

    /// A root `in` or `out` that names its schema.
    pub fn root(name: &str, schema: &str) -> Self {
        Self::new(name).with("xmlns:xs", SCHEMA_INSTANCE).with("xs:noNamespaceSchemaLocation", format!("{schema}.xsd"))
    }

    /// With an attribute; replaces the one of the same name.
    pub fn with(mut self, name: impl Into<Arc<str>>, value: impl Into<String>) -> Self {
        let (name, value) = (name.into(), value.into());
        match self.attributes.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.attributes.push((name, value)),
        }
        self
    }

    /// With an attribute, where there is a value.
    pub fn with_some(self, name: &str, value: Option<impl Into<String>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// With a further child.
    pub fn child(mut self, child: Element) -> Self {
        self.children.push(child);
        self
    }

    /// The name without its prefix.
    pub fn local_name(&self) -> &str {
        self.name.rsplit_once(':').map_or(&*self.name, |(_, local)| local)
    }

    /// An attribute's value.
    pub fn get(&self, attribute: &str) -> Option<&str> {
        self.attributes.iter().find(|(name, _)| **name == *attribute).map(|(_, value)| value.as_str())
    }

    /// An attribute's value, unless it is empty.
    pub fn get_some(&self, attribute: &str) -> Option<&str> {
        self.get(attribute).filter(|value| !value.is_empty())
    }

    /// The first child with this local name.
    pub fn first(&self, local_name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.local_name() == local_name)
    }

    /// This element and everything inside it, in document order.
    pub fn walk(&self) -> Walk<'_> {
        Walk { ahead: vec![self] }
    }

    /// The elements with this local name at any depth, this one included, in document order.
    pub fn all<'e>(&'e self, local_name: &'e str) -> impl Iterator<Item = &'e Element> {
        self.walk().filter(move |element| element.local_name() == local_name)
    }

    /// The document: declaration and root. Characters that XML cannot carry become U+FFFD, and `_` in names.
    pub fn to_document(&self) -> String {
        let mut out = String::with_capacity(256);
        out.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?>");
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) {
        let name = written_name(&self.name);
        out.push('<');
        out.push_str(&name);
        for (attribute, value) in &self.attributes {
            out.push(' ');
            out.push_str(&written_name(attribute));
            out.push_str("=\"");
            escape(value, true, out);
            out.push('"');
        }
        if self.children.is_empty() && self.text.is_empty() {
            out.push_str("/>");
            return;
        }
        out.push('>');
        escape(&self.text, false, out);
        for child in &self.children {
            child.write(out);
        }
        out.push_str("</");
        out.push_str(&name);
        out.push('>');
    }

    /// The same tree with every secret replaced by `***`: fit for logs and recordings.
    pub fn redacted(&self) -> Element {
        self.redacted_of(&[])
    }

    /// The same, and these texts too wherever they are quoted.
    pub fn redacted_of(&self, secrets: &[&str]) -> Element {
        let mut copy = self.clone();
        copy.redact(secrets);
        copy
    }

    fn redact(&mut self, secrets: &[&str]) {
        let hide = |name: &str, value: &mut String| {
            if is_secret(name) && !value.is_empty() {
                *value = "***".to_owned();
            }
            for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
                if value.contains(secret) {
                    *value = value.replace(secret, "***");
                }
            }
        };
        self.attributes.iter_mut().for_each(|(name, value)| hide(name, value));
        hide(&self.name, &mut self.text);
        self.children.iter_mut().for_each(|child| child.redact(secrets));
    }
}

impl fmt::Debug for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        self.redacted().write(&mut out);
        f.write_str(&out)
    }
}

/// Elements in document order.
#[derive(Debug)]
pub struct Walk<'e> {
    ahead: Vec<&'e Element>,
}

impl<'e> Iterator for Walk<'e> {
    type Item = &'e Element;

    fn next(&mut self) -> Option<&'e Element> {
        let element = self.ahead.pop()?;
        self.ahead.extend(element.children.iter().rev());
        Some(element)
    }
}

/// Whether an attribute or element of this name holds a secret: passwords, `sp_login`'s session, tokens and cookies.
fn is_secret(name: &str) -> bool {
    let local = name.rsplit_once(':').map_or(name, |(_, local)| local);
    let is = |word: &str| local.eq_ignore_ascii_case(word);
    local.to_ascii_lowercase().contains("password") || is("session") || is("pw") || is("secret") || is("token") || is("cookie")
}

fn predefined(entity: &str) -> Option<char> {
    Some(match entity {
        "lt" => '<',
        "gt" => '>',
        "amp" => '&',
        "apos" => '\'',
        "quot" => '"',
        _ => return None,
    })
}

/// XML 1.0, production 2.
fn is_character(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..)
}

/// XML 1.0, production 5, generous about letters outside ASCII.
fn is_name(name: &str) -> bool {
    let starts = |c: char| c.is_alphabetic() || c == '_' || c == ':';
    name.starts_with(starts) && name.chars().all(|c| starts(c) || c.is_alphanumeric() || matches!(c, '-' | '.' | '\u{B7}'))
}

fn written_name(name: &str) -> Cow<'_, str> {
    if is_name(name) {
        return Cow::Borrowed(name);
    }
    let keep = |c: char| if c.is_alphanumeric() || matches!(c, '_' | ':' | '-' | '.') { c } else { '_' };
    Cow::Owned(format!("_{}", name.chars().map(keep).collect::<String>()))
}

fn escape(text: &str, attribute: bool, out: &mut String) {
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' if attribute => out.push_str("&quot;"),
            '\n' if attribute => out.push_str("&#10;"),
            '\t' if attribute => out.push_str("&#9;"),
            // A bare one would be read as a line feed.
            '\r' => out.push_str("&#13;"),
            c if is_character(c) => out.push(c),
            _ => out.push('\u{FFFD}'),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The documented samples of the login (ecss10-interfaces §1).
    #[test]
    fn the_documented_login_reads_as_documented() {
        let sample = r#"<?xml version="1.0"?><out xmlns:xs="http://www.w3.org/2001/XMLSchema-instance" xs:noNamespaceSchemaLocation="login.xsd"><settings md="md1" ds="ds1" version="3.10.0.36"/></out>"#;
        let out = parse(sample.as_bytes()).unwrap();
        assert_eq!(
            out,
            Element::root("out", "login").child(Element::new("settings").with("md", "md1").with("ds", "ds1").with("version", "3.10.0.36"))
        );
        let sample = r#"<in><login user="ssw" password="ssw"/></in>"#;
        let login = parse(sample.as_bytes()).unwrap();
        assert_eq!(login, Element::new("in").child(Element::new("login").with("user", "ssw").with("password", "ssw")));
        assert_eq!(login.to_document(), format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>{sample}"));
    }

    /// The documented answer of `teleconference_room_list`.
    #[test]
    fn the_documented_room_list_reads_as_documented() {
        let out = parse(br#"<out><result><room name="123" description="for_energo"/></result></out>"#).unwrap();
        let rooms: Vec<_> = out.all("room").map(|room| (room.get("name"), room.get("description"))).collect();
        assert_eq!(rooms, [(Some("123"), Some("for_energo"))]);
    }

    #[test]
    fn text_references_and_sections_are_read_as_one_text() {
        let element = parse(b"<a> 1 &lt; 2 <![CDATA[&]]>&#x41;<b/>\n</a>").unwrap();
        assert_eq!((element.text.as_str(), element.children.len()), (" 1 < 2 &A\n", 1));
        assert_eq!(parse(b"<a>\n <b/>\n</a>").unwrap().text, "");
    }

    #[test]
    fn what_is_no_document_is_refused_with_its_kind() {
        let entity = |text: &str| assert!(matches!(parse(text.as_bytes()), Err(XmlError::Entity(_))), "{text}");
        entity("<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>");
        entity("<a>&b;</a>");
        entity("<a c='&b;'/>");
        for text in [
            "<a",
            "<a></b>",
            "<a/><b/>",
            "<a/>text",
            "<a b='1' b='2'/>",
            "<a b=1/>",
            "text",
            "</a>",
            "<1/>",
            "<a b='\u{1}'/>",
            "<a/><?xml version='1.0'?>",
        ] {
            assert!(
                matches!(parse(text.as_bytes()), Err(XmlError::Malformed(_) | XmlError::Truncated)),
                "{text}: {:?}",
                parse(text.as_bytes())
            );
        }
        for text in ["", "<a>", "<a><b/>"] {
            assert_eq!(parse(text.as_bytes()), Err(XmlError::Truncated), "{text}");
        }
        assert_eq!(parse(b"<a>\xff</a>"), Err(XmlError::NotUtf8(3)));
    }

    #[test]
    fn size_depth_and_count_are_bounded() {
        let limits = Limits { bytes: 100, depth: 3, nodes: 6 };
        assert_eq!(parse_within(&[b' '; 101], &limits), Err(XmlError::TooLong(101)));
        assert!(parse_within(b"<a><a><a/></a></a>", &limits).is_ok());
        assert_eq!(parse_within(b"<a><a><a><a/></a></a></a>", &limits), Err(XmlError::TooDeep(3)));
        assert_eq!(parse_within(b"<a><b c='' d=''/><b/><b/><b/></a>", &limits), Err(XmlError::TooMany(6)));
    }

    #[test]
    fn secrets_do_not_show() {
        let element = Element::new("in")
            .child(Element::new("login").with("user", "u").with("password", "geheim"))
            .child(Element::new("ok").with("session", "geheim").with("new_Password", "geheim"));
        assert!(!format!("{element:?}").contains("geheim"));
        assert!(element.to_document().contains("geheim"));
    }

    #[test]
    fn what_xml_cannot_carry_is_replaced() {
        let element = Element::new("a b").with("1", "\u{0}\u{FFFE}");
        assert_eq!(parse(element.to_document().as_bytes()).unwrap(), Element::new("_a_b").with("_1", "\u{FFFD}\u{FFFD}"));
    }

    fn text() -> impl Strategy<Value = String> {
        prop::collection::vec(any::<char>().prop_filter("XML character", |c| is_character(*c)), 0..12).prop_map(String::from_iter)
    }

    pub(crate) fn element() -> impl Strategy<Value = Element> {
        let leaf = ("[a-z_][a-z0-9:._-]{0,8}", prop::collection::btree_map("[a-zA-Z_][a-z0-9:-]{0,8}", text(), 0..4), text());
        let leaf = leaf.prop_map(|(name, attributes, text)| Element {
            name: name.into(),
            attributes: attributes.into_iter().map(|(name, value)| (name.into(), value)).collect(),
            children: Vec::new(),
            text,
        });
        leaf.prop_recursive(5, 64, 6, |inner| {
            (inner.clone(), prop::collection::vec(inner, 0..6)).prop_map(|(mut element, children)| {
                element.children = children;
                if !element.children.is_empty() && element.text.chars().all(char::is_whitespace) {
                    element.text.clear();
                }
                element
            })
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_the_same(element in element()) {
            prop_assert_eq!(parse(element.to_document().as_bytes()).unwrap(), element);
        }

        #[test]
        fn no_octets_make_it_panic(octets in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&octets);
        }

        /// Damage close to real documents: cut, doubled and replaced octets. What still reads is stable.
        #[test]
        fn damaged_documents_are_refused_or_read_stably(element in element(), cut in any::<prop::sample::Index>(), octet in any::<u8>()) {
            let mut octets = element.to_document().into_bytes();
            let at = cut.index(octets.len());
            let _ = parse(&octets[..at]);
            octets[at] = octet;
            if let Ok(read) = parse(&octets) {
                prop_assert_eq!(parse(read.to_document().as_bytes()).unwrap(), read);
            }
        }

        #[test]
        fn nothing_beyond_the_limits_is_built(element in element(), depth in 1_usize..4, nodes in 1_usize..20) {
            fn deep(element: &Element) -> usize {
                1 + element.children.iter().map(deep).max().unwrap_or(0)
            }
            if let Ok(read) = parse_within(element.to_document().as_bytes(), &Limits { bytes: 4096, depth, nodes }) {
                prop_assert!(deep(&read) <= depth);
                prop_assert!(read.walk().map(|element| 1 + element.attributes.len()).sum::<usize>() <= nodes);
            }
        }
    }
}
