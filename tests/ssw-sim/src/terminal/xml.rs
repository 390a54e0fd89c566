//! XML of the terminal: `<in>` documents read into a small tree, `<out>` documents written from one.

use quick_xml::{
    Reader, Writer,
    events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event},
};

/// Deepest nesting that is read.
const DEEPEST: usize = 16;
/// Most elements that are read.
const MOST: usize = 10_000;

/// An element.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Element {
    /// Local name.
    pub name: String,
    /// Attributes in order.
    pub attributes: Vec<(String, String)>,
    /// Elements inside.
    pub children: Vec<Element>,
    /// Text inside.
    pub text: String,
}

impl Element {
    /// An element without anything in it.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// With one more attribute.
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.attributes.push((name.into(), value.into()));
        self
    }

    /// With one more element inside.
    pub fn holding(mut self, child: Element) -> Self {
        self.children.push(child);
        self
    }

    /// With more elements inside.
    pub fn holding_all(mut self, children: impl IntoIterator<Item = Element>) -> Self {
        self.children.extend(children);
        self
    }

    /// An attribute's value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The first element of that name, itself or inside.
    pub fn find(&self, name: &str) -> Option<&Element> {
        if self.name == name { Some(self) } else { self.children.iter().find_map(|child| child.find(name)) }
    }

    /// The first attribute of any of those names, in this element or inside.
    pub fn any(&self, names: &[&str]) -> Option<&str> {
        let own = names.iter().find_map(|name| self.get(name));
        own.or_else(|| self.children.iter().find_map(|child| child.any(names)))
    }
}

/// Reads a document; `None` if it is no well-formed XML of reasonable size.
pub fn read(text: &str) -> Option<Element> {
    let mut reader = Reader::from_str(text);
    reader.config_mut().trim_text(true);
    let mut open: Vec<Element> = Vec::new();
    let mut count = 0;
    loop {
        let done = match reader.read_event().ok()? {
            Event::Start(start) => {
                open.push(element(&start)?);
                None
            }
            Event::Empty(start) => Some(element(&start)?),
            Event::End(_) => open.pop(),
            Event::Text(text) => {
                open.last_mut()?.text.push_str(&quick_xml::escape::unescape(&text).ok()?);
                None
            }
            Event::Eof => return None,
            _ => None,
        };
        count += 1;
        if count > MOST || open.len() > DEEPEST {
            return None;
        }
        if let Some(done) = done {
            match open.last_mut() {
                Some(parent) => parent.children.push(done),
                None => return Some(done),
            }
        }
    }
}

fn element(start: &BytesStart<'_>) -> Option<Element> {
    let mut found = Element::new(start.local_name().as_ref().to_owned());
    for attribute in start.attributes() {
        let attribute = attribute.ok()?;
        let value = quick_xml::escape::unescape(&attribute.value).ok()?.into_owned();
        found.attributes.push((attribute.key.as_ref().to_owned(), value));
    }
    Some(found)
}

/// Writes `<out>` around elements, with the schema attributes of a command.
pub fn out(command: &str, children: &[Element]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    let root = Element::new("out")
        .with("xmlns:xs", "http://www.w3.org/2001/XMLSchema-instance")
        .with("xs:noNamespaceSchemaLocation", format!("{command}.xsd"));
    let written = (|| {
        writer.write_event(Event::Decl(BytesDecl::new("1.0", None, None)))?;
        writer.write_event(Event::Start(start(&root)))?;
        children.iter().try_for_each(|child| write(&mut writer, child))?;
        writer.write_event(Event::End(BytesEnd::new("out")))
    })();
    // Writing into memory does not fail.
    if written.is_ok() { writer.into_inner() } else { Vec::new() }
}

fn start(element: &Element) -> BytesStart<'_> {
    let mut start = BytesStart::new(element.name.as_str());
    for (name, value) in &element.attributes {
        start.push_attribute((name.as_str(), value.as_str()));
    }
    start
}

fn write(writer: &mut Writer<Vec<u8>>, element: &Element) -> std::io::Result<()> {
    if element.children.is_empty() && element.text.is_empty() {
        return writer.write_event(Event::Empty(start(element)));
    }
    writer.write_event(Event::Start(start(element)))?;
    if !element.text.is_empty() {
        writer.write_event(Event::Text(BytesText::new(&element.text)))?;
    }
    element.children.iter().try_for_each(|child| write(writer, child))?;
    writer.write_event(Event::End(BytesEnd::new(element.name.as_str())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_read_and_written() {
        let text = r#"<in xmlns:xs="x"><login user="a&amp;b" password='"'/><t>x</t></in>"#;
        let tree = read(text).unwrap();
        assert_eq!(tree.find("login").unwrap().get("user"), Some("a&b"));
        assert_eq!(tree.any(&["password"]), Some("\""));
        let written = String::from_utf8(out("login", &tree.children)).unwrap();
        assert!(written.starts_with("<?xml version=\"1.0\"?><out xmlns:xs="), "{written}");
        assert_eq!(read(&written).unwrap().children, tree.children);
    }

    #[test]
    fn what_is_no_document_is_refused() {
        for bad in ["", "x", "<in>", "<in></out>", "<in a=b/>", &"<a>".repeat(100)] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
