//! What has come of a partition and was not polled yet: batches as the broker has stored them, unpacked by the worker that polls.
//!
//! ```text
//!   fetcher ── arrived ──▶ [ batch batch batch ] ── poll ──▶ worker: unpacks one batch at a time, into memory that is warm
//!      ▲                      asked up to here
//!      └── asks on from there while there is room
//! ```
//!
//! It is read only between [`Incoming::open`] and [`Incoming::close`], under its lock: nothing of an earlier assignment can come out of it.
//! An offset comes out of it once, and in order: what the broker asks for is where the last whole batch ended.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::spares::Spares;
use super::stored::{Head, Malformed, Row};
use crate::broker::{BrokerError, Class, PollEnd, PollLimit, Polled, Waker};
use crate::clock::Moment;
use crate::lease::{Lease, NextOffset, Offset, Partition};

/// How often in a row the same batches may come damaged before that is told: a line may damage them once, a disk does it for good.
const DAMAGED_MAX: u32 = 3;

/// A partition's batches.
pub(super) struct Incoming {
    pub(super) partition: Partition,
    /// How many bytes may wait before no more are asked for.
    bytes_max: usize,
    /// What batches are unpacked into.
    spares: Arc<Spares>,
    waker: Mutex<Waker>,
    state: Mutex<State>,
}

/// What is asked of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// How often the partition had been opened: an answer to an earlier time is nobody's.
    term: u64,
    /// From where on.
    pub(super) from: i64,
    /// The epoch of the leader whose batch was the last.
    pub(super) epoch: Option<i32>,
}

/// What a broker has answered for a partition.
#[derive(Debug, Default)]
pub(super) struct Answer<'a> {
    /// Whole batches, and perhaps a piece of one more.
    pub(super) batches: &'a [u8],
    /// Which producers' transactions were aborted, each from its first offset on.
    pub(super) aborted: Vec<(Offset, i64)>,
}

#[derive(Default)]
struct State {
    term: u64,
    is_open: bool,
    /// Whether anything was answered since it was opened, be it nothing.
    is_begun: bool,
    /// What is asked for next.
    from: i64,
    epoch: Option<i32>,
    /// Nothing is asked for before this moment.
    resume: Moment,
    damaged: u32,
    chunks: VecDeque<Chunk>,
    /// Bytes that wait.
    bytes: usize,
    unpacked: Option<Unpacked>,
    /// The lowest offset that has not come out: where the reader stands, once it has taken something.
    floor: i64,
    is_taken_from: bool,
    failed: Option<BrokerError>,
}

/// The batches of one answer.
struct Chunk {
    bytes: Vec<u8>,
    at: usize,
    aborted: Aborted,
}

/// A batch whose records are being taken.
struct Unpacked {
    head: Head,
    bytes: Vec<u8>,
    length: usize,
    at: usize,
    left: usize,
    /// The lowest offset that its next record may have.
    next: i64,
}

/// Which producers' batches are to be left out.
#[derive(Default)]
struct Aborted {
    /// Transactions that begin further on, by their first offset.
    ahead: VecDeque<(Offset, i64)>,
    producers: BTreeSet<i64>,
}

