//! Topics as they should be against topics as they are.

use std::fmt;

use operators::broker::{Admin, BrokerError, TopicDescription, TopicSpec};
use serde::Serialize;

/// One respect in which a topic is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The topic's name.
    pub topic: String,
    /// What is different.
    pub what: What,
    /// How it should be.
    pub expected: String,
    /// How it is; `None` where the broker tells nothing.
    pub found: Option<String>,
}

/// What of a topic can be different.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Whether it is there at all.
    Topic,
    /// The number of partitions.
    Partitions,
    /// Copies of each partition.
    Replication,
    /// A key of its configuration.
    Config(String),
}

impl fmt::Display for Difference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, what, expected, found } = self;
        let found = found.as_deref().unwrap_or("nothing");
        match what {
            What::Topic => write!(out, "{topic}: there is no such topic"),
            What::Partitions => write!(out, "{topic}: partitions: expected {expected}, found {found}"),
            What::Replication => write!(out, "{topic}: replication: expected {expected}, found {found}"),
            What::Config(key) => write!(out, "{topic}: {key}: expected {expected}, found {found}"),
        }
    }
}

/// Every difference of a topic. Keys of its configuration that the specification does not name may be anything.
pub fn differences(spec: &TopicSpec, found: Option<&TopicDescription>) -> Vec<Difference> {
    let different = |what, expected: String, found: Option<String>| Difference {
        topic: spec.name.clone(),
        what,
        expected,
        found,
    };
    let Some(found) = found else {
        return vec![different(What::Topic, format!("{} partitions", spec.partitions), None)];
    };
    let numbers = [
        (What::Partitions, spec.partitions, found.partitions),
        (What::Replication, spec.replication, found.replication),
    ];
    let numbers = numbers.into_iter().filter(|(_, expected, found)| expected != found);
    let numbers =
        numbers.map(|(what, expected, found)| different(what, expected.to_string(), Some(found.to_string())));
    let keys = spec.config.iter().filter(|(key, expected)| found.config.get(*key) != Some(*expected));
    let keys = keys.map(|(key, expected)| {
        different(What::Config(key.clone()), expected.clone(), found.config.get(key).cloned())
    });
    numbers.chain(keys).collect()
}

/// What became of a topic that was to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// It was made.
    Created,
    /// It was there, and is left alone: how it differs.
    Existed(Vec<Difference>),
}

/// Makes a topic, if it is not there.
///
/// # Errors
///
/// If the broker did not answer, or refused.
pub fn make(admin: &mut dyn Admin, spec: &TopicSpec) -> Result<Made, BrokerError> {
    match admin.describe(&spec.name)? {
        Some(found) => Ok(Made::Existed(differences(spec, Some(&found)))),
        None => admin.create(spec).map(|()| Made::Created),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn spec() -> TopicSpec {
        let config = BTreeMap::from([("cleanup.policy".to_owned(), "compact".to_owned())]);
        TopicSpec { name: "t".to_owned(), partitions: 4, replication: 1, config }
    }

    fn found(partitions: i32, replication: i32, policy: &[&str]) -> TopicDescription {
        let config = policy.iter().map(|policy| ("cleanup.policy".to_owned(), (*policy).to_owned()));
        let retention = [("retention.ms".to_owned(), "1".to_owned())];
        TopicDescription { partitions, replication, config: config.chain(retention).collect() }
    }

    #[test]
    fn each_difference_is_named() {
        let shown = |found: Option<TopicDescription>| {
            differences(&spec(), found.as_ref()).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(shown(Some(found(4, 1, &["compact"]))).is_empty());
        assert_eq!(shown(None), ["t: there is no such topic"]);
        assert_eq!(
            shown(Some(found(8, 3, &["delete"]))),
            [
                "t: partitions: expected 4, found 8",
                "t: replication: expected 1, found 3",
                "t: cleanup.policy: expected compact, found delete",
            ],
        );
        assert_eq!(shown(Some(found(4, 1, &[]))), ["t: cleanup.policy: expected compact, found nothing"]);
    }
}
