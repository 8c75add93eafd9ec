//! gRPC's streams, and bodies that drip: what is pending meanwhile.

use std::time::Duration;

use axum::{Router, body::Bytes, extract::State, routing::post};
use http::StatusCode;
use tests::wait::within;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, transport::Channel};
use tower_http::timeout::TimeoutLayer;
use tower_weir::server::AdmissionLayer;
use tower_weir_testkit::proto::{
    FetchRequest, UpsertRequest, UpsertResponse, vector_index_client::VectorIndexClient,
};

use crate::{
    grpc,
    house::{House, Served, until_pending},
};

type Client = VectorIndexClient<Channel>;
type Answer = Result<Response<UpsertResponse>, Status>;

async fn one_at_a_time() -> (AdmissionLayer, House, grpc::Served, Client) {
    let (layer, house) = (grpc::layer().throttle_at(1), House::new());
    let served = grpc::serve(layer.clone(), &house).await;
    let client = VectorIndexClient::new(served.channel());
    (layer, house, served, client)
}

fn upsert(client: &Client) -> tokio::task::JoinHandle<Answer> {
    let mut client = client.clone();
    tokio::spawn(async move { client.upsert(UpsertRequest::default()).await })
}

#[tokio::test]
async fn a_servers_stream_is_pending_to_its_end() {
    let (layer, house, _served, mut client) = one_at_a_time().await;
    let mut records = client.fetch(FetchRequest::default()).await.unwrap();
    let records = records.get_mut();
    within("a record", records.message())
        .await
        .unwrap()
        .unwrap();
    let behind = upsert(&client);
    until_pending(&layer, (2, 1)).await;
    house.let_out(1);
    within("a record", records.message())
        .await
        .unwrap()
        .unwrap();
    let end = within("the end", records.message()).await.unwrap();
    assert_eq!(end, None);
    until_pending(&layer, (1, 0)).await;
    house.let_out(1);
    within("its turn", behind).await.unwrap().unwrap();
    until_pending(&layer, (0, 0)).await;
}

#[tokio::test]
async fn a_servers_stream_that_is_dropped_is_pending_no_more() {
    let (layer, house, _served, mut client) = one_at_a_time().await;
    let mut records = client.fetch(FetchRequest::default()).await.unwrap();
    let message = records.get_mut().message();
    within("a record", message).await.unwrap().unwrap();
    let behind = upsert(&client);
    until_pending(&layer, (2, 1)).await;
    drop(records);
    until_pending(&layer, (1, 0)).await;
    house.let_out(1);
    within("its turn", behind).await.unwrap().unwrap();
    until_pending(&layer, (0, 0)).await;
}

#[tokio::test]
async fn a_clients_stream_is_pending_until_it_has_been_answered() {
    let (layer, _house, _served, client) = one_at_a_time().await;
    let stream = || {
        let (batches, sent) = mpsc::channel(4);
        let mut client = client.clone();
        let answer = async move { client.upsert_stream(ReceiverStream::new(sent)).await };
        (batches, tokio::spawn(answer))
    };
    let (first, answered) = stream();
    first.send(UpsertRequest::default()).await.unwrap();
    until_pending(&layer, (1, 0)).await;
    let (second, late) = stream();
    second.send(UpsertRequest::default()).await.unwrap();
    until_pending(&layer, (2, 1)).await;
    // It goes on, and holds its place, for as long as its caller likes.
    first.send(UpsertRequest::default()).await.unwrap();
    drop(first);
    let answer = within("the answer", answered).await.unwrap().unwrap();
    assert_eq!(answer.into_inner().accepted, 2);
    // What was sent while it waited has not been lost.
    until_pending(&layer, (1, 0)).await;
    second.send(UpsertRequest::default()).await.unwrap();
    drop(second);
    let answer = within("the answer", late).await.unwrap().unwrap();
    assert_eq!(answer.into_inner().accepted, 2);
    until_pending(&layer, (0, 0)).await;

    // Whoever drops one, running or delayed, leaves at once.
    let (_running, running) = stream();
    until_pending(&layer, (1, 0)).await;
    let (_delayed, delayed) = stream();
    until_pending(&layer, (2, 1)).await;
    delayed.abort();
    until_pending(&layer, (1, 0)).await;
    running.abort();
    until_pending(&layer, (0, 0)).await;
}

