//! From commands to request trees, and from answer and event trees to results and observations, all by the dialect's shapes and
//! words (ecss10-interfaces §2: the schemas of `service/call` and `service/teleconference` are not public).

mod answer;
mod event;
mod record;
mod request;
mod time;

pub use answer::{Answer, Outcome, read_answer, read_call_list, read_call_outcome, read_conference_outcome, read_outcome};
pub use event::{EventReading, EventTable};
pub use request::{ShapeFields, list_fields, login_tree, name_in_frame, request_tree, shape_fields};
