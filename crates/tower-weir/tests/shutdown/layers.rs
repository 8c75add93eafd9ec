//! Layers of their own, and stacks of other people's.

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn, timeout::TimeoutLayer};
use tower_weir::{
    BoxError,
    aimd::AimdConcurrencyLayer,
    circuit_breaker::CircuitBreakerLayer,
    outcome::{ErrorsFail, Outcome, classify_fn},
    retry::{RetryLayer, RetryPolicy, backoff::Constant},
    shutdown::{Drained, Shutdown},
};

use crate::rig::{Act, Rig, SECOND, down, settle};

#[tokio::test(start_paused = true)]
async fn stacked_apart_the_retries_count_and_the_others_refuse() {
    let shutdown = Shutdown::new();
    let retries = RetryPolicy::new(classify_fn(
        |result: Result<&u16, &BoxError>| match result {
            Ok(200) => Outcome::success(),
            _ => Outcome::throttled(),
        },
    ))
    .backoff(Constant::new(60 * SECOND));
    let layer = ServiceBuilder::new()
        .layer(RetryLayer::new(retries).shutdown(&shutdown))
        .layer(CircuitBreakerLayer::new(ErrorsFail).shutdown(&shutdown))
        .layer(
            AimdConcurrencyLayer::new(ErrorsFail)
                .fixed(1)
                .shutdown(&shutdown),
        );
    let rig = Rig::over(&layer);
    let backs_off = rig.begin(Act::Late(0, 429)).await;
    let flies = rig.begin(Act::Late(5, 200)).await;
    let queued = rig.begin(Act::Late(5, 200)).await;
    let drained = shutdown.drain(9 * SECOND).await;
    down(rig.call(Act::Late(5, 200)).await);
    assert_eq!((drained.finished, drained.queued), (1, 1));
    assert_eq!((drained.backoffs, drained.took), (1, 5 * SECOND));
    assert_eq!(shutdown.drain(SECOND).await.refused, 1);
    assert_eq!(backs_off.down().await.0.attempts(), 1);
    assert_eq!(queued.down().await.0.attempts(), 0);
    assert_eq!(flies.status().await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn a_limiter_alone_refuses_and_is_waited_for_but_cuts_nothing() {
    let shutdown = Shutdown::new();
    let layer = AimdConcurrencyLayer::new(ErrorsFail)
        .shutdown(&shutdown)
        .attempt_timeout(None);
    let rig = Rig::over(&layer);
    let finishes = rig.begin(Act::Late(2, 200)).await;
    let drained = shutdown.drain(9 * SECOND).await;
    assert_eq!((drained.took, drained.cut), (2 * SECOND, 0));
    assert_eq!(finishes.status().await.0, 200);
    down(rig.call(Act::Hang).await);
    assert_eq!(shutdown.drain(SECOND).await.refused, 1);
}

#[tokio::test(start_paused = true)]
async fn a_stack_of_other_peoples_layers_is_counted_and_cut() {
    let shutdown = Shutdown::new();
    let layer = ServiceBuilder::new()
        .layer(shutdown.layer())
        .layer(TimeoutLayer::new(60 * SECOND));
    let rig = Rig::over(&layer);
    let finishes = rig.begin(Act::Late(2, 200)).await;
    let hangs = rig.begin(Act::Hang).await;
    let drained = shutdown.drain(9 * SECOND).await;
    assert_eq!((drained.finished, drained.cut), (1, 1));
    assert_eq!(drained.took, 9 * SECOND);
    assert_eq!(finishes.status().await, (200, 2));
    let (down, took) = hangs.down().await;
    assert_eq!((down.is_cut(), took), (true, 9));
}

#[tokio::test(start_paused = true)]
async fn retries_that_are_switched_off_still_end() {
    let shutdown = Shutdown::new();
    let rig = Rig::over(&crate::rig::stack(&shutdown).retry_enabled(false));
    let hangs = rig.begin(Act::Hang).await;
    let drained = shutdown.drain(SECOND).await;
    assert_eq!((drained.cut, hangs.down().await.1), (1, 1));
    down(rig.call(Act::Hang).await);
}

#[tokio::test(start_paused = true)]
async fn what_another_handle_has_refused_counts_for_this_one() {
    let (inner, outer) = (Shutdown::new(), Shutdown::new());
    let layer = ServiceBuilder::new()
        .layer(outer.layer())
        .layer(crate::rig::stack(&inner));
    let rig = Rig::over(&layer);
    let backs_off = rig.begin(Act::Late(0, 429)).await;
    outer.begin();
    inner.begin();
    assert_eq!(backs_off.down().await.0.attempts(), 1);
    assert_eq!(inner.drain(SECOND).await.backoffs, 1);
    let drained = outer.drain(SECOND).await;
    assert_eq!((drained.queued, drained.finished), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_a_limiter_alone_still_has_in_flight_at_the_end_is_no_clean_end() {
    let shutdown = Shutdown::new();
    let layer = AimdConcurrencyLayer::new(ErrorsFail)
        .shutdown(&shutdown)
        .attempt_timeout(None);
    let rig = Rig::over(&layer);
    let hangs = rig.begin(Act::Hang).await;
    let drained = shutdown.drain(SECOND).await;
    assert_eq!((drained.left, drained.cut, drained.bodies), (1, 0, 0));
    assert_eq!((drained.took, drained.is_clean()), (SECOND, false));
    assert!(!hangs.is_finished());
    hangs.abort();
    settle().await;
    let drained = shutdown.drain(SECOND).await;
    assert_eq!((drained.left, drained.is_clean()), (0, true));
}

#[tokio::test(start_paused = true)]
async fn what_a_layer_refused_before_it_began_is_in_no_report() {
    let shutdown = Shutdown::new();
    let layer = AimdConcurrencyLayer::new(ErrorsFail).shutdown(&shutdown);
    layer.handle().drain().await;
    let rig = Rig::over(&layer);
    down(rig.call(Act::Hang).await);
    assert_eq!(shutdown.drain(SECOND).await, Drained::default());
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_panics_as_it_begins_keeps_nothing_open() {
    let shutdown = Shutdown::new();
    let panics = AimdConcurrencyLayer::http()
        .shutdown(&shutdown)
        .initial(1)
        .max_hold(SECOND)
        .observe(|_, _| panic!("an observer"));
    let answer = |_: Request<()>| async {
        let body = StreamBody::new(tokio_stream::pending::<Result<Frame<Bytes>, BoxError>>());
        Ok::<_, BoxError>(Response::new(body))
    };
    let request = Request::get("http://a.test").body(()).unwrap();
    let _unread = panics.layer(service_fn(answer)).oneshot(request).await;
    // Its slot is due, and the limit grows as it is given back.
    tokio::time::sleep(2 * SECOND).await;
    let narrow = AimdConcurrencyLayer::new(ErrorsFail)
        .shutdown(&shutdown)
        .fixed(1);
    let rig = Rig::over(&narrow);
    let first = rig.begin(Act::Late(3, 200)).await;
    let queued = rig.begin(Act::Hang).await;
    let begun = tokio::spawn({
        let shutdown = shutdown.clone();
        async move { shutdown.begun().await }
    });
    settle().await;

    let begin = std::panic::AssertUnwindSafe(|| shutdown.begin());
    assert!(std::panic::catch_unwind(begin).is_err());
    begun.await.unwrap();
    assert_eq!(queued.down().await.1, 0);
    let drained = shutdown.drain(9 * SECOND).await;
    assert_eq!((drained.queued, drained.took), (1, 3 * SECOND));
    assert_eq!(first.status().await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn a_limiter_that_is_switched_off_lets_pass_and_waits_for_nobody() {
    let shutdown = Shutdown::new();
    let layer = AimdConcurrencyLayer::new(ErrorsFail)
        .shutdown(&shutdown)
        .enabled(false);
    let rig = Rig::over(&layer);
    let call = rig.begin(Act::Late(3, 200)).await;
    assert_eq!(shutdown.drain(9 * SECOND).await, Drained::default());
    assert_eq!(call.status().await, (200, 3));
    assert_eq!(rig.call(Act::Late(1, 200)).await.unwrap(), 200);
}
