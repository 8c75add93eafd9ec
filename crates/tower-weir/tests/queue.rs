//! Who goes first, and how many slots a call takes.
#![cfg(feature = "weir")]

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Request, Response};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tower::{Service, service_fn};
use tower_layer::Layer;
use tower_weir::{
    BoxError,
    admit::{Priority, Weight},
    aimd::AimdConcurrencyLayer,
};

type Started = Arc<Mutex<Vec<(u32, u128)>>>;

/// Runs calls that take 100 ms each, all begun now and in this order; returns
/// which started when, in milliseconds.
async fn run(limit: usize, calls: Vec<Request<u32>>) -> Vec<(u32, u128)> {
    let started = Started::default();
    let log = started.clone();
    let start = Instant::now();
    let inner = service_fn(move |request: Request<u32>| {
        log.lock()
            .unwrap()
            .push((*request.body(), start.elapsed().as_millis()));
        async {
            sleep(Duration::from_millis(100)).await;
            Ok::<_, BoxError>(Response::new(String::new()))
        }
    });
    let layer = AimdConcurrencyLayer::http()
        .fixed(limit)
        .queue_timeout(Duration::from_secs(600));
    let mut service = layer.layer(inner);
    let mut tasks = JoinSet::new();
    for call in calls {
        tasks.spawn(service.call(call));
    }
    tasks.join_all().await;
    let handle = layer.handle().snapshot();
    assert_eq!((handle[0].1.in_flight, handle[0].1.waiting), (0, 0));
    let started = started.lock().unwrap();
    started.clone()
}

fn call(name: u32, priority: Priority) -> Request<u32> {
    Request::builder().extension(priority).body(name).unwrap()
}

#[tokio::test(start_paused = true)]
async fn higher_priorities_go_first_and_each_in_its_order() {
    use Priority::{High, Low, Normal};
    let order = [
        (0, Normal),
        (1, Low),
        (2, Normal),
        (3, High),
        (4, Low),
        (5, High),
    ];
    let calls = order.map(|(name, priority)| call(name, priority));
    let started = run(1, calls.into()).await;
    let names: Vec<u32> = started.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, [0, 3, 5, 2, 1, 4]);
}

#[tokio::test(start_paused = true)]
async fn the_one_that_has_waited_the_longest_is_passed_over_eight_times_at_most() {
    let mut calls = vec![call(0, Priority::High), call(1, Priority::Low)];
    calls.extend((2..22).map(|name| call(name, Priority::High)));
    let started = run(1, calls).await;
    let turn = started.iter().position(|(name, _)| *name == 1);
    assert_eq!(turn, Some(9));
}

fn heavy(name: u32, weight: usize) -> Request<u32> {
    let weight = Weight(NonZeroUsize::new(weight).unwrap());
    Request::builder().extension(weight).body(name).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_heavy_call_takes_its_weight_in_slots() {
    let calls = vec![
        heavy(0, 2),
        heavy(1, 2),
        heavy(2, 1),
        heavy(3, 3),
        heavy(4, 1),
    ];
    let started = run(5, calls).await;
    // 2 + 2 + 1 at once; the heavy one waits at the head for three, and the last
    // behind it.
    assert_eq!(started, [(0, 0), (1, 0), (2, 0), (3, 100), (4, 100)]);
}

#[tokio::test(start_paused = true)]
async fn a_call_heavier_than_the_limit_takes_all_of_it() {
    let calls = vec![heavy(0, 100), heavy(1, 1), heavy(2, 100)];
    let started = run(4, calls).await;
    assert_eq!(started, [(0, 0), (1, 100), (2, 200)]);
}
