//! What an operator does, times that make no sense, and new settings.

use std::time::Duration;

use super::{FAILED, Rig, SECOND, SUCCESS};
use crate::circuit_breaker::{
    BreakerConfig, ChangeCause, Control, Counts, OpenFor, Probes, Ratio, State, Window,
    state::{Room, Wait},
};

const HELD: Room = Room::Full(Wait { until: None });

fn rig() -> Rig {
    Rig::new(BreakerConfig::default())
}

#[test]
fn forced_open_stays_open_until_reset() {
    let mut rig = rig();
    let straggler = rig.admit();
    let moved = rig.circuit.force_open(rig.now).expect("opened");
    assert_eq!((moved.from, moved.to), (State::Closed, State::Open));
    assert_eq!((moved.cause, moved.open_for), (ChangeCause::Manual, None));
    assert_eq!(rig.circuit.force_open(rig.now), None);
    rig.wait(1_000_000 * SECOND);
    assert_eq!(rig.room(), HELD);
    assert_eq!(rig.refused(), None);
    assert_eq!(rig.circuit.retry_after(rig.now), None);
    assert_eq!(rig.settle(straggler, SUCCESS), None);
    let snapshot = rig.circuit.snapshot(rig.now);
    assert_eq!(snapshot.control, Control::ForcedOpen);
    assert_eq!(snapshot.opened_by, Some(ChangeCause::Manual));

    let moved = rig.circuit.reset(rig.now).expect("closed");
    assert_eq!((moved.from, moved.to), (State::Open, State::Closed));
    assert_eq!(moved.lasted, 1_000_000 * SECOND);
    assert_eq!(rig.circuit.snapshot(rig.now).control, Control::Automatic);
    assert_eq!(rig.settle(straggler, FAILED), None);
    assert_eq!(rig.circuit.snapshot(rig.now).counts, Counts::default());
    assert_eq!(rig.trip().cause, ChangeCause::FailureRate);
}

#[test]
fn an_opening_by_the_rules_can_be_held() {
    let mut rig = rig();
    rig.trip();
    assert_eq!(rig.circuit.force_open(rig.now), None);
    assert_eq!(rig.room(), HELD);

    rig.circuit.reset(rig.now).expect("closed");
    rig.trip();
    rig.elapse();
    let probe = rig.probe();
    let moved = rig.circuit.force_open(rig.now).expect("opened");
    assert_eq!(moved.from, State::HalfOpen);
    assert_eq!(rig.settle(probe, SUCCESS), None);
    assert_eq!(rig.room(), HELD);
}

#[test]
fn forced_closed_admits_and_records_nothing() {
    let mut rig = rig();
    rig.trip();
    let moved = rig.circuit.force_closed(rig.now).expect("closed");
    assert_eq!((moved.from, moved.to), (State::Open, State::Closed));
    assert_eq!(moved.cause, ChangeCause::Manual);
    for _ in 0..1_000 {
        assert_eq!(rig.call(FAILED), None);
        rig.wait(SECOND);
    }
    let snapshot = rig.circuit.snapshot(rig.now);
    assert_eq!(
        (snapshot.counts, snapshot.failure_run),
        (Counts::default(), 0)
    );
    assert_eq!(snapshot.control, Control::ForcedClosed);
    let straggler = rig.admit();
    assert_eq!(rig.circuit.reset(rig.now), None, "no change of state");
    assert_eq!(rig.settle(straggler, FAILED), None);
    assert_eq!(rig.circuit.snapshot(rig.now).counts, Counts::default());
}

#[test]
fn metrics_only_records_and_never_refuses() {
    let mut rig = rig();
    rig.call(SUCCESS);
    assert_eq!(rig.circuit.metrics_only(rig.now), None);
    for _ in 0..999 {
        assert_eq!(rig.call(FAILED), None);
    }
    assert_eq!(rig.circuit.metrics_only(rig.now), None, "nothing is lost");
    let snapshot = rig.circuit.snapshot(rig.now);
    assert_eq!(
        (snapshot.counts.calls, snapshot.counts.failed),
        (1_000, 999)
    );
    assert_eq!(snapshot.failure_run, 999);
    assert_eq!(snapshot.exceeded, Some(ChangeCause::FailureRate));
    assert_eq!(
        (snapshot.state, snapshot.retry_after),
        (State::Closed, None)
    );

    assert_eq!(rig.circuit.reset(rig.now), None);
    assert_eq!(rig.circuit.snapshot(rig.now).counts, Counts::default());
    rig.trip();
    let moved = rig.circuit.metrics_only(rig.now).expect("closed");
    assert_eq!((moved.from, moved.to), (State::Open, State::Closed));
    assert_eq!(rig.room(), Room::All);
}

#[test]
fn a_reset_drops_what_was_in_flight() {
    let mut rig = rig();
    let tickets: Vec<_> = (0..100).map(|_| rig.admit()).collect();
    rig.wait(SECOND);
    let since = rig.circuit.since();
    assert_eq!(rig.circuit.reset(rig.now), None);
    for ticket in tickets {
        assert_eq!(rig.settle(ticket, FAILED), None);
    }
    assert_eq!(rig.circuit.snapshot(rig.now).counts, Counts::default());
    assert_eq!(rig.circuit.since(), since, "it has been closed all along");
}

