//! Callers who give up: at every await point there is.

use std::{fmt, sync::Arc};

use http::{Request, Response, StatusCode};
use http_body::Body;
use tokio::time::sleep;
use tower::{Layer, Service};
use tower_weir::{
    BoxError, Weir,
    aimd::AimdConcurrencyLayer,
    circuit_breaker::{BreakerConfig, CircuitBreakerLayer, FailureRun, OpenFor, State, WhenOpen},
    retry::backoff::{Backoff, DecorrelatedJitter},
};

use crate::support::{
    Chunks, Does, End, Step, Upstream, exchange, get, limiter, ms, poll_times, put, secs, stack,
    within,
};

/// One call that is given up after so many polls, and what must hold then.
struct Case<V, C> {
    victim: V,
    /// Checks, right after the victim is gone, that nothing of it is left.
    nothing_left: C,
}

/// Drops the victim after 0, 1, 2 ... polls, until it completes; it must take
/// at least `least` polls to do so. Each time everything is made anew.
async fn cancel_everywhere<F, V, C, T>(least: usize, make: impl Fn() -> F)
where
    F: Future<Output = Case<V, C>>,
    V: Future<Output = T>,
    C: AsyncFnOnce(usize),
{
    for polls in 0..100 {
        let Case {
            victim,
            nothing_left,
        } = make().await;
        let done = poll_times(victim, polls).await;
        nothing_left(polls).await;
        if done.is_some() {
            assert!(polls >= least, "done after {polls} polls");
            return;
        }
    }
    panic!("it never completes");
}

/// The next call must go through.
async fn next_call<S, B>(mut service: S, at: impl fmt::Debug)
where
    S: Service<Request<Chunks>, Response = Response<B>, Error = BoxError>,
    B: Body<Data = bytes::Bytes, Error = BoxError>,
{
    let answer = within(secs(5), exchange(&mut service, get())).await;
    let (status, read) = answer.expect("it hangs").expect("it is refused");
    assert_eq!((status, read), (StatusCode::OK, 10), "{at:?}");
}

/// Every kind of answer, and what is left of its body.
fn answers() -> Vec<Step> {
    vec![
        Step::status(200),
        Step::status(200).body(2, End::Error),
        Step::status(200).body(2, End::Never),
        Step::status(429),
        Step::status(503),
        Step::status(500),
        Step::does(Does::Fail),
        Step::does(Does::Hang),
    ]
}

fn run_of_one(open: std::time::Duration) -> BreakerConfig {
    BreakerConfig::default()
        .failure_run(FailureRun::new(1, secs(0)))
        .open_for(OpenFor::new(open, open).unwrap().jitter(None))
}

