//! Callers that go away, services that panic, and many tasks at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use tests::BoxError;
use tokio::task::JoinSet;
use tower::{Service, ServiceExt};
use tower_weir::{
    outcome::{Classify, HttpClassifier, Outcome, Protocol},
    retry::ReplayBody,
};
use tower_weir_testkit::probe::{DropWhen, Handle, Readiness, Reply, drop_everywhere};

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn dropped_at_any_point_a_request_leaves_nothing_behind() {
    let slow = |reply: Reply<Answer>| reply.after(Duration::from_millis(3));
    let (failover, a, b) = pair(move |_, _| slow(says(503)), move |_, _| slow(says(200)));
    a.set_readiness(Readiness::After(2));
    b.set_readiness(Readiness::After(2));
    let none_left = async |polls: usize, when: DropWhen| {
        for handle in [&a, &b] {
            let counts = handle.counts();
            let left = (counts.in_flight, counts.ready, counts.instances);
            assert_eq!(left, (0, 0, 1), "after {polls} polls, {when:?}");
        }
    };
    let make = || call(&failover, request("GET"));
    let (answer, polls) = drop_everywhere(make, none_left).await;
    assert_eq!(told(&answer), "200 by b");
    assert!(polls > 5, "{polls}");
    assert!(a.counts().dropped > 0 && b.counts().dropped > 0);
    assert_eq!(active(&failover), Some(0), "who went away blames nobody");
}

/// A classifier that panics over the first answer with a status.
#[derive(Clone)]
struct Buggy {
    status: u16,
    armed: Arc<AtomicBool>,
}

impl Buggy {
    fn over(status: u16) -> Self {
        let armed = Arc::new(AtomicBool::new(true));
        Self { status, armed }
    }
}

impl Classify<Answer> for Buggy {
    fn classify(&self, protocol: Protocol, result: Result<&Answer, &BoxError>) -> Outcome {
        let this = result.is_ok_and(|answer| answer.status() == self.status);
        let bug = this && self.armed.swap(false, Ordering::SeqCst);
        assert!(!bug, "a bug of the user's");
        HttpClassifier::new().classify(protocol, result)
    }
}

/// In a classifier, in what makes bodies, in an observer: the call panics, and no
/// other.
#[tokio::test(start_paused = true)]
async fn user_code_that_panics_takes_nothing_along() {
    async fn goes_on<S>(service: S, seen: [Handle; 2])
    where
        S: Service<Sent, Response = Answer, Error = BoxError> + Clone + Send + 'static,
        S::Future: Send,
    {
        let one = || tokio::spawn(service.clone().oneshot(request("GET")));
        assert!(one().await.unwrap_err().is_panic());
        for handle in &seen {
            assert_eq!(handle.counts().in_flight, 0);
        }
        assert_eq!(told(&one().await.unwrap()), "200 by b");
    }
    let pair = || pair(|_, _| says(503), |_, _| says(200));
    let once = || {
        let armed = AtomicBool::new(true);
        move || assert!(!armed.swap(false, Ordering::SeqCst), "a bug of the user's")
    };

    let (failover, a, b) = pair();
    goes_on(failover.classify(Buggy::over(503)), [a, b]).await;

    let (failover, a, b) = pair();
    let bug = Arc::new(once());
    let mapped = failover.map_body(move |body: ReplayBody<Full<Bytes>>| {
        bug();
        body
    });
    goes_on(mapped, [a, b]).await;

    let (failover, a, b) = pair();
    let bug = once();
    goes_on(failover.observe(move |_, _| bug()), [a, b]).await;
}