#[test]
fn thresholds_change_under_way_and_the_window_stays() {
    let mut rig = rig();
    let ticket = rig.admit();
    for _ in 0..80 {
        rig.call(FAILED);
    }
    let raised = BreakerConfig::default().failure_rate(Ratio::new(0.9).unwrap());
    rig.circuit.reconfigure(raised, rig.now);
    for _ in 0..40 {
        assert_eq!(rig.call(SUCCESS), None);
    }
    rig.circuit.reconfigure(BreakerConfig::default(), rig.now);
    assert_eq!(
        rig.state(),
        State::Closed,
        "it is judged with the next record"
    );
    let opened = rig.settle(ticket, SUCCESS).expect("80 of 121");
    assert_eq!((opened.counts.calls, opened.counts.failed), (121, 80));
}

#[test]
fn another_window_starts_empty() {
    let mut rig = rig();
    for _ in 0..99 {
        rig.call(FAILED);
    }
    let config = BreakerConfig::default().window(Window::calls(100).unwrap());
    rig.circuit.reconfigure(config, rig.now);
    assert_eq!(rig.call(FAILED), None);
    assert_eq!(rig.circuit.snapshot(rig.now).counts.calls, 1);
}

#[test]
fn fewer_probes_asked_for_do_not_jam_a_round() {
    let mut rig = Rig::new(BreakerConfig::default().probes(Probes::all(5).in_flight(3)));
    rig.trip();
    rig.elapse();
    for _ in 0..3 {
        assert_eq!(rig.call(SUCCESS), None);
    }
    let flying = [rig.probe(), rig.probe()];
    let config = BreakerConfig::default().probes(Probes::all(2));
    rig.circuit.reconfigure(config, rig.now);
    assert!(rig.refused().is_some());
    assert_eq!(rig.settle(flying[0], SUCCESS), None);
    let closed = rig.settle(flying[1], SUCCESS).expect("closed");
    assert_eq!(closed.counts.calls, 2);
}

#[test]
fn a_wait_ends_in_the_future_though_a_lease_is_over() {
    let mut rig = Rig::new(BreakerConfig::default().probes(Probes::all(3).in_flight(3)));
    rig.trip();
    rig.elapse();
    rig.probe();
    rig.wait(20 * SECOND);
    rig.probe();
    rig.probe();
    rig.wait(10 * SECOND);
    assert_eq!(rig.room(), Room::Probes(1), "the first lease is over");
    let config = BreakerConfig::default().probes(Probes::all(3));
    rig.circuit.reconfigure(config, rig.now);
    assert_eq!(rig.refused(), Some(20 * SECOND));
}

#[test]
fn a_lower_cap_holds_from_the_next_opening() {
    let period = |first: u32, cap: u32| {
        let open_for = OpenFor::new(first * SECOND, cap * SECOND).unwrap();
        BreakerConfig::default().open_for(open_for.jitter(None))
    };
    let mut rig = Rig::new(period(8, 60));
    rig.trip();
    rig.circuit.reconfigure(period(1, 5), rig.now);
    rig.elapse();
    assert_eq!(rig.call(FAILED).unwrap().open_for, Some(5 * SECOND));
    rig.circuit.reconfigure(period(20, 60), rig.now);
    rig.elapse();
    assert_eq!(rig.call(FAILED).unwrap().open_for, Some(20 * SECOND));
}

#[test]
fn a_clock_that_steps_back_changes_nothing() {
    let mut rig = rig();
    rig.trip();
    let open_until = rig.now + rig.circuit.retry_after(rig.now).unwrap();
    rig.wait(SECOND / 2);
    assert!(rig.refused().is_some());
    let late = rig.now;
    rig.now = rig.start;
    assert_eq!(rig.circuit.retry_after(rig.now), Some(open_until - late));
    rig.now = open_until;
    let probe = rig.probe();
    rig.now = rig.start;
    assert_eq!(rig.settle(probe, FAILED).unwrap().lasted, Duration::ZERO);
    assert_eq!(rig.circuit.since(), open_until);
}

#[test]
fn an_older_reading_of_the_clock_sees_what_a_newer_one_did() {
    let mut rig = rig();
    let straggler = rig.admit();
    rig.trip();
    let early = rig.now;
    rig.wait(2 * SECOND);
    rig.settle(straggler, SUCCESS);
    rig.now = early;
    assert_eq!(rig.room(), Room::Probes(1));
    let probe = rig.probe();
    rig.now += 300 * SECOND;
    rig.cancel(probe, Duration::ZERO);
    rig.now = early;
    assert_eq!(rig.circuit.snapshot(rig.now).counts, Counts::default());
}

#[test]
fn the_longest_times_are_for_ever_and_not_a_panic() {
    let forever = OpenFor::new(Duration::MAX, Duration::MAX).unwrap();
    let config = BreakerConfig::default()
        .open_for(forever)
        .hint_cap(Duration::MAX)
        .starved_after(Duration::MAX)
        .probe_lease(Duration::MAX);
    let mut rig = Rig::new(config);
    rig.trip();
    rig.wait(1_000_000 * SECOND);
    assert_eq!(rig.room(), HELD);
    rig.circuit.reset(rig.now);

    let lease = BreakerConfig::default().probe_lease(Duration::MAX);
    rig.circuit.reconfigure(lease, rig.now);
    rig.trip();
    rig.elapse();
    let probe = rig.probe();
    rig.wait(1_000_000 * SECOND);
    assert_eq!(rig.room(), HELD);
    assert_eq!(rig.circuit.retry_after(rig.now), Some(SECOND));
    assert_eq!(rig.settle(probe, SUCCESS), None);
}
