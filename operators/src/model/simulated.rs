//! Models that compute a fixed function, and fail when told to: for runs by the thousand, and for oracles.
//!
//! What a simulated model answers depends on the row alone ([`expected`]), so that an oracle needs no model to know it. The faults are
//! those that the engine promises to handle: a row that makes every run fail that holds it ([`POISON`]), and a device that is broken
//! for a while. One more is there to be caught by the tests: two rows of a batch swapped.
//!
//! No time passes in a run. What a run would have cost is there to be asked for ([`SimulatedBackend::cost`]), and to be added to a
//! clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::{Backend, Buckets, Model, ModelError, ModelFile, RunError, Signature};
use crate::tensor::{Column, Dtype, Values};

/// A row that begins with this makes the whole run fail.
pub const POISON: f32 = -123_456.0;

/// How large the file of each model is taken to be.
const FILE_BYTES: u64 = 1_000;

/// What a simulated model gives for a row: `output_len` numbers that depend on each number of the row and on its place.
pub fn expected(row: &[f32], output_len: usize) -> Vec<f32> {
    let mut output = Vec::with_capacity(output_len);
    answer(row, output_len, &mut output);
    output
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the answer is rounded once, so that the order of no sum shows in it"
)]
#[expect(clippy::cast_precision_loss, reason = "places are small")]
fn answer(row: &[f32], output_len: usize, output: &mut Vec<f32>) {
    let weighted = row.iter().enumerate().map(|(place, value)| f64::from(*value) * (place + 1) as f64);
    let sum: f64 = weighted.sum();
    output.extend((0..output_len).map(|place| (sum * (place + 1) as f64 + place as f64) as f32));
}

/// A model to simulate.
#[derive(Clone, Debug)]
pub struct SimulatedModel {
    /// Its id.
    pub id: String,
    /// The shape of its rows.
    pub row_shape: Vec<usize>,
    /// Floats of output a row.
    pub output_len: usize,
    /// What a run costs, whatever its rows.
    pub run_cost: Duration,
    /// What each row of a run adds.
    pub row_cost: Duration,
    /// The sizes that its batches are run at.
    pub buckets: Buckets,
    /// Why the model can't be loaded, if it can't.
    pub fault: Option<String>,
}

impl SimulatedModel {
    /// A model of flat rows that costs nothing and has no fault.
    pub fn new(id: &str, row_len: usize, output_len: usize) -> Self {
        Self {
            id: id.to_owned(),
            row_shape: vec![row_len],
            output_len,
            run_cost: Duration::ZERO,
            row_cost: Duration::ZERO,
            buckets: Buckets::exact(),
            fault: None,
        }
    }
}

/// Opens simulated models, all on one device.
#[derive(Debug, Default)]
pub struct SimulatedBackend {
    models: BTreeMap<String, SimulatedModel>,
    device: Arc<Device>,
}

/// What every session of a backend shares.
#[derive(Debug, Default)]
struct Device {
    good_calls: AtomicU64,
    broken_calls: AtomicU64,
    swaps_rows: AtomicBool,
    calls: AtomicU64,
    rows: AtomicU64,
}

impl SimulatedBackend {
    /// A backend that has these models.
    pub fn new(models: impl IntoIterator<Item = SimulatedModel>) -> Self {
        let models = models.into_iter().map(|model| (model.id.clone(), model)).collect();
        Self { models, device: Arc::default() }
    }

    /// The files of its models, sorted by id: what a [store](super::store) would have found. None is on a disk.
    pub fn files(&self) -> Vec<ModelFile> {
        let file = |id: &String| ModelFile {
            id: id.clone(),
            label: String::new(),
            version: blake3::hash(id.as_bytes()).to_hex()[..16].to_owned(),
            path: format!("simulated/{id}.onnx").into(),
            bytes: FILE_BYTES,
            output: None,
            inputs: std::collections::BTreeMap::new(),
        };
        self.models.keys().map(file).collect()
    }

    /// What a store would have found: for [`load_catalog`](super::load::load_catalog).
    pub fn found(&self) -> super::store::Found {
        super::store::Found { files: self.files(), faults: Vec::new() }
    }

    /// Makes the next `calls` runs fail, whichever model they are of. Zero repairs the device.
    pub fn break_device(&self, calls: u64) {
        self.break_device_after(0, calls);
    }

