//! Makes the catalog: opens each model once to see what it takes and gives, and, where the batch policy wants to know, what it costs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::store::{Fault, Found};
use super::{Backend, InputOptions, Model, ModelError, ModelFile};
use crate::catalog::{BatchPolicy, Catalog, Limits, Listing, ModelIndex, NotFinite, Served};
use crate::clock::Clock;
use crate::cost::{CostModel, Sample};

/// How long the batches of a model are measured at most, if no single run takes longer.
const MEASURED_MAX: Duration = Duration::from_millis(500);

/// How often each size is measured, after a run that does not count: the first of a size may prepare something.
const RUNS: usize = 3;

/// What the configuration says of a model.
#[derive(Clone, Debug)]
pub struct ModelSettings {
    /// Which output to serve alone.
    pub output: Option<String>,
    /// What is particular to its inputs, by their names.
    pub inputs: BTreeMap<String, InputOptions>,
    /// Whether NaN and infinities pass.
    pub not_finite: NotFinite,
    /// When a batch of it closes.
    pub batch: BatchPolicy,
    /// The most bytes of input in a batch, of more than one row.
    pub batch_bytes_max: usize,
    /// How long its rows and its runs may take.
    pub limits: Limits,
    /// The most bytes of model files that an executor keeps open, if there is a bound: a larger model can't be served.
    pub open_bytes_max: Option<u64>,
    /// The devices that it is placed on, each numbered as the worker that is its home.
    pub devices: Vec<usize>,
}

/// The models of a process.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// Every model that was found, served or not.
    pub catalog: Catalog,
    /// The files of the models that are served: what executors open.
    pub files: BTreeMap<ModelIndex, ModelFile>,
    /// What was found and is no model: for people. A model that is not served has its reason in the catalog.
    pub faults: Vec<Fault>,
}

/// Opens the live file of each model once, and lists what came of it. `settings` is asked for each model by its id.
///
/// A model that can't be loaded is listed with the reason and does not stop the others. What batches cost is measured by `clock`.
///
/// # Errors
///
/// If no model can be served at all, because of the [library](ModelError::Runtime) that runs them or of an execution
/// [provider](ModelError::Provider) that is required.
pub fn load_catalog(
    backend: &dyn Backend,
    found: Found,
    clock: &dyn Clock,
    settings: impl Fn(&str) -> ModelSettings,
) -> Result<Loaded, ModelError> {
    let mut listings = Vec::new();
    let mut opened = BTreeMap::new();
    for mut file in found.files {
        let settings = settings(&file.id);
        file.output.clone_from(&settings.output);
        file.inputs.clone_from(&settings.inputs);
        listings.push(list(backend, &file, &settings, clock)?);
        opened.insert(file.id.clone(), file);
    }
    let mut faults = Vec::new();
    for fault in found.faults {
        let path = fault.path.display();
        let Some(id) = fault.id else {
            tracing::warn!(%path, reason = fault.reason, "passed over in the model folder");
            faults.push(fault);
            continue;
        };
        let reason = format!("{path}: {}", fault.reason);
        tracing::warn!(model = %id, reason, "model unavailable");
        listings.push(Listing::Unavailable { id, reason });
    }
    let catalog = Catalog::new(listings);
    let files = opened
        .into_iter()
        .filter_map(|(id, file)| Some((catalog.find(id.as_bytes())?, file)))
        .filter(|(model, _)| catalog.served(*model).is_some())
        .collect();
    Ok(Loaded { catalog, files, faults })
}

/// Why an executor can't open this model, if it keeps so many bytes of model files open at most.
pub fn no_room(file: &ModelFile, open_bytes_max: Option<u64>) -> Option<String> {
    let (bytes, max) = (file.bytes, open_bytes_max.filter(|max| file.bytes > *max)?);
    Some(format!(
        "its file has {bytes} bytes, and an executor keeps {max} open at most: raise `onnx.open_bytes_max`"
    ))
}

/// The listing of one model.
fn list(
    backend: &dyn Backend,
    file: &ModelFile,
    settings: &ModelSettings,
    clock: &dyn Clock,
) -> Result<Listing, ModelError> {
    if let Some(reason) = no_room(file, settings.open_bytes_max) {
        tracing::warn!(model = %file.id, reason, "model unavailable");
        return Ok(Listing::Unavailable { id: file.id.clone(), reason });
    }
    let first = settings.devices.first().copied().unwrap_or_default();
    let mut model = match backend.open_on(file, first) {
        Ok(model) => model,
        Err(error @ (ModelError::Runtime(_) | ModelError::Provider { .. })) => return Err(error),
        Err(error) => {
            let reason = error.to_string();
            tracing::warn!(model = %file.id, reason, "model unavailable");
            return Ok(Listing::Unavailable { id: file.id.clone(), reason });
        }
    };
    let signature = model.signature().clone();
    tracing::info!(
        model = %file.id,
        version = %file.version,
        label = %file.label,
        inputs = %signature.inputs.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        outputs = %signature.outputs.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        providers = ?signature.providers,
        buckets = ?signature.buckets.sizes(),
        "model loaded"
    );
    let within = settings.batch.within(settings.batch_bytes_max / signature.row_bytes().max(1));
    let batch = if signature.is_uniform() { within } else { settings.batch };
    let measured = match batch {
        BatchPolicy::Static { .. } => Vec::new(),
        BatchPolicy::Slo { size_max, slo } => measured(&mut *model, &file.id, size_max, slo, clock),
    };
    Ok(Listing::Served(Arc::new(Served {
        id: file.id.clone(),
        version: file.version.clone(),
        signature,
        not_finite: settings.not_finite,
        batch,
        bytes_max: settings.batch_bytes_max,
        measured,
        limits: settings.limits,
        devices: settings.devices.clone(),
    })))
}

