//! The framed text of the Call API's WebSocket (ecss10-interfaces §2): `01`, ten digits of total length, four characters of
//! request id; then a 32-character name field and JSON (request), or a 3-character status and JSON (answer). Pad, length unit and
//! the look of events are the dialect's. Pure: no I/O, no panic, nothing copied when reading.

use std::borrow::Cow;

use ecss_switch::dialect::{CallApiDialect, EventFrame, LengthUnit, Pad};

/// The frame's version digits.
const VERSION: &str = "01";
/// Characters of the length field.
const LENGTH_DIGITS: usize = 10;
/// Characters of the request id.
const ID_CHARS: usize = 4;
/// Characters of the header.
const HEADER_CHARS: usize = 2 + LENGTH_DIGITS + ID_CHARS;
/// Characters of the name field.
const NAME_CHARS: usize = 32;
/// Characters of the status.
const STATUS_CHARS: usize = 3;

/// The longest message that is read or written, in octets.
pub const MAX_MESSAGE: usize = 8 * 1024 * 1024;

/// What a dialect says about frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Framing {
    /// Fills the name field.
    pub pad: Pad,
    /// What the length counts.
    pub unit: LengthUnit,
    /// How an event is told from an answer.
    pub event: EventFrame,
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A command to the switch.
    Request {
        /// Echoed in the answer.
        id: Cow<'a, str>,
        /// Prefix and name of the command.
        name: Cow<'a, str>,
        /// JSON.
        body: Cow<'a, str>,
    },
    /// The switch's answer.
    Answer {
        /// Of the request.
        id: Cow<'a, str>,
        /// Three digits.
        status: Cow<'a, str>,
        /// JSON; may be empty.
        body: Cow<'a, str>,
    },
    /// An event of the switch.
    Event {
        /// Prefix and name, where the dialect's event frame has a name field.
        name: Option<Cow<'a, str>>,
        /// JSON.
        body: Cow<'a, str>,
    },
}

/// A frame as it was read, and what was wrong with it without hiding its meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// The frame.
    pub frame: Frame<'a>,
    /// What is to be counted.
    pub flaws: Flaws,
}

/// Deviations from the dialect that leave the frame readable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flaws {
    /// The name field has another pad character, another width, or none.
    pub padding: bool,
    /// The length is not that of the message. The WebSocket delimits it, and the JSON is only read when complete.
    pub length: bool,
}

impl Flaws {
    /// Whether there is any.
    pub fn any(self) -> bool {
        self.padding || self.length
    }
}

/// Why a text is no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than `MAX_MESSAGE`.
    #[error("the frame is longer than {MAX_MESSAGE} octets")]
    Oversized,
    /// Ends inside the header, status or name.
    #[error("the frame is truncated")]
    Truncated,
    /// Does not begin with the version digits.
    #[error("the frame does not begin with 01")]
    Version,
    /// The length is not ten digits.
    #[error("the frame's length is not ten digits")]
    Length,
    /// No JSON where the body belongs.
    #[error("the frame's body does not begin where JSON is due")]
    Body,
    /// A name or status that cannot be written or told from padding.
    #[error("the frame's name or status is not printable or does not fit its field")]
    Name,
    /// An id that is not four printable characters, or belongs to events.
    #[error("the frame's request id is not four printable characters, or belongs to events")]
    Id,
}

/// A frame that could not be read, with its id where that was legible: the command with this id has had its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadFrame<'a> {
    /// What is wrong.
    pub error: FrameError,
    /// The id.
    pub id: Option<&'a str>,
}

// === impl Framing ===

impl Framing {
    /// The dialect's framing.
    pub fn of(dialect: &CallApiDialect) -> Self {
        Self { pad: dialect.pad, unit: dialect.length_unit, event: dialect.event_frame.clone() }
    }

