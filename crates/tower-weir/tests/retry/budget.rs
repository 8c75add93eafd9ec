//! Budgets, where the layer asks them.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_weir::{
    BoxError,
    error::BudgetExhausted,
    observe::Event,
    outcome::{Outcome, Repeat, classify_fn},
    retry::{
        Account, ReplayBody, Retried, RetryLayer, RetryPolicy,
        backoff::Constant,
        budget::{CostQuota, GrpcThrottle, InFlightShare, RetryBudget},
    },
    shutdown::Shutdown,
};

use crate::support::*;

/// Grants what was deposited, a share of 1, and `reserve` retries at first.
fn budget(reserve: u32) -> impl Fn() -> RetryBudget + Send + Sync + 'static {
    move || RetryBudget::new(Duration::from_secs(1), reserve, 1.0).unwrap()
}

fn layer() -> RetryLayer {
    RetryLayer::http().seed(1)
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_the_budget_refuses_leaves_the_caller_the_result_unchanged() {
    let told = Told::default();
    let layer = layer().budget(budget(0)).observe(told.by());
    let (stack, seen) = stack(&layer, |_| {
        let mut answer = status(503);
        *answer.body_mut() = "come later".to_owned();
        answer
    });
    let start = Instant::now();
    let answer = call(&stack, get("http://Index.test:80/")).await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), answer.body().as_str()),
        (503, "come later")
    );
    assert!(answer.extensions().get::<Retried>().is_none());
    assert_eq!((seen.count(), start.elapsed()), (1, Duration::ZERO));
    let cause = status_cause(503);
    let expected = (
        start,
        "index.test:80".to_owned(),
        Event::BudgetEmpty { cause, first: true },
    );
    assert_eq!(told.all(), [expected]);
}

#[tokio::test(start_paused = true)]
async fn each_host_has_its_own_and_the_layers_clones_share_it() {
    let layer = layer().budget(budget(1)).max_retries(1);
    let (one, seen) = stack(&layer, |_| status(503));
    let (two, seen_by_two) = stack(&layer.clone(), |_| status(503));
    call(&one, get("http://a.test/")).await.unwrap();
    assert_eq!(seen.take(), 2);
    call(&two, get("http://A.test/")).await.unwrap();
    assert_eq!(seen_by_two.take(), 1);
    call(&two, get("http://b.test/")).await.unwrap();
    assert_eq!(seen_by_two.take(), 2);

    let setters: [fn(RetryLayer) -> RetryLayer; 3] = [
        |layer| layer.max_retries(1),
        |layer| layer.replay(Account::default()),
        |layer| layer.shutdown(&Shutdown::new()),
    ];
    for set in setters {
        let (fresh, seen) = stack(&set(layer.clone()), |_| status(503));
        call(&fresh, get("http://a.test/")).await.unwrap();
        assert_eq!(seen.take(), 2, "a setter makes fresh state");
    }
    let upstream = upstream(|_| status(503));
    let seen = upstream.seen();
    let mapped = layer.map_body(|body: ReplayBody<Full<Bytes>>| body);
    let answer = mapped.layer(upstream).oneshot(get("http://a.test/")).await;
    assert_eq!((answer.unwrap().status().as_u16(), seen.take()), (503, 2));
}

#[tokio::test(start_paused = true)]
async fn under_one_name_all_hosts_share_one_budget() {
    let told = Told::default();
    let layer = layer()
        .for_host("index")
        .budget(budget(1))
        .max_retries(1)
        .observe(told.by());
    let (stack, seen) = stack(&layer, |_| status(503));
    call(&stack, get("http://a.test/")).await.unwrap();
    call(&stack, get("http://b.test/")).await.unwrap();
    assert_eq!(seen.count(), 3);
    assert!(told.all().iter().all(|(_, host, _)| host == "index"));
}

#[tokio::test(start_paused = true)]
async fn two_layers_of_one_policy_share_nothing() {
    let policy = RetryPolicy::new(classify_fn(|_: Result<&(), &BoxError>| {
        Outcome::throttled()
    }))
    .budget(budget(1))
    .max_retries(1);
    for _ in 0..2 {
        let (calls, count) = counted(&RetryLayer::new(policy.clone())).await;
        assert_eq!((calls, count), (2, Ok(())));
    }
}

