//! How long an operation is pending whose answer has gone out.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::{
    task::{JoinHandle, yield_now},
    time::{Instant, Sleep, sleep},
};
use tower::{
    Service, ServiceBuilder, ServiceExt, limit::ConcurrencyLimitLayer, service_fn,
    util::BoxCloneSyncService,
};
use tower_layer::Layer;
use tower_weir::server::{AdmissionBody, AdmissionLayer, Delayed};

const SECOND: Duration = Duration::from_secs(1);

/// A body of so many frames and trailers, or one that panics.
struct Frames {
    data: usize,
    trailers: bool,
    panics: bool,
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        assert!(!self.panics, "as asked");
        let frame = if self.data > 0 {
            self.data -= 1;
            Some(Frame::data(Bytes::from_static(b"x")))
        } else if self.trailers {
            self.trailers = false;
            Some(Frame::trailers(HeaderMap::new()))
        } else {
            None
        };
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data == 0 && !self.trailers
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.data as u64)
    }
}

type Answer = Response<AdmissionBody<Frames>>;

/// Serves what the path says: `/milliseconds/data/trailers`. A header of the answer
/// says how long the operation was delayed.
async fn handle(request: Request<String>) -> Result<Response<Frames>, Infallible> {
    let mut parts = request.uri().path()[1..].split('/');
    let mut part = || parts.next().map_or(0, |part| part.parse().unwrap());
    sleep(Duration::from_millis(part())).await;
    let delayed = request.extensions().get::<Delayed>();
    let delayed = delayed.map_or(0, |delayed| delayed.0.as_millis() as u64);
    let (data, trailers) = (part() as usize, part() > 0);
    let frames = Frames {
        data,
        trailers,
        panics: request.headers().contains_key("panics"),
    };
    let response = Response::builder().header("delayed", delayed);
    Ok(response.body(frames).unwrap())
}

fn layer() -> AdmissionLayer {
    AdmissionLayer::new().throttle_at(1).max_hold(SECOND)
}

fn post(path: &str) -> Request<String> {
    Request::post(path).body(String::new()).unwrap()
}

async fn send(layer: &AdmissionLayer, path: &str) -> Answer {
    let Ok(answer) = layer.layer(service_fn(handle)).oneshot(post(path)).await;
    answer
}

async fn begin(layer: &AdmissionLayer, path: &'static str) -> JoinHandle<Answer> {
    let layer = layer.clone();
    let task = tokio::spawn(async move { send(&layer, path).await });
    yield_now().await;
    task
}

fn pending(layer: &AdmissionLayer) -> (usize, usize) {
    let snapshot = &layer.snapshot()[0];
    (snapshot.pending(), snapshot.delayed())
}

