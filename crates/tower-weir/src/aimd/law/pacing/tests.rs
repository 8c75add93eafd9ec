use super::*;

const SRTT: Duration = Duration::from_millis(20);

struct Driver {
    pacing: Pacing,
    now: Instant,
}

impl Driver {
    fn new() -> Self {
        Self {
            pacing: Pacing::new(),
            now: Instant::now(),
        }
    }

    /// A call that waits `idle` before it starts and succeeds.
    fn succeed_after(&mut self, idle: Duration) {
        let started = self.now + idle;
        self.now = started + SRTT;
        self.pacing.succeeded(started, self.now, SRTT);
    }

    /// A call that is throttled in 2 ms, and the cooling after it.
    fn throttle(&mut self, cool: Duration) {
        let started = self.now;
        self.now += Duration::from_millis(2);
        self.pacing.throttled(started, self.now, cool, true);
        self.now += cool;
    }

    /// Seconds as an upstream with ten calls in each gives them to a client that
    /// sends as it can: ten successes, then refusals for 0.8 s.
    fn unpaced_seconds(&mut self, seconds: usize) {
        for _ in 0..seconds {
            for _ in 0..2 {
                self.throttle(Duration::from_millis(398));
            }
            for _ in 0..10 {
                self.succeed_after(Duration::ZERO);
            }
        }
    }

    fn gap_ms(&self) -> f64 {
        self.pacing.gap().as_secs_f64() * 1e3
    }

    /// A trial that succeeds: calls 100 ms apart, none refused.
    fn adopt(&mut self) {
        self.unpaced_seconds(4);
        for _ in 0..20 {
            assert!(matches!(self.pacing.phase, Phase::Trial { .. }));
            self.succeed_after(Duration::from_millis(80));
        }
        assert!(matches!(self.pacing.phase, Phase::On(_)));
    }
}

#[test]
fn a_gap_is_tried_after_two_slow_stretches_that_agree() {
    let mut driver = Driver::new();
    // 20 successes and 4 refusals are a stretch; it ends with the 20th.
    driver.unpaced_seconds(2);
    assert!(!driver.pacing.is_on());
    driver.unpaced_seconds(2);
    assert!(driver.pacing.is_on());
    // Two seconds each, less the first refusal's 2 ms: the mean gap.
    assert!((driver.gap_ms() - 100.0).abs() < 0.1, "{}", driver.gap_ms());
}

#[test]
fn a_slot_that_is_seldom_refused_is_not_spaced_out() {
    let mut driver = Driver::new();
    for _ in 0..500 {
        driver.throttle(Duration::from_millis(100));
        for _ in 0..10 {
            driver.succeed_after(Duration::ZERO);
        }
    }
    assert!(!driver.pacing.is_on(), "a refusal for ten successes");
}

#[test]
fn stretches_that_differ_are_not_believed() {
    let mut driver = Driver::new();
    driver.unpaced_seconds(2);
    // An outage in the second.
    driver.throttle(Duration::from_secs(5));
    driver.unpaced_seconds(2);
    assert!(!driver.pacing.is_on());
}

#[test]
fn stretches_with_nothing_to_send_are_not_believed() {
    let mut driver = Driver::new();
    for _ in 0..20 {
        driver.unpaced_seconds(1);
        driver.now += Duration::from_secs(1);
    }
    assert!(!driver.pacing.is_on());
}

#[test]
fn a_trial_that_is_refused_half_as_often_as_before_is_given_up() {
    let mut driver = Driver::new();
    driver.unpaced_seconds(4);
    // Before: 4 refusals for 20 successes.
    driver.throttle(Duration::ZERO);
    driver.throttle(Duration::ZERO);
    assert!(driver.pacing.is_on());
    driver.throttle(Duration::ZERO);
    assert!(!driver.pacing.is_on());
}

#[test]
fn a_trial_that_takes_longer_than_before_is_given_up() {
    let mut driver = Driver::new();
    driver.unpaced_seconds(4);
    for _ in 0..17 {
        driver.succeed_after(Duration::from_millis(105));
        assert!(driver.pacing.is_on());
    }
    driver.succeed_after(Duration::from_millis(105));
    assert!(!driver.pacing.is_on(), "18 calls in 2.25 s, 20 took 2 s");
}

#[test]
fn trials_that_fail_become_rare() {
    let mut driver = Driver::new();
    let mut waits = Vec::new();
    for _ in 0..8 {
        let mut seconds = 0u32;
        while !driver.pacing.is_on() {
            driver.unpaced_seconds(1);
            seconds += 1;
        }
        waits.push(seconds);
        while driver.pacing.is_on() {
            driver.throttle(Duration::from_millis(10));
        }
    }
    assert!(waits.is_sorted(), "{waits:?}");
    assert!(waits[7] >= 2 * MAX_PATIENCE, "{waits:?}");
    assert!(waits[7] <= 2 * waits[6] + 4, "{waits:?}");
}

#[test]
fn a_gap_that_no_refusal_confirmed_is_put_to_the_test() {
    let mut driver = Driver::new();
    driver.adopt();
    let first = driver.gap_ms();
    for part in [0.75, 0.375, 0.1875] {
        driver.succeed_after(Duration::ZERO);
        assert!((driver.gap_ms() / first - part).abs() < 1e-6, "{part}");
    }
    // Ten calls in the second that the tenth ends.
    for _ in 0..6 {
        driver.succeed_after(Duration::ZERO);
    }
    driver.throttle(Duration::from_millis(798));
    assert!(
        (driver.gap_ms() - first / 4.0).abs() < 1e-3,
        "the old gap, soon"
    );
    driver.succeed_after(Duration::ZERO);
    assert!((driver.gap_ms() - 100.0).abs() < 1e-3, "what got through");
}

