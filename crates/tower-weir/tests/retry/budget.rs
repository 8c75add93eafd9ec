//! Budgets, where the layer asks them.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http::{StatusCode, request::Parts};
use http_body_util::Full;
use tokio::{
    sync::Notify,
    task::yield_now,
    time::{Instant, sleep},
};
use tower::{Layer, Service, ServiceExt, service_fn};
#[cfg(feature = "weir")]
use tower_weir::Weir;
use tower_weir::{
    BoxError,
    circuit_breaker::FailureRun,
    error::BudgetExhausted,
    observe::Event,
    outcome::{ClassifyFn, HttpClassifier, Outcome, Repeat, classify_fn},
    retry::{
        Account, ReplayBody, Retried, RetryLayer, RetryPolicy,
        backoff::Constant,
        budget::{BudgetRule, CostQuota, GrpcThrottle, InFlightShare, RetryBudget},
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

/// A retry, and nothing comes back.
#[cfg(feature = "weir")]
const ONCE: BudgetRule = BudgetRule::CostQuota {
    capacity: 5,
    retry_cost: 5,
    timeout_cost: 5,
};

/// A stack whose admission lets all calls through.
#[cfg(feature = "weir")]
fn ungated(retries: u32) -> Weir {
    Weir::http()
        .backoff(Constant::new(millis(1)))
        .max_retries(retries)
        .breaker_enabled(false)
        .limiter_enabled(false)
        .seed(1)
}

#[cfg(feature = "weir")]
fn ruled(weir: Weir, rule: BudgetRule) -> Weir {
    weir.retry(|policy| policy.budget_rule(rule).unwrap())
}

/// In a stack the admission tells the budget of most successes, and the retry layer of
/// the others: each is told once, and of the host that it was.
#[cfg(feature = "weir")]
#[tokio::test(start_paused = true)]
async fn a_stacks_success_is_deposited_once_whoever_does_it() {
    let stack = || ruled(ungated(1), FOR_EACH);
    type Settings = fn(Weir) -> Weir;
    let cases: [(&str, Settings); 5] = [
        ("plain", |weir| weir),
        ("one host", |weir| weir.for_host("one")),
        ("a classifier of its own", |weir| {
            weir.retry(|policy| policy.classify(HttpClassifier::new()))
        }),
        ("the stack's classifier", |weir| {
            weir.classify(HttpClassifier::new())
        }),
        ("a list", |weir| {
            weir.retry_statuses([StatusCode::SERVICE_UNAVAILABLE])
        }),
    ];
    let make = |(name, change): (_, fn(Weir) -> Weir)| (name, change(stack()));
    let changed = |name, change: fn(RetryPolicy<()>) -> RetryPolicy<()>| {
        let weir = stack();
        weir.handle().update_retry(change);
        (name, weir)
    };
    let changes = [
        changed("one budget from now on", |policy| policy.for_host("one")),
        changed("another setting", |policy| {
            policy.max_wait(Duration::from_secs(9))
        }),
    ];
    for (name, weir) in cases.map(make).into_iter().chain(changes) {
        let one = name.starts_with("one");
        let upstream = upstream(|n| status(if n < 30 { 200 } else { 503 }));
        let (seen, stack) = (upstream.seen(), weir.layer(upstream));
        let call = async |host| {
            let request = get(&format!("http://{host}.test/"));
            stack.clone().oneshot(request).await.unwrap();
        };
        for _ in 0..10 {
            for host in ["a", "b", "c"] {
                call(host).await;
            }
        }
        let mut granted = Vec::new();
        for host in ["c", "a"] {
            let mut retries = 0;
            loop {
                let before = seen.count();
                call(host).await;
                match seen.count() - before {
                    2 => retries += 1,
                    attempts => break assert_eq!(attempts, 1),
                }
            }
            granted.push(retries);
        }
        assert_eq!(granted, if one { [30, 0] } else { [10, 10] }, "{name}");
    }
}

#[cfg(feature = "weir")]
#[tokio::test(start_paused = true)]
async fn what_a_stacks_host_has_spent_is_not_forgotten_while_it_has_a_request() {
    let (attempts, release) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (count, released) = (attempts.clone(), release.clone());
    let inner = service_fn(move |request: http::Request<ReplayBody<Full<Bytes>>>| {
        let held = request.uri().host() == Some("held.test");
        let number = held.then(|| count.fetch_add(1, Ordering::Relaxed));
        let released = released.clone();
        async move {
            // The third is under way for long.
            if number == Some(2) {
                released.notified().await;
            }
            Ok::<_, BoxError>(status(503))
        }
    });
    let stack = ruled(ungated(1), ONCE).max_hosts(1);
    let stack = stack.layer(inner);
    let call = |host: &str| stack.clone().oneshot(get(&format!("http://{host}.test/")));
    call("held").await.unwrap();
    let under_way = tokio::spawn(call("held"));
    tokio::task::yield_now().await;
    assert_eq!(attempts.load(Ordering::Relaxed), 3);
    for other in ["a", "b", "c"] {
        call(other).await.unwrap();
    }
    release.notify_one();
    under_way.await.unwrap().unwrap();
    assert_eq!(attempts.load(Ordering::Relaxed), 3, "its budget is spent");
}

/// Every success is worth a retry, and there is no other.
#[cfg(feature = "weir")]
const FOR_EACH: BudgetRule = BudgetRule::Share {
    memory: Duration::from_secs(60),
    per_second: 0,
    share: 1.0,
};

#[cfg(feature = "weir")]
type Judge = fn(Result<&bool, &BoxError>) -> Outcome;

#[cfg(feature = "weir")]
fn judge(result: Result<&bool, &BoxError>) -> Outcome {
    match result {
        Err(error) if error.to_string() == "down" => Outcome::failed(),
        _ => Outcome::success(),
    }
}

/// How many retries there are of twenty calls, of which every attempt ends so, after ten
/// that end with `before`.
#[cfg(feature = "weir")]
async fn retries_after(
    before: Result<bool, &'static str>,
    then: Result<bool, &'static str>,
    change: impl FnOnce(RetryPolicy<ClassifyFn<Judge>>) -> RetryPolicy<ClassifyFn<Judge>>,
) -> usize {
    let attempts = Arc::new(AtomicUsize::new(0));
    let count = attempts.clone();
    let inner = service_fn(move |ends: Result<bool, &'static str>| {
        count.fetch_add(1, Ordering::Relaxed);
        async move { ends.map_err(BoxError::from) }
    });
    let stack = Weir::new(classify_fn(judge as Judge))
        .backoff(Constant::new(millis(1)))
        .breaker_enabled(false)
        .retry(|policy| {
            let policy = policy.any_method(true).max_retries(1);
            change(policy).budget_rule(FOR_EACH).unwrap()
        })
        .layer(inner);
    for ends in [[before; 10], [then; 10], [then; 10]].concat() {
        let _ = stack.clone().oneshot(ends).await;
    }
    attempts.load(Ordering::Relaxed) - 30
}

#[cfg(feature = "weir")]
#[tokio::test(start_paused = true)]
async fn an_error_that_is_a_success_is_deposited_once() {
    let down = Err("down");
    assert_eq!(retries_after(Ok(true), down, |policy| policy).await, 10);
    for [before, once] in [["missing", "missing"], ["down", "missing"]] {
        let expected = if before == once { 10 } else { 0 };
        let retries = retries_after(Err(before), down, |policy| policy).await;
        assert_eq!(retries, expected, "{before}");
    }
}

#[cfg(feature = "weir")]
#[tokio::test(start_paused = true)]
async fn a_policy_that_is_put_in_whole_judges_what_is_deposited() {
    let judge: Judge = |_| Outcome::failed();
    let policy = RetryPolicy::new(classify_fn(judge))
        .any_method(true)
        .max_retries(1);
    assert_eq!(retries_after(Ok(true), Ok(true), |_| policy).await, 0);
}

/// A layer between two stacks may catch a panic of the inner one.
#[cfg(feature = "weir")]
#[tokio::test(start_paused = true)]
async fn a_success_is_deposited_though_a_stack_within_panicked() {
    let panicking = service_fn(
        async |_: http::Request<ReplayBody<ReplayBody<Full<Bytes>>>>| {
            yield_now().await;
            let answer: Result<Answer, BoxError> = Err("none".into());
            answer.map_err(|error| panic!("on purpose: {error}"))
        },
    );
    let within = Weir::http().layer(panicking);
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let caught = service_fn(move |request: http::Request<ReplayBody<Full<Bytes>>>| {
        let n = counted.fetch_add(1, Ordering::Relaxed);
        let mut call = Box::pin(within.clone().oneshot(request));
        std::future::poll_fn(move |cx| {
            if n >= 10 {
                return Poll::Ready(Ok::<_, BoxError>(status(503)));
            }
            match catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(cx))) {
                Ok(Poll::Pending) => Poll::Pending,
                Ok(Poll::Ready(_)) => unreachable!("it panics"),
                Err(_) => Poll::Ready(Ok(status(200))),
            }
        })
    });
    let stack = ruled(ungated(1), FOR_EACH).layer(caught);
    for _ in 0..20 {
        let _ = stack.clone().oneshot(get("http://a.test/")).await;
    }
    assert_eq!(count.load(Ordering::Relaxed), 10 + 2 * 10);
}

