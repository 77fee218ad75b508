//! The budget on record, and how what is counted compares with it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How far a count may lie above what is on record, or below it before it is time to record it again.
const SLACK: f64 = 0.1;

/// Allocations are few, and a count of none has no tenth: so many a record more are no difference.
const ALLOCATIONS_SLACK: f64 = 0.002;

/// How this program was built, as far as instructions depend on it.
const BUILD: &str = if cfg!(debug_assertions) { "dev" } else { "release" };

const HEAD: &str = "\
# What the pieces of the hot path take, a record: written by `make budget ARGS=--record`, and compared by .ci/run.
";

/// What a piece takes, a record.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Count {
    pub(crate) allocations: f64,
    pub(crate) instructions: Option<f64>,
}

/// What all of them take.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Budget {
    /// The profile that instructions were counted with.
    profile: String,
    /// The kind of processor.
    processor: String,
    pieces: BTreeMap<String, Count>,
}

fn path() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/budget/budget.toml"))
}

impl Budget {
    pub(crate) fn of(counts: Vec<(&'static str, Count)>) -> Self {
        let round = |number: f64, places: f64| (number * places).round() / places;
        let pieces = counts.into_iter().map(|(name, count)| {
            let instructions = count.instructions.map(|count| round(count, 1.0));
            (name.to_owned(), Count { allocations: round(count.allocations, 1e4), instructions })
        });
        Self {
            profile: BUILD.to_owned(),
            processor: std::env::consts::ARCH.to_owned(),
            pieces: pieces.collect(),
        }
    }

    pub(crate) fn read() -> Result<Self, String> {
        let path = path();
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    pub(crate) fn write(&self) -> Result<(), String> {
        let text = toml::to_string(self).map_err(|error| error.to_string())?;
        fs::write(path(), format!("{HEAD}{text}")).map_err(|error| error.to_string())
    }

    /// Prints what was counted beside what is on record; whether nothing is over it.
    pub(crate) fn compare(&self, counts: &[(&'static str, Count)]) -> bool {
        let comparable = self.profile == BUILD && self.processor == std::env::consts::ARCH;
        if !comparable {
            let (profile, processor) = (&self.profile, &self.processor);
            println!(
                "instructions on record are of the profile {profile} on {processor}, and are not compared\n"
            );
        }
        println!(
            "{:<30} {:>12} {:>12} {:>14} {:>14}",
            "a record", "allocations", "on record", "instructions", "on record"
        );
        let mut within = true;
        for (name, count) in counts {
            let budget = self.pieces.get(*name);
            let allocations = budget.map(|budget| budget.allocations);
            let instructions = budget.and_then(|budget| budget.instructions).filter(|_| comparable);
            let verdict = match budget {
                None => Some("is not on record"),
                Some(_) => beyond(count.allocations, allocations, ALLOCATIONS_SLACK)
                    .or_else(|| beyond(count.instructions?, instructions, 0.0)),
            };
            let show = |number: Option<f64>, places: usize| {
                number.map_or_else(|| "-".to_owned(), |number| format!("{number:.places$}"))
            };
            println!(
                "{name:<30} {:>12} {:>12} {:>14} {:>14}  {}",
                show(Some(count.allocations), 4),
                show(allocations, 4),
                show(count.instructions, 0),
                show(instructions, 0),
                verdict.unwrap_or_default()
            );
            within &= verdict.is_none_or(|verdict| verdict == LESS);
        }
        for name in self.pieces.keys().filter(|name| counts.iter().all(|(counted, _)| counted != name)) {
            println!("{name:<30} is on record, and there is no such piece");
            within = false;
        }
        if !within {
            println!("\nif that is worth it: make budget ARGS=--record, and say why in the commit");
        }
        within
    }
}

const LESS: &str = "less than on record: record it";

/// In which direction a count has left its budget, if it has.
fn beyond(count: f64, budget: Option<f64>, slack: f64) -> Option<&'static str> {
    let budget = budget?;
    if count > budget * (1.0 + SLACK) + slack {
        Some("MORE THAN ON RECORD")
    } else if count < budget * (1.0 - SLACK) - slack {
        Some(LESS)
    } else {
        None
    }
}
