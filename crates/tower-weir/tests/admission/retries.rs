//! Retries around the admission.

use std::time::Duration;

use http::StatusCode;
use tokio::time::{Instant, sleep};
use tower::{Layer, Service, ServiceBuilder};
use tower_weir::{
    Deadline, Weir,
    aimd::AimdConcurrencyLayer,
    circuit_breaker::{CircuitBreakerLayer, State},
    error::DeadlineExceeded,
    retry::{Retried, RetryLayer, backoff::DecorrelatedJitter},
};

use crate::support::{
    Does, End, Step, Upstream, begin, exchange, get, limiter, ms, poll_once, secs, stack,
};

fn exactly(wait: Duration) -> DecorrelatedJitter {
    DecorrelatedJitter::new(wait, wait).unwrap()
}

#[tokio::test(start_paused = true)]
async fn nothing_is_held_in_backoff_whatever_was_answered() {
    // A 404 says nothing against the upstream, but the caller repeats it; and
    // its body never ends.
    for status in [404, 429, 500, 503] {
        let weir = Weir::http()
            .retry_statuses([StatusCode::from_u16(status).unwrap()])
            .backoff(exactly(secs(1)));
        let steps = [Step::status(status).body(1, End::Never)];
        let upstream = Upstream::good().steps(steps);
        let mut service = weir.layer(upstream.clone());
        let start = Instant::now();
        let call = tokio::spawn(service.call(get()));
        sleep(ms(500)).await;
        let host = stack(&weir);
        assert_eq!(host.limiter.unwrap().in_flight, 0, "{status}");
        let answer = call.await.unwrap().unwrap();
        assert_eq!(upstream.called_at(start), [0, 1005].map(ms), "{status}");
        assert_eq!(answer.extensions().get::<Retried>().unwrap().attempts, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn deadline_that_passes_in_the_queue_is_not_the_upstreams_fault() {
    let breaker = CircuitBreakerLayer::http();
    let limit = AimdConcurrencyLayer::http().fixed(1);
    let upstream = Upstream::new(Step::does(Does::Hang));
    let mut service = ServiceBuilder::new()
        .layer(breaker.clone())
        .layer(limit.clone())
        .service(upstream.clone());
    let mut hung = begin(&mut service);
    assert!(poll_once(&mut hung).await.is_none());
    let mut request = get();
    request.extensions_mut().insert(Deadline::after(secs(1)));
    let error = exchange(&mut service, request).await.unwrap_err();
    assert!(error.is::<DeadlineExceeded>());
    assert_eq!(breaker.snapshot()[0].1.failure_run, 0);
    // And in the attempt itself it is.
    drop(hung);
    let mut request = get();
    request.extensions_mut().insert(Deadline::after(secs(1)));
    assert!(exchange(&mut service, request).await.is_err());
    assert_eq!(breaker.snapshot()[0].1.failure_run, 1);
    assert_eq!((upstream.calls(), limiter(&limit).in_flight), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn hung_upstream_under_a_deadline_opens_the_circuit() {
    let weir = Weir::http().deadline(secs(2));
    let upstream = Upstream::new(Step::does(Does::Hang));
    let mut service = weir.layer(upstream.clone());
    for _ in 0..10 {
        let start = Instant::now();
        let error = exchange(&mut service, get()).await.unwrap_err();
        assert!(error.is::<DeadlineExceeded>(), "{error}");
        assert_eq!(start.elapsed(), secs(2));
    }
    assert_eq!(stack(&weir).circuit.unwrap().state, State::Open);
}

#[tokio::test(start_paused = true)]
async fn readiness_is_taken_anew_after_the_wait_and_bounded_by_the_deadline() {
    let retry = RetryLayer::http()
        .deadline(secs(3))
        .backoff(exactly(secs(1)));
    let upstream = Upstream::good().steps([Step::status(503).body(0, End::Clean)]);
    // It is ready after 10 s; only the first attempt goes without asking.
    let mut service = retry.layer(upstream.clone().ready_after(secs(10)));
    let start = Instant::now();
    let error = exchange(&mut service, get()).await.unwrap_err();
    assert!(error.is::<DeadlineExceeded>(), "{error}");
    assert_eq!((start.elapsed(), upstream.calls()), (secs(3), 1));
}
