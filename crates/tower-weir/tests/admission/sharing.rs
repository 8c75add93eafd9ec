//! Panics within, and what clones share.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicUsize, Ordering},
};

use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::Instant;
use tower::{
    Layer, Service, ServiceBuilder, ServiceExt, balance::p2c::Balance, buffer::BufferLayer,
    discover::ServiceList, limit::ConcurrencyLimitLayer, load::Constant, load_shed::LoadShedLayer,
    steer::Steer,
};
use tower_weir::{
    BoxError, Weir, aimd::AimdConcurrencyLayer, circuit_breaker::State, error::QueueFull,
    retry::RetryLayer, retry::backoff::DecorrelatedJitter, weir::HostSnapshot,
};

use crate::support::{
    Chunks, Does, End, Step, Upstream, begin, exchange, get, get_from, ms, poll_once, secs, stack,
    within,
};

const OK: (StatusCode, usize) = (StatusCode::OK, 10);

fn failures(host: &HostSnapshot) -> (State, u32, usize) {
    let circuit = host.circuit.unwrap();
    let slots = host.limiter.as_ref().unwrap();
    (circuit.state, circuit.failure_run, slots.in_flight)
}

#[tokio::test(start_paused = true)]
async fn panic_within_is_a_failure_and_gives_the_slot_back() {
    for (at, step) in [
        ("poll", Step::does(Does::PanicInPoll)),
        ("body", Step::status(200).body(1, End::Panic)),
    ] {
        let weir = Weir::http().limiter(|law| law.initial = 1);
        let upstream = Upstream::good().steps([step]);
        let mut service = weir.layer(upstream.clone());
        // The victim holds the only slot when it panics; another waits for it.
        let victim = tokio::spawn(exchange(&mut service, get()));
        let waiting = tokio::spawn(exchange(&mut service, get()));
        assert!(victim.await.unwrap_err().is_panic(), "{at}");
        assert_eq!(failures(&stack(&weir)), (State::Closed, 1, 1), "{at}");
        let served = within(secs(1), waiting).await.expect("it hangs");
        assert_eq!(served.unwrap().unwrap(), OK, "{at}");
        assert_eq!(failures(&stack(&weir)), (State::Closed, 0, 0), "{at}");
    }
}

/// Where a service panics that is asked whether it is ready, and called.
const IN_SERVICE: [(&str, usize, Does); 2] = [
    ("poll_ready", 1, Does::Answer),
    ("call", 0, Does::PanicInCall),
];

#[tokio::test(start_paused = true)]
async fn panic_of_a_service_that_is_called_at_once_is_a_failure_and_gives_the_slot_back() {
    for (at, not_ready, does) in IN_SERVICE {
        let weir = Weir::http().limiter(|law| law.initial = 1);
        let upstream = Upstream::good().steps([Step::does(does)]);
        let mut service = weir.layer(upstream.clone());
        upstream.panic_in_poll_ready(not_ready);
        let called = catch_unwind(AssertUnwindSafe(|| begin(&mut service)));
        assert!(called.is_err(), "{at}");
        assert_eq!(failures(&stack(&weir)), (State::Closed, 1, 0), "{at}");
        assert_eq!(exchange(&mut service, get()).await.unwrap(), OK, "{at}");
        assert_eq!(failures(&stack(&weir)), (State::Closed, 0, 0), "{at}");
    }
}

