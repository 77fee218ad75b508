//! The configuration: layers of settings, what they mean, and what is wrong with them.
//!
//! ```text
//!  default.toml ◀─ file ◀─ TIDEMILL__… ◀─ --set        each setting keeps its key, its layer and its place
//!       └──────────┴───────┬─────┴───────────┘
//!              known?  of its type?                    (schema, written)
//!                          ▼
//!                       Config  ── contradictions? ──▶ faults, shown where they stand
//! ```

mod autopilot;
mod buckets;
mod capacity;
mod explain;
mod fault;
mod inputs;
mod key;
mod layer;
mod meant;
mod models;
mod refused;
mod relations;
mod schema;
mod secret;
mod tenants;
mod units;
mod written;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use toml::{Table, Value};

pub use autopilot::{Autopilot, Mode};
pub use capacity::Capacity;
pub use explain::{DEFAULT_TOML, Explained, Section, comment, markdown, sections};
pub use fault::{Fault, Faults};
pub use key::Key;
pub use layer::{ENVIRONMENT_PREFIX, Origin, Place, Setting};
pub use meant::{Batch, Commit, Config, InFlight, JournalFolder, Kafka, Machine, Offsets, Onnx, Topics};
pub use models::{ModelOverrides, Models};
pub use refused::refused_property;
pub use relations::{Contradiction, LETTER_HEADERS_BYTES_MAX, batch_bytes_max, contradictions};
pub use secret::{MASK, Properties, is_secret, shown};
pub use tenants::Tenants;
pub use units::{parse_duration, parse_size};
pub use written::{
    ClientChoice, Delivery, GroupProtocol, LogFormat, OffsetsMissing, OffsetsOutOfRange, Order, Provider,
    ResultKey, ResultsForm,
};

use written::ConfigFile;

/// The file that is read where none is named, if it is there.
pub const FILE_DEFAULT: &str = "tidemill.toml";

/// Where settings come from, besides the defaults.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// A file that must be there.
    pub file: Option<PathBuf>,
    /// A file that is read if it is there and no other is named.
    pub file_default: Option<PathBuf>,
    /// `KEY=VALUE`, the later the stronger.
    pub sets: Vec<String>,
    /// The machine, its environment included.
    pub machine: Machine,
}

impl Sources {
    /// The sources of this process: its environment, host and current folder.
    pub fn of_process(file: Option<PathBuf>, sets: Vec<String>) -> Self {
        let texts = std::env::vars_os()
            .filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)));
        let environment: BTreeMap<String, String> = texts.collect();
        let host =
            std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|name| name.trim().to_owned());
        let host = host.or_else(|| environment.get("HOSTNAME").cloned()).filter(|name| !name.is_empty());
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let machine = Machine { environment, host, cores };
        Self { file, file_default: Some(PathBuf::from(FILE_DEFAULT)), sets, machine }
    }
}

/// A configuration, and where each of its values came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What is meant.
    pub config: Config,
    /// What is in force, sorted by key: the strongest setting of each.
    pub settings: Vec<Setting>,
}

/// Reads the configuration.
///
/// # Errors
///
/// Everything that is wrong with it, as far as it could be read.
pub fn load(sources: &Sources) -> Result<Loaded, Faults> {
    let settings = effective(layers(sources)?)?;
    let config = understand(&settings, &sources.machine)?;
    let contradicting =
        contradictions(&config).into_iter().map(|found| contradiction_fault(&found, &settings));
    match Faults::any(contradicting.collect()) {
        Some(faults) => Err(faults),
        None => Ok(Loaded { config, settings: settings.into_values().collect() }),
    }
}

/// The settings of every layer, the weakest first.
fn layers(sources: &Sources) -> Result<Vec<Setting>, Faults> {
    let mut settings = defaults();
    let defaults = settings.clone();
    let is_text = |key: &Key| schema::is_text(key, &defaults);
    let default = sources.file_default.as_ref().filter(|path| path.exists());
    if let Some(path) = sources.file.as_ref().or(default) {
        settings.extend(from_file(path)?);
    }
    settings.extend(layer::from_environment(&sources.machine.environment, &is_text)?);
    for assignment in &sources.sets {
        settings.extend(layer::from_assignment(assignment, &is_text)?);
    }
    Ok(settings)
}

fn defaults() -> Vec<Setting> {
    let settings = layer::from_text(None, DEFAULT_TOML).expect("default.toml is TOML");
    settings.into_iter().filter(|setting| !is_section(setting)).collect()
}

