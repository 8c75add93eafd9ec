//! What opens a closed circuit, and what does not.

use std::time::Duration;

use super::{FAILED, IGNORED, Rig, SECOND, SUCCESS, THROTTLED, UNAVAILABLE};
use crate::circuit_breaker::{
    BreakerConfig, ChangeCause, FailureRun, Ratio, SlowCalls, State, Window, state::End,
};

fn ratio(ratio: f64) -> Ratio {
    Ratio::new(ratio).unwrap()
}

/// Ten failures in a row, evenly over `time`.
fn ten_failures(rig: &mut Rig, time: Duration) -> Option<ChangeCause> {
    let mut opened = rig.call(FAILED);
    for _ in 0..9 {
        assert_eq!(opened, None);
        rig.wait(time / 9);
        opened = rig.call(FAILED);
    }
    opened.map(|opened| opened.cause)
}

#[test]
fn the_default_rate_opens_at_fifteen_of_a_hundred() {
    let mut rig = Rig::new(BreakerConfig::default());
    for _ in 0..85 {
        assert_eq!(rig.call(SUCCESS), None);
    }
    for _ in 0..14 {
        assert_eq!(rig.call(FAILED), None);
    }
    rig.wait(Duration::from_millis(300));
    let opened = rig.call(FAILED).expect("15 of 100");
    assert_eq!((opened.from, opened.to), (State::Closed, State::Open));
    assert_eq!(opened.cause, ChangeCause::FailureRate);
    assert_eq!((opened.counts.calls, opened.counts.failed), (100, 15));
    assert_eq!(opened.lasted, Duration::from_millis(300));
    assert_eq!(rig.circuit.opened_by(), Some(ChangeCause::FailureRate));
    assert_eq!(rig.circuit.since(), rig.now);
    assert_eq!(rig.circuit.epoch(), 1);
}

#[test]
fn a_run_opens_at_ten_failures_over_two_seconds() {
    let mut rig = Rig::new(BreakerConfig::default());
    // 9 steps of a whole number of nanoseconds: 2 s and 1 ns less.
    assert_eq!(
        ten_failures(&mut rig, 9 * Duration::from_nanos(222_222_223)),
        Some(ChangeCause::FailureRun)
    );
    let mut rig = Rig::new(BreakerConfig::default());
    assert_eq!(ten_failures(&mut rig, 2 * SECOND), None);
    rig.wait(Duration::from_nanos(2));
    let opened = rig.call(FAILED).expect("11 failures over 2 s");
    assert_eq!(opened.cause, ChangeCause::FailureRun);
    assert_eq!(opened.counts.failed, 11);
}

#[test]
fn nine_failures_are_no_run_however_long() {
    let mut rig = Rig::new(BreakerConfig::default());
    for _ in 0..9 {
        assert_eq!(rig.call(FAILED), None);
        rig.wait(60 * SECOND);
    }
    assert_eq!(rig.circuit.snapshot(rig.now).failure_run, 9);
    assert!(rig.call(FAILED).is_some());
}

/// A circuit with so much good history that failures are no rate for long.
fn seasoned(config: BreakerConfig) -> Rig {
    let mut rig = Rig::new(config);
    for _ in 0..20_000 {
        assert_eq!(rig.call(SUCCESS), None);
    }
    rig
}

/// Fails a call each so often, until the circuit opens: after how long, by how
/// many failures, and why.
fn outage(rig: &mut Rig, every: Duration) -> (Duration, u32, ChangeCause) {
    let died = rig.now;
    for failures in 1.. {
        if let Some(opened) = rig.call(FAILED) {
            return (rig.now - died, failures, opened.cause);
        }
        rig.wait(every);
    }
    unreachable!("it opens in the end")
}

#[test]
fn a_lost_connection_shared_by_many_calls_opens_nothing() {
    let mut rig = seasoned(BreakerConfig::default());
    let shared: Vec<_> = (0..1_000).map(|_| rig.admit()).collect();
    for ticket in shared {
        assert_eq!(rig.settle(ticket, FAILED), None);
        // They learn of it one after the other, within the 2 s.
        rig.wait(Duration::from_millis(1));
    }
    assert_eq!(rig.circuit.snapshot(rig.now).failure_run, 1_000);
    // Those who are sent after it are another matter.
    for _ in 0..99 {
        assert_eq!(rig.call(FAILED), None);
    }
    let opened = rig.call(FAILED).expect("100 that were sent afterwards");
    assert_eq!(opened.cause, ChangeCause::FailureRun);
    assert_eq!(rig.now - rig.start, SECOND);
}

