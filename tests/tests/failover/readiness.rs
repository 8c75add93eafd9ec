//! `poll_ready`, and what is kept ready.

use std::{future::poll_fn, task::Poll, time::Duration};

use tests::BoxError;
use tokio::time::{Instant, sleep};
use tower::{Service, ServiceExt};
use tower_weir::failover::{DownCause, Failover, Region};
use tower_weir_testkit::probe::{Handle, Readiness, Reply};

use crate::support::*;

fn well() -> (Pair, Handle, Handle) {
    pair(|_, _| says(200), |_, _| says(200))
}

async fn ready(failover: &mut Pair) -> Result<(), BoxError> {
    poll_fn(|cx| Service::<Sent>::poll_ready(failover, cx)).await
}

async fn is_ready(failover: &mut Pair) -> bool {
    poll_fn(|cx| {
        let polled = Service::<Sent>::poll_ready(failover, cx);
        Poll::Ready(polled.is_ready())
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn one_region_is_made_ready_and_that_one_is_called() {
    let (mut failover, a, b) = well();
    ready(&mut failover).await.unwrap();
    ready(&mut failover).await.unwrap();
    assert_eq!((a.counts().ready, b.counts().ready), (1, 0));
    let answer = failover.call(request("GET")).await;
    assert_eq!(told(&answer), "200 by a");
    assert_eq!((a.counts().ready, b.counts().calls), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_region_that_is_not_ready_does_not_block_the_others() {
    let (mut failover, a, b) = well();
    a.set_readiness(Readiness::Never);
    ready(&mut failover).await.unwrap();
    assert_eq!(b.counts().ready, 1);
    let instances = a.counts().instances;
    assert_eq!(instances, 1, "none waits that could be given a permit");
    assert_eq!(told(&failover.call(request("POST")).await), "200 by b");
    a.set_readiness(Readiness::Now);
    ready(&mut failover).await.unwrap();
    assert_eq!(told(&failover.call(request("POST")).await), "200 by a");
}

#[tokio::test(start_paused = true)]
async fn whichever_becomes_ready_wakes_the_caller() {
    for first in [0, 1] {
        let (mut failover, a, b) = well();
        let handles = [&a, &b];
        for handle in handles {
            handle.set_readiness(Readiness::Never);
        }
        assert!(!is_ready(&mut failover).await);
        let waiting = tokio::spawn(async move {
            ready(&mut failover).await.unwrap();
            failover
        });
        sleep(SECOND).await;
        assert!(!waiting.is_finished());
        handles[first].set_readiness(Readiness::Now);
        let mut failover = waiting.await.unwrap();
        let by = ["200 by a", "200 by b"][first];
        assert_eq!(told(&failover.call(request("POST")).await), by);
        drop(failover);
        assert_eq!((a.counts().instances, b.counts().instances), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_by_hand_wakes_who_waits_for_another_region() {
    let (mut failover, a, _b) = well();
    let handle = failover.handle();
    assert!(handle.pin("a"));
    a.set_readiness(Readiness::Never);
    let waiting = tokio::spawn(async move {
        ready(&mut failover).await.unwrap();
        failover.call(request("POST")).await
    });
    sleep(SECOND).await;
    assert!(!waiting.is_finished());
    handle.release();
    assert_eq!(told(&waiting.await.unwrap()), "200 by b");
}

#[tokio::test(start_paused = true)]
async fn a_region_that_is_down_is_probed_though_the_other_is_not_ready() {
    let (failover, a, b) = pair(|_, _| open(), |_, _| says(200));
    assert_eq!(told(&call(&failover, request("POST")).await), "200 by b");
    assert_eq!(active(&failover), Some(1));
    b.set_readiness(Readiness::Never);
    let began = Instant::now();
    let mut waiting = failover.clone();
    ready(&mut waiting).await.unwrap();
    assert_eq!(began.elapsed(), SECOND);
    assert_eq!((a.counts().ready, b.counts().ready), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_was_made_ready_is_given_up_if_another_region_is_called() {
    let (mut failover, a, b) = well();
    ready(&mut failover).await.unwrap();
    assert_eq!(a.counts().ready, 1);
    assert!(failover.handle().pin("b"));
    let answer = failover.call(request("POST")).await;
    assert_eq!(told(&answer), "200 by b");
    assert_eq!((a.counts().ready, b.counts().ready), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_fails_to_be_ready_is_a_region_that_is_down() {
    let (failover, a, b) = well();
    a.set_readiness(Readiness::Fails("spent"));
    let answer = call(&failover, request("POST")).await;
    assert_eq!(told(&answer), "200 by b");
    let down = failover.handle().snapshot().regions[0].down;
    assert_eq!(down, Some(DownCause::NotReady));
    b.set_readiness(Readiness::Fails("spent too"));
    let error = ready(&mut failover.clone()).await.unwrap_err();
    assert_eq!(error.to_string(), "spent", "both were asked, B first");
    a.set_readiness(Readiness::Now);
    let answer = call(&failover, request("POST")).await;
    assert_eq!(told(&answer), "200 by a", "no region is up: all are tried");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_goes_on_does_not_wait_long_for_the_next_region() {
    let ((a, _a), (b, seen_b), (c, _c)) = (
        upstream(|_, _| says(503)),
        upstream(|_, _| says(200)),
        upstream(|_, _| says(200)),
    );
    seen_b.set_readiness(Readiness::Never);
    let regions = [("a", a), ("b", b), ("c", c)];
    let regions = regions.map(|(name, service)| Region::new(name, service));
    let failover = Failover::http(regions).unwrap();
    let began = Instant::now();
    assert_eq!(told(&call(&failover, request("GET")).await), "200 by c");
    assert_eq!(began.elapsed(), SECOND);

    // With nowhere else to go, the caller gets what there is.
    let (failover, _a, b) = pair(|_, _| says(503), |_, _| says(200));
    b.set_readiness(Readiness::Never);
    let failover = failover.ready_within(Duration::from_millis(100));
    let began = Instant::now();
    assert_eq!(told(&call(&failover, request("GET")).await), "503 by a");
    assert_eq!(began.elapsed(), Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_a_region_goes_to_another_when_there_is_one() {
    let (failover, a, _b) = pair(
        |_, _| says(200),
        |_, call| if call == 0 { open() } else { says(200) },
    );
    let failover = failover.probe_every(10 * SECOND).deadline(60 * SECOND);
    failover.handle().pin("b");
    call(&failover, request("GET")).await.unwrap_err();
    failover.handle().release();
    a.set_readiness(Readiness::Never);
    for (method, waited) in [("GET", 10), ("POST", 20)] {
        let began = Instant::now();
        let answer = failover.clone().call(request(method)).await;
        assert_eq!(told(&answer), "200 by b", "{method}");
        assert_eq!(began.elapsed(), waited * SECOND, "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_clone_shares_the_state_and_no_readiness() {
    let (mut failover, a, _b) = pair(|_, _| Reply::hang(), |_, _| says(200));
    ready(&mut failover).await.unwrap();
    let clone = failover.clone();
    assert_eq!(a.counts().ready, 1);
    assert!(clone.handle().pin("b"));
    drop(failover);
    assert_eq!(a.counts().ready, 0);
    let answer = clone.oneshot(request("GET")).await;
    assert_eq!(told(&answer), "200 by b");
}
