//! The crash journal: which records a process had in the model when it died, and how often each was there.
//!
//! A record that brings the process down would do so for ever: its offset is never committed, and whoever reads the partition next dies of
//! it too. So each executor writes down what it is about to run, and crosses it out afterwards. Who starts reads what the dead have left
//! behind, and counts. A record that was there at [`ALONE_AFTER`] crashes runs alone, with nothing beside it that could be blamed in its
//! place; at [`LETTER_AFTER`] it is a dead letter and does not run any more. One whose run has returned is no suspect.
//!
//! Nothing is synced to the disk: what was written survives the process, because the kernel has it, and that is all that it is for. After
//! a power cut the journal may say less than was so, or be damaged, which its sums tell.
//!
//! ```text
//!   <folder>/lock               held while files are read that others may read too
//!   <folder>/crashes.json       the suspects, and how often each was in flight at a crash
//!   <folder>/in-flight-<pid>    what one process has in the model, a slot each executor; locked while the process lives
//! ```

mod suspects;
mod wire;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::suspects::Suspects;
use crate::block::Block;
use crate::lease::{Offset, Partition};

/// A record that was in flight at so many crashes runs alone.
pub const ALONE_AFTER: u32 = 2;
/// A record that was in flight at so many crashes is a dead letter.
pub const LETTER_AFTER: u32 = 3;

/// The largest file of a process that is read: a slot of a thousand executors for the largest batch takes less.
const FILE_BYTES_MAX: u64 = 2 << 30;

const LOCK: &str = "lock";
const CRASHES: &str = "crashes.json";
const IN_FLIGHT: &str = "in-flight-";

/// A record of the journal's topic. The time tells records apart whose topic was made anew, and with it its offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Name {
    /// Its partition.
    pub partition: Partition,
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp, in milliseconds.
    pub millis: i64,
}

impl Name {
    /// The name of a row's record.
    pub fn of(block: &Block, row: usize) -> Self {
        let (lease, offset) = block.origin(row);
        let millis = block.polled.times[block.rows[row].record as usize].millis;
        Self { partition: lease.partition, offset, millis }
    }
}

/// Why there is no journal.
#[derive(Debug, thiserror::Error)]
#[error("the crash journal could not be kept: {}: {source}", path.display())]
pub struct JournalError {
    path: PathBuf,
    source: io::Error,
}

/// The journal of one process.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    topic: String,
    file: File,
    path: PathBuf,
    rows_max: usize,
    /// Which slots are taken.
    taken: Mutex<Vec<bool>>,
    suspects: Mutex<Suspects>,
    /// Looked at before the lock is taken: there is as a rule none.
    has_suspects: AtomicBool,
    failed: AtomicBool,
}

impl Journal {
    /// Begins the journal of this process in a folder that belongs to one group and topic, and counts what the dead had in flight.
    /// `rows_max` is the largest batch; `seconds` the wall clock's, since the Unix epoch.
    ///
    /// # Errors
    ///
    /// If the folder or its files can't be made, read or locked. Files that are damaged, or of another version, are passed over.
    pub fn open(folder: &Path, topic: &str, rows_max: usize, seconds: i64) -> Result<Self, JournalError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            |source| JournalError { path, source }
        };
        fs::create_dir_all(folder).map_err(at(folder))?;
        let _lock = lock(folder).map_err(at(&folder.join(LOCK)))?;
        let mut suspects = Suspects::read(&folder.join(CRASHES), topic);
        suspects.forget_old(seconds);
        let dead = bury(folder, topic, &mut suspects, seconds).map_err(at(folder))?;
        if !dead.is_empty() {
            suspects.write(&folder.join(CRASHES), topic).map_err(at(folder))?;
            // Whoever is killed between the two counts a crash twice; the other way round it would be forgotten.
            dead.iter().try_for_each(fs::remove_file).map_err(at(folder))?;
        }
        let (file, path) = new_file(folder).map_err(at(folder))?;
        file.write_all_at(&wire::header(topic, rows_max), 0).map_err(at(&path))?;
        let has_suspects = AtomicBool::new(!suspects.is_empty());
        Ok(Self {
            folder: folder.to_owned(),
            topic: topic.to_owned(),
            file,
            path,
            rows_max,
            taken: Mutex::default(),
            suspects: Mutex::new(suspects),
            has_suspects,
            failed: AtomicBool::new(false),
        })
    }

    /// Whether any record was in flight at a crash and has not returned since.
    pub fn has_suspects(&self) -> bool {
        self.has_suspects.load(Ordering::SeqCst)
    }

    /// At how many crashes this record was in flight.
    pub fn crashes(&self, name: &Name) -> u32 {
        if self.has_suspects() { self.suspects().crashes(name) } else { 0 }
    }

    /// A slot for an executor.
    pub fn slot(self: &Arc<Self>) -> Slot {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let place = taken.iter().position(|taken| !taken).unwrap_or(taken.len());
        if place == taken.len() {
            taken.push(true);
        }
        taken[place] = true;
        Slot { journal: Arc::clone(self), place, buffer: Vec::new() }
    }

    /// These records have come out of the model: they are no suspects.
    pub fn returned(&self, names: impl Iterator<Item = Name>) {
        if !self.has_suspects() {
            return;
        }
        let mut suspects = self.suspects();
        let cleared: BTreeSet<Name> = names.filter(|name| suspects.clear(name)).collect();
        self.has_suspects.store(!suspects.is_empty(), Ordering::SeqCst);
        if !cleared.is_empty() {
            let written = lock(&self.folder).and_then(|_lock| {
                // Another process may have counted since.
                let mut on_record = Suspects::read(&self.folder.join(CRASHES), &self.topic);
                for name in &cleared {
                    on_record.clear(name);
                }
                on_record.write(&self.folder.join(CRASHES), &self.topic)
            });
            self.note(written);
        }
    }

    /// The process ends, and did not crash: what it has in flight is nobody's fault.
    pub fn close(&self) {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => self.note(Err(error)),
            _ => {}
        }
    }

    fn suspects(&self) -> MutexGuard<'_, Suspects> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A journal that can't be written must not stop anything; that it says less than is so is told once.
    fn note(&self, written: io::Result<()>) {
        if let Err(error) = written
            && !self.failed.swap(true, Ordering::SeqCst)
        {
            let folder = self.folder.display();
            tracing::warn!(%folder, %error, "the crash journal could not be written; a crash may not be counted");
        }
    }
}