impl Incoming {
    pub(super) fn new(partition: Partition, bytes_max: usize, spares: Arc<Spares>, waker: Waker) -> Self {
        Self { partition, bytes_max, spares, waker: Mutex::new(waker), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces who is woken when something has come.
    pub(super) fn set_waker(&self, waker: Waker) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = waker;
    }

    /// Wakes the reader.
    pub(super) fn wake(&self) {
        let waker = Arc::clone(&self.waker.lock().unwrap_or_else(PoisonError::into_inner));
        waker();
    }

    /// Lets the partition be read, from `start`.
    pub(super) fn open(&self, start: NextOffset) {
        let mut state = self.state();
        let term = state.term + 1;
        *state = State { term, is_open: true, from: start.0, floor: start.0, ..State::default() };
    }

    /// Lets nothing out any more. When this returns no read is under way.
    pub(super) fn close(&self) {
        let mut state = self.state();
        *state = State { term: state.term, ..State::default() };
    }

    /// Whether somebody reads it.
    pub(super) fn is_open(&self) -> bool {
        self.state().is_open
    }

    /// Whether there is no room for more.
    pub(super) fn is_full(&self) -> bool {
        self.state().bytes >= self.bytes_max
    }

    /// Whether it is left alone for a while.
    pub(super) fn is_paused(&self) -> bool {
        let state = self.state();
        state.is_open && state.resume > Moment::START && state.resume < Moment::NEVER
    }

    /// What is to be asked now, if anything.
    pub(super) fn question(&self, now: Moment) -> Option<Question> {
        let state = self.state();
        let is_asked =
            state.is_open && state.failed.is_none() && state.bytes < self.bytes_max && state.resume <= now;
        is_asked.then_some(Question { term: state.term, from: state.from, epoch: state.epoch })
    }

    /// Takes in what was answered to a question.
    ///
    /// # Errors
    ///
    /// If it is damaged: it is to be asked for again, but for so many times only.
    pub(super) fn arrived(&self, question: Question, answer: Answer<'_>) -> Result<(), Malformed> {
        let mut state = self.state();
        if !state.is_waiting_for(question) {
            return Ok(());
        }
        (state.is_begun, state.resume) = (true, Moment::START);
        let (length, last) = match whole_batches(answer.batches, question.from) {
            Ok(Some(whole)) => whole,
            Ok(None) => return Ok(()),
            Err(malformed) => {
                state.was_damaged(malformed);
                drop(state);
                // It may have been once too often.
                self.wake();
                return Err(malformed);
            }
        };
        state.damaged = 0;
        (state.from, state.epoch) = (last.last() + 1, Some(last.leader_epoch).filter(|epoch| *epoch >= 0));
        let was_empty = state.chunks.is_empty();
        let mut ahead = answer.aborted;
        ahead.sort_unstable();
        let aborted = Aborted { ahead: ahead.into(), producers: BTreeSet::new() };
        state.bytes += length;
        // Copied: a slice would keep the whole answer, of which others wait for other readers.
        state.chunks.push_back(Chunk { bytes: answer.batches[..length].to_vec(), at: 0, aborted });
        drop(state);
        if was_empty {
            self.wake();
        }
        Ok(())
    }

    /// Whether an answer to this question is still waited for.
    pub(super) fn is_waiting_for(&self, question: Question) -> bool {
        self.state().is_waiting_for(question)
    }

    /// The broker says that what it has is damaged. It may have another copy, and is asked again, but for so many times only.
    pub(super) fn damaged(&self, question: Question, malformed: Malformed) {
        let mut state = self.state();
        if state.is_waiting_for(question) {
            state.was_damaged(malformed);
            drop(state);
            self.wake();
        }
    }

    /// Asks for nothing before `resume`: what was asked was refused for now.
    pub(super) fn pause(&self, question: Question, resume: Moment) {
        let mut state = self.state();
        if state.is_waiting_for(question) {
            state.resume = resume;
        }
    }

    /// Asks for nothing more until it is opened again; whether somebody still waited, and was not told before.
    pub(super) fn halt(&self, question: Question) -> bool {
        let mut state = self.state();
        let is_waiting = state.is_waiting_for(question);
        if is_waiting {
            state.resume = Moment::NEVER;
        }
        is_waiting
    }

    /// The same, if anything was read since it was opened: what is there now is something else.
    pub(super) fn halt_if_begun(&self) -> bool {
        let mut state = self.state();
        let is_halted = state.is_begun && state.resume < Moment::NEVER;
        if is_halted {
            state.resume = Moment::NEVER;
        }
        is_halted
    }

    /// Tells whoever reads that there is nothing more to read, and why. What has come before is read first.
    pub(super) fn fail(&self, error: BrokerError) {
        {
            let mut state = self.state();
            if !state.is_open {
                return;
            }
            state.failed = Some(error);
        }
        self.wake();
    }

    /// Takes records out, up to a limit; whether there is room for more where there was none.
    pub(super) fn poll(
        &self,
        lease: Lease,
        into: &mut Polled,
        limit: PollLimit,
    ) -> (Result<PollEnd, BrokerError>, bool) {
        let mut state = self.state();
        if !state.is_open {
            return (Ok(PollEnd::Empty), false);
        }
        let (was_full, before) = (state.bytes >= self.bytes_max, into.records.len());
        let end = state.poll(lease, into, limit, &self.spares).unwrap_or_else(|malformed| {
            state.is_unreadable(malformed);
            PollEnd::Empty
        });
        let polled = match (end, &state.failed) {
            // Nothing may come with an error: whoever is told one looks at nothing else.
            (PollEnd::Empty, Some(_)) if into.records.len() > before => Ok(PollEnd::Limit),
            (PollEnd::Empty, Some(error)) => Err(error.clone()),
            (end, _) => Ok(end),
        };
        (polled, was_full && state.bytes < self.bytes_max)
    }

    /// Where the reader stands, once it has taken something.
    pub(super) fn position(&self) -> Option<NextOffset> {
        let state = self.state();
        state.is_taken_from.then_some(NextOffset(state.floor))
    }
}

impl State {
    fn is_waiting_for(&self, question: Question) -> bool {
        self.is_open
            && self.resume < Moment::NEVER
            && self.term == question.term
            && self.from == question.from
    }

    fn was_damaged(&mut self, malformed: Malformed) {
        self.damaged += 1;
        if self.damaged >= DAMAGED_MAX && self.failed.is_none() {
            self.failed = Some(unreadable(self.from, malformed));
        }
    }

    /// Nothing behind this place may be read: nobody knows what was in between.
    fn is_unreadable(&mut self, malformed: Malformed) {
        self.failed = Some(unreadable(self.floor, malformed));
        self.chunks.clear();
        (self.unpacked, self.bytes) = (None, 0);
    }

