//! The autopilot's judgement: which of the settings that a process may change of itself it should change now, if any.
//!
//! It is slow to act and quick to doubt. What it is advised has to be advised several times over; one setting is changed at a time; and after each
//! change it waits until what is seen is of the time after it. A change that did not help is taken back, and not tried again for a while that
//! doubles each time. What is no longer needed goes back the way it came, once all has been well for long; what is then wanted again stays for
//! twice as long. So whatever it is shown, the number of changes in a time is bounded, and the longer it swings, the fewer there are.

use std::collections::BTreeMap;

use serde::Serialize;

use super::report::Report;
use super::setting::{Action, Setting, Values};

/// Reports in which the same has to be advised before it is done.
const AGREED: u32 = 3;

/// All has to have been well for so many times what a change takes to be seen, before anything goes back.
const CALM_TIMES: i64 = 10;

/// A change that did not help is not tried again for so many times what a change takes to be seen, and twice as long each time; a day at most.
const HELD_TIMES: i64 = 20;
const HELD_MILLIS_MAX: i64 = 86_400_000;

/// A change has helped if lags grow by this share less than before it.
const HELPED: f64 = 0.2;

/// A change that should be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// When it was decided: milliseconds since the Unix epoch.
    pub at_millis: i64,
    /// What is to be changed.
    pub setting: Setting,
    /// Its value before.
    pub from: u64,
    /// Its value after.
    pub to: u64,
    /// What kind of change it is.
    pub kind: Kind,
    /// Why.
    pub why: String,
}

/// Kinds of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It is advised.
    Advised,
    /// It did not help, and is taken back.
    TakenBack,
    /// It is not needed any more, and goes back the way it came.
    Returned,
}

impl Kind {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Advised, Self::TakenBack, Self::Returned];

    /// Its name in output and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Advised => "advised",
            Self::TakenBack => "taken_back",
            Self::Returned => "returned",
        }
    }
}

/// The judgement, and what it goes by.
#[derive(Debug)]
pub struct Pilot {
    /// What settings were when it began.
    first: Values,
    now: Values,
    /// How far up each may go.
    most: Values,
    /// How long it takes until what is seen is of the time after a change, in milliseconds.
    settle: i64,
    wanted: Option<(Action, u32)>,
    changed_at: i64,
    trial: Option<Trial>,
    held: BTreeMap<Setting, Held>,
    calm_since: Option<i64>,
    /// How long all has to be well before a setting goes back.
    calm: BTreeMap<Setting, i64>,
    /// Which went up, the last one last.
    raised: Vec<Setting>,
}

/// A change whose use has not been seen yet.
#[derive(Debug)]
struct Trial {
    change: Change,
    growing: f64,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    until: i64,
    length: i64,
}

impl Pilot {
    /// One that begins with these values and may go up to those; a setting that is not among `most` stays as it is.
    pub fn new(first: Values, most: Values, settle_millis: i64) -> Self {
        Self {
            now: first.clone(),
            first,
            most,
            settle: settle_millis.max(1),
            wanted: None,
            changed_at: i64::MIN,
            trial: None,
            held: BTreeMap::new(),
            calm_since: None,
            calm: BTreeMap::new(),
            raised: Vec::new(),
        }
    }

    /// The values as they are.
    pub fn values(&self) -> &Values {
        &self.now
    }

    /// What should be changed now. Whoever makes the change says so with [`Pilot::made`], and whoever does not with [`Pilot::declined`].
    pub fn look(&mut self, report: &Report) -> Option<Change> {
        let at = report.at_millis;
        let is_settled = at.saturating_sub(self.changed_at) >= self.settle;
        let action = wanted(report);
        self.calm_since = match &action {
            None if report.missing().is_empty() => Some(self.calm_since.unwrap_or(at)),
            _ => None,
        };
        if !is_settled {
            return None;
        }
        if let Some(trial) = self.trial.take() {
            let after = growing(report);
            if after > 0.0 && after > (1.0 - HELPED) * trial.growing {
                return Some(back(at, &trial, after));
            }
        }
        let Some((action, why)) = action else {
            self.wanted = None;
            return self.returned(at, report);
        };
        self.advised(at, action, why)
    }

