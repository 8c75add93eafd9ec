//! When there is another answer.

use std::{future::pending, time::Duration};

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tests::BoxError;
use tokio::time::Instant;
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_weir::{
    circuit_breaker::CircuitBreakerLayer,
    fallback::{FallbackLayer, Fallen},
    outcome::{Cause, Processed},
    retry::{ReplayBody, RetryLayer, budget::RetryBudget},
};

use crate::support::*;

/// Any cause of failure, by what the retries know of it.
#[tokio::test(start_paused = true)]
async fn the_cause_is_what_the_stack_knows_of_the_failure() {
    let layer = FallbackLayer::http().answer(|_| status(299));
    let of = async |retries: RetryLayer, answer: fn(usize) -> Result<Answer, BoxError>| {
        let stack = layer.layer(retries.backoff(AT_ONCE).layer(upstream(answer)));
        stack.oneshot(post()).await.map(|answer| cause(&answer))
    };
    let retries = || RetryLayer::http().max_retries(2);
    let told = of(retries(), |_| Ok(status(429))).await;
    assert_eq!(told.unwrap(), Some(Why::RetriesExhausted));
    let told = of(retries(), |_| refused()).await;
    assert_eq!(told.unwrap(), Some(Why::RetriesExhausted));
    let none = || RetryBudget::new(Duration::from_secs(10), 0, 0.0).unwrap();
    let told = of(retries().budget(none), |_| Ok(status(429))).await;
    assert_eq!(told.unwrap(), Some(Why::BudgetExhausted));
    let late = |_| {
        let answer = Response::builder().status(429).header("retry-after", "50");
        Ok(answer.body(Full::default()).unwrap())
    };
    let told = of(retries().deadline(Duration::from_secs(5)), late).await;
    assert_eq!(told.unwrap(), Some(Why::Deadline));
    let told = of(retries(), late).await;
    assert_eq!(
        told.unwrap(),
        Some(Why::RetriesExhausted),
        "it waits for 50 s twice"
    );
    let short = retries().max_hint(Duration::from_secs(1));
    assert_eq!(of(short, late).await.unwrap(), Some(Why::Refused));

    // A success, and failures that are none of the usual causes.
    assert_eq!(of(retries(), |_| Ok(status(200))).await.unwrap(), None);
    assert_eq!(of(retries(), |_| Ok(status(404))).await.unwrap(), None);
    assert_eq!(of(retries(), |_| Ok(status(500))).await.unwrap(), None);
    of(retries(), |_| Err("broken".into())).await.unwrap_err();
    let sent_twice = of(
        retries(),
        |n| if n == 0 { refused() } else { Ok(status(200)) },
    );
    assert_eq!(sent_twice.await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_and_a_deadline_are_told_without_retries() {
    let breaker = CircuitBreakerLayer::http().for_host("it");
    let stack = ServiceBuilder::new()
        .layer(FallbackLayer::http().answer(|_| status(299)))
        .layer(breaker.clone())
        .service(upstream(|_| Ok(status(200))));
    let answer = stack.clone().oneshot(get()).await.unwrap();
    assert_eq!(cause(&answer), None);
    assert!(breaker.handle().force_open("it"));
    let answer = stack.oneshot(get()).await.unwrap();
    assert_eq!(answer.status(), 299);
    assert_eq!(cause(&answer), Some(Why::CircuitOpen));

    let hangs = service_fn(|_: Request<ReplayBody<_>>| pending::<Result<Answer, BoxError>>());
    let stack = ServiceBuilder::new()
        .layer(FallbackLayer::http().answer(|_| status(299)))
        .layer(RetryLayer::http().deadline(Duration::from_secs(2)))
        .service(hangs);
    let began = Instant::now();
    let answer = stack.oneshot(get()).await.unwrap();
    assert_eq!(cause(&answer), Some(Why::Deadline));
    assert_eq!(began.elapsed(), Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn the_causes_and_the_choice_are_the_users() {
    let stack = |causes: &[Why]| {
        let layer = FallbackLayer::http().on(causes.iter().copied());
        let layer = layer.answer(|fallen: Fallen| {
            assert_eq!(fallen.outcome.cause, Cause::Status(StatusCode::BAD_GATEWAY));
            assert_eq!(fallen.processed, Processed::Maybe);
            status(299)
        });
        layer.layer(upstream(|_| Ok(status(502))))
    };
    let told = async |causes: &[Why]| cause(&stack(causes).oneshot(post()).await.unwrap());
    assert_eq!(told(&[Why::Failed, Why::Refused]).await, Some(Why::Failed));
    assert_eq!(told(&[Why::Refused]).await, None);
    assert_eq!(told(&[]).await, None);

    let gone = FallbackLayer::http()
        .on([])
        .when(|outcome, error| outcome.cause == Cause::Status(StatusCode::GONE) && error.is_none())
        .answer(|_| status(299));
    let stack = gone.layer(upstream(|n| Ok(status([410, 500][n]))));
    let answer = stack.clone().oneshot(get()).await.unwrap();
    assert_eq!(cause(&answer), Some(Why::Chosen));
    let answer = stack.oneshot(get()).await.unwrap();
    assert_eq!((answer.status().as_u16(), cause(&answer)), (500, None));

    let off = FallbackLayer::http()
        .on([Why::Failed])
        .enabled(false)
        .answer(|_| status(299));
    let answer = off
        .layer(upstream(|_| Ok(status(500))))
        .oneshot(get())
        .await
        .unwrap();
    assert_eq!(answer.status(), 500);
}

/// The last result of a request that timed out and then met an open circuit says
/// that nothing was sent.
#[tokio::test(start_paused = true)]
async fn the_choice_knows_of_all_attempts() {
    let after = async |first: fn() -> Result<Answer, BoxError>| {
        let breaker = CircuitBreakerLayer::http().for_host("it");
        let handle = breaker.handle();
        let upstream = upstream(move |_| {
            handle.force_open("it");
            first()
        });
        let asked = FallbackLayer::http()
            .on([])
            .when(|outcome, _| outcome.processed == Processed::No)
            .answer(|_| status(299))
            .layer(
                RetryLayer::http()
                    .backoff(AT_ONCE)
                    .layer(breaker.layer(upstream)),
            );
        asked.oneshot(get()).await
    };
    let timed_out = || Err(tower::timeout::error::Elapsed::new().into());
    assert!(after(timed_out).await.is_err());
    assert_eq!(cause(&after(refused).await.unwrap()), Some(Why::Chosen));

    let told = FallbackLayer::http()
        .on([Why::CircuitOpen])
        .answer(|fallen: Fallen| {
            assert_eq!(fallen.processed, Processed::Maybe);
            status(299)
        });
    let breaker = CircuitBreakerLayer::http().for_host("it");
    let handle = breaker.handle();
    let upstream = upstream(move |_| {
        handle.force_open("it");
        Ok(status(500))
    });
    let stack = RetryLayer::http()
        .backoff(AT_ONCE)
        .layer(breaker.layer(upstream));
    let answer = told.layer(stack).oneshot(get()).await.unwrap();
    assert_eq!(cause(&answer), Some(Why::CircuitOpen));
}
