//! How the parts of a batch are under way.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use http::StatusCode;
use tower::{Service, ServiceExt, service_fn};

use super::*;

#[tokio::test]
async fn as_many_parts_are_under_way_as_it_was_told() {
    for (concurrency, expected) in [(0, 1), (1, 1), (3, 3), (1000, 64)] {
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (under_way, peak) = (now.clone(), most.clone());
        let server = service_fn(move |batch: Batch| {
            let (now, most) = (under_way.clone(), peak.clone());
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                for _ in 0..3 {
                    tokio::task::yield_now().await;
                }
                now.fetch_sub(1, Ordering::SeqCst);
                Ok::<Reply, BoxError>(match batch.items.len() {
                    1 => Ok(vec![batch.items]),
                    _ => Err(StatusCode::PAYLOAD_TOO_LARGE),
                })
            }
        });
        let layer = layer().concurrency(concurrency);
        let service = tower::ServiceBuilder::new().layer(layer).service(server);
        let stored = service.oneshot(Batch::of(64)).await.unwrap().unwrap();
        assert_eq!(items(stored), up_to(64));
        assert_eq!(most.load(Ordering::SeqCst), expected, "{concurrency}");
    }
}

/// Ready only once for each time it was asked twice; fails for good after `calls`.
#[derive(Clone)]
struct Fussy {
    ready: bool,
    calls: usize,
    asked: Arc<AtomicUsize>,
}

impl Service<Batch> for Fussy {
    type Response = Reply;
    type Error = BoxError;
    type Future = std::future::Ready<Result<Reply, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.calls == 0 {
            return Poll::Ready(Err("closed".into()));
        }
        if self.asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, batch: Batch) -> Self::Future {
        assert!(
            std::mem::take(&mut self.ready),
            "called without being ready"
        );
        self.calls -= 1;
        std::future::ready(Ok(match batch.items.len() {
            1..=2 => Ok(vec![batch.items]),
            _ => Err(StatusCode::PAYLOAD_TOO_LARGE),
        }))
    }
}

#[tokio::test]
async fn each_part_waits_until_the_service_is_ready() {
    for concurrency in [1, 4] {
        let fussy = |calls| Fussy {
            ready: false,
            calls,
            asked: Arc::default(),
        };
        let layer = layer().concurrency(concurrency);
        let stack = |calls| {
            let layer = layer.clone();
            tower::ServiceBuilder::new()
                .layer(layer)
                .service(fussy(calls))
        };
        let stored = stack(20).oneshot(Batch::of(8)).await.unwrap().unwrap();
        assert_eq!(items(stored), up_to(8));

        // It closes before all is sent.
        let partial = partial(stack(3).oneshot(Batch::of(8)).await);
        let named: Vec<usize> = partial.failed_items().collect();
        assert_eq!(named.len() + partial.delivered(), 8);
        let errors = partial.failures().iter().filter_map(Failure::error);
        assert_eq!(
            errors.map(ToString::to_string).collect::<Vec<_>>(),
            ["closed"]
        );
        let unsent = partial.failures().iter().filter(|f| f.cause().is_none());
        assert!(unsent.count() > 0);
    }
}

struct Watch(Arc<AtomicBool>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_goes_away_takes_all_parts_along() {
    let sent = Arc::new(AtomicUsize::new(0));
    let dropped = Arc::new(AtomicBool::new(false));
    let (count, watched) = (sent.clone(), dropped.clone());
    let server = service_fn(move |batch: Batch| {
        count.fetch_add(1, Ordering::SeqCst);
        let watch = (batch.items.len() < 8).then(|| Watch(watched.clone()));
        async move {
            let _watch = watch;
            if batch.items.len() < 8 {
                std::future::pending::<()>().await;
            }
            Ok::<Reply, BoxError>(Err(StatusCode::PAYLOAD_TOO_LARGE))
        }
    });
    let service = tower::ServiceBuilder::new().layer(layer()).service(server);
    tokio::select! {
        _ = service.oneshot(Batch::of(8)) => panic!("a part that never ends has ended"),
        () = tokio::time::sleep(std::time::Duration::from_secs(1)) => {}
    }
    assert!(dropped.load(Ordering::SeqCst));
    assert_eq!(sent.load(Ordering::SeqCst), 2);
}

/// The parts that are under way go with it, and the service is as it was.
#[tokio::test(start_paused = true)]
async fn user_code_that_panics_takes_nothing_along() {
    #[derive(Clone)]
    struct Judge(Arc<AtomicBool>);
    impl Classify<Reply> for Judge {
        fn classify(&self, protocol: Protocol, result: Result<&Reply, &BoxError>) -> Outcome {
            let part = result.is_ok_and(Result::is_ok);
            let bug = part && self.0.swap(false, Ordering::SeqCst);
            assert!(!bug, "a bug of the user's");
            ByStatus.classify(protocol, result)
        }
    }
    let [judge, merge] = [true, false].map(|armed| Arc::new(AtomicBool::new(armed)));
    let bug = merge.clone();
    let merge_all = merge_fn(move |replies: Vec<Reply>| {
        assert!(!bug.swap(false, Ordering::SeqCst), "a bug of the user's");
        together(replies)
    });
    let under_way = Arc::new(AtomicUsize::new(0));
    let count = under_way.clone();
    let server = service_fn(move |batch: Batch| {
        count.fetch_add(1, Ordering::SeqCst);
        let under_way = Ends(count.clone());
        async move {
            let _under_way = under_way;
            // The first part is there before the others.
            tokio::time::sleep(std::time::Duration::from_millis(batch.items.end as u64)).await;
            Ok::<Reply, BoxError>(match batch.items.len() {
                1..=2 => Ok(vec![batch.items]),
                _ => Err(StatusCode::PAYLOAD_TOO_LARGE),
            })
        }
    });
    let layer = SplitLayer::new(Judge(judge), merge_all).concurrency(4);
    let service = tower::ServiceBuilder::new().layer(layer).service(server);
    for again in [false, true] {
        let service = service.clone();
        let one = || tokio::spawn(service.clone().oneshot(Batch::of(8)));
        assert!(one().await.unwrap_err().is_panic(), "{again}");
        assert_eq!(under_way.load(Ordering::SeqCst), 0);
        if !again {
            merge.store(true, Ordering::SeqCst);
        } else {
            assert_eq!(items(one().await.unwrap().unwrap().unwrap()), up_to(8));
        }
    }
}

struct Ends(Arc<AtomicUsize>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
