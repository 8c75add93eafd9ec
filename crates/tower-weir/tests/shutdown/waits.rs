//! Whatever waits without being in flight ends when a shutdown begins.

use std::time::Duration;

use tower::{Service, ServiceExt, limit::ConcurrencyLimitLayer};
use tower_weir::{
    circuit_breaker::{Control, WhenOpen},
    outcome::{Fault, Processed},
    retry::budget::RetryBudget,
    shutdown::Shutdown,
};

use crate::rig::{Act, Rig, SECOND, Stack, cause, down, settle, stack};

/// One slot.
fn narrow(shutdown: &Shutdown) -> Stack {
    stack(shutdown).limiter(|law| {
        law.initial = 1;
        law.max = 1;
    })
}

#[tokio::test(start_paused = true)]
async fn callers_in_the_limiters_queue_are_refused_at_once() {
    let shutdown = Shutdown::new();
    let rig = Rig::over(&narrow(&shutdown));
    let first = rig.begin(Act::Late(4, 200)).await;
    let queued = [rig.begin(Act::Hang).await, rig.begin(Act::Hang).await];
    let drained = shutdown.drain(9 * SECOND).await;
    assert_eq!((drained.finished, drained.queued), (1, 2));
    assert_eq!((drained.took, drained.is_clean()), (4 * SECOND, true));
    for call in queued {
        let (down, took) = call.down().await;
        assert_eq!((down.attempts(), down.processed()), (0, Processed::No));
        assert_eq!(took, 0);
    }
    assert_eq!(first.status().await, (200, 4));
    assert_eq!(rig.reached(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_retry_in_the_queue_says_what_came_before() {
    let shutdown = Shutdown::new();
    let rig = Rig::over(&narrow(&shutdown).queue_timeout(600 * SECOND));
    let failed = rig.begin(Act::Late(0, 503)).await;
    // The slot is taken when the second attempt comes, after 60 s.
    tokio::time::sleep(59 * SECOND).await;
    let hangs = rig.begin(Act::Late(9, 200)).await;
    tokio::time::sleep(2 * SECOND).await;
    let drained = shutdown.drain(60 * SECOND).await;
    assert_eq!((drained.queued, drained.finished), (1, 1));
    let (down, took) = failed.down().await;
    assert_eq!((down.attempts(), took), (1, 61));
    assert_eq!(down.last(), Some(cause(503)));
    assert_eq!(down.processed(), Processed::Maybe);
    assert_eq!(Fault::of(&down), Fault::Cut);
    assert_eq!(hangs.status().await, (200, 9));
}

#[tokio::test(start_paused = true)]
async fn a_bulk_call_that_waits_for_the_circuit_is_refused_at_once() {
    let shutdown = Shutdown::new();
    let layer = stack(&shutdown).bulk();
    let handle = layer.handle();
    let rig = Rig::over(&layer);
    assert!(handle.control_circuit("", Control::ForcedOpen));
    let waits = rig.begin(Act::Late(1, 200)).await;
    tokio::time::sleep(5 * SECOND).await;
    assert!(!waits.is_finished());
    let drained = shutdown.drain(9 * SECOND).await;
    assert_eq!((drained.queued, drained.took), (1, Duration::ZERO));
    let (down, took) = waits.down().await;
    assert_eq!((down.attempts(), took, rig.reached()), (0, 5, 0));
}

#[tokio::test(start_paused = true)]
async fn a_backoff_ends_at_once_with_what_the_last_attempt_had_come_to() {
    let shutdown = Shutdown::new();
    let rig = Rig::over(&stack(&shutdown));
    let throttled = rig.begin(Act::Late(0, 429)).await;
    tokio::time::sleep(65 * SECOND).await;
    let unavailable = rig.begin(Act::Late(0, 503)).await;
    let drained = shutdown.drain(9 * SECOND).await;
    assert_eq!((drained.backoffs, drained.took), (2, Duration::ZERO));
    assert!(drained.is_clean());

    let (down, took) = throttled.down().await;
    assert_eq!((down.attempts(), took), (2, 65));
    assert_eq!(down.last(), Some(cause(429)));
    assert_eq!((down.processed(), down.is_cut()), (Processed::No, false));
    assert_eq!(
        down.to_string(),
        "shutting down: no attempt after number 2 (after 429)"
    );
    let (down, took) = unavailable.down().await;
    assert_eq!((down.attempts(), took), (1, 0));
    assert_eq!(down.processed(), Processed::Maybe);
    assert_eq!(rig.reached(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_waits_for_its_budget_ends_at_once() {
    let shutdown = Shutdown::new();
    let empty = || RetryBudget::new(SECOND, 0, 0.0).unwrap();
    let rig = Rig::over(&stack(&shutdown).bulk().budget(empty));
    let waits = rig.begin(Act::Late(0, 429)).await;
    tokio::time::sleep(300 * SECOND).await;
    assert!(!waits.is_finished());
    let drained = shutdown.drain(9 * SECOND).await;
    assert_eq!((drained.backoffs, drained.took), (1, Duration::ZERO));
    let (down, took) = waits.down().await;
    assert_eq!((down.attempts(), down.last()), (1, Some(cause(429))));
    assert_eq!((took, rig.reached()), (300, 1));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_pends_for_the_circuit_becomes_ready_to_refuse() {
    let shutdown = Shutdown::new();
    let layer = stack(&shutdown).when_open(WhenOpen::Pend).unwrap();
    let handle = layer.handle();
    let rig = Rig::over(&layer);
    assert!(handle.control_circuit("", Control::ForcedOpen));
    let mut client = rig.client.clone();
    let ready = tokio::spawn(async move {
        client.ready().await.unwrap();
        client
    });
    tokio::time::sleep(60 * SECOND).await;
    assert!(!ready.is_finished());
    shutdown.begin();
    let mut client = ready.await.unwrap();
    let down = down(client.call(Act::Late(0, 200)).await);
    assert_eq!((down.attempts(), rig.reached()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_waits_for_the_services_readiness_ends_at_once() {
    let shutdown = Shutdown::new();
    let layer = tower::ServiceBuilder::new()
        .layer(stack(&shutdown))
        .layer(ConcurrencyLimitLayer::new(1));
    let rig = Rig::over(&layer);
    let retries = rig.begin(Act::Late(0, 503)).await;
    tokio::time::sleep(59 * SECOND).await;
    let first = rig.begin(Act::Late(9, 200)).await;
    tokio::time::sleep(2 * SECOND).await;
    shutdown.begin();
    let (down, took) = retries.down().await;
    assert_eq!((down.attempts(), took), (1, 61));
    assert_eq!(first.status().await, (200, 9));
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_for_an_inner_services_readiness_are_refused() {
    let shutdown = Shutdown::new();
    let layer = tower::ServiceBuilder::new()
        .layer(shutdown.layer())
        .layer(ConcurrencyLimitLayer::new(1));
    let rig = Rig::over(&layer);
    let first = rig.begin(Act::Late(9, 200)).await;
    let waits = rig.begin(Act::Late(9, 200)).await;
    settle().await;
    assert_eq!(shutdown.in_flight(), 1);
    let drained = shutdown.drain(60 * SECOND).await;
    assert_eq!((drained.finished, drained.refused), (1, 1));
    assert_eq!(waits.down().await.1, 0);
    assert_eq!(first.status().await, (200, 9));
}

#[tokio::test(start_paused = true)]
async fn whose_wait_was_ended_is_not_cut_however_short_the_grace() {
    let shutdown = Shutdown::new();
    let rig = Rig::over(&narrow(&shutdown));
    let backoff = rig.begin(Act::Late(0, 503)).await;
    let queued = [rig.begin(Act::Hang).await, rig.begin(Act::Hang).await];
    let drained = shutdown.drain(Duration::ZERO).await;
    // The limiter's slot cools after the 503, so that none was sent.
    assert_eq!((drained.queued, drained.backoffs), (2, 1));
    assert!(drained.is_clean(), "{drained}");
    assert!(!backoff.down().await.0.is_cut());
    for call in queued {
        let (down, _) = call.down().await;
        assert_eq!((down.attempts(), down.processed()), (0, Processed::No));
    }
}

#[tokio::test(start_paused = true)]
async fn a_queued_caller_that_goes_away_before_it_hears_of_it_counts_once() {
    let shutdown = Shutdown::new();
    let rig = Rig::over(&narrow(&shutdown));
    let first = rig.begin(Act::Late(4, 200)).await;
    let queued = rig.begin(Act::Hang).await;
    shutdown.begin();
    queued.abort();
    let drained = shutdown.drain(9 * SECOND).await;
    assert_eq!((drained.finished, drained.cut), (1, 0));
    assert_eq!((drained.queued, drained.cancelled), (0, 1));
    assert_eq!(first.status().await, (200, 4));
}
