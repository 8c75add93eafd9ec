use std::{
    collections::BTreeSet,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use http::StatusCode;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tower::{Service, ServiceExt, service_fn};

use super::*;
use crate::{
    BoxError,
    outcome::{Cause, Classify, HttpClassifier, Outcome, Protocol},
};

/// Items of the request that was given at first, by their places.
#[derive(Clone, Debug, PartialEq)]
struct Batch {
    items: Range<usize>,
    safe: bool,
}

impl Batch {
    fn of(count: usize) -> Self {
        Self {
            items: 0..count,
            safe: false,
        }
    }
}

impl Split for Batch {
    type Kept = Self;

    fn keep(&self) -> Self {
        self.clone()
    }

    fn count(kept: &mut Self) -> usize {
        kept.items.len()
    }

    fn part(kept: &Self, items: Range<usize>) -> Self {
        Self {
            items,
            safe: kept.safe,
        }
    }

    fn is_safe(kept: &Self) -> bool {
        kept.safe
    }
}

/// The items that were stored, or a status.
type Reply = Result<Vec<Range<usize>>, StatusCode>;

#[derive(Clone, Copy, Debug)]
struct ByStatus;

impl Classify<Reply> for ByStatus {
    fn classify(&self, protocol: Protocol, result: Result<&Reply, &BoxError>) -> Outcome {
        match result {
            Ok(Ok(_)) => Outcome::success(),
            Ok(Err(status)) => {
                let mut response = http::Response::new(());
                *response.status_mut() = *status;
                HttpClassifier::new().classify(protocol, Ok(&response))
            }
            Err(_) => Outcome::failed(),
        }
    }
}

fn together(replies: Vec<Reply>) -> Reply {
    let stored: Result<Vec<_>, _> = replies.into_iter().collect();
    Ok(stored?.concat())
}

type Layer = SplitLayer<ByStatus, MergeFn<fn(Vec<Reply>) -> Reply>>;

fn layer() -> Layer {
    let merge: fn(Vec<Reply>) -> Reply = together;
    SplitLayer::new(ByStatus, merge_fn(merge)).split_on([StatusCode::UNPROCESSABLE_ENTITY])
}

/// What was sent, in order.
type Log = Arc<Mutex<Vec<Range<usize>>>>;

async fn send(
    layer: Layer,
    batch: Batch,
    answer: impl Fn(&Range<usize>) -> Reply + Clone,
) -> (Result<Reply, BoxError>, Vec<Range<usize>>) {
    let log = Log::default();
    let told = log.clone();
    let server = service_fn(move |batch: Batch| {
        told.lock().unwrap().push(batch.items.clone());
        let reply = answer(&batch.items);
        async move {
            // Others get their turn.
            tokio::task::yield_now().await;
            Ok::<_, BoxError>(reply)
        }
    });
    let mut service = tower::ServiceBuilder::new().layer(layer).service(server);
    let result = service.ready().await.unwrap().call(batch).await;
    let sent = std::mem::take(&mut *log.lock().unwrap());
    (result, sent)
}

/// A server that takes 100 items a request, and none with a bad one.
fn strict(bad: &BTreeSet<usize>, items: &Range<usize>) -> Reply {
    if items.len() > 100 {
        Err(StatusCode::PAYLOAD_TOO_LARGE)
    } else if bad.range(items.clone()).next().is_some() {
        Err(StatusCode::UNPROCESSABLE_ENTITY)
    } else {
        Ok(vec![items.clone()])
    }
}

fn partial(result: Result<Reply, BoxError>) -> PartialFailure {
    *result.unwrap_err().downcast().unwrap()
}

fn items(ranges: impl IntoIterator<Item = Range<usize>>) -> Vec<usize> {
    ranges.into_iter().flatten().collect()
}

fn up_to(count: usize) -> Vec<usize> {
    (0..count).collect()
}

/// How many requests it takes to store all of 512 but `bad`.
async fn requests(concurrency: usize, bad: &BTreeSet<usize>) -> usize {
    let judge = bad.clone();
    let answer = move |items: &Range<usize>| strict(&judge, items);
    let (result, sent) = send(layer().concurrency(concurrency), Batch::of(512), answer).await;
    let partial = partial(result);
    assert_eq!(partial.delivered(), 512 - bad.len());
    assert!(partial.failed_items().eq(bad.iter().copied()), "{bad:?}");
    let parts = partial.into_parts::<Reply>().unwrap();
    let stored = parts.delivered.iter().map(|answer| answer.items.clone());
    let good: Vec<usize> = (0..512).filter(|item| !bad.contains(item)).collect();
    assert_eq!(items(stored), good);
    for (range, why) in parts.failed {
        assert_eq!(range.len(), 1);
        let told = Err(StatusCode::UNPROCESSABLE_ENTITY);
        assert!(matches!(why, Undelivered::Answered(reply) if reply == told));
    }
    sent.len()
}

#[tokio::test]
async fn three_bad_ones_of_512_are_found_wherever_they_are() {
    // First, last and middle of each 64, which is the size that is taken: what
    // can differ is which of the halvings a bad item is part of.
    let edges = [0, 31, 32, 63];
    let places: Vec<usize> = (0..8)
        .flat_map(|part| edges.map(|edge| 64 * part + edge))
        .collect();
    let mut worst = 0;
    for (at, first) in places.iter().enumerate() {
        for (after, second) in places.iter().enumerate().skip(at + 1) {
            for third in &places[after + 1..] {
                let bad = BTreeSet::from([*first, *second, *third]);
                worst = worst.max(requests(1, &bad).await);
            }
        }
    }
    // 14 for the size, and 12 for each that has 64 to itself.
    assert_eq!(worst, 14 + 3 * 12);

    let mut random = StdRng::seed_from_u64(8);
    for round in 0..600 {
        let mut bad = BTreeSet::new();
        while bad.len() < 3 {
            bad.insert(random.random_range(0..512));
        }
        let concurrency = [1, 2, 8, 64][round % 4];
        let took = requests(concurrency, &bad).await;
        assert!(took <= 51, "{took}: {bad:?} by {concurrency}");
    }
}

#[tokio::test]
async fn the_size_that_is_taken_is_learned() {
    let answer = |items: &Range<usize>| strict(&BTreeSet::new(), items);
    let (result, sent) = send(layer(), Batch::of(4096), answer).await;
    assert!(result.unwrap().is_ok());
    assert_eq!(sent.len(), 101);

    let (result, sent) = send(layer(), Batch::of(512), answer).await;
    let stored = result.unwrap().unwrap();
    assert!(stored.iter().all(|part| part.len() == 64));
    assert_eq!(items(stored), up_to(512), "merged in order");
    let sizes: Vec<usize> = sent.iter().map(Range::len).collect();
    assert_eq!(
        sizes,
        [512, 256, 128, 64, 64, 128, 64, 64, 128, 64, 64, 128, 64, 64]
    );
}

#[tokio::test]
async fn an_item_that_is_too_large_by_itself_costs_the_others_little() {
    for large in [0, 7, 255, 256, 300, 511] {
        let answer = move |items: &Range<usize>| match items.contains(&large) {
            true => Err(StatusCode::PAYLOAD_TOO_LARGE),
            false => Ok(vec![items.clone()]),
        };
        let (result, sent) = send(layer(), Batch::of(512), answer).await;
        let partial = partial(result);
        assert!(partial.failed_items().eq([large]));
        let cause = partial.failures()[0].cause();
        assert_eq!(cause, Some(Cause::Status(StatusCode::PAYLOAD_TOO_LARGE)));
        // As by plain halving.
        assert_eq!(sent.len(), 19, "{large}");
    }
}

#[tokio::test]
async fn large_items_take_hardly_more_than_by_plain_halving() {
    // Weights, of which the upstream takes 100 at once.
    fn weigh(seed: u64) -> Vec<usize> {
        let mut random = StdRng::seed_from_u64(seed);
        let weight = |_| match random.random_bool(0.02) {
            true => random.random_range(30..=100),
            false => 1,
        };
        (0..512).map(weight).collect()
    }
    fn plain(weights: &[usize]) -> usize {
        match weights.iter().sum::<usize>() > 100 {
            true => {
                let (left, right) = weights.split_at(weights.len() / 2);
                1 + plain(left) + plain(right)
            }
            false => 1,
        }
    }
    let (mut ours, mut halving) = (0, 0);
    for seed in 0..200 {
        let weights = Arc::new(weigh(seed));
        halving += plain(&weights);
        let answer =
            move |items: &Range<usize>| match weights[items.clone()].iter().sum::<usize>() > 100 {
                true => Err(StatusCode::PAYLOAD_TOO_LARGE),
                false => Ok(vec![items.clone()]),
            };
        let (result, sent) = send(layer(), Batch::of(512), answer).await;
        assert_eq!(items(result.unwrap().unwrap()), up_to(512));
        ours += sent.len();
    }
    // In the mean even less, since most of what is too large is so by numbers.
    assert!(ours <= halving, "{ours} of {halving}");
}

#[tokio::test]
async fn what_is_not_split_comes_back_as_it_is() {
    for status in [200, 400, 404, 429, 500, 503] {
        let status = StatusCode::from_u16(status).unwrap();
        let reply = match status.is_success() {
            true => Ok(Vec::new()),
            false => Err(status),
        };
        let told = reply.clone();
        let only_named = layer().refusals(None);
        let (result, sent) = send(only_named, Batch::of(8), move |_| told.clone()).await;
        assert_eq!((result.unwrap(), sent.len()), (reply, 1), "{status}");
    }
    for (layer, count) in [(layer(), 1), (layer(), 0), (layer().enabled(false), 8)] {
        let too_large = Err(StatusCode::PAYLOAD_TOO_LARGE);
        let told = too_large.clone();
        let (result, sent) = send(layer, Batch::of(count), move |_| told.clone()).await;
        assert_eq!((result.unwrap(), sent.len()), (too_large, 1));
    }
}

#[tokio::test]
async fn an_error_of_the_whole_is_the_callers() {
    let server = service_fn(|_: Batch| async { Err::<Reply, BoxError>("gone".into()) });
    let service = tower::ServiceBuilder::new().layer(layer()).service(server);
    let error = service.oneshot(Batch::of(8)).await.unwrap_err();
    assert_eq!(error.to_string(), "gone");
}

#[tokio::test]
async fn refused_pieces_are_halved_and_a_refused_item_ends_it() {
    let refuse = |at_most: usize| {
        move |items: &Range<usize>| match items.len() > at_most {
            true => Err(StatusCode::TOO_MANY_REQUESTS),
            false => Ok(vec![items.clone()]),
        }
    };
    let (result, sent) = send(layer(), Batch::of(8), refuse(2)).await;
    assert_eq!(items(result.unwrap().unwrap()), up_to(8));
    assert_eq!(sent[..4], [0..8, 0..4, 0..2, 2..4]);

    // An upstream that refuses everything gets as many as there are halvings.
    let (result, sent) = send(layer(), Batch::of(512), refuse(0)).await;
    assert_eq!(sent.len(), 10);
    let partial = partial(result);
    assert_eq!(partial.delivered(), 0);
    assert_eq!(partial.failures()[0].items(), 0..1);
    let shown = partial.to_string();
    let expected = "512 of 512 items were not delivered, the first because of: 429";
    assert_eq!(shown, expected);
    assert_eq!(
        items(partial.failures().iter().map(Failure::items)),
        up_to(512)
    );
    let parts = partial.into_parts::<Reply>().unwrap();
    let unsent = parts.failed.iter().skip(1);
    assert!(
        unsent
            .into_iter()
            .all(|(_, why)| matches!(why, Undelivered::NotSent))
    );
}

#[tokio::test]
async fn so_many_refusals_halve_a_piece() {
    let left = Arc::new(AtomicUsize::new(4));
    let answer = move |items: &Range<usize>| {
        let less = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(1)
        });
        match less {
            Ok(_) => Err(StatusCode::TOO_MANY_REQUESTS),
            Err(_) => Ok(vec![items.clone()]),
        }
    };
    let (result, sent) = send(layer().refusals(3), Batch::of(8), answer).await;
    assert!(result.unwrap().is_ok());
    assert_eq!(sent, [0..8, 0..8, 0..8, 0..4, 0..4, 4..8]);
}

