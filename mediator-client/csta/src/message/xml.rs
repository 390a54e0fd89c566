//! A bounded pull reader over one message, and the writer beside it. No tree is built: a message is read in one pass, and its
//! texts are borrowed from the frame wherever they hold no reference. Elements are told apart by local name, whatever their prefix.

use std::borrow::Cow;

use quick_xml::{
    Reader,
    escape::{minimal_escape, resolve_predefined_entity},
    events::{BytesStart, Event},
};

/// The deepest nesting that is followed.
pub const MAX_DEPTH: usize = 32;
/// The most elements of one message.
pub const MAX_ELEMENTS: usize = 8192;
/// The most white space and markup between two elements that is passed over in one go.
const MAX_STEPS: usize = 1 << 17;

/// Why a message cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum XmlError {
    /// The message is no UTF-8.
    #[error("a message is not UTF-8")]
    Encoding,
    /// It is not well-formed.
    #[error("a message is not well-formed XML: {0}")]
    Syntax(String),
    /// It holds no element.
    #[error("a message is empty")]
    Empty,
    /// It is nested too deep, or has too many elements.
    #[error("a message is nested too deep or too large")]
    TooLarge,
    /// It declares a document type: CSTA has none, and entities are how small messages become large ones.
    #[error("a message declares a document type")]
    DocumentType,
    /// It ends too early.
    #[error("a message is truncated")]
    Truncated,
}

impl XmlError {
    /// One word for counting and for logging once per kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Encoding => "encoding",
            Self::Syntax(_) => "syntax",
            Self::Empty => "empty",
            Self::TooLarge => "too large",
            Self::DocumentType => "document type",
            Self::Truncated => "truncated",
        }
    }
}

/// An element that has just been entered.
#[derive(Debug)]
pub struct Tag<'a>(BytesStart<'a>);

impl Tag<'_> {
    /// Its name without prefix.
    pub fn local(&self) -> &str {
        self.0.local_name().into_inner()
    }
}

/// What comes next inside an element.
#[derive(Debug)]
pub enum Step<'a> {
    /// A child has been entered.
    Open(Tag<'a>),
    /// A piece of text.
    Text(Cow<'a, str>),
    /// The element has been left.
    Close,
}

/// The place in a message. Whoever is handed a `Tag` reads that element to its end: by `child` until `None`, `text` or `skip`.
#[derive(Debug)]
pub struct Cursor<'a> {
    reader: Reader<&'a [u8]>,
    depth: usize,
    elements: usize,
}

impl<'a> Cursor<'a> {
    /// Enters the root element.
    pub fn open(body: &'a [u8]) -> Result<(Self, Tag<'a>), XmlError> {
        let text = std::str::from_utf8(body).map_err(|_| XmlError::Encoding)?;
        let mut reader = Reader::from_str(text.trim_start_matches('\u{feff}'));
        let config = reader.config_mut();
        config.expand_empty_elements = true;
        config.check_comments = false;
        let mut cursor = Self { reader, depth: 0, elements: 0 };
        for _ in 0..MAX_STEPS {
            match cursor.event()? {
                Event::Start(start) => {
                    cursor.enter()?;
                    return Ok((cursor, Tag(start)));
                }
                Event::Eof => return Err(XmlError::Empty),
                _ => {}
            }
        }
        Err(XmlError::TooLarge)
    }

