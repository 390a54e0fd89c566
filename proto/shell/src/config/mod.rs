//! Configuration files: TOML, overridden by the environment, parsed once into valid types. Whatever is wrong is refused with its line
//! before anything begins, and the nearest word that is known is named.

mod problem;
mod secret;
mod tree;
mod values;

use std::path::Path;

use serde::{Serialize, de::DeserializeOwned};

use self::tree::Node;
pub use self::{
    problem::{Problem, Refused, nearest},
    secret::{PasswordSource, Secret},
    tree::Origin,
    values::{Mode, Size, Span, read_bounded},
};

/// A configuration file's most bytes.
const LONGEST: u64 = 1 << 20;

/// What was written, value by value, with the places: says where a problem is that was found later.
#[derive(Debug, Clone)]
pub struct Written(Node);

/// Reads a file and the variables of the environment that begin with `prefix`; `__` leads into tables: `ELPH_AGENT__LOG__FILTER`.
pub fn read<T: DeserializeOwned>(
    path: &Path,
    prefix: &str,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<(T, Written), Refused> {
    let refused = |problems: Vec<Problem>| Refused { file: path.display().to_string(), problems };
    let read = read_bounded(path, LONGEST).and_then(|bytes| String::from_utf8(bytes).map_err(|_| "is no UTF-8 text".to_owned()));
    let text = read.map_err(|what| refused(vec![Problem::new("", what)]))?;
    let mut tree = Node::parse(&text).map_err(|problem| refused(vec![problem]))?;
    let mut variables: Vec<(String, String)> = environment.into_iter().filter(|(name, _)| name.starts_with(prefix)).collect();
    variables.sort();
    let mut problems = Vec::new();
    for (name, value) in variables {
        let key = name.strip_prefix(prefix).unwrap_or_default().to_lowercase();
        let parts: Vec<String> = key.split("__").map(str::to_owned).collect();
        if let Err(problem) = tree.set(&parts, &name, &value) {
            problems.push(problem);
        }
    }
    let wrong = tree.sections().into_iter().filter_map(|section| section.typed::<T>().err());
    problems.extend(wrong);
    if !problems.is_empty() {
        return Err(refused(problems));
    }
    let typed = tree.clone().typed().map_err(|problem| refused(vec![problem]))?;
    Ok((typed, Written(tree)))
}

/// The process's environment, as `read` wants it.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
}

/// A configuration as TOML, secrets masked.
pub fn to_toml(config: &impl Serialize) -> Result<String, toml::ser::Error> {
    toml::Table::try_from(config).and_then(|table| toml::to_string(&table))
}

/// The JSON schema, as it is committed.
pub fn schema<T: schemars::JsonSchema>(title: &str) -> String {
    let mut schema = schemars::schema_for!(T);
    schema.insert("title".to_owned(), title.into());
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}

/// The keys whose values differ. Secrets all look the same.
pub fn differing(old: &impl Serialize, new: &impl Serialize) -> Vec<String> {
    let value = |config: serde_json::Result<serde_json::Value>| config.unwrap_or_default();
    let mut keys = Vec::new();
    differences("", &value(serde_json::to_value(old)), &value(serde_json::to_value(new)), &mut keys);
    keys
}

fn differences(key: &str, old: &serde_json::Value, new: &serde_json::Value, keys: &mut Vec<String>) {
    match (old, new) {
        (serde_json::Value::Object(old), serde_json::Value::Object(new)) => {
            let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for name in names {
                let null = serde_json::Value::Null;
                let path = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                differences(&path, old.get(name).unwrap_or(&null), new.get(name).unwrap_or(&null), keys);
            }
        }
        _ if old == new => {}
        _ => keys.push(key.to_owned()),
    }
}

// === impl Written ===

impl Written {
    /// Adds the places of problems that have none.
    pub fn locate(&self, problems: &mut [Problem]) {
        for problem in problems.iter_mut().filter(|problem| problem.origin.is_none()) {
            problem.origin = self.0.origin(&problem.key);
        }
    }
}
