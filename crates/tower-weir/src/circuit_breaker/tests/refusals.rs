//! "Not now", by policy and by how the host fares.

use std::time::Duration;

use super::{
    FAILED, IGNORED, REQUEST_TIMEOUT, Rig, SECOND, SUCCESS, THROTTLED, UNAVAILABLE, contract::rows,
};
use crate::circuit_breaker::{BreakerConfig, ChangeCause, CountRefusals, State, state::End};

const POLICIES: [CountRefusals; 3] = [
    CountRefusals::WhenStarved,
    CountRefusals::Always,
    CountRefusals::Never,
];

fn rig(policy: CountRefusals) -> Rig {
    Rig::new(BreakerConfig::default().count_refusals(policy))
}

/// What one call adds to the window: (calls, failed).
fn recorded(rig: &mut Rig, end: End) -> (u64, u64) {
    let before = rig.circuit.snapshot(rig.now).counts;
    assert_eq!(rig.call(end), None);
    let after = rig.circuit.snapshot(rig.now).counts;
    (after.calls - before.calls, after.failed - before.failed)
}

#[test]
fn the_table_of_classifications() {
    const NOTHING: (u64, u64) = (0, 0);
    const GOOD: (u64, u64) = (1, 0);
    const BAD: (u64, u64) = (1, 1);
    let mut tried = 0;
    for row in rows(include_str!("../../../tests/contract/classification.tsv")) {
        let (end, fed, starved, always) = match row["breaker"] {
            "success" => (SUCCESS, GOOD, GOOD, GOOD),
            "failure_hard" => (FAILED, BAD, BAD, BAD),
            "refusal" => (UNAVAILABLE, NOTHING, BAD, BAD),
            "throttle" if row["what"] == "408" => (REQUEST_TIMEOUT, NOTHING, NOTHING, BAD),
            "throttle" => (THROTTLED, NOTHING, NOTHING, BAD),
            "neutral" => (IGNORED, NOTHING, NOTHING, NOTHING),
            "by status" => continue,
            other => panic!("unknown effect {other}"),
        };
        for policy in POLICIES {
            let refused = matches!(row["breaker"], "refusal" | "throttle");
            let (fed, starved) = match policy {
                CountRefusals::WhenStarved => (fed, starved),
                CountRefusals::Always => (always, always),
                CountRefusals::Never if refused => (NOTHING, NOTHING),
                CountRefusals::Never => (fed, fed),
            };
            let mut rig = rig(policy);
            assert_eq!(recorded(&mut rig, end), fed, "{row:?} {policy:?}");
            rig.call(IGNORED);
            rig.wait(10 * SECOND);
            assert_eq!(
                recorded(&mut rig, end),
                match end {
                    // A success a moment ago: the host is not starved.
                    SUCCESS => GOOD,
                    _ => starved,
                },
                "starved: {row:?} {policy:?}"
            );
        }
        tried += 1;
    }
    assert_eq!(tried, 65);
}

#[test]
fn a_host_without_a_success_starves_from_its_first_call() {
    let mut rig = rig(CountRefusals::WhenStarved);
    rig.wait(3600 * SECOND);
    assert_eq!(recorded(&mut rig, UNAVAILABLE), (0, 0));
    rig.wait(10 * SECOND - Duration::from_nanos(1));
    assert_eq!(recorded(&mut rig, UNAVAILABLE), (0, 0));
    rig.wait(Duration::from_nanos(1));
    assert_eq!(recorded(&mut rig, UNAVAILABLE), (1, 1));
}

#[test]
fn a_success_feeds_the_host_for_ten_seconds() {
    let mut rig = rig(CountRefusals::WhenStarved);
    rig.call(UNAVAILABLE);
    rig.wait(20 * SECOND);
    assert_eq!(recorded(&mut rig, UNAVAILABLE), (1, 1));
    assert_eq!(recorded(&mut rig, SUCCESS), (1, 0));
    assert_eq!(recorded(&mut rig, UNAVAILABLE), (0, 0));
    rig.wait(10 * SECOND);
    assert_eq!(recorded(&mut rig, UNAVAILABLE), (1, 1));
}

