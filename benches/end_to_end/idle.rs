//! Every partition assigned, and nothing to do.

use std::thread;
use std::time::Duration;

use crate::figures::Figures;
use tidemill::experiment::system::Running;
use tidemill::experiment::{Failure, Setup, World};

const WATCHED: Duration = Duration::from_secs(10);

pub(crate) fn run(setup: &Setup) -> Result<Figures, Failure> {
    let world = World::of_model(setup, "idle", "mlp-16", 16)?;
    let engine = Running::start(setup, &world)?;
    let before = engine.cpu()?;
    thread::sleep(WATCHED);
    let spent = engine.cpu()?.saturating_sub(before);
    let rss_bytes = engine.stop()?;
    let idle_cpu_percent = Some(spent.as_secs_f64() / WATCHED.as_secs_f64() * 100.0);
    Ok(Figures { name: "idle", rss_bytes, idle_cpu_percent, ..Figures::default() })
}
