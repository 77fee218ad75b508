//! What an audit found.

use std::collections::BTreeMap;
use std::fmt;

use operators::lease::{Offset, Partition};
use serde::{Deserialize, Serialize};

/// What an audit found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AuditReport {
    /// Requests audited.
    pub requests: u64,
    /// Results of them.
    pub results: u64,
    /// Dead letters of them.
    pub dead_letters: u64,
    /// The same by reason; `?` for one that does not exist.
    pub dead_letters_by_reason: BTreeMap<String, u64>,
    /// Requests without an outcome.
    pub lost: u64,
    /// Requests with more than one outcome.
    pub duplicated: u64,
    /// Whether there may be such: at least once is what was promised.
    pub duplicates_allowed: bool,
    /// Requests with an outcome that is not right.
    pub wrong: u64,
    /// Outcomes that belong to no request.
    pub unexpected: u64,
    /// Acknowledged requests that are not in the topic.
    pub missing: u64,
    /// Lines of the acknowledgement log, if there is one.
    pub acknowledged: Option<u64>,
    /// Requests with a request id that another one has. No fault: each is a request of its own.
    pub repeated_request_ids: u64,
    /// Outcomes of requests that lie before or behind those that are audited.
    pub outside: u64,
    /// Requests on which a model was run by itself.
    pub inferred: u64,
    /// The first failure of such a run.
    pub oracle_failure: Option<String>,
    /// The largest difference between an output and what the model says by itself.
    pub largest_difference: f64,
    /// The first faults of each kind.
    pub faults: Vec<Fault>,
}

impl AuditReport {
    /// Whether every request ended as often as was promised and rightly, and nothing else did.
    ///
    /// ```
    /// use tidemill::audit::AuditReport;
    ///
    /// let twice = AuditReport { requests: 1, results: 2, duplicated: 1, ..AuditReport::default() };
    /// assert!(!twice.clean());
    /// assert!(AuditReport { duplicates_allowed: true, ..twice.clone() }.clean());
    /// assert!(!AuditReport { duplicates_allowed: true, lost: 1, ..twice }.clean());
    /// ```
    pub fn clean(&self) -> bool {
        let duplicated = if self.duplicates_allowed { 0 } else { self.duplicated };
        self.lost + duplicated + self.wrong + self.unexpected + self.missing == 0
    }

    /// The line that says it all, and ends what is printed.
    ///
    /// ```
    /// use tidemill::audit::AuditReport;
    ///
    /// let line = AuditReport { requests: 2, results: 2, ..AuditReport::default() }.last_line();
    /// assert_eq!(line, "audit: requests=2 results=2 dead_letters=0 lost=0 duplicated=0 wrong=0");
    /// ```
    pub fn last_line(&self) -> String {
        let Self { requests, results, dead_letters, lost, duplicated, wrong, .. } = self;
        format!(
            "audit: requests={requests} results={results} dead_letters={dead_letters} lost={lost} \
             duplicated={duplicated} wrong={wrong}"
        )
    }

    fn count(&self, kind: FaultKind) -> u64 {
        match kind {
            FaultKind::Lost => self.lost,
            FaultKind::Duplicated => self.duplicated,
            FaultKind::Wrong => self.wrong,
            FaultKind::Unexpected => self.unexpected,
            FaultKind::Missing => self.missing,
        }
    }
}

impl fmt::Display for AuditReport {
    /// A short table, the faults, and the last line.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |name: &str, count: u64| writeln!(out, "  {name:<24}{count:>12}");
        row("requests", self.requests)?;
        row("results", self.results)?;
        row("dead letters", self.dead_letters)?;
        for (reason, &count) in &self.dead_letters_by_reason {
            row(&format!("  {reason}"), count)?;
        }
        row("models run by the audit", self.inferred)?;
        if let Some(acknowledged) = self.acknowledged {
            row("acknowledged", acknowledged)?;
        }
        row("repeated request ids", self.repeated_request_ids)?;
        row("outcomes not audited", self.outside)?;
        if self.duplicates_allowed {
            row("duplicated, as allowed", self.duplicated)?;
        }
        row("unexpected", self.unexpected)?;
        row("missing", self.missing)?;
        if self.inferred > 0 {
            writeln!(out, "  {:<24}{:>12.1e}", "largest difference", self.largest_difference)?;
        }
        if let Some(failure) = &self.oracle_failure {
            writeln!(out, "  a model failed on a request by itself: {failure}")?;
        }
        let is_fault = |kind: &FaultKind| !(self.duplicates_allowed && *kind == FaultKind::Duplicated);
        for kind in FaultKind::ALL.into_iter().filter(is_fault) {
            let told = self.faults.iter().filter(|fault| fault.kind == kind);
            let mut left = self.count(kind);
            for fault in told {
                writeln!(out, "{fault}")?;
                left = left.saturating_sub(1);
            }
            if left > 0 {
                writeln!(out, "{}: and {left} more", kind.name())?;
            }
        }
        write!(out, "{}", self.last_line())
    }
}