#[test]
fn an_outage_under_load_opens_it_within_a_second_of_load_after_any_history() {
    for (every, after, failures) in [
        // 200 a second, as fast as a hundred failures come.
        (5, 500, 101),
        (2, 250, 126),
        (1, 250, 251),
        // 100 a second and 50: a hundred take a second, and two.
        (10, 1_000, 101),
        (20, 2_000, 101),
        // Slower ones are left to ten in 2 s.
        (25, 2_000, 81),
        (100, 2_000, 21),
        (1_000, 9_000, 10),
    ] {
        let mut rig = seasoned(BreakerConfig::default());
        let seen = outage(&mut rig, Duration::from_millis(every));
        let after = Duration::from_millis(after);
        assert_eq!(seen, (after, failures, ChangeCause::FailureRun), "{every}");
    }
}

#[test]
fn a_failure_counts_as_informed_in_the_run_that_its_call_began_in() {
    let lasting = Duration::from_millis(250);
    let mut rig = seasoned(BreakerConfig::default());
    // One run, and calls that begin in it; they fail in the next.
    rig.call(FAILED);
    let earlier: Vec<_> = (0..200).map(|_| rig.admit()).collect();
    rig.call(SUCCESS);
    let between: Vec<_> = (0..200).map(|_| rig.admit()).collect();
    rig.call(FAILED);
    rig.wait(lasting);
    for ticket in earlier.into_iter().chain(between) {
        assert_eq!(rig.settle(ticket, FAILED), None);
    }
    let informed: Vec<_> = (0..100).map(|_| rig.admit()).collect();
    let mut opened = informed.into_iter().map(|call| rig.settle(call, FAILED));
    assert!(opened.by_ref().take(99).all(|opened| opened.is_none()));
    assert!(opened.next().flatten().is_some());
}

#[test]
fn how_much_sooner_a_busy_run_opens_is_a_setting() {
    let every = Duration::from_millis(1);
    let opens = |run: FailureRun| {
        let config = BreakerConfig::default().failure_run(run);
        let (after, failures, _) = outage(&mut seasoned(config), every);
        (after, failures)
    };
    let default = FailureRun::default();
    assert_eq!(opens(default.sooner(None)), (2 * SECOND, 2_001));
    assert_eq!(opens(default.sooner(1_000)), (SECOND, 1_001));
    assert_eq!(opens(default.sooner(0)), (SECOND / 4, 251));
    assert_eq!(opens(FailureRun::new(10, 8 * SECOND)), (SECOND, 1_001));
    // Where ten would do at once, no hundred are waited for.
    assert_eq!(opens(FailureRun::new(10, Duration::ZERO)).1, 10);
    assert_eq!(opens(FailureRun::new(1_000, Duration::ZERO)).1, 101);
}

#[test]
fn an_answer_ends_a_run_and_the_rest_leaves_it_alone() {
    for (between, ends) in [
        (SUCCESS, true),
        (THROTTLED, true),
        (UNAVAILABLE, false),
        (IGNORED, false),
        (End::Cancelled, false),
    ] {
        let mut rig = Rig::new(BreakerConfig::default());
        for _ in 0..9 {
            rig.call(FAILED);
            rig.wait(SECOND / 2);
        }
        assert_eq!(rig.call(between), None);
        let opened = rig.call(FAILED);
        assert_eq!(opened.is_none(), ends, "{between:?}");
        let run = if ends { 1 } else { 10 };
        assert_eq!(rig.circuit.snapshot(rig.now).failure_run, run);
    }
}

#[test]
fn a_panic_counts_as_a_failure() {
    let mut rig = Rig::new(BreakerConfig::default());
    for _ in 0..99 {
        assert_eq!(rig.call(End::Panicked), None);
    }
    assert!(rig.call(End::Panicked).is_some());
}