    /// A change was made.
    pub fn made(&mut self, change: &Change, report: &Report) {
        let at = change.at_millis;
        self.now.insert(change.setting.clone(), change.to);
        (self.changed_at, self.wanted, self.calm_since) = (at, None, None);
        match change.kind {
            Kind::Advised => {
                self.raised.retain(|setting| *setting != change.setting);
                self.raised.push(change.setting.clone());
                self.trial = Some(Trial { change: change.clone(), growing: growing(report) });
            }
            Kind::TakenBack => {
                self.hold(&change.setting, at);
                if self.first.get(&change.setting) == Some(&change.to) {
                    self.raised.retain(|setting| *setting != change.setting);
                }
            }
            Kind::Returned => {
                if self.first.get(&change.setting) == Some(&change.to) {
                    self.raised.retain(|setting| *setting != change.setting);
                }
                let calm = self.calm.entry(change.setting.clone()).or_insert(self.settle * CALM_TIMES);
                *calm = calm.saturating_mul(2).min(HELD_MILLIS_MAX);
            }
        }
    }

    /// A change was not made: it is not proposed again for a while.
    pub fn declined(&mut self, change: &Change) {
        self.wanted = None;
        self.hold(&change.setting, change.at_millis);
    }

    fn hold(&mut self, setting: &Setting, at: i64) {
        let before = self.held.get(setting).map(|held| held.length.saturating_mul(2));
        let length = before.unwrap_or(self.settle.saturating_mul(HELD_TIMES)).min(HELD_MILLIS_MAX);
        self.held.insert(setting.clone(), Held { until: at.saturating_add(length), length });
    }

    fn advised(&mut self, at: i64, action: Action, why: String) -> Option<Change> {
        let from = *self.now.get(&action.setting)?;
        let most = *self.most.get(&action.setting)?;
        let to = action.to.min(most);
        if to <= from || self.held.get(&action.setting).is_some_and(|held| at < held.until) {
            return None;
        }
        let times = match self.wanted.take() {
            Some((before, times)) if before.setting == action.setting => times + 1,
            _ => 1,
        };
        if times < AGREED {
            self.wanted = Some((action, times));
            return None;
        }
        Some(Change { at_millis: at, setting: action.setting, from, to, kind: Kind::Advised, why })
    }

    /// What went up last goes half of the way back, if all has been well for long enough and it is not needed.
    fn returned(&self, at: i64, report: &Report) -> Option<Change> {
        let setting = self.raised.last()?;
        let calm = self.calm.get(setting).copied().unwrap_or(self.settle * CALM_TIMES);
        let since = self.calm_since?;
        if at.saturating_sub(since) < calm {
            return None;
        }
        let (from, first) = (*self.now.get(setting)?, *self.first.get(setting)?);
        let needed = match setting {
            Setting::Executors => u64::try_from(report.total.executors_needed?).unwrap_or(u64::MAX),
            _ => first,
        };
        let to = (first + from.saturating_sub(first) / 2).max(needed);
        (to < from).then(|| Change {
            at_millis: at,
            setting: setting.clone(),
            from,
            to,
            kind: Kind::Returned,
            why: format!("no lag has grown for {} s", (at - since) / 1_000),
        })
    }
}

/// What is advised for the partition that misses its objective first, and why; of those that miss none, for the one with the most records.
fn wanted(report: &Report) -> Option<(Action, String)> {
    let advised = report.partitions.iter().filter(|partition| partition.finding.action.is_some());
    let first = advised.min_by(|left, right| {
        let missed = |missed: Option<f64>| missed.unwrap_or(f64::INFINITY);
        missed(left.missed_in)
            .total_cmp(&missed(right.missed_in))
            .then(right.share.total_cmp(&left.share))
            .then(left.partition.cmp(&right.partition))
    })?;
    let evidence = first.finding.evidence.join("; ");
    let why = format!("partition {} is {}: {evidence}", first.partition, first.finding.verdict.name());
    Some((first.finding.action.clone()?, why))
}

/// By how many records a second all lags together grow that do.
fn growing(report: &Report) -> f64 {
    let growing = report.partitions.iter().filter_map(|partition| partition.lag_growing);
    growing.map(|growing| growing.mean.max(0.0)).sum()
}

fn back(at: i64, trial: &Trial, after: f64) -> Change {
    let Change { setting, from, to, .. } = &trial.change;
    Change {
        at_millis: at,
        setting: setting.clone(),
        from: *to,
        to: *from,
        kind: Kind::TakenBack,
        why: format!(
            "lags grew by {:.1} records a second before it and by {after:.1} after it",
            trial.growing
        ),
    }
}

#[cfg(test)]
mod tests;
