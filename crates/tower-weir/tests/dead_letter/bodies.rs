//! The body of a letter.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Collected, Full, StreamBody};
use tokio::{sync::mpsc, time::Instant};
use tower::{Layer, service_fn, util::BoxCloneService};
use tower_weir::{
    BoxError,
    dead_letter::{Absent, LetterBody},
    retry::{Account, ReplayBody, RetryLayer},
};

use crate::support::*;

type Early = BoxCloneService<Request<ReplayBody<Boxed>>, Answer, BoxError>;

/// Answers at once, and goes on reading the body.
fn early() -> (Early, mpsc::UnboundedReceiver<Result<Bytes, BoxError>>) {
    let (read, whole) = mpsc::unbounded_channel();
    let service = service_fn(move |request: Request<ReplayBody<Boxed>>| {
        let read = read.clone();
        async move {
            tokio::spawn(async move {
                let body = request.into_body().collect().await;
                let _ = read.send(body.map(Collected::to_bytes));
            });
            Ok::<_, BoxError>(status(400))
        }
    });
    (BoxCloneService::new(service), whole)
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_still_sends_is_not_cut_short_for_a_letter() {
    let (dead, mut received) = layer();
    let (upstream, mut whole) = early();
    let service = dead.layer(RetryLayer::http().layer(upstream));
    let (feed, request) = fed();
    feed.send("one, ").unwrap();
    assert_eq!(call(&service, request).await.unwrap().status(), 400);
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert!(received.is_empty());
    feed.send("two").unwrap();
    drop(feed);
    assert_eq!(whole.recv().await.unwrap().unwrap(), "one, two");
    assert_eq!(
        next(&mut received).await.request().unwrap().body(),
        "one, two"
    );
}

#[tokio::test(start_paused = true)]
async fn a_letter_waits_for_its_body_so_long_and_no_longer() {
    let (dead, mut received) = layer();
    let (upstream, mut whole) = early();
    let dead = dead.body_timeout(Duration::from_secs(7));
    let service = dead.layer(RetryLayer::http().layer(upstream));
    let (feed, request) = fed();
    feed.send("one, ").unwrap();
    let start = Instant::now();
    call(&service, request).await.unwrap();
    let letter = next(&mut received).await;
    assert_eq!(start.elapsed(), Duration::from_secs(7));
    assert_eq!(letter.body, LetterBody::Absent(Absent::TimedOut));
    // The attempt goes on.
    feed.send("two").unwrap();
    drop(feed);
    assert_eq!(whole.recv().await.unwrap().unwrap(), "one, two");
}

#[tokio::test(start_paused = true)]
async fn a_body_over_the_cap_is_absent() {
    let long = "x".repeat(1000);
    let send = async |record: usize, letter: usize, recorded: bool| {
        let (dead, mut received) = layer();
        let retry = RetryLayer::http().replay(Account::new(record, 1 << 20));
        let dead = dead.max_body(letter);
        let body = Full::<Bytes>::from(long.clone());
        if recorded {
            let body = body.map_err(BoxError::from).boxed_unsync();
            let service = dead.layer(retry.layer(upstream(|_| status(400))));
            call(&service, Request::new(body)).await.unwrap();
        } else {
            let service = dead.layer(retry.layer(upstream(|_| status(400))));
            call(&service, Request::new(body)).await.unwrap();
        }
        next(&mut received).await.body
    };
    let absent = LetterBody::Absent(Absent::TooLong);
    let whole = LetterBody::Whole(long.clone().into());
    assert_eq!(send(1000, 1000, true).await, whole);
    assert_eq!(send(999, 1000, true).await, absent);
    assert_eq!(send(1000, 999, true).await, absent);
    // What need not be recorded has only the letter's own cap.
    assert_eq!(send(0, 1000, false).await, whole);
    assert_eq!(send(0, 999, false).await, absent);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_fails_is_absent_and_its_error_the_callers() {
    let (dead, mut received) = layer();
    let service = dead.layer(RetryLayer::http().layer(upstream(|_| status(200))));
    let body = http_body_util::Limited::new(Full::<Bytes>::from("too long"), 3).boxed_unsync();
    call(&service, Request::new(body)).await.unwrap_err();
    let letter = next(&mut received).await;
    assert_eq!(letter.body, LetterBody::Absent(Absent::Failed));
}

#[tokio::test(start_paused = true)]
async fn letters_on_their_way_hold_so_much_together() {
    let (letters, mut received) = mpsc::channel(1);
    let sink = tower_weir::dead_letter::ChannelSink::new(letters);
    let dead = tower_weir::dead_letter::DeadLetterLayer::new(sink).max_pending_bytes(10);
    let service = dead.layer(RetryLayer::http().layer(upstream(|_| status(400))));
    // The channel has room for the first one.
    for body in ["the first!", "the second", "third"] {
        call(&service, post(body)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(dead.handle().pending(), 2);
    let mut bodies = Vec::new();
    for _ in 0..3 {
        bodies.push(next(&mut received).await.request().map(Request::into_body));
    }
    assert_eq!(
        bodies,
        [
            Ok("the first!".into()),
            Ok("the second".into()),
            Err(Absent::NoRoom)
        ]
    );
}

/// Those of a bulk writer that waited out an outage, say.
#[tokio::test(start_paused = true)]
async fn many_attempts_take_the_room_of_bodies() {
    let (letters, mut received) = mpsc::channel(1);
    let sink = tower_weir::dead_letter::ChannelSink::new(letters);
    let dead = tower_weir::dead_letter::DeadLetterLayer::new(sink).max_pending_bytes(1000);
    let wait = tower_weir::retry::backoff::Constant::new(Duration::from_millis(1));
    let retries = |most| RetryLayer::http().max_retries(most).backoff(wait);
    let send = async |most, body| {
        let many = dead.layer(retries(most).no_budget().layer(upstream(|_| status(429))));
        call(&many, post(body)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    // The channel has room for the first one.
    for (most, body) in [(0, "few"), (100, "many"), (0, "few again")] {
        send(most, body).await;
    }
    let mut came = Vec::new();
    for _ in 0..3 {
        let letter = next(&mut received).await;
        came.push((letter.attempts.len(), letter.request().is_ok()));
    }
    assert_eq!(came, [(1, true), (101, false), (1, false)]);
    dead.handle().flush().await.unwrap();
    send(0, "later").await;
    assert_eq!(next(&mut received).await.request().unwrap().body(), "later");
}

/// An upstream that answers without a look at the body.
fn blind() -> Early {
    BoxCloneService::new(service_fn(|_| async { Ok(status(400)) }))
}

#[tokio::test(start_paused = true)]
async fn a_body_that_panics_is_absent_and_the_letter_is_not() {
    let (dead, mut received) = layer();
    let service = dead.layer(RetryLayer::http().layer(blind()));
    let frames = tokio_stream::iter([()]);
    let frames = tokio_stream::StreamExt::map(frames, |()| panic!("a bug in the body"));
    let body = StreamBody::new(frames).boxed_unsync();
    let request = Request::post("http://a.test/stream").body(body).unwrap();
    call(&service, request).await.unwrap();
    let letter = next(&mut received).await;
    assert_eq!(letter.body, LetterBody::Absent(Absent::Failed));
    assert_eq!(letter.method, "POST");
}
