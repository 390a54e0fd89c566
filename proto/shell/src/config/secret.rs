//! Passwords: written in the file (warned about), in a file of their own, or handed over by systemd (`LoadCredential=`).

use std::{
    fmt,
    path::{Path, PathBuf},
};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Problem, values::read_bounded};

/// A text that is never shown: not by `Debug`, not by `config dump`.
#[derive(Clone)]
pub struct Secret(SecretString);

/// A password file's most bytes.
const LONGEST: u64 = 4096;

/// Where a password is to be had.
#[derive(Debug, Clone, PartialEq)]
pub enum PasswordSource {
    /// It stands in the configuration.
    Inline(Secret),
    /// A file; a newline at its end does not belong to the password.
    File(PathBuf),
    /// A file of this name in `$CREDENTIALS_DIRECTORY`.
    Credential(String),
}

impl PasswordSource {
    /// Exactly one of the three keys must be set.
    pub fn choose(key: &str, inline: Option<&Secret>, file: Option<&Path>, credential: Option<&str>) -> Result<Self, Problem> {
        match (inline, file, credential) {
            (Some(secret), None, None) => Ok(Self::Inline(secret.clone())),
            (None, Some(path), None) => Ok(Self::File(path.to_owned())),
            (None, None, Some(name)) if !name.is_empty() && !name.contains('/') => Ok(Self::Credential(name.to_owned())),
            (None, None, Some(_)) => Err(Problem::new(
                format!("{key}.password_credential"),
                "is no credential's name; must be the name given to systemd's LoadCredential=, without a slash",
            )),
            (None, None, None) => Err(Problem::new(key, "has no password; set one of: password_file, password_credential, password")),
            _ => Err(Problem::new(key, "has more than one password; set only one of: password_file, password_credential, password")),
        }
    }

    /// The file it is in, and the configuration's key that says so: `key_file` or `key_credential` for a `kind` of `key`.
    pub fn place(&self, kind: &str) -> Result<(String, PathBuf), String> {
        match self {
            Self::Inline(_) => Err("stands in the configuration itself".to_owned()),
            Self::File(path) => Ok((format!("{kind}_file"), path.clone())),
            Self::Credential(name) => Ok((format!("{kind}_credential"), credential(name)?)),
        }
    }

    /// Reads it. The message names the file, never what is in it.
    pub fn read(&self) -> Result<SecretString, String> {
        let path = match self {
            Self::Inline(secret) => return Ok(secret.0.clone()),
            Self::File(path) => path.clone(),
            Self::Credential(name) => credential(name)?,
        };
        let bytes = read_bounded(&path, LONGEST)?;
        let text = String::from_utf8(bytes).map_err(|_| format!("{} is no UTF-8 text", path.display()))?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if text.is_empty() {
            return Err(format!("{} is empty; it must hold the password", path.display()));
        }
        Ok(SecretString::from(text.to_owned()))
    }
}

/// Where systemd puts a credential.
fn credential(name: &str) -> Result<PathBuf, String> {
    let directory = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
        format!("credential {name} cannot be read: $CREDENTIALS_DIRECTORY is not set; add LoadCredential={name}:… to the unit")
    })?;
    Ok(PathBuf::from(directory).join(name))
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.expose_secret() == other.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(text.into()))
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "writeOnly": true })
    }
}
