//! What is the matter with a partition, on what evidence, and the smallest change that mends it.
//!
//! A verdict is about now: whether the lag grows, and why it does. Whether the objective will be missed is another question, which the
//! forecast answers; a partition may be saturated and have an hour left.

use serde::Serialize;

use super::advice::Advice;
use super::setting::Action;
use super::sums::Mean;

/// What is the matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Default)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// Nothing.
    Ok,
    /// Too little was seen to say.
    #[default]
    Unknown,
    /// It lags because no records come any more, or fewer and fewer: look at who sends.
    Upstream,
    /// Its lag grows though its device has time left: something else keeps it waiting.
    Starved,
    /// Its lag grows because more of the load falls on it, or on one of its keys, than on others.
    Skewed,
    /// Its lag grows because what it needs is used up.
    Saturated,
    /// Nothing is committed though there is something to do.
    Stalled,
}

impl Verdict {
    /// Every one, the best first.
    pub const ALL: [Self; 7] = [
        Self::Ok,
        Self::Unknown,
        Self::Upstream,
        Self::Starved,
        Self::Skewed,
        Self::Saturated,
        Self::Stalled,
    ];

    /// Its name in output and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Unknown => "UNKNOWN",
            Self::Upstream => "UPSTREAM",
            Self::Starved => "STARVED",
            Self::Skewed => "SKEWED",
            Self::Saturated => "SATURATED",
            Self::Stalled => "STALLED",
        }
    }
}

/// A verdict, why, and what to do.
#[derive(Clone, Debug, PartialEq, Serialize, Default)]
pub struct Finding {
    /// What is the matter.
    pub verdict: Verdict,
    /// The numbers that led to it.
    pub evidence: Vec<String>,
    /// What to change, what that would do, and what it would not; nothing where nothing is to be done.
    pub advice: Option<String>,
    /// What of it a process may do by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
}

impl Finding {
    /// What was found, and what is advised.
    pub fn new(verdict: Verdict, evidence: Vec<String>, advice: Option<Advice>) -> Self {
        let (advice, action) = advice.map_or((None, None), |Advice { text, action }| (Some(text), action));
        Self { verdict, evidence, advice, action }
    }
}

/// What a verdict is about: the numbers of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Signs {
    /// Ticks that it was seen in.
    pub ticks: i64,
    /// Seconds of the last part of the span, which all rates but `growing` are of.
    pub seconds: f64,
    /// Seconds of the whole span.
    pub span_seconds: f64,
    /// Records a second that come.
    pub arriving: Mean,
    /// By how much that grows in a second, and the error of this.
    pub growing: Mean,
    /// Offsets a second that are committed.
    pub committing: Mean,
    /// By how much the lag grows, lately and over the whole span.
    pub lag_growing: Mean,
    /// See `lag_growing`.
    pub lag_growing_in_span: Mean,
    /// Records not committed.
    pub lag: i64,
    /// The age of the oldest.
    pub lag_seconds: f64,
    /// What it could bear.
    pub rate_max: Option<f64>,
    /// Its share of all records, and of all partitions with any.
    pub share: f64,
    /// What an even share would be.
    pub even_share: f64,
    /// The share of other partitions with records whose lag does not grow.
    pub others_well: f64,
    /// The share of its hottest key.
    pub hot_share: f64,
    /// What comes for that key, over what one key can get.
    pub hot_used: Option<f64>,
    /// The part of the executors' time that is used.
    pub device_used: Option<f64>,
    /// The busiest other stage and how busy it is.
    pub stage_used: Option<(&'static str, f64)>,
    /// Rows of a batch now, over those of a full one.
    pub fill: Option<f64>,
    /// Whether its tenant's bound is what the hot key is at.
    pub bounded: bool,
}

/// Fewer ticks say nothing.
const TICKS_MIN: i64 = 5;
/// Nothing committed for so many seconds is a stall.
const STALL_SECONDS: f64 = 10.0;
/// A lag grows if it does by this share of what comes, beyond chance: by so many errors. Where executors are used up somebody falls behind, so
/// that fewer are enough of one, if this part of what has come together is there.
const GROWTH_MIN: f64 = 0.02;
const ERRORS: f64 = 3.0;
const ERRORS_USED_UP: f64 = 2.0;
const THERE: f64 = 0.6;
/// A device, and another stage, is used up from here on.
const DEVICE_FULL: f64 = 0.88;
const STAGE_FULL: f64 = 0.9;
/// Load is uneven where a partition has so many times an even share, or a key this share of its partition.
const UNEVEN: f64 = 1.5;
const HOT_SHARE: f64 = 0.5;
/// What comes has fallen if it fell by this share over the span, beyond chance.
const FALL_MIN: f64 = 0.3;