    fn poll(
        &mut self,
        lease: Lease,
        into: &mut Polled,
        limit: PollLimit,
        spares: &Spares,
    ) -> Result<PollEnd, Malformed> {
        let (records, bytes) = (into.records.len(), into.records.payload_bytes());
        let is_full = |into: &Polled| {
            let taken = into.records.len() - records;
            taken >= limit.records || (taken > 0 && into.records.payload_bytes() - bytes >= limit.bytes)
        };
        loop {
            while let Some(unpacked) = &mut self.unpacked {
                if unpacked.left == 0 {
                    if unpacked.at < unpacked.length {
                        return Err(Malformed("it has more records than it says"));
                    }
                    let behind = unpacked.head.last() + 1;
                    self.pass(behind);
                    let unpacked = self.unpacked.take();
                    spares.give_back(unpacked.map(|unpacked| unpacked.bytes).unwrap_or_default());
                    break;
                }
                if is_full(into) {
                    return Ok(PollEnd::Limit);
                }
                if let Some(offset) = unpacked.take(self.floor, lease, into)? {
                    self.pass(offset + 1);
                }
            }
            if is_full(into) {
                return Ok(PollEnd::Limit);
            }
            if !self.unpack_next(spares)? {
                return Ok(PollEnd::Empty);
            }
        }
    }

    /// Goes on to the next batch; `false` if there is none.
    fn unpack_next(&mut self, spares: &Spares) -> Result<bool, Malformed> {
        let Some(chunk) = self.chunks.front_mut() else { return Ok(false) };
        let batch = &chunk.bytes[chunk.at..];
        let Some(head) = Head::read(batch)? else {
            self.chunks.pop_front();
            return Ok(true);
        };
        let is_left_out = chunk.aborted.leaves_out(&head, batch)? || head.records == 0;
        if !is_left_out {
            let mut bytes = spares.take();
            let length = head.unpack(batch, &mut bytes)?;
            self.unpacked = Some(Unpacked { head, bytes, length, at: 0, left: head.records, next: 0 });
        }
        chunk.at += head.length;
        self.bytes -= head.length;
        if is_left_out {
            self.pass(head.last() + 1);
        }
        Ok(true)
    }

    /// Nothing before `next` comes out any more.
    fn pass(&mut self, next: i64) {
        (self.floor, self.is_taken_from) = (next, true);
    }
}

impl Unpacked {
    /// Takes the next record, unless its offset is below `floor`; its offset, if it was taken.
    fn take(&mut self, floor: i64, lease: Lease, into: &mut Polled) -> Result<Option<i64>, Malformed> {
        let mut rest = &self.bytes[self.at..self.length];
        let row = Row::read(&mut rest)?;
        self.at = self.length - rest.len();
        self.left -= 1;
        let offset = self.head.offset_of(&row)?;
        if offset < self.next {
            return Err(Malformed("its records are not in the order of their offsets"));
        }
        self.next = offset + 1;
        if offset < floor {
            return Ok(None);
        }
        row.append_to(&mut into.records)?;
        into.origins.push((lease, Offset(offset)));
        into.times.push(self.head.time_of(&row));
        Ok(Some(offset))
    }
}

impl Aborted {
    /// Whether nothing of a batch may be seen. Asked once of each, in their order.
    fn leaves_out(&mut self, head: &Head, batch: &[u8]) -> Result<bool, Malformed> {
        while let Some((first, producer)) = self.ahead.front().copied()
            && first.0 <= head.last()
        {
            self.producers.insert(producer);
            self.ahead.pop_front();
        }
        if head.is_control() {
            if head.records > 0 && head.aborts(batch)? {
                self.producers.remove(&head.producer);
            }
            return Ok(true);
        }
        Ok(head.is_transactional() && self.producers.contains(&head.producer))
    }
}

/// How many bytes the whole batches at the start of an answer take, and the last of them; `None` if there is nothing. Each of them ends at
/// `from` or behind it.
fn whole_batches(bytes: &[u8], from: i64) -> Result<Option<(usize, Head)>, Malformed> {
    let (mut at, mut last) = (0, None::<Head>);
    while let Some(head) = Head::read(&bytes[at..])? {
        if head.last() < last.map_or(from, |last| last.last() + 1) {
            return Err(Malformed("batches are not in the order of their offsets"));
        }
        if !head.is_intact(&bytes[at..]) {
            return Err(Malformed("its checksum is another one"));
        }
        at += head.length;
        last = Some(head);
    }
    match last {
        None if !bytes.is_empty() => Err(Malformed("the answer ends in its first batch")),
        last => Ok(last.map(|last| (at, last))),
    }
}

fn unreadable(offset: i64, malformed: Malformed) -> BrokerError {
    BrokerError {
        class: Class::Fatal,
        operation: "read a partition",
        code: "CORRUPT_MESSAGE".to_owned(),
        message: format!("the batch at or behind offset {offset} can't be read: {malformed}"),
    }
}

#[cfg(test)]
mod tests;