    /// The same, once `good` more runs have been asked for.
    pub fn break_device_after(&self, good: u64, calls: u64) {
        self.device.good_calls.store(good, Ordering::SeqCst);
        self.device.broken_calls.store(calls, Ordering::SeqCst);
    }

    /// Whether to give the answers of the first two rows of each run in the wrong order: a defect, for the tests to catch.
    pub fn swap_rows(&self, swap: bool) {
        self.device.swaps_rows.store(swap, Ordering::SeqCst);
    }

    /// How many runs were asked for, failed ones included.
    pub fn calls(&self) -> u64 {
        self.device.calls.load(Ordering::SeqCst)
    }

    /// How many rows were answered.
    pub fn rows(&self) -> u64 {
        self.device.rows.load(Ordering::SeqCst)
    }

    /// What a run of `rows` rows of a model costs. A model that it does not have costs nothing.
    pub fn cost(&self, id: &str, rows: usize) -> Duration {
        let cost = |model: &SimulatedModel| {
            let runs = model.buckets.pieces(rows);
            let of_run =
                |(_, size)| model.run_cost + model.row_cost * u32::try_from(size).unwrap_or(u32::MAX);
            runs.map(of_run).sum()
        };
        self.models.get(id).map_or(Duration::ZERO, cost)
    }
}

impl Backend for SimulatedBackend {
    fn open(&self, file: &ModelFile) -> Result<Box<dyn Model>, ModelError> {
        let Some(model) = self.models.get(&file.id) else {
            let path = file.path.display().to_string();
            return Err(ModelError::Load { path, reason: "no such model is simulated".to_owned() });
        };
        if let Some(reason) = &model.fault {
            return Err(ModelError::Unsupported { id: file.id.clone(), reason: reason.clone() });
        }
        let signature = Signature {
            providers: vec!["simulated".to_owned()],
            buckets: model.buckets.clone(),
            ..Signature::of_floats(&model.row_shape, model.output_len)
        };
        let row_len = model.row_shape.iter().product();
        let output_len = model.output_len;
        Ok(Box::new(Session { signature, row_len, output_len, device: Arc::clone(&self.device) }))
    }

    fn name(&self) -> String {
        "simulated models".to_owned()
    }
}

/// A simulated model, opened.
struct Session {
    signature: Signature,
    row_len: usize,
    output_len: usize,
    device: Arc<Device>,
}

impl Model for Session {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn run(&mut self, rows: usize, inputs: &[Column], outputs: &mut Vec<Column>) -> Result<(), RunError> {
        let input = inputs[0].floats();
        assert_eq!(input.len(), rows * self.row_len, "a run has as many floats as its rows need");
        outputs.resize_with(1, || Column::of_floats(0, Vec::new()));
        outputs[0].reset(&[self.output_len], Dtype::F32);
        self.device.calls.fetch_add(1, Ordering::SeqCst);
        if self.device.fails_now() {
            return Err(RunError("the simulated device is broken".to_owned()));
        }
        let row = |place: usize| &input[place * self.row_len..][..self.row_len];
        if let Some(place) = (0..rows).find(|place| row(*place).first() == Some(&POISON)) {
            return Err(RunError(format!("row {place} of {rows} is poison to the simulated model")));
        }
        let Values::F32(output) = &mut outputs[0].values else { unreachable!("it was made so above") };
        for place in 0..rows {
            answer(row(place), self.output_len, output);
        }
        if rows >= 2 && self.device.swaps_rows.load(Ordering::SeqCst) {
            let (first, rest) = output.split_at_mut(self.output_len);
            first.swap_with_slice(&mut rest[..self.output_len]);
        }
        self.device.rows.fetch_add(rows as u64, Ordering::SeqCst);
        Ok(())
    }
}

impl Device {
    /// Counts down the runs that the device is broken for.
    fn fails_now(&self) -> bool {
        let count_down = |calls: &AtomicU64| {
            calls.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |calls| calls.checked_sub(1)).is_ok()
        };
        !count_down(&self.good_calls) && count_down(&self.broken_calls)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::catalog::{BatchPolicy, Limits, NotFinite};
    use crate::clock::ManualClock;
    use crate::model::load::{ModelSettings, load_catalog};

