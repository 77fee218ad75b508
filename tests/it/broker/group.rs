//! A member joins the group and leaves it, under load.

use super::rig::Rig;
use super::wait::until;

#[test]
fn a_member_that_joins_and_leaves_under_load_loses_and_doubles_nothing() {
    let rig = Rig::new("members", 16);
    let mut first = rig.engine("first");
    let load = rig.load(20_000, Some(150.0));
    first.until_at_least("tidemill_committed_records_total", 150);

    let mut second = rig.engine("second");
    until("the partitions to be shared", || {
        let held =
            [&first, &second].map(|engine| engine.series("tidemill_lag_records").map(|lags| lags.len()));
        (held == [Some(8), Some(8)]).then_some(())
    });
    let before = first.count("tidemill_committed_records_total");
    second.until_at_least("tidemill_committed_records_total", 150);
    first.until_at_least("tidemill_committed_records_total", before + 150);

    second.signal("TERM");
    assert_eq!(second.end().code(), Some(0));
    let before = first.count("tidemill_committed_records_total");
    first.until_at_least("tidemill_committed_records_total", before + 150);
    load.hurry();
    first.until_drained(16);
    assert_eq!(rig.audit().requests, 20_000);
    first.signal("TERM");
    assert_eq!(first.end().code(), Some(0));
    let committed = [first.counted("committed"), second.counted("committed")];
    assert_eq!(
        committed.iter().sum::<u64>(),
        20_000,
        "{committed:?}: each of them committed what the other did not"
    );
}
