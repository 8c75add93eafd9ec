use std::convert::Infallible;

use axum::{Router, body::Body, routing::post};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tests::{
    client::{Over, hyper},
    wait::within,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tower::{Layer, ServiceBuilder, service_fn};
use tower_weir::server::{AdmissionLayer, Class, ClassTable};

use crate::house::{House, Served, pending, until_pending};

type Http = Client<HttpConnector, Body>;

async fn send(client: &Http, method: Method, url: String) -> Response<hyper::body::Incoming> {
    let request = Request::builder().method(method).uri(url);
    let request = request.body(Body::empty()).unwrap();
    within("an answer", client.request(request)).await.unwrap()
}

async fn text(answer: Response<hyper::body::Incoming>) -> String {
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.into()).unwrap()
}

/// Twelve operations over ten connections and two routes: three run, six are
/// delayed, three are rejected, wherever the layer is put.
async fn one_state(mount: impl FnOnce(&House, AdmissionLayer) -> Router) {
    one_state_of(async |house, layer| Served::new(mount(house, layer)).await).await;
}

async fn one_state_of(serve: impl AsyncFnOnce(&House, AdmissionLayer) -> Served) {
    let layer = AdmissionLayer::new().throttle_at(3).reject_at(9);
    let house = House::new();
    let served = serve(&house, layer.clone()).await;
    let mut answers = JoinSet::new();
    let clients: Vec<Http> = (0..10).map(|_| hyper(Over::Http1)).collect();
    for guest in 0..9 {
        let url = served.url(["/a", "/b"][guest % 2]);
        let client = clients[guest % 10].clone();
        answers.spawn(async move { text(send(&client, Method::POST, url).await).await });
        until_pending(&layer, (guest + 1, guest.saturating_sub(2))).await;
    }
    for path in ["/a", "/b", "/a"] {
        let refused = send(&clients[9], Method::POST, served.url(path)).await;
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    }
    house.let_out(9);
    while let Some(answer) = within("the answers", answers.join_next()).await {
        assert_eq!(answer.unwrap(), "stored");
    }
    until_pending(&layer, (0, 0)).await;
    let rejected = layer.snapshot()[0].class("record").unwrap().rejected;
    assert_eq!((rejected.too_many_jobs, rejected.total()), (3, 3));
}

#[tokio::test]
async fn routes_and_connections_share_one_state() {
    one_state(|house, layer| house.routes().layer(layer)).await;
}

#[tokio::test]
async fn around_the_router_too() {
    one_state_of(async |house, layer| Served::around(house.routes(), layer).await).await;
}

#[tokio::test]
async fn under_route_layer_too() {
    one_state(|house, layer| house.routes().route_layer(layer)).await;
}

#[tokio::test]
async fn in_a_stack_too() {
    let timeout = tower_http::timeout::TimeoutLayer::with_status_code(
        StatusCode::REQUEST_TIMEOUT,
        std::time::Duration::from_secs(60),
    );
    one_state(|house, layer| {
        let stack = ServiceBuilder::new()
            .layer(tower_http::trace::TraceLayer::new_for_http())
            .layer(layer)
            .layer(timeout)
            .layer(tower_http::limit::RequestBodyLimitLayer::new(1 << 20));
        house.routes().layer(stack)
    })
    .await;
}

#[tokio::test]
async fn on_a_single_method_too() {
    one_state(|house, layer| {
        Router::new()
            .route("/a", post(House::write).layer(layer.clone()))
            .route("/b", post(House::write).layer(layer))
            .with_state(house.clone())
    })
    .await;
}

#[tokio::test]
async fn servers_of_hyper_alone_have_it_too() {
    let layer = AdmissionLayer::new().throttle_at(1).reject_at(2);
    let house = House::new();
    let guests = house.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let house = guests.clone();
        async move {
            let body = request.into_body().collect().await?;
            house.stay().await;
            Ok::<_, hyper::Error>(Response::new(Full::new(body.to_bytes())))
        }
    });
    // Every connection has a service of its own.
    let (shared, listener) = (
        layer.clone(),
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
    );
    let addr = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(shared.layer(service.clone()));
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    let mut answers = JoinSet::new();
    for guest in 0..2 {
        let client: Http = hyper(Over::Http1);
        let request = Request::post(format!("http://{addr}/")).body(Body::from("hello"));
        answers.spawn(async move { client.request(request.unwrap()).await.unwrap() });
        until_pending(&layer, (guest + 1, guest)).await;
    }
    let refused = send(&hyper(Over::Http2), Method::POST, format!("http://{addr}/")).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    house.let_out(2);
    while let Some(answer) = within("the answers", answers.join_next()).await {
        assert_eq!(text(answer.unwrap()).await, "hello");
    }
    until_pending(&layer, (0, 0)).await;
}

