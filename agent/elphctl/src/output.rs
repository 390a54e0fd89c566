//! Writes what is answered: tables and lines for people, the protobuf JSON mapping for programs. A closed pipe ends quietly.

use std::{
    env,
    io::{self, BufWriter, IsTerminal, Stdout, Write},
    sync::LazyLock,
};

use jiff::{Timestamp, tz::TimeZone};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};

use crate::{
    cli::{Colour, OutputArgs},
    failure::Failure,
    render::{Grid, Tone},
};

static POOL: LazyLock<Option<DescriptorPool>> = LazyLock::new(|| DescriptorPool::decode(elph_proto::DESCRIPTORS).ok());

/// How to show things.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    /// With colours.
    pub(crate) colour: bool,
    /// Whole ids, every column.
    pub(crate) wide: bool,
    /// Width to fit into.
    pub(crate) width: Option<u16>,
    /// Zone of the times shown.
    pub(crate) zone: TimeZone,
    /// The time now.
    pub(crate) now: Timestamp,
}

/// The output.
#[derive(Debug)]
pub(crate) struct Output {
    out: BufWriter<Stdout>,
    /// For programs.
    pub(crate) json: bool,
    /// How to show things.
    pub(crate) look: Look,
}

/// Whether a stream is to be coloured.
pub(crate) fn coloured(choice: Colour, terminal: bool) -> bool {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    match choice {
        Colour::Always => true,
        Colour::Never => false,
        Colour::Auto => terminal && set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb"),
    }
}

fn width() -> Option<u16> {
    let columns = env::var("COLUMNS").ok().and_then(|text| text.parse().ok()).filter(|width| *width >= 20);
    let terminal = || io::stdout().is_terminal().then(|| comfy_table::Table::new().width()).flatten();
    columns.or_else(terminal)
}

impl Output {
    /// The standard output.
    pub(crate) fn new(arguments: &OutputArgs) -> Self {
        let look = Look {
            colour: !arguments.json && coloured(arguments.color, io::stdout().is_terminal()),
            wide: arguments.wide,
            width: width(),
            zone: TimeZone::system(),
            now: Timestamp::now(),
        };
        Self { out: BufWriter::new(io::stdout()), json: arguments.json, look }
    }

    /// Writes a message of `elph.agent.v1` as one line of JSON.
    pub(crate) fn message(&mut self, name: &str, message: &impl Message) -> Result<(), Failure> {
        let text = to_json(name, message).map_err(Failure::Local)?;
        self.line(&text)
    }

    /// Writes a line.
    pub(crate) fn line(&mut self, text: &str) -> Result<(), Failure> {
        Ok(writeln!(self.out, "{text}")?)
    }

    /// Writes a line in a tone.
    pub(crate) fn toned(&mut self, text: &str, tone: Tone) -> Result<(), Failure> {
        let text = tone.paint(text, self.look.colour);
        self.line(&text)
    }

    /// Writes a table, or a line that there is nothing.
    pub(crate) fn grid(&mut self, grid: &Grid, nothing: &str) -> Result<(), Failure> {
        if grid.is_empty() {
            return self.toned(nothing, Tone::Dim);
        }
        for line in grid.lines(&self.look) {
            self.line(&line)?;
        }
        Ok(())
    }

    /// Writes raw bytes, for scripts and man pages.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.out.write_all(bytes)?)
    }

    /// Hands everything to the reader.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.out.flush()?)
    }
}

/// The protobuf JSON mapping of a message: lowerCamelCase, enum names, RFC 3339, 64-bit numbers as text. Fields with default values are
/// written too, so that an object always has the same keys.
pub(crate) fn to_json(name: &str, message: &impl Message) -> Result<String, String> {
    let full = format!("elph.agent.v1.{name}");
    let descriptor = POOL.as_ref().and_then(|pool| pool.get_message_by_name(&full)).ok_or_else(|| format!("{full} is not described"))?;
    let message = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()).map_err(|error| error.to_string())?;
    let mut serializer = serde_json::Serializer::new(Vec::new());
    let options = SerializeOptions::new().skip_default_fields(false);
    message.serialize_with_options(&mut serializer, &options).map_err(|error| error.to_string())?;
    String::from_utf8(serializer.into_inner()).map_err(|error| error.to_string())
}

/// A message from the protobuf JSON mapping; a field that it does not have is an error.
pub(crate) fn from_json<M: Message + Default>(name: &str, text: &str) -> Result<M, String> {
    let full = format!("elph.agent.v1.{name}");
    let descriptor = POOL.as_ref().and_then(|pool| pool.get_message_by_name(&full)).ok_or_else(|| format!("{full} is not described"))?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let message = DynamicMessage::deserialize(descriptor, &mut deserializer).map_err(|error| error.to_string())?;
    deserializer.end().map_err(|error| error.to_string())?;
    message.transcode_to().map_err(|error| error.to_string())
}

/// A note for people on standard error; if that is closed, nobody reads it.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "elphctl: {}", crate::render::clean(text));
}

/// Tells a failure on standard error.
pub(crate) fn tell(failure: &Failure, json: bool, choice: Colour) {
    if matches!(failure, Failure::Closed) {
        return;
    }
    let mut out = io::stderr().lock();
    if json {
        let _ = writeln!(out, "{}", failure.to_json());
        return;
    }
    let colour = coloured(choice, out.is_terminal());
    for (number, line) in failure.lines().iter().enumerate() {
        let clean: Vec<String> = line.lines().map(crate::render::clean).collect();
        let tone = if number == 0 { Tone::Bad } else { Tone::Plain };
        let _ = writeln!(out, "{}", tone.paint(&clean.join("\n"), colour));
    }
}
