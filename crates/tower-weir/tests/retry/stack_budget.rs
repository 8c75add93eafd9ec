//! Budgets of a stack, which its admission tells of most successes.

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
use tokio::{sync::Notify, task::yield_now, time::sleep};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_weir::{
    BoxError, Weir,
    circuit_breaker::FailureRun,
    outcome::{ClassifyFn, HttpClassifier, Outcome, classify_fn},
    retry::{
        ReplayBody, RetryPolicy,
        backoff::Constant,
        budget::{BudgetRule, CostQuota},
    },
};

use crate::support::*;

/// A retry, and nothing comes back.
const ONCE: BudgetRule = BudgetRule::CostQuota {
    capacity: 5,
    retry_cost: 5,
    timeout_cost: 5,
};

/// A stack whose admission lets all calls through.
fn ungated(retries: u32) -> Weir {
    Weir::http()
        .backoff(Constant::new(millis(1)))
        .max_retries(retries)
        .breaker_enabled(false)
        .limiter_enabled(false)
        .seed(1)
}

fn ruled(weir: Weir, rule: BudgetRule) -> Weir {
    weir.retry(|policy| policy.budget_rule(rule).unwrap())
}

/// In a stack the admission tells the budget of most successes, and the retry layer of
/// the others: each is told once, and of the host that it was.
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
const FOR_EACH: BudgetRule = BudgetRule::Share {
    memory: Duration::from_secs(60),
    per_second: 0,
    share: 1.0,
};

type Judge = fn(Result<&bool, &BoxError>) -> Outcome;

fn judge(result: Result<&bool, &BoxError>) -> Outcome {
    match result {
        Err(error) if error.to_string() == "down" => Outcome::failed(),
        _ => Outcome::success(),
    }
}

/// How many retries there are of twenty calls, of which every attempt ends so, after ten
/// that end with `before`.
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

#[tokio::test(start_paused = true)]
async fn a_policy_that_is_put_in_whole_judges_what_is_deposited() {
    let judge: Judge = |_| Outcome::failed();
    let policy = RetryPolicy::new(classify_fn(judge))
        .any_method(true)
        .max_retries(1);
    assert_eq!(retries_after(Ok(true), Ok(true), |_| policy).await, 0);
}

/// A layer between two stacks may catch a panic of the inner one.
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
#[tokio::test(start_paused = true)]
async fn what_a_stacks_host_has_spent_is_not_forgotten_while_a_request_waits() {
    for polled in [true, false] {
        waits_while_others_come(polled).await;
    }
}

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
