//! What a layer further out learns of a request.

use std::{future::pending, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::time::Instant;
use tower::{Layer, ServiceExt, service_fn};
use tower_weir::{
    BoxError,
    outcome::Processed,
    retry::{
        Account, Ending, NoRetry, NotReplayable, Recorder, ReplayBody, RetryLayer, wait::GiveUp,
    },
};

use crate::support::*;

fn recorded(mut request: Sent) -> (Sent, Recorder) {
    let recorder = Recorder::new();
    request.extensions_mut().insert(recorder.clone());
    (request, recorder)
}

fn post(body: &'static str) -> Sent {
    let body = Full::new(Bytes::from_static(body.as_bytes()));
    Request::post("http://a.test/").body(body).unwrap()
}

async fn body_of(recorder: &Recorder) -> Bytes {
    let handle = recorder.body().unwrap();
    let body: ReplayBody<()> = handle.take_over().unwrap();
    body.collect().await.unwrap().to_bytes()
}

fn causes(recorder: &Recorder) -> Vec<String> {
    let ends = recorder.attempts().into_iter();
    ends.map(|attempt| match attempt.end {
        Some(end) => end.outcome.cause.to_string(),
        None => "-".to_owned(),
    })
    .collect()
}

#[tokio::test(start_paused = true)]
async fn a_record_tells_every_attempt_with_its_time_and_the_wait_that_followed() {
    let (stack, seen) = stack(&RetryLayer::http().seed(1), |n| status([503, 429, 200][n]));
    let (request, recorder) = recorded(get("http://a.test/x"));
    assert_eq!(status_of(&stack, request).await, 200);
    let attempts = recorder.attempts();
    assert_eq!(causes(&recorder), ["503", "429", "200"]);
    assert_eq!(
        attempts.iter().map(|one| one.began).collect::<Vec<_>>(),
        seen.times()
    );
    assert!(attempts.iter().all(|one| &*one.host == "a.test"));
    for pair in attempts.windows(2) {
        let end = pair[0].end.unwrap();
        let (delay, waited) = (end.delay.unwrap(), pair[1].began - end.at);
        // tokio's timers count in milliseconds.
        assert!(delay <= waited && waited < delay + millis(1));
    }
    assert_eq!(attempts[2].end.unwrap().delay, None);
    assert_eq!(recorder.ending(), Some(Ending::Done));
}

#[tokio::test(start_paused = true)]
async fn a_record_has_the_body_that_the_attempts_have_consumed() {
    let (stack, _) = stack(&RetryLayer::http(), |_| status(500));
    let (request, recorder) = recorded(post("a batch"));
    assert_eq!(status_of(&stack, request).await, 500);
    assert_eq!(recorder.ending(), Some(Ending::Unsafe));
    assert_eq!(recorder.processed(), Processed::Maybe);
    assert_eq!(body_of(&recorder).await, "a batch");
    recorder.close();
    assert!(recorder.body().is_none() && recorder.attempts().is_empty());
}

#[tokio::test(start_paused = true)]
async fn refusals_alone_do_not_make_a_request_one_that_may_have_been_processed() {
    let (stack, _) = stack(&RetryLayer::http().max_retries(2), |n| {
        status([429, 429, 429][n])
    });
    let (request, recorder) = recorded(post(""));
    assert_eq!(status_of(&stack, request).await, 429);
    assert_eq!(recorder.ending(), Some(Ending::Exhausted));
    assert_eq!(recorder.processed(), Processed::No);
    assert_eq!(recorder.outcome().unwrap().cause, status_cause(429));
}

#[tokio::test(start_paused = true)]
async fn one_doubtful_attempt_taints_the_whole_request() {
    let (stack, _) = stack(&RetryLayer::http().max_retries(1), |n| {
        status([500, 429][n])
    });
    let (request, recorder) = recorded(get("http://a.test/"));
    assert_eq!(status_of(&stack, request).await, 429);
    assert_eq!(recorder.outcome().unwrap().processed, Processed::No);
    assert_eq!(recorder.processed(), Processed::Maybe);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_cut_by_the_deadline_stays_without_an_end() {
    let upstream =
        service_fn(|_: Request<ReplayBody<Full<Bytes>>>| pending::<Result<Answer, BoxError>>());
    let deadline = Duration::from_secs(5);
    let stack = RetryLayer::http().deadline(deadline).layer(upstream);
    let (request, recorder) = recorded(post("late"));
    let began = Instant::now();
    stack.oneshot(request).await.unwrap_err();
    assert_eq!(began.elapsed(), deadline);
    assert_eq!(causes(&recorder), ["-"]);
    assert_eq!(recorder.ending(), Some(Ending::Deadline));
    assert_eq!(recorder.processed(), Processed::Maybe);
    assert_eq!(body_of(&recorder).await, "late");
}

#[tokio::test(start_paused = true)]
async fn the_reason_for_giving_up_is_on_the_record() {
    let hint = |answer: &mut Answer| {
        answer
            .headers_mut()
            .insert("retry-after", "100".parse().unwrap());
    };
    let (stack, _) = stack(&RetryLayer::http(), move |_| {
        let mut answer = status(429);
        hint(&mut answer);
        answer
    });
    let (request, recorder) = recorded(post(""));
    assert_eq!(status_of(&stack, request).await, 429);
    let Some(Ending::GaveUp(GiveUp::HintTooLong { hint, .. })) = recorder.ending() else {
        panic!("{:?}", recorder.ending())
    };
    assert_eq!(hint, Duration::from_secs(100));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_sent_once_is_on_record_too() {
    let (stack, _) = stack(&RetryLayer::http(), |_| status(429));
    let (mut request, recorder) = recorded(post("once"));
    request.extensions_mut().insert(NoRetry);
    assert_eq!(status_of(&stack, request).await, 429);
    assert_eq!(causes(&recorder), ["429"]);
    assert_eq!(recorder.ending(), Some(Ending::Exhausted));
    assert_eq!(body_of(&recorder).await, "once");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_a_layer_further_out_has_recorded_is_not_recorded_twice() {
    let account = Account::new(1 << 20, 6);
    let frames = ["one", "two"].map(|data| {
        let data = Bytes::from_static(data.as_bytes());
        Ok::<_, BoxError>(http_body::Frame::data(data))
    });
    let body = StreamBody::new(tokio_stream::iter(frames));
    let (body, handle) = ReplayBody::new(body, &account);
    let recorder = Recorder::new();
    recorder.keep_body(&handle);

    let read = service_fn(|request: Request<ReplayBody<_>>| async move {
        let sent = request.into_body().collect().await?.to_bytes();
        assert_eq!(sent, "onetwo");
        Ok::<_, BoxError>(Response::builder().status(429).body(String::new()).unwrap())
    });
    // A second record of it would not find room.
    let stack = RetryLayer::http()
        .replay(account)
        .max_retries(2)
        .layer(read);
    let mut request = Request::post("http://a.test/").body(body).unwrap();
    request.extensions_mut().insert(recorder.clone());
    assert_eq!(stack.oneshot(request).await.unwrap().status(), 429);
    assert_eq!(causes(&recorder), ["429", "429", "429"]);
    assert_eq!(handle.not_replayable(), None::<NotReplayable>);
    assert_eq!(body_of(&recorder).await, "onetwo");
}

#[tokio::test(start_paused = true)]
async fn a_request_may_go_again_as_all_of_its_attempts_let_it() {
    // What the attempts came to, and whether it may, if repeating is not safe.
    for (answers, may) in [
        (&[429][..], true),
        (&[500], false),
        // The doubt of the first stays.
        (&[500, 429], false),
        (&[429, 429], true),
    ] {
        let retries = RetryLayer::http().any_method();
        let layer = retries.max_retries(answers.len() as u32 - 1);
        let (stack, _) = stack(&layer, |n| status(answers[n]));
        let (request, recorder) = recorded(post(""));
        status_of(&stack, request).await;
        assert_eq!(recorder.count(), answers.len());
        assert_eq!(recorder.may_repeat(false), may, "{answers:?}");
        assert!(recorder.may_repeat(true));
    }
    // gRPC repeats UNAVAILABLE whatever the method, though it may have been
    // processed; and nothing was ever sent of a request without attempts.
    let (stack, _) = stack(&RetryLayer::http().max_retries(1), |_| {
        grpc_status(14, None)
    });
    let (request, recorder) = recorded(grpc());
    assert!(recorder.may_repeat(false));
    call(&stack, request).await.unwrap();
    assert_eq!(recorder.processed(), Processed::Maybe);
    assert!(recorder.may_repeat(false));
}
