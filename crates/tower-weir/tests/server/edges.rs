//! What no caller would, and settings that nobody should.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{Full, StreamBody};
use tokio::{
    task::yield_now,
    time::{Instant, advance, sleep},
};
use tokio_stream::StreamExt;
use tower::{Service, ServiceExt, service_fn};
use tower_layer::Layer;
use tower_weir::server::{AdmissionConfig, AdmissionLayer, Class, ClassLimits, Limits};

use crate::support::{SERVICE, Wakes, begin, grpc, pending, post, send, server, text};

/// What a rejection reads of a body whose frames of `size` come every `pause`, and
/// how long it takes.
async fn read_of(
    change: impl FnOnce(&mut Request<()>),
    size: usize,
    pause: Duration,
) -> (usize, Duration) {
    let layer = AdmissionLayer::new().reject_at(0);
    let service = layer.layer(service_fn(|_| async {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    let read = Arc::new(AtomicUsize::new(0));
    let count = read.clone();
    let frames = tokio_stream::iter(0..1000).then(move |_| {
        let count = count.clone();
        async move {
            sleep(pause).await;
            count.fetch_add(size, Ordering::Relaxed);
            Ok::<_, Infallible>(Frame::data(Bytes::from(vec![0; size])))
        }
    });
    let mut head = Request::post("/a").body(()).unwrap();
    change(&mut head);
    let request = head.map(|()| StreamBody::new(frames.take(100)));
    let before = Instant::now();
    let Ok(answer) = service.oneshot(request).await;
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    (read.load(Ordering::Relaxed), before.elapsed())
}

#[tokio::test(start_paused = true)]
async fn what_comes_of_a_rejected_request_is_read_before_the_answer_within_bounds() {
    let millis = Duration::from_millis;
    // All of it.
    let whole = read_of(|_| {}, 10_000, millis(10)).await;
    assert_eq!(whole, (1_000_000, millis(1000)));
    // Until it has read 8 MiB, or for 5 s, or until nothing comes for 0.5 s.
    let large = read_of(|_| {}, 1 << 20, millis(10)).await;
    assert_eq!(large, (9 << 20, millis(90)));
    let slow = read_of(|_| {}, 1, millis(190)).await;
    assert_eq!(slow, (26, millis(5000)));
    let silent = read_of(|_| {}, 1, millis(1000)).await;
    assert_eq!(silent, (0, millis(500)));
    // Not where the caller can be told to stop, or has not begun.
    let http2 = read_of(
        |head| *head.version_mut() = http::Version::HTTP_2,
        1,
        millis(10),
    );
    assert_eq!(http2.await, (0, Duration::ZERO));
    let expect = http::HeaderValue::from_static("100-continue");
    let waits = read_of(
        |head| drop(head.headers_mut().insert("expect", expect)),
        1,
        millis(10),
    );
    assert_eq!(waits.await, (0, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn the_greatest_and_the_least_settings_do_what_they_say() {
    let greatest = |limits: &mut Limits| {
        limits.throttle_at = usize::MAX;
        limits.reject_at = usize::MAX;
        limits.max_delay = Duration::MAX;
        limits.max_bytes = Some(u64::MAX);
        limits.max_age = Some(Duration::MAX);
        limits.storage_mark = f64::INFINITY;
    };
    let layer = AdmissionLayer::new()
        .limits(greatest)
        .class(
            Class::RECORD,
            ClassLimits::new()
                .throttle_at(1)
                .reject_at(usize::MAX)
                .max_delay(Duration::MAX),
        )
        .max_hold(Duration::MAX)
        .max_keys(usize::MAX)
        .unsized_body(u64::MAX)
        .drain_retry_after(Duration::MAX);
    let (server, handle) = (server(&layer), layer.handle());
    handle.report_storage(f64::MAX);
    let first = send(&server, post("/a")).await;
    let second = begin(&server, post("/a")).await;
    sleep(Duration::from_secs(1_000_000)).await;
    assert_eq!(pending(&layer), (2, 1));
    drop(first);
    assert_eq!(second.await.unwrap().status(), StatusCode::OK);
    let drain = handle.drain();
    tokio::select! {
        biased;
        () = drain => {}
        () = sleep(SERVICE) => panic!("nothing runs"),
    }
    let refused = send(&server, post("/a")).await;
    let most = u64::MAX.to_string();
    assert_eq!(refused.headers()["retry-after"], &*most);
    let refused = send(&server, grpc()).await;
    let most = i32::MAX.to_string();
    assert_eq!(refused.headers()["grpc-retry-pushback-ms"], &*most);

    let least = |limits: &mut Limits| {
        limits.max_delay = Duration::ZERO;
        limits.max_bytes = Some(0);
        limits.max_age = Some(Duration::ZERO);
        limits.storage_mark = 0.0;
    };
    let layer = AdmissionLayer::new()
        .limits(least)
        .max_hold(Duration::ZERO)
        .max_keys(0)
        .drain_retry_after(Duration::ZERO);
    let server = crate::support::server(&layer);
    let code = async |request| {
        let answer = send(&server, request).await;
        let body: serde_json::Value = serde_json::from_str(&text(answer).await).unwrap();
        body["code"].as_str().map(str::to_owned)
    };
    let delete = || Request::delete("/a").body("1".to_owned()).unwrap();
    assert_eq!(code(post("/a")).await.as_deref(), Some("storage-full"));
    let running = begin(&server, delete()).await;
    assert_eq!(code(delete()).await.as_deref(), Some("queue-too-large"));
    layer
        .handle()
        .update(|config| config.limits.max_bytes = None);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(code(delete()).await.as_deref(), Some("old-jobs"));
    layer.handle().update(|config| {
        config.limits.max_age = None;
        config.limits.throttle_at = 1;
    });
    assert_eq!(code(delete()).await.as_deref(), Some("too-many-jobs"));
    // It is over with the head.
    let unread = running.await.unwrap();
    assert_eq!(pending(&layer), (0, 0));
    layer.handle().drain().await;
    let refused = send(&server, delete()).await;
    assert_eq!(refused.headers()["retry-after"], "1");
    drop(unread);
}

#[tokio::test(start_paused = true)]
async fn an_update_may_put_all_limits_back_and_leaves_the_rest() {
    let import = Class::new("import");
    let layer = AdmissionLayer::new()
        .class(import, ClassLimits::new().throttle_at(1))
        .classify(move |_| import)
        .throttle_at(2);
    let (server, handle) = (server(&layer), layer.handle());
    for _ in 0..2 {
        begin(&server, post("/a")).await;
    }
    assert_eq!(pending(&layer), (2, 1));
    handle.report_storage(0.96);
    handle.update(|config| *config = AdmissionConfig::default());
    assert_eq!(handle.storage(), 0.96);
    let snapshot = &layer.snapshot()[0];
    assert_eq!(snapshot.limit, 100);
    let class = snapshot.class("import").unwrap();
    assert_eq!((class.pending, class.delayed), (2, 1));
    assert_eq!(send(&server, post("/a")).await.status(), 429);
    handle.update(|config| {
        assert_eq!(config.class_mut(import).unwrap().throttle_at, Some(1));
    });
}

#[tokio::test(start_paused = true)]
async fn a_setters_new_value_knows_of_no_storage() {
    let layer = AdmissionLayer::new();
    layer.handle().report_storage(1.0);
    let other = layer.clone().throttle_at(5);
    assert_eq!(other.handle().storage(), 0.0);
    assert_eq!(send(&server(&other), post("/a")).await.status(), 200);
    assert_eq!(send(&server(&layer), post("/a")).await.status(), 429);
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_not_woken_again_and_again_where_bodies_are_hardly_held() {
    for max_hold in [
        Duration::ZERO,
        Duration::from_nanos(1),
        Duration::from_millis(1),
    ] {
        let layer = AdmissionLayer::new().throttle_at(1).max_hold(max_hold);
        let server = server(&layer);
        let running = begin(&server, post("/a")).await;
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(wakes.clone());
        let cx = &mut Context::from_waker(&waker);
        let mut waits = Box::pin(server.clone().call(post("/a")));
        for _ in 0..10 {
            assert!(waits.as_mut().poll(cx).is_pending());
            advance(SERVICE / 20).await;
            yield_now().await;
        }
        let woken = wakes.0.load(Ordering::SeqCst);
        assert_eq!(woken, 0, "{max_hold:?}");
        drop(running.await.unwrap());
        drop(waits.await);
        assert_eq!(pending(&layer), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn an_unread_body_is_held_for_as_little_as_is_said() {
    for millis in [1, 99, 100, 101] {
        let max_hold = Duration::from_millis(millis);
        let layer = AdmissionLayer::new().throttle_at(1).max_hold(max_hold);
        let server = server(&layer);
        let unread = send(&server, post("/a")).await;
        let start = Instant::now();
        assert_eq!(pending(&layer), (1, 0));
        let next = send(&server, post("/a")).await;
        assert_eq!(start.elapsed(), max_hold + SERVICE);
        assert_eq!(pending(&layer), (1, 0));
        drop((unread, next));
        assert_eq!(pending(&layer), (0, 0));
    }
}
