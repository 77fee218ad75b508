//! The schedules of the campaign, as plain data.

use std::collections::BTreeSet;
use std::time::Duration;

#[path = "../chaos/schedule.rs"]
#[expect(dead_code, reason = "only the campaign carries them out")]
mod schedule;

use schedule::{Action, CORPUS, ENGINES_MAX, Schedule};

const SEEDS: std::ops::Range<u64> = 0..500;

#[test]
fn a_seed_makes_one_schedule_and_prints_it() {
    for seed in SEEDS {
        assert_eq!(Schedule::new(seed, 1), Schedule::new(seed, 1), "seed {seed}");
    }
    assert_ne!(Schedule::new(1, 1).steps, Schedule::new(2, 1).steps);
    let printed = Schedule::new(3, 1).to_string();
    assert_eq!(printed.lines().count(), 1 + Schedule::new(3, 1).steps.len(), "{printed}");
}

/// What a schedule leaves: the engines that are there, and what is still wrong.
fn carry_out(schedule: &Schedule) -> (BTreeSet<usize>, BTreeSet<String>) {
    let mut there: BTreeSet<usize> = (0..schedule.engines).collect();
    let mut wrong = BTreeSet::new();
    for step in &schedule.steps {
        match step.action {
            Action::Start(engine) => assert!(there.insert(engine), "{schedule}"),
            Action::Kill(engine) | Action::Stop(engine) => assert!(there.remove(&engine), "{schedule}"),
            Action::Freeze(engine) => assert!(wrong.insert(format!("frozen {engine}")), "{schedule}"),
            Action::Thaw(engine) => assert!(wrong.remove(&format!("frozen {engine}")), "{schedule}"),
            Action::Hold(engine)
            | Action::Cut(engine)
            | Action::HalfOpen(engine)
            | Action::SwallowAnswer(engine) => {
                assert!(wrong.insert(format!("line {engine}")), "{schedule}");
            }
            Action::Mend(engine) => assert!(wrong.remove(&format!("line {engine}")), "{schedule}"),
            Action::KillNode(_) | Action::FillDisk(_) => {
                assert!(wrong.insert("node".to_owned()), "{schedule}");
            }
            Action::StartNode(_) => assert!(wrong.remove("node"), "{schedule}"),
            Action::CutAnswer(_) | Action::Poison | Action::Slow => {}
        }
    }
    (there, wrong)
}

#[test]
fn every_fault_has_its_end_and_somebody_is_there_after_it() {
    for seed in SEEDS {
        for nodes in [1, 3] {
            let schedule = Schedule::new(seed, nodes);
            let (there, wrong) = carry_out(&schedule);
            assert!(!there.is_empty() && there.iter().all(|engine| *engine < ENGINES_MAX), "{schedule}");
            assert!(wrong.is_empty(), "{wrong:?} is left of {schedule}");
            assert!(schedule.steps.is_sorted_by_key(|step| step.at), "{schedule}");
            assert!(schedule.length < Duration::from_secs(25), "{schedule}");
        }
    }
}

#[test]
fn what_is_always_carried_out_is_of_many_kinds() {
    let kinds: BTreeSet<&str> =
        CORPUS.iter().flat_map(|seed| Schedule::new(*seed, 1).faults).map(schedule::Kind::name).collect();
    let wanted =
        ["cut", "half_open", "join", "kill", "leave", "poison", "restart", "swallowed_answer", "zombie"];
    assert_eq!(kinds, BTreeSet::from(wanted));
}

#[test]
fn a_few_hundred_seeds_bring_about_every_kind_of_fault() {
    let kinds: BTreeSet<_> = SEEDS.flat_map(|seed| Schedule::new(seed, 1).faults).collect();
    assert_eq!(kinds.len(), 15, "{kinds:?}");
}
