//! Callers who wait for their letters.

use std::{
    error::Error,
    future::{pending, ready},
    io,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::time::Instant;
use tower::{Layer, service_fn};
use tower_weir::{
    BoxError,
    dead_letter::{DeadLetterLayer, Loss, NotKept, sink_fn},
    retry::RetryLayer,
};

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn a_strict_caller_has_the_answer_when_the_letter_is_kept() {
    let second = Duration::from_secs(1);
    let dead = DeadLetterLayer::new(sink_fn(move |_| async move {
        tokio::time::sleep(second).await;
        Ok(())
    }));
    let dead = dead.strict(true).max_pending(0);
    let service = dead.layer(RetryLayer::http().layer(upstream(|n| status([400, 200][n]))));
    let start = Instant::now();
    assert_eq!(call(&service, post("")).await.unwrap().status(), 400);
    assert_eq!((start.elapsed(), dead.handle().written()), (second, 1));
    assert_eq!(call(&service, post("")).await.unwrap().status(), 200);
    assert_eq!(start.elapsed(), second);
}

#[tokio::test(start_paused = true)]
async fn a_strict_caller_is_told_that_the_letter_was_not_kept() {
    let dead = DeadLetterLayer::new(sink_fn(|_| ready(Err("disk full".into())))).strict(true);
    let service = dead.layer(RetryLayer::http().layer(upstream(|_| status(400))));
    let error = call(&service, post("")).await.unwrap_err();
    let not_kept = error.downcast_ref::<NotKept>().unwrap();
    assert_eq!(not_kept.why(), Loss::Failed);
    assert_eq!(not_kept.status(), Some(StatusCode::BAD_REQUEST));
    assert!(not_kept.source().is_none());

    let dead = DeadLetterLayer::new(sink_fn(|_| pending())).strict(true);
    let service = dead.layer(service_fn(|_: Request<Full<Bytes>>| async {
        Err::<Answer, BoxError>(io::Error::other("broken").into())
    }));
    let start = Instant::now();
    let error = call(&service, post("")).await.unwrap_err();
    assert_eq!(start.elapsed(), Duration::from_secs(30));
    let not_kept = error.downcast_ref::<NotKept>().unwrap();
    assert_eq!((not_kept.why(), not_kept.status()), (Loss::TimedOut, None));
    assert_eq!(not_kept.source().unwrap().to_string(), "broken");
    assert_eq!(
        error.to_string(),
        "the request failed, and its letter was not kept: the sink did not keep it in time"
    );
}
