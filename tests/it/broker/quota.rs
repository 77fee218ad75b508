//! Tenants that ask for more than they may: what is over waits, or is shed, and nothing is lost by either.

use operators::dead_letter::Reason;

use super::rig::Rig;

const REQUESTS: u64 = 3_000;

#[test]
fn what_is_over_a_quota_waits_through_a_crash_and_ends_as_a_result() {
    let rig = Rig::new("quota-waits", 4)
        .with_short_sessions()
        .with("tenants.default.in_flight_max=3")
        .with("tenants.default.wait_max=4m")
        // The tenants are 32, and each asks for a 32nd of it all.
        .with("tenants.tenant-00.rate_max=20")
        .with("tenants.tenant-00.burst=5");
    rig.load(REQUESTS, None).finish();
    let mut first = rig.engine("one");
    first.until_at_least("tidemill_committed_records_total", 500);
    let (_, page) = first.page("/metrics").unwrap();
    let parked =
        page.lines().find(|line| line.starts_with("tidemill_tenant_parked_records{tenant=\"tenant-00\"}"));
    assert!(parked.is_some_and(|line| !line.ends_with(" 0")), "{parked:?} in {page}");
    first.kill();
    let mut second = rig.engine("one");
    second.until_at_least("tidemill_committed_records_total", 1);
    rig.until_committed();
    let report = rig.audit();
    assert_eq!(
        (report.requests, report.dead_letters_by_reason.get("over_quota")),
        (REQUESTS, None),
        "{report}"
    );
}

#[test]
fn what_a_tenant_may_not_have_is_shed_and_its_neighbours_have_all_of_theirs() {
    let rig = Rig::new("quota-shed", 2)
        .with("tenants.tenant-03.rate_max=1")
        .with("tenants.tenant-03.burst=5")
        .with("tenants.tenant-03.wait_max=0s");
    rig.load(REQUESTS, None).finish();
    let mut engine = rig.engine("one");
    engine.until_at_least("tidemill_committed_records_total", REQUESTS);
    let (_, page) = engine.page("/metrics").unwrap();
    let report = rig.audit_trusting(Reason::OverQuota);
    let shed = report.dead_letters_by_reason.get("over_quota").copied().unwrap_or(0);
    // A 32nd of the requests are its own, and the test takes no minute.
    assert!((10..REQUESTS / 16).contains(&shed), "{report}");
    let told = format!("tidemill_tenant_over_quota_records_total{{tenant=\"tenant-03\"}} {shed}");
    assert!(page.contains(&told), "{told} is missing in {page}");
    let others = page.lines().filter(|line| line.starts_with("tidemill_tenant_over_quota_records_total"));
    assert_eq!(others.filter(|line| !line.ends_with(" 0")).count(), 1, "{page}");
}
