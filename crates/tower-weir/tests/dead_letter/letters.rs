//! When there is a letter, and what it says.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::Full;
use tokio::time::Instant;
use tower::{Layer, ServiceBuilder, service_fn};
use tower_weir::{
    BoxError, Deadline, Weir,
    circuit_breaker::Control,
    dead_letter::{Absent, LetterBody, LetterResult, has_failed},
    error::CircuitOpen,
    outcome::Processed,
    retry::{Recorder, ReplayBody, Retried, RetryLayer, backoff::Constant},
};

use crate::support::*;

const SECOND: Constant = Constant::new(Duration::from_secs(1));

#[tokio::test(start_paused = true)]
async fn a_request_whose_retries_are_used_up_leaves_a_letter_and_its_caller_the_answer() {
    let (dead, mut received) = layer();
    let service = ServiceBuilder::new()
        .layer(dead.clone())
        .layer(RetryLayer::http().max_retries(2).backoff(SECOND))
        .service(upstream(|n| status([503, 429, 503][n])));
    let mut request = post("a batch");
    request
        .headers_mut()
        .insert("idempotency-key", HeaderValue::from_static("7"));
    let before = SystemTime::now();
    let answer = call(&service, request).await.unwrap();
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.extensions().get::<Retried>().unwrap().attempts, 3);
    assert_eq!(answer.body(), "what the server says");

    let letter = next(&mut received).await;
    assert_eq!(letter.method, "POST");
    assert_eq!(letter.uri, "http://a.test/upsert");
    assert_eq!(letter.idempotency_key().unwrap(), "7");
    assert_eq!(letter.request().unwrap().body(), "a batch");
    let causes: Vec<_> = letter
        .attempts
        .iter()
        .map(|one| one.cause.clone().unwrap())
        .collect();
    assert_eq!(causes, ["503", "429", "503"]);
    assert!(letter.attempts.iter().all(|one| one.host == "a.test"));
    assert!(
        letter
            .attempts
            .iter()
            .all(|one| one.took == Some(Duration::ZERO))
    );
    let delays: Vec<_> = letter.attempts.iter().map(|one| one.delay).collect();
    assert_eq!(
        delays,
        [
            Some(Duration::from_secs(1)),
            Some(Duration::from_secs(1)),
            None
        ]
    );
    // Paused time advances by the waits; the clock on the wall does not.
    let waited = letter.attempts[2]
        .at
        .duration_since(letter.attempts[0].at)
        .unwrap();
    assert!((2000..=2004).contains(&waited.as_millis()), "{waited:?}");
    let millisecond = Duration::from_millis(1);
    assert!(letter.at >= before - millisecond && letter.at <= SystemTime::now());
    assert_eq!(letter.ending.as_deref(), Some("the retries were used up"));
    assert_eq!(letter.processed, Processed::Maybe);
    let result = LetterResult::Response {
        status: StatusCode::SERVICE_UNAVAILABLE,
        grpc: None,
    };
    assert_eq!(letter.result, result);
    assert_eq!(
        (dead.handle().written(), dead.handle().lost().total()),
        (1, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn what_goes_well_leaves_no_letter() {
    let (dead, mut received) = layer();
    let service = ServiceBuilder::new()
        .layer(dead)
        .layer(RetryLayer::http())
        .service(upstream(|n| status([503, 200][n])));
    let request = Request::put("http://a.test/")
        .body(Full::<Bytes>::from("x"))
        .unwrap();
    assert_eq!(call(&service, request).await.unwrap().status(), 200);
    assert!(none(&mut received).await);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_repeated_leaves_a_letter_all_the_same() {
    let (dead, mut received) = layer();
    let service = ServiceBuilder::new()
        .layer(dead)
        .layer(RetryLayer::http())
        .service(upstream(|_| status(422)));
    assert_eq!(call(&service, post("bad")).await.unwrap().status(), 422);
    let letter = next(&mut received).await;
    assert_eq!(
        letter.ending.as_deref(),
        Some("the result is not one that is repeated")
    );
    assert_eq!(letter.request().unwrap().body(), "bad");
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_leaves_a_letter_with_a_body_that_nobody_had_read() {
    let (dead, mut received) = layer();
    let weir = Weir::http();
    let service = ServiceBuilder::new()
        .layer(dead)
        .layer(weir.clone())
        .service(upstream(|_| status(200)));
    // A host is known once it has been called.
    let (_, request) = fed();
    call(&service, request).await.unwrap();
    assert!(weir.handle().control_circuit("a.test", Control::ForcedOpen));

    let (feed, request) = fed();
    feed.send("the first half, ").unwrap();
    let error = call(&service, request).await.unwrap_err();
    assert!(error.is::<CircuitOpen>(), "{error}");
    // What comes later belongs to the letter, too.
    feed.send("the second").unwrap();
    drop(feed);
    let letter = next(&mut received).await;
    assert_eq!(
        letter.request().unwrap().body(),
        "the first half, the second"
    );
    let LetterResult::Error { fault, text } = &letter.result else {
        panic!("{:?}", letter.result)
    };
    assert_eq!(fault, "circuit_open");
    assert_eq!(*text, error.to_string());
    assert_eq!(letter.processed, Processed::No);
    assert_eq!(letter.attempts[0].cause.as_deref(), Some("local"));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_leaves_a_letter_with_the_attempt_that_it_cut() {
    let (dead, mut received) = layer();
    let service = ServiceBuilder::new()
        .layer(dead)
        .layer(RetryLayer::http())
        .service(tower::util::BoxCloneService::new(tower::service_fn(
            |_: Request<_>| std::future::pending::<Result<Answer, BoxError>>(),
        )));
    let mut request = post("late");
    let deadline = Deadline::after(Duration::from_secs(5));
    request.extensions_mut().insert(deadline);
    call(&service, request).await.unwrap_err();
    let letter = next(&mut received).await;
    assert_eq!(letter.ending.as_deref(), Some("the deadline passed"));
    assert_eq!(
        (letter.attempts[0].took, &letter.attempts[0].cause),
        (None, &None)
    );
    assert_eq!(letter.request().unwrap().body(), "late");
    assert!(matches!(letter.result, LetterResult::Error { fault, .. } if fault == "deadline"));
}

#[tokio::test(start_paused = true)]
async fn credentials_are_left_out_and_named() {
    let (dead, mut received) = layer();
    let send = async |dead: tower_weir::dead_letter::DeadLetterLayer| {
        let service = dead.layer(RetryLayer::http().layer(upstream(|_| status(400))));
        let mut request = post("");
        let headers = request.headers_mut();
        for name in ["authorization", "cookie", "x-api-key", "x-plain"] {
            headers.insert(name, HeaderValue::from_static("value"));
        }
        let mut secret = HeaderValue::from_static("value");
        secret.set_sensitive(true);
        headers.insert("x-secret", secret);
        call(&service, request).await.unwrap();
    };
    send(dead.clone()).await;
    let letter = next(&mut received).await;
    let mut left_out: Vec<_> = letter.left_out.iter().map(ToString::to_string).collect();
    left_out.sort_unstable();
    assert_eq!(
        left_out,
        ["authorization", "cookie", "x-api-key", "x-secret"]
    );
    let kept: Vec<_> = letter.headers.keys().map(ToString::to_string).collect();
    assert_eq!(kept, ["x-plain"]);

    send(dead.leave_out([header::COOKIE])).await;
    let letter = next(&mut received).await;
    let mut left_out: Vec<_> = letter.left_out.iter().map(ToString::to_string).collect();
    left_out.sort_unstable();
    assert_eq!(left_out, ["cookie", "x-secret"]);
}

#[tokio::test(start_paused = true)]
async fn a_grpc_status_in_the_headers_is_a_failure() {
    let grpc = |status: &'static str| {
        let mut answer = self::status(200);
        let headers = answer.headers_mut();
        headers.insert("grpc-status", HeaderValue::from_static(status));
        headers.insert("grpc-message", HeaderValue::from_static("no%20room"));
        answer
    };
    let request = |content_type: &'static str| {
        let mut request = post("");
        let value = HeaderValue::from_static(content_type);
        request.headers_mut().insert(header::CONTENT_TYPE, value);
        request
    };
    let (dead, mut received) = layer();
    let service = dead
        .clone()
        .layer(RetryLayer::http().layer(upstream(move |_| grpc("3"))));
    call(&service, request("application/grpc")).await.unwrap();
    let letter = next(&mut received).await;
    let LetterResult::Response {
        status,
        grpc: Some(said),
    } = letter.result
    else {
        panic!("{:?}", letter.result)
    };
    assert_eq!((status, &*said.code), (StatusCode::OK, "INVALID_ARGUMENT"));
    assert_eq!(said.message.as_deref(), Some("no%20room"));
    // Not gRPC: the header means nothing.
    call(&service, request("application/json")).await.unwrap();
    let service = dead.layer(RetryLayer::http().layer(upstream(move |_| grpc("0"))));
    call(&service, request("application/grpc")).await.unwrap();
    assert!(none(&mut received).await);
}

#[tokio::test(start_paused = true)]
async fn without_retries_further_in_the_body_is_absent_and_said_to_be() {
    let (dead, mut received) = layer();
    let refuses = tower::service_fn(|_: Request<Full<Bytes>>| async {
        Err::<Answer, BoxError>(std::io::Error::other("broken").into())
    });
    let service = dead.clone().layer(refuses);
    let error = call(&service, post("gone")).await.unwrap_err();
    assert_eq!(error.to_string(), "broken");
    let letter = next(&mut received).await;
    assert_eq!(letter.body, LetterBody::Absent(Absent::NotRecorded));
    assert!(letter.attempts.is_empty() && letter.ending.is_none());
    assert_eq!(letter.processed, Processed::Maybe);
    let LetterResult::Error { text, .. } = &letter.result else {
        panic!("{:?}", letter.result)
    };
    assert_eq!(text, "broken");

    let service = dead.layer(upstream(|_| status(500)));
    assert_eq!(call(&service, post("gone")).await.unwrap().status(), 500);
    assert_eq!(
        next(&mut received).await.request().unwrap_err(),
        Absent::NotRecorded
    );
}

#[tokio::test(start_paused = true)]
async fn a_closure_says_what_has_failed() {
    let (dead, mut received) = layer();
    let dead = dead.failed(|request, result| {
        has_failed(request, result) && result.map_or(true, |head| head.status != 404)
    });
    let service = dead.layer(RetryLayer::http().layer(upstream(|n| status([404, 400][n]))));
    call(&service, post("one")).await.unwrap();
    call(&service, post("two")).await.unwrap();
    assert_eq!(next(&mut received).await.request().unwrap().body(), "two");
    assert!(none(&mut received).await);
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_is_off_does_nothing() {
    let (dead, mut received) = layer();
    let bare = tower::service_fn(|request: Request<Full<Bytes>>| async move {
        assert!(request.extensions().get::<Recorder>().is_none());
        Ok::<_, BoxError>(status(500))
    });
    let service = dead.enabled(false).layer(bare);
    call(&service, post("")).await.unwrap();
    assert!(none(&mut received).await);
}

#[tokio::test(start_paused = true)]
async fn clones_share_what_they_count_and_a_setter_begins_anew() {
    let (dead, mut received) = layer();
    let service = RetryLayer::http().layer(upstream(|_| status(400)));
    call(&dead.clone().layer(service.clone()), post(""))
        .await
        .unwrap();
    call(&dead.layer(service.clone()), post("")).await.unwrap();
    dead.handle().flush().await.unwrap();
    assert_eq!(dead.handle().written(), 2);
    let other = dead.clone().max_pending(1);
    call(&other.layer(service), post("")).await.unwrap();
    other.handle().flush().await.unwrap();
    assert_eq!((other.handle().written(), dead.handle().written()), (1, 2));
    for _ in 0..3 {
        next(&mut received).await;
    }
}

#[cfg(feature = "idempotency")]
#[tokio::test(start_paused = true)]
async fn a_letter_has_the_key_that_the_retries_gave_the_request() {
    use tower_weir::retry::IdempotencyKey;

    let (dead, mut received) = layer();
    let retry = RetryLayer::http().idempotency_key(IdempotencyKey::random());
    let (sent, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let service = dead.layer(
        retry.layer(tower::util::BoxCloneService::new(tower::service_fn(
            move |request: Request<tower_weir::retry::ReplayBody<Full<Bytes>>>| {
                sent.send(request.headers()["idempotency-key"].clone())
                    .unwrap();
                async { Ok::<_, BoxError>(status(400)) }
            },
        ))),
    );
    call(&service, post("")).await.unwrap();
    let letter = next(&mut received).await;
    assert_eq!(letter.idempotency_key(), seen.recv().await.as_ref());
}

#[tokio::test(start_paused = true)]
async fn a_letter_takes_no_time_of_its_callers() {
    let (dead, _received) = layer();
    let service = dead.layer(RetryLayer::http().layer(upstream(|_| status(400))));
    let start = Instant::now();
    call(&service, post("")).await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[cfg(feature = "idempotency")]
#[tokio::test(start_paused = true)]
async fn a_key_that_is_a_secret_is_left_out_too() {
    let (dead, mut received) = layer();
    let retry = RetryLayer::http().idempotency_key(tower_weir::retry::IdempotencyKey::random());
    let service = dead.layer(retry.layer(upstream(|_| status(400))));
    let mut request = post("");
    let mut secret = HeaderValue::from_static("secret");
    secret.set_sensitive(true);
    request.headers_mut().insert("idempotency-key", secret);
    call(&service, request).await.unwrap();
    let letter = next(&mut received).await;
    assert_eq!(letter.idempotency_key(), None);
    assert_eq!(letter.left_out, ["idempotency-key"]);
}

#[tokio::test(start_paused = true)]
async fn what_came_with_a_request_goes_before_its_letter() {
    let (dead, _received) = layer();
    let (_feed, mut request) = fed();
    let guest = std::sync::Arc::new(());
    request.extensions_mut().insert(guest.clone());
    let attempts = RetryLayer::http().layer(service_fn(|_: Request<ReplayBody<Boxed>>| async {
        Ok::<_, BoxError>(status(400))
    }));
    call(&dead.layer(attempts), request).await.unwrap();
    tokio::task::yield_now().await;
    assert_eq!(dead.handle().pending(), 1, "its body is waited for");
    assert_eq!(std::sync::Arc::strong_count(&guest), 1);
}
