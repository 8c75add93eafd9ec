//! The law told step by step, with exact values. `Driver` plays a limiter with
//! work always waiting, on a clock of its own.

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
fn every_success_adds_a_slot_before_the_first_decrease() {
    let mut driver = Driver::starting_at(10);
    assert_eq!(driver.succeed(10), 20, "one round doubles it");
    assert_eq!(driver.succeed(1_000), 256, "up to the maximum");
}

#[test]
fn a_new_overload_takes_one_slot_or_half() {
    let mut driver = Driver::starting_at(10);
    assert_eq!(driver.refuse(), 9);
    let mut driver = Driver::halving_at(11);
    assert_eq!(driver.refuse(), 5);
}

#[test]
fn refusals_of_one_burst_are_one_overload_and_cost_at_most_half() {
    let mut driver = Driver::starting_at(10);
    let burst = driver.start_full();
    let mut limits = Vec::new();
    for _ in 0..10 {
        let _ = driver.wait(1).settle(burst, THROTTLED);
        limits.push(driver.law.limit());
    }
    assert_eq!(limits, [9, 8, 7, 6, 5, 5, 5, 5, 5, 5]);

    let mut driver = Driver::halving_at(10);
    let burst = driver.start_full();
    for _ in 0..10 {
        let _ = driver.wait(1).settle(burst, THROTTLED);
        assert_eq!(driver.law.limit(), 5);
    }
}

#[test]
fn a_call_granted_at_the_instant_of_the_decrease_belongs_to_the_old_limit() {
    let mut driver = Driver::halving_at(16);
    let first = driver.start_full();
    let _ = driver.wait(3).settle(first, THROTTLED);
    let at_once = driver.start_full();
    let _ = driver.wait(3).settle(at_once, THROTTLED);
    assert_eq!(driver.law.limit(), 8);
    assert_eq!(driver.refuse(), 4, "one that started later counts");
}

#[test]
fn the_overload_is_measured_by_what_was_in_flight() {
    let mut driver = Driver::starting_at(100);
    let call = driver.start(20);
    let mut sample = driver.wait(3).sample(call, THROTTLED);
    sample.in_flight = 12;
    let _ = driver.law.settle(&sample);
    assert_eq!(
        driver.law.limit(),
        19,
        "the count at the start is the larger"
    );

    let mut driver = Driver::starting_at(100);
    let call = driver.start(12);
    let mut sample = driver.wait(3).sample(call, THROTTLED);
    sample.in_flight = 20;
    let _ = driver.law.settle(&sample);
    assert_eq!(driver.law.limit(), 19, "the count now is the larger");

    let mut driver = Driver::starting_at(10);
    let call = driver.start(40);
    let _ = driver.wait(3).settle(call, THROTTLED);
    assert_eq!(driver.law.limit(), 9, "never more than the limit");
}

#[test]
fn it_doubles_again_up_to_nine_tenths_rounded_down() {
    // At 5 in flight the threshold is 4: from 2 the second success brings the
    // limit to 4, and from there it takes four.
    let mut driver = Driver::halving_at(5);
    assert_eq!(driver.refuse(), 2);
    assert_eq!(driver.succeed(2), 4);
    assert_eq!(driver.succeed(9), 4);
    assert_eq!(driver.succeed(1), 5, "the streak of Halve is 10");

    let mut driver = Driver::halving_at(20);
    assert_eq!(driver.refuse(), 10);
    assert_eq!(driver.succeed(8), 18);
    assert_eq!(driver.succeed(17), 18, "then one a round");
    assert_eq!(driver.succeed(1), 19);
}

#[test]
fn above_the_threshold_it_takes_a_streak_and_at_least_a_round() {
    let mut driver = Driver::starting_at(3);
    assert_eq!(driver.refuse(), 2, "threshold 2");
    assert_eq!(driver.succeed(3), 2);
    assert_eq!(driver.succeed(1), 3, "four, although a round is two");

    let mut driver = Driver::starting_at(31);
    assert_eq!(driver.refuse(), 30);
    assert_eq!(driver.succeed(29), 30);
    assert_eq!(
        driver.succeed(1),
        31,
        "a round, although the streak is four"
    );

    let mut driver = Driver::new(&LawConfig {
        streak: Some(7),
        ..config(3, Decrease::Proportional)
    });
    assert_eq!(driver.refuse(), 2);
    assert_eq!(driver.succeed(6), 2);
    assert_eq!(driver.succeed(1), 3);
}

