//! The autopilot: carries out what its [judgement](dataflows::capacity::pilot) says, or says what it would do, and writes down each time.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dataflows::capacity::pilot::{Change, Kind, Pilot};
use dataflows::capacity::report::Report;
use dataflows::capacity::setting::{self, Setting, Values};
use dataflows::capacity::tick::Setup;
use operators::catalog::{Catalog, Listing, ModelIndex};
use operators::tuning::Tuning;
use serde::Serialize;

use crate::config::{Config, Mode};

/// Changes that are shown, the last ones.
const SHOWN_MAX: usize = 100;

/// A change as it is written down and shown.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// When it was decided, as RFC 3339 has it.
    pub at: String,
    /// Whether it was made.
    pub made: bool,
    /// What kind of change it is.
    pub kind: Kind,
    /// The setting.
    pub setting: String,
    /// Its value before.
    pub from: String,
    /// Its value after.
    pub to: String,
    /// Why.
    pub why: String,
}

/// What is shown of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Shown {
    /// Whether it may change anything.
    pub mode: Mode,
    /// The settings as they are, by their names.
    pub settings: BTreeMap<String, String>,
    /// The last changes, the newest last.
    pub changes: VecDeque<Entry>,
    /// How many changes of each kind were made, or would have been.
    #[serde(skip)]
    pub counts: BTreeMap<Kind, u64>,
    /// The settings as numbers: as they are, a wait in microseconds.
    #[serde(skip)]
    pub values: Values,
}

/// It.
#[derive(Debug)]
pub struct Autopilot {
    mode: Mode,
    pilot: Pilot,
    tuning: Arc<Tuning>,
    models: BTreeMap<String, ModelIndex>,
    audit: Option<File>,
    shown: Shown,
}

impl Autopilot {
    /// The autopilot of an engine with this configuration and these models; `None` if it is off. With mode "on" it sets `tuning` to what is
    /// configured, below the ceilings that the engine was started with.
    ///
    /// # Errors
    ///
    /// If its audit can't be written.
    pub fn new(config: &Config, catalog: &Catalog, tuning: Arc<Tuning>) -> io::Result<Option<Self>> {
        let about = &config.capacity.autopilot;
        if about.mode == Mode::Off {
            return Ok(None);
        }
        let audit = about.audit.as_deref().map(open).transpose()?;
        let (mut first, mut most, mut models) = (Values::new(), Values::new(), BTreeMap::new());
        let mut may = |setting: Setting, now: u64, ceiling: u64| {
            first.insert(setting.clone(), now);
            most.insert(setting, ceiling.max(now));
        };
        may(Setting::Executors, wide(config.onnx.executors), wide(about.executors_max));
        may(Setting::InFlight, wide(config.in_flight.records_max), wide(about.in_flight_max));
        for (place, listing) in (0..).zip(catalog.listings()) {
            let Listing::Served(served) = listing else { continue };
            models.insert(served.id.clone(), ModelIndex(place));
            let ceiling = match about.mode {
                Mode::On => served.batch.size_max(),
                Mode::Off | Mode::DryRun => config.batch_ceiling(&served.id).size_max(),
            };
            let configured = config.batch_policy(&served.id).size_max().min(ceiling);
            may(Setting::SizeMax(served.id.clone()), wide(configured), wide(ceiling));
            if let operators::catalog::BatchPolicy::Static { delay_max, .. } = served.batch {
                // Half of a deadline is for the batch itself.
                let deadline = served.limits.deadline.map_or(Duration::MAX, |deadline| deadline / 2);
                let ceiling = about.batch_delay_max.min(deadline);
                may(Setting::DelayMax(served.id.clone()), micros(delay_max), micros(ceiling));
            }
        }
        let settle = i64::try_from(about.settle.as_millis()).unwrap_or(i64::MAX);
        let pilot = Pilot::new(first.clone(), most, settle);
        let shown = Shown { mode: about.mode, ..Shown::default() };
        let mut autopilot = Self { mode: about.mode, pilot, tuning, models, audit, shown };
        if about.mode == Mode::On {
            first.iter().for_each(|(setting, value)| autopilot.apply(setting, *value));
        }
        autopilot.show();
        Ok(Some(autopilot))
    }

    /// What is shown of it.
    pub fn shown(&self) -> &Shown {
        &self.shown
    }

    /// Looks at a report, and does what is to be done: changes a setting, and what is known of the engine with it.
    pub fn look(&mut self, report: &Report, setup: &mut Setup) {
        let Some(change) = self.pilot.look(report) else { return };
        let is_on = self.mode == Mode::On;
        let entry = entry(&change, is_on);
        // Written down before it is done: what was done and not written would be nobody's.
        if let Err(error) = self.write(&entry) {
            tracing::error!(%error, "the autopilot changes nothing more: its audit can't be written");
            self.pilot.declined(&change);
            (self.mode, self.audit, self.shown.mode) = (Mode::Off, None, Mode::Off);
            return;
        }
        let Entry { setting, from, to, why, .. } = &entry;
        let kind = change.kind.name();
        if is_on {
            tracing::info!(setting, from, to, kind, why, "the autopilot changes a setting");
            self.apply(&change.setting, change.to);
            setting::change(setup, &change.setting, change.to);
            self.pilot.made(&change, report);
        } else {
            tracing::info!(setting, from, to, kind, why, "the autopilot would change a setting");
            self.pilot.declined(&change);
        }
        *self.shown.counts.entry(change.kind).or_default() += 1;
        self.shown.changes.push_back(entry);
        if self.shown.changes.len() > SHOWN_MAX {
            self.shown.changes.pop_front();
        }
        self.show();
    }

