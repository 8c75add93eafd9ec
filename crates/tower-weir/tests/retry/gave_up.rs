//! What is told of a request that failed and is not sent again.

use std::{future::pending, time::Duration};

use http::{Request, Response};
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt, service_fn};
use tower_weir::{
    BoxError, Shutdown,
    observe::Event,
    outcome::{Cause, Fault},
    retry::{Ending, NoRetry, RetryLayer, backoff::Constant, budget::CostQuota, wait::GiveUp},
};

use crate::support::*;

const WAIT: Duration = millis(100);

fn layer(told: &Told) -> RetryLayer {
    let waits = RetryLayer::http().backoff(Constant::new(WAIT));
    waits.no_budget().observe(told.by())
}

fn post() -> Sent {
    let mut request = get("http://a.test/");
    *request.method_mut() = http::Method::POST;
    request
}

/// What was told, but for the retries that were made and the first throttling.
fn given_up(told: &Told) -> Vec<Event> {
    let rest = told.all().into_iter().map(|(_, host, event)| {
        assert_eq!(host, "a.test");
        event
    });
    rest.filter(|event| !matches!(event, Event::Retry { .. } | Event::FirstThrottle { .. }))
        .collect()
}

fn gave_up(cause: Cause, attempts: u32, why: Ending) -> Event {
    Event::GaveUp {
        cause,
        attempts,
        why,
    }
}

