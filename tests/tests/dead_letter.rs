//! Dead letters over real clients: nothing at the call site says a type.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use tests::{
    BoxError,
    client::{Over, channel, hyper},
    script::{Script, boxed, says, stream, trailers_only},
    wait::within,
};
use tokio::{sync::mpsc, task::JoinSet};
use tonic::Code;
use tower::{Layer, ServiceBuilder, ServiceExt};
use tower_weir::{
    Weir,
    dead_letter::{Absent, ChannelSink, DeadLetterLayer, Letter, LetterResult},
    failover::{Failover, Origin, Region},
    retry::RetryLayer,
};
use tower_weir_testkit::proto::{
    QueryRequest, UpsertRequest, vector_index_client::VectorIndexClient,
};

fn layer() -> (DeadLetterLayer, mpsc::Receiver<Letter>) {
    let (letters, received) = mpsc::channel(64);
    (DeadLetterLayer::new(ChannelSink::new(letters)), received)
}

async fn next(received: &mut mpsc::Receiver<Letter>) -> Letter {
    within("a letter", received.recv()).await.unwrap()
}

fn clone_and_send<T: Clone + Send + Sync + 'static>(service: T) -> T {
    service
}

#[tokio::test]
async fn alone_over_hyper_the_caller_reads_the_answer_and_the_letter_has_the_head() {
    let server = Script::start(|_, _| says(StatusCode::BAD_REQUEST, &[], "no such index")).await;
    for over in [Over::Http1, Over::Http2] {
        let (dead, mut received) = layer();
        let client = ServiceBuilder::new().layer(dead).service(hyper(over));
        let client = clone_and_send(client);
        let request = Request::post(server.url() + "/upsert")
            .body(Full::<Bytes>::from("{}"))
            .unwrap();
        let answer = client.oneshot(request).await.unwrap();
        assert_eq!(answer.status(), 400);
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "no such index");
        let letter = next(&mut received).await;
        assert_eq!(letter.uri.to_string(), server.url() + "/upsert");
        assert_eq!(letter.request().unwrap_err(), Absent::NotRecorded);
    }
}

#[tokio::test]
async fn a_streamed_request_is_whole_in_its_letter_and_can_be_sent_again() {
    let server = Script::start(|n, request| {
        let status = if n == 1 {
            StatusCode::BAD_REQUEST
        } else {
            StatusCode::OK
        };
        says(status, &[], request.into_body())
    })
    .await;
    let (dead, mut received) = layer();
    let client = ServiceBuilder::new()
        .layer(dead.clone())
        .layer(Weir::http())
        .service(hyper(Over::Http1));
    let client = clone_and_send(client);
    let frames =
        ["one, ", "two"].map(|data| http_body::Frame::data(Bytes::from_static(data.as_bytes())));
    let body = boxed(stream(frames.into()));
    let request = Request::post(server.url()).body(body).unwrap();
    let mut calls = JoinSet::new();
    calls.spawn(client.clone().oneshot(request));
    let answer = calls.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(answer.status(), 400);
    let again = next(&mut received).await.request().unwrap();
    assert_eq!(again.body(), "one, two");
    let client = ServiceBuilder::new()
        .layer(Weir::http())
        .service(hyper(Over::Http1));
    let answer = client.oneshot(again.map(Full::new)).await.unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "one, two");
}

#[tokio::test]
async fn nobody_at_the_address_leaves_a_letter_with_the_fault() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    let (dead, mut received) = layer();
    let client = ServiceBuilder::new()
        .layer(dead)
        .layer(RetryLayer::http().max_retries(0))
        .service(hyper(Over::Http1));
    let request = Request::post(url)
        .body(Full::<Bytes>::from("kept"))
        .unwrap();
    let error: BoxError = client.oneshot(request).await.unwrap_err();
    let letter = next(&mut received).await;
    assert_eq!(letter.request().unwrap().body(), "kept");
    let LetterResult::Error { fault, text } = letter.result else {
        panic!("{:?}", letter.result)
    };
    assert_eq!(fault, "connect");
    assert!(
        text.starts_with(&error.to_string()) && text.contains("refused"),
        "{text}"
    );
}

#[tokio::test]
async fn over_tonic_a_status_is_a_letter_alone_and_over_the_stack() {
    let server = Script::start(|_, _| trailers_only(3, &[("grpc-message", "bad%20id")])).await;
    let query = QueryRequest::default();

    let (dead, mut received) = layer();
    let service = ServiceBuilder::new()
        .layer(dead)
        .service(channel(&server.url()));
    let mut client = VectorIndexClient::new(clone_and_send(service));
    let status = client.query(query.clone()).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::InvalidArgument, "bad id")
    );
    let letter = next(&mut received).await;
    assert_eq!(
        letter.uri.path(),
        "/tower_weir.testkit.v1.VectorIndex/Query"
    );
    assert_eq!(letter.request().unwrap_err(), Absent::NotRecorded);

    let (dead, mut received) = layer();
    let service = ServiceBuilder::new()
        .layer(dead)
        .layer(Weir::grpc())
        .service(channel(&server.url()));
    let mut client = VectorIndexClient::new(clone_and_send(service));
    client.upsert(UpsertRequest::default()).await.unwrap_err();
    let letter = next(&mut received).await;
    let LetterResult::Response {
        status,
        grpc: Some(grpc),
    } = &letter.result
    else {
        panic!("{:?}", letter.result)
    };
    assert_eq!((*status, &*grpc.code), (StatusCode::OK, "INVALID_ARGUMENT"));
    // An empty message is five bytes: no compression, no length.
    assert_eq!(letter.request().unwrap().body(), &[0; 5][..]);
    assert_eq!(letter.headers["content-type"], "application/grpc");
}

#[tokio::test]
async fn over_a_failover_a_letter_tells_the_attempts_in_every_region() {
    let server = Script::start(|_, _| says(StatusCode::SERVICE_UNAVAILABLE, &[], "")).await;
    let other = Script::start(|_, _| says(StatusCode::SERVICE_UNAVAILABLE, &[], "")).await;
    let region = |name, server: &Script| {
        let stack = Weir::http().max_retries(0).layer(hyper(Over::Http1));
        Region::new(name, stack).at(Origin::new(&server.url()).unwrap())
    };
    let failover = Failover::http([region("a", &server), region("b", &other)]).unwrap();
    let (dead, mut received) = layer();
    let client = ServiceBuilder::new().layer(dead).service(failover);
    let request = Request::put("http://index.internal/1")
        .body(Full::<Bytes>::from("kept"))
        .unwrap();
    let answer = clone_and_send(client).oneshot(request).await.unwrap();
    assert_eq!(answer.status(), 503);
    let letter = next(&mut received).await;
    let hosts: Vec<_> = letter
        .attempts
        .iter()
        .map(|one| format!("http://{}", one.host))
        .collect();
    assert_eq!(hosts, [server.url(), other.url()]);
    assert!(
        letter
            .attempts
            .iter()
            .all(|one| one.cause.as_deref() == Some("503"))
    );
    assert_eq!(letter.uri, "http://index.internal/1");
    assert_eq!(letter.request().unwrap().body(), "kept");
}
