use std::time::Duration;

use ::tower::{
    retry::backoff::{Backoff as _, ExponentialBackoffMaker, MakeBackoff},
    util::rng::HasherRng,
};
use proptest::{num::f64::ANY, prelude::*};
use tokio::time::Instant;

use super::*;
use crate::random::Streams;

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

fn secs(seconds: &str) -> Duration {
    Duration::from_secs_f64(seconds.parse().unwrap())
}

#[test]
fn decorrelated_jitter_follows_the_contract() {
    let table = include_str!("../../../tests/contract/decorrelated_jitter.tsv");
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| !line.starts_with('#'))
        .skip(1)
        .map(|line| line.split('\t').collect())
        .collect();
    assert_eq!(rows.len(), 15);

    for row in rows {
        let [_, base, cap, n, u, prev, window_hi, expect] = row[..] else {
            panic!("{row:?}");
        };
        let (base, n, u) = (secs(base), n.parse().unwrap(), u.parse().unwrap());
        // The first row of a sequence may leave `prev` to its default, the base.
        let prevs: &[_] = if n == 1 {
            &[Some(secs(prev)), None]
        } else {
            &[Some(secs(prev))]
        };
        let backoff = DecorrelatedJitter::new(base, secs(cap)).unwrap();
        let uncapped = DecorrelatedJitter::new(base, Duration::MAX).unwrap();
        for &prev in prevs {
            assert_eq!(backoff.delay(n, prev, u), secs(expect), "{row:?}");
            assert_eq!(uncapped.delay(n, prev, 1.0), secs(window_hi), "{row:?}");
        }
    }
}

#[test]
fn the_defaults_are_those_documented() {
    let expected = DecorrelatedJitter::new(250 * MS, 60 * S).unwrap();
    assert_eq!(DecorrelatedJitter::default(), expected);
    let expected = ExponentialJitter::new(250 * MS, 60 * S, Jitter::Full).unwrap();
    assert_eq!(ExponentialJitter::default(), expected);
}

#[test]
fn the_mean_waits_of_the_default_grow_as_its_rule_says() {
    const REQUESTS: u32 = 20_000;
    let backoff = DecorrelatedJitter::default();
    let streams = Streams::new(3.into());
    let mut sums = [0.0; 6];
    for _ in 0..REQUESTS {
        let (mut stream, mut prev) = (streams.stream(), None);
        for (sum, retry) in sums.iter_mut().zip(1..) {
            let delay = backoff.delay(retry, prev, stream.uniform());
            *sum += delay.as_secs_f64();
            prev = Some(delay);
        }
    }
    for (sum, expected) in sums.iter().zip([0.50, 0.875, 1.44, 2.28, 3.55, 5.4]) {
        let mean = sum / f64::from(REQUESTS);
        assert!(
            (mean / expected - 1.0).abs() < 0.03,
            "{mean}, not {expected}"
        );
    }
}

#[test]
fn a_thousand_requests_refused_together_do_not_come_back_together() {
    let backoff = DecorrelatedJitter::default();
    let streams = Streams::new(4.into());
    let mut bins = [0; 51];
    for _ in 0..1_000 {
        let delay = backoff.delay(1, None, streams.stream().uniform());
        bins[((delay - 250 * MS).as_millis() / 10) as usize] += 1;
    }
    assert!(bins.iter().all(|&arrivals| arrivals <= 40), "{bins:?}");
}

#[test]
fn exponential_jitter_lies_around_a_value_that_doubles() {
    // Low end, middle and high end, in milliseconds, of retries 1, 2, 3 and 4;
    // the cap of 600 ms is met at the fourth.
    let cases = [
        (
            Jitter::Full,
            [[0, 50, 100], [0, 100, 200], [0, 200, 400], [0, 300, 600]],
        ),
        (
            Jitter::Equal,
            [
                [50, 75, 100],
                [100, 150, 200],
                [200, 300, 400],
                [300, 450, 600],
            ],
        ),
        (
            Jitter::Band,
            [
                [50, 100, 150],
                [100, 200, 300],
                [200, 400, 600],
                [300, 450, 600],
            ],
        ),
    ];
    for (jitter, rows) in cases {
        let backoff = ExponentialJitter::new(100 * MS, 600 * MS, jitter).unwrap();
        for (row, retry) in rows.into_iter().zip(1..) {
            let delays = [0.0, 0.5, 1.0].map(|u| backoff.delay(retry, None, u));
            assert_eq!(delays, row.map(|ms| ms * MS), "{jitter:?}, retry {retry}");
        }
        assert_eq!(backoff.delay(0, None, 0.5), backoff.delay(1, None, 0.5));
        assert_eq!(
            backoff.delay(u32::MAX, None, 0.5),
            backoff.delay(4, None, 0.5)
        );
    }
}

