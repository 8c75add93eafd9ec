//! A policy that is changed while the layer runs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::Response;
use tokio::time::sleep;
use tower::{Layer, ServiceExt};
use tower_weir::{
    BoxError,
    outcome::{Outcome, classify_fn},
    retry::{RetryLayer, backoff::Constant, budget::CostQuota},
};

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn the_requests_to_come_go_by_the_new_policy_and_the_others_by_theirs() {
    let layer = RetryLayer::http().backoff(Constant::new(Duration::from_secs(1)));
    let handle = layer.handle();
    let (first, seen) = stack(&layer, |_| status(502));
    // A clone that was made before, and is used after.
    let clone = first.clone();
    let under_way = tokio::spawn(async move { call(&first, get("http://a.test/")).await });
    sleep(Duration::from_millis(1500)).await;
    assert_eq!(seen.take(), 2);

    handle.update(|policy| policy.max_retries(0));
    assert_eq!(
        call(&clone, get("http://a.test/")).await.unwrap().status(),
        502
    );
    assert_eq!(seen.take(), 1);
    assert_eq!(under_way.await.unwrap().unwrap().status(), 502);
    assert_eq!(seen.take(), 2);

    // Its own setters begin with what is in force, and share it no longer.
    let (copy, copied) = stack(&layer.clone().any_method(), |_| status(502));
    handle.update(|policy| policy.max_retries(5));
    assert_eq!(
        call(&copy, get("http://a.test/")).await.unwrap().status(),
        502
    );
    assert_eq!(copied.take(), 1);
}

/// An upstream that always answers the same, and how often it has.
fn always(code: u16) -> (Upstream, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let answer = move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        status(code)
    };
    (upstream(answer), calls)
}

#[tokio::test(start_paused = true)]
async fn the_classifier_and_what_the_budgets_counted_stay() {
    // 418 is "busy" here.
    let teapot = classify_fn(
        |result: Result<&Response<String>, &BoxError>| match result {
            Ok(response) if response.status() == 418 => Outcome::throttled(),
            Ok(_) => Outcome::success(),
            Err(_) => Outcome::failed(),
        },
    );
    let layer = RetryLayer::http()
        .policy(|policy| policy.classify(teapot))
        .budget(|| CostQuota::new(3, 1, 1));
    let handle = layer.handle();
    let (upstream, seen) = always(418);
    let service = layer.layer(upstream);
    let send = || service.clone().oneshot(get("http://a.test/"));
    send().await.unwrap();
    assert_eq!(seen.swap(0, Ordering::Relaxed), 4, "three retries");

    handle.update(|policy| policy.max_retries(9));
    send().await.unwrap();
    assert_eq!(seen.swap(0, Ordering::Relaxed), 1, "the budget is empty");
    handle.update(|policy| policy.budget(|| CostQuota::new(5, 1, 1)));
    send().await.unwrap();
    assert_eq!(seen.swap(0, Ordering::Relaxed), 6, "another one is full");
}

#[cfg(feature = "weir")]
#[tokio::test(start_paused = true)]
async fn a_stacks_handle_reaches_its_retries() {
    let weir = tower_weir::Weir::http();
    let handle = weir.handle();
    let (upstream, seen) = always(502);
    let service = weir.layer(upstream);
    handle.update_retry(|policy| policy.max_retries(1));
    service.oneshot(get("http://a.test/")).await.unwrap();
    assert_eq!(seen.load(Ordering::Relaxed), 2);
}
