//! hyper-util's client under the layers, and what else people put around it:
//! nothing at the call site says a type.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{
    BodyExt, Empty, Full, StreamBody,
    combinators::{BoxBody, UnsyncBoxBody},
};
use tests::{
    client::{
        Over::{Http1, Http2},
        hyper,
    },
    script::{Boxed, Script, boxed, says, stream},
    wait::within,
};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_http::{
    decompression::DecompressionLayer, follow_redirect::FollowRedirectLayer, trace::TraceLayer,
};
use tower_weir::{
    BoxError, Weir,
    aimd::AimdConcurrencyLayer,
    circuit_breaker::CircuitBreakerLayer,
    outcome::Idempotent,
    retry::{ReplayBody, Retried, RetryLayer, backoff::Constant},
};

const AT_ONCE: Constant = Constant::new(Duration::from_millis(1));

/// Larger than what HTTP/2 lets go before the peer says more (RFC 9113 section
/// 6.9.2), and of many frames.
const LARGE: usize = 200_000;

fn large() -> Vec<u8> {
    (0..LARGE).map(|at| (at / 7) as u8).collect()
}

fn frames() -> impl Iterator<Item = Bytes> {
    let bytes = Bytes::from(large());
    (0..LARGE)
        .step_by(10_000)
        .map(move |at| bytes.slice(at..at + 10_000))
}

/// A server that keeps the bodies it gets and refuses the first two requests.
async fn keeper() -> (Script, Arc<Mutex<Vec<Bytes>>>) {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = kept.clone();
    let server = Script::start(move |number, request| {
        keep.lock().unwrap().push(request.into_body());
        match number {
            1 | 2 => says(StatusCode::SERVICE_UNAVAILABLE, &[], "busy"),
            _ => says(StatusCode::OK, &[], "an answer"),
        }
    })
    .await;
    (server, kept)
}

async fn is_answered<B>(response: Response<B>, attempts: u32)
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    assert_eq!(response.status(), StatusCode::OK);
    let retried = response.extensions().get::<Retried>();
    assert_eq!(retried.map_or(1, |retried| retried.attempts), attempts);
    let body = response.into_body().collect().await.map_err(Into::into);
    assert_eq!(body.unwrap().to_bytes(), "an answer");
}

fn whole(kept: &Mutex<Vec<Bytes>>) {
    let kept = kept.lock().unwrap();
    assert_eq!(kept.len(), 3);
    for body in &*kept {
        assert!(*body == large(), "{} octets", body.len());
    }
}

#[tokio::test]
async fn a_full_body_is_sent_again_octet_for_octet() {
    for over in [Http1, Http2] {
        let (server, kept) = keeper().await;
        let mut client = ServiceBuilder::new()
            .layer(Weir::http().backoff(AT_ONCE))
            .service(hyper(over));
        let request = Request::put(server.url()).body(Full::new(Bytes::from(large())));
        let call = client.ready().await.unwrap().call(request.unwrap());
        is_answered(within("an answer", call).await.unwrap(), 3).await;
        whole(&kept);
    }
}

#[tokio::test]
async fn the_layers_apart_send_it_again_too() {
    for over in [Http1, Http2] {
        let (server, kept) = keeper().await;
        let mut client = ServiceBuilder::new()
            .layer(RetryLayer::http().backoff(AT_ONCE))
            .layer(CircuitBreakerLayer::http())
            .layer(AimdConcurrencyLayer::http())
            .service(hyper(over));
        let request = Request::put(server.url()).body(Full::new(Bytes::from(large())));
        let call = client.ready().await.unwrap().call(request.unwrap());
        is_answered(within("an answer", call).await.unwrap(), 3).await;
        whole(&kept);
    }
}

#[tokio::test]
async fn boxed_streams_are_sent_again_octet_for_octet() {
    for over in [Http1, Http2] {
        let (server, kept) = keeper().await;
        let mut client = ServiceBuilder::new()
            .layer(Weir::http().backoff(AT_ONCE))
            .service(hyper(over));
        let body: BoxBody<Bytes, Infallible> = BodyExt::boxed(StreamBody::new(tokio_stream::iter(
            frames().map(|data| Ok(Frame::data(data))),
        )));
        let request = Request::put(server.url()).body(body).unwrap();
        let call = client.ready().await.unwrap().call(request);
        is_answered(within("an answer", call).await.unwrap(), 3).await;
        whole(&kept);

        let (server, kept) = keeper().await;
        let mut client = ServiceBuilder::new()
            .layer(Weir::http().backoff(AT_ONCE))
            .service(hyper(over));
        let body: UnsyncBoxBody<Bytes, BoxError> =
            boxed(stream(frames().map(Frame::data).collect()));
        let mut request = Request::post(server.url()).body(body).unwrap();
        request.extensions_mut().insert(Idempotent);
        let call = client.ready().await.unwrap().call(request);
        is_answered(within("an answer", call).await.unwrap(), 3).await;
        whole(&kept);
    }
}

