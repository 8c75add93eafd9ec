//! A server's admission under a shutdown.
#![cfg(feature = "server")]

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::{task::JoinHandle, time::sleep};
use tower::{Layer, ServiceExt, service_fn};
use tower_weir::{
    BoxError,
    server::{Admission, AdmissionBody, AdmissionLayer},
    shutdown::Shutdown,
};

use crate::rig::{SECOND, settle};

type Answer = Response<AdmissionBody<Full<bytes::Bytes>>>;

/// Serves `/n` in n seconds; at most one at a time.
async fn begin(layer: &AdmissionLayer, seconds: u32) -> JoinHandle<Answer> {
    let server: Admission<_> = layer.layer(service_fn(|request: Request<String>| async move {
        let seconds = request.uri().path()[1..].parse::<u32>()?;
        sleep(SECOND * seconds).await;
        Ok::<_, BoxError>(Response::new(Full::default()))
    }));
    let request = Request::post(format!("/{seconds}")).body(String::new());
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
    for call in [hangs, delayed, refused] {
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