/// A request that an open circuit refused is under way while it waits.
#[cfg(feature = "weir")]
#[tokio::test(start_paused = true)]
async fn what_a_stacks_host_has_spent_is_not_forgotten_while_a_request_waits() {
    for polled in [true, false] {
        waits_while_others_come(polled).await;
    }
}

#[cfg(feature = "weir")]
async fn waits_while_others_come(polled: bool) {
    let upstream = upstream(|_| status(500));
    let seen = upstream.seen();
    let twice = FailureRun::new(2, Duration::ZERO);
    let weir = Weir::http()
        .retry(|policy| policy.patience(Duration::from_secs(60)))
        .breaker(|breaker| breaker.failure_run(twice))
        .backoff(Constant::new(Duration::from_secs(1)))
        .max_retries(1)
        .max_hosts(1);
    let weir = ruled(weir, ONCE);
    let stack = weir.layer(upstream);
    let call = |host: &str| stack.clone().oneshot(get(&format!("http://{host}.test/")));
    call("waits").await.unwrap();
    assert_eq!(seen.take(), 2, "the circuit is open now");
    let waits = stack.clone().call(get("http://waits.test/"));
    let waits = match polled {
        true => tokio::spawn(waits),
        false => tokio::spawn(async move {
            sleep(millis(100)).await;
            waits.await
        }),
    };
    sleep(millis(10)).await;
    assert_eq!(seen.take(), 0);
    for other in ["a", "b", "c"] {
        tokio::spawn(call(other));
        sleep(millis(10)).await;
    }
    seen.take();
    // Its host begins anew, but for the budget.
    waits.await.unwrap().unwrap();
    let of_it = |head: &Parts| head.uri.host() == Some("waits.test");
    let attempts = seen.each(of_it).into_iter().filter(|own| *own);
    assert_eq!(attempts.count(), 1);
}