/// Sent again whole, it was not split: there is nothing to merge or to report.
#[tokio::test]
async fn a_whole_that_is_sent_again_comes_back_as_it_is() {
    #[derive(Clone)]
    struct Never;
    impl Merge<Reply> for Never {
        fn merge(&self, _: Vec<Answer<Reply>>) -> Result<Reply, Unmerged<Reply>> {
            panic!("one answer is no two");
        }
    }
    let after = async |last: Result<Reply, BoxError>| {
        let last = Arc::new(Mutex::new(Some(last)));
        let calls = Arc::new(AtomicUsize::new(0));
        let server = service_fn(move |_: Batch| {
            let reply = match calls.fetch_add(1, Ordering::Relaxed) {
                0 => Ok(Err(StatusCode::TOO_MANY_REQUESTS)),
                _ => last.lock().unwrap().take().unwrap(),
            };
            async move { reply }
        });
        let layer = SplitLayer::new(ByStatus, Never).refusals(2);
        let service = tower::ServiceBuilder::new().layer(layer).service(server);
        service.oneshot(Batch::of(8)).await
    };
    let done: Reply = Ok(vec![Batch::of(8).items]);
    assert_eq!(after(Ok(done.clone())).await.unwrap(), done);
    let failed: Reply = Err(StatusCode::BAD_GATEWAY);
    assert_eq!(after(Ok(failed.clone())).await.unwrap(), failed);
    let error = after(Err("lost".into())).await.unwrap_err();
    assert_eq!(error.to_string(), "lost");
}

