//! Keys: the names of settings, as paths.

use std::fmt;

/// The name of a setting: `batch.size_max`.
///
/// Properties that are passed through are one step, dots and all: `kafka.producer.ssl.key.password` has three.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(Vec<String>);

impl Key {
    /// A key of these steps; those of a property that is passed through are joined to one.
    pub fn new(mut steps: Vec<String>) -> Self {
        let kept = pass_through_depth(&steps);
        if steps.len() > kept {
            let property = steps.split_off(kept).join(".");
            steps.push(property);
        }
        Self(steps)
    }

    /// The key that is written `text`, in which no step but a property holds a dot.
    pub fn from_dotted(text: &str) -> Self {
        Self::new(text.split('.').map(str::to_owned).collect())
    }

    /// Its steps.
    pub fn steps(&self) -> &[String] {
        &self.0
    }

    /// Its steps, as they are compared.
    pub fn parts(&self) -> Vec<&str> {
        self.0.iter().map(String::as_str).collect()
    }

    /// The key one step further down.
    #[must_use]
    pub fn child(&self, step: &str) -> Self {
        let mut steps = self.0.clone();
        steps.push(step.to_owned());
        Self::new(steps)
    }

    /// The name of the librdkafka property that it sets, if it sets one.
    pub fn property(&self) -> Option<&str> {
        match self.parts()[..] {
            ["kafka", "consumer" | "producer" | "admin", property] => Some(property),
            _ => None,
        }
    }
}

/// How many steps lead to a table whose keys are passed through; no key that is not in one has as many.
fn pass_through_depth(steps: &[String]) -> usize {
    let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
    match steps[..] {
        ["kafka", "consumer" | "producer" | "admin", ..] => 2,
        ["topics", _, "config", ..] => 3,
        _ => usize::MAX,
    }
}

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = pass_through_depth(&self.0);
        for (place, step) in self.0.iter().enumerate() {
            if place > 0 {
                out.write_str(".")?;
            }
            if place >= kept || is_bare(step) {
                out.write_str(step)?;
            } else {
                write!(out, "{step:?}")?;
            }
        }
        Ok(())
    }
}

/// Whether TOML takes it without quotes.
fn is_bare(step: &str) -> bool {
    !step.is_empty() && step.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_is_one_step_however_many_dots_it_has() {
        let key = Key::from_dotted("kafka.producer.ssl.key.password");
        assert_eq!(key.parts(), ["kafka", "producer", "ssl.key.password"]);
        assert_eq!(key.property(), Some("ssl.key.password"));
        assert_eq!(key.to_string(), "kafka.producer.ssl.key.password");
        assert_eq!(
            Key::from_dotted("topics.dlq.config.max.message.bytes").parts()[3],
            "max.message.bytes",
            "the keys of a topic are passed through as well",
        );
    }

    #[test]
    fn a_step_with_a_dot_is_quoted() {
        let key = Key::new(vec!["models".into(), "a.b".into(), "output".into()]);
        assert_eq!(key.to_string(), "models.\"a.b\".output");
    }
}