    /// Writes a frame.
    pub fn encode(&self, frame: &Frame<'_>) -> Result<String, FrameError> {
        let (id, field, body) = match frame {
            Frame::Request { id, name, body } => {
                if self.event_id() == Some(id.as_ref()) {
                    return Err(FrameError::Id);
                }
                (id.as_ref(), self.name_field(name)?, body)
            }
            Frame::Answer { id, status, body } => {
                let taken = matches!(&self.event, EventFrame::Status { status: event } if event.as_str() == status);
                if taken || !is_status(status) {
                    return Err(FrameError::Name);
                }
                if self.event_id() == Some(id.as_ref()) {
                    return Err(FrameError::Id);
                }
                (id.as_ref(), status.to_string(), body)
            }
            Frame::Event { name, body } => match &self.event {
                EventFrame::Status { status } => ("0000", status.clone(), body),
                EventFrame::RequestId { request_id } => {
                    let name = name.as_deref().ok_or(FrameError::Name)?;
                    (request_id.as_str(), self.name_field(name)?, body)
                }
            },
        };
        if !is_id(id) {
            return Err(FrameError::Id);
        }
        let fits = match frame {
            Frame::Answer { status, .. } => body.is_empty() || is_json(body) || !status.starts_with('2'),
            Frame::Request { .. } | Frame::Event { .. } => is_json(body),
        };
        if !fits {
            return Err(FrameError::Body);
        }
        let octets = 2 + LENGTH_DIGITS + id.len() + field.len() + body.len();
        if octets > MAX_MESSAGE {
            return Err(FrameError::Oversized);
        }
        let total = match self.unit {
            LengthUnit::Bytes => octets,
            LengthUnit::Characters => HEADER_CHARS + field.chars().count() + body.chars().count(),
        };
        Ok(format!("{VERSION}{total:010}{id}{field}{body}"))
    }

    /// Reads what the switch sends: answers and events.
    pub fn decode<'a>(&self, text: &'a str) -> Result<Decoded<'a>, BadFrame<'a>> {
        let header = self.header(text)?;
        let bad = |error| BadFrame { error, id: Some(header.id) };
        let mut flaws = Flaws { padding: false, length: header.wrong_length };
        let frame = match &self.event {
            EventFrame::RequestId { request_id } if request_id == header.id => {
                let (name, body) = self.name_and_body(header.rest, &mut flaws).map_err(bad)?;
                Frame::Event { name: Some(Cow::Borrowed(name)), body: Cow::Borrowed(body) }
            }
            event => {
                let (status, body) = split_chars(header.rest, STATUS_CHARS).ok_or(bad(FrameError::Truncated))?;
                let is_event = matches!(event, EventFrame::Status { status: event } if event == status);
                if !is_event && !is_status(status) {
                    return Err(bad(FrameError::Name));
                }
                // an error's status says enough; what else it has may be a page of HTML
                let may_be_other = !is_event && (body.is_empty() || !status.starts_with('2'));
                if !may_be_other && !is_json(body) {
                    return Err(bad(if body.is_empty() { FrameError::Truncated } else { FrameError::Body }));
                }
                let body = Cow::Borrowed(body);
                if is_event {
                    Frame::Event { name: None, body }
                } else {
                    Frame::Answer { id: Cow::Borrowed(header.id), status: Cow::Borrowed(status), body }
                }
            }
        };
        Ok(Decoded { frame, flaws })
    }

    /// Reads what a client sends: requests. The switch's side of the codec, for tests.
    pub fn decode_request<'a>(&self, text: &'a str) -> Result<Decoded<'a>, BadFrame<'a>> {
        let header = self.header(text)?;
        let mut flaws = Flaws { padding: false, length: header.wrong_length };
        let read = self.name_and_body(header.rest, &mut flaws);
        let (name, body) = read.map_err(|error| BadFrame { error, id: Some(header.id) })?;
        Ok(Decoded { frame: Frame::Request { id: header.id.into(), name: name.into(), body: body.into() }, flaws })
    }

    fn event_id(&self) -> Option<&str> {
        match &self.event {
            EventFrame::RequestId { request_id } => Some(request_id),
            EventFrame::Status { .. } => None,
        }
    }

    fn pad_char(&self) -> char {
        match self.pad {
            Pad::Space => ' ',
            Pad::Nul => '\0',
        }
    }

    fn name_field(&self, name: &str) -> Result<String, FrameError> {
        let chars = name.chars().count();
        if !is_name(name) || chars > NAME_CHARS {
            return Err(FrameError::Name);
        }
        let mut field = String::with_capacity(name.len() + NAME_CHARS);
        field.push_str(name);
        field.extend(std::iter::repeat_n(self.pad_char(), NAME_CHARS - chars));
        Ok(field)
    }

    fn header<'a>(&self, text: &'a str) -> Result<Header<'a>, BadFrame<'a>> {
        let bad = |error| BadFrame { error, id: None };
        if text.len() > MAX_MESSAGE {
            return Err(bad(FrameError::Oversized));
        }
        let (version, rest) = split_chars(text, VERSION.len()).ok_or(bad(FrameError::Truncated))?;
        if version != VERSION {
            return Err(bad(FrameError::Version));
        }
        let (digits, rest) = split_chars(rest, LENGTH_DIGITS).ok_or(bad(FrameError::Truncated))?;
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(bad(FrameError::Length));
        }
        let total: u64 = digits.parse().map_err(|_| bad(FrameError::Length))?;
        let (id, rest) = split_chars(rest, ID_CHARS).ok_or(bad(FrameError::Truncated))?;
        if !is_id(id) {
            return Err(bad(FrameError::Id));
        }
        let actual = match self.unit {
            LengthUnit::Bytes => text.len(),
            LengthUnit::Characters => text.chars().count(),
        };
        Ok(Header { id, rest, wrong_length: u64::try_from(actual) != Ok(total) })
    }

    /// The name is read by its 32 characters; failing that, by where the JSON begins.
    fn name_and_body<'a>(&self, rest: &'a str, flaws: &mut Flaws) -> Result<(&'a str, &'a str), FrameError> {
        if let Some((field, body)) = split_chars(rest, NAME_CHARS)
            && is_json(body)
        {
            let name = field.trim_end_matches(self.pad_char());
            if is_name(name) {
                return Ok((name, body));
            }
            let name = field.trim_matches([' ', '\0']);
            if is_name(name) {
                flaws.padding = true;
                return Ok((name, body));
            }
        }
        let start = rest.find(['[', '{']).ok_or(FrameError::Body)?;
        let (field, body) = rest.split_at_checked(start).ok_or(FrameError::Body)?;
        let name = field.trim_matches([' ', '\0']);
        if !is_name(name) || name.chars().count() > NAME_CHARS {
            return Err(FrameError::Name);
        }
        flaws.padding = true;
        Ok((name, body))
    }
}

