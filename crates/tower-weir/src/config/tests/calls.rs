//! Settings that change while calls are made.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{Request, Response};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

use super::read;
use crate::{
    BoxError, Weir,
    aimd::{AimdConcurrencyLayer, AimdHandle},
    circuit_breaker::{CircuitBreakerLayer, State},
    config::{Running, Settings},
    error::{AttemptTimeout, CircuitOpen, QueueFull, QueueTimeout},
    outcome::{ErrorsFail, Outcome, classify_fn},
    retry::budget::BudgetRule,
};

/// A stack over a service that answers with what it is told, and counts.
fn down(
    stack: Weir<ErrorsFail, crate::retry::CloneRequest, crate::admit::Plain<ErrorsFail>>,
) -> (
    impl Service<(), Response = (), Error = BoxError, Future: Send> + Clone,
    Arc<AtomicUsize>,
) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let service = service_fn(move |(): ()| {
        counted.fetch_add(1, Ordering::Relaxed);
        async { Err::<(), BoxError>("down".into()) }
    });
    (ServiceBuilder::new().layer(stack).service(service), calls)
}

/// Retries at once, and a circuit that stays closed.
fn quiet() -> Settings {
    read(
        "retry = { any_method = true, max_retries = 3, backoff = { base = \"1ms\", cap = \"1ms\" } }\n\
         circuit_breaker = { failure_rate = \"none\", failure_run.enabled = false }",
    )
}

#[tokio::test(start_paused = true)]
async fn a_request_keeps_the_policy_that_it_began_with() {
    let stack = Weir::new(ErrorsFail).configured(&quiet()).unwrap();
    let running = Running::new().with(stack.handle());
    let (client, calls) = down(stack);
    let under_way = tokio::spawn(client.clone().oneshot(()));
    sleep(Duration::from_millis(1)).await;
    assert_eq!(calls.load(Ordering::Relaxed), 1);

    let mut fewer = quiet();
    fewer.retry.max_retries = Some(1);
    assert_eq!(running.apply(&fewer), Ok(1));
    // The service was there before the change, as a clone of it was.
    assert!(client.clone().oneshot(()).await.is_err());
    assert!(under_way.await.unwrap().is_err());
    assert_eq!(calls.load(Ordering::Relaxed), 4 + 2);

    fewer.retry.enabled = false;
    assert_eq!(running.apply(&fewer), Ok(2));
    assert!(client.oneshot(()).await.is_err());
    assert_eq!(calls.load(Ordering::Relaxed), 4 + 2 + 1);
}

#[tokio::test(start_paused = true)]
async fn budgets_keep_their_balance() {
    let mut settings = quiet();
    settings.retry.max_retries = Some(1);
    let share = |per_second, memory| BudgetRule::Share {
        memory: Duration::from_secs(memory),
        per_second,
        share: 0.0,
    };
    settings.retry.budget = share(1, 10);
    let stack = Weir::new(ErrorsFail).configured(&settings).unwrap();
    let running = Running::new().with(stack.handle());
    let (client, calls) = down(stack);
    let retries = async |client: &_, requests: usize| {
        let before = calls.load(Ordering::Relaxed);
        for _ in 0..requests {
            let client = Clone::clone(client);
            assert!(ServiceExt::<()>::oneshot(client, ()).await.is_err());
        }
        calls.load(Ordering::Relaxed) - before - requests
    };
    // Ten are in reserve.
    assert_eq!(retries(&client, 200).await, 10);
    for (per_second, memory) in [(1, 10), (1, 60), (1, 1), (2, 10)] {
        settings.retry.budget = share(per_second, memory);
        running.apply(&settings).unwrap();
        assert_eq!(retries(&client, 20).await, 0, "{per_second} {memory}");
    }
    sleep(Duration::from_secs(3)).await;
    assert_eq!(retries(&client, 200).await, 6);

    // Another kind begins anew.
    settings.retry.budget = BudgetRule::CostQuota {
        capacity: 50,
        retry_cost: 10,
        timeout_cost: 10,
    };
    running.apply(&settings).unwrap();
    assert_eq!(retries(&client, 20).await, 5);
    settings.retry.budget = BudgetRule::None;
    running.apply(&settings).unwrap();
    assert_eq!(retries(&client, 20).await, 20);
}

