//! tonic's own client over a stack, on paused time.

use bytes::{Buf, BufMut, Bytes};
use http::{Request, Response, uri::PathAndQuery};
use http_body_util::BodyExt;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::{sync::Barrier, task::JoinSet};
use tonic::{
    Status,
    body::Body,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};
use tower::{Layer, service_fn};
use tower_weir::{
    BoxError,
    retry::{Retried, RetryLayer},
};

/// Messages as they are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// Takes the whole message in, refuses its first attempt when all `calls` have
/// been taken in, and answers others with an empty message.
async fn serve(request: Request<Body>, calls: Arc<Barrier>) -> Result<Response<Body>, BoxError> {
    let first = !request.headers().contains_key("grpc-previous-rpc-attempts");
    let sent = request.into_body().collect().await?.to_bytes();
    assert_eq!(sent.len(), 5 + (1 << 20));
    let answer = Response::builder().header("content-type", "application/grpc");
    if first {
        calls.wait().await;
        return Ok(answer.header("grpc-status", 14_u16).body(Body::empty())?);
    }
    let trailers = http::HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        http::HeaderValue::from_static("0"),
    )]);
    let message = http_body_util::Full::new(Bytes::from_static(&[0; 5]))
        .with_trailers(std::future::ready(Some(Ok(trailers))));
    Ok(answer.body(Body::new(message))?)
}

#[tokio::test(start_paused = true)]
async fn unary_calls_of_a_mebibyte_are_all_repeated() {
    const CALLS: usize = 64;
    let layer = RetryLayer::grpc();
    let all_in = Arc::new(Barrier::new(CALLS));
    let retried = Arc::new(AtomicUsize::new(0));
    let mut calls = JoinSet::new();
    for _ in 0..CALLS {
        let all_in = all_in.clone();
        let stack = layer.layer(service_fn(move |request| serve(request, all_in.clone())));
        let retried = retried.clone();
        calls.spawn(async move {
            let mut client = Grpc::new(stack);
            client.ready().await.unwrap();
            let message = tonic::Request::new(Bytes::from(vec![1; 1 << 20]));
            let path = PathAndQuery::from_static("/a.B/C");
            let answer = client.unary(message, path, Raw).await.unwrap();
            let attempts = answer.extensions().get::<Retried>().map(|r| r.attempts);
            retried.fetch_add(usize::from(attempts == Some(2)), Ordering::Relaxed);
        });
    }
    calls.join_all().await;
    assert_eq!(retried.load(Ordering::Relaxed), CALLS);
}
