//! Callers who give the upstream no time say nothing about it.
#![cfg(feature = "circuit-breaker")]

use std::time::Duration;

use http::{Request, Response};
use tokio::time::sleep;
use tower::{Layer, Service, service_fn};
use tower_weir::{
    BoxError, Deadline, circuit_breaker::CircuitBreakerLayer, error::DeadlineExceeded,
};

#[tokio::test(start_paused = true)]
async fn a_breaker_alone_knows_impatience_from_a_slow_upstream() {
    let layer = CircuitBreakerLayer::http();
    let mut service = layer.layer(service_fn(|request: Request<Duration>| async move {
        sleep(*request.body()).await;
        Ok::<_, BoxError>(Response::new(String::new()))
    }));
    let failed = || layer.snapshot()[0].1.counts.failed;
    let mut call = |takes: u64, patience: u64| {
        let mut request = Request::new(Duration::from_millis(takes));
        let deadline = Deadline::after(Duration::from_millis(patience));
        request.extensions_mut().insert(deadline);
        service.call(request)
    };
    call(100, 1000).await.unwrap();
    for _ in 0..5 {
        let error = call(100, 50).await.unwrap_err();
        assert!(error.is::<DeadlineExceeded>());
    }
    assert_eq!(failed(), 0);
    // Four round trips of 100 ms are time enough.
    for expected in 1..=2 {
        call(10_000, 400).await.unwrap_err();
        assert_eq!(failed(), expected);
    }
}