#[tokio::test(start_paused = true)]
async fn limit_circuit_and_queue_change_together() {
    let settings = read(
        "retry.max_retries = 0\n\
         limiter = { initial = 2, min = 2, max = 2 }\n\
         circuit_breaker.failure_run.enabled = false",
    );
    let judge = classify_fn(|result: Result<&u32, &BoxError>| match result {
        Ok(_) => Outcome::success(),
        Err(_) => Outcome::failed(),
    });
    let stack = Weir::new(judge).configured(&settings).unwrap();
    let (handle, running) = (stack.handle(), Running::new().with(stack.handle()));
    let client = ServiceBuilder::new()
        .layer(stack)
        .service(service_fn(|n: u32| async move {
            sleep(Duration::from_secs(2)).await;
            match n {
                0 => Err(BoxError::from("down")),
                n => Ok::<_, BoxError>(n),
            }
        }));
    let send = |n: u32| tokio::spawn(client.clone().oneshot(n));
    let all: Vec<_> = (1..=5).map(send).collect();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(handle.snapshot()[0].waiting, 3);

    let changed = read(
        "retry.max_retries = 0\n\
         limiter = { initial = 4, min = 4, max = 4 }\n\
         circuit_breaker.failure_run = { failures = 1, lasting = \"0s\" }\n\
         calls = { queue_timeout = \"1s\" }",
    );
    assert_eq!(running.apply(&changed), Ok(1));
    sleep(Duration::from_millis(1)).await;
    // Two more went at once.
    assert_eq!(handle.snapshot()[0].waiting, 1);
    // The last one waits for a second only, and so does one that comes now.
    let began = Instant::now();
    let impatient = send(6).await.unwrap().unwrap_err();
    assert!(impatient.is::<QueueTimeout>(), "{impatient}");
    assert_eq!(began.elapsed(), Duration::from_secs(1));
    let mut done = Vec::new();
    for call in all {
        done.push(call.await.unwrap().is_ok());
    }
    assert_eq!(done, [true, true, true, true, false]);
    // And one failure opens the circuit.
    assert!(send(0).await.unwrap().is_err());
    let circuit = handle.snapshot()[0].circuit.unwrap();
    assert_eq!(circuit.state, State::Open);
    assert!(send(1).await.unwrap().unwrap_err().is::<CircuitOpen>());
}

/// It takes so many seconds.
fn slow() -> impl Service<u64, Response = (), Error = BoxError, Future: Send> + Clone + Send {
    service_fn(|time: u64| async move {
        sleep(Duration::from_secs(time)).await;
        Ok(())
    })
}

type Answered = JoinHandle<Result<(), BoxError>>;

/// A limiter of one slot over it, what applies further settings, and what calls it.
fn one_slot() -> (AimdHandle, impl Fn(&str), impl Fn(u64) -> Answered) {
    let one = "limiter.initial = 1\nlimiter.max = 1\n";
    let layer = AimdConcurrencyLayer::new(ErrorsFail);
    let layer = layer.configured(&read(one)).unwrap();
    let handle = layer.handle();
    let running = Running::new().with(layer.handle());
    let client = ServiceBuilder::new().layer(layer).service(slow());
    (
        handle,
        move |text| {
            running.apply(&read(&format!("{one}{text}"))).unwrap();
        },
        move |time| tokio::spawn(client.clone().oneshot(time)),
    )
}

