use std::{convert::Infallible, time::Duration};

use http::{Request, Response};
use http_body_util::Empty;
use tokio::time::Instant;
use tower::{ServiceExt, service_fn};
use tower_layer::Layer;

use super::{AimdConcurrencyLayer, LimiterSnapshot, law::ChangeCause};
use crate::outcome::HttpClassifier;

type Body = Empty<&'static [u8]>;

/// An upstream that answers RESOURCE_EXHAUSTED, to requests that do not say that
/// they are gRPC.
async fn exhausted(_: Request<Body>) -> Result<Response<Body>, Infallible> {
    let response = Response::builder().header("grpc-status", 8);
    Ok(response.body(Body::new()).unwrap())
}

async fn after_a_call(layer: &AimdConcurrencyLayer) -> LimiterSnapshot {
    let service = layer.layer(service_fn(exhausted));
    let answer = service.oneshot(Request::new(Body::new())).await;
    assert!(answer.is_ok());
    layer.snapshot()[0].1.clone()
}

#[tokio::test(start_paused = true)]
async fn a_layer_for_grpc_stays_one_with_another_classifier() {
    let http = AimdConcurrencyLayer::http().classify(HttpClassifier::new());
    assert_eq!(after_a_call(&http).await.limit, 10);
    let grpc = AimdConcurrencyLayer::grpc().classify(HttpClassifier::new());
    assert_eq!(after_a_call(&grpc).await.limit, 1);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_tells_when_and_why_the_limit_last_went_down() {
    let layer = AimdConcurrencyLayer::grpc();
    let refused_at = Instant::now();
    let decrease = after_a_call(&layer).await.last_decrease.unwrap();
    assert_eq!(decrease.at, refused_at);
    let change = decrease.change;
    assert_eq!((change.before, change.after), (10, 1));
    assert_eq!(change.cause, ChangeCause::Refused);

    tokio::time::advance(Duration::from_secs(1)).await;
    layer.handle().update(|law| law.min = 5);
    let host = layer.snapshot()[0].1.clone();
    assert_eq!(host.limit, 5);
    assert_eq!(host.last_decrease, Some(decrease), "that was up");
    layer.handle().update(|law| (law.min, law.max) = (1, 2));
    let decrease = layer.snapshot()[0].1.last_decrease.unwrap();
    assert_eq!(decrease.at, refused_at + Duration::from_secs(1));
    assert_eq!(decrease.change.cause, ChangeCause::Settings);
}
