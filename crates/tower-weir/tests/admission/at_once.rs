//! Calls that are sent while they are made.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use tokio::time::advance;
use tower::{Layer, Service, ServiceBuilder, limit::ConcurrencyLimitLayer};
use tower_weir::{
    BoxError, Deadline,
    aimd::AimdConcurrencyLayer,
    outcome::{Classify, ErrorsFail, HttpClassifier, Processed, Protocol, Verdict},
};

use crate::support::{Chunks, Step, Upstream, begin, get, limiter, ms, poll_once, secs, within};

/// Ready, and done at once; it counts how often it is cloned.
#[derive(Default)]
struct Counted {
    clones: Arc<AtomicUsize>,
}

impl Clone for Counted {
    fn clone(&self) -> Self {
        self.clones.fetch_add(1, Ordering::SeqCst);
        Self {
            clones: self.clones.clone(),
        }
    }
}

impl Service<u64> for Counted {
    type Response = u64;
    type Error = Infallible;
    type Future = Ready<Result<u64, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, n: u64) -> Self::Future {
        ready(Ok(n))
    }
}

#[tokio::test]
async fn a_ready_service_is_called_without_a_clone_of_it() {
    let counted = Counted::default();
    let clones = counted.clones.clone();
    let mut service = AimdConcurrencyLayer::new(ErrorsFail).layer(counted);
    for n in 0..10 {
        assert_eq!(service.call(n).await.unwrap(), n);
    }
    assert_eq!(clones.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_not_ready_wakes_the_task_that_polls_the_call() {
    let upstream = Upstream::new(Step::status(200).after(ms(100)));
    let layer = AimdConcurrencyLayer::http();
    let mut service = ServiceBuilder::new()
        .layer(&layer)
        .layer(ConcurrencyLimitLayer::new(1))
        .service(upstream.clone());
    let first = tokio::spawn(begin(&mut service));
    // It asks for the only permit before any task does.
    let second = tokio::spawn(begin(&mut service));
    let third = tokio::spawn(begin(&mut service));
    assert_eq!(limiter(&layer).in_flight, 3);
    for call in [first, second, third] {
        let answer = within(ms(101), call).await.expect("it hangs");
        drop(answer.unwrap().unwrap());
    }
    assert_eq!((upstream.calls(), limiter(&layer).in_flight), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_polled_past_its_deadline_may_have_been_sent() {
    let layer = AimdConcurrencyLayer::http();
    let upstream = Upstream::good();
    let mut service = layer.layer(upstream.clone());
    let mut request = get();
    request.extensions_mut().insert(Deadline::after(secs(1)));
    let mut call = Box::pin(service.call(request));
    assert_eq!(upstream.calls(), 1, "the service is ready");
    advance(secs(1)).await;
    let error: BoxError = poll_once(&mut call).await.unwrap().map(drop).unwrap_err();
    let result: Result<&http::Response<Chunks>, &BoxError> = Err(&error);
    let outcome = HttpClassifier::new().classify(Protocol::Http, result);
    assert_eq!(outcome.processed, Processed::Maybe, "{error}");
    let after = limiter(&layer);
    assert_eq!((after.in_flight, after.srtt), (0, None));
    assert_ne!(outcome.verdict, Verdict::Success);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_never_polled_gives_its_slot_back_and_says_nothing() {
    let layer = AimdConcurrencyLayer::http();
    let mut service = layer.layer(Upstream::good());
    drop(begin(&mut service));
    let before = limiter(&layer).limit;
    for _ in 0..3 {
        let call = begin(&mut service);
        assert_eq!(limiter(&layer).in_flight, 1);
        drop(call);
    }
    let after = limiter(&layer);
    assert_eq!((after.in_flight, after.limit), (0, before));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_nobody_polls_is_in_no_line_further_in() {
    let mut service = ServiceBuilder::new()
        .layer(AimdConcurrencyLayer::http())
        .layer(ConcurrencyLimitLayer::new(1))
        .service(Upstream::good());
    let first = begin(&mut service);
    let aside = begin(&mut service);
    drop(first);
    let third = within(secs(1), begin(&mut service)).await;
    drop(third.expect("it waits for who is not there").unwrap());
    drop(aside.await.unwrap());
}
