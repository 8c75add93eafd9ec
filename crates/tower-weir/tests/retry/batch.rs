//! What a batch of requests may spend on retries.

use std::time::Duration;

use tower::{Layer, ServiceExt};
use tower_weir::{
    error::ShuttingDown,
    retry::{
        RetryLayer,
        backoff::Constant,
        budget::{BatchBudget, Cost, RetryBudget},
    },
    shutdown::Shutdown,
};

use crate::support::*;

fn layer() -> RetryLayer {
    RetryLayer::http()
        .no_budget()
        .backoff(Constant::new(millis(100)))
}

fn of(batch: &BatchBudget, cost: Option<u64>) -> Sent {
    let mut request = get("http://a.test/");
    request.extensions_mut().insert(batch.clone());
    if let Some(cost) = cost {
        request.extensions_mut().insert(Cost(cost));
    }
    request
}

#[tokio::test(start_paused = true)]
async fn all_requests_of_a_batch_share_its_retries() {
    let told = Told::default();
    let (stack, seen) = stack(&layer().observe(told.by()), |_| status(503));
    let batch = BatchBudget::new().max_retries(4);
    for expected in [4, 2, 1] {
        assert_eq!(status_of(&stack, of(&batch, None)).await, 503);
        assert_eq!(seen.take(), expected);
    }
    assert_eq!(told.count(budget_empty), 2);
    call(&stack, get("http://a.test/")).await.unwrap();
    assert_eq!(seen.take(), 4, "who is not of the batch is not bound by it");
}

#[tokio::test(start_paused = true)]
async fn a_retry_costs_what_the_request_says() {
    let (stack, seen) = stack(&layer(), |_| status(503));
    let batch = BatchBudget::new().max_cost(10);
    call(&stack, of(&batch, Some(4))).await.unwrap();
    assert_eq!((seen.take(), batch.spent().cost), (3, 8));
    call(&stack, of(&batch, None)).await.unwrap();
    assert_eq!((seen.take(), batch.spent().cost), (3, 10));
}

#[tokio::test(start_paused = true)]
async fn the_time_of_waits_and_attempts_adds_up() {
    let (stack, seen) = stack(&layer(), |_| status(503));
    let batch = BatchBudget::new().max_time(millis(250));
    call(&stack, of(&batch, None)).await.unwrap();
    assert_eq!((seen.take(), batch.spent().time), (3, millis(200)));
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_the_hosts_budget_refuses_is_not_spent() {
    let none = || RetryBudget::new(Duration::from_secs(1), 0, 0.0).unwrap();
    let (stack, seen) = stack(&layer().budget(none), |_| status(503));
    let batch = BatchBudget::new();
    call(&stack, of(&batch, Some(3))).await.unwrap();
    assert_eq!(
        (seen.count(), batch.spent()),
        (1, BatchBudget::new().spent())
    );
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_is_never_paid_for_is_given_back() {
    let none = || RetryBudget::new(Duration::from_secs(1), 0, 0.0).unwrap();
    let patient = layer()
        .budget(none)
        .policy(|policy| policy.patience(Duration::from_secs(5)));
    let (stack, seen) = stack(&patient, |_| status(429));
    let batch = BatchBudget::new().max_cost(3);
    let waiting = tokio::spawn({
        let (stack, request) = (stack.clone(), of(&batch, Some(3)));
        async move { call(&stack, request).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(batch.spent().cost, 3, "it is planned");
    let _either = waiting.await.unwrap();
    let unspent = BatchBudget::new().spent();
    assert_eq!((seen.count(), batch.spent()), (1, unspent));
}

#[tokio::test(start_paused = true)]
async fn a_retry_whose_caller_goes_away_before_it_is_sent_is_given_back() {
    let unspent = BatchBudget::new().spent();
    for (leaves_after, spent) in [(millis(99), 0), (millis(150), 3)] {
        let batch = BatchBudget::new();
        let hanging = tower::service_fn({
            let first = std::sync::atomic::AtomicBool::new(true);
            let first = std::sync::Arc::new(first);
            move |_: http::Request<_>| {
                let first = first.swap(false, std::sync::atomic::Ordering::Relaxed);
                async move {
                    match first {
                        true => Ok::<_, tower_weir::BoxError>(status(503)),
                        false => std::future::pending().await,
                    }
                }
            }
        });
        let call = layer().layer(hanging).oneshot(of(&batch, Some(3)));
        let call = tokio::spawn(call);
        tokio::time::sleep(leaves_after).await;
        assert_eq!(batch.spent().cost, 3, "it is planned, or under way");
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
        assert_eq!(batch.spent().cost, spent, "{leaves_after:?}");
        if spent == 0 {
            assert_eq!(batch.spent(), unspent);
        } else {
            assert_eq!(batch.spent().time, leaves_after);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_a_shutdown_ends_is_given_back() {
    let shutdown = Shutdown::new();
    let (stack, seen) = stack(&layer().shutdown(&shutdown), |_| status(503));
    let batch = BatchBudget::new();
    let waiting = tokio::spawn({
        let (stack, request) = (stack.clone(), of(&batch, Some(3)));
        async move { call(&stack, request).await }
    });
    tokio::time::sleep(millis(50)).await;
    assert_eq!(batch.spent().cost, 3, "it is planned");
    shutdown.begin();
    assert!(waiting.await.unwrap().unwrap_err().is::<ShuttingDown>());
    let unspent = BatchBudget::new().spent();
    assert_eq!((seen.count(), batch.spent()), (1, unspent));
}
