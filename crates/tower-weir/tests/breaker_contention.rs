//! Many tasks on few threads, on a machine that is busy otherwise: nobody
//! hangs. In a program of its own, for it takes all cores there are.
#![cfg(feature = "circuit-breaker")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::{runtime::Builder, task::JoinSet};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_weir::{
    BoxError,
    circuit_breaker::{
        BreakerConfig, CircuitBreakerLayer, FailureRun, OpenFor, Probes, State, WhenOpen,
    },
    error::CircuitOpen,
    observe::Event,
    outcome::{Outcome, classify_fn},
};

const TASKS: usize = 64;
const CALLS: usize = 4_000;

fn judge(result: Result<&bool, &BoxError>) -> Outcome {
    match result {
        Ok(true) => Outcome::success(),
        Ok(false) | Err(_) => Outcome::failed(),
    }
}

/// Runs `caller` in 64 tasks on 2 worker threads, beside two threads that do
/// nothing but keep a core busy, and fails if they are not done in a minute.
fn crowd<F>(caller: impl Fn() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let idle = Arc::new(AtomicBool::new(false));
    let busy = [(); 2].map(|()| {
        let idle = idle.clone();
        thread::spawn(move || {
            while !idle.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        })
    });
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut tasks: JoinSet<()> = (0..TASKS).map(|_| caller()).collect();
        let all = async {
            while let Some(done) = tasks.join_next().await {
                done.unwrap();
            }
        };
        tokio::select! {
            () = all => {}
            () = tokio::time::sleep(Duration::from_secs(60)) => panic!("a task hangs"),
        }
    });
    idle.store(true, Ordering::Relaxed);
    for thread in busy {
        thread.join().unwrap();
    }
}

fn refusals() {
    let layer = CircuitBreakerLayer::new(classify_fn(judge)).for_host("a");
    assert!(layer.handle().force_open("a"));
    let refused = Arc::new(AtomicUsize::new(0));
    crowd(|| {
        let upstream = service_fn(|()| async { Ok::<_, BoxError>(true) });
        let mut service = layer.layer(upstream);
        let refused = refused.clone();
        async move {
            for _ in 0..CALLS {
                let error = service.ready().await.unwrap().call(()).await.unwrap_err();
                assert!(error.is::<CircuitOpen>());
                refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    assert_eq!(refused.load(Ordering::Relaxed), TASKS * CALLS);
}

#[test]
fn an_open_circuit_refuses_a_crowd() {
    refusals();
}

#[test]
#[ignore = "takes a minute: cargo test --test breaker_contention -- --ignored"]
fn an_open_circuit_refuses_a_crowd_forty_times() {
    for _ in 0..40 {
        refusals();
    }
}

/// A circuit that opens on every other failure, for a millisecond.
fn flapping(when_open: WhenOpen) {
    let millisecond = Duration::from_millis(1);
    let config = BreakerConfig::default()
        .failure_run(FailureRun::new(2, Duration::ZERO))
        .open_for(OpenFor::new(millisecond, millisecond).unwrap())
        .probes(Probes::all(1));
    let openings = Arc::new(AtomicUsize::new(0));
    let seen = openings.clone();
    let layer = CircuitBreakerLayer::new(classify_fn(judge))
        .config(config)
        .observe(move |_, event| {
            if let Event::Circuit(change) = event {
                seen.fetch_add(usize::from(change.to == State::Open), Ordering::Relaxed);
            }
        });
    let layer = layer.when_open(when_open).unwrap();
    let sent = Arc::new(AtomicUsize::new(0));
    crowd(|| {
        let sent = sent.clone();
        let mut service = layer.layer(service_fn(move |()| {
            let sent = sent.fetch_add(1, Ordering::Relaxed);
            async move {
                tokio::task::yield_now().await;
                Ok::<_, BoxError>(sent % 100 > 2)
            }
        }));
        async move {
            for _ in 0..100 {
                let answer = service.ready().await.unwrap().call(()).await;
                assert!(answer.is_ok() || when_open == WhenOpen::Pend);
            }
        }
    });
    let openings = openings.load(Ordering::Relaxed);
    assert!(openings >= 10, "{openings}");
}

#[test]
fn nobody_who_waits_for_a_circuit_is_forgotten() {
    flapping(WhenOpen::Wait);
}

#[test]
fn nobody_who_pends_for_a_circuit_is_forgotten() {
    flapping(WhenOpen::Pend);
}
