//! What is sent: a command's facts as dialect fields, and the request tree `<in><request a="…"/></in>` made of them.

use std::{borrow::Cow, collections::BTreeMap};

use ecss_switch::{
    CallCommand, ConferenceCommand, Dialect, Domain, Operation,
    command::{LegRef, MemberRef},
    dialect::{CallApiDialect, CommandShape, Field},
};

use crate::tree::Element;

/// A command that the dialect can put in its own words.
pub trait ShapeFields {
    /// The dialect's key for it.
    fn operation(&self) -> Operation;
    /// Its facts. Which of them are sent, and under which names, is the `CommandShape`'s choice.
    fn fields(&self, dialect: &Dialect) -> BTreeMap<Field, String>;
}

/// The facts of a command, its domain included, for a route of any kind: an operation whose shape's service is `terminal` is sent
/// there with these.
pub fn shape_fields<C: ShapeFields>(command: &C, domain: &Domain, dialect: &Dialect) -> BTreeMap<Field, String> {
    let mut fields = command.fields(dialect);
    fields.insert(Field::Domain, domain.to_string());
    fields
}

/// The facts of an operation that lists a domain.
pub fn list_fields(domain: &Domain) -> BTreeMap<Field, String> {
    BTreeMap::from([(Field::Domain, domain.to_string())])
}

/// The request tree of a command: fixed attributes, then those of the fields it has.
pub fn request_tree<'a>(shape: &'a CommandShape, fields: &'a BTreeMap<Field, String>) -> Element<'a> {
    let mut request = Element::new("request");
    for (name, value) in &shape.fixed {
        request = request.attribute(name.as_str(), value.as_str());
    }
    for (field, name) in &shape.fields {
        if let Some(value) = fields.get(field) {
            request.attributes.retain(|(fixed, _)| fixed != name);
            request = request.attribute(name.as_str(), value.as_str());
        }
    }
    Element::new("in").child(request)
}

/// The login's request tree.
pub fn login_tree<'a>(dialect: &'a CallApiDialect, login: &str, password: &str) -> Element<'a> {
    let mut request = Element::new("request");
    for (name, value) in &dialect.login_attributes {
        let value: Cow<'a, str> = match value.as_str() {
            "{login}" => login.to_owned().into(),
            "{password}" => password.to_owned().into(),
            fixed => fixed.into(),
        };
        request = request.attribute(name.as_str(), value);
    }
    Element::new("in").child(request)
}

/// A name as it stands in a frame's name field.
pub fn name_in_frame(dialect: &CallApiDialect, service: &str, name: &str) -> String {
    let mut field = dialect.name_prefix.replace("{service}", service);
    field.push_str(name);
    field
}

// === impl ShapeFields ===

impl ShapeFields for CallCommand {
    fn operation(&self) -> Operation {
        self.operation()
    }

    fn fields(&self, _: &Dialect) -> BTreeMap<Field, String> {
        let leg = |leg: &LegRef| BTreeMap::from([(Field::Call, leg.call.to_string()), (Field::Leg, leg.leg.to_string())]);
        let with = |mut fields: BTreeMap<Field, String>, field: Field, value: String| {
            fields.insert(field, value);
            fields
        };
        let two = |held: &LegRef, active: &LegRef| {
            let fields = with(leg(held), Field::OtherCall, active.call.to_string());
            with(fields, Field::OtherLeg, active.leg.to_string())
        };
        match self {
            Self::Make { from, to } => {
                BTreeMap::from([(Field::From, from.to_string()), (Field::To, to.to_string()), (Field::Device, from.to_string())])
            }
            Self::Answer(at) | Self::Reject(at) | Self::ReleaseLeg(at) | Self::Hold(at) | Self::Retrieve(at) => leg(at),
            Self::ReleaseCall(call) => BTreeMap::from([(Field::Call, call.to_string())]),
            Self::TransferBlind { leg: at, to } | Self::Consult { leg: at, to } | Self::Deflect { leg: at, to } => {
                with(leg(at), Field::To, to.to_string())
            }
            Self::TransferComplete { held, active } | Self::TransferCancel { held, active } | Self::Join { held, active } => {
                two(held, active)
            }
            Self::Dtmf { leg: at, digits } => with(leg(at), Field::Digits, digits.clone()),
        }
    }
}

impl ShapeFields for ConferenceCommand {
    fn operation(&self) -> Operation {
        self.operation()
    }