#[test]
fn a_refusal_confirms_the_gap_until_none_comes_for_three_usual_runs() {
    let mut driver = Driver::new();
    driver.adopt();
    driver.throttle(Duration::ZERO);
    driver.succeed_after(Duration::from_millis(80));
    // A run of 4 was assumed, and one of 1 seen: 3.25.
    let mut gap = driver.gap_ms();
    for _ in 0..9 {
        driver.succeed_after(Duration::from_millis(80));
        assert!((driver.gap_ms() / gap - 511.0 / 512.0).abs() < 1e-6);
        gap = driver.gap_ms();
    }
    driver.succeed_after(Duration::from_millis(80));
    assert!((driver.gap_ms() / gap - 0.75).abs() < 1e-6);
}

#[test]
fn a_test_that_is_refused_at_once_costs_next_to_nothing_of_the_gap() {
    let mut driver = Driver::new();
    driver.adopt();
    let first = driver.gap_ms();
    driver.succeed_after(Duration::from_millis(80));
    driver.throttle(Duration::from_millis(500));
    driver.succeed_after(Duration::ZERO);
    let grown = driver.gap_ms() / first;
    let expected = 33.0 / 32.0 * 511.0 / 512.0;
    assert!((grown - expected).abs() < 1e-6, "{grown}");
}

/// What is left of a crowd would be kept at a part of its slots.
#[test]
fn a_gap_without_a_quota_is_gone_within_a_few_calls() {
    let mut driver = Driver::new();
    driver.adopt();
    let mut calls = 0;
    while driver.pacing.is_on() {
        driver.succeed_after(Duration::ZERO);
        calls += 1;
    }
    // 100 ms * 0.75 / 8 is less than half of the 20 ms that a call takes.
    assert_eq!((calls, driver.pacing.gap()), (4, Duration::ZERO));
}

#[test]
fn a_gap_that_does_not_make_refusals_rare_is_given_up() {
    let mut driver = Driver::new();
    driver.adopt();
    let mut runs = 0;
    while driver.pacing.is_on() {
        driver.throttle(Duration::from_millis(100));
        driver.succeed_after(Duration::ZERO);
        runs += 1;
    }
    // 4 was assumed: 3.25, 2.69, 2.27.
    assert_eq!(runs, 3);
    assert_eq!(driver.pacing.wait, 2, "and not tried again so soon");
}

#[test]
fn a_trial_is_over_early_when_many_refusals_were_to_be_expected() {
    let mut driver = Driver::new();
    // Two refusals for each success.
    while !driver.pacing.is_on() {
        driver.throttle(Duration::from_millis(50));
        driver.throttle(Duration::from_millis(50));
        driver.succeed_after(Duration::ZERO);
    }
    for _ in 0..3 {
        driver.succeed_after(Duration::ZERO);
        assert!(matches!(driver.pacing.phase, Phase::Trial { .. }));
    }
    driver.succeed_after(Duration::ZERO);
    assert!(matches!(driver.pacing.phase, Phase::On(_)));
}

#[test]
fn the_call_after_a_refusal_need_not_wait_a_whole_gap() {
    let mut driver = Driver::new();
    driver.adopt();
    let gap = driver.gap_ms();
    for part in [4.0, 2.0, 1.0, 1.0] {
        driver.throttle(Duration::ZERO);
        assert!((driver.gap_ms() - gap / part).abs() < 1e-3, "1/{part}");
    }
}

#[test]
fn refusals_lengthen_the_gap_towards_what_got_through() {
    let mut driver = Driver::new();
    driver.adopt();
    // Longer and longer runs: what is usual by then is no test.
    for run in [0, 9, 14, 20, 30] {
        for _ in 0..run {
            driver.succeed_after(Duration::from_millis(80));
        }
        driver.throttle(Duration::ZERO);
        driver.succeed_after(Duration::ZERO);
    }
    // The quota is a tenth now: 32 calls, then nothing for a while.
    for _ in 0..31 {
        driver.succeed_after(Duration::from_millis(80));
    }
    let gap = driver.gap_ms();
    driver.throttle(Duration::from_secs(29));
    driver.succeed_after(Duration::ZERO);
    let grown = driver.gap_ms() / (gap * 511.0 / 512.0);
    assert!(
        (grown - 2.0).abs() < 1e-6,
        "32 calls let it double: {grown}"
    );
    driver.throttle(Duration::from_secs(29));
    let gap = 4.0 * driver.gap_ms();
    driver.succeed_after(Duration::ZERO);
    let grown = driver.gap_ms() / (gap * 511.0 / 512.0);
    assert!(
        (grown - 33.0 / 32.0).abs() < 1e-6,
        "one call hardly anything: {grown}"
    );
}

#[test]
fn a_gap_that_no_longer_matters_is_remembered_for_the_longest_window() {
    let mut driver = Driver::new();
    driver.adopt();
    for _ in 0..10 {
        driver.succeed_after(Duration::ZERO);
    }
    assert!(!driver.pacing.is_on(), "slots are the limit");
    let mut others = driver.pacing;
    others.throttled(driver.now, driver.now, Duration::ZERO, false);
    assert!(!others.is_on(), "and one more than they allow is theirs");
    others.throttled(driver.now, driver.now, Duration::ZERO, true);
    assert!(others.is_on(), "one at a time is not");

    driver.succeed_after(Duration::from_secs(151));
    assert!(matches!(driver.pacing.phase, Phase::Off));
}
