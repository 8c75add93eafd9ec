//! The law told step by step, with exact values. `Driver` plays a limiter with
//! work always waiting, on a clock of its own.

mod ceiling;
mod cooling;
mod decrease;
mod growth;
mod latency;
mod pacing;

use std::time::Duration;

use tokio::time::Instant;

use super::Aimd;
use crate::{
    aimd::{
        Decrease, LatencySignal, LawConfig,
        law::{ChangeCause, Decision, FixedLimit, LimitLaw, Sample},
    },
    outcome::{Failure, Refusal, Verdict},
};

const THROTTLED: Verdict = Verdict::Refused(Refusal::Throttled);
const UNAVAILABLE: Verdict = Verdict::Refused(Refusal::Unavailable);
const TIMEOUT: Verdict = Verdict::Failed(Failure::Timeout);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

struct Driver {
    law: Aimd,
    now: Instant,
}

/// A call under way, and how many there were with it.
#[derive(Clone, Copy)]
struct Call {
    started: Instant,
    in_flight: usize,
}

impl Driver {
    fn new(config: &LawConfig) -> Self {
        Self {
            law: Aimd::new(config, 7),
            now: Instant::now(),
        }
    }

    fn starting_at(initial: usize) -> Self {
        Self::new(&config(initial, Decrease::Proportional))
    }

    fn halving_at(initial: usize) -> Self {
        Self::new(&config(initial, Decrease::Halve))
    }

    fn wait(&mut self, ms: u64) -> &mut Self {
        self.now += Duration::from_millis(ms);
        self
    }

    fn start(&self, in_flight: usize) -> Call {
        Call {
            started: self.now,
            in_flight,
        }
    }

    /// A call sent while the limit was full.
    fn start_full(&self) -> Call {
        self.start(self.law.limit())
    }

    fn sample(&self, call: Call, verdict: Verdict) -> Sample {
        Sample {
            started: call.started,
            now: self.now,
            rtt: self.now - call.started,
            in_flight_at_start: call.in_flight,
            in_flight: call.in_flight,
            binding: true,
            verdict,
            hint: None,
        }
    }

    fn settle(&mut self, call: Call, verdict: Verdict) -> Decision {
        let sample = self.sample(call, verdict);
        self.law.settle(&sample)
    }

    /// One call through a full limiter, in 100 ms.
    fn call(&mut self, verdict: Verdict) -> Decision {
        let call = self.wait(1).start_full();
        self.wait(100).settle(call, verdict)
    }

    fn succeed(&mut self, calls: usize) -> usize {
        for _ in 0..calls {
            let _ = self.call(Verdict::Success);
        }
        self.law.limit()
    }

    fn refuse(&mut self) -> usize {
        let _ = self.call(THROTTLED);
        self.law.limit()
    }
}

fn config(initial: usize, decrease: Decrease) -> LawConfig {
    LawConfig {
        initial,
        decrease,
        ..LawConfig::default()
    }
}

#[test]
fn the_first_limit_is_ten_but_never_above_the_ceiling() {
    let limit = |initial, min, max| {
        let config = LawConfig {
            initial,
            min,
            max,
            ..LawConfig::default()
        };
        Aimd::new(&config, 0).limit()
    };
    assert_eq!(Aimd::new(&LawConfig::default(), 0).limit(), 10);
    assert_eq!(limit(10, 1, 4), 4);
    assert_eq!(limit(10, 1, 0), 1);
    assert_eq!(limit(10, 20, 256), 20);
    assert_eq!(limit(0, 0, 256), 1);
    assert_eq!(limit(5, 300, 256), 256);
}

#[test]
fn what_says_nothing_about_load_changes_nothing() {
    let mut driver = Driver::starting_at(10);
    let before = format!("{:?}", driver.law);
    for verdict in [
        Verdict::Ignored,
        Verdict::Failed(Failure::Error),
        Verdict::Refused(Refusal::RequestTimeout),
    ] {
        assert_eq!(driver.call(verdict), Decision::default());
    }
    assert_eq!(format!("{:?}", driver.law), before);
}

#[test]
fn a_change_says_from_where_to_where_and_why() {
    let mut driver = Driver::starting_at(10);
    let change = driver.call(Verdict::Success).change.unwrap();
    assert_eq!((change.before, change.after), (10, 11));
    assert_eq!(change.cause, ChangeCause::Success);
    let change = driver.call(UNAVAILABLE).change.unwrap();
    assert_eq!((change.before, change.after), (11, 10));
    assert_eq!(change.cause, ChangeCause::Refused);
    let change = driver.call(TIMEOUT).change.unwrap();
    assert_eq!((change.before, change.after), (10, 9));
    assert_eq!(change.cause, ChangeCause::Timeout);
    assert_eq!(driver.call(Verdict::Ignored).change, None);
}

#[test]
fn new_settings_hold_at_once() {
    let mut driver = Driver::starting_at(10);
    driver.succeed(30);
    let mut config = LawConfig::default();
    assert_eq!(
        driver.law.reconfigure(&config),
        None,
        "initial is not for a running law"
    );
    config.max = 8;
    let change = driver.law.reconfigure(&config).unwrap();
    assert_eq!((change.before, change.after), (40, 8));
    assert_eq!(change.cause, ChangeCause::Settings);
    assert_eq!(driver.succeed(100), 8);
    config.max = 256;
    config.min = 12;
    assert!(driver.law.reconfigure(&config).is_some());
    assert_eq!(driver.refuse(), 12);
    let mut fixed = FixedLimit::new(3);
    assert_eq!(fixed.reconfigure(&config).unwrap().after, 256);
    assert_eq!(
        fixed.settle(&driver.sample(driver.start(1), THROTTLED)),
        Decision::default()
    );
}

#[test]
fn the_same_seed_decides_the_same() {
    let run = |seed| {
        let mut driver = Driver::starting_at(10);
        driver.law = Aimd::new(&LawConfig::default(), seed);
        driver.succeed(5);
        (0..20)
            .map(|_| driver.call(THROTTLED).cool)
            .collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}
