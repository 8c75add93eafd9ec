//! The whole stack over services that are not HTTP, on paused time.
#![cfg(feature = "weir")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_weir::{
    BoxError, Weir,
    circuit_breaker::{FailureRun, State},
    error::CircuitOpen,
    outcome::{Outcome, classify_fn},
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Answer {
    Done,
    Busy,
    Broken,
}

fn judge(result: Result<&Answer, &BoxError>) -> Outcome {
    match result {
        Ok(Answer::Done) => Outcome::success(),
        Ok(Answer::Busy) => Outcome::throttled(),
        Ok(Answer::Broken) | Err(_) => Outcome::failed(),
    }
}

/// A server with `slots`, 100 ms a call, that rejects at once what is too much.
#[derive(Clone, Default)]
struct Server {
    in_flight: Arc<AtomicUsize>,
    peak: Arc<AtomicUsize>,
    attempts: Arc<AtomicUsize>,
    served: Arc<AtomicUsize>,
}

impl Server {
    async fn serve(self, slots: usize) -> Result<Answer, BoxError> {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        let now = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        self.peak.fetch_max(now, Ordering::Relaxed);
        let answer = if now > slots {
            sleep(Duration::from_millis(3)).await;
            Answer::Busy
        } else {
            sleep(Duration::from_millis(100)).await;
            self.served.fetch_add(1, Ordering::Relaxed);
            Answer::Done
        };
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        Ok(answer)
    }
}

#[tokio::test(start_paused = true)]
async fn a_bulk_run_loses_nothing_and_fills_the_server() {
    let server = Server::default();
    let weir = Weir::new(classify_fn(judge)).bulk().ceiling(64).seed(1);
    let target = server.clone();
    let service = ServiceBuilder::new()
        .layer(weir.clone())
        .service(service_fn(move |_: u32| target.clone().serve(8)));
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    let next = Arc::new(AtomicUsize::new(0));
    for _ in 0..64 {
        let (mut service, next) = (service.clone(), next.clone());
        tasks.spawn(async move {
            while next.fetch_add(1, Ordering::Relaxed) < 2000 {
                let answer = service.ready().await.unwrap().call(0).await.unwrap();
                assert_eq!(answer, Answer::Done);
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(server.served.load(Ordering::Relaxed), 2000);
    let wall = start.elapsed().as_secs_f64();
    assert!(wall < 25.0 * 1.1, "{wall}");
    let rejected = server.attempts.load(Ordering::Relaxed) - 2000;
    assert!(rejected <= 60, "{rejected}");
}

#[tokio::test(start_paused = true)]
async fn a_dead_upstream_opens_the_circuit_and_is_found_again() {
    let dead = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let calls = Arc::new(AtomicUsize::new(0));
    let weir = Weir::new(classify_fn(judge))
        .seed(1)
        .max_retries(0)
        .breaker(|breaker| breaker.failure_run(FailureRun::new(3, Duration::ZERO)));
    let (state, count) = (dead.clone(), calls.clone());
    let mut service = ServiceBuilder::new()
        .layer(weir.clone())
        .service(service_fn(move |_: u32| {
            count.fetch_add(1, Ordering::Relaxed);
            let dead = state.load(Ordering::Relaxed);
            async move { Ok::<_, BoxError>(if dead { Answer::Broken } else { Answer::Done }) }
        }));
    for _ in 0..3 {
        assert_eq!(
            service.ready().await.unwrap().call(0).await.unwrap(),
            Answer::Broken
        );
    }
    let state = || weir.snapshot()[0].circuit.unwrap().state;
    assert_eq!(state(), State::Open);
    let error = service.ready().await.unwrap().call(0).await.unwrap_err();
    let open = error.downcast_ref::<CircuitOpen>().unwrap();
    let after = open.retry_after().unwrap();
    assert!((0.8..=1.2).contains(&after.as_secs_f64()), "{after:?}");
    assert_eq!(calls.load(Ordering::Relaxed), 3);
    dead.store(false, Ordering::Relaxed);
    sleep(after).await;
    assert_eq!(service.call(0).await.unwrap(), Answer::Done);
    assert_eq!(state(), State::HalfOpen);
    assert_eq!(service.call(0).await.unwrap(), Answer::Done);
    assert_eq!(state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_bulk_run_waits_as_long_as_it_is_told_within_its_patience() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let service = service_fn(move |_: http::Request<_>| {
        let first = count.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            let mut response = http::Response::new(String::new());
            if first {
                *response.status_mut() = http::StatusCode::TOO_MANY_REQUESTS;
                let headers = response.headers_mut();
                headers.insert("retry-after", http::HeaderValue::from_static("90"));
            }
            Ok::<_, BoxError>(response)
        }
    });
    let mut stack = ServiceBuilder::new()
        .layer(Weir::http().bulk().seed(1))
        .service(service);
    let start = Instant::now();
    let request = http::Request::post("http://a.test/").body(String::new());
    let response = stack.ready().await.unwrap().call(request.unwrap());
    assert_eq!(response.await.unwrap().status(), 200);
    // The hint, and up to 5 s so that not all come back at once.
    let waited = start.elapsed().as_secs_f64();
    assert!((90.0..=95.1).contains(&waited), "{waited}");
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn the_memory_of_request_bodies_can_be_bounded() {
    let account = tower_weir::retry::Account::new(4, 4);
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let service = service_fn(
        move |request: http::Request<tower_weir::retry::ReplayBody<_>>| {
            count.fetch_add(1, Ordering::Relaxed);
            async move {
                http_body_util::BodyExt::collect(request.into_body()).await?;
                let mut response = http::Response::new(String::new());
                *response.status_mut() = http::StatusCode::TOO_MANY_REQUESTS;
                Ok::<_, BoxError>(response)
            }
        },
    );
    let layer = Weir::http().no_budget().replay(account).max_retries(1);
    let stack = ServiceBuilder::new().layer(layer).service(service);
    for (body, attempts) in [("four", 2), ("five!", 1)] {
        let frames = [Ok::<_, BoxError>(http_body::Frame::data(
            bytes::Bytes::from(body),
        ))];
        let body = http_body_util::StreamBody::new(tokio_stream::iter(frames));
        let request = http::Request::post("http://a.test/").body(body).unwrap();
        let answer = stack.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), 429);
        assert_eq!(calls.swap(0, Ordering::Relaxed), attempts, "{attempts}");
    }
}
