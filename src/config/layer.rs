//! Layers: where settings come from, and what each layer sets.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use miette::NamedSource;
use toml::de::DeTable;
use toml::{Spanned, Table, Value};

use super::fault::Fault;
use super::key::Key;
use super::secret;

/// The prefix of environment variables that set something.
pub const ENVIRONMENT_PREFIX: &str = "TIDEMILL__";

/// Which layer a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The built-in `default.toml`.
    Default,
    /// A line of a file, counted from 1.
    File {
        /// The file as it was named.
        path: String,
        /// The line.
        line: usize,
    },
    /// An environment variable.
    Environment(String),
    /// `--set` on the command line.
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => out.write_str("default"),
            Self::File { path, line } => write!(out, "{path}:{line}"),
            Self::Environment(name) => write!(out, "environment {name}"),
            Self::CommandLine => out.write_str("--set"),
        }
    }
}

/// A value with its key and the layer that it came from.
#[derive(Clone, Debug)]
pub struct Setting {
    /// What is set.
    pub key: Key,
    /// To what.
    pub value: Value,
    /// By which layer.
    pub origin: Origin,
    /// Where in a file it stands, to be shown.
    pub place: Option<Place>,
}

/// A place in a file.
#[derive(Clone, Debug)]
pub struct Place {
    /// The file's text, secrets blotted out.
    pub text: Arc<NamedSource<String>>,
    /// The setting in it, from its key to the end of its value.
    pub span: Range<usize>,
}

/// Reads the settings of a TOML text.
///
/// # Errors
///
/// If it is not TOML.
pub(super) fn from_text(path: Option<&Path>, text: &str) -> Result<Vec<Setting>, Fault> {
    let name = path.map(|path| path.display().to_string());
    let spans = DeTable::parse(text).map_err(|error| syntax_fault(name.as_deref(), text, &error))?;
    let values: Table = toml::from_str(text).map_err(|error| syntax_fault(name.as_deref(), text, &error))?;
    let mut found = Vec::new();
    flatten(&mut Vec::new(), &values, Some(spans.get_ref()), &mut found);
    let shown = name.as_ref().map(|name| {
        let secrets =
            found.iter().filter(|leaf| secret::is_secret_key(&leaf.key)).filter_map(|leaf| leaf.span.clone());
        Arc::new(NamedSource::new(name, blot_out(text, secrets)))
    });
    let settings = found.into_iter().map(|leaf| Setting {
        origin: match (&name, &leaf.span) {
            (Some(path), Some(span)) => Origin::File { path: path.clone(), line: line_of(text, span.start) },
            _ => Origin::Default,
        },
        place: shown.clone().zip(leaf.span).map(|(text, span)| Place { text, span }),
        key: leaf.key,
        value: leaf.value,
    });
    Ok(settings.collect())
}

/// Reads the settings of environment variables; others than `TIDEMILL__…` are passed over. `is_text` tells the keys whose values are
/// texts.
///
/// # Errors
///
/// If one names a model, whose id cannot be told from the variable's name.
pub(super) fn from_environment<'a>(
    variables: impl IntoIterator<Item = (&'a String, &'a String)>,
    is_text: &dyn Fn(&Key) -> bool,
) -> Result<Vec<Setting>, Fault> {
    let mut settings = Vec::new();
    for (name, text) in variables {
        let Some(path) = name.strip_prefix(ENVIRONMENT_PREFIX) else { continue };
        let steps: Vec<String> = path.split("__").map(str::to_lowercase).collect();
        if steps[0] == "models" && steps.len() > 2 {
            return Err(Fault::new(format!("environment variable {name} names a model, which none can"))
                .help("set it in a file, or with `--set models.ID.KEY=VALUE`"));
        }
        if steps[0] == "tenants" && steps.len() > 2 && steps[1] != "default" {
            return Err(Fault::new(format!("environment variable {name} names a tenant, which none can"))
                .help("set it in a file, or with `--set tenants.ID.KEY=VALUE`"));
        }
        // Variables can't hold dots, and no property holds an underscore.
        let kept = Key::new(steps.clone());
        let key = match kept.steps().split_last() {
            Some((last, front)) if kept.property().is_some() || is_topic_config(&kept) => {
                Key::new([front, &[last.replace('_', ".")]].concat())
            }
            _ => kept,
        };
        let origin = Origin::Environment(name.clone());
        settings.extend(from_value(&key, &parse_value(text, is_text(&key)), &origin));
    }
    Ok(settings)
}

