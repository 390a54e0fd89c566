//! What the switch did, as the Call API's events in the dialect's shapes: each is a tree with one or more records.

use ssw_core::{Cause, ConferenceView, CoreEvent, EventKind, LegView, Merge, ParticipantView};

use crate::{call_api::tree::Tree, dialect::SimDialect, operations::to_wire};

/// Most records that are joined in one event.
const MOST_RECORDS: usize = 8;

/// Canonical fields of one record.
type Fields = Vec<(&'static str, String)>;

/// The events that `event` becomes, in order. A kind that the dialect does not name is left out.
pub(super) fn trees(dialect: &SimDialect, event: &CoreEvent) -> Vec<Tree> {
    let at = || ("at", dialect.api_time(event.at));
    match &event.kind {
        EventKind::Call(call) => build(dialect, "leg", vec![leg(dialect, &call.leg, call.cause, at())]),
        EventKind::Merged(merge) => {
            let mut trees = build(dialect, "merged", vec![merged(dialect, merge, at())]);
            // The event itself does not say who is in the resulting call.
            let legs = merge.legs.iter().map(|view| leg(dialect, view, None, at())).collect();
            trees.extend(build(dialect, "leg", legs));
            trees
        }
        EventKind::CallReleased { call, cause } => {
            build(dialect, "call_released", vec![vec![("call", call.clone()), ("cause", cause_word(dialect, *cause)), at()]])
        }
        EventKind::Conference(view) => build(dialect, "conference", vec![conference(dialect, view, at())]),
        EventKind::ConferenceEnded { conference, .. } => {
            build(dialect, "conference_ended", vec![vec![("conference", conference.clone()), at()]])
        }
        EventKind::Participant(view) => build(dialect, "participant", vec![participant(dialect, view, at())]),
        EventKind::ParticipantLeft(view) => {
            let cause = cause_word(dialect, view.cause.unwrap_or(Cause::Normal));
            let fields = vec![("conference", view.conference.clone()), ("participant", view.id.clone()), ("cause", cause), at()];
            build(dialect, "participant_left", vec![fields])
        }
        EventKind::Digits { .. } | EventKind::Restarted { .. } => Vec::new(),
    }
}

/// Joins records of neighbouring events of the same name, as some switches do.
pub(super) fn join(trees: Vec<Tree>) -> Vec<Tree> {
    let mut joined: Vec<Tree> = Vec::with_capacity(trees.len());
    for tree in trees {
        match joined.last_mut() {
            Some(last) if last.name == tree.name && last.content.len() + tree.content.len() <= MOST_RECORDS => {
                last.content.extend(tree.content);
            }
            _ => joined.push(tree),
        }
    }
    joined
}

fn build(dialect: &SimDialect, kind: &str, records: Vec<Fields>) -> Vec<Tree> {
    let Some(shape) = dialect.events.get(kind).filter(|_| !records.is_empty()) else { return Vec::new() };
    let records = records.iter().map(|fields| Tree { attributes: to_wire(&shape.fields, fields), ..Tree::new(shape.record.as_str()) });
    vec![Tree { content: records.collect(), ..Tree::new(shape.name.as_str()) }]
}

fn cause_word(dialect: &SimDialect, cause: Cause) -> String {
    dialect.word("cause", cause.word()).to_owned()
}

fn leg(dialect: &SimDialect, leg: &LegView, cause: Option<Cause>, at: (&'static str, String)) -> Fields {
    let mut fields = vec![
        ("call", leg.call.clone()),
        ("leg", leg.id.clone()),
        ("device", leg.device.clone()),
        ("direction", dialect.word("direction", leg.direction.word()).to_owned()),
        ("leg_state", dialect.word("leg_state", leg.state.word()).to_owned()),
        at,
    ];
    if !leg.remote.is_empty() {
        fields.push(("remote", leg.remote.clone()));
    }
    fields.extend(leg.answered_at.map(|at| ("answered_at", dialect.api_time(at))));
    fields.extend(cause.or(leg.cause).map(|cause| ("cause", cause_word(dialect, cause))));
    fields
}

fn merged(dialect: &SimDialect, merge: &Merge, at: (&'static str, String)) -> Fields {
    let mut fields =
        vec![("call", merge.primary.clone()), ("into_call", merge.into.clone()), ("cause", cause_word(dialect, merge.cause)), at];
    fields.extend(merge.secondary.clone().map(|secondary| ("other_call", secondary)));
    if merge.cause != Cause::Conference {
        fields.push(("device", merge.device.clone()));
    }
    fields
}

fn conference(dialect: &SimDialect, view: &ConferenceView, at: (&'static str, String)) -> Fields {
    let mut fields = vec![
        ("conference", view.id.clone()),
        ("name", view.name.clone()),
        ("started_at", dialect.api_time(view.started_at)),
        ("limit", view.limit.to_string()),
        ("locked", dialect.boolean(view.locked).to_owned()),
        ("recording", dialect.word("recording", view.recording.word()).to_owned()),
        ("may_unmute", dialect.boolean(view.may_unmute).to_owned()),
        at,
    ];
    if !view.room.is_empty() {
        fields.push(("room", view.room.clone()));
    }
    fields.extend(view.ends_at.map(|at| ("ends_at", dialect.api_time(at))));
    fields
}

fn participant(dialect: &SimDialect, view: &ParticipantView, at: (&'static str, String)) -> Fields {
    let mut fields = vec![
        ("conference", view.conference.clone()),
        ("participant", view.id.clone()),
        ("number", view.number.clone()),
        ("name", view.name.clone()),
        ("role", dialect.word("role", view.role.word()).to_owned()),
        ("status", dialect.word("participant_status", view.status.word()).to_owned()),
        ("voice", dialect.boolean(view.voice).to_owned()),
        ("floor", dialect.boolean(view.floor).to_owned()),
        ("talking", dialect.boolean(view.talking).to_owned()),
        at,
    ];
    fields.extend(view.cause.map(|cause| ("cause", cause_word(dialect, cause))));
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_records_of_one_name_are_joined_up_to_a_bound() {
        let tree = |name: &str| Tree::new(name).with(Tree::new("record"));
        let trees = [vec![tree("a"); 10], vec![tree("b"), tree("a")]].concat();
        let joined = join(trees);
        let counts: Vec<_> = joined.iter().map(|tree| (tree.name.as_str(), tree.content.len())).collect();
        assert_eq!(counts, [("a", 8), ("a", 2), ("b", 1), ("a", 1)]);
    }

    #[test]
    fn a_released_call_is_one_record_in_the_dialects_names() {
        let dialect = SimDialect::from_seed(0);
        let event = CoreEvent {
            seq: 1,
            at: jiff::Timestamp::UNIX_EPOCH,
            domain: "d".into(),
            kind: EventKind::CallReleased { call: "c1".into(), cause: Cause::CallerGaveUp },
        };
        let [tree] = &trees(&dialect, &event)[..] else { panic!("one event") };
        let json = tree.to_json();
        let expected = concat!(
            r#"[{"_name":"call_ended_event","_content":[{"_name":"call","_attributes":"#,
            r#"{"call_id":"c1","cause":"cancelled","time":"1970/01/01 03:00:00"}}]}]"#
        );
        assert_eq!(json, expected);
    }
}