/// Where one executor writes down what it runs.
#[derive(Debug)]
pub struct Slot {
    journal: Arc<Journal>,
    place: usize,
    buffer: Vec<u8>,
}

impl Slot {
    /// These records are about to run; what was written before is crossed out.
    pub fn write(&mut self, names: impl Iterator<Item = Name>) {
        wire::slot(&mut self.buffer, names.take(self.journal.rows_max));
        self.journal.note(self.journal.file.write_all_at(&self.buffer, self.start()));
    }

    /// Nothing runs.
    pub fn clear(&mut self) {
        self.journal.note(self.journal.file.write_all_at(&wire::EMPTY_SLOT, self.start()));
    }

    fn start(&self) -> u64 {
        wire::slot_start(self.place, self.journal.rows_max)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.clear();
        self.journal.taken.lock().unwrap_or_else(PoisonError::into_inner)[self.place] = false;
    }
}

/// What the living processes of this folder have in flight at the moment.
///
/// # Errors
///
/// If the folder can't be read or locked.
pub fn in_flight(folder: &Path) -> io::Result<BTreeSet<Name>> {
    // Who counts the dead holds their files locked meanwhile, as the living do: without this they would pass for each other.
    let _lock = lock(folder)?;
    let mut names = BTreeSet::new();
    for path in files(folder)? {
        // One that ends meanwhile has nothing in flight any more.
        let lives = File::open(&path)
            .is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)));
        let found = fs::read(&path).ok().filter(|_| lives).and_then(|bytes| wire::decode(&bytes).ok());
        names.extend(found.into_iter().flat_map(|found| found.names));
    }
    Ok(names)
}

fn lock(folder: &Path) -> io::Result<File> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(folder.join(LOCK))?;
    file.lock()?;
    Ok(file)
}

/// The files of processes, living and dead.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(IN_FLIGHT) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// Counts what the dead had in flight, and returns their files, which are to be removed once that is on record.
fn bury(folder: &Path, topic: &str, suspects: &mut Suspects, seconds: i64) -> io::Result<Vec<PathBuf>> {
    let mut dead = Vec::new();
    for path in files(folder)? {
        let file = File::open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => continue, // it lives
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let found = if file.metadata()?.len() > FILE_BYTES_MAX {
            Err(wire::Unreadable::TooLarge)
        } else {
            wire::decode(&fs::read(&path)?)
        };
        match found {
            Ok(found) if found.topic == topic => {
                tracing::info!(path = %path.display(), records = found.names.len(), torn = found.torn, "a process died");
                suspects.crashed(&found.names, seconds);
                dead.push(path);
            }
            // It died before it had written a word.
            Err(wire::Unreadable::Truncated) => dead.push(path),
            Ok(_) => {
                let reason = "it is of another topic";
                tracing::warn!(path = %path.display(), reason, "passed over in the crash journal");
            }
            Err(reason) => {
                tracing::warn!(path = %path.display(), %reason, "passed over in the crash journal");
            }
        }
    }
    Ok(dead)
}

/// A file of this process's own, locked. Another container may have the same process id, so it may take a second name.
fn new_file(folder: &Path) -> io::Result<(File, PathBuf)> {
    let mut number = 0_u32;
    loop {
        let path = folder.join(format!("{IN_FLIGHT}{}-{number}", std::process::id()));
        match OpenOptions::new().create_new(true).write(true).open(&path) {
            Ok(file) => {
                file.lock()?;
                return Ok((file, path));
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
impl Journal {
    /// A journal in `folder` of which these records were in flight at so many crashes.
    pub(crate) fn after_crashes(folder: &Path, crashes: &[(Name, u32)]) -> Arc<Self> {
        let journal = Self::open(folder, "requests", 64, 0).expect("a test has a folder");
        for (name, times) in crashes {
            (0..*times).for_each(|_| journal.suspects().crashed(&BTreeSet::from([*name]), 0));
        }
        journal.has_suspects.store(!crashes.is_empty(), Ordering::SeqCst);
        Arc::new(journal)
    }
}

#[cfg(test)]
mod tests;