/// What batches of a model cost that is to keep an objective: measured, told, and given to whoever decides when batches close.
fn measured(
    model: &mut dyn Model,
    id: &str,
    size_max: usize,
    slo: Duration,
    clock: &dyn Clock,
) -> Vec<Sample> {
    let samples = measure(model, size_max, slo, clock);
    let mut cost = CostModel::new(size_max).with_buckets(model.signature().buckets.clone());
    samples.iter().for_each(|sample| cost.observe(*sample));
    let (fixed, row, efficient) = (cost.fixed(), cost.row(), cost.efficient());
    tracing::info!(model = %id, ?fixed, ?row, efficient, "batches measured");
    let one_row = cost.safe(1);
    if one_row > slo {
        tracing::warn!(model = %id, ?one_row, ?slo, "a single row takes longer than the objective of its model");
    }
    samples
}

/// Runs batches of zeros, twice as many rows each time, until the largest was run, one takes longer than any should, or time is up.
fn measure(model: &mut dyn Model, size_max: usize, slo: Duration, clock: &dyn Clock) -> Vec<Sample> {
    let started = clock.now();
    let (mut samples, mut outputs) = (Vec::new(), Vec::new());
    let powers = (0..usize::BITS).map(|power| 1 << power).take_while(|rows| *rows < size_max);
    for rows in powers.chain([size_max]) {
        let inputs = model.signature().zeros(rows);
        for run in 0..=RUNS {
            let before = clock.now();
            if let Err(error) = model.run(rows, &inputs, &mut outputs) {
                // It is no reason not to serve it: as many rows as this may never come together.
                tracing::info!(rows, %error, "a batch could not be measured");
                return samples;
            }
            let took = clock.now().since(before);
            if run > 0 {
                samples.push(Sample { rows, took });
            }
            if took > slo || clock.now().since(started) > MEASURED_MAX {
                if run == 0 {
                    samples.push(Sample { rows, took });
                }
                return samples;
            }
        }
    }
    samples
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::model::{RunError, Signature};
    use crate::tensor::Column;

    /// A model that takes two milliseconds and one more for each row, and can't run more than `rows_max`.
    struct Slow {
        signature: Signature,
        clock: Arc<ManualClock>,
        rows_max: usize,
    }

    impl Model for Slow {
        fn signature(&self) -> &Signature {
            &self.signature
        }

        fn run(&mut self, rows: usize, inputs: &[Column], _: &mut Vec<Column>) -> Result<(), RunError> {
            assert_eq!(inputs[0].values.len(), rows * 3);
            self.clock.advance(Duration::from_millis(2 + rows as u64));
            if rows > self.rows_max { Err(RunError("too many".to_owned())) } else { Ok(()) }
        }
    }

    /// The largest size that was measured, and what was learned of the line.
    fn learned(rows_max: usize, size_max: usize, slo: u64) -> (usize, Duration, Duration) {
        let clock = Arc::new(ManualClock::new());
        let signature = Signature::of_floats(&[3], 1);
        let mut model = Slow { signature, clock: Arc::clone(&clock), rows_max };
        let samples = measure(&mut model, size_max, Duration::from_millis(slo), &*clock);
        assert!(clock.now().nanos() < 1_000_000_000, "measuring is bounded: {samples:?}");
        let mut cost = CostModel::new(size_max);
        samples.iter().for_each(|sample| cost.observe(*sample));
        let round =
            |time: Duration| Duration::from_micros(u64::try_from(time.as_nanos()).unwrap().div_ceil(1_000));
        (samples.last().map_or(0, |sample| sample.rows), round(cost.fixed()), round(cost.row()))
    }

    #[test]
    fn the_cost_of_batches_is_measured_up_to_the_largest_and_in_bounded_time() {
        let line = (Duration::from_millis(2), Duration::from_millis(1));
        assert_eq!(learned(1_000, 24, 200), (24, line.0, line.1));
        assert_eq!(learned(1_000, 1, 200).0, 1);
        assert_eq!(
            learned(1_000, 1_000, 30),
            (32, line.0, line.1),
            "one run is longer than an outcome may take"
        );
        assert_eq!(learned(1_000, 1_000, 500), (64, line.0, line.1), "time is up");
        assert_eq!(learned(10, 1_000, 500), (8, line.0, line.1), "more rows can't be run");
    }
}
