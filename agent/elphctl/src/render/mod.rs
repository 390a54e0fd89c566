//! Tables and words for people. Everything that comes from the switch is cleaned of control characters: a name must not steer a terminal.

pub(crate) mod call;
pub(crate) mod conference;
pub(crate) mod directory;
pub(crate) mod event;
pub(crate) mod push;

use comfy_table::{Attribute, Cell as TableCell, CellAlignment, Color, ContentArrangement, Table, presets};
use jiff::{Timestamp, ToSpan};

use crate::output::Look;

/// How a text is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Nothing special.
    Plain,
    /// As it should be.
    Good,
    /// To be noticed.
    Warn,
    /// Wrong.
    Bad,
    /// Unimportant.
    Dim,
    /// A heading.
    Strong,
}

impl Tone {
    /// The text with colour, if wanted.
    pub(crate) fn paint(self, text: &str, colour: bool) -> String {
        let code = match self {
            _ if !colour => return text.to_owned(),
            Self::Plain => return text.to_owned(),
            Self::Good => "32",
            Self::Warn => "33",
            Self::Bad => "31",
            Self::Dim => "2",
            Self::Strong => "1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    fn cell(self, cell: TableCell) -> TableCell {
        match self {
            Self::Plain => cell,
            Self::Good => cell.fg(Color::DarkGreen),
            Self::Warn => cell.fg(Color::DarkYellow),
            Self::Bad => cell.fg(Color::DarkRed),
            Self::Dim => cell.add_attribute(Attribute::Dim),
            Self::Strong => cell.add_attribute(Attribute::Bold),
        }
    }
}

/// The text without control characters.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c) { '\u{fffd}' } else { c }).collect()
}

/// One cell.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell in a tone.
    pub(crate) fn toned(text: impl AsRef<str>, tone: Tone) -> Self {
        Self { text: clean(text.as_ref()), tone }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

/// A table: columns with nothing in them are left out, and those of the highest rank go first when the width does not suffice.
#[derive(Debug)]
pub(crate) struct Grid {
    columns: Vec<(&'static str, u8)>,
    rows: Vec<Vec<Cell>>,
}

/// Space between columns.
const GAP: usize = 2;

impl Grid {
    /// A table with these titles. Rank 0 is never left out; a title that ends in `>` is aligned right.
    pub(crate) fn new(columns: &[(&'static str, u8)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// Whether it has no rows.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn kept(&self, look: &Look) -> Vec<usize> {
        let width_of = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.chars().count()).max().unwrap_or(0);
            cells.max(self.columns.get(column).map_or(0, |(title, _)| title.trim_end_matches('>').len()))
        };
        let filled = |column: &usize| self.rows.iter().any(|row| row.get(*column).is_some_and(|cell| !cell.text.is_empty()));
        let mut kept: Vec<usize> = (0..self.columns.len()).filter(filled).collect();
        let Some(width) = look.width.filter(|_| !look.wide) else { return kept };
        loop {
            let total: usize = kept.iter().map(|column| width_of(*column) + GAP).sum::<usize>().saturating_sub(GAP);
            let rank = |column: &usize| self.columns.get(*column).map_or(0, |(_, rank)| *rank);
            let Some(last) = kept.iter().copied().filter(|column| rank(column) > 0).max_by_key(|column| (rank(column), *column)) else {
                return kept;
            };
            if total <= usize::from(width) {
                return kept;
            }
            kept.retain(|column| *column != last);
        }
    }

    /// The lines, without trailing blanks.
    pub(crate) fn lines(&self, look: &Look) -> Vec<String> {
        let kept = self.kept(look);
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        if look.colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        match look.width.filter(|_| !look.wide) {
            Some(width) => table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width),
            None => table.set_content_arrangement(ContentArrangement::Disabled),
        };
        let title = |column: &usize| self.columns.get(*column).map_or("", |(title, _)| title);
        table.set_header(kept.iter().map(|column| Tone::Strong.cell(TableCell::new(title(column).trim_end_matches('>')))));
        for row in &self.rows {
            table.add_row(kept.iter().filter_map(|column| row.get(*column)).map(|cell| cell.tone.cell(TableCell::new(&cell.text))));
        }
        for (place, column) in kept.iter().enumerate() {
            if let Some(shown) = table.column_mut(place) {
                shown.set_padding((0, if place + 1 == kept.len() { 0 } else { GAP as u16 }));
                if title(column).ends_with('>') {
                    shown.set_cell_alignment(CellAlignment::Right);
                }
            }
        }
        table.lines().map(|line| line.trim_end().to_owned()).collect()
    }
}

/// A name of a value of an enum as a word: `CALL_STATE_ALERTING` without `CALL_STATE_` is `alerting`; unspecified is nothing.
pub(crate) fn word(name: &str, prefix: &str) -> String {
    match name.strip_prefix(prefix).unwrap_or(name) {
        "UNSPECIFIED" => String::new(),
        rest => rest.to_ascii_lowercase().replace('_', " "),
    }
}

/// An id as shown: its first block, or the whole of it.
pub(crate) fn id(id: &str, look: &Look) -> String {
    if look.wide { id.to_owned() } else { id.split('-').next().unwrap_or(id).to_owned() }
}

fn timestamp(time: Option<prost_types::Timestamp>) -> Option<Timestamp> {
    time.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok())
}

