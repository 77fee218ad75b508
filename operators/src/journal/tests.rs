//! Processes that die and are started again.

use super::*;

const TOPIC: &str = "requests";

fn name(offset: i64) -> Name {
    Name { partition: Partition(0), offset: Offset(offset), millis: 1_000 + offset }
}

fn open(folder: &Path) -> Arc<Journal> {
    Arc::new(Journal::open(folder, TOPIC, 8, 1_000_000).unwrap())
}

/// A process puts these in flight, an executor each, and dies: what is left of it is its file, which nobody locks.
fn die(folder: &Path, executors: &[&[i64]]) {
    let journal = open(folder);
    let mut slots: Vec<Slot> = executors.iter().map(|_| journal.slot()).collect();
    for (slot, offsets) in slots.iter_mut().zip(executors) {
        slot.write(offsets.iter().map(|offset| name(*offset)));
    }
    fs::copy(&journal.path, folder.join("in-flight-dead")).unwrap();
    journal.close();
}

fn crashes<const N: usize>(folder: &Path, offsets: [i64; N]) -> [u32; N] {
    let journal = open(folder);
    let counts = offsets.map(|offset| journal.crashes(&name(offset)));
    journal.close();
    counts
}

#[test]
fn what_was_in_flight_at_a_crash_is_counted_once_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    die(folder.path(), &[&[1, 2], &[2, 3]]);
    assert_eq!(crashes(folder.path(), [1, 2, 3, 4]), [1, 1, 1, 0]);
    assert_eq!(crashes(folder.path(), [1, 2, 3, 4]), [1, 1, 1, 0], "a start by itself counts nothing");
    die(folder.path(), &[&[2]]);
    die(folder.path(), &[&[2]]);
    assert_eq!(crashes(folder.path(), [1, 2, 3]), [1, 3, 1]);
}

#[test]
fn what_has_returned_is_no_suspect_here_and_on_record() {
    let folder = tempfile::tempdir().unwrap();
    die(folder.path(), &[&[1, 2]]);
    let journal = open(folder.path());
    journal.returned([name(1), name(9)].into_iter());
    assert_eq!([1, 2].map(|offset| journal.crashes(&name(offset))), [0, 1]);
    assert_eq!(crashes(folder.path(), [1, 2]), [0, 1]);
    journal.returned([name(2)].into_iter());
    assert!(!journal.has_suspects());
    assert_eq!(crashes(folder.path(), [2]), [0]);
}

#[test]
fn what_a_living_process_has_in_flight_is_not_counted_and_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let living = open(folder.path());
    let (mut one, mut other) = (living.slot(), living.slot());
    one.write([name(1), name(2)].into_iter());
    other.write([name(3)].into_iter());
    assert_eq!(crashes(folder.path(), [1, 2, 3]), [0; 3]);
    assert_eq!(in_flight(folder.path()).unwrap(), [1, 2, 3].map(name).into());
    one.write([name(2)].into_iter());
    drop(other);
    assert_eq!(in_flight(folder.path()).unwrap(), [name(2)].into());
    one.clear();
    assert_eq!(in_flight(folder.path()).unwrap(), BTreeSet::new());
    assert_eq!(living.slot().place, 1, "the slot of an executor that is gone is used again");
}

#[test]
fn a_dead_process_whose_file_is_being_counted_does_not_pass_for_a_living_one() {
    let folder = tempfile::tempdir().unwrap();
    die(folder.path(), &[&[1]]);
    let path = files(folder.path()).unwrap().remove(0);
    let (counting, counted) = (lock(folder.path()).unwrap(), File::open(&path).unwrap());
    counted.try_lock().unwrap();
    std::thread::scope(|scope| {
        let seen = scope.spawn(|| in_flight(folder.path()).unwrap());
        // Until it waits for the lock, or has not waited; where the kernel does not tell, it is given a second.
        let waits = || fs::read_to_string("/proc/locks").is_ok_and(|locks| locks.contains("->"));
        for _ in 0..1_000 {
            if waits() || seen.is_finished() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        fs::remove_file(&path).unwrap();
        drop((counted, counting));
        assert_eq!(seen.join().unwrap(), BTreeSet::new());
    });
}

#[test]
fn a_process_that_ends_and_does_not_crash_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path());
    let mut slot = journal.slot();
    slot.write([name(1)].into_iter());
    journal.close();
    drop((slot, journal));
    assert_eq!((crashes(folder.path(), [1]), files(folder.path()).unwrap().len()), ([0], 0));
}

#[test]
fn files_that_are_no_journal_are_passed_over_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    die(folder.path(), &[&[1]]);
    assert_eq!(crashes(folder.path(), [1]), [1]);
    let foreign = folder.path().join("in-flight-other");
    fs::write(&foreign, "something else").unwrap();
    fs::write(folder.path().join("in-flight-begun"), "tide").unwrap();
    fs::write(folder.path().join(CRASHES), "{").unwrap();
    die(folder.path(), &[&[2]]);
    assert_eq!(crashes(folder.path(), [1, 2]), [0, 1]);
    assert_eq!(files(folder.path()).unwrap(), [foreign]);
}

#[test]
fn a_folder_that_cannot_be_made_is_an_error_that_names_it() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Journal::open(&file.path().join("below"), TOPIC, 8, 0).unwrap_err().to_string();
    assert!(error.contains("below"), "{error}");
}