#[tokio::test]
async fn queries_are_not_touched_and_deletes_pass_a_full_storage() {
    let layer = AdmissionLayer::new().throttle_at(1).reject_at(1);
    let house = House::new();
    let served = Served::new(house.routes().layer(layer.clone())).await;
    let client: Http = hyper(Over::Http2);
    let url = || served.url("/a");
    let mut answers = JoinSet::new();
    let (busy, a) = (client.clone(), url());
    answers.spawn(async move { send(&busy, Method::POST, a).await.status() });
    until_pending(&layer, (1, 0)).await;
    assert_eq!(send(&client, Method::POST, url()).await.status(), 429);
    assert_eq!(text(send(&client, Method::GET, url()).await).await, "found");
    house.let_out(1);
    assert_eq!(answers.join_next().await.unwrap().unwrap(), 200);
    until_pending(&layer, (0, 0)).await;

    layer.handle().report_storage(1.0);
    let refused = send(&client, Method::POST, url()).await;
    assert_eq!(refused.headers()["x-should-retry"], "false");
    assert_eq!(send(&client, Method::DELETE, url()).await.status(), 200);
    assert_eq!(send(&client, Method::GET, url()).await.status(), 200);
}

#[tokio::test]
async fn structural_operations_are_throttled_earlier() {
    let table = ClassTable::new().on(None, "/b", Class::STRUCTURAL).unwrap();
    let layer = AdmissionLayer::new().table(table);
    let house = House::new();
    let served = Served::new(house.routes().layer(layer.clone())).await;
    let client: Http = hyper(Over::Http2);
    let mut answers = JoinSet::new();
    let mut come = |path: &str| {
        let (client, url) = (client.clone(), served.url(path));
        answers.spawn(async move { send(&client, Method::POST, url).await });
    };
    (0..12).for_each(|_| come("/b"));
    until_pending(&layer, (12, 2)).await;
    (0..50).for_each(|_| come("/a"));
    until_pending(&layer, (62, 2)).await;
    come("/a");
    until_pending(&layer, (63, 3)).await;
    house.let_out(63);
}

#[tokio::test]
async fn bodies_count_by_what_they_say_or_as_what_is_assumed() {
    let layer = AdmissionLayer::new()
        .limits(|limits| limits.max_bytes = Some(2500))
        .unsized_body(1000);
    let house = House::new();
    let served = Served::new(house.routes().layer(layer.clone())).await;
    let client: Http = hyper(Over::Http1);
    let chunked = || Body::from_stream(tokio_stream::once(Ok::<_, Infallible>("hello")));
    let post = |body: Body| client.request(Request::post(served.url("/a")).body(body).unwrap());
    let mut answers = JoinSet::new();
    let bodies = [
        (Body::from("hello"), 5),
        (Body::empty(), 5),
        (chunked(), 1005),
    ];
    for (guests, (body, bytes)) in bodies.into_iter().enumerate() {
        answers.spawn(post(body));
        until_pending(&layer, (guests + 1, 0)).await;
        assert_eq!(layer.snapshot()[0].classes[0].bytes, bytes);
    }
    answers.spawn(post(chunked()));
    until_pending(&layer, (4, 0)).await;
    let refused = within("a rejection", post(chunked())).await.unwrap();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(text(refused).await.contains(r#""code":"queue-too-large""#));
    house.let_out(4);
    for answer in within("the answers", answers.join_all()).await {
        assert_eq!(answer.unwrap().status(), StatusCode::OK);
    }
}

/// The answer to a request, as the bytes on the wire.
#[tokio::test]
async fn a_rejection_is_well_formed_on_the_wire() {
    let layer = AdmissionLayer::new();
    layer.handle().report_storage(1.0);
    let served = Served::new(House::new().routes().layer(layer)).await;
    let mut stream = TcpStream::connect(served.addr).await.unwrap();
    let request = "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within("the answer", stream.read_to_string(&mut answer))
        .await
        .unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 429 Too Many Requests\r\n"));
    for line in [
        "content-type: application/problem+json".to_owned(),
        format!("content-length: {}", body.len()),
        "x-should-retry: false".to_owned(),
    ] {
        assert!(head.lines().any(|other| other == line), "{line} in {head}");
    }
    let problem: serde_json::Value = serde_json::from_str(body).unwrap();
    let expected = serde_json::json!({
        "type": "about:blank",
        "title": "Too Many Requests",
        "status": 429,
        "detail": "the storage is filled to 100.0%: delete something first",
        "code": "storage-full",
        "class": "record",
    });
    assert_eq!(problem, expected);
}

#[tokio::test]
async fn a_drain_lets_the_last_finish() {
    let layer = AdmissionLayer::new().throttle_at(1);
    let house = House::new();
    let served = Served::new(house.routes().layer(layer.clone())).await;
    let client: Http = hyper(Over::Http1);
    let mut answers = JoinSet::new();
    for _ in 0..2 {
        let (client, url) = (client.clone(), served.url("/a"));
        answers.spawn(async move { send(&client, Method::POST, url).await });
    }
    until_pending(&layer, (2, 1)).await;
    let handle = layer.handle();
    let drain = tokio::spawn(async move { handle.drain().await });
    let refused = answers.join_next().await.unwrap().unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["retry-after"], "5");
    assert_eq!(pending(&layer), (1, 0));
    assert!(!drain.is_finished());
    house.let_out(1);
    let last = answers.join_next().await.unwrap().unwrap();
    assert_eq!(text(last).await, "stored");
    within("the drain", drain).await.unwrap();
}
