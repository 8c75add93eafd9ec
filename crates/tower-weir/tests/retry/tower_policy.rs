//! The policy in tower's own `Retry`.

use std::time::Duration;

use http::Method;
use tokio::time::Instant;
use tower::{Layer, ServiceExt, retry};
use tower_weir::{
    Deadline,
    retry::{
        Retried, RetryPolicy,
        backoff::Constant,
        budget::{BatchBudget, RetryBudget},
    },
};

use crate::support::*;

type Stack = retry::Retry<RetryPolicy, Upstream>;

fn stack(
    policy: RetryPolicy,
    answer: impl Fn(usize) -> Answer + Send + Sync + 'static,
) -> (Stack, Seen) {
    let upstream = upstream(answer);
    let seen = upstream.seen();
    (retry::RetryLayer::new(policy).layer(upstream), seen)
}

fn policy() -> RetryPolicy {
    RetryPolicy::default().backoff(Constant::new(millis(100)))
}

async fn answer(stack: &Stack, request: Sent) -> Answer {
    stack.clone().oneshot(request).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn it_repeats_waits_and_marks_as_ours_does() {
    let (stack, seen) = stack(policy(), |n| {
        grpc_status([14, 14, 0][n % 3], [None, Some("40"), None][n % 3])
    });
    // Twice, so that nothing of the first request is left in the second.
    for _ in 0..2 {
        let start = Instant::now();
        let answer = answer(&stack, grpc()).await;
        let retried = answer.extensions().get::<Retried>().unwrap();
        assert_eq!(retried.attempts, 3);
        let at: Vec<_> = seen.times().iter().map(|at| *at - start).collect();
        assert_eq!(at, [millis(0), millis(100), millis(140)]);
        assert_eq!(seen.headers("grpc-previous-rpc-attempts"), ["-", "1", "2"]);
        seen.take();
    }
}

#[tokio::test(start_paused = true)]
async fn it_ends_after_the_retries_there_are_and_repeats_no_post() {
    let (stack, seen) = stack(policy(), |_| status(500));
    assert_eq!(answer(&stack, get("http://a.test/")).await.status(), 500);
    assert_eq!(seen.take(), 4);
    let mut post = get("http://a.test/");
    *post.method_mut() = Method::POST;
    answer(&stack, post).await;
    assert_eq!(seen.take(), 1);
    let (off, seen) = self::stack(policy().enabled(false), |_| status(500));
    answer(&off, get("http://a.test/")).await;
    assert_eq!(seen.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn clones_share_the_budget_of_each_host() {
    let two = || RetryBudget::new(Duration::from_secs(1), 2, 0.0).unwrap();
    let slow = Constant::new(Duration::ZERO);
    let (stack, seen) = stack(policy().budget(two).backoff(slow), |_| status(503));
    answer(&stack, get("http://a.test/")).await;
    assert_eq!(seen.take(), 3);
    answer(&stack, get("http://a.test/")).await;
    assert_eq!(seen.take(), 1);
    answer(&stack, get("http://b.test/")).await;
    assert_eq!(seen.take(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_counts_from_the_first_attempt() {
    let (stack, seen) = stack(policy().deadline(millis(250)), |_| grpc_status(14, None));
    let mut request = grpc();
    let headers = request.headers_mut();
    headers.insert("grpc-timeout", "1S".parse().unwrap());
    let start = Instant::now();
    answer(&stack, request).await;
    assert_eq!((seen.count(), start.elapsed()), (3, millis(200)));
    assert_eq!(seen.headers("grpc-timeout"), ["1S", "150000u", "50000000n"]);
    let told = seen.each(|head| head.extensions.get::<Deadline>().copied());
    let deadline = Some(Deadline(start + millis(250)));
    assert_eq!(told, [None, deadline, deadline]);
}

#[tokio::test(start_paused = true)]
async fn an_empty_budget_ends_patience_too_and_costs_the_batch_nothing() {
    let none = || RetryBudget::new(Duration::from_secs(1), 0, 0.0).unwrap();
    let patient = policy().budget(none).patience(Duration::from_secs(60));
    let (stack, seen) = stack(patient, |_| status(429));
    let batch = BatchBudget::new();
    let mut request = get("http://a.test/");
    request.extensions_mut().insert(batch.clone());
    answer(&stack, request).await;
    assert_eq!((seen.count(), batch.spent().retries), (1, 0));
}
