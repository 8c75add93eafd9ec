//! Callers who go away.

use std::{future::pending, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneService};
use tower_weir::{
    BoxError,
    dead_letter::{DeadLetterLayer, LetterResult, sink_fn},
    outcome::Processed,
    retry::{Account, ReplayBody, RetryLayer},
};

use crate::support::*;

type Hung = BoxCloneService<Request<ReplayBody<Full<Bytes>>>, Answer, BoxError>;

fn hung() -> Hung {
    BoxCloneService::new(service_fn(|_| pending()))
}

async fn give_up(dead: &DeadLetterLayer) {
    let service = dead.layer(RetryLayer::http().layer(hung()));
    tokio::select! {
        _ = service.oneshot(post("whole")) => unreachable!(),
        () = tokio::time::sleep(Duration::from_secs(1)) => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_goes_away_leaves_no_letter() {
    let (dead, mut received) = layer();
    give_up(&dead).await;
    assert!(none(&mut received).await);
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_goes_away_leaves_a_letter_where_that_is_asked_for() {
    let (dead, mut received) = layer();
    give_up(&dead.on_cancel(true)).await;
    let letter = next(&mut received).await;
    assert_eq!(letter.result, LetterResult::Cancelled);
    assert_eq!(letter.request().unwrap().body(), "whole");
    assert_eq!(letter.attempts.len(), 1);
    assert_eq!((letter.attempts[0].took, &letter.ending), (None, &None));
    assert_eq!(letter.processed, Processed::Maybe);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_never_polled_is_one_whose_caller_went_away() {
    let (dead, mut received) = layer();
    let service = dead.on_cancel(true);
    let mut service = service.layer(RetryLayer::http().layer(hung()));
    let service = service.ready().await.unwrap();
    drop(tower::Service::call(service, post("whole")));
    assert_eq!(next(&mut received).await.result, LetterResult::Cancelled);
}

#[test]
fn what_has_no_runtime_to_go_to_is_counted() {
    let dead = DeadLetterLayer::new(sink_fn(|_| pending())).on_cancel(true);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(give_up(&dead));
    assert_eq!(dead.handle().pending(), 1);
    let mut service = dead.layer(service_fn(|_: Request<Full<Bytes>>| {
        pending::<Result<Answer, BoxError>>()
    }));
    let call = tower::Service::call(&mut service, post(""));
    // Its task goes with the runtime.
    drop(runtime);
    assert_eq!(
        (dead.handle().pending(), dead.handle().lost().shut_down),
        (0, 1)
    );
    drop(call);
    assert_eq!(
        (dead.handle().pending(), dead.handle().lost().shut_down),
        (0, 2)
    );
}

/// What is left of its caller's request is the same.
#[tokio::test(start_paused = true)]
async fn a_rule_that_panics_is_a_caller_who_goes_away() {
    for on_cancel in [false, true] {
        let (dead, mut received) = layer();
        let dead = dead.on_cancel(on_cancel).strict(true);
        let bug = || panic!("a bug of the user's");
        let dead = dead.failed(move |_, result| result.map_or(true, |_| bug()));
        let account = Account::default();
        let retry = RetryLayer::http().replay(account.clone());
        let service = dead.layer(retry.layer(upstream(|_| status(400))));
        let (feed, request) = fed();
        feed.send("all of it").unwrap();
        drop(feed);
        let call = tokio::spawn(service.oneshot(request));
        assert!(call.await.unwrap_err().is_panic());
        dead.handle().flush().await.unwrap();
        assert_eq!((dead.handle().pending(), account.used()), (0, 0));
        let letter = received.try_recv().ok();
        assert_eq!(letter.is_some(), on_cancel);
        if let Some(letter) = letter {
            assert_eq!(letter.result, LetterResult::Cancelled);
            assert_eq!(letter.request().unwrap().body(), "all of it");
        }
    }
}
