//! The circuit under calls that come late, hang or wait.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use http_body_util::BodyExt;
use tokio::{
    task::yield_now,
    time::{Instant, sleep},
};
use tower::Layer;
use tower_weir::{
    Weir,
    circuit_breaker::{
        BreakerConfig, CircuitBreakerLayer, CountRefusals, FailureRun, OpenFor, Probes, State,
        WhenOpen,
    },
    error::{CircuitOpen, QueueTimeout},
};

use crate::support::{
    Does, End, Step, Upstream, Wakes, begin, exchange, get, ms, poll_as, secs, stack, within,
};

const OK: (StatusCode, usize) = (StatusCode::OK, 10);

/// Opens on so many failures in a row, for exactly a second each time.
fn run_of(failures: u32) -> BreakerConfig {
    BreakerConfig::default()
        .failure_run(FailureRun::new(failures, secs(0)))
        .open_for(OpenFor::new(secs(1), secs(1)).unwrap().jitter(None))
        .hint_cap(secs(0))
}

fn state(weir: &Weir) -> State {
    stack(weir).circuit.unwrap().state
}

/// Calls that wait for an open circuit, but are not repeated.
fn patient(config: BreakerConfig) -> Weir {
    Weir::http()
        .retry_enabled(false)
        .when_open(WhenOpen::Wait)
        .unwrap()
        .queue_timeout(secs(600))
        .attempt_timeout(None)
        .breaker(|_| config)
}

#[tokio::test(start_paused = true)]
async fn stragglers_from_before_the_trip_change_nothing() {
    let layer = CircuitBreakerLayer::http().config(run_of(2));
    let bad = |after| Step::status(500).after(after).body(0, End::Clean);
    let good = |after| Step::status(200).after(after).body(0, End::Clean);
    let upstream = Upstream::good().steps([
        // Open from 20 ms on, half-open from 1,020 ms on.
        bad(ms(10)),
        bad(ms(20)),
        good(ms(500)),
        bad(ms(600)),
        good(ms(1100)),
        bad(ms(1200)),
        bad(ms(1400)),
        // The probes.
        good(ms(200)),
        good(ms(100)),
    ]);
    let mut service = layer.layer(upstream.clone());
    let now = || layer.snapshot()[0].1.state;
    let calls: Vec<_> = (0..7)
        .map(|_| tokio::spawn(exchange(&mut service, get())))
        .collect();
    sleep(ms(700)).await;
    // A good and a bad one came home while it was open.
    assert_eq!(now(), State::Open);
    sleep(ms(320)).await;
    let probe = tokio::spawn(exchange(&mut service, get()));
    sleep(ms(185)).await;
    // As many while the probe is under way.
    assert_eq!(now(), State::HalfOpen);
    let refused = exchange(&mut service, get()).await.unwrap_err();
    assert!(refused.is::<CircuitOpen>());
    probe.await.unwrap().unwrap();
    assert_eq!(now(), State::HalfOpen, "one more is needed");
    exchange(&mut service, get()).await.unwrap();
    assert_eq!(now(), State::Closed);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    // The last came home when it was closed again.
    let after = layer.snapshot()[0].1;
    assert_eq!((after.state, after.failure_run), (State::Closed, 0));
    assert_eq!(after.counts.calls, 0);
}