#[tokio::test(start_paused = true)]
async fn it_is_pending_until_the_last_frame_has_been_read() {
    for (path, frames) in [
        ("/0/0", 0),
        ("/0/1", 1),
        ("/0/2", 2),
        ("/0/1/1", 2),
        ("/0/0/1", 1),
    ] {
        let layer = layer();
        let mut answer = send(&layer, path).await;
        for left in (0..frames).rev() {
            assert_eq!(pending(&layer), (1, 0), "{path}");
            answer.frame().await.unwrap().unwrap();
            assert_eq!(pending(&layer).0, usize::from(left > 0), "{path}");
        }
        assert_eq!(pending(&layer), (0, 0), "{path}");
        assert!(answer.frame().await.is_none());
        assert_eq!(pending(&layer), (0, 0), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_unread_it_is_over_at_once() {
    let layer = layer();
    for path in ["/0/1", "/0/2", "/0/1/1"] {
        let answer = send(&layer, path).await;
        assert_eq!(pending(&layer), (1, 0));
        drop(answer);
        assert_eq!(pending(&layer), (0, 0));
    }
    let answer = begin(&layer, "/500/1").await;
    answer.abort();
    yield_now().await;
    assert_eq!(pending(&layer), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_panics_is_over() {
    let layer = layer();
    let mut request = post("/0/1");
    request.headers_mut().insert("panics", 1.into());
    let Ok(answer) = layer.layer(service_fn(handle)).oneshot(request).await;
    let read = tokio::spawn(answer.into_body().collect());
    assert!(read.await.unwrap_err().is_panic());
    assert_eq!(pending(&layer), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_unread_body_is_pending_for_max_hold_after_its_head() {
    let layer = layer();
    // Longer than that without a head, which is nothing to do with it.
    let unread = send(&layer, "/2500/1").await;
    sleep(SECOND / 4).await;
    let start = Instant::now();
    let next = begin(&layer, "/0/1").await;
    assert_eq!(pending(&layer), (2, 1));
    let next = next.await.unwrap();
    assert_eq!(start.elapsed(), SECOND * 3 / 4);
    assert_eq!(next.headers()["delayed"], "750");
    assert_eq!(pending(&layer), (1, 0));
    // What was given to somebody else is not given back once more.
    assert_eq!(unread.collect().await.unwrap().to_bytes(), "x");
    assert_eq!(pending(&layer), (1, 0));
    drop(next);
    assert_eq!(pending(&layer), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn several_unread_bodies_are_taken_back_one_after_the_other() {
    let layer = layer().throttle_at(3);
    let mut unread = Vec::new();
    for _ in 0..3 {
        unread.push(send(&layer, "/100/1").await);
    }
    let start = Instant::now();
    let mut next = Vec::new();
    for _ in 0..3 {
        next.push(begin(&layer, "/0/1").await);
    }
    // Their heads went out after 100, 200 and 300 ms.
    for expected in [800, 900, 1000] {
        let answer = next.remove(0).await.unwrap();
        assert_eq!(start.elapsed(), Duration::from_millis(expected));
        unread.push(answer);
    }
    assert_eq!(pending(&layer), (3, 0));
    drop(unread);
    assert_eq!(pending(&layer), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_head_of_one_that_is_over_says_nothing_of_the_next_at_its_place() {
    let layer = layer();
    for answer in [send(&layer, "/0/1").await, send(&layer, "/0/2").await] {
        answer.collect().await.unwrap();
    }
    let unread = send(&layer, "/0/1").await;
    send(&layer, "/0/1").await;
    drop(unread);
    let running = begin(&layer, "/5000/1").await;
    let next = begin(&layer, "/0/1").await;
    drop(running.await.unwrap());
    assert_eq!(next.await.unwrap().headers()["delayed"], "5000");
}

#[tokio::test(start_paused = true)]
async fn who_waits_goes_when_the_body_has_been_read_and_not_before() {
    let layer = layer();
    let unread = send(&layer, "/0/1").await;
    let next = begin(&layer, "/0/1").await;
    sleep(SECOND / 2).await;
    assert_eq!(pending(&layer), (2, 1));
    unread.collect().await.unwrap();
    assert_eq!(next.await.unwrap().headers()["delayed"], "500");
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_an_unread_body_as_long_as_it_may_last() {
    let layer = layer();
    let unread = send(&layer, "/0/1").await;
    sleep(SECOND / 4).await;
    let start = Instant::now();
    layer.handle().drain().await;
    assert_eq!(start.elapsed(), SECOND * 3 / 4);
    drop(unread);
    assert_eq!(pending(&layer), (0, 0));
}

/// One operation after the other, since the inner service takes one at a time.
fn narrow(layer: &AdmissionLayer) -> BoxCloneSyncService<Request<String>, Answer, Infallible> {
    let service = ServiceBuilder::new()
        .layer(layer.clone())
        .layer(ConcurrencyLimitLayer::new(1))
        .service(service_fn(handle));
    BoxCloneSyncService::new(service)
}

#[tokio::test(start_paused = true)]
async fn whoever_finds_the_inner_service_busy_is_woken_when_it_is_not() {
    let layer = layer().throttle_at(3);
    let service = narrow(&layer);
    let start = Instant::now();
    let calls: Vec<_> = (0..3)
        .map(|_| tokio::spawn(service.clone().call(post("/100/1"))))
        .collect();
    assert_eq!(pending(&layer), (3, 0));
    for call in calls {
        let Ok(answer) = call.await.unwrap();
        answer.collect().await.unwrap();
    }
    assert_eq!(start.elapsed(), Duration::from_millis(300));
    assert_eq!(pending(&layer), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_its_turn_does_not_keep_the_inner_service_busy() {
    let layer = layer();
    let mut service = narrow(&layer);
    let first = tokio::spawn(service.call(post("/100/1")));
    // Made with the same service, and never polled.
    let idle = service.call(post("/100/1"));
    let third = tokio::spawn(service.call(post("/100/1")));
    let Ok(answer) = first.await.unwrap();
    drop(idle);
    drop(answer);
    let Ok(answer) = third.await.unwrap();
    drop(answer);
    assert_eq!(pending(&layer), (0, 0));
}

/// A body of one piece, which comes `/milliseconds` after the head.
struct Late(Pin<Box<Sleep>>, bool);

impl Body for Late {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.1 {
            return Poll::Ready(None);
        }
        ready!(self.0.as_mut().poll(cx));
        self.1 = true;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
    }

    fn is_end_stream(&self) -> bool {
        self.1
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_in_one_piece_but_later_has_taken_that_long() {
    let layer = layer().reject_at(2).max_hold(60 * SECOND);
    let service = layer.layer(service_fn(|_: Request<String>| async {
        Ok::<_, Infallible>(Response::new(Late(Box::pin(sleep(10 * SECOND)), false)))
    }));
    let whole = async || {
        let Ok(answer) = service.clone().oneshot(post("/")).await;
        let after = answer.headers().get("retry-after").cloned();
        answer.collect().await.unwrap();
        after
    };
    assert_eq!(whole().await, None);
    let (_, _, after) = tokio::join!(whole(), whole(), whole());
    // The other two, one after the other.
    assert_eq!(after.unwrap(), "20");
}

#[tokio::test(start_paused = true)]
async fn one_that_nobody_polls_is_in_nobodys_way_at_a_busy_inner_service() {
    let layer = layer().throttle_at(3).max_hold(60 * SECOND);
    let mut service = narrow(&layer);
    let first = tokio::spawn(service.call(post("/100/1")));
    // Made with the same service, and not polled.
    let idle = service.call(post("/100/1"));
    let third = tokio::spawn(service.call(post("/100/1")));
    let Ok(_) = first.await.unwrap();
    sleep(SECOND).await;
    assert!(third.is_finished(), "nobody is before it");
    drop(idle);
}
