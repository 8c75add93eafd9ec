//! What becomes of an upstream's health when time is up.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use tests::{
    BoxError,
    circuit::opens_after,
    client::{
        Over::{Http1, Http2},
        channel, hyper,
    },
    script::{Script, says},
    wait::within,
};
use tokio::{task::JoinSet, time::Instant};
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_weir::{
    Deadline, Weir,
    aimd::AimdConcurrencyLayer,
    circuit_breaker::{CircuitBreakerLayer, State},
    error::{CircuitOpen, DeadlineExceeded},
    retry::{Retried, RetryLayer, backoff::Constant},
};
use tower_weir_testkit::{
    fault::{Fault, Server},
    proto::{QueryRequest, vector_index_client::VectorIndexClient},
    upstream::{Phase, ServiceTime, Trouble, TroubleKind, Upstream},
};

const DEADLINE: Duration = Duration::from_secs(2);

/// How late a machine under load may be.
const SLACK: Duration = Duration::from_secs(10);

fn get(url: &str) -> Request<Full<Bytes>> {
    Request::get(url).body(Full::default()).unwrap()
}

/// Three callers meet an upstream that hangs; the fourth is told so at once.
async fn opens_the_circuit<S>(server: &Server, service: S)
where
    S: Service<Request<Full<Bytes>>, Error = BoxError> + Clone + Send + 'static,
    S::Response: std::fmt::Debug + Send,
    S::Future: Send,
{
    let start = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..3 {
        callers.spawn(service.clone().oneshot(get(&server.url())));
    }
    for answer in within("the deadline", callers.join_all()).await {
        let error = answer.unwrap_err();
        assert!(error.is::<DeadlineExceeded>(), "{error:?}");
    }
    let took = start.elapsed();
    assert!(took >= DEADLINE && took < DEADLINE + SLACK, "{took:?}");

    let error = service.oneshot(get(&server.url())).await.unwrap_err();
    assert!(error.is::<CircuitOpen>(), "{error:?}");
    assert_eq!(server.requests(), 3);
}

#[tokio::test]
async fn an_upstream_that_hangs_opens_the_circuit() {
    for_both(async |over| {
        let server = Server::start(Fault::Hang).await.unwrap();
        let weir = Weir::http().deadline(DEADLINE).breaker(|_| opens_after(3));
        let service = ServiceBuilder::new()
            .layer(weir.clone())
            .service(hyper(over));
        opens_the_circuit(&server, service).await;
        let host = &weir.snapshot()[0];
        assert_eq!(host.circuit.unwrap().state, State::Open);
        assert_eq!(host.limiter.as_ref().unwrap().in_flight, 0);
    })
    .await;
}

#[tokio::test]
async fn an_upstream_that_hangs_opens_the_circuit_of_the_layers_apart() {
    for_both(async |over| {
        let server = Server::start(Fault::Hang).await.unwrap();
        let breaker = CircuitBreakerLayer::http().config(opens_after(3));
        let limiter = AimdConcurrencyLayer::http();
        let service = ServiceBuilder::new()
            .layer(RetryLayer::http().deadline(DEADLINE))
            .layer(breaker.clone())
            .layer(limiter.clone())
            .service(hyper(over));
        opens_the_circuit(&server, service).await;
        assert_eq!(breaker.snapshot()[0].1.state, State::Open);
        assert_eq!(limiter.snapshot()[0].1.in_flight, 0);
    })
    .await;
}

async fn for_both(f: impl AsyncFn(tests::client::Over)) {
    tokio::join!(f(Http1), f(Http2));
}

#[tokio::test]
async fn an_upstream_that_hangs_opens_the_circuit_of_a_tonic_client() {
    let server = Server::start(Fault::Hang).await.unwrap();
    let weir = Weir::grpc().deadline(DEADLINE).breaker(|_| opens_after(3));
    let channel = ServiceBuilder::new()
        .layer(weir.clone())
        .service(channel(&server.url()));
    let client = VectorIndexClient::new(channel);
    let start = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..3 {
        let mut client = client.clone();
        callers.spawn(async move { client.query(QueryRequest::default()).await });
    }
    for answer in within("the deadline", callers.join_all()).await {
        assert_eq!(answer.unwrap_err().code(), tonic::Code::DeadlineExceeded);
    }
    let took = start.elapsed();
    assert!(took >= DEADLINE && took < DEADLINE + SLACK, "{took:?}");
    assert_eq!(weir.snapshot()[0].circuit.unwrap().state, State::Open);
}