#[tokio::test(start_paused = true)]
async fn panic_of_a_service_that_is_called_after_a_wait_is_a_failure_and_gives_the_slot_back() {
    for (at, not_ready, does) in IN_SERVICE {
        let weir = Weir::http().limiter(|law| law.initial = 1);
        let upstream = Upstream::good().steps([Step::status(200), Step::does(does)]);
        let mut service = weir.layer(upstream.clone());
        let first = begin(&mut service).await.unwrap();
        let victim = tokio::spawn(exchange(&mut service, get()));
        let waiting = tokio::spawn(exchange(&mut service, get()));
        upstream.panic_in_poll_ready(not_ready);
        drop(first);
        assert!(victim.await.unwrap_err().is_panic(), "{at}");
        let served = within(secs(1), waiting).await.expect("it hangs");
        assert_eq!(served.unwrap().unwrap(), OK, "{at}");
        assert_eq!(failures(&stack(&weir)), (State::Closed, 0, 0), "{at}");
        assert_eq!(stack(&weir).circuit.unwrap().counts.failed, 1, "{at}");
    }
}

#[tokio::test(start_paused = true)]
async fn error_in_poll_ready_is_a_failure_and_gives_the_slot_back() {
    let weir = Weir::http().max_retries(0);
    let upstream = Upstream::good();
    let mut service = weir.layer(upstream.clone());
    upstream.fail_in_poll_ready(1);
    assert!(exchange(&mut service, get()).await.is_err());
    assert_eq!(failures(&stack(&weir)), (State::Closed, 1, 0));
    assert_eq!(exchange(&mut service, get()).await.unwrap(), OK);
}

