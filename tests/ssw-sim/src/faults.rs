//! Faults that the control API injects, per link and node.
//!
//! A server asks three things: `accepts` before it takes a connection, `gate` to learn that a connection is cut or frozen, and for
//! each message that it writes `on_write`, which answers with the writes to do instead. Commands ask `on_command`.

use std::{collections::BTreeMap, future::pending, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Link {
    /// HTTP terminal.
    Terminal,
    /// Call API.
    CallApi,
    /// CSTA.
    Csta,
}

impl Link {
    /// Every link.
    pub const ALL: [Self; 3] = [Self::Terminal, Self::CallApi, Self::Csta];
}

/// What is done to the next messages that the switch writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageFault {
    /// Written twice.
    Duplicate,
    /// Written after the next one (alone if no other comes within 200 ms).
    Reorder,
    /// Half of it is written, then the connection is cut.
    Truncate,
    /// Bytes that mean nothing are written in its place.
    Garbage,
    /// A message far beyond any sensible size is written before it.
    Oversize,
    /// Its pad characters are the wrong ones (Call API) or its length is wrong (CSTA); other links: as garbage.
    WrongPad,
}

/// What becomes of one message. `Write` lists the messages to write in order; `CutAfter`: write these bytes raw (they are half a
/// message), then cut the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// As it is.
    Pass,
    /// Twice.
    Duplicate,
    /// Keep it and write it after the next one.
    HoldBack,
    /// Write the first half of its bytes, then cut.
    Truncate,
    /// Write garbage instead.
    Garbage,
    /// Write an oversized message before it.
    Oversize,
    /// Damage its padding or length.
    WrongPad,
}

/// When the link is cut around a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CutPoint {
    /// Before the command is carried out.
    Before,
    /// After it is carried out, in the middle of its answer.
    During,
    /// After it is carried out, before its answer.
    After,
    /// It is carried out and never answered; the link stays.
    Never,
}

/// What becomes of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandFault {
    /// Nothing: carry it out and answer.
    None,
    /// Do not carry it out; refuse it inside a success status (terminal, HTTP: 200; CSTA: an error as usual).
    RefuseIn200,
    /// Carry it out as the point says and treat the answer so.
    Cut(CutPoint),
}

/// The state of a link as every connection sees it.
#[derive(Debug, Clone, Default)]
struct LinkState {
    half_open: bool,
    delay: Duration,
    messages: Vec<(MessageFault, u32)>,
}

#[derive(Default)]
struct State {
    links: BTreeMap<(Link, usize), LinkState>,
    down: BTreeMap<usize, bool>,
    refuse: BTreeMap<String, u32>,
    swallow: BTreeMap<String, (CutPoint, u32)>,
}

struct Inner {
    state: Mutex<State>,
    /// Counts changes, so that frozen connections look again.
    changed: watch::Sender<u64>,
    /// One token per link and node; cancelled and replaced by a drop.
    cuts: Mutex<BTreeMap<(Link, usize), CancellationToken>>,
}

/// The faults in force. Cheap to clone.
#[derive(Clone)]
pub struct Faults(Arc<Inner>);

impl Default for Faults {
    fn default() -> Self {
        Self(Arc::new(Inner { state: Mutex::default(), changed: watch::channel(0).0, cuts: Mutex::default() }))
    }
}

// === For servers ===

impl Faults {
    /// Whether the node takes connections. A server of a node that is down closes what it accepts at once.
    pub fn accepts(&self, node: usize) -> bool {
        !self.0.state.lock().down.get(&node).copied().unwrap_or(false)
    }

    /// The token that is cancelled when the connections of this link must be cut. Take it when a connection is accepted.
    pub fn cut_token(&self, link: Link, node: usize) -> CancellationToken {
        self.0.cuts.lock().entry((link, node)).or_default().clone()
    }

    /// Waits as long as the link is half open (reads and writes nothing), then for its delay. Call it before each read's processing
    /// and before each write.
    pub async fn gate(&self, link: Link, node: usize) {
        let mut changed = self.0.changed.subscribe();
        loop {
            let state = self.0.state.lock().links.get(&(link, node)).map(|state| (state.half_open, state.delay));
            match state {
                Some((true, _)) => {
                    if changed.changed().await.is_err() {
                        pending::<()>().await;
                    }
                }
                Some((false, delay)) if !delay.is_zero() => return tokio::time::sleep(delay).await,
                _ => return,
            }
        }
    }

