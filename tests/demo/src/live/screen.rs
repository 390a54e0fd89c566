//! Where the demo's news goes: two lines kept up to date on a terminal, a line per piece of news elsewhere, objects for programs.

use std::io::{IsTerminal, Write};

use serde_json::json;

use crate::report::line;

/// Widest line, so that it never wraps on a terminal of 80 columns.
const WIDTH: usize = 79;

pub(super) struct Screen {
    json: bool,
    terminal: bool,
    /// The latest news.
    latest: String,
    /// Whether the two lines are on the screen.
    drawn: bool,
}

impl Screen {
    pub(super) fn new(json: bool) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self { json, terminal: !json && !dumb && std::io::stdout().is_terminal(), latest: String::new(), drawn: false }
    }

    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// Shows how things are now, and the news if there is any.
    pub(super) fn show(&mut self, now: &str, news: Option<&str>) {
        let stamped = news.map(|news| format!("{}  {news}", jiff::ZonedDateTime::now().strftime("%H:%M:%S")));
        if !self.terminal {
            match (news, stamped) {
                (Some(news), _) if self.json => line(&json!({ "event": news, "now": now }).to_string()),
                (_, Some(stamped)) => line(&stamped),
                _ => {}
            }
            return;
        }
        if let Some(stamped) = stamped {
            self.latest = stamped;
        }
        let back = if self.drawn { "\x1b[2A" } else { "" };
        let mut out = std::io::stdout().lock();
        // A closed output is noticed by nobody.
        let _ = write!(out, "{back}\r\x1b[J{}\n{}\n", cut(now), cut(&self.latest));
        let _ = out.flush();
        self.drawn = true;
    }

    /// Leaves the terminal's `^C` on a line of its own.
    pub(super) fn close(&self) {
        if self.terminal {
            line("");
        }
    }
}

fn cut(text: &str) -> String {
    if text.chars().count() <= WIDTH {
        return text.to_owned();
    }
    text.chars().take(WIDTH - 1).chain(['…']).collect()
}