#[tokio::test(start_paused = true)]
async fn limiter_call_cancelled_anywhere_leaves_nothing() {
    for step in answers() {
        let never = step.end == End::Never || step.does == Does::Hang;
        cancel_everywhere(if never { 2 } else { 6 }, || async {
            let layer = AimdConcurrencyLayer::http()
                .fixed(1)
                .max_hold(secs(1))
                .attempt_timeout(ms(50));
            let upstream = Upstream::good().ready_after(ms(1)).steps([step]);
            let mut service = layer.layer(upstream.clone());
            let call = exchange(&mut service, put());
            // A body that never ends is waited for so long.
            let victim = async move { within(ms(100), call).await };
            Case {
                victim,
                nothing_left: async move |polls: usize| {
                    let now = limiter(&layer);
                    assert_eq!((now.in_flight, now.waiting), (0, 0), "{step:?}, {polls}");
                    assert_eq!(upstream.live(), 0);
                    upstream.then(Step::status(200));
                    next_call(service, polls).await;
                },
            }
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn waiter_cancelled_anywhere_leaves_the_queue_to_the_others() {
    cancel_everywhere(8, || async {
        let layer = AimdConcurrencyLayer::http().fixed(1);
        let upstream = Upstream::good().ready_after(ms(1));
        let mut service = layer.layer(upstream.clone());
        let first = tokio::spawn(exchange(&mut service, put()));
        tokio::task::yield_now().await;
        let victim = exchange(&mut service, put());
        let behind = tokio::spawn(exchange(&mut service, put()));
        tokio::task::yield_now().await;
        assert_eq!(limiter(&layer).waiting, 2);
        Case {
            victim,
            nothing_left: async move |polls: usize| {
                first.await.unwrap().unwrap();
                let served = within(secs(1), behind).await.expect("it hangs");
                assert_eq!(served.unwrap().unwrap(), (StatusCode::OK, 10));
                let now = limiter(&layer);
                assert_eq!((now.in_flight, now.waiting), (0, 0), "{polls}");
                assert_eq!(upstream.peak(), 1, "{polls}");
                next_call(service, polls).await;
            },
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn call_through_a_closed_circuit_cancelled_anywhere_counts_for_nothing() {
    cancel_everywhere(6, || async {
        let layer = CircuitBreakerLayer::http().config(run_of_one(secs(1)));
        let upstream = Upstream::good().ready_after(ms(1));
        let mut service = layer.layer(upstream.clone());
        let victim = exchange(&mut service, put());
        Case {
            victim,
            nothing_left: async move |polls: usize| {
                let circuit = layer.snapshot()[0].1;
                assert_eq!(circuit.state, State::Closed, "{polls}");
                assert_eq!(circuit.failure_run, 0, "{polls}");
                assert_eq!(upstream.live(), 0);
                next_call(service, polls).await;
            },
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn probe_cancelled_anywhere_frees_its_place() {
    for step in [Step::status(200), Step::status(200).body(2, End::Never)] {
        cancel_everywhere(6, || async {
            let layer = CircuitBreakerLayer::http().config(run_of_one(secs(1)));
            let steps = [Step::status(500), step];
            let upstream = Upstream::good().ready_after(ms(1)).steps(steps);
            let mut service = layer.layer(upstream.clone());
            exchange(&mut service, put()).await.unwrap();
            sleep(secs(1)).await;
            let call = exchange(&mut service, put());
            let victim = async move { within(ms(100), call).await };
            Case {
                victim,
                nothing_left: async move |polls: usize| {
                    let circuit = layer.snapshot()[0].1;
                    // A good head is a success, even if its body is dropped.
                    assert!(circuit.state != State::Open, "{step:?}, {polls}");
                    assert_eq!(upstream.live(), 0);
                    upstream.then(Step::status(200));
                    next_call(service.clone(), polls).await;
                    next_call(service, polls).await;
                    assert_eq!(layer.snapshot()[0].1.state, State::Closed, "{polls}");
                },
            }
        })
        .await;
    }
}

fn at_once() -> impl Backoff + 'static {
    DecorrelatedJitter::new(ms(10), ms(10)).unwrap()
}

#[tokio::test(start_paused = true)]
async fn stack_call_cancelled_anywhere_leaves_nothing() {
    for step in answers() {
        cancel_everywhere(6, || async {
            let weir = Weir::http()
                .seed(1)
                .limiter(|law| law.initial = 1)
                .attempt_timeout(ms(50))
                .max_hold(secs(1))
                .any_method()
                .backoff(at_once());
            let upstream = Upstream::good().ready_after(ms(1)).steps([step]);
            let mut service = weir.layer(upstream.clone());
            let call = exchange(&mut service, put());
            let victim = async move { within(ms(200), call).await };
            Case {
                victim,
                nothing_left: async move |polls: usize| {
                    let host = stack(&weir);
                    let slots = host.limiter.unwrap();
                    assert_eq!((slots.in_flight, host.waiting), (0, 0), "{step:?}, {polls}");
                    assert_eq!(upstream.live(), 0, "{step:?}, {polls}");
                    upstream.then(Step::status(200));
                    next_call(service, (step, polls)).await;
                },
            }
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn bulk_call_cancelled_while_the_circuit_is_open_leaves_it_to_the_others() {
    cancel_everywhere(5, || async {
        let weir = Weir::http()
            .bulk()
            .seed(1)
            .max_retries(3)
            .backoff(at_once())
            .breaker(|_| run_of_one(secs(2)));
        // The circuit opens, a probe fails, the next succeed.
        let steps = [Step::status(500), Step::status(500)];
        let upstream = Upstream::good().ready_after(ms(1)).steps(steps);
        let mut service = weir.layer(upstream.clone());
        let opener = tokio::spawn(exchange(&mut service, get()));
        sleep(ms(10)).await;
        assert_eq!(stack(&weir).circuit.unwrap().state, State::Open);
        let victim = exchange(&mut service, put());
        let behind = tokio::spawn(exchange(&mut service, put()));
        tokio::task::yield_now().await;
        Case {
            victim,
            nothing_left: async move |polls: usize| {
                for other in [opener, behind] {
                    let served = within(secs(10), other).await.expect("it hangs");
                    assert_eq!(served.unwrap().unwrap(), (StatusCode::OK, 10), "{polls}");
                }
                let host = stack(&weir);
                assert_eq!((host.limiter.unwrap().in_flight, host.waiting), (0, 0));
                assert_eq!(upstream.live(), 0);
                next_call(service, polls).await;
            },
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn request_given_up_in_backoff_leaves_no_body_and_no_slot() {
    cancel_everywhere(6, || async {
        let weir = Weir::http().seed(1).any_method().backoff(at_once());
        // Each refusal has a body that does not end, which is being drained.
        let steps = [429, 503, 429].map(|status| Step::status(status).body(1, End::Never));
        let upstream = Upstream::good().steps(steps);
        let mut service = weir.layer(upstream.clone());
        let victim = exchange(&mut service, put());
        let still_there = Arc::new(());
        let guard = still_there.clone();
        let victim = async move {
            let _guard = guard;
            victim.await
        };
        Case {
            victim,
            nothing_left: async move |polls: usize| {
                assert_eq!(Arc::strong_count(&still_there), 1);
                let host = stack(&weir);
                assert_eq!((host.limiter.unwrap().in_flight, host.waiting), (0, 0));
                assert_eq!(upstream.live(), 0, "{polls}");
                upstream.then(Step::status(200));
                next_call(service, polls).await;
            },
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn breaker_that_waits_cancelled_anywhere_passes_the_probe_on() {
    cancel_everywhere(6, || async {
        let layer = CircuitBreakerLayer::http()
            .config(run_of_one(secs(1)))
            .when_open(WhenOpen::Wait)
            .unwrap();
        let upstream = Upstream::good()
            .ready_after(ms(1))
            .steps([Step::status(500)]);
        let mut service = layer.layer(upstream.clone());
        exchange(&mut service, get()).await.unwrap();
        let victim = exchange(&mut service, put());
        let behind = tokio::spawn(exchange(&mut service, put()));
        tokio::task::yield_now().await;
        Case {
            victim,
            nothing_left: async move |polls: usize| {
                let served = within(secs(3), behind).await.expect("it hangs");
                assert_eq!(served.unwrap().unwrap(), (StatusCode::OK, 10), "{polls}");
                next_call(service, polls).await;
                assert_eq!(upstream.live(), 0);
            },
        }
    })
    .await;
}