    /// The next child or text of the element entered last.
    pub fn step(&mut self) -> Result<Step<'a>, XmlError> {
        for _ in 0..MAX_STEPS {
            match self.event()? {
                Event::Start(start) => {
                    self.enter()?;
                    return Ok(Step::Open(Tag(start)));
                }
                Event::End(_) => {
                    self.depth = self.depth.saturating_sub(1);
                    return Ok(Step::Close);
                }
                Event::Text(text) => return Ok(Step::Text(text.into_inner())),
                Event::CData(text) => return Ok(Step::Text(text.into_inner())),
                Event::GeneralRef(reference) => {
                    let resolved = match reference.resolve_char_ref() {
                        Ok(Some(character)) => Cow::Owned(character.to_string()),
                        Ok(None) => {
                            let name = reference.into_inner();
                            Cow::Borrowed(resolve_predefined_entity(&name).ok_or_else(|| XmlError::Syntax("an unknown entity".to_owned()))?)
                        }
                        Err(error) => return Err(XmlError::Syntax(error.to_string())),
                    };
                    return Ok(Step::Text(resolved));
                }
                Event::Eof => return Err(XmlError::Truncated),
                _ => {}
            }
        }
        Err(XmlError::TooLarge)
    }

    /// Enters the next child; `None` leaves the element. Text between children is passed over.
    pub fn child(&mut self) -> Result<Option<Tag<'a>>, XmlError> {
        loop {
            match self.step()? {
                Step::Open(tag) => return Ok(Some(tag)),
                Step::Text(_) => {}
                Step::Close => return Ok(None),
            }
        }
    }

    /// The text of the element entered last, without surrounding white space; leaves it. Children are passed over.
    pub fn text(&mut self) -> Result<Cow<'a, str>, XmlError> {
        let mut text = Cow::Borrowed("");
        loop {
            match self.step()? {
                Step::Open(_) => self.skip()?,
                Step::Text(piece) => append(&mut text, piece),
                Step::Close => return Ok(trimmed(text)),
            }
        }
    }

    /// All text below the element entered last, pieces separated by a blank; leaves it. Kept to `most` octets.
    pub fn all_text(&mut self, most: usize) -> Result<String, XmlError> {
        let mut all = String::new();
        let (mut depth, mut apart) = (1_usize, false);
        while depth > 0 {
            match self.step()? {
                Step::Open(_) => (depth, apart) = (depth + 1, true),
                Step::Close => (depth, apart) = (depth - 1, true),
                Step::Text(piece) if all.len() < most => {
                    if apart && !all.is_empty() && !piece.trim().is_empty() {
                        all.push(' ');
                    }
                    apart &= piece.trim().is_empty();
                    all.push_str(if all.is_empty() { piece.trim_start() } else { &piece });
                }
                Step::Text(_) => {}
            }
        }
        all.truncate(all.trim_end().len());
        Ok(shortened(all, most))
    }

    /// Leaves the element entered last, whatever is in it.
    pub fn skip(&mut self) -> Result<(), XmlError> {
        let mut depth = 1_usize;
        while depth > 0 {
            match self.step()? {
                Step::Open(_) => depth += 1,
                Step::Close => depth -= 1,
                Step::Text(_) => {}
            }
        }
        Ok(())
    }

    fn enter(&mut self) -> Result<(), XmlError> {
        self.depth += 1;
        self.elements += 1;
        if self.depth > MAX_DEPTH || self.elements > MAX_ELEMENTS { Err(XmlError::TooLarge) } else { Ok(()) }
    }

    fn event(&mut self) -> Result<Event<'a>, XmlError> {
        match self.reader.read_event() {
            Ok(Event::DocType(_)) => Err(XmlError::DocumentType),
            Ok(event) => Ok(event),
            Err(error) => Err(XmlError::Syntax(error.to_string())),
        }
    }
}

/// Puts a piece behind a text; a text of one piece stays borrowed.
pub(super) fn append<'a>(text: &mut Cow<'a, str>, piece: Cow<'a, str>) {
    if text.is_empty() {
        *text = piece;
    } else {
        text.to_mut().push_str(&piece);
    }
}

pub(super) fn trimmed(text: Cow<'_, str>) -> Cow<'_, str> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.trim()),
        Cow::Owned(text) if text.trim().len() == text.len() => Cow::Owned(text),
        Cow::Owned(text) => Cow::Owned(text.trim().to_owned()),
    }
}

/// At most `most` octets of the text, cut between characters.
pub(crate) fn shortened(mut text: String, most: usize) -> String {
    if text.len() > most {
        let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

/// Writes one message.
#[derive(Debug)]
pub struct Writer<'o> {
    out: &'o mut String,
}

impl<'o> Writer<'o> {
    /// Begins a message with its declaration.
    pub fn new(out: &'o mut String) -> Self {
        out.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?>");
        Self { out }
    }

    /// Goes on writing a message whose beginning is written.
    pub fn continued(out: &'o mut String) -> Self {
        Self { out }
    }

    /// The root element, its default namespace and what is inside.
    pub fn root(&mut self, name: &str, namespace: &str, inside: impl FnOnce(&mut Self)) {
        self.out.push('<');
        self.out.push_str(name);
        self.out.push_str(" xmlns=\"");
        self.out.push_str(&quick_xml::escape::escape(namespace));
        self.out.push_str("\">");
        inside(self);
        self.close(name);
    }

    /// An element and what is inside.
    pub fn element(&mut self, name: &str, inside: impl FnOnce(&mut Self)) {
        self.out.push('<');
        self.out.push_str(name);
        self.out.push('>');
        inside(self);
        self.close(name);
    }

    /// An element with an attribute that is written as it is.
    pub fn element_with(&mut self, name: &str, attribute: &str, inside: impl FnOnce(&mut Self)) {
        self.out.push('<');
        self.out.push_str(name);
        self.out.push(' ');
        self.out.push_str(attribute);
        self.out.push('>');
        inside(self);
        self.close(name.split(' ').next().unwrap_or(name));
    }

    /// An element with a text.
    pub fn leaf(&mut self, name: &str, text: &str) {
        self.element(name, |writer| writer.text(text));
    }

    /// An element with nothing inside.
    pub fn empty(&mut self, name: &str) {
        self.out.push('<');
        self.out.push_str(name);
        self.out.push_str("/>");
    }

    /// A text.
    pub fn text(&mut self, text: &str) {
        self.out.push_str(&minimal_escape(text).replace("]]>", "]]&gt;"));
    }

    fn close(&mut self, name: &str) {
        self.out.push_str("</");
        self.out.push_str(name);
        self.out.push('>');
    }
}