#[tokio::test(start_paused = true)]
async fn opening_refuses_all_who_wait_at_once() {
    let weir = Weir::http()
        .retry_enabled(false)
        .limiter(|law| law.initial = 1)
        .breaker(|_| run_of(1));
    let upstream = Upstream::good().steps([Step::status(500).after(ms(50))]);
    let mut service = weir.layer(upstream.clone());
    let start = Instant::now();
    let first = tokio::spawn(exchange(&mut service, get()));
    let waiting: Vec<_> = (0..20)
        .map(|_| tokio::spawn(exchange(&mut service, get())))
        .collect();
    first.await.unwrap().unwrap();
    for call in waiting {
        let error = call.await.unwrap().unwrap_err();
        let open = error.downcast_ref::<CircuitOpen>().expect("another error");
        assert_eq!(open.retry_after(), Some(secs(1)));
    }
    // The refused ones came back before the body of the first was read.
    assert!(start.elapsed() <= ms(52), "{:?}", start.elapsed());
    assert_eq!((upstream.calls(), stack(&weir).waiting), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn probe_goes_ahead_of_full_slots() {
    // The refusal opens the circuit and takes the limit to 1; a hung call has
    // that slot, and the refused one's cools.
    let config = run_of(1).count_refusals(CountRefusals::Always);
    let weir = patient(config).limiter(|law| law.initial = 2);
    let steps = [Step::does(Does::Hang), Step::status(503)];
    let upstream = Upstream::good().steps(steps);
    let mut service = weir.layer(upstream.clone());
    let start = Instant::now();
    let hung = tokio::spawn(exchange(&mut service, get()));
    yield_now().await;
    exchange(&mut service, get()).await.unwrap();
    assert_eq!(state(&weir), State::Open);
    assert_eq!(stack(&weir).limiter.unwrap().limit, 1);
    for _ in 0..2 {
        let probe = within(secs(2), exchange(&mut service, get())).await;
        assert_eq!(probe.expect("it hangs").unwrap(), OK);
    }
    assert_eq!(upstream.called_at(start), [0, 0, 1005, 1012].map(ms));
    assert_eq!(state(&weir), State::Closed);
    hung.abort();
}

#[tokio::test(start_paused = true)]
async fn probe_goes_ahead_of_a_pause() {
    let config = run_of(2).count_refusals(CountRefusals::Always);
    for (timeout, served) in [(secs(600), true), (secs(5), true), (ms(500), false)] {
        let weir = patient(config.clone())
            .queue_timeout(timeout)
            .limiter(|law| law.initial = 1);
        let refused = Step {
            retry_after: Some("30"),
            ..Step::status(503).body(0, End::Clean)
        };
        let upstream = Upstream::good().steps([refused; 2]);
        let mut service = weir.layer(upstream.clone());
        exchange(&mut service, get()).await.unwrap();
        exchange(&mut service, get()).await.unwrap();
        assert_eq!(state(&weir), State::Open);
        let start = Instant::now();
        let call = exchange(&mut service, get()).await;
        if served {
            assert_eq!(call.unwrap(), OK, "{timeout:?}");
            assert_eq!(start.elapsed(), ms(1007));
        } else {
            let error = call.unwrap_err();
            let late = error.downcast_ref::<QueueTimeout>().expect("another error");
            assert_eq!(late.waited(), ms(500));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_waiter_for_each_probe_is_woken_and_all_when_it_closes() {
    let config = run_of(1).probes(Probes::all(4).in_flight(2));
    let weir = patient(config);
    let upstream = Upstream::good().steps([Step::status(500).body(0, End::Clean)]);
    let mut service = weir.layer(upstream.clone());
    exchange(&mut service, get()).await.unwrap();
    let mut calls: Vec<_> = (0..8)
        .map(|_| (Arc::new(Wakes::default()), begin(&mut service)))
        .collect();
    for (task, call) in &mut calls {
        assert!(poll_as(task, call).is_pending());
    }
    let woken = |calls: &Vec<(Arc<Wakes>, _)>| -> Vec<_> {
        calls.iter().map(|(task, _)| task.count()).collect()
    };
    sleep(secs(1)).await;
    // The head's timer; looking, it becomes a probe and makes the next one too.
    assert_eq!(woken(&calls), [1, 0, 0, 0, 0, 0, 0, 0]);
    let (task, call) = &mut calls[0];
    assert!(poll_as(task, call).is_pending());
    assert_eq!(woken(&calls)[1], 1);
    let (task, call) = &mut calls[1];
    assert!(poll_as(task, call).is_pending());
    assert_eq!((upstream.calls(), state(&weir)), (3, State::HalfOpen));
    // All the others as tasks of their own.
    let rest: Vec<_> = calls
        .into_iter()
        .map(|(_, call)| tokio::spawn(call))
        .collect();
    let start = Instant::now();
    for call in rest {
        let answer = within(secs(1), call).await.expect("it hangs");
        drop(answer.unwrap().unwrap());
    }
    assert_eq!((upstream.peak(), state(&weir)), (4, State::Closed));
    // Two pairs of probes, then the last four.
    assert_eq!(start.elapsed(), ms(15));
}

#[tokio::test(start_paused = true)]
async fn dead_probe_is_replaced_when_its_lease_is_over() {
    let weir = patient(run_of(1).probe_lease(secs(3)));
    let steps = [
        Step::status(500).body(0, End::Clean),
        // The probe answers a second after its lease, and well.
        Step::status(200).after(secs(4)),
        Step::status(200).after(ms(500)),
        Step::status(200).after(secs(2)),
    ];
    let upstream = Upstream::good().steps(steps);
    let mut service = weir.layer(upstream.clone());
    let start = Instant::now();
    exchange(&mut service, get()).await.unwrap();
    let calls: Vec<_> = (0..3)
        .map(|_| tokio::spawn(exchange(&mut service, get())))
        .collect();
    sleep(ms(5500)).await;
    // The first probe has been answered, and did not count.
    assert_eq!(upstream.live(), 1);
    assert_eq!(state(&weir), State::HalfOpen);
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), OK);
    }
    // Open at 5 ms; probes at 1.005 s, a lease later, and when that was good.
    assert_eq!(upstream.called_at(start), [0, 1005, 4005, 4507].map(ms));
    assert_eq!(state(&weir), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn probe_with_a_good_head_has_succeeded_a_second_later() {
    // Others wait; one of them came before the probe's head, when there was
    // nothing yet to set a timer to.
    let weir = patient(run_of(1)).max_hold(secs(100));
    let stream = Step::status(200).body(1, End::Never);
    let upstream = Upstream::good().steps([Step::status(500).body(0, End::Clean), stream, stream]);
    let mut service = weir.layer(upstream.clone());
    let start = Instant::now();
    exchange(&mut service, get()).await.unwrap();
    let calls: Vec<_> = (0..3)
        .map(|_| tokio::spawn(tower::Service::call(&mut service, get())))
        .collect();
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.unwrap().unwrap());
    }
    let third = Duration::from_millis(1005 + 2 * 1005);
    assert_eq!(
        upstream.called_at(start),
        [ms(0), ms(1005), ms(2010), third],
        "each a second after the head before"
    );
    assert_eq!(state(&weir), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn caller_who_leaves_a_hung_upstream_late_counts_as_a_failure() {
    let layer = CircuitBreakerLayer::http()
        .attempt_timeout(None)
        .config(run_of(1));
    let mut service = layer.layer(Upstream::new(Step::does(Does::Hang)));
    for (after, expected) in [(ms(9_999), State::Closed), (secs(10), State::Open)] {
        assert!(within(after, exchange(&mut service, get())).await.is_none());
        assert_eq!(layer.snapshot()[0].1.state, expected);
    }
    // One who leaves before anything was sent does not.
    let layer = CircuitBreakerLayer::http().config(run_of(1));
    let mut service = layer.layer(Upstream::good());
    let never_polled = begin(&mut service);
    sleep(secs(60)).await;
    drop(never_polled);
    assert_eq!(layer.snapshot()[0].1.state, State::Closed);
}

#[tokio::test(start_paused = true)]
async fn trailers_have_the_last_word_if_they_are_read() {
    for (code, read, expected) in [
        ("0", true, State::Closed),
        ("14", true, State::Open),
        // Whoever drops the body has nothing to say against the upstream.
        ("14", false, State::Closed),
    ] {
        let config = run_of(1).count_refusals(CountRefusals::Always);
        let layer = CircuitBreakerLayer::grpc().config(config);
        let trailers = Step {
            code: Some(code),
            ..Step::status(200)
        };
        let mut service = layer.layer(Upstream::new(trailers));
        let mut body = tower::Service::call(&mut service, get())
            .await
            .unwrap()
            .into_body();
        while let Some(frame) = body.frame().await {
            if !read {
                break;
            }
            frame.unwrap();
        }
        drop(body);
        let circuit = layer.snapshot()[0].1;
        assert_eq!(circuit.state, expected, "{code}");
        assert_eq!(circuit.counts.calls, 1);
    }
}
