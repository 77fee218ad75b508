//! What a schedule has brought about, and a campaign of them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;
use tidemill::audit::AuditReport;

use super::engine::series_in;
use super::schedule::Schedule;

/// What engines count, summed over their lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Rows inferred.
    pub(crate) inferred: u64,
    /// Transactions aborted.
    pub(crate) aborted: u64,
    /// Producers made anew.
    pub(crate) rebuilt: u64,
    /// Engines that could not reach the broker at their start, and were started again.
    pub(crate) restarted: u64,
}

impl Counts {
    /// What a page of metrics says.
    pub(crate) fn of(page: &str) -> Self {
        let sum = |metric| series_in(page, metric).iter().sum();
        Self {
            inferred: sum("tidemill_model_records_total"),
            aborted: sum("tidemill_aborts_total"),
            rebuilt: sum("tidemill_producer_rebuilds_total"),
            restarted: 0,
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.inferred += other.inferred;
        self.aborted += other.aborted;
        self.rebuilt += other.rebuilt;
        self.restarted += other.restarted;
    }
}

/// What became of a schedule.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Outcome {
    pub(crate) seed: u64,
    nodes: usize,
    engines: usize,
    /// Their `commit.order`.
    order: &'static str,
    /// What was done to them, by kind.
    faults: BTreeMap<&'static str, usize>,
    /// What was to be done and could not be, and why.
    pub(crate) skipped: Vec<String>,
    pub(crate) requests: u64,
    results: u64,
    dead_letters: u64,
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    wrong: u64,
    unexpected: u64,
    /// Acknowledged requests that are not in the topic: the broker's fault.
    missing: u64,
    /// At least so many: of an engine that was killed, what it had done since it was last asked is not known.
    inferred_twice: u64,
    aborted: u64,
    rebuilt: u64,
    restarted: u64,
    seconds: f64,
    /// Why it failed, if it did.
    pub(crate) failure: Option<String>,
}

impl Outcome {
    pub(crate) fn new(
        schedule: &Schedule,
        report: &AuditReport,
        counts: Counts,
        skipped: Vec<String>,
        took: Duration,
    ) -> Self {
        // What the models ran on: every result, and poisoned rows, which can only be found out by it.
        let poisoned = report.dead_letters_by_reason.get("inference_failed").copied().unwrap_or(0);
        Self {
            skipped,
            requests: report.requests,
            results: report.results,
            dead_letters: report.dead_letters,
            lost: report.lost,
            duplicated: report.duplicated,
            wrong: report.wrong,
            unexpected: report.unexpected,
            missing: report.missing,
            inferred_twice: counts.inferred.saturating_sub(report.results + poisoned),
            aborted: counts.aborted,
            rebuilt: counts.rebuilt,
            restarted: counts.restarted,
            seconds: took.as_secs_f64(),
            failure: (!report.clean()).then(|| report.to_string()),
            ..Self::of(schedule)
        }
    }

    /// A schedule that did not come to its audit.
    pub(crate) fn broken(schedule: &Schedule, why: String) -> Self {
        Self { failure: Some(why), ..Self::of(schedule) }
    }

    fn of(schedule: &Schedule) -> Self {
        let mut faults = BTreeMap::new();
        for kind in &schedule.faults {
            *faults.entry(kind.name()).or_default() += 1;
        }
        let Schedule { seed, nodes, engines, order, .. } = *schedule;
        Self { seed, nodes, engines, order, faults, ..Self::default() }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "seed {}: order={}", self.seed, self.order)?;
        for (kind, count) in &self.faults {
            write!(out, " {kind}={count}")?;
        }
        write!(
            out,
            "; requests={} inferred_twice={} aborted={} rebuilt={} restarted={}; lost={} duplicated={} wrong={} \
             unexpected={} missing={}; {:.1} s",
            self.requests,
            self.inferred_twice,
            self.aborted,
            self.rebuilt,
            self.restarted,
            self.lost,
            self.duplicated,
            self.wrong,
            self.unexpected,
            self.missing,
            self.seconds
        )?;
        self.skipped.iter().try_for_each(|skipped| write!(out, "\n  skipped: {skipped}"))
    }
}

/// What became of a campaign.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Campaign {
    schedules: usize,
    failed: usize,
    requests: u64,
    lost: u64,
    duplicated: u64,
    inferred_twice: u64,
    aborted: u64,
    rebuilt: u64,
    faults: BTreeMap<&'static str, usize>,
}

impl Campaign {
    pub(crate) fn add(&mut self, outcome: &Outcome) {
        self.schedules += 1;
        self.failed += usize::from(outcome.failure.is_some());
        self.requests += outcome.requests;
        self.lost += outcome.lost;
        self.duplicated += outcome.duplicated;
        self.inferred_twice += outcome.inferred_twice;
        self.aborted += outcome.aborted;
        self.rebuilt += outcome.rebuilt;
        for (kind, count) in &outcome.faults {
            *self.faults.entry(kind).or_default() += count;
        }
    }

    /// Whether every schedule came to its end, and every audit was clean.
    pub(crate) fn is_clean(&self) -> bool {
        self.failed == 0
    }
}

impl fmt::Display for Campaign {
    /// What was injected and what it cost, and the line that says it all.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { schedules, requests, lost, duplicated, inferred_twice, aborted, rebuilt, .. } = self;
        let faults: Vec<String> = self.faults.iter().map(|(kind, count)| format!("{kind}={count}")).collect();
        writeln!(out, "injected: {}", faults.join(" "))?;
        writeln!(out, "cost: inferred_twice={inferred_twice} aborted={aborted} rebuilt={rebuilt}")?;
        if self.failed > 0 {
            writeln!(out, "failed: {}", self.failed)?;
        }
        write!(out, "chaos: schedules={schedules} requests={requests} lost={lost} duplicated={duplicated}")
    }
}