    /// Whether it may still do anything.
    pub fn is_off(&self) -> bool {
        self.mode == Mode::Off
    }

    fn show(&mut self) {
        let written = |(setting, value): (&Setting, &u64)| (setting.to_string(), setting.written(*value));
        self.shown.settings = self.pilot.values().iter().map(written).collect();
        self.shown.values.clone_from(self.pilot.values());
    }

    fn apply(&self, setting: &Setting, value: u64) {
        let number = usize::try_from(value).unwrap_or(usize::MAX);
        match setting {
            Setting::Executors => self.tuning.set_executors(number),
            Setting::InFlight => self.tuning.set_in_flight(number),
            Setting::SizeMax(model) => {
                self.models.get(model).into_iter().for_each(|model| self.tuning.set_size_max(*model, number));
            }
            Setting::DelayMax(model) => {
                let delay = Duration::from_micros(value);
                self.models.get(model).into_iter().for_each(|model| self.tuning.set_delay_max(*model, delay));
            }
        }
    }

    fn write(&mut self, entry: &Entry) -> io::Result<()> {
        let Some(audit) = &mut self.audit else { return Ok(()) };
        let mut line = serde_json::to_string(entry)?;
        line.push('\n');
        audit.write_all(line.as_bytes())?;
        audit.sync_data()
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn entry(change: &Change, made: bool) -> Entry {
    let at = jiff::Timestamp::from_millisecond(change.at_millis);
    Entry {
        at: at.map_or_else(|_| change.at_millis.to_string(), |at| at.to_string()),
        made,
        kind: change.kind,
        setting: change.setting.to_string(),
        from: change.setting.written(change.from),
        to: change.setting.written(change.to),
        why: change.why.clone(),
    }
}

fn wide(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use dataflows::capacity::report::PartitionReport;
    use dataflows::capacity::setting::Action;
    use dataflows::capacity::verdict::Finding;

    use super::*;

    fn autopilot(mode: Mode, audit: Option<File>, tuning: &Arc<Tuning>) -> Autopilot {
        let first = Values::from([(Setting::Executors, 1)]);
        let pilot = Pilot::new(first, Values::from([(Setting::Executors, 4)]), 20_000);
        let (models, shown) = (BTreeMap::new(), Shown { mode, ..Shown::default() });
        Autopilot { mode, pilot, tuning: Arc::clone(tuning), models, audit, shown }
    }

    /// Reports that advise four executors, one each five seconds.
    fn look(autopilot: &mut Autopilot, setup: &mut Setup, reports: i64) {
        for place in 1..=reports {
            let action = Some(Action { setting: Setting::Executors, to: 4 });
            let finding = Finding { action, ..Finding::default() };
            let report = Report {
                at_millis: 1_800_000_000_000 + 5_000 * place,
                partitions: vec![PartitionReport { finding, ..PartitionReport::default() }],
                ..Report::default()
            };
            autopilot.look(&report, setup);
        }
    }

    #[test]
    fn a_change_is_written_down_and_made_and_a_dry_run_only_writes() {
        for (mode, made, executors) in [(Mode::On, true, 4), (Mode::DryRun, false, 1)] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("audit.jsonl");
            let tuning = Arc::new(Tuning::default());
            tuning.set_executors(1);
            let mut autopilot = autopilot(mode, Some(open(&path).unwrap()), &tuning);
            let mut setup = Setup { executors: 1, ..Setup::default() };
            look(&mut autopilot, &mut setup, 3);
            assert_eq!((tuning.executors(8), setup.executors), (executors, executors), "{mode:?}");
            let line: serde_json::Value =
                serde_json::from_str(std::fs::read_to_string(&path).unwrap().trim()).unwrap();
            assert_eq!((&line["made"], &line["kind"]), (&made.into(), &"advised".into()), "{line}");
            assert_eq!((&line["from"], &line["to"]), (&"1".into(), &"4".into()), "{line}");
            assert_eq!(autopilot.shown().settings["onnx.executors"], executors.to_string());
            assert_eq!(autopilot.shown().changes.len(), 1);
        }
    }

    #[test]
    fn what_can_t_be_written_down_is_not_done() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        std::fs::write(&path, "").unwrap();
        let tuning = Arc::new(Tuning::default());
        tuning.set_executors(1);
        // Opened to be read only: each write fails.
        let mut autopilot = autopilot(Mode::On, Some(File::open(&path).unwrap()), &tuning);
        let mut setup = Setup { executors: 1, ..Setup::default() };
        look(&mut autopilot, &mut setup, 3);
        assert!(autopilot.is_off() && tuning.executors(8) == 1 && setup.executors == 1);
    }
}
