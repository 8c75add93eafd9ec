//! Calls that are admitted without a look at the clock.

use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::{FAILED, IGNORED, SECOND, SUCCESS, THROTTLED, UNAVAILABLE};
use crate::circuit_breaker::{BreakerConfig, Ratio, State, state::Circuit};

fn circuit(now: Instant) -> Circuit {
    Circuit::new(BreakerConfig::default(), 1, now)
}

/// How many failures a 503 counts as, of a call that was sent `elapsed` ago.
fn failures(circuit: &mut Circuit, elapsed: Duration, now: Instant) -> u64 {
    let before = circuit.snapshot(now).counts.failed;
    let ticket = circuit.admit_at_once().unwrap();
    assert_eq!(circuit.settle(ticket, UNAVAILABLE, elapsed, now), None);
    circuit.snapshot(now).counts.failed - before
}

#[test]
fn a_503_counts_once_nothing_has_succeeded_for_10_s() {
    let start = Instant::now();
    let mut circuit = circuit(start);
    // An hour in which nobody called is no hour without a success.
    let first = start + 3600 * SECOND;
    assert_eq!(failures(&mut circuit, SECOND, first), 0);
    let almost = first + 9 * SECOND - Duration::from_millis(1);
    assert_eq!(failures(&mut circuit, Duration::ZERO, almost), 0);
    // Since the first was sent, a second before it came back.
    let starved = first + 9 * SECOND;
    assert_eq!(failures(&mut circuit, Duration::ZERO, starved), 1);

    let good = circuit.admit_at_once().unwrap();
    let now = first + 10 * SECOND;
    assert_eq!(circuit.settle(good, SUCCESS, SECOND, now), None);
    // Sent before the success, this one says nothing of the time since.
    assert_eq!(failures(&mut circuit, 5 * SECOND, now + SECOND), 0);
    assert_eq!(failures(&mut circuit, Duration::ZERO, now + 2 * SECOND), 0);
    let almost = now + 12 * SECOND - Duration::from_millis(1);
    assert_eq!(failures(&mut circuit, Duration::ZERO, almost), 0);
    assert_eq!(failures(&mut circuit, Duration::ZERO, now + 12 * SECOND), 1);
}

#[test]
fn a_call_that_hung_tells_that_nothing_succeeded_since_it_was_sent() {
    let start = Instant::now();
    let mut circuit = circuit(start);
    let hung = circuit.admit_at_once().unwrap();
    // A quick 503 comes back first, but the other was sent before it.
    let now = start + 9 * SECOND;
    assert_eq!(failures(&mut circuit, SECOND, now), 0);
    let cancelled = super::End::Cancelled;
    let now = start + Duration::from_millis(9_900);
    assert_eq!(circuit.settle(hung, cancelled, now - start, now), None);
    assert_eq!(failures(&mut circuit, SECOND, start + 10 * SECOND), 1);
}

#[test]
fn an_open_circuit_admits_nobody_at_once() {
    let now = Instant::now();
    let mut circuit = circuit(now);
    let straggler = circuit.admit_at_once().unwrap();
    circuit.force_open(now);
    assert_eq!(circuit.admit_at_once(), None);
    circuit.reset(now);
    // It was admitted in another epoch.
    assert_eq!(circuit.settle(straggler, FAILED, SECOND, now), None);
    assert_eq!(circuit.snapshot(now).counts.calls, 0);
    assert!(circuit.admit_at_once().is_some());
}

const ENDS: [super::End; 9] = [
    SUCCESS,
    SUCCESS,
    SUCCESS,
    SUCCESS,
    FAILED,
    UNAVAILABLE,
    UNAVAILABLE,
    THROTTLED,
    IGNORED,
];

proptest! {
    /// One call after another, it makes no difference how they were admitted.
    #[test]
    fn the_circuit_sees_what_it_would_see_with_a_clock(
        ends in prop::collection::vec((prop::sample::select(&ENDS[..]), 0_u64..3_000, 0_u64..3_000), 1..300),
        min_calls in 1_u32..20,
    ) {
        let start = Instant::now();
        let config = BreakerConfig::default()
            .min_calls(min_calls)
            .failure_rate(Ratio::new(0.3).unwrap());
        let mut one = Circuit::new(config.clone(), 1, start);
        let mut other = Circuit::new(config, 1, start);
        let mut now = start;
        for (end, pause, took) in ends {
            now += Duration::from_millis(pause);
            let timed = one.admit(now).map(|admitted| admitted.ticket);
            let ticket = match other.admit_at_once() {
                Some(ticket) => Ok(ticket),
                None => other.admit(now).map(|admitted| admitted.ticket),
            };
            prop_assert_eq!(timed.is_ok(), ticket.is_ok());
            let took = Duration::from_millis(took);
            now += took;
            if let (Ok(timed), Ok(ticket)) = (timed, ticket) {
                let changed = one.settle(timed, end, took, now);
                prop_assert_eq!(changed, other.settle(ticket, end, took, now));
            }
            prop_assert_eq!(one.snapshot(now), other.snapshot(now));
            if one.state() == State::Open {
                now += 20 * SECOND;
            }
        }
    }
}