#[test]
fn stragglers_from_before_the_decrease_do_not_raise_the_limit() {
    let mut driver = Driver::starting_at(16);
    let burst = driver.start_full();
    let _ = driver.wait(3).settle(burst, THROTTLED);
    for _ in 0..64 {
        let _ = driver.wait(1).settle(burst, Verdict::Success);
    }
    assert_eq!(driver.law.limit(), 15);
}

#[test]
fn nothing_grows_where_the_limit_is_not_in_the_way() {
    let mut driver = Driver::starting_at(10);
    for _ in 0..2_000 {
        let call = driver.wait(1).start(1);
        let mut sample = driver.wait(100).sample(call, Verdict::Success);
        sample.binding = false;
        let _ = driver.law.settle(&sample);
    }
    assert_eq!(driver.law.limit(), 10);
}

#[test]
fn the_default_wants_a_full_limit_and_someone_waiting_halve_either() {
    let grows = |decrease, in_flight, binding| {
        let mut driver = Driver::new(&config(20, decrease));
        let call = driver.start(in_flight);
        let mut sample = driver.wait(100).sample(call, Verdict::Success);
        sample.binding = binding;
        let _ = driver.law.settle(&sample);
        driver.law.limit() > 20
    };
    assert!(grows(Decrease::Proportional, 18, true));
    assert!(!grows(Decrease::Proportional, 17, true), "slots cool");
    assert!(!grows(Decrease::Proportional, 18, false));
    assert!(grows(Decrease::Halve, 17, true));
    assert!(grows(Decrease::Halve, 18, false));
    assert!(!grows(Decrease::Halve, 17, false));
}

#[test]
fn steps_onto_a_known_ceiling_become_rarer() {
    let mut driver = Driver::starting_at(21);
    assert_eq!(driver.refuse(), 20);
    for rounds in [1, 2, 4, 8, 8] {
        assert_eq!(driver.succeed(20 * rounds - 1), 20, "{rounds} rounds");
        assert_eq!(driver.succeed(1), 21);
        assert_eq!(driver.refuse(), 20);
    }
}

#[test]
fn a_refusal_that_no_step_of_ours_brought_on_ends_the_back_off() {
    let mut driver = Driver::starting_at(21);
    driver.refuse();
    for rounds in [1, 2, 4] {
        driver.succeed(20 * rounds);
        driver.refuse();
    }
    // The factor is 8. 100 successes later somebody else fills the server.
    driver.succeed(100);
    assert_eq!(driver.refuse(), 19);
    assert_eq!(driver.succeed(18), 19);
    assert_eq!(driver.succeed(1), 20, "one round");
}

#[test]
fn a_refusal_far_from_the_ceiling_forgets_the_back_off() {
    let mut driver = Driver::starting_at(41);
    driver.refuse();
    for rounds in [1, 2, 4] {
        driver.succeed(40 * rounds);
        driver.refuse();
    }
    driver.succeed(1);
    let call = driver.wait(1).start(20);
    let _ = driver.wait(3).settle(call, THROTTLED);
    assert_eq!(driver.law.limit(), 19);
    assert_eq!(driver.law.ceiling(), Some(20));
    assert_eq!(driver.succeed(18), 19);
    assert_eq!(driver.succeed(1), 20, "one round, not eight");
}

#[test]
fn three_unopposed_steps_above_the_ceiling_forget_it() {
    let mut driver = Driver::starting_at(11);
    assert_eq!(driver.refuse(), 10);
    assert_eq!(driver.succeed(10), 11, "the ceiling itself");
    assert_eq!(driver.succeed(11), 12);
    assert_eq!(driver.succeed(12), 13);
    assert_eq!(driver.law.ceiling(), Some(11));
    assert_eq!(driver.succeed(13), 14);
    assert_eq!(driver.law.ceiling(), None);
    assert_eq!(driver.succeed(14), 28, "doubling");
}