/// It is the user's code that reads the probe's answer.
#[tokio::test(start_paused = true)]
async fn a_probe_whose_classifier_panics_makes_room_for_the_next() {
    let (failover, a, _b) = pair(
        |_, call| if call == 0 { open() } else { says(299) },
        |_, _| says(200),
    );
    let failover = failover.successes(1).min_down(SECOND);
    let failover = failover.classify(Buggy::over(299));
    assert_eq!(told(&call(&failover, request("GET")).await), "200 by b");
    tokio::time::sleep(SECOND).await;
    let probe = tokio::spawn(failover.clone().oneshot(request("GET")));
    assert!(probe.await.unwrap_err().is_panic());
    tokio::time::sleep(SECOND).await;
    assert_eq!(told(&call(&failover, request("GET")).await), "299 by a");
    assert_eq!((a.counts().calls, a.counts().in_flight), (3, 0));
    assert_eq!(failover.handle().snapshot().active, Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_given_up_makes_room_for_the_next() {
    let (failover, a, _b) = pair(
        |_, call| if call == 0 { open() } else { Reply::hang() },
        |_, _| says(200),
    );
    call(&failover, request("POST")).await.unwrap();
    for probes in 1..4 {
        tokio::time::sleep(SECOND).await;
        let probe = tokio::spawn({
            let failover = failover.clone();
            async move { call(&failover, request("GET")).await }
        });
        a.until(|counts| counts.in_flight == 1).await;
        assert_eq!(a.counts().calls, 1 + probes);
        probe.abort();
        assert!(probe.await.unwrap_err().is_cancelled());
    }
}

#[tokio::test(start_paused = true)]
async fn a_region_that_hangs_is_noticed_by_callers_that_give_up_after_long() {
    let (failover, ..) = pair(|_, _| Reply::hang(), |_, _| says(200));
    for _ in 0..3 {
        assert_eq!(active(&failover), Some(0));
        let mut calls = JoinSet::new();
        let caller = failover.clone();
        calls.spawn(async move { call(&caller, request("GET")).await });
        tokio::time::sleep(11 * SECOND).await;
        calls.shutdown().await;
    }
    assert_eq!(active(&failover), Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_blames_a_region_that_had_its_time() {
    let hangs = async |deadline: Duration| {
        let (failover, ..) = pair(|_, _| Reply::hang(), |_, _| says(200));
        let failover = failover.deadline(deadline);
        for _ in 0..3 {
            call(&failover, request("POST")).await.unwrap_err();
        }
        active(&failover)
    };
    assert_eq!(hangs(SECOND - Duration::from_millis(1)).await, Some(0));
    assert_eq!(hangs(SECOND).await, Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_region_is_its_callers_and_nobody_elses() {
    let (failover, a, _b) = pair(
        |_, call| match call {
            0 => Reply::panic("polled"),
            1 => panic!("called"),
            _ => says(200),
        },
        |_, _| says(200),
    );
    for _ in 0..2 {
        let failover = failover.clone();
        let call = tokio::spawn(async move { call(&failover, request("GET")).await });
        assert!(call.await.unwrap_err().is_panic());
    }
    assert_eq!(told(&call(&failover, request("GET")).await), "200 by a");
    assert_eq!(a.counts().in_flight, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_tasks_get_one_answer_each_while_regions_come_and_go() {
    let served = Arc::new(AtomicU64::new(0));
    let flaky = |period: u64| {
        let served = served.clone();
        move |_: Inner, call: u64| match call / period % 3 {
            0 => {
                served.fetch_add(1, Ordering::Relaxed);
                says(200)
            }
            1 => refused(),
            _ => says(503),
        }
    };
    let (failover, a, b) = pair(flaky(37), flaky(53));
    let failover = failover
        .failures(tower_weir::failover::Run::new(3, Duration::ZERO))
        .probe_every(Duration::from_millis(1))
        .min_down(Duration::ZERO);
    let mut tasks = JoinSet::new();
    for task in 0..16 {
        let failover = failover.clone();
        tasks.spawn(async move {
            let mut good = 0;
            for n in 0..500 {
                let request = request(if (task + n) % 2 == 0 { "GET" } else { "POST" });
                let answer = call(&failover, request).await;
                good += u64::from(answer.is_ok_and(|answer| answer.status() == 200));
                tokio::task::yield_now().await;
            }
            good
        });
    }
    let good: u64 = tasks.join_all().await.into_iter().sum();
    // No good answer is lost, and none is given twice.
    assert_eq!(good, served.load(Ordering::Relaxed));
    let snapshot = failover.handle().snapshot();
    for (region, handle) in snapshot.regions.iter().zip([&a, &b]) {
        assert_eq!(region.counts.sent, handle.counts().calls);
        let counts = region.counts;
        assert_eq!(counts.good + counts.refused + counts.failed, counts.sent);
        assert_eq!((handle.counts().in_flight, handle.counts().ready), (0, 0));
    }
}