#[tokio::test]
async fn a_stream_both_ways_is_pending_until_its_hold_is_over_and_goes_on() {
    let layer = grpc::layer()
        .throttle_at(1)
        .max_hold(Duration::from_millis(50));
    let house = House::new();
    let served = grpc::serve(layer.clone(), &house).await;
    let mut client = VectorIndexClient::new(served.channel());
    let (batches, sent) = mpsc::channel(4);
    let mut answers = client.sync(ReceiverStream::new(sent)).await.unwrap();
    let answers = answers.get_mut();
    // One that waits for it gets its turn, though the stream is read all the while.
    house.let_out(1);
    let behind = upsert(&client);
    for _ in 0..3 {
        batches.send(UpsertRequest::default()).await.unwrap();
        let answer = within("an answer", answers.message()).await.unwrap();
        assert_eq!(answer.unwrap().accepted, 1);
    }
    within("its turn", behind).await.unwrap().unwrap();
    until_pending(&layer, (0, 0)).await;
    batches.send(UpsertRequest::default()).await.unwrap();
    within("an answer", answers.message())
        .await
        .unwrap()
        .unwrap();
    drop(batches);
    assert_eq!(within("the end", answers.message()).await.unwrap(), None);
}

/// Answers once it has read its body and is let out.
async fn store(State(house): State<House>, body: Bytes) -> String {
    house.stay().await;
    format!("stored {}", body.len())
}

/// Sends the head of a body of ten bytes, and half of that.
async fn drip(served: &Served) -> TcpStream {
    let mut stream = TcpStream::connect(served.addr).await.unwrap();
    let half = "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 10\r\n\r\nhello";
    stream.write_all(half.as_bytes()).await.unwrap();
    stream
}

async fn rest(stream: &mut TcpStream) {
    stream.write_all(b"hello").await.unwrap();
}

async fn answer(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    within("an answer", read).await.unwrap();
    answer
}

async fn dripping(layer: &AdmissionLayer, timeout: Duration) -> (House, Served) {
    let house = House::new();
    let status = StatusCode::REQUEST_TIMEOUT;
    let router = Router::new()
        .route("/", post(store))
        .layer(TimeoutLayer::with_status_code(status, timeout))
        .layer(layer.clone())
        .with_state(house.clone());
    let served = Served::new(router).await;
    (house, served)
}

#[tokio::test]
async fn a_body_that_drips_holds_nothing_before_its_turn() {
    let layer = AdmissionLayer::new().throttle_at(1);
    let (house, served) = dripping(&layer, Duration::from_secs(60)).await;
    let mut running = drip(&served).await;
    rest(&mut running).await;
    until_pending(&layer, (1, 0)).await;
    let mut dripping = drip(&served).await;
    until_pending(&layer, (2, 1)).await;
    let mut whole = drip(&served).await;
    rest(&mut whole).await;
    until_pending(&layer, (3, 2)).await;
    assert_eq!(layer.snapshot()[0].classes[0].bytes, 30);
    // The one place was not the dripping one's: it is given on, and given up.
    house.let_out(1);
    assert!(answer(running).await.ends_with("stored 10"));
    until_pending(&layer, (2, 1)).await;
    rest(&mut dripping).await;
    house.let_out(2);
    for stream in [dripping, whole] {
        assert!(answer(stream).await.ends_with("stored 10"));
    }
    until_pending(&layer, (0, 0)).await;
}

#[tokio::test]
async fn a_body_that_drips_on_holds_its_place_until_the_timeout_inside() {
    let layer = AdmissionLayer::new().throttle_at(1);
    let (house, served) = dripping(&layer, Duration::from_millis(500)).await;
    house.let_out(1);
    let dripping = drip(&served).await;
    until_pending(&layer, (1, 0)).await;
    let mut whole = drip(&served).await;
    rest(&mut whole).await;
    assert!(answer(dripping).await.starts_with("HTTP/1.1 408 "));
    assert!(answer(whole).await.ends_with("stored 10"));
    until_pending(&layer, (0, 0)).await;
}

#[tokio::test]
async fn who_vanishes_with_half_a_body_takes_nobodys_turn() {
    let layer = AdmissionLayer::new().throttle_at(1);
    let (house, served) = dripping(&layer, Duration::from_secs(60)).await;
    let mut running = drip(&served).await;
    rest(&mut running).await;
    until_pending(&layer, (1, 0)).await;
    for guests in 2..10 {
        drop(drip(&served).await);
        until_pending(&layer, (guests, guests - 1)).await;
    }
    let mut last = drip(&served).await;
    rest(&mut last).await;
    until_pending(&layer, (10, 9)).await;
    house.let_out(2);
    assert!(answer(running).await.ends_with("stored 10"));
    assert!(answer(last).await.ends_with("stored 10"));
    until_pending(&layer, (0, 0)).await;
}