#[test]
fn an_outage_leaves_what_was_known_before() {
    let mut driver = Driver::starting_at(41);
    assert_eq!(driver.refuse(), 40);
    driver.succeed(1);
    let mut limits = vec![driver.refuse()];
    let ceiling = driver.law.ceiling();
    while driver.law.limit() > 1 {
        let burst = driver.wait(1).start_full();
        for _ in 0..burst.in_flight {
            let _ = driver.wait(1).settle(burst, UNAVAILABLE);
        }
        limits.push(driver.law.limit());
    }
    assert_eq!(limits, [39, 19, 9, 4, 2, 1]);
    for _ in 0..50 {
        assert_eq!(driver.refuse(), 1);
    }
    assert_eq!(driver.law.ceiling(), ceiling);
    // The threshold is that of the first refusal in the outage: 0.9 * 40.
    assert_eq!(driver.succeed(35), 36);
    assert_eq!(driver.succeed(35), 36);
    assert_eq!(driver.succeed(1), 37);
}

#[test]
fn at_the_least_limit_an_overload_after_a_success_halves_the_threshold() {
    let mut driver = Driver::halving_at(2);
    assert_eq!(driver.refuse(), 1);
    assert_eq!(driver.law.ceiling(), Some(2));
    driver.law.threshold = Some(12);
    driver.succeed(1);
    driver.law.limit = 1;
    let _ = driver.refuse();
    let _ = driver.refuse();
    assert_eq!(driver.law.limit(), 1);
    assert_eq!(
        driver.law.threshold,
        Some(6),
        "once: the second had no success before it"
    );
    assert_eq!(driver.law.ceiling(), Some(2));
    for _ in 0..4 {
        driver.law.limit = 1;
        driver.succeed(1);
        driver.law.limit = 1;
        driver.refuse();
    }
    assert_eq!(driver.law.threshold, Some(1), "not below 1");
}

#[test]
fn a_refused_slot_cools_for_about_a_round_trip() {
    let mut seen = Vec::new();
    for _ in 0..200 {
        let mut driver = Driver::starting_at(10);
        driver.law = Aimd::new(&LawConfig::default(), seen.len() as u64);
        driver.succeed(1);
        let call = driver.wait(1).start_full();
        seen.push(driver.wait(3).settle(call, THROTTLED).cool);
    }
    assert!(seen.iter().all(|cool| (ms(47)..ms(147)).contains(cool)));
    assert!(seen.iter().any(|cool| *cool < ms(57)));
    assert!(seen.iter().any(|cool| *cool > ms(137)));
}

#[test]
fn a_refusal_that_came_late_needs_no_cooling() {
    let mut driver = Driver::starting_at(10);
    driver.succeed(1);
    let call = driver.wait(1).start_full();
    assert_eq!(
        driver.wait(150).settle(call, THROTTLED).cool,
        Duration::ZERO
    );
}

#[test]
fn only_successes_move_the_smoothed_round_trip() {
    let mut driver = Driver::starting_at(10);
    assert_eq!(driver.law.srtt(), None);
    driver.succeed(1);
    assert_eq!(driver.law.srtt(), Some(ms(100)));
    let call = driver.wait(1).start_full();
    let _ = driver.wait(200).settle(call, Verdict::Success);
    assert_eq!(driver.law.srtt(), Some(ms(110)));
    for verdict in [THROTTLED, TIMEOUT, Verdict::Ignored] {
        let call = driver.wait(1).start_full();
        let _ = driver.wait(900).settle(call, verdict);
    }
    assert_eq!(driver.law.srtt(), Some(ms(110)));
}