#[tokio::test(start_paused = true)]
async fn the_bounds_of_calls_hold_for_those_that_come() {
    let (handle, apply, send) = one_slot();
    let first = send(5);
    tokio::task::yield_now().await;

    apply("calls.max_waiting = 0");
    let refused = send(5).await.unwrap().unwrap_err();
    assert!(refused.is::<QueueFull>(), "{refused}");
    apply("calls.max_waiting = \"none\"");
    let second = send(5);
    tokio::task::yield_now().await;
    assert_eq!(handle.snapshot()[0].1.waiting, 1);
    // Switched off it lets others pass, and those that wait keep their turn.
    apply("limiter.enabled = false");
    send(1).await.unwrap().unwrap();
    assert_eq!(handle.snapshot()[0].1.waiting, 1);
    apply("limiter.enabled = true");
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();

    apply("calls.attempt_timeout = \"2s\"");
    assert!(send(3).await.unwrap().unwrap_err().is::<AttemptTimeout>());
    apply("calls.attempt_timeout = \"none\"");
    send(3600).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_pends_for_a_circuit_is_woken_when_the_breaker_is_switched_off() {
    let pend = "circuit_breaker = { when_open = \"pend\", enabled = ENABLED }";
    let pend = |enabled: bool| read(&pend.replace("ENABLED", &enabled.to_string()));
    let layer = CircuitBreakerLayer::new(ErrorsFail);
    let layer = layer.configured(&pend(true)).unwrap();
    let (handle, running) = (layer.handle(), Running::new().with(layer.handle()));
    assert!(handle.force_open(""));
    let service = service_fn(|(): ()| async { Ok::<_, BoxError>(()) });
    let client = ServiceBuilder::new().layer(layer).service(service);
    let waits = tokio::spawn(client.oneshot(()));
    sleep(Duration::from_secs(1)).await;
    assert!(!waits.is_finished());
    running.apply(&pend(false)).unwrap();
    sleep(Duration::from_secs(1)).await;
    assert!(waits.is_finished());
    waits.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn how_long_calls_may_wait_holds_at_once_for_those_that_do() {
    let (handle, apply, send) = one_slot();
    let began = Instant::now();
    let first = send(20);
    tokio::task::yield_now().await;
    let waiting: Vec<_> = (0..3).map(|_| send(1)).collect();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(handle.snapshot()[0].1.waiting, 3);
    // Longer, and they wait on, past the 10 s that they came with.
    apply("calls.queue_timeout = \"1h\"");
    sleep(Duration::from_secs(14)).await;
    assert_eq!(handle.snapshot()[0].1.waiting, 3);
    // Shorter, from when they came.
    apply("calls.queue_timeout = \"17s\"");
    for call in waiting {
        let refused = call.await.unwrap().unwrap_err();
        assert!(refused.to_string().contains("17.000 s"), "{refused}");
        assert_eq!(began.elapsed().as_secs(), 17);
    }
    let waits = send(1);
    sleep(Duration::from_secs(2)).await;
    // Less than they have waited.
    apply("calls.queue_timeout = \"1s\"");
    assert!(waits.await.unwrap().is_err());
    assert_eq!(began.elapsed().as_secs(), 19);
    first.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn whether_a_call_waits_in_vain_goes_by_how_long_it_may_wait_now() {
    let settings = |timeout: u64| {
        read(&format!(
            "limiter.initial = 1\nlimiter.max = 1\ncalls.queue_timeout = \"{timeout}s\""
        ))
    };
    let waited = async |before: u64, after: u64| {
        let layer = AimdConcurrencyLayer::http();
        let layer = layer.configured(&settings(before)).unwrap();
        let running = Running::new().with(layer.handle());
        let service = service_fn(async |_: Request<()>| {
            Ok::<_, BoxError>(Response::new("unread".to_owned()))
        });
        let client = ServiceBuilder::new().layer(layer).service(service);
        let _unread = client.clone().oneshot(Request::new(())).await.unwrap();
        let began = Instant::now();
        let waits = tokio::spawn(client.oneshot(Request::new(())));
        sleep(Duration::from_secs(1)).await;
        running.apply(&settings(after)).unwrap();
        waits.await.unwrap().unwrap();
        began.elapsed().as_secs()
    };
    assert_eq!(waited(60, 10).await, 5);
    // The body's own time is up before that.
    assert_eq!(waited(10, 60).await, 30);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_under_way_is_given_more_time_and_not_less() {
    let layer = AimdConcurrencyLayer::new(ErrorsFail);
    let layer = layer.configured(&Settings::default()).unwrap();
    let running = Running::new().with(layer.handle());
    let attempt = |time: &str| {
        let text = format!("calls.attempt_timeout = \"{time}\"");
        running.apply(&read(&text)).unwrap();
    };
    let client = ServiceBuilder::new().layer(layer).service(slow());
    let send = async |time: u64, change: &str| {
        attempt("10s");
        let began = Instant::now();
        let call = tokio::spawn(client.clone().oneshot(time));
        sleep(Duration::from_secs(1)).await;
        attempt(change);
        let timed_out = call
            .await
            .unwrap()
            .is_err_and(|error| error.is::<AttemptTimeout>());
        (timed_out, began.elapsed().as_secs())
    };
    assert_eq!(send(25, "20s").await, (true, 20));
    assert_eq!(send(15, "20s").await, (false, 15));
    assert_eq!(send(15, "none").await, (false, 15));
    // What nobody polls does not look: at the latest when it was to.
    assert_eq!(send(25, "2s").await, (true, 10));
}
