//! In how many requests a batch goes.

use std::{collections::BTreeSet, ops::Range, sync::Arc};

use http::StatusCode;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;

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