    fn fields(&self, dialect: &Dialect) -> BTreeMap<Field, String> {
        let mut fields = BTreeMap::new();
        let mut set = |field: Field, value: String| drop(fields.insert(field, value));
        let member = |set: &mut dyn FnMut(Field, String), of: &MemberRef| {
            set(Field::Conference, of.conference.to_string());
            set(Field::Participant, of.participant.to_string());
        };
        match self {
            Self::Create(request) => {
                let separator = &dialect.call_api.list_separator;
                let texts = [
                    (Field::Name, request.name.clone()),
                    (Field::Initiator, request.initiator.as_ref().map(ToString::to_string)),
                    (Field::Room, request.room.clone()),
                    (Field::Template, request.template.clone()),
                    (Field::Groups, (!request.groups.is_empty()).then(|| request.groups.join(separator))),
                    (Field::Members, (!request.members.is_empty()).then(|| joined(&request.members, separator))),
                    (Field::Limit, (request.max_participants > 0).then(|| request.max_participants.to_string())),
                ];
                texts.into_iter().for_each(|(field, value)| value.into_iter().for_each(|value| set(field, value)));
            }
            Self::Invite { conference, number, role } => {
                set(Field::Conference, conference.to_string());
                set(Field::To, number.to_string());
                set(Field::Number, number.to_string());
                set(Field::Role, dialect.words.role_word(*role).to_owned());
            }
            Self::CancelInvitation(of)
            | Self::Remove(of)
            | Self::Mute(of)
            | Self::Unmute(of)
            | Self::AskToUnmute(of)
            | Self::GrantFloor(of)
            | Self::DenyFloor(of)
            | Self::Hold(of)
            | Self::Retrieve(of) => member(&mut set, of),
            Self::MuteAll { conference, may_unmute_themselves } => {
                set(Field::Conference, conference.to_string());
                set(Field::MayUnmute, dialect.words.boolean_word(*may_unmute_themselves).to_owned());
            }
            Self::SetRole { member: of, role } => {
                member(&mut set, of);
                set(Field::Role, dialect.words.role_word(*role).to_owned());
            }
            Self::Move { member: of, to } => {
                member(&mut set, of);
                set(Field::OtherConference, to.to_string());
            }
            Self::Lock(conference)
            | Self::Unlock(conference)
            | Self::StartRecording(conference)
            | Self::PauseRecording(conference)
            | Self::ResumeRecording(conference)
            | Self::StopRecording(conference)
            | Self::End(conference) => set(Field::Conference, conference.to_string()),
            Self::Extend { conference, seconds } => {
                set(Field::Conference, conference.to_string());
                set(Field::Seconds, seconds.to_string());
            }
        }
        fields
    }
}

fn joined<T: AsRef<str>>(members: &[T], separator: &str) -> String {
    members.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(separator)
}

#[cfg(test)]
mod tests {
    use ecss_switch::{
        Alias, SwitchCallId, SwitchConferenceId, SwitchLegId, SwitchParticipantId,
        command::{ConferenceRequest, Role},
    };

    use super::*;
    use crate::tree::to_json;

    fn leg(call: &str, leg: &str) -> LegRef {
        LegRef { call: SwitchCallId::parse(call).unwrap(), leg: SwitchLegId::parse(leg).unwrap() }
    }

    fn json<C: ShapeFields>(command: &C, dialect: &Dialect) -> String {
        let fields = shape_fields(command, &Domain::parse("biysk.local").unwrap(), dialect);
        to_json(&[request_tree(&dialect.operations[&command.operation()], &fields)])
    }

    #[test]
    fn a_command_is_written_with_the_dialects_names_words_and_separator() {
        let mut dialect = Dialect::built_in("sim").unwrap();
        let transfer = CallCommand::TransferComplete { held: leg("c1", "l1"), active: leg("c2", "l2") };
        let expected = r#"[{"_name":"in","_content":[{"_name":"request","_attributes":{"held_call":"c1","held_leg":"l1","active_call":"c2","active_leg":"l2"}}]}]"#;
        assert_eq!(json(&transfer, &dialect), expected);

        dialect.call_api.list_separator = ";".into();
        dialect.words.boolean.insert("false".into(), vec!["nein".into()]);
        let alias = |text| Alias::parse(text).unwrap();
        let create = ConferenceCommand::Create(ConferenceRequest { members: vec![alias("1"), alias("2")], ..Default::default() });
        assert_eq!(json(&create, &dialect), r#"[{"_name":"in","_content":[{"_name":"request","_attributes":{"numbers":"1;2"}}]}]"#);
        let conference = SwitchConferenceId::parse("77").unwrap();
        let mute = ConferenceCommand::MuteAll { conference: conference.clone(), may_unmute_themselves: false };
        assert!(json(&mute, &dialect).contains(r#""self_unmute":"nein""#));
        let member = MemberRef { conference, participant: SwitchParticipantId::parse("5").unwrap() };
        assert!(json(&ConferenceCommand::SetRole { member, role: Role::Presenter }, &dialect).contains(r#""role":"presenter""#));
    }

    #[test]
    fn fixed_attributes_are_sent_and_give_way_to_fields() {
        let mut dialect = Dialect::built_in("sim").unwrap();
        let shape = dialect.operations.get_mut(&Operation::CallHold).unwrap();
        shape.fixed = BTreeMap::from([("mode".into(), "x".into()), ("leg_id".into(), "fixed".into())]);
        assert_eq!(
            json(&CallCommand::Hold(leg("c", "l")), &dialect),
            r#"[{"_name":"in","_content":[{"_name":"request","_attributes":{"mode":"x","call_id":"c","leg_id":"l"}}]}]"#
        );
    }
}
