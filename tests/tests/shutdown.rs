//! Shutting down over real clients: nothing at the call site says a type.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use tests::{
    client::{
        Over::{Http1, Http2},
        channel, hyper,
    },
    wait::{until, within},
};
use tonic::Code;
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_weir::{
    BoxError, Weir,
    error::ShuttingDown,
    shutdown::{Drained, Shutdown},
};
use tower_weir_testkit::{
    proto::{QueryRequest, vector_index_client::VectorIndexClient},
    upstream::{ServiceTime, Upstream},
};

const GRACE: Duration = Duration::from_secs(20);

async fn upstream() -> Upstream {
    let slow = ServiceTime::constant(Duration::from_millis(200));
    let upstream = Upstream::builder().service_time(slow);
    upstream.start().await.unwrap()
}

/// Drains with one request in flight.
async fn drain(shutdown: &Shutdown) -> Drained {
    until("a request in flight", || shutdown.in_flight() == 1).await;
    let drained = within("the drain", shutdown.drain(GRACE)).await;
    assert!(drained.is_clean(), "{drained}");
    drained
}

/// A call in flight finishes, and one after it is refused and not sent.
macro_rules! finishes_and_refuses {
    ($upstream:expr, $shutdown:expr, $client:expr) => {{
        let (upstream, shutdown, client) = ($upstream, $shutdown, $client);
        let before = upstream.stats().attempts;
        let request = || {
            Request::post(upstream.url())
                .body(Full::<Bytes>::from(r#"{"id": "a"}"#))
                .unwrap()
        };
        let mut flies = client.clone();
        let call = flies.ready().await.unwrap().call(request());
        let call = tokio::spawn(async move {
            let answer = call.await?;
            let status = answer.status();
            answer.into_body().collect().await?;
            Ok::<_, BoxError>(status)
        });
        assert_eq!(drain(&shutdown).await.finished, 1);
        assert_eq!(call.await.unwrap().unwrap(), 200);
        let refused = client.oneshot(request()).await.unwrap_err();
        assert!(refused.is::<ShuttingDown>(), "{refused}");
        assert_eq!(upstream.stats().attempts, before + 1);
    }};
}

#[tokio::test]
async fn hypers_client_under_the_stack() {
    let upstream = upstream().await;
    for over in [Http1, Http2] {
        let shutdown = Shutdown::new();
        let client = ServiceBuilder::new()
            .layer(Weir::http().shutdown(&shutdown))
            .service(hyper(over));
        finishes_and_refuses!(&upstream, shutdown, client);
    }
}

#[tokio::test]
async fn hypers_client_alone() {
    let upstream = upstream().await;
    for over in [Http1, Http2] {
        let shutdown = Shutdown::new();
        let client = ServiceBuilder::new()
            .layer(shutdown.layer())
            .service(hyper(over));
        finishes_and_refuses!(&upstream, shutdown, client);
    }
}

macro_rules! tonic_finishes_and_is_refused {
    ($shutdown:expr, $client:expr) => {{
        let (shutdown, mut client) = ($shutdown, VectorIndexClient::new($client));
        let mut flies = client.clone();
        let call = tokio::spawn(async move { flies.query(QueryRequest::default()).await });
        assert_eq!(drain(&shutdown).await.finished, 1);
        call.await.unwrap().unwrap();
        let refused = client.query(QueryRequest::default()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
        assert!(refused.message().starts_with("shutting down"), "{refused}");
    }};
}

#[tokio::test]
async fn a_tonic_channel_under_the_stack_and_alone() {
    let upstream = upstream().await;
    let shutdown = Shutdown::new();
    let client = ServiceBuilder::new()
        .layer(Weir::grpc().shutdown(&shutdown))
        .service(channel(&upstream.url()));
    tonic_finishes_and_is_refused!(shutdown, client);

    let shutdown = Shutdown::new();
    let client = ServiceBuilder::new()
        .layer(shutdown.layer())
        .service(channel(&upstream.url()));
    tonic_finishes_and_is_refused!(shutdown, client);
    assert_eq!(upstream.stats().attempts, 2);
}