    fn backend() -> SimulatedBackend {
        let unloadable = SimulatedModel {
            fault: Some("it has two inputs".to_owned()),
            ..SimulatedModel::new("broken", 1, 1)
        };
        let slow = SimulatedModel {
            run_cost: Duration::from_millis(2),
            row_cost: Duration::from_micros(10),
            ..SimulatedModel::new("slow", 3, 2)
        };
        SimulatedBackend::new([unloadable, slow])
    }

    fn open(backend: &SimulatedBackend, id: &str) -> Box<dyn Model> {
        let file = backend.files().into_iter().find(|file| file.id == id).unwrap();
        backend.open(&file).unwrap()
    }

    proptest! {
        #[test]
        fn each_row_is_answered_by_itself_and_in_its_place(rows in prop::collection::vec(prop::array::uniform3(-1e3_f32..1e3), 0..20)) {
            let output = open(&backend(), "slow").run_floats(rows.len(), rows.as_flattened()).unwrap();
            let oracle: Vec<f32> = rows.iter().flat_map(|row| expected(row, 2)).collect();
            prop_assert_eq!(output, oracle);
        }

        #[test]
        fn rows_that_differ_in_a_place_are_answered_differently(row in prop::array::uniform3(-1e3_f32..1e3), place in 0_usize..3) {
            let mut other = row;
            other[place] += 1.0;
            prop_assert_ne!(expected(&row, 2), expected(&other, 2));
        }
    }

    #[test]
    fn one_poison_row_fails_the_run_and_no_run_after_it() {
        let backend = backend();
        let mut model = open(&backend, "slow");
        let failed = model.run_floats(2, &[0.0, 0.0, 0.0, POISON, 0.0, 0.0]);
        assert_eq!(failed, Err(RunError("row 1 of 2 is poison to the simulated model".to_owned())));
        assert!(model.run_floats(1, &[0.0, POISON, 0.0]).is_ok());
        assert_eq!((backend.calls(), backend.rows()), (2, 1));
    }

    #[test]
    fn a_broken_device_fails_every_session_until_its_calls_are_spent() {
        let backend = backend();
        let (mut one, mut other) = (open(&backend, "slow"), open(&backend, "slow"));
        backend.break_device(2);
        let works = |model: &mut dyn Model| model.run_floats(1, &[1.0; 3]).is_ok();
        let outcomes = [works(&mut *one), works(&mut *other), works(&mut *one)];
        assert_eq!(outcomes, [false, false, true]);
    }

    #[test]
    fn swapped_rows_do_not_pass_the_oracle() {
        let backend = backend();
        backend.swap_rows(true);
        let input = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let output = open(&backend, "slow").run_floats(2, &input).unwrap();
        assert_eq!(output, [expected(&input[3..], 2), expected(&input[..3], 2)].concat());
    }

    #[test]
    fn a_run_costs_its_rows_and_a_fixed_part() {
        assert_eq!(backend().cost("slow", 64), Duration::from_micros(2_640));
        assert_eq!(backend().cost("absent", 64), Duration::ZERO);
        let buckets = Buckets::of([16]);
        let filled = SimulatedModel { buckets, ..backend().models["slow"].clone() };
        let filled = SimulatedBackend::new([filled]);
        assert_eq!(filled.cost("slow", 20), 2 * Duration::from_micros(2_160), "two runs of 16 rows");
    }

    #[test]
    fn a_model_that_does_not_load_is_listed_with_its_reason() {
        let backend = backend();
        let settings = |_: &str| ModelSettings {
            output: None,
            inputs: std::collections::BTreeMap::new(),
            not_finite: NotFinite::Refuse,
            batch: BatchPolicy::Static { size_max: 8, delay_max: Duration::from_millis(1) },
            batch_bytes_max: 50,
            limits: Limits::default(),
            open_bytes_max: None,
            devices: vec![3],
        };
        let loaded = load_catalog(&backend, backend.found(), &ManualClock::new(), settings).unwrap();
        let broken = loaded.catalog.find(b"broken").unwrap();
        let slow = loaded.catalog.find(b"slow").unwrap();
        assert!(matches!(loaded.catalog.listing(broken),
            crate::catalog::Listing::Unavailable { reason, .. } if reason.contains("it has two inputs")));
        let served = loaded.catalog.served(slow).unwrap();
        // Rows of three floats.
        assert_eq!(
            (served.signature.floats().unwrap(), &served.devices[..], served.batch.size_max()),
            (3, &[3][..], 4)
        );
        assert_eq!(loaded.files.keys().copied().collect::<Vec<_>>(), [slow]);
    }
}
