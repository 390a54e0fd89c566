//! Everything spoken to an ECSS-10 switch: the HTTP terminal of the mediator, the Call API and CSTA, behind one vocabulary. Each
//! protocol is a crate of its own; this one is the name by which the agent uses them.

pub use ecss_call_api as call_api;
pub use ecss_csta as csta;
pub use ecss_switch as switch;
pub use ecss_terminal as terminal;
