//! What a drain waits for, and what it tells.

use std::time::Duration;

use tokio::time::Instant;
use tower_weir::{
    outcome::{Fault, Processed},
    shutdown::{Drained, Shutdown},
};

use crate::rig::{Act, Rig, SECOND, down, settle, stack};

#[tokio::test(start_paused = true)]
async fn with_nothing_in_flight_it_is_over_at_once() {
    let shutdown = Shutdown::new();
    let rig = Rig::over(&stack(&shutdown));
    assert_eq!(rig.call(Act::Late(1, 200)).await.unwrap(), 200);
    assert_eq!(shutdown.drain(9 * SECOND).await, Drained::default());
    assert_eq!(Shutdown::new().drain(SECOND).await, Drained::default());
}

#[tokio::test(start_paused = true)]
async fn new_requests_are_refused_and_were_never_sent() {
    let shutdown = Shutdown::new();
    let rig = Rig::over(&stack(&shutdown).ceiling(4).max_waiting(9));
    shutdown.begin();
    for _ in 0..3 {
        let down = down(rig.call(Act::Late(1, 200)).await);
        assert_eq!((down.attempts(), down.last()), (0, None));
        assert_eq!((down.processed(), down.is_cut()), (Processed::No, false));
        assert_eq!(down.to_string(), "shutting down: no more requests");
        assert_eq!(Fault::of(&down), Fault::ShuttingDown);
    }
    assert_eq!((rig.reached(), shutdown.in_flight()), (0, 0));
    assert_eq!(shutdown.drain(SECOND).await.refused, 3);
}

