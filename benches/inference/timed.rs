//! Models whose runs take the time that they are told to, and nothing else: the thread sleeps, so that the figures are those of the
//! scheduling, on a machine of few cores too.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use operators::model::simulated::{SimulatedBackend, SimulatedModel};
use operators::model::{Backend, Model, ModelError, ModelFile, RunError, Signature};
use operators::tensor::Column;

/// What a run of so many rows takes.
pub(crate) type Cost = fn(usize) -> Duration;

/// One simulated model, `m`, of rows of one number.
pub(crate) struct Timed {
    simulated: SimulatedBackend,
    cost: Cost,
}

impl Timed {
    pub(crate) fn new(cost: Cost) -> Self {
        Self { simulated: SimulatedBackend::new([SimulatedModel::new("m", 1, 1)]), cost }
    }

    /// Where its model is found.
    pub(crate) fn found(&self) -> operators::model::store::Found {
        self.simulated.found()
    }
}

impl Backend for Timed {
    fn open(&self, file: &ModelFile) -> Result<Box<dyn Model>, ModelError> {
        let model = self.simulated.open(file)?;
        Ok(Box::new(Slowly { model, cost: self.cost }))
    }

    fn name(&self) -> String {
        "simulated models that take time".to_owned()
    }
}

struct Slowly {
    model: Box<dyn Model>,
    cost: Cost,
}

impl Model for Slowly {
    fn signature(&self) -> &Signature {
        self.model.signature()
    }

    fn run(&mut self, rows: usize, inputs: &[Column], outputs: &mut Vec<Column>) -> Result<(), RunError> {
        thread::sleep((self.cost)(rows));
        self.model.run(rows, inputs, outputs)
    }

    fn cancel(&self) -> Option<Arc<dyn operators::model::Cancel>> {
        self.model.cancel()
    }
}
