//! A server's admission under a shutdown.
#![cfg(feature = "server")]

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::{task::JoinHandle, time::sleep};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_weir::{
    BoxError,
    observe::{Event, Refused},
    outcome::{Classify, HttpClassifier, Processed, Protocol, Repeat},
    server::{Admission, AdmissionBody, AdmissionLayer},
    shutdown::Shutdown,
};

use crate::rig::{SECOND, settle};

type Answer = Response<AdmissionBody<Full<bytes::Bytes>>>;

/// Serves `/n` in n seconds; at most one at a time.
async fn begin(layer: &AdmissionLayer, seconds: u32) -> JoinHandle<Answer> {
    begin_as(layer, seconds, "text/plain").await
}

async fn begin_as(
    layer: &AdmissionLayer,
    seconds: u32,
    content_type: &'static str,
) -> JoinHandle<Answer> {
    let server: Admission<_> = layer.layer(service_fn(|request: Request<String>| async move {
        let seconds = request.uri().path()[1..].parse::<u32>()?;
        sleep(SECOND * seconds).await;
        Ok::<_, BoxError>(Response::new(Full::default()))
    }));
    let request = Request::post(format!("/{seconds}"))
        .header("content-type", content_type)
        .body(String::new());
    let call = tokio::spawn(async move { server.oneshot(request.unwrap()).await.unwrap() });
    settle().await;
    call
}

async fn status(call: JoinHandle<Answer>) -> StatusCode {
    let answer = call.await.unwrap();
    let status = answer.status();
    answer.into_body().collect().await.unwrap();
    status
}

#[tokio::test(start_paused = true)]
async fn every_operation_is_answered() {
    let shutdown = Shutdown::new();
    let layer = AdmissionLayer::new().shutdown(&shutdown).throttle_at(2);
    let [finishes, hangs, delayed] = [
        begin(&layer, 3).await,
        begin(&layer, 1000).await,
        begin(&layer, 1).await,
    ];
    let drain = tokio::spawn({
        let shutdown = shutdown.clone();
        async move { shutdown.drain(9 * SECOND).await }
    });
    settle().await;
    let refused = begin(&layer, 1).await;
    let drained = drain.await.unwrap();
    assert_eq!((drained.finished, drained.queued), (1, 1));
    assert_eq!((drained.refused, drained.cut), (1, 1));
    assert_eq!((drained.bodies, drained.took), (0, 9 * SECOND));
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    assert_eq!(status(finishes).await, StatusCode::OK);
    assert_eq!(status(hangs).await, unavailable);
    for call in [delayed, refused] {
        let answer = call.await.unwrap();
        assert_eq!(answer.status(), unavailable);
        assert_eq!(answer.headers()["retry-after"], "5");
    }
}

#[tokio::test(start_paused = true)]
async fn with_nothing_in_flight_it_is_over_at_once() {
    let shutdown = Shutdown::new();
    let layer = AdmissionLayer::new().shutdown(&shutdown);
    assert_eq!(status(begin(&layer, 1).await).await, StatusCode::OK);
    let drained = shutdown.drain(9 * SECOND).await;
    assert_eq!(drained, tower_weir::shutdown::Drained::default());
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_was_cut_is_not_said_to_be_safe_to_repeat() {
    for (content_type, protocol) in [
        ("text/plain", Protocol::Http),
        ("application/grpc", Protocol::Grpc),
    ] {
        let classify = |answer: &Answer| HttpClassifier::new().classify(protocol, Ok(answer));
        let shutdown = Shutdown::new();
        let layer = AdmissionLayer::new().shutdown(&shutdown).throttle_at(1);
        let hangs = begin_as(&layer, 1000, content_type).await;
        let delayed = begin_as(&layer, 1, content_type).await;
        assert_eq!(shutdown.drain(SECOND).await.cut, 1);
        // It never ran: anybody may send it again.
        let outcome = classify(&delayed.await.unwrap());
        assert_eq!(outcome.repeat, Repeat::Always, "{content_type}");
        let cut = hangs.await.unwrap();
        assert!(!cut.headers().contains_key("retry-after"));
        let outcome = classify(&cut);
        assert_ne!(outcome.processed, Processed::No, "{content_type}");
        assert_ne!(outcome.repeat, Repeat::Always, "{content_type}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_refused_is_told_of_as_an_event() {
    let shutdown = Shutdown::new();
    let layer = AdmissionLayer::new()
        .shutdown(&shutdown)
        .key(|_| "tenant".into());
    let mut notices = layer.handle().subscribe();
    shutdown.begin();
    begin(&layer, 1).await.await.unwrap();
    let notice = notices.recv().await.unwrap();
    assert_eq!(&*notice.host, "tenant");
    assert_eq!(notice.event, Event::Refused(Refused::ShuttingDown));
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_is_counted_in_as_it_begins_is_counted_once() {
    let shutdown = Shutdown::new();
    let begins = shutdown.clone();
    let layer = AdmissionLayer::new().shutdown(&shutdown).key(move |_| {
        begins.begin();
        "tenant".into()
    });
    let refused = begin(&layer, 1).await;
    assert_eq!(status(refused).await, StatusCode::SERVICE_UNAVAILABLE);
    let drained = shutdown.drain(SECOND).await;
    assert_eq!((drained.queued, drained.refused), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_never_began_is_said_to_be_safe_to_repeat_also_at_once() {
    for (content_type, protocol) in [
        ("text/plain", Protocol::Http),
        ("application/grpc", Protocol::Grpc),
    ] {
        let shutdown = Shutdown::new();
        let layer = AdmissionLayer::new().shutdown(&shutdown);
        let layer = layer.throttle_at(1).reject_at(2);
        let mut server = layer.layer(service_fn(|_: Request<String>| {
            std::future::pending::<Result<Response<Full<bytes::Bytes>>, BoxError>>()
        }));
        let request = || {
            Request::post("/1")
                .header("content-type", content_type)
                .body(String::new())
                .unwrap()
        };
        // Nobody has polled them when they are cut: the first may have begun.
        let calls = [(); 3].map(|()| server.call(request()));
        assert_eq!(shutdown.drain(std::time::Duration::ZERO).await.cut, 3);
        for call in calls.into_iter().skip(1) {
            let answer = call.await.unwrap();
            let outcome = HttpClassifier::new().classify(protocol, Ok(&answer));
            assert_eq!(outcome.repeat, Repeat::Always, "{content_type}");
        }
    }
}
