//! Static members: a restart moves no partition.

use std::io::Write as _;

use operators::clock::{Clock as _, Moment, SystemClock};

use super::engine::Engine;
use super::rig::Rig;
use super::wait::until;

/// Starts `two` again, and waits until it has the partitions that it had.
fn comes_back(rig: &Rig, one: &Engine, had: &[Option<std::collections::BTreeSet<i32>>; 2]) -> Engine {
    let clock = SystemClock::new();
    let mut two = rig.engine("two");
    two.until_at_least("tidemill_committed_records_total", 1);
    let took = clock.now().since(Moment::START);
    writeln!(std::io::stderr(), "from the restart of a static member to its first commit: {took:?}")
        .expect("stderr takes it");
    until("each to have what it had", || ([one.partitions(), two.partitions()] == *had).then_some(()));
    two
}

#[test]
fn a_static_member_that_is_restarted_or_killed_within_its_session_moves_no_partition() {
    let rig = Rig::new("static", 8)
        .with("kafka.static_membership=true")
        .with("kafka.session_timeout=30s")
        .with("kafka.transaction_timeout=3s");
    let (mut one, mut two) = (rig.engine("one"), rig.engine("two"));
    let load = rig.load(20_000, Some(300.0));
    let had = until("the partitions to be shared", || {
        let held = [&one, &two].map(Engine::partitions);
        held.iter().all(|held| held.as_ref().is_some_and(|held| held.len() == 4)).then_some(held)
    });
    // Leases that `one` was granted or that were asked back of it.
    let moves = |log: &str| ["partitions revoked", "lease granted"].map(|line| log.matches(line).count());
    let before = moves(&one.log());
    two.until_at_least("tidemill_committed_records_total", 50);

    two.signal("TERM");
    assert_eq!(two.end().code(), Some(0));
    let mut two = comes_back(&rig, &one, &had);
    two.until_at_least("tidemill_committed_records_total", 50);
    two.kill();
    let mut two = comes_back(&rig, &one, &had);

    assert_eq!(moves(&one.log()), before, "nothing has moved: {}", one.log());
    load.hurry();
    one.until_drained(4);
    two.until_drained(4);
    assert_eq!(rig.audit().requests, 20_000);
}
