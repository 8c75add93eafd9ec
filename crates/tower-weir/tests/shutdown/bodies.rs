//! Responses whose bodies are still being read.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::{StreamExt, wrappers::UnboundedReceiverStream};
use tower::{Layer, ServiceExt, service_fn};
use tower_weir::{BoxError, Weir, retry::ReplayBody, shutdown::Shutdown};

use crate::rig::SECOND;

/// A response over HTTP whose body is what is sent to the channel.
async fn streaming(
    shutdown: &Shutdown,
) -> (
    mpsc::UnboundedSender<Bytes>,
    Response<impl http_body::Body<Data = Bytes, Error = BoxError> + use<>>,
) {
    streaming_after(shutdown, Duration::ZERO).await
}

/// The same, whose head takes its time.
async fn streaming_after(
    shutdown: &Shutdown,
    time: Duration,
) -> (
    mpsc::UnboundedSender<Bytes>,
    Response<impl http_body::Body<Data = Bytes, Error = BoxError> + use<>>,
) {
    let (frames, body) = mpsc::unbounded_channel::<Bytes>();
    let body = std::sync::Arc::new(std::sync::Mutex::new(Some(body)));
    let service = service_fn(move |_: Request<ReplayBody<String>>| {
        let frames = UnboundedReceiverStream::new(body.lock().unwrap().take().unwrap());
        let body = StreamBody::new(frames.map(|data| Ok::<_, BoxError>(Frame::data(data))));
        async move {
            tokio::time::sleep(time).await;
            Ok::<_, BoxError>(Response::new(body))
        }
    });
    let request = Request::get("http://a.test/").body(String::new()).unwrap();
    let client = Weir::http().shutdown(shutdown).layer(service);
    (frames, client.oneshot(request).await.unwrap())
}

#[tokio::test(start_paused = true)]
async fn an_open_body_is_waited_for() {
    let shutdown = Shutdown::new();
    let (frames, response) = streaming(&shutdown).await;
    assert_eq!(shutdown.in_flight(), 0);
    let reader = tokio::spawn(async move { response.into_body().collect().await.unwrap() });
    let writer = tokio::spawn(async move {
        tokio::time::sleep(3 * SECOND).await;
        frames.send(Bytes::from_static(b"the end")).unwrap();
    });
    let drained = shutdown.drain(9 * SECOND).await;
    assert_eq!((drained.bodies, drained.took), (0, 3 * SECOND));
    assert!(drained.is_clean());
    assert_eq!(reader.await.unwrap().to_bytes(), "the end");
    writer.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_open_when_the_grace_is_over_is_counted_and_not_cut() {
    let shutdown = Shutdown::new();
    let (frames, response) = streaming(&shutdown).await;
    let start = Instant::now();
    let drained = shutdown.drain(2 * SECOND).await;
    assert_eq!((drained.bodies, drained.cut), (1, 0));
    assert_eq!((start.elapsed(), drained.is_clean()), (2 * SECOND, false));
    frames.send(Bytes::from_static(b"whole")).unwrap();
    drop(frames);
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "whole");
    assert_eq!(shutdown.drain(Duration::ZERO).await.bodies, 0);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_nobody_reads_is_waited_for_as_long_as_it_may_be_held() {
    let shutdown = Shutdown::new();
    let (_frames, _unread) = streaming(&shutdown).await;
    tokio::time::sleep(10 * SECOND).await;
    // It may be held for 30 s.
    let drained = shutdown.drain(3600 * SECOND).await;
    assert_eq!((drained.bodies, drained.took), (0, 20 * SECOND));
    assert!(drained.is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_comes_while_it_drains_is_waited_for_as_long_as_it_may_be_held() {
    let shutdown = Shutdown::new();
    let begins = shutdown.clone();
    let drain = tokio::spawn(async move {
        tokio::time::sleep(SECOND).await;
        begins.drain(3600 * SECOND).await
    });
    let (_frames, _unread) = streaming_after(&shutdown, 3 * SECOND).await;
    let drained = drain.await.unwrap();
    assert_eq!((drained.finished, drained.bodies), (1, 0));
    assert_eq!(drained.took, 32 * SECOND);
}
