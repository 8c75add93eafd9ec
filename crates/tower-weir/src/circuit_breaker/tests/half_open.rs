//! Probes: cancelled, hanging, late, replaced, panicking.

use std::time::Duration;

use super::{FAILED, IGNORED, Rig, SECOND, SUCCESS};
use crate::circuit_breaker::{
    BreakerConfig, ChangeCause, Counts, Probes, Ratio, SlowCalls, State,
    state::{End, Room},
};

const LEASE: Duration = Duration::from_secs(30);

/// A circuit that would take a probe.
fn ready(config: BreakerConfig) -> Rig {
    let mut rig = Rig::new(config);
    rig.trip();
    rig.elapse();
    rig
}

fn probing() -> Rig {
    ready(BreakerConfig::default())
}

#[test]
fn two_successes_close_and_leave_nothing_behind() {
    let mut rig = probing();
    let opened_at = rig.circuit.since();
    let first = rig.probe();
    rig.wait(SECOND);
    assert_eq!(rig.settle(first, SUCCESS), None);
    assert_eq!(rig.state(), State::HalfOpen);
    let second = rig.probe();
    let closed = rig.settle(second, SUCCESS).expect("closed");
    assert_eq!((closed.from, closed.to), (State::HalfOpen, State::Closed));
    assert_eq!(closed.cause, ChangeCause::ProbesSucceeded);
    assert_eq!((closed.counts.calls, closed.counts.failed), (2, 0));
    assert_eq!((closed.open_for, closed.lasted), (None, SECOND));
    assert!(rig.circuit.since() > opened_at);

    let fresh = rig.circuit.snapshot(rig.now);
    assert_eq!((fresh.counts, fresh.failure_run), (Counts::default(), 0));
    assert_eq!((fresh.opened_by, fresh.exceeded), (None, None));
    for _ in 0..99 {
        assert_eq!(rig.call(FAILED), None, "the window was emptied");
    }
}

#[test]
fn one_probe_at_a_time() {
    let mut rig = probing();
    let probe = rig.probe();
    assert_eq!(rig.refused(), Some(LEASE));
    assert_eq!(rig.circuit.retry_after(rig.now), Some(SECOND));
    rig.wait(LEASE - SECOND / 4);
    assert_eq!(rig.circuit.retry_after(rig.now), Some(SECOND / 4));
    rig.settle(probe, SUCCESS);
    assert_eq!(rig.circuit.retry_after(rig.now), None);
    assert_eq!(rig.room(), Room::Probes(1));
}

#[test]
fn one_bad_probe_reopens_after_a_good_one() {
    let mut rig = probing();
    assert_eq!(rig.call(SUCCESS), None);
    let opened = rig.call(FAILED).expect("reopened");
    assert_eq!((opened.counts.calls, opened.counts.failed), (2, 1));
    // The next round starts from nothing.
    rig.elapse();
    assert_eq!(rig.call(SUCCESS), None);
    assert_eq!(rig.state(), State::HalfOpen);
}

#[test]
fn a_cancelled_probe_frees_its_slot_and_records_nothing() {
    let mut rig = probing();
    for end in [End::Cancelled, IGNORED] {
        let probe = rig.probe();
        let epoch = rig.circuit.epoch();
        assert_eq!(rig.settle(probe, end), None);
        assert_eq!(rig.room(), Room::Probes(1));
        // Settled once is settled: its ticket is worth nothing now.
        assert_eq!(rig.settle(probe, FAILED), None);
        assert_eq!(rig.circuit.epoch(), epoch);
    }
    rig.call(SUCCESS);
    let closed = rig.call(SUCCESS).expect("closed");
    assert_eq!(closed.counts.calls, 2);
}

#[test]
fn a_probe_cancelled_after_ten_seconds_has_failed() {
    let mut rig = probing();
    let probe = rig.probe();
    rig.wait(10 * SECOND);
    let opened = rig.cancel(probe, 10 * SECOND).expect("reopened");
    assert_eq!(opened.cause, ChangeCause::ProbeFailed);
}

#[test]
fn a_panic_reopens() {
    let mut rig = probing();
    let opened = rig.call(End::Panicked).expect("reopened");
    assert_eq!(opened.cause, ChangeCause::ProbeFailed);
}

#[test]
fn a_hanging_probe_is_replaced_under_a_new_epoch() {
    let mut rig = probing();
    let hanging = rig.probe();
    let epoch = rig.circuit.epoch();
    rig.wait(LEASE - Duration::from_nanos(1));
    assert_eq!(rig.refused(), Some(Duration::from_nanos(1)));
    rig.wait(Duration::from_nanos(1));
    assert_eq!(rig.room(), Room::Probes(1));
    let replacement = rig.probe();
    assert_eq!(rig.circuit.epoch(), epoch + 1);
    assert_eq!(rig.refused(), Some(LEASE));

    assert_eq!(rig.settle(hanging, FAILED), None, "its epoch is over");
    assert_eq!(rig.state(), State::HalfOpen);
    assert_eq!(rig.refused(), Some(LEASE), "and it frees no slot");
    assert_eq!(rig.settle(replacement, SUCCESS), None);
    assert_eq!(rig.settle(hanging, SUCCESS), None);
    assert!(rig.call(SUCCESS).is_some());
}