struct Header<'a> {
    id: &'a str,
    rest: &'a str,
    wrong_length: bool,
}

fn split_chars(text: &str, chars: usize) -> Option<(&str, &str)> {
    // ASCII is the rule; only a head with longer characters is counted one by one
    if let Some(head) = text.as_bytes().get(..chars)
        && head.is_ascii()
    {
        return text.split_at_checked(chars);
    }
    let end = match text.char_indices().nth(chars) {
        Some((at, _)) => at,
        None if text.chars().count() == chars => text.len(),
        None => return None,
    };
    text.split_at_checked(end)
}

fn is_json(body: &str) -> bool {
    body.starts_with(['[', '{'])
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.chars().any(|c| c.is_whitespace() || c.is_control() || c == '[' || c == '{')
}

fn is_status(status: &str) -> bool {
    status.len() == STATUS_CHARS && status.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_id(id: &str) -> bool {
    id.chars().count() == ID_CHARS && !id.chars().any(|c| c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framing(pad: Pad, unit: LengthUnit, event: EventFrame) -> Framing {
        Framing { pad, unit, event }
    }

    fn documented() -> Framing {
        framing(Pad::Space, LengthUnit::Bytes, EventFrame::RequestId { request_id: "0000".into() })
    }

    const REQUEST: &str =
        r#"0100000001300014unblock_operator[{"_name":"in","_content":[{"_name":"request","_attributes":{"agent_id":"102"}}]}]"#;
    const ANSWER: &str = r#"0100000002230014200[{"_name":"out","_attributes":{"xmlns:xs":"http://www.w3.org/2001/XMLSchema-instance","xs:noNamespaceSchemaLocation":"unblock_operator.xsd"},"_content":[{"_name":"response","_content":[{"_name":"ok"}]}]}]"#;

    #[test]
    fn the_documented_request_is_written_with_total_130_and_its_printed_form_without_padding_is_read() {
        let read = documented().decode_request(REQUEST).unwrap();
        assert!(read.flaws.padding && read.flaws.length, "the printed sample has its padding stripped");
        let Frame::Request { id, name, body } = &read.frame else { panic!("{read:?}") };
        assert_eq!((id.as_ref(), name.as_ref(), body.len()), ("0014", "unblock_operator", 82));
        for pad in [Pad::Space, Pad::Nul] {
            let written = Framing { pad, ..documented() }.encode(&read.frame).unwrap();
            assert!(written.starts_with("0100000001300014unblock_operator"));
            assert_eq!(written.len(), 130);
        }
    }

    #[test]
    fn the_documented_answer_is_223_octets_and_survives_a_round_trip() {
        assert_eq!(ANSWER.len(), 223);
        let read = documented().decode(ANSWER).unwrap();
        assert!(!read.flaws.any());
        let Frame::Answer { id, status, body } = &read.frame else { panic!("{read:?}") };
        assert_eq!((id.as_ref(), status.as_ref(), body.len()), ("0014", "200", 204));
        assert_eq!(documented().encode(&read.frame).unwrap(), ANSWER);
    }

    #[test]
    fn wrong_padding_is_read_and_counted() {
        let nuls = "\0".repeat(13);
        for text in [
            &format!("0100000000500000conversations_event{nuls}[]"),
            "0100000000500000             conversations_event[]",
            "0100000000500000conversations_event[]",
            "0100000000500000conversations_event                    []",
        ] {
            let read = documented().decode(text).unwrap();
            assert!(read.flaws.padding, "{text:?}");
            assert_eq!(read.frame, Frame::Event { name: Some("conversations_event".into()), body: "[]".into() });
        }
    }

    #[test]
    fn a_bad_frame_tells_whose_answer_it_was() {
        for (text, error, id) in [
            ("", FrameError::Truncated, None),
            ("02000000001900142", FrameError::Version, None),
            ("01000000x0190014200", FrameError::Length, None),
            ("010000000019001", FrameError::Truncated, None),
            ("01000000001900 4200", FrameError::Id, None),
            ("010000000019001420", FrameError::Truncated, Some("0014")),
            ("0100000000190014200oops", FrameError::Body, Some("0014")),
            ("0100000000190014\u{1}\u{2}\u{3}[]", FrameError::Name, Some("0014")),
            ("0100000000190000[]", FrameError::Name, Some("0000")),
        ] {
            assert_eq!(documented().decode(text), Err(BadFrame { error, id }), "{text:?}");
        }
        let long = format!("0100000002230014200[{}]", " ".repeat(MAX_MESSAGE));
        assert_eq!(documented().decode(&long).unwrap_err().error, FrameError::Oversized);
    }

    fn any_framing() -> impl Strategy<Value = Framing> {
        let event = prop_oneof![
            prop_oneof![Just("0000"), Just("9999"), Just("évèn")].prop_map(|id| EventFrame::RequestId { request_id: id.into() }),
            prop_oneof![Just("EVT"), Just("100")].prop_map(|status| EventFrame::Status { status: status.into() }),
        ];
        (prop_oneof![Just(Pad::Space), Just(Pad::Nul)], prop_oneof![Just(LengthUnit::Bytes), Just(LengthUnit::Characters)], event)
            .prop_map(|(pad, unit, event)| framing(pad, unit, event))
    }

    fn any_frame() -> impl Strategy<Value = (u8, u16, String, u16, String)> {
        (0u8..3, 1u16..10_000, "[a-zа-яA-Z0-9_/.-]{1,32}", 200u16..600, "\\PC{0,80}")
    }

    proptest! {
        #[test]
        fn every_frame_survives_a_round_trip_under_every_framing(framing in any_framing(), (kind, id, name, status, text) in any_frame()) {
            let (id, body) = (format!("{id:04}"), format!("[{text}]"));
            let by_name = matches!(framing.event, EventFrame::RequestId { .. });
            prop_assume!(framing.event_id() != Some(&id));
            let frame = match kind {
                0 => Frame::Request { id: id.into(), name: name.into(), body: body.into() },
                1 => Frame::Answer { id: id.into(), status: status.to_string().into(), body: body.into() },
                _ => Frame::Event { name: by_name.then(|| name.into()), body: body.into() },
            };
            let written = framing.encode(&frame).unwrap();
            let read = if kind == 0 { framing.decode_request(&written) } else { framing.decode(&written) };
            prop_assert_eq!(read, Ok(Decoded { frame, flaws: Flaws::default() }));
        }

        #[test]
        fn no_text_makes_it_panic(framing in any_framing(), text in "\\PC{0,120}", header in prop::bool::ANY, cut in 0usize..260) {
            let text = if header { format!("0100000000500014{text}") } else { text };
            let _ = framing.decode(&text);
            let _ = framing.decode_request(&text);
            for sample in [REQUEST, ANSWER] {
                if let Some(part) = sample.get(..cut) {
                    let _ = framing.decode(part);
                    let _ = framing.decode_request(part);
                }
            }
        }
    }
}