/// Whether it is one of the keys that are passed through to a topic.
pub(super) fn is_topic_config(key: &Key) -> bool {
    matches!(key.parts()[..], ["topics", _, "config", _])
}

/// Reads `KEY=VALUE`. `is_text` tells the keys whose values are texts.
///
/// # Errors
///
/// If it is not of that form.
pub(super) fn from_assignment(
    assignment: &str,
    is_text: &dyn Fn(&Key) -> bool,
) -> Result<Vec<Setting>, Fault> {
    let misshapen = |shown: &str| {
        Fault::new(format!("`--set {shown}` is not of the form KEY=VALUE"))
            .help("for example `--set batch.size_max=32`")
    };
    let Some((name, text)) = assignment.split_once('=') else { return Err(misshapen(assignment)) };
    let mut steps = Vec::new();
    let mut table: Table =
        toml::from_str(&format!("{name} = 0")).map_err(|_| misshapen(&format!("{name}=…")))?;
    while let Some((step, value)) = table.into_iter().next() {
        steps.push(step);
        table = match value {
            Value::Table(inner) => inner,
            _ => Table::new(),
        };
    }
    let key = Key::new(steps);
    Ok(from_value(&key, &parse_value(text, is_text(&key)), &Origin::CommandLine))
}

/// The settings that one value makes: several, where it is a table.
fn from_value(key: &Key, value: &Value, origin: &Origin) -> Vec<Setting> {
    let mut found = Vec::new();
    flatten_value(&mut key.steps().to_vec(), value, None, None, &mut found);
    let into_setting =
        |leaf: Leaf| Setting { key: leaf.key, value: leaf.value, origin: origin.clone(), place: None };
    found.into_iter().map(into_setting).collect()
}

/// A value written outside of a file: TOML where it is, else the text itself.
///
/// Where a text is wanted, a number or a truth is one as well, letter by letter: a password `1_000` is no thousand. Only quotes, and
/// the table that says where a secret is, mean what they mean in TOML.
fn parse_value(text: &str, is_text: bool) -> Value {
    let parsed: Option<Value> = text.trim().parse().ok();
    let meant = parsed.filter(|value| !is_text || value.is_str() || value.is_table());
    meant.unwrap_or_else(|| Value::String(text.to_owned()))
}

/// A value that is not a table of further settings.
struct Leaf {
    key: Key,
    value: Value,
    span: Option<Range<usize>>,
}

fn flatten(path: &mut Vec<String>, table: &Table, spans: Option<&DeTable<'_>>, found: &mut Vec<Leaf>) {
    for (step, value) in table {
        let spanned = spans.and_then(|spans| spans.iter().find(|(key, _)| key.get_ref() == step.as_str()));
        let span = spanned.map(|(key, value)| key.span().start..value.span().end.max(key.span().end));
        let inner = spanned.and_then(|(_, value)| Spanned::get_ref(value).as_table());
        path.push(step.clone());
        flatten_value(path, value, span, inner, found);
        path.pop();
    }
}

fn flatten_value(
    path: &mut Vec<String>,
    value: &Value,
    span: Option<Range<usize>>,
    spans: Option<&DeTable<'_>>,
    found: &mut Vec<Leaf>,
) {
    let key = Key::new(path.clone());
    match value {
        Value::Table(table)
            if !table.is_empty() && (key.property().is_none() || !secret::is_source(table)) =>
        {
            flatten(path, table, spans, found);
        }
        Value::String(_) if is_topic(&key) => {
            found.push(Leaf { key: key.child("name"), value: value.clone(), span });
        }
        _ => found.push(Leaf { key, value: value.clone(), span }),
    }
}

/// Whether it is a topic, whose name may be written in its place.
pub(super) fn is_topic(key: &Key) -> bool {
    matches!(key.parts()[..], ["topics", "requests" | "results" | "dlq" | "events"])
}

