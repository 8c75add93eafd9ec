//! Services that pend in `poll_ready` while their circuit is open.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use tokio::{task::JoinHandle, time::Instant};
use tower::{Service, ServiceExt, balance::p2c::Balance, discover::ServiceList, load::Constant};
use tower_weir::{
    Weir,
    circuit_breaker::{CircuitBreakerLayer, Control, ManyHosts, State, WhenOpen},
    error::CircuitOpen,
    outcome::{Outcome, classify_fn},
};

use crate::rig::{Act, Rig, alone, both, config, pass, request, seconds};

async fn pending<F: Future<Output = ()>>(scenario: impl Fn(Rig) -> F) {
    both(config(), WhenOpen::Pend, scenario).await;
}

/// When a service becomes ready, from now.
fn readiness(rig: &Rig) -> JoinHandle<Duration> {
    let mut service = rig.service.clone();
    let start = Instant::now();
    tokio::spawn(async move {
        service.ready().await.unwrap();
        start.elapsed()
    })
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn only_a_service_of_one_host_can_pend() {
    let judge = classify_fn(|_: Result<&(), &tower_weir::BoxError>| Outcome::success());
    let http = CircuitBreakerLayer::http;
    assert_eq!(http().when_open(WhenOpen::Pend).err(), Some(ManyHosts));
    assert_eq!(
        Weir::http().when_open(WhenOpen::Pend).err(),
        Some(ManyHosts)
    );
    assert!(http().when_open(WhenOpen::Wait).is_ok());
    assert!(http().for_host("a").when_open(WhenOpen::Pend).is_ok());
    assert!(Weir::http().for_host("a").when_open(WhenOpen::Pend).is_ok());
    assert!(
        CircuitBreakerLayer::new(judge)
            .when_open(WhenOpen::Pend)
            .is_ok()
    );
    assert!(Weir::new(judge).when_open(WhenOpen::Pend).is_ok());
    assert_eq!(
        ManyHosts.to_string(),
        "a service can pend only for one host: name it with `for_host` first"
    );
}

#[tokio::test(start_paused = true)]
async fn it_is_ready_when_the_open_period_is_over() {
    pending(|rig| async move {
        assert_eq!(readiness(&rig).await.unwrap(), Duration::ZERO);
        rig.trip().await;
        assert_eq!(readiness(&rig).await.unwrap(), seconds(1));
        assert_eq!(rig.state(), State::Open);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn it_is_woken_once_however_often_it_was_polled() {
    pending(|rig| async move {
        rig.trip().await;
        let wakes = [(); 3].map(|()| Arc::new(Wakes::default()));
        let wakers = wakes.clone().map(Waker::from);
        let count = || {
            wakes
                .each_ref()
                .map(|wakes| wakes.0.load(Ordering::Relaxed))
        };
        let mut services = [(); 3].map(|()| rig.service.clone());
        for _ in 0..100 {
            for (service, waker) in services.iter_mut().zip(&wakers) {
                let polled = service.poll_ready(&mut Context::from_waker(waker));
                assert!(polled.is_pending());
            }
        }
        let [mut first, second, third] = services;
        drop(third);
        pass(Duration::from_millis(999)).await;
        assert_eq!(count(), [0, 0, 0]);
        pass(Duration::from_millis(1)).await;
        // Each by its own timer, whether the others are polled or not.
        assert_eq!(count(), [1, 1, 0]);
        drop(second);
        let polled = first.poll_ready(&mut Context::from_waker(&wakers[0]));
        assert!(matches!(polled, Poll::Ready(Ok(()))));
        pass(seconds(100)).await;
        assert_eq!(count(), [1, 1, 0]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn it_is_woken_when_the_circuit_admits_before_its_time() {
    pending(|rig| async move {
        rig.control(Control::ForcedOpen);
        let ready = readiness(&rig);
        pass(seconds(3600)).await;
        assert!(!ready.is_finished());
        rig.control(Control::Automatic);
        assert_eq!(ready.await.unwrap(), seconds(3600));

        rig.trip().await;
        let ready = readiness(&rig);
        pass(Duration::from_millis(500)).await;
        rig.control(Control::ForcedClosed);
        assert_eq!(ready.await.unwrap(), Duration::from_millis(500));
        rig.control(Control::Automatic);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_probe_keeps_the_others_pending_until_it_has_settled() {
    pending(|rig| async move {
        rig.trip().await;
        pass(seconds(1)).await;
        let probe = rig.start(Act::Late(5, 200)).await;
        assert_eq!(readiness(&rig).await.unwrap(), seconds(5));
        assert_eq!(probe.await.unwrap().unwrap().status(), 200);
        // A probe that is given up makes room too, and so does one that hangs.
        let probe = rig.start(Act::Hang).await;
        let ready = readiness(&rig);
        pass(seconds(2)).await;
        probe.abort();
        assert_eq!(ready.await.unwrap(), seconds(2));
        let _hanging = rig.start(Act::Hang).await;
        assert_eq!(readiness(&rig).await.unwrap(), seconds(30));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_streams_makes_room_a_second_after_its_headers() {
    pending(|rig| async move {
        rig.trip().await;
        pass(seconds(1)).await;
        let probe = rig.start(Act::Late(3, 200)).await;
        let ready = readiness(&rig);
        assert_eq!(probe.await.unwrap().unwrap().status(), 200);
        assert_eq!(ready.await.unwrap(), seconds(3));
        let _streaming = rig.call(Act::Stream).await.unwrap();
        assert_eq!(rig.state(), State::HalfOpen);
        // Nobody polls the body: the timer of the one who pends ends it.
        assert_eq!(readiness(&rig).await.unwrap(), seconds(1));
        assert_eq!(rig.state(), State::Closed);
    })
    .await;
    both(config(), WhenOpen::Wait, |rig| async move {
        rig.trip().await;
        pass(seconds(1)).await;
        let _streaming = rig.call(Act::Stream).await.unwrap();
        let start = Instant::now();
        assert_eq!(rig.sent(Act::Status(200)).await, 200);
        assert_eq!(start.elapsed(), seconds(1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_timer_is_set_anew_when_a_failed_probe_opens_the_circuit() {
    pending(|rig| async move {
        rig.trip().await;
        pass(seconds(1)).await;
        // Until its lease ends it is 30 s, then it is the 2 s of the opening.
        let probe = rig.start(Act::Late(3, 500)).await;
        assert_eq!(readiness(&rig).await.unwrap(), seconds(3 + 2));
        assert_eq!(probe.await.unwrap().unwrap().status(), 500);
        assert_eq!(rig.state(), State::Open);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn of_services_readied_together_the_surplus_is_refused_in_call() {
    pending(|rig| async move {
        rig.trip().await;
        let mut readied = Vec::new();
        for _ in 0..5 {
            let mut service = rig.service.clone();
            readied.push(tokio::spawn(async move {
                service.ready().await.unwrap();
                service
            }));
        }
        pass(seconds(1)).await;
        let mut calls = Vec::new();
        for service in readied {
            let mut service = service.await.unwrap();
            calls.push(tokio::spawn(service.call(request(Act::Hang))));
        }
        let _probe = calls.remove(0);
        for call in calls {
            assert!(call.await.unwrap().unwrap_err().is::<CircuitOpen>());
        }
        assert_eq!(rig.reached(), 4);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_balancer_sends_its_calls_elsewhere() {
    let dead = alone(config(), WhenOpen::Pend);
    let well = alone(config(), WhenOpen::Pend);
    let service = |rig: &Rig, act: Act| {
        let service = rig.service.clone();
        Constant::new(service.map_request(move |()| request(act)), 0)
    };
    let services = vec![
        service(&dead, Act::Status(500)),
        service(&well, Act::Status(200)),
    ];
    let mut balance = Balance::new(ServiceList::new(services));
    let mut failed = 0;
    for _ in 0..1000 {
        let answer = balance.ready().await.unwrap().call(()).await;
        let answer = answer.unwrap_or_else(|error| {
            panic!("refused: {:?}", error.downcast_ref::<CircuitOpen>());
        });
        failed += usize::from(answer.status() == 500);
        pass(Duration::from_millis(10)).await;
    }
    // Three to open it, then probes after 1, 2 and 4 s.
    assert_eq!((failed, dead.reached()), (6, 6));
    assert_eq!(well.reached(), 994);
}
