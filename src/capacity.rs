//! Capacity analysis for people and programs: what a running engine sees of itself, what Kafka remembers, what was recorded; and how it is
//! shown.
//!
//! The analysis itself is [`dataflows::capacity`].

mod attach;
mod autopilot;
mod cases;
mod history;
mod page;
mod recorder;
mod seen;
mod setup;
mod table;
mod threads;
mod trace;
mod watch;

use dataflows::capacity::{Basis, Picture, Setup, Spans, Tick};

pub use attach::{AttachError, fetch};
pub use autopilot::{Autopilot, Entry, Shown};
pub use history::{History, HistoryError, look, read};
pub use page::page;
pub use recorder::Recorder;
pub use seen::Seen;
pub use setup::{configured, model_setup, retention};
pub use table::{table, what_if_table};
pub use trace::{TraceError, parse, setup_line, tick_line};
pub use watch::{Kept, Watch};

/// Ticks in a pane of a span.
const PANE_TICKS: u64 = 5;

/// Panes of a span of so many seconds.
pub fn panes(span: std::time::Duration) -> usize {
    usize::try_from(span.as_secs().div_ceil(PANE_TICKS).max(1)).unwrap_or(usize::MAX)
}

/// What these ticks hold, the last of them that fit the span.
pub fn basis(setup: Setup, ticks: &[Tick], span: std::time::Duration) -> Basis {
    let (ticks, panes) = (ticks.to_vec(), panes(span));
    let picture: Picture = timely::execute_directly(move |worker| {
        let mut spans = Spans::new(worker, panes, PANE_TICKS);
        for tick in &ticks {
            spans.add(worker, tick);
        }
        spans.picture()
    });
    Basis::new(picture, setup)
}