fn line_of(text: &str, place: usize) -> usize {
    1 + text[..place].matches('\n').count()
}

/// The text with these spans replaced by asterisks, as long as they were.
fn blot_out(text: &str, spans: impl Iterator<Item = Range<usize>>) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for span in spans {
        let from = text[span.clone()].find('=').map_or(span.start, |equals| span.start + equals + 1);
        bytes[from..span.end]
            .iter_mut()
            .filter(|byte| !byte.is_ascii_whitespace())
            .for_each(|byte| *byte = b'*');
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A text that is not TOML can't be searched for secrets: if any may be in it, it is not shown.
fn syntax_fault(name: Option<&str>, text: &str, error: &toml::de::Error) -> Fault {
    let name = name.unwrap_or("default.toml");
    let span = error.span().unwrap_or(0..0);
    let fault =
        Fault::new(format!("could not read {name}, line {}: it is not TOML", line_of(text, span.start)))
            .help("strings are written in quotes; `[section]` stands alone on its line");
    if text.split(|c: char| !is_property_character(c)).any(secret::is_secret) {
        return fault;
    }
    fault.at(
        &Place { text: Arc::new(NamedSource::new(name, text.to_owned())), span },
        error.message().to_owned(),
    )
}

fn is_property_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::schema;

    /// Where texts are wanted in these tests.
    fn is_text(key: &Key) -> bool {
        key.property().is_some() || key.to_string() == "kafka.instance"
    }

    fn assigned(assignment: &str) -> Vec<Setting> {
        from_assignment(assignment, &is_text).unwrap()
    }

    fn keys(settings: &[Setting]) -> Vec<String> {
        settings.iter().map(|setting| setting.key.to_string()).collect()
    }

    #[test]
    fn a_file_tells_the_line_of_each_setting() {
        let text = "workers = 2\n\n[batch]\nsize_max = 32\ndelay_max = \"5ms\"\n";
        let settings = from_text(Some(Path::new("t.toml")), text).unwrap();
        let origins: Vec<_> = settings.iter().map(|setting| setting.origin.to_string()).collect();
        assert_eq!(keys(&settings), ["batch.delay_max", "batch.size_max", "workers"]);
        assert_eq!(origins, ["t.toml:5", "t.toml:4", "t.toml:1"]);
    }

    #[test]
    fn properties_may_be_quoted_or_written_with_dots() {
        let quoted = from_text(None, "[kafka.producer]\n\"ssl.key.password\" = { env = \"P\" }\n").unwrap();
        let dotted = from_text(None, "kafka.producer.ssl.key.password.env = \"P\"\n").unwrap();
        assert_eq!(keys(&quoted), ["kafka.producer.ssl.key.password"]);
        assert_eq!(keys(&dotted), keys(&quoted));
        assert_eq!(dotted[0].value, quoted[0].value);
    }

    #[test]
    fn an_environment_variable_names_a_property_with_underscores() {
        let variables = [
            ("TIDEMILL__KAFKA__PRODUCER__SSL_KEY_PASSWORD".to_owned(), "{ env = \"P\" }".to_owned()),
            ("TIDEMILL__BATCH__SIZE_MAX".to_owned(), "32".to_owned()),
            ("TIDEMILL_SEEDS".to_owned(), "9".to_owned()),
        ];
        let settings = from_environment(variables.iter().map(|(name, text)| (name, text)), &is_text).unwrap();
        assert_eq!(keys(&settings), ["kafka.producer.ssl.key.password", "batch.size_max"]);
        assert_eq!(settings[1].value, Value::Integer(32));
    }

    #[test]
    fn an_assignment_may_quote_a_model_id() {
        let settings = assigned("models.\"a.b\".batch.delay_max=5ms");
        assert_eq!(keys(&settings), ["models.\"a.b\".batch.delay_max"]);
        assert_eq!(settings[0].value, Value::String("5ms".to_owned()));
        assert!(from_assignment("batch", &is_text).is_err());
    }

    #[test]
    fn a_text_outside_of_a_file_is_taken_letter_by_letter_where_one_is_wanted() {
        let texts =
            ["0", "1_000", "1e5", "0x1F", "+5", "1.0", "true", "[1]", "2020-01-01", " a", "\"a\" b", "{ a"];
        for text in texts {
            for key in ["kafka.instance", "kafka.producer.sasl.password"] {
                let settings = assigned(&format!("{key}={text}"));
                assert_eq!(settings[0].value, Value::String(text.to_owned()), "{key}");
            }
        }
        assert_eq!(assigned("batch.size_max=1_000")[0].value, Value::Integer(1_000), "a number is wanted");
    }

    #[test]
    fn quotes_and_the_place_of_a_secret_mean_what_they_mean_in_a_file() {
        let value = |text: &str| assigned(&format!("kafka.consumer.sasl.password={text}"))[0].value.clone();
        assert_eq!(value("\"a\\u0062\""), Value::String("ab".to_owned()));
        assert_eq!(value("'1_000'"), Value::String("1_000".to_owned()));
        for place in ["env", "file"] {
            let expected = Table::from_iter([(place.to_owned(), Value::String("P".to_owned()))]);
            assert_eq!(value(&format!("{{ {place} = \"P\" }}")), Value::Table(expected));
        }
    }

    #[test]
    fn a_topic_may_be_given_by_its_name_alone() {
        assert_eq!(keys(&assigned("topics.requests=orders")), ["topics.requests.name"]);
    }

    #[test]
    fn a_secret_is_blotted_out_of_the_text_that_is_shown() {
        let text = "[kafka.consumer]\n\"sasl.password\" = \"hunter2\"\n";
        let settings = from_text(Some(Path::new("t.toml")), text).unwrap();
        let place = settings[0].place.as_ref().unwrap();
        assert_eq!(place.text.inner(), "[kafka.consumer]\n\"sasl.password\" = *********\n");
    }

    #[test]
    fn a_broken_file_that_may_hold_a_secret_is_not_shown() {
        let broken = "[kafka.consumer]\n\"sasl.password\" = \"hunter2\nx = 1\n";
        let fault = from_text(Some(Path::new("t.toml")), broken).unwrap_err();
        assert!(!format!("{:?}", miette::Report::new(fault)).contains("hunter2"));
    }

    /// Everything that is done with a text on the way to a fault that is shown.
    fn read_and_show(text: &str) {
        let variables = [(format!("{ENVIRONMENT_PREFIX}{text}"), text.to_owned())];
        let read = [
            from_text(Some(Path::new("t.toml")), text),
            from_assignment(text, &is_text),
            from_assignment(&format!("{text}={text}"), &is_text),
            from_environment(variables.iter().map(|(name, text)| (name, text)), &is_text),
        ];
        let known = [Key::from_dotted("batch.size_max")];
        for settings in read {
            let faults = match settings {
                Ok(settings) => {
                    settings.iter().filter_map(|setting| schema::fault(setting, &known)).collect()
                }
                Err(fault) => vec![fault],
            };
            for fault in faults {
                assert!(!format!("{:?}", miette::Report::new(fault)).is_empty());
            }
        }
    }

    #[test]
    fn no_depth_overflows_the_stack() {
        for nested in ["[", "[[", "{a=", "a=[", "a.", "\"\"."] {
            let deep = nested.repeat(20_000);
            for text in [format!("{deep}a"), format!("a = {deep}"), format!("{deep}a = 1")] {
                read_and_show(&text);
            }
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_a_layer_panic(
            pieces in prop::collection::vec(
                prop_oneof![
                    1 => ".",
                    9 => prop::sample::select(PIECES.to_vec()).prop_map(str::to_owned),
                ],
                0..20,
            ),
        ) {
            read_and_show(&pieces.concat());
        }
    }

    const PIECES: [&str; 36] = [
        "a",
        "batch",
        "size_max",
        "kafka",
        "producer",
        "sasl.password",
        "models",
        "ü",
        "\u{1f600}",
        "=",
        " = ",
        ".",
        "\n",
        "\r\n",
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        ",",
        "\"",
        "\"\"\"",
        "'",
        "'''",
        "\\",
        "\\u00e9",
        "#",
        "1",
        "-",
        "1e9",
        "true",
        "2026-01-01",
        "__",
        "\u{feff}",
        "\0",
    ];
}