#[test]
fn probes_that_all_hang_never_jam_the_circuit() {
    let mut rig = probing();
    for _ in 0..1_000 {
        rig.probe();
        assert_eq!(rig.refused(), Some(LEASE));
        rig.wait(LEASE);
    }
    rig.call(SUCCESS);
    assert!(rig.call(SUCCESS).is_some());
}

#[test]
fn a_late_probe_counts_as_long_as_nothing_replaced_it() {
    let mut rig = probing();
    let late = rig.probe();
    rig.wait(10 * LEASE);
    assert_eq!(rig.settle(late, FAILED).map(|it| it.to), Some(State::Open));
}

#[test]
fn a_replacement_leaves_the_other_probes_alone() {
    let mut rig = ready(BreakerConfig::default().probes(Probes::all(3).in_flight(2)));
    let hanging = rig.probe();
    rig.wait(LEASE / 2);
    let healthy = rig.probe();
    rig.wait(LEASE / 2);
    let replacement = rig.probe();
    assert_eq!(rig.refused(), Some(LEASE / 2));
    assert_eq!(rig.settle(hanging, SUCCESS), None);
    assert_eq!(rig.settle(healthy, SUCCESS), None);
    assert_eq!(rig.settle(replacement, SUCCESS), None);
    let closed = rig.call(SUCCESS).expect("closed by the third");
    assert_eq!(closed.counts.calls, 3);
}

#[test]
fn a_probe_of_an_earlier_round_is_a_straggler() {
    let mut rig = ready(BreakerConfig::default().probes(Probes::all(3).in_flight(3)));
    let [first, old] = [rig.probe(), rig.probe()];
    rig.settle(first, FAILED).expect("reopened");
    assert_eq!(rig.settle(old, SUCCESS), None);
    rig.elapse();
    let new = rig.probe();
    assert_eq!(rig.settle(old, FAILED), None);
    assert_eq!(rig.state(), State::HalfOpen);
    assert_eq!(rig.settle(new, SUCCESS), None);
    rig.call(SUCCESS);
    rig.call(SUCCESS).expect("closed");
    let before = rig.circuit.snapshot(rig.now);
    assert_eq!(rig.settle(old, FAILED), None);
    assert_eq!(rig.circuit.snapshot(rig.now), before);
}

#[test]
fn n_probes_are_judged_by_their_ratio() {
    let config =
        BreakerConfig::default().probes(Probes::ratio(10, Ratio::new(0.6).unwrap()).in_flight(4));
    let mut rig = ready(config.clone());
    let four = [rig.probe(), rig.probe(), rig.probe(), rig.probe()];
    assert!(matches!(rig.room(), Room::Full(_)));
    for probe in four {
        assert_eq!(rig.settle(probe, FAILED), None);
    }
    for _ in 0..5 {
        assert_eq!(rig.call(SUCCESS), None);
    }
    assert_eq!(rig.room(), Room::Probes(1), "no more than ten in all");
    let closed = rig.call(SUCCESS).expect("6 of 10");
    assert_eq!((closed.counts.calls, closed.counts.failed), (10, 4));

    let mut rig = ready(config);
    for _ in 0..4 {
        assert_eq!(rig.call(FAILED), None);
    }
    let opened = rig.call(FAILED).expect("6 of 10 are out of reach");
    assert_eq!(opened.counts.calls, 5);
}

#[test]
fn a_slow_probe_is_a_bad_one_where_slow_calls_count() {
    let took = |rig: &mut Rig, time| {
        let probe = rig.probe();
        rig.circuit.settle(probe, SUCCESS, time, rig.now)
    };
    let slow = SlowCalls::new(SECOND, Ratio::new(0.5).unwrap());
    let mut rig = ready(BreakerConfig::default().slow_calls(slow));
    assert_eq!(took(&mut rig, SECOND / 2), None);
    let opened = took(&mut rig, SECOND).expect("reopened");
    assert_eq!(opened.cause, ChangeCause::ProbeFailed);

    let mut rig = probing();
    assert_eq!(took(&mut rig, 20 * SECOND), None);
    assert_eq!(rig.state(), State::HalfOpen);
}

#[test]
fn only_a_lease_that_runs_is_waited_for() {
    let config = BreakerConfig::default().probe_lease(30 * SECOND);
    let mut rig = Rig::new(config.clone().probes(Probes::all(3).in_flight(2)));
    rig.trip();
    rig.elapse();
    rig.probe();
    rig.wait(10 * SECOND);
    rig.probe();
    // One probe at a time from now on, and the second one has longer to live.
    rig.circuit
        .reconfigure(config.probes(Probes::all(3)), rig.now);
    rig.wait(20 * SECOND);
    assert_eq!(rig.refused(), Some(10 * SECOND));
}