#[tokio::test]
async fn a_stream_that_is_still_being_made_is_sent_again() {
    for over in [Http1, Http2] {
        let (server, kept) = keeper().await;
        let client = ServiceBuilder::new()
            .layer(RetryLayer::http().any_method().backoff(AT_ONCE))
            .service(hyper(over));
        let (sender, stream) = mpsc::channel::<Result<_, Infallible>>(1);
        let body = StreamBody::new(ReceiverStream::new(stream).map(|data| data.map(Frame::data)));
        let request = Request::post(server.url()).body(body).unwrap();
        let call = tokio::spawn(client.oneshot(request));
        for data in frames() {
            sender.send(Ok(data)).await.unwrap();
        }
        drop(sender);
        let response = within("an answer", call).await.unwrap();
        is_answered(response.unwrap(), 3).await;
        whole(&kept);
    }
}

#[tokio::test]
async fn a_post_that_may_have_been_processed_is_sent_once() {
    let (server, kept) = keeper().await;
    let client = ServiceBuilder::new()
        .layer(Weir::http().backoff(AT_ONCE))
        .service(hyper(Http1));
    let request = Request::post(server.url()).body(Full::<Bytes>::from("x"));
    let response = client.oneshot(request.unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.extensions().get::<Retried>().is_none());
    assert_eq!(kept.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn the_last_answer_is_the_callers_unchanged() {
    let server = Script::start(|number, _| {
        let body = format!("busy {number}");
        says(StatusCode::SERVICE_UNAVAILABLE, &[("x-why", "full")], body)
    })
    .await;
    let client = ServiceBuilder::new()
        .layer(Weir::http().max_retries(2).backoff(AT_ONCE))
        .service(hyper(Http1));
    let request = Request::get(server.url()).body(Empty::<Bytes>::new());
    let response = client.oneshot(request.unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["x-why"], "full");
    assert_eq!(response.extensions().get::<Retried>().unwrap().attempts, 3);
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "busy 3");
}

/// `an answer`, as gzip writes it.
const ZIPPED: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03K\xccSH\xcc+.O-\x02\x00\xda\xe1\xd2\xcc\t\x00\x00\x00";

/// A server whose every second request is refused; it sends callers of `/` on
/// to `/there`, and compresses for those who can read that.
async fn fickle() -> Script {
    Script::start(|number, request| {
        if number % 2 == 1 {
            return says(StatusCode::SERVICE_UNAVAILABLE, &[], "busy");
        }
        if request.uri().path() == "/" {
            return says(StatusCode::FOUND, &[("location", "/there")], "");
        }
        match request.headers().get("accept-encoding") {
            Some(_) => says(StatusCode::OK, &[("content-encoding", "gzip")], ZIPPED),
            None => says(StatusCode::OK, &[], "an answer"),
        }
    })
    .await
}

fn weir() -> Weir {
    Weir::http().backoff(AT_ONCE)
}

fn get(server: &Script, path: &str) -> Request<Full<Bytes>> {
    let url = format!("{}{path}", server.url());
    Request::get(url).body(Full::default()).unwrap()
}

#[tokio::test]
async fn with_trace_outside_and_inside() {
    let server = fickle().await;
    let client = ServiceBuilder::new()
        .layer(TraceLayer::new_for_http())
        .layer(weir())
        .layer(TraceLayer::new_for_http())
        .service(hyper(Http1));
    let response = client.oneshot(get(&server, "/there")).await.unwrap();
    is_answered(response, 2).await;
}

#[tokio::test]
async fn with_decompression_outside() {
    let server = fickle().await;
    let mut client = ServiceBuilder::new()
        .layer(DecompressionLayer::new())
        .layer(weir())
        .service(hyper(Http1));
    let response = client.ready().await.unwrap().call(get(&server, "/there"));
    is_answered(response.await.unwrap(), 2).await;
}

#[tokio::test]
async fn with_decompression_inside() {
    let server = fickle().await;
    let mut client = ServiceBuilder::new()
        .layer(weir())
        .layer(DecompressionLayer::new())
        .service(hyper(Http1));
    let response = client.ready().await.unwrap().call(get(&server, "/there"));
    is_answered(response.await.unwrap(), 2).await;
}

#[tokio::test]
async fn with_follow_redirect_outside() {
    let server = fickle().await;
    let mut client = ServiceBuilder::new()
        .layer(FollowRedirectLayer::new())
        .layer(weir())
        .service(hyper(Http1));
    let response = client.ready().await.unwrap().call(get(&server, "/"));
    is_answered(response.await.unwrap(), 2).await;
    // each of the two requests was refused once
    assert_eq!(server.requests(), 4);
}

#[tokio::test]
async fn with_follow_redirect_inside() {
    let server = Script::start(|number, request| match request.uri().path() {
        "/" => says(StatusCode::FOUND, &[("location", "/there")], ""),
        _ if number == 2 => says(StatusCode::SERVICE_UNAVAILABLE, &[], "busy"),
        _ => says(StatusCode::OK, &[], "an answer"),
    })
    .await;
    // It makes requests of its own, for which it wants a body with a default.
    let mut client = ServiceBuilder::new()
        .layer(weir().map_body(|body: ReplayBody<Full<Bytes>>| -> Boxed { body.boxed_unsync() }))
        .layer(FollowRedirectLayer::new())
        .service(hyper(Http1));
    let response = client.ready().await.unwrap().call(get(&server, "/"));
    is_answered(response.await.unwrap(), 2).await;
    // the redirect and what it leads to are one attempt
    assert_eq!(server.requests(), 4);
}

#[tokio::test]
async fn with_towers_timeout_outside_and_inside() {
    let server = fickle().await;
    let mut client = ServiceBuilder::new()
        .timeout(Duration::from_secs(20))
        .layer(weir())
        .timeout(Duration::from_secs(20))
        .service(hyper(Http1));
    let response = client.ready().await.unwrap().call(get(&server, "/there"));
    is_answered(response.await.unwrap(), 2).await;
}

#[tokio::test]
async fn with_a_buffer_outside_and_inside() {
    let server = fickle().await;
    let mut client = ServiceBuilder::new()
        .buffer(4)
        .layer(weir())
        .buffer(4)
        .service(hyper(Http1));
    let response = client.ready().await.unwrap().call(get(&server, "/there"));
    is_answered(response.await.unwrap(), 2).await;
}

#[tokio::test]
async fn with_load_shed_outside_and_inside() {
    let server = fickle().await;
    let mut client = ServiceBuilder::new()
        .load_shed()
        .layer(weir())
        .load_shed()
        .concurrency_limit(1)
        .service(hyper(Http1));
    let response = client.ready().await.unwrap().call(get(&server, "/there"));
    is_answered(response.await.unwrap(), 2).await;
}

#[tokio::test]
async fn with_everything_around_it() {
    let server = fickle().await;
    let client = ServiceBuilder::new()
        .buffer(4)
        .load_shed()
        .timeout(Duration::from_secs(20))
        .layer(TraceLayer::new_for_http())
        .layer(FollowRedirectLayer::new())
        .layer(DecompressionLayer::new())
        .layer(weir())
        .service(hyper(Http2));
    let call = tokio::spawn(client.oneshot(get(&server, "/")));
    is_answered(call.await.unwrap().unwrap(), 2).await;
}

#[tokio::test]
async fn calls_can_be_spawned() {
    let server = fickle().await;
    let client = ServiceBuilder::new().layer(weir()).service(hyper(Http1));
    let request = get(&server, "/there");
    let call = tokio::spawn(async move { client.oneshot(request).await });
    is_answered(call.await.unwrap().unwrap(), 2).await;

    // With a `dyn Error` in the body's type the call is made outside of the
    // task's async block: inside, the compiler finds hyper's own client not
    // general enough either.
    let client = ServiceBuilder::new().layer(weir()).service(hyper(Http1));
    let call = client.oneshot(get(&server, "/there").map(boxed));
    is_answered(tokio::spawn(call).await.unwrap().unwrap(), 2).await;
}

#[tokio::test]
async fn disabled_parts_leave_the_types_as_they_are() {
    let (server, _) = keeper().await;
    for (on, status) in [
        (false, StatusCode::SERVICE_UNAVAILABLE),
        (true, StatusCode::OK),
    ] {
        let weir = weir()
            .retry_enabled(on)
            .limiter_enabled(on)
            .breaker_enabled(on);
        let client = ServiceBuilder::new()
            .layer(weir.clone())
            .service(hyper(Http1));
        let response = client.oneshot(get(&server, "/")).await.unwrap();
        assert_eq!(response.status(), status);
        let host = &weir.snapshot()[0];
        assert_eq!((host.limiter.is_some(), host.circuit.is_some()), (on, on));
    }
    assert_eq!(server.requests(), 3);
}

#[tokio::test]
async fn refused_answers_with_large_bodies_leave_the_connection_alive() {
    const REQUESTS: u64 = 20;
    let server = Script::start(|number, _| match number % 2 {
        1 => says(StatusCode::SERVICE_UNAVAILABLE, &[], vec![b'x'; 64 << 10]),
        _ => says(StatusCode::OK, &[], "an answer"),
    })
    .await;
    // The refused body is read while the retry is waited for: here as long as
    // the shortest wait there is by default.
    let pause = Constant::new(Duration::from_millis(250));
    let mut client = ServiceBuilder::new()
        .layer(Weir::http().backoff(pause))
        .service(hyper(Http1));
    for _ in 0..REQUESTS {
        let response = client.ready().await.unwrap().call(get(&server, "/"));
        is_answered(response.await.unwrap(), 2).await;
    }
    assert_eq!(server.requests(), 2 * REQUESTS);
    // One, or so many more as this thread was held up for a whole pause. One
    // for every answer if they are not read.
    assert!(server.connections() <= 3, "{}", server.connections());
}