/// The policy may remember more budgets than the stack does hosts.
#[cfg(feature = "weir")]
#[tokio::test(start_paused = true)]
async fn the_budget_that_was_idle_the_longest_is_forgotten_first() {
    let down = Arc::new(AtomicUsize::new(0));
    let is_down = down.clone();
    let upstream = upstream(move |_| match is_down.load(Ordering::Relaxed) {
        0 => status(200),
        _ => status(503),
    });
    let seen = upstream.seen();
    let weir = ruled(ungated(1), ONCE).max_hosts(2);
    let stack = weir.retry(|policy| policy.max_hosts(3)).layer(upstream);
    let attempts = async |fails, host| {
        seen.take();
        down.store(fails, Ordering::Relaxed);
        let request = get(&format!("http://{host}.test/"));
        stack.clone().oneshot(request).await.unwrap();
        seen.count()
    };
    assert_eq!(attempts(1, "spent").await, 2);
    for host in ["b", "spent", "c", "spent", "d", "d", "e"] {
        assert_eq!(attempts(0, host).await, 1);
    }
    // Before it b and c are forgotten, of which nobody heard again.
    assert_eq!(attempts(1, "spent").await, 1);
}

#[cfg(feature = "weir")]
#[tokio::test(start_paused = true)]
async fn a_stacks_hosts_are_those_of_its_budgets_too() {
    let own = |weir: Weir| weir.budget(|| CostQuota::new(5, 5, 5));
    let ours = |weir: Weir| ruled(weir, ONCE);
    let budgets: [fn(Weir) -> Weir; 2] = [own, ours];
    let cases = budgets.map(|budget| [(budget, 299, 2), (budget, 300, 1)]);
    for (budget, max, attempts) in cases.concat() {
        let upstream = upstream(|_| status(503));
        let seen = upstream.seen();
        let layer = budget(ungated(1)).max_hosts(max);
        let stack = layer.layer(upstream);
        for n in (0..300).chain([0]) {
            seen.take();
            let request = get(&format!("http://{n}.test/"));
            stack.clone().oneshot(request).await.unwrap();
        }
        assert_eq!(seen.take(), attempts, "{max}");
    }
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