impl Signs {
    /// Whether the lag grows, beyond chance.
    pub fn is_growing(&self) -> bool {
        let least = (GROWTH_MIN * self.arriving.mean).max(0.2);
        // Bursts hide in the noise of a few seconds what a minute shows; and what a minute shows may be over.
        let grows_by = |errors: f64| {
            let is_certain = |growing: Mean| growing.mean - errors * growing.error > least;
            is_certain(self.lag_growing)
                || (self.lag_growing.mean > least && is_certain(self.lag_growing_in_span))
        };
        let has_grown = self.lag_growing.mean * self.seconds;
        let is_there = super::basis::float(self.lag) >= THERE * has_grown;
        grows_by(ERRORS) || (self.is_used_up() && is_there && grows_by(ERRORS_USED_UP))
    }

    /// Whether records come in smaller numbers than at the beginning, beyond chance.
    pub fn is_falling(&self) -> bool {
        let fall = -self.growing.mean * self.span_seconds;
        self.growing.mean + 3.0 * self.growing.error < 0.0
            && fall > FALL_MIN * self.arriving.mean
            && self.arriving.mean > 1.0
    }

    /// Whether the load is uneven: of its keys or of the partitions. Where all partitions fall behind there is too much of it, however it is
    /// spread.
    fn is_uneven(&self) -> bool {
        let key = self.hot_share >= HOT_SHARE && self.hot_used.is_some_and(|used| used >= 1.0);
        (key || self.share >= UNEVEN * self.even_share) && self.others_well >= 0.5
    }

    fn is_used_up(&self) -> bool {
        self.device_used.is_some_and(|used| used >= DEVICE_FULL)
            || self.stage_used.is_some_and(|(_, used)| used >= STAGE_FULL)
    }

    /// What is the matter.
    pub fn verdict(&self) -> Verdict {
        if self.ticks < TICKS_MIN {
            return Verdict::Unknown;
        }
        let stands = self.committing.mean <= 0.0 && self.seconds >= STALL_SECONDS;
        if stands && self.lag > 0 && self.lag_seconds >= STALL_SECONDS {
            return Verdict::Stalled;
        }
        if !self.is_growing() {
            return if self.is_falling() { Verdict::Upstream } else { Verdict::Ok };
        }
        if self.is_uneven() || self.bounded {
            Verdict::Skewed
        } else if self.device_used.is_none() && self.stage_used.is_none() {
            // Of a group that is not ours nobody sees inside.
            Verdict::Saturated
        } else if self.is_used_up() {
            Verdict::Saturated
        } else {
            Verdict::Starved
        }
    }