#[test]
fn a_constant_never_varies() {
    let backoff = Constant::new(5 * S);
    assert_eq!(backoff.delay(1, None, 0.0), 5 * S);
    assert_eq!(backoff.delay(9, Some(S), 0.9), 5 * S);
}

#[test]
fn bounds_of_zero_are_refused() {
    let zero = Duration::ZERO;
    for (base, cap, why) in [
        (zero, S, InvalidBackoff::ZeroBase),
        (S, zero, InvalidBackoff::ZeroCap),
    ] {
        assert_eq!(DecorrelatedJitter::new(base, cap), Err(why));
        assert_eq!(ExponentialJitter::new(base, cap, Jitter::Full), Err(why));
    }
}

#[test]
fn a_number_out_of_range_is_taken_for_the_nearer_end() {
    let backoff = DecorrelatedJitter::default();
    let at = |u| backoff.delay(1, None, u);
    assert_eq!(at(-1.0), at(0.0));
    assert_eq!(at(f64::NEG_INFINITY), at(0.0));
    assert_eq!(at(2.0), at(1.0));
    assert_eq!(at(f64::NAN), at(1.0));
}

fn durations() -> impl Strategy<Value = Duration> {
    prop_oneof![
        (1u64..=u64::MAX, 0u32..1_000_000_000).prop_map(|(s, ns)| Duration::new(s, ns)),
        (1u64..1_000_000_000_000).prop_map(Duration::from_nanos),
        Just(Duration::MAX),
    ]
}

proptest! {
    #[test]
    fn a_wait_keeps_its_bounds_whatever_comes_in(
        one in durations(),
        other in durations(),
        retry: u32,
        prev in proptest::option::of(durations()),
        u in prop_oneof![0.0..1.0, ANY],
    ) {
        let (base, cap) = (one.min(other), one.max(other));

        let delay = DecorrelatedJitter::new(base, cap).unwrap().delay(retry, prev, u);
        prop_assert!(base <= delay && delay <= cap, "{delay:?}");
        let crossed = DecorrelatedJitter::new(cap, base).unwrap();
        prop_assert_eq!(crossed.delay(retry, prev, u), base);

        for (jitter, least) in [
            (Jitter::Full, Duration::ZERO),
            (Jitter::Equal, base / 2),
            (Jitter::Band, base / 2),
        ] {
            let backoff = ExponentialJitter::new(base, cap, jitter).unwrap();
            let delay = backoff.delay(retry, prev, u);
            prop_assert!(least <= delay && delay <= cap, "{jitter:?} {delay:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn towers_sessions_wait_as_our_rule_says_each_with_its_own_numbers() {
    let rule = DecorrelatedJitter::default();
    let mut maker = ToTower::new(rule).seed(5);
    let streams = Streams::new(5.into());

    let first = maker.make_backoff();
    let cloned = first.clone();
    let mut firsts = Vec::new();
    for mut session in [first, cloned, maker.clone().make_backoff()] {
        let (mut stream, mut prev) = (streams.stream(), None);
        for retry in 1..=3 {
            let expected = rule.delay(retry, prev, stream.uniform());
            let wait = session.next_backoff();
            assert_eq!(wait.deadline() - Instant::now(), expected);
            prev = Some(expected);
            if retry == 1 {
                firsts.push(expected);
            }
        }
    }
    assert!(firsts[0] != firsts[1] && firsts[1] != firsts[2]);
}

#[tokio::test(start_paused = true)]
async fn a_backoff_of_tower_gives_the_waits_of_a_session() {
    let mut maker =
        ExponentialBackoffMaker::new(100 * MS, 10 * S, 0.5, HasherRng::default()).unwrap();
    let adapted = FromTower::new(maker.clone());
    let mut session = maker.make_backoff();
    for retry in 1..=70 {
        let expected = session.next_backoff().deadline() - Instant::now();
        let delay = adapted.delay(retry, None, 0.0);
        assert_eq!(delay, expected, "retry {retry}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_retry_does_not_cost_a_session_that_long() {
    let maker = ExponentialBackoffMaker::new(100 * MS, 10 * S, 0.0, HasherRng::default());
    let adapted = FromTower::new(maker.unwrap());
    assert_eq!(adapted.delay(u32::MAX, None, 0.0), 10 * S);
}