#[tokio::test]
async fn what_may_have_been_done_is_not_sent_in_parts_unless_that_is_safe() {
    let down = |items: &Range<usize>| match items.len() > 4 {
        true => Err(StatusCode::SERVICE_UNAVAILABLE),
        false => Ok(vec![items.clone()]),
    };
    let (result, sent) = send(layer(), Batch::of(8), down).await;
    assert_eq!(result.unwrap(), Err(StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!(sent.len(), 1);
    let safe = Batch {
        safe: true,
        ..Batch::of(8)
    };
    for (layer, batch) in [(layer(), safe), (layer().any_method(), Batch::of(8))] {
        let (result, sent) = send(layer, batch, down).await;
        assert!(result.unwrap().is_ok());
        assert_eq!(sent, [0..8, 0..4, 4..8]);
    }
}

#[tokio::test]
async fn a_part_that_fails_does_not_hold_up_the_others() {
    let log = Log::default();
    let told = log.clone();
    let server = service_fn(move |batch: Batch| {
        told.lock().unwrap().push(batch.items.clone());
        async move {
            match batch.items.clone() {
                Range { start: 2, end: 4 } => Err::<Reply, BoxError>("gone".into()),
                items if items.len() > 2 => Ok(Err(StatusCode::PAYLOAD_TOO_LARGE)),
                Range { start: 6, .. } => Ok(Err(StatusCode::FORBIDDEN)),
                items => Ok(Ok(vec![items])),
            }
        }
    });
    let service = tower::ServiceBuilder::new().layer(layer()).service(server);
    let partial = partial(service.oneshot(Batch::of(8)).await);
    assert_eq!(partial.delivered(), 4);
    assert!(partial.failed_items().eq([2, 3, 6, 7]));
    assert_eq!(
        std::error::Error::source(&partial).unwrap().to_string(),
        "gone"
    );
    let Err(partial) = partial.into_parts::<String>() else {
        panic!("another type");
    };
    let parts = partial.into_parts::<Reply>().unwrap();
    let [(first, gone), (second, forbidden)] = &parts.failed[..] else {
        panic!("{parts:?}");
    };
    assert!(matches!(gone, Undelivered::Error(error) if error.to_string() == "gone"));
    assert!(matches!(
        forbidden,
        Undelivered::Answered(Err(StatusCode::FORBIDDEN))
    ));
    assert_eq!((first.clone(), second.clone()), (2..4, 6..8));
    // None went again.
    let mut sent = log.lock().unwrap().clone();
    sent.sort_by_key(|items| (items.start, items.len()));
    sent.dedup();
    assert_eq!(sent.len(), log.lock().unwrap().len());
}

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

#[tokio::test]
async fn answers_that_are_no_whole_are_not_lost() {
    struct Picky;
    impl Merge<Reply> for Picky {
        fn merge(&self, answers: Vec<Answer<Reply>>) -> Result<Reply, Unmerged<Reply>> {
            let why = "of two kinds".into();
            Err(Unmerged { answers, why })
        }
    }
    let server = service_fn(|batch: Batch| async move {
        Ok::<Reply, BoxError>(match batch.items.len() {
            1..=4 => Ok(vec![batch.items]),
            _ => Err(StatusCode::PAYLOAD_TOO_LARGE),
        })
    });
    let layer = SplitLayer::new(ByStatus, Picky);
    let service = tower::ServiceBuilder::new().layer(layer).service(server);
    let partial = partial(service.oneshot(Batch::of(8)).await);
    let shown = partial.to_string();
    assert_eq!(
        shown,
        "the answers to 8 items were not merged: of two kinds"
    );
    assert!(partial.failures().is_empty() && partial.unmerged().is_some());
    let parts = partial.into_parts::<Reply>().unwrap();
    let stored = parts.delivered.into_iter().map(|answer| answer.items);
    assert_eq!(items(stored), up_to(8));
}
