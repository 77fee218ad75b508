//! What `default.toml` says of each key: for `tidemill check --explain`, and for `docs/configuration.md`.

use std::fmt::Write as _;

/// The built-in defaults.
pub const DEFAULT_TOML: &str = include_str!("../default.toml");

/// A key with what is written about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// The key, written as for `--set`.
    pub key: String,
    /// Its default, as TOML; for a key without one, an example.
    pub value: String,
    /// Whether that is only an example.
    pub is_example: bool,
    /// The comment.
    pub comment: String,
}

/// A section of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Its name; empty for the keys before the first section.
    pub name: String,
    /// Its comment.
    pub comment: String,
    /// Its keys, in the order of the file.
    pub keys: Vec<Explained>,
}

/// Every section, in the order of the file.
pub fn sections() -> Vec<Section> {
    let mut sections = vec![Section { name: String::new(), comment: String::new(), keys: Vec::new() }];
    let mut comment: Vec<&str> = Vec::new();
    for line in DEFAULT_TOML.lines() {
        let section = sections.last_mut().expect("there is one from the start");
        if let Some(text) = line.strip_prefix("# ") {
            comment.push(text);
        } else if line == "#" {
            comment.push("");
        } else if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            let comment = prose(&mut comment);
            sections.push(Section { name: name.to_owned(), comment, keys: Vec::new() });
        } else if let Some((key, value)) = line.split_once(" = ") {
            let (key, is_example) = key.strip_prefix('#').map_or((key, false), |key| (key, true));
            let name = [&section.name, &key.replace('"', "")].map(String::as_str).join(".");
            let key = name.trim_start_matches('.').to_owned();
            section.keys.push(Explained {
                key,
                value: value.to_owned(),
                is_example,
                comment: prose(&mut comment),
            });
        } else {
            if section.name.is_empty() && section.keys.is_empty() && section.comment.is_empty() {
                section.comment = prose(&mut comment);
            }
            comment.clear();
        }
    }
    sections
}

/// The comment's lines as paragraphs, each on one line; headlines of the file left out.
fn prose(comment: &mut Vec<&str>) -> String {
    let text = std::mem::take(comment).into_iter().filter(|line| !line.starts_with("--- ")).fold(
        String::new(),
        |text, line| {
            let gap = if text.is_empty() || text.ends_with('\n') { "" } else { " " };
            if line.is_empty() { text + "\n\n" } else { text + gap + line }
        },
    );
    text.trim().to_owned()
}

/// What is written about a key of the effective configuration.
pub fn comment(key: &str) -> Option<String> {
    let explained = sections().into_iter().flat_map(|section| section.keys);
    let mut matching = explained.filter(|explained| explained.key == key || matches_example(explained, key));
    matching.next().map(|explained| explained.comment)
}

/// Whether the key is one that an example such as `models.ID.output` stands for.
fn matches_example(explained: &Explained, key: &str) -> bool {
    let blanks = ["ID", "KEY", "PROPERTY", "NAME"];
    let mut around = explained.key.split('.').collect::<Vec<_>>();
    let is_blank = |part: &&str| blanks.contains(part);
    let Some(first) = around.iter().position(is_blank).filter(|_| explained.is_example) else { return false };
    let rest = around.split_off(first);
    // What stands for a blank may hold dots in quotes.
    let mut pieces = rest.split(is_blank).map(|piece| piece.join("."));
    let Some(mut left) = key.strip_prefix(&format!("{}.", around.join("."))) else { return false };
    let end = pieces.next_back().unwrap_or_default();
    let Some(before_end) = left.strip_suffix(&end) else { return false };
    left = before_end;
    pieces.all(|piece| left.split_once(&piece).map(|(_, after)| left = after).is_some())
}

/// `docs/configuration.md`.
pub fn markdown() -> String {
    let mut page = String::from(
        "# Configuration\n\n<!-- Made from src/default.toml by a test: `TIDEMILL_REWRITE=1 cargo test --test it docs`. -->\n",
    );
    for section in sections() {
        let title =
            if section.name.is_empty() { String::new() } else { format!("\n## `[{}]`\n", section.name) };
        let comment =
            if section.comment.is_empty() { String::new() } else { format!("\n{}\n", section.comment) };
        page += &title;
        page += &comment;
        if section.keys.is_empty() {
            continue;
        }
        page += "\n| key | default | |\n|---|---|---|\n";
        for key in section.keys {
            let value =
                if key.is_example { format!("none; `{}`", key.value) } else { format!("`{}`", key.value) };
            let cells = [key.key.as_str(), &value, &key.comment].map(|cell| cell.replace('|', "\\|"));
            writeln!(page, "| `{}` | {} | {} |", cells[0], cells[1], cells[2])
                .expect("a text can be written to");
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn every_key_is_explained_and_every_explained_key_exists() {
        let mut known: Vec<String> =
            config::defaults().iter().map(|setting| setting.key.to_string()).collect();
        let mut explained = Vec::new();
        for key in sections().into_iter().flat_map(|section| section.keys) {
            assert!(key.comment.ends_with('.') || key.comment.ends_with('`'), "`{}` has no comment", key.key);
            if !key.is_example {
                explained.push(key.key);
            }
        }
        known.sort();
        explained.sort();
        assert_eq!(explained, known);
    }

    #[test]
    fn a_key_of_a_model_is_explained_by_its_example() {
        assert!(comment("models.mlp-16.output").unwrap().contains("several"));
        assert!(comment("topics.dlq.config.retention.ms").is_none_or(|text| !text.is_empty()));
        assert_eq!(comment("nothing.of.the.kind"), None);
    }
}
