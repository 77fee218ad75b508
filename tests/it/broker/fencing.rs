//! Two engines of one name.

use super::rig::Rig;

#[test]
fn of_two_engines_with_one_transactional_id_one_is_fenced_and_says_what_to_change() {
    let rig = Rig::new("fenced", 8).with_short_sessions();
    let mut first = rig.engine("same");
    let load = rig.load(10_000, Some(100.0));
    first.until_at_least("tidemill_committed_records_total", 200);
    let mut second = rig.engine("same");
    assert_eq!(first.end().code(), Some(11), "{}", first.log());
    assert!(first.log().contains("kafka.instance"), "{}", first.log());
    second.until_at_least("tidemill_committed_records_total", 200);
    load.hurry();
    second.until_drained(8);
    assert_eq!(rig.audit().requests, 10_000);
    second.signal("TERM");
    assert_eq!(second.end().code(), Some(0));
}
