//! The client layers in an axum `Router`, which calls `layer()` for every route
//! and clones what comes of it for every connection.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    BoxError, Router,
    error_handling::HandleErrorLayer,
    extract::State,
    http::{Request, StatusCode},
    routing::{get, post},
};
use bytes::Bytes;
use http_body_util::Full;
use tests::{
    circuit::opens_after,
    client::{Over::Http1, hyper},
    wait::{until, within},
};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};
use tower::{ServiceBuilder, ServiceExt};
use tower_weir::{
    Weir,
    aimd::AimdConcurrencyLayer,
    circuit_breaker::{self, CircuitBreakerLayer},
    error::CircuitOpen,
};

const CONNECTIONS: usize = 10;

/// What the handlers share: a door that the test opens, and who went through.
#[derive(Clone)]
struct House {
    door: Arc<Semaphore>,
    inside: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    served: Arc<AtomicUsize>,
}

impl House {
    fn new() -> Self {
        Self {
            door: Arc::new(Semaphore::new(0)),
            inside: Arc::default(),
            most: Arc::default(),
            served: Arc::default(),
        }
    }

    fn routes(&self) -> Router {
        Router::new()
            .route("/a", get(Self::wait))
            .route("/b", get(Self::wait))
            .route("/broken", post(Self::fail))
            .route("/broken/too", post(Self::fail))
            .with_state(self.clone())
    }

    async fn wait(State(house): State<Self>) -> &'static str {
        let inside = house.inside.fetch_add(1, Ordering::Relaxed) + 1;
        house.most.fetch_max(inside, Ordering::Relaxed);
        house.door.acquire().await.unwrap().forget();
        house.inside.fetch_sub(1, Ordering::Relaxed);
        house.served.fetch_add(1, Ordering::Relaxed);
        "done"
    }

    async fn fail(State(house): State<Self>) -> StatusCode {
        house.served.fetch_add(1, Ordering::Relaxed);
        StatusCode::INTERNAL_SERVER_ERROR
    }

    fn served(&self) -> usize {
        self.served.load(Ordering::Relaxed)
    }
}

/// The layers' error is a `BoxError`, and axum wants every error answered.
async fn refused(error: BoxError) -> (StatusCode, String) {
    let status = if error.is::<CircuitOpen>() {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::INTERNAL_SERVER_ERROR
    };
    (status, error.to_string())
}

async fn serve(app: Router) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut server = JoinSet::new();
    server.spawn(async move { axum::serve(listener, app).await.unwrap() });
    (url, server)
}

/// Sends a request over a connection of its own.
async fn send(method: &str, url: String) -> StatusCode {
    let request = Request::builder().method(method).uri(url);
    let request = request.body(Full::<Bytes>::default()).unwrap();
    hyper(Http1).oneshot(request).await.unwrap().status()
}

async fn there_is_one_slot(house: House, app: Router, waiting: impl Fn() -> usize) {
    let (url, _server) = serve(app).await;
    let mut calls = JoinSet::new();
    for number in 0..CONNECTIONS {
        let path = ["/a", "/b"][number % 2];
        calls.spawn(send("GET", format!("{url}{path}")));
    }
    for served in 0..CONNECTIONS {
        until("all but one wait, and one is inside", || {
            let inside = house.inside.load(Ordering::Relaxed);
            let others = CONNECTIONS - 1 - served;
            (house.served(), inside, waiting()) == (served, 1, others)
        })
        .await;
        house.door.add_permits(1);
    }
    for status in within("all calls", calls.join_all()).await {
        assert_eq!(status, StatusCode::OK);
    }
    assert_eq!(house.most.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn ten_connections_and_two_routes_share_one_limiter() {
    let house = House::new();
    let limiter = AimdConcurrencyLayer::http().fixed(1);
    let layers = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(refused))
        .layer(limiter.clone());
    let app = house.routes().layer(layers);
    let waiting = || limiter.snapshot().first().map_or(0, |host| host.1.waiting);
    there_is_one_slot(house, app, waiting).await;
}

#[tokio::test]
async fn ten_connections_and_two_routes_share_one_limiter_of_weir() {
    let house = House::new();
    let weir = Weir::http().ceiling(1);
    let layers = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(refused))
        .layer(weir.clone());
    let app = house.routes().layer(layers);
    let waiting = || weir.snapshot().first().map_or(0, |host| host.waiting);
    there_is_one_slot(house, app, waiting).await;
}

async fn there_is_one_circuit(
    house: House,
    app: Router,
    circuit: impl Fn() -> circuit_breaker::Snapshot,
) {
    let (url, _server) = serve(app).await;
    for number in 0..CONNECTIONS {
        let path = ["/broken", "/broken/too"][number % 2];
        let status = send("POST", format!("{url}{path}")).await;
        let expected = match number {
            0..3 => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        assert_eq!(status, expected, "{number}");
    }
    assert_eq!(house.served(), 3);
    assert_eq!(circuit().state, circuit_breaker::State::Open);
}

#[tokio::test]
async fn ten_connections_and_two_routes_share_one_breaker() {
    let house = House::new();
    let breaker = CircuitBreakerLayer::http().config(opens_after(3));
    let layers = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(refused))
        .layer(breaker.clone());
    let app = house.routes().layer(layers);
    there_is_one_circuit(house, app, || breaker.snapshot()[0].1).await;
}

#[tokio::test]
async fn ten_connections_and_two_routes_share_one_breaker_of_weir() {
    let house = House::new();
    let weir = Weir::http().breaker(|_| opens_after(3));
    let layers = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(refused))
        .layer(weir.clone());
    let app = house.routes().layer(layers);
    there_is_one_circuit(house, app, || weir.snapshot()[0].circuit.unwrap()).await;
}
