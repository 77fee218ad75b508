//! The settings that a process may change of itself while it runs.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};

use super::tick::Setup;

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Setting {
    /// Executors of each device.
    Executors,
    /// Records that may be polled and not committed.
    InFlight,
    /// Rows of a model's batch at most.
    SizeMax(String),
    /// The longest that a row of a model waits for others, in microseconds.
    DelayMax(String),
}

/// As it is written in a configuration.
impl fmt::Display for Setting {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Executors => out.write_str("onnx.executors"),
            Self::InFlight => out.write_str("in_flight.records_max"),
            Self::SizeMax(model) => write!(out, "models.{model}.batch.size_max"),
            Self::DelayMax(model) => write!(out, "models.{model}.batch.delay_max"),
        }
    }
}

impl Serialize for Setting {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Setting {
    /// A value of it, as it is written in a configuration.
    pub fn written(&self, value: u64) -> String {
        match self {
            Self::DelayMax(_) if value.is_multiple_of(1_000) => format!("{}ms", value / 1_000),
            Self::DelayMax(_) => format!("{value}us"),
            _ => value.to_string(),
        }
    }
}

/// A setting with a value that it should have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Action {
    /// The setting.
    pub setting: Setting,
    /// Its value: a number, or microseconds.
    pub to: u64,
}

/// The values that settings have.
pub type Values = BTreeMap<Setting, u64>;

/// Those of an engine.
pub fn values(setup: &Setup) -> Values {
    let wide = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let mut values = Values::from([(Setting::Executors, wide(setup.executors.max(1)))]);
    values.extend(setup.in_flight_max.map(|records| (Setting::InFlight, wide(records))));
    for model in &setup.models {
        values.insert(Setting::SizeMax(model.id.clone()), wide(model.size_max));
        // With an objective, what rows wait follows from it.
        let delay = model.delay_millis.filter(|_| model.slo_millis.is_none());
        values.extend(delay.map(|millis| (Setting::DelayMax(model.id.clone()), micros(millis))));
    }
    values
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a wait of a day at most")]
fn micros(millis: f64) -> u64 {
    (millis * 1e3).round().max(0.0) as u64
}

/// Changes what is known of an engine as its setting was changed.
pub fn change(setup: &mut Setup, setting: &Setting, to: u64) {
    let narrow = usize::try_from(to).unwrap_or(usize::MAX);
    let models = &mut setup.models;
    match setting {
        Setting::Executors => setup.executors = narrow,
        Setting::InFlight => setup.in_flight_max = Some(narrow),
        Setting::SizeMax(id) => {
            let own = models.iter_mut().filter(|model| model.id == *id);
            own.for_each(|model| model.size_max = narrow);
        }
        Setting::DelayMax(id) => {
            #[expect(clippy::cast_precision_loss, reason = "a wait of a day at most")]
            let millis = to as f64 / 1e3;
            let own = models.iter_mut().filter(|model| model.id == *id);
            own.for_each(|model| model.delay_millis = Some(millis));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::tick::ModelSetup;

    #[test]
    fn what_is_changed_is_what_is_found() {
        let model = |id: &str, slo_millis| ModelSetup {
            id: id.to_owned(),
            size_max: 64,
            delay_millis: Some(50.0),
            slo_millis,
            ..ModelSetup::default()
        };
        let models = vec![model("a", None), model("b", Some(80.0))];
        let mut setup = Setup { executors: 2, in_flight_max: Some(100), models, ..Setup::default() };
        let found: Vec<String> = values(&setup)
            .iter()
            .map(|(setting, value)| format!("{setting}={}", setting.written(*value)))
            .collect();
        let expected = [
            "onnx.executors=2",
            "in_flight.records_max=100",
            "models.a.batch.size_max=64",
            "models.b.batch.size_max=64",
            "models.a.batch.delay_max=50ms",
        ];
        assert_eq!(found, expected);
        for (place, setting) in (10..).zip(values(&setup).into_keys()) {
            change(&mut setup, &setting, place);
            assert_eq!(values(&setup)[&setting], place);
        }
    }
}
