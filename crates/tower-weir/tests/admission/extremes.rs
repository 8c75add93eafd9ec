//! The greatest and the least values of every setting.

use std::time::Duration;

use http::{Request, StatusCode, header};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceBuilder};
use tower_weir::{
    Deadline, Weir,
    aimd::{AimdConcurrencyLayer, Decrease},
    circuit_breaker::{BreakerConfig, CircuitBreakerLayer, FailureRun, OpenFor},
    error::{AttemptTimeout, DeadlineExceeded, QueueTimeout},
};

use crate::support::{
    Chunks, Does, End, Step, Upstream, begin, exchange, get, get_from, limiter, ms, poll_once,
    secs, within,
};

const OK: (StatusCode, usize) = (StatusCode::OK, 10);
const MAX: Duration = Duration::MAX;

#[tokio::test(start_paused = true)]
async fn greatest_durations_overflow_nothing() {
    let breaker = BreakerConfig::default()
        .failure_run(FailureRun::new(u32::MAX, MAX))
        .starved_after(MAX)
        .cancel_counts_after(MAX)
        .hint_cap(MAX)
        .probe_lease(MAX)
        .open_for(OpenFor::new(secs(1), MAX).unwrap());
    let weir = Weir::http()
        .queue_timeout(MAX)
        .attempt_timeout(MAX)
        .max_hold(MAX)
        .deadline(MAX)
        .max_wait(MAX)
        .retry(|policy| policy.patience(MAX))
        .max_waiting(usize::MAX)
        .max_hosts(usize::MAX)
        .breaker(|_| breaker.clone())
        .limiter(|law| law.initial = 1);
    let waits = Step {
        retry_after: Some("1"),
        ..Step::status(429)
    };
    let service = weir.layer(Upstream::good().ready_after(ms(1)).steps([waits; 3]));
    let calls: Vec<_> = (0..3)
        .map(|_| tokio::spawn(exchange(&mut service.clone(), get())))
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), OK);
    }
    let mut service = CircuitBreakerLayer::http()
        .config(breaker)
        .queue_timeout(MAX)
        .attempt_timeout(MAX)
        .max_hold(MAX)
        .layer(Upstream::good());
    assert_eq!(exchange(&mut service, get()).await.unwrap(), OK);
    let mut request = get();
    request.extensions_mut().insert(Deadline::after(MAX));
    assert_eq!(exchange(&mut service, request).await.unwrap(), OK);
}

#[tokio::test(start_paused = true)]
async fn greatest_limits_overflow_nothing() {
    for decrease in [Decrease::Proportional, Decrease::Halve] {
        let layer = AimdConcurrencyLayer::http()
            .decrease(decrease)
            .ceiling(usize::MAX)
            .initial(usize::MAX - 1);
        let steps = [200, 200, 429, 200, 503, 200, 200].map(Step::status);
        let mut service = layer.layer(Upstream::good().steps(steps));
        for _ in 0..8 {
            exchange(&mut service, get()).await.unwrap();
        }
        assert_eq!(limiter(&layer).in_flight, 0);
        // A least limit that leaves no room for a step down.
        let layer = layer.min(usize::MAX);
        let steps = [429, 200, 200, 503, 200].map(Step::status);
        let mut service = layer.layer(Upstream::good().steps(steps));
        for _ in 0..8 {
            exchange(&mut service, get()).await.unwrap();
        }
        assert_eq!(limiter(&layer).limit, usize::MAX);
    }
    let mut service = AimdConcurrencyLayer::http()
        .fixed(usize::MAX)
        .layer(Upstream::good());
    assert_eq!(exchange(&mut service, get()).await.unwrap(), OK);
}

