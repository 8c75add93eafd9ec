//! The layers of this workspace.

use std::{sync::Arc, time::Duration};

use tower::ServiceBuilder;
use tower_weir::{
    Weir,
    admit::Plain,
    aimd::AimdConcurrencyLayer,
    circuit_breaker::{BreakerConfig, CircuitBreakerLayer, OpenFor, Window},
    outcome::ErrorsFail,
    retry::{CloneRequest, RetryLayer, RetryPolicy},
};

use super::{BAD, Subject, Tower, generic_subject, inner, number, refused, web};

const SLOTS: usize = 256;

macro_rules! with {
    ($layer:expr, $inner:expr) => {
        ServiceBuilder::new().layer($layer).service($inner)
    };
}

fn retry() -> RetryLayer<ErrorsFail, CloneRequest> {
    RetryLayer::new(RetryPolicy::new(ErrorsFail).any_method(true))
}

fn stack() -> Weir<ErrorsFail, CloneRequest, Plain<ErrorsFail>> {
    Weir::new(ErrorsFail)
        .any_method()
        .ceiling(SLOTS)
        .limiter(|law| law.initial = SLOTS)
}

pub(crate) fn web_stack() -> Weir {
    Weir::http()
        .ceiling(SLOTS)
        .limiter(|law| law.initial = SLOTS)
}

pub(super) fn generic() -> Vec<Subject> {
    let breaker = || CircuitBreakerLayer::new(ErrorsFail);
    let limiter = || {
        AimdConcurrencyLayer::new(ErrorsFail)
            .ceiling(SLOTS)
            .initial(SLOTS)
    };
    let apart = ServiceBuilder::new()
        .layer(retry())
        .layer(breaker())
        .layer(limiter())
        .service(inner());
    vec![
        generic_subject("weir: retry", with!(retry(), inner())),
        generic_subject("weir: breaker", with!(breaker(), inner())),
        generic_subject("weir: limiter", with!(limiter(), inner())),
        generic_subject("weir: three apart", apart),
        generic_subject("weir: stack", with!(stack(), inner())),
    ]
}

pub(super) fn over_http() -> Vec<Subject> {
    let breaker = CircuitBreakerLayer::http;
    let limiter = || AimdConcurrencyLayer::http().ceiling(SLOTS).initial(SLOTS);
    vec![
        web::subject("http: weir: retry", with!(RetryLayer::http(), web::inner())),
        web::subject("http: weir: breaker", with!(breaker(), web::inner())),
        web::subject(
            "http: weir: breaker, one host",
            with!(breaker().for_host("index"), web::inner()),
        ),
        web::subject("http: weir: limiter", with!(limiter(), web::inner())),
        web::subject(
            "http: weir: limiter, one host",
            with!(limiter().for_host("index"), web::inner()),
        ),
        web::subject("http: weir: stack", with!(web_stack(), web::inner())),
        web::subject(
            "http: weir: stack, one host",
            with!(web_stack().for_host("index"), web::inner()),
        ),
        web::fresh(
            "http: weir: stack, new request",
            with!(web_stack(), web::inner()),
        ),
    ]
}

/// Long enough for a measurement, and hinted like any other refusal.
fn open_long() -> BreakerConfig {
    let hour = Duration::from_secs(3600);
    BreakerConfig::default().open_for(OpenFor::new(hour, hour).expect("an hour is a period"))
}

/// A breaker that refuses.
pub(super) fn open_breaker() -> Subject {
    let layer = CircuitBreakerLayer::new(ErrorsFail).config(open_long());
    let call = number(with!(layer, inner()), BAD);
    Subject::new("open: weir: breaker", refused(call))
}

pub(super) fn open_stack() -> Subject {
    let stack = stack().max_retries(0).breaker(|_| open_long());
    let call = number(with!(stack, inner()), BAD);
    Subject::new("open: weir: stack", refused(call))
}

pub(super) fn windows() -> Vec<Subject> {
    let minutes = |n: u64| Duration::from_secs(60 * n);
    [
        ("last 100 calls", Window::calls(100)),
        ("last 10000 calls", Window::calls(10_000)),
        (
            "10 s in 10 slices",
            Window::time(Duration::from_secs(10), 10),
        ),
        ("5 min in 30 slices", Window::time(minutes(5), 30)),
        ("10 min in 600 slices", Window::time(minutes(10), 600)),
    ]
    .into_iter()
    .map(|(name, window)| {
        let window = window.expect("a window within its bounds");
        let config = BreakerConfig::default().window(window);
        let layer = CircuitBreakerLayer::new(ErrorsFail).config(config);
        generic_subject(format!("weir: breaker, {name}"), with!(layer, inner()))
    })
    .collect()
}

/// The name of a host.
pub(super) fn shard(n: usize) -> String {
    format!("shard-{n:05}.index.internal:6333")
}

/// Nothing and the stack in front of `count` hosts, called in turn, and how many
/// of them the stack remembers.
pub fn hosts(count: usize) -> ([Subject; 2], impl Fn() -> usize) {
    let stack = web_stack();
    let requests: Arc<[_]> = (0..count).map(|n| web::request(&shard(n))).collect();
    let mut next = 0;
    let make = move || {
        next = (next + 1) % requests.len();
        requests[next].clone()
    };
    let nothing = Tower {
        service: web::inner(),
        make: make.clone(),
    };
    let stacked = Tower {
        service: with!(stack.clone(), web::inner()),
        make,
    };
    let subjects = [
        Subject::new(format!("http: nothing, {count} hosts"), nothing),
        Subject::new(format!("http: weir: stack, {count} hosts"), stacked),
    ];
    (subjects, move || stack.snapshot().len())
}

/// A limiter of one slot, for the waiters.
pub(crate) fn one_slot() -> AimdConcurrencyLayer<Plain<ErrorsFail>> {
    AimdConcurrencyLayer::new(ErrorsFail)
        .fixed(1)
        .max_waiting(usize::MAX)
        .queue_timeout(Duration::from_secs(3600))
}