/// Something that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What kind of thing.
    pub kind: FaultKind,
    /// The request.
    pub origin: Option<Place>,
    /// The outcome.
    pub outcome: Option<Place>,
    /// What is wrong, for people.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: ", self.kind.name())?;
        if let Some(origin) = &self.origin {
            write!(out, "request {origin}: ")?;
        }
        if let Some(outcome) = &self.outcome {
            write!(out, "outcome {outcome}: ")?;
        }
        out.write_str(&self.what)
    }
}

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// A request without an outcome.
    Lost,
    /// A request with several.
    Duplicated,
    /// An outcome that is not right.
    Wrong,
    /// An outcome of no request.
    Unexpected,
    /// An acknowledged request that is not there.
    Missing,
}

impl FaultKind {
    const ALL: [Self; 5] = [Self::Lost, Self::Duplicated, Self::Wrong, Self::Unexpected, Self::Missing];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Duplicated => "duplicated",
            Self::Wrong => "wrong",
            Self::Unexpected => "unexpected",
            Self::Missing => "missing",
        }
    }
}

/// Where a record stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: Partition,
    /// The offset.
    pub offset: Offset,
}

impl Place {
    pub(super) fn new(topic: &str, partition: Partition, offset: Offset) -> Self {
        Self { topic: topic.to_owned(), partition, offset }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}[{}]@{}", self.topic, self.partition.0, self.offset.0)
    }
}

/// Faults as they are found: all are counted, the first of each kind are kept.
#[derive(Debug)]
pub(super) struct Findings {
    requests: String,
    details_max: usize,
    counts: BTreeMap<FaultKind, u64>,
    faults: BTreeMap<FaultKind, Vec<Fault>>,
}

impl Findings {
    pub(super) fn new(requests: &str, details_max: usize) -> Self {
        let requests = requests.to_owned();
        Self { requests, details_max, counts: BTreeMap::new(), faults: BTreeMap::new() }
    }

    /// Counts a fault, and keeps it while there is room.
    pub(super) fn add(
        &mut self,
        kind: FaultKind,
        origin: Option<(Partition, Offset)>,
        outcome: Option<Place>,
        what: String,
    ) {
        *self.counts.entry(kind).or_default() += 1;
        let kept = self.faults.entry(kind).or_default();
        if kept.len() < self.details_max {
            let origin = origin.map(|(partition, offset)| Place::new(&self.requests, partition, offset));
            kept.push(Fault { kind, origin, outcome, what });
        }
    }

    /// A wrong outcome. Requests are counted, not outcomes: only the `first` of a request is.
    pub(super) fn wrong(
        &mut self,
        first: bool,
        origin: Option<(Partition, Offset)>,
        outcome: Option<Place>,
        what: String,
    ) {
        if first {
            self.add(FaultKind::Wrong, origin, outcome, what);
        }
    }

    /// Completes the report.
    pub(super) fn into_report(self, report: AuditReport) -> AuditReport {
        let count = |kind| self.counts.get(&kind).copied().unwrap_or(0);
        AuditReport {
            lost: count(FaultKind::Lost),
            duplicated: count(FaultKind::Duplicated),
            wrong: count(FaultKind::Wrong),
            unexpected: count(FaultKind::Unexpected),
            missing: count(FaultKind::Missing),
            faults: self.faults.into_values().flatten().collect(),
            ..report
        }
    }
}
