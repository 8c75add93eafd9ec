//! Keys by which an upstream tells repetitions.

use std::collections::HashSet;

use http::{HeaderName, HeaderValue, Method};
use tower_weir::retry::{IdempotencyKey, Recorder, RetryLayer};

use crate::support::*;

fn post() -> Sent {
    let mut request = get("http://a.test/");
    *request.method_mut() = Method::POST;
    request
}

fn random() -> RetryLayer {
    RetryLayer::http().idempotency_key(IdempotencyKey::random())
}

#[tokio::test(start_paused = true)]
async fn a_post_with_a_key_is_repeated_and_keeps_it() {
    let (bare, seen) = stack(&RetryLayer::http(), |_| status(500));
    call(&bare, post()).await.unwrap();
    assert_eq!(seen.count(), 1);

    let (keyed, seen) = stack(&random(), |_| status(500));
    call(&keyed, post()).await.unwrap();
    call(&keyed, post()).await.unwrap();
    let keys = seen.headers("idempotency-key");
    assert_eq!(keys.len(), 8);
    assert!(
        keys[..4]
            .iter()
            .all(|key| *key == keys[0] && key.len() == 36)
    );
    assert_eq!(keys.into_iter().collect::<HashSet<_>>().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn no_key_comes_again_whatever_the_seed() {
    let keys = || async {
        let (keyed, seen) = stack(&random().seed(1), |_| status(200));
        call(&keyed, post()).await.unwrap();
        call(&keyed, post()).await.unwrap();
        seen.headers("idempotency-key")
    };
    let mut all = [keys().await, keys().await].concat();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn who_has_a_key_keeps_it_and_who_needs_none_gets_none() {
    let (keyed, seen) = stack(&random(), |_| status(200));
    let mut own = post();
    own.headers_mut()
        .insert("idempotency-key", HeaderValue::from_static("mine"));
    call(&keyed, own).await.unwrap();
    call(&keyed, get("http://a.test/")).await.unwrap();
    assert_eq!(seen.headers("idempotency-key"), ["mine", "-"]);
}

#[tokio::test(start_paused = true)]
async fn a_key_is_derived_from_the_head_and_goes_into_any_header() {
    let name = HeaderName::from_static("x-request-key");
    let key = IdempotencyKey::derived(|head| head.headers.get("x-id").cloned()).header(name);
    let (keyed, seen) = stack(&RetryLayer::http().idempotency_key(key), |_| status(500));
    let mut named = post();
    named
        .headers_mut()
        .insert("x-id", HeaderValue::from_static("7"));
    call(&keyed, named).await.unwrap();
    assert_eq!(seen.headers("x-request-key"), ["7"; 4]);
    assert_eq!(seen.headers("idempotency-key"), ["-"; 4]);
    seen.take();
    call(&keyed, post()).await.unwrap();
    assert_eq!(
        seen.headers("x-request-key"),
        ["-"],
        "no key, and so not safe"
    );
}

#[tokio::test(start_paused = true)]
async fn a_layer_further_out_learns_the_key() {
    let (keyed, seen) = stack(&random(), |_| status(200));
    let recorder = Recorder::new();
    let mut request = post();
    request.extensions_mut().insert(recorder.clone());
    call(&keyed, request).await.unwrap();
    let (name, value) = recorder.key().unwrap();
    assert_eq!(name, "idempotency-key");
    assert_eq!(seen.headers("idempotency-key"), [value.to_str().unwrap()]);
}