#[test]
fn a_cancelled_call_counts_from_its_limit_on() {
    let limit = 3 * SECOND;
    for (after, ran, counted) in [
        (Some(limit), limit - Duration::from_nanos(1), 0),
        (Some(limit), limit, 1),
        (None, Duration::MAX, 0),
    ] {
        let mut rig = Rig::new(BreakerConfig::default().cancel_counts_after(after));
        let ticket = rig.admit();
        rig.cancel(ticket, ran);
        assert_eq!(rig.circuit.snapshot(rig.now).counts.failed, counted);
    }
}

#[test]
fn an_upstream_that_hangs_under_impatient_callers_opens() {
    let mut rig = Rig::new(BreakerConfig::default());
    let mut opened = None;
    for _ in 0..10 {
        assert_eq!(opened, None);
        let ticket = rig.admit();
        rig.wait(10 * SECOND);
        opened = rig.cancel(ticket, 10 * SECOND);
    }
    assert_eq!(opened.map(|it| it.cause), Some(ChangeCause::FailureRun));
}

#[test]
fn slow_calls_open_only_when_asked_for() {
    let slow = |rig: &mut Rig, end, took| {
        let ticket = rig.admit();
        rig.circuit.settle(ticket, end, took, rig.now)
    };
    let mut rig = Rig::new(BreakerConfig::default());
    for _ in 0..1_000 {
        assert_eq!(slow(&mut rig, SUCCESS, 60 * SECOND), None);
    }
    assert_eq!(rig.circuit.snapshot(rig.now).counts.slow, 0);

    let config = BreakerConfig::default()
        .slow_calls(SlowCalls::new(SECOND, ratio(0.5)))
        .failure_rate(None)
        .min_calls(4);
    let mut rig = Rig::new(config);
    assert_eq!(slow(&mut rig, SUCCESS, SECOND), None);
    assert_eq!(
        slow(&mut rig, SUCCESS, SECOND - Duration::from_nanos(1)),
        None
    );
    assert_eq!(slow(&mut rig, SUCCESS, Duration::ZERO), None);
    let opened = slow(&mut rig, FAILED, SECOND).expect("2 of 4 are slow");
    assert_eq!(opened.cause, ChangeCause::SlowRate);
    assert_eq!((opened.counts.slow, opened.counts.failed), (2, 1));
    assert_eq!(opened.counts.slow_rate(), 0.5);
}

#[test]
fn a_count_window_lowers_min_calls_to_its_own_size() {
    let config = BreakerConfig::default().window(Window::calls(20).unwrap());
    let mut rig = Rig::new(config);
    for _ in 0..19 {
        assert_eq!(rig.call(FAILED), None);
    }
    assert!(rig.call(SUCCESS).is_some());
}

#[test]
fn a_count_window_forgets_by_number_and_a_time_window_by_age() {
    let config = BreakerConfig::default().failure_run(None).min_calls(20);
    let fail_rarely = |config: BreakerConfig| {
        let mut rig = Rig::new(config);
        for _ in 0..2 {
            assert_eq!(rig.call(FAILED), None);
        }
        for _ in 0..10 {
            assert_eq!(rig.call(SUCCESS), None);
        }
        rig.wait(300 * SECOND);
        for _ in 0..7 {
            assert_eq!(rig.call(SUCCESS), None);
        }
        rig.call(FAILED)
    };
    assert_eq!(fail_rarely(config.clone()), None);
    let opened = fail_rarely(config.window(Window::calls(20).unwrap()));
    assert_eq!(opened.expect("3 of 20").counts.failed, 3);
}

#[test]
fn without_rules_nothing_opens() {
    let config = BreakerConfig::default()
        .failure_rate(None)
        .failure_run(None);
    let mut rig = Rig::new(config);
    for _ in 0..10_000 {
        assert_eq!(rig.call(FAILED), None);
        rig.wait(SECOND);
    }
}

#[test]
fn zeros_read_as_one() {
    let rate = BreakerConfig::default().min_calls(0).failure_run(None);
    let run = BreakerConfig::default()
        .failure_rate(None)
        .failure_run(FailureRun::new(0, Duration::ZERO));
    for config in [rate, run] {
        let mut rig = Rig::new(config);
        assert_eq!(rig.call(SUCCESS), None);
        assert_eq!(rig.state(), State::Closed);
    }
    let mut rig = Rig::new(BreakerConfig::default().min_calls(0));
    assert!(rig.call(FAILED).is_some());
}