/// Calls a stack over a service that only counts.
async fn counted<C>(
    layer: &RetryLayer<C, tower_weir::retry::CloneRequest>,
) -> (u32, Result<(), String>)
where
    C: tower_weir::outcome::Classify<()>,
{
    let calls = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let count = calls.clone();
    let inner = service_fn(move |()| {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        async { Ok::<_, BoxError>(()) }
    });
    let mut stack = layer.layer(inner);
    let result = stack.ready().await.unwrap().call(()).await;
    let calls = calls.load(std::sync::atomic::Ordering::Relaxed);
    (calls, result.map_err(|error| error.to_string()))
}

#[tokio::test(start_paused = true)]
async fn what_ends_well_pays_for_what_does_not() {
    let layer = layer().budget(budget(0)).max_retries(1);
    // Attempts 0, 2 and 4 fail.
    let (stack, seen) = stack(&layer, |n| status(if n % 2 == 0 { 503 } else { 200 }));
    assert_eq!(status_of(&stack, get("http://a.test/")).await, 503);
    assert_eq!(status_of(&stack, get("http://a.test/")).await, 200);
    assert_eq!(seen.take(), 2);
    // The retry is paid with what the request before it left.
    assert_eq!(status_of(&stack, get("http://a.test/")).await, 200);
    assert_eq!(seen.take(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_is_not_retried_for_its_method_deposits_nothing() {
    let layer = layer().budget(budget(0)).max_retries(1);
    let (stack, seen) = stack(&layer, |_| status(503));
    let mut post = get("http://a.test/");
    *post.method_mut() = http::Method::POST;
    assert_eq!(status_of(&stack, post).await, 503);
    assert_eq!(status_of(&stack, get("http://a.test/")).await, 503);
    assert_eq!(seen.count(), 2, "in an outage POSTs pay for no GET");
}

#[tokio::test(start_paused = true)]
async fn a_transparent_retry_costs_nothing() {
    let unseen = classify_fn(|_: Result<&(), &BoxError>| {
        Outcome::ignored().with_repeat(Repeat::Transparent)
    });
    let policy = RetryPolicy::new(unseen).budget(budget(0));
    assert_eq!(counted(&RetryLayer::new(policy.clone())).await.0, 2);
    // The second one is a retry like any other.
    let policy = policy.budget(budget(1)).max_retries(2);
    assert_eq!(counted(&RetryLayer::new(policy)).await.0, 3);
}

#[tokio::test(start_paused = true)]
async fn without_a_budget_everything_is_repeated() {
    let (stack, seen) = stack(&layer().no_budget(), |_| status(503));
    for _ in 0..100 {
        call(&stack, get("http://a.test/")).await.unwrap();
    }
    assert_eq!(seen.count(), 400);
}

#[tokio::test(start_paused = true)]
async fn every_budget_can_be_put_in() {
    let calls = |layer: RetryLayer| async move {
        let (stack, seen) = stack(&layer, |_| status(503));
        for _ in 0..10 {
            call(&stack, get("http://a.test/")).await.unwrap();
        }
        seen.count()
    };
    // The first request's failures leave 9, 8, 7 and 6 of 10, the second's 5.
    let throttle = || GrpcThrottle::new(10, 0.1).unwrap();
    assert_eq!(calls(layer().budget(throttle)).await, 10 + 3);
    assert_eq!(
        calls(layer().budget(|| CostQuota::new(12, 5, 10))).await,
        10 + 2
    );
    // One request at a time: it may always retry, once it is there.
    assert_eq!(calls(layer().budget(InFlightShare::default)).await, 40);
    let none = || InFlightShare::new(0.0, 0).unwrap();
    assert_eq!(calls(layer().budget(none)).await, 10);
}

#[tokio::test(start_paused = true)]
async fn a_pushback_that_forbids_the_retry_costs_the_grpc_throttle_its_token() {
    let throttle = || GrpcThrottle::new(5, 0.1).unwrap();
    let forbid = RetryLayer::http().budget(throttle).max_retries(1);
    let pushbacks = [Some("-1"), Some("-1"), Some("10")];
    let (stack, seen) = stack(&forbid, move |n| grpc_status([14, 10, 14][n], pushbacks[n]));
    for _ in 0..3 {
        call(&stack, grpc()).await.unwrap();
    }
    // Of 5 they left 4, 3 and 2, which is not above half.
    assert_eq!(seen.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_goes_away_leaves_nothing_behind() {
    let one = || InFlightShare::new(0.0, 1).unwrap();
    let layer = layer().budget(one).max_retries(1);
    let (stack, seen) = stack(&layer, |_| status(503));
    let mut waiting = Box::pin(call(&stack, get("http://a.test/")));
    assert!(futures_pending(&mut waiting).await);
    assert_eq!(status_of(&stack, get("http://a.test/")).await, 503);
    assert_eq!(seen.take(), 2, "its retry holds the one place");
    drop(waiting);
    assert_eq!(status_of(&stack, get("http://a.test/")).await, 503);
    assert_eq!(seen.take(), 2);
}

async fn futures_pending<F: Future + Unpin>(future: &mut F) -> bool {
    std::future::poll_fn(|cx| {
        let polled = std::pin::Pin::new(&mut *future).poll(cx);
        std::task::Poll::Ready(polled.is_pending())
    })
    .await
}

fn patient(time: Duration) -> RetryLayer {
    layer().policy(|policy| policy.patience(time).backoff(Constant::new(millis(100))))
}

#[tokio::test(start_paused = true)]
async fn who_is_patient_waits_for_the_budget() {
    let told = Told::default();
    let one_a_second = || RetryBudget::new(Duration::from_secs(1), 1, 0.0).unwrap();
    let layer = patient(Duration::from_secs(60))
        .budget(one_a_second)
        .observe(told.by());
    let (stack, seen) = stack(&layer, |n| status(if n < 4 { 429 } else { 200 }));
    let start = Instant::now();
    assert_eq!(status_of(&stack, get("http://a.test/")).await, 200);
    let at: Vec<Duration> = seen.times().iter().map(|at| *at - start).collect();
    // The first retry is paid from the reserve when it is decided on; each of
    // the others is sent when it is paid, a second after the last was.
    assert_eq!(at[..2], [Duration::ZERO, millis(100)]);
    for paid in [&[Duration::ZERO, at[2]], &at[2..4], &at[3..5]] {
        let late = (paid[1] - paid[0]).checked_sub(Duration::from_secs(1));
        assert!(late.is_some_and(|late| late <= millis(101)), "{at:?}");
    }
    assert_eq!(told.count(budget_empty), 3);
    let delays: Vec<_> = told
        .all()
        .into_iter()
        .filter_map(|(_, _, event)| match event {
            Event::Retry { delay, .. } => Some(delay),
            _ => None,
        })
        .collect();
    assert!(
        delays[1] >= millis(900),
        "the event tells the real wait: {delays:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn patience_with_an_empty_budget_ends_in_an_error_if_the_answer_had_a_body() {
    let layer = patient(Duration::from_secs(5)).budget(|| CostQuota::new(0, 1, 1));
    let (stack, seen) = stack(&layer, |_| status(429).map(|_| "come later".to_owned()));
    let start = Instant::now();
    let error = call(&stack, get("http://a.test/")).await.unwrap_err();
    let exhausted = error.downcast_ref::<BudgetExhausted>().unwrap();
    assert_eq!(
        (exhausted.host(), exhausted.cause()),
        ("a.test", status_cause(429))
    );
    assert_eq!(
        exhausted.to_string(),
        "the retry budget stayed empty for a.test (after 429)"
    );
    assert_eq!(seen.count(), 1);
    let waited = start.elapsed();
    assert!(
        (millis(4800)..=millis(5000)).contains(&waited),
        "{waited:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn patience_with_an_empty_budget_ends_in_the_last_result_if_that_holds_nothing() {
    let waits = millis(4800)..=millis(5000);
    let layer = patient(Duration::from_secs(5)).budget(|| CostQuota::new(2, 1, 1));
    let (stack, seen) = stack(&layer, |n| {
        let mut answer = grpc_status(14, None);
        answer.extensions_mut().insert(n);
        answer
    });
    let start = Instant::now();
    let answer = call(&stack, grpc()).await.unwrap();
    let retried = answer.extensions().get::<Retried>().unwrap();
    assert_eq!((retried.attempts, seen.count()), (3, 3));
    assert_eq!(answer.extensions().get::<usize>(), Some(&2));
    assert!(waits.contains(&start.elapsed()));

    let refused = || std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
    let dead = service_fn(
        move |_: http::Request<ReplayBody<Full<Bytes>>>| async move { Err::<Answer, _>(refused()) },
    );
    let layer = patient(Duration::from_secs(5)).budget(|| CostQuota::new(0, 1, 1));
    let start = Instant::now();
    let error = layer.layer(dead).oneshot(get("http://a.test/")).await;
    assert!(error.unwrap_err().is::<std::io::Error>());
    assert!(waits.contains(&start.elapsed()));
}

#[tokio::test(start_paused = true)]
async fn a_budget_that_fills_after_the_deadline_is_not_waited_for() {
    let layer = patient(Duration::from_secs(60))
        .deadline(millis(500))
        .budget(|| RetryBudget::new(Duration::from_secs(1), 1, 0.0).unwrap());
    let (stack, seen) = stack(&layer, |_| status(429));
    let start = Instant::now();
    assert_eq!(status_of(&stack, get("http://a.test/")).await, 429);
    assert_eq!((seen.count(), start.elapsed()), (2, millis(100)));
}

/// How many attempts a request to each of so many hosts makes, and then one to the
/// first, where each host has one retry.
async fn attempts_of_the_first(stack: &Stack, seen: &Seen, hosts: usize) -> usize {
    for n in 0..hosts {
        let uri = format!("http://{n}.test/");
        call(stack, get(&uri)).await.unwrap();
        assert_eq!(seen.take(), 2, "{n}");
    }
    call(stack, get("http://0.test/")).await.unwrap();
    seen.take()
}

#[tokio::test(start_paused = true)]
async fn as_many_hosts_are_remembered_as_is_said() {
    let once = || CostQuota::new(5, 5, 5);
    let layer = layer().backoff(Constant::new(millis(1))).max_retries(1);
    for (max, attempts) in [(299, 2), (300, 1), (0, 2)] {
        // Whatever is set after it.
        let layer = layer.clone().max_hosts(max).budget(once);
        let (stack, seen) = stack(&layer, |_| status(503));
        let first = attempts_of_the_first(&stack, &seen, 300).await;
        assert_eq!(first, attempts, "{max}");
    }
    let layer = layer.budget(once);
    let (stack, seen) = stack(&layer, |_| status(503));
    layer.handle().update(|policy| policy.max_hosts(300));
    assert_eq!(attempts_of_the_first(&stack, &seen, 300).await, 1);
    let (stack, seen) = self::stack(&layer.policy(|policy| policy), |_| status(503));
    assert_eq!(attempts_of_the_first(&stack, &seen, 300).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_shortage_lasts_while_a_patient_request_is_refused() {
    let told = Told::default();
    let layer = patient(Duration::from_secs(60))
        .budget(budget(0))
        .observe(told.by());
    let (stack, seen) = stack(&layer, |n| status(if n == 1 { 200 } else { 429 }));
    // Asks again ten times a second, until another request pays for it.
    let waiting = tokio::spawn({
        let stack = stack.clone();
        async move { status_of(&stack, get("http://a.test/")).await }
    });
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(status_of(&stack, get("http://a.test/")).await, 200);
    // The retry that it paid for is refused too.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(seen.count(), 3);
    waiting.abort();
    let first = |(_, _, event): (_, _, Event)| match event {
        Event::BudgetEmpty { first, .. } => Some(first),
        _ => None,
    };
    let firsts: Vec<bool> = told.all().into_iter().filter_map(first).collect();
    assert_eq!(firsts, [true, false]);
}