    /// The numbers that led to it.
    pub fn evidence(&self, verdict: Verdict) -> Vec<String> {
        let percent = |share: f64| format!("{:.0} %", 100.0 * share);
        let mut lines = Vec::new();
        let mut say = |line: String| lines.push(line);
        if verdict == Verdict::Unknown {
            return vec![format!("{} ticks were seen, and {TICKS_MIN} are needed", self.ticks)];
        }
        say(format!(
            "{:.1} records come a second and {:.1} are committed",
            self.arriving.mean, self.committing.mean
        ));
        match verdict {
            Verdict::Ok | Verdict::Unknown => {}
            Verdict::Upstream => say(format!(
                "what comes fell by {:.1} a second in each second, over {:.0} s",
                -self.growing.mean, self.span_seconds
            )),
            Verdict::Stalled => say(format!(
                "nothing was committed for {:.0} s, and {} records wait, the oldest for {:.0} s",
                self.seconds, self.lag, self.lag_seconds
            )),
            Verdict::Starved | Verdict::Skewed | Verdict::Saturated => say(format!(
                "the lag of {} grows by {:.1} a second, give or take {:.1}",
                self.lag,
                self.lag_growing.mean,
                2.0 * self.lag_growing.error
            )),
        }
        if matches!(verdict, Verdict::Skewed) {
            say(format!(
                "it has {} of the load, and an even share is {}",
                percent(self.share),
                percent(self.even_share)
            ));
            let used = self
                .hot_used
                .map_or(String::new(), |used| format!(", {} of what one key can get", percent(used)));
            say(format!("its hottest key has {} of its records{used}", percent(self.hot_share)));
        }
        if matches!(verdict, Verdict::Starved | Verdict::Skewed | Verdict::Saturated) {
            if let Some(used) = self.device_used {
                say(format!("executors are useful for {} of their time", percent(used)));
            }
            if let Some((stage, used)) = self.stage_used {
                say(format!("the busiest other stage is {stage}, with {}", percent(used)));
            }
            if let (Verdict::Starved, Some(fill)) = (verdict, self.fill) {
                say(format!("batches are filled to {}", percent(fill)));
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(mean: f64, error: f64) -> Mean {
        Mean { mean, error }
    }

    /// A partition that is well: 100 a second, all of them committed, half of the device used.
    fn well() -> Signs {
        Signs {
            ticks: 60,
            seconds: 15.0,
            span_seconds: 60.0,
            arriving: mean(100.0, 1.0),
            growing: mean(0.01, 0.05),
            committing: mean(100.0, 1.0),
            lag_growing: mean(0.1, 0.5),
            lag_growing_in_span: mean(0.1, 0.5),
            lag: 20,
            lag_seconds: 0.2,
            rate_max: Some(200.0),
            share: 0.25,
            even_share: 0.25,
            others_well: 1.0,
            hot_share: 0.1,
            hot_used: Some(0.1),
            device_used: Some(0.5),
            stage_used: Some(("worker", 0.2)),
            fill: Some(0.5),
            bounded: false,
        }
    }

    fn behind() -> Signs {
        Signs {
            lag_growing: mean(30.0, 2.0),
            committing: mean(70.0, 1.0),
            lag: 2_000,
            lag_seconds: 25.0,
            others_well: 0.0,
            ..well()
        }
    }

    #[test]
    fn each_verdict_has_its_signs() {
        assert_eq!(well().verdict(), Verdict::Ok);
        assert_eq!(Signs { ticks: 2, ..well() }.verdict(), Verdict::Unknown);
        assert_eq!(Signs { device_used: Some(0.97), ..behind() }.verdict(), Verdict::Saturated);
        assert_eq!(Signs { stage_used: Some(("worker", 0.95)), ..behind() }.verdict(), Verdict::Saturated);
        assert_eq!(behind().verdict(), Verdict::Starved);
        let uneven = Signs { share: 0.6, others_well: 1.0, device_used: Some(0.95), ..behind() };
        assert_eq!(uneven.verdict(), Verdict::Skewed);
        assert_eq!(Signs { others_well: 0.0, ..uneven }.verdict(), Verdict::Saturated);
        assert_eq!(
            Signs { hot_share: 0.8, hot_used: Some(1.1), others_well: 0.6, ..behind() }.verdict(),
            Verdict::Skewed
        );
        assert_eq!(Signs { committing: mean(0.0, 0.0), ..behind() }.verdict(), Verdict::Stalled);
        assert_eq!(Signs { growing: mean(-1.5, 0.2), ..well() }.verdict(), Verdict::Upstream);
        let alien = Signs { device_used: None, stage_used: None, ..behind() };
        assert_eq!(alien.verdict(), Verdict::Saturated);
    }

    #[test]
    fn a_lag_that_grows_in_bursts_is_seen_over_the_span_and_one_that_has_grown_is_over() {
        let bursts = Signs { lag_growing: mean(30.0, 20.0), ..behind() };
        assert!(!bursts.is_growing());
        assert!(Signs { lag_growing_in_span: mean(30.0, 3.0), ..bursts }.is_growing());
        let over = Signs { lag_growing: mean(-50.0, 3.0), lag_growing_in_span: mean(30.0, 3.0), ..behind() };
        assert!(!over.is_growing());
    }

    #[test]
    fn of_a_lag_where_executors_are_used_up_less_has_to_be_seen() {
        let doubtful = Signs { lag_growing: mean(12.0, 4.0), ..behind() };
        assert_eq!(doubtful.verdict(), Verdict::Ok);
        let used_up = Signs { device_used: Some(0.97), ..doubtful };
        assert_eq!(used_up.verdict(), Verdict::Saturated);
        assert_eq!(
            Signs { lag: 100, ..used_up }.verdict(),
            Verdict::Ok,
            "12 a second for 15 seconds are not there"
        );
    }

    /// The four states of the article that this comes from.
    #[test]
    fn an_empty_partition_is_well_and_a_silent_one_with_a_lag_stands_still() {
        let empty = Signs {
            arriving: mean(0.0, 0.0),
            committing: mean(0.0, 0.0),
            lag: 0,
            lag_seconds: 0.0,
            ..well()
        };
        assert_eq!(empty.verdict(), Verdict::Ok);
        assert_eq!(Signs { lag: 5, lag_seconds: 60.0, ..empty }.verdict(), Verdict::Stalled);
    }

    #[test]
    fn the_evidence_has_the_numbers() {
        let evidence =
            Signs { share: 0.6, others_well: 1.0, ..behind() }.evidence(Verdict::Skewed).join("\n");
        for number in [
            "100.0 records come",
            "70.0 are committed",
            "lag of 2000 grows by 30.0",
            "60 % of the load",
            "25 %",
        ] {
            assert!(evidence.contains(number), "{number}: {evidence}");
        }
    }
}