#[test]
fn neither_a_throttle_nor_a_failure_feeds_the_host() {
    for end in [THROTTLED, REQUEST_TIMEOUT, FAILED, IGNORED] {
        let mut rig = rig(CountRefusals::WhenStarved);
        rig.call(end);
        rig.wait(10 * SECOND);
        rig.call(end);
        assert_eq!(recorded(&mut rig, UNAVAILABLE), (1, 1), "{end:?}");
    }
}

#[test]
fn an_hour_without_calls_is_no_hour_of_starvation() {
    let mut rig = rig(CountRefusals::WhenStarved);
    rig.call(SUCCESS);
    rig.wait(3600 * SECOND);
    // A burst onto a small upstream: most are refused before the first success.
    for _ in 0..1_000 {
        assert_eq!(recorded(&mut rig, UNAVAILABLE), (0, 0));
    }
}

#[test]
fn starved_after_is_a_setting() {
    let mut rig = Rig::new(BreakerConfig::default().starved_after(SECOND));
    rig.call(UNAVAILABLE);
    rig.wait(SECOND);
    assert_eq!(recorded(&mut rig, UNAVAILABLE), (1, 1));
}

#[test]
fn an_upstream_that_answers_nothing_but_503_opens() {
    let mut rig = rig(CountRefusals::WhenStarved);
    let opened = (0..1_000).find_map(|_| {
        let opened = rig.call(UNAVAILABLE);
        if opened.is_none() {
            rig.wait(SECOND / 10);
        }
        opened
    });
    let opened = opened.expect("opened within 100 s");
    // Counted from 10.0 s on; the run is 2 s long at 12.0 s.
    assert_eq!(opened.cause, ChangeCause::FailureRun);
    assert_eq!(rig.now - rig.start, 12 * SECOND);
    assert_eq!((opened.counts.calls, opened.counts.failed), (21, 21));
}

#[test]
fn throttles_never_open_by_default_and_at_once_under_the_literal_rule() {
    for end in [THROTTLED, REQUEST_TIMEOUT] {
        let mut default = rig(CountRefusals::WhenStarved);
        for _ in 0..10_000 {
            assert_eq!(default.call(end), None);
            default.wait(SECOND / 10);
        }
        let mut literal = rig(CountRefusals::Always);
        for _ in 0..99 {
            assert_eq!(literal.call(end), None);
        }
        assert!(literal.call(end).is_some());
    }
}

#[test]
fn what_a_refusal_is_to_a_probe() {
    for policy in POLICIES {
        for end in [THROTTLED, REQUEST_TIMEOUT, UNAVAILABLE] {
            let mut rig = rig(policy);
            rig.trip();
            rig.elapse();
            let probe = rig.probe();
            let moved = rig.settle(probe, end);
            let bad = match policy {
                CountRefusals::WhenStarved => end == UNAVAILABLE,
                CountRefusals::Always => true,
                CountRefusals::Never => false,
            };
            assert_eq!(moved.is_some(), bad, "{end:?} {policy:?}");
            if bad {
                assert_eq!(rig.state(), State::Open);
            } else {
                let second = rig.call(end).expect("the second good probe closes");
                assert_eq!(second.to, State::Closed);
            }
        }
    }
}

#[test]
fn closing_gives_the_host_its_ten_seconds_again() {
    let mut rig = rig(CountRefusals::WhenStarved);
    rig.trip();
    rig.elapse();
    rig.wait(60 * SECOND);
    // Both probes are throttled: the host lives, though it did nothing yet.
    rig.call(THROTTLED);
    rig.call(THROTTLED).expect("closed");
    assert_eq!(recorded(&mut rig, UNAVAILABLE), (0, 0));
}
