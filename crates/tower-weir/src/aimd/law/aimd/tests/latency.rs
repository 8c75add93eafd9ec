use super::*;

/// A limit of 20 that cannot grow, so that 16 calls are a round.
fn with_latency() -> Driver {
    Driver::new(&LawConfig {
        latency: Some(LatencySignal::default()),
        max: 20,
        ..config(20, Decrease::Proportional)
    })
}

impl Driver {
    /// A round of calls of the same length; what the last of them changed.
    fn round(&mut self, rtt_ms: u64) -> Option<(usize, usize, ChangeCause)> {
        let call = self.wait(1).start_full();
        self.wait(rtt_ms);
        for _ in 0..15 {
            assert_eq!(self.settle(call, Verdict::Success).change, None);
        }
        let change = self.settle(call, Verdict::Success).change;
        change.map(|change| (change.before, change.after, change.cause))
    }
}

#[test]
fn round_trips_that_grow_end_the_doubling() {
    let mut driver = with_latency();
    driver.round(100);
    assert_eq!(driver.law.threshold, None);
    driver.round(125);
    assert_eq!(driver.law.threshold, Some(20));
    let mut config = driver.law.config.clone();
    config.max = 256;
    assert_eq!(driver.law.reconfigure(&config), None);
    assert_eq!(driver.succeed(10), 20, "and hold the limit");
}

#[test]
fn round_trips_that_are_much_too_long_take_a_tenth() {
    let mut driver = with_latency();
    assert_eq!(driver.round(100), None);
    assert_eq!(driver.round(170), None);
    let shrunk = Some((20, 18, ChangeCause::Latency));
    assert_eq!(driver.round(170), shrunk);
    assert_eq!(driver.law.ceiling(), None, "nothing was refused");
}

#[test]
fn a_probe_for_the_least_round_trip_halves_the_limit_for_a_while() {
    let mut driver = with_latency();
    driver.round(100);
    driver.wait(11_000);
    let halved = Some((20, 10, ChangeCause::Latency));
    assert_eq!(driver.round(150), halved);
    assert_eq!(driver.round(100), None);
    let restored = Some((10, 20, ChangeCause::Latency));
    assert_eq!(driver.round(100), restored);
}
