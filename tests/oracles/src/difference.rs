//! Two JSON documents, field by field.

use std::collections::BTreeSet;

use serde_json::Value;

/// One field that two documents do not have alike, or something that two say different words about. `None`: it is not there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// Names from the outside to the inside, with dots between.
    pub field: String,
    /// Its value in our document as compact JSON, or our word.
    pub ours: Option<String>,
    /// Its value in the oracle's.
    pub theirs: Option<String>,
}

// === impl Difference ===

impl Difference {
    /// All differences of two documents. Objects are looked into, also where only one of the two has them; everything else is compared as
    /// a whole. The order of members is none of JSON's business.
    pub fn between(ours: &Value, theirs: &Value) -> Vec<Self> {
        let mut found = Vec::new();
        compare("", Some(ours), Some(theirs), &mut found);
        found
    }

    /// The one difference of two words about something, if they differ.
    pub fn of_words(about: &str, ours: &str, theirs: &str) -> Vec<Self> {
        let differ = ours != theirs;
        let found = differ.then(|| Self { field: about.to_owned(), ours: Some(ours.to_owned()), theirs: Some(theirs.to_owned()) });
        found.into_iter().collect()
    }
}

fn compare(field: &str, ours: Option<&Value>, theirs: Option<&Value>, found: &mut Vec<Difference>) {
    if ours == theirs {
        return;
    }
    let members = match (ours, theirs) {
        (Some(Value::Object(ours)), Some(Value::Object(theirs))) => ours.keys().chain(theirs.keys()).collect(),
        (Some(Value::Object(only)), None) | (None, Some(Value::Object(only))) => only.keys().collect(),
        _ => BTreeSet::new(),
    };
    if members.is_empty() {
        found.push(Difference { field: field.to_owned(), ours: ours.map(Value::to_string), theirs: theirs.map(Value::to_string) });
    }
    for name in members {
        let path = if field.is_empty() { name.clone() } else { format!("{field}.{name}") };
        let member = |document: Option<&Value>| document.and_then(|it| it.get(name)).cloned();
        compare(&path, member(ours).as_ref(), member(theirs).as_ref(), found);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn difference(field: &str, ours: Option<&str>, theirs: Option<&str>) -> Difference {
        Difference { field: field.to_owned(), ours: ours.map(str::to_owned), theirs: theirs.map(str::to_owned) }
    }

    #[test]
    fn documents_that_say_the_same_in_another_order_do_not_differ() {
        let [one, other] = [r#"{"a":{"b":1,"c":[1,2]},"d":null}"#, r#"{"d":null,"a":{"c":[1,2],"b":1}}"#];
        let read = |text| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(Difference::between(&read(one), &read(other)), []);
    }

    #[test]
    fn a_missing_an_additional_and_another_value_are_told_by_their_path() {
        let ours = json!({"a": {"same": 1, "ours": {"deep": true}, "other": "x", "list": [1]}});
        let theirs = json!({"a": {"same": 1, "other": 5, "list": [1, 2], "null": null}});
        let wanted = [
            difference("a.list", Some("[1]"), Some("[1,2]")),
            difference("a.null", None, Some("null")),
            difference("a.other", Some("\"x\""), Some("5")),
            difference("a.ours.deep", Some("true"), None),
        ];
        assert_eq!(Difference::between(&ours, &theirs), wanted);
    }

    #[test]
    fn null_an_empty_object_and_a_text_in_place_of_an_object_are_differences() {
        let found = Difference::between(&json!({"a": {}, "b": {"c": 1}}), &json!({"b": "c", "d": {}}));
        let wanted =
            [difference("a", Some("{}"), None), difference("b", Some("{\"c\":1}"), Some("\"c\"")), difference("d", None, Some("{}"))];
        assert_eq!(found, wanted);
    }
}
