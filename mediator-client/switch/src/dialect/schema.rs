//! The JSON schema of dialect files and overrides, committed beside them for editors that know JSON schemas (`dialects/README.md`).

use schemars::{
    Schema, schema_for,
    transform::{RecursiveTransform, Transform},
};

use super::Dialect;

impl Dialect {
    /// The schema of overrides, which a whole dialect fulfils too: no field is required but those that tell alternatives apart, and
    /// what may be absent is taken away by an empty text, since TOML has no null.
    pub fn schema() -> Schema {
        let mut schema = schema_for!(Dialect);
        schema.insert("title".to_owned(), "dialect of an ECSS-10 switch: a whole file, or overrides of a built-in one".into());
        RecursiveTransform(as_override).transform(&mut schema);
        schema
    }
}

fn as_override(schema: &mut Schema) {
    let Some(object) = schema.as_object_mut() else { return };
    let alternative = object.get("properties").and_then(|properties| properties.get("kind")).is_some();
    if !alternative {
        object.remove("required");
    }
    if let Some(list) = object.get_mut("type").and_then(|kind| kind.as_array_mut()) {
        list.retain(|kind| kind != "null");
    }
    if let Some(list) = object.get("type").and_then(|kind| kind.as_array()).filter(|list| list.len() == 1) {
        let only = list.first().cloned();
        only.into_iter().for_each(|only| drop(object.insert("type".to_owned(), only)));
    }
    if object.get("type").and_then(|kind| kind.as_str()) == Some("null") {
        object.remove("type");
        object.insert("const".to_owned(), "".into());
    }
    if object.get("default").is_some_and(|default| default.is_null()) {
        object.remove("default");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `UPDATE_SCHEMA=1 cargo test -p ecss-switch schema` writes it.
    #[test]
    fn the_committed_schema_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/dialects/dialect.schema.json");
        let schema = serde_json::to_string_pretty(&Dialect::schema()).unwrap() + "\n";
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            std::fs::write(path, &schema).unwrap();
        }
        assert!(std::fs::read_to_string(path).unwrap() == schema, "run: UPDATE_SCHEMA=1 cargo test -p ecss-switch schema");
    }

    #[test]
    fn every_field_is_explained_and_only_alternatives_require_one() {
        fn look(path: &str, schema: &serde_json::Value) {
            let object = schema.as_object().unwrap();
            let properties = object.get("properties").and_then(serde_json::Value::as_object);
            for (name, property) in properties.into_iter().flatten().filter(|(name, _)| *name != "kind") {
                assert!(property.get("description").is_some(), "{path}.{name} has no description");
            }
            assert!(object.get("required").is_none() || properties.unwrap().contains_key("kind"), "{path} requires fields");
            for alternative in object.get("oneOf").and_then(serde_json::Value::as_array).into_iter().flatten() {
                look(path, alternative);
            }
        }
        let schema = serde_json::to_value(Dialect::schema()).unwrap();
        look("", &schema);
        schema["$defs"].as_object().unwrap().iter().for_each(|(name, definition)| look(name, definition));
        assert!(!schema.to_string().contains("null"));
    }
}
