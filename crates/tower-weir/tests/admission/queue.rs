//! Who waits, for how long, and who goes next.

use std::{
    sync::{Arc, Mutex},
    task::Poll,
    time::Duration,
};

use http::StatusCode;
use http_body_util::BodyExt;
use tokio::{
    task::yield_now,
    time::{Instant, sleep},
};
use tower::{Layer, Service};
use tower_weir::{
    BoxError, Deadline, Weir,
    admit::Hold,
    aimd::AimdConcurrencyLayer,
    error::{DeadlineExceeded, QueueFull, QueueTimeout},
};

use crate::support::{
    Chunks, Does, End, Step, ToldLaw, Upstream, Wakes, begin, exchange, get, limiter, ms, poll_as,
    poll_once, secs, within,
};

const OK: (StatusCode, usize) = (StatusCode::OK, 10);

/// A good answer after 100 ms, with no body to hold its slot.
fn in_100_ms() -> Step {
    Step::status(200).after(ms(100)).body(0, End::Clean)
}

#[tokio::test(start_paused = true)]
async fn waiters_go_in_the_order_of_their_calls_whoever_leaves() {
    let layer = AimdConcurrencyLayer::http().fixed(1);
    let mut service = layer.layer(Upstream::good());
    let served = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for n in 0..12 {
        let call = exchange(&mut service, get());
        let served = served.clone();
        tasks.push(tokio::spawn(async move {
            assert_eq!(call.await.unwrap(), OK);
            served.lock().unwrap().push(n);
        }));
    }
    yield_now().await;
    assert_eq!(limiter(&layer).waiting, 11);
    // The head, its follower, two in the middle, the last.
    for n in [1, 2, 6, 7, 11] {
        tasks[n].abort();
    }
    for task in tasks {
        let _ = task.await;
    }
    assert_eq!(*served.lock().unwrap(), [0, 3, 4, 5, 8, 9, 10]);
    assert_eq!(limiter(&layer).in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn granted_waiter_that_leaves_passes_its_slot_on() {
    let layer = AimdConcurrencyLayer::http().fixed(1);
    let upstream = Upstream::good();
    let mut service = layer.layer(upstream.clone());
    let first = exchange(&mut service, get());
    let (mut second, mut third) = (begin(&mut service), begin(&mut service));
    assert!(poll_once(&mut second).await.is_none());
    assert!(poll_once(&mut third).await.is_none());
    first.await.unwrap();
    // The second has been granted the slot, and has not looked.
    let now = limiter(&layer);
    assert_eq!((now.in_flight, now.waiting), (1, 1));
    drop(second);
    let now = limiter(&layer);
    assert_eq!((now.in_flight, now.waiting), (1, 0));
    assert!(within(ms(6), third).await.expect("it hangs").is_ok());
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn raised_limit_wakes_exactly_those_it_admits() {
    let law = ToldLaw::new(1.0).next(4.0, ms(0), None);
    let layer = law.layer();
    let upstream = Upstream::new(in_100_ms());
    let mut service = layer.layer(upstream.clone());
    let first = exchange(&mut service, get());
    let mut waiters: Vec<_> = (0..10)
        .map(|_| (Arc::new(Wakes::default()), begin(&mut service)))
        .collect();
    for (task, call) in &mut waiters {
        assert!(poll_as(task, call).is_pending());
    }
    first.await.unwrap();
    let woken: Vec<_> = waiters.iter().map(|(task, _)| task.count()).collect();
    assert_eq!(woken, [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]);
    let now = limiter(&layer);
    assert_eq!((now.limit, now.in_flight, now.waiting), (4, 4, 6));
}

#[tokio::test(start_paused = true)]
async fn lowered_limit_takes_slots_back_as_they_return() {
    let law = ToldLaw::new(4.0).next(2.0, ms(0), None);
    let layer = law.layer();
    let steps = (1..=4).map(|n| in_100_ms().after(ms(100 * n)));
    let upstream = Upstream::new(in_100_ms()).steps(steps);
    let mut service = layer.layer(upstream.clone());
    let start = Instant::now();
    let calls: Vec<_> = (0..7)
        .map(|_| tokio::spawn(exchange(&mut service, get())))
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    // At 100 and 200 ms a slot returns and is kept; at 300 ms one is free, and
    // both are at 400 ms.
    let called: Vec<_> = upstream.called_at(start);
    let expected = [0, 0, 0, 0, 300, 400, 400].map(ms);
    assert_eq!(called, expected);
}

#[tokio::test(start_paused = true)]
async fn limit_of_4_9_admits_4() {
    let layer = ToldLaw::new(4.9).layer();
    let upstream = Upstream::new(in_100_ms());
    let mut service = layer.layer(upstream.clone());
    let calls: Vec<_> = (0..12)
        .map(|_| tokio::spawn(exchange(&mut service, get())))
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(upstream.peak(), 4);
}

#[tokio::test(start_paused = true)]
async fn law_that_reaches_0_does_not_stop_for_good() {
    let layer = ToldLaw::new(2.0).next(0.4, ms(0), None).layer();
    let mut service = layer.layer(Upstream::new(in_100_ms()));
    exchange(&mut service, get()).await.unwrap();
    let start = Instant::now();
    let next = exchange(&mut service, get()).await;
    assert_eq!(next.unwrap().0, StatusCode::OK);
    assert_eq!(start.elapsed(), ms(100));
    assert_eq!(limiter(&layer).limit, 1);
}

#[tokio::test(start_paused = true)]
async fn one_too_many_in_the_queue_is_refused_at_once() {
    let layer = AimdConcurrencyLayer::http().fixed(1).max_waiting(2);
    let mut service = layer.layer(Upstream::good());
    let waiting: Vec<_> = (0..3).map(|_| service.call(get())).collect();
    let error = exchange(&mut service, get()).await.unwrap_err();
    let full = error.downcast_ref::<QueueFull>().expect("another error");
    assert_eq!(
        (full.host(), full.limit(), full.waiting()),
        ("a", Some(1), 2)
    );
    let other = exchange(&mut service, crate::support::get_from("http://b/")).await;
    assert_eq!(other.unwrap(), OK, "another host has its own slots");
    drop(waiting);
    assert_eq!(exchange(&mut service, get()).await.unwrap(), OK);
}

#[tokio::test(start_paused = true)]
async fn queue_timeout_ends_the_wait_to_the_millisecond() {
    let layer = AimdConcurrencyLayer::http().fixed(1).queue_timeout(secs(3));
    let mut service = layer.layer(Upstream::new(Step::does(Does::Hang)));
    let start = Instant::now();
    let mut hung = begin(&mut service);
    assert!(poll_once(&mut hung).await.is_none());
    let first = tokio::spawn(exchange(&mut service, get()));
    sleep(secs(1)).await;
    let second = tokio::spawn(exchange(&mut service, get()));
    for (call, at, waiting) in [(first, 3, 1), (second, 4, 0)] {
        let error = call.await.unwrap().unwrap_err();
        assert_eq!(start.elapsed(), secs(at));
        let timeout = error.downcast_ref::<QueueTimeout>().expect("another error");
        assert_eq!(timeout.waited(), secs(3));
        assert_eq!((timeout.limit(), timeout.waiting()), (Some(1), waiting));
    }
}

#[tokio::test(start_paused = true)]
async fn deadline_ends_the_wait_to_the_millisecond() {
    let layer = AimdConcurrencyLayer::http().fixed(1).queue_timeout(secs(3));
    let mut service = layer.layer(Upstream::new(Step::does(Does::Hang)));
    let mut hung = begin(&mut service);
    assert!(poll_once(&mut hung).await.is_none());
    let start = Instant::now();
    for (left, at) in [(ms(1234), ms(1234)), (secs(3), ms(4234))] {
        let mut request = get();
        request.extensions_mut().insert(Deadline::after(left));
        let error = exchange(&mut service, request).await.unwrap_err();
        assert!(error.is::<DeadlineExceeded>(), "{error:?}");
        assert_eq!(start.elapsed(), at);
    }
    let mut request = get();
    request.extensions_mut().insert(Deadline::after(secs(60)));
    let error = exchange(&mut service, request).await.unwrap_err();
    assert!(error.is::<QueueTimeout>(), "{error:?}");
    assert_eq!(start.elapsed(), ms(7234));
}

#[tokio::test(start_paused = true)]
async fn request_whose_deadline_has_passed_is_not_sent() {
    let layer = AimdConcurrencyLayer::http();
    let upstream = Upstream::good();
    let mut service = layer.layer(upstream.clone());
    let mut request = get();
    request.extensions_mut().insert(Deadline::after(ms(0)));
    let error = exchange(&mut service, request).await.unwrap_err();
    assert!(error.is::<DeadlineExceeded>(), "{error:?}");
    assert_eq!(upstream.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn pause_longer_than_the_queue_timeout_refuses_at_once() {
    let pause = |pause| {
        let law = ToldLaw::new(1.0).next(1.0, ms(0), Some(pause));
        let upstream = Upstream::new(in_100_ms());
        law.layer().queue_timeout(secs(3)).layer(upstream)
    };
    // It ends in time, if only just.
    let mut service = pause(secs(3));
    exchange(&mut service, get()).await.unwrap();
    let start = Instant::now();
    exchange(&mut service, get()).await.unwrap();
    assert_eq!(start.elapsed(), ms(3100));

    let mut service = pause(ms(3001));
    exchange(&mut service, get()).await.unwrap();
    let start = Instant::now();
    let error = exchange(&mut service, get()).await.unwrap_err();
    assert_eq!(start.elapsed(), ms(0));
    let timeout = error.downcast_ref::<QueueTimeout>().expect("another error");
    assert_eq!(timeout.waited(), ms(0));
}

#[tokio::test(start_paused = true)]
async fn pause_longer_than_what_is_left_refuses_those_who_wait() {
    let law = ToldLaw::new(1.0).next(1.0, ms(0), Some(ms(2950)));
    let upstream = Upstream::new(in_100_ms());
    let mut service = law.layer().queue_timeout(secs(3)).layer(upstream);
    let start = Instant::now();
    let first = tokio::spawn(exchange(&mut service, get()));
    let waiting = [0, 0].map(|_| tokio::spawn(exchange(&mut service, get())));
    sleep(ms(50)).await;
    let late = tokio::spawn(exchange(&mut service, get()));
    first.await.unwrap().unwrap();
    for call in waiting {
        let error = call.await.unwrap().unwrap_err();
        let timeout = error.downcast_ref::<QueueTimeout>().expect("another error");
        assert_eq!(timeout.waited(), ms(100));
    }
    assert_eq!(start.elapsed(), ms(100));
    late.await.unwrap().unwrap();
    assert_eq!(start.elapsed(), ms(3150));
}

#[tokio::test(start_paused = true)]
async fn cooled_slot_goes_to_the_head_at_its_time() {
    let law = ToldLaw::new(2.0)
        .next(2.0, ms(70), None)
        .next(2.0, ms(30), None);
    let layer = law.layer();
    let upstream = Upstream::new(in_100_ms());
    let mut service = layer.layer(upstream.clone());
    let start = Instant::now();
    let calls: Vec<_> = (0..4)
        .map(|_| tokio::spawn(exchange(&mut service, get())))
        .collect();
    sleep(ms(101)).await;
    let now = limiter(&layer);
    assert_eq!((now.in_flight, now.cooling, now.waiting), (0, 2, 2));
    for call in calls {
        call.await.unwrap().unwrap();
    }
    // Both are done at 100 ms; their slots cool until 170 and 130 ms.
    assert_eq!(upstream.called_at(start), [0, 0, 130, 170].map(ms));
}

#[tokio::test(start_paused = true)]
async fn body_that_nobody_reads_gives_its_slot_back_at_max_hold() {
    for opened_first in [true, false] {
        let layer = AimdConcurrencyLayer::http()
            .fixed(1)
            .max_hold(secs(7))
            .queue_timeout(secs(60));
        let upstream = Upstream::new(Step::status(200).body(1, End::Never));
        let mut service = layer.layer(upstream.clone());
        let start = Instant::now();
        let first = service.call(get());
        let second = if opened_first {
            let first = first.await.unwrap();
            (first, service.call(get()).await.unwrap())
        } else {
            // The second waits before it is known that the first has a body.
            let second = service.call(get());
            let (first, second) = tokio::join!(first, second);
            (first.unwrap(), second.unwrap())
        };
        // Headers at 5 ms, its slot at 7.005 s, and its own headers 5 ms later.
        assert_eq!(start.elapsed(), ms(7010), "{opened_first}");
        assert_eq!(limiter(&layer).in_flight, 1);
        drop(second);
        assert_eq!(limiter(&layer).in_flight, 0);
    }
}

/// With one slot, and the response that has it unread.
async fn stalled(layer: AimdConcurrencyLayer) -> Result<Duration, BoxError> {
    let upstream = Upstream::new(Step::status(200).body(1, End::Never));
    let mut service = layer.fixed(1).layer(upstream);
    let _unread = service.call(get()).await?;
    let start = Instant::now();
    let _second = service.call(get()).await?;
    // Its headers took 5 ms.
    Ok(start.elapsed() - ms(5))
}

#[tokio::test(start_paused = true)]
async fn who_has_all_the_bodies_is_not_made_to_wait_for_them_in_vain() {
    let layer = AimdConcurrencyLayer::http;
    assert_eq!(stalled(layer()).await.unwrap(), secs(5));
    // The body's own time is up before that of the call that waits.
    let soon = layer().max_hold(secs(9));
    assert_eq!(stalled(soon).await.unwrap(), secs(9));
    let patient = layer().queue_timeout(secs(60));
    assert_eq!(stalled(patient).await.unwrap(), secs(30));
    // It does not wait long enough for that.
    let hasty = layer().queue_timeout(secs(5));
    assert!(stalled(hasty).await.unwrap_err().is::<QueueTimeout>());
}

#[tokio::test(start_paused = true)]
async fn one_refusal_and_one_open_response_fail_no_call_after_them() {
    let open = Step::status(200).body(1, End::Never);
    let upstream = Upstream::good().steps([Step::status(503), open]);
    let mut service = Weir::http().seed(1).layer(upstream);
    let _open = service.call(get()).await.unwrap();
    for call in 0..20 {
        let start = Instant::now();
        exchange(&mut service, get()).await.unwrap();
        // The first one's slot was the open one's. Its own headers and body take 7 ms.
        let waited = if call == 0 { secs(5) } else { ms(0) };
        assert_eq!(start.elapsed(), waited + ms(7), "{call}");
        sleep(ms(600)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_without_an_answer_may_still_give_its_slot_to_the_first_in_line() {
    let layer = AimdConcurrencyLayer::http().fixed(2);
    let body = Step::status(200).body(1, End::Never);
    let steps = [body, body.after(secs(7)), body];
    let upstream = Upstream::good().steps(steps);
    let mut service = layer.layer(upstream.clone());
    let start = Instant::now();
    let calls: Vec<_> = (0..3).map(|_| tokio::spawn(service.call(get()))).collect();
    let mut unread = Vec::new();
    for call in calls {
        unread.push(call.await.unwrap().unwrap());
    }
    // When that has one, all slots are held by bodies.
    assert_eq!(upstream.called_at(start), [ms(0), ms(0), secs(7)]);
    assert_eq!(unread.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn callers_of_long_streams_all_get_theirs() {
    let layer = AimdConcurrencyLayer::http();
    let upstream = Upstream::new(Step::status(200).body(20_000, End::Clean));
    let mut service = layer.layer(upstream.clone());
    let calls: Vec<_> = (0..20)
        .map(|_| tokio::spawn(exchange(&mut service, get())))
        .collect();
    for call in calls {
        let (status, bytes) = call.await.unwrap().unwrap();
        assert_eq!((status, bytes), (StatusCode::OK, 100_000));
    }
    assert_eq!(limiter(&layer).in_flight, 0);
}

/// Who waits long is in a long line, which is not the fault of a body that has just
/// begun.
#[tokio::test(start_paused = true)]
async fn bodies_that_are_read_keep_their_slots_however_long_the_line_is() {
    let layer = AimdConcurrencyLayer::http().fixed(2);
    let upstream = Upstream::new(Step::status(200).body(800, End::Clean));
    let mut service = layer.layer(upstream.clone());
    let calls: Vec<_> = (0..40)
        .map(|_| tokio::spawn(exchange(&mut service, get())))
        .collect();
    let mut served = 0;
    for call in calls {
        served += usize::from(call.await.unwrap().is_ok());
    }
    assert_eq!(upstream.peak(), 2);
    // Two at a time, in some 805 ms each.
    assert!((20..=26).contains(&served), "{served}");
}

#[tokio::test(start_paused = true)]
async fn body_dropped_after_max_hold_does_not_settle_twice() {
    let layer = AimdConcurrencyLayer::http().fixed(1).max_hold(secs(1));
    let mut service = layer.layer(Upstream::new(Step::status(200).body(1, End::Never)));
    let first = service.call(get()).await.unwrap();
    let second = service.call(get()).await.unwrap();
    assert_eq!(limiter(&layer).in_flight, 1);
    drop(first);
    assert_eq!(limiter(&layer).in_flight, 1);
    drop(second);
    assert_eq!(limiter(&layer).in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn slot_is_kept_until_the_body_ends_or_the_headers_come_as_told() {
    for (layered, asked, at) in [
        (Hold::BodyEnd, None, 25),
        (Hold::BodyEnd, Some(Hold::Headers), 5),
        (Hold::Headers, None, 5),
        (Hold::Headers, Some(Hold::BodyEnd), 25),
    ] {
        let layer = AimdConcurrencyLayer::http().fixed(1).hold(layered);
        let upstream = Upstream::good().steps([Step::status(200).body(20, End::Clean)]);
        let mut service = layer.layer(upstream.clone());
        let start = Instant::now();
        let mut request = get();
        request.extensions_mut().extend(
            asked
                .map(|hold| {
                    let mut extensions = http::Extensions::new();
                    extensions.insert(hold);
                    extensions
                })
                .unwrap_or_default(),
        );
        let first = tokio::spawn(exchange(&mut service, request));
        exchange(&mut service, get()).await.unwrap();
        first.await.unwrap().unwrap();
        assert_eq!(upstream.called_at(start), [0, at].map(ms), "{layered:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn slot_is_free_only_when_nothing_is_left_of_the_call_within() {
    // A timeout, an error, an answer: what the inner service holds for the call
    // goes first.
    struct Held(AimdConcurrencyLayer, Arc<Mutex<Vec<usize>>>, bool);
    impl Future for Held {
        type Output = Result<http::Response<Chunks>, tower_weir::BoxError>;
        fn poll(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> Poll<Self::Output> {
            if self.2 {
                Poll::Ready(Err("broken".into()))
            } else {
                Poll::Pending
            }
        }
    }
    impl Drop for Held {
        fn drop(&mut self) {
            self.1.lock().unwrap().push(limiter(&self.0).in_flight);
        }
    }
    for fails in [false, true] {
        let layer = AimdConcurrencyLayer::http()
            .fixed(1)
            .attempt_timeout(ms(10));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (inner, log) = (layer.clone(), seen.clone());
        let mut service = layer.layer(tower::service_fn(move |_: http::Request<Chunks>| {
            Held(inner.clone(), log.clone(), fails)
        }));
        assert!(service.call(get()).await.is_err());
        assert_eq!(*seen.lock().unwrap(), [1], "{fails}");
    }
}

#[tokio::test(start_paused = true)]
async fn call_that_is_polled_late_has_all_of_its_time() {
    let layer = AimdConcurrencyLayer::http().attempt_timeout(secs(1));
    let mut service = layer.layer(Upstream::new(in_100_ms()));
    let calls: Vec<_> = (0..2).map(|_| service.call(get())).collect();
    sleep(secs(2)).await;
    for call in calls {
        let answer = call.await.expect("its time began before it was sent");
        answer.into_body().collect().await.unwrap();
    }
    assert_eq!(limiter(&layer).srtt, Some(ms(100)));
}

#[tokio::test(start_paused = true)]
async fn head_that_is_never_polled_does_not_keep_the_others_from_their_timers() {
    // A refused slot cools; the head sits in a set of futures that nobody polls.
    let law = ToldLaw::new(2.0)
        .next(2.0, ms(50), None)
        .next(2.0, ms(50), None);
    let layer = law.layer().queue_timeout(secs(100));
    let upstream = Upstream::new(in_100_ms());
    let mut service = layer.layer(upstream.clone());
    let start = Instant::now();
    let two = [0, 0].map(|_| tokio::spawn(exchange(&mut service, get())));
    yield_now().await;
    let _head = service.call(get());
    exchange(&mut service, get()).await.unwrap();
    assert_eq!(start.elapsed(), ms(250));
    for call in two {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn head_that_is_woken_and_not_polled_keeps_the_others_10_ms_from_their_turn() {
    let law = ToldLaw::new(2.0)
        .next(2.0, ms(50), None)
        .next(2.0, ms(50), None);
    let layer = law.layer().queue_timeout(secs(100));
    let upstream = Upstream::new(in_100_ms());
    let mut service = layer.layer(upstream.clone());
    let start = Instant::now();
    let two = [0, 0].map(|_| tokio::spawn(exchange(&mut service, get())));
    // Both are refused at 100 ms.
    sleep(ms(120)).await;
    // Its task is polled once, so that it has the queue's timer, and is busy with
    // something else when that goes off.
    let task = Arc::new(Wakes::default());
    let mut head = begin(&mut service);
    assert!(poll_as(&task, &mut head).is_pending());
    let behind = [0, 0].map(|_| tokio::spawn(exchange(&mut service, get())));
    let [next, last] = behind;
    // Both slots are free again at 150 ms: one goes to the head, whenever it looks.
    next.await.unwrap().unwrap();
    assert_eq!(start.elapsed(), ms(260));
    assert!(task.count() > 0);
    // Its time runs from when it is polled; the last one has had the other's slot.
    last.await.unwrap().unwrap();
    assert_eq!(start.elapsed(), ms(360));
    assert!(poll_once(&mut head).await.is_none());
    head.await.unwrap();
    assert_eq!(start.elapsed(), ms(460));
    for call in two {
        call.await.unwrap().unwrap();
    }
}
