//! Fields marked `(elph.options.v1.sensitive)`: the only way a message gets into a log is [`loggable`], which shortens them.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Value};

static POOL: LazyLock<Option<DescriptorPool>> = LazyLock::new(|| DescriptorPool::decode(crate::DESCRIPTORS).ok());

/// A text with its end only, so that a number can be recognised by who knows it: `*42` for 1042, `*` for short ones.
pub fn shortened(text: &str) -> String {
    let count = text.chars().count();
    let shown = if count > 3 { 2 } else { 0 };
    std::iter::once('*').chain(text.chars().skip(count - shown)).collect()
}

fn is_sensitive(field: &FieldDescriptor) -> bool {
    let Some(extension) = POOL.as_ref().and_then(|pool| pool.get_extension_by_name("elph.options.v1.sensitive")) else { return true };
    field.options().get_extension(&extension).as_bool().unwrap_or(true)
}

fn mask(message: &mut DynamicMessage) {
    let fields: Vec<FieldDescriptor> = message.fields().map(|(field, _)| field).collect();
    for field in fields {
        let sensitive = is_sensitive(&field);
        mask_value(message.get_field_mut(&field), sensitive);
    }
}

fn mask_value(value: &mut Value, sensitive: bool) {
    match value {
        Value::String(text) if sensitive => *text = shortened(text),
        Value::Bytes(bytes) if sensitive => *bytes = b"*".as_slice().into(),
        Value::Message(message) => mask(message),
        Value::List(values) => values.iter_mut().for_each(|value| mask_value(value, sensitive)),
        Value::Map(values) => values.values_mut().for_each(|value| mask_value(value, sensitive)),
        _ => {}
    }
}

/// The message as text with every sensitive field shortened. `name` is its full protobuf name.
pub fn loggable(name: &str, message: &impl Message) -> String {
    let described = POOL.as_ref().and_then(|pool| pool.get_message_by_name(name));
    let decoded = described.and_then(|descriptor| DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()).ok());
    let Some(mut message) = decoded else { return format!("{name} {{…}}") };
    mask(&mut message);
    message.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1;

    #[test]
    fn a_logged_message_shows_no_number_and_no_password() {
        let request = v1::AuthenticateSubscriberRequest { domain: "biysk.local".into(), login: "1042".into(), password: "secret".into() };
        let text = loggable("elph.agent.v1.AuthenticateSubscriberRequest", &request);
        assert!(text.contains("biysk.local") && text.contains("*42") && !text.contains("1042") && !text.contains("secret"), "{text}");
        let nested = v1::ListCallsResponse {
            calls: vec![v1::Call { legs: vec![v1::Leg { device: "100200".into(), ..Default::default() }], ..Default::default() }],
            ..Default::default()
        };
        assert!(!loggable("elph.agent.v1.ListCallsResponse", &nested).contains("100200"));
    }

    #[test]
    fn every_field_that_holds_a_number_a_name_or_a_secret_is_marked() {
        let pool = POOL.as_ref().unwrap();
        let personal = [
            "number",
            "numbers",
            "alias",
            "from_alias",
            "login",
            "password",
            "device",
            "display_name",
            "digits",
            "aliases",
            "pn_prid",
            "auth",
            "title",
            "body",
            "label",
        ];
        for message in pool.all_messages().filter(|message| message.full_name().starts_with("elph.")) {
            for field in message.fields().filter(|field| personal.contains(&field.name()) || field.name().ends_with("_number")) {
                // A message that is named after what it is about has marks of its own.
                if matches!(field.kind(), prost_reflect::Kind::Message(_)) {
                    continue;
                }
                assert!(is_sensitive(&field), "{} is not marked sensitive", field.full_name());
            }
        }
    }
}
