//! Request bodies: what is recorded of them, and what is told when that ends.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::task::{JoinSet, yield_now};
use tower::{Layer, ServiceExt, service_fn};
use tower_weir::{
    observe::Event,
    outcome::Idempotent,
    retry::{Account, NotReplayable, RetryLayer},
};

use crate::support::*;

const MIB: usize = 1 << 20;

/// A body of unknown length, in shared chunks.
struct Upload {
    chunk: Bytes,
    left: usize,
}

impl Upload {
    fn new(length: usize) -> Self {
        let chunk = Bytes::from(vec![7; 64 * 1024]);
        Self {
            chunk,
            left: length,
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let take = self.chunk.len().min(self.left);
        self.left -= take;
        let data = (take > 0).then(|| Ok(Frame::data(self.chunk.slice(..take))));
        Poll::Ready(data)
    }
}

async fn read<B: Body<Error: std::fmt::Debug> + Unpin>(mut body: B, each: impl Fn()) -> usize {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame.unwrap().data_ref().map_or(0, Buf::remaining);
        each();
        yield_now().await;
    }
    length
}

/// What came of 1,000 uploads at once to an upstream that reads each to its end
/// and refuses it the first time.
struct Uploads {
    delivered: usize,
    retried: usize,
    peak: usize,
    told: Told,
}

async fn upload(account: Account, length: usize) -> Uploads {
    let told = Told::default();
    let layer = RetryLayer::http()
        .no_budget()
        .replay(account.clone())
        .observe(told.by());
    let peak = Arc::new(AtomicUsize::new(0));
    let delivered = Arc::new(AtomicUsize::new(0));
    let mut uploads = JoinSet::new();
    for _ in 0..1_000 {
        let attempts = Arc::new(AtomicUsize::new(0));
        let (account, peak, delivered) = (account.clone(), peak.clone(), delivered.clone());
        let upstream = service_fn(move |request: Request<_>| {
            let attempt = attempts.fetch_add(1, Ordering::Relaxed);
            let (account, peak, delivered) = (account.clone(), peak.clone(), delivered.clone());
            async move {
                let watch = || {
                    peak.fetch_max(account.used(), Ordering::Relaxed);
                };
                let read = read(request.into_body(), watch).await;
                assert_eq!(read, length);
                if attempt == 0 {
                    delivered.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<_, Infallible>(status(if attempt == 0 { 503 } else { 200 }))
            }
        });
        let stack = layer.layer(upstream);
        let request = Request::put("http://a.test/").body(Upload::new(length));
        uploads.spawn(async move { stack.oneshot(request.unwrap()).await.unwrap().status() });
    }
    let answers = uploads.join_all().await;
    assert_eq!(account.used(), 0);
    Uploads {
        delivered: delivered.load(Ordering::Relaxed),
        retried: answers.iter().filter(|status| **status == 200).count(),
        peak: peak.load(Ordering::Relaxed),
        told,
    }
}

fn lost(why: NotReplayable) -> impl Fn(&Event) -> bool {
    move |event| *event == Event::NotReplayable { why }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_uploads_stay_within_the_layers_cap_and_are_all_delivered_once() {
    let total = Account::TOTAL;
    let run = upload(Account::new(16 * MIB, total), 8 * MIB).await;
    assert_eq!(run.delivered, 1_000);
    assert!(run.peak <= total && run.peak > total / 2, "{}", run.peak);
    // As many as the cap holds whole are repeated.
    assert!(
        (1..=total / (8 * MIB)).contains(&run.retried),
        "{}",
        run.retried
    );
    let over = run.told.count(lost(NotReplayable::OverLayerCap));
    assert_eq!(over, 1_000 - run.retried);
}

#[tokio::test(start_paused = true)]
async fn an_upload_over_a_requests_own_cap_is_delivered_once() {
    let run = upload(Account::default(), 8 * MIB).await;
    assert_eq!((run.delivered, run.retried), (1_000, 0));
    assert!(run.peak <= Account::TOTAL);
    let over = run.told.count(lost(NotReplayable::OverRequestCap));
    let over_layer = run.told.count(lost(NotReplayable::OverLayerCap));
    assert_eq!(over + over_layer, 1_000);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_cannot_be_sent_again_is_told_once_and_only_when_a_retry_was_due() {
    for (status_of_first, safe, expected) in [
        (503, true, 1),
        (503, false, 0),
        (200, true, 0),
        (404, true, 0),
        (429, false, 1),
    ] {
        let told = Told::default();
        let layer = RetryLayer::http()
            .replay(Account::new(10, 1_000))
            .observe(told.by());
        let stack = layer.layer(service_fn(move |request: Request<_>| async move {
            read(request.into_body(), || {}).await;
            Ok::<Response<String>, Infallible>(status(status_of_first))
        }));
        let mut request = Request::post("http://a.test/")
            .body(Upload::new(11))
            .unwrap();
        if safe {
            request.extensions_mut().insert(Idempotent);
        }
        let answer = stack.oneshot(request).await.unwrap();
        assert_eq!(answer.status().as_u16(), status_of_first);
        let count = told.count(lost(NotReplayable::OverRequestCap));
        assert_eq!(count, expected, "{status_of_first} {safe}");
        assert_eq!(told.count(|event| matches!(event, Event::Retry { .. })), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_never_repeated_is_not_recorded() {
    let account = Account::default();
    for layer in [
        RetryLayer::http().max_retries(0),
        RetryLayer::http().enabled(false),
    ] {
        let watched = account.clone();
        let stack = layer
            .replay(account.clone())
            .layer(service_fn(move |request: Request<_>| {
                let account = watched.clone();
                async move {
                    read(request.into_body(), || assert_eq!(account.used(), 0)).await;
                    Ok::<Response<String>, Infallible>(status(503))
                }
            }));
        let request = Request::put("http://a.test/")
            .body(Upload::new(MIB))
            .unwrap();
        stack.oneshot(request).await.unwrap();
    }
}
