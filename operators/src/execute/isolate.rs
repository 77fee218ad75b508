//! Isolation: finds the rows that make a run fail, and does the others in spite of them.
//!
//! ```text
//!   [a b c d e f g h] ✗          the batch fails, so it is halved
//!   [a b c d] ✗   [e f g h] ✓    the first half fails, the second is done
//!   [a b] ✓                      the first half of that is done, so what fails is in the other, which need not be run to know it
//!   [c] ✓   [d] ✗                d fails alone
//! ```
//!
//! Halves are run side by side rather than one of them to its end, because a run that *works* between two failures is what tells a row
//! from a broken device. A row is to blame if it was in a run that failed, then another run worked, and then it failed alone. Where it is
//! the first half of its pair, the second has to work after it besides: else the device may have broken just now, while the row beside it
//! is the one that was looked for. Mostly the halves themselves are that run. Where they are not, because both fail or the batch has one
//! row, a row of zeros is run, as when the model was opened, and the row once more after it. If the zeros fail too, the device is broken.
//!
//! So one row among more than two, `n`, is found with at most `2 * log2(n)` more calls (12 among 64), and a device that breaks and recovers once, whenever that is,
//! makes no dead letter.

use std::collections::VecDeque;
use std::ops::Range;

use super::{Book, Calls, Failed, Sessions};
use crate::device::Batch;
use crate::model::RunError;

/// A batch under way on an executor, until each of its rows has an outcome.
pub(super) struct Isolation<'a, 'b> {
    sessions: &'a mut Sessions,
    batch: &'b Batch,
    pub(super) book: Book<'b>,
    pub(super) calls: Calls,
    /// Rows among which there are some that fail, in the order in which they are to be halved.
    suspects: VecDeque<Suspects>,
    /// Of each row, whether it has an outcome.
    ended: Vec<bool>,
    /// Runs that were tried.
    turn: u32,
    /// The last of them that worked.
    worked_at: u32,
}

/// Rows, two at least, of which a run has failed.
struct Suspects {
    range: Range<usize>,
    /// That run: of just these rows, or of more.
    failed_at: u32,
}

/// Why rows are left without an outcome.
pub(super) enum Stop {
    /// The device fails on a good row.
    Broken(RunError),
    /// The executor was given up meanwhile: nobody waits for it.
    GivenUp,
}

impl<'a, 'b> Isolation<'a, 'b> {
    pub(super) fn new(sessions: &'a mut Sessions, batch: &'b Batch, book: Book<'b>) -> Self {
        let ended = vec![false; batch.rows()];
        let (calls, suspects) = (Calls::default(), VecDeque::new());
        Self { sessions, batch, book, calls, suspects, ended, turn: 0, worked_at: 0 }
    }

    /// Gives every row its outcome.
    pub(super) fn run(&mut self) -> Result<(), Stop> {
        let whole = 0..self.batch.rows();
        if let Some(failed) = self.attempt(whole.clone())? {
            self.pursue(whole, &failed, self.turn)?;
        }
        while let Some(suspects) = self.suspects.pop_front() {
            self.halve(suspects)?;
        }
        Ok(())
    }

    /// The rows without an outcome.
    pub(super) fn left(&self) -> impl Iterator<Item = Range<usize>> {
        let open = self.ended.iter().enumerate().filter(|(_, ended)| !**ended);
        open.map(|(place, _)| place..place + 1)
    }

    /// Runs both halves of what has failed, as far as that is needed to know in which of them the fault is.
    fn halve(&mut self, Suspects { range, failed_at }: Suspects) -> Result<(), Stop> {
        let middle = range.start + range.len() / 2;
        let (left, right) = (range.start..middle, middle..range.end);
        let Some(left_failed) = self.attempt(left.clone())? else {
            if right.len() > 1 {
                self.suspects.push_back(Suspects { range: right, failed_at });
            } else if let Some(failed) = self.attempt(right.clone())? {
                self.judge(right.start, &failed)?;
            }
            return Ok(());
        };
        let (left_at, worked_between) = (self.turn, self.worked_at > failed_at);
        match self.attempt(right.clone())? {
            None if left.len() == 1 && worked_between => self.judge(left.start, &left_failed),
            None => self.pursue(left, &left_failed, left_at),
            Some(right_failed) => {
                let right_at = self.turn;
                // Nothing works. Is it because nothing can?
                self.known_good_row()?;
                self.pursue(left, &left_failed, left_at)?;
                self.pursue(right, &right_failed, right_at)
            }
        }
    }

    /// Goes after the fault in rows that have failed at a turn.
    fn pursue(&mut self, range: Range<usize>, failed: &Failed, failed_at: u32) -> Result<(), Stop> {
        if range.len() == 1 {
            return self.confirm(range.start, failed_at);
        }
        if !matches!(failed, Failed::Overran(_)) {
            self.suspects.push_back(Suspects { range, failed_at });
            return Ok(());
        }
        // Halving would wait for the row that takes so long once a level.
        for place in range {
            if self.attempt(place..place + 1)?.is_some() {
                self.confirm(place, self.turn)?;
            }
        }
        Ok(())
    }

    /// A row failed alone, on a device that is known to work. Somebody who was only slow has a second try.
    fn judge(&mut self, place: usize, failed: &Failed) -> Result<(), Stop> {
        if matches!(failed, Failed::Overran(_)) {
            return self.confirm(place, self.turn);
        }
        self.blame(place, failed);
        Ok(())
    }

    /// A row failed alone at a turn: it is to blame if it fails again after a run that worked.
    fn confirm(&mut self, place: usize, failed_at: u32) -> Result<(), Stop> {
        if self.worked_at <= failed_at {
            self.known_good_row()?;
        }
        if let Some(failed) = self.attempt(place..place + 1)? {
            self.blame(place, &failed);
        }
        Ok(())
    }

    fn blame(&mut self, place: usize, failed: &Failed) {
        self.ended[place] = true;
        self.book.failure(place, failed);
    }

    /// Runs some rows, which gives them their outcomes unless it fails.
    fn attempt(&mut self, range: Range<usize>) -> Result<Option<Failed>, Stop> {
        // Over these rows an executor was given up. Is it the rows, or does the device hang on everything?
        if self.batch.hangs > 0 {
            self.known_good_row()?;
        }
        self.turn += 1;
        match self.sessions.run(self.batch, range.clone(), &mut self.calls) {
            Ok(()) => {
                self.worked_at = self.turn;
                self.ended[range.clone()].fill(true);
                self.book.results(range, self.sessions.outputs(), self.calls.time);
                Ok(None)
            }
            Err(Failed::GivenUp) => Err(Stop::GivenUp),
            Err(failed) => Ok(Some(failed)),
        }
    }

    fn known_good_row(&mut self) -> Result<(), Stop> {
        self.turn += 1;
        match self.sessions.known_good_row(self.batch, &mut self.calls) {
            Ok(()) => {
                self.worked_at = self.turn;
                Ok(())
            }
            Err(Failed::Run(error) | Failed::Overran(error)) => Err(Stop::Broken(error)),
            Err(Failed::GivenUp) => Err(Stop::GivenUp),
        }
    }
}