#[tokio::test(start_paused = true)]
async fn zero_is_no_time_at_all() {
    let layer = AimdConcurrencyLayer::http().fixed(1);
    let start = Instant::now();

    let mut service = layer.clone().attempt_timeout(ms(0)).layer(Upstream::good());
    let error = exchange(&mut service, get()).await.unwrap_err();
    let timeout = error.downcast_ref::<AttemptTimeout>().unwrap();
    assert_eq!(timeout.after(), ms(0));

    let mut service = layer.clone().queue_timeout(ms(0)).layer(Upstream::good());
    let hung = begin(&mut service);
    let error = exchange(&mut service, get()).await.unwrap_err();
    let timeout = error.downcast_ref::<QueueTimeout>().unwrap();
    assert_eq!(timeout.waited(), ms(0));
    drop(hung);

    let mut service = Weir::http().deadline(ms(0)).layer(Upstream::good());
    let error = exchange(&mut service, get()).await.unwrap_err();
    assert!(error.is::<DeadlineExceeded>(), "{error}");
    assert_eq!(start.elapsed(), ms(0));

    let endless = Step::status(200).body(0, End::Never);
    let mut service = layer.max_hold(ms(0)).layer(Upstream::new(endless));
    let _first = service.call(get()).await.unwrap();
    let _second = service.call(get()).await.unwrap();
    assert_eq!(start.elapsed(), ms(10));
}

#[tokio::test(start_paused = true)]
async fn without_an_attempt_timeout_a_call_may_take_for_ever() {
    let layer = AimdConcurrencyLayer::http().attempt_timeout(None);
    let mut service = layer.layer(Upstream::new(Step::does(Does::Hang)));
    let day = secs(24 * 60 * 60);
    assert!(within(day, exchange(&mut service, get())).await.is_none());
    assert_eq!(limiter(&layer).in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn no_host_with_a_call_in_flight_is_forgotten() {
    let layer = AimdConcurrencyLayer::http()
        .fixed(1)
        .max_hosts(1)
        .max_waiting(0);
    let upstream = Upstream::new(Step::status(200).body(0, End::Never));
    let mut service = layer.layer(upstream.clone());
    let uri = |n| format!("http://host-{n}/");
    let mut calls: Vec<_> = (0..1000)
        .map(|n| Box::pin(service.call(get_from(&uri(n)))))
        .collect();
    for call in &mut calls {
        assert!(poll_once(call).await.is_none());
    }
    assert_eq!(layer.snapshot().len(), 1000);
    for n in [0, 500, 999] {
        let error = exchange(&mut service, get_from(&uri(n))).await;
        assert!(error.is_err(), "its slot was given to another");
    }
    // With the answers' bodies kept they stay, and without them they go.
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.unwrap());
    }
    let _one_more = service.call(get_from("http://late/")).await.unwrap();
    assert_eq!(layer.snapshot().len(), 1001);
    drop(answers);
    assert_eq!(upstream.live(), 1);
    let _last = service.call(get_from("http://last/")).await.unwrap();
    assert_eq!(layer.snapshot().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn host_is_the_same_however_it_is_written() {
    let layer = AimdConcurrencyLayer::http();
    let mut service = layer.layer(Upstream::good());
    let by_header = Request::get("/path")
        .header(header::HOST, "Index.Internal:8080")
        .body(Chunks::new(0, ms(0), End::Clean))
        .unwrap();
    let by_uri = [
        "http://index.internal:8080/",
        "http://INDEX.internal:8080/other",
        "http://user:p%40ss@Index.Internal:8080/?query",
        "https://index.internal:8080",
    ];
    for request in by_uri.map(get_from).into_iter().chain([by_header]) {
        exchange(&mut service, request).await.unwrap();
    }
    let known = |layer: &AimdConcurrencyLayer| -> Vec<_> {
        layer
            .snapshot()
            .iter()
            .map(|(host, _)| host.to_string())
            .collect()
    };
    assert_eq!(known(&layer), ["index.internal:8080"]);
    // Another port is another upstream, and a request may name none.
    for uri in ["http://index.internal/", "/path"] {
        exchange(&mut service, get_from(uri)).await.unwrap();
    }
    assert_eq!(known(&layer), ["", "index.internal", "index.internal:8080"]);
    let layer = layer.for_host("index");
    let mut service = ServiceBuilder::new()
        .layer(layer.clone())
        .service(Upstream::good());
    for uri in by_uri.into_iter().chain(["/path"]) {
        exchange(&mut service, get_from(uri)).await.unwrap();
    }
    assert_eq!(known(&layer), ["index"]);
}