#[tokio::test(start_paused = true)]
async fn what_is_in_flight_finishes_within_the_grace() {
    let shutdown = Shutdown::new();
    let rig = Rig::over(&stack(&shutdown));
    let calls = [
        rig.begin(Act::Late(3, 200)).await,
        rig.begin(Act::Late(5, 200)).await,
    ];
    assert_eq!(shutdown.in_flight(), 2);
    let drained = shutdown.drain(9 * SECOND).await;
    assert_eq!((drained.finished, drained.took), (2, 5 * SECOND));
    assert!(drained.is_clean());
    for (call, took) in calls.into_iter().zip([3, 5]) {
        assert_eq!(call.status().await, (200, took));
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_fails_meanwhile_is_not_repeated_and_its_result_is_the_callers() {
    let shutdown = Shutdown::new();
    let rig = Rig::over(&stack(&shutdown));
    let call = rig.begin(Act::Late(2, 503)).await;
    let drained = shutdown.drain(9 * SECOND).await;
    assert_eq!(call.status().await, (503, 2));
    assert_eq!((rig.reached(), drained.finished), (1, 1));
    assert_eq!((drained.took, drained.backoffs), (2 * SECOND, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_in_flight_when_the_grace_is_over_is_cut() {
    let shutdown = Shutdown::new();
    let rig = Rig::over(&stack(&shutdown).attempt_timeout(None));
    let [hangs, finishes] = [
        rig.begin(Act::Hang).await,
        rig.begin(Act::Late(2, 200)).await,
    ];
    let drained = shutdown.drain(3 * SECOND).await;
    assert_eq!((drained.finished, drained.cut), (1, 1));
    assert_eq!((drained.took, drained.is_clean()), (3 * SECOND, false));
    let (down, took) = hangs.down().await;
    assert_eq!((down.attempts(), down.is_cut(), took), (1, true, 3));
    assert_eq!(down.processed(), Processed::Maybe);
    assert_eq!(down.to_string(), "shutting down: attempt 1 was cut short");
    assert_eq!(Fault::of(&down), Fault::Cut);
    assert_eq!(finishes.status().await, (200, 2));
    assert_eq!(shutdown.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_grace_of_nothing_cuts_at_once() {
    let shutdown = Shutdown::new();
    let rig = Rig::over(&stack(&shutdown));
    let call = rig.begin(Act::Late(2, 200)).await;
    let drained = shutdown.drain(Duration::ZERO).await;
    assert_eq!((drained.cut, drained.took), (1, Duration::ZERO));
    assert!(call.down().await.0.is_cut());
}

#[tokio::test(start_paused = true)]
async fn a_grace_may_be_without_end() {
    let shutdown = Shutdown::new();
    let rig = Rig::over(&stack(&shutdown));
    let call = rig.begin(Act::Late(7, 200)).await;
    let drained = shutdown.drain(Duration::MAX).await;
    assert_eq!((drained.finished, drained.took), (1, 7 * SECOND));
    assert_eq!(call.status().await, (200, 7));
}

#[tokio::test(start_paused = true)]
async fn of_two_drains_the_shorter_grace_cuts_and_both_tell_the_same() {
    let shutdown = Shutdown::new();
    let rig = Rig::over(&stack(&shutdown).attempt_timeout(None));
    let call = rig.begin(Act::Hang).await;
    let (long, short) = tokio::join!(shutdown.drain(60 * SECOND), shutdown.drain(2 * SECOND));
    assert_eq!((long, short.cut, short.took), (short, 1, 2 * SECOND));
    assert_eq!(call.down().await.1, 2);
    let start = Instant::now();
    let again = shutdown.drain(60 * SECOND).await;
    assert_eq!((again.cut, start.elapsed()), (1, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_second_drain_tells_what_came_since_too() {
    let shutdown = Shutdown::new();
    let rig = Rig::over(&stack(&shutdown));
    let call = rig.begin(Act::Late(1, 200)).await;
    let first = shutdown.drain(9 * SECOND).await;
    down(rig.call(Act::Late(1, 200)).await);
    let second = shutdown.drain(9 * SECOND).await;
    assert_eq!((first.finished, first.refused), (1, 0));
    assert_eq!((second.finished, second.refused), (1, 1));
    assert_eq!(call.status().await, (200, 1));
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_is_dropped_has_begun_and_cuts_nothing() {
    let shutdown = Shutdown::new();
    let rig = Rig::over(&stack(&shutdown).attempt_timeout(None));
    let call = rig.begin(Act::Hang).await;
    tokio::select! {
        drained = shutdown.drain(2 * SECOND) => panic!("{drained}"),
        () = tokio::time::sleep(SECOND) => {}
    }
    tokio::time::sleep(60 * SECOND).await;
    assert!(shutdown.has_begun() && !call.is_finished());
    let drained = shutdown.drain(2 * SECOND).await;
    assert_eq!((drained.cut, drained.took), (1, 63 * SECOND));
    assert_eq!(call.down().await.1, 63);
}

#[tokio::test(start_paused = true)]
async fn whoever_goes_away_is_not_waited_for() {
    let shutdown = Shutdown::new();
    let rig = Rig::over(&stack(&shutdown));
    let call = rig.begin(Act::Hang).await;
    let drain = tokio::spawn({
        let shutdown = shutdown.clone();
        async move { shutdown.drain(60 * SECOND).await }
    });
    tokio::time::sleep(SECOND).await;
    call.abort();
    let drained = drain.await.unwrap();
    assert_eq!((drained.cancelled, drained.took), (1, SECOND));
    assert!(drained.is_clean());
}

#[tokio::test(start_paused = true)]
async fn clones_are_one_handle_and_one_stack() {
    let shutdown = Shutdown::new();
    let layer = stack(&shutdown.clone());
    let rigs = [Rig::over(&layer), Rig::over(&layer.clone())];
    let calls = [
        rigs[0].begin(Act::Late(1, 200)).await,
        rigs[1].begin(Act::Late(2, 200)).await,
    ];
    assert_eq!(shutdown.in_flight(), 2);
    let drained = shutdown.clone().drain(9 * SECOND).await;
    assert_eq!((drained.finished, drained.took), (2, 2 * SECOND));
    for call in calls {
        assert_eq!(call.status().await.0, 200);
    }
    down(rigs[1].call(Act::Late(1, 200)).await);
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_is_told_of_it_later_is_closed_too() {
    let shutdown = Shutdown::new();
    shutdown.begin();
    let rig = Rig::over(&stack(&shutdown).bulk());
    down(rig.call(Act::Late(1, 200)).await);
    assert_eq!(rig.reached(), 0);
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_its_beginning_is_told() {
    let shutdown = Shutdown::new();
    let begun = tokio::spawn({
        let shutdown = shutdown.clone();
        async move { shutdown.begun().await }
    });
    settle().await;
    assert!(!begun.is_finished());
    shutdown.begin();
    begun.await.unwrap();
    shutdown.begun().await;
}

#[tokio::test(start_paused = true)]
async fn a_report_reads_as_a_sentence() {
    let shutdown = Shutdown::new();
    let rig = Rig::over(&stack(&shutdown));
    let call = rig.begin(Act::Late(1, 200)).await;
    let drained = shutdown.drain(9 * SECOND).await;
    assert_eq!(
        drained.to_string(),
        "1 finished, 0 refused, 0 ended in a queue, 0 between attempts, 0 given up, 0 cut, \
         0 bodies open, 0 left, in 1.000 s"
    );
    call.status().await;
}

#[cfg(feature = "tonic")]
#[tokio::test(start_paused = true)]
async fn for_tonic_it_is_unavailable() {
    let shutdown = Shutdown::new();
    let rig = Rig::over(&stack(&shutdown));
    let call = rig.begin(Act::Hang).await;
    assert_eq!(shutdown.drain(SECOND).await.cut, 1);
    let refused = down(rig.call(Act::Hang).await);
    for down in [refused, call.down().await.0] {
        let source = std::error::Error::source(&down).unwrap();
        let status = source.downcast_ref::<tonic::Status>().unwrap();
        assert_eq!(status.code(), tonic::Code::Unavailable);
        assert_eq!(status.message(), down.to_string());
    }
}
