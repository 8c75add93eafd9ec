//! tower-resilience, with the defaults of its documentation; limits are raised
//! so that no call of a measurement has to wait.

use std::time::Duration;

use tower::ServiceBuilder;
use tower_resilience_adaptive::{AdaptiveLimiterLayer, Aimd};
use tower_resilience_bulkhead::BulkheadLayer;
use tower_resilience_circuitbreaker::{CircuitBreakerLayer, SlidingWindowType};
use tower_resilience_retry::RetryLayer;

use super::{BAD, Subject, generic_subject, inner, number, refused, web};

const SLOTS: usize = 256;

fn retry<Req, Res, E>() -> RetryLayer<Req, Res, E>
where
    Req: Clone + Send + Sync + 'static,
    Res: Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    RetryLayer::builder()
        .max_attempts(4)
        .exponential_backoff(Duration::from_millis(100))
        .build()
}

fn breaker() -> CircuitBreakerLayer {
    let breaker = CircuitBreakerLayer::builder()
        .failure_rate_threshold(0.5)
        .sliding_window_size(100);
    breaker.build().expect("the settings of its documentation")
}

fn limiter() -> AdaptiveLimiterLayer<Aimd> {
    let aimd = Aimd::builder().initial_limit(SLOTS).max_limit(SLOTS);
    AdaptiveLimiterLayer::new(aimd.build().expect("a limit within its bounds"))
}

fn bulkhead() -> BulkheadLayer {
    let bulkhead = BulkheadLayer::builder().max_concurrent_calls(SLOTS);
    bulkhead.build().expect("a limit over zero")
}

macro_rules! with {
    ($layer:expr, $inner:expr) => {
        ServiceBuilder::new().layer($layer).service($inner)
    };
}

/// Retry, breaker and limiter, from the outside in.
macro_rules! three {
    ($inner:expr) => {
        ServiceBuilder::new()
            .layer(retry())
            .layer(breaker())
            .layer(limiter())
            .service($inner)
    };
}

pub(super) fn generic() -> Vec<Subject> {
    vec![
        generic_subject("tower-resilience retry", with!(retry(), inner())),
        generic_subject(
            "tower-resilience circuit breaker",
            with!(breaker(), inner()),
        ),
        generic_subject("tower-resilience adaptive", with!(limiter(), inner())),
        generic_subject("tower-resilience bulkhead", with!(bulkhead(), inner())),
        generic_subject("tower-resilience three", three!(inner())),
    ]
}

pub(super) fn over_http() -> Vec<Subject> {
    vec![
        web::subject("http: tower-resilience retry", with!(retry(), web::inner())),
        web::subject(
            "http: tower-resilience circuit breaker",
            with!(breaker(), web::inner()),
        ),
        web::subject(
            "http: tower-resilience adaptive",
            with!(limiter(), web::inner()),
        ),
        web::subject("http: tower-resilience three", three!(web::inner())),
    ]
}

pub(super) fn open_breaker() -> Subject {
    let call = number(with!(breaker(), inner()), BAD);
    Subject::new("open: tower-resilience circuit breaker", refused(call))
}

pub(super) fn windows() -> Vec<Subject> {
    let counted = [100, 10_000].map(|calls| {
        let breaker = CircuitBreakerLayer::builder().sliding_window_size(calls);
        (format!("last {calls} calls"), breaker)
    });
    let timed = [1, 10].map(|seconds| {
        let breaker = CircuitBreakerLayer::builder()
            .sliding_window_type(SlidingWindowType::TimeBased)
            .sliding_window_duration(Duration::from_secs(seconds));
        (format!("{seconds} s"), breaker)
    });
    let subject = |(window, breaker): (
        String,
        tower_resilience_circuitbreaker::CircuitBreakerConfigBuilder<_>,
    )| {
        let layer = breaker.build().expect("a window that it offers");
        generic_subject(
            format!("tower-resilience circuit breaker, {window}"),
            with!(layer, inner()),
        )
    };
    counted.into_iter().chain(timed).map(subject).collect()
}

/// One slot, for the waiters.
pub(crate) fn one_slot() -> AdaptiveLimiterLayer<Aimd> {
    let aimd = Aimd::builder().initial_limit(1).max_limit(1);
    AdaptiveLimiterLayer::new(aimd.build().expect("a limit within its bounds"))
}