/// Asserts how long slots cool at a limit of 1, apart from the random factor.
fn assert_cools(driver: &mut Driver, verdict: Verdict, expected_ms: &[f64]) {
    for expected in expected_ms {
        let call = driver.wait(1).start_full();
        let cool = driver.wait(1).settle(call, verdict).cool;
        let total = cool.as_secs_f64() * 1e3 + 1.0;
        assert!(
            (0.5 * expected..=1.5 * expected).contains(&total),
            "{total} ms for {expected}"
        );
    }
}

fn always_one() -> Driver {
    let mut config = config(1, Decrease::Proportional);
    config.max = 1;
    Driver::new(&config)
}

#[test]
fn at_the_least_limit_cooling_doubles_up_to_a_bound() {
    assert_cools(
        &mut always_one(),
        THROTTLED,
        &[20.0, 40.0, 80.0, 160.0, 320.0, 450.0, 450.0],
    );
    for (rtt, verdict, expected) in [
        (100, THROTTLED, [100.0, 200.0, 400.0, 800.0, 800.0]),
        (100, UNAVAILABLE, [100.0, 200.0, 400.0, 450.0, 450.0]),
        (1_000, THROTTLED, [1e3, 2e3, 4e3, 8e3, 8e3]),
        (1_000, UNAVAILABLE, [1e3, 2e3, 4e3, 4e3, 4e3]),
    ] {
        let mut driver = always_one();
        let call = driver.start_full();
        let _ = driver.wait(rtt).settle(call, Verdict::Success);
        assert_cools(&mut driver, verdict, &expected);
    }
}

#[test]
fn above_the_least_limit_cooling_does_not_double() {
    let mut driver = Driver::starting_at(64);
    assert_cools(&mut driver, THROTTLED, &[20.0; 5]);
}

#[test]
fn each_success_takes_one_refusal_off_the_doubling() {
    for (successes, next) in [(1, 800.0), (2, 800.0), (3, 400.0), (4, 200.0), (5, 100.0)] {
        let mut driver = always_one();
        assert_cools(
            &mut driver,
            THROTTLED,
            &[20.0, 40.0, 80.0, 160.0, 320.0, 450.0],
        );
        driver.succeed(successes);
        assert_cools(&mut driver, THROTTLED, &[next]);
    }
}

#[test]
fn a_hint_pauses_only_at_the_least_limit_after_a_decrease_without_success() {
    let hinted = |driver: &mut Driver, hint: u64| {
        let call = driver.wait(1).start_full();
        let mut sample = driver.wait(3).sample(call, UNAVAILABLE);
        sample.hint = Some(Duration::from_secs(hint));
        driver.law.settle(&sample).pause
    };
    let mut driver = Driver::halving_at(4);
    assert_eq!(hinted(&mut driver, 2), None, "at 4");
    assert_eq!(hinted(&mut driver, 2), None, "at 2");
    let pause = hinted(&mut driver, 2).expect("at 1");
    assert!((Duration::from_secs(2)..Duration::from_millis(2_200)).contains(&pause));
    assert_eq!(hinted(&mut driver, 600), Some(Duration::from_secs(60)));
    driver.succeed(1);
    driver.law.limit = 1;
    assert_eq!(hinted(&mut driver, 2), None, "it still works");
    assert!(hinted(&mut driver, 2).is_some(), "it no longer does");
    let call = driver.wait(1).start_full();
    assert_eq!(
        driver.wait(3).settle(call, UNAVAILABLE).pause,
        None,
        "no hint"
    );

    let mut driver = Driver::starting_at(1);
    assert_eq!(hinted(&mut driver, 2), None, "the very first call");
}

#[test]
fn a_timeout_gives_one_slot_back_and_an_epoch_of_them_at_most_half() {
    for mut driver in [Driver::starting_at(10), Driver::halving_at(10)] {
        let burst = driver.start_full();
        let mut limits = Vec::new();
        for _ in 0..7 {
            let decision = driver.wait(100).settle(burst, TIMEOUT);
            assert_eq!(decision.cool, Duration::ZERO);
            limits.push(driver.law.limit());
        }
        assert_eq!(limits, [9, 8, 7, 6, 5, 5, 5]);
        assert_eq!(driver.law.ceiling(), Some(10));
    }
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