#[tokio::test]
async fn callers_without_patience_do_not_open_the_circuit() {
    // So long that no machine is late by four of it: a call that ran for so long is
    // one to be blamed.
    let service_time = Duration::from_secs(1);
    let upstream = Upstream::builder()
        .service_time(ServiceTime::constant(service_time))
        .start()
        .await
        .unwrap();
    let weir = Weir::http().breaker(|_| opens_after(3));
    let service = ServiceBuilder::new()
        .layer(weir.clone())
        .service(hyper(Http2));
    let within_time = |time| {
        let mut request = get(&upstream.url());
        request.extensions_mut().insert(Deadline::after(time));
        service.clone().oneshot(request)
    };
    let circuit = || {
        let circuit = weir.snapshot()[0].circuit.unwrap();
        (circuit.state, circuit.counts.calls, circuit.counts.failed)
    };

    let response = service.clone().oneshot(get(&upstream.url())).await;
    assert_eq!(response.unwrap().status(), StatusCode::OK);
    let srtt = weir.snapshot()[0].limiter.as_ref().unwrap().srtt.unwrap();
    assert!(srtt >= service_time, "{srtt:?}");

    for _ in 0..5 {
        let error = within_time(service_time / 20).await.unwrap_err();
        assert!(error.is::<DeadlineExceeded>(), "{error:?}");
    }
    assert_eq!(circuit(), (State::Closed, 1, 0));
    assert!(upstream.stats().attempts > 1);

    // One that was given more than four round trips is to be blamed.
    let hangs = Phase {
        troubles: vec![Trouble::always(TroubleKind::Hang)],
        ..Phase::default()
    };
    upstream.set_phase(hangs).unwrap();
    let patient: JoinSet<_> = (0..3)
        .map(|_| within_time(srtt * 4 + service_time / 10))
        .collect();
    for answer in within("the deadline", patient.join_all()).await {
        let error = answer.unwrap_err();
        assert!(error.is::<DeadlineExceeded>(), "{error:?}");
    }
    assert_eq!(circuit(), (State::Open, 4, 3));
}

#[tokio::test]
async fn a_wait_that_would_reach_the_deadline_is_not_begun() {
    let busy = StatusCode::SERVICE_UNAVAILABLE;
    let server = Script::start(move |_, _| says(busy, &[("retry-after", "30")], "busy")).await;
    let service = ServiceBuilder::new()
        .layer(Weir::http().deadline(Duration::from_secs(25)))
        .service(hyper(Http1));
    let answer = within("the answer", service.oneshot(get(&server.url()))).await;
    let response = answer.unwrap();
    assert_eq!(response.status(), busy);
    assert_eq!(response.headers()["retry-after"], "30");
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn an_attempt_that_hangs_is_given_up_and_repeated() {
    for over in [Http1, Http2] {
        let server = Server::start_for(Fault::Hang, 2).await.unwrap();
        let weir = Weir::http()
            .ceiling(2)
            .max_retries(20)
            .attempt_timeout(Duration::from_millis(100))
            .backoff(Constant::new(Duration::from_millis(1)));
        let service = ServiceBuilder::new()
            .layer(weir.clone())
            .service(hyper(over));
        let answer = within("the answer", service.oneshot(get(&server.url()))).await;
        let response = answer.unwrap();
        // more than three only if the machine is slower than the timeout
        let attempts = response.extensions().get::<Retried>().unwrap().attempts;
        assert!(attempts >= 3, "{attempts}");
        drop(response);
        let host = &weir.snapshot()[0];
        let counts = host.circuit.unwrap().counts;
        assert_eq!(counts.calls, u64::from(attempts));
        assert_eq!(counts.failed, counts.calls - 1);
        let limiter = host.limiter.as_ref().unwrap();
        assert_eq!((limiter.limit, limiter.in_flight), (1, 0), "{over:?}");
    }
}
