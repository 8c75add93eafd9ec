//! How long a call keeps its slot, over real connections.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tests::{
    client::{
        Over::{Http1, Http2},
        hyper,
    },
    script::{Script, committed, says},
    wait::{until, within},
};
use tokio::time::Instant;
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_weir::{
    Weir,
    admit::Hold,
    aimd::{AimdConcurrencyLayer, LimiterSnapshot},
    circuit_breaker::CircuitBreakerLayer,
};
use tower_weir_testkit::fault::{Fault, Server};

const BOTH: [tests::client::Over; 2] = [Http1, Http2];

async fn server() -> Script {
    Script::start(|_, _| says(StatusCode::OK, &[], "an answer")).await
}

fn get(url: &str) -> Request<Full<Bytes>> {
    Request::get(url).body(Full::default()).unwrap()
}

fn state(limiter: &AimdConcurrencyLayer) -> LimiterSnapshot {
    limiter.snapshot()[0].1.clone()
}

async fn text<B>(response: Response<B>) -> Bytes
where
    B: http_body::Body<Error: std::fmt::Debug>,
{
    response.into_body().collect().await.unwrap().to_bytes()
}

#[tokio::test]
async fn a_body_that_nobody_reads_holds_its_slot_for_max_hold() {
    // Long beside what may pass between an answer and a look at its slot.
    let max_hold = Duration::from_secs(1);
    for over in BOTH {
        let server = server().await;
        let limiter = AimdConcurrencyLayer::http().fixed(1).max_hold(max_hold);
        let mut service = ServiceBuilder::new()
            .layer(limiter.clone())
            .service(hyper(over));
        let start = Instant::now();
        let first = service.call(get(&server.url())).await.unwrap();
        assert_eq!(state(&limiter).in_flight, 1);

        let second = within("the slot", service.call(get(&server.url()))).await;
        let second = second.unwrap();
        assert!(start.elapsed() >= max_hold);
        assert_eq!((state(&limiter).in_flight, server.requests()), (1, 2));

        // What was settled when its time was up is not settled again.
        assert_eq!(text(first).await, "an answer");
        assert_eq!(state(&limiter).in_flight, 1);
        drop(second);
        assert_eq!(state(&limiter).in_flight, 0);
    }
}

#[tokio::test]
async fn a_slot_is_free_when_the_body_has_been_read_or_dropped() {
    for over in BOTH {
        let server = server().await;
        let limiter = AimdConcurrencyLayer::http().fixed(1);
        let mut service = ServiceBuilder::new()
            .layer(limiter.clone())
            .service(hyper(over));
        let response = service.call(get(&server.url())).await.unwrap();
        assert_eq!(state(&limiter).in_flight, 1);
        assert_eq!(text(response).await, "an answer");
        assert_eq!(state(&limiter).in_flight, 0);

        let response = service.call(get(&server.url())).await.unwrap();
        assert_eq!(state(&limiter).in_flight, 1);
        drop(response);
        assert_eq!(state(&limiter).in_flight, 0);
    }
}

#[tokio::test]
async fn the_next_in_line_goes_when_a_body_is_dropped() {
    for over in BOTH {
        let server = server().await;
        let weir = Weir::http().ceiling(1);
        let mut service = ServiceBuilder::new()
            .layer(weir.clone())
            .service(hyper(over));
        let first = service.call(get(&server.url())).await.unwrap();
        let second = tokio::spawn(service.call(get(&server.url())));
        until("the second waits", || weir.snapshot()[0].waiting == 1).await;
        assert_eq!(server.requests(), 1);
        drop(first);
        let second = within("the slot", second).await.unwrap().unwrap();
        assert_eq!(text(second).await, "an answer");
        assert_eq!(weir.snapshot()[0].limiter.as_ref().unwrap().in_flight, 0);
    }
}

#[tokio::test]
async fn a_refused_answer_holds_no_slot() {
    let busy = StatusCode::SERVICE_UNAVAILABLE;
    let server = Script::start(move |_, _| says(busy, &[], "busy")).await;
    let limiter = AimdConcurrencyLayer::http();
    let service = ServiceBuilder::new()
        .layer(limiter.clone())
        .service(hyper(Http1));
    let response = service.oneshot(get(&server.url())).await.unwrap();
    assert_eq!(state(&limiter).in_flight, 0);
    assert_eq!(text(response).await, "busy");
}

#[tokio::test]
async fn trailers_have_the_last_word() {
    // RESOURCE_EXHAUSTED, after headers that promised well
    let server = Script::start(|_, _| committed(&[b"a message"], 8)).await;
    let limiter = AimdConcurrencyLayer::grpc().initial(2);
    let breaker = CircuitBreakerLayer::grpc();
    let service = ServiceBuilder::new()
        .layer(breaker.clone())
        .layer(limiter.clone())
        .service(hyper(Http2));
    let response = service.oneshot(get(&server.url())).await.unwrap();
    let held = state(&limiter);
    assert_eq!((held.limit, held.in_flight), (2, 1));
    text(response).await;
    let after = state(&limiter);
    assert_eq!((after.limit, after.in_flight), (1, 0));
    assert_eq!(breaker.snapshot()[0].1.counts.calls, 0);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_a_failure() {
    for over in BOTH {
        let server = Server::start(Fault::CloseMidBody).await.unwrap();
        let weir = Weir::http();
        let service = ServiceBuilder::new()
            .layer(weir.clone())
            .service(hyper(over));
        let counts = || {
            let counts = weir.snapshot()[0].circuit.unwrap().counts;
            (counts.calls, counts.failed)
        };
        let response = service.oneshot(get(&server.url())).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(counts(), (0, 0));
        response.into_body().collect().await.unwrap_err();
        assert_eq!(counts(), (1, 1));
        assert_eq!(weir.snapshot()[0].limiter.as_ref().unwrap().in_flight, 0);
    }
}

#[tokio::test]
async fn a_call_may_end_with_its_headers() {
    let server = server().await;
    let limiter = AimdConcurrencyLayer::http().fixed(1).hold(Hold::Headers);
    let mut service = ServiceBuilder::new()
        .layer(limiter.clone())
        .service(hyper(Http1));
    let response = service.call(get(&server.url())).await.unwrap();
    assert_eq!(state(&limiter).in_flight, 0);
    assert_eq!(text(response).await, "an answer");

    // A request's own word goes before the layer's.
    let mut request = get(&server.url());
    request.extensions_mut().insert(Hold::BodyEnd);
    let response = service.call(request).await.unwrap();
    assert_eq!(state(&limiter).in_flight, 1);
    drop(response);

    let weir = Weir::http().ceiling(1);
    let mut service = ServiceBuilder::new()
        .layer(weir.clone())
        .service(hyper(Http1));
    let mut request = get(&server.url());
    request.extensions_mut().insert(Hold::Headers);
    let response = service.call(request).await.unwrap();
    assert_eq!(weir.snapshot()[0].limiter.as_ref().unwrap().in_flight, 0);
    assert_eq!(text(response).await, "an answer");
}