fn answer(code: u16, header: &str, value: &str) -> Answer {
    let mut answer = status(code);
    let name = http::HeaderName::from_bytes(header.as_bytes()).unwrap();
    answer.headers_mut().insert(name, value.parse().unwrap());
    answer
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_may_have_been_processed_is_told_of_at_once() {
    for failed in [500, 503] {
        let told = Told::default();
        let (stack, seen) = stack(&layer(&told), move |_| status(failed));
        assert_eq!(status_of(&stack, post()).await, failed);
        assert_eq!(seen.count(), 1);
        let expected = gave_up(status_cause(failed), 1, Ending::Unsafe);
        assert_eq!(given_up(&told), [expected]);
    }
}

#[tokio::test(start_paused = true)]
async fn after_the_last_retry_it_is_told_how_many_attempts_there_were() {
    let told = Told::default();
    let (stack, seen) = stack(&layer(&told), |_| status(503));
    assert_eq!(status_of(&stack, get("http://a.test/")).await, 503);
    assert_eq!(seen.count(), 4);
    assert_eq!(told.count(|event| matches!(event, Event::Retry { .. })), 3);
    let expected = gave_up(status_cause(503), 4, Ending::Exhausted);
    assert_eq!(given_up(&told), [expected]);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_too_long_is_told_of() {
    let told = Told::default();
    let (stack, _) = stack(&layer(&told), |n| match n {
        0 => status(503),
        _ => answer(429, "retry-after", "3600"),
    });
    assert_eq!(status_of(&stack, get("http://a.test/")).await, 429);
    let too_long = Ending::GaveUp(GiveUp::HintTooLong {
        hint: Duration::from_secs(3600),
        max: Duration::from_secs(60),
    });
    assert_eq!(given_up(&told), [gave_up(status_cause(429), 2, too_long)]);
}

#[tokio::test(start_paused = true)]
async fn a_result_that_nobody_repeats_is_no_giving_up() {
    let told = Told::default();
    let layer = layer(&told);
    let ends: [fn() -> Answer; 4] = [
        || status(200),
        || status(404),
        || status(501),
        || answer(429, "x-should-retry", "false"),
    ];
    for end in ends {
        for before in [0, 2] {
            let (stack, seen) = stack(&layer, move |n| match n < before {
                true => status(503),
                false => end(),
            });
            let expected = end().status();
            assert_eq!(status_of(&stack, get("http://a.test/")).await, expected);
            assert_eq!(seen.count(), before + 1);
        }
    }
    assert_eq!(given_up(&told), []);
}

#[tokio::test(start_paused = true)]
async fn who_sends_once_only_gives_up_nothing() {
    let told = Told::default();
    let mut once = get("http://a.test/");
    once.extensions_mut().insert(NoRetry);
    // With a recorder the layer minds such requests too.
    let recorder = tower_weir::retry::Recorder::new();
    once.extensions_mut().insert(recorder.clone());
    let (http, _) = stack(&layer(&told), |_| status(503));
    assert_eq!(status_of(&http, once).await, 503);
    assert_eq!(recorder.ending(), Some(Ending::Exhausted));

    let (http, _) = stack(&layer(&told).max_retries(0), |_| status(503));
    assert_eq!(status_of(&http, get("http://a.test/")).await, 503);
    assert_eq!(told.all(), []);
}

/// Refuses the first `refused` attempts; the next never ends.
fn hangs_after(
    refused: usize,
) -> impl tower::Service<
    Request<tower_weir::retry::ReplayBody<http_body_util::Full<bytes::Bytes>>>,
    Response = Answer,
    Error = BoxError,
    Future: Send,
> + Clone {
    let calls = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    service_fn(move |_| {
        let call = calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        async move {
            match call < refused {
                true => Ok::<Response<String>, BoxError>(status(503)),
                false => pending().await,
            }
        }
    })
}

#[tokio::test(start_paused = true)]
async fn the_deadline_ends_an_attempt_or_a_wait() {
    for (refused, attempts) in [(0, 1), (2, 3)] {
        let told = Told::default();
        let layer = layer(&told).deadline(millis(250));
        let stack = layer.layer(hangs_after(refused));
        stack.oneshot(get("http://a.test/")).await.unwrap_err();
        let expected = gave_up(Cause::Fault(Fault::Deadline), attempts, Ending::Deadline);
        assert_eq!(given_up(&told), [expected]);
    }

    let told = Told::default();
    let (stack, seen) = stack(&layer(&told).deadline(millis(250)), |_| status(503));
    assert_eq!(status_of(&stack, get("http://a.test/")).await, 503);
    assert_eq!(seen.count(), 3);
    let too_long = Ending::GaveUp(GiveUp::Deadline {
        delay: WAIT,
        remaining: millis(50),
    });
    assert_eq!(given_up(&told), [gave_up(status_cause(503), 3, too_long)]);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_a_wait_or_an_attempt() {
    // In the second wait, and in the third attempt.
    let ends = [
        (150, status_cause(503), 2),
        (250, Cause::Fault(Fault::Cut), 3),
    ];
    for (after, cause, attempts) in ends {
        let told = Told::default();
        let shutdown = Shutdown::new();
        let layer = layer(&told).shutdown(&shutdown);
        let request = layer.layer(hangs_after(2)).oneshot(get("http://a.test/"));
        let request = tokio::spawn(request);
        sleep(millis(after)).await;
        shutdown.drain(Duration::ZERO).await;
        request.await.unwrap().unwrap_err();
        let expected = gave_up(cause, attempts, Ending::ShuttingDown);
        assert_eq!(given_up(&told), [expected]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_an_event_tells_already_is_told_once() {
    let told = Told::default();
    let layer = layer(&told).budget(|| CostQuota::new(1, 1, 1));
    let (stack, seen) = stack(&layer, |_| status(503));
    assert_eq!(status_of(&stack, get("http://a.test/")).await, 503);
    assert_eq!(seen.count(), 2);
    let cause = status_cause(503);
    assert_eq!(given_up(&told), [Event::BudgetEmpty { cause, first: true }]);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_the_budget_in_vain_gives_up_when_the_patience_is_over() {
    let told = Told::default();
    let layer = layer(&told)
        .policy(|policy| policy.patience(Duration::from_secs(5)))
        .budget(|| CostQuota::new(0, 1, 1));
    let (stack, _) = stack(&layer, |_| status(429));
    let start = Instant::now();
    assert_eq!(status_of(&stack, get("http://a.test/")).await, 429);
    let over = Instant::now();
    assert!(over - start >= millis(4_800));
    let cause = status_cause(429);
    assert_eq!(
        given_up(&told),
        [
            Event::BudgetEmpty { cause, first: true },
            gave_up(cause, 1, Ending::BudgetEmpty)
        ]
    );
    assert_eq!(told.all().last().unwrap().0, over);
}
