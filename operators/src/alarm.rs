//! Alarms: how an operator asks its worker to be activated at a moment of the engine's own clock.
//!
//! Timely can activate an operator after a wall-clock time; but then a run under a manual clock would depend on the machine. So each
//! worker keeps the next due moment of its operators, the worker's loop sleeps no longer than to the earliest, and activates whose
//! moment has come.

use std::cell::RefCell;
use std::rc::Rc;

use timely::scheduling::Activator;

use crate::clock::Moment;

/// The alarms of the operators of one worker.
#[derive(Clone, Default)]
pub struct Alarms {
    slots: Rc<RefCell<Vec<(Moment, Activator)>>>,
}

impl Alarms {
    /// No operator has an alarm.
    pub fn new() -> Self {
        Self::default()
    }

    /// The alarm of one operator, not set.
    pub fn register(&self, activator: Activator) -> Alarm {
        let mut slots = self.slots.borrow_mut();
        slots.push((Moment::NEVER, activator));
        Alarm { alarms: self.clone(), place: slots.len() - 1 }
    }

    /// Activates every operator whose moment has come, and returns the earliest moment that is still to come.
    pub fn ring(&self, now: Moment) -> Moment {
        let mut next = Moment::NEVER;
        for (moment, activator) in self.slots.borrow_mut().iter_mut() {
            if *moment <= now {
                *moment = Moment::NEVER;
                activator.activate();
            }
            next = next.min(*moment);
        }
        next
    }

    /// Activates every operator that has an alarm at all: in a lock-step run each step gives everyone a turn.
    pub fn ring_all(&self) {
        for (_, activator) in self.slots.borrow().iter() {
            activator.activate();
        }
    }
}

/// The alarm of one operator: it rings once for each time that it is set.
pub struct Alarm {
    alarms: Alarms,
    place: usize,
}

impl Alarm {
    /// Sets the alarm, in place of what it was set to before.
    pub fn set(&self, moment: Moment) {
        self.alarms.slots.borrow_mut()[self.place].0 = moment;
    }

    /// Activates the operator once more, as soon as the worker has stepped the others.
    pub fn now(&self) {
        self.alarms.slots.borrow()[self.place].1.activate();
    }
}
