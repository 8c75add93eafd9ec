use super::*;
use crate::outcome::Verdict;

struct Driver {
    latency: Latency,
    now: Instant,
}

impl Driver {
    fn new() -> Self {
        Self {
            latency: Latency::new(LatencySignal::default()),
            now: Instant::now(),
        }
    }

    fn call(&mut self, started: Instant, rtt_ms: u64, limit: usize) -> Signal {
        let sample = Sample {
            started,
            now: self.now,
            rtt: Duration::from_millis(rtt_ms),
            in_flight_at_start: limit,
            in_flight: limit,
            binding: true,
            verdict: Verdict::Success,
            hint: None,
        };
        self.latency.succeeded(&sample, limit)
    }

    /// A round of 16 calls, all of the same length: no error to allow for.
    fn round(&mut self, rtt_ms: u64) -> Signal {
        let started = self.now;
        self.now += Duration::from_millis(rtt_ms);
        for _ in 0..15 {
            let _ = self.call(started, rtt_ms, 16);
        }
        self.call(started, rtt_ms, 16)
    }

    fn rounds<const N: usize>(&mut self, rtt_ms: [u64; N]) -> [Signal; N] {
        rtt_ms.map(|rtt_ms| self.round(rtt_ms))
    }
}

use Signal::{Free, Hold, Shrink};

#[test]
fn growth_stops_a_fifth_above_the_least_median() {
    let mut driver = Driver::new();
    assert_eq!(
        driver.rounds([100, 119, 121, 119, 90, 109]),
        [Free, Free, Hold, Free, Free, Hold],
    );
}

#[test]
fn the_limit_shrinks_after_two_rounds_that_are_much_too_long() {
    let mut driver = Driver::new();
    assert_eq!(
        driver.rounds([100, 161, 130, 161, 161, 161, 161]),
        [Free, Hold, Hold, Hold, Shrink, Hold, Shrink],
    );
}

#[test]
fn between_two_rounds_it_holds_and_shrinks_no_more() {
    let mut driver = Driver::new();
    let _ = driver.rounds([100, 200]);
    assert_eq!(driver.round(200), Shrink);
    assert_eq!(driver.call(driver.now, 200, 16), Hold);
}

#[test]
fn an_upstream_that_is_slow_by_itself_is_taken_as_it_is() {
    let mut driver = Driver::new();
    let _ = driver.round(100);
    assert_eq!(
        driver.rounds([200, 200, 200, 200, 200, 200, 200, 200, 200]),
        [Hold, Shrink, Hold, Shrink, Hold, Shrink, Hold, Hold, Free],
        "three times, to no effect",
    );
}

#[test]
fn a_queue_of_ours_shrinks_until_it_is_short() {
    let mut driver = Driver::new();
    let _ = driver.round(100);
    assert_eq!(
        driver.rounds([
            300, 300, 270, 270, 243, 243, 219, 219, 197, 197, 177, 177, 159, 159
        ]),
        [
            Hold, Shrink, Hold, Shrink, Hold, Shrink, Hold, Shrink, Hold, Shrink, Hold, Shrink,
            Hold, Hold
        ],
    );
}

#[test]
fn calls_of_uneven_length_are_given_allowance() {
    let mut driver = Driver::new();
    let _ = driver.round(100);
    let started = driver.now;
    driver.now += Duration::from_millis(300);
    let mut signal = Free;
    // The median is 130, but from 60 to 280 anything may come.
    for rtt_ms in (0..16).map(|n| {
        if n < 8 {
            60 + 10 * n
        } else {
            130 + 20 * (n - 8)
        }
    }) {
        signal = driver.call(started, rtt_ms, 16);
    }
    assert_eq!(signal, Free);
    assert_eq!(driver.round(130), Hold);
}

#[test]
fn a_round_has_three_quarters_of_the_limit_but_16_to_64_calls() {
    for (limit, calls) in [(4, 16), (40, 30), (256, 64)] {
        let mut driver = Driver::new();
        let _ = driver.round(100);
        let started = driver.now;
        driver.now += Duration::from_millis(150);
        for _ in 1..calls {
            assert_eq!(driver.call(started, 150, limit), Free);
        }
        assert_eq!(driver.call(started, 150, limit), Hold);
    }
}

#[test]
fn calls_from_before_the_round_do_not_count() {
    let mut driver = Driver::new();
    let before = driver.now;
    let _ = driver.round(100);
    for _ in 0..100 {
        assert_eq!(driver.call(before, 900, 16), Free);
    }
    assert_eq!(driver.round(100), Free);
}

#[test]
fn an_old_least_median_is_renewed_by_two_rounds_at_half_the_limit() {
    let mut driver = Driver::new();
    let _ = driver.round(100);
    driver.now += Duration::from_millis(9_700);
    assert_eq!(driver.round(130), Hold);
    assert!(!driver.latency.is_probing(), "9.83 s");
    driver.now += Duration::from_millis(200);
    assert_eq!(driver.round(130), Hold);
    assert!(driver.latency.is_probing());
    assert_eq!(driver.round(120), Hold, "what was queued drains");
    assert!(driver.latency.is_probing());
    assert_eq!(driver.round(115), Free);
    assert!(!driver.latency.is_probing());
    assert_eq!(driver.rounds([137, 139]), [Free, Hold], "1.2 * 115 = 138");
}

#[test]
fn a_least_median_that_still_holds_is_renewed_without_a_probe() {
    let mut driver = Driver::new();
    let _ = driver.round(100);
    driver.now += Duration::from_secs(11);
    assert_eq!(driver.round(104), Free);
    assert!(!driver.latency.is_probing());
    assert_eq!(driver.rounds([124, 126]), [Free, Hold], "1.2 * 104 = 124.8");
}

#[test]
fn a_slow_upstream_has_a_longer_window() {
    let mut driver = Driver::new();
    let _ = driver.round(1_000);
    driver.now += Duration::from_secs(40);
    assert_eq!(driver.round(1_300), Hold);
    assert!(!driver.latency.is_probing(), "50 round trips are 65 s");
}

#[test]
fn a_refusal_ends_a_probe() {
    let mut driver = Driver::new();
    let _ = driver.round(100);
    driver.now += Duration::from_secs(11);
    let _ = driver.round(150);
    assert!(driver.latency.is_probing());
    driver.latency.overloaded();
    assert!(!driver.latency.is_probing());
}
