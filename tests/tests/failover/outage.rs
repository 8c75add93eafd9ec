//! Region A dies for 20 s of a minute under 200 calls a second, on paused time.

use std::{
    future::pending,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::Method;
use http_body_util::Full;
use tests::BoxError;
use tokio::{
    task::JoinSet,
    time::{Instant, interval, sleep},
};
use tower::{Layer, Service, ServiceExt};
use tower_weir::{
    Weir,
    failover::{AnsweredBy, Failover, Region},
    observe::Event,
    retry::{ReplayBody, budget::RetryBudget},
};

use crate::support::*;

const CALLS: u32 = 200 * 60;
const EVERY: Duration = Duration::from_millis(5);
const DIES: Duration = Duration::from_secs(10);
const LIVES: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Death {
    Refused,
    Status(u16),
    Hangs,
}

/// What a region's upstream has seen, and its stack has told.
#[derive(Clone, Default)]
struct Seen {
    attempts: Arc<AtomicU64>,
    failures: Arc<AtomicU64>,
    retries: Arc<AtomicU64>,
    budget_empty: Arc<AtomicU64>,
}

impl Seen {
    fn get(counter: &Arc<AtomicU64>) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

type Inner = http::Request<ReplayBody<ReplayBody<Full<Bytes>>>>;

/// An upstream that takes 20 ms, and answers as `fails` says at a moment.
fn upstream(
    seen: &Seen,
    fails: impl Fn(u64, Duration) -> Option<Death> + Clone + Send + 'static,
) -> impl Service<Inner, Response = http::Response<String>, Error = BoxError, Future: Send>
+ Clone
+ Send
+ 'static {
    let (seen, start) = (seen.clone(), Instant::now());
    tower::service_fn(move |_: Inner| {
        let number = seen.attempts.fetch_add(1, Ordering::Relaxed);
        let death = fails(number, start.elapsed());
        seen.failures
            .fetch_add(u64::from(death.is_some()), Ordering::Relaxed);
        async move {
            let answer = |status: u16| {
                let answer = http::Response::builder().status(status);
                Ok(answer.body(String::new())?)
            };
            match death {
                Some(Death::Refused) => Err(BoxError::from(io::Error::from(
                    io::ErrorKind::ConnectionRefused,
                ))),
                Some(Death::Hangs) => pending().await,
                Some(Death::Status(status)) => answer(status),
                None => {
                    sleep(Duration::from_millis(20)).await;
                    answer(200)
                }
            }
        }
    })
}

fn stack(seen: &Seen, seed: u64) -> Weir {
    let seen = seen.clone();
    let weir = Weir::http()
        .max_retries(1)
        .attempt_timeout(SECOND)
        .queue_timeout(SECOND)
        .budget(|| RetryBudget::new(10 * SECOND, 5, 0.01).unwrap())
        .seed(seed);
    weir.observe(move |_, event| {
        let counter = match event {
            Event::Retry { .. } => &seen.retries,
            Event::BudgetEmpty { .. } => &seen.budget_empty,
            _ => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    })
}

/// One call: when it began, whether it was answered well, by whom, how long it
/// took.
#[derive(Clone, Copy, Debug)]
struct Call {
    at: Duration,
    by: Option<usize>,
    took: Duration,
}

async fn minute(death: Death, seed: u64) -> (Vec<Call>, [Seen; 2], Vec<(Duration, bool)>) {
    let seen = [Seen::default(), Seen::default()];
    let a = upstream(&seen[0], move |_, at| {
        (DIES..LIVES).contains(&at).then_some(death)
    });
    // One in forty fails at B: its retries must be there for it.
    let flaky = death == Death::Status(500);
    let b = upstream(&seen[1], move |number, _| {
        (flaky && number.is_multiple_of(40)).then_some(Death::Refused)
    });
    let regions = [
        Region::new("a", stack(&seen[0], seed).layer(a)).boxed(),
        Region::new("b", stack(&seen[1], seed + 1).layer(b)).boxed(),
    ];
    let start = Instant::now();
    let (changes, calls) = (Log::default(), Log::default());
    let told = changes.clone();
    let failover = Failover::http(regions).unwrap().observe(move |_, event| {
        if let Event::Region(change) = event
            && &*change.region == "a"
        {
            told.push((start.elapsed(), change.down.is_none()));
        }
    });
    let mut tasks = JoinSet::new();
    let mut ticks = interval(EVERY);
    for number in 0..CALLS {
        ticks.tick().await;
        // A quarter must not be sent twice.
        let method =
            [Method::GET, Method::PUT, Method::GET, Method::POST][number as usize % 4].clone();
        let calls = calls.clone();
        let call = failover.clone().oneshot(request(method.as_str()));
        tasks.spawn(async move {
            let at = start.elapsed();
            let answer = call.await;
            let by = answer
                .ok()
                .filter(|answer| answer.status() == 200)
                .map(|answer| {
                    let by = answer.extensions().get::<AnsweredBy>().unwrap();
                    by.index
                });
            let took = start.elapsed() - at;
            calls.push(Call { at, by, took });
        });
    }
    tasks.join_all().await;
    (calls.all(), seen, changes.all())
}

async fn dies(death: Death) {
    for seed in [1, 2, 3] {
        let (calls, seen, changes) = minute(death, seed).await;
        assert_eq!(calls.len(), CALLS as usize);
        let failed = calls.iter().filter(|call| call.by.is_none()).count();
        assert!(failed <= calls.len() / 100, "{death:?}: {failed} failed");
        let by = |from: Duration, to: Duration, region| {
            let calls = calls.iter().filter(|call| (from..to).contains(&call.at));
            let all = calls.clone().count();
            calls.filter(|call| call.by == Some(region)).count() as f64 / all as f64
        };
        // A has it all, B has it all but what fails there, A has it all again.
        assert_eq!(by(Duration::ZERO, DIES - SECOND, 0), 1.0, "{death:?}");
        let moved = by(DIES + 4 * SECOND, LIVES, 1);
        assert!(moved >= 0.97, "{death:?}: {moved}");
        let back = by(Duration::from_secs(55), Duration::from_secs(60), 0);
        assert_eq!(back, 1.0, "{death:?}: {changes:?}");
        // It went down once and came back once.
        let [(down, false), (up, true)] = changes[..] else {
            panic!("{death:?}: {changes:?}");
        };
        assert!(down < DIES + 4 * SECOND && up > LIVES, "{changes:?}");
        // The circuit of A stays open for up to 15 s, and 20% more.
        assert!(up < LIVES + 22 * SECOND, "{changes:?}");
        let [a, b] = &seen;
        if death == Death::Status(500) {
            // What A used up is not missing at B.
            let empty = [a, b].map(|seen| Seen::get(&seen.budget_empty));
            assert!(empty[0] > 0 && empty[1] == 0, "{empty:?}");
            let (retries, failures) = (Seen::get(&b.retries), Seen::get(&b.failures));
            // Where a retry is a fortieth attempt itself, there is no other.
            let made = retries * 10 >= failures * 9;
            assert!(failures > 50 && made, "{retries} of {failures}");
        }
        if death == Death::Refused {
            let slowest = calls.iter().map(|call| call.took).max().unwrap();
            assert_eq!(failed, 0);
            // One retry at A, after 0.75 s at most.
            assert!(slowest < Duration::from_millis(800), "{slowest:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_region_that_refuses_connections_costs_nobody_an_answer() {
    dies(Death::Refused).await;
}

#[tokio::test(start_paused = true)]
async fn a_region_that_answers_500_is_left_within_four_seconds() {
    dies(Death::Status(500)).await;
}

#[tokio::test(start_paused = true)]
async fn a_region_that_answers_503_is_left_within_four_seconds() {
    dies(Death::Status(503)).await;
}

#[tokio::test(start_paused = true)]
async fn a_region_that_hangs_is_left_within_four_seconds() {
    dies(Death::Hangs).await;
}
