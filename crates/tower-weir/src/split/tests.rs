mod flights;
mod sizes;

use std::{
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::StatusCode;
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

fn partial(result: Result<Reply, BoxError>) -> PartialFailure {
    *result.unwrap_err().downcast().unwrap()
}

fn items(ranges: impl IntoIterator<Item = Range<usize>>) -> Vec<usize> {
    ranges.into_iter().flatten().collect()
}

fn up_to(count: usize) -> Vec<usize> {
    (0..count).collect()
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