    /// Whether the link is half open now.
    pub fn is_half_open(&self, link: Link, node: usize) -> bool {
        self.0.state.lock().links.get(&(link, node)).is_some_and(|state| state.half_open)
    }

    /// What becomes of the next message that the switch writes on this link. Counts it.
    pub fn on_write(&self, link: Link, node: usize) -> Action {
        let mut state = self.0.state.lock();
        let Some(link) = state.links.get_mut(&(link, node)) else { return Action::Pass };
        let Some((fault, left)) = link.messages.first_mut() else { return Action::Pass };
        let fault = *fault;
        *left = left.saturating_sub(1);
        if *left == 0 {
            link.messages.remove(0);
        }
        match fault {
            MessageFault::Duplicate => Action::Duplicate,
            MessageFault::Reorder => Action::HoldBack,
            MessageFault::Truncate => Action::Truncate,
            MessageFault::Garbage => Action::Garbage,
            MessageFault::Oversize => Action::Oversize,
            MessageFault::WrongPad => Action::WrongPad,
        }
    }

    /// What becomes of the next command of this name (the switch's name; CSTA: the request's local name). Counts it. `*` stands for
    /// every name.
    pub fn on_command(&self, name: &str) -> CommandFault {
        let mut state = self.0.state.lock();
        for key in [name, "*"] {
            if let Some(left) = state.refuse.get_mut(key) {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    state.refuse.remove(key);
                }
                return CommandFault::RefuseIn200;
            }
            if let Some((point, left)) = state.swallow.get_mut(key) {
                let point = *point;
                *left = left.saturating_sub(1);
                if *left == 0 {
                    state.swallow.remove(key);
                }
                return CommandFault::Cut(point);
            }
        }
        CommandFault::None
    }
}

// === For those who inject ===

impl Faults {
    fn change(&self, act: impl FnOnce(&mut State)) {
        act(&mut self.0.state.lock());
        self.0.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Cuts every connection of the link now.
    pub fn drop_now(&self, link: Link, node: usize) {
        let old = self.0.cuts.lock().insert((link, node), CancellationToken::new());
        if let Some(token) = old {
            token.cancel();
        }
    }

    /// Freezes (or thaws) the link: sockets stay, nothing is read or written.
    pub fn set_half_open(&self, link: Link, node: usize, half_open: bool) {
        self.change(|state| state.links.entry((link, node)).or_default().half_open = half_open);
    }

    /// Delays each message.
    pub fn set_delay(&self, link: Link, node: usize, delay: Duration) {
        self.change(|state| state.links.entry((link, node)).or_default().delay = delay);
    }

    /// Damages the next `count` messages.
    pub fn next_messages(&self, link: Link, node: usize, fault: MessageFault, count: u32) {
        if count > 0 {
            self.change(|state| state.links.entry((link, node)).or_default().messages.push((fault, count)));
        }
    }

    /// Refuses the next `count` commands of a name inside a success answer.
    pub fn refuse_in_200(&self, name: &str, count: u32) {
        self.change(|state| match count {
            0 => drop(state.refuse.remove(name)),
            _ => drop(state.refuse.insert(name.to_owned(), count)),
        });
    }

    /// Cuts around the next `count` commands of a name.
    pub fn swallow_answer(&self, name: &str, point: CutPoint, count: u32) {
        self.change(|state| match count {
            0 => drop(state.swallow.remove(name)),
            _ => drop(state.swallow.insert(name.to_owned(), (point, count))),
        });
    }

    /// Takes a node down (its connections are cut, new ones are closed) or up.
    pub fn set_node(&self, node: usize, up: bool) {
        self.change(|state| {
            state.down.insert(node, !up);
        });
        if !up {
            for link in Link::ALL {
                self.drop_now(link, node);
            }
        }
    }

    /// Ends every fault. Connections that were cut stay cut.
    pub fn clear(&self) {
        self.change(|state| *state = State::default());
    }
}
