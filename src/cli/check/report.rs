//! What `tidemill check` found, for people and for programs.

use std::fmt::Write as _;

use operators::model::TensorSpec;
use serde_json::json;

use super::{ModelSeen, TopicSeen};
use crate::config::{Setting, comment, shown};

/// How wide a comment is set.
const WIDTH: usize = 100;

/// Everything that was found.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) backend: Option<String>,
    pub(super) models: Vec<ModelSeen>,
    pub(super) broker: Option<String>,
    pub(super) topics: Vec<TopicSeen>,
    pub(super) faults: Vec<String>,
}

impl Report {
    /// For people.
    pub(super) fn as_text(&self, settings: &[Setting], explain: bool) -> String {
        let mut lines = vec!["configuration".to_owned()];
        configuration(settings, explain, &mut lines);
        lines.push(format!("\nmodels ({})", self.backend.as_deref().unwrap_or("nothing to run them")));
        lines.extend(self.models.iter().map(|model| match &model.state {
            Ok((version, signature)) => format!(
                "  {} {version}: {} -> {}, {}",
                model.id,
                tensors(&signature.inputs),
                tensors(&signature.outputs),
                signature.providers.join(", "),
            ),
            Err(_) => format!("  {}: unavailable", model.id),
        }));
        lines.push(format!("\nbroker\n  {}", self.broker.as_deref().unwrap_or("not reached")));
        lines.push("\ntopics".to_owned());
        lines.extend(self.topics.iter().map(|topic| match &topic.found {
            Some(found) => {
                format!(
                    "  {}: {} partitions, replication {}",
                    topic.name, found.partitions, found.replication
                )
            }
            None => format!("  {}: absent", topic.name),
        }));
        lines.push(format!("\nfaults: {}", self.faults.len()));
        lines.extend(self.faults.iter().map(|fault| format!("  {fault}")));
        lines.join("\n") + "\n"
    }

    /// For programs.
    pub(super) fn as_json(&self, settings: &[Setting]) -> String {
        let settings: Vec<_> = settings
            .iter()
            .map(|setting| {
                let value = shown(&setting.key, &setting.value);
                json!({ "key": setting.key.to_string(), "value": value, "layer": setting.origin.to_string() })
            })
            .collect();
        let models: Vec<_> = self
            .models
            .iter()
            .map(|model| match &model.state {
                Ok((version, signature)) => {
                    json!({ "id": model.id, "version": version, "signature": signature })
                }
                Err(reason) => json!({ "id": model.id, "unavailable": reason }),
            })
            .collect();
        let topics: Vec<_> =
            self.topics.iter().map(|topic| json!({ "topic": topic.name, "found": topic.found })).collect();
        let report = json!({
            "ok": self.faults.is_empty(),
            "settings": settings,
            "backend": self.backend,
            "models": models,
            "broker": self.broker,
            "topics": topics,
            "faults": self.faults,
        });
        format!("{report}\n")
    }
}

/// Each setting with its layer, in a column of its own.
fn configuration(settings: &[Setting], explain: bool, lines: &mut Vec<String>) {
    let assigned: Vec<(String, &Setting)> = settings
        .iter()
        .map(|setting| (format!("{} = {}", setting.key, shown(&setting.key, &setting.value)), setting))
        .collect();
    let width = assigned.iter().map(|(text, _)| text.len()).filter(|width| *width <= 64).max().unwrap_or(0);
    for (text, setting) in assigned {
        if explain && let Some(comment) = comment(&setting.key.to_string()) {
            lines.extend(wrapped(&comment).into_iter().map(|line| format!("  # {line}")));
        }
        let mut line = String::new();
        write!(line, "  {text:width$}  {}", setting.origin).expect("a text can be written to");
        lines.push(line);
    }
}

/// A text in lines that are not too wide.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is one from the start");
        if line.is_empty() {
            line.push_str(word);
        } else if line.len() + 1 + word.len() <= WIDTH {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

fn tensors(tensors: &[TensorSpec]) -> String {
    tensors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