/// Whether it is the name of a section with nothing in it.
fn is_section(setting: &Setting) -> bool {
    setting.value.as_table().is_some_and(Table::is_empty)
}

fn from_file(path: &Path) -> Result<Vec<Setting>, Fault> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Fault::new(format!("could not read the configuration {}: {error}", path.display()))
            .help("name another file with `--config`, or leave it out")
    })?;
    layer::from_text(Some(path), &text)
}

/// The strongest setting of each key, all of them known and of their type.
fn effective(settings: Vec<Setting>) -> Result<BTreeMap<Key, Setting>, Faults> {
    let defaults = defaults();
    let known: Vec<Key> = defaults.iter().map(|setting| setting.key.clone()).collect();
    let mut faults: Vec<Fault> =
        settings.iter().filter_map(|setting| schema::fault(setting, &known)).collect();
    if faults.is_empty() {
        let given = settings.iter().filter(|setting| setting.origin != Origin::Default);
        faults.extend(given.filter_map(|setting| type_fault(setting, &defaults)));
    }
    if let Some(faults) = Faults::any(faults) {
        return Err(faults);
    }
    Ok(settings
        .into_iter()
        .filter(|setting| !is_section(setting))
        .map(|setting| (setting.key.clone(), setting))
        .collect())
}

/// What is wrong with the value of a setting by itself: it alone is laid over the defaults, so that the blame is certain.
fn type_fault(setting: &Setting, defaults: &[Setting]) -> Option<Fault> {
    let error = ConfigFile::deserialize(Value::Table(table(defaults.iter().chain([setting])))).err()?;
    let key = &setting.key;
    // The message of a secret's fault is ours and never repeats its value; a section in place of a value has none.
    let reason =
        error.message().lines().next().unwrap_or_default().replace("expected i64", "expected a whole number");
    let fault = Fault::new(format!("`{key}`: {reason}"));
    let fault = schema::located(fault, setting, "this value");
    let default = defaults.iter().find(|default| &default.key == key);
    Some(match default {
        Some(default) => fault.help(format!("the default is {}", default.value)),
        None => fault,
    })
}

/// The settings as one table, the later over the earlier.
fn table<'a>(settings: impl Iterator<Item = &'a Setting>) -> Table {
    let mut root = Table::new();
    for setting in settings {
        let Some((last, front)) = setting.key.steps().split_last() else { continue };
        let mut table = &mut root;
        for step in front {
            let inner = table.entry(step.clone()).or_insert_with(|| Value::Table(Table::new()));
            if !inner.is_table() {
                *inner = Value::Table(Table::new());
            }
            table = inner.as_table_mut().expect("it was made one");
        }
        table.insert(last.clone(), setting.value.clone());
    }
    root
}

fn understand(settings: &BTreeMap<Key, Setting>, machine: &Machine) -> Result<Config, Faults> {
    let written = ConfigFile::deserialize(Value::Table(table(settings.values())))
        .map_err(|error| Fault::new(format!("could not read the configuration: {}", error.message())))?;
    meant::meant(written, machine).map_err(|faults| {
        let placed = faults.into_iter().map(|(key, fault)| {
            match settings.get(&key).and_then(|setting| setting.place.as_ref()) {
                Some(place) => fault.at(place, "set here"),
                None => fault,
            }
        });
        Faults::any(placed.collect()).expect("there is at least one")
    })
}

/// The contradiction as a fault: each key with its value and layer, shown where it stands in a file.
fn contradiction_fault(found: &Contradiction, settings: &BTreeMap<Key, Setting>) -> Fault {
    let setting = |name: &str| settings.values().find(|setting| setting.key.to_string() == name);
    let described = |name: &str| match setting(name) {
        Some(setting) => format!("`{name}` = {} ({})", shown(&setting.key, &setting.value), setting.origin),
        None => format!("`{name}`"),
    };
    let message = format!("{} contradicts {}", described(&found.left), described(&found.right));
    let mut fault = Fault::new(message).help(found.reason);
    for name in [&found.left, &found.right] {
        if let Some(place) = setting(name).and_then(|setting| setting.place.as_ref()) {
            fault = fault.at(place, "set here");
        }
    }
    fault
}

/// What is meant, whatever contradicts itself in it: for tests of the relations.
#[cfg(test)]
pub(crate) fn without_relations(sources: &Sources) -> Config {
    understand(&effective(layers(sources).unwrap()).unwrap(), &sources.machine).unwrap()
}
