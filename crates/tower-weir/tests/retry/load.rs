//! Many requests at once: what retries make of them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tower_weir::{observe::Event, retry::RetryLayer};

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn the_mean_delays_are_those_of_the_rule() {
    let layer = RetryLayer::http().max_retries(6).no_budget().seed(7);
    let mut requests = JoinSet::new();
    for _ in 0..20_000 {
        let (stack, seen) = stack(&layer, |_| status(503));
        requests.spawn(async move {
            call(&stack, get("http://a.test/")).await.unwrap();
            seen.times()
        });
    }
    let mut sums = [Duration::ZERO; 6];
    while let Some(times) = requests.join_next().await {
        let times = times.unwrap();
        assert_eq!(times.len(), 7);
        for (sum, gap) in sums.iter_mut().zip(times.windows(2)) {
            *sum += gap[1] - gap[0];
        }
    }
    let expected = [0.50, 0.875, 1.44, 2.28, 3.55, 5.4];
    for (sum, expected) in sums.into_iter().zip(expected) {
        let mean = (sum / 20_000).as_secs_f64();
        assert!(
            (mean / expected - 1.0).abs() < 0.03,
            "{mean} for {expected}"
        );
    }
}

/// The greatest share of 1,000 retries in one of the 10 ms after a refusal of
/// all at the same instant, and the time of the first of them.
async fn crowd(refusal: impl Fn() -> Answer + Clone + Send + Sync + 'static) -> (f64, Duration) {
    let layer = RetryLayer::http().no_budget().seed(11);
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..1_000 {
        let refusal = refusal.clone();
        let (stack, seen) = stack(
            &layer,
            move |n| if n == 0 { refusal() } else { status(200) },
        );
        clients.spawn(async move {
            assert_eq!(status_of(&stack, get("http://a.test/")).await, 200);
            let times = seen.times();
            assert_eq!((times.len(), times[0]), (2, start));
            times[1] - start
        });
    }
    let times = clients.join_all().await;
    let mut bins = HashMap::new();
    for time in &times {
        *bins.entry(time.as_millis() / 10).or_insert(0_u32) += 1;
    }
    let fullest = f64::from(bins.into_values().max().unwrap()) / 1_000.0;
    (fullest, times.into_iter().min().unwrap())
}

#[tokio::test(start_paused = true)]
async fn clients_throttled_at_the_same_instant_do_not_come_back_together() {
    let (fullest, first) = crowd(|| status(429)).await;
    assert!(
        fullest <= 0.04 && first >= millis(250),
        "{fullest} {first:?}"
    );
    let told = || {
        let mut answer = status(429);
        let headers = answer.headers_mut();
        headers.insert("retry-after", "5".parse().unwrap());
        answer
    };
    let (fullest, first) = crowd(told).await;
    assert!(
        fullest <= 0.04 && first >= millis(5_000),
        "{fullest} {first:?}"
    );
}

/// What came of a run at 1,000 requests a second through one layer.
struct Run {
    requests: usize,
    attempts: usize,
    refused: usize,
    /// Retries decided on in each second.
    retries: Vec<usize>,
}

/// The share of attempts that fail is `failing(second)`.
async fn run(seconds: u64, failing: impl Fn(u64) -> f64) -> Run {
    let told = Told::default();
    let layer = RetryLayer::http().seed(3).observe(told.by());
    let mut rng = StdRng::seed_from_u64(5);
    let start = Instant::now();
    let rolls: Arc<Vec<f64>> = Arc::new((0..=seconds).map(failing).collect());
    let dice: Vec<f64> = (0..1_000_003).map(|_| rng.random()).collect();
    let (stack, seen) = stack(&layer, move |n| {
        let second = (Instant::now() - start).as_secs() as usize;
        let rate = rolls[second.min(rolls.len() - 1)];
        status(if dice[n % dice.len()] < rate {
            503
        } else {
            200
        })
    });
    let mut requests = JoinSet::new();
    for n in 0..seconds * 1_000 {
        sleep_until(start + millis(n)).await;
        let stack = stack.clone();
        requests.spawn(async move { status_of(&stack, get("http://a.test/")).await });
    }
    requests.join_all().await;
    let mut retries = vec![0; seconds as usize + 60];
    for (at, _, event) in told.all() {
        if matches!(event, Event::Retry { .. }) {
            retries[(at - start).as_secs() as usize] += 1;
        }
    }
    Run {
        requests: seconds as usize * 1_000,
        attempts: seen.count(),
        refused: told.count(budget_empty),
        retries,
    }
}

#[tokio::test(start_paused = true)]
async fn in_an_outage_the_retries_fall_to_the_reserve() {
    let run = run(80, |second| f64::from(second >= 10)).await;
    assert_eq!(run.retries[..10].iter().sum::<usize>(), 0);
    // 2,000 of deposits, of which up to a tenth is forgotten early, 100 of
    // reserve and what it gains in 10 s.
    let drained = run.retries[10..20].iter().sum::<usize>();
    assert!((1_800..=2_200).contains(&drained), "{drained}");
    for (second, retries) in run.retries.iter().enumerate().take(80).skip(20) {
        assert!((9..=11).contains(retries), "{second}: {retries}");
    }
}

#[tokio::test(start_paused = true)]
async fn when_half_fails_a_quarter_is_added_at_most() {
    let run = run(60, |_| 0.5).await;
    let added = run.attempts as f64 / run.requests as f64;
    assert!(added <= 1.25 && added > 1.1 && run.refused > 0, "{added}");
}

#[tokio::test(start_paused = true)]
async fn when_few_fail_every_one_gets_its_retries() {
    let run = run(60, |_| 0.05).await;
    assert_eq!(run.refused, 0);
    assert!(run.retries.iter().sum::<usize>() > 2_500);
}

#[test]
fn nothing_in_a_run_is_left_to_chance() {
    let trace = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async { run(2, |_| 0.5).await.retries })
    };
    assert_eq!(trace(), trace());
}
