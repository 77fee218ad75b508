//! The engine's own watch over itself: a tick a second, the last of them kept, and what they say.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use dataflows::capacity::{Basis, Gatherer, Objective, Report, Setup, Spans, Tick, analyse};
use operators::clock::Clock;

use super::autopilot::{Autopilot, Shown};
use super::threads::Threads;
use super::{PANE_TICKS, panes};

/// The time of a tick.
const TICK: Duration = Duration::from_secs(1);

/// The time from one report to the next: so long, and so many times what a report takes, so that it has no more than a hundredth of a
/// core, up to a longest pause.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);
const REPORT_RARITY: u32 = 100;

/// However long it takes: on a machine that is short of cores a report takes long, and is wanted.
const REPORT_INTERVAL_MAX: Duration = Duration::from_secs(30);

/// Cells of the ticks that are kept for whoever attaches, at most: some tens of megabytes. Of older ticks everything else is kept.
const CELLS_KEPT_MAX: usize = 300_000;

/// A watch that is kept until it is dropped.
#[derive(Debug)]
pub struct Watch {
    kept: Arc<Kept>,
    thread: Option<JoinHandle<()>>,
}

/// What a watch keeps for those who ask.
#[derive(Debug)]
pub struct Kept {
    setup: Mutex<Setup>,
    objective: Objective,
    ticks: Mutex<VecDeque<Arc<Tick>>>,
    report: Mutex<Option<Arc<Report>>>,
    autopilot: Mutex<Option<Arc<Shown>>>,
    stop: AtomicBool,
}

impl Kept {
    /// What the engine is like; nobody but its autopilot changes it.
    pub fn setup(&self) -> Setup {
        lock(&self.setup).clone()
    }

    /// What the autopilot has done; nothing if there is none.
    pub fn autopilot(&self) -> Option<Arc<Shown>> {
        lock(&self.autopilot).clone()
    }

    /// The ticks that are kept and ended after this moment, in milliseconds since the Unix epoch; the oldest first.
    pub fn ticks_after(&self, millis: i64) -> Vec<Arc<Tick>> {
        lock(&self.ticks).iter().filter(|tick| tick.at_millis > millis).cloned().collect()
    }

    /// What was found last, a few seconds ago at most; nothing before the first tick has ended.
    pub fn report(&self) -> Option<Arc<Report>> {
        lock(&self.report).clone()
    }

    fn keep(&self, tick: Tick, most: usize) {
        let mut ticks = lock(&self.ticks);
        ticks.push_back(Arc::new(tick));
        while ticks.len() > most {
            ticks.pop_front();
        }
        let mut cells = 0;
        for tick in ticks.iter_mut().rev() {
            cells += tick.cells.len();
            if cells > CELLS_KEPT_MAX && !tick.cells.is_empty() {
                *tick = Arc::new(Tick { cells: Vec::new(), ..Tick::clone(tick) });
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// Begins to watch over an engine that tells `gatherer`, looking back as far as `span`; with an autopilot, what is found is acted on.
    ///
    /// # Errors
    ///
    /// If there is no thread for it.
    pub fn start(
        gatherer: Arc<Gatherer>,
        setup: Setup,
        objective: Objective,
        span: Duration,
        clock: Arc<dyn Clock>,
        autopilot: Option<Autopilot>,
    ) -> std::io::Result<Self> {
        let shown = autopilot.as_ref().map(|autopilot| Arc::new(autopilot.shown().clone()));
        let kept = Arc::new(Kept {
            setup: Mutex::new(setup),
            objective,
            ticks: Mutex::default(),
            report: Mutex::default(),
            autopilot: Mutex::new(shown),
            stop: AtomicBool::new(false),
        });
        let watched = Arc::clone(&kept);
        let run = move || {
            timely::execute_directly(move |worker| {
                watch(worker, &watched, &gatherer, span, &*clock, autopilot);
            });
        };
        let thread = std::thread::Builder::new().name("capacity".to_owned()).spawn(run)?;
        Ok(Self { kept, thread: Some(thread) })
    }

    /// What it keeps.
    pub fn kept(&self) -> Arc<Kept> {
        Arc::clone(&self.kept)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.kept.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("the capacity watch had panicked");
            }
        }
    }
}

fn watch(
    worker: &mut timely::worker::Worker,
    kept: &Kept,
    gatherer: &Gatherer,
    span: Duration,
    clock: &dyn Clock,
    mut autopilot: Option<Autopilot>,
) {
    let panes = panes(span);
    let most = panes.saturating_mul(usize::try_from(PANE_TICKS).unwrap_or(1));
    let mut spans = Spans::new(worker, panes, PANE_TICKS);
    let mut threads = Threads::default();
    let mut due = clock.now();
    let mut report_due = due;
    loop {
        due = due.after(TICK);
        loop {
            if kept.stop.load(Ordering::SeqCst) {
                return;
            }
            let now = clock.now();
            if due <= now {
                break;
            }
            std::thread::park_timeout(due.since(now).min(TICK));
        }
        let Some(tick) = gatherer.tick(clock.wall_micros() / 1_000, threads.look()) else { continue };
        spans.add(worker, &tick);
        kept.keep(tick, most);
        let began = clock.now();
        if report_due <= began {
            let basis = Basis::new(spans.picture(), kept.setup());
            let report = analyse(&basis, kept.objective);
            if let Some(autopilot) = autopilot.as_mut().filter(|autopilot| !autopilot.is_off()) {
                autopilot.look(&report, &mut lock(&kept.setup));
                *lock(&kept.autopilot) = Some(Arc::new(autopilot.shown().clone()));
            }
            *lock(&kept.report) = Some(Arc::new(report));
            let took = clock.now().since(began);
            let pause = took.saturating_mul(REPORT_RARITY).clamp(REPORT_INTERVAL, REPORT_INTERVAL_MAX);
            report_due = began.after(pause);
        }
    }
}
