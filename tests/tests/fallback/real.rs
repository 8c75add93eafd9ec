//! Over real HTTP and gRPC.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Channel, Empty, Full};
use tests::{
    BoxError,
    client::{Over, channel, hyper},
    early::{ANSWER, Answers, Early},
    script::{Script, boxed, says, trailers_only},
    wait::within,
};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_weir::{
    Weir,
    fallback::{FallbackLayer, FellBack},
};
use tower_weir_testkit::{
    proto::{QueryRequest, vector_index_client::VectorIndexClient},
    upstream::Upstream,
};

use crate::support::*;

#[tokio::test]
async fn over_hyper_the_answer_comes_from_wherever_it_can() {
    fn is_clone_and_send<S: Clone + Send + 'static>(service: S) -> S {
        service
    }
    let large = Script::start(|_, _| says(StatusCode::SERVICE_UNAVAILABLE, &[], "")).await;
    let small =
        Script::start(|_, request| Response::new(boxed(Full::new(request.into_body())))).await;
    // Each alone over hyper's client.
    let says = FallbackLayer::http().answer(|_| Response::new(Full::<Bytes>::from("none")));
    let alone = is_clone_and_send(says.layer(hyper(Over::Http1)));
    let ask = || {
        Request::post(large.url())
            .body(Full::<Bytes>::from("a prompt"))
            .unwrap()
    };
    let answer = within("an answer", alone.oneshot(ask())).await.unwrap();
    assert_eq!(cause(&answer), Some(Why::Refused));
    assert_eq!(
        answer.into_body().collect().await.unwrap().to_bytes(),
        "none"
    );

    // In a stack, with a stack of its own to fall back on.
    let url: http::Uri = small.url().parse().unwrap();
    let cheaper = ServiceBuilder::new()
        .map_request(move |mut request: Request<_>| {
            *request.uri_mut() = url.clone();
            request
        })
        .layer(Weir::http())
        .service(hyper(Over::Http1));
    let stack = ServiceBuilder::new()
        .layer(FallbackLayer::http().service(cheaper))
        .layer(Weir::http().max_retries(1).backoff(AT_ONCE))
        .service(hyper(Over::Http2));
    let mut stack = is_clone_and_send(stack);
    let call = stack.ready().await.unwrap().call(ask());
    let answer = within("an answer", tokio::spawn(call))
        .await
        .unwrap()
        .unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "a prompt");
}

#[tokio::test]
async fn over_tonic_a_call_gets_another_channels_answer() {
    let broken = Script::start(|_, _| trailers_only(14, &[])).await;
    let well = Upstream::builder().start().await.unwrap();
    // Alone over channels, and over stacks.
    let layer = FallbackLayer::grpc().service(channel(&well.url()));
    let mut client = VectorIndexClient::new(layer.layer(channel(&broken.url())));
    let call = client.query(QueryRequest::default());
    let answer = within("an answer", call).await.unwrap();
    assert_eq!(
        answer.extensions().get::<FellBack>().unwrap().cause,
        Why::Refused
    );

    let cheaper = Weir::grpc().layer(channel(&well.url()));
    let stack = ServiceBuilder::new()
        .layer(FallbackLayer::grpc().service(cheaper))
        .layer(Weir::grpc().max_retries(1).backoff(AT_ONCE))
        .service(channel(&broken.url()));
    let mut client = VectorIndexClient::new(stack);
    let call = client.query(QueryRequest::default());
    let answer = within("an answer", call).await.unwrap();
    assert_eq!(
        answer.extensions().get::<FellBack>().unwrap().cause,
        Why::RetriesExhausted
    );

    // A status from a closure.
    let unavailable = || {
        Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", "5")
            .body(Empty::<Bytes>::new())
            .unwrap()
    };
    let layer = FallbackLayer::grpc().answer(move |_| unavailable());
    let stack = layer.layer(Weir::grpc().max_retries(0).layer(channel(&broken.url())));
    let mut client = VectorIndexClient::new(stack);
    let call = client.query(QueryRequest::default());
    let status = within("an answer", call).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::NotFound);
}

/// Of an early answer the rest does not come once another service has the body of
/// the request; the caller then gets the other service's error.
#[tokio::test]
async fn an_answer_that_is_not_whole_is_not_the_callers() {
    let answer = async |over: Over, answers: Answers| {
        let server = Early::start(answers).await;
        let cheaper = upstream(|_| refused());
        let layer = FallbackLayer::http().service(cheaper);
        let stack = layer.layer(hyper(over));
        let (mut sender, body) = Channel::<Bytes>::new(1);
        sender.send_data(Bytes::from("a beginning")).await.unwrap();
        // Without an end, unless the server waits for it.
        let rest = (answers != Answers::Late).then_some(sender);
        let request = Request::post(&server.url).body(body).unwrap();
        let response = within("an answer", stack.oneshot(request)).await?;
        assert_eq!((response.status().as_u16(), cause(&response)), (503, None));
        server.finish();
        let body = within("its body", response.into_body().collect()).await?;
        drop(rest);
        Ok::<_, BoxError>(body.to_bytes())
    };
    for over in [Over::Http1, Over::Http2] {
        let error = answer(over, Answers::Early).await.unwrap_err();
        assert_eq!(error.to_string(), "connection refused", "{over:?}");
        assert_eq!(answer(over, Answers::Late).await.unwrap(), ANSWER);
        assert_eq!(answer(over, Answers::EarlyHead).await.unwrap(), "");
    }
}