#[tokio::test(start_paused = true)]
async fn clones_of_layer_and_service_share_their_state() {
    let layer = AimdConcurrencyLayer::http().fixed(1).max_waiting(0);
    let upstream = Upstream::good();
    let mut one = layer.layer(upstream.clone());
    let mut others = [
        one.clone(),
        layer.layer(upstream.clone()),
        layer.clone().layer(upstream),
    ];
    let _in_flight = begin(&mut one);
    for service in &mut others {
        let error = exchange(service, get()).await.unwrap_err();
        assert!(error.is::<QueueFull>());
    }
    assert_eq!(layer.clone().snapshot().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn every_setter_makes_fresh_state() {
    type Edit = fn(Weir) -> Weir;
    let edits: [(&str, Edit); 9] = [
        ("ceiling", |weir| weir.ceiling(3)),
        ("seed", |weir| weir.seed(3)),
        ("max_retries", |weir| weir.max_retries(1)),
        ("any_method", Weir::any_method),
        ("deadline", |weir| weir.deadline(secs(9))),
        ("retry", |weir| {
            weir.retry(|policy| policy.max_wait(secs(9)))
        }),
        ("retry_enabled", |weir| weir.retry_enabled(false)),
        ("bulk", Weir::bulk),
        ("hold", |weir| weir.max_hold(secs(1))),
    ];
    for (name, edit) in edits {
        let weir = Weir::http();
        let mut service = weir.layer(Upstream::good());
        let _in_flight = begin(&mut service);
        assert_eq!(weir.clone().snapshot().len(), 1);
        assert_eq!(edit(weir).snapshot().len(), 0, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn readied_clones_that_never_call_take_nothing() {
    let weir = Weir::http().limiter(|law| law.initial = 1);
    let mut service = weir.layer(Upstream::good());
    let mut idle: Vec<_> = (0..100).map(|_| service.clone()).collect();
    for clone in &mut idle {
        ServiceExt::<Request<Chunks>>::ready(clone).await.unwrap();
    }
    let answer = within(secs(1), exchange(&mut service, get())).await;
    assert_eq!(answer.expect("it hangs").unwrap(), OK);
}

async fn served<S, B>(mut service: S, calls: usize)
where
    S: Service<Request<Chunks>, Response = Response<B>> + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Body<Error = BoxError> + Send + 'static,
    B::Data: Send,
{
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..calls {
        let ready = service.ready().await.map_err(Into::into).unwrap();
        let call = ready.call(get());
        tasks.spawn(async move {
            let answer = call.await.map_err(Into::into).unwrap();
            assert_eq!(answer.status(), StatusCode::OK);
            answer.into_body().collect().await.unwrap();
        });
    }
    let all = within(secs(60), tasks.join_all()).await;
    all.expect("it hangs");
}

#[tokio::test(start_paused = true)]
async fn tower_buffer_survives_refusals() {
    let weir = Weir::http()
        .limiter(|law| law.max = 1)
        .max_retries(0)
        .max_waiting(1);
    let mut service = ServiceBuilder::new()
        .layer(BufferLayer::new(8))
        .layer(weir.clone())
        .service(Upstream::good());
    let mut calls = Vec::new();
    for _ in 0..4 {
        let ready = service.ready().await.unwrap();
        calls.push(tokio::spawn(ready.call(get())));
    }
    let mut refused = 0;
    for call in calls {
        match call.await.unwrap() {
            Ok(answer) => drop(answer.into_body().collect().await.unwrap()),
            Err(error) => refused += usize::from(error.is::<QueueFull>()),
        }
    }
    assert_eq!(refused, 2);
    served(service, 2).await;
}

#[tokio::test(start_paused = true)]
async fn tower_load_shed_sees_no_pressure() {
    let layer = AimdConcurrencyLayer::http().fixed(1);
    let service = ServiceBuilder::new()
        .layer(LoadShedLayer::new())
        .layer(layer)
        .service(Upstream::good());
    served(service, 50).await;
}

#[tokio::test(start_paused = true)]
async fn balance_and_steer_starve_on_no_idle_clone() {
    let layer = AimdConcurrencyLayer::http().fixed(1);
    let upstream = Upstream::good();
    let service = layer.layer(upstream.clone());
    let same: Vec<_> = (0..4).map(|_| Constant::new(service.clone(), 1)).collect();
    served(Balance::new(ServiceList::new::<Request<Chunks>>(same)), 20).await;

    let turn = AtomicUsize::new(0);
    let in_turn = move |_: &Request<Chunks>, services: &[_]| {
        turn.fetch_add(1, Ordering::Relaxed) % services.len()
    };
    served(Steer::new(vec![service; 4], in_turn), 20).await;
    assert_eq!((upstream.calls(), upstream.peak()), (40, 1));
}

#[tokio::test(start_paused = true)]
async fn limit_over_retry_over_limit_of_1_does_not_deadlock() {
    let backoff = || DecorrelatedJitter::new(ms(1), ms(5)).unwrap();
    let refuse = |n| (0..n).map(|_| Step::status(503));
    let retry = RetryLayer::http().seed(1).backoff(backoff());
    let ours = ServiceBuilder::new()
        .layer(AimdConcurrencyLayer::http().fixed(2))
        .layer(retry.clone())
        .layer(AimdConcurrencyLayer::http().fixed(1))
        .service(Upstream::good().steps(refuse(5)));
    served(ours, 8).await;
    let towers = ServiceBuilder::new()
        .layer(ConcurrencyLimitLayer::new(2))
        .layer(retry)
        .layer(ConcurrencyLimitLayer::new(1))
        .service(Upstream::good().steps(refuse(2)));
    served(towers, 8).await;
    let inside = ServiceBuilder::new()
        .layer(AimdConcurrencyLayer::http().fixed(4))
        .layer(Weir::http().backoff(backoff()))
        .layer(ConcurrencyLimitLayer::new(1))
        .service(Upstream::good().steps(refuse(2)));
    served(inside, 8).await;
}

#[tokio::test(start_paused = true)]
async fn hosts_have_slots_of_their_own() {
    let layer = AimdConcurrencyLayer::http().fixed(1);
    let mut service = layer.layer(Upstream::good());
    let mut hung = begin(&mut service);
    assert!(poll_once(&mut hung).await.is_none());
    let start = Instant::now();
    let other = exchange(&mut service, get_from("http://b/")).await;
    assert_eq!(other.unwrap(), OK);
    assert_eq!(start.elapsed(), ms(7));
    drop(hung);
    assert!(layer.snapshot().iter().all(|(_, host)| host.in_flight == 0));
}
