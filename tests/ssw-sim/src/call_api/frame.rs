//! The text frames of the Call API's WebSocket, the switch's side: `01`, ten digits of length, a four-character request id; then a
//! 32-character name field or a three-character status; then JSON (ecss10-interfaces §2). Pad and length unit are the dialect's.

/// Characters of the header.
const HEADER: usize = 16;
/// Characters of the name field.
const NAME: usize = 32;
/// Characters of the status field.
#[cfg(test)]
const STATUS: usize = 3;
/// What every frame begins with.
const MARK: &str = "01";

/// The dialect's choices about frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Framing {
    /// What fills the name field.
    pub(crate) pad: char,
    /// Whether the length counts octets of UTF-8 instead of characters.
    pub(crate) counts_bytes: bool,
}

/// A frame that came from a client: always a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Command<'a> {
    /// Echoed in the answer.
    pub(crate) request_id: &'a str,
    /// The name field without its padding.
    pub(crate) name: &'a str,
    /// What follows.
    pub(crate) json: &'a str,
}

/// Why a text is no command frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    /// Shorter than header and name field, or cut inside a character.
    #[error("the frame is shorter than its header and name field")]
    TooShort,
    /// It does not begin with `01`.
    #[error("the frame does not begin with 01")]
    BadMark,
    /// The length is not ten digits, or not the frame's.
    #[error("the frame's length is not what its header says")]
    BadLength,
    /// The name field is not filled with the dialect's pad character, or is empty.
    #[error("the name field is not padded as agreed")]
    BadPad,
}

// === impl Framing ===

impl Framing {
    /// Reads a command.
    pub(crate) fn decode(self, text: &str) -> Result<Command<'_>, FrameError> {
        let mark = text.get(..2).ok_or(FrameError::TooShort)?;
        if mark != MARK {
            return Err(FrameError::BadMark);
        }
        let length = text.get(2..12).ok_or(FrameError::TooShort)?;
        if !length.bytes().all(|octet| octet.is_ascii_digit()) {
            return Err(FrameError::BadLength);
        }
        let (request_id, rest) = split_chars(text.get(12..).ok_or(FrameError::TooShort)?, HEADER - 12).ok_or(FrameError::TooShort)?;
        if length.parse() != Ok(self.count(text)) {
            return Err(FrameError::BadLength);
        }
        let (field, json) = split_chars(rest, NAME).ok_or(FrameError::TooShort)?;
        let name = field.trim_end_matches(self.pad);
        let other_pad = |c: char| c == ' ' || c == '\0';
        if name.is_empty() || name.contains(other_pad) {
            return Err(FrameError::BadPad);
        }
        Ok(Command { request_id, name, json })
    }

    /// Writes an answer, or an event that looks like one: header, status, JSON.
    pub(crate) fn answer(self, request_id: &str, status: &str, json: &str) -> String {
        self.frame(request_id, status, "", json)
    }

    /// Writes an event that looks like a command: header, name field filled with `pad`, JSON.
    pub(crate) fn named(self, request_id: &str, name: &str, json: &str) -> String {
        let missing = NAME.saturating_sub(name.chars().count());
        let fill: String = std::iter::repeat_n(self.pad, missing).collect();
        self.frame(request_id, name, &fill, json)
    }

    fn frame(self, request_id: &str, field: &str, fill: &str, json: &str) -> String {
        let length = HEADER + self.count(field) + self.count(fill) + self.count(json);
        let mut text = String::with_capacity(HEADER + field.len() + fill.len() + json.len());
        text.push_str(MARK);
        text.push_str(&format!("{length:010}"));
        text.push_str(request_id);
        text.push_str(field);
        text.push_str(fill);
        text.push_str(json);
        text
    }

    fn count(self, text: &str) -> usize {
        if self.counts_bytes { text.len() } else { text.chars().count() }
    }
}

/// Splits after `count` characters.
fn split_chars(text: &str, count: usize) -> Option<(&str, &str)> {
    match text.char_indices().nth(count) {
        Some((at, _)) => text.split_at_checked(at),
        None => (text.chars().count() == count).then_some((text, "")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLAIN: Framing = Framing { pad: ' ', counts_bytes: true };

    #[test]
    fn the_documented_request_has_130_and_the_documented_answer_223_characters() {
        let json = r#"[{"_name":"in","_content":[{"_name":"request","_attributes":{"agent_id":"102"}}]}]"#;
        let request = format!("0100000001300014{:32}{json}", "unblock_operator");
        assert_eq!(request.len(), 130);
        assert_eq!(PLAIN.decode(&request).unwrap(), Command { request_id: "0014", name: "unblock_operator", json });
        assert_eq!(PLAIN.named("0014", "unblock_operator", json), request);
        let json = concat!(
            r#"[{"_name":"out","_attributes":{"xmlns:xs":"http://www.w3.org/2001/XMLSchema-instance","#,
            r#""xs:noNamespaceSchemaLocation":"unblock_operator.xsd"},"_content":[{"_name":"response","_content":[{"_name":"ok"}]}]}]"#
        );
        let answer = PLAIN.answer("0014", "200", json);
        assert_eq!(answer, format!("0100000002230014200{json}"));
        assert_eq!(answer.len(), HEADER + STATUS + 204);
    }

    #[test]
    fn a_wrong_length_pad_or_mark_is_told_apart() {
        let good = PLAIN.named("0001", "call/call_make", "[]");
        assert!(PLAIN.decode(&good).is_ok());
        assert_eq!(PLAIN.decode(&good.replacen("01", "02", 1)), Err(FrameError::BadMark));
        assert_eq!(PLAIN.decode(&format!("{good} ")), Err(FrameError::BadLength));
        assert_eq!(PLAIN.decode(&good[..15]), Err(FrameError::TooShort));
        let nul = Framing { pad: '\0', ..PLAIN };
        assert_eq!(nul.decode(&good), Err(FrameError::BadPad));
        assert_eq!(nul.decode(&nul.named("0001", "call/call_make", "[]")).unwrap().name, "call/call_make");
    }

    #[test]
    fn the_length_counts_octets_or_characters() {
        let bytes = PLAIN.named("0001", "x", "\"абонент\"");
        let characters = Framing { counts_bytes: false, ..PLAIN }.named("0001", "x", "\"абонент\"");
        assert_eq!(&bytes[..12], "010000000064");
        assert_eq!(&characters[..12], "010000000057");
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back(name in "[a-z/_]{1,32}", json in "[ -~а-я]{0,80}", nul: bool, counts_bytes: bool) {
            let framing = Framing { pad: if nul { '\0' } else { ' ' }, counts_bytes };
            let text = framing.named("0042", &name, &json);
            prop_assert_eq!(framing.decode(&text), Ok(Command { request_id: "0042", name: &name, json: &json }));
        }

        #[test]
        fn garbage_never_panics(text in "\\PC{0,80}", head in "01[0-9]{10}") {
            let _ = PLAIN.decode(&text);
            let _ = PLAIN.decode(&format!("{head}{text}"));
        }
    }
}