/// A time in lists: of the day if it is today, else with the date.
pub(crate) fn short_time(time: Option<prost_types::Timestamp>, look: &Look) -> String {
    let Some(time) = timestamp(time) else { return String::new() };
    let (time, now) = (time.to_zoned_datetime(look.zone.clone()), look.now.to_zoned_datetime(look.zone.clone()));
    if time.date() == now.date() { time.strftime("%H:%M:%S").to_string() } else { time.strftime("%Y-%m-%d %H:%M").to_string() }
}

/// A time with everything.
pub(crate) fn full_time(time: Option<prost_types::Timestamp>, look: &Look) -> String {
    let Some(time) = timestamp(time) else { return String::new() };
    let time = time.to_zoned_datetime(look.zone.clone());
    time.strftime("%Y-%m-%d %H:%M:%S %:z").to_string()
}

/// A time in streams: to the millisecond, with the date if it is not today.
pub(crate) fn stream_time(time: Option<prost_types::Timestamp>, look: &Look) -> String {
    let Some(time) = timestamp(time) else { return "-".into() };
    let (shown, now) = (time.to_zoned_datetime(look.zone.clone()), Timestamp::now().to_zoned_datetime(look.zone.clone()));
    let format = if shown.date() == now.date() { "%H:%M:%S%.3f" } else { "%Y-%m-%d %H:%M:%S%.3f" };
    shown.strftime(format).to_string()
}

/// `42s`, `3m 05s`, `1h 02m`, `2d 03h`.
pub(crate) fn seconds(seconds: i64) -> String {
    match seconds.max(0) {
        s @ 0..60 => format!("{s}s"),
        s @ 60..3600 => format!("{}m {:02}s", s / 60, s % 60),
        s @ 3600..86_400 => format!("{}h {:02}m", s / 3600, s % 3600 / 60),
        s => format!("{}d {:02}h", s / 86_400, s % 86_400 / 3600),
    }
}

/// A duration for people.
pub(crate) fn duration(duration: Option<prost_types::Duration>) -> String {
    duration.map(|duration| seconds(duration.seconds)).unwrap_or_default()
}

/// How long ago it was.
pub(crate) fn since(time: Option<prost_types::Timestamp>, look: &Look) -> String {
    timestamp(time).map(|time| seconds(look.now.duration_since(time).as_secs())).unwrap_or_default()
}

/// Names and values under each other.
pub(crate) fn facts(pairs: &[(&str, String)]) -> Vec<String> {
    let filled: Vec<_> = pairs.iter().filter(|(_, value)| !value.is_empty()).collect();
    let width = filled.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    filled.iter().map(|(name, value)| format!("{name:<width$}  {}", clean(value))).collect()
}

/// What is said about where a state comes from.
pub(crate) fn marks(reconstructed: bool, polled: bool) -> &'static str {
    match (reconstructed, polled) {
        (false, false) => "",
        (true, false) => "reconstructed",
        (false, true) => "polled",
        (true, true) => "reconstructed, polled",
    }
}

/// The time that planned ends are shown relative to.
pub(crate) fn left(time: Option<prost_types::Timestamp>, look: &Look) -> String {
    timestamp(time).map(|time| seconds(time.duration_since(look.now).as_secs())).unwrap_or_default()
}

/// Longest that a stale `now` is used by a stream that goes on.
pub(crate) fn refresh(look: &mut Look) {
    let now = Timestamp::now();
    if look.now.checked_add(1.second()).is_ok_and(|later| now >= later) {
        look.now = now;
    }
}

#[cfg(test)]
pub(crate) fn test_look(width: Option<u16>) -> Look {
    Look { colour: false, wide: false, width, zone: jiff::tz::TimeZone::UTC, now: Timestamp::new(1_800_000_000, 0).unwrap() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_as_people_say_them() {
        let said: Vec<String> = [0, 42, 185, 3725, 183_600].into_iter().map(seconds).collect();
        assert_eq!(said, ["0s", "42s", "3m 05s", "1h 02m", "2d 03h"]);
    }

    #[test]
    fn a_table_drops_empty_columns_and_then_the_least_needed_ones() {
        let mut grid = Grid::new(&[("ID", 0), ("NOTE", 2), ("STATE", 0), ("COUNT>", 1)]);
        grid.row(vec!["1".into(), "".into(), "up".into(), "7".into()]);
        assert_eq!(grid.lines(&test_look(None)), ["ID  STATE  COUNT", "1   up         7"]);
        grid.row(vec!["2".into(), "a long note".into(), "down".into(), "12".into()]);
        assert_eq!(grid.lines(&test_look(Some(20))), ["ID  STATE  COUNT", "1   up         7", "2   down      12"]);
        assert_eq!(grid.lines(&test_look(Some(40))).len(), 3);
    }

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        assert_eq!(clean("Ann\x1b[2J\u{202e}\r\n"), "Ann\u{fffd}[2J\u{fffd}\u{fffd}\u{fffd}");
    }
}
