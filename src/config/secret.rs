//! Secrets: which settings are secret, where else than in the configuration they may stand, and how none is ever printed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use toml::{Table, Value};

use super::key::Key;

/// What stands in place of a secret wherever it would be printed.
pub const MASK: &str = "********";

/// The only properties below `sasl.` that are safe to print. A new one is a secret until it is listed here, and so is a misspelt one.
const SASL_PUBLIC: [&str; 9] = [
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.username",
    "sasl.kerberos.service.name",
    "sasl.kerberos.principal",
    "sasl.oauthbearer.method",
    "sasl.oauthbearer.client.id",
    "sasl.oauthbearer.scope",
    "sasl.oauthbearer.token.endpoint.url",
];

/// Whether the value of a librdkafka property may not be printed.
pub fn is_secret(property: &str) -> bool {
    let named = ["pass", "secret", "pem", "jaas", "private"].iter().any(|word| property.contains(word));
    named || (property.starts_with("sasl.") && !SASL_PUBLIC.contains(&property))
}

/// Whether the value of a setting may not be printed.
pub(super) fn is_secret_key(key: &Key) -> bool {
    key.property().is_some_and(is_secret)
}

/// Whether a table is `{ env = "NAME" }` or `{ file = "PATH" }`.
pub(super) fn is_source(table: &Table) -> bool {
    table.len() == 1
        && table.iter().all(|(name, value)| matches!(name.as_str(), "env" | "file") && value.is_str())
}

/// A setting's value for people: masked if it is secret, except that where it comes from is not.
pub fn shown(key: &Key, value: &Value) -> String {
    match value {
        Value::Table(table) if is_source(table) => {
            let inner: Vec<String> = table.iter().map(|(name, value)| format!("{name} = {value}")).collect();
            format!("{{ {} }}", inner.join(", "))
        }
        _ if is_secret_key(key) => MASK.to_owned(),
        _ => value.to_string(),
    }
}

/// The value of a property as it is written.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Property {
    /// Itself.
    Text(String),
    /// The name of the environment variable that holds it.
    Environment(String),
    /// The path of the file that holds it; white space at its end is not part of it.
    File(PathBuf),
}

impl fmt::Debug for Property {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => out.write_str(MASK),
            Self::Environment(name) => write!(out, "env {name}"),
            Self::File(path) => write!(out, "file {}", path.display()),
        }
    }
}

impl Property {
    /// The value, fetched from where it is.
    ///
    /// # Errors
    ///
    /// If it is not there; says what is missing.
    pub(super) fn resolve(&self, environment: &BTreeMap<String, String>) -> Result<String, String> {
        match self {
            Self::Text(text) => Ok(text.clone()),
            Self::Environment(name) => environment
                .get(name)
                .cloned()
                .ok_or_else(|| format!("environment variable {name} is not set")),
            Self::File(path) => match std::fs::read_to_string(path) {
                Ok(text) => Ok(text.trim_end().to_owned()),
                Err(error) => Err(format!("could not read {}: {error}", path.display())),
            },
        }
    }
}

impl<'de> Deserialize<'de> for Property {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PropertyVisitor)
    }
}

/// Takes any scalar, because librdkafka's values are all text, and never repeats one in an error, because it may be secret.
struct PropertyVisitor;

impl<'de> Visitor<'de> for PropertyVisitor {
    type Value = Property;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a text, a number, true or false, { env = \"NAME\" } or { file = \"PATH\" }")
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Property, E> {
        Ok(Property::Text(value.to_owned()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Property, E> {
        Ok(Property::Text(value.to_string()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Property, E> {
        Ok(Property::Text(value.to_string()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Property, E> {
        Ok(Property::Text(value.to_string()))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Property, E> {
        Ok(Property::Text(value.to_string()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Property, A::Error> {
        match map.next_entry::<String, String>()? {
            Some((name, value)) if name == "env" => Ok(Property::Environment(value)),
            Some((name, value)) if name == "file" => Ok(Property::File(value.into())),
            _ => Err(Error::custom("expected { env = \"NAME\" } or { file = \"PATH\" }")),
        }
    }
}

/// The properties of one client, secrets in the clear. `Debug` masks them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Properties(BTreeMap<String, String>);

impl Properties {
    /// The value of a property, if it is set.
    pub fn get(&self, property: &str) -> Option<&str> {
        self.0.get(property).map(String::as_str)
    }

    /// The value of a property that is a whole number, if it is set to one.
    pub fn number(&self, property: &str) -> Option<u64> {
        self.get(property)?.parse().ok()
    }

    /// Every property with its value, sorted: only to hand them to a client.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(property, value)| (property.as_str(), value.as_str()))
    }
}

impl FromIterator<(String, String)> for Properties {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(properties: I) -> Self {
        Self(properties.into_iter().collect())
    }
}

impl fmt::Debug for Properties {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let masked =
            self.iter().map(|(property, value)| (property, if is_secret(property) { MASK } else { value }));
        out.debug_map().entries(masked).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_unlocks_something_is_secret_and_a_misspelt_one_too() {
        for property in [
            "sasl.password",
            "sasl.passwrod",
            "ssl.key.password",
            "ssl.keystore.password",
            "ssl.key.pem",
            "sasl.oauthbearer.client.secret",
            "sasl.oauthbearer.config",
            "sasl.whatever",
        ] {
            assert!(is_secret(property), "{property}");
        }
        for property in
            ["sasl.username", "sasl.mechanisms", "ssl.ca.location", "linger.ms", "security.protocol"]
        {
            assert!(!is_secret(property), "{property}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let properties: Properties = [("sasl.password", "hunter2"), ("linger.ms", "5")]
            .map(|(k, v)| (k.into(), v.into()))
            .into_iter()
            .collect();
        let shown = format!("{properties:?} {:?}", Property::Text("hunter2".into()));
        assert!(!shown.contains("hunter2") && shown.contains("linger.ms"), "{shown}");
    }

    #[test]
    fn a_file_gives_a_secret_without_the_line_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "hunter2\n").unwrap();
        assert_eq!(Property::File(path).resolve(&BTreeMap::new()), Ok("hunter2".to_owned()));
        assert!(Property::Environment("ABSENT".into()).resolve(&BTreeMap::new()).is_err());
    }
}
